"""Multi-grid patches: cut a field into boxes, each with coarse, wide views of what lies around it, and stitch the results.

Every axis of length ℓ is cut into 2^L equal patches. With c the center of a patch, W = ℓ/2^L + 2p its width with padding,
the window of level λ = 0 .. L samples the field, band-limited for its spacing, on the box

    x_λ(t) = c + 2^λ W (t - 1/2),   t in [0, 1),   in as many samples as level 0.

All levels are functions of the same t, so they are channels of one input. The window of level L spans the whole domain.
A local operator maps the windows of a patch to the output on W, and the outputs are added up with a partition of unity.

| symbol | meaning                                      | unit              |
| ------ | -------------------------------------------- | ----------------- |
| L      | levels, 2^L patches per axis                 |                   |
| n, s   | samples of an axis, and of a patch: n/2^L    |                   |
| p      | padding on each side                         | length or samples |
| w      | samples of a window: s + 2p                  |                   |

| step                     | how                                                                                  |
| ------------------------ | ------------------------------------------------------------------------------------ |
| restriction to level λ   | truncation to wave numbers below the Nyquist of n/2^λ samples; between walls, cosines |
| windows                  | the truncated series at the points above: no condition on n but n = 2^L s            |
| prolongation             | a function on n/2^L samples at the samples of the finest window, by its series       |
| beyond walls             | mirrored, which keeps values in their range                                          |
| ends of a window         | the outer half of the padding goes over smoothly into that of the other end          |
| seams                    | patches overlap by half the padding on each side and are blended there               |

Of a field that is split over processes each has whole patches, and the samples around them; the restrictions, which are small, all have
whole. The outputs in the margins go to the processes they belong to.

The two halves of the padding do not meet: the identity, patch by patch, is the identity. Since windows are smooth and
periodic, a Fourier layer may take each for its period. Everything is placed in units of length, so the same patches mean
the same on every grid.

Fails where a grid does not divide: n must be a multiple of 2^L, and p a whole number of samples. Rough fields ring in the
coarse windows (the truncation is sharp). Coarse windows cost one matrix (w, n/2^λ) per axis and patch: mind axes of 10^4 samples.

Reference: Kossaifi, Kovachki, Azizzadenesheli, Anandkumar, "Multi-Grid Tensorized Fourier Neural Operator for
High-Resolution PDEs", TMLR 2024, arXiv 2310.00120 (windows and levels; restriction, ends and blending are ours).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain, Grid, table
from opkernels.layers.embedding import axis_positions

__all__ = ["Patches"]


@dataclass(frozen=True)
class Patches:
    """The decomposition of a domain: what the windows of a patch are, and how outputs are put together.

    Parameters
    ----------
    domain : Domain
        Axes that are periodic ("node" or "cell") or have walls ("cell").
    levels : int
        L: 2^L patches per axis, each with L + 1 windows. Zero: one patch, the domain.
    padding : tuple of Fraction
        p over the length of the axis, at most 2^-L; not used on periodic axes at zero levels. `Patches.of` makes them of lengths.

    Examples
    --------
    >>> import torch
    >>> domain = Domain.periodic(1.0, 2.0)
    >>> patches, grid = Patches.of(domain, 1, padding=0.125), domain.grid(32, 64)
    >>> pyramid = patches.pyramid(torch.zeros(3, 1, 32, 64), grid)
    >>> patches.windows(pyramid, grid, (0, 1)).shape
    torch.Size([3, 2, 24, 40])
    """

    domain: Domain
    levels: int
    padding: tuple[Fraction, ...]

    @classmethod
    def of(cls, domain: Domain, levels: int, padding: float | Sequence[float] | None = None) -> Patches:
        """Return the patches of a domain, with padding in its units of length (None: a sixteenth of each axis).

        Raises
        ------
        ValueError
            If an axis is of a kind that cannot be cut, or a padding is negative, wider than a patch, or no simple fraction.
        """
        domain.require_fft("a multi-grid decomposition")
        for axis in domain.axes:
            if not axis.periodic and axis.points != "cell":
                raise ValueError(
                    f'a multi-grid decomposition mirrors at walls, but axis {axis.name} has points="{axis.points}"; use "cell"'
                )
        if padding is None:
            padding = [axis.length / 16 for axis in domain.axes]
        lengths = [padding] * domain.ndim if isinstance(padding, (int, float)) else list(padding)
        if len(lengths) != domain.ndim:
            raise ValueError(f"got padding={padding!r} on a {domain.ndim}-D domain; give one length, or one for each axis")
        return cls(domain, levels, tuple(_share(axis, levels, p) for axis, p in zip(domain.axes, lengths, strict=True)))

    @property
    def indices(self) -> list[tuple[int, ...]]:
        """All patches, each as its number along every axis."""
        return list(itertools.product(range(2**self.levels), repeat=self.domain.ndim))

    def held(self, grid: Grid) -> list[tuple[int, ...]]:
        """Return the patches of the samples held here: all, unless the field is split over processes.

        Raises
        ------
        ValueError
            If the field is split over processes and a block is no whole number of patches.
        """
        if grid.split.size == 1:
            return self.indices
        ranges = []
        for a, line in enumerate(self._lines(grid)):
            first, held = grid.split.first(a, line.n), grid.sizes[a]
            if first % line.patch or held % line.patch:
                raise ValueError(
                    f"got {2**self.levels} patches of axis {line.axis.name} for processes that hold {held} of its {line.n} samples; "
                    "split the axis over a number of processes that divides that of the patches, or take more levels"
                )
            ranges.append(range(first // line.patch, (first + held) // line.patch))
        return list(itertools.product(*ranges))

    @property
    def window_domain(self) -> Domain:
        """The box [0, W) of a patch with its padding, one period of what the windows hold."""
        axes = []
        for axis, share in zip(self.domain.axes, self.padding, strict=True):
            alone = self.levels == 0 and axis.periodic
            width = axis.length * float(1 if alone else Fraction(1, 2**self.levels) + 2 * share)
            axes.append(Axis(0.0, width, periodic=True, points=axis.points, name=axis.name))
        return Domain(tuple(axes))

    def window(self, grid: Grid) -> Grid:
        """Return the grid of the finest window of a patch.

        Raises
        ------
        ValueError
            If the grid does not divide into patches, or the padding is no whole number of samples.
        """
        whole = Patches(grid.domain, self.levels, self.padding)
        return whole.window_domain.grid(*(line.width for line in self._lines(grid)))

    def pyramid(self, x: Tensor, grid: Grid) -> list[Tensor]:
        """Return x (B, C, *grid.sizes) with the samples around it that windows need, and its restrictions to n/2, n/4, .. n/2^L samples."""
        around = x
        for a, line in enumerate(self._lines(grid)):
            around = _surrounded(around, a, line, grid)
        fields = [around]
        for level in range(1, self.levels + 1):
            y = x
            for a, (axis, n) in enumerate(zip(grid.domain.axes, grid.shape, strict=True)):
                y = _times(y, a + 2, grid.split.cut(_restriction(axis, n, n >> level, device=y.device, dtype=y.dtype), 1, a))
            fields.append(grid.split.total(y))
        return fields

    def windows(self, pyramid: Sequence[Tensor], grid: Grid, patch: Sequence[int]) -> Tensor:
        """Return the windows of a patch, (B, (L + 1) C, *w), level after level."""
        lines, kind = self._lines(grid), {"device": pyramid[0].device}
        views = []
        for level, x in enumerate(pyramid):
            for a, (line, i) in enumerate(zip(lines, patch, strict=True)):
                if level:
                    x = _times(x, a + 2, _view(line, i, level, level, dtype=x.dtype, **kind))
                else:
                    x = x.narrow(a + 2, i * line.patch - grid.split.first(a, line.n), line.width + 2 * line.margin)
                    x = _times(x, a + 2, _closure(line, dtype=x.dtype, **kind)) if line.padding else x
            views.append(x)
        return torch.cat(views, dim=1)

    def coarsest(self, grid: Grid) -> Grid:
        """Return the grid of n/2^L samples of the last restriction: of the whole domain, also where the field is split over processes."""
        return grid.domain.grid(*(line.n >> self.levels for line in self._lines(grid)))

    def prolonged(self, coarse: Tensor, grid: Grid, patch: Sequence[int]) -> Tensor:
        """Return functions (B, C, *n/2^L) on the grid of `coarsest` at the samples of the finest window of a patch, (B, C, *w)."""
        for a, (line, i) in enumerate(zip(self._lines(grid), patch, strict=True)):
            coarse = _times(coarse, a + 2, _view(line, i, 0, self.levels, device=coarse.device, dtype=coarse.dtype))
        return coarse

    def positions(self, grid: Grid, patch: Sequence[int], kind: str | None, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return where the samples of the windows are in the whole domain, (channels, *w), level after level.

        `kind` as in `opkernels.layers.embedding.positions`.
        """
        lines = self._lines(grid)
        shape, channels = tuple(line.width for line in lines), []
        for level in range(self.levels + 1):
            for a, (line, i) in enumerate(zip(lines, patch, strict=True)):
                values = _window_positions(line, i, level, kind, device=device, dtype=dtype)
                channels.append(values.view(-1, *[shape[a] if b == a else 1 for b in range(len(shape))]).expand(-1, *shape))
        return torch.cat(channels)

    def beginning(self, x: Tensor, channels: int, grid: Grid) -> Tensor:
        """Return the zeros that outputs are added to: the samples held here and the margins around them."""
        sizes = [n + 2 * line.margin for n, line in zip(grid.sizes, self._lines(grid), strict=True)]
        return x.new_zeros(x.shape[0], channels, math.prod(sizes))

    def add(self, total: Tensor, y: Tensor, grid: Grid, patch: Sequence[int]) -> Tensor:
        """Return `total` (`beginning`) plus the blended output y (B, C, *w) of a patch."""
        index = torch.zeros((), dtype=torch.int64, device=y.device)
        for a, (line, i) in enumerate(zip(self._lines(grid), patch, strict=True)):
            first, count = _overlap(line, i)
            weight = _blend(line, i, device=y.device, dtype=y.dtype)
            y = y.narrow(a + 2, first, count) * weight.view(-1, *[1] * (grid.ndim - 1 - a))
            start = i * line.patch + first - line.padding + line.margin - grid.split.first(a, line.n)
            index = index[..., None] * (grid.sizes[a] + 2 * line.margin) + torch.arange(start, start + count, device=y.device)
        return total.index_add(2, index.flatten(), y.flatten(2).to(total.dtype))

    def stitched(self, total: Tensor, grid: Grid) -> Tensor:
        """Return the sum of all outputs, (B, C, *grid.sizes), the margins handed to those they belong to."""
        lines = self._lines(grid)
        y = total.unflatten(2, [n + 2 * line.margin for n, line in zip(grid.sizes, lines, strict=True)])
        for a, line in reversed(list(enumerate(lines))):
            low, high = (0, 0) if line.axis.periodic else grid.split.beyond(a, line.margin, line.n)
            y = y.narrow(a + 2, low, y.shape[a + 2] - low - high)  # beyond walls there is nothing
            y = grid.split.folded(y, a, line.margin, line.n, periodic=line.axis.periodic)
        return y

    def _lines(self, grid: Grid) -> list[_Line]:
        return [_line(axis, n, self.levels, p) for axis, n, p in zip(grid.domain.axes, grid.shape, self.padding, strict=True)]


@dataclass(frozen=True)
class _Line:
    """One axis of the decomposition of a grid, in samples."""

    axis: Axis
    n: int
    levels: int
    patch: int
    padding: int

    @property
    def width(self) -> int:
        """Samples w of a window."""
        return self.patch + 2 * self.padding

    @property
    def margin(self) -> int:
        """Samples beyond each end of a window that enter its closure, and of overlap beyond the patch: half the padding, rounded up."""
        return -(-self.padding // 2)

    def walls(self, i: int) -> tuple[bool, bool]:
        """Whether patch i begins, and ends, at a wall."""
        return not self.axis.periodic and i == 0, not self.axis.periodic and i == 2**self.levels - 1


def _line(axis: Axis, n: int, levels: int, padding: Fraction) -> _Line:
    count = 2**levels
    if n % count or n < 2 * count:
        raise ValueError(
            f"got {n} samples on axis {axis.name} for {count} patches of at least 2 samples (levels={levels}); "
            f"give a multiple of {count}, or fewer levels"
        )
    if levels == 0 and axis.periodic:
        return _Line(axis, n, 0, n, 0)
    if (n * padding.numerator) % padding.denominator:
        raise ValueError(
            f"the padding of {float(padding) * axis.length:g} on axis {axis.name} is {float(padding) * n:g} of its {n} samples; "
            f"give a multiple of {padding.denominator} samples, or another padding"
        )
    return _Line(axis, n, levels, n // count, n * padding.numerator // padding.denominator)


def _share(axis: Axis, levels: int, length: float) -> Fraction:
    """Return a padding as a share of the axis."""
    ratio = length / axis.length if isinstance(length, (int, float)) and math.isfinite(length) else -1.0
    share = Fraction(ratio).limit_denominator(256)
    if ratio < 0 or abs(float(share) - ratio) > 1e-9:
        raise ValueError(
            f"got a padding of {length!r} on axis {axis.name} of length {axis.length:g}; "
            f"give a simple fraction of the length, such as {axis.length / 16:g}"
        )
    if share > Fraction(1, 2**levels):
        raise ValueError(
            f"got a padding of {length:g} on axis {axis.name}, wider than its patches of {axis.length / 2**levels:g}; "
            "give at most the width of a patch, or fewer levels"
        )
    return share


def _times(x: Tensor, dim: int, matrix: Tensor) -> Tensor:
    """Multiply x along `dim` by a matrix."""
    with torch.autocast(x.device.type, enabled=False):
        return (x.movedim(dim, -1) @ matrix.T).movedim(-1, dim)


def _step(z: Tensor) -> Tensor:
    """Smooth step from 0 to 1, z^3 (10 - 15 z + 6 z^2); h(z) + h(1 - z) = 1 without rounding."""
    low = torch.minimum(z, 1 - z).clamp(min=0)
    h = low**3 * (10 - 15 * low + 6 * low**2)
    return torch.where(z > 0.5, 1 - h, h)


def _series(axis: Axis, n: int, y: Tensor, carried: int) -> Tensor:
    """Matrix (len(y), n) that evaluates the series of n samples at y, cut to the wave numbers below the Nyquist of `carried` samples.

    Between walls: the cosines of the mirrored function, of period 2 L.
    """
    turns, size = (1, n) if axis.periodic else (2, 2 * n)
    k = torch.arange((turns * carried - 1) // 2 + 1, dtype=torch.float64, device=y.device)
    x = (torch.arange(size, dtype=torch.float64, device=y.device) + axis.offset) / size
    at, of = 2 * math.pi * k * ((y - axis.lower) / (turns * axis.length))[:, None], 2 * math.pi * k * x[:, None]
    weight = torch.where(k == 0, 1.0, 2.0).double() / size
    matrix = (at.cos() * weight) @ of.cos().T + (at.sin() * weight) @ of.sin().T
    return matrix if axis.periodic else matrix[:, :n] + matrix[:, n:].flip(1)


@table
def _restriction(axis: Axis, n: int, m: int, device) -> Tensor:
    """Matrix (m, n) from n samples to m, without what m do not carry."""
    return _series(axis, n, axis.coordinates(m, device, torch.float64), m)


def _numbers(line: _Line, device) -> Tensor:
    """Numbers of the samples of a window and of the margins beyond its ends: -m .. w + m - 1."""
    return torch.arange(-line.margin, line.width + line.margin, dtype=torch.float64, device=device)


def _points(line: _Line, i: int, level: int, device) -> Tensor:
    """Positions of the samples of a window and of its margins, 2^level times as far apart as the grid's."""
    axis, h = line.axis, line.axis.spacing(line.n)
    center = axis.lower + (i + 0.5) * line.patch * h
    return center + (_numbers(line, device) + axis.offset - line.width / 2) * 2**level * h


def _surrounded(x: Tensor, a: int, line: _Line, grid: Grid) -> Tensor:
    """Return x with the padding and margin of windows on both sides of an axis, periodic or mirrored."""
    width = line.padding + line.margin
    x = grid.split.surrounded(x, a, width, line.n, periodic=line.axis.periodic)
    if line.axis.periodic:
        return x
    first, held = grid.split.first(a, line.n), grid.sizes[a]
    start = first - width + grid.split.beyond(a, width, line.n)[0]  # of what x is now
    return x.index_select(a + 2, _mirrored(line.n, first - width, first + held + width, start, device=x.device, dtype=torch.int64))


@table
def _mirrored(n: int, first: int, stop: int, start: int, device) -> Tensor:
    """Numbers, counted from `start`, of the samples first .. stop - 1 of an axis mirrored at its ends."""
    k = torch.arange(first, stop, dtype=torch.float64, device=device).remainder(2 * n)
    return torch.minimum(k, 2 * n - 1 - k) - start


@table
def _closure(line: _Line, device) -> Tensor:
    """Matrix (w, w + 2m) that makes a window periodic.

    Over a length p, half of it beyond each end, the values go over smoothly into those of the other end; constants stay constants.
    """
    return _close(line, device)


def _close(line: _Line, device) -> Tensor:
    w, p = line.width, line.padding
    r = _numbers(line, device) + line.axis.offset
    share = _step(r / p + 0.5) * _step((w - r) / p + 0.5) if p else torch.ones_like(r)
    target = _numbers(line, device).remainder(w)
    return torch.where(target == torch.arange(w, device=device)[:, None], share, 0.0)


@table
def _view(line: _Line, i: int, level: int, restricted: int, device) -> Tensor:
    """Matrix (w, n/2^restricted) from the restriction of one level to the window of `level` of a patch."""
    m = line.n >> restricted
    return _close(line, device) @ _series(line.axis, m, _points(line, i, level, device), m)


@table
def _window_positions(line: _Line, i: int, level: int, kind: str | None, device) -> Tensor:
    """Position channels (c, w) of one axis in the window of a patch, made periodic as the fields are."""
    s = (_points(line, i, level, device) - line.axis.lower) / line.axis.length
    values = axis_positions(line.axis, s, kind)
    return torch.stack(values) @ _close(line, device).T if values else torch.empty(0, line.width, dtype=torch.float64, device=device)


def _overlap(line: _Line, i: int) -> tuple[int, int]:
    """First sample and number of samples of a window that enter the output."""
    low, high = (0 if wall else line.margin for wall in line.walls(i))
    return line.padding - low, low + line.patch + high


@table
def _blend(line: _Line, i: int, device) -> Tensor:
    """Partition of unity over the patches: 1 inside, falling over a length p about each seam."""
    first, count = _overlap(line, i)
    weight = torch.ones(count, dtype=torch.float64, device=device)
    if line.padding == 0:
        return weight
    r = torch.arange(first, first + count, dtype=torch.float64, device=device) + line.axis.offset - line.padding
    low, high = line.walls(i)
    weight = weight if low else weight * _step(r / line.padding + 0.5)
    return weight if high else weight * _step((line.patch - r) / line.padding + 0.5)
