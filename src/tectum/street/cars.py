"""Cars: two convex shells, wheels, lamps that shine, and an engine that is warm."""

import math
from dataclasses import dataclass

import numpy as np

from tectum.street.shapes import Array, Convex, prism
from tectum.street.surface import CAR, Light, Street, SurfacePoints, band, cover

_Place = tuple[float, float]
_Outline = tuple[_Place, ...]
# Side views as (along, y) in metres, counterclockwise; the front is at positive `along`.
_BODY = ((-2.1, 0.3), (2.1, 0.3), (2.15, 0.52), (2.05, 0.72), (0.95, 0.93), (-1.75, 0.95), (-2.1, 0.88))
_CABIN = ((-1.85, 0.93), (1.1, 0.93), (0.3, 1.43), (-0.95, 1.46))
_FLOOR = ((-1.9, 0.13), (1.9, 0.13), (1.9, 0.33), (-1.9, 0.33))
_WHEEL = tuple((0.33 * math.cos(k * math.pi / 8), 0.33 + 0.33 * math.sin(k * math.pi / 8)) for k in range(16))
_COLOURS = (
    (0.30, 0.03, 0.03),
    (0.03, 0.08, 0.25),
    (0.35, 0.36, 0.38),
    (0.02, 0.02, 0.025),
    (0.50, 0.50, 0.48),
    (0.05, 0.16, 0.14),
    (0.42, 0.28, 0.04),
)


def add_car(street: Street, x: float, z: float, heading: int, *, driven: bool) -> None:
    """A saloon at (x, z) that looks away from the camera (heading = 1) or towards it (-1)."""
    rng, object_id = street.rng, street.new_object()
    yaw, colour = rng.normal(0, 0.015), _COLOURS[int(rng.integers(len(_COLOURS)))]
    residual, size = float(rng.choice((0.0, 0.03, 0.2))), float(rng.uniform(0.96, 1.08))
    ahead, engine = (math.sin(yaw), heading * math.cos(yaw)), 0.42 if driven else residual
    body = _Car(x, z, ahead, size, driven and street.lit, driven, engine)
    hubs = [(s, w) for s in (1.35, -1.35) for w in (0.74, -0.74)]
    rubber, floor = ((0.02, 0.02, 0.02), 0.17 + body.tyre), ((0.01, 0.01, 0.01), 0.2 + 0.5 * engine)
    for shape, albedo, heat, gloss, paint in (
        (body.prism(_BODY, 0.88), colour, 0.17, 0.35, body.paint_body),
        (body.prism(_CABIN, 0.8, slope=0.28), colour, 0.17, 0.35, body.paint_cabin),
        (body.prism(_FLOOR, 0.72), *floor, 0.0, None),
        *((body.prism(_WHEEL, 0.12, at=hub), *rubber, 0.0, None) for hub in hubs),
    ):
        street.add(
            shape, albedo=albedo, heat=heat, gloss=gloss, paint=paint, label=CAR, object_id=object_id, casts=True
        )
    if body.lit:
        fx, fz = body.ahead
        for w in (0.66, -0.66):
            at_x, at_z = body.place(2.3, w)
            street.lights.append(Light((at_x, 0.66, at_z), (13.0, 12.2, 10.5), (fx, -0.12, fz), power=4))
        at_x, at_z = body.place(-2.4, 0)
        street.lights.append(Light((at_x, 0.7, at_z), (2.2, 0.07, 0.05), (-fx, -0.3, -fz)))


@dataclass(frozen=True)
class _Car:
    x: float
    z: float
    ahead: tuple[float, float]  # unit (x, z)
    size: float
    lit: bool
    driven: bool
    engine: float  # heat above the body's

    @property
    def tyre(self) -> float:
        return 0.22 if self.driven else 0.03

    def place(self, s: float, w: float) -> tuple[float, float]:
        """(along, sideways) in the car to (x, z) in the world."""
        (fx, fz), k = self.ahead, self.size
        return self.x + k * (s * fx + w * fz), self.z + k * (s * fz - w * fx)

    def prism(self, profile: _Outline, half: float, *, at: _Place = (0.0, 0.0), slope: float = 0.0) -> Convex:
        outline = [(self.size * s, self.size * y) for s, y in profile]
        return prism(outline, half * self.size, at=self.place(*at), ahead=self.ahead, slope=slope)

    def _local(self, p: SurfacePoints) -> tuple[Array, Array, Array, Array]:
        """Along, sideways and up in the car's own metres, and how far a normal looks ahead."""
        (fx, fz), dx, dz = self.ahead, p.points[:, 0] - self.x, p.points[:, 2] - self.z
        facing = p.normals[:, 0] * fx + p.normals[:, 2] * fz
        return (dx * fx + dz * fz) / self.size, (dx * fz - dz * fx) / self.size, p.points[:, 1] / self.size, facing

    def paint_body(self, p: SurfacePoints) -> None:
        (s, w, y, facing), px, upright = self._local(p), p.pixel_m, p.normals[:, 1] < 0.5
        front, back, flank = facing > 0.55, facing < -0.55, (np.abs(facing) < 0.4) & upright
        hub = np.hypot(np.abs(s) - 1.35, y - 0.33)
        arch, rubber, rim = (flank * cover(hub - r, px) for r in (0.39, 0.33, 0.2))
        head = front * band(np.abs(w) - 0.66, 0.3, px) * band(y - 0.64, 0.13, px)
        tail = back * band(np.abs(w) - 0.68, 0.28, px) * band(y - 0.76, 0.15, px)
        grille = front * band(w, 0.9, px) * band(y - 0.5, 0.16, px)
        plate = (front | back) * band(w, 0.5, px) * band(y - np.where(front, 0.4, 0.58), 0.11, px)
        seam = flank * np.maximum(band(s - 0.75, 0.025, px), band(s + 0.45, 0.025, px)) * (y > 0.4)
        p.albedo *= (1 - 0.9 * np.maximum.reduce((arch, grille, 0.6 * seam, 0.7 * (y < 0.42))))[:, None]
        p.albedo += (0.3 * rim + 0.55 * plate)[:, None]
        p.albedo += tail[:, None] * (np.array((0.25, 0.01, 0.01)) - p.albedo) + head[:, None] * (0.45 - p.albedo)
        if self.lit:
            core = np.exp(-(((np.abs(w) - 0.66) / 0.12) ** 2) - ((y - 0.64) / 0.06) ** 2)
            p.glow += (head * (2 + 40 * core))[:, None] * (1.0, 0.94, 0.82) + tail[:, None] * (5.0, 0.14, 0.08)
            p.heat += 0.25 * head
        hood = np.exp(-(((s - 1.45) / 0.55) ** 2) - (w / 0.75) ** 4) * ~upright
        p.heat += self.engine * (hood + 0.8 * grille + 0.35 * front + 0.3 * arch) + self.tyre * (rubber + 0.5 * rim)
        p.heat -= 0.05 * (p.normals[:, 1] > 0.8) * (s < 0.7)  # metal mirrors the cold sky
        if self.driven:
            pipe = np.exp(-(((w - 0.5) / 0.10) ** 2) - ((y - 0.34) / 0.07) ** 2)
            p.heat += back * (0.75 * pipe + 0.10 * (y < 0.5))

    def paint_cabin(self, p: SurfacePoints) -> None:
        (s, w, y, facing), px = self._local(p), p.pixel_m
        lift, roof = np.clip((y - 0.93) / 0.5, 0, 1), p.normals[:, 1] > 0.95
        flank = band(s + 0.36 + 0.05 * lift, 2.55 - 1.35 * lift, px) * (1 - band(s + 0.35, 0.07, px))
        screen = band(w, 1.42 - 0.25 * lift, px)
        glass = np.where(np.abs(facing) > 0.3, screen, flank) * band(y - 1.17, 0.38, px) * ~roof
        p.albedo += glass[:, None] * (0.015 - p.albedo)
        p.gloss += 0.1 * glass
        p.heat += glass * (0.05 if self.driven else -0.05) - 0.06 * roof
