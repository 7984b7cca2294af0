"""Particle sets: what they hold, their volumes, and what they refuse."""

import math

import pytest
import torch

from opkernels import Axis, Domain, ParticleSet, Sphere


def test_volumes_integrate():
    """The volumes of a grid's nodes are its quadrature weights: the integral of sin^2 is exact."""
    domain = Domain([Axis(-1, 1, periodic=True), Axis(0, 3, points="gauss")])
    particles = ParticleSet.from_grid(domain.grid(12, 9), 0.5, density=7.0, dtype=torch.float64)
    f = torch.sin(math.pi * particles.positions[:, 0]) ** 2 * particles.positions[:, 1] ** 4
    torch.testing.assert_close((f * particles.volumes).sum(), torch.tensor(3**5 / 5, dtype=torch.float64), rtol=1e-13, atol=0)
    assert particles.masses.sum() == pytest.approx(7 * domain.measure)


def test_without_densities_masses_are_volumes():
    particles = ParticleSet(torch.zeros(4, 1), 0.25, 1.0, Domain.periodic(2.0))
    assert torch.equal(particles.volumes, particles.masses)
    assert particles.replace(densities=torch.full((4,), 2.0)).volumes.tolist() == [0.125] * 4


def test_neighbors_and_wrapping():
    domain = Domain([Axis(-1, 1, periodic=True), Axis(0, 1)])
    particles = ParticleSet(torch.tensor([[0.95, 0.5], [1.05, 0.5], [0.0, 3.0]]), 1.0, 0.2, domain)
    assert particles.neighbors(include_self=False).col.tolist() == [1, 0]
    assert particles.neighbors(half=True).n_edges == 1
    torch.testing.assert_close(particles.wrapped(), torch.tensor([[0.95, 0.5], [-0.95, 0.5], [0.0, 3.0]]))


def test_stack_keeps_simulations_apart():
    domain = Domain.periodic(1.0)
    one = ParticleSet(torch.tensor([[0.1], [0.2]]), 1.0, 0.3, domain)
    both = ParticleSet.stack([one, one])
    assert (len(both), both.n_batches) == (4, 2)
    assert both.neighbors().n_edges == 2 * one.neighbors().n_edges


def test_cast_keeps_indices():
    particles = ParticleSet(torch.zeros(2, 1), 1.0, 0.3, Domain.periodic(1.0), batch=torch.tensor([0, 1])).to(torch.float64)
    assert particles.positions.dtype == particles.masses.dtype == torch.float64
    assert particles.batch.dtype == torch.int64
    assert particles.to("cpu", torch.float32).positions.dtype == torch.float32


LINE = Domain.periodic(1.0)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"on a 1-D domain; expected \(N, d\)", (torch.zeros(3, 2), 1.0, 0.1, LINE)),
        (r"masses of shape \(2,\)", (torch.zeros(3, 1), torch.ones(2), 0.1, LINE)),
        (r"masses that are not positive at particle 1", (torch.zeros(2, 1), torch.tensor([1.0, 0.0]), 0.1, LINE)),
        (r"not finite at particle 1", (torch.tensor([[0.0], [math.inf]]), 1.0, 0.1, LINE)),
        (r"give a Domain", (torch.zeros(3, 2), 1.0, 0.1, Sphere())),
        (r"support=0", (torch.zeros(2, 1), 1.0, 0.0, LINE)),
        (r"batch of shape", (torch.zeros(2, 1), 1.0, 0.1, LINE, torch.zeros(2))),
        (r"expected one integer >= 0", (torch.zeros(2, 1), 1.0, 0.1, LINE, torch.tensor([0, -1]))),
        (r"densities that are not positive", (torch.zeros(2, 1), 1.0, 0.1, LINE, None, torch.tensor([1.0, math.nan]))),
    ],
)
def test_refusals(message, arguments):
    with pytest.raises(ValueError, match=message):
        ParticleSet(*arguments)


def test_stack_refuses_what_differs():
    a, b = (ParticleSet(torch.zeros(2, 1), 1.0, s, LINE) for s in (0.1, 0.2))
    with pytest.raises(ValueError, match="differ in support or domain"):
        ParticleSet.stack([a, b])
    with pytest.raises(ValueError, match="got no sets"):
        ParticleSet.stack([])
