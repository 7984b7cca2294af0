"""Solid walls made of particles that do not move: where they sit, and what the fluid feels there.

Pressure is extrapolated from the fluid (Adami, Hu and Adams 2012, https://doi.org/10.1016/j.jcp.2012.05.005):

    p_w = [ sum_f p_f W_wf + g . sum_f rho_f x_wf W_wf ] / sum_f W_wf,   x_wf = x_w - x_f     exact at rest
    v_w := 2 v_wall - sum_f v_f W_wf / sum_f W_wf                        in the viscous term, for no slip
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.particles import ParticleSet

__all__ = ["Walls"]


@dataclass(frozen=True, eq=False)
class Walls:
    """Wall particles around a box, at the spacing of the fluid, in enough layers to fill a kernel's support.

    Parameters
    ----------
    positions, velocities : Tensor, (M, d)
        Positions are fixed; a velocity is that of a wall that slides along itself (the lid of a cavity).
    no_slip : bool
        Whether the fluid sticks to the wall; otherwise walls take no part in viscosity.
    """

    positions: Tensor
    velocities: Tensor
    no_slip: bool = True

    def __post_init__(self):
        if self.positions.ndim != 2 or self.positions.shape != self.velocities.shape:
            raise ValueError(
                f"Walls got positions {tuple(self.positions.shape)} and velocities {tuple(self.velocities.shape)}; expected (M, d) both"
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
        unknown = (set(velocities or {}) | set(open_sides)) - sides
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
            if sign + axis.name in (velocities or {}):
                v[side[:, a] == number] = torch.tensor(velocities[sign + axis.name], dtype=torch.float64)
        return cls(x, v, no_slip)

    def check_inside(self, who: str, particles: ParticleSet) -> None:
        """Refuse fluid particles beyond a wall: nearer than half a spacing to a wall particle's center."""
        for a, axis in enumerate(particles.domain.axes):
            if axis.periodic:
                continue
            for name, beyond, wall in (
                ("below", particles.positions[:, a] < axis.lower, bool((self.positions[:, a] < axis.lower).any())),
                ("above", particles.positions[:, a] > axis.upper, bool((self.positions[:, a] > axis.upper).any())),
            ):
                if wall and bool(beyond.any()):
                    raise ValueError(
                        f"{who} got particle {int(beyond.nonzero()[0])} {name} the wall of axis {axis.name} "
                        f"[{axis.lower:g}, {axis.upper:g}]; start all fluid inside the walls"
                    )

    def for_particles(self, particles: ParticleSet) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return positions, velocities and batch numbers of the walls, repeated for each simulation."""
        x, v = self.positions.to(particles.positions), self.velocities.to(particles.positions)
        if particles.batch is None:
            return x, v, None
        n = particles.n_batches
        return x.repeat(n, 1), v.repeat(n, 1), torch.arange(n, device=x.device).repeat_interleave(len(x))
