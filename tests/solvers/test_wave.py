"""Finite-element waves: orders, dispersion, invariants, absorbing walls, reciprocity, derivatives, refusals."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from helpers import assert_order

from opkernels import Axis, Domain
from opkernels.solvers import SolverError, SpectralWave, Wave2D, wave
from opkernels.solvers.wave_elements import ELEMENTS

PI = math.pi
SCHEMES = [("leapfrog", "p1"), ("leapfrog", "q1"), ("newmark", "p1"), ("newmark", "q1")]


def at_rest(u):
    return torch.stack([u, torch.zeros_like(u)])[None]


def rms(x):
    return x.square().mean().sqrt().item()


@pytest.mark.parametrize("walls", ["dirichlet", "neumann"])
@pytest.mark.parametrize(("scheme", "element"), SCHEMES)
def test_standing_mode_is_second_order(scheme, element, walls):
    domain = Domain((Axis(0.2, 1.7, points="endpoint"), Axis(-1.0, 0.0, points="endpoint")))
    solver = Wave2D(domain, speed=0.8, walls=walls, element=element, scheme=scheme)
    wave = torch.sin if walls == "dirichlet" else torch.cos
    omega = 0.8 * PI * math.hypot(2 / 1.5, 1.0)
    errors, sizes = [], (13, 25, 49, 97, 193) if scheme == "leapfrog" else (13, 25, 37, 49, 73)
    for n in sizes:
        x, y = domain.grid(n, (3 * n + 1) // 4).coordinates(dtype=torch.float64)
        u = wave(2 * PI * (x - 0.2) / 1.5) * wave(PI * (y + 1))
        out = solver.solve(at_rest(u), [1.0], dt=0.5 / (n - 1))
        exact = torch.stack([math.cos(omega) * u, -omega * math.sin(omega) * u])
        errors.append(rms(out[0, 0] - exact) / rms(exact))
    assert_order([1 / (n - 1) for n in sizes], errors, 2, slack=0.1)
    assert errors[-1] < 1e-2


def test_errors_of_the_standing_mode_are_the_known_ones():
    """2.15e-4 (P1 leapfrog), 1.07e-3 (Q1), 8.6e-4 (Newmark) at 64 cells with dt = h/2."""
    domain = Domain.box(1.0, 1.0, points="endpoint")
    x, y = domain.grid(65, 65).coordinates(dtype=torch.float64)
    u = torch.sin(PI * x) * torch.sin(PI * y)
    exact = u * math.cos(PI * math.sqrt(2))
    for (scheme, element), expected in (
        (("leapfrog", "p1"), 2.15e-4),
        (("leapfrog", "q1"), 1.07e-3),
        (("newmark", "p1"), 8.6e-4),
    ):
        out = Wave2D(domain, scheme=scheme, element=element).solve(at_rest(u), [1.0], dt=0.5 / 64)
        assert abs(rms(out[0, 0, 0] - exact) / rms(u) / expected - 1) < 0.02


@pytest.mark.parametrize(("scheme", "element"), SCHEMES)
def test_variable_speed_density_damping_and_source_are_second_order(scheme, element):
    """Manufactured: u = cos(2x) cos(y) sin(t + 1), Neumann in x, periodic in y."""
    domain = Domain((Axis(0.0, PI, points="endpoint"), Axis(0.0, 2 * PI, periodic=True, points="node")))
    c = lambda x, y: 1 + 0.3 * torch.sin(y) * torch.cos(x)  # noqa: E731
    rho = lambda x, y: 1.5 + torch.cos(y)  # noqa: E731
    gamma = lambda x, y: 0.4 + 0.2 * torch.cos(2 * y)  # noqa: E731

    def source(x, y, t):
        with torch.enable_grad():
            x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
            u = torch.cos(2 * x) * torch.cos(y)
            ux, uy = torch.autograd.grad(u.sum(), (x, y), create_graph=True)
            mu = rho(x, y) * c(x, y) ** 2
            div = torch.autograd.grad((mu * ux).sum(), x, create_graph=True)[0] + torch.autograd.grad((mu * uy).sum(), y)[0]
            f = -rho(x, y) * u * math.sin(t + 1) + gamma(x, y) * u * math.cos(t + 1) - div * math.sin(t + 1)
        return f.detach()

    solver = Wave2D(
        domain, speed=c, density=rho, damping=gamma, source=source, walls=("neumann", "periodic"), element=element, scheme=scheme
    )
    errors, sizes = [], (8, 16, 24, 32, 48)
    for n in sizes:
        x, y = domain.grid(n + 1, 2 * n).coordinates(dtype=torch.float64)
        u = torch.cos(2 * x) * torch.cos(y)
        out = solver.solve(torch.stack([math.sin(1) * u, math.cos(1) * u])[None], [1.0], dt=0.6 / n)
        errors.append(rms(out[0, 0, 0] - math.sin(2) * u))
    assert_order([1 / n for n in sizes], errors, 2)
    assert errors[-1] < 5e-3


@pytest.mark.parametrize("element", ELEMENTS)
def test_plane_wave_obeys_the_discrete_dispersion_relation(element):
    domain = Domain.periodic(2 * PI, 2 * PI)
    n, steps = 24, 57
    h, dt = 2 * PI / n, 0.1
    x, y = domain.grid(n, n).coordinates(dtype=torch.float64)
    sx, sy = (2 - 2 * math.cos(3 * h)) / h**2, (2 - 2 * math.cos(2 * h)) / h**2
    k2 = sx + sy - (sx * sy * h**2 / 3 if element == "q1" else 0)
    omega = 2 / dt * math.asin(dt * math.sqrt(k2) / 2)
    wave = lambda t: torch.cos(3 * x + 2 * y - omega * t)  # noqa: E731
    u0 = torch.stack([wave(0.0), (wave(dt) - wave(-dt)) / (2 * dt)])[None]
    out = Wave2D(domain, element=element).solve(u0, [steps * dt], dt=dt)
    assert (out[0, 0, 0] - wave(steps * dt)).abs().max() < 1e-11


def random_state(shape, batch=1, seed=0, dtype=torch.float64):
    return torch.randn(batch, 2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


BOX = Domain((Axis(0.0, 1.5, points="endpoint"), Axis(0.0, 1.0, points="endpoint")))
HALF = Domain((Axis(0.0, 1.5, points="endpoint"), Axis(0.0, 1.0, periodic=True, points="cell")))


def stiff(x, y):
    return 1 + 0.8 * (x > 0.7) * torch.cos(y)


@pytest.mark.parametrize(("scheme", "element"), SCHEMES)
@pytest.mark.parametrize("periodic", [True, False])
def test_energy_is_conserved(scheme, element, periodic):
    domain, walls = (HALF, ("neumann", "periodic")) if periodic else (BOX, (("dirichlet", "neumann"), "dirichlet"))
    solver = Wave2D(domain, speed=stiff, density=lambda x, y: 1 + x, walls=walls, element=element, scheme=scheme)
    u0 = random_state((17, 12), batch=2)
    dt = 0.05 if scheme == "newmark" else 0.95 * solver.stable_step(u0)
    start = solver.solve(u0, [dt], dt=dt)[:, 0]  # held velocities on Dirichlet walls
    out = solver.solve(start, [101 * dt], t0=dt, dt=dt)[:, 0]
    energy = [solver.energy(s, dt=dt if scheme == "leapfrog" else None) for s in (start, out)]
    assert (out - start).norm() > 0.5 * start.norm()
    torch.testing.assert_close(energy[1], energy[0], rtol=1e-12 if scheme == "leapfrog" else 1e-9, atol=0)


@pytest.mark.parametrize("element", ELEMENTS)
def test_stable_step_is_sharp(element):
    """Just below the limit the checkerboard stays bounded; just above it would grow, and is refused."""
    domain = Domain.periodic(1.0, 1.0)
    h = 1 / 16
    solver = Wave2D(domain, speed=2.0, element=element)
    u0 = random_state((16, 16))
    limit = solver.stable_step(u0)
    assert abs(limit - h / 2 / (math.sqrt(2) if element == "p1" else 1)) < 1e-15
    out = solver.solve(u0, [300 * 0.99 * limit], dt=0.99 * limit)
    assert out.abs().max() < 50 * u0.abs().max()
    with pytest.raises(ValueError, match="above leapfrog's stable step"):
        solver.solve(u0, [1.0], dt=1.02 * limit)
    faster = Wave2D(domain, speed=2.0 * 1.02 / 0.99, element=element)  # the same step, past its own limit
    faster._step = lambda c, dt, spacing: dt
    with pytest.raises(SolverError, match="sample 0 is not finite"):
        faster.solve(u0, [3000 * limit], dt=limit)


def test_absorbing_walls_let_a_pulse_out():
    domain = Domain((Axis(0.0, 2.0, points="endpoint"), Axis(0.0, 0.2, periodic=True, points="node")))
    x, _ = domain.grid(161, 4).coordinates(dtype=torch.float64)
    pulse = torch.exp(-(((x - 1) / 0.1) ** 2))
    for element in ELEMENTS:
        out = Wave2D(domain, walls=("absorbing", "periodic"), element=element).solve(at_rest(pulse), [0.5, 2.5])
        assert out[0, 0, 0].abs().max() > 0.49
        assert out[0, 1, 0].abs().max() < 0.005  # normal incidence: the error of the discretization
        kept = Wave2D(domain, walls=("neumann", "periodic"), element=element).solve(at_rest(pulse), [2.5])
        assert kept[0, 0, 0].abs().max() > 0.4
    diagonal = Wave2D(Domain.box(2.0, 2.0, points="endpoint"), walls="absorbing")
    x, y = diagonal.domain.grid(81, 81).coordinates(dtype=torch.float64)
    out = diagonal.solve(at_rest(torch.exp(-((x - 1) ** 2 + (y - 1) ** 2) / 0.04)), [3.0])[0, 0]
    assert diagonal.energy(out[None]) < 0.02 * diagonal.energy(at_rest(torch.exp(-((x - 1) ** 2 + (y - 1) ** 2) / 0.04)))


@pytest.mark.parametrize(("scheme", "element"), SCHEMES)
def test_source_and_receiver_can_be_swapped(scheme, element):
    walls = (("absorbing", "dirichlet"), ("neumann", "absorbing"))
    shape, places = (19, 14), ((4, 5), (14, 9))
    records = []  # the source starts from (nearly) nothing: the start of leapfrog weighs it with M, not M + hC/2
    for at, other in (places, places[::-1]):
        push = torch.zeros(shape, dtype=torch.float64)
        push[at] = 1.0
        solver = Wave2D(
            BOX,
            speed=lambda x, y: 1 + 0.5 * x * y,
            density=lambda x, y: 2 - x * y,
            damping=0.3,
            source=lambda x, y, t, push=push: push * math.exp(-((t - 0.4) ** 2) / 0.004),
            walls=walls,
            element=element,
            scheme=scheme,
        )
        out = solver.solve(torch.zeros(1, 2, *shape, dtype=torch.float64), [0.5, 1.0, 1.5], dt=0.02)
        records.append(out[0, :, 0, other[0], other[1]])
    torch.testing.assert_close(
        records[0], records[1], rtol=0, atol=(1e-11 if scheme == "leapfrog" else 1e-9) * records[0].abs().max().item()
    )
    assert records[0].abs().min() > 0


def test_symmetry_between_the_axes():
    square = Domain.box(1.0, 1.0, points="endpoint")
    u0 = random_state((12, 12))
    for element in ELEMENTS:
        one = Wave2D(square, speed=lambda x, y: 1 + x**2 * y, walls=(("absorbing", "neumann"), "dirichlet"), element=element)
        two = Wave2D(square, speed=lambda x, y: 1 + y**2 * x, walls=("dirichlet", ("absorbing", "neumann")), element=element)
        expected = one.solve(u0, [0.7], dt=0.02).mT
        torch.testing.assert_close(two.solve(u0.mT, [0.7], dt=0.02), expected, rtol=1e-12, atol=1e-12)


def test_constant_displacement_stays_for_ever_in_float32():
    solver = Wave2D(BOX, speed=stiff, walls="neumann", element="q1")
    u0 = at_rest(torch.full((40, 33), 0.1))
    assert torch.equal(solver.solve(u0, [20.0])[:, 0], u0)


def test_agrees_with_the_exact_propagator():
    domain = Domain.periodic(1.0, 2.0)
    x, y = domain.grid(96, 160).coordinates(dtype=torch.float64)
    u0 = torch.stack([torch.cos(2 * PI * x) * torch.sin(PI * y), torch.sin(2 * PI * (x + y))])[None]
    exact = SpectralWave(domain, speed=1.3, damping=0.2).solve(u0, [0.5, 1.0])
    out = Wave2D(domain, speed=1.3, damping=0.2).solve(u0, [0.5, 1.0])
    assert (out - exact).norm() < 3e-3 * exact.norm()


@pytest.mark.parametrize(("scheme", "element"), SCHEMES)
def test_batch_equals_loop_and_a_restart_is_bit_exact(scheme, element):
    speed = torch.tensor([1.0, 0.4, 0.7], dtype=torch.float64)
    rho = 1 + torch.rand(3, 1, 15, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    walls = (("absorbing", "neumann"), "dirichlet")
    source = lambda x, y, t: math.cos(5 * t) * x * y  # noqa: E731
    dt = 0.01 if scheme == "leapfrog" else 0.05
    for dtype in (torch.float32, torch.float64):
        u0 = random_state((15, 11), batch=3, dtype=dtype)
        u0[:, 1, :, [0, -1]] = 0

        def make(part, c=speed):
            return Wave2D(BOX, speed=c[part], density=rho[part], damping=0.1, source=source, walls=walls, element=element, scheme=scheme)

        out = make(slice(None)).solve(u0, [0.1, 0.35, 1.0], dt=dt)
        assert out.dtype == dtype
        assert torch.equal(make(slice(None)).solve(out[:, 0], [0.35, 1.0], t0=0.1, dt=dt), out[:, 1:])
        tolerance = 1e-9 if dtype == torch.float64 else 2e-5
        for i in range(3):
            alone = make(slice(i, i + 1)).solve(u0[i : i + 1], [0.1, 0.35, 1.0], dt=dt)
            assert (alone - out[i : i + 1]).norm() < tolerance * alone.norm()


def test_cache_blocks_of_a_large_batch_do_not_change_the_solution(monkeypatch):
    u0 = random_state((9, 8), batch=5)
    speed = torch.linspace(0.5, 1.0, 5, dtype=torch.float64)
    for scheme in ("leapfrog", "newmark"):
        solver = Wave2D(BOX, speed=speed, source=torch.linspace(-1, 1, 5), walls="neumann", scheme=scheme)
        whole = solver.solve(u0, [0.3], dt=0.02)
        monkeypatch.setattr("opkernels.solvers.wave._BLOCK", 2 * 72)
        torch.testing.assert_close(solver.solve(u0, [0.3], dt=0.02), whole, rtol=1e-10, atol=1e-10)
        monkeypatch.undo()


def test_float32_agrees_with_float64():
    for scheme in ("leapfrog", "newmark"):
        solver = Wave2D(BOX, speed=stiff, walls="neumann", scheme=scheme)
        x, y = BOX.grid(49, 33).coordinates(dtype=torch.float64)
        u0 = at_rest(torch.cos(2 * PI * x / 1.5) * torch.cos(PI * y))
        out, low = solver.solve(u0, [1.0], dt=0.01), solver.solve(u0.float(), [1.0], dt=0.01)
        assert (low - out).norm() < 1e-5 * out.norm()


@pytest.mark.parametrize(("scheme", "element"), SCHEMES)
def test_derivatives(scheme, element):
    u0 = random_state((4, 3)).requires_grad_()
    speed = (1 + 0.5 * torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).requires_grad_()
    rho = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    gamma = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    push = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()

    def solve(u0, speed, rho, gamma, push):
        solver = Wave2D(
            HALF,
            speed=speed,
            density=rho,
            damping=gamma,
            source=push,
            walls=(("absorbing", "dirichlet"), "periodic"),
            element=element,
            scheme=scheme,
            tolerance=1e-14,
        )
        return solver.solve(u0, [0.2], dt=0.1)

    assert torch.autograd.gradcheck(solve, (u0, speed, rho, gamma, push), atol=1e-6)


def test_gradients_do_not_depend_on_the_states_that_are_kept():
    speed = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    u0 = random_state((9, 8))
    gradients = []
    for times in ([1.0], [0.5, 1.0]):  # 100 steps in stretches of 32, or twice 50
        out = Wave2D(BOX, speed=speed, walls="neumann").solve(u0, times, dt=0.01)[:, -1]
        gradients.append(torch.autograd.grad(out.square().sum(), speed)[0])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=0)


def test_boundary_values_are_held_and_static_solutions_stay():
    """Held at u = x on all walls, u = x is at rest under any speed that is constant."""
    x, _ = BOX.grid(16, 9).coordinates(dtype=torch.float64)
    for scheme in ("leapfrog", "newmark"):
        out = Wave2D(BOX, scheme=scheme).solve(at_rest(x), [2.0], dt=0.05)
        torch.testing.assert_close(out[:, 0], at_rest(x), rtol=0, atol=1e-11)


def test_example():
    numbers = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "wave.py"))["main"]()
    assert abs(numbers["order"] - 2) < 0.1
    assert abs(numbers["transmitted"] - 2 / 3) < 2e-3


def test_refusals():
    for arguments, message in (
        ({"domain": Domain.box(1.0)}, "1-D domain"),
        ({"domain": Domain.box(1.0, 1.0)}, 'points="cell" on axis x'),
        ({"element": "q2"}, "element='q2'"),
        ({"scheme": "euler"}, "scheme='euler'"),
        ({"tolerance": 0}, "tolerance=0"),
        ({"walls": "open"}, "choose from dirichlet, neumann, absorbing"),
    ):
        with pytest.raises(ValueError, match=message):
            Wave2D(**{"domain": BOX, **arguments})
    u0 = random_state((8, 8), batch=2)
    for arguments, message in (
        ({"speed": 0.0}, "a speed that is not positive and finite"),
        ({"speed": math.inf}, "a speed that is not positive and finite"),
        ({"density": lambda x, y: x - 1}, "a density that is not positive"),
        ({"damping": -1.0}, "a damping that is not at least 0"),
        ({"speed": torch.ones(3)}, r"speed = a tensor of shape \(3,\) for a batch of 2"),
        ({"source": lambda x, y: "loud"}, "source = 'loud'"),
    ):
        with pytest.raises(ValueError, match=message):
            Wave2D(BOX, **arguments).solve(u0, [1.0])
    with pytest.raises(ValueError, match="cannot choose one; give dt"):
        Wave2D(BOX, scheme="newmark").solve(u0, [1.0])
    with pytest.raises(ValueError, match="channels displacement, velocity"):
        Wave2D(BOX).solve(u0[:, :1], [1.0])
    with pytest.raises(SolverError, match="sample 0 is not finite at t=1"):
        Wave2D(BOX, source=lambda x, y, t: x * math.nan).solve(u0, [1.0])
    with pytest.raises(ValueError, match=r"Wave2D got domain=\(1.0, 1.0\); give a Domain"):
        Wave2D((1.0, 1.0))
    with pytest.raises(ValueError, match="tolerance='fine'; give a relative error"):
        Wave2D(BOX, tolerance="fine")


def test_a_newmark_step_that_fails_names_the_sample_of_the_whole_batch(monkeypatch):
    monkeypatch.setattr(wave, "_BLOCK", 1)  # samples are advanced one by one
    rough = torch.exp(6 * torch.randn(17, 13, generator=torch.Generator().manual_seed(0)))
    speed = torch.stack([torch.ones(17, 13), torch.ones(17, 13), rough])
    u0 = torch.rand(3, 2, 17, 13, generator=torch.Generator().manual_seed(1))
    with pytest.raises(SolverError, match="did not converge in sample 2 ") as told:
        Wave2D(BOX, speed=speed, scheme="newmark").solve(u0, [1e3], dt=1e3)
    assert told.value.sample == 2


def test_arrays_are_samples():
    speed = 1 + torch.rand(9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u0 = torch.rand(1, 2, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(Wave2D(BOX, speed=speed.numpy()).solve(u0, [0.2]), Wave2D(BOX, speed=speed).solve(u0, [0.2]), rtol=0, atol=0)


def test_runs_on_another_device_without_a_look_from_the_host():
    u0 = torch.rand(2, 2, 15, 11, device="meta")  # meta tensors hold no data to look at
    for element in ELEMENTS:
        solver = Wave2D(HALF, damping=0.1, source=lambda x, y, t: x * t, walls=("absorbing", "periodic"), element=element)
        assert solver.solve(u0, [0.1, 0.2]).shape == (2, 2, 2, 15, 11)
