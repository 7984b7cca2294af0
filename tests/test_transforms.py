"""Pruned Fourier transforms against FFTs and each other."""

import pytest
import torch
from helpers import fake_cuda

from opkernels import Domain
from opkernels.transforms import Fourier, Modes, prefers_matmul

CASES = [((33,), (8,)), ((16, 20), (7, 9)), ((9, 12), (16, 16)), ((12, 9, 10), (14, 3, 9)), ((7, 8, 9), (5, 6, 4))]
RULES = [Modes.symmetric, Modes.neuraloperator]


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


def test_transforms_run_on_fake_cuda():
    with fake_cuda():
        grid = grid_of((16, 15), "cell")
        x = torch.randn(2, 3, 16, 15)
        assert Fourier(Modes.symmetric((6, 5)))._analyze_matmul(x, grid).device.type == "cuda"
        assert Fourier(Modes.symmetric((6, 5)))._analyze_fft(x, grid).device.type == "cuda"
