"""Variable-step BDF2 with deferred correction: an implicit stepping of u_t = f(t, u) = L u + N(u, t), of order 3 or 4.

With steps τ_n = t_n - t_{n-1}, r = τ_n/τ_{n-1}, a = τ_n, b = τ_n + τ_{n-1} and the derivative at t_n of the parabola
through three values,

    D v^n = (1 + 2r)/(a (1 + r)) (v^n - v^{n-1}) - r²/(a (1 + r)) (v^{n-1} - v^{n-2}),

three levels march side by side, each corrected by divided differences F[n, n-1, ...] of the slopes of the one before:

    level 2   D v₂^n      = f(t_n, v₂^n)
    level 3   D v₃^n + c₃ = f(t_n, v₃^n),   c₃ = (a b/3) F₂[n, n-1, n-2]
    level 4   D v₄^n + c₄ = f(t_n, v₄^n),   c₄ = a b {F₃[n, n-1, n-2]/3 + (a + b)/12 F₃[n, n-1, n-2, n-3]}

and F_p^n = D v_p^n + c_p needs no further evaluation of f. Differences of the slopes, not of the values, keep the orders
on meshes that jump; level 4 needs level 3. The first two steps are of ETDRK4B, in parts where N is fast.

Each level solves (α - L) v = known + N(v) by Anderson's acceleration of

    v <- (α - L + s)⁻¹ (known + N(v) + s v),     s = the problem's rate, about -∂N/∂u where a reaction is stiff,

which is GMRES where N is linear. A step costs ten to fifteen evaluations of N, against four of ETDRK4: it pays where steps
can grow far beyond 1/s, as between the events of a slow pattern, and where the reaction itself is stiff.

With ``dt=None`` the step follows from the local error of level p - 1, (α - L + s)⁻¹ (c_p - c_{p-1}): at most
3e-7 of the solution's norm. Steps grow and shrink by at most a quarter, since jumps cost accuracy where f is stiff. Level 4 is
returned only while, over the last ten steps, max |v₄ - v₃| <= max |v₃ - v₂|/4, sample by sample; else level 2, which the
corrections cannot spoil (very stiff problems on rough meshes).

References
----------
A. Bourgault, A. Garon, Variable-step deferred correction methods based on backward differentiation formulae for ordinary
differential equations, BIT 62 (2022), 1789-1822. J. Yue, H. Liao, N. Liu, arXiv:2402.06129. D. G. Anderson, Iterative
procedures for nonlinear integral equations, J. ACM 12 (1965), 547-560. The formulas are derived here from the expansion
D u = u' - a b u[n, n, n-1, n-2].
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.solvers.stepping import Problem, SolverError, evolve
from opkernels.solvers.tables import ETDRK4B

__all__ = ["CORRECTED", "evolve_corrected"]

CORRECTED = {"DC3": 3, "DC4": 4}  # what users call them, and their orders

_TOLERANCE = 3e-7  # of the local error, relative to the solution
_DISAGREEMENT = 0.3  # local error that is refused for a given step
_SHRINK, _GROW = 0.8, 1.25
_SMALLEST = 1e-7  # of the way to the next requested time
_CAUTION = 1000  # as in `evolve`: a forcing in time begins with so many steps to the first requested time
_WINDOW = 10  # steps that the rule for level 4 looks at
_DEPTH = 5  # differences that Anderson's acceleration combines
_ITERATIONS = 40


def _differences(values: Sequence[Tensor], times: Sequence[float]) -> list[Tensor]:
    """Return F[n], F[n, n-1], F[n, n-1, n-2], ... of values and times given newest first."""
    top, column = [values[0]], list(values)
    for k in range(1, len(values)):
        column = [(p - q) / (times[i] - times[i + k]) for i, (p, q) in enumerate(zip(column, column[1:], strict=False))]
        top.append(column[0])
    return top


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.detach().flatten(1), dim=1)


def _anderson(g: Callable[[Tensor], Tensor], v: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return the fixed point of g near v, (B, ...) real, and which samples reached it, (B,)."""
    batch, shape = len(v), v.shape
    v = v.flatten(1)
    old: tuple[Tensor, Tensor] | None = None
    d_images: list[Tensor] = []
    d_defects: list[Tensor] = []
    for _ in range(_ITERATIONS):
        image = g(v.reshape(shape)).flatten(1)
        defect = image - v
        good = _norm(defect) <= tolerance * _norm(image)
        if good.all():
            return image.reshape(shape), good
        if old is not None:
            d_images, d_defects = [*d_images, image - old[0]][-_DEPTH:], [*d_defects, defect - old[1]][-_DEPTH:]
        old, v = (image, defect), image
        if d_defects:
            f = torch.stack(d_defects, dim=2)  # (B, M, depth)
            gram = f.mT @ f
            scale = gram.diagonal(dim1=1, dim2=2).amax(dim=1).clamp_min(torch.finfo(f.dtype).tiny)[:, None, None]
            gram = gram / scale + 4 * torch.finfo(f.dtype).eps * torch.eye(len(d_defects), dtype=f.dtype, device=f.device)
            share = torch.linalg.solve_ex(gram, f.mT @ defect[..., None] / scale)[0]
            v = image - (torch.stack(d_images, dim=2) @ share).reshape(batch, -1)
    return image.reshape(shape), good


def _fixed_point(g: Callable[[Tensor], Tensor], v: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return what `_anderson` returns, differentiable in what g depends on: the backward pass solves the adjoint fixed point."""
    with torch.no_grad():
        v, good = _anderson(g, v, tolerance)
    if not torch.is_grad_enabled():
        return v, good
    result = g(v)
    if result.requires_grad:
        point = v.detach().requires_grad_()
        image = g(point)

        def adjoint(grad: Tensor) -> Tensor:
            def pull(y: Tensor) -> Tensor:
                return grad + torch.autograd.grad(image, point, y, retain_graph=True)[0]

            return _anderson(pull, grad, tolerance)[0]

        result.register_hook(adjoint)
    return result, good


@dataclass(frozen=True)
class _History:
    """What a step needs of the past, newest first: three times, two values and three slopes of each level."""

    times: tuple[float, ...]
    values: tuple[tuple[Tensor, ...], ...]
    slopes: tuple[tuple[Tensor, ...], ...]


class _March:
    """The stepping of one problem. States are real: pairs of numbers where the problem's are complex."""

    def __init__(self, problem: Problem, state: Tensor, order: int, tolerance: float):
        self.problem, self.order = problem, order
        self.complex, self.dtype = state.is_complex(), state.real.dtype
        self.symbol = problem.symbol.to(state.dtype if problem.symbol.is_complex() else state.real.dtype)
        self.tolerance = max(tolerance, 50 * torch.finfo(state.real.dtype).eps)

    def real(self, state: Tensor) -> Tensor:
        return torch.view_as_real(state) if self.complex else state

    def state(self, v: Tensor) -> Tensor:
        return torch.view_as_complex(v) if self.complex else v

    def slope(self, v: Tensor, t: float) -> Tensor:
        """Return f(t, v)."""
        u = self.state(v)
        return self.real(self.symbol * u + self.problem.nonlinear(u, t))

    def start(self, points: Sequence[Tensor], times: Sequence[float]) -> _History:
        """Return the history of three states at three times, oldest first."""
        values = [self.real(u) for u in reversed(points)]
        times = tuple(reversed(times))
        slopes = tuple(self.slope(v, t) for v, t in zip(values, times, strict=True))
        return _History(times, (tuple(values[:2]),) * (self.order - 1), (slopes,) * (self.order - 1))

    def step(self, past: _History, t: float) -> tuple[_History, Tensor]:
        """Take one step to the time t; return the new history and the relative local error of the level before the last, (B,)."""
        times = (t, *past.times)
        a, b, r = t - times[1], t - times[2], (t - times[1]) / (times[1] - times[2])
        alpha, beta = (1 + 2 * r) / (a * (1 + r)), r * r / (a * (1 + r))
        with torch.no_grad():
            shift = self.problem.rate(self.state(past.values[0][0]).detach())
            shift = shift.reshape(-1, *[1] * (self.state(past.values[0][0]).ndim - 1)).to(self.dtype)
        inverse = 1 / (alpha + shift - self.symbol)
        correction, lower, used = torch.zeros_like(past.values[0][0]), None, []
        values, slopes, solved = [], [], []
        for (v1, v2), (f1, f2, f3) in zip(past.values, past.slopes, strict=True):
            memory = alpha * v1 + beta * (v1 - v2)
            known = memory - correction
            # the difference to the level before changes little in a step; the first level goes on as it did
            guess = v1 + r * (v1 - v2) if lower is None else lower[0] + v1 - lower[1]

            def image(v: Tensor, known: Tensor = known) -> Tensor:
                u = self.state(v)
                return self.real(inverse * (self.state(known) + shift * u + self.problem.nonlinear(u, t)))

            v, good = _fixed_point(image, guess.detach(), self.tolerance)
            slope = alpha * v - memory + correction
            used.append(correction)
            _, _, second, third = _differences((slope, f1, f2, f3), times)
            correction = a * b * (second / 3 if lower is None else second / 3 + (a + b) / 12 * third)
            lower = (v, v1)
            values.append((v, v1))
            slopes.append((slope, f1, f2))
            solved.append(good)
        low, high = [*used, correction][:2] if self.order == 2 else used[-2:]
        size = _norm(v)
        error = _norm(self.real(inverse * self.state(high - low))) / size.clamp_min(torch.finfo(size.dtype).tiny)
        error = torch.where(torch.stack(solved).all(dim=0), error, math.inf).nan_to_num(nan=math.inf)
        return _History(times[:3], tuple(values), tuple(slopes)), error


class _Choice:
    """The rule that says for each sample whether level 4 is better than level 2."""

    def __init__(self):
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=_WINDOW)

    def __call__(self, history: _History) -> Tensor:
        """Look at a new step and return the values to hand out."""
        levels = [v for v, _ in history.values]
        if len(levels) < 3:
            return levels[-1]
        self.recent.append((_norm(levels[2] - levels[1]), _norm(levels[1] - levels[0])))
        high, low = (torch.stack(norms).amax(dim=0) for norms in zip(*self.recent, strict=True))
        keep = (high <= low / 4).reshape(-1, *[1] * (levels[0].ndim - 1))
        return torch.where(keep, levels[2], levels[0])


def evolve_corrected(
    problem: Problem,
    state: Tensor,
    times: Sequence[float],
    *,
    t0: float,
    dt: float | None,
    order: int,
    describe: Callable[[], str] = lambda: "the solver",
) -> Iterator[Tensor]:
    """Yield the state at each of `times`, which increase and lie after t0; the arguments of `stepping.evolve`.

    Parameters
    ----------
    problem : Problem
        The PDE, bound to a grid and a batch.
    state : Tensor, (B, C, *modes)
        State at t0.
    times : sequence of float
        Requested times, answered exactly; with an infinite `dt` they are the mesh.
    dt : float or None
        Longest step; each way between requested times is split evenly. None chooses the step.
    order : {2, 3, 4}
        2 is BDF2 alone.

    Raises
    ------
    SolverError
        When the equations of a step have no solution near by, or a state leaves the finite numbers.
    """
    march = _March(problem, state, order, 1e-3 * _TOLERANCE if dt is None else 0.0)
    with torch.no_grad():
        rate = float(problem.rate(state.detach()).max())
    wanted = dt
    if wanted is None:
        wanted = min(0.05 / rate if rate > 0 else math.inf, (times[0] - t0) / (_CAUTION if problem.driven else 20))
    points, clock, choose = [(t0, state)], t0, _Choice()
    history: _History | None = None
    for time in times:
        smallest = _SMALLEST * (time - clock)
        while clock < time:
            left = max(1, math.ceil((time - clock) / wanted - 1e-9))
            t = time if left == 1 else clock + (time - clock) / left
            if history is None:
                points.append((t, _small_steps(problem, points[-1], t, rate, describe)))
                clock, result = t, points[-1][1]
                if len(points) == 3:
                    history = march.start([u for _, u in points], [s for s, _ in points])
                continue
            new, error = march.step(history, t)
            if dt is None:
                wanted, accepted = _judge(float(error.max()), t - clock, order)
                if wanted < smallest:
                    raise _failure(describe(), error, t, t - clock, "the equation itself seems to blow up for these parameters")
                if not accepted:
                    continue
            elif not (error < _DISAGREEMENT).all():  # beyond it the equations of a step have other, meaningless solutions
                raise _failure(describe(), error, t, t - clock, "lower dt or leave it None")
            history, clock = new, t
            result = march.state(choose(history))
        yield result


def _small_steps(problem: Problem, point: tuple[float, Tensor], t: float, rate: float, describe) -> Tensor:
    """Go from a (time, state) to the time t by ETDRK4B, in parts no longer than the explicit motion allows."""
    start, state = point
    parts = max(1, math.ceil((t - start) * rate))
    (state,) = evolve(problem, state, [t], t0=start, dt=(t - start) / parts, table=ETDRK4B, describe=describe)
    return state


def _judge(error: float, tau: float, order: int) -> tuple[float, bool]:
    """Return the next step wanted and whether this one is accepted."""
    ratio = 0.9 * (_TOLERANCE / max(error, 1e-30)) ** (1 / order)
    if error > 2 * _TOLERANCE:
        return tau * max(0.5, ratio), False
    return tau * min(_GROW, max(_SHRINK, ratio)), True


def _failure(name: str, error: Tensor, t: float, tau: float, advice: str) -> SolverError:
    sample = int(error.argmax())
    return SolverError(f"{name}: sample {sample} finds no solution of its implicit step of {tau:.3g} to t={t:.6g}; {advice}", sample=sample)
