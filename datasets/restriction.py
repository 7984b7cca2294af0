"""Rules by which a stored field is handed out on a coarser grid: spectral, cell means, nodal.

| rule       | coarse sample is                                  | exact for                                | needs                      |
| ---------- | ------------------------------------------------- | ---------------------------------------- | -------------------------- |
| "spectral" | the truncated series (`opkernels.resample`)       | fields the coarse grid can carry         | any sizes; on a sphere too |
| "mean"     | the mean of the fine cells inside the coarse cell | cell means: integrals are kept exactly   | "cell" points, n = k m     |
| "nodal"    | the fine sample at the same place                 | every field, point by point              | grids that nest            |
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from opkernels.domains import Axis, Domain, Grid
from opkernels.resample import resample
from opkernels.sphere import Parallels, Sphere, SphereGrid

__all__ = ["RULES", "check_restriction", "default_rule", "reaches", "restrict", "with_rule"]

RULES = ("spectral", "mean", "nodal")


def default_rule(domain: Domain | Sphere) -> str:
    """Return "spectral" on spheres and periodic domains, else "mean" where all points are cells, else "nodal"."""
    if isinstance(domain, Sphere) or all(axis.periodic for axis in domain.axes):
        return "spectral"
    return "mean" if all(axis.points == "cell" for axis in domain.axes) else "nodal"


def with_rule(attributes: Mapping[str, str], domain: Domain | Sphere) -> dict[str, str]:
    """Return a variable's attributes with a rule among them: its own where it is one of ours, else the default."""
    rule = attributes.get("restriction")
    return {**attributes, "restriction": rule if rule in RULES else default_rule(domain)}


def check_restriction(rule: str, source: Grid | SphereGrid, shape: tuple[int, ...], what: str) -> None:
    """Refuse a shape that `rule` cannot reach from `source`, in one sentence about the variable `what`.

    Raises
    ------
    ValueError
        If the shape is finer than the stored one, has another number of axes, or does not nest.
    """
    target = source.domain.grid(*shape)
    for axis, n, m in zip(source.domain.axes, source.shape, target.shape, strict=True):
        if m > n:
            raise ValueError(
                f"asked for {m} samples along {axis.name}, but {what} is stored with {n}; "
                "ask for at most that, or generate the data at a finer resolution"
            )
        if m < n and rule != "spectral" and _stride(rule, axis, n, m) is None:
            how = {
                "mean": "cell means need a size that divides it" if axis.points == "cell" else 'the rule "mean" needs "cell" points',
                "nodal": "nodal values need grids that nest",
            }[rule]
            raise ValueError(f'{what} cannot be restricted from {n} to {m} samples of kind "{axis.points}" along {axis.name}: {how}')


def reaches(rule: str, source: Grid | SphereGrid, shape: tuple[int, ...]) -> bool:
    """Return whether a rule can restrict from `source` to `shape`, a shape that is nowhere finer."""
    axes = zip(source.domain.axes, source.shape, shape, strict=True)
    return rule == "spectral" or all(m == n or _stride(rule, axis, n, m) is not None for axis, n, m in axes)


def _stride(rule: str, axis: Axis | Parallels, n: int, m: int) -> int | None:
    """Return how many fine intervals make a coarse one, or None where the grids do not fit."""
    if axis.points == "gauss" or (rule == "mean" and axis.points != "cell"):
        return None
    fine, coarse = (n - 1, m - 1) if axis.points in ("endpoint", "equiangular") else (n, m)
    factor, rest = divmod(fine, coarse)
    middle = rule == "nodal" and axis.points == "cell"  # a coarse midpoint is a fine one for odd factors
    return None if rest or (middle and factor % 2 == 0) else factor


def restrict(values: np.ndarray, rule: str, source: Grid | SphereGrid, shape: tuple[int, ...]) -> np.ndarray:
    """Return samples on a coarser grid.

    Parameters
    ----------
    values : ndarray, (..., *source.shape)
    rule : {"spectral", "mean", "nodal"}
    source : Grid or SphereGrid
    shape : tuple of int
        A shape that `check_restriction` accepts.

    Returns
    -------
    ndarray, (..., *shape)
        In the dtype of `values`; means and series of whole numbers and of true and false are float32.
    """
    if tuple(shape) == source.shape:
        return values
    if rule == "spectral":
        values = np.array(values, dtype=None if values.dtype.kind == "f" else np.float32)
        return resample(torch.from_numpy(values), source, tuple(shape)).numpy()
    lead = values.ndim - source.ndim
    for a, (axis, n, m) in enumerate(zip(source.domain.axes, source.shape, shape, strict=True)):
        factor = _stride(rule, axis, n, m)
        assert factor is not None, "check_restriction has seen to it"
        if rule == "mean":
            blocks = values.reshape(*values.shape[: lead + a], m, factor, *values.shape[lead + a + 1 :])
            kind = values.dtype if values.dtype.kind == "f" else np.float32
            values = blocks.mean(axis=lead + a + 1, dtype=np.float64).astype(kind)
        else:
            start = factor // 2 if axis.points == "cell" else 0
            values = values.take(range(start, n, factor), axis=lead + a)
    return values
