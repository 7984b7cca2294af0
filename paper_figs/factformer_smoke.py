"""FactFormer and FNO on buoyant smoke in a box: trained at 32 x 32 x 32 for equal CPU time, tested at 32 and 64.

    ∂u/∂t + u·∇u = -∇p + 0.003 Δu + 0.5 s e_z,   ∇·u = 0,   ∂s/∂t + u·∇s = 0,   closed box [0, 8]^3   (recipe smoke_buoyancy)

One call: smoke and the three velocities, 0.75 later, from time 1.5 to 7.5. Solved at 64 x 64 x 64 and restricted by averages of cells,
so that 32 and 64 see the same flow. Both contenders predict the increment of each field over its standard deviation. Sizes and
learning rates were fixed beforehand. Error: relative L2 of one call, mean over the fields; rollout: of the smoke after six calls.
Seconds: CPU time of one call on one sample, best of three. Memory: peak of live tensors in one training step on one sample at 32.

Each finished (model, seed) is written to factformer_smoke.json at once and skipped on a restart.

    OMP_NUM_THREADS=1 python paper_figs/factformer_smoke.py [--seeds 0 1 2] [--cells FNO] [--minutes 2] [--folder DIR]
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from equal_cost import train
from factformer_kolmogorov import peak_memory
from studies import complete, means_over_seeds

import opkernels as ok
from opkernels.datasets.recipe_files import load_data
from opkernels.models import FNO, FactFormer

SIZES, BATCH, CALLS = (32, 64), 4, 6
RECIPE = load_data("smoke_buoyancy") | {"times": {"start": 1.5, "stop": 7.5, "count": 9}, "samples": 12, "batch": 1, "checked": 0}
RECIPE["solver"] = RECIPE["solver"] | {"splitting": "projection"}  # a third of the cost, first order in time
CELLS = {  # name: (model, learning rate)
    "FactFormer": (lambda d: FactFormer(d, 4, 4, hidden_channels=32, n_layers=3, n_heads=2, bandwidth=8), 2e-3),
    "FNO": (lambda d: FNO(d, 4, 4, n_modes=(12, 12, 12), hidden_channels=16, n_layers=4), 3e-3),
}
RESULTS = Path(__file__).with_suffix(".json")


class Step:
    """A trained model with its scales: from smoke and velocity (B, 4, n, n, n) to the next."""

    def __init__(self, model, u):
        self.model = model
        x, y = u[:, :-1].flatten(0, 1), u[:, 1:].flatten(0, 1)
        over = (0, 2, 3, 4)
        self.size, self.steps = x.std(over, keepdim=True), (y - x).std(over, keepdim=True)
        self.pairs = x / self.size, (y - x) / self.steps

    def __call__(self, u):
        """Return the frame after u."""
        with torch.no_grad():
            return u + self.steps * self.model(u / self.size)


def error(a, b):
    """Return the relative L2 error, mean over samples and fields."""
    return ok.rel_l2(a.flatten(0, 1)[:, None], b.flatten(0, 1)[:, None]).item()


def measure(step, u):
    """Return errors and seconds per call on the trajectories u (B, T, 4, n, n, n)."""
    calls = [error(torch.cat([step(w[t : t + 1]) for w in u]), u[:, t + 1]) for t in range(u.shape[1] - 1)]
    w = u[:, 0]
    for _ in range(CALLS):
        w = torch.cat([step(one[None]) for one in w])
    seconds = []
    for _ in range(3):
        start = time.process_time()
        step(u[:1, 0])
        seconds.append(time.process_time() - start)
    kept = {"persistence": sum(error(u[:, t], u[:, t + 1]) for t in range(len(calls))) / len(calls)}
    return kept | {"error": sum(calls) / len(calls), "rollout": error(w[:, :1], u[:, CALLS, :1]), "seconds": min(seconds)}


def run(build, lr, seed, minutes, data, test):
    """Train one model at 32 and return what it cost and what it does on both grids."""
    torch.manual_seed(seed)
    model = build(data.domain)
    step = Step(model, data.at(32, 32, 32).read())
    row = train(model, *step.pairs, lr=lr, seed=seed, seconds=60 * minutes, batch=BATCH)
    row |= {"parameters": sum(p.numel() for p in model.parameters()), "memory": peak_memory(model, step.pairs[0][:1])}
    return row | {str(n): measure(step, test.at(n, n, n).read()) for n in SIZES}


def draw(means, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.5, 3), layout="constrained")
    for ax, what, label in zip(axes, ("error", "rollout"), ("relative L2 error of one call", f"smoke after {CALLS} calls"), strict=True):
        for name, sizes in means.items():
            ax.plot(SIZES, [sizes[str(n)][what] for n in SIZES], marker="o", label=name)
        ax.set_xscale("log", base=2)
        top = 1.1 * max(sizes[str(n)][what] for sizes in means.values() for n in SIZES)
        ax.set(xlabel="samples per axis (trained at 32)", ylabel=label, xticks=SIZES, xticklabels=SIZES, ylim=(0, top))
    axes[0].legend()
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--minutes", type=float, default=2.0, help="of CPU, to train a cell")
    parser.add_argument("--folder", type=Path, default=Path("runs/smoke"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data = ok.generate(RECIPE, chosen.folder / "train.nc", workers=1)
    test = ok.generate(RECIPE, chosen.folder / "test.nc", samples=2, seed=1, workers=1)
    cells = {
        f"{name}/{seed}": partial(run, *CELLS[name], seed, chosen.minutes, data, test) for seed in chosen.seeds for name in chosen.cells
    }
    draw(means_over_seeds(complete(RESULTS, cells), CELLS), RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
