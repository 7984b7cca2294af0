"""Where known FNO implementations go wrong, one test for each: this package against the definition."""

import math
import subprocess
import sys

import pytest
import torch
from helpers import band_limited

from opkernels.domains import Axis, Domain
from opkernels.layers import SpectralConv
from opkernels.layers.embedding import positions
from opkernels.models import FNO
from opkernels.models.backbone import Block
from opkernels.resample import resample
from opkernels.transforms import Modes

SHAPES = [(33,), (12,), (33, 32), (32, 33), (33, 35), (7, 20), (13, 8, 8), (8, 13, 8), (8, 8, 13)]


def direct_sum(layer, x):
    """Apply the definition: sums over samples and wave numbers, term by term, in complex numbers."""
    modes, n = layer.modes, x.shape[2:]
    weight = torch.complex(*layer.weight.tensor.detach().unbind(-2)).flatten(0, modes.ndim - 1)  # (P, in, out)
    grids = torch.meshgrid(*[torch.arange(a, b + 1) for a, b in zip(modes.lower, modes.upper, strict=True)], indexing="ij")
    y = 0
    for row, k in enumerate(torch.stack(grids, -1).reshape(-1, modes.ndim).tolist()):
        if any(2 * abs(ka) >= na for ka, na in zip(k, n, strict=True)):
            continue
        wave = torch.ones(n, dtype=torch.complex128)
        for axis, (ka, na) in enumerate(zip(k, n, strict=True)):
            phase = torch.exp(2j * math.pi * ka * torch.arange(na, dtype=torch.float64) / na)
            wave = wave * phase.reshape([-1 if a == axis else 1 for a in range(len(n))])
        coefficient = (x * wave.conj()).flatten(2).sum(-1) / math.prod(n)
        term = (coefficient @ weight[row])[(...,) + (None,) * len(n)] * wave
        y = y + (1 if k[-1] == 0 else 2) * term.real
    return y + layer.bias.detach().reshape(-1, *[1] * len(n))


def layer(n_modes, channels=(2, 3), **options):
    torch.manual_seed(0)
    return SpectralConv(*channels, n_modes, **options).double()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_modes", [5, 8, 14])
def test_odd_sizes_and_grids_below_n_modes(shape, n_modes):
    """Modes shifted by one on odd leading sizes; weights of the neighboring row below n_modes."""
    if len(shape) == 3 and n_modes == 14:
        n_modes = 10
    conv = layer((n_modes,) * len(shape))
    x = torch.randn(2, 2, *shape, dtype=torch.float64)
    y = conv(x, Domain.periodic(*[1.0] * len(shape)).grid(*shape))
    torch.testing.assert_close(y, direct_sum(conv, x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", range(5, 26))
def test_each_row_of_the_weight_is_one_wave_number_on_every_grid(n):
    """The row that carries k = (a, b) must not move when the grid has fewer samples than modes."""
    conv, grid = layer((12, 12), (1, 1), bias=False), Domain.periodic(1.0, 1.0).grid(n, n)
    for a, b in [(-2, 1), (0, 0), (2, 2), (-1, 0)]:
        with torch.no_grad():
            conv.weight.tensor.zero_()
            conv.weight.tensor[a - conv.modes.lower[0], b, 0, 0, 0] = 1
        s, t = (torch.arange(n, dtype=torch.float64) / n * 2 * math.pi).view(1, 1, n, 1), torch.arange(n).double() / n * 2 * math.pi
        wave = torch.cos(a * s + b * t)
        gain = 0.5 if b == 0 and a != 0 else 1.0  # alone on the real plane, half of a pair
        torch.testing.assert_close(conv(wave, grid), gain * wave, rtol=0, atol=1e-13)
        other = torch.cos((a + 1) * s + b * t)
        assert conv(other, grid).abs().max() < 1e-13 or (b == 0 and abs(a + 1) == abs(a))


@pytest.mark.parametrize(
    "shape, target", [((16, 16), (32, 32)), ((32, 32), (16, 20)), ((15, 16), (16, 33)), ((9,), (14,)), ((8, 9, 10), (12, 7, 10))]
)
def test_resizing_in_the_layer_is_resampling(shape, target):
    """Negative frequencies moved when only the end of a spectrum was padded."""
    domain = Domain.periodic(*[1.0] * len(shape))
    conv, x = layer((7,) * len(shape)), torch.randn(1, 2, *shape, dtype=torch.float64)
    y = conv(x, domain.grid(*shape), target)
    wanted = resample(conv(x, domain.grid(*shape)), domain.grid(*shape), target)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("domain", [Domain.periodic(1.0, 2.0), Domain((Axis(0, 1, periodic=True), Axis(0, 2, periodic=True)))])
@pytest.mark.parametrize("target", [(32, 32), (13, 16), (17, 40)])
def test_output_shape_samples_the_same_function(domain, target):
    """Bicubic with aligned corners on a half-open grid is 5 to 10 % off."""
    torch.manual_seed(0)
    model = FNO(domain, 1, 1, n_modes=(5, 5), hidden_channels=4, n_layers=2).double()
    x = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(x, output_shape=target), resample(model(x), domain.grid(16, 16), target), rtol=0, atol=1e-12)


def test_nyquist_is_never_used_unless_asked_for():
    """With n = n_modes a kept Nyquist row makes the coarse operator another one than the fine."""
    domain = Domain.periodic(1.0, 1.0)
    conv = layer((16, 16), (1, 1))
    x = band_limited((64, 64), k_max=7)
    coarse = conv(x[..., ::4, ::4], domain.grid(16, 16))
    torch.testing.assert_close(coarse, conv(x, domain.grid(64, 64))[..., ::4, ::4], rtol=0, atol=1e-12)
    nyquist = torch.cos(math.pi * torch.arange(16).double()).expand(1, 1, 16, 16)
    constant = conv(torch.zeros_like(nyquist), domain.grid(16, 16))
    torch.testing.assert_close(conv(nyquist, domain.grid(16, 16)), constant, rtol=0, atol=1e-13)
    theirs = layer((16, 16), (1, 1), modes=Modes.neuraloperator((16, 16)))
    assert (theirs(nyquist, domain.grid(16, 16)) - theirs(0 * nyquist, domain.grid(16, 16))).abs().max() > 0.1


@pytest.mark.parametrize("n_modes", [5, 6, 7, 8])
def test_unit_weights_are_a_symmetric_low_pass(n_modes):
    """An unpaired row passes (k, 0) at half its size and (k, 1) or (-k, 1) only."""
    conv, grid = layer((n_modes, n_modes), (1, 1), bias=False), Domain.periodic(1.0, 1.0).grid(32, 32)
    with torch.no_grad():
        conv.weight.tensor.zero_()
        conv.weight.tensor[..., 0, :] = 1
    t = torch.arange(32).double() / 32 * 2 * math.pi
    top = (n_modes - 1) // 2
    for a in range(-5, 6):
        for b in range(0, 6):
            wave = torch.cos(a * t[:, None] + b * t + 0.3)[None, None]
            kept = abs(a) <= top and b <= top
            torch.testing.assert_close(conv(wave, grid), wave * kept, rtol=0, atol=1e-13)


def test_no_parameter_is_dead():
    """Stored columns that no grid ever uses, and imaginary parts without a partner."""
    torch.manual_seed(0)
    model = FNO(Domain.periodic(1.0, 1.0), 1, 1, n_modes=(6, 6), hidden_channels=3, n_layers=2).double()
    model(torch.randn(2, 1, 16, 16, dtype=torch.float64)).square().sum().backward()
    for block in model.blocks:
        grad = block.conv.weight.tensor.grad
        assert (grad.abs().amax((2, 3, 4)) > 0).all()  # every wave number
        dead = grad == 0
        assert dead.sum() == 9 and dead[2, 0, :, 1].all()  # the imaginary part of the mean alone


def test_the_activation_reaches_every_part():
    """A channel MLP that stays GELU whatever is asked for."""
    torch.manual_seed(0)
    model = FNO(Domain.periodic(1.0, 1.0), 1, 1, n_modes=(4, 4), hidden_channels=4, n_layers=2, activation="relu", block=Block())
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    slopes = torch.autograd.functional.jacobian(lambda s: model(s * torch.ones(1, 1, 8, 8)).mean(), torch.tensor(0.7))
    bent = torch.autograd.functional.hessian(lambda s: model(s * torch.ones(1, 1, 8, 8)).mean(), torch.tensor(0.7))
    assert slopes.abs() > 0 and bent.abs() == 0  # piecewise linear throughout


def test_positions_follow_dtype_and_device():
    """A cached grid keyed by its shape alone hands bfloat16 positions to a float32 model."""
    grid = Domain.box(1.0, 1.0).grid(250, 250)
    positions(grid, "walls", torch.device("cpu"), torch.bfloat16)
    exact = (torch.arange(250) + 0.5) / 250
    torch.testing.assert_close(positions(grid, "walls", torch.device("cpu"), torch.float32)[0, :, 0], exact, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(16, 16), (15, 18), (33, 9)])
def test_commutes_with_shifts_on_periodic_axes(shape):
    """A ramp of positions, zero padding or a shifted spectrum breaks it."""
    torch.manual_seed(0)
    model = FNO(Domain.periodic(1.0, 1.0), 1, 1, n_modes=(8, 8), hidden_channels=4, n_layers=2).double()
    x = torch.randn(1, 1, *shape, dtype=torch.float64)
    torch.testing.assert_close(model(x.roll((3, -4), (2, 3))), model(x).roll((3, -4), (2, 3)), rtol=0, atol=1e-12)


def test_the_mean_at_a_shared_point_is_the_same_at_64_65_and_66():
    torch.manual_seed(0)
    model = FNO(Domain.periodic(1.0, 1.0), 1, 1, n_modes=(8, 8), hidden_channels=4, n_layers=2).double()
    values = [model(band_limited((n, n)))[0, 0, 0, 0] for n in (64, 65, 66)]
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(values[2], values[0], rtol=0, atol=1e-7)


def test_double_and_a_plain_state_dict():
    """Complex parameters stay complex64 under .double(), and metadata in a state dict needs a pickle."""
    model = FNO(Domain.periodic(1.0, 1.0), 1, 1, n_modes=(4, 4), hidden_channels=4, n_layers=1).double()
    assert all(isinstance(value, torch.Tensor) and value.dtype == torch.float64 for value in model.state_dict().values())
    assert model(torch.randn(1, 1, 8, 8, dtype=torch.float64)).dtype == torch.float64


def test_importing_touches_neither_stdout_nor_the_network():
    code = (
        "import sys; write = sys.stdout.write; import opkernels.models, opkernels.interop; assert sys.stdout.write == write; "
        "print([m for m in sys.modules if m.split('.')[0] in ('wandb', 'neuralop', 'requests', 'matplotlib', 'scipy', 'xarray')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
