"""The errors of `evaluate` and `long_rollout` as text, for terminals and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray

__all__ = ["coverage_table", "error_table", "percent", "rollout_summary"]


def error_table(errors: xarray.Dataset) -> str:
    """Return the relative L2 errors by resolution: rollout mean, one step, baselines; the rollout's VRMSE and correlation time.

    `errors` is what `opkernels.evaluate` returned. The number after +- is one standard deviation over
    seeds where there are several, else over samples. Where a seed or a sample is no number, so is the mean (-),
    and a line below tells the share of runs that left the range of the truth. Where there are several fields, the first line of
    a resolution takes them together, the VRMSE as their mean, and a line for each follows.
    """
    seeds = errors.sizes.get("seed", 1)
    mean = errors.mean("seed", skipna=False) if "seed" in errors.dims else errors
    n, frames = int(errors["samples"].max()), errors.sizes["time"]
    training = errors.attrs.get("training_resolution", "")
    fields = errors.field.values if errors.sizes["field"] > 1 else []
    rows = [["resolution", "model", "one step", "upsampled", "persistence", "VRMSE", "correlated until"]]
    for resolution in map(str, errors.resolution.values):
        here = mean.sel(resolution=resolution)
        if seeds > 1:
            deviation = (
                errors.rel_l2.sel(resolution=resolution, predictor="model").mean("time", skipna=False).std("seed", ddof=1, skipna=False)
            )
        else:
            deviation = here.rel_l2_sample.sel(predictor="model").mean("time").std("sample")
        known = np.isfinite(here.rel_l2.sel(predictor="model")).all()
        spread = f" +- {percent(deviation)}" if known else ""
        times = errors.correlation_time.sel(resolution=resolution, predictor="model", threshold=0.8)
        until = _until(times, float(errors.time.values[-1]))
        name = resolution + (" (training)" if resolution == training else "")
        rows.append([name, *_errors(here, spread), until])
        rows += [[f"  {field}", *_errors(here.sel(field=field), " " * len(spread), "_field"), ""] for field in fields]
    over = f"{n} samples and {frames} frame{'s' if frames > 1 else ''}" + (f", {seeds} seeds" if seeds > 1 else "")
    lost = float(mean.diverged.sel(predictor="model").max())
    notes = [f"{100 * lost:.0f} % of the runs left the range of the truth"] if lost else []
    return "\n".join([f"relative L2 error in percent, mean over {over}", "", *_columns(rows), *notes])


def _errors(here: xarray.Dataset, spread: str, suffix: str = "") -> list[str]:
    """Return the columns model (and its spread), one step, upsampled, persistence and VRMSE, of all fields or (`suffix`) of one."""
    mean = here.mean("time", skipna=False)
    model, upsampled, persistence = (percent(mean[f"rel_l2{suffix}"].sel(predictor=p)) for p in ("model", "upsampled", "persistence"))
    step = f"one_step_rel_l2{suffix}"
    one_step = percent(mean[step].sel(predictor="model")) if step in mean else "-"
    vrmse = float(mean[f"vrmse{suffix}"].sel(predictor="model"))
    return [model + spread, one_step, upsampled, persistence, "-" if np.isnan(vrmse) else f"{vrmse:.3g}"]


def coverage_table(found: xarray.Dataset) -> str:
    """Return how often calibrated bands hold the truth, by resolution: what `measure_coverage` returned, mean over the frames."""
    a, mean = found.attrs, found.mean("time", skipna=False)
    rows = [["resolution", "held by the error bound", "by the band", "error of the mean", "spread over error"]]
    for resolution in map(str, found.resolution.values):
        here = mean.sel(resolution=resolution)
        name = resolution + (" (calibration)" if resolution == a["calibration_resolution"] else "")
        ratio = float(here.spread_skill.mean())
        covered = [percent(here.coverage.sel(band=band)) for band in ("norm", "pointwise")]
        rows.append([name, *covered, percent(here.rel_l2), "-" if np.isnan(ratio) else f"{ratio:.2f}"])
    bound = " to ".join(dict.fromkeys(percent(q) for q in (found.error_bound.min(), found.error_bound.max())))
    head = f"coverage in percent, asked for {percent(a['asked'])}, of {a['samples']} samples by {a['calibration_samples']} for calibration"
    notes = [
        f"expected: {percent(a['expected'])} +- {percent(a['deviation'])} where errors are distributed as at {a['calibration_resolution']}",
        f"error bound: {bound} % in relative L2",
    ]
    if a["members"] > 1:
        notes.append(f"band: around the mean of {a['members']} seeds, on {percent(a['share'])} % of the domain")
    return "\n".join([head, "", *_columns(rows), "", *notes])


def rollout_summary(run: xarray.Dataset) -> str:
    """Return what `long_rollout` found: error at a few times, correlation time, and whether it broke."""
    times = run.time.values
    known = int(np.isfinite(run.rms_truth).all(("sample", "field")).sum()) - 1
    picked = np.unique(np.round(np.geomspace(1, max(known, 1), min(max(known, 1), 6))).astype(int))
    fields = [str(name) for name in run.field.values] if run.sizes["field"] > 1 else []
    rows = [["time", "relative L2 %", *(f"{name} %" for name in fields), "correlation", "distance of spectra"]]
    for j in picked:
        at = run.isel(time=j)
        each = (percent(_over_samples(at, "rel_l2_field").sel(field=name)) for name in fields)
        correlation, distance = (float(_over_samples(at, name)) for name in ("correlation", "spectrum_distance"))
        rows.append([f"{times[j]:.4g}", percent(_over_samples(at, "rel_l2")), *each, f"{correlation:.3f}", f"{distance:.2f}"])
    lost = run.lost_at.values[np.isfinite(run.lost_at.values)]
    fate = (
        f"{len(lost)} of {run.sizes['sample']} runs left the range of the truth, the first at time {lost.min():.4g}"
        if len(lost)
        else (f"no run left the range of the truth until time {times[-1]:.4g}")
    )
    until = _until(run.correlation_time.sel(threshold=0.8), times[known])
    head = f"{run.sizes['sample']} runs of {len(times) - 1} frames at {run.attrs['resolution']}, with a truth for {known}"
    return "\n".join([head, "", *_columns(rows), "", f"correlation above 0.8 until {until}", fate])


def _over_samples(at: xarray.Dataset, name: str) -> xarray.DataArray:
    """Return the mean over the samples whose truth gives this error a value; a prediction that is no number makes it none."""
    values, zero = at[name], at.rms_truth == 0
    left_out = zero if "field" in values.dims else zero.all("field") | (values.isnull() & np.isfinite(at.rms).all("field"))
    return values.where(~left_out, 0.0).sum("sample", skipna=False) / (~left_out).sum("sample")


def percent(value) -> str:
    """Write a ratio in percent, without the sign: 110, 42.0, 3.14, 5.0e-03; - where it is not a number."""
    value = 100 * float(value)
    if np.isnan(value):
        return "-"
    return (
        f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 0.01 or value == 0
        else f"{value:.1e}"
    )


def _until(times, last: float) -> str:
    """Write a correlation time, or the mean of several, as a lower bound where one is not reached; - for no step in time (last = 0)."""
    times = np.asarray(times, dtype=float)
    if np.isnan(times).any() or last == 0:
        return "-"
    return ("> " if np.isinf(times).any() else "") + f"{np.minimum(times, last).mean():.4g}"


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    cells = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))] for row in rows]
    return [("  " + "  ".join(row)).rstrip() for row in cells]
