"""Trajectories: a dataset as functions on a domain, read lazily, at any resolution up to the stored one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from opkernels.datasets import store
from opkernels.datasets.fields import Field
from opkernels.datasets.restriction import RULES, check_restriction, default_rule, with_rule
from opkernels.domains import Domain, Grid
from opkernels.sphere import Sphere, SphereGrid

__all__ = ["Trajectories", "open_trajectories"]


class Trajectories:
    """A dataset: N samples of functions on a domain, evolving in time or stationary.

    Made by `open_trajectories`, `from_arrays`, `from_xarray` or `opkernels.generate`. Nothing is read before it is
    asked for, and views (`at`, `split`, `select`) read nothing either. A dataset can be pickled: what is sent is the
    path, so it can be handed to the workers of a ``DataLoader``.

    Attributes
    ----------
    domain : Domain or Sphere
    times : ndarray (T,) or None
        Output times; None for stationary data.
    fields : dict of str to Field
        Lazy arrays (sample, [time,] *spatial) by name; iterating gives the channels' names in order.
    parameters : dict of str to ndarray (N,)
        Per-sample parameters.
    attributes : dict
        Title, recipe, seed, solver, versions, the solver's own error, ...

    Examples
    --------
    >>> import numpy as np
    >>> from opkernels import Domain, Trajectories
    >>> domain = Domain.periodic(1.0, 1.0)
    >>> data = Trajectories.from_arrays({"u": np.zeros((10, 5, 64, 64))}, domain, times=np.arange(5))
    >>> train, test = data.split(train=0.8)
    >>> train.at(32, 32).read([0, 3], slice(0, 2)).shape
    torch.Size([2, 2, 1, 32, 32])
    """

    def __init__(
        self,
        domain: Domain | Sphere,
        fields: Mapping[str, Field],
        times: np.ndarray | None,
        parameters: Mapping[str, np.ndarray],
        attributes: Mapping[str, object],
    ):
        self.domain, self.times = domain, times
        self.fields, self.parameters, self.attributes = dict(fields), dict(parameters), dict(attributes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return next(iter(self.fields.values())).spatial

    @property
    def grid(self) -> Grid | SphereGrid:
        """The domain sampled with `shape`."""
        return self.domain.grid(*self.shape)

    @property
    def n_times(self) -> int:
        """Number of output times T; 1 for stationary data."""
        return 1 if self.times is None else len(self.times)

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __repr__(self) -> str:
        span = "stationary" if self.times is None else f"{self.n_times} times in [{self.times[0]:g}, {self.times[-1]:g}]"
        extent = " x ".join(f"{length:g}" for length in self.domain.extent)
        if isinstance(self.domain, Sphere):
            extent = f"a sphere of radius {self.domain.radius:g}"
        shape = " x ".join(map(str, self.shape))
        parameters = f", parameters {', '.join(self.parameters)}" if self.parameters else ""
        return f"Trajectories({len(self)} samples of {', '.join(self.fields)} on {shape} points of {extent}, {span}{parameters})"

    def read(
        self,
        samples: int | slice | Sequence[int] | np.ndarray | Tensor = slice(None),
        steps: int | slice | Sequence[int] | np.ndarray | Tensor = slice(None),
        *,
        fields: Sequence[str] | None = None,
    ) -> Tensor:
        """Read samples at output steps into one tensor.

        Parameters
        ----------
        samples, steps : int, slice or whole numbers
            Which samples, and which of the times; negative numbers count from the end.
        fields : sequence of str, optional
            Names of the channels; all of them by default.

        Returns
        -------
        Tensor, (B, T, C, *spatial)
            T = 1 for stationary data; fields without a time axis are repeated over the steps. Whole numbers, and true and
            false, are read as float32.

        Raises
        ------
        ValueError
            If a sample, a step or a field does not exist.
        """
        rows, steps = _numbers(samples, len(self), "sample"), _numbers(steps, self.n_times, "step")
        window = slice(int(steps[0]), int(steps[-1]) + 1) if len(steps) and (np.diff(steps) == 1).all() else steps
        return self._gather(rows, [window] * len(rows), len(steps), fields)

    def windows(
        self, samples: Sequence[int] | np.ndarray, starts: Sequence[int] | np.ndarray, length: int, *, fields: Sequence[str] | None = None
    ) -> Tensor:
        """Read one window of consecutive steps of each sample: what a training step asks for.

        Parameters
        ----------
        samples, starts : sequences of int, (B,)
            The sample and the first step of each window.
        length : int
            Steps per window.
        fields : sequence of str, optional
            Names of the channels; all of them by default.

        Returns
        -------
        Tensor, (B, length, C, *spatial)

        Raises
        ------
        ValueError
            If a window leaves the stored steps, or a sample or a field does not exist.
        """
        rows = _numbers(samples, len(self), "sample")
        first = np.asarray(starts).reshape(-1)
        if len(first) != len(rows):
            raise ValueError(f"got {len(rows)} samples and {len(first)} starts; give one start for each sample")
        if len(first) and (first.min() < 0 or first.max() + length > self.n_times):
            raise ValueError(f"a window of {length} steps from step {first.max()} leaves the {self.n_times} stored steps; start earlier")
        return self._gather(rows, [slice(start, start + length) for start in first.tolist()], length, fields)

    def _gather(self, rows: np.ndarray, windows: Sequence[slice | np.ndarray], length: int, names: Sequence[str] | None) -> Tensor:
        """Read into one buffer."""
        fields = list(self.fields.values()) if names is None else [self._field(name) for name in names]
        dtype = np.result_type(*(field.dtype if field.dtype.kind == "f" else np.float32 for field in fields))
        out = torch.empty(len(rows), length, len(fields), *self.shape, dtype=getattr(torch, dtype.name))
        view = out.numpy()
        for c, field in enumerate(fields):
            field.fill(view[:, :, c], rows, windows)
        return out

    def _field(self, name: str) -> Field:
        if name not in self.fields:
            raise ValueError(f"there is no field {name!r}; the dataset holds {', '.join(self.fields)}")
        return self.fields[name]

    def at(self, *shape: int) -> Trajectories:
        """Return the same functions on a coarser grid, each field restricted by its own rule, when read.

        Parameters
        ----------
        *shape : int
            Samples along each axis, at most as many as are stored.

        Raises
        ------
        ValueError
            If the shape is finer than the stored one, or a field's rule cannot reach it.
        """
        target = self.domain.grid(*shape).shape
        for name, field in self.fields.items():
            check_restriction(field.rule, field.grid, target, name)
        return self._with({n: Field(f.source, f.rows, f.grid, target, f.evolving, f.attributes) for n, f in self.fields.items()})

    def select(self, samples: slice | Sequence[int] | np.ndarray) -> Trajectories:
        """Return the dataset of some of the samples, in the order given."""
        rows = _numbers(samples, len(self), "sample")
        fields = {n: Field(f.source, f.rows[rows], f.grid, f.spatial, f.evolving, f.attributes) for n, f in self.fields.items()}
        return self._with(fields, {name: values[rows] for name, values in self.parameters.items()})

    def split(self, train: float = 0.8, valid: float | None = None, *, seed: int | None = None) -> tuple[Trajectories, ...]:
        """Split by sample into (train, test), or (train, valid, test) where `valid` is given; the last part is the rest.

        Parameters
        ----------
        train, valid : float or int
            Fractions of the samples, or numbers of samples.
        seed : int, optional
            Shuffle with this seed first; without it the parts keep the order of the file.

        Raises
        ------
        ValueError
            If a part would be empty.
        """
        order = np.arange(len(self)) if seed is None else np.random.default_rng(seed).permutation(len(self))
        sizes = [_count(part, len(self), name) for part, name in ((train, "train"), (valid, "valid")) if part is not None]
        if sum(sizes) >= len(self) or min(sizes) < 1:
            raise ValueError(
                f"a split of {len(self)} samples into {sizes} and a rest leaves a part empty; give smaller parts or more samples"
            )
        bounds = np.cumsum([0, *sizes, len(self) - sum(sizes)])
        return tuple(self.select(order[a:b]) for a, b in zip(bounds[:-1], bounds[1:], strict=True))

    def load(self) -> Trajectories:
        """Read everything into memory, at the present resolution; worthwhile before many passes over a restricted dataset."""
        rows = np.arange(len(self))
        fields = {}
        for name, field in self.fields.items():
            array = np.array(field)
            fields[name] = Field(array, rows, self.grid, self.shape, field.evolving, field.attributes)
        return self._with(fields)

    def _with(self, fields: Mapping[str, Field], parameters: Mapping[str, np.ndarray] | None = None) -> Trajectories:
        return Trajectories(self.domain, fields, self.times, self.parameters if parameters is None else parameters, self.attributes)

    @classmethod
    def from_arrays(
        cls,
        fields: Mapping[str, np.ndarray | Tensor],
        domain: Domain | Sphere,
        times: Sequence[float] | np.ndarray | Tensor | None = None,
        parameters: Mapping[str, Sequence[float] | np.ndarray | Tensor] | None = None,
        *,
        restriction: str | Mapping[str, str] | None = None,
        attributes: Mapping[str, object] | None = None,
    ) -> Trajectories:
        """Make a dataset of your own arrays, which are not copied.

        Parameters
        ----------
        fields : dict of str to array
            One array per physical field: (sample, time, *spatial), or (sample, *spatial) for a field that does not
            change in time. Without `times` every array is (sample, *spatial).
        domain : Domain or Sphere
            What the shapes cannot say: extent, periodicity, where the samples sit.
        times : array (T,), optional
            Output times, increasing; None for stationary data.
        parameters : dict of str to array (N,), optional
            Per-sample parameters.
        restriction : str or dict of str to str, optional
            How `at` coarsens: "spectral", "mean" (coefficients, finite volumes) or "nodal"; for every field, or by name.
            By default "spectral" on spheres and periodic domains, else "mean" for cells, else "nodal".
        attributes : dict, optional
            Notes kept with the data: title, source, references.

        Raises
        ------
        ValueError
            If shapes, lengths or names do not fit together.
        """
        arrays = {name: _numpy(values, name) for name, values in fields.items()}
        times = None if times is None else store.check_times(times)
        rules = dict(restriction) if isinstance(restriction, Mapping) else dict.fromkeys(arrays, restriction)
        if not set(rules) <= set(arrays):
            raise ValueError(f"restriction names {', '.join(rules)}, but the fields are {', '.join(arrays)}; give one for each field")
        parts, samples, shape = {}, None, None
        for name, array in arrays.items():
            evolving = times is not None and array.ndim == domain.ndim + 2
            steps = (len(times),) if times is not None and evolving else ()
            if array.ndim != domain.ndim + 1 + evolving or array.shape[1 : 1 + evolving] != steps or not len(array):
                expected = ("samples", *([] if times is None else [str(len(times))]), *domain.names)
                raise ValueError(f"got {name} of shape {array.shape}; expected ({', '.join(expected)}) on this domain")
            samples, shape = samples or len(array), shape or array.shape[-domain.ndim :]
            if len(array) != samples or array.shape[-domain.ndim :] != shape:
                told = f"a field of {samples} samples on {shape}"
                raise ValueError(f"got {name} of shape {array.shape} beside {told}; give all the same sizes")
            rule = rules.get(name) or default_rule(domain)
            if rule not in RULES:
                raise ValueError(f"got restriction={rule!r} for {name}; choose one of {', '.join(RULES)}")
            parts[name] = Field(array, np.arange(samples), domain.grid(*shape), shape, evolving, {"restriction": rule})
        parameters = {name: _numpy(values, name) for name, values in (parameters or {}).items()}
        for name, values in parameters.items():
            if values.shape != (samples,):
                raise ValueError(f"got the parameter {name} of shape {values.shape}; expected one value for each of the {samples} samples")
        data = cls(domain, parts, times, parameters, attributes or {})
        data.header()  # refuses names given twice, and no field at all
        return data

    @classmethod
    def from_xarray(cls, dataset, domain: Domain | Sphere | None = None, *, sample: str = "sample", time: str = "time") -> Trajectories:
        """Make a dataset of an ``xarray.Dataset``; lazy variables stay lazy.

        Parameters
        ----------
        dataset : xarray.Dataset, or a named xarray.DataArray
            Variables on (sample, time, *space) in any order of dimensions; `sample` and `time` may be missing. Variables
            and coordinates on `sample` alone become parameters. Dates become seconds since the first one.
        domain : Domain, optional
            Needed unless the coordinates carry ``domain_min``, ``domain_max`` and ``boundary_condition`` (what `to_xarray`
            and the files of this package write). Its axes' names are the spatial dimensions.
        sample, time : str
            Names of these two dimensions.

        Raises
        ------
        ValueError
            If the domain is neither given nor written in the attributes or its axes have other names, the coordinates are
            not where its samples sit, or a variable is not real or has dimensions that are none of these.
        """
        from opkernels.datasets.xarrays import read_dataset

        return cls(*read_dataset(dataset, domain, sample, time))

    def to_xarray(self):
        """Return an ``xarray.Dataset`` with CF coordinates; parameters are coordinates of `sample`.

        At the stored resolution nothing is copied or read; a restricted or selected dataset is read into memory.
        """
        from opkernels.datasets.xarrays import make_dataset

        return make_dataset(self.header(), self.fields)

    def save(self, path: str | os.PathLike) -> None:
        """Write the dataset as a native file, sample by sample; the file appears only when it is complete.

        Raises
        ------
        ValueError
            If the folder cannot be written or the disk is full.
        """
        blocks = ((row, {name: field[row][None] for name, field in self.fields.items()}) for row in range(len(self)))
        store.write(path, self.header(), blocks)

    def header(self) -> store.Header:
        """Return what a file of this dataset would say before its numbers; refuse names given twice."""
        fields = {name: store.Variable(field.dtype, field.evolving, field.attributes) for name, field in self.fields.items()}
        samples, shape = (len(self), self.shape) if fields else (0, ())
        return store.Header(self.domain, shape, samples, self.times, fields, self.parameters, self.attributes)


def open_trajectories(path: str | os.PathLike) -> Trajectories:
    """Open a native file. Only its header is read.

    Parameters
    ----------
    path : path
        A file made by `opkernels.generate` or `Trajectories.save`.

    Raises
    ------
    ValueError
        If the file is missing, cut short, not HDF5, or not of this layout.
    """
    header, arrays = store.read_header(path)
    grid, rows = header.domain.grid(*header.shape), np.arange(header.samples)
    fields = {
        name: Field(arrays[name], rows, grid, header.shape, spec.evolving, with_rule(spec.attributes, header.domain))
        for name, spec in header.fields.items()
    }
    return Trajectories(header.domain, fields, header.times, header.parameters, header.attributes)


def _numbers(which, n: int, what: str) -> np.ndarray:
    """Turn an index into whole numbers in [0, n)."""
    if isinstance(which, slice):
        return np.arange(n)[which]
    numbers = np.atleast_1d(np.asarray(which))
    if numbers.dtype == bool and numbers.shape == (n,):
        return np.flatnonzero(numbers)
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size):
        raise ValueError(f"got {which!r} as {what}s; give a slice or whole numbers")
    numbers = numbers.astype(np.int64)
    if numbers.size and not (-n <= numbers.min() and numbers.max() < n):
        raise ValueError(f"asked for {what} {int(numbers[np.abs(numbers).argmax()])}, but there are {n}; they are numbered from 0")
    return np.where(numbers < 0, numbers + n, numbers)


def _count(part: float, n: int, name: str) -> int:
    if isinstance(part, bool) or part <= 0 or (isinstance(part, float) and part >= 1):
        raise ValueError(f"split got {name}={part!r}; give a fraction between 0 and 1 or a number of samples")
    return round(part * n) if isinstance(part, float) else int(part)


def _numpy(values, name: str) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"got {name} of type {array.dtype}; give real numbers (complex fields as two real ones)")
    return array
