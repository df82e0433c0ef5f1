"""Files written whole or not at all; text that people write; tensors in safetensors files, and into a network."""

import codecs
import contextlib
import glob
import hashlib
import json
import os
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tectum.errors import UserError, closest

if TYPE_CHECKING:
    from torch import Tensor, nn


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
        if error.errno is not None and str(error.filename) in ("None", str(temporary)):  # a full disk, a closed folder
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


def append_text(path: Path, text: str) -> None:
    """Add text to the end of a file in UTF-8; a full disk or a process that is killed may leave a part of it.

    Raises:
        OSError: it cannot be written; the error names the file.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        error.filename = str(path)
        raise


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def read_text(path: Path) -> str:
    """Text of a file in UTF-8, or in UTF-16 with its byte order mark, as editors and shells on Windows write it.

    A byte order mark is not part of the text, and every line ends in "\\n".

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is not text, or in another encoding.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = (Path(folder) / "train.txt").write_bytes("00001\\r\\n00002".encode("utf-16"))
    ...     read_text(Path(folder) / "train.txt")
    '00001\\n00002'
    """
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-32, UTF-16 without its mark, or no text at all
        raise UserError(f"{path} must be text in UTF-8, or in UTF-16 with a byte order mark; save it again as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Lines of a text file as (place for messages, text without spaces around it), in order.

    Empty lines and comments, which start with #, are left out.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is not text, as `read_text` says.
    """
    lines = [(f"{path}, line {i}", line.strip()) for i, line in enumerate(read_text(path).split("\n"), 1)]
    return [(place, line) for place, line in lines if line and not line.startswith("#")]


def normalise_name(name: str) -> str:
    """Name in Unicode's composed form (NFC), in which names are compared: macOS writes "e" and its accent apart (NFD).

    >>> normalise_name("Cafe\\u0301") == "Caf\\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


def read_json(path: Path, *, problem: str, advice: str) -> dict[str, Any]:
    """Returns the object of a JSON file.

    Args:
        path: of the file.
        problem: follows the path in the message where the file holds no object.
        advice: ends that message.

    Raises:
        UserError: it holds no object.
    """
    try:
        return dict(json.loads(read_text(path)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} {problem} ({error}); {advice}") from error


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], *, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, with texts in its header if any are given.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, x in tensors.items():
        x = x.detach().cpu().contiguous()
        storage = x.untyped_storage().data_ptr()
        whole[name] = x.clone() if storage in storages else x  # of tied weights: safetensors refuses shared memory
        storages.add(storage)
    try:
        write_whole(path, lambda file: save_file(whole, file, metadata))
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(f"{path} cannot be written ({error}); make room, or choose another place") from error


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """Read the tensors of a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"weights must be a file, and {path} is none; check the path")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); train or download it again") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Read the texts in the header of a safetensors file that can be read."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def load_state(network: "nn.Module", state: Mapping[str, "Tensor"], source: str | Path, *, advice: str) -> None:
    """Load tensors into a network that they fit.

    Args:
        network: is filled in place.
        state: tensors by the names of the network's `state_dict`.
        source: where they come from, for the message.
        advice: what to do if they are another network's, the end of the message.

    Raises:
        UserError: tensors are missing, unknown, of another shape, or not finite.
    """
    own = network.state_dict()
    problems = [f"it lacks {name}" for name in sorted(own.keys() - state.keys())]
    problems += [f"it has an unknown {name}" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(f"{source} does not hold weights of {type(network).__name__}: {problems[0]}{more}; {advice}")
    if not all(bool(x.isfinite().all()) for x in state.values()):
        raise UserError(f"{source} holds values that are not finite; take an earlier checkpoint")
    network.load_state_dict(dict(state))


def check_path_exists(noun: str, path: str) -> None:
    """Refuse a misspelt path at once, before torch is imported.

    Args:
        noun: what kind of image is looked for there ("visible", "fused", ...).
        path: a file, a folder or a pattern with wildcards, which is not looked up.

    Raises:
        FileNotFoundError: nothing is there; the closest name in that folder is offered.
    """
    if Path(path).exists() or glob.has_magic(path):
        return
    folder = Path(path).parent
    try:
        close = closest(Path(path).name, [entry.name for entry in folder.iterdir()])
    except OSError:
        close = None
    hint = f"did you mean {Path(path).with_name(close)}?" if close else "check the path"
    raise FileNotFoundError(f"{noun} image or folder {path} does not exist; {hint}")


def describe_same_file(paths: Sequence[Path]) -> str:
    """A sentence on two paths that are one file, by a link or by name; "" where there are none."""
    seen: dict[tuple[int, int], Path] = {}
    for path in paths:
        if path.exists() and (earlier := seen.setdefault(file_key(path), path)) is not path:
            which = f"{earlier} twice" if earlier == path else f"{earlier} and {path}, which are one file"
            return f"the images of a scene must be different files, got {which}; name another file"
    return ""


def file_key(path: Path) -> tuple[int, int]:
    """What tells a file from all others, whatever links lead to it: its device and its number there."""
    status = path.stat()
    return status.st_dev, status.st_ino


def is_folder_or_pattern(path: str) -> bool:
    """Returns True for a folder or a pattern such as 'vi/*.png', False for a file or nothing at all."""
    return Path(path).is_dir() or (glob.has_magic(path) and not Path(path).exists())


def changed_settings(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Returns what differs between the settings in a folder and those of today, for a message; "" if they are equal.

    >>> changed_settings({"bits": 8}, {"bits": 16})
    'bits: 8 there, 16 here'
    """
    keys = [key for key in sorted({*stored, *settings}) if stored.get(key) != settings.get(key)]
    return ", ".join(f"{key}: {stored.get(key)} there, {settings.get(key)} here" for key in keys)


def file_sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file's content, 64 hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def fingerprint(*parts: Any) -> str:
    """Returns a short hash of tensors, texts, numbers, lists and dicts of them; of anything else its type counts."""
    digest = hashlib.sha256()
    for part in parts:
        _add_to_digest(digest, part)
    return digest.hexdigest()[:16]


def _add_to_digest(digest: Any, part: Any) -> None:
    if isinstance(part, list | tuple):
        for x in part:
            _add_to_digest(digest, x)
    elif isinstance(part, Mapping):
        for key in sorted(part):
            _add_to_digest(digest, part[key])
    elif hasattr(part, "contiguous"):
        x = part.detach().cpu().contiguous()
        digest.update(str((x.dtype, tuple(x.shape))).encode() + x.numpy().tobytes())
    else:
        digest.update((repr(part) if isinstance(part, str | int | float | None) else type(part).__name__).encode())


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[bool]:
    """Lock a folder for this process; False if another process holds it. The system frees what an ended process held.

    The folder is made if it is missing. Where nothing can be locked (Windows, some network disks, a folder that may
    only be read) the answer is True.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            import fcntl

            fcntl.flock(stack.enter_context((folder / "lock").open("a")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except (ImportError, OSError):
            pass
        yield True
