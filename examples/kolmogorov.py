"""Kolmogorov flow on [0, 2π)²: a small disturbance of the laminar state grows into vortices.

Prints the energy of the laminar flow and of the flow at t = 20 (ν = 1e-2, drag 0.1, four waves of force).
"""

import math

import torch

from opkernels import Domain
from opkernels.solvers import GaussianRandomField, KolmogorovFlow


def main() -> dict[str, float]:
    domain = Domain.periodic(2 * math.pi, 2 * math.pi)
    solver = KolmogorovFlow(domain, viscosity=1e-2, drag=0.1, wavenumber=4)
    laminar = solver.laminar((64, 64), torch.float64)
    w0 = laminar + 0.1 * GaussianRandomField(domain, alpha=2.5, tau=7.0).sample(1, (64, 64), seed=0, dtype=torch.float64)
    w = solver.solve(w0, [20.0])[:, 0]
    before, after = solver.energy(laminar).item(), solver.energy(w).item()
    print(f"energy: laminar {before:.3f}, at t=20 {after:.3f}")
    return {"laminar": before, "after": after}


if __name__ == "__main__":
    main()
