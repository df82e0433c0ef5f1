"""What fusion gained: who was found and missed, the drawings, the page, the command."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("jinja2", reason="the report needs jinja2: pip install 'tectum[report]'")

from tectum.cli import main
from tectum.console import parse_named
from tectum.data.synthetic import render, save
from tectum.downstream import tables
from tectum.downstream.cell import save_predictions
from tectum.downstream.command import Downstream, label_type
from tectum.downstream.frames import Frames
from tectum.downstream.inputs import Data, make_input
from tectum.downstream.instances import BoxInstances, MaskInstances, count_instances, find_instances
from tectum.downstream.options import Budget
from tectum.downstream.page import draw_predictions, featured_input, rank_by_gain, write_page
from tectum.downstream.run import Cell, Comparison, Input
from tectum.evaluation.methods import FolderMethod, make_baseline
from tectum.io.image import Picture, write_image
from tectum.models import SYSTEMS
from tectum.pair import Pair
from tectum.report.painting import FALSE, FOUND, MISSED, PALETTE, add_legend, frame_objects, paint

CLASSES = ("background", "car", "person")
SIZE = (100, 120)


def mask(*people: tuple[int, int, int, int]) -> torch.Tensor:
    """A mask with people at (top, left, bottom, right), and a car."""
    x = torch.zeros(SIZE, dtype=torch.uint8)
    x[80:95, 60:110] = 1
    for top, left, bottom, right in people:
        x[top:bottom, left:right] = 2
    return x


ONE, TWO, SPECK = (10, 10, 30, 20), (10, 40, 30, 50), (50, 5, 51, 7)


# ---- who was found ---------------------------------------------------------------------------------------------------


def test_a_person_is_found_when_half_of_it_is_covered() -> None:
    pieces = MaskInstances(mask(ONE, TWO, SPECK), 2)
    assert np.allclose(pieces.boxes, [[10 / 120, 0.1, 20 / 120, 0.3], [40 / 120, 0.1, 50 / 120, 0.3]])  # no speck
    found, false = pieces.match(mask((10, 10, 20, 20), (10, 40, 19, 50)))  # half of the first, 9 rows of the second
    assert found.tolist() == [True, False] and len(false) == 0
    found, false = pieces.match(mask((60, 90, 75, 100), (29, 19, 45, 30)))  # one elsewhere, one that touches the first
    assert found.tolist() == [False, False] and np.allclose(false, [[90 / 120, 0.6, 100 / 120, 0.75]])
    found, false = pieces.match(mask())
    assert not found.any() and len(false) == 0
    assert MaskInstances(mask(), 2).boxes.shape == (0, 4) and len(MaskInstances(mask(), 2).match(mask(ONE))[1]) == 1


def test_a_boxed_person_is_found_by_a_sure_detection_of_its_own() -> None:
    truth = {"boxes": torch.tensor([[0.1, 0.1, 0.3, 0.5], [0.6, 0.1, 0.8, 0.5]]), "labels": torch.tensor([2, 2])}
    boxes = torch.tensor(
        [[0.1, 0.1, 0.3, 0.5], [0.11, 0.1, 0.31, 0.5], [0.6, 0.1, 0.8, 0.5], [0.6, 0.1, 0.8, 0.5], [0.0, 0.8, 0.1, 0.9]]
    )
    answer = {
        "boxes": boxes,
        "scores": torch.tensor([0.9, 0.8, 0.24, 0.9, 0.3]),
        "labels": torch.tensor([2, 2, 2, 1, 2]),
    }
    found, false = BoxInstances(truth, 2).match(answer)
    assert found.tolist() == [True, False]  # the second only by an unsure one, and by a car
    assert np.allclose(false, [[0.11, 0.1, 0.31, 0.5], [0.0, 0.8, 0.1, 0.9]])  # the twin and one where nobody is
    empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    assert BoxInstances(truth, 2).match(empty)[0].tolist() == [False, False]


# ---- a run whose predictions are known -------------------------------------------------------------------------------

TARGETS = {"a": mask(ONE, TWO), "b": mask(ONE), "c": mask(ONE, TWO), "<d>": mask()}
SAID = {
    "visible": {"a": mask(), "b": mask(ONE), "c": mask(ONE), "<d>": mask(TWO)},
    "infrared": {"a": mask(ONE), "b": mask(ONE), "c": mask(ONE, TWO), "<d>": mask()},
    "ours": {"a": mask(ONE, TWO), "b": mask(), "c": mask(ONE), "<d>": mask()},
}


def run_of(out: Path, said: dict[str, dict[str, torch.Tensor]], num_seeds: int = 1) -> tuple[Comparison, list[Cell]]:
    """Finished cells with these predictions."""
    from tectum.metrics.task import SegmentationScore

    grey = torch.full((1, 1, *SIZE), 0.3)
    pairs = [Pair(grey, grey, target[None].long(), (name,)) for name, target in TARGETS.items()]
    inputs = [Input(name, make_baseline("visible"), make_baseline("visible")) for name in said]
    run = Comparison(
        lambda frames: None, inputs, {"train": pairs, "test": pairs}, out, Budget(size=(40, 48)), num_seeds
    )  # type: ignore[arg-type, return-value]
    names = tuple(TARGETS)
    frames = Frames(names, torch.full((len(names), 40, 48), 76, dtype=torch.uint8), tuple(TARGETS.values()))
    cells = []
    for name in said:
        run.frames[name] = {"train": frames, "test": frames}
        for seed in range(num_seeds):
            folder = out / "cells" / name / f"seed-{seed}"
            save_predictions(folder, names, list(said[name].values()))
            matrices = []
            for found, target in zip(said[name].values(), TARGETS.values(), strict=True):
                score = SegmentationScore(3)
                score.update(found[None].long(), target[None].long())
                matrices.append(score.confusion.tolist())
            iou = dict.fromkeys(CLASSES, 0.5)
            row = {"input": name, "seed": seed, "scores": {"mIoU": 0.5, "mAcc": 0.5}, "confusion": matrices, "IoU": iou}
            cells.append(Cell(name, seed, folder, {**row, "seconds": 1.0, "seconds a step": 0.1}))
    return run, cells


def test_gains_and_losses_are_counted_and_sorted(tmp_path: Path) -> None:
    run, cells = run_of(tmp_path, SAID)
    images = find_instances(run, cells, 2)
    assert featured_input(tuple(SAID)) == "ours"
    counts = count_instances(images, tuple(SAID), "ours")
    assert [(t.found, t.missed, t.false_alarms) for t in counts.values()] == [(2, 3, 1), (4, 1, 0), (3, 2, 0)]
    assert (counts["visible"].gained, counts["visible"].lost) == (2, 1)  # both of a; the one of b
    assert (counts["infrared"].gained, counts["infrared"].lost) == (1, 2)
    assert counts["ours"].gained is None
    assert rank_by_gain(images, "ours", ("visible", "infrared"), 0) == [(0, 3), (3, 0), (2, -1), (1, -2)]


def test_means_are_over_seeds_and_unfinished_inputs_are_left_out(tmp_path: Path) -> None:
    run, cells = run_of(tmp_path, SAID, num_seeds=2)
    names = tuple(TARGETS)
    last = cells[-1]
    save_predictions(last.folder, names, [mask()] * 4)  # ours finds nobody at seed 1
    cells[3] = Cell("infrared", 1, cells[3].folder)  # not finished
    images = find_instances(run, cells, 2)
    counts = count_instances(images, tuple(SAID), "ours")
    assert (counts["ours"].found, counts["ours"].num_seeds) == (1.5, 2)
    assert (counts["infrared"].gained, counts["infrared"].num_seeds) == (1, 1)  # over the seed that both have
    assert (counts["visible"].gained, counts["visible"].lost) == (1, 1.5)
    assert "visible" not in count_instances(find_instances(run, cells[2:], 2), tuple(SAID), "ours")


# ---- drawings --------------------------------------------------------------------------------------------------------


def test_masks_are_drawn_in_the_colour_of_their_class() -> None:
    grey = np.full(SIZE, 50, np.uint8)
    found = paint(grey, mask(ONE), CLASSES)
    assert found.shape == (*SIZE, 3) and (found[50, 50] == 50).all()
    assert tuple(found[10, 15]) == PALETTE[1]  # the edge is the pure colour of class 2
    inside = 0.45 * 50 + 0.55 * np.array(PALETTE[1])
    assert np.abs(found[20, 15] - inside).max() < 1
    small = paint(grey, mask(ONE)[::2, ::2], CLASSES)
    assert tuple(small[10, 15]) == PALETTE[1] and small.shape == found.shape
    below = add_legend(found, CLASSES, "masks")[SIZE[0] :].reshape(-1, 3).tolist()
    assert list(PALETTE[0]) in below and list(PALETTE[1]) in below and list(PALETTE[2]) not in below


def test_boxes_are_drawn_when_they_are_sure_and_people_are_framed() -> None:
    grey = np.full(SIZE, 50, np.uint8)
    answer = {
        "boxes": torch.tensor([[0.1, 0.5, 0.3, 0.9], [0.6, 0.5, 0.8, 0.9]]),
        "scores": torch.tensor([0.9, 0.2]),
        "labels": torch.tensor([1, 2]),
    }
    found = paint(grey, answer, CLASSES, names=True)
    assert tuple(found[70, 12]) == PALETTE[1] and (found[60:, 60:] == 50).all()
    frames = frame_objects(
        np.repeat(grey[..., None], 3, 2),
        np.array([[0.2, 0.2, 0.4, 0.6], [0.6, 0.2, 0.8, 0.6]]),
        np.array([True, False]),
        np.array([[0.0, 0.8, 0.2, 0.9]]),
    )
    row = {tuple(x) for x in frames[40].tolist()}
    assert row == {(50, 50, 50), FOUND, MISSED} and FALSE in {tuple(x) for x in frames[85].tolist()}


def test_every_test_image_is_drawn_for_every_input(tmp_path: Path) -> None:
    run, cells = run_of(tmp_path, {name: SAID[name] for name in ("visible", "ours")})
    assert draw_predictions(run, cells, CLASSES, tmp_path / "drawn") == 12
    assert sorted(path.name for path in (tmp_path / "drawn" / "ours").iterdir()) == [
        "<d>.png",
        "a.png",
        "b.png",
        "c.png",
    ]
    assert (tmp_path / "drawn" / "label" / "a.png").exists()


# ---- the page --------------------------------------------------------------------------------------------------------


def page_of(out: Path, **options: Any) -> Path:
    run, cells = run_of(out, SAID, num_seeds=2)
    found = tables.summarise(run, cells, CLASSES, title="<b>streets</b>", without=("car",))
    write_page(out / "report.html", run, cells, found, command="tectum downstream 'a b'", **options)
    return out / "report.html"


def test_the_page_shows_both_ends_and_escapes_names(tmp_path: Path) -> None:
    text = page_of(tmp_path).read_text(encoding="utf-8")
    assert "<h1>&lt;b&gt;streets&lt;/b&gt;</h1>" in text and "<script" not in text
    gained, lost = text[text.index('id="gained"') : text.index('id="lost"')], text[text.index('id="lost"') :]
    assert "<h3>a</h3>" in gained and "+3" in gained and "<h3>b</h3>" not in gained
    assert lost.index("<h3>b</h3>") < lost.index("<h3>c</h3>") and "−2" in lost
    assert "On 1 of 4 images" in gained and "On 2 images it missed more" in lost
    assert "ours found 2.0 that visible missed, and missed 1.0 that visible found" in text
    assert "mIoU without car" in text and "<svg" in text


def test_without_people_or_with_nothing_finished_there_is_still_a_page(tmp_path: Path) -> None:
    text = page_of(tmp_path / "one", person="cyclist").read_text(encoding="utf-8")
    assert 'id="people"' not in text and 'id="scores"' in text
    run, cells = run_of(tmp_path / "two", SAID)
    nothing = [Cell(cell.input, cell.seed, cell.folder) for cell in cells]
    write_page(tmp_path / "two" / "page.html", run, nothing, tables.summarise(run, nothing, CLASSES))
    text = (tmp_path / "two" / "page.html").read_text(encoding="utf-8")
    assert text.count(">n/a<") >= 6 and "Not finished: 1 of visible, 1 of infrared, 1 of ours." in text


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(tmp_path: Path, width: int) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((x for name in ("chromium", "chromium-browser", "google-chrome") if (x := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no browser: none of chromium, chromium-browser, google-chrome is on the path")
    page_path = page_of(tmp_path)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(page_path.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [page_path.as_uri()] and not complaints
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.evaluate("document.images.length") == 3 * 4  # three images, the label and three inputs
        browser.close()


# ---- the command -----------------------------------------------------------------------------------------------------

TASK = '''
from test_downstream import Painter

class Tiny(Painter):
    """The tests' segmenter with any classes; it takes nothing else."""
    def __init__(self, classes): super().__init__(classes)

class Blind:
    """Says nothing of what it learns from."""
    def __init__(self, classes): pass
'''


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training and three test pairs in the layout of MSRS; labels 0 to 3 are classes of it too."""
    root = tmp_path_factory.mktemp("sets") / "msrs"
    for seed in range(8):
        save(render(seed, (48, 60)), root / ("train" if seed < 5 else "test"), f"s{seed}")
    return root


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "tiny_task.py").write_text(TASK, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return "tiny_task:Tiny"


def command(task: str, data: Path, out: Path, *images: str, **options: Any) -> Downstream:
    small = {"epochs": 1, "seeds": 1, "size": (32, 40), "batch": 2, "quiet": True, "device": "cpu"}
    inputs = images or ("visible", "infrared")
    return Downstream(task=task, data=str(data), images=inputs, out=str(out), **{**small, **options})


def test_the_command_goes_from_folders_to_a_page(
    tiny: str, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "test"):
        (tmp_path / "fused" / part).mkdir(parents=True)
        for file in (streets / part / "ir").iterdir():
            write_image(tmp_path / "fused" / part / file.name, np.full((48, 60), 90, np.uint8))
    inputs = ("visible", "both=average", str(tmp_path / "fused"), "system=tectum.models.baselines:Maximum")
    out, drawn = tmp_path / "run", tmp_path / "drawn"
    assert command(tiny, streets, out, *inputs, predict=str(drawn), quiet=False, without=("bike",)).run() == 0
    told = capsys.readouterr()
    assert "visible, seed 0: mIoU" in told.err and "Minus visible" in told.out
    assert {x.name for x in (out / "cells").iterdir()} == {"visible", "both", "fused", "system"}
    assert len(list((out / "fused" / "system" / "train").glob("*.png"))) == 5
    assert len(list((drawn / "both").iterdir())) == 3
    assert (out / "report.html").exists() and "mIoU without bike" in (out / "table.md").read_text(encoding="utf-8")
    rows = (out / "table.csv").read_text(encoding="utf-8").splitlines()
    assert command(tiny, streets, out, *inputs).run() == 0
    assert (out / "table.csv").read_text(encoding="utf-8").splitlines() == rows  # nothing was done again


def test_validation_pairs_are_taken_out_of_the_training_pairs(tiny: str, streets: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("s1\ns3\n", encoding="utf-8")
    chosen_pairs = {"split": "validation", "validation": str(tmp_path / "list.txt"), "no_report": True}
    assert command(tiny, streets, tmp_path / "run", "average", **chosen_pairs).run() == 0
    predicted = {x.stem for x in (tmp_path / "run" / "cells" / "average" / "seed-0" / "predictions").iterdir()}
    assert predicted == {"s1", "s3"}
    run, _ = command(tiny, streets, tmp_path / "run", "average", **chosen_pairs).comparison()
    run.prepare()
    assert run.frames["average"]["train"].names == ("s0", "s2", "s4")
    with pytest.raises(ValueError, match="other settings"):
        command(tiny, streets, tmp_path / "run", "average").run()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "segformr"}, "unknown task 'segformr'; did you mean 'segformer'"),
        ({"task": "tiny_task:Blind"}, "a task must have a label_type, 'masks' or 'boxes'"),
        ({"images": ("visibel",)}, "unknown input 'visibel'; did you mean 'visible'.*or a folder of fused images"),
        ({"images": ("visible", "visible")}, "got 'visible' twice; write NAME=visible"),
        ({"images": ("no/such/folder",)}, "no/such/folder does not exist"),
        ({"images": ("a/b=visible",)}, "--images must be INPUT or NAME=INPUT"),
        ({"size": (16, 40)}, "task images must be at least 32 pixels high and wide, got 40x16"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"balance": 0.5}, "--balance weighs the pixels of classes, which tiny_task:Tiny cannot"),
        ({"balance": 2.0}, "--balance must be between 0 and 1"),
        ({"without": ("lamb",)}, "unknown class 'lamb'"),
        ({"reference": "fixed"}, "unknown input 'fixed'"),
        ({"person": "persn"}, "unknown class 'persn'; did you mean 'person'"),
        ({"lr": 0.0}, "lr must be greater than 0 and finite, got 0.0"),
        ({"validation": "msrs-test"}, "--validation names the pairs of --split validation"),
    ],
)
def test_mistakes_are_one_sentence(
    tiny: str, streets: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    options = {"task": tiny, **wrong}
    images = options.pop("images", ("visible",))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        command(options.pop("task"), streets, tmp_path / "run", *images, **options).run()
    assert not (tmp_path / "run").exists(), "nothing was fused"


def test_a_size_is_width_x_height(streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["downstream", "segformer", "--data", str(streets), "--images", "visible", "-o", str(tmp_path / "run")]
    assert main([*words, "--size", "128"]) == 2
    assert "--size" in (line := capsys.readouterr().err) and "128" in line and line.count("\n") == 1
    assert main([*words, "--size", "40x16"]) == 2
    assert "at least 32 pixels high and wide, got 40x16" in capsys.readouterr().err


def test_validation_without_our_list_is_every_sixth_pair(tiny: str, streets: Path, tmp_path: Path) -> None:
    """msrs-validation names none of these pairs; the set is found in a folder that holds it too."""
    for data in (streets, streets.parent):
        asked = command(tiny, data, tmp_path / "run", split="validation")
        assert asked.set_name() == "msrs"
        pairs, _ = asked.read_pairs("masks")
        assert (pairs["test"].names, pairs["train"].names) == (["s0"], ["s1", "s2", "s3", "s4"])  # type: ignore[attr-defined]
    (tmp_path / "VOCdevkit" / "VOC2007").mkdir(parents=True)
    assert command(tiny, tmp_path / "VOCdevkit", tmp_path / "run").set_name() == "voc"


def test_pairs_to_train_on_are_not_scored(tiny: str, streets: Path, tmp_path: Path) -> None:
    shutil.copytree(streets, tmp_path / "msrs")
    for place in ("vi", "ir", "labels"):
        shutil.copy(streets / "train" / place / "s2.png", tmp_path / "msrs" / "test" / place / "s2.png")
    with pytest.raises(
        ValueError, match="training and test pairs must be different, 1 of 4 test pairs are trained on, the first is s2"
    ):
        command(tiny, tmp_path / "msrs", tmp_path / "run").run()


def test_names_of_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("average", "ours/train", "ours/test"):
        (tmp_path / part).mkdir(parents=True)
        write_image(tmp_path / part / "a.png", np.zeros((8, 8), np.uint8))
    assert parse_named("my.module:Fuser", "--images") == ("Fuser", "my.module:Fuser")
    assert not isinstance(make_input("average", "average", "cpu", scored="test").test, FolderMethod)  # the baseline
    assert isinstance(make_input("average", "./average", "cpu", scored="test").test, FolderMethod)
    ours = make_input("ours", "ours", "cpu", scored="test")
    assert isinstance(ours.train, FolderMethod) and isinstance(ours.test, FolderMethod)
    assert (Path(ours.train.path).name, Path(ours.test.path).name) == ("train", "test")
    both = make_input("ours", "ours", "cpu", scored="train")
    assert isinstance(both.test, FolderMethod) and Path(both.test.path).name == "train"


def test_systems_are_named_by_variant_and_by_packaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "tomiff-published", SYSTEMS["maximum"])  # a network without weights
    pair = Picture(torch.rand(1, 8, 8)), Picture(torch.rand(1, 8, 8))
    for spec, variant in (("tomiff", "published"), ("tomiff-published", None)):
        fused = make_input("theirs", spec, "cpu", variant=variant).test.luminance("a", *pair)
        assert (fused - torch.maximum(pair[0].y, pair[1].y)).abs().max() <= 1 / 255
    with pytest.raises(ValueError, match="system 'sfofusion' has no variant 'publishd'"):
        make_input("theirs", "sfofusion", "cpu", variant="publishd")
    assert make_input("ours", "tdfusion-msrs", "cpu").test.luminance("a", *pair).shape == (1, 8, 8)
    for images in (("average",), ("visible", "average")):
        with pytest.raises(ValueError, match="--variant published is of a system, and --images names none"):
            Data(data="pairs", images=images, variant="published").read_inputs("cpu")


def test_the_label_type_is_known_without_building_a_network() -> None:
    from functools import partial

    class Heavy:
        label_type = "boxes"

        def __init__(self) -> None:
            raise AssertionError

    heavy: Any = Heavy
    assert label_type(heavy) == label_type(partial(heavy)) == "boxes"
