"""Cost at equal accuracy of the periodic equations against exponax: Kuramoto-Sivashinsky and Korteweg-de Vries at an error of 1e-6.

Both packages solve the same problem on the same grid in float64: KS of length 22 at 64 points, from a state on the attractor, to
t = 10; KS of length 32π at 256 points to t = 10; a KdV soliton (c = 4, length 40, 256 points) to t = 1. exponax runs its fourth-order
scheme (ETDRK4) compiled by XLA, all steps in one scan, its compilation and the making of its tables not counted; ours is all of
`solve`, by ETDAB4 for KS and ETDRK4B for KdV. The error is the relative L2 norm against the same equation solved with tiny steps.
Each contender runs in its own process on one thread, in turn; time is CPU time (user and system), the best of the rounds,
interpolated to 1e-6.

At batch 1 a step of ours costs what its calls of torch cost, about 25 µs whatever the grid: 32 samples of 64 points take only half
as much again as one; what comes before the steps costs about 1 ms. XLA runs the whole scan as one program, and is the
cheaper for a single sample of 64 points.

Run: python benchmarks/periodic_cost.py [--peer PYTHON]     (writes benchmarks/results/periodic_cost.json)

PYTHON is an interpreter whose environment holds exponax and JAX, by default this one.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import cpu

TARGET = 1e-6
RESULTS = Path(__file__).parent / "results" / "periodic_cost.json"
QUIET = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
PROBLEMS = {  # name: (length, points, end, steps of ours, steps of exponax)
    "KS, length 22, 64 points": (22.0, 64, 10.0, (100, 130, 160, 200, 250, 320, 400), (120, 160, 200, 250, 320)),
    "KS, length 32π, 256 points": (32 * math.pi, 256, 10.0, (200, 250, 320, 400, 500), (160, 200, 250, 320, 400)),
    "KdV soliton, 256 points": (40.0, 256, 1.0, (160, 200, 250, 320, 400), (200, 800, 3200)),
}
BATCHES = (1, 32)


def best_of(function, seconds: float = 0.6) -> float:
    """Return the smallest CPU time of a call in about so many seconds of calls, three at least; short calls are timed in groups."""
    function()
    before = cpu()
    function()
    calls = max(1, round(0.02 / max(cpu() - before, 1e-5)))
    best, until, rounds = math.inf, time.monotonic() + seconds, 0
    while rounds < 3 or time.monotonic() < until:
        before = cpu()
        for _ in range(calls):
            function()
        best, rounds = min(best, (cpu() - before) / calls), rounds + 1
    return best


def solver(name: str, method: str = "ETDRK4B"):
    from opkernels import Domain
    from opkernels.solvers import KortewegDeVries, KuramotoSivashinsky

    equation = KuramotoSivashinsky if name.startswith("KS") else KortewegDeVries
    return equation(Domain.periodic(PROBLEMS[name][0]), method=method)


def prepare(folder: Path) -> None:
    """Write the initial state and the reference of every problem: (batch, 1, points) each."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    for i, (name, (length, n, end, *_)) in enumerate(PROBLEMS.items()):
        (x,) = solver(name).domain.grid(n).coordinates(dtype=torch.float64)
        if name.startswith("KS"):
            phases = 2 * math.pi * torch.rand(max(BATCHES), 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            waves = torch.arange(1, 5, dtype=torch.float64)[:, None] * 2 * math.pi / length * x
            u = torch.cos(waves + phases[..., None]).sum(dim=2)
            u = solver(name).solve(u, [60.0], dt=0.02)[:, 0]
        else:
            shifts = torch.arange(max(BATCHES), dtype=torch.float64)[:, None, None] * length / max(BATCHES)
            y = torch.remainder(x - shifts + length / 2, length) - length / 2
            u = 2 / torch.cosh(y).square()
        finest = 3000 if name.startswith("KS") else 6000
        truth = solver(name).solve(u, [end], dt=end / finest)[:, 0]
        np.savez(folder / f"{i}.npz", start=u.numpy(), truth=truth.numpy())


def load(folder: Path, name: str, batch: int):
    import numpy as np

    data = np.load(folder / f"{list(PROBLEMS).index(name)}.npz")
    return data["start"][:batch], data["truth"][:batch]


def ours(name: str, batch: int, folder: Path) -> list[tuple[int, float, float]]:
    """Return (steps, error, seconds) of our solver."""
    import torch

    torch.set_num_threads(1)
    start, truth = (torch.from_numpy(a) for a in load(folder, name, batch))
    end, rows = PROBLEMS[name][2], []
    equation = solver(name, "ETDAB4" if name.startswith("KS") else "ETDRK4B")
    with torch.no_grad():
        for steps in PROBLEMS[name][3]:
            error = ((equation.solve(start, [end], dt=end / steps)[:, 0] - truth).norm() / truth.norm()).item()
            rows.append((steps, error, best_of(lambda n=steps: equation.solve(start, [end], dt=end / n))))
    return rows


def exponax(name: str, batch: int, folder: Path) -> list[tuple[int, float, float]]:
    """Return (steps, error, seconds) of exponax; its KdV has the opposite sign of u."""
    import exponax as ex
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    (length, n, end, _, counts), rows = PROBLEMS[name], []
    start, truth = load(folder, name, batch)
    sign = 1.0 if name.startswith("KS") else -1.0
    initial = jax.numpy.asarray(sign * start)
    for steps in counts:
        if name.startswith("KS"):
            stepper = ex.stepper.KuramotoSivashinskyConservative(1, length, n, end / steps, order=4)
        else:
            stepper = ex.stepper.KortewegDeVries(1, length, n, end / steps, hyper_diffusivity=0.0, conservative=True, order=4)
        run = jax.jit(jax.vmap(ex.repeat(stepper, steps)))
        error = np.linalg.norm(sign * np.asarray(run(initial)) - truth) / np.linalg.norm(truth)
        rows.append((steps, float(error), best_of(lambda f=run: f(initial).block_until_ready())))
    return rows


def at_target(rows) -> float | None:
    """Return the time at the target error by log-log interpolation, None where no pair of rows encloses it."""
    points = sorted((math.log(error), math.log(seconds)) for _, error, seconds in rows)
    for (e0, t0), (e1, t1) in zip(points, points[1:], strict=False):
        if e0 <= math.log(TARGET) <= e1:
            return math.exp(t0 + (t1 - t0) * (math.log(TARGET) - e0) / (e1 - e0))
    return None


def isolated(python: str, *arguments) -> list:
    done = subprocess.run([python, __file__, "--part", *map(str, arguments)], env=os.environ | QUIET, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def merged(old: list | None, new: list) -> list:
    """Return rows with the smaller of two times."""
    return new if old is None else [(n, error, min(t, s)) for (n, error, t), (_, _, s) in zip(old, new, strict=True)]


def main(peer: str, rounds: int, only: str) -> None:
    results = json.loads(RESULTS.read_text())["results"] if only else {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for name in (name for name in PROBLEMS if name.startswith(only)):
            for batch in BATCHES:
                rows = {"ours": None, "exponax": None}
                for _ in range(rounds):
                    for contender, python in (("ours", sys.executable), ("exponax", peer)):
                        rows[contender] = merged(rows[contender], isolated(python, contender, name, batch, folder))
                times = {contender: at_target(table) for contender, table in rows.items()}
                ratio = times["exponax"] / times["ours"] if all(times.values()) else None
                results[f"{name}, batch {batch}"] = {"rows": rows, "seconds_at_target": times, "exponax_over_ours": ratio}
                told = f"{ratio:.2f}x cheaper than exponax" if ratio else "exponax does not get there" if times["ours"] else "not reached"
                print(f"{name}, batch {batch}: {told}")
                for contender, table in rows.items():
                    print(f"  {contender:8s}" + "   ".join(f"{n} -> {error:.1e}, {1e3 * t:.2f} ms" for n, error, t in table))
    RESULTS.write_text(json.dumps({"target": TARGET, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        contender, name, batch, folder = sys.argv[2:]
        print(json.dumps({"ours": ours, "exponax": exponax}[contender](name, int(batch), Path(folder))))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--peer", default=sys.executable, help="interpreter that can import exponax")
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--only", default="", help="problems whose name begins so; the others keep their stored results")
        options = parser.parse_args()
        main(options.peer, options.rounds, options.only)
