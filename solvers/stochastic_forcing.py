"""Stochastic forcing of two-dimensional flow on a ring of wave numbers, white in time.

At the times m δ, m = 1, 2, ..., the vorticity of every mode κ with | |κ| - k_f | <= w/2 gets an independent complex normal
increment with

    E|Δω̂_κ|² = 2 |κ|² ε δ / M,     M the number of modes of the ring, both signs counted,

so the energy grows by ε δ on average, whatever the flow: ε is the rate of energy input, and 〈|κ|²〉 ε that of enstrophy, the
mean over the ring. Between two increments the flow is smooth, and the scheme of the solver keeps its order.

| symbol | meaning                                   | units          |
| ------ | ----------------------------------------- | -------------- |
| ε      | `rate` of energy input per mass           | length²/time³  |
| k_f    | `wavenumber`, physical: 2π waves / length | 1/length       |
| w      | `width` of the ring                       | 1/length       |
| δ      | `interval` between two increments         | time           |

An increment is a function of (seed, number of the sample, m, mode) alone: it does not depend on the batch, the resolution, the
time step, or where a run began.

References
----------
G. Boffetta, R. E. Ecke, Two-dimensional turbulence, Annu. Rev. Fluid Mech. 44 (2012), 427-451.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import Grid
from opkernels.solvers.random_fields import mode_normals
from opkernels.solvers.stepping import Problem

__all__ = ["RingForcing", "evolve_kicked"]


class Stirred(Problem, Protocol):
    """A problem that a stochastic forcing can act on."""

    def increment(self, forcing: RingForcing, m: int, state: Tensor) -> Tensor:
        """Return the increment number m, shaped like the state."""
        ...


@dataclass(frozen=True)
class RingForcing:
    """White-in-time forcing of the vorticity on a ring of wave numbers; module docstring for the formula.

    Parameters
    ----------
    rate : float
        ε > 0.
    wavenumber : float
        k_f > 0.
    interval : float
        δ > 0, short against the time in which the forced scale turns over, 1/(ε k_f²)^(1/3).
    width : float
        w > 0.
    seed : int
        Different seeds are independent.
    start : int
        Number of the first sample of the batch: sample i of a batch with start=s is sample s + i of any other.

    Examples
    --------
    >>> import math
    >>> from opkernels import Domain
    >>> from opkernels.solvers import NavierStokes2D, RingForcing
    >>> stirring = RingForcing(rate=0.1, wavenumber=6.0, interval=0.01, seed=1)
    >>> solver = NavierStokes2D(Domain.periodic(2 * math.pi, 2 * math.pi), viscosity=1e-2, drag=0.1, stirring=stirring)
    """

    rate: float
    wavenumber: float
    interval: float
    width: float = 1.0
    seed: int = 0
    start: int = 0

    def __post_init__(self):
        for name in ("rate", "wavenumber", "interval", "width"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise ValueError(f"RingForcing got {name}={value!r}; give a positive number")
        for name in ("seed", "start"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"RingForcing got {name}={value!r}; give a whole number of at least 0")

    def modes(self, grid: Grid) -> np.ndarray:
        """Return one integer wave vector of each pair {n, -n} of the ring, (M/2, 2).

        Raises
        ------
        ValueError
            If the ring holds no mode, or one that the grid does not keep.
        """
        length = np.array(grid.domain.extent)
        top = np.floor((self.wavenumber + self.width / 2) * length / (2 * math.pi)).astype(int)
        n = np.stack(np.meshgrid(np.arange(-top[0], top[0] + 1), np.arange(top[1] + 1), indexing="ij"), axis=-1).reshape(-1, 2)
        n = n[(n[:, 1] > 0) | (n[:, 0] > 0)]
        n = n[np.abs(np.linalg.norm(2 * math.pi * n / length, axis=1) - self.wavenumber) <= self.width / 2]
        if not len(n):
            raise ValueError(f"RingForcing: no wave number of the domain lies in {self.wavenumber:g} ± {self.width / 2:g}; widen the ring")
        if (3 * np.abs(n).max(axis=0) >= np.array(grid.shape)).any():
            raise ValueError(f"RingForcing reaches {np.abs(n).max(axis=0)} waves, too many for a grid {grid.shape}; take 3 points a wave")
        return n

    def kick(self, m: int, grid: Grid, batch: int, *, device, dtype: torch.dtype, columns: int) -> Tensor:
        """Return the increment number m of the vorticity's coefficients, (batch, 1, N_x, columns), complex."""
        n = self.modes(grid)
        k2 = ((2 * math.pi * n / np.array(grid.domain.extent)) ** 2).sum(axis=1)
        a, b = mode_normals(np.column_stack([n, np.full(len(n), m)]), np.arange(self.start, self.start + batch), self.seed)
        value = torch.from_numpy((a + 1j * b) * np.sqrt(k2 * self.rate * self.interval / (2 * len(n)))).to(device, dtype.to_complex())
        rows, cols = (torch.from_numpy(i) for i in (n[:, 0] % grid.shape[0], n[:, 1]))
        out = value.new_zeros(batch, 1, grid.shape[0], columns)
        out[:, 0, rows, cols] = value
        line = cols == 0  # both members of a pair are stored there
        out[:, 0, (-rows[line]) % grid.shape[0], 0] = value[:, line].conj()
        return out

    def between(self, start: float, end: float) -> Iterator[tuple[int, float]]:
        """Yield the increments (m, m δ) with start < m δ <= end, to a millionth of δ."""
        first, last = (math.floor(t / self.interval + 1e-6) for t in (start, end))
        for m in range(first + 1, last + 1):
            yield m, min(m * self.interval, end)


def evolve_kicked(
    problem: Stirred,
    state: Tensor,
    times: Sequence[float],
    *,
    t0: float,
    dt: float | None,
    describe: Callable[[], str],
    march: Callable[..., Iterator[Tensor]],
    forcing: RingForcing,
) -> Iterator[Tensor]:
    """Yield the state at each of `times`, as `march` does, with the increments of `forcing` added on the way."""
    clock = t0
    for time in times:
        for m, knot in forcing.between(clock, time):
            if knot > clock:
                (state,) = march(problem, state, [knot], t0=clock, dt=dt, describe=describe)
            state, clock = state + problem.increment(forcing, m, state), knot
        if time > clock:
            (state,) = march(problem, state, [time], t0=clock, dt=dt, describe=describe)
            clock = time
        yield state
