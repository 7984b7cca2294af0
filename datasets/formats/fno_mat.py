"""The .mat files of the Fourier neural operator, read and written, in versions 5 and 7.3.

| file                              | variables                                        | here                                   |
| --------------------------------- | ------------------------------------------------ | -------------------------------------- |
| NavierStokes_V1e-5_N1200_T20.mat  | u (N, X, Y, T), time last; a (N, X, Y); t (1, T) | u evolves, a does not; periodic, nodes |
| piececonst_r421_N1024_smooth1.mat | coeff, sol, Kcoeff, ... (N, X, Y)                | stationary; a box with both walls      |
| burgers_data_R10.mat              | a, u (N, X)                                      | stationary; periodic, nodes            |

Domains are taken to have length 1, which the files do not say; ``periodic=`` says that they repeat. Other vectors of N numbers
are parameters; small arrays of other shapes are remembered and written again. Version 7.3 is HDF5 with the axes reversed, read
sample by sample; version 5 is mapped into memory where it is not compressed. All numbers are kept bit for bit.

Reference: Li et al., ICLR 2021, arXiv 2010.08895; MATLAB, MAT-File Format, 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from opkernels.datasets import store
from opkernels.datasets.formats.carried import KEY, Origin, assemble, blocks, pack, pack_value, remembered, unpack, unpack_value
from opkernels.datasets.formats.lazy import SPACE, foreign, one_line, stored
from opkernels.datasets.formats.mat5 import Variable, is_mat5, variables
from opkernels.datasets.trajectories import Trajectories
from opkernels.domains import Axis, Domain
from opkernels.storage import write_atomically

__all__ = ["is_mat73", "read_fno_mat", "write_fno_mat"]

_KIND = "a .mat file of the Fourier neural operator, such as NavierStokes_V1e-5_N1200_T20.mat"
_CLASSES = {"f4": "single", "f8": "double"} | {f"{k}{n}": f"{'u' * (k == 'u')}int{8 * n}" for k in "iu" for n in (1, 2, 4, 8)}
_KEPT = 1 << 16  # numbers of a variable that is remembered, not read as a field
_LARGEST = (1 << 31) - (1 << 16)  # bytes of a variable of version 5


def is_mat73(path: Path) -> bool:
    """Whether a file begins like a .mat file of version 7.3, which is HDF5 after 512 bytes."""
    with path.open("rb") as file:
        head = file.read(520)
    return head[:10] == b"MATLAB 7.3" and head[512:] == b"\x89HDF\r\n\x1a\n"


def read_fno_mat(path: str | PathLike, *, periodic: bool | None = None) -> Trajectories:
    """Read a .mat file of arrays over samples.

    Parameters
    ----------
    path : path
    periodic : bool, optional
        Whether the domain is periodic, which the file does not say; by default as the table of this module tells.

    Returns
    -------
    Trajectories
        What was assumed is told in ``attributes["assumed"]``.

    Raises
    ------
    ValueError
        If the file is missing, damaged, of another kind, or its arrays do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give {_KIND}")
    if is_mat5(path):
        try:
            found = variables(path)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {one_line(error)}; copy it again") from error
        return _read(path, found, periodic)
    with store.opened(path, _KIND) as file:
        return _read(path, {name: _Reversed(file, name) for name in file if not name.startswith("#")}, periodic)


class _Reversed:
    """A variable of version 7.3 as MATLAB sees it: shape and type now, numbers when asked for."""

    def __init__(self, file, name: str):
        self.file, self.name, item = file, name, file[name]
        kind = store.plain(item.attrs.get("MATLAB_class", "")) if hasattr(item, "attrs") else ""
        self.shape: tuple[int, ...] = tuple(reversed(getattr(item, "shape", ())))
        self.dtype = np.dtype(bool) if kind == "logical" else getattr(item, "dtype", np.dtype(object))
        self.text = stored(file, name)[()].astype("<u2").tobytes().decode("utf-16-le") if kind == "char" else None

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return stored(self.file, self.name)[()].T.astype(dtype or self.dtype)


def _read(path: Path, found: Mapping[str, Variable | _Reversed], periodic: bool | None) -> Trajectories:
    carried = unpack(getattr(found.get(KEY), "text", None) or "")
    arrays = {name: value for name, value in found.items() if name != KEY and value.dtype.kind in "fiub" and len(value.shape) >= 2}
    if not arrays:
        raise ValueError(f"{path} holds no array of real numbers; expected {_KIND}")
    widest = max(arrays, key=lambda name: (len(arrays[name].shape), int(np.prod(arrays[name].shape))))
    shape = arrays[widest].shape
    times = _times(arrays, shape, carried.times is not None)
    space = shape[1:-1] if times is not None else shape[1:]
    if not 1 <= len(space) <= 3 or min(shape) < 1 or min(space) < 2:
        told = ", ".join(f"{name} {value.shape}" for name, value in list(arrays.items())[:6])
        raise ValueError(f"{path} holds {told}; expected arrays (samples, x[, y[, z]][, times])")
    fields, parameters, kept, left = _sort(arrays, shape, space, times)
    letters = SPACE[: len(space)]
    sizes = {"s": shape[0], **dict(zip(letters, space, strict=True))}
    sources = {}
    for name, evolving in fields.items():
        value, order = arrays[name], "s" + letters + "t" * evolving
        if isinstance(value, _Reversed):
            source = foreign(value.file, name, order[::-1], sizes | ({"t": shape[-1]} if evolving else {}))
            source.dtype = value.dtype if value.dtype.kind == "b" else source.dtype
        else:
            source = Variable(np.moveaxis(value.numbers, -1, 1), (shape[0], shape[-1], *space), value.dtype) if evolving else value
        sources[name] = source
    assumed = [f"arrays of other shapes are left out: {', '.join(left)}"] if left else []
    around = (times is not None or len(space) == 1) if periodic is None else periodic
    if carried.domain is None:
        assumed.insert(0, _assumption(around))
    axis = {"periodic": around, "points": "node" if around else "endpoint"}
    domain = Domain(tuple(Axis(0.0, 1.0, name=letter, **axis) for letter in letters))
    told = {"variables": kept}
    origin = Origin(path, "fno_mat", told, carried, assumed, periodic is None)
    return assemble(sources, domain, times, parameters, origin)


def _assumption(periodic: bool) -> str:
    kind = "periodic with nodes at i/n" if periodic else "walled with samples on both walls"
    return f"the file does not say its domain, it is taken to have length 1 along each axis and to be {kind}"


def _times(arrays: Mapping[str, Any], shape: tuple[int, ...], evolving: bool) -> np.ndarray | None:
    """Return the times where the last axis of the widest array is time, else None."""
    still = any(value.shape == shape[:-1] for value in arrays.values())
    t = arrays.get("t")
    listed = t is not None and sorted(t.shape) == sorted((1, shape[-1])) and len(t.shape) == 2
    if len(shape) < 3 or not (still or listed or evolving):
        return None
    return np.asarray(t, dtype=np.float64).ravel() if listed else np.arange(1.0, shape[-1] + 1)


def _sort(arrays: Mapping[str, Any], shape: tuple[int, ...], space: tuple[int, ...], times) -> tuple[dict, dict, dict, list]:
    """Sort variables into fields (name to evolving), parameters, small arrays to remember, and those left out."""
    fields, parameters, kept, left = {}, {}, {}, []
    for name, value in arrays.items():
        if value.shape in ((shape[0], *space), shape):
            fields[name] = times is not None and value.shape == shape
        elif value.shape in ((shape[0], 1), (1, shape[0])) and name != "t":
            parameters[name] = np.asarray(value).ravel()
            kept[name] = list(value.shape)
        elif int(np.prod(value.shape)) <= _KEPT and (packed := pack_value(np.asarray(value))):
            kept[name] = packed
        else:
            left.append(name)
    return fields, parameters, kept, left


def write_fno_mat(data: Trajectories, path: str | PathLike, *, version: str = "5") -> list[str]:
    """Write a .mat file that MATLAB, scipy (version 5) and the readers of the Fourier neural operator read.

    Parameters
    ----------
    data : Trajectories
        Fields become variables (N, X, Y, T) with time last, or (N, X, Y); times t (1, T); parameters (N, 1).
    path : path
    version : {"5", "7.3"}
        Version 5 holds at most 2 GB per variable, and one variable at a time is in memory while it is written; 7.3 has no such limit.

    Returns
    -------
    list of str
        Sentences on what the format has no word for.

    Raises
    ------
    ValueError
        If a variable is too large or of a type or name that MATLAB does not know, or the file cannot be written.
    """
    path, told = Path(path), remembered(data, "fno_mat")
    _check(data, version)
    write = _write_5 if version == "5" else _write_73
    try:
        write_atomically(path, lambda temporary: write(temporary, data, told))
    except OSError as error:
        raise store.cannot_write(path, error) from error
    notes = [f".mat files do not say a field's domain; it stands in the text {KEY}, which only opkernels reads"] if not told else []
    return notes


def _check(data: Trajectories, version: str) -> None:
    for name, field in [*data.fields.items(), *data.parameters.items()]:
        if not (name.isidentifier() and name.isascii() and not name.startswith("_") and len(name) < 64) or name in (KEY, "t"):
            raise ValueError(
                f"MATLAB cannot have a variable named {name!r} beside the times t; rename it to a letter and letters or digits"
            )
        if field.dtype.kind != "b" and field.dtype.str[1:] not in _CLASSES:
            raise ValueError(f"MATLAB has no type {field.dtype}, that of {name}; give float32 or float64")
        if version == "5" and int(np.prod(field.shape)) * field.dtype.itemsize > _LARGEST:
            raise ValueError(f"{name} is larger than the 2 GB of a variable of version 5; write version 7.3 (--to mat73)")


def _small(data: Trajectories, told: dict) -> dict[str, np.ndarray]:
    """Return times, parameters and remembered arrays, in MATLAB's shapes."""
    kept = told.get("variables", {})
    small = {name: array for name, packed in kept.items() if isinstance(array := unpack_value(packed), np.ndarray)}
    t = small.pop("t", None)
    counted = bool(told) and t is None and data.times is not None and np.array_equal(data.times, np.arange(1.0, data.n_times + 1))
    if data.times is not None and not counted:
        small["t"] = t if t is not None and np.array_equal(t.ravel(), data.times) else data.times[None]
    for name, values in data.parameters.items():
        shape = kept.get(name)
        small[name] = values.reshape(shape if shape in ([1, len(values)], [len(values), 1]) else (-1, 1))
    return {name: array for name, array in small.items() if name not in data.fields}


def _write_5(path: Path, data: Trajectories, told: dict) -> None:
    from scipy.io import savemat

    with path.open("wb") as file:
        for name, field in data.fields.items():
            values = np.asarray(field)
            savemat(file, {name: np.moveaxis(values, 1, -1) if field.evolving else values})
        for name, values in _small(data, told).items():
            savemat(file, {name: values})
        savemat(file, {KEY: pack(data)})


def _write_73(path: Path, data: Trajectories, told: dict) -> None:
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, field in data.fields.items():
            shape = (*field.spatial[::-1], len(field))
            dataset = _variable(file, name, (field.shape[1], *shape) if field.evolving else shape, field.dtype)
            for row in range(len(field)):
                for steps, numbers in blocks(field, row):
                    turned = numbers.transpose(0, *range(numbers.ndim - 1, 0, -1)) if field.evolving else numbers.T
                    dataset[(*steps, ..., row)] = turned
        for name, values in _small(data, told).items():
            _variable(file, name, values.shape[::-1], values.dtype)[...] = values.T
        text = np.frombuffer(pack(data).encode("utf-16-le"), dtype=np.uint16)[:, None]
        variable = file.create_dataset(KEY, data=text)
        variable.attrs.update({"MATLAB_class": np.bytes_("char"), "MATLAB_int_decode": np.int32(2)})
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: opkernels".ljust(116) + b"\x00" * 8 + b"\x00\x02IM")


def _variable(file, name: str, shape: tuple[int, ...], dtype: np.dtype):
    kind = "logical" if dtype.kind == "b" else _CLASSES[dtype.str[1:]]
    variable = file.create_dataset(name, shape, dtype=np.uint8 if dtype.kind == "b" else dtype)
    variable.attrs["MATLAB_class"] = np.bytes_(kind)
    if dtype.kind == "b":
        variable.attrs["MATLAB_int_decode"] = np.int32(1)
    return variable
