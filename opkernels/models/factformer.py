"""FactFormer: axis-factorized attention between fields, and several frames from one latent state.

    v_0 = E [u(t_1), ..., u(t_w), positions]         the last w frames, stacked; one matrix
    v  <- v + attention(v)                           `FactorizedAttention`, the only part that looks beyond a point
    z_0 = D v_L                                      widened
    z_j = z_{j-1} + MLP(z_{j-1} + e_j)               j = 1 .. n_steps: one pointwise network marches in the latent space
    frames of step j = decode(z_j)                   one network for all steps

and per-sample parameters scale and shift each block as in `opkernels.models.backbone`. Beside the attention's own (see there), it
differs from the published model in having no layer and group norms while marching, which would depend on the grid or sharpen the
spectrum, and in positions that enter once, by the rule of the package, instead of random Fourier features before each block.

Reference: Li, Shu, Barati Farimani, "Scalable Transformer for PDE Surrogate Modeling", NeurIPS 2023, arXiv 2305.17560.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from opkernels.domains import Domain, Grid
from opkernels.layers.channel_mlp import ChannelMLP, Pointwise
from opkernels.layers.factorized_attention import FactorizedAttention
from opkernels.models.backbone import Backbone, Block
from opkernels.models.checks import check_domain, check_not_split, check_size

__all__ = ["FactFormer"]


class FactFormer(Backbone):
    """Factorized transformer: a window of frames in, several frames out.

    Parameters
    ----------
    domain : Domain
        Where the functions live, one to three axes, periodic or not.
    in_channels : int
        Channels of the input: `window` frames of the fields, stacked, the latest last.
    out_channels : int
        Channels of the output: the frames of `n_steps` latent steps, stacked, each with the same number.
    hidden_channels : int
        Width C; a multiple of `n_heads`.
    n_layers : int
        Number of attention blocks.
    n_heads : int
        Heads of each.
    n_parameters, activation, positional_embedding
        As in `FNO`.
    window : int
        Frames in the input.
    n_steps : int
        Latent steps. With `out_channels` for 16 frames, 4 steps decode 4 frames each.
    latent_ratio : float
        Width of the latent state that marches, over `hidden_channels`.
    head_dim, kernel_multiplier, bandwidth, parallel, qk_norm, checkpoint
        As in `FactorizedAttention`. Grids need more than ``2 * bandwidth`` samples per axis.

    Raises
    ------
    ValueError
        If sizes are not positive, channels do not split into heads, frames or steps, or an input is coarser than `bandwidth` allows.

    Notes
    -----
    No norm is taken at single points, and every sum over points is an integral, so that a model trained on one grid is the same
    operator on another: to rounding on periodic axes once fields and features are resolved, at second order between walls.

    Examples
    --------
    >>> import torch
    >>> model = FactFormer(Domain.periodic(1.0, 1.0), 10, 16, hidden_channels=16, n_layers=2, n_heads=4, window=10, n_steps=4)
    >>> model(torch.zeros(2, 10, 32, 48)).shape
    torch.Size([2, 16, 32, 48])
    """

    takes_split_fields = False  # over processes

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int = 64,
        n_layers: int = 4,
        n_heads: int = 4,
        n_parameters: int = 0,
        activation: str = "gelu",
        positional_embedding: str | None = "walls",
        window: int = 1,
        n_steps: int = 1,
        latent_ratio: float = 2,
        head_dim: int | None = None,
        kernel_multiplier: int = 2,
        bandwidth: int = 8,
        parallel: bool = False,
        qk_norm: bool = False,
        checkpoint: bool = False,
    ):
        check_domain("FactFormer", domain)
        sizes = {"hidden_channels": hidden_channels, "n_layers": n_layers, "n_heads": n_heads, "window": window, "n_steps": n_steps}
        for name, value in sizes.items():
            check_size("FactFormer", name, value)
        if not isinstance(latent_ratio, (int, float)) or not 0.5 < latent_ratio * hidden_channels < math.inf:
            raise ValueError(
                f"FactFormer got latent_ratio={latent_ratio!r} for hidden_channels={hidden_channels}; "
                "give a number that makes at least one latent channel, such as 2"
            )
        for name, value, parts in (("in_channels", in_channels, window), ("out_channels", out_channels, n_steps)):
            check_size("FactFormer", name, value)
            if value % parts:
                count = f"window={window} frames" if name == "in_channels" else f"n_steps={n_steps} steps"
                raise ValueError(f"FactFormer got {name}={value} for {count}, which do not split evenly; give a multiple of {parts}")
        blocks = [
            FactorizedAttention(
                hidden_channels,
                domain.ndim,
                n_heads=n_heads,
                head_dim=head_dim,
                kernel_multiplier=kernel_multiplier,
                bandwidth=bandwidth,
                parallel=parallel,
                qk_norm=qk_norm,
                checkpoint=checkpoint,
            )
            for _ in range(n_layers)
        ]
        super().__init__(
            domain,
            in_channels,
            out_channels,
            hidden_channels=hidden_channels,
            convs=blocks,
            n_parameters=n_parameters,
            activation=activation,
            positional_embedding=positional_embedding,
            lifting_channel_ratio=0,
            block=Block(fno_skip="identity", channel_mlp_expansion=0, residual=True),
        )
        self.window = window
        self.projection = LatentMarch(hidden_channels, round(latent_ratio * hidden_channels), out_channels, n_steps, activation=activation)

    def forward(
        self, x: Tensor, *, parameters: Tensor | None = None, grid: Grid | None = None, output_shape: Sequence[int] | None = None
    ) -> Tensor:
        """Return the frames (B, out_channels, *spatial) that follow those of x (B, in_channels, *spatial).

        Arguments and errors are those of `FNO`; a missing window of frames is told apart from a wrong number of fields.
        """
        if isinstance(x, Tensor) and self.window > 1 and x.ndim > 1 and x.shape[1] * self.window == self.in_channels:
            raise ValueError(
                f"FactFormer got {x.shape[1]} channels, which is one frame, but was built for window={self.window}; stack the last "
                f"{self.window} frames along the channels, the latest last (training: Regime(window={self.window}))"
            )
        check_not_split("FactFormer", grid)
        return super().forward(x, parameters=parameters, grid=grid, output_shape=output_shape)


class LatentMarch(nn.Module):
    """Widen a state, march it in the latent space by one shared network, and decode every step; all at single points.

    Parameters
    ----------
    channels, latent, out_channels : int
        Of the state, of the latent state, and of all frames together.
    n_steps : int
        Latent steps; out_channels/n_steps channels are decoded from each.
    activation : str
        As in `FNO`.
    """

    def __init__(self, channels: int, latent: int, out_channels: int, n_steps: int, *, activation: str):
        super().__init__()
        self.expand = Pointwise(channels, latent, bias=False)
        self.step_embedding = nn.Parameter(0.02 * torch.randn(n_steps, latent))
        self.propagator = ChannelMLP(latent, latent, channels, activation=activation)
        self.decoder = ChannelMLP(latent, out_channels // n_steps, channels, activation=activation)

    def forward(self, v: Tensor) -> Tensor:
        """Return the frames (B, out_channels, *spatial) of a state v (B, channels, *spatial)."""
        z, frames = self.expand(v), []
        for e in self.step_embedding:
            z = z + self.propagator(z + e.view(-1, *[1] * (v.ndim - 2)))
            frames.append(self.decoder(z))
        return torch.cat(frames, dim=1)
