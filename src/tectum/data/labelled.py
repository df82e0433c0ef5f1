"""Data set of image pairs with labels for a task: segmentation masks or boxes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from tectum.data.folders import luminance, read_8bit
from tectum.data.labels import Labels
from tectum.data.parts import find_duplicates
from tectum.errors import UserError
from tectum.io.files import file_sha256, fingerprint
from tectum.pair import Pair


class LabelledPairs(Dataset[Pair]):
    """Data set of single pairs: luminances (1,1,H,W) in [0,1] and a mask (1,H,W) int64 or a list of one `Boxes`.

    What has been read stays in memory in 8 bits, up to `memory_gib`.

    Args:
        files: (visible, infrared) by name; one file twice is a picture of four channels, the fourth infrared.
        labels: of these names; None gives pairs without a target.
        channels: 3 keeps the colours in memory too, for `visible_rgb`.
        memory_gib: how much to keep; what is beyond is read again each time.
        words: what the two are called in messages; of another kind they are in the places of visible and infrared.

    Attributes:
        names: of the pairs, in order.
        classes: of the labels; for masks the background is class 0.
        label_type: "masks", "boxes" or None.

    Raises:
        FileNotFoundError: an image has no label.
        ValueError: there is nothing, or `channels` is not 1 or 3. When a pair is taken: its files do not fit together.
    """

    def __init__(
        self,
        files: Mapping[str, tuple[Path, Path]],
        labels: Labels | None = None,
        *,
        channels: int = 1,
        memory_gib: float = 4.0,
        words: tuple[str, str] = ("visible", "infrared"),
    ) -> None:
        if channels not in (1, 3):
            raise UserError(f"channels must be 1 (luminance) or 3 (colour), got {channels}; choose one of them")
        if not files:
            raise UserError("a set must hold at least one pair, got none; check its folders and the split")
        unlabelled = [] if labels is None else [name for name in files if name not in labels]
        if labels is not None and unlabelled:
            what = "an empty text file says that nothing is there; " if labels.label_type == "boxes" else ""
            raise FileNotFoundError(
                f"every image needs its label, {len(unlabelled)} of {len(files)} have none, the first is "
                f"{unlabelled[0]}; {what}add them, or leave these images out"
            )
        self.files, self.labels, self.channels = dict(files), labels, channels
        self.names = list(self.files)
        self.label_type = None if labels is None else labels.label_type
        self.classes: tuple[str, ...] = () if labels is None else labels.classes
        self.memory_gib, self.words = memory_gib, words
        self._free_bytes = int(memory_gib * 2**30)
        self._cache: dict[int, tuple[Tensor, Tensor, Tensor | None, Any]] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Pair:
        a, b, _, label = self._read(index)
        target: Any = label
        if isinstance(label, Tensor):
            target = label[None].long()
        elif label is not None:
            target = [{key: x.clone() for key, x in label.items()}]
        return Pair(a[None, None] / 255, b[None, None] / 255, target, (self.names[index],))

    def subset(self, names: Iterable[str]) -> "LabelledPairs":
        """Returns the pairs of these names, in this order, with their labels and all classes.

        Raises:
            ValueError: a name is not one of this set's, or there is none.
        """
        names = list(names)
        unknown_names = [name for name in names if name not in self.files]
        if unknown_names:
            raise UserError(
                f"a part must hold pairs of its set, {len(unknown_names)} of {len(names)} are not among its "
                f"{len(self)}, the first is {unknown_names[0]}; correct the list"
            )
        files = {name: self.files[name] for name in names}
        return LabelledPairs(files, self.labels, channels=self.channels, memory_gib=self.memory_gib, words=self.words)

    def fingerprint(self, index: int) -> str:
        """Returns a hash of the content of a pair's files and of its label; where they lie does not matter."""
        name = self.names[index]
        label = "" if self.labels is None else self.labels.fingerprint(name)
        return fingerprint([file_sha256(path) for path in self.files[name]], label)

    def visible_rgb(self, index: int) -> Tensor:
        """Returns the visible image of a pair in colour, (1,3,H,W) in [0,1]; a grey one has three equal channels."""
        rgb = self._read(index)[2] if self.channels == 3 else None
        return (_to_rgb(read_pair_pixels(*self.files[self.names[index]])[0]) if rgb is None else rgb)[None] / 255

    def _read(self, index: int) -> tuple[Tensor, Tensor, Tensor | None, Any]:
        """Visible and infrared luminance (H,W), colours (3,H,W) or None, all uint8, and the label."""
        index = range(len(self))[index]
        if index in self._cache:
            return self._cache[index]
        name = self.names[index]
        visible, infrared = read_pair_pixels(*self.files[name])
        a, b = luminance(visible), luminance(infrared).contiguous()  # a view would keep the whole file
        if a.shape != b.shape:
            raise UserError(
                f"the images of a pair must share one size, {name} has {a.shape[1]}x{a.shape[0]} ({self.words[0]}) and "
                f"{b.shape[1]}x{b.shape[0]} ({self.words[1]}); register or resize them first, or leave the pair out"
            )
        label = None if self.labels is None else self.labels.read(name, (a.shape[0], a.shape[1]))
        arrays = a, b, _to_rgb(visible) if self.channels == 3 else None, label
        num_bytes = sum(x.numel() for x in arrays if isinstance(x, Tensor))
        if num_bytes <= self._free_bytes:
            self._free_bytes -= num_bytes
            self._cache[index] = arrays
        return arrays


class JoinedPairs(Dataset[Pair]):
    """Several data sets as one.

    Args:
        parts: in their order.
        alike: all parts weigh alike: pairs of the smaller ones come several times, spread evenly.
    """

    def __init__(self, parts: Sequence[LabelledPairs], *, alike: bool = False) -> None:
        longest = max(len(part) for part in parts)
        self._places = [
            (part, i * len(part) // length)
            for part in parts
            for length in (longest if alike else len(part),)
            for i in range(length)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Pair:
        part, place = self._places[index]
        return part[place]

    def fingerprint(self, index: int) -> str:
        """Returns a hash of a pair's files, as `LabelledPairs.fingerprint`."""
        part, place = self._places[index]
        return part.fingerprint(place)


def check_apart(train: LabelledPairs, scored: LabelledPairs, part: str) -> None:
    """Refuse a part to score (`part` is what it is called) that is trained on too, or that has other classes.

    Raises:
        ValueError: the sentence names the classes, or the first of the pairs.
    """
    if scored.classes != train.classes:
        raise UserError(
            f"training and {part} pairs must share their classes, got {', '.join(train.classes)} and "
            f"{', '.join(scored.classes)}; complete the labels, or name all classes in classes.txt"
        )
    in_both = find_duplicates(*({name: visible for name, (visible, _) in x.files.items()} for x in (train, scored)))
    if in_both:
        raise UserError(
            f"training and {part} pairs must be different, {len(in_both)} of {len(scored)} {part} pairs are trained "
            f"on, the first is {in_both[0]}; take them out of one part, see tectum data check"
        )


def read_pair_pixels(visible: Path, infrared: Path) -> tuple[Tensor, Tensor]:
    """Returns the pixels of both images as `read_8bit` does; the same path twice is one file of four channels.

    Raises:
        ValueError: a file cannot be read, is deeper than 8 bits, or has not four channels where it must.
    """
    raw = read_8bit(visible)
    if visible != infrared:
        return raw, read_8bit(infrared)
    if raw.ndim != 3 or raw.shape[2] != 4:
        raise UserError(f"{visible} must have four channels (red, green, blue, infrared); take the set's own files")
    return raw[..., :3], raw[..., 3]


def _to_rgb(raw: Tensor) -> Tensor:
    """Returns (3,H,W) of pixels as `read_8bit` returns them."""
    if raw.ndim == 2 or raw.shape[2] < 3:
        raw = (raw if raw.ndim == 2 else raw[..., 0])[..., None].expand(-1, -1, 3)
    return raw[..., :3].permute(2, 0, 1).contiguous()
