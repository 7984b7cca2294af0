"""Finite-element waves: CPU time of one time step against Newmark with consistent masses and a sparse factor.

The peer is the textbook method for finite elements: P1 triangles, consistent mass M, Newmark's average acceleration,
(M + dt²/4 K) factored once by scipy's splu (minimum degree on Aᵀ + A, its fastest setting here), one solve and one product
per step. The factorization is not counted. Both advance u = sin πx sin πy to t = 1 on n x n cells with dt = h/2, in float64;
the errors against the exact solution stand beside the times. Ours is all of `solve`, divided by its steps. Each contender
runs in its own process on one thread; time is user + system, the best of the rounds; the ratio is that of the best times.

Run: python benchmarks/wave_cost.py     (writes benchmarks/results/wave_cost.json)
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from measuring import QUIET, cpu

SIZES = (64, 128, 256)
RESULTS = Path(__file__).parent / "results" / "wave_cost.json"
CONTENDERS = ("newmark, splu", "ours, p1", "ours, q1", "ours, p1, variable speed", "ours, p1, batch of 16")


def newmark(n: int):
    """Return a function that takes all steps and returns u(1), and the number of steps."""
    import numpy as np
    import scipy.sparse as sparse
    from scipy.sparse.linalg import splu

    h, steps = 1 / n, 2 * n
    dt = 1 / steps
    index = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = (index[i : i + n, j : j + n].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    triangles = np.concatenate([np.stack([b, a, c]), np.stack([d, a, c])], axis=1)  # the right angle first
    stiffness = 0.5 * np.array([[2, -1, -1], [-1, 1, 0], [-1, 0, 1]])
    mass = h * h / 24 * np.array([[2, 1, 1], [1, 2, 1], [1, 1, 2]])
    rows, columns = np.repeat(triangles, 3, axis=0), np.tile(triangles, (3, 1))

    def assemble(local):
        values = np.repeat(local.reshape(9, 1), triangles.shape[1], axis=1)
        full = sparse.csr_matrix((values.ravel(), (rows.ravel(), columns.ravel())))
        inside = index[1:-1, 1:-1].ravel()
        return full[inside][:, inside]

    k, m = assemble(stiffness), assemble(mass)
    factor = splu((m + dt**2 / 4 * k).tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    x = np.linspace(0, 1, n + 1)[1:-1]
    start = np.outer(np.sin(np.pi * x), np.sin(np.pi * x)).ravel()
    acceleration = splu(m.tocsc(), permc_spec="MMD_AT_PLUS_A").solve(-(k @ start))

    def run():
        u, v, acc = start, np.zeros_like(start), acceleration
        for _ in range(steps):
            u, v = u + dt * v + dt**2 / 4 * acc, v + dt / 2 * acc
            acc = factor.solve(-(k @ u))
            u, v = u + dt**2 / 4 * acc, v + dt / 2 * acc
        return u.reshape(n - 1, n - 1)

    return run, steps


def ours(n: int, contender: str):
    """Return a function that takes all steps and returns u(1), and the number of steps times samples."""
    import torch

    from opkernels import Domain
    from opkernels.solvers import Wave2D

    torch.set_num_threads(1)
    domain = Domain.box(1.0, 1.0, points="endpoint")
    speed = (lambda x, y: 1 + 0 * x * y) if "variable" in contender else 1.0
    solver = Wave2D(domain, element="q1" if "q1" in contender else "p1", speed=speed)
    x, y = domain.grid(n + 1, n + 1).coordinates(dtype=torch.float64)
    u = torch.sin(torch.pi * x) * torch.sin(torch.pi * y)
    batch = 16 if "batch" in contender else 1
    u0 = torch.stack([u, torch.zeros_like(u)])[None].repeat(batch, 1, 1, 1)
    return (lambda: solver.solve(u0, [1.0], dt=0.5 / n)[0, 0, 0, 1:-1, 1:-1].numpy()), 2 * n * batch


def run(n: int, contender: str) -> None:
    """Time one contender and print its milliseconds per step and its error."""
    import numpy as np

    job, steps = newmark(n) if "splu" in contender else ours(n, contender)
    job()
    times = []
    for _ in range(3):
        start = cpu()
        u = job()
        times.append(1e3 * (cpu() - start) / steps)
    x = np.linspace(0, 1, n + 1)[1:-1]
    mode = np.outer(np.sin(np.pi * x), np.sin(np.pi * x))
    print(json.dumps([min(times), float(np.sqrt(((u - math.cos(math.pi * math.sqrt(2)) * mode) ** 2).sum() / (mode**2).sum()))]))


def main() -> None:
    table = {}
    for n in SIZES:
        rows = {}
        for contender in CONTENDERS:
            command = [sys.executable, __file__, str(n), contender]
            out = subprocess.run(command, env={**os.environ, **QUIET}, check=True, capture_output=True, text=True).stdout
            time, error = json.loads(out)
            rows[contender] = {"ms per step": round(time, 4), "error": error}
            rows[contender]["newmark / this"] = round(rows["newmark, splu"]["ms per step"] / time, 1)
            print(f"{n:4} {contender:26} {time:9.4f} ms/step   {rows[contender]['newmark / this']:6.1f} x cheaper   error {error:.2e}")
        table[n] = rows
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 1 else main()
