"""A fast Korteweg-de Vries soliton overtakes a slow one: u_t + 6 u u_x + u_xxx = 0.

Prints the error at the end against the exact two-soliton solution, and the drift of ∫u².
"""

from opkernels.solvers.exact import two_solitons


def main() -> dict[str, float]:
    problem = two_solitons()
    u0 = problem.fields(0.0)
    u = problem.solver("ETDRK4").solve(u0, [2.0, problem.end])
    truth = problem.fields(problem.end)
    error = ((u[:, 1] - truth).norm() / truth.norm()).item()
    drift = abs(u[:, 1].square().sum() / u0.square().sum() - 1).item()
    print(f"error after the collision: {error:.1e}; drift of the second invariant: {drift:.1e}")
    return {"error": error, "drift": drift}


if __name__ == "__main__":
    main()
