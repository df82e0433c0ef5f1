"""Synthetic pairs: deterministic, labelled consistently, and with the physics that makes fusion worth it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tectum.data.synthetic import (
    CLASSES,
    DEMO,
    HOURS,
    Scene,
    SyntheticPairs,
    _infrared_camera,
    _visible_camera,
    demo_folder,
    render,
    save,
    write_demo,
)
from tectum.street.shapes import Buffer, Camera, Capsule, box

SEEDS = range(6)
CAR, PERSON, LAMP = 1, 2, 3


def luminance(scene: Scene) -> Tensor:
    return (scene.visible * torch.tensor((0.299, 0.587, 0.114))[:, None, None]).sum(0)


def around(mask: Tensor, by_px: int = 4) -> Tensor:
    """The ring of background within `by_px` of a binary mask."""
    grown = F.max_pool2d(mask[None, None].float(), 2 * by_px + 1, 1, by_px)[0, 0]
    return (grown > 0) & ~mask


@pytest.fixture(scope="module")
def nights() -> list[Scene]:
    return [render(seed, (120, 160)) for seed in SEEDS]


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (121, 67), (16, 16)])
@pytest.mark.parametrize("hour", ["night", "dusk", "day"])
def test_shapes_types_and_ranges(size: tuple[int, int], hour: str) -> None:
    scene = render(3, size, hour=hour)
    assert scene.visible.shape == (3, *size) and scene.visible.dtype == torch.float32
    assert scene.infrared.shape == (1, *size) and scene.infrared.dtype == torch.float32
    assert scene.mask.shape == size and scene.mask.dtype == torch.int64
    assert scene.boxes.shape == (len(scene.labels), 4) and scene.boxes.dtype == torch.float32
    assert scene.labels.dtype == torch.int64
    for x in (scene.visible, scene.infrared):
        assert torch.isfinite(x).all() and x.min() >= 0 and x.max() <= 1 and x.std() > 0.02


def test_a_seed_is_a_scene_and_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = render(5, (48, 64)), render(5, (48, 64)), render(6, (48, 64))
    for name in ("visible", "infrared", "mask", "boxes", "labels"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert (first.visible - other.visible).abs().mean() > 0.02
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_same_scene_at_two_sizes(seed: int) -> None:
    small, large, other = render(seed, (72, 96)), render(seed, (144, 192)), render(seed + 10, (72, 96))
    for one, two in ((small.visible, large.visible), (small.infrared, large.infrared)):
        shrunk = F.avg_pool2d(two[None], 2)[0]
        assert (one - shrunk).abs().mean() < 0.03
        assert (one - shrunk).abs().mean() < 0.5 * (small.visible - other.visible).abs().mean()
    assert (small.mask == large.mask[::2, ::2]).float().mean() > 0.97


def test_the_hour_changes_the_light_but_not_the_street() -> None:
    night, day = render(4, (96, 128)), render(4, (96, 128), hour="day")
    assert torch.equal(night.mask, day.mask) and torch.equal(night.boxes, day.boxes)
    assert luminance(day).mean() > luminance(night).mean() + 0.2


def test_masks_and_boxes_agree(nights: list[Scene]) -> None:
    seen: set[int] = set()
    for scene in nights:
        height, width = scene.mask.shape
        x1, y1, x2, y2 = scene.boxes.T
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
        assert (x2 > x1).all() and (y2 > y1).all()
        left_over = scene.mask.clone()
        for box_, label in zip(scene.boxes.long().tolist(), scene.labels.tolist(), strict=True):
            a, b, c, d = box_
            inside = scene.mask[b:d, a:c] == label
            assert inside.any(0)[0] and inside.any(0)[-1] and inside.any(1)[0] and inside.any(1)[-1]  # tight
            left_over[b:d, a:c][inside] = 0
            seen.add(label)
        assert not left_over.any()  # every labelled pixel is in a box of its class
    assert seen == set(range(1, len(CLASSES)))


def test_people_are_bright_in_heat_and_lost_in_light(nights: list[Scene]) -> None:
    warm, light = [], []
    for scene in nights:
        person = scene.mask == PERSON
        ring = around(person) & (scene.mask == 0)
        warm.append(float(scene.infrared[0][person].mean() - scene.infrared[0][ring].mean()))
        light.append(float(luminance(scene)[person].mean() - luminance(scene)[ring].mean()))
    assert min(warm) > 0.2
    assert np.abs(light).mean() < 0.5 * np.mean(warm)
    assert np.mean([float(luminance(s)[s.mask == PERSON].mean()) for s in nights]) < 0.25


def test_lamps_are_brightest_in_light_and_faces_in_heat(nights: list[Scene]) -> None:
    for scene in nights:
        brightest = luminance(scene)[scene.mask == LAMP].max()
        assert brightest > 0.9
        assert scene.infrared[0][scene.mask == PERSON].max() > scene.infrared[0][scene.mask == LAMP].max()


def test_lettering_has_no_heat() -> None:
    """The zebra crossing: strong edges in light, none in heat."""
    scene = render(2, (240, 320), hour="dusk", place="crossing")
    road = (slice(150, 166), slice(60, 250))
    free = scene.mask[road] == 0
    light, heat = luminance(scene)[road][free], scene.infrared[0][road][free]
    assert light.std() > 0.12 and heat.std() < 0.04


def test_the_infrared_lens_is_softer() -> None:
    """The same step, 0.2 to 0.6, through both cameras: the steepest pixel takes less of it in heat."""
    step = np.full((480, 64), 0.2, np.float32)
    step[:, 32:] = 0.6
    heat = _infrared_camera(step, np.random.default_rng(0), 1.0).mean(0)
    light = _visible_camera(np.repeat(step[..., None], 3, 2), HOURS["day"], np.random.default_rng(0), 1.0).mean((0, 2))
    shares = [float(np.diff(x).max() / (x[40:].mean() - x[:24].mean())) for x in (heat, light)]
    assert shares[0] < 0.6 and shares[1] > 0.95


def test_pairs_are_a_dataset() -> None:
    pairs, kept = SyntheticPairs(3, (32, 48), seed=1), SyntheticPairs(3, (32, 48), seed=1, keeps=True)
    assert len(pairs) == 3 and len(list(pairs)) == 3
    assert torch.equal(pairs[1].visible, kept[1].visible) and kept[1] is kept[1]
    assert not torch.equal(pairs[0].visible, pairs[1].visible)
    assert not torch.equal(pairs[0].visible, SyntheticPairs(3, (32, 48), seed=2)[0].visible)
    with pytest.raises(IndexError, match=r"0\.\.2, got 3"):
        pairs[3]


def test_saved_tree_reads_back(tmp_path: Path) -> None:
    scene = render(1, (96, 128))
    save(scene, tmp_path, "one")
    visible = np.asarray(Image.open(tmp_path / "vi/one.png"))
    infrared = Image.open(tmp_path / "ir/one.png")
    assert infrared.mode == "L" and visible.shape == (96, 128, 3)
    assert np.abs(visible / 255 - scene.visible.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert np.abs(np.asarray(infrared) / 255 - scene.infrared[0].numpy()).max() <= 0.5 / 255 + 1e-6
    assert (np.asarray(Image.open(tmp_path / "labels/one.png")) == scene.mask.numpy()).all()
    rows = np.loadtxt(tmp_path / "boxes/one.txt", ndmin=2)
    assert rows[:, 0].tolist() == scene.labels.tolist()
    centre, extent = rows[:, 1:3] * (128, 96), rows[:, 3:] * (128, 96)
    assert np.allclose(np.hstack((centre - extent / 2, centre + extent / 2)), scene.boxes.numpy(), atol=1e-3)


def test_packaged_demo_is_what_write_demo_renders(tmp_path: Path) -> None:
    write_demo(tmp_path)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert names == sorted(p.relative_to(demo_folder()).as_posix() for p in demo_folder().rglob("*.*"))
    assert len(names) == 4 * len(DEMO)
    assert sum((demo_folder() / name).stat().st_size for name in names) < 2.5e6
    for name in names:
        if name.endswith(".png"):
            new, packaged = (np.asarray(Image.open(root / name), np.int16) for root in (tmp_path, demo_folder()))
            assert new.shape[:2] == (480, 640)
            # another processor may round one ray across an edge; nothing else may differ
            assert (np.abs(new - packaged) <= 1).mean() > 0.9995, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (8, 64)}, "at least 16 x 16 pixels, got 8 x 64"),
        ({"hour": "noon"}, "night, dusk, day, got 'noon'"),
        ({"place": "moon"}, "street, crossing, alley or None, got 'moon'"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(0, **arguments)  # type: ignore[arg-type]


def test_rays_hit_a_box_and_a_sphere_where_geometry_says() -> None:
    """On the optical axis: depth = distance to the near face; off it the silhouette of a sphere ends at its tangent."""
    camera = Camera(201, 201, 100.0, (100.5, 100.5), (0.0, 1.0, 0.0))
    shapes = [box((-1, 1), (0, 2), (5, 7)), Capsule(np.array((0.0, 1.0, 4.0)), np.array((0.0, 1.0, 4.0)), 0.5)]
    buffer = Buffer(camera)
    for k, (shape, window) in enumerate(zip(shapes, camera.windows([s.corners for s in shapes]), strict=True)):
        buffer.draw(k, shape, window)
    assert buffer.owner[100, 100] == 1 and buffer.depth[100, 100] == pytest.approx(3.5, abs=1e-5)
    assert buffer.owner[100, 118] == 0 and buffer.depth[100, 118] == pytest.approx(5.0, abs=1e-5)
    assert buffer.normal[100, 118].tolist() == [0, 0, -1]
    radius_px = 100 * 0.5 / np.sqrt(4**2 - 0.5**2)
    assert (buffer.owner[100] == 1).sum() == pytest.approx(2 * radius_px, abs=1.5)
    assert buffer.owner[100, 10] == -1 and np.isinf(buffer.depth[100, 10])
