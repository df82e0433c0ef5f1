"""Radiometric JPEGs written by hand, for the tests: FLIR (APP1) and DJI (APP3).

FLIR's layout is that of ExifTool's published tag tables (FLIR FFF, RawData, CameraInfo, EmbeddedImage): APP1 segments
"FLIR\\0", 1, index, last index; joined they make an FFF file: a header of 64 bytes, a directory of 32 bytes a record,
and the records, each with its own byte order.
"""

import io
import struct
from typing import Any

import cv2
import numpy as np
from PIL import Image

CAMERA = {
    "emissivity": 0.95,
    "distance": 1.5,
    "reflected": 295.15,
    "atmosphere": 288.15,
    "window": 290.15,
    "window_transmission": 0.97,
    "humidity": 0.6,
    "R1": 17096.453,
    "B": 1428.0,
    "F": 1.0,
    "alpha1": 0.006569,
    "alpha2": 0.01262,
    "beta1": -0.002276,
    "beta2": -0.00667,
    "X": 1.9,
    "O": -7340,
    "R2": 0.046642166,
}
"""Constants of a camera and a scene, temperatures in kelvin, distance in metres, humidity as a share."""

_FLOATS = {
    "emissivity": 0x20,
    "distance": 0x24,
    "reflected": 0x28,
    "atmosphere": 0x2C,
    "window": 0x30,
    "window_transmission": 0x34,
    "humidity": 0x3C,
    "R1": 0x58,
    "B": 0x5C,
    "F": 0x60,
    "alpha1": 0x70,
    "alpha2": 0x74,
    "beta1": 0x78,
    "beta2": 0x7C,
    "X": 0x80,
    "R2": 0x30C,
}


def flir_jpeg(
    counts: Any,
    *,
    encoding: str = "png",
    order: str = "<",
    header_order: str = ">",
    camera: dict[str, float] = CAMERA,
    visible: bytes = b"",
    preview: Any = None,
    segment: int = 65000,
    exif: Any = None,
) -> bytes:
    """A FLIR JPEG.

    Args:
        counts: (H,W) uint16, the raw picture.
        encoding: "png" (with the two bytes of a value exchanged, as cameras write it), "png in order", or "raw".
        order: byte order of the records, "<" or ">".
        header_order: that of the FFF header and its directory.
        camera: constants, as in `CAMERA`.
        visible: a JPEG or PNG of the visible camera, embedded.
        preview: (H,W,3) uint8 that ordinary readers see.
        segment: bytes of FFF in one APP1 segment.
        exif: EXIF data of the JPEG.
    """
    height, width = counts.shape
    if encoding == "raw":
        image, subtype = counts.astype(np.dtype(np.uint16).newbyteorder(order)).tobytes(), 2 if order == "<" else 1
    else:
        image, subtype = (
            cv2.imencode(".png", counts if encoding == "png in order" else counts.byteswap())[1].tobytes(),
            3,
        )
    info = bytearray(0x4A0)
    struct.pack_into(order + "H", info, 0, 2)
    for name, offset in _FLOATS.items():
        struct.pack_into(order + "f", info, offset, camera[name])
    struct.pack_into(order + "i", info, 0x308, int(camera["O"]))
    info[0xD4 : 0xD4 + 10] = b"Test E0-00"
    middle = int(np.median(counts))
    struct.pack_into(order + "HH", info, 0x310, int(counts.min()), int(counts.max()))
    struct.pack_into(order + "H", info, 0x338, middle)
    struct.pack_into(order + "H", info, 0x33C, int(counts.max()) - int(counts.min()))
    records = [(1, subtype, _picture_header(width, height, order) + image), (32, 1, bytes(info))]
    if visible:
        size = Image.open(io.BytesIO(visible)).size
        records.append((14, 1, _picture_header(*size, order, 3) + visible))
    fff = _fff(records, header_order)
    parts = [fff[i : i + segment] for i in range(0, len(fff), segment)]
    stream = io.BytesIO()
    shown = Image.fromarray(np.zeros((height, width, 3), np.uint8) if preview is None else preview)
    shown.save(stream, "JPEG", quality=95, **({} if exif is None else {"exif": exif}))
    return _with_segments(
        stream.getvalue(), 0xE1, [b"FLIR\0\1" + bytes((i, len(parts) - 1)) + part for i, part in enumerate(parts)]
    )


def dji_jpeg(counts: Any, *, preview: Any = None) -> bytes:
    """A DJI JPEG: (H,W) uint16 raw counts in APP3 segments, little-endian."""
    raw = counts.astype("<u2").tobytes()
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "DJI"
    shown = Image.fromarray(np.zeros((*counts.shape, 3), np.uint8) if preview is None else preview)
    shown.save(stream, "JPEG", exif=exif)
    return _with_segments(stream.getvalue(), 0xE3, [raw[i : i + 65533] for i in range(0, len(raw), 65533)])


def _picture_header(width: int, height: int, order: str, first: int = 2) -> bytes:
    return struct.pack(order + "HHH", first, width, height).ljust(32, b"\0")


def _fff(records: list[tuple[int, int, bytes]], order: str) -> bytes:
    start = 64 + 32 * len(records)
    header = b"FFF\0" + b"tectum test".ljust(16, b"\0") + struct.pack(order + "IIII", 101, 64, len(records), 9)
    directory, body = b"", b""
    for index, (kind, subtype, data) in enumerate(records):
        entry = struct.pack(order + "HHIIII", kind, subtype, 100, index + 1, start + len(body), len(data))
        directory += entry.ljust(32, b"\0")
        body += data
    return header.ljust(64, b"\0") + directory + body


def _with_segments(jpeg: bytes, marker: int, bodies: list[bytes]) -> bytes:
    """Add segments behind the first one (JFIF or EXIF) of a JPEG."""
    end = 4 + struct.unpack_from(">H", jpeg, 4)[0]
    added = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for body in bodies)
    return jpeg[:end] + added + jpeg[end:]
