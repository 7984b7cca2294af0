"""DifferentialConv: order of accuracy with walls, exactness on polynomials, any aspect ratio, layout, refusals."""

import math

import pytest
import torch
from helpers import assert_order, band_limited, fake_cuda

from opkernels import Axis, Domain
from opkernels.layers import DifferentialConv
from opkernels.layers.differential import differentiate, stencil

SIZES = (64, 128, 256, 512, 1024)


def with_weights(coefficients, **options):
    """One channel to one channel with the given coefficient for each multi-index, in float64."""
    n_dim = len(next(iter(coefficients)))
    layer = DifferentialConv(1, 1, n_dim, length=1.0, order=max(map(sum, coefficients)), **options).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([coefficients.get(alpha, 0.0) for alpha in layer.multi_indices], dtype=torch.float64))
    return layer


@pytest.mark.parametrize("accuracy", [2, 4, 6])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("points", ["periodic", "cell", "endpoint", "node"])
def test_order_of_accuracy_of_one_axis(points, order, accuracy):
    """The maximum norm, of a sine and a cosine together, sees the rows at the walls whatever the phase.

    The wave number is high so that at n = 1024 the error stays above round-off, 1e-16 / (k h)^order.
    """
    periodic = points == "periodic"
    domain = Domain((Axis(-0.3, 1.7, periodic=periodic, points="node" if periodic else points),))
    k = 8 * math.pi if periodic else 12.0
    layer = with_weights({(order,): 0.7}, accuracy=accuracy)
    errors = []
    for n in SIZES:
        grid = domain.grid(n)
        phase = k * grid.coordinates(dtype=torch.float64) + torch.tensor([[0.4], [0.4 + math.pi / 2]])
        wanted = 0.7 * k**order * torch.sin(phase + order * math.pi / 2)
        got = layer(torch.sin(phase)[:, None], grid)[:, 0].detach()
        errors.append((got - wanted).norm(dim=0).max().item() / k**order)
    assert_order([1 / n for n in SIZES], errors, accuracy)


@pytest.mark.parametrize("accuracy", [2, 4, 6])
@pytest.mark.parametrize("walls", [False, True])
def test_order_of_accuracy_on_anisotropic_grids(walls, accuracy):
    """All derivatives up to the second with random coefficients; the spacings differ by 4.7."""
    domain = Domain((Axis(0, 1.0, periodic=not walls, points="cell"), Axis(0, 3.5, periodic=True, points="node")))
    k = torch.tensor([32.0 if walls else 12 * math.pi, 10 * math.pi / 3.5], dtype=torch.float64)
    torch.manual_seed(3)
    layer = DifferentialConv(1, 1, 2, length=0.1, order=2, accuracy=accuracy).double()
    errors = []
    for n in SIZES:
        grid = domain.grid(n, 3 * n // 4)
        phase = torch.tensordot(k, grid.coordinates(dtype=torch.float64), dims=1) + torch.tensor([0.2, 0.2 + math.pi / 2])[:, None, None]
        wanted = sum(
            w * 0.1 ** (a + b) * k[0] ** a * k[1] ** b * torch.sin(phase + (a + b) * math.pi / 2)
            for w, (a, b) in zip(layer.weight[0, 0].detach(), layer.multi_indices, strict=True)
        )
        got = layer(torch.sin(phase)[:, None], grid)[:, 0].detach()
        errors.append(((got - wanted).norm(dim=0).max() / wanted.abs().max()).item())
    assert_order([1 / n for n in SIZES], errors, accuracy)


@pytest.mark.parametrize("shape", [(64, 64), (64, 128), (128, 64), (96, 81)])
@pytest.mark.parametrize("coefficients", [{(1, 0): 1.0}, {(0, 1): 1.0}, {(2, 0): 1.0, (0, 2): 1.0}, {(1, 1): 1.0}])
def test_known_operators_on_any_aspect_ratio(shape, coefficients):
    grid = Domain.periodic(2.0, 5.0).grid(*shape)
    x, y = grid.coordinates(dtype=torch.float64)
    p, q = math.pi, 4 * math.pi / 5
    got = with_weights(coefficients, accuracy=6)(torch.sin(p * x + q * y)[None, None], grid)[0, 0].detach()
    wanted = sum(c * p**a * q**b * torch.sin(p * x + q * y + (a + b) * math.pi / 2) for (a, b), c in coefficients.items())
    # (kh)^6/140 of relative error per first derivative, k h <= 0.2
    assert wanted.abs().max() > 1
    torch.testing.assert_close(got, wanted, rtol=0, atol=3 * 0.2**6 / 140 * wanted.abs().max().item())


@pytest.mark.parametrize("accuracy", [2, 4, 6])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_exact_on_polynomials_up_to_the_wall(order, accuracy):
    grid = Domain((Axis(-1.0, 1.0, points="endpoint"), Axis(0.0, 3.0))).grid(order + accuracy, 21)
    degree = order + accuracy - 1
    x, y = grid.coordinates(dtype=torch.float64)
    got = differentiate((x**degree * y)[None, None], grid, (order, 1), accuracy)[0, 0]
    wanted = math.perm(degree, order) * x ** (degree - order)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10 * math.perm(degree, order))


def test_three_axes_and_mixed_derivatives():
    grid = Domain.periodic(1.0, 2.0, 3.0).grid(40, 33, 36)
    x, y, z = grid.coordinates(dtype=torch.float64)
    k = 2 * math.pi
    u = torch.sin(k * x) * torch.cos(k * y / 2) * torch.sin(k * z / 3)
    wanted = k**3 / 6 * torch.cos(k * x) * -torch.sin(k * y / 2) * torch.cos(k * z / 3)
    got = with_weights({(1, 1, 1): 1.0}, accuracy=6)(u[None, None], grid)[0, 0].detach()
    assert ((got - wanted).norm() / wanted.norm()).item() < 1e-5  # 3 (kh)^6/140 with k h <= 0.19


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("shape", [(16, 21), (24, 18)])
def test_exact_derivatives_of_a_fourier_series(shape, depthwise):
    """Of waves just below the grid's own, which no stencil differentiates; the Nyquist wave of even sizes is dropped."""
    domain = Domain.periodic(2.0, 5.0)
    layer = DifferentialConv(2, 2, 2, length=0.3, order=2, accuracy="exact", depthwise=depthwise).double()
    grid = domain.grid(*shape)
    x, y = grid.coordinates(dtype=torch.float64)
    p, q = 7 * math.pi, 8 * 2 * math.pi / 5
    shifts = torch.tensor([0.1, 1.3], dtype=torch.float64).view(1, 2, 1, 1)
    terms = torch.stack(
        [0.3 ** (a + b) * p**a * q**b * torch.sin(p * x + q * y + shifts + (a + b) * math.pi / 2) for a, b in layer.multi_indices]
    )
    wanted = torch.einsum("ck,kbcij->bcij" if depthwise else "ock,kbcij->boij", layer.weight, terms)
    torch.testing.assert_close(layer(torch.sin(p * x + q * y + shifts), grid), wanted, rtol=0, atol=1e-11 * wanted.abs().max().item())
    nyquist = (-1.0) ** torch.arange(24, dtype=torch.float64)[:, None].expand(24, 18)
    torch.testing.assert_close(
        layer(nyquist.expand(1, 2, 24, 18), domain.grid(24, 18)), torch.zeros(1, 2, 24, 18).double(), rtol=0, atol=1e-11
    )
    with pytest.raises(ValueError, match='accuracy="exact" needs a periodic domain, but axis x has walls'):
        layer(torch.zeros(1, 2, 16, 16, dtype=torch.float64), Domain.box(1.0, 1.0).grid(16, 16))


def test_smoothed_derivatives_are_those_of_an_average():
    """A Gaussian's multiplier at the wave's own wave number, whatever the grid."""
    plain = DifferentialConv(1, 1, 2, length=0.3, order=2, accuracy="exact").double()
    smooth = DifferentialConv(1, 1, 2, length=0.3, order=2, accuracy="exact", smoothing=0.2).double()
    smooth.load_state_dict(plain.state_dict())
    for shape in ((16, 21), (24, 18)):
        grid = Domain.periodic(2.0, 5.0).grid(*shape)
        x, y = grid.coordinates(dtype=torch.float64)
        p, q = 3 * math.pi, 2 * 2 * math.pi / 5
        wave = torch.sin(p * x + q * y)[None, None]
        torch.testing.assert_close(smooth(wave, grid), math.exp(-0.02 * (p**2 + q**2)) * plain(wave, grid), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="smoothing=0.2 with accuracy=4; give a length"):
        DifferentialConv(1, 1, 2, length=0.3, smoothing=0.2)
    with pytest.raises(ValueError, match="accuracy='spectral'; give an even order"):
        DifferentialConv(1, 1, 2, length=0.3, accuracy="spectral")


def test_stencils_of_the_textbooks():
    assert stencil(1, (0, 1, 2, 3, 4)) == pytest.approx([-25 / 12, 4, -3, 4 / 3, -1 / 4], abs=1e-15)
    assert stencil(2, (-2, -1, 0, 1, 2)) == pytest.approx([-1 / 12, 4 / 3, -5 / 2, 4 / 3, -1 / 12], abs=1e-15)
    assert stencil(1, (-3, -2, -1, 0, 1, 2, 3)) == pytest.approx([-1 / 60, 3 / 20, -3 / 4, 0, 3 / 4, -3 / 20, 1 / 60], abs=1e-15)
    assert stencil(3, (-2, -1, 0, 1, 2)) == pytest.approx([-0.5, 1, 0, -1, 0.5], abs=1e-15)


@pytest.mark.parametrize("domain", [Domain.periodic(1.0, 2.0), Domain.box(1.0, 2.0), Domain.box(1.0, 2.0, points="endpoint")])
def test_constants_vanish_and_shifts_commute(domain):
    layer = DifferentialConv(3, 2, 2, length=0.05, order=2).double()
    grid = domain.grid(17, 24)
    ones = torch.ones(1, 3, 17, 24, dtype=torch.float64)
    torch.testing.assert_close(layer(ones, grid), 0 * layer(ones, grid), rtol=0, atol=1e-11)
    if domain.axes[0].periodic:
        x = torch.randn(2, 3, 17, 24, dtype=torch.float64)
        shifted = layer(x.roll((5, 7), (2, 3)), grid)
        torch.testing.assert_close(shifted, layer(x, grid).roll((5, 7), (2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("depthwise", [False, True])
def test_combines_channels(depthwise):
    layer = DifferentialConv(3, 3, 2, length=0.5, order=2, accuracy=2, depthwise=depthwise).double()
    grid = Domain((Axis(0, 1), Axis(0, 2, periodic=True))).grid(9, 12)
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    terms = torch.stack([0.5 ** sum(a) * differentiate(x, grid, a, 2) for a in layer.multi_indices])
    wanted = torch.einsum("ck,kbcij->bcij" if depthwise else "ock,kbcij->boij", layer.weight, terms)
    torch.testing.assert_close(layer(x, grid), wanted, rtol=0, atol=1e-11)
    assert layer.multi_indices == ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))


def test_changes_by_its_order_between_grids():
    """Same weights on 64, 128, 256: the output at shared points settles 16 times faster per refinement."""
    torch.manual_seed(0)
    layer = DifferentialConv(2, 3, 2, length=1 / 64, accuracy=4).double()
    domain = Domain.periodic(1.0, 2.0)
    outputs = [
        layer(band_limited((n, n), channels=2, k_max=6), domain.grid(n, n)).detach()[..., :: n // 64, :: n // 64] for n in (64, 128, 256)
    ]
    changes = [((b - a).norm() / b.norm()).item() for a, b in zip(outputs[:-1], outputs[1:], strict=True)]
    assert changes[0] < 5e-3 and 13 < changes[0] / changes[1] < 17


def test_the_layout_of_the_output_follows_the_input_and_gradients_are_right():
    grid = Domain((Axis(0, 1), Axis(0, 2, periodic=True))).grid(9, 8)
    layer = DifferentialConv(3, 2, 2, length=0.1, order=2, accuracy=2)
    x = torch.randn(2, 3, 9, 8)
    last = x.to(memory_format=torch.channels_last)
    assert layer(x, grid).is_contiguous() and layer(last, grid).movedim(1, -1).is_contiguous()
    torch.testing.assert_close(layer(x, grid), layer(last, grid), rtol=1e-5, atol=1e-5)
    layer = layer.double()

    def run(u, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (u, grid))

    assert torch.autograd.gradcheck(run, (x[:1].double().requires_grad_(), layer.weight))


def test_half_precision_is_differentiated_in_float32():
    layer, grid = DifferentialConv(4, 4, 2, length=0.1), Domain.box(1.0, 1.0).grid(16, 16)
    x = torch.randn(2, 4, 16, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x, grid), layer(x.float(), grid), rtol=0, atol=0)


def test_runs_on_fake_cuda():
    with fake_cuda():
        layer = DifferentialConv(3, 2, 2, length=0.1)
        assert layer(torch.randn(2, 3, 16, 15), Domain.box(1.0, 1.0).grid(16, 15)).device.type == "cuda"


@pytest.mark.parametrize(
    "domain, shape, message",
    [
        (Domain.periodic(1.0, 1.0), (16, 4), "needs 5 samples on axis y, which has 4"),
        (Domain.box(1.0, 1.0), (5, 16), "derivative 2 at accuracy 4 needs 6 samples on axis x, which has 5"),
        (Domain.box(1.0, 1.0, points="gauss"), (16, 16), "needs equal spacing"),
    ],
)
def test_refuses_grids_without_room(domain, shape, message):
    layer = DifferentialConv(1, 1, 2, length=0.1, order=2)
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(1, 1, *shape), domain.grid(*shape))


def test_refuses_to_guess():
    layer, x, grid = DifferentialConv(2, 1, 2, length=0.1), torch.zeros(1, 2, 8, 8), Domain.periodic(1.0, 1.0).grid(8, 8)
    with pytest.raises(ValueError, match="got grid=None, but derivatives have units"):
        layer(x, None)
    with pytest.raises(ValueError, match="expected \\(batch, channels, 8, 8\\)"):
        layer(x[..., :6], grid)
    with pytest.raises(ValueError, match="expected \\(batch, 2, \\*spatial\\) with 2 axes"):
        layer(x[:, :1], grid)
    with pytest.raises(ValueError, match="alpha=\\(1,\\) on a 2-D grid"):
        differentiate(x, grid, (1,))
    with pytest.raises(ValueError, match="whole number from 0 on, per axis"):
        differentiate(x, grid, (1.0, 0))
    with pytest.raises(ValueError, match="accuracy='exact'; give an even order"):
        differentiate(x, grid, (1, 0), "exact")
    for accuracy in (3, 4.0, None, 0):
        with pytest.raises(ValueError, match=f"accuracy={accuracy}; give an even order"):
            DifferentialConv(1, 1, 1, length=1.0, accuracy=accuracy)
    for order in (0, 1.5, "1"):
        with pytest.raises(ValueError, match=f"order={order!r}; give a whole number of at least 1"):
            DifferentialConv(1, 1, 1, length=1.0, order=order)
    for length in (0, "1"):
        with pytest.raises(ValueError, match=f"length={length!r}; give a positive length"):
            DifferentialConv(1, 1, 1, length=length)
    for smoothing in (-1.0, "1"):
        with pytest.raises(ValueError, match=f"smoothing={smoothing!r} with accuracy='exact'; give a length of at least 0"):
            DifferentialConv(1, 1, 1, length=1.0, accuracy="exact", smoothing=smoothing)
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(ValueError, match=f"x of dtype {dtype}; give real floating-point samples"):
            layer(x.to(dtype), grid)
    with pytest.raises(ValueError, match="depthwise with 2 input and 3 output"):
        DifferentialConv(2, 3, 1, length=1.0, depthwise=True)
