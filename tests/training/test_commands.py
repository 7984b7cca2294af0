"""`opkernels train`: runs, seeds, resumption; every bad input is one sentence and exit code 2, and loses nothing."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import opkernels as ok
from opkernels.cli import main
from opkernels.training.build import load_run, open_splits
from opkernels.training.config import read_config

CONFIG = {
    "data": {"path": "waves.nc", "split": {"train": 0.6, "validation": 0.2, "test": 0.2}},
    "model": {"name": "FNO", "n_modes": [3, 3], "hidden_channels": 4, "n_layers": 1},
    "training": {"epochs": 2, "batch_size": 8, "lr": "1e-2"},
    "run_dir": "runs/waves",
}


@pytest.fixture
def place(tmp_path, monkeypatch, waves):
    """A folder with a dataset and a configuration, which is the current one."""
    monkeypatch.chdir(tmp_path)
    waves(samples=10, n_times=4, shape=(8, 6)).save(tmp_path / "waves.nc")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_train_writes_a_run_that_loads_and_resumes(place, capsys):
    assert main(["train", "c.yaml", "training.epochs=3"]) == 0
    out = capsys.readouterr()
    assert "seed 0: validation error" in out.out and "next: opkernels evaluate runs/waves" in out.out
    assert out.err.count("epoch") == 3
    run = place / "runs" / "waves"
    assert sorted(p.name for p in run.iterdir()) == ["best.safetensors", "config.yaml", "last.safetensors", "log.csv", "log.jsonl"]
    surrogate, config = load_run(run)
    assert config.training.epochs == 3 and config.run_dir == "runs/waves" and surrogate.notes["epochs"] == 3
    splits = open_splits(config, "/")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [6, 2, 2], "the kept path is absolute"
    before = snapshot(run)
    assert main(["train", "runs/waves", "--quiet"]) == 0 and main(["train", "c.yaml", "training.epochs=3", "--resume", "--quiet"]) == 0
    assert {k: v for k, v in snapshot(run).items() if k.suffix == ".safetensors"} == {
        k: v for k, v in before.items() if k.suffix == ".safetensors"
    }
    assert capsys.readouterr().out == ""


def test_a_run_interrupted_by_hand_goes_on(place, monkeypatch, capsys, same_weights):
    from opkernels.storage import read_tensors
    from opkernels.training.run import Run

    assert main(["train", "c.yaml", "--quiet", "run_dir=whole"]) == 0
    step, calls = Run._step, []

    def interrupted(self, *arguments):
        calls.append(1)
        self.interrupted = len(calls) == 4
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_step", interrupted)
        assert main(["train", "c.yaml", "--quiet"]) == 130
    err = capsys.readouterr().err
    assert "stopped with a checkpoint; go on with: opkernels train runs/waves --resume" in err and "Traceback" not in err
    assert read_tensors("runs/waves/last.safetensors")[1]["progress"]["step"] == 4
    assert main(["train", "runs/waves", "--quiet"]) == 0
    same_weights(read_tensors("runs/waves/last.safetensors")[0], read_tensors("whole/last.safetensors")[0])


def test_a_run_goes_on_in_the_folder_that_was_named(place, monkeypatch, capsys):
    assert main(["train", "c.yaml", "--quiet"]) == 0
    shutil.copytree("runs/waves", "copy")
    before = snapshot(place / "runs")
    (place / "copy" / "last.safetensors").unlink()  # so that there is something to do
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert main(["train", "../copy", "--resume"]) == 0
    assert "in ../copy" in capsys.readouterr().out and (place / "copy" / "last.safetensors").is_file()
    assert not list((place / "elsewhere").iterdir()) and snapshot(place / "runs") == before
    assert main(["train", "../copy", "run_dir=other"]) == 2
    assert "goes on in its own folder" in capsys.readouterr().err


def test_several_seeds_give_several_runs_and_their_spread(place, capsys):
    assert main(["train", "c.yaml", "training.seeds=[3, 4]", "training.epochs=1"]) == 0
    assert "2 seeds:" in capsys.readouterr().out
    weights = [load_run(place / "runs" / "waves" / f"seed-{seed}")[0].model.state_dict() for seed in (3, 4)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert read_config(place / "runs" / "waves" / "config.yaml").training.seeds == (3, 4)
    assert read_config(place / "runs" / "waves" / "seed-4" / "config.yaml").training.seeds == (4,)
    assert main(["train", "runs/waves", "--quiet"]) == 0, "resumes all"


def test_the_folder_of_the_configuration_is_searched_and_the_name_of_the_run_follows_it(place, monkeypatch):
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    config = dict(CONFIG)
    del config["run_dir"]
    (place / "d.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "../d.yaml", "training.epochs=1", "--quiet"]) == 0
    assert (place / "elsewhere" / "runs" / "d" / "best.safetensors").is_file()


def test_resolution_samples_fields_and_parameters_are_those_of_the_configuration(place, waves):
    waves(samples=12, n_times=4, shape=(12, 8), speeds=True, names=("u", "v")).save("two.nc")
    assert (
        main(
            [
                "train",
                "c.yaml",
                "data.path=two.nc",
                "data.inputs=[u, v]",
                "data.outputs=v",
                "data.resolution=8",
                "data.samples=10",
                "--quiet",
            ]
        )
        == 0
    )
    surrogate = ok.load("runs/waves")
    assert surrogate.outputs == ("v",) and surrogate.training_shape == (8, 8) and surrogate.parameter_names == ("c",)
    assert main(["train", "c.yaml", "data.path=two.nc", "data.parameters=[]", "training.bundle=2", "run_dir=b", "--quiet"]) == 0
    assert ok.load("b").bundle == 2 and ok.load("b").parameter_names == ()


def test_one_seed_and_several_do_not_share_a_folder(place, capsys):
    assert main(["train", "c.yaml", "training.epochs=1", "run_dir=one", "--quiet"]) == 0
    assert main(["train", "c.yaml", "training.epochs=1", "run_dir=two", "training.seeds=[0, 1]"]) == 0
    assert "next: opkernels evaluate two\n" in capsys.readouterr().out
    before = snapshot(place)
    for resume in ([], ["--resume"]):
        assert main(["train", "c.yaml", "run_dir=one", "training.seeds=[0, 1]", *resume]) == 2
        assert "one already holds a run of one seed" in capsys.readouterr().err
        assert main(["train", "c.yaml", "run_dir=two", *resume]) == 2
        assert "two already holds the runs of several seeds" in capsys.readouterr().err
    assert snapshot(place) == before


def test_a_finished_run_is_told_again_and_keeps_its_settings(place, capsys):
    assert main(["train", "c.yaml", "training.keep=last"]) == 0
    told = capsys.readouterr().out
    before = snapshot(place)
    assert main(["train", "runs/waves"]) == 0
    assert capsys.readouterr().out == told and "(epoch 2 of 2)" in told
    for change, name in (("training.keep=best", "keep"), ("training.target=state", "target")):
        assert main(["train", "runs/waves", change]) == 2
        assert f"another {name}" in capsys.readouterr().err
        assert snapshot(place)[Path("runs/waves/config.yaml")] == before[Path("runs/waves/config.yaml")]


def test_without_validation_the_training_loss_is_told(place, capsys):
    assert main(["train", "c.yaml", "data.split={train: 1.0, validation: 0, test: 0}"]) == 0
    out = capsys.readouterr().out
    assert "seed 0: training loss" in out and "(epoch 2 of 2)" in out and "validation" not in out


def test_data_are_generated_where_there_are_none(place):
    recipe = {
        "solver": {"name": "NavierStokes2D", "viscosity": 0.05},
        "domain": {"periodic": [1, 1]},
        "initial": {"name": "GaussianRandomField"},
        "times": {"start": 0, "stop": 0.02, "count": 3},
        "resolution": [8, 8],
        "samples": 5,
        "checked": 0,
    }
    (place / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", "c.yaml", "data.path=made.nc", "data.generate={recipe: r.yaml, workers: 1}", "--quiet", "training.epochs=1"]) == 0
    assert len(ok.open_trajectories("made.nc")) == 5


OWN = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, in_channels, out_channels, width=2):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.GELU(), nn.Conv2d(width, out_channels, 1))

    def forward(self, x):
        return self.net(x)

def not_a_module(in_channels, out_channels):
    return 3
"""


def test_a_users_own_model_is_named_in_the_configuration_only(place, monkeypatch, capsys):
    (place / "own").mkdir()
    (place / "own" / "my_module_of_tests.py").write_text(OWN)
    shutil.copy("waves.nc", "own/waves.nc")
    config = CONFIG | {"model": {"name": "my_module_of_tests.MyNet", "width": 3}}
    (place / "own" / "c.yaml").write_text(yaml.safe_dump(config))
    path = list(sys.path)
    assert main(["train", "own/c.yaml", "--quiet"]) == 0
    assert sys.path == path
    with pytest.raises(ValueError, match="holds your own model my_module_of_tests.MyNet; give the configuration"):
        load_run("runs/waves")
    surrogate, _ = load_run("runs/waves", "own/c.yaml")
    assert surrogate.model.net[0].out_channels == 3
    assert main(["train", "runs/waves", "--resume"]) == 2
    assert "a run folder never names code to run" in capsys.readouterr().err
    assert main(["train", "own/c.yaml", "--resume", "--quiet"]) == 0
    for override, message in (
        ("model.name=my_module_of_tests.MyNat", "has no MyNat; did you mean MyNet?"),
        ("model.name=no_such_module.Net", "cannot import no_such_module"),
        ("model.name=my_module_of_tests.not_a_module", "unexpected keyword argument 'width'"),
        ("model.widht=3", "unexpected keyword argument 'widht'"),
    ):
        assert main(["train", "own/c.yaml", override, "run_dir=x"]) == 2
        assert message in capsys.readouterr().err
    del sys.modules["my_module_of_tests"]


def bad_data(place):
    data = ok.open_trajectories("waves.nc")
    u = data.fields["u"][:].copy()
    u[5, 2, 3] = np.nan
    ok.Trajectories.from_arrays({"u": u}, data.domain, times=data.times).save("nan.nc")


BAD = [
    (["c.yaml", "training.epcohs=3"], "training.epcohs: is unknown; did you mean epochs?"),
    (["c.yaml", "training.lr=quick"], "training.lr: got 'quick'; expected a number"),
    (["c.yaml", "model.n_mode=3"], "model.n_mode: is unknown; did you mean n_modes?"),
    (["c.yaml", "model.n_modes=[3]"], "n_modes=(3,) on a 2-D domain"),
    (["c.yaml", "model.n_modes=many"], "model: FNO does not take these arguments|n_modes"),
    (["none.yaml"], "there is no configuration and no run folder none.yaml"),
    (["foreign"], "foreign is not a run folder (it holds no config.yaml)"),
    (["c.yaml", "data.path=none.nc"], "there is no dataset none.nc"),
    (["c.yaml", "data.path=c.yaml"], "c.yaml"),
    (
        ["c.yaml", "data.path=nan.nc", "data.split={train: 1.0, validation: 0, test: 0}"],
        "the data are not finite in field u of sample 5 at step 2",
    ),
    (["c.yaml", "data.resolution=1"], "data.resolution: got 1; give at least 2"),
    (["c.yaml", "data.resolution=[16, 16]"], "16"),
    (["c.yaml", "data.inputs=w"], "the data hold the fields u"),
    (["c.yaml", "data.samples=99"], "data.samples: got 99, but the dataset holds 10"),
    (["c.yaml", "training.regime=unrolled"], "needs 5 stored steps"),
    (["c.yaml", "training.precision=float16"], "needs a CUDA device"),
    (["c.yaml", "training.device=quantum"], "cannot use the device 'quantum'"),
    (["c.yaml", "run_dir=done"], "done already holds a run; add --resume"),
    (["c.yaml", "run_dir=done", "--resume", "training.epochs=1", "training.lr=0.5"], "another lr"),
    (["broken", "--resume"], "is damaged or not a safetensors file"),
    (["pickled", "--resume"], "is a pickle"),
]


def test_bad_input_is_one_sentence_and_loses_nothing(place, capsys):
    assert main(["train", "c.yaml", "run_dir=done", "training.epochs=1", "--quiet"]) == 0
    assert main(["train", "c.yaml", "run_dir=done", "training.epochs=1", "--quiet", "--resume"]) == 0
    (place / "foreign").mkdir()
    bad_data(place)
    for name in ("broken", "pickled"):
        shutil.copytree("done", name)
        config = yaml.safe_load((place / name / "config.yaml").read_text()) | {"run_dir": name}
        (place / name / "config.yaml").write_text(yaml.safe_dump(config))
    whole = (place / "broken" / "last.safetensors").read_bytes()
    (place / "broken" / "last.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save({"w": torch.ones(3)}, place / "pickled" / "last.safetensors")
    before = snapshot(place)
    capsys.readouterr()
    for arguments, message in BAD:
        assert main(["train", *arguments]) == 2, arguments
        out, err = capsys.readouterr()
        assert any(part in err for part in message.split("|")), (arguments, err)
        assert err.startswith("opkernels train: ") and err.count("\n") == 1 and "Traceback" not in err and not out, err
        assert snapshot(place) == before, f"{arguments} left something behind"
