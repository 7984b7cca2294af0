"""Pointwise layers: the same small network at every point, so nothing in them knows the grid.

Tensors are (B, C, *spatial) in name; in memory the channels may come last, and stay there, which makes every
product here one matrix product without copies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opkernels.domains import Grid

__all__ = ["ChannelMLP", "Pointwise", "SoftGating", "activation_named", "skip_named"]

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sin": torch.sin,
    "relu": torch.relu,
}


def activation_named(name: str) -> Activation:
    """Return the activation of that name; smooth ones (gelu, silu, tanh, sin) alias least between grids."""
    if name not in ACTIVATIONS:
        raise ValueError(f"got activation={name!r}; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Pointwise(nn.Linear):
    """A matrix on the channels of every point: (B, C_in, *spatial) -> (B, C_out, *spatial)."""

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Return W x + b; `grid` is accepted and not needed."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class SoftGating(nn.Module):
    """One learned factor per channel, 1 at the start: (B, C, *spatial) -> (B, C, *spatial)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Return w_c x_c; `grid` is accepted and not needed."""
        return x * self.weight.view(-1, *[1] * (x.ndim - 2))


class ChannelMLP(nn.Module):
    """Two matrices with an activation between, at every point: C_in -> hidden -> C_out.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    hidden_channels : int
        Width between the two matrices.
    activation : str
        "gelu" (default), "silu", "tanh", "sin" or "relu".

    Examples
    --------
    >>> ChannelMLP(3, 2, 8)(torch.zeros(5, 3, 16, 20)).shape
    torch.Size([5, 2, 16, 20])
    """

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int, *, activation: str = "gelu"):
        super().__init__()
        if min(in_channels, out_channels, hidden_channels) < 1:
            raise ValueError(f"ChannelMLP got {in_channels} -> {hidden_channels} -> {out_channels} channels; give at least one of each")
        self.first = Pointwise(in_channels, hidden_channels)
        self.activation = activation_named(activation)
        self.second = Pointwise(hidden_channels, out_channels)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Return the network's value at every point; `grid` is accepted and not needed."""
        return self.second(self.activation(self.first(x)))


def skip_named(kind: str | None, channels: int) -> nn.Module | None:
    """Return the connection around a layer: "linear" (a matrix), "soft-gating", "identity", or None for none."""
    if kind == "linear":
        return Pointwise(channels, channels, bias=False)
    if kind == "soft-gating":
        return SoftGating(channels)
    if kind == "identity":
        return nn.Identity()
    if kind is None:
        return None
    raise ValueError(f"got the skip {kind!r}; choose linear, soft-gating, identity or None")
