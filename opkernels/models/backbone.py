"""The body that operators built from convolutions share: lift, blocks of (convolution + pointwise), project.

    v_0 = lift(u, positions)
    v  <- act(norm(K v) + S v)           K: the convolution of the block; S: skip, pointwise
    v  <- act(norm(MLP(v) + S' v_before))
    y  = project(v_L)

with no activation after the last block, and in the pre-activation form v <- norm(act(v)) first. Only K looks beyond a
point; a model is this body with its own K.

Per-sample `parameters` p (viscosity, time step, ...) scale and shift each block (FiLM),

    K v + S v  ->  (1 + gamma(e)) (K v + S v) + beta(e),     e = act(A p + a),

since a coefficient of a PDE multiplies operators: constant input channels, which beta covers, could only shift them.

References: Li et al., arXiv 2010.08895; Kossaifi et al., arXiv 2310.00120 (channel MLP, skips, normalization,
pre-activation); Perez et al., "FiLM", AAAI 2018, arXiv 1709.07871.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from opkernels.layers.channel_mlp import ChannelMLP, Pointwise, activation_named, skip_named
from opkernels.layers.embedding import position_channels, positions
from opkernels.layers.normalization import norm_named
from opkernels.layers.padding import DomainPadding
from opkernels.models.checks import check_domain, check_input, check_parameters, check_size, grid_for, shape_for
from opkernels.resample import resample
from opkernels.sphere import Space, SpaceGrid, Sphere

__all__ = ["Backbone", "Block", "OperatorBlock"]


@dataclass(frozen=True)
class Block:
    """How the parts of one block are joined.

    Parameters
    ----------
    fno_skip, channel_mlp_skip : {"linear", "soft-gating", "identity", None}
        What goes around the convolution and around the channel MLP.
    channel_mlp_expansion : float
        Width of the channel MLP over the hidden channels; 0 leaves the channel MLP and its skip out.
    preactivation : bool
        Normalize and activate before the convolution instead of after.
    channel_mlp_activation : str, optional
        Activation inside the channel MLP; by default the model's.
    residual : bool
        No activation outside the channel MLP: with an identity skip, deep stacks pass their input on (FFNO's form).
    """

    fno_skip: str | None = "linear"
    channel_mlp_skip: str | None = "soft-gating"
    channel_mlp_expansion: float = 0.5
    preactivation: bool = False
    channel_mlp_activation: str | None = None
    residual: bool = False

    @classmethod
    def of(cls, options: Block | Mapping) -> Block:
        """Return `options` itself, or the block that a mapping (from a configuration file) describes."""
        if isinstance(options, Block):
            return options
        names = [f.name for f in fields(cls)]
        unknown = set(options) - set(names)
        if unknown:
            raise ValueError(f"got the block options {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
        return cls(**options)


class OperatorBlock(nn.Module):
    """One convolution with skip, channel MLP, normalization and activation (module's docstring)."""

    def __init__(self, conv: nn.Module, channels: int, options: Block, *, norm: str | None, activation: str, n_embedding: int, last: bool):
        super().__init__()
        self.conv, self.linear_end, self.preactivation = conv, last or options.residual, options.preactivation
        self.activation = activation_named(activation)
        self.skip = skip_named(options.fno_skip, channels)
        width = round(channels * options.channel_mlp_expansion)
        self.mlp = ChannelMLP(channels, channels, width, activation=options.channel_mlp_activation or activation) if width else None
        self.mlp_skip = skip_named(options.channel_mlp_skip, channels) if width else None
        self.norms = nn.ModuleList(n for n in (norm_named(norm, channels) for _ in range(2 if width else 1)) if n is not None)
        self.film = nn.Linear(n_embedding, 2 * channels) if n_embedding else None

    def forward(self, x: Tensor, grid: SpaceGrid, embedding: Tensor | None) -> Tensor:
        """Return the block's output (B, C, *grid.shape) for x of that shape and embedding (B, n_embedding)."""
        if self.preactivation:
            x = self._normalized(self.activation(x), 0, grid)
        y = self.conv(x, grid)
        if not self.preactivation:
            y = self._normalized(y, 0, grid)
        if self.skip is not None:
            y = y + self.skip(x)
        if self.film is not None:
            scale, shift = self.film(embedding)[(...,) + (None,) * grid.ndim].chunk(2, dim=1)
            y = (1 + scale) * y + shift
        if not self.linear_end:
            y = self.activation(y)
        return y if self.mlp is None else self._mix_channels(self.mlp, y, x, grid)

    def _mix_channels(self, mlp: ChannelMLP, y: Tensor, x: Tensor, grid: SpaceGrid) -> Tensor:
        if self.preactivation:
            y = self._normalized(y, 1, grid)
        y = mlp(y)
        if self.mlp_skip is not None:
            y = y + self.mlp_skip(x)
        if not self.preactivation:
            y = self._normalized(y, 1, grid)
            y = y if self.linear_end else self.activation(y)
        return y

    def _normalized(self, x: Tensor, index: int, grid: SpaceGrid) -> Tensor:
        return self.norms[index](x, grid) if len(self.norms) else x


class Backbone(nn.Module):
    """Lift, one `OperatorBlock` per convolution, project: what FNO, FFNO, TFNO, LocalNO and SFNO have in common.

    Parameters
    ----------
    domain : Domain or Sphere
        Where the functions live.
    in_channels, out_channels, hidden_channels : int
        Channels of the input, the output, and inside.
    convs : sequence of Module
        One per block: ``conv(x, grid)`` maps (B, hidden_channels, *grid.shape) to the same shape.
    n_parameters : int
        Size of the per-sample `parameters`.
    activation, norm, positional_embedding, domain_padding, lifting_channel_ratio, projection_channel_ratio, block
        As in `FNO`.
    """

    def __init__(
        self,
        domain: Space,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int,
        convs: Sequence[nn.Module],
        n_parameters: int = 0,
        activation: str = "gelu",
        norm: str | None = None,
        positional_embedding: str | None = "walls",
        domain_padding: float | Sequence[float] = 0,
        lifting_channel_ratio: float = 2,
        projection_channel_ratio: float = 2,
        block: Block | Mapping = Block(),  # noqa: B008 frozen
    ):
        super().__init__()
        name = type(self).__name__
        if not isinstance(domain, Sphere):
            check_domain(name, domain)
        closed = isinstance(domain, Sphere) or all(axis.periodic for axis in domain.axes)  # without walls
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "hidden_channels": hidden_channels, "n_layers": len(convs)}
        for label, value in sizes.items():
            check_size(name, label, value)
        check_size(name, "n_parameters", n_parameters, 0)
        self.domain, self.in_channels, self.out_channels, self.n_parameters = domain, in_channels, out_channels, n_parameters
        self.positional_embedding = positional_embedding
        self.padding = None if isinstance(domain, Sphere) or not domain_padding else DomainPadding(domain, domain_padding)
        width, options = hidden_channels, Block.of(block)
        entering = in_channels + position_channels(domain, positional_embedding)
        self.lifting = _mlp(entering, width, round(lifting_channel_ratio * width), activation)
        if closed:
            _start_small(self.lifting)
        self.embedding = nn.Linear(n_parameters, width) if n_parameters else None
        self.activation = activation_named(activation)
        n_embedding = width if n_parameters else 0
        self.blocks = nn.ModuleList(
            OperatorBlock(conv, width, options, norm=norm, activation=activation, n_embedding=n_embedding, last=i == len(convs) - 1)
            for i, conv in enumerate(convs)
        )
        self.projection = _mlp(width, out_channels, round(projection_channel_ratio * width), activation)
        if norm is None and closed:
            _zero_biases(self)

    def forward(
        self, x: Tensor, *, parameters: Tensor | None = None, grid: SpaceGrid | None = None, output_shape: Sequence[int] | None = None
    ) -> Tensor:
        """Return the output functions, (B, out_channels, *spatial), for the input functions x.

        Parameters
        ----------
        x : Tensor, (B, in_channels, *spatial)
            Samples of the input functions, on the model's domain unless `grid` says otherwise.
        parameters : Tensor, (B, n_parameters), optional
            Per-sample numbers; needed if and only if ``n_parameters > 0``.
        grid : Grid or SphereGrid, optional
            Where x was sampled, if on another domain or if x is a block of a field that is split over processes.
        output_shape : sequence of int, optional
            (In 1-D also one int.) Sample the result there instead: the same function (`opkernels.resample`).

        Raises
        ------
        ValueError
            If dtype, channels, spatial rank, grid, parameters or output shape do not fit.
        """
        name = type(self).__name__
        check_input(name, "x", x, next(self.lifting.parameters()).dtype)
        grid = grid_for(name, self.domain, self.in_channels, x, grid, split=True)
        check_parameters(name, x, parameters, self.n_parameters)
        embedding = None if self.embedding is None else self.activation(self.embedding(parameters))
        if self.positional_embedding is not None:
            channels = positions(grid, self.positional_embedding, x.device, x.dtype)
            x = torch.cat([x, channels.expand(x.shape[0], *channels.shape)], dim=1)
        x = self.lifting(x)  # from here on, channels last in memory
        x, padded = (x, grid) if self.padding is None else self.padding.extend(x, grid)  # pyright: ignore[reportArgumentType]
        for block in self.blocks:
            x = block(x, padded, embedding)
        y = self.projection(x if self.padding is None else self.padding.crop(x, grid))  # pyright: ignore[reportArgumentType]
        if output_shape is not None:
            return resample(y, grid, shape_for(name, output_shape, grid.ndim))
        return y if y.is_contiguous() else y.clone(memory_format=torch.contiguous_format)


def _mlp(in_channels: int, out_channels: int, hidden: int, activation: str) -> ChannelMLP | Pointwise:
    """Two pointwise layers, or one matrix where `hidden` is zero."""
    return ChannelMLP(in_channels, out_channels, hidden, activation=activation) if hidden else Pointwise(in_channels, out_channels)


def _start_small(lifting: ChannelMLP | Pointwise) -> None:
    """Divide the first matrix by two.

    The usual start, uniform in +-1/sqrt(fan in), is meant for many inputs; with the one or two channels of a PDE it drives
    the first activation so far that its output is not always resolved on 64 samples. The skips hand that error on to the end.
    On domains with walls the jump at the wall is what limits the resolution, and a small start costs accuracy.
    """
    first = lifting.first if isinstance(lifting, ChannelMLP) else lifting
    with torch.no_grad():
        first.weight.div_(2)


def _zero_biases(model: nn.Module) -> None:
    """Start all biases at zero, but those of the parameters and of layers that say ``keeps_bias = True``.

    Random ones add constants which, through the blocks, outgrow what depends on x: after 8 layers the output varies by a
    thousandth of its mean, and float32 has three digits less for it. Norms take constants out anyhow; with them, the share of
    x in a random start is what keeps the spectrum narrow (group norm, 4 layers: 1e-9 with random biases, 1e-5 without).
    """
    with torch.no_grad():
        for name, module in model.named_modules():
            if "film" in name or name == "embedding" or getattr(module, "keeps_bias", False):
                continue
            for own, parameter in module.named_parameters(recurse=False):
                if own.endswith("bias"):
                    parameter.zero_()
