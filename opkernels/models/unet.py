"""UNet: the convolutional baseline on any box, periodic or not, of any size.

One level computes

    v <- silu(film(norm(conv3(silu(norm(conv3(v)))))) + skip(v)),   film(v) = (1 + gamma(p)) v + beta(p)

on the way down, halves the grid, and on the way up joins the coarser level's result to its own:

    v_l <- level([v_l, upsample(v_{l+1})])

Its convolutions may be compressed from the start (`opkernels.layers.compressed`): `factorization="cp", rank=1/8` has an eighth of their
weights. Its stencils span a fixed number of *samples*, not a length: unlike the operators of this package it is
a different operator on every grid, and is here to be compared with. Reference: Ronneberger, Fischer,
Brox, "U-Net", MICCAI 2015, arXiv 1505.04597.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opkernels.domains import Domain, Grid
from opkernels.layers.compressed import CompressedConv
from opkernels.layers.factorizations import Rank
from opkernels.models.checks import check_domain, check_input, check_parameters, check_size, grid_for, shape_for
from opkernels.resample import resample

__all__ = ["UNet"]

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_POOL = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class UNet(nn.Module):
    """Encoder and decoder of 3-point convolutions with skips between equal sizes.

    Parameters
    ----------
    domain : Domain
        One to three axes; decides where the stencils wrap around. Periodic axes are padded
        circularly, others with zeros (which is what tells the network where the walls are).
    in_channels, out_channels : int
        Channels of the input and of the output.
    hidden_channels : int
        Width C of the finest level; level l has 2^l C channels. 16 to 64 are usual.
    n_layers : int
        Number of levels, 3 or 4 as a rule. Level l has ceil(n / 2^l) samples per axis, so every
        size works, odd ones included; levels beyond log2(n) see single samples and are of no use.
    n_parameters : int
        Size of the per-sample `parameters` (viscosity, time step, ...) that scale and shift every level.
    factorization, rank
        Format and rank of the kernels of the 3-point convolutions, see `CompressedConv`: a float is the share of the dense weights.
    recompute : bool
        Whether compressed convolutions keep only their input for the backward pass.

    Raises
    ------
    ValueError
        If the domain has more than three axes, or a size is not positive.

    Notes
    -----
    On a periodic axis whose size is a multiple of 2^(n_layers - 1) the network commutes with
    translations by 2^(n_layers - 1) samples; on other sizes only nearly. Errors grow quickly away
    from the resolution of the training data.

    Examples
    --------
    >>> model = UNet(Domain.periodic(1.0, 1.0), 1, 1, hidden_channels=8, n_layers=3)
    >>> model(torch.zeros(2, 1, 33, 48)).shape
    torch.Size([2, 1, 33, 48])
    """

    takes_split_fields = False  # over processes

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int = 32,
        n_layers: int = 4,
        n_parameters: int = 0,
        factorization: str = "dense",
        rank: Rank | None = None,
        recompute: bool = False,
    ):
        super().__init__()
        check_domain("UNet", domain)
        if domain.ndim not in _CONV:
            raise ValueError(f"UNet got a domain with {domain.ndim} axes; convolutions exist for one to three")
        for name, value, least in (
            ("in_channels", in_channels, 1),
            ("out_channels", out_channels, 1),
            ("hidden_channels", hidden_channels, 1),
            ("n_layers", n_layers, 1),
            ("n_parameters", n_parameters, 0),
        ):
            check_size("UNet", name, value, least)
        self.domain, self.in_channels, self.n_parameters = domain, in_channels, n_parameters
        widths = [hidden_channels * 2**level for level in range(n_layers)]
        conv = functools.partial(CompressedConv, domain, factorization=factorization, rank=rank, recompute=recompute)
        self.down = nn.ModuleList(_Level(conv, domain, a, b, n_parameters) for a, b in itertools.pairwise([in_channels, *widths]))
        self.up = nn.ModuleList(_Level(conv, domain, a + b, a, n_parameters) for a, b in itertools.pairwise(widths))
        self.project = _CONV[domain.ndim](hidden_channels, out_channels, 1)

    def forward(
        self, x: Tensor, *, parameters: Tensor | None = None, grid: Grid | None = None, output_shape: Sequence[int] | None = None
    ) -> Tensor:
        """Return the output (B, out_channels, *spatial) for x (B, in_channels, *spatial).

        Parameters
        ----------
        x : Tensor, (B, in_channels, *spatial)
            Samples of the input functions.
        parameters : Tensor, (B, n_parameters), optional
            Per-sample numbers; needed if and only if ``n_parameters > 0``.
        grid : Grid, optional
            Where x was sampled, if not on the model's own domain.
        output_shape : sequence of int, optional
            Resample the output to this shape.

        Raises
        ------
        ValueError
            If channels, spatial rank, grid or parameters do not fit.
        """
        check_input("UNet", "x", x, self.project.weight.dtype, half=True)
        grid = grid_for("UNet", self.domain, self.in_channels, x, grid)
        check_parameters("UNet", x, parameters, self.n_parameters)
        passed = []
        for level, block in enumerate(self.down):
            if level:
                x = _POOL[grid.ndim](x, [-(-n // 2) for n in x.shape[2:]])
            x = block(x, parameters)
            passed.append(x)
        for block, skip in zip(reversed(self.up), reversed(passed[:-1]), strict=True):
            x = block(torch.cat([skip, F.interpolate(x, size=skip.shape[2:])], dim=1), parameters)
        y = self.project(x)
        return y if output_shape is None else resample(y, grid, shape_for("UNet", output_shape, grid.ndim))


class _Level(nn.Module):
    """Two convolutions with a residual path, scaled and shifted by the parameters."""

    def __init__(self, conv: Callable[..., CompressedConv], domain: Domain, in_channels: int, out_channels: int, n_parameters: int):
        super().__init__()
        self.first, self.second = conv(in_channels, out_channels), conv(out_channels, out_channels)
        groups = next((g for g in (8, 4, 2) if out_channels % (2 * g) == 0), 1)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, out_channels) for _ in range(2))
        self.skip = _CONV[domain.ndim](in_channels, out_channels, 1)
        self.film = nn.Linear(n_parameters, 2 * out_channels) if n_parameters else None

    def forward(self, x: Tensor, parameters: Tensor | None) -> Tensor:
        y = F.silu(self.norms[0](self.first(x)))
        y = self.norms[1](self.second(y))
        if self.film is not None:
            scale, shift = self.film(parameters)[(...,) + (None,) * (x.ndim - 2)].chunk(2, dim=1)
            y = (1 + scale) * y + shift
        return F.silu(y + self.skip(x))
