"""Houses along both sides and across the far end: walls of brick or plaster, windows, shops with their names."""

import numpy as np

from tectum.street.shapes import Array, Convex, box
from tectum.street.surface import Light, Street, SurfacePoints, band, cell_noise, draw_sign, noise, sample, wrap

_STOREY_M = 3.1
_BRICKS = ((0.30, 0.14, 0.09), (0.24, 0.15, 0.11), (0.20, 0.11, 0.09))
_PLASTERS = ((0.34, 0.32, 0.27), (0.30, 0.27, 0.20), (0.22, 0.25, 0.27))
_LIT_SHARE = {"night": 0.28, "dusk": 0.36, "day": 0.0}  # of the windows


def add_houses(street: Street) -> None:
    rng = street.rng
    for s in (-1, 1):
        z = -2.0
        while z < 95:
            length, top = rng.uniform(8, 15), _STOREY_M * int(rng.integers(3, 6)) + 1.1
            low, high = sorted((s * street.wall, s * (street.wall + 12)))
            _add_house(street, box((low, high), (-0.1, top), (max(z, 0.2), z + length)), s, z, length, top)
            z += length + (rng.uniform(2.5, 5) if rng.random() < 0.25 else 0.0)
    for x in np.arange(-45, 46, 11.0):
        top = rng.uniform(7, 24)
        _add_house(street, box((x, x + 9), (-0.1, top), (112, 124)), 0, x, 9, top)


def _add_house(street: Street, shape: Convex, side: int, start: float, length: float, top: float) -> None:
    """`side` is -1 or 1, or 0 for a house that faces the camera; `start` is its first coordinate along its front."""
    rng = street.rng
    brick = bool(rng.random() < 0.55)
    tint = (_BRICKS if brick else _PLASTERS)[int(rng.integers(3))]
    heat, shift = float(rng.uniform(0.20, 0.28)), float(rng.uniform(0, 500))
    rooms = rng.random((8, max(2, round(length / 2.9)), 3)).astype(np.float32)
    shop = bool(rng.random() < 0.6) and side != 0 and street.place != "alley"
    is_open = bool(rng.random() < 0.75) and street.lit
    word, neon = draw_sign(rng)
    if shop and is_open and start + length > 4:
        at = (side * (street.wall - 0.4), 1.9, max(start + length / 2, 4.0))
        street.lights.append(Light(at, (1.6, 1.2, 0.7), (-side, -0.5, 0)))

    def paint(p: SurfacePoints) -> None:
        front = _Front(p, side, street.wall, start, length, top)
        _wall(p, front, brick, shift)
        _windows(p, front, rooms, _LIT_SHARE[street.hour], bottom=int(shop))
        if shop:
            _shop(p, front, side, is_open, word, neon, heat)

    street.add(shape, albedo=tint, heat=heat, paint=paint)


class _Front:
    """The coordinates of a wall: u along it, v up, how wide a pixel is in each, and which points face the street."""

    def __init__(self, p: SurfacePoints, side: int, wall: float, start: float, length: float, top: float) -> None:
        x, self.v, z = p.points.T
        self.street = np.abs(p.normals[:, 0]) > 0.5 if side else p.normals[:, 2] < -0.5
        self.u = np.where(self.street, z, x) if side else x
        self.high = p.pixel_m
        self.wide = np.where(self.street, p.pixel_m * np.maximum(z, 1) / wall, p.pixel_m) if side else p.pixel_m
        self.start, self.length, self.top, self.along = start, length, top, self.u - start


def _wall(p: SurfacePoints, f: _Front, brick: bool, shift: float) -> None:
    rough = noise(f.u * 22 + shift, f.v * 22)
    tone = 1 + 0.09 * rough
    if brick:
        row = np.floor(f.v / 0.12)
        at = f.u + 0.16 * (row % 2)
        mortar = np.maximum(band(wrap(f.v, 0.12), 0.022, f.high), band(wrap(at, 0.32), 0.022, f.wide))
        tone *= (1 + 0.28 * cell_noise(at / 0.32, row) / (1 + (f.wide / 0.12) ** 2)) * (1 + 0.6 * mortar)
    cornice = band(f.v - f.top + 0.35, 0.5, f.high) + band(f.v - 3.35, 0.25, f.high)
    p.albedo *= np.clip(tone * (1 + 0.5 * cornice) * (0.75 + 0.25 * np.clip(f.v / 1.2, 0, 1)), 0.1, 3)[:, None]
    p.heat += 0.007 * rough + 0.05 * np.exp(-np.maximum(f.v, 0) / 1.5) + 0.03 * cornice - 0.004 * f.v


def _windows(p: SurfacePoints, f: _Front, rooms: Array, share: float, bottom: int) -> None:
    step = f.length / rooms.shape[1]
    column, du = np.floor(f.along / step), np.mod(f.along, step) - step / 2
    floor, dv = np.floor((f.v - 0.2) / _STOREY_M), np.mod(f.v - 0.2, _STOREY_M) - 1.75
    window_area = f.street & (floor >= bottom) & (f.v < f.top - 1.0)
    hole = band(du, 1.15, f.wide) * band(dv, 1.55, f.high) * window_area
    glass = hole * band(np.abs(du) - 0.26, 0.46, f.wide) * band(dv, 1.41, f.high)
    frame = hole - glass
    sill = band(du, 1.4, f.wide) * band(dv + 0.85, 0.12, f.high) * window_area
    room = rooms[floor.astype(int) % 8, column.astype(int) % rooms.shape[1]]
    is_lit = room[:, 0] < share
    curtain = np.where(np.abs(du) / 0.575 > 0.35 + 0.9 * room[:, 2], 0.4, 1.0)
    shine = glass * is_lit * (0.25 + 0.75 * room[:, 1]) * curtain
    shine = shine * (0.75 + 0.35 * dv) * (1 + 0.12 * noise(f.u * 60, f.v * 25))
    p.albedo *= (1 - 0.85 * glass)[:, None]
    p.albedo += (0.25 * np.maximum(0.7 * frame, sill))[:, None]
    p.glow += (0.75 * shine)[:, None] * np.where(room[:, 1:2] > 0.85, (0.55, 0.75, 0.9), (1.0, 0.62, 0.28))
    p.heat += glass * np.where(is_lit, 0.10, -0.07) + 0.05 * frame + 0.05 * sill
    p.gloss += 0.25 * glass


def _shop(p: SurfacePoints, f: _Front, side: int, is_open: bool, word: Array, neon: Array, wall_heat: float) -> None:
    du, width = f.along - f.length / 2, f.length - 1.6
    front = f.street * band(du, width, f.wide) * band(f.v - 1.6, 2.2, f.high)
    bars = front * np.maximum(band(wrap(du, width / 3), 0.09, f.wide), 1 - band(f.v - 1.6, 2.06, f.high))
    shelf = band(wrap(f.v - 0.1, 0.5), 0.05, f.high)
    goods = np.stack([0.5 + 0.5 * cell_noise(f.u / 0.23 + 31 * c, np.floor(f.v / 0.5)) for c in range(3)], 1)
    depth = 0.25 + 0.75 * np.clip((f.v - 0.4) / 2.2, 0, 1) ** 2  # the ceiling lights
    goods = 0.55 * goods.mean(1, keepdims=True) + 0.45 * goods
    goods = goods * (np.mod(f.v - 0.1, 0.5) < 0.38)[:, None]
    inside = (0.08 + 0.5 * goods) * (1 - 0.6 * shelf)[:, None] + 0.25 * depth[:, None]
    glass = front - bars
    p.albedo *= (1 - 0.85 * front)[:, None]
    p.glow += (glass * depth * (0.36 if is_open else 0.008))[:, None] * inside * (1.0, 0.72, 0.40)
    p.heat += glass * (0.05 if is_open else -0.04) + 0.04 * bars
    p.gloss += 0.3 * glass
    wide = min(4.0, 0.6 * word.shape[1] / word.shape[0])
    board = f.street * band(du, wide + 0.5, f.wide) * band(f.v - 3.35, 0.85, f.high)
    ink = board * sample(word, 0.5 - side * du / wide, (3.35 - f.v) / 0.56 + 0.5)
    p.albedo += board[:, None] * (np.array((0.05, 0.06, 0.08), np.float32) - p.albedo)
    p.albedo += ink[:, None] * (0.7 * neon - p.albedo)
    p.glow += ink[:, None] * neon * (1.5 if is_open else 0.0)
    p.heat += board * (wall_heat - p.heat)
