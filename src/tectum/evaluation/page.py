"""One HTML page that shows an evaluation: tables, plots, pictures, and how to read them.

The page is a single file without a network: style, script, plots (SVG) and pictures (data URIs) stand inside it, and
its Content-Security-Policy forbids the browser to ask for anything. Whatever a user named is escaped. It is made from
`page.html.jinja` and `page.js` beside this file.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tectum.evaluation import page_cells as cells
from tectum.evaluation import plots, tables
from tectum.evaluation.cost_plot import tradeoff
from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.examples import Example, Pictures, compared, examples
from tectum.evaluation.plots import Style
from tectum.evaluation.statistics import ALPHA, FEWEST_CLEAR, RESAMPLES
from tectum.report.statistics import LEVEL
from tectum.report.style import need_report_extra, write_html
from tectum.report.tables import number_text

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
    need_report_extra()
    look = plots.styles(evaluation.summary.kinds)
    table = cells.columns(evaluation)
    shown = list(examples(evaluation.scores, evaluation.summary.kinds, picture, num_examples, evaluation.sources))
    write_html(
        path,
        HERE,
        js=(HERE / "page.js").read_text(encoding="utf-8"),
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
        method: [number_text(float(values[m, k]), column.places) for k, column in enumerate(table)]
        for m, method in enumerate(evaluation.scores.methods)
    }
