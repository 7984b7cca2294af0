"""Compressible gas in one dimension: isothermal, or with an energy equation (shock tubes).

    rho_i  = sum_j m_j W(x_ij, H_i),   H_i = eta m_i / rho_i,   Omega_i = 1 + H_i / rho_i sum_j m_j dW/dH(x_ij, H_i)
    dv_i   = -sum_j m_j [ A_i grad W(H_i) + A_j grad W(H_j) + Pi_ij grad Wb ] dt,        A = p / (Omega rho^2)
    du_i   = [ A_i sum_j m_j v_ij.grad W(H_i) + 1/2 sum_j m_j Pi_ij v_ij.grad Wb + conduction ] dt
    Pi_ij  = -(alpha c_b - beta w) w / rho_b,   w = min(0, v_ij . e_ij),   grad Wb = (grad W(H_i) + grad W(H_j)) / 2
    conduction = alpha_u sum_j m_j sqrt(|p_i - p_j| / rho_b) (u_i - u_j) / rho_b  e_ij . grad Wb

With one support for all, Omega = 1. Every pair force is antisymmetric bit for bit, so momentum is conserved to
round-off; with alpha = 0 the kick-drift-kick scheme is reversible in time.

Sources: Springel and Hernquist 2002 (https://doi.org/10.1046/j.1365-8711.2002.05445.x); Monaghan 1997, signal
velocities (https://doi.org/10.1006/jcph.1997.5732); Price 2008, conduction (https://doi.org/10.1016/j.jcp.2008.08.011).
The scheme "sfbc" is that of the published data of Winchenbach and Thuerey 2024 (https://arxiv.org/abs/2403.16680).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.neighbors import VerletList
from opkernels.particles import ParticleSet
from opkernels.solvers.sph.equations_of_state import IdealGas, Isothermal
from opkernels.solvers.sph.kernels import Pairs, pair_geometry, smoothing_kernel
from opkernels.solvers.sph.march import ParticleState, ParticleTrajectory, march
from opkernels.solvers.sph.start import check_start
from opkernels.solvers.stepping import SolverError

__all__ = ["CompressibleSPH1D", "GasRates"]

_SCHEMES = ("kdk", "rk4", "sfbc")


@dataclass(frozen=True, eq=False)
class GasRates:
    """Accelerations (N, 1), rates of the specific energy, densities, pressures, supports and stable steps (N,)."""

    acceleration: Tensor
    energy_rate: Tensor
    density: Tensor
    pressure: Tensor
    support: Tensor
    step: Tensor


class CompressibleSPH1D:
    """Compressible smoothed particle hydrodynamics in one dimension.

    Parameters
    ----------
    domain : Domain
        One axis, periodic or open. An open tube needs `frozen` particles at its ends (see `solve`).
    eos : IdealGas or Isothermal
        The energy equation is solved for the ideal gas alone.
    adaptive : bool
        A support H = eta m / rho of each particle's own; otherwise the particle set's support serves all.
    eta : float
        Neighbors on each side with `adaptive`: 4 is sharpest, 8 smoothest.
    alpha, beta, conductivity : float
        Linear and quadratic artificial viscosity, and thermal conduction at contacts. 0, 0 for waves without shocks.
    kernel : str
        See `smoothing_kernel`.
    scheme : {"kdk", "rk4", "sfbc"}
        Kick-drift-kick (one evaluation a step, second order, reversible), classical Runge-Kutta (fourth order), or
        the scheme of the published SFBC data (first order in the positions; `alpha` then stands for alpha c_0).

    Notes
    -----
    Steps are 0.3 h / (c + 2 |w|). The error against the continuum is second order in spacing over support, so a fixed
    number of neighbors leaves a fixed error in the sound speed (2 % at 8 on each side) whatever the resolution.
    """

    fields = ("velocity", "density", "pressure")

    def __init__(
        self,
        domain: Domain,
        *,
        eos: IdealGas | Isothermal | None = None,
        adaptive: bool = True,
        eta: float = 4.0,
        alpha: float = 1.0,
        beta: float = 2.0,
        conductivity: float = 1.0,
        kernel: str = "wendland2",
        scheme: str = "kdk",
    ):
        if domain.ndim != 1:
            raise ValueError(f"CompressibleSPH1D got a {domain.ndim}-D domain; give one axis")
        if scheme not in _SCHEMES:
            raise ValueError(f"CompressibleSPH1D got scheme={scheme!r}; choose one of {', '.join(_SCHEMES)}")
        if scheme == "sfbc" and adaptive:
            raise ValueError("CompressibleSPH1D got scheme='sfbc' with adaptive=True; that scheme has one support, so set adaptive=False")
        if not (min(alpha, beta, conductivity) >= 0 and max(alpha, beta, conductivity, eta) < math.inf and eta >= 2):
            raise ValueError(
                f"CompressibleSPH1D got alpha={alpha:g}, beta={beta:g}, conductivity={conductivity:g}, eta={eta:g}; "
                "give no negative viscosity, and eta >= 2, all finite"
            )
        self.domain = domain
        self.eos = eos if eos is not None else IdealGas()
        self.adaptive, self.eta = adaptive, float(eta)
        self.alpha, self.beta, self.conductivity = float(alpha), float(beta), float(conductivity)
        self.kernel = smoothing_kernel(kernel, 1)
        self.scheme = scheme

    @classmethod
    def sfbc(cls, domain: Domain) -> CompressibleSPH1D:
        """Return the solver behind the published SFBC case I: p = 10 (rho - 1), alpha c_0 = 10, beta = 2; use dt = 1e-3."""
        return cls(domain, eos=Isothermal(10**0.5, 1.0), adaptive=False, alpha=10.0, beta=2.0, scheme="sfbc")

    def solve(
        self,
        particles: ParticleSet,
        times: Sequence[float],
        *,
        velocities: Tensor | None = None,
        energies: Tensor | None = None,
        frozen: Tensor | None = None,
        t0: float = 0.0,
        dt: float | None = None,
    ) -> ParticleTrajectory:
        """Advance particles and return them exactly at `times`.

        Parameters
        ----------
        particles : ParticleSet
            Masses, positions and (without `adaptive`) the support. All simulations of a batch take the same steps.
        times : sequence of float
            Ascending, none before `t0`; ``times[0] == t0`` gives the start.
        velocities : Tensor, (N, 1), optional
            Zero by default.
        energies : Tensor, (N,)
            Specific internal energies, for the ideal gas.
        frozen : Tensor of bool, (N,), optional
            Particles that keep their velocity and energy: the ends of a tube.
        dt : float, optional
            A step to use as it is; the stable step by default.

        Raises
        ------
        ValueError
            If the start is inconsistent, particles coincide, or the step is far above the stable one.
        SolverError
            If the solution breaks down, with the step and the particle.
        """
        run = _Run(self, *self._begin(particles, velocities, energies, frozen))
        first = run.evaluate(run.velocities, run.energies)
        state = ParticleState(particles.positions, run.velocities, first.density, run.energies)
        states, at, n_steps = march(run, state, times, t0, dt, reach=10 * particles.support)
        pressures = [self.eos.pressure(s.densities, s.energies) for s in states]
        return ParticleTrajectory.of_states(at, states, pressures, particles, n_steps=n_steps)

    def rates(self, particles: ParticleSet, velocities: Tensor, energies: Tensor | None = None) -> GasRates:
        """Return accelerations, energy rates, densities and pressures of a state; differentiable."""
        run = _Run(self, *self._begin(particles, velocities, energies, None))
        return run.evaluate(run.velocities, run.energies)

    def _begin(self, particles: ParticleSet, velocities, energies, frozen):
        velocities = check_start("CompressibleSPH1D", self.domain, particles, velocities)
        if isinstance(self.eos, IdealGas):
            if energies is None or energies.shape != particles.masses.shape or not bool(((energies > 0) & (energies < math.inf)).all()):
                raise ValueError(
                    "CompressibleSPH1D with an ideal gas needs a finite specific energy > 0 for each particle; give energies (N,)"
                )
            if energies.dtype != velocities.dtype:
                raise ValueError(f"CompressibleSPH1D got energies {energies.dtype}; expected {velocities.dtype} as the positions")
        elif energies is not None:
            raise ValueError("CompressibleSPH1D got energies, but the gas is isothermal; leave them out")
        if frozen is not None and (frozen.dtype != torch.bool or frozen.shape != particles.masses.shape):
            raise ValueError(f"CompressibleSPH1D got frozen {frozen.dtype} {tuple(frozen.shape)}; give one bool for each particle")
        return particles, velocities, energies, frozen


class _Run:
    """One simulation: the constants of its particles, and the neighbor list in use."""

    def __init__(
        self, solver: CompressibleSPH1D, particles: ParticleSet, velocities: Tensor, energies: Tensor | None, frozen: Tensor | None
    ):
        self.solver, self.particles, self.frozen = solver, particles, frozen
        self.velocities, self.energies = velocities, energies
        self._reset()

    def _reset(self) -> None:
        self.list = VerletList(self.solver.domain, 0.2, mode="symmetric" if self.solver.adaptive else "gather")
        self.support = None

    def evaluate(self, v: Tensor, u: Tensor | None, x: Tensor | None = None) -> GasRates:
        solver, m = self.solver, self.particles.masses
        x = self.particles.positions if x is None else x
        pairs, h = self._supports(x)
        gas = _gas(solver, pairs, m, h, u)
        rates = _forces(solver, pairs, m, v[:, 0], u, h, gas)
        if self.frozen is not None:
            still = torch.zeros((), dtype=x.dtype, device=x.device)
            a, du = torch.where(self.frozen[:, None], still, rates.acceleration), torch.where(self.frozen, still, rates.energy_rate)
            rates = GasRates(a, du, rates.density, rates.pressure, rates.support, rates.step)
        return rates

    def _supports(self, x: Tensor) -> tuple[Pairs, Tensor]:
        """Pairs within each other's support, and the supports: Newton's method on rho(H) = eta m / H where adaptive."""
        solver, particles = self.solver, self.particles
        if not solver.adaptive:
            pairs = pair_geometry(self.list(x, support=particles.support, batch=particles.batch), x, None, particles.support)
            return pairs, torch.full_like(particles.masses, particles.support)
        guess = torch.full_like(particles.masses, particles.support) if self.support is None else self.support
        while True:
            pairs = pair_geometry(self.list(x, support=guess, batch=particles.batch), x, None, particles.support)
            reach = self.list.complete_within(x.detach())
            h = _adapted(solver, pairs, particles.masses, guess, reach)
            if bool((h < reach).all()):
                self.support = h.detach()
                return pairs, h
            guess = torch.maximum(h.detach(), guess) * 1.1
            if float(guess.max()) > 2 * solver.domain.extent[0] and not solver.domain.axes[0].periodic:
                raise SolverError(
                    f"particle {int(guess.argmax())} finds no mass of {solver.eta:g} neighbors on each side within twice the domain; "
                    "close the ends of the tube with frozen particles, or give a larger domain"
                )

    def start(self, state: ParticleState, time: float) -> GasRates:
        self._reset()
        return self.evaluate(state.velocities, state.energies, state.positions)

    def stable_step(self, state: ParticleState, rates: GasRates) -> float:
        return float(rates.step.detach().min())

    def advance(self, state: ParticleState, rates: GasRates, time: float, dt: float) -> tuple[ParticleState, GasRates]:
        if self.solver.scheme == "kdk":
            return self._kick_drift_kick(state, rates, dt)
        return self._runge_kutta(state, rates, dt)

    def _kick_drift_kick(self, state: ParticleState, rates: GasRates, dt: float) -> tuple[ParticleState, GasRates]:
        x, v, u = state.positions, state.velocities, state.energies
        half = v + dt / 2 * rates.acceleration
        x = x + dt * half
        u = None if u is None else u + dt / 2 * rates.energy_rate
        predicted = None if u is None else u + dt / 2 * rates.energy_rate
        rates = self.evaluate(v + dt * rates.acceleration, predicted, x)
        v = half + dt / 2 * rates.acceleration
        u = None if u is None else u + dt / 2 * rates.energy_rate
        return ParticleState(x, v, rates.density, u), rates

    def _runge_kutta(self, state: ParticleState, rates: GasRates, dt: float) -> tuple[ParticleState, GasRates]:
        """Classical RK4; with "sfbc", positions then move by the new velocity."""
        x, v, u = state.positions, state.velocities, state.energies
        dx, dv, du = [v], [rates.acceleration], [rates.energy_rate]
        for fraction in (0.5, 0.5, 1.0):
            step = fraction * dt
            stage = self.evaluate(v + step * dv[-1], None if u is None else u + step * du[-1], x + step * dx[-1])
            dx.append(v + step * dv[-1])
            dv.append(stage.acceleration)
            du.append(stage.energy_rate)
        change_x, change_v, change_u = ((k[0] + 2 * k[1] + 2 * k[2] + k[3]) * (dt / 6) for k in (dx, dv, du))
        v = v + change_v
        x = x + (dt * v if self.solver.scheme == "sfbc" else change_x)
        u = None if u is None else u + change_u
        rates = self.evaluate(v, u, x)
        return ParticleState(x, v, rates.density, u), rates


def _adapted(solver: CompressibleSPH1D, pairs: Pairs, m: Tensor, h: Tensor, longest: Tensor) -> Tensor:
    """Solve f(H) = rho(H) - eta m / H = 0; the last step carries the gradient with respect to the positions."""
    m_j = pairs.at_j(m)

    def newton(h: Tensor, pairs_r: Tensor, slope: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h_i = pairs.at_i(h)
        f = pairs.sum(m_j * solver.kernel.value(pairs_r, h_i)) - solver.eta * m / h
        slope = pairs.sum(m_j * solver.kernel.support_derivative(pairs_r, h_i)) + solver.eta * m / h**2 if slope is None else slope
        return f / slope, slope

    with torch.no_grad():
        for _ in range(50):
            change, slope = newton(h, pairs.r.detach())
            update = torch.minimum((h - change).clamp(0.8 * h, 1.2 * h), longest)
            settled = (
                bool(((update - h).abs() <= 1e-10 * h).all()) if h.dtype == torch.float64 else bool(((update - h).abs() <= 1e-5 * h).all())
            )
            h = update
            if settled:
                break
    return h - newton(h, pairs.r, slope)[0] if pairs.r.requires_grad else h


@dataclass(frozen=True, eq=False)
class _Gas:
    density: Tensor
    pressure: Tensor
    sound: Tensor
    factor: Tensor  # A = p / (Omega rho^2)


def _gas(solver: CompressibleSPH1D, pairs: Pairs, m: Tensor, h: Tensor, u: Tensor | None) -> _Gas:
    h_i, m_j = pairs.at_i(h), pairs.at_j(m)
    rho = pairs.sum(m_j * solver.kernel.value(pairs.r, h_i))
    p, sound = _pressure_and_sound(solver.eos, rho, u)
    omega = 1 + h / rho * pairs.sum(m_j * solver.kernel.support_derivative(pairs.r, h_i)) if solver.adaptive else 1.0
    return _Gas(rho, p, sound, p / (omega * rho**2))


def _pressure_and_sound(eos: IdealGas | Isothermal, rho: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
    if isinstance(eos, Isothermal):
        return eos.pressure(rho), eos.speed_of_sound(rho)
    assert u is not None, "an ideal gas has energies; checked at the start"
    return eos.pressure(rho, u), eos.speed_of_sound(rho, u)


def _forces(solver: CompressibleSPH1D, pairs: Pairs, m: Tensor, v: Tensor, u: Tensor | None, h: Tensor, gas: _Gas) -> GasRates:
    i, j, x = pairs.at_i, pairs.at_j, pairs.d[0]
    f_i, f_j = solver.kernel.factor(pairs.r, i(h)), solver.kernel.factor(pairs.r, j(h))
    f_b = (f_i + f_j) / 2
    rho_b = (i(gas.density) + j(gas.density)) / 2
    v_ij = i(v) - j(v)
    if solver.scheme == "sfbc":  # about h / 250 of the usual viscosity, as published
        s, w = x / i(h), torch.zeros_like(v_ij)
        mu = i(h) * v_ij * s / (s.abs() + 0.01 * i(h) ** 2)
        viscous = (-solver.alpha * mu + solver.beta * mu * mu) / rho_b
    else:
        w = (v_ij * x.sign()).clamp(max=0)
        viscous = -(solver.alpha * (i(gas.sound) + j(gas.sound)) / 2 - solver.beta * w) * w / rho_b
    both = i(m) * j(m)
    force = -pairs.sum(both * (i(gas.factor) * f_i + j(gas.factor) * f_j + viscous * f_b) * x)
    energy_rate = torch.zeros_like(m)
    if u is not None:
        m_j, stretch = j(m), v_ij * x
        speed = ((i(gas.pressure) - j(gas.pressure)).abs() / rho_b + 1e-30).sqrt()
        conduction = solver.conductivity * speed * (i(u) - j(u)) / rho_b * pairs.r * f_b
        energy_rate = gas.factor * pairs.sum(m_j * stretch * f_i) + pairs.sum(m_j * (viscous * stretch * f_b / 2 + conduction))
    near = torch.where(pairs.r2 < i(h) ** 2, -w, 0).detach()
    signal = torch.segment_reduce(near, "max", offsets=pairs.neighbors.row_ptr, axis=0, unsafe=True)
    step = 0.3 * solver.kernel.smoothing_length(h) / (gas.sound + 2 * signal)
    return GasRates((force / m)[:, None], energy_rate, gas.density, gas.pressure, h, step)
