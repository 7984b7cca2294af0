"""The command ``opkernels rollout RUN`` for learned particle simulations: figures, a file, an animation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from opkernels.datasets.particle_trajectories import ParticleTrajectories, open_particles
from opkernels.evaluation.animation import animate_particles
from opkernels.evaluation.particles import compare_particles, position_mse
from opkernels.solvers.sph import ParticleTrajectory
from opkernels.storage import write_text
from opkernels.training.parallel import usable_device
from opkernels.training.particle_config import ParticleConfig
from opkernels.training.particle_runs import load_particle_run
from opkernels.training.particles import ParticleStepper, frame_velocities

__all__ = ["roll_out", "run"]

_HORIZONS = (1, 5, 10, 20, 50)


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Roll out the simulation of a run folder from the first frames of its test flows; `arguments` as ``opkernels rollout`` has."""
    device = usable_device(arguments.device)
    stepper, config = load_particle_run(folder)
    stepper.to(device)
    flows, part = _flows(config, arguments)
    runs = [roll_out(stepper, flow, len(flow) - 1 if arguments.steps is None else arguments.steps) for flow in flows]
    output = Path(arguments.output or folder / "rollout")
    text = f"SFBC in {folder}, on {part}\n{_table(runs, flows)}"
    print(text)
    write_text(output / "rollout.txt", text + "\n")
    ParticleTrajectories.from_trajectories(runs, attributes={"title": f"rollouts of {folder}"}).save(output / "rollout.nc")
    animate_particles(runs[0], output / "particles.gif", truth=flows[0])
    print(f"\nwritten to {output}: rollout.txt, rollout.nc, particles.gif")


def roll_out(stepper: ParticleStepper, flow: ParticleTrajectory, n_steps: int) -> ParticleTrajectory:
    """Return the simulation that begins at the first frame of a flow, in float64; densities and pressures are left at 1 and 0.

    Parameters
    ----------
    flow : ParticleTrajectory
        Of `frame_velocities`.
    n_steps : int
        Frames after the first, also more than the flow has.
    """
    if n_steps < 1:
        raise ValueError(f"got {n_steps} steps; give at least 1")
    weight = next(stepper.parameters())
    start = flow.frame(0).replace(densities=None).to(weight.dtype).to(weight.device)
    x, v = (frames.double().cpu() for frames in stepper.rollout(start, flow.velocities[0].to(weight), n_steps))
    times = tuple(flow.times[0] + stepper.dt * n for n in range(n_steps + 1))
    ones = torch.ones_like(x[..., 0])
    return replace(flow, times=times, positions=x, velocities=v, densities=ones, pressures=0 * ones, energies=None)


def _flows(config: ParticleConfig, arguments: argparse.Namespace) -> tuple[list[ParticleTrajectory], str]:
    if arguments.resolution is not None:
        raise ValueError(
            "--resolution is for fields on grids; particles keep the spacing of their data, so give finer ones with --data FILE"
        )
    if arguments.samples is not None and arguments.samples < 1:
        raise ValueError(f"got --samples {arguments.samples}; give at least 1")
    if arguments.part == "validation":
        raise ValueError("a particle run puts no samples aside for validation; choose --part test or --part train")
    if arguments.data:
        flows, part = [frame_velocities(run) for run in open_particles(arguments.data)[: arguments.samples]], str(arguments.data)
    else:
        part = arguments.part or ("test" if config.test else "train")
        flows = config.trajectories(part)[: arguments.samples]
        part = f"{len(flows)} {'test flows' if part == 'test' else 'flows it was trained on'}"
    return flows, part


def _table(runs: Sequence[ParticleTrajectory], flows: Sequence[ParticleTrajectory]) -> str:
    """Return the figures of all rollouts as a table: means over the flows, beside free flight."""
    rows, free, ends = [], [], []
    for run, flow in zip(runs, flows, strict=True):
        n = min(len(run), len(flow))
        rows.append(compare_particles(run.positions[:n], run.velocities[:n], flow, horizons=_HORIZONS))
        dt = (torch.tensor(flow.times[:n], dtype=torch.float64) - flow.times[0])[:, None, None]
        error = position_mse(flow.positions[0] + dt * flow.velocities[0], flow.positions[:n], flow.particles.domain)
        free.append({f"mse@{h}": float(error[1 : h + 1].mean()) for h in _HORIZONS if h < n})
        ends.append(rows[-1]["energy"][-1] / rows[-1]["true_energy"][-1])
    known = min(len(flows[0]), len(runs[0])) - 1
    lines = [f"{len(runs[0]) - 1} steps of {runs[0].times[1] - runs[0].times[0]:.4g}; {known} of them have a truth", ""]
    lines.append(f"{'mean squared error of positions':<36}{'network':>12}{'free flight':>14}")
    for h in _HORIZONS:
        if f"mse@{h}" in rows[0]:
            name = f"over the first {h} steps" if h > 1 else "after one step"
            lines.append(f"  {name:<34}{_mean(rows, f'mse@{h}'):>12.3e}{_mean(free, f'mse@{h}'):>14.3e}")
    lines.append(f"{'kinetic energy over the truth, last':<36}{sum(ends) / len(ends):>12.3f}")
    for name, told in (("density_error", "error of density, last"), ("momentum", "change of momentum, largest")):
        lines.append(f"{told:<36}{_mean(rows, name):>12.3e}")
    return "\n".join(lines)


def _mean(rows: Sequence[dict], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
