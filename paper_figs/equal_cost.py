"""Training under a budget of CPU seconds or of epochs, cell by cell: what the figures at equal cost share.

A contender is trained on pairs (x, y) by AdamW with a cosine schedule that ends with its budget, whichever kind that is, in
batches of 20 if not said otherwise, on the relative L2 error; what it sees, in which order, depends on the seed alone. CPU time is
that of the process, without evaluation.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path

import torch
from studies import complete
from torch import nn

import opkernels as ok

BATCH, WARMUP = 20, 0.05


def train(model, x, y, *, lr, seed, seconds=None, epochs=None, symmetry=None, batch=BATCH):
    """Train until the seconds or the epochs are spent; return what was spent, and the mean error of the last hundred steps."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=1e-4)
    total, step, losses, start = (epochs or 0) * math.ceil(len(x) / batch), 0, [], time.process_time()
    while True:
        for part in torch.randperm(len(x), generator=generator).split(batch):
            spent = step / total if epochs else (time.process_time() - start) / seconds
            if spent >= 1:
                done = {"cpu_seconds": time.process_time() - start, "epochs": step * batch / len(x)}
                return done | {"training": sum(losses[-100:]) / len(losses[-100:])}
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1, (spent + 1e-3) / WARMUP) * (1 + math.cos(math.pi * spent)) / 2
            u, v = (x[part], y[part]) if symmetry is None else symmetry(x[part], y[part], generator)
            optimizer.zero_grad()
            loss = ok.rel_l2(model(u), v)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1


def error(model, x, y):
    """Return the relative L2 error, mean over samples."""
    with torch.no_grad():
        return ok.rel_l2(torch.cat([model(part) for part in x.split(50)]), y).item()


def arguments(text, seeds, folder):
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--cells", nargs="+", help="names of contenders; default: those of the figure")
    parser.add_argument("--columns", nargs="+", default=["seconds", "epochs"], choices=["seconds", "epochs"])
    parser.add_argument("--seeds", nargs="+", type=int, default=seeds)
    parser.add_argument("--folder", type=Path, default=Path(folder))
    return parser.parse_args()


def run(cells, budget, seeds, parts, domain, results, symmetry=None):
    """Train what the results lack, cell by cell; each finished one is written at once.

    cells: name -> (model of a domain, learning rate, whether batches are moved by the symmetry)
    budget: {"seconds": ...}, {"epochs": ...} or both
    parts: "train", "validation", "test" -> (x, y)
    """

    def cell(seed, column, build, lr, moved):
        torch.manual_seed(seed)
        model = build(domain)
        row = train(model, *parts["train"], lr=lr, seed=seed, symmetry=symmetry if moved else None, **{column: budget[column]})
        row |= {"parameters": sum(p.numel() for p in model.parameters())}
        return row | {part: error(model, *parts[part]) for part in ("validation", "test")}

    keys = [(seed, column, name) for seed in seeds for column in budget for name in cells]
    wanted = {f"{name}/{budget[column]} {column}/{seed}": partial(cell, seed, column, *cells[name]) for seed, column, name in keys}
    return complete(results, wanted)


def means(rows, names, column, part="test"):
    """Return name -> (mean, spread, number of seeds) of the errors in a column."""
    found = {name: [row[part] for key, row in rows.items() if key.rsplit("/", 2)[:2] == [name, column]] for name in names}
    return {name: (sum(e) / len(e), max(e) - min(e), len(e)) for name, e in found.items() if e}


def draw(rows, names, floor, path, budgets):
    """Draw the mean errors with their spread under each budget, and the irreducible error of T1's modes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(budgets), figsize=(4.4 * len(budgets), 3.2), layout="constrained", sharey=True, squeeze=False)
    for ax, budget in zip(axes[0], budgets, strict=True):
        found = means(rows, names, budget)
        spread = [50 * s for _, s, _ in found.values()]
        ax.bar(range(len(found)), [100 * m for m, _, _ in found.values()], yerr=spread, width=0.6)
        ax.axhline(100 * floor, color="k", ls="--", lw=1, label=f"irreducible: {100 * floor:.2g} %")
        ax.set(title=budget.replace("seconds", "CPU seconds"))
        ax.set_xticks(range(len(found)), list(found), rotation=30, ha="right")
    axes[0, 0].set(ylabel="relative L2 error in %")
    axes[0, 0].legend()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def table(rows, names, budgets):
    """Print the test errors under each budget."""
    for budget in budgets:
        for name, (mean, spread, count) in means(rows, names, budget).items():
            print(f"{budget:11} {name:20} test {100 * mean:6.2f} %  spread {100 * spread:5.2f}  ({count} seeds)")
