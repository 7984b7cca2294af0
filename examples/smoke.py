"""Buoyant smoke in a closed box: ∂d/∂t + u·∇d = 0, ∂u/∂t + u·∇u = -∇p + ν Δu + b d e_z, ∇·u = 0.

A ball of smoke rises from rest and spreads under the lid. Prints how far its center of mass rose, the drift of its
mass and the largest divergence.
"""

import torch

from opkernels import Domain
from opkernels.solvers import SmokeBuoyancy3D


def main() -> dict[str, float]:
    domain = Domain.box(8.0, 8.0, 8.0)
    solver = SmokeBuoyancy3D(domain, viscosity=0.003, buoyancy=0.5)
    x, y, z = domain.grid(20, 20, 20).coordinates(dtype=torch.float64)
    ball = torch.exp(-((x - 4) ** 2 + (y - 4) ** 2 + (z - 2.5) ** 2))
    u0 = torch.stack([ball, 0 * ball, 0 * ball, 0 * ball])[None]  # smoke and the three components, on faces
    u = solver.solve(u0, [4.0, 8.0])[0]
    height = [(z * d).sum().item() / d.sum().item() for d in (ball, *u[:, 0])]
    drift = solver.mass(u)[-1].item() / solver.mass(u0).item() - 1
    divergence = solver.divergence(u).abs().max().item()
    print(f"height of the center: {height[0]:.2f}, {height[1]:.2f}, {height[2]:.2f}")
    print(f"drift of the mass: {drift:.1e}, largest divergence: {divergence:.1e}")
    return {"rise": height[2] - height[0], "drift": abs(drift), "divergence": divergence}


if __name__ == "__main__":
    main()
