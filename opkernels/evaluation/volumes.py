"""Pictures of three-dimensional fields: planes through the box, and surfaces of equal value.

`isosurface` marches through tetrahedra: every cell between eight samples is cut along its diagonal into six, on which u is taken as
linear. Neighbors agree on their common faces, so surfaces have no cracks, and there are no ambiguous cases. The error in place is of
second order in the spacing.

References
----------
A. Doi, A. Koide, An efficient method of triangulating equi-valued surfaces by using tetrahedral cells, IEICE Trans. E74 (1991), 214-224.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from opkernels.domains import Grid
from opkernels.evaluation.plots import color_scale, finish, new_figure

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

__all__ = ["isosurface", "plot_rollout", "plot_slices", "plot_surfaces"]

_CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))
_TETRAHEDRA = np.array(  # numbers of corners: the ways from (0, 0, 0) to (1, 1, 1) along three edges
    [[0, 1 << a, (1 << a) + (1 << b), 7] for a, b, _ in itertools.permutations(range(3))]
)
_CUT = {  # number of vertices above the level, which are counted first: triangles, whose corners sit on edges between two vertices
    1: [((0, 1), (0, 2), (0, 3))],
    2: [((0, 2), (0, 3), (1, 3)), ((0, 2), (1, 3), (1, 2))],
    3: [((0, 3), (1, 3), (2, 3))],
}
_ABOVE, _BELOW = "#d9822b", "#0b6e99"


def isosurface(u: np.ndarray, grid: Grid, level: float) -> np.ndarray:
    """Return the surface u = level as triangles.

    Parameters
    ----------
    u : array, (n_x, n_y, n_z)
        Samples on `grid`; cells with a value that is not finite are left out.
    grid : Grid
        Of three dimensions, any samples. Periodic axes are closed by their first sample.
    level : float

    Returns
    -------
    array, (T, 3, 3)
        Corners (x, y, z) of T triangles in units of length, counted such that normals point to where u is below the level.
    """
    u, places = _closed(_volumes(u, grid, leading=0), grid)
    n = np.array(u.shape) - 1
    values = np.stack([u[tuple(slice(c, c + m) for c, m in zip(corner, n, strict=True))].ravel() for corner in _CORNERS])
    cut = (values > level).any(0) & (values <= level).any(0) & np.isfinite(values).all(0)
    first = np.stack(np.unravel_index(np.flatnonzero(cut), tuple(n)), axis=-1)
    index = (first + _CORNERS[:, None])[_TETRAHEDRA.T].reshape(4, -1, 3)
    corners = np.stack([x[index[..., a]] for a, x in enumerate(places)], axis=-1)
    return _triangles(values[:, cut][_TETRAHEDRA.T].reshape(4, -1), corners, level)


def _closed(u: np.ndarray, grid: Grid) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return u with the first layer behind the last on periodic axes, and the coordinates along each axis."""
    places = []
    for a, (axis, n) in enumerate(zip(grid.domain.axes, grid.shape, strict=True)):
        x = axis.coordinates(n, dtype=torch.float64).numpy()
        if axis.periodic:
            u, x = np.concatenate([u, u.take([0], axis=a)], axis=a), np.append(x, x[0] + axis.length)
        places.append(x)
    return u, places


def _triangles(values: np.ndarray, corners: np.ndarray, level: float) -> np.ndarray:
    """Cut tetrahedra with values (4, N) at corners (4, N, 3) at a level."""
    above = values > level
    order = np.argsort(~above, axis=0, kind="stable")
    values, corners = np.take_along_axis(values, order, 0), np.take_along_axis(corners, order[..., None], 0)
    count, found = above.sum(0), [np.empty((0, 3, 3))]
    for n, triangles in _CUT.items():
        v, p = values[:, count == n], corners[:, count == n]
        inner = p[:n].mean(0)
        for edges in triangles:
            triangle = np.stack([_crossing(v, p, *edge, level) for edge in edges], axis=1)
            inwards = np.einsum("nc,nc->n", _normals(triangle), triangle.mean(1) - inner) < 0
            found.append(np.where(inwards[:, None, None], triangle[:, ::-1], triangle))
    return np.concatenate(found)


def _crossing(v: np.ndarray, p: np.ndarray, a: int, b: int, level: float) -> np.ndarray:
    """Return where the level is met between vertices a and b, (N, 3)."""
    return p[a] + ((level - v[a]) / (v[b] - v[a]))[:, None] * (p[b] - p[a])


def _normals(triangles: np.ndarray) -> np.ndarray:
    """Return normals of twice the area's length, (T, 3)."""
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])


def plot_slices(
    u: np.ndarray | Sequence,
    grid: Grid,
    *,
    through: Sequence[float] | None = None,
    rows: Sequence[str] | None = None,
    title: str = "",
    unit: str = "",
) -> Figure:
    """Draw the three planes through a point of the box side by side, one row per field or time.

    Parameters
    ----------
    u : array, (R, n_x, n_y, n_z)
    grid : Grid
        Of three dimensions.
    through : three numbers, optional
        The point; planes are those of the nearest samples. By default the middle of the box.
    rows : sequence of str, optional
        What each row is.
    title, unit : str
        Above all; of the values, beside the color bars.
    """
    u = _volumes(u, grid, leading=1)
    axes = grid.domain.axes
    through = [(a.lower + a.upper) / 2 for a in axes] if through is None else list(through)
    if len(through) != 3:
        raise ValueError(f"got through={through!r}; give the three coordinates of a point")
    places = [a.coordinates(n, dtype=torch.float64).numpy() for a, n in zip(axes, grid.shape, strict=True)]
    nearest = [int(np.abs(x - at).argmin()) for x, at in zip(places, through, strict=True)]
    shown = ((0, 1), (0, 2), (1, 2))
    widths = [axes[a].length for a, _ in shown]
    scale = 8.0 / sum(widths)
    height = scale * max(axes[b].length for _, b in shown)
    figure = new_figure(10.0, len(u) * (height + 0.6) + (0.5 if title else 0.2))
    panels = figure.subplots(len(u), 3, squeeze=False, width_ratios=widths)
    for row, f, label in zip(panels, u, _labels(rows, len(u)), strict=True):
        style = color_scale(f)
        for panel, (a, b) in zip(row, shown, strict=True):
            c = 3 - a - b
            extent = (axes[a].lower, axes[a].upper, axes[b].lower, axes[b].upper)
            image = panel.imshow(f.take(nearest[c], axis=c).T, origin="lower", extent=extent, interpolation="nearest", **style)
            panel.set(title=f"{axes[c].name} = {places[c][nearest[c]]:.3g}", xlabel=axes[a].name, ylabel=axes[b].name)
        row[0].set_ylabel(f"{label}\n\n{axes[1].name}" if label else axes[1].name)
        figure.colorbar(image, ax=list(row), label=unit, fraction=0.03, pad=0.01)
    finish(figure, title)
    return figure


def plot_surfaces(
    u: np.ndarray | Sequence,
    grid: Grid,
    *,
    level: float | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw surfaces of equal value, one row per field, one column per time or source, with one level along each row.

    Parameters
    ----------
    u : array, (R, C, n_x, n_y, n_z)
    grid : Grid
        Of three dimensions; the last axis points upwards.
    level : float, optional
        By default, from the first column that is not constant: halfway between the least and the largest value; for signed fields
        plus and minus half the largest size, in two colors. A given level is drawn alone.
    rows, columns : sequence of str, optional
        What each row and each column is; the level is told beside each row.
    title : str
        Above all.
    """
    u = _volumes(u, grid, leading=2)
    figure = new_figure(3.2 * u.shape[1] + 0.4, 2.9 * len(u) + (0.5 if title else 0.2))
    panels = figure.subplots(*u.shape[:2], squeeze=False, subplot_kw={"projection": "3d", "computed_zorder": False})
    for row, fields, label in zip(panels, u, _labels(rows, len(u)), strict=True):
        levels = _levels(next((f for f in fields if np.ptp(f) > 0), fields[0])) if level is None else [float(level)]
        for panel, f in zip(row, fields, strict=True):
            _draw_surfaces(panel, f, grid, levels)
        at = "±" * (len(levels) == 2) + f"{levels[0]:.3g}"
        row[0].text2D(
            -0.04, 0.5, f"{label + ', ' if label else ''}at {at}", transform=row[0].transAxes, rotation=90, va="center", fontsize=9
        )
    for panel, name in zip(panels[0], _labels(columns, u.shape[1]), strict=True):
        panel.set_title(name, y=1.03)
    finish(figure, title)
    return figure


def plot_rollout(run: xarray.Dataset, grid: Grid) -> Figure:
    """Draw surfaces of the fields that a `long_rollout` kept, truth | prediction, at the first and the last frame of the truth."""
    known = np.flatnonzero(np.isfinite(run.truth.values[0]).all(axis=(1, 2, 3, 4)))
    frames = [(name, i) for i in dict.fromkeys(known[[0, -1]].tolist()) for name in ("truth", "prediction")]
    u = np.stack([run[name].values[0, i] for name, i in frames], axis=1)
    columns = [f"{name}, t = {run.time.values[i]:.3g}" for name, i in frames]
    return plot_surfaces(u, grid, rows=[str(name) for name in run.field.values], columns=columns)


def _draw_surfaces(panel, f: np.ndarray, grid: Grid, levels: Sequence[float]) -> None:
    from matplotlib.colors import LightSource
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    for level, color in zip(levels, (_ABOVE, _BELOW), strict=False):
        triangles = isosurface(f, grid, level)
        triangles = triangles[np.linalg.norm(_normals(triangles), axis=1) > 0]
        if len(triangles):
            light = LightSource(azdeg=225, altdeg=50)
            panel.add_collection3d(Poly3DCollection(triangles, facecolors=color, shade=True, lightsource=light, antialiased=False))
    axes = grid.domain.axes
    for a, axis in zip("xyz", axes, strict=True):
        getattr(panel, f"set_{a}lim")(axis.lower, axis.upper)
        getattr(panel, f"set_{a}label")(axis.name, labelpad=-8)
        getattr(panel, f"{a}axis").set_tick_params(pad=-3)
    panel.locator_params(nbins=4, prune="both")
    panel.set_box_aspect([axis.length for axis in axes], zoom=1.0)
    panel.view_init(elev=22, azim=-55)


def _levels(f: np.ndarray) -> list[float]:
    """Return the level halfway up, or plus and minus half the largest size of a signed field."""
    style = color_scale(f)
    low, high = style["vmin"], style["vmax"]
    return [high / 2, low / 2] if low == -high else [(low + high) / 2]


def _labels(given: Sequence[str] | None, n: int) -> list[str]:
    labels = [""] * n if given is None else list(given)
    if len(labels) != n:
        raise ValueError(f"got {len(labels)} labels for {n} rows or columns; give one for each")
    return labels


def _volumes(u: np.ndarray | Sequence, grid: Grid, *, leading: int) -> np.ndarray:
    """Return u (*leading, *grid.shape) as floats, or refuse."""
    u = np.asarray(u, dtype=float)
    if grid.ndim != 3 or u.ndim != 3 + leading or u.shape[leading:] != tuple(grid.shape):
        wanted = ", ".join([*["rows", "columns"][:leading], *map(str, grid.shape)])
        raise ValueError(f"got an array of shape {u.shape} on a {grid.ndim}-D grid; expected ({wanted}) on a 3-D one")
    return u
