"""Spectral convolution with a factorized weight, alone or as one layer of a joint weight.

    y(x) = Re sum_{k in K} c_k W(k) u_hat(k) exp(2 pi i k . x/L) + b,      W = Tucker, CP or tensor train

The factorizations, their ranks and how they start are in `opkernels.layers.factorizations`; this file
applies them.

Reference: Kossaifi et al., "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs",
TMLR 2024, arXiv 2310.00120.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from opkernels.layers.factorizations import CPWeight, Rank, TTWeight, TuckerWeight, dense_product, factorized_weight
from opkernels.layers.spectral import SpectralConv
from opkernels.transforms import Modes

__all__ = ["FactorizedSpectralConv", "FactorizedWeight"]


class FactorizedWeight(nn.Module):
    """One layer of a factorized weight, applied to the coefficients of a spectral convolution.

    While training, the product is taken through the factors or through the dense weight, as
    `ModeFirst.factored_is_cheaper` says; in evaluation without gradients the dense weight is kept, so
    that inference costs what a dense layer costs. The kept weight follows every change of the factors
    that PyTorch can see, and every call of ``train()`` and ``eval()``.

    Parameters
    ----------
    tensor : TuckerWeight, CPWeight or TTWeight
    layer : int, optional
        Which layer of a joint weight; whoever shares it out owns its parameters. None: the weight
        has no axis of layers and belongs to this module.
    """

    def __init__(self, tensor: TuckerWeight | CPWeight | TTWeight, layer: int | None = None):
        super().__init__()
        if layer is None:
            self.tensor = tensor
        else:
            object.__setattr__(self, "tensor", tensor)  # a second registration would save it twice
        self.layer = layer or 0
        self._kept: tuple[tuple, Tensor] | None = None

    def forward(self, z: Tensor) -> Tensor:
        """Return sum_i W_io(k) z_i(k), (P, 2, B, C_out), for z (P, 2, B, C_in)."""
        if self._may_keep():
            return dense_product(z, self._dense(z.dtype))
        weight = self.tensor.mode_first(self.layer, z.dtype)
        return weight.apply(z) if weight.factored_is_cheaper() else dense_product(z, weight.dense())

    def train(self, mode: bool = True) -> FactorizedWeight:
        """Switch between training and evaluation, and forget the kept weight."""
        self._kept = None
        return super().train(mode)

    def _may_keep(self) -> bool:
        learning = torch.is_grad_enabled() and any(p.requires_grad for p in self.tensor.parameters())
        if self.training or learning or torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
            return False
        # Under vmap there is no storage to go by, and tensors made in inference mode do not count their changes.
        return not any(is_functorch_wrapped_tensor(p) or p.is_inference() for p in self.tensor.parameters())

    def _dense(self, dtype: torch.dtype) -> Tensor:
        state = (dtype, *((p.data_ptr(), p._version, p.device) for p in self.tensor.parameters()))
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = state, self.tensor.mode_first(self.layer, dtype).dense()
        return self._kept[1]


class FactorizedSpectralConv(SpectralConv):
    """Spectral convolution whose weight is a Tucker, canonical or tensor-train factorization.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    n_modes : sequence of int
        Modes per axis, both signs counted: |k| <= (n_modes - 1)//2 is kept.
    rank : float, int or sequence of int
        Share of the dense weight's entries, or the ranks themselves (`resolve_rank`), in the order
        input, output, axes.
    factorization : {"tucker", "cp", "tt"}
        "tucker" is the usual choice; "cp" has the fewest parameters for the channels it couples.
    bias : bool
        Add a constant per output channel.

    Raises
    ------
    ValueError
        If a number of channels or modes is below one, the factorization is unknown, or the rank is
        below one or above full.

    Notes
    -----
    This saves parameters, not time: on grids of 64 and more the transforms cost more than the weight.

    Examples
    --------
    >>> from opkernels import Domain
    >>> layer = FactorizedSpectralConv(8, 8, (12, 12), rank=0.1)
    >>> layer(torch.zeros(2, 8, 33, 48), Domain.periodic(1.0, 1.0).grid(33, 48)).shape
    torch.Size([2, 8, 33, 48])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        *,
        rank: Rank = 0.1,
        factorization: str = "tucker",
        bias: bool = True,
    ):
        modes = Modes.symmetric(n_modes)
        std = (2 / (in_channels + out_channels)) ** 0.5
        tensor = factorized_weight((in_channels, out_channels, *modes.shape), rank=rank, factorization=factorization, std=std)
        super().__init__(in_channels, out_channels, n_modes, bias=bias, modes=modes, weight=FactorizedWeight(tensor))
