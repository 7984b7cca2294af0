"""The wave equation in two dimensions by finite elements: ρ u_tt + γ u_t = ∇·(ρc² ∇u) + s.

| symbol | meaning                                   | shape          | unit                |
| ------ | ----------------------------------------- | -------------- | ------------------- |
| u      | displacement                              | (B, H, W)      | of u                |
| v      | velocity u_t                              | (B, H, W)      | of u / time         |
| c      | speed                                     | per cell       | length / time       |
| ρ      | density                                   | per cell       | of ρ                |
| γ      | damping                                   | per cell       | of ρ / time         |
| s      | source                                    | (B, H, W)      | ρ · u / time²       |
| M, C   | lumped mass, lumped drag (damping, walls) | diagonal       |                     |
| K      | stiffness (`wave_elements`)               | matrix-free    |                     |

Nodes on a structured grid, linear elements, second order in space and time:

    leapfrog   M (v⁺ - v⁻)/h + C (v⁺ + v⁻)/2 = F - K u,   u⁺ = u + h v⁺     (v at half steps)
    Newmark    M a + C v + K u = F,  u⁺ = u + h v + h²/4 (a + a⁺),  v⁺ = v + h/2 (a + a⁺)

Leapfrog is explicit and stable for h <= 2/ω_max, as large as h/(c√2) on squares ("p1") or h/c
("q1"). Newmark's average acceleration is stable for any h; each step is a solve by conjugate
gradients, preconditioned by a fast Poisson solve. A step h of either takes (u, v) to (u, v).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from opkernels.domains import Domain
from opkernels.solvers.checks import check_evolution, full_precision, require_domain, require_finite
from opkernels.solvers.coefficients import Parameter, evaluate, takes_time
from opkernels.solvers.conjugate_gradients import conjugate_gradients
from opkernels.solvers.fast_poisson import Eigenbasis, Walls, wall_kinds
from opkernels.solvers.stepping import SolverError
from opkernels.solvers.wave_elements import ELEMENTS, Assembly, assemble, cell_parameters, edge_products, largest_frequency

__all__ = ["Wave2D", "leapfrog"]

Load = Callable[[float], Tensor | None]  # time -> lumped load F, (1 or B, H, W)

_STRETCH = 32  # steps between two states kept for gradients
_BLOCK = 65536  # nodes of the samples that are advanced together on a CPU, to stay in its cache
_FRACTION = 0.9  # of the stable step


class Wave2D:
    """Solve ρ u_tt + γ u_t = ∇·(ρc² ∇u) + s on a structured grid of linear elements.

    Parameters
    ----------
    domain : Domain
        Two axes; those with walls are sampled at "endpoint" (nodes lie on the walls). Any extents.
    speed, density : number, (B,) tensor, samples (B, H, W) or function of (x, y)
        c > 0 and ρ > 0: functions are read at the centers of the cells, samples at the nodes.
    damping : likewise
        γ >= 0.
    source : likewise, or function of (x, y, t); or None
        s, read at the nodes.
    walls : {"dirichlet", "neumann", "absorbing"}, or one entry per axis
        u held at its initial value; no traction; or ρc² ∂u/∂n = -ρc u_t, which lets waves out and
        reflects (1 - cos θ)/(1 + cos θ) of those at the angle θ. A kind for all walls, or per axis a
        kind or a pair (low, high), "periodic" on periodic axes.
    element : {"p1", "q1"}
        "p1" couples four neighbors and is the cheaper and, along the axes, the more accurate;
        "q1" couples eight, is more isotropic, and allows larger steps.
    scheme : {"leapfrog", "newmark"}
        Leapfrog needs dt below the stable step. Newmark takes any dt, which it must be given.
    tolerance : float
        Relative error of Newmark's solves in their energy norm.

    Raises
    ------
    ValueError
        If the domain is not two-dimensional or has walls between nodes, an option is unknown; in
        `solve`, if parameters are out of range, or dt is above the stable step.
    SolverError
        If a sample leaves the finite numbers, or a solve of Newmark's does not converge.

    Notes
    -----
    Waves shorter than about ten cells travel too slowly; along the axes the relative error of the
    speed is (κh)²/24 for κ the wave number ("p1"), and for small steps. With dt=None leapfrog takes
    0.9 of its stable step, for the fastest sample of the batch; its error in time is then as large
    as that in space, and of the other sign.

    Runs with gradients keep one state in 32 steps and compute the others again.

    References
    ----------
    T. J. R. Hughes, The Finite Element Method (1987), chapters 7 to 9. B. Engquist, A. Majda, Math.
    Comp. 31 (1977) 629-651, doi:10.1090/S0025-5718-1977-0436612-4 (absorbing walls).

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> solver = Wave2D(Domain.box(1.0, 1.0, points="endpoint"))
    >>> x, y = solver.domain.grid(33, 33).coordinates(dtype=torch.float64)
    >>> u = torch.sin(torch.pi * x) * torch.sin(torch.pi * y)
    >>> u0 = torch.stack([u, torch.zeros_like(u)])[None]  # displacement, velocity
    >>> solver.solve(u0, times=[0.5, 1.0]).shape
    torch.Size([1, 2, 2, 33, 33])
    """

    fields = ("displacement", "velocity")

    def __init__(
        self,
        domain: Domain,
        *,
        speed: Parameter = 1.0,
        density: Parameter = 1.0,
        damping: Parameter = 0.0,
        source: Parameter | None = None,
        walls: Walls = "dirichlet",
        element: str = "p1",
        scheme: str = "leapfrog",
        tolerance: float = 1e-12,
    ):
        require_domain("Wave2D", domain)
        if domain.ndim != 2:
            raise ValueError(f"Wave2D got a {domain.ndim}-D domain; give one with two axes")
        for axis in domain.axes:
            if not axis.periodic and axis.points != "endpoint":
                raise ValueError(
                    f'Wave2D got points="{axis.points}" on axis {axis.name}, but its nodes lie on the walls; use points="endpoint"'
                )
        if element not in ELEMENTS:
            raise ValueError(f"Wave2D got element={element!r}; choose one of {', '.join(ELEMENTS)}")
        if scheme not in ("leapfrog", "newmark"):
            raise ValueError(f"Wave2D got scheme={scheme!r}; choose leapfrog or newmark")
        if not (isinstance(tolerance, float) and 0 < tolerance < 1):
            raise ValueError(f"Wave2D got tolerance={tolerance!r}; give a relative error between 0 and 1, such as 1e-10")
        self.domain = domain
        self.walls = wall_kinds(domain, walls, "Wave2D", allowed=("dirichlet", "neumann", "absorbing"))
        self.speed, self.density, self.damping, self.source = speed, density, damping, source
        self.element, self.scheme, self.tolerance = element, scheme, tolerance

    def solve(self, u0: Tensor, times: Sequence[float] | Tensor, *, t0: float = 0.0, dt: float | None = None) -> Tensor:
        """Return displacement and velocity at each of `times`.

        Parameters
        ----------
        u0 : Tensor, (B, 2, H, W)
            Displacement and velocity at t0; the velocity on Dirichlet walls is taken as zero.
        times : sequence of float, (T,)
            Increasing, none before t0; answered exactly. A time equal to t0 gives u0.
        t0 : float
            Time of u0.
        dt : float or None
            Longest step, used as it is (each way to the next time is split evenly).

        Returns
        -------
        Tensor, (B, T, 2, H, W)
            Differentiable in u0 and in the parameters.
        """
        grid, times = check_evolution("Wave2D", self.domain, self.fields, u0, times, t0, dt)
        with full_precision(u0):
            matrices, c = self._assemble(u0)
            dt = self._step(c, dt, grid.spacing)
            run = _Run(self, u0, matrices)
            state, clock, out = u0, t0, []
            for time in times:
                if time > clock:
                    state = run.advance(state, clock, time, dt)
                    clock = time
                out.append(state)
        return require_finite("Wave2D", torch.stack(out, dim=1), times, "the initial state or the source is not finite there")

    def stable_step(self, u0: Tensor) -> float:
        """Return the longest stable step of leapfrog for a batch of states (B, 2, H, W)."""
        return self._limit(self._assemble(u0)[1], self.domain.grid_of(u0).spacing)

    def energy(self, state: Tensor, *, dt: float | None = None) -> Tensor:
        """Return ½ v·M v + ½ u·K u of states (B, 2, H, W), shape (B,).

        Newmark conserves it (without damping, source and absorbing walls); leapfrog with the step
        dt conserves it less (dt²/8) a·M a, which is returned where `dt` is given.
        """
        matrices, _ = self._assemble(state)
        u, v = state.to(matrices.mass).unbind(1)
        force = matrices.stiffness(u)
        density = v.square() * matrices.mass + u * force
        if dt is not None:
            density = density - dt**2 / 4 * (force * matrices.free).square() / matrices.mass
        return (density.flatten(1).sum(1) / 2).to(state.dtype)

    def _assemble(self, u0: Tensor) -> tuple[Assembly, Tensor]:
        grid = self.domain.grid_of(u0)
        c, rho, gamma = cell_parameters(grid, u0, self.speed, self.density, self.damping)
        undamped = isinstance(self.damping, (int, float)) and self.damping == 0
        return assemble(grid, self.walls, self.element, c, rho, None if undamped else gamma), c

    def _limit(self, c: Tensor, spacing: tuple[float, ...]) -> float:
        fastest = float(self.speed) if isinstance(self.speed, (int, float)) else float(c.detach().max())
        return 2 / largest_frequency(self.element, fastest, *spacing)

    def _step(self, c: Tensor, dt: float | None, spacing: tuple[float, ...]) -> float:
        if self.scheme == "newmark":
            if dt is None:
                raise ValueError("Wave2D with Newmark is stable for any step and cannot choose one; give dt, by the periods to resolve")
            return dt
        limit = self._limit(c, spacing)
        if dt is not None and dt > limit * (1 + 1e-12):
            raise ValueError(
                f'Wave2D got dt={dt:.4g}, above leapfrog\'s stable step {limit:.4g} on this grid; lower it or use scheme="newmark"'
            )
        return _FRACTION * limit if dt is None else dt


class _Run:
    """One solver bound to a grid and a batch."""

    def __init__(self, solver: Wave2D, u0: Tensor, matrices: Assembly):
        self.source, self.batch = solver.source, len(u0)
        self.moving = self.source is not None and takes_time(self.source, 2)
        self.grid = solver.domain.grid_of(u0)
        self.newmark = solver.scheme == "newmark"
        dtype = torch.float64 if self.newmark else u0.dtype
        self.matrices = matrices.mapped(lambda x: x.to(dtype))
        self.steady = None if self.moving else self._force(0.0)
        if self.newmark:
            like = {"absorbing": "neumann"}
            self.basis = Eigenbasis(self.grid, tuple((like.get(low, low), like.get(high, high)) for low, high in solver.walls))
            self.tolerance = solver.tolerance
        parts = (u0, *matrices.weights, matrices.mass, matrices.drag, self._force(0.0))
        self.checkpointed = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in parts)

    def _force(self, t: float) -> Tensor | None:
        """Lumped load F of the source at time t, (1 or B, H, W)."""
        if self.source is None:
            return None
        area = self.matrices.area
        points = self.grid.coordinates(area.device, torch.float64)
        s = evaluate(self.source, points, self.batch, "Wave2D", "source", t if self.moving else None)
        return s.to(area) * area

    def advance(self, state: Tensor, start: float, end: float, dt: float) -> Tensor:
        """Move states from time `start` to `end` in whole steps."""
        n = math.ceil((end - start) / dt - 1e-9)
        h = (end - start) / n
        block = max(1, _BLOCK // state[0, 0].numel()) if state.device.type == "cpu" and not self.checkpointed else len(state)
        out = []
        for i in range(0, len(state), block):
            part = slice(i, i + block)
            uv = state[part]
            for done in range(0, n, _STRETCH):
                job = (uv, part, start + done * h, h, min(_STRETCH, n - done))
                try:
                    uv = checkpoint(self._stretch, *job, use_reentrant=False) if self.checkpointed else self._stretch(*job)
                except SolverError as error:
                    raise error if error.sample is None else error.renumbered(i + error.sample) from None
            out.append(uv)
        return out[0] if len(out) == 1 else torch.cat(out)

    def _stretch(self, state: Tensor, part: slice, t: float, h: float, n: int) -> Tensor:
        """Take n steps of size h from time t with the samples `part` of the batch."""
        matrices = self.matrices.samples(part)
        u, v = state.to(matrices.mass.dtype).unbind(1)
        v = v * matrices.free

        def load(time: float) -> Tensor | None:
            force = self._force(time) if self.moving else self.steady
            return force if force is None or len(force) == 1 else force[part]

        take = self._newmark if self.newmark else leapfrog
        u, v = take(matrices, load, u, v, t, h, n)
        return torch.stack([u, v], dim=1).to(state.dtype)

    def _newmark(self, matrices: Assembly, load: Load, u: Tensor, v: Tensor, t: float, h: float, n: int) -> tuple[Tensor, Tensor]:
        """Take n steps of average acceleration."""
        implicit = matrices.mass if matrices.drag is None else matrices.mass + (h / 2) * matrices.drag
        a = _force_on(matrices, load(t), u, v) / matrices.mass
        for i in range(1, n + 1):
            u, v = u + h * v + (h * h / 4) * a, v + (h / 2) * a
            a = _ImplicitSolve.apply(self, matrices, h, _force_on(matrices, load(t + i * h), u, v), implicit, *matrices.weights)
            u, v = u + (h * h / 4) * a, v + (h / 2) * a
        return u, v

    def solve_implicit(self, matrices: Assembly, h: float, rhs: Tensor, implicit: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """Solve (M + h C/2 + h² K/4) a = rhs on the nodes that move."""
        inside = (slice(None), *self.basis.unknowns)
        scaling = implicit.expand_as(rhs)[inside].rsqrt()
        symbol = (1 + (h * h / 4) * matrices.speed2 * self.basis.eigenvalues(rhs.device, torch.float64)).float()
        frozen = replace(matrices, weights=tuple(weights))

        def apply(p: Tensor) -> Tensor:
            return (implicit * p + (h * h / 4) * frozen.stiffness(p)) * matrices.free

        def precondition(r: Tensor) -> Tensor:
            c = self.basis.forward((scaling * r[inside]).float(), orthogonal=True) / symbol
            z = torch.zeros_like(r)
            z[inside] = scaling * self.basis.inverse(c, orthogonal=True)
            return z

        solution = conjugate_gradients(apply, rhs, precondition, tolerance=self.tolerance, max_iterations=1000)
        late = ~(solution.error <= self.tolerance)
        if late.any():
            i = int(late.nonzero()[0])
            raise SolverError(
                f"Wave2D: a Newmark step of {h:.3g} did not converge in sample {i} (relative error {float(solution.error[i]):.1e} after "
                "1000 iterations); lower dt, or the range of speed and density",
                sample=i,
            )
        return solution.x


class Matrices(Protocol):
    """What leapfrog needs of lumped finite elements."""

    @property
    def mass(self) -> Tensor:
        """Lumped M."""
        ...

    @property
    def drag(self) -> Tensor | None:
        """Lumped C."""
        ...

    @property
    def free(self) -> Tensor:
        """1 on the nodes that move, 0 on Dirichlet walls."""
        ...

    def stiffness(self, u: Tensor) -> Tensor:
        """Return K u."""
        ...


def _force_on(matrices: Assembly, load: Tensor | None, u: Tensor, v: Tensor) -> Tensor:
    """F - K u - C v on the nodes that move."""
    force = -matrices.stiffness(u) if load is None else load - matrices.stiffness(u)
    force = force if matrices.drag is None else force - matrices.drag * v
    return force * matrices.free


def leapfrog(matrices: Matrices, load: Load, u: Tensor, v: Tensor, t: float, h: float, n: int) -> tuple[Tensor, Tensor]:
    """Take n steps: half a kick, then drifts and whole kicks in turn, and half a kick at the end.

    The first half is explicit in the drag and the last implicit, which together make a centered kick.
    """
    mass, drag, free = matrices.mass, matrices.drag, matrices.free
    half = 0 if drag is None else (h / 2) * drag
    push = h * free / (mass + half)
    keep = None if drag is None else (mass - half) / (mass + half)
    last = None if drag is None else mass / (mass + half)

    def kick(v: Tensor, keep: Tensor | None, push: Tensor, time: float) -> Tensor:
        v = torch.addcmul(v if keep is None else keep * v, push, matrices.stiffness(u), value=-1)
        force = load(time)
        return v if force is None else torch.addcmul(v, push, force)

    v = kick(v, None if drag is None else 1 - half / mass, (h / 2) * free / mass, t)
    for i in range(1, n + 1):
        u = torch.add(u, v, alpha=h)
        v = kick(v, keep, push, t + i * h) if i < n else kick(v, last, push / 2, t + i * h)
    return u, v


class _ImplicitSolve(torch.autograd.Function):
    """a = (D + h² K/4)⁻¹ rhs with the diagonal D; gradients take one more solve of the same kind."""

    @staticmethod
    def forward(ctx, run, matrices, h, rhs, implicit, *weights):
        a = run.solve_implicit(matrices, h, rhs, implicit, weights)
        ctx.settings = (run, matrices, h)
        ctx.save_for_backward(a, implicit, *weights)
        return a

    @staticmethod
    def backward(ctx, grad):
        run, matrices, h = ctx.settings
        a, implicit, *weights = ctx.saved_tensors
        adjoint = _ImplicitSolve.apply(run, matrices, h, grad * matrices.free, implicit, *weights)
        by_diagonal = -adjoint * a
        by_diagonal = by_diagonal.sum(0, keepdim=True) if len(implicit) == 1 else by_diagonal
        by_weights = edge_products(a, adjoint, weights, matrices.edges, matrices.wraps, ctx.needs_input_grad[5:])
        by_weights = [None if g is None else -(h * h / 4) * g for g in by_weights]
        return None, None, None, adjoint, by_diagonal, *by_weights
