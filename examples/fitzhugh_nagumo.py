"""Patterns out of noise between walls: u_t = D_u Δu + u - u³ - v, v_t = D_v Δv + u - v, no flux through the walls.

A mode cos κx of small amplitude grows at the largest eigenvalue σ(κ) of [[1 - D_u κ², -1], [1, -1 - D_v κ²]]. From faint
noise on a strip, prints how much of the activator's variance the modes about the fastest one hold, first and at last, and the
growth of that mode against theory.
"""

import math

import torch

from opkernels import Domain
from opkernels.solvers import FitzHughNagumo, GaussianRandomField

DIFFUSIVITY = (1e-3, 2e-2)


def growth(kappa2: torch.Tensor) -> torch.Tensor:
    """Return σ(κ)."""
    a, d = 1 - DIFFUSIVITY[0] * kappa2, -1 - DIFFUSIVITY[1] * kappa2
    return (a + d) / 2 + (((a - d) / 2) ** 2 - 1).clamp_min(0).sqrt()


def main() -> dict[str, float]:
    domain = Domain.box(4.0)
    solver = FitzHughNagumo(domain, diffusivity=DIFFUSIVITY, threshold=0.0)
    noise = GaussianRandomField(domain, alpha=1.0, tau=20.0, sigma=2e-5)
    u0 = torch.cat([noise.sample(1, (128,), seed=seed, dtype=torch.float64) for seed in (0, 1)], dim=1)
    times = [0.0, 4.0, 6.0, 40.0]
    u = solver.solve(u0, times)[0, :, 0]
    x = domain.grid(128).coordinates(dtype=torch.float64)[0]
    kappa = math.pi / 4 * torch.arange(40, dtype=torch.float64)
    modes = u @ torch.cos(kappa[:, None] * x).T / 128
    fastest = int(growth(kappa**2).argmax())
    rate = (modes[2, fastest] / modes[1, fastest]).log().item() / 2
    power = modes.square()[:, 1:]
    share = power[:, fastest - 4 : fastest + 3].sum(1) / power.sum(1)
    ratio = rate / growth(kappa[fastest] ** 2).item()
    print(f"share of the modes about number {fastest}: {share[0]:.2f} of the noise, {share[-1]:.2f} of the pattern")
    print(f"growth of that mode over theory: {ratio:.4f}")
    return {"ratio": ratio, "share": share[-1].item()}


if __name__ == "__main__":
    main()
