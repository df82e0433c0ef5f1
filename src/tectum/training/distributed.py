"""One run on several devices: every process takes its part of each batch, and what they find is averaged.

    Ranks()                                 one process
    Ranks(devices=2)                        this command starts a second process (or `torchrun` has started them)

Losses are means over a batch, so the mean of the processes' gradients is the gradient of the whole batch: the same
command gives the same result on one device and on many, up to rounding. Exceptions: networks with batch normalisation,
whose statistics are those of each process's part, and dropout, whose draws differ.
Gradients are averaged by hand, because `torch.autograd.grad` and forward mode bypass a wrapper's synchronisation.
"""

import atexit
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tectum.errors import UserError

PRECISIONS = ("32-true", "bf16-mixed")


class Ranks:
    """The processes of a run, as seen from one of them.

    Args:
        devices: how many; `torchrun` overrides it.
        accelerator: "cpu", "cuda", "mps" or "auto".
        precision: of the forward passes: "32-true", or "bf16-mixed" on a GPU.

    Raises:
        ValueError: Lightning Fabric is needed and not installed, or there are not so many devices.
    """

    def __init__(
        self, devices: int = 1, *, nodes: int = 1, accelerator: str = "cpu", precision: str = "32-true"
    ) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"precision must be {' or '.join(PRECISIONS)}, got {precision!r}")
        if devices < 1 or nodes < 1:
            raise UserError(f"devices must be 1 or more, got {min(devices, nodes)}; leave it out for one")
        if accelerator == "cuda" and devices > torch.cuda.device_count():
            raise UserError(f"there are {torch.cuda.device_count()} GPUs here, got --devices {devices}; ask for fewer")
        self.world, self.rank, self.fabric = 1, 0, None
        started = int(os.environ.get("WORLD_SIZE", "1"))  # by torchrun
        if started > 1:
            devices = int(os.environ.get("LOCAL_WORLD_SIZE", started))
            nodes = started // devices
        if devices * nodes > 1 or precision != "32-true":
            try:
                from lightning_fabric import Fabric
            except ImportError as error:
                raise UserError(
                    "several devices and mixed precision need Lightning Fabric: pip install 'tectum[train]'"
                ) from error
            fabric: Any = Fabric(
                accelerator=accelerator,
                devices=devices,
                num_nodes=nodes,
                strategy="ddp" if devices * nodes > 1 else "auto",
                precision=precision,  # type: ignore[arg-type]
            )
            fabric.launch()
            atexit.register(end_group)
            self.fabric, self.world, self.rank = fabric, fabric.world_size, fabric.global_rank

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def device(self) -> str | None:
        """The device of this process, or None for the one that was asked for."""
        return None if self.fabric is None else str(self.fabric.device)

    def share(self, batch: int) -> slice:
        """This process's part of a batch.

        Raises:
            ValueError: the batch does not divide evenly.
        """
        if batch % self.world:
            raise UserError(
                f"a batch must divide evenly over the processes, got {batch} for {self.world}; change --batch or "
                "--task-batch"
            )
        part = batch // self.world
        return slice(self.rank * part, (self.rank + 1) * part)

    def mean(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean over the processes, in one transfer."""
        if self.fabric is None or self.world == 1 or not found:
            return dict(found)
        flat = torch.cat([x.detach().reshape(-1) for x in found.values()])
        flat = self.fabric.all_reduce(flat, reduce_op="mean")
        parts = flat.split([x.numel() for x in found.values()])
        return {name: part.view_as(x) for (name, x), part in zip(found.items(), parts, strict=True)}

    def mean_numbers(self, found: Mapping[str, float]) -> dict[str, float]:
        """The same of plain numbers."""
        if self.world == 1:
            return dict(found)
        tensors = {name: torch.tensor(x, dtype=torch.float64, device=self.device) for name, x in found.items()}
        return {name: float(x) for name, x in self.mean(tensors).items()}

    def mean_gradients(self, module: nn.Module) -> None:
        """Average the gradients of a module in place."""
        if self.world > 1:
            own = {name: p for name, p in module.named_parameters() if p.requires_grad}
            found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in own.items()}
            for name, grad in self.mean(found).items():
                own[name].grad = grad

    def same(self, module: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.fabric is not None and self.world > 1:
            with torch.no_grad():
                for x in module.state_dict().values():
                    x.copy_(self.fabric.broadcast(x, src=0))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.fabric is not None:
            self.fabric.barrier()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        return nullcontext() if self.fabric is None else self.fabric.autocast()


def end_group() -> None:
    """Join the group's threads while Python still runs: one that frees a tensor later aborts the whole process."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
