"""Darcy flow through a two-phase medium, and the permeability recovered from pressure by its gradient.

-∇·(a ∇u) = 1 on the unit square, u = 0 on the walls; a is 12 or 3 by the sign of a Gaussian field
(the data of the Fourier neural operator, arXiv:2010.08895). Prints the mean pressure at 64² and 128²
for the same field, and how far forty steps of gradient descent on ln a reduce the misfit.
"""

import torch

from opkernels import Domain
from opkernels.solvers import Darcy2D, two_phase


def field(n: int) -> torch.Tensor:
    """One smooth function, sampled at the n x n cell centers."""
    x, y = Domain.box(1.0, 1.0).grid(n, n).coordinates(dtype=torch.float64)
    return (torch.cos(3 * x + 2 * y) + torch.sin(7 * x * y) - 0.4)[None, None]


def recover(steps: int = 40) -> float:
    """Fit ln a on 16 x 16 cells to the pressure of a hidden coefficient; return the last misfit over the first."""
    solver = Darcy2D(Domain.box(1.0, 1.0), tolerance=1e-8)
    target = solver.solve(torch.exp(field(16)))
    log_a = torch.zeros_like(target, requires_grad=True)
    optimizer = torch.optim.Adam([log_a], lr=0.05)
    misfits = []
    for _ in range(steps):
        optimizer.zero_grad()
        misfit = (solver.solve(log_a.exp()) - target).square().mean()
        misfit.backward()
        optimizer.step()
        misfits.append(misfit.item())
    return misfits[-1] / misfits[0]


def main() -> dict[str, float]:
    solver = Darcy2D(Domain.box(1.0, 1.0))
    coarse, fine = (solver.solve(two_phase(field(n))).mean().item() for n in (64, 128))
    print(f"mean pressure at 64²: {coarse:.6f}, at 128²: {fine:.6f}")
    ratio = recover()
    print(f"misfit after 40 steps: {ratio:.1e} of the first")
    return {"coarse": coarse, "fine": fine, "ratio": ratio}


if __name__ == "__main__":
    main()
