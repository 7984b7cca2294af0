"""Spherical harmonic transforms: conventions, exactness, aliasing, vector fields, poles, rotation, gradients, refusals."""

import math

import pytest
import torch
from helpers import fake_cuda
from torch.autograd import gradcheck

from opkernels.sphere import Sphere
from opkernels.spherical import Harmonics

GRIDS = [("gauss", 32, 64), ("gauss", 33, 47), ("equiangular", 43, 64), ("equiangular", 44, 43)]


def coefficients(degree, *batch, seed=0, dtype=torch.complex128):
    """Random coefficients of real fields."""
    z = torch.randn(*batch, degree + 1, degree + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.complex128).tril()
    z[..., 0] = z[..., 0].real + 0j
    return z.to(dtype)


def close(a, b, tolerance):
    """Largest difference relative to the largest value, two-sided, of a reference that is not zero."""
    scale = b.abs().max().item()
    assert scale > 0
    assert (a - b).abs().max().item() <= tolerance * scale


# -- conventions


def test_the_first_harmonics_have_the_stated_norm_and_sign():
    grid = Sphere(3.0).grid(8, 12)
    latitude, longitude = grid.coordinates(dtype=torch.float64)
    expected = {
        (0, 0): torch.full(grid.shape, math.sqrt(1 / (4 * math.pi)), dtype=torch.float64),
        (1, 0): math.sqrt(3 / (4 * math.pi)) * latitude.sin(),
        (1, 1): math.sqrt(3 / (8 * math.pi)) * latitude.cos() * 2 * longitude.cos(),
        (2, 1): math.sqrt(15 / (8 * math.pi)) * latitude.cos() * latitude.sin() * 2 * longitude.cos(),
        (2, 2): math.sqrt(15 / (32 * math.pi)) * latitude.cos() ** 2 * 2 * (2 * longitude).cos(),
    }
    for index, field in expected.items():
        z = torch.zeros(4, 4, dtype=torch.complex128)
        z[index] = 1
        close(Harmonics(3).synthesize(z, grid), field, 1e-14)
        close(Harmonics(3).analyze(field, grid), z, 1e-14)
    z = torch.zeros(4, 4, dtype=torch.complex128)
    z[1, 1] = -1j  # the imaginary part goes with the sine
    close(Harmonics(3).synthesize(z, grid), math.sqrt(3 / (2 * math.pi)) * latitude.cos() * longitude.sin(), 1e-14)


@pytest.mark.parametrize(("points", "nlat"), [("gauss", 22), ("gauss", 23), ("equiangular", 43), ("equiangular", 44)])
def test_harmonics_are_orthonormal(points, nlat):
    degree = 21
    grid = Sphere(points=points).grid(nlat, 2 * degree + 1)
    index = torch.tril_indices(degree + 1, degree + 1)
    z = torch.zeros(index.shape[1], degree + 1, degree + 1, dtype=torch.complex128)
    z[torch.arange(len(z)), index[0], index[1]] = 1
    y = Harmonics(degree).synthesize(z, grid)
    gram = torch.einsum("aij,bij,ij->ab", y, y, grid.weights(dtype=torch.float64))
    twice = torch.where(index[1] > 0, 2.0, 1.0).double()  # Y_lm and its conjugate
    close(gram, twice.diag(), 1e-12)


@pytest.mark.parametrize("degree", [21, 42, 85, 170])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex128, 1e-12), (torch.complex64, 1e-6)])
def test_coefficients_come_back(degree, dtype, tolerance):
    grid = Sphere().grid((3 * degree + 2) // 2, 3 * degree + 1)
    z = coefficients(degree, 2, dtype=dtype)
    close(Harmonics(degree).analyze(Harmonics(degree).synthesize(z, grid), grid), z, tolerance)


@pytest.mark.parametrize("points", ["gauss", "equiangular"])
@pytest.mark.parametrize("nlat", [4, 5, 16, 33])
def test_coefficients_come_back_at_the_highest_degree_of_any_grid(points, nlat):
    for nlon in (nlat, 2 * nlat, 2 * nlat + 1):
        grid = Sphere(points=points).grid(nlat, nlon)
        harmonics = Harmonics(grid.highest_degree)
        z = coefficients(harmonics.degree, 1, 2)
        x = harmonics.synthesize(z, grid)
        assert x.shape == (1, 2, nlat, nlon)
        back = harmonics.analyze(x, grid)
        close(back, z, 1e-13)
        assert not back.triu(1).any()


@pytest.mark.parametrize(("points", "nlat", "nlon"), GRIDS)
def test_parseval(points, nlat, nlon):
    grid = Sphere(2.0, points).grid(nlat, nlon)
    harmonics = Harmonics(grid.dealiased_degree)
    z = coefficients(harmonics.degree, 3)
    x = harmonics.synthesize(z, grid)
    integral = (grid.weights(dtype=x.dtype) * x**2).sum((-2, -1)) / 2.0**2
    torch.testing.assert_close(harmonics.spectrum(z).sum(-1), integral, rtol=1e-13, atol=0)
    mean = (grid.weights(dtype=x.dtype) * x).sum((-2, -1)) / grid.domain.measure
    torch.testing.assert_close(z[..., 0, 0].real / math.sqrt(4 * math.pi), mean, rtol=1e-12, atol=1e-13)


def test_gauss_and_equiangular_grids_see_one_function():
    z = coefficients(21, 2)
    harmonics, gauss, equiangular = Harmonics(21), Sphere().grid(22, 45), Sphere(points="equiangular").grid(45, 64)
    back = [harmonics.analyze(harmonics.synthesize(z, grid), grid) for grid in (gauss, equiangular)]
    close(back[0], back[1], 1e-13)
    # and both the function itself, by a sum over harmonics from their definition
    latitude, longitude = equiangular.coordinates(dtype=torch.float64)
    direct = _direct(z[0], latitude, longitude)
    close(harmonics.synthesize(z, equiangular)[0], direct, 1e-12)


def _direct(z, latitude, longitude):
    """Sum over harmonics at any points, from their definition."""
    pairs = ((degree, order) for degree in range(len(z)) for order in range(degree + 1))
    return sum(_harmonic(*pair, latitude, longitude, z[pair]) for pair in pairs)


def _harmonic(degree, order, latitude, longitude, amplitude):
    """Real field of one coefficient, from scipy's associated Legendre functions."""
    from scipy.special import gammaln, lpmv

    norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * math.exp(gammaln(degree - order + 1) - gammaln(degree + order + 1)))
    P = (-1) ** order * norm * torch.as_tensor(lpmv(order, degree, latitude.sin().numpy()))  # without the Condon-Shortley phase
    wave = amplitude * torch.exp(1j * order * longitude)
    return P * (wave.real if order == 0 else 2 * wave.real)


def test_rotation_about_a_horizontal_axis_keeps_degrees_apart():
    """Turn the sphere by 90 degrees about the x axis: (x, y, z) -> (x, -z, y) maps harmonics of a degree to the same degree."""
    degree, grid = 12, Sphere(points="equiangular").grid(49, 96)
    latitude, longitude = grid.coordinates(dtype=torch.float64)
    x, y, z = latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()
    a = coefficients(degree)
    turned_latitude, turned_longitude = y.clamp(-1, 1).asin(), torch.atan2(-z, x)
    turned = _direct(a, turned_latitude, turned_longitude)
    b = Harmonics(degree).analyze(turned, grid)
    close(Harmonics(degree).synthesize(b, grid), turned, 1e-11)
    torch.testing.assert_close(Harmonics(degree).spectrum(b), Harmonics(degree).spectrum(a), rtol=1e-11, atol=0)


def test_rotation_about_the_axis_is_a_phase():
    grid = Sphere().grid(16, 32)
    harmonics, z = Harmonics(15), coefficients(15)
    x = harmonics.synthesize(z, grid)
    phase = torch.exp(-2j * math.pi * 5 / 32 * torch.arange(16, dtype=torch.float64))
    close(harmonics.analyze(x.roll(5, -1), grid), z * phase, 1e-13)


# -- products


@pytest.mark.parametrize(
    ("points", "nlat", "nlon", "exact"),
    [
        ("gauss", 32, 64, True),
        ("gauss", 31, 64, False),
        ("gauss", 32, 63, False),
        ("equiangular", 64, 64, True),
        ("equiangular", 62, 64, False),
        ("equiangular", 64, 63, False),
    ],
)
def test_products_are_exact_up_to_the_dealiased_degree_and_not_beyond(points, nlat, nlon, exact):
    degree = 21
    grid, fine = Sphere(points=points).grid(nlat, nlon), Sphere().grid(96, 192)
    harmonics, z = Harmonics(degree), coefficients(degree, 2)
    products = [harmonics.analyze(harmonics.synthesize(z, g).prod(0), g) for g in (grid, fine)]
    error = ((products[0] - products[1]).abs().max() / products[1].abs().max()).item()
    assert (grid.dealiased_degree >= degree) is exact
    assert error < 1e-13 if exact else error > 1e-7  # Clenshaw-Curtis rows alias weakly, 1e-6 here; Gauss rows 1e-2


# -- vector fields


@pytest.mark.parametrize(("points", "nlat", "nlon"), [*GRIDS, ("gauss", 128, 256)])
def test_vorticity_and_divergence_come_back(points, nlat, nlon):
    grid = Sphere(0.7, points).grid(nlat, nlon)
    harmonics = Harmonics(grid.dealiased_degree)
    zeta, delta = coefficients(harmonics.degree, 2, seed=1), coefficients(harmonics.degree, 2, seed=2)
    zeta[:, 0, 0] = delta[:, 0, 0] = 0
    u, v = harmonics.velocity(zeta, delta, grid)
    back = harmonics.vorticity_divergence(u, v, grid)
    close(back[0], zeta, 1e-12)
    close(back[1], delta, 1e-12)
    close(harmonics.divergence(u, v, grid), delta, 1e-12)
    # kinetic energy: the mean of |u|^2/2 is (1/8 pi) sum (|zeta|^2 + |delta|^2) r^2/(l (l + 1)), m > 0 twice
    energy = (grid.weights(dtype=u.dtype) * (u**2 + v**2)).sum((-2, -1)) / grid.domain.measure / 2
    degree = torch.arange(1, harmonics.degree + 1)
    power = (harmonics.spectrum(zeta) + harmonics.spectrum(delta))[:, 1:]
    torch.testing.assert_close(energy, (power * 0.7**2 / (degree * (degree + 1))).sum(-1) / (8 * math.pi), rtol=1e-12, atol=0)


@pytest.mark.parametrize("points", ["gauss", "equiangular"])
def test_solid_body_rotation_about_a_tilted_axis(points):
    sphere = Sphere(2.0, points)
    grid, harmonics = sphere.grid(13, 24), Harmonics(4)
    phi, lam = grid.coordinates(dtype=torch.float64)
    for tilt in (0.0, 0.6, math.pi / 2):
        u = phi.cos() * math.cos(tilt) + phi.sin() * lam.cos() * math.sin(tilt)
        v = -lam.sin() * math.sin(tilt)
        s = -lam.cos() * phi.cos() * math.sin(tilt) + phi.sin() * math.cos(tilt)
        zeta, delta = harmonics.vorticity_divergence(u, v, grid)
        close(harmonics.synthesize(zeta, grid), 2 * s / sphere.radius, 1e-13)
        assert delta.abs().max() < 1e-14
        back = harmonics.velocity(zeta, delta, grid)
        close(torch.stack(back), torch.stack([u, v]), 1e-13)  # rows at the poles included: there u and v are the limits


@pytest.mark.parametrize("points", ["gauss", "equiangular"])
def test_gradient_is_the_derivative_also_at_the_poles(points):
    sphere = Sphere(2.0, points)
    grid, harmonics = sphere.grid(17, 32), Harmonics(6)
    phi, lam = grid.coordinates(dtype=torch.float64)
    f = phi.cos() * lam.cos() + phi.sin() ** 2 + phi.cos() ** 2 * (2 * lam).sin()
    east = -lam.sin() + 2 * phi.cos() * (2 * lam).cos()
    north = -phi.sin() * lam.cos() + 2 * phi.sin() * phi.cos() - 2 * phi.sin() * phi.cos() * (2 * lam).sin()
    z = harmonics.analyze(f, grid)
    close(torch.stack(harmonics.gradient(z, grid)), torch.stack([east, north]) / 2, 1e-13)
    # the Laplacian is the divergence of the gradient, and -l (l + 1)/r^2
    close(harmonics.divergence(*harmonics.gradient(z, grid), grid), harmonics.laplacian(z, sphere), 1e-13)
    close(harmonics.inverse_laplacian(harmonics.laplacian(z, sphere), sphere)[1:], z[1:], 1e-14)
    assert harmonics.inverse_laplacian(z, sphere)[0, 0] == 0


# -- torch


def test_a_batch_is_a_loop():
    grid, harmonics = Sphere(points="equiangular").grid(19, 20), Harmonics(9)
    z, w = coefficients(9, 2, 3), coefficients(9, 2, 3, seed=1)
    x, (u, v) = harmonics.synthesize(z, grid), harmonics.velocity(z, w, grid)
    zeta, delta = harmonics.vorticity_divergence(u, v, grid)
    for i in range(2):
        for j in range(3):
            close(x[i, j], harmonics.synthesize(z[i, j], grid), 1e-14)
            close(harmonics.analyze(x, grid)[i, j], harmonics.analyze(x[i, j], grid), 1e-14)
            close(torch.stack([u, v])[:, i, j], torch.stack(harmonics.velocity(z[i, j], w[i, j], grid)), 1e-14)
            one = harmonics.vorticity_divergence(u[i, j], v[i, j], grid)
            close(torch.stack([zeta, delta])[:, i, j], torch.stack(one), 1e-14)


@pytest.mark.parametrize(("points", "nlat", "nlon"), GRIDS)
def test_few_fields_and_many_take_two_ways_to_the_same_numbers(points, nlat, nlon):
    grid = Sphere(points=points).grid(nlat, nlon)
    harmonics = Harmonics(grid.highest_degree)
    z = coefficients(harmonics.degree, 33)
    x = harmonics.synthesize(z, grid)
    assert not harmonics._is_small(x) and harmonics._is_small(x[:32])
    close(harmonics.synthesize(z[:2], grid), x[:2], 1e-13)
    close(harmonics.analyze(x[:2], grid), harmonics.analyze(x, grid)[:2], 1e-13)


def test_what_is_no_coefficient_is_ignored():
    grid, harmonics, z = Sphere().grid(8, 16), Harmonics(7), coefficients(7)
    noise = torch.randn(8, 8, dtype=torch.complex128).triu(1)
    noise[:, 0] += 2j
    close(harmonics.synthesize(z + noise, grid), harmonics.synthesize(z, grid), 1e-14)


def test_resized_coefficients_are_cut_or_filled_with_zeros():
    z = coefficients(5, 2)
    assert Harmonics(8).resized(z).shape == (2, 9, 9)
    assert torch.equal(Harmonics(5).resized(Harmonics(8).resized(z)), z)
    assert torch.equal(Harmonics(3).resized(z), z[:, :4, :4])
    assert Harmonics(8).resized(z).abs().sum() == z.abs().sum()


@pytest.mark.parametrize("points", ["gauss", "equiangular"])
def test_gradients(points):
    grid = Sphere(1.5, points).grid(7, 8)
    harmonics = Harmonics(grid.highest_degree)
    x = torch.randn(2, 7, 8, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    z = coefficients(harmonics.degree, 2).requires_grad_()
    assert gradcheck(lambda x: harmonics.analyze(x, grid), x, fast_mode=True)
    assert gradcheck(lambda z: harmonics.synthesize(z, grid), z, fast_mode=True)
    assert gradcheck(lambda x: harmonics.vorticity_divergence(x, x.flip(-1), grid), x, fast_mode=True)
    assert gradcheck(lambda x: harmonics.divergence(x, x.flip(-1), grid), x, fast_mode=True)
    assert gradcheck(lambda z: harmonics.velocity(z, 2 * z, grid), z, fast_mode=True)
    assert gradcheck(lambda z: harmonics.gradient(z, grid), z, fast_mode=True)
    assert gradcheck(harmonics.spectrum, z, fast_mode=True)


def _round_trip(x):
    grid = Sphere().grid(x.shape[-2], x.shape[-1])
    harmonics = Harmonics(5)
    u, v = harmonics.gradient(harmonics.analyze(x, grid), grid)
    zeta, delta = harmonics.vorticity_divergence(u, v, grid)
    return harmonics.synthesize(zeta + harmonics.laplacian(delta, grid.domain), grid)


def test_half_precisions_and_autocast_are_computed_in_float32():
    x = torch.randn(2, 8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(_round_trip(x), _plain(x))
    grid = Sphere().grid(8, 16)
    assert Harmonics(3).analyze(x.bfloat16(), grid).dtype == torch.complex64


def _plain(x):
    with torch.autocast("cpu", enabled=False):
        return _round_trip(x)


def test_fake_cuda():
    with fake_cuda():
        y = _round_trip(torch.zeros(2, 3, 8, 16))
        assert y.shape == (2, 3, 8, 16)
        assert y.device.type == "cuda"


def test_compiled_it_gives_the_same_numbers():
    def smoothed(x):
        grid, harmonics = Sphere().grid(x.shape[-2], x.shape[-1]), Harmonics(5)
        return harmonics.synthesize(harmonics.laplacian(harmonics.analyze(x, grid), grid.domain), grid)

    x = torch.randn(2, 8, 16, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(smoothed, backend="aot_eager")(x), smoothed(x), rtol=1e-12, atol=1e-12)


# -- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Harmonics(-1), "got degree=-1; give a whole number of at least 0"),
        (lambda: Harmonics(2.5), "got degree=2.5"),
        (
            lambda: Harmonics(32).analyze(torch.zeros(32, 64), Sphere().grid(32, 64)),
            'degree 32 on a grid of 32 x 64 points \\("gauss"\\), which carries degrees up to 31; lower the degree or refine the grid',
        ),
        (lambda: Harmonics(17).synthesize(coefficients(17), Sphere(points="equiangular").grid(33, 64)), "carries degrees up to 16"),
        (lambda: Harmonics(3).analyze(torch.zeros(9, 16), Sphere().grid(8, 16)), "of 8 latitudes and 16 longitudes; expected real"),
        (lambda: Harmonics(3).analyze(torch.zeros(8, 16, dtype=torch.int64), Sphere().grid(8, 16)), "dtype torch.int64"),
        (lambda: Harmonics(3).vorticity_divergence(torch.zeros(8, 16), torch.zeros(8, 15), Sphere().grid(8, 16)), "shape \\(8, 15\\)"),
        (
            lambda: Harmonics(3).vorticity_divergence(torch.zeros(2, 8, 16), torch.zeros(8, 16), Sphere().grid(8, 16)),
            r"samples of u and v of shapes \(2, 8, 16\) and \(8, 16\)",
        ),
        (lambda: Harmonics(3).divergence(torch.zeros(8, 16), torch.zeros(8, 16).double(), Sphere().grid(8, 16)), "give two alike"),
        (lambda: Harmonics(3).velocity(coefficients(3), coefficients(4), Sphere().grid(8, 16)), "coefficients of vorticity and divergence"),
        (lambda: Harmonics(3).synthesize(coefficients(4), Sphere().grid(8, 16)), "shape \\(5, 5\\).*expected complex \\(..., 4, 4\\)"),
        (lambda: Harmonics(3).synthesize(torch.zeros(4, 4), Sphere().grid(8, 16)), "dtype torch.float32; expected complex"),
        (lambda: Harmonics(3).analyze(torch.zeros(8, 16), (8, 16)), "give one of a sphere"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
