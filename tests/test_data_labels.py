"""Masks and boxes in files, as they are written in the field: which numbers come out, and what is refused."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tectum.data.boxes import PixelBox, read_list, read_voc, to_relative
from tectum.data.labels import Labels
from tectum.data.masks import read_indices, read_mask
from tectum.errors import UserError

CLASSES = ("background", "car", "person")
INDICES = np.array([[0, 1, 2, 0], [2, 2, 1, 255]], np.uint8)


def grey(path: Path) -> None:
    Image.fromarray(INDICES).save(path)


def palette(path: Path) -> None:
    """As VOC has them: the colours of a palette say nothing."""
    image = Image.new("P", (4, 2))
    image.putdata(INDICES.flatten().tolist())
    image.putpalette([x for i in range(256) for x in (255 - i, (i * 37) % 256, (i * 91) % 256)])
    image.save(path)


def three_equal_channels(path: Path) -> None:
    Image.fromarray(np.repeat(INDICES[..., None], 3, 2)).save(path)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(INDICES.astype(np.uint16)).save(path)


# ---- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [grey, palette, three_equal_channels, sixteen_bits])
def test_masks_hold_the_numbers_of_the_file(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", CLASSES, (2, 4)).tolist() == INDICES.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_keep_their_numbers(tmp_path: Path, bits: int) -> None:
    """Readers spread two bits over 0, 85, 170, 255, and 255 would mean ignored."""
    top = 2**bits
    numbers = (np.arange(32).reshape(2, 16) % top).astype(np.uint8)
    packed = np.packbits(
        ((numbers[..., None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).reshape(2, -1), axis=1
    )
    (tmp_path / "a.png").write_bytes(png(packed.tobytes(), 16, 2, bits))
    assert read_indices(tmp_path / "a.png").tolist() == numbers.tolist()


def png(rows: bytes, width: int, height: int, bits: int) -> bytes:
    """A grey PNG of few bits, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    stride = len(rows) // height
    data = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def colour(path: Path) -> None:
    Image.fromarray(np.stack([INDICES, INDICES * 0, INDICES * 7], 2)).save(path)


def jpeg(path: Path) -> None:
    Image.fromarray(INDICES).save(path, format="JPEG")


def floating(path: Path) -> None:
    Image.fromarray(INDICES.astype(np.float32)).save(path, format="TIFF")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    grey(path)
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (colour, "is a colour picture; write its classes as one grey number each"),
        (jpeg, "is a JPEG file, which blends them; take the PNG files"),
        (floating, "is float32; save it with 8 bits"),
        (empty, r"is empty \(0 bytes\)"),
        (cut, "is a truncated PNG file"),
    ],
)
def test_files_that_hold_no_mask_are_refused(tmp_path: Path, write: Callable[[Path], None], says: str) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"a.png {says}"):
        read_mask(tmp_path / "a.png", CLASSES)


def test_a_class_that_is_not_there_is_named_with_its_place(tmp_path: Path) -> None:
    grey(tmp_path / "a.png")
    says = r"classes 0 to 1 \(background, car\) or 255 .*a.png has 2 in row 0, column 2 \(37.5% of it is no class\)"
    with pytest.raises(ValueError, match=says):
        read_mask(tmp_path / "a.png", CLASSES[:2])


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    grey(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png is 4x2 for an image of 4x3"):
        Labels("masks", CLASSES, {"a": tmp_path / "a.png"}).read("a", (3, 4))


# ---- boxes -----------------------------------------------------------------------------------------------------------

PERSON = {"boxes": [[0.25, 0.125, 0.5, 0.75]], "labels": [2]}  # in 40x16 pixels: 10,2,20,12


def yolo(folder: Path, text: str = "2 0.375 0.4375 0.25 0.625\n") -> Labels:
    (folder / "a.txt").write_text(text)
    return Labels("boxes", CLASSES, {"a": folder / "a.txt"})


def voc(folder: Path, box: str = "10,2,20,12", name: str = "Person", size: str = "40,16") -> Labels:
    tags = "".join(f"<{k}>{x}</{k}>" for k, x in zip(("xmin", "ymin", "xmax", "ymax"), box.split(","), strict=True))
    width, height = size.split(",")
    (folder / "a.xml").write_text(
        f"<annotation><size><width>{width}</width><height>{height}</height></size>"
        f"<object><name>{name}</name><bndbox>{tags}</bndbox></object></annotation>"
    )
    return Labels("boxes", CLASSES, {"a": folder / "a.xml"})


def listed(folder: Path, line: str = "a.png 10,2,20,12,2") -> Labels:
    (folder / "list.txt").write_text(line + "\n")
    return Labels("boxes", CLASSES, read_list(folder / "list.txt"))


@pytest.mark.parametrize("write", [yolo, voc, listed])
def test_the_three_forms_hold_the_same_box(tmp_path: Path, write: Callable[[Path], Labels]) -> None:
    """x goes with the width and y with the height, also where the image is not square."""
    found = write(tmp_path).read("a", (16, 40))
    assert {key: x.tolist() for key, x in found.items()} == PERSON
    assert (found["boxes"].dtype, found["labels"].dtype) == (torch.float32, torch.int64)


def test_an_empty_text_file_and_a_bare_name_say_that_nothing_is_there(tmp_path: Path) -> None:
    for found in (yolo(tmp_path, "").read("a", (16, 40)), listed(tmp_path, "a.png").read("a", (16, 40))):
        assert (found["boxes"].shape, found["labels"].shape) == ((0, 4), (0,))


def test_another_order_of_the_numbers(tmp_path: Path) -> None:
    files = yolo(tmp_path, "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n").entries
    found = Labels("boxes", CLASSES, files, order=("person", "car")).read("a", (16, 40))
    assert found["labels"].tolist() == [2, 1]


def test_rounding_is_clipped_and_more_is_refused() -> None:
    found = to_relative([PixelBox(-0.5, 0, 40.5, 16, 0, "here")], (16, 40))
    assert found["boxes"].tolist() == [[0, 0, 1, 1]]
    for x1, y1, x2, y2 in ((-0.6, 0, 9, 9), (0, -1, 9, 9), (0, 0, 41, 9), (0, 0, 9, 17)):
        with pytest.raises(ValueError, match=r"a box must lie in its image, here has .* in 40x16 pixels"):
            to_relative([PixelBox(x1, y1, x2, y2, 0, "here")], (16, 40))


def test_swapped_divisors_are_caught() -> None:
    """The published loader divides x by the height: what is at the right edge comes out at 4/3 of the width."""
    with pytest.raises(ValueError, match="must lie in its image"):
        to_relative([PixelBox(500 * 4 / 3, 100 * 3 / 4, 640 * 4 / 3, 200 * 3 / 4, 0, "here")], (480, 640))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 0.5 0.5 0.5\n", r"`class cx cy w h`, .*a.txt, line 1 has '0 0.5 0.5 0.5'"),
        ("0 0.5 0.5 0.5 0.5 0.9\n", "line 1 has"),
        ("\n# a comment\ncar 0.5 0.5 0.5 0.5\n", "line 3 has 'car"),
        ("3 0.5 0.5 0.5 0.5\n", r"from 0 to 2 \(background, car, person\), .*line 1 has 3"),
        ("-1 0.5 0.5 0.5 0.5\n", "line 1 has -1"),
        ("0.5 0.5 0.5 0.5 0.5\n", "line 1 has 0.5"),
        ("1 20 8 10 4\n", r"must be relative \(0 to 1\), .*line 1"),
        ("1 0.5 0.5 0 0.5\n", "from its left top to its right bottom, .*line 1"),
        ("1 0.5 0.5 nan 0.5\n", "line 1"),
        ("1 0.5 0.5 0.5 0.5\n1 0.9 0.5 0.5 0.5\n", "must lie in its image, .*a.txt, line 2 has"),
    ],
)
def test_lines_that_hold_no_box_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        yolo(tmp_path, text).read("a", (16, 40))


def test_annotations_that_hold_no_box_are_named(tmp_path: Path) -> None:
    for given, says in (
        ({"name": "dog"}, "must be one of background, car, person, .*a.xml names 'dog'"),
        ({"size": "16,40"}, "a.xml is for 16x40 and the image has 40x16"),
        ({"box": "10,2,9,12"}, "from its left top to its right bottom, .*a.xml, object 1 has 10,2,9,12"),
        ({"box": "10,2,,12"}, "a.xml must be a VOC annotation"),
        ({"box": "10,2,44,12"}, "must lie in its image, .*a.xml, object 1"),
    ):
        with pytest.raises(ValueError, match=says):
            voc(tmp_path, **given).read("a", (16, 40))
    (tmp_path / "a.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match="must be a VOC annotation"):
        read_voc(tmp_path / "a.xml", CLASSES)


def test_lists_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for text, says in (
        ("a.png 1,2,3,4", "list.txt, line 1 has '1,2,3,4'"),
        ("a.png 1,2,3,4,0.5", "line 1 has 0.5"),
        ("a.png\nother/a.jpg", "must name each image once, .*line 2 has a again"),
        ("a.png 1,2,3,4,7", r"from 0 to 2 .*line 1 has 7"),
    ):
        with pytest.raises(ValueError, match=says):
            listed(tmp_path, text).read("a", (16, 40))


def test_lists_may_name_paths_of_either_kind(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("data/M3FD/ir/00001.png 1,2,3,4,0\ndata\\vi\\00002.png\n")
    assert {name: len(rows) for name, rows in read_list(tmp_path / "list.txt").items()} == {"00001": 1, "00002": 0}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-marked"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_are_read_in_the_encodings_of_common_editors(tmp_path: Path, encoding: str, end: str) -> None:
    """The byte order mark used to stick to the first name; UTF-16, what a Windows shell writes, was refused."""
    text = end.join(["# ours", "00001.png  ", "", "  # more", "caf\u00e9 2 1,2,3,4,0\t", "00003"])
    marked = encoding == "utf-16-be-marked"
    content = b"\xfe\xff" + text.encode("utf-16-be") if marked else text.encode(encoding)
    (tmp_path / "list.txt").write_bytes(content)
    assert {name: len(rows) for name, rows in read_list(tmp_path / "list.txt").items()} == {
        "00001": 0,
        "caf\u00e9 2": 1,
        "00003": 0,
    }


@pytest.mark.parametrize("content", [b"caf\xe9\n", "00001\n".encode("utf-16-le"), "1\n".encode("utf-32"), b"\x89PNG\0"])
def test_lists_that_are_no_text_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"list.txt must be text in UTF-8, or in UTF-16 .*; save it again as UTF-8"):
        read_list(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("line", "name", "num_boxes"),
    [
        ("scene 1.png", "scene 1", 0),
        ("a  b 1,2,3,4,0 2,3,4,5,0", "a  b", 2),
        ("vi/0001.png ir/0001.jpg", "0001", 0),  # both files of a pair in a line
        ("day.001", "day.001", 0),  # no extension of an image
        ("day.001.PNG", "day.001", 0),
        ("Cafe\u0301.png", "Caf\u00e9", 0),  # as macOS writes it
    ],
)
def test_names_in_lists_are_those_of_the_images(tmp_path: Path, line: str, name: str, num_boxes: int) -> None:
    (tmp_path / "list.txt").write_text(line + "\n", encoding="utf-8")
    assert {name: len(rows) for name, rows in read_list(tmp_path / "list.txt").items()} == {name: num_boxes}


# ---- the published lists ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "images", "counts", "size"),
    [
        ("M3FD_train", 3150, [8535, 13725, 512, 396, 747, 1817], (768, 1024)),
        ("M3FD_test", 1050, [2942, 4571, 188, 125, 261, 588], (768, 1024)),
        ("LLVIP_train", 1203, [3517], (1024, 1280)),
        ("LLVIP_test", 347, [858], (1024, 1280)),
    ],
)
def test_the_published_lists(name: str, images: int, counts: list[int], size: tuple[int, int]) -> None:
    """25,732 boxes to train on for M3FD, all of them inside their images once x goes with the width."""
    if not os.environ.get("TECTUM_DATA"):
        pytest.skip("TECTUM_DATA is not set: it names the folder of real data")
    rows = read_list(Path(os.environ["TECTUM_DATA"]) / "splits" / f"{name}.txt")
    labels = Labels("boxes", tuple(str(i) for i in range(len(counts))), rows)
    found = [labels.read(stem, size) for stem in rows]
    seen = Counter(int(x) for boxes in found for x in boxes["labels"])
    assert (len(rows), [seen[i] for i in range(len(counts))]) == (images, counts)
    assert max(float(boxes["boxes"].max()) for boxes in found) == 1
