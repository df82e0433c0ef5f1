"""`tectum weights`: what is packaged, and how to bring a published checkpoint of one's own."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from tectum.console import Flag, optional


@dataclass(frozen=True)
class ListWeights:
    """List the packaged weights with their cards and their notice."""

    json: Flag = False
    """Print the cards as JSON."""

    def run(self) -> int:
        from tectum.pretrained import loading as weights

        cards = weights.cards()
        if self.json:
            print(json.dumps(cards, indent=2))
            return 0
        for name, card in cards.items():
            print(name)
            for key, value in card.items():
                text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
                print(f"  {key:10} {text}")
        print("\n" + (weights.FOLDER / "NOTICE").read_text(encoding="utf-8").strip())
        return 0


@dataclass(frozen=True)
class ConvertWeights:
    """Turn your own checkpoint of a fuser into weights for `tectum fuse --weights`: ours, or the authors' TDFusion.

    For tdfusion the keys may be those of the authors' TDFusion and ReFusion files; for the others they must be ours.
    The published files carry no licence, so none is packaged here; what you may do with yours is between you and them.
    """

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """A .pth, .pt or .ckpt file (read without running anything in it), or .npz arrays."""

    system: Annotated[str, arg(metavar="NAME")] = "tdfusion"
    """System of the network: tdfusion, tomiff, sfofusion or adasffuse."""

    variant: Annotated[str | None, optional("NAME")] = None
    """published: the network as its authors released it."""

    out: Annotated[str | None, arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = None
    """The .safetensors file to write; beside the checkpoint without it."""

    overwrite: Flag = False
    """Replace FILE if it is there."""

    def run(self) -> int:
        from tectum.pretrained.conversion import convert

        source = Path(self.checkpoint)
        target = source.with_suffix(".safetensors") if self.out is None else Path(self.out)
        if target.exists() and not self.overwrite:
            raise FileExistsError(f"{target} exists already; choose another name, or add --overwrite")
        num = convert(source, target, self.system, variant=self.variant)
        variant = "" if self.variant is None else f" --variant {self.variant}"
        print(f"{target}: {num} parameters; use it with tectum fuse --system {self.system}{variant} --weights {target}")
        return 0
