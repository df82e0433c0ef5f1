"""Hand-held exposures and foci: known homographies are found, wrong scenes are refused, no border is black."""

from collections.abc import Sequence
from functools import cache
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tectum.cli import main
from tectum.data.synthetic import render
from tectum.fusion.fuse import fuse
from tectum.fusion.pipeline import FuseOptions, FusePipeline
from tectum.io.image import Picture, picture_from_array, write_image
from tectum.registration.stack import align_stack

HEIGHT, WIDTH, MARGIN = 300, 400, 24
CROP = np.array([[1, 0, MARGIN], [0, 1, MARGIN], [0, 0, 1.0]])
CORNERS = np.array([[0, 0], [WIDTH - 2 * MARGIN, 0], [0, HEIGHT - 2 * MARGIN], [WIDTH, HEIGHT]], float)[None]


@cache
def linear(seed: int) -> np.ndarray:
    small = render(seed, (HEIGHT // 2, WIDTH // 2)).visible.permute(1, 2, 0).numpy().astype(np.float32)
    x = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).clip(0, 1) ** 2.2
    return x * 0.1 / x.mean()


def hand(seed: int, *, scale: float = 1.0) -> np.ndarray:
    """A small homography: up to 2 % of the width, 1 degree, a little perspective; pixels of a picture to the world."""
    random = np.random.default_rng(seed)
    angle, (x, y) = np.deg2rad(random.uniform(-1, 1)), random.uniform(-0.02, 0.02, 2) * WIDTH
    c, s, (p, q) = scale * np.cos(angle), scale * np.sin(angle), random.uniform(-2e-5, 2e-5, 2)
    centre = np.array([[1, 0, WIDTH / 2], [0, 1, HEIGHT / 2], [0, 0, 1]])
    return centre @ np.array([[c, -s, x], [s, c, y], [p, q, 1]]) @ np.linalg.inv(centre)


def shoot(
    world: np.ndarray, evs: Sequence[float], *, seed: int = 0, blurs: Sequence[float] = (), breath: float = 0.0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pictures of a hand-held camera, uint8, and their homographies to the world."""
    images, matrices = [], []
    for i, ev in enumerate(evs):
        matrix = hand(10 * seed + i, scale=1 + breath * i)
        view = cv2.warpPerspective(world, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        x = np.clip(view.clip(0) * 2.0**ev, 0, 1) ** (1 / 2.2)
        if blurs:  # sharp above, blurred below, and the other way round
            near, far = (cv2.GaussianBlur(x, (0, 0), b) if b else x for b in (blurs[i], blurs[-1 - i]))
            x = far + np.linspace(1, 0, HEIGHT)[:, None, None] * (near - far)
        x = x + np.random.default_rng(i).normal(0, 0.01, x.shape)
        images.append((x.clip(0, 1) * 255).round().astype(np.uint8)[MARGIN:-MARGIN, MARGIN:-MARGIN])
        matrices.append(matrix @ CROP)
    return images, matrices


def corner_errors(
    monkeypatch: pytest.MonkeyPatch, images: list[np.ndarray], matrices: list[np.ndarray], reference: int
) -> list[float]:
    """Distance in pixels between where each found homography and the true one put a corner, the largest of each."""
    pictures, found = [picture_from_array(image) for image in images], {}

    def keep(picture: Picture, matrix: np.ndarray) -> Picture:
        found[next(i for i, other in enumerate(pictures) if other is picture)] = matrix
        return picture

    monkeypatch.setattr("tectum.registration.stack._warp", keep)
    align_stack(pictures, by_brightness=reference > 0)
    assert set(found) == set(range(len(images))) - {reference}
    errors = []
    for i, matrix in found.items():
        true = np.linalg.inv(matrices[i]) @ matrices[reference]
        ends = [cv2.perspectiveTransform(CORNERS, m / m[2, 2])[0] for m in (matrix, true)]
        errors.append(float(np.linalg.norm(ends[0] - ends[1], axis=1).max()))
    return errors


@pytest.mark.parametrize("evs", [(-4, 0, 4), (-3, 3), (-4, -2, 0, 2, 4)])
def test_exposures_four_stops_apart_are_registered(monkeypatch: pytest.MonkeyPatch, evs: tuple[float, ...]) -> None:
    images, matrices = shoot(linear(3), evs)
    assert max(corner_errors(monkeypatch, images, matrices, len(evs) // 2)) < 1


def test_foci_that_breathe_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    images, matrices = shoot(linear(3) * 4, (0, 0, 0), blurs=(0, 1.5, 3), breath=0.015)
    assert max(corner_errors(monkeypatch, images, matrices, 0)) < 1.5


def test_other_scenes_flat_and_random_pictures_are_refused() -> None:
    picture = picture_from_array(shoot(linear(3), (2,))[0][0])
    shape = tuple(picture.y.shape[1:])
    wrong = {
        "other": picture_from_array(shoot(linear(8), (0,))[0][0]),
        "mirrored": Picture(picture.y.flip(2)),
        "flat": Picture(torch.full_like(picture.y, 0.3)),
        "random": Picture(torch.from_numpy(np.random.default_rng(0).random((1, *shape), np.float32))),
    }
    for name, other in wrong.items():
        with pytest.raises(ValueError, match=r"images 1 and 2 of the stack could not be aligned: they need .*, got "):
            align_stack([picture, other], by_brightness=False)
            pytest.fail(name)
    with pytest.raises(ValueError, match="images 2 and 3 of the stack could not be aligned"):
        align_stack([picture, picture, wrong["flat"]], by_brightness=False)


@pytest.mark.parametrize("num", [2, 3])
@pytest.mark.parametrize("kind", ["exposure", "focus"])
def test_no_border_is_black_and_no_edge_doubled(kind: str, num: int) -> None:
    """Every pixel of a fused picture lies near that of the pictures of a camera that stood still."""
    evs = (2.5, -0.5, 1)[:num] if kind == "exposure" else (2,) * num
    blurs = (0, 2, 1)[:num] if kind == "focus" else ()
    images, matrices = shoot(linear(3), evs, seed=2, blurs=blurs)
    pipeline = FusePipeline(FuseOptions("average", kind=kind, align=True))
    fused = pipeline(*map(picture_from_array, images)).y[0].numpy()
    # The world through the reference's eyes, at each exposure
    reference = 0 if kind == "focus" else sorted(range(num), key=lambda i: evs[i])[num // 2]
    size = fused.shape[::-1]
    still = cv2.warpPerspective(linear(3), matrices[reference], size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    levels = [picture_from_array(np.clip(still.clip(0) * 2.0**ev, 0, 1) ** (1 / 2.2)).y[0].numpy() for ev in evs]
    low, high = (cv2.GaussianBlur(f(levels, 0), (0, 0), 2) for f in (np.min, np.max))
    smooth = cv2.GaussianBlur(fused, (0, 0), 2)
    assert np.mean((smooth < low - 0.06) | (smooth > high + 0.06)) < 0.01
    for border in (smooth[:3], smooth[-3:], smooth[:, :3].T, smooth[:, -3:].T):
        assert border.mean() > 0.8 * min(low[:3].mean(), low[-3:].mean(), low[:, :3].mean(), low[:, -3:].mean())


def test_pixels_without_data_are_no_features() -> None:
    """A frame that all pictures share lies still, whatever moves inside it."""
    images, _ = shoot(linear(3), (2, 2), seed=1)
    plain = align_stack([picture_from_array(x) for x in images], by_brightness=False)[1]
    framed = []
    for image in images:
        valid = np.zeros(image.shape[:2], bool)
        valid[14:-14, 14:-14] = True
        picture = picture_from_array(np.where(valid[..., None], image, 255))
        framed.append(Picture(picture.y, picture.chroma, valid=torch.from_numpy(valid)[None]))
    moved = align_stack(framed, by_brightness=False)[1]
    assert moved.valid is not None and not moved.valid.all()
    inside = moved.valid & (plain.valid if plain.valid is not None else True)
    assert (moved.y - plain.y)[inside].abs().mean() < 0.01


def test_the_command_aligns_stacks_and_the_order_makes_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = shoot(linear(3), (-1, 1, 3))
    for i, image in enumerate(images):
        (tmp_path / "a").mkdir(exist_ok=True)
        write_image(tmp_path / "a" / f"{i}.png", image)
    argv = ["fuse", "--stack", str(tmp_path), "-o", str(tmp_path / "out"), "--kind", "exposure", "--system", "average"]
    assert main([*argv, "--align"]) == 0
    written = cv2.cvtColor(cv2.imread(str(tmp_path / "out" / "a.png")), cv2.COLOR_BGR2RGB)
    for order in list(permutations(images))[::2]:
        assert np.array_equal(fuse(list(order), kind="exposure", system="average", align=True), written)
    assert main(argv) == 2 and "align: True there, False here" in capsys.readouterr().err
    write_image(tmp_path / "a" / "1.png", np.full_like(images[1], 90))
    assert main([*argv, "--align", "--overwrite"]) == 1
    assert "could not be aligned" in capsys.readouterr().err
