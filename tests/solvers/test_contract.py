"""What every solver on a grid promises, asked of each in the same words.

| promise         | what is asked                                                                                       |
| --------------- | --------------------------------------------------------------------------------------------------- |
| batch           | samples solved together are those solved alone, with parameters per sample: 1e-12                    |
| dtype           | float32 in, float32 out, within 2e-5 of float64                                                     |
| gradient        | `gradcheck` in the state (or coefficient) and in every parameter                                    |
| restart         | solved to t1 and on from there is the straight run, bit for bit (one-step schemes with a given step) |
| processes       | another process computes the same bits: the number of workers cannot matter                          |
| device          | steps run under fake CUDA tensors: nothing is made elsewhere, nothing is read from the host          |
| nested          | every random field at 64 is the truncation of that at 128: 1e-12                                     |
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import band_limited, fake_cuda
from solver_cases import CASES, EVOLVING, SMOKES, SQUARE, TIMES, WAVES, digests

from opkernels import solvers
from opkernels.solvers import GaussianRandomField, NavierStokes2D, RandomBumps, RandomVelocity, RandomVorticity, RandomWaves
from opkernels.solvers.conjugate_gradients import conjugate_gradients
from opkernels.solvers.darcy import _System
from opkernels.solvers.stepping import _Coefficients, _stretch
from opkernels.solvers.tables import METHODS


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
        assert torch.equal(again[:, 0], straight[:, 1])


@pytest.mark.parametrize(("method", "dt", "tolerance"), [("IFAB4", 0.02, 1e-4), ("IFRK4", None, 1e-6)])
def test_restart_of_what_has_a_memory(method, dt, tolerance):
    """Multistep schemes begin anew, and a step of the solver's own is sought anew: the same to the tolerance of the scheme."""
    solver, w0 = NavierStokes2D(SQUARE, viscosity=0.05, method=method), band_limited((18, 20))
    straight = solver.solve(w0, TIMES, dt=dt)
    again = solver.solve(straight[:, 0], TIMES[1:], t0=TIMES[0], dt=dt)
    assert 0 < relative(again[:, 0], straight[:, 1]) < tolerance


def test_another_process_computes_the_same_digests():
    threads = torch.get_num_threads()
    try:
        here = digests()
    finally:
        torch.set_num_threads(threads)
    tests = Path(__file__).parents[1]
    code = f"import json, sys; sys.path.insert(0, {str(tests)!r}); import solver_cases; print(json.dumps(solver_cases.digests()))"
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
        elif name in WAVES:
            out = case.run(solver, u0)
        elif name in SMOKES:
            out = case.run(solver, u0, [case.dt])
        else:
            problem = solver._bind(solver.domain.grid(*case.shape), u0)
            state, table = problem.encode(u0), METHODS[solver.method]
            _, end, *_ = _stretch(table, problem, lambda: _Coefficients(table, problem.symbol, 0.01, state), 0.0, 3, True, state)
            assert problem.rate(end).shape == (2,)
            out = problem.decode(end)
            assert out.shape == u0.shape and out.dtype == u0.dtype
        assert out.device.type == "cuda"


@pytest.mark.parametrize(
    "field",
    [
        GaussianRandomField(SQUARE),
        RandomVorticity(SQUARE, peak=8.0),
        RandomVelocity(SQUARE, peak=8.0),
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
