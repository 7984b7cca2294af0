"""The processes that train together under ``torchrun``: some share a batch, some share each field, and weights may be dealt out.

P processes form a table of P/d rows of d (`Distributed.domain`). Rows have their own samples of every batch; the processes of a row
have the same samples, and each holds a block of every field (`opkernels.distributed`). With l_p the loss of the samples of a row, w_p
their share of the batch, and a backward pass that gives every process the part of its block,

    gradient of the batch's mean loss = sum over rows of w_p (sum over the row of parts) = mean over P processes of P w_p part,

so weights are averaged over all processes alike, by DDP while the backward pass still runs, or by FSDP2, after which every process
holds 1/P of the weights, of their gradients and of the optimizer's state. Either way the steps are those of one process, to rounding.

A process that ends takes the others along: whoever waits for it gets a `ConnectionError` that says how to go on, and ``torchrun``
stops the rest, or begins again with ``--max-restarts``.

References
----------
Li et al., PyTorch Distributed, VLDB 2020, arXiv 2006.15704; Zhao et al., PyTorch FSDP, VLDB 2023, arXiv 2304.11277.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from opkernels.domains import Whole
from opkernels.training.options import Distributed
from opkernels.training.sharding import shard

__all__ = ["Group", "join", "usable_device"]

_PATIENCE = timedelta(minutes=10)  # for a process that hangs; one that ends is noticed at once


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
    split : Whole
        How the processes of a row hold a field.
    sharded : bool
        Whether weights are dealt out over the processes.
    """

    rank: int
    size: int
    device: torch.device
    owner: bool = False
    split: Whole = Whole()  # noqa: RUF009 it has no state
    sharded: bool = False

    @property
    def row(self) -> int:
        """The row of this process: those with its samples."""
        return self.rank // self.split.size

    @property
    def rows(self) -> int:
        """Number of rows, which share a batch."""
        return self.size // self.split.size

    def share(self, n: int) -> slice:
        """Return this row's part of n examples; every row gets at least one, if need be one of another's."""
        low, high = self.row * n // self.rows, (self.row + 1) * n // self.rows
        return slice(low, high) if high > low else slice(min(low, n - 1), min(low, n - 1) + 1)

    def weight(self, n: int) -> float:
        """Return the part of the global batch that `share` counts for: 0 where it is another's example."""
        return ((self.row + 1) * n // self.rows - self.row * n // self.rows) / n

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the rows, of values on which the processes of a row agree."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.split.size
        return values

    def any(self, condition: bool) -> bool:
        """Return whether the condition holds on any process."""
        return bool(self.total(torch.tensor(float(condition), device=self.device)))

    def wrap(self, step: nn.Module) -> nn.Module:
        """Return a module whose backward pass leaves the mean of all processes' gradients, of the weights of the first process."""
        if self.size == 1:
            return step
        if not self.sharded:
            # static_graph: weights that a model does not use, or uses several times, are learned in the first step
            return nn.parallel.DistributedDataParallel(step, gradient_as_bucket_view=True, static_graph=True)
        for tensor in (*step.parameters(), *step.buffers()):
            dist.broadcast(tensor.data, src=0)
        return shard(step, self.device)

    def wait(self) -> None:
        """Wait for the others (while the first writes files)."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def together(self, folder: Path | None) -> Iterator[None]:
        """Tell in one sentence that another process ended while this one waited for it."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_lost(error):
                raise
            kept = f"the last checkpoint in {folder} stays; start all processes again with --resume" if folder else "start all again"
            told = f"process {self.rank} of {self.size} lost another one, which ended or hangs (its own message says why): {kept}"
            raise ConnectionError(told) from error

    def leave(self) -> None:
        """End the process group if it was begun here; not where a process was lost, for which this could wait."""
        if self.owner and not isinstance(sys.exc_info()[1], ConnectionError):
            gc.collect()  # what still refers to the group would end it at a bad moment; see `fit`
            dist.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    """Return whether an error means that another process is gone: gloo has no kind of its own for that."""
    told = str(error).lower()
    signs = ("connection closed", "connection reset", "broken pipe", "timed out", "timeout", "remote process", "socket")
    return isinstance(error, dist.DistError) or any(sign in told for sign in signs)


def join(device: str | torch.device | None = None, distributed: Distributed = Distributed()) -> Group:  # noqa: B008 frozen
    """Return the processes started by ``torchrun`` (or those of a group that exists), or this process alone.

    Parameters
    ----------
    device : device, optional
        By default CUDA where there is one (each process its own), else the CPU.
    distributed : Distributed
        What they share; one process alone has everything.

    Raises
    ------
    ValueError
        If the device is unknown or absent, or the processes do not fill whole rows.
    """
    chosen = usable_device(device)
    if not dist.is_available():
        return Group(0, 1, chosen)
    owner = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if owner:
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Group(0, 1, chosen)
    rank, size = dist.get_rank(), dist.get_world_size()
    try:
        return Group(rank, size, chosen, owner, _split(distributed.domain, size, chosen), distributed.sharded)
    except ValueError:
        if owner:
            dist.destroy_process_group()
        raise


def _split(domain: int, size: int, device: torch.device) -> Whole:
    if size % domain:
        raise ValueError(f"got distributed.domain={domain} for {size} processes; start a multiple of it with torchrun --nproc-per-node")
    if domain == 1:
        return Whole()
    from opkernels.distributed import Split, process_mesh

    return Split(process_mesh(domain=domain, device=device))


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return a device by its name, by default CUDA where there is one (this process's own); refuse one that this machine lacks."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None:
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use the device {str(device)!r} ({str(error).splitlines()[0]}); this machine may lack it") from error
    return torch.device("cuda", local) if chosen.type == "cuda" and chosen.index is None else chosen
