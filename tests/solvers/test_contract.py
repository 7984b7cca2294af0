"""What every solver on a grid promises, asked of each in the same words.

| promise         | what is asked                                                                                       |
| --------------- | --------------------------------------------------------------------------------------------------- |
| batch           | samples solved together are those solved alone, with parameters per sample: 1e-12                    |
| dtype           | float32 in, float32 out, within 2e-5 of float64                                                     |
| gradient        | `gradcheck` in the state (or coefficient) and in every parameter                                    |
| restart         | solved to t1 and on from there is the straight run: bit for bit where the state on the grid is all there is (waves), |
|                 | to 1e-12 where it is kept as coefficients (the periodic family, one-step schemes with a given step)  |
| processes       | another process computes the same bits: the number of workers cannot matter                          |
| device          | steps run under fake CUDA tensors: nothing is made elsewhere, nothing is read from the host          |
| nested          | every random field at 64 is the truncation of that at 128: 1e-12                                     |
"""

import functools
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers import band_limited, fake_cuda

from opkernels import Axis, Domain, solvers
from opkernels.solvers import (
    AllenCahn,
    Burgers1D,
    Darcy2D,
    FitzHughNagumo,
    GaussianRandomField,
    GrayScott,
    KolmogorovFlow,
    KortewegDeVries,
    KuramotoSivashinsky,
    NavierStokes2D,
    RandomBumps,
    RandomVorticity,
    RandomWaves,
    SpectralWave,
    Wave2D,
)
from opkernels.solvers.conjugate_gradients import conjugate_gradients
from opkernels.solvers.darcy import _System
from opkernels.solvers.stepping import _Coefficients, _stretch
from opkernels.solvers.tables import METHODS

LINE, SQUARE, CUBE = Domain.periodic(4.0), Domain.periodic(4.0, 4.0), Domain.periodic(4.0, 4.0, 4.0)
NODES = Domain((Axis(0.0, 1.5, points="endpoint"), Axis(0.0, 1.0, periodic=True, points="cell")))
CELLS = Domain.box(2.0, 1.5)
TIMES = [0.1, 0.2]


@dataclass(frozen=True)
class Case:
    """A solver of two samples: how it is built from its parameters, each (2,), what it is given, and its step."""

    build: Callable
    u0: Callable[..., torch.Tensor]  # (2, C, *shape) of a shape
    shape: tuple[int, ...]
    small: tuple[int, ...]  # for gradients
    parameters: tuple[tuple[float, float], ...] = ()
    dt: float | None = 0.02

    def solver(self, part=slice(None)):
        return self.build(*(torch.tensor(p, dtype=torch.float64)[part] for p in self.parameters))

    def run(self, solver, u0, times=TIMES, **more):
        return solver.solve(u0, times, dt=self.dt, **more) if self.evolves else solver.solve(u0)[:, None]

    @property
    def evolves(self):
        return self.dt is not None


def scalar(shape, size=1.0):
    return size * band_limited(shape, batch=2)


def pair(shape):
    w = band_limited(shape, batch=2)
    return torch.cat([0.8 + 0.1 * w, 0.3 + 0.1 * w.roll(1, -1)], dim=1)


def moving(shape):
    w = band_limited(shape, batch=2)
    return torch.cat([w, w.roll(1, -1)], dim=1)


def swirl(x, y):
    return torch.cos(math.pi * x / 2 + math.pi * y / 2)


def push(x, y, t):
    return x * math.cos(5 * t)


CASES = {
    "allen-cahn 1-D": Case(lambda e: AllenCahn(LINE, epsilon=e), scalar, (33,), (9,), ((0.05, 0.1),)),
    "allen-cahn 2-D": Case(lambda e: AllenCahn(SQUARE, epsilon=e), scalar, (14, 12), (4, 6), ((0.05, 0.1),)),
    "burgers": Case(lambda nu: Burgers1D(LINE, viscosity=nu, forcing=torch.cos), scalar, (32,), (9,), ((0.05, 0.1),)),
    "fitzhugh-nagumo, torus": Case(
        lambda a, b, k: FitzHughNagumo(LINE, diffusivity=(a, b), threshold=k), pair, (24,), (7,), ((0.01, 0.02), (0.05, 0.1), (0.0, 0.1))
    ),
    "fitzhugh-nagumo, walls": Case(
        lambda a, k: FitzHughNagumo(CELLS, diffusivity=(a, 0.05), threshold=k), pair, (12, 9), (4, 5), ((0.01, 0.02), (0.0, 0.1))
    ),
    "gray-scott 1-D": Case(
        lambda f, k: GrayScott(LINE, feed=f, kill=k, diffusivity=(0.02, 0.01)), pair, (33,), (9,), ((0.05, 0.1), (0.03, 0.06))
    ),
    "gray-scott 3-D": Case(
        lambda d: GrayScott(CUBE, feed=0.05, kill=0.06, diffusivity=(d, 0.01)), pair, (8, 9, 10), (3, 4, 3), ((0.03, 0.06),)
    ),
    "kdv": Case(lambda: KortewegDeVries(LINE), functools.partial(scalar, size=0.3), (33,), (9,)),
    "kuramoto-sivashinsky": Case(lambda: KuramotoSivashinsky(LINE, method="ETDRK4B"), scalar, (32,), (9,)),
    "kolmogorov": Case(
        lambda nu, a: KolmogorovFlow(SQUARE, viscosity=nu, drag=a, wavenumber=1), scalar, (18, 20), (5, 6), ((0.05, 0.1),) * 2
    ),
    "navier-stokes": Case(
        lambda nu, a: NavierStokes2D(SQUARE, viscosity=nu, drag=a, forcing=swirl, mean_flow=(0.5, 0.1)),
        scalar, (18, 20), (5, 6), ((0.05, 0.1), (0.1, 0.2)),
    ),
    "spectral wave": Case(
        lambda c, g: SpectralWave(NODES, speed=c, damping=g, walls=("neumann", "periodic")),
        moving, (9, 8), (4, 3), ((1.0, 0.3), (0.5, 9.0)),
    ),
    "wave, leapfrog": Case(
        lambda c, r, g: Wave2D(NODES, speed=c, density=r, damping=g, walls=("absorbing", "periodic"), source=push),
        moving, (13, 12), (4, 3), ((1.0, 0.4), (1.0, 2.0), (0.1, 0.3)),
    ),
    "wave, newmark": Case(
        lambda c: Wave2D(NODES, speed=c, walls=("neumann", "periodic"), element="q1", scheme="newmark", tolerance=1e-14),
        moving, (13, 12), (4, 3), ((1.0, 0.4),),
    ),
    "darcy": Case(
        lambda f, g: Darcy2D(CELLS, source=f, boundary=g, walls=(("dirichlet", "neumann"), "dirichlet"), tolerance=1e-14),
        lambda shape: torch.exp(0.5 * band_limited(shape, batch=2)), (16, 12), (4, 3), ((1.0, -2.0), (0.0, 0.5)), None,
    ),
}  # fmt: skip
EVOLVING = [name for name, case in CASES.items() if case.evolves]
BIT_EXACT = ("spectral wave", "wave, leapfrog", "wave, newmark")


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_every_solver_is_here():
    asked = {type(case.solver()).__name__ for case in CASES.values()}
    public = {name for name in solvers.__all__ if hasattr(getattr(solvers, name), "solve")}
    assert public - asked == {"MeshWave2D"}, "it has no grid"


@pytest.mark.parametrize("name", CASES)
def test_batch_equals_loop(name):
    case = CASES[name]
    u0 = case.u0(case.shape)
    u = case.run(case.solver(), u0)
    assert relative(u[:, -1], u0) > 1e-3
    for i in range(2):
        part = slice(i, i + 1)
        assert relative(u[part], case.run(case.solver(part), u0[part])) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_float32_follows_float64(name):
    case = CASES[name]
    u0 = case.u0(case.shape)
    single = case.run(case.solver(), u0.float())
    assert single.dtype == torch.float32
    assert 1e-9 < relative(single.double(), case.run(case.solver(), u0)) < 2e-5


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    case = CASES[name]
    values = [torch.tensor(p, dtype=torch.float64).clone().requires_grad_() for p in case.parameters]
    u0 = case.u0(case.small).requires_grad_()
    assert torch.autograd.gradcheck(lambda u0, *p: case.run(case.build(*p), u0, [0.1]), (u0, *values), fast_mode=True, atol=1e-6)


@pytest.mark.parametrize("name", EVOLVING)
def test_restart(name):
    case = CASES[name]
    solver = case.solver()
    for dtype in (torch.float32, torch.float64):
        straight = case.run(solver, case.u0(case.shape).to(dtype))
        again = case.run(solver, straight[:, 0], TIMES[1:], t0=TIMES[0])
        if name in BIT_EXACT:
            assert torch.equal(again[:, 0], straight[:, 1])
        else:
            assert relative(again[:, 0], straight[:, 1]) < (1e-12 if dtype == torch.float64 else 2e-6)


def bits():
    """Return a digest of every solution, computed by one thread as a worker does."""
    torch.set_num_threads(1)
    found = {}
    for name, case in CASES.items():
        u = case.run(case.solver(), case.u0(case.shape))
        found[name] = hashlib.sha256(u.numpy().tobytes()).hexdigest()[:16]
    return found


def test_another_process_computes_the_same_bits():
    threads = torch.get_num_threads()
    try:
        here = bits()
    finally:
        torch.set_num_threads(threads)
    tests = Path(__file__).parents[1]
    code = f"import json, sys; sys.path[:0] = [{str(tests)!r}, {str(tests / 'solvers')!r}]\n"
    code += "import test_contract; print(json.dumps(test_contract.bits()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == here


@pytest.mark.parametrize("name", CASES)
def test_steps_run_on_another_device_without_a_look_from_the_host(name):
    case = CASES[name]
    solver = case.build(*(p[0] for p in case.parameters))  # checks of parameters given as tensors read their values
    channels = case.u0(case.small).shape[1]
    with fake_cuda():
        u0 = torch.empty(2, channels, *case.shape, device="cuda")
        if name == "darcy":
            a, basis = solver._read(u0)
            faces = solver._faces(a, basis)
            rhs = solver._load(a, faces, basis)
            system = _System.of(basis, faces, a[(slice(None), *basis.unknowns)].rsqrt())
            x = conjugate_gradients(system.apply, rhs, system.precondition, tolerance=1e-8, max_iterations=3, check_every=9).x
            out = solver._extend(x, basis)
        elif name == "wave, newmark":
            matrices, _ = solver._assemble(u0)
            out = matrices.stiffness(u0[:, 0])  # its solves look from the host, at their residuals
        elif name in BIT_EXACT:
            out = case.run(solver, u0)
        else:
            problem = solver._bind(solver.domain.grid(*case.shape), u0)
            state, table = problem.encode(u0), METHODS[solver.method]
            _, end, *_ = _stretch(table, problem, lambda: _Coefficients(problem.symbol, 0.01, state), 0.0, 3, True, state)
            assert problem.rate(end).shape == (2,)
            out = problem.decode(end)
            assert out.shape == u0.shape and out.dtype == u0.dtype
        assert out.device.type == "cuda"


@pytest.mark.parametrize(
    "field",
    [
        GaussianRandomField(SQUARE),
        RandomVorticity(SQUARE, peak=8.0),
        RandomWaves(SQUARE, numbers=(0, 8)),
        RandomBumps(SQUARE, count=(2, 5), width=(0.3, 0.5)),
    ],
    ids=lambda field: type(field).__name__,
)
def test_initial_fields_are_nested(field):
    few, many = (field.sample(2, (n, n), seed=1, dtype=torch.float64) for n in (64, 128))
    a, b = (torch.fft.fft2(u, norm="forward") for u in (few, many))
    low = torch.arange(-31, 32)
    a, b = (x[..., low[:, None], low] for x in (a, b))
    assert (a - b).abs().max() < 1e-12 * b.abs().max()
