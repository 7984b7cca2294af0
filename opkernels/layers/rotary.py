"""Rotary positions: queries and keys turned by angles, so that their product knows the distance of two points.

    (a, b)_j  ->  (a cos t_j - b sin t_j,  b cos t_j + a sin t_j),     t_j = f_j x,     j = 1 .. d/2

turns channels j and j + d/2 of a vector at x; q(x)·k(y) then depends on x and y through f_j (x - y) alone.

| axis     | frequencies f_j                          | why                                                            |
| -------- | ---------------------------------------- | -------------------------------------------------------------- |
| periodic | 2 pi k/L, k = 0, 1, 2, .. bandwidth      | anything else jumps where the axis closes: first order only    |
| walls    | 2 pi k/L, k = 0, 1/2, 1, .. bandwidth    | the period 2L tells the walls apart                            |

over and over again, low ones first: smooth fields have little else, and d/2 pairs may be fewer than there are harmonics. A grid
must resolve them: n > 2 bandwidth samples per axis, or neighbors turn by more than half a circle and the grid sees another,
slower harmonic.

Reference: Su et al., "RoFormer", arXiv 2104.09864.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opkernels.domains import Axis, Grid, table

__all__ = ["check_bandwidth", "harmonic_angles", "rotate"]


def check_bandwidth(grid: Grid, bandwidth: int) -> None:
    """Refuse a grid that does not resolve harmonics up to `bandwidth` on every axis."""
    for axis, n in zip(grid.domain.axes, grid.shape, strict=True):
        if n <= 2 * bandwidth:
            raise ValueError(
                f"got {n} samples on axis {axis.name}, which do not resolve the rotary positions of bandwidth={bandwidth}; "
                f"build the layer with bandwidth={(n - 1) // 2} or less, or refine the grid"
            )


@table
def harmonic_angles(axis: Axis, n: int, pairs: int, bandwidth: int, device) -> Tensor:
    """Return the angles (n, pairs) of the samples of an axis."""
    halves = 1 if axis.periodic else 2
    k = torch.arange(pairs, dtype=torch.float64, device=device).remainder(halves * bandwidth + 1) / halves
    s = (axis.coordinates(n, device, torch.float64) - axis.lower) / axis.length
    return 2 * math.pi * s[:, None] * k


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Return x (..., n, d) with channels j and j + d/2 turned by angles (n, d/2)."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
