"""TDFusion: the fixed loss, and the one that is learned."""

from dataclasses import replace

from tectum.training.recipes.recipe import Recipe, published
from tectum.training.schedule import Schedule


def tdfusion_fixed_msrs() -> Recipe:
    """TDFusion's fuser on its fixed objective (w = 1/2), on the labelled MSRS pairs: the control of the learned loss.

    The published run takes Adam at 1e-4 over 40 epochs of 1083 pairs, 256-pixel crops; with a rate of 1e-3 falling
    along a cosine, crops of 128 pixels and whole epochs in fewer steps it converges on a CPU within the hour.
    """
    return Recipe(
        name="tdfusion-fixed-msrs",
        system="tdfusion",
        data="folder",
        validation="msrs-validation",
        schedule=Schedule(steps=2800, batch=4, crop_px=128, lr=1e-3, validate_every=250),
    )


def tdfusion_fixed() -> Recipe:
    """The same on pairs of your own."""
    return replace(tdfusion_fixed_msrs(), name="tdfusion-fixed", validation=None)


def tdfusion_fixed_street() -> Recipe:
    """Two minutes on synthetic scenes: to see a training run work, without any data."""
    schedule = Schedule(steps=150, batch=4, crop_px=96, lr=2e-3, warmup=20, validate_every=50)
    return replace(
        tdfusion_fixed_msrs(), name="tdfusion-fixed-street", data="street", validation=None, schedule=schedule
    )


def tdfusion_refit_msrs() -> Recipe:
    """On from the fuser of the fixed loss by the packaged loss that a segmenter has taught, which stays as it is.

    The gradient term weighs 0.05: at 1 it holds every intensity where it is, whatever the loss asks for (docs/log.md).
    No labels are needed, so the same goes for pairs of your own: `tdfusion-refit`.
    """
    schedule = Schedule(steps=250, batch=4, crop_px=96, lr=5e-4, warmup=20, validate_every=250)
    return replace(
        tdfusion_fixed_msrs(),
        name="tdfusion-refit-msrs",
        loss="tdfusion-msrs",
        options={"alpha": 0.05},
        start="tdfusion-fixed-msrs",
        schedule=schedule,
    )


def tdfusion_refit() -> Recipe:
    """The same on pairs of your own."""
    return replace(tdfusion_refit_msrs(), name="tdfusion-refit", validation=None)


def tdfusion_msrs() -> Recipe:
    """TDFusion with the released constants, on MSRS for segmentation: a GPU's day, many days of a CPU.

    The loss is the repaired one; `--variant published` takes the released form. The pairs kept for validation are not
    trained on, so an epoch goes over the others a little more than once.
    """
    return Recipe(
        name="tdfusion-msrs",
        system="tdfusion",
        data="msrs",
        validation="msrs-validation",
        task="segformer-b0",
        target="masks",
        learned=True,
        schedule=published(1083, (240, 320)),
    )


def tdfusion_fmb() -> Recipe:
    """The same on FMB."""
    return replace(
        tdfusion_msrs(), name="tdfusion-fmb", data="fmb", validation=None, schedule=published(1220, (300, 400))
    )


def tdfusion_m3fd() -> Recipe:
    """The same on M3FD, for detection."""
    return replace(
        tdfusion_fmb(),
        name="tdfusion-m3fd",
        data="m3fd",
        task="yolov8n",
        target="boxes",
        schedule=published(3150, (192, 256)),
    )


def tdfusion_llvip() -> Recipe:
    """The same on every tenth pair of LLVIP."""
    return replace(tdfusion_m3fd(), name="tdfusion-llvip", data="llvip", every=10, schedule=published(1203, (256, 320)))


def tdfusion_msrs_small() -> Recipe:
    """The learned loss on a CPU within the hour: from the fuser of the fixed loss, at rates that move the loss.

    The look-ahead is the step that Adam will take, the objective's step is Adam's on the scaled hypergradient, and the
    task learns for some epochs before it teaches. See docs/log.md for what was tried.
    """
    schedule = Schedule(
        steps=400,
        batch=2,
        crop_px=112,
        lr=5e-4,
        warmup=20,
        validate_every=100,
        meta_steps=50,
        warm_epochs=1,
        inner="adam",
        outer="adam",
        meta_lr=1e-3,
        task_px=(120, 160),
        small_masks=True,
        task_batch=2,
        task_lr=1e-4,
        task_mix=0.5,
        task_first=1500,
        task_first_lr=2e-3,
    )
    return replace(
        tdfusion_msrs(),
        name="tdfusion-msrs-small",
        start="tdfusion-fixed-msrs",
        options={"centred": True},
        task_options={"class_weights": MSRS_WEIGHTS},
        schedule=schedule,
    )


MSRS_WEIGHTS = [0.63, 3.3, 5.2, 6.3, 8.3, 8.5, 18.0, 15.0, 8.7]
"""One over the square root of a class's share of the training pixels, with a mean over the pixels of 1."""


def tdfusion_msrs_detection_small() -> Recipe:
    """The same for detection: the detector learns for longer before it teaches."""
    recipe = tdfusion_msrs_small()
    return replace(
        recipe,
        name="tdfusion-msrs-detection-small",
        task="yolov8n",
        target="boxes",
        task_options={},
        schedule=replace(recipe.schedule, task_first=2500),
    )


def tdfusion_own() -> Recipe:
    """The small recipe on a folder of your own: vi, ir and labels (masks)."""
    return replace(tdfusion_msrs_small(), name="tdfusion-own", data="folder", validation=None, task_options={})


def tdfusion_own_detection() -> Recipe:
    """The same for boxes."""
    return replace(tdfusion_msrs_detection_small(), name="tdfusion-own-detection", data="folder", validation=None)


def tdfusion_fmb_small() -> Recipe:
    """The small recipe on FMB."""
    return replace(tdfusion_msrs_small(), name="tdfusion-fmb-small", data="fmb", validation=None, task_options={})


def tdfusion_m3fd_small() -> Recipe:
    """The small recipe on M3FD, for detection."""
    return replace(tdfusion_msrs_detection_small(), name="tdfusion-m3fd-small", data="m3fd", validation=None)


def tdfusion_llvip_small() -> Recipe:
    """The small recipe on LLVIP, for detection."""
    return replace(tdfusion_m3fd_small(), name="tdfusion-llvip-small", data="llvip", every=10)


def tdfusion_street() -> Recipe:
    """The learned loss on synthetic scenes, a few minutes, without any data."""
    schedule = replace(
        tdfusion_msrs_small().schedule,
        steps=120,
        crop_px=96,
        lr=2e-3,
        validate_every=40,
        meta_steps=15,
        task_first=200,
    )
    return replace(
        tdfusion_msrs_small(),
        name="tdfusion-street",
        data="street",
        validation=None,
        start=None,
        task_options={},
        schedule=schedule,
    )
