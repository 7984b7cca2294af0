"""Fast Poisson solves: the basis in which a second difference with given walls is diagonal.

On a uniform grid with spacing h the second difference -(u[i-1] - 2 u[i] + u[i+1]) / h² has the
eigenvalues (2 - 2 cos κh) / h² and the eigenfunctions sin κx or cos κx, with κ = π m / L:

| low / high wall       | samples  | unknowns           | transform    | m                 |
| --------------------- | -------- | ------------------ | ------------ | ----------------- |
| Dirichlet / Dirichlet | cell     | all                | "dst2"       | 1 .. n            |
| Neumann / Neumann     | cell     | all                | "dct2"       | 0 .. n-1          |
| Dirichlet / Neumann   | cell     | all                | "dst4"       | 1/2 .. n-1/2      |
| Neumann / Dirichlet   | cell     | all                | "dct4"       | 1/2 .. n-1/2      |
| Dirichlet / Dirichlet | endpoint | all but both ends  | "dst1"       | 1 .. n-2          |
| Neumann / Neumann     | endpoint | all                | "dct1"       | 0 .. n-1          |
| Dirichlet / Neumann   | endpoint | all but the first  | "dst3"       | 1/2 .. n-3/2      |
| Neumann / Dirichlet   | endpoint | all but the last   | "dct3"       | 1/2 .. n-3/2      |
| Dirichlet / Dirichlet | node     | all but the first  | "dst1"       | 1 .. n-1          |
| Neumann / Dirichlet   | node     | all                | "dct3"       | 1/2 .. n-1/2      |
| periodic              | node, cell | all              | FFT          | 2 x integer       |

("node" samples hold the low end of a wall axis and not the high one.) A sample on a Neumann wall
owns half a cell: its quadrature weight is 1/2, and the basis is orthonormal with these weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Domain, Grid, table
from opkernels.solvers.fast_transforms import INVERSE, half_inverse, half_transform, prefers_halves, split, transform

__all__ = ["Eigenbasis", "poisson_solve", "wall_kinds"]

Walls = str | Sequence[str | Sequence[str]]
_ROWS = {  # (points, low, high) -> transform, first wave number m, samples dropped at the low and high end
    ("cell", "dirichlet", "dirichlet"): ("dst2", 1.0, 0, 0),
    ("cell", "neumann", "neumann"): ("dct2", 0.0, 0, 0),
    ("cell", "dirichlet", "neumann"): ("dst4", 0.5, 0, 0),
    ("cell", "neumann", "dirichlet"): ("dct4", 0.5, 0, 0),
    ("endpoint", "dirichlet", "dirichlet"): ("dst1", 1.0, 1, 1),
    ("endpoint", "neumann", "neumann"): ("dct1", 0.0, 0, 0),
    ("endpoint", "dirichlet", "neumann"): ("dst3", 0.5, 1, 0),
    ("endpoint", "neumann", "dirichlet"): ("dct3", 0.5, 0, 1),
    ("node", "dirichlet", "dirichlet"): ("dst1", 1.0, 1, 0),
    ("node", "neumann", "dirichlet"): ("dct3", 0.5, 0, 0),
}


def wall_kinds(domain: Domain, walls: Walls, who: str, *, allowed: Sequence[str] = ("dirichlet", "neumann")) -> tuple[tuple[str, str], ...]:
    """Return (low, high) of each axis, ("periodic", "periodic") on periodic ones.

    Parameters
    ----------
    walls : str, or one entry per axis
        One kind for every wall; or per axis a kind or a pair (low, high), "periodic" on periodic axes.
    who : str
        The solver's name, for the messages.

    Raises
    ------
    ValueError
        If a kind is unknown, the entries do not match the axes, or walls are asked of a periodic axis.
    """
    whole = isinstance(walls, str)
    if not whole and not (_is_list(walls) and all(isinstance(entry, str) or _is_list(entry) for entry in walls)):
        raise ValueError(f"{who} got walls={walls!r}; give one of {', '.join(allowed)}, or one entry per axis")
    entries = [walls] * domain.ndim if whole else list(walls)
    if len(entries) != domain.ndim:
        raise ValueError(f"{who} got walls for {len(entries)} axes on a {domain.ndim}-D domain; give one entry per axis")
    kinds = []
    for axis, entry in zip(domain.axes, entries, strict=True):
        pair = (entry, entry) if isinstance(entry, str) else tuple(entry)
        if axis.periodic:
            if not whole and pair != ("periodic", "periodic"):
                raise ValueError(f'{who} got walls {entry!r} on the periodic axis {axis.name}; write "periodic" there')
            pair = ("periodic", "periodic")
        elif len(pair) != 2 or not all(kind in allowed for kind in pair):
            raise ValueError(
                f"{who} got walls {entry!r} on axis {axis.name}; choose from {', '.join(allowed)}, or a (low, high) pair of them"
            )
        kinds.append(pair)
    return tuple(kinds)


def _is_list(x) -> bool:
    return isinstance(x, Sequence) and not isinstance(x, str)


@dataclass(frozen=True)
class Eigenbasis:
    """Eigenfunctions of the Laplacian on a grid with walls, orthonormal in its quadrature weights.

    Parameters
    ----------
    grid : Grid
        Uniform samples ("node", "cell" or "endpoint") in any number of dimensions.
    walls : tuple of (low, high)
        From `wall_kinds`.

    Raises
    ------
    ValueError
        If no fast transform fits the samples and walls of an axis (module's table).
    """

    grid: Grid
    walls: tuple[tuple[str, str], ...]

    def __post_init__(self):
        for axis, (low, high), n in zip(self.grid.domain.axes, self.walls, self.grid.shape, strict=True):
            if low == "periodic":
                continue
            if (axis.points, low, high) not in _ROWS:
                raise ValueError(
                    f'no fast transform has {low} / {high} walls on axis {axis.name} sampled at "{axis.points}"; '
                    'use points="cell" or "endpoint"'
                )
            dropped = sum(_ROWS[axis.points, low, high][2:])
            if n <= dropped:
                raise ValueError(f"axis {axis.name} has {n} samples, all on its {low} walls; give at least {dropped + 1}")

    @functools.cached_property
    def _rows(self) -> tuple:
        """(transform, first m, dropped low, dropped high) of each axis, None on periodic ones."""
        return tuple(_ROWS.get((axis.points, *pair)) for axis, pair in zip(self.grid.domain.axes, self.walls, strict=True))

    @functools.cached_property
    def unknowns(self) -> tuple[slice, ...]:
        """Slices of the samples that are not on a Dirichlet wall."""
        rows = zip(self._rows, self.grid.shape, strict=True)
        return tuple(slice(None) if row is None else slice(row[2], n - row[3]) for row, n in rows)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of unknowns along each axis."""
        return tuple(len(range(n)[s]) for n, s in zip(self.grid.shape, self.unknowns, strict=True))

    @functools.cached_property
    def _periodic(self) -> tuple[int, ...]:
        """Periodic axes, counted from the end of a tensor."""
        return tuple(a - self.grid.ndim for a, row in enumerate(self._rows) if row is None)

    @functools.cached_property
    def weighted(self) -> bool:
        """Whether some unknowns sit on a Neumann wall and own half a cell."""
        return any(axis.points != "cell" and "neumann" in pair for axis, pair in zip(self.grid.domain.axes, self.walls, strict=True))

    def weights(self, device=None, dtype=None) -> Tensor:
        """Share of a cell that each unknown owns (1, or 1/2 per Neumann wall it sits on), shape `shape`."""
        return functools.reduce(torch.mul, [self.axis_weights(a, device, dtype) for a in range(self.grid.ndim)])

    def axis_weights(self, a: int, device=None, dtype=None) -> Tensor:
        """Factor of `weights` along axis a, broadcastable."""
        return _axis_weights(self, a, device=device, dtype=dtype)

    def wavenumbers(self, device=None, dtype=None) -> tuple[Tensor, ...]:
        """Physical wave numbers κ of the coefficients of `forward`, one broadcastable tensor per axis."""
        return tuple(_axis_wavenumbers(self, a, device=device, dtype=dtype) for a in range(self.grid.ndim))

    def eigenvalues(self, device=None, dtype=None, *, exact: bool = False) -> Tensor:
        """Eigenvalues of the negative Laplacian: of second differences, or κ² where `exact`."""
        return _eigenvalues(self, exact, device=device, dtype=dtype)

    def multiplicity(self, device=None, dtype=None) -> Tensor:
        """How many modes each coefficient stands for (2 for one of a pair of conjugates), broadcastable."""
        return _multiplicity(self, device=device, dtype=dtype)

    def forward(self, x: Tensor, *, orthogonal: bool = False) -> Tensor:
        """Coefficients of x (..., *shape); complex half spectrum where an axis is periodic.

        `orthogonal` leaves out the roots of `weights`, with which sums over coefficients are integrals.
        """
        if self.weighted and not orthogonal:
            x = x * _root_weights(self, device=x.device, dtype=x.dtype)
        for a, row in enumerate(self._rows):
            if row is not None:
                x = transform(x, row[0], a - self.grid.ndim)
        return torch.fft.rfftn(x, dim=self._periodic, norm="ortho") if self._periodic else x

    def inverse(self, c: Tensor, *, orthogonal: bool = False) -> Tensor:
        """Values (..., *shape) of the function with coefficients c."""
        if self._periodic:
            c = torch.fft.irfftn(c, s=[self.shape[a] for a in self._periodic], dim=self._periodic, norm="ortho")
        for a, row in enumerate(self._rows):
            if row is not None:
                c = transform(c, INVERSE[row[0]], a - self.grid.ndim)
        return c / _root_weights(self, device=c.device, dtype=c.dtype) if self.weighted and not orthogonal else c

    def inverse_laplacian(self, f: Tensor) -> Tensor:
        """Return (-Δ)⁻¹ f of second differences for f (B, *shape), some wall Dirichlet, in the scaling of `orthogonal`.

        Where it pays, transforms go by halves and leave their coefficients in another order, as none is looked at.
        """
        halved = tuple(a for a, row in enumerate(self._rows) if row is not None and prefers_halves(row[0], self.shape[a], f.device.type))
        whole = [(a - self.grid.ndim, row[0]) for a, row in enumerate(self._rows) if row is not None and a not in halved]
        for a in halved:
            f = half_transform(f, self._rows[a][0], a - self.grid.ndim)
        for dim, kind in whole:
            f = transform(f, kind, dim)
        c = torch.fft.rfftn(f, dim=self._periodic, norm="ortho") if self._periodic else f
        c = c * _inverse_eigenvalues(self, halved, device=f.device, dtype=f.dtype)
        u = torch.fft.irfftn(c, s=[self.shape[a] for a in self._periodic], dim=self._periodic, norm="ortho") if self._periodic else c
        for dim, kind in whole:
            u = transform(u, INVERSE[kind], dim)
        for a in reversed(halved):
            u = half_inverse(u, self._rows[a][0], self.shape[a], a - self.grid.ndim)
        return u


@table
def _inverse_eigenvalues(basis: Eigenbasis, halved: tuple[int, ...], device) -> Tensor:
    inverse = 1 / basis.eigenvalues(device, torch.float64)[None]
    for a in halved:
        inverse = split(inverse, a - basis.grid.ndim)
    return inverse.contiguous()


@table
def _axis_weights(basis: Eigenbasis, a: int, device) -> Tensor:
    i, n = torch.arange(basis.shape[a], device=device), basis.shape[a]
    low, high = basis.walls[a]
    on_wall = ((i == 0) & (low == "neumann")) | ((i == n - 1) & (high == "neumann"))
    weights = 1 - 0.5 * (on_wall & (basis.grid.domain.axes[a].points != "cell")).to(torch.float64)
    return weights.reshape([-1 if b == a else 1 for b in range(basis.grid.ndim)])


@table
def _root_weights(basis: Eigenbasis, device) -> Tensor:
    return basis.weights(device, torch.float64).sqrt()


@table
def _axis_wavenumbers(basis: Eigenbasis, a: int, device) -> Tensor:
    n, row, length = basis.shape[a], basis._rows[a], basis.grid.domain.extent[a]
    if row is not None:
        k = math.pi / length * (torch.arange(n, dtype=torch.float64, device=device) + row[1])
    elif a - basis.grid.ndim == basis._periodic[-1]:  # the halved axis of rfftn
        k = 2 * math.pi / length * torch.arange(n // 2 + 1, dtype=torch.float64, device=device)
    else:
        i = torch.arange(n, dtype=torch.float64, device=device)
        k = 2 * math.pi / length * torch.where(2 * i >= n, i - n, i)
    return k.reshape([-1 if b == a else 1 for b in range(basis.grid.ndim)])


@table
def _multiplicity(basis: Eigenbasis, device) -> Tensor:
    if not basis._periodic:
        return torch.ones((1,) * basis.grid.ndim, dtype=torch.float64, device=device)
    n = basis.shape[basis._periodic[-1]]
    k = torch.arange(n // 2 + 1, device=device)
    twice = 2 - ((k == 0) | (2 * k == n)).to(torch.float64)
    return twice.reshape([-1 if a - basis.grid.ndim == basis._periodic[-1] else 1 for a in range(basis.grid.ndim)])


@table
def _eigenvalues(basis: Eigenbasis, exact: bool, device) -> Tensor:
    terms = []
    for k, h in zip(basis.wavenumbers(device, torch.float64), basis.grid.spacing, strict=True):
        terms.append(k.square() if exact else (2 / h * torch.sin(k * h / 2)).square())
    return functools.reduce(torch.add, terms)


def poisson_solve(f: Tensor, domain: Domain, walls: Walls = "dirichlet", *, exact: bool = False) -> Tensor:
    """Solve -Δu = f directly, u = 0 or ∂u/∂n = 0 on the walls.

    Parameters
    ----------
    f : Tensor, (..., *spatial)
        Right-hand side at the grid's samples; values on Dirichlet walls are not read.
    domain : Domain
        Box or torus with uniform samples, any extents.
    walls : str, or one entry per axis
        As in `wall_kinds`.
    exact : bool
        Invert the spectral Laplacian instead of second differences (of order h²).

    Returns
    -------
    Tensor, the shape of f
        Zero on Dirichlet walls; without a Dirichlet wall, the mean of f is ignored and u has mean zero.

    Raises
    ------
    ValueError
        If no fast transform fits (see `Eigenbasis`).
    """
    basis = Eigenbasis(domain.grid(*f.shape[f.ndim - domain.ndim :]), wall_kinds(domain, walls, "poisson_solve"))
    inside = (..., *basis.unknowns)
    eigenvalues = basis.eigenvalues(f.device, f.dtype, exact=exact)
    inverse = torch.where(eigenvalues > 0, 1 / eigenvalues, torch.zeros_like(eigenvalues))
    u = torch.zeros_like(f)
    u[inside] = basis.inverse(basis.forward(f[inside]) * inverse)
    return u
