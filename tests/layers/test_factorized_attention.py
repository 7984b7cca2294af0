"""FactorizedAttention: the published formula, an independent one by integrals, fast paths, orders, gradients, refusals."""

import math

import pytest
import torch
from helpers import fake_cuda
from torch.nn import functional as F

import opkernels as ok
from opkernels.domains import Axis, Domain
from opkernels.evaluation.probes import random_function
from opkernels.layers.factorized_attention import FactorizedAttention, apply_chained, axis_means, contract_first
from opkernels.layers.rotary import harmonic_angles

LINE, TORUS, SPACE = Domain.periodic(3.0), Domain.periodic(2 * math.pi, 3.0), Domain.periodic(1.0, 2.0, 1.5)
BOX, CHANNEL = Domain.box(1.0, 2.0, points="endpoint"), Domain((Axis(0, 1, periodic=True, points="node"), Axis(0, 2, points="gauss")))


def layer(ndim=2, channels=12, **options):
    torch.manual_seed(0)
    made = FactorizedAttention(channels, ndim, **{"n_heads": 3, "bandwidth": 3, **options}).double()
    with torch.no_grad():
        for p in made.parameters():  # of trained size, so that no part hides behind a small factor
            p.copy_(torch.randn_like(p) / p.shape[-1] ** 0.5 if p.ndim == 2 else p + 0.3 * torch.randn_like(p))
    return made


def field(grid, channels=12, batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, channels, *grid.shape, dtype=torch.float64)


def turned(x, t):
    """The half-split rotation by complex numbers."""
    a, b = x.chunk(2, dim=-1)
    z = torch.complex(a, b) * torch.exp(1j * t)
    return torch.cat([z.real, z.imag], dim=-1)


def published(state, x, coordinates, n_heads, factor=1.0):
    """The published block from its description, with parameters by their published names, x (B, C, *S)."""
    d, C = x.ndim - 2, x.shape[1]
    z = F.layer_norm(x.movedim(1, -1), (C,), state["in_norm.weight"], state["in_norm.bias"])
    y = (z @ state["to_v.weight"].T).unflatten(-1, (n_heads, -1)).movedim(-2, 1)
    for a, name in enumerate("xyz"[:d]):
        p = f"to_{name}.{min(a, 1)}."
        on_grid = z @ state["to_in.weight"].T @ state[p + "to_in.weight"].T
        g = on_grid.mean([1 + b for b in range(d) if b != a]) if d > 1 else on_grid
        g = F.layer_norm(g, (C,), state[p + "out_ffn.norm.weight"], state[p + "out_ffn.norm.bias"])
        u, w = (g @ state[p + "out_ffn.fn.net.0.weight"].T + state[p + "out_ffn.fn.net.0.bias"]).chunk(2, -1)
        h = (F.gelu(u) * w) @ state[p + "out_ffn.fn.net.3.weight"].T + state[p + "out_ffn.fn.net.3.bias"]
        kernel = f"low_rank_kernel_{name}."
        q, k = (torch.stack((h @ state[kernel + m].T).chunk(n_heads, -1), 1) for m in ("to_q.weight", "to_k.weight"))
        t = coordinates[a][:, None] * 64 * state[kernel + "pos_emb.inv_freq"]
        A = factor * turned(q, t) @ turned(k, t).transpose(-1, -2)
        letters = "rst"[:d]
        y = torch.einsum(f"bhn{letters[a]},bh{letters}c->bh{letters.replace(letters[a], 'n')}c", A, y)
    over = tuple(range(2, y.ndim))
    y = (y - y.mean(over, keepdim=True)) / (y.var(over, keepdim=True) + 1e-8).sqrt()
    y = torch.cat(y.unbind(1), -1) @ state["to_out.1.weight"].T
    return (F.gelu(y) @ state["to_out.3.weight"].T).movedim(-1, 1)


@pytest.mark.parametrize("shape, options", [((7, 10), {}), ((5, 4, 6), {"kernel_multiplier": 3}), ((9,), {"kernel_multiplier": 6}),
                                            ((40, 6), {"head_dim": 6})])  # fmt: skip
def test_legacy_is_the_published_block_outputs_and_gradients(shape, options):
    grid = Domain.periodic(*[2 * math.pi, 3.0, 1.0][: len(shape)]).grid(*shape)
    made = layer(len(shape), legacy=True, **options)
    x = field(grid).requires_grad_()
    state = dict(made.state_dict(keep_vars=True))
    state = {name: value.double() for name, value in state.items()}
    coordinates = [axis.coordinates(n, dtype=torch.float64) for axis, n in zip(grid.domain.axes, shape, strict=True)]
    d_k = state["low_rank_kernel_x.to_q.weight"].shape[0] // 3
    expected = published(state, x, coordinates, 3, d_k**-0.5 if options.get("kernel_multiplier", 2) > 4 else 1.0)
    got = made(x, grid)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    inputs = [x, *made.parameters()]
    direction = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_legacy_has_the_published_names_and_shapes():
    made = FactorizedAttention(128, 2, n_heads=8, head_dim=64, legacy=True)
    shapes = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    axis = {"to_in.weight": (128, 128), "out_ffn.norm.weight": (128,), "out_ffn.norm.bias": (128,), "out_ffn.fn.net.0.weight": (256, 128),
            "out_ffn.fn.net.0.bias": (256,), "out_ffn.fn.net.3.weight": (128, 128), "out_ffn.fn.net.3.bias": (128,)}  # fmt: skip
    kernel = {"to_q.weight": (1024, 128), "to_k.weight": (1024, 128), "pos_emb.inv_freq": (64,)}
    expected = {"in_norm.weight": (128,), "in_norm.bias": (128,), "to_v.weight": (512, 128), "to_in.weight": (128, 128)}
    expected |= {f"{p}.{name}": shape for p in ("to_x.0", "to_y.1") for name, shape in axis.items()}
    expected |= {f"low_rank_kernel_{a}.{name}": shape for a in "xy" for name, shape in kernel.items()}
    assert shapes == expected | {"to_out.1.weight": (128, 512), "to_out.3.weight": (128, 128)}


def by_integrals(made, x, grid):
    """The layer written out with explicit kernels A(x, y) and quadrature weights."""
    p, H = dict(made.named_parameters()), made.n_heads
    weights = [a.weights(n, dtype=x.dtype) / a.length for a, n in zip(grid.domain.axes, grid.shape, strict=True)]
    W, d = grid.weights(dtype=x.dtype) / grid.domain.measure, grid.ndim
    u = x.movedim(1, -1)
    rms = ((u.square().mean(-1) * W).flatten(1).sum(1) + 1e-6).sqrt().view(-1, *[1] * (d + 1))
    z = u / rms * p["in_norm.weight"] + p["in_norm.bias"]
    y = torch.stack((z @ p["to_v.weight"].T).chunk(H, -1), 1)
    letters = "rst"[:d]
    for a, name in enumerate("xyz"[:d]):
        others = "".join(m for m in letters if m != letters[a])
        product = ",".join([f"z{letters}c", *others])
        g = torch.einsum(f"{product}->z{letters[a]}c", z, *[w for b, w in enumerate(weights) if b != a])
        q = f"to_{name}.{min(a, 1)}."
        g = g @ p["to_in.weight"].T @ p[q + "to_in.weight"].T
        rms = ((g.square().mean(-1) * weights[a]).sum(1) + 1e-6).sqrt()[:, None, None]
        g = g / rms * p[q + "out_ffn.norm.weight"] + p[q + "out_ffn.norm.bias"]
        left, right = F.linear(g, p[q + "out_ffn.fn.net.0.weight"], p[q + "out_ffn.fn.net.0.bias"]).chunk(2, -1)
        h = F.linear(F.gelu(left) * right, p[q + "out_ffn.fn.net.3.weight"], p[q + "out_ffn.fn.net.3.bias"])
        q, k = (torch.stack((h @ p[f"low_rank_kernel_{name}.{m}.weight"].T).chunk(H, -1), 1) for m in ("to_q", "to_k"))
        q, k = (t / ((t.square().mean(-1) * weights[a]).sum(-1) + 1e-6).sqrt()[..., None, None] for t in (q, k))
        axis, n = grid.domain.axes[a], grid.shape[a]
        halves = 1 if axis.periodic else 2
        harmonic = torch.tensor([j % (made.bandwidth * halves + 1) / halves for j in range(q.shape[-1] // 2)], dtype=x.dtype)
        t = 2 * math.pi * (axis.coordinates(n, dtype=x.dtype) - axis.lower)[:, None] / axis.length * harmonic
        A = turned(q, t) @ turned(k, t).transpose(-1, -2) / q.shape[-1] ** 0.5
        y = torch.einsum(f"bhn{letters[a]},{letters[a]},bh{letters}c->bh{letters.replace(letters[a], 'n')}c", A, weights[a], y)
    over = W[..., None] / y.shape[-1]
    mean = (y * over).flatten(2).sum(2).view(*y.shape[:2], *[1] * (d + 1))
    var = ((y - mean).square() * over).flatten(2).sum(2).view_as(mean)
    y = torch.cat(((y - mean) / (var + 1e-8).sqrt()).unbind(1), -1)
    return (F.gelu(y @ p["to_out.1.weight"].T) @ p["to_out.3.weight"].T).movedim(-1, 1)


@pytest.mark.parametrize("domain, shape", [(LINE, (9,)), (TORUS, (8, 19)), (SPACE, (7, 8, 9)), (BOX, (9, 12)), (CHANNEL, (10, 7))])
@pytest.mark.parametrize("head_dim", [2, 5])
def test_equals_explicit_kernels_and_quadrature(domain, shape, head_dim):
    """The low-rank path where queries are short, the dense one where they are long."""
    made, grid = layer(len(shape), head_dim=head_dim), domain.grid(*shape)
    x = field(grid)
    torch.testing.assert_close(made(x, grid), by_integrals(made, x, grid), rtol=1e-10, atol=1e-10)
    flat = x.to(memory_format=torch.channels_last) if grid.ndim == 2 else x
    torch.testing.assert_close(made(flat, grid), made(x, grid), rtol=1e-12, atol=1e-12)


def test_parallel_axes_add_what_single_kernels_make():
    made, grid = layer(parallel=True), TORUS.grid(8, 9)
    kernels = [tuple(torch.randn(2, 3, n, 4, dtype=torch.float64) for _ in range(2)) for n in grid.shape]
    v = torch.randn(2, 3, 8, 9, 4, dtype=torch.float64)
    A, B = (q @ k.transpose(2, 3) for q, k in kernels)
    expected = (torch.einsum("bhnx,bhxyc->bhcny", A, v) + torch.einsum("bhny,bhxyc->bhcxn", B, v)) / math.sqrt(2)
    torch.testing.assert_close(made.apply_kernels(v, kernels), expected)
    torch.testing.assert_close(apply_chained(v, kernels), torch.einsum("bhmx,bhny,bhxyc->bhcmn", A, B, v))


def test_means_over_all_other_axes():
    z, w = torch.randn(2, 4, 5, 6, 3, dtype=torch.float64), [torch.rand(n, dtype=torch.float64) for n in (4, 5, 6)]
    w = [v / v.sum() for v in w]
    for m, letter in enumerate("ijk"):
        expected = torch.einsum(f"bijkc,i,j,k->b{letter}c", z, *[torch.ones_like(v) if a == m else v for a, v in enumerate(w)])
        torch.testing.assert_close(axis_means(z, w)[m], expected)
        torch.testing.assert_close(axis_means(z, None)[m], z.mean([1 + a for a in range(3) if a != m]))


@pytest.mark.parametrize("domain", [Domain.box(1.0, 2.0), BOX], ids=["cell", "endpoint"])
def test_converges_at_second_order_between_walls(domain):
    report = ok.certify(FactorizedAttention(12, 2, n_heads=3, bandwidth=3), domain, 12, order=2.0)
    assert report.passed, report.table()


def test_weights_of_trained_size_still_mean_one_operator():
    """The published sizes with the gain of queries and keys at one; and all matrices at one, a harder nonlinearity."""
    torch.manual_seed(0)
    made = FactorizedAttention(32, 2, n_heads=4, head_dim=16)
    for linear in (made.low_rank_kernel_x, made.low_rank_kernel_y):
        torch.nn.init.xavier_uniform_(linear.to_q.weight)
        torch.nn.init.xavier_uniform_(linear.to_k.weight)
    for one, tolerance in ((made, 1e-8), (layer(channels=32, n_heads=4, bandwidth=8), 1e-7)):
        report = ok.certify(one, TORUS, 32, tolerance=tolerance, equivariant=True)
        assert report.passed and report.errors[128, 128] < 1e-12, report.table()


def test_legacy_and_normed_queries_converge_as_stated():
    shapes = [(64, 64), (128, 128)]
    old = ok.certify(FactorizedAttention(12, 2, n_heads=3, legacy=True), TORUS, 12, shapes=shapes)
    assert not old.passed and old.errors[64, 64] > 0.1 and old.equivariance > 1e-2
    normed = ok.certify(FactorizedAttention(12, 2, n_heads=3, qk_norm=True), TORUS, 12, shapes=shapes, tolerance=1e-3, equivariant=True)
    assert normed.passed, normed.table()


def test_size_of_a_fresh_output_does_not_depend_on_the_grid():
    made, u = FactorizedAttention(12, 2, n_heads=3).double(), random_function(TORUS, 12)
    rms = [made(u(TORUS.grid(n, n)), TORUS.grid(n, n)).square().mean().sqrt().item() for n in (32, 64, 128)]
    assert rms[0] > 0.05 and max(rms) < 1.01 * min(rms)


def test_positions_are_harmonics_that_close_and_tell_walls_apart():
    t = harmonic_angles(LINE.axes[0], 12, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(t[3], 2 * math.pi * 3 / 12 * torch.tensor([0.0, 1, 2, 3, 0], dtype=torch.float64))
    t = harmonic_angles(BOX.axes[0], 9, 6, 2, dtype=torch.float64)
    torch.testing.assert_close(t[-1] - t[0], math.pi * torch.tensor([0.0, 1, 2, 3, 4, 0], dtype=torch.float64))


@pytest.mark.parametrize("options", [{}, {"head_dim": 2}, {"parallel": True}, {"qk_norm": True}, {"legacy": True}])
def test_gradients_are_those_of_the_function(options):
    made, grid = (
        layer(channels=4, n_heads=2, bandwidth=2, **options),
        Domain((Axis(0, 1, periodic=True, points="node"), Axis(0, 2))).grid(5, 6),
    )
    x = field(grid, channels=4, batch=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: made(x, grid), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: made(x, grid)[:, :1, :2], field(grid, 4, 1).requires_grad_(), fast_mode=True)


def test_checkpointing_changes_no_number():
    plain, grid = layer(), TORUS.grid(8, 7)
    lean = layer(checkpoint=True)
    x = field(grid)
    results = []
    for made in (plain, lean):
        u = x.clone().requires_grad_()
        y = made(u, grid)
        results.append([y, *torch.autograd.grad(y.square().sum(), [u, *made.parameters()])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_contraction_works_under_vmap():
    v, q, k = (torch.randn(3, 1, 2, *size, dtype=torch.float64) for size in ((5, 4), (5, 6), (5, 6)))
    together = torch.vmap(lambda v, q, k: contract_first(v.flatten(0, 1), (q, k)))(v, q, k)
    torch.testing.assert_close(together[1], contract_first(v[1].flatten(0, 1), (q[1], k[1])))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, the first time
def test_forward_mode_derivatives_are_those_of_the_function():
    made, grid = layer(channels=4, n_heads=2, bandwidth=2), TORUS.grid(5, 9)
    x, v = field(grid, 4), torch.randn(2, 4, 5, 9, dtype=torch.float64)
    _, derivative = torch.func.jvp(lambda x: made(x, grid), (x,), (v,))
    torch.testing.assert_close(derivative, (made(x + 1e-6 * v, grid) - made(x - 1e-6 * v, grid)) / 2e-6, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"parallel": True}, {"legacy": True}])
def test_an_empty_batch_and_half_precision_weights(options):
    made = FactorizedAttention(8, 2, bandwidth=3, **options)
    for domain in (TORUS, BOX):
        assert made(torch.zeros(0, 8, 12, 15), domain.grid(12, 15)).shape == (0, 8, 12, 15)
    x, grid = random_function(TORUS, 8)(TORUS.grid(24, 20)).float(), TORUS.grid(24, 20)
    y, half = made(x, grid), made.bfloat16()(x.bfloat16(), grid)
    # The published angles, up to 64 radians per unit, are lost in half precision.
    assert half.dtype == torch.bfloat16 and (made.legacy or (half - y).norm() < 0.05 * y.norm())


@pytest.mark.parametrize("options", [{}, {"parallel": True}, {"legacy": True}])
def test_runs_on_fake_cuda_without_mixing_devices(options):
    with fake_cuda():
        for domain in (TORUS, BOX):
            made = FactorizedAttention(8, 2, bandwidth=3, **options)
            y = made(torch.randn(2, 8, 12, 15), domain.grid(12, 15))
            assert y.shape == (2, 8, 12, 15) and y.device.type == "cuda"


@pytest.mark.parametrize("domain", [TORUS, BOX])
def test_autocast_stays_close(domain):
    made, grid = layer().float(), domain.grid(24, 20)
    x = random_function(domain, 12)(grid).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = made(x, grid)
    half.float().square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    y = made(x, grid)
    assert (half - y).norm() < 0.05 * y.norm()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: FactorizedAttention(30, 2, n_heads=4), "got 30 channels for n_heads=4, which do not split evenly; choose a multiple"),
        (lambda: FactorizedAttention(12, 2, head_dim=3, kernel_multiplier=1), "heads of 3 channels with kernel_multiplier=1: rotary"),
        (lambda: FactorizedAttention(12, 4), "got ndim=4; give 1, 2 or 3 axes"),
        (lambda: FactorizedAttention(12, 2, n_heads=0), "n_heads=0; give a whole number of at least 1"),
        (lambda: FactorizedAttention(12, 2, bandwidth=-1), "bandwidth=-1; give a whole number of at least 0"),
        (
            lambda: FactorizedAttention(12, 2, bandwidth=8)(torch.zeros(1, 12, 32, 16), TORUS.grid(32, 16)),
            "got 16 samples on axis y, which do not resolve the rotary positions of bandwidth=8; build the layer with bandwidth=7",
        ),
        (lambda: FactorizedAttention(12, 2, head_dim=0), "head_dim=0; give a whole number of at least 1"),
        (lambda: FactorizedAttention(12, 2, head_dim=2.5), "head_dim=2.5; give a whole number"),
        (lambda: FactorizedAttention(12, 2)(torch.zeros(1, 12, 32), LINE.grid(32)), "built for 2 axes, but the grid has 1"),
        (
            lambda: FactorizedAttention(12, 2)(torch.zeros(1, 12, 20, 32), TORUS.grid(32, 20)),
            r"got x of shape \(1, 12, 20, 32\); expected \(batch, 12, 32, 20\)",
        ),
    ],
)
def test_refuses_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
