"""FrequencyBlock: one layer of a network that lives on the coefficients of functions, not on their samples.

For coefficients z (B, C, *m) in a product of bases, k = (k_1, ..., k_d),

    y_o(k)  = act( sum_i W(k)_oi z_i(k) )                    every mode mixes its channels
    y_c(p)  <- sum_k A^a_c(p, k) y_c(.., k, ..)               a = 1..d: every channel mixes its modes, axis by axis
    z       <- z + y

Products such as u.grad(u) are convolutions of coefficients, so the modes must talk to each other. Cost and parameters know
only the number of modes, C^2 prod(m) + C sum(m^2), never the grid.

Reference: Poli et al., "Transform Once", NeurIPS 2022, arXiv 2211.14453; the triangular form follows "Truly Scale-Equivariant
Deep Nets with Fourier Layers", arXiv 2311.02922.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from opkernels.layers.channel_mlp import activation_named
from opkernels.transforms import Basis

__all__ = ["SECOND_MOMENTS", "ChannelMixing", "FrequencyBlock", "ModeMixing"]

SECOND_MOMENTS = {"gelu": 0.4252, "silu": 0.3558, "tanh": 0.3943, "sin": 0.4323, "relu": 0.5}
"""E act(x)^2 for a standard normal x."""


class ChannelMixing(nn.Module):
    """A matrix on the channels of every mode: z(k) -> W(k) z(k), (M, B, C) -> (M, B, C), M = prod(sizes).

    Parameters
    ----------
    channels : int
        C.
    bases : sequence of Basis
        One per axis.
    rank : int, optional
        W(k) = sum_r a_r(k) V_r with that many matrices V_r, in place of one matrix per mode: rank (M + C^2) numbers
        instead of M C^2.
    gain : float
        Variance of the result over that of the input, at the start: the weights have the variance gain/C.
    """

    def __init__(self, channels: int, bases: Sequence[Basis], *, rank: int | None = None, gain: float = 1.0):
        super().__init__()
        count = prod(b.size for b in bases)
        self.weight = nn.Parameter(torch.randn(rank or count, channels, channels) * math.sqrt(gain / channels))
        self.modes = nn.Parameter(torch.randn(count, rank) / math.sqrt(rank)) if rank else None

    def forward(self, z: Tensor) -> Tensor:
        """Return the mixed coefficients."""
        weight = self.weight
        if self.modes is not None:
            weight = torch.matmul(self.modes, weight.flatten(1)).view(-1, *weight.shape[1:])
        return torch.bmm(z, weight)


class ModeMixing(nn.Module):
    """A matrix on the modes of every channel and axis: (C, *sizes, B) -> (C, *sizes, B).

    Parameters
    ----------
    channels : int
        C.
    bases : sequence of Basis
        One per axis.
    causal : bool
        Let no mode depend on a higher one (on any axis): A(p, k) = 0 where the wave number of k exceeds that of p.
        Low modes then never change when modes are added.
    gain : float
        Variance of the result over that of the input, at the start. A row that sums f modes has weights of the variance
        gain^(1/d)/f, so that every mode keeps its variance, in the triangular form too.
    """

    def __init__(self, channels: int, bases: Sequence[Basis], *, causal: bool = False, gain: float = 1.0):
        super().__init__()
        self.causal = causal
        self.matrices = nn.ParameterList()
        for a, basis in enumerate(bases):
            mask = _not_above(basis) if causal else torch.ones(basis.size, basis.size)
            std = (gain ** (1 / len(bases)) / mask.sum(1, keepdim=True)).sqrt()
            self.matrices.append(nn.Parameter(torch.randn(channels, basis.size, basis.size) * std * mask))
            if causal:
                self.register_buffer(f"mask{a}", mask, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return the mixed coefficients."""
        for a, matrix in enumerate(self.matrices):
            if self.causal:
                matrix = matrix * getattr(self, f"mask{a}")
            moved = z.movedim(1 + a, 1)
            z = torch.bmm(matrix, moved.flatten(2)).view(moved.shape).movedim(1, 1 + a)
        return z


class FrequencyBlock(nn.Module):
    """Mix the channels of every mode, activate, mix the modes of every channel, add to the input (module's docstring).

    Parameters
    ----------
    channels : int
        C, 16 to 64 as a rule.
    bases : sequence of Basis
        One per axis; they say how many modes there are, and their order of wave numbers.
    activation : str
        "gelu" (default), "silu", "tanh", "sin" or "relu".
    causal : bool
        Triangular mixing of modes: the block commutes with dropping the modes above any wave number.
    rank : int, optional
        Number of matrices that the modes share, see `ChannelMixing`; worth trying where data are few. Default: no sharing.
    gain : float
        Variance of the added part over that of the input, at the start. In a stack of L blocks give 1/(2L); larger
        gains multiply from block to block.
    n_embedding : int
        Size of a per-sample `embedding` e that scales and shifts, W z -> (1 + gamma(e)) W z + beta(e), before the activation.

    Raises
    ------
    ValueError
        If a number is not positive, an activation is unknown, or coefficients do not have the shape (B, C, *sizes).

    Notes
    -----
    The activation acts on coefficients: in space this is a global map, which does not commute with translations.

    Examples
    --------
    >>> block = FrequencyBlock(8, [Basis("fourier", 9), Basis("cosine", 6)])
    >>> block(torch.zeros(2, 8, 9, 6)).shape
    torch.Size([2, 8, 9, 6])
    """

    def __init__(
        self,
        channels: int,
        bases: Sequence[Basis],
        *,
        activation: str = "gelu",
        causal: bool = False,
        rank: int | None = None,
        gain: float = 1.0,
        n_embedding: int = 0,
    ):
        super().__init__()
        for label, value in (("channels", channels), ("rank", 1 if rank is None else rank), ("number of bases", len(bases))):
            if value < 1:
                raise ValueError(f"FrequencyBlock got {label}={value}; give 1 or more")
        if not gain > 0:
            raise ValueError(f"FrequencyBlock got gain={gain}; give a positive number")
        self.channels, self.sizes = channels, tuple(b.size for b in bases)
        self.activation = activation_named(activation)
        self.channel_mixing = ChannelMixing(channels, bases, rank=rank)
        self.mode_mixing = ModeMixing(channels, bases, causal=causal, gain=gain / SECOND_MOMENTS[activation])
        self.film = nn.Linear(n_embedding, 2 * channels) if n_embedding else None

    def forward(self, z: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Return the coefficients (B, C, *sizes) after the block, for those before it and embedding (B, n_embedding)."""
        if tuple(z.shape[1:]) != (self.channels, *self.sizes):
            raise ValueError(
                f"FrequencyBlock got coefficients of shape {tuple(z.shape)}; expected (batch, {self.channels}, "
                f"{', '.join(map(str, self.sizes))}) (batch, channels, modes)"
            )
        y = self.channel_mixing(z.flatten(2).permute(2, 0, 1).contiguous())
        if self.film is not None:
            scale, shift = self.film(embedding).chunk(2, dim=1)
            y = (1 + scale) * y + shift
        # one unit stride: without it, products of batches of matrices fall back to a loop
        y = self.activation(y).permute(2, 0, 1).contiguous().view(self.channels, *self.sizes, -1)
        return z + self.mode_mixing(y).movedim(-1, 0)


def _not_above(basis: Basis) -> Tensor:
    """One where row p may depend on column k, (size, size); the cosine and the sine of a wave number see each other."""
    k = torch.arange(basis.size)
    if basis.kind == "fourier":
        k = (k + 1) // 2
    return (k[None] <= k[:, None]).to(torch.get_default_dtype())
