"""Band-limited transfer between grids: exact where it is said to be, of the stated order elsewhere."""

import math

import numpy as np
import pytest
import torch
from helpers import assert_order, band_limited

import opkernels as ok
from opkernels import Axis, Domain, resample
from opkernels.resample import _fourier_fft, _transfer

F64 = torch.float64
POINTS = ("node", "cell", "endpoint", "gauss")


def cells(*lengths):
    return Domain(tuple(Axis(0, length, periodic=True, points="cell") for length in lengths))


def matrix(source, n, target, m):
    return _transfer(source, n, target, m, dtype=F64)


@pytest.mark.parametrize("n", [(33,), (16,), (32, 18), (15, 24), (9, 10, 7)])
@pytest.mark.parametrize("up", [2, 1.4, 0.75])
def test_band_limited_functions_are_exact(n, up):
    m = tuple(max(7, int(up * size)) for size in n)
    domain = Domain.periodic(*[1.3, 2.0, 0.7][: len(n)])
    x = band_limited(n, channels=2, batch=3)
    torch.testing.assert_close(resample(x, domain.grid(n), m), band_limited(m, channels=2, batch=3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n, m", [(12, 20), (20, 12), (13, 8), (8, 8), (9, 9)])
@pytest.mark.parametrize("one, other", [("node", "cell"), ("cell", "node"), ("cell", "cell")])
def test_cell_offset(n, m, one, other):
    a = Axis(-1, 2, periodic=True, points=one)
    b = Axis(-1, 2, periodic=True, points=other)

    def f(x):
        return 0.3 + torch.sin(2 * math.pi / 3 * 2 * x + 0.4) + torch.cos(2 * math.pi / 3 * 3 * x)

    y = resample(f(a.coordinates(n, dtype=F64)), Domain((a,)).grid(n), Domain((b,)).grid(m))
    torch.testing.assert_close(y, f(b.coordinates(m, dtype=F64)), rtol=0, atol=1e-12)


def test_equals_scipy_with_every_mode_present():
    signal = pytest.importorskip("scipy.signal")
    x = np.random.default_rng(0).standard_normal(24)
    for n in (24, 23):
        for m in (12, 13, 36, 37, 48):
            ours = resample(torch.tensor(x[:n]), Domain.periodic(1.0).grid(n), (m,)).numpy()
            np.testing.assert_allclose(ours, signal.resample(x[:n], m), rtol=0, atol=1e-13)


def test_nyquist_is_split_when_refining_and_folded_when_coarsening():
    for domain in (Domain.periodic(1.0), cells(1.0)):
        offset = domain.axes[0].offset
        n = 8
        alternating = (-1.0) ** torch.arange(n, dtype=F64)
        fine = resample(alternating, domain.grid(n), (32,))
        x = domain.grid(32).coordinates(dtype=F64)[0]
        torch.testing.assert_close(fine, torch.cos(2 * math.pi * 4 * (x - offset / n)), rtol=0, atol=1e-13)
        torch.testing.assert_close(resample(fine, domain.grid(32), (n,)), alternating, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n, m", [(8, 20), (9, 14), (20, 8), (14, 9), (12, 11), (10, 10)])
@pytest.mark.parametrize("one, other", [("node", "node"), ("cell", "cell"), ("cell", "node")])
def test_long_axes_by_fft_equal_the_matrix(n, m, one, other):
    a, b = (Axis(0, 2, periodic=True, points=points) for points in (one, other))
    x = torch.randn(3, n, dtype=F64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(_fourier_fft(x, a, n, b, m), x @ matrix(a, n, b, m).T, rtol=0, atol=1e-13)


def test_a_long_axis_is_exact():
    x = band_limited((5, 4096), k_max=2)
    y = resample(x, Domain.periodic(1.0, 1.0).grid(5, 4096), (6, 1001))
    torch.testing.assert_close(y, band_limited((6, 1001), k_max=2), rtol=0, atol=1e-11)


@pytest.mark.parametrize("points", POINTS)
def test_walls_reproduce_cubics(points):
    for target_points in POINTS:
        a, b = Axis(1, 3, points=points), Axis(1, 3, points=target_points)
        for n, m in [(12, 12), (9, 30), (30, 9), (17, 16), (4, 5)]:
            f = [(axis.coordinates(size, dtype=F64) - 1.7) ** 3 for axis, size in ((a, n), (b, m))]
            torch.testing.assert_close(matrix(a, n, b, m) @ f[0], f[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 20])
def test_walls_equal_scipys_not_a_knot_spline(n):
    interpolate = pytest.importorskip("scipy.interpolate")
    a, b = Axis(0, 2, points="cell"), Axis(0, 2, points="endpoint")
    f = np.random.default_rng(2).standard_normal(n)
    x, y = a.coordinates(n, dtype=F64).numpy(), b.coordinates(37, dtype=F64).numpy()
    ours = resample(torch.tensor(f), Domain((a,)).grid(n), Domain((b,)).grid(37)).numpy()
    np.testing.assert_allclose(ours, interpolate.CubicSpline(x, f)(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("points", ["node", "cell", "endpoint"])
@pytest.mark.parametrize("factor", [1.5, 0.5])
def test_walls_are_of_order_four(points, factor):
    axis, errors, sizes = Axis(0, 2, points=points), [], (64, 96, 128, 192, 256)
    for n in sizes:
        m = int(factor * n)
        u = [torch.exp(axis.coordinates(size, dtype=F64)) for size in (n, m)]
        errors.append(float((matrix(axis, n, axis, m) @ u[0] - u[1]).abs().max()))
    assert_order([1 / n for n in sizes], errors, 4)


def test_gauss_is_spectral():
    axis, other = Axis(-1, 2, points="gauss"), Axis(-1, 2, points="endpoint")
    for target, m in ((axis, 40), (axis, 25), (other, 50), (other, 33)):
        u = [torch.exp(torch.sin(a.coordinates(n, dtype=F64))) for a, n in ((axis, 32), (target, m))]
        # Coarsening on an endpoint axis ends on splines, of order four; all else is exact to rounding.
        torch.testing.assert_close(matrix(axis, 32, target, m) @ u[0], u[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("n, m", [(9, 23), (16, 32), (63, 64)])
def test_coarsening_undoes_refining(points, n, m):
    axis = Axis(0, 1.5, points=points)
    torch.testing.assert_close(matrix(axis, m, axis, n) @ matrix(axis, n, axis, m), torch.eye(n, dtype=F64), rtol=0, atol=1e-11)


@pytest.mark.parametrize("points", ["node", "cell", "endpoint", "gauss"])
def test_walls_damp_what_the_coarse_grid_cannot_carry(points):
    axis = Axis(0, 1, points=points)
    x = axis.coordinates(128, dtype=F64)
    noise = torch.cos(2 * math.pi * 45 * x)  # aliases to an amplitude of one when samples are merely picked
    kept = (matrix(axis, 128, axis, 32) @ noise)[3:-3]
    assert float(kept.abs().max()) < 0.15


@pytest.mark.parametrize("points", POINTS)
def test_walls_are_well_conditioned(points):
    for target_points in POINTS:
        for n, m in [(65, 64), (64, 65), (100, 30), (30, 100)]:
            norm = torch.linalg.norm(matrix(Axis(0, 1, points=points), n, Axis(0, 1, points=target_points), m), 2)
            assert 0.4 < float(norm) < 25


def test_mixed_axes_and_leading_axes():
    domain = Domain((Axis(0, 1, periodic=True, points="node"), Axis(0, 2, points="endpoint"), Axis(0, 3, points="gauss")))

    def f(grid):
        x, y, z = grid.coordinates(dtype=F64)
        return torch.sin(2 * math.pi * x) * (y**3 - y) + z**3

    g, h = domain.grid(9, 8, 7), domain.grid(6, 13, 5)
    torch.testing.assert_close(resample(f(g), g, h), f(h), rtol=0, atol=1e-12)
    stacked = torch.stack([f(g), 2 * f(g)]).expand(4, 2, 9, 8, 7)
    torch.testing.assert_close(resample(stacked, g, (6, 13, 5))[3, 1], 2 * f(h), rtol=0, atol=1e-12)


def test_equal_grids_cost_nothing():
    grid = Domain.box(1.0, 1.0).grid(8, 9)
    x = torch.randn(1, 1, 8, 9)
    assert resample(x, grid, (8, 9)) is x


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 3e-6), (torch.float64, 1e-12), (torch.bfloat16, 3e-2)])
def test_dtype_follows_the_input(dtype, atol):
    domain = Domain((Axis(0, 1, periodic=True, points="node"), Axis(0, 1, points="cell")))
    x = band_limited((16, 12), k_max=2)
    reference = resample(x, domain.grid(16, 12), (24, 30))
    y = resample(x.to(dtype), domain.grid(16, 12), (24, 30))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), reference, rtol=0, atol=atol)


def test_autocast_does_not_touch_it():
    grid = Domain.periodic(1.0, 1.0).grid(16, 16)
    x = band_limited((16, 16), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = resample(x, grid, (24, 24))
    torch.testing.assert_close(y, band_limited((24, 24), dtype=torch.float32), rtol=0, atol=3e-6)


def test_gradients():
    domain = Domain((Axis(0, 1, periodic=True, points="cell"), Axis(0, 1, points="endpoint")))
    grid = domain.grid(5, 6)
    x = torch.randn(2, 5, 6, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resample(x, grid, (7, 4)), x)


def test_compiles_without_a_graph_break_and_knows_no_device():
    domain = Domain((Axis(0, 1, periodic=True, points="cell"), Axis(0, 1, points="endpoint")))
    x = torch.randn(2, 8, 9)

    def f(x):
        return resample(x, domain.grid_of(x[:, None]), (12, 7))

    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(x), f(x))
    assert f(torch.empty(2, 8, 9, device="meta")).device.type == "meta"  # mixing in a host tensor would raise


def test_a_table_made_while_predicting_serves_training():
    grid = Domain.periodic(1.0).grid(34)
    with torch.inference_mode():
        resample(torch.randn(34), grid, (35,))
    x = torch.randn(34, requires_grad=True)
    resample(x, grid, (35,)).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    "x, target, message",
    [
        (torch.zeros(1, 7), (8,), r"shape \(1, 7\); expected its last axes to be the grid's \(8,\)"),
        (torch.zeros(1, 8, dtype=torch.int64), (9,), "dtype torch.int64; give real floating-point"),
        (torch.zeros(1, 8), Domain.periodic(1.0, 1.0).grid(8, 8), "2-D target for a 1-D source"),
        (torch.zeros(1, 8), Domain.periodic(2.0).grid(8), r"over \[0, 1\] and a target over \[0, 2\] on axis x"),
        (torch.zeros(1, 8), Domain.box(1.0).grid(8), "one periodic and one with walls, on axis x"),
        (torch.zeros(1, 8), (1,), "at least 2"),
    ],
)
def test_refusals(x, target, message):
    with pytest.raises(ValueError, match=message):
        ok.resample(x, Domain.periodic(1.0).grid(8), target)
