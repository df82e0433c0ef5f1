"""tectum: fuse registered image pairs, and learn what to keep from the task that will look at the result."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tectum.evaluation.evaluate import evaluate as evaluate
    from tectum.fusion.pipeline import fuse as fuse
    from tectum.training.loop import fit as fit
    from tectum.weights.loading import load as load

__version__ = "0.1.0"

_VERBS = {
    "evaluate": "tectum.evaluation.evaluate",
    "fit": "tectum.training.loop",
    "fuse": "tectum.fusion.pipeline",
    "load": "tectum.weights.loading",
}
__all__ = ["evaluate", "fit", "fuse", "load"]


def __dir__() -> list[str]:
    return ["__version__", *__all__]


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used, so that `import tectum` stays light."""
    if name in _VERBS:
        import importlib

        return getattr(importlib.import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'tectum' has no attribute '{name}'")
