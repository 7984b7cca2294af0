"""Checks that every particle solver makes before its first step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.neighbors import radius_search
from opkernels.particles import ParticleSet

__all__ = ["check_parameters", "check_spacing", "check_start", "check_velocities", "per_particle"]


def check_parameters(who: str, gravity: tuple[float, ...], **numbers: float) -> None:
    """Refuse physical parameters that are not finite, and a gravity that is not one number for each axis."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(f"{who} got {name}={value}; give a finite number")
    if len(gravity) != 2 or not all(math.isfinite(g) for g in gravity):
        raise ValueError(f"{who} got gravity={gravity}; give two finite numbers")


def check_spacing(who: str, particles: ParticleSet, rest_density: float) -> None:
    """Refuse masses and a support that do not belong together: fluid particles are sqrt(m / rho_0) apart."""
    spacing = math.sqrt(float(particles.masses.detach().mean()) / rest_density)
    if not 1.2 <= particles.support / spacing <= 12:
        raise ValueError(
            f"{who} got support={particles.support:g} for particles sqrt(m / rho_0) = {spacing:.3g} apart; "
            "give masses of rho_0 times the spacing squared, and a support of 1.2 to 12 spacings"
        )


def check_velocities(who: str, domain: Domain, particles: ParticleSet, velocities: Tensor | None) -> Tensor:
    """Refuse particles of another domain and velocities that do not fit them; return the velocities, zero where none are given."""
    if particles.domain != domain:
        raise ValueError(f"{who} got particles on another domain than its own; build both with the same Domain")
    x = particles.positions
    if velocities is None:
        velocities = torch.zeros_like(x)
    if velocities.shape != x.shape or velocities.dtype != x.dtype:
        raise ValueError(
            f"{who} got velocities {velocities.dtype} {tuple(velocities.shape)}; expected {x.dtype} {tuple(x.shape)} as the positions"
        )
    if len(x) == 0:
        raise ValueError(f"{who} got no particles; give at least one")
    return velocities


def check_start(who: str, domain: Domain, particles: ParticleSet, velocities: Tensor | None) -> Tensor:
    """Refuse a start that cannot be solved, in one sentence; return the velocities, zero where none are given."""
    velocities = check_velocities(who, domain, particles, velocities)
    bad = ~torch.isfinite(velocities.detach().sum(1))
    if bool(bad.any()):
        raise ValueError(f"{who} got a velocity that is not finite at particle {int(bad.nonzero()[0])}; correct the velocities")
    close = radius_search(particles.positions, support=1e-6 * particles.support, domain=domain, batch=particles.batch, half=True)
    if close.n_edges:
        i, j = int(close.row[0]), int(close.col[0])
        raise ValueError(f"{who} got particles {i} and {j} at the same place, where no force can part them; move one of them")
    return velocities


def per_particle(value: float | Tensor, particles: ParticleSet) -> float | Tensor:
    """Spread a physical parameter, a number or one per simulation (B,), over the particles."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if particles.batch is None or len(value) != particles.n_batches:
        raise ValueError(f"got a parameter for {len(value)} simulations, but the particles hold {particles.n_batches}; give one for each")
    return value.to(particles.positions)[particles.batch]
