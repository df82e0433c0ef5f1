"""Folders of images, matched by name, and folders of results with the settings that made them.

Pairs are matched by file name without the extension. A result counts as finished when all its files are under their
final names (writes are atomic), and `tectum.json` beside the results says with which settings they were made, so that
two settings are never mixed in one folder without a word.
"""

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tectum.errors import UserError, abbreviate
from tectum.io.files import changed_settings, read_json, write_json
from tectum.io.image import EXTENSIONS


@dataclass(frozen=True)
class PairFiles:
    """The two files of one pair and the name they share; `more` where a scene has more exposures or foci."""

    name: str
    visible: Path
    infrared: Path
    more: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, in the order given."""
        return self.visible, self.infrared, *self.more


@dataclass(frozen=True)
class Matches:
    """Image files of two or more folders, matched by name.

    Attributes:
        pairs: files of one name, sorted by it.
        unmatched: {role ("visible", "infrared", ..): names that another side lacks}.
        ambiguous: {name: sentence} where one side has two files of that name.
        folders: {role: the folder the images were looked for in}.
    """

    pairs: tuple[PairFiles, ...]
    unmatched: Mapping[str, tuple[str, ...]]
    ambiguous: Mapping[str, str]
    folders: Mapping[str, Path]


def _folder_of(where: str) -> Path:
    """The folder a folder or a pattern looks in: `vi` for 'vi', 'vi/*.png' and 'vi/**/*.png'."""
    if Path(where).is_dir():
        return Path(where)
    parts = Path(where).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:fixed])


def match(*paths: str, roles: Sequence[str] = ("visible", "infrared")) -> Matches:
    """Match the images of folders (or quoted patterns) by their names without the extension.

    Hidden files, other file types and sub-folders are skipped. Patterns whose file names have nothing in common
    ('*_vi.png', '*_ir.png') are matched by what their last * stands for.

    Args:
        paths: two folders or patterns, or more.
        roles: what the images of each are.

    Raises:
        FileNotFoundError: a folder is missing, holds no images, or they share no name.
    """
    files = {role: find_images(place) for role, place in zip(roles, paths, strict=True)}
    names = {role: group_by_name(images) for role, images in files.items()}
    if not _shared_names(names):
        by_star = {role: group_by_star(files[role], place) for role, place in zip(roles, paths, strict=True)}
        if all(by_star.values()) and _shared_names(by_star):
            names = by_star
    common = _shared_names(names)
    if not common:
        contents = [f"{place} ({abbreviate(names[role])})" for role, place in zip(roles, paths, strict=True)]
        raise FileNotFoundError(
            f"pairs are matched by file name without its extension, but {' and '.join(contents)} share none; rename "
            f"the files, or quote two patterns such as 'DIR/*_{_short(roles[0])}.png' 'DIR/*_{_short(roles[1])}.png'"
        )
    ambiguous = {}
    for name in common:
        for side in names.values():
            if len(side[name]) > 1:
                ambiguous[name] = f"{len(side[name])} files of this name ({', '.join(map(str, side[name]))}); keep one"
    return Matches(
        pairs=tuple(
            _pair_files(name, [side[name][0] for side in names.values()]) for name in common if name not in ambiguous
        ),
        unmatched={role: tuple(sorted(names[role].keys() - set(common))) for role in names},
        ambiguous=ambiguous,
        folders={role: _folder_of(place) for role, place in zip(roles, paths, strict=True)},
    )


def _shared_names(sides: Mapping[str, Mapping[str, list[Path]]]) -> list[str]:
    """The names that every side has, sorted."""
    first, *others = (side.keys() for side in sides.values())
    return sorted(set(first).intersection(*others))


def _pair_files(name: str, files: Sequence[Path]) -> PairFiles:
    return PairFiles(name, files[0], files[1], tuple(files[2:]))


def _short(role: str) -> str:
    return {"visible": "vi", "infrared": "ir"}.get(role, role)


def find_images(where: str) -> list[Path]:
    """The image files of a folder or a pattern, sorted. Raises FileNotFoundError when there are none."""
    folder = Path(where)
    if folder.is_dir():
        candidates = list(folder.iterdir())
    elif glob.has_magic(where):
        candidates = [Path(path) for path in glob.glob(where, recursive=True)]  # noqa: PTH207 - Path.glob takes no '/x/*'
    elif folder.exists():
        raise NotADirectoryError(f"a folder of images is needed, {where} is a file; give the folder it lies in")
    else:
        raise FileNotFoundError(f"no such folder: {where}")
    files = [p for p in candidates if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".") and p.is_file()]
    if not files:
        inside = sorted(p.name for p in candidates if p.is_dir())
        hint = f"; it holds the folders {abbreviate(inside)}, give one of them" if inside else ""
        raise FileNotFoundError(f"no images in {where} (looked for {', '.join(sorted(EXTENSIONS))}){hint}")
    return sorted(files)


def group_by_name(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files by name without the last extension: 0001.tar.png -> 0001.tar."""
    names: dict[str, list[Path]] = {}
    for file in files:
        names.setdefault(file.stem, []).append(file)
    return names


def group_by_star(files: Iterable[Path], pattern: str) -> dict[str, list[Path]]:
    """Group files by what the only * in the last part of a pattern stands for; empty when there is no single *."""
    last = Path(pattern).name
    if last.count("*") != 1 or glob.has_magic(last.replace("*", "")):
        return {}
    star = re.compile("(.+)".join(map(re.escape, last.split("*"))), re.DOTALL)
    names: dict[str, list[Path]] = {}
    for file in files:
        if parts := star.fullmatch(file.name):
            names.setdefault(parts[1], []).append(file)
    return names


@dataclass(frozen=True)
class ResultFolder:
    """Folder of the results of a run, with the settings that made them.

    One output ("colour" or "grey") is written to OUT/NAME.png, both to OUT/colour/NAME.png and OUT/grey/NAME.png,
    report pictures to OUT/report/NAME.png, the settings to OUT/tectum.json.
    """

    path: Path
    outputs: tuple[str, ...] = ("colour",)
    report: bool = False

    def files(self, name: str) -> dict[str, Path]:
        """The files of one result by output."""
        paths = {name: self.path / name if len(self.outputs) > 1 else self.path for name in self.outputs}
        if self.report:
            paths["report"] = self.path / "report"
        return {output: folder / f"{name}.png" for output, folder in paths.items()}

    def prepare(self, settings: Mapping[str, Any], names: Sequence[str], *, overwrite: bool = False) -> set[str]:
        """Make the folders, note the settings, and return the names that are already finished.

        Raises:
            ValueError: the folder holds results made with other settings, or images that are not ours.
            OSError: it cannot be written.
        """
        note = self.path / "tectum.json"
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file; two folders are fused into a folder, choose another name")
        stored = {} if overwrite else _read_note(note)
        unfinished_remake = stored.pop("remaking", False)
        stored.pop("tectum", None)
        existing = [name for name in names if any(file.exists() for file in self.files(name).values())]
        if not overwrite and existing and not stored:
            raise UserError(
                f"{self.path} already holds {abbreviate(f'{name}.png' for name in existing)}, and no tectum.json says "
                "how they were made; choose another folder, or add --overwrite"
            )
        changes = changed_settings(stored, settings) if stored else ""
        if changes and not overwrite and any(self.path.rglob("*.png")):
            raise UserError(
                f"{self.path} holds results made with other settings ({changes}); "
                "choose another folder, or add --overwrite to make them all again"
            )
        for file in self.files("any").values():
            file.parent.mkdir(parents=True, exist_ok=True)
        if overwrite and existing:
            self._write_note(settings, remaking=True)
            return set()
        if changes or not stored:
            self._write_note(settings)
        # After a --overwrite run that was cut short, the results older than its note are still the old ones.
        since = note.stat().st_mtime_ns if unfinished_remake else 0
        return {
            name
            for name in existing
            if all(file.exists() and file.stat().st_mtime_ns >= since for file in self.files(name).values())
        }

    def finish(self, settings: Mapping[str, Any]) -> None:
        """Drop the mark that an --overwrite run leaves until all results are of its settings."""
        if "remaking" in _read_note(self.path / "tectum.json"):
            self._write_note(settings)

    def _write_note(self, settings: Mapping[str, Any], *, remaking: bool = False) -> None:
        """Write tectum.json, whole or not at all."""
        from tectum import __version__

        note = {"tectum": __version__, **settings, **({"remaking": True} if remaking else {})}
        write_json(self.path / "tectum.json", note, indent=2)


def _read_note(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    return read_json(path, problem="must hold the settings of its results", advice="add --overwrite")
