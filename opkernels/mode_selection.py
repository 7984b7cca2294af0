"""Which modes a frequency-domain model keeps, chosen from its training targets before any training.

A model that is zero outside a set K of modes makes at least the error of the best approximation there. By Parseval, for
targets Y with coefficients Y(k) in orthonormal bases,

    floor(K) = mean over samples of sqrt(1 - sum_{k in K} |Y(k)|^2 / ||Y||^2)         the irreducible relative L2 error

which is known from the targets alone:

| set                       | keeps                                                                    | for                              |
| ------------------------- | ------------------------------------------------------------------------ | -------------------------------- |
| `box`                     | the first modes of every axis                                            | the default; separable, fastest  |
| `ball`                    | sum_a (k_a/K_a)^2 <= 1                                                   | isotropic spectra                |
| `strided_tail`            | the first modes, then every s-th                                         | an ablation: keeps high k        |
| `TargetModes.top`         | those with the largest share of the targets                              | the least floor at a given count |
| `TargetModes.threshold`   | the smallest box, ball or top set with floor <= eps                      | the first thing to try           |

On Fourier axes cosine and sine of a wave number are kept or left together. Targets of several channels should be normalized
as for training first: the shares add up over channels. Floors do not bind models with a path in space.

Reference: Poli et al., "Transform Once", NeurIPS 2022, arXiv 2211.14453 (irreducible loss and selection by energy).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from opkernels.bases import Basis, analyze, synthesize
from opkernels.domains import Axis, Domain, Grid
from opkernels.transforms import checked_modes

__all__ = ["ModeSet", "TargetModes", "ball", "bases_for", "box", "strided_tail"]


@dataclass(frozen=True)
class ModeSet:
    """Products of basis functions: all of a box, or those whose numbers k = (k_1, ..., k_d) are listed.

    Parameters
    ----------
    bases : tuple of Basis
        One per axis: the box around the set.
    orders : tuple of tuple of int, optional
        The kept numbers k (`Basis.orders`), one tuple for each; None keeps the whole box.
    """

    bases: tuple[Basis, ...]
    orders: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self):
        if self.orders is None:
            return
        orders, known = tuple(tuple(k) for k in self.orders), [set(b.orders) for b in self.bases]
        fit = all(len(k) == len(known) and all(i in among for i, among in zip(k, known, strict=True)) for k in orders)
        if not orders or len(set(orders)) < len(orders) or not fit:
            raise ValueError(
                f"ModeSet got orders={self.orders}; give different k = (k_1, ..., k_d), each number among the orders of its basis"
            )
        object.__setattr__(self, "orders", tuple(tuple(int(i) for i in k) for k in orders))

    @classmethod
    def of(cls, plain: ModeSet | Mapping) -> ModeSet:
        """Return `plain` itself, or the set that a mapping (from a file) describes.

        Raises
        ------
        ValueError
            If a mapping has other keys than "bases" (each with kind, n_modes and perhaps kept) and, perhaps, "orders".
        """
        if isinstance(plain, ModeSet):
            return plain
        try:
            bases = tuple(b if isinstance(b, Basis) else Basis(**b) for b in plain["bases"])
        except (KeyError, TypeError):
            bases = ()
        if not bases or set(plain) - {"bases", "orders"}:
            raise ValueError(f'got the set of modes {dict(plain)}; give "bases", each with kind and n_modes, and perhaps "orders"')
        return cls(bases, plain.get("orders"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of functions of the box per axis."""
        return tuple(b.size for b in self.bases)

    def mask(self, device=None) -> Tensor:
        """Return which products of the box are kept, (*shape), bool."""
        if self.orders is None:
            return torch.ones(self.shape, dtype=torch.bool, device=device)
        tops = [max(b.orders) + 1 for b in self.bases]
        table = torch.zeros(tops, dtype=torch.bool, device=device)
        table[tuple(torch.tensor(self.orders, device=device).T)] = True
        for a, basis in enumerate(self.bases):
            table = table.index_select(a, torch.tensor(basis.orders, device=device))
        return table

    @property
    def count(self) -> int:
        """Number of kept products: the real degrees of freedom per channel."""
        if self.orders is None:
            return prod(self.shape)
        per_axis = [Counter(b.orders) for b in self.bases]
        return sum(prod(c[i] for c, i in zip(per_axis, k, strict=True)) for k in self.orders)


def bases_for(domain: Domain, n_modes: Sequence[int] | int, kinds: str | Sequence[str] | None = None) -> tuple[Basis, ...]:
    """Return one basis per axis: of the kinds named, or Fourier on periodic axes and cosine between walls.

    Raises
    ------
    ValueError
        If the numbers do not fit the axes, a kind is unknown, or Fourier meets an axis that has no FFT.
    """
    n_modes = checked_modes(n_modes)
    if len(n_modes) != domain.ndim:
        raise ValueError(f"got n_modes={n_modes} on a {domain.ndim}-D domain; give one number of modes for each axis")
    each = (kinds,) * domain.ndim if kinds is None or isinstance(kinds, str) else tuple(kinds)
    if len(each) != domain.ndim:
        raise ValueError(f"got the bases {', '.join(map(str, each))} on a {domain.ndim}-D domain; give one name for each axis")
    return tuple(_basis(axis, m, kind) for axis, m, kind in zip(domain.axes, n_modes, each, strict=True))


def _basis(axis: Axis, n_modes: int, kind: str | None) -> Basis:
    if kind == "fourier":
        Domain((axis,)).require_fft("T1's Fourier basis")
    return Basis.of(axis, n_modes) if kind is None else Basis(kind, n_modes)


def box(domain: Domain, n_modes: Sequence[int] | int, basis: str | Sequence[str] | None = None) -> ModeSet:
    """Return the first n_modes functions of every axis: a low-pass box."""
    return ModeSet(bases_for(domain, n_modes, basis))


def ball(domain: Domain, n_modes: Sequence[int] | int, basis: str | Sequence[str] | None = None) -> ModeSet:
    """Return the products in the ellipsoid that touches the low-pass box: sum_a (k_a/K_a)^2 <= 1, K_a the largest k of axis a."""
    bases = bases_for(domain, n_modes, basis)
    tops = [max(1, *b.orders) for b in bases]
    inside = [k for k in itertools.product(*(sorted(set(b.orders)) for b in bases)) if _radius(k, tops) <= 1]
    return _around(bases, inside)


def strided_tail(domain: Domain, n_modes: Sequence[int] | int, low: int, stride: int, basis: str | Sequence[str] | None = None) -> ModeSet:
    """Return, on every axis, the functions of order up to `low` and every `stride`-th order above it, within the first n_modes."""
    if low < 0 or stride < 1:
        raise ValueError(f"strided_tail got low={low}, stride={stride}; give low of at least 0 and a stride of at least 1")
    bases = bases_for(domain, n_modes, basis)
    return ModeSet(tuple(_only(b, [k for k in set(b.orders) if k <= low or (k - low) % stride == 0]) for b in bases))


def _radius(k: Sequence[int], tops: Sequence[int]) -> float:
    return sum((i / top) ** 2 for i, top in zip(k, tops, strict=True)) * (1 - 1e-12)


def _only(basis: Basis, orders: Sequence[int]) -> Basis:
    """Return the functions of a basis with these orders."""
    wanted = set(orders)
    whole = Basis(basis.kind, basis.n_modes)
    return Basis(basis.kind, basis.n_modes, tuple(i for i, k in enumerate(whole.orders) if k in wanted))


def _around(bases: Sequence[Basis], orders: Sequence[tuple[int, ...]]) -> ModeSet:
    """Return the set of these orders in the smallest product of axes that holds it."""
    axes = tuple(_trimmed(_only(basis, [k[a] for k in orders])) for a, basis in enumerate(bases))
    whole = prod(len(set(b.orders)) for b in axes) == len(orders)
    return ModeSet(axes, None if whole else tuple(sorted(orders)))


def _trimmed(basis: Basis) -> Basis:
    """Return a basis that keeps its first functions as the shorter basis, which fits samples with no others."""
    if basis.kept is None or basis.kept != tuple(range(len(basis.kept))):
        return basis
    return Basis(basis.kind, len(basis.kept))


@dataclass(frozen=True)
class TargetModes:
    """How the training targets divide among the modes.

    Parameters
    ----------
    bases : tuple of Basis
        All modes that were measured.
    shares : Tensor, (S, *K)
        |Y(k)|^2/||Y||^2 of every sample, added over channels and over the cosine and the sine of a wave number; K the
        number of different orders per axis. They sum to at most 1: the rest is what the modes cannot fit, by the quadrature
        of the samples.

    Examples
    --------
    >>> domain = Domain.periodic(1.0)
    >>> x = domain.grid(32).coordinates(dtype=torch.float64)[0]
    >>> targets = torch.sin(2 * torch.pi * x)[None, None] + 0.1 * torch.cos(2 * torch.pi * 5 * x)
    >>> modes = TargetModes.of(targets, domain.grid(32))
    >>> [round(modes.floor(box(domain, n)), 4) for n in (1, 3, 11)]
    [1.0, 0.0995, 0.0]
    >>> modes.threshold(0.2).shape
    (3,)
    """

    bases: tuple[Basis, ...]
    shares: Tensor

    @classmethod
    def of(
        cls,
        targets: Tensor,
        grid: Grid,
        *,
        basis: str | Sequence[str] | None = None,
        n_modes: Sequence[int] | int | None = None,
    ) -> TargetModes:
        """Measure targets (S, C, *grid.shape) in the first n_modes per axis, by default all that the grid carries.

        Raises
        ------
        ValueError
            If the targets do not fit the grid, a basis is not orthonormal, more modes are asked for than samples, or a target
            is zero or not finite.
        """
        if tuple(targets.shape[2:]) != grid.shape or not len(targets):
            raise ValueError(
                f"got targets of shape {tuple(targets.shape)}; expected (samples, channels, {', '.join(map(str, grid.shape))})"
            )
        given = grid.shape if n_modes is None else n_modes
        bases = bases_for(grid.domain, given, basis)
        for axis, b, n in zip(grid.domain.axes, bases, grid.shape, strict=True):
            if not b.orthonormal:
                raise ValueError(f'the basis "{b.kind}" of axis {axis.name} is not orthonormal, so its modes share no energy; use legendre')
            if b.span > n:
                raise ValueError(f"got n_modes={b.n_modes} on axis {axis.name} with {n} samples; give at most {n}, or finer targets")
        y = targets.detach().double()
        z = analyze(y, grid, bases)
        beside = (y - synthesize(z, grid, bases)).square() * grid.weights(y.device, y.dtype)
        norms = z.square().flatten(1).sum(1) + beside.flatten(1).sum(1)
        for wrong, what in ((~norms.isfinite(), "not finite"), (norms == 0, "zero everywhere")):
            if bool(wrong.any()):
                raise ValueError(f"target {int(wrong.nonzero()[0])} is {what}, so errors relative to it have no meaning; leave it out")
        shares = z.square().sum(1) / norms.view(-1, *[1] * grid.ndim)
        for a, b in enumerate(bases):
            shares = _added(shares, 1 + a, torch.tensor(b.orders, device=y.device))
        return cls(bases, shares)

    def floor(self, modes: ModeSet) -> float:
        """Return the irreducible relative L2 error of a set of modes: no model that keeps to them does better on these targets."""
        return self._floor((self.shares * self._mask(modes)).flatten(1).sum(1)).item()

    def top(self, count: int) -> ModeSet:
        """Return the `count` wave numbers k (with all their cosines and sines) that hold most of the targets."""
        mean = self.shares.mean(0).flatten()
        if isinstance(count, bool) or count not in range(1, mean.numel() + 1):
            raise ValueError(f"got count={count} of {mean.numel()} measured modes; give 1 to {mean.numel()}")
        return self._listed(mean.argsort(descending=True, stable=True)[:count])

    def threshold(self, eps: float, shape: str = "box") -> ModeSet:
        """Return the smallest set whose floor is at most eps.

        Parameters
        ----------
        eps : float
            Relative L2 error that the missing modes may cost; a third of the error hoped for.
        shape : {"box", "ball", "top"}
            The box with the fewest modes, any sizes; the smallest ball of the box of all measured modes; or the fewest
            wave numbers.

        Raises
        ------
        ValueError
            If even all measured modes leave more than eps.
        """
        if shape not in ("box", "ball", "top"):
            raise ValueError(f"got shape={shape!r}; choose one of box, ball, top")
        least = self._floor(self.shares.flatten(1).sum(1)).item()
        if not eps > 0 or least > eps:
            raise ValueError(
                f"no set of the {prod(b.size for b in self.bases)} measured modes leaves an error of at most {eps:g}: all of them leave "
                f"{least:.2g}; give a larger eps, targets on a finer grid, or a basis that suits the walls"
            )
        if shape == "box":
            return self._smallest_box(eps)
        key = self._radii() if shape == "ball" else -self.shares.mean(0).flatten()
        order = key.argsort(stable=True)
        floors = self._floor(self.shares.flatten(1)[:, order].cumsum(1).T)
        count = int((floors <= eps).nonzero()[0]) + 1
        if shape == "ball":
            count = int((key <= key[order[count - 1]]).sum())  # all modes on the last shell
        return self._listed(order[:count])

    def _floor(self, kept: Tensor) -> Tensor:
        """Mean over samples (the last axis) of sqrt(1 - kept); rounding is no error."""
        rest = 1 - kept
        return torch.where(rest > 1e-14, rest, torch.zeros_like(rest)).sqrt().mean(-1)

    def _orders(self) -> list[list[int]]:
        return [sorted(set(b.orders)) for b in self.bases]

    def _mask(self, modes: ModeSet) -> Tensor:
        """Which of the measured orders a set keeps, (*K)."""
        measured = self._orders()
        if [b.kind for b in modes.bases] != [b.kind for b in self.bases] or any(
            max(b.orders) > k[-1] for b, k in zip(modes.bases, measured, strict=True)
        ):
            raise ValueError("the set of modes has other bases, or more functions, than were measured; measure the targets with those")
        kept = itertools.product(*(sorted(set(b.orders)) for b in modes.bases)) if modes.orders is None else modes.orders
        mask = torch.zeros(self.shares.shape[1:], dtype=self.shares.dtype, device=self.shares.device)
        index = torch.tensor([[k - m[0] for k, m in zip(ks, measured, strict=True)] for ks in kept], device=mask.device)
        mask[tuple(index.T)] = 1
        return mask

    def _listed(self, flat: Tensor) -> ModeSet:
        measured = self._orders()
        index = torch.stack(torch.unravel_index(flat, self.shares.shape[1:])).T.tolist()
        return _around(self.bases, [tuple(m[i] for m, i in zip(measured, row, strict=True)) for row in index])

    def _radii(self) -> Tensor:
        measured = self._orders()
        tops = [max(1, k[-1]) for k in measured]
        return torch.tensor([_radius(k, tops) for k in itertools.product(*measured)], device=self.shares.device, dtype=torch.float64)

    def _smallest_box(self, eps: float) -> ModeSet:
        kept = self.shares
        for a in range(1, kept.ndim):
            kept = kept.cumsum(a)
        enough = self._floor(kept.movedim(0, -1)) <= eps
        size = torch.ones((), dtype=torch.float64, device=kept.device)
        for b in self.bases:
            size = size[..., None] * torch.tensor(_sizes(b), dtype=torch.float64, device=kept.device)
        best = torch.unravel_index(torch.where(enough, size, math.inf).argmin(), size.shape)
        return ModeSet(tuple(Basis(b.kind, _sizes(b)[int(i)]) for b, i in zip(self.bases, best, strict=True)))


def _sizes(basis: Basis) -> list[int]:
    """Return the number of functions up to each order."""
    orders = basis.orders
    return [i + 1 for i, k in enumerate(orders) if i + 1 == len(orders) or orders[i + 1] != k]


def _added(x: Tensor, axis: int, orders: Tensor) -> Tensor:
    """Add up the entries of equal order along an axis."""
    _, group = torch.unique(orders, return_inverse=True)
    shape = list(x.shape)
    shape[axis] = int(group.max()) + 1
    return x.new_zeros(shape).index_add(axis, group, x)
