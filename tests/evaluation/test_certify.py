"""`certify` passes operators, fails what depends on the grid, fits orders, and leaves the module as it was."""

import copy
import math

import pytest
import torch
from torch import nn

import opkernels as ok
from opkernels import Axis, Domain
from opkernels.evaluation.certify import _fit_order
from opkernels.evaluation.probes import random_function, values_at
from opkernels.models import FNO

F64 = torch.float64
TORUS = Domain.periodic(2.0, 3.0)
BOX = Domain.box(2.0, 3.0)
QUICK = [(64, 64), (65, 63), (96, 80)]


class Pointwise(nn.Module):
    """u -> tanh(w u): the same operator on every grid."""

    def __init__(self, factor=0.5):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return torch.tanh(self.w * x)


class Derivative(nn.Module):
    """d/dx by centered differences, with the spacing of the grid (or, wrongly, of the last axis)."""

    def __init__(self, wrong=False):
        super().__init__()
        self.axis = 1 if wrong else 0

    def forward(self, x, grid):
        return (x.roll(-1, 2) - x.roll(1, 2)) / (2 * grid.spacing[self.axis])


class Shifted(nn.Module):
    """Multiplies by a function of the position: an operator, but not equivariant."""

    def forward(self, x, grid):
        return x * torch.cos(2 * math.pi * grid.coordinates(x.device, x.dtype)[0] / 2)


def test_an_operator_passes_and_the_table_says_so():
    report = ok.certify(Pointwise(), TORUS, 2, shapes=QUICK, equivariant=True)
    assert report.passed and not report.findings
    assert set(report.errors) == set(QUICK) and max(report.errors.values()) < 1e-7
    text = report.table()
    assert "Pointwise" in text and "65x63" in text and "1.0e-07  ok" in text and "PASSED" in text
    assert max(map(len, text.splitlines())) < 100


def test_a_stencil_is_of_its_order_and_of_no_other():
    report = ok.certify(Derivative(), TORUS, 1, order=2)
    assert report.passed and abs(report.order - 2) < 0.05, report.table()
    assert f"order of convergence   {report.order:.2f}" in report.table()
    assert not ok.certify(Derivative(), TORUS, 1, order=4).passed
    assert not ok.certify(Derivative(), TORUS, 1).passed


def test_the_spacing_of_the_wrong_axis_is_found_on_unequal_grids():
    report = ok.certify(Derivative(wrong=True), Domain.periodic(1.0, 1.0), 1, order=2)
    assert not report.passed and report.errors[64, 128] > 0.4
    assert any("64x128" in finding for finding in report.findings)
    assert report.errors[64, 64] < report.allowed[64, 64]


def test_equivariance_is_reported_and_required_on_demand():
    assert ok.certify(Shifted(), TORUS, 1, shapes=QUICK).passed
    report = ok.certify(Shifted(), TORUS, 1, shapes=QUICK, equivariant=True)
    assert not report.passed and report.equivariance > 0.1
    assert "shifting the input" in report.findings[0]
    assert ok.certify(Pointwise(), BOX, 1, shapes=QUICK).equivariance is None


def test_idle_parameters_are_found():
    class Idle(Pointwise):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.ones(3))
            self.cancelled = nn.Parameter(torch.ones(1))
            self.table = nn.Parameter(torch.randn(4))

        def forward(self, x):
            y = super().forward(x) + self.cancelled
            return (y - y.mean()) * self.table[:2].sum()

    report = ok.certify(Idle(), TORUS, 1, shapes=QUICK)
    assert set(report.unused) == {"unused", "cancelled"} and not report.passed
    assert report.dead == {"table": 0.5}
    assert "50% of table" in report.table()


def test_neuraloperators_stored_columns_that_nothing_uses():
    neuralop = pytest.importorskip("neuralop.models")
    model = neuralop.FNO(n_modes=(8, 8), max_n_modes=(16, 16), in_channels=1, out_channels=1, hidden_channels=4, n_layers=1)
    report = ok.certify(model, TORUS, 1, dtype=torch.float32, shapes=[(64, 64)])
    assert max(report.dead.values()) > 0.7


def test_zero_initialized_parameters_count_as_used():
    class Biased(Pointwise):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return super().forward(x + self.bias)

    assert ok.certify(Biased(), TORUS, 1, shapes=QUICK).passed


def test_the_module_is_left_as_it_was():
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))
    module.register_buffer("narrow", torch.ones(2, dtype=torch.float16))
    module(torch.randn(1, 1, 4, 4)).sum().backward()
    module[0].bias.requires_grad_(False)
    before = copy.deepcopy(module)
    gradients = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    assert ok.certify(module, TORUS, 1, shapes=QUICK).passed  # dropout is off, whatever the mode
    assert module.training and not module[0].bias.requires_grad
    for (name, one), other in zip(module.state_dict().items(), before.state_dict().values(), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other), name
    for p, gradient in zip(module.parameters(), gradients, strict=True):
        assert (p.grad is None) == (gradient is None) and (gradient is None or torch.equal(p.grad, gradient))


def test_complex_parameters_keep_their_imaginary_part():
    class Rotate(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(1j))

        def forward(self, x):
            k = torch.fft.fftfreq(x.shape[-1], 1 / x.shape[-1], dtype=x.dtype)
            return torch.fft.ifft(torch.fft.fft(x) * (self.w * k.sign())).real

    for dtype in (torch.float32, F64):
        assert ok.certify(Rotate(), TORUS, 1, shapes=QUICK, dtype=dtype).passed


def test_nan_fails():
    class Broken(nn.Module):
        def forward(self, x):
            return x / 0.0 - x / 0.0

    assert not ok.certify(Broken(), TORUS, 1, shapes=QUICK).passed


def test_a_tolerance_must_fall_with_refinement():
    class Plateau(nn.Module):
        def forward(self, x):
            return x * (1 + (1e-3 if x.shape[-1] < 256 else 0.0))

    report = ok.certify(Plateau(), TORUS, 1, shapes=[(64, 64), (128, 128)], tolerance=1e-2)
    assert any("does not fall from 64x64 to 128x128" in finding for finding in report.findings)


@pytest.mark.parametrize("points", ["node", "cell", "endpoint", "gauss"])
def test_walls_of_every_kind(points):
    domain = Domain((Axis(0, 2, points=points), Axis(0, 1, periodic=True, points="cell")))
    assert ok.certify(Pointwise(), domain, 1, shapes=QUICK).passed


@pytest.mark.parametrize("domain", [Domain.periodic(1.0), Domain.periodic(1.0, 1.0, 2.0)])
def test_other_dimensions(domain):
    report = ok.certify(Pointwise(), domain, 1)
    assert report.passed, report.table()
    assert len(report.errors) >= 5


def test_own_input_functions():
    report = ok.certify(Pointwise(), BOX, 1, shapes=QUICK, function=random_function(BOX, 1, walls="cosines", seed=3))
    assert report.passed


@pytest.mark.parametrize("points", ["node", "cell", "endpoint", "gauss"])
def test_values_between_samples(points):
    domain = Domain((Axis(0, 2, points=points), Axis(0, 1, periodic=True, points="cell")))
    f = random_function(domain, 2, seed=1)
    fine, coarse = domain.grid(130, 64), domain.grid(31, 33)
    torch.testing.assert_close(values_at(f(fine), fine, coarse), f(coarse), rtol=0, atol=1e-11)


def test_the_random_function_has_rms_one_and_fills_its_band():
    f = random_function(TORUS, 3, k_max=3)
    u = f(TORUS.grid(31, 17))
    assert u.shape == (1, 3, 31, 17)
    assert float((u**2).mean()) == pytest.approx(1)
    u_hat = torch.fft.fft2(u, norm="forward").abs()
    assert float(u_hat[:, :, 3].max()) > 1e-2 and float(u_hat[:, :, 4:-3].max()) < 1e-14


def test_the_fit_allows_for_the_error_of_the_reference():
    sizes = [32, 48, 64, 96, 128]
    p, constant = _fit_order(sizes, [7 * (n**-3.0 - 256**-3.0) for n in sizes], 256)
    assert p == pytest.approx(3, abs=0.01) and constant == pytest.approx(7, rel=0.05)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ok.certify(Pointwise(), TORUS, 1, shapes=[]), "got no shapes"),
        (lambda: ok.certify(lambda x: x, TORUS, 1), "certify got a function to examine; give a torch.nn.Module"),
        (lambda: ok.certify(Pointwise(), "torus", 1), "give a Domain of one to three axes"),
        (lambda: ok.certify(Pointwise(), TORUS, 1, dtype=torch.bfloat16), "choose torch.float64 or torch.float32"),
        (lambda: ok.certify(Pointwise(), TORUS, 1, order=2, tolerance=0.1), "both a tolerance and an order"),
        (lambda: ok.certify(Pointwise(), TORUS, 1, order=2, dtype=torch.float32), "give a tolerance instead"),
        (lambda: ok.certify(Pointwise(), TORUS, 1, shapes=[(64,)]), "grid shape"),
        (lambda: ok.certify(nn.MaxPool2d(2), TORUS, 1, shapes=QUICK), r"returned a tensor of shape \(1, 1, 128, 128\) for an input of"),
        (lambda: random_function(BOX, 1, walls="sines"), 'choose "polynomials" or "cosines"'),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_run_that_judges_nothing_does_not_pass():
    report = ok.certify(Pointwise(), Domain.periodic(1.0), 1, shapes=[(8,), (48,)])
    assert not report.passed and report.findings == ("no grid was judged; give shapes of at least 62 samples per axis",)
    assert not ok.certify(Pointwise(), Domain.periodic(1.0), 1, shapes=[(48,)], tolerance=0.1).passed
    assert not ok.certify(Pointwise(), Domain.periodic(1.0, 1.0, 1.0), 1, shapes=[(20, 20, 20)]).passed


def test_a_module_must_look_at_its_input():
    class Deaf(nn.Module):
        def forward(self, x, grid):
            return torch.sin(2 * math.pi * grid.coordinates(x.device, x.dtype)[:1] / 2)[None]

    report = ok.certify(Deaf(), TORUS, 1, shapes=QUICK)
    assert not report.passed and report.findings == ("the output does not depend on the input",)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_runs_without_gradients_around_it(mode):
    with mode():
        module = nn.Sequential(nn.Conv1d(1, 4, 1), nn.Conv1d(4, 1, 1))
        assert ok.certify(module, Domain.periodic(1.0), 1, shapes=[(64,)]).passed
        model = FNO(Domain.periodic(1.0), 1, 1, n_modes=(8,), hidden_channels=4, n_layers=1, n_parameters=1)
        assert ok.certify(model, Domain.periodic(1.0), 1, shapes=[(64,)], parameters=torch.ones(1, 1)).passed


@pytest.mark.parametrize("error, passes", [(1e-3, False), (1e-4, False), (1e-5, True)])
def test_float32_has_its_own_bound(error, passes):
    class Drifting(nn.Module):
        def forward(self, x):
            return x * (1 + (error if x.shape[-1] < 256 else 0.0))

    report = ok.certify(Drifting(), TORUS, 1, shapes=QUICK, dtype=torch.float32)
    assert report.passed == passes and report.errors[64, 64] == pytest.approx(error, rel=0.3)  # relative to the spread, below the norm


def test_instance_norm_is_an_operator_only_nearly():
    """Statistics of single channels, some of which a coarse grid does not resolve, and biases that they remove."""
    torch.manual_seed(0)
    model = FNO(TORUS, 1, 1, n_modes=(8, 8), hidden_channels=8, n_layers=2, norm="instance_norm")
    report = ok.certify(model, TORUS, 1, shapes=[(64, 64), (128, 128)])
    assert 1e-7 < report.errors[64, 64] < 5e-3 and report.errors[128, 128] < 1e-4
    assert "blocks.0.conv.bias" in report.unused
