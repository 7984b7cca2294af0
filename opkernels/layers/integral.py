"""Local integral convolution: a learned kernel of fixed physical radius on a periodic box.

    y_o(x) = sum_c int_{|y - x| <= r} kappa_oc(y - x) v_c(y) dy + b_o,    kappa_oc = sum_k W_ock psi_k

| quadrature | the integral                                                                 | error                          |
| ---------- | ---------------------------------------------------------------------------- | ------------------------------ |
| "exact"    | of the samples' Fourier series: its coefficients times psi~_k(xi)             | none, if v is band-limited     |
| "nodal"    | sum over the samples y_j, each with the volume of its cell                   | O(h^2) for continuous kernels  |

Both are one multiplier per basis function on the coefficients: C transforms forward, C K back, then one matrix product
over (c, k), whose cost does not grow with the radius. "nodal" is what a neighbor list on the same points computes. The
Nyquist coefficients of even sizes, whose sign of the wave number is unknown, are dropped by "exact".

References: `opkernels.layers.kernels`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from opkernels.domains import Grid, table
from opkernels.layers.kernels import KernelBasis, kernel_values, transfer

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
    quadrature : {"exact", "nodal"}
        See the module's docstring.
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
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: KernelBasis,
        *,
        radius: float,
        quadrature: str = "exact",
        bias: bool = True,
    ):
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"LocalIntegralConv got {in_channels} input and {out_channels} output channels; give at least one of each")
        if not 0 < radius < float("inf"):
            raise ValueError(f"LocalIntegralConv got radius={radius}; give a positive length in the units of the domain")
        if quadrature not in ("exact", "nodal"):
            raise ValueError(f'LocalIntegralConv got quadrature={quadrature!r}; choose "exact" or "nodal"')
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel, self.radius, self.quadrature = kernel, float(radius), quadrature
        self._multiplier = {"exact": _exact, "nodal": _nodal}[quadrature]
        std = (in_channels * kernel.size) ** -0.5
        self.weight = nn.Parameter(std * torch.randn(out_channels, in_channels, kernel.size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"{self.in_channels}, {self.out_channels}, {self.kernel}, radius={self.radius:g}, quadrature={self.quadrature!r}"

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Return (B, out_channels, *grid.shape) for x (B, in_channels, *grid.shape), in the memory layout of `x`.

        Raises
        ------
        ValueError
            If the grid is missing, differs from `x` or the kernel in rank or shape, has walls, or does not suit the
            radius (above half an axis; with "nodal", below a cell).
        """
        self._check(x, grid)
        with torch.autocast(x.device.type, enabled=False):
            u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            axes = tuple(range(-grid.ndim, 0))
            multiplier = torch.view_as_complex(self._multiplier(self.kernel, self.radius, grid, device=u.device, dtype=u.dtype))
            u_hat = torch.fft.rfftn(u, dim=axes)
            fields = torch.fft.irfftn(u_hat[:, :, None] * multiplier, s=grid.shape, dim=axes)
            columns = fields.flatten(3).flatten(1, 2)
            weight = self.weight.to(u.dtype).flatten(1)
            if x.movedim(1, -1).is_contiguous():
                y = nn.functional.linear(columns.transpose(1, 2), weight, None if self.bias is None else self.bias.to(u.dtype))
                return y.unflatten(1, grid.shape).movedim(-1, 1)
            y = torch.matmul(weight, columns)
            if self.bias is not None:
                y = y + self.bias.to(u.dtype)[:, None]
            return y.unflatten(2, grid.shape)

    def _check(self, x: Tensor, grid: Grid) -> None:
        if not isinstance(grid, Grid):
            raise ValueError(f"LocalIntegralConv got grid={grid!r}, but a radius has units; give domain.grid_of(x)")
        if grid.ndim != self.kernel.n_dim:
            raise ValueError(f"LocalIntegralConv got a {grid.ndim}-D grid for a {self.kernel.n_dim}-D kernel; give one of the same rank")
        if x.ndim != grid.ndim + 2 or x.shape[1] != self.in_channels or tuple(x.shape[2:]) != grid.shape:
            raise ValueError(
                f"LocalIntegralConv got x of shape {tuple(x.shape)}; "
                f"expected (batch, {self.in_channels}, {', '.join(map(str, grid.shape))})"
            )
        grid.domain.require_periodic("LocalIntegralConv")
        for axis, h in zip(grid.domain.axes, grid.spacing, strict=True):
            if self.radius > axis.length / 2:
                raise ValueError(
                    f"LocalIntegralConv got radius {self.radius:g}, above half the length {axis.length:g} of axis {axis.name}, where the "
                    "kernel would meet itself; lower the radius"
                )
            if self.quadrature == "nodal" and self.radius < h:
                raise ValueError(
                    f"LocalIntegralConv got radius {self.radius:g}, below the cell {h:g} of axis {axis.name}, where a sum over samples is "
                    'no integral; refine the grid, raise the radius or choose quadrature="exact"'
                )


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
    steps = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=device) for n in grid.shape]
    offsets = torch.stack(torch.meshgrid(*[h / radius * i for h, i in zip(grid.spacing, steps, strict=True)], indexing="ij"))
    volume = 1.0
    for h in grid.spacing:
        volume = volume * h / radius
    values = volume * torch.fft.rfftn(kernel_values(kernel, offsets), dim=tuple(range(1, grid.ndim + 1))).conj()
    return torch.view_as_real(values.resolve_conj())
