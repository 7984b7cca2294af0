"""A training configuration: its sections, and how they are read from YAML and checked.

A value given on the command line (``training.lr=3e-4``) replaces the file's before anything is checked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opkernels.configuration import bounded, build, is_plain, override, read_yaml, refuse, show
from opkernels.training.options import Distributed

__all__ = ["Config", "Data", "Evaluation", "Generation", "Model", "Split", "Training", "read_config"]


@dataclass(frozen=True)
class Generation:
    """How to make the data if the file is not there yet: the arguments of `opkernels.generate`."""

    recipe: str = ""
    samples: int | None = bounded(None, at_least=1)
    resolution: tuple[int, ...] | None = bounded(None, at_least=2)
    seed: int | None = bounded(None, at_least=0)
    workers: int | None = bounded(None, at_least=1)


@dataclass(frozen=True)
class Split:
    """Shares of the samples; what they leave out of 1 is not used."""

    train: float = bounded(0.8, above=0.0, at_most=1.0)
    validation: float = bounded(0.1, at_least=0.0, at_most=1.0)
    test: float = bounded(0.1, at_least=0.0, at_most=1.0)


@dataclass(frozen=True)
class Data:
    """Where the functions come from and which of their fields are used.

    Parameters
    ----------
    path : str
        The dataset, looked for in the current folder and then beside the configuration.
    generate : Generation, optional
        How to make it if it is not there.
    inputs, outputs : tuple of str, optional
        Fields in and out; by default all fields, and the inputs.
    parameters : tuple of str, optional
        Per-sample parameters given to the model; by default those that vary in the training set.
    resolution : tuple of int, optional
        What to train at; by default as stored.
    samples : int, optional
        Use only the first so many.
    split : Split
        Shares for training, validation and test.
    """

    path: str = ""
    generate: Generation | None = None
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    parameters: tuple[str, ...] | None = None
    resolution: tuple[int, ...] | None = bounded(None, at_least=2)
    samples: int | None = bounded(None, at_least=1)
    split: Split = field(default_factory=Split)


@dataclass(frozen=True)
class Model:
    """A model of `opkernels.models` by its name, or any module by its dotted path, and its arguments.

    The domain, the numbers of channels and of parameters follow from the data, the window from the training; they are not written.
    """

    name: str = "FNO"
    arguments: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How to train: the arguments of `opkernels.fit`, which explains them."""

    epochs: int = bounded(50, at_least=1)
    batch_size: int = bounded(16, at_least=1)
    lr: float = bounded(1e-3, above=0.0)
    weight_decay: float = bounded(1e-4, at_least=0.0)
    schedule: str = bounded("cosine", choices=("cosine", "one_cycle", "step", "constant"))
    warmup: float = bounded(0.05, at_least=0.0, at_most=0.9)
    loss: str = bounded("rel_l2", choices=("rel_l2", "rel_h1", "mse", "l1"))
    regime: str | None = bounded(None, choices=("one_step", "direct", "bundled", "unrolled", "pushforward"))
    unroll: int | None = bounded(None, at_least=1)
    bundle: int | None = bounded(None, at_least=1)
    stride: int = bounded(1, at_least=1)
    noise: float = bounded(0.0, at_least=0.0)
    curriculum: float = bounded(0.0, at_least=0.0, at_most=1.0)
    window: int = bounded(1, at_least=1)
    target: str | None = bounded(None, choices=("state", "increment"))
    shifts: bool = False
    precision: str = bounded("float32", choices=("float32", "float64", "bfloat16", "float16"))
    gradient_clip: float | None = bounded(1.0, above=0.0)
    patience: int | None = bounded(None, at_least=1)
    keep: str = bounded("best", choices=("best", "last"))
    seeds: tuple[int, ...] = bounded((0,), at_least=0)
    threads: int | None = bounded(None, at_least=1)
    device: str | None = None
    checkpoint_every: int = bounded(1, at_least=1)
    log: tuple[str, ...] = bounded((), choices=("tensorboard", "wandb"))


@dataclass(frozen=True)
class Evaluation:
    """What `opkernels evaluate` shows unless told: resolutions, each one number per axis or one for all."""

    resolutions: tuple[int | tuple[int, ...], ...] = bounded((), at_least=2)


@dataclass(frozen=True)
class Config:
    """All of a run, as `read_config` returns it.

    Parameters
    ----------
    run_dir : str
        Where the run goes; by default runs/NAME in the current folder, NAME being that of the file.
    data, model, training, evaluation, distributed
        The sections.
    """

    run_dir: str = ""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    distributed: Distributed = field(default_factory=Distributed)

    def to_dict(self) -> dict:
        """Return the configuration as plain data, as one would write it in YAML."""
        plain = json.loads(json.dumps(dataclasses.asdict(self)))
        plain["model"] = {"name": self.model.name} | plain["model"]["arguments"]
        return plain

    def to_yaml(self) -> str:
        """Return the configuration as YAML that `read_config` reads back."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None)

    @property
    def digest(self) -> str:
        """Twelve digits that name this configuration."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def read_config(source: Path | str | Mapping, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration.

    Parameters
    ----------
    source : path or mapping
        A YAML file, or its contents.
    overrides : sequence of str
        ``key=value`` with dots in the key and YAML in the value: ``model.n_modes=[16,16]``.

    Raises
    ------
    ValueError
        With all mistakes, one per line: unknown keys (and what was probably meant), wrong types,
        numbers out of range, unreadable YAML.
    """
    where = "the configuration" if isinstance(source, Mapping) else str(source)
    raw = dict(source) if isinstance(source, Mapping) else read_yaml(Path(source), Config)
    mistakes: list[str] = []
    for assignment in overrides:
        raw = override(raw, assignment, mistakes)
    raw = _gather_model(raw, mistakes)
    config = build(Config, raw, mistakes)
    if config is not None:
        _cross_check(config, mistakes)
    model = raw.get("model") or {"arguments": {}}
    name = model.get("name", "FNO") if isinstance(model, Mapping) else None
    if isinstance(name, str):
        from opkernels.training.naming import mistakes_in_model

        mistakes += mistakes_in_model(name, [key for key in model.get("arguments", {}) if isinstance(key, str)])
    refuse(where, mistakes)
    return typing.cast(Config, config)


def _cross_check(config: Config, mistakes: list[str]) -> None:
    if not config.data.path and (config.data.generate is None or not config.data.generate.recipe):
        mistakes.append("data: names no dataset; give data.path, or data.generate with a recipe")
    share = sum(dataclasses.astuple(config.data.split))
    if share > 1 + 1e-9:
        mistakes.append(f"data.split: the shares add up to {share:g}; at most 1")
    if not config.training.seeds:
        mistakes.append("training.seeds: is empty; give at least one")


def _gather_model(raw: dict, mistakes: list[str]) -> dict:
    """Move the model's own arguments, written beside its name, into ``arguments``."""
    model = raw.get("model")
    if not isinstance(model, Mapping):
        return raw if "model" not in raw or not isinstance(model, str) else raw | {"model": {"name": model}}
    for key, value in model.items():
        if not isinstance(key, str):
            mistakes.append(f"model: the key {key!r} is not a text")
        elif not is_plain(value):
            mistakes.append(f"model.{key}: got {show(value)}; give numbers, texts, lists and mappings of them")
    arguments = {key: value for key, value in model.items() if key != "name"}
    return raw | {"model": {"arguments": arguments} | ({"name": model["name"]} if "name" in model else {})}
