"""Transfer samples of a function from one grid of a domain to another.

Each axis has an interpolant, the function that its samples stand for:

| axis                          | interpolant                                                     | error for smooth functions |
| ----------------------------- | --------------------------------------------------------------- | -------------------------- |
| periodic, "node" or "cell"    | trigonometric polynomial, ``|k| <= n/2``, Nyquist halved on both signs | spectral                   |
| walls, "gauss"                | polynomial of degree n - 1 (Legendre series)                    | spectral                   |
| walls, "node, cell, endpoint" | cubic not-a-knot spline, carried on to the wall                 | h^4                        |
| a sphere, both axes together  | spherical harmonics up to the grid's `highest_degree`           | spectral                   |

Refining evaluates the interpolant at the finer samples. Coarsening returns the coarse samples whose
interpolant fits the fine ones best in the (quadrature-weighted) mean square. On periodic and Gauss
axes that is the truncation of the series; on the others it is the L2 projection onto splines, so that
what the coarse grid cannot carry is damped, not aliased. Where the kinds of points differ as well,
the samples first change kind at the finer size. In every case

    coarsen(refine(x)) = x   (same kind of points)   and   constants (on walls: cubics) are exact,

the first on a sphere for functions that the coarse grid carries, as its samples are more than its
harmonics. Both are linear, so each axis is one real matrix (m, n), made in float64; long periodic axes
take an FFT instead, spheres a harmonic transform.
"""

from __future__ import annotations

import functools
import math
from contextlib import nullcontext

import torch
from torch import Tensor

from opkernels.domains import Axis, Grid, table
from opkernels.sphere import SphereGrid
from opkernels.spherical import Harmonics

__all__ = ["dirichlet", "interpolate", "legendre", "project", "resample"]

_MATRIX_LIMIT = 512 * 512  # entries up to which a matrix beats (and is kept in the cache of) an FFT


def resample(x: Tensor, source: Grid | SphereGrid, target: Grid | SphereGrid | tuple[int, ...]) -> Tensor:
    """Return the function sampled by `x` on `source`, sampled on `target`.

    Parameters
    ----------
    x : Tensor, (..., *source.sizes)
        Real samples; leading axes are kept, (B, C) for a field that is split over processes.
    source : Grid or SphereGrid
        Where the samples of `x` sit.
    target : Grid, SphereGrid or tuple of int
        Where they are wanted: another grid over the same intervals (the points of an axis may
        differ: "cell" to "node"), or only another shape of the same domain.

    Returns
    -------
    Tensor, (..., *target.shape)
        Split as the source, in the dtype of `x` (half precisions are computed in float32). `x` itself where the grids
        are equal.

    Raises
    ------
    ValueError
        If `x` does not have the shape of `source`, is not real floating point, or the target covers
        another interval or has another periodicity.

    Notes
    -----
    Exact for trigonometric polynomials that the coarser of the two grids resolves. On walls a kink
    costs accuracy near it, and noise in the last samples is amplified (6 times by half a cell of
    extrapolation, 15 times by the missing end of a "node" axis). A matrix of m n entries is built
    per wall axis, so very long ones (10^4 samples) need memory.

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> domain = Domain.periodic(1.0)
    >>> x = torch.cos(2 * torch.pi * domain.grid(8).coordinates()[0])
    >>> resample(x, domain.grid(8), (4,)).round(decimals=4) + 0.0
    tensor([ 1.,  0., -1.,  0.])
    """
    if not isinstance(target, (Grid, SphereGrid)):
        target = source.domain.grid(tuple(target))
    _check(x, source, target)
    if source == target:
        return x
    if not x.numel():  # FFTs on CPUs refuse an empty batch; its sum, 0, keeps the graph of derivatives
        return x.new_zeros(*x.shape[: -source.ndim], *target.sizes) + x.sum()
    if isinstance(source, SphereGrid) and isinstance(target, SphereGrid):
        harmonics = Harmonics(min(source.highest_degree, target.highest_degree))
        return harmonics.synthesize(harmonics.analyze(x, source), target).to(x.dtype)
    with torch.autocast(x.device.type, enabled=False) if torch.amp.is_autocast_available(x.device.type) else nullcontext():
        y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        axes = list(zip(source.domain.axes, source.shape, target.domain.axes, target.shape, strict=True))
        # Coarsening axes first: the rest then works on less data. Symbolic sizes cannot be sorted.
        order = range(len(axes)) if torch.compiler.is_compiling() else sorted(range(len(axes)), key=lambda a: axes[a][3] / axes[a][1])
        for a in order:
            y = source.split.along(functools.partial(_resample_axis, a - len(axes), *axes[a]), y, a, axes[a][1])
        return y.to(x.dtype)


def _check(x: Tensor, source: Grid | SphereGrid, target: Grid | SphereGrid) -> None:
    if tuple(x.shape[-source.ndim :]) != tuple(source.sizes):
        raise ValueError(f"resample got a tensor of shape {tuple(x.shape)}; expected its last axes to be the grid's {source.sizes}")
    if source.split.size > 1 and x.ndim != source.ndim + 2:
        raise ValueError(f"resample got a block of shape {tuple(x.shape)} of a split field; expected (batch, channels, *spatial)")
    if not x.is_floating_point():
        raise ValueError(f"resample got a tensor of dtype {x.dtype}; give real floating-point samples")
    if target.ndim != source.ndim:
        raise ValueError(f"resample got a {target.ndim}-D target for a {source.ndim}-D source; give grids of one domain")
    spheres = [grid.domain.radius if isinstance(grid, SphereGrid) else None for grid in (source, target)]
    if spheres[0] != spheres[1]:
        raise ValueError(f"resample got a source on {source.domain} and a target on {target.domain}; both grids must sample one sphere")
    for one, other in zip(source.domain.axes, target.domain.axes, strict=True):
        if (one.lower, one.upper, one.periodic) != (other.lower, other.upper, other.periodic):
            raise ValueError(
                f"resample got a source over [{one.lower:g}, {one.upper:g}] and a target over [{other.lower:g}, {other.upper:g}]"
                f"{'' if one.periodic == other.periodic else ', one periodic and one with walls,'} on axis {one.name}; "
                "both grids must sample one domain"
            )


def _resample_axis(dim: int, source: Axis, n: int, target: Axis, m: int, x: Tensor) -> Tensor:
    if n == m and source.points == target.points:
        return x
    if source.periodic and n * m > _MATRIX_LIMIT and not torch.compiler.is_compiling():
        return _fourier_fft(x.movedim(dim, -1), source, n, target, m).movedim(-1, dim)
    matrix = _transfer(source, n, target, m, device=x.device, dtype=x.dtype)
    if dim == -1:
        return x @ matrix.T
    return (x.movedim(dim, -1) @ matrix.T).movedim(-1, dim)


@table
def _transfer(source: Axis, n: int, target: Axis, m: int, device) -> Tensor:
    """Matrix (m, n) from the samples of one axis to those of another; made on the host, for its solvers."""
    if source.periodic:
        return _fourier(source, n, target, m).to(device)
    if m >= n:
        return interpolate(source, n, target.coordinates(m, dtype=torch.float64)).to(device)
    fit = project(target, n, m)
    if source.points != target.points:
        fit = fit @ interpolate(source, n, target.coordinates(n, dtype=torch.float64))
    return fit.to(device)


def project(axis: Axis, n: int, m: int) -> Tensor:
    """Matrix (m, n) from n samples of a wall axis to the m <= n whose interpolant fits them best in the mean square."""
    # min_c sum w (P c - f)^2; the kinds of points agree, so the normal equations are well conditioned (below 10^4).
    p = interpolate(axis, m, axis.coordinates(n, dtype=torch.float64))
    weighted = p.T * axis.weights(n, dtype=torch.float64)
    return torch.linalg.solve(weighted @ p, weighted)


def _fourier(source: Axis, n: int, target: Axis, m: int) -> Tensor:
    """Modes that both grids carry, from n samples to m."""
    y = 2 * math.pi / m * (torch.arange(m, dtype=torch.float64) + target.offset)
    # An unpaired Nyquist mode: halved on both signs when refining, folded together when coarsening.
    return dirichlet(source, n, y, min(n, m) // 2, 1.0 if min(n, m) % 2 == 0 and m >= n else 2.0)


def dirichlet(axis: Axis, n: int, y: Tensor, top: int, nyquist: float) -> Tensor:
    """Kernel (1/n) sum_k w_k cos(k (y - x)) between angles y and the n samples x: k = 0 .. top, w = 1, 2, ..., 2, nyquist."""
    k = torch.arange(top + 1, dtype=torch.float64)
    weight = torch.where(k == 0, 1.0, torch.where(k == top, nyquist, 2.0)).double() / n
    x = 2 * math.pi / n * (torch.arange(n, dtype=torch.float64) + axis.offset)
    kx, ky = k[:, None] * x, y[:, None] * k
    return (ky.cos() * weight) @ kx.cos() + (ky.sin() * weight) @ kx.sin()


def _fourier_fft(x: Tensor, source: Axis, n: int, target: Axis, m: int) -> Tensor:
    """Apply `_fourier` along the last axis by FFT: O(n log n) for long axes."""
    top = min(n, m) // 2
    k = torch.arange(top + 1, dtype=torch.float64, device=x.device)
    # irfft counts a Nyquist entry once and any other twice.
    nyquist = 1.0 if min(n, m) % 2 or m == n else 0.5 if m > n else 2.0
    size = torch.where(k == top, nyquist, 1.0).double()
    shift = torch.polar(size, 2 * math.pi * (target.offset / m - source.offset / n) * k)
    x_hat = torch.fft.rfft(x, norm="forward").narrow(-1, 0, top + 1)
    return torch.fft.irfft(x_hat * shift.to(x_hat.dtype), n=m, norm="forward")


def interpolate(axis: Axis, n: int, y: Tensor) -> Tensor:
    """Matrix (len(y), n) from the n samples of a wall axis to the values of their interpolant at y."""
    if axis.points == "gauss":
        return legendre(axis, n, y)
    s = (y - axis.lower) / axis.spacing(n) - axis.offset  # position in units of the spacing
    return _polynomial(n, s) if n <= 4 else _spline(n, s)


def legendre(axis: Axis, n: int, y: Tensor) -> Tensor:
    """Legendre series of degree n - 1 of the samples at Gauss nodes, evaluated at y."""
    at_nodes = _legendre_values(axis, n, axis.coordinates(n, dtype=torch.float64))
    return torch.linalg.solve(at_nodes.T, _legendre_values(axis, n, y).T).T


def _legendre_values(axis: Axis, n: int, x: Tensor) -> Tensor:
    """Orthonormal Legendre polynomials of degree 0 .. n-1 on the axis at the points x: (len(x), n)."""
    z = 2 * (x - axis.lower) / axis.length - 1
    columns = [torch.ones_like(z), z]
    for k in range(1, n - 1):
        columns.append(((2 * k + 1) * z * columns[k] - k * columns[k - 1]) / (k + 1))
    degree = torch.arange(n, dtype=torch.float64)
    return torch.stack(columns[:n], dim=1) * ((2 * degree + 1) / axis.length).sqrt()


def _polynomial(n: int, s: Tensor) -> Tensor:
    """Lagrange polynomial through samples at 0 .. n-1, evaluated at s: (len(s), n)."""
    nodes = range(n)
    return torch.stack([math.prod([(s - j) / (i - j) for j in nodes if j != i]) * torch.ones_like(s) for i in nodes], dim=1)


def _spline(n: int, s: Tensor) -> Tensor:
    """Cubic not-a-knot spline through samples at 0 .. n-1, evaluated at s: (len(s), n).

    Unknowns are the coefficients c_j, j = -1 .. n, of cardinal B-splines. Interpolation gives n
    equations c_{i-1} + 4 c_i + c_{i+1} = 6 f_i. The third derivative is continuous at the knots 1
    and n-2, so the fourth difference of c vanishes there; the outer pieces carry on beyond the ends.
    """
    i = torch.arange(n, dtype=torch.float64)
    j = torch.arange(-1, n + 1, dtype=torch.float64)
    inside = _b_spline(i[:, None] - j)
    ends = torch.stack([_fourth_difference(j - 1), _fourth_difference(j - (n - 2))])
    right = torch.cat([torch.eye(n, dtype=torch.float64), torch.zeros(2, n, dtype=torch.float64)])
    coefficients = torch.linalg.solve(torch.cat([inside, ends]), right)
    piece = s.floor().clamp(0, n - 2)
    t = (s - piece)[:, None]
    return _b_spline_piece(t, j - piece[:, None]) @ coefficients


def _b_spline(s: Tensor) -> Tensor:
    """Cardinal cubic B-spline at integers: 2/3 at 0, 1/6 at -1 and 1."""
    return torch.where(s == 0, 4.0, torch.where(s.abs() == 1, 1.0, 0.0)).double() / 6


def _b_spline_piece(t: Tensor, j: Tensor) -> Tensor:
    """B-spline centered at j on the piece [0, 1], its cubic continued to any t."""
    zero = torch.zeros((), dtype=torch.float64)
    pieces = {
        -1: (1 - t) ** 3 / 6,
        0: 2 / 3 - t**2 + t**3 / 2,
        1: 1 / 6 + t / 2 + t**2 / 2 - t**3 / 2,
        2: t**3 / 6,
    }
    return sum((torch.where(j == center, value, zero) for center, value in pieces.items()), start=zero)


def _fourth_difference(j: Tensor) -> Tensor:
    """Binomial weights 1, -4, 6, -4, 1 at j = -2 .. 2."""
    j = j.abs()
    return torch.where(j == 0, 6.0, torch.where(j == 1, -4.0, torch.where(j == 2, 1.0, 0.0))).double()
