"""Recipes, and the verbs `train` and `weights` as a person types them."""

import importlib.util
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from small_training import Generator, OneWeight, Small
from tectum.balance import TaskFusionBalance
from tectum.cli import main
from tectum.data.parts import read_split
from tectum.data.synthetic import Scene, render, save
from tectum.models import SYSTEMS, TDFusion, TDFusionLoss
from tectum.models.tdfusion import LossGenerator, WeightedSum
from tectum.pretrained import loading as weights
from tectum.protocols import System, resolve
from tectum.training import recipes
from tectum.training.command import Train
from tectum.training.recipes.build import build
from tectum.training.schedule import Schedule
from test_data_sets import write_masks, write_pair, write_xml, write_yolo

TINY = ["--steps", "4", "--batch", "2", "--crop-px", "16", "--quiet"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of seven small pairs."""
    for seed in range(7):
        save(render(seed, (32, 40)), tmp_path / "pairs", f"scene-{seed}")
    return tmp_path / "pairs"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """TDFusion with 8 channels, so that a step takes milliseconds."""
    monkeypatch.setitem(
        SYSTEMS, "tdfusion", System(lambda: TDFusion(8), TDFusionLoss, lambda **x: TDFusionLoss(LossGenerator(8), **x))
    )


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system of the same name that is smaller still."""
    monkeypatch.setitem(
        SYSTEMS, "tdfusion", System(Small, TDFusionLoss, lambda **options: TDFusionLoss(Generator(), **options))
    )


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_a_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    recipe = recipes.RECIPES[name]
    assert recipe.name == name
    with (Path(__file__).parent / "recipes.json").open() as file:  # every value, as version 0.1.0 wrote them
        (tmp_path / "golden.json").write_text(json.dumps(json.load(file)[name]))
    assert recipes.read(tmp_path / "golden.json") == recipe
    recipes.save(recipe, tmp_path / "recipe.json")
    assert recipes.read(tmp_path / "recipe.json") == recipe


def test_the_table_holds_these_recipes() -> None:
    assert sorted(recipes.RECIPES) == sorted(json.loads((Path(__file__).parent / "recipes.json").read_text()))


def test_a_recipe_of_before_without_its_penalty_is_refused(tmp_path: Path) -> None:
    content = json.loads((Path(__file__).parent / "recipes.json").read_text())["tdfusion-fixed"]
    content["schedule"]["penalty"] = 0.1
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"penalty must be 0, got 0\.1"):
        recipes.read(tmp_path / "recipe.json")


def test_a_recipe_of_before_with_the_published_loss(tmp_path: Path) -> None:
    """`variant` was an option of the objective: where the fuser is the same, it is the published system now."""
    golden = json.loads((Path(__file__).parent / "recipes.json").read_text())
    for name in ("tdfusion-msrs", "tomiff-msrs"):
        (tmp_path / f"{name}.json").write_text(json.dumps(golden[name] | {"options": {"variant": "published"}}))
    recipe = recipes.RECIPES["tdfusion-msrs"].change(system="tdfusion-published")
    assert recipes.read(tmp_path / "tdfusion-msrs.json") == recipe
    assert Train("tdfusion-msrs", "run", variant="published").make_recipe() == recipe
    with pytest.raises(ValueError, match="the published loss has its own fuser now, system tomiff-published"):
        recipes.read(tmp_path / "tomiff-msrs.json")
    whole = recipe.ablate("V")
    objective = resolve(SYSTEMS, whole.system, noun="system").objective(**whole.options)  # type: ignore[misc]
    assert type(objective) is SYSTEMS["tdfusion-published"].objective


def test_a_published_system_starts_from_weights_of_its_own_network_only(capsys: pytest.CaptureFixture[str]) -> None:
    same = Train("tdfusion-msrs-small", "run", variant="published").make_recipe()
    assert (same.system, same.start) == ("tdfusion-published", "tdfusion-fixed-msrs") and not capsys.readouterr().err
    other = Train("tomiff-msrs-small", "run", variant="published").make_recipe()
    assert (other.system, other.start) == ("tomiff-published", None)
    assert "tomiff-published starts from random weights" in capsys.readouterr().err


VALUE = recipes.RECIPES["tdfusion-fixed"].change(name="value", crop_px=24)
NONSENSE = "no recipe"


def test_a_recipe_with_the_modules_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    recipe = own().change(system="tectum.models.tdfusion:WEIGHTED_SUM")
    recipes.save(recipe, tmp_path / "recipe.json")
    text = (tmp_path / "recipe.json").read_text()
    (tmp_path / "recipe.json").write_text(text.replace("tectum.models.", "tectum.systems."))
    assert recipes.read(tmp_path / "recipe.json") == recipe


@pytest.mark.parametrize(("name", "crop_px"), [("test_recipes:VALUE", 24), ("test_recipes:own", 16)])
def test_a_recipe_of_ones_own_is_a_value_or_a_function(name: str, crop_px: int) -> None:
    assert Train(name, "run").make_recipe().schedule.crop_px == crop_px  # type: ignore[misc]


def test_every_setting_is_a_flag_that_replaces_the_recipes_value() -> None:
    """Whatever the schedule and the flag are made from, one value of each type arrives."""
    schedule = Train("test_recipes:VALUE", "run", clip=0.0, warm_epochs=3, task_px=(64, 96), swap=True).make_recipe()  # type: ignore[misc]
    assert schedule == VALUE.change(clip=0.0, warm_epochs=3, task_px=(64, 96), swap=True)
    flags = {field.name for field in fields(Train)}
    assert {field.name for field in fields(Schedule)} <= flags


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schedule": {"stepps": 3}}', '{"schedule": {}, "colour": 1}'])
def test_a_file_that_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ValueError, match="must hold a recipe"):
        recipes.read(tmp_path / "recipe.json")


def test_validation_pairs_are_not_trained_on(pairs: Path) -> None:
    built = build(recipes.RECIPES["tdfusion-fixed"], pairs)
    names = [[part[i].name[0] for i in range(len(part))] for part in (built.pairs, built.validation)]
    assert sorted(names[0] + names[1]) == [f"scene-{i}" for i in range(7)]
    assert names[1] == ["scene-0", "scene-6"]


def names_of(pairs: Any) -> list[str]:
    return [pairs[i].name[0] for i in range(len(pairs))]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("divided_by", ["folders", "lists", "one list"])
def test_a_part_val_is_what_a_run_validates_on(
    divided_by: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"train": [0, 1, 2, 3], "val": [4, 5], "test": [6]}
    if divided_by == "one list":
        parts = {"train": [0, 1, 2, 3, 6], "val": [4, 5]}
        (pairs / "val.txt").write_text("scene-4\nscene-5\n")
    for part, seeds in parts.items():
        if divided_by == "lists":
            (pairs / f"{part}.txt").write_text("".join(f"scene-{seed}\n" for seed in seeds))
        for seed in seeds if divided_by == "folders" else ():
            for folder in ("vi", "ir"):
                (pairs / part / folder).mkdir(parents=True, exist_ok=True)
                (pairs / folder / f"scene-{seed}.png").rename(pairs / part / folder / f"scene-{seed}.png")
    run = ["-o", str(tmp_path / "run"), *TINY[:-1]]
    assert main(["train", "tdfusion-fixed", "--data", str(pairs), *run]) == 0
    line = f"tectum: validating on the 2 pairs of the part val in {pairs}\n"
    assert line in capsys.readouterr().err
    built = build(recipes.RECIPES["tdfusion-fixed"], pairs)
    assert names_of(built.validation) == ["scene-4", "scene-5"]
    assert names_of(built.pairs) == [f"scene-{seed}" for seed in parts["train"]]


def test_a_part_val_has_a_place_before_a_packaged_list(tmp_path: Path) -> None:
    trained = read_split("msrs-validation")
    for part, names in (("train", trained), ("val", ["a"])):
        write_pair(tmp_path / "msrs" / part / "vi", tmp_path / "msrs" / part / "ir", *names)
        write_masks(tmp_path / "msrs" / part / "labels", *names)
    built = build(recipes.RECIPES["tdfusion-fixed-msrs"], tmp_path / "msrs")
    assert names_of(built.validation) == ["a"] and names_of(built.pairs) == sorted(trained)


def test_a_part_val_that_is_trained_on_too_is_refused(pairs: Path) -> None:
    (pairs / "train.txt").write_text("scene-0\nscene-1\nscene-2\n")
    (pairs / "val.txt").write_text("scene-2\nscene-3\n")
    with pytest.raises(ValueError, match="1 of 2 validation pairs are trained on, the first is scene-2"):
        build(recipes.RECIPES["tdfusion-fixed"], pairs)
    assert main(["data", "check", str(pairs), "--quiet"]) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tdfusion-fixed-street", "--balance", "moving"], "system 'tdfusion' has no balance; choose none"),
        (["tdfusion-street", "--task", "segformer-b9"], "unknown task 'segformer-b9'"),
        (["tdfusion-street", "--task", "dfine-n"], "task 'dfine-n' learns from boxes"),
        (["tdfusion-street", "--task-weights", "nowhere"], "nowhere"),
        (["tdfusion-street", "--meta-steps", "0"], "there are no meta steps to train them"),
        (["tdfusion-street", "--ablation", "IV", "--batch", "30"], "needs pairs outside its batch"),
        (["tdfusion-fixed-street", "--crop-px", "241"], "crops of 241 px need images at least as large, a synthetic"),
    ],
)
def test_options_are_refused_before_scenes_are_rendered(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tectum.training.recipes.build.render", None)
    assert main(["train", *arguments, "-o", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


@pytest.mark.usefixtures("small")
def test_scenes_are_rendered_once_and_not_for_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds: list[int] = []

    def count(seed: int, size: tuple[int, int]) -> Scene:
        seeds.append(seed)
        return render(seed, (32, 40))

    monkeypatch.setattr("tectum.training.recipes.build.render", count)
    monkeypatch.setattr("tectum.training.recipes.build._NUM_SCENES", 7)
    command = ["train", "tdfusion-fixed-street", "-o", str(tmp_path / "run"), *TINY[:-1]]
    assert main(command) == 0
    assert sorted(seeds) == list(range(7))
    assert capsys.readouterr().err.count("tectum: rendering synthetic scenes\n") == 1
    assert main([*command, "--crop-px", "24"]) == 2
    assert capsys.readouterr().err.endswith(
        "holds a run with another crop_px; repeat its settings, or choose a new folder\n"
    )
    assert len(seeds) == 7


def test_the_seed_decides_the_initial_weights(pairs: Path) -> None:
    recipe = recipes.RECIPES["tdfusion-fixed"]
    first, again, other = (
        build(replace(recipe, schedule=Schedule(seed=seed)), pairs).fuser.state_dict() for seed in (0, 0, 1)
    )
    name = "encoder_visible.0.attn.qkv.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


@pytest.mark.usefixtures("small")
def test_train_leaves_weights_that_fuse_takes(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", "tdfusion-fixed", "--data", str(pairs), "-o", str(run), *TINY]) == 0
    assert "best.safetensors: validation intensity" in capsys.readouterr().out
    assert recipes.read(run / "recipe.json").schedule.steps == 4
    line = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 4 and line["valid_loss"] > 0
    assert list((run / "samples").glob("*.png"))
    vi, ir = pairs / "vi" / "scene-0.png", pairs / "ir" / "scene-0.png"
    out = tmp_path / "fused.png"
    assert main(["fuse", str(vi), str(ir), "-o", str(out), "--weights", str(run / "best.safetensors")]) == 0
    assert out.exists()


def test_a_packaged_loss_is_taken_as_it_is(pairs: Path) -> None:
    recipe = replace(recipes.RECIPES["tdfusion-refit"], options={"alpha": 0.25})
    built = build(recipe, pairs)
    taught = weights.load_objective("tdfusion-msrs")
    (a, b) = (built.pairs[0].a, built.pairs[0].b)
    terms, known = (objective(a, a, b) for objective in (built.objective, taught))
    assert terms["intensity"] == known["intensity"] > 0
    assert float(terms["gradient"]) == pytest.approx(float(known["gradient"]) / 4)
    assert not any(p.requires_grad for p in built.objective.parameters())
    assert torch.equal(built.fuser(a, b), weights.load("tdfusion-fixed-msrs")(a, b)), "the fuser begins with these"
    control = build(recipe.ablate("I"), pairs).objective
    assert not list(control.parameters()) and control(a, a, b)["gradient"] == terms["gradient"]


@pytest.mark.usefixtures("tiny")
def test_the_second_stage_takes_the_loss_of_the_first(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--loss RUN: the very weights and options that RUN has learned, and the same pixels in the loss."""
    first, second = tmp_path / "first", tmp_path / "second"
    taught = ["train", "test_recipes:own", "--data", str(pairs), "-o", str(first), "--quiet", "--alpha", "0.5"]
    assert main(taught) == 0
    refit = ["train", "tdfusion-fixed", "--data", str(pairs), "--loss", str(first), *TINY]
    assert main([*refit, "--start", str(first / "best.safetensors"), "-o", str(second)]) == 0
    learned, taken = (load_file(run / "objective.safetensors") for run in (first, second))
    assert learned.keys() == taken.keys() and all(torch.equal(taken[name], x) for name, x in learned.items())
    recipe = recipes.read(second / "recipe.json")
    built = build(recipe, pairs)
    assert built.objective.alpha == 0.5 and not any(p.requires_grad for p in built.objective.parameters())
    assert build(replace(recipe, options={"alpha": 0.25}), pairs).objective.alpha == 0.25
    begun = load_file(first / "best.safetensors")
    assert all(torch.equal(x, begun[name]) for name, x in built.fuser.state_dict().items())
    capsys.readouterr()
    assert main(["train", "tdfusion-fixed", "--data", str(pairs), "--loss", str(second), "-o", str(first / "x")]) == 2
    assert "has a fixed loss; give --loss the folder of one whose loss was learned" in capsys.readouterr().err


def test_a_task_begins_with_weights_of_another_run() -> None:
    chosen = Train("tdfusion-street", "run", task_weights="task.safetensors", alpha=0.1).make_recipe()
    assert chosen.task_options["weights"] == "task.safetensors" and chosen.options["alpha"] == 0.1
    assert chosen.schedule.task_first == 0 < recipes.RECIPES["tdfusion-street"].schedule.task_first


@pytest.mark.usefixtures("small")
def test_a_run_is_repeated_from_its_recipe(pairs: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    assert main(["train", "tdfusion-fixed", "--data", str(pairs), "-o", str(first), "--seed", "3", *TINY]) == 0
    recipe = str(first / "recipe.json")
    assert main(["train", recipe, "--data", str(pairs), "-o", str(again), "--quiet"]) == 0
    a, b = (load_file(run / "best.safetensors") for run in (first, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tdfusion-fixd"], "unknown recipe 'tdfusion-fixd'; did you mean 'tdfusion-fixed'?"),
        (["tdfusion-fixed"], "needs a folder of pairs (vi and ir inside); give it with --data"),
        (["tdfusion-fixed", "--data", "nowhere"], "nowhere does not exist; check the path"),
        (["tdfusion-fixed-street", "--steps", "0"], "steps must be greater than 0 and finite, got 0"),
        (["missing.json"], "a recipe must be a file"),
        (["test_recipes:NONSENSE"], "must be a Recipe or a function that returns one, got str"),
        (["tdfusion-fixed", "--alpha", "-1"], "--alpha must be 0 or greater and finite, got -1.0"),
        (["tdfusion-fixed", "--task-weights", "x"], "has no task to give weights to; leave out --task-weights"),
        (["tdfusion-own", "--loss", "tdfusion-msrs"], "learns its own loss; leave out --loss"),
    ],
)
def test_train_says_what_is_wrong(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments, "-o", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


# ---- a learned loss --------------------------------------------------------------------------------------------------


def own() -> recipes.Recipe:
    """The learned loss with a small task, on a folder: four steps of each kind."""
    schedule = Schedule(
        steps=4, batch=2, crop_px=16, lr=1e-3, warmup=0, validate_every=2, meta_steps=2, meta_lr=1e-2, task_px=(32, 32),
        task_batch=2,
    )  # fmt: skip
    return recipes.Recipe(
        name="own", system="tdfusion", data="folder", task="small_training:Segmenter", target="masks",
        learned=True, schedule=schedule,
    )  # fmt: skip


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("tiny")
def test_a_learned_loss_leaves_fuser_objective_and_task(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", "test_recipes:own", "--data", str(pairs), "-o", str(run), "--quiet"]) == 0
    assert "|w - 1/2|" in capsys.readouterr().out
    for line in lines(run):
        promised = {"step", "meta", "lr", "seconds", "outer_loss", "hypergradient", "train_intensity", "train_gradient"}
        assert (
            promised | {"train_task", "valid_loss", "valid_task", "valid_score", "valid_mIoU", "weight_deviation"}
            <= line.keys()
        )
    assert lines(run)[-1]["meta"] == 4
    assert {path.name for path in run.glob("*.safetensors")} == {
        "best.safetensors", "objective.safetensors", "task.safetensors",
    }  # fmt: skip
    TDFusionLoss(Generator()).load_state_dict(load_file(run / "objective.safetensors"))
    assert recipes.read(run / "recipe.json").task == "small_training:Segmenter"


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("which", recipes.ABLATIONS)
def test_ablations_do_what_they_say(pairs: Path, tmp_path: Path, which: str) -> None:
    run = tmp_path / "run"
    arguments = ["--data", str(pairs), "-o", str(run), "--quiet", "--meta-lr", "0.2", "--ablation", which]
    assert main(["train", "test_recipes:own", *arguments]) == 0
    line = lines(run)[-1]
    assert recipes.read(run / "recipe.json").name == f"own-{which}"
    learned = which in ("II", "III", "IV")
    assert ("outer_loss" in line) == ("weight_deviation" in line) == (run / "objective.safetensors").exists() == learned
    assert (line["train_gradient"] == 0) == (which == "II")
    assert ("train_task_in_fuser" in line) == (which in ("III", "V"))
    assert line["meta"] == (4 if learned else 0) and line["train_task"] > 0
    fuser = WeightedSum() if which == "V" else Small()
    fuser.load_state_dict(load_file(run / "best.safetensors"))
    if which == "IV":
        assert recipes.read(run / "recipe.json").schedule.interleaved
    if which == "V":
        assert line["train_intensity"] == 0 and line["train_gradient"] > 0


@pytest.mark.parametrize("which", recipes.ABLATIONS)
def test_ablations_of_every_recipe_have_an_objective(which: str) -> None:
    for learned in recipes.RECIPES.values():
        if learned.learned:
            recipe = learned.ablate(which)
            system = resolve(SYSTEMS, recipe.system, noun="system")
            objective = (system.learned if recipe.learned else system.objective)(**recipe.options)  # type: ignore[misc]
            assert bool(list(objective.parameters())) == recipe.learned == (which not in ("I", "V"))


@pytest.mark.parametrize("away", [True, False])
def test_a_loss_that_stays_at_one_half_is_said_to_have_failed(
    pairs: Path, tmp_path: Path, away: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = System(Small, TDFusionLoss, lambda: TDFusionLoss(OneWeight()))
    monkeypatch.setitem(SYSTEMS, "tdfusion", system)
    arguments = ["--data", str(pairs), "-o", str(tmp_path / "run"), "--quiet", "--meta-lr", "0.5" if away else "1e-6"]
    assert main(["train", "test_recipes:own", *arguments]) == (0 if away else 1)
    assert ("it has not been learned; raise --meta-lr or --meta-steps" in capsys.readouterr().err) == (not away)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ablation", "VI"], "ablation must be one of I, II, III, IV, V, got 'VI'"),
        (["--task", "dfine-n"], "task 'dfine-n' learns from boxes, recipe 'own' has masks"),
        (["--task", "segformer-b9"], "unknown task 'segformer-b9'; did you mean 'segformer-b"),
        (["--inner", "lion"], "inner must be one of adam, sgd, got 'lion'"),
        (["--task-px", "16", "32"], "task_px must be a height and a width of at least 32 pixels, got (16, 32)"),
        (["--precision", "bf17"], "precision must be 32-true or bf16-mixed, got 'bf17'"),
        (["--devices", "0"], "devices must be 1 or more, got 0"),
        (["--balance", "still"], "balance must be one of none, frozen, moving, got 'still'"),
        (["--balance", "moving"], "system 'tdfusion' has no balance; choose none, got 'moving'"),
    ],
)
def test_a_learned_recipe_says_what_is_wrong(
    pairs: Path, tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--data", str(pairs), "-o", str(tmp_path / "run"), "--quiet"]
    assert main(["train", "test_recipes:own", *run, *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_fixed_recipe_has_nothing_to_leave_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "tdfusion-fixed-street", "-o", str(tmp_path / "run"), "--ablation", "I"]
    assert main(arguments) == 2
    assert "an ablation needs a recipe whose loss is learned" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_flags_that_are_zero_count(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    command = ["train", "test_recipes:own", "--data", str(pairs), "-o", str(run), "--quiet"]
    assert main([*command, "--lr-end", "0", "--clip", "0"]) == 0
    schedule = recipes.read(run / "recipe.json").schedule
    assert (schedule.lr_end, schedule.clip) == (0, 0)
    assert main([*command[:-2], str(tmp_path / "other"), "--quiet", "--meta-steps", "0"]) == 2
    assert "has trainable parameters, but there are no meta steps to train them" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("arguments", "what"), [(["--alpha", "0.5"], "options"), (["--meta-lr", "0.1"], "meta_lr")])
def test_a_run_does_not_go_on_as_another(
    pairs: Path, tmp_path: Path, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "test_recipes:own", "--data", str(pairs), "-o", str(tmp_path / "run"), "--quiet"]
    assert main(command) == 0
    before = (tmp_path / "run" / "last.pt").read_bytes()
    assert main([*command, *arguments]) == 2
    assert f"holds a run with another {what}; repeat its settings" in capsys.readouterr().err
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


@pytest.mark.usefixtures("tiny")
def test_a_full_disk_is_one_sentence(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of more than 8 kB cannot be written; the checkpoint is larger."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))
    try:
        code = main(["train", "test_recipes:own", "--data", str(pairs), "-o", str(tmp_path / "run"), "--quiet"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert code == 1 and error.count("\n") == 1 and "None" not in error
    assert str(tmp_path / "run") in error and "disk" in error and "the same command then goes on" in error


# ---- the published recipes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_pairs", "task", "task_px"),
    [
        ("tdfusion-msrs", 1083, "segformer-b0", (240, 320)),
        ("tdfusion-fmb", 1220, "segformer-b0", (300, 400)),
        ("tdfusion-m3fd", 3150, "yolov8n", (192, 256)),
        ("tdfusion-llvip", 1203, "yolov8n", (256, 320)),
    ],
)
def test_published_constants(name: str, num_pairs: int, task: str, task_px: tuple[int, int]) -> None:
    recipe = recipes.RECIPES[name]
    schedule = recipe.schedule
    assert (recipe.task, schedule.task_px, schedule.steps) == (task, task_px, 40 * num_pairs)
    assert schedule.meta_due(schedule.steps - 1) == 8000
    rates = [schedule.rate(epoch * num_pairs) for epoch in (0, 9, 10, 20, 30, 39)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6, 1e-7, 1e-7])
    assert sum(200 * schedule.meta_lr * schedule.fade(epoch * num_pairs) for epoch in range(40)) == pytest.approx(
        0.2222
    )
    assert (schedule.batch, schedule.swap, schedule.crop_px) == (1, True, 256)
    assert (schedule.inner, schedule.outer, schedule.task_weight, schedule.clip) == ("sgd", "max", 0, 0)


@pytest.mark.parametrize("data", ["msrs", "fmb", "m3fd", "llvip"])
@pytest.mark.parametrize(("system", "meta_lr"), [("tomiff", 1e-2), ("sfofusion", 1e-4)])
def test_the_other_systems_take_the_same_constants(system: str, meta_lr: float, data: str) -> None:
    recipe, published = recipes.RECIPES[f"{system}-{data}"], recipes.RECIPES[f"tdfusion-{data}"]
    schedule = replace(published.schedule, swap=False, outer="adam", meta_lr=meta_lr)
    expected = replace(published, name=recipe.name, system=system, balance="moving", schedule=schedule)
    assert recipe == expected


def test_what_becomes_of_a_balance(pairs: Path) -> None:
    """The system's own where it moves or is frozen; ablation III puts a constant in its place."""
    street = recipes.RECIPES["sfofusion-street"]
    assert street.ablate("I").balance == street.ablate("IV").balance == "moving"
    third = street.ablate("III")
    assert (third.balance, third.schedule.task_weight) == ("none", 1.0)
    own = replace(recipes.RECIPES["tdfusion-fixed"], system="sfofusion")
    moving, frozen, none = (
        build(replace(own, balance=balance), pairs).balance for balance in ("moving", "frozen", "none")
    )
    assert isinstance(moving, TaskFusionBalance) and not moving.frozen
    assert isinstance(frozen, TaskFusionBalance) and frozen.frozen
    assert none is None


def tree(data: str, root: Path) -> Path:
    """Eight pairs in the layout that the authors of a set publish it in, masks and boxes where there are; enough for
    LLVIP's every tenth."""
    if data == "folder":
        for seed in range(8):
            save(render(seed, (64, 96)), root, f"scene-{seed}")
        return root
    stems = [f"{i:05d}" for i in range(51 if data == "llvip" else 8)]
    home = root / data.upper()
    if data in ("msrs", "fmb"):
        sides = ("vi", "ir", "label") if data == "msrs" else ("Visible", "Infrared", "Label")
        visible, infrared, labels = (home / "train" / side for side in sides)
        write_masks(labels, *stems, label=2)
        write_yolo(home / "train" / "boxes", *stems)
    else:
        sides = ("Vis", "Ir") if data == "m3fd" else ("visible/train", "infrared/train")
        visible, infrared = (home / side for side in sides)
        write_xml(
            home / ("Annotation" if data == "m3fd" else "Annotations"),
            *stems,
            label="People" if data == "m3fd" else "person",
        )
    write_pair(visible, infrared, *stems)
    return root


def learned_recipes() -> list[Any]:
    """All that are trained on a known set; those that only exchange the set are slow's."""
    names = sorted(name for name, x in recipes.RECIPES.items() if x.learned and x.data != "street")
    again = {"tdfusion-fmb-small", "tdfusion-m3fd-small", "tdfusion-llvip-small"}
    again |= {f"{system}-{data}" for system in ("tomiff", "sfofusion") for data in ("msrs", "fmb", "llvip")}
    again |= {"tomiff-m3fd", "sfofusion-msrs-small"}
    return [pytest.param(name, marks=[pytest.mark.slow] if name in again else []) for name in names]


@pytest.mark.parametrize("name", learned_recipes())
def test_a_recipe_runs_on_its_data(name: str, tmp_path: Path) -> None:
    """As it is, but for sizes and numbers of steps: network, task, start, layout, score."""
    recipe = recipes.RECIPES[name]
    if recipe.task.startswith("yolo") and importlib.util.find_spec("ultralytics") is None:
        pytest.skip("ultralytics is not installed: pip install 'tectum[yolo]'")
    tiny = {"steps": 2, "validate_every": 1, "meta_steps": 1, "warm_epochs": 0, "batch": 1, "crop_px": 16}
    tiny |= {"task_px": (32, 64), "task_batch": 1, "task_first": min(1, recipe.schedule.task_first)}
    recipes.save(replace(recipe, schedule=replace(recipe.schedule, **tiny)), tmp_path / "tiny.json")
    root, run = tree(recipe.data, tmp_path / "data"), tmp_path / "run"
    code = main(["train", str(tmp_path / "tiny.json"), "--data", str(root), "-o", str(run), "--quiet"])
    line = lines(run)[-1]
    assert code in (0, 1), "two steps may leave the loss at one half, which is said"
    assert line["meta"] == 2 and line["hypergradient"] > 0 and 0 < line["weight_deviation"] < 0.5
    assert ("valid_mIoU" if recipe.target == "masks" else "valid_mAP50") in line
    assert ("weight_task" in line) == (recipe.balance != "none")
    assert weights.load(recipe.system, run / "best.safetensors") is not None
    assert asdict(recipes.read(run / "recipe.json")) == asdict(recipes.read(tmp_path / "tiny.json"))


@pytest.mark.usefixtures("small")
def test_crops_larger_than_the_images_are_refused(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "tdfusion-fixed", "--data", str(pairs), "-o", str(tmp_path / "run"), "--quiet"]
    assert main(arguments) == 2
    assert "crops of 128 px need images at least as large" in capsys.readouterr().err


def test_weights_are_listed_with_card_and_notice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    text = capsys.readouterr().out
    assert "tdfusion-fixed-msrs" in text
    assert "not covered by that licence" in " ".join(text.split())
    assert main(["weights", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == weights.cards()


def test_convert_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "convert", str(tmp_path / "none.pth")]) == 2
    assert "a checkpoint must be a file" in capsys.readouterr().err
    (tmp_path / "text.pth").write_text("no checkpoint")
    assert main(["weights", "convert", str(tmp_path / "text.pth")]) == 2
    assert "without running code" in capsys.readouterr().err
    assert not (tmp_path / "text.safetensors").exists()


@pytest.mark.slow
def test_minutes_on_synthetic_scenes_make_people_visible(tmp_path: Path) -> None:
    """The recipe that needs no data, shortened: people stand out more than in the visible image and than untrained."""
    from tectum.color import rgb_to_ycbcr
    from tectum.nn.stages import fuse_tensors

    run = tmp_path / "run"
    assert main(["train", "tdfusion-fixed-street", "-o", str(run), "--steps", "60", "--quiet"]) == 0
    trained = weights.load("tdfusion", run / "best.safetensors")
    torch.manual_seed(0)
    untrained = TDFusion().eval()

    def contrast(image: torch.Tensor, people: torch.Tensor) -> float:
        return float(image[people].mean() - image[~people].mean())

    gains = []
    for seed in range(1000, 1008):
        scene = render(seed, (192, 256))
        people = scene.mask == 2
        if people.sum() < 100:
            continue
        visible = rgb_to_ycbcr(scene.visible)[0]
        after, before = (fuse_tensors(f, visible[None], scene.infrared[None])[0, 0] for f in (trained, untrained))
        gains.append((contrast(after, people), contrast(before, people), contrast(visible[0], people)))
    assert len(gains) >= 4
    after_mean, before_mean, visible_mean = (sum(x) / len(gains) for x in zip(*gains, strict=True))
    assert after_mean > 0.1
    assert after_mean > before_mean + 0.05
    assert after_mean > visible_mean + 0.1
