"""Score fused images against their sources: any number of methods on the same pairs, in parallel, resumable.

    for every pair:    a, b <- read              fused_1 .. fused_M <- each method's image of it
                       values (M, metrics) <- metrics(fused_1 .. fused_M, a, b)        one line in OUT/scores.jsonl
    at the end:        the images that every method has -> means, intervals, differences, ranks (`statistics`)

What depends on the sources alone is computed once for all methods of a pair. A line is kept under a key of what went
into it (the three files, the weights, the convention). So a run that was cut short continues where it stopped, a new
method costs its own images only, and an image that changed is scored again.
"""

import hashlib
import os
import re
import sys
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
    CachedMethod,
    FolderMethod,
    Method,
    baselines_of,
    file_identity,
    make_baseline,
    make_system,
)
from tectum.evaluation.options import BASELINES, EvaluationOptions
from tectum.evaluation.score_file import ScoreFile, Values
from tectum.evaluation.sources import read_names, read_pair, select_pairs
from tectum.evaluation.statistics import Scores, Summary, summarise
from tectum.evaluation.valid_region import find_valid_region
from tectum.io.folders import Matches, PairFiles, match
from tectum.io.image import Array, parse_nodata, parse_range, to_array
from tectum.kinds import KINDS
from tectum.metrics.conventions import CONVENTIONS, Convention, with_metrics
from tectum.options import takes_options
from tectum.protocols import resolve

_LEFT_OUT = "left out"  # beside the metrics of an image: the part of it without data
_CHUNK_PX = 4_000_000
"""Pixels of fused images that are scored at once; more methods of large images take turns."""

_MethodSpec = str | Path | nn.Module
"""A folder of fused images, a system by name, or a fuser."""


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
        warnings: sentences a reader of the table must know (a method lacks images, for example).
        data: what was scored, in words.
        command: repeats it.
        date: of the evaluation, 2026-11-20.
        sources: names of the two images of a pair, in rows and pictures.
    """

    scores: Scores
    summary: Summary
    convention: Convention
    higher_is_better: Mapping[str, bool]
    units: Mapping[str, str]
    failures: Mapping[str, str]
    warnings: tuple[str, ...]
    data: str
    command: str
    date: str
    sources: tuple[str, str] = ("visible", "infrared")


class Evaluator:
    """An evaluation that is ready to run; whatever is wrong with the request is refused here.

    Args:
        methods: {name: method}: a folder (or pattern) of fused images as a `Path`, or as a `str` if it exists; a system
            as a `str`, `NAME[@WEIGHTS]` or `package.module:Class[@WEIGHTS]`; or a fuser as a module.
        visible, infrared: folders or patterns of the sources, a and b of the kind, matched by name.
        out: a folder that keeps the scores and the images made here; None keeps nothing.
        pairs: what belongs together, where folders and names alone do not say it.
        data, command: words for the report.
        options: fields of `EvaluationOptions`.

    Attributes:
        options: as `EvaluationOptions`.
        kind: of the pairs.
        methods: rows of the table.
        pairs: those that every method has an image of.

    Raises:
        UserError, FileNotFoundError: one sentence on what is wrong.
    """

    def __init__(
        self,
        methods: Mapping[str, _MethodSpec],
        visible: str | Path,
        infrared: str | Path,
        *,
        out: str | Path | None = None,
        pairs: Matches | None = None,
        data: str = "",
        command: str = "",
        **options: Any,
    ) -> None:
        self.options = EvaluationOptions(**options)
        self.kind = KINDS[self.options.kind or "infrared"]
        parse_range(self.options.visible_range), parse_range(self.options.infrared_range)
        self._reading: dict[str, Any] = {
            "visible_range": self.options.visible_range,
            "infrared_range": self.options.infrared_range,
            "both_colour": self.options.both_colour or self.kind.mixes,
        } | ({} if self.kind.name == "infrared" else {"kind": self.kind.name})
        if self.options.nodata is not None:  # not otherwise, so that scores of older versions are found
            parse_nodata(self.options.nodata, guess=False)
            self._reading["nodata"] = self.options.nodata
        names = read_names(self.options.names) if isinstance(self.options.names, str) else self.options.names
        metrics = None if self.options.metrics is None else _split_list(self.options.metrics)
        convention = resolve(CONVENTIONS, self.options.convention, noun="convention")
        self._convention = with_metrics(convention, metrics)
        self._metrics = {name: make() for name, make in self._convention.metrics.items()}
        self._out = None if out is None else Path(out)
        self._data, self._command = data or f"{visible} and {infrared}", command
        matches = match(str(visible), str(infrared), roles=self.kind.roles) if pairs is None else pairs
        self._failures: dict[str, str] = dict(matches.ambiguous)
        self._warnings = [
            f"{len(alone)} {role} images have no partner and are left out: {abbreviate(alone)}"
            for role, alone in matches.unmatched.items()
            if alone and names is None
        ]
        self._warnings += [matches.unread_warning()] if matches.unread else []
        selected = select_pairs({pair.name: pair for pair in matches.pairs}, names, self._failures)
        self.methods = self._make_methods(methods)
        self.pairs = self._common_pairs(selected)
        folders = {folder.resolve() for folder in matches.folders.values()}
        if self._out is not None and self._out.resolve() in folders:
            raise UserError(f"results must not go among their sources, got {out}; choose another folder")

    def _make_methods(self, specs: Mapping[str, _MethodSpec]) -> list[Method]:
        if not isinstance(specs, Mapping):
            raise UserError(f"methods must be a dict of names, such as {{'mean': 'average'}}, got {specs!r}; name each")
        methods: list[Method] = []
        for name, spec in specs.items():
            if name in self.kind.roles:
                raise UserError(f"'{name}' is the name of a source; call the method something else: other={spec}")
            if not name or re.search(r"[/\\\0]", name) or name.startswith("."):
                raise UserError(f"a method's name must do for a folder, without slashes, got {name!r}; change it")
            if isinstance(spec, Path) or (isinstance(spec, str) and Path(spec).is_dir()):
                methods.append(FolderMethod(name, spec))
                continue
            made = make_system(
                name,
                spec,
                convention=self._convention,
                reading=self._reading,
                variant=self.options.variant,
                device=self.options.device,
            )
            if self._out is None or isinstance(spec, nn.Module):  # nothing tells whether a module has changed
                methods.append(made)
            else:
                folder = hashlib.sha256(made.identity(name).encode()).hexdigest()[:12]
                methods.append(CachedMethod(made, self._out / "fused" / name / folder))
        known = baselines_of(self.kind)
        baselines = known if self.options.baselines is None else _split_list(self.options.baselines)
        for name in baselines:
            name = dict(zip(BASELINES, known, strict=True)).get(name, name)
            if name not in known:
                raise UserError(unknown(name, known, noun="baseline"))
            if name in specs:
                self._warnings.append(f"{name} is the method of that name, {specs[name]}, not the baseline")
            else:
                methods.append(make_baseline(name, self.kind))
        if not methods:
            raise UserError("there is nothing to score; give --fused NAME=FOLDER or --system NAME")
        reference = self.options.reference
        if reference is not None and reference not in [method.name for method in methods]:
            raise UserError(unknown(reference, [method.name for method in methods], noun="method"))
        return methods

    def _common_pairs(self, pairs: Sequence[PairFiles]) -> list[PairFiles]:
        """The pairs that every method has an image of, with a warning of what is missing."""
        if not pairs:
            image, reason = next(iter(self._failures.items()))
            raise UserError(f"not one of {len(self._failures)} pairs can be told apart; {image}: {reason}")
        for method in self.methods:
            missing = [pair.name for pair in pairs if not method.has(pair.name)]
            if len(missing) == len(pairs):
                where = f" in {method.path} ({abbreviate(method.files)})" if isinstance(method, FolderMethod) else ""
                raise FileNotFoundError(
                    f"fused images are matched with their sources by name, but {method.name} has none{where} for "
                    f"{abbreviate(missing)}; rename them, or give another folder"
                )
            if missing:
                self._warnings.append(
                    f"{method.name} lacks {len(missing)} of {len(pairs)} images: {abbreviate(missing)}"
                )
        common = [pair for pair in pairs if all(method.has(pair.name) for method in self.methods)]
        if not common:
            raise FileNotFoundError(
                f"no pair has an image of every method ({'; '.join(self._warnings)}); complete them"
            )
        if len(common) < len(pairs):
            self._warnings.append(f"all methods are compared on the {len(common)} images that they have in common")
        return common

    def run(self, *, overwrite: bool = False, quiet: bool = False) -> Evaluation:
        """Score what is not scored yet and sum up.

        Args:
            overwrite: fuse and score everything anew.
            quiet: no progress bar (there is none either where stderr is not a terminal).

        Raises:
            UserError: not one image could be scored.
            OSError: the scores cannot be written.
            KeyboardInterrupt: after the scores known by then are written.
        """
        if self._out is not None:
            self._out.mkdir(parents=True, exist_ok=True)
        score_file = ScoreFile(None if self._out is None else self._out / "scores.jsonl")
        if overwrite:
            score_file.clear()
            for method in self.methods:
                if isinstance(method, CachedMethod):
                    method.clear()
        failures = dict(self._failures)
        rows: dict[str, dict[str, Values]] = {}
        workers = max(1, min(self.options.workers or _num_cores(), len(self.pairs)))
        bar = progress_bar(len(self.pairs), "image", quiet=quiet)
        with bar, _one_thread_each(workers) as start, ThreadPoolExecutor(workers, "tectum-score", start) as pool:
            futures = {pool.submit(self._score, pair, score_file): pair.name for pair in self.pairs}
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
        return self._sum_up(rows, failures)

    def _score(self, pair: PairFiles, score_file: ScoreFile) -> dict[str, Values]:
        """The values of every method on one pair."""
        keys = {method.name: self._key(pair, method) for method in self.methods}
        stored = {name: score_file.get(pair.name, name, key) for name, key in keys.items()}
        rows = {name: values for name, values in stored.items() if values is not None}
        remaining = [method for method in self.methods if method.name not in rows]
        if not remaining:
            return rows
        first, second = read_pair(pair, **self._reading)
        a, b = to_levels(first.y[None]), to_levels(second.y[None])
        region = find_valid_region(first, second)
        if region is not None:
            a, b = region.crop(a), region.crop(b)
        num = max(1, _CHUNK_PX // a.numel())
        for chunk in (remaining[i : i + num] for i in range(0, len(remaining), num)):
            fused = torch.stack([method.luminance(pair.name, first, second) for method in chunk])
            fused = fused if region is None else region.crop(fused)
            columns = {name: metric(fused, a, b).tolist() for name, metric in self._metrics.items()}
            for i, method in enumerate(chunk):
                rows[method.name] = {name: column[i] for name, column in columns.items()}
                if region is not None:
                    rows[method.name][_LEFT_OUT] = region.left_out
                score_file.put(pair.name, method.name, keys[method.name], rows[method.name])
        return rows

    def _key(self, pair: PairFiles, method: Method) -> str:
        """A text that changes when a value may have changed."""
        parts = [
            __version__,
            self._convention.name,
            *self._metrics,
            *map(str, self._reading.values()),
            file_identity(pair.visible),
            file_identity(pair.infrared),
            method.identity(pair.name),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def _sum_up(self, rows: Mapping[str, Mapping[str, Values]], failures: Mapping[str, str]) -> Evaluation:
        if not rows:
            image, reason = min(failures.items())
            raise UserError(f"not one of {len(failures)} images could be scored; {image}: {reason}")
        images = tuple(pair.name for pair in self.pairs if pair.name in rows)
        names = tuple(method.name for method in self.methods)
        values = [[[rows[i][m][k] for k in self._metrics] for m in names] for i in images]
        scores = Scores(images, names, tuple(self._metrics), np.array(values, np.float64))
        left_out = {i: row[_LEFT_OUT] for i in images for row in rows[i].values() if _LEFT_OUT in row}
        if left_out:
            self._warnings.append(
                f"{len(left_out)} images have pixels without data; metrics leave out "
                f"{np.mean(list(left_out.values())):.1%} of them on average: {abbreviate(left_out)}"
            )
        higher = {name: metric.higher_is_better for name, metric in self._metrics.items()}
        baselines = [method.name for method in self.methods if method.is_baseline]
        return Evaluation(
            scores=scores,
            summary=summarise(scores, higher_is_better=higher, baselines=baselines, reference=self.options.reference),
            convention=self._convention,
            higher_is_better=higher,
            units={name: metric.unit for name, metric in self._metrics.items()},
            failures=dict(sorted(failures.items())),
            warnings=tuple(self._warnings),
            data=self._data,
            command=self._command,
            date=date.today().isoformat(),
            sources=self.kind.roles,
        )

    def picture(self, image: str, row: str) -> Array:
        """Returns an image to look at, uint8 (H,W) or (H,W,3): a method's, or a source's ("visible", "infrared")."""
        pair = next(pair for pair in self.pairs if pair.name == image)
        sources = dict(zip(self.kind.roles, read_pair(pair, **self._reading), strict=True))
        if row in sources:
            return to_array(sources[row].y, sources[row].chroma)
        method = next(method for method in self.methods if method.name == row)
        return method.picture(image, *sources.values())


@takes_options(EvaluationOptions)
def evaluate(
    methods: Mapping[str, _MethodSpec],
    visible: str | Path,
    infrared: str | Path,
    *,
    out: str | Path | None = None,
    **options: Any,
) -> Evaluation:
    """Score fused images, or systems, against their sources; the same numbers as `tectum eval`.

    Args:
        methods: {name: method}: a folder of fused images (`"results/ours"` or a `Path`), a system (`"tdfusion"`,
            `"tdfusion@my.safetensors"`, `"my.module:Fuser"`), or a `torch.nn.Module` that fuses.
        visible, infrared: folders or patterns of the sources; images are matched by name without the extension.
        out: a folder that keeps the scores, so that the same call continues where it was cut short; a module is scored
            anew each time, as nothing tells whether it changed.
        options: see `tectum.evaluation.options.EvaluationOptions`.

    Returns:
        The scores, and means with intervals, paired differences and ranks.

    Raises:
        UserError, FileNotFoundError: one sentence on what is wrong.

    >>> from tectum.data.synthetic import demo_folder
    >>> scenes = demo_folder()
    >>> vi, ir = scenes / "vi", scenes / "ir"
    >>> evaluation = evaluate({"dark": "average"}, vi, ir, metrics=("EN", "MSE"), baselines=("maximum",))
    >>> evaluation.scores.methods, evaluation.summary.beaten_by["EN"]
    (('dark', 'maximum'), ('maximum',))
    """
    return Evaluator(methods, visible, infrared, out=out, **options).run(quiet=True)


def _split_list(value: str | Sequence[str]) -> tuple[str, ...]:
    """The names of a text "A,B,C" or of a sequence."""
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else tuple(value)


def _num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _one_thread_each(workers: int) -> Iterator[Callable[[], None]]:
    """Gives the function that starts a worker: with several, torch uses one thread in each. Put back at the end."""
    before = torch.get_num_threads()

    def start() -> None:
        if workers > 1:
            torch.set_num_threads(1)

    try:
        yield start
    finally:
        torch.set_num_threads(before)
