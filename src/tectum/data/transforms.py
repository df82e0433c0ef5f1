"""What training does to a pair before a network sees it; the same to both images, from a generator of its own."""

import torch

from tectum.pair import Pair


def random_crop(pair: Pair, size_px: int, generator: torch.Generator) -> Pair:
    """A square window at a random place, mirrored every other time: (1,1,H,W) -> (1,1,size,size).

    Raises:
        ValueError: the image is smaller than the crop.
    """
    height, width = pair.a.shape[2:]
    if min(height, width) < size_px:
        raise ValueError(
            f"crops of {size_px} px need images at least as large, {' '.join(pair.name)} is {width}x{height}; "
            "use --crop-px with a smaller number"
        )
    top = int(torch.randint(height - size_px + 1, (1,), generator=generator))
    left = int(torch.randint(width - size_px + 1, (1,), generator=generator))
    mirrored = bool(torch.randint(2, (1,), generator=generator))
    window = slice(top, top + size_px), slice(left, left + size_px)
    return pair.map(lambda x: x[:, :, *window].flip(3) if mirrored else x[:, :, *window])


def centre_crop(pair: Pair, size_px: int) -> Pair:
    """The middle window of at most size x size pixels."""
    height, width = pair.a.shape[2:]
    top, left = max(0, (height - size_px) // 2), max(0, (width - size_px) // 2)
    return pair.map(lambda x: x[:, :, top : top + size_px, left : left + size_px])
