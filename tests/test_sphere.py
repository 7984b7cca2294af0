"""The sphere and its grids: positions, quadrature, degrees carried, nesting, refusals."""

import math

import numpy as np
import pytest
import torch

import opkernels as ok
from opkernels.sphere import Sphere, SphereGrid, colatitudes, domain_from_dict, quadrature

POINTS = ["gauss", "equiangular"]


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("shape", [(2, 3), (9, 16), (16, 9), (33, 64)])
def test_rows_run_from_north_to_south_and_weights_sum_to_the_area(points, shape):
    grid = Sphere(2.5, points).grid(*shape)
    latitude, longitude = grid.coordinates(dtype=torch.float64)
    assert grid.shape == latitude.shape == shape
    assert bool((latitude.diff(dim=0) < 0).all())
    torch.testing.assert_close(latitude, -latitude.flip(0), rtol=0, atol=1e-15)
    torch.testing.assert_close(longitude[0], 2 * math.pi / shape[1] * torch.arange(shape[1]).double())
    weights = grid.weights(dtype=torch.float64)
    assert bool((weights > 0).all())
    assert weights.sum().item() == pytest.approx(4 * math.pi * 2.5**2, rel=1e-14)
    assert grid.domain.measure == pytest.approx(4 * math.pi * 2.5**2)


def test_equiangular_rows_include_the_poles_and_gauss_rows_do_not():
    north = Sphere(points="equiangular").grid(5, 8).coordinates(dtype=torch.float64)[0, :, 0]
    torch.testing.assert_close(north, math.pi / 4 * torch.tensor([2.0, 1, 0, -1, -2], dtype=torch.float64))
    assert Sphere().grid(5, 8).coordinates(dtype=torch.float64)[0, 0, 0] < math.pi / 2 - 0.3


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 33, 64, 257])
def test_gauss_rows_agree_with_numpy(n):
    nodes, weights = np.polynomial.legendre.leggauss(n)
    np.testing.assert_allclose(np.cos(colatitudes("gauss", n)), nodes[::-1], rtol=0, atol=2e-15)
    np.testing.assert_allclose(quadrature("gauss", n), weights[::-1], rtol=3e-10)  # numpy's own weights lose digits toward the poles


@pytest.mark.parametrize(("points", "n", "degree"), [("gauss", 6, 11), ("gauss", 7, 13), ("equiangular", 6, 5), ("equiangular", 7, 6)])
def test_rows_integrate_polynomials_up_to_the_stated_degree(points, n, degree):
    mu, w = np.cos(colatitudes(points, n)), quadrature(points, n)
    for k in range(degree + 1):
        assert w @ mu**k == pytest.approx((1 + (-1) ** k) / (k + 1), abs=1e-14)
    above = degree + 1
    above += above % 2  # the next even one: odd ones vanish by symmetry
    assert abs(w @ mu**above - 2 / (above + 1)) > 1e-5


@pytest.mark.parametrize(
    ("points", "shape", "highest", "dealiased"),
    [
        ("gauss", (32, 64), 31, 21),
        ("gauss", (64, 128), 63, 42),
        ("gauss", (128, 256), 127, 85),
        ("gauss", (64, 100), 49, 33),
        ("gauss", (20, 64), 19, 13),
        ("equiangular", (33, 64), 16, 10),
        ("equiangular", (127, 128), 63, 42),
        ("equiangular", (126, 128), 62, 41),
    ],
)
def test_degrees_that_a_grid_carries(points, shape, highest, dealiased):
    grid = Sphere(points=points).grid(*shape)
    assert (grid.highest_degree, grid.dealiased_degree) == (highest, dealiased)


@pytest.mark.parametrize(("points", "fine"), [("gauss", (27, 48)), ("equiangular", (25, 48))])
def test_refined_grids(points, fine):
    grid = Sphere(points=points).grid(9, 16)
    assert grid.refined(3).shape == fine
    assert grid.refined(3).coarsened(3) == grid
    assert tuple(h / 3 for h in grid.spacing) == pytest.approx(grid.refined(3).spacing)
    if points == "equiangular":  # nested: the coarse samples are among the fine ones
        torch.testing.assert_close(grid.refined(3).coordinates()[:, ::3, ::3], grid.coordinates())


def test_spheres_are_values():
    assert ok.Sphere is Sphere
    sphere = Sphere(6.37e6, "equiangular")
    assert sphere == Sphere(6.37e6, "equiangular") != Sphere(6.37e6)
    assert hash(sphere.grid(9, 16)) == hash(sphere.grid((9, 16)))
    assert sphere.grid_of(torch.zeros(2, 3, 9, 16)) == sphere.grid(9, 16)
    assert domain_from_dict(sphere.to_dict()) == Sphere.from_dict(sphere.to_dict()) == sphere
    domain = ok.Domain.periodic(1.0, 2.0)
    assert domain_from_dict(domain.to_dict()) == domain
    assert sphere.grid(9, 16).spacing == pytest.approx((6.37e6 * math.pi / 8, 6.37e6 * math.pi / 8))
    assert (sphere.ndim, sphere.names, sphere.grid(9, 16).uniform) == (2, ("latitude", "longitude"), False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Sphere(0.0), "got radius=0.0; give a positive number"),
        (lambda: Sphere(True), "got radius=True"),
        (lambda: Sphere(float("inf")), "got radius=inf"),
        (lambda: Sphere(points="healpix"), "points='healpix'; choose one of gauss, equiangular"),
        (lambda: Sphere().grid(32), "shape \\(32,\\) on a sphere; give the numbers of latitudes and of longitudes"),
        (lambda: Sphere().grid(32, 64, 2), "give the numbers of latitudes"),
        (lambda: Sphere().grid(1, 64), "got 1 samples in latitude"),
        (lambda: Sphere().grid(32, 6.5), "got 6.5 samples in longitude"),
        (lambda: Sphere().grid_of(torch.zeros(3, 8, 16)), "expected \\(batch, channels, latitude, longitude\\)"),
        (lambda: Sphere().grid(9, 16).coarsened(2), 'got 9 latitudes of kind "gauss", which cannot be coarsened by 2'),
        (lambda: Sphere().grid(9, 16).coarsened(0), "give a whole number of at least 1"),
        (lambda: Sphere.from_dict({"sphere": {"size": 1.0}}), "expected sphere, with optionally radius and points"),
        (lambda: domain_from_dict({"ball": 1}), "expected axes"),
        (lambda: SphereGrid(Sphere(), (8,)), "give the numbers of latitudes"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
