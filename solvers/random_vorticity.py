"""Random vorticity of two-dimensional turbulence with a published energy spectrum.

    ω(x) = Σ_n c_n e^{iκ·x},   E|c_n|² = λ(|κ_n|),   Σ_n λ_n / (2 κ_n²) = energy,

| spectrum     | λ up to a constant, q = κ/`peak`             | energy of a shell E(κ) ∝ λ/κ        | used by                   |
| ------------ | -------------------------------------------- | ----------------------------------- | ------------------------- |
| "mcwilliams" | q³ / (1 + q⁴)                                | q² / (1 + q⁴)                       | McWilliams 1984           |
| "von_karman" | q⁵ / (1 + 12 q²/5)^(17/6)                    | q⁴ / (1 + 12 q²/5)^(17/6), tail κ^(-5/3) | inflows, decaying turbulence |
| "log_normal" | q^(-2) exp(-4 (ln q - 1/4)²)                 | q^(-3) exp(-4 (ln q - 1/4)²)        | Kochkov et al. 2021 (jax-cfd) |

The first two shells' energy is largest at `peak`; "log_normal" takes `peak` as jax-cfd does, in its filter
of white noise, and is largest at 0.88 `peak`. The energy is that expected of all modes up to 32 `peak`,
whatever the grid, where published codes scale each sample on its own grid: so the field at 64 is the
truncation of that at 128.

References
----------
J. C. McWilliams, The emergence of isolated coherent vortices in turbulent flow, J. Fluid Mech. 146
(1984), 21-43. T. von Karman, Proc. Natl. Acad. Sci. 34 (1948), 530-539. D. Kochkov et al., PNAS 118
(2021), e2101784118.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.solvers.random_fields import GaussianRandomField
from opkernels.solvers.spectral import parameter

__all__ = ["RandomVorticity"]

SPECTRA = {
    "mcwilliams": lambda q: q**3 / (1 + q**4),
    "von_karman": lambda q: q**5 / (1 + 2.4 * q**2) ** (17 / 6),
    "log_normal": lambda q: torch.exp(-4 * (q.log() - 0.25) ** 2) / q**2,
}
_REACH = 32.0  # in units of the peak, of the modes whose energy is counted


class RandomVorticity:
    """Random vorticity with a given energy spectrum; module docstring for the formulas.

    Parameters
    ----------
    domain : Domain
        Two periodic axes.
    spectrum : {"mcwilliams", "von_karman", "log_normal"}
    peak : float
        Wave number (2π over a length) where the energy is largest, about.
    energy : float
        Expected kinetic energy ½⟨u² + v²⟩.

    Notes
    -----
    "mcwilliams" and "von_karman" have an energy that converges under refinement but an enstrophy that
    does not: the vorticity grows rougher with the grid, as published.

    Examples
    --------
    >>> import math
    >>> from opkernels import Domain
    >>> field = RandomVorticity(Domain.periodic(2 * math.pi, 2 * math.pi), spectrum="von_karman", peak=4.0)
    >>> field.sample(2, (64, 64), seed=0).shape
    torch.Size([2, 1, 64, 64])
    """

    def __init__(self, domain: Domain, *, spectrum: str = "mcwilliams", peak: float = 6.0, energy: float = 0.5):
        if not isinstance(domain, Domain) or domain.ndim != 2:
            raise ValueError(f"RandomVorticity got domain={domain!r}; give a Domain of two periodic axes")
        domain.require_periodic("RandomVorticity")
        if spectrum not in SPECTRA:
            raise ValueError(f"RandomVorticity got spectrum={spectrum!r}; choose one of {', '.join(SPECTRA)}")
        self.domain, self.spectrum = domain, spectrum
        self.peak, self.energy = parameter(peak, "peak", above=0.0), parameter(energy, "energy", above=0.0)
        scale = self.energy / self._expected_energy()
        self._field = GaussianRandomField(domain, spectrum=lambda kappa: scale * self._shape(kappa))

    def _shape(self, kappa: Tensor) -> Tensor:
        q = torch.where(kappa > 0, kappa, self.peak) / self.peak
        return torch.where(kappa > 0, SPECTRA[self.spectrum](q), 0.0)

    def _expected_energy(self) -> float:
        """Return Σ λ_n / (2κ_n²) over the modes up to the reach, before scaling."""
        reach = _REACH * self.peak
        steps = [2 * math.pi / length for length in self.domain.extent]
        kx, ky = (step * torch.arange(-math.ceil(reach / step), math.ceil(reach / step) + 1, dtype=torch.float64) for step in steps)
        k2 = kx[:, None] ** 2 + ky**2
        inside = (k2 > 0) & (k2 <= reach**2)
        if not inside.any():
            raise ValueError(
                f"RandomVorticity got peak={self.peak:g}, below the smallest wave number {min(steps):g} of the domain; raise it"
            )
        return float(torch.where(inside, self._shape(k2.sqrt()) / (2 * k2.clamp_min(1e-300)), 0.0).sum())

    def sample(self, n: int, shape: tuple[int, ...], *, seed: int, start: int = 0, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Draw the samples number start .. start + n - 1 of the stream `seed`, (n, 1, *shape); see `GaussianRandomField.sample`."""
        return self._field.sample(n, shape, seed=seed, start=start, device=device, dtype=dtype)

    def coefficients(self, n: int, shape: tuple[int, ...], *, seed: int, start: int = 0) -> Tensor:
        """Return the coefficients c_n themselves, as `GaussianRandomField.coefficients`."""
        return self._field.coefficients(n, shape, seed=seed, start=start)
