"""Kolmogorov flow: two-dimensional turbulence driven by a sinusoidal body force and damped by drag.

    ∂ω/∂t + u·∇ω = ν Δω - α ω - n κ A cos(n κ y),     κ = 2π/L_y,

the vorticity form of a body force A sin(n κ y) along x.

| symbol | meaning                             | shape              | units        |
| ------ | ----------------------------------- | ------------------ | ------------ |
| ω      | vorticity                           | (B, 1, N_x, N_y)   | 1/time       |
| ν      | `viscosity`                         | number or (B,)     | length²/time |
| α      | `drag`, linear                      | number or (B,)     | 1/time       |
| n      | `wavenumber`, waves along y         | whole number       | 1            |
| A      | `amplitude` of the force per mass   | number or (B,)     | length/time² |

Solved as `navier_stokes` solves it: Basdevant's form of the transport, dealiased, viscosity and drag integrated exactly,
Runge-Kutta of fourth order in time. Laminar flow ω = -n κ A cos(n κ y)/(ν n²κ² + α)
is steady, and unstable at small ν.

References
----------
D. Kochkov et al., Machine learning-accelerated computational fluid dynamics, PNAS 118 (2021),
e2101784118 (n = 4, ν = 1e-3, α = 0.1 on [0, 2π)²). Z. Li, D. Shu, A. Barati Farimani, Scalable
transformer for PDE surrogate modeling, arXiv:2305.17560 (n = 8).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.solvers.navier_stokes import NavierStokes2D
from opkernels.solvers.spectral import parameter, per_sample

__all__ = ["KolmogorovFlow"]


class KolmogorovFlow(NavierStokes2D):
    """Kolmogorov flow: `NavierStokes2D` with its forcing set; its `solve` and diagnostics.

    Parameters
    ----------
    domain : Domain
        Two periodic axes, usually of length 2π.
    viscosity, drag : float or Tensor (B,)
        ν and α.
    wavenumber : int
        n, the number of waves of the force along y.
    amplitude : float or Tensor (B,)
        A, acceleration of the force.
    method : str
        As in `NavierStokes2D`.

    Notes
    -----
    The default values need about 256² on [0, 2π)²; chaotic, so trajectories at two resolutions part
    after some time units though their statistics agree. Grids of 3n points along y or fewer do not carry the force and are
    refused.

    Examples
    --------
    >>> import math, torch
    >>> from opkernels import Domain
    >>> solver = KolmogorovFlow(Domain.periodic(2 * math.pi, 2 * math.pi), viscosity=1e-2)
    >>> w = solver.laminar((32, 32), torch.float64)
    >>> bool((solver.solve(w, times=[1.0])[:, 0] - w).abs().max() < 1e-5 * w.abs().max())  # it is steady
    True
    """

    def __init__(
        self,
        domain: Domain,
        *,
        viscosity: float | Tensor = 1e-3,
        drag: float | Tensor = 0.1,
        wavenumber: int = 4,
        amplitude: float | Tensor = 1.0,
        method: str = "IFRK4",
    ):
        if isinstance(wavenumber, bool) or not isinstance(wavenumber, int) or wavenumber < 1:
            raise ValueError(f"KolmogorovFlow got wavenumber={wavenumber!r}; give the whole number of waves along y, at least 1")
        super().__init__(domain, viscosity=viscosity, drag=drag, forcing=self._force, method=method)
        self.wavenumber, self.amplitude = wavenumber, parameter(amplitude, "amplitude")

    def _force(self, x: Tensor, y: Tensor) -> Tensor:
        k = 2 * math.pi * self.wavenumber / self.domain.extent[1]
        return -k * _column(self.amplitude) * torch.cos(k * (y - self.domain.axes[1].lower))

    def _bind(self, grid: Grid, u0: Tensor):
        if 3 * self.wavenumber >= grid.shape[1]:
            raise ValueError(
                f"KolmogorovFlow got {grid.shape[1]} points along y, which do not carry a force of {self.wavenumber} waves; "
                f"take {3 * self.wavenumber + 1} or more"
            )
        per_sample(self.amplitude, "amplitude", len(u0), grid, u0.device)  # refuses another number of samples
        return super()._bind(grid, u0)

    def laminar(self, shape: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
        """Return the laminar state ω, (1 or B, 1, *shape)."""
        _, y = self.domain.grid(*shape).coordinates(dtype=dtype)
        k = 2 * math.pi * self.wavenumber / self.domain.extent[1]
        force = self._force(y, y)
        return force.reshape(-1, 1, *shape) / (_column(self.viscosity) * k**2 + _column(self.drag))


def _column(value: float | Tensor) -> float | Tensor:
    """Shape a parameter to multiply fields (B, 1, N_x, N_y)."""
    return value.reshape(-1, 1, 1, 1) if isinstance(value, Tensor) else value
