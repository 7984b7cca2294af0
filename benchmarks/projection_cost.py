"""Projection of a staggered velocity at 64 x 64 x 64: cosine transforms against conjugate gradients; the cost of a whole step of smoke.

The velocity is that of the published smoke after one step without pressure (lift of a blob, in a closed box). "cg" is
scipy's `cg` on the assembled seven-point matrix (CSR, the mean taken off), to a relative residual of 1e-5, as published codes;
assembly is outside the clock, divergence and gradient inside. "cg, jacobi" preconditions with the diagonal. Both ours and theirs in
float64 and in float32 (the matrix, too). One thread, process time, interleaved; times are the best of the rounds, the ratio is that of
the best times. Whole steps, one sample: the default scheme (MacCormack,
midpoint, reflection), the same with projection, and the published one (semi-Lagrangian, Euler, projection).

Run: python benchmarks/projection_cost.py [--size 64] [--rounds 5]     (writes benchmarks/results/projection_cost.json)
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from measuring import QUIET
from scipy.sparse.linalg import cg

from opkernels import Domain
from opkernels.solvers import SmokeBuoyancy3D
from opkernels.solvers.staggered import Staggered

RESULTS = Path(__file__).parent / "results" / "projection_cost.json"
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def cpu(job: Callable) -> tuple[float, Any]:
    start = time.process_time()
    result = job()
    return time.process_time() - start, result


def matrix(n: int, h: float) -> sparse.csr_matrix:
    """Return -Δ with Neumann walls, (n³, n³)."""
    main = np.full(n, 2.0)
    main[[0, -1]] = 1.0
    line = sparse.diags([-np.ones(n - 1), main, -np.ones(n - 1)], [-1, 0, 1]) / h**2
    one = sparse.identity(n)
    return sparse.csr_matrix(
        sparse.kron(sparse.kron(line, one), one) + sparse.kron(sparse.kron(one, line), one) + sparse.kron(one, sparse.kron(one, line))
    )


def conjugate_gradients(ops: Staggered, a, u: torch.Tensor, precondition) -> tuple[torch.Tensor, int]:
    """Project u (1, 3, n, n, n) to a relative residual of 1e-5."""
    b = -ops.divergence(u)[0].numpy().ravel()
    count = [0]
    p, info = cg(a, b - b.mean(), rtol=1e-5, maxiter=5000, M=precondition, callback=lambda x: count.__setitem__(0, count[0] + 1))
    assert info == 0
    pressure = torch.from_numpy(np.asarray(p, dtype=u.numpy().dtype)).reshape(1, *u.shape[2:])
    return u - ops.gradient(pressure), count[0]


def velocity(ops: Staggered, n: int) -> torch.Tensor:
    """Return the lift of a blob of smoke."""
    x, y, z = ops.grid.coordinates(dtype=torch.float64)
    d = torch.exp(-((x - 3.5) ** 2 + (y - 4.2) ** 2 + (z - 3.0) ** 2) / 2)[None]
    up = ops.inside(ops.moved(d, None, 2), 2)
    return 0.375 * torch.stack([0 * up, 0 * up, up], dim=1)


def projection(n: int, rounds: int) -> dict:
    domain = Domain.box(8.0, 8.0, 8.0)
    ops = Staggered(domain.grid(n, n, n), (("no_slip", "no_slip"),) * 3)
    full = velocity(ops, n)
    table = {}
    for name, dtype in DTYPES.items():
        u = full.to(dtype)
        a = matrix(n, 8.0 / n).astype(u.numpy().dtype)
        jacobi = sparse.diags(1 / a.diagonal())
        jobs = {
            "cosine transforms": lambda u=u: (ops.projected(u), 0),
            "cg": lambda u=u, a=a: conjugate_gradients(ops, a, u, None),
            "cg, jacobi": lambda u=u, a=a, jacobi=jacobi: conjugate_gradients(ops, a, u, jacobi),
        }
        best = {key: {"ms": float("inf")} for key in jobs}
        for i in range(rounds):
            for key, job in jobs.items():
                repeats = 10 if key == "cosine transforms" else 1
                for _ in range(repeats if i or key == "cosine transforms" else 1):
                    seconds, (v, iterations) = cpu(job)
                    best[key]["ms"] = min(best[key]["ms"], 1e3 * seconds)
                left = (ops.divergence(v).norm() / ops.divergence(u).norm()).item()
                best[key] |= {"iterations": iterations, "divergence left": left, "largest divergence": ops.divergence(v).abs().max().item()}
        ours = best["cosine transforms"]["ms"]
        table[name] = {key: row | {"ratio": row["ms"] / ours} for key, row in best.items()}
    return table


def steps(n: int, rounds: int) -> dict:
    """Return the CPU time of one whole step in milliseconds, and the peak memory of the process so far."""
    domain = Domain.box(8.0, 8.0, 8.0)
    schemes = {
        "default": SmokeBuoyancy3D(domain),
        "default, projection": SmokeBuoyancy3D(domain, splitting="projection"),
        "published": SmokeBuoyancy3D(domain, advection="semi_lagrangian", trace="euler", splitting="projection"),
    }
    x, y, z = domain.grid(n, n, n).coordinates(dtype=torch.float64)
    d = torch.exp(-((x - 3.5) ** 2 + (y - 4.2) ** 2 + (z - 3.0) ** 2) / 2)
    table = {}
    for name, dtype in DTYPES.items():
        u0 = torch.stack([d, 0 * d, 0 * d, 0 * d])[None].to(dtype)
        start = schemes["default"].solve(u0, [1.0], dt=0.5)[:, 0]
        times = {key: [] for key in schemes}
        for _ in range(rounds):
            for key, solver in schemes.items():
                times[key].append(cpu(lambda solver=solver, start=start: solver.solve(start, [0.1], dt=0.1))[0])
        table[name] = {key: 1e3 * min(values) for key, values in times.items()}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if QUIET.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | QUIET)
    torch.set_num_threads(1)
    with torch.no_grad():
        result = {
            "size": options.size,
            "projection": projection(options.size, options.rounds),
            "step_ms": steps(options.size, options.rounds),
            "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "load": os.getloadavg()[0],
        }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    for dtype, rows in result["projection"].items():
        for key, row in rows.items():
            cost = f"{row['ms']:9.2f} ms  {row['ratio']:7.1f}x  {row['iterations']:4d} iterations"
            print(f"{dtype}  {key:<18} {cost}  divergence left {row['divergence left']:.1e}")
    for dtype, row in result["step_ms"].items():
        print(dtype, "whole step:", ", ".join(f"{key} {value:.0f} ms" for key, value in row.items()))


if __name__ == "__main__":
    main()
