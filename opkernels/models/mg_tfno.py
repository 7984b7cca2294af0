"""MGTFNO: a TFNO that works through a field patch by patch, around what a coarse one says of the whole.

    c = C( R u ),    y = sum_i S_i ( P_i c + T( R_i0 u, R_i1 u, .. R_iL u, P_i c ) ),    i over the 2^(dL) patches

R restricts the field to n/2^L samples per axis, where the coarse operator C, a TFNO, sees the whole domain; P_i c is its answer
at the samples of patch i and the padding around it. T, another TFNO, the same for all patches, adds what the coarse grid could
not carry. It sees P_i c and the windows R_iλ u of the levels λ = 0 .. L about the patch; S_i places its output, blended at the
seams (`opkernels.layers.multigrid`).

Why C: the windows of coarse levels are channels of one function, in which what lies at some place of the domain stands at
another sample than in the fine window. A Fourier layer commutes with translations, and cannot bring the two together; C and P_i
leave everything in its place. It costs 2^-dL of a pass over the whole field.

Patches go through T one after the other; while gradients are recorded only the field and c are kept, and the activations of a
patch, or of C, are made again when the backward pass comes to it. Memory for activations is that of one window, (s + 2p)^d of n^d
samples, in prediction and in training, with any training loop and nothing to switch on; a training step costs one more forward
pass. Gradients are the sums over the patches. Of a field that is split over processes each makes the whole of c, which is small.

Reference: Kossaifi, Kovachki, Azizzadenesheli, Anandkumar, "Multi-Grid Tensorized Fourier Neural Operator for
High-Resolution PDEs", TMLR 2024, arXiv 2310.00120 (patches and windows; the coarse operator is ours).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from opkernels.domains import Domain, Grid
from opkernels.layers.embedding import position_channels
from opkernels.layers.factorizations import Rank
from opkernels.layers.multigrid import Patches
from opkernels.models.checks import check_domain, check_input, check_parameters, check_size, grid_for, shape_for
from opkernels.models.tfno import TFNO
from opkernels.resample import resample

__all__ = ["MGTFNO"]


class MGTFNO(nn.Module):
    """Multi-grid tensorized Fourier neural operator.

    Parameters
    ----------
    domain : Domain
        Where the functions live; periodic axes at "node" or "cell" points, axes with walls at "cell" points.
    in_channels, out_channels : int
        Channels of the input and of the output.
    n_modes : sequence of int
        Modes per axis of a window, as in `FNO`. A window is narrower than the domain, so that the same number reaches
        shorter waves.
    levels : int
        2^levels patches per axis, and as many coarse windows besides the patch's own; 1 or 2 are usual. Zero: no patches.
    padding : float or sequence of float, optional
        By how much windows are wider than patches on each side, in the units of the domain; by default a sixteenth of each
        axis. A whole number of samples on every grid used; 8 samples or more make smooth ends and seams. Wider is more
        accurate and takes more memory. Zero leaves jumps.
    rank, factorization, joint, hidden_channels, n_layers, n_parameters
        As in `TFNO`, of the coarse operator and of the one on windows alike.
    positional_embedding : {"walls", "harmonics", None}
        As in `FNO`: positions in the whole domain, for every level.

    Attributes
    ----------
    coarse : MGTFNO or None
        The coarse operator C on the whole domain, with no levels; None where there are no patches.
    local : TFNO
        The operator T on windows, from (levels + 1) times the channels of input and positions, and the output's.
    patches : Patches
        The decomposition.

    Raises
    ------
    ValueError
        As for `TFNO`; if the padding is wider than a patch or an axis cannot be cut; on a call, if the grid does not divide
        into patches and whole numbers of samples of padding.

    Notes
    -----
    Operators are not equivariant under translation, but under shifts by patches. Beyond a wall the field is mirrored. Waves that
    n/2^L samples do not carry act within the padding only; an operator that is global at full resolution is only approximated.

    Examples
    --------
    >>> import torch
    >>> model = MGTFNO(Domain.periodic(1.0, 1.0), 1, 2, n_modes=(8, 8), levels=1, hidden_channels=8, n_layers=2)
    >>> model(torch.zeros(3, 1, 32, 48)).shape
    torch.Size([3, 2, 32, 48])
    """

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        n_modes: Sequence[int],
        levels: int = 1,
        padding: float | Sequence[float] | None = None,
        rank: Rank = 0.1,
        factorization: str = "tucker",
        joint: bool = False,
        hidden_channels: int = 32,
        n_layers: int = 4,
        n_parameters: int = 0,
        positional_embedding: str | None = "walls",
    ):
        super().__init__()
        check_domain("MGTFNO", domain)
        for name, value, least in (("in_channels", in_channels, 1), ("out_channels", out_channels, 1), ("levels", levels, 0)):
            check_size("MGTFNO", name, value, least)
        self.domain, self.in_channels, self.out_channels, self.n_parameters = domain, in_channels, out_channels, n_parameters
        self.patches = Patches.of(domain, levels, padding)
        self.positional_embedding = positional_embedding
        options = {
            "n_modes": n_modes,
            "rank": rank,
            "factorization": factorization,
            "joint": joint,
            "hidden_channels": hidden_channels,
            "n_layers": n_layers,
            "n_parameters": n_parameters,
        }
        self.coarse = None
        if levels:
            wide = [axis.length * float(2**levels * share) for axis, share in zip(domain.axes, self.patches.padding, strict=True)]
            self.coarse = MGTFNO(
                domain, in_channels, out_channels, levels=0, padding=wide, positional_embedding=positional_embedding, **options
            )
        entering = (levels + 1) * (in_channels + position_channels(domain, positional_embedding)) + (out_channels if levels else 0)
        self.local = TFNO(self.patches.window_domain, entering, out_channels, positional_embedding=None, **options)

    def forward(
        self, x: Tensor, *, parameters: Tensor | None = None, grid: Grid | None = None, output_shape: Sequence[int] | None = None
    ) -> Tensor:
        """Return the output functions, (B, out_channels, *spatial), for the input functions x; arguments as for `FNO`.

        Raises
        ------
        ValueError
            If dtype, channels, spatial rank, grid, parameters or output shape do not fit, or the grid does not divide.
        """
        check_input("MGTFNO", "x", x, next(self.parameters()).dtype)
        grid = grid_for("MGTFNO", self.domain, self.in_channels, x, grid, split=True)
        check_parameters("MGTFNO", x, parameters, self.n_parameters)
        pyramid, c = self.patches.pyramid(x, grid), None
        if self.coarse is not None:
            c = self._again(self._whole, pyramid[-1], parameters, grid).to(x.dtype)
        y = self.patches.beginning(x, self.out_channels, grid)
        for patch in self.patches.held(grid):
            y = self.patches.add(y, self._again(self._part, patch, parameters, grid, c, *pyramid), grid, patch)
        y = self.patches.stitched(y, grid)
        return y if output_shape is None else resample(y, grid, shape_for("MGTFNO", output_shape, grid.ndim))

    def _again(self, part: Callable, *arguments) -> Tensor:
        """Apply a part of the model; its activations are not kept but made again in the backward pass."""
        if self.patches.levels and torch.is_grad_enabled():
            return checkpoint(part, *arguments, use_reentrant=False)
        return part(*arguments)

    def _whole(self, x: Tensor, parameters: Tensor | None, grid: Grid) -> Tensor:
        """Return c for the last restriction x of a field."""
        assert self.coarse is not None
        return self.coarse(x, parameters=parameters, grid=self.patches.coarsest(grid))

    def _part(self, patch: Sequence[int], parameters: Tensor | None, grid: Grid, c: Tensor | None, *pyramid: Tensor) -> Tensor:
        """Return the output on the finest window of a patch."""
        z = self.patches.windows(pyramid, grid, patch)
        where = self.patches.positions(grid, patch, self.positional_embedding, z.device, z.dtype)
        z = torch.cat([z, where.expand(z.shape[0], *where.shape)], dim=1)
        window = self.patches.window(grid)
        if c is None:
            return self.local(z, parameters=parameters, grid=window)
        around = self.patches.prolonged(c, grid, patch)
        return around + self.local(torch.cat([z, around], dim=1), parameters=parameters, grid=window)
