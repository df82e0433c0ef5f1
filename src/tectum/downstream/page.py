"""The HTML page of a downstream comparison: tables, intervals, and the objects that fusion gained and lost.

It is one file without a network and without a script, made from `page.html.jinja`. The pictures are not chosen to
please: the images are sorted by the objects that the featured input found and the sources' networks missed, minus those
that it missed and they found, and both ends are shown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tectum.downstream.cell import load_predictions
from tectum.downstream.instances import ImageInstances, InstanceCounts, count_instances, find_instances
from tectum.downstream.run import Cell, Comparison
from tectum.downstream.statistics import SeedDifference, SeedMean
from tectum.downstream.tables import Summary, notes, percent, signed_percent
from tectum.io.image import write_image
from tectum.report.painting import add_legend, class_colours, frame_objects, paint
from tectum.report.plots import COLOURS, FAINT, INK, RULE, Drawing, Scale, shorten, spread_out
from tectum.report.style import data_uri, fit_jpegs, need_report_extra, write_html

_PAGE_BYTES = 6_500_000
_SOURCES = ("visible", "infrared")


@dataclass(frozen=True)
class _Panel:
    """One picture as a data URI: the label, or an input with its prediction."""

    name: str
    picture: str
    caption: str


@dataclass(frozen=True)
class _Example:
    """A test image with its panels and the net number of objects that the featured input gained."""

    image: str
    gain: int
    num_objects: int
    panels: tuple[_Panel, ...]


def write_page(
    path: Path,
    comparison: Comparison,
    cells: Sequence[Cell],
    summary: Summary,
    *,
    person: str = "person",
    command: str = "",
    num_examples: int = 24,
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: of the HTML file.
        comparison: prepared.
        cells: of its run.
        summary: of the same cells.
        person: the class whose objects are marked; a class that the task does not have marks nothing.
        command: repeats the run.
        num_examples: images to show at most, half of them with the largest gains, half with the largest losses.

    Raises:
        UserError: matplotlib or jinja2 is not installed.
        OSError: the file cannot be written.
    """
    need_report_extra()
    objects = _object_values(comparison, cells, summary, person, num_examples // 2)
    best = {
        score: max((row[score].mean for row in summary.means.values() if row[score].seeds), default=math.nan)
        for score in summary.scores
    }
    write_html(
        path,
        Path(__file__).parent,
        summary=summary,
        command=command,
        budget=comparison.budget,
        person=person,
        overview=_overview(summary, objects["counts"], objects["featured"], person),
        notes=notes(summary),
        best=best,
        classes_of={
            score: [c for c in summary.classes if any(row[c].seeds for row in by_input.values())]
            for score, by_input in summary.per_class.items()
        },
        plot=_plot_differences(summary),
        legend={
            name: "#{:02x}{:02x}{:02x}".format(*colour)
            for name, colour in class_colours(summary.classes, comparison.label_type).items()
        },
        label_type=comparison.label_type,
        percent=percent,
        signed=signed_percent,
        mean_hint=_mean_hint,
        difference_hint=_difference_hint,
        **objects,
    )


def _object_values(
    comparison: Comparison, cells: Sequence[Cell], summary: Summary, person: str, num: int
) -> dict[str, Any]:
    """Counts of objects found and missed, and `num` examples of each end of the order of images."""
    featured, seed = featured_input(summary.inputs), _first_seed(cells)
    predictions = _load_predictions(comparison, cells, seed)
    rivals = [name for name in summary.inputs if name != featured and name in predictions]
    rivals = [name for name in rivals if name in _SOURCES] or rivals
    images = []
    if person in summary.classes and predictions:
        images = find_instances(comparison, cells, summary.classes.index(person))
    ranked = rank_by_gain(images, featured, rivals, seed)
    gained = [(k, gain) for k, gain in ranked if gain > 0]
    lost = [(k, gain) for k, gain in reversed(ranked) if gain < 0]

    def example(k: int, gain: int) -> _Example:
        names = [name for name in dict.fromkeys((*_SOURCES, featured, *summary.inputs)) if name in predictions]
        answers = {name: predictions[name][k] for name in names}
        max_bytes = _PAGE_BYTES // max(1, 2 * num)
        panels = _panels(comparison, summary.classes, answers, images[k], k, seed, featured, max_bytes)
        return _Example(comparison.test_frames.names[k], gain, len(images[k].boxes), panels)

    return {
        "featured": featured,
        "rivals": rivals,
        "seed": seed,
        "counts": count_instances(images, summary.inputs, featured),
        "num_objects": sum(len(image.boxes) for image in images),
        "num_gained": len(gained),
        "num_lost": len(lost),
        "num_even": len(ranked) - len(gained) - len(lost),
        "gained": [example(*pair) for pair in gained[:num]],
        "lost": [example(*pair) for pair in lost[:num]],
    }


def draw_predictions(comparison: Comparison, cells: Sequence[Cell], classes: Sequence[str], folder: Path) -> int:
    """Write FOLDER/INPUT/NAME.png for each test image and input with a finished first seed, and the labels beside them.

    Returns:
        The number of pictures written.
    """
    frames, num = comparison.test_frames, 0
    predictions = _load_predictions(comparison, cells, _first_seed(cells))
    for k, name in enumerate(frames.names):
        pictures = {i: comparison.picture(i, k) for i in predictions}
        rows = {i: (pictures[i], predictions[i][k]) for i in predictions}
        if pictures:
            rows["label"] = list(pictures.values())[-1], frames.targets[k]
        for row, (picture, target) in rows.items():
            painted = paint(picture, target, classes, names=True)
            (folder / row).mkdir(parents=True, exist_ok=True)
            write_image(folder / row / f"{name}.png", add_legend(painted, classes, comparison.label_type))
            num += 1
    return num


def featured_input(names: Sequence[str]) -> str:
    """Returns the input whose gains are shown: the last one that is no source."""
    return next((name for name in reversed(names) if name not in _SOURCES), names[-1])


def _first_seed(cells: Sequence[Cell]) -> int:
    """The first seed that any input has finished."""
    return min((cell.seed for cell in cells if cell.result is not None), default=0)


def _load_predictions(comparison: Comparison, cells: Sequence[Cell], seed: int) -> dict[str, list[Any]]:
    names = comparison.test_frames.names
    done = [cell for cell in cells if cell.result is not None and cell.seed == seed]
    return {cell.input: load_predictions(cell.folder, names) for cell in done}


def rank_by_gain(
    images: Sequence[ImageInstances], featured: str, rivals: Sequence[str], seed: int
) -> list[tuple[int, int]]:
    """Returns (index of the image, net gain over the rivals), the largest gain first, then the most objects."""
    if not images or seed not in images[0].found.get(featured, {}):
        return []
    gains = [(k, image.net_gain(featured, rivals, seed)) for k, image in enumerate(images)]
    return sorted(gains, key=lambda pair: (-pair[1], -len(images[pair[0]].boxes), pair[0]))


def _panels(
    comparison: Comparison,
    classes: Sequence[str],
    predictions: Mapping[str, Any],
    instances: ImageInstances,
    k: int,
    seed: int,
    featured: str,
    max_bytes: int,
) -> tuple[_Panel, ...]:
    """Test image k: its label, then each input with its prediction."""
    pictures = {name: comparison.picture(name, k) for name in predictions}
    label = paint(pictures[featured], comparison.test_frames.targets[k], classes)
    drawn = {"label": frame_objects(label, instances.boxes, None, np.zeros((0, 4)))}
    captions = {"label": f"{len(instances.boxes)} marked"}
    for name, picture in pictures.items():
        found, false = instances.found[name][seed], instances.false_alarms[name][seed]
        drawn[name] = frame_objects(paint(picture, predictions[name], classes), instances.boxes, found, false)
        captions[name] = f"{int(found.sum())} found, {int((~found).sum())} missed"
        if len(false):
            captions[name] += f", {len(false)} false alarm{'s' * (len(false) > 1)}"
    jpegs = fit_jpegs(list(drawn.values()), max_bytes)
    return tuple(_Panel(name, data_uri("jpeg", data), captions[name]) for name, data in zip(drawn, jpegs, strict=True))


def _mean_hint(x: SeedMean) -> str:
    return "seeds: " + (", ".join(percent(value) for value in x.seeds) or "none finished")


def _difference_hint(x: SeedDifference) -> str:
    seeds = "" if math.isnan(x.half_seeds) else f", seeds ± {percent(x.half_seeds)}"
    return f"by seed: {', '.join(map(signed_percent, x.seeds))}; images ± {percent(x.half_images)}{seeds}"


def _overview(summary: Summary, counts: Mapping[str, InstanceCounts], featured: str, person: str) -> list[str]:
    """The results in a few sentences."""
    sentences = []
    score = summary.scores[1] if summary.scores[0] == "mAcc" else summary.scores[0]
    means = {name: row[score].mean for name, row in summary.means.items() if row[score].seeds}
    if len(means) > 1:
        best = sorted(means, key=lambda name: -means[name])[:2]
        first, second = (f"{name} with {percent(means[name])} %" for name in best)
        sentences.append(f"Highest mean {score}: {first}, then {second}.")
    reference = f"{summary.reference} in {score}"
    verdicts = {name: row[score].verdict for name, row in summary.differences.items() if score in row}
    names = {word: ", ".join(n for n in verdicts if verdicts[n] == word) for word in ("better", "worse", "not clear")}
    sentences += [f"Clearly {word} than {reference}: {names[word]}." for word in ("better", "worse") if names[word]]
    if names["not clear"] and len(summary.seeds) > 1:
        sentences.append(f"Not clearly different from {reference}, the interval spans zero: {names['not clear']}.")
    elif names["not clear"]:
        sentences.append(f"With one seed no difference to {summary.reference} is called clear.")
    for name in _SOURCES:
        c = counts.get(name)
        if c is not None and c.gained is not None and c.lost is not None:
            sentences.append(
                f"Of {c.found + c.missed:.0f} labelled objects of class {person}, {featured} found {c.gained:.1f} that "
                f"{name} missed, and missed {c.lost:.1f} that {name} found (mean over seeds)."
            )
    return sentences


def _plot_differences(summary: Summary) -> str:
    """Forest plot: differences to the reference with their intervals, and a stroke a seed; a block for each score."""
    rows = [
        (score, name, row[score])
        for score in summary.scores
        for name, row in summary.differences.items()
        if score in row
    ]
    if not rows:
        return ""
    left, right, top, row_px = 194.5, 698.5, 4.0, 26.0
    num_blocks = len(summary.scores)
    bottom = top + row_px * (len(rows) + 2.15 * num_blocks - 0.85)
    drawing = Drawing(720, bottom + 34, f"Differences to {summary.reference}")
    points = [100 * end for *_, x in rows for end in (x.low, x.high, *x.seeds)]
    scale = Scale(*spread_out([0.0, *points], 0.06), left, right)
    for number, label in scale.ticks(7):
        u = scale(number)
        drawing.line([u, u], [top, bottom], RULE, 0.6)
        drawing.text(u, bottom + 10, label, FAINT, 9.5)
    drawing.line([scale(0), scale(0)], [top, bottom], INK, 1)
    y, last = top + 0.6 * row_px, ""
    for score, name, x in rows:
        if score != last:
            y += 1.15 * row_px if last else 0.0
            drawing.text(8, y, score, INK, 11, anchor="start", font_weight="bold")
            y, last = y + row_px, score
        colour = COLOURS[summary.inputs.index(name) % len(COLOURS)]
        low, mean, high = scale([100 * x.low, 100 * x.mean, 100 * x.high])
        drawing.line([low, high], [y, y], colour, 2, stroke_linecap="round")
        for u in scale([100 * seed for seed in x.seeds]):
            drawing.line([u, u], [y - 4.5, y + 4.5], colour, 1.3)
        drawing.marker("circle", mean, y, 7.5, fill=colour, stroke="white", stroke_width=1)
        drawing.text(left - 10, y, shorten(name, 26), FAINT, 11, anchor="end")
        y += row_px
    drawing.text((left + right) / 2, bottom + 26, f"points above or below {summary.reference}", FAINT, 11)
    return drawing.to_svg()
