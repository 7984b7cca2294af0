"""SpectralConv: neuraloperator as oracle, gradients, layout, resizing, autocast; one axis at a time; domain padding."""

import warnings

import pytest
import torch
from helpers import assert_order, band_limited, fake_cuda
from torch import nn

from opkernels import Axis, Domain, Sphere
from opkernels.layers import AxisSpectralConv, SpectralConv
from opkernels.layers.padding import DomainPadding
from opkernels.resample import resample
from opkernels.transforms import Fourier, Modes

TORUS = Domain.periodic(1.0, 2.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_refuses_what_is_not_floating_point(dtype):
    with pytest.raises(ValueError, match=f"got x of dtype {dtype}; give real floating-point samples"):
        SpectralConv(1, 1, (4, 4))(torch.ones(1, 1, 8, 8).to(dtype), TORUS.grid(8, 8))


@pytest.mark.parametrize("shape, n_modes", [((40,), (12,)), ((32, 33), (12, 10)), ((16, 14, 15), (8, 6, 4))])
def test_equals_neuraloperator_with_its_rows(shape, n_modes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it warns
        from neuralop.layers.spectral_convolution import SpectralConv as Peer

    peer = Peer(3, 2, n_modes)
    ours = SpectralConv(3, 2, n_modes, modes=Modes.neuraloperator(n_modes))
    d = len(shape)
    with torch.no_grad():
        ours.weight.tensor.copy_(torch.view_as_real(peer.weight.tensor).permute(*range(2, 2 + d), 0, 2 + d, 1))
        ours.bias.copy_(peer.bias.flatten())
    x, y = (torch.randn(2, 3, *shape, requires_grad=True) for _ in range(2))
    y.data.copy_(x.data)
    one, other = ours(x, Domain.periodic(*[1.0] * d).grid(*shape)), peer(y)
    g = torch.randn_like(one)
    torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.autograd.grad(one, x, g)[0], torch.autograd.grad(other, y, g)[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape, n_modes", [((7,), (4,)), ((5, 6), (4, 3)), ((4, 5, 3), (3, 2, 3))])
def test_gradients_are_those_of_finite_differences(shape, n_modes):
    layer = SpectralConv(2, 1, n_modes).double()
    grid = Domain.box(*[1.0] * len(shape)).grid(*shape)
    x = torch.randn(1, 2, *shape, dtype=torch.float64, requires_grad=True)

    def run(u, weight, bias):
        return torch.func.functional_call(layer, {"weight.tensor": weight, "bias": bias}, (u, grid))

    assert torch.autograd.gradcheck(run, (x, layer.weight.tensor, layer.bias))


@pytest.mark.parametrize("target", [(48, 40), (12, 20), (15, 33), (24, 60)])
def test_output_shape_samples_the_same_function(target):
    layer = SpectralConv(2, 3, (8, 6)).double()
    x = torch.randn(1, 2, 24, 20, dtype=torch.float64)
    grid = TORUS.grid(24, 20)
    wanted = resample(layer(x, grid), grid, target)
    torch.testing.assert_close(layer(x, grid, target), wanted, rtol=0, atol=1e-13)


def test_the_layout_of_the_output_follows_the_input():
    layer, grid = SpectralConv(3, 2, (6, 6)), TORUS.grid(16, 15)
    x = torch.randn(2, 3, 16, 15)
    last = x.to(memory_format=torch.channels_last)
    assert layer(x, grid).is_contiguous()
    assert layer(last, grid).movedim(1, -1).is_contiguous()
    torch.testing.assert_close(layer(x, grid), layer(last, grid), rtol=0, atol=1e-6)
    strange = torch.randn(2, 16, 3, 15).movedim(2, 1)
    torch.testing.assert_close(layer(strange, grid), layer(strange.contiguous(), grid), rtol=0, atol=1e-6)


def test_weights_start_hermitian_with_the_stated_variance():
    layer = SpectralConv(24, 40, (15, 15))
    w = layer.weight.tensor
    power = w.square().sum(-2).mean((-2, -1))  # E|W|^2 per wave number
    assert (power - 2 / 64).abs().max() < 0.2 * 2 / 64
    plane = w[:, 0]
    assert torch.equal(plane[..., 0, :], plane.flip(0)[..., 0, :]) and torch.equal(plane[..., 1, :], -plane.flip(0)[..., 1, :])


def test_autocast_keeps_float32():
    layer, grid = SpectralConv(4, 4, (8, 8)), TORUS.grid(32, 32)
    x = torch.randn(2, 4, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y, from_half = layer(x, grid), layer(x.bfloat16(), grid)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, layer(x, grid), rtol=0, atol=0)
    torch.testing.assert_close(from_half, layer(x.bfloat16().float(), grid), rtol=0, atol=0)


def test_the_pieces_can_be_replaced():
    """Another weight and another transform, each by its contract alone."""

    class Halve(nn.Module):
        def forward(self, z):
            assert z.shape == (5 * 3, 2, 2, 4)  # wave numbers, re/im, batch, channels
            return z / 2

    class Recorded(Fourier):
        def analyze(self, x, grid):
            calls.append(grid.shape)
            return super().analyze(x, grid)

    calls = []
    layer = SpectralConv(4, 4, (5, 5), bias=False, weight=Halve(), transform=Recorded(Modes.symmetric((5, 5))))
    x = band_limited((16, 20), channels=4, batch=2, k_max=2)
    torch.testing.assert_close(layer(x, TORUS.grid(16, 20)), x / 2, rtol=0, atol=1e-14)
    assert calls == [(16, 20)]


def test_runs_on_fake_cuda():
    with fake_cuda():
        for layer in (SpectralConv(3, 2, (8, 7)), AxisSpectralConv(3, 2, (8, 7))):
            assert layer(torch.randn(2, 3, 16, 15), TORUS.grid(16, 15)).device.type == "cuda"


@pytest.mark.parametrize(
    "shape, grid, message",
    [
        ((2, 3, 16, 16), TORUS.grid(16, 12), "expected \\(batch, 3, 16, 12\\)"),
        ((2, 4, 16, 12), TORUS.grid(16, 12), "got x of shape \\(2, 4, 16, 12\\)"),
        ((2, 3, 16), Domain.periodic(1.0).grid(16), "give one number of modes per axis"),
        ((2, 3, 16, 12), Sphere().grid(16, 12), "take SphericalSpectralConv for a sphere"),
        ((2, 3, 16, 12), Domain.box(1.0, 1.0, points="endpoint").grid(16, 12), 'points="endpoint"'),
        ((2, 3, 16, 12), Domain.box(1.0, 1.0, points="gauss").grid(16, 12), 'points="gauss"'),
    ],
)
def test_refuses_what_does_not_fit(shape, grid, message):
    with pytest.raises(ValueError, match=message):
        SpectralConv(3, 2, (8, 8))(torch.zeros(shape), grid)


def test_refuses_no_channels_and_no_modes():
    with pytest.raises(ValueError, match="at least one of each"):
        SpectralConv(0, 2, (8, 8))
    with pytest.raises(ValueError, match="at least 1 per axis"):
        SpectralConv(1, 2, (8, 0))
    with pytest.raises(ValueError, match="AxisSpectralConv got x of shape"):
        AxisSpectralConv(3, 2, (8, 8))(torch.zeros(1, 3, 9, 8), TORUS.grid(8, 8))


@pytest.mark.parametrize("shape", [(24,), (16, 21), (9, 8, 10)])
def test_one_axis_at_a_time_is_a_sum_of_one_dimensional_layers(shape):
    d = len(shape)
    layer = AxisSpectralConv(2, 3, (7, 6, 5)[:d]).double()
    x = torch.randn(2, 2, *shape, dtype=torch.float64)
    domain = Domain.periodic(*[1.0 + a for a in range(d)])
    wanted = torch.zeros(2, 3, *shape, dtype=torch.float64)
    for a in range(d):  # multiply the full spectrum along the axis
        u = torch.fft.rfft(x.movedim(a + 2, -1), norm="forward")
        w = torch.view_as_complex(layer.axes[a].weight.tensor.movedim(-2, -1).contiguous())
        v = torch.zeros(2, 3, *u.shape[2:], dtype=u.dtype)
        v[..., : len(w)] = torch.einsum("bi...k,kio->bo...k", u[..., : len(w)], w)
        wanted += torch.fft.irfft(v, n=shape[a], norm="forward").movedim(-1, a + 2)
    torch.testing.assert_close(layer(x, domain.grid(*shape)), wanted, rtol=0, atol=1e-13)


def smooth(grid):
    x, y = grid.coordinates(dtype=torch.float64)
    return (torch.sin(2 * x + 1) * torch.exp(-y) + x * y)[None, None]


@pytest.mark.parametrize("points", ["node", "cell"])
def test_padding_continues_with_value_and_slope(points):
    domain = Domain((Axis(1.0, 3.0, points=points), Axis(0.0, 1.0, periodic=True, points="node")))
    grid = domain.grid(400, 8)
    x = grid.coordinates(dtype=torch.float64)[0]
    y, larger = DomainPadding(domain, 0.5).extend(torch.exp(x)[None, None], grid)
    assert larger.shape == (500, 8) and larger.domain.axes[0].length == 2.5 and larger.domain.axes[0].periodic
    line, h = y[0, 0, :, 0], grid.spacing[0]
    torch.testing.assert_close(line[:400], torch.exp(x[:, 0]))
    slopes = torch.diff(torch.cat([line, line[:1]])) / h
    inside = line.max() - line.min()
    assert slopes.diff().abs().max() * h < 2e-2 * inside  # no jump, no kink (a kink: about 2 h x slope = .2)
    assert line[400:].max() < 2 * line[:400].max()


@pytest.mark.parametrize("points", ["node", "cell"])
def test_padding_is_the_same_function_on_every_grid(points):
    domain = Domain.box(1.0, 2.0, points=points)
    padding = DomainPadding(domain, (0.25, 0.5))
    fine, larger = padding.extend(smooth(domain.grid(512, 512)), domain.grid(512, 512))
    errors = []
    for n in (16, 24, 32, 48, 64):
        y, grid = padding.extend(smooth(domain.grid(n, n)), domain.grid(n, n))
        wanted = resample(fine, larger, larger.domain.grid(*grid.shape))
        errors.append(((y - wanted).abs().max() / wanted.abs().max()).item())
    assert_order([1 / n for n in (16, 24, 32, 48, 64)], errors, 3, slack=0.6)  # spline h^4; the interpolant sees the C^1 joint


@pytest.mark.parametrize("n", [32, 33, 65])
def test_cropping_returns_the_function(n):
    domain = Domain.box(1.0, 2.0)
    grid, padding = domain.grid(n, n + 3), DomainPadding(domain, (0.25, 0.5))
    x = smooth(grid)
    torch.testing.assert_close(padding.crop(padding.extend(x, grid)[0], grid), x, rtol=0, atol=1e-12 if n == 32 else 1e-6)


def test_padding_refuses_lengths_that_do_not_fit():
    box = Domain.box(1.0, 2.0)
    with pytest.raises(ValueError, match="one for each axis"):
        DomainPadding(box, (0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="no axis with walls"):
        DomainPadding(TORUS, 0.25)
    for length in (-0.25, 1.5, 0.2345):
        with pytest.raises(ValueError, match="give a simple fraction of the length, such as 0.25"):
            DomainPadding(box, length)


def test_many_modes_take_the_fft_and_give_the_same_function():
    """Above the crossover the layer runs on FFTs: compare with the products on a grid that carries as little."""
    layer = SpectralConv(1, 2, (161,)).double()
    grid, x = Domain.periodic(1.0).grid(200), torch.randn(1, 1, 200, dtype=torch.float64)
    transform = layer.transform
    z = layer.weight(transform._analyze_matmul(x, grid).flatten(2, -2).permute(2, 1, 0, 3)).permute(2, 1, 0, 3)
    wanted = transform._synthesize_matmul(z, grid, False) + layer.bias.view(-1, 1)
    torch.testing.assert_close(layer(x, grid), wanted, rtol=0, atol=1e-13)
