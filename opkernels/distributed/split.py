"""Fields that are split over processes: which process holds which block, and what layers and losses ask of the others.

A field (B, C, *spatial) is cut along one or more spatial axes; each process holds one block, and batch and channels in full. A grid
that was split, ``split.grid(domain.grid(1024, 1024))``, is still the grid of the whole function; only the tensors are smaller. Models
and losses take it as they take any grid:

    mesh = process_mesh(domain=4)              under torchrun, or one process alone
    grid = Split(mesh).grid(domain.grid(1024, 1024))
    loss = rel_l2(model(scatter(x, grid), grid=grid), scatter(y, grid), grid)

| what is needed    | by                        | how                                        | numbers sent by a process, forward       |
| ----------------- | ------------------------- | ------------------------------------------ | ---------------------------------------- |
| few coefficients  | spectral convolutions     | those of all blocks are summed             | 2 (P - 1)/P x 2 B C prod(m)              |
| all coefficients  | exact local branches      | FFT, exchange, FFT, and back               | 2 (P - 1)/P x 2 B C N/P (n_d//2 + 1)/n_d |
| neighbors         | stencils                  | halo exchange                              | 2 width B C N/n_a                        |
| whole lines       | walls, other grids, H1    | blocks of channels for blocks of the axis, | 2 (P - 1)/P x B C N/P                    |
|                   |                           | and back                                   |                                          |
| a mean            | norms of channels, losses | summed                                     | B C                                      |

for N = prod(n) samples, n_a along the split axis, m modes per axis and P processes. The first line grows neither with the grid nor with P;
a pencil FFT of the same few waves would send n_a/(P m_a) times as much, which is less only where blocks are thinner than the number m_a
of modes.

Parameters are held by every process. The gradient of a process is what its block contributes: sum over the processes of a field
(`sum_gradients`), and take the mean over those with other samples of the batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from opkernels.distributed import collectives, halo
from opkernels.distributed.halo import Part
from opkernels.domains import Grid, Whole

__all__ = ["Split", "process_mesh", "sum_gradients"]


def process_mesh(*, domain: int | None = None, data: int | None = None, device: str | torch.device | None = None) -> DeviceMesh:
    """Return the processes as a table ("data", "domain"): rows have their own samples of a batch, those in a row share a field.

    Parameters
    ----------
    domain : int, optional
        Processes that share a field; by default all that `data` leaves.
    data : int, optional
        Groups of them; by default all that `domain` leaves.
    device : device, optional
        By default CUDA where there is one (each process its own), else the CPU.

    Raises
    ------
    ValueError
        If ``data * domain`` is not the number of processes.

    Notes
    -----
    Begins the process group if there is none: that of ``torchrun``, or of this one process alone. End it with
    ``torch.distributed.destroy_process_group()``.
    """
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        backend = "nccl" if kind == "cuda" else "gloo"
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend)
        else:
            alone = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group(backend, store=alone, rank=0, world_size=1)
    world = dist.get_world_size()
    domain = max(world // (data or 1), 1) if domain is None else domain
    data = max(world // (domain or 1), 1) if data is None else data
    if data < 1 or data * domain != world:
        raise ValueError(f"got data={data} and domain={domain} for {world} processes; their product must be the number of processes")
    return init_device_mesh(kind, (data, domain), mesh_dim_names=("data", "domain"))


@dataclass(frozen=True)
class Split(Whole):
    """How a field is split: the axes that are cut, and the processes that share each.

    Parameters
    ----------
    mesh : DeviceMesh
        Of `process_mesh`, or any with named dimensions.
    dims : sequence of str or None
        For each spatial axis the dimension of the mesh that cuts it; None, or nothing, leaves the axis whole. By default the first
        axis is cut over "domain", which is the best choice: transforms of the other axes come first and leave less to exchange.

    Raises
    ------
    ValueError
        If the mesh has no dimension of a name, or one is named twice; on use, if an axis has fewer samples than processes.

    Notes
    -----
    Sizes need not divide: blocks differ by at most one sample.
    """

    mesh: DeviceMesh
    dims: Sequence[str | None] = ("domain",)
    parts: tuple[Part, ...] = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "dims", tuple(self.dims))
        names = self.mesh.mesh_dim_names or ()
        used = [name for name in self.dims if name is not None]
        if not set(used) <= set(names) or len(set(used)) < len(used):
            raise ValueError(
                f"got a split over {self.dims} of a mesh with the dimensions {names}; name each once, or None for a whole axis"
            )
        parts = [
            Part(a, self.mesh.get_group(name), self.mesh.get_local_rank(name), self.mesh.size(names.index(name)))
            for a, name in enumerate(self.dims)
            if name is not None
        ]
        object.__setattr__(self, "parts", tuple(part for part in parts if part.size > 1))

    def grid(self, grid: Grid) -> Grid:
        """Return a grid whose tensors hold the block of this process.

        Raises
        ------
        ValueError
            If it has fewer axes than are cut, or an axis fewer samples than processes.
        """
        if len(self.dims) > grid.ndim:
            raise ValueError(
                f"got a split of {len(self.dims)} axes for a {grid.ndim}-D grid; give one dimension of the mesh per axis at most"
            )
        self.sizes(grid.shape)
        return Grid(grid.domain, grid.shape, self)

    @property
    def size(self) -> int:
        """Number of processes that share a field."""
        return prod(part.size for part in self.parts)

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the samples per axis that are held here, of `shape`."""
        held = list(shape)
        for part in self.parts:
            if shape[part.axis] < part.size:
                raise ValueError(
                    f"got an axis of {shape[part.axis]} samples for {part.size} processes; use fewer processes or split another axis"
                )
            held[part.axis] = part.block(shape[part.axis])[1]
        return tuple(held)

    def first(self, a: int, n: int) -> int:
        """Return the number in the whole of the first sample of the block."""
        part = self._part(a)
        return 0 if part is None else part.block(n)[0]

    def beyond(self, a: int, width: int, n: int) -> tuple[int, int]:
        """Return how many of the `width` samples next to the block, on either side of axis `a`, would lie beyond the axis."""
        part = self._part(a)
        if part is None:
            return width, width
        first, held = part.block(n)
        return max(width - first, 0), max(first + held + width - n, 0)

    def cut(self, values: Tensor, dim: int, a: int) -> Tensor:
        """Return the part of `values` held here, whose `dim` counts the samples of axis `a`."""
        part = self._part(a)
        return values if part is None else part.narrow(values, dim)

    def spread(self, values: Tensor, dim: int, a: int, n: int) -> Tensor:
        """Return `values` with zeros for the samples of axis `a` held elsewhere."""
        part = self._part(a)
        if part is None:
            return values
        shape = list(values.shape)
        first, held = part.block(n)
        shape[dim] = first
        before = values.new_zeros(shape)
        shape[dim] = n - first - held
        return torch.cat([before, values, values.new_zeros(shape)], dim)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the processes, on all of them, for further work on the field."""
        for part in self.parts:
            values = collectives.total(values, part.group)
        return values

    def joined(self, values: Tensor) -> Tensor:
        """Return the values of all processes, (size, ...), for a result that all have in common."""
        values = values[None]
        for part in self.parts:
            values = collectives.joined(values, part.group).flatten(0, 1)
        return values

    def surrounded(self, x: Tensor, a: int, width: int, n: int, *, periodic: bool) -> Tensor:
        """Return x with `width` samples more on each side of axis `a`; beyond walls there are none."""
        part = self._part(a)
        if part is None:
            return super().surrounded(x, a, width, n, periodic=periodic)
        return halo.surrounded(x, a + 2, width, n, part, periodic=periodic)

    def folded(self, y: Tensor, a: int, width: int, n: int, *, periodic: bool) -> Tensor:
        """Return y without the samples that `surrounded` adds, which are added to those they came from."""
        part = self._part(a)
        if part is None:
            return super().folded(y, a, width, n, periodic=periodic)
        return halo.folded(y, a + 2, width, n, part, periodic=periodic)

    def along(self, function: Callable[[Tensor], Tensor], x: Tensor, a: int, n: int) -> Tensor:
        """Apply a function that needs the whole of axis `a` and treats channels alike: processes have blocks of channels meanwhile."""
        part = self._part(a)
        if part is None:
            return function(x)
        rows = x.flatten(0, 1)
        if len(rows) < part.size:  # transforms refuse to do nothing
            rows = torch.cat([rows, rows.new_zeros(part.size - len(rows), *rows.shape[1:])])
        y = function(halo.moved(rows[None], a + 2, 1, n, part))
        return halo.moved(y, 1, a + 2, len(rows), part)[0, : x.shape[0] * x.shape[1]].unflatten(0, x.shape[:2])

    def rfftn(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the transform (B, C, *) over the spatial axes, in blocks of wave numbers (`wave_cut`).

        Raises
        ------
        ValueError
            If the last axis is split and has fewer wave numbers, n//2 + 1, than processes.
        """
        z, d = x, len(shape)
        last = self._part(d - 1)
        if last is not None and shape[-1] // 2 + 1 < last.size:
            raise ValueError(
                f"got {shape[-1] // 2 + 1} wave numbers of the last axis for {last.size} processes; use fewer, or split another axis"
            )
        for a in reversed(range(d)):
            dim, home = a - d, self._home(a, shape)
            transform = torch.fft.rfft if dim == -1 else torch.fft.fft
            if home == a:
                z = self.along(lambda u, f=transform, n=shape[a], dim=dim: f(u, n=n, dim=dim), z, a, shape[a])
            else:
                z = transform(halo.moved(z, dim, home - d, shape[a], self.parts[self._index(a)]), dim=dim)
        return z

    def irfftn(self, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the inverse of `rfftn`."""
        d, counts = len(shape), _wave_counts(shape)
        for a in range(d):
            dim, home = a - d, self._home(a, shape)
            transform = torch.fft.irfft if dim == -1 else torch.fft.ifft
            if home == a:
                z = self.along(lambda u, f=transform, n=shape[a], dim=dim: f(u, n=n, dim=dim), z, a, counts[a])
            else:
                z = halo.moved(torch.fft.ifft(z, dim=dim), home - d, dim, counts[home], self.parts[self._index(a)])
        return z

    def wave_cut(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the part of a table (..., *wave numbers) that belongs to the coefficients `rfftn` leaves here."""
        for part in self.parts:
            values = part.narrow(values, self._home(part.axis, shape) - len(shape))
        return values

    def line(self, a: int) -> Whole:
        """Return how one axis alone is held."""
        return Split(self.mesh, (self.dims[a],)) if self._part(a) else Whole()

    def _part(self, a: int) -> Part | None:
        return next((part for part in self.parts if part.axis == a), None)

    def _index(self, a: int) -> int:
        return [part.axis for part in self.parts].index(a)

    def _home(self, a: int, shape: tuple[int, ...]) -> int:
        """Axis whose wave numbers are in blocks once axis `a` is transformed: the last where it is free and long enough, else `a`."""
        axes, last = [part.axis for part in self.parts], len(shape) - 1
        free = a in axes and last not in axes and a == max(axes)
        return last if free and shape[-1] // 2 + 1 >= self.parts[self._index(a)].size else a


def _wave_counts(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of the transform of real samples."""
    return (*shape[:-1], shape[-1] // 2 + 1)


def sum_gradients(parameters: Iterable[nn.Parameter], split: Whole) -> None:
    """Add up the gradients of the processes that share a field, in one message per dtype; nothing to do for one process."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    for part in split.parts:
        for dtype in dict.fromkeys(g.dtype for g in gradients):
            same = [g for g in gradients if g.dtype == dtype]
            flat = collectives.total(torch.cat([g.flatten() for g in same]), part.group)
            for g, values in zip(same, flat.split([g.numel() for g in same]), strict=True):
                g.copy_(values.view_as(g))
