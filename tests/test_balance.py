"""The third loop: weights that move toward what lags, and runs that keep them, resume them and are told the truth."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from small_training import (
    PX,
    SHORT,
    Generator,
    Segmenter,
    Small,
    Stopped,
    changed_names,
    check_finite,
    copy_state,
    labelled_pairs,
    prepare_trainer,
    read_log,
    read_results,
    stop_after,
)
from tectum.balance import Constant, DynamicWeightAverage, TaskFusionBalance
from tectum.models.tdfusion import TDFusionLoss
from tectum.pair import Pair
from tectum.protocols import Balance
from tectum.training import held_out, loop
from tectum.training.bilevel import hypergradient, sgd_step
from tectum.training.held_out import split_held_out
from tectum.training.loop import fit
from tectum.training.trainer import Trainer

Images = Callable[..., tuple[Tensor, ...]]
TERMS = ("intensity", "gradient", "task")


def averaged(*epochs: Mapping[str, float], **options: Any) -> DynamicWeightAverage:
    average = DynamicWeightAverage(**options)
    for means in epochs:
        average.update(means, {})
    return average


def balanced(
    *epochs: tuple[float, float], scale: float = 1.0, fusion: float = 1.0, **options: Any
) -> TaskFusionBalance:
    """Of epochs (q, t); `scale` multiplies the task's loss, `fusion` the fusion loss."""
    balance = TaskFusionBalance(**options)
    for q, t in epochs:
        means = {"intensity": 0.4 * fusion, "gradient": 0.6 * fusion, "task": 9.0}
        balance.update(means, {"fusion": q * fusion, "task": t * scale})
    return balance


# ---- what they find --------------------------------------------------------------------------------------------------


def test_a_constant_stays() -> None:
    constant: Balance = Constant(0.5)
    constant.update({"intensity": 1.0, "task": 7.0}, {})
    assert [constant.weight(name) for name in TERMS] == [1.0, 1.0, 0.5] and constant.state_dict() == {}
    assert Constant().weight("task") == 0


def test_dynamic_weight_averaging_is_what_its_paper_says() -> None:
    """lambda_k = K softmax_k(r_k / T), T = 2, K = 3."""
    before, last = {"intensity": 4.0, "gradient": 2.0, "task": 1.0}, {"intensity": 3.0, "gradient": 2.2, "task": 0.5}
    average = averaged({name: 77.0 for name in TERMS}, before, last)
    up = {name: math.exp(last[name] / before[name] / 2) for name in TERMS}
    for name in TERMS:
        c = 0.1 if name == "task" else 1.0
        assert average.weight(name) == pytest.approx(c * 3 * up[name] / sum(up.values()), rel=1e-12)
    assert average.weight("gradient") > 1 > average.weight("intensity"), "what falls slower weighs more"
    assert average.weight("intensity") + average.weight("gradient") + 10 * average.weight("task") == pytest.approx(3)


def test_in_two_epochs_no_ratio_is_known() -> None:
    means = {"intensity": 4.0, "gradient": 2.0, "task": 1.0}
    for average in (averaged(), averaged(means)):
        assert [average.weight(name) for name in TERMS] == [1.0, 1.0, 0.1]
    assert averaged(means, means | {"task": 3.0}).weight("task") > 0.1


def test_the_average_is_free_of_scale() -> None:
    epochs = [{"intensity": 4.0, "gradient": 2.0, "task": 1.0}, {"intensity": 3.0, "gradient": 2.2, "task": 0.5}]
    scaled = [{name: 1000 * x if name == "task" else x for name, x in means.items()} for means in epochs]
    for name in TERMS:
        assert averaged(*scaled).weight(name) == pytest.approx(averaged(*epochs).weight(name), rel=1e-12)


def test_terms_that_are_nothing_or_explode_leave_finite_weights() -> None:
    nothing = averaged(
        {"intensity": 1.0, "gradient": 0.0, "task": 1.0}, {"intensity": 1.0, "gradient": 0.0, "task": 1.0}
    )
    assert [nothing.weight(name) for name in TERMS] == pytest.approx([1.0, 1.0, 0.1])
    exploded = averaged({"intensity": 1e-9, "task": 1.0}, {"intensity": 1e9, "task": 1.0})
    assert (exploded.weight("intensity"), exploded.weight("task")) == pytest.approx((2.0, 0.0))
    for epochs in ([(1.0, 1.0), (1e308, 1e-300)], [(1.0, 0.0), (0.0, 0.0), (1.0, 1.0)]):
        balance = balanced(*epochs)
        assert balance.b + 1e-12 >= 0.05 and balance.b <= 0.5 + 1e-12
        assert all(math.isfinite(balance.weight(name)) for name in TERMS)


def test_the_balance_moves_toward_the_one_that_lags() -> None:
    assert balanced((1.0, 1.0), (1.0, 1.0)).b == pytest.approx(0.2), "neither lags"
    assert balanced((1.0, 1.0), (0.8, 1.0)).b > 0.2, "the task lags behind the fusion"
    assert balanced((1.0, 1.0), (1.0, 0.8)).b < 0.2
    b = balanced((1.0, 1.0), (1.0, 1.5)).b
    assert math.log(b / (1 - b)) == pytest.approx(math.log(0.2 / 0.8) + math.log(1.5)), "kappa is 1"


def test_the_reference_is_the_running_mean_of_past_epochs() -> None:
    """After (1, 1) and (1, 3) the task's is 2, so that 2 again is no lag."""
    assert balanced((1.0, 1.0), (1.0, 3.0), (1.0, 2.0)).b == pytest.approx(balanced((1.0, 1.0), (1.0, 3.0)).b)


def test_the_balance_keeps_its_bounds() -> None:
    lagging = balanced(*[(1.0, 2.0**epoch) for epoch in range(30)])
    leading = balanced(*[(1.0, 2.0**-epoch) for epoch in range(30)])
    assert (lagging.b, leading.b) == (pytest.approx(0.5), pytest.approx(0.05))
    lagging.update({"intensity": 1.0, "task": 1.0}, {"fusion": 1.0, "task": 1e-3})
    assert lagging.b < 0.5, "a bound is left at once"
    with pytest.raises(ValueError, match=r"between low and high, both inside \(0,1\), got 0.05 <= 0.7 <= 0.5"):
        TaskFusionBalance(b=0.7)


def test_the_balance_is_free_of_scale() -> None:
    epochs = [(1.0, 1.0), (0.9, 0.95), (0.7, 0.9)]
    one, large, loud = balanced(*epochs), balanced(*epochs, scale=1000.0), balanced(*epochs, fusion=50.0)
    assert one.b == pytest.approx(large.b) == pytest.approx(loud.b) and one.b != 0.2
    assert one.weight("task") == pytest.approx(1000 * large.weight("task"))
    share = one.weight("task") * 0.9
    assert share == pytest.approx(one.b, rel=0.1), "b s L_task is about b L_fus"
    assert one.weight("gradient") == 1 - one.b


def test_of_the_first_epoch_nothing_is_known() -> None:
    assert [TaskFusionBalance().weight(name) for name in TERMS] == [0.8, 0.8, 0.0]
    first = balanced((2.0, 4.0))
    assert (first.b, first.weight("task")) == (0.2, pytest.approx(0.2 * 1.0 / 4.0))


def test_frozen_stays() -> None:
    average = averaged(*[{"intensity": 4.0 / n, "gradient": 2.0, "task": 1.0 + n} for n in range(1, 5)], frozen=True)
    assert [average.weight(name) for name in TERMS] == [1.0, 1.0, 0.1]
    balance = balanced((1.0, 1.0), (1.0, 5.0), (1.0, 25.0), frozen=True)
    assert balance.b == 0.2 and balance.held_out == TaskFusionBalance().held_out, "the same pairs are trained on"


@pytest.mark.parametrize("num", range(4))
def test_state_is_numbers_and_goes_on_alike(num: int) -> None:
    epochs = [
        ({"intensity": 4.0, "gradient": 2.0, "task": 1.0}, {"fusion": 1.0, "task": 1.0}),
        ({"intensity": 3.0, "gradient": 2.5, "task": 0.7}, {"fusion": 0.8, "task": 1.3}),
        ({"intensity": 2.9, "gradient": 1.5, "task": 0.6}, {"fusion": 0.7, "task": 0.9}),
        ({"intensity": 2.0, "gradient": 1.4, "task": 0.5}, {"fusion": 0.7, "task": 0.5}),
    ]
    for make in (DynamicWeightAverage, TaskFusionBalance):
        straight, stopped = make(), make()
        for index, epoch in enumerate(epochs):
            if index == num:
                state = json.loads(json.dumps(stopped.state_dict()))
                assert all(type(x) is float for x in state.values())
                stopped = make()
                stopped.load_state_dict(state)
            straight.update(*epoch)
            stopped.update(*epoch)
        assert [stopped.weight(name) for name in TERMS] == [straight.weight(name) for name in TERMS]
        assert stopped.state_dict() == straight.state_dict()


# ---- in the steps ----------------------------------------------------------------------------------------------------


class Given:
    """Weights by name, and what it was told."""

    def __init__(self, held_out: float = 0.0, **weights: float) -> None:
        self.held_out, self.weights = held_out, weights
        self.told: list[tuple[dict[str, float], dict[str, float]]] = []

    def weight(self, name: str) -> float:
        return self.weights[name]

    def update(self, means: Mapping[str, float], aside: Mapping[str, float]) -> None:
        self.told.append((dict(means), dict(aside)))

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        assert state == {}


def stepped(images: Images, objective: TDFusionLoss, balance: Balance | None, **changes: Any) -> dict[str, Tensor]:
    """The fuser after two fit steps."""
    torch.manual_seed(0)
    trainer = Trainer(Small(), objective, Segmenter(), replace(SHORT, **changes), balance=balance)
    whole = labelled_pairs(images, 1, size=(PX, PX), batch=2)[0]
    torch.manual_seed(1)
    for _ in range(2):
        trainer.fit_step(Pair(whole.a[..., :12, :12], whole.b[..., :12, :12]), whole, check_finite)
    return {name: x for name, x in copy_state(trainer).items() if name.startswith("fuser.")}


def test_a_weight_is_a_factor_of_its_term(images: Images) -> None:
    plain = {"meta_steps": 0}
    weighed = stepped(images, TDFusionLoss(), Given(intensity=2.0, gradient=0.25, task=0.0), **plain)
    assert not changed_names(weighed, stepped(images, TDFusionLoss(alpha=0.25, beta=2.0), None, **plain))
    assert changed_names(weighed, stepped(images, TDFusionLoss(), None, **plain))


def test_the_tasks_weight_is_that_of_the_schedule(images: Images) -> None:
    plain = {"meta_steps": 0}
    balanced = stepped(images, TDFusionLoss(), Given(intensity=1.0, gradient=1.0, task=0.25), **plain)
    assert not changed_names(balanced, stepped(images, TDFusionLoss(), None, task_weight=0.25, **plain))
    assert changed_names(balanced, stepped(images, TDFusionLoss(), None, **plain))


@pytest.mark.parametrize("method", ["forward", "reverse", "finite"])
def test_a_lesson_is_about_the_weighted_loss(images: Images, method: Any) -> None:
    trainer, crops, _, test = prepare_trainer(images)

    def gradient(alpha: float, beta: float, **more: Any) -> dict[str, Tensor]:
        objective = TDFusionLoss(Generator(), alpha=alpha, beta=beta)
        objective.load_state_dict(trainer.objective.state_dict())
        given = trainer.fuser, objective, trainer.task, crops, test
        return hypergradient(*given, step=sgd_step(0.1), method=method, **more).gradient

    weights = {"intensity": 3.0, "gradient": 0.5}
    found, expected = gradient(1.0, 1.0, weight=weights.__getitem__), gradient(0.5, 3.0)
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=1e-4, atol=1e-9)
    assert not torch.allclose(found[name], gradient(1.0, 1.0)[name], rtol=0.1, atol=0)


def test_a_lesson_has_the_weights(images: Images) -> None:
    moved = {}
    for key, intensity in (("half", 0.5), ("one", 1.0)):
        trainer, *given = prepare_trainer(images, outer="sgd", inner="sgd")
        balance = Given(intensity=intensity, gradient=1.0, task=0.0)
        again = Trainer(trainer.fuser, trainer.objective, trainer.task, trainer.schedule, balance=balance)
        again.objective.requires_grad_(True)
        moved[key] = again.hypergradient(given[0], given[2], 3).gradient["generator.conv.weight"]
    assert float(moved["half"].norm() / moved["one"].norm()) == pytest.approx(0.5, rel=0.2)


# ---- the task's gradient for the objective ---------------------------------------------------------------------------


class Listens(TDFusionLoss):
    """Adds a tenth of the mean of the map; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(Generator())
        self.calls: list[tuple[torch.Size, Tensor | None]] = []

    def forward(self, fused: Tensor, a: Tensor, b: Tensor, task_grad: Tensor | None = None) -> dict[str, Tensor]:
        self.calls.append((fused.shape, task_grad))
        terms = super().forward(fused, a, b)
        return terms if task_grad is None else terms | {"intensity": terms["intensity"] + 1.0}


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_an_objective_that_asks_for_it_is_given_the_tasks_gradient(images: Images, weight: float) -> None:
    """Once on the crops without, once on the whole images with it; the terms are averaged."""
    torch.manual_seed(0)
    task = Segmenter(dropout=0.0)
    trainer = Trainer(Small(), Listens(), task, replace(SHORT, task_weight=weight))
    whole = labelled_pairs(images, 1, size=(PX, PX), batch=2)[0]
    crops = Pair(whole.a[..., :12, :12], whole.b[..., :12, :12])
    made: list[Tensor] = []
    hook = trainer.fuser.register_forward_hook(lambda module, given, fused: made.append(fused.detach().clone()))
    apart = Trainer(Small(), TDFusionLoss(Generator()), task, SHORT)
    apart.fuser.load_state_dict(trainer.fuser.state_dict())
    before = {name: x.clone() for name, x in task.state_dict().items()}
    terms = trainer.fit_step(crops, whole, check_finite)
    hook.remove()
    (small, nothing), (large, given) = trainer.objective.calls  # type: ignore[misc]
    assert nothing is None and small[2:] == (12, 12) and large == whole.a.shape
    assert isinstance(given, Tensor) and not given.requires_grad
    fused = made[1].requires_grad_()
    task.load_state_dict(before)
    (expected,) = torch.autograd.grad(task.train().loss(fused, whole.target), fused)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-9)
    own = [
        float(TDFusionLoss.forward(trainer.objective, x, pair.a, pair.b)["intensity"].detach())  # type: ignore[arg-type]
        for x, pair in zip(made[:2], (crops, whole), strict=True)
    ]
    assert float(terms["intensity"]) == pytest.approx((own[0] + own[1] + 1.0) / 2, rel=1e-5)
    assert ("task_in_fuser" in terms) == bool(weight)


def test_nowhere_else_is_there_a_gradient_of_the_task(images: Images, tmp_path: Path) -> None:
    trainer, *given = prepare_trainer(images)
    objective = Listens()
    again = Trainer(trainer.fuser, objective, trainer.task, trainer.schedule)
    again.meta_step(*given, 3, check_finite)
    assert objective.calls and all(task_grad is None for _, task_grad in objective.calls)
    objective.calls.clear()
    pairs = labelled_pairs(images, 2)
    objective.requires_grad_(False)
    fit(Small(), objective, pairs, pairs, run=tmp_path, schedule=replace(SHORT, meta_steps=0))  # no task
    assert objective.calls and all(task_grad is None for _, task_grad in objective.calls)


# ---- runs ------------------------------------------------------------------------------------------------------------


def run(
    folder: Path, images: Images, balance: Balance | None, *, num: int = 10, report: Any = None, **changes: Any
) -> Any:
    torch.manual_seed(99 if (folder / "last.pt").exists() else 0)
    pairs = labelled_pairs(images, num + 2)
    schedule = replace(SHORT, **({"outer": "adam", "steps": 12} | changes))
    given = Small(), TDFusionLoss(Generator()), pairs[:num], pairs[num:]
    return fit(*given, run=folder, schedule=schedule, task=Segmenter(), balance=balance, report=report)


def test_a_task_of_weight_0_is_a_run_without_a_balance(images: Images, tmp_path: Path) -> None:
    """TDFusion's schedule, bit for bit."""
    run(tmp_path / "with", images, Given(intensity=1.0, gradient=1.0, task=0.0))
    run(tmp_path / "without", images, None)
    found, expected = read_results(tmp_path / "with"), read_results(tmp_path / "without")
    for line in found["log"]:
        assert [line.pop(f"weight_{name}") for name in TERMS] == [1.0, 1.0, 0.0]
    assert found == expected


@pytest.mark.parametrize("every_s", [30.0, -1.0])
@pytest.mark.parametrize("make", [DynamicWeightAverage, TaskFusionBalance])
def test_resumed_equals_uninterrupted(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Balance], every_s: float
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", every_s)
    run(tmp_path / "straight", images, make())
    for num in (7, 1, 5, 4):  # steps of a session, of 20 in all
        with pytest.raises(Stopped):
            run(tmp_path / "stopped", images, make(), report=stop_after(num))
        torch.manual_seed(num)
    run(tmp_path / "stopped", images, make())
    assert read_results(tmp_path / "stopped") == read_results(tmp_path / "straight")
    states = [torch.load(tmp_path / x / "last.pt", weights_only=True)["state"] for x in ("stopped", "straight")]
    assert states[0]["balance"] == states[1]["balance"] != make().state_dict()


@pytest.mark.parametrize("make", [DynamicWeightAverage, TaskFusionBalance])
def test_the_log_has_the_weights_of_each_epoch(images: Images, tmp_path: Path, make: Any) -> None:
    """And they are those that follow from the epochs before."""
    run(tmp_path / "run", images, make())
    lines, balance = read_log(tmp_path / "run"), make()
    assert len(lines) == 4
    for line in lines:
        weights = {name: balance.weight(name) for name in TERMS}
        assert {name: line[f"weight_{name}"] for name in TERMS} == pytest.approx(weights, rel=1e-12)
        assert ("train_task_in_fuser" in line) == (weights["task"] > 0)
        means = {name: line[f"train_{name}"] for name in TERMS}
        if weights["task"]:
            means["task"] = line["train_task_in_fuser"] / weights["task"]
        aside = {name: line[f"held_out_{name}"] for name in ("fusion", "task") if make is TaskFusionBalance}
        balance.update(means, aside)
    assert lines[-1]["weight_task"] != lines[-2]["weight_task"]


def test_the_mean_loss_of_a_step_is_weighted(images: Images, tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = []
    balance = Given(intensity=2.0, gradient=0.5, task=0.3)
    run(tmp_path / "run", images, balance, report=lambda line: steps.append(line))
    for step in (x for x in steps if "train_intensity" in x and "valid_loss" not in x):
        parts = 2.0 * step["train_intensity"], 0.5 * step["train_gradient"], step["train_task_in_fuser"]
        assert step["loss"] == pytest.approx(sum(parts))


def test_pairs_kept_aside_are_measured_and_never_trained_on(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    measured: list[set[str]] = []
    fit_step, meta_step, measure = Trainer.fit_step, Trainer.meta_step, held_out.held_out_losses

    def spy_fit(self: Trainer, crops: Pair, whole: Pair, *more: Any) -> Any:
        seen.update(crops.name, whole.name)
        return fit_step(self, crops, whole, *more)

    def spy_meta(self: Trainer, crops: Pair, whole: Pair, test: Pair, *more: Any) -> Any:
        seen.update(crops.name, whole.name, test.name)
        return meta_step(self, crops, whole, test, *more)

    def spy(trainer: Trainer, aside: Any, device: str) -> Any:
        measured.append({aside[index].name[0] for index in range(len(aside))})
        return measure(trainer, aside, device)

    monkeypatch.setattr(Trainer, "fit_step", spy_fit)
    monkeypatch.setattr(Trainer, "meta_step", spy_meta)
    monkeypatch.setattr(loop, "held_out_losses", spy)
    balance = Given(held_out=0.05, intensity=1.0, gradient=1.0, task=0.0)
    run(tmp_path / "run", images, balance, num=9, task_first=2)
    assert len(measured) == 4 and all(names == measured[0] for names in measured) and len(measured[0]) == 2
    assert not seen & measured[0] and seen | measured[0] == {f"pair-{index}" for index in range(9)}
    assert all(set(aside) == {"fusion", "task"} for _, aside in balance.told)


def test_what_is_measured_does_not_depend_on_what_is_learned(images: Images) -> None:
    """The fixed loss of the image alone: another generator finds the same, another fuser another."""
    trainer, *_ = prepare_trainer(images)
    aside = labelled_pairs(images, 3)
    before = held_out.held_out_losses(trainer, aside, "cpu")
    with torch.no_grad():
        for p in trainer.objective.parameters():
            p.add_(1.0)
    assert held_out.held_out_losses(trainer, aside, "cpu") == before
    with torch.no_grad():
        for p in trainer.fuser.parameters():
            p.add_(0.1)
    assert held_out.held_out_losses(trainer, aside, "cpu")["fusion"] != before["fusion"]
    x = torch.rand(1, 1, 8, 8)
    assert float(held_out.fixed_loss(x, x, x)) == 0
    a, b = images(8, 8)
    assert float(held_out.fixed_loss(x, a, b)) == pytest.approx(float(sum(TDFusionLoss()(x, a, b).values())))


@pytest.mark.parametrize(("num", "aside"), [(4, 1), (40, 10), (200, 32), (1000, 50)])
def test_how_many_are_kept_aside(num: int, aside: int) -> None:
    pairs = [Pair(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), name=(str(index),)) for index in range(num)]
    rest, kept = split_held_out(pairs, 0.05, 0)
    names = [{part[index].name[0] for index in range(len(part))} for part in (rest, kept)]
    assert len(kept) == aside and not names[0] & names[1] and len(names[0] | names[1]) == num
    assert split_held_out(pairs, 0.0, 0) == (pairs, ())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": None, "meta_steps": 0}, "a balance weighs the task's loss, but there is no task"),
        ({"task_weight": 1.0}, "a balance sets the task's weight, got task_weight 1.0 too"),
        ({"num": 3}, "a balance that holds out pairs needs at least 4, got 3; give more pairs"),
    ],
)
def test_what_cannot_be_balanced_is_refused(
    images: Images, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    pairs = labelled_pairs(images, 6)
    given = dict(changes)
    some, task = pairs[: given.pop("num", 5)], given.pop("task", Segmenter())
    networks = Small(), TDFusionLoss(Generator()).requires_grad_(task is not None)
    with pytest.raises(ValueError, match=sentence):
        fit(
            *networks, some, pairs[5:], run=tmp_path / "run", schedule=replace(SHORT, **given), task=task,
            balance=TaskFusionBalance(),
        )  # fmt: skip
    assert not list(tmp_path.iterdir()), "said before anything is written"


def test_a_run_does_not_go_on_with_another_balance(images: Images, tmp_path: Path) -> None:
    for name, first, others in (
        (
            "average",
            DynamicWeightAverage(),
            (TaskFusionBalance(), None, DynamicWeightAverage(task=0.5), DynamicWeightAverage(frozen=True)),
        ),
        ("balance", TaskFusionBalance(), (None, TaskFusionBalance(kappa=2.0))),
    ):
        run(tmp_path / name, images, first)
        for other in others:
            with pytest.raises(ValueError, match="holds a run with another balance; repeat its settings"):
                run(tmp_path / name, images, other)


def test_a_checkpoint_of_before_there_were_balances_goes_on(images: Images, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path / "run", images, None, report=stop_after(9))
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    del saved["state"]["balance"], saved["state"]["balanced_by"]
    torch.save(saved, tmp_path / "run" / "last.pt")
    run(tmp_path / "run", images, None)
    run(tmp_path / "straight", images, None)
    assert read_results(tmp_path / "run") == read_results(tmp_path / "straight")
