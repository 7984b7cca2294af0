"""PDEBench's HDF5 files, read and written: scalar, Darcy, compressible, grouped and incompressible layouts.

| layout         | arrays                                                                            | their data                    |
| -------------- | --------------------------------------------------------------------------------- | ----------------------------- |
| scalar         | tensor (N, T, X); x-coordinate (X,), t-coordinate (T + 1,)                        | advection, Burgers, reaction  |
| darcy          | nu (N, X, Y), tensor (N, 1, X, Y); x-, y-coordinate                               | 2D_DarcyFlow                  |
| cfd            | density, pressure, Vx, Vy, Vz, omega_x, ... (N, T, X[, Y[, Z]]); coordinates too  | compressible flow, vorticity  |
| groups         | 0000/data (T, X[, Y], C), 0000/grid/{x, y, t}, attribute config                   | diffusion-reaction, dam break |
| incompressible | velocity (N, T, X, Y, 2), particles (N, T, X, Y, 1), force (N, X, Y, 2), t (N, T) | ns_incom_inhom_2d             |

Samples sit at cell centers. t-coordinate has one entry more than there are frames; frame i is at t[i]. What the files do
not say: whether the domain is periodic. It is taken to be in the scalar layout with an attribute beta or Nu (advection,
Burgers and reaction are), and where the name of a cfd file does not say "trans"; ``periodic=`` says it.
Velocities Vx, Vy, Vz are our velocity_x, velocity_y, velocity_z; attributes eta, zeta, M, beta, Nu, rho become
parameters, one equal number per sample. All numbers are kept bit for bit.

Reference: Takamoto et al., NeurIPS 2022, arXiv 2210.07182; https://github.com/pdebench/PDEBench, layouts as its loaders read them.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from opkernels.datasets import store
from opkernels.datasets.formats.carried import (
    KEY,
    Carried,
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
from opkernels.domains import Axis, Domain
from opkernels.storage import write_atomically

__all__ = ["is_pdebench", "read_pdebench", "write_pdebench"]

_KIND = "a file of PDEBench, such as 1D_Advection_Sols_beta1.0.hdf5"
_OURS = {"Vx": "velocity_x", "Vy": "velocity_y", "Vz": "velocity_z"}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_FLOW = ("density", "pressure", *_OURS, "omega_x", "omega_y", "omega_z")
_COORDINATES = tuple(f"{letter}-coordinate" for letter in "xyzt")


def is_pdebench(file) -> bool:
    """Whether an open HDF5 file looks like one of PDEBench."""
    return bool(_layout(file))


def _layout(file) -> str:
    """Return the name of the layout of a file, "" where it has none of them."""
    import h5py

    keys = set(file)
    if "tensor" in keys:
        return "darcy" if "nu" in keys and "t-coordinate" not in keys else "scalar"
    if {"velocity", "particles", "force", "t"} <= keys:
        return "incompressible"
    if "x-coordinate" in keys and len(keys - set(_COORDINATES)) > 0:
        return "cfd"
    first = file.get(min(keys)) if keys else None
    return "groups" if isinstance(first, h5py.Group) and "data" in first and "grid" in first else ""


def read_pdebench(path: str | PathLike, *, periodic: bool | None = None) -> Trajectories:
    """Read a file of PDEBench; its numbers stay in the file until they are asked for.

    Parameters
    ----------
    path : path
    periodic : bool, optional
        Whether the domain is periodic, which the file does not say; by default as the table of this module tells.

    Returns
    -------
    Trajectories
        Fields by PDEBench's names, velocities by ours. What was assumed is told in ``attributes["assumed"]``.

    Raises
    ------
    ValueError
        If the file is missing, damaged or of another kind.
    """
    path = Path(path)
    with store.opened(path, _KIND) as file:
        layout = _layout(file)
        if not layout:
            raise ValueError(f"{path} holds {', '.join(list(file)[:6]) or 'nothing'}; expected {_KIND}")
        read = {"groups": _read_groups, "incompressible": _read_incompressible}.get(layout, _read_stacked)
        return read(file, path, layout, periodic)


def _read_stacked(file, path: Path, layout: str, periodic: bool | None) -> Trajectories:
    main = "tensor" if "tensor" in file else _first_field(file)
    shape, stationary = stored(file, main).shape, layout == "darcy"
    if len(shape) not in (3, 4, 5) or 0 in shape or (stationary and shape[1] != 1):
        raise ValueError(f"{path} holds {main} of shape {shape}; expected (samples, {1 if stationary else 'times'}, x[, y[, z]])")
    sizes = dict(zip("stxyz", shape, strict=False))
    space = SPACE[: len(shape) - 2]
    carried = unpack(file.attrs.get(KEY, ""))
    arrays, parameters, left = {}, {}, []
    for name, item in file.items():
        if name in _COORDINATES:
            continue
        dims = {shape: "st" + space, (shape[0], *shape[2:]): "s" + space, shape[:1]: "s"}.get(getattr(item, "shape", ()), "")
        if name == "tensor" and stationary:
            arrays[name] = foreign(file, name, "sc" + space, {**{k: sizes[k] for k in "s" + space}, "c": 1}, (0,))
        elif len(dims) > 1:
            arrays[_OURS.get(name, name)] = foreign(file, name, dims, {k: n for k, n in sizes.items() if k in dims})
        elif dims:
            parameters[name] = stored(file, name)[:]
        else:
            left.append(name)
    assumed = [f"{', '.join(left)} of other shapes left out"] if left else []
    axes = []
    around = _periodic(file, path, layout) if periodic is None else periodic
    for letter in space:
        values = stored(file, f"{letter}-coordinate")[:] if f"{letter}-coordinate" in file else None
        if values is not None and len(values) != sizes[letter]:
            raise ValueError(f"{path} holds {len(values)} coordinates of {letter}; expected {sizes[letter]}")
        axes.append(_cells(values, around, letter))
    times = None if stationary else _times(file, shape[1], path)
    if "tensor" in file:
        arrays = _named(arrays, carried, stationary)
    told = {"layout": layout, "attributes": _attributes(file)}
    for name in _COORDINATES:
        if name in file:
            told[name[0]] = pack_value(stored(file, name)[:])
    parameters |= _constants(file, shape[0], {*parameters, *arrays, *space})
    return assemble(arrays, Domain(tuple(axes)), times, parameters, _origin(path, told, carried, around, periodic, assumed))


def _named(arrays: dict, carried: Carried, stationary: bool) -> dict:
    """Put the field called tensor under its own name, the map's coefficient first."""
    if stationary:
        arrays = {"nu": arrays.pop("nu"), "tensor": arrays.pop("tensor"), **arrays}
        return dict(zip(carried.names(["nu", "u", *list(arrays)[2:]]), arrays.values(), strict=True))
    own = [name for name in carried.fields if name not in arrays]
    return {(own[0] if len(own) == 1 else "u") if name == "tensor" else name: array for name, array in arrays.items()}


def _first_field(file) -> str:
    """Return the name of the widest dataset."""
    import h5py

    found = {name: item.ndim for name, item in file.items() if isinstance(item, h5py.Dataset) and name not in _COORDINATES}
    if not found:
        raise ValueError(f"{file.filename} holds no field beside its coordinates; expected {_KIND}")
    return max(found, key=lambda name: found[name])


def _cells(values, periodic: bool, letter: str) -> Axis:
    if values is None:
        return Axis(0.0, 1.0, periodic=periodic, points="cell", name=letter)
    return axis_of(values, periodic=periodic, name=letter, points="cell")


def _periodic(file, path: Path, layout: str) -> bool:
    if layout == "scalar":
        return bool({"beta", "Nu", "nu"} & set(file.attrs))
    return layout == "cfd" and "trans" not in path.name.lower()


def _times(file, count: int, path: Path) -> np.ndarray:
    if "t-coordinate" not in file:
        return np.arange(count, dtype=np.float64)
    times = stored(file, "t-coordinate")[:]
    if times.ndim != 1 or len(times) not in (count, count + 1):
        raise ValueError(f"{path} holds {times.shape} times for {count} frames; expected as many or one more")
    return times[:count].astype(np.float64)


def _attributes(file) -> dict:
    return {name: packed for name, value in file.attrs.items() if name != KEY and (packed := pack_value(value))}


def _constants(file, samples: int, taken: set[str]) -> dict[str, np.ndarray]:
    """Numbers among the attributes, as parameters that are equal for all samples."""
    numbers = {name: np.asarray(value) for name, value in file.attrs.items() if name not in taken and name != "latestIndex"}
    return {name: np.full(samples, v) for name, v in numbers.items() if v.ndim == 0 and v.dtype.kind in "fiu" and "/" not in name}


def _origin(path: Path, told: dict, carried: Carried, around: bool, periodic: bool | None, assumed: list[str]) -> Origin:
    if periodic is None and carried.domain is None:
        kind = "periodic" if around else "walled, not periodic"
        assumed = [f"the file does not say whether the domain is periodic, it is taken to be {kind}", *assumed]
    return Origin(path, "pdebench", told, carried, assumed, periodic is None)


def _read_groups(file, path: Path, layout: str, periodic: bool | None) -> Trajectories:
    names = sorted(file)
    first, grid = stored(file, f"{names[0]}/data"), file[names[0]]["grid"]
    letters = SPACE[: len(grid) - 1]
    coordinates = {letter: stored(grid, letter)[:] for letter in letters + "t"}
    lengths = tuple(len(coordinates[letter]) for letter in letters)
    order = letters
    if lengths != first.shape[1:-1] and lengths == first.shape[1:-1][::-1]:
        order = letters[::-1]  # the states of diffusion-reaction are stored (T, y, x, C)
    sizes = dict(zip("t" + order + "c", first.shape, strict=False)) | {"s": len(names)}
    if first.ndim != len(letters) + 2 or any(len(v) != sizes[k] for k, v in coordinates.items()) or not 0 < first.shape[-1] <= 64:
        told = {k: len(v) for k, v in coordinates.items()}
        raise ValueError(f"{path} holds data of shape {first.shape} on the grid {told}; expected (times, {', '.join(letters)}, channels)")
    for name in names:
        if any(not np.array_equal(stored(file, f"{name}/grid/{k}")[:], v) for k, v in coordinates.items()):
            raise ValueError(f"{path} holds another grid in {name} than in {names[0]}; put samples of each grid into a file of its own")
    carried, channels = unpack(file.attrs.get(KEY, "")), first.shape[-1]
    default = ["u", "v"][:channels] if channels <= 2 else [f"u{c}" for c in range(channels)]
    still = [name for name in file[names[0]] if name not in ("data", "grid")]
    own = [name for name in carried.fields if name not in still]
    sources = [f"{name}/data" for name in names]
    arrays = {field: foreign(file, sources, f"t{order}c", sizes, (c,)) for c, field in enumerate(own if len(own) == channels else default)}
    space = {k: n for k, n in sizes.items() if k not in "tc"}
    arrays |= {field: foreign(file, [f"{name}/{field}" for name in names], letters, space) for field in still}
    around = bool(periodic)
    axes = tuple(_cells(coordinates[letter], around, letter) for letter in letters)
    told = {"layout": layout, "attributes": _attributes(file), "order": order, "samples": names}
    told |= {letter: pack_value(values) for letter, values in coordinates.items()}
    told["groups"] = [_attributes(file[name]) for name in names]
    square = len(letters) == 2 and lengths[0] == lengths[1] and "diff-react" in path.name
    assumed = ["its axes are read as (x, y); PDEBench stores diffusion-reaction as (y, x)"] if square else []
    values = {key: [np.asarray(file[name].attrs[key]) for name in names if key in file[name].attrs] for key in sorted(file[names[0]].attrs)}
    numbers = {key: v for key, v in values.items() if len(v) == len(names) and all(n.ndim == 0 and n.dtype.kind in "fiu" for n in v)}
    parameters = {key: np.array(v) for key, v in numbers.items()}
    origin = _origin(path, told, carried, around, periodic, assumed)
    return assemble(arrays, Domain(axes), coordinates["t"].astype(float), parameters, origin)


def _read_incompressible(file, path: Path, layout: str, periodic: bool | None) -> Trajectories:
    shape = stored(file, "velocity").shape
    if len(shape) not in (4, 5, 6) or shape[-1] != len(shape) - 3 or 0 in shape:
        raise ValueError(f"{path} holds velocity of shape {shape}; expected (samples, times, x, y, 2)")
    space, d = SPACE[: shape[-1]], shape[-1]
    sizes = dict(zip("st" + space, shape, strict=False))
    still = {k: n for k, n in sizes.items() if k != "t"}
    arrays = {}
    for a, letter in enumerate(space):
        arrays[f"velocity_{letter}"] = foreign(file, "velocity", f"st{space}c", {**sizes, "c": d}, (a,))
    arrays["particles"] = foreign(file, "particles", f"st{space}c", {**sizes, "c": 1}, (0,))
    for a, letter in enumerate(space):
        arrays[f"force_{letter}"] = foreign(file, "force", f"s{space}c", {**still, "c": d}, (a,))
    times = stored(file, "t")[:]
    if times.shape != shape[:2] or not (times == times[0]).all():
        raise ValueError(f"{path} holds times {times.shape} that differ between samples; put samples of each list of times into a file")
    around = bool(periodic)
    domain = Domain(tuple(_cells(None, around, letter) for letter in space))
    told = {"layout": layout, "attributes": _attributes(file), "t": pack_value(times[0])}
    assumed = ["the file does not say how far the domain reaches, it is taken to be 1 along each axis"]
    origin = _origin(path, told, unpack(file.attrs.get(KEY, "")), around, periodic, assumed)
    return assemble(arrays, domain, times[0].astype(float), {}, origin)


def write_pdebench(data: Trajectories, path: str | PathLike) -> list[str]:
    """Write a file that PDEBench's loaders read.

    Parameters
    ----------
    data : Trajectories
        Two stationary fields go into the layout darcy (the first is ``nu``); evolutions of flows (density, pressure,
        velocity_x, ...) and all in three dimensions into cfd; one field in one dimension into scalar; others into groups. What was
        read of PDEBench goes into the layout it had.
    path : path

    Returns
    -------
    list of str
        Sentences on what PDEBench has no word for.

    Raises
    ------
    ValueError
        If the fields fit no layout, or the file cannot be written.
    """
    path, told = Path(path), remembered(data, "pdebench")
    layout = _choose(data, str(told.get("layout", "")))
    told = told if told.get("layout") == layout else {}
    write = {"groups": _write_groups, "incompressible": _write_incompressible}.get(layout, _write_stacked)
    try:
        write_atomically(path, lambda temporary: write(temporary, data, layout, told))
    except OSError as error:
        raise store.cannot_write(path, error) from error
    return _notes(data, path, layout, told)


def _choose(data: Trajectories, before: str) -> str:
    evolving = [name for name, field in data.fields.items() if field.evolving]
    d = data.domain.ndim
    if d > 3:
        raise ValueError(f"PDEBench's files have one to three dimensions; got {d}")
    if data.times is None or not evolving:
        if len(data.fields) != 2 or data.times is not None:
            told = f"{len(data.fields)} stationary fields"
            raise ValueError(f"PDEBench's files hold evolutions, or a coefficient and a solution; got {told}, choose two of them")
        return "darcy"
    flow = {_OURS.get(name, name) for name in _FLOW}
    velocity = [f"velocity_{letter}" for letter in SPACE[:d]]
    if before == "incompressible" and {*velocity, "particles", *(f"force_{letter}" for letter in SPACE[:d])} == set(data.fields):
        return before
    if before == "groups" and d < 3:
        return before
    if d == 1 and len(evolving) == 1 and evolving[0] not in flow:
        return "scalar"
    return "cfd" if d == 3 or set(evolving) <= flow else "groups"


def _notes(data: Trajectories, path: Path, layout: str, told: dict) -> list[str]:
    notes = []
    if not told:
        notes.append("PDEBench's files do not say whether the domain is periodic nor keep titles; only opkernels reads that back")
    off = [axis.name for axis in data.domain.axes if axis.points != "cell"]
    if off and not told:
        notes.append(f"PDEBench's samples are cell centers, these are not along {', '.join(off)}; the coordinates say where they are")
    if (layout == "groups") != path.name.endswith("h5"):
        wanted = "end" if layout == "groups" else "not end"
        notes.append(f"PDEBench's loaders choose the layout by the name of the file, which should {wanted} with h5 for this one")
    if layout == "groups" and len(data) < 24:
        notes.append(f"PDEBench's loader takes the grid from sample 0023, but there are {len(data)}")
    if data.times is not None and (data.times.astype(np.float32) != data.times).any():
        notes.append("times are rounded to float32, as there; only opkernels reads them back exactly")
    if layout == "incompressible" and data.parameters and not told:
        notes.append(f"the parameters {', '.join(data.parameters)} have no place in this layout and are left out")
    return notes


def _begin(file, data: Trajectories, told: dict) -> None:
    _put(file.attrs, told.get("attributes", {}))
    file.attrs[KEY] = pack(data)


def _put(attributes, told) -> None:
    for name, packed in told.items():
        value = unpack_value(packed)
        if value is not None:
            attributes[name] = value if isinstance(value, (str, bytes)) else value[()]


def _write_stacked(path: Path, data: Trajectories, layout: str, told: dict) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        _begin(file, data, told)
        for letter, values in zip(SPACE, coordinates_of(data, told), strict=False):
            file[f"{letter}-coordinate"] = values
        if data.times is not None:
            file["t-coordinate"] = _times_of(data.times, told, surplus=True)
        for name, values in data.parameters.items():
            if (values == values[:1]).all() and values.dtype.kind in "fiu":
                file.attrs[name] = values[0]
            else:
                file.attrs.pop(name, None)
                file[name] = values
        evolving = [name for name, field in data.fields.items() if field.evolving]
        solution = evolving[0] if layout == "scalar" else list(data.fields)[-1]
        for name, field in data.fields.items():
            target = "tensor" if layout != "cfd" and name == solution else "nu" if layout == "darcy" else _THEIRS.get(name, name)
            shape = (len(data), 1, *data.shape) if layout == "darcy" and target == "tensor" else field.shape
            dataset = file.create_dataset(target, shape, dtype=field.dtype)
            for row in range(len(data)):
                for steps, numbers in blocks(field, row):
                    dataset[(row, *steps)] = numbers


def _times_of(times: np.ndarray, told: dict, *, surplus: bool) -> np.ndarray:
    """Return the stored times: as remembered where they are these, else float32, with one more frame where that is the rule."""
    kept = unpack_value(told.get("t"))
    if isinstance(kept, np.ndarray) and kept.ndim == 1 and np.array_equal(kept[: len(times)].astype(np.float64), times):
        return kept
    more = [times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1.0)] if surplus else []
    return np.append(times, more).astype(np.float32)


def _write_groups(path: Path, data: Trajectories, layout: str, told: dict) -> None:
    import h5py

    letters = data.domain.names
    order = [letters.index(k) for k in told.get("order", "") if k in letters]
    order = order if len(order) == len(letters) else list(range(len(letters)))
    names = told.get("samples", [])
    names = names if len(names) == len(data) else [f"{row:04d}" for row in range(len(data))]
    groups = told.get("groups", [])
    groups = groups if len(groups) == len(data) else [{}] * len(data)
    fields = [field for field in data.fields.values() if field.evolving]
    frames = (data.n_times, *(data.shape[a] for a in order), len(fields))
    with h5py.File(path, "w") as file:
        _begin(file, data, told)
        places, times = coordinates_of(data, told), _times_of(data.times, told, surplus=False)  # pyright: ignore[reportArgumentType]
        for row, name in enumerate(names):
            group = file.create_group(name)
            _put(group.attrs, groups[row])
            for key, values in data.parameters.items():
                group.attrs[key] = values[row]
            for key, field in data.fields.items():
                if not field.evolving:
                    group[key] = field[row]
            for letter, values in zip(SPACE, places, strict=False):
                group[f"grid/{letter}"] = values
            group["grid/t"] = times
            dataset = group.create_dataset("data", frames, dtype=np.result_type(*(field.dtype for field in fields)))
            for c, field in enumerate(fields):
                for steps, numbers in blocks(field, row):
                    dataset[(*steps, ..., c)] = numbers.transpose(0, *(a + 1 for a in order))


def _write_incompressible(path: Path, data: Trajectories, layout: str, told: dict) -> None:
    import h5py

    letters = SPACE[: data.domain.ndim]
    with h5py.File(path, "w") as file:
        _begin(file, data, told)
        times = _times_of(data.times, told, surplus=False)  # pyright: ignore[reportArgumentType]
        file["t"] = np.tile(times, (len(data), 1))
        for name, members in {
            "velocity": [f"velocity_{k}" for k in letters],
            "particles": ["particles"],
            "force": [f"force_{k}" for k in letters],
        }.items():
            fields = [data.fields[member] for member in members]
            dataset = file.create_dataset(name, (*fields[0].shape, len(fields)), dtype=fields[0].dtype)
            for row in range(len(data)):
                for c, field in enumerate(fields):
                    for steps, numbers in blocks(field, row):
                        dataset[(row, *steps, ..., c)] = numbers
