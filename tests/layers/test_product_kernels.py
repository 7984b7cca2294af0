"""Product kernels: the families against closed forms, parity of every term, the maps, windows, and their use on grids."""

import math

import pytest
import torch
from helpers import band_limited

from opkernels import Domain
from opkernels.layers import LocalIntegralConv
from opkernels.layers.kernels import kernel_values, transfer
from opkernels.layers.product_kernels import (
    PROFILES,
    WINDOWS,
    Bumps,
    Chebyshev,
    Fourier,
    ProductKernel,
    Spline,
    cconv_kernel,
    dmcf_kernel,
    fourier_kernel,
    spline_kernel,
)

FAMILIES = [
    Fourier(2),
    Fourier(2, 4),
    Chebyshev(4),
    Spline(4),
    Spline(3, 0),
    Spline(5, 2),
    Spline(6, 3),
    Bumps(4),
    Bumps(3, "wendland2", 0.5, unity=True),
]
T = torch.linspace(-1, 1, 41, dtype=torch.float64)


def ball(n_dim, n=200, seed=0):
    """Random offsets in the unit ball, (d, n)."""
    z = torch.randn(n_dim, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return z / z.norm(dim=0) * torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1)) ** (1 / n_dim)


def assert_parity(kernel):
    z, sign = ball(kernel.n_dim), torch.tensor(kernel.parities, dtype=torch.float64)[:, None]
    values = kernel.raw(z)
    assert values.shape[0] == kernel.size and values.any(1).double().mean() > 0.5
    torch.testing.assert_close(kernel.raw(-z), sign * values, rtol=0, atol=1e-13)


@pytest.mark.parametrize("parity", ["both", "even", "odd"])
@pytest.mark.parametrize("coordinates", ["cartesian", "preserving"])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_every_term_is_even_or_odd(family, coordinates, parity):
    for n_dim in (1, 2, 3):
        kernel = ProductKernel((family,) * n_dim, coordinates, parity=parity)
        assert_parity(kernel)
        assert set(kernel.parities) == {"both": {1, -1}, "even": {1}, "odd": {-1}}[parity]


@pytest.mark.parametrize("angle", [Fourier(2), Spline(4, periodic=True), Bumps(6, periodic=True)], ids=str)
@pytest.mark.parametrize("parity", ["both", "even", "odd"])
def test_parity_in_polar_coordinates(angle, parity):
    assert_parity(ProductKernel((Spline(3), angle), "polar", parity=parity))
    assert_parity(ProductKernel((Chebyshev(2), angle, Spline(3)), "polar", parity=parity))


@pytest.mark.parametrize("n_dim", [1, 2, 3])
@pytest.mark.parametrize("harmonics", [1, 2, 3])
def test_numbers_of_odd_and_even_terms(n_dim, harmonics):
    n = (2 * harmonics + 1) ** n_dim
    sizes = [fourier_kernel(n_dim, harmonics, parity=parity).size for parity in ("odd", "even", "both")]
    assert sizes == [(n - 1) // 2, (n + 1) // 2, n]


def test_corners_of_the_cube_are_left_out():
    """And nothing else: no term is zero in the ball, and those kept sum to one up to 0.9 of its radius, as all hats do."""
    kernel, z = ProductKernel((Spline(8, 1),) * 3, window=None), ball(3, 6000)
    assert kernel.size == 8**3 - 8 * 13 and kernel.raw(z).abs().amax(1).min() > 0
    even = torch.tensor(kernel.parities) == 1  # half of a product and half of its mirror image
    torch.testing.assert_close(2 * kernel.raw(0.9 * z)[even].sum(0), torch.ones(6000, dtype=torch.float64), rtol=0, atol=1e-12)


def test_families_are_the_stated_functions():
    fourier = torch.stack([torch.ones_like(T), *[f(m * math.pi * T) for m in (1, 2, 3) for f in (torch.cos, torch.sin)]])
    torch.testing.assert_close(Fourier(3).values(T), fourier, rtol=0, atol=1e-14)
    chebyshev = torch.stack([torch.cos(k * torch.acos(T)) for k in range(6)])
    torch.testing.assert_close(Chebyshev(6).values(T), chebyshev, rtol=0, atol=1e-14)
    hats = torch.stack([(1 - (T - c).abs() / (2 / 3)).clamp(min=0) for c in (-1, -1 / 3, 1 / 3, 1)])
    torch.testing.assert_close(Spline(4).values(T), hats, rtol=0, atol=1e-14)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("periodic", [False, True])
def test_splines_are_those_of_scipy_and_sum_to_one(degree, periodic):
    from scipy.interpolate import BSpline

    family = Spline(6, degree, periodic)
    inner = torch.linspace(-0.99, 0.99, 37, dtype=torch.float64)
    values = family.values(inner)
    torch.testing.assert_close(values.sum(0), torch.ones_like(inner), rtol=0, atol=1e-13)
    h = family.spacing
    center = 0.0 if periodic else (2 * 3 - 5) / 2 * h
    knots = center + h * (torch.arange(degree + 2, dtype=torch.float64) - (degree + 1) / 2)
    wanted = torch.as_tensor(BSpline.basis_element(knots.numpy(), extrapolate=False)(inner.numpy())).nan_to_num()
    torch.testing.assert_close(values[3], wanted, rtol=0, atol=1e-13)


def test_turned_and_mirrored_are_what_they_say():
    t = T[:-1] * 0.49 - 0.5  # t and t + 1 both in [-1, 1]
    for family in (Fourier(3), Spline(6, 3, periodic=True), Bumps(4, periodic=True)):
        for moved, rule in ((t + 1, family.turned()), (-t, family.mirrored())):
            base = family.values(t)
            torch.testing.assert_close(family.values(moved), torch.stack([s * base[k] for k, s in rule]), rtol=0, atol=1e-13)


def test_bumps_are_profiles_around_their_centers():
    narrow = Bumps(3, "wendland2", 0.5)
    wanted = torch.stack([PROFILES["wendland2"](0.5 * (T - c).abs()) for c in (-1.0, 0.0, 1.0)])
    torch.testing.assert_close(narrow.values(T), wanted, rtol=0, atol=1e-14)
    unity = Bumps(4, unity=True).values(T)
    torch.testing.assert_close(unity.sum(0), torch.ones_like(T), rtol=0, atol=1e-14)
    assert len({*map(len, (narrow.nearest, narrow.knots))}) == 1 and ProductKernel((Bumps(8),) * 2).size == 64  # Gaussians have no end


@pytest.mark.parametrize("n_dim", [2, 3])
def test_preserving_map_fills_the_cube_evenly(n_dim):
    """Points evenly in the ball land evenly in the cube: counts of 4^d boxes within five standard deviations."""
    n = 64000
    t = torch.stack(ProductKernel((Spline(3),) * n_dim, "preserving")._mapped(ball(n_dim, n)))
    assert t.abs().max() <= 1 + 1e-12
    boxes = ((t + 1) * 2).long().clamp(0, 3)
    counts = torch.bincount(sum(b * 4**a for a, b in enumerate(boxes)), minlength=4**n_dim).double()
    mean = n / 4**n_dim
    assert ((counts - mean).abs() < 5 * mean**0.5).all()
    rim = ball(n_dim, 50)
    rim = torch.stack(ProductKernel((Spline(3),) * n_dim, "preserving")._mapped(rim / rim.norm(dim=0)))
    torch.testing.assert_close(rim.abs().amax(0), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", WINDOWS)
def test_windows_fall_to_zero_at_the_rim(window):
    for n_dim in (1, 2):
        kernel = ProductKernel((Fourier(0),) * n_dim, window=window)
        u = torch.zeros(n_dim, 101, dtype=torch.float64)
        u[-1] = torch.linspace(0, 1, 101, dtype=torch.float64)
        w = kernel.raw(u)[0]
        assert (w.diff() <= 1e-12).all() and w[-1].abs() < 1e-12 and w[0] > 0
        assert (kernel.raw(1.001 + 0 * u) == 0).all()


def test_windows_and_profiles_at_one_half():
    """Values from the formulas, by hand; poly6 and spiky are not the same."""
    half = torch.tensor([0.5], dtype=torch.float64)
    wanted = {"poly6": 0.421875, "spiky": 0.125, "parabola": 0.75, "linear": 0.5, "cubic": 0.125, "quartic": 0.5**4 - 5 * 0.1**4}
    wanted |= {"quintic": 0.5**5 - 6 * (1 / 6) ** 5, "wendland2": 3 / 16, "gaussian": math.exp(-0.25), "bump": math.exp(-4 / 3)}
    wanted |= {"wendland4": (4 + 35 / 12) / 64, "wendland6": 15.25 / 256, "thin_plate": -math.log(2) / 4}
    wanted |= {"multiquadric": math.sqrt(1.25), "inverse_quadric": 0.8, "inverse_multiquadric": math.sqrt(0.8)}
    for name, value in wanted.items():
        assert PROFILES[name](half).item() == pytest.approx(value, abs=1e-12), name
    assert set(wanted) == set(PROFILES) - {"hoct4"}
    for name, value in {"wendland2": 2.5 / 8, "wendland4": 5.5 / 32, "wendland6": 11.875 / 128}.items():  # other polynomials on a line
        assert ProductKernel((Fourier(0),), window=name).raw(half[None]).item() == pytest.approx(value, abs=1e-12)


def test_more_values_of_quartic_quintic_and_hoct4():
    """Where every piece of the splines is seen; the quartic of high order at the origin, and its two derivatives at the rim."""
    near = torch.tensor([0.1], dtype=torch.float64)
    assert PROFILES["quartic"](near).item() == pytest.approx(0.9**4 - 5 * 0.5**4 + 10 * 0.1**4, abs=1e-12)
    assert PROFILES["quintic"](near).item() == pytest.approx(0.9**5 - 6 * (17 / 30) ** 5 + 15 * (7 / 30) ** 5, abs=1e-12)
    assert PROFILES["hoct4"](0 * near).item() == pytest.approx(0.900461, abs=1e-6)
    r = torch.tensor([0.2, 0.6], dtype=torch.float64)
    large = 0.75 / (0.75 * (0.75**2 - 0.25))
    small = -8 * (1 + large * 0.75**3)
    by_hand = (1 - r) ** 4 + large * (0.75 - r) ** 4 + small * (0.5 - r).clamp(min=0) ** 4
    torch.testing.assert_close(PROFILES["hoct4"](r), by_hand, rtol=0, atol=1e-12)


SMALL = [
    fourier_kernel(1, 2),
    ProductKernel((Spline(4, 2),)),
    fourier_kernel(2, 2),
    ProductKernel((Chebyshev(3),) * 2, parity="odd"),
    ProductKernel((Spline(3), Fourier(1)), "polar"),
    cconv_kernel(2),
    dmcf_kernel(2),
    spline_kernel(2, 4),
    fourier_kernel(3, 1),
]


@pytest.mark.parametrize("kernel", SMALL, ids=str)
def test_normalized_with_a_right_transform(kernel):
    """Against midpoint sums, whose error is that of the kinks."""
    d, n = kernel.n_dim, {1: 4000, 2: 400, 3: 50}[kernel.n_dim]
    s = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1
    z, volume = torch.stack(torch.meshgrid(*[s] * d, indexing="ij")).flatten(1), (2 / n) ** d
    values = kernel_values(kernel, z)
    norms = volume * values.square().sum(1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=5e-3)
    xi = [torch.tensor([-3.0, 2.5], dtype=torch.float64)] * d
    phase = torch.exp(1j * torch.einsum("a...,an->...n", torch.stack(torch.meshgrid(*xi, indexing="ij")), z))
    wanted = volume * torch.tensordot(values.to(torch.complex128), phase, dims=([1], [d]))
    torch.testing.assert_close(transfer(kernel, xi, 6.0), wanted, rtol=0, atol=5e-3)


def test_local_integrals_take_product_kernels():
    """Sums over samples approach the exact integral at second order or better."""
    domain, errors = Domain.periodic(1.0, 2.0), []
    layer = LocalIntegralConv(2, 2, fourier_kernel(2), radius=0.2713).double()
    nodal = LocalIntegralConv(2, 2, fourier_kernel(2), radius=0.2713, quadrature="nodal").double()
    nodal.load_state_dict(layer.state_dict())
    for n in (32, 64, 128):
        x, grid = band_limited((n, n), channels=2), domain.grid(n, n)
        wanted = layer(x, grid).detach()
        errors.append(((nodal(x, grid).detach() - wanted).norm() / wanted.norm()).item())
    assert errors[2] < 1e-5 and errors[1] < errors[0] / 4 and errors[2] < errors[1] / 4


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ProductKernel(()), "got 0 families"),
        (lambda: ProductKernel((Fourier(1),), "polar"), "coordinates='polar' in 1-D"),
        (lambda: ProductKernel((Fourier(1),) * 2, "spherical"), "coordinates='spherical'"),
        (lambda: ProductKernel((Spline(3), Chebyshev(3)), "polar"), "Chebyshev polynomials are not functions of an angle"),
        (lambda: ProductKernel((Spline(3), Spline(3, periodic=True)), "polar"), "an even number"),
        (lambda: ProductKernel((Fourier(1),), window="gauss"), "window='gauss'"),
        (lambda: ProductKernel((Fourier(1),), parity="none"), "parity='none'"),
        (lambda: ProductKernel((Fourier(0),), parity="odd"), "without odd products"),
        (lambda: Fourier(-1), "harmonics=-1"),
        (lambda: Fourier(1, 4), "n_terms=4"),
        (lambda: Chebyshev(0), "n=0"),
        (lambda: Spline(2, 2), "more splines than that"),
        (lambda: Bumps(1), "n=1"),
        (lambda: Bumps(4, "gauss"), "profile='gauss'"),
    ],
)
def test_refuses_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
