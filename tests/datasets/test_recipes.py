"""Every bundled recipe of fields on grids, made small: it generates, opens, holds finite fields and says where it came from."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from opkernels import Sphere, generate, solvers
from opkernels.datasets.inspection import describe
from opkernels.datasets.realization import _stream, draw_parameters, solve_samples
from opkernels.datasets.recipe import read_recipe
from opkernels.datasets.recipe_files import bundled, load_data, override
from opkernels.spherical import Harmonics

GRIDS = sorted(name for name in bundled() if "solver" in load_data(name))


def small(name, *words):
    data = yaml.safe_load(bundled()[name].read_text())
    times = ["times=[0, 0.01]"] if "times" in data else []
    return override(data, ["resolution=16", "samples=2", "batch=1", "checked=1", *times, *words])


@pytest.mark.parametrize("name", GRIDS)
def test_a_small_version_is_generated_and_opened(name, tmp_path):
    full = read_recipe(name)
    assert full.plain["title"] and full.samples >= 50 and max(full.resolution) <= 1024
    n = 32 if name in ("kolmogorov_re1000", "stirred_turbulence") else 16  # their eight waves need 25 points
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


def test_a_sphere_starts_from_the_same_flow_at_every_resolution(tmp_path):
    """Coefficients up to degree 20 equal to 1e-12, and the file opens as a data set on the sphere."""
    harmonics = Harmonics(20)
    words = ["dtype=float64", "samples=2", "checked=0", "times=[0]"]
    recipes = [override(load_data("shallow_water_sphere"), [*words, f"resolution={shape}"]) for shape in ([32, 64], [48, 96])]
    sets: list[Any] = [generate(recipe, tmp_path / f"{i}.nc", workers=1) for i, recipe in enumerate(recipes)]
    few, many = sets
    assert few.domain == Sphere(6.37122e6) and few.to_xarray()["vorticity"].dims == ("sample", "time", "latitude", "longitude")
    for field in ("geopotential", "vorticity"):
        values = [torch.tensor(np.asarray(data.fields[field])) for data in sets]
        a, b = (harmonics.analyze(x, Sphere().grid(*x.shape[-2:])) for x in values)
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


def test_each_field_tells_its_own_error(tmp_path):
    """Beside a geopotential of thousands, an error of the vorticity in 1/s does not count."""
    words = ["dtype=float64", "samples=1", "checked=1", "times=[0, 10800]", "resolution=[12, 24]"]
    told: Any = generate(override(load_data("shallow_water_sphere"), words), tmp_path / "d.nc", workers=1).attributes
    geopotential, vorticity, _ = told["solver_error_fields"]
    assert geopotential == pytest.approx(told["solver_error"][-1], rel=1e-6) and vorticity > 1.2 * geopotential > 0
    assert f"geopotential {geopotential:.2g}, vorticity {vorticity:.2g}, divergence" in describe(tmp_path / "d.nc")


def test_a_sphere_is_written_with_its_radius():
    recipe = load_data("shallow_water_sphere")
    assert read_recipe(recipe | {"domain": {"sphere": "2*pi", "points": "equiangular"}}).domain == Sphere(2 * math.pi, points="equiangular")
    with pytest.raises(ValueError, match="domain.sphere is 'far'; give a number"):
        read_recipe(recipe | {"domain": {"sphere": "far"}})
    with pytest.raises(ValueError, match=r"give .*\{sphere: radius\} or axes"):
        read_recipe(recipe | {"domain": {"sphere": 1, "names": ["a", "b"]}})
    with pytest.raises(ValueError, match="ShallowWaterSphere got domain=Domain.*; give a Sphere"):
        read_recipe(recipe | {"domain": {"periodic": [1, 1]}})


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


STIRRED = {
    "solver": {
        "name": "ScalarTransport2D",
        "diffusivity": 0.01,
        "mean_gradient": [1, 0],
        "flow": {
            "name": "NavierStokes2D",
            "viscosity": "nu",
            "stirring": {"name": "RingForcing", "rate": 0.3, "wavenumber": 3, "interval": 0.05},
        },
    },
    "domain": {"periodic": ["2*pi", "2*pi"]},
    "initial": {"vorticity": 0, "scalar": 0},
    "parameters": {"nu": {"loguniform": [1e-2, 1e-1]}},
    "times": [0.2],
    "resolution": 16,
    "samples": 3,
    "seed": 5,
    "dt": 0.05,
    "dtype": "float64",
}


def test_a_scalar_in_a_stirred_flow_is_what_its_solvers_make():
    recipe = read_recipe(STIRRED)
    fields = solve_samples(recipe, range(3))
    for i in range(3):
        alone = solve_samples(recipe, range(i, i + 1))
        for name in ("vorticity", "scalar"):  # a sample's forcing is its own, whatever the batch
            np.testing.assert_allclose(fields[name][i], alone[name][0], rtol=0, atol=1e-12)
            assert fields[name][i].abs().max() > 1e-3
    nu = draw_parameters(recipe, range(3))["nu"]
    other = read_recipe(STIRRED | {"seed": 6})
    assert (solve_samples(other, range(3))["vorticity"] - fields["vorticity"]).abs().max() > 0.1
    stirring = solvers.RingForcing(rate=0.3, wavenumber=3.0, interval=0.05, seed=_stream(5, "flow.stirring"))
    domain: Any = recipe.domain
    flow = solvers.NavierStokes2D(domain, viscosity=torch.from_numpy(nu), stirring=stirring)
    solver = solvers.ScalarTransport2D(flow, diffusivity=0.01, mean_gradient=(1, 0))
    expected = solver.solve(torch.zeros(3, 2, 16, 16, dtype=torch.float64), [0.2], dt=0.05)
    np.testing.assert_allclose(fields["scalar"], expected[:, :, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["solver.flow.viscosity={uniform: [0.1, 0.2]}"], "solver.flow.viscosity is .*drawn for each sample; give a number, an expression"),
        (["solver.flow.name=NavierStoke2D"], "solver.flow.name is 'NavierStoke2D'; did you mean NavierStokes2D"),
        (["solver.flow.stirring.seed=3"], "RingForcing takes no solver.flow.stirring.seed"),
        (["solver.flow.stirring.rate=-1"], "RingForcing got rate=-1; give a positive number"),
        (["solver.flow.name=Burgers1D"], "Burgers1D takes no solver.flow.stirring"),
        (["solver.flow.forcing=nu"], "solver.flow.forcing is nu, one number per sample"),
        (["solver.flow=3"], "ScalarTransport2D got flow=3; give a NavierStokes2D solver"),
    ],
)
def test_mistakes_in_a_part_are_told(words, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(override(STIRRED, words))
