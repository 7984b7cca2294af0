"""Pictures of evaluations: fields side by side, spectra, errors against resolution and time.

Every function returns a ``matplotlib.figure.Figure`` (no pyplot, no global state); `save_figure` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from opkernels.domains import Axis, Grid
from opkernels.evaluation.tables import percent
from opkernels.sphere import Parallels, SphereGrid
from opkernels.storage import write_atomically

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compare_fields", "plot_error_by_resolution", "plot_error_by_time", "plot_spectra", "save_figure"]

COLORS = {"model": "#0b6e99", "upsampled": "#d9822b", "persistence": "#8a8f98", "truth": "#1a1a1a"}
CYCLE = ("#0b6e99", "#d9822b", "#5b8c5a", "#a23b72", "#6c6ea0", "#b0a12f")
LABELS = {"model": "model at this resolution", "upsampled": "model at its training resolution, upsampled", "persistence": "persistence"}
NAMES = {
    "rel_l2": "relative L2 error",
    "rel_h1": "relative H1 error",
    "vrmse": "VRMSE",
    "correlation": "correlation",
    "spectrum_distance": "distance of spectra (decades)",
}


def save_figure(figure: Figure, path: Path | str, *, dpi: int = 150) -> Path:
    """Write a figure whole or not at all, as PNG, PDF, SVG or JPG by the name's ending; return the path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg"):
        raise ValueError(f"got the picture's name {path}; let it end in .png, .pdf, .svg or .jpg")
    FigureCanvasAgg(figure)
    write_atomically(path, lambda part: figure.savefig(part, dpi=dpi, format=path.suffix[1:].lower()))
    return path


def compare_fields(
    truth: np.ndarray | Sequence,
    prediction: np.ndarray | Sequence,
    grid: Grid | SphereGrid,
    *,
    rows: Sequence[str] | None = None,
    title: str = "",
    unit: str = "",
) -> Figure:
    """Draw truth | prediction | error, one row per field or time.

    Parameters
    ----------
    truth, prediction : array, (R, *grid.shape)
        R rows; in 3-D the middle plane of the last axis is shown.
    grid : Grid
        Gives lengths and names of the axes.
    rows : sequence of str, optional
        What each row is: "vorticity, t = 2".
    title : str
        Above all.
    unit : str
        Of the values, beside the color bars.
    """
    truth, prediction = (np.asarray(u, dtype=float) for u in (truth, prediction))
    if truth.shape != prediction.shape or truth.shape[1:] != tuple(grid.shape):
        raise ValueError(
            f"got arrays of shapes {truth.shape} and {prediction.shape}; expected two of (rows, {', '.join(map(str, grid.shape))})"
        )
    rows = [""] * len(truth) if rows is None else list(rows)
    truth, prediction, axes = planes(truth, prediction, grid)
    weights = grid.weights(dtype=torch.float64).numpy()[None]
    area = planes(weights, weights, grid)[0][0]
    if len(axes) == 1:
        return _compare_lines(truth, prediction, axes[0], area, rows, title, unit)
    x, y = axes
    height = min(3.2, 2.7 * y.length / x.length)
    width = height * x.length / y.length
    figure = new_figure(3 * width + 2.8, len(truth) * (max(height, 0.7) + 0.3) + (0.75 if title else 0.45))
    panels = figure.subplots(len(truth), 3, squeeze=False, sharex=True, sharey=True)
    for row, (label, r, p) in enumerate(zip(rows, truth, prediction, strict=True)):
        style = color_scale(r if np.ptp(r) > 0 else np.stack([r, p]))
        e = p - r
        bound = float(np.nanmax(np.abs(e))) or 1.0
        drawn = []
        for panel_, values, kind in zip(
            panels[row], (r, p, e), (style, style, {"cmap": "PuOr_r", "vmin": -bound, "vmax": bound}), strict=True
        ):
            drawn.append(
                panel_.imshow(values.T, origin="lower", extent=(x.lower, x.upper, y.lower, y.upper), interpolation="nearest", **kind)
            )
            panel_.tick_params(length=2)
        if row == 0:
            for panel_, name in zip(panels[0], ("truth", "prediction", "prediction - truth"), strict=True):
                panel_.set_title(name)
        panels[row, 2].text(
            0.97, 0.96, _relative(e, r, area), transform=panels[row, 2].transAxes, ha="right", va="top", fontsize=8, bbox=_BOX
        )
        panels[row, 0].set_ylabel("{}\n\n{}".format(label.replace(", ", "\n"), y.name) if label else y.name)
        for panel_, image in zip(panels[row, 1:], drawn[1:], strict=True):
            figure.colorbar(image, cax=panel_.inset_axes((1.03, 0, 0.08 / width, 1)), label=unit)
    for panel_ in panels[-1]:
        panel_.set_xlabel(x.name)
    finish(figure, title)
    return figure


def plot_spectra(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    nyquist: Mapping[str, float] | None = None,
    title: str = "",
    unit: str = "radians per length",
) -> Figure:
    """Draw energy spectra over the physical wave number, with each grid's Nyquist wave number marked.

    Parameters
    ----------
    curves : dict of label to (wavenumbers, energy)
        A curve whose label starts with "truth" is drawn gray and wide.
    nyquist : dict of label to wave number, optional
        Marked by vertical lines: {"64x64": 32.0}.
    title, unit : str
    """
    from matplotlib.ticker import NullFormatter

    figure = new_figure(6.0, 4.0)
    axes = figure.subplots()
    colors = iter(CYCLE * 9)
    top = 0.0
    for label, (k, energy) in curves.items():
        k, energy = (np.asarray(a, dtype=float) for a in (k, energy))
        shown = (k > 0) & (energy > 0)
        style = {"color": COLORS["truth"], "lw": 3, "alpha": 0.35} if label.startswith("truth") else {"color": next(colors), "lw": 1.5}
        axes.plot(k[shown], energy[shown], label=label, **style)
        top = max(top, energy[shown].max(initial=0.0))
    axes.set(xscale="log", yscale="log", xlabel=f"wave number ({unit})", ylabel="energy per wave number")
    axes.xaxis.set_minor_formatter(NullFormatter())  # labels between the powers of ten run into each other
    if top > 0:
        drawn = [np.asarray(line.get_ydata()) for line in axes.lines]
        low = min((y.min() for y in drawn if y.size), default=top)
        axes.set_ylim(max(low, top * 1e-12) / 2, top * 3)
    marks: dict[float, list[str]] = {}
    for label, k in (nyquist or {}).items():
        marks.setdefault(float(k), []).append(label)
    for k, labels in marks.items():
        axes.axvline(k, color="#999999", lw=0.8, ls=(0, (4, 3)), zorder=0)
        axes.annotate(
            "Nyquist " + ", ".join(labels),
            (k, 0.98),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="top",
            fontsize=7,
            color="#666666",
        )
    axes.grid(which="major", alpha=0.25)
    axes.legend(loc="lower left", frameon=False)
    finish(figure, title)
    return figure


def plot_error_by_resolution(errors: xarray.Dataset, metric: str = "rel_l2", *, title: str = "") -> Figure:
    """Draw an error, averaged over the rollout, against resolution, with the baselines; `errors` is from `evaluate`.

    The band shows the spread over seeds where there are several, else over samples (one standard
    deviation; relative L2 only).
    """
    _require(errors, metric)
    figure = new_figure(6.0, 4.0)
    axes = figure.subplots()
    labels = [str(label) for label in errors.resolution.values]
    x = np.arange(len(labels))
    for method in ("persistence", "upsampled", "model"):
        mean, low, high = _over_time(errors.sel(predictor=method), metric)
        if np.isnan(mean).all():
            continue
        marker = {"model": "o", "upsampled": "s", "persistence": "_"}[method]
        axes.plot(x, mean, marker=marker, ls="-" if method == "model" else "--", color=COLORS[method], label=LABELS[method])
        if method == "model":
            axes.fill_between(x, low, high, color=COLORS[method], alpha=0.15, lw=0)
            for position, value in zip(x, mean, strict=True):
                axes.annotate(
                    _number(value),
                    (position, value),
                    xytext=(0, -13),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=COLORS[method],
                )
    training = errors.attrs.get("training_resolution", "")
    axes.set_xticks(x, [f"{label}\n(training)" if label == training else label for label in labels])
    axes.set(xlabel="resolution", ylabel=f"{NAMES.get(metric, metric)}, mean over {errors.sizes['time']} frames", xlim=(-0.4, len(x) - 0.6))
    decades(axes)
    axes.legend(frameon=False)
    finish(figure, title)
    return figure


def plot_error_by_time(errors: xarray.Dataset, metric: str = "rel_l2", *, title: str = "") -> Figure:
    """Draw an error along the rollout, one line per resolution, with persistence; `errors` is from `evaluate`."""
    _require(errors, metric)
    figure = new_figure(6.0, 4.0)
    axes = figure.subplots()
    values = errors[metric].mean("seed") if "seed" in errors.dims else errors[metric]
    t = errors.time.values
    finest = str(errors.resolution.values[-1])
    for (resolution, color), marker in zip(zip(errors.resolution.values, CYCLE * 9, strict=False), "osD^vP*X" * 9, strict=False):
        axes.plot(
            t,
            values.sel(predictor="model", resolution=resolution),
            color=color,
            marker=marker,
            ms=4,
            lw=1.5,
            label=f"model at {resolution}",
        )
    for method in ("upsampled", "persistence"):
        line = values.sel(predictor=method, resolution=finest)
        if not np.isnan(line).all():
            axes.plot(t, line, ls="--", lw=1.5, color=COLORS[method], label=method if method == "persistence" else f"upsampled to {finest}")
    axes.set(xlabel="time since the last frame given", ylabel=NAMES.get(metric, metric))
    if metric == "correlation":
        axes.axhline(0.8, color="#999999", lw=0.8, ls=":")
        axes.set_ylim(top=1.02)
        axes.grid(alpha=0.25)
    else:
        decades(axes)
    axes.legend(frameon=False)
    finish(figure, title)
    return figure


_BOX = {"boxstyle": "round,pad=0.25", "fc": "white", "ec": "none", "alpha": 0.8}


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def finish(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold")
    for axes in figure.axes:
        axes.tick_params(labelsize=8)
        axes.title.set_fontsize(10)
        for spine in ("top", "right"):
            if axes.lines and not axes.images:
                axes.spines[spine].set_visible(False)


def planes(truth: np.ndarray, prediction: np.ndarray, grid: Grid | SphereGrid) -> tuple[np.ndarray, np.ndarray, Sequence[Axis | Parallels]]:
    """Return what is drawn of fields (R, *grid.shape), first axis to the right, second up: maps of a sphere, middle planes in 3-D."""
    if isinstance(grid, SphereGrid):
        latitude, longitude = grid.domain.axes
        return truth[:, ::-1].swapaxes(1, 2), prediction[:, ::-1].swapaxes(1, 2), [longitude, latitude]
    axes = list(grid.domain.axes)
    while len(axes) > 2:
        middle = truth.shape[-1] // 2
        truth, prediction, axes = truth[..., middle], prediction[..., middle], axes[:-1]
    return truth, prediction, axes


def color_scale(r: np.ndarray) -> dict:
    """Colors centered at zero for signed fields, from the least to the largest value otherwise."""
    finite = r[np.isfinite(r)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low == high == 0:
        return {"cmap": "RdBu_r", "vmin": -1.0, "vmax": 1.0}
    if low < 0 < high and -low > 0.1 * high and high > -0.1 * low:
        bound = max(-low, high)
        return {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}
    return {"cmap": "viridis", "vmin": low, "vmax": high if high > low else low + 1}


def _compare_lines(
    truth: np.ndarray, prediction: np.ndarray, axis: Axis | Parallels, area: np.ndarray, rows: list[str], title: str, unit: str
) -> Figure:
    figure = new_figure(8.0, 2.3 * len(truth) + (0.6 if title else 0.3))
    panels = figure.subplots(len(truth), 2, squeeze=False, sharex=True, width_ratios=(2, 1))
    x = axis.coordinates(len(area)).double().numpy()
    for row, (label, r, p) in enumerate(zip(rows, truth, prediction, strict=True)):
        left, right = panels[row]
        left.plot(x, r, color=COLORS["truth"], lw=3, alpha=0.35, label="truth")
        left.plot(x, p, color=COLORS["model"], lw=1.4, label="prediction")
        right.plot(x, p - r, color=COLORS["upsampled"], lw=1.2)
        right.axhline(0, color="#999999", lw=0.8)
        right.text(0.97, 0.96, _relative(p - r, r, area), transform=right.transAxes, ha="right", va="top", fontsize=8, bbox=_BOX)
        left.set_ylabel(", ".join(part for part in (label, unit) if part))
        for panel in (left, right):
            panel.grid(alpha=0.25)
    panels[0, 0].legend(frameon=False)
    panels[0, 1].set_title("prediction - truth")
    for panel in panels[-1]:
        panel.set_xlabel(axis.name)
    finish(figure, title)
    return figure


def _relative(e: np.ndarray, r: np.ndarray, area: np.ndarray) -> str:
    """Say how large an error is, by quadrature: in percent of the truth, or, where that is zero, its root mean square."""
    error, size = (float(np.sqrt(np.sum(area * u**2) / area.sum())) for u in (e, r))
    return f"{percent(error / size)} %" if size > 0 else f"truth is zero, rms {error:.2g}"


def _require(errors: xarray.Dataset, metric: str) -> None:
    if metric not in errors or "predictor" not in errors.dims:
        raise ValueError(f"there is no {metric!r} in these errors; give what evaluate returned, and one of {', '.join(NAMES)}")


def _over_time(errors: xarray.Dataset, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the rollout, and one standard deviation below and above: over seeds, else over samples."""
    mean = errors[metric].mean("time")
    if "seed" in errors.dims:
        spread = mean.std("seed", ddof=min(1, errors.sizes["seed"] - 1))
        mean = mean.mean("seed")
    elif metric == "rel_l2":
        spread = errors["rel_l2_sample"].mean("time").std("sample")
    else:
        spread = 0 * mean
    return mean.values, (mean - spread).values, (mean + spread).values


def _number(value: float) -> str:
    return f"{value:.3f}" if 0.01 <= abs(value) < 100 else f"{value:.1e}"


def decades(axes: Axes) -> None:
    """Use a logarithmic scale with plain numbers, and leave room for the legend."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.ones(1)])
    values = values[np.isfinite(values) & (values > 0)]
    if values.size:
        axes.set_yscale("log")
        low, high = values.min(), values.max()
        axes.set_ylim(low / 1.6, high * (high / low) ** 0.25 * 1.3)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        if high / low < 20:
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if str(f"{v:e}")[0] in "25" else ""))
        else:
            axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
