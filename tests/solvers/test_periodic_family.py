"""Burgers, Korteweg-de Vries, Kuramoto-Sivashinsky, Gray-Scott, Allen-Cahn, Kolmogorov flow."""

import math

import pytest
import torch
from helpers import assert_order, band_limited

from opkernels import Domain
from opkernels.solvers import AllenCahn, Burgers1D, GrayScott, KolmogorovFlow, KortewegDeVries, KuramotoSivashinsky, SolverError
from opkernels.solvers.exact import allen_cahn_front, cole_hopf, soliton, two_solitons

LINE = Domain.periodic(2 * math.pi)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize(
    ("problem", "method", "steps", "shape"),
    [
        (cole_hopf, "IFRK4", (20, 40, 80, 160, 320), None),
        (cole_hopf, "ETDRK4", (10, 20, 40, 80, 160), None),
        (soliton, "ETDRK4", (500, 700, 1000, 1400, 2000), (384,)),
        (soliton, "ETDRK4B", (500, 700, 1000, 1400, 2000), (384,)),
        (soliton, "IFRK4", (800, 1100, 1600, 2200, 3200), (384,)),
    ],
)
def test_temporal_order_on_exact_solutions(problem, method, steps, shape):
    exact = problem()
    errors = [exact.error(method, steps=n, shape=shape) for n in steps]
    assert_order([1 / n for n in steps], errors, 4)


@pytest.mark.parametrize(
    ("problem", "methods"),
    [
        (cole_hopf, ("IFRK4", "ETDRK4", "IFAB4")),
        (soliton, ("ETDRK4", "IFRK4")),
        (two_solitons, ("ETDRK4",)),
        (allen_cahn_front, ("ETDRK4", "IFRK4")),
    ],
)
def test_own_step_is_accurate(problem, methods):
    for method in methods:
        assert problem().error(method) < 1e-5


@pytest.mark.parametrize(
    ("problem", "steps", "points"),
    [(lambda: cole_hopf(viscosity=0.1), 80, (16, 32, 64)), (soliton, 1600, (96, 144, 216)), (allen_cahn_front, 400, (48, 72, 108))],
)
def test_spectral_accuracy_in_space(problem, steps, points):
    """Errors fall faster at every refinement: by a power that grows, as no fixed order does."""
    errors = [problem().error("ETDRK4", steps=steps, shape=(n,)) for n in points]
    powers = [math.log(a / b) / math.log(m / n) for a, b, n, m in zip(errors, errors[1:], points, points[1:], strict=False)]
    assert powers[1] > powers[0] + 2 > 6


def test_soliton_matches_a_known_error():
    """At 100 steps and 256 points another implementation gives 7.1e-5; real parts of the tables would give 5e-2."""
    assert soliton().error("ETDRK4", steps=100) == pytest.approx(7.3e-5, rel=0.1)


def crest(x, u):
    """Return the place of the highest value, from the parabola through it and its neighbors."""
    i = int(u.argmax())
    left, top, right = u[i - 1 : i + 2].tolist()
    return x[i].item() + 0.5 * (left - right) / (left - 2 * top + right) * (x[1] - x[0]).item()


def test_two_solitons_pass_through_each_other():
    """The fast one comes out ahead by (2/k₁) ln((k₁+k₂)/(k₁-k₂)) = 1.0986, the slow one behind by 2.1972."""
    problem = two_solitons()
    (x,) = problem.domain.grid(384).coordinates(dtype=torch.float64)
    start = problem.fields(0.0)[0, 0]
    end = problem.solver("ETDRK4").solve(problem.fields(0.0), [6.0])[0, 0, 0]
    fast = crest(x, end) - crest(x, start) - 4 * 6
    slow = crest(x, end * (x < 11)) - crest(x, start * (x > -3)) - 6
    assert abs(fast - 1.0986) < 0.01
    assert abs(slow + 2.1972) < 0.01


def test_kdv_invariants():
    problem = soliton()
    u0 = problem.fields(0.0)
    k = 2 * math.pi / 40 * torch.arange(129, dtype=torch.float64)

    def invariants(u):
        slope = torch.fft.irfft(1j * k * torch.fft.rfft(u), n=256)
        return torch.stack([u.sum(), (u**2).sum(), (u**3 - slope**2 / 2).sum()])

    start = invariants(u0)
    drift = [(invariants(problem.solver("ETDRK4").solve(u0, [1.0], dt=1 / n)[:, 0]) / start - 1).abs() for n in (100, 200, 400)]
    assert drift[-1][0] < 1e-13
    assert (drift[0][1:] / drift[1][1:] > 2**3.8).all()
    assert (drift[1][1:] / drift[2][1:] > 2**3.8).all()


def test_burgers_mean_and_energy():
    u0 = 1 + band_limited((128,), batch=1)
    u = Burgers1D(LINE, viscosity=0.05).solve(u0, torch.linspace(0, 2, 9))[0, :, 0]
    assert (u.mean(-1) - u0.mean()).abs().max() < 1e-14
    assert ((u**2).mean(-1).diff() < 0).all()


def test_kuramoto_sivashinsky_order_and_balance():
    """Stiff order reduction is expected at long steps; the last pair must reach 3.5."""
    domain = Domain.periodic(22.0)
    (x,) = domain.grid(64).coordinates(dtype=torch.float64)
    u0 = (torch.cos(2 * math.pi * x / 22) * (1 + torch.sin(2 * math.pi * x / 22)))[None, None]
    u0 = KuramotoSivashinsky(domain).solve(u0, [20.0])[:, 0]
    truth = KuramotoSivashinsky(domain).solve(u0, [5.0], dt=5 / 3200)[:, 0]
    errors = {}
    for method in ("ETDRK4", "ETDRK4B"):
        solver = KuramotoSivashinsky(domain, method=method)
        errors[method] = [relative(solver.solve(u0, [5.0], dt=5 / n)[:, 0], truth) for n in (50, 100, 200, 400, 800)]
        slopes = [math.log2(a / b) for a, b in zip(errors[method], errors[method][1:], strict=False)]
        assert slopes[-1] > 3.5
        assert min(slopes) > 2.5
        assert relative(solver.solve(u0, [5.0])[:, 0], truth) < 1e-5
    assert errors["ETDRK4"][1] > 3 * errors["ETDRK4B"][1]
    assert abs(truth.mean() - u0.mean()) < 1e-14
    k = 2 * math.pi / 22 * torch.arange(33, dtype=torch.float64)
    h = 1e-3
    u = KuramotoSivashinsky(domain).solve(u0, [h, 2 * h], dt=h / 2)[0, :, 0]
    u_hat = torch.fft.rfft(u[0])
    gain = torch.fft.irfft(k * u_hat.abs(), n=64).square().mean() - torch.fft.irfft(k**2 * u_hat.abs(), n=64).square().mean()
    start = KuramotoSivashinsky(domain).solve(u0, [1e-12])[0, 0, 0]
    assert abs(((u[1] ** 2).mean() - (start**2).mean()) / (4 * h) / gain - 1) < 1e-4


def test_a_multistep_scheme_keeps_its_order_for_stiff_waves():
    """ETDAB4 does not lose order on KS, and needs fewer than half the evaluations of ETDRK4B at 1e-6."""
    domain = Domain.periodic(22.0)
    u0 = KuramotoSivashinsky(domain).solve(2 * band_limited((48,)), [20.0])[:, 0]
    solver = KuramotoSivashinsky(domain, method="ETDAB4")
    truth = KuramotoSivashinsky(domain).solve(u0, [5.0], dt=5 / 1600)[:, 0]
    steps = (100, 150, 200, 300, 400)
    errors = [relative(solver.solve(u0, [5.0], dt=5 / n)[:, 0], truth) for n in steps]
    assert_order([1 / n for n in steps], errors, 4)
    assert relative(KuramotoSivashinsky(domain).solve(u0, [5.0], dt=5 / 50)[:, 0], truth) > errors[0]  # 200 evaluations against 109
    assert relative(solver.solve(u0, [5.0])[:, 0], truth) < 1e-5


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_uniform_states_follow_their_ordinary_equation(ndim):
    """Allen-Cahn: u = (1 + (1/u₀² - 1) e^{-2t})^{-1/2}; Gray-Scott: the steady states stay."""
    domain, shape = Domain.periodic(*[1.0, 2.0, 1.5][:ndim]), (6, 7, 5)[:ndim]
    u0 = torch.full((1, 1, *shape), 0.3, dtype=torch.float64)
    u = AllenCahn(domain, epsilon=0.1).solve(u0, [1.0, 2.0])[0, :, 0].flatten(1)
    truth = [(1 + (1 / 0.09 - 1) * math.exp(-2 * t)) ** -0.5 for t in (1.0, 2.0)]
    assert (u / torch.tensor(truth, dtype=torch.float64)[:, None] - 1).abs().max() < 1e-6
    solver = GrayScott(domain, feed=0.098, kill=0.057)
    assert len(solver.steady_states()) == 3
    for state in solver.steady_states():
        ab = torch.tensor(state, dtype=torch.float64).reshape(1, 2, *[1] * ndim).expand(1, 2, *shape).contiguous()
        assert (solver.solve(ab, [1.0], dt=0.1)[:, 0] - ab).abs().max() < 1e-12
    assert GrayScott(domain, feed=0.014, kill=0.054).steady_states() == [(1.0, 0.0)]


def test_gray_scott_order():
    domain = Domain.periodic(0.5, 0.5)
    x = domain.grid(24, 24).coordinates(dtype=torch.float64) - 0.25
    spot = 0.3 * torch.exp(-160 * (x**2).sum(0))
    u0 = torch.stack([1 - spot, spot])[None]
    truth = GrayScott(domain, feed=0.03, kill=0.062).solve(u0, [15.0], dt=15 / 800)[:, 0]
    for method in ("ETDRK4", "IFRK4"):
        solver = GrayScott(domain, feed=0.03, kill=0.062, method=method)
        steps = (30, 42, 60, 85, 120)
        errors = [relative(solver.solve(u0, [15.0], dt=15 / n)[:, 0], truth) for n in steps]
        assert_order([1 / n for n in steps], errors, 4)
        assert relative(solver.solve(u0, [15.0])[:, 0], truth) < 1e-5


def test_allen_cahn_energy_falls_and_discs_shrink():
    domain = Domain.periodic(1.0, 1.0)
    solver = AllenCahn(domain, epsilon=0.02)
    x = domain.grid(96, 96).coordinates(dtype=torch.float64) - 0.5
    u0 = torch.tanh((0.35 - x.square().sum(0).sqrt()) / (math.sqrt(2) * 0.02))[None, None]
    times = torch.linspace(0, 50, 6, dtype=torch.float64)
    u = solver.solve(u0, times)[0]
    energy = solver.energy(u)
    assert (energy.diff() < 0).all()
    area = ((u[:, 0] + 1) / 2).mean(dim=(1, 2)) / math.pi  # R² of the disc
    law = area[0] - 2 * 0.02**2 * times
    assert (area / law - 1).abs().max() < 0.01


def test_kolmogorov_flow():
    solver = KolmogorovFlow(Domain.periodic(2 * math.pi, 4 * math.pi), viscosity=0.05, wavenumber=3, amplitude=0.7)
    w = solver.laminar((20, 32), torch.float64)
    assert solver.rhs(w).abs().max() < 1e-13
    assert w.abs().max() > 0.1
    u, v = solver.velocity(w)[0]
    _, y = solver.domain.grid(20, 32).coordinates(dtype=torch.float64)
    assert relative(u, 0.7 * torch.sin(1.5 * y) / (0.05 * 1.5**2 + 0.1)) < 1e-13  # the flow runs with the force
    assert v.abs().max() < 1e-13
    with pytest.raises(ValueError, match="wavenumber=0; give the whole number"):
        KolmogorovFlow(LINE, wavenumber=0)
    with pytest.raises(ValueError, match="got 9 points along y, which do not carry a force of 3 waves; take 10 or more"):
        solver.solve(w[..., :9], [1.0])
    assert solver.rhs(solver.laminar((4, 10), torch.float64)).abs().max() < 1e-13


def test_kolmogorov_flow_with_a_force_per_sample():
    amplitude = torch.tensor([0.7, -2.0], dtype=torch.float64)
    viscosity = torch.tensor([0.05, 0.02], dtype=torch.float64)
    domain = Domain.periodic(2 * math.pi, 2 * math.pi)
    both = KolmogorovFlow(domain, viscosity=viscosity, amplitude=amplitude, wavenumber=1)
    w = both.laminar((12, 14), torch.float64)
    assert w.shape == (2, 1, 12, 14)
    assert both.rhs(w).abs().max() < 1e-13 < w.abs().max()
    for i in range(2):
        one = KolmogorovFlow(domain, viscosity=float(viscosity[i]), amplitude=float(amplitude[i]), wavenumber=1)
        assert relative(both.solve(0 * w, [1.0], dt=0.1)[i], one.solve(0 * w[:1], [1.0], dt=0.1)[0]) < 1e-13
    with pytest.raises(ValueError, match="amplitude has 2 values for a batch of 3 samples"):
        both.solve(torch.zeros(3, 1, 12, 14), [1.0])
    with pytest.raises(ValueError, match="amplitude='strong'; give a number or one value per sample"):
        KolmogorovFlow(domain, amplitude="strong")


def test_bad_input():
    with pytest.raises(ValueError, match="viscosity=0; it must be greater than 0"):
        Burgers1D(LINE, viscosity=0.0)
    with pytest.raises(ValueError, match="epsilon=-1; it must be greater than 0"):
        AllenCahn(LINE, epsilon=-1.0)
    with pytest.raises(ValueError, match="feed=-1; it must be at least 0"):
        GrayScott(LINE, feed=-1.0, kill=0.1)
    with pytest.raises(ValueError, match="give two numbers"):
        GrayScott(LINE, feed=0.1, kill=0.1, diffusivity=(1.0,))
    with pytest.raises(ValueError, match="GrayScott got diffusivity=1e-05; give two numbers"):
        GrayScott(LINE, feed=0.1, kill=0.1, diffusivity=1e-5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="KuramotoSivashinsky got method='IFRK4'; choose one of ETDRK2"):
        KuramotoSivashinsky(LINE, method="IFRK4")
    with pytest.raises(ValueError, match="it solves 1-D problems"):
        KortewegDeVries(Domain.periodic(1.0, 1.0))
    for build in (KortewegDeVries, KuramotoSivashinsky, lambda d: Burgers1D(d, viscosity=0.1), lambda d: AllenCahn(d, epsilon=0.1)):
        with pytest.raises(ValueError, match="axis x has walls"):
            build(Domain.box(1.0))
    with pytest.raises(ValueError, match=r"expected a tensor \(batch, 2, x\) with channels a, b"):
        GrayScott(LINE, feed=0.1, kill=0.1).solve(torch.zeros(1, 1, 16), [1.0])
    with pytest.raises(ValueError, match="epsilon has 3 values for a batch of 2 samples"):
        AllenCahn(LINE, epsilon=torch.ones(3)).solve(torch.zeros(2, 1, 16), [1.0])
    with pytest.raises(SolverError, match=r"Burgers1D: sample 1 is not finite at t=.*lower dt"):
        Burgers1D(LINE, viscosity=1e-3).solve(torch.cat([0 * band_limited((64,)), 50 * band_limited((64,))]), [50.0], dt=0.5)
