"""Errors of a surrogate at resolutions it was and was not trained at, beside two baselines.

The truth at a resolution is the dataset restricted to it. The model is run there, on that grid. Beside
it stand what costs nothing (persistence: the last given frame stays) and what needs no operator that
transfers (upsampled: the model run at its training resolution, its answer interpolated by its modes).
A surrogate that takes several frames is given the first `window` of the truth; errors start after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from opkernels.datasets.trajectories import Trajectories
from opkernels.domains import Domain, Grid
from opkernels.evaluation.frames import DEFINITIONS, THRESHOLDS, correlation_times, diverged, frame_metrics, ranges, rms, size, undefined
from opkernels.evaluation.report import by
from opkernels.resample import resample
from opkernels.sphere import Sphere, SphereGrid
from opkernels.surrogate import Surrogate

if TYPE_CHECKING:
    import xarray

__all__ = ["PREDICTORS", "Plan", "evaluate", "last_frames", "parse_resolution", "stored_steps"]

PREDICTORS = ("model", "persistence", "upsampled")
_BATCH_POINTS = 2**20
_ONE_STEP = ("rel_l2", "rel_h1", "vrmse", "rel_l2_field", "vrmse_field")


def evaluate(
    surrogate: Surrogate | Sequence[Surrogate],
    data: Trajectories,
    resolutions: Sequence[int | str | Sequence[int]] | None = None,
    *,
    steps: int | None = None,
    one_step: bool = True,
    batch_size: int | None = None,
) -> xarray.Dataset:
    """Return the errors of a surrogate at any list of resolutions.

    Parameters
    ----------
    surrogate : Surrogate or sequence of Surrogate
        Several (the seeds of one configuration) give a dimension `seed`.
    data : Trajectories
        The truth, at least as fine as the finest resolution, with the surrogate's fields, parameters
        and (a multiple of) its time step.
    resolutions : sequence of int, str or sequence of int, optional
        ``[64, (96, 80), "128x128"]``; a number stands for all axes. By default that of the training
        and that of the data.
    steps : int, optional
        Length of the rollout in frames, after those given; by default as long as the data.
    one_step : bool
        Whether to also predict every frame from the true ones before it.
    batch_size : int, optional
        Samples at once; by default what keeps a million grid points in flight.

    Returns
    -------
    xarray.Dataset
        Dimensions `predictor` ("model", "persistence", "upsampled"), `resolution` ("64x64", ...) and
        `time` (since the last frame given). Variables: `rel_l2`, `rel_h1`, `vrmse`, `correlation`,
        `spectrum_distance`, means over samples of the rollout; `rel_l2_sample` (with `sample`);
        `rel_l2_field` and `vrmse_field` (with `field`); `band_error` (with `band`, between the coordinates
        `band_lower` and `band_upper` in radians per length: quarter, half and all of the coarsest grid's
        Nyquist, and beyond); `one_step_rel_l2` and so on; `correlation_time` (with `threshold`; infinite
        where never reached); `diverged`, the share of samples that are not finite or have a field out of
        ten times its range (the largest rms of its truth over the frames); `samples`, how many entered the
        means (a truth of zero norm is left out).
        Definitions are in the attributes. Where a baseline does not exist, its numbers are NaN.

    Raises
    ------
    ValueError
        If a resolution is finer than the data or malformed, or fields, parameters or times do not fit.

    Notes
    -----
    A prediction that is not a number makes its means NaN, and is counted by `diverged`.

    `rel_l2` and `rel_h1` are those of all fields together, in their own units: beside a geopotential in m²/s² a vorticity
    in 1/s does not count. Where units differ, read `rel_l2_field`, or `vrmse`, a mean over fields.

    Examples
    --------
    Errors of the model, averaged over the rollout, by resolution::

        errors = evaluate(surrogate, test, [64, (96, 80), 128])
        errors.rel_l2.sel(predictor="model").mean("time").to_pandas()
    """
    if not isinstance(surrogate, Surrogate):
        import xarray

        several = [evaluate(s, data, resolutions, steps=steps, one_step=one_step, batch_size=batch_size) for s in surrogate]
        return xarray.concat(
            several, dim="seed", data_vars="all", coords="minimal", compat="override", combine_attrs="override", join="override"
        )
    plan = Plan.make(surrogate, data, resolutions, steps)
    parts = {shape: _at_resolution(plan, shape, one_step, batch_size) for shape in plan.shapes}
    return _dataset(plan, parts)


def parse_resolution(value: int | str | Sequence[int], ndim: int) -> tuple[int, ...]:
    """Return 64, "64", "96x80" or (96, 80) as a shape of `ndim` sizes; refuse anything else in one sentence."""
    parts: Sequence = str(value).lower().split("x") if isinstance(value, (str, int)) else value
    try:
        shape = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        shape = ()
    shape = shape * ndim if len(shape) == 1 else shape
    if len(shape) != ndim or min(shape) < 2:
        example = "x".join(["96", "80", "64"][:ndim])
        raise ValueError(f"got the resolution {value!r}; give one number, or {ndim} of them as {example}, each at least 2")
    return shape


def last_frames(
    surrogate: Surrogate, data: Trajectories, resolution: int | str | Sequence[int], steps: int | None = None, *, samples: int = 8
) -> tuple[Tensor, Tensor, Grid | SphereGrid, float]:
    """Return the last frame of a rollout of the first samples, for pictures.

    Parameters as for `evaluate`.

    Returns
    -------
    prediction, truth : Tensor, (B, C_out, *spatial)
    grid : Grid or SphereGrid
    lead : float
        Time since the last frame given.
    """
    plan = Plan.make(surrogate, data, [resolution], steps)
    view, rows = data.at(*plan.shapes[0]), slice(0, min(samples, len(data)))
    for p in plan.predictions(view, rows):
        last = p
    return last, plan.truth(view, rows, plan.frames[-1]), view.grid, float(plan.lead[-1])


@dataclass(frozen=True)
class Plan:
    """What is run on what, checked once by `make`.

    Parameters
    ----------
    surrogate : Surrogate
    data : Trajectories
    shapes : tuple of tuple of int
        The resolutions asked for.
    given, frames : tuple of int
        Stored steps of the frames handed to the surrogate, and of those to predict.
    lead : array, (T,)
        Times of the frames to predict, since the last one given.
    edges : list of float
        Ends of the bands of wave numbers, in radians per length, from 0 to infinity.
    """

    surrogate: Surrogate
    data: Trajectories
    shapes: tuple[tuple[int, ...], ...]
    given: tuple[int, ...]
    frames: tuple[int, ...]
    lead: np.ndarray
    edges: list[float]

    @classmethod
    def make(cls, surrogate: Surrogate, data: Trajectories, resolutions: Sequence | None, steps: int | None) -> Plan:
        """Return the plan of what is asked; refuse what does not fit."""
        _check(surrogate, data)
        if resolutions is None:
            resolutions = [surrogate.training_shape or data.shape, data.shape]
        shapes = tuple(dict.fromkeys(parse_resolution(value, data.domain.ndim) for value in resolutions))
        if not shapes:
            raise ValueError("evaluate got no resolutions; give at least one")
        for shape in shapes:
            data.at(*shape)  # refuses what is finer than stored
        stored = stored_steps(surrogate.dt, surrogate.window, data, steps)
        given, frames = stored[: surrogate.window], stored[surrogate.window :]
        times = np.zeros(data.n_times) if data.times is None else np.asarray(data.times, dtype=float)
        nyquist = min(np.pi / h for shape in shapes for h in data.domain.grid(shape).spacing)
        lead = times[list(frames)] - times[given[-1]]
        return cls(surrogate, data, shapes, given, frames, lead, [0.0, nyquist / 4, nyquist / 2, nyquist, np.inf])

    def batches(self, shape: Sequence[int], size: int | None) -> Iterator[slice]:
        """Return the samples in batches of `size`, by default of what keeps 2^20 grid points in flight."""
        size = size or max(1, _BATCH_POINTS // int(np.prod(shape)))
        return (slice(start, min(start + size, len(self.data))) for start in range(0, len(self.data), size))

    def parameters(self, rows: slice) -> dict[str, Tensor] | None:
        """Return the per-sample parameters of these samples, if the surrogate has some."""
        names = self.surrogate.parameter_names
        return {name: torch.as_tensor(np.asarray(self.data.parameters[name])[rows]) for name in names} if names else None

    def predictions(self, data: Trajectories, rows: slice) -> Iterator[Tensor]:
        """Frames (B, C_out, *spatial) after those of `data` that are given."""
        x = self.inputs(data, rows, self.given)
        if self.surrogate.dt is None:
            yield self.surrogate.predict(x, parameters=self.parameters(rows))
        else:
            frames = self.surrogate.iterate(x, parameters=self.parameters(rows))
            yield from (next(frames) for _ in self.lead)

    def inputs(self, data: Trajectories, rows: slice, steps: Sequence[int]) -> Tensor:
        """Return the input (B, window * C_in, *spatial) of these stored steps."""
        return data.read(rows, steps, fields=self.surrogate.inputs).flatten(1, 2)

    def truth(self, data: Trajectories, rows: slice, frame: int) -> Tensor:
        """Return the output fields (B, C_out, *spatial) of a stored step."""
        return data.read(rows, [frame], fields=self.surrogate.outputs)[:, 0]

    def ranges(self, data: Trajectories, rows: slice) -> Tensor:
        """Return the range of each field (B, C_out) over the frames to predict and, of a step in time, the last one given."""
        frames = self.frames if self.surrogate.dt is None else (self.given[-1], *self.frames)
        sizes = torch.stack([rms(self.truth(data, rows, frame), data.grid) for frame in frames], dim=1)
        return ranges(sizes, self.surrogate.outputs, data.domain.names)


def _check(surrogate: Surrogate, data: Trajectories) -> None:
    missing = [name for name in dict.fromkeys([*surrogate.inputs, *surrogate.outputs]) if name not in data.fields]
    if missing:
        raise ValueError(
            f"the surrogate needs {', '.join(missing)}, but the dataset holds {', '.join(data.fields)}; give data with these fields"
        )
    missing = [name for name in surrogate.parameter_names if name not in data.parameters]
    if missing:
        raise ValueError(f"the surrogate needs the parameters {', '.join(missing)}, which the dataset does not hold; add them")
    if data.domain != surrogate.domain:
        raise ValueError(
            f"the dataset lives on {_said(data.domain)}, but the surrogate on {_said(surrogate.domain)}; give data of its domain"
        )
    if not len(data):
        raise ValueError("evaluate got a dataset without samples; give at least one")


def _said(domain: Domain | Sphere) -> str:
    if isinstance(domain, Sphere):
        return f"a sphere of radius {domain.radius:g} ({domain.points})"
    return " x ".join(f"[{a.lower:g}, {a.upper:g}] ({'periodic' if a.periodic else 'walls'}, {a.points})" for a in domain.axes)


def stored_steps(dt: float | None, window: int, data: Trajectories, steps: int | None) -> tuple[int, ...]:
    """Return the stored steps of the `window` frames given and of those to predict; of a direct map (no `dt`), the first and the last."""
    if dt is None:
        return (0, data.n_times - 1)
    if data.times is None or len(data.times) < 2:
        raise ValueError("the surrogate steps in time, but the dataset has no second time; give trajectories")
    times = np.asarray(data.times, dtype=float)
    stride = int(round(dt / (times[1] - times[0])))
    chosen = times[::stride] if stride else times
    if not stride or len(chosen) < 2 or not np.allclose(np.diff(chosen), dt, rtol=1e-4):
        raise ValueError(
            f"the surrogate steps by {dt:g}, but the data are stored every {times[1] - times[0]:g} "
            f"from {times[0]:g} to {times[-1]:g}; give data whose spacing divides its step"
        )
    longest = len(chosen) - window
    if longest < 1:
        raise ValueError(
            f"the surrogate takes {window} frames {dt:g} apart, but the data hold {len(chosen)} of them, and no truth "
            "after; give longer trajectories"
        )
    steps = longest if steps is None else steps
    if not 1 <= steps <= longest:
        raise ValueError(f"got steps={steps}; the data hold the truth for 1 to {longest}")
    return tuple(range(0, stride * (window + steps), stride))


def _at_resolution(plan: Plan, shape: tuple[int, ...], one_step: bool, batch_size: int | None) -> dict[str, dict[str, np.ndarray]]:
    """Per predictor and metric an array (sample, time, ...); under "truth", which of them the truth leaves without a value."""
    view = plan.data.at(*shape)
    collected: dict[str, dict[str, list]] = {predictor: {} for predictor in (*PREDICTORS, "truth")}
    coarse = _training_view(plan)
    for rows in plan.batches(shape, batch_size):
        scale = plan.ranges(view, rows)
        several = {
            predictor: [_compare(plan, view, rows, j, p, scale) for j, p in enumerate(frames)]
            for predictor, frames in _predictors(plan, view, coarse, rows).items()
        }
        several["truth"] = [undefined(plan.truth(view, rows, frame), view.grid) for frame in plan.frames]
        for predictor, found in several.items():
            for name in found[0]:
                collected[predictor].setdefault(name, []).append(torch.stack([f[name] for f in found], dim=1))
        if one_step and plan.surrogate.dt is not None:
            for predictor, found in _one_step(plan, view, rows).items():
                for name in found[0]:
                    collected[predictor].setdefault(f"one_step_{name}", []).append(torch.stack([f[name] for f in found], dim=1))
    return {m: {name: torch.cat(parts).numpy() for name, parts in values.items()} for m, values in collected.items()}


def _training_view(plan: Plan) -> Trajectories | None:
    """Return the data at the training resolution, or None where the dataset cannot show it."""
    if plan.surrogate.training_shape is None:
        return None
    try:
        return plan.data.at(*plan.surrogate.training_shape)
    except ValueError:
        return None


def _predictors(plan: Plan, view: Trajectories, coarse: Trajectories | None, rows: slice) -> dict[str, Iterator[Tensor]]:
    s = plan.surrogate
    found = {"model": plan.predictions(view, rows)}
    if set(s.outputs) <= set(s.inputs):
        last = plan.truth(view, rows, plan.given[-1])
        found["persistence"] = (last for _ in plan.lead)
    if coarse is not None:
        found["upsampled"] = (resample(frame, coarse.grid, view.grid) for frame in plan.predictions(coarse, rows))
    return found


def _compare(plan: Plan, view: Trajectories, rows: slice, j: int, p: Tensor, scale: Tensor) -> dict[str, Tensor]:
    r = plan.truth(view, rows, plan.frames[j])
    lost = diverged(size(p, view.grid, scale))
    return frame_metrics(p, r, view.grid, plan.edges) | {"diverged": lost.double()}


def _one_step(plan: Plan, view: Trajectories, rows: slice) -> dict[str, list[dict[str, Tensor]]]:
    s, found, stored = plan.surrogate, {"model": [], "persistence": []}, (*plan.given, *plan.frames)
    for j, after in enumerate(plan.frames):
        before = stored[j : j + s.window]
        x = plan.inputs(view, rows, before)
        r = plan.truth(view, rows, after)
        predictions = {"model": s.predict(x, parameters=plan.parameters(rows)), "persistence": plan.truth(view, rows, before[-1])}
        for predictor, p in predictions.items():
            metrics = frame_metrics(p, r, view.grid, plan.edges)
            found[predictor].append({name: metrics[name] for name in _ONE_STEP})
    return found


def _dataset(plan: Plan, parts: dict[tuple[int, ...], dict[str, dict[str, np.ndarray]]]) -> xarray.Dataset:
    import xarray

    first = next(iter(parts.values()))["model"]
    n, t = len(plan.data), len(plan.lead)

    def stacked(name: str) -> np.ndarray:
        """Array (predictor, resolution, sample, time, ...), NaN where a baseline does not exist."""
        missing = np.full((n, t, *first[name].shape[2:]), np.nan)
        return np.array([[part[predictor].get(name, missing) for part in parts.values()] for predictor in PREDICTORS])

    def counted(plain: str) -> np.ndarray:
        """Array (resolution, sample, time, ...): where the truth gives this metric a value."""
        return np.array([~part["truth"][plain] for part in parts.values()])

    variables = {}
    extra = {"rel_l2_field": ("field",), "vrmse_field": ("field",), "band_error": ("band",)}
    for name in first:
        values = stacked(name)
        plain = name.removeprefix("one_step_")
        how = "predicted from the truth before" if name.startswith("one_step_") else "in a rollout from the first frames"
        attributes = {
            "long_name": plain.replace("_", " "),
            "definition": f"{DEFINITIONS.get(plain, 'share of samples out of range')}; {how}; mean over samples",
        }
        variables[name] = (
            ("predictor", "resolution", "time", *extra.get(plain, ())),
            _mean(values, counted(plain) if plain in DEFINITIONS else True),
            attributes,
        )
    samples, exists = stacked("rel_l2"), ~np.isnan(stacked("diverged"))
    variables["rel_l2_sample"] = (
        ("predictor", "resolution", "time", "sample"),
        samples.swapaxes(2, 3),
        {"definition": DEFINITIONS["rel_l2"]},
    )
    variables["samples"] = (
        ("predictor", "resolution", "time"),
        (exists & counted("rel_l2")).sum(2),
        {"long_name": "samples in the means"},
    )
    mean = torch.from_numpy(np.array(variables["correlation"][1]))
    reached = correlation_times(mean, torch.from_numpy(plan.lead)).numpy()
    reached[~(exists & counted("correlation")).any((2, 3))] = np.nan
    variables["correlation_time"] = (
        ("predictor", "resolution", "threshold"),
        reached,
        {"definition": "first time at which the mean correlation is below the threshold", "units": "time"},
    )
    s = plan.surrogate
    coordinates = {
        "predictor": list(PREDICTORS),
        "resolution": [by(shape) for shape in parts],
        "time": ("time", plan.lead, {"long_name": "time since the last frame given"}),
        "field": list(s.outputs),
        "threshold": list(THRESHOLDS),
        "band_lower": ("band", plan.edges[:-1], {"units": "radians per length"}),
        "band_upper": ("band", plan.edges[1:], {"units": "radians per length"}),
        "nyquist": ("resolution", [min(np.pi / h for h in plan.data.domain.grid(shape).spacing) for shape in parts]),
    }
    attributes = {"training_resolution": by(s.training_shape) if s.training_shape else "", "model": type(s.model).__name__}
    return xarray.Dataset(variables, coordinates, attributes)


def _mean(values: np.ndarray, counted: np.ndarray | bool) -> np.ndarray:
    """Mean over samples (axis 2) that count: those that have a value because their truth is not zero.

    A prediction that is not a number is not left out: it makes the mean NaN.
    """
    counted = np.broadcast_to(counted, values.shape)
    count = counted.sum(2)
    return np.divide(np.where(counted, values, 0.0).sum(2), count, out=np.full(count.shape, np.nan), where=count > 0)
