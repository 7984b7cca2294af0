"""T1: the same function on every grid, Parseval, initialization, causal modes, conditioning, refusals."""

import math

import pytest
import torch
from helpers import band_limited, fake_cuda

from opkernels.domains import Axis, Domain
from opkernels.evaluation.probes import random_function
from opkernels.models.t1 import T1

TORUS = Domain.periodic(1.0, 2.0)
CHANNEL = Domain((Axis(-1, 1, periodic=True, points="node"), Axis(0, 3)))


def t1(domain=TORUS, n_modes=(9, 8), **options):
    torch.manual_seed(0)
    return T1(domain, 2, 3, n_modes=n_modes, **{"hidden_channels": 6, "n_layers": 2, **options}).double()


@pytest.mark.parametrize("lengths", [(1.0,), (1.0, 2.0), (1.0, 1.0, 3.0)])
@pytest.mark.parametrize("options", [{}, {"causal": True, "rank": 3, "n_parameters": 1}])
def test_every_size_and_number_of_axes_works_and_every_parameter_is_used(lengths, options):
    d = len(lengths)
    model = t1(Domain.periodic(*lengths), (5, 4, 7)[:d], **options)
    parameters = torch.ones(2, 1, dtype=torch.float64) if options else None
    for sizes in ((16, 16, 16), (9, 14, 5), (2, 3, 7)):
        model.zero_grad()
        x = torch.randn(2, 2, *sizes[:d], dtype=torch.float64, requires_grad=True)
        y = model(x, parameters=parameters)
        assert y.shape == (2, 3, *x.shape[2:])
        y.square().mean().backward()
        norms = torch.stack([p.grad.norm() for p in model.parameters()])
        assert norms.min() > 1e-4 * norms.max()


def test_modes_are_anisotropic():
    model = t1(n_modes=(12, 5))
    assert model.lift_bias.shape == (6, 11, 5)
    assert [m.shape for m in model.blocks[0].mode_mixing.matrices] == [(6, 11, 11), (6, 5, 5)]


@pytest.mark.parametrize(
    "points, basis", [("cell", "cosine"), ("endpoint", "cosine"), ("gauss", "legendre"), ("cell", "legendre"), ("node", "cosine")]
)
def test_one_function_between_walls_on_every_grid(points, basis):
    """Also where the samples are unequal in number, odd, or carry more modes than are kept."""
    domain = Domain.box(1.0, 3.0, points=points)
    model = t1(domain, (7, 6), basis=basis)
    coefficients = torch.randn(1, 2, 7, 6, dtype=torch.float64)
    target = domain.grid(11, 8)
    values = [
        model(model.samples(coefficients, domain.grid(*shape)), output_shape=target.shape) for shape in ((16, 16), (64, 48), (33, 57))
    ]
    for y in values[1:]:
        torch.testing.assert_close(y, values[0], rtol=0, atol=1e-11)


def test_sine_modes_vanish_at_the_walls():
    domain = Domain.box(1.0, 3.0, points="endpoint")
    y = t1(domain, basis="sine")(torch.randn(1, 2, 17, 12, dtype=torch.float64))
    assert y[:, :, 0].abs().max() < 1e-13 < y.abs().max() and y[..., -1].abs().max() < 1e-12


def test_nodes_and_cells_sample_the_same_function():
    """A network that takes nodes for cells is off by half a cell: a percent at 64 samples."""
    cells = Domain((Axis(0, 1, periodic=True, points="cell"), Axis(0, 2, periodic=True, points="node")))
    model, u = t1(n_modes=(13, 13)), random_function(TORUS, 2)
    nodes = model(u(TORUS.grid(64, 64)), output_shape=(32, 32))
    there = model(u(cells.grid(64, 64)), grid=cells.grid(64, 64), output_shape=(16, 32))
    other = T1.samples(model, model.coefficients(there, cells.grid(16, 32)), TORUS.grid(32, 32))
    torch.testing.assert_close(other, nodes, rtol=0, atol=1e-12)
    wrong = model(u(cells.grid(64, 64)), output_shape=(32, 32))
    assert (wrong - nodes).norm() > 1e-2 * nodes.norm()


@pytest.mark.parametrize("domain", [TORUS, CHANNEL, Domain.box(2.0, 0.5, points="gauss")], ids=["torus", "channel", "gauss"])
def test_parseval(domain):
    """The mean square of the coefficients is that of the function, so that losses may be taken on them."""
    kind = "legendre" if domain.axes[0].points == "gauss" else None
    model, grid = t1(domain, (9, 8), basis=kind), domain.grid(24, 30)
    z = torch.randn(1, 2, *model.lift_bias.shape[1:], dtype=torch.float64)
    u = model.samples(z, grid)
    mean_square = (u.square() * grid.weights(dtype=torch.float64)).sum() / domain.measure
    torch.testing.assert_close(z.square().sum() / model.scale**2, mean_square)
    torch.testing.assert_close(model.coefficients(u, grid), z)


def test_kept_energy_bounds_the_error_from_below():
    model, grid = t1(n_modes=(5, 5)), TORUS.grid(32, 40)
    u = band_limited((32, 40), channels=2, batch=3, k_max=4)
    best = model.samples(model.coefficients(u, grid), grid)
    error = (u - best).square().sum() / u.square().sum()
    assert model.kept_energy(u) == pytest.approx(1 - error.item(), abs=1e-12)
    assert 0 < model.kept_energy(u) < 1 and model.kept_energy(best) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("n, n_modes", [((64,), (9,)), ((32, 24), (9, 5)), ((16, 12, 10), (5, 4, 3))])
def test_lift_preserves_variance_for_the_stated_energy(n, n_modes):
    """White noise: of prod(m)/prod(n) of its energy the lift makes as much as the input had; smooth data need no gain."""
    domain = Domain.box(*[1.0] * len(n))
    ratios, smooth = [], []
    for _ in range(20):
        white = T1(domain, 8, 1, n_modes=n_modes, hidden_channels=64, n_layers=1, energy=math.prod(n_modes) / math.prod(n))
        x = torch.randn(4, 8, *n)
        grid = domain.grid(*n)
        ratios.append(white.samples(white.lift(white.coefficients(x, grid)), grid).var() / x.var())
        band = T1(domain, 8, 1, n_modes=n_modes, hidden_channels=64, n_layers=1)
        x = band.samples(torch.randn(4, 8, *n_modes), grid)
        smooth.append(band.samples(band.lift(band.coefficients(x, grid)), grid).square().mean() / x.square().mean())
    assert torch.stack(ratios).mean().item() == pytest.approx(1, abs=0.05)
    assert torch.stack(smooth).mean().item() == pytest.approx(1, abs=0.05)


def test_causal_models_commute_with_dropping_modes():
    model = t1(CHANNEL, (15, 12), causal=True)
    coarse, fine = CHANNEL.grid(9, 6), CHANNEL.grid(40, 30)
    z = torch.randn(1, 2, 15, 12, dtype=torch.float64)
    low = z.clone()
    low[:, :, 9:], low[..., 6:] = 0, 0
    whole = model.coefficients(model(model.samples(z, fine)), fine)[:, :, :9, :6]
    dropped = model.coefficients(model(model.samples(low, fine)), fine)[:, :, :9, :6]
    on_coarse = model.coefficients(model(model.samples(low, coarse)), coarse)[:, :, :9, :6]
    torch.testing.assert_close(dropped, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(on_coarse, whole, rtol=0, atol=1e-12)
    model = t1(CHANNEL, (15, 12))
    assert (model(model.samples(low, fine)) - model(model.samples(z, fine))).abs().max() > 1e-3


def test_parameters_change_the_output_of_their_own_sample():
    model = t1(n_parameters=2)
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64).expand(2, -1, -1, -1)
    one = model(x, parameters=torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64))
    two = model(x, parameters=torch.tensor([[0.0, 1.0], [3.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(one[0], two[0])
    assert (one[1] - two[1]).abs().max() > 1e-3


def test_float32_and_autocast_stay_close_to_float64():
    model, x = t1(hidden_channels=8), band_limited((32, 32), channels=2)
    y = model(x)
    single = model.float()(x.float())
    assert (single - y).norm() < 2e-6 * y.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(x.float())
    assert half.dtype == torch.float32 and (half - y).norm() < 0.03 * y.norm()


def test_runs_on_fake_cuda_without_mixing_devices():
    with fake_cuda():
        model = T1(CHANNEL, 2, 3, n_modes=(9, 8), hidden_channels=8, n_layers=2, causal=True, rank=2)
        assert model(torch.randn(2, 2, 16, 15), output_shape=(9, 9)).device.type == "cuda"


def test_learns_one_batch():
    model, x = t1(n_modes=(12, 12), hidden_channels=16).float(), band_limited((16, 16), channels=2, batch=4, dtype=torch.float32)
    y = x.roll(3, 2)[:, :1] * x[:, 1:] + torch.zeros(1, 3, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    floor = 1 - model.kept_energy(y)
    assert loss < 0.01 * y.square().mean() + floor * y.square().mean()


X = torch.zeros(1, 2, 8, 8)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: T1(TORUS, 2, 3, n_modes=(8,)), r"n_modes=\(8,\) on a 2-D domain; give one number of modes for each axis"),
        (lambda: T1(TORUS, 2, 3, n_modes=(8, 0)), "n_modes=0; give one whole number"),
        (lambda: T1(TORUS, 2, 0, n_modes=(8, 8)), "T1 got out_channels=0; give 1 or more"),
        (lambda: T1(TORUS, 2, 3, n_modes=(8, 8), n_parameters=-1), "T1 got n_parameters=-1; give 0 or more"),
        (lambda: T1(TORUS, 2, 3, n_modes=(8, 8), energy=0.0), "T1 got energy=0.0; give the share"),
        (lambda: T1(TORUS, 2, 3, n_modes=(8, 8), basis="wavelet"), "kind='wavelet'; choose one of fourier, cosine"),
        (lambda: T1(TORUS, 2, 3, n_modes=(8, 8), basis=("cosine",)), "the bases cosine on a 2-D domain; give one name for each axis"),
        (
            lambda: T1(Domain.box(1.0, points="gauss"), 2, 3, n_modes=(8,), basis="fourier"),
            'Fourier basis uses a Fourier transform, but axis x has points="gauss"',
        ),
        (lambda: t1().float()(X[:, :1]), r"T1 got 1 channels in x of shape \(1, 1, 8, 8\); it was built for 2"),
        (lambda: t1().float()(X[0]), r"got a tensor of shape \(2, 8, 8\) on a 2-D domain"),
        (lambda: t1().float()(X, grid=TORUS.grid(8, 9)), "give the grid of x, with the same periodic axes"),
        (lambda: t1().float()(X, grid=CHANNEL.grid(8, 8)), "give the grid of x, with the same periodic axes"),
        (lambda: t1().float()(X, output_shape=(8,)), r"T1 got output_shape=\(8,\); give one size for each of the 2 axes"),
        (lambda: t1()(X), "T1 got x of dtype torch.float32, but its weights are torch.float64"),
        (lambda: T1(None, 2, 3, n_modes=(8,)), "T1 got domain=None; give a Domain"),
        (lambda: t1().float()(X, parameters=torch.zeros(1, 1)), r"parameters of shape \(1, 1\); expected None"),
        (lambda: t1(n_parameters=2).float()(X), r"parameters of shape None; expected \(1, 2\)"),
    ],
)
def test_refuses_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
