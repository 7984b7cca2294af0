"""Time stepping of u_t = L u + N(u, t) with a diagonal L: the φ-functions and the loop that runs a table.

A PDE supplies a `Problem`: its linear symbol L, its nonlinear term N and the rate of its fastest
explicit motion. The loop answers exactly at the requested times: the way to each of them is split
evenly into whole steps, which are counted, so that no time is ever accumulated.

With ``dt=None`` the step follows from two demands, checked every ten steps (one look at the data
from the host):

    stability   h rate(u) <= 0.9 limit,   limit being that of the table on the imaginary axis
    accuracy    ||h d(z) (N_s - N(u⁺))|| <= 3e-7 ||u⁺|| for every sample of the batch,

where N_s is the last stage and d = (3/5) b_s: the difference to an embedded third-order result that
costs nothing. It is of size h⁴, as is the error of the fourth-order result it steers. A stretch that
breaks a demand is taken again with a smaller step. All samples of a batch share the step, the
smallest that any of them needs; results for other batches differ within the tolerance. With a given
`dt` nothing is adapted, and a sample's result does not depend on its batch but for round-off.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from opkernels.solvers.tables import IFRK4, AdamsBashforth, RungeKutta, Terms

__all__ = ["Problem", "SolverError", "evolve", "phi"]

_STRETCH = 10  # steps between two looks from the host
_SAFETY = 0.9
_CAUTION = 1000  # a forcing in time begins with so many steps to the first requested time
_TOLERANCE = 3e-7
_SMALLEST = 1e-7  # of the way to the next requested time


class SolverError(ValueError):
    """A solution left the finite numbers; the message names the sample, the time and the likely cause."""


class Problem(Protocol):
    """What a PDE tells the loop. States are (B, C, *modes), real or complex."""

    symbol: Tensor  # L in float64 or complex128, broadcastable to the state
    driven: bool  # whether N depends on t by itself

    def nonlinear(self, state: Tensor, t: float) -> Tensor:
        """Return N(u, t), shaped like the state."""
        ...

    def rate(self, state: Tensor) -> Tensor:
        """Return the rate (1/time) of the fastest explicit motion of each sample, shape (B,)."""
        ...


def phi(k: int, z: Tensor) -> Tensor:
    """Return φ_k(z) for k = 0 .. 3, real or complex z, with a relative error of about 1e-15.

    φ_0 = e^z, φ_1 = (e^z - 1)/z, φ_2 = (e^z - 1 - z)/z², φ_3 = (e^z - 1 - z - z²/2)/z³. The series
    is summed for |z| < 1 and the recurrence used beyond; contour means, the usual alternative, lose
    all digits for complex z near the unit circle. Differentiable.
    """
    if k == 0:
        return torch.exp(z)
    small = z.abs() < 1
    near = torch.where(small, z, torch.zeros_like(z))
    series = torch.full_like(near, 1 / math.factorial(20 + k))
    for j in range(19, -1, -1):
        series = series * near + 1 / math.factorial(j + k)
    far = torch.where(small, torch.ones_like(z), z)
    value = torch.expm1(far) / far
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / far
    return torch.where(small, series, value)


class _Coefficients:
    """The coefficients of a table for one problem, one step h and one dtype of the state."""

    def __init__(self, symbol: Tensor, h: float, state: Tensor):
        self.z, self.h = symbol * h, h
        self.pairs = state.is_complex() and not symbol.is_complex()
        self.dtype = state.dtype if symbol.is_complex() else state.real.dtype
        self.phi = functools.lru_cache(maxsize=None)(lambda k, c: phi(k, c * self.z))
        self.cache: dict[tuple[Terms, bool], Tensor | float] = {}

    def __call__(self, terms: Terms, scaled: bool = True) -> Tensor | float:
        """Return Σ weight φ_k(c z), times h where `scaled`; a plain number where z has no part in it."""
        if (terms, scaled) not in self.cache:
            self.cache[terms, scaled] = self._build(terms, self.h if scaled else 1.0)
        return self.cache[terms, scaled]

    def _build(self, terms: Terms, factor: float) -> Tensor | float:
        if all(k == 0 and c == 0 for _, k, c in terms):
            return factor * sum(w for w, _, _ in terms)
        value = factor * sum(w * self.phi(k, float(c)) for w, k, c in terms)
        value = value.to(self.dtype)
        return value[..., None].expand(*value.shape, 2).contiguous() if self.pairs else value  # one real factor for both parts

    def propagate(self, c: float, state: Tensor) -> Tensor:
        """Return φ_0(c z) u in the view that `accumulate` works on."""
        state = torch.view_as_real(state) if self.pairs else state
        return state if c == 0 else state * self(((1.0, 0, float(c)),), False)

    def accumulate(self, base: Tensor, row: Sequence[Terms], slopes: Sequence[Tensor], *, fresh: bool = False) -> Tensor:
        """Return base + h Σ row_j(z) N_j as a state; `fresh` says that base may be overwritten."""
        for terms, slope in zip(row, slopes, strict=False):
            if not terms:
                continue
            factor = self(terms)
            slope = torch.view_as_real(slope) if self.pairs else slope
            if isinstance(factor, float):
                base = base.add_(slope, alpha=factor) if fresh else torch.add(base, slope, alpha=factor)
            else:
                base = base.addcmul_(slope, factor) if fresh else torch.addcmul(base, slope, factor)
            fresh = True
        return torch.view_as_complex(base) if self.pairs else base


def _runge_kutta(table: RungeKutta, problem: Problem, tables: _Coefficients, u: Tensor, t: float, first: Tensor | None):
    """Take one step; return the new state and the slopes of all stages."""
    slopes = [problem.nonlinear(u, t) if first is None else first]
    bases: dict[float, Tensor] = {}
    for c, row in zip(table.nodes[1:], table.stages[1:], strict=True):
        if c not in bases:
            bases[c] = tables.propagate(c, u)
        slopes.append(problem.nonlinear(tables.accumulate(bases[c], row, slopes), t + c * tables.h))
    end = bases.get(1.0)
    end = tables.propagate(1.0, u) if end is None else end
    return tables.accumulate(end, table.weights, slopes), slopes


def _stretch(
    table, problem: Problem, coefficients: Callable[[], _Coefficients], t: float, n: int, estimate: bool, u: Tensor, *past: Tensor
):
    """Take n steps of size h from time t; return (error, state, *slopes that the next stretch can use).

    No data is looked at by the host, so that the stretch can be recorded, faked or differentiated.
    """
    tables, slopes = coefficients(), list(past)
    h = tables.h
    memory = len(table.weights) - 1 if isinstance(table, AdamsBashforth) else 0
    starter = IFRK4 if memory else table
    stages: list[Tensor] = []
    for i in range(n):
        if memory:
            slopes = [problem.nonlinear(u, t + i * h), *slopes][: memory + 1]
        if memory and len(slopes) > memory:
            u = tables.accumulate(tables.propagate(1.0, u), table.terms, slopes, fresh=True)
        else:
            before = stages
            u, stages = _runge_kutta(starter, problem, tables, u, t + i * h, slopes[0] if slopes else None)
            slopes = slopes if memory else []
    zero = torch.zeros_like(tables.propagate(0.0, u)) if estimate else u
    if estimate and memory and len(slopes) > memory:
        error = tables.accumulate(zero, table.estimate, slopes, fresh=True)
    elif estimate:
        new = problem.nonlinear(u, t + n * h)
        error = tables.accumulate(zero, (starter.estimate,), (stages[-1] - new,), fresh=True)
        if problem.driven and before:  # N_s and N(u⁺) see the same time, so a difference along the way is added
            if 0.5 in starter.nodes:
                error = error + h / 240 * (stages[1] - 3 * stages[0] + 3 * before[1] - before[0])
            else:
                error = error + h / 12 * (new - 2 * stages[0] + before[0])
        slopes = slopes if memory else [new]
    else:
        error = zero
    return error, u, *slopes[: max(memory, 1)]


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.detach().flatten(1), dim=1) if x.ndim > 1 else x.detach().abs()


class _Loop:
    """The state of one integration: where it is, its step and the slopes it remembers."""

    def __init__(self, problem: Problem, state: Tensor, table: RungeKutta | AdamsBashforth, dt: float | None, describe: Callable[[], str]):
        self.problem, self.state, self.table, self.dt, self.describe = problem, state, table, dt, describe
        self.past: tuple[Tensor, ...] = ()
        self.h = 0.0  # step of the slopes remembered
        self.wanted = math.inf  # step that the last error estimate allows
        self.worst = 0  # sample of the largest error
        self.known: dict[float, _Coefficients] = {}
        self.checkpointed = torch.is_grad_enabled() and (state.requires_grad or problem.symbol.requires_grad)
        if dt is None:
            self.rate = self._rate(state)

    def _rate(self, state: Tensor) -> float:
        with torch.no_grad():
            return float(self.problem.rate(state.detach()).max())

    def coefficients(self, h: float) -> _Coefficients:
        if self.problem.symbol.requires_grad:  # a checkpoint must find the tables built, or not built, twice alike
            return _Coefficients(self.problem.symbol, h, self.state)
        if h not in self.known:
            if len(self.known) >= 8:
                self.known.pop(next(iter(self.known)))
            self.known[h] = _Coefficients(self.problem.symbol, h, self.state)
        return self.known[h]

    def advance(self, start: float, end: float) -> Tensor:
        """Move the state from time `start` to time `end`."""
        done, left = start, self._split(end - start)
        h = (end - start) / left
        while left:
            n = min(left, _STRETCH)
            good, result = self._try(done, h, n)
            if good:
                left -= n
                done = end - left * h
                self.h, self.state, self.past = h, result[0], result[1:]
                if self.dt is None and left:
                    longest = self._longest(end - done)
                    if h > longest or 2 * h <= longest:
                        left = math.ceil((end - done) / longest - 1e-9)
                        h = (end - done) / left
            else:
                if self.dt is not None or h < 2 * _SMALLEST * (end - start):
                    raise SolverError(self._explain(result[0], done + n * h, h))
                h = min(h / 2, self._longest(end - done))
                left = math.ceil((end - done) / h - 1e-9)
                h = (end - done) / left
        return self.state

    def _split(self, way: float) -> int:
        """Return the number of steps to the next requested time; the last step is kept where it still fits."""
        longest = self._longest(way)
        if self.h > 0 and self.h <= longest < 2 * self.h and abs(round(way / self.h) * self.h - way) <= 1e-6 * way:
            return max(1, round(way / self.h))
        return math.ceil(way / longest - 1e-9)

    def _longest(self, way: float) -> float:
        """Longest step that the demands allow now."""
        if self.dt is not None:
            return self.dt
        stable = _SAFETY * self.table.limit / self.rate if self.rate > 0 else math.inf
        # A forcing in time may be faster than any stretch shows: begin short and let the estimate lengthen the step.
        unknown = way / _CAUTION if self.problem.driven and math.isinf(self.wanted) else way
        return min(unknown, stable, self.wanted)

    def _try(self, t: float, h: float, n: int) -> tuple[bool, tuple[Tensor, ...]]:
        """Take n steps and judge them; the state of the loop is left as it was but for `rate` and `wanted`."""
        keep = isinstance(self.table, RungeKutta) or abs(h - self.h) <= 1e-6 * h
        run = functools.partial(_stretch, self.table, self.problem, functools.partial(self.coefficients, h), t, n, self.dt is None)
        past = self.past if keep else ()
        if self.checkpointed:
            error, *result = checkpoint(run, self.state, *past, use_reentrant=False)
        else:
            error, *result = run(self.state, *past)
        size = _norm(result[0])
        if self.dt is not None:
            return bool(torch.isfinite(size).all()), tuple(result)
        relative = (_norm(error) / size.clamp_min(torch.finfo(size.dtype).tiny)).nan_to_num(nan=math.inf)
        with torch.no_grad():
            numbers = torch.stack([*relative.max(dim=0), self.problem.rate(result[0].detach()).max()], dim=0)
        relative, worst, rate = numbers.tolist()
        self.worst = int(worst)
        if not (math.isfinite(relative) and math.isfinite(rate)):
            return False, tuple(result)
        power = min(self.table.order, 4)
        self.wanted = h * min(3.0, max(0.2, 0.9 * (_TOLERANCE / max(relative, 1e-30)) ** (1 / power)))
        if relative > 4 * _TOLERANCE or h * rate > self.table.limit:
            self.rate = max(self.rate, rate)
            return False, tuple(result)
        self.rate = rate
        return True, tuple(result)

    def _explain(self, state: Tensor, t: float, h: float) -> str:
        if self.dt is None:
            return (
                f"{self.describe()}: sample {self.worst} changes too fast at t={t:.6g} even for steps of {h:.3g}; "
                "the equation itself seems to blow up for these parameters; look at them and at the initial field"
            )
        sample = int((~torch.isfinite(_norm(state))).nonzero()[0])
        with torch.no_grad():
            rate = max(float(self.problem.rate(self.state.detach())[sample]), 1e-300)
        return (
            f"{self.describe()}: sample {sample} is not finite at t={t:.6g} after steps of {h:.3g}; "
            f"{self.table.name} is stable up to dt of about {self.table.limit / rate:.2g}; lower dt or leave it None"
        )


def evolve(
    problem: Problem,
    state: Tensor,
    times: Sequence[float],
    *,
    t0: float,
    dt: float | None,
    table: RungeKutta | AdamsBashforth,
    describe: Callable[[], str] = lambda: "the solver",
) -> Iterator[Tensor]:
    """Yield the state at each of `times`, which increase and lie after t0.

    Parameters
    ----------
    problem : Problem
        The PDE, bound to a grid and a batch.
    state : Tensor, (B, C, *modes)
        State at t0. Where gradients are asked for, stretches of steps are checkpointed.
    times : sequence of float
        Requested times, answered exactly.
    dt : float or None
        Longest step; each way between requested times is split evenly. None chooses the step.
    table : RungeKutta or AdamsBashforth
        The scheme.

    Raises
    ------
    SolverError
        When a sample leaves the finite numbers.
    """
    loop = _Loop(problem, state, table, dt, describe)
    clock = t0
    for time in times:
        yield loop.advance(clock, time)
        clock = time
