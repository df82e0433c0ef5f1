"""Ray casting of convex bodies and capsules: the surface, depth and normal that every pixel sees.

A pinhole at E looks along +z (x right, y up, metres). The ray of a pixel is P(t) = E + t d with d_z = 1; t is depth.

    convex    {P : n_k . P <= c_k}      t_k = (c_k - n_k . E) / (n_k . d);  hit at the last t_k to enter (n_k . d < 0),
                                        if no t_k that leaves (n_k . d > 0) comes before it
    capsule   {P : |P - [A, B]| <= r}   the nearer root of a quadratic for the tube, or for the sphere at its nearer end

Both are tried only inside the window of pixels their corners project to, and kept where they are nearer than what was
there (a depth buffer), so the order of drawing does not matter and occlusion is right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Window = tuple[slice, slice]
_Index = tuple[Array, Array]  # rows and columns in a window
_Holes = Callable[[Array], Array]
_NEAR_M = 0.3  # nothing nearer than this is seen
_CUBE = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], float)


@dataclass(frozen=True)
class Camera:
    """A pinhole without pitch or roll (verticals stay vertical): focal length and centre in pixels, `eye` in metres."""

    height: int
    width: int
    focal: float
    centre: tuple[float, float]  # (column, row) of the vanishing point
    eye: tuple[float, float, float]

    def rays(self) -> tuple[Array, Array]:
        """Directions d_x of the columns (W,) and d_y of the rows (H,); d_z is 1."""
        dx = (np.arange(self.width) + 0.5 - self.centre[0]) / self.focal
        dy = -(np.arange(self.height) + 0.5 - self.centre[1]) / self.focal
        return dx, dy

    def project(self, points: Array) -> Array:
        """(N,3) world points to (N,2) pixel coordinates (column, row); what is behind is pulled before it."""
        local = points - np.asarray(self.eye)
        scale = self.focal / np.maximum(local[:, 2:], _NEAR_M)
        return np.asarray(local[:, :2] * scale * (1, -1) + self.centre)

    def windows(self, corners: Sequence[Array]) -> list[Window]:
        """For each hull of corners (N,3) the rows and columns that hold its projection; empty if out of view."""
        pixels, starts = self.project(np.concatenate(corners)), np.cumsum([0] + [len(c) for c in corners])[:-1]
        limits = (self.width, self.height)
        low = np.clip(np.floor(np.minimum.reduceat(pixels, starts)), 0, limits).astype(int).tolist()
        high = np.clip(np.ceil(np.maximum.reduceat(pixels, starts)), 0, limits).astype(int).tolist()
        return [(slice(a[1], b[1]), slice(a[0], b[0])) for a, b in zip(low, high, strict=True)]


@dataclass(frozen=True)
class Convex:
    """The intersection of half spaces n . P <= c, with the corners of its surface."""

    normals: Array
    offsets: Array
    corners: Array

    def hit(self, eye: Array, dx: Array, dy: Array) -> tuple[Array, Callable[[_Index, Array], Array]]:
        """Depth (H,W) of the first hit, infinite where there is none, and the function index, points -> normals."""
        enter = np.full((len(dy), len(dx)), _NEAR_M, np.float32)
        leave = np.full_like(enter, np.inf)
        plane = np.zeros(enter.shape, np.uint8)
        for k, (n, c) in enumerate(zip(self.normals, self.offsets, strict=True)):
            gap = np.float32(c - n @ eye)
            slope = np.add.outer((n[1] * dy + n[2]).astype(np.float32), (n[0] * dx).astype(np.float32))
            slope[np.abs(slope) < 1e-9] = 1e-9
            t = gap / slope
            inward = slope < 0
            later = inward & (t > enter)
            np.copyto(enter, t, where=later)
            plane[later] = k
            np.minimum(leave, t, out=leave, where=~inward)
        enter[(enter >= leave) | (enter <= _NEAR_M)] = np.inf
        return enter, lambda index, _: self.normals[plane[index]]


@dataclass(frozen=True)
class Capsule:
    """All points within `radius` of the segment from `start` to `end`; a sphere where both are the same."""

    start: Array
    end: Array
    radius: float

    @property
    def corners(self) -> Array:
        return np.asarray(np.concatenate((self.start + self.radius * _CUBE, self.end + self.radius * _CUBE)))

    def hit(self, eye: Array, dx: Array, dy: Array) -> tuple[Array, Callable[[_Index, Array], Array]]:
        """Depth (H,W) of the first hit, infinite where there is none, and the function index, points -> normals."""

        def along(v: Array) -> Array:
            return np.asarray(np.add.outer(v[1] * dy + v[2], v[0] * dx))

        axis, to = self.end - self.start, eye - self.start
        dd, dt = np.add.outer(dy * dy + 1.0, dx * dx), along(to)
        length2, axis_t = axis @ axis, axis @ to
        t = np.full(dd.shape, np.inf)
        end = np.zeros(dd.shape, bool)  # which sphere may be hit where the tube is not
        tube = end
        if length2 > 0:
            da = along(axis)
            qa, qb = length2 * dd - da * da, length2 * dt - axis_t * da
            disc = qb * qb - qa * (length2 * (to @ to - self.radius**2) - axis_t**2)
            root = (-qb - np.sqrt(np.maximum(disc, 0))) / np.maximum(qa, 1e-12)
            at = axis_t + root * da
            tube = (disc > 0) & (at > 0) & (at < length2)
            t[tube] = root[tube]
            end = at >= length2
        db = np.where(end, along(eye - self.end), dt)
        qc = np.where(end, (eye - self.end) @ (eye - self.end), to @ to) - self.radius**2
        disc = db * db - dd * qc
        ball = ~tube & (disc > 0)
        t[ball] = ((-db - np.sqrt(np.maximum(disc, 0))) / dd)[ball]
        t[t < _NEAR_M] = np.inf

        def normals(_: _Index, points: Array) -> Array:
            share = np.clip((points - self.start) @ axis / max(length2, 1e-12), 0, 1)
            return np.asarray((points - self.start - share[:, None] * axis) / self.radius)

        return t.astype(np.float32), normals


def prism(
    profile: Sequence[tuple[float, float]],
    half_width: float,
    *,
    at: tuple[float, float] = (0.0, 0.0),
    ahead: tuple[float, float] = (0.0, 1.0),
    slope: float = 0.0,
) -> Convex:
    """Returns a convex side view, extruded sideways.

    `profile` lists (along, y) counterclockwise; `at` is the (x, z) of its origin, `ahead` the unit (x, z) its first
    coordinate runs along. The half width shrinks by `slope` per metre above the lowest point (a car's cabin).
    """
    forward, up = np.array((ahead[0], 0.0, ahead[1])), np.array((0.0, 1.0, 0.0))
    side, origin = np.array((ahead[1], 0.0, -ahead[0])), np.array((at[0], 0.0, at[1]))
    outline = np.asarray(profile, float)
    base = outline[:, 1].min()
    edges = np.roll(outline, -1, 0) - outline
    rim = np.outer(edges[:, 1], forward) - np.outer(edges[:, 0], up)
    normals = np.concatenate((rim, [side + slope * up, -side + slope * up]))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    widths = (half_width - slope * (outline[:, 1] - base))[:, None] * side
    middle = origin + np.outer(outline[:, 0], forward) + np.outer(outline[:, 1], up)
    lowest = int(outline[:, 1].argmin())
    touched = np.concatenate((middle, [middle[lowest] + widths[lowest], middle[lowest] - widths[lowest]]))
    return Convex(normals, np.einsum("kc,kc->k", normals, touched), np.concatenate((middle + widths, middle - widths)))


def box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> Convex:
    """Returns an upright box from its (low, high) ranges in metres."""
    outline = [(z[0], y[0]), (z[1], y[0]), (z[1], y[1]), (z[0], y[1])]
    return prism(outline, (x[1] - x[0]) / 2, at=((x[0] + x[1]) / 2, 0.0))


@dataclass
class Buffer:
    """Depth buffer: depth (H,W), index of the surface (H,W; -1 is the sky) and unit normal (H,W,3) of every pixel."""

    camera: Camera
    depth: Array = field(init=False)
    owner: NDArray[np.int16] = field(init=False)
    normal: Array = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.camera.height, self.camera.width)
        self.depth = np.full(shape, np.inf, np.float32)
        self.owner = np.full(shape, -1, np.int16)
        self.normal = np.zeros((*shape, 3), np.float32)
        self._eye, (self._dx, self._dy) = np.asarray(self.camera.eye), self.camera.rays()

    def ground(self, owner: int) -> None:
        """Draw the plane y = 0."""
        below = self._dy < -1e-4
        self.depth[below] = (self._eye[1] / -self._dy[below]).astype(np.float32)[:, None]
        self.owner[below] = owner
        self.normal[below] = (0, 1, 0)

    def draw(self, owner: int, shape: Convex | Capsule, window: Window, holes: _Holes | None = None) -> None:
        """Draw `shape` where it is nearest; `holes` says which of its points (N,3) let the view through (foliage)."""
        depth, owner_window = self.depth[window], self.owner[window]
        if not depth.size:
            return
        dx, dy = self._dx[window[1]], self._dy[window[0]]
        t, normals = shape.hit(self._eye, dx, dy)
        nearer = t < depth
        row, col = np.nonzero(nearer)
        away = t[row, col]
        points = self._eye + away[:, None] * np.stack((dx[col], dy[row], np.ones(len(row))), 1)
        if holes is not None:
            solid = ~holes(points)
            row, col, away, points = row[solid], col[solid], away[solid], points[solid]
        if len(row):
            depth[row, col] = away
            owner_window[row, col] = owner
            self.normal[window][row, col] = normals((row, col), points)
