"""Continuous kernels of compact support: functions of a physical offset, sampled and Fourier transformed on demand.

    kappa(z) = sum_k W_k psi_k(z),    psi_k(z) = r^-d phi_k(z/r),    phi_k = 0 outside the unit ball

A basis offers the dimensionless phi_k alone; `kernel_values` normalizes them to int phi_k^2 = 1 over the ball, so that the
gain of psi_k does not depend on the radius r or on any grid. `transfer` gives what a convolution with psi_k multiplies a
wave by,

    psi~_k(xi) = int psi_k(z) exp(i xi . z) dz = phi~_k(r xi),

for int psi_k(y - x) v(y) dy, the sign of a correlation. The integral is a Gauss rule per smooth piece in polar coordinates,
with as many nodes as the highest wave number needs for rounding error.

| basis             | phi before normalization                                         | axes   | K                                  |
| ----------------- | ---------------------------------------------------------------- | ------ | ---------------------------------- |
| `PolarHats`       | hat of the distance times a piecewise linear function of the direction | 1 to 3 | (n_r // 2) n_phi + n_r % 2   |
| `Zernike`         | ``R_n^|m|(u) cos m phi or sin |m| phi``, times (1 - u^2)^s       | 2      | n (n + 1)/2                        |
| `WindowedFourier` | product over the axes of cos or sin(j pi z_a), times (1 - u^2)^s | 1 to 3 | n^d                                |
| `Morlet`          | the same product times cos^2(pi u/2)                             | 1 to 3 | n^d                                |
| `Radial`          | Jacobi P_j^(2s, d/2 - 1)(2 u^2 - 1) times (1 - u^2)^s            | 1 to 3 | n                                  |

u = |z|. Without the window (s = 0) a kernel jumps at the rim, which a sum over samples resolves at first order only, and on
a grid that divides the radius rounding decides which samples count; s = 1 or 2 makes that second order or better.

References: Ocampo, Price, McEwen, ICLR 2023, arXiv 2209.13603 (discrete-continuous convolution); Liu-Schiaffini et al.,
ICML 2024, arXiv 2402.16845; Born and Wolf, Principles of Optics, section 9.2 (Zernike polynomials). The harmonic functions
of `Morlet` are those that torch-harmonics calls so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import MISSING, astuple, dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import table
from opkernels.layers.product_kernels import Bumps, Chebyshev, Fourier, ProductKernel, Spline

__all__ = [
    "KernelBasis",
    "Morlet",
    "PolarHats",
    "Radial",
    "WindowedFourier",
    "Zernike",
    "basis_norms",
    "kernel_from",
    "kernel_to",
    "kernel_values",
    "transfer",
]


class KernelBasis(Protocol):
    """What the functions of this file ask of a basis: hashable, with the members below."""

    @property
    def n_dim(self) -> int:
        """Number of axes d."""
        ...

    @property
    def size(self) -> int:
        """Number of functions K."""
        ...

    @property
    def radial_breaks(self) -> tuple[float, ...]:
        """Distances 0 .. 1 between which every phi_k is smooth."""
        ...

    @property
    def angular_pieces(self) -> int:
        """Number of equal sectors, the first from angle 0 on, in which every phi_k is smooth."""
        ...

    def raw(self, z: Tensor) -> Tensor:
        """Return phi_k before normalization, (K, *), at offsets z (d, *) in the unit ball."""
        ...


@dataclass(frozen=True)
class PolarHats:
    """Piecewise linear functions of the distance and the direction; their sum is one up to the last ring.

    Parameters
    ----------
    n_radial : int
        Hats over a diameter: with 3, one at the center and one ring; with 2, one ring alone.
    n_angular : int
        Hats per ring; 1 makes the kernel isotropic. On two axes any number, hat k pointing to the bearing 2 pi k/n_angular
        from the first axis; on one axis 2 (right, left), on three 6 (both ways along each axis, in their order).
    n_dim : int
        One to three axes.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    With even numbers the published functions depend on the direction even at the center: their slope across a bearing grows
    as 1/distance there and a sum over samples errs by O(h^2 log(1/h)). Here all hats of the innermost ring are linear in the
    distance from the common value 1/n_angular at the center, which leaves O(h^2).
    """

    n_radial: int = 3
    n_angular: int = 4
    n_dim: int = 2

    def __post_init__(self):
        allowed = {1: (1, 2), 2: range(1, 1000), 3: (1, 6)}.get(self.n_dim, ())
        if self.n_radial < 1 or self.n_angular not in allowed:
            raise ValueError(
                f"PolarHats got n_radial={self.n_radial}, n_angular={self.n_angular}, n_dim={self.n_dim}; give at least one of each, "
                "n_angular 1 or 2 on one axis and 1 or 6 on three"
            )

    @property
    def size(self) -> int:
        """Number of functions."""
        return self.n_radial // 2 * self.n_angular + self.n_radial % 2

    @property
    def radial_breaks(self) -> tuple[float, ...]:
        """The rings."""
        return tuple(sorted({0.0, *self._rings(), 1.0}))

    @property
    def angular_pieces(self) -> int:
        """The sectors between the bearings; quadrants on three axes."""
        return 4 if self.n_dim == 3 else self.n_angular

    def _rings(self) -> list[float]:
        step = 2 / (self.n_radial + 1)
        return [(i + 1 - 0.5 * (self.n_radial % 2 == 0)) * step for i in range(self.n_radial // 2)]

    def raw(self, z: Tensor) -> Tensor:
        """Return phi_k before normalization, (K, *), at offsets z (d, *)."""
        rho, step = z.square().sum(0).sqrt(), 2 / (self.n_radial + 1)
        directions = self._directions(z)
        functions = [_hat(rho / step)[None]] if self.n_radial % 2 else []
        for ring in self._rings():
            hat = _hat((rho - ring) / step) * directions
            if ring < step:  # no hat at the center: the ring's own reach it
                share = (rho / ring).clamp(max=1)
                hat = torch.where(rho < ring, share * directions + (1 - share) / self.n_angular, hat)
            functions.append(hat)
        return torch.cat(functions)

    def _directions(self, z: Tensor) -> Tensor:
        """Hats of the direction, (n_angular, *), whose sum is one."""
        if self.n_angular == 1:
            return torch.ones_like(z[:1])
        if self.n_dim == 1:
            right = (z >= 0).to(z.dtype)
            return torch.cat([right, 1 - right])
        if self.n_dim == 3:  # barycentric on the faces of an octahedron
            both = torch.stack([z, -z], 1).clamp(min=0).flatten(0, 1)
            return both / z.abs().sum(0).clamp(min=torch.finfo(z.dtype).tiny)
        bearings = 2 * math.pi / self.n_angular * torch.arange(self.n_angular, dtype=z.dtype, device=z.device)
        distance = torch.atan2(z[1], z[0]) - bearings.view(-1, *[1] * (z.ndim - 1))
        distance = torch.remainder(distance + math.pi, 2 * math.pi) - math.pi
        return _hat(distance * self.n_angular / (2 * math.pi))


@dataclass(frozen=True)
class Zernike:
    """Zernike polynomials of degree below n on the disk, times a window.

    Parameters
    ----------
    n : int
        Degrees 0 .. n - 1; 3 or 4 are usual.
    window : int
        The power s; with 0 the functions are orthogonal, but jump at the rim.

    Raises
    ------
    ValueError
        If n is below one or the power below zero.
    """

    n: int = 3
    window: int = 2

    def __post_init__(self):
        _check_window("Zernike", self.n, self.window)

    @property
    def n_dim(self) -> int:
        """Two axes."""
        return 2

    @property
    def size(self) -> int:
        """Number of functions."""
        return self.n * (self.n + 1) // 2

    @property
    def radial_breaks(self) -> tuple[float, ...]:
        """Smooth inside the disk."""
        return (0.0, 1.0)

    @property
    def angular_pieces(self) -> int:
        """Quadrants, for short Gauss rules."""
        return 4

    @property
    def indices(self) -> tuple[tuple[int, int], ...]:
        """Degree n and angular order m of each function; m < 0 stands for the sine."""
        return tuple((n, 2 * i - n) for n in range(self.n) for i in range(n + 1))

    def raw(self, z: Tensor) -> Tensor:
        """Return phi_k before normalization, (K, *), at offsets z (2, *)."""
        u, phi = torch.hypot(z[0], z[1]), torch.atan2(z[1], z[0])
        functions = []
        for n, m in self.indices:
            a = abs(m)
            radial = torch.zeros_like(u)
            for k in range((n - a) // 2 + 1):
                c = (-1) ** k * math.comb(n - k, k) * math.comb(n - 2 * k, (n - a) // 2 - k)
                radial = radial + c * u ** (n - 2 * k)
            functions.append(radial * (torch.cos(m * phi) if m >= 0 else torch.sin(a * phi)))
        return torch.stack(functions) * _window(u, self.window)


@dataclass(frozen=True)
class WindowedFourier:
    """Products of 1, sin(pi z), cos(pi z), sin(2 pi z), ... of each offset, times a window.

    Parameters
    ----------
    n_dim : int
        One to three axes.
    n : int
        Functions per axis; 3 is usual.
    window : int
        The power s.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    n_dim: int
    n: int = 3
    window: int = 2

    def __post_init__(self):
        _check_sizes("WindowedFourier", self.n_dim, self.n, self.window)

    @property
    def size(self) -> int:
        """Number of functions."""
        return self.n**self.n_dim

    @property
    def radial_breaks(self) -> tuple[float, ...]:
        """Smooth inside the ball."""
        return (0.0, 1.0)

    @property
    def angular_pieces(self) -> int:
        """Quadrants, for short Gauss rules."""
        return 4

    def raw(self, z: Tensor) -> Tensor:
        """Return phi_k before normalization, (K, *), at offsets z (d, *)."""
        return _waves(z, self.n) * _window(z.square().sum(0).sqrt(), self.window)


@dataclass(frozen=True)
class Morlet:
    """The functions of `WindowedFourier` under the window cos^2(pi u/2), whose slope vanishes at the rim.

    Parameters
    ----------
    n_dim : int
        One to three axes.
    n : int
        Functions per axis; 3 is usual.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    n_dim: int = 2
    n: int = 3

    def __post_init__(self):
        _check_sizes("Morlet", self.n_dim, self.n)

    @property
    def size(self) -> int:
        """Number of functions."""
        return self.n**self.n_dim

    @property
    def radial_breaks(self) -> tuple[float, ...]:
        """Smooth inside the ball."""
        return (0.0, 1.0)

    @property
    def angular_pieces(self) -> int:
        """Quadrants, for short Gauss rules."""
        return 4

    def raw(self, z: Tensor) -> Tensor:
        """Return phi_k before normalization, (K, *), at offsets z (d, *)."""
        return _waves(z, self.n) * torch.cos(math.pi / 2 * z.square().sum(0).sqrt()).square()


@dataclass(frozen=True)
class Radial:
    """Functions of the distance alone, orthogonal on the ball: the layer commutes with every rotation and reflection.

    Parameters
    ----------
    n_dim : int
        One to three axes.
    n : int
        Number of functions; 3 to 5.
    window : int
        The power s.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    n_dim: int = 2
    n: int = 3
    window: int = 2

    def __post_init__(self):
        _check_sizes("Radial", self.n_dim, self.n, self.window)

    @property
    def size(self) -> int:
        """Number of functions."""
        return self.n

    @property
    def radial_breaks(self) -> tuple[float, ...]:
        """Smooth inside the ball."""
        return (0.0, 1.0)

    @property
    def angular_pieces(self) -> int:
        """Quadrants, for short Gauss rules."""
        return 4

    def raw(self, z: Tensor) -> Tensor:
        """Return phi_k before normalization, (K, *), at offsets z (d, *)."""
        u2 = z.square().sum(0)
        x, a, b = 2 * u2 - 1, 2 * self.window, self.n_dim / 2 - 1
        t = [torch.ones_like(x), a + 1 + (a + b + 2) / 2 * (x - 1)]
        for j in range(2, self.n):
            c = 2 * j + a + b
            above = (c - 1) * (c * (c - 2) * x + a**2 - b**2) * t[-1] - 2 * (j + a - 1) * (j + b - 1) * c * t[-2]
            t.append(above / (2 * j * (j + a + b) * (c - 2)))
        return torch.stack(t[: self.n]) * (1 - u2).clamp(min=0) ** self.window


def kernel_to(kernel: KernelBasis | list | tuple | None) -> KernelBasis | tuple | None:
    """Return a basis of this file, or a product kernel, as plain data, its name and arguments; anything else as it is."""
    if isinstance(kernel, (PolarHats, Zernike, WindowedFourier, Morlet, Radial)):
        return (type(kernel).__name__, *astuple(kernel))
    if isinstance(kernel, ProductKernel):
        families = tuple((type(family).__name__, *astuple(family)) for family in kernel.families)  # pyright: ignore[reportArgumentType]
        return ("ProductKernel", families, kernel.coordinates, kernel.window, kernel.parity)
    return tuple(kernel) if isinstance(kernel, list) else kernel


def kernel_from(kernel: KernelBasis | list | tuple | None) -> KernelBasis | None:
    """Return the basis that a name and numbers mean, as ``("Zernike", 4)``; a basis or None as it is."""
    if isinstance(kernel, (list, tuple)):
        name, *numbers = kernel or ("",)
        if name == "ProductKernel":
            return _product_kernel(kernel)
        if name not in _NAMED or not all(isinstance(number, int) for number in numbers):
            raise ValueError(f"got the kernel {kernel!r}; give a name of {', '.join(_NAMED)} and its whole numbers, such as ('Zernike', 4)")
        names = [f.name for f in fields(_NAMED[name])]
        least = sum(f.default is MISSING for f in fields(_NAMED[name]))
        if not least <= len(numbers) <= len(names):
            raise ValueError(f"got the kernel {kernel!r}; after {name} give {least} to {len(names)} whole numbers: {', '.join(names)}")
        return _NAMED[name](*numbers)
    if kernel is not None and not hasattr(kernel, "raw"):
        raise ValueError(f"got the kernel {kernel!r}; give a KernelBasis, such as PolarHats(3, 4), or its name and numbers")
    return kernel


def _product_kernel(kernel: list | tuple) -> ProductKernel:
    """Return the product kernel that `kernel_to` wrote."""
    try:
        _, families, coordinates, window, parity = kernel
        members = tuple(_FAMILIES[name](*arguments) for name, *arguments in families)
        return ProductKernel(members, coordinates, window, parity)
    except (KeyError, TypeError, ValueError) as error:
        example = "('ProductKernel', (('Fourier', 2), ('Fourier', 2)), 'cartesian', 'poly6', 'both')"
        raise ValueError(f"got the kernel {kernel!r}; give families, coordinates, window and parity, such as {example}") from error


_FAMILIES = {kind.__name__: kind for kind in (Fourier, Chebyshev, Spline, Bumps)}
_NAMED = {kind.__name__: kind for kind in (PolarHats, Zernike, WindowedFourier, Morlet, Radial)}


def _check_sizes(who: str, n_dim: int, n: int, window: int = 0) -> None:
    _check_window(who, n, window)
    if n_dim not in (1, 2, 3):
        raise ValueError(f"{who} got n_dim={n_dim}; give 1, 2 or 3")


def _waves(z: Tensor, n: int) -> Tensor:
    """Products over the axes of 1, sin(pi z), cos(pi z), sin(2 pi z), ...: (n^d, *)."""
    waves = [[(torch.sin if j % 2 else torch.cos)((j + 1) // 2 * math.pi * s) for j in range(n)] for s in z]
    return torch.stack([math.prod(factors[1:], start=factors[0]) for factors in itertools.product(*waves)])


def _check_window(who: str, n: int, window: int) -> None:
    if n < 1 or window < 0:
        raise ValueError(f"{who} got n={n}, window={window}; give n of at least one and a window of at least zero")


def _hat(t: Tensor) -> Tensor:
    return (1 - t.abs()).clamp(min=0)


def _window(u: Tensor, power: int) -> Tensor:
    return (1 - u.square()).clamp(min=0) ** power


def kernel_values(basis: KernelBasis, z: Tensor) -> Tensor:
    """Return phi_k, (K, *), at offsets z (d, *) in units of the radius: L2-normalized, zero outside the unit ball."""
    # what sits on the rim is outside, whichever way its offset was computed and rounded
    inside = z.square().sum(0) < 1 - 32 * torch.finfo(z.dtype).eps
    norms = basis_norms(basis, device=z.device, dtype=z.dtype).view(-1, *[1] * (z.ndim - 1))
    return basis.raw(z) * inside / norms


@table
def basis_norms(basis: KernelBasis, device) -> Tensor:
    """Square roots of int phi_k^2 before normalization, (K,)."""
    z, weights = _ball(basis, 0.0, device)
    return (basis.raw(z).square() @ weights).sqrt()


def transfer(basis: KernelBasis, xi: Sequence[Tensor], top: float) -> Tensor:
    """Return phi~_k on a tensor grid of dimensionless wave numbers r xi, complex128.

    Parameters
    ----------
    basis : KernelBasis
    xi : sequence of d tensors (n_a,), float64
        Wave numbers per axis times the radius.
    top : float
        The largest |xi| for which the result is exact to rounding.

    Returns
    -------
    Tensor, (K, n_1, ..., n_d)
    """
    z, weights = _ball(basis, top, xi[0].device)
    f = (kernel_values(basis, z) * weights).to(torch.complex128)
    if basis.n_dim < 3:
        waves = [_waves_at(k, s) for k, s in zip(xi, z, strict=True)]
        return torch.stack([_contract(row, waves) for row in f])
    # the third coordinate of a node, rho cos theta, does not depend on phi: sum over phi first
    z, f = z.unflatten(1, _ball_shape(basis, top)), f.unflatten(1, _ball_shape(basis, top))
    total = torch.zeros(basis.size, *map(len, xi), dtype=torch.complex128, device=z.device)
    for i in range(z.shape[1]):
        first, second = (_waves_at(k, s) for k, s in zip(xi[:2], z[:2, i], strict=True))
        third = _waves_at(xi[2], z[2, i, :, 0])
        for row, values in zip(total, f[:, i], strict=True):
            planes = torch.einsum("atp,btp->tab", first * values, second)
            row += torch.einsum("tab,ct->abc", planes, third)
    return total


def _waves_at(k: Tensor, s: Tensor) -> Tensor:
    """Return exp(i k s), (len(k), *)."""
    phase = k.view(-1, *[1] * s.ndim) * s
    return torch.polar(torch.ones_like(phase), phase)


def _contract(f: Tensor, waves: Sequence[Tensor]) -> Tensor:
    """Return sum_q f(q) prod_a waves_a(., q), (n_1,) or (n_1, n_2)."""
    return waves[0] @ f if len(waves) == 1 else (f * waves[0]) @ waves[1].T


def _ball(basis: KernelBasis, top: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes (d, Q) and weights (Q,) over the unit ball, exact to rounding for waves up to wave number `top`."""
    d = basis.n_dim
    rho, w_rho = _gauss(basis.radial_breaks, top, device)
    if d == 1:
        return torch.cat([-rho, rho])[None], torch.cat([w_rho, w_rho])
    sectors = [2 * math.pi * i / basis.angular_pieces for i in range(basis.angular_pieces + 1)]
    phi, w_phi = _gauss(sectors, top, device)
    if d == 2:
        z = torch.stack([rho[:, None] * phi.cos(), rho[:, None] * phi.sin()])
        return z.flatten(1), ((rho * w_rho)[:, None] * w_phi).flatten()
    theta, w_theta = _gauss(_POLES, top, device)
    c, s, w_c = theta.cos()[:, None], theta.sin()[:, None], theta.sin() * w_theta
    sphere = torch.stack([s * phi.cos(), s * phi.sin(), c.expand(-1, len(phi))]).flatten(1)
    z = rho[:, None] * sphere[:, None]
    return z.flatten(1), ((rho.square() * w_rho)[:, None] * (w_c[:, None] * w_phi).flatten()).flatten()


def _ball_shape(basis: KernelBasis, top: float) -> tuple[int, int, int]:
    """Numbers of distances, polar and azimuthal angles of a ball's nodes."""
    azimuth = [2 * math.pi * i / basis.angular_pieces for i in range(basis.angular_pieces + 1)]
    distances, polar, azimuthal = (len(_gauss(breaks, top, torch.device("cpu"))[0]) for breaks in (basis.radial_breaks, _POLES, azimuth))
    return distances, polar, azimuthal


_POLES = (0.0, math.pi / 2, math.pi)  # kinks may sit at the equator


def _gauss(breaks: Sequence[float], top: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights between consecutive breaks, enough for exp(i top t)."""
    nodes, weights = [], []
    for a, b in itertools.pairwise(breaks):
        # n nodes resolve a wave of up to 2 n radians per half piece; the surplus brings the error to rounding
        x, w = np.polynomial.legendre.leggauss(16 + math.ceil(0.6 * top * (b - a) / 2))
        nodes.append((a + b) / 2 + (b - a) / 2 * x)
        weights.append((b - a) / 2 * w)
    return torch.as_tensor(np.concatenate(nodes), device=device), torch.as_tensor(np.concatenate(weights), device=device)
