"""Three-dimensional Navier-Stokes: exact decay, orders, budgets, an independent formula, turbulence, random velocities."""

import math

import pytest
import torch
from helpers import assert_order, band_limited

from opkernels import Domain, resample
from opkernels.datasets.realization import solve_samples
from opkernels.datasets.recipe import read_recipe
from opkernels.datasets.recipe_files import load_data, override
from opkernels.solvers import NavierStokes2D, NavierStokes3D, RandomVelocity
from opkernels.solvers.exact import abc_flow
from opkernels.solvers.tables import METHODS

TORUS = Domain.periodic(*[2 * math.pi] * 3)
BRICK = Domain.periodic(2 * math.pi, 3.0, 4.0)
SHAPE = (12, 14, 15)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def dot(a, b):
    return (a * b).sum(dim=1).mean(dim=(1, 2, 3))


def gradient(u, axis, domain=BRICK):
    """Return the derivative of fields (..., x, y, z) by a full complex transform, an independent way."""
    n = u.shape[axis - 3]
    k = 2j * math.pi / domain.extent[axis] * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    return torch.fft.ifft(torch.fft.fft(u, dim=axis - 3) * k.reshape([-1 if a == axis else 1 for a in range(3)]), dim=axis - 3).real


def solenoidal(shape=SHAPE, batch=2):
    """Return a random velocity on BRICK that dealiasing leaves alone, as the curl of a random potential."""
    a = band_limited(shape, channels=3, batch=batch)
    g = [gradient(a, axis) for axis in range(3)]
    return torch.stack([g[1][:, 2] - g[2][:, 1], g[2][:, 0] - g[0][:, 2], g[0][:, 1] - g[1][:, 0]], dim=1)


def wave_numbers(shape):
    """Return |κ| of all modes of a grid on BRICK, (*shape)."""
    k = [2 * math.pi / length * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n, length in zip(shape, BRICK.extent, strict=True)]
    return (k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2).sqrt()


def dealiased(u):
    """Return the solenoidal part of a velocity on the kept modes."""
    problem = NavierStokes3D(BRICK, viscosity=0.0)._bind(BRICK.grid(*u.shape[2:]), u)
    return problem.decode(problem.encode(u))


def test_abc_flow_decays_exactly():
    still = abc_flow(mean_flow=(0.0, 0.0, 0.0))
    assert still.error("IFRK4", steps=3, shape=(24, 24, 24)) < 1e-12
    assert still.error("IFRK4", steps=3) < 1e-12


@pytest.mark.parametrize("method", ["IFRK4", "ETDRK4"])
def test_temporal_order_of_a_carried_flow(method):
    steps = [8 * 2**i for i in range(5)]
    errors = [abc_flow().error(method, steps=n, shape=(5, 6, 4)) for n in steps]
    assert_order([2 / n for n in steps], errors, METHODS[method].order)


def test_temporal_order_of_an_interacting_flow():
    """Forced in time, with all modes at work: against a run of four times as many steps."""
    forcing = lambda x, y, z, t: torch.stack([torch.sin(y - t), torch.cos(x + 2 * t), torch.sin(x)])  # noqa: E731
    solver = NavierStokes3D(TORUS, viscosity=0.05, forcing=forcing, stirring_wavenumber=1.5)
    u0 = RandomVelocity(TORUS, peak=2.0, cutoff=4.0).sample(1, (9, 9, 9), seed=3, dtype=torch.float64)
    steps = [2 * 2**i for i in range(5)]
    truth = solver.solve(u0, [0.5], dt=0.5 / 128)
    errors = [relative(solver.solve(u0, [0.5], dt=0.5 / n), truth) for n in steps]
    assert_order([0.5 / n for n in steps], errors, 4)


def test_right_hand_side_is_the_projected_advection():
    """-u·∇u + ∇p with a pressure of the solver's own, differentiated independently."""
    solver, u = NavierStokes3D(BRICK, viscosity=0.0), solenoidal()
    rhs = solver.rhs(u)
    fine = (24, 28, 30)  # carries the products: derivatives there alias nothing
    big = solenoidal(fine)
    advection = torch.stack([big[:, a : a + 1] * gradient(big, a) for a in range(3)]).sum(dim=0)
    pressure = solver.pressure(big)
    full = -advection - torch.cat([gradient(pressure, a) for a in range(3)], dim=1)
    divergence = torch.stack([gradient(full[:, a : a + 1], a) for a in range(3)]).sum(dim=0)
    assert divergence.norm() < 1e-10 * advection.norm()
    spectrum = torch.fft.fftn(full, dim=(2, 3, 4), norm="forward")
    own = torch.fft.fftn(rhs, dim=(2, 3, 4), norm="forward")
    low = [torch.arange(-3, 4) for _ in range(3)]
    pick = (slice(None), slice(None), low[0][:, None, None], low[1][:, None], low[2])
    assert relative(own[pick], spectrum[pick]) < 1e-12


@pytest.mark.parametrize("shape", [SHAPE, (12, 12, 12), (15, 12, 9)])
def test_products_are_free_of_aliasing(shape):
    """With all modes at work that a grid keeps, the right-hand side is that of a grid twice as fine, which carries the products."""
    u = dealiased(torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    fine = tuple(2 * n for n in shape)
    solver = NavierStokes3D(BRICK, viscosity=0.0)
    ours, theirs = solver.rhs(u), solver.rhs(resample(u, BRICK.grid(*shape), fine))
    low = [torch.arange(-((n - 1) // 3), (n - 1) // 3 + 1) for n in shape]
    pick = (..., low[0][:, None, None], low[1][:, None], low[2])
    a, b = (torch.fft.fftn(f, dim=(2, 3, 4), norm="forward")[pick] for f in (ours, theirs))
    assert relative(a, b) < 1e-13


def test_a_right_hand_side_takes_nine_real_transforms(monkeypatch):
    u, count = solenoidal((6, 7, 8), batch=1), {}
    problem = NavierStokes3D(BRICK, viscosity=0.1)._bind(BRICK.grid(6, 7, 8), u)
    u_hat = problem.encode(u)
    for name, transform in (("rfft", torch.fft.rfft), ("irfft", torch.fft.irfft)):

        def counted(x, *args, name=name, transform=transform, **options):
            count[name] = count.get(name, 0) + x.shape[:-3].numel()
            return transform(x, *args, **options)

        monkeypatch.setattr(torch.fft, name, counted)
    problem.nonlinear(u_hat, 0.0)
    assert count == {"rfft": 3, "irfft": 6}


@pytest.mark.parametrize("shape", [SHAPE, (12, 12, 12), (15, 12, 9)])
def test_energy_and_helicity_budgets(shape):
    u = dealiased(solenoidal(shape))
    f = torch.zeros(1, 3, *shape, dtype=torch.float64)
    f[:, 1:2] = gradient(u[:1, :1], 0)
    solver = NavierStokes3D(BRICK, viscosity=0.03, forcing=f)
    w = solver.vorticity(u)
    curl_w = solver.vorticity(w)
    f = dealiased(f)
    rate = solver.rhs(u)
    energy, helicity = dot(u, rate), 2 * dot(w, rate)
    assert ((energy + 0.03 * dot(w, w) - dot(u, f)) / dot(w, w)).abs().max() < 1e-12
    loss = 2 * 0.03 * dot(w, curl_w)
    assert ((helicity + loss - 2 * dot(w, f)) / dot(w, w).sqrt() / dot(curl_w, curl_w).sqrt()).abs().max() < 1e-12
    inviscid = NavierStokes3D(BRICK, viscosity=0.0).rhs(u)
    size = dot(inviscid, inviscid).sqrt()
    assert (dot(u, inviscid) / size / dot(u, u).sqrt()).abs().max() < 1e-14
    assert (dot(w, inviscid) / size / dot(w, w).sqrt()).abs().max() < 1e-14


@pytest.mark.parametrize("force", [0.5, torch.full((1, 1, 1, 1), 0.5), lambda x, y, z: 0.5 + 0 * x])
def test_a_force_of_one_component_acts_along_all(force):
    u = NavierStokes3D(TORUS, viscosity=0.1, forcing=force).solve(torch.zeros(2, 3, 5, 4, 6), [1.0], dt=0.5)
    assert (u - 0.5).abs().max() < 1e-6


def test_budget_over_time_and_no_divergence():
    solver = NavierStokes3D(TORUS, viscosity=0.05)
    u0 = RandomVelocity(TORUS, peak=2.0, spectrum="gaussian").sample(1, (16, 16, 16), seed=0, dtype=torch.float64)
    times = torch.linspace(0, 1, 21, dtype=torch.float64)
    u = solver.solve(u0, times, dt=0.025)[0]
    energy, loss = solver.energy(u), 2 * 0.05 * solver.enstrophy(u)
    simpson = (loss[0] + loss[-1] + 4 * loss[1:-1:2].sum() + 2 * loss[2:-1:2].sum()) * 0.05 / 3
    assert abs((energy[0] - energy[-1] - simpson) / energy[0]) < 1e-5 < 0.1 < 1 - energy[-1] / energy[0]
    assert solver.divergence(u).norm() < 1e-12 * solver.vorticity(u).norm()


def test_flow_without_z_is_two_dimensional():
    """A plane flow follows the vorticity equation of the two-dimensional solver."""
    plane = Domain.periodic(2 * math.pi, 2 * math.pi)
    w0 = 2 * band_limited((16, 18))
    two = NavierStokes2D(plane, viscosity=0.02)
    flow = two.velocity(w0)[..., None].expand(-1, -1, -1, -1, 4)
    u0 = torch.cat([flow, torch.zeros_like(flow[:, :1])], dim=1)
    w = two.solve(w0, [0.5], dt=0.01)[:, 0]
    three = NavierStokes3D(TORUS, viscosity=0.02)
    ours = three.vorticity(three.solve(u0, [0.5], dt=0.01)[:, 0])[:, 2:, ..., 1]
    assert relative(ours, w - w.mean()) < 1e-10


def test_stirring_holds_the_energy_or_feeds_a_given_power():
    u0 = RandomVelocity(TORUS, peak=1.5, cutoff=4.0).sample(2, (12, 12, 12), seed=1, dtype=torch.float64)
    hold = NavierStokes3D(TORUS, viscosity=0.05, stirring_wavenumber=2.0)
    u = hold.solve(u0, [0.5], dt=0.05)
    start = hold.energy(hold.solve(u0, [1e-9])[:, 0])  # what dealiasing leaves
    assert ((hold.energy(u[:, 0]) - start) / start).abs().max() < 1e-6
    feed = NavierStokes3D(TORUS, viscosity=0.05, stirring_wavenumber=2.0, stirring_power=torch.tensor([0.3, 0.6]).double())
    u = u[:, 0]
    rate = dot(u, feed.rhs(u)) + 2 * 0.05 * feed.enstrophy(u)
    assert (rate - torch.tensor([0.3, 0.6])).abs().max() < 1e-12


def test_stirring_acts_on_large_scales_in_proportion_to_them():
    u, k_f = dealiased(solenoidal(SHAPE)), 3.0
    stirred = NavierStokes3D(BRICK, viscosity=0.1, stirring_wavenumber=k_f, stirring_power=0.4)
    force, u_hat = (
        torch.fft.fftn(f, dim=(2, 3, 4), norm="forward") for f in (stirred.rhs(u) - NavierStokes3D(BRICK, viscosity=0.1).rhs(u), u)
    )
    k2 = wave_numbers(SHAPE).square()
    large = u_hat * ((k2 > 0) & (k2 <= k_f**2))
    assert 0.02 < large.abs().square().sum() / u_hat.abs().square().sum() < 0.5
    assert relative(force, 0.4 * large / large.abs().square().sum(dim=(1, 2, 3, 4), keepdim=True)) < 1e-12


def test_forced_run_fills_the_spectrum():
    """From the large scales alone, energy reaches the small ones and falls with the wave number."""
    solver = NavierStokes3D(TORUS, viscosity=0.07, stirring_wavenumber=2.0)
    u0 = RandomVelocity(TORUS, peak=2.0, cutoff=2.5).sample(1, (24, 24, 24), seed=0, dtype=torch.float32)
    u = solver.solve(u0, [2.5], dt=0.08)[:, 0]
    k, energy = solver.spectrum(u)
    energy = energy[0].double()
    assert energy.sum().item() == pytest.approx(solver.energy(u).item(), rel=1e-4) and k[5] == 5
    assert solver.spectrum(u0)[1][0, 4:].sum() < 1e-6 * energy[4:8].sum()
    assert (energy[3:8].diff() < 0).all()
    slope = ((energy[6] / energy[3]).log() / math.log(2)).item()
    assert -6 < slope < -5 / 3
    dissipation = 2 * 0.07 * solver.enstrophy(u).item()
    assert 7 * (0.07**3 / dissipation) ** 0.25 > 1.0, "resolved"


@pytest.mark.parametrize(
    ("spectrum", "formula"),
    [
        ("inertial", lambda q: torch.where(q <= 1, q**2, q ** (-5 / 3))),
        ("von_karman", lambda q: q**4 * (1 + 12 / 5 * q**2) ** (-17 / 6)),
        ("gaussian", lambda q: q**4 * torch.exp(-2 * q**2)),
    ],
)
def test_random_velocity_has_its_spectrum_and_no_divergence(spectrum, formula):
    field = RandomVelocity(BRICK, spectrum=spectrum, peak=3.0, energy=0.7, cutoff=9.0)
    solver = NavierStokes3D(BRICK, viscosity=0.1)
    u = field.sample(24, (20, 12, 14), seed=5, dtype=torch.float64)
    assert solver.divergence(u).norm() < 1e-13 * solver.vorticity(u).norm()
    assert solver.energy(u).mean().item() == pytest.approx(0.7, rel=0.06)
    parts = u.square().mean(dim=(0, 2, 3, 4))
    assert relative(parts, torch.full_like(parts, 2 * 0.7 / 3)) < 0.15
    kappa = wave_numbers((20, 12, 14))
    power = torch.fft.fftn(u, dim=(2, 3, 4), norm="forward").abs().square().sum(dim=1).mean(dim=0)
    expected = formula(kappa / 3) / kappa.clamp_min(1e-9) ** 2
    within = [(kappa > low) & (kappa <= low + 2) for low in (1.0, 3.0, 5.0)]
    ratio = torch.stack([power[shell].sum() / expected[shell].sum() for shell in within])
    assert (ratio / ratio.mean() - 1).abs().max() < 0.12, ratio


def test_random_velocity_is_nested_and_its_samples_stand_alone():
    field = RandomVelocity(TORUS, peak=2.0, cutoff=12.0)
    few, many = (field.sample(2, (n, n, n), seed=1, dtype=torch.float64) for n in (10, 16))
    low = torch.arange(-4, 5)
    a, b = (torch.fft.fftn(u, dim=(2, 3, 4), norm="forward")[..., low[:, None, None], low[:, None], low] for u in (few, many))
    assert (a - b).abs().max() < 1e-14 < 1e-3 < b.abs().max()
    assert torch.equal(field.sample(1, (10, 10, 10), seed=1, start=1, dtype=torch.float64), few[1:])


def test_a_recipe_starts_from_the_components_of_one_velocity():
    recipe = override(load_data("isotropic_turbulence"), ["resolution=12", "samples=3", "times=[0, 0.01]", "dtype=float64"])
    fields = solve_samples(read_recipe(recipe), range(1, 3))
    u = torch.stack([fields[name][:, 0] for name in NavierStokes3D.fields], dim=1)
    field = RandomVelocity(TORUS, peak=3.0, energy=2.4, cutoff=29.0)
    assert torch.equal(u, field.sample(2, (12, 12, 12), seed=0, start=1, dtype=torch.float64))
