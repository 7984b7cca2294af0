"""One operator over a tenfold range of viscosity against operators trained at one viscosity each.

    ∂ω/∂t + u·∇ω = ν Δω - 0.1 ω + f,   ν in [0.004, 0.04],   2π-periodic, f = cos(2x + y) + sin(x - 2y)

The force sits at fixed places, so the operators are given positions. The conditioned FNO sees 64 trajectories
whose ν is drawn log-uniformly and is told ν; each of the others sees 64 trajectories at its own ν. All take the
same number of steps. Error: relative L2 after one step (0.125) and after eight, on 16 new trajectories per
viscosity, at the training resolution and at twice it.
Numbers: conditioning.json.

    OMP_NUM_THREADS=1 python paper_figs/conditioning.py [runs/conditioning]
"""

import json
import resource
import sys
from pathlib import Path

import torch

import opkernels as ok
from opkernels.training import Options

RANGE, SINGLE = (4e-3, 4e-2), (4e-3, 1.265e-2)
EPOCHS, BATCH, SHAPE = 14, 16, (32, 32)


def recipe(viscosity):
    return {
        "title": "Forced Navier-Stokes",
        "solver": {"name": "NavierStokes2D", "viscosity": viscosity, "forcing": "cos(2*x + y) + sin(x - 2*y)", "drag": 0.1},
        "domain": {"periodic": ["2*pi", "2*pi"]},
        "initial": {"name": "GaussianRandomField", "alpha": 4, "tau": 3, "sigma": 60},
        "times": {"start": 0, "stop": 2, "count": 17},
        "resolution": [64, 64],
        "samples": 64,
        "seed": 0,
        "dtype": "float32",
        "batch": 16,
        "checked": 0,
    }


def train(data, n_parameters):
    torch.manual_seed(0)
    model = ok.models.FNO(
        data.domain, 1, 1, n_modes=(12, 12), hidden_channels=16, n_layers=4, n_parameters=n_parameters, positional_embedding="harmonics"
    )
    options = Options(keep="last")
    return ok.fit(model, data.at(*SHAPE), validation=0.0, epochs=EPOCHS, batch_size=BATCH, lr=3e-3, options=options)


def errors(surrogate, data):
    """Relative L2 error after one step (from every stored time) and after eight (from the start)."""
    u = data.read()
    p = {name: torch.as_tensor(data.parameters[name]) for name in surrogate.parameter_names}
    ones = [ok.rel_l2(surrogate.predict(u[:, t], parameters=p or None), u[:, t + 1]).item() for t in range(u.shape[1] - 1)]
    return {
        "one_step": sum(ones) / len(ones),
        "eight_steps": ok.rel_l2(surrogate.rollout(u[:, 0], 8, parameters=p or None)[:, -1], u[:, 8]).item(),
    }


def main(folder):
    def data(name, viscosity, **options):
        return ok.generate(recipe(viscosity), folder / f"{name}.nc", workers=1, **options)

    conditioned = train(data("range", {"loguniform": list(RANGE)}), 1)
    table = {}
    for nu in SINGLE:
        # a range of one viscosity, so that the test trajectories carry it as a parameter
        test = data(f"test_{nu:g}", {"loguniform": [nu * (1 - 1e-6), nu * (1 + 1e-6)]}, samples=16, seed=1)
        single = train(data(f"single_{nu:g}", nu), 0)
        row = {}
        for shape in (SHAPE, tuple(2 * n for n in SHAPE)):
            one, other = errors(conditioned, test.at(*shape)), errors(single, test.at(*shape))
            row["x".join(map(str, shape))] = {k: {"conditioned": one[k], "single": other[k], "ratio": one[k] / other[k]} for k in one}
        table[f"{nu:g}"] = row
    usage = resource.getrusage(resource.RUSAGE_SELF)
    out = {
        "errors": table,
        "parameters": sum(p.numel() for p in conditioned.model.parameters()),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/conditioning"))
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'viscosity':>10} {'grid':>7} {'after':>12} {'conditioned':>12} {'single':>8} {'ratio':>6}")
    for nu, row in result["errors"].items():
        for grid, cells in row.items():
            for when, e in cells.items():
                print(f"{nu:>10} {grid:>7} {when:>12} {e['conditioned']:12.4f} {e['single']:8.4f} {e['ratio']:6.2f}")
    worst = max(cells["one_step"]["ratio"] for row in result["errors"].values() for cells in row.values())
    print(f"largest ratio after one step {worst:.2f}")
