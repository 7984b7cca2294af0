"""The Well's HDF5 files, read and written: scalars, vectors and tensors on uniform Cartesian grids, in float32.

| group                    | holds                                                                                      |
| ------------------------ | ------------------------------------------------------------------------------------------ |
| ``/``                    | dataset_name, grid_type, n_spatial_dims, n_trajectories, simulation_parameters               |
| ``/dimensions``          | time (T,) or (N, T); x (X,), y, z                                                            |
| ``/boundary_conditions`` | one per axis: bc_type PERIODIC, WALL or OPEN, and a mask that is true at both ends           |
| ``/scalars``             | per-sample parameters (N,), constants ()                                                     |
| ``/t0_fields``, 1, 2     | ``([N,] [T,] X, Y, Z [, D [, D]])``, each with sample_varying, time_varying, dim_varying     |

Our fields velocity_x, velocity_y[, velocity_z] are one vector there. All groups and attributes are written that its reader, its
``to_xarray`` and its format checker ask for; masks true at the ends, for the reader takes an all-false mask for open;
tensors with two axes, not one of D^2; no dim_varying false, on which reader and ``to_xarray`` disagree. Lists of
places are read as the axis whose ends are the rounder numbers; where bc_type is PERIODIC the axis is periodic.

A folder of its data sets is ``<name>/data/{train,valid,test}/*.hdf5`` beside ``<name>/stats.yaml``; `write_statistics`
writes the latter for files that are there.

Reference: Ohana et al., NeurIPS 2024, arXiv 2412.00568; https://github.com/PolymathicAI/the_well, as its reader 1.2.0 reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import numpy as np

from opkernels.datasets import store
from opkernels.datasets.fields import Field
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
from opkernels.datasets.formats.lazy import SPACE, foreign, stored
from opkernels.datasets.formats.places import axis_of
from opkernels.datasets.trajectories import Trajectories
from opkernels.domains import Domain
from opkernels.storage import write_atomically, write_text

__all__ = ["is_the_well", "read_the_well", "write_statistics", "write_the_well"]

_KIND = "a file of The Well, such as turbulent_radiative_layer_2D/data/train/*.hdf5"
_GROUPS = ("t0_fields", "t1_fields", "t2_fields")


def is_the_well(file) -> bool:
    """Whether an open HDF5 file looks like one of The Well."""
    return "dimensions" in file and any(name in file for name in _GROUPS)


def read_the_well(path: str | PathLike, *, periodic: bool | None = None) -> Trajectories:
    """Read a file of The Well; its numbers stay in the file until they are asked for.

    Parameters
    ----------
    path : path
    periodic : bool, optional
        In place of what the file says of every axis.

    Returns
    -------
    Trajectories
        Vectors as velocity_x, velocity_y, ..., tensors as name_xx, name_xy, ...

    Raises
    ------
    ValueError
        If the file is missing, damaged, of another kind, or its grid is not Cartesian and uniform.
    """
    path = Path(path)
    with store.opened(path, _KIND) as file:
        if not is_the_well(file):
            raise ValueError(f"{path} holds {', '.join(list(file)[:6]) or 'nothing'}; expected {_KIND}")
        names, samples = _names(file, path), int(file.attrs["n_trajectories"])
        if store.plain(file.attrs.get("grid_type", "cartesian")) != "cartesian":
            raise ValueError(f"{path} has a grid of type {file.attrs['grid_type']}; only Cartesian grids are read")
        carried = unpack(file["dimensions"].attrs.get(KEY, ""))
        kinds = {name: _kind_of(file, name) for name in names}
        around = {name: kind == "PERIODIC" if periodic is None else periodic for name, kind in kinds.items()}
        places = {name: stored(file["dimensions"], name)[:] for name in names}
        domain = Domain(tuple(axis_of(places[name], periodic=around[name], name=name) for name in names))
        times = _times(file, path)
        sizes = {"s": samples, "t": len(times), **dict(zip(SPACE, (len(places[name]) for name in names), strict=False))}
        arrays = dict(_fields(file, names, sizes))
        if not arrays:
            raise ValueError(f"{path} holds no field; expected some in {', '.join(_GROUPS)}")
        evolving = any(len(array.shape) == len(names) + 2 for array in arrays.values())
        parameters, left = _scalars(file, samples)
        name = str(store.plain(file.attrs.get("dataset_name", path.stem)))
    told = {"dataset_name": name, "boundaries": kinds, "time": pack_value(times)}
    told |= {name: pack_value(values) for name, values in places.items()}
    assumed = [f"scalars that change in time are left out: {', '.join(left)}"] if left else []
    origin = Origin(path, "the_well", told, carried, assumed, periodic is None)
    return assemble(arrays, domain, times.astype(float) if evolving else None, parameters, origin)


def _names(file, path: Path) -> list[str]:
    """Return the names of the axes."""
    names = [str(store.plain(name)) for name in np.ravel(file["dimensions"].attrs["spatial_dims"])]
    if not 1 <= len(names) <= 3 or int(file.attrs["n_trajectories"]) < 1:
        raise ValueError(f"{path} has {len(names)} axes and {file.attrs['n_trajectories']} samples; expected one to three, and samples")
    return names


def _kind_of(file, axis: str) -> str:
    """Return the kind of boundary of an axis, OPEN where none is told."""
    for item in file.get("boundary_conditions", {}).values():
        if axis in [store.plain(name) for name in np.ravel(item.attrs["associated_dims"])]:
            return str(store.plain(item.attrs["bc_type"])).upper()
    return "OPEN"


def _times(file, path: Path) -> np.ndarray:
    times = stored(file["dimensions"], "time")[:]
    if times.ndim == 2 and len(times) and (times == times[0]).all():
        times = times[0]
    if times.ndim != 1 or not len(times):
        raise ValueError(f"{path} holds times {times.shape} that differ between samples; put samples of each list of times into a file")
    return times


def _fields(file, names: list[str], sizes: dict[str, int]) -> Iterator[tuple]:
    """Yield (name, array) of every component of every field."""
    letters, d = SPACE[: len(names)], len(names)
    for order, group in enumerate(_GROUPS):
        for name, item in file[group].items() if group in file else ():
            varying = [bool(v) for v in np.ravel(item.attrs["dim_varying"])]
            leading = "s" * bool(item.attrs["sample_varying"]) + "t" * bool(item.attrs["time_varying"])
            space = "".join(k for k, v in zip(letters, varying, strict=True) if v)
            if item.ndim == len(leading) + d + order:  # an axis of length one where nothing varies
                space = letters
            own = {k: n for k, n in sizes.items() if k in "s" + leading + letters} | {"c": d}
            own |= {k: 1 for k, v in zip(letters, varying, strict=True) if not v and space == letters and item.ndim > len(leading)}
            for at in np.ndindex(*[d] * order):
                label = "".join(names[a] for a in at)
                array = foreign(file, f"{group}/{name}", leading + space + "c" * order, own, at)
                array.shape = (sizes["s"], *([sizes["t"]] if "t" in leading else []), *(sizes[k] for k in letters))
                yield (f"{name}_{label}" if label else name), array


def _scalars(file, samples: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return parameters by name, and the names of scalars that change in time."""
    parameters, left = {}, []
    for name in file.get("scalars", {}):
        item = stored(file["scalars"], name)
        if bool(item.attrs["time_varying"]) or item.shape not in ((), (samples,)):
            left.append(name)
        else:
            parameters[name] = np.broadcast_to(item[()], (samples,)).copy()
    return parameters, left


def write_the_well(data: Trajectories, path: str | PathLike, *, name: str | None = None) -> list[str]:
    """Write a file that The Well's reader reads.

    Parameters
    ----------
    data : Trajectories
        At least one field that evolves, on one to three axes of evenly spaced samples.
    path : path
        Its reader looks for ``*.hdf5`` and ``*.h5``.
    name : str, optional
        Its dataset_name; by default what was read from The Well had, else the name of the file. All files of a split need one.

    Returns
    -------
    list of str
        Sentences on what The Well has no word for.

    Raises
    ------
    ValueError
        If the data are stationary, or the file cannot be written.
    """
    path, told = Path(path), remembered(data, "the_well")
    d = data.domain.ndim
    if data.times is None or not any(field.evolving for field in data.fields.values()) or d > 3:
        raise ValueError(
            "The Well's files hold evolutions on one to three axes; got stationary data or more axes, write native files instead"
        )
    if any(axis.points == "gauss" for axis in data.domain.axes):
        raise ValueError("The Well's grids are uniform; got Gauss points, resample the data first")
    name = name or str(told.get("dataset_name") or path.stem)
    try:
        write_atomically(path, lambda temporary: _write(temporary, data, name, told))
    except OSError as error:
        raise store.cannot_write(path, error) from error
    return _notes(data, path)


def _notes(data: Trajectories, path: Path) -> list[str]:
    notes = []
    rounded = [name for name, field in data.fields.items() if field.dtype != np.float32]
    if rounded:
        notes.append(f"The Well's fields are float32: {', '.join(rounded)} of another type are rounded to it")
    if data.times is not None and (data.times.astype(np.float32) != data.times).any():
        notes.append("times are rounded to float32, as there; only opkernels reads them back exactly")
    if path.suffix not in (".hdf5", ".h5"):
        notes.append("The Well's reader looks for files that end with .hdf5 or .h5")
    if len(data.times if data.times is not None else ()) < 2:
        notes.append("The Well's reader asks for at least two times, an input and an output")
    if not remembered(data, "the_well"):
        notes.append("The Well keeps no titles, recipes nor kinds of points; only opkernels reads them back")
    return notes


def _write(path: Path, data: Trajectories, name: str, told: dict) -> None:
    import h5py

    names = data.domain.names
    constant = [key for key, values in data.parameters.items() if (values == values[:1]).all()]
    with h5py.File(path, "w") as file:
        file.attrs.update({"dataset_name": name, "grid_type": "cartesian", "n_spatial_dims": len(names), "n_trajectories": len(data)})
        file.attrs["simulation_parameters"] = np.array(constant, dtype=h5py.string_dtype())
        for key in constant:
            if key not in file.attrs:
                file.attrs[key] = data.parameters[key][0]
        _write_dimensions(file.create_group("dimensions"), data, told)
        _write_boundaries(file.create_group("boundary_conditions"), data, told.get("boundaries", {}))
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = np.array(list(data.parameters), dtype=h5py.string_dtype())
        for key, values in data.parameters.items():
            scalars[key] = values[0] if key in constant else values
            scalars[key].attrs.update(_varying(samples=key not in constant, times=False))
        members = _members(data)
        for order, group in enumerate(_GROUPS):
            made = file.create_group(group)
            mine = {key: parts for key, parts in members.items() if len(parts) == len(names) ** order and key[1] == order}
            made.attrs["field_names"] = np.array([key[0] for key in mine], dtype=h5py.string_dtype())
            for key, parts in mine.items():
                _write_field(made, key[0], parts, order, len(names))


def _varying(*, samples: bool, times: bool) -> dict[str, np.bool_]:
    return {"sample_varying": np.bool_(samples), "time_varying": np.bool_(times)}


def _write_dimensions(group, data: Trajectories, told: dict) -> None:
    import h5py

    times = unpack_value(told.get("time"))
    same = isinstance(times, np.ndarray) and np.array_equal(times.astype(np.float64), data.times)  # pyright: ignore[reportArgumentType]
    group.attrs["spatial_dims"] = np.array(data.domain.names, dtype=h5py.string_dtype())
    group.attrs[KEY] = pack(data)
    group["time"] = times if same else np.asarray(data.times, dtype=np.float32)
    group["time"].attrs.update(_varying(samples=False, times=True))
    for axis, values in zip(data.domain.axes, coordinates_of(data, told), strict=True):
        group[axis.name] = values
        group[axis.name].attrs.update(_varying(samples=False, times=False))


def _write_boundaries(group, data: Trajectories, kinds: dict) -> None:
    import h5py

    for axis, n in zip(data.domain.axes, data.shape, strict=True):
        kind = kinds.get(axis.name, "WALL")
        kind = "PERIODIC" if axis.periodic else kind if kind in ("WALL", "OPEN") else "WALL"
        made = group.create_group(f"{axis.name}_{kind.lower()}")
        made.attrs["associated_dims"] = np.array([axis.name], dtype=h5py.string_dtype())
        made.attrs["associated_fields"] = np.array([], dtype=h5py.string_dtype())
        made.attrs["bc_type"] = kind
        made.attrs.update(_varying(samples=False, times=False))
        made["mask"] = np.isin(np.arange(n), (0, n - 1))


def _members(data: Trajectories) -> dict[tuple[str, int], list[Field]]:
    """Put the components of vectors and tensors together: (name, order) to its fields, all others order 0."""
    names, left, members = data.domain.names, dict(data.fields), {}
    if len(names) > 1:
        for order in (2, 1):
            labels = ["".join(names[a] for a in at) for at in np.ndindex(*[len(names)] * order)]
            for base in {name.rpartition("_")[0] for name in left}:
                parts = [left.get(f"{base}_{label}") for label in labels]
                whole = [part for part in parts if part is not None]
                if base and base not in data.fields and len(whole) == len(labels) and len({part.evolving for part in whole}) == 1:
                    members[base, order] = whole
                    left = {name: field for name, field in left.items() if field not in whole}
    ordered = sorted(members, key=lambda key: list(data.fields.values()).index(members[key][0]))
    return {(name, 0): [field] for name, field in left.items()} | {key: members[key] for key in ordered}


def _write_field(group, name: str, parts: list[Field], order: int, d: int) -> None:
    first = parts[0]
    dataset = group.create_dataset(name, (*first.shape, *[d] * order), dtype=np.float32)
    dataset.attrs.update({"dim_varying": np.ones(d, dtype=bool), **_varying(samples=True, times=first.evolving)})
    if order == 2:
        dataset.attrs.update({"symmetric": np.bool_(False), "antisymmetric": np.bool_(False)})
    for row in range(len(first)):
        for at, field in zip(np.ndindex(*[d] * order), parts, strict=True):
            for steps, numbers in blocks(field, row):
                dataset[(row, *steps, ..., *at)] = numbers


def write_statistics(data: Trajectories, path: str | PathLike) -> None:
    """Write the stats.yaml of The Well for training data: means, deviations, of fields and of their steps.

    Parameters
    ----------
    data : Trajectories
        The files of the training split.
    path : path
        ``<name>/stats.yaml``.

    Notes
    -----
    Population variances, summed in float64 over one sample at a time.
    """
    import yaml

    keys = ("mean", "std", "rms", "mean_delta", "std_delta", "rms_delta")
    told: dict[str, dict] = {key: {} for key in keys}
    for (name, order), parts in _members(data).items():
        for values in (False, True) if parts[0].evolving and data.n_times > 1 else (False,):
            moments = np.array([_moments(field, steps=values) for field in parts])
            mean, square = moments.T.reshape(2, *[data.domain.ndim] * order)
            for key, number in zip(keys[3:] if values else keys[:3], (mean, np.sqrt(square - mean**2), np.sqrt(square)), strict=True):
                told[key][name] = number.tolist()
    write_text(Path(path), yaml.safe_dump(told, sort_keys=False))


def _moments(field: Field, *, steps: bool) -> tuple[float, float]:
    """Return the means of a field, or of its steps in time, and of their squares."""
    sums, count = np.zeros(2), 0
    for row in range(len(field)):
        values = np.asarray(field[row], dtype=np.float64)
        values = np.diff(values, axis=0) if steps else values
        sums, count = sums + [values.sum(), np.square(values).sum()], count + values.size
    return float(sums[0] / count), float(sums[1] / count)
