"""Fields: arrays (sample, [time,] *spatial) that are read when asked for, at the resolution asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from opkernels.datasets.restriction import restrict
from opkernels.datasets.store import StoredArray
from opkernels.domains import Grid

__all__ = ["Field"]


class Field:
    """One physical field of a dataset: an array (sample, [time,] *spatial) whose numbers are read when asked for.

    Index it as a NumPy array (``field[3, 0]``), or turn it into one (``np.asarray(field)``).

    Parameters
    ----------
    source : array
        The stored numbers: NumPy, `StoredArray`, or anything with shape, dtype and basic indexing.
    rows : ndarray of int
        Stored samples that this field shows, in order.
    grid : Grid
        Where the stored numbers sit.
    shape : tuple of int
        Spatial shape asked for.
    evolving : bool
        Whether there is a time axis.
    attributes : dict
        Units, names, and the rule of restriction.
    """

    def __init__(self, source, rows: np.ndarray, grid: Grid, shape: tuple[int, ...], evolving: bool, attributes: Mapping[str, str]):
        self.source, self.rows, self.grid, self.evolving, self.attributes = source, rows, grid, evolving, dict(attributes)
        self.shape = (len(rows), *source.shape[1 : 2 if evolving else 1], *shape)
        self.dtype = np.dtype(source.dtype)
        self.rule = self.attributes["restriction"]
        if self.spatial != grid.shape and self.rule == "mean" and self.dtype.kind != "f":
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
        if any(part is Ellipsis or part is None for part in key):
            return np.asarray(self)[key]
        if isinstance(key[0], slice) or np.ndim(key[0]):
            rows = np.arange(len(self))[key[0]]
            return (
                np.stack([self[row] for row in rows])[(slice(None), *key[1:])] if len(rows) else np.empty((0, *self.shape[1:]), self.dtype)
            )
        row = range(len(self))[int(key[0])]
        if not self.evolving:
            return self.block(row, slice(None))[0][key[1:]]
        if len(key) > 1 and isinstance(key[1], (int, np.integer)):
            step = range(self.shape[1])[int(key[1])]
            return self.block(row, slice(step, step + 1))[0][key[2:]]
        return self.block(row, slice(None))[key[1:]]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        array = self.array
        if array is not None and len(self.rows) == len(array) and (self.rows == np.arange(len(array))).all():
            return array.astype(dtype or array.dtype, copy=bool(copy))
        out = np.empty(self.shape, dtype or self.dtype)
        for row in range(len(self)):
            out[row] = self[row]
        return out
