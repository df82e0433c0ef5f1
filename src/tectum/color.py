"""Luminance and colour: RGB <-> YCbCr, and which of two chromas the fused image keeps.

Networks fuse luminance only; the chroma of the sources is put back afterwards. JPEG's full-range BT.601 transform,
with R, G, B, Y in [0,1] and the chroma centred on 0:

    Y  = G + 0.299 (R - G) + 0.114 (B - G)          = 0.299 R + 0.587 G + 0.114 B
    Cb = (B - Y) / 1.772        Cr = (R - Y) / 1.402
    B  = Y + 1.772 Cb           R  = Y + 1.402 Cr   G = Y - (0.114 * 1.772 Cb + 0.299 * 1.402 Cr) / 0.587

Y is written with differences so that R = G = B gives Y = R and Cb = Cr = 0 exactly, in float32 too: a grey image stays
grey to the last bit. JPEG stores an 8-bit chroma as 255 C + 128; code 128 is C = 0 (the offset is 128/255, not 1/2).

Gamut. A fused Y with the old chroma may leave [0,1]^3, at lamps above all. `ycbcr_to_rgb` then moves the colour toward
the grey of the same Y, per pixel and no further than needed:

    RGB = Y + s D,   D = RGB(Y, C) - Y,   s = min(1, min_c (1 - Y) / D_c over D_c > 0, min_c Y / -D_c over D_c < 0)

which keeps Y and the hue (the direction of C) and gives up saturation: at Y = 1 everything is white. Clamping each
channel (`keep_luminance=False`) keeps more colour there, but changes Y and turns the hue. Over 17 night pairs of MSRS,
with the visible chroma, clamping changed Y by 0.01 of 255 on average but by up to 14 (mean of the luminances) or 28
(maximum); with the mean it turned the hue by 5 degrees at the 99th percentile of coloured pixels, and yellow-green
leaves became pure green. With Y raised by 60 %, lamps got coloured rings. The default did neither, but whitens lamps.

Chroma rule, for sources with chroma c_a and c_b. A grey source (None, or all below half an 8-bit step) gives way to the
other. Where both have colour, the fused image keeps that of a, the colour-bearing one: what colour a thermal camera
shows is false. Two foci (`mix=True`) mix theirs, the more saturated leading (exposures: `tectum.fusion.stack`):

    C = (c_a |c_a| + c_b |c_b|) / (|c_a| + |c_b|)          per pixel and channel, 0 where both are 0

Every computation of tectum imports this file, so it also sees to it that a process forked from one that has computed
uses one thread: `multiprocessing` forks by default on Linux before Python 3.14.

Reference:
    Information technology - Digital compression and coding of continuous-tone still images: JPEG File Interchange
    Format (JFIF). ITU-T T.871, 2011. https://www.itu.int/rec/T-REC-T.871
"""

import os

import torch
from torch import Tensor

from tectum.errors import UserError

RED, BLUE = 0.299, 0.114  # BT.601 weights; green has the rest
_GREEN = 1.0 - RED - BLUE
_GREY_CHROMA = 0.5 / 255  # chroma this small rounds to none in 8 bits
_TINY = 1e-12

if hasattr(os, "register_at_fork"):  # OpenMP's threads do not live on in a forked child, which would wait for them
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def check_luminances(a: Tensor, b: Tensor) -> None:
    """Refuse two tensors that are not luminances (B,1,H,W) of one shape, dtype and device.

    Raises:
        UserError: they are not; the sentence says what came.
    """
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        raise UserError(f"a and b must be tensors (B,1,H,W), got {type(a).__name__} and {type(b).__name__}")
    shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
    if any(x.dim() != 4 or x.shape[1] != 1 for x in (a, b)):
        raise UserError(f"a and b must be luminances (B,1,H,W), got {shapes}; see tectum.color.rgb_to_ycbcr")
    if a.shape != b.shape:
        raise UserError(
            f"a and b must share one shape, got {shapes}; register or resize them first (--resize, --align)"
        )
    if not a.is_floating_point() or a.dtype != b.dtype or a.device != b.device:
        raise UserError(
            f"a and b must be floating point in [0,1], of one dtype and on one device, got {a.dtype} on {a.device} and "
            f"{b.dtype} on {b.device}; convert them first"
        )


def rgb_to_ycbcr(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Split colour into luminance and chroma.

    Args:
        rgb: (..., 3, H, W) in [0,1].

    Returns:
        y (..., 1, H, W) in [0,1] and chroma (..., 2, H, W) = (Cb, Cr) in [-1/2, 1/2], exactly 0 for grey.

    Raises:
        ValueError: if there are not three channels.

    >>> y, chroma = rgb_to_ycbcr(torch.full((3, 2, 2), 0.3))
    >>> bool((y == 0.3).all()), bool((chroma == 0).all())
    (True, True)
    """
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise UserError(f"rgb must be (..., 3, H, W), got {tuple(rgb.shape)}; repeat a grey channel three times first")
    red, green, blue = rgb.unbind(-3)
    y = green + RED * (red - green) + BLUE * (blue - green)
    chroma = torch.stack(((blue - y) / (2 - 2 * BLUE), (red - y) / (2 - 2 * RED)), dim=-3)
    return y.unsqueeze(-3), chroma


def ycbcr_to_rgb(y: Tensor, chroma: Tensor, *, keep_luminance: bool = True) -> Tensor:
    """Join luminance and chroma into colour, inside [0,1].

    Args:
        y: (..., 1, H, W) in [0,1]; values outside are clamped first.
        chroma: (..., 2, H, W), centred on 0.
        keep_luminance: bring a colour outside the gamut back by lowering its saturation (Y and hue stay); False clamps
            each channel (as most fusion code does: hue and Y shift).

    Returns:
        rgb (..., 3, H, W) in [0,1].

    Raises:
        ValueError: if the shapes do not fit.

    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    >>> y, chroma = rgb_to_ycbcr(red)
    >>> [round(v, 3) for v in ycbcr_to_rgb(y + 0.4, chroma).flatten().tolist()]  # Y is 0.699, still a red
    [1.0, 0.571, 0.571]
    """
    if y.ndim < 3 or y.shape[-3] != 1 or chroma.shape != (*y.shape[:-3], 2, *y.shape[-2:]):
        raise UserError(
            f"y must be (..., 1, H, W) and chroma (..., 2, H, W) of one size, got {tuple(y.shape)} and "
            f"{tuple(chroma.shape)}; resize the chroma to the luminance first"
        )
    y = y.clamp(0, 1)
    cb, cr = chroma.unbind(-3)
    blue, red = (2 - 2 * BLUE) * cb, (2 - 2 * RED) * cr
    offset = torch.stack((red, -(BLUE * blue + RED * red) / _GREEN, blue), dim=-3)  # D = RGB - Y, weighted sum 0
    if keep_luminance:
        highest, lowest = offset.amax(-3, keepdim=True), offset.amin(-3, keepdim=True)
        room = torch.minimum((1 - y) / highest.clamp_min(_TINY), y / (-lowest).clamp_min(_TINY))
        offset = offset * room.clamp_max(1)
    return (y + offset).clamp(0, 1)


HALF_UP = 0.5 + 1e-4
"""Added before truncation: a half of a level is seldom exact in floats, and is meant to go up."""


def to_levels(y: Tensor) -> Tensor:
    """Round values in [0,1] to the nearest of 256 levels, halves up, as an 8-bit file keeps them.

    >>> (to_levels(torch.tensor([0.1, 126.5 / 255, 1.2])) * 255).tolist()
    [26.0, 127.0, 255.0]
    """
    return y.mul(255).add_(HALF_UP).floor_().clamp_(0, 255).div_(255)


def choose_chroma(chroma_a: Tensor | None, chroma_b: Tensor | None, *, mix: bool = False) -> Tensor | None:
    """The chroma of the fused image.

    Args:
        chroma_a, chroma_b: (..., 2, H, W) centred on 0, or None for a grey source.
        mix: the two are of one kind, so that both colours are true.

    Returns:
        The other's chroma where one source is grey; None where both are; else a's, or the saturation-weighted mix.

    Raises:
        ValueError: if two chromas differ in shape.

    >>> warm, cold = torch.full((2, 1, 1), 0.2), torch.full((2, 1, 1), -0.1)
    >>> [round(v, 3) for v in choose_chroma(warm, cold, mix=True).flatten().tolist()]
    [0.1, 0.1]
    >>> choose_chroma(None, cold) is cold, choose_chroma(None, None) is None
    (True, True)
    """
    if chroma_a is not None and chroma_b is not None and chroma_a.shape != chroma_b.shape:
        raise UserError(
            f"both chromas must share one shape, got {tuple(chroma_a.shape)} and {tuple(chroma_b.shape)}; "
            "register or resize the images first"
        )
    chroma_a, chroma_b = none_if_grey(chroma_a), none_if_grey(chroma_b)
    if chroma_a is None or chroma_b is None:
        return chroma_a if chroma_b is None else chroma_b
    if not mix:
        return chroma_a
    weight_a, weight_b = chroma_a.abs(), chroma_b.abs()
    return (chroma_a * weight_a + chroma_b * weight_b) / (weight_a + weight_b).clamp_min(_TINY)


def none_if_grey(chroma: Tensor | None) -> Tensor | None:
    """Returns None for a chroma that rounds to none in 8 bits."""
    return None if chroma is None or bool(chroma.abs().amax() < _GREY_CHROMA) else chroma
