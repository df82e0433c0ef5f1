"""Downstream comparison: paired cells, resumable and shared runs, differences that count seeds and images."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tectum.data.synthetic import CLASSES, render
from tectum.data.transforms import IGNORE_INDEX, resize_mask
from tectum.downstream import tables
from tectum.downstream.cell import load_predictions, train
from tectum.downstream.frames import Frames, class_weights, draw_batch, view_windows
from tectum.downstream.options import Budget
from tectum.downstream.run import Cell, Comparison, Input
from tectum.downstream.statistics import confusion_scorer, detection_scorer, seed_difference
from tectum.evaluation.methods import FolderMethod, FuserMethod, make_baseline
from tectum.io.files import lock_folder
from tectum.io.image import Picture, write_image
from tectum.metrics.task import DetectionScore, SegmentationScore
from tectum.pair import Pair

SIZE = (32, 40)


class Painter(nn.Module):
    """A tiny segmenter: two convolutions, dropout so that its draws must be paired too."""

    label_type = "masks"

    def __init__(self, classes: Sequence[str] = CLASSES, *, channels: int = 1) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.net = nn.Sequential(
            nn.Conv2d(channels, 8, 5, padding=2),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(8, len(self.classes), 3, padding=1),
        )

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(self.net(fused), target, ignore_index=IGNORE_INDEX)

    @torch.no_grad()
    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        self.eval()
        logits = functional.interpolate(self.net(fused), size=size or fused.shape[2:], mode="bilinear")
        return logits.argmax(1)

    def metric(self) -> SegmentationScore:
        return SegmentationScore(len(self.classes))


def street(seed: int, size: tuple[int, int] = (48, 60), boxes: bool = False) -> Pair:
    scene = render(seed, size)
    scale = torch.tensor([size[1], size[0], size[1], size[0]])
    target: Any = [{"boxes": scene.boxes / scale, "labels": scene.labels}] if boxes else scene.mask[None]
    visible = scene.visible.mean(0, keepdim=True)[None]
    return Pair(visible, scene.infrared[None], target, (f"street-{seed}",))


PAIRS = {"train": [street(seed) for seed in range(6)], "test": [street(seed) for seed in range(6, 10)]}


def comparison(out: Path, names: Sequence[str] = ("visible", "infrared"), **changes: Any) -> Comparison:
    budget = Budget(epochs=2, size=SIZE, batch=2, lr=1e-2)
    inputs = [Input(name, make_baseline(name), make_baseline(name)) for name in names]
    settings = {
        "make_task": lambda frames: Painter(),
        "inputs": inputs,
        "pairs": PAIRS,
        "out": out,
        "budget": budget,
        "num_seeds": 2,
    }
    return Comparison(**{**settings, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, list[Cell]]:
    run = comparison(tmp_path_factory.mktemp("run"))
    return run, run.run()


# ---- what a network is shown -----------------------------------------------------------------------------------------


def frames_of(num: int = 3) -> Frames:
    """Images whose brightness is the class of their mask, and boxes around a square of each."""
    images = torch.zeros(num, *SIZE, dtype=torch.uint8)
    for i in range(num):
        images[i, 4 + i : 14 + i, 6:20] = 200
    return Frames(tuple("abc"[:num]), images, tuple((image > 0).to(torch.uint8) for image in images))


def test_a_whole_window_is_the_image_itself_and_a_mirror_is_a_flip() -> None:
    frames = frames_of()
    one, none = torch.ones(2), torch.zeros(2, 2)
    images, masks = view_windows(frames, [2, 0], one, one, none)
    assert torch.equal((images[:, 0] * 255).round().byte(), frames.images[[2, 0]])
    assert masks.dtype == torch.int64 and torch.equal(masks[0], frames.targets[2].long())
    images, masks = view_windows(frames, [2, 0], one, -one, none)
    assert torch.allclose(images[:, 0], frames.images[[2, 0]].flip(2) / 255, atol=1e-5)
    assert torch.equal(masks[1], frames.targets[0].flip(1).long())


@pytest.mark.parametrize("step", range(6))
def test_masks_and_boxes_follow_their_image_through_every_window(step: int) -> None:
    frames = frames_of()
    images, masks = draw_batch(frames, 4, 1.5, 0, step)
    inside = masks != IGNORE_INDEX
    assert set(masks.unique().tolist()) <= {0, 1, IGNORE_INDEX}
    assert images[:, 0][masks == 1].min() > 0.19  # a corner has a quarter of its pixel at least
    agree = ((images[:, 0] > 0.4) == (masks == 1))[inside].float().mean()
    assert agree > 0.98
    boxed = replace(frames, targets=tuple(around(mask) for mask in frames.targets))
    again, boxes = draw_batch(boxed, 4, 1.5, 0, step)
    assert torch.equal(again, images)
    for mask, found in zip(masks, boxes, strict=True):
        expected = around((mask == 1).to(torch.uint8))["boxes"]
        assert torch.allclose(found["boxes"], expected, atol=0.06) and found["labels"].tolist() == [1]


def around(mask: Tensor) -> dict[str, Tensor]:
    row, column = mask.nonzero().unbind(1)
    height, width = mask.shape
    box = [column.min() / width, row.min() / height, (column.max() + 1) / width, (row.max() + 1) / height]
    return {"boxes": torch.tensor([box]), "labels": torch.tensor([1])}


def test_an_epoch_shows_every_image_once_and_a_seed_is_a_seed() -> None:
    frames = Frames(
        tuple("abcd"),
        (torch.arange(4)[:, None, None] * 60).expand(4, *SIZE).to(torch.uint8),
        (torch.zeros(SIZE, dtype=torch.uint8),) * 4,
    )
    middles = [draw_batch(frames, 2, 1.0, 3, step)[0][:, 0, 16, 20] * 255 / 60 for step in range(4)]
    assert torch.cat(middles[:2]).round().sort().values.tolist() == [0, 1, 2, 3]
    assert torch.cat(middles[2:]).round().sort().values.tolist() == [0, 1, 2, 3]
    assert torch.equal(draw_batch(frames, 2, 1.5, 3, 1)[0], draw_batch(frames, 2, 1.5, 3, 1)[0])
    assert not torch.equal(draw_batch(frames, 4, 1.5, 3, 1)[0], draw_batch(frames, 4, 1.5, 4, 1)[0])


def test_rare_classes_weigh_more() -> None:
    mask = torch.tensor([[0] * 90 + [1] * 9 + [2, IGNORE_INDEX]], dtype=torch.uint8)
    frames = Frames(("a",), torch.zeros(1, 1, 101, dtype=torch.uint8), (mask,))
    assert class_weights(frames, 3, 0.0) == [1, 1, 1]
    weights = class_weights(frames, 3, 0.5)
    assert weights[1] / weights[0] == pytest.approx(10**0.5, rel=1e-3)
    assert weights[0] * 0.9 + weights[1] * 0.09 + weights[2] * 0.01 == pytest.approx(1, rel=1e-3)


def test_a_mask_is_made_small_by_the_pixel_at_each_centre() -> None:
    mask = torch.arange(12, dtype=torch.uint8).reshape(3, 4)
    assert resize_mask(mask, (1, 2)).tolist() == [[5, 7]]
    assert torch.equal(resize_mask(mask, (3, 4)), mask)
    big = functional.interpolate(mask[None, None].float(), size=(7, 9), mode="nearest-exact")[0, 0]
    assert torch.equal(resize_mask(mask, (7, 9)).float(), big)


# ---- cells -----------------------------------------------------------------------------------------------------------


def test_inputs_of_a_seed_are_paired(tmp_path: Path) -> None:
    """The same images under two names give the same bits; seeds differ."""
    twins = [Input(name, make_baseline("average"), make_baseline("average")) for name in ("one", "two")]
    cells = comparison(tmp_path, inputs=twins).run()
    rows = {(cell.input, cell.seed): cell.result for cell in cells}
    for seed in (0, 1):
        one, two = rows["one", seed], rows["two", seed]
        assert one is not None and two is not None
        assert one["losses"] == two["losses"] and one["confusion"] == two["confusion"]
    assert rows["one", 0]["losses"] != rows["one", 1]["losses"]  # type: ignore[index]


def test_a_row_says_what_its_predictions_say(finished: tuple[Comparison, list[Cell]]) -> None:
    run, cells = finished
    assert [(cell.input, cell.seed) for cell in cells] == [
        ("visible", 0),
        ("infrared", 0),
        ("visible", 1),
        ("infrared", 1),
    ]
    for cell in cells:
        assert cell.result is not None
        score = SegmentationScore(len(CLASSES))
        found = load_predictions(cell.folder, run.frames[cell.input]["test"].names)
        for mask, pair in zip(found, PAIRS["test"], strict=True):
            score.update(mask[None].long(), pair.target)  # at the label's own size
        assert cell.result["scores"] == pytest.approx(score.numbers())
        assert np.array_equal(np.array(cell.result["confusion"]).sum(0), score.confusion.numpy())
        assert cell.result["steps"] == 6 and len(cell.result["losses"]) == 2
        assert cell.result["losses"][1] < cell.result["losses"][0]


def test_finished_cells_are_kept_and_the_torn_one_is_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = comparison(tmp_path, ("visible",)).run()
    before = [cell.result for cell in first]
    (first[1].folder / "cell.json").unlink()  # killed before its last file
    after = comparison(tmp_path).run(quiet=False)
    lines = capsys.readouterr().err.splitlines()
    done = [line.partition(": mIoU")[0] for line in lines if "s a step" in line]
    assert done == ["infrared, seed 0", "visible, seed 1", "infrared, seed 1"]
    same = {key for key in before[1] or {} if "seconds" not in key}
    assert [{key: cell.result[key] for key in same} for cell in after if cell.result and cell.input == "visible"] == [
        {key: row[key] for key in same} for row in before if row
    ]


def test_the_files_of_a_run_have_the_keys_that_resuming_needs(finished: tuple[Comparison, list[Cell]]) -> None:
    """Folders of earlier versions have these: a key more or less in downstream.json would refuse them."""
    run, cells = finished
    settings = json.loads((run.out / "downstream.json").read_text(encoding="utf-8"))
    budget = {"epochs", "size", "batch", "lr", "warmup", "weight_decay", "clip", "zoom"}
    assert settings.keys() == budget | {"training labels", "test labels"} and settings["size"] == list(SIZE)
    result = json.loads((cells[0].folder / "cell.json").read_text(encoding="utf-8"))
    timing, scores = {"steps", "seconds", "seconds a step", "losses"}, {"scores", "IoU", "recall", "confusion"}
    assert result.keys() == {"input", "seed", "device", "images"} | timing | scores


def test_a_run_begun_otherwise_is_refused(tmp_path: Path) -> None:
    comparison(tmp_path, num_seeds=1).run()
    comparison(tmp_path, ("infrared", "average"), num_seeds=2).prepare()  # more inputs and seeds are no change
    with pytest.raises(ValueError, match=r"other settings \(epochs: 2 there, 3 here\)"):
        comparison(tmp_path, budget=Budget(epochs=3, size=SIZE, batch=2, lr=1e-2)).prepare()
    with pytest.raises(ValueError, match="test labels"):
        comparison(tmp_path, pairs={**PAIRS, "test": PAIRS["test"][:3]}).prepare()
    changed = [Input("visible", make_baseline("visible"), make_baseline("infrared"))]
    with pytest.raises(ValueError, match="the images of visible have changed"):
        comparison(tmp_path, inputs=changed).prepare()


def test_a_cell_in_work_is_left_to_its_process(tmp_path: Path) -> None:
    run = comparison(tmp_path, num_seeds=1)
    run.prepare()
    with lock_folder(tmp_path / "cells" / "visible" / "seed-0") as mine:
        assert mine
        cells = run.run()
    assert [cell.result is None for cell in cells] == [True, False]
    found = tables.summarise(run, cells, CLASSES)
    assert "n/a" in tables.text_table(found) and "Not finished: 1 of visible." in tables.notes(found)
    assert [cell.result is None for cell in run.run()] == [False, False]


@pytest.mark.skipif(sys.platform == "win32", reason="locks need fcntl")
def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tectum.io.files import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    with lock_folder(tmp_path) as mine:
        assert not mine
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for _ in range(50):
        with lock_folder(tmp_path) as mine:
            if mine:
                break
        time.sleep(0.05)
    assert mine


def test_a_loss_that_is_not_finite_ends_its_cell_alone(tmp_path: Path) -> None:
    class Exploding(Painter):
        def loss(self, fused: Tensor, target: Tensor) -> Tensor:
            loss = super().loss(fused, target)
            return loss / 0 if fused.mean() > 0.25 else loss

    bright = [Pair(p.a * 0 + 0.9, p.b * 0.2, p.target, p.name) for p in PAIRS["train"]]
    run = comparison(tmp_path, make_task=lambda frames: Exploding(), pairs={**PAIRS, "train": bright}, num_seeds=1)
    cells = run.run()
    assert [cell.result is None for cell in cells] == [True, False]
    assert list(run.failures) == ["visible, seed 0"] and "must stay finite" in run.failures["visible, seed 0"]


def test_no_memory_left_ends_its_cell_alone(tmp_path: Path) -> None:
    class Large(Painter):
        def loss(self, fused: Tensor, target: Tensor) -> Tensor:
            if fused.mean() > 0.25:
                raise torch.OutOfMemoryError("out of memory, tried to allocate 3 TiB\nand a long story")
            return super().loss(fused, target)

    bright = [Pair(p.a * 0 + 0.9, p.b * 0.2, p.target, p.name) for p in PAIRS["train"]]
    run = comparison(tmp_path, make_task=lambda frames: Large(), pairs={**PAIRS, "train": bright}, num_seeds=1)
    assert [cell.result is None for cell in run.run()] == [True, False]
    assert run.failures == {"visible, seed 0": "out of memory, tried to allocate 3 TiB"}


def test_images_made_here_are_kept_until_their_sources_change(tmp_path: Path) -> None:
    made: list[float] = []

    def brighter(visible: Picture, infrared: Picture) -> Tensor:
        made.append(float(visible.y.mean()))
        return torch.maximum(visible.y, infrared.y)

    method = FuserMethod("ours", brighter, settings={"system": "ours"})

    def prepared(pairs: dict[str, list[Pair]]) -> Comparison:
        made.clear()
        run = comparison(tmp_path, inputs=[Input("ours", method, method)], pairs=pairs)
        run.prepare()
        return run

    first = prepared(PAIRS)
    assert len(made) == 10
    again = prepared(PAIRS)
    assert not made and again.images_fingerprint("ours") == first.images_fingerprint("ours")
    p = PAIRS["train"][2]
    changed = prepared(
        {**PAIRS, "train": [*PAIRS["train"][:2], Pair(1 - p.a, p.b, p.target, p.name), *PAIRS["train"][3:]]}
    )
    assert len(made) == 1
    same = [
        torch.equal(*x)
        for x in zip(first.frames["ours"]["train"].images, changed.frames["ours"]["train"].images, strict=True)
    ]
    assert same == [True, True, False, True, True, True]
    with (tmp_path / "fused" / "ours" / "test" / "sources.jsonl").open("a") as lines:
        lines.write('{"street-6": "')  # cut short
    prepared(PAIRS)
    assert len(made) == 1, "the pair that was changed back"


class Named(list[Pair]):
    """Pairs that know their names without being read, as data sets do."""

    @property
    def names(self) -> list[str]:
        return [pair.name[0] for pair in self]


def test_an_input_that_lacks_images_is_told_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "fused").mkdir()
    for pair in PAIRS["train"]:
        write_image(tmp_path / "fused" / f"{pair.name[0]}.png", np.full((48, 60), 90, np.uint8))
    fused = FolderMethod("ours", str(tmp_path / "fused"))
    run = comparison(tmp_path / "run", inputs=[Input("ours", fused, fused)])
    run.pairs = {part: Named(pairs) for part, pairs in PAIRS.items()}
    with pytest.raises(FileNotFoundError, match=r"every training and test pair, .* has none for street-6, street-7"):
        run.prepare()
    assert not run.frames
    run.pairs = {"train": Named(PAIRS["train"]), "test": Named(PAIRS["train"][:2])}
    with pytest.raises(ValueError, match="has one image for both of street-0, street-1; give a folder with train and"):
        run.prepare()
    run.pairs = {"train": Named(PAIRS["train"][:4]), "test": Named(PAIRS["train"][4:])}
    run.prepare()
    assert run.frames["ours"]["train"].images.unique().tolist() == [90]


def test_training_lowers_the_loss_and_needs_parameters() -> None:
    frames = frames_of()
    torch.manual_seed(0)
    losses = train(Painter(("nothing", "square")), frames, Budget(epochs=12, size=SIZE, batch=3, lr=2e-2), 0)
    assert len(losses) == 12 and losses[-1] < 0.5 * losses[0]
    with pytest.raises(ValueError, match="no parameters to train"):
        train(nn.Identity(), frames, Budget(size=SIZE), 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be greater than 0"),
        ({"lr": float("nan")}, "lr must be"),
        ({"size": (8, 200)}, "at least 32 pixels high and wide, got 200x8"),
        ({"zoom": 0.5}, "zoom must be"),
    ],
)
def test_a_budget_that_trains_nothing_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**wrong)


def test_the_rate_rises_and_falls_to_zero() -> None:
    budget = Budget(lr=1.0, warmup=0.1)
    rates = [budget.rate(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(1.0) and rates[0] < 0.1 and rates[-1] < 0.001
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


# ---- differences -----------------------------------------------------------------------------------------------------


def repeated(score: Callable[[list[int]], dict[str, float]], weights: np.ndarray) -> dict[str, list[float]]:
    """The slow way: a data set with every image as often as its weight says."""
    rows = [score([i for i, n in enumerate(row) for _ in range(int(n))]) for row in weights]
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("without", [(), (2,)])
def test_weighted_confusions_are_those_of_repeated_images(without: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 3, (2, 5, 6, 6), generator=generator)
    masks[1][masks[1] == 2] = 1  # class 2 is seldom there
    masks[1, 0, 0, 0] = 2
    single = []
    for found, target in zip(*masks, strict=True):
        one = SegmentationScore(3)
        one.update(found[None], target[None])
        single.append(one.confusion.numpy())

    def score(images: list[int]) -> dict[str, float]:
        whole = SegmentationScore(3)
        whole.update(masks[0, images], masks[1, images])
        found = whole.compute(without=without)
        return {"mIoU": found.miou, "mAcc": found.macc}

    weights = np.array([[1, 1, 1, 1, 1], [0, 2, 1, 2, 0], [5, 0, 0, 0, 0]], np.float64)
    quick = confusion_scorer(np.stack(single).astype(np.float64), without)(weights)
    assert {name: pytest.approx(values) for name, values in quick.items()} == repeated(score, weights)


def test_weighted_average_precision_is_that_of_repeated_images() -> None:
    generator = torch.Generator().manual_seed(2)

    def boxes(num: int) -> Tensor:
        low = torch.rand(num, 2, generator=generator) * 0.6
        return torch.cat([low, low + 0.1 + 0.3 * torch.rand(num, 2, generator=generator)], 1)

    found, targets = [], []
    for _ in range(6):
        truth = boxes(4)
        guesses = torch.cat([truth + 0.02 * torch.rand(4, 4, generator=generator), boxes(6)])
        scores = torch.rand(10, generator=generator)
        labels = torch.randint(0, 2, (4,), generator=generator)
        found.append(
            {
                "boxes": guesses,
                "scores": scores,
                "labels": torch.cat([labels, torch.randint(0, 3, (6,), generator=generator)]),
            }
        )
        targets.append({"boxes": truth, "labels": labels})

    def score(images: list[int]) -> dict[str, float]:
        whole = DetectionScore(3)
        whole.update([found[i] for i in images], [targets[i] for i in images])
        result = whole.compute()
        return {"mAP50": result.map50, "mAP75": result.map75}

    weights = np.array([[1, 1, 1, 1, 1, 1], [0, 2, 1, 3, 0, 0], [0, 0, 6, 0, 0, 0]], np.float64)
    quick = detection_scorer(found, targets, 3)(weights)
    slow = repeated(score, weights)
    assert 0 < slow["mAP75"][0] < slow["mAP50"][0] < 1
    assert {name: pytest.approx(values) for name, values in quick.items()} == slow


def test_an_interval_counts_images_and_seeds() -> None:
    found = seed_difference([0.03, 0.05, 0.04], np.stack([np.linspace(0.03, 0.05, 1001)] * 3))
    assert found.mean == pytest.approx(0.04) and found.half_images == pytest.approx(0.0095)
    assert found.half_seeds == pytest.approx(4.302652730 * 0.01 / 3**0.5, rel=1e-6)
    assert found.high - found.mean == pytest.approx((found.half_images**2 + found.half_seeds**2) ** 0.5)
    assert found.verdict == "better"
    assert seed_difference([0.03, 0.05, -0.02], np.full((3, 9), 0.02)).verdict == "not clear"
    alone = seed_difference([0.04], np.full((1, 9), 0.04))
    assert np.isnan(alone.half_seeds) and alone.verdict == "not clear"


def test_intervals_cover_the_truth() -> None:
    """Crossed effects of 3 seeds and 40 images, a true difference of 0.5: the 95 % interval misses it seldom."""
    generator = np.random.default_rng(4)
    misses = 0
    for _ in range(400):
        seed, image = generator.normal(0, 1, (3, 1)), generator.normal(0, 4, (1, 40))
        values = 0.5 + seed + image + generator.normal(0, 3, (3, 40))
        draws = generator.multinomial(40, np.full(40, 1 / 40), size=300) / 40
        found = seed_difference(values.mean(1).tolist(), values @ draws.T)
        misses += not found.low <= 0.5 <= found.high
    assert misses / 400 < 0.06


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_the_table_has_the_layout_of_the_paper(finished: tuple[Comparison, list[Cell]], tmp_path: Path) -> None:
    run, cells = finished
    found = tables.summarise(run, cells, CLASSES, title="streets", without=("lamp",))
    assert found.scores == ("mAcc", "mIoU", "mAcc without lamp", "mIoU without lamp")
    rows = {(cell.input, cell.seed): cell.result for cell in cells if cell.result is not None}
    values = [rows["infrared", seed]["scores"]["mIoU"] for seed in (0, 1)]
    assert found.means["infrared"]["mIoU"].mean == pytest.approx(np.mean(values))
    assert found.means["infrared"]["mIoU"].sd == pytest.approx(np.std(values, ddof=1))
    own = [rows["visible", seed]["scores"]["mIoU"] for seed in (0, 1)]
    assert found.differences["infrared"]["mIoU"].seeds == pytest.approx(np.subtract(values, own))
    tables.write_tables(found, cells, tmp_path)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| Scores, % | mAcc | mIoU |" in text and f"{100 * np.mean(values):.2f} ± " in text
    lines = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5 and lines[0].startswith("input,seed,mIoU,mAcc,IoU background")
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["reference"] == "visible"
    with pytest.raises(ValueError, match="unknown class 'lamb'; did you mean 'lamp'"):
        tables.summarise(run, cells, CLASSES, without=("lamb",))
    with pytest.raises(ValueError, match="unknown input 'fixed'"):
        tables.summarise(run, cells, CLASSES, reference="fixed")
