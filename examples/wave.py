"""A wave crosses into a faster medium, by finite elements and, where the speed is constant, exactly.

u_tt = ∇·(c² ∇u) on [0, 2] x [0, 1]. First a pulse at constant speed between fixed walls, where the
exact propagator shows the second order of the elements; then c = 1 on the left and 2 on the right with
absorbing ends, where the amplitude that enters is 2/(1 + 2) of what arrives.
"""

import math

import torch

from opkernels import Axis, Domain
from opkernels.solvers import SpectralWave, Wave2D


def order() -> float:
    """Return the order of the elements, measured against the exact solution at 65 x 33 and 129 x 65 nodes."""
    domain = Domain.box(2.0, 1.0, points="endpoint")
    errors = []
    for n in (32, 64):
        x, y = domain.grid(2 * n + 1, n + 1).coordinates(dtype=torch.float64)
        u = torch.sin(math.pi * x / 2) * torch.sin(math.pi * y) + 0.3 * torch.sin(math.pi * x) * torch.sin(2 * math.pi * y)
        u0 = torch.stack([u, torch.zeros_like(u)])[None]
        exact = SpectralWave(domain).solve(u0, [1.0])
        errors.append((Wave2D(domain).solve(u0, [1.0]) - exact).norm().item() / n)
    return math.log2(errors[0] / errors[1])


def transmitted() -> float:
    """Return the amplitude of a pulse behind the step in speed; theory says 2 c1/(c1 + c2) of its height."""
    domain = Domain((Axis(0.0, 2.0, points="endpoint"), Axis(0.0, 0.1, periodic=True, points="node")))
    solver = Wave2D(domain, speed=lambda x, y: torch.where(x < 1.0, 1.0, 2.0), walls=("absorbing", "periodic"))
    x, _ = domain.grid(801, 4).coordinates(dtype=torch.float64)
    pulse = torch.exp(-(((x - 0.5) / 0.05) ** 2))
    velocity = 2 * (x - 0.5) / 0.05**2 * pulse  # -c u_x: to the right
    u = solver.solve(torch.stack([pulse, velocity])[None], [0.75])[0, 0, 0]
    return u[x[:, 0] > 1.2].max().item()


def main() -> dict[str, float]:
    result = {"order": order(), "transmitted": transmitted()}
    print(f"order of the elements: {result['order']:.2f}")
    print(f"amplitude behind the step: {result['transmitted']:.4f} (theory {2 / 3:.4f})")
    return result


if __name__ == "__main__":
    main()
