"""The options of training that have good defaults."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from opkernels.configuration import bounded

__all__ = ["PRECISIONS", "Distributed", "Options"]

PRECISIONS = {"float32": None, "float64": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Distributed:
    """What the processes of ``torchrun`` share; one process alone has everything, whatever is asked for.

    Parameters
    ----------
    domain : int
        Processes that share each field, for grids that outgrow a device; their number is a multiple of it, and the others
        share the batch.
    sharded : bool
        Whether weights, gradients and the optimizer's state are dealt out over all processes (FSDP2), for models that outgrow a
        device, or held by each (DDP).
    """

    domain: int = bounded(1, at_least=1)
    sharded: bool = False


@dataclass(frozen=True)
class Options:
    """The less frequent options of `fit`.

    Parameters
    ----------
    weight_decay : float
        Of AdamW.
    schedule : {"cosine", "one_cycle", "step", "constant"}
        See `opkernels.training.schedules.learning_rate`.
    warmup : float
        Share of the steps over which the learning rate rises.
    gradient_clip : float, optional
        Largest norm of the gradient; None for no limit.
    patience : int, optional
        Stop after so many epochs without a smaller validation error.
    target : {"state", "increment"}, optional
        What the model predicts; by default the increment of a step in time, and the state of a direct map.
    shifts : bool
        Shift every batch at random along the periodic axes: right only where the problem does not
        depend on the position.
    keep : {"best", "last"}
        Which weights the surrogate gets, here and on disk: those of the smallest validation error, or
        the last. Without validation samples always the last: training losses of a curriculum rise with
        its length, and those with noise or dropout are no measure.
    checkpoint_every : int
        Epochs between checkpoints.
    log : sequence of str
        "tensorboard", "wandb": where the rows of the log go as well.
    memory : int, optional
        Bytes up to which a dataset is kept in memory; by default a quarter of the machine's.
    distributed : Distributed
        What several processes share.
    """

    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    gradient_clip: float | None = 1.0
    patience: int | None = None
    target: str | None = None
    shifts: bool = False
    keep: str = "best"
    checkpoint_every: int = 1
    log: tuple[str, ...] = ()
    memory: int | None = None
    distributed: Distributed = Distributed()
