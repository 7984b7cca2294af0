"""Orthonormal bases on an axis, and the coefficients of functions in products of them.

With s = (x - lower)/L:

| kind       | functions, each over sqrt(L)                                       | for                         |
| ---------- | ------------------------------------------------------------------ | --------------------------- |
| "fourier"  | 1, sqrt2 cos(2 pi k s), sqrt2 sin(2 pi k s), k = 1 .. (m - 1)//2   | periodic axes               |
| "cosine"   | 1, sqrt2 cos(pi k s), k = 1 .. m - 1                               | walls, whatever the values  |
| "sine"     | sqrt2 sin(pi k s), k = 1 .. m                                      | walls with the value zero   |
| "legendre" | sqrt(2k + 1) P_k(2s - 1), k = 0 .. m - 1                           | walls, smooth; "gauss" best |
| "chebyshev"| T_0, sqrt2 T_k(2s - 1), k = 1 .. m - 1                             | the same span as legendre   |

Chebyshev polynomials alone are not orthonormal in the mean square (they are under the weight 1/sqrt(s(1 - s))): sums of
squares of their coefficients are not integrals.

Analysis is the least-squares fit in the quadrature of the samples: c = (B w B^T)^-1 B w u, with B the functions at the
true positions of the samples. Where they are orthonormal under the quadrature (cosine and sine at cells and endpoints,
Fourier at nodes and cells, Legendre at Gauss points) that is B w u; everywhere it is exact on the span, so that
coefficients do not depend on the grid. Functions that n samples do not carry get the coefficient zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain, Grid, table
from opkernels.transforms import checked_modes, uses_tf32

__all__ = ["Basis", "analyze", "synthesize"]


@dataclass(frozen=True)
class Basis:
    """Functions of a basis of an axis, orthonormal in the mean square over [lower, upper]: the first ones, or some of them.

    See the table of the module.

    Parameters
    ----------
    kind : {"fourier", "cosine", "sine", "legendre", "chebyshev"}
        Family of functions.
    n_modes : int
        Their number m; of "fourier" the largest odd number up to it.
    kept : tuple of int, optional
        Numbers of those in use, rising from 0 to m - 1; the others are fitted and left out. Default: all.

    Raises
    ------
    ValueError
        If the kind is unknown, the number is below one, or `kept` are not among them; on use, if "fourier" meets an axis
        with walls at endpoint or gauss points.
    """

    kind: str
    n_modes: int
    kept: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.kind not in _FUNCTIONS:
            raise ValueError(f"Basis got kind={self.kind!r}; choose one of {', '.join(_FUNCTIONS)}")
        object.__setattr__(self, "n_modes", checked_modes((self.n_modes,))[0])
        if self.kept is None:
            return
        kept = tuple(self.kept)
        if not kept or any(i not in range(self.span) for i in kept) or list(kept) != sorted(set(kept)):
            raise ValueError(f"Basis got kept={self.kept} of {self.span} functions; give rising numbers from 0 to {self.span - 1}")
        object.__setattr__(self, "kept", None if len(kept) == self.span else tuple(int(i) for i in kept))

    @classmethod
    def of(cls, axis: Axis, n_modes: int) -> Basis:
        """Return Fourier on a periodic axis and cosine on one with walls."""
        return cls("fourier" if axis.periodic else "cosine", n_modes)

    @property
    def span(self) -> int:
        """Number of functions that samples are fitted with."""
        return 2 * ((self.n_modes - 1) // 2) + 1 if self.kind == "fourier" else self.n_modes

    @property
    def size(self) -> int:
        """Number of functions in use."""
        return self.span if self.kept is None else len(self.kept)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the functions in use, from 0 to span - 1."""
        return tuple(range(self.span)) if self.kept is None else self.kept

    @property
    def orders(self) -> tuple[int, ...]:
        """Number k of each function in use: waves, half waves or degree."""
        return tuple((i + 1) // 2 if self.kind == "fourier" else i + (self.kind == "sine") for i in self.numbers)

    @property
    def orthonormal(self) -> bool:
        """Whether the sum of squares of the coefficients is the integral of the square (Parseval)."""
        return self.kind != "chebyshev"

    def at(self, axis: Axis, positions: Tensor) -> Tensor:
        """Return the functions at any positions (...), as (..., size); they are differentiable in the positions."""
        s = (positions.double() - axis.lower) / axis.length
        values = _POINTWISE[self.kind](s, torch.arange(self.span, device=s.device))
        return (values[..., list(self.numbers)] / math.sqrt(axis.length)).to(positions.dtype)

    def analysis(self, axis: Axis, n: int, device=None, dtype=None) -> Tensor:
        """Return the matrix (size, n) from samples to coefficients."""
        self._check(axis)
        return _analysis(self, axis, n, device=device, dtype=dtype)

    def synthesis(self, axis: Axis, n: int, device=None, dtype=None) -> Tensor:
        """Return the matrix (n, size) from coefficients to samples; functions that n samples do not carry are left out."""
        self._check(axis)
        return _synthesis(self, axis, n, device=device, dtype=dtype)

    def _check(self, axis: Axis) -> None:
        if self.kind == "fourier":
            Domain((axis,)).require_fft("a Fourier basis")


def analyze(x: Tensor, grid: Grid, bases: Sequence[Basis]) -> Tensor:
    """Return the coefficients (B, C, *sizes) of samples x (B, C, *grid.shape) in a product of bases, one per axis."""
    return _along_axes(x, [b.analysis(a, n, x.device, _wide(x)) for b, a, n in zip(bases, grid.domain.axes, grid.shape, strict=True)])


def synthesize(z: Tensor, grid: Grid, bases: Sequence[Basis]) -> Tensor:
    """Return the samples (B, C, *grid.shape) of the function with coefficients z (B, C, *sizes)."""
    return _along_axes(z, [b.synthesis(a, n, z.device, _wide(z)) for b, a, n in zip(bases, grid.domain.axes, grid.shape, strict=True)])


def _wide(x: Tensor) -> torch.dtype:
    """float32 for half precisions: tables keep their digits under autocast."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _along_axes(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply each spatial axis by its matrix (m, n), those that shrink it most first, in float32 at least."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(_wide(x))
        exact = torch.float64 if uses_tf32(x.device) else x.dtype
        d = len(matrices)
        static = not torch.compiler.is_compiling() and all(isinstance(n, int) for n in x.shape)
        order = sorted(range(d), key=lambda a: matrices[a].shape[0] / matrices[a].shape[1]) if static else range(d)
        for a in order:
            left, n = prod(x.shape[: 2 + a]), x.shape[2 + a]
            y = torch.matmul(matrices[a].to(exact), x.reshape(left, n, prod(x.shape[3 + a :])).to(exact)).to(x.dtype)
            x = y.view(*x.shape[: 2 + a], matrices[a].shape[0], *x.shape[3 + a :])
        return x


def _half_angles(axis: Axis, n: int, orders: Tensor) -> Tensor:
    """Return pi k s for each order k and sample, reduced in integers where the points are uniform: (len(orders), n)."""
    if axis.points == "gauss":
        return math.pi * orders.double()[:, None] * (axis.coordinates(n, orders.device, torch.float64) - axis.lower) / axis.length
    half, intervals = round(2 * axis.offset), n - 1 if axis.points == "endpoint" else n
    j = torch.arange(n, device=orders.device)
    return (orders[:, None] * (2 * j + half)).remainder(4 * intervals).double() * (math.pi / (2 * intervals))


def _cosine(axis: Axis, n: int, size: int, device) -> tuple[Tensor, Tensor]:
    k = torch.arange(size, device=device)
    return _half_angles(axis, n, k).cos() * _norms(k), _resolved(axis, n, k)


def _sine(axis: Axis, n: int, size: int, device) -> tuple[Tensor, Tensor]:
    k = torch.arange(1, size + 1, device=device)
    return _half_angles(axis, n, k).sin() * math.sqrt(2), _resolved(axis, n, k)


def _real_fourier(axis: Axis, n: int, size: int, device) -> tuple[Tensor, Tensor]:
    k = (torch.arange(size, device=device) + 1) // 2
    angles, sine = _half_angles(axis, n, 2 * k), torch.arange(size, device=device) % 2 == 0
    values = torch.where((sine & (k > 0))[:, None], angles.sin(), angles.cos())
    return values * _norms(k), 2 * k < n


def _polynomials(axis: Axis, n: int, size: int, device, values) -> tuple[Tensor, Tensor]:
    """Return polynomials at the samples, and which the samples carry: on uniform ones, a degree above 2 sqrt(n) amplifies noise."""
    s = (axis.coordinates(n, device, torch.float64) - axis.lower) / axis.length
    k = torch.arange(size, device=device)
    return values(s, k).T, k < n if axis.points == "gauss" else k * k < 4 * n


def _legendre(axis: Axis, n: int, size: int, device) -> tuple[Tensor, Tensor]:
    return _polynomials(axis, n, size, device, _legendre_at)


def _chebyshev(axis: Axis, n: int, size: int, device) -> tuple[Tensor, Tensor]:
    return _polynomials(axis, n, size, device, _chebyshev_at)


_FUNCTIONS = {"fourier": _real_fourier, "cosine": _cosine, "sine": _sine, "legendre": _legendre, "chebyshev": _chebyshev}


def _waves_at(s: Tensor, i: Tensor) -> Tensor:
    k = (i + 1) // 2
    angles = 2 * math.pi * s[..., None] * k
    return torch.where((i % 2 == 0) & (k > 0), angles.sin(), angles.cos()) * _norms(k)[:, 0].to(s)


def _cosines_at(s: Tensor, i: Tensor) -> Tensor:
    return (math.pi * s[..., None] * i).cos() * _norms(i)[:, 0].to(s)


def _sines_at(s: Tensor, i: Tensor) -> Tensor:
    return (math.pi * s[..., None] * (i + 1)).sin() * math.sqrt(2)


def _legendre_at(s: Tensor, i: Tensor) -> Tensor:
    z = 2 * s - 1
    rows = [torch.ones_like(z), z]
    for k in range(1, len(i) - 1):
        rows.append(((2 * k + 1) * z * rows[k] - k * rows[k - 1]) / (k + 1))
    return torch.stack(rows[: len(i)], dim=-1) * (2 * i + 1).to(s).sqrt()


def _chebyshev_at(s: Tensor, i: Tensor) -> Tensor:
    z = 2 * s - 1
    rows = [torch.ones_like(z), z]
    for k in range(1, len(i) - 1):
        rows.append(2 * z * rows[k] - rows[k - 1])
    return torch.stack(rows[: len(i)], dim=-1) * _norms(i)[:, 0].to(s)


_POINTWISE = {"fourier": _waves_at, "cosine": _cosines_at, "sine": _sines_at, "legendre": _legendre_at, "chebyshev": _chebyshev_at}


def _norms(k: Tensor) -> Tensor:
    """1 for the constant, sqrt 2 for the others, (len(k), 1)."""
    return (1 + (k > 0).double()).sqrt()[:, None]


def _resolved(axis: Axis, n: int, k: Tensor) -> Tensor:
    """Whether the samples tell half waves k apart: fewer than the intervals; Gauss points are pi/2 farther apart in the middle."""
    if axis.points == "gauss":
        return math.pi * k < 2 * n
    return k < (n - 1 if axis.points == "endpoint" else n)


def _values(basis: Basis, axis: Axis, n: int, device) -> tuple[Tensor, Tensor]:
    """Return the functions at the samples, (span, n), those that n samples do not carry zero, and which they carry."""
    values, carried = _FUNCTIONS[basis.kind](axis, n, basis.span, device)
    return values * carried.double()[:, None] / math.sqrt(axis.length), carried


@table
def _synthesis(basis: Basis, axis: Axis, n: int, device) -> Tensor:
    values = _values(basis, axis, n, device)[0][list(basis.numbers)]
    return values.T.clone(memory_format=torch.contiguous_format)


@table
def _analysis(basis: Basis, axis: Axis, n: int, device) -> Tensor:
    values, carried = _values(basis, axis, n, device)
    weighted = values * axis.weights(n, device, torch.float64)
    gram = weighted @ values.T + torch.diag((~carried).double())
    return torch.linalg.solve(gram, weighted)[list(basis.numbers)]
