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
from tectum.io.files import changed_settings, describe_same_file, file_key, normalise_name, read_json, write_json
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
        ambiguous: {name: sentence} where one side has two files of that name, or two sides have one file.
        folders: {role: the folder the images were looked for in}.
        unread: files of types that are not read, with the name of an image that lacks a partner.
    """

    pairs: tuple[PairFiles, ...]
    unmatched: Mapping[str, tuple[str, ...]]
    ambiguous: Mapping[str, str]
    folders: Mapping[str, Path]
    unread: tuple[str, ...] = ()

    def unread_warning(self) -> str:
        """A sentence on partners of types that are not read; "" if there are none."""
        return _describe_unread(self.unread)


def _describe_unread(files: Sequence[str]) -> str:
    return f"{abbreviate(files)} would match by name, but tectum reads no such files; convert them" if files else ""


def _folder_of(where: str) -> Path:
    """The folder a folder or a pattern looks in: `vi` for 'vi', 'vi/*.png' and 'vi/**/*.png'."""
    if Path(where).is_dir():
        return Path(where)
    parts = Path(where).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:fixed])


def match(*paths: str, roles: Sequence[str] = ("visible", "infrared")) -> Matches:
    """Match the images of folders (or quoted patterns) by their names without the extension.

    Hidden files, other file types and sub-folders are skipped. Where one pattern covers the files of another too
    ('*.png', '*_ir.png'), they belong to the narrower one. Patterns whose file names have nothing in common
    ('*_vi.png', '*_ir.png') are matched by what their last * stands for.

    Args:
        paths: two folders or patterns, or more.
        roles: what the images of each are.

    Raises:
        FileNotFoundError: a folder is missing, holds no images, or they share no name.
        UserError: the two sides are the same files.
    """
    sides = dict(zip(roles, paths, strict=True))
    files = _give_to_narrowest(sides, {role: find_images(place) for role, place in sides.items()})
    names = {role: group_by_name(images) for role, images in files.items()}
    if not _shared_names(names):
        by_star = {role: group_by_star(files[role], place) for role, place in sides.items()}
        if all(by_star.values()) and _shared_names(by_star):
            names = by_star
    common = _shared_names(names)
    lone = {role: tuple(sorted(names[role].keys() - set(common))) for role in names}
    unread = _unread_partners(sides, lone)
    patterns = f"quote two patterns such as 'DIR/*_{_short(roles[0])}.png' 'DIR/*_{_short(roles[1])}.png'"
    if not common:
        contents = [f"{place} ({abbreviate(names[role])})" for role, place in sides.items()]
        raise FileNotFoundError(
            f"pairs are matched by file name without its extension, but {' and '.join(contents)} share none"
            + (f"; {_describe_unread(unread)}" if unread else f"; rename the files, or {patterns}")
        )
    same = {name: describe_same_file([side[name][0] for side in names.values()]) for name in common}
    if all(same.values()):
        raise UserError(f"{same[common[0]]}, or {patterns}")
    faults = {name: fault for name in common if (fault := _name_doubles(name, names) or same[name])}
    return Matches(
        pairs=tuple(
            _pair_files(name, [side[name][0] for side in names.values()]) for name in common if name not in faults
        ),
        unmatched=lone,
        ambiguous=faults,
        folders={role: _folder_of(place) for role, place in sides.items()},
        unread=unread,
    )


def find_stacks(where: str, *, results: Path) -> Matches:
    """Find the exposure or focus stacks of a folder: one in each sub-folder, or the folder's own images.

    Args:
        where: the folder, or a pattern of folders.
        results: a folder that is none of them.

    Returns:
        The files of each stack by the name of its folder, in natural order: 2 before 10. Folders of fewer than two
        images are in `ambiguous`.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        UserError: there are images beside folders of images.
    """
    images = {path: _list_stack(path) for path in [Path(where), *_list_files(where)] if path.is_dir()}
    images = {path: files for path, files in images.items() if files and path.resolve() != results.resolve()}
    if Path(where) in images and len(images) > 1:
        raise UserError(f"a stack must be a folder of its own, {where} holds images and folders of images; give one")
    if not images:
        raise FileNotFoundError(f"no images in {where} or its folders (looked for {', '.join(sorted(EXTENSIONS))})")
    stacks = {path.resolve().name: files for path, files in images.items()}
    names = sorted(stacks, key=_natural_key)
    return Matches(
        pairs=tuple(_pair_files(name, stacks[name]) for name in names if len(stacks[name]) > 1),
        unmatched={},
        ambiguous={
            name: f"a stack must have two images or more, got {stacks[name][0]} alone; add the others"
            for name in names
            if len(stacks[name]) == 1
        },
        folders={"stacks": _folder_of(where)},
    )


def _list_stack(folder: Path) -> list[Path]:
    """The images of a folder in natural order, none if it has none."""
    return sorted(
        _select_images(_list_files(str(folder))),
        key=lambda path: _natural_key(path.name),
    )


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Key that sorts names by the numbers in them.

    >>> sorted(["10.png", "9.png", "9b.png"], key=_natural_key)
    ['9.png', '9b.png', '10.png']
    """
    parts = re.split(r"(\d+)", normalise_name(name).lower())
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]


def _give_to_narrowest(sides: Mapping[str, str], files: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """The files of each side, without those that a pattern shares with a narrower side, all of whose files it has."""
    keys = {role: {path: file_key(path) for path in side} for role, side in files.items()}
    sets = {role: set(side.values()) for role, side in keys.items()}
    result = {}
    for role, side in keys.items():
        narrower = [] if Path(sides[role]).is_dir() else [other for other in sets.values() if other < sets[role]]
        claimed: set[tuple[int, int]] = set().union(*narrower)
        result[role] = [path for path, key in side.items() if key not in claimed]
    return result


def _name_doubles(name: str, sides: Mapping[str, Mapping[str, list[Path]]]) -> str:
    """A sentence on the files of a name, where one side has several; "" otherwise."""
    files = next((side[name] for side in sides.values() if len(side[name]) > 1), [])
    return f"{len(files)} files of this name ({', '.join(map(str, files))}); keep one" if files else ""


def _unread_partners(sides: Mapping[str, str], lone: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The files of unknown types that have the name of an image which lacks a partner."""
    wanted = {name for names in lone.values() for name in names}
    if not wanted:
        return ()
    found = {path for place in sides.values() for path in _list_files(place) if path.suffix.lower() not in EXTENSIONS}
    return tuple(sorted(str(path) for path in found if normalise_name(path.stem) in wanted))


def _shared_names(sides: Mapping[str, Mapping[str, list[Path]]]) -> list[str]:
    """The names that every side has, sorted."""
    first, *others = (side.keys() for side in sides.values())
    return sorted(set(first).intersection(*others))


def _pair_files(name: str, files: Sequence[Path]) -> PairFiles:
    return PairFiles(name, files[0], files[1], tuple(files[2:]))


def _short(role: str) -> str:
    return {"visible": "vi", "infrared": "ir"}.get(role, role)


def _list_files(where: str) -> list[Path]:
    """The files and folders of a folder or a pattern, hidden ones left out."""
    folder = Path(where)
    if folder.is_dir():
        candidates = list(folder.iterdir())
    elif glob.has_magic(where):
        candidates = [Path(path) for path in glob.glob(where, recursive=True)]  # noqa: PTH207 - Path.glob takes no '/x/*'
    elif folder.exists():
        raise NotADirectoryError(f"a folder of images is needed, {where} is a file; give the folder it lies in")
    else:
        raise FileNotFoundError(f"no such folder: {where}")
    return [path for path in candidates if not path.name.startswith(".")]


def _select_images(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in EXTENSIONS and path.is_file()]


def find_images(where: str) -> list[Path]:
    """The image files of a folder or a pattern, sorted. Raises FileNotFoundError when there are none."""
    candidates = _list_files(where)
    files = _select_images(candidates)
    if not files:
        inside = sorted(p.name for p in candidates if p.is_dir())
        hint = f"; it holds the folders {abbreviate(inside)}, give one of them" if inside else ""
        raise FileNotFoundError(f"no images in {where} (looked for {', '.join(sorted(EXTENSIONS))}){hint}")
    return sorted(files)


def group_by_name(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files by name without the last extension: 0001.tar.png -> 0001.tar."""
    names: dict[str, list[Path]] = {}
    for file in files:
        names.setdefault(normalise_name(file.stem), []).append(file)
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
            names.setdefault(normalise_name(parts[1]), []).append(file)
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
