r"""Split-conformal prediction for functions: scores that mean the same on every grid, and the quantile that makes them bands.

A score s(prediction, truth) is one number per sample. If the n calibration samples and a new one are exchangeable (drawn alike,
none of them used for training), then with the rank k = ceil((n + 1)(1 - alpha)) and q the k-th smallest of the n scores,

.. math:: 1 - \alpha \le P(s_{n+1} \le q) \le 1 - \alpha + \frac{1}{n + 1},

the upper bound where no scores tie. Nothing is assumed of the model or of the distribution. The probability is over the calibration
samples as well: for fixed ones the coverage is Beta(k, n + 1 - k) distributed, so that few of them give a band that is too
wide or too narrow by luck (`coverage_spread`).

| score | of a sample | its band |
| --- | --- | --- |
| `norm_score` | relative L2 error of p: norm(p - r) / norm(r), by quadrature | all functions u with norm(p - u) <= q norm(u) |
| `pointwise_score` | least t with abs(p - r) <= t sigma on a `share` of the domain | p - q sigma <= u <= p + q sigma, point by point |

Both are functionals of the functions: on functions that two grids resolve, for an operator that is the same on both, a sample has the
same score on both. Norms are exact on any grid that resolves the error. Quantiles over the domain are not (24 samples know nothing of
95 %), so prediction and truth are first interpolated to at least 4096 samples (`oversampled`). A quantile of scores found on one grid
then holds on the other, with the same guarantee. It does not where the scores are distributed otherwise: on grids too coarse for the
functions, or that show scales which the calibration grid hid; for models that are another operator on another grid; for
other initial states or parameters.

References
----------
V. Vovk, A. Gammerman, G. Shafer, Algorithmic Learning in a Random World, 2005. J. Lei et al., arXiv:1604.04173 (split conformal, scaled
scores). Z. Ma et al., arXiv:2402.01960 (operators: a band on a share of the domain). V. Vovk, arXiv:1209.2673 (the Beta law).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opkernels.domains import Grid
from opkernels.metrics import rel_l2
from opkernels.sphere import SphereGrid

__all__ = [
    "band_scale",
    "conformal_quantile",
    "conformal_rank",
    "coverage_spread",
    "domain_mean",
    "norm_score",
    "oversampled",
    "pointwise_score",
]

_POINTS = 4096  # a quantile over the domain is found among so many samples, or more

_SLACK = 1e-9  # (n + 1) coverage may be a whole number up to rounding, and so may a share of the domain


def conformal_rank(n: int, coverage: float) -> int:
    """Return k = ceil((n + 1) coverage), the rank among n scores that covers a new one with at least that probability.

    Raises
    ------
    ValueError
        If `coverage` is not between 0 and 1, or n is below 1/alpha - 1, alpha = 1 - coverage: then no finite band covers so much.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"got the coverage {coverage!r}; give a probability between 0 and 1, such as 0.9")
    k = math.ceil((n + 1) * coverage - _SLACK)
    if k > n:
        least = math.ceil(coverage / (1 - coverage) - _SLACK)
        raise ValueError(
            f"got {n} calibration samples for a coverage of {coverage:g}, which needs at least {least}; "
            + (f"give more, or ask for at most {math.floor(1000 * n / (n + 1)) / 1000:g}" if n else "give some")
        )
    return k


def conformal_quantile(scores: Tensor, coverage: float) -> Tensor:
    """Return the score (...) that a new sample exceeds with a probability of at most 1 - coverage.

    Parameters
    ----------
    scores : Tensor, (n, ...)
        Of the calibration samples; what is not a number counts as infinite.
    coverage : float
        1 - alpha, between 0 and 1.

    Raises
    ------
    ValueError
        As `conformal_rank`.

    Examples
    --------
    >>> import torch
    >>> conformal_quantile(torch.arange(1.0, 20.0), 0.9)  # the 18th of 19
    tensor(18.)
    """
    k = conformal_rank(len(scores), coverage)
    return scores.nan_to_num(nan=math.inf, posinf=math.inf).sort(0).values[k - 1]


def coverage_spread(n: int, m: int, coverage: float) -> tuple[float, float]:
    """Return mean and standard deviation of the share of m test samples that are covered, by n calibration samples.

    The number covered is Beta-binomial, with Beta(k, n + 1 - k); exact where scores do not tie.
    """
    k = conformal_rank(n, coverage)
    p = k / (n + 1)
    return p, math.sqrt(p * (1 - p) * (n + 1 + m) / (m * (n + 2)))


def norm_score(prediction: Tensor, truth: Tensor, grid: Grid | SphereGrid) -> Tensor:
    """Return the relative L2 error of each sample, (B,), over all fields: prediction and truth (B, C, *grid.shape)."""
    return rel_l2(prediction, truth, grid, reduction="none")


def pointwise_score(prediction: Tensor, scale: Tensor, truth: Tensor, grid: Grid | SphereGrid, share: float = 0.95) -> Tensor:
    """Return how many times the scale holds the error on a share of the domain, in every field: (B,).

    Parameters
    ----------
    prediction, scale, truth : Tensor, (B, C, *grid.shape)
        The scale is the half width of a band to be stretched, as `band_scale` makes it.
    grid : Grid or SphereGrid
        Its quadrature weights say how much of the domain a sample stands for.
    share : float
        Of the domain, above 0 and at most 1; 1 is the largest ratio at any sample. It is the most sensitive to single points, and
        grows with the resolution towards the true maximum.

    Raises
    ------
    ValueError
        If `share` is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"got the share {share!r} of the domain; give a number above 0 and at most 1, such as 0.95")
    ratio = ((prediction - truth).abs() / scale.clamp_min(torch.finfo(scale.dtype).tiny)).flatten(2)
    ratio, order = ratio.nan_to_num(nan=math.inf, posinf=math.inf).sort(-1)
    weights = grid.weights(ratio.device, ratio.dtype).flatten()[order] / grid.domain.measure
    held = weights.cumsum(-1) - weights / 2  # share of the domain where the ratio is smaller, half of the sample's own
    last = (held < share).sum(-1, keepdim=True).clamp(1, ratio.shape[-1] - 1)
    (low, high), (a, b) = ((v.gather(-1, last - 1), v.gather(-1, last)) for v in (ratio, held))
    between = low + ((share - a) / (b - a)).clamp(0, 1) * (high - low)
    return between.nan_to_num(nan=math.inf, posinf=math.inf).squeeze(-1).amax(1)


def oversampled(grid: Grid | SphereGrid) -> Grid | SphereGrid:
    """Return the grid, refined as often as it takes to hold 4096 samples."""
    return (
        grid.refined(math.ceil((_POINTS / math.prod(grid.shape)) ** (1 / grid.ndim) - _SLACK)) if math.prod(grid.shape) < _POINTS else grid
    )


def band_scale(spread: Tensor, grid: Grid | SphereGrid, shrinkage: float = 0.5) -> Tensor:
    r"""Return the spread with its variance drawn towards the variance's mean over the domain.

    .. math:: \tilde\sigma(x)^2 = (1 - \lambda)\, \sigma(x)^2 + \lambda\, \langle \sigma^2 \rangle

    A handful of members happens to agree at some points, where they may all be wrong; a band of width zero there would have to
    be stretched without end. The mean square over the domain stays what it was.

    Parameters
    ----------
    spread : Tensor, (B, C, *grid.shape)
    grid : Grid or SphereGrid
    shrinkage : float
        λ from 0 (the spread itself) to 1 (one width per sample and field).

    Raises
    ------
    ValueError
        If `shrinkage` is out of range.
    """
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"got shrinkage={shrinkage!r}; give a number from 0 to 1")
    variance = spread**2
    mean = domain_mean(variance, grid)[(..., *[None] * grid.ndim)]
    return ((1 - shrinkage) * variance + shrinkage * mean).sqrt()


def domain_mean(u: Tensor, grid: Grid | SphereGrid) -> Tensor:
    """Return the mean over the domain by quadrature: (..., *grid.shape) to (...)."""
    weights = grid.weights(u.device, u.dtype).flatten()
    return u.flatten(-grid.ndim) @ (weights / weights.sum())
