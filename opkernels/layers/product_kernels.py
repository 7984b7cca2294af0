"""Product kernels: one-dimensional families multiplied over mapped coordinates of an offset, every term even or odd.

    phi_k(z) = w(|z|) b_u(t_1) b_v(t_2) ...,   t = m(z) in [-1, 1]^d,   phi_k(-z) = p_k phi_k(z),   p_k = 1 or -1

| family      | b_u(t)                                                                  | terms n  | name elsewhere        |
| ----------- | ----------------------------------------------------------------------- | -------- | --------------------- |
| `Fourier`   | 1, cos(pi t), sin(pi t), cos(2 pi t), ...                               | 2 K + 1  | SFBC ("ffourier")     |
| `Chebyshev` | T_0, T_1, ...                                                           | n        |                       |
| `Spline`    | cardinal B-splines of degree 0 to 3, which sum to one                   | n        | CConv (1), SplineConv |
| `Bumps`    | a profile of the distance to n centers: Gaussian, Wendland, ...         | n        | radial basis          |

| coordinates  | t                                                                                       | axes   |
| ------------ | --------------------------------------------------------------------------------------- | ------ |
| "cartesian"  | z                                                                                       | 1 to 3 |
| "polar"      | ``2 |z| - 1`` and the angles over pi; directions are undefined at the origin                | 2, 3   |
| "preserving" | the ball stretched to the cube, volumes kept up to a factor (CConv)                     | 1 to 3 |

Reflection z -> -z maps a product of members to plus or minus another one. Where the other is a different one (splines,
radial functions), half their sum and half their difference take their places, so that the span is the same and each
term has a parity: that of the product, odd times odd being even. ``parity="odd"`` keeps the odd terms, half of them.
Products of splines that vanish for |z| < 0.9, in the corners of the cube, are left out.

Windows w of u = |z| vanish at the rim; without one (None) the kernel jumps there, its integral converges slowly under
refinement, and forces jump when a neighbor enters. All are functions of u alone; their scale does not matter, since
`kernel_values` normalizes each term.

References: Winchenbach and Thuerey, ICLR 2024, arXiv 2403.16680 (Fourier); Ummenhofer et al., ICLR 2020 (CConv, the map);
Fey et al., CVPR 2018, arXiv 1711.08920 (SplineConv); Prantl et al., NeurIPS 2022, arXiv 2210.06036 (DMCF).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = [
    "PROFILES",
    "WINDOWS",
    "Chebyshev",
    "Family",
    "Fourier",
    "ProductKernel",
    "Bumps",
    "Spline",
    "cconv_kernel",
    "dmcf_kernel",
    "fourier_kernel",
    "spline_kernel",
]

Signed = tuple[tuple[int, int], ...]  # member k becomes sign times member index: (index, sign) of each k
_RIM = 0.9  # products that begin beyond are left out
_TINY = 1e-24  # under roots, so that gradients exist at the origin


class Family(Protocol):
    """Functions of one coordinate t in [-1, 1]; hashable."""

    @property
    def size(self) -> int:
        """Number of members n."""
        ...

    @property
    def periodic(self) -> bool:
        """Whether members have period 2, as an angle over pi needs."""
        ...

    @property
    def knots(self) -> tuple[float, ...]:
        """Places where members are not smooth."""
        ...

    @property
    def nearest(self) -> tuple[float, ...]:
        """Least |t| where each member differs from zero."""
        ...

    def values(self, t: Tensor) -> Tensor:
        """Return the members at t (*), (n, *)."""
        ...

    def mirrored(self) -> Signed:
        """Return what the members become when t -> -t."""
        ...

    def turned(self) -> Signed:
        """Return what the members become when t -> t + 1, half a period."""
        ...


@dataclass(frozen=True)
class Fourier:
    """1, cos(pi t), sin(pi t), cos(2 pi t), sin(2 pi t), ... up to a number of harmonics.

    Parameters
    ----------
    harmonics : int
        K; 2 K + 1 members, as many cosines as sines.
    n_terms : int, optional
        Only so many of them, for comparison with published networks; an even number lacks the last sine.
    """

    harmonics: int = 2
    n_terms: int | None = None

    def __post_init__(self):
        if self.harmonics < 0 or not 1 <= self.size <= 2 * self.harmonics + 1:
            raise ValueError(
                f"Fourier got harmonics={self.harmonics}, n_terms={self.n_terms}; give K >= 0, and 1 to 2 K + 1 terms or None for all"
            )

    @property
    def size(self) -> int:
        """Number of members."""
        return 2 * self.harmonics + 1 if self.n_terms is None else self.n_terms

    @property
    def periodic(self) -> bool:
        """Of period 2."""
        return True

    @property
    def knots(self) -> tuple[float, ...]:
        """Smooth everywhere."""
        return ()

    @property
    def nearest(self) -> tuple[float, ...]:
        """Zeros."""
        return (0.0,) * self.size

    def values(self, t: Tensor) -> Tensor:
        """Return the members at t (*), (n, *); the harmonics by the addition theorem."""
        waves = [torch.ones_like(t)]
        if self.size > 1:
            c, s = torch.cos(math.pi * t), torch.sin(math.pi * t)
            c_m, s_m = c, s
            while True:
                waves += [c_m, s_m]
                if len(waves) >= self.size:
                    break
                c_m, s_m = c_m * c - s_m * s, s_m * c + c_m * s
        return torch.stack(waves[: self.size])

    def mirrored(self) -> Signed:
        """Sines change their sign."""
        return tuple((k, 1 if k % 2 or k == 0 else -1) for k in range(self.size))

    def turned(self) -> Signed:
        """Odd harmonics change their sign."""
        return tuple((k, (-1) ** ((k + 1) // 2)) for k in range(self.size))


@dataclass(frozen=True)
class Chebyshev:
    """Chebyshev polynomials T_0 to T_{n-1}."""

    n: int = 5

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f"Chebyshev got n={self.n}; give at least one polynomial")

    @property
    def size(self) -> int:
        """Number of members."""
        return self.n

    @property
    def periodic(self) -> bool:
        """Not periodic."""
        return False

    @property
    def knots(self) -> tuple[float, ...]:
        """Smooth everywhere."""
        return ()

    @property
    def nearest(self) -> tuple[float, ...]:
        """Zeros."""
        return (0.0,) * self.size

    def values(self, t: Tensor) -> Tensor:
        """Return the members at t (*), (n, *)."""
        members = [torch.ones_like(t), t]
        for _ in range(2, self.n):
            members.append(2 * t * members[-1] - members[-2])
        return torch.stack(members[: self.n])

    def mirrored(self) -> Signed:
        """Odd degrees change their sign."""
        return tuple((k, (-1) ** k) for k in range(self.n))

    def turned(self) -> Signed:
        """Refuse: polynomials are not periodic."""
        raise ValueError("Chebyshev polynomials are not functions of an angle; give Fourier or a periodic family there")


@dataclass(frozen=True)
class Spline:
    """Cardinal B-splines of one degree, equally spaced; they sum to one on [-1, 1].

    Parameters
    ----------
    n : int
        Number of splines, above the degree.
    degree : int
        0 nearest, 1 hats, 2, 3.
    periodic : bool
        On a circle of length 2, with n even, for angles.
    """

    n: int = 4
    degree: int = 1
    periodic: bool = False

    def __post_init__(self):
        if self.degree not in (0, 1, 2, 3) or self.n <= self.degree:
            raise ValueError(f"Spline got n={self.n}, degree={self.degree}; give a degree of 0 to 3 and more splines than that")

    @property
    def size(self) -> int:
        """Number of members."""
        return self.n

    @property
    def spacing(self) -> float:
        """Distance of neighboring centers."""
        return 2 / self.n if self.periodic else 2 / (self.n - self.degree)

    @property
    def knots(self) -> tuple[float, ...]:
        """Where the pieces of the splines meet."""
        shift = (self.degree + 1) / 2
        return tuple(sorted({round(c + j * self.spacing, 12) for c in _centers(self) for j in (-shift, shift) if abs(c + j) < 2}))

    @property
    def nearest(self) -> tuple[float, ...]:
        """Where the supports of the splines begin."""
        reach = (self.degree + 1) / 2 * self.spacing
        return tuple(max(0.0, abs(c) - reach) for c in _centers(self))

    def values(self, t: Tensor) -> Tensor:
        """Return the members at t (*), (n, *)."""
        return _bspline(_distances(self, t) / self.spacing, self.degree)

    def mirrored(self) -> Signed:
        """Exchange first and last."""
        return _reversed(self)

    def turned(self) -> Signed:
        """Half of them further on."""
        return _half_way(self)


@dataclass(frozen=True)
class Bumps:
    """A profile rho(e |t - c_k| / s) around n equally spaced centers c_k, the first at -1 and the last at 1, s apart.

    Parameters
    ----------
    n : int
        Number of centers, at least two.
    profile : str
        A name of `PROFILES`.
    shape : float
        e; large numbers make narrow bumps. Kernels of compact support need about 0.5 to overlap.
    unity : bool
        Divide by the sum of all members, so that they sum to one.
    periodic : bool
        Centers on a circle of length 2, with n even, for angles.
    """

    n: int = 5
    profile: str = "gaussian"
    shape: float = 1.0
    unity: bool = False
    periodic: bool = False

    def __post_init__(self):
        if self.n < 2 or not self.shape > 0:
            raise ValueError(f"Bumps got n={self.n}, shape={self.shape}; give at least two centers and a shape > 0")
        if self.profile not in PROFILES:
            raise ValueError(f"Bumps got profile={self.profile!r}; choose one of {', '.join(PROFILES)}")

    @property
    def size(self) -> int:
        """Number of members."""
        return self.n

    @property
    def spacing(self) -> float:
        """Distance of neighboring centers."""
        return 2 / self.n if self.periodic else 2 / (self.n - 1)

    @property
    def knots(self) -> tuple[float, ...]:
        """The centers, for all profiles but the smooth ones."""
        return () if self.profile in _SMOOTH and not self.periodic else _centers(self)

    @property
    def nearest(self) -> tuple[float, ...]:
        """Where the supports of the bumps begin; those of the other profiles have no end."""
        reach = self.spacing / self.shape if self.profile in WINDOWS else math.inf
        return tuple(max(0.0, abs(c) - reach) for c in _centers(self))

    def values(self, t: Tensor) -> Tensor:
        """Return the members at t (*), (n, *)."""
        members = PROFILES[self.profile](_distances(self, t) * (self.shape / self.spacing))
        return members / members.sum(0) if self.unity else members

    def mirrored(self) -> Signed:
        """Exchange first and last."""
        return _reversed(self)

    def turned(self) -> Signed:
        """Half of them further on."""
        return _half_way(self)


def _centers(family: Spline | Bumps) -> tuple[float, ...]:
    """Equally spaced, mirror images of each other bit for bit; on a circle from -1 on."""
    if family.periodic:
        return tuple(-1 + 2 * k / family.n for k in range(family.n))
    return tuple((2 * k - family.n + 1) / 2 * family.spacing for k in range(family.n))


def _distances(family: Spline | Bumps, t: Tensor) -> Tensor:
    """Distance of t (*) to each center, (n, *)."""
    d = torch.stack([t - c for c in _centers(family)]).abs()
    return torch.minimum(d, (2 - d).abs()) if family.periodic else d


def _reversed(family: Spline | Bumps) -> Signed:
    n = family.n
    return tuple(((n - k) % n if family.periodic else n - 1 - k, 1) for k in range(n))


def _half_way(family: Spline | Bumps) -> Signed:
    n = family.n
    if not family.periodic or n % 2:
        raise ValueError(f"got {family} for an angle; give periodic=True and an even number, so that reflections map it to itself")
    return tuple(((k + n // 2) % n, 1) for k in range(n))


def _bspline(u: Tensor, degree: int) -> Tensor:
    """Cardinal B-spline at distance u from its center, in units of the knots' spacing."""
    half = (degree + 1) / 2
    if degree == 0:
        return torch.heaviside(half - u, torch.full_like(u, 0.5))
    pieces = [(-1) ** j * math.comb(degree + 1, j) * (half - j - u).clamp(min=0) ** degree for j in range(math.ceil(half))]
    return functools.reduce(torch.add, pieces) / math.factorial(degree)


def _power(knots: tuple[tuple[float, float], ...], n: int) -> Callable[[Tensor], Tensor]:
    """Return sum_i c_i (k_i - r)+^n over pairs (k_i, c_i)."""
    return lambda r: functools.reduce(torch.add, [c * (k - r).clamp(min=0) ** n for k, c in knots])


def _bump(r: Tensor) -> Tensor:
    gap = (1 - r.square()).clamp(min=1e-3)  # exp(-1000) is zero in float64
    return torch.where(r < 1, torch.exp(-1 / gap), torch.zeros_like(r))


def _hoct4(r: Tensor) -> Tensor:
    """Quartic of high order, continued by its tangent near the origin, so that particles do not clump."""
    a, b, g = 0.0927, 0.5, 0.75
    large = (1 - b**2) / (g * (g**2 - b**2))
    small = -(1 + large * g**3) / b**3
    f = _power(((1.0, 1.0), (g, large), (b, small)), 4)
    at, slope = (
        (1 - a) ** 4 + large * (g - a) ** 4 + small * (b - a) ** 4,
        -4 * ((1 - a) ** 3 + large * (g - a) ** 3 + small * (b - a) ** 3),
    )
    return torch.where(r < a, at + slope * (r - a), f(r))


PROFILES: dict[str, Callable[[Tensor], Tensor]] = {
    "gaussian": lambda r: torch.exp(-r.square()),
    "multiquadric": lambda r: (1 + r.square()).sqrt(),
    "inverse_quadric": lambda r: 1 / (1 + r.square()),
    "inverse_multiquadric": lambda r: (1 + r.square()).rsqrt(),
    "thin_plate": lambda r: r.square() * r.clamp(min=1e-30).log(),
    "bump": _bump,
    "linear": lambda r: (1 - r).clamp(min=0),
    "parabola": lambda r: (1 - r.square()).clamp(min=0),
    "poly6": lambda r: (1 - r.square()).clamp(min=0) ** 3,
    "spiky": lambda r: (1 - r).clamp(min=0) ** 3,
    "cubic": _power(((1, 1), (1 / 2, -4)), 3),
    "quartic": _power(((1, 1), (3 / 5, -5), (1 / 5, 10)), 4),
    "quintic": _power(((1, 1), (2 / 3, -6), (1 / 3, 15)), 5),
    "wendland2": lambda r: (1 - r).clamp(min=0) ** 4 * (1 + 4 * r),
    "wendland4": lambda r: (1 - r).clamp(min=0) ** 6 * (1 + 6 * r + 35 / 3 * r**2),
    "wendland6": lambda r: (1 - r).clamp(min=0) ** 8 * (1 + 8 * r + 25 * r**2 + 32 * r**3),
    "hoct4": _hoct4,
}
_SMOOTH = ("gaussian", "multiquadric", "inverse_quadric", "inverse_multiquadric")
WINDOWS = tuple(name for name in PROFILES if name not in _SMOOTH and name != "thin_plate")
_WENDLAND_1D: dict[str, Callable[[Tensor], Tensor]] = {
    "wendland2": lambda r: (1 - r).clamp(min=0) ** 3 * (1 + 3 * r),
    "wendland4": lambda r: (1 - r).clamp(min=0) ** 5 * (1 + 5 * r + 8 * r**2),
    "wendland6": lambda r: (1 - r).clamp(min=0) ** 7 * (1 + 7 * r + 19 * r**2 + 21 * r**3),
}


@dataclass(frozen=True)
class ProductKernel:
    """Products of one-dimensional families, as a basis of kernels (`KernelBasis`).

    Parameters
    ----------
    families : tuple of Family
        One for each coordinate, one to three.
    coordinates : {"cartesian", "polar", "preserving"}
        See the module's docstring; "polar" needs families that can be turned on its first angle.
    window : str or None
        A name of `WINDOWS`; "poly6" is (1 - u^2)^3, which has two derivatives at the rim.
    parity : {"both", "even", "odd"}
        Which terms to keep.

    Raises
    ------
    ValueError
        If a name is unknown, a family does not suit its coordinate, or no term is left.

    Notes
    -----
    `transfer`, and with it exact quadrature on grids, resolves the kinks of splines in one dimension and in polar
    coordinates; for cartesian products of splines it is accurate to about 1e-4 in two dimensions and 1e-2 in three.

    Examples
    --------
    >>> kernel = ProductKernel((Fourier(2), Fourier(2)), parity="odd")
    >>> kernel.size, set(kernel.parities)
    (12, {-1})
    """

    families: tuple[Family, ...]
    coordinates: str = "cartesian"
    window: str | None = "poly6"
    parity: str = "both"

    def __post_init__(self):
        object.__setattr__(self, "families", tuple(self.families))
        if self.n_dim not in (1, 2, 3):
            raise ValueError(f"ProductKernel got {self.n_dim} families; give one for each of one to three axes")
        if self.coordinates not in ("cartesian", "polar", "preserving") or (self.coordinates == "polar" and self.n_dim == 1):
            raise ValueError(
                f'ProductKernel got coordinates={self.coordinates!r} in {self.n_dim}-D; choose "cartesian", "preserving", '
                'or "polar" in two and three dimensions'
            )
        if self.window is not None and self.window not in WINDOWS:
            raise ValueError(f"ProductKernel got window={self.window!r}; choose None or one of {', '.join(WINDOWS)}")
        if self.parity not in ("both", "even", "odd"):
            raise ValueError(f'ProductKernel got parity={self.parity!r}; choose "both", "even" or "odd"')
        if not self.parities:
            raise ValueError(f"ProductKernel got families without {self.parity} products; add terms, or choose another parity")

    @property
    def n_dim(self) -> int:
        """Number of axes."""
        return len(self.families)

    @property
    def size(self) -> int:
        """Number of terms."""
        return len(self.parities)

    @property
    def parities(self) -> tuple[int, ...]:
        """For each term 1 if it is even under z -> -z, -1 if it is odd."""
        return tuple(parity for _, _, _, parity in _terms(self))

    @property
    def radial_breaks(self) -> tuple[float, ...]:
        """Distances between which the terms are smooth, or short pieces where kinks lie across circles."""
        knots = tuple(k for k in self.families[0].knots if -1 < k < 1)
        if self.n_dim == 1:
            distances = {abs(k) for k in knots}
        elif self.coordinates == "polar":
            distances = {(1 + k) / 2 for k in knots}
        else:
            distances = set() if self._smooth else {i / 8 for i in range(1, 8)} if self.n_dim == 2 else {0.5}
        return tuple(sorted({0.0, 1.0, *distances, *_window_breaks(self.window)}))

    @property
    def angular_pieces(self) -> int:
        """Sectors in which the terms are smooth, or short ones where kinks lie across rays."""
        if self.n_dim == 2 and self.coordinates == "polar":
            knotted = self.families[1]
            return 4 if not knotted.knots else 2 * knotted.size
        return 4 if self._smooth else 32 if self.n_dim == 2 else 8

    @property
    def _smooth(self) -> bool:
        return self.coordinates != "preserving" and not any(family.knots for family in self.families)

    def raw(self, z: Tensor) -> Tensor:
        """Return phi_k before normalization, (K, *), at offsets z (d, *); zero outside the unit ball."""
        factors = [family.values(t) for family, t in zip(self.families, self._mapped(z), strict=True)]
        product = factors[0] * self._window(z)
        for factor in factors[1:]:
            product = (product[:, None] * factor).flatten(0, 1)
        return self._of_parity(product)

    def _mapped(self, z: Tensor) -> tuple[Tensor, ...]:
        if self.coordinates == "polar":
            return _polar(z)
        return _preserving(z) if self.coordinates == "preserving" else z.unbind(0)

    def _window(self, z: Tensor) -> Tensor:
        u2 = _squared(z)
        if self.window is None:
            return (u2 <= 1).to(z.dtype)
        if self.window in ("parabola", "poly6"):  # no root needed
            return (1 - u2).clamp(min=0) ** (3 if self.window == "poly6" else 1)
        profile = _WENDLAND_1D.get(self.window) if self.n_dim == 1 else None
        return (profile or PROFILES[self.window])((u2 + _TINY).sqrt())

    def _of_parity(self, product: Tensor) -> Tensor:
        """Combine products that reflection exchanges, and keep the terms of the parity asked for."""
        terms = _terms(self)
        if all(first == second for first, second, _, _ in terms):
            return product if len(terms) == len(product) else torch.stack([product[k] for k, _, _, _ in terms])
        members = product.unbind(0)
        return torch.stack([members[k] if k == j else torch.add(members[k], members[j], alpha=s) / 2 for k, j, s, _ in terms])


@functools.cache
def _terms(kernel: ProductKernel) -> tuple[tuple[int, int, int, int], ...]:
    """For each term of the kernel (k, j, s, p): half of product k plus s times product j, or product k alone if j = k; its parity p."""
    axes = [_reflected(kernel, axis, family) for axis, family in enumerate(kernel.families)]
    sizes = [family.size for family in kernel.families]
    nearest = [family.nearest for family in kernel.families]
    terms = []
    for k, index in enumerate(itertools.product(*[range(n) for n in sizes])):
        if kernel.coordinates == "cartesian" and math.hypot(*[near[u] for near, u in zip(nearest, index, strict=True)]) >= _RIM:
            continue  # in a corner of the cube, outside the ball or nearly so
        images = [axes[a][u] for a, u in enumerate(index)]
        j, sign = 0, 1
        for (image, s), n in zip(images, sizes, strict=True):
            j, sign = j * n + image, sign * s
        if j == k:
            terms.append((k, k, 0, sign))
        elif k < j:
            terms += [(k, j, sign, 1), (k, j, -sign, -1)]
    wanted = {"both": (1, -1), "even": (1,), "odd": (-1,)}[kernel.parity]
    return tuple(term for term in terms if term[3] in wanted)


def _reflected(kernel: ProductKernel, axis: int, family: Family) -> Signed:
    """Return what z -> -z does to the members on one coordinate: mirrored, or half a turn of an angle, or nothing to a distance."""
    if kernel.coordinates != "polar" or axis == 2:
        return family.mirrored()
    return tuple((k, 1) for k in range(family.size)) if axis == 0 else family.turned()


def _squared(z: Tensor) -> Tensor:
    """|z|^2; faster than a sum over a short leading axis."""
    return functools.reduce(lambda total, t: torch.addcmul(total, t, t), z[1:], z[0] * z[0])


def _window_breaks(window: str | None) -> tuple[float, ...]:
    return {"cubic": (1 / 2,), "quartic": (1 / 5, 3 / 5), "quintic": (1 / 3, 2 / 3), "hoct4": (0.0927, 0.5, 0.75)}.get(window or "", ())


def _polar(z: Tensor) -> tuple[Tensor, ...]:
    """Distance and angles in [-1, 1]; at the origin and on the axis of 3-D, directions default to the first axis."""
    plane2 = z[0].square() + z[1].square()
    x = torch.where(plane2 > 0, z[0], torch.ones_like(plane2))
    theta = torch.atan2(z[1], x) / math.pi
    if len(z) == 2:
        return 2 * (plane2 + _TINY).sqrt() - 1, theta
    height = torch.atan2((plane2 + _TINY).sqrt(), torch.where(plane2 + z[2].square() > 0, z[2], torch.zeros_like(plane2)))
    return 2 * (plane2 + z[2].square() + _TINY).sqrt() - 1, theta, 2 / math.pi * height - 1


def _preserving(z: Tensor) -> tuple[Tensor, ...]:
    """Ball to cylinder to cube, of constant Jacobian; the disc to the square in two dimensions (Griepentrog et al. 2008)."""
    if len(z) == 1:
        return z.unbind(0)
    if len(z) == 2:
        return _square(z[0], z[1])
    x, y, h = z.unbind(0)
    s2 = x.square() + y.square()
    s, r = (s2 + _TINY).sqrt(), (s2 + h.square() + _TINY).sqrt()
    flat = 1.25 * h.square() <= s2
    stretch = torch.where(flat, r / s, (3 * r / (r + h.abs())).sqrt())
    return *_square(stretch * x, stretch * y), torch.where(flat, 1.5 * h, torch.sign(h) * r)


def _square(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Disc to square: the longer coordinate becomes the distance, the other one its arc."""
    wide = y.abs() <= x.abs()
    longer, shorter = torch.where(wide, x, y), torch.where(wide, y, x)
    along = torch.sign(longer) * (x.square() + y.square() + _TINY).sqrt()
    across = 4 / math.pi * along * torch.atan(shorter / torch.where(longer == 0, torch.ones_like(longer), longer))
    return torch.where(wide, along, across), torch.where(wide, across, along)


def fourier_kernel(n_dim: int, harmonics: int = 2, *, window: str | None = "poly6", parity: str = "both") -> ProductKernel:
    """Return the symmetric Fourier basis of SFBC."""
    return ProductKernel((Fourier(harmonics),) * n_dim, window=window, parity=parity)


def cconv_kernel(n_dim: int, n: int = 4) -> ProductKernel:
    """Return the kernel of continuous convolutions: hats on the ball stretched to a cube, window (1 - u^2)^3."""
    return ProductKernel((Spline(n, 1),) * n_dim, coordinates="preserving")


def dmcf_kernel(n_dim: int, n: int = 4) -> ProductKernel:
    """Return the antisymmetric kernel of DMCF: odd combinations of CConv's; conserves momentum with ``conservative=True``."""
    return ProductKernel((Spline(n, 1),) * n_dim, coordinates="preserving", parity="odd")


def spline_kernel(n_dim: int, n: int = 5, degree: int = 2) -> ProductKernel:
    """Return the kernel of SplineConv: B-splines of cartesian offsets, without a window."""
    return ProductKernel((Spline(n, degree),) * n_dim, window=None)
