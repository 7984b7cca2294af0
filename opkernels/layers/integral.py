"""Local integral convolution: a learned kernel of fixed physical radius, on grids and on particles.

    y_o(x) = sum_c int_{|y - x| <= r, y in the domain} kappa_oc(y - x) v_c(y) dy + b_o,    kappa_oc = sum_k W_ock psi_k

| quadrature | the integral                                                        | error                                          |
| ---------- | ------------------------------------------------------------------- | ---------------------------------------------- |
| "exact"    | of the samples' Fourier series: its coefficients times psi~_k(xi)    | none, if v is band-limited; periodic axes only |
| "nodal"    | sum over the samples y_j, each with its quadrature weight            | O(h^2) for continuous kernels                  |

By default a periodic domain has the first and any other the second: next to a wall the integral is over the part of the ball
inside. The weights are those of `Grid.weights`, so "cell" and "endpoint" points keep the second order up to the wall and
"node" points, which leave one end open, the first. On particles the weights are their volumes.

One of three ways is taken, which give the same sums:

| way        | for                          | cost per sample point                                       |
| ---------- | ---------------------------- | ----------------------------------------------------------- |
| transforms | grids                        | C + O transforms, and K C O in one product                  |
| stencil    | "nodal", few taps S, CPU     | S C O                                                       |
| neighbors  | particles                    | K C per pair, and K C O                                     |

The transforms' cost does not grow with the radius: the coefficients of the C inputs are multiplied by the K functions' and
mixed by the weights, which are real and serve real and imaginary parts alike, before anything is transformed back. With walls
the period is longer by the radius and filled with zeros. The Nyquist coefficients of even sizes, whose sign of the wave number
is unknown, are dropped by "exact".

References: `opkernels.layers.kernels`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from opkernels.domains import Axis, Domain, Grid, looked_up, table
from opkernels.layers.kernels import KernelBasis, kernel_values, transfer
from opkernels.layers.multipliers import filtered
from opkernels.neighbors import Neighbors, radius_search
from opkernels.particles import ParticleSet

__all__ = ["LocalIntegralConv"]


class LocalIntegralConv(nn.Module):
    """Convolution with a learned kernel that vanishes beyond a radius given in the units of the domain.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    kernel : KernelBasis
        The functions phi_k, such as ``PolarHats(3, 4)``.
    radius : float
        The radius r in the units of the domain; three to eight cells of the training grid are usual.
    quadrature : {"exact", "nodal"}, optional
        See the module's docstring; by default exact where all axes are periodic.
    bias : bool
        Add a constant per output channel, zero at the start.

    Raises
    ------
    ValueError
        If a size is out of range or the quadrature unknown.

    Examples
    --------
    >>> from opkernels import Domain
    >>> from opkernels.layers.kernels import PolarHats
    >>> layer = LocalIntegralConv(3, 4, PolarHats(3, 4), radius=0.15)
    >>> layer(torch.zeros(2, 3, 33, 48), Domain.periodic(1.0, 2.0).grid(33, 48)).shape
    torch.Size([2, 4, 33, 48])
    >>> particles = ParticleSet.from_grid(Domain.box(1.0, 2.0).grid(20, 40), support=0.15)
    >>> layer(torch.zeros(800, 3), particles).shape
    torch.Size([800, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: KernelBasis,
        *,
        radius: float,
        quadrature: str | None = None,
        bias: bool = True,
    ):
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"LocalIntegralConv got {in_channels} input and {out_channels} output channels; give at least one of each")
        if not isinstance(radius, (int, float)) or not 0 < radius < float("inf"):
            raise ValueError(f"LocalIntegralConv got radius={radius!r}; give a positive length in the units of the domain")
        if quadrature not in ("exact", "nodal", None):
            raise ValueError(f'LocalIntegralConv got quadrature={quadrature!r}; choose "exact", "nodal" or None')
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel, self.radius, self.quadrature = kernel, float(radius), quadrature
        std = (in_channels * kernel.size) ** -0.5
        self.weight = nn.Parameter(std * torch.randn(out_channels, in_channels, kernel.size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"{self.in_channels}, {self.out_channels}, {self.kernel}, radius={self.radius:g}, quadrature={self.quadrature!r}"

    def forward(self, x: Tensor, grid: Grid | ParticleSet, neighbors: Neighbors | None = None) -> Tensor:
        """Return the integrals at the samples themselves.

        Parameters
        ----------
        x : Tensor, (B, in_channels, *grid.sizes) or (N, in_channels)
            Samples on a grid, or at particles.
        grid : Grid or ParticleSet
            Where they sit. Positions and volumes of particles are taken as constants.
        neighbors : Neighbors, optional
            Of the particles, within the radius at least; searched for by default.

        Returns
        -------
        Tensor, (B, out_channels, *grid.sizes), in the memory layout of `x`, or (N, out_channels)

        Raises
        ------
        ValueError
            If `grid` is missing, differs from `x` or the kernel in rank or shape, does not suit the quadrature (walls, gauss
            points) or the radius (above half an axis; with "nodal", below a cell).
        """
        if isinstance(grid, ParticleSet):
            return self._on_particles(x, grid, neighbors)
        self._check(x, grid)
        exact = self._is_exact(grid.domain)
        with torch.autocast(x.device.type, enabled=False):
            u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            if not exact:
                u = _weighted(u, grid)
            if not exact and _prefers_stencil(self.kernel, self.radius, grid, u.device):
                y = self._by_stencil(u, grid)
            else:
                y = self._by_transforms(u, grid)
            if self.bias is not None:
                y = y + self.bias.to(y.dtype).view(-1, *[1] * grid.ndim)
            return y.movedim(1, -1).contiguous().movedim(-1, 1) if x.movedim(1, -1).is_contiguous() else y.contiguous()

    def _is_exact(self, domain: Domain) -> bool:
        return self.quadrature != "nodal" and all(axis.periodic for axis in domain.axes)

    def multipliers(self, grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return what the K functions multiply coefficients by, complex (K, *) in the layout of rfftn; refuse a grid as `forward` does."""
        self._check_grid(grid)
        build = _exact if self._is_exact(grid.domain) else _nodal
        return torch.view_as_complex(looked_up(build, self.kernel, self.radius, grid, device=device, dtype=dtype))

    def _by_transforms(self, u: Tensor, grid: Grid) -> Tensor:
        shape = grid.shape if self._is_exact(grid.domain) else _padded(self.radius, grid)
        y = filtered(u, shape, self.multipliers(grid, u.device, u.dtype), self.weight.to(u.dtype), grid.split)
        for a, n in enumerate(grid.sizes):
            y = y.narrow(a + 2, 0, n)
        return y

    def _by_stencil(self, u: Tensor, grid: Grid) -> Tensor:
        taps = looked_up(_taps, self.kernel, self.radius, grid, device=u.device, dtype=u.dtype)
        stencil = torch.tensordot(self.weight.to(u.dtype), taps, dims=1)
        for a, axis in enumerate(grid.domain.axes):
            u = _surrounded(u, a, taps.shape[a + 1] // 2, axis, grid)
        convolution = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[grid.ndim - 1]
        return convolution(u, stencil)

    def _on_particles(self, x: Tensor, particles: ParticleSet, neighbors: Neighbors | None) -> Tensor:
        self._check_particles(x, particles)
        positions = particles.positions.detach()
        if neighbors is None:
            neighbors = radius_search(positions, support=self.radius, domain=particles.domain, batch=particles.batch)
        with torch.autocast(x.device.type, enabled=False):
            u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            offsets = -neighbors.displacement(positions).T / self.radius
            values = (kernel_values(self.kernel, offsets) / self.radius**self.kernel.n_dim).to(u.dtype)
            sent = (u * particles.volumes.detach().to(u.dtype)[:, None]).index_select(0, neighbors.col)
            columns = torch.stack([neighbors.sum(value[:, None] * sent) for value in values], dim=-1)
            return nn.functional.linear(
                columns.flatten(1), self.weight.to(u.dtype).flatten(1), None if self.bias is None else self.bias.to(u.dtype)
            )

    def _check(self, x: Tensor, grid: Grid) -> None:
        if not isinstance(grid, Grid):
            raise ValueError(f"LocalIntegralConv got grid={grid!r}, but a radius has units; give domain.grid_of(x)")
        self._check_grid(grid)
        if x.ndim != grid.ndim + 2 or x.shape[1] != self.in_channels or tuple(x.shape[2:]) != grid.sizes:
            raise ValueError(
                f"LocalIntegralConv got x of shape {tuple(x.shape)}; "
                f"expected (batch, {self.in_channels}, {', '.join(map(str, grid.sizes))})"
            )
        _check_real(x)

    def _check_grid(self, grid: Grid) -> None:
        self.check_domain(grid.domain)
        for axis, h in zip(grid.domain.axes, grid.spacing, strict=True):
            if axis.points == "gauss":
                raise ValueError(
                    f'LocalIntegralConv needs equal spacing, but axis {axis.name} has points="gauss"; use "cell" or "endpoint", '
                    "or take the points as particles"
                )
            if not self._is_exact(grid.domain) and self.radius < h:
                raise ValueError(
                    f"LocalIntegralConv got radius {self.radius:g}, below the cell {h:g} of axis {axis.name}, where a sum over samples is "
                    'no integral; refine the grid, raise the radius or, on periodic axes, choose quadrature="exact"'
                )

    def check_domain(self, domain: Domain) -> None:
        """Refuse a domain of another rank than the kernel's, with walls where "exact" was asked for, or too short for the radius."""
        if domain.ndim != self.kernel.n_dim:
            raise ValueError(f"LocalIntegralConv got a {domain.ndim}-D grid for a {self.kernel.n_dim}-D kernel; give one of the same rank")
        if self.quadrature == "exact":
            domain.require_periodic('LocalIntegralConv with quadrature="exact"')
        for axis in domain.axes:
            if self.radius > axis.length / 2:
                raise ValueError(
                    f"LocalIntegralConv got radius {self.radius:g}, above half the length {axis.length:g} of axis {axis.name}, where the "
                    "kernel would meet itself or miss the domain; lower the radius"
                )

    def _check_particles(self, x: Tensor, particles: ParticleSet) -> None:
        if self.quadrature == "exact":
            raise ValueError('LocalIntegralConv got particles with quadrature="exact", which needs a grid; choose "nodal" or None')
        self.check_domain(particles.domain)
        if tuple(x.shape) != (len(particles), self.in_channels):
            raise ValueError(f"LocalIntegralConv got x of shape {tuple(x.shape)}; expected ({len(particles)}, {self.in_channels})")
        _check_real(x)


def _check_real(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"LocalIntegralConv got x of dtype {x.dtype}; give real floating-point samples, such as x.float()")


def _prefers_stencil(kernel: KernelBasis, radius: float, grid: Grid, device: torch.device) -> bool:
    """Choose a stencil where its taps are few for the K functions.

    Measured on one CPU core, forward and backward in float32 at 64^2 and 128^2, time of the transforms over the stencil's:

    | K, channels | 9 taps | 25 taps | 49 taps | 81 taps |
    | ----------- | ------ | ------- | ------- | ------- |
    | 1, 16       | 1.1    | 0.8     | 0.4     | 0.3     |
    | 5, 8 to 32  | 2.2    | 1.1     | 0.7     | 0.4     |
    | 10, 16      | 3.2    | 1.9     | 1.1     | 0.7     |

    On CUDA, where nothing was measured, the library's convolutions may round to ten bits (TF32). A field that is split between walls
    takes a stencil, with halos of the radius.
    """
    if any(not grid.domain.axes[part.axis].periodic for part in grid.split.parts):
        return True  # zeros beyond walls would make the transforms longer than the field, which is not split so
    return device.type == "cpu" and math.prod([2 * n + 1 for n in _reach(radius, grid)]) <= 5 * kernel.size


def _reach(radius: float, grid: Grid) -> tuple[int, ...]:
    """Return the number of samples on each side of a sample within the radius, the rim not counted."""
    return tuple(math.ceil(radius / h * (1 - 1e-12)) - 1 for h in grid.spacing)


def _padded(radius: float, grid: Grid) -> tuple[int, ...]:
    """Sizes of the transforms of a sum: beyond walls, room for the kernel to see zeros."""
    return tuple(
        n if axis.periodic else n + reach for axis, n, reach in zip(grid.domain.axes, grid.shape, _reach(radius, grid), strict=True)
    )


def _weighted(u: Tensor, grid: Grid) -> Tensor:
    """Multiply samples by their quadrature weights over the volume of a cell."""
    for a, (axis, n, h) in enumerate(zip(grid.domain.axes, grid.shape, grid.spacing, strict=True)):
        if axis.points == "endpoint":
            u = u * (grid.split.cut(axis.weights(n, u.device, u.dtype), 0, a) / h).view(-1, *[1] * (grid.ndim - 1 - a))
    return u


def _surrounded(u: Tensor, a: int, reach: int, axis: Axis, grid: Grid) -> Tensor:
    """Add `reach` samples on both sides: the neighbors, and zeros beyond walls."""
    u = grid.split.surrounded(u, a, reach, grid.shape[a], periodic=axis.periodic)
    zeros = (0, 0) if axis.periodic else grid.split.beyond(a, reach, grid.shape[a])
    return nn.functional.pad(u, [0, 0] * (grid.ndim - 1 - a) + list(zeros))


@table
def _exact(kernel: KernelBasis, radius: float, grid: Grid, device) -> Tensor:
    """Multipliers psi~_k(xi) in the layout of rfftn, (K, *, 2), zero at Nyquist wave numbers."""
    numbers = grid.wavenumbers(device=device, dtype=torch.float64)
    top = radius * math.hypot(*[math.pi / h for h in grid.spacing])
    values = transfer(kernel, [radius * k.flatten() for k in numbers], top)
    for k, h in zip(numbers, grid.spacing, strict=True):
        values = values * (k.abs() * h < math.pi * (1 - 1e-9))
    return torch.view_as_real(values)


@table
def _nodal(kernel: KernelBasis, radius: float, grid: Grid, device) -> Tensor:
    """Return the transforms of the sampled psi_k times the volume of a cell, in the layout of rfftn, (K, *, 2)."""
    shape = _padded(radius, grid)
    steps = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=device) for n in shape]
    values = torch.fft.rfftn(_sampled(kernel, radius, grid, steps), dim=tuple(range(1, grid.ndim + 1))).conj()
    return torch.view_as_real(values.resolve_conj())


@table
def _taps(kernel: KernelBasis, radius: float, grid: Grid, device) -> Tensor:
    """Return the psi_k at the offsets within the radius, times the volume of a cell, (K, *)."""
    return _sampled(kernel, radius, grid, [torch.arange(-n, n + 1, dtype=torch.float64, device=device) for n in _reach(radius, grid)])


def _sampled(kernel: KernelBasis, radius: float, grid: Grid, steps: list[Tensor]) -> Tensor:
    """Return psi_k times the volume of a cell on a tensor grid of offsets in cells, (K, *)."""
    offsets = torch.stack(torch.meshgrid(*[h / radius * i for h, i in zip(grid.spacing, steps, strict=True)], indexing="ij"))
    return kernel_values(kernel, offsets) * math.prod([h / radius for h in grid.spacing])
