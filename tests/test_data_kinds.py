"""Sets of exposures, foci and medical pairs: in their published layouts, in trees of four kinds, real ones."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tectum.cli import main
from tectum.data.check import check, detect, detect_kind
from tectum.data.datasets import open_set
from tectum.data.known import DATASETS
from tectum.data.labelled import LabelledPairs
from tectum.kinds import KINDS

A, B = 200, 60
"""The level of every first and every second image: which is which is seen in the pixels."""


def put(path: Path, level: int, size: tuple[int, int] = (10, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), level, np.uint8)).save(path)


def put_all(home: Path, a: str, b: str, names: Iterable[str]) -> None:
    for name in names:
        put(home / a.format(name), A)
        put(home / b.format(name), B)


def sides_are_right(pairs: LabelledPairs) -> bool:
    return all(
        abs(float(pair.a.mean()) * 255 - A) < 3 and abs(float(pair.b.mean()) * 255 - B) < 3
        for pair in (pairs[i] for i in range(len(pairs)))
    )


# ---- published layouts -----------------------------------------------------------------------------------------------


def test_sice_takes_the_brightest_and_the_darkest_of_each_scene(tmp_path: Path) -> None:
    home = tmp_path / "SICE"
    for part, scenes in (("Dataset_Part1", ("1", "2")), ("Dataset_Part2", ("7",))):
        for scene in scenes:
            for number, level in ((2, 90), (1, B), (9, 150), (10, A)):  # 10 is after 9
                put(home / part / scene / f"{number}.JPG", level)
            put(home / part / "Label" / f"{scene}.JPG", 120)
    train, test = (open_set("sice", tmp_path, split=split) for split in ("train", "test"))
    assert (train.names, test.names) == (["1", "2"], ["7"])
    assert sides_are_right(train) and sides_are_right(test)
    assert open_set("sice", home / "Dataset_Part1").names == ["1", "2"]


def test_mefb_asks_the_images_which_is_which(tmp_path: Path) -> None:
    """Letters are not trusted: scenes with A over and with A under; two spellings of one scene are one pair."""
    home = tmp_path / "MEFB-main" / "input"
    put_all(home / "Arno", "Arno_A.png", "Arno_B.png", [""])
    put_all(home / "Farmhouse", "FarmHouse_B.jpg", "Farmhouse_A.jpg", [""])
    pairs = open_set("mefb", tmp_path, split="test")
    assert pairs.names == ["Arno", "Farmhouse"] and sides_are_right(pairs)
    with pytest.raises(FileNotFoundError, match="no part called train"):
        open_set("mefb", tmp_path, split="train")


@pytest.mark.parametrize(
    ("name", "folder", "a", "b"),
    [
        ("realmff", "RealMFF", "imageA/{}_A.png", "imageB/{}_B.png"),
        ("mfi_whu", "MFI-WHU", "source_1/{}.jpg", "source_2/{}.jpg"),
    ],
)
def test_foci_in_two_folders(tmp_path: Path, name: str, folder: str, a: str, b: str) -> None:
    names = [f"{i:03d}" for i in range(1, 21)]
    put_all(tmp_path / folder, a, b, names)
    put(tmp_path / folder / "Fusion" / "001_F.png", 0)
    parts = [open_set(name, tmp_path / folder, split=split) for split in ("train", "test", "all")]
    assert sorted(parts[0].names + parts[1].names) == parts[2].names == names
    assert len(parts[1]) == 20 // DATASETS[name].every and all(map(sides_are_right, parts))


def test_lytro_pairs_lie_in_one_folder(tmp_path: Path) -> None:
    put_all(tmp_path / "LytroDataset", "lytro-{}-A.jpg", "lytro-{}-B.jpg", ("01", "02"))
    pairs = open_set("lytro", tmp_path, split="test")
    assert pairs.names == ["lytro-01", "lytro-02"] and sides_are_right(pairs)


@pytest.mark.parametrize("scan", ["CT", "PET", "SPECT"])
def test_harvard_medical_pairs(tmp_path: Path, scan: str) -> None:
    for split, names in (("train", ("2004", "2010")), ("test", ("16009",))):
        put_all(tmp_path / "MyDatasets" / f"{scan}-MRI" / split, f"{scan}/{{}}.png", "MRI/{}.png", names)
    name = f"harvard_{scan.lower()}_mri"
    train, test = (open_set(name, tmp_path, split=split) for split in ("train", "test"))
    assert (train.names, test.names) == (["2004", "2010"], ["16009"])
    assert sides_are_right(train) and sides_are_right(test)
    for other in {"CT", "PET", "SPECT"} - {scan}:
        with pytest.raises(FileNotFoundError, match="was not found"):
            open_set(f"harvard_{other.lower()}_mri", tmp_path / "MyDatasets" / f"{scan}-MRI")


def test_every_set_of_another_kind_is_read_in_the_packs_letters(tmp_path: Path) -> None:
    """The pack calls under-exposed and MRI images a."""
    for name, known in DATASETS.items():
        if known.kind == "infrared":
            continue
        letters = ("a", "b") if known.kind == "focus" else ("b", "a")
        put_all(tmp_path / name / "test", f"{letters[0]}/{{}}.png", f"{letters[1]}/{{}}.png", ("x",))
        assert sides_are_right(open_set(name, tmp_path / name, split="test")), name
        assert detect(tmp_path / name)[0] == name


# ---- trees of several kinds, pairs of one's own ----------------------------------------------------------------------

TREE = {
    "infrared": ("IVF/visible", "IVF/infrared"),
    "exposure": ("MEF/over", "MEF/low"),
    "focus": ("MFF/imageA", "MFF/imageB"),
    "medical": ("MIF/CT", "MIF/MRI"),
}


def test_the_published_tree_of_four_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        for kind, (a, b) in TREE.items():
            put_all(tmp_path / split, a + "/{}.png", b + "/{}.png", (f"{kind}-1", f"{kind}-2"))
    for kind in KINDS:
        for split in ("train", "test"):
            pairs = open_set("folder", tmp_path, split=split, kind=kind)
            assert pairs.names == [f"{kind}-1", f"{kind}-2"] and sides_are_right(pairs)
    assert open_set("folder", tmp_path, kind="MEF").names == ["exposure-1", "exposure-2"]
    assert main(["data", "check", str(tmp_path), "--quiet"]) == 2
    assert "holds infrared, exposure, focus, medical; name one with --kind" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path), "--quiet", "--kind", "medical"]) == 1  # both parts hold the same
    assert "medical pairs" in (told := capsys.readouterr().out) and "pairs are in train too" in told


def test_a_tree_of_one_kind_says_its_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_all(tmp_path / "train", "MFF/imageA/{}.png", "MFF/imageB/{}.png", ("x", "y"))
    assert detect_kind(tmp_path) == "focus" and detect_kind(tmp_path / "train") == "infrared"
    assert main(["data", "check", str(tmp_path), "--quiet"]) == 0
    assert "focus pairs" in (told := capsys.readouterr().out) and "train: 2 pairs" in told


def test_problems_are_told_in_the_kinds_words(tmp_path: Path) -> None:
    put_all(tmp_path, "over/{}.png", "under/{}.png", ("x", "y", "z"))
    put(tmp_path / "under" / "x.png", B, (6, 8))
    (tmp_path / "over" / "y.png").unlink()
    [part] = check(tmp_path, "folder", kind="exposure")
    assert any("10x8 (over-exposed) and 6x8 (under-exposed) pixels" in problem for problem in part.problems)
    assert any("y has no over-exposed image" in problem for problem in part.problems)
    with pytest.raises(FileNotFoundError, match="have no over-exposed one"):
        open_set("folder", tmp_path, split="all", kind="exposure")
    put(tmp_path / "over" / "y.png", A)
    with pytest.raises(ValueError, match=r"10x8 \(over-exposed\) and 6x8 \(under-exposed\)"):
        open_set("folder", tmp_path, split="all", kind="exposure")[0]


def test_letters_without_a_kind_are_not_guessed(tmp_path: Path) -> None:
    put_all(tmp_path, "a/{}.png", "b/{}.png", ("x",))
    with pytest.raises(FileNotFoundError, match="folders a and b: if they are exposure or focus or medical"):
        open_set("folder", tmp_path, split="all")
    with pytest.raises(FileNotFoundError, match="if they are exposure or focus or medical pairs"):
        open_set("folder", tmp_path)
    put_all(tmp_path / "foci" / "train", "imageA/{}.png", "imageB/{}.png", ("x",))
    for split in ("train", "all"):
        with pytest.raises(FileNotFoundError, match="folders imageA and imageB: if they are focus pairs, say so"):
            open_set("folder", tmp_path / "foci", split=split)
    with pytest.raises(ValueError, match="lytro holds focus pairs, not medical"):
        open_set("lytro", tmp_path, kind="medical")
    with pytest.raises(FileNotFoundError, match="the folders of medical pairs"):
        open_set("folder", tmp_path / "a", split="all", kind="medical")


def test_two_files_of_one_scene(tmp_path: Path) -> None:
    put_all(tmp_path / "MEFB" / "input" / "X", "X_A.png", "X_B.png", [""])
    put(tmp_path / "MEFB" / "input" / "X" / "old_A.png", A)
    with pytest.raises(ValueError, match=r"one image per scene must be called \*_A"):
        open_set("mefb", tmp_path, split="test")


# ---- real pairs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "split", "num"),
    [
        ("mefb", None, "test", 30),
        ("mef_hdr", "exposure", "train", 60),
        ("lytro", None, "test", 20),
        ("mffw", "focus", "test", 13),
        ("mfi_whu", None, "test", 30),
        ("mf_voc", "focus", "test", 20),
        ("harvard_ct_mri", None, "train", 145),
        ("harvard_pet_mri", None, "test", 24),
        ("harvard_spect_mri", None, "test", 24),
    ],
)
def test_real_pairs(name: str, kind: str | None, split: str, num: int) -> None:
    """All are there, over-exposed is brighter than under-exposed, PET and SPECT have the colour and MRI has none."""
    if not os.environ.get("TECTUM_DATA"):
        pytest.skip("TECTUM_DATA is not set: it names the folder of real data")
    root = Path(os.environ["TECTUM_DATA"]) / name
    pairs = open_set("folder" if kind else name, root, split=split, kind=kind)
    assert len(pairs) == num
    known = kind or DATASETS[name].kind
    for i in range(0, num, 7):
        pair = pairs[i]
        if known == "exposure":
            assert pair.a.mean() > pair.b.mean(), pair.name
        a, b = (np.asarray(Image.open(path).convert("RGB"), np.int16) for path in pairs.files[pairs.names[i]])
        if name in ("harvard_pet_mri", "harvard_spect_mri"):
            assert np.ptp(a, axis=-1).max() > 50 and np.ptp(b, axis=-1).max() == 0, pair.name
