"""Burgers' equation on a periodic interval.

    ∂u/∂t + ∂(u²/2)/∂x = ν ∂²u/∂x² + f

| symbol | meaning                        | shape       | units         |
| ------ | ------------------------------ | ----------- | ------------- |
| u      | velocity                       | (B, 1, N)   | length/time   |
| ν      | `viscosity`                    | number, (B,)| length²/time  |
| f      | `forcing`                      | (*, 1, N)   | length/time²  |

Fourier modes, the product dealiased by the two-thirds rule, viscosity integrated exactly, the rest by a Runge-Kutta scheme
of fourth order. The mean of u changes by that of f alone, and d/dt ⟨u²⟩/2 = -ν ⟨(∂u/∂x)²⟩ + ⟨u f⟩.

References
----------
E. Hopf, The partial differential equation u_t + u u_x = μ u_xx, Comm. Pure Appl. Math. 3 (1950),
201-230 (the exact solution, `exact.cole_hopf`). Z. Li et al., arXiv:2010.08895 (the data set).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.solvers.spectral import Modes, Semilinear, SpectralSolver, parameter, per_sample, sample_forcing

__all__ = ["Burgers1D"]


class Burgers1D(SpectralSolver):
    """Burgers' equation; module docstring for the symbols. The mean of u is conserved exactly where f has none.

    Parameters
    ----------
    domain : Domain
        One periodic axis.
    viscosity : float or Tensor (B,)
        ν > 0.
    forcing : callable or Tensor, optional
        f(x) or f(x, t), or samples that broadcast to (B, 1, N).
    method : str
        "IFRK4" (default) and "ETDRK4" are equally accurate here.

    Notes
    -----
    Fails when the grid does not resolve the fronts, of width about 4ν over the jump: the sum of
    jagged modes stays finite but is wrong. Good values: ν = 0.1 at 64, 0.01 at 512, 1e-3 at 4096
    points for unit length and velocity.

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> solver = Burgers1D(Domain.periodic(1.0), viscosity=0.01)
    >>> x = solver.domain.grid(128).coordinates()
    >>> u = solver.solve(torch.sin(2 * torch.pi * x)[None], times=[0.25, 0.5])  # steepens to a front at x = 1/2
    >>> u.shape
    torch.Size([1, 2, 1, 128])
    """

    fields = ("u",)
    dimensions = (1,)

    def __init__(
        self, domain: Domain, *, viscosity: float | Tensor, forcing: Callable[..., Tensor] | Tensor | None = None, method: str = "IFRK4"
    ):
        super().__init__(domain, method)
        self.viscosity = parameter(viscosity, "viscosity", above=0.0)
        self.forcing = forcing

    def _bind(self, grid: Grid, u0: Tensor) -> Semilinear:
        modes = Modes(grid, device=u0.device, dtype=u0.dtype)
        (k,) = modes.k
        return Semilinear(
            modes,
            -per_sample(self.viscosity, "viscosity", len(u0), grid, u0.device) * k**2,
            lambda u: u * u,
            lambda u: k[-1].to(u.dtype) * u.abs().amax(dim=(1, 2)),
            factor=-0.5j * k,
            forcing=sample_forcing(self.forcing, "Burgers1D", grid, device=u0.device, dtype=u0.dtype, batch=len(u0)),
        )
