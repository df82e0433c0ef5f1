"""Volumes (DICOM series, NIfTI files) as stacks of slices with their place in the patient, and one on another's grid.

Coordinates are millimetres in the patient, axes left, posterior, superior (as DICOM has them; NIfTI's first two axes
are reversed when read). The centre of pixel (row i, column j) of slice k lies at

    p(k, i, j) = origins[k] + j * column_step + i * row_step,

so slices may be unevenly spaced or sheared (a tilted gantry), and nothing is assumed about their directions. A slice of
one volume is looked up in another by these positions: linear interpolation between pixels and between slices, after a
Gaussian where the other's pixels are much finer. What lies outside the other's field of view, or in a gap of missing
slices, is not valid there.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tectum.errors import UserError, abbreviate

Array = np.ndarray[Any, np.dtype[Any]]
NIFTI_EXTENSIONS = (".nii", ".nii.gz")
_GAP = 1.5
"""Slices further apart than this many usual distances have others missing between them."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Stack of parallel slices with their positions.

    Attributes:
        values: (Z,H,W) float32 in `unit`, NaN where there is no data; or (Z,H,W,3) uint8 RGB.
        origins: (Z,3) centres of the first pixels of the slices, in mm.
        column_step, row_step: (3,) from a pixel to its right neighbour, and to the one below.
        thickness: distance between slices in mm.
        name: for messages.
        unit: "HU" or "".
        window: values that the file wants shown as black and white, or None.
        frame: identifier of the coordinate system; empty if unknown.
        patient: identifier of the patient; empty if unknown.
        is_inverted: the values are the file's with their sign changed, because there the smallest is white.
        has_positions: False if the file does not say where its slices lie.
        write: `write(path, pixels, description)` writes fused pixels (Z,H,W) or (Z,H,W,3) at the place of this volume.
    """

    values: Array
    origins: Array
    column_step: Array
    row_step: Array
    thickness: float
    name: str
    write: Callable[[Path, Array, str], None]
    unit: str = ""
    window: tuple[float, float] | None = None
    frame: str = ""
    patient: str = ""
    is_inverted: bool = False
    has_positions: bool = True

    @property
    def is_coloured(self) -> bool:
        """True for RGB values."""
        return self.values.ndim == 4

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm^3."""
        return float(np.linalg.norm(np.cross(self.column_step, self.row_step)) * self.thickness)

    @cached_property
    def normal(self) -> Array:
        """Unit vector across the slices (3,)."""
        normal = np.cross(self.column_step, self.row_step)
        return normal / np.linalg.norm(normal)

    @cached_property
    def depths(self) -> Array:
        """Position of each slice along the normal (Z,), in mm; ascending or descending."""
        return self.origins @ self.normal

    def positions(self, index: int) -> Array:
        """Returns the positions of the pixels of a slice: (H,W,3) in mm."""
        height, width = self.values.shape[1:3]
        columns, rows = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
        return self.origins[index] + columns * self.column_step + rows * self.row_step

    def sample(self, positions: Array) -> tuple[Array, Array]:
        """Look up values at positions (H,W,3) in mm; `smooth_for` first where these are much wider apart.

        Returns:
            The values (H,W) or (H,W,3) float32, and where they are valid, (H,W) bool.
        """
        from scipy.ndimage import map_coordinates

        slices, inside = self._slice_coordinates(positions)
        # Within a slice: solve p - origin(k) = x column_step + y row_step
        index = np.arange(len(self.origins))
        origin = np.stack([np.interp(slices, index, self.origins[:, axis]) for axis in range(3)], -1)
        inverse = np.linalg.pinv(np.c_[self.column_step, self.row_step])
        x, y = np.moveaxis((positions - origin) @ inverse.T, -1, 0)
        height, width = self.values.shape[1:3]
        # A pixel reaches half a pixel beyond its centre; the little more is for rounding
        reach = 0.5 + 1e-6
        inside &= (x >= -reach) & (x <= width - 1 + reach) & (y >= -reach) & (y <= height - 1 + reach)
        channels = np.moveaxis(self.values, -1, 0) if self.is_coloured else self.values[None]
        looked_up = [
            map_coordinates(channel, (slices, y, x), np.float32, order=1, mode="nearest") for channel in channels
        ]
        values = np.stack(looked_up, -1) if self.is_coloured else looked_up[0]
        valid = inside & np.isfinite(values if values.ndim == 2 else values.sum(-1))
        return np.where(valid if values.ndim == 2 else valid[..., None], values, 0).astype(np.float32), valid

    def _slice_coordinates(self, positions: Array) -> tuple[Array, Array]:
        """The fractional slice indices (H,W) of positions, and which of them lie among the slices."""
        depth = positions @ self.normal
        order = np.argsort(self.depths)
        sorted_depths = self.depths[order]
        slices = np.interp(depth, sorted_depths, order.astype(float))
        tolerance = self.thickness / 2 + 1e-3
        inside = (depth >= sorted_depths[0] - tolerance) & (depth <= sorted_depths[-1] + tolerance)
        for before, after in itertools.pairwise(sorted_depths):
            if after - before > _GAP * self.thickness:
                inside &= (depth <= before + tolerance) | (depth >= after - tolerance)
        return slices, inside

    def smooth_for(self, grid: "Volume") -> "Volume":
        """Returns this volume, smoothed within its slices if the pixels of a grid are much larger than its own."""
        coarser = float(np.linalg.norm(grid.column_step) / np.linalg.norm(self.column_step))
        if coarser <= 1.3:
            return self
        from scipy.ndimage import gaussian_filter

        sigma = round(0.4 * math.sqrt(coarser * coarser - 1), 2)
        sigmas = (0, sigma, sigma, 0)[: self.values.ndim]
        return replace(self, values=gaussian_filter(self.values.astype(np.float32), sigmas))

    def gaps(self) -> int:
        """Returns the number of places where slices are missing."""
        return int((np.abs(np.diff(np.sort(self.depths))) > _GAP * self.thickness).sum())


def is_volume(path: str | Path) -> bool:
    """True for a NIfTI or DICOM file, and for a folder that holds some, or folders of DICOM files."""
    path = Path(path)
    if path.is_dir():
        return bool(_find_volumes(path))
    return path.is_file() and (_is_nifti(path) or is_dicom(path))


def _find_volumes(path: str | Path) -> dict[str, Path]:
    """The volumes at a path by name: a file, a series in a folder, the NIfTI files of a folder, or one folder each."""
    path = Path(path)
    if path.is_file():
        return {_volume_name(path): path}
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    niftis = {_volume_name(entry): entry for entry in entries if entry.is_file() and _is_nifti(entry)}
    if niftis:
        return niftis
    if _holds_dicom(path):
        return {path.resolve().name: path}
    return {entry.name: entry for entry in entries if entry.is_dir() and _holds_dicom(entry)}


def _volume_name(path: Path) -> str:
    """Returns the name of a file without .nii, .nii.gz or its last extension."""
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def is_dicom(path: Path) -> bool:
    """True for a file with DICOM's mark behind its preamble."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_EXTENSIONS)


def _holds_dicom(folder: Path) -> bool:
    files = (entry for entry in sorted(folder.iterdir()) if entry.is_file() and not entry.name.startswith("."))
    return any(is_dicom(file) for file in files if file.name.upper() != "DICOMDIR")


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file, a DICOM file, or the DICOM series of a folder.

    Raises:
        UserError: the library for it is not installed, or the data cannot be one volume of slices.
    """
    if path.is_file() and _is_nifti(path):
        from tectum.io.nifti import read_nifti

        return read_nifti(path)
    from tectum.io.dicom import read_dicom

    return read_dicom(path)


def match_volumes(first: str | Path, second: str | Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Match the volumes of two paths by name; one with one whatever their names.

    Returns:
        The pairs by name, and the names that only one side has.

    Raises:
        UserError: no name is shared, or only one of the two is a volume.
    """
    a, b = _find_volumes(first), _find_volumes(second)
    if len(a) == 1 and len(b) == 1:
        return {next(iter(a)): (next(iter(a.values())), next(iter(b.values())))}, []
    shared = [name for name in a if name in b]
    if not shared:
        raise UserError(
            f"volumes are matched by name, but {first} ({abbreviate(sorted(a))}) and {second} "
            f"({abbreviate(sorted(b))}) share none; rename them"
        )
    return {name: (a[name], b[name]) for name in shared}, sorted(set(a) ^ set(b))
