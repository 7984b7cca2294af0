"""From a recipe to a file: the numbers, the mistakes it tells, and what survives being killed."""

import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from opkernels import Domain, generate, open_trajectories, solvers
from opkernels.datasets import generation
from opkernels.datasets.expressions import Expression, constant
from opkernels.datasets.realization import draw_parameters, solve_samples
from opkernels.datasets.recipe import read_recipe
from opkernels.datasets.recipe_files import override
from opkernels.solvers import GaussianRandomField, NavierStokes2D, SolverError

SMALL = {
    "solver": {"name": "NavierStokes2D", "viscosity": {"loguniform": ["1e-2", "1e-1"]}, "forcing": "0.1*sin(2*pi*(x + y))"},
    "domain": {"periodic": [1, "2*pi"]},
    "initial": {"name": "GaussianRandomField", "alpha": 2.5, "tau": 3},
    "times": {"stop": 0.2, "count": 3},
    "resolution": [16, 12],
    "samples": 7,
    "batch": 2,
    "checked": 1,
}


class Decay:
    """u_t = -rate u, known in closed form, on any domain."""

    fields = ("u",)

    def __init__(self, domain, *, rate=1.0, source=None):
        self.domain, self.rate, self.source = domain, torch.as_tensor(rate), source

    def solve(self, u0, times, *, t0=0.0, dt=None):
        assert torch.get_num_threads() == 1
        factor = torch.exp(-self.rate.reshape(-1, 1) * torch.tensor(times)[None])
        u = u0[:, None] * factor.reshape(*factor.shape, *[1] * (u0.ndim - 1)).to(u0)
        if self.source is not None and not isinstance(self.source, torch.Tensor):
            u = u + torch.as_tensor(self.source(*self.domain.grid_of(u0).coordinates(dtype=torch.float64))).to(u0)
        if not torch.isfinite(u).all():
            bad = int((~torch.isfinite(u)).flatten(1).any(1).nonzero()[0])
            raise SolverError(f"Decay: sample {bad} is not finite at t=0.5; lower the rate", sample=bad)
        return u


class Half:
    """A stationary solver: half of the coefficient."""

    fields = ("pressure",)

    def __init__(self, domain):
        self.domain = domain

    def solve(self, coefficient):
        return coefficient / 2


@pytest.fixture
def decay(monkeypatch):
    """Make the two solvers above public names of `opkernels.solvers`, and return a recipe of the first."""
    for kind in (Decay, Half):
        monkeypatch.setattr(solvers, kind.__name__, kind, raising=False)
    monkeypatch.setattr(solvers, "__all__", [*solvers.__all__, "Decay", "Half"])
    return {
        "solver": {"name": "Decay", "rate": {"uniform": [1, 2]}},
        "domain": {"periodic": [1, 1]},
        "initial": "1 + k * sin(2*pi*x)",
        "parameters": {"k": {"choice": [1, 2, 3]}},
        "times": [0, 0.5, 1],
        "resolution": [8, 6],
        "samples": 5,
        "batch": 2,
        "dtype": "float64",
    }


def test_the_file_holds_the_solution_and_where_it_came_from(decay, tmp_path):
    data = generate(decay, tmp_path / "d.nc", workers=1)
    x = np.arange(8) / 8
    rate, k = data.parameters["rate"], data.parameters["k"]
    expected = (
        np.exp(-rate[:, None] * data.times)[:, :, None, None, None] * (1 + k[:, None] * np.sin(2 * np.pi * x))[:, None, None, :, None]
    )
    np.testing.assert_allclose(data.read(), np.broadcast_to(expected, (5, 3, 1, 8, 6)), rtol=1e-14)
    assert ((rate > 1) & (rate < 2)).all() and len(set(rate)) == 5 and set(k) <= {1, 2, 3}
    assert data.attributes["solver"] == "Decay" and data.attributes["seed"] == 0 and "torch" in data.attributes["versions"]
    assert np.abs(data.attributes["solver_error"]).max() < 1e-14
    assert list(tmp_path.iterdir()) == [tmp_path / "d.nc"]
    again = generate(json.loads(data.attributes["recipe"]), tmp_path / "e.nc", workers=1)
    assert (tmp_path / "e.nc").read_bytes() == (tmp_path / "d.nc").read_bytes() and torch.equal(again.read(), data.read())


def test_a_file_agrees_with_the_solver_called_by_hand(tmp_path):
    recipe = SMALL | {"solver": {"name": "NavierStokes2D", "viscosity": 0.02}, "samples": 2, "dtype": "float64"}
    data = generate(recipe, tmp_path / "d.nc", workers=1)
    domain = Domain.periodic(1.0, 2 * math.pi)
    u0 = GaussianRandomField(domain, alpha=2.5, tau=3.0).sample(2, (16, 12), seed=0, dtype=torch.float64)
    torch.testing.assert_close(data.read(), NavierStokes2D(domain, viscosity=0.02).solve(u0, [0, 0.1, 0.2]))
    assert data.read().std() > 0.01


def test_samples_do_not_depend_on_how_many_there_are_nor_on_the_seed_of_others():
    one, many = read_recipe(SMALL | {"samples": 4}), read_recipe(SMALL | {"samples": 9, "batch": 3})
    a, b = draw_parameters(one, range(4)), draw_parameters(many, range(2, 9))
    np.testing.assert_array_equal(a["viscosity"][2:], b["viscosity"][:2])
    fields = [solve_samples(r, s)["vorticity"] for r, s in ((one, range(2, 4)), (many, range(1, 4)))]
    assert torch.equal(fields[0][:, 0], fields[1][1:, 0]), "initial fields"
    torch.testing.assert_close(fields[0], fields[1][1:], rtol=0, atol=1e-4)
    other = draw_parameters(read_recipe(SMALL | {"seed": 1}), range(4))
    assert (other["viscosity"] != a["viscosity"]).all()


def test_laws_have_their_distributions():
    laws = {"u": {"uniform": [-1, 3]}, "l": {"loguniform": [1e-4, 1e-2]}, "c": {"choice": [1, 5]}}
    drawn = draw_parameters(read_recipe(SMALL | {"parameters": laws, "samples": 4000}), range(4000))
    ranks = {"u": (drawn["u"] + 1) / 4, "l": (np.log10(drawn["l"]) + 4) / 2}
    for rank in ranks.values():  # Kolmogorov-Smirnov distance of uniform numbers, below 1.95/sqrt(n) with probability 0.999
        assert np.abs(np.sort(rank) - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / math.sqrt(4000)
    assert abs((drawn["c"] == 1).mean() - 0.5) < 3.3 * 0.5 / math.sqrt(4000)
    assert abs(np.corrcoef(ranks["u"], ranks["l"])[0, 1]) < 0.06


def test_forcings_of_space_time_and_parameters_reach_the_solver():
    base = SMALL | {"parameters": {"a": {"uniform": [1, 2]}}, "initial": 0, "dtype": "float64", "dt": 0.05}
    a = draw_parameters(read_recipe(base), range(3))["a"]
    recipe = override(base, ["solver.forcing=a * t * cos(2*pi*x)", "solver.viscosity=0"])
    got = solve_samples(read_recipe(recipe), range(3))["vorticity"]
    x = np.arange(16) / 16  # w = a t^2/2 cos(2 pi x): its own advection vanishes
    expected = a[:, None, None, None] * (np.array([0, 0.1, 0.2]) ** 2 / 2)[:, None, None] * np.cos(2 * np.pi * x)[:, None]
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), atol=1e-12)
    drag = solve_samples(
        read_recipe(override(base, ["solver.drag=1/a", "solver.viscosity=0", "solver.forcing=null", "initial=cos(2*pi*x)"])), range(3)
    )
    expected = np.exp(-np.array([0, 0.1, 0.2]) / a[:, None])[..., None, None] * np.cos(2 * np.pi * x)[:, None]
    np.testing.assert_allclose(drag["vorticity"], np.broadcast_to(expected, got.shape), atol=1e-12)


def test_a_number_is_a_constant_forcing():
    recipe = override(SMALL, ["solver.forcing=2.0", "solver.viscosity=0.1", "initial=0", "dtype=float64"])
    got = solve_samples(read_recipe(recipe), range(1))["vorticity"]  # the mean of w grows as the force does
    np.testing.assert_allclose(got, np.broadcast_to(2 * np.array([0, 0.1, 0.2])[:, None, None], got.shape), atol=1e-12)
    with pytest.raises(ValueError, match="the forcing has a NaN or infinity; look at its formula"):
        solve_samples(read_recipe(override(SMALL, ["solver.forcing=log(x - 1)"])), range(1))


def test_random_forcings_are_stored_beside_the_solution(tmp_path):
    forcing = {"name": "GaussianRandomField", "alpha": 4, "tau": 3, "transform": "2 * value"}
    recipe = SMALL | {"solver": {"name": "NavierStokes2D", "viscosity": 0.01, "forcing": forcing}, "initial": 0, "dtype": "float64"}
    data = generate(recipe, tmp_path / "d.nc", workers=1)
    force = data.fields["forcing"]
    assert force.shape == (7, 16, 12) and len({float(force[i].std()) for i in range(7)}) == 7
    early = solve_samples(read_recipe(recipe | {"times": [1e-4]}), range(2))["vorticity"][:, 0] / 1e-4
    kept, given = (torch.fft.rfft2(v)[:, :4, 1:4] for v in (early, torch.from_numpy(force[:2])))
    torch.testing.assert_close(kept, given, rtol=1e-3, atol=1e-3 * given.abs().max().item())


def test_stationary_solvers_store_coefficient_and_solution(decay, tmp_path):
    recipe = {
        "solver": {"name": "Half"},
        "domain": {"box": [1, 2]},
        "coefficient": {"name": "GaussianRandomField", "alpha": 2, "tau": 3, "transform": "where(value >= 0, 12, 3)"},
        "resolution": 8,
        "samples": 3,
    }
    data = generate(recipe, tmp_path / "d.nc", workers=1)
    assert data.times is None and list(data.fields) == ["coefficient", "pressure"] and data.shape == (8, 8)
    x = data.read()
    assert set(x[:, 0, 0].unique().tolist()) == {3.0, 12.0} and torch.equal(x[:, 0, 1] * 2, x[:, 0, 0])
    assert data.fields["coefficient"].rule == "mean"
    with pytest.raises(ValueError, match="Half is stationary and has no times; remove it"):
        read_recipe(recipe | {"times": [1]})


@pytest.mark.parametrize("change,told", [
    ({"samples": 2.7}, "samples is 2.7; give a whole number"),
    ({"resolution": (16.9, 16)}, "resolution is 16.9; give a whole number"),
    ({"seed": 1.5}, "seed is 1.5; give a whole number"),
])  # fmt: skip
def test_fractions_are_not_cut(change, told, decay, tmp_path):
    with pytest.raises(ValueError, match=told):
        generate(decay, tmp_path / "d.nc", **change)


def test_numbers_of_numpy_are_taken(decay, tmp_path):
    data = generate(decay, tmp_path / "d.nc", samples=np.int64(2), resolution=np.array([4, 6]), seed=np.uint8(3), workers=1)
    assert len(data) == 2 and data.shape == (4, 6) and data.attributes["seed"] == 3


def test_what_cannot_be_stored_or_solved_is_told_before_the_work(decay, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "_solve_shards", None)
    with pytest.raises(ValueError, match="u is a field and an axis"):
        generate(decay | {"domain": {"periodic": [1, 1], "names": ["u", "y"]}, "initial": 1}, tmp_path / "d.nc")
    with pytest.raises(ValueError, match="viscosity=-1; it must be at least 0"):
        generate(override(SMALL, ["solver.viscosity={uniform: [-1, 1]}"]), tmp_path / "d.nc")
    random = {"name": "GaussianRandomField", "transform": "a * value"}
    with pytest.raises(ValueError, match="forcing has the name of a random field among the solver's arguments"):
        solver = {"name": "NavierStokes2D", "viscosity": 1, "forcing": random}
        generate(SMALL | {"solver": solver, "parameters": {"forcing": {"choice": [1]}, "a": {"choice": [1]}}}, tmp_path / "d.nc")
    assert list(tmp_path.iterdir()) == []


def test_a_parameter_may_carry_the_name_of_an_argument_that_uses_it():
    recipe = read_recipe(override(SMALL, ["solver.viscosity=viscosity", "parameters={viscosity: {uniform: [1, 2]}}"]))
    assert recipe.parameters["viscosity"].values == (1, 2)


def test_the_solvers_own_error_is_that_of_the_resolution(tmp_path):
    rough = SMALL | {"solver": {"name": "NavierStokes2D", "viscosity": 0.01}, "initial": "20*cos(2*pi*x)*cos(y) + 10*sin(4*pi*x + y)"}
    errors = []
    for n in (16, 32):
        data = generate(rough | {"resolution": n, "dtype": "float64", "samples": 1}, tmp_path / f"{n}.nc", workers=1)
        errors.append(data.attributes["solver_error"])
    true = data.at(16, 16).read()[0] - open_trajectories(tmp_path / "16.nc").read()[0]
    relative = true.flatten(1).norm(dim=1) / data.at(16, 16).read()[0].flatten(1).norm(dim=1)
    np.testing.assert_allclose(errors[0], relative, rtol=0.05, atol=1e-12)
    assert errors[0][-1] > 10 * errors[1][-1] > 0
    given = generate(rough | {"samples": 1, "dt": 0.02, "dtype": "float64"}, tmp_path / "dt.nc", workers=1)
    assert len(given.attributes["solver_error_time"]) == 3 and 0 < given.attributes["solver_error_time"][-1] < 1e-2


@pytest.mark.slow
def test_the_same_bits_for_any_number_of_workers(tmp_path):
    one, three = tmp_path / "1.nc", tmp_path / "3.nc"
    generate(SMALL, one, workers=1)
    generate(SMALL, three, workers=3)
    assert one.read_bytes() == three.read_bytes()
    assert sorted(tmp_path.iterdir()) == [one, three]


def test_killed_twenty_times_the_file_is_the_undisturbed_one(tmp_path):
    recipe = SMALL | {"checked": 0}
    start = time.perf_counter()
    generate(recipe, tmp_path / "whole.nc", workers=1)
    duration = time.perf_counter() - start
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["opkernels.datasets.generation", "opkernels.solvers"])
    chance, kills, path = np.random.default_rng(), 0, tmp_path / "cut.nc"
    while kills < 20:
        process = context.Process(target=generate, args=(recipe, path), kwargs={"workers": 1})
        process.start()
        process.join(chance.uniform(0, 0.6 * duration))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        if path.exists():  # whenever it is there, it is whole
            assert len(open_trajectories(path)) == 7 and path.read_bytes() == (tmp_path / "whole.nc").read_bytes()
            path.unlink()
    generate(recipe, path, workers=1)
    assert path.read_bytes() == (tmp_path / "whole.nc").read_bytes()
    assert sorted(left.name for left in tmp_path.iterdir()) == ["cut.nc", "whole.nc"]


def test_shards_that_are_whole_are_kept_and_damaged_ones_made_again(tmp_path, monkeypatch):
    path, made = tmp_path / "d.nc", []
    generate(SMALL, tmp_path / "whole.nc", workers=1)
    make = generation.make_shard

    def counting(job, shard):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(shard)
        make(job, shard)

    monkeypatch.setattr(generation, "make_shard", counting)
    with pytest.raises(KeyboardInterrupt):
        generate(SMALL, path, workers=1)
    assert made == [-1, 0, 1, 2] and not path.exists()
    folder = tmp_path / "d.nc.parts"
    shard = folder / "000001.shard"
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 1
    shard.write_bytes(damaged)
    (folder / "000002.shard").write_bytes((folder / "000002.shard").read_bytes()[:-7])
    (folder / ".000003.shard.abc.tmp").write_bytes(b"half")
    made.clear()
    generate(SMALL, path, workers=1)
    assert made == [1, 2, 3]
    assert path.read_bytes() == (tmp_path / "whole.nc").read_bytes() and not folder.exists()


def test_a_finished_file_is_opened_and_another_recipes_is_refused(decay, tmp_path, monkeypatch):
    path = tmp_path / "d.nc"
    generate(decay, path, workers=1)
    monkeypatch.setattr(generation, "_solve_shards", None)  # not called again
    assert len(generate(decay, path, workers=1)) == 5
    with pytest.raises(ValueError, match="already there and was not made by this recipe"):
        generate(decay, path, seed=1)


def test_shards_of_another_recipe_are_refused(decay, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "_assemble", stop)
    with pytest.raises(KeyboardInterrupt):
        generate(decay, tmp_path / "d.nc", workers=1)
    with pytest.raises(ValueError, match="unfinished generation that differs in seed; choose another file"):
        generate(decay, tmp_path / "d.nc", seed=3, workers=1)


def test_two_generations_of_one_file_are_refused(decay, tmp_path):
    folder = tmp_path / "d.nc.parts"
    with generation._locked(folder, tmp_path / "d.nc"), pytest.raises(ValueError, match="another process is generating"):
        generate(decay, tmp_path / "d.nc", workers=1)
    assert len(generate(decay, tmp_path / "d.nc", workers=1)) == 5


def test_a_blow_up_names_the_sample_and_loses_nothing(decay, tmp_path):
    bad = decay | {
        "initial": "where(k > 2, exp(1000*k), 1)",
        "parameters": {"k": {"uniform": [0, 3]}},
        "samples": 40,
        "checked": 0,
        "seed": 5,
    }
    k = draw_parameters(read_recipe(bad), range(40))["k"]
    first = int((k > 2).argmax())
    assert first > 2
    with pytest.raises(ValueError, match=f"initial u of sample {first} holds a NaN or infinity .*exp"):
        generate(bad, tmp_path / "d.nc", workers=1)
    assert len(list((tmp_path / "d.nc.parts").glob("*.shard"))) == first // 2
    # finite at first, then a negative rate: the solver complains of its own sample 0 or 1
    bad = override(
        decay, ["solver.rate=where(k > 2, -5000, 1)", "initial=1", "parameters.k={uniform: [0, 3]}", "samples=40", "checked=0", "seed=5"]
    )
    with pytest.raises(SolverError, match=f"Decay: sample {first} is not finite at t=0.5; lower the rate"):
        generate(bad, tmp_path / "e.nc", workers=1)
    assert len(list((tmp_path / "e.nc.parts").glob("*.shard"))) == first // 2


def test_a_step_too_long_is_the_likely_cause(tmp_path):
    wild = override(SMALL, ["initial=1000*a*(cos(2*pi*x)*cos(y) + sin(4*pi*x + y))", "parameters.a={choice: [0, 1]}", "dt=1", "times=[40]"])
    a = draw_parameters(read_recipe(wild), range(7))["a"]
    first = int((a == 1).argmax())
    with pytest.raises(SolverError, match=f"NavierStokes2D: sample {first} is not finite at t=.* after steps of 1; .*lower dt"):
        generate(wild | {"seed": 0, "checked": 0}, tmp_path / "d.nc", workers=1)


def test_refusals_of_a_worker_reach_the_user_and_leave_nothing(tmp_path):
    bad = override(SMALL, ["solver.viscosity=-1"])
    for workers in (1, 2):
        with pytest.raises(ValueError, match="viscosity=-1; it must be at least 0"):
            generate(bad, tmp_path / "d.nc", workers=workers)
        assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("opkernels.datasets.workers._MAIN", "import os; os._exit(9)")
    with pytest.raises(RuntimeError, match="a worker ended .*memory may have run out"):
        generate(SMALL, tmp_path / "d.nc", workers=2)


def _alive(process):
    """Whether a process of this number is there and not a zombie."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def _seconds(process):
    """CPU seconds of a process."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
@pytest.mark.parametrize("busy", [0.0, 4.5])  # CPU seconds of a worker: killed while the workers start, and at work
def test_a_killed_parent_leaves_no_worker_behind(tmp_path, busy):
    long = {"recipe": SMALL | {"resolution": [512, 512], "times": [1000.0]}, "versions": generation._versions(), "folder": str(tmp_path)}
    code = f"from opkernels.datasets.workers import run_tasks\nlist(run_tasks('datasets.generation:make_shard', {long}, [0, 1], 2))"
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    if not children.exists():
        parent.kill()
        pytest.skip("needs /proc to see the workers")
    deadline, workers = time.monotonic() + 60, []
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        workers = children.read_text().split()
    while max(map(_seconds, workers), default=busy) < busy and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2 and any(_alive(worker) for worker in workers)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while any(_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(worker) for worker in workers)


def test_places_that_cannot_be_written(decay, tmp_path):
    (tmp_path / "file").touch()
    for place, told in (("file/d.nc", "one of its folders is a file"), ("/proc/none/d.nc", "cannot be made")):
        with pytest.raises(ValueError, match=f"cannot write .*{told}"):
            generate(decay, tmp_path / place)
    with pytest.raises(ValueError, match="is a folder; give the name of a file in it"):
        generate(decay, tmp_path)
    with pytest.raises(ValueError, match="cannot write .*: the name is too long; choose a shorter one"):
        generate(decay, tmp_path / ("a" * 300))
    with pytest.raises(ValueError, match="number of processes"):
        generate(decay, tmp_path / "d.nc", workers=0)


def test_a_disk_too_small_is_told_before_the_work(decay, tmp_path):
    with pytest.raises(ValueError, match=r"takes .* GB of disk and .* GB are free"):
        generate(decay | {"resolution": [100000, 100000], "samples": 1000}, tmp_path / "d.nc", workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_loses_nothing(decay, small_disk, monkeypatch):
    monkeypatch.setattr(generation, "_require_space", lambda *_: None)
    bigger = decay | {"resolution": [32, 32], "samples": 8, "batch": 1, "checked": 0}  # 24 kB a sample, 200 kB of room
    with pytest.raises(ValueError, match=r"cannot write .*the disk is full.*"):
        generate(bigger, small_disk / "d.nc", workers=1)
    kept = list((small_disk / "d.nc.parts").glob("*.shard"))
    assert kept and not (small_disk / "d.nc").exists()
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    made, make = [], generation.make_shard
    monkeypatch.setattr(generation, "make_shard", lambda job, shard: made.append(shard) or make(job, shard))
    assert torch.isfinite(generate(bigger, small_disk / "d.nc", workers=1).read()).all()
    assert made == list(range(len(kept), 8)), "finished shards were kept"
    assert [file.name for file in small_disk.iterdir()] == ["d.nc"]


def test_every_mistake_of_a_recipe_is_told_at_once():
    bad = {
        "solver": {"name": "NavierStokes2D", "viscosty": 1e-3},
        "domain": {"periodic": [1, "pie"]},
        "initial": "sin(2*pi*z)",
        "resolutoin": [64, 64],
        "seed": -1,
        "samples": 2.5,
        "dtype": "float16",
        "times": {"stop": 1},
    }
    with pytest.raises(ValueError) as told:
        read_recipe(bad)
    for part in (
        "no key resolutoin; did you mean resolution?",
        "the key resolution is missing; add for instance resolution: [64, 64]",
        "domain.periodic is 'pie'; give a number",
        "seed is -1; give a whole number of at least 0",
        "samples is 2.5; give a whole number",
        "dtype is 'float16'; choose float32 or float64",
        "times is {'stop': 1}; give start (0 if left out), stop and count",
    ):
        assert part in str(told.value)
    with pytest.raises(ValueError, match="takes no solver.viscosty; did you mean viscosity.*uses z; did you mean|uses z"):
        read_recipe(bad | {"domain": {"periodic": [1, 1]}})


@pytest.mark.parametrize("key", ["solver", "domain", "initial", "times", "resolution", "samples"])
def test_a_missing_key_is_one_sentence(key):
    with pytest.raises(ValueError, match=f"^the recipe: the key {key} is missing; add for instance {key}: ") as told:
        read_recipe({k: v for k, v in SMALL.items() if k != key})
    assert ";" not in str(told.value).partition("; add")[2]


@pytest.mark.parametrize("word,told", [
    ("solver.name=NavierStoke2D", "did you mean NavierStokes2D"),
    ("solver={name: NavierStokes2D}", "solver.viscosity is missing"),
    ("solver.viscosity={uniform: [2, 1]}", "with 0 < low < high"),
    ("solver.viscosity={loguniform: [0, 1]}", "with 0 < low < high"),
    ("solver.viscosity={gauss: [0, 1]}", "give {uniform"),
    ("solver.forcing=sin(q)", "uses q; known are x, y, t"),
    ("initial=sin(t)", "uses t; known are x, y, viscosity, pi"),
    ("initial.alpha=one", None),
    ("initial.alfa=1", "takes no initial.alfa; did you mean alpha"),
    ("initial={vorticity: 1, u: 2}", "names the fields vorticity, u"),
    ("initial=[1, 2]", "give a number, an expression"),
    ("domain={round: [1, 1]}", "give {periodic"),
    ("domain={periodic: [1, -1]}", "length"),
    ("resolution=[16]", "2-D domain"),
    ("resolution=1", "at least 2"),
    ("resolution=64.5", "resolution is 64.5; give a whole number"),
    ("resolution=.nan", "resolution is nan; give a number"),
    ("resolution={a: 1}", "resolution is {'a': 1}; give a number"),
    ("domain={axes: 3}", "or axes with lower and upper"),
    ("domain={axes: [3]}", "or axes with lower and upper"),
    ("domain={box: [1, 1], names: 3}", "names, if any, as a list of words"),
    ("domain={periodic: [1, 1], names: [1, 2]}", "names, if any, as a list of words"),
    ("times={stop: 1, count: 1e9}", "times.count is 1000000000; give at most 100000 output times"),
    ("parameters={1: {uniform: [0, 1]}}", "parameters has the name 1; give a word"),
    ("parameters={a b: {uniform: [0, 1]}}", "parameters has the name 'a b'; give a word"),
    ("parameters={lambda: {uniform: [0, 1]}}", "parameters has the name 'lambda'; give a word"),
    ("parameters={pi: {uniform: [0, 1]}}", "the parameter pi has the name of a number; rename it"),
    ("parameters={t: {uniform: [0, 1]}}", "the parameter t has the name of the time; rename it"),
    ("parameters={value: {uniform: [0, 1]}}", "the parameter value has the name of the random field in a transform; rename it"),
    ("parameters={x: {uniform: [0, 1]}}", "the parameter x has the name of an axis; rename it"),
    ("parameters={vorticity: {uniform: [0, 1]}}", "the parameter vorticity has the name of a field; rename it"),
    ("parameters={sample: {uniform: [0, 1]}}", "the parameter sample has the name of a dimension of the file; rename it"),
    ("parameters={time: {uniform: [0, 1]}}", "the parameter time has the name of a dimension of the file; rename it"),
    ("parameters={viscosity: {uniform: [5, 6]}}", "the parameter viscosity has the name of a law among the solver's arguments; rename"),
    ("domain={periodic: [1, 1, 1], names: [x, y, vorticity]}", "vorticity is a field and an axis; give the axes other names"),
    ("domain={periodic: [1, 1, 1], names: [x, y, time]}", "time is an axis and a dimension of the file; give the axes other names"),
    ("domain={periodic: [1, 1, 1], names: [x, y, t]}", "t is an axis and the time; give the axes other names"),
    ("solver.viscosity={uniform: [-1, 1]}", "viscosity=-1; it must be at least 0"),
    ("solver.viscosity={choice: [1, -2, 1]}", "viscosity=-2; it must be at least 0"),
    ("solver.method=EULER", "method='EULER'; choose one of"),
    ("solver.mean_flow=1", "mean_flow=1; give two numbers"),
    ("domain={box: [1, 1]}", "periodic"),
    ("times=[1, 1]", "increase"),
    ("times=[]", "or a list of times"),
    ("dt=-1", "positive time step"),
    ("parameters=3", "give names with laws"),
    ("coefficient=1", "is an evolution and has no coefficient"),
])  # fmt: skip
def test_mistakes_in_values(word, told):
    recipe = override(SMALL | {"resolution": 16}, [word])
    if told is None:  # an option in words: only the class can tell
        with pytest.raises(ValueError, match="alpha"):
            solve_samples(read_recipe(recipe), range(1))
        return
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        read_recipe(recipe)
    assert "mistakes" not in str(error.value)


def test_overrides_and_places_of_recipes(tmp_path):
    assert override(SMALL, ["solver.viscosity=1e-4"])["solver"]["viscosity"] == "1e-4"
    assert SMALL["solver"]["viscosity"] != "1e-4", "the original stays"
    for word, told in (("samples", "write key=value"), ("samples.x=1", "reaches inside samples"), ("a=[1", "cannot read the value")):
        with pytest.raises(ValueError, match=told):
            override(SMALL, [word])
    with pytest.raises(ValueError, match="there is no file none.yaml; check the name"):
        generate("none.yaml", tmp_path / "a.nc")
    with pytest.raises(ValueError, match="there is no recipe navier_stokes_dem; did you mean navier_stokes_demo"):
        read_recipe("navier_stokes_dem")
    (tmp_path / "a.yaml").write_text("solver: [1\nb: 2")
    with pytest.raises(ValueError, match="not readable YAML near line"):
        read_recipe(tmp_path / "a.yaml")
    (tmp_path / "d.yaml").write_text("solver: {name: A}\ntimes: [1]\nparameters: {a: 1, b: 2,\n  a: 3}")
    with pytest.raises(ValueError, match="gives the key a twice, again in line 4; remove one"):
        read_recipe(tmp_path / "d.yaml")
    for recipe in (None, 3):
        with pytest.raises(ValueError, match=f"got the recipe {recipe}; give a YAML file, a dict or one of"):
            read_recipe(recipe)
    (tmp_path / "b.yaml").write_text("just words")
    with pytest.raises(ValueError, match="holds no keys"):
        read_recipe(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("!!python/object/apply:os.system ['touch hacked']")
    with pytest.raises(ValueError, match="not readable YAML"):
        read_recipe(tmp_path / "c.yaml")


def test_expressions():
    x, y = torch.linspace(0, 1, 5, dtype=torch.float64), torch.linspace(-2, 2, 5, dtype=torch.float64)
    cases = {
        "0.1 * (sin(2*pi*(x + y)) + cos(2*pi*(x - y)))": 0.1 * ((2 * math.pi * (x + y)).sin() + (2 * math.pi * (x - y)).cos()),
        "where(x < 0.5, -x**2, 1/(1 + y**2))": torch.where(x < 0.5, -(x**2), 1 / (1 + y**2)),
        "maximum(x, 0.3) + abs(y) - exp(-x)/2": torch.maximum(x, torch.tensor(0.3)) + y.abs() - torch.exp(-x) / 2,
        "(x >= 0.5) * tanh(y)": (x >= 0.5) * torch.tanh(y),
    }
    for text, expected in cases.items():
        torch.testing.assert_close(Expression(text, ["x", "y"])(x=x, y=y), expected)
    assert constant("2*pi", "k") == 2 * math.pi and constant("1e-3", "k") == 1e-3 and constant(3, "k") == 3.0


@pytest.mark.parametrize("text", [
    "__import__('os').system('touch hacked')", "x.numpy()", "().__class__", "[x for x in (1, 2)]", "lambda: x", "x if x else y", "f'{x}'",
    "exec('1')", "open('a')", "sin(x, y)", "sin(input=x)", "x and y", "x < y < 1", "not x", "x @ y", "x // y", "1j * x", "'a' * 3", "x[0]",
    "x := 1", "sin", "", "1 +", "(" * 500, "True", "x" * 3000, "-" * 1500 + "x",
])  # fmt: skip
def test_expressions_refuse_what_is_not_arithmetic(text):
    with pytest.raises(ValueError):
        Expression(text, ["x", "y"])


@pytest.mark.parametrize("value", ["9**9**9", "1/0", "nan", "inf", None, True, [1], "x", math.inf])
def test_constants_are_finite_numbers(value):
    with pytest.raises(ValueError, match="k is .*; give a number such as"):
        constant(value, "k")
