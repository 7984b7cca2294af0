"""Particle trajectories: a dataset of simulations, read one at a time from a native file or held in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from opkernels.datasets import store
from opkernels.datasets.particle_store import FLUID, MOVING_WALL, WALL, kinds_of, layout_of, padded, particle_arrays, read_particles
from opkernels.domains import Domain
from opkernels.particles import ParticleSet
from opkernels.solvers.sph import ParticleTrajectory

__all__ = ["ParticleTrajectories", "open_particles"]


class ParticleTrajectories(Sequence):
    """N simulations of particles on one domain, at the same times; each may have its own number of particles.

    Made by `open_particles`, `from_trajectories`, `opkernels.generate` or the readers in `datasets.formats`. A simulation
    is read when it is asked for: ``data[3]`` is a `ParticleTrajectory`, in float64; slices and `split` are views. So a
    dataset is the sequence of trajectories that `fit_particles` learns from.

    Attributes
    ----------
    domain : Domain
    times : ndarray (T,)
    arrays : dict of str to array
        By the names and dimensions of `datasets.particle_store`, filled up at the end where numbers of particles differ.
    parameters : dict of str to ndarray (N,)
        The support, and what a recipe drew for each simulation.
    attributes : dict
        Title, recipe, seed, versions, ...
    rows : ndarray of int
        Which simulations of the arrays this dataset, or view, is made of.

    Examples
    --------
    >>> from opkernels.datasets.particle_flows import particle_flow
    >>> data = ParticleTrajectories.from_trajectories([particle_flow("compressible", s, n_frames=3, n_particles=16) for s in (0, 1)])
    >>> len(data), data[1].positions.shape
    (2, torch.Size([3, 16, 1]))
    """

    def __init__(
        self,
        domain: Domain,
        times: np.ndarray,
        arrays: Mapping[str, Any],
        parameters: Mapping[str, np.ndarray],
        attributes: Mapping[str, object] | None = None,
        rows: np.ndarray | None = None,
    ):
        self.domain, self.times = domain, store.check_times(times)
        self.arrays, self.parameters, self.attributes = dict(arrays), dict(parameters), dict(attributes or {})
        layout_of(domain, self.times, kinds_of(self.arrays), self.parameters, {})  # refuses shapes that do not belong together
        self.rows = np.arange(len(self.arrays["position"])) if rows is None else rows

    @classmethod
    def from_trajectories(
        cls,
        trajectories: Sequence[ParticleTrajectory],
        parameters: Mapping[str, Sequence[float]] | None = None,
        *,
        attributes: Mapping[str, object] | None = None,
        dtype: str = "float32",
    ) -> ParticleTrajectories:
        """Put simulations side by side.

        Parameters
        ----------
        trajectories : sequence of ParticleTrajectory
            Of one domain and the same times, one simulation each (no batch).
        parameters : mapping, optional
            One number for each of them.
        dtype : {"float32", "float64"}
            Of the stored numbers.

        Raises
        ------
        ValueError
            If they differ in domain or times, or hold batches.
        """
        if not trajectories:
            raise ValueError("from_trajectories got no trajectory; give at least one")
        first = trajectories[0]
        for at, run in enumerate(trajectories):
            if run.particles.batch is not None or run.particles.domain != first.particles.domain or run.times != first.times:
                raise ValueError(
                    f"from_trajectories got trajectory {at}, a batch or of another domain or other times than the first; "
                    "solve each simulation alone, all for the same times"
                )
        simulations = [particle_arrays(run, dtype) for run in trajectories]
        n = max(len(a["mass"]) for a in simulations)
        names = [name for name in simulations[0] if all(name in a for a in simulations)]
        arrays = {name: np.stack([padded(name, a[name], n) for a in simulations]) for name in names}
        told = {name: np.asarray(values, dtype=np.float64) for name, values in (parameters or {}).items()}
        support = np.array([run.particles.support for run in trajectories])
        return cls(first.particles.domain, np.array(first.times), arrays, {"support": support, **told}, attributes)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        kinds = self.arrays["position"].shape
        span = f"{len(self.times)} times in [{self.times[0]:g}, {self.times[-1]:g}]"
        extent = " x ".join(f"{length:g}" for length in self.domain.extent)
        return f"ParticleTrajectories({len(self)} simulations of up to {kinds[2]} particles in {extent}, {span})"

    @overload
    def __getitem__(self, index: int) -> ParticleTrajectory: ...
    @overload
    def __getitem__(self, index: slice) -> ParticleTrajectories: ...
    def __getitem__(self, index):
        """Return one simulation as it was solved, in float64, or a view of several."""
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"asked for simulation {index}, but there are {len(self)}; they are numbered from 0")
        return self._trajectory(int(self.rows[index]))

    def __iter__(self) -> Iterator[ParticleTrajectory]:
        return (self._trajectory(int(row)) for row in self.rows)

    def select(self, which: slice | Sequence[int] | np.ndarray) -> ParticleTrajectories:
        """Return a view of some simulations."""
        rows = self.rows[which]
        return ParticleTrajectories(self.domain, self.times, self.arrays, self.parameters, self.attributes, rows)

    def split(self, train: float | int = 0.8) -> tuple[ParticleTrajectories, ParticleTrajectories]:
        """Return the first simulations, a fraction or a number of them, and the rest."""
        n = round(train * len(self)) if isinstance(train, float) else int(train)
        if not 0 < n < len(self):
            raise ValueError(f"split got train={train!r} of {len(self)} simulations; leave at least one for each part")
        return self[:n], self[n:]

    def to_xarray(self):
        """Return an ``xarray.Dataset``, read into memory, as `xarray.open_dataset` shows a saved file."""
        import xarray

        layout = self._layout()
        coordinates = {name: (name, values, dict(told)) for name, (values, told) in layout.coordinates.items()}
        coordinates |= {name: ("sample", values) for name, values in layout.parameters.items()}
        variables = {
            name: (dims, np.stack([self.arrays[name][row] for row in self.rows]), dict(told))
            for name, (dims, _, _, told) in layout.variables.items()
        }
        return xarray.Dataset(variables, coordinates, layout.attributes)

    def save(self, path: str | os.PathLike) -> None:
        """Write a native file, simulation by simulation; the file appears only when it is complete."""
        blocks = ((at, {name: array[row][None] for name, array in self.arrays.items()}) for at, row in enumerate(self.rows))
        store.write_layout(path, self._layout(), blocks)

    def _layout(self) -> store.Layout:
        n = len(self.rows)
        arrays = {name: ((n, *shape[1:]), dtype) for name, (shape, dtype) in kinds_of(self.arrays).items()}
        parameters = {name: values[self.rows] for name, values in self.parameters.items()}
        return layout_of(self.domain, self.times, arrays, parameters, self.attributes)

    def _trajectory(self, row: int) -> ParticleTrajectory:
        kinds = np.asarray(self.arrays["particle_type"][row])
        fluid, wall = kinds == FLUID, (kinds == WALL) | (kinds == MOVING_WALL)
        if not fluid.any():
            raise ValueError(f"simulation {row} holds no particle of type {FLUID} (fluid); look at its particle_type")
        x = _unwrapped(self._read("position", row), self.domain)
        v = self._read("velocity", row) if "velocity" in self.arrays else _frame_velocities(x, self.times)
        scalars = {name: self._read(name, row)[:, fluid] if name in self.arrays else None for name in ("density", "pressure", "energy")}
        rho, p, masses = scalars["density"], scalars["pressure"], self._read("mass", row)[fluid]
        positions = x[:, fluid]
        particles = ParticleSet(
            positions[0], masses, float(self.parameters["support"][row]), self.domain, densities=None if rho is None else rho[0]
        )
        walled = bool(wall.any())
        return ParticleTrajectory(
            tuple(self.times.tolist()),
            positions,
            v[:, fluid],
            torch.ones_like(positions[..., 0]) if rho is None else rho,
            torch.zeros_like(positions[..., 0]) if p is None else p,
            particles,
            scalars["energy"],
            walls=x[0, wall] if walled else None,
            wall_velocities=v[0, wall] if walled else None,
        )

    def _read(self, name: str, row: int) -> Tensor:
        return torch.from_numpy(np.array(self.arrays[name][row], dtype=np.float64))


def _unwrapped(x: Tensor, domain: Domain) -> Tensor:
    """Undo jumps of more than half a period between frames of positions (T, P, d)."""
    for a, axis in enumerate(domain.axes):
        if axis.periodic:
            turns = torch.round(x[..., a].diff(dim=0) / axis.length).nan_to_num()
            if bool(turns.any()):
                x[1:, :, a] -= axis.length * turns.cumsum(0)
    return x


def _frame_velocities(x: Tensor, times: np.ndarray) -> Tensor:
    """Velocities of files that hold positions alone: those since the frame before, and for the first frame of the second."""
    if len(times) < 2:
        return torch.zeros_like(x)
    v = x.diff(dim=0) / torch.from_numpy(np.diff(times))[:, None, None]
    return torch.cat([v[:1], v])


def open_particles(path: str | os.PathLike) -> ParticleTrajectories:
    """Open a native file of particles. Only its header is read.

    Parameters
    ----------
    path : path
        A file made by `opkernels.generate` or `ParticleTrajectories.save`.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or holds fields on a grid.
    """
    return ParticleTrajectories(*read_particles(path))
