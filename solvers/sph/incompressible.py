"""Incompressible flow in two dimensions: divergence-free SPH (DFSPH), with IISPH as its simpler half.

With y = p / rho^2 of each particle, one operator serves both pressure solves of a step:

    acc_i(y)  = -sum_j m_j (y_i + y_j) grad W              Drho_i(v) = sum_j m_j v_ij . grad W
    (A y)_i   = -Drho_i(acc(y))                            D_i = |sum_j m_j grad W|^2 + m_i sum_j m_j |grad W|^2

D is the exact diagonal of A, and diag(m) A is symmetric and positive semi-definite. A step from x, v:

    v* = v + dt (g + viscosity);   A y = (rho + dt Drho(v*) - rho_0) / dt^2;   v* += dt acc(y);   x += dt v*
    divergence, at the new places: A z = Drho(v*) / dt;   v = v* + dt acc(z)

At a free surface y >= 0, by relaxed Jacobi iterations; omega comes from the largest eigenvalue of D^-1 A, since
omega = 1 diverges. Closed flows, without a surface, take conjugate gradients and the mean density for rho_0.

Sources: Bender and Koschier 2017 (https://doi.org/10.1109/TVCG.2016.2578335); Ihmsen et al. 2014
(https://doi.org/10.1109/TVCG.2013.105); walls after Adami et al. 2012 (https://doi.org/10.1016/j.jcp.2012.05.005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.neighbors import VerletList
from opkernels.particles import ParticleSet
from opkernels.solvers.sph.kernels import Pairs, lattice_density, lattice_slope, pair_geometry, smoothing_kernel
from opkernels.solvers.sph.march import ParticleState, ParticleTrajectory, march
from opkernels.solvers.sph.start import check_parameters, check_spacing, check_start
from opkernels.solvers.sph.walls import WallPairs, Walls, together

__all__ = ["IncompressibleSPH2D"]


class IncompressibleSPH2D:
    """Divergence-free SPH in two dimensions.

    Parameters
    ----------
    domain : Domain
        Two axes, each periodic, or open, or closed by `walls`.
    rest_density : float
        rho_0; closed flows take the mean density of their particles.
    viscosity : float
        Kinematic viscosity nu.
    xsph : float
        Each velocity moves towards its neighbors' mean by this fraction per step; 0.02 to 0.05 calms free surfaces.
    gravity : tuple of float
        Constant acceleration.
    walls : Walls, optional
        See `Walls.of_box`.
    free_surface : bool, optional
        Whether pressures are kept from pulling; by default unless all axes are periodic.
    scheme : {"dfsph", "iisph"}
        With or without the divergence solve; the latter compresses more.
    tolerance, divergence_tolerance : float
        Mean compression accepted after each solve, relative.
    max_iterations : int
        Of each solve.
    max_step : float, optional
        Largest step; by default 0.03 sqrt(spacing / g) under gravity, which keeps a still tank still.
    kernel : str
        See `smoothing_kernel`; Wendland C2 with a support of 2.52 spacings (20 neighbors) is a good pair.

    Notes
    -----
    The kernel is scaled so that a square lattice has exactly the rest density. Pair sums over few neighbors make less of
    a gradient than it is (0.955 at 2.52 spacings), and multipliers y grow to make up for it: pressures are y rho^2 times
    that factor. Linear and angular momentum are
    conserved to round-off without walls. The scheme dissipates vortices strongly and by an amount that depends on the
    step: use `WeaklyCompressibleSPH2D` for Taylor-Green flow. Not differentiable. In a batch, all simulations take the
    same steps and iterations.
    """

    fields = ("velocity_x", "velocity_y", "density", "pressure")

    def __init__(
        self,
        domain: Domain,
        *,
        rest_density: float = 1.0,
        viscosity: float = 0.0,
        xsph: float = 0.0,
        gravity: tuple[float, float] = (0.0, 0.0),
        walls: Walls | None = None,
        free_surface: bool | None = None,
        scheme: str = "dfsph",
        tolerance: float = 1e-4,
        divergence_tolerance: float = 1e-3,
        max_iterations: int = 100,
        max_step: float | None = None,
        kernel: str = "wendland2",
    ):
        if domain.ndim != 2:
            raise ValueError(f"IncompressibleSPH2D got a {domain.ndim}-D domain; give two axes")
        if scheme not in ("dfsph", "iisph"):
            raise ValueError(f"IncompressibleSPH2D got scheme={scheme!r}; choose dfsph or iisph")
        if not (
            rest_density > 0 and viscosity >= 0 and 0 <= xsph < 1 and tolerance > 0 and divergence_tolerance > 0 and max_iterations > 1
        ):
            raise ValueError(
                f"IncompressibleSPH2D got rest_density={rest_density}, viscosity={viscosity}, xsph={xsph}, tolerances {tolerance}, "
                f"{divergence_tolerance}, max_iterations={max_iterations}; give positive ones, and no negative viscosity"
            )
        check_parameters("IncompressibleSPH2D", gravity, rest_density=rest_density, viscosity=viscosity)
        self.domain, self.rest_density, self.viscosity = domain, float(rest_density), float(viscosity)
        self.xsph, self.gravity, self.walls = float(xsph), tuple(float(g) for g in gravity), walls
        self.free_surface = not all(axis.periodic for axis in domain.axes) if free_surface is None else free_surface
        self.scheme, self.tolerance, self.divergence_tolerance = scheme, float(tolerance), float(divergence_tolerance)
        self.max_iterations, self.max_step = int(max_iterations), max_step
        self.kernel = smoothing_kernel(kernel, 2)

    def solve(
        self,
        particles: ParticleSet,
        times: Sequence[float],
        *,
        velocities: Tensor | None = None,
        t0: float = 0.0,
        dt: float | None = None,
    ) -> ParticleTrajectory:
        """Advance particles and return them exactly at `times`.

        Steps are at most 0.4 spacings / |v|, h^2 / (8 nu) and `max_step`, or `dt` as it is. The trajectory's
        `statistics` hold, for each step, the iterations of both solves and the mean and largest compression.

        Raises
        ------
        ValueError
            If the start is inconsistent, particles coincide or lie beyond a wall, or the step is far above the stable one.
        SolverError
            If the solution breaks down, with the step and the particle.
        """
        velocities = check_start("IncompressibleSPH2D", self.domain, particles, velocities)
        check_spacing("IncompressibleSPH2D", particles, self.rest_density)
        if self.walls is not None:
            self.walls.check_inside("IncompressibleSPH2D", particles)
        with torch.no_grad():
            run = _Run(self, particles)
            rho = run.arrange(particles.positions).rho
            state = ParticleState(particles.positions, velocities, rho, pressures=torch.zeros_like(rho))
            states, at, n_steps = march(run, state, times, t0, dt, reach=particles.support)
        walls = {} if self.walls is None else {"walls": self.walls.positions, "wall_velocities": self.walls.velocities}
        extra = {"n_steps": n_steps, "statistics": run.statistics}
        return ParticleTrajectory.of_states(at, states, [s.pressures for s in states], particles, **walls, **extra)


@dataclass(frozen=True, eq=False)
class _Arrangement:
    """What depends on positions alone: pairs, densities, the diagonal, and what walls weigh."""

    pairs: Pairs
    factor: Tensor  # F of each pair
    weight: Tensor  # m_j F
    rho: Tensor
    diagonal: Tensor
    walls: WallPairs | None


@dataclass(eq=False)
class _Carry:
    here: _Arrangement
    y: Tensor  # y dt^2 and z dt of the last step: their natural scales
    z: Tensor
    omega: float
    rest: float | Tensor


@dataclass(eq=False)
class _Run:
    """One simulation: the constants of its particles and walls, and the neighbor lists in use."""

    solver: IncompressibleSPH2D
    particles: ParticleSet
    statistics: dict[str, list[float]] = field(
        default_factory=lambda: {"density_iterations": [], "divergence_iterations": [], "mean_compression": [], "max_compression": []}
    )

    def __post_init__(self):
        solver, particles = self.solver, self.particles
        self.m, self.batch, self.support = particles.masses, particles.batch, particles.support
        self.h = solver.kernel.smoothing_length(particles.support)
        self.spacing = math.sqrt(float(self.m.mean()) / solver.rest_density)
        lattice = lattice_density(solver.kernel, self.spacing, particles.support)
        self.kernel = replace(solver.kernel, constant=solver.kernel.constant / lattice)
        self.slope = lattice_slope(self.kernel, self.spacing, particles.support)
        self.gravity = torch.tensor(solver.gravity, dtype=self.m.dtype, device=self.m.device)
        self.walls = None if solver.walls is None else solver.walls.for_particles(particles)
        self._reset()

    def _reset(self) -> None:
        self.list, self.wall_list = VerletList(self.solver.domain), VerletList(self.solver.domain)

    def arrange(self, x: Tensor) -> _Arrangement:
        """Pairs, densities and the diagonal of A at these positions."""
        solver, kernel, support = self.solver, self.kernel, self.support
        n, y, batch, m, walls = len(x), None, None, self.m, None
        if self.walls is not None:
            walls = self.walls.near(self.wall_list, kernel, x, support, self.batch)
            y = torch.cat([x, self.walls.x])
            batch = together(self.batch, self.walls.batch)
            m = torch.cat([m, torch.full_like(self.walls.depth, self.spacing**2 * solver.rest_density)])
        pairs = pair_geometry(self.list(x, y, support=support, batch=self.batch, batch_y=batch), x, y, support)
        factor = kernel.factor(pairs.r, support)
        weight = pairs.at_j(m) * factor
        rho = pairs.sum(pairs.at_j(m) * kernel.value(pairs.r, support))
        fluid = weight if self.walls is None else weight * (pairs.neighbors.col < n)
        own = self.m * pairs.sum(fluid * factor * pairs.r2)
        slope = [(pairs.sum(fluid * d), pairs.sum(weight * d)) for d in pairs.d]  # S_f and S_f + S_b
        diagonal = sum((2 * both - s) * both for s, both in slope) + own
        diagonal = torch.maximum(diagonal, 0.3 * own).clamp(min=1e-6 * solver.rest_density**2 / support**2)
        return _Arrangement(pairs, factor, weight, rho, diagonal, walls)

    def accelerations(self, here: _Arrangement, y: Tensor, gravity: bool) -> tuple[Tensor, Tensor]:
        """acc(y), by components; wall values are extrapolated from the fluid's."""
        pairs = here.pairs
        y_all = y if here.walls is None else torch.cat([y, self._at_walls(here, here.walls, y, gravity)])
        push = here.weight * (pairs.at_i(y) + pairs.at_j(y_all))
        return -pairs.sum(push * pairs.d[0]), -pairs.sum(push * pairs.d[1])

    def _at_walls(self, here: _Arrangement, walls: WallPairs, y: Tensor, gravity: bool) -> Tensor:
        p = walls.pressure(y * here.rho**2, here.rho, self.gravity / self.slope if gravity else None)
        return p.clamp(min=0) / self.solver.rest_density**2

    def compression(self, here: _Arrangement, v: tuple[Tensor, Tensor], moving_walls: bool) -> Tensor:
        """Drho(v); walls move with their velocity, or, for the operator, not at all."""
        pairs, rate = here.pairs, []
        for a in range(2):
            v_all = v[a]
            if self.walls is not None:
                v_wall = self.walls.v[:, a]
                v_all = torch.cat([v[a], v_wall if moving_walls else torch.zeros_like(v_wall)])
            rate.append((pairs.at_i(v[a]) - pairs.at_j(v_all)) * pairs.d[a])
        return pairs.sum(here.weight * (rate[0] + rate[1]))

    def operator(self, here: _Arrangement, y: Tensor, gravity: bool = False) -> Tensor:
        """Return A y; affine with the weight of water against walls, under `gravity`."""
        return -self.compression(here, self.accelerations(here, y, gravity), moving_walls=False)

    def relax(self, here: _Arrangement, source: Tensor, y: Tensor, omega: float, limit: float, least: int, gravity: bool):
        """Jacobi iterations with y >= 0 until the mean unsolved compression is below `limit`; and their number."""
        check = 1 if y.device.type == "cpu" else 4  # each check waits for the device
        iterations = 0
        while True:
            residual = source - self.operator(here, y, gravity)
            done = iterations >= least and (iterations % check == 0) and float(residual.clamp(min=0).mean()) < limit
            if done or iterations == self.solver.max_iterations:
                return y, iterations
            y = (y + omega * residual / here.diagonal).clamp(min=0)
            iterations += 1

    def conjugate_gradients(self, here: _Arrangement, source: Tensor, y: Tensor, limit: float):
        """Solve diag(m) A y = m s of a closed flow until the mean error is below `limit`; and the iterations."""
        m = self.m
        residual = m * (source - self.operator(here, y))
        direction = z = residual / (m * here.diagonal)
        energy = (residual * z).sum()
        for iterations in range(self.solver.max_iterations):
            if float((residual / m).abs().mean()) < limit:
                return y, iterations
            image = m * self.operator(here, direction)
            step = energy / (direction * image).sum()
            y, residual = y + step * direction, residual - step * image
            z = residual / (m * here.diagonal)
            energy, before = (residual * z).sum(), energy
            direction = z + energy / before * direction
        return y, self.solver.max_iterations

    def relaxation(self, here: _Arrangement) -> float:
        """Return omega = min(0.5, 1.6 / lambda_max) of D^-1 A, by 20 power iterations."""
        y = 1 + torch.rand(len(self.m), generator=torch.Generator().manual_seed(0)).to(self.m)
        largest = 1.0
        for _ in range(20):
            y = y / y.norm()
            y = self.operator(here, y) / here.diagonal
            largest = float(y.norm())
        return min(0.5, 1.6 / largest) if largest > 0 else 0.5

    def start(self, state: ParticleState, time: float) -> _Carry:
        self._reset()
        here = self.arrange(state.positions)
        zero = torch.zeros_like(here.rho)
        closed = not self.solver.free_surface
        return _Carry(here, zero, zero, 0.0 if closed else self.relaxation(here), here.rho.mean() if closed else self.solver.rest_density)

    def stable_step(self, state: ParticleState, carry: _Carry) -> float:
        fastest = float(state.velocities.square().sum(1).max().sqrt())
        pull = math.hypot(*self.solver.gravity)
        limits = [0.4 * self.spacing / fastest] if fastest else []
        limits += [0.125 * self.h**2 / self.solver.viscosity] if self.solver.viscosity else []
        longest = 0.03 * math.sqrt(self.spacing / pull) if pull else math.inf
        limits.append(longest if self.solver.max_step is None else self.solver.max_step)
        return min(limits) if math.isfinite(fastest) else math.nan

    def advance(self, state: ParticleState, carry: _Carry, time: float, dt: float) -> tuple[ParticleState, _Carry]:
        solver, here = self.solver, carry.here
        v = self._explicit(here, state.velocities, dt)
        source = (here.rho + dt * self.compression(here, v, True) - carry.rest) / dt**2
        limit = solver.tolerance * solver.rest_density / dt**2
        y, first = self._pressure(carry, source, carry.y / (2 * dt**2), limit, least=2, gravity=True)
        v = _pushed(v, self.accelerations(here, y, True), dt)
        x = state.positions + dt * torch.stack(v, 1)
        carry.here = here = self.arrange(x)
        carry.y = y * dt**2
        second = 0
        if solver.scheme == "dfsph":
            limit = solver.divergence_tolerance * solver.rest_density / dt**2
            z, second = self._pressure(carry, self.compression(here, v, True) / dt, carry.z / (2 * dt), limit, least=1, gravity=False)
            v = _pushed(v, self.accelerations(here, z, False), dt)
            carry.z = z * dt
        excess = (here.rho / carry.rest - 1).clamp(min=0)
        row = (first, second, float(excess.mean()), float(excess.max()))
        for values, value in zip(self.statistics.values(), row, strict=True):
            values.append(value)
        return ParticleState(x, torch.stack(v, 1), here.rho, pressures=self.slope * y * here.rho**2), carry

    def _pressure(self, carry: _Carry, source: Tensor, y: Tensor, limit: float, *, least: int, gravity: bool) -> tuple[Tensor, int]:
        if self.solver.free_surface:
            return self.relax(carry.here, source, y, carry.omega, limit, least, gravity and self.walls is not None)
        source = source - (self.m * source).sum() / self.m.sum()
        return self.conjugate_gradients(carry.here, source, y, limit)

    def _explicit(self, here: _Arrangement, velocities: Tensor, dt: float) -> tuple[Tensor, Tensor]:
        """Velocities after gravity, viscosity and XSPH smoothing, by components."""
        solver, pairs, n = self.solver, here.pairs, len(velocities)
        walls = here.walls
        mirrored = None if walls is None else walls.mirrored(velocities)
        out = []
        for a in range(2):
            v = velocities[:, a].contiguous()
            change = dt * self.gravity[a]
            if solver.viscosity:
                v_all, seen = v, here.weight
                if walls is not None and mirrored is not None:
                    v_all = torch.cat([v, mirrored[:, a]])
                    seen = seen if walls.walls.no_slip else seen * (pairs.neighbors.col < n)
                drag = pairs.sum(seen * (pairs.at_i(v) - pairs.at_j(v_all)))
                change = change + dt * 2 * solver.viscosity / solver.rest_density * drag
            if solver.xsph:
                w = self.kernel.value(pairs.r, self.support)
                inside = pairs.neighbors.col.clamp(max=n - 1)
                rho_j, m_j = here.rho.index_select(0, inside), self.m.index_select(0, inside)
                pull = m_j * 2 / (pairs.at_i(here.rho) + rho_j) * (v.index_select(0, inside) - pairs.at_i(v)) * w
                change = change + solver.xsph * pairs.sum(pull if self.walls is None else pull * (pairs.neighbors.col < n))
            out.append(v + change)
        return out[0], out[1]


def _pushed(v: tuple[Tensor, Tensor], a: tuple[Tensor, Tensor], dt: float) -> tuple[Tensor, Tensor]:
    return v[0] + dt * a[0], v[1] + dt * a[1]
