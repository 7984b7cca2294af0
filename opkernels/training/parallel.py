"""Data-parallel training under ``torchrun``: every process takes a share of each global batch, gradients are averaged.

The averaged gradient is that of the global batch (shares are weighted by their sizes), so two
processes take the steps of one, to rounding. Weights stay equal because every process applies the
same step to the same weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Group", "join"]


@dataclass(frozen=True)
class Group:
    """The processes that train together.

    Parameters
    ----------
    rank, size : int
        This process, and how many there are.
    device : torch.device
        Where this process computes.
    owner : bool
        Whether `leave` ends the process group, because `join` began it.
    """

    rank: int
    size: int
    device: torch.device
    owner: bool = False

    def share(self, n: int) -> slice:
        """Return this process's part of n examples; every process gets at least one, if need be one of another's."""
        low, high = self.rank * n // self.size, (self.rank + 1) * n // self.size
        return slice(low, high) if high > low else slice(min(low, n - 1), min(low, n - 1) + 1)

    def weight(self, n: int) -> float:
        """Return the part of the global batch that `share` counts for: 0 where it is another's example."""
        return ((self.rank + 1) * n // self.size - self.rank * n // self.size) / n

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over the processes, in one message; each was computed for a loss times its `weight`."""
        if self.size == 1:
            return
        gradients = [torch.view_as_real(p.grad) if p.grad.is_complex() else p.grad for p in parameters if p.grad is not None]
        for kind in {g.dtype for g in gradients}:
            same = [g for g in gradients if g.dtype == kind]
            flat = torch.cat([g.reshape(-1) for g in same])
            dist.all_reduce(flat)
            for g, part in zip(same, flat.split([g.numel() for g in same]), strict=True):
                g.copy_(part.view_as(g))

    def copy_from_first(self, model: nn.Module) -> None:
        """Give every process the weights of the first."""
        if self.size > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(torch.view_as_real(tensor.data) if tensor.is_complex() else tensor.data, src=0)

    def wait(self) -> None:
        """Wait for the others (while the first writes files)."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the process group if it was begun here."""
        if self.owner:
            dist.destroy_process_group()


def join(device: str | torch.device | None = None) -> Group:
    """Return the processes started by ``torchrun`` (or those of a group that exists), or this process alone.

    Parameters
    ----------
    device : device, optional
        By default CUDA where there is one (each process its own), else the CPU.

    Raises
    ------
    ValueError
        If the device is unknown or absent.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None:
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use the device {str(device)!r} ({str(error).splitlines()[0]}); this machine may lack it") from error
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", local)
    if not dist.is_available():
        return Group(0, 1, chosen)
    owner = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if owner:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    if not dist.is_initialized():
        return Group(0, 1, chosen)
    return Group(dist.get_rank(), dist.get_world_size(), chosen, owner)
