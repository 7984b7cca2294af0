"""Buoyant smoke in a closed box: incompressible flow that hot smoke drives, on a staggered grid in two or three dimensions.

    ∂d/∂t + u·∇d = s,     ∂u/∂t + u·∇u = -∇p + ν Δu + b d e,     ∇·u = 0

| symbol | meaning                                      | shape           | units                      |
| ------ | -------------------------------------------- | --------------- | -------------------------- |
| d      | smoke, at the centers of cells               | (B, *spatial)   | of smoke                   |
| u      | velocity (next table)                        | (B, d, *spatial)| length/time                |
| ν      | `viscosity`, kinematic                       | number or (B,)  | length²/time               |
| b      | `buoyancy`, along the last axis e            | number or (B,)  | length/time² per smoke     |
| s      | `inflow` of smoke                            | (*, 1, *spatial)| of smoke per time          |

One step takes these in turn, all with the velocity it starts from: smoke is carried, inflow added; velocity is carried,
diffused, lifted by the new smoke, and projected by cosine and Fourier transforms, so that every state is free of divergence
to round-off, and layers of smoke rest to round-off (published codes diffuse the lift, too, before they project it, and stir
them). Carried means (`staggered`):

| advection         | order | a step costs |
| ----------------- | ----- | ------------ |
| "maccormack"      | 2     | about twice  |
| "semi_lagrangian" | 1     |              |

and the way along which is traced by the midpoint rule ("midpoint") or in one Euler step ("euler"). All are stable for any step and
make no new extremes. None keeps the mass of smoke by itself: plumes that make filaments of a cell's width lose a few percent of it, on
coarse grids a tenth. A `conservative` solver, the default, gives it back after every transport: each value goes the same part of its way to
the largest (smallest, if there is too much) of the values around the start of its path, so that what is uniform stays as it is, order and
extremes are kept, and mass holds to round-off.
Splitting the pressure off so, "projection", is of first order in the step whatever the transport. "reflection" is of second
order at three times the work, and 75 times closer on vortices in a box: with A(f; w) the transport of f by w over half a step, diffusion
and lift included, and P the projection,

    w = P A(u; u),     v = A(u; w),     u⁺ = P A(2 P v - v; w),

and smoke is carried by w. The default step is `courant` cells at the largest speed, so that it is refined with the grid, and a
finer run is a better solution of the same problem.

Velocities are answered on "faces" (component a of cell i on its lower face, nothing lost, a run goes on from any answer) or at
"centers" (the mean of two faces: functions at the points of the grid, as models want them; a run that goes on from them is smoothed).

References
----------
R. Bermejo, J. Conde, A conservative quasi-monotone semi-Lagrangian scheme, Mon. Weather Rev. 130 (2002), 423-430 (mass given back).
R. Narain, J. Zehnder, B. Thomaszewski, A second-order advection-reflection solver, Proc. ACM Comput. Graph. Interact. Tech. 2
(2019), doi:10.1145/3340257. J. Stam, Stable fluids, SIGGRAPH 1999, 121-128, doi:10.1145/311535.311548. Z. Li, D. Shu,
A. Barati Farimani, Scalable transformer for PDE surrogate modeling, NeurIPS 2023, arXiv:2305.17560 (the data set).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from opkernels.domains import Domain, Grid
from opkernels.solvers.checks import check_evolution, full_precision, require_finite
from opkernels.solvers.fast_poisson import Walls, wall_kinds
from opkernels.solvers.spectral import parameter, per_sample, sample_forcing
from opkernels.solvers.staggered import Staggered

__all__ = ["SmokeBuoyancy2D", "SmokeBuoyancy3D"]

_CHECKED = 4  # steps between two looks from the host at the largest speed
_CHOICES = {
    "advection": ("maccormack", "semi_lagrangian"),
    "trace": ("midpoint", "euler"),
    "splitting": ("reflection", "projection"),
    "velocity_at": ("faces", "centers"),
}


class _SmokeBuoyancy:
    """What both dimensions share; a child sets `fields`."""

    fields: tuple[str, ...] = ()

    def __init__(
        self,
        domain: Domain,
        *,
        viscosity: float | Tensor = 0.003,
        buoyancy: float | Tensor = 0.5,
        inflow: Callable[..., Tensor] | Tensor | float | None = None,
        walls: Walls = "no_slip",
        advection: str = "maccormack",
        trace: str = "midpoint",
        splitting: str = "reflection",
        conservative: bool = True,
        velocity_at: str = "faces",
        diffusion_substeps: int | None = None,
        courant: float = 2.0,
    ):
        name = type(self).__name__
        _check_domain(name, domain, len(self.fields) - 1)
        for key, value in (("advection", advection), ("trace", trace), ("splitting", splitting), ("velocity_at", velocity_at)):
            if value not in _CHOICES[key]:
                raise ValueError(f"{name} got {key}={value!r}; choose one of {', '.join(_CHOICES[key])}")
        if type(conservative) is not bool:
            raise ValueError(f"{name} got conservative={conservative!r}; give True or False")
        if diffusion_substeps is not None and (type(diffusion_substeps) is not int or diffusion_substeps < 1):
            raise ValueError(f"{name} got diffusion_substeps={diffusion_substeps!r}; give a whole number of at least 1, or leave None")
        self.domain, self.inflow = domain, inflow
        self.walls = wall_kinds(domain, walls, name, allowed=("no_slip", "free_slip"))
        self.viscosity = parameter(viscosity, "viscosity", lowest=0.0)
        self.buoyancy = parameter(buoyancy, "buoyancy")
        self.courant = float(parameter(courant, "courant", above=0.0))
        self.diffusion_substeps, self.centered, self.reflected = diffusion_substeps, velocity_at == "centers", splitting == "reflection"
        self.conservative = conservative
        self._transport = {"midpoint": trace == "midpoint", "corrected": advection == "maccormack"}
        self._largest_viscosity = float(self.viscosity.detach().max()) if isinstance(self.viscosity, Tensor) else self.viscosity

    def solve(self, u0: Tensor, times: Sequence[float] | Tensor, *, t0: float = 0.0, dt: float | None = None) -> Tensor:
        """Solve from the state `u0` at time `t0` and return the state at each of `times`.

        Parameters
        ----------
        u0 : Tensor, (B, 1 + d, *spatial)
            Smoke and velocity in the order of `fields`. Velocities at centers are first made free of divergence; those on faces
            are taken as they are, zero on walls.
        times : sequence of float, (T,)
            Increasing, none before t0; a time equal to t0 gives u0.
        t0 : float
            Time of u0; it matters where the inflow depends on time.
        dt : float, optional
            Longest step; each way to the next requested time is split evenly. By default `courant` cells at the largest
            speed in the batch.

        Returns
        -------
        Tensor, (B, T, 1 + d, *spatial)
            Differentiable in u0 and the parameters.

        Raises
        ------
        ValueError
            As the other solvers, or if the step is beyond the limit of the diffusion substeps that were asked for.
        SolverError
            When a sample is not finite; the message names it.
        """
        grid, times = check_evolution(type(self).__name__, self.domain, self.fields, u0, times, t0, dt)
        with full_precision(u0):
            flow = _Flow(self, grid, u0)
            state, out = flow.encode(u0), []
            for time in times:
                state = flow.march(state, t0, time, dt) if time > t0 else state
                out.append(u0 if time == t0 else flow.decode(state))
                t0 = time
        return require_finite(type(self).__name__, torch.stack(out, dim=1), times, "lower dt, or look at the buoyancy and the inflow")

    def mass(self, state: Tensor) -> Tensor:
        """Return ∫ d of states (..., 1 + d, *spatial), shape (...)."""
        smoke, _ = self._parts(state)
        return smoke.flatten(-self.domain.ndim).mean(dim=-1) * self.domain.measure

    def energy(self, state: Tensor) -> Tensor:
        """Return the kinetic energy per volume ½⟨u²⟩ of states (..., 1 + d, *spatial), shape (...), from the samples of each component."""
        _, u = self._parts(state)
        return u.square().sum(dim=-self.domain.ndim - 1).flatten(-self.domain.ndim).mean(dim=-1) / 2

    def divergence(self, state: Tensor) -> Tensor:
        """Return ∇·u at centers of states (B, 1 + d, *spatial) with velocities on faces, (B, 1, *spatial)."""
        _, u = self._parts(state)
        return Staggered(self.domain.grid_of(state), self.walls).divergence(u)[:, None]

    def at_centers(self, state: Tensor) -> Tensor:
        """Return states (B, 1 + d, *spatial) with the velocities at faces moved to centers."""
        self._parts(state)
        return _to_centers(Staggered(self.domain.grid_of(state), self.walls), state)

    def _parts(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return smoke (..., *spatial) and velocity (..., d, *spatial), or refuse another shape."""
        ndim = self.domain.ndim
        if state.ndim <= ndim or state.shape[-ndim - 1] != len(self.fields):
            raise ValueError(
                f"{type(self).__name__} got a state of shape {tuple(state.shape)}; "
                f"expected (..., {len(self.fields)}, {', '.join(self.domain.names)}) with channels {', '.join(self.fields)}"
            )
        return state.select(-ndim - 1, 0), state.narrow(-ndim - 1, 1, ndim)


class SmokeBuoyancy2D(_SmokeBuoyancy):
    """Buoyant smoke in a rectangle: `SmokeBuoyancy3D` with y upwards."""

    fields = ("smoke", "velocity_x", "velocity_y")


class SmokeBuoyancy3D(_SmokeBuoyancy):
    """Buoyant smoke in a box; module docstring for the equation, symbols and choices.

    Parameters
    ----------
    domain : Domain
        Axes with walls are sampled at "cell" points (`Domain.box`), others are periodic; the last one points upwards.
    viscosity : float or Tensor (B,)
        ν >= 0. Smoke does not diffuse.
    buoyancy : float or Tensor (B,)
        b; negative for heavy smoke.
    inflow : callable, number or array, optional
        s(x, y, z) or s(x, y, z, t), or samples that broadcast to (B, 1, *spatial).
    walls : {"no_slip", "free_slip"}, or one entry per axis
        What the velocity along a wall does: a kind for all, or per axis a kind or a (low, high) pair, "periodic" on periodic axes.
    advection : {"maccormack", "semi_lagrangian"}
    trace : {"midpoint", "euler"}
    splitting : {"reflection", "projection"}
        How the pressure is split off.
    conservative : bool
        Keep ∫ d but for the inflow; False leaves the drift of the transport, as published data have it.
    velocity_at : {"faces", "centers"}
        Where the velocities of `u0` and of the answer sit.
    diffusion_substeps : int, optional
        Explicit steps of diffusion within one step (half a step of a reflection), which are stable for ν dt/n Σ 1/h² <= 1/2. By
        default as many as that needs.
    courant : float
        Cells that the default step moves at most.

    Notes
    -----
    Fails where a filament of smoke is thinner than two cells: it is smeared. Keep the step below about five cells. No obstacles;
    nothing flows through walls.

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> solver = SmokeBuoyancy3D(Domain.box(8.0, 8.0, 8.0))
    >>> u0 = torch.zeros(1, 4, 8, 8, 8, dtype=torch.float64)
    >>> u0[:, 0, 2:5, 3:6, :3] = 1.0
    >>> u = solver.solve(u0, [1.5])[:, 0]
    >>> bool(solver.divergence(u).abs().max() < 1e-12)
    True
    """

    fields = ("smoke", "velocity_x", "velocity_y", "velocity_z")


def _check_domain(name: str, domain: Domain, ndim: int) -> None:
    if not isinstance(domain, Domain):
        raise ValueError(f"{name} got domain={domain!r}; give a Domain, for example Domain.box({', '.join(['1.0'] * ndim)})")
    if domain.ndim != ndim:
        raise ValueError(f"{name} got a {domain.ndim}-D domain; it solves {ndim}-D problems")
    for axis in domain.axes:
        if not axis.periodic and axis.points != "cell":
            raise ValueError(f'{name} got points="{axis.points}" on axis {axis.name}, but its walls are faces of cells; use points="cell"')


class _Flow:
    """The equations bound to a grid and a batch; the state is (B, 1 + d, *spatial) with velocities on faces."""

    def __init__(self, solver: _SmokeBuoyancy, grid: Grid, u0: Tensor):
        self.solver, self.ops, self.name = solver, Staggered(grid, solver.walls), type(solver).__name__
        batch = len(u0)

        def shaped(value, name: str):
            value = per_sample(value, name, batch, grid, u0.device)
            return value.to(u0.dtype) if isinstance(value, Tensor) else value

        self.viscosity = shaped(solver.viscosity, "viscosity")
        self.buoyancy = shaped(solver.buoyancy, "buoyancy")
        self.inflow = sample_forcing(solver.inflow, self.name, grid, device=u0.device, dtype=u0.dtype, batch=batch)
        self.nothing = torch.zeros(1, dtype=u0.dtype, device=u0.device)
        self.stiffness = sum(2 / h**2 for h in grid.spacing)  # ν stiffness dt <= 1 is stable
        self._step = self._reflected if solver.reflected else self._split
        self.recomputed = torch.is_grad_enabled() and u0.requires_grad

    def encode(self, u0: Tensor) -> Tensor:
        """Return the state of fields as the user gives them."""
        parts = list(u0[:, 1:].unbind(dim=1))
        if self.solver.centered:
            parts = [self.ops.moved(part, None, axis) for axis, part in enumerate(parts)]
        u = torch.stack([self.ops.inside(part, axis) for axis, part in enumerate(parts)], dim=1)
        return torch.cat([u0[:, :1], self.ops.projected(u) if self.solver.centered else u], dim=1)

    def decode(self, state: Tensor) -> Tensor:
        """Return the fields of a state as the user wants them."""
        return _to_centers(self.ops, state) if self.solver.centered else state

    def march(self, state: Tensor, start: float, end: float, dt: float | None) -> Tensor:
        """Return the state at time `end`."""
        while True:
            longest = dt or self._longest(state, start, end)
            left = max(1, math.ceil((end - start) / longest - 1e-9))
            h, taken = (end - start) / left, left if dt else min(left, _CHECKED)
            for i in range(taken):
                state = self._advance(state, start + i * h, h)
            if taken == left:
                return state
            start = end - (left - taken) * h

    def _longest(self, state: Tensor, t: float, end: float) -> float:
        """Return the step in which flow, or smoke that begins to rise, moves `courant` cells."""
        with torch.no_grad():
            h = self.ops.grid.spacing
            speed = sum(part.abs().amax() / size for part, size in zip(state[:, 1:].unbind(dim=1), h, strict=True))
            rate = speed + (self.buoyancy * state[:, :1]).abs().amax().div(h[-1]).sqrt()
            rate = rate + (self.buoyancy * self._source(t)).abs().amax().div(h[-1]) ** (1 / 3)
            rate = float(rate)
        return self.solver.courant / rate if 0 < rate < math.inf else end - t

    def _advance(self, state: Tensor, t: float, h: float) -> Tensor:
        """Return the state after one step."""
        if self.recomputed:
            return checkpoint(self._step, state, t, h, use_reentrant=False)
        return self._step(state, t, h)

    def _split(self, state: Tensor, t: float, h: float) -> Tensor:
        """Carry smoke and velocity, diffuse, lift, project."""
        smoke, u = state[:, :1], state[:, 1:]
        smoke = self._carried_smoke(smoke, u, h) + h * self._source(t + h / 2)
        u = self.ops.projected(self._diffused(self._carried(u, u, h), h) + h * self._lift(smoke))
        return torch.cat([smoke, u], dim=1)

    def _reflected(self, state: Tensor, t: float, h: float) -> Tensor:
        """Carry with the velocity of the midpoint, and put the pressure of both halves into the middle (module docstring)."""
        project, half = self.ops.projected, h / 2
        smoke, u = state[:, :1], state[:, 1:]
        fresh = half * self._source(t + half)
        middle = project(self._diffused(self._carried(u, u, half), half) + half * self._lift(smoke))
        lift = half * self._lift(self._carried_smoke(smoke, middle, half) + fresh)
        there = self._diffused(self._carried(u, middle, half), half) + lift
        u = 2 * project(there) - there
        u = project(self._carried(self._diffused(u + lift, half), middle, half))
        return torch.cat([self._carried_smoke(smoke + fresh, middle, h) + fresh, u], dim=1)

    def _carried(self, u: Tensor, by: Tensor, h: float) -> Tensor:
        parts = [self.ops.transported(part, axis, by, h, **self.solver._transport) for axis, part in enumerate(u.unbind(dim=1))]
        return torch.stack(parts, dim=1)

    def _carried_smoke(self, smoke: Tensor, by: Tensor, h: float) -> Tensor:
        return self.ops.transported(smoke[:, 0], None, by, h, conserved=self.solver.conservative, **self.solver._transport)[:, None]

    def _source(self, t: float) -> Tensor:
        if self.inflow is None:
            return self.nothing
        return self.inflow if isinstance(self.inflow, Tensor) else self.inflow(t)

    def _lift(self, smoke: Tensor) -> Tensor:
        """Return b d on the faces across the last axis, (B, d, *spatial)."""
        up = self.ops.ndim - 1
        lift = self.buoyancy * self.ops.inside(self.ops.moved(smoke[:, 0], None, up), up)[:, None]
        return torch.cat([torch.zeros_like(lift)] * up + [lift], dim=1)

    def _diffused(self, u: Tensor, h: float) -> Tensor:
        """Return u after explicit diffusion, of second order in each substep."""
        for _ in range(n := self._substeps(h)):
            slope = h / n * self.viscosity * self.ops.laplacian(u)
            u = u + slope + h / n / 2 * self.viscosity * self.ops.laplacian(slope)
        return u

    def _substeps(self, h: float) -> int:
        """Return how many explicit steps of diffusion one step of size h takes."""
        limit = self.solver._largest_viscosity * h * self.stiffness
        needed = math.ceil(limit - 1e-9)
        asked = self.solver.diffusion_substeps
        if asked is not None and needed > asked:
            raise ValueError(
                f"{self.name} got diffusion_substeps={asked}, but viscosity times the step of {h:.3g} is {limit / asked:.3g} of "
                f"what explicit diffusion allows on this grid; give at least {needed}, leave None, or lower dt"
            )
        return needed if asked is None else asked if limit else 0


def _to_centers(ops: Staggered, state: Tensor) -> Tensor:
    parts = [ops.moved(part, axis, None) for axis, part in enumerate(state[:, 1:].unbind(dim=1))]
    return torch.stack([state[:, 0], *parts], dim=1)
