"""Files of particles: what xarray sees, what comes back bit for bit, how ragged numbers are filled up, what is refused."""

import json
import pickle

import numpy as np
import pytest
import torch
import xarray

from opkernels import Domain, ParticleSet, ParticleTrajectories, Trajectories, open_particles, open_trajectories
from opkernels.solvers.sph import ParticleTrajectory

TORUS = Domain.periodic(1.0, 2.0)


def run(n, seed=0, walls=False, energies=False, n_times=3):
    """Numbers in the shape of a simulation; they need not obey any equation."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n_times, n, 2, generator=g, dtype=torch.float64)
    v, rho, p = torch.randn(4, n_times, n, generator=g, dtype=torch.float64).split([2, 1, 1])
    masses = 0.5 + torch.rand(n, generator=g, dtype=torch.float64)
    told = {}
    if walls:
        told = {"walls": torch.rand(5, 2, generator=g, dtype=torch.float64), "wall_velocities": torch.zeros(5, 2, dtype=torch.float64)}
        told["wall_velocities"][3] = 1.0
    return ParticleTrajectory(
        tuple(0.5 * k for k in range(n_times)),
        x * torch.tensor([0.4, 0.9], dtype=torch.float64),
        v.movedim(0, -1),
        1 + rho[0].abs(),
        p[0],
        ParticleSet(x[0], masses, 0.1 + seed, TORUS),
        rho[0] ** 2 if energies else None,
        **told,
    )


def assert_same(a, b):
    for name in ("positions", "velocities", "densities", "pressures", "energies", "walls", "wall_velocities"):
        one, two = getattr(a, name), getattr(b, name)
        assert (one is None) == (two is None) and (one is None or torch.equal(one, two)), name
    assert torch.equal(a.particles.masses, b.particles.masses) and a.particles.support == b.particles.support
    assert a.times == b.times and a.particles.domain == b.particles.domain


RUNS = [run(7, 0, walls=True, energies=True), run(12, 1, energies=True), run(4, 2, walls=True, energies=True)]


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_xarray_shows_samples_times_particles_and_axes(tmp_path, engine):
    data = ParticleTrajectories.from_trajectories(RUNS, {"viscosity": [1, 2, 3]}, attributes={"title": "t"})
    data.save(tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc", engine=engine) as seen:
        assert seen.position.dims == seen.velocity.dims == ("sample", "time", "particle", "dim")
        assert seen.density.dims == ("sample", "time", "particle") and seen.mass.dims == ("sample", "particle")
        assert dict(seen.sizes) == {"sample": 3, "time": 3, "particle": 12, "dim": 2} and seen.position.dtype == np.float32
        assert list(seen.dim.values) == ["x", "y"] and {"support", "viscosity"} <= set(seen.coords)
        np.testing.assert_array_equal(seen.particle_type[0], [0] * 7 + [1, 1, 1, 2, 1])
        np.testing.assert_array_equal(seen.particle_type[2], [0] * 4 + [1, 1, 1, 2, 1] + [-1] * 3)
        assert np.isnan(seen.position[2, :, 9:]).all() and np.isfinite(seen.position[2, :, :9]).all()
        np.testing.assert_array_equal(seen.position.sel(dim="y")[0, :, :7], RUNS[0].positions[..., 1].float())
        assert Domain.from_dict(json.loads(seen.attrs["domain"])) == TORUS and seen.time.attrs["dt"] == 0.5
        assert all("units" in seen[name].attrs for name in seen.data_vars)
        shown = data.to_xarray()
        assert all(shown[name].equals(seen[name]) for name in seen.data_vars)


def test_simulations_come_back_bit_for_bit_lazily(tmp_path):
    ParticleTrajectories.from_trajectories(RUNS, dtype="float64").save(tmp_path / "a.nc")
    data = open_particles(tmp_path / "a.nc")
    assert all(a.mapped and a._data is None for a in data.arrays.values()), "nothing is read yet"
    assert data.arrays["position"].offset % 4096 == 0
    for a, b in zip(RUNS, data, strict=True):
        assert_same(a, b)
    assert_same(pickle.loads(pickle.dumps(data))[-1], RUNS[2])
    first, rest = data.split(train=1)
    assert len(first) == 1 and len(rest) == 2
    assert_same(rest[0], RUNS[1])
    rest.save(tmp_path / "b.nc")
    again = open_particles(tmp_path / "b.nc")
    assert len(again) == 2 and again.parameters["support"].tolist() == [1.1, 2.1]
    assert_same(again[1], RUNS[2])
    with pytest.raises(IndexError, match="simulation 3, but there are 3"):
        data[3]


def test_the_same_data_are_the_same_bytes(tmp_path):
    for name in ("a.nc", "b.nc"):
        ParticleTrajectories.from_trajectories(RUNS).save(tmp_path / name)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_positions_alone_are_unwrapped_and_give_velocities():
    """A particle that crosses the rim of a period moves on; its velocity is that of the straight path."""
    path = torch.linspace(0.7, 1.6, 10, dtype=torch.float64)
    x = torch.stack([path % 1.0, torch.full_like(path, 0.3)], 1)[:, None]
    arrays = {"position": x[None].numpy(), "mass": np.ones((1, 1)), "particle_type": np.zeros((1, 1), np.int8)}
    data = ParticleTrajectories(TORUS, np.arange(10) * 0.5, arrays, {"support": np.array([0.1])})
    torch.testing.assert_close(data[0].positions[:, 0, 0], path)
    torch.testing.assert_close(data[0].velocities[:, 0, 0], torch.full((10,), 0.2, dtype=torch.float64))
    assert (arrays["position"] == x[None].numpy()).all() and (data[0].densities == 1).all()


def test_grids_and_particles_are_told_apart(tmp_path):
    ParticleTrajectories.from_trajectories(RUNS).save(tmp_path / "p.nc")
    Trajectories.from_arrays({"u": np.zeros((2, 4, 4))}, TORUS).save(tmp_path / "g.nc")
    with pytest.raises(ValueError, match="holds particles; open it with opkernels.open_particles"):
        open_trajectories(tmp_path / "p.nc")
    with pytest.raises(ValueError, match="holds fields on a grid; open it with opkernels.open_trajectories"):
        open_particles(tmp_path / "g.nc")
    with pytest.raises(ValueError, match="there is no file"):
        open_particles(tmp_path / "none.nc")


def test_refusals():
    late = run(3, n_times=4)
    with pytest.raises(ValueError, match="got trajectory 1, a batch or of another domain or other times"):
        ParticleTrajectories.from_trajectories([RUNS[0], late])
    with pytest.raises(ValueError, match="got no trajectory"):
        ParticleTrajectories.from_trajectories([])
    with pytest.raises(ValueError, match="got the parameter mass"):
        ParticleTrajectories.from_trajectories(RUNS, {"mass": [1, 2, 3]})
    with pytest.raises(ValueError, match="got the parameter nu of shape"):
        ParticleTrajectories.from_trajectories(RUNS, {"nu": [1, 2]})
    whole = ParticleTrajectories.from_trajectories(RUNS)
    with pytest.raises(ValueError, match="got density of shape"):
        ParticleTrajectories(TORUS, whole.times, whole.arrays | {"density": np.ones((3, 3, 11))}, whole.parameters)
    with pytest.raises(ValueError, match="holds no particle of type 0"):
        ParticleTrajectories(TORUS, whole.times, whole.arrays | {"particle_type": np.ones((3, 12), np.int8)}, whole.parameters)[0]
    with pytest.raises(ValueError, match=r"split got train=1\.0"):
        whole.split(train=1.0)


def test_damaged_files_are_told_in_one_sentence(tmp_path):
    """Cut, or with bytes changed: a sentence, or a file that still opens; never another kind of error."""
    ParticleTrajectories.from_trajectories(RUNS).save(tmp_path / "a.nc")
    whole, numbers = (tmp_path / "a.nc").read_bytes(), np.random.default_rng(0)
    outcomes = []
    for trial in range(60):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged = damaged[: int(numbers.integers(0, len(whole)))]
        else:
            for at in numbers.integers(0, 6000, size=4):  # where the structure lies
                damaged[at] = int(numbers.integers(0, 256))
        (tmp_path / "b.nc").write_bytes(damaged)
        try:
            data = open_particles(tmp_path / "b.nc")
            outcomes.append(len(data))
        except ValueError as error:
            assert "\n" not in str(error).strip() and str(error)
            outcomes.append(-1)
    assert outcomes.count(-1) > 20
