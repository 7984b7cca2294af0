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

__all__ = ["check_evolution", "check_samples", "check_values", "full_precision", "requested_times", "require_domain", "require_finite"]


def require_domain(name: str, domain: Domain) -> None:
    """Refuse what is no Domain."""
    if not isinstance(domain, Domain):
        raise ValueError(f"{name} got domain={domain!r}; give a Domain, for example Domain.periodic(1.0, 1.0)")


def check_samples(name: str, what: str, domain: Domain, channels: Sequence[str], x: Tensor) -> Grid:
    """Return the grid of samples (B, len(channels), *spatial) in float32 or float64, or refuse in one sentence.

    Raises
    ------
    ValueError
        If x is no tensor of this shape and these types, or holds a NaN or infinity (looked for from the host, once; not
        under fake tensors, which hold no data).
    """
    if not isinstance(x, Tensor) or x.ndim != domain.ndim + 2 or x.shape[1] != len(channels) or not len(x):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        shape = f"(batch, {len(channels)}, {', '.join(domain.names)})"
        raise ValueError(f"{name}.solve got {what} {got}; expected a tensor {shape} with channels {', '.join(channels)}")
    check_values(name, what, x)
    return domain.grid_of(x)


def check_values(name: str, what: str, x: Tensor) -> None:
    """Refuse other types than float32 and float64, and a NaN or infinity."""
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}.solve got {what} in {x.dtype}; use float32 or float64")
    if not (x.is_meta or isinstance(x, torch._subclasses.FakeTensor)):
        bad = (~torch.isfinite(x.detach())).flatten(1).any(dim=1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"{name}.solve got {what} with a NaN or infinity in sample {bad[0]}; look at the fields it is given")


def check_evolution(
    name: str,
    domain: Domain,
    fields: Sequence[str],
    u0: Tensor,
    times: Sequence[float] | Tensor | np.ndarray,
    t0: float,
    dt: float | None,
) -> tuple[Grid, list[float]]:
    """Return the grid of u0 and the requested times, or refuse in one sentence.

    Raises
    ------
    ValueError
        As `check_samples`, or if the times do not increase or start before t0, or dt is not positive.
    """
    return check_samples(name, "u0", domain, fields, u0), requested_times(name, times, t0, dt)


def requested_times(name: str, times: Sequence[float] | Tensor | np.ndarray, t0: float, dt: float | None) -> list[float]:
    """Return the times as numbers, or refuse times out of order and a step that is not positive."""
    if dt is not None and not (_is_finite_number(dt) and dt > 0):
        raise ValueError(f"{name}.solve got dt={dt!r}; give a positive time step or leave None")
    if not _is_finite_number(t0):
        raise ValueError(f"{name}.solve got t0={t0!r}; give the time of u0, a number")
    try:
        values = np.asarray(times.detach().cpu() if isinstance(times, Tensor) else times, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}.solve got times={times!r}; give a sequence of finite times, at least one") from None
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{name}.solve got times of shape {values.shape}; give a sequence of finite times, at least one")
    if (np.diff(values) <= 0).any():
        i = int((np.diff(values) <= 0).argmax())
        raise ValueError(f"{name}.solve got times that do not increase: {values[i]:g} is followed by {values[i + 1]:g}")
    if values[0] < t0:
        raise ValueError(f"{name}.solve got times from {values[0]:g} on, before t0={t0:g}; ask for times at or after t0")
    return values.tolist()


def _is_finite_number(value) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


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
        raise SolverError(f"{name}: sample {sample} is not finite at t={times[step]:.6g}; {cause}", sample=sample)
    return out
