"""Random initial states in closed form: sums of waves and of bumps, the same function on every grid.

    waves   u(x) = m + Σ_j A_j sin(2π Σ_a l_ja (x_a - lower_a)/L_a + φ_j)
    bumps   u(x) = m + Σ_j A_j Π_a g_a(x_a - c_ja; w_j)

| symbol | meaning                     | law                                                     |
| ------ | --------------------------- | ------------------------------------------------------- |
| A_j    | amplitude                   | uniform: `RandomWaves` in [-A, A], `RandomBumps` in a range |
| l_ja   | whole number of waves       | uniform in a range, with a random sign on all axes but the first |
| φ_j    | phase                       | uniform in [0, 2π)                                      |
| c_ja   | center                      | uniform over the domain                                 |
| w_j    | width (length)              | uniform in a range                                      |
| g_a    | exp(-d²/(2w²)) between walls; exp((cos κd - 1)/(κw)²), κ = 2π/L, the same near its center, on periodic axes |

Every number is a function of (seed, sample, j), drawn as in `random_fields`.

References
----------
J. Brandstetter, M. Welling, D. E. Worrall, Lie point symmetry data augmentation for neural PDE solvers,
arXiv:2202.07643, and its public code (waves for KdV and KS). M. Takamoto et al., PDEBench,
arXiv:2210.07182 (waves for advection and Burgers).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.solvers.random_fields import check_draw, mode_uniforms
from opkernels.solvers.spectral import parameter

__all__ = ["RandomBumps", "RandomWaves"]

_WAVES, _BUMPS = 1, 2  # streams of the generator
_LETTERS = "abc"


class RandomWaves:
    """Sums of a few sine waves on a torus; module docstring for the formula.

    Parameters
    ----------
    domain : Domain
        One to three periodic axes.
    count : int
        Waves in each sample.
    numbers : pair of int
        Smallest and largest whole number of waves along an axis, both included.
    amplitude : float
        A: amplitudes are uniform in [-A, A].
    mean : float
        m.

    Notes
    -----
    Good values: ten waves of numbers 1 and 2 and amplitude 1/2 (Brandstetter et al. 2022); two of
    numbers 1 to 8 and amplitude 1 (PDEBench). A grid must carry the largest number, or they alias.

    Examples
    --------
    >>> from opkernels import Domain
    >>> RandomWaves(Domain.periodic(64.0)).sample(4, (128,), seed=0).shape
    torch.Size([4, 1, 128])
    """

    pointwise = True  # sampled at the points of any grid, with nothing to truncate

    def __init__(self, domain: Domain, *, count: int = 10, numbers: tuple[int, int] = (1, 2), amplitude: float = 0.5, mean: float = 0.0):
        _check_domain("RandomWaves", domain)
        domain.require_periodic("RandomWaves")
        self.domain, self.mean = domain, parameter(mean, "mean")
        self.count = _whole_pair("RandomWaves", "count", (count, count), 1)[0]
        self.numbers = _whole_pair("RandomWaves", "numbers", numbers, 0)
        self.amplitude = parameter(amplitude, "amplitude", lowest=0.0)

    def sample(self, n: int, shape: tuple[int, ...], *, seed: int, start: int = 0, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Draw the samples number start .. start + n - 1 of the stream `seed`, (n, 1, *shape); see `GaussianRandomField.sample`."""
        check_draw("RandomWaves", n, start, seed)
        grid, low, high = self.domain.grid(*shape), *self.numbers
        u = _uniforms(self.count, _WAVES, n, start, seed)  # (8, n, count)
        waves = ((2 * u[0] - 1) * self.amplitude) * torch.exp(2j * math.pi * u[1])
        factors = []
        for a, (axis, size) in enumerate(zip(grid.domain.axes, grid.shape, strict=True)):
            number = (low + (u[2 + a] * (high - low + 1)).floor()) * (1 if a == 0 else torch.where(u[5 + a - 1] < 0.5, -1.0, 1.0))
            x = (axis.coordinates(size, dtype=torch.float64) - axis.lower) / axis.length
            factors.append(torch.exp(2j * math.pi * number[..., None] * x))
        return _finish(_product(waves, factors).imag + self.mean, dtype, device)


class RandomBumps:
    """Sums of Gaussian bumps at random places; module docstring for the formula.

    Parameters
    ----------
    domain : Domain
        One to three axes, periodic or between walls.
    count : int or pair of int
        Bumps in each sample: a number, or the ends of a range from which each sample takes its own.
    width, amplitude : float or pair of float
        w > 0 and A, or the ends of their ranges.
    mean : float
        m.

    Notes
    -----
    Bumps may overlap, and those near a wall are cut by it. Good values: widths from 1/40 to 1/10 of
    the side. A grid must have two or three points per width, or their tops are missed.

    Examples
    --------
    >>> from opkernels import Domain
    >>> RandomBumps(Domain.periodic(1.0, 1.0), count=(2, 5), width=0.05).sample(4, (64, 64), seed=0).shape
    torch.Size([4, 1, 64, 64])
    """

    pointwise = True

    def __init__(
        self,
        domain: Domain,
        *,
        count: int | tuple[int, int] = (1, 10),
        width: float | tuple[float, float] = 0.05,
        amplitude: float | tuple[float, float] = 1.0,
        mean: float = 0.0,
    ):
        _check_domain("RandomBumps", domain)
        self.domain, self.mean = domain, parameter(mean, "mean")
        self.count = _whole_pair("RandomBumps", "count", count, 1)
        self.width, self.amplitude = (_range("RandomBumps", name, value) for name, value in (("width", width), ("amplitude", amplitude)))
        if self.width[0] <= 0:
            raise ValueError(f"RandomBumps got width={width!r}; give positive widths")

    def sample(self, n: int, shape: tuple[int, ...], *, seed: int, start: int = 0, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Draw the samples number start .. start + n - 1 of the stream `seed`, (n, 1, *shape); see `GaussianRandomField.sample`."""
        check_draw("RandomBumps", n, start, seed)
        grid, (low, high) = self.domain.grid(*shape), self.count
        u = _uniforms(high, _BUMPS, n, start, seed)  # (8, n, count)
        amount = low + (u[7, :, :1] * (high - low + 1)).floor()  # of the first bump's numbers: one for all of a sample
        amplitude = torch.where(torch.arange(high) < amount, _between(self.amplitude, u[0]), 0.0)
        width = _between(self.width, u[1])[..., None]
        factors = []
        for a, (axis, size) in enumerate(zip(grid.domain.axes, grid.shape, strict=True)):
            distance = axis.coordinates(size, dtype=torch.float64) - (axis.lower + axis.length * u[2 + a])[..., None]
            kappa = 2 * math.pi / axis.length
            square = 2 * (1 - torch.cos(kappa * distance)) / kappa**2 if axis.periodic else distance.square()
            factors.append(torch.exp(-square / (2 * width**2)))
        return _finish(_product(amplitude, factors) + self.mean, dtype, device)


def _uniforms(count: int, stream: int, n: int, start: int, seed: int) -> Tensor:
    """Return eight uniform numbers for each sample and part, (8, n, count)."""
    modes = np.array([[j, part, stream] for part in range(4) for j in range(count)])
    pairs = mode_uniforms(modes, np.arange(start, start + n), int(seed)).reshape(2, n, 4, count)
    return torch.from_numpy(pairs.transpose(2, 0, 1, 3).reshape(8, n, count))


def _product(weights: Tensor, factors: list[Tensor]) -> Tensor:
    """Return Σ_j weights_j Π_a factors_a, (n, *shape), from (n, count) and one (n, count, size) per axis."""
    letters = _LETTERS[: len(factors)]
    terms = ",".join(["nj", *(f"nj{letter}" for letter in letters)])
    return torch.einsum(f"{terms}->n{letters}", weights, *factors)


def _finish(u: Tensor, dtype: torch.dtype | None, device) -> Tensor:
    return u[:, None].to(device=device, dtype=dtype or torch.get_default_dtype())


def _between(ends: tuple[float, float], u: Tensor) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * u


def _check_domain(name: str, domain: Domain) -> None:
    if not isinstance(domain, Domain) or domain.ndim > 3:
        raise ValueError(f"{name} got domain={domain!r}; give a Domain of one to three axes")


def _range(name: str, what: str, value) -> tuple[float, float]:
    ends = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(ends) != 2 or not (parameter(ends[0], what) <= parameter(ends[1], what)):
        raise ValueError(f"{name} got {what}={value!r}; give a number, or the ends (low, high) of a range")
    return float(ends[0]), float(ends[1])


def _whole_pair(name: str, what: str, value, lowest: int) -> tuple[int, int]:
    low, high = _range(name, what, value)
    if low != int(low) or high != int(high) or low < lowest:
        raise ValueError(f"{name} got {what}={value!r}; give whole numbers of at least {lowest}")
    return int(low), int(high)
