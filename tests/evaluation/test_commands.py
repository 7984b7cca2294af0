"""The commands evaluate, rollout and certify on a run made by train: results, files, exit codes."""

import numpy as np
import pytest
import torch
from evaluation.heat import heat_data

from opkernels.cli import main
from opkernels.evaluation.uncertainty import Calibration
from opkernels.surrogate import Surrogate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    heat_data(samples=10).save(folder / "heat.nc")
    (folder / "heat.yaml").write_text(
        "data: {path: heat.nc, resolution: [16, 12]}\n"
        "model: {name: FNO, n_modes: [5, 5], hidden_channels: 4, n_layers: 1}\n"
        f"training: {{epochs: 1, seeds: [0, 1]}}\nrun_dir: {folder / 'runs'}\n"
    )
    threads = torch.get_num_threads()
    assert main(["train", str(folder / "heat.yaml"), "--quiet"]) == 0
    torch.set_num_threads(threads)
    return folder / "runs"


def test_evaluate(run, capsys):
    import xarray

    assert main(["evaluate", str(run), "--resolution", "16x12", "32x24"]) == 0
    out = capsys.readouterr().out
    assert "16x12 (training)" in out and "2 seeds" in out and "the test samples" in out
    files = {path.name for path in (run / "evaluation").iterdir()}
    pictures = {"error_by_resolution.png", "error_by_time.png", "fields.png", "spectrum_a.png", "spectrum_b.png"}
    assert files == {"errors.nc", "errors.txt"} | pictures
    with xarray.open_dataset(run / "evaluation" / "errors.nc", engine="h5netcdf") as errors:
        assert errors.rel_l2.dims == ("seed", "predictor", "resolution", "time") and np.isfinite(errors.rel_l2).all()
    assert (run / "evaluation" / "errors.txt").read_text().splitlines()[2:] == out.splitlines()[2 : len(out.splitlines()) - 2]


def test_only_numbered_folders_are_seeds(run, capsys):
    (run / "seed-foo").mkdir()
    assert main(["evaluate", str(run), "--resolution", "16x12", "--samples", "1", "--device", "cpu", "-o", str(run / "again")]) == 0
    (run / "seed-foo").rmdir()
    assert "2 seeds" in capsys.readouterr().out


def test_rollout(run, capsys):
    assert main(["rollout", str(run / "seed-0"), "--steps", "6", "--resolution", "20x14", "-o", str(run / "long")]) == 0
    assert "of 6 frames at 20x14, with a truth for 4" in capsys.readouterr().out
    assert {path.name for path in (run / "long").iterdir()} == {
        "rollout.nc",
        "rollout.txt",
        "spectrum_a.png",
        "spectrum_b.png",
        "a.gif",
        "b.gif",
    }


def test_models_run_on_the_device_asked_for(run, tmp_path, monkeypatch):
    device, moved = torch.device("cuda", 1), []
    monkeypatch.setattr("opkernels.training.parallel.usable_device", lambda name: {"cuda:1": device}[name])
    monkeypatch.setattr(Surrogate, "to", lambda self, *target: moved.append(target) or self)
    for command, folder, count in (("evaluate", run, 2), ("rollout", run / "seed-0", 1), ("certify", run / "seed-0", 1)):
        output = [] if command == "certify" else ["--samples", "1", "--resolution", "16x12", "-o", str(tmp_path / command)]
        assert main([command, str(folder), "--device", "cuda:1", *output]) == 0
        assert moved == [(device,)] * count
        moved.clear()


def test_certify_says_yes_or_no_by_its_exit_code(run, capsys):
    assert main(["certify", str(run / "seed-1")]) == 0
    assert "PASSED" in capsys.readouterr().out
    # Two figures that cannot both be: nothing is as exact as 1e-30.
    assert main(["certify", str(run / "seed-1"), "--tolerance", "1e-30"]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--resolution", "1"], "each at least 2"),
        (["--resolution", "64"], "asked for 64 samples along x, but a is stored with 32"),
        (["--data", "nowhere.nc"], "nowhere.nc"),
        (["--steps", "99"], "truth for 1 to 4"),
        (["--samples", "-1"], "got --samples -1; give at least 1"),
        (["--samples", "0"], "got --samples 0; give at least 1"),
        (["--device", "cuda:99"], "cannot use the device 'cuda:99'"),
    ],
)
def test_bad_input_is_one_sentence(run, capsys, words, message):
    assert main(["evaluate", str(run / "seed-0"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_a_foreign_folder(tmp_path, capsys):
    for command in ("evaluate", "rollout", "certify"):
        assert main([command, str(tmp_path)]) == 2
        assert "not a run folder" in capsys.readouterr().err


def test_pictures_of_volumes(tmp_path, capsys):
    """On 3-D data evaluate and rollout also draw surfaces of the fields."""
    from opkernels import Domain
    from opkernels.datasets.trajectories import Trajectories

    domain = Domain.periodic(1.0, 1.0, 2.0)
    x, y, z = domain.grid(6, 6, 7).coordinates(dtype=torch.float32).numpy()
    phases = 0.1 * np.arange(5)[:, None] + 0.2 * np.arange(3)
    frames = np.sin(2 * np.pi * x + phases[..., None, None, None])
    Trajectories.from_arrays({"a": frames}, domain, times=np.arange(3.0)).save(tmp_path / "waves.nc")
    (tmp_path / "waves.yaml").write_text(
        "data: {path: waves.nc}\nmodel: {name: FNO, n_modes: [3, 3, 3], hidden_channels: 2, n_layers: 1}\n"
        f"training: {{epochs: 1}}\nrun_dir: {tmp_path / 'run'}\n"
    )
    threads = torch.get_num_threads()
    assert main(["train", str(tmp_path / "waves.yaml"), "--quiet"]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0 and main(["rollout", str(tmp_path / "run"), "--steps", "3"]) == 0
    torch.set_num_threads(threads)
    for part in ("evaluation", "rollout"):
        assert (tmp_path / "run" / part / "volumes.png").stat().st_size > 5000
    assert capsys.readouterr().out.count("volumes.png") == 2


def test_evaluate_tells_the_coverage(run, tmp_path, capsys):
    import xarray

    out = tmp_path / "out"
    asked = ["evaluate", str(run), "--data", str(run.parent / "heat.nc"), "--resolution", "16x12", "32x24", "-o", str(out)]
    assert main([*asked, "--coverage", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "coverage in percent, asked for 50.0, of 10 samples by 1 for calibration" in told and "16x12 (calibration)" in told
    assert "on 95.0 % of the domain" in told and told.split("written")[0].strip() == (out / "errors.txt").read_text().strip()
    with xarray.open_dataset(out / "coverage.nc", engine="h5netcdf") as found:
        assert dict(found.sizes) == {"band": 2, "resolution": 2, "time": 4, "field": 2} and np.isfinite(found.coverage).all()
    assert Calibration.load(out).norm.shape == (1, 4)
    for words, sentence in (
        (["--coverage", "0.9"], "got 1 calibration samples for a coverage of 0.9, which needs at least 9"),
        (["--coverage", "90"], "got the coverage 90.0; give a probability"),
    ):
        assert main([*asked, *words]) == 2 and sentence in capsys.readouterr().err
    assert main(["evaluate", str(run), "--part", "validation", "--coverage", "0.5"]) == 2
    assert "cannot be measured on them; choose --part test" in capsys.readouterr().err
