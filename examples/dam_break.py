"""A dam breaks: weakly compressible water falls, runs along the floor, and hits the far wall.

    drho/dt = -rho div v,   dv/dt = -grad p / rho + g,   p = c^2 (rho - rho_0)

Lengths in units of the water's depth, times in sqrt(depth / g). The front runs below Ritter's frictionless limit
2 sqrt(g depth) t, and the total energy never rises.
Run: python examples/dam_break.py    (about 20 s; prints the front's speed over Ritter's, and draws the flow)
"""

import math

from opkernels import Domain
from opkernels.solvers.sph import Walls, WeaklyCompressibleSPH2D
from opkernels.solvers.sph.cases import still_tank


def simulate(spacing: float = 0.1, times=(0.0, 0.5, 1.0, 1.5)):
    """Let a column of water, 2 wide and 1 deep, fall into a tank 5.4 long."""
    domain = Domain.box(5.4, 2.0)
    water = still_tank(domain, spacing, 1.0, width=2.0, jitter=0.05)
    walls = Walls.of_box(domain, spacing, water.particles.support, open_sides=("+y",), no_slip=False)
    solver = WeaklyCompressibleSPH2D(domain, sound_speed=10 * math.sqrt(2.0), alpha=0.05, gravity=(0.0, -1.0), walls=walls)
    return solver.solve(water.particles, times)


def total_energy(run):
    return run.kinetic_energy() + (run.particles.masses * run.positions[..., 1]).sum(-1)


def main() -> float:
    run = simulate()
    assert (total_energy(run).diff() <= 0).all()
    front = run.positions[..., 0].amax(1)
    ratio = float((front[-1] - front[-2]) / (run.times[-1] - run.times[-2])) / 2.0
    print(f"front speed over Ritter's limit: {ratio:.2f}")
    return ratio


if __name__ == "__main__":
    import matplotlib.pyplot as plt

    main()
    run = simulate(spacing=0.05, times=(0.0, 1.0, 2.0, 3.0))
    figure, axes = plt.subplots(len(run), figsize=(6, 9), sharex=True, layout="constrained")
    for axis, x, v, t in zip(axes, run.positions, run.velocities, run.times, strict=True):
        points = axis.scatter(*x.T, c=v.norm(dim=1), s=4, vmin=0, vmax=2)
        axis.plot(*run.walls.T, ".", ms=1, color="gray")
        axis.set(title=f"t = {t:g}", ylim=(-0.2, 2), aspect="equal")
    figure.colorbar(points, ax=axes, label="speed")
    figure.savefig("dam_break.png", dpi=120)
