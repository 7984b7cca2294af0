"""Errors and spectra against integrals known by hand, and what must not change them."""

import math

import pytest
import torch
from helpers import assert_order, band_limited

import opkernels as ok
from opkernels import Axis, Domain
from opkernels.metrics import _derivative, band_energy, energy_spectrum, rel_h1, rel_l2, spectrum_distance
from opkernels.resample import resample

F64 = torch.float64
MIXED = Domain((Axis(0, 2, periodic=True, points="cell"), Axis(0, 3, points="endpoint"), Axis(-1, 1, points="gauss")))


def polynomial(grid):
    x, y, z = grid.coordinates(dtype=F64)
    return (torch.sin(math.pi * x) * (1 + y) * z**2)[None, None]


def test_rel_l2_is_a_ratio_of_integrals():
    # |z^2| over [-1, 1] and |z^2 - 1|: int z^4 = 2/5, int 1 = 2.
    grid = Domain.box(2.0, points="gauss").grid(5)
    z = grid.coordinates(dtype=F64) - 1
    truth, prediction = z[None] ** 2, z[None] ** 2 + 1
    torch.testing.assert_close(rel_l2(prediction, truth, grid), torch.tensor(math.sqrt(5), dtype=F64))


def test_rel_l2_counts_the_ends_of_an_endpoint_axis_half():
    grid = Domain.box(1.0, points="endpoint").grid(3)
    error, truth = torch.tensor([[[1.0, 0, 0]]]), torch.tensor([[[1.0, 1, 1]]])
    torch.testing.assert_close(rel_l2(truth + error, truth, grid), torch.tensor(0.5))


def test_rel_l2_sums_channels_then_averages_samples():
    truth = torch.tensor([[[3.0], [4.0]], [[1.0], [0.0]]])
    prediction = truth + torch.tensor([[[5.0], [0.0]], [[0.0], [0.5]]])
    torch.testing.assert_close(rel_l2(prediction, truth, reduction="none"), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(rel_l2(prediction, truth), torch.tensor(0.75))


@pytest.mark.parametrize("metric", [rel_l2, rel_h1])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_relative_errors_do_not_know_the_scale(metric, scale):
    truth, error = band_limited((16, 17), batch=2), 0.1 * band_limited((16, 17), batch=2, seed=1)
    grid = Domain.periodic(1.0, 2.0).grid(16, 17)
    torch.testing.assert_close(metric(scale * (truth + error), scale * truth, grid), metric(truth + error, truth, grid))


@pytest.mark.parametrize("metric", [rel_l2, rel_h1])
def test_relative_errors_do_not_know_the_grid(metric):
    domain = Domain.periodic(1.0, 3.0)
    values = []
    for shape in [(16, 16), (32, 20), (17, 15), (64, 48)]:
        truth, error = band_limited(shape, 2, 3), 0.1 * band_limited(shape, 2, 3, seed=1)
        values.append(metric(truth + error, truth, domain.grid(shape)))
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=1e-12, atol=0)


def test_metrics_do_not_know_batch_order_or_copies_of_channels():
    grid = Domain.periodic(1.0, 1.0).grid(12, 10)
    truth, error = band_limited((12, 10), 2, 4), 0.1 * band_limited((12, 10), 2, 4, seed=1)
    for metric in (rel_l2, rel_h1):
        value = metric(truth + error, truth, grid, reduction="none")
        torch.testing.assert_close(metric((truth + error).flip(0), truth.flip(0), grid, reduction="none"), value.flip(0))
        parts = [metric((truth + error)[b : b + 1], truth[b : b + 1], grid) for b in range(4)]
        torch.testing.assert_close(torch.stack(parts), value)
        twice = [torch.cat([u, u], dim=1) for u in (truth + error, truth)]
        torch.testing.assert_close(metric(*twice, grid, reduction="none"), value)


def test_rel_h1_of_single_waves():
    domain = Domain.periodic(2.0, 3.0)
    x, y = domain.grid(16, 15).coordinates(dtype=F64)
    truth = torch.sin(2 * math.pi * x / 2)[None, None]
    error = torch.cos(2 * math.pi * (x / 2 + 2 * y / 3))[None, None]
    kx, ky = math.pi, 4 * math.pi / 3
    expected = math.sqrt((1 + kx**2 + ky**2) / (1 + kx**2))
    torch.testing.assert_close(rel_h1(truth + error, truth, domain.grid(16, 15)), torch.tensor(expected, dtype=F64))


@pytest.mark.parametrize("points", ["node", "cell", "endpoint", "gauss"])
def test_derivatives_of_linear_fields_are_exact_at_walls(points):
    axis = Axis(1, 3, points=points)
    x = axis.coordinates(9, dtype=F64)
    for p in (1, 2, 3, 4):  # the five-point stencils are exact to degree 4
        torch.testing.assert_close(_derivative(x**p, -1, axis, 9), p * x ** (p - 1), rtol=1e-11, atol=0)
    for n in (2, 3):
        x = axis.coordinates(n, dtype=F64)
        torch.testing.assert_close(_derivative(5 * x, -1, axis, n), 0 * x + 5, rtol=1e-12, atol=0)


def test_h1_norm_of_a_linear_field_in_a_box():
    grid = Domain.box(1.0, 1.0, points="gauss").grid(8, 7)
    x, y = grid.coordinates(dtype=F64)
    truth = torch.ones(1, 1, 8, 7, dtype=F64)
    # |x + y|^2 has integral 7/6, its gradient 2; a periodic stencil would see a jump at the wall.
    value = rel_h1(truth + (x + y), truth, grid)
    torch.testing.assert_close(value, torch.tensor(math.sqrt(7 / 6 + 2), dtype=F64))


@pytest.mark.parametrize("points", ["node", "cell", "endpoint"])
def test_wall_stencils_are_of_order_four(points):
    axis, errors, sizes = Axis(0, 2, points=points), [], (64, 96, 128, 192, 256)
    for n in sizes:
        u = torch.exp(axis.coordinates(n, dtype=F64))
        errors.append(float((_derivative(u, -1, axis, n) - u).abs().max()))
    assert_order([1 / n for n in sizes], errors, 4)


def test_gauss_derivative_of_many_points_stays_accurate():
    axis = Axis(0, 2, points="gauss")
    for n in (16, 200):
        u = torch.exp(axis.coordinates(n, dtype=F64))
        torch.testing.assert_close(_derivative(u, -1, axis, n), u, rtol=1e-8, atol=0)


def test_mixed_axes():
    grid = MIXED.grid(12, 9, 8)
    u = polynomial(grid)
    torch.testing.assert_close(rel_h1(1.25 * u, u, grid), torch.tensor(0.25, dtype=F64))
    fine = MIXED.grid(24, 33, 12)
    one = rel_h1(u + 0.1 * u**2, u, grid)
    other = rel_h1(polynomial(fine) + 0.1 * polynomial(fine) ** 2, polynomial(fine), fine)
    torch.testing.assert_close(one, other, rtol=2e-2, atol=0)  # trapezoid weights: second order in 1/8


@pytest.mark.parametrize("metric", [rel_l2, rel_h1])
def test_gradients_are_right_and_finite_at_zero_error(metric):
    grid = Domain((Axis(0, 1, periodic=True, points="node"), Axis(0, 1, points="endpoint"))).grid(5, 6)
    truth = torch.randn(2, 2, 5, 6, dtype=F64)
    prediction = (truth + 0.1 * torch.randn_like(truth)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: metric(p, truth, grid), prediction)
    exact = truth.clone().requires_grad_()
    metric(exact, truth, grid).backward()
    assert exact.grad.abs().max() == 0


@pytest.mark.parametrize("metric", [rel_l2, rel_h1])
def test_float32_agrees_with_float64(metric):
    grid = Domain.periodic(1.0, 1.0).grid(32, 31)
    truth, error = band_limited((32, 31)), 0.1 * band_limited((32, 31), seed=1)
    value = metric((truth + error).float(), truth.float(), grid)
    torch.testing.assert_close(value.double(), metric(truth + error, truth, grid), rtol=1e-5, atol=0)


def test_metrics_compile_and_know_no_device():
    grid = MIXED.grid(6, 5, 4)
    x = torch.randn(2, 1, 6, 5, 4)
    f = torch.compile(lambda p, r: rel_l2(p, r, Domain.periodic(1.0, 1.0, 1.0).grid(6, 5, 4)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(f(x, x + 1), rel_l2(x, x + 1))
    assert rel_h1(x.to("meta"), x.to("meta"), grid).device.type == "meta"


# Spectra


@pytest.mark.parametrize("shape", [(32,), (16, 24), (17, 15), (15, 16), (8, 9, 10)])
def test_spectrum_sums_to_the_mean_energy(shape):
    domain = Domain.periodic(*[2.0, 3.0, 1.0][: len(shape)])
    u = torch.randn(2, 3, *shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    kappa, energy = energy_spectrum(u, domain.grid(shape))
    assert energy.shape == (2, 3, len(kappa))
    mean = 0.5 * (u**2).flatten(2).mean(-1)
    torch.testing.assert_close(energy.sum(-1) * (kappa[1] - kappa[0]), mean)


def test_spectrum_finds_a_wave_at_its_physical_wave_number():
    domain = Domain.periodic(2.0, 4.0)  # fundamental wave numbers pi and pi/2: shells of width pi
    for shape in [(16, 16), (33, 20)]:
        x, y = domain.grid(shape).coordinates(dtype=F64)
        u = 3 * torch.sin(math.pi * 2 * x + math.pi / 2 * 3 * y)  # |kappa| = 2.5 pi: in the shell 3 pi, not 2 pi
        kappa, energy = energy_spectrum(u, domain.grid(shape))
        assert int(energy.argmax()) == 3
        torch.testing.assert_close(kappa[3], torch.tensor(3 * math.pi, dtype=F64))
        torch.testing.assert_close(energy[3] * math.pi, torch.tensor(9 / 4, dtype=F64))


def test_spectrum_does_not_know_the_grid():
    domain = Domain.periodic(1.0, 2.0)
    reference = energy_spectrum(band_limited((16, 16)), domain.grid(16, 16))[1]
    for shape in [(32, 32), (15, 17), (64, 20)]:
        energy = energy_spectrum(band_limited(shape), domain.grid(shape))[1]
        torch.testing.assert_close(energy[..., :8], reference[..., :8])


def test_spectrum_in_a_box_reflects_at_the_walls():
    domain = Domain.box(2.0, points="cell")
    u = torch.cos(math.pi * 3 * domain.grid(32).coordinates(dtype=F64) / 2)[0]
    kappa, energy = energy_spectrum(u, domain.grid(32))
    assert int(energy.argmax()) == 3
    torch.testing.assert_close(kappa[3], torch.tensor(3 * math.pi / 2, dtype=F64))
    torch.testing.assert_close(energy[3] * kappa[1], torch.tensor(0.25, dtype=F64))
    for points in ("endpoint", "gauss", "node"):
        box = Domain.box(2.0, points=points)
        u = torch.cos(math.pi * 3 * box.grid(64).coordinates(dtype=F64) / 2)[0]
        torch.testing.assert_close(energy_spectrum(u, box.grid(64))[1][:6], energy[:6], rtol=0, atol=1e-4)


def test_band_energies():
    domain = Domain.periodic(2 * math.pi, 2 * math.pi)
    for shape in [(16, 16), (21, 32)]:
        x, y = domain.grid(shape).coordinates(dtype=F64)
        u = 1 + torch.cos(5 * x - 2 * y) + 2 * torch.sin(3 * x)
        bands = band_energy(u, domain.grid(shape), [0, 0.5, 3, 5, 100])
        torch.testing.assert_close(bands, torch.tensor([1, 0, 2, 0.5], dtype=F64))  # an edge belongs to the band above it


def test_spectrum_distance_in_decades():
    grid = Domain.periodic(1.0, 1.0).grid(16, 18)
    u = band_limited((16, 18), 2, 3)
    torch.testing.assert_close(spectrum_distance(u, u, grid), torch.zeros(3, 2, dtype=F64))
    torch.testing.assert_close(spectrum_distance(10 * u, u, grid), torch.full((3, 2), 2.0, dtype=F64))
    torch.testing.assert_close(spectrum_distance(u.roll(3, -1), u, grid), torch.zeros(3, 2, dtype=F64), rtol=0, atol=1e-12)
    low = resample(resample(u, grid, (5, 5)), Domain.periodic(1.0, 1.0).grid(5, 5), grid)  # |k| = 3 is gone
    assert float(spectrum_distance(low, u, grid).min()) > 5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda u, g: rel_l2(u[:1], u), r"prediction of shape \(1, 1, 8, 8\) for a truth of shape \(2, 1, 8, 8\)"),
        (lambda u, g: rel_l2(u[0, 0, 0], u[0, 0, 0]), r"expected \(batch, channels, \*spatial\)"),
        (lambda u, g: rel_l2(u, u, g.refined()), r"last axes to be the grid's \(16, 16\)"),
        (lambda u, g: rel_l2(u, u, reduction="sum"), 'reduction=\'sum\'; choose "mean" or "none"'),
        (lambda u, g: rel_h1(u, u), "rel_h1 got no grid"),
        (lambda u, g: energy_spectrum(u[..., 1:], g), "last axes to be the grid's"),
        (lambda u, g: band_energy(u, g, [0.0, 2.0, 1.0]), "give at least two rising wave numbers"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 1, 8, 8), Domain.periodic(1.0, 1.0).grid(8, 8))


def test_public_names():
    assert ok.rel_l2 is rel_l2 and ok.rel_h1 is rel_h1 and ok.energy_spectrum is energy_spectrum
