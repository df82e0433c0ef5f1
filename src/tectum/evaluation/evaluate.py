"""Score fused images against their sources: any number of methods on the same pairs, in parallel, resumable.

    for every pair:    a, b <- read              fused_1 .. fused_M <- each method's image of it
                       values (M, metrics) <- metrics(fused_1 .. fused_M, a, b)        one line in OUT/scores.jsonl
    at the end:        the images that every method has -> means, intervals, differences, ranks (`summary`)

What depends on the sources alone is computed once for all methods of a pair. A line is kept under a key of what went
into it (the three files, the weights, the convention), so a run that was cut short goes on where it stopped, a method
that is added costs its own images only, and an image that changed is scored again.
"""

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tectum import __version__
from tectum.color import to_levels
from tectum.console import progress_bar
from tectum.errors import UserError, abbreviate, unknown
from tectum.evaluation.methods import (
    BASELINES,
    Folder,
    Method,
    baseline,
    baselines_of,
    file_identity,
    read_pair,
    system,
)
from tectum.evaluation.score_file import ScoreFile, Values
from tectum.evaluation.statistics import Scores, Summary, summarise
from tectum.io.folders import Matches, PairFiles, match
from tectum.io.image import Array, Picture, parse_range, to_array
from tectum.kinds import KINDS
from tectum.metrics.conventions import CONVENTIONS, Convention, with_metrics
from tectum.protocols import resolve

CHUNK_PX = 4_000_000
"""Pixels of fused images that are scored at once; more methods of large images take turns."""


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        scores: the value per image, method and metric, of the images that every method has.
        summary: means, intervals, differences and ranks of them.
        convention: how the values are taken.
        higher_is_better: by metric.
        units: by metric, "" where it has none.
        failures: {image: why it was not scored}.
        notes: sentences a reader of the table must know (a method that lacks images, say).
        data: what was scored, in words.
        command: repeats it.
        date: of the evaluation, 2026-11-20.
        sources: what the two images of a pair are called, in rows and pictures.
    """

    scores: Scores
    summary: Summary
    convention: Convention
    higher_is_better: Mapping[str, bool]
    units: Mapping[str, str]
    failures: Mapping[str, str]
    notes: tuple[str, ...]
    data: str
    command: str
    date: str
    sources: tuple[str, str] = ("visible", "infrared")


class Evaluator:
    """An evaluation that is ready to run; everything that can be wrong with the request is found here.

    Args:
        methods: {name: what}: a `Path` is a folder (or pattern) of fused images, a `str` a system, as
            `NAME[@WEIGHTS]` or `package.module:Class[@WEIGHTS]`, a module a fuser.
        visible, infrared: folders or patterns of the sources, matched by name.
        out: a folder that keeps the scores and the images made here; None keeps nothing.
        convention: a name of CONVENTIONS.
        metrics: names of METRICS in place of the convention's, also as one text "EN,SF"; "all" takes every one.
        baselines: which of `BASELINES` to show beside the methods.
        reference: the method that the others are compared with; the first one without it.
        names: only these pairs.
        visible_range, infrared_range: as in `tectum fuse`, for sources that are not 8-bit.
        both_colour: the second source may be in colour too (two exposures, two foci); luminances are compared.
        device: where systems run; a fuser given as a module stays where it is.
        data, command: words for the report.
        kind: of the pairs; `visible` and `infrared` are a and b of it, and rows have the names of its roles.
        pairs: what belongs together, where folders and names alone do not say it.

    Raises:
        ValueError, KeyError, FileNotFoundError: one sentence on what is wrong.
    """

    def __init__(
        self,
        methods: Mapping[str, "str | Path | nn.Module"],
        visible: str | Path,
        infrared: str | Path,
        *,
        out: Path | None = None,
        convention: str = "tectum",
        metrics: Sequence[str] | None = None,
        baselines: Sequence[str] = BASELINES,
        reference: str | None = None,
        names: Sequence[str] | None = None,
        visible_range: str = "auto",
        infrared_range: str = "auto",
        both_colour: bool = False,
        device: str = "auto",
        data: str = "",
        command: str = "",
        kind: str = "infrared",
        pairs: Matches | None = None,
    ) -> None:
        parse_range(visible_range), parse_range(infrared_range)
        self.kind = KINDS[kind]
        self.reading: dict[str, Any] = {
            "visible_range": visible_range,
            "infrared_range": infrared_range,
            "both_colour": both_colour or self.kind.mixes,
        } | ({} if self.kind.name == "infrared" else {"kind": self.kind.name})
        if isinstance(metrics, str):
            metrics = [name.strip() for name in metrics.split(",")]
        self.convention = with_metrics(resolve(CONVENTIONS, convention, noun="convention"), metrics)
        self.metrics = {name: make() for name, make in self.convention.metrics.items()}
        self.out, self.reference, self.command = out, reference, command
        self.data = data or f"{visible} and {infrared}"
        matches = match(str(visible), str(infrared), roles=self.kind.roles) if pairs is None else pairs
        self.failures: dict[str, str] = dict(matches.ambiguous)
        self.notes = [
            f"{len(alone)} {role} images have no partner and are left out: {abbreviate(alone)}"
            for role, alone in matches.unmatched.items()
            if alone and names is None
        ]
        wanted = chosen({pair.name: pair for pair in matches.pairs}, names, self.failures)
        self.methods = self.collect(methods, baselines, device)
        for method in self.methods:
            method.mixes = self.kind.mixes
        self.pairs = self.common(wanted)
        if out is not None and out.resolve() in {folder.resolve() for folder in matches.folders.values()}:
            raise UserError(f"results must not go among their sources, got {out}; choose another folder")

    def collect(
        self, methods: Mapping[str, "str | Path | nn.Module"], baselines: Sequence[str], device: str
    ) -> list[Method]:
        found: list[Method] = []
        for name, what in methods.items():
            if name in self.kind.roles:
                raise UserError(f"'{name}' is the name of a source; call the method something else: other={what}")
            if not name or re.search(r"[/\\\0]", name) or name.startswith("."):
                raise UserError(f"a method's name must do for a folder, without slashes, got {name!r}; change it")
            if isinstance(what, str) and Path(what).is_dir():
                raise UserError(f"a folder of fused images must be given as a Path, got the text {what!r}")
            if isinstance(what, Path):
                found.append(Folder(name, str(what)))
            else:
                store = None if self.out is None else self.out / "fused"
                saved = (self.convention.name, self.convention.quantize)
                found.append(system(name, what, saved=saved, reading=self.reading, device=device, store=store))
        known = baselines_of(self.kind)
        for name in baselines:
            name = dict(zip(BASELINES, known, strict=True)).get(name, name)
            if name not in known:
                raise UserError(unknown(name, dict.fromkeys(known), noun="baseline"))
            if name in methods:
                self.notes.append(f"{name} is the method of that name, {methods[name]}, not the baseline")
            else:
                found.append(baseline(name, self.kind))
        if not found:
            raise UserError("there is nothing to score; give --fused NAME=FOLDER or --system NAME")
        if self.reference is not None and self.reference not in [method.name for method in found]:
            raise UserError(unknown(self.reference, {method.name: 0 for method in found}, noun="method"))
        return found

    def common(self, pairs: Sequence[PairFiles]) -> list[PairFiles]:
        """The pairs that every method has an image for; says who lacks which."""
        if not pairs:
            image, reason = next(iter(self.failures.items()))
            raise UserError(f"not one of {len(self.failures)} pairs can be told apart; {image}: {reason}")
        for method in self.methods:
            lacking = [pair.name for pair in pairs if not method.has(pair.name)]
            if len(lacking) == len(pairs):
                where = f" in {method.where} ({abbreviate(method.found)})" if isinstance(method, Folder) else ""
                raise FileNotFoundError(
                    f"fused images are matched with their sources by name, but {method.name} has none{where} for "
                    f"{abbreviate(lacking)}; rename them, or give another folder"
                )
            if lacking:
                self.notes.append(f"{method.name} lacks {len(lacking)} of {len(pairs)} images: {abbreviate(lacking)}")
        common = [pair for pair in pairs if all(method.has(pair.name) for method in self.methods)]
        if not common:
            raise FileNotFoundError(f"no pair has an image of every method ({'; '.join(self.notes)}); complete them")
        if len(common) < len(pairs):
            self.notes.append(f"all methods are compared on the {len(common)} images that they have in common")
        return common

    def run(self, *, workers: int | None = None, overwrite: bool = False, quiet: bool = False) -> Evaluation:
        """Score what is not scored yet and sum up.

        Args:
            workers: how many pairs at a time, each on one processor thread; None takes one for each core.
            overwrite: fuse and score everything anew.
            quiet: no progress bar (there is none either where stderr is not a terminal).

        Raises:
            ValueError: not one image could be scored.
            OSError: the scores cannot be written.
            KeyboardInterrupt: after the scores known by then are written.
        """
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
        store = ScoreFile(None if self.out is None else self.out / "scores.jsonl")
        if overwrite and store.path is not None:
            store.path.unlink(missing_ok=True)
            for method in self.methods:
                method.since = time.time_ns()
        store.load()
        failures = dict(self.failures)
        rows: dict[str, dict[str, Values]] = {}
        workers = max(1, min(workers or num_cores(), len(self.pairs)))
        bar = progress_bar(len(self.pairs), "image", quiet=quiet)
        with bar, one_thread_each(workers) as begin, ThreadPoolExecutor(workers, "tectum-score", begin) as pool:
            futures = {pool.submit(self.score, pair, store): pair.name for pair in self.pairs}
            try:
                for future in as_completed(futures):
                    try:
                        rows[futures[future]] = future.result()
                    except (ValueError, FileNotFoundError, PermissionError, MemoryError) as error:
                        failures[futures[future]] = str(error) or "it does not fit in memory"
                    bar.update()
            except KeyboardInterrupt:
                bar.write("tectum: stopping, once the pairs in work are done", file=sys.stderr)
                raise
            finally:
                for future in futures:
                    future.cancel()
        return self.sum_up(rows, failures)

    def score(self, pair: PairFiles, store: ScoreFile) -> dict[str, Values]:
        """The values of every method on one pair."""
        keys = {method.name: self.key(pair, method) for method in self.methods}
        rows = {name: values for name, key in keys.items() if (values := store.get(pair.name, name, key)) is not None}
        todo = [method for method in self.methods if method.name not in rows]
        if not todo:
            return rows
        visible, infrared = read_pair(pair, **self.reading)
        a, b = to_levels(visible.y[None]), to_levels(infrared.y[None])
        num = max(1, CHUNK_PX // a.numel())
        for chunk in (todo[i : i + num] for i in range(0, len(todo), num)):
            fused = torch.stack([method.luminance(pair, visible, infrared) for method in chunk])
            columns = {name: metric(fused, a, b).tolist() for name, metric in self.metrics.items()}
            for i, method in enumerate(chunk):
                rows[method.name] = {name: column[i] for name, column in columns.items()}
                store.put(pair.name, method.name, keys[method.name], rows[method.name])
        return rows

    def key(self, pair: PairFiles, method: Method) -> str:
        """Changes when a value may have changed."""
        parts = [
            __version__,
            self.convention.name,
            *self.metrics,
            *map(str, self.reading.values()),
            file_identity(pair.visible),
            file_identity(pair.infrared),
            method.identity(pair.name),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def sum_up(self, rows: Mapping[str, Mapping[str, Values]], failures: Mapping[str, str]) -> Evaluation:
        if not rows:
            image, reason = min(failures.items())
            raise UserError(f"not one of {len(failures)} images could be scored; {image}: {reason}")
        images = tuple(pair.name for pair in self.pairs if pair.name in rows)
        names = tuple(method.name for method in self.methods)
        values = [[[rows[i][m][k] for k in self.metrics] for m in names] for i in images]
        scores = Scores(images, names, tuple(self.metrics), np.array(values, np.float64))
        higher = {name: metric.higher_is_better for name, metric in self.metrics.items()}
        baselines = [method.name for method in self.methods if method.baseline]
        return Evaluation(
            scores=scores,
            summary=summarise(scores, higher_is_better=higher, baselines=baselines, reference=self.reference),
            convention=self.convention,
            higher_is_better=higher,
            units={name: metric.unit for name, metric in self.metrics.items()},
            failures=dict(sorted(failures.items())),
            notes=tuple(self.notes),
            data=self.data,
            command=self.command,
            date=date.today().isoformat(),
            sources=self.kind.roles,
        )

    def picture(self, image: str, method: str) -> Array:
        """An image to look at, uint8 (H,W[,3]): a method's, or a source's ("visible", "infrared")."""
        pair = next(pair for pair in self.pairs if pair.name == image)
        visible, infrared = read_pair(pair, **self.reading)
        sources: dict[str, Picture] = dict(zip(self.kind.roles, (visible, infrared), strict=True))
        if method in sources:
            return to_array(sources[method].y, sources[method].chroma)
        chosen = next(each for each in self.methods if each.name == method)
        return chosen.picture(pair, visible, infrared)


def evaluate(
    methods: Mapping[str, "str | Path | nn.Module"],
    visible: str | Path,
    infrared: str | Path,
    *,
    out: str | Path | None = None,
    convention: str = "tectum",
    metrics: Sequence[str] | None = None,
    baselines: Sequence[str] = BASELINES,
    reference: str | None = None,
    names: Sequence[str] | None = None,
    visible_range: str = "auto",
    infrared_range: str = "auto",
    both_colour: bool = False,
    workers: int | None = None,
    kind: str = "infrared",
) -> Evaluation:
    """Score fused images, or systems, against their sources; the same numbers as `tectum eval`.

    Args:
        methods: {name: what}: a `Path` is a folder of fused images, a `str` a system (`"tdfusion"`,
            `"tdfusion@my.safetensors"`, `"my.module:Fuser"`), a `torch.nn.Module` a fuser.
        visible, infrared: folders or patterns of the sources; images are matched by name without the extension.
        out: a folder that keeps the scores, so that the same call goes on where it was cut short; a module is scored
            anew each time, as nothing tells whether it changed.
        convention: "tectum", "tdfusion", "cddfuse" or "adasffuse": whose tables the numbers can stand in.
        metrics: names of `tectum.metrics.METRICS` in place of the convention's; ("all",) takes every one.
        baselines: rows to show beside the methods; () leaves them out.
        reference: the method that the others are compared with; the first one without it.
        names: only these pairs.
        visible_range, infrared_range: which raw values became black and white, for sources that are not 8-bit.
        both_colour: the second source may be in colour too (two exposures, two foci).
        workers: how many pairs at a time; None takes one for each core.
        kind: of the pairs: "infrared", "exposure", "focus" or "medical"; `visible` and `infrared` are its a and b.

    Raises:
        ValueError, KeyError, FileNotFoundError: one sentence on what is wrong.

    >>> from tectum.data.synthetic import demo_folder
    >>> scenes = demo_folder()
    >>> vi, ir = scenes / "vi", scenes / "ir"
    >>> found = evaluate({"dark": "average"}, vi, ir, metrics=("EN", "MSE"), baselines=("maximum",))
    >>> found.scores.methods, found.summary.beaten_by["EN"]
    (('dark', 'maximum'), ('maximum',))
    """
    evaluator = Evaluator(
        methods,
        visible,
        infrared,
        out=None if out is None else Path(out),
        convention=convention,
        metrics=metrics,
        baselines=baselines,
        reference=reference,
        names=names,
        visible_range=visible_range,
        infrared_range=infrared_range,
        both_colour=both_colour,
        kind=kind,
    )
    return evaluator.run(workers=workers, quiet=True)


def chosen(pairs: Mapping[str, PairFiles], names: Sequence[str] | None, failures: Mapping[str, str]) -> list[PairFiles]:
    """The pairs of a list, or all; those that failed already are passed over."""
    if names is None:
        return list(pairs.values())
    if not names:
        raise UserError("the list of pairs is empty; name some, or leave it out to take all")
    lost = [name for name in names if name not in pairs and name not in failures]
    if lost:
        raise FileNotFoundError(
            f"the sources must hold every pair of the list, but lack {abbreviate(lost)}; check the list"
        )
    return [pairs[name] for name in dict.fromkeys(names) if name in pairs]


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread_each(workers: int) -> Iterator[Callable[[], None]]:
    """What a worker does first: with several at a time torch uses one thread in each; put back at the end."""
    before = torch.get_num_threads()

    def begin() -> None:
        if workers > 1:
            torch.set_num_threads(1)

    try:
        yield begin
    finally:
        torch.set_num_threads(before)
