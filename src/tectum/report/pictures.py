"""Side-by-side pictures: the sources, the fused image, and the difference it makes.

Drawn with Pillow alone, so that `--report` needs no plotting library. The difference is |Y_fused - Y_visible| (BT.601
luminance in [0,1]) through a black-red-yellow colour map whose scale stands beside the caption.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tectum.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]

_LABELS = ("visible", "infrared", "fused")
_DIFFERENCE_SCALE = 0.5
"""The difference shown as white; the full range of luminance is 1."""

PAPER, INK, FAINT = (250, 250, 248), (32, 33, 36), (112, 115, 120)
HEAT = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))
LONGEST_PX, SHORTEST_PX = 640, 160
GAP_PX, CAPTION_PX = 12, 30


def side_by_side(
    visible: Array,
    infrared: Array,
    fused: Array,
    *,
    labels: Sequence[str] = _LABELS,
    difference: bool = True,
    title: str = "",
) -> Array:
    """One picture of a fusion: visible | infrared | fused | the difference the fusion makes to the visible.

    Args:
        visible, infrared, fused: (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16; one size.
        labels: captions of the three.
        difference: add |Y_fused - Y_visible| as a heat map with its scale.
        title: one line above the panels.

    Returns:
        uint8 (H', W', 3). Panels are scaled to at most 640 px, tiny ones up to 160 px; wide images are stacked, four
        others go two by two when that fits a screen better.

    Raises:
        ValueError: sizes differ, or there are not three labels.

    >>> grey = np.full((48, 64), 90, np.uint8)
    >>> side_by_side(grey, grey, grey).shape
    (318, 376, 3)
    """
    sizes = [image.shape[:2] for image in (visible, infrared, fused)]
    if len(set(sizes)) != 1 or len(labels) != 3:
        raise UserError(f"three images of one size and three labels are needed, got {sizes} and {tuple(labels)}")
    size = _panel_size(*visible.shape[:2])
    panels = [_panel(image, size) for image in (visible, infrared, fused)]
    captions = list(labels)
    if difference:
        change = np.abs(luminance(fused) - luminance(visible))
        panels.append(_panel(heat(change / _DIFFERENCE_SCALE), size))
        captions.append(f"|fused - {labels[0]}|, mean {change.mean():.3f}")
    return np.asarray(_sheet(panels, captions, title, scale=difference))


def luminance(image: Array) -> Array:
    """BT.601 luminance in [0,1] of integer pixels: (H, W[, 3 or 4]) -> (H, W) float32."""
    x = image.astype(np.float32) / np.iinfo(image.dtype).max
    y: Array = x if x.ndim == 2 else x[..., 0] * 0.299 + x[..., 1] * 0.587 + x[..., 2] * 0.114
    return y


def heat(x: Array) -> Array:
    """Heat colours of values in [0,1] (clipped): (H, W) -> uint8 (H, W, 3), monotone in brightness.

    >>> heat(np.array([[0.0, 1.0]])).tolist()
    [[[0, 0, 4], [252, 255, 164]]]
    """
    stops = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(np.clip(x, 0, 1), stops, [colour[c] for colour in HEAT]) for c in range(3)]
    colours: Array = np.stack(channels, axis=-1).round().astype(np.uint8)
    return colours


def _panel_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of a panel: the longer side within 160..640 px, the shorter one at least 8 px."""
    scale = min(LONGEST_PX / max(height, width), max(1.0, SHORTEST_PX / max(height, width)))
    return max(8, round(width * scale)), max(8, round(height * scale))


def _panel(image: Array, size: tuple[int, int]) -> Image.Image:
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    picture = Image.fromarray(image)
    if picture.mode == "RGBA":
        paper = Image.new("RGBA", picture.size, (*PAPER, 255))
        picture = Image.alpha_composite(paper, picture)
    grows = size[0] > picture.width or size[1] > picture.height
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def _sheet(panels: list[Image.Image], captions: list[str], title: str, *, scale: bool) -> Image.Image:
    """Panels with captions on paper; `scale` draws the colour bar under the last one."""
    width, height = panels[0].size
    columns = 1 if width > 2 * height else len(panels)
    if columns == 4 and 4 * width > 1600:
        columns = 2
    if columns == 4 and width < 200:  # captions need room
        columns = 2
    rows = -(-len(panels) // columns)
    cell = max(width, 170)
    top = GAP_PX + (CAPTION_PX if title else 0)
    sheet = Image.new(
        "RGB", (GAP_PX + columns * (cell + GAP_PX), top + rows * (height + CAPTION_PX) + GAP_PX // 2), PAPER
    )
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((GAP_PX, GAP_PX - 2), title, fill=INK, font=_font(17))
    for i, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        x, y = GAP_PX + i % columns * (cell + GAP_PX), top + i // columns * (height + CAPTION_PX)
        sheet.paste(panel, (x, y))
        draw.text((x, y + height + 5), caption, fill=INK, font=_font(14))
    if scale:
        _colour_bar(sheet, draw, x + cell, y + height + 8)
    return sheet


def _colour_bar(sheet: Image.Image, draw: ImageDraw.ImageDraw, right: int, top: int) -> None:
    """0 [black ... white] 0.5, right-aligned."""
    high = f"{_DIFFERENCE_SCALE:g}"
    font = _font(12)
    bar = Image.fromarray(heat(np.tile(np.linspace(0, 1, 60), (10, 1))))
    x = right - 60 - round(draw.textlength(high, font=font)) - 4
    draw.text((x - 4 - round(draw.textlength("0", font=font)), top - 2), "0", fill=FAINT, font=font)
    sheet.paste(bar, (x, top))
    draw.text((x + 64, top - 2), high, fill=FAINT, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
