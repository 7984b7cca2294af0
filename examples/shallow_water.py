"""A jet on the globe rolls up: the rotating shallow-water equations, ∂ζ/∂t = -div((ζ + f) u) and two more, from Galewsky's state.

A westerly of 80 m/s at 45° north is in balance but unstable; a bump of 120 m in the surface sets it off, and after four
to six days it has rolled up into vortices. Prints the least and the largest vorticity, and how well mass and energy are kept.

    python examples/shallow_water.py --picture globe.png      # six days at 128 x 256 with the vorticity on the globe, a minute or two
"""

import argparse
import math

import torch
from torch import Tensor

from opkernels import resample
from opkernels.solvers.williamson import DAY, SphereProblem, galewsky


def main(shape: tuple[int, int] = (48, 96), days: float = 5.0, picture: str = "") -> dict[str, float]:
    problem = galewsky()
    degree = problem.domain.grid(*shape).dealiased_degree
    viscosity = (problem.domain.radius**2 / (degree * (degree + 1))) ** 4 / (2 * 3600)  # the last degree decays in two hours
    solver = problem.solver(viscosity=viscosity)
    u0 = problem.fields(0.0, shape)
    u = solver.solve(u0, [days * DAY], dt=900.0 * 64 / shape[0])[:, 0]
    energy = (solver.energy(u) / solver.energy(u0) - 1).item()
    mass = ((solver.depth(u) - solver.depth(u0)) * problem.domain.grid(*shape).weights(dtype=u.dtype)).sum() / problem.domain.measure
    low, high = u[0, 1].min().item(), u[0, 1].max().item()
    print(f"after {days:g} days at {shape[0]} x {shape[1]} (degree {degree}): vorticity {low:.2e} .. {high:.2e} 1/s")
    print(f"mean depth changed by {mass:.0e} m, energy by {energy:.1e} of itself, by the viscosity")
    if picture:
        draw(u[0, 1], problem, picture, f"Vorticity (1/s) after {days:g} days")
    return {"high": high, "low": low, "mass": abs(mass.item()), "energy": energy}


def draw(
    field: Tensor, problem: SphereProblem, path: str, title: str, tilt: float = math.radians(55), turn: float = math.radians(-80)
) -> None:
    """Draw a field (lat, lon) on the globe, seen from far above latitude `tilt` and longitude `turn` (orthographic projection)."""
    import matplotlib.pyplot as plt

    x, y = torch.meshgrid(torch.linspace(-1, 1, 600), torch.linspace(-1, 1, 600), indexing="xy")
    inside, toward = x**2 + y**2 < 1, (1 - x**2 - y**2).clamp_min(0).sqrt()
    latitude = torch.asin((y * math.cos(tilt) + toward * math.sin(tilt)).clamp(-1, 1))
    longitude = turn + torch.atan2(x, toward * math.cos(tilt) - y * math.sin(tilt))
    fine = resample(field[None, None], problem.domain.grid(*field.shape), (512, 1024))[0, 0]
    row = ((0.5 - latitude / math.pi) * 512).long().clamp(0, 511)
    column = (torch.remainder(longitude / (2 * math.pi), 1) * 1024).long().clamp(0, 1023)
    figure, axes = plt.subplots(figsize=(5.2, 4.4), layout="constrained")
    size = field.abs().max().item()
    seen = torch.where(inside, fine[row, column], math.nan)
    image = axes.imshow(seen, origin="lower", extent=(-1, 1, -1, 1), cmap="RdBu_r", vmin=-size, vmax=size)
    for lines in (torch.sin(6 * latitude), torch.sin(6 * longitude)):  # every 30 degrees
        axes.contour(x, y, torch.where(inside, lines, math.nan), levels=[0], colors="black", linewidths=0.4, alpha=0.4)
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, lw=0.8))
    axes.set_axis_off()
    axes.set_title(title)
    figure.colorbar(image, shrink=0.8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A jet on the globe rolls up.")
    parser.add_argument("--picture", default="", help="write a picture here, from a finer grid")
    picture = parser.parse_args().picture
    if picture:
        main((128, 256), 6.0, picture)
    else:
        main()
