"""Weights by name, from a file, and from a user's own copy of a published checkpoint.

Packaged sets are safetensors files beside this module with a card each in `cards.json`: data, recipe, seconds, scores,
SHA-256. They carry their own notice (`NOTICE`), apart from the licence of the code. A file that is not what its card
says, or does not fit the network, is refused before anything of it is used; nothing is ever unpickled here except by
`convert`, and there with PyTorch's `weights_only` reader.
"""

import hashlib
import inspect
import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tectum.errors import UserError, unknown
from tectum.io.files import load_state, read_tensors, write_tensors
from tectum.protocols import System, resolve
from tectum.systems import SYSTEMS

FOLDER = Path(str(resources.files("tectum.weights")))
ADVICE = "choose the matching --system"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(
    system: str = "tdfusion", weights: str | Path | None = None, *, device: str = "cpu", dtype: str = "float32"
) -> nn.Module:
    """A fuser, ready to use: in evaluation mode, on `device`, without gradients.

    Args:
        system: a name of `tectum.systems.SYSTEMS`, a packaged set of weights (`load("tdfusion-fixed-msrs")`), or
            `package.module:Class` of the user's own.
        weights: a packaged name or a `.safetensors` file; None takes the system's packaged default.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto": CUDA, then MPS, then the CPU.
        dtype: "float32" or "bfloat16".

    Raises:
        ValueError: an unknown name (the closest is offered), a file that does not hold this network.
        FileNotFoundError: no such weight file.

    >>> load("average")(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).mean().item()
    0.5
    """
    if dtype not in DTYPES:
        raise UserError(unknown(dtype, DTYPES, noun="dtype"))
    if weights is None and (card := cards().get(system)) is not None:
        system, weights = card["system"], system
    entry = resolve(SYSTEMS, system, noun="system")
    if isinstance(entry, System):
        fuser, default = entry.fuser(), entry.weights
    else:
        fuser, default = own_fuser(entry, system), None
    weights = default if weights is None else weights
    if weights is not None:
        path, card = find(weights)
        if card is not None and card["system"] != system:
            raise UserError(
                f"weights '{weights}' are of system '{card['system']}', not '{system}'; take one of the two"
            )
        load_state(fuser, read(path, card), path, advice=ADVICE)
    elif list(fuser.parameters()):
        raise UserError(f"system '{system}' has no packaged weights; name a .safetensors file with --weights")
    return fuser.to(device=find_device(device), dtype=DTYPES[dtype]).eval().requires_grad_(False)


def load_objective(name: str, **options: Any) -> nn.Module:
    """The learned objective that a packaged set was trained with: its `weights(a, b)` are the maps of the loss.

    Args:
        name: a packaged set whose loss was learned.
        options: of the objective, in place of those it was learned with, e.g. alpha.

    Raises:
        ValueError: unknown, or trained on a fixed objective.
    """
    packaged = cards()
    if name not in packaged:
        raise UserError(unknown(name, packaged, noun="weights"))
    card = packaged[name]
    learned = SYSTEMS[card["system"]].learned
    if "objective" not in card or learned is None:
        raise UserError(f"weights '{name}' were trained on a fixed objective; take a set whose loss was learned")
    told = card["objective"]
    path = FOLDER / told["file"]
    objective = learned(**told["options"] | options)
    load_state(objective, read(path, told), path, advice="install tectum again")
    return objective.eval().requires_grad_(False)


def find_device(name: str) -> str:
    """The device to use: "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ValueError: the device asked for is not there.

    >>> find_device("cpu")
    'cpu'
    """
    kind = name.partition(":")[0]
    known = ("auto", "cpu", "cuda", "mps")
    if kind not in known:
        raise UserError(f"device must be one of {', '.join(known)}, got {name!r}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, available in there.items() if available)
    index = name.partition(":")[2]
    if index and not (index.isdigit() and (kind != "cuda" or int(index) < torch.cuda.device_count())):
        raise UserError(f"device {name} must be one of {torch.cuda.device_count()} CUDA devices, counted from 0")
    if not there[kind]:
        raise UserError(
            f"device {name} was asked for, and torch {torch.__version__} finds none; leave out --device (auto takes "
            f"what there is), or install a torch build and a driver for {kind.upper()}"
        )
    return name


def own_fuser(make: Any, name: str) -> nn.Module:
    """An instance of a user's own class, named by module:Class."""
    fuser = make() if isinstance(make, type) and issubclass(make, nn.Module) and not required(make) else None
    if fuser is None:
        raise UserError(f"system '{name}' must be a torch.nn.Module class that needs no arguments, got {make!r}")
    return fuser


def required(make: type) -> list[str]:
    """Names of the constructor's arguments that have no default."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(make).parameters.items()
    return [name for name, p in parameters if p.default is p.empty and p.kind not in kinds]


def default_weights(system: str) -> str | None:
    """Name of the packaged set a system uses when none is given."""
    entry = resolve(SYSTEMS, system, noun="system")
    return getattr(entry, "weights", None)


def cards() -> dict[str, dict[str, Any]]:
    """The cards of all packaged sets by name."""
    found: dict[str, dict[str, Any]] = json.loads((FOLDER / "cards.json").read_text(encoding="utf-8"))
    return found


def find(weights: str | Path) -> tuple[Path, dict[str, Any] | None]:
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


def read(path: Path, card: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file; with a card, only if its SHA-256 is the card's."""
    if path.suffix in (".pt", ".pth", ".ckpt"):
        raise UserError(
            f"{path} is a PyTorch checkpoint, not safetensors; convert it first: tectum weights convert {path}"
        )
    if card is not None and hashlib.sha256(path.read_bytes()).hexdigest() != card["sha256"]:
        raise UserError(f"{path.name} is not the file its card describes (SHA-256 differs); install tectum again")
    return read_tensors(path)


def save(state: dict[str, Tensor], path: Path) -> str:
    """Write tensors as safetensors and return the file's SHA-256."""
    write_tensors(path, state)
    return hashlib.sha256(path.read_bytes()).hexdigest()


TDFUSION_KEYS = {
    "project_in_1": "embed_infrared",
    "project_in_2": "embed_visible",
    "encoder1": "encoder_infrared",
    "encoder2": "encoder_visible",
    "project_out_0": "output_hidden",
    "project_out_1": "output",
    "FM.project_E": "fusion.gates",
    "FM.project_E_d": "fusion.gates_dwconv",
} | {
    f"FM.{published.format(i)}": f"fusion.{stream}.{ours}"
    for i, stream in ((1, "infrared"), (2, "visible"))
    for published, ours in (
        ("temperature{}", "temperature"),
        ("qkv{}", "qkv"),
        ("qkv{}_dwconv", "qkv_dwconv"),
        ("project_mid{}", "project_mid"),
        ("project_E{}", "expand"),
        ("project_E{}_d", "expand_dwconv"),
        ("project_out{}", "project_out"),
    )
}
"""Published module names -> ours. The published network's first input is the infrared image."""


def from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published ReFusion/TDFusion state under our names.

    Each published convolution is stored twice, as `X.weight` and `X.conv.weight`; the first is taken.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(".conv.weight") and name.removesuffix("conv.weight") + "weight" in state:
            continue
        name = name.removeprefix("module.").replace(".body.", ".")
        prefix = max((p for p in TDFUSION_KEYS if name == p or name.startswith(p + ".")), key=len, default=None)
        out[name if prefix is None else TDFUSION_KEYS[prefix] + name.removeprefix(prefix)] = value.float()
    return out


def read_checkpoint(path: Path) -> Any:
    """What a .npz, .pth, .pt or .ckpt file holds, read without running anything in it.

    Raises:
        ValueError: the file is damaged, or can only be read by running code in it.
    """
    try:
        if path.suffix == ".npz":
            import numpy as np

            with path.open("rb") as file, np.load(file) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle, numpy and torch each raise their own
        raise UserError(
            f"{path} must be a checkpoint that can be read without running code in it, but {type(error).__name__}; "
            "download it again, or save its state dict alone with torch.save"
        ) from error


def state_dicts(content: Any) -> list[dict[str, Tensor]]:
    """All {name: tensor} dicts in nested dicts, outermost first."""
    if not isinstance(content, dict):
        return []
    tensors = {name: x for name, x in content.items() if isinstance(name, str) and isinstance(x, Tensor)}
    return ([tensors] if tensors else []) + [s for x in content.values() for s in state_dicts(x)]


def convert(source: Path, target: Path) -> int:
    """Turn a user's own copy of the authors' TDFusion/ReFusion checkpoint into a safetensors file for `tdfusion`.

    Accepts .pth / .pt / .ckpt (read with `weights_only=True`, on the CPU) and .npz under the published key names; a
    state dict may sit under one key of a dict. Returns the number of parameters written.

    Raises:
        ValueError: not a checkpoint, or of another network.
    """
    if not source.is_file():
        raise FileNotFoundError(f"a checkpoint must be a file, and {source} is none; check the path")
    if target.suffix != ".safetensors":
        raise UserError(f"converted weights are written as .safetensors, got {target.name}; rename the output")
    states = state_dicts(read_checkpoint(source))
    if not states:
        raise UserError(f"{source} holds no state dict; give the checkpoint of the fusion network")
    converted = from_published(next((s for s in states if any("project_in_1" in name for name in s)), states[0]))
    fuser = resolve(SYSTEMS, "tdfusion", noun="system").fuser()
    load_state(fuser, converted, source, advice=ADVICE)
    target.parent.mkdir(parents=True, exist_ok=True)
    save(converted, target)
    return sum(x.numel() for x in converted.values())
