"""What is in a dataset, in words and in a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from opkernels.datasets.fields import Field
from opkernels.datasets.particle_trajectories import ParticleTrajectories, open_particles
from opkernels.datasets.store import StoredArray, holds_particles
from opkernels.datasets.trajectories import Trajectories, open_trajectories
from opkernels.sphere import Parallels, Sphere

__all__ = ["describe", "draw", "draw_particles"]

_LOOKED_AT = 4  # samples read for the statistics


def describe(path: str | os.PathLike) -> str:
    """Return a table of what a native file holds: fields, domain, times, parameters, provenance, the solver's own error.

    Parameters
    ----------
    path : path

    Raises
    ------
    ValueError
        If it is not a readable native file.
    """
    rows = list(_particle_rows(open_particles(path), Path(path)) if holds_particles(path) else _rows(open_trajectories(path), Path(path)))
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{text}".rstrip() for name, text in rows)


def _rows(data: Trajectories, path: Path) -> Iterator[tuple[str, str]]:
    fields = list(data.fields.values())
    mapped = all(isinstance(field.source, StoredArray) and field.source.mapped for field in fields)
    yield "file", f"{path}, {_size(path.stat().st_size)}, {'memory-mapped' if mapped else 'chunked or compressed, read through h5py'}"
    for key in ("title", "references"):
        if data.attributes.get(key):
            yield key, str(data.attributes[key])
    yield "samples", str(len(data))
    yield "times", "stationary" if data.times is None else _span(data.times)
    for axis, n in zip(data.domain.axes, data.shape, strict=True):
        kind = "periodic" if axis.periodic else "from pole to pole" if isinstance(axis, Parallels) else "walls"
        yield f"axis {axis.name}", f"[{axis.lower:.6g}, {axis.upper:.6g}] {kind}, {n} {axis.points} samples, spacing {axis.spacing(n):.4g}"
    for name, field in data.fields.items():
        yield f"field {name}", f"{field.dtype} {' x '.join(map(str, field.shape))}, restricted by {field.rule}; {_statistics(field)}"
    yield from _parameters(data.parameters)
    yield from _provenance(data.attributes, list(data.fields))


def _span(times: np.ndarray) -> str:
    steps = np.diff(times)
    every = f", every {steps[0]:.4g}" if len(steps) and np.allclose(steps, steps[0]) else ""
    return f"{len(times)} from {times[0]:.4g} to {times[-1]:.4g}{every}"


def _parameters(parameters: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    for name, values in parameters.items():
        yield f"parameter {name}", f"{values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g}, first {values[0]:.6g}"


def _particle_rows(data: ParticleTrajectories, path: Path) -> Iterator[tuple[str, str]]:
    yield "file", f"{path}, {_size(path.stat().st_size)}"
    for key in ("title", "references"):
        if data.attributes.get(key):
            yield key, str(data.attributes[key])
    yield "samples", f"{len(data)} simulations"
    yield "times", _span(data.times)
    for axis in data.domain.axes:
        yield f"axis {axis.name}", f"[{axis.lower:.6g}, {axis.upper:.6g}] {'periodic' if axis.periodic else 'open or walls'}"
    kinds = np.asarray(data.arrays["particle_type"][:])
    fluid, walls = (kinds == 0).sum(1), (kinds > 0).sum(1)
    yield "particles", f"{fluid.min()} to {fluid.max()} of fluid, {walls.min()} to {walls.max()} of walls"
    yield "arrays", ", ".join(f"{name} {array.dtype}" for name, array in data.arrays.items())
    first = data[0].velocities
    bad = int((~first.isfinite()).sum())
    speed = (
        "NaN or infinite"
        if bad
        else f"rms {float(first[0].square().sum(-1).mean().sqrt()):.3g} at first, "
        + (f"{float(first[-1].square().sum(-1).mean().sqrt()):.3g} at last")
    )
    yield "speed", f"{speed} in the first sample"
    yield from _parameters(data.parameters)
    yield from _provenance(data.attributes)


def _statistics(field: Field) -> str:
    some = np.stack([field[row] for row in range(min(_LOOKED_AT, len(field)))]).astype(np.float64)
    bad = int((~np.isfinite(some)).sum())
    if bad:
        return f"{bad} numbers that are NaN or infinite in the first {len(some)} samples"
    if not field.evolving:
        return f"rms {_rms(some, field):.3g}, from {some.min():.3g} to {some.max():.3g} in the first {len(some)} samples"
    return f"rms {_rms(some[:, 0], field):.3g} at first, {_rms(some[:, -1], field):.3g} at last, in the first {len(some)} samples"


def _rms(values: np.ndarray, field: Field) -> float:
    """Root mean square over samples and space, by quadrature."""
    weights = field.grid.weights(dtype=torch.float64).numpy()
    return float(np.sqrt(np.mean(values**2 * (weights / weights.mean()))))


def _provenance(told: Mapping, names: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    if "source" in told:
        yield "made by", f"{told['source']} ({told.get('versions', 'versions unknown')}), seed {told.get('seed', 'unknown')}"
    for key, what in (("solver_error", "n against 2n in float64"), ("solver_error_time", "dt against dt/2")):
        if key in told:
            errors = np.atleast_1d(np.asarray(told[key], dtype=np.float64))
            middle = f"{errors[len(errors) // 2]:.2g} half way, " if len(errors) > 2 else ""
            yield "solver's error", f"{middle}{errors[-1]:.2g} at last, {errors.max():.2g} at most (relative L2, {what})"
    if "solver_error_fields" in told:
        yield (
            "  of each field",
            ", ".join(f"{name} {error:.2g}" for name, error in zip(names, told["solver_error_fields"], strict=True)) + " at last",
        )
    if "recipe" in told:
        import yaml

        recipe = json.loads(str(told["recipe"]))
        plain = {key: value for key, value in recipe.items() if key not in ("title", "references") and value not in (None, {}, "")}
        for i, line in enumerate(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=110).splitlines()):
            yield "recipe" if i == 0 else "", line


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.4g} {unit}"
        count /= 1000
    raise AssertionError


def draw(data: Trajectories, path: str | os.PathLike, *, samples: int = 3, times: int = 5) -> None:
    """Draw the first samples of every field at some times, one row per sample.

    One-dimensional fields are drawn over space and time, of three-dimensional ones the middle plane of the last axis.

    Parameters
    ----------
    data : Trajectories
    path : path
        PNG (or PDF, SVG) to write.
    samples, times : int
        Rows per field, and columns.

    Raises
    ------
    ValueError
        If the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [(name, row) for name in data.fields for row in range(min(samples, len(data)))]
    evolving = data.times is not None and data.domain.ndim > 1
    steps = np.unique(np.linspace(0, data.n_times - 1, times).round().astype(int)) if evolving else np.array([0])
    x, y = data.domain.extent[:2] if data.domain.ndim > 1 and not isinstance(data.domain, Sphere) else (2.0, 1.0)
    height = float(np.clip(2.1 * y / x, 0.8, 4.0))
    figure = Figure(figsize=(2.1 * len(steps) + 1.6, (height + 0.05) * len(rows) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(steps), squeeze=False)
    for i, (line, (name, row)) in enumerate(zip(panels, rows, strict=True)):
        field = data.fields[name]
        shown = [_plane(field, data, row, step if field.evolving else 0) for step in steps]
        low, high = min(part.min() for part in shown), max(part.max() for part in shown)
        if low < 0 < high:
            low, high = -max(-low, high), max(-low, high)
        colors = "RdBu_r" if low < 0 < high else "viridis"
        for axes, part, step in zip(line, shown, steps, strict=True):
            picture = axes.imshow(part.T, origin="lower", cmap=colors, vmin=low, vmax=high, interpolation="nearest", **_extent(data, field))
            axes.tick_params(labelsize=6, length=2)
            if axes is not line[0] or data.domain.ndim > 1:
                axes.set_xticks([])
                axes.set_yticks([])
            if i == 0 and data.times is not None and data.domain.ndim > 1:
                axes.set_title(f"t = {data.times[step]:.4g}", fontsize=9)
        line[0].set_ylabel(f"{name.replace('_', ' ')}\nsample {row}", fontsize=8)
        bar = figure.colorbar(picture, ax=list(line), fraction=0.05, pad=0.01, aspect=15)
        bar.ax.tick_params(labelsize=7, length=2)
    if data.domain.ndim == 1 and data.times is not None:
        panels[-1][0].set_xlabel("time", fontsize=8)
    _save(figure, path)


def _save(figure, path: str | os.PathLike) -> None:
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        from opkernels.datasets.store import cannot_write

        raise cannot_write(Path(path), error) from error


def draw_particles(data: ParticleTrajectories, path: str | os.PathLike, *, samples: int = 3, times: int = 5) -> None:
    """Draw the first simulations at some times, colored by speed, one row each; one-dimensional ones as velocity over place.

    Parameters
    ----------
    data : ParticleTrajectories
    path : path
        PNG (or PDF, SVG) to write.
    samples, times : int
        Rows and columns.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = list(data[:samples])
    steps = np.unique(np.linspace(0, len(data.times) - 1, times).round().astype(int))
    x, y = data.domain.extent[:2] if data.domain.ndim > 1 else (2.0, 1.0)
    figure = Figure(figsize=(2.1 * len(steps), (float(np.clip(2.1 * y / x, 0.8, 4.0)) + 0.4) * len(runs)), layout="constrained")
    FigureCanvasAgg(figure)
    for line, run in zip(figure.subplots(len(runs), len(steps), squeeze=False, sharex=True, sharey=True), runs, strict=True):
        fastest = float(run.velocities.norm(dim=-1).max())
        for axes, step in zip(line, steps.tolist(), strict=True):
            place, v = run.particles.replace(positions=run.positions[step], densities=None).wrapped(), run.velocities[step]
            up = v[:, 0] if data.domain.ndim == 1 else place[:, 1]
            axes.scatter(place[:, 0], up, c=v.norm(dim=1), s=2, vmin=0, vmax=fastest, cmap="viridis")
            if run.walls is not None:
                axes.scatter(run.walls[:, 0], run.walls[:, 1], c="0.7", s=1)
            if data.domain.ndim > 1:
                axes.set_aspect("equal")
            axes.set_title(f"t = {data.times[step]:.4g}", fontsize=8)
            axes.tick_params(labelsize=6, length=2)
    _save(figure, path)


def _plane(field: Field, data: Trajectories, row: int, step: int) -> np.ndarray:
    """Return two dimensions of a sample to look at, the first to the right."""
    if data.domain.ndim == 1:
        values = field[row]
        return values if field.evolving else np.stack([values, values])
    values = field[row, step] if field.evolving else field[row]
    while values.ndim > 2:
        values = values[..., values.shape[-1] // 2]
    return values[::-1].T if isinstance(data.domain, Sphere) else values  # rows run southward


def _extent(data: Trajectories, field: Field) -> dict:
    axes = list(data.domain.axes)
    axes = axes[::-1] if isinstance(data.domain, Sphere) else axes
    if len(axes) > 1:
        return {"extent": (axes[0].lower, axes[0].upper, axes[1].lower, axes[1].upper)}
    span = (data.times[0], data.times[-1]) if field.evolving and data.times is not None else (0.0, 1.0)
    return {"extent": (*span, axes[0].lower, axes[0].upper), "aspect": "auto"}


def run(arguments) -> None:
    """Run ``opkernels inspect``."""
    print(describe(arguments.file))
    if arguments.picture:
        if holds_particles(arguments.file):
            draw_particles(open_particles(arguments.file), arguments.picture)
        else:
            draw(open_trajectories(arguments.file), arguments.picture)
        print(f"picture in {arguments.picture}")
