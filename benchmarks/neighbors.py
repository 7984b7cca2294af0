"""Neighbor search against scipy's tree: CPU time for a full list sorted by receiver, with displacements.

Every method makes the same thing: rows (CSR), senders and displacements of all pairs, both directions, self
included; float64 for the tree, and for the cell list where said. Each runs in its own process on one thread.
"pairs only" is the tree alone: half the pairs, unsorted, no displacements.

Run: python benchmarks/neighbors.py
"""

import json
import os
import subprocess
import sys

from measuring import cpu

NEIGHBORS = {1: 17, 2: 49, 3: 51}
METHODS = ("pairs only", "tree", "cells float64", "cells float32", "reuse float32", "within float32")
CASES = ((1, 10_000), (2, 2_000), (2, 10_000), (2, 100_000), (3, 10_000), (3, 100_000))


def cloud(d: int, n: int):
    """Jittered lattice on the unit torus, and the support with the wanted number of neighbors."""
    import torch

    from opkernels import Domain

    side = round(n ** (1 / d))
    x = Domain.periodic(*[1.0] * d).grid(*[side] * d).coordinates(dtype=torch.float64).flatten(1).T
    x = x + 0.3 / side * torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    volume = NEIGHBORS[d] / side**d
    ball = {1: 2.0, 2: 3.141592653589793, 3: 4.1887902047863905}[d]
    return x.contiguous(), (volume / ball) ** (1 / d)


def measure(method: str, d: int, n: int) -> tuple[float, int]:
    """Return CPU milliseconds per list (the best of several rounds) and the number of pairs."""
    import torch
    from scipy.spatial import cKDTree

    from opkernels import Domain, radius_search

    torch.set_num_threads(1)
    x, support = cloud(d, n)
    domain = Domain.periodic(*[1.0] * d)
    if "float32" in method:
        x = x.float()
    skin = 0.2 * support if method.startswith(("reuse", "within")) else 0.0
    built = radius_search(x, support=support, domain=domain, skin=skin, backend="torch")

    def pairs_only():
        return len(cKDTree(x.remainder(1).numpy(), boxsize=1.0).query_pairs(support, output_type="ndarray"))

    def search(backend):
        pairs = radius_search(x, support=support, domain=domain, backend=backend)
        pairs.displacement(x)
        return pairs.n_edges

    def within():
        return built.within(support, x).n_edges

    def reuse():
        return len(built.displacement(x))

    calls = {"pairs only": pairs_only, "tree": lambda: search("scipy"), "reuse float32": reuse, "within float32": within}
    call = calls.get(method, lambda: search("torch"))
    edges, best = call(), float("inf")
    for _ in range(5):
        repeats = max(1, 50_000 // n)
        start = cpu()
        for _ in range(repeats):
            call()
        best = min(best, (cpu() - start) / repeats)
    return 1e3 * best, edges


def main() -> None:
    environment = dict(os.environ, OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_="4294967296", MALLOC_TRIM_THRESHOLD_="8589934592")
    environment["MALLOC_TOP_PAD_"] = "268435456"
    print(f"{'d':>2} {'N':>7} {'method':16} {'CPU ms':>8} {'/ tree':>7} {'pairs':>9}")
    for d, n in CASES:
        rows = {}
        for method in METHODS:
            command = [sys.executable, __file__, method, str(d), str(n)]
            out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            rows[method] = json.loads(out)
        for method, (milliseconds, edges) in rows.items():
            print(f"{d:2d} {n:7d} {method:16} {milliseconds:8.2f} {milliseconds / rows['tree'][0]:7.2f} {edges:9d}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
