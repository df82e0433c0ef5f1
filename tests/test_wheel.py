"""What a user gets from `pip install`: the wheel holds the data files, and is small."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tectum.pretrained import loading as weights

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_weights_scenes_and_notices(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("tectum-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {f"tectum/pretrained/{card['file']}" for card in weights.cards().values()}
    files |= {f"tectum/pretrained/{c['objective']['file']}" for c in weights.cards().values() if "objective" in c}
    assert files
    assert files <= names
    assert {"tectum/pretrained/NOTICE", "tectum/pretrained/cards.json", "tectum/py.typed"} <= names
    assert {"tectum/data/splits/msrs-validation.txt", "tectum/data/demo/vi/street-1.png"} <= names
    assert {"tectum/report/page.css", "tectum/evaluation/page.js", "tectum/downstream/page.css"} <= names
    assert {f"tectum/{room}/page.html.jinja" for room in ("evaluation", "downstream")} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not any(name.startswith(("tests", "benchmarks", "examples")) for name in names)
    assert wheel.stat().st_size < 20e6
