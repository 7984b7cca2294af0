"""Per-channel scaling: statistics of functions, exact inverse, plain data on disk."""

import json
import math

import pytest
import torch

from opkernels import Domain
from opkernels.normalization import Normalization


def data(shape=(50, 2, 8, 9), seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * torch.tensor([2.0, 1e-3]).reshape(1, 2, 1, 1) + torch.tensor([5.0, -1.0]).reshape(1, 2, 1, 1)


def test_mean_zero_deviation_one_and_back():
    x = data()
    scale = Normalization.fit(x, names=("density", "pressure"))
    y = scale.apply(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close((y**2).mean((0, 2, 3)), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(scale.invert(y), x)


def test_batches_in_any_split_give_the_same_numbers():
    x = data()
    whole = Normalization.fit(x)
    for split in (1, 7, [3, 40, 7]):
        parts = Normalization.fit(iter(x.split(split)))
        assert parts.mean == pytest.approx(whole.mean, rel=1e-12) and parts.std == pytest.approx(whole.std, rel=1e-9)


def test_large_offsets_do_not_cancel():
    x = data() + 1e6
    assert Normalization.fit(iter(x.split(5))).std[0] == pytest.approx(float(x[:, 0].std(correction=0)), rel=1e-9)


def test_statistics_are_those_of_the_functions():
    # x on [0, 2]: mean 1, variance 1/3, whatever the samples; plain means of Gauss or end points are off.
    for points, n in [("gauss", 6), ("gauss", 21), ("endpoint", 2001)]:
        grid = Domain.box(2.0, points=points).grid(n)
        scale = Normalization.fit(grid.coordinates(dtype=torch.float64)[None], grid=grid)
        assert scale.mean[0] == pytest.approx(1) and scale.std[0] == pytest.approx(math.sqrt(1 / 3), rel=1e-6)


def test_channels_elsewhere():
    x = data((6, 2, 4, 5)).reshape(2, 3, 2, 4, 5)
    scale = Normalization.fit(x, channel_axis=2)
    assert scale.mean == pytest.approx(x.mean((0, 1, 3, 4)).tolist())
    torch.testing.assert_close(scale.invert(scale.apply(x, channel_axis=2), channel_axis=2), x)


def test_a_constant_channel_is_only_centered():
    x = torch.full((3, 1, 8), 0.1)
    scale = Normalization.fit(x)
    assert scale.std == (1.0,)
    assert float(scale.apply(x).abs().max()) < 1e-6


def test_dtype_device_and_identity():
    scale = Normalization((1.0,), (2.0,))
    assert (
        scale.apply(torch.zeros(1, 1, 4)).dtype == torch.float32 and scale.apply(torch.zeros(1, 1, 4, device="meta")).device.type == "meta"
    )
    x = torch.randn(2, 3, 4)
    assert torch.equal(Normalization.identity(("a", "b", "c")).apply(x), x)


def test_round_trip_through_json():
    scale = Normalization.fit(data(), names=("u", "v"))
    assert Normalization.from_dict(json.loads(json.dumps(scale.to_dict()))) == scale


def test_gradients_pass():
    x = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Normalization((1.0, 2.0), (0.5, 3.0)).apply, x)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Normalization((1.0,), (0.0,), ("u",)), "std 0 for u; give finite numbers, the std positive"),
        (lambda: Normalization((math.nan,), (1.0,)), "mean nan"),
        (lambda: Normalization((1.0, 2.0), (1.0,)), "2 means, 1 deviations"),
        (lambda: Normalization((1.0,), (1.0,)).apply(torch.zeros(1, 2, 4)), r"1 channels \(c0\) got a tensor of shape \(1, 2, 4\)"),
        (lambda: Normalization.fit([]), "got no data"),
        (lambda: Normalization.fit(torch.full((1, 2, 4), math.nan), names=("u", "v")), "4 values of u that are not finite"),
        (lambda: Normalization.fit(torch.zeros(1, 1, 5), grid=Domain.periodic(1.0).grid(4)), r"shape \(1, 1, 5\) for the grid \(4,\)"),
        (lambda: Normalization.from_dict({"mean": [0.0]}), "expected lists mean, std and names"),
        (lambda: Normalization.from_dict({"mean": [[0]], "std": [1], "names": ["u"]}), "lists of numbers"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
