"""Random layout of a street: where houses, lamps, trees, cars and people stand.

A seed gives everything in metres (x right, y up, z away from the camera) before a pixel exists: a scene is the same
scene at every size, and the same street at every hour.
"""

import math

import numpy as np

from tectum.street.cars import add_car
from tectum.street.ground import add_ground
from tectum.street.houses import add_houses
from tectum.street.street_objects import add_lamp, add_neon_sign, add_person, add_road_sign, add_tree
from tectum.street.surface import Street

PLACES = ("street", "crossing", "alley")


def build_street(rng: np.random.Generator, hour: str, place: str | None = None) -> Street:
    """Draw a street; `place` None lets the generator choose."""
    random_place = str(rng.choice(PLACES))
    place = place or random_place
    alley = place == "alley"
    road = 2.4 if alley else rng.uniform(4.6, 5.4)
    wall = road + (0.9 if alley else rng.uniform(2.6, 3.4))
    street = Street(
        rng,
        hour,
        place,
        road=float(road),
        wall=float(wall),
        eye=(float(rng.uniform(-0.7, 0.4) if alley else rng.uniform(-0.6, 1.9)), 1.9, 0.0),
        wet=float(rng.uniform(0.15, 1.0)),
        zebra_z=float(rng.uniform(11, 14)) if place == "crossing" else math.inf,
    )
    add_ground(street)
    add_houses(street)
    _add_furniture(street)
    step_z = float(rng.uniform(8, 12))  # where somebody steps out from the left
    _add_traffic(street, step_z)
    _add_people(street, step_z)
    return street


def _add_furniture(street: Street) -> None:
    rng, alley = street.rng, street.place == "alley"
    white, sodium = np.array((0.90, 0.93, 0.95)), np.array((1.0, 0.54, 0.19))
    colour = white + rng.uniform(0.6, 1.0) * (sodium - white)
    gap, first, s = (rng.uniform(13, 16), rng.uniform(10, 13), int(rng.choice((-1, 1))))
    for k in range(7):
        add_lamp(street, s * (-1) ** k, first + k * gap, colour)
    for s in (-1, 1):
        for z in rng.uniform(8, 16) + np.arange(4) * 13.0:
            if rng.random() < 0.55 and not alley:
                add_tree(street, s * (street.road + 0.8), z)
    for k in range(0 if alley else 2):
        add_road_sign(street, (1 - 2 * k) * (street.road + 0.45), rng.uniform(8.5, 11) + 9 * k)
    for k in range(4 if alley else 2):
        add_neon_sign(street, (-1) ** k, rng.uniform(6.5, 9) + 5.5 * k)


def _add_traffic(street: Street, step_z: float) -> None:
    rng, past_zebra = street.rng, street.zebra_z + 5 if street.place == "crossing" else 0.0
    if street.place == "alley":
        add_car(street, rng.choice((-1, 1)) * 0.7, rng.uniform(27, 35), -1, driven=True)
        return
    ahead, oncoming = max(rng.uniform(10, 15), past_zebra), max(rng.uniform(15, 20), past_zebra)
    for k in range(int(rng.integers(2, 4))):
        add_car(street, 1.75, ahead + k * rng.uniform(9, 14), 1, driven=True)
    for k in range(int(rng.integers(1, 4))):
        add_car(street, -1.75, oncoming + k * rng.uniform(10, 15), -1, driven=True)
    for s in (-1, 1):
        for z in rng.uniform(8.5, 12) + np.arange(5) * rng.uniform(6, 7.5):
            free = abs(z - street.zebra_z) > 6 and (s > 0 or abs(z - step_z) > 4)
            if rng.random() < 0.45 and free:
                add_car(street, s * (street.road - 1.0), z + rng.uniform(-0.3, 0.3), s, driven=False)


def _add_people(street: Street, step_z: float) -> None:
    rng = street.rng
    positions: list[tuple[float, float, float]] = []  # x, z, the way they look
    alley = street.place == "alley"
    walk, spacing = ((0.3, street.road - 0.3), 2.0) if alley else ((street.road + 0.9, street.wall - 0.5), 3.6)
    if street.place == "crossing":
        for x in np.array((-3.4, -1.6, 0.2, 2.1)) + rng.uniform(-0.6, 0.6, 4):
            positions.append((x, street.zebra_z + rng.uniform(-1.3, 1.3), rng.choice((-0.5, 0.5)) * math.pi))
    for k in range(int(rng.integers(5, 8))):
        x, depths = (1 if k % 2 else -1) * rng.uniform(*walk), rng.uniform(7, 12, 4) + spacing * k
        lamp_distance = [min(math.hypot(x - lx, z - lz) for lx, lz in street.lamps) for z in depths]
        z = depths[int(np.argmax(lamp_distance))] if k % 4 != 1 else depths[0]  # most are where no lamp reaches
        positions.append((x, z, rng.choice((0.0, math.pi)) + rng.normal(0, 0.3)))
    if street.place == "street":
        positions.append((rng.uniform(-4.0, -2.2), step_z, rng.uniform(1.2, 1.9)))
    for x, z, yaw in positions:
        heights, odds = (1.62, 1.7, 1.78, 1.86, 1.25), (0.25, 0.25, 0.25, 0.15, 0.1)
        add_person(street, float(x), float(z), float(yaw), height=float(rng.choice(heights, p=odds)))
