"""Spherical spectral convolution: multiply the coefficients of each degree by learned matrices, on every grid of the sphere.

    y_o(x) = sum_{l <= L} sum_i sum_m (W_io(l) + i (m/l) V_io(l)) u_lm,i Y_lm(x) + b_o

| symbol     | meaning                                                                | shape                     |
| ---------- | ---------------------------------------------------------------------- | ------------------------- |
| u_lm       | coefficients of the input (`opkernels.spherical`)                      | (B, C_in, l, m)           |
| W(l), V(l) | real matrices of degree l                                              | (L + 1, C_in, C_out) each |
| b          | constant per output channel                                            | (C_out,)                  |

| symmetry | weights  | commutes with                                                                             |
| -------- | -------- | ----------------------------------------------------------------------------------------- |
| "sphere" | W alone  | all rotations, and all reflections                                                        |
| "axis"   | W and V  | rotations about the axis; V/l is a zonal kernel's convolution with d/dlambda, eastward    |

By the Funk-Hecke theorem W is the convolution with any zonal kernel of degree L, one that depends on the distance alone; the linear
maps that commute with all rotations are these and no others. They cannot tell east from west, nor can a network made of them and of
pointwise functions: advection by a stream function, J(psi, zeta), and Rossby waves, 2 Omega dpsi/dlambda, change sign in a mirror
and are out of its reach. V tells them apart, is smooth at the poles, and holds the multipliers i m/(l (l + 1)) of Rossby waves
exactly. Degrees that a grid does not carry (`SphereGrid.highest_degree`) count as zero.

References: Bonev et al., "Spherical Fourier Neural Operators", ICML 2023, arXiv 2306.03838; Driscoll and Healy, Advances in
Applied Mathematics 15 (1994), 202-250 (the convolution theorem).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from opkernels.domains import looked_up, table
from opkernels.layers.multipliers import with_one
from opkernels.sphere import SphereGrid
from opkernels.spherical import Harmonics

__all__ = ["SphericalSpectralConv", "check_samples", "mixed_by_degree", "on_coefficients"]


class SphericalSpectralConv(nn.Module):
    """Convolution with a learned kernel of limited degree, which commutes with rotations of the sphere: all, or those about the axis.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    degree : int
        The largest degree L, included; keep it at or below that of the coarsest training grid (31 for 32 x 64 "gauss" points).
    symmetry : {"axis", "sphere"}
        What the layer commutes with (module's docstring).
    bias : bool
        Add a constant per output channel.

    Attributes
    ----------
    weight : Parameter, (degree + 1, C, out_channels)
        W, C = in_channels, or W above V, C = 2 in_channels. Normal at the start; over all m the variance of the products is
        2/(C_in + C_out) of that of the coefficients.

    Raises
    ------
    ValueError
        If a number of channels is below one, the degree below zero or the symmetry unknown.

    Examples
    --------
    >>> from opkernels import Sphere
    >>> layer = SphericalSpectralConv(3, 4, 15)
    >>> layer(torch.zeros(2, 3, 32, 64), Sphere().grid(32, 64)).shape
    torch.Size([2, 4, 32, 64])
    """

    def __init__(self, in_channels: int, out_channels: int, degree: int, *, symmetry: str = "axis", bias: bool = True):
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"SphericalSpectralConv got {in_channels} input and {out_channels} output channels; give at least one of each")
        if symmetry not in ("axis", "sphere"):
            raise ValueError(f'SphericalSpectralConv got symmetry={symmetry!r}; choose "axis" or "sphere"')
        self.in_channels, self.out_channels, self.degree, self.symmetry = in_channels, out_channels, Harmonics(degree).degree, symmetry
        std = (2 / (in_channels + out_channels)) ** 0.5
        parts = 2 if symmetry == "axis" else 1
        share = 0.75**0.5 if symmetry == "axis" else 1.0  # the mean of 1 + (m/l)^2 over m is 4/3
        self.weight = nn.Parameter(share * std * torch.randn(self.degree + 1, parts * in_channels, out_channels))
        self.bias = nn.Parameter(std * torch.randn(out_channels)) if bias else None

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"{self.in_channels}, {self.out_channels}, degree={self.degree}, symmetry={self.symmetry!r}"

    def forward(self, x: Tensor, grid: SphereGrid) -> Tensor:
        """Return (B, out_channels, nlat, nlon) for x (B, in_channels, nlat, nlon), in the memory layout of `x`.

        Raises
        ------
        ValueError
            If the grid is none of a sphere, or differs from `x` in shape, or `x` in channels; or if `x` is not floating point.
        """
        check_samples("SphericalSpectralConv", x, grid, self.in_channels)
        y = on_coefficients([self.coefficients], x, grid, min(self.degree, grid.highest_degree))
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, 1, 1)

    def coefficients(self, z: Tensor) -> Tensor:
        """Return the coefficients (B, out_channels, l, m) of the convolution without its constant, for those of the input.

        Those of the input may have any degree; the result has the smaller of theirs and the layer's.
        """
        size = min(self.degree + 1, z.shape[-1])
        z = z[..., :size, :size]
        if self.symmetry == "axis":
            turned = looked_up(_turning, size - 1, device=z.device, dtype=z.real.dtype)
            z = torch.cat([z, torch.complex(-turned * z.imag, turned * z.real)], dim=1)
        return mixed_by_degree(z, self.weight[:size])


@table
def _turning(degree: int, device) -> Tensor:
    """Return m/l, and 0 for l = 0: (degree + 1, degree + 1)."""
    m = torch.arange(degree + 1, dtype=torch.float64, device=device)
    return m / m.clamp(min=1)[:, None]


def mixed_by_degree(z: Tensor, weight: Tensor) -> Tensor:
    """Return sum_i W_io(l) z_i,lm, complex (B, O, l, m), for z (B, I, l, m) and real weights (l, I, O)."""
    columns = torch.view_as_real(z.mT).permute(3, 0, 2, 4, 1)  # (l, B, m, 2, I)
    y = torch.bmm(columns.flatten(1, 3), weight.to(columns.dtype)).unflatten(1, columns.shape[1:4])
    return torch.view_as_complex(y.permute(1, 4, 2, 0, 3).contiguous()).mT


def on_coefficients(maps: Sequence[Callable[[Tensor], Tensor]], x: Tensor, grid: SphereGrid, degree: int) -> Tensor:
    """Return the function whose coefficients are the sum of what `maps` make of those of x: one transform each way for all.

    Parameters
    ----------
    maps : sequence of callables
        From coefficients (B, I, l, m) to coefficients (B, O, l, m) of at most that degree.
    x : Tensor, (B, I, nlat, nlon)
        Half precisions are computed in float32.
    grid : SphereGrid
    degree : int
        Of the analysis, at most ``grid.highest_degree``.

    Returns
    -------
    Tensor, (B, O, nlat, nlon), in the memory layout of `x`
    """
    if not x.shape[0]:
        return on_coefficients(maps, with_one(x), grid, degree)[:0]
    harmonics = Harmonics(degree)
    with torch.autocast(x.device.type, enabled=False):
        z = harmonics.analyze(x, grid)
        terms = [harmonics.resized(part(z)) for part in maps]
        y = harmonics.synthesize(sum(terms[1:], start=terms[0]), grid)
    return y.movedim(1, -1).contiguous().movedim(-1, 1) if x.movedim(1, -1).is_contiguous() else y


def check_samples(who: str, x: Tensor, grid: SphereGrid, in_channels: int) -> None:
    """Refuse a grid that is none of a sphere, and samples that do not fit."""
    if not isinstance(grid, SphereGrid):
        raise ValueError(f"{who} got grid={grid!r}; give one of a sphere, such as Sphere().grid(32, 64)")
    if x.ndim != 4 or x.shape[1] != in_channels or tuple(x.shape[2:]) != tuple(grid.shape):
        nlat, nlon = grid.shape
        raise ValueError(
            f"{who} got x of shape {tuple(x.shape)}; expected (batch, {in_channels}, {nlat}, {nlon}): {nlat} latitudes, {nlon} longitudes"
        )
    if not x.is_floating_point():
        raise ValueError(f"{who} got x of dtype {x.dtype}; give real floating-point samples, such as x.float()")
