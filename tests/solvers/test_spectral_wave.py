"""The exact wave propagator: against matrix exponentials, d'Alembert, and its invariants."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from opkernels import Axis, Domain
from opkernels.solvers import SolverError, SpectralWave
from opkernels.solvers.spectral_wave import _propagator

PI = math.pi


@pytest.mark.parametrize("gamma", [0.0, 1.0, 3.0, 300.0])
@pytest.mark.parametrize("h", [0.01, 1.0, 7.0])
def test_propagator_is_the_matrix_exponential(gamma, h):
    kappa2 = torch.tensor([0.0, 1e-9, 0.1, 0.25, 0.2500001, 1.0, 50.0, 1e4], dtype=torch.float64)
    ours = torch.stack(_propagator(kappa2, 1.0, gamma, h)).reshape(2, 2, -1).permute(2, 0, 1)
    for k2, matrix in zip(kappa2, ours, strict=True):
        expected = scipy.linalg.expm(h * np.array([[0, 1], [-float(k2), -gamma]]))
        np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-12 * max(1, np.abs(expected).max()))


KINDS = ("dirichlet", "neumann")


@pytest.mark.parametrize("points", ["cell", "endpoint"])
@pytest.mark.parametrize("low", KINDS)
@pytest.mark.parametrize("high", KINDS)
def test_standing_modes_between_walls_times_a_traveling_wave(points, low, high):
    """u = g(κx) cos(qy - ωt) with g vanishing or flat at each wall, on odd and even sizes."""
    domain = Domain((Axis(0.5, 2.0, points=points), Axis(0.0, 3.0, periodic=True, points="node")))
    solver = SpectralWave(domain, speed=0.7, walls=((low, high), "periodic"))
    m = 2 if low == high else 1.5
    k, q = m * PI / 1.5, 2 * PI / 3.0
    omega = 0.7 * math.hypot(k, q)
    for shape in ((12, 9), (13, 10)):
        x, y = domain.grid(*shape).coordinates(dtype=torch.float64)
        g = torch.sin(k * (x - 0.5)) if low == "dirichlet" else torch.cos(k * (x - 0.5))

        def wave(t, y=y, g=g):
            return torch.stack([g * torch.cos(q * y - omega * t), omega * g * torch.sin(q * y - omega * t)])[None]

        out = solver.solve(wave(0.0), times=[0.0, 0.4, 5.0])
        for i, t in enumerate((0.0, 0.4, 5.0)):
            torch.testing.assert_close(out[:, i], wave(t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_pulse_returns_after_a_period_and_moves_at_its_speed(ndim):
    domain = Domain.periodic(*(2.0,) * ndim)
    x = domain.grid(*(32, 6, 5)[:ndim]).coordinates(dtype=torch.float64)[0]
    pulse = lambda s: torch.exp(2 * torch.cos(PI * s))  # noqa: E731
    slope = lambda s: -2 * PI * torch.sin(PI * s) * pulse(s)  # noqa: E731
    u0 = torch.stack([pulse(x), -1.5 * slope(x)])[None]  # moves to the right at speed 1.5
    out = SpectralWave(domain, speed=1.5).solve(u0, times=[0.3, 2 / 1.5])
    assert (out[0, 0, 0] - pulse(x - 0.45)).abs().max() < 1e-10
    assert (out[0, 1] - u0[0]).abs().max() < 1e-10


def state(shape, batch=2, dtype=torch.float64):
    return torch.randn(batch, 2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


MIXED = Domain((Axis(0.0, 2.0, points="endpoint"), Axis(0.0, 1.0, periodic=True, points="node"), Axis(0.0, 3.0)))
WALLS = (("dirichlet", "neumann"), "periodic", "neumann")


def held(u):
    """The state with zeros on the low wall of axis x."""
    u = u.clone()
    u[:, :, 0] = 0
    return u


def test_energy_is_conserved_and_damping_takes_it():
    u0 = held(state((9, 8, 7)))
    solver = SpectralWave(MIXED, walls=WALLS, speed=torch.tensor([1.0, 2.0]))
    out = solver.solve(u0, times=[0.0, 0.3, 20.0])
    energy = torch.stack([solver.energy(out[:, i]) for i in range(3)])
    torch.testing.assert_close(energy, energy[:1].expand(3, 2), rtol=1e-12, atol=0)
    assert energy.min() > 1
    damped = SpectralWave(MIXED, walls=WALLS, speed=torch.tensor([1.0, 2.0]), damping=0.1)
    assert (damped.energy(damped.solve(u0, [20.0])[:, 0]) < 0.2 * energy[0]).all()


def test_energy_of_a_known_mode():
    """u = cos(2πx) cos(πy) on [0,1) x [0,1]: ½ ∫ c²|∇u|² = ½ c² (4π² + π²)/4; the same on any grid."""
    domain = Domain((Axis(0.0, 1.0, periodic=True, points="node"), Axis(0.0, 1.0, points="endpoint")))
    solver = SpectralWave(domain, speed=3.0, walls=("periodic", "neumann"))
    for shape in ((4, 9), (16, 5), (7, 6)):
        x, y = domain.grid(*shape).coordinates(dtype=torch.float64)
        u = torch.cos(2 * PI * x) * torch.cos(PI * y)
        energy = solver.energy(torch.stack([u, 2 * u])[None])
        torch.testing.assert_close(energy.item(), 0.5 * (9 * 5 * PI**2 + 4) / 4, rtol=1e-12, atol=0)


def test_batch_equals_loop_and_a_restart_is_bit_exact():
    speed, damping = torch.tensor([1.0, 0.3], dtype=torch.float64), torch.tensor([0.0, 40.0], dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        u0 = held(state((6, 5, 4), dtype=dtype))
        solver = SpectralWave(MIXED, walls=WALLS, speed=speed, damping=damping)
        out = solver.solve(u0, times=[0.1, 0.2, 0.9])
        assert out.dtype == dtype
        for i in range(2):
            alone = SpectralWave(MIXED, walls=WALLS, speed=float(speed[i]), damping=float(damping[i])).solve(u0[i : i + 1], [0.1, 0.2, 0.9])
            torch.testing.assert_close(
                out[i : i + 1], alone, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=1e-12 if dtype == torch.float64 else 1e-5
            )
        assert torch.equal(solver.solve(out[:, 0], times=[0.2, 0.9], t0=0.1), out[:, 1:])


def test_float32_agrees_with_float64():
    u0 = held(state((16, 8, 9)))
    solver = SpectralWave(MIXED, walls=WALLS, damping=0.5)
    out, low = solver.solve(u0, [3.0]), solver.solve(u0.float(), [3.0])
    assert (low - out).norm() < 2e-6 * out.norm()


def test_derivatives():
    domain = Domain((Axis(0.0, 1.0), Axis(0.0, 1.0, periodic=True, points="node")))
    u0 = state((4, 3)).requires_grad_()
    speed = torch.tensor([1.0, 0.2], dtype=torch.float64, requires_grad=True)
    damping = torch.tensor([0.5, 5.0], dtype=torch.float64, requires_grad=True)  # the second sample has overdamped modes

    def solve(u0, speed, damping):
        return SpectralWave(domain, speed=speed, damping=damping).solve(u0, [0.3])

    assert torch.autograd.gradcheck(solve, (u0, speed, damping))


def test_refusals():
    domain = Domain.periodic(1.0, 1.0)
    with pytest.raises(ValueError, match="speed=-1"):
        SpectralWave(domain, speed=-1.0)
    with pytest.raises(ValueError, match="damping=-1"):
        SpectralWave(domain, damping=-1.0)
    with pytest.raises(ValueError, match='use points="cell" or "endpoint"'):
        SpectralWave(Domain.box(1.0, points="gauss"))
    solver, u0 = SpectralWave(domain, speed=torch.ones(3)), state((4, 4))
    with pytest.raises(ValueError, match="3 values of speed for a batch of 2"):
        solver.solve(u0, [1.0])
    solver = SpectralWave(domain)
    for bad, message in (
        (u0[:, :1], "channels displacement, velocity"),
        (u0.long(), "torch.int64"),
        (u0[0], "expected a tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            solver.solve(bad, [1.0])
    for times, message in (([], "at least one"), ([1.0, 1.0], "do not increase"), ([-1.0], "before t0=0")):
        with pytest.raises(ValueError, match=message):
            solver.solve(u0, times)
    with pytest.raises(ValueError, match="dt=-1"):
        solver.solve(u0, [1.0], dt=-1.0)
    with pytest.raises(ValueError, match=r"SpectralWave got domain=\(1.0, 1.0\); give a Domain"):
        SpectralWave((1.0, 1.0))
    u0[1, 0, 2, 2] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity in sample 1"):
        solver.solve(u0, [1.0])
    u0[1, 0, 2, 2] = 1e308  # overflows in the transform
    with pytest.raises(SolverError, match="sample 1 is not finite at t=1"):
        solver.solve(1e3 * u0.clamp(max=1e305), [1.0])


def test_runs_on_another_device_without_a_look_from_the_host():
    u0 = torch.rand(2, 2, 9, 8, 7, device="meta")  # meta tensors hold no data to look at
    assert SpectralWave(MIXED, walls=WALLS, damping=0.1).solve(u0, [0.1, 0.2]).shape == (2, 2, 2, 9, 8, 7)
