"""The cells of a resolution-transfer table as a dataset, as Markdown and CSV, and as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opkernels.evaluation.plots import CYCLE, decades, finish, new_figure, save_figure
from opkernels.evaluation.tables import percent
from opkernels.storage import write_atomically, write_text

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

__all__ = ["collect", "markdown", "over_seeds", "plot_curves", "plot_heat_map", "write_tables"]

ERRORS = {
    "one_step": "relative L2 error of one step",
    "rollout": "relative L2 error, mean over the rollout",
    "upsampled": "the same of the model run at its training resolution, its answer interpolated",
    "persistence": "the same of the first state, kept",
    "diverged": "share of the rollouts out of ten times the range of the truth",
    "coverage": "share of the rollouts whose error keeps the bound found at the training resolution",
}
COSTS = {
    "parameters": "trainable numbers",
    "epochs": "epochs of training",
    "cpu_seconds": "seconds of training: CPU time, on a GPU by the clock",
    "seconds_per_sample": "seconds of one prediction at the training resolution, likewise",
}
_ALIKE = 0.005  # two errors whose ratio is this close to one are the same


def collect(names: tuple[Sequence[str], Sequence[str], Sequence[int]], cells: Sequence[Mapping]) -> xarray.Dataset:
    """Return the cells as one dataset.

    Parameters
    ----------
    names : three sequences
        Datasets, models and seeds, in the order of the table.
    cells : sequence of mapping
        Those there are, finished or refused, as `opkernels.evaluation.transfer.compute` returns them.
    """
    import xarray

    datasets, models, seeds = (list(n) for n in names)
    refused = np.full((len(datasets), len(models)), "", object)
    for (dataset, model), reasons in _reasons(cells).items():
        refused[datasets.index(dataset), models.index(model)] = "; ".join(reasons)
    cells = [cell for cell in cells if "errors" in cell]
    resolutions = list(dict.fromkeys(r for cell in cells for r in cell["errors"]))
    resolutions.sort(key=lambda r: np.prod([int(n) for n in r.split("x")]))
    shape = (len(datasets), len(models), len(seeds))
    errors = {name: np.full((*shape, len(resolutions)), np.nan) for name in ERRORS}
    costs = {name: np.full(shape, np.nan) for name in COSTS}
    training = {name: "" for name in datasets}
    for cell in cells:
        at = datasets.index(cell["dataset"]), models.index(cell["model"]), seeds.index(cell["seed"])
        training[cell["dataset"]] = cell["training_resolution"]
        for name in COSTS:
            costs[name][at] = np.nan if cell[name] is None else cell[name]
        for resolution, values in cell["errors"].items():
            for name in ERRORS:
                value = values.get(name)
                errors[name][(*at, resolutions.index(resolution))] = np.nan if value is None else value
    dims = ("dataset", "model", "seed")
    variables: dict[str, tuple] = {name: ((*dims, "resolution"), errors[name], {"long_name": ERRORS[name]}) for name in ERRORS}
    variables |= {name: (dims, costs[name], {"long_name": COSTS[name]}) for name in COSTS}
    variables["refused"] = (("dataset", "model"), refused, {"long_name": "why there are no numbers, or not all"})
    coordinates = {"dataset": datasets, "model": models, "seed": seeds, "resolution": resolutions}
    coordinates["training_resolution"] = ("dataset", [training[name] for name in datasets])
    asked = next((cell["coverage"] for cell in cells if cell.get("coverage")), None)
    if asked is None:
        variables.pop("coverage")
    return xarray.Dataset(variables, coordinates, {} if asked is None else {"coverage": asked})


def over_seeds(table: xarray.Dataset, metric: str) -> xarray.DataArray:
    """Return the mean over the seeds that were asked; NaN where one of them diverged."""
    values = table[metric]
    return values.mean("seed").where(~(values.isnull() & table.diverged.notnull()).any("seed"))


def _reasons(cells: Sequence[Mapping]) -> dict[tuple[str, str], list[str]]:
    """Return, by dataset and model, why there are no numbers: of the dataset, of a seed, or at a resolution."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for cell in cells:
        said = found.setdefault((cell["dataset"], cell["model"]), {})
        if "refused" in cell:
            said[cell["refused"]] = None
        if "failed" in cell:
            said[f"seed {cell['seed']}: {cell['failed']}"] = None
        said |= {f"at {r}: {values['refused']}": None for r, values in cell.get("errors", {}).items() if "refused" in values}
    return {key: list(said) for key, said in found.items() if said}


def _shown(table: xarray.Dataset, dataset: str) -> tuple[xarray.Dataset, list[str], str]:
    """Return the part of one dataset, its resolutions and that of the training."""
    part = table.sel(dataset=dataset)
    resolutions = [str(r) for r in table.resolution.values if np.isfinite(part.persistence.sel(resolution=r)).any() or _known(part, r)]
    return part, resolutions, str(part.training_resolution.values)


def _known(part: xarray.Dataset, resolution: str) -> bool:
    return bool(np.isfinite(part.rollout.sel(resolution=resolution)).any() or np.isfinite(part.diverged.sel(resolution=resolution)).any())


def markdown(table: xarray.Dataset, metric: str = "rollout") -> str:
    """Return one table per dataset: errors in percent by resolution (mean +- spread over seeds), and what they cost.

    The column `upsampled` has the errors at every finer resolution of the model run where it was trained, its answer interpolated;
    a sentence below says which models are better than that at each of them. Where a `coverage` was asked for, one more column says how
    many percent of the samples keep the bound, by resolution. What a model refuses has a dash, and its reason below; a mean over fewer
    seeds than were trained says how many diverged.
    """
    return "\n\n".join(_markdown(table, str(name), metric) for name in table.dataset.values)


def _markdown(table: xarray.Dataset, dataset: str, metric: str) -> str:
    part, resolutions, training = _shown(table, dataset)
    finer = [r for r in resolutions if _finer(r, training)]
    head = ["model", *(f"{r} (training)" if r == training else r for r in resolutions)]
    head += [f"upsampled to {' / '.join(finer)}"] if finer else []
    head += [f"within the {percent(table.attrs['coverage'])} % bound"] if "coverage" in table else []
    head += ["parameters", "epochs", "s of training", "ms/sample"]
    lines = [f"**{dataset}**: {ERRORS[metric]}, in percent", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    models = [part.sel(model=model) for model in part.model.values]
    for row in models:
        untrained = np.isnan(row.parameters).all()
        cells = ["-"] * (len(head) - 1) if untrained else _cells(row, metric, resolutions, finer)
        if row.refused.item() or not untrained:
            lines.append("| " + " | ".join([str(row.model.values), *cells]) + " |")
    still = part.persistence.mean(("model", "seed"))
    if np.isfinite(still).any():
        cells = ["persistence", *(percent(still.sel(resolution=r)) for r in resolutions)]
        lines.append("| " + " | ".join(cells + [""] * (len(head) - len(cells))) + " |")
    notes = [_upsampling(models, metric, finer)] if finer else []
    notes += [f"{row.model.values}, without numbers: {row.refused.item()}." for row in models if row.refused.item()]
    return "\n".join(lines) + "".join(f"\n\n{note}" for note in notes)


def _finer(resolution: str, training: str) -> bool:
    """Tell whether a resolution, such as 16x32, is finer along an axis and coarser along none; of an unknown one, nothing is."""
    axes = [(int(n), int(m)) for n, m in zip(resolution.split("x"), training.split("x"), strict=False) if m]
    return any(n > m for n, m in axes) and all(n >= m for n, m in axes)


def _cells(row: xarray.Dataset, metric: str, resolutions: Sequence[str], finer: Sequence[str]) -> list[str]:
    """Return one model's cells on one dataset, after its name."""
    cells = [_cell(row[metric].sel(resolution=r).values, row.diverged.sel(resolution=r).values) for r in resolutions]
    cells += [" / ".join(percent(over_seeds(row, "upsampled").sel(resolution=r)) for r in finer)] if finer else []
    if "coverage" in row:
        cells.append(" / ".join(percent(row.coverage.sel(resolution=r).mean()) for r in resolutions))
    parameters, epochs, seconds, each = (row[name].mean("seed").item() for name in COSTS)
    spent = f"{seconds:.0f}" if np.isfinite(seconds) else "-"
    return [*cells, f"{parameters:,.0f}", f"{epochs:.0f}", spent, f"{1000 * each:.2f}" if np.isfinite(each) else "-"]


def _upsampling(models: Sequence[xarray.Dataset], metric: str, finer: Sequence[str]) -> str:
    """Return which models, asked at the finer resolutions, are better than themselves at the training resolution and interpolated."""
    said: dict[str, list[str]] = {"better": [], "the same to half a percent": [], "not better": []}
    for row in models:
        ratios = {r: _ratio(row.sel(resolution=r), metric) for r in finer}
        ratios = {r: ratio for r, ratio in ratios.items() if ratio is not None}
        worse, ahead = (
            [r for r, ratio in ratios.items() if apart(ratio)] for apart in (lambda x: x > 1 + _ALIKE, lambda x: x < 1 - _ALIKE)
        )
        name = str(row.model.values)
        if worse:
            said["not better"].append(f"{name} ({', '.join(worse)})")
        elif ratios and len(ahead) == len(ratios):
            said["better"].append(name)
        elif ratios:
            said["the same to half a percent"].append(name + (f" (better at {', '.join(ahead)})" if ahead else ""))
    told = "; ".join(f"{word}: {', '.join(names) or 'none'}" for word, names in said.items() if names or word == "better")
    return f"Asked at {' and '.join(finer)}, against its own answer at the training resolution, interpolated: {told}."


def _ratio(row: xarray.Dataset, metric: str) -> float | None:
    """Return a model's error at a resolution over that of its answer interpolated there: none if refused, infinite if a seed diverged."""
    if row.diverged.isnull().all():
        return None
    here, there = (over_seeds(row, name).item() for name in (metric, "upsampled"))
    return math.inf if math.isnan(here) else 0.0 if math.isnan(there) else here / there


def _cell(values: np.ndarray, diverged: np.ndarray) -> str:
    """Return mean +- standard deviation over seeds in percent, and of how many that is not where some diverged."""
    known = values[np.isfinite(values)]
    asked = int(np.isfinite(diverged).sum())
    if not known.size:
        return "diverged" if asked else "-"
    spread = f" ± {100 * known.std(ddof=1):.2g}" if known.size > 1 else ""
    lost = f" ({asked - known.size} of {asked} diverged)" if known.size < asked else ""
    return percent(known.mean()) + spread + lost


def plot_heat_map(table: xarray.Dataset, dataset: str, metric: str = "rollout") -> Figure:
    """Draw the errors of one dataset, models down, resolutions across, relative to each model's error where it was trained."""
    from matplotlib.colors import LogNorm

    part, resolutions, training = _shown(table, dataset)
    known = [str(m) for m in table.model.values if np.isfinite(part[metric].sel(model=m)).any()]
    mean = over_seeds(part, metric).sel(model=known)
    errors = mean.sel(resolution=resolutions).values
    own = mean.sel(resolution=training).values if training in resolutions else np.nanmin(errors, axis=1)
    figure = new_figure(1.5 * len(resolutions) + 3.0, 0.42 * len(known) + 1.6)
    axes = figure.subplots()
    ratio = errors / own[:, None]
    picture = axes.imshow(ratio, cmap="YlOrRd", norm=LogNorm(1.0, max(2.0, float(np.nanmax(ratio)))), aspect="auto")
    for i, j in np.ndindex(*errors.shape):
        dark = ratio[i, j] > np.sqrt(picture.norm.vmax or 1.0)
        axes.text(j, i, percent(errors[i, j]), ha="center", va="center", fontsize=9, color="white" if dark else "black")
    axes.set_xticks(range(len(resolutions)), [f"{r}\n(training)" if r == training else r for r in resolutions])
    axes.set_yticks(range(len(known)), known)
    bar = figure.colorbar(picture, label="error over that\nat the training resolution")
    for formatter in (bar.ax.yaxis.set_major_formatter, bar.ax.yaxis.set_minor_formatter):
        formatter(lambda value, _: f"{value:g}")
    finish(figure, f"{dataset}: {ERRORS[metric]}, in percent")
    return figure


def plot_curves(table: xarray.Dataset, dataset: str, metric: str = "rollout") -> Figure:
    """Draw the errors of one dataset against the resolution, one line per model, the spread over seeds shaded."""
    part, resolutions, training = _shown(table, dataset)
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    x = np.arange(len(resolutions))
    lines = ["-"] * len(CYCLE) + ["-."] * len(CYCLE)  # colors come again with another line
    styles = zip(CYCLE * 9, "osD^vP*X<>" * 9, lines * 5, strict=False)
    for model in map(str, table.model.values):
        values = part[metric].sel(model=model, resolution=resolutions)
        if np.isnan(values).all():
            continue
        color, marker, line = next(styles)
        mean = over_seeds(part, metric).sel(model=model, resolution=resolutions).values
        axes.plot(x, mean, color=color, marker=marker, ls=line, ms=5, lw=1.5, label=model)
        if values.count("seed").max() > 1:
            spread = values.std("seed", ddof=1).values
            axes.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.12, lw=0)
    still = part.persistence.mean(("model", "seed")).sel(resolution=resolutions)
    if np.isfinite(still).any():
        axes.plot(x, still, color="#8a8f98", ls="--", lw=1.2, label="persistence")
    axes.set_xticks(x, [f"{r}\n(training)" if r == training else r for r in resolutions])
    axes.set(xlabel="resolution", ylabel=ERRORS[metric])
    decades(axes)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    finish(figure, dataset)
    return figure


def write_tables(table: xarray.Dataset, folder: Path) -> None:
    """Write table.md, table.csv, table.nc and two pictures per dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", markdown(table) + "\n")
    frame = table.drop_vars(["training_resolution", "refused"]).to_dataframe().reset_index().dropna(subset=["parameters", "diverged"])
    write_text(folder / "table.csv", frame.to_csv(index=False))
    write_atomically(folder / "table.nc", lambda part: table.to_netcdf(part, engine="h5netcdf"))
    for dataset in map(str, table.dataset.values):
        if not np.isfinite(table.rollout.sel(dataset=dataset)).any():
            continue
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in dataset)
        save_figure(plot_heat_map(table, dataset), folder / f"{stem}_heat_map.png")
        save_figure(plot_curves(table, dataset), folder / f"{stem}_curves.png")
