"""From a matplotlib figure to an <svg> element inside a page, and text as a plot can show it."""

import io
import re
import unicodedata
import warnings
from html import escape
from typing import Any

FAINT = "#6a6f77"


def blank(width: float, height: float) -> Any:
    """A figure whose units are the pixels of the page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
    FigureCanvasSVG(figure)
    return figure


def bare(ax: Any) -> None:
    """Axes without a frame or tick marks."""
    ax.set_facecolor("none")
    ax.set_axisbelow(True)
    ax.spines[:].set_visible(False)
    ax.tick_params(which="both", length=0, colors=FAINT, labelsize=9.5, pad=4)


def svg(figure: Any, prefix: str, title: str) -> str:
    """The figure as an <svg> element: no ids that another one has, no fonts, no header, two decimals."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts will have it
        figure.savefig(stream, format="svg", transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="series-(\d+)"', r'data-series="\1"', text)
    used = set(re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', text))
    names = {name for pair in used for name in pair if name}
    text = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in names else "", text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text).replace('xlink:href="#', f'href="#{prefix}-')
    text = re.sub(r'="[^"<>]*"', lambda m: re.sub(r"(\d\.\d\d)\d+", r"\1", m[0]), text)
    text = re.sub(r"font-family: [^;\"]*(; )?|(?<=px) '[^;\"]*", "", text).replace("font: ", "font-size: ")
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r"M ([\d.]+ [\d.]+) \nL \1 \n", r"M\1h0", text)  # dots
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size is not None
    head = f'<svg viewBox="0 0 {size[1]} {size[2]}" role="img" aria-label="{escape(title)}">'
    return re.sub(r"\n\s*", "\n", head + text[text.index(">") + 1 :])


def literal(text: str) -> str:
    """Text that matplotlib takes as it is: dollars mean no formula, and what cannot be printed is a question mark."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text).replace("$", r"\$")


def cells_wide(text: str) -> int:
    """Width in half-width characters: Chinese, Japanese and Korean ones count two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def shorten(text: str, most: int) -> str:
    """At most `most` half-width characters, cut in the middle, where names of one family agree least often.

    >>> shorten("tdfusion-fixed-msrs-long", 12)
    'tdfusi…-long'
    """
    if cells_wide(text) <= most:
        return text
    head, tail = "", ""
    while cells_wide(head + text[len(head)]) <= most - most // 2:
        head += text[len(head)]
    while cells_wide(text[-len(tail) - 1] + tail) < most // 2:
        tail = text[-len(tail) - 1] + tail
    return f"{head}…{tail}"
