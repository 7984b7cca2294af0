"""Every bundled recipe of fields on grids, made small: it generates, opens, holds finite fields and says where it came from."""

import json
from typing import Any

import numpy as np
import pytest
import yaml

from opkernels import generate, solvers
from opkernels.datasets.realization import solve_samples
from opkernels.datasets.recipe import read_recipe
from opkernels.datasets.recipe_files import bundled, load_data, override

GRIDS = sorted(name for name in bundled() if "solver" in load_data(name))


def small(name, *words):
    data = yaml.safe_load(bundled()[name].read_text())
    times = ["times=[0, 0.01]"] if "times" in data else []
    return override(data, ["resolution=16", "samples=2", "batch=1", "checked=1", *times, *words])


@pytest.mark.parametrize("name", GRIDS)
def test_a_small_version_is_generated_and_opened(name, tmp_path):
    full = read_recipe(name)
    assert full.plain["title"] and full.samples >= 50 and max(full.resolution) <= 1024
    n = 32 if name == "kolmogorov_re1000" else 16  # its eight waves need 25 points
    data = generate(small(name, f"resolution={n}"), tmp_path / "d.nc", workers=1)
    fields = getattr(solvers, full.solver).fields
    assert set(fields) <= set(data.fields)
    for field, values in data.fields.items():
        values = np.asarray(values)
        assert values.shape[0] == 2 and values.shape[-1] == n and values.dtype == full.dtype
        assert np.isfinite(values).all() and np.abs(values[0] - values[1]).max() > 0, field
        assert values.std() > 0.02 * np.abs(values).max(), field
    told: Any = data.attributes
    assert told["solver"] == full.solver and told["title"] == full.plain["title"]
    assert json.loads(told["recipe"])["samples"] == 2
    assert np.isfinite(told["solver_error"]).all(), "its own error, n against 2n"


@pytest.mark.parametrize("name", GRIDS)
def test_a_recipe_says_where_its_parameters_come_from(name):
    text = bundled()[name].read_text()
    assert text.startswith("# ")
    assert "references:" in text or "Our own parameters" in text or name.startswith("navier_stokes_"), (
        "cite the source, or say that it is ours"
    )


@pytest.mark.parametrize("name", ["fno_burgers", "kdv", "mg_tfno_navier_stokes", "kolmogorov_n4"])
def test_another_resolution_starts_from_the_same_functions(name):
    """Where the coarse grid carries what is drawn: low modes equal to 1e-12, forcings among them."""
    start = ["dtype=float64"]
    few, many = (solve_samples(read_recipe(small(name, f"resolution={n}", *start)), range(1)) for n in (16, 48))
    for field, values in few.items():
        a, b = (x[:, 0] if x.ndim == len(read_recipe(name).resolution) + 2 else x for x in (values, many[field]))
        axes = tuple(range(1, a.ndim))
        a, b = (np.fft.fftn(x.numpy(), axes=axes, norm="forward") for x in (a, b))
        low = (slice(None), *[slice(0, 4)] * len(axes))
        assert np.abs(a[low] - b[low]).max() <= 1e-12 * max(np.abs(b).max(), 1e-300), field


BURGERS = {
    "solver": {"name": "Burgers1D", "viscosity": 0.1},
    "domain": {"periodic": [1]},
    "initial": "sin(2*pi*x)",
    "times": [0.1],
    "resolution": 16,
    "samples": 2,
}


@pytest.mark.parametrize("forcing", [{"uniform": [0, 1]}, "amplitude", "2 * amplitude"])
def test_a_forcing_of_one_number_per_sample_is_refused(forcing):
    recipe = BURGERS | {"solver": BURGERS["solver"] | {"forcing": forcing}, "parameters": {"amplitude": {"uniform": [0, 1]}}}
    with pytest.raises(ValueError, match="solver.forcing is .*one number per sample, which does not say where it acts"):
        read_recipe(recipe)
    read_recipe(recipe | {"solver": BURGERS["solver"] | {"forcing": "amplitude * sin(2*pi*x)"}})


GRAY = {
    "solver": {"name": "GrayScott", "feed": 0.03, "kill": 0.06},
    "domain": {"periodic": [1, 1]},
    "initial": {"a": "1 - half*b", "b": {"name": "RandomBumps", "width": 0.2}},
    "parameters": {"half": {"choice": [0.5]}},
    "times": [0, 1],
    "resolution": 16,
    "samples": 3,
    "dtype": "float64",
}


def test_an_initial_field_may_use_another():
    fields = solve_samples(read_recipe(GRAY), range(3))
    np.testing.assert_allclose(fields["a"][:, 0], 1 - 0.5 * fields["b"][:, 0], atol=1e-14)
    turned = GRAY | {"initial": {"b": "1 - a", "a": {"name": "RandomBumps", "width": 0.2}}}
    fields = solve_samples(read_recipe(turned), range(3))
    np.testing.assert_allclose(fields["a"][:, 0], 1 - fields["b"][:, 0], atol=1e-14)
    with pytest.raises(ValueError, match="the initial a uses b, which uses another field itself"):
        read_recipe(GRAY | {"initial": {"a": "1 - b", "b": "1 - a"}})
    with pytest.raises(ValueError, match="uses a; "):
        read_recipe(GRAY | {"initial": {"a": "1 - a", "b": 0}})


def test_a_solve_that_fails_names_the_sample_of_the_dataset():
    recipe = read_recipe(small("fno_darcy", "solver.max_iterations=2", "samples=9"))
    with pytest.raises(solvers.SolverError, match="did not converge in sample 7: "):
        solve_samples(recipe, range(7, 9))


def test_whole_numbers_stay_whole():
    recipe = read_recipe("kolmogorov_n4")
    assert recipe.arguments["wavenumber"] == 4 and isinstance(recipe.arguments["wavenumber"], int)
