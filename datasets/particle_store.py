"""The native file of particles: netCDF-4 with the dimensions (sample, time, particle, dim), as xarray users expect.

| variable         | dimensions                    | holds                                                              |
| ---------------- | ----------------------------- | ------------------------------------------------------------------ |
| position         | (sample, time, particle, dim) | where particles are, not wrapped into a periodic box               |
| velocity         | (sample, time, particle, dim) | left out by files of positions alone                               |
| density, pressure, energy | (sample, time, particle) | each where it is known; NaN at walls                         |
| mass             | (sample, particle)            | constant in time                                                   |
| particle_type    | (sample, particle)            | 0 fluid, 1 wall, 2 moving wall, 3 rigid body, -1 nobody            |
| support          | (sample)                      | radius of the kernels; beside it the recipe's parameters           |

Simulations of different numbers of particles share the dimension: the shorter ones are filled up at the end with
particles of type -1, whose numbers are NaN. Walls are particles that stay where they are; the velocity of a moving wall
is the one at which it slides along itself. The types are those of LagrangeBench's files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opkernels.datasets import store
from opkernels.domains import Domain
from opkernels.solvers.sph import ParticleTrajectory

__all__ = ["FLUID", "MOVING_WALL", "NOBODY", "WALL", "kinds_of", "layout_of", "padded", "particle_arrays", "read_particles"]

FLUID, WALL, MOVING_WALL, RIGID, NOBODY = 0, 1, 2, 3, -1
SCHEMA = "particles 1"

_DIMS = {
    "position": ("sample", "time", "particle", "dim"),
    "velocity": ("sample", "time", "particle", "dim"),
    "density": ("sample", "time", "particle"),
    "pressure": ("sample", "time", "particle"),
    "energy": ("sample", "time", "particle"),
    "mass": ("sample", "particle"),
    "particle_type": ("sample", "particle"),
}
_NEEDED = ("position", "mass", "particle_type")
_ATTRIBUTES = {
    "energy": {"long_name": "specific internal energy"},
    "particle_type": {
        "flag_values": np.array([NOBODY, FLUID, WALL, MOVING_WALL, RIGID], dtype=np.int8),
        "flag_meanings": "nobody fluid wall moving_wall rigid_body",
    },
}


def particle_arrays(run: ParticleTrajectory, dtype: str) -> dict[str, np.ndarray]:
    """Return one simulation as the arrays of a file without the axis of samples; walls come after the fluid."""
    x, v = run.positions, run.velocities
    n_times, n, d = x.shape
    wall = x.new_empty(0, d) if run.walls is None else run.walls.to(x)
    slide = torch.zeros_like(wall) if run.wall_velocities is None else run.wall_velocities.to(x)
    held = x.new_full((n_times, len(wall)), float("nan"))

    def both(values: torch.Tensor, beside: torch.Tensor) -> np.ndarray:
        return torch.cat([values, beside.to(values).expand(n_times, *beside.shape[-2:])], 1).numpy().astype(dtype)

    arrays = {"position": both(x, wall), "velocity": both(v, slide)}
    for name, values in (("density", run.densities), ("pressure", run.pressures), ("energy", run.energies)):
        if values is not None:
            arrays[name] = torch.cat([values, held], 1).numpy().astype(dtype)
    masses = run.particles.masses
    arrays["mass"] = torch.cat([masses, masses.mean().expand(len(wall))]).numpy().astype(dtype)
    kinds = [np.full(n, FLUID), np.where(slide.abs().sum(1) > 0, MOVING_WALL, WALL)]
    arrays["particle_type"] = np.concatenate(kinds).astype(np.int8)
    return arrays


def padded(name: str, array: np.ndarray, n: int) -> np.ndarray:
    """Fill the axis of particles up to n, of an array with all of its dimensions or without the samples."""
    axis = _DIMS[name].index("particle") + array.ndim - len(_DIMS[name])
    missing = n - array.shape[axis]
    if not missing:
        return array
    shape = (*array.shape[:axis], missing, *array.shape[axis + 1 :])
    return np.concatenate([array, np.full(shape, NOBODY if name == "particle_type" else np.nan, array.dtype)], axis)


def layout_of(
    domain: Domain,
    times: np.ndarray,
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    parameters: Mapping[str, np.ndarray],
    attributes: Mapping[str, object],
) -> store.Layout:
    """Return the layout of a file of `arrays`, given by their shapes and types; refuse what does not belong together."""
    shapes = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}
    samples, n_times, n, d = shapes["position"][0]
    sizes = {"sample": samples, "time": n_times, "particle": n, "dim": d}
    if d != domain.ndim or n_times != len(times):
        raise ValueError(
            f"got positions of shape {shapes['position'][0]} at {len(times)} times of a {domain.ndim}-D domain; expected (N, T, P, d)"
        )
    for name, (shape, _) in shapes.items():
        if name not in _DIMS or shape != tuple(sizes[dim] for dim in _DIMS[name]):
            raise ValueError(f"got {name} of shape {shape} beside positions {shapes['position'][0]}; the arrays are {', '.join(_DIMS)}")
    for name, values in parameters.items():
        if name in (*_DIMS, *sizes) or np.shape(values) != (samples,):
            raise ValueError(f"got the parameter {name} of shape {np.shape(values)}; give {samples} numbers, under a name of their own")
    coordinates = {
        "sample": (np.arange(samples), {"long_name": "number of the simulation"}),
        "time": (np.asarray(times, dtype=np.float64), store.time_attributes(times)),
        "particle": (np.arange(n), {"long_name": "number of the particle"}),
        "dim": (np.array(domain.names, dtype=object), {"long_name": "axis of the domain"}),
    }
    variables = {name: (_DIMS[name], *shapes[name], _ATTRIBUTES.get(name, {})) for name in _DIMS if name in shapes}
    told = {**attributes, **_axes_told(domain), "opkernels_schema": SCHEMA, "domain": json.dumps(domain.to_dict())}
    return store.Layout(samples, told, coordinates, parameters, variables)


def kinds_of(arrays: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return the shapes and types of arrays."""
    return {name: (tuple(array.shape), np.dtype(array.dtype)) for name, array in arrays.items()}


def _axes_told(domain: Domain) -> dict[str, object]:
    """Return the extent and kind of the axes for people; the domain is read from its own attribute."""
    return {
        "domain_min": [axis.lower for axis in domain.axes],
        "domain_max": [axis.upper for axis in domain.axes],
        "boundary_condition": ", ".join("periodic" if axis.periodic else "open or walls" for axis in domain.axes),
    }


def read_particles(path: str | os.PathLike) -> tuple[Domain, np.ndarray, dict[str, store.StoredArray], dict[str, np.ndarray], dict]:
    """Read the header of a file of particles, and its variables as arrays that read on demand.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or not of this layout.
    """
    with store.opened(path, "a file of particles made by opkernels") as file:
        return _contents(file, Path(path))


def _contents(file, path: Path):
    attributes = {key: store.plain(value) for key, value in file.attrs.items() if not key.startswith("_")}
    schema = attributes.pop("opkernels_schema", None)
    if schema == store.SCHEMA:
        raise ValueError(f"{path} holds fields on a grid; open it with opkernels.open_trajectories")
    if schema != SCHEMA:
        raise ValueError(f"{path} is not a file of particles of this version of opkernels; convert it, or read it with xarray")
    domain = Domain.from_dict(json.loads(attributes.pop("domain")))
    for name in ("domain_min", "domain_max", "boundary_condition", "Conventions"):
        attributes.pop(name, None)
    times = store.check_times(file["time"][:])
    parameters, arrays = {}, {}
    for name, item in file.items():
        if name in _DIMS:
            arrays[name] = _stored(path, name, item)
        elif not item.is_scale and item.shape == file["sample"].shape and item.dtype.kind in "fiu":
            parameters[name] = item[:]
    absent = [name for name in _NEEDED if name not in arrays] + ([] if "support" in parameters else ["support"])
    if absent:
        raise ValueError(f"{path} holds no {absent[0]}; a file of particles has {', '.join(_NEEDED)} and support")
    layout_of(domain, times, kinds_of(arrays), parameters, {})
    return domain, times, arrays, parameters, attributes


def _stored(path: Path, name: str, item) -> store.StoredArray:
    if item.dtype.kind not in "fi":
        raise ValueError(f"{path} stores {name} as {item.dtype}; expected real numbers")
    offset = item.id.get_offset() if item.chunks is None else None
    if offset is not None and offset + item.size * item.dtype.itemsize > path.stat().st_size:
        raise ValueError(f"{path} is cut short or damaged; copy it again, or generate it again")
    return store.StoredArray(str(path.resolve()), name, item.shape, item.dtype, offset)
