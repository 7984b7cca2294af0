"""Tables of time-stepping schemes for u_t = L u + N(u, t), which check their own order when built.

L is diagonal (the symbol of a linear operator), z = h L, and a coefficient is a linear combination of

    φ_0(z) = e^z,   φ_1(z) = (e^z - 1)/z,   φ_{k+1}(z) = (φ_k(z) - 1/k!)/z,

written as data: a tuple of terms (weight, k, c), which stands for Σ weight φ_k(c z). With stage
values U_i, N_i = N(U_i, t + c_i h) and coefficients a_ij, b_i, w_j one step of size h is

    Runge-Kutta       U_i = φ_0(c_i z) u + h Σ_j a_ij(z) N_j,     u⁺ = φ_0(z) u + h Σ_i b_i(z) N_i
    Adams-Bashforth   u⁺ = φ_0(z) u + h Σ_j w_j(z) N(u^{n-j}, t_{n-j})

Integrating-factor schemes use φ_0 alone and are exact for N = 0; exponential time differencing
uses φ_1, φ_2, ... and is also exact for constant N. A table is accepted only if one step of it,
expanded in powers of h for a generic nonlinear system, agrees with the solution up to its order.

A multistep table evaluates N once a step, a fourth-order Runge-Kutta table four times; the exponential
one keeps its order for stiff L, where those of Runge-Kutta type lose up to one. For KS at an error of
1e-6 ETDAB4 needs 0.4 of the evaluations of ETDRK4B.

References
----------
S. M. Cox, P. C. Matthews, Exponential time differencing for stiff systems, J. Comput. Phys. 176
(2002), 430-455, doi:10.1006/jcph.2002.6995 (ETDRK2-4). S. Krogstad, Generalized integrating factor
methods for stiff PDEs, J. Comput. Phys. 203 (2005), 72-88 (ETDRK4B). S. Balac, F. Mahé, Embedded
Runge-Kutta scheme for step-size control in the interaction picture method, Comput. Phys. Commun.
184 (2013), 1211-1219 (the error estimate). M. Hochbruck, A. Ostermann, Exponential multistep methods
of Adams-type, BIT 51 (2011), 889-908 (ETDAB4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["AB2", "AB3", "AB4", "ETDAB4", "ETDRK2", "ETDRK3", "ETDRK4", "ETDRK4B", "IFRK4", "METHODS", "AdamsBashforth", "RungeKutta"]

Terms = tuple[tuple[float, int, float], ...]


@dataclass(frozen=True)
class RungeKutta:
    """An explicit (exponential) Runge-Kutta table.

    Parameters
    ----------
    name : str
        What users call it.
    order : int
        Order of convergence, checked when built.
    nodes : tuple of float
        c_i, the first one 0.
    stages : tuple of rows of Terms
        Row i holds a_i1 .. a_i(i-1).
    weights : tuple of Terms
        b_i.
    limit : float
        Largest h |λ| on the imaginary axis for which N = λ u with L = 0 stays bounded.

    Raises
    ------
    ValueError
        If lengths disagree, a row does not sum to its node, or an order condition fails.
    """

    name: str
    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[Terms, ...], ...]
    weights: tuple[Terms, ...]
    limit: float

    def __post_init__(self):
        s = len(self.nodes)
        if len(self.weights) != s or [len(row) for row in self.stages] != list(range(s)):
            raise ValueError(f"table {self.name} has {s} nodes, but its rows and weights have other lengths")
        for c, row in zip(self.nodes, self.stages, strict=True):
            total = sum(w / math.factorial(k) for terms in row for w, k, _ in terms)
            if abs(total - c) > 1e-12:
                raise ValueError(f"table {self.name}: the row of node {c:g} sums to {total:g}; a row sums to its node")
        _require_order(self, self._expand)

    def _expand(self, problem: _Series) -> np.ndarray:
        past: list[np.ndarray] = []
        for c, row in zip(self.nodes, self.stages, strict=True):
            past.append(problem.nonlinear(problem.combine(c, row, past)))
        return problem.combine(1.0, self.weights, past)

    @property
    def estimate(self) -> Terms:
        """Coefficient d of the error estimate h d(z) (N_s - N(u⁺, t + h)), of size h⁴ where order is 4."""
        return tuple((0.6 * w, k, c) for w, k, c in self.weights[-1])


@dataclass(frozen=True)
class AdamsBashforth:
    """An explicit exponential multistep table; constant h only.

    Parameters
    ----------
    name, order, limit
        As in `RungeKutta`.
    weights : tuple of Terms
        w_j, the coefficients of N(u^{n-j}), newest first.
    lower : tuple of Terms
        Those of the scheme of one order less; the difference of the two results is the error estimate.
    starter : RungeKutta
        Takes the first steps.

    Raises
    ------
    ValueError
        If an order condition fails.
    """

    name: str
    order: int
    weights: tuple[Terms, ...]
    lower: tuple[Terms, ...]
    limit: float
    starter: RungeKutta

    def __post_init__(self):
        _require_order(self, self._expand)

    def _expand(self, problem: _Series) -> np.ndarray:
        past = [problem.nonlinear(problem.exact(-j)) for j in range(len(self.weights))]
        return problem.combine(1.0, self.weights, past)

    @property
    def estimate(self) -> tuple[Terms, ...]:
        """Coefficients whose sum over the history is the error estimate."""
        lower = (*self.lower, ())
        return tuple(w + _scaled(-1.0, v) for w, v in zip(self.weights, lower, strict=True))


class _Series:
    """Truncated power series in h of one step for y' = Λ y + N(y), a generic system of four unknowns.

    The last unknown is the time (Λ = 0, N = 1), which checks the nodes; the rest are coupled by
    generic quadratic and cubic terms, with different Λ, so that no two order conditions coincide.
    """

    rates = np.array([-0.7, 1.3, 0.4, 0.0])

    def __init__(self, order: int):
        self.n = order + 1
        self.start = np.array([0.8, -0.5, 0.3, 0.2])
        solution = np.zeros((4, self.n))
        solution[:, 0] = self.start
        for k in range(1, self.n):  # Picard: each pass makes one more coefficient exact
            slope = self.rates[:, None] * solution + self.nonlinear(solution)
            solution[:, k] = slope[:, k - 1] / k
        self.solution = solution

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.convolve(a, b)[: self.n]

    def nonlinear(self, y: np.ndarray) -> np.ndarray:
        a, b, c, t = y
        one = np.eye(1, self.n)[0]
        ab, bc, ct = self.product(a, b), self.product(b, c), self.product(c, t)
        return np.stack([bc + 0.3 * self.product(ab, t) - 0.2 * a, self.product(a, a) - ct + 0.5 * c, 0.7 * ab + self.product(t, t), one])

    def exact(self, j: float) -> np.ndarray:
        """Return the solution at the time j h."""
        return self.solution * float(j) ** np.arange(self.n)

    def phi(self, k: int, c: float) -> np.ndarray:
        j = np.arange(self.n)
        factorials = np.array([math.factorial(i + k) for i in j], dtype=float)
        return (c * self.rates[:, None]) ** j / factorials

    def combine(self, c: float, row: tuple[Terms, ...], past: list[np.ndarray]) -> np.ndarray:
        """Return φ_0(c z) u + h Σ_j row_j(z) past_j."""
        y = self.phi(0, c) * self.start[:, None]
        for terms, slope in zip(row, past, strict=True):
            for weight, k, node in terms:
                factor = weight * self.phi(k, node)
                for i in range(4):
                    y[i, 1:] += self.product(factor[i], slope[i])[:-1]
        return y


def _require_order(table: RungeKutta | AdamsBashforth, expand) -> None:
    problem = _Series(table.order)
    defect = np.abs(expand(problem) - problem.solution).max(axis=0)
    for power, size in enumerate(defect):
        if size > 1e-11:
            raise ValueError(f"table {table.name} claims order {table.order}, but its step is wrong at h^{power} by {size:.1e}")


def _integrating_factor(name: str, order: int, nodes, stages, weights, limit: float) -> RungeKutta:
    """Turn a classical table into its integrating-factor form: a_ij φ_0((c_i - c_j) z), b_i φ_0((1 - c_i) z)."""

    def row(end, values):
        return tuple(((a, 0, end - c),) if a else () for a, c in zip(values, nodes, strict=False))

    return RungeKutta(name, order, nodes, tuple(row(c, a) for c, a in zip(nodes, stages, strict=True)), row(1.0, weights), limit)


def _adams(order: int) -> np.ndarray:
    """Return C with Σ_k C_jk s^k the polynomial that is 1 at s = -j and 0 at the other -i, i < order."""
    return np.linalg.inv(np.vander(-np.arange(order), increasing=True)).T


def _integrating_factor_adams(order: int) -> tuple[Terms, ...]:
    """Return w_j φ_0((j + 1) z): Adams-Bashforth for e^{-tL} u."""
    weights = _adams(order) @ (1 / np.arange(1, order + 1))
    return tuple(((float(w), 0, j + 1.0),) for j, w in enumerate(weights))


def _exponential_adams(order: int) -> tuple[Terms, ...]:
    """Return Σ_k C_jk k! φ_{k+1}(z): N along its interpolant, integrated against e^{(1 - s) z}."""
    return tuple(tuple((float(c) * math.factorial(k), k + 1, 1.0) for k, c in enumerate(row) if c) for row in _adams(order))


_HALF: Terms = ((0.5, 1, 0.5),)  # (1/2) φ_1(z/2)
_FIRST: Terms = ((1.0, 1, 1.0), (-3.0, 2, 1.0), (4.0, 3, 1.0))
_LAST: Terms = ((-1.0, 2, 1.0), (4.0, 3, 1.0))


def _scaled(factor: float, terms: Terms) -> Terms:
    return tuple((factor * w, k, c) for w, k, c in terms)


_MIDDLE: Terms = ((2.0, 2, 1.0), (-4.0, 3, 1.0))
_CLASSICAL = (0.0, 0.5, 0.5, 1.0)

IFRK4 = _integrating_factor("IFRK4", 4, _CLASSICAL, ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 2.828)
ETDRK2 = RungeKutta("ETDRK2", 2, (0.0, 1.0), ((), (((1.0, 1, 1.0),),)), (((1.0, 1, 1.0), (-1.0, 2, 1.0)), ((1.0, 2, 1.0),)), 0.1)
ETDRK3 = RungeKutta(
    "ETDRK3",
    3,
    (0.0, 0.5, 1.0),
    ((), (_HALF,), (((-1.0, 1, 1.0),), ((2.0, 1, 1.0),))),
    (_FIRST, _scaled(2.0, _MIDDLE), _LAST),
    1.732,
)
ETDRK4 = RungeKutta(
    "ETDRK4",
    4,
    _CLASSICAL,
    # the last stage starts from a = e^{z/2} u + h Q N(u), which adds e^{z/2} Q - Q to the first coefficient:
    # (1/2) φ_1(z/2) (e^{z/2} - 1) = φ_1(z) - φ_1(z/2)
    ((), (_HALF,), ((), _HALF), (((1.0, 1, 1.0), (-1.0, 1, 0.5)), (), _scaled(2.0, _HALF))),
    (_FIRST, _MIDDLE, _MIDDLE, _LAST),
    2.828,
)
ETDRK4B = RungeKutta(
    "ETDRK4B",
    4,
    _CLASSICAL,
    (
        (),
        (_HALF,),
        (((0.5, 1, 0.5), (-1.0, 2, 0.5)), ((1.0, 2, 0.5),)),
        (((1.0, 1, 1.0), (-2.0, 2, 1.0)), (), ((2.0, 2, 1.0),)),
    ),
    (_FIRST, _MIDDLE, _MIDDLE, _LAST),
    2.828,
)
AB2, AB3, AB4 = (
    AdamsBashforth(f"IFAB{p}", p, _integrating_factor_adams(p), _integrating_factor_adams(p - 1), limit, IFRK4)
    for p, limit in ((2, 0.1), (3, 0.7236), (4, 0.43))
)
ETDAB4 = AdamsBashforth("ETDAB4", 4, _exponential_adams(4), _exponential_adams(3), 0.43, ETDRK4B)

METHODS = {table.name: table for table in (IFRK4, ETDRK2, ETDRK3, ETDRK4, ETDRK4B, AB2, AB3, AB4, ETDAB4)}
