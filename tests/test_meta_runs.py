"""Runs with a learned loss: the same bits however often stopped, learned the right way, and nothing half-done."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from small_training import (
    PX,
    SHORT,
    Generator,
    OneWeight,
    Segmenter,
    Small,
    Stopped,
    labelled_pairs,
    read_log,
    read_results,
    stop_after,
)
from tectum.models.tdfusion import TDFusionLoss
from tectum.pair import Pair
from tectum.report.painting import PALETTE, UNKNOWN
from tectum.training import loop
from tectum.training.loop import fit
from tectum.training.old_names import OLD_NAMES
from tectum.training.sample_sheets import centre_on_grey, paint_target
from tectum.training.schedule import Schedule
from tectum.training.trainer import Trainer
from tectum.training.validation import validate

Images = Callable[..., tuple[Tensor, ...]]
Run = Callable[..., dict[str, Any]]
COURSE = "mmfffmmfff"  # the steps of SHORT


@pytest.fixture
def pairs(images: Images) -> list[Pair]:
    return labelled_pairs(images, 8)


@pytest.fixture
def run(pairs: list[Pair], tmp_path: Path) -> Run:
    """Train on six pairs and validate on two; keyword arguments replace what is given to `fit`, or the schedule's."""

    def train(
        folder: str = "run", *, weights: int = 0, report: Any = None, task: Any = "segmenter", **more: Any
    ) -> Any:
        torch.manual_seed(weights)
        given: dict[str, Any] = {
            "fuser": Small(),
            "objective": TDFusionLoss(Generator()).requires_grad_(more.get("meta_steps", SHORT.meta_steps) > 0),
            "task": Segmenter() if task == "segmenter" else task,
            "pairs": pairs[:6],
            "validation": pairs[6:],
        }
        changes = {name: more.pop(name) for name in list(more) if name in SHORT.__dataclass_fields__}
        return fit(**(given | more), run=tmp_path / folder, schedule=replace(SHORT, **changes), report=report)

    return train


# ---- the same bits ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(images: Images, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run that is never stopped leaves."""
    folder, pairs = tmp_path_factory.mktemp("straight"), labelled_pairs(images, 8)
    torch.manual_seed(0)
    given = Small(), TDFusionLoss(Generator()), pairs[:6], pairs[6:]
    fit(*given, run=folder, schedule=replace(SHORT, outer="adam", task_first=2), task=Segmenter())
    return read_results(folder)


@pytest.mark.parametrize("every_s", [30.0, -1.0])
@pytest.mark.parametrize("stops", [[1], [3], [4], [7], [8], [9, 2, 3], [1] * 12])
def test_resumed_equals_uninterrupted(
    run: Run,
    straight: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stops: list[int],
    every_s: float,
) -> None:
    """Stopped in the task's own steps, in a meta or a fit phase, at an end; checkpoints at ends of epochs or always."""
    monkeypatch.setattr(loop, "SAVE_EVERY_S", every_s)
    if len(stops) > 4 and every_s > 0:
        stops = [1, 1]  # it would begin again each time
    options = {"outer": "adam", "task_first": 2}
    for num in stops:
        with pytest.raises(Stopped):
            run(weights=99 if (tmp_path / "run/last.pt").exists() else 0, report=stop_after(num), **options)
        torch.manual_seed(num)  # whatever else the program drew at random
    run(weights=99 if (tmp_path / "run/last.pt").exists() else 0, **options)
    assert read_results(tmp_path / "run") == straight


def test_the_seed_decides(run: Run, tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("same", 0), ("other", 1)):
        run(folder, seed=seed)
    one, same, other = (read_results(tmp_path / folder) for folder in ("one", "same", "other"))
    assert one == same
    assert one["modules"]["objective"] != other["modules"]["objective"]


@pytest.mark.parametrize(
    ("changes", "course"),
    [
        ({}, COURSE),
        ({"interleaved": True}, "mf" * 6),
        ({"warm_epochs": 1}, "fffmmfff"),
        ({"meta_steps": 0}, "ffffff"),
        ({"task_first": 2}, "tt" + COURSE),
    ],
)
def test_the_order_of_steps(run: Run, tmp_path: Path, changes: dict[str, Any], course: str) -> None:
    steps: list[dict[str, Any]] = []
    run(report=lambda line: steps.append(line) if "valid_loss" not in line else None, **changes)
    kinds = ["m" if "outer_loss" in x else "f" if "train_intensity" in x else "t" for x in steps]
    assert "".join(kinds) == course
    assert steps[-1]["meta"] == course.count("m") and steps[-1]["step"] == 6
    lessons = [x["outer_loss"] for x in steps if "outer_loss" in x and x["step"] >= 3]
    if lessons:
        assert read_log(tmp_path / "run")[-1]["outer_loss"] == pytest.approx(np.mean(lessons)), (
            "the mean over the last epoch"
        )


def test_what_is_learned_from_is_not_judged_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the batches themselves, crops and whole images, over each epoch."""
    seen: list[tuple[set[str], set[str]]] = []
    meta_step = Trainer.meta_step

    def spy(self: Trainer, crops: Pair, whole: Pair, test: Pair, *args: Any) -> Any:
        assert set(whole.name) <= set(crops.name)
        seen.append((set(crops.name), set(test.name)))
        return meta_step(self, crops, whole, test, *args)

    monkeypatch.setattr(Trainer, "meta_step", spy)
    run(meta_steps=4)
    for epoch in (seen[:4], seen[4:]):
        learn, judge = (set().union(*part) for part in zip(*epoch, strict=True))
        assert learn and judge and not learn & judge
        assert not (learn | judge) & {"pair-6", "pair-7"}, "kept for validation"


# ---- learned the right way -------------------------------------------------------------------------------------------


class Blend(nn.Module):
    """f = s b + (1 - s) a."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        share = self.share.sigmoid()
        return share * b + (1 - share) * a


class Wants(nn.Module):
    """A frozen task that wants the image to be the target; `score` says how good an image is."""

    def __init__(self, score: Callable[[Tensor], float] = lambda fused: 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.score = score

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        return (fused - target).square().mean()

    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return fused

    def metric(self) -> Any:
        task, found = self, []

        class Score:
            def update(self, prediction: Tensor, target: Tensor) -> None:
                found.append(task.score(prediction))

            def numbers(self) -> dict[str, float]:
                return {"liked": sum(found) / len(found), "never": 9.0}

        return Score()


@pytest.mark.parametrize("wanted", ["b", "a"])
@pytest.mark.parametrize("inner", ["adam", "sgd"])
def test_the_loss_learns_which_source_the_task_wants(run: Run, images: Images, wanted: str, inner: str) -> None:
    """dL_task/dw_b has one sign: w must leave 1/2 for the source that is the target, and take the fuser along."""
    pairs = []
    for seed in range(4):
        a, b = images(PX, PX, seed=seed)
        pairs.append(Pair(a, b, b if wanted == "b" else a))
    fuser, objective = Blend(), TDFusionLoss(OneWeight(), alpha=0.0)
    schedule = {"meta_lr": 0.05, "meta_steps": 10, "decay": "constant", "lr": 0.05, "inner": inner, "warmup": 0}
    best = run(
        fuser=fuser, objective=objective, task=Wants(lambda fused: 0.0), pairs=pairs[:3], validation=pairs[3:],
        **schedule,
    )  # fmt: skip
    w_b = float(objective.weights(pairs[0].a, pairs[0].b)[0, 1, 0, 0].detach())
    side = 1 if wanted == "b" else -1
    assert side * (w_b - 0.5) > 0.2
    assert side * float(fuser.share.detach()) > 0.02
    assert best["weight_deviation"] > 0.1


def test_away_is_the_mean_distance_from_a_half(images: Images, tmp_path: Path) -> None:
    objective = TDFusionLoss(OneWeight())
    with torch.no_grad():
        objective.generator.logits.copy_(torch.tensor([0.3, 0.7]).log())  # type: ignore[union-attr]
    trainer = Trainer(Blend(), objective, None, Schedule())
    line = validate(trainer, labelled_pairs(images, 2), tmp_path / "sheet.png", "cpu")
    assert line["weight_deviation"] == pytest.approx(0.2, rel=1e-5)
    trainer = Trainer(Blend(), TDFusionLoss(), None, Schedule())
    assert "weight_deviation" not in validate(trainer, labelled_pairs(images, 1), tmp_path / "sheet.png", "cpu")


def test_the_score_of_the_task_chooses_what_is_kept(run: Run, tmp_path: Path) -> None:
    """The loss falls to the end; the task likes the third epoch's image most."""

    def grey(level: float) -> Pair:
        return Pair(torch.zeros(1, 1, PX, PX), torch.full((1, 1, PX, PX), level), torch.zeros(1, PX, PX), (str(level),))

    lines: list[dict[str, Any]] = []
    moments: dict[int, dict[str, Tensor]] = {}
    fuser = Blend()

    def report(line: dict[str, Any]) -> None:
        if "valid_loss" in line:
            lines.append(line)
            moments[line["step"]] = {name: x.clone() for name, x in fuser.state_dict().items()}

    task = Wants(lambda fused: -abs(float(fused.mean()) - 0.6))
    best = run(
        fuser=fuser, objective=TDFusionLoss(OneWeight(), alpha=0.0), task=task, pairs=[grey(1.0), grey(0.9)],
        validation=[grey(1.0)], report=report, steps=12, validate_every=2, meta_steps=1, lr=0.1, lr_end=0.1, warmup=0,
    )  # fmt: skip
    assert best == max(lines, key=lambda line: float(line["valid_liked"]))
    assert best["valid_score"] == best["valid_liked"] and best["step"] not in (2, 12)
    assert min(lines, key=lambda line: float(line["valid_loss"]))["step"] == 12
    for name, x in load_file(tmp_path / "run" / "best.safetensors").items():
        assert torch.equal(x, moments[best["step"]][name]) and torch.equal(fuser.state_dict()[name], x)


def test_a_learned_loss_teaches_better_than_it_began(run: Run, tmp_path: Path) -> None:
    """The objective of the best moment lies beside the fuser, and is not the one the run began with."""
    torch.manual_seed(0)
    Small()
    began = TDFusionLoss(Generator()).state_dict()
    run()
    kept = load_file(tmp_path / "run" / "objective.safetensors")
    assert kept.keys() == began.keys()
    assert not torch.equal(kept["generator.conv.weight"], began["generator.conv.weight"])
    assert load_file(tmp_path / "run" / "task.safetensors").keys() == Segmenter().state_dict().keys()


# ---- what goes wrong -------------------------------------------------------------------------------------------------


class Breaks(Segmenter):
    """Its loss is not finite from the `at`-th call that carries a gradient to the image."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        self.calls += fused.requires_grad
        return super().loss(fused, target) * (float("nan") if self.calls >= self.at else 1.0)


def test_an_outer_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(run: Run, tmp_path: Path) -> None:
    objective, task = TDFusionLoss(Generator()), Breaks(at=2)
    first = {}

    def report(line: dict[str, Any]) -> None:
        first.update({name: x.clone() for name, x in objective.state_dict().items()})

    with pytest.raises(
        ValueError, match=r"the outer loss must stay finite, but is nan at step 0 on pair-\d, pair-\d;"
    ) as e:
        run(objective=objective, task=task, report=report)
    assert str(tmp_path / "run" / "not-finite.safetensors") in str(e.value)
    assert load_file(tmp_path / "run" / "not-finite.safetensors")["a"].shape == (2, 1, PX, PX)
    assert all(torch.equal(x, first[name]) for name, x in objective.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": None}, "a loss can only be learned from a task"),
        ({"objective": TDFusionLoss()}, "TDFusionLoss has no parameters to learn; give it a generator"),
        ({"only": 1}, "a meta step needs two pairs, one for each of its losses, got 1"),
        (
            {"only": 2, "interleaved": True},
            "needs pairs outside its batch for the outer loss, got 2 pairs for",
        ),
        ({"bare": True}, "a task needs labels, the training pairs have none"),
        (
            {"meta_steps": 0, "objective": TDFusionLoss(Generator())},
            "TDFusionLoss has trainable parameters, but there are",
        ),
        ({"task": None, "meta_steps": 0, "task_weight": 1.0}, "a loss can only be learned from a task"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    run: Run, pairs: list[Pair], tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    given = dict(changes)
    some = pairs[: given.pop("only", 6)]
    if given.pop("bare", False):
        some = [replace(pair, target=None) for pair in some]
    with pytest.raises(ValueError, match=sentence):
        run(pairs=some, **given)
    assert not list(tmp_path.iterdir()), "said before anything is written"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"task": Segmenter("abcde")},
            r"does not hold weights of Segmenter: last.bias is \(3,\) instead of \(5,\) and 1 more; repeat",
        ),
        ({"fuser": Blend()}, "does not hold weights of Blend: it lacks share"),
        ({"objective": TDFusionLoss(OneWeight())}, "does not hold weights of TDFusionLoss: it lacks generator.logits"),
        ({"task": None, "meta_steps": 0}, "another meta_steps"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    run: Run, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    run()
    before = read_results(tmp_path / "run")
    with pytest.raises(ValueError, match=sentence) as error:
        run(**changes)
    assert "choose a new folder" in str(error.value) and "\n" not in str(error.value)
    assert read_results(tmp_path / "run") == before


def test_a_run_with_the_names_of_before_goes_on(run: Run, tmp_path: Path) -> None:
    """Stopped in the second meta phase; its files, as an earlier version wrote them, give the same bits."""
    before = {new: old for old, new in OLD_NAMES.items()}

    def old(values: dict[str, Any]) -> dict[str, Any]:
        return {before.get(name, name): value for name, value in values.items()}

    run("straight", dihedral=True)
    with pytest.raises(Stopped):
        run(dihedral=True, report=stop_after(7))
    path, log_file = tmp_path / "run" / "last.pt", tmp_path / "run" / "log.jsonl"
    saved = torch.load(path, weights_only=True)
    state = saved["state"]
    state["sums"], state["best"] = old(state["sums"]), old(state["best"])
    state["schedule"] = old(state["schedule"]) | {"penalty": 0.0}
    assert "lesson" in state["best"] and state["schedule"]["turns"] is True and "dihedral" not in state["schedule"]
    log_file.write_text("".join(json.dumps(old(line)) + "\n" for line in read_log(tmp_path / "run")))
    torch.save(saved, path)
    run(dihedral=True)
    assert read_results(tmp_path / "run") == read_results(tmp_path / "straight")
    state["schedule"]["penalty"] = 0.5
    torch.save(saved, path)
    with pytest.raises(ValueError, match=r"penalty must be 0, got 0\.5"):
        run(dihedral=True)


def test_a_run_with_a_task_does_not_go_on_without(run: Run) -> None:
    run(meta_steps=0)
    with pytest.raises(ValueError, match="holds a run with a task; repeat its settings, or choose a new folder"):
        run(meta_steps=0, task=None)


@pytest.mark.parametrize("room", [300, 3000, 20000])
def test_a_full_disk_is_said_and_costs_nothing_but_the_last_steps(
    run: Run, straight: dict[str, Any], tmp_path: Path, room: int
) -> None:
    """The system itself refuses to write more than `room` bytes into a file, from the second epoch on."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(line: dict[str, Any]) -> None:
        if "valid_loss" not in line and line["step"] == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))

    options = {"outer": "adam", "task_first": 2}
    try:
        with pytest.raises(OSError) as error:
            run(report=fill, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "run") in f"{error.value} {error.value.filename}"
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["state"]["step"] == 3
    assert not list((tmp_path / "run").rglob(".tectum-*"))
    run(**options)
    assert read_results(tmp_path / "run") == straight


# ---- pictures --------------------------------------------------------------------------------------------------------


def columns(path: Path, num: int) -> list[np.ndarray]:
    """The pictures of the first row, (PX,PX,3) each."""
    with Image.open(path) as sheet:
        pixels = np.array(sheet)
    assert pixels.shape == (2 * PX, num * PX, 3), "two validation pairs"
    return [pixels[:PX, i * PX : (i + 1) * PX] for i in range(num)]


def test_the_sheet_of_a_learned_loss(run: Run, pairs: list[Pair], tmp_path: Path) -> None:
    """Visible, infrared, fused, w_a, w_b, the pull, the answer, the label."""
    run(task_px=(PX, PX))
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == ["000003.png", "000006.png"]
    visible, _, fused, w_a, w_b, pull, answer, label = columns(tmp_path / "run" / "samples" / "000006.png", 8)
    seen = torch.nn.functional.interpolate(pairs[6].a, (PX, PX), mode="bilinear")[0, 0]
    assert np.abs(visible[..., 0] - (seen * 255).numpy()).max() < 1
    assert np.abs(w_a.astype(int) + w_b - 255).max() <= 1
    assert fused.std() > 0 and 250 < max(pull.max(), 255 - pull.min()) <= 255
    colours = ((0, 0, 0), *PALETTE[:2])
    for picture in (answer, label):
        assert {tuple(c) for c in picture.reshape(-1, 3).tolist()} <= set(colours)
    mask = pairs[6].target[0]
    assert tuple(label[0, 0]) == colours[mask[0, 0]]


@pytest.mark.parametrize(
    ("changes", "num"), [({"meta_steps": 0}, 7), ({"meta_steps": 0, "objective": TDFusionLoss()}, 5)]
)
def test_sheets_show_what_there_is(run: Run, tmp_path: Path, changes: dict[str, Any], num: int) -> None:
    """No pull where nothing is learned, no weights where they are fixed."""
    run(**changes)
    assert len(columns(tmp_path / "run" / "samples" / "000006.png", num)) == num


def test_masks_and_boxes_are_painted() -> None:
    under = torch.full((20, 30), 0.5)
    mask = torch.tensor([[0, 1], [2, 255]])
    found = paint_target(mask, under)
    corners = [found[:, y, x].tolist() for y, x in ((0, 0), (0, 29), (19, 0), (19, 29))]
    assert corners == [[0] * 3, list(PALETTE[0]), list(PALETTE[1]), list(UNKNOWN)]
    boxes = {"boxes": torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.6, 0.2, 1.0, 0.8]]), "labels": torch.tensor([0, 1])}
    drawn = paint_target(boxes, under)
    assert drawn[:, 0, 0].tolist() == list(PALETTE[0]) and drawn[:, 10, 29].tolist() == list(PALETTE[1])
    assert drawn[:, 10, 5].tolist() == [128] * 3, "the picture shows through"
    unsure = paint_target({**boxes, "scores": torch.tensor([0.9, 0.1])}, under)
    assert unsure[:, 0, 0].tolist() == list(PALETTE[0]) and unsure[:, 10, 29].tolist() == [128] * 3
    assert torch.equal(
        paint_target({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}, under)[0], drawn[0].fill_(128)
    )


def test_signed_is_grey_at_zero_and_reaches_the_end_of_the_range() -> None:
    assert centre_on_grey(torch.tensor([[0.0, 2e-9, -4e-9]])).tolist() == [[0.5, 0.75, 0.0]]
    assert centre_on_grey(torch.zeros(2, 2)).tolist() == [[0.5, 0.5]] * 2
