"""Bases of equal size in one network, on three particle flows: rollouts of 64 steps beside the solver.

Networks SFBC of widths 16, 32, 32 with 2 K + 1 = 5 terms per axis in each basis, so that all have the same number of
weights: harmonics (SFBC), hats (CConv's, here on cartesian offsets), polynomials, Gaussians. All with the window
(1 - r^2)^3, trained on 8 flows by the same updates in the same order, through 1 to 3 steps, with gradients through
positions; "fourier, no position gradients" stops those, and "fourier, conservative" exchanges momentum between pairs in its
last layer (fewer weights, as that has no linear part). Tested on 4 flows of other seeds over 64 frames; the table holds
medians over the flows. Numbers: sfbc_bases.json; each cell (case, variant, seed) is stored when done and skipped then.

    OMP_NUM_THREADS=1 python paper_figs/sfbc_bases.py [--cases compressible] [--seeds 0 1 2] [--updates 500] [--variants fourier]

About one CPU minute for each of the 54 cells; `--plot` draws the stored numbers, `--table` writes them into docs/sfbc.md.
"""

import argparse
import functools
import resource
import statistics
from pathlib import Path

import torch
from studies import complete, write_between

from opkernels.datasets.particle_flows import particle_flow
from opkernels.evaluation.particles import compare_particles
from opkernels.models import SFBC
from opkernels.training.particles import ParticleOptions, ParticleStepper, fit_particles, frame_velocities

OUT = Path(__file__).with_suffix(".json")
PAGE, BEGIN = Path(__file__).parents[1] / "docs" / "sfbc.md", "<!-- bases: python paper_figs/sfbc_bases.py --table -->"
BASES = ("fourier", "linear", "chebyshev", "radial")
VARIANTS = {
    "fourier": {"basis": "fourier"},
    "linear": {"basis": "linear"},
    "chebyshev": {"basis": "chebyshev"},
    "radial": {"basis": "radial"},
    "fourier, no position gradients": {"basis": "fourier", "position_gradients": False},
    "fourier, conservative": {"basis": "fourier", "conservative": True},
}
TRAIN, TEST, FRAMES = range(8), range(100, 104), 65


UPDATES = {"compressible": 2000, "weakly_compressible": 400, "incompressible": 1000}
RATES = {"compressible": 3e-3, "weakly_compressible": 1e-3, "incompressible": 2e-3}  # of examples/configs/sfbc_*.yaml


@functools.cache
def flows_of(case: str, seeds: range):
    return [frame_velocities(particle_flow(case, seed, n_frames=FRAMES + 1)) for seed in seeds]


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def train(flows, seed: int, updates: int, lr: float, basis: str, position_gradients: bool = True, conservative: bool = False):
    torch.manual_seed(seed)
    d = flows[0].particles.ndim
    model = SFBC(flows[0].particles.domain, 1 + d, d, hidden_channels=(16, 32, 32), basis=basis, conservative=conservative)
    stepper = ParticleStepper.from_frames(model, flows, position_gradients=position_gradients)
    options = ParticleOptions(steps=updates, unroll=3, lr=lr, noise=0.003, seed=seed)
    return stepper, fit_particles(stepper, flows, options)


def evaluate(stepper, flows) -> dict:
    """Medians over the flows of the figures after 64 steps; a rollout that ends early counts as infinite."""
    rows = []
    for flow in flows:
        try:
            start = flow.frame(0).replace(densities=None).to(torch.float32)
            x, v = stepper.rollout(start, flow.velocities[0].float(), FRAMES - 1)
        except ValueError:
            rows.append(None)
            continue
        row = compare_particles(x.double(), v.double(), flow, horizons=(1, 16, 64))
        row["energy_ratio"] = row.pop("energy")[-1] / row.pop("true_energy")[-1]
        rows.append(row)
    done = [row for row in rows if row is not None]
    lost = [float("inf")] * (len(rows) - len(done))
    table = {key: statistics.median([row[key] for row in done] + lost) for key in done[0]} if done else {}
    return table | {"finished": len(done), "of": len(rows)}


def still(flow) -> dict:
    """Return the same figures for particles that go on at their first velocities."""
    dt = (torch.tensor(flow.times, dtype=torch.float64) - flow.times[0])[:, None, None]
    x, v = flow.positions[0] + dt * flow.velocities[0], flow.velocities[:1].expand_as(flow.velocities)
    return compare_particles(x, v, flow, horizons=(1, 16, 64))


def cell(case: str, variant: str, seed: int, updates: int) -> dict:
    flows, tests = flows_of(case, TRAIN), flows_of(case, TEST)
    start = cpu()
    stepper, losses = train(flows, seed, updates, RATES[case], **VARIANTS[variant])
    seconds = cpu() - start
    free = [still(flow) for flow in tests]
    return {
        "updates": updates,
        "lr": RATES[case],
        "training CPU seconds": seconds,
        "weights": sum(p.numel() for p in stepper.parameters()),
        "loss": statistics.mean(losses[-50:]),
        **evaluate(stepper, tests),
        "free flight mse@64": statistics.median(row["mse@64"] for row in free),
        "free flight density_error": statistics.median(row["density_error"] for row in free),
    }


def plot(cells: dict) -> None:
    import matplotlib.pyplot as plt

    cases = [case for case in UPDATES if any(key.startswith(f"{case}/") for key in cells)]
    figure, axes = plt.subplots(2, len(cases), figsize=(4 * len(cases), 6), squeeze=False, layout="constrained", sharex=True)
    for column, case in enumerate(cases):
        for row, (name, title) in enumerate((("mse@64", "position error, 64 steps"), ("density_error", "density error, step 64"))):
            axis = axes[row, column]
            for at, variant in enumerate(VARIANTS):
                values = [c[name] for key, c in cells.items() if key.startswith(f"{case}/{variant}/") and name in c]
                axis.plot([at] * len(values), values, "o", color=f"C{at}")
            axis.set(yscale="log", title=f"{case}: {title}" if row == 0 else title)
            axis.set_xticks(range(len(VARIANTS)), [v.replace(", ", ",\n") for v in VARIANTS], rotation=45, fontsize=7)
    figure.savefig(OUT.with_suffix(".png"), dpi=120)


def median_and_range(rows: list[dict], name: str) -> str:
    values = sorted(row.get(name, float("inf")) for row in rows)
    ends = f" ({values[0]:.2g} to {values[-1]:.2g})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2g}{ends}"


def table(cells: dict) -> str:
    """Return the stored numbers in Markdown, a table for each case: medians over the seeds, least and largest in brackets."""
    figures = ("mse@64", "density_error", "energy_ratio", "momentum")
    parts = []
    for case in UPDATES:
        groups = {v: [row for key, row in cells.items() if key.startswith(f"{case}/{v}/")] for v in VARIANTS}
        groups = {variant: rows for variant, rows in groups.items() if rows}
        if not groups:
            continue
        one = next(iter(groups.values()))[0]
        seconds = statistics.median(row["training CPU seconds"] for rows in groups.values() for row in rows)
        parts += [
            f"**{case.replace('_', ' ')}**, {one['weights']} weights, {one['updates']} updates in {seconds:.0f} s of CPU time:",
            "",
            "| network | seeds | position error | density error | kinetic energy / solver's | momentum changed by | finished |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for variant, rows in groups.items():
            values = " | ".join(median_and_range(rows, name) for name in figures)
            done, of = (sum(row[name] for row in rows) for name in ("finished", "of"))
            parts.append(f"| {variant} | {len(rows)} | {values} | {done} of {of} |")
        free, free_density = one["free flight mse@64"], one["free flight density_error"]
        parts.append(f"| free flight | | {free:.2g} | {free_density:.2g} | | 0 | |")
        densities = ", ".join(f"{v} {statistics.median(row['max_density'] for row in rows):.2f}" for v, rows in groups.items())
        compared = {v: statistics.median(row.get("mse@64", float("inf")) for row in groups[v]) for v in BASES if v in groups}
        order = sorted(compared, key=compared.__getitem__)
        parts += ["", f"Largest density at the last step, solver {one['true_max_density']:.2f}: {densities}.", ""]
        parts += [f"Bases by their medians of the position error: {', '.join(order)}.", ""]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(UPDATES), choices=list(UPDATES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, help="of the weights; by default such that a cell takes a minute")
    parser.add_argument("--plot", action="store_true", help="draw the stored numbers only")
    parser.add_argument("--table", action="store_true", help="write the stored numbers into docs/sfbc.md only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keys = [(c, v, s) for c in given.cases for s in given.seeds for v in given.variants if not (given.plot or given.table)]
    wanted = {"/".join(map(str, key)): functools.partial(cell, *key, given.updates or UPDATES[key[0]]) for key in keys}
    cells = complete(OUT, wanted)
    if given.table:
        write_between(PAGE, BEGIN, table(cells).rstrip())
    else:
        plot(cells)


if __name__ == "__main__":
    main()
