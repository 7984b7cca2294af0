"""Waves on triangular meshes: against the structured solver, order, energy, and refusals."""

import builtins
import math

import numpy as np
import pytest
import torch
from helpers import assert_order

from opkernels import Domain
from opkernels.solvers import MeshWave2D, Wave2D

skfem = pytest.importorskip("skfem")
PI = math.pi


def square(n, jitter=0.0, seed=0):
    """Unit square of n x n squares cut in two, inner vertices moved by up to `jitter` cells."""
    mesh = skfem.MeshTri.init_tensor(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1))
    p = mesh.p.copy()
    inner = ((p > 1e-9) & (p < 1 - 1e-9)).all(0)
    p[:, inner] += jitter / n * (2 * np.random.default_rng(seed).random((2, inner.sum())) - 1)
    return skfem.MeshTri(p, mesh.t)


def test_equals_the_structured_solver_on_its_own_grid():
    """On squares cut in two, P1 stiffness is the five-point one; lumped masses are equal inside, so with u = 0 on the walls all is."""
    mesh, n = square(12), 12
    solver = MeshWave2D(mesh)
    grid = Wave2D(Domain.box(1.0, 1.0, points="endpoint"))
    x, y = solver.positions.unbind(1)
    order = ((x * n).round() * (n + 1) + (y * n).round()).long()
    u0 = torch.randn(2, 2, 13, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u0[..., [0, -1], :] = 0
    u0[..., [0, -1]] = 0
    expected = grid.solve(u0, [0.3, 1.0], dt=0.02).flatten(-2)[..., order]
    torch.testing.assert_close(solver.solve(u0.flatten(-2)[..., order], [0.3, 1.0], dt=0.02), expected, rtol=0, atol=1e-11)
    assert abs(solver.stable_step - grid.stable_step(u0)) < 0.2 * solver.stable_step


def test_standing_mode_is_second_order_on_distorted_meshes():
    errors, sizes = [], (8, 16, 32, 64, 96)
    for n in sizes:
        solver = MeshWave2D(square(n, jitter=0.15), walls="neumann", speed=0.7)
        x, y = solver.positions.unbind(1)
        u = torch.cos(PI * x) * torch.cos(2 * PI * y)
        out = solver.solve(torch.stack([u, torch.zeros_like(u)])[None], [1.0])[0, 0, 0]
        errors.append((out - u * math.cos(0.7 * PI * math.sqrt(5))).square().mean().sqrt().item())
    assert_order([1 / n for n in sizes], errors, 2, slack=0.2)


def test_energy_restart_damping_and_absorption():
    mesh = square(9, jitter=0.2).with_boundaries({"left": lambda x: x[0] < 1e-9, "right": lambda x: x[0] > 1 - 1e-9})
    u0 = torch.randn(2, 2, mesh.p.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solver = MeshWave2D(mesh, speed=lambda x, y: 1 + x * y, density=lambda x, y: 2 - x, walls={"left": "dirichlet"})
    dt = 0.98 * solver.stable_step
    start = solver.solve(u0, [dt], dt=dt)[:, 0]
    out = solver.solve(start, [100 * dt], t0=0.0, dt=dt)[:, 0]
    torch.testing.assert_close(solver.energy(out, dt=dt), solver.energy(start, dt=dt), rtol=1e-11, atol=0)
    lossy = MeshWave2D(mesh, damping=0.1, source=lambda x, y, t: x * math.cos(t), walls={"left": "dirichlet", "right": "absorbing"})
    out = lossy.solve(u0, [0.5, 4.0], dt=0.01)
    assert torch.equal(lossy.solve(out[:, 0], [4.0], t0=0.5, dt=0.01)[:, 0], out[:, 1])
    quiet = MeshWave2D(mesh, walls={"left": "absorbing", "right": "absorbing"})
    assert (quiet.energy(quiet.solve(u0, [8.0])[:, 0]) < 0.3 * quiet.energy(u0)).all()


def test_derivative_by_the_initial_state():
    solver = MeshWave2D(square(2), walls="absorbing")
    u0 = torch.randn(1, 2, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: solver.solve(u, [0.3]), (u0,))


def test_refusals(monkeypatch):
    mesh = square(3)
    for arguments, message in (
        ({"mesh": skfem.MeshQuad()}, "mesh of type MeshQuad"),
        ({"walls": "open"}, "choose from dirichlet"),
        ({"walls": {"top": "neumann"}}, "walls on 'top', but the mesh names none"),
        ({"speed": 0.0}, "a speed that is not positive"),
    ):
        with pytest.raises(ValueError, match=message):
            MeshWave2D(**{"mesh": mesh, **arguments})
    solver, u0 = MeshWave2D(mesh), torch.zeros(1, 2, 16)
    with pytest.raises(ValueError, match="expected a tensor \\(batch, 2, 16\\)"):
        solver.solve(u0[0], [1.0])
    with pytest.raises(ValueError, match="got u0 ndarray; expected a tensor"):
        solver.solve(u0.numpy(), [1.0])
    with pytest.raises(ValueError, match="in torch.int64; use float32 or float64"):
        solver.solve(u0.long(), [1.0])
    with pytest.raises(ValueError, match="with a NaN or infinity in sample 0"):
        solver.solve(u0 * math.nan, [1.0])
    with pytest.raises(ValueError, match="above leapfrog's stable step"):
        solver.solve(u0, [1.0], dt=1.0)
    with pytest.raises(ValueError, match="do not increase"):
        solver.solve(u0, [1.0, 0.5])
    real = builtins.__import__

    def missing(name, *rest):
        if name == "skfem":
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match="needs scikit-fem"):
        MeshWave2D(mesh)
