"""Flows with known answers, as starts for the particle solvers, and those answers.

Each function returns a `Case`: particles, velocities and, for gas, energies and frozen ends. Arrangements that start
from a lattice are jittered by `jitter` spacings, since a perfect lattice is the worst start for particles that move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain
from opkernels.particles import ParticleSet
from opkernels.solvers.sph.equations_of_state import Isothermal
from opkernels.solvers.sph.kernels import smoothing_kernel

__all__ = [
    "Case",
    "acoustic_wave",
    "cavity_profiles",
    "colliding_blobs",
    "couette_velocity",
    "lattice_frequency",
    "poiseuille_velocity",
    "riemann_solution",
    "rotating_patch",
    "shock_tube",
    "standing_wave",
    "still_tank",
    "taylor_green",
]


@dataclass(frozen=True, eq=False)
class Case:
    """A start: particles and velocities, for gas also specific energies, and the particles that stay as they are."""

    particles: ParticleSet
    velocities: Tensor
    energies: Tensor | None = None
    frozen: Tensor | None = None


def _lattice(domain: Domain, shape: tuple[int, ...], jitter: float, seed: int) -> Tensor:
    """Cell centers of a box, each moved by up to `jitter` spacings along each axis."""
    generator = torch.Generator().manual_seed(seed)
    columns = [
        axis.lower + (torch.arange(n, dtype=torch.float64) + 0.5) * axis.length / n for axis, n in zip(domain.axes, shape, strict=True)
    ]
    x = torch.stack(torch.meshgrid(*columns, indexing="ij"), -1).flatten(0, -2)
    spacing = torch.tensor([axis.length / n for axis, n in zip(domain.axes, shape, strict=True)], dtype=torch.float64)
    return x + jitter * spacing * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)


def acoustic_wave(n: int, *, amplitude: float = 1e-3, neighbors: float = 8.0) -> Case:
    """Density 2 (1 + a sin pi x) at rest on the periodic interval [-1, 1]; support of `neighbors` spacings."""
    domain = Domain((Axis(-1, 1, periodic=True),))
    cells = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1
    x = cells
    for _ in range(60):  # positions of equal mass: x - a cos(pi x) / pi = cell
        x = cells + amplitude / math.pi * torch.cos(math.pi * x)
    particles = ParticleSet(x[:, None], 4 / n, 2 * neighbors / n, domain)
    return Case(particles, torch.zeros_like(particles.positions))


def lattice_frequency(spacing: float, mass: float, support: float, k: float, eos: Isothermal, kernel: str = "wendland2") -> float:
    """Angular frequency of a sound wave on a lattice, to which no number of particles, only more neighbors, are the cure.

    omega^2 = (2 m p / rho^2) sum_n (1 - cos k a n) W''(a n) + m^2 (c^2 - 2 p / rho) / rho^2 [ sum_n sin(k a n) W'(a n) ]^2
    over all n, for one support and the pair sums of the gas solver linearized about rest.
    """
    shape = smoothing_kernel(kernel, 1)
    r = (torch.arange(1, int(support / spacing) + 1, dtype=torch.float64) * spacing).requires_grad_()
    w = shape.value(r, support)
    (first,) = torch.autograd.grad(w.sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    rho = mass * (shape.value(torch.zeros(1, dtype=torch.float64), support) + 2 * w.sum()).detach()
    p, waves = eos.pressure(rho), k * r.detach()
    stiff = 4 * mass * p / rho**2 * ((1 - torch.cos(waves)) * second).sum()
    soft = (2 * mass * (torch.sin(waves) * first.detach()).sum()) ** 2 * (eos.sound_speed**2 - 2 * p / rho) / rho**2
    return math.sqrt(float(stiff + soft))


def shock_tube(
    n_left: int,
    *,
    left: tuple[float, float] = (1.0, 1.0),
    right: tuple[float, float] = (0.125, 0.1),
    gamma: float | None = 1.4,
    n_frozen: int = 12,
) -> Case:
    """Riemann problem on [0, 1], (density, pressure) on each side of x = 1/2, by particles of one mass; Sod's by default.

    `n_frozen` particles continue each state beyond the ends and never move. ``gamma=None`` leaves energies out.
    """
    n_right = round(n_left * right[0] / left[0])
    if n_right < 1 or abs(n_right - n_left * right[0] / left[0]) > 1e-9:
        raise ValueError(
            f"shock_tube got n_left={n_left}, which leaves {n_left * right[0] / left[0]:g} particles on the right; give a multiple"
        )
    x_left = 0.5 - (torch.arange(n_left + n_frozen, dtype=torch.float64).flip(0) + 0.5) * 0.5 / n_left
    x_right = 0.5 + (torch.arange(n_right + n_frozen, dtype=torch.float64) + 0.5) * 0.5 / n_right
    x = torch.cat([x_left, x_right])
    on_left = x < 0.5
    frozen = (x < 0) | (x > 1)
    mass = left[0] * 0.5 / n_left
    particles = ParticleSet(x[:, None], mass, 4 * 0.5 / n_left, Domain.box(1.0))
    velocities = torch.zeros_like(particles.positions)
    if gamma is None:
        return Case(particles, velocities, None, frozen)
    inner = torch.where(on_left, left[1] / left[0], right[1] / right[0]).to(torch.float64) / (gamma - 1)
    return Case(particles, velocities, inner, frozen)


def riemann_solution(
    s: Tensor, left: tuple[float, float], right: tuple[float, float], gamma: float | None = 1.4
) -> tuple[Tensor, Tensor, Tensor]:
    """Density, velocity and pressure at similarity positions s = (x - x0) / t, for gas at rest on both sides.

    (density, pressure) with the higher pressure on the left; ``gamma=None`` is isothermal gas with c = 1. The middle
    pressure p* solves u_rarefaction(p*) = u_shock(p*) by bisection (Toro 2009, chapter 4).
    """
    (rho_l, p_l), (rho_r, p_r) = left, right
    isothermal = gamma is None
    g = 1.0 if isothermal else gamma
    c_l = math.sqrt(g * p_l / rho_l)

    def behind_wave(p: float) -> float:
        return c_l * math.log(p_l / p) if isothermal else 2 * c_l / (g - 1) * (1 - (p / p_l) ** ((g - 1) / (2 * g)))

    def behind_shock(p: float) -> float:
        return (p - p_r) / math.sqrt(rho_r * ((g + 1) / 2 * p + (g - 1) / 2 * p_r))

    low, high = p_r, p_l
    for _ in range(200):
        p = (low + high) / 2
        low, high = (p, high) if behind_wave(p) > behind_shock(p) else (low, p)
    u = behind_wave(p)
    rho_wave = rho_l * (p / p_l) ** (1 / g)
    ratio, k = p / p_r, (g - 1) / (g + 1)
    rho_shock = rho_r * (ratio + k) / (k * ratio + 1)
    shock = u * rho_shock / (rho_shock - rho_r)
    c_star = math.sqrt(g * p / rho_wave)
    u_fan = (s + c_l) * 2 / (g + 1)
    c_fan = u_fan - s
    rho_fan = rho_l * (torch.exp(-u_fan / c_l) if isothermal else (c_fan / c_l).clamp(min=1e-9) ** (2 / (g - 1)))
    regions = [s < -c_l, s < u - c_star, s < u, s < shock]

    def pick(*values) -> Tensor:
        out = torch.as_tensor(values[-1], dtype=s.dtype).expand_as(s)
        for region, value in zip(reversed(regions), reversed(values[:-1]), strict=True):
            out = torch.where(region, torch.as_tensor(value, dtype=s.dtype), out)
        return out

    return (
        pick(rho_l, rho_fan, rho_wave, rho_shock, rho_r),
        pick(0.0, u_fan, u, u, 0.0),
        pick(p_l, p_l * (rho_fan / rho_l) ** g, p, p, p_r),
    )


def taylor_green(n: int, *, neighbors: float = 3.0, jitter: float = 0.1, seed: int = 0) -> Case:
    """Decaying vortices on the unit torus: u = -cos 2 pi x sin 2 pi y, v = sin 2 pi x cos 2 pi y, times e^(-8 pi^2 nu t)."""
    domain = Domain.periodic(1.0, 1.0)
    x = _lattice(domain, (n, n), jitter, seed)
    a, b = (2 * math.pi * x).unbind(1)
    velocities = torch.stack([-a.cos() * b.sin(), a.sin() * b.cos()], 1)
    return Case(ParticleSet(x, 1 / n**2, neighbors / n, domain), velocities)


def still_tank(
    domain: Domain,
    spacing: float,
    depth: float,
    *,
    width: float | None = None,
    gravity: float = 1.0,
    sound_speed: float | None = None,
    neighbors: float = 3.0,
    jitter: float = 0.0,
    seed: int = 0,
) -> Case:
    """Water at rest, `depth` deep along y and `width` wide from the left wall: a tank, or a dam about to break.

    With a `sound_speed` the density holds the weight of the water above, p = c^2 (rho - 1); otherwise it is left out.
    """
    x_axis, y_axis = domain.axes
    width = x_axis.length if width is None else width
    water = Domain((Axis(x_axis.lower, x_axis.lower + width), Axis(y_axis.lower, y_axis.lower + depth)))
    x = _lattice(water, (round(width / spacing), round(depth / spacing)), jitter, seed)
    above = y_axis.lower + depth - x[:, 1]
    densities = None if sound_speed is None else 1 + gravity * above / sound_speed**2
    masses = spacing**2 if densities is None else spacing**2 * densities
    particles = ParticleSet(x, masses, neighbors * spacing, domain, densities=densities)
    return Case(particles, torch.zeros_like(x))


def standing_wave(
    rows: int, *, depth: float = 0.5, length: float = 1.0, amplitude: float = 0.02, sound_speed: float, neighbors: float = 3.0
) -> tuple[Case, float]:
    """Water with a level surface in the flow of a standing gravity wave (g = 1), and its omega = sqrt(k tanh(k depth)).

    One wave fills the periodic x axis; the surface will rise to `amplitude`. Viscosity nu lets it decay as e^(-2 nu k^2 t).
    """
    k = 2 * math.pi / length
    domain = Domain((Axis(0, length, periodic=True), Axis(0, 2 * depth)))
    still = still_tank(domain, depth / rows, depth, sound_speed=sound_speed, neighbors=neighbors)
    x, y = still.particles.positions.unbind(1)
    omega = math.sqrt(k * math.tanh(k * depth))
    scale = amplitude * omega / math.sinh(k * depth)
    velocities = scale * torch.stack([torch.sin(k * x) * torch.cosh(k * y), -torch.cos(k * x) * torch.sinh(k * y)], 1)
    return Case(still.particles, velocities), omega


def rotating_patch(n: int, *, neighbors: float = 3.0) -> Case:
    """Return a unit square of fluid in free space that turns as a solid with angular velocity 1."""
    x = _lattice(Domain((Axis(-0.5, 0.5), Axis(-0.5, 0.5))), (n, n), 0.0, 0)
    particles = ParticleSet(x, 1 / n**2, neighbors / n, Domain((Axis(-2, 2), Axis(-2, 2))))
    return Case(particles, torch.stack([x[:, 1], -x[:, 0]], 1))


def colliding_blobs(
    spacing: float,
    *,
    radii: tuple[float, float] = (0.25, 0.2),
    centers: tuple[tuple[float, float], tuple[float, float]] = ((-0.4, 0.05), (0.4, -0.05)),
    speed: float = 1.0,
    neighbors: float = 2.52,
) -> Case:
    """Two discs of density 1 in free space, approaching along x at `speed`."""
    domain = Domain((Axis(-1, 1), Axis(-1, 1)))
    n = round(2 / spacing)
    cells = _lattice(Domain((Axis(-n * spacing / 2, n * spacing / 2), Axis(-n * spacing / 2, n * spacing / 2))), (n, n), 0.0, 0)
    positions, velocities = [], []
    for radius, center, sign in zip(radii, centers, (1, -1), strict=True):
        disc = cells[cells.norm(dim=1) < radius] + torch.tensor(center, dtype=torch.float64)
        positions.append(disc)
        velocities.append(torch.tensor([sign * speed / 2, 0.0], dtype=torch.float64).expand_as(disc))
    x = torch.cat(positions)
    return Case(ParticleSet(x, spacing**2, neighbors * spacing, domain), torch.cat(velocities))


def couette_velocity(y: Tensor, time: float, *, speed: float, width: float, viscosity: float, terms: int = 200) -> Tensor:
    """Velocity between a wall at rest (y = 0) and one that starts to slide at `speed` (y = width)."""
    n = torch.arange(1, terms + 1, dtype=y.dtype)[:, None]
    decay = torch.exp(-((n * math.pi / width) ** 2) * viscosity * time)
    return speed * y / width + (2 * speed / (n * math.pi) * (-1) ** n * torch.sin(n * math.pi * y / width) * decay).sum(0)


def poiseuille_velocity(y: Tensor, time: float, *, force: float, width: float, viscosity: float, terms: int = 200) -> Tensor:
    """Velocity between walls at rest, of a fluid pushed by a constant acceleration from t = 0."""
    b = (2 * torch.arange(terms, dtype=y.dtype)[:, None] + 1) * math.pi / width
    decay = torch.exp(-(b**2) * viscosity * time)
    return force / (2 * viscosity) * y * (width - y) - (4 * force / (viscosity * b**3 * width) * torch.sin(b * y) * decay).sum(0)


_GHIA_Y = (0.9766, 0.9688, 0.9609, 0.9531, 0.8516, 0.7344, 0.6172, 0.5, 0.4531, 0.2813, 0.1719, 0.1016, 0.0703, 0.0625, 0.0547)
_GHIA_X = (0.9688, 0.9609, 0.9531, 0.9453, 0.9063, 0.8594, 0.8047, 0.5, 0.2344, 0.2266, 0.1563, 0.0938, 0.0781, 0.0703, 0.0625)
_GHIA_U = {
    100: "0.84123 0.78871 0.73722 0.68717 0.23151 0.00332 -.13641 -.20581 -.21090 -.15662 -.10150 -.06434 -.04775 -.04192 -.03717",
    400: "0.75837 0.68439 0.61756 0.55892 0.29093 0.16256 0.02135 -.11477 -.17119 -.32726 -.24299 -.14612 -.10338 -.09266 -.08186",
    1000: "0.65928 0.57492 0.51117 0.46604 0.33304 0.18719 0.05702 -.06080 -.10648 -.27805 -.38289 -.29730 -.22220 -.20196 -.18109",
}
_GHIA_V = {
    100: "-.05906 -.07391 -.08864 -.10313 -.16914 -.22445 -.24533 0.05454 0.17527 0.17507 0.16077 0.12317 0.10890 0.10091 0.09233",
    400: "-.12146 -.15663 -.19254 -.22847 -.23827 -.44993 -.38598 0.05186 0.30174 0.30203 0.28124 0.22965 0.20920 0.19713 0.18360",
    1000: "-.21388 -.27669 -.33714 -.39188 -.51550 -.42665 -.31966 0.02526 0.32235 0.33075 0.37095 0.32627 0.30353 0.29012 0.27485",
}


def cavity_profiles(reynolds: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Steady flow in the unit square under a lid of speed 1: y and u(1/2, y), x and v(x, 1/2), at Re = 100, 400 or 1000.

    Ghia, Ghia and Shin 1982, tables 1 and 2 (https://doi.org/10.1016/0021-9991(82)90058-4); v(.9063) at Re = 400 looks
    like a misprint there.
    """
    if reynolds not in _GHIA_U:
        raise ValueError(f"cavity_profiles got reynolds={reynolds}; choose one of {', '.join(map(str, _GHIA_U))}")
    u, v = ([float(word) for word in tables[reynolds].split()] for tables in (_GHIA_U, _GHIA_V))
    y, u, x, v = (torch.tensor(column, dtype=torch.float64) for column in (_GHIA_Y, u, _GHIA_X, v))
    return y, u, x, v
