"""Lamps, trees, signs and people on the pavement."""

import math
from typing import Any

import numpy as np

from tectum.street.shapes import Array, Capsule, box, prism
from tectum.street.surface import LAMP, PERSON, Light, Street, SurfacePoints, band, draw_sign, draw_text, noise, sample

_COATS = ((0.030, 0.032, 0.040), (0.045, 0.038, 0.035), (0.022, 0.025, 0.035), (0.05, 0.05, 0.055), (0.20, 0.035, 0.03))


def add_lamp(street: Street, side: int, z: float, colour: Array) -> None:
    """A lamp on a mast at the kerb, or on a bracket at the wall of an alley, which hangs over the road."""
    object_id, alley = street.new_object(), street.place == "alley"
    x, top, reach = (side * street.wall, 4.0, 0.7) if alley else (side * (street.road + 0.4), 6.2, 1.5)
    metal: dict[str, Any] = dict(albedo=(0.10, 0.10, 0.11), heat=0.15, label=LAMP, object_id=object_id)
    end = np.array((x - side * reach, top + 0.2, z))
    street.add(Capsule(np.array((x, top, z)), end, 0.04), **metal)
    if not alley:
        street.add(Capsule(np.array((x, 0.0, z)), np.array((x, top, z)), 0.07), casts=True, **metal)
    hx, low = float(end[0]) - 0.15 * side, top + 0.12
    street.lamps.append((hx, z))
    glow, heat = (tuple(colour * 26), 0.5) if street.lit else ((0.3, 0.3, 0.3), 0.17)
    head = box((hx - 0.34, hx + 0.34), (low, low + 0.13), (z - 0.17, z + 0.17))
    street.add(head, **metal | dict(glow=glow, heat=heat))
    if street.lit:
        street.lights.append(Light((hx, low - 0.1, z), tuple(colour * (13 if alley else 46)), power=4, casts=True))


def add_tree(street: Street, x: float, z: float) -> None:
    """A trunk, a few branches and a crown of spheres with holes."""
    rng = street.rng
    foot = np.array((x, 0.0, z))
    fork = foot + np.array((rng.uniform(-0.2, 0.2), rng.uniform(2.3, 3.0), 0))
    green, shift = tuple(np.array((0.075, 0.12, 0.035)) * rng.uniform(0.8, 1.3)), rng.uniform(0, 500)

    def holes(q: Array) -> Any:
        return noise(q[:, 0] * 62 + q[:, 2] * 45 + shift, q[:, 1] * 62 - q[:, 2] * 30) > 0.1

    def leaves(p: SurfacePoints) -> None:
        x, y = p.points[:, 0], p.points[:, 1]
        p.albedo *= np.clip(1 + 0.5 * noise(x * 200, y * 200), 0.2, 2)[:, None]
        p.heat += 0.02 * noise(x * 90, y * 90) + 0.03 * p.normals[:, 1]

    bark: dict[str, Any] = dict(albedo=(0.10, 0.075, 0.055), heat=0.31)
    street.add(Capsule(foot, fork, 0.15), casts=True, **bark)
    for k in range(11):
        lift = rng.uniform(0.2, 2.4)
        far = rng.uniform(0.5, 1.35) * math.sin(math.pi * (lift + 0.5) / 3.3)
        middle = fork + np.array((far * math.cos(2.4 * k), lift, far * math.sin(2.4 * k)))
        if k % 3 == 0:
            street.add(Capsule(fork, middle, 0.05), **bark)
        street.add(Capsule(middle, middle, rng.uniform(0.65, 1.0)), albedo=green, heat=0.235, paint=leaves, holes=holes)


def add_road_sign(street: Street, x: float, z: float) -> None:
    """A round sign: red and white paint that throws light back, and no heat at all in it."""
    ink = draw_text(("30", "50", "P", "STOP")[int(street.rng.integers(4))])
    rim = [(0.36 * math.cos(a), 2.55 + 0.36 * math.sin(a)) for a in np.arange(20) * math.pi / 10]
    wide = 0.34 * min(1.6, ink.shape[1] / ink.shape[0])

    def paint(p: SurfacePoints) -> None:
        dx, dy, front = p.points[:, 0] - x, p.points[:, 1] - 2.55, p.normals[:, 2] < -0.5
        red = np.hypot(dx, dy)[:, None] > 0.27
        black = 0.92 * sample(ink, dx / wide + 0.5, 0.5 - dy / 0.28)
        face = np.where(red, (0.5, 0.03, 0.03), (0.7, 0.7, 0.68)) * (1 - black)[:, None]
        p.albedo[front] = face[front]
        p.glow += face * front[:, None] * (0.09 if street.lit else 0)

    pole = Capsule(np.array((x, 0.0, z)), np.array((x, 2.3, z)), 0.035)
    street.add(pole, albedo=(0.2, 0.2, 0.2), heat=0.15, casts=True)
    street.add(prism(rim, 0.015, at=(x, z - 0.05), ahead=(1, 0)), albedo=(0.2, 0.2, 0.2), heat=0.14, paint=paint)


def add_neon_sign(street: Street, side: int, z: float) -> None:
    """A neon sign that stands out from a wall; cold light."""
    rng, y = street.rng, float(street.rng.uniform(2.7, 3.4))
    ink, tint = draw_sign(rng)
    wide = min(1.5, 0.42 * ink.shape[1] / ink.shape[0] + 0.2) * (0.65 if street.place == "alley" else 1)
    x = side * (street.wall - wide / 2 - 0.05)

    def paint(p: SurfacePoints) -> None:
        dx, dy, front = p.points[:, 0] - x, p.points[:, 1] - y, p.normals[:, 2] < -0.5
        text = sample(ink, dx / (wide - 0.16) + 0.5, 0.5 - dy / 0.34) * front
        edge = front * (1 - band(dx, wide - 0.06, p.pixel_m) * band(dy, 0.52, p.pixel_m))
        p.albedo += text[:, None] * (0.6 - p.albedo)
        if street.lit:
            p.glow += (1.9 * np.maximum(text, 0.7 * edge) + 0.03 * front)[:, None] * tint

    case = box((x - wide / 2, x + wide / 2), (y - 0.29, y + 0.29), (z, z + 0.12))
    street.add(case, albedo=(0.03, 0.03, 0.04), heat=0.23, paint=paint)
    if street.lit:
        street.lights.append(Light((x, y, z - 0.4), tuple(0.9 * tint), power=0))


def add_person(street: Street, x: float, z: float, yaw: float, *, height: float) -> None:
    """Somebody at (x, z) who looks along (sin yaw, cos yaw), in dark clothes: warm hands and face, cooler coat."""
    rng, object_id, k = street.rng, street.new_object(), height / 1.75
    up, ahead = np.array((0.0, 1.0, 0.0)), np.array((math.sin(yaw), 0, math.cos(yaw)))
    side = np.array((math.cos(yaw), 0, -math.sin(yaw)))
    foot = np.array((x, 0.13 if abs(x) > street.road else 0.0, z))
    walks, stride = rng.random() < 0.75, float(rng.uniform(0.35, 0.6) * rng.choice((-1, 1)))
    stride = stride if walks else 0.06
    raised = rng.random() < 0.25  # one forearm (a telephone)
    coat = _COATS[int(rng.choice(5, p=(0.3, 0.25, 0.25, 0.14, 0.06)))]
    warm, legs = float(rng.uniform(0.56, 0.68)), float(rng.uniform(0.6, 0.7))
    skin, jeans, shoe, hair = (0.30, 0.19, 0.14), (0.028, 0.032, 0.045), (0.03, 0.028, 0.026), (0.02, 0.016, 0.013)

    def joint(w: float, y: float, s: float) -> Array:
        return np.asarray(foot + k * (w * side + y * up + s * ahead))

    def edges(p: SurfacePoints) -> None:  # a surface seen at a slant is cooler; folds
        p.heat -= 0.13 * (1 - np.abs(p.normals[:, 2])) - 0.025 * noise(p.points[:, 0] * 60, p.points[:, 1] * 60)

    def add_limb(a: Array, b: Array, radius: float, albedo: Any, heat: float) -> None:
        shape = Capsule(a, b, radius * k)
        street.add(shape, albedo=albedo, heat=heat, label=PERSON, object_id=object_id, casts=True, paint=edges)

    for s in (-1, 1):
        swing = s * stride
        knee, heel = joint(s * 0.09, 0.5, 0.42 * swing + 0.05), 0.05 + 0.06 * (swing < 0) * abs(stride)
        ankle = joint(s * 0.09, heel + 0.05, 0.75 * swing - 0.02)
        add_limb(joint(s * 0.09, 0.92, 0), knee, 0.088, jeans, legs)
        add_limb(knee, ankle, 0.064, jeans, legs - 0.04)
        add_limb(
            joint(s * 0.09, heel, 0.75 * swing - 0.02), joint(s * 0.09, 0.05, 0.75 * swing + 0.13), 0.048, shoe, 0.40
        )
        elbow = joint(s * 0.25, 1.13, -0.28 * swing)
        hand = joint(s * 0.16, 1.28, 0.3) if raised and s > 0 else joint(s * 0.25, 0.86, -0.5 * swing + 0.09)
        add_limb(joint(s * 0.20, 1.40, 0), elbow, 0.062, coat, warm)
        add_limb(elbow, hand, 0.05, coat, warm - 0.03)
        add_limb(hand, hand + 0.04 * k * ahead, 0.05, skin, 0.90)
        add_limb(joint(s * 0.09, 0.97, 0), joint(s * 0.13, 1.38, 0), 0.115, coat, warm)
    add_limb(joint(0, 0.95, 0.01), joint(0, 1.40, 0.01), 0.135, coat, warm + 0.03)
    add_limb(joint(0, 1.42, 0.01), joint(0, 1.56, 0.02), 0.058, skin, 0.88)
    add_limb(joint(0, 1.60, 0.03), joint(0, 1.66, 0.03), 0.092, skin, 0.97)
    add_limb(joint(0, 1.63, -0.02), joint(0, 1.685, -0.01), 0.096, hair, 0.76)
