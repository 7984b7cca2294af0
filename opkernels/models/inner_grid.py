"""InnerGrid: a map of coefficients whose nonlinearity acts in space, on the coarsest grid that carries the modes.

    z -> synthesis on n' >= 3/2 m points per axis -> blocks of an FNO (`OperatorBlock`) -> analysis

The grid belongs to the modes, not to the data: what comes out is the same whatever the samples were, and costs the same. Against
an activation on coefficients this commutes with translations, up to what the activation aliases on the inner grid, and so
needs fewer data; a spectral convolution on n' points is an FNO's at a fraction of the price.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from opkernels.bases import Basis, analyze, synthesize
from opkernels.domains import Domain
from opkernels.layers.spectral import SpectralConv
from opkernels.models.backbone import Block, OperatorBlock

__all__ = ["InnerGrid"]


class InnerGrid(nn.Module):
    """Blocks of an FNO on an inner grid, (B, C, *sizes) -> (B, C, *sizes).

    Parameters
    ----------
    domain : Domain
        Periodic on every axis.
    bases : sequence of Basis
        Fourier, one per axis.
    height : float
        Factor from coefficients to those of a function of about unit size.
    channels, n_layers : int
        Width and number of blocks.
    activation : str
        As in `FNO`.
    n_embedding : int
        Size of a per-sample `embedding` that scales and shifts every block.

    Raises
    ------
    ValueError
        If a basis is not Fourier.
    """

    def __init__(
        self, domain: Domain, bases: Sequence[Basis], height: float, channels: int, n_layers: int, *, activation: str, n_embedding: int
    ):
        super().__init__()
        for basis, axis in zip(bases, domain.axes, strict=True):
            if basis.kind != "fourier":
                raise ValueError(
                    f'mixing="local" needs Fourier bases, but that of axis {axis.name} is "{basis.kind}"; choose basis="fourier" '
                    f"there (periodic functions only), or another mixing"
                )
        self.bases, self.height = tuple(bases), height
        self.grid = domain.grid(*(2 * math.ceil(0.75 * (2 * max(b.orders) + 1)) for b in bases))
        modes = [2 * max(b.orders) + 1 for b in bases]
        self.blocks = nn.ModuleList(
            OperatorBlock(
                SpectralConv(channels, channels, modes),
                channels,
                Block(),
                norm=None,
                activation=activation,
                n_embedding=n_embedding,
                last=i == n_layers - 1,
            )
            for i in range(n_layers)
        )
        for name, parameter in self.named_parameters():
            if name.endswith("bias") and "film" not in name:
                nn.init.zeros_(parameter)

    def forward(self, z: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Return the coefficients (B, C, *sizes) after the blocks, for those before them and embedding (B, n_embedding)."""
        x = synthesize(z, self.grid, self.bases) * self.height
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)  # channels last in memory, as the blocks like it
        for block in self.blocks:
            x = block(x, self.grid, embedding)
        return analyze(x.contiguous(), self.grid, self.bases) / self.height
