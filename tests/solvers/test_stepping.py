"""φ-functions, tables and the loop: order conditions, exact times, step control, blow-up, gradients."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers import assert_order, band_limited

from opkernels import Domain
from opkernels.solvers import KuramotoSivashinsky, stepping
from opkernels.solvers.stepping import SolverError, evolve, phi
from opkernels.solvers.tables import AB3, AB4, ETDRK4, ETDRK4B, IFRK4, METHODS, RungeKutta


def phi_reference(k, z):
    """Sum the series in 60-digit arithmetic, or use the closed form in it."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        z = mpmath.mpc(z)
        if abs(z) < 1e-3:
            return complex(mpmath.fsum(z**j / mpmath.factorial(j + k) for j in range(20)))
        return complex((mpmath.exp(z) - mpmath.fsum(z**j / mpmath.factorial(j) for j in range(k))) / z**k)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_phi_is_accurate_everywhere(k):
    angles = np.exp(2j * np.pi * np.arange(24) / 24)
    points = np.concatenate(
        [angles, 0.999 * angles, 1e-8 * angles, 1j * np.logspace(0, 4, 9), -1j * np.logspace(0, 4, 9), -np.logspace(-3, 6, 10)]
    )
    values = phi(k, torch.from_numpy(points)).numpy()
    truth = np.array([phi_reference(k, z) for z in points])
    assert np.abs(values / truth - 1).max() < (1e-14 if k < 4 else 2e-14)


def test_phi_at_zero_of_real_arguments_and_its_gradient():
    z = torch.tensor([0.0, -0.5, -3.0, 2.0], dtype=torch.float64, requires_grad=True)
    for k, value in ((0, 1.0), (1, 1.0), (2, 0.5), (3, 1 / 6)):
        assert abs(phi(k, z)[0].item() - value) < 1e-15
        assert torch.autograd.gradcheck(lambda z, k=k: phi(k, z), (z,))


@pytest.mark.parametrize("epsilon", [1e-9, -1e-6, 1e-2])
@pytest.mark.parametrize("table", [IFRK4, ETDRK4, ETDRK4B])
def test_a_table_with_a_wrong_coefficient_is_refused(table, epsilon):
    first, *rest = table.weights
    wrong = ((first[0][0] + epsilon, *first[0][1:]), *first[1:])
    with pytest.raises(ValueError, match=r"claims order 4, but its step is wrong at h\^1"):
        dataclasses.replace(table, weights=(wrong, *rest))
    second = ((rest[0][0][0] + epsilon, *rest[0][0][1:]), *rest[0][1:])  # keeps the sum, so only higher conditions fail
    shifted = ((first[0][0] - epsilon, *first[0][1:]), *first[1:])
    with pytest.raises(ValueError, match=r"wrong at h\^[12]"):
        dataclasses.replace(table, weights=(shifted, second, *rest[1:]))


def test_exponential_conditions_are_checked_beyond_the_classical_ones():
    """With e^{z/2} for φ_1(z/2) in a stage, the table is classical RK4 at z = 0 but not of order 4."""
    stages = ((), ((0.5, 0, 0.5),))
    with pytest.raises(ValueError, match="claims order 4"):
        dataclasses.replace(ETDRK4, stages=(stages[0], (stages[1],), *ETDRK4.stages[2:]))
    with pytest.raises(ValueError, match="a row sums to its node"):
        dataclasses.replace(ETDRK4, nodes=(0.0, 0.4, 0.5, 1.0))
    with pytest.raises(ValueError, match="other lengths"):
        RungeKutta("bad", 1, (0.0, 1.0), ((),), (((1.0, 0, 1.0),),), 1.0)
    with pytest.raises(ValueError, match=r"order 3, but its step is wrong at h\^3"):
        dataclasses.replace(AB3, weights=tuple(((w, 0, j + 1.0),) for j, w in enumerate((1.9, -1.3, 0.4))))


class Scalar:
    """u' = λ u + g(u, t) for a (B, 1) state; the rate is given."""

    def __init__(self, rate, nonlinear, speed=0.0):
        self.symbol, self._nonlinear, self.speed, self.driven = rate, nonlinear, speed, True

    def nonlinear(self, state, t):
        return self._nonlinear(state, t)

    def rate(self, state):
        return torch.full(state.shape[:1], float(self.speed), dtype=torch.float64)


def run(problem, u0, times, **options):
    options = {"t0": 0.0, "dt": None, "table": IFRK4, **options}
    return torch.stack(list(evolve(problem, u0, times, **options)), dim=1)


@pytest.mark.parametrize("name", METHODS)
def test_order_on_a_forced_stiff_pair(name):
    """u' = λ u - u³ + p(t) with λ = -20 (real) and 3i - 1 (complex), forced so that u = e^{sin t} is exact."""
    table = METHODS[name]
    for rate in (torch.tensor([[-20.0]], dtype=torch.float64), torch.tensor([[-1.0 + 3.0j]], dtype=torch.complex128)):

        def force(u, t, rate=rate):
            exact = math.exp(math.sin(t))
            return -(u**3) + (exact**3 + exact * math.cos(t)) - rate * exact

        problem = Scalar(rate, force)
        u0 = torch.ones(1, 1, dtype=rate.dtype)
        steps = [160, 320, 640, 1280, 2560]
        errors = [abs(run(problem, u0, [2.0], dt=2 / n, table=table)[0, 0].item() - math.exp(math.sin(2.0))) for n in steps]
        slack = 0.15 if rate.is_complex() else 0.6  # stiff order reduction at λh = -0.5 .. -0.03
        assert_order([2 / n for n in steps], errors, table.order, slack)


def test_linear_part_is_exact_and_times_are_hit():
    rate = torch.tensor([[-3.0 + 40.0j, 0.5, -1e4]], dtype=torch.complex128)
    problem = Scalar(rate, lambda u, t: torch.zeros_like(u))
    times = [0.1 * k for k in range(1, 31)]
    u = run(problem, torch.ones(1, 3, dtype=torch.complex128), times)
    truth = torch.exp(rate[:, None] * torch.tensor(times, dtype=torch.float64)[:, None])
    assert (u - truth).abs().max() < 1e-12


@pytest.mark.parametrize("table", [IFRK4, AB4])
def test_steps_are_counted(table):
    """0.1 k for k up to 1000 with dt = 0.1 takes exactly one step each: no step of size 1e-13 follows."""
    calls = []

    def nonlinear(u, t):
        calls.append(t)
        return torch.zeros_like(u)

    times = [0.1 * k for k in range(1, 1001)]
    problem = Scalar(torch.zeros(1, 1, dtype=torch.float64), nonlinear)
    run(problem, torch.ones(1, 1, dtype=torch.float64), times, dt=0.1, table=table)
    if table is IFRK4:
        assert len(calls) == 4000
    else:
        assert len(calls) == 1000 + 3 * 3  # three starting steps with three more evaluations


def test_own_step_meets_its_tolerance_and_follows_the_solution():
    """u' = -u² + cos 40t for t > 1, smooth before: steps shrink where the solution is quick."""
    stamps = []

    def nonlinear(u, t):
        stamps.append(t)
        return -u * u + 20 / (1 + math.exp(-40 * (t - 2)))

    problem = Scalar(torch.zeros(1, 1, dtype=torch.float64), nonlinear)
    u = run(problem, torch.ones(1, 1, dtype=torch.float64), [4.0])
    count = len(stamps)
    truth = run(problem, torch.ones(1, 1, dtype=torch.float64), [4.0], dt=1e-3)
    assert abs((u - truth) / truth).max() < 1e-5
    steps = np.diff(np.unique(np.round(stamps[:count], 9)))
    assert steps.max() > 5 * steps[steps > 0].min()


def test_own_step_obeys_the_rate():
    calls = []
    problem = Scalar(torch.zeros(1, 1, dtype=torch.float64), lambda u, t: calls.append(t) or 0 * u, speed=100.0)
    run(problem, torch.ones(1, 1, dtype=torch.float64), [1.0])
    assert len(calls) >= 4 * 100 / (0.9 * 2.828)


@pytest.mark.parametrize("dt", [None, 1e-3])
def test_blow_up_names_sample_time_and_cause(dt):
    problem = Scalar(torch.zeros(1, 1, dtype=torch.float64), lambda u, t: u * u)
    u0 = torch.tensor([[0.1], [1.0]], dtype=torch.float64)  # 1/(1 - t) for sample 1
    message = {
        None: r"the solver: sample 1 changes too fast at t=(0\.99999|1).*the equation itself",
        1e-3: r"the solver: sample 1 is not finite at t=1\.0.*IFRK4 is stable up to dt of about",
    }
    with pytest.raises(SolverError, match=message[dt]):
        run(problem, u0, [2.0], dt=dt)


def test_gradients_through_checkpointed_steps():
    rate = torch.tensor([[-0.3]], dtype=torch.float64)
    u0 = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)

    def final(u0, rate, table=IFRK4):
        return run(Scalar(rate, lambda u, t: torch.sin(u) * math.cos(t)), u0, [0.5, 1.0], dt=0.02, table=table)

    assert torch.autograd.gradcheck(final, (u0, rate.clone().requires_grad_()))
    for table in (AB3, ETDRK4B):
        assert torch.autograd.gradcheck(lambda u0, table=table: final(u0, rate, table), (u0,))


def test_history_survives_requested_times():
    """A multistep run cut by requested times equals the uncut one to round-off."""
    problem = Scalar(torch.tensor([[-1.0]], dtype=torch.float64), lambda u, t: torch.sin(3 * u + t))
    u0 = torch.ones(1, 1, dtype=torch.float64)
    once = run(problem, u0, [4.0], dt=0.0625, table=AB4)
    cut = run(problem, u0, [0.0625 * k for k in range(1, 65)], dt=0.0625, table=AB4)
    assert (once[:, -1] - cut[:, -1]).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [63, 64])
@pytest.mark.parametrize("method", ["ETDRK4B", "ETDAB4"])
def test_pairs_of_a_large_state_give_what_complex_numbers_give(method, n, dtype):
    """Only a state of many numbers is worked on as pairs: 80 samples are, one is not; no operation of the two rounds differently."""
    solver = KuramotoSivashinsky(Domain.periodic(22.0), method=method)
    u0 = band_limited((n,), batch=80, dtype=dtype)
    u = solver.solve(u0, [1.0], dt=0.05)
    for i in (0, 79):
        alone = solver.solve(u0[i : i + 1], [1.0], dt=0.05)
        assert (alone - u0[i]).norm() > 0.1 * alone.norm()
        assert (u[i] - alone[0]).norm() <= 10 * torch.finfo(dtype).eps * alone.norm()


@pytest.mark.parametrize("method", ["ETDRK4B", "ETDAB4"])
def test_steps_between_looks_change_no_bit(method, monkeypatch):
    solver = KuramotoSivashinsky(Domain.periodic(22.0), method=method)
    u0 = band_limited((32,), batch=2)
    once = solver.solve(u0, [1.0], dt=0.05)
    monkeypatch.setattr(stepping, "_BLIND", 7)
    assert torch.equal(solver.solve(u0, [1.0], dt=0.05), once)
