"""A Gray-Scott spot that divides: one spot on [0, 1/2)² becomes a pattern.

A_t = D_A ΔA - A B² + F (1 - A), B_t = D_B ΔB + A B² - (F + k) B. Prints the share of the area with B > 0.1.
"""

import torch

from opkernels import Domain
from opkernels.solvers import GrayScott


def main() -> dict[str, float]:
    domain = Domain.periodic(0.5, 0.5)
    solver = GrayScott(domain, feed=0.035, kill=0.06, diffusivity=(2e-5, 1e-5))
    x = domain.grid(64, 64).coordinates(dtype=torch.float64) - 0.25
    spot = 0.25 * torch.exp(-160 * (x**2).sum(0))
    u = solver.solve(torch.stack([1 - 2 * spot, spot])[None], [100.0, 1500.0])[0]
    early, late = (u[:, 1] > 0.1).double().mean(dim=(1, 2)).tolist()
    print(f"area with B > 0.1: {early:.3f} at t=100, {late:.3f} at t=1500")
    return {"early": early, "late": late}


if __name__ == "__main__":
    main()
