"""Choice and loading of a fuser by the names of its system and its weights: the one resolver that every verb uses.

Packaged sets are safetensors files beside this module with a card each in `cards.json`: data, recipe, seconds, scores,
SHA-256. They carry their own notice (`NOTICE`), apart from the licence of the code. A file that is not what its card
says, or does not fit the network, is refused before anything of it is used. Nothing is ever unpickled here.

    select("tomiff")                            the system and its packaged default
    select("tomiff", variant="published")       the network as its authors released it; the same as "tomiff-published"
    select("tomiff-msrs")                       a packaged set alone
    select(None, None, kind="exposure")         the default of a kind of pairs
    select("package.module:Class", "a.safetensors")     a class and a file of one's own
"""

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tectum.color import check_luminances
from tectum.errors import UserError, suggest, unknown
from tectum.io.files import file_sha256, load_state, read_metadata, read_tensors, write_tensors
from tectum.kinds import KINDS
from tectum.models import SYSTEMS
from tectum.nn.stages import find_device
from tectum.protocols import System, resolve

FOLDER = Path(str(resources.files("tectum.pretrained")))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Card = dict[str, Any]
Entry = System | Callable[..., nn.Module]


@dataclass(frozen=True)
class Selection:
    """A chosen fuser: its system, its weights, and the kind of pairs that it was asked for.

    Attributes:
        system: a key of `tectum.models.SYSTEMS`, or `package.module:Class`.
        entry: what that names, a `System` or the user's own class.
        weights: name of a packaged set, or path of a file; None for none.
        file: where the weights lie, or None.
        card: the card of a packaged set, or None.
        kind: a key of `tectum.kinds.KINDS`.
    """

    system: str
    entry: Entry
    weights: str | None
    file: Path | None
    card: Card | None
    kind: str

    def load(
        self, device: str | torch.device = "auto", dtype: str | torch.dtype = "float32", *, trainable: bool = False
    ) -> nn.Module:
        """Build the fuser and fill it with its weights; arguments as those of `tectum.load`.

        Raises:
            UserError: the system needs weights and has none, or the file does not hold them.
        """
        device, dtype = find_device(device), _find_dtype(dtype)
        name, entry = self.system, self.entry
        if self.file is not None:
            state = read_weights(self.file, self.card)
            if read_metadata(self.file).get("variant") == "published" and f"{name}-published" in SYSTEMS:
                name, entry = select_system(name, "published")  # the weights are only right in the network they are of
        fuser = build_fuser(name, entry)
        if self.file is not None:
            if all(name.startswith("published.") for name in state):  # files of before published variants were systems
                state = {name.removeprefix("published."): x for name, x in state.items()}
            load_state(fuser, state, self.file, advice="choose the matching --system")
        elif list(fuser.parameters()):
            raise UserError(
                f"system '{self.system}' has no packaged weights; name a .safetensors file: --weights FILE for `tectum "
                f"fuse`, {self.system}@FILE for `tectum eval` and `tectum downstream`"
            )
        fuser.register_forward_pre_hook(_check_inputs)
        return fuser.to(device=device, dtype=dtype).train(trainable).requires_grad_(trainable)

    def identity(self) -> str | None:
        """Returns name and start of the SHA-256 of the weights, which tell results apart; None without weights."""
        if self.file is None:
            return None
        return f"{Path(str(self.weights)).name} {file_sha256(self.file)[:12]}"


def select(
    system: str | None = None,
    weights: str | Path | None = None,
    *,
    kind: str = "infrared",
    variant: str | None = None,
) -> Selection:
    """Find the system and the weights that the given names lead to, without loading them.

    Args:
        system: a key of `tectum.models.SYSTEMS`, a packaged set of weights, or `package.module:Class`; None takes the
            system of the packaged weights, the kind's network for a file of them, else the kind's own.
        weights: a packaged set or a `.safetensors` file; None takes the system's set for the kind, or its default.
        kind: "infrared", "exposure", "focus" or "medical".
        variant: "published" for the system as its authors released it, or "repaired".

    Raises:
        UserError: an unknown name (the closest is offered), or weights of another system.
        FileNotFoundError: no such file.
    """
    if not (system is None or isinstance(system, str)):
        given = system if isinstance(system, type) else type(system).__name__
        raise UserError(f"system must be a name or package.module:Class, got {given}; write its name")
    of = KINDS[kind]
    packaged = cards()
    if weights is None and system in packaged:
        system, weights = None, system
    if system is None and weights is not None:
        system = packaged[str(weights)]["system"] if str(weights) in packaged else of.network
    system = of.system if system is None else system
    system, entry = select_system(system, variant)
    default = entry.weights if isinstance(entry, System) else None
    if weights is None:
        trained = (name for name, card in packaged.items() if (card["system"], card.get("kind")) == (system, of.name))
        weights = next(trained, default)
    if weights is None:
        return Selection(system, entry, None, None, None, of.name)
    file, card = _find_weights(weights)
    same_network = packaged[default]["system"] if default in packaged else system  # of a published variant
    if card is not None and card["system"] not in (system, same_network):
        raise UserError(f"weights '{weights}' are of system '{card['system']}', not '{system}'; take one of the two")
    return Selection(system, entry, str(weights), file, card, of.name)


def load(
    system: str | None = None,
    weights: str | Path | None = None,
    *,
    variant: str | None = None,
    kind: str = "infrared",
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    trainable: bool = False,
) -> nn.Module:
    """Load a fuser: `fuser(a, b) -> fused`, all (B,1,H,W) in [0,1], a the visible luminance, b the infrared one.

    Args:
        system: a key of `tectum.models.SYSTEMS`, a packaged set of weights (`load("tdfusion-fixed-msrs")`), or
            `package.module:Class` of the user's own; None takes the system of the packaged weights, else the kind's.
        weights: a packaged set or a `.safetensors` file; None takes the system's set for the kind, or its default.
        variant: "published" for the system as its authors released it: `load("tomiff", FILE, variant="published")`.
        kind: "infrared", "exposure", "focus" or "medical": whose defaults to take.
        device: "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda", "cuda:1", "mps", or a `torch.device`.
        dtype: "float32", "bfloat16", or one of these as a `torch.dtype`.
        trainable: give it in training mode with gradients; else it is in evaluation mode without.

    Returns:
        The network. It refuses inputs that are not two luminances (B,1,H,W) of one shape, on its device.

    Raises:
        UserError: an unknown name (the closest is offered), or a file that does not hold this network.
        FileNotFoundError: no such file.

    >>> load("average")(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).mean().item()
    0.5
    """
    return select(system, weights, kind=kind, variant=variant).load(device, dtype, trainable=trainable)


def load_objective(name: str, **options: Any) -> nn.Module:
    """Load the learned objective that a packaged set was trained with: its `weights(a, b)` are the maps of the loss.

    Args:
        name: a packaged set whose loss was learned.
        options: of the objective, in place of those it was learned with, e.g. alpha.

    Raises:
        UserError: unknown, or trained on a fixed objective.
    """
    packaged = cards()
    if name not in packaged:
        raise UserError(unknown(name, packaged, noun="weights"))
    card = packaged[name].get("objective")
    learned = SYSTEMS[packaged[name]["system"]].learned
    if card is None or learned is None:
        raise UserError(f"weights '{name}' were trained on a fixed objective; take a set whose loss was learned")
    path = FOLDER / card["file"]
    objective = learned(**card["options"] | options)
    load_state(objective, read_weights(path, card), path, advice="install tectum again")
    return objective.eval().requires_grad_(False)


def cards() -> dict[str, Card]:
    """Returns the cards of all packaged sets by name; the file is read once per process."""
    return _read_cards(FOLDER)


@functools.cache
def _read_cards(folder: Path) -> dict[str, Card]:
    content: dict[str, Card] = json.loads((folder / "cards.json").read_text(encoding="utf-8"))
    return content


def _find_dtype(dtype: str | torch.dtype) -> torch.dtype:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UserError(unknown(name, DTYPES, noun="dtype"))
    return DTYPES[name]


def select_system(system: str, variant: str | None = None) -> tuple[str, Entry]:
    """Find a system by its name and variant.

    Returns:
        Its key in `SYSTEMS`, or `package.module:Class`, and what that names.

    Raises:
        UserError: the name is unknown, or the system has no such variant.
    """
    if variant == "repaired":
        system = system.removesuffix("-published")
    elif variant is not None and not system.endswith(f"-{variant}"):
        if f"{system}-{variant}" not in SYSTEMS and system in SYSTEMS:
            variants = [name.removeprefix(f"{system}-") for name in SYSTEMS if name.startswith(f"{system}-")]
            hint = f"{suggest(variant, variants)} available: {', '.join(variants)}" if variants else " leave it out"
            raise UserError(f"system '{system}' has no variant '{variant}';{hint}")
        system = f"{system}-{variant}" if ":" not in system else system
    return system, SYSTEMS[system] if system in SYSTEMS else resolve(SYSTEMS, system, noun="system")


def build_fuser(system: str, entry: Entry) -> nn.Module:
    """Build the network of a system with random weights.

    Raises:
        UserError: the user's own class is no module, or needs arguments.
    """
    if isinstance(entry, System):
        return entry.fuser()
    if not (isinstance(entry, type) and issubclass(entry, nn.Module) and not _required_arguments(entry)):
        raise UserError(f"system '{system}' must be a torch.nn.Module class that needs no arguments, got {entry!r}")
    return entry()


def _required_arguments(make: type) -> list[str]:
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(make).parameters.items()
    return [name for name, p in parameters if p.default is p.empty and p.kind not in optional]


def _check_inputs(fuser: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Refuse inputs of a loaded fuser that torch would refuse in its own words, or broadcast in silence."""
    if len(inputs) != 2:
        return
    check_luminances(*inputs)
    parameter, a = next(fuser.parameters(), None), inputs[0]
    if parameter is None or torch.compiler.is_compiling() or torch.is_autocast_enabled(a.device.type):
        return
    if (a.device, a.dtype) != (parameter.device, parameter.dtype):
        raise UserError(
            f"a and b must be on the device of the fuser and of its type, {parameter.device} and {parameter.dtype}, got"
            f" {a.device} and {a.dtype}; move them, or load with device= and dtype="
        )


def _find_weights(weights: str | Path) -> tuple[Path, Card | None]:
    """File and card (None for a user's own file) of a packaged name or a path."""
    packaged = cards()
    if (card := packaged.get(str(weights))) is not None:
        return FOLDER / str(card["file"]), card
    path = Path(weights)
    if path.suffix == ".safetensors" or path.exists():
        if not path.is_file():
            raise FileNotFoundError(f"weights must be a file, and {path} is none; check the path")
        return path, None
    raise UserError(unknown(str(weights), packaged, noun="weights") + "; or give a .safetensors file")


def read_weights(path: Path, card: Card | None = None) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file; with a card, only if its SHA-256 is the card's.

    Raises:
        UserError: it is damaged, another kind of file, or not the one of its card.
    """
    if path.suffix in (".pt", ".pth", ".ckpt"):
        raise UserError(
            f"{path} is a PyTorch checkpoint, not safetensors; convert it first: tectum weights convert {path}"
        )
    if card is not None and file_sha256(path) != card["sha256"]:
        raise UserError(f"{path.name} is not the file its card describes (SHA-256 differs); install tectum again")
    return read_tensors(path)


def save_weights(state: dict[str, Tensor], path: Path) -> str:
    """Write tensors as safetensors. Returns the SHA-256 of the file."""
    write_tensors(path, state)
    return file_sha256(path)
