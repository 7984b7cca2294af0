"""The resolution-transfer table: models x datasets x seeds, trained at one resolution, asked at others.

Every cell is one model, one dataset and one seed, trained with the same budget (epochs, or CPU time) and evaluated by
`opkernels.evaluate` at every resolution of the dataset's row. A finished cell is one JSON file in ``run_dir/cells``, so that
a killed table goes on where it stopped and a new row costs only its own cells. A model that refuses a dataset (a domain it is
not made for, say), or whose training fails (its loss is not finite, say), leaves the reason in place of numbers, and is asked again by
the next call. Several processes may work on one table: each takes the cells that no other is at.

A cell knows its settings and the data it was computed from (`data_mark`), and so do the weights of one that was cut off, in
``run_dir/runs``: weights of other settings or data are removed, never gone on with.

With a budget in CPU minutes, the time of a few training steps is measured first and the number of epochs follows; a
learning-rate schedule then ends where the budget does. What was really spent is in the cell. Where a GPU computes, seconds are those
of the clock.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opkernels.evaluation.transfer_config import Cell, TransferConfig, read_transfer_config, transfer_cells
from opkernels.storage import locked, write_text
from opkernels.training.config import Config, Split, read_config

if TYPE_CHECKING:
    import numpy as np
    import xarray

    from opkernels.datasets.trajectories import Trajectories
    from opkernels.surrogate import Surrogate

_TRIAL_SECONDS = 1.5  # CPU time after which the speed of the training steps is known well enough
_TRIAL_RATE = 1e-9  # of learning: a trial takes as long, and does not diverge
_NOTED = "cell.json"  # in the folder of a run: what it is trained for, and the seconds spent
_NOTED_EVERY = 1.0  # seconds
# What a model raises that does not take its input or memory; a full disk stops the table
_FAILURES = (ValueError, RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)

__all__ = ["Cell", "TransferConfig", "read_transfer_config", "transfer", "transfer_cells"]


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
        If the configuration is wrong, a dataset cannot answer what its row asks (told before anything is trained), no model
        can be trained, or a cell in the folder was computed with other settings or from other data.
    """
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
    _check_rows(cells, base)
    _check_same_data(folder, cells, base)
    _run_cells(config, cells, waiting, base, workers, quiet)
    names = tuple(config.datasets), tuple(config.models), tuple(dict.fromkeys(cell.seed for cell in cells))
    found = [_finished(folder, cell) or {} for cell in cells]
    if not any("errors" in cell for cell in found):
        told = dict.fromkeys(str(cell.get("refused") or cell.get("failed")) for cell in found)
        raise ValueError("no model of the table can be trained: " + "; ".join(told))
    table = collect(names, found)
    write_tables(table, folder)
    return table


def _run_cells(config: TransferConfig, cells: Sequence[Cell], waiting: Sequence[int], base: str, workers: int, quiet: bool) -> None:
    """Compute the cells of these numbers; those that another process is at come last, and are waited for."""
    from opkernels.datasets.workers import run_tasks

    folder, done, todo = Path(config.run_dir), 0, waiting
    for wait in (False, True):
        job = {"config": _plain(config), "base": base, "wait": wait}
        for i in run_tasks("evaluation.transfer:run_cell", job, todo, min(workers, max(len(todo), 1))):
            found = _finished(folder, cells[i])
            done += found is not None
            told = f"{_who(vars(cells[i]))}: another process is at it" if found is None else _summary(found)
            if not quiet:
                print(f"[{done}/{len(waiting)}] {told}", flush=True)
        todo = [i for i in waiting if _finished(folder, cells[i]) is None]


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
        raise ValueError(
            f"{path} was computed with other settings; delete this file, and the cell is trained anew, or choose another run_dir"
        )
    return found


def data_mark(cell: Cell, base: Path | str) -> str:
    """Return eight digits that name the data of a cell's row: all that is small, and the first and last frames; a copy has the same."""
    mark = 0
    for data in (_all_data(cell, base), *(_truths(cell, base) if cell.row.test else ())):
        small = (list(data.fields), data.shape, len(data), repr(data.domain))
        numbers = [*data.parameters.values(), *([] if data.times is None else [data.times])]
        numbers.append(data.read([0, len(data) - 1], [0, data.n_times - 1]).numpy())
        for part in (repr(small).encode(), *(values.tobytes() for values in numbers)):
            mark = zlib.crc32(part, mark)
    return f"{mark:08x}"


def _all_data(cell: Cell, base: Path | str) -> Trajectories:
    """Return all samples of a row's dataset, as stored."""
    from opkernels.training.build import open_splits

    whole = dataclasses.replace(cell.config.data, resolution=None, samples=None, split=Split(1.0, 0.0, 0.0))
    return open_splits(dataclasses.replace(cell.config, data=whole), base).train


def _check_same_data(folder: Path, cells: Sequence[Cell], base: str) -> None:
    """Refuse cells that were computed from other data than there are now under the same name."""
    marks = {cell.dataset: data_mark(cell, base) for cell in {cell.dataset: cell for cell in cells}.values()}
    for cell in cells:
        if (_finished(folder, cell) or {}).get("data", marks[cell.dataset]) != marks[cell.dataset]:  # the first cells had no mark
            path = folder / "cells" / f"{cell.name}.json"
            raise ValueError(
                f"{path} was computed from other data than {cell.dataset} now has; delete the folder {path.parent}, and its cells are "
                "trained anew, or choose another run_dir"
            )


def _make_data(cells: Sequence[Cell], base: str) -> None:
    """Generate what is missing once, before several processes ask for it."""
    from opkernels.training.build import open_splits

    for cell in {cell.dataset: cell for cell in cells}.values():
        with _naming(cell.dataset):
            open_splits(cell.config, base)


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Let a refusal begin with what it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def _check_rows(cells: Sequence[Cell], base: str) -> None:
    """Refuse, before anything is trained, what a dataset cannot answer: resolutions, lengths, and a coverage of too few samples."""
    for cell in {(cell.dataset, cell.model): cell for cell in cells}.values():
        with _naming(cell.dataset):
            _check_row(cell, base)


def _check_row(cell: Cell, base: str) -> None:
    from opkernels.evaluation.conformal import conformal_rank
    from opkernels.evaluation.evaluate import parse_resolution
    from opkernels.training.build import open_splits

    splits, sources = open_splits(cell.config, base), _truths(cell, base)
    domain = splits.train.domain
    for data in sources:
        if data.domain != domain:
            raise ValueError(f"the test data live on another domain than the training data: {data}; give data of one domain")
    for resolution in cell.row.resolutions:
        shape = parse_resolution(resolution, domain.ndim)
        _source(sources, shape).at(*shape)
    held = splits.validation
    if cell.coverage is not None:
        with _naming("the validation samples calibrate"):
            conformal_rank(0 if held is None else len(held), cell.coverage)
    frames = [_frames(cell, splits.train, data) for data in sources]
    known = None if cell.coverage is None or held is None else _frames(cell, splits.train, held)
    if known is not None and (n := max(n or 0 for n in frames)) > known:
        raise ValueError(f"the validation samples, which calibrate, hold {known} frames to predict, the test data {n}; give steps: {known}")


def _frames(cell: Cell, train: Trajectories, data: Trajectories) -> int | None:
    """Return how many frames a rollout on these data predicts; None where the model's settings refuse the training data."""
    from opkernels.evaluation.evaluate import stored_steps
    from opkernels.training.build import regime_of

    try:
        regime = regime_of(cell.config, train)
        regime.offsets(regime.unroll, train.n_times)
    except ValueError:  # the model's own matter, and the reason in its cell
        return None
    dt = None
    if regime.kind != "direct" and train.times is not None:
        dt = regime.stride * float(train.times[-1] - train.times[0]) / (train.n_times - 1)
    return len(stored_steps(dt, regime.window, data, cell.row.steps)) - regime.window


def run_cell(job: dict, index: int) -> None:
    """Train and evaluate cell `index` of the table in ``job["config"]`` and write its file.

    One that another process is at is left to it, or with ``job["wait"]`` waited for.
    """
    config = read_transfer_config(job["config"])
    cell = list(transfer_cells(config))[index]
    folder = Path(config.run_dir)
    path = _made(folder / "cells" / f"{cell.name}.json")
    with contextlib.suppress(BlockingIOError), locked(Path(f"{cell.config.run_dir}.lock"), wait=job["wait"]):
        if "errors" not in (_finished(folder, cell) or {}):  # the process that had the lock may have made it
            write_text(path, json.dumps(compute(cell, Path(job["base"])), indent=1) + "\n")


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def compute(cell: Cell, base: Path) -> dict:
    """Train one cell and evaluate it; return plain data.

    Every cell has `digest`, `data`, `dataset`, `model` and `seed`; then either `refused` or `failed`, the reason, or the numbers,
    with `errors` by resolution.
    """
    from opkernels.training.build import open_splits

    known = {"digest": cell.digest, "data": data_mark(cell, base)}
    named = known | {"dataset": cell.dataset, "model": cell.model, "seed": cell.seed}
    train = open_splits(cell.config, base).train
    if reason := _refusal(cell, train, base):
        return named | {"refused": reason}
    try:
        return named | _measure(cell, train, base, known)
    except _FAILURES as error:
        return named | {"failed": _reason(error).split("; the last checkpoint")[0]}  # where it lies is no part of the reason


def _measure(cell: Cell, data: Trajectories, base: Path, known: Mapping) -> dict:
    """Train a cell, on `data`, and evaluate it; `known` is what weights must be of to be gone on with."""
    from opkernels.training.commands import train

    folder = Path(cell.config.run_dir)
    spent = _begun(folder, known)
    epochs = _epochs(cell, data, base, None if spent is None else folder)
    config = dataclasses.replace(cell.config, training=dataclasses.replace(cell.config.training, epochs=epochs))
    with _noted(_made(folder / _NOTED), known, spent or 0.0, config) as seconds:
        train(config, base=base, resume=spent is not None, quiet=True)
    surrogate = _load(config, data, base)
    return {
        "training_resolution": "x".join(map(str, data.shape)),
        "parameters": sum(p.numel() for p in surrogate.model.parameters() if p.requires_grad),
        "epochs": epochs,
        "cpu_seconds": seconds(),
        "seconds_per_sample": _seconds_per_sample(surrogate, data, config),
        "coverage": cell.coverage,
        "errors": _errors(cell, surrogate, base),
    }


def _begun(folder: Path, known: Mapping) -> float | None:
    """Return the seconds that a run has taken so far, or None where none was begun; weights of other settings or data are removed."""
    from opkernels.training.checkpoint import holds_checkpoint

    if not holds_checkpoint(folder):
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads((folder / _NOTED).read_text(encoding="utf-8"))
        if {name: noted[name] for name in known} == known:
            return float(noted["seconds"])
    shutil.rmtree(folder)
    return None


@contextlib.contextmanager
def _noted(path: Path, known: Mapping, before: float, config: Config) -> Iterator[Callable[[], float]]:
    """Note what is trained and the seconds spent on it, `before` and now, over and over: a kill loses the last second at most."""
    start, over = _clock(config), threading.Event()
    taken: list[float] = []

    def seconds() -> float:
        return taken[0] if taken else before + _clock(config) - start

    def note() -> None:
        part = path.with_suffix(".part")  # not write_text: it sets the process's umask for a moment, which is not a thread's to set
        part.write_text(json.dumps({**known, "seconds": seconds()}), encoding="utf-8")
        part.replace(path)

    def keep_noting() -> None:
        while not over.wait(_NOTED_EVERY):
            note()

    note()
    thread = threading.Thread(target=keep_noting, daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        over.set()
        thread.join()
        taken.append(seconds())
        note()


def _refusal(cell: Cell, data: Trajectories, base: Path) -> str | None:
    """Return why the model cannot be trained on these data, in its own words."""
    from opkernels.training.build import build_model

    try:
        _trial(cell, build_model(cell.config, data, cell.seed, base), data.select(slice(0, 1)), 1)
    except _FAILURES as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    """Return a refusal of this package as it is, and the first line of what others raise."""
    told = str(error).splitlines()[:1]
    if isinstance(error, ValueError):
        return str(error) or "ValueError"
    return told[0] if told and isinstance(error, (RuntimeError, TypeError, IndexError)) else ": ".join([type(error).__name__, *told])


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
        lr=_TRIAL_RATE,
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
        try:
            errors = evaluate(surrogate, _source(sources, shape), [shape], steps=cell.row.steps)
            numbers = _numbers(errors) | covered(errors)
        except _FAILURES as error:
            numbers = {"refused": _reason(error)}
        found["x".join(map(str, shape))] = numbers
    return found


def _source(sources: Sequence[Trajectories], shape: tuple[int, ...]) -> Trajectories:
    """Return the coarsest of the datasets that holds a resolution."""
    return next((data for data in sources if all(n >= m for n, m in zip(data.shape, shape, strict=True))), sources[-1])


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
        bound = conformal_quantile(torch.tensor(known[:n].mean(0)), asked)
        return {"coverage": float((scores.mean(0) <= float(bound)).mean())}

    return count


def _samples(errors: xarray.Dataset) -> np.ndarray:
    """Return the model's errors (time, sample) at the first resolution."""
    return errors.rel_l2_sample.sel(predictor="model").isel(resolution=0).values


def _truths(cell: Cell, base: Path | str) -> list[Trajectories]:
    """Return the datasets to evaluate on, the coarsest first."""
    from opkernels.datasets.trajectories import open_trajectories
    from opkernels.training.build import open_splits

    if not cell.row.test:
        stored = dataclasses.replace(cell.config, data=dataclasses.replace(cell.config.data, resolution=None))
        test = open_splits(stored, base).test
        if test is None:
            raise ValueError("no samples are put aside for the test; give data.split.test, or the row's test: [FILE]")
        return [test]
    paths = (Path(name) for name in cell.row.test)
    return sorted((open_trajectories(p if p.exists() else Path(base) / p) for p in paths), key=lambda d: math.prod(d.shape))


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


def _who(cell: Mapping) -> str:
    return f"{cell['model']} on {cell['dataset']}, seed {cell['seed']}"


def _summary(cell: Mapping) -> str:
    from opkernels.evaluation.tables import percent

    for word in ("refused", "failed"):
        if word in cell:
            return f"{_who(cell)}: {word}, {cell[word]}"
    answers = {n: values for n, values in cell["errors"].items() if "refused" not in values}
    first = cell["training_resolution"] if cell["training_resolution"] in answers else next(iter(answers), "")
    error = answers[first].get("rollout") if answers else None
    shown = "no answer" if not answers else "diverged" if error is None else f"{percent(error)} % at {first}"
    spent = "" if cell["cpu_seconds"] is None else f", {cell['cpu_seconds']:.0f} s"
    refused = "".join(f"; refused at {n}, {values['refused']}" for n, values in cell["errors"].items() if "refused" in values)
    return f"{_who(cell)}: {shown}, {cell['epochs']} epochs{spent}{refused}"
