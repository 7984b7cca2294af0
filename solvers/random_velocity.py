"""Random solenoidal velocity with a given energy spectrum, the same function on every grid.

    û_n = P_n c_n,     P_n = 1 - κκᵀ/κ²,     E|û_n|²/2 ∝ E(κ) / κ^(d-1),     κ = |κ_n|,   q = κ / `peak`

c_n are d independent Gaussian fields (`random_fields`), so the velocity is Gaussian, homogeneous and isotropic but for
the lattice, and its phases are uniform. E(κ) is the energy per wave number:

| spectrum     | E(κ)                                    | named after, used for                            |
| ------------ | --------------------------------------- | ------------------------------------------------ |
| "inertial"   | q² for q <= 1, q^(-5/3) beyond          | Rogallo's start of isotropic turbulence, forced  |
| "von_karman" | q⁴ / (1 + 12 q²/5)^(17/6)               | decaying turbulence, tail κ^(-5/3)               |
| "gaussian"   | q⁴ exp(-2 q²)                           | decaying turbulence without small scales         |

References
----------
R. S. Rogallo, Numerical experiments in homogeneous turbulence, NASA TM-81315 (1981). T. von Karman, Proc. Natl. Acad.
Sci. 34 (1948), 530-539.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.solvers.navier_stokes_3d import project
from opkernels.solvers.random_fields import GaussianRandomField, check_draw
from opkernels.solvers.spectral import Modes, parameter

__all__ = ["RandomVelocity"]

SPECTRA = {
    "inertial": lambda q: torch.where(q <= 1, q**2, q ** (-5 / 3)),
    "von_karman": lambda q: q**4 / (1 + 2.4 * q**2) ** (17 / 6),
    "gaussian": lambda q: q**4 * torch.exp(-2 * q**2),
}


class RandomVelocity:
    """Random solenoidal fields (n, d, *shape) in two or three dimensions; module docstring for the formulas.

    Parameters
    ----------
    domain : Domain
        Two or three periodic axes.
    spectrum : {"inertial", "von_karman", "gaussian"}
    peak : float
        Wave number (2π over a length) where the energy is largest.
    energy : float
        Expected kinetic energy ½⟨u²⟩ of the whole field.
    cutoff : float, optional
        Modes of larger κ are left out; 8 `peak` by default. A grid that carries them carries the whole field, a coarser
        one its truncation.

    Examples
    --------
    >>> import math
    >>> from opkernels import Domain
    >>> field = RandomVelocity(Domain.periodic(*[2 * math.pi] * 3), peak=3.0)
    >>> field.sample(2, (24, 24, 24), seed=0).shape
    torch.Size([2, 3, 24, 24, 24])
    """

    vector = True  # a recipe gives its components to the fields of a solver

    def __init__(self, domain: Domain, *, spectrum: str = "inertial", peak: float = 3.0, energy: float = 1.0, cutoff: float | None = None):
        if not isinstance(domain, Domain) or domain.ndim not in (2, 3):
            raise ValueError(f"RandomVelocity got domain={domain!r}; give a Domain of two or three periodic axes")
        domain.require_periodic("RandomVelocity")
        if spectrum not in SPECTRA:
            raise ValueError(f"RandomVelocity got spectrum={spectrum!r}; choose one of {', '.join(SPECTRA)}")
        self.domain, self.spectrum = domain, spectrum
        self.peak, self.energy = parameter(peak, "peak", above=0.0), parameter(energy, "energy", above=0.0)
        self.cutoff = float(8 * self.peak if cutoff is None else parameter(cutoff, "cutoff", above=0.0))
        self.components = domain.ndim
        scale = 2 * self.energy / ((domain.ndim - 1) * self._total())
        self._field = GaussianRandomField(domain, spectrum=lambda kappa: scale * self._shape(kappa), cutoff=self.cutoff)

    def _shape(self, kappa: Tensor) -> Tensor:
        q = torch.where(kappa > 0, kappa, self.peak) / self.peak
        return torch.where(kappa > 0, SPECTRA[self.spectrum](q) / q ** (self.domain.ndim - 1), 0.0)

    def _total(self) -> float:
        """Return Σ E(κ)/κ^(d-1) over the modes up to the cut-off."""
        steps = [2 * math.pi / length for length in self.domain.extent]
        if self.cutoff < min(steps):
            raise ValueError(
                f"RandomVelocity got cutoff={self.cutoff:g}, below the smallest wave number {min(steps):g} of the domain; raise it"
            )
        counts = [math.floor(self.cutoff / step) for step in steps]
        squares = [(step * torch.arange(-n, n + 1, dtype=torch.float64)).square() for step, n in zip(steps, counts, strict=True)]
        total = 0.0
        for first in squares[0]:  # plane by plane: there may be many modes
            kappa = sum(torch.meshgrid(*squares[1:], indexing="ij"), first).sqrt()
            total += float(torch.where(kappa <= self.cutoff, self._shape(kappa), 0.0).sum())
        return total

    def sample(self, n: int, shape: tuple[int, ...], *, seed: int, start: int = 0, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Draw the samples number start .. start + n - 1 of the stream `seed`, (n, d, *shape); see `GaussianRandomField.sample`."""
        check_draw("RandomVelocity", n, start, seed)
        seeds = np.random.SeedSequence(int(seed)).generate_state(self.components, np.uint64).tolist()
        parts = [self._field.sample(n, shape, seed=s, start=start, dtype=torch.float64) for s in seeds]
        modes = Modes(self.domain.grid(*shape), device=torch.device("cpu"), dtype=torch.float64, degree=1)
        u = modes.to_grid(project(modes.to_modes(torch.cat(parts, dim=1)), modes))
        return u.to(device=device, dtype=dtype or torch.get_default_dtype())
