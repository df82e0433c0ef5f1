"""Dictionary by the symbol of a metric, in capital or small letters, with a sentence for an unknown one."""

from typing import Any, TypeVar

from tectum.errors import UserError, unknown

T = TypeVar("T")


class UnknownMetricError(UserError, KeyError):
    """A name that is no metric: both a `ValueError` and a `KeyError`, with a sentence that says the closest name."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError's own puts it in quotes


class MetricNames(dict[str, T]):
    """Dictionary by the symbol of a metric, looked up in capital or small letters.

    >>> table = MetricNames({"EN": 1, "MS-SSIM": 2})
    >>> table["en"], table.get("ms-ssim"), "Qabf" in table, table.symbol("En")
    (1, 2, False, 'EN')
    """

    def symbol(self, name: str) -> str:
        """Returns the key that `name` stands for.

        Raises:
            UnknownMetricError: where there is none.
        """
        for key in self:
            if key.lower() == str(name).lower():
                return key
        raise UnknownMetricError(unknown(name, self, noun="metric"))

    def __missing__(self, name: str) -> T:
        return self[self.symbol(name)]

    def __contains__(self, name: object) -> bool:
        return str(name).lower() in map(str.lower, self)

    def get(self, name: str, default: Any = None) -> Any:
        return self[self.symbol(name)] if name in self else default
