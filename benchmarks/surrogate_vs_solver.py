"""What users feel: a surrogate against the solver it learned from, CPU time per trajectory at equal error.

    ∂ω/∂t + u·∇ω = 0.005 Δω - 0.1 ω + f,   2π-periodic,   8 steps of 0.25

The reference is the solver at 128 x 128 with its own stable step. A fair opponent of a surrogate with
an error e is not that reference but the cheapest run of the same solver with an error of at most e:
coarser grids and longer steps are tried, and the answers compared on the surrogate's grid. All times are
CPU seconds per trajectory (user + system) in this process on one thread, batches of 16, best of three.

Break-even is the number of trajectories after which the surrogate has paid for its data and its training,
(data + training) / (solver - surrogate); there is none if the solver is cheaper.

    OMP_NUM_THREADS=1 python benchmarks/surrogate_vs_solver.py [result.json]
"""

import itertools
import json
import math
import sys
from pathlib import Path

import torch
from measuring import cpu

import opkernels as ok
from opkernels.solvers import GaussianRandomField, NavierStokes2D
from opkernels.training import Options

STEPS, DT, BATCH, SHAPE, SAMPLES = 8, 0.25, 16, (32, 32), 48
DOMAIN = ok.Domain.periodic(2 * math.pi, 2 * math.pi)


def cost(run):
    """Return the smallest CPU time per trajectory of three runs, and the answer."""
    times = []
    for _ in range(3):
        start = cpu()
        answer = run()
        times.append((cpu() - start) / BATCH)
    return min(times), answer


def force(x, y):
    return torch.cos(2 * x + y) + torch.sin(x - 2 * y)


def solve(u0, shape, dt):
    """Solve on `shape` with step `dt` (None: the solver's own) and return the frames on the surrogate's grid."""
    solver = NavierStokes2D(DOMAIN, viscosity=5e-3, forcing=force, drag=0.1)
    start = ok.resample(u0, DOMAIN.grid(*u0.shape[2:]), shape)
    frames = solver.solve(start, [DT * n for n in range(1, STEPS + 1)], dt=dt)
    return ok.resample(frames, DOMAIN.grid(*shape), SHAPE)


def initial(samples, seed):
    return GaussianRandomField(DOMAIN, alpha=4, tau=3, sigma=60).sample(samples, (128, 128), seed=seed)


def error(frames, truth):
    return ok.rel_l2(frames[:, -1], truth[:, -1]).item()


def make_surrogate():
    """Return the surrogate and the CPU seconds for its data (solved at 128 x 128) and its training."""
    start = cpu()
    u0 = initial(SAMPLES, 0)
    solver = NavierStokes2D(DOMAIN, viscosity=5e-3, forcing=force, drag=0.1)
    frames = torch.cat([solver.solve(u, [DT * n for n in range(2 * STEPS + 1)]) for u in u0.split(BATCH)])
    data = ok.Trajectories.from_arrays({"vorticity": frames[:, :, 0]}, DOMAIN, times=[DT * n for n in range(2 * STEPS + 1)])
    solved = cpu()
    torch.manual_seed(0)
    model = ok.models.FNO(DOMAIN, 1, 1, n_modes=(12, 12), hidden_channels=16, positional_embedding="harmonics")
    options = Options(keep="last")
    surrogate = ok.fit(model, data.at(*SHAPE), validation=0.0, epochs=24, batch_size=16, lr=3e-3, options=options)
    return surrogate, {"data": solved - start, "training": cpu() - solved}


def main():
    surrogate, invested = make_surrogate()
    u0 = initial(BATCH, 1)
    reference_cost, truth = cost(lambda: solve(u0, (128, 128), None))
    x = ok.resample(u0, DOMAIN.grid(128, 128), SHAPE)
    own_cost, frames = cost(lambda: surrogate.rollout(x, STEPS))
    own_error = error(frames, truth)
    tried = []
    for n, substeps in itertools.product((16, 24, 32, 40, 48, 56, 64), (2, 3, 4, 6, 8, 12, 16)):
        try:
            found = error(solve(u0, (n, n), DT / substeps), truth)
        except ValueError:  # the step is too long to be stable
            continue
        tried.append({"shape": n, "dt": DT / substeps, "error": found, "work": n * n * substeps})
    enough = sorted((row for row in tried if row["error"] <= own_error), key=lambda row: row["work"])[:4]
    for row in enough:
        row["cpu"] = cost(lambda row=row: solve(u0, (row["shape"],) * 2, row["dt"]))[0]
    cheapest = min(enough, key=lambda row: row["cpu"])
    gain = cheapest["cpu"] - own_cost
    return {
        "surrogate": {"cpu": own_cost, "error": own_error},
        "reference": {"cpu": reference_cost, "shape": 128},
        "solver_at_equal_error": cheapest,
        "ratio_at_equal_error": cheapest["cpu"] / own_cost,
        "ratio_to_reference": reference_cost / own_cost,
        "invested": invested,
        "break_even_at_equal_error": sum(invested.values()) / gain if gain > 0 else None,
        "break_even_to_reference": sum(invested.values()) / (reference_cost - own_cost) if reference_cost > own_cost else None,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = main()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(result, indent=1) + "\n")
    s, e = result["surrogate"], result["solver_at_equal_error"]
    print(f"surrogate at {SHAPE[0]} x {SHAPE[1]}: error {s['error']:.3f} after {STEPS} steps")
    print(f"solver of at most this error: {e['shape']} x {e['shape']}, dt {e['dt']:.3g}, error {e['error']:.3f}")
    print(
        f"CPU time, solver / surrogate: {result['ratio_at_equal_error']:.2f} at equal error, {result['ratio_to_reference']:.1f} reference"
    )
    for name in ("equal_error", "reference"):
        n = result[f"break_even_{'at' if name == 'equal_error' else 'to'}_{name}"]
        print(f"break-even ({name.replace('_', ' ')}): " + ("never, the solver is cheaper" if n is None else f"{n:.0f} trajectories"))
