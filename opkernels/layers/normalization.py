"""Normalization whose statistics are integrals over the domain, not sums over samples.

    mean = 1/|Omega| int u dx,   var = 1/|Omega| int (u - mean)^2 dx,   y = gamma (u - mean)/sqrt(var + eps) + beta

by the quadrature weights of the grid, so that they converge to the same numbers on every grid. Nothing is
remembered between calls. Per channel ("instance"), the agreement is only near: a channel with little in it but what
the grid does not resolve is brought to rms 1 like the others, errors included (1e-7 to 1e-4 between 64 and 256 samples in
a fresh FNO, 1e-7 and less for all channels together), and constants added before it have no effect.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from opkernels.domains import Grid

__all__ = ["QuadratureNorm", "norm_named"]


class QuadratureNorm(nn.Module):
    """Normalize each channel ("instance") or all channels together ("group") of each sample.

    Parameters
    ----------
    channels : int
        Number C of channels.
    joint : bool
        One mean and variance for all channels instead of one per channel.
    affine : bool
        Learn gamma and beta per channel.
    eps : float
        Added to the variance; a field of rms far below sqrt(eps) is not brought to one.
    """

    def __init__(self, channels: int, *, joint: bool = False, affine: bool = False, eps: float = 1e-5):
        super().__init__()
        self.joint, self.eps = joint, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Return the normalized field, (B, C, *grid.sizes) as `x`; statistics in float32 at least."""
        with torch.autocast(x.device.type, enabled=False):
            u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            centered = u - self._mean(u, grid)
            y = centered * torch.rsqrt(self._mean(centered.square(), grid) + self.eps)
            if self.weight is not None and self.bias is not None:
                shape = (-1, *[1] * grid.ndim)
                y = y * self.weight.view(shape).to(y.dtype) + self.bias.view(shape).to(y.dtype)
            return y.to(x.dtype)

    def _mean(self, u: Tensor, grid: Grid) -> Tensor:
        axes = tuple(range(2, u.ndim))
        if grid.uniform:
            mean = grid.split.total(u.sum(axes, keepdim=True)) / math.prod(grid.shape)
        else:
            mean = grid.split.total((u * (grid.weights(u.device, u.dtype) / grid.domain.measure)).sum(axes, keepdim=True))
        return mean.mean(1, keepdim=True) if self.joint else mean


def norm_named(kind: str | None, channels: int) -> QuadratureNorm | None:
    """Return "instance_norm" (per channel, nothing learned), "group_norm" (all channels, affine), or None."""
    if kind == "instance_norm":
        return QuadratureNorm(channels)
    if kind == "group_norm":
        return QuadratureNorm(channels, joint=True, affine=True)
    if kind is None:
        return None
    raise ValueError(f"got norm={kind!r}; choose instance_norm, group_norm or None")
