"""The sources of an evaluation: which pairs are scored, and how a pair is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tectum.errors import UserError, abbreviate
from tectum.io.folders import PairFiles
from tectum.io.image import Modality, Picture, parse_nodata, px, read_image
from tectum.kinds import KINDS


def read_pair(
    pair: PairFiles,
    *,
    visible_range: str = "auto",
    infrared_range: str = "auto",
    both_colour: bool = False,
    nodata: str | None = None,
    kind: str = "infrared",
) -> tuple[Picture, Picture]:
    """Read the sources of a pair, as a metric may see them.

    Raises:
        UserError, OSError: they cannot be read or compared.
    """
    words, without_data = KINDS[kind].words, parse_nodata(nodata, guess=False)
    flags = ("--visible-range", "--infrared-range")
    ranges, files = (visible_range, infrared_range), (pair.visible, pair.infrared)
    pictures = []
    for i, thermal in enumerate(KINDS[kind].thermal):
        modality: Modality = "infrared" if thermal else "visible"
        picture = read_image(files[i], modality=modality, value_range=ranges[i], flag=flags[i], nodata=without_data[i])
        pictures.append(picture)
    size, other = (picture.y.shape[1:] for picture in pictures)
    if size != other:
        raise UserError(
            f"{words[0]} and {words[1]} must share one size, got {px(size)} and {px(other)}; score against the resized "
            "or registered sources that were fused"
        )
    for picture, value_range, file, flag in zip(pictures, ranges, files, flags, strict=True):
        if picture.bits != 8 and value_range == "auto":
            raise UserError(
                f"metrics compare 8-bit levels, but {file} has {picture.bits} bits a pixel; say which of its values "
                f"became black and white with {flag} LOW,HIGH (or full)"
            )
    if pictures[1].has_colour and not both_colour:
        raise UserError(
            f"an {words[1]} image must be grey, {pair.infrared} is in colour (false colours, or the two folders are "
            "exchanged?); export it in grey, exchange the two"
            + (", or add --both-colour for two exposures or foci" if kind == "infrared" else "")
        )
    return pictures[0], pictures[1]


def read_names(source: str) -> list[str]:
    """Returns the names of pairs in a text file, one a line, or in a packaged list ("msrs-test").

    Lines that start with # are comments; folder, image extension and boxes of a list of training data are left out.

    Raises:
        UserError, OSError: the file is no text, or cannot be read, or names a pair twice.
    """
    from tectum.data.boxes import read_list
    from tectum.data.parts import list_splits, read_split

    if not Path(source).exists() and source in list_splits():
        return read_split(source)
    return list(read_list(Path(source)))


def select_pairs(
    pairs: Mapping[str, PairFiles], names: Sequence[str] | None, failures: Mapping[str, str]
) -> list[PairFiles]:
    """Returns the pairs of a list of names, or all; those that failed already are left out.

    Raises:
        UserError: the list is empty.
        FileNotFoundError: there is no pair of one of the names.
    """
    if names is None:
        return list(pairs.values())
    if not names:
        raise UserError("the list of pairs is empty; name some, or leave it out to take all")
    missing = [name for name in names if name not in pairs and name not in failures]
    if missing:
        raise FileNotFoundError(
            f"the sources must hold every pair of the list, but lack {abbreviate(missing)}; check the list, or the "
            "part (--split)"
        )
    return [pairs[name] for name in dict.fromkeys(names) if name in pairs]
