"""From a configuration to the data and the model it names.

Only a configuration may name code (``mymodule.MyNet``, ``neuralop.models.UNO``): its author runs it.
Files of weights never do.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from opkernels.datasets.trajectories import Trajectories, open_trajectories
from opkernels.surrogate import Surrogate, load
from opkernels.training.config import Config, read_config
from opkernels.training.naming import find_model
from opkernels.training.prepare import split_samples
from opkernels.training.regimes import Regime

__all__ = ["Splits", "build_model", "load_run", "open_splits", "regime_of"]


@dataclass(frozen=True)
class Splits:
    """The three parts of a dataset; those with a share of 0 are None."""

    train: Trajectories
    validation: Trajectories | None
    test: Trajectories | None


def open_splits(config: Config, base: Path | str = ".") -> Splits:
    """Open (or first generate) the dataset of a configuration, restrict it to the training resolution, and deal it out.

    Parameters
    ----------
    config : Config
        Its section `data` is used.
    base : path
        Folder of the configuration's file: the dataset is looked for in the current folder, then there.

    Raises
    ------
    ValueError
        If the dataset is missing and no recipe is given, or the resolution is finer than stored.
    """
    data = _open(config, Path(base))
    chosen = config.data
    if chosen.samples is not None:
        if chosen.samples > len(data):
            raise ValueError(f"data.samples: got {chosen.samples}, but the dataset holds {len(data)}; lower it")
        data = data.select(slice(0, chosen.samples))
    if chosen.resolution is not None:
        ndim = data.domain.ndim
        shape = chosen.resolution * ndim if len(chosen.resolution) == 1 else chosen.resolution
        data = data.at(*shape)
    parts = split_samples(len(data), (chosen.split.train, chosen.split.validation, chosen.split.test))
    return Splits(*(data.select(rows) if len(rows) else None for rows in parts))  # type: ignore[arg-type]


def _open(config: Config, base: Path) -> Trajectories:
    chosen = config.data
    if chosen.path:
        path = Path(chosen.path)
        found = next((p for p in (path, base / path) if p.exists()), None)
        if found is not None:
            return open_trajectories(found)
        if chosen.generate is None:
            raise ValueError(f"data.path: there is no dataset {path}; make it with opkernels generate, or give data.generate")
    from opkernels.datasets.generation import generate

    recipe = chosen.generate
    assert recipe is not None
    path = Path(chosen.path or f"{Path(recipe.recipe).stem}.nc")
    options = {"samples": recipe.samples, "resolution": recipe.resolution, "seed": recipe.seed, "workers": recipe.workers}
    if not path.exists():
        generate(recipe.recipe, path, **options)
    return open_trajectories(path)


def build_model(config: Config, data: Trajectories, seed: int, base: Path | str = ".") -> nn.Module:
    """Build the configuration's model for the data, its first weights drawn from `seed`.

    Domain, channels, number of parameters and window follow from the data and the training, where the model takes them.

    Raises
    ------
    ValueError
        If the name leads nowhere, or the model does not take the arguments.
    """
    build = find_model(config.model.name, Path(base))
    accepted = inspect.signature(build).parameters
    chosen = config.data
    inputs = chosen.inputs or tuple(data.fields)
    outputs = chosen.outputs or inputs
    regime = regime_of(config, data)
    varying = [name for name, values in data.parameters.items() if np.ptp(values) > 0]
    known = {
        "domain": data.domain,
        "in_channels": regime.window * len(inputs),
        "out_channels": regime.bundle * len(outputs),
        "n_parameters": len(varying if chosen.parameters is None else chosen.parameters),
        "window": regime.window,
    }
    arguments = {name: value for name, value in known.items() if name in accepted} | config.model.arguments
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(**arguments)
    except (TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"model: {config.model.name} does not take these arguments: {reason}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model.name: {config.model.name} makes a {type(model).__name__}; name a torch.nn.Module")
    return model


def regime_of(config: Config, data: Trajectories) -> Regime:
    """Return the regime of a configuration; where it is not named, what the other entries and the data imply."""
    t = config.training
    implied = "direct" if data.n_times == 1 else "unrolled" if (t.unroll or 1) > 1 else "bundled" if (t.bundle or 1) > 1 else "one_step"
    given = {name: value for name, value in (("unroll", t.unroll), ("bundle", t.bundle)) if value is not None}
    return Regime(t.regime or implied, stride=t.stride, noise=t.noise, curriculum=t.curriculum, window=t.window, **given)


def load_run(folder: Path | str, config: Path | str | None = None) -> tuple[Surrogate, Config]:
    """Load the surrogate of a run folder, and the configuration it was trained with.

    Parameters
    ----------
    folder : path
        Made by ``opkernels train``.
    config : path, optional
        The user's own configuration, needed where it names the user's own model: the copy in the
        folder is data, and data never name code.

    Raises
    ------
    ValueError
        If the folder is missing or foreign, its weights are damaged, or its model is the user's own
        and `config` was not given.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}; train one with opkernels train, or check the name")
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not a run folder (it holds no config.yaml); give one made by opkernels train")
    kept = read_config(folder / "config.yaml")
    if "." not in kept.model.name:
        return load(folder), kept
    if config is None:
        raise ValueError(f"the run {folder} holds your own model {kept.model.name}; give the configuration you trained it with as well")
    given = read_config(config)
    base = Path(config).parent
    return load(folder, build_model(given, open_splits(given, base).train, given.training.seeds[0], base)), given
