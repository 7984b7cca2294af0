"""The loop in time that all particle solvers share, and what it returns.

A solver gives `start` (lists and first rates, from the state alone), `advance` (one step) and `stable_step`. Lists and
rates are made anew at each requested time, so a run that restarts from a stored frame takes bit for bit the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from opkernels.particles import ParticleSet
from opkernels.solvers.stepping import SolverError

__all__ = ["ParticleState", "ParticleTrajectory", "march"]

_SLACK = 4.0  # a step given by the user may exceed the stable one, which has a margin, by this factor


@dataclass(frozen=True, eq=False)
class ParticleState:
    """What a solver needs to go on: positions and velocities (N, d), densities, (gas only) specific energies (N,).

    Incompressible flow carries its pressures along for the output.
    """

    positions: Tensor
    velocities: Tensor
    densities: Tensor
    energies: Tensor | None = None
    pressures: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ParticleTrajectory:
    """Frames of a particle simulation at the requested times.

    Attributes
    ----------
    times : tuple of float, (T,)
    positions, velocities : Tensor, (T, N, d)
        Positions are not wrapped into the box.
    densities, pressures : Tensor, (T, N)
    energies : Tensor, (T, N), or None
        Specific internal energy, of solvers that have it.
    particles : ParticleSet
        The particles at the start: masses, support, domain and batch.
    walls, wall_velocities : Tensor, (M, d), or None
        Positions of the wall particles, which do not move, and the velocities at which they slide along themselves.
    n_steps : int
        Steps taken.
    statistics : dict of lists
        One number per step, of solvers that iterate.
    """

    times: tuple[float, ...]
    positions: Tensor
    velocities: Tensor
    densities: Tensor
    pressures: Tensor
    particles: ParticleSet
    energies: Tensor | None = None
    walls: Tensor | None = None
    wall_velocities: Tensor | None = None
    n_steps: int = 0
    statistics: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of_states(cls, times, states: list[ParticleState], pressures: list[Tensor], particles: ParticleSet, **extra) -> ParticleTrajectory:
        """Stack the states that `march` returns; `extra` are attributes named above."""
        inner = [s.energies for s in states if s.energies is not None]
        x, v, rho = (torch.stack([getattr(s, name) for s in states]) for name in ("positions", "velocities", "densities"))
        return cls(tuple(times), x, v, rho, torch.stack(pressures), particles, torch.stack(inner) if inner else None, **extra)

    def __len__(self) -> int:
        return len(self.times)

    def frame(self, index: int) -> ParticleSet:
        """Return one frame as a particle set with its densities: where a restart begins, or a surrogate's input."""
        return self.particles.replace(positions=self.positions[index], densities=self.densities[index])

    def kinetic_energy(self) -> Tensor:
        """Return sum m v^2 / 2 over all particles, (T,)."""
        return (self.velocities.square().sum(-1) * self.particles.masses).sum(-1) / 2


class _Solver(Protocol):
    def start(self, state: ParticleState, time: float) -> Any: ...
    def advance(self, state: ParticleState, carry: Any, /, time: float, dt: float) -> tuple[ParticleState, Any]: ...
    def stable_step(self, state: ParticleState, carry: Any, /) -> float: ...


def march(solver: _Solver, state: ParticleState, times: Sequence[float], t0: float, dt: float | None, reach: float):
    """Step from `t0` through `times`; return the states there and the number of steps.

    With ``dt=None`` the stable step is divided so that an output is met exactly; a given step is used as it is, but
    for the last one before an output. `reach` is the distance no particle may cross in one step.

    Raises
    ------
    ValueError
        If times do not ascend from `t0`, or a given step is far above the stable one.
    SolverError
        If a particle's state is not finite, or it crosses `reach` in one step.
    """
    times = [float(t) for t in times]
    if not times or times[0] < t0 or any(b <= a for a, b in zip(times, times[1:], strict=False)) or not all(map(math.isfinite, times)):
        raise ValueError(f"solve got times {times[:4]}... from t0={t0:g}; give finite, ascending times, none before t0")
    if dt is not None and not dt > 0:
        raise ValueError(f"solve got dt={dt!r}; give a step > 0, or None for the solver's own")
    states, t, n_steps = [], float(t0), 0
    for target in times:
        carry = solver.start(state, t) if target > t else None
        while t < target:
            limit = solver.stable_step(state, carry)
            if not limit > 0:
                _refuse_state(state, n_steps, t, stable=False)
            if dt is not None and dt > _SLACK * limit:
                raise ValueError(
                    f"solve got dt={dt:g}, but steps above {_SLACK * limit:.3g} are unstable here (sound, viscosity or acceleration); "
                    f"lower it, or leave it out for {limit:.3g}"
                )
            left = target - t
            step = min(dt, left) if dt is not None else left / max(1, math.ceil(left / limit - 1e-9))
            last = left - step <= 1e-9 * step
            state, carry = solver.advance(state, carry, t, left if last else step)
            t = target if last else t + step
            n_steps += 1
            fastest = state.velocities.detach().abs().max()
            if not bool(fastest * step < reach):
                _refuse_state(state, n_steps, t, stable=True)
        states.append(state)
    return states, times, n_steps


def _refuse_state(state: ParticleState, step: int, time: float, stable: bool) -> None:
    speed = state.velocities.detach().norm(dim=1) + 0 * state.densities.detach()
    bad = (~torch.isfinite(speed)).nonzero()
    particle = int(bad[0]) if len(bad) else int(speed.argmax())
    if len(bad):
        what = "has a state that is not finite"
    elif stable:
        what = f"moves at {float(speed[particle]):.3g}, further than its support in one step"
    else:
        what = f"moves at {float(speed[particle]):.3g}, the fastest, where accelerations are not finite"
    raise SolverError(
        f"particle {particle} {what} at step {step}, t = {time:.6g}; the step or the initial arrangement is the likely cause: "
        "lower dt, raise the sound speed, or start from particles at rest on a relaxed lattice"
    )
