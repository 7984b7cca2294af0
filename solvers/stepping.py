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
`dt` nothing is adapted but blow-ups are looked for every fifty steps, and a sample's result does not depend on its batch but for
round-off.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from opkernels.solvers.tables import AdamsBashforth, RungeKutta, Terms

__all__ = ["Problem", "SolverError", "evolve", "phi"]

_STRETCH = 10  # steps between two looks from the host, and in a checkpoint
_BLIND = 50  # steps between two looks where the only question is whether the numbers are finite
_FEW = 2048  # complex numbers that are multiplied in less time than a call takes
_SAFETY = 0.9
_CAUTION = 1000  # a forcing in time begins with so many steps to the first requested time
_TOLERANCE = 3e-7
_SMALLEST = 1e-7  # of the way to the next requested time


class SolverError(ValueError):
    """A solution left the finite numbers or was not found; the message names the sample, the time and the likely cause.

    Parameters
    ----------
    message : str
        One sentence, with "sample {number}" in it where `sample` is given.
    sample : int, optional
        Number of the sample in the batch.
    """

    def __init__(self, message: str, *, sample: int | None = None):
        super().__init__(message)
        self.sample = sample

    def renumbered(self, sample: int) -> SolverError:
        """Return the same error about another number, that of the sample in a whole of which the batch was a part."""
        return SolverError(str(self).replace(f"sample {self.sample}", f"sample {sample}", 1), sample=sample)


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
    """Return φ_k(z), k >= 0, for real or complex z, to a relative error of about 1e-15 (1e-14 for k = 4).

    φ_0 = e^z, φ_1 = (e^z - 1)/z, φ_2 = (e^z - 1 - z)/z², φ_3 = (e^z - 1 - z - z²/2)/z³ and so on. The
    series is summed for |z| < 1 and the recurrence used beyond; contour means, the usual alternative,
    lose all digits for complex z near the unit circle. Differentiable.
    """
    return _phis(k, z)[k]


def _phis(last: int, z: Tensor) -> list[Tensor]:
    """Return φ_0(z) .. φ_last(z): upwards by φ_{k+1} = (φ_k - 1/k!)/z for |z| >= 1, downwards from the series of φ_last for |z| < 1."""
    if last == 0:
        return [torch.exp(z)]
    small = z.abs() < 1
    near = torch.where(small, z, torch.zeros_like(z))
    far = torch.where(small, torch.ones_like(z), z)
    low = torch.full_like(near, 1 / math.factorial(20))
    for j in range(19, last - 1, -1):
        low = low * near + 1 / math.factorial(j)
    lows = [low]
    for k in range(last - 1, 0, -1):
        lows.append(lows[-1] * near + 1 / math.factorial(k))
    high = torch.expm1(far) / far
    values = [torch.exp(z), torch.where(small, lows[-1], high)]
    for k in range(1, last):
        high = (high - 1 / math.factorial(k)) / far
        values.append(torch.where(small, lows[last - 1 - k], high))
    return values


@functools.lru_cache(maxsize=64)
def _plan(table: RungeKutta | AdamsBashforth) -> tuple[list[Terms], list[float], np.ndarray]:
    """Return the different coefficients of a table, the c in them, and the weights of the φ_k(c z): (coefficients, c, k)."""
    one_step = table.starter if isinstance(table, AdamsBashforth) else table
    rows = [*one_step.stages, one_step.weights, (one_step.estimate,)]
    if isinstance(table, AdamsBashforth):
        rows += [table.weights, table.estimate]
    entries = list(dict.fromkeys(terms for row in rows for terms in row if any(c for _, _, c in terms)))
    nodes = sorted({*one_step.nodes[1:], 1.0} | {c for terms in entries for _, _, c in terms})
    weights = np.zeros((len(entries), len(nodes), 1 + max(k for terms in entries for _, k, _ in terms)))
    for i, terms in enumerate(entries):
        for weight, k, c in terms:
            weights[i, nodes.index(c), k] += weight
    return entries, nodes, weights


class _Coefficients:
    """The coefficients of a table for one problem, one step h and one dtype of the state: one product with all φ-functions.

    Where the symbol is real they multiply both parts of a complex state. A large one is worked on as pairs of real numbers,
    which is less work; `view` and `unview` change between the two.
    """

    def __init__(self, table: RungeKutta | AdamsBashforth, symbol: Tensor, h: float, state: Tensor):
        self.h = h
        self.pairs = state.is_complex() and not symbol.is_complex() and state.numel() > _FEW
        self.dtype = state.real.dtype if self.pairs else state.dtype
        entries, nodes, weights = _plan(table)
        phis = torch.stack(_phis(weights.shape[-1] - 1, torch.stack([c * h * symbol for c in nodes])), dim=1)
        values = torch.tensordot(torch.tensor(h * weights, dtype=phis.dtype, device=phis.device), phis, 2)
        self.values = dict(zip(entries, self._cast(values), strict=True))
        self.decays = dict(zip(nodes, self._cast(phis[:, 0]), strict=True))

    def _cast(self, value: Tensor) -> Tensor:
        value = value.to(self.dtype)
        return value[..., None].expand(*value.shape, 2).contiguous() if self.pairs else value  # one real factor for both parts

    def row(self, row: tuple[Terms, ...]) -> list[Tensor | float | None]:
        """Return h Σ weight φ_k(c z) for each entry of a row; a plain number where z has no part in it, None for zero."""
        return [self.values.get(terms, self.h * sum(weight for weight, _, _ in terms) if terms else None) for terms in row]

    def decay(self, c: float) -> Tensor | float:
        """Return φ_0(c z), which propagates a view; 1 for c = 0."""
        return self.decays[c] if c else 1.0

    def view(self, state: Tensor) -> Tensor:
        """Return a state as the coefficients multiply it."""
        return torch.view_as_real(state) if self.pairs else state

    def unview(self, state: Tensor) -> Tensor:
        """Return the state behind a view."""
        return torch.view_as_complex(state) if self.pairs else state


def _accumulate(base: Tensor, row: Sequence[Tensor | float | None], slopes: Sequence[Tensor], *, fresh: bool = False) -> Tensor:
    """Return base + Σ row_j N_j of views; `fresh` says that base may be overwritten."""
    for factor, slope in zip(row, slopes, strict=False):
        if factor is None:
            continue
        if isinstance(factor, (int, float)):
            base = base.add_(slope, alpha=factor) if fresh else torch.add(base, slope, alpha=factor)
        else:
            base = base.addcmul_(slope, factor) if fresh else torch.addcmul(base, slope, factor)
        fresh = True
    return base


class _RungeKuttaStep:
    """One step of a Runge-Kutta table, its coefficients looked up once. States and slopes are views."""

    def __init__(self, table: RungeKutta, slope: Callable[[Tensor, float], Tensor], tables: _Coefficients):
        self.slope, self.h = slope, tables.h
        self.decays = {c: tables.decay(c) for c in (*table.nodes[1:], 1.0)}
        self.stages = [(c, tables.row(row)) for c, row in zip(table.nodes[1:], table.stages[1:], strict=True)]
        self.weights = tables.row(table.weights)

    def __call__(self, u: Tensor, t: float, first: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Return the new state and the slopes of all stages; `first` is that at (u, t) where it is known."""
        slopes = [self.slope(u, t) if first is None else first]
        bases: dict[float, Tensor] = {}
        for c, row in self.stages:
            if c not in bases:
                bases[c] = u * self.decays[c]
            slopes.append(self.slope(_accumulate(bases[c], row, slopes), t + c * self.h))
        end = bases[1.0] if 1.0 in bases else u * self.decays[1.0]
        return _accumulate(end, self.weights, slopes), slopes


def _stretch(
    table, problem: Problem, coefficients: Callable[[], _Coefficients], t: float, n: int, estimate: bool, state: Tensor, *past: Tensor
):
    """Take n steps of size h from time t; return (error, state, *slopes that the next stretch can use).

    No data is looked at by the host, so that the stretch can be recorded, faked or differentiated.
    """
    tables = coefficients()
    h = tables.h

    def slope(u: Tensor, t: float) -> Tensor:
        return tables.view(problem.nonlinear(tables.unview(u), t))

    u, slopes = tables.view(state), list(past)
    multistep = isinstance(table, AdamsBashforth)
    memory, starter = (len(table.weights) - 1, table.starter) if multistep else (0, table)
    one_step = _RungeKuttaStep(starter, slope, tables)
    weights, decay = (tables.row(table.weights), tables.decay(1.0)) if memory else ([], 1.0)
    stages: list[Tensor] = []
    for i in range(n):
        if memory:
            slopes = [slope(u, t + i * h), *slopes][: memory + 1]
        if memory and len(slopes) > memory:
            u = _accumulate(u * decay, weights, slopes, fresh=True)
        else:
            before = stages
            u, stages = one_step(u, t + i * h, slopes[0] if slopes else None)
            slopes = slopes if memory else []
    zero = torch.zeros_like(u) if estimate else u
    if estimate and memory and len(slopes) > memory:
        error = _accumulate(zero, tables.row(table.estimate), slopes, fresh=True)
    elif estimate:
        new = slope(u, t + n * h)
        error = _accumulate(zero, tables.row((starter.estimate,)), (stages[-1] - new,), fresh=True)
        if problem.driven and before:  # N_s and N(u⁺) see the same time, so a difference along the way is added
            if 0.5 in starter.nodes:
                error = error + h / 240 * (stages[1] - 3 * stages[0] + 3 * before[1] - before[0])
            else:
                error = error + h / 12 * (new - 2 * stages[0] + before[0])
        slopes = slopes if memory else [new]
    else:
        error = zero
    return error, tables.unview(u), *slopes[: max(memory, 1)]


def _norm(x: Tensor) -> Tensor:
    """Return the norm of each sample, (B,)."""
    x = torch.view_as_real(x.detach()) if x.is_complex() else x.detach()  # several times cheaper than of complex numbers
    return torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)


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
        self.stretch = _STRETCH if dt is None or self.checkpointed else _BLIND
        if dt is None:
            self.rate = self._rate(state)

    def _rate(self, state: Tensor) -> float:
        with torch.no_grad():
            return float(self.problem.rate(state.detach()).max())

    def coefficients(self, h: float) -> _Coefficients:
        if self.problem.symbol.requires_grad:  # a checkpoint must find the tables built, or not built, twice alike
            return _Coefficients(self.table, self.problem.symbol, h, self.state)
        if h not in self.known:
            if len(self.known) >= 8:
                self.known.pop(next(iter(self.known)))
            self.known[h] = _Coefficients(self.table, self.problem.symbol, h, self.state)
        return self.known[h]

    def advance(self, start: float, end: float) -> Tensor:
        """Move the state from time `start` to time `end`."""
        done, left = start, self._split(end - start)
        h = (end - start) / left
        while left:
            n = min(left, self.stretch)
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
                    raise self._error(result[0], done + n * h, h)
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
            return math.isfinite(size.sum().item()), tuple(result)
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

    def _error(self, state: Tensor, t: float, h: float) -> SolverError:
        with torch.no_grad():
            forced = self.problem.driven and not torch.isfinite(_norm(self.problem.nonlinear(self.state.detach(), t))).all()
        if forced:
            return SolverError(
                f"{self.describe()}: the forcing is not finite at t={t:.6g}, met by sample {self.worst}; look at its formula",
                sample=self.worst,
            )
        if self.dt is None:
            return SolverError(
                f"{self.describe()}: sample {self.worst} changes too fast at t={t:.6g} even for steps of {h:.3g}; "
                "the equation itself seems to blow up for these parameters; look at them and at the initial field",
                sample=self.worst,
            )
        sample = int((~torch.isfinite(_norm(state))).nonzero()[0])
        with torch.no_grad():
            rate = max(float(self.problem.rate(self.state.detach())[sample]), 1e-300)
        return SolverError(
            f"{self.describe()}: sample {sample} is not finite at t={t:.6g} after steps of {h:.3g}; "
            f"{self.table.name} is stable up to dt of about {self.table.limit / rate:.2g}; lower dt or leave it None",
            sample=sample,
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
