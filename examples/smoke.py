"""Buoyant smoke in a closed box: ∂d/∂t + u·∇d = 0, ∂u/∂t + u·∇u = -∇p + ν Δu + b d e_z, ∇·u = 0.

A ball of smoke rises from rest and spreads under the lid. Prints how far its center of mass rose, the drift of its
mass and the largest divergence. `python examples/smoke.py --picture FILE` draws it on a finer grid (a quarter of a CPU minute).
"""

import argparse

import torch

from opkernels import Domain
from opkernels.evaluation.plots import save_figure
from opkernels.evaluation.volumes import plot_surfaces
from opkernels.solvers import SmokeBuoyancy3D


def main(n: int = 20, picture: str = "") -> dict[str, float]:
    domain = Domain.box(8.0, 8.0, 8.0)
    solver = SmokeBuoyancy3D(domain, viscosity=0.003, buoyancy=0.5)
    grid = domain.grid(n, n, n)
    x, y, z = grid.coordinates(dtype=torch.float64)
    ball = torch.exp(-((x - 4) ** 2 + (y - 4) ** 2 + (z - 2.5) ** 2))
    u0 = torch.stack([ball, 0 * ball, 0 * ball, 0 * ball])[None]  # smoke and the three components, on faces
    u = solver.solve(u0, [4.0, 8.0])[0]
    height = [(z * d).sum().item() / d.sum().item() for d in (ball, *u[:, 0])]
    drift = solver.mass(u)[-1].item() / solver.mass(u0).item() - 1
    divergence = solver.divergence(u).abs().max().item()
    print(f"height of the center: {height[0]:.2f}, {height[1]:.2f}, {height[2]:.2f}")
    print(f"drift of the mass: {drift:.1e}, largest divergence: {divergence:.1e}")
    if picture:
        columns = [f"t = {t}" for t in (0, 4, 8)]
        save_figure(plot_surfaces([[ball, *u[:, 0]]], grid, level=0.15, rows=["smoke"], columns=columns), picture, dpi=110)
    return {"rise": height[2] - height[0], "drift": abs(drift), "divergence": divergence}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A ball of smoke rises.")
    parser.add_argument("--picture", default="", help="write a picture here, from a finer grid")
    picture = parser.parse_args().picture
    main(40, picture) if picture else main()
