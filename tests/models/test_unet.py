"""UNet: any size, walls and wrap-around, conditioning, refusals."""

import runpy
from pathlib import Path

import pytest
import torch
from helpers import band_limited, fake_cuda

from opkernels.domains import Axis, Domain
from opkernels.models.unet import UNet
from opkernels.resample import resample

TORUS = Domain.periodic(1.0, 2.0)
CHANNEL = Domain((Axis(0, 1, periodic=True, points="node"), Axis(0, 1)))


def unet(domain=TORUS, **options):
    torch.manual_seed(0)
    return UNet(domain, 2, 3, **{"hidden_channels": 6, "n_layers": 3, **options}).double()


@pytest.mark.parametrize("lengths", [(1.0,), (1.0, 2.0), (1.0, 1.0, 3.0)])
@pytest.mark.parametrize("sizes", [(16, 16, 16), (9, 14, 5), (2, 3, 7)])
def test_every_size_and_number_of_axes_works_and_every_parameter_is_used(lengths, sizes):
    model = unet(Domain.periodic(*lengths), n_parameters=1)
    x = torch.randn(2, 2, *sizes[: len(lengths)], dtype=torch.float64, requires_grad=True)
    y = model(x, parameters=torch.ones(2, 1, dtype=torch.float64))
    assert y.shape == (2, 3, *x.shape[2:])
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    assert x.grad is not None and (x.grad != 0).all()


def test_commutes_with_translations_by_the_coarsest_cell_on_periodic_axes_only():
    x = torch.randn(1, 2, 24, 16, dtype=torch.float64)
    model = unet()
    for shift in ((4, 0), (0, -8), (12, 4)):
        torch.testing.assert_close(model(x.roll(shift, (2, 3))), model(x).roll(shift, (2, 3)), rtol=0, atol=1e-12)
    model = unet(CHANNEL)
    torch.testing.assert_close(model(x.roll(4, 2)), model(x).roll(4, 2), rtol=0, atol=1e-12)
    assert (model(x.roll(4, 3)) - model(x).roll(4, 3)).abs().max() > 1e-2


def test_one_level_is_the_convolution_written_out():
    model = unet(n_layers=1)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    level = model.down[0]
    conv = torch.nn.functional.conv2d
    wrap = lambda v: torch.nn.functional.pad(v, (1, 1, 1, 1), mode="circular")  # noqa: E731
    y = torch.nn.functional.silu(level.norms[0](conv(wrap(x), level.first.weight, level.first.bias)))
    y = torch.nn.functional.silu(level.norms[1](conv(wrap(y), level.second.weight, level.second.bias)) + level.skip(x))
    torch.testing.assert_close(model(x), model.project(y), rtol=0, atol=1e-13)


def test_parameters_change_the_output_of_their_own_sample():
    model = unet(n_parameters=2)
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64).expand(2, -1, -1, -1)
    one = model(x, parameters=torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64))
    two = model(x, parameters=torch.tensor([[0.0, 1.0], [3.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(one[0], two[0])
    assert (one[1] - two[1]).abs().max() > 1e-3


def test_output_shape_samples_the_same_function():
    model, x = unet(), band_limited((16, 12), channels=2)
    torch.testing.assert_close(model(x, output_shape=(24, 9)), resample(model(x), TORUS.grid(16, 12), (24, 9)))


def test_runs_on_fake_cuda_without_mixing_devices():
    with fake_cuda():
        model = UNet(TORUS, 2, 3, hidden_channels=8, n_layers=3)
        assert model(torch.randn(2, 2, 16, 15), output_shape=(9, 9)).device.type == "cuda"


def test_learns_one_batch():
    model, x = unet(hidden_channels=8).float(), band_limited((16, 16), channels=2, batch=4, dtype=torch.float32)
    y = x.roll(3, 2)[:, :1] * x[:, 1:] + torch.zeros(1, 3, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * y.square().mean()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UNet(Domain.periodic(1, 1, 1, 1), 1, 1), "4 axes; convolutions exist for one to three"),
        (lambda: UNet(TORUS, 0, 1), "in_channels=0; give 1 or more"),
        (lambda: unet()(torch.zeros(1, 3, 8, 8).double()), "got 3 channels"),
        (lambda: unet()(torch.zeros(1, 2, 8).double()), "on a 2-D domain"),
        (lambda: unet()(torch.zeros(1, 2, 8, 8).double(), grid=TORUS.grid(8, 9)), "give the grid of x"),
        (lambda: unet()(torch.zeros(1, 2, 8, 8).double(), grid=CHANNEL.grid(8, 8)), "same periodic axes"),
        (
            lambda: unet()(torch.zeros(1, 2, 8, 8).double(), parameters=torch.zeros(1, 1).double()),
            r"parameters of shape \(1, 1\); expected None",
        ),
        (lambda: unet(n_parameters=2)(torch.zeros(1, 2, 8, 8).double()), r"parameters of shape None; expected \(1, 2\)"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("factorization", ["cp", "tt", "sequential"])
def test_compressed_convolutions_leave_an_eighth_of_the_weights(factorization):
    options = {"hidden_channels": 16, "factorization": factorization, "recompute": True}
    model, dense = unet(Domain.periodic(1.0, 1.0, 3.0), **options, rank=0.1), unet(Domain.periodic(1.0, 1.0, 3.0), hidden_channels=16)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, dense)]
    assert 8 * sizes[0] < sizes[1]
    x = torch.randn(1, 2, 8, 4, 6, dtype=torch.float64)
    y = model(x)
    assert 0.3 < y.std() / dense(x).std() < 3
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_a_compressed_surrogate_of_waves_learns_as_fast_as_a_dense_one_of_eight_times_its_weights():
    found = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "compressed_wave.py"))["main"]()
    (large, dense), (small, compressed) = found["dense"], found["compressed"]
    assert 8 * small < large and compressed < 0.42 and compressed < 1.15 * dense  # a few steps: the study is in paper_figs
