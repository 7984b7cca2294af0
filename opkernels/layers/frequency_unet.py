"""FrequencyUNet: convolutions over the lattice of modes, fine to coarse and back.

On the lattice of signed numbers (sines of a Fourier axis at -k, cosines at +k; other bases from 0 up), with C_l = 2^l C channels,

    v_0 = z,    v_{l+1} = act(conv_2(act(conv_3(v_l)))),    conv_2 with stride 2                       down
    w_l = v_l + conv_3([v_l, upsampled w_{l+1}])                                                       up

and z <- w_0. A convolution over modes mixes neighboring wave numbers with weights that do not know which: few parameters, and
products with smooth coefficients, which are such convolutions, come naturally. Outside the lattice there are zeros.

Reference: Poli et al., "Transform Once", NeurIPS 2022, arXiv 2211.14453 (T1 with a U-Net); Ronneberger et al., arXiv 1505.04597.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opkernels.bases import Basis
from opkernels.layers.channel_mlp import activation_named
from opkernels.layers.frequency import SECOND_MOMENTS

__all__ = ["FrequencyUNet"]

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class FrequencyUNet(nn.Module):
    """A U-Net on coefficients, (B, C, *sizes) -> (B, C, *sizes).

    Parameters
    ----------
    channels : int
        C.
    bases : sequence of Basis
        One to three, one per axis.
    n_levels : int
        How often the lattice is halved, 2 to 4: at most until one mode is left.
    activation : str
        "gelu" (default), "silu", "tanh", "sin" or "relu".
    n_embedding : int
        Size of a per-sample `embedding` that scales and shifts every level.

    Raises
    ------
    ValueError
        If there are more than three axes, a number is below one, or the lattice cannot be halved as often.

    Examples
    --------
    >>> FrequencyUNet(8, [Basis("fourier", 9), Basis("cosine", 6)], n_levels=2)(torch.zeros(2, 8, 9, 6)).shape
    torch.Size([2, 8, 9, 6])
    """

    def __init__(self, channels: int, bases: Sequence[Basis], *, n_levels: int = 3, activation: str = "gelu", n_embedding: int = 0):
        super().__init__()
        if len(bases) not in _CONV or channels < 1 or n_levels < 1:
            raise ValueError(
                f"FrequencyUNet got {len(bases)} axes, channels={channels}, n_levels={n_levels}; give 1 to 3, and at least 1 each"
            )
        most = max(1, math.ceil(math.log2(max(b.size for b in bases))))
        if n_levels > most:
            raise ValueError(
                f"FrequencyUNet got n_levels={n_levels}, but {' x '.join(str(b.size) for b in bases)} modes can be halved {most} times; "
                f"give at most {most} (n_layers of a T1)"
            )
        conv, gain = _CONV[len(bases)], 1 / SECOND_MOMENTS[activation]
        self.activation = activation_named(activation)
        widths = [channels * 2**level for level in range(n_levels + 1)]
        pairs = list(itertools.pairwise(widths))
        self.same = nn.ModuleList(_started(conv(a, a, 3, padding=1), 1.0) for a, _ in pairs)
        self.down = nn.ModuleList(_started(conv(a, b, 3, stride=2, padding=1), gain) for a, b in pairs)
        self.up = nn.ModuleList(_started(conv(a + b, a, 3, padding=1), 0.1) for a, b in pairs)
        self.films = nn.ModuleList(nn.Linear(n_embedding, 2 * b) for _, b in pairs) if n_embedding else None
        for a, basis in enumerate(bases):
            signed = [-k if basis.kind == "fourier" and i % 2 == 0 else k for i, k in zip(basis.numbers, basis.orders, strict=True)]
            order = torch.tensor(signed).argsort()
            self.register_buffer(f"order{a}", order, persistent=False)
            self.register_buffer(f"back{a}", order.argsort(), persistent=False)

    def forward(self, z: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Return the coefficients (B, C, *sizes) after the network, for those before it and embedding (B, n_embedding)."""
        v = self._reordered(z, "order")
        passed = []
        for level, (same, down) in enumerate(zip(self.same, self.down, strict=True)):
            passed.append(v)
            v = down(self.activation(same(v)))
            if self.films is not None:
                scale, shift = self.films[level](embedding)[(...,) + (None,) * (z.ndim - 2)].chunk(2, dim=1)
                v = (1 + scale) * v + shift
            v = self.activation(v)
        for up, skip in zip(reversed(self.up), reversed(passed), strict=True):
            v = skip + up(torch.cat([skip, F.interpolate(v, size=skip.shape[2:])], dim=1))
        return self._reordered(v, "back")

    def _reordered(self, z: Tensor, name: str) -> Tensor:
        for a in range(z.ndim - 2):
            z = z.index_select(2 + a, getattr(self, f"{name}{a}"))
        return z


def _started(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, gain: float) -> nn.Module:
    """Start a convolution with the variance gain/fan_in, and without bias."""
    nn.init.normal_(conv.weight, std=math.sqrt(gain / conv.weight[0].numel()))
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
