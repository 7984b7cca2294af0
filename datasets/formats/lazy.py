"""Arrays in foreign HDF5 files as fields (sample, [time,] *space), read sample by sample when asked for.

A dataset's axes are told by letters: s sample, t time, x y z space, c component. "stxy" is a stack of evolutions; "txyc"
one sample with its components last, one dataset per sample; "yxs" MATLAB's reversed axes. An axis that a dataset lacks
is repeated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["SPACE", "ForeignArray", "check_stored", "foreign", "one_line", "stored"]

SPACE = "xyz"
_CACHE = 1 << 26  # bytes of HDF5's chunk cache, for chunks that hold several samples
_DEFLATE = 1100  # deflate shrinks at most 1032-fold
_FAULTS = (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError, MemoryError, OverflowError)


class ForeignArray:
    """A field in somebody else's HDF5 file: what `opkernels.datasets.fields.Field` takes as its source.

    Parameters
    ----------
    path : str
    names : sequence of str
        One dataset for all samples, or one per sample.
    dims : str
        Letters of the datasets' axes.
    component : tuple of int
        The index on each axis c.
    shape : tuple of int
        (sample, [time,] *space), as the field is to be seen.
    dtype : numpy dtype

    Raises
    ------
    ValueError
        When numbers are asked for that the file, damaged, cannot give.
    """

    def __init__(self, path: str, names: Sequence[str], dims: str, component: tuple[int, ...], shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.dims, self.component = path, dims, component
        self.names: tuple[str, ...] = tuple(names)
        self.shape, self.dtype, self._file, self._process = shape, dtype, None, None

    def __reduce__(self):
        return ForeignArray, (self.path, self.names, self.dims, self.component, self.shape, self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        row, steps = key if isinstance(key, tuple) else (key, slice(None))
        kept = [letter for letter in self.dims if letter not in "sc"]
        seen = [letter for letter in "txyz" if letter in kept]
        try:
            values = self._open()[self.names[row if len(self.names) > 1 else 0]][self._index(row, steps)]
            values = values.transpose([kept.index(letter) for letter in seen])
            return self._repeated(values.astype(self.dtype, copy=False), seen)
        except _FAULTS as error:
            raise ValueError(f"{self.path} is damaged: {one_line(error)}; copy it again") from error

    def _index(self, row: int, steps: slice) -> tuple:
        components = iter(self.component)
        return tuple({"s": lambda: row, "t": lambda: steps, "c": lambda: next(components)}.get(d, lambda: slice(None))() for d in self.dims)

    def _repeated(self, values: np.ndarray, seen: Sequence[str]) -> np.ndarray:
        """Add the axes of space that the dataset lacks."""
        evolving = "t" in seen
        space = self.shape[2 if evolving else 1 :]
        for at, letter in enumerate(SPACE[: len(space)]):
            if letter not in seen:
                values = np.expand_dims(values, at + evolving)
        return np.broadcast_to(values, (*values.shape[:evolving], *space))

    def _open(self) -> Any:
        if self._file is None or self._process != os.getpid():  # nothing open crosses a fork
            import h5py

            self._file, self._process = h5py.File(self.path, "r", rdcc_nbytes=_CACHE), os.getpid()
        return self._file


def foreign(file, names: str | Sequence[str], dims: str, sizes: Mapping[str, int], component: tuple[int, ...] = ()) -> ForeignArray:
    """Return a field of an open HDF5 file; refuse datasets of other shapes or types than the letters and sizes say.

    Parameters
    ----------
    file : h5py.File
    names : str or sequence of str
        One dataset for all samples, or one per sample.
    dims : str
        Letters of the datasets' axes.
    sizes : mapping of letter to int
        Sizes of s, t (where the field evolves), x, y, z, and c.
    component : tuple of int
        The index on each axis c.

    Raises
    ------
    ValueError
        In one sentence on what came and what was expected.
    """
    names = [names] if isinstance(names, str) else list(names)
    first = stored(file, names[0])
    expected = tuple(sizes[letter] for letter in dims)
    found = [first, *(stored(file, name) for name in names[1:])]
    for name, data in zip(names, found, strict=True):
        if data.shape != expected or data.dtype != first.dtype:
            told = f"{data.dtype} {data.shape}"
            raise ValueError(f"{file.file.filename} holds {name} of {told}; expected {first.dtype} {expected}, as the others")
    shape = tuple(sizes[letter] for letter in "stxyz" if letter in sizes and (letter != "t" or "t" in dims))
    full = [str(data.name) for data in found]
    return ForeignArray(os.path.realpath(file.file.filename), full, dims, component, shape, first.dtype.newbyteorder("="))


def stored(file, name: str):
    """Return a dataset of real numbers whose bytes can be there; refuse anything else in one sentence."""
    import h5py

    data = file.get(name)
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"{file.file.filename} holds no array {name}; expected one")
    check_stored(data, file.file.filename)
    return data


def check_stored(data, path: str) -> None:
    """Refuse a dataset that is not of real numbers, or claims more numbers than its bytes can hold."""
    if data.dtype.kind not in "fiub" or data.dtype.itemsize > 8 or data.shape is None:
        raise ValueError(f"{path} holds {data.name} of type {data.dtype}; expected real numbers")
    claimed, there = int(np.prod([int(n) for n in data.shape], dtype=object)) * data.dtype.itemsize, data.id.get_storage_size()
    if claimed > there * (1 if data.chunks is None else _DEFLATE):
        raise ValueError(
            f"{path} is damaged or empty: {data.name} of shape {data.shape} needs {claimed} bytes, but {there} are stored; copy it again"
        )


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).strip("\"'").split()) or type(error).__name__
