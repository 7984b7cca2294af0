"""FFNO: the factorized Fourier neural operator, the baseline with one-dimensional spectral convolutions.

    v <- v + MLP(K v),     K v = sum_a (spectral convolution along axis a) v,     y = project(v_L)

The residual comes after the channel MLP, so that many layers can be stacked; the MLP widens the channels.

Reference: Tran, Mathews, Xie, Ong, "Factorized Fourier Neural Operators", ICLR 2023, arXiv 2111.13802.
"""

from __future__ import annotations

from collections.abc import Sequence

from opkernels.domains import Domain
from opkernels.layers.factorized_spectral import AxisSpectralConv
from opkernels.models.backbone import Backbone, Block
from opkernels.models.checks import check_size
from opkernels.models.fno import mode_set
from opkernels.transforms import checked_modes

__all__ = ["FFNO"]


class FFNO(Backbone):
    """Factorized Fourier neural operator.

    Parameters
    ----------
    domain, in_channels, out_channels, n_modes, hidden_channels, n_parameters, activation, positional_embedding, domain_padding
        As in `FNO`; 16 to 64 modes are usual.
    n_layers : int
        Number of blocks; 4 to 24.
    channel_mlp_expansion : float
        Width of the pointwise network of a block over `hidden_channels`; 2 to 4.

    Raises
    ------
    ValueError
        As for `FNO`.

    Examples
    --------
    >>> import torch
    >>> model = FFNO(Domain.periodic(1.0, 1.0), 1, 2, n_modes=(16, 16), hidden_channels=8, n_layers=2)
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
        hidden_channels: int = 32,
        n_layers: int = 4,
        n_parameters: int = 0,
        activation: str = "gelu",
        positional_embedding: str | None = "walls",
        domain_padding: float | Sequence[float] = 0,
        channel_mlp_expansion: float = 2,
    ):
        check_size("FFNO", "hidden_channels", hidden_channels)
        check_size("FFNO", "n_layers", n_layers)
        mode_set(domain, n_modes, "symmetric")
        n_modes = checked_modes(n_modes)
        super().__init__(
            domain,
            in_channels,
            out_channels,
            hidden_channels=hidden_channels,
            convs=[AxisSpectralConv(hidden_channels, hidden_channels, n_modes) for _ in range(n_layers)],
            n_parameters=n_parameters,
            activation=activation,
            positional_embedding=positional_embedding,
            domain_padding=domain_padding,
            lifting_channel_ratio=0,
            block=Block(fno_skip=None, channel_mlp_skip="identity", channel_mlp_expansion=channel_mlp_expansion, residual=True),
        )
