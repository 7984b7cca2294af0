"""The resolution-transfer table: models x datasets x seeds, trained at one resolution, asked at others.

Every cell is one model, one dataset and one seed, trained with the same budget (epochs, or CPU time) and evaluated by
`opkernels.evaluate` at every resolution of the dataset's row. A finished cell is one JSON file in ``run_dir/cells``, so that
a killed table goes on where it stopped and a new row costs only its own cells. A model that refuses a dataset (a domain it is
not made for, say) leaves its reason in place of numbers, and is asked again by the next call.

With a budget in CPU minutes, the time of a few training steps is measured first and the number of epochs follows; a
learning-rate schedule then ends where the budget does. What was really spent is in the cell. Where a GPU computes, seconds are those
of the clock.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opkernels.configuration import bounded, build, override, read_yaml, refuse, show
from opkernels.storage import write_text
from opkernels.training.config import Config, Data, Training, read_config

if TYPE_CHECKING:
    import numpy as np
    import xarray

    from opkernels.datasets.trajectories import Trajectories
    from opkernels.surrogate import Surrogate

_TRIAL_SECONDS = 1.5  # CPU time after which the speed of the training steps is known well enough

__all__ = ["Cell", "TransferConfig", "read_transfer_config", "transfer", "transfer_cells"]


@dataclass(frozen=True)
class Row:
    """A dataset of the table: where it comes from, and where its models are asked.

    Parameters
    ----------
    data : Data
        As the section `data` of a training configuration; `resolution` is what the models are trained at.
    resolutions : tuple
        Where they are evaluated, each one number per axis or one for all.
    test : tuple of str
        Datasets to evaluate on; by default the samples of `data` put aside for the test. Of several, a resolution is read
        from the coarsest that holds it.
    steps : int, optional
        Length of the rollout in frames; by default as long as the data.
    training : dict
        What this row trains with, over the common section `training`; also its own `seeds`.
    """

    data: Data = field(default_factory=Data)
    resolutions: tuple[int | tuple[int, ...], ...] = bounded((), at_least=2)
    test: tuple[str, ...] = ()
    steps: int | None = bounded(None, at_least=1)
    training: dict = field(default_factory=dict)


@dataclass(frozen=True)
class TransferConfig:
    """All of a table, as `read_transfer_config` returns it.

    Parameters
    ----------
    run_dir : str
        Where cells, weights, tables and pictures go.
    datasets : dict of Row
        By the names they have in the table.
    models : dict
        Name in the table -> the section `model` of a training configuration; its `name` is by default that in the table,
        and a key `training` changes the common section for this model alone.
    training : Training
        Common to all cells.
    minutes : float, optional
        CPU minutes for training a cell, in place of `training.epochs`.
    coverage : float, optional
        Also bound the rollout's error with this probability, by the validation samples at the training resolution, and count at every
        resolution how many of the test samples keep the bound (`opkernels.evaluation.conformal`).
    """

    run_dir: str = ""
    datasets: dict = field(default_factory=dict)
    models: dict = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    minutes: float | None = bounded(None, above=0.0)
    coverage: float | None = None


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation.

    Parameters
    ----------
    model, dataset : str
        Names in the table.
    seed : int
        Of the first weights and the order of the samples.
    config : Config
        What is trained, with one seed.
    row : Row
        Where it is evaluated.
    minutes : float or None
        The budget.
    coverage : float or None
        Asked of the bound of the error.
    """

    model: str
    dataset: str
    seed: int
    config: Config
    row: Row
    minutes: float | None
    coverage: float | None = None

    @property
    def name(self) -> str:
        """The cell's file, without its ending."""
        return "/".join(_file_name(part) for part in (self.dataset, f"{self.model}-{self.seed}"))

    @property
    def digest(self) -> str:
        """Twelve digits that name all that the result depends on."""
        plain = dataclasses.asdict(self) | {"config": self.config.to_dict()}
        plain["config"].pop("run_dir")
        if self.coverage is None:  # a table without keeps the cells it has
            plain.pop("coverage")
        return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:12]


def read_transfer_config(source: Path | str | Mapping, overrides: Sequence[str] = ()) -> TransferConfig:
    """Read and check the configuration of a table.

    Parameters
    ----------
    source : path or mapping
        A YAML file, or its contents.
    overrides : sequence of str
        ``key=value`` with dots in the key and YAML in the value: ``minutes=1``, ``training.seeds=[0]``.

    Raises
    ------
    ValueError
        With all mistakes, one per line.
    """
    where = "the configuration" if isinstance(source, Mapping) else str(source)
    raw = dict(source) if isinstance(source, Mapping) else read_yaml(Path(source), TransferConfig)
    mistakes: list[str] = []
    for assignment in overrides:
        raw = override(raw, assignment, mistakes)
    config = build(TransferConfig, raw, mistakes)
    refuse(where, mistakes)
    assert config is not None, "without mistakes there is a configuration"
    rows = {}
    for name, row in config.datasets.items():
        rows[name] = build(Row, row, mistakes, where=f"datasets.{name}")
        if rows[name] is not None and not rows[name].resolutions:
            mistakes.append(f"datasets.{name}.resolutions: is missing; say where the models are asked")
    for name, model in config.models.items():
        if not isinstance(model, Mapping | None):
            mistakes.append(f"models.{name}: got {show(model)}; give the arguments of the model")
    mistakes += [f"{part}: is empty; give at least one" for part in ("datasets", "models") if not getattr(config, part)]
    refuse(where, mistakes)
    named = "transfer" if isinstance(source, Mapping) else Path(source).stem
    config = dataclasses.replace(config, datasets=rows, run_dir=config.run_dir or str(Path("runs") / named))
    for _ in transfer_cells(config):  # every cell is a configuration of its own, and checked as one
        pass
    return config


def transfer_cells(config: TransferConfig) -> Iterator[Cell]:
    """Yield the cells of a table: datasets, then seeds, then models, so that whole comparisons come first.

    Raises
    ------
    ValueError
        If what a row or a model says makes no configuration.
    """
    for dataset, row in config.datasets.items():
        for seed in _seeds(config, row):
            for model, arguments in config.models.items():
                yield _cell(config, dataset, row, model, dict(arguments or {}), seed)


def _seeds(config: TransferConfig, row: Row) -> tuple[int, ...]:
    return tuple(row.training.get("seeds", config.training.seeds))


def _cell(config: TransferConfig, dataset: str, row: Row, model: str, arguments: dict, seed: int) -> Cell:
    own = arguments.pop("training", None) or {}
    training = {k: v for k, v in dataclasses.asdict(config.training).items() if v is not None} | row.training | own
    plain = {
        "run_dir": str(Path(config.run_dir) / "runs" / _file_name(dataset) / f"{_file_name(model)}-{seed}"),
        "data": dataclasses.asdict(row.data),
        "model": {"name": model} | arguments,
        "training": training | {"seeds": [seed]},
    }
    try:
        return Cell(model, dataset, seed, read_config(plain), row, config.minutes, config.coverage)
    except ValueError as error:
        told = str(error).removeprefix("the configuration has ").split(": ", 1)[-1]
        raise ValueError(f"{model} on {dataset}: {told}") from error


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def transfer(
    config: Path | str | Mapping | TransferConfig, overrides: Sequence[str] = (), *, workers: int = 1, quiet: bool = False
) -> xarray.Dataset:
    """Train and evaluate every cell of a table that is not there yet, and return the table.

    Parameters
    ----------
    config : path, mapping or TransferConfig
        See `TransferConfig`.
    overrides : sequence of str
        As for `read_transfer_config`.
    workers : int
        Cells at once, each in a process of one thread.
    quiet : bool
        Print nothing.

    Returns
    -------
    xarray.Dataset
        Dimensions `dataset`, `model`, `resolution`, `seed`. Variables `one_step`, `rollout` (relative L2 errors of the model),
        `upsampled` (the model run at its training resolution, its answer interpolated), `persistence`, `diverged` (share of
        the runs), `coverage` (where asked for: share of the samples within the bound), and without `resolution`: `parameters`,
        `epochs`, `cpu_seconds`, `seconds_per_sample`. What has no number is NaN. `refused` (dataset, model) is why there is none.

    Raises
    ------
    ValueError
        If the configuration is wrong, no model of it can be trained, or a cell in the folder was computed with other settings.
    """
    from opkernels.datasets.workers import run_tasks
    from opkernels.evaluation.transfer_table import collect, write_tables

    base = "."
    if not isinstance(config, TransferConfig):
        base = "." if isinstance(config, Mapping) else str(Path(config).parent)
        config = read_transfer_config(config, overrides)
    cells = list(transfer_cells(config))
    folder = Path(config.run_dir)
    waiting = [i for i, cell in enumerate(cells) if "errors" not in (_finished(folder, cell) or {})]
    if not quiet and len(waiting) < len(cells):
        print(f"{len(cells) - len(waiting)} of {len(cells)} cells are there already")
    _make_data(cells, base)
    _check_coverage(cells, base)
    job = {"config": _plain(config), "base": base}
    for done, i in enumerate(run_tasks("evaluation.transfer:run_cell", job, waiting, min(workers, max(len(waiting), 1))), 1):
        if not quiet:
            print(f"[{done}/{len(waiting)}] {_summary(_finished(folder, cells[i]) or {})}", flush=True)
    seeds = dict.fromkeys(seed for row in config.datasets.values() for seed in _seeds(config, row))
    names = tuple(config.datasets), tuple(config.models), tuple(seeds)
    found = [_finished(folder, cell) or {} for cell in cells]
    if all("refused" in cell for cell in found):
        raise ValueError("no model of the table can be trained: " + "; ".join(dict.fromkeys(cell["refused"] for cell in found)))
    table = collect(names, found)
    write_tables(table, folder)
    return table


def run(arguments) -> None:
    """Run ``opkernels transfer CONFIG``: ``arguments`` has config, overrides, workers, quiet."""
    from opkernels.evaluation.transfer_table import markdown

    config = read_transfer_config(arguments.config, arguments.overrides)
    table = transfer(arguments.config, arguments.overrides, workers=arguments.workers or 1, quiet=arguments.quiet)
    if not arguments.quiet:
        print("\n" + markdown(table))
        print(f"\nwritten to {config.run_dir}: table.md, table.csv, table.nc and pictures")


def _plain(config: TransferConfig) -> dict:
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _finished(folder: Path, cell: Cell) -> dict | None:
    """Return what is known of a cell, or None; refuse one that was computed with other settings."""
    path = folder / "cells" / f"{cell.name}.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        digest = found["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; delete it, and the cell is computed again") from error
    if digest != cell.digest:
        raise ValueError(f"{path} was computed with other settings; delete it, or choose another run_dir")
    return found


def _make_data(cells: Sequence[Cell], base: str) -> None:
    """Generate what is missing once, before several processes ask for it."""
    from opkernels.training.build import open_splits

    for cell in {cell.dataset: cell for cell in cells}.values():
        open_splits(cell.config, base)


def _check_coverage(cells: Sequence[Cell], base: str) -> None:
    """Refuse a coverage that the validation samples of a dataset are too few for, before anything is trained."""
    from opkernels.evaluation.conformal import conformal_rank
    from opkernels.training.build import open_splits

    for cell in {cell.dataset: cell for cell in cells}.values():
        if cell.coverage is None:
            return
        held = open_splits(cell.config, base).validation
        try:
            conformal_rank(0 if held is None else len(held), cell.coverage)
        except ValueError as error:
            raise ValueError(f"{cell.dataset}, whose validation samples calibrate: {error}") from error


def run_cell(job: dict, index: int) -> None:
    """Train and evaluate cell `index` of the table in ``job["config"]`` and write its file."""
    config = read_transfer_config(job["config"])
    cell = list(transfer_cells(config))[index]
    found = compute(cell, Path(job["base"]))
    write_text(_made(Path(config.run_dir) / "cells" / f"{cell.name}.json"), json.dumps(found, indent=1) + "\n")


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def compute(cell: Cell, base: Path) -> dict:
    """Train one cell and evaluate it; return plain data."""
    from opkernels.training.build import open_splits
    from opkernels.training.checkpoint import LAST
    from opkernels.training.commands import train

    config, splits = cell.config, open_splits(cell.config, base)
    if reason := _refusal(cell, splits.train, base):
        return {"digest": cell.digest, "dataset": cell.dataset, "model": cell.model, "seed": cell.seed, "refused": reason}
    folder = Path(config.run_dir)
    resumed = (folder / LAST).exists()
    epochs = _epochs(cell, splits.train, base, folder if resumed else None)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=epochs))
    start = _clock(config)
    train(config, base=base, resume=resumed, quiet=True)
    seconds = _clock(config) - start
    surrogate = _load(config, splits.train, base)
    return {
        "digest": cell.digest,
        "dataset": cell.dataset,
        "model": cell.model,
        "seed": cell.seed,
        "training_resolution": "x".join(map(str, splits.train.shape)),
        "parameters": sum(p.numel() for p in surrogate.model.parameters() if p.requires_grad),
        "epochs": epochs,
        "cpu_seconds": None if resumed else seconds,
        "seconds_per_sample": _seconds_per_sample(surrogate, splits.train, config),
        "coverage": cell.coverage,
        "errors": _errors(cell, surrogate, base),
    }


def _refusal(cell: Cell, data: Trajectories, base: Path) -> str | None:
    """Return why the model cannot be trained on these data, in its own words."""
    from opkernels.training.build import build_model

    try:
        _trial(cell, build_model(cell.config, data, cell.seed, base), data.select(slice(0, 1)), 1)
    except ValueError as error:
        return str(error)
    return None


def _load(config: Config, data: Trajectories, base: Path) -> Surrogate:
    from opkernels.surrogate import load
    from opkernels.training.build import build_model
    from opkernels.training.parallel import usable_device

    own = build_model(config, data, config.training.seeds[0], base) if "." in config.model.name else None
    return load(config.run_dir, own, device=usable_device(config.training.device))


def _epochs(cell: Cell, data: Trajectories, base: Path, begun: Path | None) -> int:
    """Return the epochs that fit the budget: those of the run that was begun, or what a few trial steps say."""
    if cell.minutes is None:
        return cell.config.training.epochs
    if begun is not None:
        return read_config(begun / "config.yaml").training.epochs
    from opkernels.training.build import build_model, regime_of

    regime = regime_of(cell.config, data)
    per_sample = data.n_times - regime.offsets(regime.unroll, data.n_times)[-1]
    batch = cell.config.training.batch_size
    few = max(1, math.ceil(4 * batch / per_sample))
    model = build_model(cell.config, data, cell.seed, base)
    trial = data.select(slice(0, min(few, len(data))))
    _trial(cell, model, trial, 1)  # compiles, plans and allocates what the first steps alone pay for
    epochs, took = 1, 0.0
    while took < _TRIAL_SECONDS:
        epochs *= 2
        took = _trial(cell, model, trial, epochs)
    steps = epochs * math.ceil(len(trial) * per_sample / batch)
    per_epoch = took / steps * math.ceil(len(data) * per_sample / batch)
    return max(1, round(60 * cell.minutes / per_epoch))


def _trial(cell: Cell, model, data: Trajectories, epochs: int) -> float:
    """Return the seconds of so many epochs on a copy of the model."""
    from opkernels.training.build import regime_of
    from opkernels.training.loop import fit

    t = cell.config.training
    start = _clock(cell.config)
    fit(
        copy.deepcopy(model),
        data,
        validation=0.0,
        inputs=cell.config.data.inputs,
        outputs=cell.config.data.outputs,
        parameters=cell.config.data.parameters,
        epochs=epochs,
        batch_size=t.batch_size,
        lr=t.lr,
        loss=t.loss,
        regime=regime_of(cell.config, data),
        precision=t.precision,
        device=t.device,
        quiet=True,
    )
    return _clock(cell.config) - start


def _clock(config: Config) -> float:
    """Return seconds of CPU time; where a GPU computes, whose work the CPU need not wait for, seconds of the clock."""
    from opkernels.training.parallel import usable_device

    return time.process_time() if usable_device(config.training.device).type == "cpu" else time.perf_counter()


def _seconds_per_sample(surrogate: Surrogate, data: Trajectories, config: Config) -> float:
    """Return the seconds of one prediction at the training resolution, the median of five batches of up to eight."""
    x = data.read(slice(0, min(8, len(data))), range(surrogate.window), fields=surrogate.inputs).flatten(1, 2)
    p = {name: data.parameters[name][: len(x)] for name in surrogate.parameter_names} or None
    took = []
    for _ in range(6):
        start = _clock(config)
        surrogate.predict(x, parameters=p)  # comes back to the CPU, and so is complete
        took.append((_clock(config) - start) / len(x))
    return sorted(took[1:])[2]


def _errors(cell: Cell, surrogate: Surrogate, base: Path) -> dict[str, dict[str, float | str | None]]:
    from opkernels.evaluation.evaluate import evaluate, parse_resolution

    found = {}
    sources = _truths(cell, base)
    covered = _bound(cell, surrogate, base)
    for resolution in cell.row.resolutions:
        shape = parse_resolution(resolution, surrogate.domain.ndim)
        data = next((d for d in sources if all(n >= m for n, m in zip(d.shape, shape, strict=True))), sources[-1])
        try:
            errors = evaluate(surrogate, data, [shape], steps=cell.row.steps)
            numbers = _numbers(errors) | covered(errors)
        except ValueError as error:
            numbers = {"refused": str(error)}
        found["x".join(map(str, shape))] = numbers
    return found


def _bound(cell: Cell, surrogate: Surrogate, base: Path) -> Callable[[xarray.Dataset], dict[str, float]]:
    """Return what counts the samples that keep the error bound of the validation samples; nothing where none was asked for."""
    import torch

    from opkernels.evaluation.conformal import conformal_quantile
    from opkernels.evaluation.evaluate import evaluate
    from opkernels.training.build import open_splits

    asked, held = cell.coverage, open_splits(cell.config, base).validation
    if asked is None or held is None:  # too few were refused before the training
        return lambda errors: {}
    known = _samples(evaluate(surrogate, held, [held.shape], steps=cell.row.steps, one_step=False))

    def count(errors: xarray.Dataset) -> dict[str, float]:
        scores = _samples(errors)
        n = scores.shape[0]
        if n > len(known):
            raise ValueError(f"the bound is calibrated for {len(known)} frames, but the test data hold {n}; give the row fewer steps")
        bound = conformal_quantile(torch.tensor(known[:n].mean(0)), asked)
        return {"coverage": float((scores.mean(0) <= float(bound)).mean())}

    return count


def _samples(errors: xarray.Dataset) -> np.ndarray:
    """Return the model's errors (time, sample) at the first resolution."""
    return errors.rel_l2_sample.sel(predictor="model").isel(resolution=0).values


def _truths(cell: Cell, base: Path) -> list[Trajectories]:
    """Return the datasets to evaluate on, the coarsest first."""
    from opkernels.datasets.trajectories import open_trajectories
    from opkernels.training.build import open_splits

    if not cell.row.test:
        stored = dataclasses.replace(cell.config, data=dataclasses.replace(cell.config.data, resolution=None))
        test = open_splits(stored, base).test
        if test is None:
            raise ValueError(f"{cell.dataset} puts no samples aside for the test; give data.split.test, or the row's test: [FILE]")
        return [test]
    paths = (Path(name) for name in cell.row.test)
    return sorted((open_trajectories(p if p.exists() else base / p) for p in paths), key=lambda d: math.prod(d.shape))


def _numbers(errors: xarray.Dataset) -> dict[str, float | None]:
    mean = errors.isel(resolution=0).mean("time", skipna=False)
    values = {
        "one_step": mean.one_step_rel_l2.sel(predictor="model") if "one_step_rel_l2" in mean else mean.rel_l2.sel(predictor="model"),
        "rollout": mean.rel_l2.sel(predictor="model"),
        "upsampled": mean.rel_l2.sel(predictor="upsampled"),
        "persistence": mean.rel_l2.sel(predictor="persistence"),
        "diverged": errors.diverged.isel(resolution=0, time=-1).sel(predictor="model"),
    }
    return {name: float(value) if math.isfinite(float(value)) else None for name, value in values.items()}


def _summary(cell: Mapping) -> str:
    from opkernels.evaluation.tables import percent

    who = f"{cell['model']} on {cell['dataset']}, seed {cell['seed']}"
    if "refused" in cell:
        return f"{who}: refused, {cell['refused']}"
    first = cell["training_resolution"] if cell["training_resolution"] in cell["errors"] else next(iter(cell["errors"]))
    error = cell["errors"][first].get("rollout")
    shown = "diverged" if error is None else f"{percent(error)} % at {first}"
    spent = "" if cell["cpu_seconds"] is None else f", {cell['cpu_seconds']:.0f} s"
    refused = "".join(f"; refused at {n}, {values['refused']}" for n, values in cell["errors"].items() if "refused" in values)
    return f"{who}: {shown}, {cell['epochs']} epochs{spent}{refused}"
