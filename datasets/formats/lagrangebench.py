"""LagrangeBench's folders: metadata.json beside train.h5, valid.h5 and test.h5, without jax and without running force.py.

Each h5 file holds the groups 00000, 00001, ...: ``position`` (T, P, d), float32, and ``particle_type`` (P,): 0 fluid,
1 wall, 2 moving wall, 3 rigid body, -1 padding, the types of our own files. metadata.json tells dt, write_every (1 if it
is absent), dx, bounds, periodic_boundary_conditions, default_connectivity_radius, and statistics of velocities
(displacements of one frame, nearest image) and accelerations (their differences) of fluid particles.

The folder may hold force.py, which LagrangeBench runs when it reads; we do not: give the force to `ParticleStepper` as
gravity. Masses are not in the files: density 1 is assumed, and masses dx^d.

Source: Toshev et al., NeurIPS 2023, arXiv 2309.16342; https://github.com/tumaer/lagrangebench (MIT licence).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np

from opkernels.datasets import store
from opkernels.datasets.particle_store import NOBODY, padded
from opkernels.datasets.particle_trajectories import ParticleTrajectories
from opkernels.domains import Axis, Domain
from opkernels.storage import write_atomically, write_text

__all__ = ["read_lagrangebench", "write_lagrangebench"]

_PARTS = ("train", "valid", "test")
_KIND = "a file of LagrangeBench, such as 2D_TGV_2500_10kevery100/train.h5"


def read_lagrangebench(folder: str | PathLike, part: str = "train") -> ParticleTrajectories:
    """Read one part of a LagrangeBench folder.

    Parameters
    ----------
    folder : path
    part : {"train", "valid", "test"}

    Returns
    -------
    ParticleTrajectories
        Positions as stored, in memory, with the support default_connectivity_radius; the metadata are in ``attributes``.
        Velocities are made of positions when a simulation is asked for.

    Raises
    ------
    ValueError
        If the folder or a file is missing, damaged, or of another kind.
    """
    folder = Path(folder)
    if part not in _PARTS:
        raise ValueError(f"read_lagrangebench got part={part!r}; choose one of {', '.join(_PARTS)}")
    told = _metadata(folder / "metadata.json")
    with store.opened(folder / f"{part}.h5", _KIND) as file:
        names = sorted(file)
        runs = [(file[name]["position"][:], file[name]["particle_type"][:]) for name in names]
    _check(runs, told, folder / f"{part}.h5")
    n = max(len(kinds) for _, kinds in runs)
    kinds = np.stack([padded("particle_type", kinds.astype(np.int8), n) for _, kinds in runs])
    arrays = {
        "position": np.stack([padded("position", x, n) for x, _ in runs]),
        "mass": np.where(kinds == NOBODY, np.nan, told["dx"] ** told["dim"]).astype(np.float32),
        "particle_type": kinds,
    }
    times = np.arange(arrays["position"].shape[1]) * told["dt"] * told.get("write_every", 1)
    support = np.full(len(runs), float(told["default_connectivity_radius"]))
    title = str(told.get("case", folder.name))
    return ParticleTrajectories(_domain(told), times, arrays, {"support": support}, {"title": title, "lagrangebench": json.dumps(told)})


def _metadata(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a folder of LagrangeBench, with metadata.json beside train.h5")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        numbers = [float(told[key]) for key in ("dt", "dx", "default_connectivity_radius")] + [float(told.get("write_every", 1))]
        right = min(numbers) > 0 and np.isfinite(numbers).all() and told["dim"] in (1, 2, 3)
        right = right and len(told["bounds"]) == len(told["periodic_boundary_conditions"]) == told["dim"]
        _domain(told)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or of another kind ({type(error).__name__}: {error}); copy it again") from error
    if not right:
        raise ValueError(f"{path} holds numbers that cannot be (dim, dt, dx, bounds or the radius); copy it again")
    return told


def _domain(told: Mapping) -> Domain:
    sides = zip("xyz", told["bounds"], told["periodic_boundary_conditions"], strict=False)
    return Domain(tuple(Axis(float(a), float(b), periodic=bool(around), name=name) for name, (a, b), around in sides))


def _check(runs: list, told: Mapping, path: Path) -> None:
    if not runs:
        raise ValueError(f"{path} holds no simulation; expected the groups 00000, 00001, ...")
    for x, kinds in runs:
        if (
            x.ndim != 3
            or kinds.shape != x.shape[1:2]
            or x.shape[2] != told["dim"]
            or x.shape[0] != runs[0][0].shape[0]
            or x.dtype.kind != "f"
        ):
            raise ValueError(
                f"{path} holds positions {x.dtype} {x.shape} of particles {kinds.shape}; expected floats "
                f"({runs[0][0].shape[0]}, P, {told['dim']}) and (P,)"
            )


def write_lagrangebench(
    data: ParticleTrajectories, folder: str | PathLike, *, split: tuple[float, float] = (0.5, 0.25), metadata: Mapping | None = None
) -> None:
    """Write a folder that LagrangeBench reads.

    Parameters
    ----------
    data : ParticleTrajectories
        At equal intervals. Positions are wrapped into periodic boxes, as there.
    folder : path
    split : tuple of float
        Shares of train and valid; the rest is test. Theirs are 2:1:1.
    metadata : mapping, optional
        Added to metadata.json, or in place of what is found: solver, viscosity, dt and write_every, description, ...

    Raises
    ------
    ValueError
        If times are not equally spaced, or a part would be empty.
    """
    folder, n = Path(folder), len(data)
    ends = [0, round(split[0] * n), round((split[0] + split[1]) * n), n]
    steps = np.diff(data.times)
    if not len(steps) or not np.allclose(steps, steps[0]):
        raise ValueError("write_lagrangebench got times that are not equally spaced; give frames at one interval")
    if any(b <= a for a, b in zip(ends, ends[1:], strict=False)):
        raise ValueError(
            f"write_lagrangebench got {n} simulations to split as {split}; leave at least one for each of train, valid and test"
        )
    parts = {part: data[a:b] for part, a, b in zip(_PARTS, ends, ends[1:], strict=False)}
    for part, some in parts.items():
        write_atomically(folder / f"{part}.h5", lambda path, some=some: _write_part(path, some))
    told = _describe(data, parts) | dict(metadata or {})
    write_text(folder / "metadata.json", json.dumps(told, indent=1))


def _write_part(path: Path, data: ParticleTrajectories) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for at, (x, kinds) in enumerate(_raw(data)):
            group = file.create_group(f"{at:05d}")
            group.create_dataset("position", data=x, compression="gzip")
            group.create_dataset("particle_type", data=kinds.astype(np.int32))


def _raw(data: ParticleTrajectories):
    """Yield positions as stored, wrapped, and types, without the padding."""
    for row in data.rows:
        kinds = np.asarray(data.arrays["particle_type"][row])
        x = np.array(data.arrays["position"][row])[:, kinds != NOBODY]
        for a, axis in enumerate(data.domain.axes):
            outside = (x[..., a] < axis.lower) | (x[..., a] >= axis.upper)
            if axis.periodic and outside.any():
                x[..., a] = np.where(outside, axis.lower + np.mod(x[..., a] - axis.lower, axis.length), x[..., a])
        yield x.astype(np.float32), kinds[kinds != NOBODY]


def _describe(data: ParticleTrajectories, parts: Mapping[str, ParticleTrajectories]) -> dict:
    first, d = data[0], data.domain.ndim
    velocities = np.concatenate([run.positions.diff(dim=0).reshape(-1, d).numpy() for run in parts["train"]])
    accelerations = np.concatenate([run.positions.diff(n=2, dim=0).reshape(-1, d).numpy() for run in parts["train"]])
    frames = len(data.times)
    return {
        "dim": d,
        "dx": float(first.particles.masses.mean() ** (1 / d)),
        "dt": float(np.diff(data.times).mean()),
        "write_every": 1,
        "t_end": float(data.times[-1]),
        "sequence_length_train": frames,
        "sequence_length_test": frames,
        "num_trajs_train": len(parts["train"]),
        "num_trajs_test": len(parts["test"]),
        "num_particles_max": int(max((np.asarray(data.arrays["particle_type"][row]) != NOBODY).sum() for row in data.rows)),
        "periodic_boundary_conditions": [axis.periodic for axis in data.domain.axes],
        "bounds": [[axis.lower, axis.upper] for axis in data.domain.axes],
        "default_connectivity_radius": 1.45 * float(first.particles.masses.mean() ** (1 / d)),
        "vel_mean": velocities.mean(0).tolist(),
        "vel_std": velocities.std(0).tolist(),
        "acc_mean": accelerations.mean(0).tolist() if frames > 2 else [0.0] * d,
        "acc_std": accelerations.std(0).tolist() if frames > 2 else [0.0] * d,
        "solver": str(data.attributes.get("source", "")),
        "description": str(data.attributes.get("title", "")),
    }
