"""Registers an infrared image to a visible one, and holds the one transform of a fixed pair of cameras (a rig).

Contrast between the two modalities differs in sign and size, the direction of an edge does not. So both images become
normalised gradient fields with the angle doubled (an edge and its inverse are the same), as complex numbers

    z = (gx + i gy)^2 / (|g|^2 + mean |g|^2),   smoothed a little,

and the measure is their correlation, which no monotone or inverted contrast changes by much and unrelated content
leaves near 0:

    score(W) = Re sum z_a conj(z_b o W) / sqrt(sum |z_a|^2 sum |z_b o W|^2)          in [-1, 1], higher is better.

W maps visible to infrared pixels. It is found by exhaustive search at a quarter of the size (rotations, scales, and all
shifts at once by FFT), then by Gauss-Newton steps on the score's linearisation at 1/4, 1/2 and 1/1, as
`cv2.findTransformECC` takes them, with a weak prior that pulls rotation, scale and shear towards plain resizing:
where half the picture is empty road, the other half alone should not swing the far corners.

A registration is believed if the score stands out from the scores of the same two fields shifted elsewhere:

    contrast = (score - mean) / std   over all shifts from 4 % of the width to 30 % of the shorter side.

Outside the infrared camera's view `warp` repeats the border pixels, and `valid_mask` says where that is: show the
visible image there, y = v fused + (1 - v) visible. A black border would be fused as if it were a cold wall.

Reference: Intensity gradient based registration and fusion of multi-modal images, E. Haber and J. Modersitzki, 2006,
    https://doi.org/10.1007/11866763_89; Parametric image alignment using enhanced correlation coefficient maximization,
    G. Evangelidis and E. Psarakis, 2008, https://doi.org/10.1109/TPAMI.2008.113

Differs from `cv2.findTransformECC`, which takes one channel before OpenCV 5 and has no prior: on the gradient
    magnitude alone, from the same start, its corners ended over 100 px off in every tenth of the real pairs.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Model = Literal["translation", "euclidean", "affine", "homography"]
Size = tuple[int, int]
MODELS: tuple[str, ...] = ("translation", "euclidean", "affine", "homography")

MAX_PIXELS = 340_000  # larger images are registered at this size, which bounds the time
# Chosen on 200 unrelated and 368 displaced real pairs; on 250 and 432 others they accept 0 and refuse 6 %.
MIN_CONTRAST = 4.75
MIN_SCORE = 0.11
MIN_GAIN = 0.004  # a smaller gain in score is not worth resampling the infrared image
PRIOR_STD = 0.015  # of rotation (rad), scale and shear, relative to plain resizing
CORRELATED_PX = 25.0  # pixels of a smoothed field that count as one observation
RIG_FORMAT, RIG_VERSION = "tectum-rig", 1


@dataclass(frozen=True, eq=False)
class Registration:
    """How one infrared image lies under one visible image.

    `matrix` (3,3) maps visible pixel coordinates (x, y, 1) to infrared ones, as `cv2.warpPerspective` takes it with
    WARP_INVERSE_MAP. Sizes are (height, width). Scores are in [-1, 1], higher is better, and never fall.
    `shift_px` is the largest displacement of a corner against plain resizing, in visible pixels.
    """

    matrix: Array
    size: Size
    infrared_size: Size
    score_before: float
    score_after: float
    shift_px: float
    model: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", checked_matrix(self.matrix, self.size, self.infrared_size))


def register(visible: Array, infrared: Array, *, model: Model = "affine", max_shift: float = 0.08) -> Registration:
    """Finds the transform between a visible and an infrared luminance, both (H,W) in [0,1], each of its own size.

    `max_shift` is the largest displacement of a corner against plain resizing, in widths of the visible image. Scales
    of 0.94 to 1.06 and rotations of up to 3 degrees are searched. A pair that plain resizing fits is left alone.
    Raises ValueError if the two do not match well enough to believe the result. One transform cannot follow parallax,
    and where one camera sees little (night) the corners may be off by several pixels: look at the result. A homography
    needs structure all over the view; with less, the affine one is nearer.
    """
    matrix, before, after, contrast = solve(visible, infrared, model=model, max_shift=max_shift)
    size, infrared_size = _size(visible), _size(infrared)
    plain = plain_matrix(size, infrared_size)
    shift = float(np.linalg.norm(corner_shifts(matrix, plain, size), axis=1).max())
    if contrast < MIN_CONTRAST or after < MIN_SCORE:
        raise ValueError(
            f"visible and infrared could not be registered: their edges must agree with contrast >= {MIN_CONTRAST:g} "
            f"and score >= {MIN_SCORE:g}, got contrast {contrast:.2f} and score {after:.3f}; check that they show one "
            "scene, take one transform from many pairs of these cameras (a rig), or fuse without --align"
        )
    if shift > max_shift * size[1]:
        raise ValueError(
            f"the infrared must lie within {max_shift * size[1]:.0f} px of plain resizing (max_shift {max_shift:g} of "
            f"the width), got {shift:.0f} px; raise max_shift, or crop the infrared to the visible's view first"
        )
    if after - before < MIN_GAIN:
        matrix, after, shift = plain, before, 0.0
    return Registration(matrix, size, infrared_size, before, after, shift, model)


def warp(registration: Registration | Rig, infrared: Array) -> Array:
    """The infrared image (H,W) or (H,W,C) in the visible frame, of the same dtype (uint8, uint16, float32 or float64).

    Bicubic, never beyond the input's own range; smoothed first where the visible frame is much coarser. Outside the
    infrared view the border pixels are repeated, see `valid_mask`. Raises ValueError for another size than registered.
    """
    import cv2

    if infrared.ndim not in (2, 3) or _size(infrared) != registration.infrared_size:
        raise ValueError(
            f"infrared must be (H,W) or (H,W,C) of the registered size {_px(registration.infrared_size)}, got shape "
            f"{infrared.shape}; register images of this size anew"
        )
    if infrared.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise ValueError(f"infrared must be uint8, uint16, float32 or float64 to be warped, got {infrared.dtype}")
    size, flags = _frame(registration), cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
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
        moved = cv2.warpPerspective(
            plane, registration.matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        out[..., k] = np.clip(moved, low, high)
    return out[..., 0] if infrared.ndim == 2 else out


def valid_mask(registration: Registration | Rig, *, feather_px: float = 0.0) -> Array:
    """(H,W) float32 in the visible frame: 1 where the infrared camera sees, 0 where it does not.

    With `feather_px` the mask rises from 0 to 1 over that many pixels inside the view, against a visible seam. The
    borders of the frame itself are never feathered.
    """
    import cv2

    (height, width), (ih, iw) = _frame(registration), registration.infrared_size
    m, x, y = registration.matrix, np.arange(width)[None, :], np.arange(height)[:, None]
    depth = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    u, v = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / depth, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / depth
    tiny = 1e-6  # plain resizing, computed in floating point, sees everything
    inside = (u >= -0.5 - tiny) & (u <= iw - 0.5 + tiny) & (v >= -0.5 - tiny) & (v <= ih - 0.5 + tiny)
    if feather_px <= 0 or inside.all():
        return np.asarray(inside, np.float32)
    distance = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.clip(distance / (feather_px + 1), 0, 1), np.float32)


@dataclass(frozen=True, eq=False)
class Rig:
    """Two cameras fixed to each other: one transform, and one range of raw infrared values, for all their frames.

    `matrix` and sizes as in `Registration`; `infrared_range` = (low, high): the raw values that become 0 and 1, None
    leaves them to each image. `num_pairs` agreed on the transform; `spread_px` is the median distance of their own
    solutions from it, at the worst corner, in visible pixels: parallax and noise together. The scores are their means.
    """

    matrix: Array
    visible_size: Size
    infrared_size: Size
    model: str
    infrared_range: tuple[float, float] | None
    num_pairs: int
    spread_px: float
    score_before: float
    score_after: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", checked_matrix(self.matrix, self.visible_size, self.infrared_size))
        if self.model not in MODELS:
            raise ValueError(f"model must be one of {', '.join(MODELS)}, got {self.model!r}")
        if self.infrared_range is not None:
            low, high = self.infrared_range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"infrared_range must be two finite numbers, low < high, got {low}, {high}")
            object.__setattr__(self, "infrared_range", (float(low), float(high)))

    def save(self, path: str | Path) -> None:
        """Writes JSON, whole or not at all."""
        path = Path(path)
        content = {"format": RIG_FORMAT, "version": RIG_VERSION, **asdict(self), "matrix": self.matrix.tolist()}
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Rig:
        """Reads what `save` wrote. Raises FileNotFoundError, and ValueError for anything that is not a sound rig."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"rig file not found: {path}; fit one with `tectum align`")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} must be a rig file (JSON), but cannot be read: {error}; fit the rig anew"
            ) from error
        if not isinstance(content, dict) or content.pop("format", None) != RIG_FORMAT:
            raise ValueError(
                f'{path} must be a rig file with "format": "{RIG_FORMAT}", and is not; fit one with `tectum align`'
            )
        if (version := content.pop("version", None)) != RIG_VERSION:
            raise ValueError(f"{path} must be a rig file of version {RIG_VERSION}, got {version!r}; fit the rig anew")
        names = {field.name for field in fields(cls)}
        if wrong := names.symmetric_difference(content):
            raise ValueError(
                f"{path} must have exactly the keys of a rig, differs in {', '.join(sorted(wrong))}; fit it anew"
            )
        try:
            for key in ("visible_size", "infrared_size", "infrared_range"):
                if content[key] is not None or key != "infrared_range":
                    first, second = content[key]
                    content[key] = (first, second)
            for key in ("spread_px", "score_before", "score_after"):
                content[key] = float(content[key])
            content["num_pairs"] = int(content["num_pairs"])
            return cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a sound rig: {error}; fit the rig anew") from error


def fit_rig(
    pairs: Iterable[tuple[Array, Array]],
    *,
    model: Model = "affine",
    max_shift: float = 0.08,
    max_spread: float = 0.02,
    infrared_range: tuple[float, float] | None = None,
) -> Rig:
    """One transform from many (visible, infrared) luminance pairs (H,W) in [0,1] of two cameras fixed to each other.

    Each pair is registered on its own; the refused ones are dropped, and those whose corners lie further than
    `max_spread` (in widths) from the median corners. The rest's median corners give the transform. 10 to 30 frames with
    structure all over the view and most of it far away are best. `infrared_range` is kept, see `common_range`.
    Raises ValueError if fewer than 3 pairs, or fewer than half of those registered, agree.
    """
    found: list[Array] = []
    kept: list[tuple[Array, Array]] = []
    sizes: tuple[Size, Size] | None = None
    num_pairs, reason = 0, ""
    for num_pairs, (visible, infrared) in enumerate(pairs, 1):
        here = _size(visible), _size(infrared)
        sizes = sizes or here
        if here != sizes:
            raise ValueError(
                f"all pairs of a rig must have the first's sizes, {_px(sizes[0])} visible, {_px(sizes[1])} infrared, "
                f"got {_px(here[0])} and {_px(here[1])} in pair {num_pairs}; give frames of one pair of cameras"
            )
        try:
            single = register(visible, infrared, model=model, max_shift=max_shift)
        except ValueError as error:
            reason = f"; the last refusal: {error}"
            continue
        found.append(corner_shifts(single.matrix, plain_matrix(*sizes), sizes[0]))
        half = _work_size(sizes[0], MAX_PIXELS / 4)
        kept.append((_resize(visible, half).astype(np.float16), _resize(infrared, half).astype(np.float16)))
    if sizes is None or len(found) < 3:
        raise ValueError(
            f"a rig needs at least 3 pairs that register on their own, got {len(found)} of {num_pairs}; give "
            f"more frames, by day, with structure all over the view{reason}"
        )
    shifts, limit = np.stack(found), max_spread * sizes[0][1]
    agree = np.ones(len(shifts), bool)
    for _ in range(3):  # the median moves a little as the outliers leave
        centre = np.median(shifts[agree] if agree.any() else shifts, axis=0)
        away = np.linalg.norm(shifts - centre, axis=2).max(axis=1)
        agree = away <= limit
    if agree.sum() < max(3, len(shifts) / 2):
        raise ValueError(
            f"at least 3 pairs and half of the {len(shifts)} registered ones must agree within {limit:.1f} px, but "
            f"{int(agree.sum())} do (median disagreement {np.median(away):.1f} px); check that the cameras did not "
            'move and the scenes are far away, give more frames, or take a simpler model ("euclidean", "translation")'
        )
    plain, small = plain_matrix(*sizes), _size(kept[0][0])
    matrix = plain @ _from_corners(centre, sizes[0], model)
    scores = np.zeros((0, 2))
    for (visible, infrared), good in zip(kept, agree, strict=True):
        if good:
            inner = plain_matrix(sizes[1], small) @ matrix @ plain_matrix(small, sizes[0])
            field_a, field_b = _field(visible.astype(np.float32)), _field(infrared.astype(np.float32))
            moved, inside = _move(field_b, inner)
            field_a *= inside
            scores = np.vstack([scores, [_score(field_a, field_b * inside), _score(field_a, moved)]])
    before, after = scores.mean(axis=0).tolist()
    if after - before < MIN_GAIN:
        matrix, after = plain, before
    spread = float(np.median(away[agree]))
    return Rig(matrix, *sizes, model, infrared_range, int(agree.sum()), spread, before, after)


def common_range(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """One (low, high) for the raw values of many frames: 5 % quantile of the lows to 95 % quantile of the highs.

    >>> common_range([(100.0, 200.0)] * 40 + [(0.0, 900.0)])
    (100.0, 200.0)
    """
    lows, highs = np.array(list(ranges), float).reshape(-1, 2).T
    if not len(lows):
        raise ValueError("a common range needs the range of at least one frame, got none; give some frames")
    return float(np.quantile(lows, 0.05)), float(np.quantile(highs, 0.95))


def corner_shifts(matrix: Array, plain: Array, size: Size) -> Array:
    """Displacement of the four corners of a frame against plain resizing: (4,2) in visible pixels."""
    moved = np.linalg.inv(plain) @ matrix @ np.c_[_corners(size), np.ones(4)].T
    return np.asarray((moved[:2] / moved[2]).T - _corners(size))


def checked_matrix(matrix: Any, size: Size, infrared_size: Size) -> Array:
    """The matrix as a read-only (3,3) array, if it can map a frame of the one size onto one of the other."""
    for name, value in (("the visible size", size), ("infrared_size", infrared_size)):
        if len(value) != 2 or not all(isinstance(n, int) and n > 0 for n in value):
            raise ValueError(f"{name} must be (height, width) in whole pixels, got {value}")
    array = np.array(matrix, float)
    if array.shape != (3, 3) or not np.isfinite(array).all():
        raise ValueError(f"the matrix must be (3,3) and finite, got shape {array.shape}: {array.tolist()}")
    corners = array @ np.c_[_corners(size), np.ones(4)].T
    relative = plain_matrix(infrared_size, size) @ array
    if min(corners[2]) <= 0 or np.linalg.det(relative / array[2, 2]) < 1e-3:
        raise ValueError(f"the matrix must be invertible and keep the visible frame upright, got {array.tolist()}")
    array.setflags(write=False)
    return array


def plain_matrix(size: Size, infrared_size: Size) -> Array:
    """The (3,3) matrix of plain resizing: visible to infrared pixel coordinates, pixel centres at integers.

    >>> plain_matrix((4, 4), (2, 2))[0].tolist()
    [0.5, 0.0, -0.25]
    """
    sy, sx = infrared_size[0] / size[0], infrared_size[1] / size[1]
    return np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]])


def solve(
    visible: Array, infrared: Array, *, model: Model = "affine", max_shift: float = 0.08
) -> tuple[Array, float, float, float]:
    """The best transform, believable or not: (matrix, score of plain resizing, score of matrix, contrast)."""
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {model!r}")
    if not 0 < max_shift <= 0.25:
        raise ValueError(f"max_shift must be in (0, 0.25], a part of the width, got {max_shift:g}")
    for name, image in (("visible", visible), ("infrared", infrared)):
        if image.ndim != 2 or min(image.shape) < 32:
            raise ValueError(f"{name} must be (H,W) with at least 32 pixels a side to be registered, got {image.shape}")
        if not np.isfinite(image).all():
            raise ValueError(f"{name} must be finite to be registered, got NaN or infinite pixels; replace them first")
    size = _size(visible)
    work = _work_size(size, MAX_PIXELS)
    frames = [_resize(np.asarray(image, np.float32), work) for image in (visible, infrared)]
    matrix, here = np.eye(3), None
    for step in (4, 2, 1):
        level = (work[0] // step, work[1] // step)
        if step > 1 and min(level) < 32:
            continue
        a, b = (_resize(frame, level) for frame in frames)
        field_a, field_b = _field(a), _field(b)
        if here is None:
            matrix = _search(field_a, b, model, max_shift)
        else:
            matrix = plain_matrix(here, level) @ matrix @ plain_matrix(level, here)
        matrix, here = _refine(field_a, field_b, matrix, model), level
    moved, inside = _move(field_b, matrix)
    field_a *= inside
    before, after = _score(field_a, field_b * inside), _score(field_a, moved)
    contrast = _contrast(field_a, moved)
    matrix = plain_matrix(work, _size(infrared)) @ matrix @ plain_matrix(size, work)
    return matrix / matrix[2, 2], before, after, contrast


def _size(image: Array) -> Size:
    return int(image.shape[0]), int(image.shape[1])


def _work_size(size: Size, max_pixels: float) -> Size:
    shrink = min(1.0, math.sqrt(max_pixels / (size[0] * size[1])))
    return max(32, round(size[0] * shrink)), max(32, round(size[1] * shrink))


def _frame(registration: Registration | Rig) -> Size:
    return registration.visible_size if isinstance(registration, Rig) else registration.size


def _px(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _corners(size: Size) -> Array:
    height, width = size
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)


def _from_corners(shifts: Array, size: Size, model: str) -> Array:
    """The (3,3) matrix, in visible pixels, that moves the four corners by these shifts: exactly or by least squares."""
    import cv2

    start, end = _corners(size), _corners(size) + shifts
    if model == "homography":
        return np.asarray(cv2.getPerspectiveTransform(start.astype(np.float32), end.astype(np.float32)), float)
    matrix = np.eye(3)
    if model == "affine":
        matrix[:2] = np.linalg.lstsq(np.c_[start, np.ones(4)], end, rcond=None)[0].T
        return matrix
    p, q = start - start.mean(axis=0), end - end.mean(axis=0)
    if model == "euclidean":
        angle = math.atan2(float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()), float((p * q).sum()))
        matrix[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    matrix[:2, 2] = end.mean(axis=0) - matrix[:2, :2] @ start.mean(axis=0)
    return matrix


def _resize(image: Array, size: Size) -> Array:
    import cv2

    if _size(image) == size:
        return image
    finer = image.shape[0] >= size[0]
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if finer else cv2.INTER_LINEAR))


def _field(image: Array) -> Array:
    """(H,W) -> (H,W,2): the normalised gradient, angle doubled. A 2 % margin (black borders) is 0."""
    import cv2

    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    gx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE)
    gy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REPLICATE)
    energy = gx * gx + gy * gy
    floor = energy + max(float(energy.mean()), 1e-9)
    field = cv2.GaussianBlur(np.dstack([(gx * gx - gy * gy) / floor, 2 * gx * gy / floor]), (0, 0), 1.0)
    margin = max(2, round(0.02 * image.shape[1]))
    inner = np.zeros_like(field)
    inner[margin:-margin, margin:-margin] = field[margin:-margin, margin:-margin]
    return inner


def _score(a: Array, b: Array) -> float:
    return float((a * b).sum()) / math.sqrt(float((a * a).sum()) * float((b * b).sum()) + 1e-12)


def _move(field: Array, matrix: Array) -> tuple[Array, Array]:
    """The field seen through the matrix, and (H,W,1) where it is inside the view (1) or not (0)."""
    import cv2

    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(field, matrix, field.shape[1::-1], flags=flags)
    inside = cv2.warpPerspective(np.ones(field.shape[:2], np.float32), matrix, field.shape[1::-1], flags=flags) > 0.99
    return moved * inside[..., None], inside[..., None].astype(np.float32)


def _correlation(a: Array, b: Array, reach: int) -> Array:
    """Re sum_p a(p) conj(b(p + d)) / (|a| |b|) for all shifts |dx|, |dy| <= reach: (2 reach + 1, 2 reach + 1)."""
    import cv2

    shape = [cv2.getOptimalDFTSize(n + reach) for n in a.shape[:2]]
    fa, fb = (np.fft.fft2(x[..., 0] + 1j * x[..., 1], s=shape) for x in (a, b))
    plane = np.fft.ifft2(np.conj(fa) * fb).real / math.sqrt(float((a * a).sum()) * float((b * b).sum()) + 1e-12)
    return np.roll(plane, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]


def _contrast(a: Array, b: Array) -> float:
    """How many standard deviations the score lies over those of other shifts of the same two fields."""
    half = (max(32, a.shape[0] // 2), max(32, a.shape[1] // 2))
    a, b = _resize(a, half), _resize(b, half)
    reach = int(min(half) * 0.3)
    plane = _correlation(a, b, reach)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    others = plane[x * x + y * y > (0.04 * half[1]) ** 2]
    return (_score(a, b) - float(others.mean())) / max(float(others.std()), 1e-6)


def _centred(size: Size) -> Array:
    """Maps pixels to coordinates with the origin in the centre and half the width as the unit."""
    unit = size[1] / 2
    return np.array([[1 / unit, 0, -(size[1] - 1) / 2 / unit], [0, 1 / unit, -(size[0] - 1) / 2 / unit], [0, 0, 1]])


def _search(field_a: Array, b: Array, model: str, max_shift: float) -> Array:
    """The best of all shifts, rotations of -3..3 degrees and scales of 0.94..1.06 (as the model allows)."""
    import cv2

    size = _size(b)
    centred, reach = _centred(size), math.ceil(max_shift * size[1])
    angles = (0,) if model == "translation" else range(-3, 4)
    scales = np.arange(0.94, 1.061, 0.02) if model in ("affine", "homography") else (1.0,)
    best, matrix = -2.0, np.eye(3)
    for angle in angles:
        for scale in scales:
            c, s = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
            turn = np.linalg.inv(centred) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ centred
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            turned = cv2.warpPerspective(b, turn, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
            plane = _correlation(field_a, _field(turned), reach)
            y, x = divmod(int(plane.argmax()), 2 * reach + 1)
            if plane[y, x] > best:
                best = float(plane[y, x])
                matrix = turn @ np.array([[1, 0, x - reach], [0, 1, y - reach], [0, 0, 1]])
    return matrix


def _refine(field_a: Array, field_b: Array, matrix: Array, model: str, num_steps: int = 12) -> Array:
    """Gauss-Newton on sum |a / gain - b o W|^2 + prior; the gain makes its minimum the maximum of the score."""
    import cv2

    size = _size(field_a)
    unit, centred, basis = size[1] / 2, _centred(size), _basis(model)
    powers = np.arange(5, dtype=np.float32)
    x = ((np.arange(size[1], dtype=np.float32) - (size[1] - 1) / 2) / unit)[:, None] ** powers
    y = ((np.arange(size[0], dtype=np.float32) - (size[0] - 1) / 2) / unit)[:, None] ** powers
    best, best_matrix = -2.0, matrix
    for _ in range(num_steps):
        moved, inside = _move(field_b, matrix)
        a = field_a * inside
        score = _score(a, moved)
        if score > best:
            best, best_matrix = score, matrix
        elif score < best - 1e-3:
            break
        gain = max(float((a * moved).sum()) / (float((moved * moved).sum()) + 1e-9), 0.05)
        error = a / gain - moved
        gx = cv2.Sobel(moved, cv2.CV_32F, 1, 0, scale=1 / 8) * inside
        gy = cv2.Sobel(moved, cv2.CV_32F, 0, 1, scale=1 / 8) * inside
        # Sums over pixels of image x^i y^j: all the normal equations need, as u and v are polynomials.
        pairs = ((gx, gx), (gx, gy), (gy, gy), (gx, error), (gy, error))
        xx, xy, yy, ex, ey = (y.T @ (p * q).sum(2) @ x for p, q in pairs)
        normal = np.array(
            [[_sum(xx, u, s) + _sum(xy, u, t) + _sum(xy, v, s) + _sum(yy, v, t) for s, t in basis] for u, v in basis]
        )
        right = np.array([_sum(ex, u, _ONE) + _sum(ey, v, _ONE) for u, v in basis])
        variance = float((error * error).sum()) / max(float(inside.sum()), 1.0)
        total = centred @ matrix @ np.linalg.inv(centred)
        past = unit * _coefficients(total / total[2, 2], model)
        prior = np.full(len(basis), CORRELATED_PX * variance / (PRIOR_STD * unit) ** 2)
        prior[:2], prior[6:] = 0, 9 * prior[6:]  # a slight perspective is a third as likely as a slight scale
        step = np.linalg.solve(normal + np.diag(prior + 1e-6 * np.trace(normal) + 1e-9), right - prior * past) / unit
        matrix = matrix @ np.linalg.inv(centred) @ _small_matrix(step, model) @ centred
        matrix = matrix / matrix[2, 2]
        largest = float(np.abs(step).sum()) * unit
        if largest < 0.02 or largest > 0.5 * size[1]:
            break
    return best_matrix


Polynomial = tuple[tuple[float, int, int], ...]  # terms (coefficient, power of x, power of y)
_ONE: Polynomial = ((1.0, 0, 0),)


def _basis(model: str) -> list[tuple[Polynomial, Polynomial]]:
    """The displacement (u, v) in pixels is the sum of step_k times the k-th of these."""
    x, y = ((1.0, 1, 0),), ((1.0, 0, 1),)
    basis: list[tuple[Polynomial, Polynomial]] = [(_ONE, ()), ((), _ONE)]
    if model == "euclidean":
        basis += [(((-1.0, 0, 1),), x)]
    elif model in ("affine", "homography"):
        basis += [(x, ()), (y, ()), ((), x), ((), y)]
    if model == "homography":
        basis += [(((1.0, 2, 0),), ((1.0, 1, 1),)), (((1.0, 1, 1),), ((1.0, 0, 2),))]
    return basis


def _sum(moments: Array, p: Polynomial, q: Polynomial) -> float:
    return float(sum(c * d * moments[j + n, i + m] for c, i, j in p for d, m, n in q))


def _small_matrix(step: Array, model: str) -> Array:
    """The centred (3,3) matrix of a small displacement."""
    if model == "euclidean":
        c, s = math.cos(step[2]), math.sin(step[2])
        return np.array([[c, -s, step[0]], [s, c, step[1]], [0, 0, 1]])
    x, y, a, b, c, d, p, q = np.r_[step, np.zeros(8 - len(step))]
    return np.array([[1 + a, b, x], [c, 1 + d, y], [-p, -q, 1]])


def _coefficients(matrix: Array, model: str) -> Array:
    """The inverse of _small_matrix, to first order."""
    m = matrix - np.eye(3)
    if model == "euclidean":
        return np.array([m[0, 2], m[1, 2], (m[1, 0] - m[0, 1]) / 2])
    full = np.array([m[0, 2], m[1, 2], m[0, 0], m[0, 1], m[1, 0], m[1, 1], -m[2, 0], -m[2, 1]])
    return full[: {"translation": 2, "affine": 6, "homography": 8}[model]]
