"""Registration of an infrared image to a visible one, with the simplest transform that explains the pair.

Contrast between the two modalities differs in sign and size, the direction of an edge does not. So both images become
normalised gradient fields with the angle doubled (an edge and its inverse are the same), as complex numbers

    z = (gx + i gy)^2 / (|g|^2 + mean |g|^2),   smoothed a little,

and the measure is their correlation, which no monotone or inverted contrast changes by much and unrelated content
leaves near 0:

    score(W) = Re sum z_a conj(z_b o W) / sqrt(sum |z_a|^2 sum |z_b o W|^2)          in [-1, 1], higher is better.

W maps visible to infrared pixels. For each model in turn (translation, similarity, affine, homography) it is found by
exhaustive search at 160x120 (rotations, scales, and all shifts at once by FFT), then by Gauss-Newton steps on the
score's linearisation at 160x120, 320x240 and 640x480, as `cv2.findTransformECC` takes them, with a weak prior that
pulls rotation, scale and shear towards plain resizing. A freer model replaces a simpler one, and any model replaces
plain resizing, only for a clear gain: score(W') >= ratio * score(W), and seen all over the picture,

    evidence = mean gain / standard error     over the gains of 8x6 blocks of the picture.

The ratio is large (1.5) against plain resizing: a pair that was aligned well is to stay as it is, and in one real pair
an offset of a few pixels cannot be told from parallax. The result is believed if it stands out from the scores of the
same two fields shifted elsewhere:

    contrast = (score - mean) / std   over all shifts from 4 % of the width to 30 % of the shorter side.

Outside the infrared camera's view `warp` repeats the border pixels, and `valid_mask` says where that is: show the
visible image there, y = v fused + (1 - v) visible. A black border would be fused as if it were a cold wall.

Reference: Intensity gradient based registration and fusion of multi-modal images, E. Haber and J. Modersitzki, 2006,
    https://doi.org/10.1007/11866763_89; Parametric image alignment using enhanced correlation coefficient maximization,
    G. Evangelidis and E. Psarakis, 2008, https://doi.org/10.1109/TPAMI.2008.113

Differs from `cv2.findTransformECC`, which takes one channel before OpenCV 5 and has no prior: on the gradient
    magnitude alone, from the same start, its corners ended 150 px off in every tenth of the real pairs; an earlier,
    affine version of this file, measured with it, 16 px.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tectum.errors import UserError
from tectum.io.image import px
from tectum.registration.gradient_search import (
    FREEDOMS,
    Array,
    Size,
    contrast,
    corner_points,
    dot,
    gradient_field,
    limit_size,
    move_field,
    plain_matrix,
    refine,
    resize,
    score,
    search_shifts,
    size_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from tectum.registration.camera_rig import Rig

_Level = tuple[Array, Array, Array]  # field of the visible image, field of the infrared, the infrared itself
Model = Literal["translation", "similarity", "affine", "homography"]

MODELS = tuple(FREEDOMS)
LEVELS = (19_200, 76_800, 307_200)  # pixels; larger images are registered at the last, which bounds the time

# Chosen on real pairs, see docs/alignment.md.
_MIN_CONTRAST, _MIN_SCORE = 4.75, 0.11
# The smallest (ratio of scores, evidence) for leaving plain resizing, and for taking a freer model after that.
_LEAVE_PLAIN = (1.5, 2.0)
_TAKE_FREER = (1.05, 2.0)


@dataclass(frozen=True, eq=False)
class Registration:
    """The transform from one visible image to one infrared image, with its scores.

    Attributes:
        matrix: (3,3), maps visible pixel coordinates (x, y, 1) to infrared ones, as `cv2.warpPerspective` takes it
            with WARP_INVERSE_MAP.
        visible_size, infrared_size: (height, width).
        score_before, score_after: of plain resizing and of the matrix, in [-1, 1], higher is better; it never falls.
        shift_px: largest displacement of a corner against plain resizing, in visible pixels.
        model: the simplest that sufficed: "plain" (resizing alone) or one of MODELS.
    """

    matrix: Array
    visible_size: Size
    infrared_size: Size
    score_before: float
    score_after: float
    shift_px: float
    model: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", check_matrix(self.matrix, self.visible_size, self.infrared_size))


def register(
    visible: Array, infrared: Array, *, model: Model = "similarity", max_shift: float = 0.08, prudent: bool = True
) -> Registration:
    """Find the transform between a visible and an infrared image, each of its own size.

    Scales of 0.94 to 1.06 and rotations of up to 3 degrees are searched. One transform cannot follow parallax, and
    where one camera sees little (night) the corners may be off by several pixels: look at the result.

    Args:
        visible, infrared: luminances (H,W) in [0,1], at least 32 pixels a side; NaN where there is no data.
        model: the largest freedom allowed.
        max_shift: largest displacement of a corner against plain resizing, in widths of the visible image.
        prudent: leave a pair alone that plain resizing fits nearly as well; False takes the best transform of `model`
            however small its gain, for a rig, where many pairs vouch for one transform.

    Raises:
        UserError: the two do not match well enough to believe the result.
    """
    model_name, matrix, before, after, contrast = _find_transform(
        visible, infrared, model=model, max_shift=max_shift, prudent=prudent
    )
    size, infrared_size = size_of(visible), size_of(infrared)
    shifts = corner_shifts(matrix, plain_matrix(size, infrared_size), size)
    shift = 0.0 if model_name == "plain" else float(np.linalg.norm(shifts, axis=1).max())
    if contrast < _MIN_CONTRAST or after < _MIN_SCORE:
        raise UserError(
            f"visible and infrared could not be registered: their edges must agree with contrast >= {_MIN_CONTRAST:g} "
            f"and score >= {_MIN_SCORE:g}, got contrast {contrast:.2f} and score {after:.3f}; check that they show one "
            "scene, take one transform from many pairs of these cameras (a rig), or fuse without --align"
        )
    if shift > max_shift * size[1]:
        raise UserError(
            f"the infrared must lie within {max_shift * size[1]:.0f} px of plain resizing (max_shift {max_shift:g} of "
            f"the width), got {shift:.0f} px; raise max_shift, or crop the infrared to the visible's view first"
        )
    return Registration(matrix, size, infrared_size, before, after, shift, model_name)


def _find_transform(
    visible: Array, infrared: Array, *, model: Model = "similarity", max_shift: float = 0.08, prudent: bool = True
) -> tuple[str, Array, float, float, float]:
    """The best transform, whether to be believed or not.

    Returns:
        Its model, its matrix, the score of plain resizing, its own score, and its contrast.
    """
    if model not in MODELS:
        raise UserError(f"model must be one of {', '.join(MODELS)}, got {model!r}")
    if not 0 < max_shift <= 0.25:
        raise UserError(f"max_shift must be in (0, 0.25], a part of the width, got {max_shift:g}")
    for name, image in (("visible", visible), ("infrared", infrared)):
        if image.ndim != 2 or min(image.shape) < 32:
            raise UserError(f"{name} must be (H,W) with at least 32 pixels a side to be registered, got {image.shape}")
        if np.isinf(image).any() or np.isnan(image).all():
            raise UserError(f"{name} must hold finite values to be registered, got infinite ones or only NaN; check it")
    levels = _levels(visible, infrared)
    (a, b, _), work = levels[-1], size_of(levels[-1][2])
    candidates = list(_fit_models(levels, model, max_shift))
    best_model, best = "plain", np.eye(3)
    for name, candidate in candidates if prudent else candidates[-1:]:
        # Both transforms are compared on the pixels that both see
        (by_best, inside), (by_candidate, inside_too) = move_field(b, best), move_field(b, candidate)
        demands = (_LEAVE_PLAIN if best_model == "plain" else _TAKE_FREER) if prudent else (1.0, 0.0)
        if _is_clearly_better(a * inside * inside_too, by_best * inside_too, by_candidate * inside, *demands):
            best_model, best = name, candidate
    warped, inside = move_field(b, best)
    a = a * inside
    # From working pixels to those of the two images
    matrix = plain_matrix(work, size_of(infrared)) @ best @ plain_matrix(size_of(visible), work)
    return best_model, matrix / matrix[2, 2], score(a, b * inside), score(a, warped), contrast(a, warped)


def warp(registration: Registration | Rig, infrared: Array) -> Array:
    """Warp an infrared image into the visible frame, bicubic, never beyond the input's own range.

    It is smoothed first where the visible frame is much coarser. Outside the infrared view the border pixels are
    repeated, see `valid_mask`.

    Args:
        registration: the transform.
        infrared: (H,W) or (H,W,C) of the registered size, uint8, uint16, float32 or float64.

    Returns:
        The image in the visible's size, of the same dtype.

    Raises:
        UserError: another size or dtype.
    """
    import cv2

    if infrared.ndim not in (2, 3) or size_of(infrared) != registration.infrared_size:
        raise UserError(
            f"infrared must be (H,W) or (H,W,C) of the registered size {px(registration.infrared_size)}, got shape "
            f"{infrared.shape}; register images of this size anew"
        )
    if infrared.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise UserError(f"infrared must be uint8, uint16, float32 or float64 to be warped, got {infrared.dtype}")
    size, flags = registration.visible_size, cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    coarser = min(infrared.shape[0] / size[0], infrared.shape[1] / size[1])
    planes = infrared[..., None] if infrared.ndim == 2 else infrared
    out = np.empty((*size, planes.shape[2]), infrared.dtype)
    for k in range(planes.shape[2]):
        plane = np.ascontiguousarray(planes[..., k])
        low, high = plane.min(), plane.max()
        if coarser > 1.3:
            plane = cv2.GaussianBlur(plane, (0, 0), 0.4 * math.sqrt(coarser * coarser - 1))
        if plane.dtype == np.float64:  # OpenCV 5.0 returns wrong pixels for float64 with INTER_CUBIC
            plane = plane.astype(np.float32)
        warped = cv2.warpPerspective(
            plane, registration.matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        out[..., k] = np.clip(warped, low, high)
    return out[..., 0] if infrared.ndim == 2 else out


def warp_planes(registration: Registration | Rig, planes: Tensor) -> Tensor:
    """Warp float32 planes (C,H,W) as `warp` does images; returns (C,H,W) of the visible's size."""
    import torch

    return torch.from_numpy(warp(registration, planes.permute(1, 2, 0).numpy())).permute(2, 0, 1).contiguous()


def valid_mask(registration: Registration | Rig, *, feather_px: float = 0.0) -> Array:
    """The infrared camera's view in the visible frame: (H,W) float32, 1 where it sees, 0 where it does not.

    Args:
        registration: the transform.
        feather_px: the mask rises from 0 to 1 over that many pixels inside the view, against a visible seam. The
            borders of the frame itself are never feathered.
    """
    import cv2

    (height, width), (ih, iw) = registration.visible_size, registration.infrared_size
    m, x, y = registration.matrix, np.arange(width)[None, :], np.arange(height)[:, None]
    depth = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    u, v = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / depth, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / depth
    # An infrared pixel reaches half a pixel beyond its centre
    tiny = 1e-6  # plain resizing, computed in floating point, sees everything
    inside = (u >= -0.5 - tiny) & (u <= iw - 0.5 + tiny) & (v >= -0.5 - tiny) & (v <= ih - 0.5 + tiny)
    if feather_px <= 0 or inside.all():
        return np.asarray(inside, np.float32)
    distance = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.clip(distance / (feather_px + 1), 0, 1), np.float32)


def corner_shifts(matrix: Array, plain: Array, size: Size) -> Array:
    """Returns the displacement of the four corners of a frame against plain resizing: (4,2) in visible pixels."""
    warped = np.linalg.inv(plain) @ matrix @ np.c_[corner_points(size), np.ones(4)].T
    return np.asarray((warped[:2] / warped[2]).T - corner_points(size))


def check_matrix(matrix: Any, size: Size, infrared_size: Size) -> Array:
    """Check that a matrix can map a frame of the one size onto one of the other. Returns it as a read-only array."""
    for name, value in (("the visible size", size), ("infrared_size", infrared_size)):
        if len(value) != 2 or not all(isinstance(n, int) and n > 0 for n in value):
            raise UserError(f"{name} must be (height, width) in whole pixels, got {value}")
    array = np.array(matrix, float)
    if array.shape != (3, 3) or not np.isfinite(array).all():
        raise UserError(f"the matrix must be (3,3) and finite, got shape {array.shape}: {array.tolist()}")
    ends = array @ np.c_[corner_points(size), np.ones(4)].T
    relative = plain_matrix(infrared_size, size) @ array
    if min(ends[2]) <= 0 or np.linalg.det(relative / array[2, 2]) < 1e-3:
        raise UserError(f"the matrix must be invertible and keep the visible frame upright, got {array.tolist()}")
    array.setflags(write=False)
    return array


def compare_scores(visible: Array, infrared: Array, matrix: Array) -> tuple[float, float]:
    """Returns the scores of plain resizing and of the matrix, on the same pixels of two images of one size."""
    a, b = gradient_field(visible), gradient_field(infrared)
    warped, inside = move_field(b, matrix)
    return score(a * inside, b * inside), score(a * inside, warped)


def _levels(visible: Array, infrared: Array) -> list[_Level]:
    """Gradient fields of both images at each resolution, coarse to fine."""
    frames = [np.asarray(image, np.float32) for image in (visible, infrared)]
    sizes = sorted({limit_size(size_of(visible), pixels) for pixels in LEVELS})
    pairs = [[resize(frame, size) for frame in frames] for size in sizes]
    return [(gradient_field(a), gradient_field(b), b) for a, b in pairs]


def _fit_models(levels: list[_Level], model: str, max_shift: float) -> Iterator[tuple[str, Array]]:
    """The best transform of each model up to the one asked for, in pixels of the finest level."""
    (coarse, _, infrared), work = levels[0], size_of(levels[-1][2])
    up, down = plain_matrix(size_of(infrared), work), plain_matrix(work, size_of(infrared))
    searched = {name: up @ matrix @ down for name, matrix in search_shifts(coarse, infrared, max_shift).items()}
    best = np.eye(3)
    for name in MODELS[: MODELS.index(model) + 1]:
        # From the simpler model's end and from the search, on the coarse levels; the better one on the finest
        starts = (best, searched[name]) if name in searched else (best,)
        ends = [_refine_levels(levels[:-1] or levels, start, work, name) for start in starts]
        best, _ = _refine_levels(levels[-1:], max(ends, key=lambda end: end[1])[0], work, name)
        yield name, best


def _refine_levels(levels: list[_Level], matrix: Array, work: Size, model: str) -> tuple[Array, float]:
    """The matrix, in pixels of `work`, refined at each level in turn, and its score at the last."""
    last_score = -2.0
    for a, b, infrared in levels:
        to, back = plain_matrix(work, size_of(infrared)), plain_matrix(size_of(infrared), work)
        refined, last_score = refine(a, b, to @ matrix @ back, model)
        matrix = back @ refined @ to
    return matrix, last_score


def _is_clearly_better(a: Array, one: Array, other: Array, ratio: float, evidence: float) -> bool:
    """True if `other` matches `a` clearly better than `one`: in the whole, and all over the picture (8x6 blocks)."""
    import cv2

    unit_one, unit_other = (x / math.sqrt(float(np.vdot(x, x)) + 1e-12) for x in (one, other))
    gains = cv2.resize(dot(a, unit_other - unit_one), (8, 6), interpolation=cv2.INTER_AREA)
    has_evidence = float(gains.mean()) * math.sqrt(gains.size) >= evidence * float(gains.std())
    return has_evidence and score(a, other) >= ratio * max(score(a, one), 0)
