"""The contract of every task, run over TASKS; what the segmenter and the detectors compute; what they refuse."""

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tectum.io.files import write_tensors
from tectum.protocols import Task
from tectum.tasks import TASKS
from tectum.tasks.detector import check_boxes
from tectum.tasks.segformer import SegFormer
from tectum.tasks.torchvision import ensure_torchvision, suppress

SMALLEST = ("segformer-b0", "dfine-n", "yolov8n", "yolov5n")
CLASSES = ("background", "car", "person")
NO_BOXES = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
FASTER = {"dfine-n": {"queries": 20, "denoising": 10}}
IMPORTS = {"segformer": "transformers", "dfine": "transformers", "yolov8": "ultralytics", "yolov5": "ultralytics"}


def build(name: str, classes: tuple[str, ...] = CLASSES, **options: Any) -> Any:
    library = next(library for family, library in IMPORTS.items() if name.startswith(family))
    if importlib.util.find_spec(library) is None:  # not importorskip: only the adapter may import ultralytics
        pytest.skip(f"{library} is not installed")
    torch.manual_seed(0)
    return TASKS[name](classes, **options)


@pytest.fixture(params=SMALLEST, scope="module")
def shared(request: pytest.FixtureRequest) -> Any:
    """A task that several tests look at, and none changes."""
    return build(request.param, **FASTER.get(request.param, {}))


@pytest.fixture
def task(shared: Any) -> Any:
    return copy.deepcopy(shared).train()


def scene(height: int = 61, width: int = 83) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Two images with bright things on dark ground, their mask and their boxes; odd sides."""
    image = 0.2 * torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, height, width, dtype=torch.int64)
    boxes: list[dict[str, Tensor]] = []
    for i, things in enumerate([[(0, 0.1, 0.2, 0.4, 0.9), (1, 0.6, 0.5, 1.0, 1.0)], [(0, 0.5, 0.05, 0.85, 0.75)]]):
        for label, x1, y1, x2, y2 in things:
            window = slice(round(y1 * height), round(y2 * height)), slice(round(x1 * width), round(x2 * width))
            image[i, 0][window], mask[i][window] = 0.9 - 0.4 * label, 1 + label
        boxes.append({"boxes": torch.tensor([t[1:] for t in things]), "labels": torch.tensor([t[0] for t in things])})
    return image, mask, boxes


def target_of(task: Task, *size: int) -> Any:
    return scene(*size)[1 if task.label_type == "masks" else 2]  # type: ignore[attr-defined]


# ---- every task ------------------------------------------------------------------------------------------------------


def test_what_there_is() -> None:
    sizes = [f"segformer-b{i}" for i in range(6)] + [f"yolov{v}{size}" for v in (8, 5) for size in "nsmlx"]
    assert {*sizes, "dfine-n"} <= TASKS.keys()


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("segformer-b0", 9, 3_713_321),  # as TDFusion has it for MSRS
        ("segformer-b0", 15, 3_714_863),  # and for FMB
    ],
)
def test_published_numbers_of_parameters(name: str, classes: int, expected: int) -> None:
    task = build(name, tuple(str(i) for i in range(classes)))
    assert sum(p.numel() for p in task.parameters()) == expected


MILLIONS = {
    "segformer-b1": 13.7,
    "segformer-b2": 27.3,
    "segformer-b3": 47.2,
    "segformer-b4": 64.0,
    "segformer-b5": 84.6,
}
MILLIONS |= {"dfine-n": 3.7, "dfine-s": 10.2}  # the YOLOs: test_yolo.py


@pytest.mark.parametrize("name", sorted(MILLIONS))
def test_sizes(name: str) -> None:
    with torch.device("cpu" if name.startswith("dfine") else "meta"):  # no memory, no arithmetic
        task = build(name)
    assert sum(p.numel() for p in task.parameters()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.1)


def test_names_and_label_type(shared: Any) -> None:
    assert isinstance(shared, Task) and isinstance(shared, nn.Module)
    assert shared.classes == CLASSES and shared.channels == 1 and shared.label_type in ("masks", "boxes")
    assert shared.training, "a new task is about to learn"


def test_the_loss_reaches_the_image_and_every_weight(task: Any) -> None:
    image = scene()[0].requires_grad_()
    loss = task.loss(image, target_of(task))
    assert loss.shape == () and bool(loss.isfinite()) and loss > 0
    loss.backward()
    assert image.grad is not None and bool((image.grad.abs().sum((1, 2, 3)) > 0).all())
    learns = {name: p for name, p in task.named_parameters() if p.requires_grad}
    assert len(learns) > 100
    assert not [name for name, p in learns.items() if p.grad is None or not bool(p.grad.isfinite().all())]
    still = [name for name, p in learns.items() if p.grad is not None and not bool(p.grad.any())]
    assert len(still) < 0.1 * len(learns), still


def test_a_gradient_has_a_gradient(task: Any) -> None:
    """What double backward through the look-ahead needs; forward mode through the task is never asked for."""
    image = scene()[0].requires_grad_()
    (slope,) = torch.autograd.grad(task.loss(image, target_of(task)), image, create_graph=True)
    (bend,) = torch.autograd.grad(slope.square().sum(), image)
    assert bool(bend.isfinite().all()) and bend.abs().max() > 0


def test_a_seed_fixes_the_loss(task: Any) -> None:
    image, target = scene()[0], target_of(task)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(copy.deepcopy(task).loss(image, target).detach()))
    assert losses[0] == losses[1]
    task.eval()
    first = task.loss(image, target)
    assert torch.equal(task.loss(image, target), first), "nothing is drawn, and no statistic moves"


def test_predictions(task: Any) -> None:
    image = scene()[0].requires_grad_()
    frozen = next(module for module in task.modules() if isinstance(module, nn.BatchNorm2d))
    frozen.eval()
    before = {name: x.clone() for name, x in task.state_dict().items()}
    found = task.predict(image)
    assert task.training and not frozen.training, "every module is in the mode it was in"
    assert all(torch.equal(x, before[name]) for name, x in task.state_dict().items())
    if task.label_type == "masks":
        assert found.shape == (2, 61, 83) and found.dtype == torch.int64
        assert 0 <= int(found.min()) <= int(found.max()) < 3
        assert task.predict(image, (120, 160)).shape == (2, 120, 160)
        return
    assert len(found) == 2 and all(set(x) == {"boxes", "scores", "labels"} for x in found)
    for boxes, scores, labels in ((x["boxes"], x["scores"], x["labels"]) for x in found):
        assert boxes.shape == (len(scores), 4) and labels.shape == scores.shape and labels.dtype == torch.int64
        assert not boxes.requires_grad and not scores.requires_grad
        assert bool(((boxes >= 0) & (boxes <= 1)).all()) and bool((boxes[:, 2:] > boxes[:, :2]).all())
        assert bool(((labels >= 0) & (labels < 3)).all()) and bool((scores.diff() <= 0).all())


def test_a_failed_prediction_restores_the_mode_too(task: Any) -> None:
    with pytest.raises(ValueError, match="looks at images"):
        task.predict(torch.zeros(1, 2, 64, 64))
    assert all(module.training for module in task.modules())


def test_an_image_does_not_see_its_neighbours(task: Any) -> None:
    task.eval().double()  # whose rounding swaps no places
    images = torch.rand(3, 1, 61, 83, generator=torch.Generator().manual_seed(3)).double()
    together = task.predict(images)
    for i in range(3):
        (alone,) = task.predict(images[i : i + 1])
        if task.label_type == "masks":
            assert (alone == together[i]).float().mean() > 0.999
        else:
            assert alone.keys() == together[i].keys()
            for key in ("boxes", "scores"):
                torch.testing.assert_close(alone[key], together[i][key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (96, 33), (61, 160)])
def test_any_size(task: Any, size: tuple[int, int]) -> None:
    image = torch.rand(2, 1, *size, requires_grad=True)
    loss = task.loss(image, target_of(task))
    loss.backward()
    assert bool(loss.isfinite()) and image.grad is not None and bool(image.grad.isfinite().all())
    assert len(task.predict(image)) == 2


def test_images_smaller_than_a_cell_are_predicted(task: Any) -> None:
    found = task.predict(torch.rand(1, 1, 5, 9))
    assert len(found) == 1 and (task.label_type == "boxes" or found.shape == (1, 5, 9))


def test_nothing_to_see(task: Any) -> None:
    """No box at all, or no pixel that counts: a finite loss, whose gradient is finite too."""
    image = scene()[0].requires_grad_()
    empty = torch.full((2, 61, 83), 255) if task.label_type == "masks" else [NO_BOXES, NO_BOXES]
    loss = task.loss(image, empty)
    loss.backward()
    assert bool(loss.isfinite()) and image.grad is not None and bool(image.grad.isfinite().all())
    if task.label_type == "boxes":
        some = task.loss(image, [NO_BOXES, target_of(task)[1]])
        assert bool(some.isfinite()) and some > 0
    else:
        assert loss == 0


def test_colour(shared: Any, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["shared"]
    task = build(name, channels=3, **FASTER.get(name, {}))
    assert task.channels == 3
    grey = scene()[0]
    colour = grey.expand(-1, 3, -1, -1).clone().requires_grad_()
    task.eval()
    loss = task.loss(colour, target_of(task))
    torch.testing.assert_close(task.loss(grey, target_of(task)), loss)
    (slope,) = torch.autograd.grad(loss, colour)
    assert bool((slope.abs().amax((0, 2, 3)) > 0).all()), "all three channels count"
    assert (slope[:, 0] - slope[:, 1]).norm() > 0.1 * slope[:, 0].norm()


def test_scores(shared: Any) -> None:
    score = shared.metric()
    score.update(shared.predict(scene()[0]), target_of(shared))
    assert next(iter(score.numbers())) == ("mIoU" if shared.label_type == "masks" else "mAP50")
    assert 0 <= next(iter(score.numbers().values())) <= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "steps", "lr", "options", "least"),
    [
        ("segformer-b0", 60, 1e-3, {}, 0.8),
        ("dfine-n", 250, 8e-4, {"denoising": 0, "queries": 20}, 0.8),
        ("yolov8n", 80, 2e-3, {"momentum": 0.1}, 0.9),
        ("yolov5n", 80, 2e-3, {"momentum": 0.1}, 0.9),
    ],
)
def test_two_images_are_learned_by_heart(name: str, steps: int, lr: float, options: Any, least: float) -> None:
    """On odd sides: what is padded inside is mapped back."""
    task = build(name, CLASSES if name.startswith("segformer") else CLASSES[1:], **options)
    image, target = scene()[0], target_of(task)
    score = task.metric()
    score.update(task.predict(image), target)
    before = next(iter(score.numbers().values()))
    optimizer = torch.optim.Adam(task.parameters(), lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        task.loss(image, target).backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
    score.reset()
    score.update(task.predict(image), target)
    after = next(iter(score.numbers().values()))
    assert before < 0.3 and after > least, (before, after)


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_weights_come_back(shared: Any, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    name = request.node.callspec.params["shared"]
    write_tensors(tmp_path / "task.safetensors", shared.state_dict())
    torch.manual_seed(1)
    again = TASKS[name](CLASSES, weights=tmp_path / "task.safetensors", **FASTER.get(name, {})).eval()
    whole = copy.deepcopy(shared).eval()
    image = scene()[0]
    assert torch.equal(again.loss(image, target_of(whole)), whole.loss(image, target_of(whole)))


@pytest.mark.parametrize("name", SMALLEST)
def test_weights_that_do_not_fit(name: str, tmp_path: Path) -> None:
    path = tmp_path / "task.safetensors"
    write_tensors(path, build(name).state_dict())
    with pytest.raises(ValueError, match=r"task.safetensors holds weights for 3 classes, but the task has 2; give"):
        build(name, ("car", "person"), weights=path)
    with pytest.raises(ValueError, match=r"does not hold weights of \w+: .* is \(.*\) instead of \(.*; choose"):
        build(name, channels=3, weights=path)
    write_tensors(path, {"conv.weight": torch.zeros(2, 1, 3, 3)})
    with pytest.raises(ValueError, match=r"does not hold weights of \w+: it (has an unknown|lacks) .* more; "):
        build(name, weights=path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        build(name, weights=path)
    with pytest.raises(FileNotFoundError, match=r"weights must be a file, and .*none.safetensors is none"):
        build(name, weights=tmp_path / "none.safetensors")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    state = build("segformer-b0").state_dict()
    state["network.decode_head.classifier.bias"][1] = float("nan")
    write_tensors(tmp_path / "task.safetensors", state)
    with pytest.raises(ValueError, match="values that are not finite; take an earlier checkpoint"):
        build("segformer-b0", weights=tmp_path / "task.safetensors")


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("car", "car"), "different names"),
        ("car", "different names"),
        ((), "different names, got"),
    ],
)
def test_class_names(shared: Any, request: pytest.FixtureRequest, classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TASKS[request.node.callspec.params["shared"]](classes)


def test_channels_and_sizes() -> None:
    with pytest.raises(ValueError, match="channels must be 1"):
        SegFormer(CLASSES, channels=2)
    with pytest.raises(ValueError, match="size must be one of b0"):
        SegFormer(CLASSES, size="b9")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(2, 3, 61, 83), r"images \(B,1,H,W\), got \(2, 3, 61, 83\); build it with the channels"),
        (torch.zeros(2, 61, 83), r"images \(B,1,H,W\), got \(2, 61, 83\)"),
        (torch.zeros(2, 1, 0, 83), r"images \(B,1,H,W\), got \(2, 1, 0, 83\)"),
        (torch.zeros(2, 1, 61, 83, dtype=torch.uint8), r"floating point images in \[0,1\], got torch.uint8"),
    ],
)
def test_bad_images(shared: Any, image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shared.loss(image, target_of(shared))


def test_the_other_kind_of_target(shared: Any) -> None:
    image, mask, boxes = scene()
    if shared.label_type == "masks":
        with pytest.raises(ValueError, match=r"learns from masks \(B,H,W\) int64, got a list of dict; open the data"):
            shared.loss(image, boxes)
        with pytest.raises(ValueError, match=r"got a torch.float32 tensor \(2, 61, 83\)"):
            shared.loss(image, mask.float())
    else:
        with pytest.raises(ValueError, match=r"learns from a list .* got a torch.int64 tensor \(2, 61, 83\); open"):
            shared.loss(image, mask)
    with pytest.raises(ValueError, match="got none; open the data with"):
        shared.loss(image, None)
    with pytest.raises(ValueError, match="one entry per image, got 2 for 1"):
        shared.loss(image[:1], target_of(shared))


def test_labels_outside_the_classes(shared: Any) -> None:
    image, mask, boxes = scene()
    if shared.label_type == "masks":
        mask[1, 4, 5] = 12
        message = r"labels must be 0 to 2 \(or 255: ignored\), got 12 in image 1 of the batch; check the classes"
        with pytest.raises(ValueError, match=message):
            shared.loss(image, mask)
        mask[1, 4, 5] = -1
        with pytest.raises(ValueError, match=r"got -1 in image 1"):
            shared.loss(image, mask)
        return
    boxes[0]["labels"][1] = 3
    with pytest.raises(ValueError, match="labels must be 0 to 2, got 3 in image 0 of the batch; check the classes"):
        shared.loss(image, boxes)


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([[0.1, 0.1, 1.2, 0.5]], [0], r"in \[0,1\], got \[0.1, 0.1, 1.2, 0.5\] in image 0 of the batch; divide x by"),
        ([[0.5, 0.1, 0.2, 0.5]], [0], r"x1 <= x2, y1 <= y2 .* got \[0.5"),
        ([[0.1, 0.1, float("nan"), 0.5]], [0], r"got \[0.1, 0.1, nan, 0.5\]"),
        ([[0.1, 0.1, 0.2, 0.5]], [0.0], r"boxes \(N,4\) and integer labels \(N,\), got \(1, 4\) and torch.float32"),
        (
            [[0.1, 0.1, 0.2, 0.5]],
            [0, 1],
            r"boxes \(N,4\) and integer labels \(N,\), got \(1, 4\) and torch.int64 \(2,\)",
        ),
    ],
)
def test_bad_boxes(boxes: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_boxes([{"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}], 1, 2)


def test_a_box_without_labels() -> None:
    with pytest.raises(ValueError, match="must have boxes and labels, but image 1 lacks labels"):
        check_boxes([NO_BOXES, {"boxes": torch.zeros(0, 4)}], 2, 2)


# ---- segmentation ----------------------------------------------------------------------------------------------------


@pytest.fixture
def segmenter() -> SegFormer:
    found: SegFormer = build("segformer-b0")
    with torch.no_grad():  # a head under which all of it matters
        for p in found.network.decode_head.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(4)) / max(1, p[0].numel()) ** 0.5)
    return found.eval()


@pytest.mark.parametrize("size", [(64, 96), (61, 83)])
def test_the_head_is_the_published_one(segmenter: SegFormer, size: tuple[int, int]) -> None:
    """transformers' own forward pass: every stage resized to 1/4, joined, and only then fused."""
    image = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    expected = segmenter.network(image).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(segmenter(image), expected, rtol=0, atol=1e-4 * float(expected.abs().max().detach()))


def test_published_constants(segmenter: SegFormer) -> None:
    norms = [module for module in segmenter.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) > 20 and {norm.eps for norm in norms} == {1e-6}
    head = segmenter.network.decode_head
    assert (head.batch_norm.eps, head.batch_norm.momentum, head.dropout.p) == (1e-3, 0.03, 0.1)
    depths = [block.drop_path.drop_prob for stage in segmenter.network.segformer.stages for block in stage.blocks[1:]]
    assert depths == pytest.approx([0.1 / 7, 0.3 / 7, 0.5 / 7, 0.1])


def test_cross_entropy_by_hand(segmenter: SegFormer) -> None:
    """At the resolution of the mask, with pixels that do not count and classes that count more."""
    image, mask, _ = scene()
    mask[0, :, :40] = 255
    logits = nn.functional.interpolate(segmenter(image), size=(61, 83), mode="bilinear", align_corners=True)
    assert torch.equal(segmenter.predict(image), logits.argmax(1))
    log = logits.log_softmax(1).double()
    counted = [(i, y, x) for i in range(2) for y in range(61) for x in range(83) if mask[i, y, x] != 255]
    each = torch.stack([-log[i, mask[i, y, x], y, x] for i, y, x in counted])
    torch.testing.assert_close(segmenter.loss(image, mask).double(), each.mean(), rtol=1e-5, atol=0)
    segmenter.class_weights = torch.tensor([1.0, 0.0, 5.0])
    weight = torch.stack([segmenter.class_weights[mask[at]] for at in counted]).double()
    torch.testing.assert_close(
        segmenter.loss(image, mask).double(), (weight * each).sum() / weight.sum(), rtol=1e-5, atol=0
    )


def test_masks_of_another_resolution(segmenter: SegFormer) -> None:
    image, mask, _ = scene()
    fine = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert float(segmenter.loss(image, fine).detach()) == pytest.approx(
        float(segmenter.loss(image, mask).detach()), rel=0.02
    )


def test_class_weights_are_checked_and_not_saved(segmenter: SegFormer) -> None:
    weighted = build("segformer-b0", class_weights=[1, 2, 3])
    assert weighted.state_dict().keys() == segmenter.state_dict().keys()
    assert weighted.class_weights.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="one number >= 0 for each of 3 classes"):
        build("segformer-b0", class_weights=[1, 2])
    with pytest.raises(ValueError, match=r"ignore_index must be no class \(0 to 2\), got 1"):
        build("segformer-b0", ignore_index=1)
    image, mask, _ = scene()
    weighted.class_weights = torch.tensor([0.0, 1, 1])
    assert weighted.loss(image, mask * 0) == 0, "no pixel has a weight"


# ---- a torchvision that cannot be imported ---------------------------------------------------------------------------


def slow_nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -float(scores[i])):
        x1, y1, x2, y2 = boxes[i].tolist()
        for j in kept:
            u1, v1, u2, v2 = boxes[j].tolist()
            common = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
            if common / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common) > threshold:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_suppression_against_a_loop(threshold: float) -> None:
    generator = torch.Generator().manual_seed(int(threshold * 10))
    low = torch.rand(60, 2, generator=generator) * 12
    boxes = torch.cat([low, low + 5 + 8 * torch.rand(60, 2, generator=generator)], dim=1)
    scores = torch.rand(60, generator=generator)
    expected = slow_nms(boxes, scores, threshold)
    assert 3 < len(expected) < 60
    assert suppress(boxes, scores, threshold).tolist() == expected
    assert suppress(boxes, scores, threshold, max_boxes=3).tolist() == expected[:3]
    assert suppress(boxes[:0], scores[:0], threshold).tolist() == []


def test_transformers_beside_a_torchvision_for_another_torch(tmp_path: Path) -> None:
    """A package that fails on its first import as the CUDA wheel does beside a CPU torch."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "extension.py").write_text("def _has_ops():\n    return False\n")
    (package / "__init__.py").write_text(
        "import torch\nfrom torchvision import extension\n"
        "if not hasattr(torch.ops.torchvision, 'nms'):\n"
        "    raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    code = """
import torch
from tectum.tasks.torchvision import ensure_torchvision
try:
    import torchvision
except RuntimeError as error:
    print(error)
print(ensure_torchvision(), ensure_torchvision())
import torchvision
print(torchvision.extension._has_ops())
boxes = torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9], [20, 0, 29, 9]])
print(torch.ops.torchvision.nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist())
"""
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.splitlines() == ["operator torchvision::nms does not exist", "True True", "True", "[1, 2]"], done


def test_another_error_of_torchvision_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('a different trouble')\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="a different trouble"):
        ensure_torchvision()


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not ensure_torchvision()


@pytest.mark.parametrize(
    ("name", "library", "message"),
    [
        ("segformer-b0", "transformers", "SegFormer needs transformers: pip install 'tectum[train]'"),
        ("dfine-n", "transformers", "D-FINE needs transformers and scipy: pip install 'tectum[train]'"),
        ("dfine-n", "scipy", "D-FINE needs transformers and scipy: pip install 'tectum[train]'"),
    ],
)
def test_without_the_extra(name: str, library: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(ValueError) as caught:
        TASKS[name](["a", "b"])
    assert str(caught.value) == message
