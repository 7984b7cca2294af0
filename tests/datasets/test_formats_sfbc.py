"""Files of the SFBC data, made up in their layouts: what is read, what is written, what is refused, damaged ones."""

import dataclasses

import h5py
import numpy as np
import pytest
import torch

from opkernels import Domain
from opkernels.datasets.formats.sfbc import read_sfbc, write_sfbc
from opkernels.datasets.particle_flows import particle_flow

NUMBERS = np.random.default_rng(0)


def line(path):
    x = np.sort(NUMBERS.uniform(-1, 1, 16)) + 0.1 * np.arange(5)[:, None]  # leaves the period
    with h5py.File(path, "w") as file:
        file.attrs.update({"minDomain": -1.0, "maxDomain": 1.0, "dt": 0.1, "particleSupport": 0.3})
        group = file.create_group("simulationData")
        for name, values in (
            ("fluidPosition", x),
            ("fluidVelocities", 0 * x + 1),
            ("fluidDensity", 0 * x + 2),
            ("fluidAreas", 0 * x + 0.25),
        ):
            group[name] = values.astype(np.float32)
    return x.astype(np.float32)


def frames(path, walls=True):
    x = NUMBERS.uniform(0, 1, (4, 9, 2))
    with h5py.File(path, "w") as file:
        for t in range(4):
            group = file.create_group(f"simulationExport/{t:05d}")
            group.attrs["time"] = 0.5 * t
            group["fluidPosition"], group["fluidVelocity"] = x[t], 2 * x[t]
            group["fluidDensity"], group["fluidArea"], group["fluidSupport"] = np.full(9, 1.5), np.full(9, 0.1), np.full(9, 0.2)
        if walls:
            file["boundaryInformation/boundaryPosition"], file["boundaryInformation/boundaryVelocity"] = x[0, :3], np.zeros((3, 2))
    return x


def test_gas_on_a_line(tmp_path):
    x = line(tmp_path / "a.hdf5")
    run = read_sfbc(tmp_path / "a.hdf5")[0]
    np.testing.assert_array_equal(run.positions[..., 0], x)
    axis = run.particles.domain.axes[0]
    assert (axis.lower, axis.upper, axis.periodic) == (-1, 1, True) and run.particles.support == 0.3
    assert float(run.particles.masses.sum()) == 4 and (run.densities == 2).all() and run.times == pytest.approx((0, 0.1, 0.2, 0.3, 0.4))


@pytest.mark.parametrize("walls", [True, False])
def test_frames_with_and_without_walls(tmp_path, walls):
    x = frames(tmp_path / "a.hdf5", walls)
    run = read_sfbc(tmp_path / "a.hdf5", domain=Domain.box(1.0, 1.0))[0]
    assert torch.equal(run.positions, torch.from_numpy(x)) and torch.equal(run.velocities, 2 * torch.from_numpy(x))
    torch.testing.assert_close(run.particles.masses, torch.full((9,), 0.15, dtype=torch.float64))
    assert run.times == (0, 0.5, 1, 1.5) and (run.walls is not None) == walls
    with pytest.raises(ValueError, match="does not tell its domain"):
        read_sfbc(tmp_path / "a.hdf5")


@pytest.mark.parametrize("name, n", [("compressible", 32), ("incompressible", 36), ("lid_driven_cavity", 25)])
def test_what_is_written_comes_back_the_same(tmp_path, name, n):
    run = particle_flow(name, 3, n_frames=3, n_particles=n)
    write_sfbc(run, tmp_path / "a.hdf5", attributes={"c0": 10.0})
    again = read_sfbc(tmp_path / "a.hdf5", domain=run.particles.domain)[0]
    for field in ("positions", "velocities", "densities", "pressures"):
        assert torch.equal(getattr(again, field), getattr(run, field)), field
    torch.testing.assert_close(again.particles.masses, run.particles.masses, rtol=1e-15, atol=0)
    assert again.times == pytest.approx(run.times, rel=1e-15) and again.particles.support == run.particles.support
    assert (again.walls is None) == (run.walls is None) == (name != "lid_driven_cavity")
    if run.walls is not None:
        assert torch.equal(again.walls, run.walls) and torch.equal(again.wall_velocities, run.wall_velocities)
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert file.attrs["c0"] == 10 and file.attrs["timesteps"] == 3
        if name == "compressible":
            assert read_sfbc(tmp_path / "a.hdf5")[0].particles.domain == run.particles.domain
            assert set(file["simulationData"]) == {"fluidPosition", "fluidVelocities", "fluidDensity", "fluidPressure", "fluidAreas"}
            assert file["simulationData/fluidAreas"].shape == (3, 32) and file.attrs["dt"] == pytest.approx(run.times[1])
        else:
            assert list(file["simulationExport"]) == ["00000", "00001", "00002"] and "fluidSupport" in file["simulationExport/00001"]


def test_refuses_to_write_what_the_files_cannot_hold(tmp_path):
    run = particle_flow("compressible", 3, n_frames=3, n_particles=16)
    with pytest.raises(ValueError, match="not equally spaced"):
        write_sfbc(dataclasses.replace(run, times=(0.0, 0.1, 0.3)), tmp_path / "a.hdf5")
    batch = run.particles.replace(batch=torch.zeros(16, dtype=torch.int64))
    with pytest.raises(ValueError, match="got a batch"):
        write_sfbc(dataclasses.replace(run, particles=batch), tmp_path / "a.hdf5")
    assert not list(tmp_path.iterdir())


def test_a_file_without_an_attribute_is_refused_in_one_sentence(tmp_path):
    line(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        del file.attrs["dt"]
    with pytest.raises(ValueError, match="dt"):
        read_sfbc(tmp_path / "a.hdf5")


def test_other_and_damaged_files_are_told_in_one_sentence(tmp_path):
    path, refused = tmp_path / "a.hdf5", 0
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="holds neither simulationExport nor"):
        read_sfbc(path)
    frames(path)
    whole = path.read_bytes()
    for trial in range(30):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged = damaged[: int(NUMBERS.integers(0, len(whole)))]
        else:
            for at in NUMBERS.integers(0, len(whole), size=8):
                damaged[at] = int(NUMBERS.integers(0, 256))
        path.write_bytes(damaged)
        try:
            read_sfbc(path, domain=Domain.box(1.0, 1.0))
        except ValueError as error:
            refused += 1
            assert str(error)
    assert refused > 10
