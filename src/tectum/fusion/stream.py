"""Fusion of a folder of pairs: one thread reads ahead, one fuses, one writes behind.

    reader thread    read 1 | read 2 | read 3 | ...
    main thread             | fuse 1 | fuse 2 | ...
    writer thread                    | write 1 | ...

At most `ahead` pairs wait on either side, so memory stays bounded however long the folder is. Whatever ends a run
(Ctrl-C, a full disk), what was fused until then is written whole, and the same call goes on from there.
"""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tectum.console import progress_bar
from tectum.errors import UserError
from tectum.fusion.pipeline import Fused, FusePipeline
from tectum.io.folders import Matches, PairFiles, ResultFolder
from tectum.io.image import Array, Picture, write_image

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")


def overlap(
    items: Iterable[T],
    read: Callable[[T], U],
    work: Callable[[U], V],
    write: Callable[[T, V], None],
    *,
    done: Callable[[T, Exception | None], None],
    ahead: int = 2,
) -> None:
    """Run `write(item, work(read(item)))` for every item, in order, with the three steps of neighbours overlapping.

    `read` runs in one thread, `write` in another, `work` in the caller's. `done(item, error)` is called in the caller's
    thread once an item is written, or when it failed with a ValueError, or an OSError before writing (the stream goes
    on). Any other exception, an OSError from `write` (a full disk) or Ctrl-C ends the stream: what was already worked
    on is still written and reported, then the exception goes on to the caller.

    >>> overlap([1, 2], read=lambda i: 10 * i, work=lambda x: x + 1, write=print, done=lambda item, error: None)
    1 11
    2 21
    """
    waiting = iter(items)
    reading: deque[tuple[T, Future[U]]] = deque()
    writing: deque[tuple[T, Future[None]]] = deque()

    def settle() -> None:
        item, written = writing[0]
        error = written.exception()
        if error is not None and not isinstance(error, ValueError):
            raise error
        writing.popleft()
        done(item, error)

    with ThreadPoolExecutor(1, "tectum-read") as reader, ThreadPoolExecutor(1, "tectum-write") as writer:
        try:
            while True:
                while len(reading) < ahead and (item := next(waiting, None)) is not None:
                    reading.append((item, reader.submit(read, item)))
                if not reading:
                    break
                reading[0][1].exception()  # waits; the pair stays in `reading` if Ctrl-C comes meanwhile
                item, loaded = reading.popleft()
                try:
                    result = work(loaded.result())
                except (ValueError, OSError) as error:
                    done(item, error)
                    continue
                writing.append((item, writer.submit(write, item, result)))
                while writing and (len(writing) > ahead or writing[0][1].done()):
                    settle()
            while writing:
                settle()
        finally:
            with _ignore_ctrl_c():
                reader.shutdown(wait=True, cancel_futures=True)
                writer.shutdown(wait=True)
            for item, written in writing:
                if written.exception() is None:
                    done(item, None)


@contextmanager
def _ignore_ctrl_c() -> Iterator[None]:
    """Ignore SIGINT while threads finish: an interrupted `Thread.join` takes a running thread for finished, and Python
    aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


@dataclass
class Outcome:
    """Outcome of a folder run: what was done, what failed, what was not fused any more.

    Attributes:
        num_pairs: pairs that were asked for, finished ones included.
        num_skipped: finished before this run.
        done: names written by this run, in order.
        failures: {name: why it was not fused}.
        warnings: {what looks wrong: names}.
        seconds: time of the run.
        interrupted: it was ended by Ctrl-C.
        write_error: why no result could be written any more, or None.
    """

    num_pairs: int
    num_skipped: int = 0
    done: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False
    write_error: str | None = None

    @property
    def num_finished(self) -> int:
        """Number of results that exist now, of this run and of earlier ones."""
        return self.num_skipped + len(self.done)


def fuse_folder(
    pipeline: FusePipeline,
    matches: Matches,
    results: ResultFolder,
    *,
    bits: int = 8,
    draw: Callable[[Fused], Array] | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    sort: bool = False,
) -> Outcome:
    """Fuse all pairs of `matches` into `results`, passing over those that are finished.

    Args:
        pipeline: how to fuse.
        matches: what to fuse.
        results: where to.
        bits: 8 or 16 a channel.
        draw: draws the report picture, when `results.report`.
        overwrite: make finished results again.
        quiet: no progress bar (there is none either where stderr is not a terminal).
        sort: the images of a scene come in any order, of two exposures too.

    Raises:
        ValueError, OSError: before anything is fused: other settings in the folder, or it cannot be written. Later
            problems are in the outcome.
    """
    names = [pair.name for pair in matches.pairs]
    sources = {file.parent.resolve() for pair in matches.pairs for file in pair.files}
    if sources & {results.path.resolve(), *(file.parent.resolve() for file in results.files("any").values())}:
        raise UserError(f"results must not go among their sources, got {results.path}; choose another folder with -o")
    settings = pipeline.settings() | {
        "output": "both" if len(results.outputs) > 1 else results.outputs[0],
        "bits": bits,
    }
    settings |= {role: os.path.relpath(folder, results.path) for role, folder in matches.folders.items()}
    finished = results.prepare(settings, names, overwrite=overwrite)
    outcome = Outcome(len(names) + len(matches.ambiguous), len(finished), failures=dict(matches.ambiguous))
    bar = progress_bar(len(names), "image", quiet=quiet, initial=len(finished))

    def read(pair: PairFiles) -> tuple[PairFiles, tuple[Picture, ...]]:
        return pair, pipeline.read(*pair.files)

    def work(loaded: tuple[PairFiles, tuple[Picture, ...]]) -> Fused:
        pair, pictures = loaded
        if sort and pipeline.kind.order == "brightness":
            pictures = tuple(sorted(pictures, key=lambda picture: -picture.brightness))
        fused = pipeline(*pictures)
        for warning in fused.warnings:
            outcome.warnings.setdefault(warning, []).append(pair.name)
        return fused

    def write(pair: PairFiles, fused: Fused) -> None:
        for output, path in results.files(pair.name).items():
            if output == "report" and draw:
                write_image(path, draw(fused))
            else:
                write_image(path, fused.array(output, bits=bits), metadata=fused.visible.metadata)

    def done(pair: PairFiles, error: Exception | None) -> None:
        if error is None:
            outcome.done.append(pair.name)
        else:
            outcome.failures[pair.name] = str(error)
        bar.update()

    start = time.perf_counter()
    unfinished = [pair for pair in matches.pairs if pair.name not in finished]
    try:
        overlap(unfinished, read, work, write, done=done)
    except KeyboardInterrupt:
        outcome.interrupted = True
    except OSError as error:
        outcome.write_error = str(error)
    finally:
        bar.close()
        outcome.seconds = time.perf_counter() - start
    if outcome.num_finished == len(names):
        results.finish(settings)
    return outcome
