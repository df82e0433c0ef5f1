"""Pictures out of radiometric JPEGs: temperatures (or raw counts) as TIFF, and the visible camera's picture."""

from pathlib import Path

from tectum.errors import UserError
from tectum.io.files import write_whole
from tectum.io.radiometric import read_thermogram


def extract(path: Path, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the pictures that a radiometric JPEG holds.

    Args:
        path: a JPEG of a FLIR or DJI camera.
        folder: where to: NAME-celsius.tif, (H,W) float32 in degrees Celsius, or NAME-counts.tif, uint16, where there
            are no constants to make temperatures of counts; both upright, with the file's EXIF data. And
            NAME-visible.jpg or .png, as it is stored, where there is one.
        overwrite: replace older files of these names.

    Returns:
        The files written.

    Raises:
        UserError: it is no radiometric JPEG, or damaged.
        OSError: it cannot be read, a file cannot be written or exists already.
    """
    import cv2
    import numpy as np

    from tectum.io.metadata import add_to_tiff, fit_metadata

    thermogram, image = read_thermogram(path)
    encoded, tiff = cv2.imencode(".tif", np.ascontiguousarray(image.pixels))
    assert encoded
    fitted = fit_metadata(image.metadata, image.pixels, ".tif")
    name = f"{path.stem}-{'celsius' if image.unit else 'counts'}.tif"
    contents = {folder / name: add_to_tiff(tiff.tobytes(), fitted)}
    if thermogram.visible:
        extension = ".png" if thermogram.visible.startswith(b"\x89PNG") else ".jpg"
        contents[folder / f"{path.stem}-visible{extension}"] = thermogram.visible
    for file in contents:
        if file.exists() and not overwrite:
            raise FileExistsError(f"{file} exists already; choose another folder, or add --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        write_whole(file, lambda temporary, content=content: temporary.write_bytes(content))  # type: ignore[misc]
    return list(contents)


def check_files(files: tuple[str, ...]) -> None:
    """Refuse names that are no files, two files of one name, and none at all, before anything is written.

    Raises:
        FileNotFoundError, UserError: as said.
    """
    if not files:
        raise UserError("at least one radiometric JPEG must be given, got none; name the files before -o")
    for file in files:
        if Path(file).is_dir():
            raise UserError(
                f"radiometric JPEGs must be given as files, {file} is a folder; name them, e.g. {file}/*.jpg"
            )
        if not Path(file).exists():
            raise FileNotFoundError(f"{file} does not exist; check the path")
    stems = [Path(file).stem for file in files]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise UserError(f"files must have different names, got {twice} twice; extract them into two folders")
