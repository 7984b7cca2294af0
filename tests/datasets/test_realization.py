"""Recipes on the fine grid: the check of n against 2n compares solutions for the same functions."""

import math

import numpy as np
import pytest
import torch

from opkernels import Domain, generate
from opkernels.datasets.realization import solver_error
from opkernels.datasets.recipe import read_recipe
from opkernels.resample import resample
from opkernels.solvers import Burgers1D, Darcy2D, GaussianRandomField

ROCKS = {"name": "GaussianRandomField", "alpha": 2, "tau": 3, "transform": "where(value >= 0, 12, 3)"}
CELL, NODE = {"lower": 0, "upper": 1, "points": "cell"}, {"lower": 0, "upper": 1, "points": "endpoint"}


def rocks(*axes, n, **more):
    recipe = {"solver": {"name": "Darcy2D"}, "domain": {"axes": list(axes)}, "coefficient": ROCKS, "resolution": n, "samples": 2}
    return recipe | {"dtype": "float64"} | more


@pytest.mark.parametrize("axes", [(CELL, CELL), (NODE, NODE), (CELL, NODE)])
def test_two_rocks_stay_two_rocks_on_the_fine_grid(axes, tmp_path):
    data = generate(rocks(*axes, n=16, checked=2), tmp_path / "d.nc", workers=1)
    assert set(data.read()[:, :, 0].unique().tolist()) == {3.0, 12.0}
    coarse = data.grid
    fine = coarse.refined(2)
    gaussian = GaussianRandomField(data.domain, alpha=2.0, tau=3.0).sample(2, (16, 16), seed=0, dtype=torch.float64)
    a = torch.where(resample(gaussian, coarse, fine) >= 0, 12.0, 3.0).double()
    better = Darcy2D(data.domain).solve(a)[:, 0]
    if axes == (CELL, CELL):
        better = torch.nn.functional.avg_pool2d(better, 2)
    else:
        better = better[:, ::2, ::2] if axes == (NODE, NODE) else resample(better, fine, coarse)
    weights = coarse.weights(dtype=torch.float64)
    size, error = (((w**2) * weights).sum((1, 2)) for w in (better, data.read()[:, 0, 1] - better))
    told = data.attributes["solver_error"]
    np.testing.assert_allclose(np.ravel(told), (error / size).mean().sqrt(), rtol=1e-6)
    assert 0.005 < np.max(told) < 0.05


@pytest.mark.parametrize("axes", [(CELL, CELL), (NODE, NODE)])
def test_the_error_of_two_rocks_falls_with_the_spacing(axes):
    errors = [solver_error(read_recipe(rocks(*axes, n=n, samples=4, checked=4)))["solver_error"][0] for n in (17, 65)]
    assert errors[1] < 0.35 * errors[0]


def test_waves_through_two_rocks(tmp_path):
    recipe = {
        "solver": {"name": "Wave2D", "speed": ROCKS},
        "domain": {"box": [1, 1], "points": "endpoint"},
        "initial": {"displacement": "sin(pi*x)*sin(pi*y)", "velocity": 0},
        "times": [0, 0.01],
        "resolution": 33,
        "samples": 1,
    }
    data = generate(recipe, tmp_path / "d.nc", workers=1)
    assert set(np.unique(data.fields["speed"])) == {3.0, 12.0} and data.attributes["solver_error"][-1] < 0.3


def test_formulas_are_evaluated_on_the_fine_grid():
    recipe = {  # the series through 8 samples of tanh is another function
        "solver": {"name": "Burgers1D", "viscosity": 0.05},
        "domain": {"periodic": [1]},
        "initial": "tanh(8*sin(2*pi*x))",
        "times": [0.01],
        "resolution": 8,
        "samples": 1,
        "dtype": "float64",
    }
    domain = Domain.periodic(1.0)
    on = {n: torch.tanh(8 * torch.sin(2 * math.pi * domain.grid(n).coordinates(dtype=torch.float64)))[None] for n in (8, 16)}
    a, b = (Burgers1D(domain, viscosity=0.05).solve(on[n], [0.01])[0, 0] for n in (8, 16))
    b = resample(b, domain.grid(16), (8,))
    assert solver_error(read_recipe(recipe))["solver_error"][0] == pytest.approx(((a - b).norm() / b.norm()).item(), rel=1e-9)
