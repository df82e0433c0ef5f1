"""Scoring pairs of other kinds: rows and pictures have the names of their roles, known sets their own layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tectum.cli import main
from tectum.color import choose_chroma, rgb_to_ycbcr
from tectum.evaluation.evaluate import Evaluator, evaluate
from tectum.io.image import write_image

HEIGHT, WIDTH = 40, 48


def photo(level: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.clip(random.integers(-40, 40, (HEIGHT, WIDTH, 3)) + level, 0, 255).astype(np.uint8)


@pytest.fixture
def foci(tmp_path: Path) -> Path:
    """Two pairs as Lytro has them: both images in colour, in one folder."""
    (tmp_path / "LytroDataset").mkdir()
    for i in (1, 2):
        for letter, level in (("A", 140), ("B", 90)):
            write_image(tmp_path / "LytroDataset" / f"lytro-0{i}-{letter}.png", photo(level, i + level))
    return tmp_path


def test_a_known_set_of_foci_by_the_command(foci: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["eval", "--data", "lytro", "--root", str(foci), "--system", "average", "--metrics", "EN,SD", "--no-report"]
    assert main([*argv, "-o", str(foci / "out"), "--quiet"]) == 0
    summary = json.loads((foci / "out" / "evaluation.json").read_text())
    assert set(summary["methods"]) == {"average", "maximum", "laplacian", "first", "second"}
    assert "visible" not in (foci / "out" / "scores.csv").read_text()
    assert main([*argv, "-o", str(foci / "out"), "--kind", "medical"]) == 2
    assert "lytro holds focus pairs, not medical" in capsys.readouterr().err
    assert main([*argv, "-o", str(foci / "out"), "--visible", str(foci)]) == 2
    assert "give either --data or" in capsys.readouterr().err


def test_rows_of_the_sources_are_the_sources(tmp_path: Path) -> None:
    for side, level in (("over", 180), ("under", 60)):
        (tmp_path / side).mkdir()
        for i in range(2):
            write_image(tmp_path / side / f"{i}.png", photo(level, i))
    over, under = tmp_path / "over", tmp_path / "under"
    found = evaluate({"ours": "average"}, over, under, metrics=("SD", "EN"), baselines=("visible", "under"), kind="MEF")
    assert found.scores.methods == ("ours", "over", "under") and found.sources == ("over", "under")
    grey = [rgb_to_ycbcr(torch.from_numpy(photo(180, i) / 255).permute(2, 0, 1))[0] for i in range(2)]
    wanted = [float((255 * y).round().std(correction=0)) for y in grey]
    assert found.scores.values[:, 1, 0] == pytest.approx(wanted, abs=0.05)
    with pytest.raises(ValueError, match="'over' is the name of a source"):
        evaluate({"over": "average"}, over, under, kind="exposure")
    with pytest.raises(ValueError, match="did you mean 'under'"):
        evaluate({"ours": "average"}, over, under, kind="exposure", baselines=("undr",))


def test_pictures_have_the_colours_of_the_kind(foci: Path) -> None:
    places = [str(foci / "LytroDataset" / f"*-{letter}.png") for letter in "AB"]
    evaluator = Evaluator({"ours": "average"}, *places, kind="focus", baselines=())
    a, b = photo(140, 141), photo(90, 91)
    assert np.array_equal(evaluator.picture("lytro-01", "first"), a)
    assert np.array_equal(evaluator.picture("lytro-01", "second"), b)
    chromas = [rgb_to_ycbcr(torch.from_numpy(x / 255).permute(2, 0, 1).float())[1] for x in (a, b)]
    shown = rgb_to_ycbcr(torch.from_numpy(evaluator.picture("lytro-01", "ours") / 255).permute(2, 0, 1).float())[1]
    mixed = choose_chroma(*chromas, mix=True)
    assert mixed is not None and (shown - mixed).abs().median() < 2 / 255 < (shown - chromas[0]).abs().median()


def test_a_coloured_mri_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in ("PET", "MRI"):
        (tmp_path / side).mkdir()
        write_image(tmp_path / side / "x.png", photo(100, 1) // (2 if side == "MRI" else 1))
    argv = ["eval", "--visible", str(tmp_path / "PET"), "--infrared", str(tmp_path / "MRI"), "--system", "average"]
    assert main([*argv, "--kind", "medical", "-o", str(tmp_path / "out"), "--no-report", "--quiet"]) == 1
    assert "an MRI image must be grey" in capsys.readouterr().err


def test_the_page_names_the_roles(foci: Path) -> None:
    pytest.importorskip("jinja2", reason="the report needs pip install 'tectum[report]'")
    argv = ["eval", "--data", "lytro", "--root", str(foci), "--fused", f"ours={foci / 'fused'}", "--metrics", "EN,SD"]
    (foci / "fused").mkdir()
    for i in (1, 2):
        write_image(foci / "fused" / f"lytro-0{i}.png", photo(115, i))
    assert main([*argv, "-o", str(foci / "out"), "--quiet"]) == 0
    page = (foci / "out" / "report.html").read_text(encoding="utf-8")
    assert ">first<" in page and ">second<" in page and ">visible<" not in page and ">infrared<" not in page
