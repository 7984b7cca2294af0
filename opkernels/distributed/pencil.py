"""Pencil transforms: few Fourier coefficients of a split field, each process with its own share of the wave numbers.

    blocks of axis a -> FFT of the other axes, cut to their modes -> exchange -> FFT of axis a, cut to its modes
                        (B, C, n_a/P, .., m_d)                       (B, C, n_a, .., m_d/P)

What is not wanted is dropped before it is sent: a process sends (P - 1)/P x n_a/P prod(m_b, b != a) B C complex numbers. The coefficients
are those of `opkernels.transforms.Fourier`, rows of the last axis shared out in blocks; the inverse is the mirror image. Spectral layers
sum the coefficients of all blocks instead (`opkernels.distributed.split` compares the two); this is for work on coefficients that
themselves are to be spread over the processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.distributed import halo
from opkernels.distributed.halo import Part
from opkernels.domains import Grid
from opkernels.transforms import Fourier, Modes

__all__ = ["PencilFourier"]


@dataclass(frozen=True)
class PencilFourier:
    """Analysis and synthesis between blocks of samples and blocks of the coefficients named by `modes`.

    For fields of two or more axes of which one, not the last, is split.
    """

    modes: Modes

    def analyze(self, x: Tensor, grid: Grid) -> Tensor:
        """Return this process's coefficients (B, 2, *modes.shape, C), the last axis of modes in blocks, of x (B, C, *grid.sizes)."""
        fourier, part, z = Fourier(self.modes), _only_part(grid, self.modes), x
        for a in reversed(range(grid.ndim)):
            if part is not None and part.axis == a:
                z = halo.moved(z, a - grid.ndim, -1, grid.shape[a], part)
            z = fourier.analyze_axis(z, grid, a)
        return torch.view_as_real(z).movedim((-1, 1), (1, -1))

    def synthesize(self, z: Tensor, grid: Grid) -> Tensor:
        """Return the samples (B, C, *grid.sizes) of the function with coefficients z, held as `analyze` leaves them."""
        fourier, part = Fourier(self.modes), _only_part(grid, self.modes)
        y = torch.complex(z[:, 0], z[:, 1]).movedim(-1, 1)
        for a in range(grid.ndim):
            y = fourier.synthesize_axis(y, grid, a)
            if part is not None and part.axis == a:
                y = halo.moved(y, -1, a - grid.ndim, self.modes.shape[-1], part)
        return y


def _only_part(grid: Grid, modes: Modes) -> Part | None:
    parts = list(grid.split.parts)
    if not parts:
        return None
    if len(parts) > 1 or parts[0].axis == grid.ndim - 1:
        raise ValueError(
            f"PencilFourier got a {grid.ndim}-D field with the axes {[part.axis for part in parts]} split; "
            "split one axis of two or more, not the last"
        )
    if modes.shape[-1] < parts[0].size:
        raise ValueError(
            f"PencilFourier got {modes.shape[-1]} wave numbers of the last axis for {parts[0].size} processes; use fewer processes"
        )
    return parts[0]
