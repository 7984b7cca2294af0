"""Whole fields and their blocks: `scatter` and `gather`.

Meant for small fields, for tests and for results; a field too large for one process is read block by block
(``grid.split.sizes`` and ``grid.coordinates`` say which).
"""

from __future__ import annotations

import torch
from torch import Tensor

from opkernels.distributed import collectives
from opkernels.distributed.halo import Part, block_sizes
from opkernels.domains import Grid

__all__ = ["gather", "scatter"]


def scatter(x: Tensor, grid: Grid) -> Tensor:
    """Return the block of this process, (..., *grid.sizes), of a field (..., *grid.shape) that all have.

    The gradient is that of the whole field, on every process.
    """
    if tuple(x.shape[-grid.ndim :]) != grid.shape:
        raise ValueError(f"scatter got a field of shape {tuple(x.shape)}; expected its last axes to be those of the whole, {grid.shape}")
    for part in grid.split.parts:
        x = _Cut.apply(x, part.axis - grid.ndim, part)
    return x


def gather(x: Tensor, grid: Grid) -> Tensor:
    """Return the whole field, (..., *grid.shape), on every process, from the blocks (..., *grid.sizes).

    What follows is the same on every process, and so is its gradient, of which each takes its block.
    """
    if tuple(x.shape[-grid.ndim :]) != grid.sizes:
        raise ValueError(f"gather got a block of shape {tuple(x.shape)}; expected its last axes to be those held here, {grid.sizes}")
    for part in grid.split.parts:
        x = collectives.gathered(x, part.axis - grid.ndim, block_sizes(grid.shape[part.axis], part.size), part.group)
    return x


class _Cut(torch.autograd.Function):
    """A block of a tensor that all processes have; the gradient is gathered."""

    @staticmethod
    def forward(ctx, x: Tensor, dim: int, part: Part):
        ctx.dim, ctx.part, ctx.n = dim, part, x.shape[dim]
        return part.narrow(x, dim).clone()

    @staticmethod
    def backward(ctx, *grads):
        part = ctx.part
        return collectives.gathered(grads[0], ctx.dim, block_sizes(ctx.n, part.size), part.group), None, None
