"""Scores and quantiles: the coverage that theory promises, measures of functions rather than samples, refusals."""

import math

import pytest
import torch

from opkernels import Axis, Domain, Sphere
from opkernels.evaluation.conformal import (
    band_scale,
    conformal_quantile,
    conformal_rank,
    coverage_spread,
    domain_mean,
    norm_score,
    pointwise_score,
)

F64: dict = {"dtype": torch.float64}


@pytest.mark.parametrize(("n", "coverage"), [(9, 0.9), (24, 0.9), (99, 0.8), (10, 0.5)])
def test_coverage_of_exchangeable_scores_is_exact(n, coverage):
    """Without ties a new score is below the k-th of n with probability k/(n + 1), whatever the distribution."""
    trials = 40_000
    scores = torch.randn(n + 1, trials, generator=torch.Generator().manual_seed(n), **F64).exp()
    scores *= torch.rand(trials, generator=torch.Generator().manual_seed(1), **F64) + 0.5  # exchangeable, not independent
    covered = (scores[n] <= conformal_quantile(scores[:n], coverage)).double().mean().item()
    expected = math.ceil((n + 1) * coverage - 1e-9) / (n + 1)
    assert expected >= coverage - 1e-12
    assert abs(covered - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)


def test_what_fluctuates_is_told():
    n, m, coverage, trials = 24, 40, 0.9, 20_000
    scores = torch.rand(n + m, trials, generator=torch.Generator().manual_seed(0), **F64)
    shares = (scores[n:] <= conformal_quantile(scores[:n], coverage)).double().mean(0)
    expected, deviation = coverage_spread(n, m, coverage)
    assert expected == 23 / 25
    assert abs(shares.mean().item() - expected) < 4 * deviation / math.sqrt(trials)
    assert abs(shares.std().item() / deviation - 1) < 0.03  # relative error of a standard deviation: 1/sqrt(2 trials), and skewness


@pytest.mark.parametrize(
    ("n", "coverage", "rank"), [(9, 0.9, 9), (19, 0.95, 19), (99, 0.9, 90), (999, 0.999, 999), (100, 0.9, 91), (1, 0.5, 1)]
)
def test_ranks_are_whole_where_they_should_be(n, coverage, rank):
    assert conformal_rank(n, coverage) == rank  # 100 * 0.9 is not 90 in every rounding


@pytest.mark.parametrize(("n", "coverage", "least"), [(8, 0.9, 9), (18, 0.95, 19), (5, 0.99, 99), (0, 0.5, 1)])
def test_too_few_samples_are_refused(n, coverage, least):
    with pytest.raises(ValueError, match=rf"got {n} calibration samples for a coverage of {coverage:g}, which needs at least {least};"):
        conformal_quantile(torch.rand(n), coverage)
    assert conformal_rank(least, coverage) == least


def test_the_coverage_that_is_suggested_can_be_had():
    with pytest.raises(ValueError, match="ask for at most 0.888"):
        conformal_rank(8, 0.9)
    assert conformal_rank(8, 0.888) == 8


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90, -0.1, math.nan])
def test_what_is_no_probability_is_refused(coverage):
    with pytest.raises(ValueError, match="give a probability between 0 and 1"):
        conformal_quantile(torch.rand(50), coverage)


def test_a_diverged_sample_counts_as_the_worst():
    scores = torch.arange(1.0, 10.0)
    scores[3] = math.nan
    assert conformal_quantile(scores, 0.9) == math.inf
    assert conformal_quantile(scores, 0.8) == 9.0


DOMAINS = {
    "cell": Domain.box(2.0),
    "endpoint": Domain((Axis(0.0, 2.0, points="endpoint"),)),
    "gauss": Domain((Axis(0.0, 2.0, points="gauss"),)),
}


@pytest.mark.parametrize("kind", DOMAINS)
@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])
def test_the_pointwise_score_is_a_quantile_over_the_domain(kind, share):
    """The error x² over the scale 2 is at most (2 share)²/2 on a share of [0, 2], whatever the quadrature."""
    for n, tolerance in ((33, 3e-2), (129, 3e-3), (513, 3e-4)):
        grid = DOMAINS[kind].grid(n)
        x = grid.coordinates(**F64)[0]
        score = pointwise_score((x**2)[None, None], torch.full((1, 1, n), 2.0, **F64), torch.zeros(1, 1, n, **F64), grid, share)
        assert abs(score.item() - 2 * share**2) < tolerance


def test_on_a_sphere_the_area_counts():
    """|sin(latitude)| is at most t on the share t of a sphere (Archimedes); rows at the poles would count too much without weights."""
    for sphere in (Sphere(3.0), Sphere(3.0, points="equiangular")):
        grid = sphere.grid(65, 16)
        height = torch.sin(grid.coordinates(**F64)[0]).abs()
        found = pointwise_score(height[None, None], torch.ones(1, 1, *grid.shape, **F64), torch.zeros(1, 1, *grid.shape, **F64), grid, 0.6)
        assert abs(found.item() - 0.6) < 0.02


def test_the_worst_field_counts_and_the_whole_domain_is_the_maximum():
    grid = Domain.periodic(1.0, 2.0).grid(6, 9)
    error = torch.rand(4, 3, 6, 9, generator=torch.Generator().manual_seed(0), **F64)
    one, zero = torch.ones_like(error), torch.zeros_like(error)
    torch.testing.assert_close(pointwise_score(error, one, zero, grid, 1.0), error.flatten(1).amax(1))
    each = torch.stack([pointwise_score(error[:, [c]], one[:, [c]], zero[:, [c]], grid, 0.7) for c in range(3)])
    torch.testing.assert_close(pointwise_score(error, one, zero, grid, 0.7), each.amax(0))
    torch.testing.assert_close(pointwise_score(error, 4 * one, zero, grid, 0.7), each.amax(0) / 4)
    torch.testing.assert_close(norm_score(1.25 * error, error, grid), torch.full((4,), 0.25, **F64))


def test_no_scale_and_no_number():
    grid = Domain.periodic(1.0).grid(8)
    zero = torch.zeros(1, 1, 8, **F64)
    assert pointwise_score(zero, zero, zero, grid) == 0
    assert pointwise_score(zero + 1, zero, zero, grid) > 1e300
    assert pointwise_score(zero + math.nan, zero + 1, zero, grid) == math.inf


def test_the_scale_keeps_its_mean_square():
    grid = Domain((Axis(0.0, 1.0, points="gauss"), Axis(0.0, 3.0, periodic=True))).grid(7, 10)
    spread = torch.rand(2, 3, 7, 10, generator=torch.Generator().manual_seed(0), **F64)
    spread[0, 0, 0, 0] = 0.0  # where the members agree, the band has a width all the same
    for shrinkage in (0.0, 0.3, 1.0):
        scale = band_scale(spread, grid, shrinkage)
        torch.testing.assert_close(domain_mean(scale**2, grid), domain_mean(spread**2, grid))
        assert (scale[0, 0, 0, 0] > 0) == (shrinkage > 0)
    torch.testing.assert_close(band_scale(spread, grid, 0.0), spread)
    assert band_scale(spread, grid, 1.0).flatten(2).std(-1).max() < 1e-12
    torch.testing.assert_close(domain_mean(torch.ones(7, 10, **F64), grid), torch.tensor(1.0, **F64))


def test_bad_shares_are_refused():
    grid, u = Domain.periodic(1.0).grid(8), torch.ones(1, 1, 8)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="give a number above 0 and at most 1"):
            pointwise_score(u, u, u, grid, share)
    with pytest.raises(ValueError, match="shrinkage=2; give a number from 0 to 1"):
        band_scale(u, grid, 2)
