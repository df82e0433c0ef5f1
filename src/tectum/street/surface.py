"""Materials of a street: surfaces with a colour, a glow and a heat, and procedural textures for them.

A surface has a colour (albedo), a glow (emitted light) and a heat (what the thermal camera shows: 0 the cold sky, 1 a
face). They are independent: paint and draw_text have no heat, a dark jacket has no colour, and that is why two cameras
see more than one. A paint gets the visible points of its surface and changes these in place, from their coordinates in
metres: so a texture is the same at every size.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tectum.street.shapes import Array, Capsule, Convex

CAR, PERSON, LAMP = 1, 2, 3
_WORDS = ("CAFE", "HOTEL", "BOOKS", "NOODLES", "BAR 24", "PHARMACY", "CINEMA", "BAKERY", "RADIO", "TAXI")
_NEON = ((1.0, 0.35, 0.25), (0.3, 0.8, 1.0), (1.0, 0.8, 0.4), (0.5, 1.0, 0.6))
Colour = tuple[float, float, float]


@dataclass
class SurfacePoints:
    """The visible points of one surface, prefilled with its constants, for its paint to change in place."""

    points: Array  # (N,3) metres
    normals: Array  # (N,3)
    pixel_m: Array  # (N,) how wide a pixel is there
    albedo: Array  # (N,3)
    glow: Array  # (N,3)
    heat: Array  # (N,)
    gloss: Array  # (N,)


@dataclass(frozen=True)
class _Surface:
    """A shape with its material and its labels."""

    shape: Convex | Capsule | None  # None is the ground
    albedo: Colour = (0.1, 0.1, 0.1)
    heat: float = 0.2
    glow: Colour = (0.0, 0.0, 0.0)
    gloss: float = 0.0
    label: int = 0
    object_id: int = 0  # surfaces of one car or person share a number; 0 is none
    casts: bool = False  # a shadow
    paint: Callable[[SurfacePoints], None] | None = None
    holes: Callable[[Array], Any] | None = None


@dataclass(frozen=True)
class Light:
    """Intensity I shines max(0, cos)^p I / d^2 around `axis` (p = 0 everywhere)."""

    at: tuple[float, float, float]
    colour: Colour
    axis: tuple[float, float, float] = (0.0, -1.0, 0.0)
    power: int = 1
    casts: bool = False


@dataclass
class Street:
    """A street under construction: its measures in metres, its surfaces and its lights."""

    rng: np.random.Generator
    hour: str  # "night", "dusk" or "day"
    place: str  # "street", "crossing" or "alley"
    road: float  # half the width of the carriageway
    wall: float  # from the middle to the houses
    eye: tuple[float, float, float]
    wet: float  # 0 dry to 1 wet
    zebra_z: float  # where the crossing is; infinite without one
    surfaces: list[_Surface] = field(default_factory=list)
    lights: list[Light] = field(default_factory=list)
    lamps: list[tuple[float, float]] = field(default_factory=list)  # where they hang (x, z)
    num_objects: int = 0

    @property
    def lit(self) -> bool:
        return self.hour != "day"

    def add(self, shape: Convex | Capsule | None, **material: Any) -> None:
        self.surfaces.append(_Surface(shape, **material))

    def new_object(self) -> int:
        self.num_objects += 1
        return self.num_objects


@functools.lru_cache(maxsize=1)
def _tile() -> Array:
    """A 512 x 512 tile of periodic 1/f noise, mean 0, standard deviation 1. Like bricks, it is the same everywhere."""
    rng = np.random.default_rng(512)
    f = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None])
    f[0, 0] = np.inf
    tile = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((512, 512))) / (f + 0.01))
    return np.asarray((tile - tile.mean()) / tile.std(), np.float32)


def noise(x: Array, y: Array) -> Array:
    """The tile at (x, y) texels, bilinear."""
    tile, x0, y0 = _tile(), np.floor(x), np.floor(y)
    fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
    i, j = x0.astype(np.int64) & 511, y0.astype(np.int64) & 511
    k, m = (i + 1) & 511, (j + 1) & 511
    top = tile[j, i] * (1 - fx) + tile[j, k] * fx
    return np.asarray(top * (1 - fy) + (tile[m, i] * (1 - fx) + tile[m, k] * fx) * fy)


def cell_noise(x: Array, y: Array) -> Array:
    """One number in [-1, 1] for each unit cell."""
    h = np.sin(np.floor(x) * 12.9898 + np.floor(y) * 78.233) * 43758.5453
    return np.asarray(2 * (h - np.floor(h)) - 1)


def cover(distance: Array, pixel_m: Array) -> Array:
    """How much of a pixel lies inside an edge at `distance` (negative inside): antialiasing, 0 to 1."""
    return np.clip(0.5 - distance / pixel_m, 0, 1)


def band(x: Array, width: float | Array, pixel_m: Array) -> Array:
    """A stripe of `width` around x = 0; fades where it is thinner than a pixel."""
    half = np.asarray(width) / 2
    return np.clip((np.minimum(x + pixel_m / 2, half) - np.maximum(x - pixel_m / 2, -half)) / pixel_m, 0, 1)


def wrap(x: Array, period: float) -> Array:
    """x modulo a period, centred on 0."""
    return np.asarray(np.mod(x + period / 2, period) - period / 2)


@functools.lru_cache(maxsize=32)
def draw_text(text: str) -> Array:
    """The text in bold as coverage (h,w) in [0,1], cropped to its ink."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("L", (64 * len(text) + 40, 110))
    ImageDraw.Draw(picture).text((10, 6), text, fill=255, font=ImageFont.load_default(72), stroke_width=3)
    return np.asarray(picture.crop(picture.getbbox()), np.float32) / 255


def draw_sign(rng: np.random.Generator) -> tuple[Array, Array]:
    """Returns a random word as coverage (h,w), and a random colour of neon light (3,)."""
    word = draw_text(_WORDS[int(rng.integers(len(_WORDS)))])
    return word, np.array(_NEON[int(rng.integers(len(_NEON)))], np.float32)


def sample(ink: Array, col: Array, row: Array) -> Array:
    """Sample a coverage at relative coordinates (0..1 from its top left); 0 outside."""
    h, w = ink.shape
    inside = (col > 0) & (col < 1) & (row > 0) & (row < 1)
    i, j = (np.clip(v * n, 0, n - 1).astype(int) for v, n in ((row, h), (col, w)))
    return np.where(inside, ink[i, j], 0.0)
