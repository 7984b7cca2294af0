"""Transforms of functions on grids: pruned Fourier transforms, and orthonormal bases on an axis.

Fourier. A function u sampled at x_j = lower + (j + s) L/n (offset s = 0 at nodes, 1/2 in cells) has the
coefficients

    u_hat(k) = 1/prod(n) sum_j u(x_j) exp(-2 pi i k . (j + s)/n),     k an integer vector,

which do not depend on n as long as 2|k| < n: they belong to the function. Only the few wave numbers that a
`Modes` names are wanted, so each axis is a product with a small real matrix of cosines and sines:

    C_a = [cos(k theta), k = 0..K; sin(k theta), k = 1..K] / n         (2K + 1, n)     leading axes
    C_d = [cos(k theta); -sin(k theta), k = 0..K] / n                  (2(K + 1), n)   last axis

with theta_j = 2 pi (j + s)/n. The first axis comes first: its matrix product is wide (all other axes and
channels are columns), writes little, and needs no complex numbers, shifts or zero fill. The real
coefficients are then turned into complex pairs (re, im), axis by axis, by matrices of zeros and ones
(exact, on small tensors):

    u_hat(k, .) = (c_|k| - i sign(k) s_|k|)(.)

Synthesis is the transpose without the 1/n, onto as many points as one likes:

    u(x) = Re sum_k c_k u_hat(k) exp(2 pi i k . x/L),    c_k = 1 if k_d = 0 else 2,

so the plane k_d = 0 acts through its Hermitian part, whatever is given. Angles are reduced in integers,
tables are built in float64 and cast once. With many modes a pruned FFT is faster and gives the same numbers;
`prefers_matmul` holds the rule.

Symbols: n samples and m wave numbers per axis, K = max |k|; B batch, C channels, d axes.

References: Li et al., "Fourier Neural Operator for Parametric PDEs", ICLR 2021, arXiv 2010.08895.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import Axis, Domain, Grid, table

__all__ = ["Basis", "Fourier", "Modes", "analyze", "checked_modes", "prefers_matmul", "synthesize"]


@dataclass(frozen=True)
class Modes:
    """The wave numbers that a spectral weight stores: a range per axis, in the order of its rows.

    Parameters
    ----------
    lower, upper : tuple of int
        Smallest and largest wave number of each axis. The last axis starts at 0: the data are real.
    nyquist : bool
        Keep the unpaired wave number -n/2 (+n/2 on the last axis) of a grid that has no more samples than
        modes, as neuraloperator does. False keeps 2|k| < n only, which is the same operator on every grid.
    """

    lower: tuple[int, ...]
    upper: tuple[int, ...]
    nyquist: bool = False

    @classmethod
    def symmetric(cls, n_modes: Sequence[int]) -> Modes:
        """Return |k| <= (n_modes - 1)//2 on every axis: this package's rule."""
        n_modes = checked_modes(n_modes)
        top = tuple((m - 1) // 2 for m in n_modes)
        return cls((*(-k for k in top[:-1]), 0), top)

    @classmethod
    def neuraloperator(cls, n_modes: Sequence[int], *, nyquist: bool = True) -> Modes:
        """Return -(m//2) .. m - 1 - m//2 on leading axes and 0 .. m//2 on the last: neuraloperator's rule."""
        n_modes = checked_modes(n_modes)
        lower = tuple(-(m // 2) for m in n_modes[:-1])
        return cls((*lower, 0), (*(m - 1 - m // 2 for m in n_modes[:-1]), n_modes[-1] // 2), nyquist)

    @property
    def ndim(self) -> int:
        """Number of axes d."""
        return len(self.lower)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of stored wave numbers per axis."""
        return tuple(b - a + 1 for a, b in zip(self.lower, self.upper, strict=True))

    @property
    def tops(self) -> tuple[int, ...]:
        """Largest |k| per axis."""
        return tuple(max(-a, b) for a, b in zip(self.lower, self.upper, strict=True))


def checked_modes(n_modes: Sequence[int] | int) -> tuple[int, ...]:
    """Return the numbers of modes as a tuple of int; refuse what is not one whole number of at least 1 per axis."""
    modes = tuple(n_modes) if isinstance(n_modes, Iterable) else (n_modes,)
    if not modes or not all(isinstance(m, (int, np.integer)) and not isinstance(m, bool) and m >= 1 for m in modes):
        raise ValueError(f"got n_modes={n_modes!r}; give one whole number of at least 1 per axis")
    return tuple(int(m) for m in modes)


@dataclass(frozen=True)
class Fourier:
    """Analysis and synthesis between samples on a grid and the coefficients named by `modes`.

    Anything with these two methods can stand in its place in a spectral layer (a transform of a field
    that is split over processes, say).
    """

    modes: Modes

    def analyze(self, x: Tensor, grid: Grid) -> Tensor:
        """Return the coefficients (B, 2, *modes.shape, C) of samples x (B, C, *grid.shape).

        Index 0 of the second axis is the real, 1 the imaginary part. Wave numbers that the grid does not carry
        (2|k| >= n) are zero. Any memory layout is taken; channels first and channels last need no copy.
        """
        if not torch.compiler.is_exporting() and not prefers_matmul(self.modes, x.device, x.requires_grad and torch.is_grad_enabled()):
            return self._analyze_fft(x, grid)
        return self._analyze_matmul(x, grid)

    def _analyze_matmul(self, x: Tensor, grid: Grid) -> Tensor:
        modes, axes = self.modes, grid.domain.axes
        batch, channels, *n = x.shape
        last = x.movedim(1, -1)
        if last.is_contiguous():
            groups, width = batch, channels
        else:
            groups, width, last = batch * channels, 1, x
        z, rows = last, []
        for a, K in enumerate(modes.tops[:-1]):
            z = z.reshape(groups * prod(rows), n[a], prod(n[a + 1 :]) * width)
            z = torch.matmul(_leading(_offset(axes[a]), K, n[a], False, device=x.device, dtype=x.dtype), z)
            rows.append(2 * K + 1)
        final = _last(_offset(axes[-1]), modes.tops[-1], n[-1], modes.nyquist, False, device=x.device, dtype=x.dtype)
        if width == channels:
            z = torch.matmul(final, z.reshape(groups * prod(rows), n[-1], width))
        else:
            z = torch.matmul(z.reshape(groups * prod(rows), n[-1]), final.T)
            z = z.reshape(batch, channels, prod(rows), 2 * modes.shape[-1]).movedim(1, -1)
        tail = modes.shape[-1] * channels
        for a in reversed(range(modes.ndim - 1)):
            pairs = _pairs(modes.lower[a], modes.upper[a], n[a], modes.nyquist, device=x.device, dtype=x.dtype)
            z = torch.matmul(pairs, z.reshape(batch * prod(rows[:a]), 2 * rows[a], tail))
            tail *= modes.shape[a]
        return z.reshape(batch, 2, *modes.shape, channels)

    def synthesize(self, z: Tensor, grid: Grid, *, channels_last: bool = True) -> Tensor:
        """Return the samples (B, C, *grid.shape) of the function with coefficients z (B, 2, *modes.shape, C).

        `channels_last` chooses the memory layout of the result, not its shape.
        """
        if not torch.compiler.is_exporting() and not prefers_matmul(self.modes, z.device, z.requires_grad and torch.is_grad_enabled()):
            return self._synthesize_fft(z, grid, channels_last)
        return self._synthesize_matmul(z, grid, channels_last)

    def _synthesize_matmul(self, z: Tensor, grid: Grid, channels_last: bool) -> Tensor:
        modes, axes, n = self.modes, grid.domain.axes, grid.shape
        batch, channels = z.shape[0], z.shape[-1]
        rows, tail = [], prod(modes.shape) * channels
        for a, K in enumerate(modes.tops[:-1]):
            tail //= modes.shape[a]
            pairs = _pairs(modes.lower[a], modes.upper[a], n[a], modes.nyquist, device=z.device, dtype=z.dtype)
            z = torch.matmul(pairs.T, z.reshape(batch * prod(rows), 2 * modes.shape[a], tail))
            rows.append(2 * K + 1)
        final = _last(_offset(axes[-1]), modes.tops[-1], n[-1], modes.nyquist, True, device=z.device, dtype=z.dtype)
        if channels_last:
            groups, width = batch, channels
            z = torch.matmul(final, z.reshape(batch * prod(rows), 2 * modes.shape[-1], channels))
        else:
            groups, width = batch * channels, 1
            z = z.reshape(batch, prod(rows), 2 * modes.shape[-1], channels).movedim(-1, 1)
            z = torch.matmul(z.reshape(groups * prod(rows), 2 * modes.shape[-1]), final.T)
        for a in reversed(range(modes.ndim - 1)):
            K = modes.tops[a]
            z = z.reshape(groups * prod(rows[:a]), rows[a], prod(n[a + 1 :]) * width)
            z = torch.matmul(_leading(_offset(axes[a]), K, n[a], True, device=z.device, dtype=z.dtype), z)
        if channels_last:
            return z.reshape(batch, *n, channels).movedim(-1, 1)
        return z.reshape(batch, channels, *n)

    def _analyze_fft(self, x: Tensor, grid: Grid) -> Tensor:
        """FFT axis by axis, the dropped columns dropped before the next one."""
        modes, d = self.modes, grid.ndim
        z = torch.fft.rfft(x, norm="forward")
        for a in reversed(range(d)):
            n, dim = grid.shape[a], a - d
            if a < d - 1:
                z = torch.fft.fft(z, dim=dim, norm="forward")
            first, stop = _carried(modes, a, n)
            part = z.narrow(dim, 0, stop)
            if first < 0:
                part = torch.cat([z.narrow(dim, n + first, -first), part], dim=dim)
            z = _pad(part, dim, first - modes.lower[a], modes.upper[a] + 1 - stop)
            z = _shift(z, modes, grid, a, -1)
        return torch.view_as_real(z).movedim((-1, 1), (1, -1))

    def _synthesize_fft(self, z: Tensor, grid: Grid, channels_last: bool) -> Tensor:
        modes, d = self.modes, grid.ndim
        y = torch.complex(z[:, 0], z[:, 1]).movedim(-1, 1)
        for a, n in enumerate(grid.shape):
            dim = a - d
            first, stop = _carried(modes, a, n)
            y = _shift(y, modes, grid, a, 1).narrow(dim, first - modes.lower[a], stop - first)
            if a < d - 1:
                negative, positive = y.narrow(dim, 0, -first), y.narrow(dim, -first, stop)
                y = torch.fft.ifft(torch.cat([_pad(positive, dim, 0, n - stop + first), negative], dim=dim), dim=dim, norm="forward")
            else:
                # wave numbers without a partner are real; not every inverse FFT drops the rest
                k = torch.arange(stop, device=y.device)
                paired = ((k > 0) & (2 * k != n)).to(z.dtype)
                y = torch.fft.irfft(torch.complex(y.real, y.imag * paired), n=n, norm="forward")
        return y.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else y


def prefers_matmul(modes: Modes, device: torch.device, grad: bool) -> bool:
    """Choose matrix products or FFTs for a transform, by the largest wave number K on `device`.

    Measured on one CPU core in float32 (32 channels, analysis and synthesis), the time of the pruned FFT over that of
    the products, forward and forward with backward:

    | grid  | 32 modes   | 64 modes   | 96 modes   | 128 modes  |
    | ----- | ---------- | ---------- | ---------- | ---------- |
    | 128^2 | 2.9, 4.9   | 1.8, 2.5   | 1.2, 1.6   |            |
    | 256^2 |            | 2.1, 2.7   | 1.4, 1.8   |            |
    | 1024  | 3.7, 3.7   | 2.2, 2.5   |            | 1.2, 1.6   |

    and 3.3, 4.3 for 24 modes on 32^3. It falls as 1/K and depends little on the grid, so that only K enters: the
    products win up to about K = 60, with a gradient up to K = 75 (extrapolated). Nothing was measured on a GPU.

    Exported programs take the products always: which rows an FFT keeps would fix their sizes.
    """
    if _tensor_float(device):
        return False  # TF32 products would cost the tables three digits; FFTs keep float32
    return max(modes.tops) <= (75 if grad else 60)


def _carried(modes: Modes, a: int, n: int) -> tuple[int, int]:
    """Wave numbers first .. stop - 1 of axis `a` that are stored and that n samples carry."""
    last = a == modes.ndim - 1
    bottom, top = (-(n // 2), n // 2 if last else (n - 1) // 2) if modes.nyquist else (-((n - 1) // 2), (n - 1) // 2)
    return max(modes.lower[a], bottom), min(modes.upper[a], top) + 1


def _pad(z: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Put zeros around an axis, given by its negative number."""
    return torch.nn.functional.pad(z, [0, 0] * (-dim - 1) + [before, after]) if before or after else z


def _shift(z: Tensor, modes: Modes, grid: Grid, a: int, sign: int) -> Tensor:
    """Multiply by exp(sign 2 pi i k s/n) along axis `a`: the origin sits half a spacing before the first cell center."""
    half = _offset(grid.domain.axes[a])
    if half == 0:
        return z
    k = torch.arange(modes.lower[a], modes.upper[a] + 1, dtype=torch.float64, device=z.device)
    phase = torch.polar(torch.ones_like(k), sign * math.pi * half / grid.shape[a] * k).to(z.dtype)
    return z * phase.view(-1, *[1] * (grid.ndim - 1 - a))


def _offset(axis: Axis) -> int:
    """Position of the first sample in half spacings."""
    return round(2 * axis.offset)


def _angles(half: int, K: int, n: int, device) -> Tensor:
    """2 pi k (j + half/2)/n for k = 0 .. K, j = 0 .. n-1, reduced in integers: (K + 1, n)."""
    k, j = torch.arange(K + 1, device=device), torch.arange(n, device=device)
    return (k[:, None] * (2 * j + half)).remainder(2 * n).double() * (math.pi / n)


@table
def _leading(half: int, K: int, n: int, synthesis: bool, device) -> Tensor:
    """Cosines and sines of a leading axis: analysis (2K + 1, n), synthesis (n, 2K + 1)."""
    t = _angles(half, K, n, device)
    rows = torch.cat([t.cos(), t[1:].sin()])
    return rows.T.clone(memory_format=torch.contiguous_format) if synthesis else rows / n


@table
def _last(half: int, K: int, n: int, nyquist: bool, synthesis: bool, device) -> Tensor:
    """Cosines and minus sines of the halved axis: analysis (2(K + 1), n), synthesis (n, 2(K + 1))."""
    t = _angles(half, K, n, device)
    k = torch.arange(K + 1, device=device)
    kept = (2 * k <= n) if nyquist else (2 * k < n)
    rows = torch.stack([t.cos(), -t.sin()]) * kept[:, None]
    if not synthesis:
        return rows.flatten(0, 1) / n
    twice = torch.where((k == 0) | (2 * k == n), 1.0, 2.0).double()
    return (rows * twice[:, None]).flatten(0, 1).T.clone(memory_format=torch.contiguous_format)


@table
def _pairs(lower: int, upper: int, n: int, nyquist: bool, device) -> Tensor:
    """Matrix (2m, 2(2K + 1)) from (row, re/im) of a leading axis to (re/im, k = lower .. upper), with entries 0, 1, -1."""
    K = max(-lower, upper)
    k = torch.arange(lower, upper + 1, device=device)[:, None]
    kept = ((-n <= 2 * k) & (2 * k < n)) if nyquist else (2 * k.abs() < n)
    same = ((k.abs() == torch.arange(K + 1, device=device)) & kept).double()
    c = torch.cat([same, torch.zeros_like(same[:, 1:])], dim=1)
    s = torch.cat([torch.zeros_like(same), (same * k.sign())[:, 1:]], dim=1)
    # re = c re + s im, im = c im - s re
    real, imaginary = torch.stack([c, s], dim=-1), torch.stack([-s, c], dim=-1)
    return torch.stack([real, imaginary]).reshape(2 * len(k), 2 * (2 * K + 1))


@dataclass(frozen=True)
class Basis:
    """Functions of a basis of an axis, orthonormal in the mean square over [lower, upper]: the first ones, or some of them.

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
        checked_modes(self.n_modes)
        if self.kept is None:
            return
        kept = tuple(int(i) for i in self.kept)
        if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= self.span:
            raise ValueError(f"Basis got kept={self.kept} of {self.span} functions; give rising numbers from 0 to {self.span - 1}")
        object.__setattr__(self, "kept", None if len(kept) == self.span else kept)

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
    def orders(self) -> tuple[int, ...]:
        """Number k of each function in use: waves, half waves or degree."""
        numbers = range(self.span) if self.kept is None else self.kept
        return tuple((i + 1) // 2 if self.kind == "fourier" else i + (self.kind == "sine") for i in numbers)

    @property
    def orthonormal(self) -> bool:
        """Whether the sum of squares of the coefficients is the integral of the square (Parseval)."""
        return self.kind != "chebyshev"

    def at(self, axis: Axis, positions: Tensor) -> Tensor:
        """Return the functions at any positions (...), as (..., size); they are differentiable in the positions."""
        s = (positions.double() - axis.lower) / axis.length
        values = _POINTWISE[self.kind](s, torch.arange(self.span, device=s.device))
        return ((values if self.kept is None else values[..., list(self.kept)]) / math.sqrt(axis.length)).to(positions.dtype)

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
        exact = torch.float64 if _tensor_float(x.device) else x.dtype
        d = len(matrices)
        static = not torch.compiler.is_compiling() and all(isinstance(n, int) for n in x.shape)
        order = sorted(range(d), key=lambda a: matrices[a].shape[0] / matrices[a].shape[1]) if static else range(d)
        for a in order:
            left, n = prod(x.shape[: 2 + a]), x.shape[2 + a]
            y = torch.matmul(matrices[a].to(exact), x.reshape(left, n, -1).to(exact)).to(x.dtype)
            x = y.view(*x.shape[: 2 + a], matrices[a].shape[0], *x.shape[3 + a :])
        return x


def _tensor_float(device: torch.device) -> bool:
    """Whether float32 products on this device may round their factors to ten bits (TF32)."""
    return device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"


def _half_angles(axis: Axis, n: int, orders: Tensor) -> Tensor:
    """Return pi k s for each order k and sample, reduced in integers where the points are uniform: (len(orders), n)."""
    if axis.points == "gauss":
        return math.pi * orders.double()[:, None] * (axis.coordinates(n, orders.device, torch.float64) - axis.lower) / axis.length
    half, intervals = _offset(axis), n - 1 if axis.points == "endpoint" else n
    j = torch.arange(n, device=orders.device)
    return (orders[:, None] * (2 * j + half)).remainder(4 * intervals).double() * (math.pi / (2 * intervals))


def _cosine(axis: Axis, n: int, size: int, device) -> tuple[Tensor, Tensor]:
    k = torch.arange(size, device=device)
    return _half_angles(axis, n, k).cos() * _norms(k), k < _intervals(axis, n)


def _sine(axis: Axis, n: int, size: int, device) -> tuple[Tensor, Tensor]:
    k = torch.arange(1, size + 1, device=device)
    return _half_angles(axis, n, k).sin() * math.sqrt(2), k < _intervals(axis, n)


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


def _intervals(axis: Axis, n: int) -> int:
    return n - 1 if axis.points == "endpoint" else n


def _values(basis: Basis, axis: Axis, n: int, device) -> tuple[Tensor, Tensor]:
    """Return the functions at the samples, (span, n), those that n samples do not carry zero, and which they carry."""
    values, carried = _FUNCTIONS[basis.kind](axis, n, basis.span, device)
    return values * carried.double()[:, None] / math.sqrt(axis.length), carried


@table
def _synthesis(basis: Basis, axis: Axis, n: int, device) -> Tensor:
    values = _values(basis, axis, n, device)[0]
    return (values if basis.kept is None else values[list(basis.kept)]).T.clone(memory_format=torch.contiguous_format)


@table
def _analysis(basis: Basis, axis: Axis, n: int, device) -> Tensor:
    values, carried = _values(basis, axis, n, device)
    weighted = values * axis.weights(n, device, torch.float64)
    gram = weighted @ values.T + torch.diag((~carried).double())
    matrix = torch.linalg.solve(gram, weighted)
    return matrix if basis.kept is None else matrix[list(basis.kept)]
