"""Recipes of particle data: YAML that says which flow is solved for which seeds; every mistake told at once.

| key        | meaning                                                                    | example                              |
| ---------- | -------------------------------------------------------------------------- | ------------------------------------ |
| flow       | a name of `PARTICLE_FLOWS` and its arguments: numbers or laws per sample    | {name: dam_break, width: 0.5} |
| times      | output times, a list or ``start, stop, count``                              | {stop: 1.28, count: 65}              |
| resolution | distance of neighboring particles at the start                              | 0.05                                 |
| samples    | number of simulations                                                      | 16                                   |
| seed       | whole number; every simulation is a function of it and of its own number    | 0                                    |
| dtype      | float32 or float64: of the stored numbers; solvers use float64              | float32                              |
| batch      | simulations stored as one shard                                            | 4                                    |
| title, references | text, kept in the file                                              |                                      |

Each simulation is solved alone, so its numbers depend neither on the others nor on how many there are.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from opkernels.datasets.arguments import Law
from opkernels.datasets.expressions import constant
from opkernels.datasets.particle_flows import PARTICLE_FLOWS
from opkernels.datasets.particle_trajectories import ParticleTrajectories
from opkernels.datasets.realization import draw
from opkernels.datasets.recipe_files import load_data
from opkernels.datasets.recipe_values import Mistakes, hint, read_dtype, read_law, read_times, whole
from opkernels.solvers import SolverError
from opkernels.solvers.sph import ParticleTrajectory

__all__ = [
    "ParticleRecipe",
    "bytes_of_a_simulation",
    "draw_arguments",
    "first_frame",
    "read_particle_recipe",
    "solve_particles",
    "solve_shard",
]

_REQUIRED = {
    "flow": "{name: taylor_green, viscosity: 0.01}",
    "times": "{stop: 1, count: 51}",
    "resolution": "0.05",
    "samples": "16",
}
_OPTIONS = {  # key: (reader, default)
    "seed": (lambda value: whole(value, "seed", 0), 0),
    "dtype": (read_dtype, "float32"),
    "batch": (lambda value: whole(value, "batch", 1), 4),
    "title": (str, ""),
    "references": (str, ""),
}
_STREAM = 0x9A7C  # tells the seeds of simulations from those of laws


@dataclass(frozen=True)
class ParticleRecipe:
    """A checked recipe of particles; `plain` is the data it came from, with every default filled in.

    Parameters
    ----------
    flow : str
        A name of `PARTICLE_FLOWS`.
    arguments : dict of str to float
        Its arguments that are the same for all simulations.
    parameters : dict of str to Law
        Those that differ.
    spacing : float
    times : tuple of float
    samples, seed, batch : int
    dtype : str
    """

    flow: str
    arguments: Mapping[str, float]
    parameters: Mapping[str, Law]
    spacing: float
    times: tuple[float, ...]
    samples: int
    seed: int
    batch: int
    dtype: str
    plain: Mapping[str, object] = field(repr=False)

    checked = 0  # simulations whose error is measured: of particles there is no better solution of the same start

    @property
    def shards(self) -> list[range]:
        """The simulations of each shard."""
        return [range(first, min(first + self.batch, self.samples)) for first in range(0, self.samples, self.batch)]


def read_particle_recipe(recipe: str | os.PathLike | Mapping) -> ParticleRecipe:
    """Read and check a recipe of particles.

    Raises
    ------
    ValueError
        With every mistake found.
    """
    data, mistakes = load_data(recipe), Mistakes()
    known = [*_REQUIRED, *_OPTIONS]
    mistakes.extend(f"there is no key {key}; {hint(str(key), known)}" for key in data if key not in known)
    mistakes.extend(f"the key {key} is missing; add for instance {key}: {told}" for key, told in _REQUIRED.items() if data.get(key) is None)
    values = {key: mistakes.of(read, data.get(key, default)) for key, (read, default) in _OPTIONS.items()}
    readers = {"flow": _flow, "times": read_times, "resolution": _spacing, "samples": lambda value: whole(value, "samples", 1)}
    values |= {key: mistakes.of(read, data[key]) for key, read in readers.items() if data.get(key) is not None}
    mistakes.refuse(recipe)
    name, given = values.pop("flow")
    del values["title"], values["references"]
    values["spacing"] = values.pop("resolution")
    plain = {key: data[key] for key in ("flow", "times")} | {key: data.get(key, default) for key, (_, default) in _OPTIONS.items()}
    plain |= {"resolution": values["spacing"], "samples": values["samples"], "seed": values["seed"], "batch": values["batch"]}
    laws = {key: value for key, value in given.items() if isinstance(value, Law)}
    checked = ParticleRecipe(name, {key: value for key, value in given.items() if key not in laws}, laws, plain=plain, **values)
    for end in (min, max):
        mistakes.of(first_frame, checked, {key: float(end(law.values)) for key, law in laws.items()})
        mistakes.refuse(recipe)
    return checked


def _flow(value) -> tuple[str, dict[str, float | Law]]:
    """Return the name of a flow and its arguments."""
    value = {"name": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping) or "name" not in value:
        raise ValueError(f"flow is {value!r}; give its name and arguments, for instance {_REQUIRED['flow']}")
    if value["name"] not in PARTICLE_FLOWS:
        raise ValueError(f"flow.name is {value['name']!r}; {hint(str(value['name']), PARTICLE_FLOWS)}")
    keywords = inspect.signature(PARTICLE_FLOWS[value["name"]].solve).parameters.values()
    known = [p.name for p in keywords if p.kind is inspect.Parameter.KEYWORD_ONLY]
    arguments = {}
    for key in value:
        if key not in ("name", *known):
            raise ValueError(f"{value['name']} takes no flow.{key}; {hint(str(key), known) if known else 'it has no arguments'}")
        if key != "name":
            what = f"flow.{key}"
            arguments[key] = read_law(value[key], what) if isinstance(value[key], Mapping) else constant(value[key], what)
    return value["name"], arguments


def _spacing(value) -> float:
    number = constant(value, "resolution")
    if not 0 < number < 1:
        raise ValueError(f"resolution is {value!r}; for particles it is the distance of neighbors, such as {_REQUIRED['resolution']}")
    return float(number)


def first_frame(recipe: ParticleRecipe, drawn: Mapping[str, float] | None = None) -> ParticleTrajectory:
    """Return the first frame alone, for given arguments or the largest; what flow and solver refuse is told before any work."""
    drawn = {name: float(max(law.values)) for name, law in recipe.parameters.items()} if drawn is None else drawn
    return PARTICLE_FLOWS[recipe.flow].solve(recipe.spacing, torch.Generator().manual_seed(0), [0.0], **recipe.arguments, **drawn)


def bytes_of_a_simulation(recipe: ParticleRecipe) -> int:
    """Return about how much one simulation takes in a file."""
    run = first_frame(recipe)
    n, d = run.particles.positions.shape
    n += 0 if run.walls is None else len(run.walls)
    return len(recipe.times) * n * (2 * d + 2) * np.dtype(recipe.dtype).itemsize


def draw_arguments(recipe: ParticleRecipe, samples: range) -> dict[str, np.ndarray]:
    """Return the arguments that differ between simulations, (len(samples),) each."""
    return {name: draw(law, recipe.seed, name, samples) for name, law in recipe.parameters.items()}


def solve_particles(recipe: ParticleRecipe, sample: int) -> ParticleTrajectory:
    """Solve one simulation of a recipe.

    Raises
    ------
    ValueError
        What the solver refuses; the message names the simulation.
    """
    drawn = {name: float(values[0]) for name, values in draw_arguments(recipe, range(sample, sample + 1)).items()}
    seed = int(np.random.SeedSequence([recipe.seed, _STREAM, sample]).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            return PARTICLE_FLOWS[recipe.flow].solve(recipe.spacing, generator, list(recipe.times), **recipe.arguments, **drawn)
    except SolverError as error:
        raise ValueError(f"{recipe.flow}: simulation {sample}: {error}") from error


def solve_shard(recipe: ParticleRecipe, samples: range) -> dict[str, torch.Tensor]:
    """Return the arrays of a file for some simulations, and their supports."""
    data = ParticleTrajectories.from_trajectories([solve_particles(recipe, sample) for sample in samples], dtype=recipe.dtype)
    return {name: torch.from_numpy(array) for name, array in (data.arrays | data.parameters).items()}
