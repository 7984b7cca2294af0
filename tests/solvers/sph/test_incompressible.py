"""Incompressible flow: the operator's algebra, colliding blobs, a still tank, closed flow, conservation, units."""

import math

import pytest
import torch

from opkernels import Axis, Domain, ParticleSet
from opkernels.solvers.sph import IncompressibleSPH2D, Walls
from opkernels.solvers.sph.cases import colliding_blobs, still_tank, taylor_green
from opkernels.solvers.sph.incompressible import _Run
from opkernels.solvers.sph.kernels import lattice_density, lattice_slope, smoothing_kernel


def cloud(unequal):
    case = taylor_green(8, neighbors=2.9, jitter=0.25)
    p = case.particles
    generator = torch.Generator().manual_seed(0)
    mass = 1 + 0.5 * unequal * torch.rand(64, generator=generator, dtype=torch.float64)
    return p.replace(masses=p.masses * mass), case.velocities


@pytest.mark.parametrize("unequal", [0, 1])
def test_operator(unequal):
    """diag(m) A is symmetric and positive semi-definite, and D is the diagonal of A."""
    particles, _ = cloud(unequal)
    run = _Run(IncompressibleSPH2D(particles.domain), particles)
    here = run.arrange(particles.positions)
    matrix = torch.stack([run.operator(here, e) for e in torch.eye(64, dtype=torch.float64)], 1)
    torch.testing.assert_close(here.diagonal, matrix.diagonal(), rtol=1e-12, atol=0)
    scaled = particles.masses[:, None] * matrix
    torch.testing.assert_close(scaled, scaled.T, rtol=0, atol=1e-13 * float(scaled.abs().max()))
    assert torch.linalg.eigvalsh((scaled + scaled.T) / 2).min() > -1e-12 * float(scaled.abs().max())
    largest = float(torch.linalg.eigvals(matrix / here.diagonal[:, None]).real.max())
    assert run.relaxation(here) == pytest.approx(min(0.5, 1.6 / largest), rel=0.05)
    assert largest > 2  # so that omega = 1 would diverge


def test_lattice_has_the_rest_density():
    """Published sums of Wendland C2 over a square lattice; and walls complete the first row."""
    kernel = smoothing_kernel("wendland2", 2)
    masses = [1 / lattice_density(kernel, 1.0, h) for h in (2, 2.52, 3, 4)]
    assert masses == pytest.approx([0.96376, 0.98713, 0.99488, 0.99880], abs=1e-5)
    assert [lattice_slope(kernel, 1.0, h) for h in (2.52, 3, 4)] == pytest.approx([0.96775, 0.9974, 0.9992], abs=1e-4)
    domain = Domain.box(1.0, 1.0)
    case = still_tank(domain, 0.1, 1.0, neighbors=2.52)
    run = _Run(IncompressibleSPH2D(domain, walls=Walls.of_box(domain, 0.1, 0.252)), case.particles)
    torch.testing.assert_close(run.arrange(case.particles.positions).rho, torch.ones(100, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", ["dfsph", "iisph"])
def test_colliding_blobs(scheme):
    """Linear and angular momentum to round-off through the impact; compression small, and smaller with both solves."""
    case = colliding_blobs(0.04, centers=((-0.26, 0.05), (0.26, -0.05)))
    run = IncompressibleSPH2D(case.particles.domain, scheme=scheme).solve(case.particles, [0.0, 0.4], velocities=case.velocities)
    m, x, v = case.particles.masses, run.positions, run.velocities
    momentum = (m[:, None] * v).sum(1)
    angular = (m * (x[..., 0] * v[..., 1] - x[..., 1] * v[..., 0])).sum(1)
    assert abs(float(angular[0])) > 1e-3
    torch.testing.assert_close(momentum[1], momentum[0], rtol=0, atol=1e-14 * float(m.sum()))
    torch.testing.assert_close(angular[1], angular[0], rtol=1e-12, atol=0)
    energy = run.kinetic_energy()
    assert 0.5 * energy[0] < energy[1] < 0.999 * energy[0]  # they did collide
    statistics = run.statistics
    assert len(statistics["mean_compression"]) == run.n_steps > 30
    if scheme == "dfsph":
        assert max(statistics["mean_compression"]) < 1e-3
        assert max(statistics["max_compression"]) < 0.03
        assert sum(statistics["density_iterations"]) < 12 * run.n_steps


@pytest.mark.slow
def test_still_tank():
    """Pressure is hydrostatic in the mean over time, and the water hardly moves."""
    spacing = 0.5 / 12
    domain = Domain((Axis(0, 0.5), Axis(0, 1)))
    walls = Walls.of_box(domain, spacing, 3 * spacing, open_sides=("+y",))
    case = still_tank(domain, spacing, 0.5, width=0.5)
    solver = IncompressibleSPH2D(domain, gravity=(0.0, -1.0), xsph=0.05, walls=walls)
    run = solver.solve(case.particles, [0.3 + 0.025 * k for k in range(20)])
    y = run.positions[..., 1].mean(0)
    p = run.pressures.mean(0)
    exact = 0.5 - y
    assert float((p - exact).norm() / exact.norm()) < 0.12
    slope = ((p - p.mean()) * (y - y.mean())).sum() / (y - y.mean()).square().sum()
    assert float(slope) == pytest.approx(-1, abs=0.05)
    assert float(run.kinetic_energy()[-1] / (case.particles.masses * y).sum()) < 2e-4
    assert float(y.max()) + spacing / 2 == pytest.approx(0.5, abs=0.01)


def test_closed_flow_converges():
    """A periodic flow takes its own mean density; the solves converge, and it loses energy at least as fast as it must."""
    case = taylor_green(16, neighbors=2.52, jitter=0.0)
    run = IncompressibleSPH2D(case.particles.domain, viscosity=0.01, max_step=0.005).solve(
        case.particles, [0.0, 0.1], velocities=case.velocities
    )
    assert max(run.statistics["density_iterations"]) < 100
    assert sum(run.statistics["density_iterations"]) < 60 * run.n_steps
    energy = run.kinetic_energy()
    exact = math.exp(-16 * math.pi**2 * 0.01 * 0.1)
    assert 0.8 * exact < energy[1] / energy[0] < 1.01 * exact
    drift = (case.particles.masses[:, None] * (run.velocities[1] - run.velocities[0])).sum(0)
    assert float(drift.norm()) < 1e-14


def test_viscosity_is_that_of_a_shear_wave():
    n = 24
    case = taylor_green(n, neighbors=4.0, jitter=0.0)
    u = torch.sin(2 * math.pi * case.particles.positions[:, 1])
    v = torch.stack([u, torch.zeros_like(u)], 1)
    run = IncompressibleSPH2D(case.particles.domain, viscosity=0.05).solve(case.particles, [1e-3], velocities=v, dt=2.5e-4)
    felt = -math.log(float((run.velocities[0, :, 0] @ u) / (u @ u))) / (1e-3 * (2 * math.pi) ** 2)
    assert felt == pytest.approx(0.05, rel=0.05)


def test_units_do_not_matter():
    """Water a thousand times as dense takes the same path; so do lengths x 2 and times x 3."""
    case = colliding_blobs(0.08, centers=((-0.25, 0.05), (0.25, -0.05)))
    p = case.particles
    large = Domain((Axis(-2, 2), Axis(-2, 2)))
    heavy = ParticleSet(2 * p.positions, 4000 * p.masses, 2 * p.support, large)
    one = IncompressibleSPH2D(p.domain).solve(p, [0.2], velocities=case.velocities, dt=0.01)
    two = IncompressibleSPH2D(large, rest_density=1000.0).solve(heavy, [0.6], velocities=case.velocities * 2 / 3, dt=0.03)
    torch.testing.assert_close(two.positions / 2, one.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(two.pressures[0] * 9 / 4000, one.pressures[0], rtol=1e-6, atol=1e-8)


def test_restart_rotation_and_precision():
    case = colliding_blobs(0.08, centers=((-0.25, 0.05), (0.25, -0.05)))
    p = case.particles
    solver = IncompressibleSPH2D(p.domain)
    whole = solver.solve(p, [0.0, 0.1, 0.2], velocities=case.velocities)
    rest = solver.solve(whole.frame(1), [0.2], t0=0.1, velocities=whole.velocities[1])
    assert torch.equal(rest.positions[0], whole.positions[2])
    assert torch.equal(whole.positions[0], p.positions)
    angle = 0.7
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    turned = solver.solve(p.replace(positions=p.positions @ turn.T), [0.1, 0.2], velocities=case.velocities @ turn.T)
    torch.testing.assert_close(turned.positions[1], whole.positions[2] @ turn.T, rtol=0, atol=1e-9)
    single = solver.solve(p.to(torch.float32), [0.1], velocities=case.velocities.float())
    torch.testing.assert_close(single.positions[0].double(), whole.positions[1], rtol=0, atol=1e-3)


def test_symmetries_and_batches():
    """Another order of the particles, a moving frame, a shift across the seam, two runs in one batch: the same flow.

    As far as the iterations converge, whose stop depends on the order of the sums.
    """
    case = taylor_green(10, neighbors=2.52, jitter=0.2)
    p, v = case.particles, 0.3 * case.velocities
    solver = IncompressibleSPH2D(p.domain, viscosity=0.01, tolerance=1e-8, divergence_tolerance=1e-8, max_iterations=400)
    plain = solver.solve(p, [0.02], velocities=v, dt=5e-3).positions[0]
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    shuffled = solver.solve(p.replace(positions=p.positions[order]), [0.02], velocities=v[order], dt=5e-3).positions[0]
    torch.testing.assert_close(shuffled, plain[order], rtol=0, atol=1e-6)
    frame, shift = torch.tensor([0.5, -0.25], dtype=torch.float64), torch.tensor([0.43, -7.7], dtype=torch.float64)
    moved = solver.solve(p.replace(positions=p.positions + shift), [0.02], velocities=v + frame, dt=5e-3).positions[0]
    torch.testing.assert_close(moved - shift - 0.02 * frame, plain, rtol=0, atol=1e-6)
    both = solver.solve(ParticleSet.stack([p, p]), [0.02], velocities=torch.cat([v, v]), dt=5e-3).positions[0]
    torch.testing.assert_close(both[100:], plain, rtol=0, atol=1e-6)


DISC = colliding_blobs(0.1).particles


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("give two axes", lambda: IncompressibleSPH2D(Domain.periodic(1.0))),
        ("choose dfsph or iisph", lambda: IncompressibleSPH2D(DISC.domain, scheme="pcisph")),
        ("give positive ones", lambda: IncompressibleSPH2D(DISC.domain, tolerance=0.0)),
        ("same place", lambda: IncompressibleSPH2D(DISC.domain).solve(DISC.replace(positions=0 * DISC.positions), [0.1])),
        (
            "steps above .* are unstable",
            lambda: IncompressibleSPH2D(DISC.domain).solve(DISC, [9.0], velocities=torch.ones_like(DISC.positions), dt=1.0),
        ),
        (
            "below the wall of axis y",
            lambda: IncompressibleSPH2D(DISC.domain, walls=Walls.of_box(DISC.domain, 0.1, 0.252)).solve(
                DISC.replace(positions=DISC.positions - torch.tensor([0.0, 1.0])), [0.1]
            ),
        ),
        ("for particles .* apart", lambda: IncompressibleSPH2D(DISC.domain, rest_density=1000.0).solve(DISC, [0.1])),
        ("give two finite numbers", lambda: IncompressibleSPH2D(DISC.domain, gravity=(math.inf, 0.0))),
        ("viscosity=inf; give a finite number", lambda: IncompressibleSPH2D(DISC.domain, viscosity=math.inf)),
        ("another domain", lambda: IncompressibleSPH2D(Domain.box(1.0, 1.0)).solve(DISC, [0.1])),
        ("is not finite at particle 0", lambda: IncompressibleSPH2D(DISC.domain).solve(DISC, [0.1], velocities=DISC.positions * math.nan)),
    ],
)
def test_refusals(message, call):
    with pytest.raises(ValueError, match=message):
        call()
