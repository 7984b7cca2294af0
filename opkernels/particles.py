"""Particles: the other way to sample a function. Positions, masses, and the support of their kernels.

A function known at particles is integrated with their volumes, sum_j V_j f_j, V = m / rho: volumes are the quadrature
weights of a particle set, as `Grid.weights` are those of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.neighbors import Neighbors, radius_search

__all__ = ["ParticleSet"]


@dataclass(frozen=True, eq=False)
class ParticleSet:
    """Particles on a domain; several simulations share one set through `batch`.

    Parameters
    ----------
    positions : Tensor, (N, d)
        Anywhere; positions outside a periodic box mean their image inside, so trajectories need not be wrapped.
    masses : float or Tensor, (N,)
        Mass of each particle; a number serves all.
    support : float
        Radius H beyond which kernels vanish.
    domain : Domain
        Extent and periodicity. Along an axis that is not periodic particles may leave the box.
    batch : Tensor of integers, (N,), optional
        Number of the simulation each particle belongs to; pairs never cross simulations.
    densities : Tensor, (N,), optional
        Mass per volume; 1 if left out, so that masses are volumes.

    Raises
    ------
    ValueError
        If shapes disagree, a position is not finite, or a mass, density or support is not positive.

    Examples
    --------
    >>> from opkernels import Domain
    >>> particles = ParticleSet.from_grid(Domain.periodic(1.0, 2.0).grid(8, 16), support=0.3)
    >>> len(particles), float(particles.volumes.sum())
    (128, 2.0)
    """

    positions: Tensor
    masses: Tensor
    support: float
    domain: Domain
    batch: Tensor | None = None
    densities: Tensor | None = None

    if TYPE_CHECKING:  # a number for the masses becomes a tensor

        def __init__(
            self,
            positions: Tensor,
            masses: float | Tensor,
            support: float,
            domain: Domain,
            batch: Tensor | None = None,
            densities: Tensor | None = None,
        ): ...

    def __post_init__(self):
        x = self.positions
        if not isinstance(self.domain, Domain):
            raise ValueError(f"ParticleSet got domain={self.domain!r}; give a Domain, such as Domain.box(1.0, 1.0)")
        if x.ndim != 2 or x.shape[1] != self.domain.ndim or not x.is_floating_point():
            raise ValueError(
                f"ParticleSet got positions {x.dtype} {tuple(x.shape)} on a {self.domain.ndim}-D domain; expected (N, d) floats"
            )
        if not isinstance(self.masses, Tensor):
            object.__setattr__(self, "masses", torch.full((len(x),), float(self.masses), dtype=x.dtype, device=x.device))
        for name in ("masses", "densities"):
            value = getattr(self, name)
            if value is not None and value.shape != (len(x),):
                raise ValueError(
                    f"ParticleSet got {name} of shape {tuple(value.shape)}; expected one number for each of {len(x)} particles"
                )
            if value is not None and not bool((value > 0).all()):
                raise ValueError(
                    f"ParticleSet got {name} that are not positive at particle {int((~(value > 0)).nonzero()[0])}; give numbers > 0"
                )
        if self.batch is not None and (self.batch.shape != (len(x),) or self.batch.is_floating_point() or bool((self.batch < 0).any())):
            raise ValueError(
                f"ParticleSet got batch of shape {tuple(self.batch.shape)}; expected one integer >= 0 for each of {len(x)} particles"
            )
        bad = ~torch.isfinite(x.detach().sum(1))
        if bool(bad.any()):
            raise ValueError(f"ParticleSet got a position that is not finite at particle {int(bad.nonzero()[0])}; correct the positions")
        object.__setattr__(self, "support", float(self.support))
        if not 0 < self.support < float("inf"):
            raise ValueError(f"ParticleSet got support={self.support:g}; give a finite number > 0")

    @classmethod
    def from_grid(cls, grid: Grid, support: float, *, density: float = 1.0, device=None, dtype=None) -> ParticleSet:
        """Return the nodes of a grid as particles of one density, whose volumes are the grid's quadrature weights."""
        x = grid.coordinates(device, dtype).flatten(1).T.contiguous()
        volumes = grid.weights(device, dtype).flatten()
        return cls(x, density * volumes, support, grid.domain, densities=torch.full_like(volumes, density))

    @classmethod
    def stack(cls, sets: list[ParticleSet]) -> ParticleSet:
        """Return several simulations as one set, numbered by `batch` in their order; they share support and domain."""
        if not sets:
            raise ValueError("ParticleSet.stack got no sets; give at least one")
        first = sets[0]
        if any(s.support != first.support or s.domain != first.domain or s.batch is not None for s in sets):
            raise ValueError("ParticleSet.stack got sets that differ in support or domain, or are batches already; give single sets alike")
        batch = torch.cat([torch.full((len(s),), b, dtype=torch.int64, device=s.positions.device) for b, s in enumerate(sets)])
        densities = [s.densities for s in sets if s.densities is not None]
        return cls(
            torch.cat([s.positions for s in sets]),
            torch.cat([s.masses for s in sets]),
            first.support,
            first.domain,
            batch,
            torch.cat(densities) if len(densities) == len(sets) else None,
        )

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def ndim(self) -> int:
        """Number of coordinates d."""
        return self.domain.ndim

    @property
    def volumes(self) -> Tensor:
        """Quadrature weights V = m / rho, (N,)."""
        return self.masses if self.densities is None else self.masses / self.densities

    @property
    def n_batches(self) -> int:
        """Number of simulations in the set."""
        return 1 if self.batch is None else int(self.batch.max()) + 1

    def neighbors(self, *, include_self: bool = True, half: bool = False, skin: float = 0.0) -> Neighbors:
        """Return the pairs closer than the support, by `radius_search`."""
        options = {"include_self": include_self, "half": half, "skin": skin}
        return radius_search(self.positions, support=self.support, domain=self.domain, batch=self.batch, **options)

    def wrapped(self) -> Tensor:
        """Positions with periodic coordinates inside [lower, upper), (N, d)."""
        columns = [
            axis.lower + torch.remainder(x - axis.lower, axis.length) if axis.periodic else x
            for axis, x in zip(self.domain.axes, self.positions.unbind(1), strict=True)
        ]
        return torch.stack(columns, 1)

    def replace(self, **changes) -> ParticleSet:
        """Return a copy with some attributes changed, e.g. ``particles.replace(positions=x)``."""
        return replace(self, **changes)

    def to(self, *target: torch.device | torch.dtype | str) -> ParticleSet:
        """Move to a device, or cast to a floating-point type."""

        def moved(values: Tensor, indices: bool = False) -> Tensor:
            for one in target:
                if not (indices and isinstance(one, torch.dtype)):
                    values = values.to(one)
            return values

        return replace(
            self,
            positions=moved(self.positions),
            masses=moved(self.masses),
            batch=None if self.batch is None else moved(self.batch, indices=True),
            densities=None if self.densities is None else moved(self.densities),
        )
