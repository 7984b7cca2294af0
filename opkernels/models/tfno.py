"""TFNO: an FNO whose spectral weights are one low-rank tensor, per layer or for all layers together.

    y = project( block_L( ... block_1( lift(u) ) ) ),     K_l v (x) = sum_k W_l(k) v_hat(k) exp(2 pi i k . x/L) + b_l

with W_l or, jointly, the tensor of all W_l in Tucker, canonical (CP) or tensor-train form
(`opkernels.layers.factorizations`). Everything else is the FNO of the same options, so that the two
can be compared at an equal backbone.

Reference: Kossaifi, Kovachki, Azizzadenesheli, Anandkumar, "Multi-Grid Tensorized Fourier Neural
Operator for High-Resolution PDEs", TMLR 2024, arXiv 2310.00120.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from opkernels.domains import Domain
from opkernels.layers.factorizations import Rank, factorized_weight
from opkernels.layers.spectral import SpectralConv
from opkernels.layers.tensorized import FactorizedWeight
from opkernels.models.backbone import Backbone, Block
from opkernels.models.fno import mode_set

__all__ = ["TFNO"]


class TFNO(Backbone):
    """Tensorized Fourier neural operator.

    Parameters
    ----------
    domain, in_channels, out_channels, n_modes, hidden_channels, n_layers
        As in `FNO`.
    rank : float, int or sequence of int
        Share of the dense weights' entries in (0, 1] (good values .01 to .5), or the ranks themselves in
        the order [layers,] input, output, axes (`opkernels.layers.factorizations.resolve_rank`).
    factorization : {"tucker", "cp", "tt"}
        Form of the weights.
    joint : bool
        One tensor (layers, input, output, modes) instead of one per layer: fewer parameters for the same ranks.
    n_parameters, activation, norm, positional_embedding, lifting_channel_ratio, projection_channel_ratio, block, mode_rule
        As in `FNO`.

    Raises
    ------
    ValueError
        As for `FNO`; also if the factorization is unknown or the rank is below one or above full.

    Examples
    --------
    >>> import torch
    >>> model = TFNO(Domain.periodic(1.0, 1.0), 1, 2, n_modes=(8, 8), hidden_channels=8, n_layers=2, joint=True)
    >>> model(torch.zeros(3, 1, 33, 48)).shape
    torch.Size([3, 2, 33, 48])
    """

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        n_modes: Sequence[int],
        rank: Rank = 0.1,
        factorization: str = "tucker",
        joint: bool = False,
        hidden_channels: int = 32,
        n_layers: int = 4,
        n_parameters: int = 0,
        activation: str = "gelu",
        norm: str | None = None,
        positional_embedding: str | None = "walls",
        lifting_channel_ratio: float = 2,
        projection_channel_ratio: float = 2,
        block: Block | Mapping = Block(),  # noqa: B008 frozen
        mode_rule: str = "symmetric",
    ):
        if min(hidden_channels, n_layers) < 1:
            raise ValueError(f"TFNO got hidden_channels={hidden_channels} and n_layers={n_layers}; give 1 or more of each")
        modes = mode_set(domain, n_modes, mode_rule)
        std, shape = hidden_channels**-0.5, (hidden_channels, hidden_channels, *modes.shape)
        if joint:
            tensor = factorized_weight((n_layers, *shape), rank=rank, factorization=factorization, std=std, joint=True)
            weights = [FactorizedWeight(tensor, layer) for layer in range(n_layers)]
        else:
            tensor = None
            weights = [FactorizedWeight(factorized_weight(shape, rank=rank, factorization=factorization, std=std)) for _ in range(n_layers)]
        super().__init__(
            domain,
            in_channels,
            out_channels,
            hidden_channels=hidden_channels,
            convs=[SpectralConv(hidden_channels, hidden_channels, n_modes, modes=modes, weight=weight) for weight in weights],
            n_parameters=n_parameters,
            activation=activation,
            norm=norm,
            positional_embedding=positional_embedding,
            lifting_channel_ratio=lifting_channel_ratio,
            projection_channel_ratio=projection_channel_ratio,
            block=block,
        )
        self.joint_weight: nn.Module | None = tensor
