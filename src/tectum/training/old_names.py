"""Names of earlier versions: a run folder or recipe that was written with them is read with the names of today."""

from collections.abc import Mapping
from typing import Any

from tectum.errors import UserError

OLD_NAMES = {
    "turns": "dihedral",
    "lesson": "outer_loss",
    "away": "weight_deviation",
    "aside_fusion": "held_out_fusion",
    "aside_task": "held_out_task",
    "Pace": "DynamicWeightAverage",
    "Tradeoff": "TaskFusionBalance",
}
"""Old names of settings, numbers in the log and balances, and their names of today."""


def use_new_modules(text: str) -> str:
    """Returns a recipe's text with the modules of today in its names `package.module:Attribute`."""
    return text.replace('"tectum.systems.', '"tectum.models.')


def use_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a schedule, or the numbers of a log line, under the names of today.

    Raises:
        UserError: a setting has another value than the one that is left.
    """
    values = {OLD_NAMES.get(name, name): value for name, value in values.items()}
    if penalty := values.pop("penalty", 0):
        raise UserError(f"penalty must be 0, got {penalty}: losses on a fuser's own parameters were removed")
    return values
