"""What every model asks of its arguments and inputs, refused in one sentence each.

Only Python values, shapes and dtypes are looked at, never the values of a tensor, so that models compile and export.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.sphere import Space, SpaceGrid, Sphere, SphereGrid

__all__ = ["check_domain", "check_input", "check_not_split", "check_parameters", "check_size", "check_sphere", "grid_for", "shape_for"]


def check_domain(who: str, domain: Domain) -> None:
    """Refuse anything but a Domain."""
    if isinstance(domain, Sphere):
        raise ValueError(f"{who} got {domain}, but works on boxes; give a Domain, or take SFNO or LocalNO for a sphere")
    if not isinstance(domain, Domain):
        raise ValueError(f"{who} got domain={domain!r}; give a Domain, such as Domain.periodic(1.0, 1.0)")


def check_sphere(who: str, domain: Sphere) -> None:
    """Refuse anything but a Sphere."""
    if not isinstance(domain, Sphere):
        raise ValueError(f"{who} got domain={domain!r}; give a Sphere, such as Sphere(points='gauss')")


def check_size(who: str, name: str, value: int, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{who} got {name}={value!r}; give a whole number of at least {least}")
    if value < least:
        raise ValueError(f"{who} got {name}={value}; give {least} or more")


def check_input(who: str, name: str, x: Tensor, dtype: torch.dtype, *, half: bool = False) -> None:
    """Refuse what is not a tensor of the model's `dtype`; under autocast float32 and the half precisions mix.

    Weights of a half precision need autocast, as transforms and sums are float32; but not in models made for them (`half`).
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"{who} got {name} as {type(x).__name__}; give a tensor of dtype {dtype}")
    short = (torch.float32, torch.float16, torch.bfloat16)
    if dtype in short[1:] and not half and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"{who} has weights of dtype {dtype}, but its transforms and sums are float32; call it under torch.autocast, best with float32 "
            "weights"
        )
    if x.dtype == dtype or (x.dtype in short and dtype in short and torch.is_autocast_enabled(x.device.type)):
        return
    advice = "convert one with .to(dtype), .float() or .double()" if x.is_floating_point() else f"convert it with .to({dtype})"
    raise ValueError(f"{who} got {name} of dtype {x.dtype}, but its weights are {dtype}; {advice}")


def check_parameters(who: str, x: Tensor, parameters: Tensor | None, n_parameters: int) -> None:
    """Refuse `parameters` that are not one row of n_parameters numbers per sample, of the dtype of x (None where there are none)."""
    if parameters is not None:
        check_input(who, "parameters", parameters, x.dtype, half=True)
    got = None if parameters is None else tuple(parameters.shape)
    expected = (x.shape[0], n_parameters) if n_parameters else None
    if got != expected:
        raise ValueError(f"{who} got parameters of shape {got}; expected {expected} (batch, n_parameters)")


def check_not_split(who: str, grid: SpaceGrid | None) -> None:
    """Refuse the grid of a field that is split over processes."""
    if isinstance(grid, Grid) and grid.split.size > 1:
        raise ValueError(f"{who} got a field split over {grid.split.size} processes, which it cannot take; gather the field first")


@overload
def grid_for(who: str, domain: Domain, in_channels: int, x: Tensor, grid: SpaceGrid | None, *, split: bool = False) -> Grid: ...


@overload
def grid_for(who: str, domain: Space, in_channels: int, x: Tensor, grid: SpaceGrid | None, *, split: bool = False) -> SpaceGrid: ...


def grid_for(who: str, domain: Space, in_channels: int, x: Tensor, grid: SpaceGrid | None, *, split: bool = False) -> SpaceGrid:
    """Return the grid of x: the one given, which must fit, or that of the model's domain; `split` ones for models that take them."""
    own = domain.grid_of(x) if grid is None or x.ndim != domain.ndim + 2 else grid
    if x.shape[1] != in_channels:
        raise ValueError(f"{who} got {x.shape[1]} channels in x of shape {tuple(x.shape)}; it was built for {in_channels}")
    if grid is None:
        return own
    if isinstance(domain, Sphere):
        if not isinstance(grid, SphereGrid) or grid.shape != tuple(x.shape[2:]):
            raise ValueError(f"{who} got x of shape {tuple(x.shape)} with grid={grid!r}; give the grid of x, of a sphere")
        return grid
    if not isinstance(grid, Grid):
        raise ValueError(f"{who} got grid={grid!r}; give a Grid, such as domain.grid({', '.join(map(str, x.shape[2:]))})")
    if not split:
        check_not_split(who, grid)
    if grid.sizes != tuple(x.shape[2:]) or [axis.periodic for axis in grid.domain.axes] != [axis.periodic for axis in domain.axes]:
        raise ValueError(
            f"{who} got x of shape {tuple(x.shape)} with a grid of shape {grid.sizes}; give the grid of x, with the same periodic axes"
        )
    return grid


def shape_for(who: str, output_shape: Sequence[int] | int, ndim: int) -> tuple[int, ...]:
    """Return an output shape as a tuple; a single size is taken in 1-D."""
    if ndim == 1 and isinstance(output_shape, (int, np.integer, torch.SymInt)):
        return (output_shape,)
    if not isinstance(output_shape, Sequence) or isinstance(output_shape, str) or len(output_shape) != ndim:
        raise ValueError(f"{who} got output_shape={output_shape!r}; give one size for each of the {ndim} axes")
    return tuple(output_shape)
