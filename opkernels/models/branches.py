"""What the branches of LocalNO are on a box and on a sphere: their options, and their sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from opkernels.domains import Grid
from opkernels.layers.kernels import KernelBasis, kernel_to
from opkernels.sphere import SphereGrid

__all__ = ["Branches", "Differential", "Integral", "options_of"]


@dataclass(frozen=True)
class Differential:
    """The differential branch (`opkernels.layers.DifferentialConv`).

    Parameters
    ----------
    order : int
        Highest order of differentiation; 1 or 2.
    accuracy : {2, 4, 6, "exact"}, optional
        Order of accuracy of the stencils; by default exact where all axes are periodic and 4 elsewhere.
    length : float, optional
        The length l; by default the default radius of the integrals over 2 pi.
    smoothing : float, optional
        Standard deviation of the average that exact derivatives are taken of; by default the length l. Without it (0) a trained
        model changes with the grid wherever the training grid does not resolve what goes on inside: on Burgers waves the error at
        twice the training grid was lower with it, on turbulence neither here nor there (`docs/local_no.md`, also on how it was chosen).
    """

    order: int = 1
    accuracy: int | str | None = None
    length: float | None = None
    smoothing: float | None = None


@dataclass(frozen=True)
class Integral:
    """The local integral branch (`opkernels.layers.LocalIntegralConv`).

    Parameters
    ----------
    radius : float, optional
        The radius r; by default half the shortest wave of the spectral branch, at most half an axis.
    kernel : KernelBasis or sequence, optional
        The functions that the kernel is made of, or their name and numbers, as ``("Zernike", 4)``; by default
        ``PolarHats`` of one ring that look both ways along each axis; on a sphere ``Radial(2, 3)``, which look nowhere.
    quadrature : {"exact", "nodal"}, optional
        By default exact where all axes are periodic, and for isotropic kernels on a sphere.
    """

    radius: float | None = None
    kernel: KernelBasis | list | tuple | None = None
    quadrature: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "kernel", kernel_to(self.kernel))


def options_of(kind: type, given):
    """Return `given` itself, or the options that a mapping (from a configuration file) describes."""
    if isinstance(given, kind):
        return given
    names = [f.name for f in fields(kind)]
    unknown = set(given) - set(names) if isinstance(given, Mapping) else {repr(given)}
    if unknown:
        raise ValueError(f"LocalNO got the {kind.__name__.lower()} options {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    return kind(**given)


class Branches(nn.Module):
    """The sum of some convolutions and a constant per channel."""

    def __init__(self, branches: Mapping[str, nn.Module], channels: int):
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        self.bias = nn.Parameter(torch.zeros(channels))
        with torch.no_grad():
            for weight in self.parameters():  # the sum starts as large as one branch alone
                weight.div_(len(branches) ** 0.5)

    def terms(self, x: Tensor, grid: Grid | SphereGrid) -> list[Tensor]:
        """Return what the branches give, in any order, those that share work as one."""
        raise NotImplementedError

    def forward(self, x: Tensor, grid: Grid | SphereGrid) -> Tensor:
        """Return (B, C, *grid.shape) for x of that shape."""
        terms = self.terms(x, grid)
        return sum(terms[1:], start=terms[0]) + self.bias.to(terms[0].dtype).view(-1, *[1] * len(grid.shape))
