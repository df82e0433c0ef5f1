"""The two kinds of steps: who may change in which, what the task may say to whom, and how far the loss moves."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small_training import (
    PX,
    SHORT,
    Generator,
    Segmenter,
    Small,
    changed_names,
    check_finite,
    copy_state,
    labelled_pairs,
    prepare_trainer,
)
from tectum.models.tdfusion import TDFusionLoss
from tectum.training.batches import batch_indices, draw_mix, meta_indices
from tectum.training.distributed import World
from tectum.training.schedule import Schedule
from tectum.training.trainer import Trainer

Images = Callable[..., tuple[Tensor, ...]]
# ---- who may change --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inner", "outer"), [("adam", "max"), ("sgd", "adam"), ("sgd", "sgd")])
@pytest.mark.parametrize("method", ["forward", "reverse", "finite"])
def test_a_meta_step_changes_the_objective_alone(images: Images, inner: str, outer: str, method: str) -> None:
    trainer, *given = prepare_trainer(images, inner=inner, outer=outer, method=method)
    before, state = copy_state(trainer), torch.get_rng_state()
    trainer.meta_step(*given, seed=3, check=check_finite)
    moved = changed_names(before, copy_state(trainer))
    assert {"objective.generator.conv.weight", "objective.generator.conv.bias"} <= moved
    assert all(name.startswith("objective.") for name in moved)
    assert any(".adam." in name for name in moved) == (outer == "adam")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in trainer.objective.parameters())


def test_a_fit_step_changes_fuser_and_task_alone(images: Images) -> None:
    trainer, crops, whole, test = prepare_trainer(images, outer="adam")
    trainer.meta_step(crops, whole, test, 3, check_finite)
    before = copy_state(trainer)
    trainer.fit_step(crops, whole, check_finite)
    moved = changed_names(before, copy_state(trainer))
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

    trainer, crops, whole, test = prepare_trainer(images)
    trainer = Trainer(trainer.fuser, TDFusionLoss(Normed()), trainer.task, SHORT)
    before = copy_state(trainer)
    trainer.fit_step(crops, whole, check_finite)
    assert not any(name.startswith("objective.") for name in changed_names(before, copy_state(trainer)))
    trainer.meta_step(crops, whole, test, 3, check_finite)
    assert "objective.generator.norm.running_mean" in changed_names(before, copy_state(trainer))


def test_what_validation_leaves_behind_does_not_matter(images: Images) -> None:
    """Every network is put into its mode again: a run that goes on after a validation is one that was resumed."""
    found = []
    for mode in (True, False):
        trainer, crops, whole, test = prepare_trainer(images)
        for module in trainer.modules.values():
            module.train(mode)
        torch.manual_seed(4)
        trainer.meta_step(crops, whole, test, 3, check_finite)
        trainer.fit_step(crops, whole, check_finite)
        found.append(copy_state(trainer))
    assert not changed_names(*found)


# ---- what the task may say -------------------------------------------------------------------------------------------


def fuser_after(images: Images, task_scale: float, **changes: Any) -> dict[str, Tensor]:
    trainer, *_ = prepare_trainer(images, scale=task_scale, **changes)
    return {name: x for name, x in copy_state(trainer).items() if name.startswith("fuser.")}


def test_the_task_never_reaches_the_fuser_unless_asked_to(images: Images) -> None:
    assert not changed_names(fuser_after(images, 1.0), fuser_after(images, -7.0))
    heard = changed_names(fuser_after(images, 1.0, task_weight=0.5), fuser_after(images, -7.0, task_weight=0.5))
    assert "fuser.out.weight" in heard


def test_the_weighted_loss_of_the_task_is_a_term_of_the_fuser(images: Images) -> None:
    trainer, crops, whole, _ = prepare_trainer(images, task_weight=0.25)
    torch.manual_seed(5)
    terms = trainer.fit_step(crops, whole, check_finite)
    assert set(terms) == {"intensity", "gradient", "task_in_fuser", "task"}
    assert float(terms["task_in_fuser"]) == pytest.approx(0.25 * float(terms["task"]), rel=0.2)


def test_a_frozen_task_teaches_and_stays(images: Images) -> None:
    torch.manual_seed(0)
    task = Segmenter().requires_grad_(False)
    trainer = Trainer(Small(), TDFusionLoss(Generator()), task, SHORT)
    assert set(trainer.optimizers) == {"fuser", "objective"}
    crops, whole, test = labelled_pairs(images, 3, size=(PX, PX), batch=2)
    before = copy_state(trainer)
    trainer.meta_step(crops, whole, test, 3, check_finite)
    assert "task" in trainer.fit_step(crops, whole, check_finite)
    assert not {
        name
        for name in changed_names(before, copy_state(trainer))
        if name in dict(task.named_parameters(prefix="task"))
    }
    assert "objective.generator.conv.weight" in changed_names(before, copy_state(trainer))


def test_mixtures_belong_to_the_step_and_the_image(images: Images) -> None:
    """Whatever the rank, image k of a step is mixed alike; about `task_mix` of the steps are on mixtures."""
    schedule, world = replace(SHORT, task_mix=0.5, swap=True), World()

    def draw(seed: int, size: int, rank: int) -> Tensor | None:
        torch.manual_seed(seed)
        world.size, world.rank = size, rank
        return draw_mix(4, schedule, world)

    steps = [(draw(seed, 1, 0), draw(seed, 2, 0), draw(seed, 2, 1)) for seed in range(40)]
    mixed = [step for step in steps if step[0] is not None]
    assert 10 < len(mixed) < 30 and all(part is None for step in steps if step[0] is None for part in step)
    for whole, first, second in mixed:
        assert whole is not None and first is not None and second is not None
        parts = [first[:2], second[:2], first[2:], second[2:]]  # of the images, then of the exchanged ones
        assert torch.equal(torch.cat(parts), whole) and len(whole.unique()) == 8 and whole.shape == (8, 1, 1, 1)
    trainer, _, pair, _ = prepare_trainer(images)
    m = torch.tensor([0.25, 1.0])[:, None, None, None]
    torch.testing.assert_close(trainer.task_images(pair, m), torch.lerp(pair.b, pair.a, m))


# ---- how far the loss moves ------------------------------------------------------------------------------------------


def travelled(images: Images, outer: str, scale: float) -> Tensor:
    trainer, *given = prepare_trainer(images, outer=outer, scale=scale, meta_lr=1e-3)
    trainer.set_rates(0, 0)
    before = {name: p.detach().clone() for name, p in trainer.objective.named_parameters()}
    trainer.meta_step(*given, seed=3, check=check_finite)
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
