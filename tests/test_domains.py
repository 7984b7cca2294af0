"""Axes, domains and grids: positions, weights, wave numbers, nesting, refusals."""

import math

import pytest
import torch

from opkernels.domains import Axis, Domain, Grid, _cache

KINDS = ["node", "cell", "endpoint", "gauss"]


def test_positions_of_every_kind_of_points():
    expected = {
        "node": [1.0, 1.5, 2.0, 2.5],
        "cell": [1.25, 1.75, 2.25, 2.75],
        "endpoint": [1.0, 1.0 + 2 / 3, 1.0 + 4 / 3, 3.0],
    }
    for points, values in expected.items():
        x = Axis(1.0, 3.0, points=points).coordinates(4, dtype=torch.float64)
        torch.testing.assert_close(x, torch.tensor(values, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("points", KINDS)
@pytest.mark.parametrize("n", [5, 8])
def test_weights_integrate_constants_and_sum_to_the_length(points, n):
    axis = Axis(-1.0, 2.5, points=points)
    assert axis.weights(n, dtype=torch.float64).sum().item() == pytest.approx(3.5, abs=1e-14)


def test_gauss_weights_integrate_polynomials_of_degree_2n_minus_1():
    axis = Axis(0.0, 2.0, points="gauss")
    x, w = axis.coordinates(4, dtype=torch.float64), axis.weights(4, dtype=torch.float64)
    assert (w * x**7).sum().item() == pytest.approx(2**8 / 8, rel=1e-13)
    assert (w * x**8).sum().item() != pytest.approx(2**9 / 9, rel=1e-6)


@pytest.mark.parametrize(("points", "order"), [("cell", 2), ("endpoint", 2), ("node", 1)])
def test_quadrature_orders_on_an_axis_with_walls(points, order):
    axis = Axis(0.0, 1.0, points=points)
    errors = []
    for n in (16, 32, 64, 128, 256):
        x, w = axis.coordinates(n, dtype=torch.float64), axis.weights(n, dtype=torch.float64)
        errors.append(abs((w * x.exp()).sum().item() - (math.e - 1)))
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(s - order) < 0.15 for s in slopes)


@pytest.mark.parametrize(("points", "factor", "n"), [("node", 2, 6), ("endpoint", 2, 7), ("cell", 3, 5)])
def test_refined_grids_share_their_samples(points, factor, n):
    grid = Domain.box(3.0, points=points).grid(n)
    fine = grid.refined(factor).coordinates(dtype=torch.float64)[0]
    coarse = grid.coordinates(dtype=torch.float64)[0]
    assert torch.cdist(coarse[:, None], fine[:, None]).min(1).values.max().item() < 1e-14
    assert grid.refined(factor).coarsened(factor) == grid


def test_product_grids_are_anisotropic_and_in_axis_order():
    domain = Domain.periodic(1.0, 2.0, 3.0)
    grid = domain.grid(4, 6, 5)
    x = grid.coordinates(dtype=torch.float64)
    assert x.shape == (3, 4, 6, 5)
    assert x[:, 1, 2, 3].tolist() == pytest.approx([0.25, 2 * 2.0 / 6, 3 * 3.0 / 5])
    assert grid.spacing == pytest.approx((0.25, 1 / 3, 0.6))
    assert grid.weights(dtype=torch.float64).sum().item() == pytest.approx(domain.measure)
    assert domain.names == ("x", "y", "z")


def test_wavenumbers_differentiate_a_wave_exactly():
    grid = Domain.periodic(1.5, 2.5).grid(9, 8)
    x, y = grid.coordinates(dtype=torch.float64)
    phase = 2 * math.pi * (2 * x / 1.5 - 3 * y / 2.5)
    kx, ky = grid.wavenumbers(dtype=torch.float64)
    spectrum = torch.fft.rfftn(torch.sin(phase))
    for k, true in ((kx, 2 * math.pi * 2 / 1.5), (ky, -2 * math.pi * 3 / 2.5)):
        derivative = torch.fft.irfftn(1j * k * spectrum, s=(9, 8))
        torch.testing.assert_close(derivative, true * torch.cos(phase), rtol=0, atol=1e-12)


def test_grids_are_keys_and_tables_are_cached_within_a_bound():
    domain = Domain.periodic(1.0)
    assert domain.grid(8) == Domain.periodic(1.0).grid(8)
    assert hash(domain.grid(8)) == hash(Domain.periodic(1.0).grid(8))
    axis = domain.axes[0]
    assert axis.weights(8) is axis.weights(8)
    assert axis.weights(8).dtype == torch.float32
    assert axis.weights(8, dtype=torch.float64).dtype == torch.float64
    for n in range(2, 700):
        axis.weights(n)
    assert len(_cache) <= 512


def test_tables_made_in_inference_mode_serve_training():
    grid = Domain.periodic(1.0).grid(13)
    with torch.inference_mode():
        grid.weights()
    leaf = torch.ones(13, requires_grad=True)
    (leaf * grid.weights()).sum().backward()
    assert leaf.grad is not None


def test_domain_round_trips_through_plain_data():
    domain = Domain((Axis(0.0, 1.0, periodic=True, points="node", name="lon"), Axis(-1.0, 1.0, points="gauss")))
    assert Domain.from_dict(domain.to_dict()) == domain


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Axis(1.0, 1.0), "length 0; give upper > lower"),
        (lambda: Axis(1.0, 0.0), "length -1; give upper > lower"),
        (lambda: Axis(0.0, math.inf), "give a finite number"),
        (lambda: Axis(0.0, "one"), "give a finite number"),
        (lambda: Axis(0.0, 1.0, points="vertex"), "choose one of node, cell, endpoint, gauss"),
        (lambda: Axis(0.0, 1.0, periodic=True, points="endpoint"), "samples both ends of one period"),
        (lambda: Domain(()), "at least one"),
        (lambda: Domain.periodic(1.0, 1.0, names=("x", "x")), "give each its own name"),
        (lambda: Domain.periodic(1.0, 1.0, names=("x",)), "one name per length"),
        (lambda: Domain.periodic(1.0).grid(1), "at least 2"),
        (lambda: Domain.periodic(1.0).grid(8.0), "whole number"),
        (lambda: Domain.periodic(1.0).grid(8, 8), "on a 1-D domain"),
        (lambda: Domain.box(1.0, points="endpoint").grid(9).wavenumbers(), "period of a transform would change"),
        (lambda: Domain.box(1.0).require_periodic("KdV"), "KdV needs a periodic domain, but axis x has walls"),
        (lambda: Domain.periodic(1.0).grid_of(torch.zeros(2, 1, 8, 8)), "on a 1-D domain"),
        (lambda: Domain.periodic(1.0).grid(9).coarsened(2), "cannot be coarsened by 2"),
        (lambda: Domain.from_dict({"axes": [{"lower": 0}]}), "expected axes"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_grid_is_frozen():
    grid = Domain.periodic(1.0).grid(4)
    assert isinstance(grid, Grid)
    with pytest.raises(AttributeError):
        grid.shape = (8,)  # pyright: ignore
