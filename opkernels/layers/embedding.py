"""Positions as input channels: harmonics on periodic axes, coordinates on axes with walls.

On a periodic axis a ramp x/L would be a sawtooth, with a jump that every grid resolves differently and an origin that
breaks translation equivariance; sin and cos of 2 pi x/L are smooth. On an axis with walls the ramp is what tells a
convolution where the walls are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain, Grid

__all__ = ["POSITIONS", "axis_positions", "position_channels", "positions"]

POSITIONS = ("walls", "harmonics", "ramps", None)


def position_channels(domain: Domain, kind: str | None) -> int:
    """Return how many channels `positions` makes; refuse an unknown `kind`."""
    if kind not in POSITIONS:
        raise ValueError(f"got positional_embedding={kind!r}; choose walls, harmonics, ramps or None")
    walls = sum(not axis.periodic for axis in domain.axes)
    periodic = domain.ndim - walls
    return {"walls": walls, "harmonics": walls + 2 * periodic, "ramps": domain.ndim, None: 0}[kind]


def positions(grid: Grid, kind: str | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the position channels of a grid, (channels, *grid.shape), axis by axis.

    Parameters
    ----------
    grid : Grid
        Where to evaluate them; s = (x - lower)/L below.
    kind : {"walls", "harmonics", "ramps", None}
        "walls": s on axes with walls, nothing on periodic ones, so that translation equivariance holds there.
        "harmonics": also sin(2 pi s), cos(2 pi s) on periodic axes. "ramps": s on every axis, neuraloperator's
        "grid", a sawtooth on periodic axes. None: no channels.
    device, dtype
        Of the result.
    """
    channels = []
    for a, (axis, n) in enumerate(zip(grid.domain.axes, grid.shape, strict=True)):
        s = (axis.coordinates(n, device, torch.float64) - axis.lower) / axis.length
        shape = [-1 if b == a else 1 for b in range(grid.ndim)]
        channels += [value.to(dtype).view(shape).expand(grid.shape) for value in axis_positions(axis, s, kind)]
    return torch.stack(channels) if channels else torch.empty(0, *grid.shape, device=device, dtype=dtype)


def axis_positions(axis: Axis, s: Tensor, kind: str | None) -> list[Tensor]:
    """Return the position channels that one axis contributes at s = (x - lower)/L, each of the shape of s."""
    if kind == "ramps" or (kind is not None and not axis.periodic):
        return [s]
    if kind == "harmonics":
        return [torch.sin(2 * math.pi * s), torch.cos(2 * math.pi * s)]
    return []
