"""One list of options for the command line, a class and a function: a frozen dataclass whose fields are the options."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def option_values(command: Any, options: type[Any]) -> dict[str, Any]:
    """Returns {option: value} of a command that has the fields of a dataclass of options."""
    return {field.name: getattr(command, field.name) for field in fields(options)}


def takes_options(options: type[Any]) -> Callable[[F], F]:
    """Decorator for a function with `**options`: `help()` and editors show the fields of a dataclass instead.

    The signature gets a keyword for each field. The docstring gets the dataclass's `Args:` in the place of its line
    that begins with "options:".

    Args:
        options: a dataclass with a Google-style docstring.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own_parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        added = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default if field.default_factory is MISSING else field.default_factory(),
                annotation=field.type,
            )
            for field in fields(options)
            if field.name not in signature.parameters
        ]
        function.__signature__ = signature.replace(parameters=[*own_parameters, *added])  # type: ignore[attr-defined]
        explained = inspect.cleandoc(options.__doc__ or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
        lines = inspect.cleandoc(function.__doc__ or "").splitlines()
        function.__doc__ = "\n".join(explained if x.lstrip().startswith("options:") else x for x in lines)
        return function

    return decorate
