"""Orthonormal bases against scipy and their definition, at every kind of samples."""

import math

import pytest
import torch
from helpers import fake_cuda
from scipy.fft import dct, dst

from opkernels import Axis, Domain
from opkernels.bases import Basis, analyze, synthesize

BASES = [
    (kind, points)
    for kind in ("fourier", "cosine", "sine", "legendre", "chebyshev")
    for points in ("node", "cell", "endpoint", "gauss")
    if kind != "fourier" or points in ("node", "cell")
]


def exact_values(kind, k, s):
    """Basis function k at s in [0, 1], for an axis of length 1."""
    if kind == "fourier":
        order = (k + 1) // 2
        wave = torch.sin if k % 2 == 0 and k else torch.cos
        return wave(2 * math.pi * order * s) * (math.sqrt(2) if k else 1)
    if kind == "cosine":
        return torch.cos(math.pi * k * s) * (math.sqrt(2) if k else 1)
    if kind == "sine":
        return torch.sin(math.pi * (k + 1) * s) * math.sqrt(2)
    if kind == "chebyshev":
        return torch.special.chebyshev_polynomial_t(2 * s - 1, k) * (math.sqrt(2) if k else 1)
    return torch.special.legendre_polynomial_p(2 * s - 1, k) * math.sqrt(2 * k + 1)


@pytest.mark.parametrize("kind, points", BASES)
def test_basis_functions_at_the_true_positions(kind, points):
    axis, basis = Axis(-1.0, 2.0, points=points), Basis(kind, 9)
    s = (axis.coordinates(17, dtype=torch.float64) + 1) / 3
    wanted = torch.stack([exact_values(kind, k, s) for k in range(basis.size)], dim=1) / math.sqrt(3)
    carried = slice(0, 9) if kind not in ("legendre", "chebyshev") or points != "cell" else slice(0, 8)
    torch.testing.assert_close(basis.synthesis(axis, 17, dtype=torch.float64)[:, carried], wanted[:, carried], rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind, points", BASES)
def test_coefficients_do_not_depend_on_the_grid(kind, points):
    domain, basis = Domain((Axis(-1.0, 2.0, points=points),)), Basis(kind, 9)
    c = torch.randn(2, 3, basis.size, dtype=torch.float64)
    for n in (33, 40, 64):
        u = synthesize(c, domain.grid(n), [basis])
        torch.testing.assert_close(analyze(u, domain.grid(n), [basis]), c, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "kind, points",
    [("cosine", "cell"), ("cosine", "endpoint"), ("sine", "node"), ("sine", "cell"), ("sine", "endpoint"), ("fourier", "node")]
    + [("fourier", "cell"), ("legendre", "gauss")],
)
@pytest.mark.parametrize("n", [32, 33])
def test_orthonormal_under_the_quadrature(kind, points, n):
    axis = Axis(0.0, 3.0, points=points)
    B = Basis(kind, 9).synthesis(axis, n, dtype=torch.float64)
    gram = B.T * axis.weights(n, dtype=torch.float64) @ B
    torch.testing.assert_close(gram, torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["fourier", "cosine", "sine", "legendre", "chebyshev"])
def test_functions_at_any_positions_are_those_of_the_samples(kind):
    axis, basis = Axis(-1.0, 2.0), Basis(kind, 9, kept=(0, 1, 4, 6))
    x = axis.coordinates(24, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(basis.at(axis, x), basis.synthesis(axis, 24, dtype=torch.float64), rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(lambda x: basis.at(axis, x[:3]), (x,))


@pytest.mark.parametrize("kind", ["fourier", "cosine", "sine", "legendre", "chebyshev"])
def test_some_functions_of_a_basis_have_the_coefficients_they_have_among_all(kind):
    axis, kept = Axis(0.0, 2.0), (0, 2, 3, 6)
    whole, part = Basis(kind, 9), Basis(kind, 9, kept=kept)
    assert part.size == 4 and part.orders == tuple(whole.orders[i] for i in kept)
    torch.testing.assert_close(part.analysis(axis, 30), whole.analysis(axis, 30)[list(kept)])
    torch.testing.assert_close(part.synthesis(axis, 30), whole.synthesis(axis, 30)[:, list(kept)])
    assert Basis(kind, 9, kept=tuple(range(9))) == whole


@pytest.mark.parametrize("kept", [(), (1, 0), (0, 0), (-1, 2), (0, 9), (0.5, 1)])
def test_refuses_functions_that_a_basis_does_not_have(kept):
    with pytest.raises(ValueError, match="of 9 functions; give rising numbers from 0 to 8"):
        Basis("cosine", 9, kept=kept)


@pytest.mark.parametrize("n", [64, 1024])
def test_cosine_and_sine_are_scipys_transforms(n):
    """On cells, midpoint quadrature gives the orthonormal DCT-II and DST-II over sqrt(n), for an axis of length 1."""
    axis, x = Axis(0.0, 1.0, points="cell"), torch.randn(n, dtype=torch.float64)
    for kind, oracle in (("cosine", dct), ("sine", dst)):
        c = Basis(kind, 24).analysis(axis, n, dtype=torch.float64) @ x
        torch.testing.assert_close(c, torch.from_numpy(oracle(x.numpy(), norm="ortho")[:24]) / n**0.5, rtol=0, atol=1e-13)
        single = Basis(kind, 24).analysis(axis, n, dtype=torch.float32) @ x.float()
        assert (single - c).abs().max() < 5e-6


def test_more_functions_than_samples_get_zeros():
    domain, bases = Domain((Axis(0.0, 1.0), Axis(0.0, 2.0, points="gauss"))), [Basis("cosine", 9), Basis("legendre", 7)]
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64)
    z = analyze(x, domain.grid(5, 4), bases)
    assert z.shape == (1, 1, 9, 7) and not z[0, 0, 5:].any() and not z[..., 4:].any()
    torch.testing.assert_close(synthesize(z, domain.grid(5, 4), bases), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["cosine", "sine"])
@pytest.mark.parametrize("n", [2, 5, 16, 33, 128])
def test_waves_at_gauss_points_do_not_amplify_noise(kind, n):
    """Fitted with as many half waves as there are points, white noise grew a million times."""
    axis = Axis(0.0, 2.0, points="gauss")
    whitened = Basis(kind, n).analysis(axis, n, dtype=torch.float64) / axis.weights(n, dtype=torch.float64).sqrt()
    assert torch.linalg.matrix_norm(whitened, 2) < 1.3
    assert whitened.any(dim=1).sum() >= 0.63 * n - 1


def test_an_empty_batch_has_no_coefficients():
    domain = Domain.periodic(1.0, 2.0)
    bases = [Basis.of(axis, 5) for axis in domain.axes]
    z = analyze(torch.zeros(0, 2, 8, 9), domain.grid(8, 9), bases)
    assert z.shape == (0, 2, 5, 5) and synthesize(z, domain.grid(7, 6), bases).shape == (0, 2, 7, 6)


def test_products_of_bases_run_in_float32_under_autocast():
    domain = Domain.periodic(1.0, 2.0)
    grid, bases = domain.grid(24, 20), [Basis.of(axis, 9) for axis in domain.axes]
    x = torch.randn(1, 2, 24, 20)
    with torch.autocast("cpu", torch.bfloat16):
        z = analyze(x, grid, bases)
    torch.testing.assert_close(z, analyze(x, grid, bases), rtol=0, atol=0)
    assert z.dtype == torch.float32


def test_products_of_bases_run_on_fake_cuda():
    with fake_cuda():
        grid = Domain.box(1.0, 2.0, points="cell").grid(16, 15)
        assert analyze(torch.randn(2, 3, 16, 15), grid, [Basis("cosine", 5), Basis("legendre", 4)]).device.type == "cuda"


def test_a_basis_is_chosen_by_the_axis():
    assert Basis.of(Axis(0, 1, periodic=True, points="node"), 8) == Basis("fourier", 8)
    assert Basis.of(Axis(0, 1), 8) == Basis("cosine", 8)
    assert Basis("fourier", 8).size == 7


def test_refuses_unknown_bases_and_fourier_on_moving_periods():
    with pytest.raises(ValueError, match="choose one of fourier, cosine"):
        Basis("wavelet", 4)
    with pytest.raises(ValueError, match="at least 1"):
        Basis("cosine", 0)
    with pytest.raises(ValueError, match="give one whole number"):
        Basis("cosine", (4,))  # type: ignore
    with pytest.raises(ValueError, match='axis z has points="endpoint"'):
        Basis("fourier", 5).analysis(Axis(0, 1, points="endpoint", name="z"), 16)
