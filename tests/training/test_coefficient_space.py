"""Training on coefficients: the loss of the samples without samples, Sobolev norms, translations, refusals."""

import pytest
import torch
from helpers import band_limited

from opkernels.domains import Domain
from opkernels.metrics import rel_h1, rel_l2
from opkernels.models import FNO, T1
from opkernels.training.coefficient_space import fit_coefficients

TORUS = Domain.periodic(1.0, 2.0)


def model_of(**options):
    torch.manual_seed(0)
    return T1(TORUS, 1, 1, n_modes=(7, 7), hidden_channels=12, n_layers=2, **options)


def pairs(n=32, samples=24, k_max=2):
    """Functions, and their derivative with an added square: a map that commutes with translations."""
    x = band_limited((n, n), batch=samples, k_max=k_max, dtype=torch.float32)
    return x, (x.roll(1, 2) - x.roll(-1, 2)) * n / 20 + x**2


@pytest.mark.parametrize("order, norm", [(0.0, rel_l2), (1.0, rel_h1)])
def test_the_loss_is_that_of_the_samples(order, norm):
    """Before a step is taken, that is with a learning rate of nothing; for H1 of targets within the kept modes."""
    model, (x, y) = model_of().double(), pairs()
    x, y = x.double(), y.double()
    if order:
        y = model.samples(model.coefficients(y, TORUS.grid_of(y)), TORUS.grid_of(y))
    fit = fit_coefficients(model, x, y, epochs=1, batch_size=100, lr=1e-30, order=order, quiet=True)
    assert fit.losses[0] == pytest.approx(norm(model(x), y, TORUS.grid_of(y)).item(), abs=1e-6)


def test_gradients_are_those_of_the_samples():
    trained = []
    for space in ("coefficients", "samples"):
        model, (x, y) = model_of().double(), [u.double() for u in pairs()]
        if space == "coefficients":
            fit_coefficients(model, x, y, epochs=1, batch_size=100, lr=1e-3, weight_decay=0.0, quiet=True)
        else:
            optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.0)
            rel_l2(model(x), y).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        trained.append(model)
    for a, b in zip(*[m.parameters() for m in trained], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_what_was_learned_serves_every_grid_and_stays_above_the_floor(capsys):
    model, (x, y) = model_of(), pairs()
    fit = fit_coefficients(model, x, y, epochs=100, batch_size=8, lr=1e-2)
    assert "irreducible error of the 49 kept modes" in capsys.readouterr().out
    assert fit.floor < fit.losses[-1] < 0.5 * fit.losses[0]
    error = rel_l2(model(x), y).item()
    assert fit.floor < error < fit.losses[-1] + 0.02
    finer, truth = pairs(n=64)
    assert rel_l2(model(finer, output_shape=(32, 32)), model(x)).item() < 1e-4
    assert fit.floor == pytest.approx(rel_l2(model.samples(model.coefficients(y, TORUS.grid_of(y)), TORUS.grid_of(y)), y).item(), abs=1e-4)


def test_inputs_and_targets_are_read_in_their_own_bases():
    domain = Domain.box(1.0, 2.0)
    torch.manual_seed(0)
    model = T1(domain, 1, 1, n_modes=(6, 5), hidden_channels=4, n_layers=1, basis="sine", input_basis="cosine").double()
    x, y = torch.randn(5, 1, 16, 15, dtype=torch.float64), torch.randn(5, 1, 16, 15, dtype=torch.float64)
    fit = fit_coefficients(model, x, y, epochs=1, batch_size=9, lr=1e-30, quiet=True)
    assert fit.losses[0] == pytest.approx(rel_l2(model(x), y).item(), abs=1e-6)


def test_conditions_belong_to_their_samples():
    """Targets that are the input times its parameter: with the numbers shuffled there is nothing to learn."""
    torch.manual_seed(0)
    x = band_limited((16, 16), batch=32, k_max=2, dtype=torch.float32)
    factors = torch.linspace(-1, 2, 32)[:, None]
    model = T1(TORUS, 1, 1, n_modes=(5, 5), hidden_channels=16, n_layers=2, n_parameters=1)
    fit = fit_coefficients(model, x, x * factors[..., None, None], parameters=factors, epochs=60, batch_size=8, lr=1e-2, quiet=True)
    assert fit.losses[-1] < 0.5
    other = fit_coefficients(model, x, x * factors[..., None, None], parameters=factors.flip(0), epochs=1, lr=1e-30, quiet=True)
    assert other.losses[0] > 1


def test_translations_of_the_data_cost_nothing_to_make():
    """Learned from moved copies, the map serves functions that are moved by no whole number of samples."""
    x, y = pairs(samples=12, k_max=1)
    errors = {}
    for name, shifts in (("fixed", ()), ("moved", ((1.0, 0.0), (0.0, 2.0)))):
        model = model_of()
        fit_coefficients(model, x, y, epochs=120, batch_size=4, lr=1e-2, shifts=shifts, quiet=True)
        errors[name] = rel_l2(model(x.roll((5, 11), (2, 3))), y.roll((5, 11), (2, 3))).item()
    assert errors["moved"] < 0.7 * errors["fixed"]


X = torch.ones(2, 1, 8, 8)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: fit_coefficients(FNO(TORUS, 1, 1, n_modes=(4, 4), hidden_channels=4, n_layers=1), X, X),  # type: ignore
            "use opkernels.fit for other models",
        ),
        (lambda: fit_coefficients(model_of(), X, X[:1]), "2 inputs and 1 targets; give one target for each input"),
        (lambda: fit_coefficients(model_of(), X, X.expand(-1, 2, -1, -1)), r"2 channels in x of shape \(2, 2, 8, 8\); it was built for 1"),
        (lambda: fit_coefficients(model_of(), X.double(), X), "inputs of dtype torch.float64, but its weights are torch.float32"),
        (lambda: fit_coefficients(model_of(), X, X, grid=TORUS.grid(8, 9)), r"with a grid of shape \(8, 9\); give the grid of x"),
        (lambda: fit_coefficients(model_of(), X, X * torch.eye(2)[0, :, None, None, None]), "target 1 is zero everywhere or not finite"),
        (lambda: fit_coefficients(model_of(), X, X, shifts=(1.0, 2.0)), r"shifts=\(1.0, 2.0\); give vectors of 2 lengths"),  # type: ignore
        (lambda: fit_coefficients(model_of(n_parameters=1), X, X), r"parameters of shape None; expected \(2, 1\)"),
        (lambda: fit_coefficients(model_of(), X, X, epochs=0), "epochs=0, batch_size=16; give at least 1"),
        (lambda: fit_coefficients(T1(TORUS, 1, 1, n_modes=(4, 4), basis="chebyshev"), X, X), "needs orthonormal bases"),
    ],
)
def test_refuses_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
