"""Shading: the visible light and the heat that leave every pixel's surface towards the cameras.

Points are sorted by surface, so that a block of them is close together: it fits the cache, and lights far
from it are left out.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tectum.street.shapes import Array, Buffer
from tectum.street.surface import PERSON, Light, Street, SurfacePoints, noise

_BLOCK = 8192


class Hour(NamedTuple):
    """What the time of day changes."""

    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    exposure: float
    grain: float  # photons are few at night
    warmth: float  # added to the heat of everything that is not alive


HOURS = {
    "night": Hour((0.012, 0.016, 0.029), (0.0010, 0.0020, 0.0065), (0.011, 0.011, 0.020), 1.7, 0.0008, 0.0),
    "dusk": Hour((0.16, 0.18, 0.27), (0.02, 0.045, 0.13), (0.55, 0.24, 0.12), 1.6, 0.0004, 0.05),
    "day": Hour((1.7, 1.8, 2.0), (0.30, 0.50, 0.85), (0.85, 0.90, 0.95), 1.3, 0.0002, 0.14),
}


def shade(street: Street, buffer: Buffer) -> tuple[Array, Array]:
    """Returns the linear light (H,W,3) and the heat (H,W) of every pixel, before the cameras."""
    hour, camera = HOURS[street.hour], buffer.camera
    light, heat = _draw_sky(hour, buffer)
    owner = buffer.owner.ravel()
    pixels = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[pixels], np.arange(len(street.surfaces) + 1))
    pixels, ends = pixels[ends[0] :], ends - ends[0]  # without the sky
    owner, depth = owner[pixels], buffer.depth.ravel()[pixels]
    normals = buffer.normal.reshape(-1, 3)[pixels]
    dx, dy = (d.astype(np.float32) for d in camera.rays())
    row, col = np.divmod(pixels.astype(np.int32), camera.width)
    points = np.stack((dx[col] * depth, dy[row] * depth, depth), 1) + np.array(camera.eye, np.float32)
    table = np.array([(*s.albedo, *s.glow, s.heat, s.gloss) for s in street.surfaces], np.float32)[owner]
    pixel_m = depth / np.float32(camera.focal)
    for k, surface in enumerate(street.surfaces):
        rows = slice(int(ends[k]), int(ends[k + 1]))
        if surface.paint is not None and rows.stop > rows.start:
            t = table[rows]
            surface.paint(
                SurfacePoints(points[rows], normals[rows], pixel_m[rows], t[:, :3], t[:, 3:6], t[:, 6], t[:, 7])
            )
    alive = np.array([s.label == PERSON for s in street.surfaces])[owner]
    warm = table[:, 6] + np.where(alive, 0, hour.warmth * (0.6 + 0.4 * normals[:, 1]))
    shadows, open_sky = _cast_shadows(street, buffer, pixels)
    lit = _reflect_lights(street, hour, points, normals, table, shadows, open_sky)
    haze = np.exp(-depth / 380)[:, None]
    light.reshape(-1, 3)[pixels] = (lit + table[:, 3:6]) * haze + np.array(hour.horizon, np.float32) * (1 - haze)
    heat.reshape(-1)[pixels] = warm
    return light, heat


def _draw_sky(hour: Hour, buffer: Buffer) -> tuple[Array, Array]:
    """A gradient from the horizon to the zenith; clouds are a little brighter and warmer than the cold between them."""
    dx, dy = buffer.camera.rays()
    light = np.empty((len(dy), len(dx), 3), np.float32)
    heat = np.empty((len(dy), len(dx)), np.float32)
    rows = slice(0, int((dy > 0).sum()))
    up = dy[rows, None].astype(np.float32)
    cloud = np.clip(0.5 + 0.6 * noise(dx * 60 / (up + 0.3), 90 / (up + 0.3) + 0 * dx), 0, 1)
    share = np.exp(-4.5 * up)[..., None]
    colour = np.array(hour.zenith) * (1 - share) + np.array(hour.horizon) * share
    light[rows] = colour * (0.85 + 0.4 * cloud[..., None])
    heat[rows] = 0.035 + 0.05 * np.exp(-4 * up) + 0.025 * cloud
    return light, heat


def _reflect_lights(
    street: Street, hour: Hour, points: Array, normals: Array, table: Array, shadows: list[Array], open_sky: Array
) -> Array:
    """rho (ambient + sum of the lights) + gloss, (N,3)."""
    out = np.empty((len(points), 3), np.float32)
    ambient = np.array(hour.ambient, np.float32)[:, None]
    eye = np.array(street.eye, np.float32)[:, None]
    for start in range(0, len(points), _BLOCK):
        rows = slice(start, start + _BLOCK)
        p, n = np.ascontiguousarray(points[rows].T), np.ascontiguousarray(normals[rows].T)
        shine = np.ascontiguousarray(table[rows, 7])
        view = eye - p
        view /= np.sqrt(np.einsum("cn,cn->n", view, view))
        arriving = (0.55 + 0.45 * n[1]) * open_sky[rows] * ambient
        mirrored = 0.06 * ambient * shine
        slant = 1 - np.clip(np.einsum("cn,cn->n", view, n), 0, 1)
        fresnel = shine * (0.04 + 0.96 * slant**5) if shine.max() > 0.02 else None
        near, far = p.min(1), p.max(1)
        for light, shadow in zip(street.lights, shadows, strict=True):
            gap = np.maximum(np.maximum(near - light.at, light.at - far), 0)
            if float(gap @ gap) * 0.004 > max(light.colour):
                continue  # too far to be seen
            diffuse, mirror = _reflect_light(light, shadow[rows], p, n, view, fresnel)
            colour = np.array(light.colour, np.float32)[:, None]
            arriving += colour * diffuse
            mirrored += colour * mirror
        out[rows] = (table[rows, :3].T * arriving + mirrored).T
    return out


def _reflect_light(
    light: Light, shadow: Array, p: Array, n: Array, view: Array, fresnel: Array | None
) -> tuple[Array, Array | float]:
    """What of a light of intensity 1 arrives at points (3,n), and what a wet or polished surface mirrors of it."""
    to = np.array(light.at, np.float32)[:, None] - p
    inverse = 1 / np.maximum(np.einsum("cn,cn->n", to, to), 0.15)
    to *= np.sqrt(inverse)
    strength = inverse * np.maximum(np.einsum("cn,cn->n", n, to), 0)
    if light.power:
        axis = np.array(light.axis, np.float32)
        strength = strength * np.maximum(-(axis / np.linalg.norm(axis)) @ to, 0) ** light.power
    if len(shadow):
        strength = strength * (1 - shadow)
    if fresnel is None:
        return strength, 0.0
    half = to + view
    lobe = np.maximum(np.einsum("cn,cn->n", n, half), 0) ** 2 / np.maximum(np.einsum("cn,cn->n", half, half), 1e-6)
    for _ in range(3):
        lobe = lobe * lobe * lobe  # cos^54 of the angle between the normal and the half vector
    return strength, 2.2 * inverse * lobe * fresnel * (strength > 0)


def _cast_shadows(street: Street, buffer: Buffer, pixels: Array) -> tuple[list[Array], Array]:
    """Returns the shadow of each light on the ground, 0 to 1 (N,), or (0,) for none; and the open sky (N,)."""
    import cv2

    camera = buffer.camera
    first = int((camera.rays()[1] > 0).sum())  # the horizon
    unit = camera.focal / 600
    with np.errstate(invalid="ignore"):  # a sky as far as the horizon: infinity times 0, and no ground
        height = street.eye[1] + buffer.depth * camera.rays()[1][:, None]
    ground = ((buffer.normal[..., 1] > 0.9) & (height < 0.25)).ravel()[pixels]
    row = np.divmod(pixels, camera.width)[0]
    onto = np.flatnonzero(ground & (row >= first))
    from_pixel = pixels[onto] - first * camera.width
    casters = [s.shape.corners for s in street.surfaces if s.casts and s.shape is not None]
    corners, ends = np.concatenate(casters), np.cumsum([0] + [len(c) for c in casters])
    middles, tops = np.array([c.mean(0) for c in casters]), np.array([c[:, 1].max() for c in casters])

    def drop(lamp: Array, which: Iterable[int], softness: float, strength: float) -> Array:
        fall = np.minimum((lamp[..., 1:2] - 0.02) / np.maximum(lamp[..., 1:2] - corners[:, 1:2], 0.05), 30)
        corners_px = camera.project(lamp + (corners - lamp) * fall) - (0, first)
        fixed = np.round(np.clip(corners_px, -2e4, 2e4) * 16).astype(np.int32)
        canvas = np.zeros((camera.height - first, camera.width), np.uint8)
        for k in which:
            cv2.fillConvexPoly(canvas, cv2.convexHull(fixed[ends[k] : ends[k + 1]]), 255, cv2.LINE_8, 4)
        soft = np.asarray(cv2.GaussianBlur(canvas, (0, 0), max(softness * unit, 0.3)))
        shade = np.zeros(len(pixels), np.float32)
        shade[onto] = soft.ravel()[from_pixel] * np.float32(strength / 255)
        return shade

    shadows = []
    for light in street.lights:
        lamp = np.array(light.at)
        close = (np.hypot(*(middles - lamp)[:, ::2].T) < 11) & (tops < lamp[1] - 0.5)
        which = np.flatnonzero(close) if light.casts else ()
        shadows.append(drop(lamp, which, 1.5, 0.85) if len(which) else np.zeros(0, np.float32))
    overhead = np.repeat(middles + np.array((0, 30, 0)), np.diff(ends), 0)
    return shadows, 1 - drop(overhead, np.arange(len(casters)), 5, 0.75)
