"""T1: transform once. The network maps the coefficients of a function to those of another; grids enter and leave once.

    z = sqrt(M) <phi_k, u>           analysis of the input channels, M modes: exact quadrature at the true samples
    z <- W z + b(k)                  lift: a matrix on channels, which commutes with the analysis
    z <- z + mix(act(mix z))         blocks on the modes (`FrequencyBlock`), one U-Net (`FrequencyUNet`), or an `InnerGrid`
    z <- V act(V' z)(k) + c(k) [+ exp(-delta |kappa|^2) z_input]        head; with `diffusion` delta, a step in time
    y = sum_k phi_k z(k) / sqrt(M)   one synthesis, on any grid or at any points

where <.,.> is the mean over the domain and phi_k products of orthonormal functions, one family per axis. By Parseval, the mean
square of z over the modes is that of u over the domain, whatever the grid: with the factor sqrt(n) of an orthonormal discrete
transform instead, a network would get other numbers on every grid. The work on a grid is one product per input and one per output
channel; all else costs the same on every grid, and a rollout or a training in coefficients (`T1.rollout`,
`opkernels.training.fit_coefficients`) does it once at all.

What T1 gives up: nothing above the kept modes is ever produced (`opkernels.mode_selection` tells before training how much that
costs), and an activation on coefficients does not commute with translations.

Reference: Poli et al., "Transform Once: Efficient Operator Learning in Frequency Domain", NeurIPS 2022, arXiv 2211.14453.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from opkernels.bases import Basis, analyze, synthesize
from opkernels.coefficients import diffusion_factor, energy_share, values_at
from opkernels.domains import Domain, Grid
from opkernels.layers.channel_mlp import Pointwise, activation_named
from opkernels.layers.frequency import SECOND_MOMENTS, FrequencyBlock, Mixing, ModeBias
from opkernels.layers.frequency_unet import FrequencyUNet
from opkernels.mode_selection import ModeSet, bases_for, box
from opkernels.models.checks import check_domain, check_input, check_parameters, check_size, grid_for, shape_for
from opkernels.models.inner_grid import InnerGrid

__all__ = ["T1"]


class T1(nn.Module):
    """Transform-once operator on any box: the whole network acts on the kept coefficients.

    Parameters
    ----------
    domain : Domain
        Where the functions live, periodic or not, with any kind of sample points.
    in_channels, out_channels : int
        Channels of the input and of the output.
    n_modes : sequence of int, or ModeSet
        Functions kept per axis; on a Fourier axis |k| <= (n_modes - 1)//2 as in `FNO`, on others the first n_modes. 16 to 32
        as a rule; ``TargetModes.of(targets, grid).threshold(eps)`` chooses a set by the training *targets*.
    hidden_channels : int
        Width C inside.
    n_layers : int
        Number of blocks; of a U-Net, of its levels.
    n_parameters : int
        Size of the per-sample `parameters` (viscosity, time step, ...), which scale and shift every block as in `FNO`.
    basis : str or sequence of str, optional
        "fourier", "cosine", "sine", "legendre" or "chebyshev", for all axes or one each (`opkernels.bases.Basis`). By
        default Fourier on periodic axes and cosine between walls; "sine" suits functions that vanish at the walls.
    input_basis : str or sequence of str, optional
        Another family for the input than for the output, as many functions: the sines of an output that vanishes at the walls
        are poor at an input that does not. By default the same.
    activation : str
        "gelu" (default), "silu", "tanh", "sin" or "relu".
    mixing : Mixing, mapping or str
        How modes and channels are mixed: "dense", "low_rank", "amortized", "unet" or "local", with rank, and causal or not.
        "local", for Fourier bases, activates in space on an inner grid: nearly equivariant, the most accurate for few data.
    diffusion : float, optional
        Add the input, diffused by exp(-diffusion |kappa|^2), to the output: for steps in time, with diffusion = nu dt of a
        known viscosity nu, or 0 for the input as it is. Default: nothing is added.

    Raises
    ------
    ValueError
        If a size is not positive, `n_modes` or a basis do not fit the axes, or `diffusion` cannot be added.

    Notes
    -----
    Grids too coarse for all modes are taken: the coefficients they do not carry are zero. Cost of a block per sample is
    C^2 prod(m) + C prod(m) sum(m) multiplications, m the sizes of the box around the kept modes. Amortized weights do not
    know how many modes there are: `load_state_dict` carries them over to a model with other `n_modes`.

    Examples
    --------
    >>> model = T1(Domain.periodic(1.0, 2.0), 1, 1, n_modes=(16, 12), hidden_channels=8)
    >>> model(torch.zeros(2, 1, 32, 33), output_shape=(64, 64)).shape
    torch.Size([2, 1, 64, 64])
    >>> model(torch.zeros(2, 1, 32, 33), points=torch.rand(5, 2)).shape
    torch.Size([2, 1, 5])
    """

    takes_split_fields = False  # over processes
    mask: Tensor | None
    scale: Tensor

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        n_modes: Sequence[int] | ModeSet | Mapping,
        hidden_channels: int = 32,
        n_layers: int = 6,
        n_parameters: int = 0,
        basis: str | Sequence[str] | None = None,
        input_basis: str | Sequence[str] | None = None,
        activation: str = "gelu",
        mixing: Mixing | Mapping | str = "dense",
        diffusion: float | None = None,
    ):
        super().__init__()
        check_domain("T1", domain)
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "hidden_channels": hidden_channels, "n_layers": n_layers}
        for label, value in sizes.items():
            check_size("T1", label, value)
        check_size("T1", "n_parameters", n_parameters, 0)
        self.domain, self.in_channels, self.n_parameters = domain, in_channels, n_parameters
        self.modes = _modes(domain, n_modes, basis)
        self.bases, mixing, width = self.modes.bases, Mixing.of(mixing), hidden_channels
        self.input_bases = self.bases if input_basis is None else _input_bases(domain, self.bases, input_basis)
        if self.input_bases != self.bases and (diffusion is not None or mixing.kind == "local"):
            raise ValueError(
                'T1 got input_basis beside diffusion or mixing="local", which need one basis for input and output; leave one out'
            )
        mask = None if self.modes.orders is None else self.modes.mask().to(torch.get_default_dtype())
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("scale", torch.tensor(math.sqrt(self.modes.count)))  # the trained one goes along with weights
        self.diffusion = _checked_diffusion(self, out_channels, diffusion)
        self.activation = activation_named(activation)
        self.lift, self.lift_bias = Pointwise(in_channels, width, bias=False), ModeBias(width, self.bases, mixing)
        self.embedding = nn.Linear(n_parameters, width) if n_parameters else None
        self.blocks = nn.ModuleList(_blocks(self, width, n_layers, activation, mixing))
        in_space = mixing.kind == "local"  # an activation on coefficients would undo what that gains
        self.widen = None if in_space else Pointwise(width, 2 * width)
        self.project = Pointwise(width if in_space else 2 * width, out_channels, bias=False)
        self.output_bias = ModeBias(out_channels, self.bases, mixing)
        nn.init.normal_(self.lift.weight, std=1 / math.sqrt(in_channels))
        if self.widen is None:
            nn.init.normal_(self.project.weight, std=1 / math.sqrt(width))
            return
        nn.init.normal_(self.widen.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.widen.bias)  # the same number in all modes is a spike in a corner of the domain
        nn.init.normal_(self.project.weight, std=1 / math.sqrt(2 * width * SECOND_MOMENTS[activation]))

    def forward(
        self,
        x: Tensor,
        *,
        parameters: Tensor | None = None,
        grid: Grid | None = None,
        output_shape: Sequence[int] | None = None,
        points: Tensor | None = None,
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
        points : Tensor, (P, d) or (B, P, d), optional
            Evaluate the output at these positions instead; the result is (B, out_channels, P).

        Raises
        ------
        ValueError
            If dtype, channels, spatial rank, grid, parameters, output shape or points do not fit.
        """
        check_input("T1", "x", x, self.lift.weight.dtype)
        grid = grid_for("T1", self.domain, self.in_channels, x, grid)
        if points is not None and output_shape is not None:
            raise ValueError("T1 got both output_shape and points; give one of them")
        z = self.network(self.coefficients(x, grid, self.input_bases), parameters, grid.domain)
        if points is not None:
            return values_at(z, points, self.bases, grid.domain) * self._height(grid)
        return self.samples(z, grid if output_shape is None else Grid(grid.domain, shape_for("T1", output_shape, grid.ndim)))

    def network(self, z: Tensor, parameters: Tensor | None = None, domain: Domain | None = None) -> Tensor:
        """Return the coefficients (B, out_channels, *modes) of the output for those of the input; no grid is involved.

        `domain` is where the functions live, by default the model's: the rate of `diffusion` depends on its lengths.
        """
        if tuple(z.shape[1:]) != (self.in_channels, *self.modes.shape):
            raise ValueError(
                f"T1 got coefficients of shape {tuple(z.shape)}; expected (batch, {self.in_channels}, "
                f"{', '.join(map(str, self.modes.shape))}) (batch, channels, modes)"
            )
        check_parameters("T1", z, parameters, self.n_parameters)
        embedding = None if self.embedding is None else self.activation(self.embedding(parameters))
        y = self.lift(z) + self.lift_bias()
        for block in self.blocks:
            y = block(y, embedding)
        y = self.project(y if self.widen is None else self.activation(self.widen(y))) + self.output_bias()
        if self.diffusion is not None:
            y = y + diffusion_factor(self.bases, domain or self.domain, self.diffusion, z.device, z.dtype) * z
        return y if self.mask is None else y * self.mask

    def rollout(
        self,
        x: Tensor,
        steps: int,
        *,
        parameters: Tensor | None = None,
        grid: Grid | None = None,
        output_shape: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the states (B, steps, C, *spatial) after 1, 2, ..., `steps` applications, transforming once in all.

        Equal to applying the model again and again, and cheaper: samples are taken only of what is returned. Arguments as
        for `forward`.

        Raises
        ------
        ValueError
            If the model does not map states to states, or as for `forward`.
        """
        check_size("T1.rollout", "steps", steps)
        if self.output_bias.weight.shape[0] != self.in_channels:
            raise ValueError(
                f"T1 maps {self.in_channels} channels to {self.output_bias.weight.shape[0]}; a rollout needs as many out as in"
            )
        if self.input_bases != self.bases:
            raise ValueError("T1 has other bases for the input than for the output, so its coefficients are no state; apply it to samples")
        check_input("T1", "x", x, self.lift.weight.dtype)
        grid = grid_for("T1", self.domain, self.in_channels, x, grid)
        z, states = self.coefficients(x, grid), []
        for _ in range(steps):
            z = self.network(z, parameters, grid.domain)
            states.append(z)
        target = grid if output_shape is None else Grid(grid.domain, shape_for("T1", output_shape, grid.ndim))
        y = self.samples(torch.stack(states, dim=1).flatten(0, 1), target)
        return y.view(x.shape[0], steps, *y.shape[1:])

    def coefficients(self, x: Tensor, grid: Grid, bases: Sequence[Basis] | None = None) -> Tensor:
        """Return z (B, C, *modes) of samples x (B, C, *grid.shape); the mean of z^2 is that of x^2, less what is dropped.

        In the bases of the output, unless others are given: `input_bases` are those of what `network` takes.
        """
        z = analyze(x, grid, bases or self.bases) / self._height(grid)
        return z if self.mask is None else z * self.mask

    def samples(self, z: Tensor, grid: Grid) -> Tensor:
        """Return the samples (B, C, *grid.shape) of the functions with coefficients z (B, C, *modes)."""
        return synthesize(z, grid, self.bases) * self._height(grid)

    def _height(self, grid: Grid) -> Tensor:
        """Return what one unit of z is in the orthonormal coefficients of a function: sqrt(|domain|/M)."""
        return math.sqrt(grid.domain.measure) / self.scale

    def kept_energy(self, x: Tensor, grid: Grid | None = None) -> float:
        """Return the share rho of the energy of x (B, C, *spatial) that the kept modes hold, in the mean over the batch.

        No model with these modes comes closer to targets x, in the root mean square, than a relative L2 error of sqrt(1 - rho).
        """
        grid = self.domain.grid_of(x) if grid is None else grid
        return self._kept_energy(x, grid, self.bases)

    def _kept_energy(self, x: Tensor, grid: Grid, bases: Sequence[Basis]) -> float:
        x, weights = x.detach().double(), grid.weights(x.device, torch.float64)
        kept = synthesize(self.coefficients(x, grid, bases), grid, bases) * self._height(grid)
        missed, energy = (x - kept).square() * weights, (x.square() * weights).sum()
        if not energy > 0:
            raise ValueError("T1 got samples that are zero everywhere, which have no energy to measure; give a batch of data")
        return (1 - missed.sum() / energy).item()

    @torch.no_grad()
    def initialize(self, scheme: str, x: Tensor, grid: Grid | None = None) -> T1:
        """Draw the lift anew so that it preserves the variance of inputs such as x (B, in_channels, *spatial); return self.

        Parameters
        ----------
        scheme : {"band", "vp_white", "vp_data"}
            Variance 1/(in_channels rho) of the lift's weights, rho the share of the input's energy in the kept modes: 1 (the
            constructor's choice, right for smooth data), that of white noise (the published one), or measured on x
            (`opkernels.coefficients.energy_share`). It enters here alone: repeated in every block it would multiply.
        x : Tensor
            A batch of inputs.
        """
        grid = grid_for("T1", self.domain, self.in_channels, x, grid)
        bases = self.input_bases
        rho = self._kept_energy(x, grid, bases) if scheme == "vp_data" else energy_share(x, grid, bases, scheme)
        if scheme == "vp_white" and self.mask is not None:
            rho *= self.mask.mean().item()
        if not rho > 1e-12:
            raise ValueError(
                "T1 got samples of which the kept modes hold nothing, so that no variance is left to preserve; keep other modes"
            )
        nn.init.normal_(self.lift.weight, std=1 / math.sqrt(self.in_channels * rho))
        return self


def _modes(domain: Domain, n_modes: Sequence[int] | ModeSet | Mapping, basis: str | Sequence[str] | None) -> ModeSet:
    """Return the kept modes; refuse what does not fit the domain."""
    if not isinstance(n_modes, (ModeSet, Mapping)):
        return box(domain, n_modes, basis)
    modes = ModeSet.of(n_modes)
    if basis is not None:
        raise ValueError(f"T1 got basis={basis!r} beside a ModeSet, which brings its own bases; leave basis out")
    if len(modes.bases) != domain.ndim:
        raise ValueError(f"T1 got a ModeSet of {len(modes.bases)} axes on a {domain.ndim}-D domain; choose the modes on this domain")
    for chosen, axis in zip(modes.bases, domain.axes, strict=True):
        if chosen.kind == "fourier":
            Domain((axis,)).require_fft("T1's Fourier basis")
    return modes


def _input_bases(domain: Domain, bases: Sequence[Basis], kinds: str | Sequence[str]) -> tuple[Basis, ...]:
    """Return the same functions by number, of other kinds; refuse to pair waves with half waves, of which there are other numbers."""
    named = bases_for(domain, [b.n_modes for b in bases], kinds)
    for given, own, axis in zip(named, bases, domain.axes, strict=True):
        if (given.kind == "fourier") != (own.kind == "fourier"):
            raise ValueError(
                f'T1 got input_basis="{given.kind}" on axis {axis.name}, whose output has the basis "{own.kind}"; '
                f"fourier is for both or for none"
            )
    return tuple(Basis(given.kind, own.n_modes, own.kept) for given, own in zip(named, bases, strict=True))


def _checked_diffusion(model: T1, out_channels: int, diffusion: float | None) -> float | None:
    """Return `diffusion`; refuse what is no amount, or cannot be applied."""
    if diffusion is None:
        return None
    if isinstance(diffusion, bool) or not isinstance(diffusion, (int, float)) or not 0 <= diffusion < math.inf:
        raise ValueError(f"T1 got diffusion={diffusion!r}; give viscosity times time step, a number of 0 or more, or None")
    if model.in_channels != out_channels:
        raise ValueError(
            f"T1 got diffusion={diffusion:g} with {model.in_channels} channels in and {out_channels} out; a state needs as many out as in"
        )
    diffusion_factor(model.bases, model.domain, diffusion)  # refuses polynomials
    return diffusion


def _blocks(model: T1, width: int, n_layers: int, activation: str, mixing: Mixing) -> list[nn.Module]:
    n_embedding = width if model.n_parameters else 0
    if mixing.kind == "local":
        height = math.sqrt(model.domain.measure / model.modes.count)
        return [InnerGrid(model.domain, model.bases, height, width, n_layers, activation=activation, n_embedding=n_embedding)]
    if mixing.kind == "unet":
        return [FrequencyUNet(width, model.bases, n_levels=n_layers, activation=activation, n_embedding=n_embedding)]
    options = {"activation": activation, "mixing": mixing, "gain": 1 / (2 * n_layers), "n_embedding": n_embedding}
    return [FrequencyBlock(width, model.bases, **options) for _ in range(n_layers)]
