"""The trainer's promises: the same bits however often it was stopped, the best weights kept, nothing lost."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from small_training import Stopped, read_log
from tectum.models.tdfusion import TDFusion, TDFusionLoss
from tectum.pair import Pair
from tectum.training import checkpoint
from tectum.training.batches import batch_indices, crop_batch
from tectum.training.distributed import World
from tectum.training.loop import fit
from tectum.training.schedule import Schedule
from tectum.training.trainer import Trainer
from tectum.training.validation import validate

Images = Callable[..., tuple[Tensor, ...]]
Run = Callable[..., dict[str, Any]]
SHORT = Schedule(steps=9, batch=2, crop_px=12, lr=1e-2, warmup=3, validate_every=3)


class Small(nn.Module):
    """A fuser that trains in milliseconds, with a buffer that has to be kept too."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.hidden, self.norm, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out(self.norm(self.hidden(torch.cat([a, b], dim=1))).relu()).sigmoid()


@pytest.fixture
def pairs(images: Images) -> list[Pair]:
    """Five small pairs of different sizes."""
    return [Pair(*images(14 + i, 20 - i, seed=i), name=(f"pair-{i}",)) for i in range(5)]


@pytest.fixture
def run(pairs: list[Pair], tmp_path: Path) -> Run:
    """Train `Small` on three pairs and validate on two; keyword arguments replace what is given to `fit`."""

    def train(folder: str = "run", *, fuser: nn.Module | None = None, schedule: Schedule = SHORT, **more: Any) -> Any:
        given = {"fuser": fuser or Small(), "objective": TDFusionLoss(), "pairs": pairs[:3], "validation": pairs[3:]}
        return fit(**(given | more), run=tmp_path / folder, schedule=schedule)

    return train


def result(folder: Path) -> dict[str, Any]:
    """All that a run leaves, as bytes and numbers; wall time left out."""
    last = torch.load(folder / "last.pt", weights_only=True)
    return {
        "last": [(name, x.numpy().tobytes()) for name, x in last["fuser"].items()],
        "adam": [
            x.numpy().tobytes() for o in last["optimizers"].values() for s in o["state"].values() for x in s.values()
        ],
        "step": last["state"]["step"],
        "best": (folder / "best.safetensors").read_bytes(),
        "log": [timeless(line) for line in read_log(folder)],
        "samples": {path.name: path.read_bytes() for path in (folder / "samples").iterdir()},
    }


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "seconds"}


def stop_at(step: int) -> Callable[[dict[str, Any]], None]:
    def report(line: dict[str, Any]) -> None:
        if line["step"] == step and "valid_loss" not in line:
            raise Stopped

    return report


# ---- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [[1], [3], [4], [5, 5, 6, 9], [8, 7]])
def test_resumed_equals_uninterrupted(run: Run, tmp_path: Path, stops: list[int]) -> None:
    line = run("straight")

    def fuser() -> nn.Module:
        """The weights a fuser comes with must not matter once there is a checkpoint."""
        return Small(99 if (tmp_path / "stopped" / "last.pt").exists() else 0)

    for step in stops:
        with pytest.raises(Stopped):
            run("stopped", fuser=fuser(), report=stop_at(step))
    assert timeless(run("stopped", fuser=fuser())) == timeless(line)
    assert result(tmp_path / "stopped") == result(tmp_path / "straight")


def test_a_finished_run_is_not_trained_again(run: Run, tmp_path: Path) -> None:
    line = run()
    before = result(tmp_path / "run")
    steps: list[Any] = []
    fuser = Small(7)
    assert run(fuser=fuser, report=steps.append) == line
    assert steps == [] and result(tmp_path / "run") == before
    assert_same(fuser.state_dict(), load_file(tmp_path / "run" / "best.safetensors"))


def assert_same(state: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_the_seed_decides(run: Run, tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("same", 0), ("other", 1)):
        torch.manual_seed(hash(folder) % 1000)  # whatever else the program drew at random
        run(folder, schedule=replace(SHORT, seed=seed))
    assert result(tmp_path / "one") == result(tmp_path / "same")
    assert result(tmp_path / "one")["last"] != result(tmp_path / "other")["last"]


def test_every_epoch_has_each_pair_once_in_a_fresh_order() -> None:
    schedule = replace(SHORT, batch=2)
    taken = [place for step in range(20) for place in batch_indices(5, schedule, step, 2)]
    epochs = [taken[i : i + 5] for i in range(0, 40, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 4


def drawn(pairs: list[Pair], step: int, schedule: Schedule = SHORT) -> Pair:
    """The crops of a fit step."""
    taken = batch_indices(len(pairs), schedule, step, schedule.batch)
    return crop_batch(pairs, taken, schedule, World(), schedule.seed * 1_000_003 + step)


def test_what_a_step_sees_depends_on_its_number_alone(pairs: list[Pair]) -> None:
    late = drawn(pairs, 7)
    for step in range(8):
        batch = drawn(pairs, step)
        assert batch.a.shape == (2, 1, 12, 12)
    assert torch.equal(batch.a, late.a) and torch.equal(batch.b, late.b)
    assert not torch.equal(drawn(pairs, 6).a, late.a)


def test_with_swap_each_crop_comes_also_with_its_images_exchanged(pairs: list[Pair]) -> None:
    plain, both = drawn(pairs, 3), drawn(pairs, 3, replace(SHORT, swap=True))
    assert torch.equal(both.a, torch.cat([plain.a, plain.b])) and torch.equal(both.b, torch.cat([plain.b, plain.a]))
    assert both.name == plain.name * 2


# ---- the best weights ------------------------------------------------------------------------------------------------


class Level(nn.Module):
    """A fuser that paints everything in one grey, from black."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor([0.0]))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.level.expand_as(a)


class ToInfrared(nn.Module):
    def forward(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"far": (fused - b).square().mean(), "twice": 2 * (fused - b).square().mean()}


def grey(level: float) -> Pair:
    return Pair(torch.zeros(1, 1, 12, 12), torch.full((1, 1, 12, 12), float(level)), name=("grey",))


def test_the_lowest_validation_is_kept(run: Run, tmp_path: Path) -> None:
    """Training pulls towards white; the validation is happiest on the way, at 0.4."""
    fuser, lines = Level(), []
    schedule = replace(SHORT, steps=12, validate_every=2, lr=0.1, lr_end=0.1, warmup=0)
    best = run(
        fuser=fuser, objective=ToInfrared(), pairs=[grey(1)], validation=[grey(0.4)], schedule=schedule,
        report=lines.append,
    )  # fmt: skip
    validations = [line for line in lines if "valid_loss" in line]
    assert [line["step"] for line in validations] == [2, 4, 6, 8, 10, 12]
    assert best == min(validations, key=lambda line: float(line["valid_loss"]))
    assert best["step"] not in (2, 12)
    assert abs(float(fuser.level.detach()) - 0.4) < 0.11
    assert_same(fuser.state_dict(), load_file(tmp_path / "run" / "best.safetensors"))
    assert best["valid_loss"] == pytest.approx(3 * (float(fuser.level.detach()) - 0.4) ** 2, rel=1e-5)
    assert read_log(tmp_path / "run") == validations


def alone(fuser: nn.Module, objective: nn.Module) -> Trainer:
    """A fuser and its objective, without a task."""
    return Trainer(fuser, objective, None, SHORT)


def test_validation_takes_the_mean_over_the_middle_of_whole_images(tmp_path: Path) -> None:
    wide = torch.zeros(1, 1, 20, 300)
    wide[..., 22:278] = 0.5  # its middle 256 columns
    pairs = [Pair(wide, wide), grey(1.0)]
    found = validate(alone(Level(), ToInfrared()), pairs, tmp_path / "sample.png", "cpu")
    assert found["valid_far"] == pytest.approx((0.25 + 1) / 2)
    assert found["valid_loss"] == pytest.approx(3 * found["valid_far"])
    with Image.open(tmp_path / "sample.png") as sheet:
        pixels = np.array(sheet)
    assert pixels.shape == (20 + 12, 900, 3), "visible | infrared | fused, first and last pair"
    assert [pixels[0, x].tolist() for x in (150, 450, 750)] == [[128] * 3, [128] * 3, [0] * 3]


def test_validation_does_not_train(pairs: list[Pair], tmp_path: Path) -> None:
    fuser = Small()
    before = {name: x.clone() for name, x in fuser.state_dict().items()}
    validate(alone(fuser, TDFusionLoss()), pairs, tmp_path / "sample.png", "cpu")
    assert_same(fuser.state_dict(), before)


def test_without_meta_steps_an_objective_must_be_frozen_and_stays_as_it_is(run: Run, tmp_path: Path) -> None:
    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.conv(torch.cat([a, b], dim=1)).softmax(1)

    objective = TDFusionLoss(Generator())
    before = {name: x.clone() for name, x in objective.state_dict().items()}
    with pytest.raises(ValueError, match="TDFusionLoss has trainable parameters, but there are no meta steps"):
        run(objective=objective)
    assert not (tmp_path / "run").exists(), "said before anything is written"
    run(objective=objective.requires_grad_(False))
    assert_same(objective.state_dict(), before)
    with pytest.raises(ValueError, match="Small is frozen; load it with trainable=True"):
        run("frozen", fuser=Small().requires_grad_(False))


def test_the_loss_goes_down(pairs: list[Pair], tmp_path: Path) -> None:
    torch.manual_seed(0)
    losses: list[float] = []
    schedule = Schedule(steps=30, batch=2, crop_px=14, lr=3e-3, warmup=5, validate_every=15)
    fit(
        TDFusion(), TDFusionLoss(), pairs, pairs[:1], run=tmp_path, schedule=schedule,
        report=lambda line: losses.append(line["loss"]) if "loss" in line else None,
    )  # fmt: skip
    assert len(losses) == 30
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])
    assert read_log(tmp_path)[1]["valid_loss"] < read_log(tmp_path)[0]["valid_loss"]


# ---- the schedule ----------------------------------------------------------------------------------------------------


def test_rates() -> None:
    schedule = Schedule(steps=110, warmup=10, lr=1e-2, lr_end=1e-4)
    assert [schedule.rate(step) for step in (0, 4, 9)] == pytest.approx([1e-3, 5e-3, 1e-2])
    assert schedule.rate(10) == pytest.approx(1e-2)
    assert schedule.rate(60) == pytest.approx((1e-2 + 1e-4) / 2)
    assert schedule.rate(35) == pytest.approx(1e-4 + (1e-2 - 1e-4) * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule.rate(110) == schedule.rate(200) == pytest.approx(1e-4)
    rates = [schedule.rate(step) for step in range(10, 110)]
    assert rates == sorted(rates, reverse=True)
    assert Schedule(warmup=0, lr=1e-2).rate(0) == 1e-2


def test_the_optimiser_gets_the_scheduled_rate(run: Run, tmp_path: Path) -> None:
    run()
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert last["optimizers"]["fuser"]["param_groups"][0]["lr"] == SHORT.rate(8)
    assert [line["lr"] for line in read_log(tmp_path / "run")] == [SHORT.rate(step) for step in (2, 5, 8)]


def test_large_gradients_are_scaled_down(pairs: list[Pair]) -> None:
    class Steep(ToInfrared):
        def forward(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"steep": 1e6 * super().forward(fused, a, b)["far"]}

    norms = {}
    for clip in (SHORT.clip, 0):
        trainer = Trainer(Small(), Steep(), None, replace(SHORT, clip=clip))
        trainer.fit_step(drawn(pairs, 0), None, lambda *_: None)
        norms[clip] = float(
            torch.stack([p.grad.norm() for p in trainer.fuser.parameters() if p.grad is not None]).norm()
        )
    assert norms[SHORT.clip] == pytest.approx(SHORT.clip, rel=1e-3)
    assert norms[0] > 100, "0 is no limit"


def test_the_log_has_the_means_of_an_epoch(run: Run, tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = []
    run(report=lambda line: steps.append(line) if "valid_loss" not in line else None)
    for epoch, line in enumerate(read_log(tmp_path / "run")):
        for name in ("train_intensity", "train_gradient"):
            some = [step[name] for step in steps[3 * epoch : 3 * epoch + 3]]
            assert line[name] == pytest.approx(sum(some) / 3, rel=1e-12) and len(set(some)) == 3


def test_other_pairs_in_the_same_folder_are_refused(run: Run, pairs: list[Pair]) -> None:
    with pytest.raises(Stopped):
        run(report=stop_at(5))
    says = "holds a run on 3 pairs, pair-0 to pair-2, these are {}; repeat its --data, or choose a new folder"
    with pytest.raises(ValueError, match=says.format("2, pair-0 to pair-1")):
        run(pairs=pairs[:2])
    with pytest.raises(ValueError, match=says.format("3, pair-1 to pair-3")):
        run(pairs=pairs[1:4])
    run()


@pytest.mark.parametrize("change", [{"lr": 2e-2}, {"seed": 1}, {"steps": 12, "batch": 3}])
def test_another_schedule_in_the_same_folder_is_refused(run: Run, tmp_path: Path, change: dict[str, Any]) -> None:
    run()
    before = result(tmp_path / "run")
    with pytest.raises(ValueError, match=f"another {', '.join(change)}; repeat its settings, or choose a new folder"):
        run(schedule=replace(SHORT, **change))
    assert result(tmp_path / "run") == before


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(
    run: Run, pairs: list[Pair], tmp_path: Path
) -> None:
    class Breaks(TDFusionLoss):
        calls = 0

        def forward(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            terms = super().forward(fused, a, b)
            self.calls += fused.requires_grad
            return terms if self.calls < 5 else terms | {"gradient": terms["gradient"] / 0}

    fuser = Small()
    with pytest.raises(ValueError, match=r"must stay finite, but is inf at step 4 on pair-\d, pair-\d; .*lower --lr"):
        run(fuser=fuser, objective=Breaks())
    assert all(p.isfinite().all() for p in fuser.parameters())
    batch, saved = drawn(pairs[:3], 4), load_file(tmp_path / "run" / "not-finite.safetensors")
    assert torch.equal(saved["a"], batch.a) and torch.equal(saved["b"], batch.b)
    assert result(tmp_path / "run")["step"] == 3


def test_gradients_that_are_not_finite_never_reach_the_best_weights(run: Run, tmp_path: Path) -> None:
    """sqrt has a finite value at 0 and an infinite slope: the loss alone does not tell."""

    class Root(nn.Module):
        def forward(self, fused: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"root": (fused - fused).sqrt().mean()}

    fuser = Small()
    with pytest.raises(ValueError, match="finite"):
        run(fuser=fuser, objective=Root(), schedule=replace(SHORT, validate_every=1))
    for path in (tmp_path / "run").glob("best.safetensors"):
        assert all(x.isfinite().all() for x in load_file(path).values())


@contextmanager
def dying_write(monkeypatch: pytest.MonkeyPatch, dies_at: int) -> Iterator[None]:
    """Let the `dies_at`-th file written by the trainer be half a file, and the run die there."""
    count = 0

    def dying(write: Callable[..., Any], path_at: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == dies_at:
                Path(args[path_at]).write_bytes(b"half a fi")
                raise Stopped
            return write(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dying(torch.save, 1))
        patch.setattr(safetensors.torch, "save_file", dying(safetensors.torch.save_file, 1))
        yield


@pytest.mark.parametrize("dies_at", range(1, 7))
def test_a_killed_checkpoint_write_loses_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """Whichever file is being written, the old one stays and the run goes on as if nothing had happened."""
    line = run("straight")
    with dying_write(monkeypatch, dies_at), pytest.raises(Stopped):
        run("killed")
    assert not list((tmp_path / "killed").glob(".tectum-*"))
    if (tmp_path / "killed" / "last.pt").exists():
        assert torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["state"]["step"] in (3, 6)
    assert timeless(run("killed")) == timeless(line)
    assert result(tmp_path / "killed") == result(tmp_path / "straight")


def test_a_run_begun_on_a_gpu_goes_on_without_one(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = run("straight")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        run("moved", report=stop_at(5))
    assert timeless(run("moved")) == timeless(line)


def test_a_checkpoint_is_replaced_and_never_written_over(run: Run, tmp_path: Path) -> None:
    """The old file, kept under a second name, stays as it was."""
    names = ("last.pt", "best.safetensors")
    with pytest.raises(Stopped):
        run(report=stop_at(4))
    before = {}
    for name in names:
        (tmp_path / name).hardlink_to(tmp_path / "run" / name)
        before[name] = (tmp_path / name).read_bytes()
    run()
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert (tmp_path / "run" / "last.pt").read_bytes() != before["last.pt"]


def test_half_a_file_left_behind_is_no_checkpoint(run: Run, tmp_path: Path) -> None:
    """What the loss of power leaves: the partial file is still there."""
    line = run("straight")
    with pytest.raises(Stopped):
        run("killed", report=stop_at(5))
    (tmp_path / "killed" / ".tectum-0123.tmp").write_bytes(b"half a fi")
    assert timeless(run("killed")) == timeless(line)


def test_the_log_has_each_validation_once_wherever_the_run_is_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run dies right after its second checkpoint is complete, before anything else is written."""
    steps = []

    def dying(path: Path, write: Any) -> None:
        atomically(path, write)
        steps.append(path.name)
        if steps.count("last.pt") == 2:
            raise Stopped

    atomically = checkpoint.write_whole
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", dying)
        with pytest.raises(Stopped):
            run()
    run()
    assert [line["step"] for line in read_log(tmp_path / "run")] == [3, 6, 9]
