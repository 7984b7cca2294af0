"""Linear finite elements for the wave equation on a structured grid, without a matrix.

The stiffness matrix of linear elements is a weighted graph Laplacian: for every edge of a cell

    u·K u = Σ_edges w (u_head - u_tail)²,

so that K u is a difference, a product and two additions per edge direction, and K 1 = 0 to the
last bit. Per cell of hx by hy with stiffness μ:

| element | edges along x             | edges along y             | diagonals            |
| ------- | ------------------------- | ------------------------- | -------------------- |
| "p1"    | μ hy/2hx                  | μ hx/2hy                  | 0                    |
| "q1"    | μ (hy/3hx - hx/6hy)       | μ (hx/3hy - hy/6hx)       | μ (hx/hy + hy/hx)/6  |

"p1" is the mean of the two triangulations (a right triangle has no coupling along its long side);
both lump a quarter of a cell's mass ρ hx hy to each corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opkernels.domains import Grid
from opkernels.solvers.coefficients import Parameter, evaluate

__all__ = ["ELEMENTS", "Assembly", "assemble", "cell_parameters", "edge_products", "largest_frequency"]

ELEMENTS = {"p1": ((1, 0), (0, 1)), "q1": ((1, 0), (0, 1), (1, 1), (1, -1))}


@dataclass(frozen=True)
class Assembly:
    """The matrices of one grid and batch; leading axes are 1 where all samples share them.

    Attributes
    ----------
    edges : tuple of (int, int)
        Directions of the edges (head minus tail).
    weights : tuple of Tensor
        w of the edges of each direction; on periodic axes the grid is continued by its first samples.
    mass, drag, area : Tensor, (1 or B, H, W)
        Lumped ∫ρ, ∫γ + wall absorption (None without any), and ∫1 of each node.
    free : Tensor, (1, H, W)
        1 on the nodes that move, 0 on Dirichlet walls.
    speed2 : Tensor, (1 or B, 1, 1)
        Mean of c².
    wraps : tuple of bool
        Whether each axis is periodic.
    """

    edges: tuple[tuple[int, int], ...]
    weights: tuple[Tensor, ...]
    mass: Tensor
    drag: Tensor | None
    area: Tensor
    free: Tensor
    speed2: Tensor
    wraps: tuple[bool, ...]

    def stiffness(self, u: Tensor) -> Tensor:
        """Return K u of nodal values (B, H, W)."""
        if not torch.is_grad_enabled():
            return _apply_edges(self.edges, self.wraps, u, self.weights)
        return _Stiffness.apply(self.edges, self.wraps, u, *self.weights)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Assembly:
        """Return the matrices with every tensor changed."""
        names = ("mass", "area", "free", "speed2")
        drag = None if self.drag is None else change(self.drag)
        return replace(self, weights=tuple(map(change, self.weights)), drag=drag, **{name: change(getattr(self, name)) for name in names})

    def samples(self, part: slice) -> Assembly:
        """Return the matrices of some samples of the batch."""
        return self.mapped(lambda x: x if len(x) == 1 else x[part])


def _ends(u: Tensor, edge: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return views of the head and the tail of every edge of one direction."""
    dx, dy = edge
    n, m = u.shape[-2] - dx, u.shape[-1] - abs(dy)
    head = u.narrow(-2, dx, n).narrow(-1, max(dy, 0), m)
    return head, u.narrow(-2, 0, n).narrow(-1, max(-dy, 0), m)


def _wrap(u: Tensor, wraps: tuple[bool, ...]) -> Tensor:
    """Continue nodal values over periodic axes by one sample."""
    for dim, periodic in zip((-2, -1), wraps, strict=True):
        if periodic:
            u = torch.cat([u, u.narrow(dim, 0, 1)], dim=dim)
    return u


def _unwrap(u: Tensor, wraps: tuple[bool, ...]) -> Tensor:
    """Add the continued samples to those they stand for: the transpose of `_wrap`."""
    for dim, periodic in zip((-1, -2), reversed(wraps), strict=True):
        if periodic:
            n = u.shape[dim] - 1
            u = torch.cat([u.narrow(dim, 0, 1) + u.narrow(dim, n, 1), u.narrow(dim, 1, n - 1)], dim=dim)
    return u


def _apply_edges(edges, wraps: tuple[bool, ...], u: Tensor, weights) -> Tensor:
    """Return K u; a sum of differences, since with a diagonal instead round-off would move constants in float32."""
    u = _wrap(u, wraps)
    n = u.shape[-2]
    rows = u.new_empty(*u.shape[:-2], n + 1, u.shape[-1])  # fluxes along x, none beyond the ends
    rows[..., 0, :] = 0
    rows[..., n, :] = 0
    inner = rows.narrow(-2, 1, n - 1)
    torch.sub(u.narrow(-2, 1, n - 1), u.narrow(-2, 0, n - 1), out=inner)
    inner.mul_(weights[0])
    out = torch.sub(rows.narrow(-2, 0, n), rows.narrow(-2, 1, n))
    for edge, w in zip(edges[1:], weights[1:], strict=True):
        head, tail = _ends(u, edge)
        flux = torch.sub(head, tail).mul_(w)
        to_head, to_tail = _ends(out, edge)
        to_head.add_(flux)
        to_tail.sub_(flux)
    return _unwrap(out, wraps)


class _Stiffness(torch.autograd.Function):
    """K u, linear and symmetric in u and linear in the weights: its derivatives are made of itself."""

    @staticmethod
    def forward(ctx, edges, wraps, u, *weights):
        ctx.edges, ctx.wraps = edges, wraps
        ctx.save_for_backward(u, *weights)
        return _apply_edges(edges, wraps, u, weights)

    @staticmethod
    def backward(ctx, grad):
        u, *weights = ctx.saved_tensors
        grad_u = _Stiffness.apply(ctx.edges, ctx.wraps, grad, *weights) if ctx.needs_input_grad[2] else None
        return None, None, grad_u, *edge_products(u, grad, weights, ctx.edges, ctx.wraps, ctx.needs_input_grad[3:])


def edge_products(u: Tensor, v: Tensor, weights, edges, wraps, needed) -> list[Tensor | None]:
    """Return the derivative of v·K u by the weight of each edge, summed over the samples that share it."""
    u, v = _wrap(u, wraps), _wrap(v, wraps)
    out = []
    for edge, w, need in zip(edges, weights, needed, strict=True):
        if not need:
            out.append(None)
            continue
        product = torch.sub(*_ends(u, edge)) * torch.sub(*_ends(v, edge))
        out.append(product.sum(0, keepdim=True) if len(w) == 1 else product)
    return out


def _corners(cells: Tensor) -> Tensor:
    """Sum of the cells around every node, (..., n+1, m+1)."""
    cells = F.pad(cells, [1, 1, 1, 1])
    rows = cells[..., 1:, :] + cells[..., :-1, :]
    return rows[..., 1:] + rows[..., :-1]


def _along(cells: Tensor, dim: int) -> Tensor:
    """Sum of the two cells beside every edge that crosses none of them along `dim`."""
    pad = [1, 1, 0, 0] if dim == -1 else [0, 0, 1, 1]
    cells = F.pad(cells, pad)
    n = cells.shape[dim] - 1
    return cells.narrow(dim, 0, n) + cells.narrow(dim, 1, n)


def _cell_values(value: Parameter, grid: Grid, like: Tensor, name: str) -> Tensor:
    """Values of a parameter on the cells: a function at their centers, samples as the mean of the corners."""
    counts = [n if axis.periodic else n - 1 for axis, n in zip(grid.domain.axes, grid.shape, strict=True)]
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim > 1:
        nodes = grid.coordinates(like.device, torch.float64)
        wraps = tuple(axis.periodic for axis in grid.domain.axes)
        nodal = _wrap(evaluate(value, nodes, len(like), "Wave2D", name), wraps)
        rows = nodal[..., 1:, :] + nodal[..., :-1, :]
        return (rows[..., 1:] + rows[..., :-1]) / 4
    centers = [axis.coordinates(n, like.device, torch.float64)[:m] for axis, n, m in zip(grid.domain.axes, grid.shape, counts, strict=True)]
    points = torch.stack(torch.meshgrid(*[c + h / 2 for c, h in zip(centers, grid.spacing, strict=True)], indexing="ij"))
    return evaluate(value, points, len(like), "Wave2D", name).expand(-1, *counts)


def cell_parameters(grid: Grid, like: Tensor, speed: Parameter, density: Parameter, damping: Parameter) -> tuple[Tensor, Tensor, Tensor]:
    """Return c, ρ and γ in every cell, (1 or B, cells), float64, for states like `like`.

    Raises
    ------
    ValueError
        If a value is not finite, c or ρ is not positive, or γ is negative.
    """
    out = []
    for name, value in (("speed", speed), ("density", density), ("damping", damping)):
        cells = _cell_values(value, grid, like, name)
        if isinstance(value, (int, float)):  # no look at the device
            good = math.isfinite(value) and (value > 0 or (name == "damping" and value == 0))
        else:
            good = bool(((cells >= 0 if name == "damping" else cells > 0) & cells.isfinite()).all())
        if not good:
            raise ValueError(f"Wave2D got a {name} that is not {'at least 0' if name == 'damping' else 'positive'} and finite everywhere")
        out.append(cells)
    c, rho, gamma = out
    return c, rho, gamma


def assemble(grid: Grid, walls: tuple, element: str, c: Tensor, rho: Tensor, gamma: Tensor | None) -> Assembly:
    """Return the matrices in float64 from the parameters of the cells (γ None where it is zero).

    `walls` are pairs of "periodic", "dirichlet", "neumann" or "absorbing"; the latter adds √(ρμ) per
    length to the drag.
    """
    hx, hy = grid.spacing
    mu = rho * c**2
    wraps = tuple(axis.periodic for axis in grid.domain.axes)
    if element == "p1":
        weights = (_along(mu * (hy / hx / 2), -1), _along(mu * (hx / hy / 2), -2))
    else:
        diagonal = mu * ((hx / hy + hy / hx) / 6)
        weights = (
            _along(mu * (hy / hx / 3 - hx / hy / 6), -1),
            _along(mu * (hx / hy / 3 - hy / hx / 6), -2),
            diagonal,
            diagonal,
        )
    quarter = hx * hy / 4
    impedance = rho * c
    damped = gamma is not None or any("absorbing" in pair for pair in walls)
    drag = _corners((torch.zeros_like(rho) if gamma is None else gamma) * quarter)
    free = torch.ones(1, *grid.shape, dtype=torch.float64, device=c.device)
    for dim, h, pair in ((-2, hy, walls[0]), (-1, hx, walls[1])):
        for end, kind in enumerate(pair):
            if kind == "absorbing":
                row = impedance.narrow(dim, 0 if end == 0 else impedance.shape[dim] - 1, 1) * (h / 2)
                line = _along(row, -1 if dim == -2 else -2)  # both nodes of every piece of the wall
                size = drag.shape[dim]
                pad = [0 if end == 0 else size - 1, size - 1 if end == 0 else 0]
                drag = drag + F.pad(line, [0, 0, *pad] if dim == -2 else pad)
            elif kind == "dirichlet":
                free.narrow(dim, 0 if end == 0 else free.shape[dim] - 1, 1).zero_()
    mass, drag = _unwrap(_corners(rho * quarter), wraps), _unwrap(drag, wraps) if damped else None
    area = _unwrap(_corners(torch.full_like(rho[:1].detach(), quarter)), wraps)
    return Assembly(ELEMENTS[element], weights, mass, drag, area, free, c.detach().square().mean(dim=(1, 2), keepdim=True), wraps)


def largest_frequency(element: str, c: float, hx: float, hy: float) -> float:
    """Largest ω with K φ = ω² M φ, bounded by that of a single cell with the speed c (sharp where c is constant)."""
    x, y = 4 / hx**2, 4 / hy**2
    return c * math.sqrt(x + y if element == "p1" else max(x, y, (x + y) / 3))
