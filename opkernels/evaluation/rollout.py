"""A long autoregressive run: errors while there is a truth, spectra and size beyond it, and when it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from opkernels.datasets.trajectories import Trajectories
from opkernels.evaluation.evaluate import Plan, parse_resolution
from opkernels.evaluation.frames import DEFINITIONS, THRESHOLDS, correlation_times, diverged, frame_metrics, rms, size, undefined
from opkernels.evaluation.report import by
from opkernels.metrics import energy_spectrum
from opkernels.surrogate import Surrogate

if TYPE_CHECKING:
    import xarray

__all__ = ["long_rollout"]

_METRICS = ("rel_l2", "rel_h1", "vrmse", "correlation", "spectrum_distance")
_BY_FIELD = ("rel_l2_field", "vrmse_field")
_RANGE = 10.0


def long_rollout(
    surrogate: Surrogate,
    data: Trajectories,
    steps: int | None = None,
    *,
    resolution: int | str | Sequence[int] | None = None,
    samples: int = 8,
    keep: int = 0,
) -> xarray.Dataset:
    """Run a surrogate on its own answers for `steps` frames, further than the data if asked.

    Parameters
    ----------
    surrogate : Surrogate
        A step in time.
    data : Trajectories
        The first frames (as many as the surrogate takes), and the truth after them as far as it reaches.
    steps : int, optional
        Frames, after those given; by default as many as the data hold.
    resolution : int, str or sequence of int, optional
        By default that of the training, or of the data.
    samples : int
        How many of the first samples are run, together.
    keep : int
        Keep the frames of so many samples in the result (`prediction`, `truth`), for pictures.

    Returns
    -------
    xarray.Dataset
        `rel_l2`, `rel_h1`, `vrmse`, `correlation`, `spectrum_distance` (sample, time), and of each field
        `rel_l2_field`, `vrmse_field` (sample, time, field), NaN past the truth; `correlation_time`
        (threshold); `rms` and `rms_truth` (sample, time, field); `spectrum` and `spectrum_truth` (field,
        wavenumber), the energy spectrum averaged over samples and the last quarter of the frames (of the
        truth: those it holds, or its last; the attribute `time` says which); `lost_at` (sample), the time
        at which a field left ten times its range (the largest rms of its truth over the frames) or was no
        longer a number (infinite: never);
        `prediction` and `truth` (sample, time, field, *space) of the samples kept, the last frame given
        included as time 0.

    Raises
    ------
    ValueError
        If the surrogate is not a step in time, or the data do not fit it.
    """
    if surrogate.dt is None:
        raise ValueError("this surrogate is a direct map, not a step in time, and cannot be rolled out; use evaluate")
    if steps is not None and steps < 1:
        raise ValueError(f"got steps={steps}; give at least 1")
    shape = parse_resolution(surrogate.training_shape or data.shape if resolution is None else resolution, data.domain.ndim)
    plan = Plan.make(surrogate, data, [shape], None)
    steps = len(plan.lead) if steps is None else steps
    run = _Run(plan, data.at(*shape), min(samples, len(data)), steps, keep)
    frames = surrogate.iterate(run.first, parameters=plan.parameters(run.rows))
    for j in range(1, steps + 1):
        run.take(j, next(frames))
    return run.dataset()


class _Run:
    """What is measured frame by frame; nothing else is kept."""

    def __init__(self, plan: Plan, view: Trajectories, samples: int, steps: int, keep: int):
        self.plan, self.view, self.rows, self.steps, self.keep = plan, view, slice(0, samples), steps, keep
        self.grid, self.outputs = view.grid, plan.surrogate.outputs
        assert plan.surrogate.dt is not None
        self.dt = plan.surrogate.dt
        self.first = plan.inputs(view, self.rows, plan.given)
        start = plan.truth(view, self.rows, plan.given[-1])
        self.metrics = {name: torch.full((samples, steps), torch.nan, dtype=torch.float64) for name in _METRICS}
        self.metrics |= {name: torch.full((samples, steps, len(self.outputs)), torch.nan, dtype=torch.float64) for name in _BY_FIELD}
        self.varies = torch.zeros((samples, steps), dtype=torch.bool)  # the truth, so that it has a correlation
        self.rms, self.rms_truth = (torch.full((samples, steps + 1, len(self.outputs)), torch.nan, dtype=torch.float64) for _ in range(2))
        self.rms[:, 0] = self.rms_truth[:, 0] = rms(start, self.grid)
        self.lost = torch.full((samples,), torch.inf, dtype=torch.float64)
        self.scale = plan.ranges(view, self.rows)
        self.spectra: dict[str, dict[int, Tensor]] = {"spectrum": {}, "spectrum_truth": {}}
        self.kept: dict[str, list[Tensor]] = {"prediction": [start[:keep]], "truth": [start[:keep]]}

    def take(self, j: int, p: Tensor) -> None:
        """Measure frame j = 1, 2, ... (B, C_out, *spatial)."""
        self.rms[:, j] = rms(p, self.grid)
        if j <= len(self.plan.frames):
            r = self.plan.truth(self.view, self.rows, self.plan.frames[j - 1])
            for name, value in frame_metrics(p, r, self.grid, self.plan.edges).items():
                if name in self.metrics:
                    self.metrics[name][:, j - 1] = value
            self.rms_truth[:, j] = rms(r, self.grid)
            self.varies[:, j - 1] = ~undefined(r, self.grid)["correlation"]
        else:
            r = None
        self._spectra(j, p, r)
        gone = diverged(size(p, self.grid, self.scale), _RANGE) & self.lost.isinf()
        self.lost[gone] = j * self.dt
        if self.keep:
            self.kept["prediction"].append(p[: self.keep])
            if r is not None:
                self.kept["truth"].append(r[: self.keep])

    def _spectra(self, j: int, p: Tensor, r: Tensor | None) -> None:
        """Keep the spectra of the last quarter of the frames; of the truth, its last frame at least."""
        late = j > self.steps - max(1, self.steps // 4)
        if late:
            self.spectra["spectrum"][j] = energy_spectrum(p.double(), self.grid)[1].mean(0)
        if r is not None and (late or j == len(self.plan.frames)):
            self.spectra["spectrum_truth"][j] = energy_spectrum(r.double(), self.grid)[1].mean(0)

    def dataset(self) -> xarray.Dataset:
        """Return the result."""
        import xarray

        time = np.arange(self.steps + 1) * self.dt
        kappa = energy_spectrum(self.first[:1, :1].double(), self.grid)[0].numpy()
        variables: dict[str, tuple] = {
            name: (("sample", "time", "field")[: values.ndim], _after_first(values), {"definition": DEFINITIONS[name]})
            for name, values in self.metrics.items()
        }
        mean = torch.where(self.varies, self.metrics["correlation"], 0.0).sum(0) / self.varies.sum(0)
        known = len(self.plan.lead[: self.steps])
        reached = correlation_times(mean[:known], torch.from_numpy(time[1 : known + 1]))
        variables |= {
            "correlation_time": (
                ("threshold",),
                reached.numpy(),
                {"definition": "first time at which the mean correlation is below the threshold"},
            ),
            "rms": (("sample", "time", "field"), self.rms.numpy()),
            "rms_truth": (("sample", "time", "field"), self.rms_truth.numpy()),
            "lost_at": (
                ("sample",),
                self.lost.numpy(),
                {"definition": f"first time with a field out of {_RANGE:g} times its range in the truth"},
            ),
        }
        for name, found in self.spectra.items():
            if found:
                span = " to ".join(f"{time[j]:.4g}" for j in sorted({min(found), max(found)}))
                values = torch.stack(list(found.values())).mean(0).numpy()
                variables[name] = (("field", "wavenumber"), values, {"long_name": "energy spectrum", "time": f"t = {span}"})
        coordinates = {"time": time, "field": list(self.outputs), "threshold": list(THRESHOLDS), "wavenumber": kappa}
        if self.keep:
            names = self.grid.domain.names
            for name, found in self.kept.items():
                frames = torch.stack(found, dim=1).numpy()
                gap = np.full((len(frames), self.steps + 1 - frames.shape[1], *frames.shape[2:]), np.nan, dtype=frames.dtype)
                variables[name] = (("kept", "time", "field", *names), np.concatenate([frames, gap], axis=1))
            for axis, n in zip(self.grid.domain.axes, self.grid.shape, strict=True):
                coordinates[axis.name] = axis.coordinates(n, dtype=torch.float64).numpy()
        return xarray.Dataset(
            variables, coordinates, {"resolution": by(self.grid.shape), "model": type(self.plan.surrogate.model).__name__}
        )


def _after_first(values: Tensor) -> np.ndarray:
    """Prepend the last frame given, whose error is not defined."""
    return np.concatenate([np.full_like(values[:, :1].numpy(), np.nan), values.numpy()], axis=1)
