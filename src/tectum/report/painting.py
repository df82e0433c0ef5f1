"""Masks and boxes painted over a picture: one palette, a legend, frames around objects."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
Colour = tuple[int, int, int]
LabelType = Literal["masks", "boxes"]

PALETTE: tuple[Colour, ...] = (
    *((230, 57, 70), (255, 209, 64), (46, 134, 255), (122, 230, 130), (160, 100, 255), (0, 190, 190)),
    *((190, 210, 60), (150, 110, 70), (110, 140, 160), (240, 200, 170), (20, 120, 70), (90, 60, 200)),
)
"""Colours of the classes in their order, without the background of masks; after the last it begins again."""
UNKNOWN: Colour = (120, 120, 120)
"""Colour of pixels without a class (255, or a number beyond the classes)."""
FOUND: Colour = (255, 255, 255)
MISSED: Colour = (255, 122, 0)
FALSE: Colour = (255, 60, 200)
_OPACITY = 0.55
MIN_SCORE = 0.25
"""Detections with a lower score are not drawn."""


def class_colours(classes: Sequence[str], label_type: LabelType) -> dict[str, Colour]:
    """Returns the colour of each class that is painted: with masks, all but class 0."""
    painted = list(classes)[1:] if label_type == "masks" else list(classes)
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(painted)}


def paint(
    picture: Array, target: Any, classes: Sequence[str] = (), *, names: bool = False, opacity: float = _OPACITY
) -> Array:
    """A mask or boxes over a picture of the same view.

    Args:
        picture: uint8 (H,W) or (H,W,3).
        target: a mask (h,w) of class numbers, class 0 is left as it is and an edge of full colour runs along each
            piece; or boxes as {"boxes": (N,4) relative, "labels": (N,), "scores": (N,) or missing}.
        classes: names of the classes; without them every number below 255 is a class.
        names: write class and score at each box.
        opacity: of the inside of a mask's pieces, in [0,1].

    Returns:
        uint8 (H,W,3).
    """
    rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
    if isinstance(target, Tensor):
        return _paint_mask(rgb, target.cpu().numpy().astype(np.uint8), len(classes) or 255, opacity)
    return _paint_boxes(rgb, target, classes if names else None)


def _paint_mask(rgb: Array, mask: Array, num_classes: int, opacity: float) -> Array:
    colours = np.full((256, 3), UNKNOWN, np.float32)
    for c in range(1, num_classes):
        colours[c] = PALETTE[(c - 1) % len(PALETTE)]
    if mask.shape != rgb.shape[:2]:
        mask = np.asarray(Image.fromarray(mask).resize((rgb.shape[1], rgb.shape[0]), Image.Resampling.NEAREST))
    padded = np.pad(mask, 1, mode="edge")
    edge = np.zeros(mask.shape, bool)
    middle = slice(1, -1)
    for shift in (slice(None, -2), slice(2, None)):
        edge |= (padded[shift, middle] != mask) | (padded[middle, shift] != mask)
    part = np.where(mask == 0, 0.0, np.where(edge, 1.0, opacity))[..., None]
    mixed: Array = (rgb * (1 - part) + colours[mask] * part).round().astype(np.uint8)
    return mixed


def _paint_boxes(rgb: Array, boxes: Mapping[str, Tensor], classes: Sequence[str] | None) -> Array:
    image = Image.fromarray(np.ascontiguousarray(rgb))
    draw = ImageDraw.Draw(image)
    line_px = _line_px(image)
    font = ImageFont.load_default(max(10, round(image.height / 36)))
    font_px = int(font.getbbox("Ag")[3])
    scores = boxes["scores"].tolist() if "scores" in boxes else [None] * len(boxes["labels"])
    for box, label, score in zip(boxes["boxes"].tolist(), boxes["labels"].tolist(), scores, strict=True):
        if score is not None and score < MIN_SCORE:
            continue
        colour, frame = PALETTE[label % len(PALETTE)], _frame(box, image.size)
        draw.rectangle(frame, outline=colour, width=line_px)
        if classes is None:
            continue
        text = classes[label] + ("" if score is None else f" {score:.2f}")
        left, top = frame[0], max(0, frame[1] - font_px)
        draw.rectangle((left, top, left + draw.textlength(text, font=font) + 2, top + font_px), fill=colour)
        draw.text((left + 1, top), text, fill=(0, 0, 0), font=font)
    return np.array(image)


def frame_objects(picture: Array, boxes: Array, hits: Array | None, false_alarms: Array) -> Array:
    """Frames around objects of a picture: found ones thin and white, missed ones thick and orange, false alarms pink.

    Args:
        picture: uint8 (H,W,3).
        boxes: (N,4) relative, around the objects.
        hits: (N,) bool, which of them were found; None takes all.
        false_alarms: (M,4) relative.

    Returns:
        uint8 (H,W,3).
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    draw = ImageDraw.Draw(image)
    line_px = _line_px(image)
    for box, hit in zip(boxes, np.ones(len(boxes), bool) if hits is None else hits, strict=True):
        frame = _frame(box, image.size, margin=2 * line_px)
        draw.rectangle(frame, outline=FOUND if hit else MISSED, width=line_px if hit else 2 * line_px)
    for box in false_alarms:
        draw.rectangle(_frame(box, image.size, margin=2 * line_px), outline=FALSE, width=line_px)
    return np.array(image)


def _line_px(image: Image.Image) -> int:
    return max(1, round(max(image.size) / 320))


def _frame(box: Sequence[float] | Array, size: tuple[int, int], margin: int = 0) -> tuple[int, int, int, int]:
    """A relative box in the pixels of a picture of (width, height), grown by a margin and kept inside."""
    width, height = size
    left, top = (max(0, round(float(x) * side) - margin) for x, side in zip(box[:2], size, strict=True))
    right = min(width - 1, max(left, round(float(box[2]) * width) - 1 + margin))
    return left, top, right, min(height - 1, max(top, round(float(box[3]) * height) - 1 + margin))


def add_legend(picture: Array, classes: Sequence[str], label_type: LabelType) -> Array:
    """Returns the picture with the classes and their colours below it, uint8 (H',W',3)."""
    font = ImageFont.load_default(13)
    width, line = max(picture.shape[1], 120), 20
    entries, x, row = [], 6, 0
    for name, colour in class_colours(classes, label_type).items():
        need = 20 + round(font.getlength(name)) + 12
        if x + need > width and x > 6:
            x, row = 6, row + 1
        entries.append((x, row, name, colour))
        x += need
    sheet = Image.new("RGB", (width, picture.shape[0] + (row + 1) * line + 6), (250, 250, 248))
    sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for x, row, name, colour in entries:
        top = picture.shape[0] + 3 + row * line
        draw.rectangle((x, top + 3, x + 13, top + 15), fill=colour, outline=(60, 60, 60))
        draw.text((x + 18, top + 1), name, fill=(32, 33, 36), font=font)
    return np.array(sheet)
