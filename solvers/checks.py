"""What every evolution solver checks of its arguments before it starts."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.solvers.stepping import SolverError

__all__ = ["check_evolution", "full_precision", "requested_times", "require_finite"]


def check_evolution(
    name: str, domain: Domain, fields: Sequence[str], u0: Tensor, times: Sequence[float] | Tensor, t0: float, dt: float | None
) -> tuple[Grid, list[float]]:
    """Return the grid of u0 and the requested times, or refuse in one sentence.

    Raises
    ------
    ValueError
        If u0 is not (B, len(fields), *spatial) in float32 or float64, the times do not increase or
        start before t0, or dt is not positive.
    """
    shape = f"(batch, {len(fields)}, {', '.join(domain.names)})"
    if not isinstance(u0, Tensor) or u0.ndim != domain.ndim + 2 or u0.shape[1] != len(fields) or not len(u0):
        got = tuple(u0.shape) if isinstance(u0, Tensor) else type(u0).__name__
        raise ValueError(f"{name}.solve got u0 {got}; expected a tensor {shape} with channels {', '.join(fields)}")
    if u0.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}.solve got u0 in {u0.dtype}; use float32 or float64")
    return domain.grid_of(u0), requested_times(name, times, t0, dt)


def requested_times(name: str, times: Sequence[float] | Tensor, t0: float, dt: float | None) -> list[float]:
    """Return the times as numbers, or refuse times out of order and a step that is not positive."""
    if dt is not None and not (isinstance(dt, (int, float)) and math.isfinite(dt) and dt > 0):
        raise ValueError(f"{name}.solve got dt={dt!r}; give a positive time step or leave None")
    values = np.asarray(times.detach().cpu() if isinstance(times, Tensor) else times, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{name}.solve got times of shape {values.shape}; give a sequence of finite times, at least one")
    if (np.diff(values) <= 0).any():
        i = int((np.diff(values) <= 0).argmax())
        raise ValueError(f"{name}.solve got times that do not increase: {values[i]:g} is followed by {values[i + 1]:g}")
    if values[0] < t0:
        raise ValueError(f"{name}.solve got times from {values[0]:g} on, before t0={t0:g}; ask for times at or after t0")
    return values.tolist()


def full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Return a context in which products keep the precision of x, where autocast would lower it."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def require_finite(name: str, out: Tensor, times: Sequence[float], cause: str) -> Tensor:
    """Return the solution (B, T, ...), or name the first sample and time that are not finite.

    Looks at the data from the host, once. Not done under fake tensors, which hold none.
    """
    if out.is_meta or isinstance(out, torch._subclasses.FakeTensor):
        return out
    good = out.detach().isfinite().flatten(2).all(dim=2)
    if not good.all():
        sample, step = (~good).nonzero()[0].tolist()
        raise SolverError(f"{name}: sample {sample} is not finite at t={times[step]:.6g}; {cause}")
    return out
