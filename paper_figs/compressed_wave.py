"""Compressed against dense convolutions in a surrogate of waves in a box, over space and time at once.

    u_tt = div(c² grad u),   u = 0 on the walls,   u(0) = random bumps,   u_t(0) = 0,   c drawn anew for every sample   (recipe wave_box)

The map (u(0), c, t) -> u(x, y, t) on 25 x 25 points and 13 times up to .6, with wider bumps than the recipe's, by a `UNet` of three levels
over (x, y, t): the 3-way kernels of arXiv 2304.04964, whose own architecture is not public. Cells:

| cell   | what                                                                               |
| ------ | ---------------------------------------------------------------------------------- |
| dense  | width 16                                                                           |
| cp, tt | the same with kernels of a tenth of the weights, which leaves an eighth of all     |
| narrow | dense, of no more weights than cp                                                  |

All see the same 160 samples in the same order for equally many steps. Error: relative L2 over space and time on 64 new samples of the
same distribution, mean over samples; and on the training samples. Learning rates were chosen among 3e-3 and 1e-2 (cp: 2e-2 too), on
the few, short waves of examples/compressed_wave.py: Adam's steps are as long for filters, whose entries are of size .4, as for dense
kernels, whose entries are of size .03. Each finished cell is written to compressed_wave.json at once and skipped on restart;
compressed_wave.png and the table of docs/compressed.md show what there is. A cell takes a minute or so.

    OMP_NUM_THREADS=1 python paper_figs/compressed_wave.py [--folder runs/waves] [--cells dense cp] [--seeds 0 1 2] [--minutes M]

`--table` only writes the stored numbers into the page; `--full FILE` only makes the data of full_scale/compressed_wave.yaml, which takes
eight gigabytes of memory.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path

import torch
from studies import complete, stored, write_between

import opkernels as ok
from opkernels.datasets.recipe import read_recipe
from opkernels.datasets.recipe_files import load_data
from opkernels.training import Options

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "compressed.md"
BEGIN = "<!-- waves: python paper_figs/compressed_wave.py --table -->"
SIZES = {"train": (160, 0), "test": (64, 1)}  # samples, seed
EPOCHS, BATCH = 10, 4
FULL, FULL_SHAPE = load_data("wave_box") | {"samples": 1280, "times": {"start": 0, "stop": 1, "count": 33}}, (65, 65)
CELLS = {
    "dense": {},
    "cp": {"factorization": "cp", "rank": 1 / 10},
    "tt": {"factorization": "tt", "rank": 1 / 10},
    "narrow": {"hidden_channels": 5},
}
LR = {"cp": 1e-2}  # the others 3e-3


def samples(folder, part):
    """Return the functions of one part over (x, y, t), made on the first call."""
    count, seed = SIZES[part]
    bumps = {"name": "RandomBumps", "count": [1, 3], "width": [0.1, 0.16], "amplitude": [0.5, 1], "transform": "16*x*(1-x)*y*(1-y)*value"}
    recipe = dict(read_recipe("wave_box").plain) | {
        "resolution": [49, 49],
        "times": {"start": 0, "stop": 0.6, "count": 13},
        "initial": {"displacement": bumps, "velocity": 0},
    }
    waves = ok.generate(recipe, folder / f"{part}.nc", samples=count, seed=seed, workers=1).at(25, 25)
    return over_space_and_time(waves)


def full_samples(path):
    """Write the functions over (x, y, t) of full scale."""
    over_space_and_time(ok.generate(FULL, path.with_name(f"{path.stem}_steps.nc")).at(*FULL_SHAPE)).save(path)


def over_space_and_time(waves):
    """Return trajectories (sample, time, x, y) as functions on a box of x, y and t."""
    u, c = waves.read(fields=["displacement", "speed"]).unbind(2)
    u, c = u.movedim(1, -1), c.movedim(1, -1)
    times = torch.as_tensor(waves.times, dtype=u.dtype)
    domain = ok.Domain((*waves.domain.axes, ok.Axis(float(times[0]), float(times[-1]), points="endpoint", name="t")))
    return ok.Trajectories.from_arrays(
        {"start": u[..., :1].expand_as(u), "speed": c, "when": times.expand_as(u), "displacement": u}, domain
    )


def run(name, train, test, seed):
    """Train one cell; return its errors and sizes."""
    torch.manual_seed(seed)
    model = ok.models.UNet(train.domain, 3, 1, **{"hidden_channels": 16, "n_layers": 3} | CELLS[name])
    start = time.process_time()
    surrogate = ok.fit(
        model,
        train,
        validation=0.0,
        inputs=["start", "speed", "when"],
        outputs=["displacement"],
        regime="direct",
        epochs=EPOCHS,
        batch_size=BATCH,
        lr=LR.get(name, 3e-3),
        seed=seed,
        options=Options(keep="last"),
    )
    seconds = time.process_time() - start
    return {
        "l2": error(surrogate, test),
        "train_l2": error(surrogate, train),
        "convolution_weights": sum(p.numel() for name, p in model.named_parameters() if ".first." in name or ".second." in name),
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": seconds,
    }


def error(surrogate, data):
    """Return the relative L2 error, mean over samples."""
    fields = data.read(fields=["start", "speed", "when", "displacement"])[:, 0]
    y = torch.cat([surrogate.predict(part[:, :3]) for part in fields.split(8)])
    return ok.rel_l2(y, fields[:, 3:], data.grid).mean().item()


def main(folder, cells, seeds, minutes):
    """Run the cells that are missing, within the time given; return all there are."""
    train, test = samples(folder, "train"), samples(folder, "test")
    rows = {f"{cell}/{seed}": partial(run, cell, train, test, seed) for seed in seeds for cell in cells}
    return complete(RESULTS, rows, minutes)


def markdown(results):
    """Return the stored numbers as a table, one row for each cell, every seed a number."""
    seeds = sorted({key.split("/")[1] for key in results})
    lines = [f"| kernels | weights of convolutions | all weights | error, seeds {', '.join(seeds)} | of dense | on training samples |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for cell in CELLS:
        rows = {key.split("/")[1]: row for key, row in results.items() if key.split("/")[0] == cell}
        if rows:
            sizes = next(iter(rows.values()))
            both = [seed for seed in rows if f"dense/{seed}" in results]
            ratio = sum(rows[seed]["l2"] for seed in both) / sum(results[f"dense/{seed}"]["l2"] for seed in both)
            errors, training = (
                ", ".join(f"{rows[seed][key]:.3f}" if seed in rows else "-" for seed in seeds) for key in ("l2", "train_l2")
            )
            lines.append(f"| {cell} | {sizes['convolution_weights']} | {sizes['parameters']} | {errors} | {ratio:.2f}x | {training} |")
    return "\n".join(lines)


def draw(results, path):
    """Show the errors of each cell against its weights, every seed a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for cell in CELLS:
        rows = [row for key, row in results.items() if key.split("/")[0] == cell]
        if rows:
            (dots,) = ax.plot([row["parameters"] for row in rows], [row["l2"] for row in rows], "o", label=cell)
            ax.plot([row["parameters"] for row in rows], [row["train_l2"] for row in rows], "x", color=dots.get_color())
    ax.set(xlabel="weights", ylabel="relative L2 error (crosses: training samples)", xscale="log", ylim=(0, None))
    ax.legend()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("runs/waves"))
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=math.inf, help="of CPU; no cell begins later")
    parser.add_argument("--table", action="store_true", help="write the stored numbers into docs/compressed.md only")
    parser.add_argument("--full", type=Path, metavar="FILE", help="make the data of full_scale/compressed_wave.yaml only")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.full:
        full_samples(asked.full)
        raise SystemExit
    result = stored(RESULTS) if asked.table else main(asked.folder, asked.cells, asked.seeds, asked.minutes)
    write_between(PAGE, BEGIN, markdown(result))
    draw(result, Path(__file__).with_suffix(".png"))
    print(f"{'cell/seed':>14} {'error':>7} {'training':>8} {'of dense':>8} {'convolutions':>12} {'weights':>8} {'CPU s':>6}")
    for key, row in result.items():
        share = row["l2"] / result["dense/" + key.split("/")[1]]["l2"] if "dense/" + key.split("/")[1] in result else math.nan
        print(f"{key:>14} {row['l2']:7.4f} {row['train_l2']:8.4f} {share:8.3f} ", end="")
        print(f"{row['convolution_weights']:12} {row['parameters']:8} {row['cpu_seconds']:6.0f}")
