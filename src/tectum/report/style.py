"""The set-up of the HTML reports: one file, without a network, with style, plots and pictures inside it.

A page is made from the `page.html.jinja` of its room, the shared `page.css` beside this file, and the room's own
`page.css` if it has one. What a user named is escaped.
"""

import base64
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tectum import __version__
from tectum.errors import UserError
from tectum.io.files import write_whole

Array = np.ndarray[Any, np.dtype[Any]]

_JPEG_STEPS = ((800, 88), (640, 88), (512, 85), (400, 80), (288, 75), (192, 70))
"""Longest side in pixels and JPEG quality; the first that fits is taken, the last whether it fits or not."""


def need_report_extra() -> None:
    """Refuse where jinja2 is missing; it is not imported.

    The pages do so themselves; ask before the work starts, so that hours of it do not end without a page.

    Raises:
        UserError: it is missing.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise UserError("the report needs jinja2: pip install 'tectum[report]', or leave it out (--no-report)")


def write_html(path: Path, folder: Path, **values: Any) -> None:
    """Render a room's page and write it, whole or not at all.

    Args:
        path: of the HTML file.
        folder: holds `page.html.jinja` and perhaps `page.css`.
        values: what the template names, beside `css` and `version`.

    Raises:
        UserError: jinja2 is missing.
        OSError: the file cannot be written.
    """
    need_report_extra()
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "page.html.jinja").read_text(encoding="utf-8"))
    sheets = [place / "page.css" for place in (Path(__file__).parent, folder)]
    css = "\n".join(sheet.read_text(encoding="utf-8") for sheet in sheets if sheet.exists())
    text = template.render(css=css, version=__version__, **values)
    write_whole(path, lambda file: file.write_bytes(text.encode("utf-8", "replace")))


def fit_jpegs(pictures: Sequence[Array], max_bytes: int) -> list[bytes]:
    """JPEGs of pictures, uint8 (H,W) or (H,W,3), that together take at most `max_bytes`, of one size and quality."""
    files: list[bytes] = []
    for longest_px, quality in _JPEG_STEPS:
        files = [encode_image(picture, "JPEG", longest_px, quality=quality) for picture in pictures]
        if sum(map(len, files)) <= max_bytes:
            break
    return files


def encode_image(pixels: Array, image_format: str, longest_px: int, **options: Any) -> bytes:
    """The bytes of an image file; a picture with a longer side than `longest_px` is scaled down."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, image_format, optimize=True, **options)
    return stream.getvalue()


def data_uri(image_format: str, data: bytes) -> str:
    """Returns an image file as text that can stand in a page."""
    return f"data:image/{image_format};base64,{base64.b64encode(data).decode()}"
