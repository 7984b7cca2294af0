"""Spherical differential convolution: learned combinations of derivatives that are smooth at the poles, the same on every grid.

    y_o = sum_c sum_k W_ock (D_k v_c),    D_k = l cos(phi) d/dphi,  l d/dlambda,  and, of order two, l^2 Laplacian

| symbol      | meaning                                                              |
| ----------- | -------------------------------------------------------------------- |
| phi, lambda | latitude and longitude                                               |
| l           | a length in radians, so that W is of size one                        |

A component of the gradient along a meridian has no limit at the poles, where meridians of all directions meet. Times cos(phi), which
makes d/dlambda of the eastward one, both are smooth functions, and they commute with rotations about the axis. On coefficients,

    (d/dlambda v)_lm = i m v_lm,    (cos phi d/dphi v)_lm = (l + 2) eps(l + 1, m) v_l+1,m - (l - 1) eps(l, m) v_l-1,m,
    eps(l, m) = sqrt((l^2 - m^2)/(4 l^2 - 1)),

exact for what the grid carries. With a `smoothing` length s the derivatives are those of an average of v, exp(-s^2 l (l + 1)/2) v_lm:
derivatives proper amplify the waves that a finer grid adds.

References: as in `opkernels.layers.differential`; Liu-Schiaffini et al. have no such layer on the sphere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from opkernels.domains import looked_up, table
from opkernels.layers.spherical_spectral import check_samples, on_coefficients
from opkernels.sphere import SphereGrid

__all__ = ["SphericalDifferentialConv"]


class SphericalDifferentialConv(nn.Module):
    """Learned linear differential operator on the sphere, without a term of order zero.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    length : float
        The length l in radians; the distance of two rows of the training grid is usual.
    order : {1, 2}
        Highest order of differentiation.
    smoothing : float
        Standard deviation s, in radians, of the average that is differentiated; of the order of `length`.

    Attributes
    ----------
    weight : Parameter, (out_channels, in_channels, 2 or 3)
        For the northward, the eastward derivative and the Laplacian.

    Raises
    ------
    ValueError
        If a size is out of range.

    Examples
    --------
    >>> from opkernels import Sphere
    >>> layer = SphericalDifferentialConv(3, 4, length=0.1)
    >>> layer(torch.zeros(2, 3, 32, 64), Sphere().grid(32, 64)).shape
    torch.Size([2, 4, 32, 64])
    """

    def __init__(self, in_channels: int, out_channels: int, *, length: float, order: int = 1, smoothing: float = 0.0):
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(
                f"SphericalDifferentialConv got {in_channels} input and {out_channels} output channels; give at least one of each"
            )
        if not isinstance(length, (int, float)) or not 0 < length < float("inf"):
            raise ValueError(f"SphericalDifferentialConv got length={length!r}; give a positive angle in radians")
        if order not in (1, 2):
            raise ValueError(f"SphericalDifferentialConv got order={order!r}; give 1 or 2")
        if not isinstance(smoothing, (int, float)) or not 0 <= smoothing < float("inf"):
            raise ValueError(f"SphericalDifferentialConv got smoothing={smoothing!r}; give an angle in radians of at least 0")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.length, self.order, self.smoothing = float(length), order, float(smoothing)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, order + 1) / (in_channels * (order + 1)) ** 0.5)

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"{self.in_channels}, {self.out_channels}, length={self.length:g}, order={self.order}, smoothing={self.smoothing:g}"

    def forward(self, x: Tensor, grid: SphereGrid) -> Tensor:
        """Return (B, out_channels, nlat, nlon) for x (B, in_channels, nlat, nlon), in the memory layout of `x`.

        Raises
        ------
        ValueError
            If the grid is none of a sphere, or differs from `x` in shape, or `x` in channels; or if `x` is not floating point.
        """
        check_samples("SphericalDifferentialConv", x, grid, self.in_channels)
        return on_coefficients([self.coefficients], x, grid, grid.highest_degree)

    def coefficients(self, z: Tensor) -> Tensor:
        """Return the coefficients (B, out_channels, l, m) of the derivatives for those of the input; one degree above is dropped."""
        kind = {"device": z.device, "dtype": z.real.dtype}
        below, above, east, laplacian = looked_up(_factors, z.shape[-1] - 1, self.length, self.smoothing, **kind)
        shifted = nn.functional.pad(z.mT, (1, 1)).mT  # rows l - 1, l, l + 1
        terms = [above * shifted[..., 2:, :] - below * shifted[..., :-2, :], 1j * east * z, laplacian * z][: self.order + 1]
        columns = torch.view_as_real(torch.stack([term.mT for term in terms], dim=2)).flatten(3).flatten(1, 2)  # (B, C K, m l 2)
        y = torch.matmul(self.weight.to(columns.dtype).flatten(1), columns)
        return torch.view_as_complex(y.unflatten(2, (*z.shape[-2:], 2))).mT


@table
def _factors(degree: int, length: float, smoothing: float, device) -> Tensor:
    """Return what multiplies v_l-1 and v_l+1 (northward), v_l (eastward) and v_l (Laplacian), (4, l, m)."""
    ell = torch.arange(degree + 1, dtype=torch.float64, device=device)[:, None]
    m = ell.mT

    def epsilon(ell: Tensor) -> Tensor:
        return ((ell**2 - m**2).clamp(min=0) / (4 * ell**2 - 1).clamp(min=1)).sqrt()

    def average(ell: Tensor) -> Tensor:
        return torch.exp(-(smoothing**2) / 2 * ell * (ell + 1))

    below = (ell - 1) * epsilon(ell) * average(ell - 1)
    above = (ell + 2) * epsilon(ell + 1) * average(ell + 1)
    east, laplacian = m * average(ell), -length * ell * (ell + 1) * average(ell)
    return length * torch.stack([below, above, east.expand(below.shape), laplacian.expand(below.shape)])
