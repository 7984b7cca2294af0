"""A training configuration: YAML to frozen dataclasses, every mistake reported at once.

The dataclasses below are the one source of truth: names, types, ranges, defaults. A value given on
the command line (``training.lr=3e-4``) replaces the file's before anything is checked.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Config", "Data", "Evaluation", "Generation", "Model", "Split", "Training", "read_config"]

_DEPTH = 12  # of lists in lists in a free mapping: deeper is a mistake, or an alias of itself


def _bounded(default, **bounds):
    """Return a field with a default and bounds: above, at_least, at_most, choices."""
    return field(default=default, metadata=bounds)


@dataclass(frozen=True)
class Generation:
    """How to make the data if the file is not there yet: the arguments of `opkernels.generate`."""

    recipe: str = ""
    samples: int | None = _bounded(None, at_least=1)
    resolution: tuple[int, ...] | None = _bounded(None, at_least=2)
    seed: int | None = _bounded(None, at_least=0)
    workers: int | None = _bounded(None, at_least=1)


@dataclass(frozen=True)
class Split:
    """Shares of the samples; what they leave out of 1 is not used."""

    train: float = _bounded(0.8, above=0.0, at_most=1.0)
    validation: float = _bounded(0.1, at_least=0.0, at_most=1.0)
    test: float = _bounded(0.1, at_least=0.0, at_most=1.0)


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
    resolution: tuple[int, ...] | None = _bounded(None, at_least=2)
    samples: int | None = _bounded(None, at_least=1)
    split: Split = field(default_factory=Split)


@dataclass(frozen=True)
class Model:
    """A model of `opkernels.models` by its name, or any module by its dotted path, and its arguments.

    The domain, the numbers of channels and of parameters follow from the data and are not written.
    """

    name: str = "FNO"
    arguments: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How to train: the arguments of `opkernels.fit`, which explains them."""

    epochs: int = _bounded(50, at_least=1)
    batch_size: int = _bounded(16, at_least=1)
    lr: float = _bounded(1e-3, above=0.0)
    weight_decay: float = _bounded(1e-4, at_least=0.0)
    schedule: str = _bounded("cosine", choices=("cosine", "one_cycle", "step", "constant"))
    warmup: float = _bounded(0.05, at_least=0.0, at_most=0.9)
    loss: str = _bounded("rel_l2", choices=("rel_l2", "rel_h1", "mse", "l1"))
    regime: str | None = _bounded(None, choices=("one_step", "direct", "bundled", "unrolled", "pushforward"))
    unroll: int | None = _bounded(None, at_least=1)
    bundle: int | None = _bounded(None, at_least=1)
    stride: int = _bounded(1, at_least=1)
    noise: float = _bounded(0.0, at_least=0.0)
    curriculum: float = _bounded(0.0, at_least=0.0, at_most=1.0)
    target: str | None = _bounded(None, choices=("state", "increment"))
    shifts: bool = False
    precision: str = _bounded("float32", choices=("float32", "float64", "bfloat16", "float16"))
    gradient_clip: float | None = _bounded(1.0, above=0.0)
    patience: int | None = _bounded(None, at_least=1)
    keep: str = _bounded("best", choices=("best", "last"))
    seeds: tuple[int, ...] = _bounded((0,), at_least=0)
    threads: int | None = _bounded(None, at_least=1)
    device: str | None = None
    checkpoint_every: int = _bounded(1, at_least=1)
    log: tuple[str, ...] = _bounded((), choices=("tensorboard", "wandb"))


@dataclass(frozen=True)
class Evaluation:
    """What `opkernels evaluate` shows unless told: resolutions, each one number per axis or one for all."""

    resolutions: tuple[int | tuple[int, ...], ...] = _bounded((), at_least=2)


@dataclass(frozen=True)
class Config:
    """All of a run, as `read_config` returns it.

    Parameters
    ----------
    run_dir : str
        Where the run goes; by default runs/NAME in the current folder, NAME being that of the file.
    data, model, training, evaluation
        The sections.
    """

    run_dir: str = ""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)

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
    raw = dict(source) if isinstance(source, Mapping) else _read_yaml(Path(source))
    mistakes: list[str] = []
    for override in overrides:
        raw = _override(raw, override, mistakes)
    raw = _gather_model(raw, mistakes)
    config = _build(Config, raw, "", mistakes)
    if config is not None:
        _cross_check(config, mistakes)
    model = raw.get("model") or {"arguments": {}}
    name = model.get("name", "FNO") if isinstance(model, Mapping) else None
    if isinstance(name, str):
        from opkernels.training.naming import mistakes_in_model

        mistakes += mistakes_in_model(name, [key for key in model.get("arguments", {}) if isinstance(key, str)])
    if mistakes:
        many = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise ValueError(f"{where} has {many}: {mistakes[0]}" if len(mistakes) == 1 else "\n  ".join([f"{where} has {many}:", *mistakes]))
    return typing.cast(Config, config)


def _cross_check(config: Config, mistakes: list[str]) -> None:
    if not config.data.path and (config.data.generate is None or not config.data.generate.recipe):
        mistakes.append("data: names no dataset; give data.path, or data.generate with a recipe")
    share = sum(dataclasses.astuple(config.data.split))
    if share > 1 + 1e-9:
        mistakes.append(f"data.split: the shares add up to {share:g}; at most 1")
    if not config.training.seeds:
        mistakes.append("training.seeds: is empty; give at least one")


def _read_yaml(path: Path) -> dict:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that refuses a key written twice (the later would win in silence)."""

    def mapping(loader: Loader, node):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ValueError(f"cannot read the configuration {path}: {reason}") from error
    try:
        raw = yaml.load(text, Loader)  # a SafeLoader: plain data only
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise ValueError(f"{path}{line} is not YAML: {getattr(error, 'problem', None) or error}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds a {type(raw).__name__}; a configuration has the sections {', '.join(_names(Config))}")
    return raw


def _override(raw: dict, override: str, mistakes: list[str]) -> dict:
    import yaml

    key, equals, text = override.partition("=")
    if not equals or not key or not all(key.split(".")):
        mistakes.append(f"{override!r}: is not key=value, with dots between the parts of the key")
        return raw
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError):
        mistakes.append(f"{key}: the value {text!r} is not YAML")
        return raw
    return _replaced(raw, key.split("."), value)


def _replaced(raw, keys: list[str], value):
    """Return a copy of the mapping with one nested key replaced; what is no mapping on the way becomes one."""
    raw = dict(raw) if isinstance(raw, Mapping) else {}
    raw[keys[0]] = value if len(keys) == 1 else _replaced(raw.get(keys[0]), keys[1:], value)
    return raw


def _gather_model(raw: dict, mistakes: list[str]) -> dict:
    """Move the model's own arguments, written beside its name, into ``arguments``."""
    model = raw.get("model")
    if not isinstance(model, Mapping):
        return raw if "model" not in raw or not isinstance(model, str) else raw | {"model": {"name": model}}
    for key, value in model.items():
        if not isinstance(key, str):
            mistakes.append(f"model: the key {key!r} is not a text")
        elif not _plain(value):
            mistakes.append(f"model.{key}: got {_show(value)}; give numbers, texts, lists and mappings of them")
    arguments = {key: value for key, value in model.items() if key != "name"}
    return raw | {"model": {"arguments": arguments} | ({"name": model["name"]} if "name" in model else {})}


def _plain(value, depth: int = 0) -> bool:
    if depth > _DEPTH:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(item, depth + 1) for key, item in value.items())
    if isinstance(value, list):
        return all(_plain(item, depth + 1) for item in value)
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _names(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def _build(kind: type, raw, where: str, mistakes: list[str]):
    """Return an instance of the dataclass `kind` from plain data, or None where there are mistakes."""
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        mistakes.append(f"{where}: got {_show(raw)}; expected the keys {', '.join(_names(kind))}")
        return None
    hints, before, values = typing.get_type_hints(kind), len(mistakes), {}
    for key, value in raw.items():
        if key not in hints:
            mistakes.append(f"{_join(where, key)}: is unknown; {_suggest(key, kind, where)}")
            continue
        bounds = next(f.metadata for f in dataclasses.fields(kind) if f.name == key)
        values[key] = _convert(value, hints[key], _join(where, key), bounds, mistakes)
    return kind(**values) if len(mistakes) == before else None


def _join(where: str, key) -> str:
    return f"{where}.{key}" if where else f"{key}"


def _suggest(key, kind: type, where: str) -> str:
    names = _names(kind)
    near = difflib.get_close_matches(str(key), names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    for name, section in (("data", Data), ("training", Training), ("data.split", Split), ("data.generate", Generation)):
        if name != where and str(key) in _names(section):
            return f"{key} belongs under {name}"
    return f"choose one of {', '.join(names)}"


def _convert(value, hint, where: str, bounds: Mapping, mistakes: list[str]):
    """Return `value` as the type `hint` says, or report what is wrong with it."""
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where, mistakes)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        options = [o for o in options if o is not type(None)]
        best = next((o for o in options if (typing.get_origin(o) is tuple) == isinstance(value, (list, tuple))), options[0])
        return _convert(value, best, where, bounds, mistakes)
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        items = value if isinstance(value, (list, tuple)) else [value]
        if value is None or isinstance(value, Mapping):
            mistakes.append(f"{where}: got {_show(value)}; expected a list")
            return ()
        return tuple(_convert(item, element, where, bounds, mistakes) for item in items)
    if hint is dict:
        if isinstance(value, Mapping):
            return dict(value)
        mistakes.append(f"{where}: got {_show(value)}; expected a mapping")
        return {}
    return _scalar(value, hint, where, bounds, mistakes)


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _scalar(value, kind: type, where: str, bounds: Mapping, mistakes: list[str]):
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-3, without a dot, as a text
        try:
            value = float(value)
        except ValueError:
            value = str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        mistakes.append(f"{where}: got {_show(value)}; expected {_WORDS[kind]}")
        return value
    if problem := _out_of_bounds(value, bounds):
        mistakes.append(f"{where}: got {_show(value)}; {problem}")
    return value


def _out_of_bounds(value, bounds: Mapping) -> str:
    choices = bounds.get("choices")
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(choices)}"
    if "above" in bounds and not value > bounds["above"]:
        return f"give more than {bounds['above']:g}"
    if "at_least" in bounds and not value >= bounds["at_least"]:
        return f"give at least {bounds['at_least']:g}"
    if "at_most" in bounds and not value <= bounds["at_most"]:
        return f"give at most {bounds['at_most']:g}"
    return ""


def _show(value) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
