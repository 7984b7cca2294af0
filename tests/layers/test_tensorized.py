"""Factorized spectral convolution: equal to the dense layer, the kept weight never stale, gradients, refusals."""

import copy

import pytest
import torch
from helpers import band_limited

from opkernels.domains import Domain
from opkernels.layers import FactorizedSpectralConv, SpectralConv
from opkernels.resample import resample

KINDS = ["tucker", "cp", "tt"]
TORUS = Domain.periodic(1.0, 2.0)


def layer(kind="tucker", n_modes=(8, 7), rank=0.3, **options):
    torch.manual_seed(0)
    return FactorizedSpectralConv(4, 3, n_modes, rank=rank, factorization=kind, **options).double()


def dense_twin(factorized, n_modes):
    """Return the dense layer with the same weight."""
    twin = SpectralConv(4, 3, n_modes).double()
    weight = factorized.weight.tensor.mode_first(0, torch.float64).dense()
    with torch.no_grad():
        twin.weight.tensor.copy_(weight.reshape(twin.weight.tensor.shape))
        twin.bias.copy_(factorized.bias)
    return twin


@pytest.mark.parametrize("rank", [0.05, 0.42, 1.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_modes", "shape"), [((9,), (20,)), ((8, 7), (12, 15)), ((8, 7), (5, 33)), ((4, 5, 6), (7, 8, 9))])
def test_equals_the_dense_layer_with_the_same_weight(kind, rank, n_modes, shape):
    ours, grid = layer(kind, n_modes, rank), Domain.periodic(*[1.0] * len(shape)).grid(*shape)
    x = torch.randn(2, 4, *shape, dtype=torch.float64)
    expected = dense_twin(ours, n_modes)(x, grid)
    torch.testing.assert_close(ours(x, grid), expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x, grid), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_both_orders_of_the_products_are_used_and_agree(kind):
    few, many = layer(kind, rank=1), layer(kind, rank=1.0)
    assert few.weight.tensor.mode_first(0, torch.float64).factored_is_cheaper() or kind == "tt"
    assert not many.weight.tensor.mode_first(0, torch.float64).factored_is_cheaper()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_function_comes_out_on_every_grid(kind):
    ours, fine = layer(kind), TORUS.grid(64, 64)
    expected = ours(band_limited((64, 64), channels=4), fine)
    for shape in ((16, 16), (17, 32), (33, 9), (64, 20)):
        y = ours(band_limited(shape, channels=4), TORUS.grid(*shape))
        torch.testing.assert_close(y, resample(expected, fine, shape), rtol=0, atol=1e-12)
        torch.testing.assert_close(ours(band_limited((64, 64), channels=4), fine, shape), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    ours, grid = layer(kind, (4, 3), rank=0.5), TORUS.grid(6, 5)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in ours.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in ours.parameters())

    def call(x, *values):
        return torch.func.functional_call(ours, dict(zip(names, values, strict=True)), (x, grid))

    assert torch.autograd.gradcheck(call, (x, *values), fast_mode=True)
    for i in range(len(values)):
        grads = torch.autograd.grad(call(x, *values).square().sum(), values[i])
        assert grads[0].abs().max() > 0, names[i]


def test_the_kept_weight_follows_every_change_of_the_factors():
    ours, grid = layer().eval(), TORUS.grid(12, 12)
    x = torch.randn(1, 4, 12, 12, dtype=torch.float64)

    def check():
        with torch.no_grad():
            torch.testing.assert_close(ours(x, grid), dense_twin(ours, (8, 7))(x, grid), rtol=0, atol=1e-12)

    check()
    assert ours.weight._kept is not None
    kept = ours.weight._kept[1]
    with torch.no_grad():
        ours(x, grid)
    assert ours.weight._kept[1] is kept
    with torch.no_grad():
        ours.weight.tensor.core.mul_(2)
    check()
    ours.load_state_dict(layer("tucker", rank=0.3).state_dict())
    check()
    optimizer = torch.optim.SGD(ours.parameters(), 0.1)
    ours(x, grid).square().sum().backward()  # evaluation mode, with gradients: no kept weight
    optimizer.step()
    check()
    ours.weight.tensor.core.data = 3 * ours.weight.tensor.core.data
    check()
    ours = copy.deepcopy(ours)
    with torch.no_grad():
        ours.weight.tensor.core.mul_(2)
    check()
    ours.weight.tensor.core.data.mul_(2)  # invisible to PyTorch's version counter
    ours.train().eval()
    check()


def test_predict_then_fit_and_frozen_weights():
    ours, grid = layer().eval(), TORUS.grid(12, 12)
    x = torch.randn(1, 4, 12, 12, dtype=torch.float64)
    with torch.inference_mode():
        before = ours(x, grid).clone()
    y = ours.train()(x, grid)
    torch.testing.assert_close(y.detach(), before, rtol=0, atol=1e-12)
    y.sum().backward()
    ours.eval().requires_grad_(False)
    x.requires_grad_()
    ours(x, grid).square().sum().backward()  # gradients with respect to the input go through the kept weight
    assert x.grad is not None and ours.weight._kept is not None and not ours.weight._kept[1].is_inference()


def test_a_layer_made_in_inference_mode_predicts():
    with torch.inference_mode():
        ours, grid = layer().eval(), TORUS.grid(12, 12)
        x = torch.randn(1, 4, 12, 12, dtype=torch.float64)
        y = ours(x, grid)
        ours.weight.tensor.core.mul_(2)
        torch.testing.assert_close(ours(x, grid), 2 * y - ours.bias[:, None, None], rtol=0, atol=1e-12)


def test_starts_with_the_size_of_a_dense_layer():
    for kind in KINDS:
        ours = FactorizedSpectralConv(12, 20, (9, 8), rank=0.2, factorization=kind)
        dense = SpectralConv(12, 20, (9, 8)).weight.tensor
        weight = ours.weight.tensor.mode_first(0, torch.float64).dense()
        assert weight.square().mean().sqrt().item() == pytest.approx(dense.square().mean().sqrt().item(), rel=0.05)


@pytest.mark.parametrize("rank", [1, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch(kind, rank):
    assert layer(kind, rank=rank)(torch.zeros(0, 4, 12, 12).double(), TORUS.grid(12, 12)).shape == (0, 3, 12, 12)


def test_half_precision_weights_and_inputs():
    ours = layer().to(torch.bfloat16)
    y = ours(torch.randn(1, 4, 12, 12, dtype=torch.bfloat16), TORUS.grid(12, 12))
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FactorizedSpectralConv(0, 3, (8, 8)), "at least one channel"),
        (lambda: FactorizedSpectralConv(4, 3, (8, 0)), "n_modes"),
        (lambda: FactorizedSpectralConv(4, 3, (8, 8), rank=0.0), "rank=0.0"),
        (lambda: FactorizedSpectralConv(4, 3, (8, 8), rank=(5, 3, 7, 4)), "at most"),
        (lambda: FactorizedSpectralConv(4, 3, (8, 8), factorization="dense"), "choose"),
        (lambda: layer()(torch.zeros(1, 5, 8, 8).double(), TORUS.grid(8, 8)), r"expected \(batch, 4"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(build, message):
    with pytest.raises(ValueError, match=message):
        build()
