"""SFNO: the spherical Fourier neural operator, on any grid of the sphere.

    y = project( block_L( ... block_1( lift(u) ) ) ),     K v = sum_{l <= n_modes} sum_m (W(l) + i (m/l) V(l)) v_lm Y_lm + b

The weights live on degrees of spherical harmonics, so the same weights act on every grid that resolves the functions between the
blocks. `opkernels.models.backbone` writes the blocks out, `opkernels.layers.SphericalSpectralConv` the convolution.

| symmetry, positional_embedding | the model commutes with                     | for                                                |
| ------------------------------ | ------------------------------------------- | -------------------------------------------------- |
| "axis", "walls" (the default)  | rotations about the axis                    | a rotating planet                                  |
| "sphere", None                 | all rotations and reflections; V = 0        | diffusion, reaction: no axis and no sense of turning |

References: Bonev, Kurth, Hundt, Pathak, Baust, Kashinath, Anandkumar, "Spherical Fourier Neural Operators: Learning Stable Dynamics on
the Sphere", ICML 2023, arXiv 2306.03838.
"""

from __future__ import annotations

from collections.abc import Mapping

from opkernels.layers.spherical_spectral import SphericalSpectralConv
from opkernels.models.backbone import Backbone, Block
from opkernels.models.checks import check_size, check_sphere
from opkernels.sphere import Sphere

__all__ = ["SFNO"]


class SFNO(Backbone):
    """Spherical Fourier neural operator.

    Parameters
    ----------
    domain : Sphere
        Where the functions live.
    in_channels, out_channels : int
        Channels of the input and of the output.
    n_modes : int
        The largest degree of spherical harmonics that the convolutions act on; at most that of the coarsest training grid, which
        is 31 for 32 x 64 "gauss" points, and with room for what the activations make: 21 is good there.
    hidden_channels : int
        Width C; 16 to 128.
    n_layers : int
        Number of blocks; 4 is usual.
    n_parameters : int
        Size of the per-sample `parameters` that scale and shift every block.
    symmetry : {"axis", "sphere"}
        What the convolutions commute with. With "sphere" a model cannot tell east from west, and so learns no advection.
    activation, norm, lifting_channel_ratio, projection_channel_ratio, block
        As in `FNO`.
    positional_embedding : {"walls", "harmonics", None}
        "walls": sin(latitude), smooth at the poles and the same along each circle of latitude. "harmonics": the three
        coordinates of the point in space, which single out a meridian too.

    Raises
    ------
    ValueError
        If the domain is no Sphere, a size is not positive or an option is unknown.

    Examples
    --------
    >>> import torch
    >>> model = SFNO(Sphere(), 1, 2, n_modes=15, hidden_channels=8, n_layers=2)
    >>> model(torch.zeros(3, 1, 32, 64)).shape
    torch.Size([3, 2, 32, 64])
    """

    def __init__(
        self,
        domain: Sphere,
        in_channels: int,
        out_channels: int,
        *,
        n_modes: int,
        hidden_channels: int = 32,
        n_layers: int = 4,
        n_parameters: int = 0,
        symmetry: str = "axis",
        activation: str = "gelu",
        norm: str | None = None,
        positional_embedding: str | None = "walls",
        lifting_channel_ratio: float = 2,
        projection_channel_ratio: float = 2,
        block: Block | Mapping = Block(),  # noqa: B008 frozen
    ):
        check_sphere("SFNO", domain)
        check_size("SFNO", "n_modes", n_modes)
        check_size("SFNO", "hidden_channels", hidden_channels)
        check_size("SFNO", "n_layers", n_layers)
        super().__init__(
            domain,
            in_channels,
            out_channels,
            hidden_channels=hidden_channels,
            convs=[SphericalSpectralConv(hidden_channels, hidden_channels, n_modes, symmetry=symmetry) for _ in range(n_layers)],
            n_parameters=n_parameters,
            activation=activation,
            norm=norm,
            positional_embedding=positional_embedding,
            lifting_channel_ratio=lifting_channel_ratio,
            projection_channel_ratio=projection_channel_ratio,
            block=block,
        )
