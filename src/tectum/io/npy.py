"""NumPy's .npy files as images: arrays of numbers in one of the shapes of an image, never pickled objects."""

import io

import numpy as np

from tectum.io.image import RawImage, Refusal, check_size


def read(data: bytes) -> RawImage:
    """Decode a .npy file.

    Raises:
        Refusal: it holds objects, or no array of an image's shape and type.
        ValueError, EOFError: it is truncated or damaged.
    """
    stream = io.BytesIO(data)
    major, _ = np.lib.format.read_magic(stream)
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers.get(major, readers[2])(stream)
    known = dtype.newbyteorder("=") in (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64)
    if not known or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))) or 0 in shape:
        kind = "objects" if dtype.hasobject else str(dtype)
        raise Refusal(
            f"holds an array {shape} of {kind}; an image is (H,W), (H,W,3) RGB or (H,W,4) RGBA of uint8, uint16, "
            "float32 or float64, so transpose or convert it and save it again"
        )
    check_size(shape[1], shape[0])
    pixels = np.load(io.BytesIO(data), allow_pickle=False)
    pixels = pixels.astype(dtype.newbyteorder("="), copy=False)
    return RawImage(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
