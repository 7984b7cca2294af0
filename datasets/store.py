"""The native file: netCDF-4 with one contiguous variable per physical field, written at once or not at all.

The file is plain HDF5 with dimension scales, made by h5py so that ``xarray.open_dataset`` shows it as an xarray user
expects, and so that a field's bytes lie in one aligned run which training maps into memory.

| what                   | as                                                                     |
| ---------------------- | ---------------------------------------------------------------------- |
| dimensions             | ``sample``, ``time`` (evolutions), then the axes of the domain         |
| coordinates            | CF attributes; ``domain_min``, ``domain_max``, ``boundary_condition``, ``position`` on each axis |
| fields                 | ``(sample, time, *axes)`` or, constant in time, ``(sample, *axes)``     |
| per-sample parameters  | ``(sample,)``, auxiliary coordinates of the fields                     |
| global attributes      | text and numbers: domain and recipe as JSON, seed, solver, versions, the solver's own error |

No field carries a time stamp: the same recipe gives the same bytes.

References
----------
NetCDF Climate and Forecast (CF) Metadata Conventions, version 1.11, https://cfconventions.org
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from opkernels.domains import Axis, Domain
from opkernels.sphere import Parallels, Sphere, domain_from_dict
from opkernels.storage import write_atomically

__all__ = [
    "Header",
    "Layout",
    "StoredArray",
    "Variable",
    "axis_attributes",
    "axis_letters",
    "axis_units",
    "cannot_write",
    "holds_particles",
    "opened",
    "plain",
    "read_header",
    "time_attributes",
    "write",
    "write_layout",
]

SCHEMA = "1"
RESERVED = ("sample", "time")


@dataclass(frozen=True)
class Variable:
    """One field of a file: its type, whether it changes in time, and its attributes.

    Parameters
    ----------
    dtype : numpy dtype
        Type of the numbers in the file.
    evolving : bool
        Whether the field has a time axis.
    attributes : dict
        ``units``, ``long_name``, and ``restriction``: the rule by which `Trajectories.at` coarsens the field.
    """

    dtype: np.dtype
    evolving: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """All of a file but the numbers of its fields.

    Parameters
    ----------
    domain : Domain or Sphere
    shape : tuple of int
        Samples along each axis of the domain.
    samples : int
        Number of trajectories N.
    times : ndarray (T,), float64, or None
        Output times; None for stationary data.
    fields : dict of str to Variable
    parameters : dict of str to ndarray (N,)
    attributes : dict
        Global attributes: text, numbers, lists of numbers.
    """

    domain: Domain | Sphere
    shape: tuple[int, ...]
    samples: int
    times: np.ndarray | None
    fields: Mapping[str, Variable]
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self):
        taken = [*RESERVED, *self.domain.names]
        for name in [*self.fields, *self.parameters]:
            if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
                raise ValueError(f"got a field or parameter named {name!r}; give it a name of letters, such as u or sea_level")
            if name in taken:
                raise ValueError(f"the name {name!r} is given twice; fields, parameters, axes, sample and time need different names")
            taken.append(name)
        if not self.fields:
            raise ValueError("got no field; give at least one array of shape (sample, time, *axes)")

    def dims(self, name: str) -> tuple[str, ...]:
        """Names of the dimensions of a field."""
        evolving = self.fields[name].evolving and self.times is not None
        return ("sample", *(["time"] if evolving else []), *self.domain.names)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a field: (N, T, *shape), or (N, *shape) where it has no time axis."""
        steps = (len(self.times),) if self.times is not None and "time" in self.dims(name) else ()
        return (self.samples, *steps, *self.shape)

    def layout(self) -> Layout:
        """Return what the file holds, in netCDF's words."""
        coordinates: dict[str, tuple[np.ndarray, Mapping[str, object]]] = {
            "sample": (np.arange(self.samples), {"long_name": "number of the trajectory"})
        }
        if self.times is not None:
            coordinates["time"] = (np.asarray(self.times, dtype=np.float64), time_attributes(self.times))
        units = axis_units(self.domain)
        for axis, n, letter in zip(self.domain.axes, self.shape, axis_letters(self.domain), strict=True):
            coordinates[axis.name] = (axis.coordinates(n, dtype=_float64()).numpy(), axis_attributes(axis, n, letter, units))
        variables = {
            name: (self.dims(name), self.shape_of(name), np.dtype(spec.dtype), spec.attributes) for name, spec in self.fields.items()
        }
        attributes = {**self.attributes, "opkernels_schema": SCHEMA, "domain": json.dumps(self.domain.to_dict())}
        return Layout(self.samples, attributes, coordinates, self.parameters, variables)


@dataclass(frozen=True)
class Layout:
    """What any native file holds but the numbers of its variables: grids' and particles' alike.

    Parameters
    ----------
    samples : int
        Number of trajectories N.
    attributes : dict
        Global attributes.
    coordinates : dict of str to (values, attributes)
        One for each dimension, "sample" among them.
    parameters : dict of str to ndarray (N,)
    variables : dict of str to (dimensions, shape, dtype, attributes)
        The first dimension of each is "sample".
    """

    samples: int
    attributes: Mapping[str, object]
    coordinates: Mapping[str, tuple[np.ndarray, Mapping[str, object]]]
    parameters: Mapping[str, np.ndarray]
    variables: Mapping[str, tuple[tuple[str, ...], tuple[int, ...], np.dtype, Mapping[str, object]]]


def axis_attributes(axis: Axis | Parallels, n: int, letter: str | None, units: str) -> dict:
    """CF attributes of a spatial coordinate, from which the axis of a box can be made again."""
    attributes: dict[str, object] = {
        "long_name": f"{axis.name} coordinate",
        "units": units,
        "domain_min": axis.lower,
        "domain_max": axis.upper,
        "position": axis.points,
        "boundary_condition": "periodic" if axis.periodic else "wall",
    }
    if letter:
        attributes["axis"] = letter
    if axis.points != "gauss":
        attributes["cell_width"] = axis.spacing(n)
    return attributes


def check_times(times) -> np.ndarray:
    """Return output times as float64; refuse times that do not increase or are not finite."""
    try:
        times = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError):
        times = np.empty(0)
    if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError("got times that are not a list of increasing finite numbers; give one time per stored step")
    return times


def time_attributes(times: np.ndarray) -> dict:
    """CF attributes of the time coordinate; dt where it is constant."""
    attributes: dict[str, object] = {"long_name": "time", "units": "1", "axis": "T"}
    steps = np.diff(times)
    if len(steps) and np.allclose(steps, steps[0], rtol=1e-9, atol=0):
        attributes["dt"] = float((times[-1] - times[0]) / len(steps))
    return attributes


def cannot_write(path: Path, error: OSError) -> ValueError:
    """Say in one sentence why a file could not be written; HDF5 and safetensors hide the number of the error in their text."""
    known = {
        errno.ENOSPC: "the disk is full; free some space or choose another disk",
        errno.EDQUOT: "the disk quota is used up; free some space or choose another disk",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.EACCES: "there is no permission to write there; choose another folder",
        errno.EPERM: "there is no permission to write there; choose another folder",
        errno.EEXIST: "one of its folders is a file; choose another folder",
        errno.ENOTDIR: "one of its folders is a file; choose another folder",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
        errno.ENOENT: "its folder cannot be made; choose another folder",
    }
    number = error.errno or next((n for n in known if f"errno = {n}," in str(error) or f"(os error {n})" in str(error)), None)
    told = known.get(number or 0, error.strerror or str(error))
    return ValueError(f"cannot write {path}: {told}")


def write(path: str | os.PathLike, header: Header, blocks: Iterable[tuple[int, Mapping[str, np.ndarray]]]) -> None:
    """Write a file at once: it appears under its name only when it is complete.

    Parameters
    ----------
    path : path
        Where the file goes; a file already there is replaced.
    header : Header
    blocks : iterable of (first, fields)
        Fields of the samples from `first` on, arrays of shape (n, T, *shape) or (n, *shape). Together they cover every
        sample; memory holds one block at a time.

    Raises
    ------
    ValueError
        If an attribute is neither text nor numbers, a block has the wrong shape, samples are missing, the folder cannot be
        written or the disk is full.
    """
    write_layout(path, header.layout(), blocks)


def write_layout(path: str | os.PathLike, layout: Layout, blocks: Iterable[tuple[int, Mapping[str, np.ndarray]]]) -> None:
    """Write a file of any layout at once, from blocks of samples; see `write`."""
    path = Path(path)
    _check_attributes(layout.attributes)
    try:
        write_atomically(path, lambda temporary: _fill(temporary, layout, blocks))
    except OSError as error:
        raise cannot_write(path, error) from error


def _check_attributes(attributes: Mapping[str, object]) -> None:
    """Refuse what a file cannot hold as an attribute."""
    for name, value in attributes.items():
        flat = np.asarray(value).dtype.kind if isinstance(value, (list, tuple, np.ndarray, np.generic, int, float)) else "U"
        if not isinstance(name, str) or not name or "\0" in name or flat not in "fiubU" or (flat == "U" and not _is_text(value)):
            raise ValueError(f"got the attribute {name!r} = {value!r}; give text, a number or a list of them under a name, or leave it out")


def _is_text(value) -> bool:
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value))


def _fill(path: Path, layout: Layout, blocks: Iterable[tuple[int, Mapping[str, np.ndarray]]]) -> None:
    import h5py

    written = 0
    with h5py.File(path, "w", track_order=True, alignment_threshold=256, alignment_interval=4096) as file:
        variables = _lay_out(file, layout)
        for first, arrays in blocks:
            count = len(arrays[next(iter(variables))])
            for name, variable in variables.items():
                array = np.asarray(arrays[name])
                if array.shape != (count, *variable.shape[1:]):
                    raise ValueError(f"got {name} of shape {array.shape}; expected {(count, *variable.shape[1:])}")
                variable[first : first + count] = array
            written += count
        if written != layout.samples:
            raise ValueError(f"got {written} of the {layout.samples} samples; give every sample once")


def _lay_out(file, layout: Layout) -> dict:
    """Make dimensions, coordinates and parameters, and room for the fields."""
    import h5py

    file.attrs.update({"Conventions": "CF-1.11", **layout.attributes})
    for name, (values, attributes) in layout.coordinates.items():
        kind = h5py.string_dtype() if values.dtype.kind == "O" else values.dtype
        scale = file.create_dataset(name, data=values, dtype=kind, track_order=True)
        scale.make_scale(name)
        scale.attrs.update(attributes)
    for name, values in layout.parameters.items():
        parameter = file.create_dataset(name, data=np.asarray(values), track_order=True)
        parameter.dims[0].attach_scale(file["sample"])
        parameter.attrs.update({"long_name": name.replace("_", " "), "units": "1"})
    variables = {}
    for name, (dims, shape, dtype, attributes) in layout.variables.items():
        variable = file.create_dataset(name, shape, dtype=dtype, track_order=True, fill_time="never")
        for i, dim in enumerate(dims):
            variable.dims[i].attach_scale(file[dim])
        variable.attrs.update({"long_name": name.replace("_", " "), "units": "1", **attributes})
        if layout.parameters:
            variable.attrs["coordinates"] = " ".join(layout.parameters)
        variables[name] = variable
    return variables


def _float64():
    import torch

    return torch.float64


def axis_units(domain: Domain | Sphere) -> str:
    """Return the unit of the coordinates: angles on a sphere, else none that we know."""
    return "radian" if isinstance(domain, Sphere) else "1"


def axis_letters(domain: Domain | Sphere) -> list[str | None]:
    """CF's letters of the axes; only the first three directions have one."""
    if isinstance(domain, Sphere):
        return ["Y", "X"]
    return [*"XYZ", *[None] * domain.ndim][: domain.ndim]


class StoredArray:
    """A field in a file: shape and type are known, numbers are read when asked for.

    Contiguous fields are mapped into memory; chunked and compressed ones are read by h5py. Nothing open crosses a fork
    or a pickle, so it can be handed to the workers of a ``DataLoader``.
    """

    def __init__(self, path: str, name: str, shape: tuple[int, ...], dtype: np.dtype, offset: int | None):
        self.path, self.name, self.shape, self.dtype, self.offset = path, name, tuple(shape), np.dtype(dtype), offset
        self._data, self._process = None, None

    def __reduce__(self):
        return StoredArray, (self.path, self.name, self.shape, self.dtype, self.offset)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        return self.array[key]

    @property
    def mapped(self) -> bool:
        """Whether the field is read through a memory map."""
        return self.offset is not None

    @property
    def array(self) -> Any:
        """The memory map, or the dataset of h5py, opened in this process."""
        if self._data is None or (self._process != os.getpid() and not self.mapped):
            self._data, self._process = self._open(), os.getpid()
        return self._data

    def _open(self) -> Any:
        if self.offset is not None:
            array = np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape)
            return array.view(np.ndarray)  # slicing a plain array is several times cheaper
        import h5py

        return h5py.File(self.path, "r", rdcc_nbytes=0)[self.name]


@contextlib.contextmanager
def opened(path: str | os.PathLike, kind: str = "a dataset made by opkernels") -> Iterator[Any]:
    """Open an HDF5 file to read; whatever is wrong with it is one sentence.

    Raises
    ------
    ValueError
        If the file is missing, cut short, damaged or not HDF5; `kind` says what was expected.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the path of {kind}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if "truncated" in str(error) or _begins_like_hdf5(path):
            raise ValueError(f"{path} is cut short or damaged; copy it again, or generate it again") from error
        raise ValueError(f"{path} is not a netCDF-4 (HDF5) file; give {kind}, or convert yours") from error
    with file:
        try:
            yield file
        except (KeyError, OSError, RuntimeError, TypeError, AttributeError, IndexError, MemoryError, OverflowError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is damaged: it holds a text that cannot be read ({error})") from error


def holds_particles(path: str | os.PathLike) -> bool:
    """Return whether a native file holds particles rather than fields on a grid; errors as those of `opened`."""
    with opened(path) as file:
        return str(plain(file.attrs.get("opkernels_schema", ""))).startswith("particles")


def read_header(path: str | os.PathLike) -> tuple[Header, dict[str, StoredArray]]:
    """Read a file's header, and its fields as arrays that read on demand.

    Raises
    ------
    ValueError
        If the file is missing, cut short, not HDF5, or not of this layout.
    """
    with opened(path) as file:
        return _header_of(file, Path(path))


def _begins_like_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _header_of(file, path: Path) -> tuple[Header, dict[str, StoredArray]]:
    import h5py

    attributes = {key: plain(value) for key, value in file.attrs.items() if not key.startswith("_")}
    schema = attributes.pop("opkernels_schema", None)
    if str(schema).startswith("particles"):
        raise ValueError(f"{path} holds particles; open it with opkernels.open_particles")
    if schema != SCHEMA:
        found = f"its layout is version {schema}" if schema else "it is another program's HDF5 file"
        raise ValueError(
            f"{path} is not a dataset of this version of opkernels ({found}); convert it, or read it with xarray and "
            "Trajectories.from_xarray"
        )
    domain = domain_from_dict(json.loads(attributes.pop("domain")))
    dims = {}
    for name, item in file.items():
        if isinstance(item, h5py.Dataset) and not item.is_scale:
            dims[name] = tuple(Path(str(scale[0].name)).name if len(scale) else "" for scale in item.dims)
    shape = tuple(len(file[name]) for name in domain.names)
    times = file["time"][:].astype(np.float64) if "time" in file else None
    fields, parameters, arrays = {}, {}, {}
    for name, item in file.items():
        if name not in dims:
            continue
        if dims[name] == ("sample",):
            parameters[name] = item[:]
        elif dims[name] in (("sample", "time", *domain.names), ("sample", *domain.names)):
            own = {key: plain(value) for key, value in item.attrs.items() if isinstance(value, (str, bytes)) and key != "coordinates"}
            if {"scale_factor", "add_offset"} & set(item.attrs):
                raise ValueError(f"{path} stores {name} as packed integers (scale_factor); write it as floating-point numbers")
            fields[name] = Variable(item.dtype, "time" in dims[name], own)
            offset = item.id.get_offset() if item.chunks is None else None
            arrays[name] = StoredArray(str(path.resolve()), name, item.shape, item.dtype, offset)
        else:
            raise ValueError(f"{path} stores {name} on the dimensions {dims[name]}; expected (sample, time, {', '.join(domain.names)})")
    header = Header(domain, shape, len(file["sample"]), times, fields, parameters, attributes)
    for name, array in arrays.items():
        if array.shape != header.shape_of(name):
            raise ValueError(f"{path} stores {name} with shape {array.shape}, but its coordinates say {header.shape_of(name)}")
    return header, arrays


def plain(value):
    """Return an attribute as plain Python data."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
