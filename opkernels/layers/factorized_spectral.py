"""Spectral convolution one axis at a time: the sum of d one-dimensional spectral convolutions.

    K v (x) = sum_a Re sum_{|k| <= K_a} c_k W_a(k) v_hat_a(k; other axes) exp(2 pi i k x_a/L_a)

where v_hat_a is the Fourier coefficient along axis a alone. Its weights grow with the sum, not the product, of the modes,
so many modes and layers are affordable; interaction between axes comes from stacking layers.

Reference: Tran, Mathews, Xie, Ong, "Factorized Fourier Neural Operators", ICLR 2023, arXiv 2111.13802, equation 9.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from opkernels.domains import Grid
from opkernels.layers.spectral import SpectralConv

__all__ = ["AxisSpectralConv"]


class AxisSpectralConv(nn.Module):
    """Sum over the axes of a `SpectralConv` along that axis alone.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    n_modes : sequence of int
        Modes per axis, both signs counted: |k| <= (n_modes - 1)//2 is kept.

    Raises
    ------
    ValueError
        If a number of channels or modes is below one; on a call, as `SpectralConv`.

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> layer = AxisSpectralConv(3, 4, (16, 8))
    >>> layer(torch.zeros(2, 3, 33, 48), Domain.periodic(1.0, 2.0).grid(33, 48)).shape
    torch.Size([2, 4, 33, 48])
    """

    def __init__(self, in_channels: int, out_channels: int, n_modes: Sequence[int]):
        super().__init__()
        self.in_channels = in_channels
        self.axes = nn.ModuleList(SpectralConv(in_channels, out_channels, (m,), bias=False) for m in n_modes)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Return (B, out_channels, *grid.sizes) for x (B, in_channels, *grid.sizes), channels last in memory."""
        d = len(self.axes)
        if x.ndim != d + 2 or x.shape[1] != self.in_channels or tuple(x.shape[2:]) != grid.sizes:
            raise ValueError(
                f"AxisSpectralConv got x of shape {tuple(x.shape)} on a grid of shape {grid.sizes} for {d} axes; "
                f"expected (batch, {self.in_channels}, *grid.shape)"
            )
        terms = [self._along(a, x, grid) for a in range(d)]
        return sum(terms[1:], start=terms[0])

    def _along(self, a: int, x: Tensor, grid: Grid) -> Tensor:
        """Apply the convolution of axis a, the other axes joining the batch."""
        u = x.movedim((1, a + 2), (-1, -2))
        batch = u.shape[:-2]
        y = self.axes[a](u.flatten(0, -3).movedim(-1, 1), grid.line(a))
        return y.movedim(1, -1).unflatten(0, batch).movedim((-1, -2), (1, a + 2))
