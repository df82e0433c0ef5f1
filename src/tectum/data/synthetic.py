"""Registered pairs without a camera: a street drawn from a seed, seen in light and in heat, with labels.

The street (street/) is cast through one pinhole (street/shapes.py), so both pictures share every edge. With the albedo
rho, the glow e, the normal n and the heat h of the surface at P, and the lights (I_l at q_l, in shadow or not: s_l),

    light      L = rho (ambient + sum_l s_l I_l max(0, n . d_l) / |q_l - P|^2) + gloss + e,  d_l = (q_l - P) / |q_l - P|
               visible = (1 - exp(-k (bloom(L) + shot noise)))^(1/2.2)
    heat       infrared = blur(h) + fixed pattern + noise

L knows nothing of h. So people in dark clothes are bright in heat and lost in light, paint, lettering and lamps the
other way round, and a fused image has something to win.

Differs from a physical renderer: one bounce, display temperatures instead of radiances, no atmosphere in the infrared.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tectum.errors import UserError
from tectum.street.layout import PLACES, build_street
from tectum.street.light import HOURS, Hour, shade
from tectum.street.shapes import Array, Buffer, Camera
from tectum.street.surface import Street

CLASSES = ("background", "car", "person", "lamp")
_SUPERSAMPLE = 2
_MIN_PIXELS = 8  # a thing that shows less is not labelled


@dataclass(frozen=True)
class Scene:
    """One registered pair with its labels; tensors on the CPU."""

    visible: Tensor  # (3,H,W) float32 in [0,1], RGB as displayed
    infrared: Tensor  # (1,H,W) float32 in [0,1], warm is bright
    mask: Tensor  # (H,W) int64, index into CLASSES
    boxes: Tensor  # (N,4) float32, x1 y1 x2 y2 in pixels, around what is visible of each thing
    labels: Tensor  # (N,) int64, index into CLASSES, never 0


def render(seed: int, size: tuple[int, int] = (480, 640), *, hour: str = "night", place: str | None = None) -> Scene:
    """Draw the street of a seed.

    Args:
        seed: which street; the same seed is the same street at every size (only the sensors' noise differs).
        size: (height, width) in pixels, at least 16 each. A 4:3 view always fits; other shapes see more around it.
        hour: "night", "dusk" or "day".
        place: "street", "crossing" or "alley"; None lets the seed choose.

    Raises:
        ValueError: size, hour or place is not one of these.

    >>> scene = render(7, (48, 64))
    >>> tuple(scene.visible.shape), tuple(scene.infrared.shape), tuple(scene.mask.shape)
    ((3, 48, 64), (1, 48, 64), (48, 64))
    """
    if min(size) < 16:
        raise UserError(f"a scene must be at least 16 x 16 pixels, got {size[0]} x {size[1]}; ask for a larger size")
    if hour not in HOURS:
        raise UserError(f"hour must be one of {', '.join(HOURS)}, got {hour!r}; choose one of them")
    if place is not None and place not in PLACES:
        raise UserError(f"place must be one of {', '.join(PLACES)} or None, got {place!r}; choose one of them")
    rng = np.random.default_rng(seed)
    street = build_street(rng, hour, place)
    height, width = size[0] * _SUPERSAMPLE, size[1] * _SUPERSAMPLE
    unit = min(height / 480, width / 640)
    centre = (width / 2 - rng.uniform(-40, 40) * unit, height / 2 - 10 * unit)
    buffer = Buffer(Camera(height, width, 600 * unit, centre, street.eye))
    buffer.ground(0)
    solid = [(k, s, s.shape) for k, s in enumerate(street.surfaces) if s.shape is not None]
    windows = buffer.camera.windows([shape.corners for _, _, shape in solid])
    for (k, surface, shape), window in zip(solid, windows, strict=True):
        buffer.draw(k, shape, window, surface.holes)
    light, heat = shade(street, buffer)
    mask, boxes, labels = _label(street, buffer, size)
    sensors = np.random.default_rng((seed, *size))
    visible = _visible_camera(_average(light, size), HOURS[hour], sensors, unit / _SUPERSAMPLE)
    infrared = _infrared_camera(_average(heat, size), sensors, unit / _SUPERSAMPLE)
    return Scene(
        torch.from_numpy(np.ascontiguousarray(visible.transpose(2, 0, 1))),
        torch.from_numpy(infrared[None]),
        torch.from_numpy(mask),
        torch.from_numpy(boxes),
        torch.from_numpy(labels),
    )


def _average(x: Array, size: tuple[int, int]) -> Array:
    """Supersampled (H s, W s, ...) to (H, W, ...): the mean of each block."""
    s = _SUPERSAMPLE
    return np.asarray(x.reshape(size[0], s, size[1], s, *x.shape[2:]).mean((1, 3), dtype=np.float32))


def _visible_camera(light: Array, hour: Hour, rng: np.random.Generator, unit: float) -> Array:
    """Bloom, shot noise, a film curve and gamma: linear light (H,W,3) to [0,1]."""
    import cv2

    excess = np.clip(light - 0.8, 0, 16)
    for blur, share in ((2.0, 0.12), (8.0, 0.08), (30.0, 0.06)):
        light = light + share * cv2.GaussianBlur(excess, (0, 0), max(blur * unit, 0.3))
    sigma = np.sqrt(hour.grain * light + (0.6 * hour.grain) ** 2)
    light = light + sigma * rng.standard_normal(light.shape, np.float32)
    return np.asarray((1 - np.exp(-hour.exposure * np.maximum(light, 0))) ** (1 / 2.2), np.float32)


def _infrared_camera(heat: Array, rng: np.random.Generator, unit: float) -> Array:
    """A softer lens, the sensor's columns and pixels (the same in every picture) and noise: heat (H,W) to [0,1]."""
    import cv2

    heat = cv2.GaussianBlur(heat, (0, 0), max(0.9 * unit, 0.35))
    pattern = np.random.default_rng(heat.shape)
    fixed = 0.004 * pattern.standard_normal((1, heat.shape[1])) + 0.004 * pattern.standard_normal(heat.shape)
    noisy = heat + fixed + 0.006 * rng.standard_normal(heat.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


def _label(street: Street, buffer: Buffer, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Mask, boxes and labels of what is visible. A pixel belongs to a class that covers at least half of it."""
    classes = np.array([s.label for s in street.surfaces] + [0])[buffer.owner]  # owner -1, the sky, takes the last
    object_ids = np.array([s.object_id for s in street.surfaces] + [0])[buffer.owner]
    s = _SUPERSAMPLE
    share = np.stack([_average(classes == c, size) for c in range(len(CLASSES))])
    mask = np.where(share[1:].max(0) >= 0.5, share[1:].argmax(0) + 1, 0)
    block_objects = object_ids.reshape(size[0], s, size[1], s).transpose(0, 2, 1, 3).reshape(*size, s * s)
    block_classes = classes.reshape(size[0], s, size[1], s).transpose(0, 2, 1, 3).reshape(*size, s * s)
    object_id = np.where(block_classes == mask[..., None], block_objects, 0).max(-1)
    boxes, labels = [], []
    for k in range(1, street.num_objects + 1):
        row, col = np.nonzero(object_id == k)
        if len(row) < _MIN_PIXELS:
            mask[row, col] = 0
            continue
        boxes.append((col.min(), row.min(), col.max() + 1, row.max() + 1))
        labels.append(mask[row[0], col[0]])
    return mask.astype(np.int64), np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)


class SyntheticPairs(Dataset[Scene]):
    """`num` scenes of one size, each of its own seed; scene k of one `seed` is always the same.

    Args:
        num: how many.
        size: (height, width) in pixels.
        seed: of the whole set; two sets with different seeds share no scene.
        hour: see `render`.
        keeps: hold every scene in memory once it is drawn (20 bytes a pixel), for training over several epochs.

    >>> len(SyntheticPairs(3, (32, 32), seed=0)), SyntheticPairs(3, (32, 32), seed=0)[2].mask.shape
    (3, torch.Size([32, 32]))
    """

    def __init__(
        self, num: int, size: tuple[int, int] = (480, 640), seed: int = 0, *, hour: str = "night", keeps: bool = False
    ) -> None:
        self.num, self.size, self.seed, self.hour = num, size, seed, hour
        self._kept: dict[int, Scene] | None = {} if keeps else None

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < self.num:
            raise IndexError(f"index must be in 0..{self.num - 1}, got {index}; ask for fewer or make the set larger")
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        scene_seed = int(np.random.SeedSequence((self.seed, index)).generate_state(1)[0])
        scene = render(scene_seed, self.size, hour=self.hour)
        if self._kept is not None:
            self._kept[index] = scene
        return scene


def save(scene: Scene, folder: str | Path, name: str) -> None:
    """Write vi/NAME.png, ir/NAME.png, labels/NAME.png (class indices) and boxes/NAME.txt under `folder`, 8 bits each.

    Boxes are in YOLO text, one `class cx cy w h` a line, relative to the image; the class is the index into CLASSES,
    the same number as in the mask.
    """
    from PIL import Image

    root = Path(folder)
    for part in ("vi", "ir", "labels", "boxes"):
        (root / part).mkdir(parents=True, exist_ok=True)
    images_8bit = {
        "vi": (scene.visible.permute(1, 2, 0) * 255).round().to(torch.uint8),
        "ir": (scene.infrared[0] * 255).round().to(torch.uint8),
        "labels": scene.mask.to(torch.uint8),
    }
    for part, pixels in images_8bit.items():
        Image.fromarray(pixels.numpy()).save(root / part / f"{name}.png")
    height, width = scene.mask.shape
    low, high = scene.boxes[:, :2], scene.boxes[:, 2:]
    relative = torch.cat(((low + high) / 2, high - low), 1) / torch.tensor((width, height, width, height))
    lines = [(k, *box) for k, box in zip(scene.labels.tolist(), relative.tolist(), strict=True)]
    text = "".join("{} {:.6f} {:.6f} {:.6f} {:.6f}\n".format(*line) for line in lines)
    (root / "boxes" / f"{name}.txt").write_text(text, encoding="utf-8")


DEMO = {
    "street-1": (14, "night", "street"),
    "street-2": (2, "dusk", "crossing"),
    "street-3": (11, "night", "alley"),
}


def demo_folder() -> Path:
    """The packaged pairs: vi, ir, labels and boxes of each name in DEMO, 640 x 480."""
    return Path(__file__).parent / "demo"


def write_demo(folder: str | Path) -> None:
    """Render the packaged pairs into `folder`; `write_demo(demo_folder())` renews them."""
    for name, (seed, hour, place) in DEMO.items():
        save(render(seed, hour=hour, place=place), folder, name)
