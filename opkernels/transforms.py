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
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from opkernels.domains import Axis, Grid, table

__all__ = ["Fourier", "Modes"]


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
        n_modes = _checked_modes(n_modes)
        top = tuple((m - 1) // 2 for m in n_modes)
        return cls((*(-k for k in top[:-1]), 0), top)

    @classmethod
    def neuraloperator(cls, n_modes: Sequence[int], *, nyquist: bool = True) -> Modes:
        """Return -(m//2) .. m - 1 - m//2 on leading axes and 0 .. m//2 on the last: neuraloperator's rule."""
        n_modes = _checked_modes(n_modes)
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


def _checked_modes(n_modes: Sequence[int]) -> tuple[int, ...]:
    modes = (n_modes,) if isinstance(n_modes, int) else tuple(n_modes)
    if not modes or not all(isinstance(m, int) and not isinstance(m, bool) and m >= 1 for m in modes):
        raise ValueError(f"got n_modes={n_modes!r}; give one whole number of at least 1 per axis")
    return modes


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
