"""Halo exchange: a block of a field with the samples of its neighbors around it, and the adjoint.

The block of rank r of P is the samples r n/P .. (r + 1) n/P of an axis (rounded down), so blocks differ by at most one sample. A halo
of width w is w more samples on either side: of the next block, of as many blocks as it takes, and around the end of a periodic axis as
often as it takes. Beyond walls there are none. Axis after axis, each with the halo of those before it, gives the corners too.

Every process knows what every other one lacks, so that one exchange is enough and no process asks. Its gradient is the exchange the
other way, added to the samples the halo came from.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from opkernels.distributed.collectives import eager, exchange

__all__ = ["Part", "block_sizes", "folded", "moved", "surrounded"]


@dataclass(frozen=True)
class Part:
    """The share of this process in one axis: its rank among the `size` processes of a group."""

    axis: int
    group: dist.ProcessGroup
    rank: int
    size: int

    def block(self, n: int) -> tuple[int, int]:
        """Return the first of n samples held here, and their number."""
        low, high = _bounds(n, self.size, self.rank)
        return low, high - low

    def narrow(self, x: Tensor, dim: int) -> Tensor:
        """Return the block of the whole axis `dim` of x."""
        return x.narrow(dim, *self.block(x.shape[dim]))


def block_sizes(n: int, size: int) -> list[int]:
    """Return the numbers of samples of the blocks of an axis.

    Examples
    --------
    >>> block_sizes(65, 4)
    [16, 16, 16, 17]
    """
    return [high - low for low, high in (_bounds(n, size, rank) for rank in range(size))]


@eager
def surrounded(x: Tensor, dim: int, width: int, n: int, part: Part, *, periodic: bool) -> Tensor:
    """Return the block x with up to `width` samples of the others on each side of `dim`; the whole axis has n."""
    plan = _plan(n, part.size, part.rank, width, periodic, x.device)
    rows = x.movedim(dim, 0)
    entries = rows[0].numel()
    came = exchange(
        rows.index_select(0, plan.send).flatten(), [k * entries for k in plan.sent], [k * entries for k in plan.received], part.group
    )
    halo = came.unflatten(0, (-1, *rows.shape[1:])).index_select(0, plan.order)
    return torch.cat([halo[: plan.before], rows, halo[plan.before :]]).movedim(0, dim)


@eager
def folded(y: Tensor, dim: int, width: int, n: int, part: Part, *, periodic: bool) -> Tensor:
    """Return the block of y without its halo, and with what the halos of the others hold of it added: the adjoint of `surrounded`."""
    plan = _plan(n, part.size, part.rank, width, periodic, y.device)
    rows = y.movedim(dim, 0)
    held = rows.shape[0] - len(plan.order)
    halo = torch.cat([rows[: plan.before], rows[plan.before + held :]])
    entries = rows[0].numel()
    leaving = torch.empty_like(halo).index_copy(0, plan.order, halo).flatten()
    came = exchange(leaving, [k * entries for k in plan.received], [k * entries for k in plan.sent], part.group)
    core = rows[plan.before : plan.before + held]
    return core.index_add(0, plan.send, came.unflatten(0, (-1, *rows.shape[1:]))).movedim(0, dim)


@eager
def moved(x: Tensor, source: int, target: int, n: int, part: Part) -> Tensor:
    """Return x, held in blocks of dimension `source` (n in the whole), in blocks of dimension `target` instead."""
    pieces = x.split(block_sizes(x.shape[target], part.size), target)
    shapes = [list(pieces[part.rank].shape) for _ in range(part.size)]
    for shape, k in zip(shapes, block_sizes(n, part.size), strict=True):
        shape[source] = k
    received = [torch.Size(shape).numel() for shape in shapes]
    came = exchange(torch.cat([p.reshape(-1) for p in pieces]), [p.numel() for p in pieces], received, part.group)
    return torch.cat([values.view(shape) for values, shape in zip(came.split(received), shapes, strict=True)], source)


@dataclass(frozen=True)
class _Plan:
    """What goes where: rows to send, how many to and from each rank, and the order of those received; `before` are the lower ones."""

    send: Tensor
    sent: list[int]
    received: list[int]
    order: Tensor
    before: int


@functools.lru_cache(maxsize=256)
def _plan(n: int, size: int, rank: int, width: int, periodic: bool, device: torch.device) -> _Plan:
    low, high = _bounds(n, size, rank)
    send = [[i - low for side in _lacking(n, size, r, width, periodic) for i in side if low <= i < high] for r in range(size)]
    lower, upper = _lacking(n, size, rank, width, periodic)
    owners = [_owner(n, size, i) for i in lower + upper]
    arrival = sorted(range(len(owners)), key=lambda j: (owners[j], j))  # as they come: rank after rank, in order
    order = sorted(range(len(owners)), key=lambda j: arrival[j])
    with torch.inference_mode(False):
        tensors = [torch.tensor(rows, dtype=torch.int64, device=device) for rows in (sum(send, []), order)]
    return _Plan(tensors[0], [len(rows) for rows in send], [owners.count(r) for r in range(size)], tensors[1], len(lower))


def _lacking(n: int, size: int, rank: int, width: int, periodic: bool) -> tuple[list[int], list[int]]:
    """Return the numbers in the whole of the samples below and above a block."""
    low, high = _bounds(n, size, rank)
    sides = range(low - width, low), range(high, high + width)
    lower, upper = ([i % n for i in side] if periodic else [i for i in side if 0 <= i < n] for side in sides)
    return lower, upper


def _bounds(n: int, size: int, rank: int) -> tuple[int, int]:
    return rank * n // size, (rank + 1) * n // size


def _owner(n: int, size: int, i: int) -> int:
    """Return the rank whose block has sample i: the largest r with r n // size <= i."""
    return (size * (i + 1) - 1) // n
