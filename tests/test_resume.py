"""A run keeps its word: other data, options, files or another process are noticed, and what may change may change."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from small_training import PX, SHORT, Generator, Segmenter, Small, Stopped, labelled_pairs, read_log, stop_after
from tectum.cli import main
from tectum.console import sentence
from tectum.data.synthetic import render, save
from tectum.io import files
from tectum.io.files import append_text, fingerprint, lock_folder, write_tensors
from tectum.models.tdfusion import PublishedTDFusionLoss, TDFusionLoss
from tectum.pair import Pair
from tectum.protocols import System
from tectum.training import checkpoint, loop
from tectum.training.checkpoint import FILES
from tectum.training.distributed import World
from tectum.training.loop import fit
from tectum.training.recipes import Recipe

Images = Callable[..., tuple[Tensor, ...]]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def pairs(images: Images) -> list[Pair]:
    return labelled_pairs(images, 8)


@pytest.fixture
def run(pairs: list[Pair], tmp_path: Path) -> Run:
    """Six fit and four meta steps on six pairs; arguments replace what is given to `fit`, or the schedule's values."""

    def train(folder: str | Path = "run", **more: Any) -> Any:
        torch.manual_seed(0)
        given: dict[str, Any] = {
            "fuser": Small(), "objective": TDFusionLoss(Generator()), "task": Segmenter(), "pairs": pairs[:6],
            "validation": pairs[6:],
        }  # fmt: skip
        changes = {name: more.pop(name) for name in list(more) if name in SHORT.__dataclass_fields__}
        return fit(**(given | more), run=tmp_path / folder, schedule=replace(SHORT, **changes))

    return train


@pytest.fixture
def stopped(run: Run) -> Run:
    """The same, already stopped in its second epoch."""
    with pytest.raises(Stopped):
        run(report=stop_after(8))
    return run


def change_state(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    saved = torch.load(path, weights_only=True)
    change(saved["state"])
    torch.save(saved, path)


# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "index"), [("pairs", 3), ("validation", 1)])
@pytest.mark.parametrize("what", ["a", "b", "target"])
def test_one_other_pixel_or_label_is_noticed(
    stopped: Run, pairs: list[Pair], tmp_path: Path, part: str, index: int, what: str
) -> None:
    sets = {"pairs": pairs[:6], "validation": pairs[6:]}
    other = getattr(sets[part][index], what).clone()
    other[..., 5, 7] = 1 - other[..., 5, 7]
    sets[part][index] = replace(sets[part][index], **{what: other})
    before = (tmp_path / "run" / "last.pt").read_bytes()
    (noun, num, name) = ("training", 6, "pair-3") if part == "pairs" else ("validation", 2, "pair-7")
    with pytest.raises(ValueError, match=rf"1 of {num} {noun} pairs have other pixels or labels now \({name}\); put"):
        stopped(**sets)
    assert (tmp_path / "run" / "last.pt").read_bytes() == before
    stopped()


def test_the_hash_of_pairs_is_of_all_they_hold() -> None:
    x = torch.zeros(1, 1, 4, 4)
    boxes = [{"boxes": torch.zeros(2, 4), "labels": torch.tensor([0, 1])}]
    others = [
        (x, None), (x.double(), None), (x.view(1, 1, 2, 8), None), (x, x), (x, boxes), (x, "text"), (x, 1.5),
        (x, [{"boxes": torch.zeros(2, 4), "labels": torch.tensor([1, 0])}]), (x, object()), (x, [["deep"]]),
    ]  # fmt: skip
    assert len({fingerprint(*other) for other in others}) == len(others)
    assert fingerprint(x, object()) == fingerprint(x.clone(), object())


def test_pairs_that_are_drawn_anew_each_time_go_on(run: Run, pairs: list[Pair]) -> None:
    """Such a set has no pixels to compare."""

    class Drawn(list[Pair]):
        def __getitem__(self, index: Any) -> Any:
            pair = super().__getitem__(index)
            return replace(pair, a=torch.rand_like(pair.a))

    with pytest.raises(Stopped):
        run(pairs=Drawn(pairs[:6]), report=stop_after(8))
    run(pairs=Drawn(pairs[:6]))


# ---- files, by the command line --------------------------------------------------------------------------------------


SYSTEM = System(Small, TDFusionLoss, lambda **options: TDFusionLoss(Generator(), **options))


def own() -> Recipe:
    return Recipe("own", "test_resume:SYSTEM", "folder").change(
        steps=4, batch=2, crop_px=16, validate_every=2, warmup=0, lr=1e-2
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed in range(7):
        save(render(seed, (32, 40)), tmp_path / "data", f"scene-{seed}")
    return tmp_path / "data"


def train(data: Path, run: Path, *more: str) -> int:
    return main(["train", "test_resume:own", "--data", str(data), "-o", str(run), "--quiet", *more])


@pytest.fixture
def begun(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run by the command, stopped after its first epoch."""

    def stop(self: Any, line: dict[str, Any]) -> None:
        if line["step"] == 3:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("tectum.training.command._Report.__call__", stop)
        train(data, tmp_path / "run")
    return tmp_path / "run"


def test_content_decides_and_not_where_it_lies(data: Path, begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another file under the same name is refused; a copy of the folder, with other dates and another name, is not."""
    image, other = (data / "ir" / f"scene-{i}.png" for i in (3, 4))
    right = image.read_bytes()
    stat = image.stat()
    image.write_bytes(other.read_bytes())
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert train(data, begun) == 2
    assert "1 of 5 training pairs have other pixels or labels now (scene-3)" in capsys.readouterr().err
    image.write_bytes(right)
    shutil.copytree(data, data.parent / "elsewhere" / "pairs", copy_function=shutil.copyfile)
    shutil.rmtree(data)
    begun.rename(begun.parent / "moved")
    assert train(data.parent / "elsewhere" / "pairs", begun.parent / "moved") == 0
    assert capsys.readouterr().err == ""


def test_a_run_of_an_earlier_version_goes_on(data: Path, begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its checkpoint has no hashes and no log, and its log may have half a line; one sentence each."""
    straight = begun.parent / "straight"
    train(data, straight)
    log = begun / "log.jsonl"
    new = ("data", "log", "saved", "machine", "options", "precision")
    change_state(begun / "last.pt", lambda state: [state.pop(name) for name in new])
    log.write_text(log.read_text() + '{"step": 4, "met')
    capsys.readouterr()
    assert train(data, begun) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "is of an earlier version, which kept no hashes of the data" in told[0]
    assert "1 damaged lines of" in told[1]
    assert [line["valid_loss"] for line in read_log(begun)] == [line["valid_loss"] for line in read_log(straight)]
    assert (begun / "best.safetensors").read_bytes() == (straight / "best.safetensors").read_bytes()


def test_a_folder_belongs_to_one_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second one writes nothing, not even its recipe."""
    with lock_folder(tmp_path / "run") as locked:
        assert locked
        assert train(data, tmp_path / "run", "--lr", "0.5") == 2
    assert "another process trains in" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    assert train(data, tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["schedule"]["lr"] == 1e-2


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder in which this process may not write, root included."""
    user = os.geteuid()
    folder.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users")
def test_a_run_that_may_only_be_read(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished one prints its result; one that is not finished is refused before the first step."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        shutil.copytree(data, home / "data")
        assert train(home / "data", home / "run") == 0
        assert train(home / "data", home / "run") == 0  # whoever may not read Python's own files has its modules now
        first, result = capsys.readouterr().out.splitlines(keepends=True)
        assert first == result
        files = {path: path.read_bytes() for path in (home / "run").iterdir() if path.is_file()}
        with read_only(home / "run"):
            assert train(home / "data", home / "run") == 0
        assert capsys.readouterr().out == result
        assert {path: path.read_bytes() for path in (home / "run").iterdir() if path.is_file()} == files
        change_state(home / "run" / "last.pt", lambda state: state.update(step=2, ended=2))
        with read_only(home / "run"):
            assert train(home / "data", home / "run") == 2
        assert "must be writable, its run is not finished (Permission denied)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["last.pt", "best.safetensors", "log.jsonl"])
def test_a_full_disk_is_one_sentence_with_the_file(
    data: Path, begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The system has no room for this file; what was there before stays, and the run goes on later."""
    before = (begun / name).read_bytes()
    write_whole = files.write_whole

    def full(path: Path, write: Callable[[Path], object]) -> None:
        def fail(temporary: Path) -> None:
            write(temporary)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        write_whole(path, fail if path.name == name else write)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_whole", full)
        patch.setattr(checkpoint, "write_whole", full)
        assert train(data, begun) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "None" not in error and str(begun / name) in error
    assert "No space left on device" in error and "the same command then goes on" in error
    assert (begun / name).read_bytes() == before
    assert train(data, begun) == 0
    assert [line["step"] for line in read_log(begun)] == [2, 4]


# ---- options ---------------------------------------------------------------------------------------------------------


class Plain(Segmenter):
    pass


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": TDFusionLoss(Generator(), alpha=0.5)}, r"another objective \(alpha 1.0 there, 0.5 here\)"),
        (
            {"objective": PublishedTDFusionLoss(Generator())},
            r"another objective \(class TDFusionLoss there, PublishedTDFusionLoss here",
        ),
        ({"task": Segmenter(dropout=0.5)}, r"another task \(dropout 0.2 there, 0.5 here\)"),
        ({"task": Plain()}, r"another task \(class Segmenter there, Plain here\)"),
        ({"ema": 0.9}, "another ema"),
    ],
)
def test_networks_with_other_options_are_refused(
    stopped: Run, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    before = (tmp_path / "run" / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=f"holds a run with {sentence}.*; repeat its settings, or choose a new folder"):
        stopped(**changes)
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_another_precision_is_refused(stopped: Run) -> None:
    world = World()
    world.precision = "bf16-mixed"
    with pytest.raises(ValueError, match="holds a run in precision 32-true, got bf16-mixed; repeat"):
        stopped(world=world)


def test_another_machine_is_told(stopped: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_state(tmp_path / "run" / "last.pt", lambda state: state["machine"].update(torch="2.6.0", threads=64))
    stopped()
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "threads: 64 there" in told and "torch: 2.6.0 there" in told


# ---- files of the run ------------------------------------------------------------------------------------------------


def test_no_flipped_bit_of_a_checkpoint_gets_through(stopped: Run, tmp_path: Path) -> None:
    """It is refused, or its bit was in none of the archive's contents: then the run ends as it would have."""
    path = tmp_path / "run" / "last.pt"
    whole = path.read_bytes()
    generator, num_refused = torch.Generator().manual_seed(0), 0
    for bit in torch.randint(8 * len(whole), (60,), generator=generator).tolist():
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            saved = checkpoint.read_checkpoint(path)
        except ValueError as error:
            assert "is damaged" in str(error) and "delete it to start the run again" in str(error)
            num_refused += 1
        else:
            path.write_bytes(whole)
            right = checkpoint.read_checkpoint(path)
            assert fingerprint(saved) == fingerprint(right) and str(saved) == str(right)
    assert num_refused > 20
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is damaged"):
            stopped()
    path.write_bytes(whole)
    stopped()


@pytest.mark.parametrize("damage", ["flipped", "short", "gone"])
def test_other_best_weights_are_noticed(
    run: Run, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the run goes on the best are chosen anew, and that is told; a finished one has lost them."""

    def spoil(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-3] ^= 16
        path.unlink()
        if damage != "gone":
            path.write_bytes(content if damage == "flipped" else content[:-50])

    with pytest.raises(Stopped):
        run(report=stop_after(8))
    (tmp_path / "run" / "samples" / ".tectum-0.tmp").write_text("of a process that was killed")
    spoil(tmp_path / "run" / FILES["task"])
    best = run()
    assert "task.safetensors is not of the last checkpoint; the best weights are chosen anew" in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob(".tectum-*"))
    assert best["step"] == 6 and all(load_file(tmp_path / "run" / name) for name in FILES.values())
    spoil(tmp_path / "run" / FILES["fuser"])
    with pytest.raises(ValueError, match=r"best.safetensors is not the file that the run has saved \(SHA-256"):
        run()


def test_a_log_of_another_run_is_not_taken_over(run: Run, tmp_path: Path) -> None:
    """Killed before its first checkpoint, a run leaves a log; the next one with other settings begins its own."""
    run(steps=4, validate_every=2)
    (tmp_path / "run" / "last.pt").unlink()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 2}\n\0\0\0')
    run()
    assert [line["step"] for line in read_log(tmp_path / "run")] == [3, 6]


# ---- numbers that are not finite, and memory that is shared ----------------------------------------------------------


def test_a_task_that_breaks_in_its_first_step_is_a_sentence(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss of the task must stay finite, but is nan at step 0 on .*--task-lr"):
        run(task=Segmenter(scale=float("nan")), task_first=2)
    saved = load_file(tmp_path / "run" / "not-finite.safetensors")
    assert torch.equal(saved["a"], saved["b"]) and saved["a"].shape[2:] == (PX, PX)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_line_that_finds_no_room_names_its_file() -> None:
    with pytest.raises(OSError, match="No space left") as error:
        append_text(Path("/dev/full"), "line")
    assert "cannot read or write /dev/full: No space left on device" in sentence(error.value)
    assert sentence(OSError(errno.ENOSPC, "No space left on device")).startswith("cannot read or write: No space left")


def test_networks_with_tied_weights_are_saved(run: Run, tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(1, 1, 3, padding=1)
            self.two = self.one

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (self.one(a) + self.two(b)).sigmoid()

    run(fuser=Tied())
    saved = load_file(tmp_path / "run" / "best.safetensors")
    assert torch.equal(saved["one.weight"], saved["two.weight"])


def test_tensors_that_share_memory_are_written_alike(tmp_path: Path) -> None:
    x = torch.arange(12.0).reshape(3, 4)
    tensors = {"x": x, "again": x, "row": x[1], "column": x[:, 1], "none": torch.zeros(0), "none too": torch.zeros(0)}
    write_tensors(tmp_path / "x.safetensors", tensors)
    torch.testing.assert_close(load_file(tmp_path / "x.safetensors"), tensors, rtol=0, atol=0)


def test_a_stop_between_the_best_weights_and_the_checkpoint_costs_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise Stopped

    run("straight")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop.Checkpoint, "save", die)
        run()
    run()
    for name in FILES.values():
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
