"""The resolution-transfer table: cells that go on where they stopped, budgets, tables, pictures, and one sentence for bad input."""

import dataclasses
import hashlib
import json
import time

import numpy as np
import pytest
import torch

import opkernels as ok
from opkernels.cli import main
from opkernels.evaluation.tables import percent
from opkernels.evaluation.transfer import _clock, read_transfer_config, transfer_cells
from opkernels.evaluation.transfer_table import collect, markdown
from opkernels.training.config import read_config
from opkernels.training.prepare import split_samples


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A wave that moves on by a sixteenth of the domain each step."""
    domain = ok.Domain.periodic(1.0)
    x = domain.grid(64).coordinates(dtype=torch.float64)[0]
    t = torch.arange(5, dtype=torch.float64)
    phase = torch.linspace(0, 1, 13, dtype=torch.float64)[:-1, None, None]
    wave = torch.sin(2 * torch.pi * (x - t[:, None] / 16 - phase))
    path = tmp_path_factory.mktemp("data") / "wave.nc"
    ok.Trajectories.from_arrays({"u": wave}, domain, times=t).save(path)
    return path


def table_of(data, folder, **changes):
    return {
        "run_dir": str(folder),
        "datasets": {"wave": {"data": {"path": str(data), "resolution": 16}, "resolutions": [16, 32, 64]}},
        "models": {
            "FNO": {"n_modes": [8], "hidden_channels": 8, "n_layers": 1},
            "wide": {"name": "FNO", "n_modes": [8], "hidden_channels": 12, "n_layers": 1, "training": {"lr": 2e-3}},
        },
        "training": {"epochs": 2, "batch_size": 8, "seeds": [0, 1]},
    } | changes


def test_every_cell_is_trained_and_asked_at_every_resolution(data, tmp_path):
    table = ok.transfer(table_of(data, tmp_path), quiet=True)
    assert dict(table.sizes) == {"dataset": 1, "model": 2, "seed": 2, "resolution": 3}
    assert np.isfinite(table.rollout).all() and np.isfinite(table.upsampled).all()
    # On functions that 16 samples resolve, the model is the same at all of them, and so is the answer interpolated.
    rollout = table.rollout.values
    np.testing.assert_allclose(rollout[..., 1:], rollout[..., :1].repeat(2, -1), rtol=1e-4)
    np.testing.assert_allclose(table.upsampled.values, rollout, rtol=1e-4)
    assert (table.parameters.sel(model="wide") > table.parameters.sel(model="FNO")).all()
    assert (table.epochs == 2).all() and (table.cpu_seconds > 0).all()
    # persistence over one to four sixteenths of a period: 2 sin(pi j/16)
    still = np.mean([2 * np.sin(np.pi * j / 16) for j in range(1, 5)])
    np.testing.assert_allclose(table.persistence, still, rtol=1e-5)
    for name in ("table.md", "table.csv", "table.nc", "wave_heat_map.png", "wave_curves.png"):
        assert (tmp_path / name).stat().st_size > 0
    text = markdown(table)
    assert "16 (training)" in text and "| wide |" in text and "±" in text
    assert "coverage" not in table and "bound" not in text and "upsampled to 32 / 64" in text


def made(model, rollout, upsampled, seed=0, resolutions=("8x8", "16x16", "16x32", "24x20", "32x32")):
    """Return a cell as `compute` does; an error of None is of a run that diverged, one in words of a refusal."""
    errors = {}
    for r, a, b in zip(resolutions, rollout, upsampled, strict=True):
        errors[r] = {"refused": a} if isinstance(a, str) else {"rollout": a, "upsampled": b, "diverged": float(a is None)}
    costs = dict.fromkeys(("parameters", "epochs", "cpu_seconds", "seconds_per_sample"), 1.0)
    return {"dataset": "flow", "model": model, "seed": seed, "training_resolution": "16x16", "errors": errors} | costs


def test_the_table_says_which_models_beat_their_own_answer_interpolated():
    cells = [
        made("good", (0.3, 0.1, 0.1, 0.1, 0.1), (0.1, 0.1, 0.2, 0.2, 0.2)),
        made("bad", (0.1, 0.1, 0.1, 0.1, 0.4), (0.2,) * 5),
        made("even", (0.2, 0.2, 0.2, 0.2005, 0.1), (0.2,) * 5),
        made("picky", (0.3, 0.1, 0.1, "give more samples", 0.1), (0.1, 0.1, 0.2, None, 0.2)),
        made("lost", (0.1, 0.1, 0.1, 0.1, None), (0.2,) * 5),
    ]
    text = markdown(collect((["flow"], ["good", "bad", "even", "picky", "lost"], [0]), cells))
    assert "upsampled to 24x20 / 16x32 / 32x32" in text and f"| {percent(0.2)} / {percent(0.2)} / {percent(0.2)} |" in text
    told = "better: good, picky; the same to half a percent: even (better at 32x32); not better: bad (32x32), lost (32x32)."
    assert f"Asked at 24x20 and 16x32 and 32x32, against its own answer at the training resolution, interpolated: {told}" in text
    assert text.endswith("\n\npicky, without numbers: at 24x20: give more samples.")


def test_what_diverged_is_said_and_praises_nobody():
    """The mean of the seeds that survived is marked, and the model is not better than one whose seeds all did."""
    cells = [made("lucky", (0.3, 0.1, 0.1, 0.1, 0.1 if seed == 0 else None), (0.2,) * 5, seed) for seed in range(3)]
    cells += [made("lost", (0.3, 0.1, None, None, None), (0.2,) * 5)]
    cells += [{"dataset": "flow", "model": "lost", "seed": 1, "failed": "the loss is not finite"}]
    text = markdown(collect((["flow"], ["lucky", "lost"], [0, 1, 2]), cells))
    assert f"| {percent(0.1)} (2 of 3 diverged) |" in text and "| diverged | diverged | diverged |" in text
    assert "better: none; not better: lucky (32x32), lost (24x20, 16x32, 32x32)." in text
    assert "lost, without numbers: seed 1: the loss is not finite." in text


def test_finished_cells_are_kept_and_new_rows_cost_their_own(data, tmp_path):
    config = table_of(data, tmp_path, training={"epochs": 1, "batch_size": 8, "seeds": [0]})
    first = ok.transfer(config, quiet=True)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").rglob("*.json")}
    config["models"]["linear"] = {"name": "FNO", "n_modes": [4], "hidden_channels": 4, "n_layers": 1}
    second = ok.transfer(config, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in before} == before and len(list((tmp_path / "cells").rglob("*.json"))) == len(before) + 1
    np.testing.assert_array_equal(second.rollout.sel(model=["FNO", "wide"]), first.rollout)
    config["training"]["epochs"] = 2
    with pytest.raises(ValueError, match="other settings"):
        ok.transfer(config, quiet=True)


def test_what_a_model_refuses_leaves_its_reason_and_not_the_table_without_numbers(data, tmp_path, capsys):
    training = {"epochs": 1, "batch_size": 8, "seeds": [0]}
    models = {
        "FNO": {"n_modes": [8], "hidden_channels": 8, "n_layers": 1},
        "blind": {"name": "FactFormer", "hidden_channels": 8, "n_layers": 1, "bandwidth": 8},  # more than 16 samples resolve
        "sharp": {"name": "FactFormer", "hidden_channels": 8, "n_layers": 1, "bandwidth": 7},  # resolved by 16, not by 8
    }
    config = table_of(data, tmp_path / "table", models=models, training=training)
    config["datasets"]["wave"]["resolutions"] = [8, 16]
    table = ok.transfer(config)
    assert np.isfinite(table.rollout.sel(model="FNO")).all() and np.isnan(table.rollout.sel(model="blind")).all()
    np.testing.assert_array_equal(np.isfinite(table.rollout.sel(model="sharp").values), [[[False, True]]])
    told = capsys.readouterr().out
    assert "blind on wave, seed 0: refused, got 16 samples" in told and "refused at 8, got 8 samples" in told
    text = markdown(table)
    assert "| sharp | - | " in text and "| blind | - | - | - |" in text
    assert "\n\nblind, without numbers: got 16 samples" in text and "\n\nsharp, without numbers: at 8: got 8 samples" in text
    assert "interpolated" not in text
    assert "blind" not in (tmp_path / "table" / "table.csv").read_text()
    models = {"blind": models["blind"]}
    with pytest.raises(ValueError, match="no model of the table can be trained: got 16 samples"):
        ok.transfer(table_of(data, tmp_path / "none", models=models, training=training), quiet=True)


def test_a_row_has_its_own_seeds(data, tmp_path):
    config = table_of(data, tmp_path)
    config["datasets"]["wave again"] = config["datasets"]["wave"] | {"training": {"seeds": [1]}}
    cells = [(cell.dataset, cell.model, cell.seed) for cell in transfer_cells(read_transfer_config(config))]
    assert [c for c in cells if c[0] == "wave again"] == [("wave again", "FNO", 1), ("wave again", "wide", 1)]
    assert len(cells) == 6


def test_two_workers_give_the_numbers_of_one(data, tmp_path):
    one = ok.transfer(table_of(data, tmp_path / "one"), quiet=True)
    two = ok.transfer(table_of(data, tmp_path / "two"), workers=2, quiet=True)
    np.testing.assert_array_equal(one.rollout, two.rollout)


def test_a_budget_of_time_is_spent(data, tmp_path):
    config = table_of(data, tmp_path, minutes=0.05, training={"batch_size": 8, "seeds": [0], "window": 2})
    config["models"].pop("wide")
    spent = ok.transfer(config, quiet=True).cpu_seconds.item()
    assert 1.0 < spent < 9.0  # three seconds were asked for, on a machine that others use


def test_a_cut_off_cell_goes_on_with_its_epochs(data, tmp_path, monkeypatch):
    """Killed between training and evaluation, a cell keeps its weights: the run is resumed, not repeated."""
    from opkernels.evaluation import transfer as module

    config = table_of(data, tmp_path, training={"epochs": 2, "batch_size": 8, "seeds": [0]})
    config["models"].pop("wide")
    monkeypatch.setattr(module, "_errors", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ok.transfer(config, quiet=True)
    monkeypatch.undo()
    resumed = ok.transfer(config, quiet=True)
    whole = ok.transfer(config | {"run_dir": str(tmp_path / "whole")}, quiet=True)
    np.testing.assert_array_equal(resumed.rollout, whole.rollout)


def test_the_settings_of_a_cell_come_from_the_model_then_the_row_then_the_common_section(data, tmp_path):
    config = table_of(data, tmp_path)
    config["datasets"]["wave"]["training"] = {"lr": 5e-3, "loss": "mse"}
    cells = {(c.model, c.seed): c for c in transfer_cells(read_transfer_config(config))}
    assert len(cells) == 4
    assert cells["FNO", 0].config.training.lr == 5e-3 and cells["wide", 0].config.training.lr == 2e-3
    assert cells["wide", 1].config.training.loss == "mse" and cells["wide", 1].config.training.seeds == (1,)
    assert len({c.digest for c in cells.values()}) == 4


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"models": {}}, "models: is empty"),
        ({"modles": {}}, "did you mean models"),
        ({"models": {"FNO": {"n_mods": [8]}}}, "FNO on wave.*did you mean n_modes"),
        ({"models": {"FNO": 3}}, "models.FNO: got 3"),
        ({"datasets": {"wave": {"data": {"path": "x.nc"}}}}, "datasets.wave.resolutions: is missing"),
        ({"minutes": 0}, "minutes: got 0.0; give more than 0"),
    ],
)
def test_bad_configurations_are_refused_in_one_sentence(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_transfer_config(table_of(data, tmp_path, **changes))


def test_a_damaged_cell_is_named(data, tmp_path):
    config = read_transfer_config(table_of(data, tmp_path))
    path = tmp_path / "cells" / f"{next(transfer_cells(config)).name}.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        ok.transfer(config, quiet=True)


def test_the_command_prints_the_table(data, tmp_path, capsys):
    config = table_of(data, tmp_path / "run", training={"epochs": 1, "batch_size": 8, "seeds": [0]})
    (tmp_path / "table.yaml").write_text(json.dumps(config))
    assert main(["transfer", str(tmp_path / "table.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "[2/2] wide on wave, seed 0:" in shown and "| FNO |" in shown
    assert main(["transfer", str(tmp_path / "none.yaml")]) == 2


def test_the_coverage_is_a_column_where_it_is_asked_for(data, tmp_path):
    """Twelve samples: eight to train, two to calibrate, two to count. Of two samples, the larger error covers two thirds."""
    training = {"epochs": 1, "batch_size": 8, "seeds": [0]}
    config = table_of(data, tmp_path / "table", training=training)
    config["models"] = {"FNO": {"n_modes": [8], "hidden_channels": 8, "n_layers": 1, "positional_embedding": "harmonics"}}  # no ties
    config["datasets"]["wave"]["data"]["split"] = {"train": 2 / 3, "validation": 1 / 6, "test": 1 / 6}
    table = ok.transfer(config | {"coverage": 0.6}, quiet=True)
    surrogate, waves = ok.load(tmp_path / "table" / "runs" / "wave" / "FNO-0"), ok.open_trajectories(data)
    held, test = (
        ok.evaluate(surrogate, waves.select(rows), [16]).rel_l2_sample.sel(predictor="model", resolution="16").mean("time").values
        for rows in split_samples(12, (2 / 3, 1 / 6, 1 / 6))[1:]
    )
    # on functions that 16 samples resolve the model is the same at all resolutions, and so is what keeps the bound
    np.testing.assert_array_equal(table.coverage, np.full((1, 1, 1, 3), (test <= held.max()).mean()))
    assert table.attrs["coverage"] == 0.6
    share = percent(table.coverage.values.flat[0])
    assert "within the 60.0 % bound" in markdown(table) and f"{share} / {share} / {share}" in markdown(table)
    assert ",coverage" in (tmp_path / "table" / "table.csv").read_text()
    with pytest.raises(ValueError, match="wave, whose validation samples calibrate: got 2 calibration samples for a coverage of 0.9"):
        ok.transfer(config | {"coverage": 0.9, "run_dir": str(tmp_path / "few")}, quiet=True)


def test_a_table_without_coverage_keeps_the_cells_it_had(data, tmp_path):
    config = read_transfer_config(table_of(data, tmp_path))
    digests = {cell.digest for cell in transfer_cells(config)}
    covered = {cell.digest for cell in transfer_cells(dataclasses.replace(config, coverage=0.9))}
    assert len(digests) == len(covered) == 4 and not digests & covered
    for cell in transfer_cells(config):  # the digest of a cell before there was a coverage
        plain = dataclasses.asdict(cell) | {"config": cell.config.to_dict()}
        plain["config"].pop("run_dir")
        del plain["coverage"]
        assert cell.digest == hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:12]


def test_where_a_gpu_computes_seconds_are_those_of_the_clock(monkeypatch):
    monkeypatch.setattr("opkernels.training.parallel.usable_device", torch.device)
    for device, clock in (("cpu", time.process_time), ("cuda", time.perf_counter)):
        config = read_config({"data": {"path": "a.nc"}, "model": {"n_modes": [4]}, "training": {"device": device}})
        before = clock()
        assert before <= _clock(config) <= clock()
