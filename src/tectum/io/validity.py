"""Pixels without data: where they are, what stands in for them, and how much a picture weighs beside them.

Declared are NaN, alpha = 0, masks of arrays, the GDAL_NODATA tag of a TIFF, and the value of `--nodata`. Guessed is
only padding: a constant region c outside a convex picture, as letterboxes, frames and warped views leave it. With

    content(t) = |x - c| > t        H = convex hull of the content        outside = the pixels not in H

the outside is constant by construction. It counts as padding if the picture fills its hull up to the edges,

    occupancy = share of the hull's edge (inside the frame) that has content within a pixel      >= 0.7

which clipped skies and night skies do not (their hull touches treetops and roofs only), and if its edges are level, or
the outside reaches the bottom too (a roof under a clipped sky is straight and slanted, and never does). Beyond 8 bits,
a constant region at the border that lies further from all other values than these from one another is padding of any
shape: no thermal frame has 0 beside 27000..31000 else.

Resampling mixes padding and picture at their seam: up to two rings of pixels there go with the padding where their
values lie off those further inside.

An invalid pixel takes the value of the nearest valid one. So nothing computed afterwards depends on what it held.

Reference: GDAL GeoTIFF driver, nodata value, https://gdal.org/en/stable/drivers/raster/gtiff.html#nodata-value
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_NEARLY_CONSTANT = 2.0  # levels of 255, what JPEG leaves of a constant region
_CONTENT_LEVELS = (16.0, 8.0, 2.0, 0.5)  # of 255: how far content may have to lie from the constant to be told from it
_OCCUPANCY = 0.7
_MIN_JUMP = 16.0  # of 255; on 2,152 real images: 58 and more at padding, 5 and less at skies and flat corners
_MIN_SHARE, _MIN_PICTURE, _MIN_BAND = 0.001, 0.4, 0.25
_SEAM_PX = 5
_SMALL_PX = 3
"""A hole whose pixels all lie nearer than this to valid ones, such as a dead pixel or line, is simply filled."""


@dataclass(frozen=True)
class _Border:
    """A border guessed to be padding: its mask (H,W), True for padding, and its constant in words."""

    mask: Mask
    value: str


def find_valid(
    codes: Array, alpha: Array | None, mask: Mask | None, declared: float | None, nodata: str, noun: str
) -> tuple[Mask | None, tuple[str, ...]]:
    """Find the pixels with data.

    Args:
        codes: raw values (C,H,W) without alpha.
        alpha: raw alpha (1,H,W), or None.
        mask: (H,W), what is known to be valid, or None.
        declared: the value of no data that the file declares, or None.
        nodata: "declared", "guess" (also padding), "none" (NaN and the mask only), or a value in place of the file's.
        noun: "visible" or "infrared", for the sentence.

    Returns:
        (H,W), or None where all are valid; and a sentence on what was guessed.
    """
    valid = np.ones(codes.shape[1:], bool) if mask is None else mask.copy()
    if codes.dtype.kind == "f":
        valid &= ~np.isnan(codes).any(axis=0)
    if nodata != "none":
        value = declared if nodata in ("declared", "guess") else float(nodata)
        if value is not None:
            valid &= ~_drop_seam(codes, _is_value(codes, value), deep=codes.dtype != np.uint8)
        if alpha is not None:
            valid &= alpha[0] != 0
    if nodata == "guess" and declared is None and alpha is None and valid.any():
        border = _guess_border(codes if valid.all() else fill_invalid(codes, valid))
        if border is not None:
            return valid & ~border.mask, (_describe_guess(border, noun),)
    return (None if valid.all() else valid), ()


def _describe_guess(border: "_Border", noun: str) -> str:
    percent = round(100 * border.mask.mean())
    share = f"{percent} %" if percent else "less than 1 %"
    return (
        f"{share} of the {noun} image are a constant border of {border.value} and taken as without data; "
        "--nodata none keeps them"
    )


def fill_invalid(planes: Array, valid: Mask) -> Array:
    """Copy of (C,H,W) with each invalid pixel replaced by the nearest valid one.

    Args:
        planes: (C,H,W) of any dtype.
        valid: (H,W), at least one True.
    """
    import cv2

    _, labels = cv2.distanceTransformWithLabels(
        (~valid).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    places = np.zeros(int(labels.max()) + 1, np.intp)
    places[labels[valid]] = np.flatnonzero(valid)  # each valid pixel has a label of its own
    filled = planes.copy()
    filled[:, ~valid] = planes.reshape(len(planes), -1)[:, places[labels[~valid]]]
    return filled


def large_holes(valid: Mask) -> Mask:
    """Invalid pixels (H,W) of regions too large to be filled from their neighbours; dead pixels and lines are not."""
    distance = _distance(~valid)
    core = distance >= _SMALL_PX
    if not core.any():
        return core
    reach = _distance(~core)
    return np.asarray(~valid & (reach <= _SMALL_PX + 1))


def edge_weight(valid: Mask, *, feather_px: float) -> Array:
    """Weight of a picture beside its large holes: (H,W) float32, 0 in them, rising to 1 over `feather_px` around them.

    The borders of the frame itself are not feathered.
    """
    holes = large_holes(valid)
    if not holes.any():
        return np.ones(valid.shape, np.float32)
    distance = _distance(~holes)
    return np.asarray(np.clip(distance / (feather_px + 1), 0, 1), np.float32)


def _is_value(codes: Array, value: float) -> Mask:
    """Pixels (H,W) of (C,H,W) that hold a raw value in all channels, as their dtype stores it."""
    if codes.dtype.kind == "f":
        value = codes.dtype.type(value)
    return np.asarray((codes == value).all(axis=0))


def _drop_seam(codes: Array, invalid: Mask, *, deep: bool) -> Mask:
    """The invalid pixels, with those that resampling mixed with them.

    Args:
        codes: raw values (C,H,W).
        invalid: (H,W) constant regions.
        deep: more than 8 bits.
    """
    holes = large_holes(~invalid)
    if not holes.any() or invalid.all():
        return invalid
    grey = codes.mean(axis=0, dtype=np.float64)
    distance = _distance(~holes)
    constant = float(np.median(grey[holes]))
    rings = [grey[(distance > k) & (distance <= k + 1) & ~invalid] for k in range(4)]
    dropped = invalid
    for k in range(2):  # from the outer ring that is mixed inwards
        if rings[k].size and rings[k + 2].size:
            jump = float(np.median(rings[k + 2])) - constant
            if abs(float(np.median(rings[k])) - constant - jump) > 0.1 * abs(jump):
                dropped = dropped | (distance <= k + 1)
    inner = grey[~invalid & (distance > 3)]
    if deep and inner.size:
        dropped = dropped | ((distance <= 3) & ((grey < inner.min()) | (grey > inner.max())))
    return invalid if dropped.all() else np.asarray(dropped)


def _guess_border(codes: Array) -> _Border | None:
    """The padding around a picture, if it certainly has one.

    Args:
        codes: raw values (C,H,W).
    """
    values: list[tuple[Any, ...]] = []
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        value = tuple(codes[:, corner[0], corner[1]].tolist())
        if not any(np.abs(np.subtract(value, other)).max() <= _NEARLY_CONSTANT for other in values):
            values.append(value)
    shape = codes.shape[1:]
    mask = np.zeros(shape, bool)
    words: list[str] = []
    for value in values:
        padding = _find_padding(codes, value)
        if padding is not None:
            mask |= padding
            words.append(f"{value[0]:g}" if len(set(value)) == 1 else ",".join(f"{v:g}" for v in value))
    return _Border(mask, " and ".join(words)) if words and not mask.all() else None


def _find_padding(codes: Array, value: tuple[Any, ...]) -> Mask | None:
    """The padding of one constant value, or None if it is none."""
    deep = codes.dtype != np.uint8
    if max(value) - min(value) > (0 if deep else _NEARLY_CONSTANT):
        return None  # padding is grey
    constant: Array = np.array(value, np.float64)[:, None, None]
    away = np.abs(codes.astype(np.float32 if not deep else np.float64) - constant).max(axis=0)
    if deep:
        region = _at_border(away == 0)
        rest = codes[:, ~region]
        if not rest.size or not region.any():
            return None
        low, high = (float(v) for v in np.percentile(rest.mean(axis=0), (0.5, 99.5)))
        # What lies between at the seam was mixed by resampling
        inner = _erode(~region, 3)
        if inner.any() and float(away[inner].min()) > high - low > 0 and region.mean() >= _MIN_SHARE:
            return _drop_seam(codes, region, deep=True)
        unit = (high - low) / 255
    else:
        unit = 1.0
    found: tuple[float, Mask] | None = None
    for level in _CONTENT_LEVELS:
        outside, occupancy = _outside_of_hull(away > level * unit)
        better = occupancy >= _OCCUPANCY and (found is None or occupancy > found[0])
        if better and _is_padding(away, outside, unit):
            found = occupancy, outside
    if found is None:
        return None
    # The hull reaches a little beyond a slanted edge
    beside = _distance(~found[1]) <= _SEAM_PX
    padding = found[1] | (_at_border(found[1] | (away == 0)) & beside & (away == 0))
    return _drop_seam(codes, padding, deep=deep)


def _outside_of_hull(content: Mask) -> tuple[Mask, float]:
    """What is outside the convex hull of the content, and how much of the hull's edge inside the frame has content."""
    import cv2

    nothing = np.zeros(content.shape, bool), 0.0
    rows = np.flatnonzero(content.any(axis=1))
    if len(rows) < 8:
        return nothing
    first, last = content[rows].argmax(axis=1), content.shape[1] - 1 - content[rows, ::-1].argmax(axis=1)
    points = np.concatenate([np.c_[first, rows], np.c_[last, rows]]).astype(np.int32)
    hull = cv2.convexHull(points)
    inside = cv2.fillConvexPoly(np.zeros(content.shape, np.uint8), hull, 1)
    outside = inside == 0
    if not outside.any():
        return nothing
    edge = inside.astype(bool) & cv2.dilate(outside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    near = cv2.dilate(content.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return outside, float(near[edge].mean())


def _is_padding(away: Array, outside: Mask, unit: float) -> bool:
    """True for the outside of a hull that is padding by its constancy, its size and the direction of its edges."""
    inside = ~outside
    frame = np.zeros(outside.shape, bool)
    frame[[0, -1]] = frame[:, [0, -1]] = True
    exact = away <= (_NEARLY_CONSTANT if unit == 1.0 else 0.0)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    spans = len(rows) == outside.shape[0] or len(columns) == outside.shape[1]
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    level = box - inside.sum() <= 2 * (len(rows) + len(columns))
    inner = away[inside]
    return (
        float(outside.mean()) >= _MIN_SHARE
        and float(inside.mean()) >= (_MIN_BAND if spans else _MIN_PICTURE)
        and float(exact[outside].mean()) >= 0.6
        and float(exact[outside & frame].mean()) >= 0.95
        and bool(level or outside[-1].sum() > 2)
        and (_frames(outside) or _jump(away, outside) >= _MIN_JUMP * unit)
        and float(np.median(np.abs(inner - np.median(inner)))) > 0  # a flat square on a flat ground is a scene
    )


def _at_border(mask: Mask) -> Mask:
    """The connected regions of a mask that touch the frame."""
    import cv2

    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, touching[touching > 0])


def _erode(mask: Mask, radius: int) -> Mask:
    """The pixels of a mask that lie further than `radius` from what is not in it."""
    return np.asarray(_distance(mask) > radius)


def _frames(outside: Mask) -> bool:
    """True if it takes whole lines at two opposite sides of the frame, as a letterbox does."""
    top, bottom, left, right = (line.all() for line in (outside[0], outside[-1], outside[:, 0], outside[:, -1]))
    return bool((top and bottom) or (left and right))


def _jump(away: Array, outside: Mask) -> float:
    """Median distance from the constant, two to three pixels inside the edge."""
    distance = _distance(~outside)
    return float(np.median(away[(distance > 2) & (distance <= 3)]))


def _distance(mask: Mask) -> Array:
    """Distance of each True pixel from the nearest False one, (H,W) float32; 0 at False."""
    import cv2

    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5))
