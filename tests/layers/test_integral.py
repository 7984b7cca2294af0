"""LocalIntegralConv: one operator on all grids, its two quadratures, direct sums as oracle, symmetry, refusals."""

import math

import pytest
import torch
from helpers import band_limited, fake_cuda

from opkernels import Axis, Domain
from opkernels.layers import LocalIntegralConv, PolarHats, WindowedFourier, Zernike
from opkernels.layers.kernels import kernel_values

TORUS = Domain.periodic(1.0, 2.0)
BASES = [PolarHats(3, 4), PolarHats(2, 3), Zernike(3), WindowedFourier(2, 3)]


def pair(kernel, radius, seed=0):
    """The same weights with both quadratures, float64."""
    torch.manual_seed(seed)
    exact = LocalIntegralConv(2, 3, kernel, radius=radius).double()
    nodal = LocalIntegralConv(2, 3, kernel, radius=radius, quadrature="nodal").double()
    nodal.load_state_dict(exact.state_dict())
    return exact, nodal


@pytest.mark.parametrize("kernel", BASES, ids=str)
@pytest.mark.parametrize("radius", [0.04, 0.1713, 0.5])
def test_exact_is_the_same_operator_on_every_grid(kernel, radius):
    """Odd, even and non-square sizes that share the samples of the coarsest grid; radii below a cell and of half a domain."""
    layer, _ = pair(kernel, radius)
    outputs = []
    for factors in ((1, 1), (2, 3), (3, 2), (4, 1)):
        shape = 9 * factors[0], 15 * factors[1]
        y = layer(band_limited(shape, channels=2, batch=2, k_max=4), TORUS.grid(*shape)).detach()
        outputs.append(y[..., :: factors[0], :: factors[1]])
    assert outputs[0].norm() > 1
    for other in outputs[1:]:
        assert ((other - outputs[0]).norm() / outputs[0].norm()).item() < 1e-10


@pytest.mark.parametrize(
    "kernel, least", [(PolarHats(3, 4), 2.0), (PolarHats(2, 4), 1.8), (Zernike(3), 2.0), (WindowedFourier(2, 3), 2.0)], ids=str
)
def test_nodal_approaches_exact(kernel, least):
    """Fitted order over 32 to 128 at a radius that no grid divides; even numbers of hats have h^2 log(1/h)."""
    exact, nodal = pair(kernel, 0.2713)
    sizes, errors = (32, 40, 48, 64, 80, 96, 128), []
    for n in sizes:
        grid = TORUS.grid(n, n)
        x = band_limited(grid.shape, channels=2, k_max=3)
        wanted = exact(x, grid).detach()
        errors.append(((nodal(x, grid).detach() - wanted).norm() / wanted.norm()).item())
    h, e = -torch.tensor(sizes, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    h = h - h.mean()
    assert (h @ e / (h @ h)).item() >= least - 0.15 and errors[-1] < 1e-2


@pytest.mark.parametrize("kernel", BASES, ids=str)
@pytest.mark.parametrize("shape", [(12, 17), (13, 10)])
def test_nodal_is_the_sum_over_neighbors(kernel, shape):
    """The definition, point by point, with directional weights: the sign of the offset matters."""
    _, layer = pair(kernel, 0.37)
    grid = Domain((Axis(0.0, 1.0, periodic=True, points="cell"), Axis(0.0, 2.0, periodic=True, points="node"))).grid(*shape)
    x = torch.randn(2, 2, *shape, dtype=torch.float64)
    y = grid.coordinates(dtype=torch.float64).flatten(1)
    offsets = y[:, None, :] - y[:, :, None]  # from the output point i to the input point j
    lengths = torch.tensor(grid.domain.extent, dtype=torch.float64)[:, None, None]
    offsets = offsets - lengths * torch.round(offsets / lengths)
    psi = kernel_values(kernel, offsets / 0.37) / 0.37**2
    wanted = torch.einsum("ock,kij,bcj,j->boi", layer.weight, psi, x.flatten(2), grid.weights(dtype=torch.float64).flatten())
    torch.testing.assert_close(layer(x, grid).flatten(2), wanted, rtol=0, atol=1e-12 * math.prod(shape))


@pytest.mark.parametrize("kernel", [WindowedFourier(1, 4), WindowedFourier(3, 2)], ids=str)
def test_one_and_three_axes(kernel):
    d = kernel.n_dim
    layer, _ = pair(kernel, 0.3)
    domain = Domain.periodic(*[1.0, 1.5, 2.0][:d])
    coarse, fine = (7, 8, 9)[:d], (14, 16, 18)[:d]
    one = layer(band_limited(coarse, channels=2, k_max=3), domain.grid(*coarse)).detach()
    two = layer(band_limited(fine, channels=2, k_max=3), domain.grid(*fine)).detach()[(..., *[slice(None, None, 2)] * d)]
    assert one.norm() > 0.1 and ((one - two).norm() / one.norm()).item() < 1e-10


@pytest.mark.parametrize("quadrature", ["exact", "nodal"])
def test_commutes_with_shifts_and_keeps_the_layout(quadrature):
    layer, grid = LocalIntegralConv(3, 2, PolarHats(3, 4), radius=0.23, quadrature=quadrature), TORUS.grid(20, 27)
    x = torch.randn(2, 3, 20, 27)
    y = layer(x, grid)
    torch.testing.assert_close(layer(x.roll((7, 5), (2, 3)), grid), y.roll((7, 5), (2, 3)), rtol=0, atol=1e-6)
    last = layer(x.to(memory_format=torch.channels_last), grid)
    assert y.is_contiguous() and last.movedim(1, -1).is_contiguous()
    torch.testing.assert_close(last, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("quadrature", ["exact", "nodal"])
def test_every_weight_matters_and_gradients_are_right(quadrature):
    layer = LocalIntegralConv(2, 2, PolarHats(2, 3), radius=0.4, quadrature=quadrature).double()
    grid = TORUS.grid(8, 7)
    x = torch.randn(1, 2, 8, 7, dtype=torch.float64, requires_grad=True)

    def run(u, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (u, grid))

    assert torch.autograd.gradcheck(run, (x, layer.weight, layer.bias))
    assert torch.autograd.grad(run(x, layer.weight, layer.bias).square().sum(), layer.weight)[0].abs().min() > 0


def test_a_kernel_toward_x_looks_toward_x():
    """The hat on bearing 0 sees what lies at larger x: a blob moves to smaller x."""
    layer, grid = LocalIntegralConv(1, 1, PolarHats(3, 4), radius=0.25, bias=False), TORUS.grid(64, 64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.0, 1, 0, 0, 0]))
    x, y = grid.coordinates()
    blob = torch.exp(-100 * ((x - 0.5) ** 2 + (y - 1) ** 2))
    out = layer(blob[None, None], grid)[0, 0]
    center = [(out * s).sum().item() / out.sum().item() for s in (x, y)]
    assert 0.3 < center[0] < 0.45 and abs(center[1] - 1) < 1e-4


def test_half_precision_and_fake_cuda():
    layer, grid = LocalIntegralConv(3, 2, Zernike(2), radius=0.2), TORUS.grid(16, 15)
    x = torch.randn(2, 3, 16, 15).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x, grid), layer(x.float(), grid), rtol=0, atol=0)
    with fake_cuda():
        for quadrature in ("exact", "nodal"):
            layer = LocalIntegralConv(3, 2, PolarHats(3, 4), radius=0.4, quadrature=quadrature)
            assert layer(torch.randn(2, 3, 16, 15), grid).device.type == "cuda"


@pytest.mark.parametrize(
    "radius, quadrature, domain, shape, message",
    [
        (0.6, "exact", TORUS, (16, 16), "above half the length 1 of axis x"),
        (0.1, "nodal", TORUS, (16, 16), "below the cell 0.125 of axis y"),
        (0.2, "exact", Domain.box(1.0, 2.0), (16, 16), "axis x has walls"),
        (0.2, "exact", Domain.periodic(1.0), (16,), "1-D grid for a 2-D kernel"),
        (0.2, "exact", TORUS, (16, 12), "expected \\(batch, 1, 16, 12\\)"),
    ],
)
def test_refuses_what_has_no_meaning(radius, quadrature, domain, shape, message):
    layer = LocalIntegralConv(1, 1, PolarHats(), radius=radius, quadrature=quadrature)
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(1, 1, *[16] * len(shape)), domain.grid(*shape))


def test_refuses_to_guess():
    with pytest.raises(ValueError, match="got grid=None, but a radius has units"):
        LocalIntegralConv(1, 1, PolarHats(), radius=0.2)(torch.zeros(1, 1, 8, 8), None)
    with pytest.raises(ValueError, match="radius=0; give a positive length"):
        LocalIntegralConv(1, 1, PolarHats(), radius=0)
    with pytest.raises(ValueError, match="quadrature='midpoint'; choose"):
        LocalIntegralConv(1, 1, PolarHats(), radius=0.2, quadrature="midpoint")
    with pytest.raises(ValueError, match="0 input and 1 output channels"):
        LocalIntegralConv(0, 1, PolarHats(), radius=0.2)
