"""FitzHugh-Nagumo between walls and on a torus: mirror images, linear modes, order, refusals."""

import math

import pytest
import torch
from helpers import assert_order

from opkernels import Axis, Domain
from opkernels.solvers import FitzHughNagumo, GaussianRandomField


def state(domain, shape, scale=5.0**3):
    return torch.cat(
        [GaussianRandomField(domain, alpha=4, tau=5, sigma=scale).sample(1, shape, seed=s, dtype=torch.float64) for s in (0, 1)], 1
    )


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("points", ["cell", "endpoint"])
def test_walls_without_flux_are_mirrors(points):
    """Between walls the solution is half of that on the doubled torus from the mirrored state, by other transforms."""
    box = Domain.box(1.0, 1.5, points=points)
    torus = Domain(tuple(Axis(0, 2 * n, periodic=True, points="cell" if points == "cell" else "node") for n in (1.0, 1.5)))
    u0 = state(box, (20, 17))
    rest = slice(None) if points == "cell" else slice(1, -1)  # a mirror at a sample does not double it
    mirrored = torch.cat([u0, u0.flip(-2)[..., rest, :]], dim=-2)
    mirrored = torch.cat([mirrored, mirrored.flip(-1)[..., rest]], dim=-1)
    values = {"diffusivity": (1e-2, torch.tensor([5e-2])), "threshold": torch.tensor([0.02])}
    u = FitzHughNagumo(box, **values).solve(u0, [1.0, 3.0], dt=0.05)
    whole = FitzHughNagumo(torus, **values).solve(mirrored, [1.0, 3.0], dt=0.05)
    assert relative(u, whole[..., :20, :17]) < 1e-12
    assert relative(u[:, 1], u0) > 0.5


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_small_modes_grow_as_the_linear_theory_says(ndim):
    """(u, v) = (a, b) cos κx with κ = π m/L: d(a, b)/dt = [[1 - D_u κ², -1], [1, -1 - D_v κ²]] (a, b)."""
    domain, shape = Domain.box(*[2.0, 1.0, 1.5][:ndim]), (24, 5, 6)[:ndim]
    x = domain.grid(*shape).coordinates(dtype=torch.float64)[0]
    kappa2 = (math.pi * 3 / 2) ** 2
    start = torch.tensor([1e-7, 0.3e-7], dtype=torch.float64)
    rates = torch.tensor([[1 - 0.02 * kappa2, -1], [1, -1 - 0.05 * kappa2]], dtype=torch.float64)
    u0 = start.reshape(1, 2, *[1] * ndim) * torch.cos(math.sqrt(kappa2) * x)
    u = FitzHughNagumo(domain, diffusivity=(0.02, 0.05), threshold=0.0).solve(u0, [2.0])[:, 0]
    exact = (torch.linalg.matrix_exp(2 * rates) @ start).reshape(1, 2, *[1] * ndim) * torch.cos(math.sqrt(kappa2) * x)
    assert relative(u, exact) < 1e-5


def test_order_and_own_step():
    domain = Domain.box(2.0, 2.0)
    solver, u0 = FitzHughNagumo(domain, diffusivity=(2e-2, 1e-1)), state(domain, (16, 16))
    truth = solver.solve(u0, [2.0], dt=2 / 1600)[:, 0]
    steps = (20, 40, 80, 160, 320)
    errors = [relative(solver.solve(u0, [2.0], dt=2 / n)[:, 0], truth) for n in steps]
    assert_order([1 / n for n in steps], errors, 4)
    assert relative(solver.solve(u0, [2.0])[:, 0], truth) < 1e-5


def test_refusals():
    with pytest.raises(ValueError, match="walls on some axes only"):
        FitzHughNagumo(Domain((Axis(0, 1), Axis(0, 1, periodic=True, points="node"))))
    with pytest.raises(ValueError, match="no fast transform has neumann / neumann walls"):
        FitzHughNagumo(Domain.box(1.0, points="gauss"))
    with pytest.raises(ValueError, match="give two numbers"):
        FitzHughNagumo(Domain.box(1.0), diffusivity=1.0)
    with pytest.raises(ValueError, match="diffusivity=-1; it must be at least 0"):
        FitzHughNagumo(Domain.box(1.0), diffusivity=(1.0, -1.0))
    with pytest.raises(ValueError, match="threshold has 3 values for a batch of 2"):
        FitzHughNagumo(Domain.box(1.0), threshold=torch.zeros(3)).solve(torch.zeros(2, 2, 8), [1.0])
