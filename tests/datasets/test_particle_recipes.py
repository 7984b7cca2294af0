"""Particle data by recipe: the bundled ones, the same bits however made, mistakes in one sentence, flows that obey their laws."""

import json
import math
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
import yaml

from opkernels import generate, open_particles
from opkernels.cli import main
from opkernels.datasets.particle_flows import particle_flow
from opkernels.datasets.particle_recipe import draw_arguments, read_particle_recipe, solve_particles
from opkernels.datasets.recipe_files import bundled, load_data, override

PARTICLES = sorted(name for name in bundled() if "flow" in load_data(name))
DAM = {
    "flow": {"name": "dam_break", "width": {"uniform": [0.3, 0.6]}},
    "times": {"stop": 0.1, "count": 3},
    "resolution": 0.1,
    "samples": 5,
    "batch": 2,
}


@pytest.mark.parametrize("name", PARTICLES)
def test_a_small_version_is_generated_and_opened(name, tmp_path):
    text = bundled()[name].read_text()
    assert text.startswith("# ") and ("references:" in text or "Our own parameters" in text)
    full = read_particle_recipe(name)
    assert full.plain["title"] and full.samples >= 12
    small = override(yaml.safe_load(text), ["resolution=0.1", "samples=2", "times=[0, 0.01]"])
    data = generate(small, tmp_path / "d.nc", workers=1)
    one, two = data
    assert len(data) == 2 and one.positions.shape[0] == 2 and torch.isfinite(one.positions).all()
    assert one.positions.shape != two.positions.shape or (one.positions - two.positions).norm() > 1e-3
    assert json.loads(data.attributes["recipe"])["samples"] == 2 and data.attributes["flow"] == full.flow
    assert set(data.parameters) == {"support", *full.parameters}


def test_the_sizes_of_lagrangebench():
    recipe = read_particle_recipe("lagrangebench_tgv2d")
    start = solve_particles(read_particle_recipe(dict(recipe.plain) | {"times": [0]}), 0)
    assert start.positions.shape == (1, 2500, 2) and len(recipe.times) == 126 and recipe.samples == 200
    assert math.isclose(recipe.times[1], 0.04) and recipe.times[-1] == 5


def test_the_same_bits_for_any_number_of_workers_and_samples(tmp_path):
    generate(DAM, tmp_path / "one.nc", workers=1)
    generate(DAM, tmp_path / "two.nc", workers=2)
    assert (tmp_path / "one.nc").read_bytes() == (tmp_path / "two.nc").read_bytes()
    data = open_particles(tmp_path / "one.nc")
    few = generate(DAM | {"batch": 1}, tmp_path / "few.nc", samples=2, workers=1)
    assert all(torch.equal(a.positions, b.positions) for a, b in zip(few, data[:2], strict=True))
    assert torch.equal(solve_particles(read_particle_recipe(DAM), 1).positions.float(), data[1].positions.float())
    other = generate(DAM, tmp_path / "other.nc", samples=2, seed=1, workers=1)
    assert not np.array_equal(other.parameters["width"], few.parameters["width"])
    np.testing.assert_array_equal(data.parameters["width"], draw_arguments(read_particle_recipe(DAM), range(5))["width"])
    assert len({run.positions.shape[1] for run in data}) > 1, "columns of several sizes"
    with pytest.raises(ValueError, match="already there and was not made by this recipe"):
        generate(DAM, tmp_path / "one.nc", seed=4)


def test_killed_ten_times_the_file_is_the_undisturbed_one(tmp_path):
    recipe = DAM | {"samples": 6, "batch": 1}
    start = time.perf_counter()
    generate(recipe, tmp_path / "whole.nc", workers=1)
    duration = time.perf_counter() - start
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["opkernels.datasets.generation", "opkernels.solvers"])
    chance, kills, path = np.random.default_rng(), 0, tmp_path / "cut.nc"
    while kills < 10:
        process = context.Process(target=generate, args=(recipe, path), kwargs={"workers": 1})
        process.start()
        process.join(chance.uniform(0, 0.6 * duration))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        if path.exists():  # whenever it is there, it is whole
            assert path.read_bytes() == (tmp_path / "whole.nc").read_bytes()
            path.unlink()
    generate(recipe, path, workers=1)
    assert path.read_bytes() == (tmp_path / "whole.nc").read_bytes()
    assert sorted(left.name for left in tmp_path.iterdir()) == ["cut.nc", "whole.nc"]


def test_resolution_is_the_spacing(tmp_path):
    data = generate(DAM | {"flow": {"name": "taylor_green"}}, tmp_path / "d.nc", samples=1, resolution=0.125, workers=1)
    assert data[0].positions.shape[1] == 64 and math.isclose(float(data[0].particles.masses.sum()), 1)


def test_every_mistake_is_told_at_once():
    bad = {"flow": {"name": "dam_brek"}, "times": {"stop": 1}, "resolution": 8, "sampels": 3, "seed": -1}
    with pytest.raises(ValueError) as told:
        read_particle_recipe(bad)
    for part in (
        "the recipe has 6 mistakes",
        "no key sampels; did you mean samples?",
        "flow.name is 'dam_brek'; did you mean dam_break?",
        "times is {'stop': 1}; give start",
        "resolution is 8; for particles it is the distance of neighbors",
        "seed is -1",
        "the key samples is missing",
    ):
        assert part in str(told.value)
    for word, message in (
        ("flow.viscosity=1", "dam_break takes no flow.viscosity; known are width, depth, gravity"),
        ("flow.width={gauss: 1}", "flow.width is .*give {uniform"),
        ("flow.width={uniform: [0.3, 3]}", "^the recipe: dam_break got a column of 3 x 0.5 in a tank of 2 x 1; make it smaller$"),
        ("resolution=0.07", "^the recipe: got the particle spacing 0.07, which does not divide 1"),
        ("flow=[1]", r"flow is \[1\]; give its name"),
    ):
        with pytest.raises(ValueError, match=message):
            read_particle_recipe(override(DAM, [word]))


def test_the_command_line(tmp_path, capsys):
    path = tmp_path / "d.nc"
    assert main(["generate", "dam_break", "resolution=0.1", "samples=2", "times=[0,0.02]", "-o", str(path), "--workers", "1"]) == 0
    assert "ParticleTrajectories(2 simulations" in capsys.readouterr().out
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "2 simulations" in shown and "parameter width" in shown and "name: dam_break" in shown and "axis x" in shown
    assert main(["inspect", str(path), "--picture", str(tmp_path / "d.png")]) == 0 and (tmp_path / "d.png").stat().st_size > 5000
    assert main(["generate", "--list"]) == 0 and "lagrangebench_tgv2d" in capsys.readouterr().out


def test_vortices_decay_and_water_falls():
    """Taylor-Green: kinetic energy falls as e^(-16 pi^2 nu t); water: energy is lost, never won; a lid drags fluid along."""
    vortices = particle_flow("taylor_green", 0, n_frames=4, n_particles=576, interval=0.1)
    energy = vortices.kinetic_energy()
    expected = torch.exp(-16 * math.pi**2 * 0.01 * torch.tensor(vortices.times, dtype=torch.float64))
    torch.testing.assert_close(energy / energy[0], expected, rtol=0.04, atol=0)
    water = particle_flow("dam_break", 0, n_frames=9, n_particles=64, interval=0.15)
    height = (water.particles.masses * water.positions[..., 1]).sum(1)
    total = water.kinetic_energy() + height
    assert (total.diff() < 1e-3 * total[0]).all() and water.positions[-1, :, 0].max() > 0.9 and height[-1] < 0.75 * height[0]
    cavity = particle_flow("lid_driven_cavity", 0, n_frames=3, n_particles=100, interval=0.4, arguments={"viscosity": 0.02})
    top = cavity.positions[-1, :, 1] > 0.85
    assert cavity.velocities[-1, top, 0].mean() > 0.2 and (cavity.wall_velocities[:, 0] == 1).any()
