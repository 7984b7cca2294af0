"""Functions to probe an operator with, and exact values of what it returns between its samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain, Grid, table
from opkernels.resample import dirichlet, legendre
from opkernels.sphere import Sphere
from opkernels.spherical import Harmonics

__all__ = ["random_function", "values_at"]

_STENCIL = 12  # samples of the local polynomials on wall axes


def random_function(
    domain: Domain | Sphere, channels: int, *, k_max: int = 3, seed: int = 0, walls: str = "polynomials"
) -> Callable[[Any], Tensor]:
    """Return one smooth random function of rms 1, as a callable from a grid to its samples (1, channels, *shape).

    Parameters
    ----------
    domain : Domain
    channels : int
    k_max : int
        Periodic axes: waves with |k| <= k_max. Wall axes: as many functions, 2 k_max + 1. Spheres: harmonics up to degree k_max.
    seed : int
    walls : {"polynomials", "cosines"}
        What stands for waves between walls: Chebyshev polynomials, which favor no boundary
        condition, or cosines cos(pi j (x - lower) / L), whose slope vanishes at the walls.
    """
    if walls not in ("polynomials", "cosines"):
        raise ValueError(f'got walls={walls!r}; choose "polynomials" or "cosines"')
    generator = torch.Generator().manual_seed(seed)
    if isinstance(domain, Sphere):
        return _random_harmonics(channels, k_max, generator)
    c = torch.randn(1, channels, *[2 * k_max + 1] * domain.ndim, generator=generator, dtype=torch.float64)

    def sample(grid: Grid) -> Tensor:
        u = c
        for axis, n in zip(grid.domain.axes, grid.shape, strict=True):
            # The leading index of a function is consumed, a spatial axis is appended.
            u = torch.einsum("bck...,kn->bc...n", u, _basis(axis, n, k_max, walls))
        return u

    reference = domain.grid([64] * domain.ndim)
    mean_square = (sample(reference) ** 2 * reference.weights(dtype=torch.float64)).sum() / (channels * domain.measure)
    c = c / mean_square.sqrt()
    return sample


def _random_harmonics(channels: int, degree: int, generator: torch.Generator) -> Callable[[Any], Tensor]:
    harmonics = Harmonics(degree)
    z = torch.randn(1, channels, degree + 1, degree + 1, 2, generator=generator, dtype=torch.float64)
    z = torch.view_as_complex(z)
    z = z * (4 * math.pi * channels / harmonics.spectrum(z).sum()).sqrt()  # the mean square over the unit sphere
    return lambda grid: harmonics.synthesize(z, grid)


def _basis(axis: Axis, n: int, k_max: int, walls: str) -> Tensor:
    s = (axis.coordinates(n, dtype=torch.float64) - axis.lower) / axis.length
    if not axis.periodic:
        angle = torch.acos((2 * s - 1).clamp(-1, 1)) if walls == "polynomials" else math.pi * s
        return torch.stack([torch.cos(j * angle) for j in range(2 * k_max + 1)])
    waves = [torch.ones_like(s)]
    for k in range(1, k_max + 1):
        waves += [torch.cos(2 * math.pi * k * s), torch.sin(2 * math.pi * k * s)]
    return torch.stack(waves)


def values_at(x: Tensor, source: Grid, target: Grid) -> Tensor:
    """Evaluate the interpolant of smooth samples x (..., *source.shape) at the points of a coarser grid.

    Unlike `opkernels.resample`, which truncates, this keeps all of the source's modes: trigonometric
    on periodic axes, Legendre on "gauss", polynomials through the 12 nearest samples otherwise.
    """
    for a, (one, n, other, m) in enumerate(zip(source.domain.axes, source.shape, target.domain.axes, target.shape, strict=True)):
        dim = a - source.ndim
        matrix = _values(one, n, other, m, device=x.device, dtype=x.dtype)
        x = (x.movedim(dim, -1) @ matrix.T).movedim(-1, dim)
    return x


@table
def _values(source: Axis, n: int, target: Axis, m: int, device) -> Tensor:
    y = target.coordinates(m, dtype=torch.float64)
    if source.periodic:
        angle = 2 * math.pi * (y - source.lower) / source.length
        return dirichlet(source, n, angle, n // 2, 2.0 if n % 2 else 1.0).to(device)
    if source.points == "gauss":
        return legendre(source, n, y).to(device)
    width = min(n, _STENCIL)
    s = (y - source.lower) / source.spacing(n) - source.offset
    first = (s.floor() - (width // 2 - 1)).clamp(0, n - width).long()
    t = s - first
    columns = []
    for i in range(width):
        columns.append(math.prod([(t - j) / (i - j) for j in range(width) if j != i]))
    return torch.zeros(m, n, dtype=torch.float64).scatter(1, first[:, None] + torch.arange(width), torch.stack(columns, 1)).to(device)
