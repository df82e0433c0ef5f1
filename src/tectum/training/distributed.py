"""Distributed training: every process takes its part of each batch, and gradients are averaged.

    World()                                 one process
    World(devices=2)                        this command starts a second process (or `torchrun` has started them)

Losses are means over a batch, so the mean of the processes' gradients is the gradient of the whole batch: the same
command gives the same result on one device and on many, up to rounding; crops and mixtures are drawn by step and image.
Exceptions: networks with batch normalisation, whose statistics are those of each process's part, and dropout,
whose draws differ.
Gradients are averaged by hand, because `torch.autograd.grad` and forward mode bypass a wrapper's synchronisation.
"""

import atexit
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tectum.errors import UserError

T = TypeVar("T")
_PRECISIONS = ("32-true", "bf16-mixed")


class World:
    """The processes of a distributed run, as seen from one of them: `size` processes, this one has number `rank`.

    Args:
        devices: number of devices; `torchrun` overrides it, also the number of machines.
        accelerator: "cpu", "cuda", "mps" or "auto".
        precision: of the forward passes: "32-true", or "bf16-mixed" on a GPU.

    Raises:
        UserError: Lightning Fabric is needed and not installed, or there are not so many devices.
    """

    def __init__(self, devices: int = 1, *, accelerator: str = "cpu", precision: str = "32-true") -> None:
        if precision not in _PRECISIONS:
            raise UserError(f"precision must be {' or '.join(_PRECISIONS)}, got {precision!r}")
        if devices < 1:
            raise UserError(f"devices must be 1 or more, got {devices}; leave it out for one")
        if accelerator == "cuda" and devices > torch.cuda.device_count():
            raise UserError(f"there are {torch.cuda.device_count()} GPUs here, got --devices {devices}; ask for fewer")
        self.size, self.rank, self.precision, self._fabric = 1, 0, precision, None
        nodes, started = 1, int(os.environ.get("WORLD_SIZE", "1"))  # by torchrun
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
            atexit.register(_end_process_group)
            self._fabric, self.size, self.rank = fabric, fabric.world_size, fabric.global_rank

    @property
    def is_main(self) -> bool:
        """True for the process that writes the files."""
        return self.rank == 0

    @property
    def device(self) -> str | None:
        """The device of this process; None for one process without Fabric."""
        return None if self._fabric is None else str(self._fabric.device)

    def local_part(self, batch: int) -> slice:
        """Returns this process's part of a batch of that size.

        Raises:
            UserError: the batch does not divide evenly.
        """
        if batch % self.size:
            raise UserError(
                f"a batch must divide evenly over the processes, got {batch} for {self.size}; change --batch or "
                "--task-batch"
            )
        part = batch // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def average(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the mean of tensors by name over the processes, in one transfer."""
        if self._fabric is None or self.size == 1 or not tensors:
            return dict(tensors)
        flat = torch.cat([x.detach().reshape(-1) for x in tensors.values()])
        flat = self._fabric.all_reduce(flat, reduce_op="mean")
        parts = flat.split([x.numel() for x in tensors.values()])
        return {name: part.view_as(x) for (name, x), part in zip(tensors.items(), parts, strict=True)}

    def average_numbers(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Returns the mean of numbers by name over the processes."""
        if self.size == 1:
            return dict(numbers)
        tensors = {name: torch.tensor(x, dtype=torch.float64, device=self.device) for name, x in numbers.items()}
        return {name: float(x) for name, x in self.average(tensors).items()}

    def average_gradients(self, module: nn.Module) -> None:
        """Average the gradients of a module over the processes, in place."""
        if self.size > 1:
            parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
            gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}
            for name, gradient in self.average(gradients).items():
                parameters[name].grad = gradient

    def broadcast(self, module: nn.Module) -> None:
        """Give the first process's parameters and buffers of a module to all."""
        if self._fabric is not None and self.size > 1:
            with torch.no_grad():
                for x in module.state_dict().values():
                    x.copy_(self._fabric.broadcast(x, src=0))

    def on_main(self, function: Callable[[], T]) -> T:
        """Call a function in the main process alone, while the others wait; all return what it returns.

        What it raises is raised in the main process; the others end in silence, with exit code 2.
        """
        if self.size == 1 or self._fabric is None:
            return function()
        try:
            outcome: tuple[T] | None = (function(),) if self.is_main else None
        except Exception:
            self._fabric.broadcast(None, src=0)
            raise
        outcome = self._fabric.broadcast(outcome, src=0)
        if outcome is None:
            raise SystemExit(2)
        return outcome[0]

    def autocast(self) -> AbstractContextManager[Any]:
        """A context with the precision of forward passes."""
        return nullcontext() if self._fabric is None else self._fabric.autocast()


def _end_process_group() -> None:
    """Join the group's threads while Python still runs: one that frees a tensor later aborts the whole process."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
