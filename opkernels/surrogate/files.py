"""Save and load a surrogate: weights as safetensors, everything else JSON; no file can make us run code.

A file names its model by a public name of `opkernels.models` and the plain arguments it was built
with. A user's own module has no such name: it is passed to `load`, which only fills in its weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from opkernels.normalization import Normalization
from opkernels.sphere import Space, domain_from_dict
from opkernels.storage import read_tensors, write_tensors, write_text
from opkernels.surrogate.operator import ParameterScaling, Surrogate

__all__ = ["describe", "load", "model_tensors", "restore", "save"]

_PREFIX = "model."
_JSON = "surrogate.json"


def save(surrogate: Surrogate, path: Path | str) -> None:
    """Write a surrogate to one file, or to a folder.

    Parameters
    ----------
    surrogate : Surrogate
        What to store.
    path : path
        ``name.safetensors`` makes one file with the description in its header. Any other name makes
        a folder with the weights (safetensors) and a readable ``surrogate.json``. Either is replaced
        as a whole or not at all.

    Raises
    ------
    ValueError
        If `notes` or the model's arguments hold anything but plain data.
    """
    path = Path(path)
    description, tensors = describe(surrogate), model_tensors(surrogate.model)
    if path.suffix == ".safetensors":
        write_tensors(path, tensors, description)
        return
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file that ends in {path.suffix!r}; name a folder, or a file that ends in .safetensors")
    old = set(path.glob("weights-*.safetensors"))
    number = 1 + max((int(p.stem.split("-")[1]) for p in old if p.stem.split("-")[1].isdigit()), default=0)
    weights = path / f"weights-{number}.safetensors"
    write_tensors(weights, tensors, description)
    write_text(path / _JSON, json.dumps(description | {"weights": weights.name}, indent=1))  # from here on the folder is the new one
    for file in old:
        file.unlink(missing_ok=True)


def load(path: Path | str, model: nn.Module | None = None, *, device: torch.device | str | None = None) -> Surrogate:
    """Read a surrogate written by `save` or left by a training run.

    Parameters
    ----------
    path : path
        The file, the folder, or a run folder (its best weights).
    model : nn.Module, optional
        The user's own module, built as it was for training; needed when the file holds one.
    device : device, optional
        Where the weights go; by default the CPU.

    Raises
    ------
    ValueError
        If nothing is there, the file is a pickle, damaged, of something else, or the weights do not
        fit the model.
    """
    tensors, header = read_tensors(_weights_file(Path(path)))
    surrogate = restore(header.get("surrogate", header), tensors, str(path), model)
    return surrogate if device is None else surrogate.to(device)


def describe(surrogate: Surrogate) -> dict:
    """Return all of a surrogate but the weights, as plain data."""
    description = {
        "format": "opkernels surrogate 1",
        "model": _describe_model(surrogate.model),
        "domain": surrogate.domain.to_dict(),
        "inputs": list(surrogate.inputs),
        "outputs": list(surrogate.outputs),
        "normalization": surrogate.normalization.to_dict(),
        "output_normalization": surrogate.output_normalization.to_dict(),
        "target": surrogate.target,
        "dt": surrogate.dt,
        "bundle": surrogate.bundle,
        "window": surrogate.window,
        "parameters": {key: list(getattr(surrogate.parameters, key)) for key in ("names", "logarithmic", "mean", "std")},
        "training_shape": None if surrogate.training_shape is None else list(surrogate.training_shape),
        "notes": surrogate.notes,
    }
    try:
        return json.loads(json.dumps(description))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the surrogate holds something that is not plain data ({error}); keep numbers, texts and lists in it") from error


def restore(description: Mapping, tensors: Mapping[str, Tensor], path: str, model: nn.Module | None = None) -> Surrogate:
    """Return the surrogate of a description and tensors named ``model.*``."""
    if not str(description.get("format", "")).startswith("opkernels surrogate"):
        raise ValueError(f"{path} does not hold a surrogate; give a file made by opkernels.save, or a run folder")
    try:
        domain = domain_from_dict(description["domain"])
        parts = {
            "inputs": tuple(description["inputs"]),
            "outputs": tuple(description["outputs"]),
            "normalization": Normalization.from_dict(description["normalization"]),
            "output_normalization": Normalization.from_dict(description["output_normalization"]),
            "target": description["target"],
            "dt": description["dt"],
            "bundle": int(description["bundle"]),
            "window": int(description.get("window", 1)),  # older files hold none
            "parameters": ParameterScaling(**{key: tuple(value) for key, value in description["parameters"].items()}),
            "training_shape": None if description["training_shape"] is None else tuple(description["training_shape"]),
            "notes": dict(description["notes"]),
        }
        named = dict(description["model"])
        name, arguments = str(named["name"]), named["arguments"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} lacks a part of its description ({error}); it was not written by this package") from error
    if model is None:
        model = _build(name, arguments, domain, path)
    _fill(model, {key[len(_PREFIX) :]: t for key, t in tensors.items() if key.startswith(_PREFIX)}, path)
    return Surrogate(model, domain, **parts)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model's state, named ``model.*`` (what some modules add beside tensors is left out)."""
    return {_PREFIX + name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"there is no file or folder {path}; check the name")
    if (path / _JSON).is_file():
        try:
            return path / Path(json.loads((path / _JSON).read_text())["weights"]).name
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path / _JSON} is damaged; save the surrogate again") from error
    for name in ("best.safetensors", "last.safetensors"):
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{path} holds neither a surrogate nor a run; give a folder written by opkernels.save or opkernels train")


def _describe_model(model: nn.Module) -> dict:
    from opkernels import models

    name = type(model).__name__
    if name in models.__all__ and getattr(models, name) is type(model):
        return {"name": name, "arguments": _plain(model.arguments)}
    return {"name": f"{type(model).__module__}.{name}", "arguments": None}


def _plain(value):
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _build(name: str, arguments, domain: Space, path: str) -> nn.Module:
    from opkernels import models

    if arguments is None:
        raise ValueError(f"{path} holds weights of {name}, which is not a model of opkernels; build it and call load(path, model=...)")
    if name not in models.__all__ or not isinstance(arguments, dict):
        raise ValueError(f"{path} asks for the model {name!r}; opkernels has {', '.join(models.__all__)}")
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn and overwritten
            return getattr(models, name)(domain, **arguments)
    except (TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        raise ValueError(f"{path} asks for {name} with arguments it does not take ({error}); it was written by another version") from error


def _fill(model: nn.Module, tensors: dict[str, Tensor], path: str) -> None:
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    wrong = sorted(set(own) ^ set(tensors)) or [name for name in own if own[name].shape != tensors[name].shape]
    if wrong:
        raise ValueError(f"the weights in {path} do not fit {type(model).__name__}: {wrong[0]} differs; build it as it was for training")
    kinds = {name: tensor.dtype for name, tensor in tensors.items()}
    if any(own[name].dtype != kind for name, kind in kinds.items()):
        floating = next((kind for kind in kinds.values() if kind.is_floating_point), None)
        model.to(floating)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if isinstance(value, Tensor):
                value.copy_(tensors[name])
