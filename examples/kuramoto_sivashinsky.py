"""Chaos in one dimension: u_t + u u_x + u_xx + u_xxxx = 0 on a line of length 22.

Prints how fast two nearly equal solutions part (the largest Lyapunov exponent is about 0.048) and ⟨u²⟩.
"""

import math

import torch

from opkernels import Domain
from opkernels.solvers import GaussianRandomField, KuramotoSivashinsky


def main() -> dict[str, float]:
    domain = Domain.periodic(22.0)
    solver = KuramotoSivashinsky(domain)
    u0 = GaussianRandomField(domain, alpha=2.0, tau=0.5).sample(16, (64,), seed=0, dtype=torch.float64)
    u0 = solver.solve(u0, [200.0], dt=0.25)[:, 0]  # onto the attractor
    u = solver.solve(torch.cat([u0, u0 + 1e-7 * torch.randn(u0.shape, generator=torch.Generator().manual_seed(0))]), [50.0, 150.0], dt=0.25)
    gap = (u[:16] - u[16:]).flatten(2).norm(dim=2)
    rate = (gap[:, 1] / gap[:, 0]).log().mean().item() / 100
    power = solver.solve(u0, torch.arange(1, 201), dt=0.25).square().mean().item()
    print(f"growth of a small difference: {rate:.3f} per time; mean of u²: {power:.2f}")
    return {"rate": rate, "power": power, "e-folding": math.inf if rate <= 0 else 1 / rate}


if __name__ == "__main__":
    main()
