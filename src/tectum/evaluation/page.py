"""One HTML page that shows an evaluation: tables, plots, pictures, and how to read them.

The page is a single file without a network: style, script, plots (SVG) and pictures (data URIs) stand inside it, and
its Content-Security-Policy forbids the browser to ask for anything. Whatever a user named is escaped. It is made from
`page.html.jinja`, `page.css` and `page.js` beside this file.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tectum import __version__
from tectum.errors import UserError
from tectum.evaluation import page_cells as cells
from tectum.evaluation import plots, tables
from tectum.evaluation.cost_plot import tradeoff
from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.examples import Example, Pictures, compared, examples
from tectum.evaluation.plots import Style
from tectum.evaluation.statistics import ALPHA, FEWEST_CLEAR, LEVEL, RESAMPLES
from tectum.io.files import write_whole
from tectum.report.svg import number

if TYPE_CHECKING:
    from tectum.benchmark.measure import Cost

HERE = Path(__file__).parent
MOST_FAILURES = 8
"""Images not scored that are named for each reason before the rest is folded away."""


def write_page(
    path: Path,
    evaluation: Evaluation,
    picture: Pictures,
    costs: "Sequence[Cost]" = (),
    *,
    num_examples: int = 6,
) -> None:
    """Write the report, whole or not at all.

    Args:
        path: of the HTML file.
        evaluation: what to show.
        picture: (image, method) -> uint8 (H,W) or (H,W,3) to look at; method is a row of the table, "visible" or
            "infrared". One that cannot be read (OSError, ValueError, KeyError) is shown as missing, with the reason.
        costs: of the methods, by name; those measured alike are drawn against quality.
        num_examples: how many images to show, those where the methods differ most.

    Raises:
        ValueError: matplotlib or jinja2 is not installed.
        OSError: the file cannot be written.
    """
    text = render(evaluation, picture, costs, num_examples)
    write_whole(path, lambda file: file.write_bytes(text.encode("utf-8", "replace")))


def render(evaluation: Evaluation, picture: Pictures, costs: "Sequence[Cost]", num_examples: int) -> str:
    """The page as text."""
    need_extra()
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((HERE / "page.html.jinja").read_text(encoding="utf-8"))
    look = plots.styles(evaluation.summary.kinds)
    table = cells.columns(evaluation)
    shown = list(examples(evaluation.scores, evaluation.summary.kinds, picture, num_examples, evaluation.sources))
    return template.render(
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        js=(HERE / "page.js").read_text(encoding="utf-8"),
        version=__version__,
        evaluation=evaluation,
        summary=evaluation.summary,
        convention=about_convention(evaluation),
        num_images=len(evaluation.scores.images),
        methods=[name for name, style in look.items() if not style.baseline],
        baselines=[name for name, style in look.items() if style.baseline],
        look=look,
        glance=cells.at_a_glance(evaluation),
        failures=failures(evaluation),
        most_failures=MOST_FAILURES,
        undefined=tables.undefined(evaluation),
        infinite=tables.infinite(evaluation),
        stretched=tables.stretched(evaluation),
        columns=table,
        rows=cells.score_rows(evaluation, table),
        differences=cells.difference_rows(evaluation, table),
        radar=radar(evaluation, table, look),
        distributions=distributions(evaluation, table, look),
        most_dots=plots.MOST_DOTS,
        tradeoff=tradeoff(evaluation, costs, table, look),
        examples=shown,
        captions={example.image: captions(evaluation, example, table) for example in shown},
        compared=compared(evaluation.summary.kinds),
        colours=f"the {evaluation.sources[0]}'s" if evaluation.sources[0] == "visible" else "their sources'",
        columns_of=columns_of,
        differing=any(not math.isnan(example.spread) for example in shown),
        level=f"{100 * LEVEL:g}\u00a0%",
        resamples=f"{RESAMPLES:,}",
        fewest_clear=FEWEST_CLEAR,
        alpha=f"{100 * ALPHA:g}\u00a0%",
    )


def need_extra() -> None:
    """Refuse where a package that draws the page is missing.

    `write_page` does so itself; ask before the work starts, so that hours of it do not end without a page. Neither
    package is imported.

    Raises:
        ValueError: one sentence on what is missing and how to get it.
    """
    from importlib.util import find_spec

    missing = [name for name in ("matplotlib", "jinja2") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"the report needs {' and '.join(missing)}: pip install 'tectum[report]', or leave it out (--no-report)"
        )


def about_convention(evaluation: Evaluation) -> dict[str, str]:
    """What it does, by heading."""
    convention = evaluation.convention
    level = {"round": "rounded to the nearest 8-bit level", "truncate": "truncated to 8-bit levels"}[convention.levels]
    made = f"{'each stretched to the full range, then ' if convention.stretch else 'not stretched, '}{level}"
    return {
        "Luminance": convention.luma,
        "Systems run here": made,
        "Baselines": "rounded to the nearest 8-bit level and never stretched",
        "Images from files": "taken as they are",
        "Notes": convention.notes,
    }


def failures(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    """[(reason, images)]."""
    found: dict[str, list[str]] = {}
    for image, reason in evaluation.failures.items():
        found.setdefault(reason, []).append(image)
    return list(found.items())


def radar(evaluation: Evaluation, table: Sequence[cells.Column], look: dict[str, Style]) -> str:
    higher = {column.metric: column.higher for column in table}
    return plots.radar(evaluation.summary.cells, look, higher, {column.metric: column.places for column in table})


def distributions(evaluation: Evaluation, table: Sequence[cells.Column], look: dict[str, Style]) -> list[str]:
    """One SVG a metric."""
    values = evaluation.scores.values
    return [
        plots.distribution(
            {method: values[:, m, k] for m, method in enumerate(evaluation.scores.methods)},
            look,
            f"box{k}",
            f"Distribution of {column.metric} over the images, for every method",
        )
        for k, column in enumerate(table)
    ]


def columns_of(num: int) -> int:
    """Columns of a grid of pictures: 4, 5 or 6, whichever leaves the fewest gaps in the last row.

    >>> [columns_of(num) for num in (3, 7, 9, 12, 19)]
    [4, 4, 5, 6, 5]
    """
    return min((6, 5, 4), key=lambda columns: (-num % columns, -columns)) if num > 4 else 4


def captions(evaluation: Evaluation, example: Example, table: Sequence[cells.Column]) -> dict[str, list[str]]:
    """{row: the scores of one image as text, a metric each}."""
    values = evaluation.scores.values[example.index]
    return {
        method: [number(float(values[m, k]), column.places) for k, column in enumerate(table)]
        for m, method in enumerate(evaluation.scores.methods)
    }
