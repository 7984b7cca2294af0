"""HDF5 files of the SFBC paper: case I (gas on a line, all frames in one array) and cases II, III (one group per frame).

| case    | arrays                                                                                                       |
| ------- | ------------------------------------------------------------------------------------------------------------ |
| I       | ``simulationData``: fluidPosition, fluidVelocities, fluidDensity, fluidPressure (T, N[, 1]), fluidAreas (T, N)  |
| II, III | ``simulationExport/00000``, ...: fluidPosition, fluidVelocity (N, d), fluidDensity, fluidArea, attribute time;   |
|         | ``boundaryInformation`` (may be absent): boundaryPosition, boundaryVelocity (M, d)                             |

Positions are not wrapped. Masses are area times density at the first frame (in case I the areas alone, as its scheme
sums areas into densities). The support is the attribute particleSupport (I), or the largest fluidSupport.

What is written comes back the same: flows on a line as case I, others as case II. The insides of the published solvers
(dudt, the stages, finalPosition, normals of walls) are in no trajectory and are left out; loaders that need them
cannot take these files.

Source: Winchenbach and Thuerey, ICLR 2024, arXiv 2403.16680; layouts as their loaders read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from opkernels.datasets import store
from opkernels.datasets.particle_trajectories import ParticleTrajectories
from opkernels.domains import Axis, Domain
from opkernels.particles import ParticleSet
from opkernels.solvers.sph import ParticleTrajectory
from opkernels.storage import write_atomically

__all__ = ["read_sfbc", "write_sfbc"]


def read_sfbc(path: str | PathLike, *, domain: Domain | None = None) -> ParticleTrajectories:
    """Read one simulation of case I, II or III.

    Parameters
    ----------
    path : path
    domain : Domain, optional
        Needed for cases II and III, whose files do not tell theirs; case I is the periodic line of its attributes.

    Raises
    ------
    ValueError
        If the file is missing, damaged or of another kind, or the domain is needed.
    """
    path = Path(path)
    with store.opened(path, "a file of the SFBC data") as file:
        if "simulationExport" in file:
            if domain is None:
                raise ValueError(f"{path} does not tell its domain; give read_sfbc(path, domain=Domain.box(...))")
            run = _frames(file, domain, path)
        elif "simulationData" in file and "fluidPosition" in file["simulationData"]:
            run = _line(file, domain)
        else:
            raise ValueError(f"{path} holds neither simulationExport nor simulationData/fluidPosition; give a file of case I, II or III")
    return ParticleTrajectories.from_trajectories([run], attributes={"title": path.stem}, dtype="float64")


def _tensor(values) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values[()], dtype=np.float64))


def _line(file, domain: Domain | None) -> ParticleTrajectory:
    told, data = file.attrs, file["simulationData"]
    ends = [float(np.ravel(told[name])[0]) for name in ("minDomain", "maxDomain")]
    domain = Domain((Axis(*ends, periodic=True),)) if domain is None else domain
    x, v, rho = (_tensor(data[name]) for name in ("fluidPosition", "fluidVelocities", "fluidDensity"))
    x, v, rho = x.reshape(len(x), -1, 1), v.reshape(len(v), -1, 1), rho.reshape(len(rho), -1)
    p = _tensor(data["fluidPressure"]).reshape_as(rho) if "fluidPressure" in data else torch.zeros_like(rho)
    particles = ParticleSet(x[0], _tensor(data["fluidAreas"])[0].reshape(-1), float(told["particleSupport"]), domain)
    times = (np.arange(len(x)) * float(told["dt"])).tolist()
    return ParticleTrajectory(tuple(times), x, v, rho, p, particles)


def _frames(file, domain: Domain, path: Path) -> ParticleTrajectory:
    frames = [file["simulationExport"][name] for name in sorted(file["simulationExport"])]
    if not frames:
        raise ValueError(f"{path} holds no frame; copy it again")
    x, v, rho = (torch.stack([_tensor(f[name]) for f in frames]) for name in ("fluidPosition", "fluidVelocity", "fluidDensity"))
    first = frames[0]
    p = torch.stack([_tensor(f["fluidPressure"]) for f in frames]) if "fluidPressure" in first else torch.zeros_like(rho)
    area = _tensor(first["fluidArea"]) if "fluidArea" in first else torch.full_like(rho[0], float(file.attrs["area"]))
    support = float(_tensor(first["fluidSupport"]).max()) if "fluidSupport" in first else float(file.attrs["support"])
    times = tuple(float(f.attrs["time"]) for f in frames)
    walls = file.get("boundaryInformation", {})
    particles = ParticleSet(x[0], area * rho[0], support, domain)
    wall = _tensor(walls["boundaryPosition"]) if "boundaryPosition" in walls else None
    slide = _tensor(walls["boundaryVelocity"]) if wall is not None and "boundaryVelocity" in walls else None
    return ParticleTrajectory(times, x, v, rho, p, particles, walls=wall, wall_velocities=slide)


def write_sfbc(run: ParticleTrajectory, path: str | PathLike, *, attributes: Mapping[str, object] | None = None) -> None:
    """Write one simulation, such as ``data[0]``; the file appears only when it is complete.

    Parameters
    ----------
    run : ParticleTrajectory
        One simulation, no batch. On a line at equal intervals, whose times are counted from the first frame.
    path : path
    attributes : mapping, optional
        Added to those of the file, or in their places: c0, kappa, restDensity, ...

    Raises
    ------
    ValueError
        If the trajectory is a batch, or of a line and its times are not equally spaced.
    """
    import h5py

    if run.particles.batch is not None:
        raise ValueError("write_sfbc got a batch; give one simulation, the files hold one each")
    steps = np.diff(run.times)
    line = run.particles.ndim == 1
    if line and not (len(steps) and np.allclose(steps, steps[0])):
        raise ValueError("write_sfbc got times on a line that are not equally spaced; give two frames or more at one interval")

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            file.attrs.update({"generator": "opkernels", "numParticles": len(run.particles), "timesteps": len(run)})
            (_write_line if line else _write_frames)(file, run)
            file.attrs.update(attributes or {})

    write_atomically(Path(path), write)


def _write_line(file, run: ParticleTrajectory) -> None:
    axis, areas = run.particles.domain.axes[0], run.particles.masses
    file.attrs.update({"minDomain": axis.lower, "maxDomain": axis.upper, "particleSupport": run.particles.support})
    file.attrs.update({"dt": run.times[1] - run.times[0], "baseArea": float(areas.mean()), "particleRadius": float(areas.mean()) / 2})
    arrays = {
        "fluidPosition": run.positions[..., 0],
        "fluidVelocities": run.velocities[..., 0],
        "fluidDensity": run.densities,
        "fluidPressure": run.pressures,
        "fluidAreas": areas.expand_as(run.densities),
    }
    group = file.create_group("simulationData")
    for name, values in arrays.items():
        group.create_dataset(name, data=values.numpy(), compression="gzip")


def _write_frames(file, run: ParticleTrajectory) -> None:
    n, support = len(run.particles), run.particles.support
    areas, identity = (run.particles.masses / run.densities[0]).numpy(), np.arange(n)
    file.attrs.update({"support": support, "area": float(areas.mean()), "radius": float(np.sqrt(areas.mean() / np.pi))})
    intervals = np.diff(run.times, append=run.times[-1])
    for t in range(len(run)):
        frame = file.create_group(f"simulationExport/{t:05d}")
        frame.attrs.update({"time": run.times[t], "dt": intervals[t], "timestep": t})
        frame["fluidPosition"], frame["fluidVelocity"] = run.positions[t].numpy(), run.velocities[t].numpy()
        frame["fluidDensity"], frame["fluidPressure"] = run.densities[t].numpy(), run.pressures[t].numpy()
        frame["fluidArea"], frame["fluidSupport"], frame["UID"] = areas, np.full(n, support), identity
    if run.walls is not None:
        walls = file.create_group("boundaryInformation")
        slide = torch.zeros_like(run.walls) if run.wall_velocities is None else run.wall_velocities
        walls["boundaryPosition"], walls["boundaryVelocity"] = run.walls.numpy(), slide.numpy()
        walls["boundaryArea"], walls["boundarySupport"] = np.full(len(slide), areas.mean()), np.full(len(slide), support)
