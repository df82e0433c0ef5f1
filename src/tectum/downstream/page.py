"""The page of a downstream comparison: tables, intervals, and what fusion bought and lost, person by person.

It is one file without a network and without a script, made from `page.html.jinja` and the style of the
evaluation's page. The pictures are not chosen to please: the images are sorted by what the shown input found and the
sources' networks missed, minus what it missed and they found, and both ends are shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tectum.downstream import page_cells as texts
from tectum.downstream import tables
from tectum.downstream.cell import load_predictions
from tectum.downstream.instances import Seen, seen, tallies
from tectum.downstream.page_cells import SOURCES
from tectum.downstream.run import Cell, Comparison
from tectum.downstream.tables import Table
from tectum.io.image import write_image
from tectum.report.painting import LabelType, add_legend, class_colours, frame_objects, paint
from tectum.report.style import data_uri, fit_jpegs, need_report_extra, write_html

Array = np.ndarray[Any, np.dtype[Any]]
PAGE_BYTES = 6_500_000

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Panel:
    """One picture: the label, or an input with what its network said."""

    name: str
    picture: str
    caption: str


@dataclass(frozen=True)
class Example:
    """A test image with its panels; `bought` is what it is sorted by."""

    image: str
    bought: int
    people: int
    panels: tuple[Panel, ...]


def write_page(
    path: Path,
    comparison: Comparison,
    cells: Sequence[Cell],
    table: Table,
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
        table: of the same cells.
        person: the class whose things are marked; a class that the task does not have marks nothing.
        command: repeats the run.
        num_examples: how many images to show at most, half of them where most was bought, half where most was lost.

    Raises:
        ValueError: matplotlib or jinja2 is not installed.
        OSError: the file cannot be written.
    """
    need_report_extra()
    shown = featured(comparison)
    marks = person in table.classes and bool(cells_done(cells))
    images = seen(comparison, cells, table.classes.index(person)) if marks else []
    tally = tallies(images, table.inputs, shown)
    seed = first_seed(cells)
    others = rivals(comparison, shown, seed, cells)
    order = sorted_by_gain(images, shown, others, seed)
    write_html(
        path,
        HERE,
        table=table,
        command=command,
        budget=comparison.budget,
        shown=shown,
        others=others,
        person=person,
        glance=texts.glance(table, tally, shown, person),
        notes=tables.notes(table),
        score_rows=texts.score_rows(table),
        difference_rows=texts.difference_rows(table),
        forest=texts.forest(table),
        classes=texts.class_rows(table),
        people=texts.people_rows(tally, shown),
        num_people=sum(len(image.boxes) for image in images),
        seed=seed,
        kept=kept(order),
        bought=examples(comparison, cells, table, images, order, seed, shown, num_examples // 2, gains=True),
        lost=examples(comparison, cells, table, images, order, seed, shown, num_examples // 2, gains=False),
        legend=legend(comparison, table),
        kind="masks" if tables.columns(comparison) == tables.MASKS else "boxes",
    )


def draw_predictions(comparison: Comparison, cells: Sequence[Cell], classes: Sequence[str], folder: Path) -> int:
    """FOLDER/INPUT/NAME.png for every test image and each input with a finished first seed, and the labels beside them.

    Returns:
        how many pictures were written.
    """
    seed, num = first_seed(cells), 0
    test = next(iter(comparison.frames.values()))["test"]
    kind: LabelType = "masks" if tables.columns(comparison) == tables.MASKS else "boxes"
    answers = predictions_of(cells, seed, test.names)
    for k, name in enumerate(test.names):
        pictures = {i: comparison.picture(i, k) for i in answers}
        rows = {i: (pictures[i], answers[i][k]) for i in answers}
        if pictures:
            rows["label"] = list(pictures.values())[-1], test.targets[k]
        for row, (picture, answer) in rows.items():
            painted = paint(picture, answer, classes, names=True)
            (folder / row).mkdir(parents=True, exist_ok=True)
            write_image(folder / row / f"{name}.png", add_legend(painted, classes, kind))
            num += 1
    return num


def cells_done(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.row is not None]


def first_seed(cells: Sequence[Cell]) -> int:
    """The first seed that any input has finished."""
    return min((cell.seed for cell in cells_done(cells)), default=0)


def featured(comparison: Comparison) -> str:
    """The input whose gains are shown: the last one that is no source."""
    names = [i.name for i in comparison.inputs]
    return next((name for name in reversed(names) if name not in SOURCES), names[-1])


def rivals(comparison: Comparison, shown: str, seed: int, cells: Sequence[Cell]) -> list[str]:
    """What the shown input is held against: the sources, or without them all the others; with that seed finished."""
    done = [cell.input for cell in cells_done(cells) if cell.seed == seed]
    names = [i.name for i in comparison.inputs if i.name != shown and i.name in done]
    return [name for name in names if name in SOURCES] or names


def predictions_of(cells: Sequence[Cell], seed: int, names: Sequence[str]) -> dict[str, list[Any]]:
    return {cell.input: load_predictions(cell.folder, names) for cell in cells_done(cells) if cell.seed == seed}


def sorted_by_gain(images: Sequence[Seen], shown: str, others: Sequence[str], seed: int) -> list[tuple[int, int]]:
    """[(index of the image, what was bought)], the most first; ties by the number of people, then in order."""
    if not images or seed not in images[0].found.get(shown, {}):
        return []
    gains = [(k, image.bought(shown, others, seed)) for k, image in enumerate(images)]
    return sorted(gains, key=lambda pair: (-pair[1], -len(images[pair[0]].boxes), pair[0]))


def kept(order: Sequence[tuple[int, int]]) -> dict[str, int]:
    """How many images bought something, lost something, neither."""
    return {
        "bought": sum(gain > 0 for _, gain in order),
        "lost": sum(gain < 0 for _, gain in order),
        "even": sum(gain == 0 for _, gain in order),
    }


def examples(
    comparison: Comparison,
    cells: Sequence[Cell],
    table: Table,
    images: Sequence[Seen],
    order: Sequence[tuple[int, int]],
    seed: int,
    shown: str,
    num: int,
    *,
    gains: bool,
) -> list[Example]:
    """The images at one end of the order."""
    chosen = [pair for pair in order if pair[1] > 0] if gains else [pair for pair in reversed(order) if pair[1] < 0]
    chosen = chosen[:num]
    test = next(iter(comparison.frames.values()))["test"]
    answers = predictions_of(cells, seed, test.names)
    found = []
    for k, bought in chosen:
        first = [name for name in (*SOURCES, shown) if name in answers]
        names = dict.fromkeys([*first, *(name for name in table.inputs if name in answers)])
        pictures = {name: comparison.picture(name, k) for name in names}
        label = paint(pictures[shown], test.targets[k], table.classes)
        drawn = {"label": frame_objects(label, images[k].boxes, None, np.zeros((0, 4)))}
        captions = {"label": f"{len(images[k].boxes)} marked"}
        for name, picture in pictures.items():
            hit, false = images[k].found[name][seed], images[k].false[name][seed]
            drawn[name] = frame_objects(paint(picture, answers[name][k], table.classes), images[k].boxes, hit, false)
            captions[name] = caption(hit, false)
        jpegs = fit_jpegs(list(drawn.values()), PAGE_BYTES // max(1, 2 * num))
        panels = tuple(
            Panel(name, data_uri("jpeg", data), captions[name]) for name, data in zip(drawn, jpegs, strict=True)
        )
        found.append(Example(test.names[k], bought, len(images[k].boxes), panels))
    return found


def caption(hit: Array, false: Array) -> str:
    """
    >>> caption(np.array([True, False, False]), np.zeros((1, 4)))
    '1 found, 2 missed, 1 false alarm'
    """
    parts = [f"{int(hit.sum())} found", f"{int((~hit).sum())} missed"]
    return ", ".join(parts + ([f"{len(false)} false alarm{'s' * (len(false) > 1)}"] if len(false) else []))


def legend(comparison: Comparison, table: Table) -> dict[str, str]:
    kind: LabelType = "masks" if tables.columns(comparison) == tables.MASKS else "boxes"
    return {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in class_colours(table.classes, kind).items()}
