"""The two kinds of steps: who may change in which, what the task may say to whom, and how far the loss moves."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tectum.metrics.task import SegmentationScore
from tectum.pair import Pair
from tectum.systems.tdfusion import TDFusionLoss
from tectum.training.batches import batch_indices, meta_indices
from tectum.training.schedule import Schedule
from tectum.training.trainer import Trainer

Images = Callable[..., tuple[Tensor, ...]]
PX = 32
SHORT = Schedule(
    steps=6, batch=2, crop_px=12, lr=1e-2, warmup=2, validate_every=3, meta_steps=2, meta_lr=1e-2, task_px=(PX, PX),
    task_batch=2, task_lr=1e-2,
)  # fmt: skip


class Small(nn.Module):
    """A fuser with dropout and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = F.dropout(self.norm(self.hidden(torch.cat([a, b], 1))).relu(), 0.1, self.training)
        return self.out(x).sigmoid()


class Segmenter(nn.Module):
    """A task with dropout and BatchNorm; `scale` multiplies its loss."""

    label_type = "masks"

    def __init__(self, classes: Sequence[str] = "abc", *, dropout: float = 0.2, scale: float = 1.0) -> None:
        super().__init__()
        num_classes = len(classes)
        self.first, self.norm, self.last = (
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, num_classes, 1),
        )
        self.classes, self.dropout, self.scale = tuple(classes), dropout, scale

    def forward(self, fused: Tensor) -> Tensor:
        return self.last(F.dropout(self.norm(self.first(fused)).relu(), self.dropout, self.training))

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        logits = F.interpolate(self(fused), target.shape[1:], mode="bilinear", align_corners=False)
        return self.scale * F.cross_entropy(logits, target)

    @torch.no_grad()
    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        training = self.training
        logits = self.eval()(fused)
        self.train(training)
        return F.interpolate(logits, size or fused.shape[2:], mode="bilinear", align_corners=False).argmax(1)

    def metric(self) -> SegmentationScore:
        return SegmentationScore(len(self.classes))


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.conv(torch.cat([a, b], dim=1)).softmax(1)


def labelled(
    images: Images, num: int, *, size: tuple[int, int] = (36, 40), batch: int = 1, seed: int = 0
) -> list[Pair]:
    """Pairs whose classes are the brightness of the infrared in three steps."""
    found = []
    for index in range(num):
        a, b = images(*size, batch=batch, seed=seed + index)
        names = tuple(f"pair-{index}-{i}" if batch > 1 else f"pair-{index}" for i in range(batch))
        found.append(Pair(a, b, (b[:, 0] * 2.999).long(), names))
    return found


def ready(images: Images, *, fits: int = 2, scale: float = 1.0, **changes: Any) -> tuple[Trainer, Pair, Pair, Pair]:
    """A trainer after some fit steps, so that moments exist; crops, whole images and a pair for the outer loss."""
    torch.manual_seed(0)
    trainer = Trainer(Small(), TDFusionLoss(Generator()), Segmenter(scale=scale), replace(SHORT, **changes))
    crops, whole, test = labelled(images, 3, size=(PX, PX), batch=2)
    crops = Pair(crops.a[..., :12, :12], crops.b[..., :12, :12])
    torch.manual_seed(1)
    for step in range(fits):
        trainer.set_rates(step, 0)
        trainer.fit_step(crops, whole, pass_all)
    return trainer, crops, whole, test


def pass_all(what: str, value: Tensor, batch: Pair) -> None:
    assert value.isfinite()


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """Parameters, buffers and moments, by whose they are."""
    found = {}
    for name, module in trainer.modules.items():
        found |= {f"{name}.{key}": x.detach().clone() for key, x in module.state_dict().items()}
    for name, optimizer in trainer.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            found |= {f"{name}.adam.{index}.{key}": x.clone() for key, x in state.items()}
    return found


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before | after if name not in before or not torch.equal(before[name], after[name])}


# ---- who may change --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inner", "outer"), [("adam", "max"), ("sgd", "adam"), ("sgd", "sgd")])
@pytest.mark.parametrize("method", ["forward", "reverse", "finite"])
def test_a_meta_step_changes_the_objective_alone(images: Images, inner: str, outer: str, method: str) -> None:
    trainer, *given = ready(images, inner=inner, outer=outer, method=method)
    before, state = everything(trainer), torch.get_rng_state()
    trainer.meta_step(*given, seed=3, check=pass_all)
    moved = changed(before, everything(trainer))
    assert {"objective.generator.conv.weight", "objective.generator.conv.bias"} <= moved
    assert all(name.startswith("objective.") for name in moved)
    assert any(".adam." in name for name in moved) == (outer == "adam")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in trainer.objective.parameters())


def test_a_fit_step_changes_fuser_and_task_alone(images: Images) -> None:
    trainer, crops, whole, test = ready(images, outer="adam")
    trainer.meta_step(crops, whole, test, 3, pass_all)
    before = everything(trainer)
    trainer.fit_step(crops, whole, pass_all)
    moved = changed(before, everything(trainer))
    still = before.keys() - moved
    assert not any(name.startswith("objective.") for name in moved)
    assert all(name.startswith("objective.") for name in still), "parameters, BatchNorm statistics, moments"


def test_the_statistics_of_a_generator_move_in_meta_steps_only(images: Images) -> None:
    class Normed(Generator):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.conv(self.norm(torch.cat([a, b], dim=1))).softmax(1)

    trainer, crops, whole, test = ready(images)
    trainer = Trainer(trainer.fuser, TDFusionLoss(Normed()), trainer.task, SHORT)
    before = everything(trainer)
    trainer.fit_step(crops, whole, pass_all)
    assert not any(name.startswith("objective.") for name in changed(before, everything(trainer)))
    trainer.meta_step(crops, whole, test, 3, pass_all)
    assert "objective.generator.norm.running_mean" in changed(before, everything(trainer))


def test_what_validation_leaves_behind_does_not_matter(images: Images) -> None:
    """Every network is put into its mode again: a run that goes on after a validation is one that was resumed."""
    found = []
    for mode in (True, False):
        trainer, crops, whole, test = ready(images)
        for module in trainer.modules.values():
            module.train(mode)
        torch.manual_seed(4)
        trainer.meta_step(crops, whole, test, 3, pass_all)
        trainer.fit_step(crops, whole, pass_all)
        found.append(everything(trainer))
    assert not changed(*found)


# ---- what the task may say -------------------------------------------------------------------------------------------


def fuser_after(images: Images, task_scale: float, **changes: Any) -> dict[str, Tensor]:
    trainer, *_ = ready(images, scale=task_scale, **changes)
    return {name: x for name, x in everything(trainer).items() if name.startswith("fuser.")}


def test_the_task_never_reaches_the_fuser_unless_asked_to(images: Images) -> None:
    assert not changed(fuser_after(images, 1.0), fuser_after(images, -7.0))
    heard = changed(fuser_after(images, 1.0, task_weight=0.5), fuser_after(images, -7.0, task_weight=0.5))
    assert "fuser.out.weight" in heard


def test_the_weighted_loss_of_the_task_is_a_term_of_the_fuser(images: Images) -> None:
    trainer, crops, whole, _ = ready(images, task_weight=0.25)
    torch.manual_seed(5)
    terms = trainer.fit_step(crops, whole, pass_all)
    assert set(terms) == {"intensity", "gradient", "task_in_fuser", "task"}
    assert float(terms["task_in_fuser"]) == pytest.approx(0.25 * float(terms["task"]), rel=0.2)


def test_a_frozen_task_teaches_and_stays(images: Images) -> None:
    torch.manual_seed(0)
    task = Segmenter().requires_grad_(False)
    trainer = Trainer(Small(), TDFusionLoss(Generator()), task, SHORT)
    assert set(trainer.optimizers) == {"fuser", "objective"}
    crops, whole, test = labelled(images, 3, size=(PX, PX), batch=2)
    before = everything(trainer)
    trainer.meta_step(crops, whole, test, 3, pass_all)
    assert "task" in trainer.fit_step(crops, whole, pass_all)
    assert not {
        name for name in changed(before, everything(trainer)) if name in dict(task.named_parameters(prefix="task"))
    }
    assert "objective.generator.conv.weight" in changed(before, everything(trainer))


# ---- how far the loss moves ------------------------------------------------------------------------------------------


def travelled(images: Images, outer: str, scale: float) -> Tensor:
    trainer, *given = ready(images, outer=outer, scale=scale, meta_lr=1e-3)
    trainer.set_rates(0, 0)
    before = {name: p.detach().clone() for name, p in trainer.objective.named_parameters()}
    trainer.meta_step(*given, seed=3, check=pass_all)
    return torch.cat([(p - before[name]).flatten() for name, p in trainer.objective.named_parameters()]).detach()


@pytest.mark.parametrize("outer", ["max", "adam"])
def test_the_largest_step_is_the_rate_whatever_the_scale_of_the_task(images: Images, outer: str) -> None:
    one, large = (travelled(images, outer, scale) for scale in (1.0, 1000.0))
    assert float(one.abs().max()) == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(large, one, rtol=1e-2, atol=1e-5)


def test_the_plain_step_follows_the_scale_of_the_task(images: Images) -> None:
    one, large = (travelled(images, "sgd", scale) for scale in (100.0, 100000.0))
    assert float(large.abs().max() / one.abs().max()) == pytest.approx(1000, rel=1e-2)


# ---- when, and on which pairs ----------------------------------------------------------------------------------------


def test_meta_steps_due() -> None:
    phases = Schedule(steps=8, validate_every=3, meta_steps=5)
    assert [phases.meta_due(step) for step in range(8)] == [5, 5, 5, 10, 10, 10, 15, 15]
    warm = replace(phases, warm_epochs=2)
    assert [warm.meta_due(step) for step in range(8)] == [0] * 6 + [5, 5]
    mixed = replace(phases, interleaved=True)
    assert [mixed.meta_due(step) for step in range(4)] == [1, 2, 3, 4]
    assert [replace(mixed, warm_epochs=1).meta_due(step) for step in range(5)] == [0, 0, 0, 1, 2]
    assert replace(phases, meta_steps=0).meta_due(7) == replace(mixed, meta_steps=0).meta_due(7) == 0


@pytest.mark.parametrize(("num", "batch", "task_batch"), [(2, 1, 1), (7, 2, 3), (9, 4, 1), (24, 3, 2)])
def test_pairs_to_learn_from_and_to_judge_on_are_disjoint_over_an_epoch(num: int, batch: int, task_batch: int) -> None:
    schedule = replace(SHORT, batch=batch, task_batch=task_batch, meta_steps=12)
    epochs = []
    for epoch in range(3):
        learn, judge = set(), set()
        for meta in range(12 * epoch, 12 * epoch + 12):
            some, others = meta_indices(num, schedule, meta, step=0)
            assert (len(some), len(others)) == (max(batch, task_batch), task_batch)
            learn, judge = learn | set(some), judge | set(others)
        assert not learn & judge and learn | judge <= set(range(num))
        epochs.append(frozenset(learn))
    if num > 2:
        assert len(set(epochs)) > 1, "each epoch divides anew"


def test_a_long_epoch_uses_every_pair() -> None:
    schedule = replace(SHORT, batch=1, task_batch=1, meta_steps=10)
    some = [meta_indices(9, schedule, meta, 0) for meta in range(10)]
    assert {place for lesson in some for part in lesson for place in part} == set(range(9))


def test_interleaved_lessons_are_on_the_crops_of_the_step_and_judged_elsewhere() -> None:
    schedule = replace(SHORT, interleaved=True, batch=3, task_batch=4)
    for step in range(20):
        learn, judge = meta_indices(8, schedule, meta=step, step=step)
        assert learn[:3] == batch_indices(8, schedule, step, 3)
        assert not set(learn) & set(judge) and len(judge) == 4


def test_published_rates() -> None:
    """A tenth every ten epochs, of all three."""
    schedule = Schedule(steps=400, validate_every=10, lr=1e-4, decay="step", warmup=0, meta_lr=3e-4, task_lr=2e-4)
    trainer = Trainer(Small(), TDFusionLoss(Generator()), Segmenter(), replace(schedule, meta_steps=1))
    for step, part in ((0, 1.0), (99, 1.0), (100, 0.1), (399, 1e-3)):
        trainer.set_rates(step, 0)
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in trainer.optimizers.items()}
        assert rates == pytest.approx({"fuser": 1e-4 * part, "task": 2e-4 * part, "objective": 3e-4 * part})
    constant = replace(schedule, decay="constant")
    assert {constant.rate(step) for step in (0, 399)} == {1e-4}


def test_the_rate_of_the_task_alone() -> None:
    schedule = replace(SHORT, task_first=100, task_first_lr=1e-2)
    rates = [schedule.task_rate(0, first) for first in range(101)]
    assert rates[0] == pytest.approx(1e-2 / 30, rel=1e-3) and max(rates[:100]) < 1e-2
    assert rates[30:100] == sorted(rates[30:100], reverse=True) and rates[99] == pytest.approx(5e-4, rel=0.1)
    assert rates[100] == SHORT.task_lr and math.isclose(schedule.task_rate(5, 100), SHORT.task_lr * SHORT.fade(5))
