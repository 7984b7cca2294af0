"""`fit`: check everything, prepare it, train, and return a surrogate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from opkernels.datasets.trajectories import Trajectories
from opkernels.losses import Loss, loss_by_name
from opkernels.surrogate import Surrogate
from opkernels.training import parallel
from opkernels.training.checkpoint import holds_checkpoint
from opkernels.training.options import PRECISIONS, Options
from opkernels.training.prepare import prepare
from opkernels.training.regimes import Regime
from opkernels.training.run import Run

__all__ = ["fit"]


def fit(
    model: nn.Module,
    data: Trajectories,
    *,
    validation: Trajectories | float = 0.1,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    parameters: Sequence[str] | None = None,
    epochs: int = 50,
    batch_size: int = 16,
    lr: float = 1e-3,
    loss: str | Loss = "rel_l2",
    regime: str | Regime | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    run_dir: Path | str | None = None,
    resume: bool = False,
    seed: int = 0,
    quiet: bool = False,
    options: Options = Options(),  # noqa: B008 frozen
    on_start: Callable[[], object] | None = None,
) -> Surrogate:
    """Train a model.

    Parameters
    ----------
    model : nn.Module
        A model of `opkernels.models`, or any module that maps (B, window * C_in, *spatial) to
        (B, bundle * C_out, *spatial). Trained in place.
    data : Trajectories
        The samples to train on.
    validation : Trajectories or float
        Samples to choose the best weights by, or the share of `data` put aside for it (0: none).
    inputs, outputs : sequence of str, optional
        Fields in and out; by default all of them, and the inputs.
    parameters : sequence of str, optional
        Per-sample parameters handed to the model; by default, if it takes `n_parameters`, those that vary.
    epochs, batch_size : int
        Passes over the examples, and examples per step (over all processes).
    lr : float
        Largest learning rate of AdamW; 1e-3 is good for FNO at widths of 32, less for wider ones.
    loss : str or callable
        "rel_l2", "rel_h1", "mse", "l1", or ``loss(prediction, truth, grid) -> scalar``. Fields are
        divided by their standard deviations first.
    regime : str or Regime, optional
        See `Regime`; by default "one_step", and "direct" where the data have no times.
    device : device, optional
        By default CUDA where there is one.
    precision : {"float32", "float64", "bfloat16", "float16"}
        The last two by autocast, with weights in float32; "float16" on CUDA only.
    run_dir : path, optional
        Folder for checkpoints and log; None keeps everything in memory.
    resume : bool
        Go on with the run in `run_dir`, if there is one; bit by bit what it would have become.
    seed : int
        Fixes order, noise, shifts and what the model draws while training (dropout), not its first weights.
    quiet : bool
        No progress bar.
    options : Options
        Everything else.
    on_start : callable, optional
        Called by the first process once everything has been checked, before anything is written.

    Returns
    -------
    Surrogate
        With the best weights (by validation error), or the last (``keep="last"``, or without validation). Of a sharded run it
        is read from `run_dir`; a module of the user's own stays dealt out, and is read by ``load(run_dir, model)``.

    Raises
    ------
    ValueError
        If data, fields, domain, options or the folder do not fit, the data are not finite (with the
        sample), or the loss becomes so (with step, sample and likely cause; the last checkpoint stays).
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once a checkpoint is written.
    ConnectionError
        If another process of the run ended, or hangs.

    Examples
    --------
    >>> import opkernels as ok
    >>> domain = ok.Domain.periodic(1.0)
    >>> x = domain.grid(16).coordinates(dtype=torch.float64)[0]
    >>> t = torch.linspace(0, 1, 6, dtype=torch.float64)
    >>> wave = torch.sin(2 * torch.pi * (x - t[:, None])) * torch.linspace(1, 2, 10, dtype=torch.float64)[:, None, None]
    >>> data = ok.Trajectories.from_arrays({"u": wave}, domain, times=t)
    >>> model = ok.models.FNO(domain, 1, 1, n_modes=(4,), hidden_channels=8, n_layers=1)
    >>> surrogate = ok.fit(model, data, epochs=2, quiet=True)
    >>> surrogate.rollout(torch.sin(2 * torch.pi * x)[None, None], 3).shape
    torch.Size([1, 3, 1, 16])
    """
    _check_options(epochs, batch_size, lr, precision, seed, options)
    group = parallel.join(device, options.distributed)
    try:
        if precision == "float16" and group.device.type != "cuda":
            raise ValueError('precision="float16" needs a CUDA device; choose "bfloat16" or "float32" here')
        if group.sharded and (precision == "float16" or run_dir is None):
            told = "run_dir, where the weights are put together" if run_dir is None else 'another precision, such as "bfloat16"'
            raise ValueError(f"distributed.sharded deals the weights out over the processes; give {told}")
        folder = _folder(run_dir, resume)
        prepared = prepare(
            model,
            data,
            validation=validation,
            inputs=inputs,
            outputs=outputs,
            parameters=parameters,
            regime=regime,
            target=options.target,
            shifts=options.shifts,
            dtype=torch.float64 if precision == "float64" else torch.float32,
            device=group.device,
            memory=options.memory,
            split=group.split,
        )
        settings = {"batch_size": batch_size, "lr": lr, "loss": loss if isinstance(loss, str) else getattr(loss, "__qualname__", "own")}
        settings |= {"precision": precision, "seed": seed, "epochs": epochs}
        settings |= {f"regime.{name}": value for name, value in vars(prepared.regime).items()}
        settings |= {
            key: getattr(options, key) for key in ("weight_decay", "schedule", "warmup", "gradient_clip", "patience", "shifts", "keep")
        }
        criterion = loss_by_name(loss) if isinstance(loss, str) else loss
        prepared.surrogate.notes |= {"seed": seed, "epochs": epochs, "regime": prepared.regime.kind, "loss": settings["loss"]}
        run = Run(prepared, group, options, criterion, epochs, batch_size, lr, precision, seed, folder, settings)
        with group.together(folder):
            run.begin(resume)
            if folder is not None and group.rank == 0:
                _make(folder)
            if on_start is not None and group.rank == 0:
                on_start()
            surrogate = run.train(quiet)
        del run  # DDP must not outlive the process group: torch can wait for itself for ever when it frees both at once
        return surrogate
    finally:
        group.leave()


def _check_options(epochs: int, batch_size: int, lr: float, precision: str, seed: int, options: Options) -> None:
    shared = ("options.distributed.domain", options.distributed.domain, 1)
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 1), ("seed", seed, 0), shared):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"fit got {name}={value!r}; give a whole number of at least {least}")
    if not lr > 0 or not math.isfinite(lr):
        raise ValueError(f"fit got lr={lr!r}; give a positive number")
    for name, value, choices in (
        ("precision", precision, tuple(PRECISIONS)),
        ("schedule", options.schedule, ("cosine", "one_cycle", "step", "constant")),
        ("keep", options.keep, ("best", "last")),
    ):
        if value not in choices:
            raise ValueError(f"fit got {name}={value!r}; choose one of {', '.join(choices)}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the run's folder {folder} ({error.strerror}); choose another run_dir") from error


def _folder(run_dir: Path | str | None, resume: bool) -> Path | None:
    if run_dir is None:
        if resume:
            raise ValueError("fit got resume=True without run_dir; name the run's folder")
        return None
    folder = Path(run_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the run")
    if holds_checkpoint(folder) and not resume:
        raise ValueError(f"{folder} already holds a run; resume it, or choose another folder")
    return folder
