"""Continuous kernels of compact support: functions of a physical offset, sampled and Fourier transformed on demand.

    kappa(z) = sum_k W_k psi_k(z),    psi_k(z) = r^-d phi_k(z/r),    phi_k = 0 outside the unit ball

A basis offers the dimensionless phi_k alone; `kernel_values` normalizes them to int phi_k^2 = 1 over the ball, so that the
gain of psi_k does not depend on the radius r or on any grid. `transfer` gives what a convolution with psi_k multiplies a
wave by,

    psi~_k(xi) = int psi_k(z) exp(i xi . z) dz = phi~_k(r xi),

for int psi_k(y - x) v(y) dy, the sign of a correlation. The integral is a Gauss rule per smooth piece in polar coordinates,
with as many nodes as the highest wave number needs for rounding error.

| basis             | phi before normalization                                      | axes   | K                          |
| ----------------- | ------------------------------------------------------------- | ------ | -------------------------- |
| `PolarHats`       | product of hats of the distance and of the angle              | 2      | (n_r // 2) n_phi + n_r % 2 |
| `Zernike`         | R_n^|m|(u) cos m phi or sin |m| phi, times a window           | 2      | n (n + 1)/2                |
| `WindowedFourier` | product over the axes of cos or sin(j pi z_a), times a window | 1 to 3 | n^d                        |

The window is (1 - u^2)^s, u = |z|. Without it (s = 0) the kernel jumps at the rim, which a sum over samples resolves at
first order only; s = 1 or 2 makes that second order or better.

References: Ocampo, Price, McEwen, ICLR 2023, arXiv 2209.13603 (discrete-continuous convolution); Liu-Schiaffini et al.,
ICML 2024, arXiv 2402.16845; Born and Wolf, Principles of Optics, section 9.2 (Zernike polynomials).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import table

__all__ = ["KernelBasis", "PolarHats", "WindowedFourier", "Zernike", "kernel_values", "transfer"]


class KernelBasis(Protocol):
    """What the functions of this file ask of a basis: hashable, with the members below."""

    @property
    def n_dim(self) -> int:
        """Number of axes d."""

    @property
    def size(self) -> int:
        """Number of functions K."""

    @property
    def radial_breaks(self) -> tuple[float, ...]:
        """Distances 0 .. 1 between which every phi_k is smooth."""

    @property
    def angular_pieces(self) -> int:
        """Number of equal sectors, the first from angle 0 on, in which every phi_k is smooth."""

    def raw(self, z: Tensor) -> Tensor:
        """Return phi_k before normalization, (K, *), at offsets z (d, *) in the unit ball."""


@dataclass(frozen=True)
class PolarHats:
    """Piecewise linear functions of the distance and the angle; their sum is one up to the last ring.

    Parameters
    ----------
    n_radial : int
        Hats over a diameter: with 3, one at the center and one ring; with 2, one ring alone. With even numbers the
        functions depend on the angle even at the center, where a sum over samples errs by O(h^2 log(1/h)).
    n_angular : int
        Hats per ring; 1 makes the kernel isotropic. Hat k points to the bearing 2 pi k/n_angular from the first axis.

    Raises
    ------
    ValueError
        If a number is below one.
    """

    n_radial: int = 3
    n_angular: int = 4

    def __post_init__(self):
        if min(self.n_radial, self.n_angular) < 1:
            raise ValueError(f"PolarHats got n_radial={self.n_radial}, n_angular={self.n_angular}; give at least one of each")

    @property
    def n_dim(self) -> int:
        """Two axes."""
        return 2

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
        """Twice as many sectors as hats where a hat that reaches over the center has its peak between two others."""
        return self.n_angular * (2 if self.n_angular % 2 else 1)

    def _rings(self) -> list[float]:
        step = 2 / (self.n_radial + 1)
        return [(i + 1 - 0.5 * (self.n_radial % 2 == 0)) * step for i in range(self.n_radial // 2)]

    def raw(self, z: Tensor) -> Tensor:
        """Return phi_k before normalization, (K, *), at offsets z (2, *)."""
        rho, phi = torch.hypot(z[0], z[1]), torch.atan2(z[1], z[0])
        step = 2 / (self.n_radial + 1)
        functions = [_hat(rho / step)] if self.n_radial % 2 else []
        for ring, k in itertools.product(self._rings(), range(self.n_angular)):
            bearing = 2 * math.pi * k / self.n_angular
            function = _hat((rho - ring) / step) * self._angular(phi - bearing)
            if ring < step:  # the hat reaches over the center
                function = function + _hat((rho + ring) / step) * self._angular(phi + math.pi - bearing)
            functions.append(function)
        return torch.stack(functions)

    def _angular(self, angle: Tensor) -> Tensor:
        if self.n_angular == 1:
            return torch.ones_like(angle)
        distance = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
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
        _check_window("WindowedFourier", self.n, self.window)
        if self.n_dim not in (1, 2, 3):
            raise ValueError(f"WindowedFourier got n_dim={self.n_dim}; give 1, 2 or 3")

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
        waves = [[(torch.sin if j % 2 else torch.cos)((j + 1) // 2 * math.pi * s) for j in range(self.n)] for s in z]
        return torch.stack([math.prod(factors[1:], start=factors[0]) for factors in itertools.product(*waves)]) * _window(
            z.square().sum(0).sqrt(), self.window
        )


def _check_window(who: str, n: int, window: int) -> None:
    if n < 1 or window < 0:
        raise ValueError(f"{who} got n={n}, window={window}; give n of at least one and a window of at least zero")


def _hat(t: Tensor) -> Tensor:
    return (1 - t.abs()).clamp(min=0)


def _window(u: Tensor, power: int) -> Tensor:
    return (1 - u.square()).clamp(min=0) ** power


def kernel_values(basis: KernelBasis, z: Tensor) -> Tensor:
    """Return phi_k, (K, *), at offsets z (d, *) in units of the radius: L2-normalized, zero outside the unit ball."""
    inside = z.square().sum(0) <= 1
    norms = _norms(basis, device=z.device, dtype=z.dtype).view(-1, *[1] * (z.ndim - 1))
    return basis.raw(z) * inside / norms


@table
def _norms(basis: KernelBasis, device) -> Tensor:
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
    waves = [
        torch.polar(torch.ones((), dtype=torch.float64, device=k.device).expand(len(k), z.shape[1]), k[:, None] * s)
        for k, s in zip(xi, z, strict=True)
    ]
    return torch.stack([_contract(row, waves) for row in f])


def _contract(f: Tensor, waves: Sequence[Tensor]) -> Tensor:
    """Return sum_q f(q) prod_a waves_a(., q), (n_1, ..., n_d)."""
    if len(waves) == 1:
        return waves[0] @ f
    if len(waves) == 2:
        return (f * waves[0]) @ waves[1].T
    return torch.stack([_contract(f * wave, waves[1:]) for wave in waves[0]])


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
    c, w_c = _gauss((-1.0, 1.0), top, device)
    s = (1 - c.square()).sqrt()[:, None]
    sphere = torch.stack([s * phi.cos(), s * phi.sin(), c[:, None].expand(-1, len(phi))]).flatten(1)
    z = rho[:, None] * sphere[:, None]
    return z.flatten(1), ((rho.square() * w_rho)[:, None] * (w_c[:, None] * w_phi).flatten()).flatten()


def _gauss(breaks: Sequence[float], top: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights between consecutive breaks, enough for exp(i top t)."""
    nodes, weights = [], []
    for a, b in itertools.pairwise(breaks):
        # n nodes resolve a wave of up to 2 n radians per half piece; the surplus brings the error to rounding
        x, w = np.polynomial.legendre.leggauss(16 + math.ceil(0.6 * top * (b - a) / 2))
        nodes.append((a + b) / 2 + (b - a) / 2 * x)
        weights.append((b - a) / 2 * w)
    return tuple(torch.as_tensor(np.concatenate(part), device=device) for part in (nodes, weights))
