"""Files that are whole or not there."""

import contextlib
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that its final name never holds half of it.

    `write` fills a temporary file in the same folder, which is flushed to disk and renamed. If anything fails the
    temporary file is removed and the final name is untouched. The file's mode is that of any new file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(Path(folder) / "a.txt", lambda file: file.write_text("whole"))
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    temporary = path.with_name(f".tectum-{uuid.uuid4().hex}.tmp")  # short: the name itself may be at the system's limit
    try:
        with temporary.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode & 0o777)  # some writers make files that only their owner may read
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # a full disk
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    try:
        write_whole(path, lambda file: save_file(whole, file))
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(f"{path} cannot be written ({error}); make room, or choose another place") from error
