"""Distances between functions, and spectra, that do not depend on the grid they are sampled on.

Integrals carry the grid's quadrature weights, derivatives and wave numbers are physical. The figures
that other packages publish, definition for definition, are in `opkernels.evaluation.published`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain, Grid, table
from opkernels.resample import resample
from opkernels.sphere import SphereGrid
from opkernels.spherical import Harmonics

__all__ = ["band_energy", "energy_spectrum", "rel_h1", "rel_l2", "spectrum_distance"]

_SLACK = 1e-9  # a mode on the edge of a shell or band is inside, whatever the rounding


def rel_l2(prediction: Tensor, truth: Tensor, grid: Grid | SphereGrid | None = None, *, reduction: str = "mean") -> Tensor:
    r"""Relative L2 error ||p - r|| / ||r||, over channels and space, averaged over the batch.

    .. math:: \|u\|^2 = \sum_c \int |u_c(x)|^2 dx \approx \sum_{c, x} w_x |u_c(x)|^2

    Parameters
    ----------
    prediction, truth : Tensor, (B, ..., *spatial)
        Of one shape; every axis but the first is summed over.
    grid : Grid, optional
        Gives the quadrature weights w; needed on "endpoint" and "gauss" axes, whose samples do not
        count alike, and for fields that are split over processes. None: equal weights.
    reduction : {"mean", "none"}
        Mean over the batch (a scalar), or one value per sample, (B,).

    Notes
    -----
    Differentiable everywhere: the gradient at p = r is zero. A truth of norm zero gives a huge
    value (the error over the smallest normal number), or 0 where the error is zero as well.

    Examples
    --------
    >>> import torch
    >>> truth = torch.ones(4, 1, 8, 8)
    >>> rel_l2(1.1 * truth, truth)
    tensor(0.1000)
    """
    _check(prediction, truth, grid, reduction)
    root = None if grid is None or grid.uniform else grid.weights(truth.device, truth.dtype).sqrt()
    error, norm = _norm(prediction - truth, root, grid), _norm(truth, root, grid)
    return _reduced(error / norm.clamp_min(torch.finfo(norm.dtype).tiny), reduction)


def rel_h1(prediction: Tensor, truth: Tensor, grid: Grid | SphereGrid | None = None, *, reduction: str = "mean") -> Tensor:
    r"""Relative H1 error, which weighs the gradient as well: ||p - r||_H1 / ||r||_H1.

    .. math:: \|u\|_{H^1}^2 = \sum_c \int |u_c|^2 + |\nabla u_c|^2 \, dx

    Parameters
    ----------
    prediction, truth : Tensor, (B, ..., *grid.shape)
    grid : Grid or SphereGrid
        Gives the lengths (needed: a derivative has no meaning without them). None is refused.
    reduction : {"mean", "none"}

    Notes
    -----
    Derivatives are spectral on spheres, on periodic axes (without the Nyquist mode of an even size) and on
    "gauss" axes, and fourth-order differences on the others (one-sided at walls; exact for
    polynomials of degree 4). Lengths enter in the units of the domain, so the balance of the two
    terms depends on them, as in the textbook norm.

    Raises
    ------
    ValueError
        Without a grid, or where shapes differ.
    """
    if grid is None:
        raise ValueError("rel_h1 got no grid; derivatives need lengths, so pass grid=domain.grid_of(x)")
    _check(prediction, truth, grid, reduction)
    error, norm = _h1_norm(prediction - truth, grid), _h1_norm(truth, grid)
    return _reduced(error / norm.clamp_min(torch.finfo(norm.dtype).tiny), reduction)


def energy_spectrum(u: Tensor, grid: Grid | SphereGrid) -> tuple[Tensor, Tensor]:
    r"""Energy per wave number, over shells of the physical wave number.

    .. math:: E(\kappa_j) \, \Delta\kappa = \frac12 \sum_{|\kappa| \in \text{shell } j} |\hat u(\kappa)|^2,
              \qquad \sum_j E(\kappa_j) \, \Delta\kappa = \frac12 \frac1{|\Omega|} \int |u|^2 dx

    Shell j holds |kappa| in [(j - 1/2), (j + 1/2)) times the width dkappa = max_a 2 pi / L_a, the
    coarsest of the axes' fundamental wave numbers, so that no shell is empty. All modes are
    counted, to the corners of the box. On a sphere of radius r shells are the degrees l = 0 .. `highest_degree`, at kappa = l/r.

    Parameters
    ----------
    u : Tensor, (..., *grid.shape)
    grid : Grid or SphereGrid
        Axes with walls are continued by reflection (period 2 L), those not sampled at cell centers
        after resampling to them.

    Returns
    -------
    kappa : Tensor, (S,)
        Centers of the shells, in radians per unit of length.
    energy : Tensor, (..., S)
        E for each leading index; sum over velocity components yourself. The units are those of
        u^2 times length.
    """
    power, kappa, width = _power(u, grid)
    shell = (kappa / width + 0.5 + _SLACK).floor().long()
    n_shells = int(shell.max()) + 1
    energy = power.new_zeros(*power.shape[:-1], n_shells).index_add(-1, shell, power)
    centers = width * torch.arange(n_shells, dtype=power.dtype, device=power.device)
    return centers, energy / (2 * width)


def band_energy(u: Tensor, grid: Grid | SphereGrid, edges: Tensor | list[float]) -> Tensor:
    """Mean square of `u` carried by bands of the physical wave number: (..., len(edges) - 1).

    Band b holds the modes with edges[b] <= |kappa| < edges[b+1]; the sum over bands that cover all
    wave numbers is the mean of u^2 (Parseval). The square root for an error field is its `band_rmse`.
    `u` and `grid` as for `energy_spectrum`.
    """
    power, kappa, _ = _power(u, grid)
    edges = torch.as_tensor(edges, dtype=torch.float64, device=power.device)
    if edges.ndim != 1 or len(edges) < 2 or not bool((edges.diff() > 0).all()):
        raise ValueError(f"band_energy got the edges {edges.tolist()}; give at least two rising wave numbers")
    band = torch.bucketize(kappa * (1 + _SLACK), edges, right=True)  # 0 below the first edge, len(edges) above the last
    energy = power.new_zeros(*power.shape[:-1], len(edges) + 1).index_add(-1, band, power)
    return energy[..., 1:-1]


def spectrum_distance(prediction: Tensor, truth: Tensor, grid: Grid | SphereGrid, *, floor: float = 1e-12) -> Tensor:
    """Distance of energy spectra in decades: rms over shells of log10(E_p / E_r), shape (...).

    Shells where the truth holds less than `floor` of its total energy are left out. Phases do not
    matter, so a prediction that lost the trajectory but kept the statistics scores near zero; 0.3 is
    a factor of two in energy.
    """
    _, p = energy_spectrum(prediction, grid)
    _, r = energy_spectrum(truth, grid)
    used = r > floor * r.sum(-1, keepdim=True)
    decades = (p.clamp_min(torch.finfo(p.dtype).tiny) / torch.where(used, r, torch.ones_like(r))).log10()
    squares = torch.where(used, decades**2, torch.zeros_like(decades))
    return (squares.sum(-1) / used.sum(-1)).sqrt()


def _check(prediction: Tensor, truth: Tensor, grid: Grid | SphereGrid | None, reduction: str) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(
            f"got a prediction of shape {tuple(prediction.shape)} for a truth of shape {tuple(truth.shape)}; give equal shapes"
        )
    if truth.ndim < 2:
        raise ValueError(f"got tensors of shape {tuple(truth.shape)}; expected (batch, channels, *spatial)")
    if grid is not None and tuple(truth.shape[-grid.ndim :]) != tuple(grid.sizes):
        raise ValueError(f"got tensors of shape {tuple(truth.shape)}; expected their last axes to be the grid's {tuple(grid.sizes)}")
    if reduction not in ("mean", "none"):
        raise ValueError(f'got reduction={reduction!r}; choose "mean" or "none"')


def _reduced(values: Tensor, reduction: str) -> Tensor:
    return values.mean() if reduction == "mean" else values


def _norm(u: Tensor, root: Tensor | None, grid: Grid | SphereGrid | None) -> Tensor:
    """Root of the weighted sum of squares over all axes but the first; its gradient at zero is zero."""
    norm = torch.linalg.vector_norm((u if root is None else u * root).flatten(1), dim=1)
    return norm if grid is None or grid.split.size == 1 else torch.linalg.vector_norm(grid.split.joined(norm), dim=0)


def _h1_norm(u: Tensor, grid: Grid | SphereGrid) -> Tensor:
    root = grid.weights(u.device, u.dtype).sqrt()
    u = u.reshape(u.shape[0], -1, *grid.sizes)
    terms = [_norm(u, root, grid)]
    terms += [_norm(slope, root, grid) for slope in _gradient(u, grid)]
    return torch.linalg.vector_norm(torch.stack(terms), dim=0)


def _gradient(u: Tensor, grid: Grid | SphereGrid) -> Iterator[Tensor]:
    """Yield the derivatives along every axis, on a sphere eastward and northward."""
    if isinstance(grid, SphereGrid):
        harmonics = Harmonics(grid.highest_degree)
        yield from harmonics.gradient(harmonics.analyze(u, grid), grid)
        return
    for a, (axis, n) in enumerate(zip(grid.domain.axes, grid.shape, strict=True)):
        yield grid.split.along(functools.partial(_derivative, dim=a - grid.ndim, axis=axis, n=n), u, a, n)


def _derivative(u: Tensor, dim: int, axis: Axis, n: int) -> Tensor:
    """Differentiate along one axis: by FFT where periodic, by a (banded or spectral) matrix otherwise."""
    if not axis.periodic:
        matrix = _difference(axis, n, device=u.device, dtype=u.dtype)
        return (u.movedim(dim, -1) @ matrix.T).movedim(-1, dim)
    k = torch.arange(n // 2 + 1, dtype=u.dtype, device=u.device) * (2 * math.pi / axis.length)
    # The derivative of an unpaired Nyquist mode is zero at the samples; not every FFT library drops its imaginary part.
    k = torch.where(2 * torch.arange(n // 2 + 1, device=u.device) == n, torch.zeros_like(k), k)
    u_hat = torch.fft.rfft(u, dim=dim) * (1j * k).reshape(-1, *[1] * (-1 - dim))
    return torch.fft.irfft(u_hat, n=n, dim=dim)


@table
def _difference(axis: Axis, n: int, device) -> Tensor:
    """Differentiation matrix (n, n) of a wall axis: polynomial through the 5 (on "gauss": all) nearest samples."""
    x = axis.coordinates(n, dtype=torch.float64) - axis.lower
    width = n if axis.points == "gauss" else min(n, 5)
    first = (torch.arange(n) - width // 2).clamp(0, n - width)
    columns = first[:, None] + torch.arange(width)
    weights = _first_derivative_weights(x[columns], x)
    return torch.zeros(n, n, dtype=torch.float64).scatter(1, columns, weights).to(device)


def _first_derivative_weights(nodes: Tensor, x: Tensor) -> Tensor:
    """Weights (n, p) of the derivative at x (n,), one of the nodes (n, p) of each row: barycentric formula."""
    p = nodes.shape[1]
    gaps = nodes[:, :, None] - nodes[:, None, :]
    gaps = gaps + torch.eye(p, dtype=gaps.dtype)
    scale = gaps.abs().log().mean((1, 2), keepdim=True).exp()  # keeps the products within range
    bary = 1 / (gaps / scale).prod(2)
    distance = x[:, None] - nodes
    here = distance == 0
    own = (bary * here).sum(1, keepdim=True)
    off = torch.where(here, torch.zeros_like(bary), bary / own / torch.where(here, torch.ones_like(distance), distance))
    return off - here * off.sum(1, keepdim=True)


def _power(u: Tensor, grid: Grid | SphereGrid) -> tuple[Tensor, Tensor, float]:
    """Squared modes (..., modes), their wave numbers (modes,) and the width of a shell."""
    if grid.split.size > 1:
        raise ValueError(f"a spectrum got a field split over {grid.split.size} processes, which it cannot take; gather the field first")
    if tuple(u.shape[-grid.ndim :]) != tuple(grid.shape):
        raise ValueError(f"got a tensor of shape {tuple(u.shape)}; expected its last axes to be the grid's {tuple(grid.shape)}")
    if isinstance(grid, SphereGrid):
        harmonics, radius = Harmonics(grid.highest_degree), grid.domain.radius
        power = harmonics.spectrum(harmonics.analyze(u, grid)) / (4 * math.pi)
        return power, torch.arange(harmonics.degree + 1, dtype=torch.float64, device=u.device) / radius, 1 / radius
    u, grid = _periodized(u, grid)
    d = grid.ndim
    u_hat = torch.fft.rfftn(u, dim=tuple(range(-d, 0)), norm="forward")
    n = grid.shape[-1]
    column = torch.arange(u_hat.shape[-1], device=u.device)
    twice = torch.where((column == 0) | (2 * column == n), 1.0, 2.0).to(u.dtype)  # columns that stand for their mirror image
    power = (u_hat.abs() ** 2 * twice).flatten(-d)
    squares = sum(k**2 for k in grid.wavenumbers(u.device, torch.float64))
    kappa = torch.as_tensor(squares).expand(u_hat.shape[-d:]).sqrt().flatten()
    return power, kappa, 2 * math.pi / min(grid.domain.extent)


def _periodized(u: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
    """Reflect walls: [0, L] becomes the period 2 L, sampled at cell centers."""
    axes = grid.domain.axes
    if all(axis.periodic for axis in axes):
        return u, grid
    cells = [a if a.periodic else Axis(a.lower, a.upper, points="cell", name=a.name) for a in axes]
    u = resample(u, grid, Domain(tuple(cells)).grid(grid.shape))
    doubled, shape = [], []
    for a, (axis, n) in enumerate(zip(cells, grid.shape, strict=True)):
        if not axis.periodic:
            u = torch.cat([u, u.flip(a - grid.ndim)], dim=a - grid.ndim)
            axis, n = Axis(axis.lower, axis.upper + axis.length, periodic=True, points="cell", name=axis.name), 2 * n
        doubled.append(axis)
        shape.append(n)
    return u, Domain(tuple(doubled)).grid(tuple(shape))
