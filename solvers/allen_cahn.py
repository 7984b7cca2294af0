"""The Allen-Cahn equation on a torus of one to three dimensions.

    ∂u/∂t = ε² Δu + u - u³

| symbol | meaning                                  | shape             | units                               |
| ------ | ---------------------------------------- | ----------------- | ----------------------------------- |
| u      | order parameter, -1 and 1 in the phases  | (B, 1, *spatial)  | 1                                   |
| ε      | `epsilon`, width of the walls            | number or (B,)    | length (time: the reaction's units) |

The linear terms are integrated exactly in Fourier modes, u³ by an exponential Runge-Kutta scheme, on the lowest two thirds
of the modes. The energy ∫ ε²/2 |∇u|² + (u² - 1)²/4 falls along every solution, also as a sum over the grid, for which
aliases of u³ do not matter: what moves u is its exact gradient. A disc of one phase shrinks as R² = R₀² - 2ε²t.

References
----------
S. M. Allen, J. W. Cahn, A microscopic theory for antiphase boundary motion, Acta Metall. 27 (1979),
1085-1095.
"""

from __future__ import annotations

from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.solvers.deferred_correction import CORRECTED
from opkernels.solvers.spectral import Modes, Semilinear, SpectralSolver, parameter, per_sample
from opkernels.solvers.tables import METHODS

__all__ = ["AllenCahn"]


class AllenCahn(SpectralSolver):
    """Allen-Cahn equation; module docstring for the formula.

    Parameters
    ----------
    domain : Domain
        One to three periodic axes.
    epsilon : float or Tensor (B,)
        ε > 0.
    method : str
        "ETDRK4" (default); "DC3" and "DC4" are implicit: a step costs at least three times as much, and may be as long as
        the pattern is at rest (`solvers/deferred_correction.py`).

    Notes
    -----
    Fails when a wall, of width about 4ε, has fewer than four points: fronts then stick to the grid.
    Good values: ε = 0.02 on a unit square at 128².

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> solver = AllenCahn(Domain.periodic(1.0, 1.0), epsilon=0.05)
    >>> u0 = 0.1 * torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> u = solver.solve(u0, times=[1.0, 2.0])
    >>> u.shape
    torch.Size([4, 2, 1, 32, 32])
    >>> bool((solver.energy(u[:, 1]) < solver.energy(u[:, 0])).all())
    True
    """

    fields = ("u",)
    schemes = (*METHODS, *CORRECTED)

    def __init__(self, domain: Domain, *, epsilon: float | Tensor, method: str = "ETDRK4"):
        super().__init__(domain, method)
        self.epsilon = parameter(epsilon, "epsilon", above=0.0)

    def energy(self, u: Tensor) -> Tensor:
        """Return ∫ ε²/2 |∇u|² + (u² - 1)²/4 of (B, 1, *spatial), shape (B,)."""
        grid = self.domain.grid_of(u)
        modes = Modes(grid, device=u.device, dtype=u.dtype, degree=1)
        epsilon = per_sample(self.epsilon, "epsilon", len(u), grid, u.device)
        slope = (modes.to_modes(u).abs().square() * (modes.twins * modes.k2 * epsilon**2 / 2).to(u.dtype)).flatten(1).sum(dim=1)
        return self.domain.measure * (slope + ((u * u - 1).square() / 4).flatten(1).mean(dim=1))

    def _bind(self, grid: Grid, u0: Tensor) -> Semilinear:
        modes = Modes(grid, device=u0.device, dtype=u0.dtype)
        epsilon = per_sample(self.epsilon, "epsilon", len(u0), grid, u0.device)
        return Semilinear(modes, 1 - epsilon**2 * modes.k2, lambda u: -(u**3), lambda u: 3 * u.square().flatten(1).amax(dim=1))
