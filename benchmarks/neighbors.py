"""Neighbor search against scipy's tree: CPU time for a full list sorted by receiver, with displacements.

Every method makes the same thing: rows (CSR), senders and displacements of all pairs, both directions, self
included; float64 for the tree, and for the cell list where said. One thread, methods taking turns, best and median of
the rounds. "pairs only" is the tree alone: half the pairs, unsorted, no displacements; "reuse" computes the displacements of
a list built with a skin of a fifth, "within" also drops its pairs beyond the support.

"layer forward" is a forward pass of `SymmetricBasisConv`, 32 to 32 channels, 4 x 4 terms, on the same particles (2-D, 10000):
what a search is to be cheap beside. MiB is the peak of live tensor bytes of the search, result included.

Run: python benchmarks/neighbors.py     (about a minute; writes benchmarks/results/neighbors.json)
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from measuring import QUIET, cpu, peak_memory

NEIGHBORS = {1: 17, 2: 49, 3: 51}
CASES = ((1, 10_000), (2, 2_000), (2, 10_000), (2, 100_000), (3, 10_000), (3, 100_000))
ROUNDS = 5
RESULTS = Path(__file__).parent / "results" / "neighbors.json"


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


def layer_forward(x, support: float):
    """Return a forward pass of a particle layer on these particles, its graph prepared."""
    import torch

    from opkernels import Domain, ParticleSet
    from opkernels.layers import SymmetricBasisConv
    from opkernels.layers.product_kernels import Fourier, ProductKernel
    from opkernels.layers.symmetric_basis import ParticleGraph

    particles = ParticleSet(x.float(), 1 / len(x), support, Domain.periodic(1.0, 1.0))
    layer = SymmetricBasisConv(32, 32, ProductKernel([Fourier(4), Fourier(4)]))
    graph, features = ParticleGraph.of(particles, particles.neighbors()), torch.randn(len(x), 32)
    return lambda: layer.convolve(features, graph)


def methods(d: int, n: int) -> dict:
    """Return the contenders: functions that return the number of pairs."""
    from scipy.spatial import cKDTree

    from opkernels import Domain, radius_search

    x, support = cloud(d, n)
    single, domain = x.float(), Domain.periodic(*[1.0] * d)
    built = radius_search(single, support=support, domain=domain, skin=0.2 * support, backend="torch")

    def search(x, backend):
        pairs = radius_search(x, support=support, domain=domain, backend=backend)
        pairs.displacement(x)
        return pairs.n_edges

    calls = {
        "pairs only": lambda: len(cKDTree(x.remainder(1).numpy(), boxsize=1.0).query_pairs(support, output_type="ndarray")),
        "tree": lambda: search(x, "scipy"),
        "cells float64": lambda: search(x, "torch"),
        "cells float32": lambda: search(single, "torch"),
        "reuse float32": lambda: len(built.displacement(single)),
        "within float32": lambda: built.within(support, single).n_edges,
    }
    if (d, n) == (2, 10_000):
        forward = layer_forward(x, support)
        calls["layer forward"] = lambda: len(forward())
    return calls


def measure(d: int, n: int) -> dict:
    """Return CPU milliseconds of each method, best and median, its pairs, and MiB of the cell list."""
    import torch

    torch.set_num_threads(1)
    with torch.no_grad():
        calls, repeats = methods(d, n), max(1, 20_000 // n)
        pairs = {name: call() for name, call in calls.items()}
        times = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                start = cpu()
                for _ in range(repeats):
                    call()
                times[name].append(1e3 * (cpu() - start) / repeats)
        memory = peak_memory(calls["cells float64"]) / 2**20
    rows = {
        name: {"ms": min(t), "median ms": statistics.median(t), "over tree": min(t) / min(times["tree"]), "pairs": pairs[name]}
        for name, t in times.items()
    }
    return {"d": d, "particles": n, "MiB": memory, "methods": rows}


def main() -> None:
    print(f"{'d':>2} {'N':>7} {'method':16} {'CPU ms':>8} {'median':>8} {'/ tree':>7} {'pairs':>9}")
    rows = []
    for d, n in CASES:
        command = [sys.executable, __file__, str(d), str(n)]
        rows.append(json.loads(subprocess.run(command, env=os.environ | QUIET, stdout=subprocess.PIPE, text=True, check=True).stdout))
        for name, row in rows[-1]["methods"].items():
            print(f"{d:2d} {n:7d} {name:16} {row['ms']:8.2f} {row['median ms']:8.2f} {row['over tree']:7.2f} {row['pairs']:9d}", flush=True)
        print(f"{d:2d} {n:7d} {'peak, cells':16} {rows[-1]['MiB']:8.1f} MiB", flush=True)
    time = {(row["d"], row["particles"]): row["methods"]["cells float64"]["ms"] for row in rows}
    growth = {f"{d}-D": time[d, 100_000] / time[d, 10_000] for d in (2, 3)}
    print("time at 100000 over time at 10000:", ", ".join(f"{name} {ratio:.1f}" for name, ratio in growth.items()))
    RESULTS.write_text(json.dumps({"neighbors": NEIGHBORS, "growth": growth, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
    else:
        main()
