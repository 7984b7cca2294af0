"""The configuration of a resolution-transfer table: its rows, its models, and the cells they make."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opkernels.configuration import bounded, build, override, read_yaml, refuse, show
from opkernels.training.config import Config, Data, Training, read_config

__all__ = ["Cell", "Row", "TransferConfig", "read_transfer_config", "transfer_cells"]


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
    coverage: float | None = bounded(None, above=0.0)


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
        rows[name] = _read_row(f"datasets.{name}", row, mistakes)
    for name, model in config.models.items():
        _check_model(f"models.{name}", model, mistakes)
    for part, named in (("datasets", config.datasets), ("models", config.models)):
        _check_names(part, list(named), mistakes)
    _check_seeds("training", config.training, mistakes)
    if config.coverage is not None and config.coverage >= 1:
        mistakes.append(f"coverage: got {show(config.coverage)}; give less than 1")
    refuse(where, mistakes)
    named = "transfer" if isinstance(source, Mapping) else Path(source).stem
    config = dataclasses.replace(config, datasets=rows, run_dir=config.run_dir or str(Path("runs") / named))
    for _ in transfer_cells(config):  # every cell is a configuration of its own, and checked as one
        pass
    return config


def _read_row(where: str, raw, mistakes: list[str]) -> Row | None:
    row = build(Row, raw, mistakes, where=where)
    if row is None:
        return None
    if not row.resolutions:
        mistakes.append(f"{where}.resolutions: is missing; say where the models are asked")
    training = build(Training, row.training, mistakes, where=f"{where}.training")
    if training is None or "seeds" not in row.training:
        return row
    _check_seeds(f"{where}.training", training, mistakes)
    return dataclasses.replace(row, training=row.training | {"seeds": list(training.seeds)})  # of one, too, a list


def _check_seeds(where: str, training: Training, mistakes: list[str]) -> None:
    if not training.seeds:
        mistakes.append(f"{where}.seeds: is empty; give at least one")
    if len(set(training.seeds)) < len(training.seeds):
        mistakes.append(f"{where}.seeds: got {show(list(training.seeds))}; give every seed once")


def _check_model(where: str, model, mistakes: list[str]) -> None:
    if not isinstance(model, Mapping | None):
        mistakes.append(f"{where}: got {show(model)}; give the arguments of the model")
        return
    own = (model or {}).get("training")
    if not isinstance(own, Mapping | None):
        mistakes.append(f"{where}.training: got {show(own)}; give a mapping, such as {{lr: 1e-3}}")
    elif own and "seeds" in own:
        mistakes.append(f"{where}.training.seeds: seeds are those of a whole row; give them in training, or in the training of a dataset")


def _check_names(part: str, names: list, mistakes: list[str]) -> None:
    """Names become those of files and folders."""
    if not names:
        mistakes.append(f"{part}: is empty; give at least one")
    files: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip(". "):
            mistakes.append(f"{part}: got the name {show(name)}; give a text with letters or digits, in quotes where it is a number")
        elif (before := files.setdefault(_file_name(name), name)) != name:
            mistakes.append(f"{part}: {before!r} and {name!r} would have the same files; rename one")


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
