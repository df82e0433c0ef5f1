"""HEIC and AVIF files, the pictures of phones: HEIC by the package pi-heif, AVIF by Pillow itself (11.3 or newer).

pi-heif is pillow-heif without the encoder: its wheels hold LGPL libraries, those of pillow-heif the GPL's x265 too.

Of a file that holds several pictures the main one is taken. HEIC of 10 or 12 bits becomes 16 bits over the whole range,
v (2^16 - 1) / (2^bits - 1), rounded; AVIF comes with 8 bits, as Pillow gives it. A HEIC says itself how it is turned,
and the orientation in its EXIF data does not count (ISO/IEC 23008-12).
"""

import io

import numpy as np
from PIL import Image, features

from tectum.io import metadata
from tectum.io.image import DAMAGED, RawImage, Refusal, check_size, pixels_from_pillow, quiet_pillow


def read(data: bytes, name: str) -> RawImage:
    """Decode a HEIC or AVIF file, upright.

    Args:
        data: the file.
        name: "HEIC" or "AVIF".

    Raises:
        Refusal: the package that reads it is not installed, or the file is damaged or of an unreadable layout.
    """
    return _read_avif(data) if name == "AVIF" else _read_heic(data)


def _read_avif(data: bytes) -> RawImage:
    if not features.check("avif"):
        raise _missing("AVIF")
    from PIL import AvifImagePlugin

    with quiet_pillow():
        image = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
        check_size(*image.size)
    return metadata.attach_pillow(pixels_from_pillow(image), image)


def _read_heic(data: bytes) -> RawImage:
    try:
        import pi_heif
    except ImportError:
        raise _missing("HEIC") from None
    try:
        image = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
        check_size(*image.size)
        bits, stored = image.info.get("bit_depth", 8), np.asarray(image)
    except (*DAMAGED, RuntimeError) as error:
        raise Refusal("is a truncated or damaged HEIC file; copy or save it again") from error
    if bits == 8:
        pixels = pixels_from_pillow(Image.frombuffer(image.mode, image.size, stored.tobytes()))
    elif image.mode in (f"I;{bits}", f"RGB;{bits}", f"RGBA;{bits}"):
        scale = 2**bits - 1
        pixels = ((stored.astype(np.uint32) * 65535 + scale // 2) // scale).astype(np.uint16)
    else:
        raise Refusal(
            f"is a HEIC file of {bits} bits in {image.mode}, which tectum cannot read; save it as PNG or TIFF"
        )
    return metadata.attach(pixels, image.info.get("exif") or b"", image.info.get("icc_profile") or b"")


def _missing(name: str) -> Refusal:
    return Refusal(
        f"is of the format {name}, which needs one package more; pip install 'tectum[heif]', or save it as PNG"
    )
