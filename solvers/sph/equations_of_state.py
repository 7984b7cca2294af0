"""Equations of state: pressure of a density (and energy), the sound speed, and the inverse that walls need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["IdealGas", "Isothermal", "Tait"]


def _check(who: str, **positive: float) -> None:
    for name, value in positive.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{who} got {name}={value}; give a finite number > 0")


@dataclass(frozen=True)
class Isothermal:
    """p = c^2 (rho - rho_0): isothermal gas (rho_0 = 0), or a weakly compressible fluid about its rest density.

    Parameters
    ----------
    sound_speed : float
        c.
    reference_density : float
        rho_0, where the pressure vanishes.
    """

    sound_speed: float
    reference_density: float = 0.0

    def __post_init__(self):
        _check("Isothermal", sound_speed=self.sound_speed)

    def pressure(self, density: Tensor, energy: Tensor | None = None) -> Tensor:
        """Return p(rho)."""
        return self.sound_speed**2 * (density - self.reference_density)

    def density(self, pressure: Tensor) -> Tensor:
        """Return rho(p)."""
        return self.reference_density + pressure / self.sound_speed**2

    def speed_of_sound(self, density: Tensor, energy: Tensor | None = None) -> Tensor:
        """Return c of each particle."""
        return torch.full_like(density, self.sound_speed)

    def specific_energy(self, density: Tensor) -> Tensor:
        """Return the energy per mass stored by compression, int p / rho^2 d rho = c^2 (ln rho + rho_0 / rho)."""
        return self.sound_speed**2 * (density.log() + self.reference_density / density)


@dataclass(frozen=True)
class Tait:
    """p = rho_0 c^2 / gamma ((rho / rho_0)^gamma - 1), for weakly compressible liquids."""

    sound_speed: float
    reference_density: float = 1.0
    gamma: float = 7.0

    def __post_init__(self):
        _check("Tait", sound_speed=self.sound_speed, reference_density=self.reference_density, gamma=self.gamma)

    def pressure(self, density: Tensor, energy: Tensor | None = None) -> Tensor:
        """Return p(rho)."""
        stiffness = self.reference_density * self.sound_speed**2 / self.gamma
        return stiffness * ((density / self.reference_density) ** self.gamma - 1)

    def density(self, pressure: Tensor) -> Tensor:
        """Return rho(p); pressures below -rho_0 c^2 / gamma have none and are taken there."""
        stiffness = self.reference_density * self.sound_speed**2 / self.gamma
        return self.reference_density * (1 + pressure / stiffness).clamp(min=1e-3) ** (1 / self.gamma)

    def speed_of_sound(self, density: Tensor, energy: Tensor | None = None) -> Tensor:
        """Return sqrt(dp/drho) of each particle."""
        return self.sound_speed * (density / self.reference_density) ** ((self.gamma - 1) / 2)


@dataclass(frozen=True)
class IdealGas:
    """p = (gamma - 1) rho u, with the specific internal energy u."""

    gamma: float = 1.4

    def __post_init__(self):
        if not 1 < self.gamma < float("inf"):
            raise ValueError(f"IdealGas got gamma={self.gamma}; give a finite number > 1 (Isothermal is the limit of 1)")

    def pressure(self, density: Tensor, energy: Tensor) -> Tensor:
        """Return p(rho, u)."""
        return (self.gamma - 1) * density * energy

    def speed_of_sound(self, density: Tensor, energy: Tensor) -> Tensor:
        """Return sqrt(gamma p / rho) of each particle."""
        return (self.gamma * (self.gamma - 1) * energy).clamp(min=0).sqrt()
