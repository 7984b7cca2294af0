"""One YAML file for one learned particle simulation: its flows, its network, its training; every mistake reported at once.

data: gas.nc                    # a file of particles (opkernels generate sfbc_gas -o gas.nc), or in its place
flow: compressible              # a name of opkernels.datasets.particle_flows, solved on the spot
frames: 65                      # per trajectory
train: 8                        # trajectories, seeds 0, 1, ...; of a file the first ones
test: 4                         # seeds 100, 101, ...; of a file the last ones
gravity: [0, -1]                # known acceleration, if there is one
model: {n_harmonics: 2, hidden_channels: [16, 32, 32]}         # arguments of SFBC
training: {steps: 2000, unroll: 3, lr: 3e-3, noise: 0.003}     # ParticleOptions
device: cuda                    # by default the CPU
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from opkernels.configuration import bounded, build, is_plain, override, read_yaml, refuse
from opkernels.datasets.particle_flows import PARTICLE_FLOWS, particle_flow
from opkernels.datasets.particle_trajectories import open_particles
from opkernels.models import SFBC
from opkernels.particles import ParticleSet
from opkernels.solvers.sph import ParticleTrajectory
from opkernels.training.parallel import usable_device
from opkernels.training.particles import ParticleOptions, ParticleStepper, fit_particles, frame_velocities

__all__ = ["ParticleConfig", "as_yaml", "build_stepper", "read_particle_config", "train_particles"]

_FIRST_TEST_SEED = 100
_SIZES = ("domain", "in_channels", "out_channels", "boundary_channels", "self")  # follow from the flow


@dataclass(frozen=True)
class ParticleConfig:
    """What `train_particles` needs.

    Parameters
    ----------
    flow : str
        A name of `PARTICLE_FLOWS`, where there are no `data`.
    data : str
        A file of particles.
    frames : int
        Frames of each trajectory that the network sees, at most.
    train, test : int
        Numbers of trajectories.
    particles : int, optional
        About so many in each of a flow; its usual number by default.
    position_gradients : bool
        See `ParticleStepper`.
    gravity : tuple of float
        See `ParticleStepper`.
    model : dict
        Arguments of `SFBC` but for the domain and the channels.
    training : ParticleOptions
    run_dir : str
        Where ``opkernels train`` keeps the run.
    device : str, optional
        Where the network is trained; by default the CPU.
    """

    flow: str = ""
    data: str = ""
    frames: int = bounded(65, at_least=2)
    train: int = bounded(8, at_least=1)
    test: int = bounded(4, at_least=0)
    particles: int | None = bounded(None, at_least=4)
    position_gradients: bool = True
    gravity: tuple[float, ...] = ()
    model: dict = field(default_factory=dict)
    training: ParticleOptions = field(default_factory=ParticleOptions)
    run_dir: str = ""
    device: str | None = None

    def trajectories(self, part: str) -> list[ParticleTrajectory]:
        """Solve or read the flows of a part, "train" or "test", as a `ParticleStepper` sees them."""
        if self.data:
            data = open_particles(self.data)
            if len(data) < self.train + self.test:
                raise ValueError(
                    f"{self.data} holds {len(data)} simulations; ask for at most so many, not train={self.train} and test={self.test}"
                )
            found = data[: self.train] if part == "train" else data[len(data) - self.test :]
            return [_first_frames(frame_velocities(run), self.frames) for run in found]
        seeds = range(self.train) if part == "train" else range(_FIRST_TEST_SEED, _FIRST_TEST_SEED + self.test)
        return [frame_velocities(particle_flow(self.flow, s, n_frames=self.frames + 1, n_particles=self.particles)) for s in seeds]


def _first_frames(run: ParticleTrajectory, n: int) -> ParticleTrajectory:
    cut = {name: getattr(run, name)[:n] for name in ("times", "positions", "velocities", "densities", "pressures")}
    return replace(run, energies=None if run.energies is None else run.energies[:n], **cut)


def read_particle_config(path: str | Path, overrides: Sequence[str] = (), **changes) -> ParticleConfig:
    """Read a configuration.

    Parameters
    ----------
    path : path
        A YAML file.
    overrides : sequence of str
        ``key=value``, with dots between the parts of the key.
    changes
        Replace top-level entries.

    Raises
    ------
    ValueError
        If the file is no mapping, or has unknown entries or values of the wrong kind: all of them in one message.
    """
    path, mistakes = Path(path), []
    raw = read_yaml(path, ParticleConfig)
    for assignment in overrides:
        raw = override(raw, assignment, mistakes)
    raw = raw | changes
    config = build(ParticleConfig, raw, mistakes)
    model = raw.get("model", {})
    if isinstance(model, Mapping):
        arguments = set(inspect.signature(SFBC.__init__).parameters) - set(_SIZES)
        mistakes += [f"model.{key}: is unknown; {_hint(str(key), arguments)}" for key in model if key not in arguments]
        mistakes += ["model: holds something that is not plain data"] if not is_plain(model) else []
    if raw.get("data") and raw.get("flow"):
        mistakes.append("flow, data: are both given; name one of them")
    elif not raw.get("data") and raw.get("flow") not in PARTICLE_FLOWS:
        mistakes.append(f"flow: got {raw.get('flow')!r}; choose one of {', '.join(PARTICLE_FLOWS)}, or name a file as data")
    refuse(str(path), mistakes)
    assert config is not None, "mistakes were refused"
    return config


def _hint(name: str, names: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(names), 1)
    return f"did you mean {close[0]}?" if close else f"choose one of {', '.join(sorted(names))}"


def as_yaml(config: ParticleConfig) -> str:
    """Return a configuration as YAML that `read_particle_config` reads."""
    import yaml

    plain = dataclasses.asdict(config)
    plain["gravity"] = list(config.gravity)
    return yaml.safe_dump({key: value for key, value in plain.items() if value not in ("", None, [])}, sort_keys=False)


def build_stepper(config: ParticleConfig, flows: Sequence[ParticleTrajectory]) -> ParticleStepper:
    """Return the untrained stepper of a configuration on its device, with the scales and the walls of its training flows."""
    first = flows[0]
    domain, d = first.particles.domain, first.particles.ndim
    torch.manual_seed(config.training.seed)
    walls = {}
    if first.walls is not None:
        if any(run.walls is None or not torch.equal(run.walls, first.walls) for run in flows):
            raise ValueError("got training flows with different walls; a stepper knows one set of walls")
        masses = first.particles.masses.mean()
        walls["boundary"] = ParticleSet(first.walls, masses.expand(len(first.walls)), first.particles.support, domain)
        walls["boundary_velocities"] = first.wall_velocities
    model = SFBC(domain, 1 + d, d, boundary_channels=1 + d if walls else 0, **config.model)
    stepper = ParticleStepper.from_frames(model, flows, gravity=config.gravity, position_gradients=config.position_gradients, **walls)
    return stepper.to(usable_device(config.device or "cpu"))


def train_particles(config: ParticleConfig) -> tuple[ParticleStepper, list[float]]:
    """Solve the training flows of a configuration and train its network on them; return it and the losses."""
    flows = config.trajectories("train")
    stepper = build_stepper(config, flows)
    return stepper, fit_particles(stepper, flows, config.training)
