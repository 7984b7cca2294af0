"""Gaussian random fields that are the same function on every grid.

    u(x) = m + Σ_n c_n e_n(x),     E|c_n|² = λ_n = σ² (|κ_n|² + τ²)^(-α),     c_0 = 0

| symbol | meaning                                                                                  |
| ------ | ---------------------------------------------------------------------------------------- |
| e_n    | exp(2πi n·x/L) on periodic axes, κ = 2π n/L; √2 cos(πk x/L) (1 for k = 0), κ = π k/L, between walls |
| α, τ   | decay of the spectrum and inverse correlation length (1/length)                          |
| σ      | amplitude; by default τ^(α - d/2), which keeps the point variance of order one           |

So u is a draw from N(m, σ² (-Δ + τ²)^(-α)), with Neumann conditions at walls. The coefficient of a
mode is a pure function of (seed, sample, mode): two normals from the counter-based generator
Philox-4x32-10 with the mode numbers and the sample as its counter. Nothing else is consumed, so the
field at 64 is the truncation of the field at 128, sample 5 of a batch is sample 5 drawn alone, and
device, dtype and order of drawing play no part. A mode belongs to a grid if 2|n| < N on each
periodic axis and k < number of intervals between walls.

References
----------
J. K. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC'11, doi:10.1145/2063384.2063405.
Z. Li et al., Fourier neural operator for parametric partial differential equations,
arXiv:2010.08895, and its public code (the conventions).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.solvers.spectral import parameter

__all__ = ["GaussianRandomField", "check_draw", "mode_normals", "mode_uniforms"]

CONVENTIONS = {"torch2022": 1.0, "paper2020": 2.0}  # E|c_n|² / λ_n
_LOW = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_CHUNK = 1 << 15  # counters drawn at once, so that they stay in cache


def _philox(counter: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Return four 32-bit words for counters of four 32-bit words (uint64 arrays), Philox-4x32-10."""
    a, b, c, d = counter
    k0, k1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    shift = np.uint64(32)
    for _ in range(10):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (right >> shift) ^ b ^ np.uint64(k0), right & _LOW, (left >> shift) ^ d ^ np.uint64(k1), left & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return [a, b, c, d]


def _drawn(modes: np.ndarray, samples: np.ndarray, seed: int, finish: Callable) -> np.ndarray:
    """Return finish(u, v) of two independent uniform numbers in [0, 1) for each sample and mode, (2, S, M)."""
    words = (modes.astype(np.int64) & 0xFFFFFFFF).astype(np.uint64)
    out = np.empty((2, len(samples), len(words)))
    block = max(1, _CHUNK // max(1, len(words)))
    for first in range(0, len(samples), block):
        sample = samples[first : first + block].astype(np.uint64)[:, None]
        for start in range(0, len(words), _CHUNK):
            n1, n2, n3 = words[start : start + _CHUNK].T
            a, b, c, d = _philox([n1[None], n2[None], n3[None], sample], seed)
            u, v = (((high >> np.uint64(5)) * 67108864.0 + (low >> np.uint64(6))) / 2.0**53 for high, low in ((a, b), (c, d)))
            place = np.s_[first : first + block, start : start + _CHUNK]
            out[0][place], out[1][place] = finish(u, v)
    return out


def mode_uniforms(modes: np.ndarray, samples: np.ndarray, seed: int) -> np.ndarray:
    """Return two independent uniform numbers in [0, 1) for each sample and mode; as `mode_normals`, which is made of them."""
    return _drawn(modes, samples, seed, lambda u, v: (u, v))


def mode_normals(modes: np.ndarray, samples: np.ndarray, seed: int) -> np.ndarray:
    """Return two independent standard normals for each sample and mode.

    Parameters
    ----------
    modes : int array, (M, 3)
        Mode numbers (pad with zeros below three dimensions).
    samples : int array, (S,)
        Numbers of the samples.
    seed : int
        64-bit seed.

    Returns
    -------
    float64 array, (2, S, M)
    """

    def polar(u, v):
        radius = np.sqrt(-2.0 * np.log(u + 2.0**-53))  # in (0, 1], so that the logarithm is finite
        return radius * np.cos(2 * math.pi * v), radius * np.sin(2 * math.pi * v)

    return _drawn(modes, samples, seed, polar)


def check_draw(name: str, n: int, start: int, seed: int) -> None:
    """Refuse numbers of samples and seeds that are not whole numbers of 32 and 64 bits.

    Raises
    ------
    ValueError
    """
    for what, value, top in (("n", n, 1 << 32), ("start", start, 1 << 32), ("seed", seed, 1 << 64)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < top:
            raise ValueError(f"{name}.sample got {what}={value!r}; give a whole number from 0 to {top - 1}")


class GaussianRandomField:
    """Gaussian random field with a power-law spectrum; module docstring for the formula.

    Parameters
    ----------
    domain : Domain
        One to three axes, each periodic or between walls (Neumann).
    alpha, tau, sigma : float
        Spectrum; ``alpha > d/2`` for a finite variance under refinement.
    mean : float
        m.
    convention : {"torch2022", "paper2020"}
        Published generators differ by a factor: "torch2022" is the measure above, E|c_n|² = λ_n;
        "paper2020" drew real and imaginary parts of variance one each, E|c_n|² = 2 λ_n (periodic only).
    spectrum : callable, optional
        λ as a function of the wave number |κ| (a float64 tensor), in place of the power law.
    cutoff : float, optional
        Modes of larger |κ| are left out; with it any `alpha` has a finite variance: alpha=0 is white
        noise as far as the cutoff.

    Raises
    ------
    ValueError
        For a spectrum without finite variance, an unknown convention, or more than three axes.

    Examples
    --------
    >>> from opkernels import Domain
    >>> field = GaussianRandomField(Domain.periodic(1.0, 1.0), alpha=2.5, tau=7.0)
    >>> field.sample(8, (64, 64), seed=0).shape
    torch.Size([8, 1, 64, 64])
    """

    def __init__(
        self,
        domain: Domain,
        *,
        alpha: float = 2.5,
        tau: float = 7.0,
        sigma: float | None = None,
        mean: float = 0.0,
        convention: str = "torch2022",
        spectrum: Callable[[Tensor], Tensor] | None = None,
        cutoff: float | None = None,
    ):
        if not isinstance(domain, Domain) or domain.ndim > 3:
            raise ValueError(f"GaussianRandomField got domain={domain!r}; give a Domain of one to three axes")
        if convention not in CONVENTIONS:
            raise ValueError(f"GaussianRandomField got convention={convention!r}; choose one of {', '.join(CONVENTIONS)}")
        if convention == "paper2020" and not all(axis.periodic for axis in domain.axes):
            raise ValueError('convention="paper2020" is defined on periodic domains only; use "torch2022" between walls')
        self.domain, self.convention, self.spectrum = domain, convention, spectrum
        self.alpha, self.tau = parameter(alpha, "alpha"), parameter(tau, "tau", lowest=0.0)
        self.cutoff = None if cutoff is None else parameter(cutoff, "cutoff", above=0.0)
        if spectrum is None and cutoff is None and self.alpha <= domain.ndim / 2:
            raise ValueError(
                f"GaussianRandomField got alpha={alpha:g} in {domain.ndim}-D; give alpha > {domain.ndim / 2:g} or a cutoff, "
                "or the variance grows without bound under refinement"
            )
        if sigma is None and self.tau == 0 and spectrum is None:
            raise ValueError("GaussianRandomField got tau=0 without sigma; give the amplitude sigma")
        default = 1.0 if sigma is not None or spectrum is not None else self.tau ** (self.alpha - domain.ndim / 2)
        self.sigma = default if sigma is None else parameter(sigma, "sigma", lowest=0.0)
        self.mean = parameter(mean, "mean")

    def variance(self, kappa: Tensor) -> Tensor:
        """Return E|c_n|² at wave numbers |κ|; the mean mode has none."""
        if self.spectrum is not None:
            lam = self.sigma**2 * self.spectrum(kappa)
        else:
            lam = self.sigma**2 * (kappa.square() + self.tau**2).pow(-self.alpha)
        kept = kappa > 0 if self.cutoff is None else (kappa > 0) & (kappa <= self.cutoff)
        return torch.where(kept, CONVENTIONS[self.convention] * lam, 0.0)

    def sample(
        self,
        n: int,
        shape: tuple[int, ...],
        *,
        seed: int,
        start: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw the samples number start .. start + n - 1 of the stream `seed`.

        Parameters
        ----------
        n : int
            How many.
        shape : tuple of int
            Grid, one size per axis.
        seed : int
            Any integer from 0 to 2⁶⁴ - 1; different seeds are independent.
        start : int
            Number of the first sample: ``sample(1, shape, seed=s, start=5)`` is sample 5 of any batch.
        device, dtype
            Where to put the fields; drawn on the CPU in float64 in any case.

        Returns
        -------
        Tensor, (n, 1, *shape)
        """
        check_draw("GaussianRandomField", n, start, seed)
        grid = self.domain.grid(*shape)
        dtype = dtype or torch.get_default_dtype()
        out = torch.empty(n, 1, *grid.shape, dtype=dtype, device=device)
        plan = _Plan(grid, self.variance)
        block = max(1, (1 << 21) // math.prod(grid.shape))  # samples synthesized at once
        for first in range(0, n, block):
            numbers = np.arange(start + first, start + min(n, first + block))
            out[first : first + block, 0] = plan.synthesize(plan.draw(numbers, int(seed))).to(dtype) + self.mean
        return out

    def coefficients(self, n: int, shape: tuple[int, ...], *, seed: int, start: int = 0) -> Tensor:
        """Return the coefficients c_n themselves, (n, *modes) in complex128.

        Periodic axes are in the order of ``torch.fft``, the last periodic one halved; axes with
        walls hold k = 0, 1, ...; entries outside the grid's modes are zero.
        """
        return _Plan(self.domain.grid(*shape), self.variance).draw(np.arange(start, start + n), int(seed))


class _Plan:
    """The modes of one grid: which of them are drawn, how large they are, where they go."""

    def __init__(self, grid: Grid, variance: Callable[[Tensor], Tensor]):
        self.grid = grid
        axes = grid.domain.axes
        self.periodic = [a for a, axis in enumerate(axes) if axis.periodic]
        numbers, sizes = [], []
        for a, (axis, n) in enumerate(zip(axes, grid.shape, strict=True)):
            k = np.arange(n // 2 + 1 if axis.periodic and a == self.periodic[-1] else n)
            k = np.where(2 * k >= n, k - n, k) if axis.periodic else k
            numbers.append(k)
            sizes.append((2 * math.pi if axis.periodic else math.pi) / axis.length)
        mesh = np.stack(np.meshgrid(*numbers, indexing="ij"))
        inside = np.ones(mesh.shape[1:], dtype=bool)
        for axis, n, k in zip(axes, grid.shape, mesh, strict=True):
            inside &= 2 * np.abs(k) < n if axis.periodic else k < n - (axis.points == "endpoint")
        self.shape, self.inside = inside.shape, inside
        modes = mesh[:, inside].T
        # of a pair n, -n on the periodic axes the one whose last non-zero number is positive is drawn
        sign = np.ones(len(modes), dtype=np.int64)
        undecided = np.ones(len(modes), dtype=bool)
        for a in reversed(self.periodic):
            sign[undecided & (modes[:, a] < 0)] = -1
            undecided &= modes[:, a] == 0
        for a in self.periodic:
            modes[:, a] *= sign
        self.sign, self.real = sign, undecided
        self.modes = np.pad(modes, ((0, 0), (0, 3 - len(axes))))
        kappa = np.sqrt(sum((modes[:, a] * size) ** 2 for a, size in enumerate(sizes)))
        self.scale = variance(torch.from_numpy(kappa)).sqrt().numpy()

    def draw(self, samples: np.ndarray, seed: int) -> Tensor:
        first, second = mode_normals(self.modes, samples, seed)
        first *= self.scale * np.where(self.real, 1.0, math.sqrt(0.5))
        second *= self.scale * np.where(self.real, 0.0, math.sqrt(0.5) * self.sign)
        out = np.zeros((len(samples), *self.shape), dtype=np.complex128)
        out[:, self.inside] = first + 1j * second
        return torch.from_numpy(out)

    def synthesize(self, c: Tensor) -> Tensor:
        """Return Σ_n c_n e_n at the samples of the grid, (S, *shape) in float64."""
        axes, shape = self.grid.domain.axes, self.grid.shape
        for a, (axis, n) in enumerate(zip(axes, shape, strict=True)):
            if not axis.periodic:
                basis = _cosines(axis, n).to(c.dtype if self.periodic else torch.float64)
                c = torch.movedim(torch.movedim(c if self.periodic else c.real, a + 1, -1) @ basis.T, -1, a + 1)
            elif axis.offset:
                k = torch.arange(c.shape[a + 1], dtype=torch.float64)
                k = torch.where(2 * k >= n, k - n, k)
                shift = torch.polar(torch.ones_like(k), 2 * math.pi * axis.offset / n * k)
                c = c * shift.reshape([-1 if b == a + 1 else 1 for b in range(c.ndim)])
        if not self.periodic:
            return c
        rest = [a + 1 for a in self.periodic[:-1]]
        if rest:
            c = torch.fft.ifftn(c, dim=rest, norm="forward")
        last = self.periodic[-1]
        return torch.fft.irfft(c, n=shape[last], dim=last + 1, norm="forward")


def _cosines(axis, n: int) -> Tensor:
    """Return √2 cos(πk (x - lower)/L) (1 for k = 0) at the samples, (n, n)."""
    x = (axis.coordinates(n, dtype=torch.float64) - axis.lower) / axis.length
    basis = math.sqrt(2) * torch.cos(math.pi * x[:, None] * torch.arange(n, dtype=torch.float64))
    basis[:, 0] = 1.0
    return basis
