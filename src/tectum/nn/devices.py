"""Device that a network runs on, by name."""

import torch

from tectum.errors import UserError


def find_device(device: str | torch.device) -> str:
    """Returns the name of the device to use: "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: the device asked for is not there.

    >>> find_device("cpu"), find_device(torch.device("cpu"))
    ('cpu', 'cpu')
    """
    name = str(device)
    family, _, index = name.partition(":")
    known = ("auto", "cpu", "cuda", "mps")
    if family not in known:
        raise UserError(f"device must be one of {', '.join(known)}, got {name!r}")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(name for name, is_there in available.items() if is_there)
    if index and not (index.isdigit() and (family != "cuda" or int(index) < torch.cuda.device_count())):
        raise UserError(f"device {name} must be one of {torch.cuda.device_count()} CUDA devices, counted from 0")
    if not available[family]:
        raise UserError(
            f"device {name} was asked for, and torch {torch.__version__} finds none; leave out --device (auto takes "
            f"what there is), or install a torch build and a driver for {family.upper()}"
        )
    return name
