"""Gas in one dimension: exact Riemann solutions, the discrete dispersion relation, conservation, symmetry."""

import math

import pytest
import torch

from opkernels import Axis, Domain, ParticleSet
from opkernels.solvers.sph import CompressibleSPH1D, IdealGas, Isothermal, Tait
from opkernels.solvers.sph.cases import acoustic_wave, lattice_frequency, riemann_solution, shock_tube
from opkernels.solvers.stepping import SolverError

KAPPA = 10.0
LIQUID = Isothermal(math.sqrt(KAPPA), 1.0)


def tube_errors(n, gamma, eos):
    """L1 errors of density and velocity of a shock tube at t = 0.2, and its trajectory."""
    left, right = (1.0, 1.0), (0.125, 0.1 if gamma else 0.125)
    case = shock_tube(n, left=left, right=right, gamma=gamma)
    solver = CompressibleSPH1D(case.particles.domain, eos=eos)
    run = solver.solve(case.particles, [0.0, 0.2], velocities=case.velocities, energies=case.energies, frozen=case.frozen)
    live = ~case.frozen
    rho, u, _ = riemann_solution((run.positions[1, live, 0] - 0.5) / 0.2, left, right, gamma)
    volumes = case.particles.masses[live] / run.densities[1, live]
    error = (volumes * (run.densities[1, live] - rho).abs()).sum() / (volumes * rho).sum()
    return float(error), float((volumes * (run.velocities[1, live, 0] - u).abs()).sum()), run, live


def test_exact_riemann_solutions():
    """Star states against published figures (Toro 2009, table 4.2; the isothermal one solves its two conditions)."""
    s = torch.tensor([0.5, 1.0, 1.76], dtype=torch.float64)
    rho, u, p = riemann_solution(s, (1.0, 1.0), (0.125, 0.1))
    assert p[:2].tolist() == pytest.approx([0.30313, 0.30313], abs=1e-5)
    assert u[0] == pytest.approx(0.92745, abs=1e-5)
    assert rho.tolist() == pytest.approx([0.42632, 0.26557, 0.125], abs=1e-5)
    rho, u, _ = riemann_solution(torch.tensor([0.0, 1.0, 1.6631, 1.6633], dtype=torch.float64), (1.0, 1.0), (0.125, 0.125), None)
    assert u[1] == pytest.approx(-math.log(float(rho[1])))  # rarefaction
    assert u[1] ** 2 == pytest.approx((rho[1] - 0.125) ** 2 / (0.125 * rho[1]))  # shock
    assert (rho[2] > 0.3, rho[3] < 0.2) == (True, True)
    assert rho[0] == pytest.approx(math.exp(-1))  # inside the fan u = 1 + s


@pytest.mark.slow
def test_sod_shock_tube():
    """L1 error of the density below 1.5 % with 450 particles and falling at nearly first order; energy to 1e-4."""
    coarse = tube_errors(200, 1.4, IdealGas())[0]
    fine, _, run, live = tube_errors(400, 1.4, IdealGas())
    assert fine < 0.015
    assert coarse / fine > 2**0.8
    m = run.particles.masses
    energy = [(m * (run.velocities[k, :, 0] ** 2 / 2 + run.energies[k])).sum() for k in (0, 1)]
    assert float(energy[1] / energy[0]) == pytest.approx(1, abs=2e-5)
    momentum = (m * run.velocities[1, :, 0]).sum() / 0.2
    assert float(momentum) == pytest.approx(0.9, abs=1e-5)  # the ends push with p_L - p_R
    x = run.positions[1, live, 0]
    for low, high, rho_star in ((0.52, 0.64, 0.426319), (0.72, 0.81, 0.265574)):
        inside = (x > low) & (x < high)
        assert float(run.densities[1, live][inside].mean()) == pytest.approx(rho_star, rel=0.012)
        assert float(run.pressures[1, live][inside].mean()) == pytest.approx(0.303130, rel=0.012)
        assert float(run.velocities[1, live, 0][inside].mean()) == pytest.approx(0.927453, rel=0.012)


@pytest.mark.slow
def test_isothermal_shock_tube():
    assert tube_errors(400, None, Isothermal(1.0))[0] < 0.016


def wave_run(scheme, n=64, periods=2.25, frames=90):
    case = acoustic_wave(n)
    solver = CompressibleSPH1D(case.particles.domain, eos=LIQUID, adaptive=False, alpha=0.0, beta=0.0, scheme=scheme)
    omega = lattice_frequency(2 / n, 4 / n, 16 / n, math.pi, LIQUID)
    times = [periods * 2 * math.pi / omega * k / frames for k in range(frames + 1)]
    run = solver.solve(case.particles, times)
    signal = (run.densities * torch.sin(math.pi * run.positions[..., 0])).mean(1)
    return run, signal, torch.tensor(times, dtype=torch.float64), omega


@pytest.mark.parametrize("scheme", ["kdk", "rk4"])
def test_acoustic_wave_follows_the_dispersion_relation(scheme):
    """Frequency within 0.2 % of the lattice's own, which is 2 % below the continuum's pi sqrt(kappa)."""
    run, signal, times, omega = wave_run(scheme, n=128)
    crossing = (signal[1:] * signal[:-1] < 0).nonzero().squeeze()
    t = times[crossing] - signal[crossing] * (times[crossing + 1] - times[crossing]) / (signal[crossing + 1] - signal[crossing])
    measured = math.pi * (len(t) - 1) / float(t[-1] - t[0])
    assert measured == pytest.approx(omega, rel=2e-3)
    assert measured == pytest.approx(math.pi * math.sqrt(KAPPA), rel=0.03)
    m = run.particles.masses
    energy = (m * (run.velocities[..., 0] ** 2 / 2 + LIQUID.specific_energy(run.densities))).sum(1)
    wave = float((m * run.velocities[..., 0] ** 2 / 2).sum(1).max())
    drift = float((energy - energy[0]).abs().max())
    assert drift < (1e-12 * float(energy[0]) if scheme == "rk4" else 1e-2 * wave)
    assert wave > 1e-6


def random_gas(n=40, seed=0, dtype=torch.float64, domain=None):
    generator = torch.Generator().manual_seed(seed)
    domain = domain or Domain((Axis(-1, 1, periodic=True),))
    x = -1 + 2 * (torch.arange(n) + 0.3 * torch.rand(n, generator=generator, dtype=torch.float64)) / n
    particles = ParticleSet(x[:, None].to(dtype), (1 + torch.rand(n, generator=generator, dtype=torch.float64)).to(dtype) / n, 0.4, domain)
    v = torch.randn(n, 1, generator=generator, dtype=torch.float64).to(dtype) * 0.3
    u = (1 + torch.rand(n, generator=generator, dtype=torch.float64)).to(dtype)
    return particles, v, u


@pytest.mark.parametrize("adaptive", [True, False])
def test_forces_conserve_momentum_and_energy(adaptive):
    particles, v, u = random_gas()
    rates = CompressibleSPH1D(particles.domain, adaptive=adaptive).rates(particles, v, u)
    force = particles.masses * rates.acceleration[:, 0]
    assert force.abs().sum() > 1e-2
    assert float(force.sum()) == pytest.approx(0, abs=1e-14 * float(force.abs().sum()))
    power = (force * v[:, 0]).sum() + (particles.masses * rates.energy_rate).sum()
    assert float(power) == pytest.approx(0, abs=1e-14 * float((force * v[:, 0]).abs().sum()))


def test_supports_hold_their_mass():
    particles, v, u = random_gas()
    rates = CompressibleSPH1D(particles.domain, eta=3.0).rates(particles, v, u)
    torch.testing.assert_close(rates.support, 3 * particles.masses / rates.density, rtol=1e-9, atol=0)
    assert rates.support.max() / rates.support.min() > 1.2


def test_viscosity_never_gives_energy():
    """Total energy of isothermal gas falls at every step with viscosity."""
    case = acoustic_wave(64, amplitude=0.1)
    solver = CompressibleSPH1D(case.particles.domain, eos=LIQUID, adaptive=False)
    run = solver.solve(case.particles, [0.01 * k for k in range(40)], velocities=0.3 * torch.sin(math.pi * case.particles.positions))
    energy = (run.particles.masses * (run.velocities[..., 0] ** 2 / 2 + LIQUID.specific_energy(run.densities))).sum(1)
    assert (energy.diff() < 1e-5 * (energy[0] - energy[-1])).all()
    assert energy[0] - energy[-1] > 1e-3


def test_momentum_over_a_thousand_steps():
    particles, v, u = random_gas(24)
    run = CompressibleSPH1D(particles.domain, adaptive=False, eos=LIQUID).solve(particles, [0.0, 1.0], velocities=v, dt=1e-3)
    momentum = (particles.masses[:, None] * run.velocities).sum(1)
    assert run.n_steps == 1000
    torch.testing.assert_close(momentum[1], momentum[0], rtol=0, atol=1e-13 * float((particles.masses[:, None] * v).abs().sum()))


def test_kick_drift_kick_is_reversible():
    """100 steps forth and 100 back, without viscosity, return to the start."""
    case = acoustic_wave(48, amplitude=0.05)
    solver = CompressibleSPH1D(case.particles.domain, eos=LIQUID, adaptive=False, alpha=0.0, beta=0.0)
    there = solver.solve(case.particles, [0.2], dt=0.002)
    assert there.n_steps == 100
    back = solver.solve(there.frame(0), [0.2], velocities=-there.velocities[0], dt=0.002)
    assert (there.positions[0] - case.particles.positions).abs().max() > 1e-3
    torch.testing.assert_close(back.positions[0], case.particles.positions, rtol=0, atol=1e-12)
    torch.testing.assert_close(back.velocities[0], torch.zeros_like(back.velocities[0]), rtol=0, atol=1e-12)


def test_equivariance():
    """Permutation, mirror image, a shift across the seam, and a moving frame."""
    particles, v, u = random_gas()
    solver = CompressibleSPH1D(particles.domain)
    plain = solver.rates(particles, v, u)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    permuted = solver.rates(particles.replace(positions=particles.positions[order], masses=particles.masses[order]), v[order], u[order])
    torch.testing.assert_close(permuted.acceleration, plain.acceleration[order], rtol=1e-12, atol=1e-12)
    mirrored = solver.rates(particles.replace(positions=-particles.positions), -v, u)
    torch.testing.assert_close(mirrored.acceleration, -plain.acceleration, rtol=1e-12, atol=1e-12)
    moved = solver.rates(particles.replace(positions=particles.positions + 0.7), v + 5.0, u)
    torch.testing.assert_close(moved.acceleration, plain.acceleration, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved.energy_rate, plain.energy_rate, rtol=1e-10, atol=1e-10)


def test_units_do_not_matter():
    """Masses, lengths and times in other units give the same motion: rho x 1000, lengths x 2, times x 3."""
    particles, v, u = random_gas(24)
    wide = Domain((Axis(-2, 2, periodic=True),))
    other = ParticleSet(2 * particles.positions, 2000 * particles.masses, 2 * particles.support, wide)
    one = CompressibleSPH1D(particles.domain).solve(particles, [0.02], velocities=v, energies=u, dt=1e-3)
    two = CompressibleSPH1D(wide).solve(other, [0.06], velocities=v * 2 / 3, energies=u * 4 / 9, dt=3e-3)
    torch.testing.assert_close(two.positions / 2, one.positions, rtol=0, atol=1e-11)
    torch.testing.assert_close(two.densities / 1000, one.densities, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scheme", ["kdk", "rk4"])
def test_order_of_the_steps(scheme):
    from helpers import assert_order

    case = acoustic_wave(24, amplitude=0.05)
    solver = CompressibleSPH1D(case.particles.domain, eos=LIQUID, adaptive=False, alpha=0.0, beta=0.0, scheme=scheme, kernel="wendland6")
    counts = [12, 16, 24, 32, 48]
    runs = [solver.solve(case.particles, [0.3], dt=0.3 / n).positions for n in (*counts, 768)]
    errors = [float((run - runs[-1]).norm()) for run in runs[:-1]]
    assert_order([1 / n for n in counts], errors, {"kdk": 2, "rk4": 4}[scheme], slack=0.3)


def test_published_scheme():
    """The scheme of the SFBC data: stable at dt = 1e-3, energy falls, momentum stays; first-order damping."""
    case = acoustic_wave(256, amplitude=0.03)
    solver = CompressibleSPH1D.sfbc(case.particles.domain)
    run = solver.solve(case.particles, [0.02 * k for k in range(11)], dt=1e-3)
    m = case.particles.masses
    energy = (m * (run.velocities[..., 0] ** 2 / 2 + LIQUID.specific_energy(run.densities))).sum(1)
    assert energy[-1] < energy[0]
    assert float((m * run.velocities[-1, :, 0]).sum()) == pytest.approx(0, abs=1e-15)
    assert run.densities.min() > 1.9


def test_batch_and_precision_and_times():
    (a, va, ua), (b, vb, ub) = random_gas(30, 1), random_gas(40, 2)
    solver = CompressibleSPH1D(a.domain)
    both = solver.solve(ParticleSet.stack([a, b]), [0.01, 0.02], velocities=torch.cat([va, vb]), energies=torch.cat([ua, ub]), dt=1e-3)
    alone = solver.solve(b, [0.01, 0.02], velocities=vb, energies=ub, dt=1e-3)
    torch.testing.assert_close(both.positions[1, 30:], alone.positions[1], rtol=0, atol=1e-12)
    p, v, u = random_gas(40, 2, torch.float32)
    single = solver.solve(p, [0.05], velocities=v, energies=u, dt=1e-3)
    double = solver.solve(b, [0.05], velocities=vb, energies=ub, dt=1e-3)
    assert single.positions.dtype == torch.float32
    torch.testing.assert_close(single.positions.double(), double.positions, rtol=0, atol=1e-3 / 40)


def test_restart_is_bit_identical():
    p, v, u = random_gas()
    solver = CompressibleSPH1D(p.domain)
    whole = solver.solve(p, [0.0, 0.05, 0.1], velocities=v, energies=u)
    rest = solver.solve(whole.frame(1), [0.1], t0=0.05, velocities=whole.velocities[1], energies=whole.energies[1])
    assert torch.equal(rest.positions[0], whole.positions[2])
    assert torch.equal(rest.energies[0], whole.energies[2])
    assert torch.equal(whole.positions[0], p.positions)


@pytest.mark.parametrize("adaptive", [True, False])
def test_gradients_reach_the_start(adaptive):
    p, v, u = random_gas(14)
    solver = CompressibleSPH1D(p.domain, adaptive=adaptive, eta=2.5)

    def advance(x, v, u):
        return solver.solve(p.replace(positions=x), [0.03], velocities=v, energies=u, dt=0.015).positions

    x = p.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(advance, (x, v.requires_grad_(), u.requires_grad_()), rtol=1e-4, atol=1e-6)


P, V, U = random_gas()


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("give one axis", lambda: CompressibleSPH1D(Domain.periodic(1.0, 1.0))),
        ("scheme='euler'; choose one of", lambda: CompressibleSPH1D(P.domain, scheme="euler")),
        ("set adaptive=False", lambda: CompressibleSPH1D(P.domain, scheme="sfbc")),
        ("give no negative viscosity", lambda: CompressibleSPH1D(P.domain, alpha=-1.0)),
        ("needs a finite specific energy", lambda: CompressibleSPH1D(P.domain).solve(P, [0.1])),
        ("finite specific energy", lambda: CompressibleSPH1D(P.domain).solve(P, [0.1], energies=U * math.inf)),
        ("energies torch.float32; expected torch.float64", lambda: CompressibleSPH1D(P.domain).solve(P, [0.1], energies=U.float())),
        ("alpha=nan.* all finite", lambda: CompressibleSPH1D(P.domain, alpha=math.nan)),
        ("eta=nan.* all finite", lambda: CompressibleSPH1D(P.domain, eta=math.nan)),
        ("gamma=1.0; give a finite number > 1", lambda: IdealGas(1.0)),
        ("sound_speed=0.0; give a finite number > 0", lambda: Isothermal(0.0)),
        ("gamma=nan; give a finite number > 0", lambda: Tait(1.0, gamma=math.nan)),
        ("leave them out", lambda: CompressibleSPH1D(P.domain, eos=LIQUID).solve(P, [0.1], energies=U)),
        ("another domain", lambda: CompressibleSPH1D(Domain.periodic(2.0)).solve(P, [0.1], energies=U)),
        (r"expected torch.float64 \(40, 1\)", lambda: CompressibleSPH1D(P.domain).solve(P, [0.1], velocities=V[:3], energies=U)),
        (
            "velocity that is not finite at particle 0",
            lambda: CompressibleSPH1D(P.domain).solve(P, [0.1], velocities=V * math.nan, energies=U),
        ),
        ("one bool for each particle", lambda: CompressibleSPH1D(P.domain).solve(P, [0.1], energies=U, frozen=U)),
        ("ascending times", lambda: CompressibleSPH1D(P.domain).solve(P, [0.2, 0.1], energies=U)),
        ("give a step > 0", lambda: CompressibleSPH1D(P.domain).solve(P, [0.1], energies=U, dt=0.0)),
        ("are unstable here", lambda: CompressibleSPH1D(P.domain).solve(P, [0.1], energies=U, dt=1.0)),
        (
            "particles 0 and 1 at the same place",
            lambda: CompressibleSPH1D(P.domain).solve(P.replace(positions=P.positions[[1, 1, *range(2, 40)]]), [0.1], energies=U),
        ),
        ("nearest image would not be unique", lambda: CompressibleSPH1D(P.domain, eta=30.0).solve(P, [0.1], energies=U)),
        ("leaves 12.5 particles on the right", lambda: shock_tube(100)),
    ],
)
def test_refusals(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_lone_particle_has_no_support():
    """Where there is no mass of eta neighbors in reach, the search for a support ends."""
    tube = Domain.box(1.0)
    pair = ParticleSet(torch.tensor([[0.1], [0.9]], dtype=torch.float64), 0.1, 0.05, tube)
    with pytest.raises(SolverError, match="particle 0 finds no mass of 4 neighbors on each side within twice the domain"):
        CompressibleSPH1D(tube).solve(pair, [0.1], energies=torch.ones(2, dtype=torch.float64))


def test_breakdown_names_step_and_particle():
    case = acoustic_wave(32)
    solver = CompressibleSPH1D(case.particles.domain, eos=LIQUID, adaptive=False, alpha=0.0, beta=0.0)
    v = torch.full((32, 1), 1e6, dtype=torch.float64)
    v[7] += 1
    with pytest.raises(SolverError, match="particle 7 moves at 1e[+]06.* at step 1, t = 0.002"):
        solver.solve(case.particles, [0.1], velocities=v, dt=0.002)
