"""Random fields and flows on the sphere that are the same functions on every grid.

    f = mean + Σ_{l <= cutoff} Σ_m f_lm Y_lm,     E|f_lm|² = C_l,     point variance Σ_l (2l + 1) C_l/(4π)

| class                | C_l up to a constant                  | scaled so that                             |
| -------------------- | ------------------------------------- | ------------------------------------------ |
| `RandomSphere`       | (l(l + 1) + τ²)^(-α), l >= 1          | the standard deviation at a point is `std` |
| `RandomShallowWater` | l (l + 1) E_l/(2l + 1), the vorticity | the wind's root mean square is `speed`     |

with the kinetic energy E_l = q⁴ exp(-2 q²) of a degree, q = l/`peak`.

The fields are isotropic: the coefficients of order 0 are real with variance C_l, the others complex with half of it in each part.
A coefficient is a pure function of (seed, sample, l, m), as for `GaussianRandomField`: a field at 32 x 64 is the truncation of
that at 64 x 128, whatever the batch, the device and the order of drawing. A grid carries the degrees up to its `highest_degree`.

A flow starts in balance, without divergence and without its change (`ShallowWaterSphere.balanced`), so that few gravity
waves are among the data, or else as vorticity under a flat surface, which radiates them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from opkernels.solvers.random_fields import check_draw, mode_normals
from opkernels.solvers.shallow_water_sphere import ROTATION, ShallowWaterSphere
from opkernels.solvers.spectral import number, parameter
from opkernels.sphere import Sphere, SphereGrid
from opkernels.spherical import Harmonics

__all__ = ["RandomShallowWater", "RandomSphere"]

_REACH = 1000  # degrees that are counted in the variance of a field without a cutoff
_BLOCK = 1 << 21  # samples of all fields that are made at once


class RandomSphere:
    """Isotropic Gaussian random field with a power-law spectrum; module docstring for the formula.

    Parameters
    ----------
    domain : Sphere
    alpha : float
        Decay; above 1 for a finite variance under refinement.
    tau : float
        Degree at which the spectrum bends: structures are about the radius over tau wide.
    std : float
        Standard deviation at a point, of the whole field whatever the grid.
    mean : float
        m, in place of the coefficient of degree 0.
    cutoff : int, optional
        Largest degree; with it any `alpha` will do.
    spectrum : callable, optional
        C_l up to a constant as a function of the degrees (a float64 tensor), in place of the power law.

    Examples
    --------
    >>> from opkernels import Sphere
    >>> RandomSphere(Sphere(), alpha=2.5, tau=7.0).sample(8, (32, 64), seed=0).shape
    torch.Size([8, 1, 32, 64])
    """

    def __init__(
        self,
        domain: Sphere,
        *,
        alpha: float = 2.5,
        tau: float = 7.0,
        std: float = 1.0,
        mean: float = 0.0,
        cutoff: int | None = None,
        spectrum: Callable[[Tensor], Tensor] | None = None,
    ):
        if not isinstance(domain, Sphere):
            raise ValueError(f"RandomSphere got domain={domain!r}; give a Sphere")
        if cutoff is not None and (isinstance(cutoff, bool) or not isinstance(cutoff, int) or cutoff < 1):
            raise ValueError(f"RandomSphere got cutoff={cutoff!r}; give the largest degree, a whole number of at least 1")
        self.domain, self.cutoff, self.spectrum = domain, cutoff, spectrum
        self.alpha, self.tau = number(alpha, "alpha"), float(parameter(tau, "tau", lowest=0.0))
        self.std, self.mean = float(parameter(std, "std", lowest=0.0)), number(mean, "mean")
        if spectrum is None and cutoff is None and self.alpha <= 1:
            raise ValueError(
                f"RandomSphere got alpha={self.alpha:g}; give alpha > 1 or a cutoff, or the variance grows without bound under refinement"
            )
        ell = torch.arange((cutoff or _REACH) + 1, dtype=torch.float64)
        total = float(((2 * ell + 1) * self._shape(ell)).sum()) / (4 * math.pi)
        if not (math.isfinite(total) and total > 0):
            raise ValueError(
                f"RandomSphere got a spectrum whose sum over degrees 1 to {len(ell) - 1} is {total:g}; give one that is positive"
            )
        self._scale = self.std**2 / total

    def _shape(self, ell: Tensor) -> Tensor:
        degree = ell.clamp_min(1)
        shape = (degree * (degree + 1) + self.tau**2).pow(-self.alpha) if self.spectrum is None else self.spectrum(degree)
        return torch.where(ell > 0, shape, 0.0)

    def variance(self, ell: Tensor) -> Tensor:
        """Return C_l at degrees l."""
        kept = torch.ones_like(ell, dtype=torch.bool) if self.cutoff is None else ell <= self.cutoff
        return torch.where(kept, self._scale * self._shape(ell.double()), 0.0)

    def coefficients(self, n: int, degree: int, *, seed: int, start: int = 0) -> Tensor:
        """Return the coefficients f_lm themselves, (n, degree + 1, degree + 1) in complex128, the mean's left out."""
        check_draw("RandomSphere", n, start, seed)
        last = degree if self.cutoff is None else min(degree, self.cutoff)
        ell, m = np.tril_indices(last + 1)
        first, second = mode_normals(np.stack([ell, m, 0 * m], axis=1), np.arange(start, start + n), int(seed))
        scale = self.variance(torch.from_numpy(ell)).sqrt().numpy()
        out = np.zeros((n, degree + 1, degree + 1), dtype=np.complex128)
        out[:, ell, m] = np.where(m == 0, first, math.sqrt(0.5) * (first + 1j * second)) * scale
        return torch.from_numpy(out)

    def sample(
        self,
        n: int,
        shape: tuple[int, int],
        *,
        seed: int,
        start: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw the samples number start .. start + n - 1 of the stream `seed`, (n, 1, lat, lon); see `GaussianRandomField.sample`."""
        check_draw("RandomSphere", n, start, seed)
        grid = self.domain.grid(shape)
        out = torch.empty(n, 1, *grid.shape, dtype=dtype or torch.get_default_dtype(), device=device)
        block = max(1, _BLOCK // math.prod(grid.shape))
        for first in range(0, n, block):
            count = min(block, n - first)
            z = self.coefficients(count, grid.highest_degree, seed=seed, start=start + first)
            out[first : first + count, 0] = (Harmonics(grid.highest_degree).synthesize(z, grid) + self.mean).to(out.dtype)
        return out


class RandomShallowWater:
    """Random flows on the sphere, states of `ShallowWaterSphere` (geopotential, vorticity, divergence).

    Parameters
    ----------
    domain : Sphere
    speed : float
        Root mean square of the wind in m/s.
    peak : float
        Degree at which the kinetic energy is largest: there are about `peak` highs around a circle.
    cutoff : int, optional
        Largest degree of the vorticity; by default twice the peak, beyond which little is left.
    balanced : bool
        Whether the geopotential balances the wind; otherwise it is 0.
    rotation : float
        Ω of the solver; the ground is flat (over another one take ``solver.balanced`` of the vorticity).

    Notes
    -----
    The balance is found once, on a grid that carries it to twice the cutoff, and is the same function on every grid. The
    geopotential grows with the speed and falls with the peak: 20 m/s at peak 6 makes 2000 m²/s² rms on the Earth, where 10 km weigh 98000.

    Examples
    --------
    >>> from opkernels import Sphere
    >>> RandomShallowWater(Sphere(6.37122e6), speed=20.0, peak=6.0).sample(4, (32, 64), seed=0).shape
    torch.Size([4, 3, 32, 64])
    """

    fields = ShallowWaterSphere.fields
    vector = True  # a recipe gives its components to the fields of a solver

    def __init__(
        self,
        domain: Sphere,
        *,
        speed: float = 20.0,
        peak: float = 6.0,
        cutoff: int | None = None,
        balanced: bool = True,
        rotation: float = ROTATION,
    ):
        self.speed, self.peak = float(parameter(speed, "speed", lowest=0.0)), float(parameter(peak, "peak", above=0.0))
        if not isinstance(balanced, bool):
            raise ValueError(f"RandomShallowWater got balanced={balanced!r}; give True or False")
        self.domain, self.balanced = domain, balanced
        self.cutoff = max(2, math.ceil(2 * self.peak)) if cutoff is None else cutoff
        self._vorticity = RandomSphere(domain, spectrum=self._shape, cutoff=self.cutoff)
        ell = torch.arange(1, self.cutoff + 1, dtype=torch.float64)
        power = (2 * ell + 1) * self._vorticity.variance(ell) / (4 * math.pi)  # of the vorticity
        self._factor = self.speed / math.sqrt(float((power * domain.radius**2 / (ell * (ell + 1))).sum()))
        self._solver = ShallowWaterSphere(Sphere(domain.radius), mean_depth=1.0, rotation=number(rotation, "rotation"))

    def _shape(self, ell: Tensor) -> Tensor:
        q = ell / self.peak
        return q**4 * torch.exp(-2 * q**2) * ell * (ell + 1) / (2 * ell + 1)

    def coefficients(self, n: int, degree: int, *, seed: int, start: int = 0) -> Tensor:
        """Return the coefficients of Φ', ζ and δ, (n, 3, degree + 1, degree + 1) in complex128."""
        inner, grid = self._inner()
        zeta = self._factor * self._vorticity.coefficients(n, inner.degree, seed=seed, start=start)
        state = torch.stack([torch.zeros_like(zeta), zeta, torch.zeros_like(zeta)], dim=1)
        if self.balanced:
            u = self._solver.balanced(inner.synthesize(zeta, grid)[:, None])
            state[:, 0] = inner.analyze(u[:, 0], grid)
        return Harmonics(degree).resized(state)

    def _inner(self) -> tuple[Harmonics, SphereGrid]:
        """Return the harmonics that carry the balance, and a grid that carries their products."""
        harmonics = Harmonics(2 * self.cutoff)
        nlat = (3 * harmonics.degree + 2) // 2
        return harmonics, self._solver.domain.grid(nlat, 2 * nlat)

    def sample(self, n: int, shape: tuple[int, int], *, seed: int, start: int = 0, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Draw the samples number start .. start + n - 1 of the stream `seed`, (n, 3, lat, lon); see `GaussianRandomField.sample`."""
        check_draw("RandomShallowWater", n, start, seed)
        grid = self.domain.grid(shape)
        out = torch.empty(n, 3, *grid.shape, dtype=dtype or torch.get_default_dtype(), device=device)
        block = max(1, _BLOCK // (3 * math.prod(grid.shape)))
        for first in range(0, n, block):
            count = min(block, n - first)
            z = self.coefficients(count, grid.highest_degree, seed=seed, start=start + first)
            out[first : first + count] = Harmonics(grid.highest_degree).synthesize(z, grid).to(out.dtype)
        return out
