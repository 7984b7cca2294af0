"""Random particle flows to learn from: one start for each seed, solved and stored at equal intervals.

| name                  | flow                                                             | solver                    |
| --------------------- | ---------------------------------------------------------------- | ------------------------- |
| "compressible"        | waves of a gas, |v| about 0.5, speed of sound 3.2, periodic line | `CompressibleSPH1D`       |
| "weakly_compressible" | decaying vortices, |v| up to 1, viscosity 0.002, periodic square | `WeaklyCompressibleSPH2D` |
| "incompressible"      | two blocks of random sizes and speeds collide in open space      | `IncompressibleSPH2D`     |

Starts follow the cases I to III of Winchenbach and Thuerey, ICLR 2024, arXiv 2403.16680, at smaller size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain
from opkernels.particles import ParticleSet
from opkernels.solvers.sph import CompressibleSPH1D, IncompressibleSPH2D, ParticleTrajectory, WeaklyCompressibleSPH2D
from opkernels.solvers.sph.cases import taylor_green

__all__ = ["PARTICLE_FLOWS", "particle_flow"]


@dataclass(frozen=True)
class _Flow:
    """How to start and solve a flow of about n particles, and the usual n and interval of frames."""

    solve: Callable[[int, torch.Generator, list[float]], ParticleTrajectory]
    n: int
    interval: float


def _waves(x: Tensor, length: float, k_max: int, generator: torch.Generator) -> Tensor:
    """Return a random smooth function of x (N,), periodic, of root mean square one half."""
    k = torch.arange(1, k_max + 1, dtype=x.dtype)
    a, b = torch.randn(2, k_max, generator=generator, dtype=x.dtype)
    phase = 2 * math.pi / length * k[:, None] * x
    u = (a[:, None] * phase.cos() + b[:, None] * phase.sin()).sum(0)
    return u / (2 * (a.square() + b.square()).sum() / 2).sqrt()


def _compressible(n: int, generator: torch.Generator, times: list[float]) -> ParticleTrajectory:
    domain = Domain((Axis(-1.0, 1.0, periodic=True),))
    lattice = -1 + (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n
    x = lattice + 0.02 * _waves(lattice, 2.0, 2, generator)
    particles = ParticleSet(x[:, None], 2.0 / n, 6 * 2 / n, domain)
    velocities = _waves(lattice, 2.0, 3, generator)[:, None]
    return CompressibleSPH1D.sfbc(domain).solve(particles, times, velocities=velocities - velocities.mean(0), dt=1e-3)


def _weakly_compressible(n: int, generator: torch.Generator, times: list[float]) -> ParticleTrajectory:
    seed = int(torch.randint(2**31, (), generator=generator))
    particles = taylor_green(round(math.sqrt(n)), seed=seed).particles
    x = particles.positions / torch.tensor(particles.domain.extent, dtype=torch.float64) * 2 * math.pi
    u, v = torch.zeros(2, len(x), dtype=torch.float64)
    for k in (1, 2):
        for m in (-2, -1, 0, 1, 2):
            a, phase = torch.randn(2, generator=generator, dtype=torch.float64)
            wave = a / (k * k + m * m) * torch.cos(k * x[:, 0] + m * x[:, 1] + 3 * phase)
            u, v = u - m * wave, v + k * wave
    velocities = torch.stack([u, v], 1)
    velocities = velocities / velocities.norm(dim=1).max()
    solver = WeaklyCompressibleSPH2D(particles.domain, sound_speed=10.0, viscosity=0.002, shifting=True)
    return solver.solve(particles, times, velocities=velocities - velocities.mean(0))


def _incompressible(n: int, generator: torch.Generator, times: list[float]) -> ParticleTrajectory:
    domain, spacing = Domain.box(1.0, 1.0), 0.6 / math.sqrt(n / 2)
    sets, velocities = [], []
    sizes = (0.75 + 0.5 * torch.rand(2, 2, generator=generator, dtype=torch.float64)) * math.sqrt(n / 2)
    speed, offset = 0.5 + torch.rand(2, generator=generator, dtype=torch.float64)
    for sign, size in zip((-1, 1), sizes.round().long().clamp(min=3).tolist(), strict=True):
        lines = [(torch.arange(m, dtype=torch.float64) - (m - 1) / 2) * spacing for m in size]
        block = torch.cartesian_prod(*lines)
        center = torch.tensor([0.5 + sign * (0.5 * size[0] + 1) * spacing, 0.5 + sign * 0.2 * (offset - 1) * size[1] * spacing])
        sets.append(block + center)
        velocities.append(torch.tensor([-sign * float(speed), 0.0], dtype=torch.float64).expand_as(block))
    particles = ParticleSet(torch.cat(sets), spacing**2, 2.52 * spacing, domain)
    return IncompressibleSPH2D(domain).solve(particles, times, velocities=torch.cat(velocities))


PARTICLE_FLOWS = {
    "compressible": _Flow(_compressible, 128, 0.02),
    "weakly_compressible": _Flow(_weakly_compressible, 400, 0.02),
    "incompressible": _Flow(_incompressible, 200, 0.01),
}


def particle_flow(
    name: str, seed: int, *, n_frames: int = 65, n_particles: int | None = None, interval: float | None = None
) -> ParticleTrajectory:
    """Solve one random flow.

    Parameters
    ----------
    name : str
        A name of `PARTICLE_FLOWS`.
    seed : int
        Of the start; the same seed gives the same flow.
    n_frames : int
        Frames at equal intervals, the start among them.
    n_particles : int, optional
        About so many.
    interval : float, optional
        Time between frames.

    Examples
    --------
    >>> particle_flow("compressible", 0, n_frames=3, n_particles=32).positions.shape
    torch.Size([3, 32, 1])
    """
    if name not in PARTICLE_FLOWS:
        raise ValueError(f"particle_flow got name={name!r}; choose one of {', '.join(PARTICLE_FLOWS)}")
    flow = PARTICLE_FLOWS[name]
    if n_frames < 2:
        raise ValueError(f"particle_flow got n_frames={n_frames}; give at least two")
    times = [i * (flow.interval if interval is None else interval) for i in range(n_frames)]
    return flow.solve(flow.n if n_particles is None else n_particles, torch.Generator().manual_seed(seed), times)
