"""Folders of pairs to train on, and what is cut out of them."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tectum.data.datasets import open_set
from tectum.data.folders import read_luminance
from tectum.data.parts import exclude_names, read_split
from tectum.data.transforms import centre_crop, random_crop
from tectum.pair import Pair

Write = Callable[..., Path]
HEIGHT, WIDTH = 6, 9


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write random 8-bit images, NAME[.ext] in FOLDER; colour where the folder is one of visible images."""

    def images(folder: str, *names: str, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            shape = (*size, 3) if Path(folder).name.startswith("vi") else size
            pixels = np.random.default_rng([len(folder), *name.encode()]).integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / (name if "." in name else f"{name}.png"))
        return tmp_path

    return images


# ---- which pairs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("visible, infrared", [("vi", "ir"), ("visible", "infrared")])
@pytest.mark.parametrize("inside", ["", "train/"])
def test_layouts(write: Write, visible: str, infrared: str, inside: str) -> None:
    write(inside + visible, "two", "one")
    root = write(inside + infrared, "one", "two")
    folder = open_set("folder", root)
    assert (len(folder), folder.names) == (2, ["one", "two"])
    assert [folder[i].name for i in range(2)] == [("one",), ("two",)]


def test_the_train_folder_comes_before_the_folder_itself(write: Write) -> None:
    for folder in ("vi", "ir"):
        write(folder, "here")
        root = write(f"train/{folder}", "there")
    assert open_set("folder", root).names == ["there"]


def test_a_list_beside_the_folders_is_obeyed(write: Write) -> None:
    write("vi", "a", "b", "c")
    root = write("ir", "a", "b", "c")
    (root / "test.txt").write_text("b\n")
    assert open_set("folder", root).names == ["a", "c"], "what is for the test is not trained on"


def test_files_are_matched_by_stem_whatever_their_format(write: Write) -> None:
    write("vi", "a.jpg", "b.PNG", "c.bmp", "d.webp", "e.tiff")
    root = write("ir", "a.png", "b.png", "c.png", "d.tif", "e.jpeg")
    (root / "vi" / "notes.txt").write_text("not an image")
    (root / "ir" / "notes.txt").write_text("not an image")
    assert open_set("folder", root).names == ["a", "b", "c", "d", "e"]


def test_names_choose_and_order(write: Write) -> None:
    write("vi", "a", "b", "c")
    root = write("ir", "a", "b", "c")
    folder = open_set("folder", str(root), names=["c", "a"])
    assert folder.names == ["c", "a"]
    assert torch.equal(folder[0].a, open_set("folder", root)[2].a)


def test_a_name_that_is_missing_on_one_side_is_refused(write: Write) -> None:
    write("vi", "a", "b", "c")
    root = write("ir", "a")
    with pytest.raises(FileNotFoundError, match=r"2 of 3 have no infrared one in .*, the first is b"):
        open_set("folder", root, names=["a", "b", "c"])


def test_folders_that_are_not_there_are_named(write: Write) -> None:
    root = write("vi", "a")
    for missing in (root, root / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"not found in .*: expected .* such as|does not exist"):
            open_set("folder", missing)


def test_folders_without_a_pair_are_refused(write: Write) -> None:
    write("vi", "a")
    root = write("ir", "b")
    with pytest.raises(FileNotFoundError, match="every pair of folder needs both images"):
        open_set("folder", root)


def test_two_files_for_one_name_are_refused(write: Write) -> None:
    """Which of the two would be taken depends on the file system's order."""
    write("vi", "a.png", "a.jpg")
    root = write("ir", "a")
    with pytest.raises(ValueError, match=r"\ba\.(png|jpg)\b"):
        open_set("folder", root)


# ---- which pixels ----------------------------------------------------------------------------------------------------


def test_pixels_are_those_of_pillow(write: Write) -> None:
    write("vi", "a")
    root = write("ir", "a")
    pair = open_set("folder", root)[0]
    assert (pair.a.shape, pair.a.dtype, pair.target) == ((1, 1, HEIGHT, WIDTH), torch.float32, None)
    for image, folder in ((pair.a, "vi"), (pair.b, "ir")):
        with Image.open(root / folder / "a.png") as file:
            assert torch.equal((image[0, 0] * 255).round().byte(), torch.from_numpy(np.array(file.convert("L"))))
    rgb = np.array(Image.open(root / "vi" / "a.png")).astype(float)
    luminance = rgb @ (0.299, 0.587, 0.114)
    assert np.abs(pair.a[0, 0].numpy() * 255 - luminance).max() < 0.51
    assert torch.equal(open_set("folder", root)[0].b, pair.b)


def test_black_and_white_are_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "x.png")
    assert read_luminance(tmp_path / "x.png").tolist() == [[0, 255]]


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK"])
def test_other_8_bit_images_are_read(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.array([[0, 255, 255], [255, 0, 0]], np.uint8))
    grey.convert(mode).save(tmp_path / "x.tif")
    assert read_luminance(tmp_path / "x.tif").tolist() == [[0, 255, 255], [255, 0, 0]]


def test_pairs_are_read_once_and_never_shared(write: Write) -> None:
    write("vi", "a")
    root = write("ir", "a")
    folder = open_set("folder", root)
    first = folder[0]
    (root / "vi" / "a.png").unlink()
    folder[0].a.zero_()
    assert torch.equal(folder[0].a, first.a), "writing into a pair must not reach the next reader"


def deep_grey(path: Path) -> None:
    Image.fromarray(np.arange(54, dtype=np.uint16).reshape(6, 9) * 1000).save(path)


def deep_colour(path: Path) -> None:
    import cv2

    cv2.imwrite(os.fspath(path), np.arange(162, dtype=np.uint16).reshape(6, 9, 3) * 400)


def floats(path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 54, dtype=np.float32).reshape(6, 9)).save(path)


@pytest.mark.parametrize(("deep", "name"), [(deep_grey, "x.png"), (deep_grey, "x.tif"), (floats, "x.tif")])
def test_deeper_images_are_refused(tmp_path: Path, deep: Callable[[Path], None], name: str) -> None:
    deep(tmp_path / name)
    with pytest.raises(ValueError, match=f"must be 8-bit, .*{name} is .*; convert it first"):
        read_luminance(tmp_path / name)


def test_deeper_colour_images_are_refused(tmp_path: Path) -> None:
    """Pillow reads 16-bit colour as 8-bit without a word."""
    deep_colour(tmp_path / "x.png")
    with pytest.raises(ValueError, match="must be 8-bit"):
        read_luminance(tmp_path / "x.png")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def text(path: Path) -> None:
    path.write_text("not an image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, text, empty])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_damaged_files_are_named(write: Write, damage: Callable[[Path], None], name: str) -> None:
    write("vi", name)
    root = write("ir", "a")
    damage(root / "vi" / name)
    with pytest.raises(ValueError, match=rf"vi.{name} is .*; (copy or save|give)"):
        open_set("folder", root)[0]


def test_images_of_two_sizes_are_refused_by_name(write: Write) -> None:
    write("vi", "first", "second")
    write("ir", "first")
    root = write("ir", "second", size=(HEIGHT, WIDTH + 1))
    folder = open_set("folder", root)
    assert folder[0].name == ("first",)
    with pytest.raises(ValueError, match="second"):
        folder[1]


# ---- lists of names --------------------------------------------------------------------------------------------------


def test_the_validation_list_has_40_names_half_by_day() -> None:
    names = read_split("msrs-validation")
    assert len(names) == len(set(names)) == 40
    assert sum(name.endswith("D") for name in names) == sum(name.endswith("N") for name in names) == 20


def test_the_validation_list_is_part_of_the_training_pairs() -> None:
    if not os.environ.get("TECTUM_DATA"):
        pytest.skip("TECTUM_DATA is not set: it names the folder of real data")
    root = Path(os.environ["TECTUM_DATA"]) / "msrs"
    kept = read_split("msrs-validation")
    everything = open_set("folder", root)
    assert len(everything) == 221
    assert open_set("folder", root, names=kept).names == kept
    assert len(exclude_names(everything.names, kept)) == 181
    assert not set(kept) & {path.stem for path in (root / "test" / "vi").iterdir()}


def test_without_keeps_the_order() -> None:
    assert exclude_names(["c", "a", "d", "b"], ["d", "x"]) == ["c", "a", "b"]


# ---- crops -----------------------------------------------------------------------------------------------------------


def numbered(height: int, width: int) -> Pair:
    """Each pixel holds its own number; the infrared one the negative."""
    pixels = torch.arange(float(height * width)).reshape(1, 1, height, width)
    return Pair(pixels, -pixels, name=("numbered",))


def crops(pair: Pair, size_px: int, num: int = 200) -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    return [random_crop(pair, size_px, generator) for _ in range(num)]


def test_random_crops_are_windows_of_both_images() -> None:
    pair = numbered(7, 10)
    corners, mirrored = set(), 0
    for crop in crops(pair, 4):
        assert torch.equal(crop.b, -crop.a)
        window: Tensor = crop.a
        if window[0, 0, 0, 0] > window[0, 0, 0, 1]:
            window, mirrored = window.flip(3), mirrored + 1
        top, left = divmod(int(window[0, 0, 0, 0]), 10)
        assert torch.equal(window, pair.a[:, :, top : top + 4, left : left + 4])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(4) for left in range(7)}, "every place must be possible"
    assert 60 < mirrored < 140


def test_crops_follow_the_generator_alone() -> None:
    pair = numbered(20, 30)
    first = [crop.a for crop in crops(pair, 8, 20)]
    torch.manual_seed(123)
    assert all(torch.equal(x, crop.a) for x, crop in zip(first, crops(pair, 8, 20), strict=True))
    other = random_crop(pair, 8, torch.Generator().manual_seed(1))
    assert not torch.equal(other.a, first[0])


def test_a_crop_as_large_as_the_image_is_the_image() -> None:
    pair = numbered(5, 5)
    crop = random_crop(pair, 5, torch.Generator().manual_seed(0))
    assert sorted(crop.a.flatten().tolist()) == pair.a.flatten().tolist()
    assert crop.name == ("numbered",)


@pytest.mark.parametrize("size", [(7, 20), (20, 7)])
def test_images_smaller_than_the_crop_are_refused(size: tuple[int, int]) -> None:
    says = rf"crops of 8 px need images at least as large, numbered is {size[1]}x{size[0]}; use --crop-px"
    with pytest.raises(ValueError, match=says):
        random_crop(numbered(*size), 8, torch.Generator())


def test_centre_crop_takes_the_middle() -> None:
    crop = centre_crop(numbered(6, 9), 3)
    assert crop.a[0, 0].tolist() == [[12, 13, 14], [21, 22, 23], [30, 31, 32]]
    assert torch.equal(crop.b, -crop.a)
    narrow = centre_crop(numbered(2, 9), 3).a
    assert narrow[0, 0].tolist() == [[3, 4, 5], [12, 13, 14]]
