"""Search for the transform under which the normalised gradient fields of two images agree best.

A field (H,W,2) is the z of `tectum.registration.align`, and the correlation of two is the score. `search_shifts` tries
all shifts with a few rotations and scales at low resolution, `refine` improves a transform by Gauss-Newton steps.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tectum.io.validity import fill_invalid

Array = NDArray[Any]
Size = tuple[int, int]

# Displacements each model may make: columns over (u=1, v=1, u=x, u=y, v=x, v=y, (u,v)=x(x,y), (u,v)=y(x,y)).
FREEDOMS: dict[str, Array] = {
    "translation": np.eye(8)[:, :2],
    "similarity": np.c_[np.eye(8)[:, :2], [0, 0, 1, 0, 0, 1, 0, 0], [0, 0, 0, -1, 1, 0, 0, 0]],
    "affine": np.eye(8)[:, :6],
    "homography": np.eye(8),
}
_PRIOR_STD = 0.015  # of rotation (rad), scale and shear, relative to plain resizing
_REACH = 4  # pixels from one without data that its gradient may touch: two Gaussians and the Sobel filter
_CORRELATED_PX = 25.0  # pixels of a smoothed field that count as one observation


def plain_matrix(size: Size, infrared_size: Size) -> Array:
    """Returns the (3,3) matrix of plain resizing: visible to infrared pixel coordinates, pixel centres at integers.

    >>> plain_matrix((4, 4), (2, 2))[0].tolist()
    [0.5, 0.0, -0.25]
    """
    sy, sx = infrared_size[0] / size[0], infrared_size[1] / size[1]
    return np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]])


def size_of(image: Array) -> Size:
    """Returns height and width."""
    return int(image.shape[0]), int(image.shape[1])


def limit_size(size: Size, max_pixels: float) -> Size:
    """Returns the size shrunk to at most about `max_pixels`, at least 32 a side."""
    shrink = min(1.0, math.sqrt(max_pixels / (size[0] * size[1])))
    return max(32, round(size[0] * shrink)), max(32, round(size[1] * shrink))


def corner_points(size: Size) -> Array:
    """Returns the centres of the corner pixels, (4,2) as x, y."""
    height, width = size
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)


def resize(image: Array, size: Size) -> Array:
    """Resize by area means, or bilinear where it becomes larger."""
    import cv2

    if size_of(image) == size:
        return image
    finer = image.shape[0] >= size[0]
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if finer else cv2.INTER_LINEAR))


def gradient_field(image: Array) -> Array:
    """Returns the normalised gradient with doubled angle, (H,W) -> (H,W,2).

    It is 0 in a margin of 2 % (black borders), and at and beside pixels without data, which are NaN.
    """
    import cv2

    invalid = np.isnan(image)
    has_holes = bool(invalid.any()) and not invalid.all()
    if has_holes:
        image = fill_invalid(image[None], ~invalid)[0]

    # Gradient of the smoothed image
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    gx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE)
    gy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REPLICATE)
    # z = (gx + i gy)^2 / (|g|^2 + mean |g|^2), smoothed
    energy = gx * gx + gy * gy
    if has_holes:
        reach = np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8)
        seen = (cv2.dilate(invalid.astype(np.uint8), reach) == 0)[..., None].astype(np.float32)
        mean = float((energy * seen[..., 0]).sum()) / max(float(seen.sum()), 1.0)
    else:
        mean = float(energy.mean())
    floor = energy + max(mean, 1e-9)
    field = cv2.GaussianBlur(np.dstack([(gx * gx - gy * gy) / floor, 2 * gx * gy / floor]), (0, 0), 1.0)
    if has_holes:
        field = field * seen
    margin = max(2, round(0.02 * image.shape[1]))
    inner = np.zeros_like(field)
    inner[margin:-margin, margin:-margin] = field[margin:-margin, margin:-margin]
    return inner


def dot(a: Array, b: Array) -> Array:
    """Returns Re a conj(b) per pixel; faster than a sum over the last axis."""
    return np.asarray(a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1])


def score(a: Array, b: Array) -> float:
    """Returns the correlation of two fields, in [-1, 1]."""
    return float(np.vdot(a, b)) / math.sqrt(float(np.vdot(a, a)) * float(np.vdot(b, b)) + 1e-12)


def move_field(field: Array, matrix: Array) -> tuple[Array, Array]:
    """Warp a field by a matrix. Returns it, and a mask (H,W,1) of what is inside the view (1) or not (0)."""
    import cv2

    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(field, matrix, field.shape[1::-1], flags=flags)
    inside = cv2.warpPerspective(np.ones(field.shape[:2], np.float32), matrix, field.shape[1::-1], flags=flags) > 0.99
    return warped * inside[..., None], inside[..., None].astype(np.float32)


def _correlate_shifts(a: Array, b: Array, reach: int) -> Array:
    """Re sum_p a(p) conj(b(p + d)) / (|a| |b|) for all shifts |dx|, |dy| <= reach: (2 reach + 1, 2 reach + 1)."""
    import cv2

    shape = [cv2.getOptimalDFTSize(n + reach) for n in a.shape[:2]]
    fa, fb = (np.fft.fft2(x[..., 0] + 1j * x[..., 1], s=shape) for x in (a, b))
    plane = np.fft.ifft2(np.conj(fa) * fb).real / math.sqrt(float(np.vdot(a, a)) * float(np.vdot(b, b)) + 1e-12)
    return np.roll(plane, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]


def contrast(a: Array, b: Array) -> float:
    """Returns by how many standard deviations the score exceeds those of other shifts of the same two fields."""
    half = (max(32, a.shape[0] // 2), max(32, a.shape[1] // 2))
    a, b = resize(a, half), resize(b, half)
    reach = int(min(half) * 0.3)
    plane = _correlate_shifts(a, b, reach)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    others = plane[x * x + y * y > (0.04 * half[1]) ** 2]
    return (score(a, b) - float(others.mean())) / max(float(others.std()), 1e-6)


def _centred_frame(size: Size) -> Array:
    """The matrix from pixels to coordinates with the origin in the centre and half the width as the unit."""
    unit = size[1] / 2
    return np.array([[1 / unit, 0, -(size[1] - 1) / 2 / unit], [0, 1 / unit, -(size[0] - 1) / 2 / unit], [0, 0, 1]])


def search_shifts(field_a: Array, b: Array, max_shift: float) -> dict[str, Array]:
    """Search all shifts alone, and with rotations of -3..3 degrees and scales of 0.94..1.06.

    Args:
        field_a: gradient field of the visible image, (H,W,2).
        b: the infrared image, (H,W).
        max_shift: in widths.

    Returns:
        The best matrices: "translation" and "similarity".
    """
    import cv2

    size = size_of(b)
    centred, reach = _centred_frame(size), math.ceil(max_shift * size[1])
    best = {"translation": -2.0, "similarity": -2.0}
    matrices = {name: np.eye(3) for name in best}
    for angle in range(-3, 4):
        for scale in np.arange(0.94, 1.061, 0.02):
            c, s = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
            # Turn and scale the infrared about its centre
            turn = np.linalg.inv(centred) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ centred
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            turned = cv2.warpPerspective(b, turn, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
            # The scores of all shifts at once; the best of them
            plane = _correlate_shifts(field_a, gradient_field(turned), reach)
            y, x = divmod(int(plane.argmax()), 2 * reach + 1)
            unturned = angle == 0 and abs(scale - 1) < 1e-6
            for name in best if unturned else ["similarity"]:
                if plane[y, x] > best[name]:
                    best[name] = float(plane[y, x])
                    matrices[name] = turn @ np.array([[1, 0, x - reach], [0, 1, y - reach], [0, 0, 1]])
    return matrices


def refine(field_a: Array, field_b: Array, matrix: Array, model: str, num_steps: int = 12) -> tuple[Array, float]:
    """Improve a transform by Gauss-Newton steps on sum |a / gain - b o W|^2 + prior.

    The gain makes the minimum of the sum the maximum of the score.

    Args:
        field_a, field_b: gradient fields of both images, (H,W,2) of one size.
        matrix: where to start, (3,3) in their pixels.
        model: a key of FREEDOMS.
        num_steps: at most.

    Returns:
        The best matrix on the way, and its score.
    """
    import cv2

    size, free = size_of(field_a), FREEDOMS[model]
    unit, centred = size[1] / 2, _centred_frame(size)
    # Effect of each freedom on the displacement (u, v), in cells
    cells = (math.ceil(size[0] / 8), math.ceil(size[1] / 8))  # the displacement is taken as constant in a cell
    area = size[0] * size[1] / (cells[0] * cells[1])
    row, column = np.indices(cells)
    x, y, _ = centred @ plain_matrix(cells, size) @ np.stack([column.ravel(), row.ravel(), np.ones(column.size)])
    one, zero = np.ones_like(x), np.zeros_like(x)
    u = np.stack([one, zero, x, y, zero, zero, x * x, x * y], 1) @ free
    v = np.stack([zero, one, zero, zero, x, y, x * y, y * y], 1) @ free
    best_score, best_matrix = -2.0, matrix
    for _ in range(num_steps):
        warped, inside = move_field(field_b, matrix)
        a = field_a * inside
        new_score = score(a, warped)
        if new_score > best_score:
            best_score, best_matrix = new_score, matrix
        elif new_score < best_score - 1e-3:
            break
        # Residual, and gradients of the warped field
        gain = max(float(np.vdot(a, warped)) / (float(np.vdot(warped, warped)) + 1e-9), 0.05)
        error = a / gain - warped
        gx = cv2.Sobel(warped, cv2.CV_32F, 1, 0, scale=1 / 8) * inside
        gy = cv2.Sobel(warped, cv2.CV_32F, 0, 1, scale=1 / 8) * inside
        # Normal equations: sums over the pixels of a cell, then over the cells
        pairs = ((gx, gx), (gx, gy), (gy, gy), (gx, error), (gy, error))
        xx, xy, yy, ex, ey = (resize(dot(p, q), cells).reshape(-1, 1) * area for p, q in pairs)
        normal = u.T @ (xx * u + xy * v) + v.T @ (xy * u + yy * v)
        right = (u.T @ ex + v.T @ ey)[:, 0]
        # Precision of the prior: shifts are free, turns and scales have mean 0 against plain resizing
        variance = float(np.vdot(error, error)) / max(float(inside.sum()), 1.0)
        prior = np.r_[0, 0, np.ones(4), 9, 9] * _CORRELATED_PX * variance / (_PRIOR_STD * unit) ** 2
        # Departure of the matrix from plain resizing so far
        m = centred @ matrix @ np.linalg.inv(centred)
        m = m / m[2, 2] - np.eye(3)
        past = unit * np.array([m[0, 2], m[1, 2], m[0, 0], m[0, 1], m[1, 0], m[1, 1], -m[2, 0], -m[2, 1]])
        normal += free.T @ (prior[:, None] * free) + np.diag(np.full(free.shape[1], 1e-6 * np.trace(normal) + 1e-9))
        # Solve for the step, and compose it with the matrix
        tx, ty, a, b, c, d, p, q = step = free @ np.linalg.solve(normal, right - free.T @ (prior * past)) / unit
        small = np.array([[1 + a, b, tx], [c, 1 + d, ty], [-p, -q, 1]])
        matrix = matrix @ np.linalg.inv(centred) @ small @ centred
        matrix = matrix / matrix[2, 2]
        # Stop when it stands still or runs away
        largest = float(np.abs(step).sum()) * unit
        if largest < 0.02 or largest > 0.5 * size[1]:
            break
    return best_matrix, best_score
