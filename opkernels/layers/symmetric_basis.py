"""Convolution on particles with a kernel expanded in a small basis: CConv, SplineConv, DMCF and SFBC are settings of it.

    y_o(x_i) = sum_{j in N(i)} V_j sum_k psi_k(x_j - x_i) sum_c W_ock g_c(i, j) + b_o,    psi_k(z) = H^-d phi_k(z/H)

Symbols: N receivers i, M senders j, E pairs, V_j volume of a sender, H support, d axes, I and O channels, K terms of the
basis. The offset points from the receiver to the sender, so that weights mean what they mean to `LocalIntegralConv`: the
sum above is its "nodal" quadrature, and a state dict of one fits the other.

| message      | g(i, j)         | note                                                                                 |
| ------------ | --------------- | ------------------------------------------------------------------------------------ |
| "sender"     | f_j             | the quadrature of an integral operator                                               |
| "sum"        | f_j + f_i       |                                                                                      |
| "difference" | f_j - f_i       | vanishes for constant f                                                              |
| conservative | f_j - p_k f_i   | p_k = 1 or -1 the parity of phi_k; the output is V_i y(x_i), whose sum over i is zero |

With ``conservative=True`` what i receives from j is minus what j receives from i, term by term, up to rounding: the
outputs sum to zero, so as a force they conserve momentum whatever the weights.

The algorithm. Published layers build the weights of each pair, an I x O matrix, and apply it: 2 E K I O operations. Here
the features are gathered first, A_i = sum_j phi(z_ij) (x) f_j, then all rows meet the weights in one product: 2 E K I +
2 N K I O. Rows are sorted by their number of pairs and cut into chunks of equal length, at most `chunk` pairs each; a chunk
is one batched product and one GEMM. Backward passes recompute A chunk by chunk, so between the passes only offsets,
features, weights and indices are kept: d numbers of a pair, nothing of size E K or E I. The temporaries of a pass are
at most about chunk (2 K + 3 I) + (chunk/k) K (2 I + O) numbers, k the mean number of pairs in a row, whatever N.

Gradients reach features, weights, volumes and positions, twice where asked. Pairs are constants: without a window the
output jumps when a pair enters or leaves, and gradients do not see it.

References: Winchenbach and Thuerey, ICLR 2024, arXiv 2403.16680; Ummenhofer et al., ICLR 2020 (CConv); Fey et al., CVPR
2018, arXiv 1711.08920 (SplineConv); Prantl et al., NeurIPS 2022, arXiv 2210.06036 (DMCF).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from opkernels.layers.kernels import KernelBasis, basis_norms
from opkernels.layers.product_kernels import ProductKernel
from opkernels.neighbors import Neighbors
from opkernels.particles import ParticleSet

__all__ = ["ParticleGraph", "SymmetricBasisConv"]

_MESSAGES = {"sender": None, "sum": 1.0, "difference": -1.0}  # what the receiver's features are multiplied by
_TYPICAL_NEIGHBORS = 32  # in a ball, for the first weights of plain sums


@dataclass(frozen=True)
class _Chunk:
    """Rows first .. last of the sorted receivers, with `width` slots each, the slots from `start` on."""

    first: int
    last: int
    width: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + (self.last - self.first) * self.width


@dataclass(frozen=True, eq=False)
class _Plan:
    """Layout of the pairs of a neighbor list, which holds as long as the list: pair and sender of each slot, order of rows.

    `mutual`: each particle is heard as often as it hears, which lists of pairs counted once, or by unequal supports, fail.
    """

    edges: Tensor
    senders: Tensor
    order: Tensor
    inverse: Tensor
    chunks: tuple[_Chunk, ...]
    mutual: bool


_plans: WeakKeyDictionary[Neighbors, dict[int, _Plan]] = WeakKeyDictionary()


def _plan(neighbors: Neighbors, size: int) -> _Plan:
    """Return the layout in chunks of `size` slots, made once for each list."""
    known = _plans.setdefault(neighbors, {})
    if size not in known:
        degree, order = neighbors.degree.sort(descending=True, stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        chunks = _cut(degree.tolist(), size)
        heard = torch.bincount(neighbors.col, minlength=neighbors.n_senders)
        known[size] = _Plan(*_slots(neighbors, order, chunks), order, inverse, chunks, torch.equal(heard, neighbors.degree))
    return known[size]


@dataclass(frozen=True, eq=False)
class ParticleGraph:
    """What one configuration of particles gives to all layers: offsets of pairs in units of the support, and the plan of rows.

    Made by `ParticleGraph.of`. Slots are pairs laid out row after row, rows sorted by length and padded to that of the
    first row of their chunk.

    Attributes
    ----------
    offsets : Tensor, (d, P)
        (x_j - x_i)/H of each slot; differentiable.
    plan : _Plan
        The slots and chunks.
    volumes, receiver_volumes : Tensor, (M,) and (N,)
        Quadrature weights over H^d, and of the receivers as they are.
    same : bool
        Whether receivers and senders are one set.
    share : bool
        Keep the values of each kernel, (K, P), for all layers that ask and for the backward pass: faster by the cost
        of the basis, for memory that grows with the number of pairs.
    """

    offsets: Tensor
    plan: _Plan
    volumes: Tensor
    receiver_volumes: Tensor
    same: bool
    share: bool = False
    _values: dict = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        particles: ParticleSet,
        neighbors: Neighbors,
        *,
        senders: ParticleSet | None = None,
        chunk: int | None = None,
        share: bool = False,
    ) -> ParticleGraph:
        """Prepare the pairs of receivers `particles` and `senders` (the same by default).

        Parameters
        ----------
        neighbors : Neighbors
            Pairs by `radius_search`; kernels vanish beyond the support, so lists with a skin serve.
        chunk : int, optional
            Slots per chunk, which bound the temporaries: 2**13 on a CPU, which stays in cache, and 2**18 elsewhere.

        Raises
        ------
        ValueError
            If the list belongs to other numbers of particles or another domain, the two sets differ in support, domain or
            dtype, or a chunk is empty.
        """
        source = particles if senders is None else senders
        _check_sets(particles, source, neighbors)
        if chunk is None:
            chunk = 2**13 if particles.positions.device.type == "cpu" else 2**18
        if chunk < 1:
            raise ValueError(f"ParticleGraph got chunk={chunk}; give at least one slot, or None")
        plan = _plan(neighbors, chunk)
        y = None if senders is None else senders.positions
        offsets = neighbors.displacement(particles.positions, y).T.index_select(1, plan.edges) / -particles.support
        volumes = source.volumes / particles.support**particles.ndim
        return cls(offsets, plan, volumes, particles.volumes, senders is None, share)

    @property
    def n_receivers(self) -> int:
        """Number of receivers N."""
        return len(self.plan.order)

    @property
    def n_senders(self) -> int:
        """Number of senders M."""
        return len(self.volumes)

    def mapped(self, offsets: Tensor) -> ParticleGraph:
        """Return the same graph with other offsets, (d, P)."""
        return ParticleGraph(offsets, self.plan, self.volumes, self.receiver_volumes, self.same, self.share)

    def values(self, kernel: KernelBasis) -> Tensor:
        """Return the kernel on all slots before normalization, (K, P), computed once."""
        if kernel not in self._values:
            parts = [_raw(kernel, self.offsets[:, c.start : c.stop]) for c in self.plan.chunks]
            self._values[kernel] = torch.cat(parts, 1) if parts else self.offsets.new_zeros(kernel.size, 0)
        return self._values[kernel]


def _check_sets(particles: ParticleSet, senders: ParticleSet, neighbors: Neighbors) -> None:
    if (neighbors.n_receivers, neighbors.n_senders) != (len(particles), len(senders)):
        raise ValueError(
            f"ParticleGraph got neighbors of {neighbors.n_receivers} receivers and {neighbors.n_senders} senders for "
            f"{len(particles)} and {len(senders)} particles; search the neighbors of these sets"
        )
    periods = tuple(axis.length if axis.periodic else 0.0 for axis in particles.domain.axes)
    if neighbors.periods != periods:
        raise ValueError(
            f"ParticleGraph got neighbors found with the periods {neighbors.periods} for particles whose domain has {periods}; "
            "search them with domain=particles.domain"
        )
    if senders.support != particles.support or senders.domain != particles.domain:
        raise ValueError("ParticleGraph got senders with another support or domain than the receivers; give both sets alike")
    if senders.positions.dtype != particles.positions.dtype:
        raise ValueError(
            f"ParticleGraph got {particles.positions.dtype} receivers and {senders.positions.dtype} senders; convert one with .to(dtype)"
        )


def _cut(degree: list[int], size: int) -> tuple[_Chunk, ...]:
    """Cut rows of descending length into chunks of at most `size` slots; rows without pairs are left out."""
    chunks, first, start = [], 0, 0
    while first < len(degree) and degree[first] > 0:
        last = min(first + max(1, size // degree[first]), len(degree))
        while degree[last - 1] == 0:
            last -= 1
        chunks.append(_Chunk(first, last, degree[first], start))
        first, start = last, chunks[-1].stop
    return tuple(chunks)


def _slots(neighbors: Neighbors, order: Tensor, chunks: tuple[_Chunk, ...]) -> tuple[Tensor, Tensor]:
    """Return pair and sender of each slot, (P,) each; an empty slot has some pair and the sender M."""
    edges, senders = [], []
    for c in chunks:
        rows = order[c.first : c.last]
        begin = neighbors.row_ptr[rows]
        at = torch.arange(c.width, device=order.device)
        full = at < (neighbors.row_ptr[rows + 1] - begin)[:, None]
        edge = torch.where(full, begin[:, None] + at, begin[:, None]).flatten()
        edges.append(edge)
        senders.append(neighbors.col[edge].masked_fill_(~full.flatten(), neighbors.n_senders))
    empty = order.new_zeros(0)
    return (torch.cat(edges), torch.cat(senders)) if chunks else (empty, empty)


def _raw(kernel: KernelBasis, z: Tensor) -> Tensor:
    """Return phi_k before normalization, (K, P), zero outside the ball."""
    values = kernel.raw(z)
    return values if isinstance(kernel, ProductKernel) else values * (z.square().sum(0) <= 1)


class SymmetricBasisConv(nn.Module):
    """Continuous convolution on particles.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the features and of the output.
    kernel : KernelBasis
        The functions phi_k: ``fourier_kernel(2)`` (SFBC), ``cconv_kernel(2)``, ``spline_kernel(2)``, ``dmcf_kernel(2)``, any
        `ProductKernel`, or the kernels of grids such as ``PolarHats(3, 4)``.
    message : {"sender", "sum", "difference"}
        See the module's docstring.
    quadrature : {"volume", "sum"}
        Volumes as weights, so that the layer means an integral; or plain sums over neighbors, as published layers take.
    conservative : bool
        Antisymmetric exchange between pairs; needs a `ProductKernel` and one set of particles, takes the place of
        `message`, and has no bias.
    bias : bool
        Add a constant per output channel, zero at the start.

    Raises
    ------
    ValueError
        If a size is out of range, an option unknown, or options exclude each other.

    Notes
    -----
    A pair (i, i) counts if the neighbor list has it; the integral needs it, and conservative exchange is zero there.

    Examples
    --------
    >>> from opkernels import Domain, ParticleSet
    >>> from opkernels.layers.product_kernels import fourier_kernel
    >>> particles = ParticleSet.from_grid(Domain.periodic(1.0, 1.0).grid(16, 16), support=0.2)
    >>> layer = SymmetricBasisConv(3, 4, fourier_kernel(2))
    >>> layer(torch.zeros(256, 3), particles, particles.neighbors()).shape
    torch.Size([256, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: KernelBasis,
        *,
        message: str = "sender",
        quadrature: str = "volume",
        conservative: bool = False,
        bias: bool = False,
    ):
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"SymmetricBasisConv got {in_channels} input and {out_channels} output channels; give at least one of each")
        if message not in _MESSAGES or quadrature not in ("volume", "sum"):
            raise ValueError(
                f"SymmetricBasisConv got message={message!r}, quadrature={quadrature!r}; "
                'choose "sender", "sum" or "difference", and "volume" or "sum"'
            )
        if conservative and (bias or message != "sender" or not isinstance(kernel, ProductKernel)):
            raise ValueError(
                f"SymmetricBasisConv got conservative=True with {type(kernel).__name__}, message={message!r}, bias={bias}; "
                "it needs a ProductKernel, whose terms are even or odd, sets the message itself, and allows no bias"
            )
        self.in_channels, self.out_channels, self.kernel = in_channels, out_channels, kernel
        self.message, self.quadrature, self.conservative = message, quadrature, conservative
        factor = _MESSAGES[message]
        self._factors = () if factor is None else (factor,) * kernel.size  # what multiplies the receiver's features in each term
        if conservative and isinstance(kernel, ProductKernel):
            self._factors = tuple(-float(parity) for parity in kernel.parities)
        ball = math.pi ** (kernel.n_dim / 2) / math.gamma(kernel.n_dim / 2 + 1)
        std = (in_channels * kernel.size * (1 if quadrature == "volume" else _TYPICAL_NEIGHBORS / ball)) ** -0.5
        self.weight = nn.Parameter(std * torch.randn(out_channels, in_channels, kernel.size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        kind = "conservative" if self.conservative else f"message={self.message!r}"
        return f"{self.in_channels}, {self.out_channels}, {self.kernel}, {kind}, quadrature={self.quadrature!r}"

    def forward(
        self,
        features: Tensor,
        particles: ParticleSet,
        neighbors: Neighbors,
        *,
        senders: ParticleSet | None = None,
        receiver_features: Tensor | None = None,
    ) -> Tensor:
        """Return (N, out_channels) for features (M, in_channels) of the senders, by default the particles themselves.

        Parameters
        ----------
        particles : ParticleSet
            The receivers.
        neighbors : Neighbors
            Their pairs, of ``particles.neighbors()`` or `radius_search`.
        senders : ParticleSet, optional
            Another set that is listened to, such as a wall.
        receiver_features : Tensor, (N, in_channels), optional
            For messages that need them, where the senders are another set.

        Raises
        ------
        ValueError
            If features, particles and neighbors do not belong together.
        """
        return self.convolve(features, ParticleGraph.of(particles, neighbors, senders=senders), receiver_features)

    @torch.compiler.disable(recursive=True)
    def convolve(self, features: Tensor, graph: ParticleGraph, receiver_features: Tensor | None = None) -> Tensor:
        """Return (N, out_channels) on a graph prepared once for several layers.

        Compiled models run it as it is: its shapes change with every neighbor list.
        """
        self._check(features, graph, receiver_features)
        with torch.autocast(features.device.type, enabled=False):
            f = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
            received = None
            if self._factors:
                received = f if receiver_features is None else receiver_features.to(f.dtype)
                f = torch.cat([f, torch.ones_like(f[:, :1])], 1)  # one more channel sums the kernel itself
            if self.quadrature == "volume":
                f = f * graph.volumes.to(f.dtype)[:, None]
            f = torch.cat([f, f.new_zeros(1, f.shape[1])])  # what empty slots send
            y = _Convolution.apply(
                graph.values(self.kernel) if graph.share else graph.offsets,
                f,
                received,
                self.scaled_weight(f),
                None if graph.share else self.kernel,
                torch.tensor(self._factors, dtype=f.dtype, device=f.device)[:, None],
                graph.plan,
            )
            if self.conservative and self.quadrature == "volume":
                y = y * graph.receiver_volumes.to(y.dtype)[:, None]
            return y if self.bias is None else y + self.bias.to(y.dtype)

    def scaled_weight(self, like: Tensor) -> Tensor:
        """Return the weights over the norms of the terms, (O, K I), for kernels before normalization."""
        norms = basis_norms(self.kernel, device=like.device, dtype=like.dtype)
        return (self.weight.to(like.dtype) / norms).transpose(1, 2).flatten(1)

    def _check(self, features: Tensor, graph: ParticleGraph, received: Tensor | None) -> None:
        if features.shape != (graph.n_senders, self.in_channels):
            raise ValueError(
                f"SymmetricBasisConv got features of shape {tuple(features.shape)}; expected ({graph.n_senders}, {self.in_channels}), "
                "one row for each sender"
            )
        d = graph.offsets.shape[0]
        if d != self.kernel.n_dim:
            raise ValueError(f"SymmetricBasisConv got particles in {d}-D for a {self.kernel.n_dim}-D kernel; give one of the same rank")
        if features.dtype != graph.offsets.dtype and features.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"SymmetricBasisConv got features of dtype {features.dtype} on particles of {graph.offsets.dtype}; "
                "convert one with .to(dtype)"
            )
        if self.conservative and not graph.same:
            raise ValueError("SymmetricBasisConv got two sets with conservative=True, which exchanges within one; put all particles in one")
        if self.conservative and (received is not None or not graph.plan.mutual):
            got = "receiver_features" if received is not None else "neighbors that are not mutual"
            raise ValueError(
                f"SymmetricBasisConv got {got} with conservative=True; what one particle gives the other must lose, so give one set of "
                "features, and each pair in both directions (not half=True)"
            )
        needed = self._factors and not graph.same
        if needed and received is None or received is not None and received.shape != (graph.n_receivers, self.in_channels):
            raise ValueError(
                f"SymmetricBasisConv got receiver_features of shape {None if received is None else tuple(received.shape)}; "
                f"expected ({graph.n_receivers}, {self.in_channels})"
            )


class _Convolution(torch.autograd.Function):
    """sum_j phi(z_ij) (x) f_j, plus the receiver's part, times the weights; recomputed in the backward pass.

    `x` holds offsets, (d, P), for a kernel, or its values, (K, P), without one.
    """

    @staticmethod
    def forward(ctx, x, features, received, weight, kernel, factors, plan):
        ctx.save_for_backward(x, features, received, weight, factors)
        ctx.kernel, ctx.plan = kernel, plan
        out = features.new_zeros(len(plan.order), weight.shape[0])
        sorted_received = None if received is None else received.index_select(0, plan.order)
        for c in plan.chunks:
            b = _values(kernel, x[:, c.start : c.stop], c)
            a = _gathered(b, features.index_select(0, plan.senders[c.start : c.stop]), c)
            torch.mm(_completed(a, sorted_received, factors, c).flatten(1), weight.T, out=out[c.first : c.last])
        return out.index_select(0, plan.inverse)

    @staticmethod
    def backward(ctx, grad):
        with torch.autocast(grad.device.type, enabled=False):  # for calls of backward inside an autocast region
            return _Convolution._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx, grad):
        x, features, received, weight, factors = ctx.saved_tensors
        plan, kernel, twice = ctx.plan, ctx.kernel, torch.is_grad_enabled()
        to_x, to_features, to_received, to_weight = ctx.needs_input_grad[:4]
        g = grad.index_select(0, plan.order)
        r = None if received is None else received.index_select(0, plan.order)
        d_features, d_weight = torch.zeros_like(features), torch.zeros_like(weight)
        d_x, d_received = [], []
        for c in plan.chunks:
            slots, senders = slice(c.start, c.stop), plan.senders[c.start : c.stop]
            with torch.set_grad_enabled(twice or (to_x and kernel is not None)):
                z = x[:, slots] if twice else x[:, slots].detach().requires_grad_(to_x and kernel is not None)
                values = _values(kernel, z, c)
            b = values if twice else values.detach()
            f = features.index_select(0, senders)
            a = _gathered(b, f, c)
            rows = g[c.first : c.last]
            if to_weight:
                d_weight = (
                    d_weight + rows.T @ _completed(a, r, factors, c).flatten(1)
                    if twice
                    else d_weight.addmm_(rows.T, _completed(a, r, factors, c).flatten(1))
                )
            d_a = (rows @ weight).unflatten(1, (b.shape[1], -1))
            if r is not None:
                pulled = d_a * factors
                d_received.append((pulled * a[..., -1:]).sum(1))
                d_a = torch.cat([d_a, (pulled * r[c.first : c.last, None]).sum(-1, keepdim=True)], -1)
            if to_features:
                d_f = torch.bmm(b.transpose(1, 2), d_a).flatten(0, 1)
                d_features = d_features.index_add(0, senders, d_f) if twice else d_features.index_add_(0, senders, d_f)
            if to_x:
                d_b = torch.bmm(d_a, f.unflatten(0, (-1, c.width)).transpose(1, 2))
                d_x.append(d_b.transpose(0, 1).flatten(1) if kernel is None else torch.autograd.grad(values, z, d_b, create_graph=twice)[0])
        rest = len(plan.order) - (plan.chunks[-1].last if plan.chunks else 0)
        if received is not None and to_received:
            d_received = torch.cat([*d_received, features.new_zeros(rest, received.shape[1])]).index_select(0, plan.inverse)
        return (
            (torch.cat(d_x, 1) if d_x else torch.zeros_like(x)) if to_x else None,
            d_features if to_features else None,
            d_received if to_received else None,
            d_weight if to_weight else None,
            None,
            None,
            None,
        )


def _values(kernel: KernelBasis | None, x: Tensor, c: _Chunk) -> Tensor:
    """Return the kernel on a chunk, (rows, K, width)."""
    return (x if kernel is None else _raw(kernel, x)).unflatten(1, (-1, c.width)).transpose(0, 1)


def _gathered(b: Tensor, features: Tensor, c: _Chunk) -> Tensor:
    """Return sum_j phi(z_ij) (x) f_j of the rows of a chunk, (rows, K, C)."""
    return torch.bmm(b, features.unflatten(0, (-1, c.width)))


def _completed(a: Tensor, received: Tensor | None, factors: Tensor, c: _Chunk) -> Tensor:
    """Add the receiver's part: its features times the summed kernel, the last channel, times the terms' factors."""
    if received is None:
        return a
    return torch.addcmul(a[..., :-1], a[..., -1:] * factors, received[c.first : c.last, None])
