"""Random particle flows to learn from: one start for each seed, solved and stored at equal intervals.

| name                  | flow                                                             | solver                    |
| --------------------- | ---------------------------------------------------------------- | ------------------------- |
| "compressible"        | waves of a gas, |v| about 0.5, speed of sound 3.2, periodic line | `CompressibleSPH1D`       |
| "weakly_compressible" | decaying random vortices, |v| up to 1, periodic square           | `WeaklyCompressibleSPH2D` |
| "incompressible"      | two blocks of random sizes and speeds collide in open space      | `IncompressibleSPH2D`     |
| "taylor_green"        | decaying vortices of Taylor and Green, unit torus                | `WeaklyCompressibleSPH2D` |
| "dam_break"           | a column of water falls in a tank 2 x 1, slippery walls           | `WeaklyCompressibleSPH2D` |
| "lid_driven_cavity"   | a lid of speed 1 stirs the unit square, walls without slip       | `WeaklyCompressibleSPH2D` |

The first three follow the cases I to III of Winchenbach and Thuerey, ICLR 2024, arXiv 2403.16680, at smaller size. The
last three start from lattices that the seed disturbs; what else varies from sample to sample, a recipe says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain
from opkernels.particles import ParticleSet
from opkernels.solvers.sph import CompressibleSPH1D, IncompressibleSPH2D, ParticleTrajectory, Walls, WeaklyCompressibleSPH2D
from opkernels.solvers.sph.cases import still_tank, taylor_green

__all__ = ["PARTICLE_FLOWS", "particle_flow"]


@dataclass(frozen=True)
class _Flow:
    """How to start and solve a flow of particles `spacing` apart, the spacing that makes n, and the usual n and interval."""

    solve: Callable[..., ParticleTrajectory]
    spacing: Callable[[int], float]
    n: int
    interval: float


def _waves(x: Tensor, length: float, k_max: int, generator: torch.Generator) -> Tensor:
    """Return a random smooth function of x (N,), periodic, of root mean square one half."""
    k = torch.arange(1, k_max + 1, dtype=x.dtype)
    a, b = torch.randn(2, k_max, generator=generator, dtype=x.dtype)
    phase = 2 * math.pi / length * k[:, None] * x
    u = (a[:, None] * phase.cos() + b[:, None] * phase.sin()).sum(0)
    return u / (2 * (a.square() + b.square()).sum() / 2).sqrt()


def _whole(length: float, spacing: float) -> int:
    """Return how many spacings make a length; refuse those that do not divide it."""
    n = round(length / spacing)
    if n < 4 or abs(n * spacing - length) > 1e-6 * length:
        raise ValueError(f"got the particle spacing {spacing:g}, which does not divide {length:g} into at least 4; take one that does")
    return n


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def _compressible(spacing: float, generator: torch.Generator, times: list[float]) -> ParticleTrajectory:
    domain, n = Domain((Axis(-1.0, 1.0, periodic=True),)), _whole(2.0, spacing)
    lattice = -1 + (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n
    x = lattice + 0.02 * _waves(lattice, 2.0, 2, generator)
    particles = ParticleSet(x[:, None], 2.0 / n, 6 * 2 / n, domain)
    velocities = _waves(lattice, 2.0, 3, generator)[:, None]
    return CompressibleSPH1D.sfbc(domain).solve(particles, times, velocities=velocities - velocities.mean(0), dt=1e-3)


def _weakly_compressible(spacing: float, generator: torch.Generator, times: list[float], *, viscosity: float = 0.002) -> ParticleTrajectory:
    particles = taylor_green(_whole(1.0, spacing), seed=_seed(generator)).particles
    x = particles.positions / torch.tensor(particles.domain.extent, dtype=torch.float64) * 2 * math.pi
    u, v = torch.zeros(2, len(x), dtype=torch.float64)
    for k in (1, 2):
        for m in (-2, -1, 0, 1, 2):
            a, phase = torch.randn(2, generator=generator, dtype=torch.float64)
            wave = a / (k * k + m * m) * torch.cos(k * x[:, 0] + m * x[:, 1] + 3 * phase)
            u, v = u - m * wave, v + k * wave
    velocities = torch.stack([u, v], 1)
    velocities = velocities / velocities.norm(dim=1).max()
    solver = WeaklyCompressibleSPH2D(particles.domain, sound_speed=10.0, viscosity=viscosity, shifting=True)
    return solver.solve(particles, times, velocities=velocities - velocities.mean(0))


def _incompressible(spacing: float, generator: torch.Generator, times: list[float]) -> ParticleTrajectory:
    domain, side = Domain.box(1.0, 1.0), 0.6 / spacing
    sets, velocities = [], []
    sizes = (0.75 + 0.5 * torch.rand(2, 2, generator=generator, dtype=torch.float64)) * side
    speed, offset = 0.5 + torch.rand(2, generator=generator, dtype=torch.float64)
    for sign, size in zip((-1, 1), sizes.round().long().clamp(min=3).tolist(), strict=True):
        lines = [(torch.arange(m, dtype=torch.float64) - (m - 1) / 2) * spacing for m in size]
        block = torch.cartesian_prod(*lines)
        center = torch.tensor([0.5 + sign * (0.5 * size[0] + 1) * spacing, 0.5 + sign * 0.2 * (offset - 1) * size[1] * spacing])
        sets.append(block + center)
        velocities.append(torch.tensor([-sign * float(speed), 0.0], dtype=torch.float64).expand_as(block))
    particles = ParticleSet(torch.cat(sets), spacing**2, 2.52 * spacing, domain)
    return IncompressibleSPH2D(domain).solve(particles, times, velocities=torch.cat(velocities))


def _taylor_green(
    spacing: float, generator: torch.Generator, times: list[float], *, viscosity: float = 0.01, jitter: float = 0.1
) -> ParticleTrajectory:
    case = taylor_green(_whole(1.0, spacing), jitter=jitter, seed=_seed(generator))
    solver = WeaklyCompressibleSPH2D(case.particles.domain, sound_speed=10.0, viscosity=viscosity, shifting=True)
    return solver.solve(case.particles, times, velocities=case.velocities)


def _dam_break(
    spacing: float, generator: torch.Generator, times: list[float], *, width: float = 0.5, depth: float = 0.5, gravity: float = 1.0
) -> ParticleTrajectory:
    """`width` and `depth` of the column are rounded to whole spacings."""
    domain = Domain.box(2.0, 1.0)
    _whole(1.0, spacing)
    width, depth = (max(2, round(length / spacing)) * spacing for length in (width, depth))
    if width > 2.0 or depth > 1.0:
        raise ValueError(f"dam_break got a column of {width:g} x {depth:g} in a tank of 2 x 1; make it smaller")
    particles = still_tank(domain, spacing, depth, width=width, jitter=0.1, seed=_seed(generator)).particles
    walls = Walls.of_box(domain, spacing, particles.support, open_sides=("+y",), no_slip=False)
    sound = 10 * math.sqrt(2 * gravity * depth)
    solver = WeaklyCompressibleSPH2D(domain, sound_speed=sound, alpha=0.05, gravity=(0.0, -gravity), walls=walls)
    return solver.solve(particles, times)


def _lid_driven_cavity(spacing: float, generator: torch.Generator, times: list[float], *, viscosity: float = 0.01) -> ParticleTrajectory:
    domain = Domain.box(1.0, 1.0)
    _whole(1.0, spacing)
    particles = still_tank(domain, spacing, 1.0, jitter=0.1, seed=_seed(generator)).particles
    walls = Walls.of_box(domain, spacing, particles.support, velocities={"+y": (1.0, 0.0)})
    solver = WeaklyCompressibleSPH2D(domain, sound_speed=10.0, viscosity=viscosity, walls=walls, shifting=True, background_pressure=2.0)
    return solver.solve(particles, times)


def _square(n: int) -> float:
    return 1 / max(4, round(math.sqrt(n)))


PARTICLE_FLOWS = {
    "compressible": _Flow(_compressible, lambda n: 2.0 / n, 128, 0.02),
    "weakly_compressible": _Flow(_weakly_compressible, _square, 400, 0.02),
    "incompressible": _Flow(_incompressible, lambda n: 0.6 / math.sqrt(n / 2), 200, 0.01),
    "taylor_green": _Flow(_taylor_green, _square, 400, 0.02),
    "dam_break": _Flow(_dam_break, lambda n: 0.5 / max(2, round(math.sqrt(n))), 400, 0.05),
    "lid_driven_cavity": _Flow(_lid_driven_cavity, _square, 400, 0.05),
}


def particle_flow(
    name: str,
    seed: int,
    *,
    n_frames: int = 65,
    n_particles: int | None = None,
    interval: float | None = None,
    arguments: dict[str, float] | None = None,
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
    arguments : dict, optional
        Of the flow: viscosity, width, ... where it has them.

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
    spacing = flow.spacing(flow.n if n_particles is None else n_particles)
    return flow.solve(spacing, torch.Generator().manual_seed(seed), times, **(arguments or {}))
