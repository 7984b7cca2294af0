"""The Korteweg-de Vries equation on a periodic interval.

    ∂u/∂t + 6 u ∂u/∂x + ∂³u/∂x³ = 0

| symbol | meaning                 | shape     | units                                   |
| ------ | ----------------------- | --------- | --------------------------------------- |
| u      | height of the wave      | (B, 1, N) | 1/length² (time in units of length³)    |

Fourier modes, the product dealiased by the two-thirds rule, dispersion integrated exactly, the rest by an exponential
Runge-Kutta scheme of fourth order. The linear symbol is imaginary, L = iκ³, so the φ-functions must be complex; cut to
their real part they are first order.
∫u, ∫u² and ∫(u³ - (∂u/∂x)²/2) are conserved; the first to round-off, the others at the order of the
scheme.

References
----------
N. J. Zabusky, M. D. Kruskal, Interaction of "solitons" in a collisionless plasma and the recurrence
of initial states, Phys. Rev. Lett. 15 (1965), 240-243. C. S. Gardner et al., Phys. Rev. Lett. 19
(1967), 1095-1097 (exact solutions, `exact.soliton` and `exact.two_solitons`).
"""

from __future__ import annotations

from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.solvers.spectral import Modes, Semilinear, SpectralSolver

__all__ = ["KortewegDeVries"]


class KortewegDeVries(SpectralSolver):
    """KdV equation; module docstring for the formula.

    Parameters
    ----------
    domain : Domain
        One periodic axis.
    method : str
        "ETDRK4" (default), "ETDRK4B" or "IFRK4"; the last is about four times less accurate.

    Notes
    -----
    Nothing damps here: a soliton of speed c has width 2/√c and needs about ten points across it, or
    its error stays whatever the step. Good values: c = 4 on length 40 with 256 points.

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> solver = KortewegDeVries(Domain.periodic(40.0))
    >>> x = solver.domain.grid(256).coordinates(dtype=torch.float64)
    >>> u = solver.solve((2 / torch.cosh(x - 20) ** 2)[None], times=[1.0])  # a soliton of speed 4
    >>> round(x[0, u[0, 0, 0].argmax()].item())
    24
    """

    fields = ("u",)
    dimensions = (1,)

    def __init__(self, domain: Domain, *, method: str = "ETDRK4"):
        super().__init__(domain, method)

    def _bind(self, grid: Grid, u0: Tensor) -> Semilinear:
        modes = Modes(grid, device=u0.device, dtype=u0.dtype)
        (k,) = modes.k
        return Semilinear(
            modes,
            1j * k**3,
            lambda u: u * u,
            lambda u: 6 * k[-1].to(u.dtype) * u.abs().amax(dim=(1, 2)),
            factor=-3j * k,
        )
