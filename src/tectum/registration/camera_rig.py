"""Rig: two cameras fixed to each other, and the one transform and infrared range that hold for all their frames.

Each pair of frames gives its own transform (`register`, here without its prudence); the median of the corners over the
pairs that agree is the rig's. What one pair cannot prove, many pairs that agree can: offsets of a few pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from tectum.errors import UserError
from tectum.io.files import read_text, write_json
from tectum.io.image import px
from tectum.registration.align import LEVELS, MODELS, Model, check_matrix, compare_scores, corner_shifts, register
from tectum.registration.gradient_search import (
    FREEDOMS,
    Array,
    Size,
    corner_points,
    limit_size,
    plain_matrix,
    resize,
    size_of,
)

_MIN_GAIN = 0.004  # in score; a smaller one is not worth resampling every infrared frame
_FORMAT, _VERSION = "tectum-rig", 1


@dataclass(frozen=True, eq=False)
class Rig:
    """Two cameras fixed to each other: one transform, and one range of raw infrared values, for all their frames.

    Attributes:
        matrix, visible_size, infrared_size, model: as in `Registration`.
        infrared_range: (low, high), the raw values that become 0 and 1; None leaves them to each image.
        num_pairs: pairs that agreed on the transform.
        spread_px: median distance of their own solutions from it, at the worst corner, in visible pixels: parallax and
            noise together.
        score_before, score_after: means of their scores.
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
        object.__setattr__(self, "matrix", check_matrix(self.matrix, self.visible_size, self.infrared_size))
        if self.model not in MODELS:
            raise UserError(f"model must be one of {', '.join(MODELS)}, got {self.model!r}")
        if self.infrared_range is not None:
            low, high = self.infrared_range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise UserError(f"infrared_range must be two finite numbers, low < high, got {low}, {high}")
            object.__setattr__(self, "infrared_range", (float(low), float(high)))

    def save(self, path: str | Path) -> None:
        """Write a JSON file, whole or not at all."""
        content = {"format": _FORMAT, "version": _VERSION, **asdict(self), "matrix": self.matrix.tolist()}
        write_json(Path(path), content, indent=2)

    @classmethod
    def load(cls, path: str | Path) -> Rig:
        """Read a file of `save`.

        Raises:
            FileNotFoundError: no such file.
            UserError: it is no sound rig.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"rig file not found: {path}; fit one with `tectum align`")
        try:
            content = json.loads(read_text(path))
        except ValueError as error:
            raise UserError(
                f"{path} must be a rig file (JSON), but cannot be read: {error}; fit the rig anew"
            ) from error
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise UserError(
                f'{path} must be a rig file with "format": "{_FORMAT}", and is not; fit one with `tectum align`'
            )
        if (version := content.pop("version", None)) != _VERSION:
            raise UserError(f"{path} must be a rig file of version {_VERSION}, got {version!r}; fit the rig anew")
        if wrong := {field.name for field in fields(cls)}.symmetric_difference(content):
            raise UserError(
                f"{path} must have exactly the keys of a rig, differs in {', '.join(sorted(wrong))}; fit it anew"
            )
        try:
            for key in ("visible_size", "infrared_size", "infrared_range"):
                if content[key] is not None or key != "infrared_range":
                    first, second = content[key]
                    content[key] = (first, second)
            for key in ("spread_px", "score_before", "score_after"):
                content[key] = float(content[key])
            return cls(**content | {"num_pairs": int(content["num_pairs"])})
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is not a sound rig: {error}; fit the rig anew") from error


def fit_rig(
    pairs: Iterable[tuple[Array, Array]],
    *,
    model: Model = "similarity",
    max_shift: float = 0.08,
    max_spread: float = 0.02,
    infrared_range: tuple[float, float] | None = None,
) -> Rig:
    """Fit one transform to many pairs of frames of two cameras fixed to each other.

    Each pair is registered on its own; the refused ones are dropped, and those whose corners lie too far from the
    median corners. The median corners of the others give the transform. 10 to 30 frames with structure all over the
    view and most of it far away are best.

    Args:
        pairs: (visible, infrared) luminances, (H,W) in [0,1], NaN where there is no data.
        model: the freedom of the transform.
        max_shift: largest displacement of a corner against plain resizing, in widths.
        max_spread: largest distance of a pair's corners from the median ones, in widths.
        infrared_range: is kept in the rig, see `common_range`.

    Raises:
        UserError: fewer than 3 pairs, or fewer than half of those registered, agree.
    """
    registered: list[Array] = []
    frames: list[tuple[Array, Array]] = []
    sizes: tuple[Size, Size] | None = None
    num_pairs, reason = 0, ""
    for num_pairs, (visible, infrared) in enumerate(pairs, 1):
        pair_sizes = size_of(visible), size_of(infrared)
        sizes = sizes or pair_sizes
        if pair_sizes != sizes:
            raise UserError(
                f"all pairs of a rig must have the first's sizes, {px(sizes[0])} visible, {px(sizes[1])} infrared, "
                f"got {px(pair_sizes[0])} and {px(pair_sizes[1])} in pair {num_pairs}; give frames of one pair "
                "of cameras"
            )
        try:
            single = register(visible, infrared, model=model, max_shift=max_shift, prudent=False)
        except ValueError as error:
            reason = f"; the last refusal: {error}"
            continue
        registered.append(corner_shifts(single.matrix, plain_matrix(*sizes), sizes[0]))
        small = limit_size(sizes[0], LEVELS[1])
        frames.append((resize(visible, small).astype(np.float16), resize(infrared, small).astype(np.float16)))
    if sizes is None or len(registered) < 3:
        raise UserError(
            f"a rig needs at least 3 pairs that register on their own, got {len(registered)} of {num_pairs}; give "
            f"more frames, by day, with structure all over the view{reason}"
        )
    shifts, limit = np.stack(registered), max_spread * sizes[0][1]
    agree = np.ones(len(shifts), bool)
    for _ in range(3):  # the median moves a little as the outliers leave
        centre = np.median(shifts[agree] if agree.any() else shifts, axis=0)
        distances = np.linalg.norm(shifts - centre, axis=2).max(axis=1)
        agree = distances <= limit
    if agree.sum() < max(3, len(shifts) / 2):
        raise UserError(
            f"at least 3 pairs and half of the {len(shifts)} registered ones must agree within {limit:.1f} px, but "
            f"{int(agree.sum())} do (median disagreement {np.median(distances):.1f} px); check that the cameras did "
            "not move and the scenes are far away, give more frames, or take a simpler model (translation)"
        )
    matrix, small = plain_matrix(*sizes) @ _from_corners(centre, sizes[0], model), size_of(frames[0][0])
    inner = plain_matrix(sizes[1], small) @ matrix @ plain_matrix(small, sizes[0])
    scores = np.array(
        [
            compare_scores(visible.astype(np.float32), infrared.astype(np.float32), inner)
            for (visible, infrared), good in zip(frames, agree, strict=True)
            if good
        ]
    )
    before, after = scores.mean(axis=0).tolist()
    deviation = float((scores[:, 1] - scores[:, 0]).std()) / math.sqrt(len(scores))
    if after - before < max(_MIN_GAIN, 2 * deviation):
        matrix, after = plain_matrix(*sizes), before
    spread = float(np.median(distances[agree]))
    return Rig(matrix, *sizes, model, infrared_range, int(agree.sum()), spread, before, after)


def common_range(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Returns one (low, high) for the raw values of many frames: 5 % quantile of lows, 95 % quantile of highs.

    >>> common_range([(100.0, 200.0)] * 40 + [(0.0, 900.0)])
    (100.0, 200.0)
    """
    lows, highs = np.array(list(ranges), float).reshape(-1, 2).T
    if not len(lows):
        raise UserError("a common range needs the range of at least one frame, got none; give some frames")
    return float(np.quantile(lows, 0.05)), float(np.quantile(highs, 0.95))


def _from_corners(shifts: Array, size: Size, model: str) -> Array:
    """The (3,3) matrix, in visible pixels, that moves the four corners by these shifts (4,2): by least squares."""
    import cv2

    start = corner_points(size)
    if model == "homography":
        ends = (start + shifts).astype(np.float32)
        return np.asarray(cv2.getPerspectiveTransform(start.astype(np.float32), ends), float)
    centre = start.mean(axis=0)
    (x, y), one, zero = (start - centre).T, np.ones(4), np.zeros(4)
    free = FREEDOMS[model][:6]
    effect = np.r_[np.stack([one, zero, x, y, zero, zero], 1), np.stack([zero, one, zero, zero, x, y], 1)] @ free
    tx, ty, a, b, c, d = free @ np.linalg.lstsq(effect, shifts.T.ravel(), rcond=None)[0]
    linear = np.array([[1 + a, b], [c, 1 + d]])
    tx, ty = np.array([tx, ty]) + centre - linear @ centre
    return np.array([[*linear[0], tx], [*linear[1], ty], [0, 0, 1]])
