"""Runs of learned particle simulations: a folder with configuration, checkpoint, losses and the trained stepper.

| file                 | holds                                                             |
| -------------------- | ----------------------------------------------------------------- |
| config.yaml          | the configuration, complete                                       |
| last.safetensors     | weights, Adam's moments, random numbers: what resuming needs       |
| losses.csv           | the loss of each update                                           |
| stepper.safetensors  | the trained simulation, for `load_stepper`                        |
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from opkernels.storage import write_text
from opkernels.training.parallel import usable_device
from opkernels.training.particle_config import ParticleConfig, as_yaml, build_stepper, read_particle_config
from opkernels.training.particle_files import load_stepper, save_stepper
from opkernels.training.particles import ParticleStepper, fit_particles

__all__ = ["LAST", "STEPPER", "load_particle_run", "run", "train_run"]

LAST, STEPPER = "last.safetensors", "stepper.safetensors"


def run(source: Path, arguments: argparse.Namespace, resume: bool) -> None:
    """Run ``opkernels train`` for a configuration of particles; `source` is its file."""
    config = read_particle_config(source, arguments.overrides)
    if Path(arguments.config).is_dir():  # wherever it was made, moved or copied to
        config = replace(config, run_dir=str(Path(arguments.config)))
    elif not config.run_dir:
        config = replace(config, run_dir=str(Path("runs") / source.stem))
    train_run(_with_data(config, source.parent), resume=resume, quiet=arguments.quiet)


def _with_data(config: ParticleConfig, base: Path) -> ParticleConfig:
    """Find the data from here, or beside the configuration."""
    found = next((p.resolve() for p in (Path(config.data), base / config.data) if config.data and p.exists()), None)
    return config if found is None else replace(config, data=str(found))


def train_run(config: ParticleConfig, *, resume: bool = False, quiet: bool = False) -> ParticleStepper:
    """Train a configuration in its folder, from its checkpoint if asked to, and return the stepper.

    Raises
    ------
    ValueError
        If the folder already holds a run and `resume` is false, the device is absent, or as `fit_particles`.
    """
    folder = Path(config.run_dir)
    if (folder / LAST).exists() and not resume:
        raise ValueError(f"{folder} already holds a run; add --resume to go on with it, or choose another folder with run_dir=NAME")
    usable_device(config.device or "cpu")  # before the flows are solved
    flows = config.trajectories("train")
    stepper = build_stepper(config, flows)
    write_text(folder / "config.yaml", as_yaml(config))
    start, steps = time.monotonic(), config.training.steps

    def report(update: int, loss: float) -> None:
        if not quiet and (update + 1) % max(1, steps // 10) == 0:
            print(f"update {update + 1} of {steps}: loss {loss:.4g}, {time.monotonic() - start:.0f} s", flush=True)

    losses = fit_particles(stepper, flows, config.training, on_step=report, checkpoint=folder / LAST)
    write_text(folder / "losses.csv", "update,loss\n" + "".join(f"{i},{loss!r}\n" for i, loss in enumerate(losses)))
    save_stepper(stepper, folder / STEPPER)
    if not quiet:
        print(f"{folder}: {sum(p.numel() for p in stepper.parameters())} weights, {len(flows)} flows")
        print(f"next: opkernels rollout {folder}")
    return stepper


def load_particle_run(folder: Path) -> tuple[ParticleStepper, ParticleConfig]:
    """Return the stepper of a run folder and its configuration."""
    if not (folder / STEPPER).is_file():
        raise ValueError(f"{folder} holds no trained simulation yet; go on with opkernels train {folder} --resume")
    return load_stepper(folder), read_particle_config(folder / "config.yaml")
