"""The log of a run: one row per epoch, in log.csv and log.jsonl, and to TensorBoard or wandb where asked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from opkernels.storage import write_text

__all__ = ["FIELDS", "Log", "Sink", "open_sinks"]

FIELDS = ("epoch", "step", "lr", "unroll", "loss", "validation", "seconds")


class Sink(Protocol):
    """Where rows go besides the files."""

    def write(self, row: Mapping[str, float | None]) -> None:
        """Take one row."""

    def close(self) -> None:
        """Finish."""


class Log:
    """Rows of a run on disk; rows after `epoch` (of a run that was cut off) are dropped when it is opened.

    Parameters
    ----------
    folder : path or None
        The run's folder; None keeps nothing on disk.
    epoch : int
        Number of complete epochs.
    sinks : sequence of Sink
        Where each row goes as well.
    """

    def __init__(self, folder: Path | None, epoch: int, sinks: Sequence[Sink] = ()):
        self.folder, self.sinks = folder, sinks
        self.rows = [row for row in _read(folder) if row["epoch"] <= epoch] if folder else []
        if folder:
            write_text(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))
            write_text(folder / "log.csv", _csv(self.rows, header=True))

    def write(self, row: Mapping[str, float | None]) -> None:
        """Append one row."""
        self.rows.append(dict(row))
        if self.folder:
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            with (self.folder / "log.csv").open("a", encoding="utf-8") as file:
                file.write(_csv([row], header=False))
        for sink in self.sinks:
            sink.write(row)

    def close(self) -> None:
        """Close what was opened."""
        for sink in self.sinks:
            sink.close()


def open_sinks(names: Sequence[str], folder: Path | None) -> list[Sink]:
    """Return the sinks called "tensorboard" or "wandb".

    Raises
    ------
    ValueError
        If one is unknown or not installed (with the command that installs it).
    """
    makers = {"tensorboard": _TensorBoard, "wandb": _Wandb}
    sinks: list[Sink] = []
    for name in names:
        if name not in makers:
            raise ValueError(f"got the log {name!r}; choose one of {', '.join(makers)}")
        try:
            sinks.append(makers[name](folder))
        except ImportError as error:
            raise ValueError(f'logging to {name} needs an extra: pip install "opkernels[{name}]"') from error
    return sinks


class _TensorBoard:
    def __init__(self, folder: Path | None):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder) if folder else None)

    def write(self, row: Mapping[str, float | None]) -> None:
        for name, value in row.items():
            if name not in ("epoch", "step") and value is not None:
                self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, folder: Path | None):
        import wandb

        self.run = wandb.init(dir=folder, name=folder.name if folder else None)

    def write(self, row: Mapping[str, float | None]) -> None:
        self.run.log(dict(row), step=int(row["step"] or 0))

    def close(self) -> None:
        self.run.finish()


def _read(folder: Path) -> list[dict]:
    """Read the rows that are whole: a kill may have cut the last."""
    rows = []
    path = folder / "log.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "epoch" in row:
            rows.append(row)
    return rows


def _csv(rows: Sequence[Mapping], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
