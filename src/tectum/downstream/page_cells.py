"""What stands on the page of a downstream comparison: cells of its tables, sentences, the plot of differences."""

import math
from collections.abc import Mapping

from tectum.downstream.instances import Tally
from tectum.downstream.statistics import Gap, Spread
from tectum.downstream.tables import Table, percent, signed
from tectum.evaluation.plots import COLOURS, INK, RULE
from tectum.report.svg import FAINT, bare, blank, literal, shorten, svg

SOURCES = ("visible", "infrared")


def score_rows(table: Table) -> list[tuple[str, list[dict[str, str]]]]:
    """[(input, a cell a score)]; the best mean of each column is marked."""
    best = {
        score: max(
            (row[score].mean for row in table.cells.values() if not math.isnan(row[score].mean)), default=math.nan
        )
        for score in table.scores
    }
    return [
        (name, [score_cell(table.cells[name][s], best[s], len(table.seeds)) for s in table.scores])
        for name in table.inputs
    ]


def score_cell(x: Spread, best: float, asked: int) -> dict[str, str]:
    return {
        "text": percent(x.mean),
        "sd": f"± {percent(x.sd)}" if len(x.seeds) > 1 else "",
        "missing": f"{len(x.seeds)} of {asked} seeds" if 0 < len(x.seeds) < asked else "",
        "mark": "best" if x.mean == best else "",
        "hint": "seeds: " + (", ".join(percent(value) for value in x.seeds) or "none finished"),
    }


def difference_rows(table: Table) -> list[tuple[str, list[dict[str, str]]]]:
    nothing = Gap(math.nan, math.nan, math.nan, (), math.nan, math.nan)
    return [
        (name, [difference_cell(row.get(score, nothing)) for score in table.scores])
        for name, row in table.differences.items()
    ]


def difference_cell(x: Gap) -> dict[str, str]:
    if math.isnan(x.mean):
        return {"text": "n/a", "interval": "", "verdict": "na", "word": "", "hint": "no common seed is finished"}
    parts = f"images ± {percent(x.half_images)}" + (
        "" if math.isnan(x.half_seeds) else f", seeds ± {percent(x.half_seeds)}"
    )
    return {
        "text": signed(x.mean),
        "interval": f"{signed(x.low)} to {signed(x.high)}",
        "verdict": x.verdict.replace(" ", "-"),
        "word": x.verdict,
        "hint": f"by seed: {', '.join(map(signed, x.seeds))}; {parts}",
    }


def class_rows(table: Table) -> list[tuple[str, list[str], list[tuple[str, list[tuple[str, str]]]]]]:
    """[(title, classes, [(input, [(mean, sd)])])]; classes without a value anywhere are left out."""
    found = []
    for kind, rows in table.per_class.items():
        named = [c for c in table.classes if any(rows[name][c].seeds for name in table.inputs)]
        cells = [
            (
                name,
                [
                    (
                        percent(rows[name][c].mean, 1),
                        f"± {percent(rows[name][c].sd, 1)}" if len(rows[name][c].seeds) > 1 else "",
                    )
                    for c in named
                ],
            )
            for name in table.inputs
        ]
        found.append((kind, named, cells))
    return found


def people_rows(tally: Mapping[str, Tally], shown: str) -> list[dict[str, str]]:
    rows = []
    for name, t in tally.items():
        total = t.found + t.missed
        rows.append(
            {
                "name": name,
                "shown": "yes" if name == shown else "",
                "found": f"{t.found:.1f}",
                "share": f"{100 * t.found / total:.1f} %" if total else "n/a",
                "missed": f"{t.missed:.1f}",
                "false": f"{t.false:.1f}",
                "gained": "" if t.gained is None else f"{t.gained:.1f}",
                "lost": "" if t.lost is None else f"{t.lost:.1f}",
                "net": "" if t.gained is None or t.lost is None else f"{t.gained - t.lost:+.1f}".replace("-", "−"),
            }
        )
    return rows


def glance(table: Table, tally: Mapping[str, Tally], shown: str, person: str) -> list[str]:
    """What the page says in a few sentences."""
    told = []
    score = table.scores[1] if table.scores[0] == "mAcc" else table.scores[0]
    ranked = sorted(
        ((row[score].mean, name) for name, row in table.cells.items() if row[score].seeds), key=lambda x: -x[0]
    )
    if len(ranked) > 1:
        first, second = (f"{name} with {percent(mean)} %" for mean, name in ranked[:2])
        told.append(f"Highest mean {score}: {first}, then {second}.")
    gaps = {name: row[score] for name, row in table.differences.items() if score in row}
    for verdict in ("better", "worse"):
        names = [name for name, x in gaps.items() if x.verdict == verdict]
        if names:
            told.append(f"Clearly {verdict} than {table.reference} in {score}: {', '.join(names)}.")
    unclear = ", ".join(name for name, x in gaps.items() if x.verdict == "not clear")
    if unclear and len(table.seeds) > 1:
        told.append(f"Not clearly different from {table.reference} in {score}, the interval spans zero: {unclear}.")
    elif unclear:
        told.append(f"With one seed no difference to {table.reference} is called clear.")
    for name in SOURCES:
        t = tally.get(name)
        if t is not None and t.gained is not None and t.lost is not None:
            told.append(
                f"Of {t.found + t.missed:.0f} labelled things of class {person}, {shown} found {t.gained:.1f} that "
                f"{name} missed, and missed {t.lost:.1f} that {name} found (mean over seeds)."
            )
    return told


def forest(table: Table) -> str:
    """Differences to the reference with their intervals, and a dot a seed; a block for each score."""
    rows = [
        (score, name, row[score]) for score in table.scores for name, row in table.differences.items() if score in row
    ]
    if not rows:
        return ""
    high = 26 * len(rows) + 30 * len(table.scores) + 34
    figure = blank(720, high)
    ax = figure.add_axes((0.27, 30 / high, 0.7, 1 - 34 / high))
    bare(ax)
    ax.grid(axis="x", color=RULE, lw=0.6)
    ax.axvline(0, color=INK, lw=1)
    y, last = 0.0, ""
    names = list(table.inputs)
    for score, name, x in rows:
        if score != last:
            y -= 1.15 if last else 0.0
            ax.annotate(
                literal(score),
                (-0.37, y),
                xycoords=("axes fraction", "data"),
                fontsize=11,
                color=INK,
                va="center",
                weight="bold",
            )
            y, last = y - 1, score
        colour = COLOURS[names.index(name) % len(COLOURS)]
        ax.plot([100 * x.low, 100 * x.high], [y, y], color=colour, lw=2, solid_capstyle="round")
        ax.plot([100 * s for s in x.seeds], [y] * len(x.seeds), "|", ms=9, mec=colour, mew=1.3)
        ax.plot([100 * x.mean], [y], "o", ms=7.5, mfc=colour, mec="white", mew=1)
        ax.annotate(
            literal(shorten(name, 26)),
            (-0.02, y),
            xycoords=("axes fraction", "data"),
            fontsize=11,
            color=FAINT,
            va="center",
            ha="right",
        )
        y -= 1
    ax.set_ylim(y + 0.3, 0.6)
    ax.set_yticks([])
    ax.set_xlabel(literal(f"points above or below {table.reference}"), color=FAINT, fontsize=11)
    ax.margins(x=0.06)
    return svg(figure, "forest", f"Differences to {table.reference}")
