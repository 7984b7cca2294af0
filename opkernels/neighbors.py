"""Fixed-radius neighbor search: all pairs closer than a support, in 1-D to 3-D, periodic or open, batched.

    pairs (i, j) with |x_i - y_j| < H,   x_i - y_j the nearest periodic image,   sorted by the receiver i

The displacement is *receiver minus sender*, x_i - y_j, in the whole package. Two backends give the same set
of pairs: a cell list in plain torch operations (any device), and scipy's tree (CPU).

The cell list. The senders are sorted into cells of width H/2 along all axes but the last and H/8 along the last,
where cells are contiguous in memory. Images of the senders within H of a periodic face are added, so that the search
itself is in open space. A receiver at distance g from a row of cells meets, in that row, only the interval
|x_last - y_last| < sqrt(H^2 - g^2): one contiguous range per row. All ranges of a receiver are laid out one after
the other, hence the result is sorted by receiver without a sort. Ranges are expanded in chunks, which stay in cache.

Symbols: N receivers, M senders, E pairs, d axes, H support, L period.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opkernels.domains import Domain, table

__all__ = ["Neighbors", "VerletList", "radius_search"]

_MODES = ("gather", "scatter", "symmetric")
_BACKENDS = ("auto", "torch", "scipy")
_ROWS_PER_SUPPORT = 2  # cells of H/2 along the leading axes
_CELLS_PER_SUPPORT = 8  # and of H/8 along the last one
_TREE_BELOW = 2_000  # on a CPU the tree is faster below about this many particles


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Pairs closer than a support, in compressed rows: receiver i has the senders ``col[row_ptr[i] : row_ptr[i + 1]]``.

    Made by `radius_search`. Indices are constants; displacements are computed from positions on demand, so that
    gradients reach the positions.

    Attributes
    ----------
    row_ptr : Tensor, (N + 1,)
        Where the row of each receiver begins.
    row, col : Tensor, (E,)
        Receiver and sender of each pair, int64; `row` ascends.
    n_senders : int
        Number of senders M.
    periods : tuple of float
        Period of each axis, 0 where the axis is open.
    """

    row_ptr: Tensor
    row: Tensor
    col: Tensor
    n_senders: int
    periods: tuple[float, ...]

    @property
    def n_receivers(self) -> int:
        """Number of receivers N."""
        return self.row_ptr.numel() - 1

    @property
    def n_edges(self) -> int:
        """Number of pairs E."""
        return self.col.numel()

    @property
    def degree(self) -> Tensor:
        """Number of senders of each receiver, (N,)."""
        return self.row_ptr.diff()

    def displacement(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return x_i - y_j of each pair, nearest periodic image, shape (E, d); differentiable in `x` and `y`.

        Moving any particle by a period changes nothing.
        """
        d = x.index_select(0, self.row) - (x if y is None else y).index_select(0, self.col)
        if not any(self.periods):
            return d
        period = _periods(self.periods, device=d.device, dtype=d.dtype)
        with torch.no_grad():
            images = (d * torch.where(period > 0, 1 / period, 0)).round_()
        return torch.addcmul(d, images, period, value=-1)

    def sum(self, values: Tensor) -> Tensor:
        """Sum values (E, ...) of the pairs over each receiver's row: (N, ...). Deterministic, without atomics."""
        return torch.segment_reduce(values, "sum", offsets=self.row_ptr, axis=0, unsafe=True)

    def within(self, support: float | Tensor, x: Tensor, y: Tensor | None = None) -> Neighbors:
        """Keep the pairs closer than `support` (a number, or one per receiver): a fresh list out of one built with a skin."""
        limit = support.index_select(0, self.row) if isinstance(support, Tensor) else support
        keep = (self.displacement(x.detach(), None if y is None else y.detach()).square().sum(-1) < limit**2).nonzero().squeeze(-1)
        return _compressed(self.row[keep], self.col[keep], self.n_receivers, self.n_senders, self.periods)

    def transpose(self) -> Neighbors:
        """Swap receivers and senders, sorted by the new receiver."""
        row, order = self.col.sort(stable=True)
        return _compressed(row, self.row[order], self.n_senders, self.n_receivers, self.periods)

    def to(self, device: torch.device | str) -> Neighbors:
        """Move the indices to a device."""
        return replace(self, row_ptr=self.row_ptr.to(device), row=self.row.to(device), col=self.col.to(device))


@table
def _periods(periods: tuple[float, ...], device) -> Tensor:
    return torch.tensor(periods, dtype=torch.float64, device=device)


def _compressed(row: Tensor, col: Tensor, n_receivers: int, n_senders: int, periods: tuple[float, ...]) -> Neighbors:
    row_ptr = torch.zeros(n_receivers + 1, dtype=torch.int64, device=row.device)
    torch.cumsum(torch.bincount(row, minlength=n_receivers), 0, out=row_ptr[1:])
    return Neighbors(row_ptr, row, col, n_senders, periods)


def radius_search(
    x: Tensor,
    y: Tensor | None = None,
    *,
    support: float | Tensor,
    domain: Domain | None = None,
    batch: Tensor | None = None,
    batch_y: Tensor | None = None,
    mode: str = "gather",
    include_self: bool = True,
    half: bool = False,
    skin: float = 0.0,
    backend: str = "auto",
    chunk: int | None = None,
    max_edges: int = 2**30,
) -> Neighbors:
    """Find all pairs with |x_i - y_j| < H, sorted by the receiver i.

    Parameters
    ----------
    x : Tensor, (N, d)
        Receivers; d is 1, 2 or 3. Positions outside a periodic box are wrapped internally.
    y : Tensor, (M, d), optional
        Senders; the receivers themselves by default.
    support : float or Tensor
        The support H; or one per receiver (``mode="gather"``), per sender ("scatter") or per particle
        ("symmetric", where a pair counts if it is closer than the larger of the two).
    domain : Domain, optional
        Says which axes are periodic and their periods; axes that are not periodic are open, and particles
        may lie outside of them. None is open space.
    batch, batch_y : Tensor of integers, (N,) and (M,), optional
        Number of the simulation each particle belongs to, in any order; pairs never cross simulations.
    include_self : bool
        Whether (i, i) is a pair, for one set.
    half : bool
        Each pair once, with i < j, for one set.
    skin : float
        Added to the support, so that the list outlives small motions (see `VerletList`).
    backend : {"auto", "torch", "scipy"}
        "auto": the tree on a CPU below 2000 particles, else the cell list.
    chunk : int, optional
        Candidate pairs looked at in one piece, which bounds the memory beside the result; 2**16 on a CPU.
    max_edges : int
        Refuse to build lists longer than about this.

    Returns
    -------
    Neighbors

    Raises
    ------
    ValueError
        If shapes disagree, a position or support is not finite, the support (with its skin) is not positive or
        exceeds half a period, so that the nearest image would not be unique, or the list would be too long.

    Notes
    -----
    In float32 the last digits decide whether a pair at the very cut-off counts; kernels vanish there. The time is
    linear in N at a fixed number of neighbors, unless the density varies wildly (cells have one size).

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> x = torch.tensor([[0.05], [0.5], [0.95]])
    >>> radius_search(x, support=0.2, domain=Domain.periodic(1.0), include_self=False).col
    tensor([2, 0])
    """
    if y is None and batch_y is not None:
        raise ValueError("radius_search got batch_y without y; the senders are the receivers, so give batch alone")
    same = y is None
    x = x.detach()
    y = x if same else y.detach()
    batch_y = batch if same else batch_y
    radius = _check(x, y, support, domain, batch, batch_y, mode, include_self, half, skin, backend, same)
    axes = domain.axes if domain is not None else ()
    lower = [axis.lower for axis in axes] or [0.0] * x.shape[1]
    periods = tuple(axis.length if axis.periodic else 0.0 for axis in axes) or (0.0,) * x.shape[1]
    x_in = _wrapped(x, lower, periods)
    y_in = x_in if same else _wrapped(y, lower, periods)
    if backend == "auto":
        backend = "scipy" if x.device.type == "cpu" and max(len(x), len(y)) < _TREE_BELOW else "torch"
    if len(x) == 0 or len(y) == 0:
        row = col = torch.zeros(0, dtype=torch.int64, device=x.device)
    elif backend == "scipy":
        row, col = _tree(x_in, None if same else y_in, radius, periods, batch, batch_y, max_edges)
    else:
        row, col = _cells(x_in, y_in, radius, lower, periods, batch, batch_y, chunk, max_edges)
    if half:
        keep = row < col
    elif same and not include_self:
        keep = row != col
    else:
        keep = None
    if isinstance(support, Tensor) and support.ndim:
        shorter = _pair_radius(support, mode, row, col) + skin
        close = Neighbors(row, row, col, len(y), periods).displacement(x, y).square().sum(-1) < shorter.square()
        keep = close if keep is None else keep & close
    if keep is not None:
        keep = keep.nonzero().squeeze(-1)
        row, col = row[keep], col[keep]
    return _compressed(row, col, len(x), len(y), periods)


def _pair_radius(support: Tensor, mode: str, row: Tensor, col: Tensor) -> Tensor:
    if mode == "symmetric":
        return torch.maximum(support[row], support[col])
    return support[row if mode == "gather" else col]


def _check(x, y, support, domain, batch, batch_y, mode, include_self, half, skin, backend, same) -> float:
    """Refuse bad input in one sentence, and return the largest search radius."""
    d = x.shape[-1] if x.ndim == 2 else 0
    if d not in (1, 2, 3) or y.ndim != 2 or y.shape[1] != d or not x.is_floating_point():
        raise ValueError(
            f"radius_search got positions of shapes {tuple(x.shape)} and {tuple(y.shape)}; expected floating point (N, d), d = 1, 2, 3"
        )
    if y.dtype != x.dtype or y.device != x.device:
        raise ValueError(f"radius_search got {x.dtype} on {x.device} and {y.dtype} on {y.device}; give receivers and senders alike")
    if domain is not None and domain.ndim != d:
        raise ValueError(f"radius_search got {d}-D positions on a {domain.ndim}-D domain; give one coordinate per axis")
    for name, value, choices in (("mode", mode, _MODES), ("backend", backend, _BACKENDS)):
        if value not in choices:
            raise ValueError(f"radius_search got {name}={value!r}; choose one of {', '.join(choices)}")
    if not same and (half or mode == "symmetric" or not include_self):
        raise ValueError("radius_search got two sets with half, include_self=False or mode='symmetric', which are for one set; leave out y")
    for name, ids, points in (("batch", batch, x), ("batch_y", batch_y, y)):
        if ids is not None and (ids.shape != points.shape[:1] or ids.is_floating_point() or (ids.numel() and int(ids.min()) < 0)):
            raise ValueError(f"radius_search got {name} of shape {tuple(ids.shape)}; expected one integer >= 0 for each of {len(points)}")
    if (batch is None) != (batch_y is None):
        raise ValueError("radius_search got batch numbers for one of two sets; give both batch and batch_y")
    for name, points in (("receiver", x), ("sender", y))[: 1 if same else 2]:
        bad = ~torch.isfinite(points.sum(1))
        if bool(bad.any()):
            raise ValueError(f"radius_search got a position that is not finite at {name} {int(bad.nonzero()[0])}; correct the positions")
    if isinstance(support, Tensor) and support.ndim:
        owners = y if mode == "scatter" else x
        if support.shape != owners.shape[:1]:
            raise ValueError(f"radius_search got supports of shape {tuple(support.shape)}; expected ({len(owners)},) for mode={mode!r}")
        least, most = (float(support.min()), float(support.max())) if support.numel() else (1.0, 1.0)
    else:
        least = most = float(support)
    if not (least > 0 and math.isfinite(most) and skin >= 0 and math.isfinite(skin)):
        raise ValueError(f"radius_search got support={least:g} and skin={skin:g}; give a finite support > 0 and a skin >= 0")
    radius = most + skin
    for axis in domain.axes if domain is not None else ():
        if axis.periodic and radius > axis.length / 2 * (1 + 1e-12):
            raise ValueError(
                f"radius_search got support + skin = {radius:g} on axis {axis.name} of period {axis.length:g}, where the nearest image "
                "would not be unique; lower the support or enlarge the box to twice the support"
            )
    return radius


def _wrapped(x: Tensor, lower: list[float], periods: tuple[float, ...]) -> Tensor:
    """Positions from the lower corner, (N, d), inside [0, L) along periodic axes."""
    columns = []
    for a, (low, period) in enumerate(zip(lower, periods, strict=True)):
        column = x[:, a] - low
        if period:
            column = torch.remainder(column, period)
            column = torch.where(column >= period, torch.zeros_like(column), column)  # rounding can return the period itself
        columns.append(column)
    return torch.stack(columns, 1)


def _tree(x: Tensor, y: Tensor | None, radius: float, periods, batch, batch_y, max_edges: int) -> tuple[Tensor, Tensor]:
    """Pairs by scipy's tree; a batch number becomes one more coordinate."""
    import numpy as np
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue] - of a compiled module without stubs

    def tree(points: Tensor, ids: Tensor | None) -> cKDTree:
        array = points.cpu().double().numpy()
        box = list(periods)
        if ids is not None:
            array = np.concatenate([array, 4 * radius * ids.cpu().double().numpy()[:, None]], 1)
            box.append(0.0)
        return cKDTree(array, boxsize=box if any(box) else None)

    closer = float(np.nextafter(radius, 0))  # the tree counts r <= radius, we count r < radius
    tree_x = tree(x, batch)
    tree_y = tree_x if y is None else tree(y, batch_y)
    if tree_x.n * tree_y.n > max_edges:
        _refuse_long(int(tree_x.count_neighbors(tree_y, closer)), max_edges)
    if y is None:
        i, j = torch.from_numpy(tree_x.query_pairs(closer, output_type="ndarray").astype(np.int64, copy=False)).unbind(1)
        own = torch.arange(len(x))
        row, col = torch.cat([i, j, own]), torch.cat([j, i, own])
    else:
        pairs = tree_x.sparse_distance_matrix(tree_y, closer, output_type="ndarray")
        row, col = (torch.from_numpy(pairs[k].astype(np.int64)) for k in "ij")
    narrow = np.uint16 if len(x) <= 2**16 else np.int32  # radix sort for two bytes
    order = torch.from_numpy(np.argsort(row.numpy().astype(narrow), kind="stable"))
    return row[order].to(x.device), col[order].to(x.device)


def _refuse_long(edges: int, limit: int) -> None:
    if edges > limit:
        raise ValueError(
            f"radius_search would build about {edges} pairs ({16 * edges / 2**30:.1f} GiB), above max_edges={limit}; "
            "lower the support, or raise max_edges if the memory is there"
        )


def _cells(x, y, radius, lower, periods, batch, batch_y, chunk, max_edges) -> tuple[Tensor, Tensor]:
    """Pairs by the cell list of the module's docstring."""
    y, owner, batch_y = _with_images(y, radius, periods, batch_y)
    cells = _sort_into_cells(y, radius, batch_y)
    chunk = chunk or (2**16 if x.device.type == "cpu" else 2**24)
    start, count = _ranges_in_blocks(x, radius, batch, cells, max(1, chunk // 8))
    n_ranges = start.shape[1]
    total = count.sum(1).cumsum(0)
    n_candidates = int(total[-1])
    if n_candidates == 0:
        nothing = torch.zeros(0, dtype=torch.int64, device=x.device)
        return nothing, nothing
    if n_candidates > max_edges:  # a ball fills about 0.7 of its candidates
        _refuse_long(int(0.7 * n_candidates), max_edges)
    marks = torch.arange(chunk, n_candidates + chunk, chunk, device=x.device)
    ends = torch.searchsorted(total, marks, right=True)
    ends[-1] = len(x)
    ends = ends.unique()
    ends = ends[ends > 0]
    sizes = total.index_select(0, ends - 1).diff(prepend=total.new_zeros(1)).tolist()
    owner = owner.index_select(0, cells.order)
    senders = [y[:, a].index_select(0, cells.order) for a in range(x.shape[1])]
    counter = torch.arange(max(sizes), dtype=torch.int32, device=x.device)
    rows, cols, first = [], [], 0
    for last, size in zip(ends.tolist(), sizes, strict=True):
        row, col = _expand(x[first:last], senders, owner, start[first:last], count[first:last], counter[:size], n_ranges, radius)
        rows.append(row.add_(first))
        cols.append(col)
        first = last
    row = torch.cat(rows)
    del rows  # a quarter less memory at the peak
    return row, torch.cat(cols)


def _expand(x, senders, owner, start, count, counter, n_ranges, radius) -> tuple[Tensor, Tensor]:
    """Pairs of some receivers: expand their ranges of sorted senders into candidates, keep the close ones."""
    count = count.flatten()
    at = torch.repeat_interleave(count, output_size=counter.numel())  # the range of each candidate
    first = start.flatten() - (count.cumsum(0) - count).to(torch.int32)
    j = first.index_select(0, at).add_(counter)
    distance = None
    for a, sender in enumerate(senders):
        receiver = x[:, a].repeat_interleave(n_ranges)
        d = sender.index_select(0, j).sub_(receiver.index_select(0, at))
        distance = d.mul_(d) if distance is None else distance.addcmul_(d, d)
    close = (distance < radius**2).nonzero().squeeze(-1)
    row = torch.div(at.index_select(0, close), n_ranges, rounding_mode="floor").to(torch.int64)
    return row, owner.index_select(0, j.index_select(0, close))


def _with_images(y: Tensor, radius: float, periods, batch: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Add the images of senders within the radius of a periodic face; also return whose image each one is."""
    owner = torch.arange(len(y), device=y.device)
    reach = radius * (1 + 1e-5)
    for a, period in enumerate(periods):
        if not period:
            continue
        above = (y[:, a] < reach).nonzero().squeeze(-1)
        below = (y[:, a] >= period - reach).nonzero().squeeze(-1)
        shift = torch.zeros(1, y.shape[1], dtype=y.dtype, device=y.device)
        shift[0, a] = period
        y = torch.cat([y, y[above] + shift, y[below] - shift])
        owner = torch.cat([owner, owner[above], owner[below]])
        batch = None if batch is None else torch.cat([batch, batch[above], batch[below]])
    return y, owner, batch


@dataclass(frozen=True, eq=False)
class _Cells:
    """Senders sorted by cell: cell c holds ``order[starts[c] : starts[c + 1]]``; the last axis is contiguous."""

    order: Tensor
    starts: Tensor
    origin: tuple[float, ...]
    widths: tuple[float, ...]
    counts: tuple[int, ...]
    n_batches: int


def _sort_into_cells(y: Tensor, radius: float, batch: Tensor | None) -> _Cells:
    d = y.shape[1]
    low, high = y.min(0).values.tolist(), y.max(0).values.tolist()
    n_batches = 1 if batch is None else int(batch.max()) + 1
    widths = [radius / (_ROWS_PER_SUPPORT if a < d - 1 else _CELLS_PER_SUPPORT) for a in range(d)]
    while True:  # coarser cells where the box is mostly empty, so that their number stays in proportion to the particles
        counts = [int((h - w) // width) + 1 for h, w, width in zip(high, low, widths, strict=True)]
        if n_batches * math.prod(counts) <= 16 * len(y) + 4096:
            break
        widths = [2 * width if n > 1 else width for n, width in zip(counts, widths, strict=True)]
        if all(n == 1 for n in counts):
            break
    key = torch.zeros(len(y), dtype=torch.int64, device=y.device) if batch is None else batch.to(torch.int64)
    for a in range(d):
        cell = ((y[:, a] - low[a]) / widths[a]).to(torch.int64).clamp_(0, counts[a] - 1)
        key = key * counts[a] + cell
    n_cells = n_batches * math.prod(counts)
    order = key.to(torch.int32 if n_cells < 2**31 else torch.int64).sort(stable=True).indices
    starts = torch.zeros(n_cells + 1, dtype=torch.int64, device=y.device)
    torch.cumsum(torch.bincount(key, minlength=n_cells), 0, out=starts[1:])
    return _Cells(order, starts.to(torch.int32), tuple(low), tuple(widths), tuple(counts), n_batches)


def _ranges_in_blocks(x: Tensor, radius: float, batch: Tensor | None, cells: _Cells, block: int) -> tuple[Tensor, Tensor]:
    """`_ranges` of all receivers, some at a time: its temporaries are several times what it returns."""
    slices = [slice(first, first + block) for first in range(0, len(x), block)]
    parts = [_ranges(x[part], radius, None if batch is None else batch[part], cells) for part in slices]
    start, count = (torch.cat(column) for column in zip(*parts, strict=True))
    return start, count


def _ranges(x: Tensor, radius: float, batch: Tensor | None, cells: _Cells) -> tuple[Tensor, Tensor]:
    """For each receiver and each row of cells near it, the start and length of its range of senders, (N, rows) int32."""
    d, n = x.shape[1], len(x)
    slack = (
        8
        * torch.finfo(x.dtype).eps
        * (sum(abs(o) for o in cells.origin) + sum(w * c for w, c in zip(cells.widths, cells.counts, strict=True)))
    )
    base = torch.zeros(n, dtype=torch.int64, device=x.device) if batch is None else batch.to(torch.int64)
    outside = None if batch is None else base >= cells.n_batches
    rows = base.clamp(max=cells.n_batches - 1)[:, None]  # (n, rows so far)
    gap2 = torch.zeros(n, 1, dtype=x.dtype, device=x.device)
    valid = torch.ones(n, 1, dtype=torch.bool, device=x.device) if outside is None else ~outside[:, None]
    for a in range(d - 1):
        width, count = cells.widths[a], cells.counts[a]
        position = (x[:, a : a + 1] - cells.origin[a]) / width
        here = position.floor()
        reach = math.ceil(radius / width * (1 + 1e-6)) if count > 1 else 0
        reach = min(reach, count + 1)
        offset = torch.arange(-reach, reach + 1, device=x.device)
        row = (here + offset) if count > 1 else torch.zeros_like(here)
        gap = (
            torch.maximum(row - position, position - row - 1).mul_(width).sub_(slack).clamp_(min=0) if count > 1 else torch.zeros_like(here)
        )
        inside = (row >= 0) & (row < count)
        rows = (rows[:, :, None] * count + row.clamp(0, count - 1).to(torch.int64)[:, None, :]).flatten(1)
        gap2 = (gap2[:, :, None] + gap.square()[:, None, :]).flatten(1)
        valid = (valid[:, :, None] & inside[:, None, :]).flatten(1)
    half_width = (radius**2 - gap2).clamp_(min=0).sqrt_().add_(slack)
    valid &= gap2 < radius**2
    width, count = cells.widths[-1], cells.counts[-1]
    center = x[:, -1:] - cells.origin[-1]
    low = ((center - half_width) / width).floor_().clamp_(0, count).to(torch.int64)
    high = ((center + half_width) / width).floor_().add_(1).clamp_(0, count).to(torch.int64)
    first = cells.starts[rows * count + low]
    length = (cells.starts[rows * count + high] - first).mul_(valid)
    return first, length


class VerletList:
    """A neighbor list that is reused while it holds every pair within the support.

    The list is built with radius (1 + skin) H and stays good while 2 max |x - x_build| <= skin H (for two sets: the sum
    of both maxima). Some of its pairs lie beyond H: kernels that vanish beyond H need no filter,
    otherwise `Neighbors.within` gives the exact list. Per-particle supports may change too; what they grow by is
    taken off their skins.

    Parameters
    ----------
    domain : Domain or None
        As in `radius_search`.
    skin : float
        Relative to the support: 0.1 to 0.2 for particles that move a fraction of their spacing per step.
    mode, include_self, half, backend
        As in `radius_search`.

    Attributes
    ----------
    rebuilds : int
        How often the list was built so far.
    """

    def __init__(self, domain: Domain | None, skin: float = 0.15, *, mode="gather", include_self=True, half=False, backend="auto"):
        if not (skin >= 0 and math.isfinite(skin)):
            raise ValueError(f"VerletList got skin={skin!r}; give a number >= 0, relative to the support")
        self.domain, self.skin = domain, float(skin)
        self._options = {"mode": mode, "include_self": include_self, "half": half, "backend": backend}
        self.rebuilds = 0
        self._built: tuple | None = None

    def __call__(self, x: Tensor, y: Tensor | None = None, *, support, batch=None, batch_y=None) -> Neighbors:
        """Return a list that holds every pair within `support` at the positions given."""
        x, y = x.detach(), None if y is None else y.detach()
        support = support.detach() if isinstance(support, Tensor) else support
        if self._built is not None and self._holds(self._built, x, y, support):
            return self._built[0]
        wide = self._widened(support)
        pairs = radius_search(x, y, support=wide, domain=self.domain, batch=batch, batch_y=batch_y, **self._options)
        self._built = (pairs, x.clone(), None if y is None else y.clone(), wide)
        self.rebuilds += 1
        return pairs

    def complete_within(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the support within which the present list has every pair at these positions: () or (N,)."""
        if self._built is None:
            raise ValueError("VerletList has no list yet; call it with the positions and their support first")
        pairs, x_build, y_build, wide = self._built
        moved = _largest_move(x, x_build, pairs.periods)
        return wide - (2 * moved if y is None else moved + _largest_move(y, y_build, pairs.periods))

    def _widened(self, support: float | Tensor) -> float | Tensor:
        """Add the skin, as far as half a period leaves room for it."""
        room = min((a.length / 2 for a in self.domain.axes if a.periodic), default=math.inf) if self.domain is not None else math.inf
        if isinstance(support, Tensor):
            return torch.maximum(support, ((1 + self.skin) * support).clamp(max=room))
        return max(support, min((1 + self.skin) * support, room))

    def _holds(self, built: tuple, x: Tensor, y: Tensor | None, support: float | Tensor) -> bool:
        _, x_build, y_build, wide = built
        if x.shape != x_build.shape or x.dtype != x_build.dtype or (y is None) != (y_build is None):
            return False
        if (y is not None and y.shape != y_build.shape) or isinstance(support, Tensor) != isinstance(wide, Tensor):
            return False
        return bool((support <= self.complete_within(x, y)).all())


def _largest_move(x: Tensor, x_build: Tensor, periods: tuple[float, ...]) -> Tensor:
    d = x - x_build
    if any(periods):
        period = _periods(periods, device=d.device, dtype=d.dtype)
        d = d - (d * torch.where(period > 0, 1 / period, 0)).round_().mul_(period)
    return d.square().sum(1).max().sqrt() if len(d) else d.sum()
