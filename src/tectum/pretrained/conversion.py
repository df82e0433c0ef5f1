"""Conversion of a user's own checkpoint into a safetensors file of ours.

PyTorch files are read with the `weights_only` reader, so that nothing in them is run. Keys are our own names, or, for
the network of TDFusion and ReFusion, the published ones: then the file says in its header that it is of the published
variant, and is run in that whatever variant is asked for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.io.files import load_state, write_tensors
from tectum.pretrained.loading import build_fuser, select_system

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


def convert(source: Path, target: Path, system: str = "tdfusion", *, variant: str | None = None) -> int:
    """Turn a user's own checkpoint of a fuser into a safetensors file.

    Args:
        source: .pth, .pt or .ckpt, or .npz arrays. The state dict may lie inside nested dicts.
        target: the .safetensors file to write.
        system: whose network it is, a key of `tectum.models.SYSTEMS`. Keys must be our names; for `tdfusion` they may
            also be those of the authors' TDFusion and ReFusion files.
        variant: "published" for the network as its authors released it.

    Returns:
        The number of parameters written.

    Raises:
        UserError: not a checkpoint, or of another network.
        FileNotFoundError: no such file.
    """
    if not source.is_file():
        raise FileNotFoundError(f"a checkpoint must be a file, and {source} is none; check the path")
    if target.suffix != ".safetensors":
        raise UserError(f"converted weights are written as .safetensors, got {target.name}; rename the output")
    name, entry = select_system(system, variant)
    fuser = build_fuser(name, entry)
    states = _state_dicts(_read_checkpoint(source))
    if not states:
        raise UserError(f"{source} holds no state dict; give the checkpoint of the fusion network")
    own = fuser.state_dict().keys()
    state = max((_rename_published(state, own) for state in states), key=lambda state: len(own & state.keys()))
    load_state(fuser, state, source, advice="choose the matching --system")
    target.parent.mkdir(parents=True, exist_ok=True)
    released = name == "tdfusion" and any(key not in own for key in _names(states))
    published = released or name.endswith("-published")
    write_tensors(target, state, metadata={"variant": "published"} if published else None)
    return sum(x.numel() for x in state.values())


def _names(states: list[dict[str, Tensor]]) -> set[str]:
    """Names of the tensors that belong to the network, published or ours, without a prefix of several devices."""
    published = tuple(TDFUSION_KEYS)
    names = {name.removeprefix("module.") for state in states for name in state}
    return {name for name in names if name.startswith(published)}


def _rename_published(state: Mapping[str, Tensor], own: Any) -> dict[str, Tensor]:
    """A state under our names, in float32; published names are renamed where the network has what they become."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith(".conv.weight") and key.removesuffix("conv.weight") + "weight" in state:
            continue  # each published convolution is stored twice, as X.weight and X.conv.weight
        name = key.removeprefix("module.")
        if name not in own:
            name = name.replace(".body.", ".")
            prefixes = [prefix for prefix in TDFUSION_KEYS if name == prefix or name.startswith(prefix + ".")]
            if prefixes:
                longest = max(prefixes, key=len)
                name = TDFUSION_KEYS[longest] + name.removeprefix(longest)
        renamed[name if name in own else key.removeprefix("module.")] = value.float()
    return renamed


def _read_checkpoint(path: Path) -> Any:
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


def _state_dicts(content: Any) -> list[dict[str, Tensor]]:
    """All {name: tensor} dicts in nested dicts, outermost first."""
    if not isinstance(content, dict):
        return []
    tensors = {name: x for name, x in content.items() if isinstance(name, str) and isinstance(x, Tensor)}
    return ([tensors] if tensors else []) + [s for x in content.values() for s in _state_dicts(x)]
