"""SFNO and LocalNO on the rotating sphere, what the local branches are worth, at the training resolution and at twice it.

    ∂Φ'/∂t = -div(Φ' u) - Φ̄ δ,    ∂ζ/∂t = -div((ζ + f) u),    ∂δ/∂t = curl((ζ + f) u) - Δ(Φ' + |u|²/2),    one step of 3 hours

Random flows in balance on the Earth (recipe shallow_water_sphere), winds of 20 m/s in vortices of degree 6, which roll up within two
days. Solved at 64 x 128 (degree 42): 20 trajectories of 16 steps are learned at 32 x 64, where they are truncated at degree 31, and 8
others asked for at 32 x 64 and 64 x 128: the same functions, under one normalization. The fields are geopotential and vorticity; the
divergence of these flows, a hundredth of the vorticity, would be most of a loss that counts normalized fields alike. Every model keeps
the degrees up to 21 and sees the same batches; "SFNO, as long" trains for about as much CPU time as LocalNO, "SFNO without axis" has
weights that commute with all rotations, and so with mirrors. Error: relative L2 by quadrature, of one step and of two days (16 steps),
mean over both fields and the test set; "standing still" predicts no change. Widths, epochs and the learning rate are usual ones, not
tuned.

Each finished (model, seed) is written to sfno_shallow_water.json at once and skipped on a restart.

    OMP_NUM_THREADS=1 python paper_figs/sfno_shallow_water.py [--seeds 0 1 2] [--cells SFNO LocalNO] [--folder runs/sphere]
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from studies import complete, rows_of

import opkernels as ok
from opkernels.models import SFNO, LocalNO
from opkernels.training import Options

SIZES = {"n_modes": 21, "hidden_channels": 20, "n_layers": 4}
EPOCHS = 16
CELLS = {  # name: (model of a sphere, epochs)
    "SFNO": (lambda s: SFNO(s, 2, 2, **SIZES), EPOCHS),
    "SFNO, as long": (lambda s: SFNO(s, 2, 2, **SIZES), 28),
    "SFNO without axis": (lambda s: SFNO(s, 2, 2, symmetry="sphere", **SIZES), EPOCHS),
    "LocalNO": (lambda s: LocalNO(s, 2, 2, **SIZES), EPOCHS),
    "without differential": (lambda s: LocalNO(s, 2, 2, branches=("spectral", "integral"), **SIZES), EPOCHS),
    "without integral": (lambda s: LocalNO(s, 2, 2, branches=("spectral", "differential"), **SIZES), EPOCHS),
}
FIELDS = ("geopotential", "vorticity")
RESULTS = Path(__file__).with_suffix(".json")


def errors_of(surrogate, test, n):
    """Return the relative errors of the fields after one step, after all steps, and of standing still for one, at n x 2 n."""
    u, grid = test.at(n, 2 * n).read(fields=FIELDS), test.domain.grid(n, 2 * n)
    before, after = u[:, :-1].flatten(0, 1), u[:, 1:].flatten(0, 1)
    answers = {
        "step": (torch.cat([surrogate.predict(part) for part in before.split(16)]), after),
        "rollout": (surrogate.rollout(u[:, 0], u.shape[1] - 1)[:, -1], u[:, -1]),
        "standing still": (before, after),
    }
    return {
        name: {field: ok.rel_l2(got[:, c : c + 1], wanted[:, c : c + 1], grid).item() for c, field in enumerate(FIELDS)}
        for name, (got, wanted) in answers.items()
    }


def run(build, epochs, seed, data, test):
    """Train one model at 32 x 64 and return its errors and what they cost."""
    torch.manual_seed(seed)
    model, start = build(data.domain), time.process_time()
    options = {"inputs": FIELDS, "validation": 0.0, "batch_size": 8, "lr": 1e-2, "options": Options(keep="last"), "quiet": True}
    surrogate = ok.fit(model, data, epochs=epochs, seed=seed, **options)
    seconds = time.process_time() - start
    errors = {str(n): errors_of(surrogate, test, n) for n in (32, 64)}
    return {"errors": errors, "cpu_seconds": seconds, "parameters": sum(p.numel() for p in model.parameters()), "epochs": epochs}


def mean_error(row, n, kind):
    """Return the mean over the fields."""
    return sum(row["errors"][n][kind].values()) / len(FIELDS)


def table(rows):
    """Print and return, for each cell, the means over the seeds of one step's and of two days' errors at both resolutions."""
    means = {}
    for name in CELLS:
        found = rows_of(rows, name)
        if not found:
            continue
        means[name] = {
            kind: [sum(mean_error(row, n, kind) for row in found) / len(found) for n in ("32", "64")] for kind in ("step", "rollout")
        }
        cost = sum(row["cpu_seconds"] for row in found) / len(found)
        print(f"{name:>20}  {len(found)} seeds  {found[0]['parameters']:6d} weights  {cost:5.0f} s", end="")
        for kind, (low, high) in means[name].items():
            worst = max(mean_error(row, "64", kind) / mean_error(row, "32", kind) for row in found)
            print(f"   {kind} {low:.4f} at 32 x 64, {high:.4f} at 64 x 128 ({high / low:.3f}, worst seed {worst:.3f})", end="")
        print()
    if rows:
        row = next(iter(rows.values()))
        print("standing still for one step: " + " and ".join(f"{mean_error(row, n, 'standing still'):.3f}" for n in ("32", "64")))
    return means


def draw(means, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained", sharey=True)
    for ax, kind, title in zip(axes, ("step", "rollout"), ("one step of 3 hours", "two days, 16 steps"), strict=True):
        for i, label in enumerate(("32 x 64, as trained", "64 x 128")):
            ax.barh([y + 0.38 * i for y in range(len(means))], [e[kind][i] for e in means.values()], height=0.36, label=label)
        ax.set(
            yticks=[y + 0.19 for y in range(len(means))], yticklabels=list(means), xlabel="relative L2 error, mean over fields", title=title
        )
    axes[0].invert_yaxis()
    axes[0].legend()
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--folder", type=Path, default=Path("runs/sphere"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data = ok.generate("shallow_water_sphere", chosen.folder / "train.nc", samples=20, workers=1).at(32, 64)
    test = ok.generate("shallow_water_sphere", chosen.folder / "test.nc", samples=8, seed=1, workers=1)
    cells = {f"{name}/{seed}": partial(run, *CELLS[name], seed, data, test) for seed in chosen.seeds for name in chosen.cells}
    draw(table(complete(RESULTS, cells)), RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
