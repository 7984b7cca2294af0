"""One training run: epochs, optimizer steps, looks at the loss, validation, checkpoints.

One optimizer step is a pure function of (weights, optimizer state, seed, epoch, batch): the order of the
examples, the noise and the shifts are drawn from these numbers alone. So a killed run resumes to the same
bits, and several processes take the steps of one.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from opkernels.losses import Loss, rel_l2
from opkernels.storage import read_tensors, write_tensors
from opkernels.surrogate import Surrogate, load
from opkernels.surrogate.files import describe, model_tensors
from opkernels.training.batches import seed_of
from opkernels.training.checkpoint import BEST, Progress, holds_checkpoint, read_checkpoint, write_checkpoint
from opkernels.training.options import PRECISIONS, Options
from opkernels.training.parallel import Group
from opkernels.training.prepare import Prepared
from opkernels.training.records import Log, open_sinks
from opkernels.training.regimes import Chain, training_loss
from opkernels.training.schedules import learning_rate
from opkernels.training.sharding import whole

__all__ = ["Run"]

_CHECK_EVERY = 16  # steps between looks at the loss on a GPU, where each look waits for it


class Run:
    """The state of one training run."""

    def __init__(
        self,
        prepared: Prepared,
        group: Group,
        options: Options,
        criterion: Loss,
        epochs: int,
        batch_size: int,
        lr: float,
        precision: str,
        seed: int,
        folder: Path | None,
        settings: dict,
    ):
        self.prepared, self.group, self.options, self.criterion = prepared, group, options, criterion
        self.epochs, self.batch_size, self.lr, self.seed = epochs, batch_size, lr, seed
        self.folder, self.settings = folder, settings
        self.surrogate, self.regime = prepared.surrogate, prepared.regime
        self.model = self.surrogate.model
        self.chain = Chain(self.surrogate, prepared.grid)
        self.step = group.wrap(self.chain)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.autocast = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "float16")
        self.optimizer = torch.optim.AdamW(self.weights, lr=lr, weight_decay=options.weight_decay)
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.pending: list[tuple[int, np.ndarray, Tensor, Tensor]] = []  # losses not looked at yet
        self.interrupted = False
        self.keeps_last = options.keep == "last" or prepared.validation is None
        counts = [prepared.train.count(self._offsets(e)) for e in range(epochs)]
        self.total_steps = sum(math.ceil(n / batch_size) for n in counts)

    def begin(self, resume: bool) -> None:
        """Take up the checkpoint in the folder, if that is wanted and there is one."""
        if self.folder and self.group.rank == 0:
            for file in self.folder.glob(".*.tmp"):  # what a killed run was writing
                file.unlink(missing_ok=True)
        if self.folder and resume and holds_checkpoint(self.folder):
            self.progress = read_checkpoint(self.folder, self.surrogate, self.optimizer, self.settings)
            self._check_kept(self.folder)
            if self.progress.scaler:
                self.scaler.load_state_dict(self.progress.scaler)

    def _check_kept(self, folder: Path) -> None:
        """See to it that the weights kept so far are there, and write them again where the checkpoint holds them."""
        now, kept = self.progress, self.surrogate.notes.get("kept_epoch")
        if kept is None or (folder / BEST).is_file():
            return
        if self.keeps_last or (kept == now.epoch and not now.batch):
            self.group.wait()  # the others may not see the file before they have looked
            self._keep_weights()
            return
        raise ValueError(
            f"{folder} has lost {BEST}, the weights of epoch {kept}; put it back, or take another folder "
            f"(the weights of epoch {now.epoch} are in the last checkpoint)"
        )

    def train(self, quiet: bool) -> Surrogate:
        """Train to the end, and return the surrogate with the weights that are to be kept."""
        writes = self.group.rank == 0
        log = Log(self.folder if writes else None, self.progress.epoch, open_sinks(self.options.log, self.folder) if writes else ())
        with _quietly_random(self.group.device), self._interruptible(), _bar(self, log, quiet or not writes) as show:
            while not self.progress.stopped:
                row = self._epoch()
                log.write(row)  # before the checkpoint: a row without one is dropped when the run is resumed
                show(row)
                self._finish_epoch(row)
        log.close()
        self.group.wait()
        if self.group.sharded:
            return self._put_together()
        self._take_weights()
        return self.surrogate

    def _offsets(self, epoch: int) -> list[int]:
        return self.regime.offsets(self.regime.unroll_at(epoch, self.epochs), self.prepared.train.n_times)

    def _epoch(self) -> dict:
        """Go through the examples of one epoch (or what is left of it) and return its row of the log."""
        now, start = self.progress, time.perf_counter()
        offsets = self._offsets(now.epoch)
        unroll = self.regime.unroll_at(now.epoch, self.epochs)
        order = np.random.default_rng((self.seed, now.epoch)).permutation(self.prepared.train.count(offsets))
        parts = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)][now.batch :]
        mine = [part[self.group.share(len(part))] for part in parts]
        self.model.train()
        for part, (samples, example) in zip(parts, self.prepared.train.batches(mine, offsets), strict=True):
            n = len(part)
            self._step(samples, example, unroll, n, self._rate(now.step))
            now.step, now.batch, now.examples = now.step + 1, now.batch + 1, now.examples + n
            if self.group.device.type == "cpu" or len(self.pending) >= _CHECK_EVERY:
                self._look()
                self._stop_if_asked()
        self._look()
        loss = now.loss_sum / max(1, now.examples)
        now.epoch, now.batch, now.loss_sum, now.examples = now.epoch + 1, 0, 0.0, 0
        seconds = round(time.perf_counter() - start, 3)
        row = {"epoch": now.epoch, "step": now.step, "lr": self._rate(now.step - 1), "unroll": unroll, "loss": loss}
        return row | {"validation": self._validate(), "seconds": seconds}

    def _rate(self, step: int) -> float:
        return learning_rate(self.options.schedule, self.lr, step, self.total_steps, self.options.warmup)

    def _step(self, samples: np.ndarray, example: Tensor, unroll: int, n: int, rate: float) -> None:
        """Take one optimizer step on this process's share of a batch of n examples."""
        prepared, now = self.prepared, self.progress
        torch.manual_seed(seed_of(self.seed, 1, now.step, self.group.row))  # for what the model draws, such as dropout
        x, truth = prepared.split(self._shifted(example))
        x = self._noisy(x, n)
        parameters = prepared.parameters_of(samples)
        with torch.autocast(self.group.device.type, self.autocast, enabled=self.autocast is not None):
            value, finite = training_loss(
                self.step, self.regime, unroll, x, truth, parameters, loss=self.criterion, scale=prepared.scale, grid=prepared.grid
            )
        weight = self.group.weight(n)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(value * (weight * self.group.size)).backward()  # gradients are averaged over the processes
        self.pending.append((now.step, samples, (value.detach() * weight * n).to(torch.float64), finite))
        if self.group.device.type == "cpu":
            self._look()  # before the weights are spoiled
        if self.options.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.weights, self.options.gradient_clip)
        for entry in self.optimizer.param_groups:
            entry["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _shifted(self, example: Tensor) -> Tensor:
        if not self.options.shifts:
            return example
        rng = np.random.default_rng((self.seed, 2, self.progress.step))
        axes = [a for a, axis in enumerate(self.prepared.grid.domain.axes) if axis.periodic]
        shifts = [int(rng.integers(example.shape[3 + a])) for a in axes]
        return torch.roll(example, shifts, [3 + a for a in axes])

    def _noisy(self, x: Tensor, n: int) -> Tensor:
        if not self.regime.noise:
            return x
        generator = torch.Generator(x.device).manual_seed(seed_of(self.seed, 3, self.progress.step))
        grid = self.prepared.grid
        noise = torch.randn(n, x.shape[1], *grid.shape, generator=generator, device=x.device, dtype=x.dtype)[self.group.share(n)]
        for a in range(grid.ndim):
            noise = self.group.split.cut(noise, 2 + a, a)
        std = torch.tensor(self.surrogate.normalization.std * self.regime.window, dtype=x.dtype).to(x.device)  # frame by frame
        return x + self.regime.noise * std.reshape(-1, *[1] * (x.ndim - 2)) * noise

    def _look(self) -> None:
        """Add up the losses since the last look; stop at one that is not finite."""
        if not self.pending:
            return
        values = self.group.total(torch.stack([value for _, _, value, _ in self.pending]))
        for (step, samples, _, finite), value in zip(self.pending, values.tolist(), strict=True):
            if not math.isfinite(value):
                bad = samples[~finite.cpu().numpy()]
                where = (
                    f"the prediction for sample {self.prepared.train.number(bad[0])} is not finite"
                    if len(bad)
                    else "the predictions are finite"
                )
                cause = "the learning rate is too large, or a sample is an outlier"
                cause += " (or float16 overflows: try bfloat16)" if self.autocast is torch.float16 else ""
                kept = f"; the last checkpoint in {self.folder} stays" if self.folder else ""
                raise ValueError(f"the loss is not finite at step {step} (epoch {self.progress.epoch + 1}): {where}; likely {cause}{kept}")
            self.progress.loss_sum += value
        self.pending.clear()

    def _validate(self) -> float | None:
        """Relative L2 error over validation chains as long as the regime's, fields divided by their scales; no frame twice."""
        data = self.prepared.validation
        if data is None:
            return None
        offsets = self.regime.offsets(self.regime.unroll, data.n_times)
        every = max(1, offsets[-1] - offsets[self.regime.window - 1])
        count, sums = data.count(offsets, every), torch.zeros(2, dtype=torch.float64, device=self.group.device)
        size = self.batch_size * self.group.rows
        parts = [np.arange(i, min(i + size, count)) for i in range(0, count, size)]
        mine = [part[self.group.share(len(part))] for part in parts]  # equally many for all rows: sharded weights are gathered together
        self.model.eval()
        with torch.no_grad():
            for part, (samples, example) in zip(parts, data.batches(mine, offsets, every), strict=True):
                x, truth = self.prepared.split(example)
                y = self.chain(x, self.prepared.parameters_of(samples, validation=True), self.regime.unroll)
                scale = self.prepared.scale.reshape(-1, *[1] * (y.ndim - 3))
                errors = rel_l2((y / scale).flatten(0, 1), (truth / scale).flatten(0, 1), self.prepared.grid, reduction="none")
                if self.group.weight(len(part)):
                    sums += torch.stack([errors.sum(), torch.ones_like(errors).sum()]).to(torch.float64)
        total, n = self.group.total(sums).tolist()
        return total / n

    def _finish_epoch(self, row: dict) -> None:
        """Keep the weights where they are the best or the last is wanted, write the checkpoint, decide whether to go on."""
        now = self.progress
        judged = row["loss"] if row["validation"] is None else row["validation"]
        if not math.isfinite(judged):
            what = "training loss" if row["validation"] is None else "validation error"
            raise ValueError(f"the {what} is not finite after epoch {now.epoch}; lower lr, or look for outliers in the data")
        if judged < now.best:
            now.best, now.best_epoch = judged, now.epoch
        if now.best_epoch == now.epoch or self.keeps_last:
            measure = "training_loss" if row["validation"] is None else "validation"
            self.surrogate.notes |= {"kept_epoch": now.epoch, measure: judged}
            self._keep_weights()
        if now.epoch >= self.epochs:
            now.stopped = "finished"
        elif self.options.patience is not None and now.epoch - now.best_epoch >= self.options.patience:
            now.stopped = "early stop"
        if now.stopped or now.epoch % self.options.checkpoint_every == 0:
            self._checkpoint()
        self._stop_if_asked()

    def _keep_weights(self) -> None:
        if self.folder is None and self.keeps_last:
            return
        if self.folder is None:
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items() if isinstance(value, Tensor)}
            return
        kept = {}
        for name, value in model_tensors(self.model).items():
            all_of_it = whole(value)
            if self.group.rank == 0:
                kept[name] = all_of_it
        if self.group.rank == 0:
            write_tensors(self.folder / BEST, kept, describe(self.surrogate))

    def _checkpoint(self) -> None:
        self.progress.scaler = self.scaler.state_dict() or None
        if self.folder:
            write_checkpoint(self.folder, self.surrogate, self.optimizer, self.progress, self.settings, self.group)

    def _put_together(self) -> Surrogate:
        """Return the surrogate of the run's files, with whole weights; a module of the user's own stays dealt out."""
        assert self.folder is not None, "fit refuses sharded runs without a folder"
        return load(self.folder, device=self.group.device) if describe(self.surrogate)["model"]["arguments"] is not None else self.surrogate

    def _take_weights(self) -> None:
        """Give the surrogate the best weights, or leave the last."""
        if self.keeps_last:
            return
        if self.folder is not None:
            tensors, header = read_tensors(self.folder / BEST)
            self.best = {name.removeprefix("model."): value for name, value in tensors.items()}
            self.surrogate.notes = dict(header["notes"])
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if isinstance(value, Tensor) and self.best is not None:
                    value.copy_(self.best[name])

    @contextlib.contextmanager
    def _interruptible(self):
        """Let Ctrl-C, or the SIGTERM of a queue, end the run between two steps, with a checkpoint; a second Ctrl-C ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number, frame):
            if self.interrupted and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.interrupted = True

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_if_asked(self) -> None:
        asked = self.group.any(self.interrupted) if self.group.size > 1 else self.interrupted
        if asked and not self.progress.stopped:
            self._checkpoint()
            raise KeyboardInterrupt


@contextlib.contextmanager
def _quietly_random(device: torch.device):
    """Leave the caller's random numbers as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def _bar(run: Run, log: Log, quiet: bool):
    """Yield a function that shows a row: a bar on a terminal, a line elsewhere."""

    def text(row: dict) -> str:
        parts = [f"loss {row['loss']:.3g}"] + ([f"validation {row['validation']:.3g}"] if row["validation"] is not None else [])
        return ", ".join([*parts, f"lr {row['lr']:.2g}"])

    if quiet:
        yield lambda row: None
        return
    if not sys.stderr.isatty():
        yield lambda row: print(f"epoch {row['epoch']}/{run.epochs}: {text(row)}, {row['seconds']:.1f} s", file=sys.stderr, flush=True)
        return
    from tqdm.auto import tqdm

    with tqdm(total=run.epochs, initial=run.progress.epoch, unit="epoch", dynamic_ncols=True) as bar:

        def show(row: dict) -> None:
            bar.set_postfix_str(text(row), refresh=False)
            bar.update()

        yield show
