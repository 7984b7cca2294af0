"""Fields on a staggered (marker-and-cell) grid: means, divergence, projection, diffusion, and transport along traced paths.

Scalars sit at the centers of cells, component a of the velocity on the faces across axis a. Every field is stored with the
shape of the grid: entry i of component a is the face below cell i, at (i, j + 1/2, k + 1/2) in units of the spacing; the
face above the last cell is a wall, where the normal velocity is zero, or the first face again on a periodic axis. Entry 0
across a wall is the wall, zero.

One layer of ghost values is added to a field before it is differentiated or interpolated:

| axis                 | center fields    | component across it    | component along it                                  |
| -------------------- | ---------------- | ---------------------- | --------------------------------------------------- |
| periodic             | wrapped          | wrapped                | wrapped                                             |
| with walls           | repeated: no flux| 0 on the upper wall, odd beyond the lower | no slip: odd; free slip: repeated |

so that a wall is where it is drawn: ghost values of zero, as published codes take, put it half a cell outside.

References
----------
F. H. Harlow, J. E. Welch, Phys. Fluids 8 (1965), 2182-2189 (the grid). A. Selle, R. Fedkiw, B. Kim, Y. Liu, J. Rossignac, An
unconditionally stable MacCormack method, J. Sci. Comput. 35 (2008), 350-371, doi:10.1007/s10915-007-9166-4 (its limiter
clips here and does not revert, which keeps second order in the largest error).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Grid, table
from opkernels.solvers.fast_poisson import Eigenbasis

__all__ = ["Staggered"]

Place = int | None  # the axis whose faces carry a field, None for centers


@dataclass(frozen=True)
class Staggered:
    """The operators on one grid. Fields are (B, *shape), velocities (B, d, *shape).

    Parameters
    ----------
    grid : Grid
        Cells: "cell" points between walls; any uniform ones on periodic axes.
    walls : tuple of (low, high)
        "no_slip", "free_slip" or "periodic" of each axis, from `wall_kinds`.
    """

    grid: Grid
    walls: tuple[tuple[str, str], ...]

    @property
    def ndim(self) -> int:
        """Number of axes d."""
        return self.grid.ndim

    def periodic(self, axis: int) -> bool:
        """Whether an axis is periodic."""
        return self.walls[axis][0] == "periodic"

    def padded(self, f: Tensor, place: Place, axis: int) -> Tensor:
        """Return f with one ghost layer at both ends of an axis."""
        dim = axis - self.ndim
        first, last = f.narrow(dim, 0, 1), f.narrow(dim, -1, 1)
        if self.periodic(axis):
            return torch.cat([last, f, first], dim=dim)
        if place == axis:
            return torch.cat([-f.narrow(dim, 1, 1), f, torch.zeros_like(last)], dim=dim)
        low, high = ((-1.0 if place is not None and kind == "no_slip" else 1.0) for kind in self.walls[axis])
        return torch.cat([low * first, f, high * last], dim=dim)

    def padded_all(self, f: Tensor, place: Place) -> Tensor:
        """Return f with one ghost layer all around, (B, *(n + 2))."""
        for axis in range(self.ndim):
            f = self.padded(f, place, axis)
        return f

    def inside(self, f: Tensor, axis: int) -> Tensor:
        """Return a component across an axis with zeros on its wall."""
        if self.periodic(axis):
            return f
        rest = f.narrow(axis - self.ndim, 1, f.shape[axis - self.ndim] - 1)
        return torch.cat([torch.zeros_like(f.narrow(axis - self.ndim, 0, 1)), rest], dim=axis - self.ndim)

    def moved(self, f: Tensor, place: Place, to: Place) -> Tensor:
        """Return a field at other places: the mean of the two, or four, values around each."""
        if place == to:
            return f
        if place is not None:  # from faces up to centers
            dim, n = place - self.ndim, self.grid.shape[place]
            p = self.padded(f, place, place)
            f = (p.narrow(dim, 1, n) + p.narrow(dim, 2, n)) / 2
        if to is not None:  # from centers down to faces
            dim, n = to - self.ndim, self.grid.shape[to]
            p = self.padded(f, place, to)
            f = (p.narrow(dim, 0, n) + p.narrow(dim, 1, n)) / 2
        return f

    def divergence(self, u: Tensor) -> Tensor:
        """Return ∇·u at centers."""
        return functools.reduce(torch.add, [self._upward(part, axis) for axis, part in enumerate(u.unbind(dim=1))])

    def _upward(self, part: Tensor, axis: int) -> Tensor:
        """Return (u[i+1] - u[i]) / h of the component across an axis."""
        dim, h = axis - self.ndim, self.grid.spacing[axis]
        if self.periodic(axis):
            return (part.roll(-1, dim) - part) / h
        part = part / h
        return torch.cat([part.diff(dim=dim), -part.narrow(dim, -1, 1)], dim=dim)  # the upper wall: 0

    def gradient(self, p: Tensor) -> Tensor:
        """Return ∇p on faces, zero on walls."""
        return torch.stack([self._downward(p, axis) for axis in range(self.ndim)], dim=1)

    def _downward(self, p: Tensor, axis: int) -> Tensor:
        """Return (p[i] - p[i-1]) / h, zero on a wall."""
        dim, h = axis - self.ndim, self.grid.spacing[axis]
        if self.periodic(axis):
            return (p - p.roll(1, dim)) / h
        p = p / h
        return torch.cat([torch.zeros_like(p.narrow(dim, 0, 1)), p.diff(dim=dim)], dim=dim)

    def pressure(self, divergence: Tensor) -> Tensor:
        """Return p with Δp = ∇·u, of mean zero, by cosine and Fourier transforms: exact for the operators above."""
        basis = self._basis()
        inverse = _inverse_eigenvalues(basis, device=divergence.device, dtype=divergence.dtype)
        return basis.inverse(basis.forward(divergence) * inverse)

    def projected(self, u: Tensor) -> Tensor:
        """Return the divergence-free part of u."""
        p = self.pressure(self.divergence(u))
        return torch.stack([part - self._downward(p, axis) for axis, part in enumerate(u.unbind(dim=1))], dim=1)

    def _basis(self) -> Eigenbasis:
        walls = tuple(("periodic", "periodic") if self.periodic(axis) else ("neumann", "neumann") for axis in range(self.ndim))
        return Eigenbasis(self.grid, walls)

    def laplacian(self, u: Tensor) -> Tensor:
        """Return Δu on faces by second differences, zero on walls."""
        out = []
        for place, part in enumerate(u.unbind(dim=1)):
            terms = []
            for axis, h in enumerate(self.grid.spacing):
                terms.append(self.padded(part, place, axis).diff(n=2, dim=axis - self.ndim) / h**2)
            out.append(self.inside(functools.reduce(torch.add, terms), place))
        return torch.stack(out, dim=1)

    def positions(self, place: Place, device, dtype: torch.dtype) -> list[Tensor]:
        """Return where the values of a field sit, in units of the spacing, one broadcastable tensor per axis."""
        return [
            (torch.arange(n, device=device, dtype=dtype) + self._offset(place, a)).reshape([-1 if b == a else 1 for b in range(self.ndim)])
            for a, n in enumerate(self.grid.shape)
        ]

    def _offset(self, place: Place, axis: int) -> float:
        return 0.0 if place == axis else 0.5

    def corners(self, f: Tensor, place: Place, at: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the 2^d values around positions (units of the spacing), (2^d, B, *shape), and the fractions along each axis.

        Positions outside the box are moved to its wall.
        """
        padded = self.padded_all(f, place)
        lower, fractions = [], []
        for axis, (x, n) in enumerate(zip(at, self.grid.shape, strict=True)):
            x = torch.remainder(x, n) if self.periodic(axis) else x.clamp(0, n)
            x = x - self._offset(place, axis) + 1
            i = x.detach().floor().clamp(0, n)
            lower.append(i.long())
            fractions.append(x - i)
        sizes = [n + 2 for n in self.grid.shape]
        strides = [math.prod(sizes[a + 1 :]) for a in range(self.ndim)]
        base = functools.reduce(torch.add, [i * stride for i, stride in zip(lower, strides, strict=True)]).flatten(1)
        flat = padded.flatten(1)
        steps = [sum(s for bit, s in zip(bits, strides, strict=True) if bit) for bits in itertools.product((0, 1), repeat=self.ndim)]
        return torch.stack([flat.gather(1, base + step) for step in steps]).unflatten(2, self.grid.shape), fractions

    def interpolated(self, f: Tensor, place: Place, at: Sequence[Tensor]) -> Tensor:
        """Return a field at positions, linear along each axis."""
        return _blend(*self.corners(f, place, at))

    def traced(self, u: Tensor, place: Place, dt: float, *, midpoint: bool) -> list[Tensor]:
        """Return where the values of a field come from: x - dt u, with u at the midpoint of the way or at its end."""
        start = self.positions(place, u.device, u.dtype)
        parts = u.unbind(dim=1)
        speed = [self.moved(part, axis, place) / h for axis, (part, h) in enumerate(zip(parts, self.grid.spacing, strict=True))]
        if not midpoint:
            return [x - dt * v for x, v in zip(start, speed, strict=True)]
        middle = [x - dt / 2 * v for x, v in zip(start, speed, strict=True)]
        speed = [self.interpolated(part, axis, middle) / h for axis, (part, h) in enumerate(zip(parts, self.grid.spacing, strict=True))]
        return [x - dt * v for x, v in zip(start, speed, strict=True)]

    def transported(
        self, f: Tensor, place: Place, u: Tensor, dt: float, *, midpoint: bool = True, corrected: bool = True, conserved: bool = False
    ) -> Tensor:
        """Return a field after it moved with u for a time dt.

        Parameters
        ----------
        f : Tensor, (B, *shape)
        place : int or None
        u : Tensor, (B, d, *shape)
        dt : float
        midpoint : bool
            Trace paths with the midpoint rule, else by one Euler step.
        corrected : bool
            MacCormack: the error of a way there and back, halved, is taken off, and the result is clipped to the values
            around the start of its path. Second order; without it semi-Lagrangian, first order.
        conserved : bool
            Give the sum of f back (`_refilled`), at the order of the scheme and without new extremes.
        """
        values, fractions = self.corners(f, place, self.traced(u, place, dt, midpoint=midpoint))
        there = _blend(values, fractions)
        low, high = (values.amin(dim=0), values.amax(dim=0)) if corrected or conserved else (there, there)
        if corrected:
            back = self.interpolated(self._kept(there, place), place, self.traced(u, place, -dt, midpoint=midpoint))
            there = torch.minimum(torch.maximum(there + (f - back) / 2, low), high)
        there = self._kept(there, place)
        return _refilled(there, f, low, high) if conserved else there

    def _kept(self, f: Tensor, place: Place) -> Tensor:
        return f if place is None else self.inside(f, place)


def _refilled(there: Tensor, f: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return `there` (B, *shape) with the sum of f: all values go the same part of their way to a bound.

    The bounds are the values around the start of each path, low or high; where these leave too little room, the extremes of f, which
    never do.
    """
    cells = tuple(range(1, f.ndim))
    for bounds in ((low, high), (f.amin(dim=cells, keepdim=True), f.amax(dim=cells, keepdim=True))):
        missing = (f - there).sum(dim=cells, keepdim=True)
        room = torch.where(missing > 0, bounds[1], bounds[0]) - there
        whole = room.sum(dim=cells, keepdim=True)
        part = torch.where(whole != 0, missing / torch.where(whole != 0, whole, 1.0), 0.0)
        there = there + part.clamp(0, 1) * room
    return there


def _blend(values: Tensor, fractions: Sequence[Tensor]) -> Tensor:
    """Interpolate linearly between corners (2^d, ...), the first axis first."""
    for fraction in fractions:
        low, high = values.chunk(2)
        values = low + fraction * (high - low)
    return values[0]


@table
def _inverse_eigenvalues(basis: Eigenbasis, device) -> Tensor:
    """Return -1/λ of the second differences, 0 for the mean."""
    eigenvalues = basis.eigenvalues(device, torch.float64)
    return torch.where(eigenvalues > 0, -1 / torch.where(eigenvalues > 0, eigenvalues, 1.0), 0.0)
