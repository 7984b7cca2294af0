"""From any file of the field to any other: recognized by what is in it, converted in pieces, whole or not at all.

| format        | recognized by                                                    | read | written |
| ------------- | ---------------------------------------------------------------- | ---- | ------- |
| native        | HDF5 with the attribute opkernels_schema, of grids or particles  | yes  | yes     |
| pdebench      | HDF5 with tensor, x-coordinate, velocity and force, or groups of data and grid | yes | yes |
| the_well      | HDF5 with dimensions and t0_fields                               | yes  | yes     |
| pdearena      | HDF5 with a group train, valid or test                           | yes  | yes     |
| mat, mat73    | the first bytes of MATLAB's versions 5 and 7.3                   | yes  | yes     |
| neuralop      | the first bytes of torch.save                                    | yes  | yes     |
| lagrangebench | a folder with metadata.json                                      | yes  | yes     |
| sfbc          | HDF5 with simulationExport or simulationData                     | yes  | no      |
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from opkernels.datasets import store
from opkernels.datasets.fields import Field
from opkernels.datasets.formats import fno_mat, lagrangebench, mat5, neuralop, pdearena, pdebench, sfbc, the_well
from opkernels.datasets.formats.lazy import check_stored, one_line
from opkernels.datasets.particle_trajectories import ParticleTrajectories, open_particles
from opkernels.datasets.trajectories import Trajectories, open_trajectories

__all__ = ["TARGETS", "convert", "read", "recognize"]

TARGETS = ("native", "pdebench", "the_well", "pdearena", "mat", "mat73", "neuralop", "lagrangebench")
_PARTS = ("train", "valid", "test")
_KNOWN = "a file of opkernels, PDEBench, The Well, PDEArena, neuraloperator, FNO (.mat), SFBC, or a folder of LagrangeBench"
_READERS: dict[str, Callable[..., Trajectories]] = {
    "pdebench": pdebench.read_pdebench,
    "the_well": the_well.read_the_well,
    "pdearena": pdearena.read_pdearena,
    "mat": fno_mat.read_fno_mat,
    "mat73": fno_mat.read_fno_mat,
    "neuralop": neuralop.read_neuralop,
}


def recognize(path: str | PathLike) -> str:
    """Return the name of a file's format, told by its content.

    Raises
    ------
    ValueError
        If there is no such file, or it is of no known format.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "metadata.json").is_file():
            return "lagrangebench"
        raise ValueError(f"{path} is a folder without metadata.json; give {_KNOWN}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give {_KNOWN}")
    for name, begins in (("neuralop", neuralop.is_pt), ("mat73", fno_mat.is_mat73), ("mat", mat5.is_mat5)):
        if begins(path):
            return name
    with store.opened(path, _KNOWN) as file:
        tests = {"the_well": the_well.is_the_well, "pdearena": pdearena.is_pdearena, "pdebench": pdebench.is_pdebench}
        if "opkernels_schema" in file.attrs:
            return "native"
        if "simulationExport" in file or "simulationData" in file:
            return "sfbc"
        found = next((name for name, test in tests.items() if test(file)), None)
        if found is None:
            raise ValueError(f"{path} is an HDF5 file of {', '.join(list(file)[:6]) or 'nothing'}; expected {_KNOWN}")
        return found


def read(path: str | PathLike, *, periodic: bool | None = None, part: str = "train") -> Trajectories | ParticleTrajectories:
    """Read a file of any of the formats; numbers on grids stay in the file until they are asked for where the format allows it.

    Parameters
    ----------
    path : path
    periodic : bool, optional
        Whether the domain is periodic, in place of what is found or assumed.
    part : {"train", "valid", "test"}
        Which part of a folder of LagrangeBench.

    Raises
    ------
    ValueError
        In one sentence that names the file and what was expected.
    """
    path = Path(path)
    try:
        kind = recognize(path)
        data = _read(path, kind, periodic, part)
    except ValueError as error:
        told = one_line(error)
        raise ValueError(told if str(path) in told else f"{path}: {told}") from error
    except Exception as error:  # what a foreign file can raise has no end
        raise ValueError(f"{path} is damaged: {one_line(error)}; copy it again") from error
    return data


def _read(path: Path, kind: str, periodic: bool | None, part: str) -> Trajectories | ParticleTrajectories:
    if kind in _READERS:
        return _READERS[kind](path, periodic=periodic)
    if periodic is not None:
        raise ValueError(f"{path} says itself whether its domain is periodic; leave that out")
    if kind == "lagrangebench":
        return lagrangebench.read_lagrangebench(path, part)
    if kind == "sfbc":
        return sfbc.read_sfbc(path)
    if store.holds_particles(path):
        return open_particles(path)
    data = open_trajectories(path)
    with store.opened(path) as file:
        for name in data.fields:
            check_stored(file[name], str(path))
    return data


def convert(
    path: str | PathLike,
    out: str | PathLike,
    to: str,
    *,
    periodic: bool | None = None,
    part: str = "train",
    progress: Callable[[int, int], object] | None = None,
) -> list[str]:
    """Read a file of any format and write it in another; `out` appears when it is complete, an older one stays until then.

    Parameters
    ----------
    path, out : path
    to : str
        One of `TARGETS`.
    periodic : bool, optional
        Whether the domain is periodic, where the file does not say it.
    part : {"train", "valid", "test"}
        Which part of a folder of LagrangeBench is read; the name of the group in a file of PDEArena that is written.
    progress : callable, optional
        Called with bytes read and bytes in all.

    Returns
    -------
    list of str
        Sentences on what was assumed of the file, and on what the new format has no word for.

    Raises
    ------
    ValueError
        In one sentence, if the file cannot be read, or its data not be written in that format.

    Examples
    --------
    >>> import numpy as np, opkernels as ok
    >>> data = ok.Trajectories.from_arrays({"u": np.zeros((2, 3, 16))}, ok.Domain.periodic(1.0), times=[0.0, 0.5, 1.0])
    >>> data.save("u.nc")
    >>> notes = convert("u.nc", "u.hdf5", "pdebench")
    >>> read("u.hdf5")
    Trajectories(2 samples of u on 16 points of 1, 3 times in [0, 1])
    """
    path, out = Path(path), Path(out)
    if to not in TARGETS:
        raise ValueError(f"got the format {to!r}; choose one of {', '.join(TARGETS)}")
    if part not in _PARTS:
        raise ValueError(f"got part={part!r}; choose one of {', '.join(_PARTS)}")
    if path.exists() and out.exists() and path.samefile(out):
        raise ValueError(f"{path} would be replaced by what is made of it; give another name")
    data = read(path, periodic=periodic, part=part)
    if progress is not None and isinstance(data, ParticleTrajectories):  # in memory
        progress(1, 1)
    try:
        notes = _write(data, path, out, to, part, progress)
    except ValueError as error:
        told = one_line(error)
        raise ValueError(told if str(path) in told or str(out) in told else f"{path}: {told}") from error
    except (RuntimeError, MemoryError) as error:  # of a library, when the disk is full or the data too large
        raise store.cannot_write(out, OSError(one_line(error))) from error
    return [*filter(None, [str(data.attributes.get("assumed", ""))]), *notes]


def _write(data, path: Path, out: Path, to: str, part: str, progress) -> list[str]:
    if isinstance(data, ParticleTrajectories) != (to == "lagrangebench") and to != "native":
        kinds = ("particles", "fields on grids") if isinstance(data, ParticleTrajectories) else ("fields on grids", "particles")
        raise ValueError(f"{path} holds {kinds[0]}, but {to} is a format of {kinds[1]}; choose another")
    if isinstance(data, ParticleTrajectories):
        if to == "native":
            data.save(out)
            return []
        lagrangebench.write_lagrangebench(data, out)
        return [
            "LagrangeBench's folders keep positions and types of particles; velocities, densities, pressures and parameters are left out"
        ]
    _check_room(data, out, 2 if to == "neuralop" else 1)
    data = _watched(data, path, progress)
    write: dict[str, Callable[[], Any]] = {
        "native": lambda: data.save(out),
        "pdebench": lambda: pdebench.write_pdebench(data, out),
        "the_well": lambda: the_well.write_the_well(data, out),
        "pdearena": lambda: pdearena.write_pdearena(data, out, part=part),
        "mat": lambda: fno_mat.write_fno_mat(data, out),
        "mat73": lambda: fno_mat.write_fno_mat(data, out, version="7.3"),
        "neuralop": lambda: neuralop.write_neuralop(data, out),
    }
    return write[to]() or []


def _check_room(data: Trajectories, out: Path, times: int) -> None:
    """Refuse what the disk has no room for: HDF5 may crash on a full one."""
    needed = times * sum(int(np.prod(field.shape)) * field.dtype.itemsize for field in data.fields.values())
    folder = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(f"cannot write {out}: it needs {needed / 1e6:.1f} MB, but the disk has {free / 1e6:.1f} MB free")


class _Watched:
    """The source of a field that counts what is read of it, and tells a fault of the file as one."""

    def __init__(self, source, path: Path, tick: Callable[[int], object]):
        self.source, self.path, self.tick = source, path, tick
        self.shape, self.dtype = source.shape, source.dtype

    def __getitem__(self, key) -> np.ndarray:
        try:
            values = np.asarray(self.source[key])
        except Exception as error:  # what a foreign file can raise has no end
            told = one_line(error)
            raise ValueError(told if str(self.path) in told else f"{self.path} is damaged: {told}; copy it again") from error
        self.tick(values.nbytes)
        return values


def _watched(data: Trajectories, path: Path, progress: Callable[[int, int], object] | None) -> Trajectories:
    total = sum(int(np.prod(field.shape)) * field.dtype.itemsize for field in data.fields.values())
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total), total)

    fields = {
        name: Field(_Watched(f.source, path, tick), f.rows, f.grid, f.spatial, f.evolving, f.attributes) for name, f in data.fields.items()
    }
    return Trajectories(data.domain, fields, data.times, data.parameters, data.attributes)
