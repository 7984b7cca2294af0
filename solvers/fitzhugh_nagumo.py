"""The FitzHugh-Nagumo reaction-diffusion system, on a torus or between walls without flux.

    ∂u/∂t = D_u Δu + u - u³ - k - v
    ∂v/∂t = D_v Δv + u - v

| symbol    | meaning                       | shape              | units        |
| --------- | ----------------------------- | ------------------ | ------------ |
| u, v      | activator and inhibitor       | (B, 2, *spatial)   | 1            |
| D_u, D_v  | `diffusivity`, a pair         | numbers or (B,)    | length²/time |
| k         | `threshold`                   | number or (B,)     | 1 (time in units of the reaction's) |

Diffusion and the decay of v are integrated exactly in Fourier modes (torus) or cosine modes (walls),
the rest by an exponential Runge-Kutta scheme. Products are cut to the lowest two thirds of the modes.

References
----------
M. Takamoto et al., PDEBench, arXiv:2210.07182 (D = 1e-3, 5e-3, k = 5e-3 on [-1, 1]² with walls).
R. FitzHugh, Biophys. J. 1 (1961), 445-466.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.solvers.fast_poisson import Eigenbasis, wall_kinds
from opkernels.solvers.spectral import Modes, Semilinear, SpectralSolver, pair, parameter, per_sample

__all__ = ["FitzHughNagumo"]


class FitzHughNagumo(SpectralSolver):
    """FitzHugh-Nagumo system; module docstring for the equations.

    Parameters
    ----------
    domain : Domain
        One to three axes: periodic, or with walls (∂u/∂n = ∂v/∂n = 0) sampled at "cell" or "endpoint"; all alike.
    diffusivity : pair of float or Tensor (B,)
        D_u and D_v, not negative.
    threshold : float or Tensor (B,)
        k.
    method : str
        "ETDRK4" (default).

    Notes
    -----
    Fails when fronts of u, of width about 4 √D_u, have fewer than four points. A rough initial state
    (PDEBench's is white noise) is smoothed within a time of h²/D_u. Good values: PDEBench's at 128².

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> solver = FitzHughNagumo(Domain.box(2.0, 2.0))
    >>> solver.solve(0.1 * torch.rand(1, 2, 32, 32), times=[1.0, 2.0]).shape
    torch.Size([1, 2, 2, 32, 32])
    """

    fields = ("u", "v")
    walled = True

    def __init__(
        self,
        domain: Domain,
        *,
        diffusivity: tuple[float | Tensor, float | Tensor] = (1e-3, 5e-3),
        threshold: float | Tensor = 5e-3,
        method: str = "ETDRK4",
    ):
        super().__init__(domain, method)
        both = pair(diffusivity, "diffusivity", "FitzHughNagumo")
        self.diffusivity = tuple(parameter(value, "diffusivity", lowest=0.0) for value in both)
        self.threshold = parameter(threshold, "threshold")
        if len({axis.periodic for axis in domain.axes}) > 1:
            raise ValueError("FitzHughNagumo got a domain with walls on some axes only; make all axes periodic, or none")
        if not domain.axes[0].periodic:
            self.walls = wall_kinds(domain, "neumann", "FitzHughNagumo")
            Eigenbasis(domain.grid(*[4] * domain.ndim), self.walls)  # refuses samples without a transform

    def _bind(self, grid: Grid, u0: Tensor) -> Semilinear:
        periodic = grid.domain.axes[0].periodic
        modes: Any = Modes(grid, device=u0.device, dtype=u0.dtype) if periodic else _CosineModes(Eigenbasis(grid, self.walls), u0)
        values = {"diffusivity": self.diffusivity[0], "second diffusivity": self.diffusivity[1], "threshold": self.threshold}
        du, dv, k = (per_sample(value, name, len(u0), grid, u0.device) for name, value in values.items())
        channels = [-du * modes.k2[None, None], -dv * modes.k2[None, None] - 1]
        batch = max(len(channel) for channel in channels)
        k = k.to(u0.dtype) if isinstance(k, Tensor) else k

        def reaction(u: Tensor) -> Tensor:
            u, v = u[:, :1], u[:, 1:]
            return torch.cat([u - u**3 - k - v, u], dim=1)

        return Semilinear(
            modes,
            torch.cat([channel.expand(batch, -1, *modes.shape) for channel in channels], dim=1),
            reaction,
            lambda u: 2 + 3 * u[:, 0].square().flatten(1).amax(dim=1),
        )


class _CosineModes:
    """Cosine modes between walls, with the interface of `Modes`."""

    def __init__(self, basis: Eigenbasis, u0: Tensor):
        self.basis, self.dtype, self.shape = basis, u0.dtype, basis.shape
        self.k2 = basis.eigenvalues(u0.device, torch.float64, exact=True)
        mask = torch.ones_like(self.k2)
        for k, n, axis in zip(basis.wavenumbers(u0.device, torch.float64), basis.shape, basis.grid.domain.axes, strict=True):
            intervals = n - (axis.points == "endpoint")
            mask = mask * (3 * k * axis.length / math.pi < 2 * intervals - 0.5)
        self.mask = mask

    def transform(self, u: Tensor) -> Tensor:
        """Return the coefficients of fields (..., *spatial), those that are not kept included."""
        return self.basis.forward(u)

    def to_modes(self, u: Tensor) -> Tensor:
        """Return the kept coefficients; other modes are zero."""
        return self.basis.forward(u) * self.mask.to(self.dtype)

    def to_grid(self, u_hat: Tensor) -> Tensor:
        """Return the fields of coefficients."""
        return self.basis.inverse(u_hat)
