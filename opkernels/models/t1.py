"""T1: transform once. The network maps the coefficients of a function to those of another; grids enter and leave once.

    z = sqrt(M) <phi_k, u>           analysis of the input channels, M modes: exact quadrature at the true samples
    z <- W z + b(k)                  lift: a matrix on channels, which commutes with the analysis
    z <- z + mix(act(mix z))         blocks on the modes (`FrequencyBlock`)
    y = sum_k phi_k V act(V' z)(k) / sqrt(M)          head on the modes, one synthesis, on any grid

where <.,.> is the mean over the domain and phi_k products of orthonormal functions, one family per axis. By Parseval, the mean
square of z over the modes is that of u over the domain, whatever the grid: with the factor sqrt(n) of an orthonormal discrete
transform instead, a network would get other numbers on every grid. The work on a grid is one product per input and one per output
channel; all else costs the same on every grid.

What T1 gives up: nothing above the kept modes is ever produced (`T1.kept_energy` tells how much that is, before training), and
an activation on coefficients does not commute with translations.

Reference: Poli et al., "Transform Once: Efficient Operator Learning in Frequency Domain", NeurIPS 2022, arXiv 2211.14453.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from opkernels.domains import Axis, Domain, Grid
from opkernels.layers.channel_mlp import Pointwise, activation_named
from opkernels.layers.frequency import SECOND_MOMENTS, FrequencyBlock
from opkernels.models.checks import check_domain, check_input, check_parameters, check_size, grid_for, shape_for
from opkernels.transforms import Basis, analyze, synthesize

__all__ = ["T1"]


class T1(nn.Module):
    """Transform-once operator on any box: the whole network acts on the kept coefficients.

    Parameters
    ----------
    domain : Domain
        Where the functions live, periodic or not, with any kind of sample points.
    in_channels, out_channels : int
        Channels of the input and of the output.
    n_modes : sequence of int
        Functions kept per axis; on a Fourier axis |k| <= (n_modes - 1)//2 as in `FNO`, on others the first n_modes. 16 to 32
        as a rule; choose by `kept_energy` of the training *targets*.
    hidden_channels : int
        Width C inside.
    n_layers : int
        Number of blocks.
    n_parameters : int
        Size of the per-sample `parameters` (viscosity, time step, ...), which scale and shift every block as in `FNO`.
    basis : str or sequence of str, optional
        "fourier", "cosine", "sine" or "legendre", for all axes or one each (`opkernels.transforms.Basis`). By default Fourier
        on periodic axes and cosine between walls; "sine" suits functions that vanish at the walls.
    activation : str
        "gelu" (default), "silu", "tanh", "sin" or "relu".
    causal : bool
        No mode depends on a higher one: predicting and dropping modes commute, T1(P u) = P T1(u).
    rank : int, optional
        Matrices that the modes of a block share in place of one each (`ChannelMixing`): fewer parameters, for few data.
    energy : float
        Share rho of the input's energy in the kept modes, at which the lift preserves the variance of the input: its weights
        have the variance 1/(in_channels rho). 1 suits smooth data, prod(n_modes)/prod(n) white noise on n samples (the
        published choice), `kept_energy` measures it. It enters once, not in every block, where it would multiply.

    Raises
    ------
    ValueError
        If a size is not positive, `n_modes` or `basis` do not fit the axes, or `energy` is not in (0, 1].

    Notes
    -----
    Grids too coarse for all modes are taken: the coefficients they do not carry are zero. Cost of a block per sample is
    C^2 prod(m) + C prod(m) sum(m) multiplications, m the kept modes.

    Examples
    --------
    >>> model = T1(Domain.periodic(1.0, 2.0), 1, 1, n_modes=(16, 12), hidden_channels=8)
    >>> model(torch.zeros(2, 1, 32, 33), output_shape=(64, 64)).shape
    torch.Size([2, 1, 64, 64])
    """

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        n_modes: Sequence[int],
        hidden_channels: int = 32,
        n_layers: int = 6,
        n_parameters: int = 0,
        basis: str | Sequence[str] | None = None,
        activation: str = "gelu",
        causal: bool = False,
        rank: int | None = None,
        energy: float = 1.0,
    ):
        super().__init__()
        check_domain("T1", domain)
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "hidden_channels": hidden_channels, "n_layers": n_layers}
        for label, value in sizes.items():
            check_size("T1", label, value)
        check_size("T1", "n_parameters", n_parameters, 0)
        if not 0 < energy <= 1:
            raise ValueError(f"T1 got energy={energy}; give the share of the input's energy in the kept modes, above 0 and at most 1")
        self.domain, self.in_channels, self.n_parameters = domain, in_channels, n_parameters
        self.bases = _bases(domain, n_modes, basis)
        kept, width = tuple(b.size for b in self.bases), hidden_channels
        self.scale = math.sqrt(prod(kept))
        self.activation = activation_named(activation)
        self.lift = Pointwise(in_channels, width, bias=False)
        self.lift_bias = nn.Parameter(torch.zeros(width, *kept))
        self.embedding = nn.Linear(n_parameters, width) if n_parameters else None
        self.blocks = nn.ModuleList(
            FrequencyBlock(
                width,
                self.bases,
                activation=activation,
                causal=causal,
                rank=rank,
                gain=1 / (2 * n_layers),
                n_embedding=width if n_parameters else 0,
            )
            for _ in range(n_layers)
        )
        self.widen = Pointwise(width, 2 * width)
        self.project = Pointwise(2 * width, out_channels, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(out_channels, *kept))
        nn.init.normal_(self.lift.weight, std=1 / math.sqrt(in_channels * energy))
        nn.init.normal_(self.widen.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.widen.bias)  # the same number in all modes is a spike in a corner of the domain
        nn.init.normal_(self.project.weight, std=1 / math.sqrt(2 * width * SECOND_MOMENTS[activation]))

    def forward(
        self, x: Tensor, *, parameters: Tensor | None = None, grid: Grid | None = None, output_shape: Sequence[int] | None = None
    ) -> Tensor:
        """Return the output functions, (B, out_channels, *spatial), for the input functions x.

        Parameters
        ----------
        x : Tensor, (B, in_channels, *spatial)
            Samples of the input functions, on the model's domain unless `grid` says otherwise.
        parameters : Tensor, (B, n_parameters), optional
            Per-sample numbers; needed if and only if ``n_parameters > 0``.
        grid : Grid, optional
            Where x was sampled, if on another domain.
        output_shape : sequence of int, optional
            (In 1-D also one int.) Sample the output there instead: the same function, at no extra cost.

        Raises
        ------
        ValueError
            If dtype, channels, spatial rank, grid, parameters or output shape do not fit.
        """
        check_input("T1", "x", x, self.lift.weight.dtype)
        grid = grid_for("T1", self.domain, self.in_channels, x, grid)
        check_parameters("T1", x, parameters, self.n_parameters)
        z = self.lift(self.coefficients(x, grid)) + self.lift_bias
        embedding = None if self.embedding is None else self.activation(self.embedding(parameters))
        for block in self.blocks:
            z = block(z, embedding)
        z = self.project(self.activation(self.widen(z))) + self.output_bias
        return self.samples(z, grid if output_shape is None else Grid(grid.domain, shape_for("T1", output_shape, grid.ndim)))

    def coefficients(self, x: Tensor, grid: Grid) -> Tensor:
        """Return z (B, C, *modes) of samples x (B, C, *grid.shape); the mean of z^2 is that of x^2, less what is dropped."""
        return analyze(x, grid, self.bases) * (self.scale / math.sqrt(grid.domain.measure))

    def samples(self, z: Tensor, grid: Grid) -> Tensor:
        """Return the samples (B, C, *grid.shape) of the functions with coefficients z (B, C, *modes)."""
        return synthesize(z, grid, self.bases) * (math.sqrt(grid.domain.measure) / self.scale)

    def kept_energy(self, x: Tensor, grid: Grid | None = None) -> float:
        """Return the share rho of the energy of x (B, C, *spatial) that the kept modes hold, in the mean over the batch.

        No model with these modes comes closer to targets x than a relative L2 error of sqrt(1 - rho).
        """
        grid = self.domain.grid_of(x) if grid is None else grid
        x = x.detach().double()
        kept = self.coefficients(x, grid).square().mean(tuple(range(1, x.ndim)))
        whole = (x.square() * grid.weights(x.device, x.dtype)).sum(tuple(range(2, x.ndim))).mean(1) / grid.domain.measure
        return (kept.sum() / whole.sum()).item()


def _bases(domain: Domain, n_modes: Sequence[int] | int, kinds: str | Sequence[str] | None) -> tuple[Basis, ...]:
    """Return one basis per axis; refuse what does not fit."""
    n_modes = (n_modes,) if isinstance(n_modes, int) else tuple(n_modes)
    if len(n_modes) != domain.ndim:
        raise ValueError(f"got n_modes={n_modes} on a {domain.ndim}-D domain; give one number of modes for each axis")
    kinds = (kinds,) * domain.ndim if kinds is None or isinstance(kinds, str) else tuple(kinds)
    if len(kinds) != domain.ndim:
        raise ValueError(f"T1 got the bases {', '.join(map(str, kinds))} on a {domain.ndim}-D domain; give one name for each axis")
    return tuple(_basis(axis, m, kind) for axis, m, kind in zip(domain.axes, n_modes, kinds, strict=True))


def _basis(axis: Axis, n_modes: int, kind: str | None) -> Basis:
    if kind == "fourier":
        Domain((axis,)).require_fft("T1's Fourier basis")
    return Basis.of(axis, n_modes) if kind is None else Basis(kind, n_modes)
