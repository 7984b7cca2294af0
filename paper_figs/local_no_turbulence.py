"""LocalNO against FNO on turbulent Navier-Stokes, and what each branch is worth, at the training resolution and at twice it.

    ∂ω/∂t + u·∇ω = 0.001 Δω - 0.1 ω + cos 4x + cos 4y,   2π-periodic,   one step of 0.25

The root mean square velocity is about 0.8, so the Reynolds number of the box, U 2π/ν, is about 5000. Solved at 128 x 128; after
ten time units of spin-up, 32 trajectories of 16 steps are learned at 64 x 64 and 8 others asked for at 64 x 64 and 128 x 128.
The FNO has 21 channels for the others' 20, so that no contender has more weights; all see the same batches for 12 epochs, but
"FNO, as long", which trains for about as much CPU time as LocalNO. "stencils" and "plain
derivatives" differentiate the function itself, by fourth-order differences or by its Fourier series, in place of an average of it:
waves that only the finer grid holds are then amplified more than any that training has seen. Error: relative L2 of one step,
mean over the test set.

Each finished (model, seed) is written to local_no_turbulence.json at once and skipped on a restart.

    OMP_NUM_THREADS=1 python paper_figs/local_no_turbulence.py [--seeds 0 1 2] [--cells FNO LocalNO] [--folder runs/turbulence]
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from studies import complete, rows_of

import opkernels as ok
from opkernels.models import FNO, LocalNO
from opkernels.training import Options

RECIPE = {
    "title": "Turbulent Navier-Stokes, Reynolds number of the box 5000",
    "solver": {"name": "NavierStokes2D", "viscosity": 1e-3, "forcing": "cos(4*x) + cos(4*y)", "drag": 0.1},
    "domain": {"periodic": ["2*pi", "2*pi"]},
    "initial": {"name": "GaussianRandomField", "alpha": 4, "tau": 5, "sigma": 100},
    "times": {"start": 10, "stop": 14, "count": 17},
    "resolution": [128, 128],
    "samples": 32,
    "seed": 0,
    "dtype": "float32",
    "batch": 4,
    "checked": 0,
}
SIZES = {"n_modes": (16, 16), "n_layers": 4, "positional_embedding": "harmonics"}
EPOCHS = 12
CELLS = {  # name: (model of a domain, epochs)
    "LocalNO": (lambda d: LocalNO(d, 1, 1, hidden_channels=20, **SIZES), EPOCHS),
    "FNO": (lambda d: FNO(d, 1, 1, hidden_channels=21, **SIZES), EPOCHS),
    "FNO, as long": (lambda d: FNO(d, 1, 1, hidden_channels=21, **SIZES), 3 * EPOCHS),
    "stencils, p = 4": (lambda d: LocalNO(d, 1, 1, hidden_channels=20, differential={"accuracy": 4}, **SIZES), EPOCHS),
    "plain derivatives": (lambda d: LocalNO(d, 1, 1, hidden_channels=20, differential={"smoothing": 0.0}, **SIZES), EPOCHS),
    "without integral": (lambda d: LocalNO(d, 1, 1, hidden_channels=20, branches=("spectral", "differential"), **SIZES), EPOCHS),
    "without differential": (lambda d: LocalNO(d, 1, 1, hidden_channels=20, branches=("spectral", "integral"), **SIZES), EPOCHS),
    "without spectral": (lambda d: LocalNO(d, 1, 1, hidden_channels=20, branches=("differential", "integral"), **SIZES), EPOCHS),
}
RESULTS = Path(__file__).with_suffix(".json")


def run(build, epochs, seed, data, test):
    """Train one model and return its errors and what they cost."""
    torch.manual_seed(seed)
    model, start = build(data.domain), time.process_time()
    options = {"validation": 0.0, "batch_size": 16, "lr": 3e-3, "options": Options(keep="last"), "quiet": True}
    surrogate = ok.fit(model, data.at(64, 64), epochs=epochs, seed=seed, **options)
    seconds = time.process_time() - start
    errors = {}
    for n in (64, 128):
        u = test.at(n, n).read()
        before, after = u[:, :-1].flatten(0, 1), u[:, 1:].flatten(0, 1)
        predicted = torch.cat([surrogate.predict(part) for part in before.split(16)])
        errors[str(n)] = ok.rel_l2(predicted, after).mean().item()
    return {"errors": errors, "cpu_seconds": seconds, "parameters": sum(p.numel() for p in model.parameters()), "epochs": epochs}


def table(rows):
    """Print means over the seeds and the share of FNO's error that each contender saves."""
    means = {}
    for name in CELLS:
        found = rows_of(rows, name)
        if found:
            means[name] = [sum(row["errors"][n] for row in found) / len(found) for n in ("64", "128")]
            cost = sum(row["cpu_seconds"] for row in found) / len(found)
            print(f"{name:>21}  {len(found)} seeds  {found[0]['parameters']:7d} weights  {cost:6.0f} s", end="")
            print("   error at 64 and 128: " + "  ".join(f"{e:.4f}" for e in means[name]))
    if {"FNO", "LocalNO"} <= set(means):
        saved = [1 - ours / theirs for ours, theirs in zip(means["LocalNO"], means["FNO"], strict=True)]
        print("LocalNO's error is lower than FNO's by " + " and ".join(f"{100 * s:.0f} %" for s in saved))
    return means


def draw(means, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    for i, label in enumerate(("64 x 64, as trained", "128 x 128")):
        ax.barh([y + 0.38 * i for y in range(len(means))], [e[i] for e in means.values()], height=0.36, label=label)
    ax.set(yticks=[y + 0.19 for y in range(len(means))], yticklabels=list(means), xlabel="relative L2 error of one step")
    ax.invert_yaxis()
    ax.legend()
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--folder", type=Path, default=Path("runs/turbulence"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data = ok.generate(RECIPE, chosen.folder / "train.nc", workers=1)
    test = ok.generate(RECIPE, chosen.folder / "test.nc", samples=8, seed=1, workers=1)
    cells = {f"{name}/{seed}": partial(run, *CELLS[name], seed, data, test) for seed in chosen.seeds for name in chosen.cells}
    draw(table(complete(RESULTS, cells)), RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
