"""`tectum.fuse`: the Python call for one pair of files, arrays, tensors or PIL images."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tectum.errors import UserError
from tectum.fusion.options import FuseOptions
from tectum.fusion.pipeline import Array, FusePipeline, Output, Source, check_choice, check_number
from tectum.options import takes_options


@takes_options(FuseOptions)
def fuse(
    visible: Source | Sequence[Source],
    infrared: Source | None = None,
    *,
    output: Output = "colour",
    bits: int = 8,
    **options: Any,
) -> Array | Tensor:
    """Fuse one pair; the same pixels as `tectum fuse`. For many pairs load once: `FusePipeline`.

    Args:
        visible, infrared: each a file, a PIL image, a numpy array (H,W[,C]) or a torch tensor ([B,]C,H,W), RGB or grey.
            Of another kind the first and the second image of the pair; or one list of two or more exposures or foci.
        output: "colour" keeps the sources' chroma, "grey" is the fused luminance alone.
        bits: 8 or 16, of the array returned.
        options: fields of `FuseOptions`. The system may also be a torch.nn.Module of your own,
            `fuser(a, b) -> fused`, which stays on its device.

    Returns:
        An array of uint8 or uint16: (H,W,3) RGB, (H,W) where the result is grey, (H,W,4) where the visible has alpha.
        If the visible is a tensor: a float32 tensor in [0,1] of that layout with channels first, on its device.

    Raises:
        UserError, FileNotFoundError: one sentence on what is wrong with the pair or the options.

    Outside the infrared's view the visible is kept. A UserWarning says when the two look swapped.

    >>> import numpy as np
    >>> night, heat = np.full((4, 6, 3), (60, 20, 20), np.uint8), np.full((4, 6), 128, np.uint8)
    >>> fuse(night, heat, system="average").shape
    (4, 6, 3)
    >>> fuse([night, heat, night], kind="exposure", system="average").shape
    (4, 6, 3)
    """
    check_choice("output", output, ("colour", "grey"))
    check_choice("bits", bits, (8, 16))
    fuser = options.pop("system") if isinstance(options.get("system"), nn.Module) else None
    pipeline = FusePipeline(FuseOptions(**options), fuser=fuser)
    sources = _list_sources(visible, infrared)
    check_number(pipeline.kind, len(sources))
    batches = [source for source in sources if isinstance(source, Tensor) and source.ndim == 4]
    if len(batches) < len(sources):
        return _fuse_scene(pipeline, sources, output, bits)
    subject = " and ".join(pipeline.kind.words) if len(sources) == 2 else "all images"
    lengths = [len(batch) for batch in batches]
    if len(set(lengths)) > 1:
        raise UserError(f"{subject} must hold one batch, got {' and '.join(map(str, lengths))} images")
    if lengths[0] == 0:
        raise UserError(f"{subject} must hold at least one image, got empty batches")
    fused = [torch.as_tensor(_fuse_scene(pipeline, scene, output, bits)) for scene in zip(*batches, strict=True)]
    channels = max(len(x) for x in fused)  # one grey picture among coloured ones has 1 instead of 3
    return torch.stack([x if len(x) == channels else x.expand(channels, -1, -1) for x in fused])


def _list_sources(visible: Source | Sequence[Source], infrared: Source | None) -> tuple[Source, ...]:
    """The images of a scene: two by themselves, or one list."""
    if isinstance(visible, list | tuple):
        if infrared is not None:
            raise UserError("images must be given as two, or as one list, got a list and another image; put all in it")
        return tuple(visible)
    if infrared is None:
        raise UserError("two images must be given, got one; add the other")
    return visible, infrared  # type: ignore[return-value]


def _fuse_scene(pipeline: FusePipeline, sources: Sequence[Source], output: Output, bits: int) -> Array | Tensor:
    fused = pipeline(*pipeline.read(*sources))
    for warning in fused.warnings:
        warnings.warn(warning, UserWarning, stacklevel=3)
    if isinstance(sources[0], Tensor):
        return fused.tensor(output).to(sources[0].device)
    return fused.array(output, bits=bits)
