"""Published metrics against values computed by the benchmarks' own code, or by hand from their definitions."""

import math

import pytest
import torch

from opkernels import Domain
from opkernels.evaluation import published
from opkernels.metrics import band_energy

F64 = torch.float64
W = 2 * math.pi


def fixture_2d(nx=32, ny=28):
    b, t, c, x, y = torch.meshgrid(
        *[torch.arange(n, dtype=F64) for n in (2, 4, 2)], torch.arange(nx, dtype=F64) / nx, torch.arange(ny, dtype=F64) / ny, indexing="ij"
    )
    r = torch.sin(W * (x + 0.1 * b)) * torch.cos(2 * W * y) + 0.3 * (c + 1) * torch.cos(W * (3 * x + y) + 0.5 * t) + 0.2 * c + 0.1
    return r + 0.05 * (t + 1) * torch.cos(W * (5 * x - 2 * y) + b) + 0.01 * (c + 1), r


def fixture_1d(n=32):
    b, t, c, x = torch.meshgrid(*[torch.arange(m, dtype=F64) for m in (2, 4, 2)], torch.arange(n, dtype=F64) / n, indexing="ij")
    r = torch.sin(W * (x + 0.1 * b)) + 0.3 * (c + 1) * torch.cos(3 * W * x + 0.5 * t) + 0.2 * c + 0.1
    return r + 0.05 * (t + 1) * torch.cos(5 * W * x + b) + 0.01 * (c + 1), r


def close(value, expected):
    # The vectors carry nine digits.
    torch.testing.assert_close(torch.as_tensor(value, dtype=F64), torch.as_tensor(expected, dtype=F64), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "fixture, expected",
    [
        (fixture_2d, [0.107328926, 0.171430455, 0.015, 0.165, 0.107328926, 0.00375, 0, 0]),
        (fixture_1d, [0.107328926, 0.133114382, 0.015, 0.165, 0.135412989, 0.00375, 0.009375, 0]),
    ],
)
def test_pdebench(fixture, expected):
    p, r = fixture()
    values = published.pdebench(p, r, context=1)
    for (name, value), number in zip(values.items(), expected, strict=True):
        assert value == pytest.approx(number, rel=1e-8, abs=1e-9), name


def test_pdebench_does_not_count_the_context():
    p, r = fixture_2d()
    copied = [torch.cat([r[:, :3], u], dim=1) for u in (p, r)]
    assert published.pdebench(*copied, context=3) == pytest.approx(published.pdebench(p, r, context=0))


def test_the_well():
    p, r = fixture_2d()
    expected = {
        "MSE": 0.009625,
        "RMSE": 0.090167012,
        "MAE": 0.080412261,
        "NMSE": 0.024931818,
        "NRMSE": 0.143930320,
        "NMAE": 0.157765159,
        "VMSE": 0.027394984,
        "VRMSE": 0.151506518,
        "PearsonR": 0.985922495,
    }
    values = published.the_well(p, r)
    for name, number in expected.items():
        assert float(values[name].mean()) == pytest.approx(number, rel=2e-8), name
    assert float(values["LInf"].mean()) == pytest.approx(0.139997, abs=5e-7)
    assert values["VRMSE"][0, 1].tolist() == pytest.approx([0.13141094, 0.11200054], abs=1e-8)
    assert values["NRMSE"][0, 1].tolist() == pytest.approx([0.12931089, 0.10190492], abs=1e-8)


def test_the_well_correlates_a_field_with_itself_below_one():
    r = torch.randn(1, 1, 1, 8, 8, dtype=F64)
    assert float(published.the_well(r, r)["PearsonR"]) == pytest.approx(63 / 64, rel=1e-6)


def test_the_well_binned():
    mse, nmse, edges = published.the_well_binned(*fixture_2d())
    close(edges, [0, 0.55536041, 1.57079656, 4.44288394])
    assert mse.mean((0, 1, 2)).tolist() == pytest.approx([0.00025, 0.009375, 0], abs=1e-12)
    # Theirs is in float32: seven digits.
    assert nmse.mean((0, 1, 2)).tolist() == pytest.approx([7.80542739e-4, 0.130208087, 0], rel=1e-6, abs=1e-12)


def test_neuralop():
    p, r = (u[:, 1:2] for u in fixture_2d())
    assert published.neuralop_lp(p, r) == pytest.approx(0.462431686, rel=1e-8)
    assert published.neuralop_lp(p, r, reduction="mean") == pytest.approx(0.115607922, rel=1e-8)
    assert published.neuralop_h1(p, r, reduction="mean") == pytest.approx(0.228649694, rel=1e-8)
    assert published.neuralop_h1(p, r, periodic=False, reduction="mean") == pytest.approx(0.234075839, rel=1e-8)


def test_neuralop_live():
    losses = pytest.importorskip("neuralop.losses")
    p, r = (u[:, 2].contiguous() for u in fixture_2d())
    ours = published.neuralop_lp(p[:, None], r[:, None], reduction="sum")
    assert ours == pytest.approx(float(losses.LpLoss(d=2, p=2)(p, r)), rel=1e-6)


def test_pdearena():
    p, r = fixture_2d()
    values = published.pdearena(p, r)
    close(values["scaled_L2"], 0.152752523)
    close(values["MSE"], 0.077)
    close(values["Pearson"].mean(0), [0.998298427, 0.993341110, 0.985240532, 0.974225582])
    assert published.pdearena_time_till_correlation_lower(p, r, 0.98) == 3


def test_apebench():
    p, r = fixture_1d()
    expected = {
        "nRMSE": 0.179603838,
        "RMSE": 0.144898977,
        "MSE": 0.0105,
        "nMAE": 0.184277887,
        "sRMSE": 0.178831377,
        "correlation": 0.996024799,
    }
    values = published.apebench(p, r)
    for name, number in expected.items():
        assert float(values[name][1]) == pytest.approx(number, rel=1e-8), name


def test_apebench_fourier():
    p, r = fixture_1d()
    low, high = (published.apebench_fourier(p, r, low=a, high=b) for a, b in ((0, 4), (5, 12)))
    assert float(low["fourier_RMSE"][1]) == pytest.approx(0.03, rel=1e-8)
    assert float(low["fourier_nRMSE"][1]) == pytest.approx(0.0362152364, rel=1e-8)
    assert float(high["fourier_RMSE"][1]) == pytest.approx(0.141421356, rel=1e-8)
    assert math.isinf(float(high["fourier_nRMSE"][1]))
    slope, value = published.apebench_fourier(p, r, derivative=1), published.apebench(p, r)
    assert float((value["nRMSE"] + slope["fourier_nRMSE"])[1]) == pytest.approx(0.794072376, rel=1e-8)
    assert float((value["RMSE"] + slope["fourier_RMSE"])[1]) == pytest.approx(4.58778192, rel=1e-8)


def test_our_bands_are_physical():
    edges = [W * k for k in (0, 0.5, 2.5, 4.5, 8.5)]
    for shape in [(32, 28), (64, 56), (31, 29)]:
        p, r = (u[:, 1, 0] for u in fixture_2d(*shape))
        grid = Domain.periodic(1.0, 1.0).grid(shape)
        close(band_energy(p - r, grid, edges).sqrt(), [[0.01, 0, 0, 0.0707106781]] * 2)
        assert float(band_energy(r, grid, edges)[0, 0].sqrt()) == pytest.approx(0.1)


def test_an_error_that_one_quadrant_does_not_see():
    x, y = torch.meshgrid(torch.arange(32, dtype=F64) / 32, torch.arange(32, dtype=F64) / 32, indexing="ij")
    e = 0.1 * torch.cos(W * (5 * x - 2 * y)).expand(1, 1, 1, 32, 32)
    theirs = published.pdebench(e, 0 * e, context=0)
    assert max(theirs[f"fRMSE_{band}"] for band in ("low", "mid", "high")) < 1e-12
    ours = band_energy(e, Domain.periodic(1.0, 1.0).grid(32, 32), [0, 4 * W, 12 * W]).sqrt()
    assert float(ours[..., 1]) == pytest.approx(0.1 / math.sqrt(2))


def test_poseidon_and_lagrangebench():
    p, r = fixture_1d()
    e = (p - r)[:, -1].flatten(1).abs().sum(1) / r[:, -1].flatten(1).abs().sum(1)
    assert published.poseidon(p, r)["mean"] == pytest.approx(100 * float(e.mean()))
    p, r = torch.tensor([[[0.05, 0.5]]], dtype=F64), torch.tensor([[[0.95, 0.5]]], dtype=F64)
    assert float(published.lagrangebench_mse(p, r, [1.0, 1.0])) == pytest.approx(0.005)
    assert float(published.lagrangebench_mse(p, r, [None, 1.0])) == pytest.approx(0.405)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p, r: published.pdebench(p, r[:1]), "expected two of"),
        (lambda p, r: published.pdebench(p, r), "4 frames and a context of 10"),
        (lambda p, r: published.the_well(p[0, 0], r[0, 0]), "1 or 2 or 3 spatial axes"),
        (lambda p, r: published.neuralop_lp(p, r, reduction="max"), 'choose "sum" or "mean"'),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(*fixture_1d())
