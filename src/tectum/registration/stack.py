"""Alignment of a hand-held stack of exposures or foci: a homography from each picture to a reference.

Neighbours of the stack are registered, and the transforms to the reference (exposures: the middle one by brightness;
foci: the first) multiplied, so that no two pictures are compared that differ more than they must:

    grey   histogram equalised: the ranks of the pixels are those of the scene, whatever the exposure
    start  SIFT features matched by Lowe's ratio, a homography by RANSAC
    end    maximum of the enhanced correlation coefficient (ECC) of the equalised pictures, from that start

A result is believed if enough features agree, the two correlate once they lie on one another, and no corner moved
further than a hand does. Outside a warped picture's view it is not valid, and the others show.

Reference: Distinctive Image Features from Scale-Invariant Keypoints, D. Lowe, 2004,
    https://doi.org/10.1023/B:VISI.0000029664.99615.94; Parametric image alignment using enhanced correlation
    coefficient maximization, G. Evangelidis and E. Psarakis, 2008, https://doi.org/10.1109/TPAMI.2008.113
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from tectum.errors import UserError
from tectum.io.image import Picture
from tectum.registration.align import Registration, corner_shifts, valid_mask, warp_planes
from tectum.registration.gradient_search import Array, limit_size, plain_matrix, resize, size_of

_Grey = tuple[Array, Array | None]  # equalised picture and where features may lie

_WORK_PX = 1_000_000
_MIN_MATCHES = 16
_MIN_CORRELATION = 0.5
_MAX_SHIFT = 0.2


def align_stack(pictures: Sequence[Picture], *, by_brightness: bool) -> list[Picture]:
    """Bring the pictures of a stack into the frame of its reference.

    Args:
        pictures: two or more of one size.
        by_brightness: exposures, whose neighbours are next in brightness and whose reference is the middle one;
            otherwise foci in the order given, whose reference is the first.

    Returns:
        The pictures in the order given; `valid` is False where a warped one sees nothing.

    Raises:
        UserError: two neighbours do not match well enough to believe the transform.
    """
    order = list(range(len(pictures)))
    if by_brightness:
        order.sort(key=lambda i: pictures[i].brightness)
    reference = len(order) // 2 if by_brightness else 0
    greys = [(_equalise(pictures[i]), _mask(pictures[i])) for i in order]
    steps = [_find_step(greys[i], greys[i + 1], (order[i], order[i + 1])) for i in range(len(order) - 1)]
    aligned = list(pictures)
    for place, i in enumerate(order):
        matrix = np.eye(3)  # reference pixel coordinates to those of picture i
        for step in steps[reference:place]:
            matrix = step @ matrix
        for step in reversed(steps[place:reference]):
            matrix = np.linalg.inv(step) @ matrix
        if place != reference:
            aligned[i] = _warp(pictures[i], matrix / matrix[2, 2])
    return aligned


def _equalise(picture: Picture) -> Array:
    """The luminance, (H,W) uint8 with equalised histogram."""
    import cv2

    return np.asarray(cv2.equalizeHist((picture.y[0].numpy() * 255 + 0.5).astype(np.uint8)))


def _mask(picture: Picture) -> Array | None:
    """Where features may lie, (H,W) uint8: not at the edges of what is not valid; None for everywhere."""
    import cv2

    if picture.valid is None:
        return None
    return np.asarray(cv2.erode(picture.valid[0].numpy().astype(np.uint8) * 255, np.ones((17, 17), np.uint8)))


def _find_step(one: _Grey, other: _Grey, places: tuple[int, int]) -> Array:
    """The homography (3,3) from pixel coordinates of one equalised picture to those of the other."""
    size = size_of(one[0])
    work = limit_size(size, _WORK_PX)
    (a, mask_a), (b, mask_b) = ((resize(x, work), None if m is None else resize(m, work)) for x, m in (one, other))
    start, num = _match_features((a, mask_a), (b, mask_b))
    matrix, correlation = (None, 0.0) if start is None else _refine((a, mask_a), (b, mask_b), start)
    if matrix is None or correlation < _MIN_CORRELATION:
        raise _refuse(places, f"{num} matching features and correlation {correlation:.2f}")
    matrix = plain_matrix(work, size) @ matrix @ plain_matrix(size, work)
    with np.errstate(all="ignore"):  # a degenerate matrix moves corners to infinity
        shift = float(np.linalg.norm(corner_shifts(matrix, np.eye(3), size), axis=1).max())
    if not shift <= _MAX_SHIFT * size[1]:
        raise _refuse(places, f"corners that move by {shift:.0f} px")
    return np.asarray(matrix / matrix[2, 2])


def _refuse(places: tuple[int, int], got: str) -> UserError:
    first, second = sorted(place + 1 for place in places)
    return UserError(
        f"images {first} and {second} of the stack could not be aligned: they need {_MIN_MATCHES} matching features, "
        f"correlation {_MIN_CORRELATION} and corners within {_MAX_SHIFT:.0%} of the width, got {got}; leave out an "
        "image that shows another scene, add exposures between, or fuse without --align"
    )


def _match_features(a: _Grey, b: _Grey) -> tuple[Array | None, int]:
    """The homography that most SIFT matches agree on, None if too few do; and their number."""
    import cv2

    sift = cv2.SIFT.create(nfeatures=4000, contrastThreshold=0.02)
    (points_a, features_a), (points_b, features_b) = (sift.detectAndCompute(*x) for x in (a, b))
    if features_a is None or features_b is None or min(len(points_a), len(points_b)) < _MIN_MATCHES:
        return None, 0
    pairs = cv2.BFMatcher().knnMatch(features_a, features_b, 2)
    good = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < 0.8 * pair[1].distance]
    if len(good) < _MIN_MATCHES:
        return None, len(good)
    from_a = np.array([points_a[m.queryIdx].pt for m in good], np.float32)
    to_b = np.array([points_b[m.trainIdx].pt for m in good], np.float32)
    matrix, inliers = cv2.findHomography(from_a, to_b, cv2.RANSAC, 3.0, maxIters=5000, confidence=0.999)
    num = 0 if matrix is None else int(inliers.sum())
    return (matrix, num) if num >= _MIN_MATCHES else (None, num)


def _refine(one: _Grey, other: _Grey, start: Array) -> tuple[Array, float]:
    """The homography with the largest enhanced correlation coefficient near a start, and that coefficient."""
    import cv2

    (a, mask_a), (b, mask_b) = one, other
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-6)
    everywhere = np.full_like(b, 255) if mask_b is None else mask_b
    before = cv2.computeECC(a, *_move(b, start, mask_a))
    try:
        _, end = cv2.findTransformECC(a, b, start.astype(np.float32), cv2.MOTION_HOMOGRAPHY, criteria, everywhere, 5)
    except cv2.error:  # it diverged
        return start, float(before)
    matrix = np.asarray(end, float)
    after = cv2.computeECC(a, *_move(b, matrix, mask_a))
    return (matrix, float(after)) if after >= before else (start, float(before))


def _move(b: Array, matrix: Array, mask: Array | None) -> tuple[Array, Array]:
    """Picture b in a's frame, and where both are seen: both (H,W) uint8."""
    import cv2

    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, b.shape[::-1]
    seen = cv2.warpPerspective(np.full_like(b, 255), matrix, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    seen = seen if mask is None else np.minimum(seen, mask)
    return np.asarray(cv2.warpPerspective(b, matrix, size, flags=flags)), np.asarray(seen)


def _warp(picture: Picture, matrix: Array) -> Picture:
    """The picture in the reference's frame; not valid outside its view."""
    size = (picture.y.shape[1], picture.y.shape[2])
    registration = Registration(matrix, size, size, 0.0, 0.0, 0.0, "homography")
    move = partial(warp_planes, registration)
    valid = torch.from_numpy(valid_mask(registration) > 0.5)[None]
    if picture.valid is not None:
        valid = valid & (move(picture.valid.float()) > 0.99)
    return replace(
        picture,
        y=move(picture.y),
        chroma=None if picture.chroma is None else move(picture.chroma),
        alpha=None if picture.alpha is None else move(picture.alpha),
        valid=None if bool(valid.all()) else valid,
    )
