"""Swift and the fusion of camera frames: OpenCV's sums against torch's, colours against the pipeline's, bad frames."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tectum.data.synthetic import render
from tectum.errors import UserError
from tectum.fusion.frames import FrameFuser
from tectum.fusion.options import FuseOptions
from tectum.fusion.pipeline import FusePipeline
from tectum.models.baselines import LaplacianPyramid
from tectum.models.swift import Swift, add, describe, split

Images = Callable[..., tuple[Tensor, ...]]
Perturb = Callable[[nn.Module], nn.Module]


def frames(images: Images, height: int, width: int, *, saturated: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A colour frame, with colours up to the corners of the cube, and an infrared one."""
    red, green, blue, infrared = (x[0, 0] for x in images(height, width, count=4))
    rgb = torch.stack((red, green, blue), -1)
    rgb = rgb if saturated else 0.3 + 0.4 * rgb
    return (rgb * 255).round().byte().numpy(), (infrared * 255).round().byte().numpy()


@pytest.mark.parametrize("size", [(48, 64), (33, 50), (1, 1), (7, 19), (16, 8)])
@pytest.mark.parametrize("saturated", [True, False])
def test_frames_are_those_of_the_pipeline_to_one_level(
    images: Images, perturb: Perturb, size: tuple[int, int], saturated: bool
) -> None:
    network = perturb(Swift())
    visible, infrared = frames(images, *size, saturated=saturated)
    pipeline = FusePipeline(FuseOptions(infrared_range="full", nodata="none"), fuser=network)
    expected = pipeline(*pipeline.read(visible, infrared)).array()
    fused = FrameFuser(network)(visible, infrared)
    assert fused.dtype == np.uint8 and fused.shape == visible.shape
    assert np.abs(fused.astype(int) - expected.astype(int)).max() <= 1
    assert min(size) < 10 or np.abs(fused.astype(int) - visible).max() > 20, "a copy of the source would prove nothing"


def test_other_networks_and_grey_frames_go_the_same_way(images: Images) -> None:
    visible, infrared = frames(images, 30, 41)
    pipeline = FusePipeline(FuseOptions(nodata="none"), fuser=LaplacianPyramid())
    for first in (visible, visible[..., 0].copy()):
        expected = pipeline(*pipeline.read(first, infrared)).array()
        fused = FrameFuser(LaplacianPyramid())(first, infrared)
        assert fused.shape == expected.shape
        assert np.abs(fused.astype(int) - expected.astype(int)).max() <= 1


def test_a_result_is_not_changed_by_later_frames_and_their_sizes(images: Images, perturb: Perturb) -> None:
    fuser = FrameFuser(perturb(Swift()))
    visible, infrared = frames(images, 40, 56)
    first = fuser(visible, infrared)
    kept = first.copy()
    fuser(*frames(images, 64, 24))
    again = fuser(visible, infrared)
    fuser(visible[::-1].copy(), infrared)
    assert np.array_equal(first, kept) and np.array_equal(again, kept)
    grey = fuser(visible[..., 0].copy(), infrared)
    kept = grey.copy()
    fuser(visible[..., 1].copy(), infrared)
    assert np.array_equal(grey, kept)


def test_the_arrays_of_a_frame_serve_the_next(images: Images, perturb: Perturb) -> None:
    fuser, pair = FrameFuser(perturb(Swift())), frames(images, 120, 160, saturated=False)
    fuser(*pair)
    tracemalloc.start()
    fuser(*pair)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 120 * 160, "bytes: the result, and some twenty planes of 8 bits; as many float ones take 80"


@pytest.mark.parametrize(
    ("visible", "infrared", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), "must be uint8"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), "must be uint8"),
        (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8), "must be uint8"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), "must be uint8"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4), np.uint8), "5x4 .visible. and 4x4 .infrared."),
    ],
)
def test_frames_of_another_form_are_refused(visible: np.ndarray, infrared: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FrameFuser("average")(visible, infrared)


def test_the_pyramid_gives_the_image_back(images: Images) -> None:
    a, b = images(48, 80)
    of_a, of_b = split(a), split(b)
    only_a = torch.tensor([1.0, 0] * 4).view(1, -1, 1, 1).expand(1, -1, 6, 10)
    torch.testing.assert_close(add(of_a, of_b, only_a), a, rtol=0, atol=1e-6)
    assert describe(of_a, of_b).shape == (1, 8, 6, 10)


def test_swift_keeps_black_black_and_flat_flat(perturb: Perturb) -> None:
    network = perturb(Swift())
    for low, high in ((0.0, 0.0), (0.0, 0.5), (1.0, 0.2)):
        fused = network(torch.full((1, 1, 37, 50), low), torch.full((1, 1, 37, 50), high)).detach()
        assert float(fused.max() - fused.min()) < 1e-5
        assert low or high or float(fused.max()) == 0


def test_a_still_scene_with_noise_does_not_flicker() -> None:
    """The gains follow the pictures, not their noise: no more than the infrared has, none in areas."""
    scene, rng = render(1, (240, 320)), np.random.default_rng(0)
    sources = [255 * x.permute(1, 2, 0).numpy() for x in (scene.visible, scene.infrared[:1])]
    fuser, results, infrared = FrameFuser("swift"), [], []
    for _ in range(12):
        rgb, grey = ((x + rng.normal(0, 2, x.shape)).clip(0, 255).round().astype(np.uint8) for x in sources)
        results.append(fuser(rgb, grey[..., 0]).astype(np.float32).mean(2))
        infrared.append(grey[..., 0].astype(np.float32))
    fused, of_infrared = np.stack(results), np.stack(infrared)
    assert 0.5 < fused.std(0).mean() < of_infrared.std(0).mean()
    blocks = fused.reshape(12, 30, 8, 40, 8).mean((2, 4))
    assert blocks.std(0).max() < 1, "levels of 255, means of 8x8 pixels"
    assert fused.mean((1, 2)).std() < 0.1
