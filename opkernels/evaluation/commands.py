"""The commands ``opkernels certify | evaluate | rollout RUN``."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

from opkernels.configuration import describes_particles
from opkernels.evaluation.report import by
from opkernels.storage import write_atomically, write_text

if TYPE_CHECKING:
    import xarray

    from opkernels.datasets.trajectories import Trajectories
    from opkernels.evaluation.uncertainty import Calibration
    from opkernels.surrogate import Ensemble, Surrogate
    from opkernels.training.config import Config

__all__ = ["run_certify", "run_evaluate", "run_rollout"]

_TRAINED = 1e-3  # trained weights are more nonlinear than fresh ones, and 64 samples resolve less of what they make


def run_certify(arguments: argparse.Namespace) -> int:
    """Run ``opkernels certify RUN``: 0 where the model passed, 1 where not. ``arguments``: run, config, device, tolerance, single."""
    import torch

    from opkernels.evaluation.certify import certify

    surrogate, _ = _load(arguments)[0]
    tolerance = _TRAINED if arguments.tolerance is None else arguments.tolerance
    # As the model sees them: half a standard deviation from the mean. At the mean their weights would not act.
    parameters = torch.full((1, len(surrogate.parameter_names)), 0.5) if surrogate.parameter_names else None
    report = certify(
        surrogate.model,
        surrogate.domain,
        surrogate.in_channels,
        dtype=torch.float32 if arguments.single else torch.float64,
        tolerance=tolerance,
        parameters=parameters,
    )
    print(report.table())
    return 0 if report.passed else 1


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Run ``opkernels evaluate RUN``: ``arguments`` has run, resolution, data, part, samples, steps, coverage, output, config, device."""
    from opkernels.evaluation.evaluate import evaluate, parse_resolution
    from opkernels.evaluation.plots import plot_error_by_resolution, plot_error_by_time, save_figure
    from opkernels.evaluation.tables import coverage_table, error_table
    from opkernels.evaluation.uncertainty import measure_coverage

    runs = _load(arguments)
    surrogate, config = runs[0]
    data, part = _data(config, arguments)
    shapes = arguments.resolution or list(config.evaluation.resolutions) or None
    if shapes is not None:
        shapes = [parse_resolution(shape, data.domain.ndim) for shape in shapes]
    calibration = None if arguments.coverage is None else _calibrated(runs, arguments, part)
    errors = evaluate(surrogate if len(runs) == 1 else [s for s, _ in runs], data, shapes, steps=arguments.steps)
    folder = Path(arguments.output or Path(arguments.run) / "evaluation")
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{type(surrogate.model).__name__} in {arguments.run}, on {part}\n{error_table(errors)}"
    names = ["errors.nc", "errors.txt", "error_by_resolution.png"]
    if calibration is not None and arguments.coverage is not None:
        shown = [str(name) for name in errors.resolution.values]
        found = measure_coverage(_ensemble(runs), calibration, data, shown, coverage=arguments.coverage, steps=arguments.steps)
        text += f"\n\n{coverage_table(found)}"
        _keep(found, folder / "coverage.nc")
        calibration.save(folder)
        names += ["coverage.nc", "calibration.json"]
    print(text)
    _keep(errors, folder / "errors.nc")
    write_text(folder / "errors.txt", text + "\n")
    title = f"{type(surrogate.model).__name__}, {', '.join(surrogate.outputs)}"
    save_figure(plot_error_by_resolution(errors, title=title), folder / "error_by_resolution.png")
    if errors.sizes["time"] > 1:
        save_figure(plot_error_by_time(errors, title=title), folder / "error_by_time.png")
        names.append("error_by_time.png")
    names += _pictures(surrogate, data, [str(name) for name in errors.resolution.values], errors.sizes["time"], folder)
    print(f"\nwritten to {folder}: {', '.join(names)}")


def run_rollout(arguments: argparse.Namespace) -> None:
    """Run ``opkernels rollout RUN``: ``arguments`` has run, steps, resolution, data, part, samples, output, config, device."""
    if describes_particles(Path(arguments.run) / "config.yaml"):
        from opkernels.evaluation import particle_rollout

        particle_rollout.run(Path(arguments.run), arguments)
        return
    from opkernels.domains import Grid
    from opkernels.evaluation.animation import animate
    from opkernels.evaluation.plots import plot_spectra, save_figure
    from opkernels.evaluation.rollout import long_rollout
    from opkernels.evaluation.tables import rollout_summary

    surrogate, config = _load(arguments)[0]
    data, part = _data(config, arguments)
    run = long_rollout(surrogate, data, arguments.steps, resolution=arguments.resolution, samples=arguments.samples or 8, keep=1)
    folder = Path(arguments.output or Path(arguments.run) / "rollout")
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{type(surrogate.model).__name__} in {arguments.run}, on {part}\n{rollout_summary(run)}"
    print(text)
    write_text(folder / "rollout.txt", text + "\n")
    _keep(run, folder / "rollout.nc")
    grid = data.domain.grid(run.prediction.shape[3:])
    nyquist = {by(grid.shape): min(math.pi / h for h in grid.spacing)}
    names = ["rollout.nc", "rollout.txt"]
    for field in surrogate.outputs:
        here = run.sel(field=field)
        curves = {
            f"{label}, {run[name].attrs['time']}": (run.wavenumber.values, here[name].values)
            for label, name in _SPECTRA.items()
            if name in run
        }
        save_figure(plot_spectra(curves, nyquist=nyquist, title=field), folder / f"spectrum_{field}.png")
        frames = {"prediction": here.prediction.values[0], "truth": here.truth.values[0]}
        animate(frames["prediction"], grid, folder / f"{field}.gif", truth=frames["truth"], times=run.time.values, title=field)
        names += [f"spectrum_{field}.png", f"{field}.gif"]
    if isinstance(grid, Grid) and grid.ndim == 3:
        from opkernels.evaluation.volumes import plot_rollout

        save_figure(plot_rollout(run, grid), folder / "volumes.png")
        names.append("volumes.png")
    print(f"\nwritten to {folder}: {', '.join(names)}")


_PARTS = {"train": "the samples it was trained on", "validation": "the validation samples", "test": "the test samples"}
_SPECTRA = {"truth": "spectrum_truth", "prediction": "spectrum"}


def _load(arguments: argparse.Namespace) -> list[tuple[Surrogate, Config]]:
    """Load the surrogate of a run folder, or those of its seeds, on the device asked for."""
    from opkernels.surrogate.ensemble import seed_folders
    from opkernels.training.build import load_run
    from opkernels.training.parallel import usable_device

    folder, device = Path(arguments.run), usable_device(arguments.device)
    if describes_particles(folder / "config.yaml"):
        raise ValueError(f"{folder} holds a learned particle simulation; look at it with opkernels rollout {folder}")
    runs = [load_run(path, arguments.config) for path in seed_folders(folder)]
    return [(surrogate.to(device), config) for surrogate, config in runs]


def _ensemble(runs: list[tuple[Surrogate, Config]]) -> Ensemble:
    from opkernels.surrogate.ensemble import Ensemble

    return Ensemble([surrogate for surrogate, _ in runs])


def _calibrated(runs: list[tuple[Surrogate, Config]], arguments: argparse.Namespace, part: str) -> Calibration:
    """Calibrate on the validation samples at the training resolution; refuse what cannot cover as much as is asked."""
    from opkernels.evaluation.conformal import conformal_rank
    from opkernels.evaluation.uncertainty import calibrate
    from opkernels.training.build import open_splits

    config = runs[0][1]
    held = open_splits(dataclasses.replace(config, data=dataclasses.replace(config.data, resolution=None)), Path(arguments.run)).validation
    if held is None:
        raise ValueError("--coverage calibrates on the validation samples, and the run put none aside; train with data.split.validation")
    if part == _PARTS["validation"]:
        raise ValueError(
            "--coverage calibrates on the validation samples, and cannot be measured on them; choose --part test, or give --data"
        )
    conformal_rank(len(held), arguments.coverage)
    return calibrate(_ensemble(runs), held, steps=arguments.steps)


def _data(config: Config, arguments: argparse.Namespace) -> tuple[Trajectories, str]:
    """Return the samples to evaluate on, as finely as stored, and what to call them."""
    from opkernels.datasets.trajectories import open_trajectories
    from opkernels.training.build import open_splits

    if arguments.samples is not None and arguments.samples < 1:
        raise ValueError(f"got --samples {arguments.samples}; give at least 1")
    if arguments.data:
        data, part = open_trajectories(arguments.data), str(arguments.data)
    else:
        stored = dataclasses.replace(config, data=dataclasses.replace(config.data, resolution=None))
        splits = open_splits(stored, Path(arguments.run))
        part = arguments.part or ("test" if splits.test is not None else "validation" if splits.validation is not None else "train")
        data = getattr(splits, part)
        if data is None:
            raise ValueError(f"the run put no samples aside for {part}; choose another part, or give --data FILE")
        part = _PARTS[part]
    if arguments.samples is not None:
        data = data.select(slice(0, arguments.samples))
    return data, part


def _pictures(surrogate: Surrogate, data: Trajectories, resolutions: list[str], frames: int, folder: Path) -> list[str]:
    """Draw the first sample at the finest resolution, and the spectra at all of them; return the names of the files."""
    from opkernels.domains import Grid
    from opkernels.evaluation.evaluate import last_frames
    from opkernels.evaluation.plots import compare_fields, plot_spectra, save_figure
    from opkernels.metrics import energy_spectrum

    spectra: dict[str, dict] = {name: {} for name in surrogate.outputs}
    nyquist, shown = {}, None
    for resolution in resolutions:
        prediction, truth, grid, lead = last_frames(surrogate, data, resolution, frames)
        nyquist[resolution] = min(math.pi / h for h in grid.spacing)
        if shown is None or truth[0].numel() > shown[0][0].numel():
            shown = truth, prediction, grid, lead
        for c, name in enumerate(surrogate.outputs):
            k, energy = energy_spectrum(prediction[:, c].double(), grid)
            spectra[name][f"model at {resolution}"] = (k.numpy(), energy.mean(0).numpy())
    assert shown is not None
    truth, prediction, grid, lead = shown
    rows = [name + (f", t = {lead:.3g}" if lead else "") for name in surrogate.outputs]
    title = f"{type(surrogate.model).__name__} at {by(grid.shape)}"
    save_figure(compare_fields(truth[0].numpy(), prediction[0].numpy(), grid, rows=rows, title=title), folder / "fields.png")
    names = ["fields.png"]
    if isinstance(grid, Grid) and grid.ndim == 3:
        from opkernels.evaluation.volumes import plot_surfaces

        both = list(zip(truth[0].numpy(), prediction[0].numpy(), strict=True))
        save_figure(plot_surfaces(both, grid, rows=rows, columns=["truth", "prediction"], title=title), folder / "volumes.png")
        names.append("volumes.png")
    for c, name in enumerate(surrogate.outputs):
        k, energy = energy_spectrum(truth[:, c].double(), grid)
        curves = {"truth": (k.numpy(), energy.mean(0).numpy())} | spectra[name]
        save_figure(plot_spectra(curves, nyquist=nyquist, title=rows[c]), folder / f"spectrum_{name}.png")
        names.append(f"spectrum_{name}.png")
    return names


def _keep(dataset: xarray.Dataset, path: Path) -> None:
    write_atomically(path, lambda part: dataset.to_netcdf(part, engine="h5netcdf"))
