"""Radiometric JPEGs of thermal cameras: FLIR's as temperatures in degrees Celsius, DJI's as raw 16-bit counts.

FLIR keeps, in APP1 segments, the sensor's counts S and what is needed to make temperatures T of them (in kelvin):

    S_obj = S / (e t w) - (1 - e)/e S(T_refl) - (1 - t)/(e t) S(T_atm) - (1 - w)/(e t w) S(T_win)
    S(T)  = R1 / (R2 (exp(B / T) - F)) - O           T = B / ln(R1 / (R2 (S_obj + O)) + F)
    t     = X exp(-sqrt(d) (a1 + b1 sqrt(h))) + (1 - X) exp(-sqrt(d) (a2 + b2 sqrt(h)))
    h     = RH exp(1.5587 + 0.06939 c - 0.00027816 c^2 + 6.8455e-7 c^3)      c: the atmosphere in degrees Celsius

e is the emissivity, t the transmission of d metres of air of relative humidity RH, w that of a window before the lens;
R1, R2, B, F, O, X, a1, a2, b1, b2 are constants of the camera. All come from the file.

DJI keeps the counts in APP3 segments. Their way to temperatures is known to DJI's own library only, which is not free,
so they stay counts: they rise with the temperature, and a value range in degrees has no meaning for them.

Reference: FLIR Systems, manuals ("The measurement formula", the first line) and the parameters of its cameras'
interface (GenICam); W. Minkina, D. Klecha, Atmospheric transmission coefficient modelling in the infrared for
thermovision measurements, J. Sens. Sens. Syst. 5, 2016, https://doi.org/10.5194/jsss-5-17-2016 (t and h); ExifTool's
tag tables for FLIR and DJI, https://exiftool.org/TagNames/FLIR.html (where each number lies).
Others: the R package Thermimage and flyr take t for d/2 twice, which stands for another distance where there is no
window (2 d in place of d); at 1.5 m and 120 degrees that is 0.2 degrees, and 0 at 0 m.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import JpegImagePlugin

from tectum.errors import UserError
from tectum.io import metadata
from tectum.io.image import (
    DAMAGED,
    Array,
    RawImage,
    Refusal,
    check_size,
    decode_with_opencv,
    pixels_from_pillow,
    quiet_pillow,
)

_CELSIUS = "degrees Celsius"
_KELVIN = 273.15
_RAW_DATA, _EMBEDDED_IMAGE, _CAMERA = 1, 14, 32
_FLOATS = {
    "emissivity": 0x20,
    "distance": 0x24,
    "reflected": 0x28,
    "atmosphere": 0x2C,
    "window": 0x30,
    "window_transmission": 0x34,
    "humidity": 0x3C,
    "r1": 0x58,
    "b": 0x5C,
    "f": 0x60,
    "alpha1": 0x70,
    "alpha2": 0x74,
    "beta1": 0x78,
    "beta2": 0x7C,
    "x": 0x80,
    "r2": 0x30C,
}
"""Where the floats of `Camera` lie in the record of the camera."""
_O_OFFSET = 0x308  # an integer
_MUCH_SMOOTHER = 0.7
"""A picture whose bytes are exchanged is noise, several times as rough; in a flat one both may be alike."""


@dataclass(frozen=True)
class Camera:
    """Constants of a FLIR camera and of a scene: temperatures in kelvin, distance in metres, humidity in 0..1."""

    emissivity: float
    distance: float
    reflected: float
    atmosphere: float
    window: float
    window_transmission: float
    humidity: float
    r1: float
    b: float
    f: float
    alpha1: float
    alpha2: float
    beta1: float
    beta2: float
    x: float
    r2: float
    o: float

    def celsius(self, counts: Array) -> Array:
        """Returns the temperatures (H,W) float32 of raw counts, degrees Celsius; NaN where a count has none."""
        e, t, w = self.emissivity, self._transmission(), self.window_transmission
        # Signal of the object: what is left without reflection, air and window
        reflected = (1 - e) / e * self._signal(self.reflected)
        air = (1 - t) / (e * t) * self._signal(self.atmosphere)
        window = (1 - w) / (e * t * w) * self._signal(self.window) if w < 1 else 0.0
        signal = counts.astype(np.float64) / (e * t * w) - reflected - air - window
        with np.errstate(divide="ignore", invalid="ignore"):
            kelvin = self.b / np.log(self.r1 / (self.r2 * (signal + self.o)) + self.f)
        return np.where(kelvin > 0, kelvin - _KELVIN, np.nan).astype(np.float32)

    def _signal(self, kelvin: float) -> float:
        return float(self.r1 / (self.r2 * (np.exp(self.b / kelvin) - self.f)) - self.o)

    def _transmission(self) -> float:
        c = self.atmosphere - _KELVIN
        water = self.humidity * np.exp(1.5587 + 0.06939 * c - 0.00027816 * c**2 + 6.8455e-7 * c**3)
        far = np.sqrt(self.distance)
        first = self.x * np.exp(-far * (self.alpha1 + self.beta1 * np.sqrt(water)))
        return float(first + (1 - self.x) * np.exp(-far * (self.alpha2 + self.beta2 * np.sqrt(water))))

    def find_fault(self) -> str:
        """Returns what makes the formula meaningless, or ""."""
        numbers = np.array([getattr(self, name) for name in (*_FLOATS, "o")])
        if not np.isfinite(numbers).all() or min(self.r1, self.r2, self.b) <= 0:
            return "its camera constants are missing"
        shares = (("emissivity", self.emissivity), ("window transmission", self.window_transmission))
        for name, share in shares:
            if not 0 < share <= 1.001:
                return f"its {name} of {share:g} is none"
        kelvin = (self.reflected, self.atmosphere, *((self.window,) if self.window_transmission < 1 else ()))
        if min(kelvin) < 100 or self.distance < 0 or self.humidity < 0:
            return "its temperatures of air and surroundings, its distance or its humidity are missing"
        return "" if 0 < self._transmission() < 1.5 else "its constants of the atmosphere are missing"


@dataclass(frozen=True)
class Thermogram:
    """Radiometric part of a JPEG.

    Attributes:
        maker: "FLIR" or "DJI".
        counts: (H,W) uint16, raw, as stored (not turned).
        camera: constants, None where there are none (DJI).
        visible: file of the visible picture that is embedded, JPEG or PNG; empty where there is none.
    """

    maker: Literal["FLIR", "DJI"]
    counts: Array
    camera: Camera | None = None
    visible: bytes = b""


def read(image: Any, modality: str) -> RawImage:
    """Returns a radiometric JPEG as an image: temperatures or counts as the infrared, the preview as the visible one.

    Args:
        image: opened by Pillow's reader of JPEG.
        modality: "visible" or "infrared".

    Raises:
        Refusal: its radiometric part is damaged.
    """
    thermogram, lacking = None, "holds no raw picture"
    try:
        thermogram = _find(image)
    except Refusal:
        if modality == "infrared":
            raise
        lacking = "is damaged"
    if modality == "infrared" and thermogram is not None:
        return _make_raw_image(image, thermogram)
    preview = metadata.attach_pillow(pixels_from_pillow(image), image)
    if thermogram is None and not any(body.startswith(b"FLIR\0") for _, body in image.applist):
        return preview  # another use of APP3
    warning = "of a radiometric JPEG only the preview was read, with the palette and the writing in it"
    if thermogram is None:
        warning += f"; its radiometric part {lacking}"
    elif thermogram.visible:
        warning += "; the picture of its visible camera can be had by `tectum data extract`"
    return RawImage(preview.pixels, metadata=preview.metadata, warnings=(*preview.warnings, warning))


def read_thermogram(path: str | Path) -> tuple[Thermogram, RawImage]:
    """Read the radiometric part of a JPEG, and the infrared image made of it.

    Raises:
        OSError: it cannot be read.
        UserError: it is no radiometric JPEG, or damaged.
    """
    data = Path(path).read_bytes()
    try:
        if not data.startswith(b"\xff\xd8\xff"):
            raise Refusal("is no JPEG; `tectum data extract` takes radiometric JPEGs of FLIR and DJI cameras")
        with quiet_pillow():
            image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        thermogram = _find(image)
        if thermogram is None:
            raise Refusal("holds no radiometric picture; give a file as the camera wrote it (FLIR or DJI)")
        return thermogram, _make_raw_image(image, thermogram)
    except Refusal as refusal:
        raise UserError(f"{path} {refusal}") from None
    except DAMAGED as error:
        raise UserError(f"{path} is a truncated or damaged JPEG file; copy it again") from error


def _make_raw_image(image: Any, thermogram: Thermogram) -> RawImage:
    camera, counts = thermogram.camera, thermogram.counts
    warnings: tuple[str, ...] = ()
    fault = "" if camera is None else camera.find_fault()
    if camera is None or fault:
        unit = ""
        pixels = counts
        why = fault or "the way from counts to temperatures is not public"
        tried = " (tried on files of our own making only)" if thermogram.maker == "DJI" else ""
        warnings = (
            f"the values of a radiometric JPEG by {thermogram.maker} are raw counts, not temperatures: {why}{tried}",
        )
    else:
        unit, pixels = _CELSIUS, camera.celsius(counts)
    orientation = metadata.find_orientation(image)
    height, width = counts.shape
    if orientation != 1 and (width > height) != (image.width > image.height):
        orientation = 1  # the preview is stored upright already, or otherwise than the counts
        warnings = (*warnings, "a radiometric picture lies otherwise than its preview; check that it is upright")
    exif = image.info.get("exif", b"")
    attached = metadata.attach(metadata.upright(pixels, orientation), exif, b"")
    return RawImage(attached.pixels, None, unit, attached.metadata, (*warnings, *attached.warnings))


def _find(image: Any) -> Thermogram | None:
    flir = [body for app, body in image.applist if app == "APP1" and body.startswith(b"FLIR\0")]
    if flir:
        try:
            return _parse_flir(flir)
        except (struct.error, ValueError, KeyError) as error:
            raise _damaged() from error
    return _find_dji(image)


def _damaged() -> Refusal:
    return Refusal("is a JPEG whose radiometric part is truncated or damaged; copy it from the camera again")


# ---- FLIR ------------------------------------------------------------------------------------------------------------


def _parse_flir(segments: list[bytes]) -> Thermogram | None:
    """Join the segments to the FFF file that they make and read its records; None without a raw picture.

    Raises:
        ValueError, struct.error: a part is lost.
    """
    parts = {body[6]: body[8:] for body in segments if len(body) > 8}
    last = max((body[7] for body in segments if len(body) > 8), default=0)
    if parts.keys() != set(range(last + 1)):
        raise ValueError("a segment is missing")
    fff = b"".join(parts[index] for index in sorted(parts))
    if fff[:4] not in (b"FFF\0", b"AFF\0"):
        raise ValueError("no FFF header")
    # The version, a number from 100, tells the byte order of the header and its directory
    order = next((o for o in "><" if 100 <= struct.unpack_from(o + "I", fff, 20)[0] < 200), None)
    if order is None:
        return None  # not of a version that is described, such as one that an editor has emptied
    start, count = struct.unpack_from(order + "II", fff, 24)
    records: dict[int, bytes] = {}
    for position in range(start, start + 32 * count, 32):
        record_type, _, _, _, offset, length = struct.unpack_from(order + "HHIIII", fff, position)
        if record_type in (_RAW_DATA, _EMBEDDED_IMAGE, _CAMERA) and record_type not in records:
            records[record_type] = fff[offset : offset + length]
            if len(records[record_type]) < length:
                raise ValueError("a record is cut")
    if _RAW_DATA not in records:
        return None
    visible = records.get(_EMBEDDED_IMAGE, b"")[32:]
    is_file = visible.startswith((b"\xff\xd8", b"\x89PNG"))
    camera = _read_camera(records[_CAMERA]) if _CAMERA in records else _NO_CAMERA
    return Thermogram("FLIR", _read_counts(records[_RAW_DATA]), camera, visible if is_file else b"")


def _byte_order(record: bytes) -> str:
    """Each record begins with a small number, whose place in two bytes tells the byte order."""
    return "<" if 0 < struct.unpack_from("<H", record)[0] < 256 else ">"


def _read_counts(record: bytes) -> Array:
    order = _byte_order(record)
    width, height = struct.unpack_from(order + "HH", record, 2)
    check_size(width, height)
    stored = record[32:]
    if stored.startswith(b"\x89PNG"):
        counts = decode_with_opencv(stored, "PNG")
        if counts.dtype != np.uint16 or counts.shape != (height, width):
            raise ValueError("the raw picture has another size or type than its record says")
        # PNG is big-endian, and most cameras write it otherwise: so it is read, unless that is much rougher
        exchanged = counts.byteswap()
        return counts if _roughness(counts) < _MUCH_SMOOTHER * _roughness(exchanged) else exchanged
    if len(stored) < 2 * width * height or not width * height:
        raise ValueError("the raw picture is cut")
    counts = np.frombuffer(stored, order + "u2", width * height).reshape(height, width)
    return counts.astype(np.uint16)


def _roughness(counts: Array) -> float:
    """Mean step between neighbours in units of the spread; 0 for a constant picture."""
    x = counts.astype(np.float32)
    steps = np.abs(np.diff(x, axis=0)).mean() + np.abs(np.diff(x, axis=1)).mean() if min(x.shape) > 1 else 0
    return float(steps / spread) if (spread := float(x.std())) > 0 else 0.0


def _read_camera(record: bytes) -> Camera:
    order = _byte_order(record)
    numbers = {name: struct.unpack_from(order + "f", record, offset)[0] for name, offset in _FLOATS.items()}
    humidity = numbers["humidity"] / 100 if numbers["humidity"] > 2 else numbers["humidity"]  # some write per cent
    return Camera(**(numbers | {"humidity": humidity, "o": struct.unpack_from(order + "i", record, _O_OFFSET)[0]}))


_NO_CAMERA = Camera(**dict.fromkeys((*_FLOATS, "o"), 0.0))


# ---- DJI -------------------------------------------------------------------------------------------------------------


def _find_dji(image: Any) -> Thermogram | None:
    """Counts of the size that the preview has, or of a whole fraction of it, as the joined APP3 segments hold them.

    None where the segments are too short for a picture: DJI's other cameras keep notes of their own there.
    """
    maker = metadata.find_maker(image)
    raw = b"".join(body for app, body in image.applist if app == "APP3")
    if not maker.upper().startswith("DJI") or 16 * len(raw) < 2 * image.width * image.height:
        return None
    for factor in (1, 2, 3, 4):
        width, height = image.width // factor, image.height // factor
        if 2 * width * height == len(raw) and image.size == (width * factor, height * factor):
            return Thermogram("DJI", np.frombuffer(raw, "<u2").reshape(height, width).astype(np.uint16))
    raise Refusal(
        f"is a DJI JPEG whose raw picture of {len(raw)} bytes does not fit its {image.width} x {image.height} preview; "
        "copy it from the camera again"
    )
