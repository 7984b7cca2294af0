"""Weakly compressible flow in two dimensions: delta-SPH with density diffusion, walls, and particle shifting.

    dx_i/dt = v_i + s_i                                                                         s = 0 without shifting
    drho_i/dt = rho_i sum_j V_j (v_ij + s_ij) . grad W + sum_j V_j (rho_i s_i + rho_j s_j) . grad W
                + delta h c sum_j V_j psi_ij . grad W
    m_i dv_i/dt = sum_j V_i V_j F { [ -(p_i + p_j) + rho_0 alpha h c v_ij . x_ij / r^2 ] x_ij + 2 rho_0 nu v_ij } + m_i g
    psi_ij . grad W = [ -2 (rho_j - rho_i) - (G_i + G_j) . x_ij ] F,   G_i = L_i sum_j V_j (rho_j - rho_i) grad W
    L_i = [ sum_j V_j x_ji (x) grad W ]^-1,   grad W = F x_ij,   V = m / rho,   p = p(rho)
    s_i = -4 h max|v| sum_j V_j [ 1 + (W_ij / W(dx))^4 / 5 ] grad W

Momentum is conserved to round-off (every pair force is antisymmetric bit for bit), angular momentum too without nu
(the forces are central then), and pressure work balances compression exactly. In periodic or closed flows particles
must be kept in order by `shifting`, or the vortices of Taylor and Green decay three times too fast. Particles then
move with v + s from crowded to empty places. The density must know it, by the two terms with s, which cancel in the
continuum: without them the mean density of a sheared, closed flow creeps up by 1 % per unit of time. The velocity is
not corrected, since s . grad v cannot be written by pairs that conserve momentum and look alike in moving frames.

Sources: Antuono, Colagrossi and Marrone 2012 (https://doi.org/10.1016/j.cpc.2012.07.006); Sun, Colagrossi, Marrone and
Zhang 2017, shifting (https://doi.org/10.1016/j.cma.2016.10.028), and with Antuono 2019, density under shifting
(https://doi.org/10.1016/j.cma.2019.01.045); Morris, Fox and Zhu 1997, viscosity (https://doi.org/10.1006/jcph.1997.5776).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.neighbors import VerletList
from opkernels.particles import ParticleSet
from opkernels.solvers.sph.equations_of_state import Isothermal, Tait
from opkernels.solvers.sph.kernels import Pairs, pair_geometry, smoothing_kernel
from opkernels.solvers.sph.march import ParticleState, ParticleTrajectory, march
from opkernels.solvers.sph.start import check_parameters, check_spacing, check_start, check_velocities, per_particle
from opkernels.solvers.sph.walls import Walls, WallState, together

__all__ = ["FlowRates", "WeaklyCompressibleSPH2D"]

_AT_SURFACE = 1.6  # -sum_j V_j x_ij . grad W is 2 inside a fluid, 1.2 in a row at its surface and 1.8 in the next
_ALONE = 1e-9  # the same sum over fluid only, which is 0 for a particle without neighbors in the fluid


@dataclass(frozen=True, eq=False)
class FlowRates:
    """Accelerations (N, 2), rates of density (N,), pressures (N,), and the shifting velocity s (N, 2) where asked for."""

    acceleration: Tensor
    density_rate: Tensor
    pressure: Tensor
    shift: Tensor | None


class WeaklyCompressibleSPH2D:
    """Delta-SPH in two dimensions, batched and differentiable.

    Parameters
    ----------
    domain : Domain
        Two axes, each periodic, or open, or closed by `walls`.
    sound_speed : float
        c, ten times the largest speed expected (or sqrt(g depth)), which keeps the density within 1 %.
    rest_density : float
        rho_0.
    viscosity : float or Tensor, (B,)
        Kinematic viscosity nu, or one for each simulation.
    alpha : float
        Artificial viscosity, nu = alpha c h / 8; 0.01 to 0.05 for inviscid flow, 0 beside a physical viscosity.
    diffusion : float
        Density diffusion delta; 0.1, or 0 for an exact balance of energy.
    gravity : tuple of float
        Constant acceleration.
    forcing : callable, optional
        ``forcing(positions, time) -> (N, 2)`` acceleration on top of it.
    eos : {"linear", "tait"}
        p = c^2 (rho - rho_0), or Tait's with gamma = 7.
    background_pressure : float
        Added to all pressures; keeps particles from parting in periodic flows, must be 0 with a free surface.
    kernel : str
        See `smoothing_kernel`; Wendland C2 with a support of 3 spacings is a good pair.
    shifting : bool
        Move particles from crowded to empty places (closed and periodic flows, smooth free surfaces). Momentum is still
        conserved to round-off; angular momentum and energy then only approximately.
    walls : Walls, optional
        See `Walls.of_box`.
    skin : float
        Relative skin of the neighbor list.
    """

    fields = ("velocity_x", "velocity_y", "density", "pressure")

    def __init__(
        self,
        domain: Domain,
        *,
        sound_speed: float,
        rest_density: float = 1.0,
        viscosity: float | Tensor = 0.0,
        alpha: float = 0.0,
        diffusion: float = 0.1,
        gravity: tuple[float, float] = (0.0, 0.0),
        forcing: Callable[[Tensor, float], Tensor] | None = None,
        eos: str = "linear",
        background_pressure: float = 0.0,
        kernel: str = "wendland2",
        shifting: bool = False,
        walls: Walls | None = None,
        skin: float = 0.1,
    ):
        if domain.ndim != 2:
            raise ValueError(f"WeaklyCompressibleSPH2D got a {domain.ndim}-D domain; give two axes")
        if eos not in ("linear", "tait"):
            raise ValueError(f"WeaklyCompressibleSPH2D got eos={eos!r}; choose linear or tait")
        least = float(viscosity.min()) if isinstance(viscosity, Tensor) else viscosity
        if not (sound_speed > 0 and rest_density > 0 and least >= 0 and alpha >= 0 and diffusion >= 0):
            raise ValueError(
                f"WeaklyCompressibleSPH2D got sound_speed={sound_speed}, rest_density={rest_density}, viscosity={viscosity}, "
                f"alpha={alpha}, diffusion={diffusion}; give the first two > 0 and no negative one"
            )
        most = float(viscosity.max()) if isinstance(viscosity, Tensor) else viscosity
        check_parameters(
            "WeaklyCompressibleSPH2D",
            gravity,
            sound_speed=sound_speed,
            viscosity=most,
            alpha=alpha,
            diffusion=diffusion,
            background_pressure=background_pressure,
        )
        self.domain, self.sound_speed, self.rest_density = domain, float(sound_speed), float(rest_density)
        self.viscosity, self.alpha, self.diffusion = viscosity, float(alpha), float(diffusion)
        self.gravity, self.forcing = tuple(float(g) for g in gravity), forcing
        self.eos = (Isothermal if eos == "linear" else Tait)(self.sound_speed, self.rest_density)
        self.background_pressure = float(background_pressure)
        self.kernel = smoothing_kernel(kernel, 2)
        self.shifting, self.walls, self.skin = shifting, walls, float(skin)

    def pressure(self, density: Tensor) -> Tensor:
        """Return p(rho), with the background pressure."""
        return self.eos.pressure(density) + self.background_pressure

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

        Parameters
        ----------
        particles : ParticleSet
            Positions, masses, support, and densities (the rest density by default). All simulations of a batch take
            the same steps.
        times : sequence of float
            Ascending, none before `t0`; ``times[0] == t0`` gives the start.
        velocities : Tensor, (N, 2), optional
            Zero by default.
        dt : float, optional
            A step to use as it is. By default min(0.3 h / (c + |v|), h^2 / (8 nu), sqrt(h / |a|) / 4).

        Raises
        ------
        ValueError
            If the start is inconsistent, particles coincide or lie beyond a wall, or the step is far above the stable one.
        SolverError
            If the solution breaks down, with the step and the particle.
        """
        velocities = check_start("WeaklyCompressibleSPH2D", self.domain, particles, velocities)
        check_spacing("WeaklyCompressibleSPH2D", particles, self.rest_density)
        if self.walls is not None:
            self.walls.check_inside("WeaklyCompressibleSPH2D", particles)
        rho = torch.full_like(particles.masses, self.rest_density) if particles.densities is None else particles.densities
        run = _Run(self, particles)
        states, at, n_steps = march(run, ParticleState(particles.positions, velocities, rho), times, t0, dt, reach=particles.support)
        pressures = [self.pressure(s.densities) for s in states]
        walls = {} if self.walls is None else {"walls": self.walls.positions, "wall_velocities": self.walls.velocities}
        return ParticleTrajectory.of_states(at, states, pressures, particles, n_steps=n_steps, **walls)

    def rates(self, particles: ParticleSet, velocities: Tensor, time: float = 0.0) -> FlowRates:
        """Return accelerations and rates of density of a state; differentiable in positions, velocities and densities."""
        velocities = check_velocities("WeaklyCompressibleSPH2D", self.domain, particles, velocities)
        rho = torch.full_like(particles.masses, self.rest_density) if particles.densities is None else particles.densities
        return _Run(self, particles).evaluate(particles.positions, velocities, rho, time)


class _Run:
    """One simulation: the constants of its particles and walls, and the neighbor lists in use."""

    def __init__(self, solver: WeaklyCompressibleSPH2D, particles: ParticleSet):
        self.solver, self.particles = solver, particles
        self.m, self.batch = particles.masses, particles.batch
        self.viscosity = per_particle(solver.viscosity, particles)
        self.h = solver.kernel.smoothing_length(particles.support)
        self.spacing = math.sqrt(float(self.m.detach().mean()) / solver.rest_density)
        self.gravity = torch.tensor(solver.gravity, dtype=self.m.dtype, device=self.m.device)
        self.walls = None if solver.walls is None else solver.walls.for_particles(particles)
        walled = solver.walls is not None and solver.walls.close(solver.domain)
        self.free_surface = not (walled or all(axis.periodic for axis in solver.domain.axes))
        self.alone: Tensor | None = None  # which particles have no neighbor in the fluid, where that matters
        self._reset()

    def _reset(self) -> None:
        self.list = VerletList(self.solver.domain, self.solver.skin)
        self.wall_list = VerletList(self.solver.domain, self.solver.skin)

    def evaluate(self, x: Tensor, v: Tensor, rho: Tensor, time: float) -> FlowRates:
        solver, support = self.solver, self.particles.support
        p = solver.pressure(rho)
        all_ = _Everything(x, v, v, rho, p, self.m / rho, self.m / rho, self.batch)
        walled = self.walls is not None
        if self.walls is not None:
            all_ = self._with_walls(all_, self.walls)
        listed = self.list(x, all_.x if walled else None, support=support, batch=self.batch, batch_y=all_.batch if walled else None)
        pairs = pair_geometry(listed, x, all_.x, support)
        factor = solver.kernel.factor(pairs.r, support)
        volume = pairs.at_j(all_.volume)
        weight = volume * factor
        force, compression = self._pair_forces(pairs, factor, volume, weight, all_)
        a = force / self.m[:, None] + self.gravity
        if solver.forcing is not None:
            a = a + solver.forcing(x, time)
        rate, shift = rho * compression, None
        if solver.diffusion or solver.shifting:
            added, shift = self._ordering(pairs, weight, all_.rho, v)
            rate = rate + added
        return FlowRates(a, rate, p, shift)

    def _with_walls(self, fluid: _Everything, walls: WallState) -> _Everything:
        """Append wall particles, with the pressure and velocity that the fluid implies there."""
        solver = self.solver
        seen = walls.near(self.wall_list, solver.kernel, fluid.x, self.particles.support, self.batch)
        p = seen.pressure(fluid.p, fluid.rho, self.gravity)
        if self.free_surface:
            p = p.clamp(min=0)  # water may leave a wall; in a closed box walls must pull too
        rho = solver.eos.density(p - solver.background_pressure)
        volume = self.spacing**2 * solver.rest_density / rho  # a fixed volume would be truer, and is unstable
        viscous = volume if walls.no_slip else torch.zeros_like(volume)
        return fluid.append(walls.x, walls.v, seen.mirrored(fluid.v), rho, p, volume, viscous, batch=walls.batch)

    def _extended(self, field: Tensor) -> Tensor:
        """Append zeros for the walls to a field of the fluid."""
        return field if self.walls is None else torch.cat([field, torch.zeros_like(self.walls.depth)])

    def _pair_forces(self, pairs: Pairs, factor: Tensor, volume: Tensor, weight: Tensor, all_: _Everything) -> tuple[Tensor, Tensor]:
        """Return forces (N, 2) and the relative rate of compression sum_j V_j v_ij . grad W (N,)."""
        solver, i, j, (dx, dy) = self.solver, pairs.at_i, pairs.at_j, pairs.d
        ux, uy = (c.contiguous() for c in all_.v.unbind(1))
        ux_i, uy_i = i(ux), i(uy)
        vx, vy = ux_i - j(ux), uy_i - j(uy)
        approach = torch.addcmul(vx * dx, vy, dy)
        compression = pairs.sum(weight * approach)
        central = -(i(all_.p) + j(all_.p))
        if self.walls is not None and self.free_surface:
            wall = pairs.neighbors.col >= len(self.m)
            self.alone = -pairs.sum((weight * pairs.r2).detach() * ~wall) < _ALONE
            central = torch.where(wall & i(self.alone), central.clamp(max=0), central)
        if solver.alpha:
            strength = solver.rest_density * solver.alpha * self.h * solver.sound_speed
            viscous = approach * strength / (pairs.r2 + 1e-12 * self.particles.support**2)
            central = central + (viscous if self.walls is None else viscous * (j(all_.viscous_volume) / volume))
        both = i(all_.volume) * volume * factor  # in this order, equal for (i, j) and (j, i) to the last bit
        central = central * both
        fx, fy = central * dx, central * dy
        if isinstance(self.viscosity, Tensor) or self.viscosity:
            nu = i(self.viscosity) if isinstance(self.viscosity, Tensor) else self.viscosity
            drag = (2 * solver.rest_density * nu) * both
            if self.walls is not None:
                drag = drag * (j(all_.viscous_volume) / volume)
                ux, uy = (c.contiguous() for c in all_.mirrored.unbind(1))
                vx, vy = ux_i - j(ux), uy_i - j(uy)
            fx, fy = torch.addcmul(fx, drag, vx), torch.addcmul(fy, drag, vy)
        return torch.stack([pairs.sum(fx), pairs.sum(fy)], 1), compression

    def _ordering(self, pairs: Pairs, weight: Tensor, rho: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what density diffusion and shifting add to the rates of density, and the shifting velocities s.

        `weight` is V_j F; walls take no part but in s and in its divergence, where their own s is 0. Values at i are
        taken out of the sums: sum_j V_j (f_i + f_j) . grad W = f_i . sum_j V_j grad W + sum_j V_j f_j . grad W.
        """
        solver, j, (dx, dy), n = self.solver, pairs.at_j, pairs.d, len(v)
        wx, wy = weight * dx, weight * dy
        sums = full = (pairs.sum(wx), pairs.sum(wy))
        fluid, fx, fy = weight, wx, wy
        if self.walls is not None:
            fluid = weight * (pairs.neighbors.col < n)
            fx, fy = fluid * dx, fluid * dy
            sums = (pairs.sum(fx), pairs.sum(fy))
        jump = fluid * (j(rho) - pairs.at_i(rho[:n]))
        jx, jy = jump * dx, jump * dy
        rate, terms, shift = torch.zeros_like(rho[:n]), [], None
        if solver.diffusion:
            strength = -solver.diffusion * self.h * solver.sound_speed
            moments = (-pairs.sum(fx * dx), -pairs.sum(fx * dy), -pairs.sum(fy * dy))
            gx, gy = (strength * g for g in _solve_moments(moments, (pairs.sum(jx), pairs.sum(jy))))
            rate = rate + 2 * strength * pairs.sum(jump) + gx * sums[0] + gy * sums[1]
            terms += [fx * j(self._extended(gx)), fy * j(self._extended(gy))]
        if solver.shifting:
            shift = self._shift(pairs, weight, v)
            sx, sy = (c.contiguous() for c in shift.unbind(1))
            rate = rate + rho[:n] * (sx * (full[0] + sums[0]) + sy * (full[1] + sums[1]))
            terms += [jx * j(self._extended(sx)), jy * j(self._extended(sy))]
        return rate + pairs.sum(sum(terms[1:], start=terms[0])), shift

    def _shift(self, pairs: Pairs, weight: Tensor, v: Tensor) -> Tensor:
        """Return the velocities s from crowded to empty places, at most half of the fastest particle's."""
        solver, support = self.solver, self.particles.support
        with torch.no_grad():
            lattice = float(solver.kernel.value(torch.tensor(self.spacing, dtype=torch.float64), support))
            crowded = (solver.kernel.value(pairs.r, support) / lattice).square().square().mul_(0.2).add_(1).mul_(weight)
            direction = torch.stack([pairs.sum(crowded * d) for d in pairs.d], 1)
            speed = v.norm(dim=1)
            if self.batch is None:
                fastest = speed.max()
            else:
                fastest = speed.new_zeros(self.particles.n_batches).scatter_reduce_(0, self.batch, speed, "amax")[self.batch][:, None]
            shift = -4 * self.h * fastest * direction
            if self.free_surface:
                shift = shift * (-pairs.sum(weight * pairs.r2) > _AT_SURFACE)[:, None]
            limit = 0.5 * fastest + torch.finfo(v.dtype).tiny
            return shift * (limit / torch.maximum(shift.norm(dim=1, keepdim=True), limit))

    def start(self, state: ParticleState, time: float) -> FlowRates:
        self._reset()
        return self.evaluate(state.positions, state.velocities, state.densities, time)

    def stable_step(self, state: ParticleState, rates: FlowRates) -> float:
        speed = state.velocities.detach().square().sum(1).max().sqrt()
        push = rates.acceleration.detach().square().sum(1).max().sqrt()
        nu = self.viscosity.max() if isinstance(self.viscosity, Tensor) else speed.new_tensor(self.viscosity)
        fastest, strongest, nu = torch.stack([speed, push, nu]).tolist()
        nu = max(nu, self.solver.alpha * self.solver.sound_speed * self.h / 8)
        limits = [0.3 * self.h / (self.solver.sound_speed + fastest)]
        limits += [0.125 * self.h**2 / nu] if nu else []
        limits += [0.25 * math.sqrt(self.h / strongest)] if strongest else []
        return min(limits) if math.isfinite(fastest + strongest) else math.nan

    def advance(self, state: ParticleState, rates: FlowRates, time: float, dt: float) -> tuple[ParticleState, FlowRates]:
        """Symplectic midpoint step; the predictor uses the rates of the step before, so each step evaluates once."""
        x, v, rho = state.positions, state.velocities, state.densities
        middle = rho + dt / 2 * rates.density_rate
        rates = self.evaluate(x + dt / 2 * v, v + dt / 2 * rates.acceleration, middle, time + dt / 2)
        faster = v + dt * rates.acceleration
        x = x + dt / 2 * (v + faster)
        if rates.shift is not None:
            x = x + dt * rates.shift
        e = -dt * rates.density_rate / middle
        rho = rho * (2 - e) / (2 + e)
        if self.alone is not None:  # a lone drop has no tension: what its density remembers of the flow would draw it into a wall
            rho = torch.where(self.alone, rho.clamp(min=self.solver.rest_density), rho)
        return ParticleState(x, faster, rho), rates


@dataclass(frozen=True, eq=False)
class _Everything:
    """Fluid, then walls: what a sender shows to the fluid. `mirrored` and `viscous_volume` act in the viscous term."""

    x: Tensor
    v: Tensor
    mirrored: Tensor
    rho: Tensor
    p: Tensor
    volume: Tensor
    viscous_volume: Tensor
    batch: Tensor | None

    def append(self, *walls: Tensor, batch: Tensor | None) -> _Everything:
        own = (self.x, self.v, self.mirrored, self.rho, self.p, self.volume, self.viscous_volume)
        return _Everything(*[torch.cat([a, b]) for a, b in zip(own, walls, strict=True)], batch=together(self.batch, batch))


def _solve_moments(moments: tuple[Tensor, Tensor, Tensor], slope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Solve the symmetric 2x2 systems of renormalization; the identity where too few neighbors make them singular."""
    xx, xy, yy = moments
    determinant = xx * yy - xy * xy
    good = determinant > 0.05
    one = torch.ones_like(xx)
    inverse = 1 / torch.where(good, determinant, one)
    gx = torch.where(good, (yy * slope[0] - xy * slope[1]) * inverse, slope[0])
    gy = torch.where(good, (xx * slope[1] - xy * slope[0]) * inverse, slope[1])
    return gx, gy
