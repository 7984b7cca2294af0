"""Coefficient fields of equations: laws that make them from random fields, and their evaluation on a grid."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["COEFFICIENT_LAWS", "Parameter", "evaluate", "log_normal", "takes_time", "two_phase"]

Parameter = float | Tensor | np.ndarray | Callable[..., Tensor]


def two_phase(field: Tensor, *, low: float = 3.0, high: float = 12.0) -> Tensor:
    """Return `high` where the field is >= 0 and `low` elsewhere.

    12 and 3 are the values of Li et al., Fourier neural operator (arXiv:2010.08895), with the
    Gaussian field N(0, (-Δ + 9)⁻²), zero Neumann walls; its demo script uses 12 and 4.
    """
    _require_positive(low=low, high=high)
    return torch.where(field >= 0, torch.full_like(field, high), torch.full_like(field, low))


def log_normal(field: Tensor, *, scale: float = 1.0, median: float = 1.0) -> Tensor:
    """Return median · exp(scale · field), the usual law of permeability.

    The contrast max/min, and with it the cost of a solve (about its square root), grows as exp(scale · range of the field).
    """
    _require_positive(median=median)
    return median * torch.exp(scale * field)


COEFFICIENT_LAWS = {"two_phase": two_phase, "log_normal": log_normal}


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise ValueError(f"a coefficient law got {name}={value!r}; a coefficient is positive and finite")


def takes_time(value: Parameter, ndim: int) -> bool:
    """Whether a parameter is a function of the time after the `ndim` coordinates."""
    try:
        return callable(value) and len(inspect.signature(value).parameters) > ndim
    except ValueError:  # torch.sin and the like tell no signature; they take coordinates
        return False


def evaluate(value: Parameter, points: Tensor, batch: int, who: str, name: str, time: float | None = None) -> Tensor:
    """Evaluate a parameter at points of the domain.

    Parameters
    ----------
    value : number, Tensor, array or function
        A number; a tensor (B,), one per sample; samples at the points (*shape), (B, *shape) or
        (B, 1, *shape); or a function of the coordinates, and of the time where `time` is given,
        that returns a number or samples.
    points : Tensor, (d, *shape)
        Coordinates, in the dtype and on the device of the result.
    batch : int
        The number of samples B.
    who, name : str
        For the messages.
    time : float or None
        Handed to a function after the coordinates.

    Returns
    -------
    Tensor, broadcastable to (B, *shape), with a leading axis of 1 or B

    Raises
    ------
    ValueError
        If the value is none of these or its shape does not fit.
    """
    shape = tuple(points.shape[1:])
    if callable(value):
        value = value(*points) if time is None else value(*points, time)
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return points.new_full((1,) * (len(shape) + 1), float(value))
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return value.to(points).reshape((1,) * (len(shape) + 1))
        if value.ndim == 1 and len(value) in (1, batch):
            return value.to(points).reshape(-1, *[1] * len(shape))
        if tuple(value.shape) == shape:
            return value.to(points)[None]
        if value.shape[0] in (1, batch) and tuple(value.shape[1:]) in (shape, (1, *shape)):
            return value.to(points).reshape(-1, *shape)
    got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise ValueError(
        f"{who} got {name} = {got} for a batch of {batch} on a grid {shape}; "
        f"give a number, one per sample ({batch},), or a function of the coordinates"
    )
