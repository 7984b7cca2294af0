"""Checkpoints of a run: weights, optimizer and progress in one safetensors file with a JSON header.

Nothing else is needed to go on exactly: learning rates are functions of the step, and the order of the
data and all random numbers follow from (seed, epoch, step).

    run/
      config.yaml         the configuration as it was resolved (opkernels train)
      log.csv log.jsonl   one row per epoch
      last.safetensors    the newest checkpoint: weights, optimizer, progress
      best.safetensors    the weights to keep, as a surrogate: those with the smallest validation error,
                        or the last (keep: last, and wherever there are no validation samples)

Runs whose weights are dealt out over processes have instead of last.safetensors

      last.json           progress, and the folder of the newest checkpoint
      last-00001200/      weights and optimizer after so many steps, from every process its parts

and any number of processes goes on with either kind. Every file is written under another name and renamed, so that a kill leaves
the old or the new one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from opkernels.storage import read_tensors, write_tensors, write_text
from opkernels.surrogate import Surrogate
from opkernels.surrogate.files import describe, model_tensors
from opkernels.training.parallel import Group
from opkernels.training.sharding import load_shards, part_of, save_shards

__all__ = ["BEST", "LAST", "Progress", "holds_checkpoint", "read_checkpoint", "write_checkpoint"]

LAST, BEST, SHARDED = "last.safetensors", "best.safetensors", "last.json"


@dataclass
class Progress:
    """Where a run stands.

    Parameters
    ----------
    epoch, batch, step : int
        Complete epochs, batches done in the present one, optimizer steps in all.
    loss_sum, examples : float, int
        Of the present epoch.
    best, best_epoch : float, int
        Smallest validation error and its epoch (1, 2, ...).
    scaler : dict, optional
        State of the gradient scaler (float16).
    stopped : str
        Why the run ended ("finished", "early stop"); empty while it goes on.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    examples: int = 0
    best: float = math.inf
    best_epoch: int = 0
    scaler: dict | None = None
    stopped: str = ""


def holds_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint to go on from."""
    return (folder / LAST).is_file() or (folder / SHARDED).is_file()


def write_checkpoint(
    folder: Path,
    surrogate: Surrogate,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: Mapping[str, object],
    group: Group,
) -> None:
    """Write the newest checkpoint, and take older ones away; all processes together."""
    header = {"surrogate": describe(surrogate), "progress": dataclasses.asdict(progress), "settings": dict(settings)}
    tensors = model_tensors(surrogate.model) | _optimizer_tensors(optimizer)
    if group.sharded:
        _write_shards(folder, tensors, header, group)
    elif group.rank == 0:
        write_tensors(folder / LAST, tensors, header)
        (folder / SHARDED).unlink(missing_ok=True)
        _clear(folder, keep="")


def _write_shards(folder: Path, tensors: Mapping[str, Tensor], header: dict, group: Group) -> None:
    """Write the parts first, then ``last.json``, which makes them the newest checkpoint."""
    name, newest = f"last-{header['progress']['step']:08d}", folder / SHARDED
    if group.any(group.rank == 0 and not (newest.is_file() and _read_index(newest)["folder"] == name)):
        if group.rank == 0:
            shutil.rmtree(folder / name, ignore_errors=True)  # of a run that was killed here
        group.wait()
        save_shards(folder / name, tensors)
    if group.rank == 0:
        shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
        write_text(newest, json.dumps({"folder": name, "shapes": shapes, "header": header}))
        (folder / LAST).unlink(missing_ok=True)
        _clear(folder, keep=name)


def _clear(folder: Path, keep: str) -> None:
    for old in folder.glob("last-*"):
        if old.name != keep:
            shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(folder: Path, surrogate: Surrogate, optimizer: torch.optim.Optimizer, settings: Mapping[str, object]) -> Progress:
    """Fill the model and the optimizer from the newest checkpoint and return where the run stands.

    Raises
    ------
    ValueError
        If a file is damaged or foreign, or belongs to a run with other settings (naming them).
    """
    path = folder / (SHARDED if (folder / SHARDED).is_file() else LAST)
    shards = _read_index(path) if path.name == SHARDED else None
    tensors, header = read_tensors(path) if shards is None else ({}, shards["header"])
    try:
        progress = Progress(**header["progress"])
        before, described = dict(header["settings"]), dict(header["surrogate"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a checkpoint of a training run; give the run's folder") from error
    now = describe(surrogate)
    for name, old, new in [
        *((key, before.get(key), settings.get(key)) for key in sorted({*before, *settings})),
        *((key, described.get(key), now[key]) for key in sorted(now, key=lambda key: "normalization" in key) if key != "notes"),
    ]:
        if old != new:
            raise ValueError(
                f"{folder} holds a run with another {name} ({_short(old)}, now {_short(new)}); resume it as it was, or take another folder"
            )
    if shards is not None:
        tensors = _read_shards(path, shards, surrogate, optimizer)
    state = surrogate.model.state_dict()
    with torch.no_grad():
        for name, value in model_tensors(surrogate.model).items():
            state[name.removeprefix("model.")].copy_(part_of(_matching(tensors, name, value, path), value))
    _fill_optimizer(optimizer, tensors)
    surrogate.notes |= described.get("notes", {})
    return progress


def _read_index(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
        return {"folder": Path(found["folder"]).name, "shapes": dict(found["shapes"]), "header": dict(found["header"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; put it back, or train again in another folder") from error


def _read_shards(path: Path, index: dict, surrogate: Surrogate, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint of several processes, dealt out as the weights are."""
    weights = _weights(optimizer)
    likes = model_tensors(surrogate.model)
    for name in index["shapes"]:
        if name.startswith("optimizer."):
            likes[name] = weights[int(name.split(".")[1])].detach()
    tensors = {
        name: torch.empty_like(like) if list(like.shape) == index["shapes"].get(name) else torch.zeros(index["shapes"].get(name, ()))
        for name, like in likes.items()
    }
    load_shards(path.with_name(index["folder"]), tensors)
    return tensors


def _matching(tensors: Mapping[str, Tensor], name: str, like: Tensor, path: Path) -> Tensor:
    if name not in tensors or tensors[name].shape != like.shape:
        raise ValueError(f"{path} does not fit this model: {name} differs; resume with the model it was trained with")
    return tensors[name]


def _short(value) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for entry in optimizer.param_groups for weight in entry["params"]]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{number}.{key}": torch.as_tensor(value) for number, entry in state.items() for key, value in entry.items()}


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimizer its tensors back; ``load_state_dict`` moves them to the weights' devices."""
    state = optimizer.state_dict()
    weights = _weights(optimizer)
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            weight = weights[int(number)]
            entries.setdefault(int(number), {})[key] = part_of(value, weight) if value.shape == weight.shape else value
    state["state"] = entries
    optimizer.load_state_dict(state)
