"""Positions as input channels: harmonics on periodic axes, coordinates on axes with walls.

On a periodic axis a ramp x/L would be a sawtooth, with a jump that every grid resolves differently and an origin that
breaks translation equivariance; sin and cos of 2 pi x/L are smooth. On an axis with walls the ramp is what tells a
convolution where the walls are. On a sphere longitude is a sawtooth and latitude has a kink at the poles; the coordinates of the
point in space, the harmonics of degree one, are smooth, and the one along the axis, sin(latitude), is the same for all longitudes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain, Grid
from opkernels.sphere import Sphere, SphereGrid

__all__ = ["POSITIONS", "axis_positions", "position_channels", "positions"]

POSITIONS = ("walls", "harmonics", "ramps", None)


def position_channels(domain: Domain | Sphere, kind: str | None) -> int:
    """Return how many channels `positions` makes; refuse an unknown `kind`."""
    if kind not in POSITIONS:
        raise ValueError(f"got positional_embedding={kind!r}; choose walls, harmonics, ramps or None")
    if isinstance(domain, Sphere):
        if kind == "ramps":
            raise ValueError('got positional_embedding="ramps" on a sphere, where longitude jumps; choose walls, harmonics or None')
        return {"walls": 1, "harmonics": 3, None: 0}[kind]
    walls = sum(not axis.periodic for axis in domain.axes)
    periodic = domain.ndim - walls
    return {"walls": walls, "harmonics": walls + 2 * periodic, "ramps": domain.ndim, None: 0}[kind]


def positions(grid: Grid | SphereGrid, kind: str | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the position channels of a grid, (channels, *grid.sizes), axis by axis.

    Parameters
    ----------
    grid : Grid or SphereGrid
        Where to evaluate them; s = (x - lower)/L below.
    kind : {"walls", "harmonics", "ramps", None}
        "walls": s on axes with walls, nothing on periodic ones, so that translation equivariance holds there.
        "harmonics": also sin(2 pi s), cos(2 pi s) on periodic axes. "ramps": s on every axis, neuraloperator's
        "grid", a sawtooth on periodic axes. None: no channels. On a sphere "walls" is sin(latitude), "harmonics" all three coordinates
        of the point in space.
    device, dtype
        Of the result.
    """
    if isinstance(grid, SphereGrid):
        return _in_space(grid, device)[-position_channels(grid.domain, kind) :].to(dtype)
    channels = []
    for a, (axis, n) in enumerate(zip(grid.domain.axes, grid.shape, strict=True)):
        s = (grid.split.cut(axis.coordinates(n, device, torch.float64), 0, a) - axis.lower) / axis.length
        shape = [-1 if b == a else 1 for b in range(grid.ndim)]
        channels += [value.to(dtype).view(shape).expand(grid.sizes) for value in axis_positions(axis, s, kind)]
    return torch.stack(channels) if channels else torch.empty(0, *grid.sizes, device=device, dtype=dtype)


@torch.compiler.disable(recursive=True)  # rows are found by NumPy
def _in_space(grid: SphereGrid, device: torch.device) -> Tensor:
    """Return the coordinates in space of the samples on the unit sphere, the one along the axis last, (3, *grid.shape)."""
    latitude, longitude = grid.coordinates(device, torch.float64)
    return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()])


def axis_positions(axis: Axis, s: Tensor, kind: str | None) -> list[Tensor]:
    """Return the position channels that one axis contributes at s = (x - lower)/L, each of the shape of s."""
    if kind == "ramps" or (kind is not None and not axis.periodic):
        return [s]
    if kind == "harmonics":
        return [torch.sin(2 * math.pi * s), torch.cos(2 * math.pi * s)]
    return []
