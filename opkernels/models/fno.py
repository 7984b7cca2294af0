"""FNO: the Fourier neural operator, on any box of one or more axes and any grid.

    y = project( block_L( ... block_1( lift(u) ) ) ),     K v (x) = sum_{|k| <= K} W(k) v_hat(k) exp(2 pi i k . x/L) + b

The weights W live on wave numbers, so the same weights act on every grid that resolves the functions between the
blocks. `opkernels.models.backbone` writes the blocks out, `opkernels.layers.SpectralConv` the convolution.

References: Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, arXiv
2010.08895; Kossaifi et al., TMLR 2024, arXiv 2310.00120 (the form of the blocks).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from opkernels.domains import Domain
from opkernels.layers.spectral import SpectralConv
from opkernels.models.backbone import Backbone, Block
from opkernels.models.checks import check_domain, check_size
from opkernels.transforms import Modes, checked_modes

__all__ = ["FNO", "mode_set"]

_MODE_RULES = {
    "symmetric": Modes.symmetric,
    "neuraloperator": functools.partial(Modes.neuraloperator, nyquist=True),
    "neuraloperator without nyquist": functools.partial(Modes.neuraloperator, nyquist=False),
}


def mode_set(domain: Domain, n_modes: Sequence[int] | int, rule: str) -> Modes:
    """Return the wave numbers that `n_modes` and a rule name on a domain; refuse what does not fit.

    Parameters
    ----------
    domain : Domain
        Axes at "node" or "cell" points.
    n_modes : sequence of int
        One number per axis, both signs counted.
    rule : {"symmetric", "neuraloperator", "neuraloperator without nyquist"}
        "symmetric": |k| <= (n_modes - 1)//2, and nothing that is not the same on every grid. The others keep
        neuraloperator's unpaired rows, with or without the Nyquist rows of grids of n_modes samples and fewer.
    """
    check_domain("a model of spectral convolutions", domain)
    domain.require_fft("a model of spectral convolutions")
    n_modes = checked_modes(n_modes)
    if len(n_modes) != domain.ndim:
        raise ValueError(f"got n_modes={n_modes} on a {domain.ndim}-D domain; give one number of modes for each axis")
    if rule not in _MODE_RULES:
        raise ValueError(f"got mode_rule={rule!r}; choose one of {', '.join(_MODE_RULES)}")
    return _MODE_RULES[rule](n_modes)


class FNO(Backbone):
    """Fourier neural operator.

    Parameters
    ----------
    domain : Domain
        Where the functions live; axes at "node" or "cell" points.
    in_channels, out_channels : int
        Channels of the input and of the output.
    n_modes : sequence of int
        Modes per axis, both signs counted: |k| <= (n_modes - 1)//2 are kept. 12 to 32 per axis are usual; keep
        them below the number of samples of the coarsest training grid.
    hidden_channels : int
        Width C; 16 to 128.
    n_layers : int
        Number of blocks; 4 is usual.
    n_parameters : int
        Size of the per-sample `parameters` that scale and shift every block.
    activation : str
        "gelu", "silu", "tanh", "sin" or "relu" (which aliases most between grids).
    norm : {None, "instance_norm", "group_norm"}
        By quadrature, so that it means the same on every grid, "instance_norm" only nearly: it scales channels that a
        coarse grid does not resolve up to rms 1 (errors of 1e-7 to 1e-4 between 64 and 256 samples, where "group_norm"
        stays below 1e-7), and the biases of the layers before it do nothing.
    positional_embedding : {"walls", "harmonics", "ramps", None}
        "walls": coordinates on axes with walls, nothing on periodic ones. "harmonics": also sin and cos of periodic
        coordinates, which gives up translation equivariance. "ramps": neuraloperator's sawtooth.
    domain_padding : float or sequence of float
        Length, in the units of the domain, by which axes with walls are smoothly continued to a period
        (`opkernels.layers.padding`); a quarter of the axis is good, 0 takes the box itself for the period.
    lifting_channel_ratio, projection_channel_ratio : float
        Width of the first and last pointwise networks over `hidden_channels`; 0 for single matrices.
    block : Block or mapping
        Skips, channel MLP and order of the parts of a block.
    mode_rule : {"symmetric", "neuraloperator", "neuraloperator without nyquist"}
        Which wave numbers `n_modes` means (`mode_set`); leave it, except for weights carried over.

    Raises
    ------
    ValueError
        If a size is not positive, the number of modes differs from the number of axes, an option is unknown, or an
        axis is sampled at "endpoint" or "gauss".

    Examples
    --------
    >>> import torch
    >>> model = FNO(Domain.periodic(1.0, 1.0), 1, 2, n_modes=(8, 8), hidden_channels=8, n_layers=2)
    >>> model(torch.zeros(3, 1, 33, 48)).shape
    torch.Size([3, 2, 33, 48])
    >>> model(torch.zeros(3, 1, 33, 48), output_shape=(64, 64)).shape
    torch.Size([3, 2, 64, 64])
    """

    domain: Domain

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
        norm: str | None = None,
        positional_embedding: str | None = "walls",
        domain_padding: float | Sequence[float] = 0,
        lifting_channel_ratio: float = 2,
        projection_channel_ratio: float = 2,
        block: Block | Mapping = Block(),  # noqa: B008 frozen
        mode_rule: str = "symmetric",
    ):
        check_size("FNO", "hidden_channels", hidden_channels)
        check_size("FNO", "n_layers", n_layers)
        modes = mode_set(domain, n_modes, mode_rule)
        super().__init__(
            domain,
            in_channels,
            out_channels,
            hidden_channels=hidden_channels,
            convs=[SpectralConv(hidden_channels, hidden_channels, n_modes, modes=modes) for _ in range(n_layers)],
            n_parameters=n_parameters,
            activation=activation,
            norm=norm,
            positional_embedding=positional_embedding,
            domain_padding=domain_padding,
            lifting_channel_ratio=lifting_channel_ratio,
            projection_channel_ratio=projection_channel_ratio,
            block=block,
        )
