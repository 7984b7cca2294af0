"""Spherical local integral convolution: a learned kernel of fixed radius, in distance and bearing, on every grid of the sphere.

    y_o(x) = sum_c int_{theta(x, y) <= r} kappa_oc(z) v_c(y) dOmega(y) + b_o,    kappa_oc(z) = sum_k W_ock r^-2 phi_k(z/r)

    z = theta (cos alpha, sin alpha)

| symbol | meaning                                                                                   |
| ------ | ----------------------------------------------------------------------------------------- |
| theta  | distance from x to y on the sphere of radius one, in radians                              |
| alpha  | bearing of y as seen from x, from south (the direction of growing rows) through east      |
| r      | radius of the kernel in radians                                                           |
| phi_k  | functions on the unit disk, normalized there (`opkernels.layers.kernels`)                 |

Close to the equator, and for small r, this is `LocalIntegralConv` in the plane of rows and columns.

| quadrature | the integral                                               | error                                                  |
| ---------- | ---------------------------------------------------------- | ------------------------------------------------------ |
| "exact"    | coefficients of degree l times lambda_k(l) (Funk-Hecke)     | none, if v is band-limited; kernels without direction  |
| "nodal"    | sum over the samples y_j, each with its quadrature weight   | O(h^2) for continuous kernels                          |

    lambda_k(l) = 2 pi int_0^r r^-2 phi_k(t/r) P_l(cos t) sin t dt

By default isotropic kernels have the first and those with a direction the second, whose error under a window (1 - u^2)^s is
O(h^(s + 3/2)) in the mean square. What a kernel with a direction makes of a function depends at a pole on the meridian along which one
comes: it is bounded there, but not continuous, so that spectral layers after it converge at a finite order too.

The table of a sum depends on the latitudes of both points and the difference of their longitudes alone. So an FFT along
longitude turns it into one matrix for each wave number, from the rows within the radius to the row of x; only near the poles does
a row see all longitudes, which costs no more. Matrices are taken for 16 rows at a time. Measured on one CPU core, 4 x 16 channels,
five functions, r = 0.3, 64 x 128 points: 15 ms; all rows at once 24, each row alone 44, a sparse matrix over the points 40 (and 60 MB).

References: Ocampo, Price, McEwen, ICLR 2023, arXiv 2209.13603; Liu-Schiaffini et al., ICML 2024, arXiv 2402.16845.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from opkernels.domains import looked_up, table
from opkernels.layers.kernels import KernelBasis, Morlet, PolarHats, Radial, WindowedFourier, Zernike, kernel_values
from opkernels.layers.multipliers import with_one
from opkernels.layers.spherical_spectral import check_samples, mixed_by_degree, on_coefficients
from opkernels.sphere import SphereGrid, colatitudes

__all__ = ["SphericalIntegralConv", "is_isotropic", "zonal_multipliers"]

_ROWS = 16  # rows of the output for each matrix


class SphericalIntegralConv(nn.Module):
    """Convolution on the sphere with a learned kernel that vanishes beyond a radius given in radians.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    kernel : KernelBasis
        The functions phi_k on two axes: ``Radial(2, 3)`` has no direction, ``PolarHats(3, 4)`` looks south, east, north and west.
    radius : float
        The radius r in radians, below pi; three to eight rows of the training grid are usual.
    quadrature : {"exact", "nodal"}, optional
        See the module's docstring; by default exact where the kernel is isotropic.
    bias : bool
        Add a constant per output channel, zero at the start.

    Raises
    ------
    ValueError
        If a size is out of range, the kernel has not two axes, or "exact" is asked of a kernel with a direction.

    Notes
    -----
    Any kernel commutes with rotations about the axis by whole samples (isotropic ones, exactly integrated, with all rotations).

    Examples
    --------
    >>> from opkernels import Sphere
    >>> from opkernels.layers.kernels import PolarHats
    >>> layer = SphericalIntegralConv(3, 4, PolarHats(3, 4), radius=0.3)
    >>> layer(torch.zeros(2, 3, 32, 64), Sphere().grid(32, 64)).shape
    torch.Size([2, 4, 32, 64])
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
            raise ValueError(f"SphericalIntegralConv got {in_channels} input and {out_channels} output channels; give at least one of each")
        if kernel.n_dim != 2:
            raise ValueError(f"SphericalIntegralConv got a kernel of {kernel.n_dim} axes, {kernel}; give one of two")
        if not isinstance(radius, (int, float)) or not 0 < radius < math.pi:
            raise ValueError(f"SphericalIntegralConv got radius={radius!r}; give an angle in radians between 0 and pi")
        if quadrature not in ("exact", "nodal", None):
            raise ValueError(f'SphericalIntegralConv got quadrature={quadrature!r}; choose "exact", "nodal" or None')
        if quadrature == "exact" and not is_isotropic(kernel):
            raise ValueError(f'SphericalIntegralConv got quadrature="exact" for {kernel}, which has a direction; choose "nodal" or None')
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel, self.radius = kernel, float(radius)
        self.quadrature = quadrature or ("exact" if is_isotropic(kernel) else "nodal")
        std = (in_channels * kernel.size) ** -0.5
        self.weight = nn.Parameter(std * torch.randn(out_channels, in_channels, kernel.size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"{self.in_channels}, {self.out_channels}, {self.kernel}, radius={self.radius:g}, quadrature={self.quadrature!r}"

    def forward(self, x: Tensor, grid: SphereGrid) -> Tensor:
        """Return the integrals at the samples, (B, out_channels, nlat, nlon) for x (B, in_channels, nlat, nlon), laid out as `x`.

        Raises
        ------
        ValueError
            If the grid is none of a sphere, or differs from `x` in shape, or `x` in channels; if `x` is not floating point; if a sum
            is taken over a radius below the distance of two rows.
        """
        check_samples("SphericalIntegralConv", x, grid, self.in_channels)
        exact = self.quadrature == "exact"
        y = on_coefficients([self.coefficients], x, grid, grid.highest_degree) if exact else self._by_sums(x, grid)
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, 1, 1)

    def coefficients(self, z: Tensor) -> Tensor:
        """Return the coefficients (B, out_channels, l, m) of the exact integrals without their constant, for those of the input."""
        multipliers = looked_up(zonal_multipliers, self.kernel, self.radius, z.shape[-1] - 1, device=z.device, dtype=z.real.dtype)
        return mixed_by_degree(z, torch.einsum("kl,ock->lco", multipliers, self.weight.to(z.real.dtype)))

    def _by_sums(self, x: Tensor, grid: SphereGrid) -> Tensor:
        nlat, nlon = grid.shape
        apart = grid.spacing[0] / grid.domain.radius
        if self.radius < apart:
            raise ValueError(
                f"SphericalIntegralConv got radius {self.radius:g}, below the distance {apart:g} of two of {nlat} rows, where a "
                "sum over samples is no integral; refine the grid or raise the radius"
            )
        if not x.shape[0]:
            return self._by_sums(with_one(x), grid)[:0]
        channels_last = x.movedim(1, -1).is_contiguous()
        with torch.autocast(x.device.type, enabled=False):
            u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            rows = torch.fft.rfft(u, dim=-1).permute(3, 2, 0, 1)  # (m, nlat, B, C)
            columns = self._integrals(rows.flatten(2), grid).unflatten(3, rows.shape[2:])  # (m, K, nlat, B, C)
            columns = torch.view_as_real(columns).permute(0, 2, 3, 5, 4, 1)  # (m, nlat, B, 2, C, K)
            y = nn.functional.linear(columns.flatten(4), self.weight.to(u.dtype).flatten(1))
            y = torch.view_as_complex(y.permute(2, 4, 1, 0, 3).contiguous())  # (B, O, nlat, m)
            y = torch.fft.irfft(y, n=nlon, dim=-1)
        return y.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else y

    def _integrals(self, rows: Tensor, grid: SphereGrid) -> Tensor:
        """Integrals against each phi_k, (m, K, nlat, columns), of rows (m, nlat, columns)."""
        parts = [
            torch.bmm(matrix.flatten(1, 2), rows[:, lower:upper]).unflatten(1, matrix.shape[1:3])
            for lower, upper, matrix in _matrices(self.kernel, self.radius, grid, rows)
        ]
        return torch.cat(parts, dim=2)


def is_isotropic(kernel: KernelBasis) -> bool:
    """Whether every function of a basis of this package depends on the distance alone."""
    if isinstance(kernel, PolarHats):
        return kernel.n_angular == 1
    return isinstance(kernel, Radial) or (isinstance(kernel, (Zernike, WindowedFourier, Morlet)) and kernel.n == 1)


@torch.compiler.disable(recursive=True)
def _matrices(kernel: KernelBasis, radius: float, grid: SphereGrid, like: Tensor) -> list[tuple[int, int, Tensor]]:
    """Return, for each block of rows, the rows lower .. upper - 1 that the kernel reaches and their matrix (m, K, rows out, rows in)."""
    theta = colatitudes(grid.domain.points, grid.shape[0])
    found = []
    for first in range(0, len(theta), _ROWS):
        last = min(first + _ROWS, len(theta))
        lower, upper = (int(row) for row in np.searchsorted(theta, [theta[first] - radius, theta[last - 1] + radius]))
        matrix = _matrix(kernel, radius, grid, (first, last, lower, upper), device=like.device, dtype=like.real.dtype)
        found.append((lower, upper, torch.view_as_complex(matrix)))
    return found


@table
def _matrix(kernel: KernelBasis, radius: float, grid: SphereGrid, block: tuple[int, int, int, int], device) -> Tensor:
    """Return the transforms along longitude of psi_k times the quadrature weights, (m, K, rows out, rows in, 2)."""
    first, last, lower, upper = block
    nlon = grid.shape[1]
    theta = torch.as_tensor(colatitudes(grid.domain.points, grid.shape[0]), device=device)
    here, there = theta[first:last, None, None], theta[lower:upper, None]
    east = 2 * math.pi / nlon * torch.arange(nlon, dtype=torch.float64, device=device)
    psi = kernel_values(kernel, _offsets(here, there, east) / radius) / radius**2
    weights = grid.weights(device=device, dtype=torch.float64)[lower:upper] / grid.domain.radius**2
    values = torch.fft.rfft(psi * weights).conj().resolve_conj()  # of psi(difference of longitudes): a correlation
    return torch.view_as_real(values.permute(3, 0, 1, 2).contiguous())


def _offsets(here: Tensor, there: Tensor, east: Tensor) -> Tensor:
    """Return theta (cos alpha, sin alpha), (2, *), to points at colatitude `there`, `east` of points at colatitude `here`."""
    south = here.cos() * there.sin() * east.cos() - here.sin() * there.cos()
    across = (there.sin() * east.sin()).expand(south.shape)
    up = here.cos() * there.cos() + here.sin() * there.sin() * east.cos()
    sine = torch.hypot(south, across)
    stretch = torch.atan2(sine, up) / sine.clamp(min=torch.finfo(sine.dtype).tiny)
    return torch.stack([south, across]) * stretch


@table
def zonal_multipliers(kernel: KernelBasis, radius: float, degree: int, device) -> Tensor:
    """Return lambda_k(l) of isotropic functions, (K, degree + 1), by Gauss quadrature on each smooth piece."""
    u, w = _gauss(kernel.radial_breaks, 16 + math.ceil(radius * degree), device)
    t = radius * u
    psi = kernel_values(kernel, torch.stack([u, torch.zeros_like(u)]))
    x = t.cos()
    P = [torch.ones_like(x), x]
    for ell in range(2, degree + 1):
        P.append(((2 * ell - 1) * x * P[-1] - (ell - 1) * P[-2]) / ell)
    return 2 * math.pi / radius * (psi * t.sin() * w) @ torch.stack(P[: degree + 1], dim=1)


def _gauss(breaks: tuple[float, ...], count: int, device) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights between consecutive breaks."""
    x, w = np.polynomial.legendre.leggauss(count)
    pieces = [((a + b) / 2 + (b - a) / 2 * x, (b - a) / 2 * w) for a, b in zip(breaks, breaks[1:], strict=False)]
    return tuple(torch.as_tensor(np.concatenate(part), device=device) for part in zip(*pieces, strict=True))  # type: ignore[return-value]
