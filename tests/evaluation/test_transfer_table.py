"""The resolution-transfer table: cells that go on where they stopped, budgets, tables, pictures, and one sentence for bad input."""

import contextlib
import dataclasses
import hashlib
import json
import threading
import time

import numpy as np
import pytest
import torch

import opkernels as ok
from opkernels.cli import main
from opkernels.evaluation.tables import percent
from opkernels.evaluation.transfer import _clock, _epochs, _noted, read_transfer_config, transfer_cells
from opkernels.evaluation.transfer_table import collect, markdown, over_seeds
from opkernels.storage import locked
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
    table = collect((["flow"], ["lucky", "lost"], [0, 1, 2]), cells)
    text, mean = markdown(table), over_seeds(table, "rollout").sel(dataset="flow", model="lucky")
    assert np.isnan(mean.sel(resolution="32x32")) and mean.sel(resolution="24x20") == pytest.approx(0.1)  # in pictures, too
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
    with pytest.raises(ValueError, match="wave: the validation samples calibrate: got 2 calibration samples for a coverage of 0.9"):
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


def small(data, folder, **changes):
    """One tiny FNO, one epoch, one seed."""
    training = {"epochs": 1, "batch_size": 8, "seeds": [0]}
    models = {"FNO": {"n_modes": [8], "hidden_channels": 8, "n_layers": 1}}
    return table_of(data, folder, training=training, models=models) | changes


def with_row(config, **changes):
    return config | {"datasets": {"wave": config["datasets"]["wave"] | changes}}


def of_cell(folder, name):
    return json.loads((folder / "cells" / "wave" / f"{name}.json").read_text())


def test_a_training_that_fails_leaves_its_reason_and_the_table_goes_on(data, tmp_path, capsys):
    (tmp_path / "nets_of_pixels.py").write_text(
        "import torch\n\nclass Sixteen(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.map = torch.nn.Linear(16, 16)\n\n    def forward(self, x):\n        return self.map(x)\n"
    )
    config = small(data, tmp_path / "run")
    config["models"] = {
        "wild": config["models"]["FNO"] | {"name": "FNO", "training": {"lr": 1e30, "batch_size": 1}},
        "pixels": {"name": "nets_of_pixels.Sixteen"},
    } | config["models"]
    (tmp_path / "table.yaml").write_text(json.dumps(config))
    table = ok.transfer(tmp_path / "table.yaml")
    told = capsys.readouterr().out
    assert "wild on wave, seed 0: failed, the loss is not finite" in told and "[3/3] FNO on wave, seed 0:" in told
    failed = of_cell(tmp_path / "run", "wild-0")
    assert set(failed) == {"digest", "data", "dataset", "model", "seed", "failed"} and "the loss is not finite" in failed["failed"]
    assert str(tmp_path) not in failed["failed"]
    assert np.isfinite(table.rollout.sel(model="FNO")).all() and np.isnan(table.rollout.sel(model="wild")).all()
    np.testing.assert_array_equal(np.isfinite(table.rollout.sel(model="pixels").values), [[[True, False, False]]])
    refused = of_cell(tmp_path / "run", "pixels-0")["errors"]["32"]["refused"]
    assert "shapes cannot be multiplied" in refused and "\n" not in refused
    ok.transfer(tmp_path / "table.yaml")  # what failed is asked again, and nothing else
    told = capsys.readouterr().out
    assert "2 of 3 cells are there already" in told and "[1/1] wild on wave, seed 0: failed" in told


def test_weights_of_other_settings_are_not_gone_on_with(data, tmp_path, monkeypatch):
    from opkernels.evaluation import transfer as module

    def halves(folder, first):
        config = small(data, folder)
        split = {"train": 0.25, "validation": 0.25} if first else {"train": 0.5, "validation": 0.25}
        return with_row(config, data=config["datasets"]["wave"]["data"] | {"split": split | {"test": 0.25}})

    monkeypatch.setattr(module, "_errors", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ok.transfer(halves(tmp_path / "run", True), quiet=True)
    monkeypatch.undo()
    weights = tmp_path / "run" / "runs" / "wave" / "FNO-0" / "last.safetensors"
    before = weights.read_bytes()
    found = ok.transfer(halves(tmp_path / "run", False), quiet=True)
    whole = ok.transfer(halves(tmp_path / "whole", False), quiet=True)
    np.testing.assert_array_equal(found.rollout, whole.rollout)
    assert weights.read_bytes() != before
    # and as the message says, of a finished cell too
    with pytest.raises(ValueError, match="FNO-0.json was computed with other settings; delete this file") as told:
        ok.transfer(halves(tmp_path / "run", True), quiet=True)
    (tmp_path / "run" / "cells" / "wave" / "FNO-0.json").unlink()
    ok.transfer(halves(tmp_path / "run", True), quiet=True)
    assert weights.read_bytes() == before and str(tmp_path) in str(told.value)


def test_other_data_under_the_same_name_are_noticed_and_a_copy_is_the_same(data, tmp_path):
    path = tmp_path / "wave.nc"
    path.write_bytes(data.read_bytes())
    config = small(path, tmp_path / "run")
    first = ok.transfer(config, quiet=True)
    before = (tmp_path / "run" / "cells" / "wave" / "FNO-0.json").stat().st_mtime_ns
    path.unlink()
    path.write_bytes(data.read_bytes())
    ok.transfer(config, quiet=True)
    assert (tmp_path / "run" / "cells" / "wave" / "FNO-0.json").stat().st_mtime_ns == before
    waves = ok.open_trajectories(data)
    other = {"u": waves.read().numpy()[:, :, 0][:, ::-1].copy()}  # the other way
    path.unlink()
    ok.Trajectories.from_arrays(other, waves.domain, times=waves.times).save(path)
    with pytest.raises(ValueError, match="was computed from other data than wave now has; delete the folder .*cells/wave,"):
        ok.transfer(config, quiet=True)
    (tmp_path / "run" / "cells" / "wave" / "FNO-0.json").unlink()
    again = ok.transfer(config, quiet=True)
    whole = ok.transfer(config | {"run_dir": str(tmp_path / "whole")}, quiet=True)
    np.testing.assert_array_equal(again.rollout, whole.rollout)
    assert (again.rollout != first.rollout).any()


@pytest.mark.parametrize(
    "row, changes, message",
    [
        ({"data": {"path": "nothing.nc"}}, {}, "wave: data.path: there is no dataset nothing.nc"),
        ({"test": ["nothing.nc"]}, {}, "wave: there is no file nothing.nc"),
        ({"resolutions": [[16, 16, 16]]}, {}, r"wave: got the resolution \(16, 16, 16\)"),
        ({"resolutions": [16, 128]}, {}, "wave: asked for 128 samples along x, but u is stored with 64"),
        ({"steps": 9}, {}, "wave: got steps=9; the data hold the truth for 1 to 4"),
        ({"split": {"train": 0.7, "validation": 0.3, "test": 0.0}}, {}, "wave: no samples are put aside for the test"),
        ({"test": ["long"]}, {"coverage": 0.5}, "calibrate, hold 4 frames to predict, the test data 5; give steps: 4"),
        ({"test": ["elsewhere"]}, {}, "wave: the test data live on another domain"),
    ],
)
def test_what_a_dataset_cannot_answer_is_told_before_anything_is_trained(data, tmp_path, row, changes, message):
    waves = ok.open_trajectories(data)
    u = waves.read().numpy()[:, :, 0]
    times = np.arange(6.0)
    ok.Trajectories.from_arrays({"u": np.concatenate([u, u[:, :1]], 1)}, waves.domain, times=times).save(tmp_path / "long.nc")
    ok.Trajectories.from_arrays({"u": u}, ok.Domain.periodic(2.0), times=times[:5]).save(tmp_path / "elsewhere.nc")
    if "test" in row:
        row = row | {"test": [str(tmp_path / f"{name}.nc") if "." not in name else name for name in row["test"]]}
    config = small(data, tmp_path / "run", **changes)
    if "split" in row:
        row = {"data": config["datasets"]["wave"]["data"] | row}
    with pytest.raises(ValueError, match=message):
        ok.transfer(with_row(config, **row), quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "row, changes, message",
    [
        ({"training": {"seeds": None}}, {}, "datasets.wave.training.seeds: got None; expected a list"),
        ({"training": {"seeds": []}}, {}, "datasets.wave.training.seeds: is empty"),
        ({"training": {"seeds": [0, 0]}}, {}, r"datasets.wave.training.seeds: got \[0, 0\]; give every seed once"),
        ({"training": {"seeds": "ab"}}, {}, "datasets.wave.training.seeds: got 'ab'; expected a whole number"),
        ({"training": [1]}, {}, r"datasets.wave.training: got \[1\]; expected a mapping"),
        ({}, {"training": {"seeds": [1, 1]}}, r"training.seeds: got \[1, 1\]"),
        ({}, {"models": {"FNO": {"n_modes": [8], "training": "fast"}}}, "models.FNO.training: got 'fast'; give a mapping"),
        ({}, {"models": {"FNO": {"n_modes": [8], "training": [3]}}}, r"models.FNO.training: got \[3\]"),
        (
            {},
            {"models": {"FNO": {"n_modes": [8], "training": {"seeds": [7]}}}},
            "models.FNO.training.seeds: seeds are those of a whole row",
        ),
        ({}, {"models": {3: {"name": "FNO", "n_modes": [8]}}}, "models: got the name 3; give a text"),
        (
            {},
            {"models": {"a b": {"name": "FNO", "n_modes": [8]}, "a_b": {"name": "FNO", "n_modes": [4]}}},
            "'a b' and 'a_b' would have the same",
        ),
        ({}, {"datasets": {"..": {"data": {"path": "w.nc"}, "resolutions": [16]}}}, r"datasets: got the name '\.\.'"),
        ({}, {"datasets": {"": {"data": {"path": "w.nc"}, "resolutions": [16]}}}, "datasets: got the name ''"),
        ({}, {"coverage": 2.0}, "coverage: got 2.0; give less than 1"),
    ],
)
def test_hostile_configurations_are_refused_in_one_sentence(data, tmp_path, capsys, row, changes, message):
    import yaml

    config = small(data, tmp_path / "run", **changes)
    config = with_row(config, **row) if row else config
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=f"has a mistake: .*{message}"):
        read_transfer_config(tmp_path / "table.yaml")
    assert main(["transfer", str(tmp_path / "table.yaml")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_one_seed_of_a_row_may_be_written_without_brackets(data, tmp_path):
    config = read_transfer_config(with_row(table_of(data, tmp_path), training={"seeds": 3}))
    assert {cell.seed for cell in transfer_cells(config)} == {3}


def test_a_cell_that_another_process_is_at_is_waited_for(data, tmp_path, capsys):
    config = small(data, tmp_path)
    with contextlib.ExitStack() as other:
        other.enter_context(locked(tmp_path / "runs" / "wave" / "FNO-0.lock"))
        with pytest.raises(BlockingIOError), locked(tmp_path / "runs" / "wave" / "FNO-0.lock"):
            pass
        threading.Timer(1.5, other.close).start()
        table = ok.transfer(config)
    told = capsys.readouterr().out
    assert "[0/1] FNO on wave, seed 0: another process is at it\n[1/1] FNO on wave, seed 0: " in told
    assert np.isfinite(table.rollout).all() and not list(tmp_path.rglob("*.lock"))


def test_the_seconds_of_a_cell_that_was_cut_off_are_kept(data, tmp_path, monkeypatch):
    from opkernels.evaluation import transfer as module

    monkeypatch.setattr(module, "_errors", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ok.transfer(small(data, tmp_path), quiet=True)
    monkeypatch.undo()
    note = tmp_path / "runs" / "wave" / "FNO-0" / "cell.json"
    before = json.loads(note.read_text())
    assert before["seconds"] > 0
    note.write_text(json.dumps(before | {"seconds": 1000.0}))
    assert 1000 < ok.transfer(small(data, tmp_path), quiet=True).cpu_seconds.item() < 1010


def test_seconds_are_noted_while_they_are_spent(data, tmp_path, monkeypatch):
    monkeypatch.setattr("opkernels.evaluation.transfer._NOTED_EVERY", 0.02)
    cell = next(transfer_cells(read_transfer_config(small(data, tmp_path))))
    with _noted(tmp_path / "cell.json", {"digest": "abc"}, 7.0, cell.config) as seconds:
        start = time.process_time()
        while time.process_time() < start + 0.3:
            pass
        noted = json.loads((tmp_path / "cell.json").read_text())  # as a kill would leave it
        assert noted["digest"] == "abc" and 7.0 < noted["seconds"] <= seconds()
    assert json.loads((tmp_path / "cell.json").read_text())["seconds"] == seconds() >= 7.3


def test_the_epochs_are_those_that_fill_the_budget(data, tmp_path, monkeypatch):
    """Ten samples of four steps are 40 examples, five batches of 8: at a quarter of a second each, 24 epochs in half a minute."""
    cell = next(transfer_cells(read_transfer_config(small(data, tmp_path, minutes=0.5))))
    monkeypatch.setattr(
        "opkernels.evaluation.transfer._trial", lambda cell, model, trial, epochs: 0.25 * epochs * np.ceil(len(trial) * 4 / 8)
    )
    assert _epochs(cell, ok.open_trajectories(data).select(range(10)), tmp_path, None) == 24


def test_the_validation_samples_calibrate_and_not_those_of_the_training(tmp_path):
    """Untrained, a model stands nearly still: the faster the wave, the larger its error. Training waves are the slowest."""
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    speed = np.empty(16)
    for rows, value in zip(split_samples(16, tuple(shares.values())), (1 / 64, 3 / 32, 1 / 16), strict=True):
        speed[rows] = value
    t, x = np.arange(5.0), np.arange(64) / 64
    u = np.sin(2 * np.pi * (x - speed[:, None, None] * t[:, None]))
    ok.Trajectories.from_arrays({"u": u}, ok.Domain.periodic(1.0), times=t).save(tmp_path / "waves.nc")
    config = small(tmp_path / "waves.nc", tmp_path / "run", coverage=0.75)
    config = with_row(config, data={"path": str(tmp_path / "waves.nc"), "resolution": 16, "split": shares})
    config["training"]["lr"] = 1e-6
    assert (ok.transfer(config, quiet=True).coverage == 1.0).all()  # by the training samples' bound, none


def test_a_seed_that_fails_leaves_the_numbers_of_the_others(data, tmp_path, monkeypatch):
    from opkernels.evaluation import transfer as module

    def measure(cell, *rest):
        if cell.seed == 1:
            raise RuntimeError("out of memory\nand where")
        return measured(cell, *rest)

    measured = module._measure
    monkeypatch.setattr(module, "_measure", measure)
    config = small(data, tmp_path)
    config["training"]["seeds"] = [0, 1]
    table = ok.transfer(config, quiet=True)
    assert of_cell(tmp_path, "FNO-1")["failed"] == "out of memory"
    assert np.isfinite(table.rollout.sel(seed=0)).all() and np.isnan(table.rollout.sel(seed=1)).all()
    assert "seed 1: out of memory" in markdown(table)


def test_a_cell_without_a_mark_of_its_data_is_kept(data, tmp_path):
    ok.transfer(small(data, tmp_path), quiet=True)
    path = tmp_path / "cells" / "wave" / "FNO-0.json"
    cell = json.loads(path.read_text())
    del cell["data"]
    path.write_text(json.dumps(cell))
    ok.transfer(small(data, tmp_path), quiet=True)
    assert json.loads(path.read_text()) == cell
