"""YOLO through ultralytics: the published sizes, where its boxes go, and that its import leaves no trace."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tectum.io.files import write_tensors
from tectum.tasks import TASKS
from tectum.tasks.yolo import MAX_BOXES, YOLO

INSTALLED = importlib.util.find_spec("ultralytics") is not None  # not importorskip: only the adapter may import it
REASON = "the extra yolo is not installed"


@pytest.fixture(scope="module")
def detector() -> YOLO:
    if not INSTALLED:
        pytest.skip(REASON)
    torch.manual_seed(0)
    return YOLO(["car", "person", "lamp"])


def python(code: str, home: Path) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("YOLO_", "XDG_"))}
    environment |= {"HOME": str(home), "TMPDIR": str(home / "tmp"), "OMP_NUM_THREADS": "1"}
    (home / "tmp").mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert not done.returncode and not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_without_ultralytics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)  # as if it were not installed
    with pytest.raises(ValueError) as caught:
        TASKS["yolov8n"](["car"])
    assert str(caught.value) == ("yolov8n needs ultralytics (AGPL-3.0): pip install 'tectum[yolo]', or take dfine-n")


@pytest.mark.skipif(not INSTALLED, reason=REASON)
def test_importing_leaves_no_trace(tmp_path: Path) -> None:
    """Neither files in the home or the temporary folder, nor a connection, nor changed settings of other libraries."""
    code = """
import os, socket, sys, warnings
import cv2, numpy, torch
class Refused(socket.socket):
    def connect(self, *to):
        print("connected", to)
        raise OSError
    connect_ex = connect
socket.socket = Refused
cv2.setNumThreads(2)
numpy.set_printoptions(precision=3)
def state():
    printed = str(torch.full((3,), 1 / 3)) + str(numpy.full(3, 1 / 3))
    return dict(os.environ), torch.save, cv2.getNumThreads(), printed, list(warnings.filters)
before = state()
from tectum.tasks import TASKS
assert not {"ultralytics", "transformers", "torchvision"} & sys.modules.keys()
TASKS["yolov8n"](["car"]).predict(torch.rand(1, 1, 64, 64))
TASKS["yolov5n"](["car"])
assert "ultralytics" in sys.modules
print([x == y for x, y in zip(before, state())], len(os.listdir(os.environ["TMPDIR"])))
"""
    assert python(code, tmp_path) == ["[True, True, True, True, True] 1"]
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert not list((tmp_path / "tmp").iterdir()), "what ultralytics wrote is gone with the process"


@pytest.mark.parametrize(("classes", "expected"), [(6, 3_011_730), (1, 3_010_755)])  # TDFusion's for M3FD and LLVIP
def test_published_numbers_of_parameters(detector: YOLO, classes: int, expected: int) -> None:
    task = YOLO([str(i) for i in range(classes)])
    assert sum(p.numel() for p in task.parameters()) == expected


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("yolov8s", 11.1),
        ("yolov5n", 2.5),
        ("yolov5s", 9.1),
        pytest.param("yolov8m", 25.8, marks=pytest.mark.slow),
        pytest.param("yolov8l", 43.6, marks=pytest.mark.slow),
        pytest.param("yolov8x", 68.1, marks=pytest.mark.slow),
        pytest.param("yolov5m", 25.0, marks=pytest.mark.slow),
        pytest.param("yolov5l", 53.1, marks=pytest.mark.slow),
        pytest.param("yolov5x", 97.1, marks=pytest.mark.slow),
    ],
)
def test_sizes(detector: YOLO, name: str, millions: float) -> None:
    task: Any = TASKS[name](detector.classes)
    assert sum(p.numel() for p in task.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_what_there_is_not() -> None:
    with pytest.raises(ValueError, match="must be v8 or v5, in a size of n, s, m, l, x, got yolov9n"):
        YOLO(["car"], version="v9")
    with pytest.raises(ValueError, match="got yolov8nano"):
        YOLO(["car"], size="nano")


@pytest.fixture
def predict(detector: YOLO, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, torch.Tensor]]:
    """The prediction for an image (H,W), given the network's output: of each anchor centre, size, scores of classes."""

    def answer(anchors: torch.Tensor, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(detector, "forward", lambda image: (anchors.T[None],))
        return detector.predict(torch.zeros(1, 1, *size))[0]

    return answer


def test_an_answer_by_hand(predict: Callable[..., dict[str, torch.Tensor]]) -> None:
    anchors = torch.tensor(
        [
            [20, 10, 20, 10, 0.9, 0.0, 0.0],
            [21, 10, 20, 10, 0.8, 0.7, 0.0],  # the same car, and a person right there
            [60, 30, 10, 10, 0.0, 0.0005, 0.0],  # below the threshold
            [78, 38, 12, 12, 0.0, 0.0, 0.5],  # over the border
            [95, 20, 10, 10, 0.0, 0.0, 0.6],  # in the padding only
        ]
    )
    answer = predict(anchors, (40, 80))
    assert answer["labels"].tolist() == [0, 1, 2]
    assert answer["scores"].tolist() == pytest.approx([0.9, 0.7, 0.5])
    expected = torch.tensor([[10 / 80, 5 / 40, 30 / 80, 15 / 40], [11 / 80, 5 / 40, 31 / 80, 15 / 40]])
    torch.testing.assert_close(answer["boxes"][:2], expected)
    torch.testing.assert_close(answer["boxes"][2], torch.tensor([72 / 80, 32 / 40, 1, 1]))


def test_answers_are_limited(predict: Callable[..., dict[str, torch.Tensor]]) -> None:
    anchors = torch.zeros(1000, 7)
    anchors[:, 0], anchors[:, 1], anchors[:, 2:4], anchors[:, 4] = torch.arange(1000) * 9 + 5.0, 5, 8, 0.5
    assert len(predict(anchors, (10, 10000))["scores"]) == MAX_BOXES
    anchors[:, 4] = 0
    assert len(predict(anchors, (10, 10000))["scores"]) == 0


def test_boxes_are_mapped_into_the_padded_image(detector: YOLO, monkeypatch: pytest.MonkeyPatch) -> None:
    """61 x 83 is seen as 64 x 96: relative to those, a box has other numbers and the same place."""
    seen: dict[str, torch.Tensor] = {}

    def criterion(preds: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, None]:
        seen.update(batch)
        return preds["boxes"].sum() * 0 + torch.tensor([2.0, 4.0, 6.0]), None

    monkeypatch.setattr(detector.network, "init_criterion", lambda: criterion)
    target = [
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        {"boxes": torch.tensor([[0.0, 0.5, 1.0, 1.0], [0.2, 0.1, 0.4, 0.3]]), "labels": torch.tensor([2, 0])},
    ]
    loss = detector.loss(torch.rand(2, 1, 61, 83), target)
    assert float(loss.detach()) == 12 / 2, "the criterion multiplies by the batch"
    assert seen["batch_idx"].tolist() == [1, 1] and seen["cls"].tolist() == [2, 0]
    pixels = seen["bboxes"] * torch.tensor([96, 64, 96, 64])
    expected = [[83 / 2, 61 * 0.75, 83, 61 * 0.5], [83 * 0.3, 61 * 0.2, 83 * 0.2, 61 * 0.2]]
    torch.testing.assert_close(pixels, torch.tensor(expected))


def test_the_loss_does_not_grow_with_the_batch(detector: YOLO) -> None:
    detector.eval()
    image = torch.rand(1, 1, 64, 96)
    target = [{"boxes": torch.tensor([[0.1, 0.2, 0.6, 0.9]]), "labels": torch.tensor([1])}]
    one = detector.loss(image, target)
    four = detector.loss(image.expand(4, -1, -1, -1), target * 4)
    detector.train()
    assert 0.2 < float((four / one).detach()) < 1.5


def test_running_means_follow(detector: YOLO) -> None:
    def momenta(task: YOLO) -> set[float]:
        return {x.momentum for x in task.modules() if isinstance(x, torch.nn.BatchNorm2d)}

    assert momenta(detector) == {0.03} and momenta(YOLO(["car"], momentum=0.1)) == {0.1}


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
def test_a_state_dict_of_ultralytics(detector: YOLO, tmp_path: Path, half: bool) -> None:
    """Under its own names, without ours in front, and in half precision, as its checkpoints are."""
    state = {name: x.half() if half and x.is_floating_point() else x for name, x in detector.state_dict().items()}
    torch.save({name.removeprefix("network."): x for name, x in state.items()}, tmp_path / "theirs.pt")
    torch.manual_seed(1)
    again = YOLO(detector.classes, weights=tmp_path / "theirs.pt")
    expected = detector.state_dict()
    for name, x in again.state_dict().items():
        torch.testing.assert_close(x.float(), expected[name].float(), rtol=1e-3, atol=1e-3)
        assert x.dtype == expected[name].dtype


def test_another_number_of_classes(detector: YOLO, tmp_path: Path) -> None:
    torch.save({name.removeprefix("network."): x for name, x in detector.state_dict().items()}, tmp_path / "best.pt")
    with pytest.raises(ValueError, match=r"best.pt holds weights for 3 classes, but the task has 1; give the classes"):
        YOLO(["car"], weights=tmp_path / "best.pt")
    with pytest.raises(ValueError, match=r"best.pt does not hold weights of YOLO: .*; choose the task, size"):
        YOLO(detector.classes, version="v5", weights=tmp_path / "best.pt")


def test_a_checkpoint_that_runs_code(detector: YOLO, tmp_path: Path) -> None:
    """As ultralytics saves them: the network itself, pickled."""
    torch.save({"model": detector.network}, tmp_path / "best.pt")
    with pytest.raises(ValueError, match=r"best.pt must be a state dict .* make one with torch.save\(ultralytics.YOLO"):
        YOLO(detector.classes, weights=tmp_path / "best.pt")
    (tmp_path / "best.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"best.pt must be a state dict that can be read without running code"):
        YOLO(detector.classes, weights=tmp_path / "best.pt")
    with pytest.raises(FileNotFoundError, match=r"none.pt is none"):
        YOLO(detector.classes, weights=tmp_path / "none.pt")


def test_a_file_of_another_task(detector: YOLO, tmp_path: Path) -> None:
    write_tensors(tmp_path / "other.safetensors", {"network.conv.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"other.safetensors does not hold weights of YOLO"):
        YOLO(detector.classes, weights=tmp_path / "other.safetensors")
