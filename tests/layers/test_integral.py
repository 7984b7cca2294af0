"""LocalIntegralConv: one operator on all grids, its quadratures, walls, particles, direct sums as oracle, symmetry, refusals."""

import math

import pytest
import torch
from helpers import assert_order, band_limited, fake_cuda

from opkernels import Axis, Domain, ParticleSet
from opkernels.layers import LocalIntegralConv, Morlet, PolarHats, Radial, WindowedFourier, Zernike, multipliers
from opkernels.layers import integral as module
from opkernels.layers.kernels import kernel_values

TORUS = Domain.periodic(1.0, 2.0)
BASES = [PolarHats(3, 4), PolarHats(2, 3), Zernike(3), WindowedFourier(2, 3)]
MORE = [*BASES, PolarHats(2, 4), Zernike(3, window=0), Morlet(2, 3), Radial(2, 3)]


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
    "kernel", [PolarHats(3, 4), PolarHats(2, 4), Zernike(3), WindowedFourier(2, 3), Morlet(2, 3), Radial(2, 3)], ids=str
)
def test_nodal_approaches_exact(kernel):
    """Fitted order of at least 2 over 32 to 128 at a radius that no grid divides."""
    exact, nodal = pair(kernel, 0.2713)
    sizes, errors = (32, 40, 48, 64, 80, 96, 128), []
    for n in sizes:
        grid = TORUS.grid(n, n)
        x = band_limited(grid.shape, channels=2, k_max=3)
        wanted = exact(x, grid).detach()
        errors.append(((nodal(x, grid).detach() - wanted).norm() / wanted.norm()).item())
    h, e = -torch.tensor(sizes, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    h = h - h.mean()
    assert (h @ e / (h @ h)).item() >= 2 - 0.05 and errors[-1] < 1e-2


DOMAINS = {
    "torus": Domain((Axis(0.0, 1.0, periodic=True, points="cell"), Axis(0.0, 2.0, periodic=True, points="node"))),
    "channel": Domain((Axis(-1.0, 0.0, periodic=True, points="node"), Axis(0.0, 2.0, points="endpoint"))),
    "box": Domain((Axis(0.0, 1.0, points="node"), Axis(0.0, 2.0, points="cell"))),
}


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
@pytest.mark.parametrize("kernel", BASES, ids=str)
@pytest.mark.parametrize("shape", [(12, 17), (13, 10)])
def test_nodal_is_the_sum_over_neighbors(kernel, shape, domain):
    """The definition, point by point, with directional weights: the sign of the offset matters."""
    _, layer = pair(kernel, 0.37)
    grid = domain.grid(*shape)
    x = torch.randn(2, 2, *shape, dtype=torch.float64)
    y = grid.coordinates(dtype=torch.float64).flatten(1)
    offsets = y[:, None, :] - y[:, :, None]  # from the output point i to the input point j
    periods = torch.tensor([a.length if a.periodic else math.inf for a in domain.axes], dtype=torch.float64)[:, None, None]
    offsets = offsets - torch.where(periods.isinf(), 0, periods * torch.round(offsets / periods))
    psi = kernel_values(kernel, offsets / 0.37) / 0.37**2
    wanted = torch.einsum("ock,kij,bcj,j->boi", layer.weight, psi, x.flatten(2), grid.weights(dtype=torch.float64).flatten())
    torch.testing.assert_close(layer(x, grid).flatten(2), wanted, rtol=0, atol=1e-12 * math.prod(shape))


@pytest.mark.parametrize("domain, radius", list(zip(DOMAINS.values(), (0.3, 0.5, 0.13), strict=True)), ids=list(DOMAINS))
@pytest.mark.parametrize("kernel", MORE, ids=str)
def test_transforms_stencil_and_particles_agree(kernel, radius, domain):
    """On a grid that is not square; 0.3 and 0.5 are whole numbers of cells, where samples sit on the rim."""
    _, layer = pair(kernel, radius)
    grid = domain.grid(20, 33)
    x = torch.randn(1, 2, *grid.shape, dtype=torch.float64)
    u = module._weighted(x, grid)
    transforms, stencil = layer._by_transforms(u, grid), layer._by_stencil(u, grid)
    particles = layer(x[0].flatten(1).T, ParticleSet.from_grid(grid, support=radius, dtype=torch.float64))
    assert stencil.abs().max() > 0.01
    torch.testing.assert_close(transforms, stencil, rtol=0, atol=1e-10)
    torch.testing.assert_close(particles.T.unflatten(1, grid.shape)[None], stencil, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kernel", [PolarHats(3, 2, 1), WindowedFourier(1, 3), PolarHats(3, 6, 3), Radial(3, 2)], ids=str)
def test_three_ways_on_one_and_three_axes(kernel):
    d = kernel.n_dim
    _, layer = pair(kernel, 0.41)
    grid = Domain((Axis(0.0, 1.0, points="endpoint"), Axis(0.0, 1.2, periodic=True), Axis(0.0, 0.9))[:d]).grid(*(9, 8, 7)[:d])
    x = torch.randn(1, 2, *grid.shape, dtype=torch.float64)
    u = module._weighted(x, grid)
    particles = layer(x[0].flatten(1).T, ParticleSet.from_grid(grid, support=1.0, dtype=torch.float64))
    torch.testing.assert_close(layer._by_transforms(u, grid), layer._by_stencil(u, grid), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x, grid)[0].flatten(1).T, particles, rtol=0, atol=1e-12)


@pytest.mark.parametrize("points, factor, order", [("cell", 3, 2), ("endpoint", 2, 2), ("node", 2, 1)])
def test_order_up_to_the_walls(points, factor, order):
    """The integral over the part of the interval inside the domain, of a function that does not vanish at the walls."""
    _, layer = pair(WindowedFourier(1, 3), 0.3)
    domain, coarsest = Domain((Axis(0.0, 1.0, points=points),)), 33 if points == "endpoint" else 32

    def at_shared_samples(level):
        n = (coarsest - 1) * factor**level + 1 if points == "endpoint" else coarsest * factor**level
        grid = domain.grid(n)
        x = grid.coordinates(dtype=torch.float64)
        u = torch.stack([torch.exp(x), torch.cos(3 * x)], 1)
        first = (factor**level - 1) // 2 if points == "cell" else 0
        return layer(u, grid).detach()[..., first :: factor**level], grid.spacing[0]

    reference, _ = at_shared_samples(9 if factor == 2 else 6)
    found = [at_shared_samples(level) for level in range(5)]
    assert_order([h for _, h in found], [(y - reference).norm().item() for y, _ in found], order)


def test_particles_that_move_together_change_nothing():
    layer = LocalIntegralConv(2, 3, PolarHats(3, 4), radius=0.2)
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(300, 2, generator=generator) * torch.tensor([1.0, 2.0])
    particles = ParticleSet(positions, 2 / 300, support=0.2, domain=TORUS)
    x = torch.randn(300, 2, generator=generator)
    y = layer(x, particles)
    torch.testing.assert_close(layer(x, particles.replace(positions=positions + torch.tensor([0.37, -1.2]))), y, rtol=0, atol=1e-5)
    torch.testing.assert_close(layer(x, particles, particles.neighbors(skin=0.1)), y, rtol=0, atol=1e-6)
    two = ParticleSet.stack([particles, particles])
    torch.testing.assert_close(layer(torch.cat([x, 2 * x]), two), torch.cat([y, 2 * y]), rtol=0, atol=1e-6)  # the bias is zero


def test_particles_gradients():
    layer = LocalIntegralConv(2, 2, Zernike(2), radius=0.4).double()
    particles = ParticleSet(torch.rand(12, 2, dtype=torch.float64), 1 / 12, support=0.4, domain=Domain.box(1.0, 1.0))
    x = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, w: torch.func.functional_call(layer, {"weight": w}, (u, particles)), (x, layer.weight))


def test_many_blocks_are_one_product(monkeypatch):
    """Cut along the batch, and along the coefficients; derivatives of derivatives too."""
    torch.manual_seed(0)
    u = torch.randn(3, 2, 300, dtype=torch.complex128, requires_grad=True)
    m, weight = torch.randn(4, 300, dtype=torch.complex128), torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    wanted = multipliers._mixed(u, m, weight)
    whole = torch.autograd.grad(wanted.abs().square().sum(), (u, weight))
    for rows, width in ((2, 300), (1, 128)):
        cut = [(slice(i, i + rows), slice(j, j + width)) for i in range(0, 3, rows) for j in range(0, 300, width)]
        monkeypatch.setattr(multipliers, "_blocks", lambda u, m, cut=cut: cut)
        got = multipliers._Mix.apply(u, m, weight)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(got.abs().square().sum(), (u, weight)), whole, rtol=0, atol=1e-10)
    monkeypatch.setattr(multipliers, "_blocks", lambda u, m: [(slice(0, 1), slice(0, 3)), (slice(0, 1), slice(3, 4))])
    small = torch.randn(1, 2, 4, dtype=torch.complex128, requires_grad=True)
    w = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(multipliers._Mix.apply, (small, m[:2, :4], w))
    assert torch.autograd.gradgradcheck(multipliers._Mix.apply, (small, m[:2, :4], w))


@pytest.mark.parametrize("quadrature", ["exact", "nodal"])
def test_backward_inside_autocast_is_in_float32(quadrature):
    layer, grid = LocalIntegralConv(2, 3, PolarHats(3, 4), radius=0.45, quadrature=quadrature, bias=False), TORUS.grid(24, 48)
    x, sent = torch.randn(2, 2, 24, 48, requires_grad=True), torch.randn(2, 3, 24, 48)
    wanted = torch.autograd.grad(layer(x, grid), (x, layer.weight), sent)
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(layer(x, grid), (x, layer.weight), sent)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 * wanted[1].abs().max().item())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of the compiler itself, where graphs meet
def test_compiles_for_several_shapes():
    """Between walls; the multipliers of a torus are compiled with LocalNO."""
    domain = DOMAINS["channel"]
    layer = LocalIntegralConv(2, 3, PolarHats(3, 4), radius=0.37)
    compiled = torch.compile(layer, backend="aot_eager")
    for n in (16, 18):
        x = torch.randn(2, 2, n, 20)
        torch.testing.assert_close(compiled(x, domain.grid(n, 20)), layer(x, domain.grid(n, 20)), rtol=0, atol=1e-5)


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
        layer = LocalIntegralConv(3, 2, PolarHats(3, 4), radius=0.4)
        assert layer(torch.randn(2, 3, 16, 15), Domain.box(1.0, 2.0).grid(16, 15)).device.type == "cuda"


@pytest.mark.parametrize(
    "radius, quadrature, domain, shape, message",
    [
        (0.6, "exact", TORUS, (16, 16), "above half the length 1 of axis x"),
        (0.1, "nodal", TORUS, (16, 16), "below the cell 0.125 of axis y"),
        (0.2, "exact", Domain.box(1.0, 2.0), (16, 16), "axis x has walls"),
        (0.2, None, Domain.box(1.0, 2.0, points="gauss"), (16, 16), "needs equal spacing"),
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
    for radius in (0, "0.1", None):
        with pytest.raises(ValueError, match=f"radius={radius!r}; give a positive length"):
            LocalIntegralConv(1, 1, PolarHats(), radius=radius)
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(ValueError, match=f"x of dtype {dtype}; give real floating-point samples"):
            LocalIntegralConv(1, 1, PolarHats(), radius=0.2)(torch.zeros(1, 1, 8, 8, dtype=dtype), TORUS.grid(8, 8))
    with pytest.raises(ValueError, match="quadrature='midpoint'; choose"):
        LocalIntegralConv(1, 1, PolarHats(), radius=0.2, quadrature="midpoint")
    particles, layer = ParticleSet(torch.rand(5, 2), 1.0, support=0.1, domain=TORUS), LocalIntegralConv(2, 1, PolarHats(), radius=0.2)
    with pytest.raises(ValueError, match="x of shape \\(5, 3\\); expected \\(5, 2\\)"):
        layer(torch.zeros(5, 3), particles)
    with pytest.raises(ValueError, match='particles with quadrature="exact", which needs a grid'):
        LocalIntegralConv(2, 1, PolarHats(), radius=0.2, quadrature="exact")(torch.zeros(5, 2), particles)
    with pytest.raises(ValueError, match="0 input and 1 output channels"):
        LocalIntegralConv(0, 1, PolarHats(), radius=0.2)
