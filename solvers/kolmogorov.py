"""Kolmogorov flow: two-dimensional turbulence driven by a sinusoidal body force and damped by drag.

    ∂ω/∂t + u·∇ω = ν Δω - α ω - n κ A cos(n κ y),     κ = 2π/L_y,

the vorticity form of a body force A sin(n κ y) along x. Laminar flow ω = -n κ A cos(n κ y)/(ν n²κ² + α)
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

from opkernels.domains import Domain
from opkernels.solvers.navier_stokes import NavierStokes2D

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
    amplitude : float
        A, acceleration of the force.
    method : str
        As in `NavierStokes2D`.

    Notes
    -----
    The default values need about 256² on [0, 2π)²; chaotic, so trajectories at two resolutions part
    after some time units though their statistics agree.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        viscosity: float | Tensor = 1e-3,
        drag: float | Tensor = 0.1,
        wavenumber: int = 4,
        amplitude: float = 1.0,
        method: str = "IFRK4",
    ):
        if isinstance(wavenumber, bool) or not isinstance(wavenumber, int) or wavenumber < 1:
            raise ValueError(f"KolmogorovFlow got wavenumber={wavenumber!r}; give the whole number of waves along y, at least 1")
        super().__init__(domain, viscosity=viscosity, drag=drag, forcing=self._force, method=method)
        self.wavenumber, self.amplitude = wavenumber, amplitude

    def _force(self, x: Tensor, y: Tensor) -> Tensor:
        k = 2 * math.pi * self.wavenumber / self.domain.extent[1]
        return -k * self.amplitude * torch.cos(k * (y - self.domain.axes[1].lower))

    def laminar(self, shape: tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
        """Return the laminar state ω, (1, 1, *shape), for scalar viscosity and drag."""
        _, y = self.domain.grid(*shape).coordinates(dtype=dtype)
        k = 2 * math.pi * self.wavenumber / self.domain.extent[1]
        return (self._force(y, y) / (float(self.viscosity) * k**2 + float(self.drag)))[None, None]
