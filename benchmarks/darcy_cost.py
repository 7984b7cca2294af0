"""Darcy flow: CPU time per sample of the batched solver against scipy's sparse direct solves.

16 coefficients on 256 x 256 cells, u = 0 on the walls, f = 1; the same matrices for all. "spsolve" is scipy's default
(COLAMD ordering), "splu" its symmetric mode with minimum degree ordering on Aᵀ + A, the fastest setting for these matrices.
The matrices are assembled outside the clock; our time is all of `solve`. The direct solutions are the reference of the
errors (relative, in the root mean square); ours must be below 1e-8 (asserted). Each contender runs in its own process on
one thread; time is user + system, the best of the rounds; the ratios are those of the best times, to "spsolve" and to "splu". The load
average is stored beside them: matrix products lose more than sparse factors where other processes use the caches and the memory.

Run: python benchmarks/darcy_cost.py     (writes benchmarks/results/darcy_cost.json)
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import QUIET, cpu

N, BATCH = 256, 16
RESULTS = Path(__file__).parent / "results" / "darcy_cost.json"
LAWS = {"two-phase 12/3": ("two_phase", {}), "log-normal, ratio 1e3 .. 1e5": ("log_normal", {"scale": 5.0})}
SOLVERS = {"ours, 1e-8": 1e-8, "ours, float32, 1e-6": 1e-6}


def coefficients(law: str):
    """Return (BATCH, 1, N, N) values from the Gaussian field of covariance 9 (-Δ + 9)⁻², zero Neumann walls."""
    import numpy as np
    import torch
    from scipy.fft import idctn

    from opkernels import solvers

    k2 = np.arange(N)[:, None] ** 2 + np.arange(N) ** 2
    xi = np.random.default_rng(0).standard_normal((BATCH, 1, N, N))
    xi[..., 0, 0] = 0
    field = idctn(xi * (N * 3 / (np.pi**2 * k2 + 9)), axes=(-2, -1), norm="ortho")
    name, options = LAWS[law]
    return getattr(solvers, name)(torch.as_tensor(field), **options)


def matrix(a):
    """Assemble the five-point matrix of one coefficient (N, N) with harmonic faces."""
    import numpy as np
    import scipy.sparse as sparse

    index, h2 = np.arange(N * N).reshape(N, N), 1 / N**2
    diagonal, rows, columns, values = np.zeros((N, N)), [], [], []
    for low, high in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        c = 2 * a[low] * a[high] / (a[low] + a[high]) / h2
        diagonal[low] += c
        diagonal[high] += c
        rows += [index[low].ravel(), index[high].ravel()]
        columns += [index[high].ravel(), index[low].ravel()]
        values += [-c.ravel()] * 2
    for wall in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        diagonal[wall] += 2 * a[wall] / h2
    entries = np.concatenate([diagonal.ravel(), *values])
    return sparse.csc_matrix((entries, (np.concatenate([index.ravel(), *rows]), np.concatenate([index.ravel(), *columns]))))


def run(law: str, contender: str, target: str) -> None:
    """Time one contender, save its solution of the first two samples, print its milliseconds per sample."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    a = coefficients(law)
    if contender in SOLVERS:
        from opkernels import Domain
        from opkernels.solvers import Darcy2D

        solver = Darcy2D(Domain.box(1.0, 1.0), tolerance=SOLVERS[contender])
        a = a.float() if "float32" in contender else a
        job, share = (lambda: solver.solve(a)[:2, 0].numpy()), BATCH
    else:
        from scipy.sparse.linalg import splu, spsolve

        matrices, f = [matrix(x[0].numpy()) for x in a[:2]], np.ones(N * N)
        symmetric = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
        one = spsolve if contender == "spsolve" else lambda m, b: splu(m, **symmetric).solve(b)
        job, share = (lambda: np.stack([one(m, f).reshape(N, N) for m in matrices])), 2
    job()
    times = []
    for _ in range(4):
        start = cpu()
        u = job()
        times.append(1e3 * (cpu() - start) / share)
    np.save(target, u)
    print(json.dumps(min(times)))


def main() -> None:
    import numpy as np

    table = {}
    for law in LAWS:
        table[law], solutions = {}, {}
        for contender in ("spsolve", "splu, symmetric", *SOLVERS):
            with tempfile.TemporaryDirectory() as folder:
                target = str(Path(folder) / "u.npy")
                command = [sys.executable, __file__, law, contender, target]
                out = subprocess.run(command, env={**os.environ, **QUIET}, check=True, capture_output=True, text=True).stdout
                solutions[contender] = np.load(target)
            u, exact = solutions[contender], solutions["spsolve"]
            row = {"ms per sample": round(json.loads(out), 1), "error": float(np.sqrt(((u - exact) ** 2).sum() / (exact**2).sum()))}
            table[law][contender] = row
        for contender, row in table[law].items():
            for peer, name in (("spsolve", "spsolve"), ("splu", "splu, symmetric")):
                row[f"{peer} / this"] = round(table[law][name]["ms per sample"] / row["ms per sample"], 2)
            cost = f"{row['ms per sample']:8.1f} ms   {row['spsolve / this']:6.2f} x spsolve   {row['splu / this']:6.2f} x splu"
            print(f"{law:30} {contender:20} {cost}   error {row['error']:.1e}")
        assert table[law]["ours, 1e-8"]["error"] < 1e-8
    table["load average"] = round(os.getloadavg()[0], 1)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    run(*sys.argv[1:]) if len(sys.argv) > 1 else main()
