"""Operations on coefficients against the same operations on samples."""

import math

import pytest
import torch

from opkernels.bases import Basis, analyze, synthesize
from opkernels.coefficients import diffusion_factor, energy_share, relative_error, sobolev_weights, translate, values_at
from opkernels.domains import Axis, Domain
from opkernels.metrics import rel_h1, rel_l2

TORUS = Domain.periodic(2.0, 3.0)
CHANNEL = Domain((Axis(-1, 1, periodic=True, points="node"), Axis(0, 3)))
FOURIER = [Basis("fourier", 9), Basis("fourier", 7)]


def random_coefficients(bases, batch=2):
    torch.manual_seed(0)
    return torch.randn(batch, 3, *[b.size for b in bases], dtype=torch.float64)


def test_rotated_modes_are_the_moved_function():
    z, grid = random_coefficients(FOURIER), TORUS.grid(20, 18)
    whole = translate(z, FOURIER, TORUS, torch.tensor([3 * 2.0 / 20, -2 * 3.0 / 18], dtype=torch.float64))
    torch.testing.assert_close(synthesize(whole, grid, FOURIER), synthesize(z, grid, FOURIER).roll((3, -2), (2, 3)), rtol=0, atol=1e-13)
    shifts = torch.tensor([[0.123, 0.0], [0.4, -7.7]], dtype=torch.float64)  # any length, one per sample
    points = torch.rand(11, 2, dtype=torch.float64)
    there = values_at(z, points - shifts[:, None], FOURIER, TORUS)
    torch.testing.assert_close(values_at(translate(z, FOURIER, TORUS, shifts), points, FOURIER, TORUS), there, rtol=0, atol=1e-12)


def test_axes_with_walls_are_not_moved():
    bases = [Basis("fourier", 9), Basis("cosine", 5)]
    z = random_coefficients(bases)
    moved = translate(z, bases, CHANNEL, torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(moved.square().sum(2), z.square().sum(2))
    with pytest.raises(ValueError, match='a shift along axis y, whose basis is "cosine"; only Fourier axes can be moved'):
        translate(z, bases, CHANNEL, torch.tensor([0.0, 0.1]))
    with pytest.raises(ValueError, match=r"shifts of shape \(3,\); expected \(2,\) or \(2, 2\)"):
        translate(z, bases, CHANNEL, torch.zeros(3))
    with pytest.raises(ValueError, match="points as list; give a tensor of shape"):
        values_at(z, [[0.0, 0.0]], bases, CHANNEL)  # type: ignore
    with pytest.raises(ValueError, match="a cosine or a sine without its partner"):
        translate(z[:, :, :2], [Basis("fourier", 9, (0, 1)), bases[1]], CHANNEL, torch.tensor([0.1, 0.0]))


def test_diffusion_is_the_solution_of_the_heat_equation():
    bases, grid = [Basis("fourier", 9), Basis("cosine", 7)], CHANNEL.grid(24, 24)
    x, y = grid.coordinates(dtype=torch.float64)
    u = (torch.sin(3 * math.pi * x) * torch.cos(4 * math.pi * y / 3))[None, None]
    later = synthesize(analyze(u, grid, bases) * diffusion_factor(bases, CHANNEL, 0.01, dtype=torch.float64), grid, bases)
    torch.testing.assert_close(later, u * math.exp(-0.01 * math.pi**2 * (9 + 16 / 9)), rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match='"legendre" of axis x has no wave numbers; choose fourier, cosine or sine'):
        diffusion_factor([Basis("legendre", 4)], Domain.box(1.0), 0.1)


@pytest.mark.parametrize(
    "domain, kinds", [(TORUS, ("fourier", "fourier")), (Domain.box(1.0, 2.0, points="gauss"), ("legendre", "legendre"))]
)
def test_errors_by_parseval_are_those_of_the_samples(domain, kinds):
    """Also where the truth has modes that the prediction has not: they are part of the norm and of the error."""
    grid, bases, more = domain.grid(26, 28), [Basis(k, 7) for k in kinds], [Basis(k, 13) for k in kinds]
    z, target = random_coefficients(bases), random_coefficients(more)
    truth = synthesize(target, grid, more)
    inside = analyze(truth, grid, bases)
    rest = target.square().sum((1, 2, 3)) - inside.square().sum((1, 2, 3))
    expected = rel_l2(synthesize(z, grid, bases), truth, grid)
    torch.testing.assert_close(relative_error(z, inside, rest), expected)
    torch.testing.assert_close(relative_error(inside, inside).item(), 0.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("domain, bases", [(TORUS, FOURIER)])
def test_sobolev_errors_are_diagonal(domain, bases):
    z, target, grid = random_coefficients(bases), random_coefficients(bases).flip(0), domain.grid(20, 22)
    error = relative_error(z, target, weights=sobolev_weights(bases, domain, 1.0, dtype=torch.float64))
    torch.testing.assert_close(error, rel_h1(synthesize(z, grid, bases), synthesize(target, grid, bases), grid))


def test_values_are_differentiable_in_coefficients_and_positions():
    bases = [Basis("fourier", 5), Basis("chebyshev", 3)]
    z = random_coefficients(bases).requires_grad_()
    points = torch.rand(2, 4, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, p: values_at(z, p, bases, CHANNEL), (z, points))


def test_values_at_points_keep_float32_under_autocast():
    z, points = random_coefficients(FOURIER).float(), torch.rand(9, 2)
    with torch.autocast("cpu", torch.bfloat16):
        y = values_at(z, points, FOURIER, TORUS)
    torch.testing.assert_close(y, values_at(z, points, FOURIER, TORUS), rtol=0, atol=0)


def test_the_share_of_energy_is_that_of_the_kept_modes():
    grid, few, many = TORUS.grid(24, 25), [Basis("fourier", 5)] * 2, [Basis("fourier", 11)] * 2
    z = random_coefficients(many)
    share = z[:, :, :5, :5].square().sum() / z.square().sum()
    assert energy_share(synthesize(z, grid, many), grid, few) == pytest.approx(share.item(), abs=1e-12)
    with pytest.raises(ValueError, match="zero everywhere, which have no energy"):
        energy_share(torch.zeros(1, 1, 24, 25), grid, few)
