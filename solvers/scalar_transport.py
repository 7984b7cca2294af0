"""A passive scalar carried by two-dimensional Navier-Stokes flow on a torus.

    ∂θ/∂t + (u + U)·∇θ = D Δθ - (u + U)·G,     u of `navier_stokes`, which θ does not act on

| symbol | meaning                                            | shape              | units         |
| ------ | -------------------------------------------------- | ------------------ | ------------- |
| θ      | scalar, without its mean gradient                  | (B, 1, N_x, N_y)   | any           |
| D      | `diffusivity`                                      | number or (B,)     | length²/time  |
| G      | `mean_gradient`, which the scalar θ + G·x keeps up | two numbers        | of θ / length |

⟨θ⟩ is conserved for G = 0, and d/dt ⟨θ²⟩/2 = -D ⟨|∇θ|²⟩ - ⟨θ (u + U)·G⟩.

References
----------
Z. Warhaft, Passive scalars in turbulent flows, Annu. Rev. Fluid Mech. 32 (2000), 203-240.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from opkernels.domains import Grid
from opkernels.solvers.navier_stokes import NavierStokes2D
from opkernels.solvers.spectral import SpectralSolver, number, pair, parameter, per_sample
from opkernels.solvers.stochastic_forcing import RingForcing, evolve_kicked

__all__ = ["ScalarTransport2D"]


class ScalarTransport2D(SpectralSolver):
    """Vorticity and a passive scalar together; module docstring for the equation.

    Parameters
    ----------
    flow : NavierStokes2D
        The flow: its domain, parameters, forcings and scheme.
    diffusivity : float or Tensor (B,)
        D >= 0.
    mean_gradient : pair of float
        G.

    Notes
    -----
    Fails when the grid does not resolve the scalar, whose finest scale is √(D/ν) times that of the flow: keep D near ν or above.

    Examples
    --------
    >>> import math, torch
    >>> from opkernels import Domain
    >>> from opkernels.solvers import NavierStokes2D
    >>> flow = NavierStokes2D(Domain.periodic(2 * math.pi, 2 * math.pi), viscosity=1e-2)
    >>> x, y = flow.domain.grid(32, 32).coordinates(dtype=torch.float64)
    >>> u0 = torch.stack([2 * x.cos() * y.cos(), x.sin()])[None]  # vorticity, scalar
    >>> ScalarTransport2D(flow, diffusivity=1e-2).solve(u0, times=[0.5, 1.0]).shape
    torch.Size([1, 2, 2, 32, 32])
    """

    fields = ("vorticity", "scalar")
    dimensions = (2,)

    def __init__(self, flow: NavierStokes2D, *, diffusivity: float | Tensor, mean_gradient: tuple[float, float] = (0.0, 0.0)):
        if not isinstance(flow, NavierStokes2D):
            raise ValueError(f"ScalarTransport2D got flow={flow!r}; give a NavierStokes2D solver")
        super().__init__(flow.domain, flow.method)
        self.flow, self.diffusivity = flow, parameter(diffusivity, "diffusivity", lowest=0.0)
        self.mean_gradient = tuple(number(value, "mean_gradient") for value in pair(mean_gradient, "mean_gradient", "ScalarTransport2D"))
        if flow.stirring is not None:
            self._march = functools.partial(evolve_kicked, march=self._march, forcing=flow.stirring)

    def _bind(self, grid: Grid, u0: Tensor) -> _Transport:
        return _Transport(self, grid, u0)


class _Transport:
    """Both equations bound to a grid and a batch; states are (B, 2, K, N_x) as in `navier_stokes`."""

    def __init__(self, solver: ScalarTransport2D, grid: Grid, u0: Tensor):
        self.flow = solver.flow._bind(grid, u0[:, :1])
        self.encode, self.decode, self.driven = self.flow.encode, self.flow.decode, self.flow.driven
        kx, ky = (k.mT for k in self.flow.modes.k)
        diffusion = -per_sample(solver.diffusivity, "diffusivity", len(u0), grid, u0.device) * (kx * kx + ky * ky)[None, None]
        parts = [self.flow.symbol.expand(1, 1, *diffusion.shape[-2:]) if self.flow.symbol.ndim == 2 else self.flow.symbol, diffusion]
        batch = max(len(part) for part in parts)
        self.symbol = torch.cat([part.expand(batch, -1, -1, -1) for part in parts], dim=1)
        self.divergence = torch.stack([-1j * kx.expand(diffusion.shape[-2:]), -1j * ky.expand(diffusion.shape[-2:])])
        self.divergence = self.divergence.to(u0.dtype.to_complex())
        self.gradient = solver.mean_gradient

    def nonlinear(self, state: Tensor, t: float) -> Tensor:
        """Return the transport of both, and the forcing of the flow."""
        w_hat, scalar = state[:, :1].contiguous(), self.decode(state[:, 1:])
        velocity = self.flow.velocity(w_hat)
        rate = (self.encode(velocity * scalar) * self.divergence).sum(dim=1, keepdim=True)
        if any(self.gradient):
            rate = rate - self.encode(velocity[:, :1] * self.gradient[0] + velocity[:, 1:] * self.gradient[1])
        return torch.cat([self.flow.nonlinear(w_hat, t), rate], dim=1)

    def rate(self, state: Tensor) -> Tensor:
        """Return the rate of the flow, (B,)."""
        return self.flow.rate(state[:, :1])

    def increment(self, forcing: RingForcing, m: int, state: Tensor) -> Tensor:
        """Return the increment of a stochastic forcing, which leaves the scalar alone."""
        kick = self.flow.increment(forcing, m, state[:, :1])
        return torch.cat([kick, torch.zeros_like(kick)], dim=1)
