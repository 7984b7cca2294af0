"""The sphere and its grids: where the samples sit, and the weights that make their sums integrals.

A `Sphere` stands where a `Domain` stands: `sphere.grid(nlat, nlon)` samples it, and everything that holds a domain infers the
grid from the shape of its input. Rows are circles of latitude from north to south, columns meridians from longitude 0 eastward,

    latitude phi_j = pi/2 - theta_j,   longitude lambda_i = 2 pi i/nlon,   i = 0 .. nlon - 1 (no endpoint),

    int f dA = sum_ji w_ji f(phi_j, lambda_i),   w_ji = r^2 (2 pi/nlon) w_j,   sum_j w_j = 2.

| points        | colatitude theta_j                | row weight w_j           | exact up to degree | rows at the poles |
| ------------- | --------------------------------- | ------------------------ | ------------------ | ----------------- |
| "gauss"       | cos theta_j the roots of P_nlat   | Gauss-Legendre           | 2 nlat - 1         | no                |
| "equiangular" | j pi/(nlat - 1)                   | Clenshaw-Curtis          | nlat - 1           | yes, both         |

A grid carries the spherical harmonics up to a degree T ("triangular truncation", T included) for linear use, and up to a lower
one for products of two fields that are analyzed again:

| points        | `highest_degree`: T at most       | `dealiased_degree`: T at most            |
| ------------- | --------------------------------- | ---------------------------------------- |
| "gauss"       | nlat - 1 and (nlon - 1)/2         | (2 nlat - 1)/3 and (nlon - 1)/3          |
| "equiangular" | (nlat - 1)/2 and (nlon - 1)/2     | (nlat - 1)/3 and (nlon - 1)/3            |

Gauss rows are the better choice: twice the degree for the same number of rows, and no rows at the poles.

References
----------
S. A. Orszag, Fourier series on spheres, Mon. Weather Rev. 102 (1974), 56-75 (truncations without aliasing). C. W. Clenshaw,
A. R. Curtis, A method for numerical integration on an automatic computer, Numer. Math. 2 (1960), 197-205.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import Axis, Domain, Grid, Whole, table

__all__ = ["Parallels", "Space", "SpaceGrid", "Sphere", "SphereGrid", "domain_from_dict"]

POINTS = ("gauss", "equiangular")


@dataclass(frozen=True)
class Parallels:
    """The latitudes of a sphere's rows, from north to south: what an `Axis` is to a box.

    Parameters
    ----------
    points : {"gauss", "equiangular"}
        Where the rows sit (table in the module's docstring).
    """

    points: str
    name: str = "latitude"
    lower: float = -math.pi / 2
    upper: float = math.pi / 2
    periodic: bool = False

    @property
    def length(self) -> float:
        """From pole to pole in radians."""
        return self.upper - self.lower

    def spacing(self, n: int) -> float:
        """Distance of neighboring rows in radians; for "gauss", the mean."""
        return math.pi / (n - 1 if self.points == "equiangular" else n)

    def coordinates(self, n: int, device=None, dtype=None) -> Tensor:
        """Latitudes of the n rows in radians, shape (n,)."""
        return latitudes(self.points, n, device=device, dtype=dtype)

    def weights(self, n: int, device=None, dtype=None) -> Tensor:
        """Weights w_j of the n rows, which sum to 2, shape (n,)."""
        return row_weights(self.points, n, device=device, dtype=dtype)

    def refined(self, n: int, factor: int) -> int:
        """Return the number of rows whose distance is 1/factor of that of n."""
        return factor * (n - 1) + 1 if self.points == "equiangular" else factor * n

    def coarsened(self, n: int, factor: int) -> int:
        """Return the number of rows whose distance is factor times that of n; refuse if there is none."""
        if isinstance(factor, bool) or not isinstance(factor, (int, np.integer)) or factor < 1:
            raise ValueError(f"got the factor {factor!r} to coarsen by; give a whole number of at least 1")
        ends = 1 if self.points == "equiangular" else 0
        if (n - ends) % factor:
            raise ValueError(f'got {n} latitudes of kind "{self.points}", which cannot be coarsened by {factor}')
        return (n - ends) // factor + ends


_MERIDIANS = Axis(0.0, 2 * math.pi, periodic=True, points="node", name="longitude")


@dataclass(frozen=True)
class Sphere:
    """The surface of a ball. Hashable and comparable.

    Parameters
    ----------
    radius : float
        r, in the units of the problem.
    points : {"gauss", "equiangular"}
        Where the rows sit (table in the module's docstring).

    Raises
    ------
    ValueError
        If the radius is not a positive number or `points` is unknown.

    Examples
    --------
    >>> grid = Sphere(points="gauss").grid(32, 64)
    >>> grid.highest_degree, grid.dealiased_degree
    (31, 21)
    """

    radius: float = 1.0
    points: str = "gauss"

    def __post_init__(self):
        r = self.radius
        if isinstance(r, bool) or not isinstance(r, (int, float, np.number)) or not (math.isfinite(r) and r > 0):
            raise ValueError(f"Sphere got radius={r!r}; give a positive number")
        object.__setattr__(self, "radius", float(r))
        if self.points not in POINTS:
            raise ValueError(f"Sphere got points={self.points!r}; choose one of {', '.join(POINTS)}")

    @property
    def ndim(self) -> int:
        """Number of spatial axes of a tensor: two."""
        return 2

    @property
    def names(self) -> tuple[str, str]:
        """Names of the axes."""
        return ("latitude", "longitude")

    @property
    def axes(self) -> tuple[Parallels, Axis]:
        """Latitude and longitude, for positions and labels; their lengths are angles, and the sphere is not a box of them."""
        return Parallels(self.points), _MERIDIANS

    @property
    def extent(self) -> tuple[float, float]:
        """Lengths of the axes in radians."""
        return math.pi, 2 * math.pi

    @property
    def measure(self) -> float:
        """Area 4 pi r^2."""
        return 4 * math.pi * self.radius**2

    def grid(self, *shape: int | Sequence[int]) -> SphereGrid:
        """Sample the sphere: ``sphere.grid(nlat, nlon)`` (a tuple is taken too).

        Raises
        ------
        ValueError
            If not two whole numbers are given, or one is below two.
        """
        sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        return SphereGrid(self, tuple(sizes))  # pyright: ignore[reportArgumentType] - checked there

    def grid_of(self, x: Tensor) -> SphereGrid:
        """Return the grid of a tensor (B, C, nlat, nlon) of samples on this sphere."""
        if x.ndim != 4:
            raise ValueError(f"got a tensor of shape {tuple(x.shape)} on a sphere; expected (batch, channels, latitude, longitude)")
        return SphereGrid(self, tuple(x.shape[2:]))

    def to_dict(self) -> dict:
        """Return plain data (JSON, YAML, netCDF attributes) that `domain_from_dict` reads back."""
        return {"sphere": {"radius": self.radius, "points": self.points}}

    @classmethod
    def from_dict(cls, data: dict) -> Sphere:
        """Return the sphere written by `to_dict`; refuse anything else in one sentence."""
        fields = data.get("sphere") if isinstance(data, dict) else None
        if not isinstance(fields, dict) or not set(fields) <= {"radius", "points"}:
            raise ValueError(f"got the sphere {data!r}; expected sphere, with optionally radius and points")
        return cls(**fields)


Space = Domain | Sphere
"""Where functions live, for what takes both."""


def domain_from_dict(data: dict) -> Space:
    """Return the `Domain` or `Sphere` that its `to_dict` has written."""
    return Sphere.from_dict(data) if isinstance(data, dict) and "sphere" in data else Domain.from_dict(data)


@dataclass(frozen=True)
class SphereGrid:
    """A sphere sampled on nlat circles of latitude with nlon points each. Made by ``sphere.grid(nlat, nlon)``.

    Equal spheres and shapes are equal grids, so a grid is a key for tables.
    """

    domain: Sphere
    shape: tuple[int, ...]
    split: ClassVar[Whole] = Whole()  # spheres are not split

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 2:
            raise ValueError(f"got the grid shape {self.shape} on a sphere; give the numbers of latitudes and of longitudes")
        for name, n in zip(self.domain.names, self.shape, strict=True):
            if isinstance(n, bool) or not isinstance(n, (int, np.integer, torch.SymInt)):
                raise ValueError(f"got {n!r} samples in {name}; give a whole number of at least 2")
            if n < 2:
                raise ValueError(f"got {n} samples in {name}; a grid needs at least 2 in each direction")

    @property
    def ndim(self) -> int:
        """Number of spatial axes of a tensor: two."""
        return 2

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples per axis that a tensor on this grid holds: all of `shape`."""
        return self.shape

    def with_shape(self, shape: Sequence[int]) -> SphereGrid:
        """Return the sphere sampled with other numbers of points."""
        return SphereGrid(self.domain, tuple(shape))

    @property
    def uniform(self) -> bool:
        """Whether all quadrature weights are equal: never on a sphere."""
        return False

    @property
    def spacing(self) -> tuple[float, float]:
        """Distance of neighboring samples along a meridian (the mean one for "gauss") and along the equator."""
        rows, columns = (axis.spacing(n) for axis, n in zip(self.domain.axes, self.shape, strict=True))
        return self.domain.radius * rows, self.domain.radius * columns

    @property
    def highest_degree(self) -> int:
        """Largest degree of spherical harmonics that analysis recovers exactly from the samples."""
        nlat, nlon = self.shape
        return min(nlat - 1 if self.domain.points == "gauss" else (nlat - 1) // 2, (nlon - 1) // 2)

    @property
    def dealiased_degree(self) -> int:
        """Largest degree T such that a product of two fields of degree T has exact coefficients up to T."""
        nlat, nlon = self.shape
        return min((2 * nlat - 1) // 3 if self.domain.points == "gauss" else (nlat - 1) // 3, (nlon - 1) // 3)

    def coordinates(self, device=None, dtype=None) -> Tensor:
        """Latitude and longitude of the samples in radians, shape (2, nlat, nlon)."""
        axes = [axis.coordinates(n, device, dtype) for axis, n in zip(self.domain.axes, self.shape, strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def weights(self, device=None, dtype=None) -> Tensor:
        """Quadrature weights of the samples, shape (nlat, nlon); they sum to the area 4 pi r^2."""
        rows, columns = (axis.weights(n, device, dtype) for axis, n in zip(self.domain.axes, self.shape, strict=True))
        return self.domain.radius**2 * rows[:, None] * columns

    def refined(self, factor: int = 2) -> SphereGrid:
        """Return the grid with `factor` times finer spacing ("equiangular" nlat -> factor (nlat - 1) + 1)."""
        return self.with_shape([axis.refined(n, factor) for axis, n in zip(self.domain.axes, self.shape, strict=True)])

    def coarsened(self, factor: int = 2) -> SphereGrid:
        """Return the grid with `factor` times coarser spacing; refuse sizes it does not divide."""
        return self.with_shape([axis.coarsened(n, factor) for axis, n in zip(self.domain.axes, self.shape, strict=True)])


SpaceGrid = Grid | SphereGrid
"""What samples a `Space`."""


def colatitudes(points: str, nlat: int) -> np.ndarray:
    """Return the angles theta_j of the rows from the north pole."""
    return _gauss(nlat)[0] if points == "gauss" else np.pi / (nlat - 1) * np.arange(nlat)


def quadrature(points: str, nlat: int) -> np.ndarray:
    """Return w_j, the weights of the rows in the variable mu: sum_j w_j f(mu_j) is the integral of f over [-1, 1]."""
    return _gauss(nlat)[1] if points == "gauss" else _clenshaw_curtis(nlat)


@functools.lru_cache(maxsize=64)
def _gauss(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Angles and weights of the Gauss-Legendre nodes cos(theta), by Newton's method in theta.

    P_n(cos theta) = sum_k a_k a_{n-k} cos((n - 2k) theta), a_k = (2k-1)!!/(2k)!!, is well conditioned to the poles, where a root
    finder in cos(theta) loses five digits of the weights w = 2/(dP_n/dtheta)^2.
    """
    k = np.arange(1, n + 1)
    a = np.concatenate([[1.0], np.cumprod((2 * k - 1) / (2 * k))])
    frequency, amplitude = np.arange(n, -n - 1, -2), a * a[::-1]
    theta = np.pi * (np.arange((n + 1) // 2) + 0.75) / (n + 0.5)  # the northern half and the equator
    for _ in range(4):
        phase = theta[:, None] * frequency
        slope = -np.sin(phase) @ (amplitude * frequency)
        theta = theta - np.cos(phase) @ amplitude / slope
    w = 2 / slope**2
    mirrored = slice(n // 2 - 1, None, -1) if n > 1 else slice(0, 0)
    return np.concatenate([theta, np.pi - theta[mirrored]]), np.concatenate([w, w[mirrored]])


def _clenshaw_curtis(n: int) -> np.ndarray:
    """w_j = (c_j/N) (1 - sum_{k=1}^{N/2} b_k cos(2 k theta_j)/(4 k^2 - 1)), c_j = 1 at the ends else 2, b_k = 1 if 2 k = N else 2."""
    N = n - 1
    k, j = np.arange(1, N // 2 + 1)[:, None], np.arange(n)
    b = np.where(2 * k == N, 1.0, 2.0)
    series = (b / (4 * k**2 - 1) * np.cos(2 * np.pi / N * (k * j % N))).sum(0)
    return np.where((j == 0) | (j == N), 1.0, 2.0) / N * (1 - series)


@table
def latitudes(points: str, nlat: int, device) -> Tensor:
    """Return the latitudes of the rows in radians, north to south: (nlat,)."""
    return torch.as_tensor(np.pi / 2 - colatitudes(points, int(nlat)), device=device)


@table
def row_weights(points: str, nlat: int, device) -> Tensor:
    """Return the weights w_j of the rows, which sum to 2: (nlat,)."""
    return torch.as_tensor(quadrature(points, int(nlat)), device=device)
