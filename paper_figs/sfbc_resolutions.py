"""SFBC trained on 128 particles and asked on 64, 256 and 512: where it is one operator, and where another on each.

Waves of a gas on a periodic line: the starts of the flow "compressible" at a fifth of its speeds, solved by SPH with the usual artificial
viscosity. At full speed the particles of finer solvers pass each other at shocks, and no two resolutions have a limit in common. The
number of a particle is a coordinate X that moves with the gas, so displacement x(X, t) - X and velocity v(X, t) are periodic functions
of X. They are solved once, on 512 particles; fewer particles see these functions resampled, as coarser grids do in the transfer table.

| option               | meaning on N particles                                                                       |
| -------------------- | -------------------------------------------------------------------------------------------- |
| volumes, or "sums"   | what sums over neighbors weigh: V_j, or 1 as published                                       |
| fixed support        | that of the training, 0.094, which is 6 spacings of 128 particles                            |
| with the spacing     | 6 spacings of the N particles, what SPH itself takes and what files of particles hold        |

Volumes at a fixed support are the quadrature of one integral. With a support that follows the spacing a particle sees the same stencil
on any N, whatever the weights, and a stencil of another extent means another derivative.

Errors are over four flows of other seeds and 16 steps of 0.02. One step, from true states: error of the velocity over its change, in which
free flight has 1. Rollouts: error of the velocity over the velocity, of the position over the displacement. "Interpolated" is the
network run on 128 particles, from the start resampled to them, its answer resampled to 512. SPH itself on N particles stands beside them:
its artificial viscosity falls with its support.

Each finished cell (network, seed) is in sfbc_resolutions.json and is skipped on restart.

    OMP_NUM_THREADS=1 python paper_figs/sfbc_resolutions.py [--networks polynomials] [--seeds 0 1 2] [--updates 2000] [--minutes 20]

`--table` writes the stored numbers into docs/sfbc.md and draws them, nothing else.
"""

import argparse
import functools
import math
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from sfbc_bases import median_and_range
from studies import complete, rows_of, stored, write_between

from opkernels.datasets.particle_flows import particle_flow
from opkernels.models import SFBC
from opkernels.particles import ParticleSet
from opkernels.resample import resample
from opkernels.solvers.sph import CompressibleSPH1D, Isothermal, ParticleTrajectory
from opkernels.training.particles import ParticleOptions, ParticleStepper, fit_particles, frame_velocities

OUT = Path(__file__).with_suffix(".json")
PAGE, BEGIN = Path(__file__).parents[1] / "docs" / "sfbc.md", "<!-- resolutions: python paper_figs/sfbc_resolutions.py --table -->"
TRAINED, FINEST, ASKED = 128, 512, (64, 128, 256, 512)
TRAIN, TEST, STEPS, INTERVAL, SPEED = range(8), range(100, 104), 16, 0.02, 0.2
NETWORKS = {
    "harmonics": {"basis": "fourier"},
    "polynomials": {"basis": "chebyshev"},
    "harmonics, conservative": {"basis": "fourier", "conservative": True},
    "harmonics, sums": {"basis": "fourier", "quadrature": "sum"},
    "polynomials, sums": {"basis": "chebyshev", "quadrature": "sum"},
}
SUPPORTS = {"fixed": lambda n: support_of(TRAINED), "with the spacing": lambda n: support_of(n)}
FIGURES = {"step": "one step", "velocity": "velocity over a rollout", "position": "position over a rollout"}


def support_of(n: int) -> float:
    """Return six spacings of n particles on the line of length 2."""
    return 6 * 2.0 / n


def solve(seed: int, n: int) -> ParticleTrajectory:
    """Return a flow on n particles by SPH of their own support."""
    start = particle_flow("compressible", seed, n_frames=2, n_particles=n, interval=1e-3)
    gas = CompressibleSPH1D(start.particles.domain, eos=Isothermal(10**0.5, 1.0), adaptive=False)
    times = [INTERVAL * i for i in range(STEPS + 2)]
    return frame_velocities(gas.solve(start.particles, times, velocities=SPEED * start.velocities[0]))


def resampled(values: torch.Tensor, domain, n: int) -> torch.Tensor:
    """Return functions of the particles' number, (T, N, 1), at n particles."""
    return resample(values.transpose(1, 2), domain.grid(values.shape[1]), domain.grid(n)).transpose(1, 2)


def seen_by(flow: ParticleTrajectory, n: int) -> ParticleTrajectory:
    """Return a flow as n particles see it: displacements and velocities resampled."""
    domain = flow.particles.domain
    lattice = [domain.grid(m).coordinates(dtype=torch.float64).T for m in (len(flow.particles), n)]
    x = lattice[1] + resampled(flow.positions - lattice[0], domain, n)
    ones = torch.ones_like(x[..., 0])
    particles = ParticleSet(x[0], 2.0 / n, support_of(n), domain)
    v = resampled(flow.velocities, domain, n)
    return replace(flow, positions=x, velocities=v, particles=particles, densities=ones, pressures=0 * ones)


@functools.cache
def flows_of(seeds: range, n: int) -> list[ParticleTrajectory]:
    return [solve(seed, FINEST) for seed in seeds] if n == FINEST else [seen_by(flow, n) for flow in flows_of(seeds, FINEST)]


def train(seed: int, updates: int, **arguments) -> ParticleStepper:
    flows = flows_of(TRAIN, TRAINED)
    torch.manual_seed(seed)
    model = SFBC(flows[0].particles.domain, 2, 1, hidden_channels=(16, 32, 32), **arguments)
    stepper = ParticleStepper.from_frames(model, flows)
    stepper.support = None  # it takes that of the particles, so that both can be asked
    fit_particles(stepper, flows, ParticleOptions(steps=updates, unroll=3, lr=3e-3, noise=0.003, seed=seed))
    return stepper


def steps(stepper: ParticleStepper, flow: ParticleTrajectory, support: float) -> torch.Tensor:
    """Return the velocities (T, N, 1) one step after each of the true frames but the last."""
    sets = [flow.particles.replace(positions=x, support=support) for x in flow.positions[:-1]]
    with torch.no_grad():
        _, v = stepper(ParticleSet.stack(sets).to(torch.float32), flow.velocities[:-1].flatten(0, 1).float())
    return v.double().unflatten(0, (len(sets), -1))


def rollout(stepper: ParticleStepper, flow: ParticleTrajectory, support: float) -> ParticleTrajectory:
    """Return the simulation from the first frame; one that leaves the finite numbers is infinitely wrong."""
    try:
        x, v = stepper.rollout(flow.particles.replace(support=support).to(torch.float32), flow.velocities[0].float(), STEPS)
    except ValueError:
        x = v = torch.full_like(flow.positions, math.inf)
    return replace(flow, positions=x.double(), velocities=v.double())


def over(errors: list[torch.Tensor], sizes: list[torch.Tensor]) -> float:
    """Return the root of the sum of squares of all errors over that of the sizes."""
    ratio = sum(e.square().sum().item() for e in errors) / sum(s.square().sum().item() for s in sizes)
    return math.sqrt(ratio) if math.isfinite(ratio) else math.inf


def step_error(found: list[torch.Tensor], truths: list[ParticleTrajectory]) -> dict[str, float]:
    changes = [t.velocities.diff(dim=0) for t in truths]
    return {"step": over([v - t.velocities[1:] for v, t in zip(found, truths, strict=True)], changes)}


def rollout_errors(runs: list[ParticleTrajectory], truths: list[ParticleTrajectory]) -> dict[str, float]:
    pairs = list(zip(runs, truths, strict=True))
    v = over([r.velocities - t.velocities for r, t in pairs], [t.velocities[1:] for t in truths])
    x = over([r.positions - t.positions for r, t in pairs], [t.positions[1:] - t.positions[0] for t in truths])
    return {"velocity": v, "position": x}


def errors_of(stepper: ParticleStepper, n: int, support: float) -> dict[str, float]:
    truths = flows_of(TEST, n)
    one = step_error([steps(stepper, t, support) for t in truths], truths)
    return one | rollout_errors([rollout(stepper, t, support) for t in truths], truths)


def interpolated(stepper: ParticleStepper) -> dict[str, float]:
    """Return the errors, on the finest particles, of the network run on as many as it was trained on."""
    coarse, truths, support = flows_of(TEST, TRAINED), flows_of(TEST, FINEST), support_of(TRAINED)
    domain = truths[0].particles.domain
    one = step_error([resampled(steps(stepper, t, support), domain, FINEST) for t in coarse], truths)
    return one | rollout_errors([seen_by(rollout(stepper, t, support), FINEST) for t in coarse], truths)


def cell(network: str, seed: int, updates: int) -> dict:
    flows_of(TRAIN, TRAINED)
    start = time.process_time()
    stepper = train(seed, updates, **NETWORKS[network])
    seconds = time.process_time() - start
    errors = {s: {str(n): errors_of(stepper, n, support(n)) for n in ASKED} for s, support in SUPPORTS.items()}
    row = {"updates": updates, "training CPU seconds": seconds, "weights": sum(p.numel() for p in stepper.parameters())}
    return row | errors | {"interpolated": interpolated(stepper)}


def free_flight() -> dict:
    """Return the errors of particles that keep their first velocities."""
    errors = {}
    for n in ASKED:
        truths = flows_of(TEST, n)
        runs = []
        for t in truths:
            elapsed = torch.tensor(t.times, dtype=torch.float64)[:, None, None] - t.times[0]
            v = t.velocities[:1].expand_as(t.velocities)
            runs.append(replace(t, positions=t.positions[0] + elapsed * v, velocities=v))
        errors[str(n)] = step_error([t.velocities[:-1] for t in truths], truths) | rollout_errors(runs, truths)
    return {"": errors}


def solver() -> dict:
    """Return the errors of SPH on as many particles, from the same starts."""
    runs = {n: [solve(seed, n) for seed in TEST] for n in ASKED if n < FINEST}
    errors = {str(n): rollout_errors(found, flows_of(TEST, n)) for n, found in runs.items()}
    fine = [seen_by(run, FINEST) for run in runs[TRAINED]]
    return {"with the spacing": errors, "interpolated": rollout_errors(fine, flows_of(TEST, FINEST))}


def line(name: str, support: str, rows: list[dict], last: list[dict], figure: str) -> str:
    """Return one row of the table; a dash where nothing was asked."""
    found = [[row[support][str(n)] for row in rows if str(n) in row[support]] for n in ASKED] + [last]
    columns = [median_and_range(errors, figure) if errors else "-" for errors in found]
    return f"| {name} | {support} | {' | '.join(columns)} |"


def table(cells: dict[str, dict]) -> str:
    """Return the stored numbers in Markdown, a table for each figure: medians over the seeds, least and largest in brackets."""
    trained = {name: rows_of(cells, name) for name in NETWORKS if rows_of(cells, name)}
    rows = [row for found in trained.values() for row in found]
    counts, seconds = {len(found) for found in trained.values()}, statistics.median(row["training CPU seconds"] for row in rows)
    parts = [f"{rows[0]['updates']} updates on {TRAINED} particles in {seconds:.0f} s of CPU time, {max(counts)} seeds:"]
    for figure, title in FIGURES.items():
        heads = ["support", *(str(n) for n in ASKED), f"run on {TRAINED}, interpolated to {FINEST}"]
        parts += ["", f"| {title} | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
        for name, found in trained.items():
            parts.append(line(name, "fixed", found, [row["interpolated"] for row in found], figure))
            parts.append(line(name, "with the spacing", found, [], figure))
        parts.append(line("free flight", "", [cells["free flight"]], [], figure))
        if figure != "step":
            sph = cells["SPH on as many"]
            parts.append(line("SPH on as many", "with the spacing", [sph], [sph["interpolated"]], figure))
    return "\n".join(parts) + "\n\n" + verdicts(trained)


def verdicts(trained: dict[str, list[dict]]) -> str:
    """Say how each network's error on the finest particles compares with that on the training's, and with its own answer interpolated."""
    fine, coarse, said = str(FINEST), str(TRAINED), []
    for name, rows in trained.items():
        fixed, spacing = (statistics.median(row[s][fine]["step"] / row[s][coarse]["step"] for row in rows) for s in SUPPORTS)
        ratio = statistics.median(row["fixed"][fine]["velocity"] / row["interpolated"]["velocity"] for row in rows)
        said.append(f"| {name} | {fixed:.3g} | {spacing:.3g} | {ratio:.3g} |")
    heads = (
        f"| error on {fine}, ratios | step, over that on {coarse}: fixed | with the spacing | rollout, fixed, over the one interpolated |"
    )
    return "\n".join([heads, "| --- | --- | --- | --- |", *said])


def plot(cells: dict[str, dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(FIGURES), figsize=(12, 5), layout="constrained")
    for axis, (name, title) in zip(axes, FIGURES.items(), strict=True):
        for at, network in enumerate(NETWORKS):
            for support, style in zip(SUPPORTS, ("o-", "x:"), strict=True):
                rows = rows_of(cells, network)
                if rows:
                    y = [statistics.median(row[support][str(n)][name] for row in rows) for n in ASKED]
                    axis.plot(ASKED, y, style, color=f"C{at}", label=f"{network}, support {support}")
        for other, color in (("free flight", "k"), ("SPH on as many", "gray")):
            errors = next(iter(cells[other].values()))
            if all(name in row for row in errors.values()):
                axis.plot([int(n) for n in errors], [row[name] for row in errors.values()], "--", color=color, label=other)
        axis.set(xscale="log", yscale="log", xlabel="particles", title=f"error: {title}")
        axis.set_xticks(ASKED, [str(n) for n in ASKED])
        axis.minorticks_off()
        axis.set_ylim(top=min(axis.get_ylim()[1], 300))
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
    figure.savefig(OUT.with_suffix(".png"), dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=2000, help="of the weights, for each cell")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of CPU, after which no further cell begins")
    parser.add_argument("--table", action="store_true", help="write the stored numbers into docs/sfbc.md and draw them only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.table:
        cells = stored(OUT)
        write_between(PAGE, BEGIN, table(cells))
    else:
        work = {"free flight": free_flight, "SPH on as many": solver}
        work |= {f"{name}/{seed}": partial(cell, name, seed, given.updates) for seed in given.seeds for name in given.networks}
        cells = complete(OUT, work, given.minutes)
    plot(cells)


if __name__ == "__main__":
    main()
