"""Shallow water on the sphere: exact solutions, order, invariants, published test cases, random states, refusals."""

import math
from typing import Any

import pytest
import torch
from helpers import assert_order

from opkernels import Domain, Sphere
from opkernels.solvers import RandomShallowWater, RandomSphere, ShallowWaterSphere, SolverError
from opkernels.solvers.williamson import (
    DAY,
    EARTH,
    cosine_bell,
    galewsky,
    mountain,
    rossby_haurwitz,
    steady_zonal,
    turning_rotation,
)
from opkernels.spherical import Harmonics

SMALL = (16, 32)  # carries products up to degree 10


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def mean(field, domain=EARTH):
    return (field * domain.grid(*field.shape[-2:]).weights(dtype=torch.float64)).sum((-2, -1)) / domain.measure


@pytest.mark.parametrize(
    ("angle", "method"), [(0.0, "ETDRK4B"), (math.pi / 4, "ETDRK4B"), (math.pi / 2, "ETDRK4B"), (math.pi / 4, "ETDRK4"), (0.0, "RK4")]
)
def test_steady_zonal_flow_stays(angle, method):
    """Five days about any axis; round-off gathers over the steps."""
    depth, vorticity = steady_zonal(angle).errors(SMALL, dt=3600.0, method=method)
    assert depth < 1e-12 and vorticity < 1e-11


def test_steady_zonal_flow_stays_on_equiangular_rows_too():
    """Rows at the poles, where a formula that divides by cos(latitude) fails."""
    problem, domain = steady_zonal(math.pi / 4), Sphere(EARTH.radius, points="equiangular")
    latitude, longitude = domain.grid(17, 26).coordinates(dtype=torch.float64)
    u0 = problem.state(latitude, longitude, 0.0)[None]
    gauss = problem.solver()
    solver = ShallowWaterSphere(domain, mean_depth=gauss.mean_depth, coriolis=gauss.coriolis)
    u = solver.solve(u0, [DAY], dt=3600.0)[:, 0]
    assert relative(u[:, 0], u0[:, 0]) < 1e-11 and relative(u[:, 1], u0[:, 1]) < 1e-11


@pytest.mark.parametrize(
    ("method", "numbers"), [("ETDRK4B", (8, 10, 13, 17, 22)), ("ETDRK4", (8, 10, 13, 17, 22)), ("RK4", (12, 15, 19, 24, 30))]
)
def test_temporal_order(method, numbers):
    """The unsteady exact solution has no error in space, so what is seen is the order in time."""
    errors = [turning_rotation().errors((8, 16), dt=DAY / 4 / n, end=DAY / 4, method=method) for n in numbers]
    for field in range(2):
        assert_order([1 / n for n in numbers], [e[field] for e in errors], 4)


def test_own_step_is_accurate():
    depth, vorticity = turning_rotation().errors((8, 16), end=DAY)
    assert 1e-12 < depth < 1e-6 and vorticity < 2e-5


def test_split_off_waves_are_the_equations():
    """The right-hand side of both splittings, and one written with gradients of grid values, not with the moved derivative."""
    u = RandomShallowWater(EARTH, peak=2.0, cutoff=3).sample(1, (24, 48), seed=1, dtype=torch.float64)
    u[:, 2] = 0.1 * u[:, 1].flip(-1)

    def hill(latitude, longitude):
        return 500 * latitude.sin() * latitude.cos() * longitude.cos()

    solver, explicit = (ShallowWaterSphere(EARTH, mean_depth=5000.0, orography=hill, method=method) for method in ("ETDRK4B", "RK4"))
    one, other = solver.rhs(u), explicit.rhs(u)
    assert (one - other).abs().amax((0, 2, 3)).div(one.abs().amax((0, 2, 3))).max() < 1e-12
    grid = EARTH.grid(24, 48)
    harmonics = Harmonics(grid.dealiased_degree)
    latitude, longitude = grid.coordinates(dtype=torch.float64)
    east, north = solver.wind(u).unbind(1)
    phi, zeta, delta = u.unbind(1)
    turned = zeta + 2 * 7.292e-5 * latitude.sin()

    def along_wind(field):
        dx, dy = harmonics.gradient(harmonics.analyze(field, grid), grid)
        return east * dx + north * dy

    assert relative(one[:, 0], -along_wind(phi) - (phi + 9.80616 * 5000) * delta) < 1e-9
    assert relative(one[:, 1], -along_wind(turned) - turned * delta) < 1e-9
    head = phi + 9.80616 * hill(latitude, longitude) + (east**2 + north**2) / 2
    curl, _ = harmonics.vorticity_divergence(turned * east, turned * north, grid)
    slope = harmonics.synthesize(curl - harmonics.laplacian(harmonics.analyze(head, grid), EARTH), grid)
    assert relative(one[:, 2], slope) < 1e-9


def test_linear_waves_are_exact_and_viscosity_too():
    """A small wave on a resting layer turns with √(l (l + 1) Φ̄)/a and decays with ν (l(l + 1)/a²)^p, in one step."""
    ball, ell, nu = Sphere(2.0), 3, 0.02
    latitude, longitude = ball.grid(*SMALL).coordinates(dtype=torch.float64)
    wave = 1e-9 * latitude.cos() ** ell * torch.cos(ell * longitude)
    u0 = torch.stack([wave, 2 * wave, 0 * wave])[None]
    solver = ShallowWaterSphere(ball, mean_depth=0.7, gravity=2.0, rotation=0.0, viscosity=nu, viscosity_order=2)
    u = solver.solve(u0, [3.0], dt=3.0)[0, 0]
    eigenvalue = ell * (ell + 1) / 4
    omega, decay = math.sqrt(eigenvalue * 1.4), math.exp(-3 * nu * eigenvalue**2)
    assert relative(u[0], decay * math.cos(3 * omega) * wave) < 1e-7
    assert relative(u[1], decay * 2 * wave) < 1e-7
    assert relative(u[2], decay * omega / 1.4 * math.sin(3 * omega) * wave) < 1e-7


def test_mountain_keeps_mass_energy_and_potential_enstrophy():
    problem = mountain()
    solver, harmonics, grid = problem.solver(), Harmonics(21), EARTH.grid(32, 64)
    heights = solver.orography(torch.tensor([30.0, 40.0, 30.0, 50.1]).deg2rad(), torch.tensor([270.0, 270.0, 280.0, 270.0]).deg2rad())
    assert heights.tolist() == pytest.approx([2000, 1000, 1000, 0], abs=1e-2), "a cone of 20 degrees"
    u0 = harmonics.synthesize(harmonics.analyze(problem.fields(0.0, (32, 64)), grid), grid)
    u = solver.solve(u0, [DAY, 2 * DAY], dt=2400.0)
    depth = [mean(solver.depth(state)).item() for state in (u0, u[:, 0], u[:, 1])]
    assert max(depth) - min(depth) < 1e-14 * depth[0]
    energy, enstrophy = (f(u) / f(u0)[:, None] - 1 for f in (solver.energy, solver.potential_enstrophy))
    assert 1e-10 < energy.abs().max() < 2e-7 and 1e-9 < enstrophy.abs().max() < 1e-5
    surface = solver.depth(u[:, 1]) + solver._on_grid("orography", u[:, 1])[:, 0]
    assert 4950 < surface.min() < 5050 and 5900 < surface.max() < 5970
    assert solver.wind(u[:, 1])[:, 1].abs().max() > 10, "the mountain deflects the wind"


def test_rossby_haurwitz_begins_in_balance():
    problem = rossby_haurwitz()
    solver, u = problem.solver(), problem.fields(0.0, (32, 64))
    assert 8003 < solver.depth(u).min() < 8020 and 10500 < solver.depth(u).max() < 10560
    change = solver.rhs(u)
    assert change[:, 2].abs().max() < 1e-12 * change[:, 1].abs().max() / 1e-3 and change[:, 1].abs().max() > 1e-10
    assert relative(solver.balanced(u[:, 1:2])[:, 0], u[:, 0] - mean(u[:, 0])) < 1e-10


def test_galewsky_jet():
    problem = galewsky()
    solver, u = problem.solver(), problem.fields(0.0, (128, 256))
    still = galewsky(0.0).fields(0.0, (128, 256))
    depth = solver.depth(still)
    assert mean(depth).item() == pytest.approx(1e4, rel=1e-12)
    assert depth.min().item() == pytest.approx(9071.208, abs=0.01) and depth.max().item() == pytest.approx(10158.186, abs=1e-3)
    assert mean(solver.depth(u) - depth).item() == pytest.approx(1 / 3, abs=1e-3)
    assert solver.wind(u)[:, 0].max().item() == pytest.approx(80.0, abs=1.0)
    still = galewsky(0.0).fields(0.0, (64, 128))
    later = solver.solve(still, [DAY / 2], dt=2400.0)[:, 0]
    assert relative(later[:, 1], still[:, 1]) < 3e-2, "steady, but for what the grid cuts off"
    assert relative(later[:, 1], later[:, 1].mean(-1, keepdim=True).expand_as(later[:, 1])) < 1e-10, "no waves arise"


@pytest.mark.parametrize("angle", [0.0, 0.05, math.pi / 2])
def test_cosine_bell_goes_around(angle):
    """A quarter of a revolution; the error is that of the bell on the grid."""
    problem, end = cosine_bell(angle), 3 * DAY
    u0, truth = problem.fields(0.0, (32, 64)), problem.fields(end, (32, 64))
    u = problem.solver().solve(u0, [end], dt=3600.0)[:, 0]
    harmonics, grid = Harmonics(21), EARTH.grid(32, 64)
    cut = harmonics.synthesize(harmonics.analyze(truth[:, 0], grid), grid)
    assert relative(u[:, 0], truth[:, 0]) < 1.1 * relative(cut, truth[:, 0]) < 0.06
    assert relative(u[:, 1], u0[:, 1]) < 1e-9, "the wind does not feel the bell"


def test_one_call_of_many_steps_is_many_calls_of_one():
    u0 = RandomShallowWater(EARTH).sample(1, SMALL, seed=0, dtype=torch.float64)
    solver = ShallowWaterSphere(EARTH, mean_depth=1e4)
    times = [1800.0 * i for i in range(1, 5)]
    once = solver.solve(u0, times, dt=1800.0)
    u = u0
    for i, time in enumerate(times):
        u = solver.solve(u, [time], t0=time - 1800.0, dt=1800.0)[:, 0]
        assert torch.equal(u, once[:, i])
    assert relative(solver.solve(u0, times[-1:], dt=1800.0)[:, 0], u) < 1e-13


def test_float32_follows_float64_for_a_day():
    u0 = RandomShallowWater(EARTH).sample(1, (32, 64), seed=0, dtype=torch.float64)
    solver = ShallowWaterSphere(EARTH, mean_depth=1e4)
    single, double = (solver.solve(u0.to(dtype), [DAY], dt=1800.0)[:, 0].double() for dtype in (torch.float32, torch.float64))
    errors = [relative(a, b) for a, b in zip(single.unbind(1), double.unbind(1), strict=True)]
    assert errors[0] < 2e-6 and errors[1] < 2e-6 and errors[2] < 2e-4


def test_random_states_are_nested_and_isotropic():
    for field in (RandomSphere(EARTH), RandomShallowWater(EARTH), RandomShallowWater(EARTH, balanced=False)):
        few, many = (field.sample(2, shape, seed=1, dtype=torch.float64) for shape in ((32, 64), (64, 128)))
        harmonics = Harmonics(31)
        a, b = (harmonics.analyze(u, EARTH.grid(*u.shape[-2:])) for u in (few, many))
        assert ((a - b).abs().amax((0, 2, 3)) <= 1e-12 * b.abs().amax((0, 2, 3))).all()
        assert relative(field.sample(1, (32, 64), seed=1, start=1, dtype=torch.float64), few[1:]) < 1e-13
    poles = Sphere(EARTH.radius, points="equiangular")
    for few, many in ((RandomSphere(poles), RandomSphere(EARTH)), (RandomShallowWater(poles), RandomShallowWater(EARTH))):
        few, many = (field.sample(1, shape, seed=1, dtype=torch.float64) for field, shape in ((few, (49, 64)), (many, (32, 64))))
        a, b = (Harmonics(20).analyze(u, domain.grid(*u.shape[-2:])) for u, domain in ((few, poles), (many, EARTH)))
        assert ((a - b).abs().amax((0, 2, 3)) <= 1e-12 * b.abs().amax((0, 2, 3))).all(), "rows elsewhere, the same function"
    u = RandomSphere(EARTH, std=2.0, tau=3.0, mean=5.0).sample(1000, (8, 16), seed=0, dtype=torch.float64)
    assert mean(u).mean().item() == pytest.approx(5.0, abs=0.05)
    z = RandomSphere(EARTH, std=2.0, tau=3.0).coefficients(1000, 40, seed=0)
    assert (z[..., 0].imag == 0).all()
    harmonics = Harmonics(40)
    power = harmonics.spectrum(z).mean(0)[1:6] / (2 * torch.arange(1, 6) + 1)
    variance = RandomSphere(EARTH, std=2.0, tau=3.0).variance(torch.arange(1, 6))
    assert (power / variance - 1).abs().max() < 0.06  # three deviations of a mean over 3000 draws
    field = harmonics.synthesize(z, Sphere().grid(41, 82)) + 0.0
    assert field.var((0, 2)).div(4).sub(1).abs().max() < 0.15, "the same variance at the poles and the equator"


def test_random_flow_has_its_speed_and_begins_in_balance():
    flows = RandomShallowWater(EARTH, speed=15.0, peak=4.0)
    u = flows.sample(64, (32, 64), seed=0, dtype=torch.float64)
    solver = ShallowWaterSphere(EARTH, mean_depth=1e4)
    assert mean(solver.wind(u).square().sum(1)).mean().sqrt().item() == pytest.approx(15.0, rel=0.05)
    assert (u[:, 2] == 0).all() and mean(u[:, 0]).abs().max() < 1e-9
    change, tossed = (
        solver.rhs(f.sample(1, (32, 64), seed=0, dtype=torch.float64)) for f in (flows, RandomShallowWater(EARTH, balanced=False))
    )
    assert change[:, 2].abs().max() < 1e-6 * tossed[:, 2].abs().max()
    assert solver.spectrum(u[:1]).sum().item() == pytest.approx(mean(solver.wind(u[:1]).square().sum(1)).item() / 2, rel=1e-10)


def test_wind_and_depth_make_the_state():
    problem = steady_zonal(0.3)
    solver, u = problem.solver(), problem.fields(0.0, SMALL)
    again = solver.from_wind(solver.depth(u), solver.wind(u))
    assert relative(again[:, :2], u[:, :2]) < 1e-12 and again[:, 2].abs().max() < 1e-12 * u[:, 1].abs().max()
    assert solver.wind(u[None]).shape == (1, 1, 2, *SMALL) and solver.depth(u[:, None]).shape == (1, 1, 1, *SMALL)


def test_bad_input_in_one_sentence():
    u = torch.zeros(1, 3, *SMALL)
    plane: Any = Domain.periodic(1.0, 1.0)
    words: Any = "yes"
    number: Any = 16
    for call, told in {
        lambda: ShallowWaterSphere(plane, mean_depth=1.0): "give a Sphere",
        lambda: ShallowWaterSphere(EARTH, mean_depth=0.0): "mean_depth=0; it must be greater than 0",
        lambda: ShallowWaterSphere(EARTH, mean_depth=1.0, viscosity_order=0): "viscosity_order=0; give a whole number",
        lambda: ShallowWaterSphere(EARTH, mean_depth=1.0, method="IFRK4"): "choose one of ETDRK4B, ETDRK4",
        lambda: ShallowWaterSphere(EARTH, mean_depth=1.0).solve(u - 20, [1.0]): "a depth of -1.04 m in sample 0",
        lambda: ShallowWaterSphere(EARTH, mean_depth=1.0).solve(u[..., :3, :3], [1.0]): "take 4 x 4 points or more",
        lambda: ShallowWaterSphere(EARTH, mean_depth=1.0, orography=math.nan).solve(u, [1.0]): "orography has a NaN",
        lambda: ShallowWaterSphere(EARTH, mean_depth=1.0, coriolis=torch.ones(3, 4)).solve(u, [1.0]): "coriolis = a tensor of shape",
        lambda: ShallowWaterSphere(EARTH, mean_depth=1.0).wind(u[:, :2]): "expected three",
        lambda: RandomSphere(EARTH, alpha=0.5): "give alpha > 1 or a cutoff",
        lambda: RandomSphere(EARTH, cutoff=0): "cutoff=0; give the largest degree",
        lambda: RandomSphere(plane): "give a Sphere",
        lambda: RandomSphere(EARTH).sample(1, number, seed=0): "give the numbers of latitudes and of longitudes",
        lambda: RandomShallowWater(EARTH).sample(1, number, seed=0): "give the numbers of latitudes and of longitudes",
        lambda: RandomShallowWater(EARTH, balanced=words): "give True or False",
        lambda: mountain().fields(1.0, SMALL): "known at t=0 only",
    }.items():
        with pytest.raises(ValueError, match=told) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_layer_that_runs_dry_says_so():
    """Water that flows off the northern half, in the second sample only, faster than waves fill the hollow."""
    u0 = torch.zeros(2, 3, 8, 16, dtype=torch.float64)
    latitude, _ = EARTH.grid(8, 16).coordinates(dtype=torch.float64)
    u0[1, 2] = 1e-4 * latitude.sin()
    with pytest.raises(SolverError, match=r"sample 1 has run dry by t=18000, its least depth being .* m; raise mean_depth") as caught:
        ShallowWaterSphere(EARTH, mean_depth=1e3, rotation=0.0).solve(u0, [3600.0 * i for i in range(1, 13)], dt=1200.0)
    assert caught.value.sample == 1
