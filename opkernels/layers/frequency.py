"""FrequencyBlock: one layer of a network that lives on the coefficients of functions, not on their samples.

For coefficients z (B, C, *m) in a product of bases, k = (k_1, ..., k_d),

    y_o(k)  = act( sum_i W(k)_oi z_i(k) )                    every mode mixes its channels
    y_c(p)  <- sum_k A^a_c(p, k) y_c(.., k, ..)               a = 1..d: every channel mixes its modes, axis by axis
    z       <- z + y

Products such as u.grad(u) are convolutions of coefficients, so the modes must talk to each other. Cost and parameters know
only the number of modes, C^2 prod(m) + C sum(m^2), never the grid. `Mixing` says where W and A come from:

| kind        | W(k)                            | A^a_c(p, k)                         | parameters per block         |
| ----------- | ------------------------------- | ----------------------------------- | ---------------------------- |
| "dense"     | one matrix per mode             | one matrix per channel and axis     | C^2 prod(m) + C sum(m^2)     |
| "low_rank"  | sum_r a_r(k) V_r                | as above                            | r (prod(m) + C^2) + C sum(m^2) |
| "amortized" | sum_r g_r(k) V_r                | sum_r h_r(p, k) U_rc                | free of the number of modes  |

with g and h small networks of the wave numbers: weights for any number of modes.

Reference: Poli et al., "Transform Once", NeurIPS 2022, arXiv 2211.14453; the triangular form follows "Truly Scale-Equivariant
Deep Nets with Fourier Layers", arXiv 2311.02922; weights from the wave number: Xiao et al., "Amortized Fourier Neural
Operators", NeurIPS 2024.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from opkernels.bases import Basis
from opkernels.layers.channel_mlp import activation_named

__all__ = ["SECOND_MOMENTS", "ChannelMixing", "FrequencyBlock", "Mixing", "ModeBias", "ModeFunction", "ModeMixing", "mode_features"]

SECOND_MOMENTS = {"gelu": 0.4252, "silu": 0.3558, "tanh": 0.3943, "sin": 0.4323, "relu": 0.5}
"""E act(x)^2 for a standard normal x."""

_KINDS = ("dense", "low_rank", "amortized", "unet", "local")
_WIDTH = 32  # of the networks that make amortized weights


@dataclass(frozen=True)
class Mixing:
    """How a network on coefficients mixes modes and channels.

    Parameters
    ----------
    kind : {"dense", "low_rank", "amortized", "unet", "local"}
        The table above; "unet" replaces the blocks of a model by one `FrequencyUNet`, "local" by blocks of an FNO on the
        coarsest grid that carries the modes (`opkernels.models.inner_grid`).
    rank : int
        Number r of shared matrices, for "low_rank" and "amortized"; 4 to 16.
    causal : bool
        No mode depends on a higher one (on any axis): low modes never change when modes are added. Not for "unet" and
        "local".

    Raises
    ------
    ValueError
        If the kind is unknown, the rank is below one, or a kind that looks both ways is to be causal.
    """

    kind: str = "dense"
    rank: int = 8
    causal: bool = False

    def __post_init__(self):
        if self.kind not in _KINDS:
            raise ValueError(f"Mixing got kind={self.kind!r}; choose one of {', '.join(_KINDS)}")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"Mixing got rank={self.rank!r}; give a whole number of at least 1")
        if not isinstance(self.causal, bool):
            raise ValueError(f"Mixing got causal={self.causal!r}; give true or false")
        if self.kind in ("unet", "local") and self.causal:
            raise ValueError(f'Mixing got kind="{self.kind}" with causal=True, but its modes look both ways; choose another kind')

    @classmethod
    def of(cls, options: Mixing | Mapping | str) -> Mixing:
        """Return `options` itself, or the mixing that a name or a mapping (from a configuration file) describes."""
        if isinstance(options, Mixing):
            return options
        if isinstance(options, str):
            return cls(options)
        if not isinstance(options, Mapping):
            raise ValueError(f"got mixing={options!r}; give a name, such as dense, or a mapping of kind, rank and causal")
        unknown = set(options) - {"kind", "rank", "causal"}
        if unknown:
            raise ValueError(f"got the mixing options {', '.join(sorted(unknown))}; choose from kind, rank, causal")
        return cls(**options)


class ModeFunction(nn.Module):
    """A small network of wave numbers: for rows of features (M, F) the numbers (M, rank), whose squares sum to 1 in every row.

    Parameters
    ----------
    n_features : int
        F; see `mode_features`.
    rank : int
        Numbers per row.
    """

    def __init__(self, n_features: int, rank: int):
        super().__init__()
        self.first, self.second = nn.Linear(n_features, _WIDTH), nn.Linear(_WIDTH, rank)

    def forward(self, features: Tensor) -> Tensor:
        """Return the numbers."""
        y = self.second(torch.sin(self.first(features)))
        return y / y.square().sum(-1, keepdim=True).add(1e-12).sqrt()


def mode_features(basis: Basis) -> Tensor:
    """Return what tells the functions of a basis apart, whatever their number: (size, 4), all between 0 and 1 or slowly growing."""
    k = torch.tensor(basis.orders, dtype=torch.get_default_dtype())
    sines = torch.tensor([float(basis.kind == "fourier" and i % 2 == 0 and i > 0) for i in basis.numbers])
    return torch.stack([torch.log1p(k), 1 / (1 + k), (k == 0).to(k), sines.to(k)], dim=1)


class ChannelMixing(nn.Module):
    """A matrix on the channels of every mode: z(k) -> W(k) z(k), (M, B, C) -> (M, B, C), M = prod(sizes).

    Parameters
    ----------
    channels : int
        C.
    bases : sequence of Basis
        One per axis.
    mixing : Mixing
        Where W(k) comes from.
    gain : float
        Variance of the result over that of the input, at the start: the matrices have entries of the variance gain/C.
    """

    def __init__(self, channels: int, bases: Sequence[Basis], mixing: Mixing = Mixing(), *, gain: float = 1.0):  # noqa: B008 frozen
        super().__init__()
        count, rank = prod(b.size for b in bases), mixing.rank
        shared = mixing.kind != "dense"
        self.weight = nn.Parameter(torch.randn(rank if shared else count, channels, channels) * math.sqrt(gain / channels))
        self.modes = nn.Parameter(torch.randn(count, rank) / math.sqrt(rank)) if mixing.kind == "low_rank" else None
        self.function = None
        if mixing.kind == "amortized":
            self.function = ModeFunction(4 * len(bases), rank)
            self.register_buffer("features", _product_features(bases), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return the mixed coefficients."""
        shares = self.modes if self.function is None else self.function(self.features)
        weight = self.weight
        if shares is not None:
            weight = torch.matmul(shares, weight.flatten(1)).view(-1, *weight.shape[1:])
        return torch.bmm(z, weight)


class ModeMixing(nn.Module):
    """A matrix on the modes of every channel and axis: (C, *sizes, B) -> (C, *sizes, B).

    Parameters
    ----------
    channels : int
        C.
    bases : sequence of Basis
        One per axis.
    mixing : Mixing
        Where A(p, k) comes from. If causal, A(p, k) = 0 where the wave number of k exceeds that of p.
    gain : float
        Variance of the result over that of the input, at the start. A row that sums f modes has weights of the variance
        gain^(1/d)/f, so that every mode keeps its variance, in the triangular form too.
    """

    def __init__(self, channels: int, bases: Sequence[Basis], mixing: Mixing = Mixing(), *, gain: float = 1.0):  # noqa: B008 frozen
        super().__init__()
        self.causal, self.amortized = mixing.causal, mixing.kind == "amortized"
        self.matrices, self.functions = nn.ParameterList(), nn.ModuleList()
        for a, basis in enumerate(bases):
            mask = _not_above(basis) if mixing.causal else torch.ones(basis.size, basis.size)
            std = (gain ** (1 / len(bases)) / mask.sum(1, keepdim=True)).sqrt()
            if self.amortized:
                features = mode_features(basis)
                pairs = torch.cat([features[:, None].expand(-1, basis.size, -1), features[None].expand(basis.size, -1, -1)], dim=2)
                self.register_buffer(f"features{a}", torch.cat([pairs, torch.eye(basis.size)[:, :, None]], dim=2), persistent=False)
                self.register_buffer(f"mask{a}", mask / mask.sum(1, keepdim=True).sqrt(), persistent=False)
                self.functions.append(ModeFunction(9, mixing.rank))
                self.matrices.append(nn.Parameter(torch.randn(channels, mixing.rank) * gain ** (0.5 / len(bases))))
                continue
            self.matrices.append(nn.Parameter(torch.randn(channels, basis.size, basis.size) * std * mask))
            if mixing.causal:
                self.register_buffer(f"mask{a}", mask, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return the mixed coefficients."""
        for a in range(len(self.matrices)):
            moved = z.movedim(1 + a, 1)
            z = torch.bmm(self._matrix(a), moved.flatten(2)).view(moved.shape).movedim(1, 1 + a)
        return z

    def _matrix(self, a: int) -> Tensor:
        """Return A of axis `a`, (C, size, size)."""
        matrix = self.matrices[a]
        if self.amortized:
            matrix = torch.einsum("cr,pkr->cpk", matrix, self.functions[a](getattr(self, f"features{a}")))
        return matrix * getattr(self, f"mask{a}") if self.causal or self.amortized else matrix


class ModeBias(nn.Module):
    """One number for every channel and mode, (C, *sizes): a function that is added, such as where a force sits.

    Parameters
    ----------
    channels : int
        C.
    bases : sequence of Basis
        One per axis.
    mixing : Mixing
        "amortized" makes the numbers from the wave numbers; else they are free, and zero at the start.
    """

    def __init__(self, channels: int, bases: Sequence[Basis], mixing: Mixing = Mixing()):  # noqa: B008 frozen
        super().__init__()
        self.sizes, self.function = tuple(b.size for b in bases), None
        if mixing.kind == "amortized":
            self.function = ModeFunction(4 * len(bases), mixing.rank)
            self.register_buffer("features", _product_features(bases), persistent=False)
            self.weight = nn.Parameter(0.02 * torch.randn(channels, mixing.rank))
        else:
            self.weight = nn.Parameter(torch.zeros(channels, *self.sizes))

    def forward(self) -> Tensor:
        """Return the numbers, (C, *sizes)."""
        if self.function is None:
            return self.weight
        return torch.matmul(self.weight, self.function(self.features).T).view(-1, *self.sizes)


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
    mixing : Mixing
        Where the matrices come from, and whether they are triangular: then the block commutes with dropping the modes above
        any wave number.
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
        mixing: Mixing = Mixing(),  # noqa: B008 frozen
        gain: float = 1.0,
        n_embedding: int = 0,
    ):
        super().__init__()
        for label, value in (("channels", channels), ("number of bases", len(bases))):
            if value < 1:
                raise ValueError(f"FrequencyBlock got {label}={value}; give 1 or more")
        if not gain > 0:
            raise ValueError(f"FrequencyBlock got gain={gain}; give a positive number")
        self.channels, self.sizes = channels, tuple(b.size for b in bases)
        self.activation = activation_named(activation)
        self.channel_mixing = ChannelMixing(channels, bases, mixing)
        self.mode_mixing = ModeMixing(channels, bases, mixing, gain=gain / SECOND_MOMENTS[activation])
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
        y = self.activation(y).permute(2, 0, 1).contiguous().view(self.channels, *self.sizes, z.shape[0])
        return z + self.mode_mixing(y).movedim(-1, 0)


def _product_features(bases: Sequence[Basis]) -> Tensor:
    """Return the features of all products of functions, (prod(sizes), 4 d)."""
    return torch.stack([torch.cat(rows) for rows in itertools.product(*(mode_features(b) for b in bases))])


def _not_above(basis: Basis) -> Tensor:
    """One where row p may depend on column k, (size, size); the cosine and the sine of a wave number see each other."""
    k = torch.tensor(basis.orders)
    return (k[None] <= k[:, None]).to(torch.get_default_dtype())
