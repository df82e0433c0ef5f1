"""One HTML page that shows an evaluation: tables, plots, pictures, and how to read them.

The page is a single file without a network: style, script, plots (SVG) and pictures (data URIs) stand inside it, and
its Content-Security-Policy forbids the browser to ask for anything. Whatever a user named is escaped. It is made from
`page.html.jinja` and `page.js` beside this file.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tectum.errors import group_by_reason
from tectum.evaluation import page_cells, plots, tables
from tectum.evaluation.cost_plot import make_cost_section
from tectum.evaluation.evaluate import Evaluation
from tectum.evaluation.examples import Pictures, compared_rows, make_examples
from tectum.evaluation.statistics import ALPHA, FEWEST_CLEAR, RESAMPLES
from tectum.report.statistics import LEVEL
from tectum.report.style import need_report_extra, write_html
from tectum.report.tables import number_text

if TYPE_CHECKING:
    from tectum.benchmark.measure import Cost

_MOST_FAILURES = 8
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
        evaluation: the scores to show.
        picture: (image, row) -> uint8 (H,W) or (H,W,3) to look at; a row of the table, "visible" or "infrared". One
            that cannot be read (OSError, ValueError, KeyError) is shown as missing, with the reason.
        costs: of the methods, by name; those measured alike are drawn against quality.
        num_examples: how many images to show, those where the methods differ most.

    Raises:
        UserError: jinja2 is not installed.
        OSError: the file cannot be written.
    """
    need_report_extra()
    folder = Path(__file__).parent
    summary, scores = evaluation.summary, evaluation.scores
    styles = plots.make_styles(summary.is_baseline)
    columns = page_cells.make_columns(evaluation)
    places = {column.metric: column.places for column in columns}
    examples = make_examples(evaluation, picture, num_examples)
    distributions = [
        plots.plot_distribution(
            {method: scores.values[:, m, k] for m, method in enumerate(scores.methods)},
            styles,
            f"Distribution of {metric} over the images, for every method",
        )
        for k, metric in enumerate(scores.metrics)
    ]
    write_html(
        path,
        folder,
        js=(folder / "page.js").read_text(encoding="utf-8"),
        evaluation=evaluation,
        summary=summary,
        convention=_describe_convention(evaluation),
        num_images=len(scores.images),
        methods=[name for name, style in styles.items() if not style.is_baseline],
        baselines=[name for name, style in styles.items() if style.is_baseline],
        styles=styles,
        sentences=page_cells.sum_up(evaluation),
        failures=list(group_by_reason(evaluation.failures).items()),
        most_failures=_MOST_FAILURES,
        undefined=tables.explain_undefined(evaluation),
        infinite=tables.explain_infinite(evaluation),
        stretched=tables.explain_stretch(evaluation),
        columns=columns,
        rows=page_cells.score_rows(evaluation, columns),
        differences=page_cells.difference_rows(evaluation, columns),
        radar=plots.plot_radar(summary.means, styles, evaluation.higher_is_better, places),
        distributions=distributions,
        max_dots=plots.MAX_DOTS,
        costs=make_cost_section(evaluation, costs, columns, styles),
        examples=examples,
        captions={example.image: _captions(evaluation, example.index, columns) for example in examples},
        compared=compared_rows(summary.is_baseline),
        colours=f"the {evaluation.sources[0]}'s" if evaluation.sources[0] == "visible" else "their sources'",
        num_columns=_num_columns,
        differing=any(not math.isnan(example.spread) for example in examples),
        level=f"{100 * LEVEL:g}\u00a0%",
        resamples=f"{RESAMPLES:,}",
        fewest_clear=FEWEST_CLEAR,
        alpha=f"{100 * ALPHA:g}\u00a0%",
    )


def _describe_convention(evaluation: Evaluation) -> dict[str, str]:
    """The parts of the convention, by heading."""
    convention = evaluation.convention
    level = {"round": "rounded to the nearest 8-bit level", "truncate": "truncated to 8-bit levels"}[convention.levels]
    stretch = "each stretched to the full range, then" if convention.stretch else "not stretched,"
    return {
        "Luminance": convention.luma,
        "Systems run here": f"{stretch} {level}",
        "Baselines": "rounded to the nearest 8-bit level and never stretched",
        "Images from files": "taken as they are",
        "Notes": convention.notes,
    }


def _num_columns(num: int) -> int:
    """Columns of a grid of pictures: 4, 5 or 6, whichever leaves the fewest gaps in the last row.

    >>> [_num_columns(num) for num in (3, 7, 9, 12, 19)]
    [4, 4, 5, 6, 5]
    """
    return min((6, 5, 4), key=lambda columns: (-num % columns, -columns)) if num > 4 else 4


def _captions(evaluation: Evaluation, index: int, columns: Sequence[page_cells.Column]) -> dict[str, list[str]]:
    """{row: the scores of one image as text, a metric each}."""
    return {
        method: [number_text(float(row[k]), column.places) for k, column in enumerate(columns)]
        for method, row in zip(evaluation.scores.methods, evaluation.scores.values[index], strict=True)
    }
