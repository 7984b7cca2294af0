"""Spherical harmonic transforms of scalar and vector fields, with triangular truncation.

    f(phi, lambda) = sum_{l=0}^{T} sum_{m=-l}^{l} f_lm Y_lm,     Y_lm = P_lm(sin phi) exp(i m lambda),     int |Y_lm|^2 dOmega = 1

| symbol        | meaning                                                                                       | shape               |
| ------------- | --------------------------------------------------------------------------------------------- | ------------------- |
| phi, lambda   | latitude and longitude in radians; mu = sin(phi)                                              |                     |
| T             | degree of the truncation, the largest l, included                                             |                     |
| P_lm          | Legendre functions, orthonormal with 1/sqrt(4 pi) inside, **no** Condon-Shortley phase        |                     |
| f_lm          | coefficients of the real field f, m >= 0 (f_l,-m is the conjugate)           | (..., T + 1, T + 1) |
| u, v          | eastward and northward components of a vector field                                           | (..., nlat, nlon)   |
| zeta, delta   | vorticity and divergence of (u, v)                                                            |                     |
| r             | radius of the sphere                                                                          |                     |

So Y_10 = sqrt(3/(4 pi)) mu and Y_11 = +sqrt(3/(8 pi)) cos(phi) exp(i lambda). For a real field f_l0 is real, the mean over the sphere
is f_00/sqrt(4 pi), and int f^2 dOmega = sum_l f_l0^2 + 2 sum_{m>0} |f_lm|^2. The coefficients do not depend on the radius.

Analysis is an FFT along longitude and a quadrature in latitude, synthesis its mirror image:

    F_m(phi) = (1/2 pi) int f exp(-i m lambda) dlambda,     f_lm = 2 pi sum_j w_j P_lm(mu_j) F_m(phi_j),     F_m = sum_l f_lm P_lm

A vector field is written by its vorticity and divergence, zeta = lap psi and delta = lap chi:

    u_m = (1/r) sum_l ( -psi_lm D_lm + i chi_lm Q_lm ),        D_lm = dP_lm/dphi,     Q_lm = m P_lm/cos(phi)
    v_m = (1/r) sum_l ( i psi_lm Q_lm + chi_lm D_lm )

    zeta_lm  = (2 pi/r) sum_j w_j ( i v_m Q_lm + u_m D_lm )
    delta_lm = (2 pi/r) sum_j w_j ( i u_m Q_lm - v_m D_lm )

The derivative has moved to the harmonics by parts: grid data are never differentiated. D and Q are built by recurrences that never divide
by cos(phi), so that rows at the poles hold the limit. All sums over l and over latitudes are matrix products, one per m, with the
batch and the real and imaginary parts as columns. P_lm is even or odd across the equator as l + m is, so only the northern rows
are stored and multiplied, even and odd degrees apart: half the work and half the memory. Few scalar fields of low degree (32, T = 42)
take one product over all rows, with twice the work and fewer copies: on one CPU core 1.1 to 3.5 times as fast.

Tables are built in float64. Blocks of orders m hold little more than l = m .. T, so that P takes about 4 (T + 1)^2 nlat/2 bytes in float64,
(Q, D) twice as much, and half of that in float32: with nlat = 3 (T + 1)/2, together 1.5 MB at T = 42, 7.8 MB at 85, 52 MB at 170 and
0.41 GB at 341; those over all rows add 1.9 MB at T = 42.

References
----------
P. N. Swarztrauber, The vector harmonic transform method for solving partial differential equations in spherical geometry, Mon. Weather
Rev. 121 (1993), 3415-3437. N. Schaeffer, Efficient spherical harmonic transforms aimed at pseudospectral numerical simulations,
Geochem. Geophys. Geosyst. 14 (2013), 751-758.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import looked_up, table
from opkernels.sphere import Sphere, SphereGrid, colatitudes, quadrature
from opkernels.transforms import uses_tf32

__all__ = ["Harmonics"]

_LOW = 42  # degrees up to which few scalar fields take one product over all rows


@dataclass(frozen=True)
class Harmonics:
    """Spherical harmonics up to a degree, and what is done with their coefficients.

    Coefficients are complex, (..., T + 1, T + 1), indexed (..., l, m); entries with m > l are zero on output and ignored on
    input, as are the imaginary parts of m = 0. In memory they lie as (..., m, l): the matrix products want them so.

    Parameters
    ----------
    degree : int
        T, the largest degree, included: l = 0 .. T, m = 0 .. l.

    Notes
    -----
    Any device, float32 or float64, any leading axes. Sums run over T terms, so errors are about 1e-15 T in float64.

    Examples
    --------
    >>> from opkernels import Sphere
    >>> grid = Sphere().grid(32, 64)
    >>> harmonics = Harmonics(grid.highest_degree)
    >>> latitude, longitude = grid.coordinates(dtype=torch.float64)
    >>> z = harmonics.analyze(latitude.sin(), grid)
    >>> round(z[1, 0].item().real, 6) == round((4 * torch.pi / 3) ** 0.5, 6)
    True
    """

    degree: int

    def __post_init__(self):
        T = self.degree
        if isinstance(T, bool) or not isinstance(T, (int, np.integer)) or T < 0:
            raise ValueError(f"Harmonics got degree={T!r}; give a whole number of at least 0")
        object.__setattr__(self, "degree", int(T))

    # -- scalar fields

    def analyze(self, x: Tensor, grid: SphereGrid) -> Tensor:
        """Return the coefficients (..., T + 1, T + 1) of samples x (..., nlat, nlon)."""
        x = self._samples(x, grid)
        if self._is_small(x):
            return self._analyze_small(x, grid)
        weights, *legendre = self._tables(_scalar_table, grid, x)
        with _exact(x):
            columns = _projected(legendre, self._folded(x[None], weights), 1)
            return self._coefficients(columns[:, :, 0], x.shape[:-2])[0]

    def synthesize(self, z: Tensor, grid: SphereGrid) -> Tensor:
        """Return the samples (..., nlat, nlon) of the function with coefficients z (..., T + 1, T + 1)."""
        self._check_coefficients(z, grid)
        if self._is_small(z):
            return self._synthesize_small(z, grid)
        _, *legendre = self._tables(_scalar_table, grid, z)
        with _exact(z):
            return self._unfolded(_summed(legendre, self._columns(z[None])[:, :, None]), z.shape[:-2], grid)[0]

    # -- vector fields

    def velocity(self, vorticity: Tensor, divergence: Tensor, grid: SphereGrid) -> tuple[Tensor, Tensor]:
        """Return the samples (u, v) of the vector field with these coefficients of vorticity and divergence.

        The means (l = 0) of both are ignored: no vector field has them.
        """
        self._check_coefficients(vorticity, grid)
        _check_pair("coefficients of vorticity and divergence", vorticity, divergence)
        scale = grid.domain.radius * self._inverse_eigenvalues(vorticity)
        return self._vector(scale * vorticity, scale * divergence, grid)

    def gradient(self, z: Tensor, grid: SphereGrid) -> tuple[Tensor, Tensor]:
        """Return the samples of the eastward and northward derivatives of the function with coefficients z."""
        self._check_coefficients(z, grid)
        z = z / grid.domain.radius
        return self._vector(torch.zeros_like(z), z, grid)

    def _vector(self, psi: Tensor, chi: Tensor, grid: SphereGrid) -> tuple[Tensor, Tensor]:
        """Return the samples of (i Q chi - D psi, i Q psi + D chi)."""
        self._check_coefficients(chi, grid)
        _, *legendre = self._tables(_vector_table, grid, psi)
        with _exact(psi):
            q = self._columns(1j * torch.stack([chi, psi]))
            d = self._columns(torch.stack([-psi, chi])).flip(1)
            u, v = self._unfolded(_summed(legendre, torch.stack([q, d], dim=2)), psi.shape[:-2], grid)
        return u, v

    def vorticity_divergence(self, u: Tensor, v: Tensor, grid: SphereGrid) -> tuple[Tensor, Tensor]:
        """Return the coefficients of vorticity and divergence of the vector field with samples (u, v)."""
        u, v = self._components(u, v, grid)
        weights, *legendre = self._tables(_vector_table, grid, u)
        with _exact(u):
            q, d = _projected(legendre, self._folded(torch.stack([u, v]), weights), 2).unbind(2)
            (qu, qv), (du, dv) = self._coefficients(q, u.shape[:-2]), self._coefficients(d.flip(1), u.shape[:-2])
        r = grid.domain.radius
        return (1j * qv + du) / r, (1j * qu - dv) / r

    def divergence(self, u: Tensor, v: Tensor, grid: SphereGrid) -> Tensor:
        """Return the coefficients of the divergence alone, for half the work of `vorticity_divergence`."""
        u, v = self._components(u, v, grid)
        weights, *legendre = self._tables(_vector_table, grid, u)
        with _exact(u):
            rows_u, rows_v = self._folded(torch.stack([u, v]), weights).chunk(2, dim=3)
            q, d = zip(*(block.chunk(2, dim=2) for block in legendre), strict=True)
            qu, dv = _projected(q, rows_u, 1)[:, :, 0], _projected(d, rows_v, 1)[:, :, 0].flip(1)
            qu, dv = self._coefficients(qu, u.shape[:-2]), self._coefficients(dv, u.shape[:-2])
        return (1j * qu - dv)[0] / grid.domain.radius

    # -- coefficients alone

    def laplacian(self, z: Tensor, sphere: Sphere) -> Tensor:
        """Return the coefficients of the Laplacian on `sphere`: -l (l + 1)/r^2 times z."""
        return z * (_eigenvalues(self.degree, device=z.device, dtype=z.real.dtype) / sphere.radius**2)

    def inverse_laplacian(self, z: Tensor, sphere: Sphere) -> Tensor:
        """Return the coefficients of the function of mean zero whose Laplacian is z (without its mean)."""
        return z * (sphere.radius**2 * self._inverse_eigenvalues(z))

    def spectrum(self, z: Tensor) -> Tensor:
        """Return the power of each degree, (..., T + 1): sum over all m of |z_lm|^2; its sum is the integral of f^2 dOmega."""
        power = z.real**2 + z.imag**2
        return 2 * power.tril().sum(-1) - power[..., 0]

    def resized(self, z: Tensor) -> Tensor:
        """Return coefficients of any degree cut, or filled up with zeros, to this one."""
        grown = self.degree + 1 - z.shape[-1]
        return torch.nn.functional.pad(z.mT, (0, grown, 0, grown)).mT

    def table_numbers(self, nlat: int) -> tuple[int, int]:
        """Return how many numbers the scalar and the vector tables hold for grids of `nlat` rows."""
        blocks = ((stop - first) * 2 * _pairs(self.degree - first) for first, stop in _blocks(self.degree))
        split = sum(blocks) * ((nlat + 1) // 2)
        whole = 2 * (self.degree + 1) ** 2 * nlat if self.degree <= _LOW else 0
        return split + whole, 2 * split

    # -- inside

    def _inverse_eigenvalues(self, z: Tensor) -> Tensor:
        return _inverse_eigenvalues(self.degree, device=z.device, dtype=z.real.dtype)

    def _check_grid(self, grid: SphereGrid) -> None:
        if not isinstance(grid, SphereGrid):
            raise ValueError(f"Harmonics got the grid {grid!r}; give one of a sphere, Sphere().grid(nlat, nlon)")
        if self.degree > grid.highest_degree:
            nlat, nlon = grid.shape
            raise ValueError(
                f'Harmonics got the degree {self.degree} on a grid of {nlat} x {nlon} points ("{grid.domain.points}"), which carries '
                f"degrees up to {grid.highest_degree}; lower the degree or refine the grid"
            )

    def _samples(self, x: Tensor, grid: SphereGrid) -> Tensor:
        """Refuse what does not fit the grid; half precisions become float32."""
        self._check_grid(grid)
        if tuple(x.shape[-2:]) != tuple(grid.shape) or not x.is_floating_point():
            nlat, nlon = grid.shape
            raise ValueError(
                f"got samples of shape {tuple(x.shape)} and dtype {x.dtype} on a grid of {nlat} latitudes and {nlon} longitudes; "
                f"expected real (..., {nlat}, {nlon})"
            )
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

    def _components(self, u: Tensor, v: Tensor, grid: SphereGrid) -> tuple[Tensor, Tensor]:
        """Refuse components that do not fit the grid or each other."""
        u, v = self._samples(u, grid), self._samples(v, grid)
        _check_pair("samples of u and v", u, v)
        return u, v

    def _check_coefficients(self, z: Tensor, grid: SphereGrid) -> None:
        self._check_grid(grid)
        size = self.degree + 1
        if tuple(z.shape[-2:]) != (size, size) or not z.is_complex():
            raise ValueError(
                f"Harmonics({self.degree}) got coefficients of shape {tuple(z.shape)} and dtype {z.dtype}; "
                f"expected complex (..., {size}, {size})"
            )

    def _tables(self, build: Callable[..., Tensor], grid: SphereGrid, like: Tensor) -> list[Tensor]:
        return looked_up(_found, build, grid.domain.points, grid.shape[0], self.degree, like.device, like.real.dtype)

    # Few scalar fields of low degree: one product over all rows and degrees. It has twice the operations and a third of the copies.

    def _is_small(self, x: Tensor) -> bool:
        return self.degree <= _LOW and math.prod(x.shape[:-2]) <= 32

    def _analyze_small(self, x: Tensor, grid: SphereGrid) -> Tensor:
        size, nlat = self.degree + 1, grid.shape[0]
        weighted, _ = looked_up(_whole_tables, grid.domain.points, nlat, self.degree, x.device, x.dtype)
        with _exact(x):
            rows = torch.view_as_real(torch.fft.rfft(x.reshape(-1, *x.shape[-2:]), norm="forward")[..., :size])
            z = _full_product(rows.permute(2, 0, 3, 1).reshape(size, -1, nlat), weighted)  # (m, columns, l)
        # not a view as complex: torch 2.13 cannot hand slices of those from one compiled graph to the next where sizes vary
        z = torch.complex(*z.view(size, -1, 2, size).transpose(0, 1).unbind(2))
        return z.reshape(*x.shape[:-2], size, size).mT

    def _synthesize_small(self, z: Tensor, grid: SphereGrid) -> Tensor:
        size, (nlat, nlon) = self.degree + 1, grid.shape
        _, legendre = looked_up(_whole_tables, grid.domain.points, nlat, self.degree, z.device, z.real.dtype)
        columns = torch.view_as_real(z.mT.reshape(-1, size, size).resolve_conj()).permute(1, 0, 3, 2)
        with _exact(z):
            rows = _full_product(columns.reshape(size, -1, size), legendre)  # (m, columns, latitude)
            rows[0, 1::2] = 0  # as in `_unfolded`
            rows = torch.view_as_complex(rows.view(size, -1, 2, nlat).permute(1, 3, 0, 2).contiguous())
            return torch.fft.irfft(rows, n=nlon, norm="forward").view(*z.shape[:-2], nlat, nlon)

    # Columns of the matrix products are real, (m, parity, row or degree, columns): parity 0 is even across the equator, 1 odd, and a
    # column is the real or the imaginary part of one field.

    def _folded(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted Fourier rows of samples (F, ..., nlat, nlon), north plus and minus south: (m, 2, nlat/2, columns)."""
        rows = torch.fft.rfft(x.reshape(-1, *x.shape[-2:]), norm="forward")[..., : self.degree + 1].permute(2, 1, 0)
        rows = torch.view_as_real(rows.contiguous()).flatten(2)
        plus, half = weights[0], weights.shape[1]
        return torch.addcmul((rows[:, :half] * plus)[:, None], weights, rows[:, -half:].flip(1)[:, None])

    def _unfolded(self, rows: Tensor, batch: tuple[int, ...], grid: SphereGrid) -> Tensor:
        """Return the samples (F, *batch, nlat, nlon) of Fourier rows (m, 2, nlat/2, columns)."""
        nlat, nlon = grid.shape
        even, odd = rows.unbind(1)
        rows = torch.cat([even + odd, (even - odd)[:, : nlat // 2].flip(1)], dim=1)
        rows[0, :, 1::2] = 0  # no imaginary part of m = 0: not every inverse FFT ignores it
        rows = torch.view_as_complex(rows.unflatten(2, (-1, 2))).transpose(1, 2).flatten(1)
        x = torch.fft.irfft(rows.T.contiguous(), n=nlon, norm="forward")  # transposed in two steps: one of three axes is slow on CPUs
        return x.reshape(-1, *batch, nlat, nlon)

    # A row m of coefficients holds l = 0 .. T, those of the products n = l - m = 0, 1, 2, ... with parities alternating. In memory
    # with rows of length 2 k for n, read as rows of length 2 k - 1, one is the other: n = l - m is a reshape. What spills over the end
    # of a row lands on l < m of the next, where the tables are zero.

    def _columns(self, z: Tensor) -> Tensor:
        """Return the coefficients (F, ..., l, m) as columns (m, 2, k, columns), n = 2 k + parity."""
        size, k = self.degree + 1, _pairs(self.degree)
        z = z.mT.reshape(-1, size, size)
        z = torch.nn.functional.pad(z, (0, 1)) if size < 2 * k - 1 else z
        z = torch.nn.functional.pad(z.flatten(1), (0, size)).view(-1, size, k, 2)
        return torch.view_as_real(z.permute(1, 3, 2, 0).contiguous()).flatten(3)

    def _coefficients(self, columns: Tensor, batch: tuple[int, ...]) -> Tensor:
        """Undo `_columns`: (F, *batch, l, m)."""
        size, k = self.degree + 1, _pairs(self.degree)
        z = torch.view_as_complex(columns.unflatten(3, (-1, 2))).transpose(1, 2).flatten(0, 2).T.contiguous()
        z = z[:, : size * (2 * k - 1)].unflatten(1, (size, 2 * k - 1))[..., :size]
        return z.reshape(-1, *batch, size, size).mT


def _check_pair(what: str, one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape or one.dtype != other.dtype:
        raise ValueError(
            f"got {what} of shapes {tuple(one.shape)} and {tuple(other.shape)} and dtypes {one.dtype} and {other.dtype}; give two alike"
        )


def _pairs(degree: int) -> int:
    """Return the number of n = l - m of one parity: such that 2 k - 1 >= degree + 1."""
    return (degree + 3) // 2


def _exact(x: Tensor):
    """No autocast inside."""
    return torch.autocast(x.device.type, enabled=False) if torch.is_autocast_enabled(x.device.type) else nullcontext()


def _projected(tables: Sequence[Tensor], rows: Tensor, parts: int) -> Tensor:
    """Multiply rows (m, 2, nlat/2, columns) by tables (block of m, 2, parts k, nlat/2): (m, 2, parts, k, columns)."""
    blocks, first = [], 0
    for block in tables:
        product = _product(block, rows[first : first + len(block)]).unflatten(2, (parts, -1))
        missing = _pairs(len(rows) - 1) - product.shape[3]
        blocks.append(torch.nn.functional.pad(product, (0, 0, 0, missing)) if missing else product)
        first += len(block)
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]


def _summed(tables: Sequence[Tensor], columns: Tensor) -> Tensor:
    """Multiply columns (m, 2, parts, k, columns) by the transposes of the tables of `_projected`: (m, 2, nlat/2, columns)."""
    blocks, first = [], 0
    for block in tables:
        part = columns[first : first + len(block), :, :, : block.shape[2] // columns.shape[2]]
        blocks.append(_product(block.mT, part.flatten(2, 3)))
        first += len(block)
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply matrices (m, 2, i, j) by columns (m, 2, j, columns)."""
    left, right, shape = left.flatten(0, 1), right.flatten(0, 1), left.shape[:2]
    if right.shape[2] <= 8:  # few columns: as rows they are twice to four times as fast on CPUs
        return _full_product(right.mT.contiguous(), left.mT).mT.contiguous().unflatten(0, shape)
    return _full_product(left, right).unflatten(0, shape)


def _full_product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply matrices (m, i, j) by (m, j, k), on GPUs too in all the bits of their dtype: TF32's ten are not enough for a transform."""
    if uses_tf32(left.device) and left.dtype == torch.float32:
        return torch.bmm(left.double(), right.double()).float()
    return torch.bmm(left, right)


def _blocks(degree: int) -> list[tuple[int, int]]:
    """Return ranges first .. stop - 1 of m. Degrees are l = m .. T: in blocks, tables hold little more than this triangle."""
    count = min(8, max(1, (degree + 1) // 22))
    edges = [(degree + 1) * b // count for b in range(count + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _found(build: Callable[..., Tensor], points: str, nlat: int, degree: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    blocks = [build(points, nlat, degree, first, stop, device=device, dtype=dtype) for first, stop in _blocks(degree)]
    return [_half_weights(points, nlat, device=device, dtype=dtype), *blocks]


def _whole_tables(points: str, nlat: int, degree: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    return [build(points, nlat, degree, device=device, dtype=dtype) for build in (_weighted_table, _whole_table)]


@table
def _whole_table(points: str, nlat: int, degree: int, device) -> Tensor:
    """P at all rows: (m, l, nlat)."""
    P = _legendre(points, int(nlat), degree, 0, degree + 1)
    ell, m = np.ogrid[: degree + 1, : degree + 1]
    P = np.concatenate([P, ((-1.0) ** (ell + m))[..., None] * P[..., : nlat // 2][..., ::-1]], axis=2)
    P[np.abs(P) < 1e-30] = 0
    return torch.as_tensor(P.swapaxes(0, 1).copy(), device=device)


@table
def _weighted_table(points: str, nlat: int, degree: int, device) -> Tensor:
    """2 pi w_j P_lm: (m, nlat, l)."""
    weights = torch.as_tensor(2 * math.pi * quadrature(points, int(nlat)), device=device)
    return (_whole_table(points, nlat, degree, device=device, dtype=torch.float64) * weights).mT.contiguous()


@table
def _half_weights(points: str, nlat: int, device) -> Tensor:
    """2 pi w_j of the northern rows, plus and minus: (2, nlat/2, 1). A row on the equator is its own mirror image: half on each side."""
    w = 2 * math.pi * quadrature(points, int(nlat))[: (nlat + 1) // 2]
    if nlat % 2:
        w[-1] /= 2
    return torch.as_tensor(np.stack([w, -w])[..., None], device=device)


@table
def _eigenvalues(degree: int, device) -> Tensor:
    """-l (l + 1) as a column: (degree + 1, 1)."""
    ell = torch.arange(degree + 1, dtype=torch.float64, device=device)[:, None]
    return -ell * (ell + 1)


@table
def _inverse_eigenvalues(degree: int, device) -> Tensor:
    """-1/(l (l + 1)), 0 for l = 0, as a column: (degree + 1, 1)."""
    ell = torch.arange(degree + 1, dtype=torch.float64, device=device)[:, None]
    return torch.where(ell > 0, -1 / (ell * (ell + 1)).clamp_min(1), 0.0)


@table
def _scalar_table(points: str, nlat: int, degree: int, first: int, stop: int, device) -> Tensor:
    """P at the northern rows, even and odd apart, for m = first .. stop - 1: (m, 2, k, nlat/2)."""
    return torch.as_tensor(_parted(_legendre(points, int(nlat), degree, first, stop), first), device=device)


@table
def _vector_table(points: str, nlat: int, degree: int, first: int, stop: int, device) -> Tensor:
    """Q of one parity over D of the other, which is even and odd across the equator as Q is: (m, 2, 2 k, nlat/2)."""
    P = _legendre(points, int(nlat), degree + 1, first - 1, stop + 1)
    ell, m = np.arange(degree + 1.0)[:, None, None], np.arange(first, stop)[:, None]
    q, d = _parted(_quotients(P, ell, m), first), _parted(_derivatives(P, ell, m), first)
    return torch.as_tensor(np.concatenate([q, d[:, ::-1]], axis=2), device=device)


def _parted(P: np.ndarray, first: int) -> np.ndarray:
    """(l, m, j) to (m, 2, k, j) with l = m + 2 k + parity, zero for l beyond the last. Tiny values would slow sums down (denormal)."""
    degree, rows = len(P) - 1, P.shape[2]
    parts = np.zeros((P.shape[1], 2 * _pairs(degree - first), rows))
    for i in range(len(parts)):
        parts[i, : degree + 1 - first - i] = P[first + i :, i]
    parts[np.abs(parts) < 1e-30] = 0
    return parts.reshape(len(parts), -1, 2, rows).swapaxes(1, 2)


def _legendre(points: str, nlat: int, degree: int, first: int, stop: int) -> np.ndarray:
    """P_lm at the northern rows and the equator, m = first .. stop - 1: (degree + 1, m, ceil(nlat/2)), zero for l < m and m = -1."""
    theta = colatitudes(points, nlat)[: (nlat + 1) // 2]
    k = np.arange(1.0, stop)
    P = np.zeros((degree + 1, stop - first, len(theta)))
    diagonal = np.cumprod(np.concatenate([[math.sqrt(1 / (4 * math.pi))], np.sqrt((2 * k + 1) / (2 * k))]))
    for ell in range(max(first, 0), degree + 1):
        m = np.arange(max(first, 0), min(ell, stop))[:, None]  # orders that have a lower degree
        here = slice(max(-first, 0), max(-first, 0) + len(m))
        if ell < stop:
            P[ell, ell - first] = diagonal[ell] * np.sin(theta) ** ell
        if len(m):
            P[ell, here] = np.cos(theta) * P[ell - 1, here]
            if ell > 1:
                P[ell, here] -= _epsilon(ell - 1, m) * P[ell - 2, here]
            P[ell, here] /= _epsilon(ell, m)
    return P


def _epsilon(ell: int, m: np.ndarray) -> np.ndarray:
    return np.sqrt((ell**2 - m**2).clip(0) / (4 * ell**2 - 1))


def _derivatives(P: np.ndarray, ell: np.ndarray, m: np.ndarray) -> np.ndarray:
    """D = dP/dphi = ( sqrt((l-m)(l+m+1)) P_l,m+1 - sqrt((l+m)(l-m+1)) P_l,m-1 )/2, without the half for m = 0.

    P holds one order more than m on either side.
    """
    above, below = np.sqrt(((ell - m) * (ell + m + 1)).clip(0)), np.sqrt(((ell + m) * (ell - m + 1)).clip(0))
    return (above * P[:-1, 2:] - below * P[:-1, :-2]) / np.where(m == 0, 1, 2)


def _quotients(P: np.ndarray, ell: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Q = m P/cos(phi) = sqrt((2l+1)/(2l+3)) ( sqrt((l-m+1)(l-m+2)) P_l+1,m-1 + sqrt((l+m+1)(l+m+2)) P_l+1,m+1 )/2, 0 for m = 0."""
    below, above = np.sqrt(((ell - m + 1) * (ell - m + 2)).clip(0)), np.sqrt((ell + m + 1) * (ell + m + 2))
    Q = np.sqrt((2 * ell + 1) / (2 * ell + 3)) / 2 * (below * P[1:, :-2] + above * P[1:, 2:])
    return Q * ((m > 0) & (m <= ell))
