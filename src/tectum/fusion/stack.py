"""Exposure or focus stack of three or more pictures, merged into the two that a fuser takes.

The pictures are put in an order that does not depend on the one given, and cut into two halves: exposures into the
brighter and the darker ones, of an odd number the middle one with the darker. Each half is merged at once, scale by
scale in Laplacian pyramids L by Gaussian pyramids G of weights over its n pictures (Mertens, Kautz and Van Reeth):

    L_l{merged} = sum_k G_l{w_k} L_l{x_k},    w_k = v_k m_k / sum_j v_j m_j,    v_k = where k is valid, times its alpha

    exposures   m = (|Laplacian y| + c)^4 exp(-(y - t)^2 / (2 0.1^2))      contrast and being well exposed
    foci        m = (mean of (Laplacian y)^2 over 7 x 7 pixels + c)^4      local energy of the finest details

Luminance and chroma have the same weights. So each picture counts where it is best, however many there are, and the
fuser fuses once, two pictures as far apart as those it was made for. Two pictures are left as they are. Here t = 3/4 in
the brighter half and 1/2 in the darker.

The chroma of two exposures is merged in the same way: m = (|Laplacian y| + c) exp(-(y - 1/2)^2 / (2 0.2^2)).

Differs from Mertens' weights: saturation is left out, which is 0 in grey pictures; c lets exposure decide where a
picture has no contrast at all, in place of a plain mean; the fourth power and t = 3/4 leave the shadows to the
brightest, however many there are. Chosen on rendered brackets and on brackets made of pairs of MEFB, see docs/log.md.

Reference: Exposure Fusion, Mertens, Kautz and Van Reeth, Pacific Graphics 2007, https://doi.org/10.1109/PG.2007.17
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.color import choose_chroma, none_if_grey
from tectum.io.files import fingerprint
from tectum.io.image import Picture
from tectum.kinds import Kind
from tectum.nn.filters import box_mean
from tectum.nn.pyramid import merge

_BRIGHT_TARGET, _DARK_TARGET, _DEVIATION = 0.75, 0.5, 0.1
_LEAST_CONTRAST, _LEAST_ENERGY = 1e-3, 1e-6


def merge_to_two(pictures: Sequence[Picture], kind: Kind) -> tuple[Picture, Picture]:
    """Merge three or more pictures of one size into two; the first is the brighter one of exposures.

    Returns:
        Two pictures whose values do not depend on the order of those given, to the bit.
    """
    exposures = kind.order == "brightness"
    places = [_find_place(picture, exposures=exposures) for picture in pictures]
    ties = len(set(places)) < len(places)  # only then a hash of the pixels is needed
    keys = [(place, _hash(picture) if ties else "") for place, picture in zip(places, pictures, strict=True)]
    ordered = [pictures[i] for i in sorted(range(len(pictures)), key=lambda i: keys[i])]
    half = len(ordered) // 2
    first = _merge(ordered[:half], _measure_bright if exposures else _measure_sharpness)
    second = _merge(ordered[half:], _measure_dark if exposures else _measure_sharpness)
    swapped = exposures and first.brightness < second.brightness
    return (second, first) if swapped else (first, second)


def mix_chroma(a: Picture, b: Picture) -> Tensor | None:
    """Chroma of two exposures fused, (2,H,W): merged scale by scale, the better exposed of each place leading.

    A rule pixel by pixel meets the hue of clipped channels beside that of dark pixels: an olive wall in yellow light.
    """
    if none_if_grey(a.chroma) is None or none_if_grey(b.chroma) is None:
        return choose_chroma(a.chroma, b.chroma)
    planes, weights = _weigh([a, b], _measure_pair, has_colour=True)
    return merge([x[1:] for x in planes], weights)[:, 0] - 0.5


def _find_place(picture: Picture, *, exposures: bool) -> float:
    """The place of a picture in the order: minus its brightness, or how far down its sharp parts lie, in rows."""
    if exposures:
        shown = _visibility(picture)[0].double()
        return -float((picture.y * shown).sum() / shown.sum().clamp_min(1))
    energy = _energy(picture.y[None]).double().mean(3).flatten()
    return float((energy * torch.arange(len(energy))).sum() / energy.sum())


def _hash(picture: Picture) -> str:
    return fingerprint(picture.y, *([] if picture.chroma is None else [picture.chroma]))


def _merge(pictures: Sequence[Picture], measure: Callable[[Tensor], Tensor]) -> Picture:
    """Merge the pictures of one half; one alone is left as it is."""
    if len(pictures) == 1:
        return pictures[0]
    has_colour = any(picture.chroma is not None for picture in pictures)
    merged = merge(*_weigh(pictures, measure, has_colour=has_colour))
    alphas = [picture.alpha for picture in pictures if picture.alpha is not None]
    valids = [picture.valid for picture in pictures if picture.valid is not None]
    return replace(
        pictures[0],
        y=merged[0],
        chroma=merged[1:, 0] - 0.5 if has_colour else None,
        alpha=torch.stack(alphas).amax(0) if len(alphas) == len(pictures) else None,
        valid=torch.stack(valids).any(0) if len(valids) == len(pictures) else None,
    )


def _weigh(
    pictures: Sequence[Picture], measure: Callable[[Tensor], Tensor], *, has_colour: bool
) -> tuple[list[Tensor], Tensor]:
    """Planes of the pictures, n of (1 or 3,1,H,W), and their weights (n,1,H,W), which sum to 1 at each pixel."""
    visible = [_visibility(picture) for picture in pictures]
    planes = _fill([_planes(picture, has_colour=has_colour) for picture in pictures], visible)
    weights = torch.cat([measure(x[:1]) * v for x, v in zip(planes, visible, strict=True)])
    total = weights.sum(0, keepdim=True)
    return planes, torch.where(total > 0, weights / total.clamp_min(1e-30), 1 / len(pictures))


def _visibility(picture: Picture) -> Tensor:
    """Where and how much a picture shows something, (1,1,H,W) in [0,1]."""
    shown = torch.ones_like(picture.y) if picture.alpha is None else picture.alpha
    return (shown if picture.valid is None else shown * picture.valid)[None]


def _planes(picture: Picture, *, has_colour: bool) -> Tensor:
    """Luminance, and chroma around 1/2, as a batch (1 or 3,1,H,W) in [0,1]."""
    if not has_colour:
        return picture.y[None]
    chroma = picture.y.new_zeros(2, *picture.y.shape[1:]) if picture.chroma is None else picture.chroma
    return torch.cat((picture.y, chroma + 0.5))[:, None]


def _fill(planes: Sequence[Tensor], visible: Sequence[Tensor]) -> list[Tensor]:
    """The planes, with what a picture does not show taken from the mean of the others: coarse scales look beyond it."""
    if all(bool((v == 1).all()) for v in visible):
        return list(planes)
    total = torch.stack(list(visible)).sum(0)
    mean = sum(x * v for x, v in zip(planes, visible, strict=True)) / total.clamp_min(1e-6)
    return [torch.where(total > 0, mean + v * (x - mean), x) for x, v in zip(planes, visible, strict=True)]


def _measure_pair(y: Tensor) -> Tensor:
    return _measure_exposure(y, 0.5, deviation=0.2, power=1)


def _measure_bright(y: Tensor) -> Tensor:
    return _measure_exposure(y, _BRIGHT_TARGET)


def _measure_dark(y: Tensor) -> Tensor:
    return _measure_exposure(y, _DARK_TARGET)


def _measure_exposure(y: Tensor, target: float, *, deviation: float = _DEVIATION, power: float = 4) -> Tensor:
    contrast = (_laplacian(y).abs() + _LEAST_CONTRAST) ** power
    return contrast * torch.exp(-((y - target) / deviation).square() / 2)


def _measure_sharpness(y: Tensor) -> Tensor:
    return _energy(y) ** 4


def _energy(y: Tensor) -> Tensor:
    return box_mean(_laplacian(y).square(), 3) + _LEAST_ENERGY


def _laplacian(y: Tensor) -> Tensor:
    """The sum of the four neighbours minus four times the pixel, (B,1,H,W); the border is repeated."""
    kernel = y.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return F.conv2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), kernel)
