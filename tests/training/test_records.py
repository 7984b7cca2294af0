"""The log: rows that survive a kill, sinks that see the same rows."""

import csv
import json
import sys
import types

import pytest

from opkernels.training.records import FIELDS, Log, open_sinks

ROW = {"epoch": 1, "step": 10, "lr": 1e-3, "unroll": 1, "loss": 0.5, "validation": None, "seconds": 0.1}


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_both_files_hold_the_same_rows(tmp_path):
    log = Log(tmp_path, 0)
    for epoch in (1, 2):
        log.write(ROW | {"epoch": epoch})
    table = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [int(r["epoch"]) for r in table] == [r["epoch"] for r in rows(tmp_path)] == [1, 2]
    assert tuple(table[0]) == FIELDS and table[0]["validation"] == "" and float(table[1]["loss"]) == 0.5


def test_rows_beyond_the_checkpoint_and_torn_lines_are_dropped_on_resume(tmp_path):
    log = Log(tmp_path, 0)
    for epoch in (1, 2, 3):
        log.write(ROW | {"epoch": epoch})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    again = Log(tmp_path, 2)
    again.write(ROW | {"epoch": 3, "loss": 0.25})
    assert [(r["epoch"], r["loss"]) for r in rows(tmp_path)] == [(1, 0.5), (2, 0.5), (3, 0.25)]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4


def test_nothing_is_kept_without_a_folder():
    log = Log(None, 0)
    log.write(ROW)
    assert log.rows == [ROW]


def test_wandb_gets_every_row(tmp_path, monkeypatch):
    seen = []

    class Run:
        def log(self, row, step):
            seen.append((row, step))

        def finish(self):
            seen.append("finished")

    fake = types.ModuleType("wandb")
    fake.init = lambda **options: seen.append(options) or Run()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = Log(tmp_path, 0, open_sinks(["wandb"], tmp_path))
    log.write(ROW)
    log.close()
    assert seen == [{"dir": tmp_path, "name": tmp_path.name}, (ROW, 10), "finished"]


def test_tensorboard_gets_the_numbers(tmp_path, monkeypatch):
    seen = []

    class SummaryWriter:
        def __init__(self, folder):
            seen.append(folder)

        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def close(self):
            seen.append("closed")

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    sinks = open_sinks(["tensorboard"], tmp_path)
    sinks[0].write(ROW)
    sinks[0].close()
    assert ("loss", 0.5, 10) in seen and "closed" in seen and all(entry[0] != "validation" for entry in seen[1:-1])


def test_a_missing_extra_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r'logging to wandb needs an extra: pip install "opkernels\[wandb\]"'):
        open_sinks(["wandb"], tmp_path)
