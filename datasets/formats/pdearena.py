"""PDEArena's HDF5 files, read and written: one group train, valid or test with its arrays, in float64.

| set                          | arrays of the group                                                                  |
| ---------------------------- | ------------------------------------------------------------------------------------ |
| Navier-Stokes 2-D            | u (smoke), vx, vy (N, T, X, Y); t (N, T), x (N, X), y (N, Y); dt, dx, dy, buo_y (N,)     |
| Kuramoto-Sivashinsky 1-D     | pde_<T>-<X> (N, T, X); dt, dx, v (N,)                                                   |
| Maxwell 3-D                  | d_field, h_field (N, T, X, Y, Z, 3)                                                     |

vx, vy, vz are our velocity_x, velocity_y, velocity_z; pde_... is our u; components of d_field and h_field end in _x, _y, _z.
Where dt or dx differ between samples, as in the conditioned 1-D sets, times are counted in frames and places in cells, and
dt and dx are parameters. 1-D and 3-D domains are taken to be periodic, 2-D ones to have walls; ``periodic=`` says it.

Reference: Gupta and Brandstetter, TMLR 2023, arXiv 2209.15616; https://github.com/pdearena/pdearena, layouts as its loaders read them.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from opkernels.datasets import store
from opkernels.datasets.formats.carried import (
    KEY,
    Origin,
    assemble,
    blocks,
    coordinates_of,
    pack,
    pack_value,
    remembered,
    unpack,
    unpack_value,
)
from opkernels.datasets.formats.lazy import SPACE, ForeignArray, foreign, stored
from opkernels.datasets.formats.places import axis_of
from opkernels.datasets.trajectories import Trajectories
from opkernels.domains import Axis, Domain
from opkernels.storage import write_atomically

__all__ = ["PARTS", "is_pdearena", "read_pdearena", "write_pdearena"]

PARTS = ("train", "valid", "test")
_KIND = "a file of PDEArena, such as NavierStokes2D_train_0.5_00001.h5"
_OURS = {f"v{letter}": f"velocity_{letter}" for letter in SPACE}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_PLACES = ("t", "x", "y", "z")


def is_pdearena(file) -> bool:
    """Whether an open HDF5 file looks like one of PDEArena."""
    return any(part in file for part in PARTS)


def read_pdearena(path: str | PathLike, *, periodic: bool | None = None) -> Trajectories:
    """Read a file of PDEArena; its numbers stay in the file until they are asked for.

    Parameters
    ----------
    path : path
    periodic : bool, optional
        Whether the domain is periodic, which the file does not say.

    Returns
    -------
    Trajectories
        In the stored type, float64. What was assumed is told in ``attributes["assumed"]``.

    Raises
    ------
    ValueError
        If the file is missing, damaged or of another kind.
    """
    path = Path(path)
    with store.opened(path, _KIND) as file:
        part = next((part for part in PARTS if part in file), None)
        if part is None:
            raise ValueError(f"{path} holds {', '.join(list(file)[:6]) or 'nothing'}; expected {_KIND}")
        group, shape = file[part], _shape(file[part], path)
        arrays, left = _fields(group, shape)
        numbers = {name: stored(group, name)[:] for name, item in group.items() if getattr(item, "shape", ()) == shape[:1]}
        places = {name: stored(group, name)[:] for name in _PLACES if name in group}
        carried = unpack(group.attrs.get(KEY, ""))
    own = [name for name in carried.fields if name not in arrays]
    if len(own) == 1 and "u" in arrays:  # the name that pde_... had here
        arrays = {own[0] if name == "u" else name: array for name, array in arrays.items()}
    assumed = [f"arrays of other shapes are left out: {', '.join(left)}"] if left else []
    around = len(shape) != 4 if periodic is None else periodic
    if periodic is None and carried.domain is None:
        kind = "periodic" if around else "walled, not periodic"
        assumed.append(f"the file does not say whether the domain is periodic, it is taken to be {kind}")
    times = _times(places.get("t"), numbers.get("dt"), shape[1], assumed)
    axes = [
        _axis(letter, n, places.get(letter), numbers.get(f"d{letter}"), around, assumed)
        for letter, n in zip(SPACE, shape[2:], strict=False)
    ]
    told: dict = {"part": part, "names": {name: theirs for name, (theirs, _) in arrays.items()}}
    told |= {name: pack_value(values[0]) for name, values in places.items() if values.ndim == 2}
    origin = Origin(path, "pdearena", told, carried, assumed, periodic is None)
    return assemble({name: array for name, (_, array) in arrays.items()}, Domain(tuple(axes)), times, numbers, origin)


def _shape(group, path: Path) -> tuple[int, ...]:
    """Return (samples, times, *space)."""
    import h5py

    widest = max((item for item in group.values() if isinstance(item, h5py.Dataset)), key=lambda item: item.ndim, default=None)
    if widest is None or widest.ndim < 3:
        raise ValueError(f"{path} holds no field (samples, times, x, ...); expected {_KIND}")
    shape = widest.shape[:-1] if widest.ndim == 6 else widest.shape
    if len(shape) > 5 or 0 in shape:
        raise ValueError(f"{path} holds {widest.name} of shape {widest.shape}; expected (samples, times, x[, y[, z]])")
    return shape


def _fields(group, shape: tuple[int, ...]) -> tuple[dict[str, tuple[str, ForeignArray]], list[str]]:
    """Return our name to (their name, array), and the names of what has another shape."""
    space = SPACE[: len(shape) - 2]
    sizes, found, left = dict(zip("st" + space, shape, strict=True)), {}, []
    for name, item in group.items():
        told = getattr(item, "shape", ())
        if name in _PLACES or told == shape[:1]:
            continue
        if told == shape:
            ours = "u" if name.startswith("pde_") and "u" not in found else _OURS.get(name, name)
            found[ours] = (name, foreign(group, name, "st" + space, sizes))
        elif told == (shape[0], *shape[2:]):
            found[name] = (name, foreign(group, name, "s" + space, {k: n for k, n in sizes.items() if k != "t"}))
        elif told == (*shape, 3):
            for a, letter in enumerate("xyz"):
                found[f"{name}_{letter}"] = (name, foreign(group, name, f"st{space}c", {**sizes, "c": 3}, (a,)))
        else:
            left.append(name)
    return found, left


def _times(t, dt, count: int, assumed: list[str]) -> np.ndarray:
    if t is not None and t.ndim == 2 and t.shape[1] == count and len(t) and (t == t[0]).all():
        return t[0].astype(np.float64)
    if t is None and dt is not None and (dt == dt[0]).all():
        return np.arange(count) * float(dt[0])
    assumed.append("times are counted in frames, as they differ between samples or the file does not say them")
    return np.arange(count, dtype=np.float64)


def _axis(letter: str, n: int, x, dx, periodic: bool, assumed: list[str]) -> Axis:
    if x is not None and x.ndim == 2 and x.shape[1] == n and len(x) and (x == x[0]).all():
        return axis_of(x[0], periodic=periodic, name=letter)
    if x is None and dx is not None and (dx == dx[0]).all() and np.isfinite(dx[0]) and dx[0] > 0:
        return Axis(0.0, n * float(dx[0]), periodic=periodic, points="node" if periodic else "cell", name=letter)
    if x is None and dx is None:
        assumed.append(f"the file does not say how far {letter} reaches, it is taken to be 1")
        return Axis(0.0, 1.0, periodic=periodic, points="node" if periodic else "cell", name=letter)
    assumed.append(f"places along {letter} are counted in cells, as they differ between samples")
    return Axis(0.0, float(n), periodic=periodic, points="node" if periodic else "cell", name=letter)


def write_pdearena(data: Trajectories, path: str | PathLike, *, part: str = "train") -> list[str]:
    """Write a file that PDEArena's loaders read.

    Parameters
    ----------
    data : Trajectories
        At least one field that evolves, on one to three axes.
    path : path
        Its loaders look for names that hold the part and end with h5.
    part : {"train", "valid", "test"}

    Returns
    -------
    list of str
        Sentences on what PDEArena has no word for.

    Raises
    ------
    ValueError
        If the data are stationary, or the file cannot be written.
    """
    path, told = Path(path), remembered(data, "pdearena")
    if part not in PARTS:
        raise ValueError(f"write_pdearena got part={part!r}; choose one of {', '.join(PARTS)}")
    if data.times is None or not any(field.evolving for field in data.fields.values()) or data.domain.ndim > 3:
        raise ValueError("PDEArena's files hold evolutions on one to three axes; got stationary data or more axes, write native files")
    try:
        write_atomically(path, lambda temporary: _write(temporary, data, part, told))
    except OSError as error:
        raise store.cannot_write(path, error) from error
    notes = []
    if part not in path.name or not path.name.endswith("h5"):
        notes.append(f"PDEArena's loaders look for names that hold {part} and end with h5")
    if not told:
        notes.append("PDEArena's files do not say whether the domain is periodic, nor keep titles; only opkernels reads that back")
    return notes


def _write(path: Path, data: Trajectories, part: str, told: dict) -> None:
    import h5py

    n, names = len(data), told.get("names", {})
    with h5py.File(path, "w") as file:
        group = file.create_group(part)
        group.attrs[KEY] = pack(data)
        for name, values in data.parameters.items():
            group[name] = values
        _write_places(group, data, told)
        whole: dict[str, list[str]] = {}
        for name in data.fields:
            theirs = names.get(name) or (f"pde_{data.n_times}-{data.shape[0]}" if data.domain.ndim == 1 and len(data.fields) == 1 else name)
            whole.setdefault(_THEIRS.get(name, theirs), []).append(name)
        for theirs, members in whole.items():
            fields = [data.fields[name] for name in members]
            packed = len(fields) == 3
            dataset = group.create_dataset(theirs, (*fields[0].shape, *([3] if packed else [])), dtype=fields[0].dtype)
            for row in range(n):
                for c, field in enumerate(fields):
                    for steps, numbers in blocks(field, row):
                        dataset[(row, *steps, ..., *([c] if packed else []))] = numbers


def _write_places(group, data: Trajectories, told: dict) -> None:
    """Write t, x, y, z as (N, ...), where the file had them or nothing is remembered, and dt, dx, dy, dz."""
    n, kept = len(data), unpack_value(told.get("t"))
    same = isinstance(kept, np.ndarray) and np.array_equal(kept, data.times)  # pyright: ignore[reportArgumentType]
    if not told or "t" in told:
        group["t"] = np.tile(kept if same else np.asarray(data.times), (n, 1))
    for axis, values in zip(data.domain.axes, coordinates_of(data, told, dtype="<f8"), strict=True):
        if not told or axis.name in told:
            group[axis.name] = np.tile(values, (n, 1))
        if not told and f"d{axis.name}" not in group:
            group[f"d{axis.name}"] = np.full(n, axis.spacing(len(values)))
    if not told and "dt" not in group and data.times is not None:
        group["dt"] = np.full(n, float(np.diff(data.times).mean()) if len(data.times) > 1 else 1.0)
