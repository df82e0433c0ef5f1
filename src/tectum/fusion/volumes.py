"""Fusion of two volumes (CT, PET or SPECT, and MRI) slice by slice, on the grid of the finer one.

Both are looked up at the same positions in the patient, so their slices need not have the same number, size, spacing
or direction; they must be registered (one session, or one coordinate system). The grid is that of the volume with the
smaller voxels: nothing of the finer one is lost. Each volume has one window, the same for all its slices:

    y = clamp((value - low) / (high - low), 0, 1)

(low, high) is the option's range in the file's units (CT: Hounsfield units); else the window that the file states; else
the percentiles 0.1 and 99.9 of all its values. Where the other volume has no data, the one that has some shows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tectum.console import progress_bar, say, say_failures
from tectum.errors import UserError, abbreviate
from tectum.fusion.pipeline import FusePipeline
from tectum.io.image import Picture, parse_nodata, parse_range, picture_from_array, spread, to_array
from tectum.io.volumes import NIFTI_EXTENSIONS, Array, Volume, match_volumes, read_volume

Window = tuple[float, float]
_MAX_VALUES = 4_000_000
"""Percentiles are taken of about so many values of a volume."""


@dataclass(frozen=True)
class FusedVolume:
    """A fused volume.

    Attributes:
        pixels: (Z,H,W) or (Z,H,W,3) of uint8 or uint16.
        grid: the source whose slices they lie on.
        windows: (low, high) of each source.
        description: one line for files: the windows and the system.
        warnings: sentences on what looks wrong.
    """

    pixels: Array
    grid: Volume
    windows: tuple[Window, Window]
    description: str
    warnings: tuple[str, ...] = ()


def fuse_volumes(
    pipeline: FusePipeline,
    first: Volume,
    second: Volume,
    *,
    output: str = "colour",
    bits: int = 8,
    step: Callable[[], object] = lambda: None,
) -> FusedVolume:
    """Fuse two volumes.

    Args:
        pipeline: a loaded fuser with its options; ranges are in the units of the files.
        first: the scan (CT, PET, SPECT).
        second: the MRI.
        output: "colour" or "grey".
        bits: 8 or 16 a channel.
        step: called after every slice.

    Raises:
        UserError: the volumes do not overlap, a range is none of this volume's values, or one has no positions and
            they differ in size.
    """
    options = pipeline.options
    if options.resize:
        raise UserError("volumes are brought together by their positions; leave out --resize")
    first, second = (
        _drop_values(volume, nodata)
        for volume, nodata in zip((first, second), parse_nodata(options.nodata, guess=False), strict=True)
    )
    warnings = _compare(first, second)
    windows = (
        _find_window(first, options.visible_range, "--visible-range", warnings),
        _find_window(second, options.infrared_range, "--infrared-range", warnings),
    )
    located = first.has_positions and second.has_positions
    grid = _choose_grid(first, second)
    sources = [volume if volume is grid or not located else volume.smooth_for(grid) for volume in (first, second)]
    planes, overlap = [], 0
    for index in range(len(grid.values)):
        pictures = []
        for volume, window in zip(sources, windows, strict=True):
            if volume is grid or not located:
                values = volume.values[index]
                valid = np.isfinite(values).reshape(*values.shape[:2], -1).all(-1)
            else:
                values, valid = volume.sample(grid.positions(index))
            pictures.append(_make_slice(values, valid, window))
        overlap += int((_valid(pictures[0]) & _valid(pictures[1])).sum())
        planes.append(_fuse_slice(pipeline, pictures[0], pictures[1], output, bits))
        step()
    if not overlap:
        raise UserError(
            f"the two volumes must overlap, but {_describe_extent(first)} and {_describe_extent(second)} have no voxel "
            "in common; register one to the other first"
        )
    if any(plane.ndim == 3 for plane in planes):
        planes = [plane if plane.ndim == 3 else np.repeat(plane[..., None], 3, -1) for plane in planes]
    shown = " and ".join(_describe_window(v, w) for v, w in zip((first, second), windows, strict=True))
    description = f"tectum {pipeline.system or 'own network'}: {shown}"
    return FusedVolume(np.stack(planes), grid, windows, description, tuple(warnings))


def _drop_values(volume: Volume, nodata: str) -> Volume:
    """The volume with NaN where it holds the value of no data."""
    if volume.is_coloured or nodata in ("declared", "none"):
        return volume
    value = np.float32(-float(nodata) if volume.is_inverted else float(nodata))
    return replace(volume, values=np.where(volume.values == value, np.float32(np.nan), volume.values))


def _choose_grid(first: Volume, second: Volume) -> Volume:
    """The volume with the smaller voxels; the first where they are alike, or where one has no positions."""
    located = first.has_positions and second.has_positions
    return first if not located or first.voxel_mm3 <= second.voxel_mm3 * 1.001 else second


def _compare(first: Volume, second: Volume) -> list[str]:
    """Refuse volumes that cannot be laid over one another. Returns warnings on those that perhaps should not."""
    warnings = []
    for volume in (first, second):
        if not volume.has_positions and first.values.shape[:3] != second.values.shape[:3]:
            raise UserError(
                f"{volume.name} does not say where its slices lie, so both volumes must have one size, got "
                f"{_describe_size(first)} and {_describe_size(second)}; convert it with its positions"
            )
    if not (first.has_positions and second.has_positions):
        warnings.append("a volume does not say where its slices lie; they are taken in their order")
    if first.patient and second.patient and first.patient != second.patient:
        warnings.append(f"the volumes are of different patients, {first.patient} and {second.patient}")
    if first.frame and second.frame and first.frame != second.frame:
        warnings.append(
            "the volumes have different frames of reference, so their positions need not agree; look at the result, "
            "and register one to the other first if anatomy is doubled"
        )
    for volume in (first, second):
        if gaps := volume.gaps():
            warnings.append(
                f"{volume.name} lacks slices in {gaps} place{'s' if gaps > 1 else ''}; it is left out there"
            )
    return warnings


def _find_window(volume: Volume, value_range: str, flag: str, warnings: list[str]) -> Window:
    """The values of a volume that become black and white; a warning is added where its own window covers none."""
    unit, low, high = parse_range(value_range)
    if volume.is_coloured:
        if unit not in ("auto", "full"):
            raise UserError(f"{volume.name} is in colour and takes no range, got {value_range}; leave out {flag}")
        return 0.0, 255.0
    finite = volume.values[np.isfinite(volume.values)]
    if not finite.size:
        raise UserError(f"{volume.name} must hold values, got NaN only; check the file")
    smallest, largest = float(finite.min()), float(finite.max())

    def covers(window: Window) -> bool:
        return largest > window[0] and smallest < window[1]

    if unit == "raw":
        window = (-high, -low) if volume.is_inverted else (low, high)  # the option is in the file's values
        if covers(window):
            return window
        ends = (-largest, -smallest) if volume.is_inverted else (smallest, largest)
        raise UserError(
            f"{flag} {value_range} clips all of {volume.name}, whose values are {ends[0]:g}..{ends[1]:g} "
            f"{volume.unit}".rstrip()
            + "; give a range within them"
        )
    if unit == "auto":
        if volume.window is not None and covers(volume.window):
            return volume.window
        if volume.window is not None:
            warnings.append(
                f"the window that {volume.name} states covers none of its values; percentiles 0.1 and 99.9 are taken"
            )
        low, high = 0.1, 99.9
    elif unit == "full":
        low, high = 0, 100
    return spread(finite[:: max(1, finite.size // _MAX_VALUES)], low, high)


def _make_slice(values: Array, valid: Array, window: Window) -> Picture:
    if values.ndim == 3:
        picture = picture_from_array(values.round().clip(0, 255).astype(np.uint8), modality="visible")
        y, chroma = picture.y, picture.chroma
    else:
        low, high = window
        scaled = np.where(valid, (values.astype(np.float64) - low) / (high - low), 0).clip(0, 1)
        y, chroma = torch.from_numpy(scaled.astype(np.float32))[None], None
    mask = None if valid.all() else torch.from_numpy(np.ascontiguousarray(valid))[None]
    return Picture(y, chroma, bits=32, raw_range=window, valid=mask)


def _valid(picture: Picture) -> Array:
    return np.ones(tuple(picture.y.shape[1:]), bool) if picture.valid is None else picture.valid[0].numpy()


def _fuse_slice(pipeline: FusePipeline, a: Picture, b: Picture, output: str, bits: int) -> Array:
    """One fused slice; the other source as it is where one has nothing at all in it."""
    for picture, other in ((a, b), (b, a)):
        if not _valid(picture).any():
            y = other.y if other.valid is None else other.y * other.valid
            return to_array(y, other.chroma if output == "colour" else None, bits=bits)
    return pipeline(a, b).array(output, bits=bits)


def _describe_size(volume: Volume) -> str:
    depth, height, width = volume.values.shape[:3]
    return f"{width}x{height}x{depth}"


def _describe_window(volume: Volume, window: Window) -> str:
    low, high = (-window[1], -window[0]) if volume.is_inverted else window
    shown = "in colour" if volume.is_coloured else f"{low:g}..{high:g} {volume.unit}".rstrip()
    shown += ", inverted" if volume.is_inverted else ""
    return f"{Path(volume.name).name} {shown}"


def _describe_extent(volume: Volume) -> str:
    corners = np.concatenate([volume.positions(index)[:: max(1, volume.values.shape[1] - 1)] for index in (0, -1)])
    corners = corners.reshape(-1, 3)
    low, high = corners.min(0), corners.max(0)
    spans = ", ".join(f"{a:.0f}..{b:.0f}" for a, b in zip(low, high, strict=True))
    return f"{volume.name} (x, y, z {spans} mm)"


def fuse_volume_files(
    pipeline: FusePipeline,
    first: str,
    second: str,
    out: str,
    *,
    output: str = "colour",
    bits: int = 8,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Fuse two volumes, or folders of volumes matched by name, into files of the format of the grid's source.

    Args:
        pipeline: how to fuse.
        first, second: NIfTI files, DICOM files or folders.
        out: a file that ends in .nii or .nii.gz, for one pair; or a folder, which then holds NAME.nii.gz, or a folder
            NAME of DICOM slices.
        output, bits: as in `fuse_volumes`.
        overwrite: replace results that are already there.
        quiet: no progress bar and no summary.

    Returns:
        The exit code: 0 all done, 1 some failed.

    Raises:
        UserError: nothing can be fused.
    """
    if Path(first).resolve() == Path(second).resolve():
        raise UserError(f"two volumes are needed, got {first} for both; name the scan and the MRI")
    pairs, lone = match_volumes(first, second)
    to_file = out.endswith(NIFTI_EXTENSIONS)
    if len(pairs) > 1 and to_file:
        raise UserError(f"{len(pairs)} pairs of volumes need a folder for their results, got the file {out}; name one")
    if not to_file and (Path(out).is_file() or (Path(out).suffix and not Path(out).is_dir() and not out.endswith("/"))):
        raise UserError(f"a volume is written to a .nii or .nii.gz file or into a folder, got {out}; change -o")
    failures: dict[str, str] = {}
    for name, files in pairs.items():
        target, existing = _find_target(name, Path(out), to_file)
        if existing and not overwrite:
            if len(pairs) == 1:
                raise FileExistsError(f"{existing} exists already; choose another name with -o, or add --overwrite")
            say(f"{existing} exists already, skipped; --overwrite makes it again")
            continue
        try:
            volumes = [read_volume(file) for file in files]
            total = len(_choose_grid(volumes[0], volumes[1]).values)
            with progress_bar(total, "slice", quiet=quiet) as bar:
                fused = fuse_volumes(pipeline, volumes[0], volumes[1], output=output, bits=bits, step=bar.update)
            if not to_file and Path(fused.grid.name).name.endswith(NIFTI_EXTENSIONS):
                target = target.with_name(f"{name}.nii.gz")
            target.parent.mkdir(parents=True, exist_ok=True)
            fused.grid.write(target, fused.pixels, fused.description)
        except (ValueError, OSError) as error:
            if len(pairs) == 1:
                raise
            failures[name] = str(error)
            continue
        for warning in fused.warnings:
            say(f"warning: {name}: {warning}")
        if not quiet:
            size = _describe_size(fused.grid)
            print(f"{target}: {size} voxels on the grid of {fused.grid.name}; {fused.description}")
    if lone:
        say(f"{len(lone)} volumes without a partner of that name, skipped: {abbreviate(lone)}")
    say_failures("not fused", failures)
    return 1 if failures else 0


def _find_target(name: str, out: Path, to_file: bool) -> tuple[Path, Path | None]:
    """The file or folder of a result, and what of an older result is there already."""
    if to_file:
        return out, out if out.exists() else None
    old = [out / f"{name}.nii.gz", *sorted((out / name).glob("*.dcm"))]
    return out / name, next((path for path in old if path.exists()), None)
