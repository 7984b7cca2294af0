"""Pruned Fourier transforms of functions on grids: only the wave numbers that are wanted.

A function u sampled at x_j = lower + (j + s) L/n (offset s = 0 at nodes, 1/2 in cells) has the
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

so the plane k_d = 0 acts through its Hermitian part, whatever is given. Of a field that is split over processes
(``grid.split``) each transforms its block, and the coefficients, the few that are wanted, are added up. Angles are reduced in integers,
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

from opkernels.domains import Axis, Grid, table

__all__ = ["Fourier", "Modes", "checked_modes", "prefers_matmul", "uses_tf32"]


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

    Anything with these two methods can stand in its place in a spectral layer. Fields may be split over processes; every
    process has all coefficients.
    """

    modes: Modes

    def analyze(self, x: Tensor, grid: Grid) -> Tensor:
        """Return the coefficients (B, 2, *modes.shape, C) of samples x (B, C, *grid.sizes).

        Index 0 of the second axis is the real, 1 the imaginary part. Wave numbers that the grid does not carry
        (2|k| >= n) are zero. Any memory layout is taken; channels first and channels last need no copy.
        """
        if not self._prefers_matmul(x):
            return grid.split.total(self._analyze_fft(x, grid))
        return grid.split.total(self._analyze_matmul(x, grid))

    def _prefers_matmul(self, x: Tensor) -> bool:
        if torch.compiler.is_exporting() or not x.shape[0]:  # FFTs on CPUs refuse an empty batch
            return True
        return prefers_matmul(self.modes, x.device, x.requires_grad and torch.is_grad_enabled())

    def _analyze_matmul(self, x: Tensor, grid: Grid) -> Tensor:
        modes, axes, cut = self.modes, grid.domain.axes, grid.split.cut
        batch, channels, *n = x.shape
        last = x.movedim(1, -1)
        if last.is_contiguous():
            groups, width = batch, channels
        else:
            groups, width, last = batch * channels, 1, x
        z, rows = last, []
        for a, K in enumerate(modes.tops[:-1]):
            z = z.reshape(groups * prod(rows), n[a], prod(n[a + 1 :]) * width)
            z = torch.matmul(cut(_leading(_offset(axes[a]), K, grid.shape[a], False, device=x.device, dtype=x.dtype), 1, a), z)
            rows.append(2 * K + 1)
        final = _last(_offset(axes[-1]), modes.tops[-1], grid.shape[-1], modes.nyquist, False, device=x.device, dtype=x.dtype)
        final = cut(final, 1, grid.ndim - 1)
        if width == channels:
            z = torch.matmul(final, z.reshape(groups * prod(rows), n[-1], width))
        else:
            z = torch.matmul(z.reshape(groups * prod(rows), n[-1]), final.T)
            z = z.reshape(batch, channels, prod(rows), 2 * modes.shape[-1]).movedim(1, -1)
        tail = modes.shape[-1] * channels
        for a in reversed(range(modes.ndim - 1)):
            pairs = _pairs(modes.lower[a], modes.upper[a], grid.shape[a], modes.nyquist, device=x.device, dtype=x.dtype)
            z = torch.matmul(pairs, z.reshape(batch * prod(rows[:a]), 2 * rows[a], tail))
            tail *= modes.shape[a]
        return z.reshape(batch, 2, *modes.shape, channels)

    def synthesize(self, z: Tensor, grid: Grid, *, channels_last: bool = True) -> Tensor:
        """Return the samples (B, C, *grid.sizes) of the function with coefficients z (B, 2, *modes.shape, C).

        `channels_last` chooses the memory layout of the result, not its shape.
        """
        if not self._prefers_matmul(z):
            return self._synthesize_fft(z, grid, channels_last)
        return self._synthesize_matmul(z, grid, channels_last)

    def _synthesize_matmul(self, z: Tensor, grid: Grid, channels_last: bool) -> Tensor:
        modes, axes, n, cut = self.modes, grid.domain.axes, grid.sizes, grid.split.cut
        batch, channels = z.shape[0], z.shape[-1]
        rows, tail = [], prod(modes.shape) * channels
        for a, K in enumerate(modes.tops[:-1]):
            tail //= modes.shape[a]
            pairs = _pairs(modes.lower[a], modes.upper[a], grid.shape[a], modes.nyquist, device=z.device, dtype=z.dtype)
            z = torch.matmul(pairs.T, z.reshape(batch * prod(rows), 2 * modes.shape[a], tail))
            rows.append(2 * K + 1)
        final = _last(_offset(axes[-1]), modes.tops[-1], grid.shape[-1], modes.nyquist, True, device=z.device, dtype=z.dtype)
        final = cut(final, 0, grid.ndim - 1)
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
            z = torch.matmul(cut(_leading(_offset(axes[a]), K, grid.shape[a], True, device=z.device, dtype=z.dtype), 0, a), z)
        if channels_last:
            return z.reshape(batch, *n, channels).movedim(-1, 1)
        return z.reshape(batch, channels, *n)

    def _analyze_fft(self, x: Tensor, grid: Grid) -> Tensor:
        """FFT axis by axis, the dropped columns dropped before the next one."""
        z = x
        for a in reversed(range(grid.ndim)):
            z = self.analyze_axis(grid.split.spread(z, a - grid.ndim, a, grid.shape[a]), grid, a)
        return torch.view_as_real(z).movedim((-1, 1), (1, -1))

    def _synthesize_fft(self, z: Tensor, grid: Grid, channels_last: bool) -> Tensor:
        y = torch.complex(z[:, 0], z[:, 1]).movedim(-1, 1)
        for a in range(grid.ndim):
            y = grid.split.cut(self.synthesize_axis(y, grid, a), a - grid.ndim, a)
        return y.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else y

    def analyze_axis(self, z: Tensor, grid: Grid, a: int) -> Tensor:
        """Transform axis `a` of z (B, C, *), whole, to the wave numbers stored for it; the last axis, of real samples, comes first."""
        modes, n, dim = self.modes, grid.shape[a], a - grid.ndim
        z = torch.fft.rfft(z, norm="forward") if dim == -1 else torch.fft.fft(z, dim=dim, norm="forward")
        first, stop = _carried(modes, a, n)
        part = z.narrow(dim, 0, stop)
        if first < 0:
            part = torch.cat([z.narrow(dim, n + first, -first), part], dim=dim)
        z = _pad(part, dim, first - modes.lower[a], modes.upper[a] + 1 - stop)
        return _shift(z, modes, grid, a, -1)

    def synthesize_axis(self, y: Tensor, grid: Grid, a: int) -> Tensor:
        """Transform axis `a` of y (B, C, *) from its stored wave numbers to samples; the last axis, which makes them real, comes last."""
        modes, n, dim = self.modes, grid.shape[a], a - grid.ndim
        first, stop = _carried(modes, a, n)
        y = _shift(y, modes, grid, a, 1).narrow(dim, first - modes.lower[a], stop - first)
        if dim < -1:
            negative, positive = y.narrow(dim, 0, -first), y.narrow(dim, -first, stop)
            return torch.fft.ifft(torch.cat([_pad(positive, dim, 0, n - stop + first), negative], dim=dim), dim=dim, norm="forward")
        # wave numbers without a partner are real; not every inverse FFT drops the rest
        k = torch.arange(stop, device=y.device)
        paired = ((k > 0) & (2 * k != n)).to(y.real.dtype)
        return torch.fft.irfft(torch.complex(y.real, y.imag * paired), n=n, norm="forward")


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
    if uses_tf32(device):
        return False  # TF32 products would cost the tables three digits; FFTs keep float32
    return max(modes.tops) <= (75 if grad else 60)


def uses_tf32(device: torch.device) -> bool:
    """Whether float32 products on this device may round their factors to ten bits (TF32)."""
    return device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"


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
