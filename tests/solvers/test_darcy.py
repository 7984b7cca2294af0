"""Darcy flow: exact solutions, orders, a sparse direct solve, derivatives, and refusals."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_order

from opkernels import Axis, Domain
from opkernels.solvers import Darcy2D, SolverError, log_normal, two_phase
from opkernels.solvers.conjugate_gradients import conjugate_gradients
from opkernels.solvers.darcy import _System
from opkernels.solvers.fast_transforms import transform

PI = math.pi


def random_field(n, m, batch=1, seed=0):
    """Field of the covariance (-Δ + 9)⁻² up to a factor, zero Neumann walls, std about 0.3."""
    k2 = torch.arange(n, dtype=torch.float64)[:, None] ** 2 + torch.arange(m, dtype=torch.float64) ** 2
    xi = torch.randn(batch, 1, n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    xi[..., 0, 0] = 0
    return math.sqrt(n * m) * transform(transform(xi * 3 / (PI**2 * k2 + 9), "dct3", -1), "dct3", -2)


def box(points, lx=1.5, ly=0.8):
    return Domain((Axis(0.5, 0.5 + lx, points=points), Axis(-0.2, -0.2 + ly, points=points)))


def manufactured(x, y):
    """u, a and f = -∇·(a∇u) on the box of `box`, nothing zero on the walls."""
    u = torch.sin(2 * x + 0.3) * torch.exp(y)
    ux, uy = 2 * torch.cos(2 * x + 0.3) * torch.exp(y), u
    a = 2 + torch.sin(2 * x) * torch.cos(3 * y)
    ax, ay = 2 * torch.cos(2 * x) * torch.cos(3 * y), -3 * torch.sin(2 * x) * torch.sin(3 * y)
    return u, a, -(ax * ux + ay * uy + a * (-4 * u + u))


@pytest.mark.parametrize("points", ["cell", "endpoint"])
@pytest.mark.parametrize("faces", ["harmonic", "arithmetic"])
def test_smooth_problem_is_second_order(points, faces):
    domain = box(points)
    solver = Darcy2D(domain, source=lambda x, y: manufactured(x, y)[2], boundary=lambda x, y: manufactured(x, y)[0], faces=faces)
    errors = []
    for n in (9, 17, 33, 65, 129):
        shape = (n - 1, 3 * (n - 1) // 4) if points == "cell" else (n, (3 * n + 1) // 4)
        x, y = domain.grid(*shape).coordinates(dtype=torch.float64)
        u, a, _ = manufactured(x, y)
        errors.append((solver.solve(a[None, None])[0, 0] - u).square().mean().sqrt().item())
    assert_order([1 / (n - 1) for n in (9, 17, 33, 65, 129)], errors, 2, slack=0.1)
    assert errors[-1] < 1e-4


@pytest.mark.parametrize("points", ["cell", "endpoint"])
@pytest.mark.parametrize(
    "walls", [(("neumann", "dirichlet"), "periodic"), ("periodic", ("dirichlet", "neumann")), ("periodic", "dirichlet")]
)
def test_neumann_and_periodic_walls_are_second_order(points, walls):
    along = 0 if walls[1] == "periodic" else 1
    length, period = 1.5, 2.0
    pair = walls[along] if not isinstance(walls[along], str) else (walls[along],) * 2
    wall, torus = Axis(0.0, length, points=points), Axis(0.0, period, periodic=True, points="node")
    domain = Domain((wall, torus) if along == 0 else (torus, wall))
    k, q = PI / length / (1 if pair == ("dirichlet", "dirichlet") else 2), 2 * PI / period

    def parts(x, y):
        s, p = (x, y) if along == 0 else (y, x)
        g, gs, gss = (
            (torch.cos(k * s), -k * torch.sin(k * s), -k * k * torch.cos(k * s))
            if pair[0] == "neumann"
            else (torch.sin(k * s), k * torch.cos(k * s), -k * k * torch.sin(k * s))
        )
        a, as_, ap = 1.5 + torch.cos(s) * torch.sin(q * p), -torch.sin(s) * torch.sin(q * p), q * torch.cos(s) * torch.cos(q * p)
        h, hp, hpp = torch.cos(q * p) + 2, -q * torch.sin(q * p), -q * q * torch.cos(q * p)
        return g * h, a, -(as_ * gs * h + ap * g * hp + a * (gss * h + g * hpp))

    solver = Darcy2D(domain, source=lambda x, y: parts(x, y)[2], walls=walls)
    errors = []
    for n in (8, 16, 32, 64, 128):
        m = n if points == "cell" else n + 1
        x, y = domain.grid(*((m, n) if along == 0 else (n, m))).coordinates(dtype=torch.float64)
        u, a, _ = parts(x, y)
        errors.append((solver.solve(a[None, None])[0, 0] - u).abs().max().item())
    assert_order([1 / n for n in (8, 16, 32, 64, 128)], errors, 2, slack=0.15)


def layered(n, domain, faces, source):
    """Coefficient 3 left of x = 1/2 and 12 right of it; the jump falls on a face for even n."""
    x, _ = domain.grid(n, 5).coordinates(dtype=torch.float64)
    solver = Darcy2D(
        domain,
        source=source,
        walls=("dirichlet", "neumann"),
        boundary=lambda x, y: x if source == 0 else 0 * x,
        faces=faces,
        tolerance=1e-14,
    )
    return x, solver.solve(torch.where(x < 0.5, 3.0, 12.0).double()[None, None])[0, 0]


@pytest.mark.parametrize("points", ["cell", "endpoint"])
def test_layers_in_series_are_exact_with_harmonic_faces(points):
    """f = 0: the flux is 4.8 everywhere, so u = 1.6 x and 1 - 0.4 (1 - x)."""
    domain = Domain.box(1.0, 2.0, points=points)
    x, u = layered(34, domain, "harmonic", 0.0)
    exact = torch.where(x < 0.5, 1.6 * x, 1 - 0.4 * (1 - x))
    assert (u - exact).abs().max() < 1e-11  # round-off times the condition number, about 4 n² = 5e3 and the ratio 4
    x, u = layered(34, domain, "arithmetic", 0.0)
    assert 5e-3 < (u - exact).abs().max() < 2e-2


@pytest.mark.parametrize(("faces", "order"), [("harmonic", 2), ("arithmetic", 1)])
@pytest.mark.parametrize("points", ["cell", "endpoint"])
def test_layers_with_a_source(points, faces, order):
    """f = 1: 3 u' = 0.35 - x on the left and 12 u' = 0.35 - x on the right."""
    domain = Domain.box(1.0, 2.0, points=points)
    sizes = (18, 34, 66, 130, 258)
    errors = []
    for n in sizes:
        x, u = layered(n, domain, faces, 1.0)
        exact = torch.where(x < 0.5, (0.35 * x - x**2 / 2) / 3, ((1 - x**2) / 2 - 0.35 * (1 - x)) / 12)
        errors.append((u - exact).abs().max().item())
    assert_order([1 / (n - (points == "endpoint")) for n in sizes], errors, order)


def sparse_solve(a, f, spacing, faces):
    """Solve by scipy with a matrix assembled face by face on endpoint samples, u = 0 on the walls."""
    import scipy.sparse as sparse
    from scipy.sparse.linalg import spsolve

    n, m = a.shape
    index = -np.ones((n, m), dtype=int)
    index[1:-1, 1:-1] = np.arange((n - 2) * (m - 2)).reshape(n - 2, m - 2)
    rows, columns, values = [], [], []
    for axis, h in enumerate(spacing):
        low, high = (slice(None, -1), slice(None)), (slice(1, None), slice(None))
        if axis:
            low, high = low[::-1], high[::-1]
        c = (2 * a[low] * a[high] / (a[low] + a[high]) if faces == "harmonic" else (a[low] + a[high]) / 2) / h**2
        i, j, c = index[low].ravel(), index[high].ravel(), c.ravel()
        for p, q in ((i, j), (j, i)):
            inside = p >= 0
            rows += [p[inside], p[inside & (q >= 0)]]
            columns += [p[inside], q[inside & (q >= 0)]]
            values += [c[inside], -c[inside & (q >= 0)]]
    matrix = sparse.csc_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))))
    u = np.zeros((n, m))
    u[1:-1, 1:-1] = spsolve(matrix, f[1:-1, 1:-1].ravel()).reshape(n - 2, m - 2)
    return u


@pytest.mark.parametrize("faces", ["harmonic", "arithmetic"])
@pytest.mark.parametrize("law", ["two_phase", "log_normal", "wild"])
def test_agrees_with_a_sparse_direct_solve(faces, law):
    field = random_field(41, 30)
    a = {"two_phase": two_phase(field), "log_normal": log_normal(field, scale=3.0), "wild": log_normal(field, scale=12.0)}[law]
    f = torch.randn(41, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    domain = box("endpoint")
    u = Darcy2D(domain, source=f, faces=faces).solve(a)[0, 0]
    expected = sparse_solve(a[0, 0].numpy(), f.numpy(), domain.grid(41, 30).spacing, faces)
    assert np.abs(u.numpy() - expected).max() < 1e-9 * np.abs(expected).max()


def test_iterations_do_not_grow_with_the_grid():
    """17 iterations at 1e-8 for the ratio 12/3; about 20 for a smooth field of ratio several thousand."""
    for n in (33, 65, 129):
        field = random_field(n, n, batch=2)
        Darcy2D(Domain.box(1.0, 1.0), tolerance=1e-8, max_iterations=22).solve(two_phase(field))
        rough = log_normal(field, scale=5.0)
        assert rough.max() / rough.min() > 300
        Darcy2D(Domain.box(1.0, 1.0), tolerance=1e-8, max_iterations=32).solve(rough)


def test_source_leaves_through_the_walls_and_the_maximum_principle_holds():
    a = two_phase(random_field(24, 31))
    domain = box("cell")
    u = Darcy2D(domain, boundary=0.25).solve(a)[0, 0]
    hx, hy = domain.grid(24, 31).spacing
    outflow = (2 * a[0, 0] * (u - 0.25))[[0, -1]].sum() * hy / hx + (2 * a[0, 0] * (u - 0.25))[:, [0, -1]].sum() * hx / hy
    torch.testing.assert_close(outflow.item(), domain.measure, rtol=1e-9, atol=0)
    assert (u > 0.25).all()


def test_residual_is_small_for_the_solution_alone():
    a = two_phase(random_field(20, 17, batch=2))
    solver = Darcy2D(box("endpoint"), source=3.0)
    u = solver.solve(a)
    assert solver.residual(a, u).abs().max() < 1e-5 * 3.0  # the energy norm at 1e-10 leaves more in the residual
    assert solver.residual(a, 1.1 * u)[..., 1:-1, 1:-1].abs().min() > 0.1


def test_batch_equals_loop_with_parameters_per_sample():
    field = random_field(25, 18, batch=3)
    a = torch.cat([two_phase(field[:1]), log_normal(field[1:2], scale=6.0), torch.ones_like(field[:1])])
    f, g = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    u = Darcy2D(box("cell"), source=f, boundary=g).solve(a)
    for i in range(3):
        alone = Darcy2D(box("cell"), source=float(f[i]), boundary=float(g[i])).solve(a[i : i + 1])
        torch.testing.assert_close(u[i : i + 1], alone, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(u[2], torch.full_like(u[2], 2.0))  # no source: the boundary value everywhere


def test_float32_input_loses_only_its_rounding():
    a = two_phase(random_field(64, 48))
    solver = Darcy2D(Domain.box(1.0, 1.0))
    u, low = solver.solve(a), solver.solve(a.float())
    assert low.dtype == torch.float32
    assert (low - u).norm() < 2e-7 * u.norm()


@pytest.mark.parametrize(
    ("points", "walls"),
    [
        ("cell", "dirichlet"),
        ("endpoint", "dirichlet"),
        ("endpoint", (("neumann", "dirichlet"), "neumann")),
        ("cell", ("dirichlet", "periodic")),
    ],
)
def test_derivatives(points, walls):
    axes = [Axis(0.0, 1.0, points=points), Axis(0.0, 1.3, points=points)]
    if walls[1] == "periodic":
        axes[1] = Axis(0.0, 1.3, periodic=True, points="node")
    a = log_normal(random_field(4, 5)).requires_grad_()
    f = torch.randn(1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    g = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)

    def solve(a, f, g):
        return Darcy2D(Domain(axes), source=f, boundary=g, walls=walls, tolerance=1e-13).solve(a)

    assert torch.autograd.gradcheck(solve, (a, f, g), atol=1e-7)
    assert torch.autograd.gradgradcheck(lambda a: solve(a, f.detach(), g.detach()), (a,), atol=1e-6, fast_mode=True)


def test_step_runs_on_another_device_without_a_look_from_the_host():
    solver = Darcy2D(box("endpoint"), walls=("dirichlet", ("neumann", "dirichlet")))
    a, basis = solver._read(torch.rand(2, 1, 24, 17, device="meta", dtype=torch.float64))  # meta tensors hold no data to look at
    faces = solver._faces(a, basis)
    rhs = solver._load(a, faces, basis)
    system = _System.of(basis, faces, a[(slice(None), *basis.unknowns)].rsqrt())
    solution = conjugate_gradients(system.apply, rhs, system.precondition, tolerance=1e-8, max_iterations=6, check_every=10)
    assert solver._extend(solution.x, basis).device.type == "meta"


def test_coefficient_laws():
    field = torch.tensor([-1.0, 0.0, 2.0])
    torch.testing.assert_close(two_phase(field, low=1.0, high=5.0), torch.tensor([1.0, 5.0, 5.0]))
    torch.testing.assert_close(log_normal(field, scale=2.0, median=3.0), 3 * torch.exp(2 * field))
    with pytest.raises(ValueError, match="low=-1.0"):
        two_phase(field, low=-1.0)
    with pytest.raises(ValueError, match="median=0.0"):
        log_normal(field, median=0.0)


def test_example():
    """The mean pressure changes with the grid by where the jumps fall: first order."""
    numbers = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "darcy_flow.py"))["main"]()
    assert abs(numbers["fine"] / 0.007713 - 1) < 1e-3
    assert abs(numbers["coarse"] / numbers["fine"] - 1) < 1e-2
    assert numbers["ratio"] < 0.2


def test_refusals():
    square = Domain.box(1.0, 1.0)
    for arguments, message in (
        ((Domain.box(1.0),), "1-D domain"),
        ((Domain.box(1.0, 1.0, points="node"),), 'points="node" on axis x'),
        ((square, "neumann"), "at least one wall Dirichlet"),
        ((Domain.periodic(1.0, 1.0),), "at least one wall Dirichlet"),
    ):
        with pytest.raises(ValueError, match=message):
            Darcy2D(arguments[0], walls=arguments[1] if len(arguments) > 1 else "dirichlet")
    with pytest.raises(ValueError, match="faces='geometric'"):
        Darcy2D(square, faces="geometric")
    with pytest.raises(ValueError, match="tolerance=2"):
        Darcy2D(square, tolerance=2)
    solver, a = Darcy2D(square), torch.ones(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"got the coefficient \(1, 2, 8, 8\); expected a tensor \(batch, 1, x, y\)"):
        solver.solve(torch.ones(1, 2, 8, 8))
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        b = a.clone()
        b[1, 0, 3, 3] = bad
        with pytest.raises(ValueError, match="not positive in sample 1|NaN or infinity in sample 1"):
            solver.solve(b)
    with pytest.raises(ValueError, match=r"source = a tensor of shape \(3,\) for a batch of 2"):
        Darcy2D(square, source=torch.ones(3)).solve(a)
    with pytest.raises(SolverError, match="did not converge in sample 1.*after 5 iterations") as told:
        Darcy2D(square, max_iterations=5).solve(torch.cat([torch.ones(1, 1, 33, 33), two_phase(random_field(33, 33)).float()]))
    assert told.value.sample == 1
    with pytest.raises(SolverError, match="not finite in sample 1") as told:
        Darcy2D(square, source=torch.tensor([1.0, float("nan")])).solve(a)
    assert told.value.sample == 1
    with pytest.raises(ValueError, match=r"Darcy2D got domain=\(1.0, 1.0\); give a Domain"):
        Darcy2D((1.0, 1.0))
    with pytest.raises(ValueError, match="tolerance='fine'; give a relative error"):
        Darcy2D(square, tolerance="fine")


def test_arrays_are_samples():
    f = random_field(9, 8)[0, 0]
    a = 1 + 0.1 * random_field(9, 8)
    square = Domain.box(1.0, 1.0)
    torch.testing.assert_close(Darcy2D(square, source=f.numpy()).solve(a), Darcy2D(square, source=f).solve(a), rtol=0, atol=0)
