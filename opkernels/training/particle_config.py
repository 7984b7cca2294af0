"""One YAML file for one learned particle simulation: its flow, its network, its training; every mistake reported at once.

flow: compressible              # a name of opkernels.datasets.particle_flows
frames: 65                      # per trajectory
train: 8                        # trajectories, seeds 0, 1, ...
test: 4                         # seeds 100, 101, ...
model: {n_harmonics: 2, hidden_channels: [16, 32, 32]}         # arguments of SFBC
training: {steps: 2000, unroll: 3, lr: 3e-3, noise: 0.003}     # ParticleOptions
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from opkernels.datasets.particle_flows import PARTICLE_FLOWS, particle_flow
from opkernels.models.sfbc import SFBC
from opkernels.solvers.sph import ParticleTrajectory
from opkernels.training.particles import ParticleOptions, ParticleStepper, fit_particles, frame_velocities

__all__ = ["ParticleConfig", "read_particle_config", "train_particles"]

_FIRST_TEST_SEED = 100
_SIZES = ("domain", "in_channels", "out_channels", "boundary_channels", "self")  # follow from the flow


@dataclass(frozen=True)
class ParticleConfig:
    """What `train_particles` needs.

    Parameters
    ----------
    flow : str
        A name of `PARTICLE_FLOWS`.
    frames : int
        Frames of each trajectory that the network sees.
    train, test : int
        Numbers of trajectories.
    particles : int, optional
        About so many in each; the flow's usual number by default.
    position_gradients : bool
        See `ParticleStepper`.
    model : dict
        Arguments of `SFBC` but for the domain and the channels.
    training : ParticleOptions
    """

    flow: str
    frames: int = 65
    train: int = 8
    test: int = 4
    particles: int | None = None
    position_gradients: bool = True
    model: dict = field(default_factory=dict)
    training: ParticleOptions = field(default_factory=ParticleOptions)

    def trajectories(self, part: str) -> list[ParticleTrajectory]:
        """Solve the flows of a part, "train" or "test"."""
        seeds = range(self.train) if part == "train" else range(_FIRST_TEST_SEED, _FIRST_TEST_SEED + self.test)
        return [frame_velocities(particle_flow(self.flow, s, n_frames=self.frames + 1, n_particles=self.particles)) for s in seeds]


def read_particle_config(path: str | Path, **changes) -> ParticleConfig:
    """Read a configuration; `changes` replace top-level entries.

    Raises
    ------
    ValueError
        If the file is no mapping, or has unknown entries or values of the wrong kind: all of them in one message.
    """
    import yaml

    content = yaml.safe_load(Path(path).read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a mapping; write entries such as `flow: compressible`")
    content = content | changes
    fields = {f.name for f in dataclasses.fields(ParticleConfig)}
    options = {f.name for f in dataclasses.fields(ParticleOptions)}
    arguments = set(inspect.signature(SFBC.__init__).parameters) - set(_SIZES)
    mistakes = _unknown("", content, fields)
    for part, names in (("model", arguments), ("training", options)):
        value = content.get(part, {})
        mistakes += _unknown(f"{part}.", value, names) if isinstance(value, dict) else [f"{part} is not a mapping"]
    if content.get("flow") not in PARTICLE_FLOWS:
        mistakes.append(f"flow is {content.get('flow')!r}, not one of {', '.join(PARTICLE_FLOWS)}")
    for name, least in (("frames", 2), ("train", 1), ("test", 0), ("particles", 4)):
        value = content.get(name)
        if value is not None and not (type(value) is int and value >= least):
            mistakes.append(f"{name} is {value!r}, not a whole number of at least {least}")
    if mistakes:
        raise ValueError(f"{path}: {'; '.join(mistakes)}")
    training: dict[str, Any] = dict(content.get("training", {}))
    for key in ("lr", "noise", "gradient_clip"):  # YAML takes 3e-3 for a word
        if key in training:
            training[key] = float(training[key])
    entries: dict[str, Any] = content | {"training": ParticleOptions(**training)}
    return ParticleConfig(**entries)


def _unknown(where: str, content: dict, names: set[str]) -> list[str]:
    mistakes = []
    for key in content:
        if key not in names:
            close = difflib.get_close_matches(str(key), sorted(names), 1)
            mistakes.append(f"{where}{key} is unknown" + (f"; did you mean {close[0]}?" if close else ""))
    return mistakes


def train_particles(config: ParticleConfig) -> tuple[ParticleStepper, list[float]]:
    """Solve the training flows of a configuration and train its network on them; return it and the losses."""
    flows = config.trajectories("train")
    domain = flows[0].particles.domain
    torch.manual_seed(config.training.seed)
    model = SFBC(domain, 1 + domain.ndim, domain.ndim, **config.model)
    stepper = ParticleStepper.from_frames(model, flows, position_gradients=config.position_gradients)
    return stepper, fit_particles(stepper, flows, config.training)
