"""From a recipe to an animated rollout of a learned particle simulation, by three commands; files, resuming, mistakes."""

import dataclasses
import shutil

import pytest
import torch
from PIL import Image

from opkernels import generate, open_particles
from opkernels.cli import main
from opkernels.evaluation.animation import animate_particles
from opkernels.evaluation.particle_rollout import roll_out
from opkernels.models import SFBC
from opkernels.storage import read_tensors, write_tensors
from opkernels.training.particle_config import ParticleConfig, build_stepper, read_particle_config
from opkernels.training.particle_files import load_stepper, save_stepper
from opkernels.training.particle_runs import train_run
from opkernels.training.particles import ParticleOptions, ParticleStepper, fit_particles, frame_velocities

SMALL = ["times={stop: 0.2, count: 11}", "resolution=1/16", "samples=3"]


def config_of(folder, **changes):
    training = ParticleOptions(steps=4, unroll=1, noise=0.01)
    return ParticleConfig(data=str(folder / "gas.nc"), train=2, test=1, model={"hidden_channels": [4, 4]}, training=training, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Hold a file of three small flows of gas."""
    folder = tmp_path_factory.mktemp("gas")
    assert main(["generate", "sfbc_gas", *SMALL, "-o", str(folder / "gas.nc"), "--workers", "1"]) == 0
    return folder


def test_three_commands(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gas.yaml").write_text(
        "data: gas.nc\ntrain: 2\ntest: 1\nmodel: {hidden_channels: [8, 8]}\ntraining: {steps: 20, lr: 5e-3}\n"
    )
    shutil.copy(folder / "gas.nc", tmp_path)
    assert main(["train", "gas.yaml", "training.unroll=1"]) == 0
    assert "next: opkernels rollout runs/gas" in capsys.readouterr().out
    losses = [float(line.split(",")[1]) for line in (tmp_path / "runs/gas/losses.csv").read_text().splitlines()[1:]]
    assert len(losses) == 20 and min(losses) > 0
    assert main(["rollout", "runs/gas", "--steps", "11"]) == 0
    told = capsys.readouterr().out
    assert "11 steps of 0.02; 9 of them have a truth" in told and "1 test flows" in told
    flow = frame_velocities(open_particles("gas.nc")[2])
    free = [((flow.positions[0] + 0.02 * n * flow.velocities[0] - flow.positions[n]).square().mean()).item() for n in range(1, 6)]
    assert f"{sum(free) / 5:.3e}" in next(line for line in told.splitlines() if "first 5 steps" in line).split()[-1]
    made = open_particles("runs/gas/rollout/rollout.nc")
    assert made[0].positions.shape == (12, 32, 1) and torch.isfinite(made[0].positions).all()
    with Image.open("runs/gas/rollout/particles.gif") as picture:
        assert picture.n_frames == 12
    assert main(["train", "gas.yaml"]) == 2 and "already holds a run; add --resume" in capsys.readouterr().err
    assert main(["rollout", "runs/gas", "--part", "validation"]) == 2
    assert main(["rollout", "runs/gas", "--resolution", "64"]) == 2
    assert main(["evaluate", "runs/gas"]) == 2 and "look at it with opkernels rollout" in capsys.readouterr().err
    assert main(["rollout", "runs/gas", "--data", "gas.nc", "--samples", "1", "--steps", "1", "-o", "other"]) == 0


def test_a_rollout_runs_on_the_device_asked_for(folder, tmp_path, monkeypatch):
    config = config_of(folder, run_dir=str(tmp_path / "run"))
    train_run(config, quiet=True)
    device, moved = torch.device("cuda", 1), []
    monkeypatch.setattr("opkernels.evaluation.particle_rollout.usable_device", lambda name: {"cuda:1": device}[name])
    monkeypatch.setattr(ParticleStepper, "to", lambda self, *target: moved.append(target) or self)
    assert main(["rollout", str(tmp_path / "run"), "--steps", "1", "--device", "cuda:1"]) == 0
    assert moved == [(device,)]


def test_a_stepper_comes_back_bit_for_bit(folder, tmp_path):
    config = config_of(folder)
    flow = config.trajectories("test")[0]
    runs = [frame_velocities(run) for run in open_particles(folder / "gas.nc")]
    assert torch.equal(flow.positions, runs[2].positions)  # the last one; the first ones are trained on
    assert [torch.equal(a.positions, b.positions) for a, b in zip(config.trajectories("train"), runs, strict=False)] == [True, True]
    assert len(dataclasses.replace(config, frames=4).trajectories("test")[0]) == 4
    stepper = build_stepper(config, config.trajectories("train"))
    save_stepper(stepper, tmp_path / "a.safetensors")
    again = load_stepper(tmp_path / "a.safetensors")
    assert torch.equal(roll_out(stepper, flow, 5).positions, roll_out(again, flow, 5).positions)
    assert (again.dt, again.velocity_scale, again.gravity) == (stepper.dt, stepper.velocity_scale, stepper.gravity)
    double = build_stepper(config, config.trajectories("train")).double()
    save_stepper(double, tmp_path / "b.safetensors")
    assert next(load_stepper(tmp_path / "b.safetensors").parameters()).dtype == torch.float64
    with pytest.raises(ValueError, match="let it end in .safetensors"):
        save_stepper(stepper, tmp_path / "a")
    tensors, header = read_tensors(tmp_path / "a.safetensors")
    older = {name: value for name, value in header.items() if name != "support"}  # of versions in which steppers had none
    assert len(older) == len(header) - 1 and again.support == stepper.support == flow.particles.support
    write_tensors(tmp_path / "older.safetensors", tensors, older)
    old = load_stepper(tmp_path / "older.safetensors")
    assert old.support is None and torch.equal(roll_out(stepper, flow, 5).positions, roll_out(old, flow, 5).positions)
    for change, told in (
        ({"format": "x"}, "does not hold a learned particle"),
        ({"model": {"kernel": 3}}, "lacks a part"),
        ({"dt": None}, "lacks"),
    ):
        write_tensors(tmp_path / "c.safetensors", tensors, header | change)
        with pytest.raises(ValueError, match=told):
            load_stepper(tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="there is no file"):
        load_stepper(tmp_path / "d.safetensors")


def test_a_training_cut_off_goes_on_bit_by_bit(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("opkernels.training.particles._EVERY", 3)
    config = config_of(folder, run_dir=str(tmp_path / "whole"))
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=10))
    whole = train_run(config, quiet=True)

    def stop(update, loss):
        if update == 7:
            raise KeyboardInterrupt

    cut = dataclasses.replace(config, run_dir=str(tmp_path / "cut"))
    flows = cut.trajectories("train")
    with pytest.raises(KeyboardInterrupt):
        fit_particles(build_stepper(cut, flows), flows, cut.training, on_step=stop, checkpoint=tmp_path / "cut" / "last.safetensors")
    assert not (tmp_path / "cut" / "stepper.safetensors").exists()
    resumed = train_run(cut, resume=True, quiet=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert (tmp_path / "cut/losses.csv").read_text() == (tmp_path / "whole/losses.csv").read_text()
    other = dataclasses.replace(cut, training=dataclasses.replace(cut.training, lr=1e-3))
    with pytest.raises(ValueError, match="belongs to another training"):
        train_run(other, resume=True, quiet=True)


def test_walls_and_gravity_come_from_data_and_configuration(tmp_path):
    """A cavity's lid is seen by the network through the velocities of its wall particles, and kept in the file."""
    recipe = {"flow": "lid_driven_cavity", "times": {"stop": 0.2, "count": 5}, "resolution": 0.2, "samples": 1}
    generate(recipe, tmp_path / "c.nc", workers=1)
    config = ParticleConfig(data=str(tmp_path / "c.nc"), train=1, test=0, gravity=(0.0, -1.0), model={"hidden_channels": [4, 4]})
    flows = config.trajectories("train")
    stepper = build_stepper(config, flows)
    assert stepper.model.boundary_channels == 3 and stepper.gravity == (0.0, -1.0) and (stepper.boundary_velocities[:, 0] == 1).any()
    save_stepper(stepper, tmp_path / "a.safetensors")
    one, two = (roll_out(s, flows[0], 3) for s in (stepper, load_stepper(tmp_path / "a.safetensors")))
    assert torch.equal(one.positions, two.positions)
    still = ParticleStepper.from_frames(stepper.model, flows, gravity=config.gravity, boundary=stepper.boundary)
    assert (roll_out(still, flows[0], 3).velocities - one.velocities).norm() > 1e-4
    animate_particles(one, tmp_path / "c.gif", truth=flows[0])
    with pytest.raises(ValueError, match="let it end in .gif"):
        animate_particles(one, tmp_path / "c.mp4")
    with pytest.raises(ValueError, match=r"boundary_velocities of shape \(3, 2\)"):
        ParticleStepper.from_frames(stepper.model, flows, boundary=stepper.boundary, boundary_velocities=torch.zeros(3, 2))


def test_mistakes_are_told(folder, tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(f"data: {folder / 'gas.nc'}\ntrain: 3\ntest: 1\n")
    assert main(["train", str(path), f"run_dir={tmp_path / 'run'}"]) == 2
    assert "holds 3 simulations; ask for at most so many" in capsys.readouterr().err and not (tmp_path / "run").exists()
    path.write_text("data: a.nc\nflow: compressible\n")
    with pytest.raises(ValueError, match="flow, data: are both given"):
        read_particle_config(path)
    assert main(["train", str(path), "data=none.nc", "flow=''"]) == 2
    assert "there is no file none.nc" in capsys.readouterr().err
    flows = [frame_velocities(run) for run in open_particles(folder / "gas.nc")]
    stepper = ParticleStepper.from_frames(SFBC(flows[0].particles.domain, 2, 1, hidden_channels=(4,)), flows)
    with pytest.raises(ValueError, match="got 0 steps"):
        roll_out(stepper, flows[0], 0)


def test_a_device_that_is_absent_is_refused_before_any_flow_is_solved(tmp_path, monkeypatch):
    monkeypatch.setattr(ParticleConfig, "trajectories", lambda *_: pytest.fail("flows were solved"))
    config = ParticleConfig(flow="compressible", device="cuda:99", run_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="cannot use the device 'cuda:99'"):
        train_run(config)
    assert not (tmp_path / "run").exists()
