"""NIfTI files as volumes, and fused volumes as NIfTI files, by nibabel."""

from pathlib import Path
from typing import Any

import numpy as np

from tectum.errors import UserError
from tectum.io.files import write_whole
from tectum.io.volumes import Array, Volume

_RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_FLIP = np.array([-1.0, -1.0, 1.0])  # between NIfTI's axes (right, anterior, superior) and the patient's of a Volume


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file (.nii, .nii.gz): its third axis counts the slices, scaling is applied.

    Raises:
        UserError: nibabel is missing, the file is damaged, or it is not one volume of numbers or RGB.
    """
    nibabel = _import_nibabel()
    try:
        image = nibabel.load(path)
        data = np.asanyarray(image.dataobj)
    except (nibabel.filebasedimages.ImageFileError, OSError, ValueError, EOFError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise UserError(f"{path} is a truncated or damaged NIfTI file ({error}); copy it again") from error
    data = data.reshape(data.shape[:3]) if data.ndim > 3 and data.size == np.prod(data.shape[:3]) else data
    data = data[..., None] if data.ndim == 2 else data
    if data.ndim != 3 or not data.size:
        raise UserError(
            f"{path} must hold one volume (X,Y,Z), got {data.shape}; extract one volume of the series first"
        )
    colour = data.dtype.names is not None
    if colour:
        if data.dtype.names[:3] != ("R", "G", "B"):
            raise UserError(f"{path} must hold numbers or RGB, got {data.dtype}; convert it first")
        values = np.stack([data[channel] for channel in "RGB"], -1).transpose(2, 1, 0, 3)
    else:
        if data.dtype.kind not in "uif":
            raise UserError(f"{path} must hold real numbers or RGB, got {data.dtype}; convert it first")
        values = data.transpose(2, 1, 0).astype(np.float32)
    header, affine = image.header, np.asarray(image.affine, float)
    origins = (affine[:3, 3] + np.arange(len(values))[:, None] * affine[:3, 2]) * _FLIP
    low, high = float(header["cal_min"]), float(header["cal_max"])

    def write(out: Path, pixels: Array, description: str) -> None:
        write_nifti(out, pixels, affine, description, like=image)

    return Volume(
        np.ascontiguousarray(values),
        origins,
        affine[:3, 0] * _FLIP,
        affine[:3, 1] * _FLIP,
        float(np.linalg.norm(affine[:3, 2])),
        str(path),
        write,
        window=(low, high) if low < high and not colour else None,
        has_positions=bool(int(header["qform_code"]) or int(header["sform_code"])),
    )


def write_nifti(path: Path, pixels: Array, affine: Array, description: str, *, like: Any = None) -> None:
    """Write a volume as a NIfTI file, whole or not at all.

    Args:
        path: ends in .nii or .nii.gz.
        pixels: (Z,H,W) or (Z,H,W,3) RGB, uint8 or uint16.
        affine: (4,4) from indices (column, row, slice) to mm: right, anterior, superior.
        description: up to 79 characters.
        like: an image of nibabel whose spatial codes and units are kept.
    """
    nibabel = _import_nibabel()
    if pixels.ndim == 4:
        packed = np.empty(pixels.shape[:3], _RGB)
        for index, channel in enumerate("RGB"):
            packed[channel] = pixels[..., index]
        pixels = packed
    image = nibabel.Nifti1Image(np.ascontiguousarray(pixels.transpose(2, 1, 0)), affine)
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.header.set_xyzt_units("mm")
    if like is not None:
        image.set_qform(affine, int(like.header["qform_code"]))
        image.set_sform(affine, int(like.header["sform_code"]))
    data = image.to_bytes()
    if path.name.endswith(".gz"):
        import gzip

        data = gzip.compress(data, 6, mtime=0)
    write_whole(path, lambda file: file.write_bytes(data))


def _import_nibabel() -> Any:
    try:
        import nibabel
    except ImportError:
        raise UserError(
            "NIfTI files are read by nibabel, which is not installed; pip install 'tectum[medical]'"
        ) from None
    return nibabel
