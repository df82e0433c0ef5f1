"""Metadata that goes from the first source into a result: EXIF with GPS, ICC profile, geo tags of a TIFF.

    read    orientation      applied to the pixels, so that a result is upright and says so
            EXIF             as it stands, if its directories can be walked; of a TIFF the descriptive tags of its first
                             directory and its directories EXIF and GPS
            ICC              as it stands
            geo tags         of a TIFF that is stored upright: GeoTIFF's six
    write   EXIF             with orientation 1 and the result's size, without the thumbnail
            ICC              where it is of the result's colours: an RGB profile for RGB, a grey one for grey
            geo tags         into TIFF only, the one format with a place for them

Maker notes hold offsets into the file they were written in; they stay as they are in PNG, JPEG and WebP and are left
out of TIFF, where they would move. GDAL's own tags are left out: statistics of bands and the value of missing pixels
are not the result's.

Reference: CIPA DC-008 (Exif 2.32); Adobe TIFF 6.0; OGC GeoTIFF 1.1; ICC.1:2022 (the header of a profile).
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tectum.io.image import DAMAGED, Array, RawImage, quiet_pillow

_EXIF_DIRECTORY, _GPS_DIRECTORY, _ICC = 34665, 34853, 34675
_DESCRIPTIVE = {271, 272, 282, 283, 296, 305, 306, 315, 33432}
"""Make, model, resolution, software, date, artist, copyright."""
_DESCRIPTION = 270
"""ImageDescription: in a TIFF often a program's own note on the file's layout, therefore not taken from one."""
_GEO = {33550, 33922, 34264, 34735, 34736, 34737}
_UNASSOCIATED_ALPHA = b"\2\0"
_MAX_ICC_BYTES = 2**24
_SEGMENT_BYTES = 65535 - 2 - len("Exif\0\0")
_MAKER_NOTE, _INTEROPERABILITY = 37500, 40965
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value that change places between byte orders, by its type; a fraction (5, 10) has two of 4."""


class _Entry(NamedTuple):
    """One tag of a TIFF directory: where its entry and its values lie in the data."""

    position: int
    tag: int
    type: int
    start: int
    num_bytes: int


def find_orientation(source: Image.Image | bytes) -> int:
    """Returns the EXIF orientation of an image or of raw EXIF data; 1 (upright) where it is missing or damaged."""
    with quiet_pillow(), contextlib.suppress(*DAMAGED):
        exif = Image.Exif() if isinstance(source, bytes) else source.getexif()
        if isinstance(source, bytes):
            exif.load(source)
        return int(exif.get(0x0112, 1))
    return 1


def find_maker(image: Image.Image) -> str:
    """Returns the maker of the camera in an image's EXIF data; "" where it says none."""
    with quiet_pillow(), contextlib.suppress(*DAMAGED):
        return str(image.getexif().get(271, "")).strip("\0 ")
    return ""


def upright(pixels: Array, orientation: int) -> Array:
    """Returns pixels with an EXIF orientation applied, 1..8 (others count as 1)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def attach_pillow(pixels: Array, image: Image.Image) -> RawImage:
    """Returns the pixels of a Pillow image upright, with its metadata.

    Args:
        pixels: as stored.
        image: loaded.
    """
    exif = image.info.get("exif", b"")
    if not exif and "Raw profile type exif" in image.info:  # ImageMagick's text chunk: three lines, then hexadecimal
        with contextlib.suppress(ValueError, TypeError):
            exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    return attach(upright(pixels, find_orientation(image)), exif, image.info.get("icc_profile") or b"")


def attach_png(pixels: Array, chunks: Mapping[bytes, bytes]) -> RawImage:
    """Returns pixels upright, with the metadata of a PNG.

    Args:
        pixels: as stored.
        chunks: bodies of eXIf and iCCP, those that it has.
    """
    exif, profile = chunks.get(b"eXIf", b""), chunks.get(b"iCCP", b"")
    icc = profile  # refused below if it cannot be unpacked
    with contextlib.suppress(zlib.error):
        icc = zlib.decompressobj().decompress(profile[profile.find(b"\0") + 2 :], _MAX_ICC_BYTES)
    return attach(upright(pixels, find_orientation(exif) if exif else 1), exif, icc)


def attach(pixels: Array, exif: bytes, icc: bytes) -> RawImage:
    """Returns upright pixels with EXIF data and ICC profile, and a warning for one that is damaged and left out.

    Args:
        pixels: upright.
        exif, icc: raw data, empty where there is none.
    """
    metadata, damaged = {}, []
    exif = exif.removeprefix(b"Exif\0\0")
    if exif:
        try:
            _clean_exif(exif, 1, 1)
            _read_exif(exif)
            metadata["exif"] = exif
        except DAMAGED:
            damaged.append("EXIF data")
    if len(icc) >= 132 and icc[36:40] == b"acsp" and int.from_bytes(icc[:4], "big") == len(icc):
        metadata["icc"] = icc
    elif icc:
        damaged.append("ICC profile")
    return RawImage(pixels, metadata=metadata, warnings=tuple(_say_left_out(part) for part in damaged))


def _say_left_out(part: str) -> str:
    return f"the {part} of a source could not be read and does not go into the result"


def attach_tiff(pixels: Array, data: bytes, tags: Mapping[int, Any]) -> RawImage:
    """Returns the pixels of a TIFF with its metadata.

    Args:
        pixels: upright.
        data: the file.
        tags: of its first page, as Pillow reads them.
    """
    if not tags.keys() & (_DESCRIPTIVE | _GEO | {_EXIF_DIRECTORY, _GPS_DIRECTORY, _ICC}):
        return RawImage(pixels)
    exif, geo, warnings = b"", {}, []
    try:
        order, big, start = _read_header(data)
        directory = _read_directory(data, start, order, big)
        kept = {tag: directory[tag] for tag in _DESCRIPTIVE | {_EXIF_DIRECTORY, _GPS_DIRECTORY} if tag in directory}
        exif = b"II*\0\x08\0\0\0" + _pack_directory(kept, 8) if kept else b""
        if tags.get(274, 1) == 1:
            geo = {tag: directory[tag] for tag in _GEO if tag in directory}
        elif _GEO & directory.keys():
            warnings.append("the geo tags of a source that is stored turned do not go into the upright result")
    except DAMAGED:
        warnings.append(_say_left_out("EXIF data"))
    icc = tags.get(_ICC, b"")
    image = attach(pixels, exif, icc if isinstance(icc, bytes) else b"")
    return RawImage(
        pixels,
        metadata={**image.metadata, **({"geo": geo} if geo else {})},
        warnings=(*image.warnings, *warnings),
    )


def fit_metadata(metadata: Mapping[str, Any], pixels: Array, extension: str) -> dict[str, Any]:
    """Returns what of a source's metadata holds for a result of these pixels, and has a place in its format.

    Args:
        metadata: as in `RawImage`.
        pixels: of the result, (H,W) or (H,W,C).
        extension: of its file; EXIF of more than a segment (64 KiB) is left out of ".jpg".
    """
    fitted = dict(metadata)
    if "exif" in fitted:
        fitted["exif"] = _clean_exif(fitted["exif"], pixels.shape[1], pixels.shape[0])
        if extension == ".jpg" and len(fitted["exif"]) > _SEGMENT_BYTES:
            del fitted["exif"]
    if "icc" in fitted and fitted["icc"][16:20] != (b"GRAY" if pixels.ndim == 2 else b"RGB "):
        del fitted["icc"]
    return fitted


def add_to_tiff(encoded: bytes, metadata: Mapping[str, Any]) -> bytes:
    """Returns a TIFF with metadata, as `fit_metadata` gives it, in a directory at its end in place of the first one.

    Of four channels that directory says that the last is alpha.
    """
    order, big, start = _read_header(encoded)
    assert not big
    directory: dict[int, Any] = {}
    if "exif" in metadata:
        kept = _DESCRIPTIVE | {_DESCRIPTION, _EXIF_DIRECTORY, _GPS_DIRECTORY}
        directory = {tag: value for tag, value in _read_exif(metadata["exif"]).items() if tag in kept}
    if "icc" in metadata:
        directory[_ICC] = 7, metadata["icc"]
    directory |= metadata.get("geo", {})
    directory |= _read_directory(encoded, start, order)  # the pixels' own tags come last and win
    if directory[277][1][:1] == b"\4":  # OpenCV does not say what the fourth channel is
        directory[338] = 3, _UNASSOCIATED_ALPHA
    encoded += b"\0" * (len(encoded) % 2)
    packed = _pack_directory(directory, len(encoded), order)
    return encoded[:4] + struct.pack(order + "I", len(encoded)) + encoded[8:] + packed


def _clean_exif(exif: bytes, width: int, height: int) -> bytes:
    """EXIF data of an upright image of a size: changed in place, so that no offset in it moves.

    Raises:
        ValueError, struct.error: a directory cannot be walked.
    """
    data = bytearray(exif)
    order, _, start = _read_header(exif)
    for entry in _walk(exif, start, order):
        if entry.tag == 274:  # orientation
            struct.pack_into(order + "HIHH", data, entry.position + 2, 3, 1, 1, 0)
        if entry.tag in (256, 257):
            struct.pack_into(order + "HII", data, entry.position + 2, 4, 1, height if entry.tag == 257 else width)
        if entry.tag == _GPS_DIRECTORY:
            list(_walk(exif, _read_pointer(exif, entry, order), order))
        if entry.tag == _EXIF_DIRECTORY:
            for inner in _walk(exif, _read_pointer(exif, entry, order), order):
                if inner.tag in (40962, 40963):  # width and height of the valid image
                    value = width if inner.tag == 40962 else height
                    struct.pack_into(order + "HII", data, inner.position + 2, 4, 1, value)
    _drop_thumbnail(data, start, order)
    return bytes(data)


def _drop_thumbnail(data: bytearray, start: int, order: str) -> None:
    """Unlink the second directory, and blank the JPEG that it points to."""
    (count,) = struct.unpack_from(order + "H", data, start)
    link = start + 2 + 12 * count
    if link + 4 > len(data):
        return
    (second,) = struct.unpack_from(order + "I", data, link)
    struct.pack_into(order + "I", data, link, 0)
    with contextlib.suppress(struct.error, ValueError):
        if second:
            tags = {entry.tag: _read_pointer(bytes(data), entry, order) for entry in _walk(bytes(data), second, order)}
            first, size = tags.get(513, 0), tags.get(514, 0)
            if 8 < first < first + size <= len(data):
                data[first : first + size] = bytes(size)
                if first + size == len(data):
                    del data[first:]


# ---- directories of a TIFF, which EXIF data has too ------------------------------------------------------------------


def _read_header(data: bytes) -> tuple[str, bool, int]:
    """(byte order, True for BigTIFF, start of the first directory). Raises ValueError for another header."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    version = data[2:4] if order == "<" else data[3:1:-1]
    if order is None or version not in (b"*\0", b"+\0"):
        raise ValueError("no TIFF header")
    big = version == b"+\0"
    return order, big, struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]


def _walk(data: bytes, start: int, order: str, big: bool = False) -> Iterator[_Entry]:
    """The entries of a directory. Raises ValueError or struct.error where it does not lie in the data."""
    head, size, inline = (8, 20, 8) if big else (2, 12, 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    if not start or start + head + size * count > len(data):
        raise ValueError("a directory lies beyond the end")
    for position in range(start + head, start + head + size * count, size):
        tag, type, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, position)
        num_bytes = number * _ITEM_BYTES.get(type, 1) * (2 if type in (5, 10) else 1)
        at = position + size - inline
        if num_bytes > inline:
            (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, at)
        yield _Entry(position, tag, type, at, num_bytes)


def _read_pointer(data: bytes, entry: _Entry, order: str) -> int:
    return int.from_bytes(data[entry.start : entry.start + entry.num_bytes], "little" if order == "<" else "big")


def _read_exif(exif: bytes) -> dict[int, Any]:
    order, _, start = _read_header(exif)
    return _read_directory(exif, start, order)


def _read_directory(data: bytes, start: int, order: str, big: bool = False, inner: bool = False) -> dict[int, Any]:
    """{tag: (type, values in little-endian bytes)}, without values that lie beyond the end or move with the file.

    In place of the values of a pointer to the directories EXIF and GPS stands that directory. Raises as `_walk`.
    """
    directory: dict[int, Any] = {}
    for entry in _walk(data, start, order, big):
        if entry.tag in (_EXIF_DIRECTORY, _GPS_DIRECTORY):
            if not inner:
                at = _read_pointer(data, entry, order)
                directory[entry.tag] = 4, _read_directory(data, at, order, big, inner=True)
            continue
        values = data[entry.start : entry.start + entry.num_bytes]
        is_whole = len(values) == entry.num_bytes and entry.type in _ITEM_BYTES
        if is_whole and entry.tag not in (_MAKER_NOTE, _INTEROPERABILITY):
            directory[entry.tag] = entry.type, _swap(values, entry.type, order)
    return directory


def _pack_directory(directory: Mapping[int, Any], start: int, order: str = "<") -> bytes:
    """A directory that begins at `start`, its values and inner directories behind it."""
    entries, behind = b"", b""
    end = start + 2 + 12 * len(directory) + 4
    for tag in sorted(directory):
        type, values = directory[tag]
        if isinstance(values, dict):
            inner = _pack_directory(values, end + len(behind), order)
            number, field, behind = 1, struct.pack(order + "I", end + len(behind)), behind + inner
        else:
            number = len(values) // (_ITEM_BYTES[type] * (2 if type in (5, 10) else 1))
            field = _swap(values, type, order).ljust(4, b"\0")
            if len(values) > 4:
                field, behind = struct.pack(order + "I", end + len(behind)), behind + field
        behind += b"\0" * (len(behind) % 2)
        entries += struct.pack(order + "HHI", tag, type, number) + field
    return struct.pack(order + "H", len(directory)) + entries + bytes(4) + behind


def _swap(values: bytes, type: int, order: str) -> bytes:
    """Values in the other byte order, where `order` is not little-endian."""
    if order == "<" or _ITEM_BYTES[type] == 1:
        return values
    return np.frombuffer(values, f"u{_ITEM_BYTES[type]}").byteswap().tobytes()
