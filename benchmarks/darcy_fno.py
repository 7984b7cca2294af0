"""Darcy, trained at 16 x 16, tested at 16 and 32: our FNO against neuraloperator's of equal size.

Third-party data (neuraloperator's small Darcy files: 1000 training functions, 50 test functions whose 16 x 16 samples are every second
sample of the 32 x 32 ones). Same code, data, order of batches and epochs for all; sizes equal within 2 % in real parameters. Each row is
one model and seed. "16", "32": mean relative L2 error over the 50 functions. "spread": standard error of that mean. "own 16-32":
difference of the model's own answers at 16 and 32 at the shared points, relative.

Two sizes: neuraloperator's usual n_modes = 16, which on 16 samples keeps the Nyquist mode, and 8, its best for transfer.

Run: python benchmarks/darcy_fno.py --data FOLDER [--seeds 3] [--epochs 20] [--pairs 16 8]   (writes benchmarks/results/darcy_fno.json)
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch
from measuring import cpu

import opkernels as ok
from opkernels.datasets.formats.neuralop import read_darcy
from opkernels.models import FNO

RESULTS = Path(__file__).parent / "results" / "darcy_fno.json"
BATCH, LEARNING_RATE, WEIGHT_DECAY = 32, 8e-3, 1e-4


def reals(model: torch.nn.Module) -> int:
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())


def theirs(n_modes: int):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuralop.models import FNO as Theirs

        return lambda domain: Theirs((n_modes, n_modes), 1, 1, 32)


def ours(n_modes: int, width: int):
    return lambda domain: FNO(domain, 1, 1, n_modes=(n_modes, n_modes), hidden_channels=width)


PAIRS = {  # equal sizes: (neuraloperator, ours)
    16: {"neuraloperator 16": theirs(16), "opkernels 16": ours(16, 35)},
    8: {"neuraloperator 8": theirs(8), "opkernels 9": ours(9, 30)},
}


def fields(path: Path) -> tuple[torch.Tensor, torch.Tensor, ok.Grid]:
    """Return the coefficient (0 or 1), the pressure, and where they were sampled."""
    data = read_darcy(path)
    return data.read(fields=["coefficient"])[:, 0], data.read(fields=["pressure"])[:, 0], data.grid


def train(build, seed: int, epochs: int, folder: Path) -> dict:
    """Train one model and return its errors."""
    a, u, grid = fields(folder / "darcy_train_16.pt")
    mean, std = u.mean(), u.std()
    torch.manual_seed(seed)
    model = build(grid.domain)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    order, start = torch.Generator().manual_seed(seed), cpu()
    for _ in range(epochs):
        for batch in torch.randperm(len(a), generator=order).split(BATCH):
            optimizer.zero_grad()
            ok.rel_h1(mean + std * model(a[batch]), u[batch], grid).backward()
            optimizer.step()
        schedule.step()
    row = {"reals": reals(model), "seconds": round(cpu() - start, 1)}
    answers = {}
    with torch.no_grad():
        for n in (16, 32):
            a, u, grid = fields(folder / f"darcy_test_{n}.pt")
            answers[n] = mean + std * model.eval()(a)
            errors = ok.rel_l2(answers[n], u, grid, reduction="none")
            row |= {f"{n}": errors.mean().item(), f"spread {n}": (errors.std() / len(errors) ** 0.5).item()}
        row["own 16-32"] = ok.rel_l2(answers[32][..., ::2, ::2], answers[16]).item()
    return row


def main(folder: Path, seeds: int, epochs: int, pairs: list[int]) -> dict:
    """Train every model with every seed; return the rows and the means."""
    rows, means = [], {}
    for pair in pairs:
        sizes = []
        for name, build in PAIRS[pair].items():
            mine = []
            for seed in range(seeds):
                mine.append({"model": name, "seed": seed, **train(build, seed, epochs, folder)})
                print(" ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in mine[-1].items()), flush=True)
            rows += mine
            means[name] = {key: sum(row[key] for row in mine) / seeds for key in ("reals", "seconds", "16", "32", "own 16-32")}
            means[name]["32/16"] = means[name]["32"] / means[name]["16"]
            sizes.append(means[name]["reals"])
        assert abs(sizes[1] / sizes[0] - 1) < 0.02, sizes
    return {"torch": torch.__version__, "python": sys.version.split()[0], "epochs": epochs, "means": means, "rows": rows}


def keep(result: dict, pairs: list[int]) -> None:
    """Write the result beside those of other pairs."""
    RESULTS.parent.mkdir(exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[" ".join(map(str, pairs))] = result
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with darcy_train_16.pt, darcy_test_16.pt, darcy_test_32.pt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pairs", type=int, nargs="+", default=[16, 8], choices=list(PAIRS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = main(arguments.data, arguments.seeds, arguments.epochs, arguments.pairs)
    for name, mean in result["means"].items():
        print(f"{name:20s} {mean['reals']:9.0f} reals  16: {mean['16']:.4f}  32: {mean['32']:.4f}  ratio {mean['32/16']:.3f}")
    keep(result, arguments.pairs)
