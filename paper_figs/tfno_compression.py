"""TFNO against the same backbone with dense spectral weights, and MGTFNO against the same model without patches.

    ∂ω/∂t + u·∇ω = Δω/500 + f,   ω(0) = 0,   2π-periodic;   the map f -> ω(5),   f a Gaussian random field   (recipe mg_tfno_navier_stokes)

at 64 x 64. "dense" is an FNO of width 64, four layers, 32 modes per axis; "10x", "50x", "150x" are TFNOs with all spectral weights in
one Tucker tensor of that many times fewer numbers, and everything else the same. They see 500 samples or only the first 200, and take
equally many steps of four samples. "whole" is the TFNO 50x of width 32, "patches" and "patches2" are the same with one and two levels of
patches (padding an eighth and a 16th of the domain; the same number of modes on the coarse grid and on windows, so twice the weights).

The learning rate, one for all, was chosen among 1e-3 and 3e-3 by short runs at 32 x 32 on held-out training samples.
Error: relative L2 (and H1) on 100 new samples, mean over samples. Each finished cell is written to tfno_compression.json at once and
skipped on restart; tfno_compression.png and the tables of docs/mg_tfno.md show what there is. A cell takes two to five CPU minutes.

    OMP_NUM_THREADS=1 python paper_figs/tfno_compression.py [--folder runs/tfno] [--cells dense/200 50x/200] [--seeds 0 1 2] [--minutes M]

`--table` only writes the stored numbers into the page.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from studies import complete, stored, write_between

import opkernels as ok
from opkernels.datasets.recipe import read_recipe
from opkernels.training import Options

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "mg_tfno.md"
BEGIN = "<!-- compression: python paper_figs/tfno_compression.py --table -->"
STEPS, BATCH, TEST = 600, 4, 100
SIZES = {"train": (500, 0), "test": (TEST, 2)}  # samples, seed
RANKS = {"10x": 1 / 10, "50x": 1 / 51, "150x": 1 / 150}  # 10.2, 52.2 and 165 times fewer in whole ranks
MODELS = ("dense", *RANKS)
CELLS = ["dense/200", "50x/200", "dense/500", "50x/500", "150x/500", "whole/500", "patches/500"]
CELLS += ["150x/200", "10x/500", "10x/200", "patches2/500"]


def samples(folder, part):
    """Return the pairs (f, ω(5)) of one part of the data, made on the first call."""
    count, seed = SIZES[part]
    recipe = dict(read_recipe("mg_tfno_navier_stokes").plain) | {"resolution": [64, 64], "times": [5.0], "checked": 1}
    return ok.generate(recipe, folder / f"{part}.nc", samples=count, seed=seed, workers=1)


def build(name, domain):
    """Return the model of a cell."""
    options = {"n_modes": (32, 32), "hidden_channels": 64, "n_layers": 4}
    if name == "dense":
        return ok.models.FNO(domain, 1, 1, **options)
    if name in MODELS:
        return ok.models.TFNO(domain, 1, 1, rank=RANKS[name], joint=True, **options)
    options |= {"hidden_channels": 32, "rank": RANKS["50x"], "joint": True}
    if name == "whole":
        return ok.models.TFNO(domain, 1, 1, **options)
    levels = {"patches": 1, "patches2": 2}[name]
    return ok.models.MGTFNO(domain, 1, 1, levels=levels, padding=math.pi / 2 / 2**levels, **options)


def spectral_weights(model):
    """Count the numbers in spectral weights."""
    return sum(p.numel() for name, p in model.named_parameters() if ".conv.weight." in name or "joint_weight." in name)


def run(name, data, test, seed):
    """Train one cell; return its errors and sizes."""
    torch.manual_seed(seed)
    model, start = build(name, data.domain), time.process_time()
    surrogate = ok.fit(
        model,
        data,
        validation=0.0,
        inputs=["forcing"],
        outputs=["vorticity"],
        regime="direct",
        epochs=round(STEPS * BATCH / len(data)),
        batch_size=BATCH,
        lr=3e-3,
        seed=seed,
        options=Options(keep="last"),
    )
    seconds = time.process_time() - start
    fields = test.read(fields=["forcing", "vorticity"])
    truth = fields[:, -1, 1:]
    y = torch.cat([surrogate.predict(part) for part in fields[:, 0, :1].split(10)])
    grid = test.grid
    return {
        "l2": ok.rel_l2(y, truth, grid).item(),
        "h1": ok.rel_h1(y, truth, grid).item(),
        "spectral_weights": spectral_weights(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": seconds,
    }


def main(folder, cells, seeds, minutes):
    """Run the cells that are missing, within the time given; return all there are."""
    train, test = samples(folder, "train"), samples(folder, "test")

    def cell(key, seed):
        name, count = key.split("/")
        return lambda: run(name, train.select(slice(0, int(count))), test, seed)

    return complete(RESULTS, {f"{key}/{seed}": cell(key, seed) for seed in seeds for key in cells}, minutes)


def table(results):
    """Return mean, smallest and largest L2 error and the rows of each cell."""
    rows = {}
    for key, row in results.items():
        rows.setdefault(key.rsplit("/", 1)[0], []).append(row)
    return {cell: (sum(r["l2"] for r in rs) / len(rs), min(r["l2"] for r in rs), max(r["l2"] for r in rs), rs) for cell, rs in rows.items()}


def markdown(results):
    """Return the stored numbers as two tables: dense against factorized weights, the whole field against patches."""
    found = table(results)
    lines = ["| spectral weights | of dense | 500 samples | 200 samples |", "| --- | --- | --- | --- |"]
    for name in MODELS:
        if f"{name}/500" in found:
            weights = found[f"{name}/500"][3][0]["spectral_weights"]
            share = found["dense/500"][3][0]["spectral_weights"] / weights
            lines.append(
                f"| {weights} | 1/{share:.3g} | " + " | ".join(_errors(found, name, "dense", count) for count in (500, 200)) + " |"
            )
    names = {"whole": "TFNO, the whole field", "patches": "MGTFNO, `levels=1`", "patches2": "MGTFNO, `levels=2`"}
    if "patches/500" in found:
        lines += ["", "Width 32, a fiftieth of the spectral weights, in patches with those of the coarse operator on top:"]
        lines += ["", "| | weights | 500 samples | CPU time of training |", "| --- | --- | --- | --- |"]
        for name in [name for name in names if f"{name}/500" in found]:
            rows = found[f"{name}/500"][3]
            seconds = sum(row["cpu_seconds"] for row in rows) / len(rows)
            lines.append(f"| {names[name]} | {rows[0]['parameters']} | {_errors(found, name, 'whole', 500)} | {seconds:.0f} s |")
    return "\n".join(lines)


def _errors(found, name, other, count):
    """Return mean error, ratio to the error of another model over the seeds that both have, and the number of seeds."""
    if f"{name}/{count}" not in found:
        return ""
    (mean, *_, rows), against = found[f"{name}/{count}"], found[f"{other}/{count}"][3]
    both = list(zip(rows, against, strict=False))
    ratio = sum(row["l2"] for row, _ in both) / sum(row["l2"] for _, row in both)
    seeds = f"{len(rows)} seed" + "s" * (len(rows) > 1)
    return f"{mean:.3f} ({'' if name == other else f'{ratio:.2f}x, '}{seeds})"


def draw(results, path):
    """Show error against the number of spectral weights."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = table(results)
    figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for count in (500, 200):
        found = [rows[f"{name}/{count}"] for name in MODELS if f"{name}/{count}" in rows]
        sizes = [row[3][0]["spectral_weights"] for row in found]
        spread = [[row[0] - row[1] for row in found], [row[2] - row[0] for row in found]]
        ax.errorbar(sizes, [row[0] for row in found], yerr=spread, marker="o", ms=4, capsize=3, label=f"{count} samples")
    ax.set(xlabel="spectral weights", ylabel="relative L2 error", xscale="log", ylim=(0, None))
    ax.legend()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("runs/tfno"))
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=math.inf, help="of CPU; no cell begins later")
    parser.add_argument("--table", action="store_true", help="write the stored numbers into docs/mg_tfno.md only")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result = stored(RESULTS) if asked.table else main(asked.folder, asked.cells, asked.seeds, asked.minutes)
    write_between(PAGE, BEGIN, markdown(result))
    draw(result, Path(__file__).with_suffix(".png"))
    print(f"{'cell':>12} {'seeds':>5} {'mean':>7} {'least':>7} {'most':>7} {'spectral weights':>16} {'CPU s':>6}")
    for cell, (mean, least, most, rows) in table(result).items():
        print(f"{cell:>12} {len(rows):5} {mean:7.4f} {least:7.4f} {most:7.4f} ", end="")
        print(f"{rows[0]['spectral_weights']:16} {rows[0]['cpu_seconds']:6.0f}")
