"""How a field is held that is not split over processes: what layers ask ``grid.split``, answered by one process that has it all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Whole"]


class Whole:
    """How a field is held that is not split: all of it, by this process.

    `opkernels.distributed.Split` offers the same for a field of which every process holds a block. Layers and metrics ask
    ``grid.split`` wherever a sample needs another, and so never know which of the two they have. `a` is the number of a spatial
    axis, n its samples in the whole; fields are (B, C, *spatial).
    """

    parts: tuple[Any, ...] = ()  # the shares of this process in the axes that are split

    @property
    def size(self) -> int:
        """Number of processes that share the field."""
        return 1

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the samples per axis that are held here, of `shape`."""
        return shape

    def first(self, a: int, n: int) -> int:
        """Return the number in the whole of the first sample of axis `a` held here."""
        return 0

    def beyond(self, a: int, width: int, n: int) -> tuple[int, int]:
        """Return how many of the `width` samples next to those held here, on either side of axis `a`, would lie beyond its ends."""
        return width, width

    def cut(self, values: Tensor, dim: int, a: int) -> Tensor:
        """Return the part of `values` held here, whose `dim` counts the samples of axis `a`."""
        return values

    def spread(self, values: Tensor, dim: int, a: int, n: int) -> Tensor:
        """Return `values` with zeros for the samples of axis `a` held elsewhere: the adjoint of `cut`."""
        return values

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the processes, on all of them, for further work on the field."""
        return values

    def joined(self, values: Tensor) -> Tensor:
        """Return the values of all processes, (size, ...), for a result that all have in common."""
        return values[None]

    def surrounded(self, x: Tensor, a: int, width: int, n: int, *, periodic: bool) -> Tensor:
        """Return x with `width` samples more on each side of axis `a`; beyond walls there are none."""
        dim, held = a + 2, x.shape[a + 2]
        return torch.cat([x.narrow(dim, held - width, width), x, x.narrow(dim, 0, width)], dim) if periodic else x

    def folded(self, y: Tensor, a: int, width: int, n: int, *, periodic: bool) -> Tensor:
        """Return y without the samples that `surrounded` adds, which are added to those they came from: its adjoint."""
        if not periodic or not width:
            return y
        origin = torch.arange(-width, n + width, device=y.device).remainder(n)
        shape = [n if dim == a + 2 else size for dim, size in enumerate(y.shape)]
        return y.new_zeros(shape).index_add(a + 2, origin, y)

    def along(self, function: Callable[[Tensor], Tensor], x: Tensor, a: int, n: int) -> Tensor:
        """Apply a function that needs the whole of axis `a` (n samples, of which it may make another number) and treats channels alike."""
        return function(x)

    def rfftn(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the transform over the spatial axes; `shape` as for ``torch.fft.rfftn``."""
        return torch.fft.rfftn(x.contiguous(), s=shape, dim=tuple(range(-len(shape), 0)))

    def irfftn(self, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the inverse of `rfftn`."""
        return torch.fft.irfftn(z, s=shape, dim=tuple(range(-len(shape), 0)))

    def wave_cut(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the part of a table (..., *wave numbers) that belongs to the coefficients `rfftn` leaves here."""
        return values

    def line(self, a: int) -> Whole:
        """Return how one axis alone is held."""
        return self
