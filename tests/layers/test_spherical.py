"""Layers on the sphere: independent formulas, one operator on every grid, rotations, order of the sums, poles, precision, refusals."""

import math

import numpy as np
import pytest
import torch
from helpers import assert_order, fake_cuda

from opkernels import Domain, Sphere
from opkernels.layers import (
    Morlet,
    PolarHats,
    Radial,
    SphericalDifferentialConv,
    SphericalIntegralConv,
    SphericalSpectralConv,
    WindowedFourier,
    Zernike,
)
from opkernels.layers.kernels import kernel_values
from opkernels.layers.spherical_integral import is_isotropic, zonal_multipliers

GRIDS = [
    Sphere().grid(24, 48),
    Sphere(3.0).grid(17, 40),
    Sphere(points="equiangular").grid(33, 45),
    Sphere(points="equiangular").grid(40, 64),
]
LAYERS = {
    "spectral": lambda: SphericalSpectralConv(2, 3, 9),
    "zonal": lambda: SphericalSpectralConv(2, 3, 9, symmetry="sphere"),
    "integral": lambda: SphericalIntegralConv(2, 3, Radial(2, 3), radius=0.7),
    "sums": lambda: SphericalIntegralConv(2, 3, PolarHats(3, 4), radius=0.7),
    "differential": lambda: SphericalDifferentialConv(2, 3, length=0.1, order=2, smoothing=0.05),
}
SPECTRAL = ["spectral", "zonal", "integral", "differential"]


def built(name, seed=0):
    torch.manual_seed(seed)
    return LAYERS[name]()


def points(grid):
    """Unit vectors of the samples, (3, nlat, nlon)."""
    latitude, longitude = grid.coordinates(dtype=torch.float64)
    return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()])


def polynomial(p, seed=0):
    """Two random cubic polynomials of the point in space (degrees 0 to 3 of harmonics), (1, 2, *), at p (3, *)."""
    c = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q = torch.cat([torch.ones_like(p[:1]), p])
    return torch.einsum("cijk,i...,j...,k...->c...", c, q, q, q)[None]


def rel(a, b):
    return ((a - b).norm() / b.norm()).item()


# -- spectral


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.domain.points}{g.shape}")
def test_spectral_is_the_integral_with_its_zonal_kernel(grid):
    """sum_l (2 l + 1)/(4 pi) W(l) P_l(x . y), integrated over y by quadrature on another grid."""
    layer = built("zonal").double()
    there = Sphere().grid(20, 40)
    cosines = torch.einsum("a...,ab->...b", points(grid), points(there).flatten(1)).clamp(-1, 1)
    series = [(2 * ell + 1) / (4 * math.pi) * torch.special.legendre_polynomial_p(cosines, ell) for ell in range(10)]
    kernel = torch.einsum("ljkn,lio->iojkn", torch.stack(series), layer.weight.detach())
    wanted = torch.einsum("iojkn,in,n->ojk", kernel, polynomial(points(there))[0].flatten(1), there.weights(dtype=torch.float64).flatten())
    got = layer(polynomial(points(grid)), grid)[0] - layer.bias[:, None, None]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def at(z, p):
    """Values at unit vectors p (3, N) of the function with coefficients z (C, l, m), by SciPy's harmonics."""
    from scipy.special import sph_harm_y

    theta, phi = torch.acos(p[2].clamp(-1, 1)).numpy(), torch.atan2(p[1], p[0]).numpy()
    total = torch.zeros(len(z), p.shape[1], dtype=torch.float64)
    for ell in range(z.shape[-1]):
        for m in range(ell + 1):
            y = torch.as_tensor((-1) ** m * sph_harm_y(ell, m, theta, phi))
            total += (1 if m == 0 else 2) * (z[:, ell, m, None] * y).real
    return total


@pytest.mark.parametrize("name", ["zonal", "integral"])
def test_isotropic_layers_commute_with_every_rotation(name):
    from opkernels.spherical import Harmonics

    layer, grid = built(name).double(), GRIDS[0]
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    p = points(grid)
    turned = torch.einsum("ab,b...->a...", q, p)
    y = layer(polynomial(p), grid).detach()
    wanted = at(Harmonics(9).analyze(y[0], grid), turned.flatten(1)).unflatten(1, grid.shape)
    got = layer(polynomial(turned), grid).detach()[0]
    assert rel(got, wanted) < 1e-13 and rel(got, y[0]) > 0.1


def test_spectral_takes_the_degrees_that_a_grid_carries():
    layer = SphericalSpectralConv(2, 1, 20, bias=False).double()
    grid, lower = Sphere().grid(8, 16), SphericalSpectralConv(2, 1, 7, bias=False).double()
    lower.weight.data = layer.weight.data[:8].clone()
    x = torch.randn(2, 2, 8, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(x, grid), lower(x, grid), rtol=0, atol=1e-13)


def test_spectral_holds_the_waves_of_rossby():
    """d zeta/dt = -2 Omega d psi/dlambda, zeta the Laplacian of psi: multipliers 2 Omega i m/(l (l + 1)), that is V = 2 Omega/(l + 1)."""
    from opkernels.spherical import Harmonics

    layer, grid, harmonics = SphericalSpectralConv(1, 1, 9, bias=False).double(), GRIDS[0], Harmonics(9)
    ell = torch.arange(10, dtype=torch.float64)
    layer.weight.data = torch.stack([0 * ell, 2 / (ell + 1)], 1)[..., None]
    z = harmonics.analyze(polynomial(points(grid))[:, :1], grid)
    psi = harmonics.inverse_laplacian(z, Sphere())
    east = SphericalDifferentialConv(1, 1, length=1.0).double()
    east.weight.data = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
    wanted = -2 * east(harmonics.synthesize(psi, grid), grid)
    torch.testing.assert_close(layer(harmonics.synthesize(z, grid), grid), wanted, rtol=0, atol=1e-12)


def test_only_weights_about_the_axis_tell_east_from_west():
    """Layers that commute with all rotations commute with reflections as well."""
    grid = GRIDS[0]
    x = torch.randn(1, 2, *grid.shape, dtype=torch.float64)
    mirrored = x.flip(-1).roll(1, -1)
    for name, least in (("zonal", 0.0), ("spectral", 0.1)):
        layer = built(name).double()
        error = rel(layer(mirrored, grid), layer(x, grid).flip(-1).roll(1, -1))
        assert error > least if least else error < 1e-12


@pytest.mark.parametrize("symmetry", ["axis", "sphere"])
def test_spectral_keeps_the_variance(symmetry):
    layer, grid = SphericalSpectralConv(64, 64, 31, symmetry=symmetry, bias=False), Sphere().grid(32, 64)
    from opkernels.spherical import Harmonics

    x = Harmonics(31).synthesize(torch.view_as_complex(torch.randn(4, 64, 32, 32, 2)), grid)
    assert layer(x, grid).square().mean().item() == pytest.approx(x.square().mean().item(), rel=0.1)


# -- all layers


@pytest.mark.parametrize("name", SPECTRAL)
def test_one_function_on_every_grid(name):
    """Also of other points, sizes and radius: what a layer makes of a cubic has degrees up to 4 at most."""
    from opkernels.spherical import Harmonics

    layer, found = built(name).double(), []
    for grid in GRIDS:
        found.append(Harmonics(9 if grid.highest_degree >= 9 else grid.highest_degree).analyze(layer(polynomial(points(grid)), grid), grid))
    for other in found[1:]:
        assert rel(other, found[0]) < 1e-12


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.domain.points}{g.shape}")
@pytest.mark.parametrize("name", LAYERS)
def test_turning_about_the_axis(name, grid):
    layer = built(name)
    x = torch.randn(2, 2, *grid.shape)
    y, turned = layer(x, grid), layer(x.roll(7, -1), grid)
    assert torch.isfinite(y).all() and rel(turned, y.roll(7, -1)) < 1e-5
    assert rel(layer.double()(x.double().roll(7, -1), grid), layer(x.double(), grid).roll(7, -1)) < 1e-12


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_layouts_and_precisions(name):
    grid, layer = Sphere().grid(6, 12), built(name).double()
    x = torch.randn(1, 2, 6, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda u, *w: torch.func.functional_call(layer, dict(zip(dict(layer.named_parameters()), w, strict=True)), (u, grid)),
        (x, *layer.parameters()),
        fast_mode=True,
    )
    last = x.detach().movedim(1, -1).contiguous().movedim(-1, 1)
    y = layer(last, grid)
    assert y.movedim(1, -1).is_contiguous()
    torch.testing.assert_close(y, layer(x, grid), rtol=0, atol=1e-13)
    torch.testing.assert_close(layer.float()(last.float(), grid).double(), y, rtol=0, atol=2e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(last.bfloat16(), grid)
        half.sum().backward()
    assert half.dtype == torch.float32 and rel(half.double(), y) < 1e-2


@pytest.mark.parametrize("name", LAYERS)
def test_state_and_fake_cuda(name):
    layer, again, grid = built(name), built(name, seed=1), Sphere(points="equiangular").grid(13, 24)
    x = torch.randn(2, 2, 13, 24)
    assert rel(again(x, grid), layer(x, grid)) > 0.1
    again.load_state_dict(layer.state_dict())
    torch.testing.assert_close(again(x, grid), layer(x, grid), rtol=0, atol=0)
    with fake_cuda():
        y = built(name)(torch.randn(2, 2, 13, 24), grid)
        assert y.device.type == "cuda" and tuple(y.shape) == (2, 3, 13, 24)


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_batch_has_an_empty_result(name):
    y = built(name)(torch.randn(0, 2, 8, 16), Sphere().grid(8, 16))
    assert y.shape == (0, 3, 8, 16)
    y.sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_compiles_for_several_shapes(name):
    layer = built(name)
    compiled = torch.compile(layer, backend="aot_eager")
    for batch, nlat, nlon in ((2, 8, 16), (3, 9, 20)):  # of fewer degrees than the layer's: their number varies too
        x, grid = torch.randn(batch, 2, nlat, nlon), Sphere().grid(nlat, nlon)
        torch.testing.assert_close(compiled(x, grid), layer(x, grid), rtol=0, atol=1e-5)


# -- local integrals


@pytest.mark.parametrize("grid", [Sphere(2.0).grid(12, 20), Sphere(points="equiangular").grid(11, 17)], ids=lambda g: g.domain.points)
@pytest.mark.parametrize("kernel", [PolarHats(3, 4), Zernike(3), Radial(2, 2)], ids=str)
def test_sums_are_sums_over_neighbors(kernel, grid):
    """The definition, point by point, with tangent vectors in space: south and east as seen from x."""
    torch.manual_seed(0)
    layer = SphericalIntegralConv(2, 3, kernel, radius=0.9, quadrature="nodal").double()
    latitude, longitude = grid.coordinates(dtype=torch.float64).flatten(1)
    p = points(grid).flatten(1)
    zero = torch.zeros_like(latitude)
    south = torch.stack([latitude.sin() * longitude.cos(), latitude.sin() * longitude.sin(), -latitude.cos()])
    east = torch.stack([-longitude.sin(), longitude.cos(), zero])
    chord = p[:, None, :] - p[:, :, None]  # from x (rows) to y
    distance = 2 * torch.asin((chord.norm(dim=0) / 2).clamp(max=1))
    direction = torch.stack([torch.einsum("ax,axy->xy", south, chord), torch.einsum("ax,axy->xy", east, chord)])
    z = distance * direction / direction.norm(dim=0).clamp(min=1e-12)
    psi = kernel_values(kernel, z / 0.9) / 0.9**2 * (distance < 0.9)  # an antipode has no direction
    x = torch.randn(2, 2, *grid.shape, dtype=torch.float64)
    weights = grid.weights(dtype=torch.float64).flatten() / grid.domain.radius**2
    wanted = torch.einsum("ock,kxy,bcy,y->box", layer.weight, psi, x.flatten(2), weights)
    assert wanted.norm() > 1
    torch.testing.assert_close(layer(x, grid).flatten(2), wanted, rtol=0, atol=1e-10)


def polar(kernel, radius, weight, p, count=24):
    """Integrals at unit vectors p (3, N) off the poles, by Gauss points in distance and equal ones in bearing around each."""
    nodes, w = np.polynomial.legendre.leggauss(count)
    pieces = [
        ((a + b) / 2 + (b - a) / 2 * nodes, (b - a) / 2 * w) for a, b in zip(kernel.radial_breaks, kernel.radial_breaks[1:], strict=False)
    ]
    u, w = (torch.as_tensor(np.concatenate(part)) for part in zip(*pieces, strict=True))
    sectors = kernel.angular_pieces
    alpha = torch.as_tensor(np.concatenate([(nodes + 1 + 2 * i) * np.pi / sectors for i in range(sectors)]))
    w_alpha = torch.as_tensor(np.polynomial.legendre.leggauss(count)[1]).repeat(sectors) * math.pi / sectors
    psi = kernel_values(kernel, torch.stack([u[:, None] * alpha.cos(), u[:, None] * alpha.sin()])) / radius**2
    area = (radius * (radius * u).sin() * w)[:, None] * w_alpha
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    east = torch.stack([-p[1], p[0], torch.zeros_like(p[0])]) / p[:2].norm(dim=0)
    south = p * p[2] - up[:, None]
    south = south / south.norm(dim=0)
    t = (radius * u)[:, None]
    y = p[:, :, None, None] * t.cos() + t.sin() * (south[:, :, None, None] * alpha.cos() + east[:, :, None, None] * alpha.sin())
    v = polynomial(y)[0]
    return torch.einsum("ock,kua,cnua,ua->on", weight, psi, v, area)


@pytest.mark.parametrize("kernel", [Radial(2, 3), PolarHats(5, 1)], ids=str)
@pytest.mark.parametrize("radius", [0.05, 0.8, 2.5])
def test_exact_integrals_are_those_around_each_point(kernel, radius):
    torch.manual_seed(0)
    layer, grid = SphericalIntegralConv(2, 3, kernel, radius=radius).double(), GRIDS[0]
    assert layer.quadrature == "exact"
    p = points(grid)
    wanted = polar(kernel, radius, layer.weight.detach(), p.flatten(1)[:, ::31])
    got = layer(polynomial(p), grid).detach()[0].flatten(1)[:, ::31]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


RADII = [0.5 + 0.3 * (0.618 * i % 1) for i in range(12)]  # whose rims meet the rows now here, now there


def mean_error(kernel, n, radii):
    """Root mean square over radii of the relative error of the sums of a kernel without direction."""
    grid = Sphere().grid(n, 2 * n)
    x, root, errors = polynomial(points(grid)), grid.weights(dtype=torch.float64).sqrt(), []
    for i, radius in enumerate(radii):
        torch.manual_seed(i)
        sums, exact = (SphericalIntegralConv(2, 1, kernel, radius=radius, quadrature=q).double() for q in ("nodal", "exact"))
        exact.load_state_dict(sums.state_dict())
        errors.append(rel(sums(x, grid).detach() * root, exact(x, grid).detach() * root))
    return math.hypot(*errors)


def test_the_order_of_sums_under_a_window():
    """O(h^(s + 3/2)) in the mean square over radii, points and weights: the curve where derivative s jumps meets cells at random."""
    sizes = (20, 28, 40, 56, 80)
    assert_order([1 / n for n in sizes], [mean_error(Radial(2, 2, 2), n, RADII) for n in sizes], 3.5)


@pytest.mark.parametrize("kind", ["gauss", "equiangular"])
@pytest.mark.parametrize("kernel", [PolarHats(3, 4), Zernike(3)], ids=str)
def test_sums_approach_the_integral_at_second_order(kernel, kind):
    """With a direction: against a rule of its own around each point; fitted order of at least 2."""
    torch.manual_seed(0)
    sizes, errors = (16, 24, 36, 54), []
    layers = [SphericalIntegralConv(2, 1, kernel, radius=r, quadrature="nodal").double() for r in RADII[:8]]
    for n in sizes:
        grid = Sphere(points=kind).grid(n + (kind == "equiangular"), 2 * n)
        p, some, pairs = points(grid), slice(3 * n, -3 * n, 25 * n // 16), []
        for layer in layers:
            wanted = polar(kernel, layer.radius, layer.weight.detach(), p.flatten(1)[:, some], 8)
            pairs.append(rel(layer(polynomial(p), grid).detach()[0].flatten(1)[:, some], wanted))
        errors.append(math.hypot(*pairs))
    order = np.polyfit(-np.log(sizes), np.log(errors), 1)[0]
    assert order >= 2 - 0.05 and errors[-1] < 0.02, f"{order:.2f}, {errors}"


@pytest.mark.parametrize("kernel", [PolarHats(3, 1), Radial(2, 3), Zernike(1)], ids=str)
def test_sums_of_isotropic_kernels_are_funk_hecke_multipliers_to_quadrature_error(kernel):
    """Each degree times lambda_k(l), which for l = 0 is the integral of the kernel over the cap."""
    torch.manual_seed(0)
    radius = 0.6
    sums, exact = (SphericalIntegralConv(2, 3, kernel, radius=radius, quadrature=q).double() for q in ("nodal", "exact"))
    exact.load_state_dict(sums.state_dict())
    errors = []
    for n in (20, 40, 80):
        x, grid = polynomial(points(Sphere().grid(n, 2 * n))), Sphere().grid(n, 2 * n)
        errors.append(rel(sums(x, grid), exact(x, grid)))
    assert errors[2] < 2e-3 and errors[0] > 4 * errors[2] > 0
    u = torch.as_tensor((np.polynomial.legendre.leggauss(400)[0] + 1) / 2)
    psi = kernel_values(kernel, torch.stack([u, torch.zeros_like(u)])) / radius**2
    cap = psi @ (2 * math.pi * (radius * u).sin() * radius / 2 * torch.as_tensor(np.polynomial.legendre.leggauss(400)[1]))
    torch.testing.assert_close(zonal_multipliers(kernel, radius, 3, dtype=torch.float64)[:, 0], cap, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["sums", "integral"])
def test_constants_and_rows_at_the_poles(name):
    layer, grid = built(name).double(), Sphere(points="equiangular").grid(49, 64)
    one = torch.ones(1, 2, *grid.shape, dtype=torch.float64)
    y = layer(one, grid).detach()
    spread = (y.amax((2, 3)) - y.amin((2, 3))).max() / y.abs().max()
    assert spread < (0.02 if name == "sums" else 1e-12)
    x = polynomial(points(grid))
    y = layer(x, grid).detach()
    assert torch.isfinite(y).all() and rel(y[:, :, 0].mean(-1), y[:, :, 1].mean(-1)) < 0.05
    if name == "integral":
        assert (y[:, :, 0] - y[:, :, 0, :1]).abs().max() < 1e-12  # at a pole all longitudes are one point


def test_which_kernels_have_no_direction():
    assert all(is_isotropic(kernel) for kernel in (Radial(2, 3), PolarHats(3, 1), PolarHats(2, 1), Zernike(1), WindowedFourier(2, 1)))
    assert not any(is_isotropic(kernel) for kernel in (PolarHats(3, 4), PolarHats(2, 2), Zernike(2), Morlet(2, 2)))
    assert SphericalIntegralConv(1, 1, PolarHats(3, 4), radius=0.5).quadrature == "nodal"


def test_every_weight_of_a_kernel_counts():
    for name in ("sums", "integral"):
        layer, grid = built(name), Sphere().grid(16, 32)
        layer(torch.randn(2, 2, 16, 32), grid).square().sum().backward()
        assert (layer.weight.grad != 0).all()


# -- derivatives


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.domain.points}{g.shape}")
def test_derivatives_of_polynomials(grid):
    """x_phi cos(phi) = -z x, y_phi cos(phi) = -z y, z_phi cos(phi) = 1 - z^2; x_lambda = -y, y_lambda = x; exact up to the poles."""
    layer = SphericalDifferentialConv(1, 3, length=0.5, order=2).double()
    layer.weight.data = torch.eye(3, dtype=torch.float64)[:, None]
    x, y, z = points(grid)
    north, east, laplacian = layer((x * y + z**3 + x * z)[None, None], grid)[0].detach()
    torch.testing.assert_close(north, 0.5 * (-2 * x * y * z + 3 * z**2 * (1 - z**2) - x * z**2 + x * (1 - z**2)), rtol=0, atol=1e-12)
    torch.testing.assert_close(east, 0.5 * (x**2 - y**2 - y * z), rtol=0, atol=1e-12)
    torch.testing.assert_close(laplacian, 0.25 * (-6 * x * y - 6 * x * z + 6 * z - 12 * z**3), rtol=0, atol=1e-11)


def test_smoothing_differentiates_an_average():
    from opkernels.spherical import Harmonics

    grid, x = GRIDS[0], torch.randn(1, 2, 24, 48, dtype=torch.float64)
    torch.manual_seed(0)
    plain, smooth = (SphericalDifferentialConv(2, 3, length=0.2, order=2, smoothing=s).double() for s in (0.0, 0.15))
    smooth.load_state_dict(plain.state_dict())
    harmonics, ell = Harmonics(grid.highest_degree), torch.arange(grid.highest_degree + 1.0, dtype=torch.float64)[:, None]
    average = harmonics.synthesize(harmonics.analyze(x, grid) * torch.exp(-(0.15**2) / 2 * ell * (ell + 1)), grid)
    torch.testing.assert_close(smooth(x, grid), plain(average, grid), rtol=0, atol=1e-11)


# -- refusals

GRID = Sphere().grid(8, 16)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SphericalSpectralConv(0, 1, 4), "got 0 input and 1 output channels"),
        (lambda: SphericalSpectralConv(1, 1, -1), "degree=-1"),
        (lambda: SphericalSpectralConv(1, 1, 3, symmetry="none"), "symmetry='none'"),
        (lambda: SphericalSpectralConv(1, 1, 3)(torch.zeros(1, 1, 8, 15), GRID), r"shape \(1, 1, 8, 15\).*8 latitudes, 16 longitudes"),
        (lambda: SphericalSpectralConv(1, 1, 3)(torch.zeros(1, 1, 7, 16), GRID), r"shape \(1, 1, 7, 16\).*8 latitudes, 16 longitudes"),
        (lambda: SphericalSpectralConv(1, 1, 3)(torch.zeros(1, 2, 8, 16), GRID), r"expected \(batch, 1, 8, 16\)"),
        (lambda: SphericalSpectralConv(1, 1, 3)(torch.zeros(1, 1, 8, 16).long(), GRID), "dtype torch.int64"),
        (lambda: SphericalSpectralConv(1, 1, 3)(torch.zeros(1, 1, 8, 16), Domain.periodic(1.0, 1.0).grid(8, 16)), "one of a sphere"),
        (lambda: SphericalIntegralConv(1, 0, Zernike(2), radius=0.1), "got 1 input and 0 output channels"),
        (lambda: SphericalIntegralConv(1, 1, Radial(3, 2), radius=0.1), "kernel of 3 axes"),
        (lambda: SphericalIntegralConv(1, 1, Zernike(2), radius=3.2), "radius=3.2.*between 0 and pi"),
        (lambda: SphericalIntegralConv(1, 1, Zernike(2), radius=0.1, quadrature="both"), "quadrature='both'"),
        (lambda: SphericalIntegralConv(1, 1, Zernike(2), radius=0.1, quadrature="exact"), "which has a direction"),
        (lambda: SphericalIntegralConv(1, 1, Zernike(2), radius=0.1)(torch.zeros(1, 1, 8, 16), GRID), "radius 0.1, below the distance"),
        (lambda: SphericalIntegralConv(1, 1, Zernike(2), radius=0.5)(torch.zeros(1, 1, 16, 8), GRID), "8 latitudes, 16 longitudes"),
        (lambda: SphericalDifferentialConv(1, 1, length=0.0), "length=0.0"),
        (lambda: SphericalDifferentialConv(1, 1, length=0.1, order=3), "order=3"),
        (lambda: SphericalDifferentialConv(1, 1, length=0.1, smoothing=-1.0), "smoothing=-1.0"),
        (lambda: SphericalDifferentialConv(0, 1, length=0.1), "got 0 input and 1 output channels"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
