"""Pruned Fourier transforms against FFTs and each other; orthonormal bases against scipy and their definition."""

import math

import pytest
import torch
from helpers import fake_cuda
from scipy.fft import dct, dst

from opkernels import Axis, Domain
from opkernels.transforms import Basis, Fourier, Modes, analyze, prefers_matmul, synthesize

CASES = [((33,), (8,)), ((16, 20), (7, 9)), ((9, 12), (16, 16)), ((12, 9, 10), (14, 3, 9)), ((7, 8, 9), (5, 6, 4))]
RULES = [Modes.symmetric, Modes.neuraloperator]
BASES = [
    (kind, points)
    for kind in ("fourier", "cosine", "sine", "legendre", "chebyshev")
    for points in ("node", "cell", "endpoint", "gauss")
    if kind != "fourier" or points in ("node", "cell")
]


def grid_of(n, points="node"):
    return Domain.box(*[1.0 + a for a in range(len(n))], points=points).grid(*n)


def test_symmetric_modes_have_no_unpaired_row_and_neuraloperators_do():
    assert Modes.symmetric((8, 7)) == Modes((-3, 0), (3, 3))
    assert Modes.neuraloperator((8, 7)) == Modes((-4, 0), (3, 3), True)
    assert Modes.symmetric((1, 2)).shape == (1, 1) and Modes.neuraloperator((7, 8)).shape == (7, 5)


@pytest.mark.parametrize("n, n_modes", CASES)
def test_coefficients_are_those_of_the_full_fft(n, n_modes):
    modes, x = Modes.symmetric(n_modes), torch.randn(2, 3, *n, dtype=torch.float64)
    z = torch.view_as_complex(Fourier(modes).analyze(x, grid_of(n)).movedim((1, -1), (-1, 1)).contiguous())
    full = torch.fft.fftn(x, dim=tuple(range(2, x.ndim)), norm="forward")
    for index in torch.cartesian_prod(*[torch.arange(m) for m in modes.shape]).reshape(-1, len(n)).tolist():
        k = [low + i for low, i in zip(modes.lower, index, strict=True)]
        carried = all(2 * abs(ka) < na for ka, na in zip(k, n, strict=True))
        wanted = full[(..., *[ka % na for ka, na in zip(k, n, strict=True)])] * carried
        torch.testing.assert_close(z[(..., *index)], wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("n, n_modes", CASES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("points", ["node", "cell"])
def test_matrix_products_and_ffts_agree_and_so_do_their_gradients(n, n_modes, rule, points):
    transform, grid = Fourier(rule(n_modes)), grid_of(n, points)
    larger = grid.domain.grid(*[size + 3 for size in n])
    x = torch.randn(2, 3, *n, dtype=torch.float64, requires_grad=True)
    z, z_fft = transform._analyze_matmul(x, grid), transform._analyze_fft(x, grid)
    torch.testing.assert_close(z, z_fft, rtol=0, atol=1e-14)
    for target in (grid, larger):
        for channels_last in (True, False):
            y = transform._synthesize_matmul(z, target, channels_last)
            y_fft = transform._synthesize_fft(z_fft, target, channels_last)
            torch.testing.assert_close(y, y_fft, rtol=0, atol=1e-12)
            assert y.shape == (2, 3, *target.shape)
            assert (y.movedim(1, -1) if channels_last else y).is_contiguous()
            assert (y_fft.movedim(1, -1) if channels_last else y_fft).is_contiguous()
            g = torch.randn_like(y)
            one, other = (torch.autograd.grad(v, x, g, retain_graph=True)[0] for v in (y, y_fft))
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", ["matmul", "fft"])
@pytest.mark.parametrize("points", ["node", "cell"])
def test_synthesis_samples_the_same_function_on_any_grid(path, points):
    """Analysis of the synthesis returns the coefficients, whatever the size and the kind of points."""
    modes = Modes.symmetric((6, 7))
    transform = Fourier(modes)
    x = torch.randn(2, 3, 24, 20, dtype=torch.float64)
    z = transform.analyze(x, grid_of((24, 20)))
    for n in ((7, 9), (32, 15), (15, 48)):
        grid = grid_of(n, points)
        y = getattr(transform, f"_synthesize_{path}")(z, grid, True)
        torch.testing.assert_close(getattr(transform, f"_analyze_{path}")(y, grid), z, rtol=0, atol=1e-14)


def test_inverse_ffts_get_real_values_where_there_is_no_partner(monkeypatch):
    """Some devices do not drop an imaginary part at wave number zero or n/2."""
    seen, irfft = [], torch.fft.irfft
    monkeypatch.setattr(torch.fft, "irfft", lambda z, **options: (seen.append(z), irfft(z, **options))[1])
    Fourier(Modes.neuraloperator((8,)))._synthesize_fft(torch.randn(1, 2, 5, 3), Domain.periodic(1.0).grid(8), True)
    (z,) = seen
    assert z.shape[-1] == 5 and not z[..., [0, 4]].imag.any() and z[..., 1:4].imag.all()


def test_float32_keeps_its_digits_at_high_wave_numbers():
    grid, transform = Domain.periodic(1.0).grid(4096), Fourier(Modes.symmetric((63,)))
    x = torch.randn(1, 1, 4096, dtype=torch.float64)
    exact = transform.analyze(x, grid)
    assert (transform.analyze(x.float(), grid) - exact).norm() < 1e-6 * exact.norm()


def test_the_path_is_chosen_by_the_number_of_modes():
    cpu = torch.device("cpu")
    assert prefers_matmul(Modes.symmetric((16, 16)), cpu, True)
    assert not prefers_matmul(Modes.symmetric((256, 256)), cpu, True)


def test_tf32_sends_cuda_to_the_fft(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert not prefers_matmul(Modes.symmetric((8,)), torch.device("cuda"), True)
    assert prefers_matmul(Modes.symmetric((8,)), torch.device("cpu"), True)


@pytest.mark.parametrize("n_modes", [(), (0, 4), (3.5,), (True,), (-2,)])
def test_refuses_numbers_of_modes_that_are_none(n_modes):
    with pytest.raises(ValueError, match="give one whole number of at least 1 per axis"):
        Modes.symmetric(n_modes)


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


@pytest.mark.parametrize("kept", [(), (1, 0), (0, 0), (-1, 2), (0, 9)])
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


def test_products_of_bases_run_in_float32_under_autocast():
    domain = Domain.periodic(1.0, 2.0)
    grid, bases = domain.grid(24, 20), [Basis.of(axis, 9) for axis in domain.axes]
    x = torch.randn(1, 2, 24, 20)
    with torch.autocast("cpu", torch.bfloat16):
        z = analyze(x, grid, bases)
    torch.testing.assert_close(z, analyze(x, grid, bases), rtol=0, atol=0)
    assert z.dtype == torch.float32


def test_transforms_run_on_fake_cuda():
    with fake_cuda():
        grid = grid_of((16, 15), "cell")
        x = torch.randn(2, 3, 16, 15)
        assert Fourier(Modes.symmetric((6, 5)))._analyze_matmul(x, grid).device.type == "cuda"
        assert Fourier(Modes.symmetric((6, 5)))._analyze_fft(x, grid).device.type == "cuda"
        assert analyze(x, grid, [Basis("cosine", 5), Basis("legendre", 4)]).device.type == "cuda"


def test_a_basis_is_chosen_by_the_axis():
    assert Basis.of(Axis(0, 1, periodic=True, points="node"), 8) == Basis("fourier", 8)
    assert Basis.of(Axis(0, 1), 8) == Basis("cosine", 8)
    assert Basis("fourier", 8).size == 7


def test_refuses_unknown_bases_and_fourier_on_moving_periods():
    with pytest.raises(ValueError, match="choose one of fourier, cosine"):
        Basis("wavelet", 4)
    with pytest.raises(ValueError, match="at least 1"):
        Basis("cosine", 0)
    with pytest.raises(ValueError, match='axis z has points="endpoint"'):
        Basis("fourier", 5).analysis(Axis(0, 1, points="endpoint", name="z"), 16)
