"""Quadrature normalization: torch's norms on uniform grids, integrals on others; pointwise layers and positions."""

import math

import pytest
import torch
from helpers import fake_cuda
from torch.nn import functional as F

from opkernels import Axis, Domain
from opkernels.layers import ChannelMLP
from opkernels.layers.channel_mlp import activation_named, skip_named
from opkernels.layers.embedding import position_channels, positions
from opkernels.layers.normalization import QuadratureNorm, norm_named


@pytest.mark.parametrize("shape", [(17,), (8, 9), (5, 6, 7)])
def test_equals_torch_on_uniform_grids(shape):
    x = torch.randn(3, 4, *shape, dtype=torch.float64) * 3 + 1
    grid = Domain.periodic(*[1.0] * len(shape)).grid(*shape)
    torch.testing.assert_close(norm_named("instance_norm", 4)(x, grid), F.instance_norm(x), rtol=0, atol=1e-12)
    group = norm_named("group_norm", 4).double()
    with torch.no_grad():
        group.weight.normal_()
        group.bias.normal_()
    torch.testing.assert_close(group(x, grid), F.group_norm(x, 1, group.weight, group.bias), rtol=0, atol=1e-12)


@pytest.mark.parametrize("points, tolerance", [("gauss", 1e-13), ("endpoint", 1e-3), ("cell", 1e-3)])
@pytest.mark.parametrize("joint", [False, True])
def test_statistics_are_integrals(points, tolerance, joint):
    """u = x and 2 - x on [0, 2]: mean 1, variance 1/3 for each and for both together."""
    grid = Domain.box(2.0, points=points).grid(33)
    x = grid.coordinates(dtype=torch.float64)
    y = QuadratureNorm(2, joint=joint, eps=0.0)(torch.stack([x, 2 - x], dim=1), grid)
    wanted = torch.stack([x - 1, 1 - x], dim=1) * math.sqrt(3)
    torch.testing.assert_close(y, wanted, rtol=0, atol=3 * tolerance)


def test_statistics_in_float32_for_half_precision():
    grid, x = Domain.periodic(1.0, 1.0).grid(32, 32), torch.randn(1, 2, 32, 32) + 20
    y = QuadratureNorm(2)(x.bfloat16(), grid)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), F.instance_norm(x.bfloat16().float()), rtol=1e-2, atol=1e-2)


def test_runs_on_fake_cuda():
    with fake_cuda():
        grid = Domain.box(1.0, 1.0, points="endpoint").grid(8, 9)
        assert norm_named("group_norm", 3)(torch.randn(2, 3, 8, 9), grid).device.type == "cuda"
        assert positions(grid, "walls", torch.device("cuda"), torch.float32).device.type == "cuda"


def test_channel_mlp_is_the_same_network_at_every_point():
    mlp, x = ChannelMLP(3, 2, 5, activation="silu"), torch.randn(4, 3, 6, 7)
    at = mlp.second.weight @ F.silu(mlp.first.weight @ x[1, :, 2, 3] + mlp.first.bias) + mlp.second.bias
    torch.testing.assert_close(mlp(x)[1, :, 2, 3], at)
    with pytest.raises(ValueError, match="3 -> 0 -> 2 channels"):
        ChannelMLP(3, 2, 0)


def test_skips():
    x = torch.randn(2, 3, 5)
    gate = skip_named("soft-gating", 3)
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([1.0, 0.0, -2.0]))
    torch.testing.assert_close(gate(x), torch.stack([x[:, 0], 0 * x[:, 1], -2 * x[:, 2]], dim=1))
    linear = skip_named("linear", 3)
    torch.testing.assert_close(linear(x), torch.einsum("oi,bix->box", linear.weight, x))
    assert linear.bias is None and skip_named(None, 3) is None
    assert activation_named("relu") is torch.relu


def test_positions_are_coordinates_on_walls_and_harmonics_on_periods():
    domain = Domain((Axis(1, 3, points="cell"), Axis(0, 5, periodic=True, points="node")))
    grid = domain.grid(4, 5)
    got = positions(grid, "harmonics", torch.device("cpu"), torch.float64)
    s = torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64)
    t = 2 * math.pi * torch.arange(5, dtype=torch.float64) / 5
    for channel, wanted in zip(got, (s[:, None], t.sin(), t.cos()), strict=True):
        torch.testing.assert_close(channel, wanted.expand(4, 5))
    for kind, count in (("walls", 1), ("harmonics", 3), ("ramps", 2), (None, 0)):
        assert position_channels(domain, kind) == count == len(positions(grid, kind, torch.device("cpu"), torch.float64))
