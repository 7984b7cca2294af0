"""Rollouts of 20 steps after one-step and after unrolled training, at an equal number of calls of the model.

    ∂ω/∂t + u·∇ω = 0.005 Δω - 0.1 ω + f,   2π-periodic,   steps of 0.125

Both operators start from the same weights, see the same 48 trajectories at 32 x 32, call the model equally
often and take about equally many optimizer steps while training; the unrolled chain grows from one call to four. Errors on 16 new
trajectories: relative L2 after 1, 5, 10, 20 steps, and the correlation time, the last time at which the
correlation with the truth is still at least 0.8 (mean over samples). Numbers: unrolled_training.json,
pictures: unrolled_training.png (error against time) and unrolled_training.gif (truth, one-step, unrolled).

    OMP_NUM_THREADS=1 python paper_figs/unrolled_training.py [runs/unrolled]
"""

import json
import resource
import sys
from pathlib import Path

import torch

import opkernels as ok
from opkernels.training import Options, Regime

STEPS, DT, SHAPE, CALLS_PER_SAMPLE = 20, 0.125, (32, 32), 20 * 15
RECIPE = {
    "title": "Forced Navier-Stokes",
    "solver": {"name": "NavierStokes2D", "viscosity": 5e-3, "forcing": "cos(2*x + y) + sin(x - 2*y)", "drag": 0.1},
    "domain": {"periodic": ["2*pi", "2*pi"]},
    "initial": {"name": "GaussianRandomField", "alpha": 4, "tau": 3, "sigma": 60},
    "times": {"start": 0, "stop": DT * STEPS, "count": STEPS + 1},
    "resolution": [64, 64],
    "samples": 48,
    "seed": 0,
    "dtype": "float32",
    "batch": 16,
    "checked": 0,
}
REGIMES = {"one-step": (Regime(), 16), "unrolled": (Regime("unrolled", 4, curriculum=0.5), 5)}  # and the size of a batch


def epochs_for(regime):
    """Return the number of epochs that makes (nearly) CALLS_PER_SAMPLE calls of the model on each trajectory."""

    def calls(epochs):
        unrolls = [regime.unroll_at(e, epochs) for e in range(epochs)]
        return sum(n * (STEPS + 1 - n) for n in unrolls)

    epochs = 1
    while calls(epochs + 1) <= CALLS_PER_SAMPLE:
        epochs += 1
    return epochs


def train(data, regime, batch_size):
    torch.manual_seed(0)
    model = ok.models.FNO(data.domain, 1, 1, n_modes=(12, 12), hidden_channels=16, positional_embedding="harmonics")
    options = Options(keep="last")
    return ok.fit(model, data, validation=0.0, epochs=epochs_for(regime), batch_size=batch_size, lr=3e-3, regime=regime, options=options)


def main(folder):
    train_data = ok.generate(RECIPE, folder / "train.nc", workers=1).at(*SHAPE)
    test = ok.generate(RECIPE, folder / "test.nc", samples=16, seed=1, workers=1).at(*SHAPE).read()
    truth, rows, frames = test[:, 1:], {}, {"truth": test[0, 1:, 0]}
    for name, (regime, batch_size) in REGIMES.items():
        y = train(train_data, regime, batch_size).rollout(test[:, 0], STEPS)
        error = [ok.rel_l2(y[:, t], truth[:, t]).item() for t in range(STEPS)]
        above = correlation(y, truth) >= 0.8
        rows[name] = {
            "epochs": epochs_for(regime),
            "error": error,
            "correlation_time": DT * above.cumprod(1).sum(1).float().mean().item(),
        }
        frames[name] = y[0, :, 0]
    persistence = [ok.rel_l2(test[:, 0], truth[:, t]).item() for t in range(STEPS)]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"rows": rows, "persistence": persistence, "cpu_seconds": usage.ru_utime + usage.ru_stime}, frames


def correlation(a, b):
    a, b = (u.flatten(2) - u.flatten(2).mean(2, keepdim=True) for u in (a, b))
    return (a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2))


def draw(result, frames, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    times = [DT * (t + 1) for t in range(STEPS)]
    figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for name, row in result["rows"].items():
        ax.plot(times, row["error"], marker="o", ms=3, label=name)
    ax.plot(times, result["persistence"], "k--", lw=1, label="persistence")
    ax.set(xlabel="time", ylabel="relative L2 error", ylim=(0, None))
    ax.legend()
    figure.savefig(path.with_suffix(".png"), dpi=130)
    figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.8), layout="constrained")
    top = float(frames["truth"].abs().max())
    images = [ax.imshow(u[0].T, origin="lower", cmap="RdBu_r", vmin=-top, vmax=top) for ax, u in zip(axes, frames.values(), strict=True)]
    for ax, name in zip(axes, frames, strict=True):
        ax.set(title=name, xticks=[], yticks=[])

    def show(t):
        figure.suptitle(f"t = {times[t]:.2f}")
        for image, u in zip(images, frames.values(), strict=True):
            image.set_data(u[t].T)
        return images

    FuncAnimation(figure, show, frames=STEPS).save(path.with_suffix(".gif"), writer=PillowWriter(fps=4), dpi=70)


if __name__ == "__main__":
    torch.set_num_threads(1)
    result, frames = main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/unrolled"))
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result, frames, Path(__file__))
    print(f"{'training':>12} {'epochs':>6} " + " ".join(f"step {n:>3}" for n in (1, 5, 10, 20)) + "  correlation time")
    for name, row in result["rows"].items():
        print(
            f"{name:>12} {row['epochs']:>6} "
            + " ".join(f"{row['error'][n - 1]:8.4f}" for n in (1, 5, 10, 20))
            + f"  {row['correlation_time']:.2f}"
        )
    print(f"{'persistence':>12} {'':>6} " + " ".join(f"{result['persistence'][n - 1]:8.4f}" for n in (1, 5, 10, 20)))
