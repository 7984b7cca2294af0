"""The branches of LocalNO on a sphere: spectral, differential and local integral convolutions, by one transform each way.

    K v = S v + D v + I v + b

| branch           | layer                       | lengths by default, in radians                            |
| ---------------- | --------------------------- | --------------------------------------------------------- |
| S "spectral"     | `SphericalSpectralConv`     |                                                           |
| D "differential" | `SphericalDifferentialConv` | l = r/(2 pi), which is also that of the average           |
| I "integral"     | `SphericalIntegralConv`     | r = pi/n_modes, half the shortest wave of the spectral one |

Branches that act on coefficients (all but integrals by sums over samples) share the analysis and the synthesis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from opkernels.layers.kernels import Radial, kernel_from
from opkernels.layers.spherical_differential import SphericalDifferentialConv
from opkernels.layers.spherical_integral import SphericalIntegralConv
from opkernels.layers.spherical_spectral import SphericalSpectralConv, on_coefficients
from opkernels.models.branches import Branches, Differential, Integral
from opkernels.models.checks import check_size
from opkernels.sphere import SphereGrid

__all__ = ["SphericalBranches", "sphere_branches"]


def sphere_branches(
    n_modes: Sequence[int] | int, width: int, differential: Differential, integral: Integral
) -> dict[str, Callable[[], nn.Module]]:
    """Return what builds each branch of a layer of `width` channels.

    Raises
    ------
    ValueError
        If `n_modes` is no number, or an option has no meaning on a sphere.
    """
    if isinstance(n_modes, Sequence):
        raise ValueError(f"LocalNO got n_modes={n_modes!r} on a sphere; give one number, the largest degree")
    check_size("LocalNO", "n_modes", n_modes)
    if differential.accuracy not in (None, "exact"):
        raise ValueError(f'LocalNO got the differential accuracy {differential.accuracy!r} on a sphere; leave it out or give "exact"')
    radius = math.pi / max(n_modes, 2)  # kernels end before the antipode
    length = radius / (2 * math.pi) if differential.length is None else differential.length
    smoothing = length if differential.smoothing is None else differential.smoothing
    kernel = kernel_from(integral.kernel) or Radial(2, 3)
    support = radius if integral.radius is None else integral.radius
    return {
        "spectral": lambda: SphericalSpectralConv(width, width, n_modes, bias=False),
        "differential": lambda: SphericalDifferentialConv(width, width, length=length, order=differential.order, smoothing=smoothing),
        "integral": lambda: SphericalIntegralConv(width, width, kernel, radius=support, quadrature=integral.quadrature, bias=False),
    }


class SphericalBranches(Branches):
    """Branches on a sphere."""

    def terms(self, x: Tensor, grid: SphereGrid) -> list[Tensor]:
        """Return what the branches give, those that act on coefficients as one."""
        parts = list(self.branches.values())
        sums = [part for part in parts if getattr(part, "quadrature", None) == "nodal"]
        joint: list[Any] = [part for part in parts if part not in sums]
        terms = [part(x, grid) for part in sums]
        if joint:
            degree = max(getattr(part, "degree", grid.highest_degree) for part in joint)
            terms.append(on_coefficients([part.coefficients for part in joint], x, grid, min(degree, grid.highest_degree)))
        return terms
