"""The labelled pairs of a downstream comparison and the images that are compared, as the command line names them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tectum.console import option, optional, parse_named
from tectum.errors import UserError, unknown
from tectum.io.files import check_path_exists

if TYPE_CHECKING:
    from tectum.data.labelled import LabelledPairs
    from tectum.downstream.run import Input
    from tectum.pair import Pairs


@dataclass(frozen=True, kw_only=True)
class Data:
    """Options that name the pairs and the inputs."""

    data: Annotated[str, option("DIR")]
    """The labelled set, or the folder that holds it."""

    images: Annotated[tuple[str, ...], option("[NAME=]INPUT")]
    """The inputs that are compared; the rows of the table."""

    variant: Annotated[str | None, optional("NAME")] = None
    """published takes the systems of --images as their authors released them; the same as SYSTEM-published."""

    set: Annotated[str | None, optional("SET")] = None
    """Name of the set (msrs, fmb, m3fd, llvip, mfnet, voc, folder); without it the names of the folders say it."""

    split: Literal["test", "validation"] = "test"
    """test: train on all training pairs, score the test pairs. validation: score some of the training pairs and train
    on the others, to choose settings without the test pairs."""

    validation: Annotated[str | None, optional("LIST")] = None
    """The pairs that --split validation scores: a file with a name a line, or a list of ours; without it the set's own
    list (msrs-validation), or every sixth pair."""

    def set_name(self) -> str:
        """Returns the name of the set."""
        from tectum.data.check import detect

        return detect(self.data)[0] if self.set is None else self.set

    def read_pairs(self, label_type: str) -> "tuple[dict[str, Pairs], tuple[str, ...]]":
        """Open the labelled pairs.

        Args:
            label_type: "masks" or "boxes".

        Returns:
            {"train": pairs, "test": pairs} and the names of the classes.

        Raises:
            UserError, FileNotFoundError: the set is incomplete, or training and test pairs are not apart.
        """
        from tectum.data.datasets import open_set
        from tectum.data.labelled import check_apart

        def open_split(split: str) -> "LabelledPairs":
            return open_set(self.set_name(), self.data, split=split, target=label_type, memory_gib=0)  # read once

        train = open_split("train")
        if self.split == "validation":
            return self._split_validation(train), train.classes
        if self.validation is not None:
            raise UserError("--validation names the pairs of --split validation; add that, or leave it out")
        test = open_split("test")
        check_apart(train, test, "test")
        return {"train": train, "test": test}, train.classes

    def _split_validation(self, train: "LabelledPairs") -> "dict[str, Pairs]":
        from tectum.data.parts import exclude_names, list_splits
        from tectum.evaluation.sources import read_names

        own_list = f"{self.set_name()}-validation"
        if self.validation is not None:
            validation = read_names(self.validation)
        else:
            validation = read_names(own_list) if own_list in list_splits() else []
            if not set(validation) & set(train.names):  # our list is of another part of the set
                validation = train.names[::6]
        parts = {"train": exclude_names(train.names, validation), "test": validation}
        if not parts["train"]:
            raise UserError("--validation must leave pairs to train on, but names all of them; shorten the list")
        return {part: train.subset(names) for part, names in parts.items()}

    def read_inputs(self, device: str) -> "list[Input]":
        """The inputs that --images names, each under a name of its own.

        Args:
            device: where systems fuse.

        Raises:
            UserError, FileNotFoundError: an unknown input, or two of one name.
        """
        scored = "train" if self.split == "validation" else "test"
        inputs: dict[str, Input] = {}
        for text in self.images:
            name, spec = parse_named(text, "--images", metavar="INPUT")
            if name in inputs:
                raise UserError(f"every input needs a name of its own, got '{name}' twice; write NAME={spec}")
            inputs[name] = make_input(name, spec, device, scored=scored, variant=self.variant)
        if not inputs:
            raise UserError("--images needs at least one input, such as visible infrared average DIR")
        if self.variant is not None and all(x.test.is_baseline or x.test.system is None for x in inputs.values()):
            raise UserError(f"--variant {self.variant} is of a system, and --images names none; leave it out")
        return list(inputs.values())


def make_input(name: str, spec: str, device: str, *, scored: str = "test", variant: str | None = None) -> "Input":
    """A source, a baseline, a folder of fused images or a system, under a name.

    Args:
        name: in the table.
        spec: a baseline or source, a folder, or SYSTEM[@WEIGHTS].
        device: where a system fuses.
        scored: subfolder with the images of the scored pairs, "train" or "test".
        variant: of a system, as in `tectum.load`.

    Raises:
        UserError, FileNotFoundError: there is no such input.
    """
    from tectum.downstream.run import Input
    from tectum.evaluation.methods import FolderMethod, make_baseline, make_system
    from tectum.evaluation.options import BASELINES
    from tectum.models import SYSTEMS
    from tectum.pretrained.loading import cards

    if spec in BASELINES:
        return Input(name, make_baseline(spec), make_baseline(spec))
    folder = Path(spec)
    if folder.is_dir():
        parts = [part if part.is_dir() else folder for part in (folder / "train", folder / scored)]
        return Input(name, *(FolderMethod(name, part) for part in parts))
    key = spec.partition("@")[0]
    if key not in {*SYSTEMS, *cards()} and ":" not in key:
        if "/" in spec:
            check_path_exists("fused", spec)
        raise UserError(f"{unknown(key, {*BASELINES, *SYSTEMS}, noun='input')}, or a folder of fused images")
    method = make_system(name, spec, variant=variant, device=device)
    return Input(name, method, method)
