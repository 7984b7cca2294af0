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
are stored and multiplied, even and odd degrees apart: half the work and half the memory.

Tables are built in float64. P takes 4 (T + 1)^2 nlat bytes and (Q, D) twice as much, half of that in float32: with nlat = 3 (T + 1)/2
together 5.6 MB at T = 42, 45 MB at T = 85, 360 MB at T = 170, 2.9 GB at T = 341.

References
----------
P. N. Swarztrauber, The vector harmonic transform method for solving partial differential equations in spherical geometry, Mon. Weather
Rev. 121 (1993), 3415-3437. N. Schaeffer, Efficient spherical harmonic transforms aimed at pseudospectral numerical simulations,
Geochem. Geophys. Geosyst. 14 (2013), 751-758.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import table
from opkernels.sphere import Sphere, SphereGrid, colatitudes, quadrature

__all__ = ["Harmonics"]


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
        self._check_grid(grid)
        x = _checked_samples(x, grid)
        with _exact(x):
            rows = self._folded(x[None], grid)
            return self._coefficients(_product(self._table("scalar", grid, x), rows), x.shape[:-2])[0]

    def synthesize(self, z: Tensor, grid: SphereGrid) -> Tensor:
        """Return the samples (..., nlat, nlon) of the function with coefficients z (..., T + 1, T + 1)."""
        self._check_grid(grid)
        self._check_coefficients(z)
        with _exact(z):
            columns = self._columns(z[None])
            return self._unfolded(_product(self._table("scalar", grid, z).mT, columns), z.shape[:-2], grid)[0]

    # -- vector fields

    def velocity(self, vorticity: Tensor, divergence: Tensor, grid: SphereGrid) -> tuple[Tensor, Tensor]:
        """Return the samples (u, v) of the vector field with these coefficients of vorticity and divergence.

        The means (l = 0) of both are ignored: no vector field has them.
        """
        scale = grid.domain.radius * self._inverse_eigenvalues(vorticity)
        return self._vector(scale * vorticity, scale * divergence, grid)

    def gradient(self, z: Tensor, grid: SphereGrid) -> tuple[Tensor, Tensor]:
        """Return the samples of the eastward and northward derivatives of the function with coefficients z."""
        z = z / grid.domain.radius
        return self._vector(torch.zeros_like(z), z, grid)

    def _vector(self, psi: Tensor, chi: Tensor, grid: SphereGrid) -> tuple[Tensor, Tensor]:
        """Return the samples of (-D psi + i Q chi, i Q psi + D chi)."""
        self._check_grid(grid)
        self._check_coefficients(psi)
        self._check_coefficients(chi)
        with _exact(psi):
            q = self._columns(1j * torch.stack([chi, psi]))
            d = self._columns(torch.stack([-psi, chi])).flip(0)
            products = _product(self._table("vector", grid, psi).mT, torch.cat([q, d], dim=2))
            u, v = self._unfolded(products, psi.shape[:-2], grid)
        return u, v

    def vorticity_divergence(self, u: Tensor, v: Tensor, grid: SphereGrid) -> tuple[Tensor, Tensor]:
        """Return the coefficients of vorticity and divergence of the vector field with samples (u, v)."""
        self._check_grid(grid)
        u, v = _checked_samples(u, grid), _checked_samples(v, grid)
        with _exact(u):
            products = _product(self._table("vector", grid, u), self._folded(torch.stack([u, v]), grid))
            q, d = products.chunk(2, dim=2)
            (qu, qv), (du, dv) = self._coefficients(q, u.shape[:-2]), self._coefficients(d.flip(0), u.shape[:-2])
        r = grid.domain.radius
        return (1j * qv + du) / r, (1j * qu - dv) / r

    def divergence(self, u: Tensor, v: Tensor, grid: SphereGrid) -> Tensor:
        """Return the coefficients of the divergence alone, for half the work of `vorticity_divergence`."""
        self._check_grid(grid)
        u, v = _checked_samples(u, grid), _checked_samples(v, grid)
        with _exact(u):
            rows = self._folded(torch.stack([u, v]), grid)
            ru, rv = rows.chunk(2, dim=3)
            q, d = self._table("vector", grid, u).chunk(2, dim=2)
            qu, dv = self._coefficients(_product(q, ru), u.shape[:-2]), self._coefficients(_product(d, rv).flip(0), u.shape[:-2])
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

    def _check_coefficients(self, z: Tensor) -> None:
        size = self.degree + 1
        if z.ndim < 2 or tuple(z.shape[-2:]) != (size, size) or not z.is_complex():
            raise ValueError(
                f"Harmonics({self.degree}) got coefficients of shape {tuple(z.shape)} and dtype {z.dtype}; "
                f"expected complex (..., {size}, {size})"
            )

    def _table(self, kind: str, grid: SphereGrid, like: Tensor) -> Tensor:
        build = _scalar_table if kind == "scalar" else _vector_table
        return build(grid.domain.points, grid.shape[0], self.degree, device=like.device, dtype=like.real.dtype)

    def _folded(self, x: Tensor, grid: SphereGrid) -> Tensor:
        """Weighted Fourier rows of samples (F, ..., nlat, nlon), north plus and minus south: (2, m, nlat/2, columns)."""
        nlat = grid.shape[0]
        half = (nlat + 1) // 2
        rows = torch.view_as_real(torch.fft.rfft(x.reshape(-1, *grid.shape), norm="forward")[..., : self.degree + 1])
        rows = rows.permute(2, 1, 0, 3).reshape(self.degree + 1, nlat, -1)
        rows = rows * _half_weights(grid.domain.points, nlat, device=x.device, dtype=x.dtype)[:, None]
        north, south = rows[:, :half], rows.flip(1)[:, :half]
        return torch.stack([north, north]) + _signs(self.degree, device=x.device, dtype=x.dtype) * south

    def _unfolded(self, products: Tensor, batch: tuple[int, ...], grid: SphereGrid) -> Tensor:
        """Return samples (F, *batch, nlat, nlon) from the northern values of even and odd parts (2, m, nlat/2, columns)."""
        nlat, nlon = grid.shape
        even, odd = products
        north = even + odd
        south = (even - odd) * _signs(self.degree, device=products.device, dtype=products.dtype)[0]
        rows = torch.cat([north, south[:, : nlat // 2].flip(1)], dim=1)
        rows = rows.reshape(self.degree + 1, nlat, -1, 2).permute(2, 1, 0, 3).contiguous()
        x = torch.fft.irfft(torch.view_as_complex(rows), n=nlon, norm="forward")
        return x.reshape(-1, *batch, nlat, nlon)

    def _columns(self, z: Tensor) -> Tensor:
        """Coefficients (F, ..., l, m) as real columns, even and odd degrees apart: (2, m, degrees/2, columns)."""
        size = self.degree + 1
        z = torch.view_as_real(z.mT.reshape(-1, size, size))
        z = torch.nn.functional.pad(z, (0, 0, 0, size % 2)).reshape(-1, size, (size + 1) // 2, 2, 2)
        return z.permute(3, 1, 2, 0, 4).flatten(3)

    def _coefficients(self, products: Tensor, batch: tuple[int, ...]) -> Tensor:
        """Undo `_columns`: (F, *batch, l, m)."""
        size, k = self.degree + 1, products.shape[2]
        z = products.reshape(2, size, k, -1, 2).permute(3, 1, 2, 0, 4).reshape(-1, size, 2 * k, 2)
        return torch.view_as_complex(z)[..., :size].reshape(-1, *batch, size, size).mT


def _checked_samples(x: Tensor, grid: SphereGrid) -> Tensor:
    if tuple(x.shape[-2:]) != tuple(grid.shape) or not x.is_floating_point():
        raise ValueError(
            f"got samples of shape {tuple(x.shape)} and dtype {x.dtype} on a grid of {grid.shape[0]} latitudes and "
            f"{grid.shape[1]} longitudes; expected real (..., {grid.shape[0]}, {grid.shape[1]})"
        )
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _exact(x: Tensor):
    """No autocast inside."""
    return torch.autocast(x.device.type, enabled=False) if torch.amp.is_autocast_available(x.device.type) else nullcontext()


def _product(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left.flatten(0, 1), right.flatten(0, 1)).unflatten(0, left.shape[:2])


@table
def _half_weights(points: str, nlat: int, device) -> Tensor:
    """2 pi w_j; the row on the equator is its own mirror image and counts half on each side."""
    w = 2 * math.pi * quadrature(points, int(nlat))
    if nlat % 2:
        w[nlat // 2] /= 2
    return torch.as_tensor(w, device=device)


@table
def _signs(degree: int, device) -> Tensor:
    """Parity (-1)^(s + m) of the degrees l = s, s + 2, ...: (2, degree + 1, 1, 1)."""
    m = torch.arange(degree + 1, device=device) % 2
    sign = (1 - 2 * m).double()
    return torch.stack([sign, -sign])[..., None, None]


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
def _scalar_table(points: str, nlat: int, degree: int, device) -> Tensor:
    """P at the northern rows, even and odd degrees apart: (2, m, degrees/2, nlat/2)."""
    return torch.as_tensor(_parted(_legendre(points, int(nlat), int(degree))), device=device)


@table
def _vector_table(points: str, nlat: int, degree: int, device) -> Tensor:
    """Q of one parity over D of the other, which is even and odd across the equator as Q is: (2, m, degrees, nlat/2)."""
    P = _legendre(points, int(nlat), int(degree) + 1)
    q, d = _parted(_quotients(P)), _parted(_derivatives(P))
    return torch.as_tensor(np.concatenate([q, d[::-1]], axis=2), device=device)


def _parted(P: np.ndarray) -> np.ndarray:
    """(l, m, j) to (s, m, k, j) with l = s + 2 k."""
    size = len(P)
    P = np.concatenate([P, np.zeros_like(P[: size % 2])])
    return np.ascontiguousarray(P.reshape(-1, 2, *P.shape[1:]).transpose(1, 2, 0, 3))


def _legendre(points: str, nlat: int, degree: int) -> np.ndarray:
    """P_lm at the northern rows and the equator: (degree + 1, degree + 1, ceil(nlat/2)), zero for m > l."""
    theta = colatitudes(points, nlat)[: (nlat + 1) // 2]
    mu, cos = np.cos(theta), np.sin(theta)
    P = np.zeros((degree + 1, degree + 1, len(mu)))
    m = np.arange(degree + 1.0)[:, None]
    P[0, 0] = 1 / math.sqrt(4 * math.pi)
    for ell in range(1, degree + 1):
        P[ell, ell] = math.sqrt((2 * ell + 1) / (2 * ell)) * cos * P[ell - 1, ell - 1]
        below = m[:ell]
        P[ell, :ell] = mu * P[ell - 1, :ell]
        if ell > 1:
            P[ell, :ell] -= _epsilon(ell - 1, below) * P[ell - 2, :ell]
        P[ell, :ell] /= _epsilon(ell, below)
    return P


def _epsilon(ell: int, m: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(ell**2 - m**2, 0) / (4 * ell**2 - 1))


def _derivatives(P: np.ndarray) -> np.ndarray:
    """D = dP/dphi = ( sqrt((l-m)(l+m+1)) P_l,m+1 - sqrt((l+m)(l-m+1)) P_l,m-1 )/2, for degrees below the last of P."""
    T = len(P) - 2
    ell, m = np.arange(T + 1.0)[:, None, None], np.arange(T + 1.0)[:, None]
    D = np.sqrt(np.maximum((ell - m) * (ell + m + 1), 0)) * P[:-1, 1:] / 2
    D[:, 0] *= 2
    D[:, 1:] -= np.sqrt(np.maximum((ell + m) * (ell - m + 1), 0))[:, 1:] * P[:-1, :-2] / 2
    return D


def _quotients(P: np.ndarray) -> np.ndarray:
    """Q = m P/cos(phi) = sqrt((2l+1)/(2l+3)) ( sqrt((l-m+1)(l-m+2)) P_l+1,m-1 + sqrt((l+m+1)(l+m+2)) P_l+1,m+1 )/2, as `_derivatives`."""
    T = len(P) - 2
    ell, m = np.arange(T + 1.0)[:, None, None], np.arange(T + 1.0)[:, None]
    scale = np.sqrt((2 * ell + 1) / (2 * ell + 3)) / 2
    Q = scale * np.sqrt((ell + m + 1) * (ell + m + 2)) * P[1:, 1:]
    Q[:, 1:] += (scale * np.sqrt(np.maximum((ell - m + 1) * (ell - m + 2), 0)))[:, 1:] * P[1:, :-2]
    Q[:, 0] = 0
    return Q * (m <= ell)
