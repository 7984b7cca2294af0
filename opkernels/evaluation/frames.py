"""Errors of one frame at a time: the numbers that `evaluate` and `long_rollout` collect."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opkernels.domains import Grid
from opkernels.metrics import band_energy, rel_h1, rel_l2, spectrum_distance
from opkernels.sphere import SphereGrid

__all__ = [
    "DEFINITIONS",
    "THRESHOLDS",
    "correlation",
    "correlation_times",
    "diverged",
    "frame_metrics",
    "ranges",
    "rms",
    "size",
    "undefined",
    "vrmse",
]

DEFINITIONS = {
    "rel_l2": "||p - r|| / ||r||, norms over fields and space",
    "rel_h1": "the same in the H1 norm, with the gradient",
    "vrmse": "root of the mean square error over the variance of the truth in space, averaged over fields",
    "correlation": "Pearson correlation over space, averaged over fields",
    "spectrum_distance": "rms over shells of log10 of the ratio of energy spectra, averaged over fields",
    "rel_l2_field": "||p - r|| / ||r|| of each field",
    "vrmse_field": "root of the mean square error over the variance of the truth in space, of each field",
    "band_error": "root of the error's energy in a band of the wave number over the whole energy of the truth, averaged over fields",
}
THRESHOLDS = (0.8, 0.9, 0.95)


def frame_metrics(p: Tensor, r: Tensor, grid: Grid | SphereGrid, edges: list[float]) -> dict[str, Tensor]:
    """Return every metric of `DEFINITIONS` per sample: (B,), with a last axis for fields or bands.

    Parameters
    ----------
    p, r : Tensor, (B, C, *grid.shape)
        Prediction and truth.
    grid : Grid or SphereGrid
    edges : list of float
        Bands of the physical wave number.

    Notes
    -----
    Where the truth is zero, ratios are NaN (`undefined` tells which), and so are all numbers where the
    prediction is: who averages must leave out the former and count the latter.
    """
    p, r = p.double(), r.double()
    nonzero = (r != 0).flatten(2).any(-1)
    flat_p, flat_r = (u.flatten(0, 1).unsqueeze(1) for u in (p, r))
    by_field = rel_l2(flat_p, flat_r, grid, reduction="none").reshape(r.shape[:2])
    deviations, varies = _vrmse(p, r, grid)
    power = band_energy(r, grid, [0.0, float("inf")])
    bands = (band_energy(p - r, grid, edges) / power).sqrt()
    metrics = {
        "rel_l2": rel_l2(p, r, grid, reduction="none"),
        "rel_h1": rel_h1(p, r, grid, reduction="none"),
        "vrmse": _over_fields(deviations, varies),
        "correlation": correlation(p, r, grid),
        "spectrum_distance": _over_fields(spectrum_distance(p, r, grid), nonzero),
        "rel_l2_field": by_field,
        "vrmse_field": deviations,
        "band_error": torch.stack([_over_fields(band, nonzero) for band in bands.unbind(-1)], dim=-1),
    }
    without = undefined(r, grid)
    return {name: value.masked_fill(without[name], torch.nan) for name, value in metrics.items()}


def undefined(r: Tensor, grid: Grid | SphereGrid) -> dict[str, Tensor]:
    """Tell of each metric of `DEFINITIONS` where this truth (B, C, *grid.shape) leaves it without a value: bool (B,), (B, C) or (B, 1).

    A ratio to the truth where that is zero, one to its variance where that is constant; of a mean over fields, where all of them are.
    """
    zero, constant = (r == 0).flatten(2).all(-1), ~_variance(r.double(), grid)[1]
    by_norm, by_variance = zero.all(1), constant.all(1)
    return {
        "rel_l2": by_norm,
        "rel_h1": by_norm,
        "vrmse": by_variance,
        "correlation": by_variance,
        "spectrum_distance": by_norm,
        "rel_l2_field": zero,
        "vrmse_field": constant,
        "band_error": by_norm[:, None],
    }


def vrmse(p: Tensor, r: Tensor, grid: Grid | SphereGrid) -> Tensor:
    """Root mean square error over the truth's standard deviation in space, averaged over fields: (B,).

    By quadrature, so that it means the same on every grid (The Well's VRMSE divides the variance by
    n - 1 and adds 1e-7). Fields whose truth is constant are left out.
    """
    return _over_fields(*_vrmse(p, r, grid))


def correlation(p: Tensor, r: Tensor, grid: Grid | SphereGrid) -> Tensor:
    """Pearson correlation over space, by quadrature, averaged over the fields whose truth is not constant: (B,)."""
    a, b = (u - _mean(u, grid).reshape(*u.shape[:2], *[1] * grid.ndim) for u in (p, r))
    size = (_mean(a**2, grid) * _mean(b**2, grid)).sqrt()
    return _over_fields(_mean(a * b, grid) / size.clamp_min(torch.finfo(size.dtype).tiny), _variance(r, grid)[1])


def rms(u: Tensor, grid: Grid | SphereGrid) -> Tensor:
    """Root mean square over space, by quadrature: (B, C)."""
    return _mean(u.double() ** 2, grid).sqrt()


def ranges(sizes: Tensor, names: Sequence[str], axes: Sequence[str]) -> Tensor:
    """Return the range of each field, (B, C): the largest rms of its truth over the frames, from `sizes` (B, T, C).

    Fields of one stem that end in the names of axes (velocity_x, velocity_y) are one vector and share the largest of theirs: a
    component that is small beside the others is not left by an error that is small beside them.
    """
    parts = [name.rpartition("_") for name in names]
    stems = [stem if stem and axis in axes else name for name, (stem, _, axis) in zip(names, parts, strict=True)]
    together = torch.tensor([[a == b for b in stems] for a in stems], device=sizes.device)
    return (sizes.nan_to_num(nan=0.0, posinf=0.0).amax(1)[:, None] * together).amax(-1)


def size(u: Tensor, grid: Grid | SphereGrid, scale: Tensor) -> Tensor:
    """Return the largest rms among the fields, each in units of its range `scale` (B, C): (B,), not finite where `u` is not.

    A field whose range is zero does not count.
    """
    return (rms(u, grid) * torch.where(scale > 0, 1 / scale, 0.0)).amax(1)


def diverged(size: Tensor, factor: float = 10.0) -> Tensor:
    """Tell which samples have left the truth's range, by their `size`: not finite, or above `factor`; bool (B,).

    A size is in units of the ranges, which are those of all frames: no field outweighs the others by its units, and a prediction is
    not lost because the truth passes through zero (a standing wave) or decays faster. Where the truth is zero in all frames, every
    finite prediction is in range.
    """
    return ~(size <= factor)


def correlation_times(values: Tensor, times: Tensor) -> Tensor:
    """Return the first times at which a batch-mean correlation (..., T) is below each of `THRESHOLDS`: (..., 3).

    Infinite where it stays above; a correlation that is not a number counts as below.
    """
    out = []
    for threshold in THRESHOLDS:
        first = torch.where(~(values >= threshold), times, torch.inf)
        out.append(first.amin(-1))
    return torch.stack(out, dim=-1)


def _vrmse(p: Tensor, r: Tensor, grid: Grid | SphereGrid) -> tuple[Tensor, Tensor]:
    """Root mean square error over the standard deviation (B, C), and whether there is one."""
    variance, varies = _variance(r, grid)
    return (_mean((p - r) ** 2, grid) / variance).sqrt(), varies


def _variance(r: Tensor, grid: Grid | SphereGrid) -> tuple[Tensor, Tensor]:
    """Variance over space (B, C), and whether it is more than rounding."""
    mean = _mean(r, grid)
    variance = _mean((r - mean.reshape(*mean.shape, *[1] * grid.ndim)) ** 2, grid)
    return variance, variance > 1e-20 * mean**2


def _over_fields(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of (B, C) over the fields that count; NaN where none does."""
    return torch.where(valid, values, torch.zeros_like(values)).sum(1) / valid.sum(1)


def _mean(u: Tensor, grid: Grid | SphereGrid) -> Tensor:
    if grid.uniform:
        return u.flatten(2).mean(-1)
    weights = grid.weights(u.device, u.dtype)
    return (u * weights).flatten(2).sum(-1) / weights.sum()
