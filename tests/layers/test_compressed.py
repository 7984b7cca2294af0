"""CompressedConv: one convolution in five formats, its start, the wave's own stencil, grids, memory and refusals."""

import itertools
import math

import pytest
import torch
from helpers import assert_order, fake_cuda
from torch import nn
from torch.nn import functional as F

from opkernels.domains import Axis, Domain
from opkernels.layers import CompressedConv
from opkernels.sphere import Sphere

FORMATS = ["cp", "sequential", "tt", "pairwise"]
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SIZES, TAPS, STRIDES = (7, 10, 9), (5, 3, 3), [(1, 1, 1), (2, 1, 1), (1, 2, 3)]
SPACE = Domain.box(1.0, 1.0, 1.0)
MIXED = Domain((Axis(0, 1, periodic=True, points="node"), Axis(0, 1)))


def box(d, periodic):
    return (Domain.periodic if periodic else Domain.box)(*[1.0] * d)


def padded(x, sizes, mode):
    return F.pad(x, [k // 2 for k in reversed(sizes) for _ in (0, 1)], **({"mode": mode} if mode != "zeros" else {}))


def error(y, truth):
    return ((y - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("d, mode", [(1, "circular"), (2, "zeros"), (3, "circular"), (2, "reflect"), (3, "replicate"), (3, "zeros")])
def test_is_the_convolution_by_its_dense_kernel_at_borders_too(d, mode, dtype, bound):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *SIZES[:d], dtype=dtype)
    formats = [f for f in FORMATS if d > 1 or f in ("cp", "tt")]  # on one axis the others are dense
    for factorization, implementation, stride in itertools.product(formats, ("auto", "factorized", "reconstructed"), STRIDES):
        layer = CompressedConv(
            box(d, mode == "circular"),
            3,
            6,
            kernel_size=TAPS[:d],
            rank=None if factorization == "pairwise" else 3,
            stride=stride[:d],
            factorization=factorization,
            implementation=implementation,
            padding_mode="zeros" if mode == "circular" else mode,
        ).to(dtype)
        truth = CONV[d](padded(x, TAPS[:d], mode), layer.to_dense(), layer.bias, layer.stride)
        assert truth.std() > 0.1 and layer.factorization == factorization
        assert error(layer(x), truth) < bound, (factorization, implementation, stride)
        with torch.no_grad():  # the ranks are streamed
            assert error(layer(x), truth) < bound


def test_wraps_around_on_periodic_axes_only_and_on_the_grid_it_is_told():
    layer, x = CompressedConv(MIXED, 2, 3, rank=4).double(), torch.randn(1, 2, 8, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(x.roll(3, 2)), layer(x).roll(3, 2))
    assert error(layer(x.roll(3, 3)), layer(x).roll(3, 3)) > 0.1
    on_torus = layer(x, Domain.periodic(1.0, 1.0).grid(8, 9))
    truth = F.conv2d(padded(x, (3, 3), "circular"), layer.to_dense(), layer.bias)
    torch.testing.assert_close(on_torus, truth)


def test_ranks_in_blocks_and_recomputed_give_the_same_gradients():
    torch.manual_seed(0)
    plain = CompressedConv(SPACE, 4, 5, rank=40, implementation="factorized").double()  # more than two blocks
    again = CompressedConv(SPACE, 4, 5, rank=40, implementation="factorized", recompute=True).double()
    again.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 5, 6, 7, dtype=torch.float64)
    gradients = []
    for layer in (plain, again):
        u = x.clone().requires_grad_()
        layer(u).square().sum().backward()
        gradients.append([u.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*gradients, strict=True):
        assert error(b, a) < 1e-10 and a.abs().max() > 0
    truth = F.conv3d(x, plain.to_dense(), plain.bias, padding=1)
    with torch.no_grad():  # streamed
        assert error(plain(x), truth) < 1e-13 and error(again(x), truth) < 1e-13


def kept(layer, x):
    """Return the samples that a layer keeps for its backward pass, as multiples of those of the input."""
    sizes = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.update({t.data_ptr(): t.untyped_storage().nbytes()}), lambda _: None):
        layer(x)
    own = {p.data_ptr() for p in layer.parameters()}
    return sum(size for pointer, size in sizes.items() if pointer not in own) / x.untyped_storage().nbytes()


@pytest.mark.parametrize("factorization", ["cp", "tt"])
def test_recomputed_it_keeps_no_more_than_a_dense_convolution(factorization):
    """The steps of a chain keep four tensors and more."""
    x = torch.randn(1, 32, 12, 12, 12, requires_grad=True)
    options = {"factorization": factorization, "rank": 32, "implementation": "factorized", "bias": False}
    plain, again = (kept(CompressedConv(SPACE, 32, 32, recompute=recompute, **options), x) for recompute in (False, True))
    assert plain > 3.9 and 0.9 < again < 1.1, (plain, again)


@pytest.mark.parametrize("d, factorization", [(1, "cp"), (2, "tt"), (2, "pairwise"), (3, "cp"), (3, "sequential")])
def test_gradients_are_right(d, factorization):
    torch.manual_seed(0)
    layer = CompressedConv(box(d, True), 3, 3, factorization=factorization, rank=None if factorization == "pairwise" else 2).double()
    names = list(dict(layer.named_parameters()))

    def run(u, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (u,))

    x = torch.randn(1, 3, *(4, 3, 3)[:d], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


@pytest.mark.parametrize("taps", [(5,), (3, 5), (3, 5, 7)], ids=str)
def test_numbers_of_weights_follow_the_formulas(taps):
    c_in, c_out, r, d = 6, 9, 4, len(taps)
    first, *inner, last = (1, *taps) if d == 1 else taps
    counts = {
        "dense": c_in * c_out * math.prod(taps),
        "pairwise": c_in * c_out * sum(taps),
        "cp": r * (c_in + c_out + sum(taps)),
        "tt": r * (c_in + c_out) + sum(taps) * r * r,
        "sequential": first * c_in * r + sum(inner) * r * r + last * r * c_out,
    }
    for factorization, count in counts.items():
        if d == 1 and factorization in ("pairwise", "sequential"):
            continue
        rank = r if factorization in ("cp", "tt", "sequential") else None
        layer = CompressedConv(box(d, False), c_in, c_out, kernel_size=taps, rank=rank, factorization=factorization, bias=False)
        assert sum(p.numel() for p in layer.parameters()) == count, factorization


@pytest.mark.parametrize("factorization", ["cp", "sequential", "tt"])
def test_a_share_of_the_weights_is_met_and_a_layer_is_never_larger_than_dense(factorization):
    layer = CompressedConv(SPACE, 48, 32, rank=1 / 8, factorization=factorization, bias=False)
    assert sum(p.numel() for p in layer.parameters()) == pytest.approx(27 * 48 * 32 / 8, rel=0.03)
    for c_in, c_out, k, d in itertools.product((1, 3, 32), (1, 16), (3, 5), (1, 2, 3)):
        small = CompressedConv(box(d, True), c_in, c_out, kernel_size=k, factorization=factorization, bias=False)
        assert sum(p.numel() for p in small.parameters()) <= c_in * c_out * k**d
    assert "dense (cp would have no fewer weights)" in repr(CompressedConv(SPACE, 1, 32))


@pytest.mark.parametrize(
    "d, factorization, rank",
    [
        *itertools.product((2, 3), ("cp", "sequential", "tt"), (64,)),
        *itertools.product((1, 2, 3), ("cp", "tt"), (16,)),
        *itertools.product((2, 3), ("pairwise",), (None,)),
    ],
)
def test_white_noise_leaves_with_the_variance_that_a_dense_convolution_gives_it(d, factorization, rank):
    """Of every single draw; `to_dense` has the mean square of nn.ConvNd's kernel exactly."""
    torch.manual_seed(0)
    x = torch.randn(4, 64, *{1: (1000,), 2: (40, 40), 3: (10, 10, 10)}[d])
    for _ in range(3):
        layer = CompressedConv(box(d, True), 64, 64, factorization=factorization, rank=rank, bias=False)
        assert layer.to_dense().square().mean().item() * 64 * 3**d == pytest.approx(1 / 3, rel=1e-5)
        with torch.no_grad():
            assert 0.9 < layer(x).var() * 3 < 1.1
    dense = CompressedConv(box(d, True), 64, 64, factorization="dense", bias=False)
    assert dense(x).var().item() * 3 == pytest.approx(1.0, rel=0.1)


def test_can_be_built_without_memory_and_drawn_later():
    with torch.device("meta"):
        layer = CompressedConv(SPACE, 8, 8, rank=8)
    layer.to_empty(device="cpu").reset_parameters()
    assert layer.to_dense().square().mean().item() * 8 * 27 == pytest.approx(1 / 3, rel=1e-5)


def test_cp_filters_have_equal_norms_at_the_start():
    """Entries drawn one by one would let terms differ by powers."""
    layer = CompressedConv(SPACE, 32, 32, rank=16)
    for factor in layer.factors[1:-1]:
        norms = factor.flatten(1).norm(dim=1)
        assert norms.std() < 1e-5 * norms.mean()


def stencil(q=0.25):
    """Return the leapfrog step 2u - u' + q Laplace(u) as a kernel (1, 1, time, x, y) whose last time is empty, and its vectors."""
    old, new = torch.eye(3, dtype=torch.float64)[:2]
    d, lap = torch.tensor([0, 1, 0], dtype=torch.float64), torch.tensor([1, -2, 1], dtype=torch.float64)
    outer = lambda a, b, c: torch.einsum("t,x,y->txy", a, b, c)  # noqa: E731
    kernel = outer(2 * new - old, d, d) + q * outer(new, lap, d) + q * outer(new, d, lap)
    return kernel[None, None], (old, new, d, lap)


def assigned(layer, values):
    with torch.no_grad():
        for factor, value in zip(layer.factors, values, strict=True):
            factor.copy_(value.reshape(factor.shape))
    return layer


def leapfrog_layers(q=0.25):
    """Return a CP layer of rank 3 and a tensor train of ranks 2 that are the stencil."""
    _, (old, new, d, lap) = stencil(q)
    time = Domain((Axis(0, 1), Axis(0, 1, periodic=True, points="node"), Axis(0, 1, periodic=True, points="node")))
    cp = CompressedConv(time, 1, 1, rank=3, bias=False).double()
    one = torch.ones(3, dtype=torch.float64)
    filters = [torch.stack([2 * new - old, new, new]), torch.stack([d, lap + d, lap - d]), torch.stack([d, lap + d, lap - d])]
    assigned(cp, [one, *filters, torch.tensor([1, q / 2, -q / 2], dtype=torch.float64)])
    tt = CompressedConv(time, 1, 1, rank=(1, 2, 2, 1), factorization="tt", bias=False).double()
    second = torch.stack([torch.stack([d, 0 * d]), torch.stack([lap, d])])
    one = torch.ones(1, dtype=torch.float64)
    assigned(tt, [one, torch.stack([2 * new - old, q * new]), second.transpose(0, 1), torch.stack([d, lap]), one])
    return cp, tt


def test_the_leapfrog_step_has_cp_rank_three_and_train_ranks_two():
    kernel, _ = stencil()
    x = torch.linspace(0, 2 * math.pi, 17, dtype=torch.float64)[:16]
    start = torch.exp(-4 * ((x[:, None] - 2) ** 2 + (x - 3) ** 2)) + 0.2 * torch.sin(x)
    for layer in leapfrog_layers():
        torch.testing.assert_close(layer.to_dense(), kernel, rtol=0, atol=1e-15)
        old = new = written = before = start
        with torch.no_grad():
            for _ in range(100):
                old, new = new, layer(torch.stack([old, new, torch.zeros_like(new)])[None, None])[0, 0, 1]
                lap = sum(written.roll(s, a) for s in (1, -1) for a in (0, 1)) - 4 * written
                before, written = written, 2 * written - before + 0.25 * lap
        assert (new - written).abs().max() < 1e-10 and written.abs().max() > 0.1


def test_the_leapfrog_step_is_found_from_its_kernel_at_rank_three_and_not_below():
    kernel, _ = stencil()
    conv = nn.Conv3d(1, 1, 3, padding=1, bias=False).double()
    conv.weight.data = kernel
    distance = lambda **options: error(CompressedConv.from_dense(conv, SPACE, **options).to_dense().detach(), kernel)  # noqa: E731
    assert distance(rank=3) < 1e-10 and distance(rank=(1, 2, 2, 1), factorization="tt") < 1e-12
    assert distance(rank=2) > 1e-3
    pairwise = CompressedConv.from_dense(conv, SPACE, factorization="pairwise").to_dense()
    assert ((pairwise - kernel).norm() / kernel.norm()).item() == pytest.approx(0.23, abs=0.01)


@pytest.mark.parametrize("factorization, rank", [("cp", 4), ("tt", (3, 4, 4)), ("sequential", 5), ("pairwise", None)])
def test_from_dense_finds_kernels_of_its_own_form_again(factorization, rank):
    torch.manual_seed(0)
    domain = Domain.box(1.0, 1.0)
    layer = CompressedConv(domain, 3, 4, rank=rank, factorization=factorization, kernel_size=(3, 5), stride=(1, 2))
    conv = nn.Conv2d(3, 4, (3, 5), padding=(1, 2), stride=(1, 2))  # the second axis is the first step
    conv.weight.data, conv.bias.data = layer.to_dense().detach(), layer.bias.detach()
    again = CompressedConv.from_dense(conv, domain, rank=rank, factorization=factorization)
    assert error(again.to_dense(), conv.weight) < 1e-5
    x = torch.randn(1, 3, 6, 7)
    torch.testing.assert_close(again(x), conv(x), rtol=0, atol=1e-5)


def test_a_dense_layer_is_a_plain_convolution_and_reads_its_weights():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, padding=1, stride=2)
    torch.manual_seed(0)
    layer = CompressedConv(Domain.box(1.0, 1.0), 3, 4, factorization="dense", stride=2)
    torch.testing.assert_close(layer.weight, conv.weight, rtol=0, atol=0)  # drawn alike
    layer.load_state_dict(conv.state_dict())
    x = torch.randn(1, 3, 6, 7)
    torch.testing.assert_close(layer(x), conv(x))


def test_balance_leaves_the_kernel_and_evens_the_factors():
    layer = CompressedConv(SPACE, 5, 6, rank=4).double()
    with torch.no_grad():
        layer.factors[1][2] *= 100
        layer.factors[2][2] /= 30
    kernel = layer.to_dense()
    layer.balance()
    torch.testing.assert_close(layer.to_dense(), kernel)
    norms = [*(f.flatten(1).norm(dim=1) for f in layer.factors[:-1]), layer.factors[-1].flatten(1).norm(dim=0)]
    assert torch.stack(norms).std(0).max() < 1e-12
    with torch.no_grad():  # half of a term that vanishes can still learn
        layer.factors[0][1] = 0
    others = [f.detach().clone() for f in layer.factors]
    layer.balance()
    torch.testing.assert_close(layer.factors[1][1], others[1][1], rtol=0, atol=0)
    torch.testing.assert_close(layer.factors[-1][:, 1], others[-1][:, 1], rtol=0, atol=0)
    with pytest.raises(ValueError, match="balance got a tt layer"):
        CompressedConv(SPACE, 5, 6, factorization="tt").balance()


@pytest.mark.parametrize("factorization", ["cp", "tt", "pairwise", "dense"])
def test_filters_with_a_spacing_are_the_same_operator_on_every_grid(factorization):
    """Their moments are the coefficients of derivatives, and the error of a three-point derivative is of second order."""
    torch.manual_seed(0)
    domain = Domain.periodic(1.0, 2.0)
    rank = 2 if factorization in ("cp", "tt") else None
    layer = CompressedConv(domain, 2, 3, rank=rank, factorization=factorization, spacing=(1 / 32, 1 / 12), bias=False).double()
    taps = CompressedConv(domain, 2, 3, rank=rank, factorization=factorization, bias=False).double()
    taps.load_state_dict(layer.state_dict())

    k, m = 2 * math.pi, 3 * math.pi
    moments = torch.tensor([[1, 1, 1], [-1, 0, 1], [1, 0, 1]], dtype=torch.float64)
    symbols = [torch.tensor([1, 1j * s, -s * s / 2], dtype=torch.complex128) for s in (k / 32, m / 12)]
    limit = torch.einsum("oiab,pa,qb,p,q->oi", layer.to_dense() + 0j, moments + 0j, moments + 0j, *symbols)

    steps, errors = [], []
    for n in (32, 64, 128, 256, 512):
        x, y = domain.grid(n, 3 * n // 4).coordinates(dtype=torch.float64)
        wave = torch.polar(torch.ones_like(x), k * x + m * y)
        truth = (limit.sum(1)[:, None, None] * wave).real
        out = layer(wave.real.expand(1, 2, -1, -1))[0]
        steps.append(1 / n)
        errors.append((out - truth).norm().item() / truth.norm().item())
    assert_order(steps, errors, 2)
    x = torch.randn(1, 2, 32, 24, dtype=torch.float64)
    torch.testing.assert_close(taps(x), layer(x))  # the grid of that spacing


@pytest.mark.parametrize("factorization", FORMATS)
def test_runs_on_fake_cuda(factorization):
    with fake_cuda():
        layer = CompressedConv(Domain.periodic(1.0, 1.0), 8, 8, factorization=factorization, spacing=(0.1, 0.1))
        assert layer.factorization == factorization
        assert layer(torch.randn(2, 8, 12, 9)).device.type == "cuda"


@pytest.mark.parametrize("factorization", FORMATS)
def test_trains_under_bfloat16_autocast_with_kernels_multiplied_in_full_precision(factorization):
    torch.manual_seed(0)
    layer = CompressedConv(MIXED, 8, 8, factorization=factorization, recompute=True)
    x = torch.randn(4, 8, 8, 9)
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
            assert y.dtype == torch.bfloat16
            assert layer.to_dense().dtype == torch.float32
        loss = (y.float() - x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half = layer(x)
    assert (half - layer(x)).norm() / layer(x).norm() < 0.02


def test_compiles_to_one_graph_for_several_sizes():
    torch.manual_seed(0)
    layer = CompressedConv(MIXED, 4, 6, rank=5)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for shape in ((8, 9), (12, 7)):
        x = torch.randn(2, 4, *shape)
        torch.testing.assert_close(compiled(x), layer(x))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), layer(x))


def test_filters_of_one_tap_and_single_channels():
    cases = itertools.product([(1, 1, 1), (4, 1, 1), (1, 4, 1), (4, 4, 3)], [(1, 5), (5, 1)], [(1, 1), (2, 1)], ("cp", "tt", "sequential"))
    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    for (c_in, c_out, rank), taps, stride, factorization in cases:
        options = {"kernel_size": taps, "stride": stride, "rank": rank, "factorization": factorization}
        layer = CompressedConv(Domain.periodic(1.0, 1.0), c_in, c_out, **options).double()
        truth = F.conv2d(padded(x[:, :c_in], taps, "circular"), layer.to_dense(), layer.bias, stride)
        for implementation in ("auto", "factorized", "reconstructed"):
            layer.runs = layer._plan(implementation)
            assert error(layer(x[:, :c_in]), truth) < 1e-13, (options, implementation)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CompressedConv(SPACE, 8, 8, rank=0), "rank=0 .* every rank is at least 1 and at most"),
        (lambda: CompressedConv(SPACE, 8, 8, rank=0.0), "rank=0.0; give a share"),
        (lambda: CompressedConv(SPACE, 8, 8, rank=1.5), "rank=1.5; give a share"),
        (lambda: CompressedConv(SPACE, 8, 8, rank=217), "rank=217 .* at most \\(216,\\)"),
        (lambda: CompressedConv(SPACE, 8, 8, rank=(3, 3), factorization="tt"), "4 whole ranks"),
        (lambda: CompressedConv(SPACE, 8, 8, rank=4, factorization="pairwise"), "pairwise kernel; it has none"),
        (lambda: CompressedConv(SPACE, 8, 8, factorization="tucker"), "factorization='tucker'; choose one of dense, pairwise"),
        (lambda: CompressedConv(SPACE, 8, 8, kernel_size=4), "kernel_size=\\(4, 4, 4\\); give odd sizes"),
        (lambda: CompressedConv(SPACE, 8, 8, kernel_size=(3, 3)), "got \\(3, 3\\) for 3 axes"),
        (lambda: CompressedConv(SPACE, 8, 8, kernel_size=3.0), "got 3.0 for 3 axes"),
        (lambda: CompressedConv(SPACE, 0, 8), "in_channels=0"),
        (lambda: CompressedConv(SPACE, 8, 2.5), "out_channels=2.5.*whole numbers"),
        (lambda: CompressedConv(Sphere(), 8, 8), "Sphere.*give a Domain"),
        (lambda: CompressedConv(SPACE, 8, 8, spacing=0.1), "spacing=0.1 .*one positive length"),
        (lambda: CompressedConv(SPACE, 8, 8, spacing=(0.1, math.nan, 0.1)), "one positive length"),
        (lambda: CompressedConv(SPACE, 8, 8, stride=0), "stride=\\(0, 0, 0\\)"),
        (lambda: CompressedConv(SPACE, 8, 8, padding_mode="circular"), "padding_mode='circular'; choose one of zeros"),
        (lambda: CompressedConv(SPACE, 8, 8, implementation="fast"), "implementation='fast'"),
        (lambda: CompressedConv(SPACE, 8, 8, kernel_size=5, spacing=(0.1, 0.1, 0.1)), "three taps: more of them amplify noise"),
        (lambda: CompressedConv(Domain.periodic(1, 1, 1, 1), 8, 8), "a Domain of one to three axes"),
        (lambda: CompressedConv(SPACE, 2, 2)(torch.zeros(1, 3, 4, 4, 4)), "expected \\(batch, 2, x, y, z\\)"),
        (lambda: CompressedConv(SPACE, 2, 2)(torch.zeros(1, 2, 4, 4)), "expected \\(batch, 2, x, y, z\\)"),
        (lambda: CompressedConv(SPACE, 2, 2)(torch.zeros(1, 2, 4, 4, 4), SPACE.grid(4, 4, 5)), "give the grid of x"),
        (
            lambda: CompressedConv(SPACE, 2, 2, padding_mode="reflect", kernel_size=5)(torch.zeros(1, 2, 4, 4, 2)),
            "2 samples on axis z, .* needs 3",
        ),
        (lambda: CompressedConv.from_dense(nn.Linear(2, 2), SPACE), "from_dense got Linear"),
        (lambda: CompressedConv.from_dense(nn.Conv3d(2, 2, 3), SPACE), "padded by half its kernel"),
        (lambda: CompressedConv.from_dense(nn.Conv3d(2, 2, 3, padding=1, groups=2), SPACE), "neither grouped nor dilated"),
        (lambda: CompressedConv.from_dense(nn.Conv2d(2, 2, 3, padding=1), Domain.periodic(1.0, 1.0)), "goes with periodic axes"),
    ],
)
def test_refuses_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
