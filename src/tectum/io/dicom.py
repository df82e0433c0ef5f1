"""DICOM series as volumes, and fused volumes as DICOM series, by pydicom.

A series is read from the files of a folder (their names do not matter), from one file, or from one file of many frames.
Slices are put in order by their positions in the patient, rescaled (CT: Hounsfield units), and inverted where the
smallest value is white. The window (what is black, what is white) is the file's own where all slices share one; MR
scanners write another for every slice, which would make a volume flicker, so it is not taken then.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tectum.errors import UserError, abbreviate
from tectum.io.files import write_whole
from tectum.io.nifti import write_nifti
from tectum.io.volumes import NIFTI_EXTENSIONS, Array, Volume, is_dicom

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Copied from a source slice into the fused one: who, when, and where in the patient.
_KEPT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientPosition", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
    "FrameOfReferenceUID", "PositionReferenceIndicator", "BodyPartExamined", "Laterality", "SpecificCharacterSet",
)  # fmt: skip


def read_dicom(path: Path) -> Volume:
    """Read a DICOM file or the one series in a folder.

    Raises:
        UserError: pydicom is missing, a file is damaged, or the slices are not one volume.
    """
    pydicom = _import_pydicom()
    slices = _read_slices(pydicom, _series_files(pydicom, path), str(path))
    shapes = {slice_.pixels.shape for slice_ in slices}
    if len(shapes) > 1:
        raise UserError(f"the slices of {path} must share one size, got {sorted(shapes)}; leave out the other series")
    slices, has_positions = _sort_slices(slices, str(path))
    first = slices[0]
    column_step, row_step = first.row_cosine * first.spacing[1], first.column_cosine * first.spacing[0]
    if has_positions:
        origins = np.stack([slice_.origin for slice_ in slices])
    else:
        origins = np.arange(len(slices))[:, None] * first.normal
    thickness = _slice_distance(origins, first.normal, first.thickness)
    values = np.stack([slice_.pixels for slice_ in slices])
    windows = {slice_.window for slice_ in slices}
    header = first.header

    def write(out: Path, pixels: Array, description: str) -> None:
        if out.name.endswith(NIFTI_EXTENSIONS):
            _write_as_nifti(out, pixels, origins, column_step, row_step, thickness, description)
        else:
            _write_series(out, pixels, slices, thickness, description)

    return Volume(
        values,
        origins,
        column_step,
        row_step,
        thickness,
        str(path),
        write,
        unit="HU" if str(header.get("Modality", "")) == "CT" and values.ndim == 3 else "",
        window=windows.pop() if len(windows) == 1 else None,
        frame=str(header.get("FrameOfReferenceUID", "")),
        patient=str(header.get("PatientID", "")),
        is_inverted=str(header.get("PhotometricInterpretation", "")) == "MONOCHROME1" and values.ndim == 3,
        has_positions=has_positions,
    )


class _Slice:
    """One slice of a series: pixels (H,W) float32 or (H,W,3) uint8 RGB, its place, its window, its header."""

    def __init__(self, header: Any, groups: Sequence[Any], pixels: Array) -> None:
        """groups: data sets that may hold the geometry, the most special first; the header is the last of them."""

        def get(keyword: str) -> Any:
            return next((value for group in groups if (value := group.get(keyword)) is not None), None)

        self.header, self.pixels = header, pixels
        orientation, origin, spacing = get("ImageOrientationPatient"), get("ImagePositionPatient"), get("PixelSpacing")
        self.has_position = orientation is not None and origin is not None
        cosines = np.array(orientation if orientation is not None else (1, 0, 0, 0, 1, 0), float)
        self.row_cosine, self.column_cosine = cosines[:3], cosines[3:]
        self.normal = np.cross(self.row_cosine, self.column_cosine)
        self.origin = np.array(origin if origin is not None else (0, 0, 0), float)
        self.spacing = np.array(spacing if spacing is not None else (1, 1), float)
        self.thickness = float(get("SpacingBetweenSlices") or get("SliceThickness") or 1.0)
        self.window: tuple[float, float] | None = None
        centre, width = (_first_number(get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
        if centre is not None and width is not None and width > 1 and pixels.ndim == 2:
            # PS3.3 C.11.2.1.2: black up to c - 1/2 - (w-1)/2, white from c - 1/2 + (w-1)/2
            self.window = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
        if str(header.get("PhotometricInterpretation", "")) == "MONOCHROME1" and pixels.ndim == 2:
            self.pixels = -pixels
            self.window = None if self.window is None else (-self.window[1], -self.window[0])


def _series_files(pydicom: Any, path: Path) -> list[Path]:
    """The files of the one series at a path."""
    if path.is_file():
        if not is_dicom(path):
            raise UserError(f"{path} is no DICOM or NIfTI file; give a series' folder, a .dcm or a .nii.gz file")
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.is_file() and file.name.upper() != "DICOMDIR"]
    series: dict[str, list[Path]] = {}
    descriptions: dict[str, str] = {}
    for file in files:
        if file.name.startswith(".") or not is_dicom(file):
            continue
        header = pydicom.dcmread(file, stop_before_pixels=True)
        if "Rows" not in header:  # a report or a plan beside the slices
            continue
        uid = str(header.get("SeriesInstanceUID", ""))
        series.setdefault(uid, []).append(file)
        descriptions[uid] = str(header.get("SeriesDescription", "") or header.get("Modality", "") or uid)
    if not series:
        raise UserError(f"{path} holds no DICOM slices; give the folder of one series")
    if len(series) > 1:
        contents = abbreviate([f"{descriptions[uid]} ({len(files)})" for uid, files in series.items()])
        raise UserError(f"{path} must hold one DICOM series, got {len(series)}: {contents}; give each a folder")
    return next(iter(series.values()))


def _read_slices(pydicom: Any, files: Sequence[Path], source: str) -> list[_Slice]:
    slices = []
    for file in files:
        header = pydicom.dcmread(file)
        try:
            frames = _decode_frames(pydicom, header)
        except (AttributeError, KeyError, ValueError, RuntimeError, NotImplementedError, OSError) as error:
            syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
            coding = f" ({syntax.name})" if syntax is not None and syntax.is_compressed else ""
            reason = " ".join(str(error).split())
            raise UserError(
                f"the pixels of {file}{coding} cannot be decoded: {reason}; install what is named, or save the series "
                "uncompressed"
            ) from error
        shared = _functional_groups(header, "SharedFunctionalGroupsSequence", 0)
        for index, frame in enumerate(frames):
            own = _functional_groups(header, "PerFrameFunctionalGroupsSequence", index)
            groups = [*own, *shared, header]
            if frame.ndim == 2:
                stored = frame
                slope = next((group.RescaleSlope for group in groups if "RescaleSlope" in group), 1)
                intercept = next((group.RescaleIntercept for group in groups if "RescaleIntercept" in group), 0)
                frame = (stored * float(slope) + float(intercept)).astype(np.float32)
                if (padding := header.get("PixelPaddingValue")) is not None:  # of stored values
                    ends = sorted((int(padding), int(header.get("PixelPaddingRangeLimit", padding))))
                    frame[(stored >= ends[0]) & (stored <= ends[1])] = np.nan
            slices.append(_Slice(header, groups, frame))
    if len({slice_.pixels.ndim for slice_ in slices}) > 1:
        raise UserError(f"the slices of {source} must be all grey or all in colour; leave out the others")
    return slices


def _decode_frames(pydicom: Any, header: Any) -> list[Array]:
    """The stored frames of a file: (H,W) numbers or (H,W,3) uint8 RGB."""
    pixels = pydicom.pixels.pixel_array(header)  # RGB where it was YCbCr
    if str(header.PhotometricInterpretation) == "PALETTE COLOR":
        pixels = pydicom.pixels.apply_color_lut(pixels, header)
    coloured = int(header.get("SamplesPerPixel", 1)) == 3 or str(header.PhotometricInterpretation) == "PALETTE COLOR"
    if coloured and pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    single = pixels.ndim == (3 if coloured else 2)
    return [pixels] if single else list(pixels)


def _functional_groups(header: Any, keyword: str, index: int) -> list[Any]:
    """The data sets in a frame's functional groups, in which a multi-frame file keeps its geometry."""
    sequence = header.get(keyword)
    if sequence is None or index >= len(sequence):
        return []
    return [element.value[0] for element in sequence[index] if element.VR == "SQ" and len(element.value)]


def _first_number(value: Any) -> float | None:
    try:
        return float(value if not hasattr(value, "__len__") or isinstance(value, str) else value[0])
    except (TypeError, ValueError, IndexError):
        return None


def _sort_slices(slices: list[_Slice], source: str) -> tuple[list[_Slice], bool]:
    """The slices in the order of their positions, or of their numbers where they have none."""
    first = slices[0]
    if not all(slice_.has_position for slice_ in slices):
        return sorted(slices, key=lambda slice_: int(slice_.header.get("InstanceNumber") or 0)), False
    for slice_ in slices:
        parallel = np.allclose(slice_.row_cosine, first.row_cosine, atol=1e-3) and np.allclose(
            slice_.column_cosine, first.column_cosine, atol=1e-3
        )
        if not parallel or not np.allclose(slice_.spacing, first.spacing, rtol=1e-3):
            raise UserError(
                f"the slices of {source} must be parallel and of one pixel spacing, but some are not (a localizer?); "
                "give the folder of one series of parallel slices"
            )
    slices = sorted(slices, key=lambda slice_: float(slice_.origin @ first.normal))
    depths = np.array([slice_.origin @ first.normal for slice_ in slices])
    if len(slices) > 1 and np.diff(depths).min() < 1e-3:
        raise UserError(
            f"{source} has several slices at one position (a dynamic or multi-echo series?); give the folder of one "
            "of its volumes"
        )
    return slices, True


def _slice_distance(origins: Array, normal: Array, thickness: float) -> float:
    """The usual distance between slices, in mm; of a single one its thickness."""
    return float(np.median(np.abs(np.diff(origins @ normal)))) if len(origins) > 1 else thickness


def _write_as_nifti(
    out: Path, pixels: Array, origins: Array, column_step: Array, row_step: Array, thickness: float, description: str
) -> None:
    if len(origins) == 1:
        normal = np.cross(column_step, row_step)
        step = thickness * normal / np.linalg.norm(normal)
    else:
        step = (origins[-1] - origins[0]) / (len(origins) - 1)
        if not np.allclose(np.diff(origins, axis=0), step, atol=0.01 * np.linalg.norm(step) + 1e-3):
            raise UserError(
                f"a NIfTI file holds evenly spaced slices only, those of this series are not; write {out} as a "
                "DICOM series, into a folder"
            )
    affine = np.eye(4)
    affine[:3] = np.c_[column_step, row_step, step, origins[0]] * [[-1], [-1], [1]]
    write_nifti(out, pixels, affine, description)


def _write_series(folder: Path, pixels: Array, slices: Sequence[_Slice], thickness: float, description: str) -> None:
    """Write fused slices as a series of secondary captures at the places of the slices that they were made of."""
    pydicom = _import_pydicom()
    folder.mkdir(parents=True, exist_ok=True)
    series = pydicom.uid.generate_uid()
    digits = max(4, len(str(len(slices))))
    for index, (plane, source) in enumerate(zip(pixels, slices, strict=True)):
        file = pydicom.dataset.FileDataset(None, {}, preamble=b"\0" * 128)
        for keyword in _KEPT:
            if keyword in source.header:
                setattr(file, keyword, source.header[keyword].value)
        file.SOPClassUID, file.SOPInstanceUID = _SECONDARY_CAPTURE, pydicom.uid.generate_uid()
        file.SeriesInstanceUID, file.SeriesNumber, file.InstanceNumber = series, 9001, index + 1
        file.Modality, file.ConversionType = "OT", "WSD"
        file.ImageType = ["DERIVED", "SECONDARY", "FUSED"]
        file.SeriesDescription, file.DerivationDescription = "Fused by tectum", description[:1024]
        if source.has_position:
            file.ImagePositionPatient = [float(f"{x:.6g}") for x in source.origin]
            file.ImageOrientationPatient = [float(f"{x:.8g}") for x in (*source.row_cosine, *source.column_cosine)]
        file.PixelSpacing = [float(f"{x:.8g}") for x in source.spacing]
        file.SliceThickness = f"{thickness:.6g}"
        _set_pixels(file, plane)
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
        file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian

        def save(path: Path, file: Any = file) -> None:
            file.save_as(path, enforce_file_format=True)

        write_whole(folder / f"{index + 1:0{digits}d}.dcm", save)


def _set_pixels(file: Any, plane: Array) -> None:
    bits = 8 * plane.itemsize
    file.Rows, file.Columns = plane.shape[:2]
    file.SamplesPerPixel = 3 if plane.ndim == 3 else 1
    file.PhotometricInterpretation = "RGB" if plane.ndim == 3 else "MONOCHROME2"
    if plane.ndim == 3:
        file.PlanarConfiguration = 0
    file.BitsAllocated = file.BitsStored = bits
    file.HighBit, file.PixelRepresentation = bits - 1, 0
    if plane.ndim == 2:
        file.WindowCenter, file.WindowWidth = str(2 ** (bits - 1)), str(2**bits)
    data = np.ascontiguousarray(plane).tobytes()
    file.PixelData = data + b"\0" * (len(data) % 2)
    file["PixelData"].VR = "OW" if bits == 16 else "OB"


def _import_pydicom() -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise UserError(
            "DICOM files are read by pydicom, which is not installed; pip install 'tectum[medical]'"
        ) from None
    return pydicom
