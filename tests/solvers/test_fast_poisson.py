"""Discrete sine and cosine transforms, and the Poisson solves they make fast."""

import math

import pytest
import scipy.fft
import torch

from opkernels import Axis, Domain
from opkernels.solvers import poisson_solve
from opkernels.solvers.conjugate_gradients import conjugate_gradients
from opkernels.solvers.fast_poisson import Eigenbasis, wall_kinds
from opkernels.solvers.fast_transforms import INVERSE, half_inverse, half_transform, split, transform


@pytest.mark.parametrize("n", [2, 3, 8, 13, 300])
@pytest.mark.parametrize("kind", INVERSE)
def test_transforms_agree_with_scipy_and_invert(kind, n):
    x = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    family = scipy.fft.dct if kind.startswith("dct") else scipy.fft.dst
    expected = torch.as_tensor(family(x.numpy(), type=int(kind[3]), axis=1, norm="ortho", orthogonalize=True))
    atol = 1e-14 + 2.2e-16 * n  # a dot product of n terms of size 1
    for method in ("gemm", "fft", None):
        y = transform(x, kind, 1, method=method)
        torch.testing.assert_close(y, expected, rtol=0, atol=atol)
        torch.testing.assert_close(transform(y, INVERSE[kind], 1, method=method), x, rtol=0, atol=2 * atol)
        assert transform(x.float(), kind, -2, method=method).dtype == torch.float32


@pytest.mark.parametrize("n", [2, 7, 12])
@pytest.mark.parametrize("kind", ["dst1", "dst2", "dct1", "dct2"])
def test_halves_are_the_transform_in_another_order(kind, n):
    x = torch.randn(3, n, n + 1, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    for dim in (-2, -1):
        size = x.shape[dim]
        y = half_transform(x, kind, dim)
        torch.testing.assert_close(y, split(transform(x, kind, dim), dim), rtol=0, atol=1e-14)
        torch.testing.assert_close(half_inverse(y, kind, size, dim), x, rtol=0, atol=1e-14)


def test_transform_refuses():
    x = torch.ones(4)
    with pytest.raises(ValueError, match="choose one of dst1"):
        transform(x, "dst5")
    with pytest.raises(ValueError, match='choose "gemm"'):
        transform(x, "dst1", method="magic")
    with pytest.raises(ValueError, match="both ends"):
        transform(x[:1], "dct1")


ROWS = [
    ("cell", "dirichlet", "dirichlet"),
    ("cell", "neumann", "neumann"),
    ("cell", "dirichlet", "neumann"),
    ("cell", "neumann", "dirichlet"),
    ("endpoint", "dirichlet", "dirichlet"),
    ("endpoint", "neumann", "neumann"),
    ("endpoint", "dirichlet", "neumann"),
    ("endpoint", "neumann", "dirichlet"),
    ("node", "dirichlet", "dirichlet"),
    ("node", "neumann", "dirichlet"),
]


def second_difference(points, low, high, n, h):
    """The matrix written from the ghost rules, on the unknowns."""
    matrix = 2 * torch.eye(n, dtype=torch.float64) - torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    matrix -= torch.diag(torch.ones(n - 1, dtype=torch.float64), -1)
    for end, inner, kind in ((0, 1, low), (n - 1, n - 2, high)):
        if points == "cell":
            matrix[end, end] = 3.0 if kind == "dirichlet" else 1.0  # ghost = -u, +u
        elif kind == "neumann":
            matrix[end, inner] = -2.0  # the ghost mirrors the neighbor
    return matrix / h**2


@pytest.mark.parametrize(("points", "low", "high"), ROWS)
@pytest.mark.parametrize("n", [7, 12])
def test_eigenbasis_diagonalizes_second_differences(points, low, high, n):
    grid = Domain((Axis(0.5, 3.0, points=points),)).grid(n)
    basis = Eigenbasis(grid, ((low, high),))
    matrix = second_difference(points, low, high, basis.shape[0], grid.spacing[0])
    places = grid.coordinates(dtype=torch.float64)[0][basis.unknowns[0]]
    assert len(places) == basis.shape[0]
    assert (places.min() > 0.5 + 1e-9) == (low == "dirichlet" or points == "cell")
    assert (places.max() < 3.0 - 1e-9) == (high == "dirichlet" or points == "cell")
    x = torch.randn(5, basis.shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    by_modes = basis.inverse(basis.eigenvalues(dtype=torch.float64) * basis.forward(x))
    torch.testing.assert_close(by_modes, x @ matrix.T, rtol=1e-12, atol=1e-11)
    weights = basis.weights(dtype=torch.float64)  # Parseval: the basis is orthonormal in the quadrature
    torch.testing.assert_close(basis.forward(x).square().sum(1), (x.square() * weights).sum(1))


@pytest.mark.parametrize("walls", [("dirichlet", "dirichlet"), ("neumann", "dirichlet"), (("neumann", "dirichlet"), "dirichlet")])
@pytest.mark.parametrize("points", ["cell", "endpoint"])
def test_the_inverse_laplacian_is_that_of_the_basis(points, walls):
    """On axes long enough for transforms by halves, beside ones that are not or have none."""
    domain = Domain.box(1.0, 2.0, points=points)
    for shape in ((131, 134), (134, 9)):
        basis = Eigenbasis(domain.grid(*shape), wall_kinds(domain, walls, "test"))
        f = torch.randn(2, *basis.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        expected = basis.inverse(basis.forward(f, orthogonal=True) / basis.eigenvalues(dtype=torch.float64), orthogonal=True)
        torch.testing.assert_close(basis.inverse_laplacian(f), expected, rtol=1e-11, atol=1e-13)


def test_the_inverse_laplacian_beside_a_periodic_axis():
    domain = Domain((Axis(0.0, 1.0, points="cell"), Axis(0.0, 2.0, periodic=True, points="node")))
    basis = Eigenbasis(domain.grid(130, 9), wall_kinds(domain, ("dirichlet", "periodic"), "test"))
    f = torch.randn(2, 130, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = basis.inverse(basis.forward(f) / basis.eigenvalues(dtype=torch.float64))
    torch.testing.assert_close(basis.inverse_laplacian(f), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("walls", [("dirichlet", "periodic"), (("neumann", "dirichlet"), "periodic")])
def test_poisson_solve_in_two_dimensions_is_second_order_or_exact(walls):
    domain = Domain((Axis(0.0, 1.5, points="endpoint"), Axis(0.0, 2.0, periodic=True, points="node")))
    k = math.pi / 1.5 if walls[0] == "dirichlet" else math.pi / 3.0
    q = 2 * math.pi / 2.0
    errors = []
    for n in (17, 33):
        x, y = domain.grid(n, 24 * (n - 1) // 16).coordinates(dtype=torch.float64)
        u = ((k * x).sin() if walls[0] == "dirichlet" else (k * x).cos()) * (q * y).cos()
        f = (k**2 + q**2) * u
        assert (poisson_solve(f, domain, walls, exact=True) - u).abs().max() < 1e-13
        errors.append((poisson_solve(f[None, None], domain, walls) - u).abs().max())
    assert 3.8 < errors[0] / errors[1] < 4.2


def test_poisson_solve_without_dirichlet_wall_has_mean_zero():
    domain = Domain.box(1.0, 2.0, 3.0)
    x, y, z = domain.grid(6, 5, 8).coordinates(dtype=torch.float64)
    f = (math.pi * x).cos() * (math.pi * z / 3).cos() + 7.0
    u = poisson_solve(f, domain, "neumann", exact=True)
    torch.testing.assert_close(u, (f - 7.0) / (math.pi**2 * (1 + 1 / 9)), rtol=1e-12, atol=1e-14)


def test_walls_are_refused_in_one_sentence():
    box = Domain.box(1.0, 1.0)
    with pytest.raises(ValueError, match="3 axes on a 2-D domain"):
        wall_kinds(box, ["dirichlet"] * 3, "Solver")
    with pytest.raises(ValueError, match="choose from dirichlet, neumann"):
        wall_kinds(box, "robin", "Solver")
    with pytest.raises(ValueError, match="periodic axis x"):
        wall_kinds(Domain.periodic(1.0, 1.0), ["dirichlet", "periodic"], "Solver")
    with pytest.raises(ValueError, match="no fast transform has neumann / neumann walls"):
        Eigenbasis(Domain.box(1.0, points="node").grid(8), (("neumann", "neumann"),))
    with pytest.raises(ValueError, match="all on its dirichlet walls"):
        Eigenbasis(Domain.box(1.0, points="endpoint").grid(2), (("dirichlet", "dirichlet"),))


def test_conjugate_gradients_estimates_its_error_and_freezes_samples():
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(3, 60, 60, generator=generator, dtype=torch.float64))[0]
    spread = torch.stack([torch.linspace(1, top, 60, dtype=torch.float64) for top in (1.0, 50.0, 2000.0)])
    matrix = q @ torch.diag_embed(spread) @ q.mT
    b = torch.randn(3, 60, generator=generator, dtype=torch.float64)
    solve = lambda tolerance, part=slice(None): conjugate_gradients(  # noqa: E731
        lambda p: (matrix[part] @ p[..., None])[..., 0], b[part], torch.clone, tolerance=tolerance, max_iterations=400, check_every=3
    )
    exact = torch.linalg.solve(matrix, b)
    norm = lambda x: (x * (matrix @ x[..., None])[..., 0]).sum(1).sqrt()  # noqa: E731
    for tolerance in (1e-3, 1e-7):
        solution = solve(tolerance)
        assert (solution.error <= tolerance).all()
        assert (norm(solution.x - exact) <= 5 * tolerance * norm(exact)).all()
    assert solution.iterations[0] <= 2 < solution.iterations[1] < solution.iterations[2]
    torch.testing.assert_close(solve(1e-7, slice(1, 2)).x, solution.x[1:2], rtol=1e-12, atol=1e-14)
    few = torch.diag_embed(spread.new_tensor([1.0, 3.0, 10.0])[torch.arange(60) % 3].expand(3, 60))  # done in three steps, up to round-off
    noisy = lambda p: p * (1 + 1e-4 * torch.linspace(0, 1, 60, dtype=p.dtype))  # noqa: E731
    done = conjugate_gradients(lambda p: (few @ p[..., None])[..., 0], b, noisy, tolerance=1e-6, max_iterations=400)
    truth = torch.linalg.solve(few, b)
    energy = lambda x: (x * (few @ x[..., None])[..., 0]).sum(1).sqrt()  # noqa: E731
    assert (energy(done.x - truth) <= 1e-6 * energy(truth)).all(), "a sudden end of fast convergence"
    zero = conjugate_gradients(torch.clone, torch.zeros(2, 4), torch.clone, tolerance=1e-6, max_iterations=5)
    assert (zero.x == 0).all()
    assert (zero.error == 0).all()
    assert conjugate_gradients(torch.clone, torch.full((1, 4), torch.nan), torch.clone, tolerance=1e-6, max_iterations=5).error.isnan()
