"""Domains and grids: what a tensor's shape cannot say (extent, periodicity, where the samples sit).

A `Domain` is a product of `Axis` intervals; `domain.grid(*shape)` samples it. Everything in the
package holds a `Domain` and infers the `Grid` from the shape of its input.

Symbols: L = upper - lower is the length of an axis, n its number of samples, i = 0 .. n-1.

| points     | sample i sits at           | quadrature weight           | shares its samples with |
| ---------- | -------------------------- | --------------------------- | ----------------------- |
| "node"     | lower + i L/n              | L/n                         | 2n                      |
| "cell"     | lower + (i + 1/2) L/n      | L/n (midpoint)              | 3n                      |
| "endpoint" | lower + i L/(n-1)          | trapezoid                   | 2n - 1                  |
| "gauss"    | Gauss-Legendre nodes       | Gauss-Legendre weights      | none                    |
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from opkernels.whole import Whole

__all__ = ["Axis", "Domain", "Grid", "Whole", "looked_up", "table"]

POINTS = ("node", "cell", "endpoint", "gauss")
_CACHE_SIZE = 512
_cache: OrderedDict[tuple, Tensor] = OrderedDict()


def table(build: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Turn a float64 table builder into a cached one, cast to a device and a dtype.

    ``build(*key, device)`` returns a float64 tensor and must use torch operations on `device`
    (or NumPy where no argument can be symbolic). The returned function has the signature
    ``(*key, device=None, dtype=None)``. One bounded cache serves the whole package; it is bypassed
    while compiling, exporting or under fake tensors, where `key` may hold symbolic sizes. Tables
    are built outside inference mode, so that one made by a prediction can serve a training step. A grid in the key
    is that of the whole field: what processes do with it neither matters to a table nor is kept alive by one.
    """

    @functools.wraps(build)
    def cached(*key, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or torch.get_default_dtype()
        key = tuple([part.whole if isinstance(part, Grid) else part for part in key])
        if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
            return build(*key, device=device).to(dtype)
        device = torch.device(device or "cpu")
        slot = (build.__module__, build.__qualname__, key, device, dtype)
        if slot in _cache:
            _cache.move_to_end(slot)
            return _cache[slot]
        with torch.inference_mode(False), torch.no_grad():
            value = build(*key, device=torch.device("cpu")).to(device=device, dtype=dtype)
        _cache[slot] = value
        if len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
        return value

    return cached


def looked_up(find: Callable[..., Any], *key, **kind) -> Any:
    """Return the tables that ``find(*key, **kind)`` takes from the cache, at the price of a break in a compiled graph.

    Traced into the graph, they would be built in every call, which costs more than all else; torch 2.13 does not take more than
    one result of `torch.compiler.assume_constant_result` in a graph. The compiler is asked for here and not at import: loading
    it takes seconds.
    """
    if torch.compiler.is_compiling():
        find = torch.compiler.disable(find, recursive=True)
    return find(*key, **kind)


@dataclass(frozen=True)
class Axis:
    """One direction of a domain: the interval [lower, upper] and where its samples sit.

    Parameters
    ----------
    lower, upper : float
        Ends of the interval, in the units of the problem; ``lower < upper``.
    periodic : bool
        Whether functions repeat with period L = upper - lower.
    points : {"node", "cell", "endpoint", "gauss"}
        Where the samples sit (table in the module's docstring).
    name : str
        Label used in files and pictures; a `Domain` fills empty names with x, y, z.

    Raises
    ------
    ValueError
        If the interval is empty or not finite, `points` is unknown, or a periodic axis asks for
        "endpoint" (both ends are one point) or "gauss".
    """

    lower: float
    upper: float
    periodic: bool = field(default=False, kw_only=True)
    points: str = field(default="cell", kw_only=True)
    name: str = field(default="", kw_only=True)

    def __post_init__(self):
        for end in ("lower", "upper"):
            value = getattr(self, end)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                raise ValueError(f"Axis got {end}={value!r}; give a finite number")
            object.__setattr__(self, end, float(value))
        if self.lower >= self.upper:
            raise ValueError(f"Axis({self.lower:g}, {self.upper:g}) has length {self.length:g}; give upper > lower")
        if not isinstance(self.periodic, (bool, np.bool_)):
            raise ValueError(f"Axis got periodic={self.periodic!r}; give True or False")
        object.__setattr__(self, "periodic", bool(self.periodic))
        if self.points not in POINTS:
            raise ValueError(f"Axis got points={self.points!r}; choose one of {', '.join(POINTS)}")
        if self.periodic and self.points in ("endpoint", "gauss"):
            raise ValueError(f'a periodic Axis got points="{self.points}", which samples both ends of one period; use "node" or "cell"')

    @property
    def length(self) -> float:
        """Length L = upper - lower."""
        return self.upper - self.lower

    @property
    def offset(self) -> float:
        """Position of the first sample in units of the spacing, for the uniform kinds of points."""
        return 0.5 if self.points == "cell" else 0.0

    def spacing(self, n: int) -> float:
        """Distance of neighboring samples; for "gauss", the mean L/n."""
        return self.length / (n - 1 if self.points == "endpoint" else n)

    def coordinates(self, n: int, device=None, dtype=None) -> Tensor:
        """Positions of the n samples, shape (n,)."""
        return _axis_coordinates(self, n, device=device, dtype=dtype)

    def weights(self, n: int, device=None, dtype=None) -> Tensor:
        """Quadrature weights of the n samples, shape (n,); they sum to L.

        Spectrally accurate on periodic axes and for "gauss", second order for "cell" and
        "endpoint", first order for "node" on an axis that is not periodic (second where the
        function takes the same value at both ends).
        """
        return _axis_weights(self, n, device=device, dtype=dtype)

    def refined(self, n: int, factor: int) -> int:
        """Return the size whose spacing is 1/factor of that of n samples."""
        return factor * (n - 1) + 1 if self.points == "endpoint" else factor * n

    def coarsened(self, n: int, factor: int) -> int:
        """Return the size whose spacing is factor times that of n samples; refuse if there is none."""
        if isinstance(factor, bool) or not isinstance(factor, (int, np.integer)) or factor < 1:
            raise ValueError(f"got the factor {factor!r} to coarsen by; give a whole number of at least 1")
        intervals = n - 1 if self.points == "endpoint" else n
        if intervals % factor:
            raise ValueError(f"axis {self.name or '?'} has {n} samples, which cannot be coarsened by {factor}")
        return intervals // factor + (1 if self.points == "endpoint" else 0)


@table
def _axis_coordinates(axis: Axis, n: int, device) -> Tensor:
    if axis.points == "gauss":
        nodes = torch.as_tensor(np.polynomial.legendre.leggauss(int(n))[0], device=device)
        return axis.lower + axis.length * (nodes + 1) / 2
    i = torch.arange(n, dtype=torch.float64, device=device)
    return axis.lower + (i + axis.offset) * axis.length / (n - 1 if axis.points == "endpoint" else n)


@table
def _axis_weights(axis: Axis, n: int, device) -> Tensor:
    if axis.points == "gauss":
        return torch.as_tensor(np.polynomial.legendre.leggauss(int(n))[1], device=device) * axis.length / 2
    if axis.points == "endpoint":
        i = torch.arange(n, device=device)
        inner = ((i > 0) & (i < n - 1)).to(torch.float64)
        return (0.5 + 0.5 * inner) * axis.length / (n - 1)
    return torch.ones(n, dtype=torch.float64, device=device) * axis.length / n


@dataclass(frozen=True)
class Domain:
    """A box: the product of one to three (or more) axes. Hashable and comparable.

    Parameters
    ----------
    axes : sequence of Axis
        In the order of the tensor's spatial dimensions; names must differ, empty ones become
        x, y, z.

    Examples
    --------
    >>> import math
    >>> domain = Domain.periodic(2 * math.pi, 2 * math.pi)
    >>> domain.grid(64, 96).shape
    (64, 96)
    """

    axes: tuple[Axis, ...]

    def __post_init__(self):
        axes = tuple(self.axes)
        if not axes or not all(isinstance(axis, Axis) for axis in axes):
            raise ValueError(f"Domain got axes={self.axes!r}; give one Axis per direction, at least one")
        defaults = "xyz"[: len(axes)] if len(axes) <= 3 else [f"x{i}" for i in range(len(axes))]
        axes = tuple(
            axis if axis.name else Axis(axis.lower, axis.upper, periodic=axis.periodic, points=axis.points, name=default)
            for axis, default in zip(axes, defaults, strict=True)
        )
        object.__setattr__(self, "axes", axes)
        if len(set(self.names)) < len(axes):
            raise ValueError(f"Domain got axes named {', '.join(self.names)}; give each its own name")

    @classmethod
    def periodic(cls, *lengths: float, names: Sequence[str] | None = None) -> Domain:
        """Return the torus [0, L_1) x ... x [0, L_d), sampled at nodes."""
        return cls(_axes(lengths, names, periodic=True, points="node"))

    @classmethod
    def box(cls, *lengths: float, points: str = "cell", names: Sequence[str] | None = None) -> Domain:
        """Return the box [0, L_1] x ... x [0, L_d] with walls, sampled at `points`."""
        return cls(_axes(lengths, names, periodic=False, points=points))

    @property
    def ndim(self) -> int:
        """Number of axes d."""
        return len(self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(axis.name for axis in self.axes)

    @property
    def extent(self) -> tuple[float, ...]:
        """Lengths (L_1, ..., L_d)."""
        return tuple(axis.length for axis in self.axes)

    @property
    def measure(self) -> float:
        """Length, area or volume: the product of the lengths."""
        return math.prod(self.extent)

    def grid(self, *shape: int | Sequence[int]) -> Grid:
        """Sample the domain: ``domain.grid(64, 96)`` (a tuple is taken too).

        Raises
        ------
        ValueError
            If the number of sizes differs from `ndim`, or a size is below two.
        """
        sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        return Grid(self, tuple(sizes))  # pyright: ignore[reportArgumentType] - checked there

    def grid_of(self, x: Tensor) -> Grid:
        """Return the grid of a tensor (B, C, *spatial) of samples on this domain."""
        if x.ndim != self.ndim + 2:
            raise ValueError(
                f"got a tensor of shape {tuple(x.shape)} on a {self.ndim}-D domain; expected (batch, channels, {', '.join(self.names)})"
            )
        return Grid(self, tuple(x.shape[2:]))

    def require_fft(self, what: str) -> None:
        """Refuse axes on which a plain FFT has no meaning that is free of the resolution."""
        for axis in self.axes:
            if axis.points in ("endpoint", "gauss"):
                raise ValueError(
                    f'{what} uses a Fourier transform, but axis {axis.name} has points="{axis.points}" and the period of '
                    'a transform would change with the resolution; sample it at "node" or "cell"'
                )

    def require_periodic(self, what: str) -> None:
        """Refuse a domain with an axis that is not periodic."""
        for axis in self.axes:
            if not axis.periodic:
                raise ValueError(f"{what} needs a periodic domain, but axis {axis.name} has walls; use Domain.periodic")

    def to_dict(self) -> dict:
        """Return plain data (JSON, YAML, netCDF attributes) that `from_dict` reads back."""
        keys = ("lower", "upper", "periodic", "points", "name")
        return {"axes": [{key: getattr(axis, key) for key in keys} for axis in self.axes]}

    @classmethod
    def from_dict(cls, data: dict) -> Domain:
        """Return the domain written by `to_dict`; refuse anything else in one sentence."""
        keys = {"lower", "upper", "periodic", "points", "name"}
        axes = data.get("axes") if isinstance(data, dict) else None
        if not isinstance(axes, (list, tuple)) or not all(isinstance(a, dict) and {"lower", "upper"} <= set(a) <= keys for a in axes):
            raise ValueError(f"got the domain {data!r}; expected axes, each with lower, upper and optionally periodic, points, name")
        return cls(
            tuple(
                Axis(
                    a["lower"],
                    a["upper"],
                    periodic=bool(a.get("periodic", False)),
                    points=str(a.get("points", "cell")),
                    name=str(a.get("name", "")),
                )
                for a in axes
            )
        )


def _axes(lengths: Sequence[float], names: Sequence[str] | None, *, periodic: bool, points: str) -> tuple[Axis, ...]:
    if names is not None and len(names) != len(lengths):
        raise ValueError(f"got {len(names)} names for {len(lengths)} lengths; give one name per length")
    return tuple(
        Axis(0.0, length, periodic=periodic, points=points, name=name)
        for length, name in zip(lengths, names or [""] * len(lengths), strict=True)
    )


@dataclass(frozen=True)
class Grid:
    """A domain sampled with `shape` points. Made by ``domain.grid(*shape)``.

    Equal domains and shapes are equal grids, so a grid is a key for tables; `split`, which says what part of the samples a tensor
    on this grid holds (by default all), does not count for that. Everything but `sizes`, `coordinates` and `weights` is about the
    whole.
    """

    domain: Domain
    shape: tuple[int, ...]
    split: Whole = field(default=None, compare=False, repr=False)  # pyright: ignore[reportAssignmentType]

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.split is None:  # torch.compile takes no object for a default
            object.__setattr__(self, "split", Whole())
        if len(self.shape) != self.domain.ndim:
            raise ValueError(
                f"got the grid shape {self.shape} on a {self.domain.ndim}-D domain; "
                f"give one size for each of {', '.join(self.domain.names)}"
            )
        for axis, n in zip(self.domain.axes, self.shape, strict=True):
            if isinstance(n, bool) or not isinstance(n, (int, np.integer, torch.SymInt)):
                raise ValueError(f"got {n!r} samples on axis {axis.name}; give a whole number of at least 2")
            if n < 2:
                raise ValueError(f"got {n} samples on axis {axis.name}; a grid needs at least 2 in each direction")

    @property
    def ndim(self) -> int:
        """Number of axes d."""
        return self.domain.ndim

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples per axis that a tensor on this grid holds: `shape`, or that of a block of it."""
        return self.split.sizes(self.shape)

    @property
    def whole(self) -> Grid:
        """The grid of the whole field, where this one is of a field that is split over processes."""
        return Grid(self.domain, self.shape) if self.split.parts else self

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance of neighboring samples along each axis (the mean one for "gauss")."""
        return tuple(axis.spacing(n) for axis, n in zip(self.domain.axes, self.shape, strict=True))

    def coordinates(self, device=None, dtype=None) -> Tensor:
        """Positions of the samples, shape (d, *sizes)."""
        axes = [self.split.cut(x.coordinates(n, device, dtype), 0, a) for a, x, n in self._axes]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def weights(self, device=None, dtype=None) -> Tensor:
        """Quadrature weights of the samples, shape (*sizes); they sum to the domain's measure."""
        axes = [self.split.cut(x.weights(n, device, dtype), 0, a) for a, x, n in self._axes]
        return functools.reduce(lambda left, right: left[..., None] * right, axes)

    @property
    def _axes(self) -> list[tuple[int, Axis, int]]:
        return list(zip(range(self.ndim), self.domain.axes, self.shape, strict=True))

    def with_shape(self, shape: Sequence[int]) -> Grid:
        """Return the domain sampled with another number of points, and split alike."""
        return Grid(self.domain, tuple(shape), self.split)

    def line(self, a: int) -> Grid:
        """Return the grid of axis `a` alone."""
        return Grid(Domain((self.domain.axes[a],)), (self.shape[a],), self.split.line(a))

    @property
    def uniform(self) -> bool:
        """Whether all quadrature weights are equal, so that a mean over samples is the integral."""
        return all(axis.points in ("node", "cell") for axis in self.domain.axes)

    def wavenumbers(self, device=None, dtype=None, *, real: bool = True) -> tuple[Tensor, ...]:
        """Physical wave numbers 2 pi k / L in the layout of ``torch.fft.rfftn`` (or ``fftn``).

        Returns one tensor per axis, shaped to broadcast against the transform. On an even axis the
        Nyquist entry is -n/2 (+n/2 on the halved last axis); drop it in odd derivatives.

        Raises
        ------
        ValueError
            On axes sampled at "endpoint" or "gauss", where an FFT's period changes with n.
        """
        self.domain.require_fft("Grid.wavenumbers")
        numbers = []
        for a, (axis, n) in enumerate(zip(self.domain.axes, self.shape, strict=True)):
            k = _wavenumbers(axis.length, n, real and a == self.ndim - 1, device=device, dtype=dtype)
            numbers.append(k.reshape([-1 if b == a else 1 for b in range(self.ndim)]))
        return tuple(numbers)

    def refined(self, factor: int = 2) -> Grid:
        """Return the grid with `factor` times finer spacing (endpoint n -> factor (n-1) + 1)."""
        return self.with_shape([axis.refined(n, factor) for _, axis, n in self._axes])

    def coarsened(self, factor: int = 2) -> Grid:
        """Return the grid with `factor` times coarser spacing; refuse sizes it does not divide."""
        return self.with_shape([axis.coarsened(n, factor) for _, axis, n in self._axes])


@table
def _wavenumbers(length: float, n: int, real: bool, device) -> Tensor:
    if real:
        k = torch.arange(n // 2 + 1, dtype=torch.float64, device=device)
    else:
        k = torch.arange(n, dtype=torch.float64, device=device)
        k = torch.where(2 * k >= n, k - n, k)
    return 2 * math.pi / length * k
