"""Surfaces of equal value: exact planes, spheres of second order, no cracks, periodic axes; pictures of volumes hold what they should."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import xarray
from helpers import assert_order

from opkernels import Axis, Domain
from opkernels.evaluation.plots import save_figure
from opkernels.evaluation.volumes import isosurface, plot_rollout, plot_slices, plot_surfaces

BRICK = Domain((Axis(-1.0, 1.5), Axis(0.0, 2.0, points="endpoint"), Axis(0.0, 1.2, periodic=True)))


def coordinates(grid):
    return grid.coordinates(dtype=torch.float64).numpy()


def crossed(t):
    return np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0])


def area(t):
    return np.linalg.norm(crossed(t), axis=1).sum() / 2


def ball(n, radius=0.5):
    """Return triangles of a ball on a brick of n, n + 3, n - 2 samples."""
    grid = Domain.box(2.0, 2.4, 1.8).grid(n, n + 3, n - 2)
    x, y, z = coordinates(grid)
    return isosurface(-((x - 1) ** 2) - (y - 1.1) ** 2 - (z - 0.9) ** 2, grid, -(radius**2))


def test_volume_and_area_of_a_ball_are_of_second_order():
    sizes = (12, 17, 24, 33, 48)
    triangles = [ball(n) for n in sizes]
    volumes = [np.einsum("nc,nc->", t[:, 0], np.cross(t[:, 1], t[:, 2])) / 6 for t in triangles]  # positive: normals point outwards
    assert_order([1 / n for n in sizes], [abs(v / (4 / 3 * math.pi * 0.5**3) - 1) for v in volumes], 2)
    assert_order([1 / n for n in sizes], [abs(area(t) / (4 * math.pi * 0.5**2) - 1) for t in triangles], 2)


def test_a_closed_surface_has_no_cracks():
    """Every edge belongs to two triangles, which run along it in opposite directions."""
    corners = [[tuple(p) for p in t] for t in ball(9).round(9).tolist()]
    edges = Counter((t[i], t[(i + 1) % 3]) for t in corners for i in range(3) if t[i] != t[(i + 1) % 3])
    assert len(edges) > 500 and set(edges.values()) == {1}
    assert all((b, a) in edges for a, b in edges)


def test_planes_are_exact_and_close_around_periodic_axes():
    grid = BRICK.grid(6, 7, 8)
    x, y, z = coordinates(grid)
    normal = np.array([0.6, -0.8, 0.0])
    t = isosurface(normal[0] * x + normal[1] * y, grid, -0.3)
    assert np.abs(t[..., :2] @ normal[:2] + 0.3).max() < 1e-14
    assert np.ptp(t[..., 2]) == pytest.approx(1.2), "over the whole period"
    low, high = x.min(), x.max()  # centers do not reach the walls
    assert area(t) == pytest.approx((high + 0.5) / 0.8 * 1.2, rel=1e-12), "from y = 0 on, x = -1/2"
    assert (crossed(t) @ normal < 0).all()
    waves = isosurface(np.sin(2 * math.pi * z / 1.2 + 0.3) + 0 * x, grid, 0.0)
    assert area(waves) == pytest.approx(2 * 2.0 * (high - low), rel=1e-12), "two sheets, one of them across the seam"


def test_levels_out_of_range_and_cells_without_numbers_give_nothing():
    grid = BRICK.grid(6, 7, 8)
    x, _, _ = coordinates(grid)
    assert isosurface(x, grid, 9.0).shape == (0, 3, 3) and isosurface(np.full_like(x, np.nan), grid, 0.0).shape == (0, 3, 3)
    holed = x.copy()
    holed[:, 2] = np.nan
    assert np.isfinite(isosurface(holed, grid, 0.1)).all() and 0 < area(isosurface(holed, grid, 0.1)) < area(isosurface(x, grid, 0.1))


def test_slices_are_the_nearest_planes(tmp_path):
    grid = BRICK.grid(5, 6, 8)
    u = np.random.default_rng(0).standard_normal((2, 5, 6, 8))
    figure = plot_slices(u, grid, through=(1.1, 0.5, 0.97), rows=["u", "v"], title="title", unit="m/s")
    shown = [axes for axes in figure.axes if axes.images and axes.get_title()]
    assert [axes.get_title() for axes in shown[:3]] == ["z = 0.975", "y = 0.4", "x = 1.25"]
    for row in range(2):
        for panel, plane in zip(shown[3 * row :], (u[row, :, :, 6], u[row, :, 1], u[row, 4]), strict=False):
            np.testing.assert_allclose(panel.images[0].get_array(), plane.T)
    assert save_figure(figure, tmp_path / "slices.png", dpi=40).stat().st_size > 2000
    assert "y = 0.8" in [axes.get_title() for axes in plot_slices(u, grid).axes]


def test_surfaces_share_a_level_along_a_row(tmp_path):
    grid = BRICK.grid(8, 9, 10)
    x, y, z = coordinates(grid)
    smoke = np.exp(-4 * (x**2 + (y - 1) ** 2 + (z - 0.6) ** 2))
    wave = np.sin(3 * x) + 0 * y
    u = [[smoke, 0.4 * smoke, 0 * smoke], [0 * wave, wave, 0.6 * wave]]
    figure = plot_surfaces(u, grid, rows=["smoke", "wave"], columns=["a", "b", "c"], title="title")
    counts = [len(axes.collections) for axes in figure.axes]
    assert counts == [1, 0, 0, 0, 2, 2], "a level for all times; two signs"
    told = [axes.texts[0].get_text() for axes in figure.axes if axes.texts]
    middle = (smoke.min() + smoke.max()) / 2
    assert told == [f"smoke, at {middle:.3g}", f"wave, at ±{np.abs(wave).max() / 2:.3g}"]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]
    assert save_figure(figure, tmp_path / "surfaces.png", dpi=40).stat().st_size > 2000
    assert len(plot_surfaces(u, grid, level=0.2).axes[1].collections) == 1


def test_a_rollout_shows_the_last_truth():
    grid = BRICK.grid(5, 6, 7)
    x, y, z = coordinates(grid)
    frames = np.stack([np.cos(x + t) + 0 * y for t in range(4)])[None, :, None]
    truth = frames.copy()
    truth[:, 3:] = np.nan
    dims = ("kept", "time", "field", *grid.domain.names)
    run = xarray.Dataset({"prediction": (dims, frames), "truth": (dims, truth)}, {"time": [0.0, 0.5, 1.0, 1.5], "field": ["u"]})
    figure = plot_rollout(run, grid)
    assert [axes.get_title() for axes in figure.axes] == ["truth, t = 0", "prediction, t = 0", "truth, t = 1", "prediction, t = 1"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda g: isosurface(np.zeros((4, 4)), g, 0.0),
            r"got an array of shape \(4, 4\) on a 3-D grid; expected \(4, 5, 6\) on a 3-D one",
        ),
        (lambda g: plot_slices(np.zeros((4, 5, 6)), g), r"shape \(4, 5, 6\) on a 3-D grid; expected \(rows, 4, 5, 6\)"),
        (lambda g: plot_slices(np.zeros((1, 4, 5, 6)), g, through=(1, 2)), r"got through=\[1, 2\]; give the three coordinates"),
        (lambda g: plot_surfaces(np.zeros((1, 4, 5, 6)), g), r"expected \(rows, columns, 4, 5, 6\)"),
        (lambda g: plot_surfaces(np.zeros((1, 1, 4, 5)), Domain.box(1.0, 1.0).grid(4, 5)), "on a 2-D grid"),
        (lambda g: plot_surfaces(np.zeros((1, 1, 4, 5, 6)), g, rows=["a", "b"]), "got 2 labels for 1"),
    ],
)
def test_bad_input_is_one_sentence(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(Domain.box(1.0, 1.0, 1.0).grid(4, 5, 6))
