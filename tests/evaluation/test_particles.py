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
    """With a small blur, the cost of the best assignment."""
    from scipy.optimize import linear_sum_assignment

    torch.manual_seed(0)
    x, y = torch.rand(2, 12, 2, dtype=torch.float64)
    d = x[:, None] - y[None]
    cost = (d - torch.round(d)).square().sum(-1)
    best = cost[linear_sum_assignment(cost.numpy())].mean()
    assert sinkhorn(x, y, TORUS, epsilon=1e-4, iterations=5000).item() == pytest.approx(best.item(), rel=2e-2)


def test_a_perfect_rollout_has_no_error():
    run = particle_flow("compressible", 0, n_frames=8, n_particles=32)
    figures = compare_particles(run.positions, run.velocities, run, horizons=(1, 5, 20))
    assert figures["mse@1"] == figures["mse@5"] == figures["density_error"] == 0 and "mse@20" not in figures
    assert figures["energy"] == figures["true_energy"] and abs(figures["sinkhorn"]) < 1e-12 and figures["momentum"] < 1e-12
    assert figures["max_density"] == figures["true_max_density"]
