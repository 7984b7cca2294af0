"""Fields: arrays (sample, [time,] *spatial) that are read when asked for, at the resolution asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from opkernels.datasets.restriction import restrict
from opkernels.datasets.store import StoredArray
from opkernels.domains import Grid
from opkernels.sphere import SphereGrid

__all__ = ["Field"]


class Field:
    """One physical field of a dataset: an array (sample, [time,] *spatial) whose numbers are read when asked for.

    Index it as a NumPy array (``field[3, 0]``, ``field[[1, 2], -1]``), or turn it into one (``np.asarray(field)``). What is
    read are the samples that the first index names, and one step where the first two are numbers.

    Parameters
    ----------
    source : array
        The stored numbers: NumPy, `StoredArray`, or anything with shape, dtype and basic indexing.
    rows : ndarray of int
        Stored samples that this field shows, in order.
    grid : Grid or SphereGrid
        Where the stored numbers sit.
    shape : tuple of int
        Spatial shape asked for.
    evolving : bool
        Whether there is a time axis.
    attributes : dict
        Units, names, and the rule of restriction.
    """

    def __init__(
        self, source, rows: np.ndarray, grid: Grid | SphereGrid, shape: tuple[int, ...], evolving: bool, attributes: Mapping[str, str]
    ):
        self.source, self.rows, self.grid, self.evolving, self.attributes = source, rows, grid, evolving, dict(attributes)
        self.shape = (len(rows), *source.shape[1 : 2 if evolving else 1], *shape)
        self.dtype = np.dtype(source.dtype)
        self.rule = self.attributes["restriction"]
        if self.spatial != grid.shape and self.rule != "nodal" and self.dtype.kind != "f":
            self.dtype = np.dtype(np.float32)

    def __repr__(self) -> str:
        return f"Field(shape={self.shape}, dtype={self.dtype}, restriction={self.rule!r})"

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Spatial shape."""
        return self.shape[-self.grid.ndim :]

    @property
    def array(self) -> np.ndarray | None:
        """The plain array behind this field at its stored resolution: memory, or a map of a file; None where there is neither."""
        if self.spatial != self.grid.shape:
            return None
        if isinstance(self.source, StoredArray):
            return self.source.array if self.source.mapped else None
        return self.source if isinstance(self.source, np.ndarray) else None

    def block(self, row: int, steps: slice | np.ndarray) -> np.ndarray:
        """Return one sample at some steps, (steps, *spatial), or (1, *spatial) where the field has no time axis."""
        row = int(self.rows[row])
        if not self.evolving:
            stored = np.asarray(self.source[row])[None]
        elif isinstance(steps, slice):
            stored = np.asarray(self.source[row, steps])
        elif len(steps):  # one run of the file, then the steps in their order
            first = int(steps.min())
            stored = np.asarray(self.source[row, first : int(steps.max()) + 1])[steps - first]
        else:
            stored = np.empty((0, *self.grid.shape), self.dtype)
        return restrict(stored, self.rule, self.grid, self.spatial)

    def fill(self, out: np.ndarray, rows: np.ndarray, windows: Sequence[slice | np.ndarray]) -> None:
        """Copy one window of steps of each sample into `out`, (B, steps, *spatial)."""
        array = self.array if self.evolving else None
        if array is None:
            for b, (row, window) in enumerate(zip(rows, windows, strict=True)):
                out[b] = self.block(row, window)
            return
        stored = self.rows[rows].tolist()
        for b, window in enumerate(windows):  # whole runs of memory, nothing between
            out[b] = array[stored[b], window]

    def __getitem__(self, key) -> np.ndarray:
        key = key if isinstance(key, tuple) else (key,)
        if not key or any(part is Ellipsis or part is None for part in key):
            return np.asarray(self)[key]
        which, rest = key[0], key[1:]
        if isinstance(which, slice):
            return self._samples(np.arange(len(self))[which])[(slice(None), *rest)]
        which = np.asarray(which)
        if which.dtype == bool or which.dtype.kind not in "iu":  # NumPy knows what to do, or how to refuse
            return np.asarray(self)[key]
        if which.ndim:
            needed, place = np.unique(np.arange(len(self))[which], return_inverse=True)
            return self._samples(needed)[(place.reshape(which.shape), *rest)]
        row = range(len(self))[int(which)]
        if not self.evolving:
            return self.block(row, slice(None))[(0, *rest)]
        if rest and isinstance(rest[0], (int, np.integer)) and not isinstance(rest[0], bool):
            step = range(self.shape[1])[int(rest[0])]
            return self.block(row, slice(step, step + 1))[None][(0, 0, *rest[1:])]
        return self.block(row, slice(None))[None][(0, *rest)]

    def _samples(self, rows: np.ndarray) -> np.ndarray:
        """Return whole samples, (len(rows), [time,] *spatial)."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for i, row in enumerate(rows):
            out[i] = self[row]
        return out

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        array = self.array
        if array is not None and len(self.rows) == len(array) and (self.rows == np.arange(len(array))).all():
            return array.astype(dtype or array.dtype, copy=bool(copy))
        return self._samples(np.arange(len(self))).astype(dtype or self.dtype, copy=False)
