"""Solid walls made of particles that do not move: where they sit, and what the fluid feels there.

Pressure is extrapolated from the fluid (Adami, Hu and Adams 2012, https://doi.org/10.1016/j.jcp.2012.05.005):

    p_w = [ sum_f p_f W_wf + g . sum_f rho_f x_wf W_wf ] / sum_f W_wf,   x_wf = x_w - x_f     exact at rest
    v_w := v_wall + (d_w / d) (v_wall - v),                               in the viscous term, for no slip

with the means v = sum_f v_f W_wf / sum_f W_wf and d = sum_f d_f W_wf / sum_f W_wf of the fluid's velocities and distances
from the wall's surface, d_w the wall particle's own. This is exact for a velocity that grows linearly from the wall, which
Adami's own form, with 1 for d_w / d, is not.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.neighbors import VerletList
from opkernels.particles import ParticleSet
from opkernels.solvers.sph.kernels import Pairs, SmoothingKernel, pair_geometry

__all__ = ["WallPairs", "WallState", "Walls", "together"]

_STEEPEST = 3.0  # d_w / d at most, or one particle very near the wall would be mirrored with a huge velocity


@dataclass(frozen=True, eq=False)
class Walls:
    """Wall particles around a box, at the spacing of the fluid, in enough layers to fill a kernel's support.

    Parameters
    ----------
    positions, velocities : Tensor, (M, d)
        Positions are fixed; a velocity is that of a wall that slides along itself (the lid of a cavity).
    surface : Tensor, (M, d)
        The point of the wall's surface nearest to each particle.
    no_slip : bool
        Whether the fluid sticks to the wall; otherwise walls take no part in viscosity.
    """

    positions: Tensor
    velocities: Tensor
    surface: Tensor
    no_slip: bool = True

    def __post_init__(self):
        if self.positions.ndim != 2 or not self.positions.shape == self.velocities.shape == self.surface.shape:
            raise ValueError(
                f"Walls got positions {tuple(self.positions.shape)}, velocities {tuple(self.velocities.shape)} and a surface "
                f"{tuple(self.surface.shape)}; expected (M, d) for all three"
            )

    @classmethod
    def of_box(
        cls,
        domain: Domain,
        spacing: float,
        support: float,
        *,
        velocities: dict[str, tuple[float, ...]] | None = None,
        open_sides: tuple[str, ...] = (),
        no_slip: bool = True,
    ) -> Walls:
        """Return walls outside of every axis of a domain that is not periodic.

        Parameters
        ----------
        spacing, support : float
            Spacing of the fluid, which must divide the box, and the support the layers must fill.
        velocities : dict, optional
            Sliding walls by side, e.g. ``{"+y": (1.0, 0.0)}`` for a lid; corners belong to the later axis.
        open_sides : tuple of str
            Sides without a wall, e.g. ``("+y",)`` for a tank open at its top.
        """
        sides = {sign + axis.name for axis in domain.axes if not axis.periodic for sign in "-+"}
        velocities = velocities or {}
        unknown = (set(velocities) | set(open_sides)) - sides
        if unknown:
            raise ValueError(f"Walls.of_box got the side {sorted(unknown)[0]!r}; this domain has {', '.join(sorted(sides)) or 'no walls'}")
        layers = math.ceil(support / spacing - 1e-9)
        lattice = []
        for axis in domain.axes:
            n = round(axis.length / spacing)
            if abs(n * spacing - axis.length) > 1e-6 * axis.length:
                raise ValueError(
                    f"Walls.of_box got spacing={spacing:g}, which does not divide axis {axis.name} of length {axis.length:g}; take one"
                )
            below = 0 if axis.periodic or "-" + axis.name in open_sides else layers
            above = 0 if axis.periodic or "+" + axis.name in open_sides else layers
            lattice.append(axis.lower + (torch.arange(-below, n + above, dtype=torch.float64) + 0.5) * axis.length / n)
        x = torch.stack(torch.meshgrid(*lattice, indexing="ij"), -1).flatten(0, -2)
        side = torch.zeros(x.shape, dtype=torch.int64)
        for a, axis in enumerate(domain.axes):
            side[:, a] = (x[:, a] > axis.upper).long() - (x[:, a] < axis.lower).long()
        x, side = x[side.any(1)], side[side.any(1)]
        v = torch.zeros_like(x)
        for (a, axis), (sign, number) in itertools.product(enumerate(domain.axes), (("-", -1), ("+", 1))):
            if sign + axis.name in velocities:
                v[side[:, a] == number] = torch.tensor(velocities[sign + axis.name], dtype=torch.float64)
        lower, upper = (torch.tensor([getattr(axis, end) for axis in domain.axes], dtype=torch.float64) for end in ("lower", "upper"))
        return cls(x, v, x.clamp(lower, upper), no_slip)

    def close(self, domain: Domain) -> bool:
        """Whether a domain has walls on both sides of each axis that is not periodic, and so no free surface."""
        beyond = [
            (self.positions[:, a] < axis.lower, self.positions[:, a] > axis.upper)
            for a, axis in enumerate(domain.axes)
            if not axis.periodic
        ]
        return all(bool(side.any()) for sides in beyond for side in sides)

    def check_inside(self, who: str, particles: ParticleSet) -> None:
        """Refuse walls of a larger box, and fluid beyond the centers of a wall's first layer (a drop in full flight dents a wall)."""
        for a, axis in enumerate(particles.domain.axes):
            if axis.periodic:
                continue
            x, wall, surface = particles.positions[:, a], self.positions[:, a], self.surface[:, a]
            slack = 1e-6 * axis.length
            if len(surface) and (float(surface.min()) < axis.lower - slack or float(surface.max()) > axis.upper + slack):
                raise ValueError(
                    f"{who} got walls whose surface runs from {float(surface.min()):g} to {float(surface.max()):g} along axis {axis.name} "
                    f"[{axis.lower:g}, {axis.upper:g}]; make them with Walls.of_box from the solver's own domain"
                )
            low, high = wall[wall < axis.lower], wall[wall > axis.upper]
            for name, beyond in (
                ("below", x < low.max() if len(low) else torch.zeros_like(x, dtype=torch.bool)),
                ("above", x > high.min() if len(high) else torch.zeros_like(x, dtype=torch.bool)),
            ):
                if bool(beyond.any()):
                    raise ValueError(
                        f"{who} got particle {int(beyond.nonzero()[0])} {name} the wall of axis {axis.name} "
                        f"[{axis.lower:g}, {axis.upper:g}]; start all fluid inside the walls"
                    )

    def for_particles(self, particles: ParticleSet) -> WallState:
        """Return the walls of a simulation, repeated for each one of a batch."""
        x, v, surface = (a.to(particles.positions) for a in (self.positions, self.velocities, self.surface))
        batch = None
        if particles.batch is not None:
            n = particles.n_batches
            batch = torch.arange(n, device=x.device).repeat_interleave(len(x))
            x, v, surface = (a.repeat(n, 1) for a in (x, v, surface))
        depth = (x - surface).norm(dim=1)
        return WallState(x, v, batch, (surface - x) / depth[:, None], depth, self.no_slip)


@dataclass(frozen=True, eq=False)
class WallState:
    """Walls of one run: positions, velocities, batch numbers, normals into the fluid, and depths below the surface d_w."""

    x: Tensor
    v: Tensor
    batch: Tensor | None
    normal: Tensor
    depth: Tensor
    no_slip: bool

    def near(self, listed: VerletList, kernel: SmoothingKernel, x: Tensor, support: float, batch: Tensor | None) -> WallPairs:
        """Pairs of wall and fluid particles, with the weights of the means over the fluid near each wall particle."""
        pairs = pair_geometry(listed(self.x, x, support=support, batch=self.batch, batch_y=batch), self.x, x, support)
        w = kernel.value(pairs.r, support)
        total = pairs.sum(w).clamp(min=1e-12 * kernel.constant / support**2)
        return WallPairs(self, pairs, w / pairs.at_i(total))


def together(fluid: Tensor | None, walls: Tensor | None) -> Tensor | None:
    """Join the batch numbers of fluid and walls, which both have or neither."""
    return None if fluid is None or walls is None else torch.cat([fluid, walls])


@dataclass(frozen=True, eq=False)
class WallPairs:
    """What walls see of the fluid: means with the weights W_wf / sum_f W_wf."""

    walls: WallState
    pairs: Pairs
    share: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the fluid near each wall particle of values (E,) of the pairs."""
        return self.pairs.sum(self.share * values)

    def pressure(self, p: Tensor, rho: Tensor, gravity: Tensor | None) -> Tensor:
        """Pressure of the fluid (N,) continued into the wall, down the hydrostatic gradient under gravity: (M,)."""
        p = self.pairs.at_j(p)
        if gravity is not None:
            p = p + self.pairs.at_j(rho) * sum(g * d for g, d in zip(gravity, self.pairs.d, strict=True))
        return self.mean(p)

    def mirrored(self, v: Tensor) -> Tensor:
        """Velocities that the walls show in the viscous term, for a fluid that moves with v (N, d): (M, d)."""
        walls = self.walls
        if not walls.no_slip:
            return walls.v
        inside = -sum(self.mean(d) * n for d, n in zip(self.pairs.d, walls.normal.unbind(1), strict=True)) - walls.depth
        steep = walls.depth / inside.clamp(min=walls.depth / _STEEPEST)
        fluid = torch.stack([self.mean(self.pairs.at_j(c)) for c in v.unbind(1)], 1)
        return walls.v + steep[:, None] * (walls.v - fluid)
