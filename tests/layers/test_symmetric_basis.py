"""SymmetricBasisConv: direct sums as oracle, the same numbers as on grids, gradients, conservation, refinement, refusals."""

import pytest
import torch
from helpers import band_limited, fake_cuda

from opkernels import Axis, Domain, ParticleSet, radius_search
from opkernels.layers import LocalIntegralConv, PolarHats, SymmetricBasisConv, Zernike
from opkernels.layers.kernels import kernel_values
from opkernels.layers.product_kernels import (
    Bumps,
    Chebyshev,
    Fourier,
    ProductKernel,
    Spline,
    cconv_kernel,
    dmcf_kernel,
    fourier_kernel,
    spline_kernel,
)
from opkernels.layers.symmetric_basis import ParticleGraph, _Chunk, _Plan

TORUS = Domain.periodic(1.0, 1.5)
MIXED = Domain((Axis(0, 1, periodic=True), Axis(0, 1), Axis(0, 1, periodic=True)))
KERNELS = [
    fourier_kernel(2, 2),
    fourier_kernel(2, 1, window=None),
    cconv_kernel(2),
    spline_kernel(2, 4),
    dmcf_kernel(2),
    ProductKernel((Chebyshev(3),) * 2, window="wendland2"),
    ProductKernel((Bumps(4), Fourier(1))),
    ProductKernel((Spline(3, 2), Fourier(2)), "polar", parity="even"),
    PolarHats(3, 4),
    Zernike(3),
]


def cloud(n=40, domain=TORUS, support=0.3, seed=0, dtype=torch.float64, batch=None):
    """Random particles of unequal masses and densities."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, domain.ndim, generator=g, dtype=torch.float64) * torch.tensor(domain.extent, dtype=torch.float64)
    m, rho = 0.5 + torch.rand(2, n, generator=g, dtype=torch.float64)
    return ParticleSet(x, 0.01 * m, support, domain, batch, rho).to(dtype)


def direct(layer, f, particles, senders=None, received=None):
    """The sum of the docstring over all pairs, written out."""
    source = senders or particles
    d = source.positions[None] - particles.positions[:, None]
    for a, axis in enumerate(particles.domain.axes):
        if axis.periodic:
            d[..., a] -= axis.length * torch.round(d[..., a] / axis.length)
    z = (d / particles.support).permute(2, 0, 1)
    near = z.square().sum(0) < 1
    if particles.batch is not None:
        near &= particles.batch[:, None] == source.batch[None]
    phi = kernel_values(layer.kernel, z) * near
    if layer.quadrature == "volume":
        phi = phi * source.volumes / particles.support**particles.ndim
    received = f if received is None else received
    sign = {"sender": 0.0, "sum": 1.0, "difference": -1.0}[layer.message] * torch.ones(layer.kernel.size, dtype=f.dtype)
    if layer.conservative:
        sign = -torch.tensor(layer.kernel.parities, dtype=f.dtype)
    messages = f[None, None] + sign[:, None, None, None] * received[None, :, None]
    y = torch.einsum("kij,ock,kijc->io", phi, layer.weight.detach(), messages.expand(len(sign), len(received), len(f), -1))
    if layer.conservative and layer.quadrature == "volume":
        y = y * particles.volumes[:, None]
    return y if layer.bias is None else y + layer.bias.detach()


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_equals_the_sum_over_pairs(kernel):
    torch.manual_seed(0)
    particles = cloud()
    f = torch.randn(40, 3, dtype=torch.float64)
    for options in ({}, {"message": "sum", "bias": True}, {"message": "difference", "quadrature": "sum"}, {"conservative": True}):
        if "conservative" in options and not isinstance(kernel, ProductKernel):
            continue
        layer = SymmetricBasisConv(3, 2, kernel, **options).double()
        wanted = direct(layer, f, particles)
        assert wanted.norm() > 1e-3
        for share, chunk in ((False, 64), (True, 64), (False, None)):
            graph = ParticleGraph.of(particles, particles.neighbors(skin=0.1), share=share, chunk=chunk)
            torch.testing.assert_close(layer.convolve(f, graph), wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("domain", [Domain.periodic(1.0), Domain.box(1.0, 1.0), MIXED], ids=["1-D", "box", "mixed 3-D"])
def test_ranks_batches_and_two_sets(domain):
    torch.manual_seed(0)
    batch = torch.arange(30) % 3
    fluid, wall = cloud(30, domain, 0.45, batch=batch), cloud(12, domain, 0.45, seed=5, batch=torch.arange(12) % 3)
    pairs = radius_search(fluid.positions, wall.positions, support=0.45, domain=domain, batch=fluid.batch, batch_y=wall.batch)
    f, g = torch.randn(30, 2, dtype=torch.float64), torch.randn(12, 2, dtype=torch.float64)
    layer = SymmetricBasisConv(2, 3, fourier_kernel(domain.ndim, 1), message="sum").double()
    torch.testing.assert_close(layer(f, fluid, fluid.neighbors()), direct(layer, f, fluid), rtol=1e-11, atol=1e-13)
    got = layer(g, fluid, pairs, senders=wall, receiver_features=f)
    torch.testing.assert_close(got, direct(layer, g, fluid, wall, f), rtol=1e-11, atol=1e-13)
    one = fluid.positions[batch == 1], fluid.masses[batch == 1], 0.45, domain, None, fluid.densities[batch == 1]
    alone = ParticleSet(*one)
    torch.testing.assert_close(layer(f, fluid, fluid.neighbors())[batch == 1], layer(f[batch == 1], alone, alone.neighbors()))


@pytest.mark.parametrize("kernel", [fourier_kernel(2), cconv_kernel(2), PolarHats(3, 4), Zernike(3)], ids=str)
def test_same_numbers_on_a_grid_and_on_its_nodes(kernel):
    """One state dict, the nodes of a grid taken as a grid and as particles."""
    torch.manual_seed(0)
    grid = TORUS.grid(16, 25)
    local = LocalIntegralConv(3, 4, kernel, radius=0.2103, quadrature="nodal").double()
    layer = SymmetricBasisConv(3, 4, kernel, bias=True).double()
    layer.load_state_dict(local.state_dict())
    particles = ParticleSet.from_grid(grid, 0.2103, dtype=torch.float64)
    x = torch.randn(1, 3, *grid.shape, dtype=torch.float64)
    wanted = local(x, grid)[0].flatten(1).T
    torch.testing.assert_close(layer(x[0].flatten(1).T, particles, particles.neighbors()), wanted, rtol=0, atol=1e-13)
    got = layer.float()(x[0].flatten(1).T.float(), particles.to(torch.float32), particles.neighbors())
    assert (got - wanted).norm() / wanted.norm() < 3e-6  # positions rounded to 6e-8, times slopes of kernels over the spacing


def function_of(layer, pairs, domain, support, share):
    """The layer as a function of positions, volumes, features and weights."""

    class Run(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, v, f):
            return self.layer.convolve(f, ParticleGraph.of(ParticleSet(x, v, support, domain), pairs, chunk=24, share=share))

    run = Run()
    return lambda x, v, f, w: torch.func.functional_call(run, {"layer.weight": w}, (x, v, f))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(
    "kernel",
    [
        *[k for k in KERNELS if k.n_dim == 2],
        ProductKernel((Spline(4, 3),) * 2, "preserving", window="cubic"),
        ProductKernel((Fourier(1), Spline(4, 2, periodic=True)), "polar", window="hoct4"),
        ProductKernel((Bumps(3, "thin_plate"), Bumps(3, "bump", 0.4, unity=True)), window="bump"),
        ProductKernel((Bumps(3, "multiquadric"), Bumps(3, "inverse_quadric")), window="spiky"),
        fourier_kernel(1, 2),
        fourier_kernel(3, 1),
        ProductKernel((Fourier(1), Fourier(1), Spline(3)), "polar"),
        ProductKernel((Spline(3),) * 3, "preserving"),
    ],
    ids=str,
)
def test_gradients_of_positions_volumes_features_and_weights(kernel, share):
    torch.manual_seed(1)
    domain = Domain.periodic(*[1.0, 1.5, 1.2][: kernel.n_dim])
    particles = cloud(7, domain, 0.45, seed=3)
    layer = SymmetricBasisConv(2, 1, kernel, message="sum").double()
    run = function_of(layer, particles.neighbors(include_self=False), domain, 0.45, share)
    inputs = (particles.positions, particles.volumes, torch.randn(7, 2, dtype=torch.float64), layer.weight.detach())
    assert torch.autograd.gradcheck(run, [t.clone().requires_grad_() for t in inputs], fast_mode=share)  # then along one direction


@pytest.mark.parametrize("share", [False, True])
def test_second_gradients(share):
    torch.manual_seed(1)
    particles = cloud(6, support=0.5)
    layer = SymmetricBasisConv(1, 2, fourier_kernel(2, 1), conservative=True).double()
    run = function_of(layer, particles.neighbors(), TORUS, 0.5, share)
    inputs = (particles.positions, particles.volumes, torch.randn(6, 1, dtype=torch.float64), layer.weight.detach())
    assert torch.autograd.gradgradcheck(run, [t.clone().requires_grad_() for t in inputs], fast_mode=share)


@pytest.mark.parametrize("kernel", [k for k in KERNELS if isinstance(k, ProductKernel)], ids=str)
def test_coincident_particles_have_finite_gradients(kernel):
    particles = cloud(5)
    x = particles.positions.clone()
    x[1] = x[0]
    x = x.requires_grad_()
    layer = SymmetricBasisConv(1, 1, kernel).double()
    moved = particles.replace(positions=x)
    layer(torch.ones(5, 1, dtype=torch.float64), moved, moved.neighbors()).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kernel", [k for k in KERNELS if isinstance(k, ProductKernel)], ids=str)
@pytest.mark.parametrize("quadrature", ["volume", "sum"])
def test_conservative_exchange_sums_to_zero(kernel, quadrature):
    """On random states; sums of about 1000 terms round at 1e-16 of their size."""
    torch.manual_seed(0)
    layer = SymmetricBasisConv(3, 2, kernel, conservative=True, quadrature=quadrature).double()
    for seed in range(4):
        particles = cloud(400, support=0.2, seed=seed)
        force = layer(torch.randn(400, 3, dtype=torch.float64), particles, particles.neighbors())
        assert force.norm() > 1e-4
        assert force.sum(0).abs().max() < 1e-14 * force.abs().sum()


def test_other_messages_do_not_conserve():
    torch.manual_seed(0)
    layer, particles = SymmetricBasisConv(3, 2, dmcf_kernel(2)).double(), cloud(200)
    force = layer(torch.randn(200, 3, dtype=torch.float64), particles, particles.neighbors())
    assert force.sum(0).abs().max() > 1e-4 * force.abs().sum()


def test_odd_kernels_answer_a_point_mirrored_cloud_with_the_opposite_sign():
    torch.manual_seed(0)
    f = torch.randn(50, 2, dtype=torch.float64)
    particles = cloud(50)
    mirrored = particles.replace(positions=-particles.positions)
    for parity, sign in (("odd", -1), ("even", 1)):
        layer = SymmetricBasisConv(2, 2, fourier_kernel(2, 2, parity=parity)).double()
        one, two = layer(f, particles, particles.neighbors()), layer(f, mirrored, mirrored.neighbors())
        torch.testing.assert_close(two, sign * one, rtol=1e-11, atol=1e-13)


def test_permutations_and_translations():
    torch.manual_seed(0)
    layer, particles, f = SymmetricBasisConv(3, 2, fourier_kernel(2)).double(), cloud(60), torch.randn(60, 3, dtype=torch.float64)
    y = layer(f, particles, particles.neighbors())
    p = torch.randperm(60)
    shuffled = ParticleSet(particles.positions[p], particles.masses[p], 0.3, TORUS, None, particles.densities[p])
    torch.testing.assert_close(layer(f[p], shuffled, shuffled.neighbors()), y[p], rtol=1e-11, atol=1e-13)
    moved = particles.replace(positions=particles.positions + torch.tensor([0.7, -3.1], dtype=torch.float64))
    torch.testing.assert_close(layer(f, moved, moved.neighbors()), y, rtol=1e-9, atol=1e-11)


def trigonometric(samples, positions, lengths):
    """The trigonometric interpolant of samples (C, n, n), n odd, at positions (N, 2): (N, C)."""
    n = samples.shape[-1]
    c = torch.fft.fft2(samples, norm="forward")
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    waves = [torch.exp(2j * torch.pi * positions[:, a : a + 1] / lengths[a] * k) for a in (0, 1)]
    return torch.einsum("cab,na,nb->nc", c, *waves).real


@pytest.mark.parametrize("jitter, least", [(0.0, 1.85), (0.3, 1.0)], ids=["lattice", "jittered"])
@pytest.mark.parametrize("kernel, last", [(fourier_kernel(2), (1e-5, 2e-2)), (cconv_kernel(2), (3e-3, 2e-2))], ids=["Fourier", "hats"])
def test_particles_refined_from_1k_to_64k(kernel, jitter, least, last):
    """Against the exact integral on a grid, at 150 fixed places that are no particles; weights are volumes."""
    torch.manual_seed(0)
    lengths = TORUS.extent
    exact = LocalIntegralConv(2, 2, kernel, radius=0.12, bias=False).double()
    layer = SymmetricBasisConv(2, 2, kernel).double()
    layer.load_state_dict(exact.state_dict())
    coarse = band_limited((15, 15), channels=2)
    places = ParticleSet(torch.rand(150, 2, dtype=torch.float64) * torch.tensor(lengths), 1.0, 0.12, TORUS)
    wanted = trigonometric(exact(coarse, TORUS.grid(15, 15)).detach()[0], places.positions, lengths)
    sizes, errors = (32, 45, 64, 90, 128, 181, 256), []
    for n in sizes:
        lattice = ParticleSet.from_grid(TORUS.grid(n, n), 0.12, dtype=torch.float64)
        noise = jitter * (2 * torch.rand_like(lattice.positions) - 1) * torch.tensor(lengths) / n
        senders = lattice.replace(positions=lattice.positions + noise)
        f = trigonometric(coarse[0], senders.positions, lengths)
        pairs = radius_search(places.positions, senders.positions, support=0.12, domain=TORUS)
        y = layer(f, places, pairs, senders=senders).detach()
        errors.append(((y - wanted).norm() / wanted.norm()).item())
    h, e = -torch.tensor(sizes, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    h = h - h.mean()
    slope = (h @ e / (h @ h)).item()
    assert slope >= least and errors[-1] < last[jitter > 0], (slope, errors)


@pytest.mark.parametrize("n_dim, n, support", [(1, 320, 16.5 / 320), (2, 40, 3.24 / 40), (3, 12, 1.97 / 12)])
@pytest.mark.parametrize("harmonics", [1, 2, 3])
def test_first_weights_keep_the_size_of_features(n_dim, n, support, harmonics):
    """White features, about 32 pairs in a ball: sums of the size of the features, in any rank and for any number of terms."""
    torch.manual_seed(0)
    particles = ParticleSet.from_grid(Domain.periodic(*[1.0] * n_dim).grid(*[n] * n_dim), support)
    particles = particles.replace(positions=particles.positions + 0.2 / n * (2 * torch.rand_like(particles.positions) - 1))
    layer = SymmetricBasisConv(16, 16, fourier_kernel(n_dim, harmonics), quadrature="sum")
    with torch.no_grad():
        y = layer(torch.randn(len(particles), 16), particles, particles.neighbors())
    assert 0.8 < y.std() < 1.25


def test_temporaries_are_bounded_by_the_chunk():
    """Peak of live memory in both passes: inputs and their gradients, and what the module's docstring counts for a chunk."""
    from torch.profiler import ProfilerActivity, profile

    channels, kernel, domain = 16, fourier_kernel(2), Domain.periodic(1.0, 1.0)
    layer = SymmetricBasisConv(channels, channels, kernel)

    def peak(n, chunk):
        particles = ParticleSet.from_grid(domain.grid(n, n), 3.24 / n)
        f = torch.randn(n * n, channels, requires_grad=True)
        graph = ParticleGraph.of(particles, particles.neighbors(), chunk=chunk)
        layer.weight.grad = None
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            layer.convolve(f, graph).sum().backward()
        live = most = 0
        for _, size in sorted((e.start_ns(), e.nbytes()) for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"):
            live += size
            most = max(most, live)
        return most, 4 * f.numel(), graph

    for chunk in (2**11, 2**13):
        temporary = chunk * (2 * kernel.size + 3 * channels) + chunk // 37 * kernel.size * 3 * channels
        for n in (40, 80):
            most, features, graph = peak(n, chunk)
            assert len(graph.plan.chunks) > 4
            assert most < 8 * features + 4 * temporary, (n, chunk)
            assert most < 0.3 * 4 * graph.offsets.shape[1] * kernel.size or n == 40  # the kernel on all pairs would be more
    assert peak(40, 2**15)[0] > 1.5 * peak(40, 2**11)[0]


def test_memory_between_the_passes_is_that_of_the_inputs():
    """Nothing of size pairs x terms is kept, unless asked for, and the same for every chunk."""
    domain = Domain.periodic(1.0, 1.0)
    particles = ParticleSet.from_grid(domain.grid(40, 40), 3.24 / 40)
    layer, f = SymmetricBasisConv(16, 16, fourier_kernel(2)), torch.randn(1600, 16, requires_grad=True)

    def kept(share, chunk=None):
        sizes = {}
        graph = ParticleGraph.of(particles, particles.neighbors(), share=share, chunk=chunk)

        def pack(t):
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = layer.convolve(f, graph)
        del out
        return sum(sizes.values()), graph.offsets.numel() * 4

    lean, offsets = kept(False)
    rich, _ = kept(True)
    assert lean < offsets + 4 * (3 * f.numel() + 3 * layer.weight.numel()) and rich > 25 / 2 * offsets
    assert max(kept(False, 2**k)[0] for k in (10, 12, 16)) < 1.2 * lean  # more slots are empty in longer chunks


def test_half_precision_runs_in_single():
    layer, particles = SymmetricBasisConv(3, 2, fourier_kernel(2), bias=True), cloud(50, dtype=torch.float32)
    f = torch.randn(50, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(f.bfloat16(), particles, particles.neighbors())
    torch.testing.assert_close(y, layer(f.bfloat16().float(), particles, particles.neighbors()), rtol=0, atol=0)


def test_fake_cuda():
    """On a prepared graph nothing asks for a value on the host."""
    with fake_cuda():
        layer = SymmetricBasisConv(3, 2, fourier_kernel(2), conservative=True)
        plan = _Plan(
            *torch.zeros(2, 60, dtype=torch.long), *torch.zeros(2, 20, dtype=torch.long), (_Chunk(0, 10, 4, 0), _Chunk(10, 20, 2, 40)), True
        )
        graph = ParticleGraph(torch.randn(2, 60), plan, torch.ones(20), torch.ones(20), True)
        assert layer.convolve(torch.randn(20, 3), graph).device.type == "cuda"


def test_particles_without_neighbors_and_no_particles_at_all():
    layer = SymmetricBasisConv(2, 3, fourier_kernel(2), bias=True)
    lonely = ParticleSet(torch.tensor([[0.1, 0.1], [0.6, 0.6], [0.65, 0.6]]), 0.1, 0.1, TORUS)
    f = torch.ones(3, 2, requires_grad=True)
    y = layer(f, lonely, lonely.neighbors(include_self=False))
    assert torch.equal(y[0], layer.bias) and (y[1] != layer.bias).all()
    y.sum().backward()
    assert torch.equal(f.grad[0], torch.zeros(2))
    none = ParticleSet(torch.zeros(0, 2), 0.1, 0.1, TORUS)
    assert layer(torch.zeros(0, 2), none, none.neighbors()).shape == (0, 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"message": "mean"}, "message='mean'"),
        ({"quadrature": "exact"}, "quadrature='exact'"),
        ({"conservative": True, "bias": True}, "allows no bias"),
        ({"conservative": True, "kernel": PolarHats()}, "conservative=True with PolarHats"),
        ({"in_channels": 0}, "got 0 input and 2 output channels"),
    ],
)
def test_refuses_bad_options(options, message):
    arguments = {"in_channels": 2, "out_channels": 2, "kernel": fourier_kernel(2)} | options
    with pytest.raises(ValueError, match=message):
        SymmetricBasisConv(**arguments)


def test_refuses_what_does_not_belong_together():
    layer, particles, other = SymmetricBasisConv(2, 2, fourier_kernel(2)).double(), cloud(20), cloud(10, seed=1)
    pairs, f = particles.neighbors(), torch.zeros(20, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"features of shape \(20, 3\); expected \(20, 2\)"):
        layer(torch.zeros(20, 3, dtype=torch.float64), particles, pairs)
    with pytest.raises(ValueError, match=r"features of shape \(19, 2\); expected \(20, 2\)"):
        layer(f[:-1], particles, pairs)
    with pytest.raises(ValueError, match="neighbors of 20 receivers and 20 senders for 10 and 10 particles"):
        layer(f[:10], other, pairs)
    with pytest.raises(ValueError, match="features of dtype torch.float32 on particles of torch.float64"):
        layer(f.float(), particles, pairs)
    with pytest.raises(ValueError, match="another support or domain"):
        mixed = radius_search(particles.positions, other.positions, support=0.2, domain=TORUS)
        layer(f[:10], particles, mixed, senders=cloud(10, support=0.2))
    with pytest.raises(ValueError, match="2-D for a 3-D kernel"):
        SymmetricBasisConv(2, 2, fourier_kernel(3)).double()(f, particles, pairs)
    with pytest.raises(ValueError, match=r"periods \(0.0, 0.0\) for particles whose domain has \(1.0, 1.5\)"):
        layer(f, particles, radius_search(particles.positions, support=0.3))
    with pytest.raises(ValueError, match="chunk=0; give at least one slot"):
        ParticleGraph.of(particles, pairs, chunk=0)
    pairs = radius_search(particles.positions, other.positions, support=0.3, domain=TORUS)
    with pytest.raises(ValueError, match=r"receiver_features of shape None; expected \(20, 2\)"):
        SymmetricBasisConv(2, 2, fourier_kernel(2), message="sum").double()(f[:10], particles, pairs, senders=other)
    with pytest.raises(ValueError, match="two sets with conservative=True"):
        SymmetricBasisConv(2, 2, fourier_kernel(2), conservative=True).double()(f[:10], particles, pairs, senders=other)


def test_conservative_exchange_refuses_what_would_not_conserve():
    """Pairs counted once, pairs by unequal supports, other features at the receivers."""
    layer, particles = SymmetricBasisConv(2, 2, fourier_kernel(2), conservative=True).double(), cloud(60)
    f = torch.randn(60, 2, dtype=torch.float64)
    supports = torch.linspace(0.1, 0.3, 60, dtype=torch.float64)
    for pairs in (particles.neighbors(half=True), radius_search(particles.positions, support=supports, domain=TORUS)):
        with pytest.raises(ValueError, match="neighbors that are not mutual"):
            layer(f, particles, pairs)
    with pytest.raises(ValueError, match="got receiver_features with conservative=True"):
        layer(f, particles, particles.neighbors(), receiver_features=f)
    mutual = radius_search(particles.positions, support=supports, domain=TORUS, mode="symmetric")
    assert layer(f, particles, mutual).sum(0).abs().max() < 1e-14
