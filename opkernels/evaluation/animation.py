"""Animations of rollouts as GIF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from opkernels.domains import Axis, Grid
from opkernels.evaluation.plots import COLORS, color_scale, finish, new_figure, planes
from opkernels.solvers.sph import ParticleTrajectory
from opkernels.sphere import Parallels, SphereGrid
from opkernels.storage import write_atomically

__all__ = ["animate", "animate_particles"]


def animate(
    prediction: np.ndarray,
    grid: Grid | SphereGrid,
    path: Path | str,
    *,
    truth: np.ndarray | None = None,
    times: Sequence[float] | None = None,
    seconds: float = 6.0,
    title: str = "",
) -> Path:
    """Write a GIF of a rollout, the truth beside it while there is one.

    Parameters
    ----------
    prediction, truth : array, (T, *grid.shape)
        In 3-D the middle plane of the last axis is shown; frames that are NaN in `truth` say "no truth".
    grid : Grid or SphereGrid
    path : path
        Ends in .gif.
    times : sequence of float, optional
        Of the frames.
    seconds : float
        Length; long rollouts are thinned to 25 frames a second.
    """
    path = _gif(path)
    columns = [np.asarray(u, dtype=float) for u in ((truth, prediction) if truth is not None else (prediction,))]
    if any(u.shape != columns[0].shape or u.shape[1:] != tuple(grid.shape) for u in columns):
        raise ValueError(f"got frames of shapes {[u.shape for u in columns]}; expected (time, {', '.join(map(str, grid.shape))})")
    names = ["truth", "prediction"] if truth is not None else ["prediction"]
    shown = [planes(u, u, grid) for u in columns]
    columns, axes = [u for u, _, _ in shown], shown[0][2]
    chosen = np.unique(np.linspace(0, len(columns[0]) - 1, min(len(columns[0]), int(25 * seconds))).round().astype(int))
    figure, draw = _animation(columns, names, axes, grid, title)
    _write(path, figure, [lambda i=i: draw(i, "" if times is None else f"t = {times[i]:.4g}") for i in chosen], seconds)
    return path


def _gif(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"got the animation's name {path}; let it end in .gif")
    return path


def _write(path: Path, figure, frames: Sequence[Callable[[], None]], seconds: float) -> None:
    """Call each of `frames`, which changes the figure, and write what it shows then."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas, images = FigureCanvasAgg(figure), []
    for draw in frames:
        draw()
        canvas.draw()
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE))
    options = {"save_all": True, "append_images": images[1:], "duration": max(40, int(1000 * seconds / len(images))), "loop": 0}
    write_atomically(path, lambda part: images[0].save(part, format="GIF", **options))


def _animation(columns: list[np.ndarray], names: list[str], axes: Sequence[Axis | Parallels], grid: Grid | SphereGrid, title: str):
    """Return a figure and a function that draws frame i with a caption into it."""
    style = color_scale(columns[0])
    if len(axes) == 1:
        figure = new_figure(5.5, 3.2)
        panel = figure.subplots()
        x = axes[0].coordinates(grid.shape[0]).double().numpy()
        styles = {"truth": {"color": COLORS["truth"], "lw": 3, "alpha": 0.35}, "prediction": {"color": COLORS["model"], "lw": 1.4}}
        artists = [panel.plot(x, u[0], label=name, **styles[name])[0] for u, name in zip(columns, names, strict=True)]
        low, high = style["vmin"], style["vmax"]
        panel.set(xlabel=axes[0].name, ylim=(low - 0.1 * (high - low), high + 0.1 * (high - low)))
        panel.legend(frameon=False, loc="upper right")
        heading, first = panel, panel
    else:
        x, y = axes
        height = min(4.0, 3.0 * y.length / x.length)
        width = height * x.length / y.length
        figure = new_figure(len(columns) * width + 1.4, max(height, 0.8) + 0.8)
        panels = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
        extent = (x.lower, x.upper, y.lower, y.upper)
        artists = [panel.imshow(u[0].T, origin="lower", extent=extent, **style) for panel, u in zip(panels, columns, strict=True)]
        for panel, name in zip(panels, names, strict=True):
            panel.set(title=name, xlabel=x.name)
        panels[0].set_ylabel(y.name)
        figure.colorbar(artists[-1], cax=panels[-1].inset_axes((1.03, 0, 0.08 / width, 1)))
        heading, first = None, panels[0]
    finish(figure, " ")
    gap = first.text(0.5, 0.5, "", transform=first.transAxes, ha="center", va="center", color="#666666")

    def draw(i: int, caption: str) -> None:
        for artist, u in zip(artists, columns, strict=True):
            artist.set_ydata(u[i]) if heading is not None else artist.set_data(u[i].T)
        gap.set_text("no truth" if names[0] == "truth" and np.isnan(columns[0][i]).all() else "")
        figure.suptitle(", ".join(part for part in (title, caption) if part) or " ", fontsize=10)

    return figure, draw


def animate_particles(
    prediction: ParticleTrajectory, path: Path | str, *, truth: ParticleTrajectory | None = None, seconds: float = 6.0, title: str = ""
) -> Path:
    """Write a GIF of particles colored by speed, the truth beside them while there is one.

    Parameters
    ----------
    prediction, truth : ParticleTrajectory
        In 1-D velocity is shown over position, in 3-D the first two coordinates. A truth may be shorter.
    path : path
        Ends in .gif.
    seconds : float
        Length; long rollouts are thinned to 15 frames a second.
    """
    path = _gif(path)
    runs = {"prediction": prediction} if truth is None else {"truth": truth, "prediction": prediction}
    shown = {name: (_places(run), run.velocities.norm(dim=-1)) for name, run in runs.items()}
    both = np.concatenate([places[np.isfinite(places).all(-1)] for places, _ in shown.values()])
    lower, upper = both.min(0), both.max(0)
    margin = 0.04 * (upper - lower).max() if prediction.particles.ndim > 1 else 0.04 * (upper - lower)
    (low, high), flat = (lower - margin, upper + margin), prediction.particles.ndim == 1
    width, height = (4.0, 3.0) if flat else (3.4, float(np.clip(3.4 * (upper - lower)[1] / max((upper - lower)[0], 1e-9), 1.2, 5.0)))
    figure = new_figure(len(runs) * width + 0.9, height + 0.9)
    panels = figure.subplots(1, len(runs), squeeze=False, sharex=True, sharey=True)[0]
    fastest = max(float(speed.nan_to_num().max()) for _, speed in shown.values()) or 1.0
    size = float(np.clip(6000 / len(prediction.particles), 2, 30))
    artists = []
    for panel, name in zip(panels, runs, strict=True):
        places, speed = shown[name]
        walls = runs[name].walls
        if walls is not None and not flat:
            panel.scatter(*walls.T[:2], s=size / 2, color="0.75")
        artists.append(panel.scatter(*places[0].T, c=speed[0], s=size, vmin=0, vmax=fastest, cmap="viridis"))
        panel.set(title=name, xlabel=prediction.particles.domain.names[0])
        panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        panel.set_aspect("auto" if flat else "equal")
    panels[0].set_ylabel("velocity" if flat else prediction.particles.domain.names[1])
    figure.colorbar(artists[-1], ax=list(panels), label="speed")
    finish(figure, " ")
    chosen = np.unique(np.linspace(0, len(prediction) - 1, min(len(prediction), int(15 * seconds))).round().astype(int))

    def draw(i: int) -> None:
        for artist, (places, speed) in zip(artists, shown.values(), strict=True):
            here = i if i < len(places) else None
            artist.set_offsets(np.empty((0, 2)) if here is None else places[here])
            artist.set_array(np.empty(0) if here is None else speed[here].numpy())
        figure.suptitle(", ".join(part for part in (title, f"t = {prediction.times[i]:.4g}") if part), fontsize=10)

    _write(path, figure, [lambda i=i: draw(i) for i in chosen.tolist()], seconds)
    return path


def _places(run: ParticleTrajectory) -> np.ndarray:
    """Return where to draw particles, (T, N, 2): wrapped positions, in 1-D with the velocity upwards."""
    columns = [
        axis.lower + (x - axis.lower) % axis.length if axis.periodic else x
        for axis, x in zip(run.particles.domain.axes, run.positions.unbind(-1), strict=True)
    ]
    second = columns[1] if len(columns) > 1 else run.velocities[..., 0]
    return np.stack([columns[0].numpy(), second.numpy()], -1)
