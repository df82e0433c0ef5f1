"""The blind comparison: nothing tells whose a result is, sides are balanced, choices are counted rightly."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import load_benchmark

choose = load_benchmark("choose")
METHODS = ["ours-network", "theirs", "baseline"]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    scenes = {
        f"{name}/{i}": {x: np.full((6, 8, 3), k, np.uint8) for k, x in enumerate(("visible", "infrared", *METHODS))}
        for name in ("msrs", "tno")
        for i in range(5)
    }
    choose.write_page(tmp_path / "page", scenes, METHODS, 3)
    choose.write_page(tmp_path / "again", scenes, METHODS, 3)
    choose.write_page(tmp_path / "other", scenes, METHODS, 4)
    return tmp_path / "page"


def test_each_scene_is_asked_once_for_each_other_method_with_balanced_sides(page: Path) -> None:
    key = json.loads((page / "key.json").read_text())
    for other in METHODS[1:]:
        sides = [trial["results"] for trial in key["trials"] if other in trial["results"]]
        assert len(sides) == 10 and sum(side[0] == "ours-network" for side in sides) == 5
    assert len({(trial["scene"], *sorted(trial["results"])) for trial in key["trials"]}) == 20
    assert key == json.loads((page.parent / "again" / "key.json").read_text())
    assert key["page"] != json.loads((page.parent / "other" / "key.json").read_text())["page"]


def test_images_are_those_of_the_key_and_nothing_else_names_them(page: Path) -> None:
    key = json.loads((page / "key.json").read_text())
    for i, trial in enumerate(key["trials"], 1):
        for side, name in enumerate(trial["results"], 1):
            assert cv2.imread(str(page / "images" / f"{i:03}{side}.png"))[0, 0, 0] == 2 + METHODS.index(name)
    seen = (page / "index.html").read_text() + " ".join(str(path) for path in (page / "images").iterdir())
    assert not any(name in seen.replace(str(page.parent), "") for name in (*METHODS, "msrs"))
    assert len(list((page / "sheets").iterdir())) == 5


def test_choices_are_counted(page: Path) -> None:
    key = json.loads((page / "key.json").read_text())
    choices = {}
    for i, trial in enumerate(key["trials"], 1):
        wanted = "ours-network" if "theirs" in trial["results"] or trial["scene"].startswith("msrs") else "baseline"
        choices[str(i)] = trial["results"].index(wanted) + 1
    file = page / "anna.json"
    file.write_text(json.dumps({"page": key["page"], "choices": choices}))
    table = choose.tabulate(key, [file])
    assert "| anna | theirs | 10 | 10 | 0.002 | msrs 5/5, tno 5/5 |" in table
    assert "| anna | baseline | 5 | 10 | 1 | msrs 5/5, tno 0/5 |" in table


def test_other_choices_are_refused(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = json.loads((page / "key.json").read_text())
    for text, says in (
        ({"page": "x", "choices": {}}, f"must be of page {key['page']}, got x"),
        ({"page": key["page"], "choices": {"1": 3}}, "must be 1 or 2 by number of comparison, got 1: 3"),
        ({"page": key["page"], "choices": {"21": 1}}, "got 21: 1"),
    ):
        (page / "bad.json").write_text(json.dumps(text))
        with pytest.raises(SystemExit) as stop:
            choose.main(["count", str(page), str(page / "bad.json")])
        assert stop.value.code == 2 and says in capsys.readouterr().err
