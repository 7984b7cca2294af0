"""Smoothing kernels of particle hydrodynamics, and the geometry of pairs they act on.

    W(r, H) = C k(q) / H^d,   grad_i W_ij = F x_ij,   F = C g(q) / H^(d+2),   g = k'(q) / q,   q = r / H

H is the support, beyond which W vanishes; h = H / xi is the smoothing length, half the inverse of the kernel's
standard deviation (Dehnen and Aly 2012, https://doi.org/10.1111/j.1365-2966.2012.21439.x). g is finite at q = 0, so
nothing divides by r. All kernels integrate to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from opkernels.neighbors import Neighbors

__all__ = ["KERNELS", "Pairs", "SmoothingKernel", "lattice_density", "lattice_slope", "pair_geometry", "smoothing_kernel"]

Function = Callable[[Tensor], Tensor]
_Length = TypeVar("_Length", float, Tensor)


@dataclass(frozen=True, eq=False)
class SmoothingKernel:
    """One kernel in d dimensions: k(q), g(q) = k'(q)/q, the constant C and the ratio xi = H/h."""

    name: str
    ndim: int
    k: Function
    g: Function
    constant: float
    ratio: float

    def value(self, r: Tensor, support: float | Tensor) -> Tensor:
        """W(r, H)."""
        return self.k((r / support).clamp(max=1)) * (self.constant / support**self.ndim)

    def factor(self, r: Tensor, support: float | Tensor) -> Tensor:
        """F(r, H) <= 0, where grad_i W_ij = F x_ij."""
        return self.g((r / support).clamp(max=1)) * (self.constant / support ** (self.ndim + 2))

    def support_derivative(self, r: Tensor, support: float | Tensor) -> Tensor:
        """dW/dH = -C (d k + q k') / H^(d+1)."""
        q = (r / support).clamp(max=1)
        return (self.ndim * self.k(q) + q * q * self.g(q)) * (-self.constant / support ** (self.ndim + 1))

    def smoothing_length(self, support: _Length) -> _Length:
        """H = H / xi, which step sizes and artificial viscosity are written in."""
        return support / self.ratio


def _power(x: Tensor, n: int) -> Tensor:
    """Return x^n by multiplications, several times faster than `torch.pow` on a CPU."""
    if n == 1:
        return x
    return _power(x, n // 2).square() if n % 2 == 0 else x * _power(x, n - 1)


def _spline(terms: tuple[tuple[float, float], ...], n: int) -> tuple[Function, Function]:
    """B-spline k = sum_s w_s (s - q)+^n, and k'/q by its polynomial inside the first knot."""
    first = min(knot for knot, _ in terms)
    derivative = np.zeros(n)
    for knot, weight in terms:
        derivative -= n * weight * np.polynomial.polynomial.polypow([knot, -1], n - 1)
    inner = [float(c) for c in derivative[1:]]  # k' has no constant term

    def k(q: Tensor) -> Tensor:
        (knot, weight), *others = terms
        total = weight * _power((knot - q).clamp(min=0), n)
        for knot, weight in others:
            total = torch.add(total, _power((knot - q).clamp(min=0), n), alpha=weight)
        return total

    def g(q: Tensor) -> Tensor:
        (knot, weight), *others = terms
        far = -n * weight * _power((knot - q).clamp(min=0), n - 1)
        for knot, weight in others:
            far = torch.add(far, _power((knot - q).clamp(min=0), n - 1), alpha=-n * weight)
        near = torch.full_like(q, inner[-1])
        for c in reversed(inner[:-1]):
            near = near * q + c
        return torch.where(q < first, near, far / q.clamp(min=first))

    return k, g


_LINE = {  # in one dimension the Wendland functions are other polynomials
    "wendland2": (lambda q: (1 - q) ** 3 * (1 + 3 * q), lambda q: -12 * (1 - q) ** 2),
    "wendland4": (lambda q: (1 - q) ** 5 * (1 + 5 * q + 8 * q**2), lambda q: -14 * (4 * q + 1) * (1 - q) ** 4),
    "wendland6": (
        lambda q: (1 - q) ** 7 * (1 + 7 * q + 19 * q**2 + 21 * q**3),
        lambda q: -6 * (35 * q**2 + 18 * q + 3) * (1 - q) ** 6,
    ),
}
_SPACE = {
    "wendland2": (lambda q: _power(1 - q, 4) * (1 + 4 * q), lambda q: -20 * (1 - q) ** 3),
    "wendland4": (lambda q: _power(1 - q, 6) * (1 + 6 * q + 35 / 3 * q**2), lambda q: -56 / 3 * (5 * q + 1) * _power(1 - q, 5)),
    "wendland6": (
        lambda q: _power(1 - q, 8) * (1 + 8 * q + 25 * q**2 + 32 * q**3),
        lambda q: -22 * (16 * q**2 + 7 * q + 1) * _power(1 - q, 7),
    ),
}
_SPLINES = {
    "cubic": _spline(((1, 1), (1 / 2, -4)), 3),
    "quartic": _spline(((1, 1), (3 / 5, -5), (1 / 5, 10)), 4),
    "quintic": _spline(((1, 1), (2 / 3, -6), (1 / 3, 15)), 5),
}
_CONSTANTS = {
    "wendland2": (5 / 4, 7 / math.pi, 21 / (2 * math.pi)),
    "wendland4": (3 / 2, 9 / math.pi, 495 / (32 * math.pi)),
    "wendland6": (55 / 32, 78 / (7 * math.pi), 1365 / (64 * math.pi)),
    "cubic": (8 / 3, 80 / (7 * math.pi), 16 / math.pi),
    "quartic": (3125 / 768, 46875 / (2398 * math.pi), 15625 / (512 * math.pi)),
    "quintic": (243 / 40, 15309 / (478 * math.pi), 2187 / (40 * math.pi)),
}
_RATIOS = {
    "wendland2": (1.620185, 1.897367, 1.936492),
    "wendland4": (1.936492, 2.171241, 2.207940),
    "wendland6": (2.207940, 2.415229, 2.449490),
    "cubic": (1.732051, 1.778002, 1.825742),
    "quartic": (1.936492, 1.977173, 2.018932),
    "quintic": (2.121320, 2.158130, 2.195775),
}
KERNELS = tuple(_CONSTANTS)


def smoothing_kernel(name: str, ndim: int) -> SmoothingKernel:
    """Return a kernel by name in `ndim` dimensions: wendland2, wendland4, wendland6, cubic, quartic, quintic.

    Wendland C2 does not pair particles and is the default everywhere; splines pair beyond about 30 neighbors in 2-D.
    """
    if name not in KERNELS or ndim not in (1, 2, 3):
        raise ValueError(f"got the kernel {name!r} in {ndim} dimensions; choose one of {', '.join(KERNELS)} in 1, 2 or 3")
    shape = _SPLINES.get(name) or (_LINE if ndim == 1 else _SPACE)[name]
    return SmoothingKernel(name, ndim, *shape, _CONSTANTS[name][ndim - 1], _RATIOS[name][ndim - 1])


def _lattice(ndim: int, spacing: float, support: float) -> Tensor:
    """Distances of the nodes of a lattice within a support from one of them."""
    n = torch.arange(-int(support / spacing), int(support / spacing) + 1, dtype=torch.float64) * spacing
    return torch.cartesian_prod(*[n] * ndim).reshape(-1, ndim).norm(dim=1)


def lattice_density(kernel: SmoothingKernel, spacing: float, support: float) -> float:
    """Return sum W dx^d over a lattice, the density it seems to have: 1.013 for Wendland C2 in 2-D at H = 2.52 dx."""
    return float(kernel.value(_lattice(kernel.ndim, spacing, support), support).sum()) * spacing**kernel.ndim


def lattice_slope(kernel: SmoothingKernel, spacing: float, support: float) -> float:
    """Return what pair sums over a lattice make of a unit gradient: 0.968 for Wendland C2 in 2-D at H = 2.52 dx."""
    r = _lattice(kernel.ndim, spacing, support)
    return -float((kernel.factor(r, support) * r * r).sum()) * spacing**kernel.ndim / kernel.ndim


@dataclass(frozen=True, eq=False)
class Pairs:
    """What all terms of one evaluation share: indices, displacement components, and distance of each pair.

    Component arrays are contiguous and one-dimensional, which is what makes pair sums fast on a CPU. A list built
    with a skin has pairs beyond the support: W and F vanish there.
    """

    neighbors: Neighbors
    d: tuple[Tensor, ...]
    r2: Tensor
    r: Tensor

    def at_i(self, field: Tensor) -> Tensor:
        """Gather a field (N,) at the receivers."""
        return field.index_select(0, self.neighbors.row)

    def at_j(self, field: Tensor) -> Tensor:
        """Gather a field (M,) at the senders."""
        return field.index_select(0, self.neighbors.col)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over each receiver's pairs, (N,)."""
        return self.neighbors.sum(values)


def pair_geometry(neighbors: Neighbors, x: Tensor, y: Tensor | None, support: float) -> Pairs:
    """Compute x_ij (nearest image), r^2 and r of each pair; r is smoothed by 1e-12 H, so that gradients exist at r = 0."""
    y = x if y is None else y
    components, r2 = [], torch.zeros((), dtype=x.dtype, device=x.device)
    for a, period in enumerate(neighbors.periods):
        d = x[:, a].contiguous().index_select(0, neighbors.row) - y[:, a].contiguous().index_select(0, neighbors.col)
        if period:
            d = torch.sub(d, (d.detach() / period).round_(), alpha=period)
        components.append(d)
        r2 = torch.addcmul(r2, d, d)
    return Pairs(neighbors, tuple(components), r2, (r2 + 1e-24 * support**2).sqrt())
