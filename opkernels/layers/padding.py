"""Domain padding: continue functions smoothly beyond their walls, over a fixed length, to one period.

A Fourier series on [0, L] sees a jump where a function with walls ends. Padding an axis by the length p makes the period
L + p, and on the added piece, with s = (x - L)/p,

    u(x) = (1 - h(s)) (2 u(L) - u(L - p s)) + h(s) (2 u(0) - u(p - p s)),    h(s) = s^3 (10 - 15 s + 6 s^2)

leaves each wall with the value and the slope that the function has there (odd reflection about the wall's value) and goes
from one end to the other smoothly. Values between samples and at walls come from the interpolant of
`opkernels.resample`. The length is physical: the continued function is the same on every grid, up to O(h^4).

Exported with dynamic sizes, padded models need ``torch.export.Dim.AUTO``: which sizes fit has no formula that a `Dim` with a
range would accept.

The period must hold a whole number of samples: n (L + p)/L. Where it does not, the function is first resampled to the next
n that fits, and back after cropping.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain, Grid, table
from opkernels.resample import interpolate, project

__all__ = ["DomainPadding"]


class DomainPadding:
    """Extends functions on a domain with walls to a periodic one, and crops them again.

    Parameters
    ----------
    domain : Domain
        Its periodic axes are left alone.
    length : float or sequence of float
        Padding p per axis, in the units of the domain; at most L, and a simple fraction of it (L/4 is good): p/L = a/b with b
        up to 16 costs a resampling wherever n a/b is not whole.

    Raises
    ------
    ValueError
        If a length is negative, above L, or no fraction with a denominator up to 16 of L; or if no axis has walls.
    """

    def __init__(self, domain: Domain, length: float | Sequence[float]):
        lengths = [length] * domain.ndim if isinstance(length, (int, float)) else list(length)
        if len(lengths) != domain.ndim:
            raise ValueError(f"got domain_padding={length!r} on a {domain.ndim}-D domain; give one length, or one for each axis")
        self.fractions = tuple(Fraction(0) if axis.periodic else _fraction(axis, p) for axis, p in zip(domain.axes, lengths, strict=True))
        if not any(self.fractions):
            raise ValueError(f"got domain_padding={length!r}, but no axis with walls to pad; leave it at 0")

    def extend(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Return the continued function (B, C, *larger) of x (B, C, *grid.sizes), channels last in memory, and its grid."""
        axes, shape = list(grid.domain.axes), list(grid.shape)
        for a, (axis, n, fraction) in enumerate(zip(grid.domain.axes, grid.shape, self.fractions, strict=True)):
            if not fraction:
                continue
            x = grid.split.along(functools.partial(_times, dim=a + 1, build=_extension, key=(axis, n, fraction)), x, a, n)
            upper = axis.upper + float(fraction) * axis.length
            axes[a] = Axis(axis.lower, upper, periodic=True, points=axis.points, name=axis.name)
            shape[a] = _extended(n, fraction)
        return x, Grid(Domain(tuple(axes)), tuple(shape), grid.split)

    def crop(self, x: Tensor, grid: Grid) -> Tensor:
        """Return the function on the original `grid` again."""
        for a, (axis, n, fraction) in enumerate(zip(grid.domain.axes, grid.shape, self.fractions, strict=True)):
            if fraction:
                x = grid.split.along(functools.partial(_cropped, a=a, axis=axis, n=n, fraction=fraction), x, a, _extended(n, fraction))
        return x


def _cropped(x: Tensor, *, a: int, axis: Axis, n: int, fraction: Fraction) -> Tensor:
    """Return x (B, C, *) without the added piece of one axis, on n samples."""
    m = _fitting(n, fraction)
    x = x.narrow(a + 2, 0, m)
    return x if _same(n, m) else _times(x, dim=a + 1, build=_cropping, key=(axis, m, n))


def _times(x: Tensor, *, dim: int, build: Callable[..., Tensor], key: tuple) -> Tensor:
    """Multiply x (B, C, *spatial) by the matrix that a table builds, along `dim` of (B, *spatial, C), its layout in memory."""
    y = x.movedim(1, -1)
    after = y.shape[dim + 1 :]
    with torch.autocast(y.device.type, enabled=False):
        u = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
        z = torch.matmul(build(*key, device=u.device, dtype=u.dtype), u.flatten(dim + 1).flatten(0, dim - 1))
        return z.unflatten(0, y.shape[:dim]).unflatten(dim + 1, after).to(y.dtype).movedim(-1, 1)


def _fraction(axis: Axis, length: float) -> Fraction:
    ratio = length / axis.length
    fraction = Fraction(ratio).limit_denominator(16)
    if not 0 <= ratio <= 1 or abs(float(fraction) - ratio) > 1e-9:
        raise ValueError(
            f"got a domain padding of {length:g} on axis {axis.name} of length {axis.length:g}; "
            f"give a simple fraction of the length, such as {axis.length / 4:g}"
        )
    return fraction


def _fitting(n: int, fraction: Fraction) -> int:
    """Smallest size from n on whose padding is a whole number of samples."""
    return -(-n // fraction.denominator) * fraction.denominator


def _extended(n: int, fraction: Fraction) -> int:
    """Return the number of samples of the continued function."""
    m = _fitting(n, fraction)
    return m + m * fraction.numerator // fraction.denominator


def _same(n: int, m: int) -> bool:
    """Whether no resampling is needed; never so in an exported program, which must serve every size."""
    return not torch.compiler.is_exporting() and n == m


@table
def _cropping(axis: Axis, m: int, n: int, device) -> Tensor:
    """Matrix (n, m) back from the size that fits."""
    return project(axis, m, n).to(device)


@table
def _extension(axis: Axis, n: int, fraction: Fraction, device) -> Tensor:
    """Matrix (m (1 + p/L), n) from n samples to those of the continued function, m the size that fits."""
    m = _fitting(n, fraction)
    p = float(fraction) * axis.length
    inside = axis.coordinates(m, dtype=torch.float64)
    outside = (torch.arange(m * fraction.numerator // fraction.denominator, dtype=torch.float64) + axis.offset) * axis.length / m
    s = outside / p
    walls = torch.tensor([axis.lower, axis.upper], dtype=torch.float64)
    lower, upper = interpolate(axis, n, walls)
    h = (s**3 * (10 - 15 * s + 6 * s**2))[:, None]
    down = 2 * upper - interpolate(axis, n, axis.upper - outside)
    up = 2 * lower - interpolate(axis, n, axis.lower + p - outside)
    kept = torch.eye(n, dtype=torch.float64) if _same(n, m) else interpolate(axis, n, inside)
    return torch.cat([kept, (1 - h) * down + h * up]).to(device)
