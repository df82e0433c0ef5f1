"""The table of recipes. How to read it: a row is `_add(base, name, changes)`: the recipe `name` is the recipe `base`
with other values of these fields, of `Recipe` or of its `Schedule`; what a row does not say is as in its base, and
what no row says is the default in `recipe.py` or `schedule.py`. `tests/recipes.json` holds every recipe in full.
"""

from typing import Any

from tectum.training.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {}
"""All recipes by name."""


def _add(base: str, name: str, **changes: Any) -> None:
    RECIPES[name] = RECIPES[base].change(name=name, **changes)


# ---- TDFusion, fixed loss --------------------------------------------------------------------------------------------

# The control of the learned loss: w = 1/2, on the labelled MSRS pairs. The published run takes Adam at 1e-4 over 40
# epochs of 1083 pairs with crops of 256 pixels; this one converges on a CPU within the hour.
RECIPES["tdfusion-fixed-msrs"] = Recipe(
    name="tdfusion-fixed-msrs", system="tdfusion", data="folder", validation="msrs-validation"
).change(steps=2800, batch=4, crop_px=128, lr=1e-3, validate_every=250)
_add("tdfusion-fixed-msrs", "tdfusion-fixed", validation=None)
_STREET: dict[str, Any] = {"data": "street", "validation": None}
_SHORT: dict[str, Any] = {"steps": 150, "crop_px": 96, "lr": 2e-3, "warmup": 20, "validate_every": 50}
_add("tdfusion-fixed-msrs", "tdfusion-fixed-street", **_STREET, **_SHORT)

# From the fuser of the fixed loss, on the packaged loss that a segmenter has taught; needs no labels.
ALPHA = 0.05
"""Weight of the gradient term: at 1 it keeps every intensity, whatever the learned weights are (docs/log.md)."""
_REFIT: dict[str, Any] = {"loss": "tdfusion-msrs", "start": "tdfusion-fixed-msrs", "options": {"alpha": ALPHA}}
_add("tdfusion-fixed-msrs", "tdfusion-refit-msrs", **_REFIT, steps=250, crop_px=96, lr=5e-4, warmup=20)
_add("tdfusion-refit-msrs", "tdfusion-refit", validation=None)

# ---- TDFusion, learned loss, constants of the release: a day on a GPU, many days on a CPU ----------------------------


def _published(num_pairs: int, height: int, width: int) -> dict[str, Any]:
    """The schedule of the release: 40 epochs, and images for the task of this size."""
    steps = {"steps": 40 * num_pairs, "validate_every": num_pairs, "meta_steps": 200}
    rates = {"lr": 1e-4, "meta_lr": 1e-4, "task_lr": 1e-4, "decay": "step", "warmup": 0, "clip": 0}
    batches = {"batch": 1, "crop_px": 256, "swap": True, "task_batch": 1, "task_px": (height, width)}
    return steps | rates | batches | {"inner": "sgd", "outer": "max"}


_SEGMENT: dict[str, Any] = {"task": "segformer-b0", "target": "masks", "learned": True}
_DETECT: dict[str, Any] = {"task": "yolov8n", "target": "boxes", "task_options": {}}
_add("tdfusion-fixed-msrs", "tdfusion-msrs", data="msrs", **_SEGMENT, **_published(1083, 240, 320))
_add("tdfusion-msrs", "tdfusion-fmb", data="fmb", validation=None, **_published(1220, 300, 400))
_add("tdfusion-fmb", "tdfusion-m3fd", data="m3fd", **_DETECT, **_published(3150, 192, 256))
_add("tdfusion-m3fd", "tdfusion-llvip", data="llvip", every=10, **_published(1203, 256, 320))

# ---- TDFusion, learned loss on a CPU within the hour: from the fuser of the fixed loss, at rates that move the loss --

# One over the square root of a class's share of the training pixels, with a mean of 1 over the pixels.
_MSRS_WEIGHTS = [0.63, 3.3, 5.2, 6.3, 8.3, 8.5, 18.0, 15.0, 8.7]
_MOVING: dict[str, Any] = {
    **{"steps": 400, "validate_every": 100, "meta_steps": 50, "warm_epochs": 1, "task_first": 1500},
    **{"lr": 5e-4, "meta_lr": 1e-3, "task_first_lr": 2e-3, "decay": "cosine", "warmup": 20, "clip": 1.0},
    **{"batch": 2, "crop_px": 112, "swap": False, "task_batch": 2, "task_px": (120, 160), "small_masks": True},
    **{"inner": "adam", "outer": "adam", "task_mix": 0.5},
}
_START: dict[str, Any] = {"start": "tdfusion-fixed-msrs", "options": {"centred": True}}
_START |= {"task_options": {"class_weights": _MSRS_WEIGHTS}}
_add("tdfusion-msrs", "tdfusion-msrs-small", **_START, **_MOVING)
_add("tdfusion-msrs-small", "tdfusion-fmb-small", data="fmb", validation=None, task_options={})
_add("tdfusion-msrs-small", "tdfusion-own", data="folder", validation=None, task_options={})
_add("tdfusion-msrs-small", "tdfusion-msrs-detection-small", **_DETECT, task_first=2500)
_add("tdfusion-msrs-detection-small", "tdfusion-m3fd-small", data="m3fd", validation=None)
_add("tdfusion-m3fd-small", "tdfusion-llvip-small", data="llvip", every=10)
_add("tdfusion-msrs-detection-small", "tdfusion-own-detection", data="folder", validation=None)
_SHORT = {"steps": 120, "validate_every": 40, "meta_steps": 15, "task_first": 200, "crop_px": 96, "lr": 2e-3}
_add("tdfusion-msrs-small", "tdfusion-street", **_STREET, start=None, task_options={}, **_SHORT)

# ---- TOMIFF and SFOFusion: runs of TDFusion with another fuser and loss, and a balance -------------------------------

# Neither publishes its training; both were developed inside TDFusion's, whose constants these are. No copies with
# exchanged images (both fusers know which source is infrared), and Adam on the parameters of the loss.
_BALANCED: dict[str, Any] = {"balance": "moving", "start": None, "swap": False, "outer": "adam"}
# The small ones start from the fuser of the fixed loss, with as many meta steps as fit steps.
_SMALL: dict[str, Any] = {"steps": 250, "validate_every": 50, "meta_steps": 50, "warm_epochs": 0}
_SMALL |= {"batch": 4, "crop_px": 96, "meta_lr": 2e-3}
for _data in ("msrs", "fmb", "m3fd", "llvip", "msrs-small", "street"):
    _balanced = _BALANCED | (_SMALL if _data == "msrs-small" else {})
    _add(f"tdfusion-{_data}", f"sfofusion-{_data}", system="sfofusion", **_balanced)
    # TOMIFF's loss has four parameters, hence their rate, and no generator to centre.
    _balanced |= {"options": {}, "meta_lr": 1e-2}
    _add(f"tdfusion-{_data}", f"tomiff-{_data}", system="tomiff", **_balanced)
_add("tomiff-msrs-small", "tomiff-msrs-small", start="tomiff-fixed-msrs", options={"alpha": ALPHA})
_SFO_OPTIONS = {"centred": True, "alpha": ALPHA}
_add("sfofusion-msrs-small", "sfofusion-msrs-small", start="sfofusion-fixed-msrs", options=_SFO_OPTIONS)
_add("tdfusion-fixed-msrs", "tomiff-fixed-msrs", system="tomiff", steps=2200, crop_px=96)
_add("tdfusion-fixed-msrs", "sfofusion-fixed-msrs", system="sfofusion", steps=2000, crop_px=112, lr=2e-3)

# ---- AdaSFFuse on its fixed objective of each kind -------------------------------------------------------------------

# The published runs take 50,000 to 96,000 steps of 8 to 16 crops of 128 pixels (their rates are not published); the
# repaired network converges in a few thousand.
_ADASFFUSE: dict[str, Any] = {"steps": 3000, "batch": 4, "crop_px": 128, "lr": 1e-3, "warmup": 100}
_ADASFFUSE |= {"validate_every": 300, "ema": 0.99, "dihedral": True}
for _kind in ("infrared", "exposure", "focus", "medical"):
    RECIPES[f"adasffuse-{_kind}"] = Recipe(f"adasffuse-{_kind}", "adasffuse", "folder", kind=_kind).change(**_ADASFFUSE)
_add("adasffuse-infrared", "adasffuse-msrs", validation="msrs-validation")

# ---- Any system on the natural objective, for pictures that people look at -------------------------------------------

# By day and night, of roads and people; the crops are as large as the smallest image lets them be, since one term is
# about large areas.
_NATURAL: dict[str, Any] = {"data": "msrs+roadscene", "validation": "msrs-validation+roadscene-validation"}
_NATURAL |= {"objective": "natural", "batch": 2, "crop_px": 176, "ema": 0.99, "validate_every": 100}
_add("tdfusion-fixed-msrs", "tdfusion-natural", **_NATURAL, start="tdfusion-fixed-msrs", steps=2400, lr=1e-3)
_add("adasffuse-msrs", "adasffuse-natural", **_NATURAL, start="adasffuse-infrared", steps=1500, lr=1e-3)
_add("sfofusion-fixed-msrs", "sfofusion-natural", **_NATURAL, start="sfofusion-fixed-msrs", steps=800, lr=1e-3)
_add("tomiff-fixed-msrs", "tomiff-natural", **_NATURAL, start="tomiff-fixed-msrs", steps=800, lr=5e-4)
_add("tdfusion-natural", "swift-natural", system="swift", start=None, steps=4000, batch=8, lr=2e-3, validate_every=250)
