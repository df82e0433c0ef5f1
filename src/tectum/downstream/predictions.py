"""What a task network says of an image, drawn over it: masks in a palette, boxes with their names, people marked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tectum.downstream.instances import SURE
from tectum.io.files import write_whole

Array = np.ndarray[Any, np.dtype[Any]]
Colour = tuple[int, int, int]
PALETTE: tuple[Colour, ...] = (
    *((230, 57, 70), (255, 209, 64), (46, 134, 255), (122, 230, 130), (160, 100, 255), (0, 190, 190)),
    *((190, 210, 60), (150, 110, 70), (110, 140, 160), (240, 200, 170), (20, 120, 70), (90, 60, 200)),
)
"""Of the classes in their order, background aside; after the last it begins again."""
UNKNOWN: Colour = (120, 120, 120)
FOUND: Colour = (255, 255, 255)
MISSED: Colour = (255, 122, 0)
FALSE: Colour = (255, 60, 200)
OPACITY = 0.55


def colours(classes: Sequence[str], kind: str) -> dict[str, Colour]:
    """The colour of each class that is drawn: with masks, all but class 0."""
    drawn = list(classes)[1:] if kind == "masks" else list(classes)
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(drawn)}


def drawing(picture: Array, answer: Any, classes: Sequence[str], *, names: bool = True) -> Array:
    """A mask (H,W) or boxes, with their names or without, over a picture of the same view: uint8 (H,W,3)."""
    rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
    if isinstance(answer, Tensor):
        return over(rgb, answer.numpy(), classes)
    return with_boxes(rgb, answer, classes, names=names)


def over(rgb: Array, mask: Array, classes: Sequence[str]) -> Array:
    """A palette over an image; class 0 leaves it as it is, and an edge of full colour runs along each piece."""
    table = np.zeros((256, 3), np.float32)
    table[len(classes) :] = UNKNOWN
    for c, colour in enumerate(colours(classes, "masks").values(), 1):
        table[c] = colour
    if mask.shape != rgb.shape[:2]:
        size = (rgb.shape[1], rgb.shape[0])
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    padded = np.pad(mask, 1, mode="edge")
    edge = np.zeros(mask.shape, bool)
    middle = slice(1, -1)
    for shift in (slice(None, -2), slice(2, None)):
        edge |= (padded[shift, middle] != mask) | (padded[middle, shift] != mask)
    part = np.where(mask == 0, 0.0, np.where(edge, 1.0, OPACITY))[..., None]
    mixed: Array = (rgb * (1 - part) + table[mask] * part).round().astype(np.uint8)
    return mixed


def with_boxes(rgb: Array, answer: Mapping[str, Tensor], classes: Sequence[str], *, names: bool) -> Array:
    """Boxes of scores from 0.25 on, with class and score; labels have no score."""
    sheet = Image.fromarray(np.ascontiguousarray(rgb))
    draw = ImageDraw.Draw(sheet)
    table = list(colours(classes, "boxes").values())
    wide = max(1, round(max(sheet.size) / 320))
    font = ImageFont.load_default(max(10, round(sheet.height / 36)))
    scores = answer["scores"].tolist() if "scores" in answer else [None] * len(answer["labels"])
    for box, label, score in zip(answer["boxes"].tolist(), answer["labels"].tolist(), scores, strict=True):
        if score is not None and score < SURE:
            continue
        place = pixels(box, sheet.size)
        draw.rectangle(place, outline=table[label], width=wide)
        if not names:
            continue
        text = classes[label] + ("" if score is None else f" {score:.2f}")
        left, top = place[0], max(0, place[1] - font_height(font))
        draw.rectangle(
            (left, top, left + draw.textlength(text, font=font) + 2, top + font_height(font)), fill=table[label]
        )
        draw.text((left + 1, top), text, fill=(0, 0, 0), font=font)
    return np.asarray(sheet)


def marked(picture: Array, boxes: Array, found: Array | None, false: Array) -> Array:
    """Frames around people: found thin and white, missed thick and orange, false alarms pink; None marks none."""
    sheet = Image.fromarray(np.ascontiguousarray(picture))
    draw = ImageDraw.Draw(sheet)
    wide = max(1, round(max(sheet.size) / 320))
    for box, hit in zip(boxes, np.ones(len(boxes), bool) if found is None else found, strict=True):
        grown = pixels(box, sheet.size, margin=2 * wide)
        draw.rectangle(grown, outline=FOUND if hit else MISSED, width=wide if hit else 2 * wide)
    for box in false:
        draw.rectangle(pixels(box, sheet.size, margin=2 * wide), outline=FALSE, width=wide)
    return np.asarray(sheet)


def pixels(box: Sequence[float] | Array, size: tuple[int, int], margin: int = 0) -> tuple[int, int, int, int]:
    """A relative box on a picture of (width, height), grown by a margin and kept inside."""
    width, height = size
    left, top = (max(0, round(float(x) * side) - margin) for x, side in zip(box[:2], size, strict=True))
    right = min(width - 1, max(left, round(float(box[2]) * width) - 1 + margin))
    return left, top, right, min(height - 1, max(top, round(float(box[3]) * height) - 1 + margin))


def font_height(font: Any) -> int:
    return int(font.getbbox("Ag")[3])


def with_legend(picture: Array, classes: Sequence[str], kind: str) -> Array:
    """The picture with the classes and their colours below it, in as many lines as they take."""
    font = ImageFont.load_default(13)
    width, line = max(picture.shape[1], 120), 20
    places, x, row = [], 6, 0
    for name, colour in colours(classes, kind).items():
        need = 20 + round(font.getlength(name)) + 12
        if x + need > width and x > 6:
            x, row = 6, row + 1
        places.append((x, row, name, colour))
        x += need
    sheet = Image.new("RGB", (width, picture.shape[0] + (row + 1) * line + 6), (250, 250, 248))
    sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for x, row, name, colour in places:
        top = picture.shape[0] + 3 + row * line
        draw.rectangle((x, top + 3, x + 13, top + 15), fill=colour, outline=(60, 60, 60))
        draw.text((x + 18, top + 1), name, fill=(32, 33, 36), font=font)
    return np.asarray(sheet)


def save(picture: Array, path: Path) -> None:
    """A PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG"))
