"""From a list of coordinates to the axis that they sample: its ends, and whether samples are nodes, cells or endpoints.

Files of other packages list where samples sit, often rounded to float32, and not how far the domain reaches. For the
spacing h of the list x_0 .. x_{n-1} the ends may be

| points     | lower       | upper                                      |
| ---------- | ----------- | ------------------------------------------ |
| "cell"     | x_0 - h/2   | x_{n-1} + h/2                              |
| "node"     | x_0         | x_{n-1} + h (periodic axes)                |
| "endpoint" | x_0         | x_{n-1} (others)                           |

and those are taken that are the rounder numbers, unless the format says which.
"""

from __future__ import annotations

import math

import numpy as np

from opkernels.domains import Axis

__all__ = ["axis_of", "close"]

_ROUNDING = 1e-6  # of the length: what float32 does to coordinates


def axis_of(values, *, periodic: bool, name: str, points: str | None = None) -> Axis:
    """Return the axis that evenly spaced coordinates sample.

    Parameters
    ----------
    values : array (n,)
    periodic : bool
    name : str
    points : {"node", "cell", "endpoint"}, optional
        Where the format says it; by default what gives the rounder ends.

    Raises
    ------
    ValueError
        If the coordinates are not evenly spaced and increasing.
    """
    x = np.asarray(values, dtype=np.float64)
    even = x.ndim == 1 and len(x) >= 2 and np.isfinite(x).all()
    h = (x[-1] - x[0]) / (len(x) - 1) if even else 0.0
    if not (even and h > 0 and np.allclose(np.diff(x), h, rtol=0, atol=1e-3 * h + _ROUNDING * np.abs(x).max())):
        raise ValueError(f"got coordinates of {name} that are not evenly spaced, increasing and at least two; resample the data first")
    ends = {"cell": (x[0] - h / 2, x[-1] + h / 2)}
    ends |= {"node": (x[0], x[-1] + h)} if periodic else {"endpoint": (x[0], x[-1])}
    if points == "node" and not periodic:
        ends["node"] = (x[0], x[-1] + h)
    snapped = {kind: tuple(_snap(end, b - a) for end in (a, b)) for kind, (a, b) in ends.items()}
    kind = points or min(snapped, key=lambda kind: sum(digits for _, digits in snapped[kind]))
    (lower, _), (upper, _) = snapped[kind]
    return Axis(lower, upper, periodic=periodic, points=kind, name=name)


def _snap(value: float, length: float) -> tuple[float, int]:
    """Return the roundest number that float32 does not tell from `value`, and how many digits it has."""
    allowed = _ROUNDING * max(length, abs(value))
    first = -math.floor(math.log10(length))
    for digits in range(5):
        for unit in (1.0, math.pi):
            near = round(value / unit, first + digits) * unit
            if abs(near - value) <= allowed:
                return near, digits
    return float(value), 7


def close(axis: Axis, values) -> bool:
    """Whether coordinates are where an axis has its samples, up to rounding to float32."""
    import torch

    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        return False
    places = axis.coordinates(len(x), dtype=torch.float64).numpy()
    return bool(np.allclose(x, places, rtol=0, atol=1e-3 * axis.spacing(len(x)) + _ROUNDING * np.abs(places).max()))
