"""Folders of pairs: what is matched, what overlaps, what is passed over and what is never lost."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tectum.cli import main
from tectum.fusion.fuse import fuse
from tectum.fusion.pipeline import FusePipeline
from tectum.fusion.stream import overlap
from tectum.io.folders import ResultFolder, match
from tectum.io.image import write_image

SIZE = (24, 32)


def pairs(folder: Path, num: int = 4) -> list[str]:
    """Two folders of `num` small pairs (colour PNG, grey JPEG-sized PNG); returns the arguments of `tectum fuse`."""
    for i in range(num):
        for role, shape in (("vi", (*SIZE, 3)), ("ir", SIZE)):
            (folder / role).mkdir(exist_ok=True)
            image = np.random.default_rng([i, len(shape)]).integers(0, 256, shape, dtype=np.uint8)
            write_image(folder / role / f"{i:02}.png", image)
    return ["fuse", str(folder / "vi"), str(folder / "ir"), "-o", str(folder / "out"), "--system", "average"]


def results(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# ---- overlap ---------------------------------------------------------------------------------------------------------


def test_reading_working_and_writing_overlap() -> None:
    wait, num = 0.03, 8

    def slow(*_: object) -> None:
        time.sleep(wait)

    start = time.perf_counter()
    overlap(list(range(num)), read=slow, work=slow, write=slow, done=lambda item, error: None)
    assert time.perf_counter() - start < 0.6 * 3 * num * wait


def test_at_most_a_few_items_are_in_memory() -> None:
    read, written, most = [], [], 0

    def write(item: int, _: int) -> None:
        nonlocal most
        most = max(most, len(read) - len(written))
        time.sleep(0.005)
        written.append(item)

    overlap(
        range(40), read=lambda i: read.append(i) or i, work=lambda i: i, write=write, done=lambda i, e: None, ahead=2
    )
    assert written == list(range(40))
    assert most <= 2 + 1 + 3  # read ahead, in work, waiting to be written with the one being written


def test_a_failing_item_is_told_and_the_others_are_done() -> None:
    def read(i: int) -> int:
        if i == 1:
            raise OSError("unreadable")
        return i

    def work(i: int) -> int:
        if i == 2:
            raise ValueError("sizes differ")
        return i

    written, told = [], []
    overlap(range(5), read, work, lambda i, x: written.append(x), done=lambda i, e: told.append((i, e and str(e))))
    assert written == [0, 3, 4]
    assert sorted(told) == [(0, None), (1, "unreadable"), (2, "sizes differ"), (3, None), (4, None)]


def test_a_failing_write_ends_the_stream_and_an_internal_error_is_not_swallowed() -> None:
    told: list[int] = []

    def full(i: int, _: int) -> None:
        if i == 2:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        overlap(range(100), lambda i: i, lambda i: i, full, done=lambda i, e: told.append(i))
    assert told[:2] == [0, 1] and 2 not in told and len(told) < 10

    with pytest.raises(ZeroDivisionError):
        overlap(range(3), lambda i: i, lambda i: i // 0, lambda i, x: None, done=lambda i, e: None)


# ---- matching --------------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


def test_match_by_stem_whatever_the_extension(tmp_path: Path) -> None:
    visible = touch(tmp_path / "vi", "a.png", "b.JPG", "c.d.webp", "only.png", ".hidden.png", "notes.txt", "e.png")
    infrared = touch(tmp_path / "ir", "a.tif", "b.png", "c.d.bmp", "other.png", "e.png", "e.jpg")
    (tmp_path / "vi" / "sub.png").mkdir()
    found = match(visible, infrared)
    assert [(p.name, p.visible.name, p.infrared.name) for p in found.pairs] == [
        ("a", "a.png", "a.tif"),
        ("b", "b.JPG", "b.png"),
        ("c.d", "c.d.webp", "c.d.bmp"),
    ]
    assert found.unmatched == {"visible": ("only",), "infrared": ("other",)}
    assert "e.jpg" in found.ambiguous["e"] and "e.png" in found.ambiguous["e"]


def test_match_patterns_by_stem_or_by_what_the_star_stands_for(tmp_path: Path) -> None:
    folder = touch(tmp_path, "1_vi.png", "2_vi.png", "1_ir.png", "2_ir.png", "3_ir.png")
    found = match(f"{folder}/*_vi.png", f"{folder}/*_ir.png")
    assert [(p.name, p.visible.name, p.infrared.name) for p in found.pairs] == [
        ("1", "1_vi.png", "1_ir.png"),
        ("2", "2_vi.png", "2_ir.png"),
    ]
    assert found.unmatched == {"visible": (), "infrared": ("3",)}
    touch(tmp_path / "deep" / "vi", "x.png"), touch(tmp_path / "deep" / "ir", "x.png")
    deep = match(f"{folder}/**/vi/*.png", f"{folder}/deep/ir")
    assert [p.name for p in deep.pairs] == ["x"]
    assert deep.folders == {"visible": tmp_path, "infrared": tmp_path / "deep" / "ir"}


def test_match_says_what_is_wrong_with_folders(tmp_path: Path) -> None:
    one, two = touch(tmp_path / "one", "a.png"), touch(tmp_path / "two", "b.png")
    with pytest.raises(FileNotFoundError, match=r"one \(a\) and .*two \(b\) share none"):
        match(one, two)
    with pytest.raises(FileNotFoundError, match=r"no images in .* it holds the folders one, two, give one of them"):
        match(str(tmp_path), two)
    with pytest.raises(FileNotFoundError, match=r"no images in .*nothing"):
        match(str(tmp_path / "nothing*.png"), two)


def test_files_that_two_patterns_cover_belong_to_the_narrower_one(tmp_path: Path) -> None:
    folder = touch(tmp_path, "0001.png", "0001_ir.png", "0002.png", "0002_ir.png", "0003_ir.png")
    pairs = [("0001.png", "0001_ir.png"), ("0002.png", "0002_ir.png")]
    found = match(f"{folder}/*.png", f"{folder}/*_ir.png")
    assert [tuple(file.name for file in pair.files) for pair in found.pairs] == pairs
    assert found.unmatched == {"visible": (), "infrared": ("0003",)}
    swapped = match(f"{folder}/*_ir.png", f"{folder}/*.png")
    assert [tuple(file.name for file in pair.files[::-1]) for pair in swapped.pairs] == pairs


def test_an_image_is_never_paired_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vi, ir = touch(tmp_path / "vi", "1.png", "2.png", "3.png"), touch(tmp_path / "ir", "1.png")
    for places in ((vi, vi), (f"{vi}/*.png", vi), (vi, f"{ir}/../vi"), (f"{vi}/1*", f"{vi}/*1*")):
        with pytest.raises(
            ValueError, match=r"must be different files, got .*1.png.*; name another file, or quote two"
        ):
            match(*places)
    with pytest.raises(FileNotFoundError, match="share none"):  # the wider pattern is left with nothing that fits
        match(f"{vi}/*.png", f"{vi}/1*")
    (tmp_path / "ir" / "2.png").symlink_to(tmp_path / "vi" / "2.png")
    (tmp_path / "ir" / "3.png").hardlink_to(tmp_path / "vi" / "3.png")
    found = match(vi, ir)
    assert [pair.name for pair in found.pairs] == ["1"] and set(found.ambiguous) == {"2", "3"}
    assert all("which are one file" in fault for fault in found.ambiguous.values())
    write_image(tmp_path / "vi" / "1.png", np.zeros(SIZE, np.uint8))
    for sources in ((f"{vi}/1.png", f"{ir}/../vi/1.png"), (vi, vi)):
        assert main(["fuse", *sources, "-o", str(tmp_path / "out.png"), "--system", "average"]) == 2
        assert "must be different files" in capsys.readouterr().err
    assert main(["align", vi, vi, "-o", str(tmp_path / "rig.json")]) == 2
    assert main(["eval", "--fused", f"f={vi}", "--visible", vi, "--infrared", vi, "-o", str(tmp_path / "e")]) == 2
    with pytest.raises(ValueError, match="must be different files"):
        fuse([f"{vi}/2.png", f"{vi}/1.png", f"{vi}/2.png"], kind="focus", system="average")


def test_partners_of_types_that_are_not_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vi, ir = touch(tmp_path / "vi", "1.mat", "2.png"), touch(tmp_path / "ir", "1.png", "2.seq", "9.raw")
    with pytest.raises(FileNotFoundError, match=r"share none; .*ir.2\.seq, .*vi.1\.mat would match by name, but"):
        match(vi, ir)
    for name in ("vi/3.png", "ir/3.png"):
        write_image(tmp_path / name, np.zeros(SIZE, np.uint8))
    assert main(["fuse", vi, ir, "-o", str(tmp_path / "out"), "--system", "average"]) == 0
    told = capsys.readouterr().err
    assert "1.mat would match by name" in told and "2.seq" in told and "9.raw" not in told


def test_names_match_however_the_system_writes_accents(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    vi, ir = touch(tmp_path / "vi", f"{composed}.png"), touch(tmp_path / "ir", f"{apart}.png")
    assert [pair.name for pair in match(vi, ir).pairs] == [composed]
    for name in (f"{composed}_vi.png", f"{apart}_ir.png"):
        (tmp_path / name).touch()
    assert [pair.name for pair in match(f"{tmp_path}/*_vi.png", f"{tmp_path}/*_ir.png").pairs] == [composed]


# ---- a folder run ----------------------------------------------------------------------------------------------------


def test_a_second_run_skips_what_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = pairs(tmp_path)
    assert main(command) == 0
    assert "4 of 4 pairs fused" in capsys.readouterr().out
    out = tmp_path / "out"
    assert results(out) == ["00.png", "01.png", "02.png", "03.png", "tectum.json"]
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    (out / "02.png").unlink()
    assert main(command) == 0
    assert "1 of 4 pairs fused" in (told := capsys.readouterr().out) and "3 were there already" in told
    after = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    assert {p.name for p in after if after[p] != before.get(p)} == {"02.png"}
    assert main([*command, "--overwrite"]) == 0
    assert all(p.stat().st_mtime_ns > after[p] for p in out.glob("*.png"))


def test_both_outputs_and_reports_have_folders_of_their_own(tmp_path: Path) -> None:
    command = pairs(tmp_path, 1)
    assert main([*command, "--output", "both", "--report", "--quiet"]) == 0
    assert results(tmp_path / "out") == ["colour/00.png", "grey/00.png", "report/00.png", "tectum.json"]
    (tmp_path / "out" / "grey" / "00.png").unlink()  # half a result is not finished
    assert main([*command, "--output", "both", "--report", "--quiet"]) == 0
    assert (tmp_path / "out" / "grey" / "00.png").exists()


def test_results_of_other_settings_or_sources_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = pairs(tmp_path, 2)
    assert main([*command, "--quiet"]) == 0
    (tmp_path / "out" / "01.png").unlink()
    content = (tmp_path / "out" / "00.png").read_bytes()
    assert main([*command, "--stretch", "minmax"]) == 2
    told = capsys.readouterr().err
    assert "stretch: none there, minmax here" in told and "--overwrite" in told and told.count("\n") == 1
    assert main(["fuse", command[2], command[1], *command[3:]]) == 2  # the same names from other folders
    assert results(tmp_path / "out") == ["00.png", "tectum.json"]
    assert (tmp_path / "out" / "00.png").read_bytes() == content
    assert main([*command, "--quiet", "--stretch", "minmax", "--overwrite"]) == 0
    assert json.loads((tmp_path / "out" / "tectum.json").read_text())["stretch"] == "minmax"
    assert (tmp_path / "out" / "00.png").read_bytes() != content


def test_a_folder_of_foreign_images_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = pairs(tmp_path, 2)
    command[4] = command[1]  # -o vi
    before = (tmp_path / "vi" / "00.png").read_bytes()
    for extra in ([], ["--overwrite"]):
        assert main([*command, *extra]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "vi" / "00.png").read_bytes() == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00.png").write_bytes(b"precious")
    command[4] = str(tmp_path / "out")
    assert main(command) == 2
    assert "no tectum.json" in capsys.readouterr().err
    assert (tmp_path / "out" / "00.png").read_bytes() == b"precious"


def test_unreadable_unmatched_and_doubled_files_are_told_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = pairs(tmp_path, 5)
    (tmp_path / "ir" / "01.png").write_bytes(b"")
    (tmp_path / "ir" / "02.png").unlink()
    write_image(tmp_path / "vi" / "03.jpg", np.zeros(SIZE, np.uint8))
    assert main(command) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and all(line.startswith("tectum: ") for line in told)
    assert any("01" in line and "empty" in line for line in told)
    assert any("1 visible without infrared" in line and "02" in line for line in told)
    assert any("03.jpg" in line for line in told)
    assert results(tmp_path / "out") == ["00.png", "04.png", "tectum.json"]
    for role in ("vi", "ir"):
        (tmp_path / role / "01.png").unlink()
    (tmp_path / "vi" / "03.jpg").unlink()
    assert main(command) == 0  # unmatched files alone are told, not counted as failures


# ---- runs that end early ---------------------------------------------------------------------------------------------


def break_at(monkeypatch: pytest.MonkeyPatch, num: int, ctrl_c: Callable[[], None]) -> None:
    """Press Ctrl-C while pair `num` is fused."""
    fuse, calls = FusePipeline.__call__, [0]

    def interrupted(self: FusePipeline, *pictures: object) -> object:
        calls[0] += 1
        if calls[0] == num:
            ctrl_c()
        return fuse(self, *pictures)

    monkeypatch.setattr(FusePipeline, "__call__", interrupted)


def test_ctrl_c_keeps_what_is_fused_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ctrl_c: Callable[[], None]
) -> None:
    command = pairs(tmp_path, 6)
    with monkeypatch.context() as context:
        break_at(context, 4, ctrl_c)
        assert main(command) == 130
    told = capsys.readouterr().err
    assert "3 of 6 pairs are done" in told and "the same command continues" in told and "Traceback" not in told
    assert results(tmp_path / "out") == ["00.png", "01.png", "02.png", "tectum.json"]
    assert main(command) == 0
    assert "3 of 6 pairs fused" in capsys.readouterr().out


def test_a_second_ctrl_c_does_not_cut_off_what_is_being_written(ctrl_c: Callable[[], None]) -> None:
    written: list[int] = []
    told: list[int] = []

    def work(i: int) -> int:
        if i == 2:
            raise KeyboardInterrupt
        return i

    def write(i: int, _: int) -> None:
        time.sleep(0.03)
        if i == 1:
            ctrl_c()
        time.sleep(0.03)
        written.append(i)

    with pytest.raises(KeyboardInterrupt):
        overlap(range(9), lambda i: i, work, write, done=lambda i, e: told.append(i))
    assert written == told == [0, 1]


def test_an_overwrite_run_that_was_cut_short_does_not_leave_old_results_as_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ctrl_c: Callable[[], None]
) -> None:
    command = pairs(tmp_path, 4)
    assert main([*command, "--quiet"]) == 0
    old = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.png")}
    for path in (tmp_path / "out").glob("*.png"):
        os.utime(path, (1, 1))
    with monkeypatch.context() as context:
        break_at(context, 3, ctrl_c)
        assert main([*command, "--stretch", "minmax", "--overwrite"]) == 130
    assert "the same command without --overwrite continues" in capsys.readouterr().err
    assert main([*command, "--stretch", "minmax"]) == 0
    assert "2 of 4 pairs fused" in capsys.readouterr().out
    assert all((tmp_path / "out" / name).read_bytes() != content for name, content in old.items())
    assert "remaking" not in json.loads((tmp_path / "out" / "tectum.json").read_text())


def test_a_full_disk_ends_the_run_in_one_sentence_and_leaves_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, fsync, calls = pairs(tmp_path, 6), os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] > 3:  # the note of the settings, and two pictures
            raise OSError(28, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        assert main([*command, "--quiet"]) == 1
    told = capsys.readouterr().err
    assert "No space left on device" in told and "2 of 6 pairs are done and kept" in told and told.count("\n") == 1
    assert results(tmp_path / "out") == ["00.png", "01.png", "tectum.json"]
    assert main([*command, "--quiet"]) == 0
    assert len(results(tmp_path / "out")) == 7


def test_a_damaged_note_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tectum.json").write_text("{")
    with pytest.raises(ValueError, match=r"tectum.json must hold the settings .*--overwrite"):
        ResultFolder(tmp_path).prepare({}, ["a"])
    assert ResultFolder(tmp_path).prepare({"system": "average"}, ["a"], overwrite=True) == set()
