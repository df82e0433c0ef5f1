"""Asphalt with its markings, and the pavements beside it."""

import math

import numpy as np

from tectum.street.shapes import Array, box
from tectum.street.surface import Street, SurfacePoints, band, cell_noise, cover, draw_text, noise, sample, wrap


def add_ground(street: Street) -> None:
    rng, road = street.rng, street.road
    lanes = street.place != "alley"
    drains = [(rng.uniform(1 - road, road - 1), rng.uniform(6, 26), rng.uniform(-0.05, 0.12)) for _ in range(3)]
    patches = [
        (rng.uniform(-road, road), rng.uniform(5, 40), rng.uniform(0.5, 1.3), rng.uniform(1, 4)) for _ in range(5)
    ]
    shift = rng.uniform(0, 500, 2)

    def asphalt(p: SurfacePoints) -> None:
        x, z, px = p.points[:, 0], p.points[:, 2], p.pixel_m
        deep = _pixel_length_z(p, street)
        coarse = noise(x * 14 + shift[0], z * 14 + shift[1])
        fine = noise(x * 170, z * 170) / (1 + (deep / 0.02) ** 2)
        tone = 1 + 0.06 * coarse + 0.18 * fine
        for mx, mz, width, length in patches:
            tone *= 1 - 0.3 * band(x - mx, width, px) * band(z - mz, length, deep)
        p.albedo *= tone[:, None]
        p.heat += 0.006 * coarse
        if lanes:
            p.heat += 0.03 * sum(np.exp(-(((np.abs(x) - track) / 0.28) ** 2)) for track in (0.9, 2.4))
            paint_cover = _markings(street, x, z, px, deep) * np.clip(0.85 + 0.25 * noise(x * 40, z * 40), 0, 1)
            p.albedo += paint_cover[:, None] * (np.array((0.62, 0.61, 0.56), np.float32) - p.albedo)
        p.gloss *= np.clip(0.6 + 0.35 * coarse + 0.4 * fine, 0.05, 1.6)
        for dx, dz, warm in drains:
            disc = cover(np.hypot(x - dx, z - dz) - 0.34, deep)
            ribs = np.sign(np.sin(60 * x) * np.sin(60 * z)) / (1 + (deep / 0.03) ** 2)
            p.albedo *= (1 - disc * (0.6 - 0.25 * ribs))[:, None]
            p.heat += disc * warm

    def paving(p: SurfacePoints) -> None:
        x, z, deep = p.points[:, 0], p.points[:, 2], _pixel_length_z(p, street)
        top = p.normals[:, 1] > 0.5
        joint = np.maximum(band(wrap(x, 0.6), 0.03, p.pixel_m), band(wrap(z, 0.6), 0.03, deep)) * top
        tone = 1 + 0.10 * noise(x * 25, z * 25) + 0.12 * cell_noise(x / 0.6, z / 0.6)
        p.albedo *= (tone * (1 - 0.45 * joint))[:, None]
        p.heat += 0.006 * noise(x * 14, z * 14) + np.where(top, 0, 0.03)

    street.add(None, albedo=(0.085, 0.083, 0.080), heat=0.22, gloss=street.wet, paint=asphalt)
    for s in (-1, 1):
        low, high = sorted((s * road, s * (street.wall + 1)))
        slab = box((low, high), (-0.1, 0.13), (0.2, 110))
        street.add(slab, albedo=(0.15, 0.145, 0.135), heat=0.185, gloss=0.25 * street.wet, paint=paving)


def _pixel_length_z(p: SurfacePoints, street: Street) -> Array:
    """How long a pixel is on the ground, along z."""
    return np.asarray(p.pixel_m * np.maximum(p.points[:, 2], 1) / street.eye[1])


def _markings(street: Street, x: Array, z: Array, px: Array, deep: Array) -> Array:
    """Coverage of the road paint: centre dashes, edge lines, a zebra crossing with its stop line, or a word."""
    road, zebra = street.road, street.zebra_z
    paint = np.maximum(band(wrap(z, 7.5), 3.0, deep) * band(x, 0.14, px), band(np.abs(x) - road + 0.35, 0.1, px))
    if zebra < math.inf:
        stripes = band(wrap(x, 1.0), 0.5, px) * band(x, 2 * road - 0.9, px)
        paint *= 1 - band(z - zebra, 4.6, deep)
        paint = np.maximum(paint, band(z - zebra, 3.2, deep) * stripes)
        paint = np.maximum(paint, band(z - zebra + 3.4, 0.35, deep) * band(x - road / 2, road - 0.9, px))
    else:
        paint = np.maximum(paint, sample(draw_text("SLOW"), (x - 0.75) / 1.9, (11.0 - z) / 3.2))
    return np.asarray(paint)
