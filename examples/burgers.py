"""A Burgers front against its exact solution, and the initial field recovered from the final one by gradients.

∂u/∂t + ∂(u²/2)/∂x = ν∂²u/∂x²; the exact solution is the Cole-Hopf transform of a heat solution.
"""

import torch

from opkernels.solvers.exact import cole_hopf


def main() -> dict[str, float]:
    problem = cole_hopf(viscosity=0.05)
    error = problem.error("IFRK4")
    solver, target = problem.solver("IFRK4"), problem.fields(problem.end)
    guess = torch.zeros(1, 1, 128, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([guess], max_iter=25)

    def misfit() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (solver.solve(guess, [problem.end], dt=0.1)[:, 0] - target).square().sum()
        loss.backward()
        return loss

    first = misfit().item()
    optimizer.step(misfit)
    ratio = misfit().item() / first
    print(f"error of the default step: {error:.1e}; misfit after recovery: {ratio:.1e} of the first")
    return {"error": error, "ratio": ratio}


if __name__ == "__main__":
    main()
