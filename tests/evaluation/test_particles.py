"""Figures of particle rollouts against values known by hand."""

import math

import pytest
import torch

from opkernels import Domain, ParticleSet
from opkernels.datasets.particle_flows import particle_flow
from opkernels.evaluation.particles import compare_particles, density, kinetic_energy, position_mse, sinkhorn

TORUS = Domain.periodic(1.0, 1.0)


def test_position_errors_take_the_nearest_image():
    x = torch.rand(3, 10, 2, dtype=torch.float64)
    step = torch.tensor([[[0.0, 0.0]], [[0.1, 0.0]], [[0.99, 2.0]]], dtype=torch.float64)
    torch.testing.assert_close(position_mse(x + step, x, TORUS), torch.tensor([0.0, 0.005, 5e-5], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"expected \(T, N, 2\) both"):
        position_mse(x, x[:2], TORUS)


def test_energy_and_density():
    v, m = torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]), torch.tensor([2.0, 4.0])
    assert kinetic_energy(v, m).tolist() == [27.0]
    particles = ParticleSet.from_grid(TORUS.grid(40, 40), 0.15, density=3.0, dtype=torch.float64)
    torch.testing.assert_close(density(particles.positions, particles), torch.full((1600,), 3.0, dtype=torch.float64), rtol=1e-3, atol=0)


def test_sinkhorn_of_a_moved_cloud():
    """Zero for equal clouds in any order; for far points about half the squared distance of each, as one over d; symmetric."""
    x = torch.rand(30, 2, dtype=torch.float64)
    assert abs(sinkhorn(x, x[torch.randperm(30)], TORUS, epsilon=1e-3).item()) < 1e-9
    one, two = torch.tensor([[0.2, 0.2]], dtype=torch.float64), torch.tensor([[0.95, 0.2]], dtype=torch.float64)
    assert sinkhorn(one, two, TORUS, epsilon=1e-3).item() == pytest.approx(0.0625, rel=1e-9)
    moved = x + torch.tensor([0.02, 0.0], dtype=torch.float64)
    a, b = sinkhorn(x, moved, TORUS, epsilon=1e-4), sinkhorn(moved, x, TORUS, epsilon=1e-4)
    assert 0 < a < 4.1e-4 and math.isclose(a, b, rel_tol=1e-3)
    with pytest.raises(ValueError, match="epsilon=0"):
        sinkhorn(x, x, TORUS, epsilon=0)


def test_sinkhorn_against_the_assignment():
    """With a small blur, the cost of the best assignment; also of a line of particles that have moved by many spacings."""
    from scipy.optimize import linear_sum_assignment

    torch.manual_seed(0)
    line = (torch.arange(100, dtype=torch.float64)[:, None] + 0.5) / 100
    wave = line + 0.15 * torch.sin(2 * math.pi * line)
    for x, y, domain in ((*torch.rand(2, 12, 2, dtype=torch.float64), TORUS), (line, wave, Domain.periodic(1.0))):
        d = x[:, None] - y[None]
        cost = (d - torch.round(d)).square().sum(-1)
        best = cost[linear_sum_assignment(cost.numpy())].mean()
        assert sinkhorn(x, y, domain, epsilon=2.5e-5).item() == pytest.approx(best.item(), rel=2e-2)


def test_a_perfect_rollout_has_no_error():
    run = particle_flow("compressible", 0, n_frames=8, n_particles=32)
    figures = compare_particles(run.positions, run.velocities, run, horizons=(1, 5, 20))
    assert figures["mse@1"] == figures["mse@5"] == figures["density_error"] == 0 and "mse@20" not in figures
    assert figures["energy"] == figures["true_energy"] and abs(figures["sinkhorn"]) < 1e-12 and figures["momentum"] < 1e-12
    assert figures["max_density"] == figures["true_max_density"]


def test_figures_of_a_rollout_that_drifts():
    """Every particle off by a step of c more in each frame, and faster by a third: figures by hand."""
    run = particle_flow("compressible", 0, n_frames=7, n_particles=32)
    c = 0.01
    drift = c * torch.arange(7, dtype=torch.float64)[:, None, None]
    figures = compare_particles(run.positions + drift, run.velocities + 1 / 3, run, horizons=(1, 3), rest=2.0)
    assert figures["mse@1"] == pytest.approx(c**2) and figures["mse@3"] == pytest.approx(c**2 * 14 / 3)
    assert figures["density_error"] < 1e-12 and figures["max_density"] == pytest.approx(figures["true_max_density"])
    assert figures["momentum"] < 1e-12  # it was off from the start, but did not change
    kicked = torch.cat([run.velocities[:1], run.velocities[1:] + 1 / 3])
    size = (run.particles.masses[:, None] * run.velocities[0].abs()).sum().item()
    change = (torch.einsum("i,tid->td", run.particles.masses, kicked) - run.particles.masses @ run.velocities[0]).abs().max().item()
    assert compare_particles(run.positions, kicked, run)["momentum"] == pytest.approx(change / size)
    assert figures["sinkhorn_epsilon"] == pytest.approx((2 / 32) ** 2 / 4)  # half a spacing, squared
    assert compare_particles(run.positions, run.velocities, run, rest=2.0)["max_density"] == pytest.approx(figures["max_density"])
    squeezed = run.positions.clone()
    squeezed[-1] *= 0.5
    rho, other = density(run.positions[-1], run.particles), density(squeezed[-1], run.particles)
    wanted = ((rho - other) / 2).square().mean().sqrt().item()
    assert compare_particles(squeezed, run.velocities, run, rest=2.0)["density_error"] == pytest.approx(wanted) and wanted > 0.1
