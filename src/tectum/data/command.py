"""`tectum data`: list the known sets and their layouts, check a set for problems, take radiometric JPEGs apart."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from tectum.console import Flag, optional, progress_bar, say_failures
from tectum.errors import UserError

if TYPE_CHECKING:
    from tectum.data.check import ClassCounts, Part
    from tectum.data.known import KnownSet

_MAX_PROBLEMS = 20


@dataclass(frozen=True)
class ListData:
    """List the known sets: where they come from, their licence, their folders and classes.

    Nothing is downloaded: each set comes from its authors.
    """

    markdown: Flag = False
    """Print tables in Markdown, as in docs/data.md."""

    def run(self) -> int:
        from tectum.data.known import DATASETS, FOLDER, VOC

        sets = {**DATASETS, "voc": VOC, "folder": FOLDER}
        text = "\n\n".join(_describe_set(name, known) for name, known in sets.items())
        print(make_markdown() if self.markdown else text)
        return 0


@dataclass(frozen=True)
class CheckData:
    """Read every image and label of a set; say what is there and what is wrong. Exit code 1 if anything is."""

    folder: Annotated[Positional[str], arg(metavar="DIR")]
    """The set's folder."""

    data: Annotated[str | None, optional("NAME")] = None
    """Which set it is (see tectum data list), "voc" or "folder"; told by its names without it."""

    split: Annotated[str | None, optional("PART")] = None
    """train, val or test; all there are without it."""

    target: Annotated[Literal["masks", "boxes"] | None, optional("KIND")] = None
    """masks or boxes; what is there without it."""

    kind: Annotated[str | None, optional("KIND")] = None
    """What the pairs of a folder of your own are: infrared, exposure, focus or medical; told by a tree such as
    train/MEF/over, else infrared, without it."""

    quiet: Flag = False
    """No progress bar."""

    def run(self) -> int:
        from tectum.data.check import check, detect, detect_kind
        from tectum.data.datasets import get_known_set

        name, why = (self.data, "--data") if self.data is not None else detect(self.folder)
        kind = detect_kind(self.folder) if name == "folder" and self.kind is None else self.kind
        parts = check(
            self.folder,
            name,
            kind=kind,
            splits=() if self.split is None else (self.split,),
            targets=() if self.target is None else (self.target,),
            each=self._progress,
        )
        known = get_known_set(name, kind)
        of_kind = "" if known.kind == "infrared" else f", {known.kind} pairs"
        print(f"{name}: {known.title}{of_kind} (told by {why}{'' if self.data else '; --data NAME says otherwise'})")
        for part in parts:
            print(_describe_part(part, known))
        problems = [f"{part.split}: {problem}" for part in parts for problem in part.problems]
        print(f"problems: {len(problems) or 'none'}")
        for problem in problems[:_MAX_PROBLEMS]:
            print(f"  {' '.join(problem.split())}")
        if len(problems) > _MAX_PROBLEMS:
            print(f"  and {len(problems) - _MAX_PROBLEMS} more")
        return 1 if problems else 0

    def _progress(self, split: str, names: list[str]) -> Iterable[str]:
        with progress_bar(len(names), "pair", label=split, quiet=self.quiet, leave=False) as bar:
            for name in names:
                yield name
                bar.update()


@dataclass(frozen=True)
class ExtractData:
    """Extract temperatures and the visible camera's picture from radiometric JPEGs (FLIR; DJI: raw counts).

    DIR gets NAME-celsius.tif, float32 in degrees Celsius (NAME-counts.tif, 16 bits, where there are no constants to
    make temperatures of counts), and NAME-visible.jpg or .png where the file holds one. Exit code 1 if some failed.
    """

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE [FILE ...]", help_behavior_hint="")]
    """Radiometric JPEGs, as the camera wrote them."""

    out: Annotated[str, arg(aliases=["-o"], metavar="DIR")]
    """The folder to write to."""

    overwrite: Flag = False
    """Replace files that are already there."""

    def run(self) -> int:
        from tectum.data.extraction import check_files, extract

        check_files(self.files)
        failures = {}
        for file in self.files:
            try:
                print(", ".join(str(x) for x in extract(Path(file), Path(self.out), overwrite=self.overwrite)))
            except (UserError, OSError) as error:
                if len(self.files) == 1:
                    raise
                failures[file] = str(error)
        say_failures("not extracted", failures)
        return 1 if failures else 0


def _describe_part(part: "Part", known: "KnownSet") -> str:
    """Returns the contents of a part as text, several lines."""
    published = known.splits.get(part.split)
    sizes = ", ".join(f"{size} ({num})" if len(part.sizes) > 1 else size for size, num in part.sizes.most_common(4))
    more = f" and {len(part.sizes) - 4} sizes more" if len(part.sizes) > 4 else ""
    lines = [f"{part.split}: {len(part.names)} pairs{f' ({published} published)' if published else ''}, {sizes}{more}"]
    if not part.class_counts:
        lines.append("  no labels")
    for label_type, counts in part.class_counts.items():
        lines += _describe_classes(label_type, counts)
    return "\n".join(lines)


def _describe_classes(label_type: str, counts: "ClassCounts") -> list[str]:
    """Returns a line of text per class."""
    total = sum(counts.amount) + counts.ignored
    masks = label_type == "masks"
    lines = [f"  masks: {total} pixels" if masks else f"  boxes: {total} boxes, {counts.num_empty} images without one"]
    wide = max(len(name) for name in (*counts.classes, "(ignored)"))
    for name, amount, images in zip(counts.classes, counts.amount, counts.images, strict=True):
        share = f"{amount / max(total, 1):8.3%}" if masks else f"{amount:8d}"
        lines.append(f"    {name:{wide}} {share}  in {images} image{'s' * (images != 1)}")
    if counts.ignored:
        lines.append(f"    {'(ignored)':{wide}} {counts.ignored / total:8.3%}")
    return lines


def _number(class_names: Sequence[str]) -> str:
    return ", ".join(f"{i} {name}" for i, name in enumerate(class_names))


def _describe_set(name: str, known: "KnownSet") -> str:
    """Returns the facts of a set as text, several lines."""
    rows = {
        "kind": known.kind,
        "from": known.url,
        "licence": known.licence if known.url else "",
        "images": known.size,
        "pairs": ", ".join(f"{split} {num}" for split, num in known.splits.items()),
        "folders": "; ".join(known.tree),
        "masks": _number(known.masks),
        "boxes": _number(known.boxes),
        "to do": known.steps,
    }
    return "\n".join([f"{name}: {known.title}", *(f"  {key:8} {value}" for key, value in rows.items() if value)])


def make_markdown() -> str:
    """Returns the tables of docs/data.md in Markdown."""
    from tectum.data.known import DATASETS

    lines = ["| name | set | kind | images | pairs | classes | licence as stated |", "|---|---|---|---|---|---|---|"]
    for name, known in DATASETS.items():
        pairs = ", ".join(f"{split} {num}" for split, num in known.splits.items())
        classes = " and ".join(f"{len(x)} of {y}" for y, x in (("masks", known.masks), ("boxes", known.boxes)) if x)
        title = f"[{known.title}]({known.url})"
        lines.append(
            f"| `{name}` | {title} | {known.kind} | {known.size} | {pairs} | {classes or '-'} | {known.licence} |"
        )
    for name, known in DATASETS.items():
        lines += ["", f"### {name}", "", known.steps, ""]
        lines += [f"    {line}" for line in known.tree]
        for label_type, class_names in (("Masks", known.masks), ("Boxes", known.boxes)):
            if class_names:
                lines += ["", f"{label_type}: {_number(class_names)}."]
    return "\n".join(lines)
