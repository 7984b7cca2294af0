"""Ring forcing: input of energy and enstrophy, independence of batch, resolution, step and restart, refusals."""

import math

import pytest
import torch

from opkernels import Domain
from opkernels.solvers import NavierStokes2D, RingForcing

TORUS = Domain.periodic(2 * math.pi, 2 * math.pi)
RING = RingForcing(rate=0.3, wavenumber=4.0, interval=0.05, seed=3)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def rest(n=24, batch=1, m=None):
    return torch.zeros(batch, 1, n, m or n, dtype=torch.float64)


@pytest.mark.parametrize("domain", [TORUS, Domain.periodic(3.0, 2.0)])
def test_energy_enters_at_the_rate_given(domain):
    """E(t) = ε t on average from rest without losses (the flow conserves the rest), enstrophy at the mean of κ² over the ring."""
    ring = RingForcing(rate=0.3, wavenumber=9.0, interval=0.1, width=3.0, seed=3)
    solver = NavierStokes2D(domain, viscosity=0.0, stirring=ring)
    w = solver.solve(rest(40, 400, 36), [0.2], dt=0.05)[:, 0]
    n = torch.from_numpy(ring.modes(domain.grid(40, 36))) * (2 * math.pi / torch.tensor(domain.extent, dtype=torch.float64))
    k2 = n.square().sum(dim=1)
    spread = 1 / math.sqrt(400 * len(k2))  # of the mean of a χ² sum
    assert solver.energy(w).mean().item() == pytest.approx(0.3 * 0.2, rel=4 * spread)
    assert solver.enstrophy(w).mean().item() == pytest.approx(0.3 * 0.2 * k2.mean().item(), rel=4 * spread)
    assert w.mean(dim=(-2, -1)).abs().max() < 1e-15


def test_energy_budget_between_the_increments():
    """With losses dE/dt = ε - 2νZ - 2αE on average: for linear modes E = ε (1 - e^{-2λt})/(2λ), λ = νκ² + α."""
    ring = RingForcing(rate=0.3, wavenumber=4.0, interval=0.05, width=0.01, seed=5)  # the four modes of |κ| = 4: no transport
    solver = NavierStokes2D(TORUS, viscosity=0.02, drag=0.1, stirring=ring)
    energy = solver.energy(solver.solve(rest(16, 2000), [2.0], dt=0.05)[:, 0]).mean().item()
    decay = math.exp(-2 * 0.05 * (0.02 * 16 + 0.1))
    assert energy == pytest.approx(0.3 * 0.05 * sum(decay**m for m in range(40)), rel=4 / math.sqrt(2 * 2000))


def test_the_same_for_any_batch_restart_step_and_resolution():
    solver = NavierStokes2D(TORUS, viscosity=0.05, stirring=RING)
    times = [0.1, 0.17, 0.3, 0.4]
    w = solver.solve(rest(24, 3), times, dt=0.01)
    for start in (1, 2):
        one = RingForcing(rate=0.3, wavenumber=4.0, interval=0.05, seed=3, start=start)
        alone = NavierStokes2D(TORUS, viscosity=0.05, stirring=one).solve(rest(), times, dt=0.01)
        assert relative(alone[0], w[start]) < 1e-13
    assert relative(w[0], w[1]) > 0.5
    for i, t in enumerate(times[:3]):
        again = solver.solve(w[:, i], times[i + 1 :], t0=t, dt=0.01)
        assert torch.equal(again, w[:, i + 1 :])
    assert relative(solver.solve(rest(24, 3), times), w) < 1e-5
    fine, finest = (solver.solve(rest(n, 3), times[:2], dt=0.02) for n in (48, 96))
    assert relative(finest[..., ::2, ::2], fine) < 1e-5
    other = RingForcing(rate=0.3, wavenumber=4.0, interval=0.05, seed=4)
    assert relative(NavierStokes2D(TORUS, viscosity=0.05, stirring=other).solve(rest(24, 3), times, dt=0.01), w) > 0.5
    single = solver.solve(rest(24, 3).float(), times, dt=0.01)
    assert single.dtype == torch.float32 and relative(single.double(), w) < 1e-5


def test_bad_input():
    with pytest.raises(ValueError, match="RingForcing got rate=-1; give a positive number"):
        RingForcing(rate=-1, wavenumber=4.0, interval=0.1)
    with pytest.raises(ValueError, match="RingForcing got seed='a'; give a whole number of at least 0"):
        RingForcing(rate=1, wavenumber=4.0, interval=0.1, seed="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="RingForcing got start=-1; give a whole number of at least 0"):
        RingForcing(rate=1, wavenumber=4.0, interval=0.1, start=-1)
    with pytest.raises(ValueError, match="stirring=3; give a RingForcing"):
        NavierStokes2D(TORUS, viscosity=0.1, stirring=3)
    with pytest.raises(ValueError, match="too many for a grid"):
        NavierStokes2D(TORUS, viscosity=0.1, stirring=RING).solve(rest(12), [1.0])
    with pytest.raises(ValueError, match=r"no wave number of the domain lies in 0.3 . 0.05; widen the ring"):
        NavierStokes2D(TORUS, viscosity=0.1, stirring=RingForcing(rate=1, wavenumber=0.3, width=0.1, interval=0.1)).solve(rest(12), [1.0])
