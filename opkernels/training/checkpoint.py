"""Checkpoints of a run: weights, optimizer and progress in one safetensors file with a JSON header.

Nothing else is needed to go on exactly: learning rates are functions of the step, and the order of the
data and all random numbers follow from (seed, epoch, step).

    run/
      config.yaml         the configuration as it was resolved (opkernels train)
      log.csv log.jsonl   one row per epoch
      last.safetensors    the newest checkpoint: weights, optimizer, progress
      best.safetensors    the weights to keep, as a surrogate: those with the smallest validation error,
                        or the last (keep: last, and wherever there are no validation samples)

Every file is written under another name and renamed, so that a kill leaves the old or the new one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from opkernels.storage import read_tensors, write_tensors
from opkernels.surrogate import Surrogate
from opkernels.surrogate.files import describe, model_tensors

__all__ = ["BEST", "LAST", "Progress", "read_checkpoint", "write_checkpoint"]

LAST, BEST = "last.safetensors", "best.safetensors"


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


def write_checkpoint(
    folder: Path, surrogate: Surrogate, optimizer: torch.optim.Optimizer, progress: Progress, settings: Mapping[str, object]
) -> None:
    """Write ``last.safetensors``."""
    header = {"surrogate": describe(surrogate), "progress": dataclasses.asdict(progress), "settings": dict(settings)}
    write_tensors(folder / LAST, model_tensors(surrogate.model) | _optimizer_tensors(optimizer), header)


def read_checkpoint(folder: Path, surrogate: Surrogate, optimizer: torch.optim.Optimizer, settings: Mapping[str, object]) -> Progress:
    """Fill the model and the optimizer from ``last.safetensors`` and return where the run stands.

    Raises
    ------
    ValueError
        If the file is damaged or foreign, or belongs to a run with other settings (naming them).
    """
    path = folder / LAST
    tensors, header = read_tensors(path)
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
    state = surrogate.model.state_dict()
    with torch.no_grad():
        for name, value in model_tensors(surrogate.model).items():
            state[name.removeprefix("model.")].copy_(_matching(tensors, name, value, path))
    _fill_optimizer(optimizer, tensors)
    surrogate.notes |= described.get("notes", {})
    return progress


def _matching(tensors: Mapping[str, Tensor], name: str, like: Tensor, path: Path) -> Tensor:
    if name not in tensors or tensors[name].shape != like.shape:
        raise ValueError(f"{path} does not fit this model: {name} differs; resume with the model it was trained with")
    return tensors[name]


def _short(value) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{number}.{key}": torch.as_tensor(value) for number, entry in state.items() for key, value in entry.items()}


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimizer its tensors back; ``load_state_dict`` moves them to the weights' devices."""
    state = optimizer.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            entries.setdefault(int(number), {})[key] = value
    state["state"] = entries
    optimizer.load_state_dict(state)
