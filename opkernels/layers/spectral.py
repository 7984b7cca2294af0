"""Spectral convolution: multiply the lowest Fourier coefficients of a function by learned matrices.

    y_o(x) = Re sum_{k in K} c_k sum_i W_io(k) u_hat_i(k) exp(2 pi i k . x/L) + b_o,    c_k = 1 if k_d = 0 else 2

W is indexed by wave numbers, not by samples, so the same weights act on every grid. Coefficients that a grid does
not carry (2|k| >= n) count as zero.

The layer is three replaceable pieces, each of which knows nothing of the others:

| piece       | contract                                                           | here               |
| ----------- | ------------------------------------------------------------------ | ------------------ |
| `modes`     | which wave numbers are stored (`opkernels.transforms.Modes`)       | `Modes.symmetric`  |
| `transform` | ``analyze(x, grid)`` -> (B, 2, *modes, C), ``synthesize(z, grid)`` | `Fourier(modes)`   |
| `weight`    | a module: z (P, 2, B, C_in) -> (P, 2, B, C_out), P = prod(modes)   | `DenseWeight`      |

A factorized weight is another `weight`, neuraloperator's unpaired rows are another `modes`. On a field that is split over
processes the transform adds up the coefficients of all blocks, and every process has them all.

Reference: Li et al., ICLR 2021, arXiv 2010.08895, equations 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from opkernels.domains import Grid, table
from opkernels.transforms import Fourier, Modes

__all__ = ["DenseWeight", "SpectralConv"]


class DenseWeight(nn.Module):
    """One complex matrix (C_in, C_out) per stored wave number, as real pairs.

    ``tensor`` has the shape (*modes.shape, C_in, 2, C_out): mode-major, so that all products are one real
    batched matrix product with [re; im] as rows and [W_re | W_im] as columns. At the start its entries are
    complex normal with E|W|^2 = 2/(C_in + C_out), Hermitian on the plane of zero last wave number.
    """

    def __init__(self, modes: Modes, in_channels: int, out_channels: int):
        super().__init__()
        self.modes = modes
        std = (2 / (in_channels + out_channels)) ** 0.5
        tensor = torch.randn(*modes.shape, in_channels, 2, out_channels) * (std / 2**0.5)
        self.tensor = nn.Parameter(_hermitian(tensor, modes))

    def forward(self, z: Tensor) -> Tensor:
        """Return sum_i W_io(k) z_i(k), (P, 2, B, C_out), for z (P, 2, B, C_in), the last axis of modes fastest in P."""
        count, _, batch, c_in = z.shape
        c_out = self.tensor.shape[-1]
        weight = self.tensor.reshape(count, c_in, 2 * c_out).to(z.dtype)
        y = torch.bmm(z.reshape(count, 2 * batch, c_in), weight).view(count, 2, batch, 2, c_out)
        return torch.stack([y[:, 0, :, 0] - y[:, 1, :, 1], y[:, 1, :, 0] + y[:, 0, :, 1]], dim=1)


def _hermitian(tensor: Tensor, modes: Modes) -> Tensor:
    """Make W(-k) = conj W(k) on the plane of zero last wave number, keeping the variance."""
    if any(-a != b for a, b in zip(modes.lower[:-1], modes.upper[:-1], strict=True)):
        return tensor
    leading, last = tuple(range(modes.ndim - 1)), modes.ndim - 1
    real, imaginary = tensor.narrow(last, 0, 1).unbind(-2)
    plane = torch.stack([real + real.flip(leading), imaginary - imaginary.flip(leading)], dim=-2) / 2**0.5
    return torch.cat([plane, tensor.narrow(last, 1, modes.upper[-1])], dim=last)


class SpectralConv(nn.Module):
    """Convolution with a learned, band-limited kernel on a periodic box of one or more axes.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    n_modes : sequence of int
        Modes per axis, both signs counted: |k| <= (n_modes - 1)//2 is kept. 12 to 32 are usual.
    bias : bool
        Add a constant per output channel.
    modes : Modes, optional
        The stored wave numbers, in place of the symmetric set that `n_modes` means.
    weight : Module, optional
        Maps coefficients to coefficients (module's docstring), in place of `DenseWeight`.
    transform : optional
        Offers ``analyze`` and ``synthesize``, in place of `Fourier`.

    Raises
    ------
    ValueError
        If a number of channels or modes is below one.

    Examples
    --------
    >>> from opkernels import Domain
    >>> domain = Domain.periodic(1.0, 2.0)
    >>> layer = SpectralConv(3, 4, (8, 8))
    >>> x = torch.zeros(2, 3, 33, 48)
    >>> layer(x, domain.grid(33, 48)).shape
    torch.Size([2, 4, 33, 48])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        *,
        bias: bool = True,
        modes: Modes | None = None,
        weight: nn.Module | None = None,
        transform: Fourier | None = None,
    ):
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"SpectralConv got {in_channels} input and {out_channels} output channels; give at least one of each")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.modes = modes or Modes.symmetric(n_modes)
        self.transform = transform or Fourier(self.modes)
        self.weight = weight or DenseWeight(self.modes, in_channels, out_channels)
        self.bias = nn.Parameter((2 / (in_channels + out_channels)) ** 0.5 * torch.randn(out_channels)) if bias else None

    def forward(self, x: Tensor, grid: Grid, output_shape: Sequence[int] | None = None) -> Tensor:
        """Return (B, out_channels, *spatial) for x (B, in_channels, *spatial).

        Parameters
        ----------
        x : Tensor, (B, in_channels, *grid.sizes)
            Samples; the result has the memory layout (channels first or last) of `x`.
        grid : Grid
            Where they sit: node or cell points.
        output_shape : sequence of int, optional
            Sample the result on ``grid.with_shape(output_shape)`` instead.

        Raises
        ------
        ValueError
            If the grid has another rank or shape than `x`, or axes at endpoint or gauss points, or if `x` is not floating point.
        """
        self._check(x, grid)
        target = grid if output_shape is None else grid.with_shape(output_shape)
        channels_last = x.movedim(1, -1).is_contiguous()
        with torch.autocast(x.device.type, enabled=False):
            u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            z = self.transform.analyze(u, grid).flatten(2, -2).permute(2, 1, 0, 3)
            z = self.weight(z)
            if self.bias is not None:
                # a constant is the coefficient of wave number zero
                zero = _wave_number_zero(self.modes, device=z.device, dtype=z.dtype)
                z = z + zero[:, :, None, None] * self.bias.to(z.dtype)
            z = z.permute(2, 1, 0, 3).unflatten(2, self.modes.shape)
            return self.transform.synthesize(z, target, channels_last=channels_last)

    def _check(self, x: Tensor, grid: Grid) -> None:
        if not isinstance(grid, Grid):
            raise ValueError(f"SpectralConv got grid={grid!r}; give the grid of a Domain, or take SphericalSpectralConv for a sphere")
        if grid.ndim != self.modes.ndim:
            raise ValueError(
                f"SpectralConv got a {grid.ndim}-D grid but n_modes for {self.modes.ndim} axes; give one number of modes per axis"
            )
        if x.ndim != grid.ndim + 2 or x.shape[1] != self.in_channels or tuple(x.shape[2:]) != grid.sizes:
            raise ValueError(
                f"SpectralConv got x of shape {tuple(x.shape)}; expected (batch, {self.in_channels}, {', '.join(map(str, grid.sizes))})"
            )
        if not x.is_floating_point():
            raise ValueError(f"SpectralConv got x of dtype {x.dtype}; give real floating-point samples, such as x.float()")
        grid.domain.require_fft("SpectralConv")


@table
def _wave_number_zero(modes: Modes, device) -> Tensor:
    """One at the real part of k = 0, (P, 2)."""
    row = 0
    for lower, size in zip(modes.lower, modes.shape, strict=True):
        row = row * size - lower
    at = torch.arange(2 * prod(modes.shape), device=device) == 2 * row
    return at.view(-1, 2).double()
