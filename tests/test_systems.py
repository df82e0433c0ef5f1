"""Every system keeps one contract; TDFusion is besides the network and the loss that were published."""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from measures import count
from tectum.models import SYSTEMS
from tectum.models.baselines import LaplacianPyramid
from tectum.models.tdfusion import LossGenerator, PublishedTDFusionLoss, TDFusion, TDFusionLoss
from tectum.nn.stages import fuse_tensors
from tectum.pretrained import loading as weights
from tectum.pretrained.conversion import convert
from tectum.pretrained.loading import cards

GOLDEN = Path(__file__).parent / "golden"
Images = Callable[..., tuple[Tensor, ...]]
Perturb = Callable[..., nn.Module]
EVERY = sorted(name for name, system in SYSTEMS.items() if system.variant != "published")
LEARNABLE = [name for name in EVERY if SYSTEMS[name].objective is not None]


@pytest.fixture(params=EVERY)
def fuser(request: pytest.FixtureRequest, perturb: Perturb) -> nn.Module:
    return perturb(SYSTEMS[request.param].fuser())


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_a_fuser_is_a_fuser(fuser: nn.Module, images: Images) -> None:
    a, b = images(9, 7, batch=2)
    fused = fuser(a, b)
    assert (fused.shape, fused.dtype, fused.requires_grad) == (a.shape, a.dtype, any(True for _ in fuser.parameters()))


def test_sources_are_left_alone_and_both_matter(fuser: nn.Module, images: Images) -> None:
    a, b = images(12, 12)
    before = a.clone(), b.clone()
    fused = fuser(a, b)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])
    assert (fuser(1 - a, b) - fused).abs().max() > 1e-3
    assert (fuser(a, 1 - b) - fused).abs().max() > 1e-3


def test_the_same_pair_gives_the_same_image(fuser: nn.Module, images: Images) -> None:
    a, b = images(33, 20)
    assert torch.equal(fuser(a, b), fuser(a.clone(), b.clone()))


def test_batch_mates_do_not_matter(fuser: nn.Module, images: Images) -> None:
    a, b = images(24, 17, batch=3)
    together = fuser(a, b)
    with_others = fuser(torch.cat([a[:1], 1 - a[1:]]), torch.cat([b[:1], b[1:].flip(2)]))
    assert torch.equal(together[0], with_others[0])
    assert not torch.equal(together[1], with_others[1])
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], fuser(a[i : i + 1], b[i : i + 1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(61, 83), (1, 1), (5, 7), (1, 40), (40, 1)])
def test_any_size_is_kept(fuser: nn.Module, images: Images, size: tuple[int, int]) -> None:
    a, b = images(*size)
    for fused in (fuser(a, b), fuse_tensors(fuser, a, b)):
        assert fused.shape == (1, 1, *size)
        assert fused.isfinite().all()


def test_images_stay_in_range(fuser: nn.Module, images: Images) -> None:
    with torch.no_grad():
        for parameter in fuser.parameters():  # beyond what training would do: the result is black and white
            parameter.mul_(2)
    a, b = images(16, 16)
    black, white = torch.zeros_like(a), torch.ones_like(a)
    for x, y in ((a, b), (black, black), (white, white), (black, white), (white, black), (a.round(), b.round())):
        low, high = fuser(x, y).aminmax()
        assert 0 <= low <= high <= 1


@pytest.mark.parametrize("name", EVERY)
def test_bfloat16_is_close(name: str, images: Images) -> None:
    torch.manual_seed(0)
    fuser, (a, b) = SYSTEMS[name].fuser().eval(), images(33, 26, batch=2)
    with torch.no_grad():
        exact = fuser(a, b)
        short = fuser.to(torch.bfloat16)(a.bfloat16(), b.bfloat16())
    assert (short.shape, short.dtype) == (exact.shape, torch.bfloat16)
    away = (short.float() - exact).abs()
    assert float(away.mean()) < 0.005
    assert float((away > 0.05).float().mean()) < 0.02, "where a pyramid chooses it may take the other detail"


@pytest.mark.parametrize("name", EVERY)
def test_goes_through_export_with_any_size(name: str, perturb: Perturb, images: Images) -> None:
    fuser = perturb(SYSTEMS[name].fuser())
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.export.export(fuser, images(12, 15, batch=2), dynamic_shapes=(sizes, sizes)).module()
    for size, batch in (((12, 15), 2), ((23, 8), 1)):
        a, b = images(*size, batch=batch, seed=1)
        torch.testing.assert_close(program(a, b), fuser(a, b), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_survives_a_file(name: str, perturb: Perturb, images: Images, tmp_path: Path) -> None:
    fuser = perturb(SYSTEMS[name].fuser())
    weights.save_weights(fuser.state_dict(), tmp_path / "own.safetensors")
    loaded = weights.load(name, tmp_path / "own.safetensors")
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded(*images(9, 9)), fuser.requires_grad_(False)(*images(9, 9)))


@pytest.mark.parametrize("name", LEARNABLE)
def test_objective_returns_terms_and_moves_every_weight(name: str, perturb: Perturb, images: Images) -> None:
    fuser, objective = perturb(SYSTEMS[name].fuser()).train(), SYSTEMS[name].objective()  # type: ignore[misc]
    a, b = images(16, 16, batch=2)
    terms = objective(fuser(a, b), a, b)
    assert terms and all(isinstance(key, str) for key in terms)
    assert all(term.shape == () and float(term.detach()) > 0 for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert_every_weight_moves(fuser)


def assert_every_weight_moves(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


# ---- flat sources stay flat ------------------------------------------------------------------------------------------

WEIGHTS = sorted(cards())


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_flat_pair_gives_a_flat_image_up_to_the_border(name: str) -> None:
    fuser = weights.load(name, device="cpu")
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2), (2, 2), (128, 128), (255, 255)):
        fused = 255 * fuse_tensors(fuser, *(torch.full((1, 1, 45, 70), level / 255) for level in (a, b)))
        low, high = fused.aminmax()
        assert high - low < (2.5 if name.startswith("adasffuse") else 1e-2), f"{a} and {b}"  # its scans begin there
        assert max(a, b) > 2 or high < 6, f"{a} and {b}"


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("black", ["visible", "infrared"])
@pytest.mark.parametrize("part", ["everything", "a region"])
def test_black_and_nearly_black_are_fused_alike(name: str, black: str, part: str) -> None:
    """No gray veil where a source is exactly 0, and no outline of where it is."""
    from tectum.data.synthetic import render

    fuser, scene = weights.load(name, device="cpu"), render(3, (72, 96))
    source, other = (scene.infrared, scene.visible) if black == "infrared" else (scene.visible, scene.infrared)
    source, other, results = source[None, :1] * 0.3 + 0.01, other[None, :1] * 0.25 + 0.01, []
    for level in (0, 1, 2):
        flat = source.clone()
        flat[:, :, : (72 if part == "everything" else 30)] = level / 255
        pair = (other, flat) if black == "infrared" else (flat, other)
        results.append(255 * fuse_tensors(fuser, *pair))
    for one, next_one in pairwise(results):
        away = (one - next_one).abs()
        assert float(away.mean()) < 2.5 and float(away.max()) < 25, f"{float(away.mean())}, {float(away.max())}"


# ---- the published systems -------------------------------------------------------------------------------------------

CONTRACT: dict[str, Callable[..., None]] = {
    "both matter": lambda fuser, images: test_sources_are_left_alone_and_both_matter(fuser, images),
    "deterministic": lambda fuser, images: test_the_same_pair_gives_the_same_image(fuser, images),
    "batch mates": lambda fuser, images: test_batch_mates_do_not_matter(fuser, images),
    "any size": lambda fuser, images: [test_any_size_is_kept(fuser, images, size) for size in ((1, 1), (5, 7))],
    "in range": lambda fuser, images: test_images_stay_in_range(fuser, images),
    "sources differ": lambda fuser, images: assert_sources_differ(fuser, *images(12, 12)),
    "tiles": lambda fuser, images: fuse_tensors(fuser, *images(40, 40), tile=32),
}
KNOWN_FAILURES = {
    "adasffuse-published": {"sources differ", "tiles", "gradients"},
    "sfofusion-published": {"batch mates", "tiles", "gradients"},
    "tdfusion-published": set(),
    "tomiff-published": {"batch mates", "tiles", "gradients"},
}


def assert_sources_differ(fuser: nn.Module, a: Tensor, b: Tensor) -> None:
    assert not torch.equal(fuser(a, b), fuser(b, a))


@pytest.mark.parametrize("name", sorted(KNOWN_FAILURES))
def test_a_published_system_fails_exactly_where_it_is_known_to(name: str, perturb: Perturb, images: Images) -> None:
    """Its defects, and nothing besides; the base of the contract is the same as for the others."""
    system = SYSTEMS[name]
    failures = set()

    def make() -> nn.Module:
        fuser: Any = perturb(system.fuser())
        if name == "adasffuse-published":  # so that little is cut off at 0 and 1
            fuser.output3.weight.data.mul_(0.01)
            fuser.output3.bias.data.fill_(0.5)
        return fuser

    def attempt(word: str, check: Callable[..., Any], *given: Any) -> None:
        try:
            check(*given)
        except (AssertionError, ValueError):
            failures.add(word)

    for word, check in CONTRACT.items():
        attempt(word, check, make(), images)
    attempt("gradients", test_objective_returns_terms_and_moves_every_weight, name, perturb, images)
    assert failures == KNOWN_FAILURES[name]
    assert system.variant == "published" and SYSTEMS[name.removesuffix("-published")].variant == "repaired"


def test_every_published_system_is_known() -> None:
    assert set(KNOWN_FAILURES) == {name for name, system in SYSTEMS.items() if system.variant == "published"}


def test_a_file_of_a_published_network_of_before_it_was_a_system(images: Images, tmp_path: Path) -> None:
    for name in ("sfofusion-published", "adasffuse-published"):
        fuser = SYSTEMS[name].fuser().eval()
        weights.save_weights(
            {f"published.{key}": x for key, x in fuser.state_dict().items()}, tmp_path / "old.safetensors"
        )
        loaded = weights.load(name, tmp_path / "old.safetensors", device="cpu")
        assert torch.equal(loaded(*images(9, 9)), fuser(*images(9, 9)))


# ---- the Laplacian pyramid -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (16, 16), (17, 15), (61, 83)])
@pytest.mark.parametrize("levels", [0, 1, 4, 7])
def test_a_pyramid_of_one_image_is_that_image(images: Images, size: tuple[int, int], levels: int) -> None:
    (x,) = images(*size, batch=2, count=1)
    torch.testing.assert_close(LaplacianPyramid(levels)(x, x), x, rtol=0, atol=1e-6)


def pyramid_by_hand(a: np.ndarray, b: np.ndarray, levels: int) -> np.ndarray:
    """REDUCE and EXPAND as sums over the generating kernel, pixel by pixel, in float64."""
    w = {-2: 1 / 16, -1: 4 / 16, 0: 6 / 16, 1: 4 / 16, 2: 1 / 16}

    def at(x: np.ndarray, i: int, j: int) -> float:
        return float(x[min(max(i, 0), x.shape[0] - 1), min(max(j, 0), x.shape[1] - 1)])

    def reduced(x: np.ndarray) -> np.ndarray:
        def pixel(i: int, j: int) -> float:
            return sum(w[m] * w[n] * at(x, 2 * i + m, 2 * j + n) for m in w for n in w)

        return np.array([[pixel(i, j) for j in range(x.shape[1] // 2)] for i in range(x.shape[0] // 2)])

    def expanded(x: np.ndarray) -> np.ndarray:
        def pixel(i: int, j: int) -> float:
            between = [(m, n) for m in w for n in w if (i - m) % 2 == 0 and (j - n) % 2 == 0]
            return 4 * sum(w[m] * w[n] * at(x, (i - m) // 2, (j - n) // 2) for m, n in between)

        return np.array([[pixel(i, j) for j in range(2 * x.shape[1])] for i in range(2 * x.shape[0])])

    if levels == 0:
        return (a + b) / 2
    coarse_a, coarse_b = reduced(a), reduced(b)
    detail_a, detail_b = a - expanded(coarse_a), b - expanded(coarse_b)
    detail = np.where(np.abs(detail_a) > np.abs(detail_b), detail_a, detail_b)
    return detail + expanded(pyramid_by_hand(coarse_a, coarse_b, levels - 1))


def test_the_pyramid_is_that_of_burt_and_adelson(images: Images) -> None:
    size, levels = (9, 14), 2
    a, b = (x.double() for x in images(*size))
    rows, columns = 16 - 9, 20 - 14  # to whole multiples of 4 that are at least 4 more
    filled = (np.pad(x[0, 0].numpy(), ((0, rows), (0, columns)), mode="edge") for x in (a, b))
    expected = pyramid_by_hand(*filled, levels)[: size[0], : size[1]].clip(0, 1)
    np.testing.assert_allclose(LaplacianPyramid(levels)(a, b)[0, 0].numpy(), expected, rtol=0, atol=1e-12)


def test_the_pyramid_takes_detail_from_where_it_is(images: Images) -> None:
    """Fine structure of one source over the flat other stays whole; the mean level is that of both."""
    stripes = 0.6 + 0.1 * torch.tensor([1.0, -1.0]).repeat(64).expand(1, 1, 128, 128)
    flat = torch.full_like(stripes, 0.3)
    for fused in (LaplacianPyramid()(flat, stripes), LaplacianPyramid()(stripes, flat)):
        inside = (fused - stripes)[..., 48:80]  # away from the borders, where stripes end
        torch.testing.assert_close(inside, torch.full_like(inside, -0.15), rtol=0, atol=1e-3)
    a, b = (x.requires_grad_() for x in images(20, 21))
    LaplacianPyramid()(a, b).square().mean().backward()
    assert a.grad is not None and b.grad is not None and a.grad.abs().max() > 0 < b.grad.abs().max()
    with pytest.raises(ValueError, match="levels must be 0 or more, got -1"):
        LaplacianPyramid(-1)


# ---- TDFusion: sizes -------------------------------------------------------------------------------------------------


def test_parameters_of_the_fuser() -> None:
    fuser = TDFusion()
    assert count(fuser) == 59_856
    assert count(fuser.embed_infrared) == count(fuser.embed_visible) == 144
    assert count(fuser.encoder_infrared) == count(fuser.encoder_visible) == 7_280
    assert count(fuser.fusion) == 15_472
    assert count(fuser.decoder) == 24_784 == 2 * count(fuser.decoder[0])
    assert (count(fuser.output_hidden), count(fuser.output)) == (4_608, 144)
    block: Any = fuser.encoder_visible[0]
    parts = (block.norm1, block.norm2, block.attn.qkv, block.attn.qkv_dwconv, block.attn.project_out)
    assert [count(part) for part in parts] == [32, 32, 768, 432, 256]
    assert block.attn.temperature.shape == (8, 1, 1)
    assert [count(p) for p in (block.ffn.project_in, block.ffn.dwconv, block.ffn.project_out)] == [1_024, 576, 512]


def test_parameters_of_the_loss_generator() -> None:
    generator = LossGenerator()
    assert count(generator) == 44_529
    assert count(generator.embed_infrared) == count(generator.embed_visible) == 144
    assert count(generator.encoder_infrared) == count(generator.encoder_visible) == 7_280
    assert count(generator.decoder) == 24_784
    assert [count(p) for p in (generator.output_hidden, generator.activation, generator.output)] == [4_608, 1, 288]
    assert float(generator.activation.weight.detach()) == 0.25
    assert not [name for name, _ in generator.named_parameters() if name.endswith("bias") and "norm" not in name]


# ---- TDFusion: the network is the published one ----------------------------------------------------------------------


def as_published(network: nn.Module) -> dict[str, Tensor]:
    """A state dict as it was released: normalisations in a `body`, every convolution's weight stored twice."""
    state = {}
    for name, value in network.state_dict().items():
        first, dot, last = name.rpartition(".")
        if first.endswith(("norm1", "norm2")):
            name = f"{first}.body{dot}{last}"
        state[name] = value
        if value.dim() == 4 and last == "weight":
            state[f"{first}.conv.weight"] = value
    return state


CHECKPOINTS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "once": lambda state: {name: x for name, x in state.items() if not name.endswith(".conv.weight")},
    "parallel": lambda state: {f"module.{name}": x for name, x in state.items()},
    "nested": lambda state: {"epoch": 40, "state_dict": state},
    "nested twice": lambda state: {"best": {"score": 0.5, "model": {f"module.{n}": x for n, x in state.items()}}},
    "beside a number": lambda state: state | {"epoch": 40},
    "double": lambda state: {name: x.double() for name, x in state.items()},
}


@pytest.fixture
def published(literal: ModuleType, perturb: Perturb) -> nn.Module:
    """The network written as it was published, with weights under which every part matters."""
    return perturb(literal.LiteralTDFusion(), 3)


def test_a_release_has_140_entries(published: nn.Module) -> None:
    state = as_published(published)
    assert len(state) == 140
    assert sum(x.numel() for x in state.values()) == 119_136


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_converted_weights_give_the_published_network(
    published: nn.Module, images: Images, kind: str, tmp_path: Path
) -> None:
    torch.save(CHECKPOINTS[kind](as_published(published)), tmp_path / "theirs.pth")
    assert convert(tmp_path / "theirs.pth", tmp_path / "new" / "ours.safetensors") == 59_856
    ours = weights.load("tdfusion", tmp_path / "new" / "ours.safetensors")
    a, b = images(37, 52, batch=2)
    with torch.no_grad():
        expected = published(a, b)
        assert expected.std() > 0.02, "weights that make a flat image prove nothing"
        assert (published(b, a) - expected).abs().max() > 0.05, "nor do weights that treat both sources alike"
        torch.testing.assert_close(ours(a, b), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(fuse_tensors(ours, a, b, tile=32), expected, rtol=0, atol=1e-5)


def test_weights_saved_on_a_gpu_are_converted_without_one(
    published: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(as_published(published), tmp_path / "theirs.pth")
    assert convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors") == 59_856


def test_arrays_are_converted_too(published: nn.Module, images: Images, tmp_path: Path) -> None:
    np.savez(tmp_path / "theirs.npz", **{name: x.numpy() for name, x in as_published(published).items()})
    convert(tmp_path / "theirs.npz", tmp_path / "ours.safetensors")
    a, b = images(9, 11)
    ours = weights.load("tdfusion", tmp_path / "ours.safetensors")
    torch.testing.assert_close(ours(a, b), published(a, b).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "schedule"), [("00710N", "whole"), ("00710N", "stripes"), ("00906N", "stripes"), ("00906N", "tiles")]
)
def test_published_weights_give_the_published_output(refusion: Path, tmp_path: Path, name: str, schedule: str) -> None:
    import cv2

    luminances = []
    for role in ("visible", "infrared"):
        rgb = cv2.imread(os.fspath(refusion / f"{name}_{role}.png"))[:, :, ::-1].astype(np.float32)
        y = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2YCrCb)[:, :, 0] / 255
        luminances.append(torch.from_numpy(y)[None, None])
    convert(refusion / "ReFusion_IVIF.npz", tmp_path / "ivif.safetensors")
    fuser = weights.load("tdfusion", tmp_path / "ivif.safetensors")
    expected = torch.from_numpy(np.load(refusion / f"{name}_output.npz")["fused"])
    if schedule == "whole":
        fused = fuser(*luminances)
    else:
        fused = fuse_tensors(fuser, *luminances, tile=320 if schedule == "tiles" else None)
    torch.testing.assert_close(fused[0, 0], expected, rtol=0, atol=1e-6)


# Values of benchmarks/literal.py in float64 at every third of the rows and columns, with the weights of `wave_weights`.
# With the published weights the same module gives the published outputs of two real pairs to 6e-7.
RELEASED_NETWORK: dict[str, list[float]] = {
    "night": [
        *(0.493436018, 0.416881259, 0.480388126, 0.537717964, 0.535608194, 0.563370949, 0.545037062, 0.486922146),
        *(0.413863065, 0.463799684, 0.468592312, 0.571755705, 0.526500641, 0.539082192, 0.384364355, 0.442530771),
    ],
    "dusk": [
        *(0.483203232, 0.375845997, 0.518403962, 0.441465647, 0.484084437, 0.552469025, 0.460770196, 0.420552432),
        *(0.29706952, 0.466364602, 0.672322459, 0.530025051),
    ],
}


def wave_weights(network: nn.Module) -> nn.Module:
    """Weights by a formula, under which the order of the sources and every part matters."""
    with torch.no_grad():
        for k, (name, parameter) in enumerate(sorted(network.named_parameters())):
            wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * (0.7 + 0.01 * k) + k)
            mean = 1.0 if name.endswith(("norm1.weight", "norm2.weight")) or "temperature" in name else 0.0
            scale = 0.4 if parameter.dim() < 4 else 1.5 / parameter[0].numel() ** 0.5
            parameter.copy_(mean + scale * wave.reshape(parameter.shape))
    return network.eval()


@pytest.mark.parametrize("scene", RELEASED_NETWORK)
def test_the_released_network_on_rendered_scenes(literal: ModuleType, scene: str, tmp_path: Path) -> None:
    """The check of the released network that needs no data and no weights of others."""
    pixels = [Image.open(GOLDEN / f"{scene}-{side}.png") for side in ("visible", "infrared")]
    a, b = (torch.from_numpy(np.asarray(image, np.float32) / 255)[None, None] for image in pixels)
    released = wave_weights(literal.LiteralTDFusion())
    torch.save(as_published(released), tmp_path / "theirs.pth")
    convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    ours = weights.load("tdfusion", tmp_path / "ours.safetensors", device="cpu")
    height, width = a.shape[2:]
    expected = torch.tensor(RELEASED_NETWORK[scene])
    for fused in (released.double()(a.double(), b.double()), ours(a, b), fuse_tensors(ours, a, b, tile=32)):
        values = fused[0, 0, :: height // 3, :: width // 3].flatten().float()
        torch.testing.assert_close(values, expected, rtol=0, atol=2e-6)


# ---- TDFusion: derivatives -------------------------------------------------------------------------------------------


def test_forward_mode_equals_finite_differences(perturb: Perturb, derivatives: Images) -> None:
    """What the image does when the weights move along v: one forward pass, needed by the learned loss."""
    out, plain, u, difference = derivatives(perturb(TDFusion()).double())
    assert torch.equal(out, plain)
    assert u.abs().max() > 0.1
    assert (u - difference).norm() / u.norm() < 1e-7


def test_backward_goes_through_backward(perturb: Perturb, images: Images) -> None:
    fuser = perturb(TDFusion()).double()
    a, b = (x.double() for x in images(7, 6))
    theta = dict(fuser.named_parameters())
    generator = torch.Generator().manual_seed(6)
    v = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in theta.items()}

    def slopes(moved: dict[str, Tensor], *, graph: bool) -> tuple[Tensor, ...]:
        loss = (functional_call(fuser, moved, (a, b)) - torch.maximum(a, b)).square().mean()
        return torch.autograd.grad(loss, list(moved.values()), create_graph=graph)

    along = sum((g * v[name]).sum() for name, g in zip(theta, slopes(theta, graph=True), strict=True))
    curvature = torch.autograd.grad(along, list(theta.values()))
    step = 1e-6
    ahead, behind = (
        slopes({name: (p + sign * step * v[name]).detach().requires_grad_() for name, p in theta.items()}, graph=False)
        for sign in (1, -1)
    )
    difference = torch.cat([((x - y) / (2 * step)).flatten() for x, y in zip(ahead, behind, strict=True)])
    exact = torch.cat([g.flatten() for g in curvature])
    assert exact.norm() > 1e-3
    assert (exact - difference).norm() / exact.norm() < 1e-6


# ---- TDFusion: the loss ----------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A generator that gives the visible the same weight everywhere."""

    def __init__(self, of_visible: float) -> None:
        super().__init__()
        self.of_visible = of_visible

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([torch.full_like(a, self.of_visible), torch.full_like(b, 1 - self.of_visible)], dim=1)


def test_generated_weights_are_shares(perturb: Perturb, images: Images) -> None:
    generator = perturb(LossGenerator())
    a, b = images(13, 9, batch=2)
    w = generator(a, b)
    assert w.shape == (2, 2, 13, 9) and float(w.detach().min()) > 0
    torch.testing.assert_close(w.sum(1), torch.ones(2, 13, 9))
    assert w.std() > 0.05
    assert (generator(1 - a, b) - w).abs().max() > 0.01 < (generator(a, 1 - b) - w).abs().max()
    fixed = TDFusionLoss().weights(a, b)
    assert fixed.shape == w.shape and fixed.unique().tolist() == [0.5]


def test_an_untrained_generator_is_near_one_half(images: Images) -> None:
    torch.manual_seed(0)
    w = LossGenerator()(*images(32, 32))[:, 0]
    assert 0.35 < float(w.detach().mean()) < 0.65


@pytest.mark.parametrize("make", [TDFusionLoss, PublishedTDFusionLoss])
def test_the_learned_loss_moves_every_weight_of_its_generator(perturb: Perturb, images: Images, make: Any) -> None:
    objective = make(perturb(LossGenerator()))
    fused, a, b = images(16, 16, batch=2, count=3)
    torch.stack(list(objective(fused, a, b).values())).sum().backward()
    assert_every_weight_moves(objective)
    assert not list(make().parameters())


@pytest.mark.parametrize(("make", "best"), [(TDFusionLoss, 0.7), (PublishedTDFusionLoss, 0.49 / 0.58)])
def test_where_the_intensity_term_is_smallest(images: Images, make: Any, best: float) -> None:
    """Weights 0.7 and 0.3 should mix 0.7 of the visible; squared, as released, they mix 0.845."""
    a, b = (x.double() for x in images(8, 8))
    objective = make(Constant(0.7))
    fused = (best * a + (1 - best) * b).requires_grad_()
    (slope,) = torch.autograd.grad(objective(fused, a, b)["intensity"], fused)
    assert slope.abs().max() < 1e-15
    other = (1.19 - best) * a + (best - 0.19) * b
    assert objective(other, a, b)["intensity"] > objective(fused, a, b)["intensity"]


def test_published_weights_of_one_half_count_half(images: Images) -> None:
    fused, a, b = images(8, 8, count=3)
    repaired, published = (make()(fused, a, b)["intensity"] for make in (TDFusionLoss, PublishedTDFusionLoss))
    assert float(published) == pytest.approx(float(repaired) / 2, rel=1e-6)


def test_only_the_published_gradient_sees_an_edge_at_the_border(images: Images) -> None:
    height, width, difference = 6, 9, 0.25
    a = torch.full((1, 1, height, width), 0.5)
    fused = a + difference
    assert TDFusionLoss()(fused, a, a)["gradient"] == 0
    border = 2 * ((4 * height - 2) + (4 * width - 2)) * difference / (height * width)
    assert float(PublishedTDFusionLoss()(fused, a, a)["gradient"]) == pytest.approx(border, rel=1e-6)

    fused, a, b = images(8, 8, count=3)  # and inside, both are the same: frames of zeros move the border outwards

    def framed(x: Tensor) -> Tensor:
        return nn.functional.pad(x, (2, 2, 2, 2))

    both = (make()(framed(fused), framed(a), framed(b)) for make in (TDFusionLoss, PublishedTDFusionLoss))
    repaired, published = (float(terms["gradient"]) for terms in both)
    assert repaired == pytest.approx(published, rel=1e-6)


def test_alpha_weighs_the_gradient_alone(images: Images) -> None:
    fused, a, b = images(8, 8, count=3)
    one, three = TDFusionLoss()(fused, a, b), TDFusionLoss(alpha=3)(fused, a, b)
    assert set(one) == {"intensity", "gradient"}
    assert three["intensity"] == one["intensity"]
    assert float(three["gradient"]) == pytest.approx(3 * float(one["gradient"]), rel=1e-6)
