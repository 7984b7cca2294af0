"""Factorized attention: one kernel per axis, made from the field's means over the other axes, applied axis by axis.

With u (C channels) on a product of axes m = 1 .. d, z = norm(u), and H heads of c channels,

    g_m(x_m) = mean over the other axes of z                    a function of one coordinate
    h_m      = MLP_m(norm(P_m P g_m))                           gated: GELU(a) b
    A_m(x, y) = q_m(x)·k_m(y),   q_m = R Q_m h_m,  k_m = R K_m h_m     R: rotary positions; no softmax
    y = A_d *_d ... A_1 *_1 (V z),      (A *_m v)(x) = mean over y_m of A(x_m, y_m) v(.., y_m, ..)
    output = W_2 GELU(W_1 norm'(y))                             norm': mean 0, variance 1 of a head, over space and its channels

| symbol  | meaning                                  | shape           |
| ------- | ---------------------------------------- | --------------- |
| u       | input                                    | (B, C, *S)      |
| g, h    | means and what is made of them, per axis | (B, S_m, C)     |
| q, k    | queries and keys, d_k = c kernel_multiplier | (B, H, S_m, d_k) |
| v, y    | values before and after the kernels      | (B, H, *S, c)   |

All means carry quadrature weights and the norms are integrals over the domain, norm(z) = gamma z/rms(z) + beta with one rms for all
channels, so the same weights are one operator on every grid: spectrally on periodic axes, at second order for "cell" and
"endpoint" samples between walls. q and k are divided by their rms over the axis; the norm of y makes the scale of a kernel
immaterial, but for eps.

How it is computed. The means come first: the maps before them are linear, so they act on functions of one coordinate. A kernel
contracts the leading axis of v and leaves it last: after d of them, (S_1, .., S_d, c) has become (c, S_1, .., S_d), each step one
matrix product per head, without a copy. Where d_k is at most half of S_m the kernel is never formed: q (k^T v). The norm of z is
folded into V.

`legacy=True` is the published block, numbers and names: sums without weights, layer norms at every point, variance with N - 1,
frequencies of 64 radians per unit of length. It changes with the grid (by three quarters per refinement) and is there to
run published weights.

Reference: Li, Shu, Barati Farimani, "Scalable Transformer for PDE Surrogate Modeling", NeurIPS 2023, arXiv 2305.17560.
Parallel axes: Yang et al., arXiv 2412.18840.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from opkernels.domains import Axis, Grid
from opkernels.layers.rotary import check_bandwidth, harmonic_angles, rotate

__all__ = ["FactorizedAttention", "apply_chained", "apply_parallel", "axis_means", "normalized"]

Kernel = tuple[Tensor, Tensor]  # queries (B, H, S_m, d_k) and keys of that shape, weights included


def axis_means(z: Tensor, weights: Sequence[Tensor] | None) -> list[Tensor]:
    """Return the means of z (B, *S, C) over all axes but one, (B, S_m, C) for each m.

    `weights` holds one (S_m,) per axis, each with the sum 1; None for equal ones.
    """
    d = z.ndim - 2
    if d == 1:
        return [z]
    head = _mean(z, d, weights)  # without the last axis: all means but one come from it
    tail = z
    for m in range(d - 1):
        tail = _mean(tail, 1, weights and weights[m:])
    return [*axis_means(head, weights and weights[:-1]), tail]


def _mean(z: Tensor, dim: int, weights: Sequence[Tensor] | None) -> Tensor:
    """Mean over one spatial dimension (1 is the first)."""
    return z.mean(dim) if weights is None else z.movedim(dim, -1) @ weights[dim - 1]


class _ContractFirst(torch.autograd.Function):
    """v (n, S, M), A (n, S, T) -> v^T A (n, M, T); the gradient of v comes out as v lies in memory, which plain bmm transposes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, A: Tensor) -> Tensor:
        return torch.bmm(v.transpose(1, 2), A)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        v, A = ctx.saved_tensors
        return torch.bmm(A, grad.transpose(1, 2)), torch.bmm(v, grad)

    @staticmethod
    def jvp(ctx, dv: Tensor, dA: Tensor) -> Tensor:  # type: ignore[override]
        v, A = ctx.saved_tensors
        return torch.bmm(dv.transpose(1, 2), A) + torch.bmm(v.transpose(1, 2), dA)


def _transposed_product(v: Tensor, A: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # the compiler lays gradients out itself, and takes no custom forward-mode derivative
        return torch.bmm(v.transpose(1, 2), A)
    return _ContractFirst.apply(v, A)


def contract_first(v: Tensor, kernel: Kernel) -> Tensor:
    """Apply a kernel to the leading axis of v (B H, S, M) and leave it last: (B H, M, S)."""
    q, k = (t.flatten(0, 1).to(v.dtype) for t in kernel)
    if 2 * q.shape[-1] <= q.shape[-2]:
        return torch.bmm(_transposed_product(v, k), q.transpose(1, 2))
    return _transposed_product(v, torch.bmm(k, q.transpose(1, 2)))


def apply_chained(v: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """Return y = A_d ... A_1 v as (B, H, c, *S), for v (B, H, *S, c)."""
    B, H, *S, c = v.shape
    for n, kernel in zip(S, kernels, strict=True):
        v = contract_first(v.reshape(B * H, n, math.prod(S) // n * c), kernel)
    return v.view(B, H, c, *S)


def apply_parallel(v: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """Return y = (A_1 v + ... + A_d v)/sqrt(d) as (B, H, c, *S), for v (B, H, *S, c)."""
    B, H, *S, c = v.shape
    terms = []
    for m, kernel in enumerate(kernels):
        first = v.movedim(2 + m, 2)
        y = contract_first(first.reshape(B * H, S[m], math.prod(S) // S[m] * c), kernel).view(B, H, *first.shape[3:], S[m])
        terms.append(y.movedim(-2, 2).movedim(-1, 3 + m))
    return torch.stack(terms).sum(0) / math.sqrt(len(S))


def normalized(y: Tensor, weights: Tensor | None, eps: float = 1e-8) -> Tensor:
    """Return y (B, H, c, N) with mean 0 and variance 1 of each head, over its channels and space, as (B, H c, N).

    `weights` (N,) has the sum 1; None for equal ones.
    """
    B, H, c, N = y.shape
    if weights is None:
        return F.group_norm(y.reshape(B, H * c, N), H, eps=eps)
    centered = y - (y @ weights).mean(-1)[..., None, None]
    variance = (centered.square() @ weights).mean(-1)
    return (centered * torch.rsqrt(variance + eps)[..., None, None]).flatten(1, 2)


class FactorizedAttention(nn.Module):
    """Axis-factorized attention of one field with itself (module's docstring), on one to three axes.

    Parameters
    ----------
    channels : int
        Channels C of input and output.
    ndim : int
        Number of axes, 1 to 3.
    n_heads : int
        Heads H.
    head_dim : int, optional
        Channels c of a head; by default C/H. Cost grows with H c: the published blocks have 64, four times as many.
    kernel_multiplier : int
        Length of a query over c; 2 in two dimensions, 3 in three are usual.
    bandwidth : int
        Largest harmonic of the rotary positions (`opkernels.layers.rotary`); grids need more than twice as many samples.
    parallel : bool
        Add the axes' kernels instead of chaining them: steadier in deep stacks.
    qk_norm : bool
        Bring every query and key to rms 1 at its own point, not only in the mean over the axis. Bounds the kernels, but is
        a sharper nonlinearity: slower to converge with the grid.
    checkpoint : bool
        Keep only the input for the backward pass and compute the rest again there: less memory, a third more time.
    legacy : bool
        The published block: its numbers and names of parameters. Ignores `bandwidth`.

    Raises
    ------
    ValueError
        If the channels do not divide among the heads, a query has an odd length, or the grid does not resolve `bandwidth`.

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> layer = FactorizedAttention(16, 2, n_heads=4)
    >>> grid = Domain.periodic(1.0, 2.0).grid(32, 20)
    >>> layer(torch.zeros(3, 16, 32, 20), grid).shape
    torch.Size([3, 16, 32, 20])
    """

    def __init__(
        self,
        channels: int,
        ndim: int,
        *,
        n_heads: int = 4,
        head_dim: int | None = None,
        kernel_multiplier: int = 2,
        bandwidth: int = 8,
        parallel: bool = False,
        qk_norm: bool = False,
        checkpoint: bool = False,
        legacy: bool = False,
    ):
        super().__init__()
        c = _head_dim(channels, n_heads, head_dim, kernel_multiplier)
        if ndim not in (1, 2, 3):
            raise ValueError(f"FactorizedAttention got ndim={ndim!r}; give 1, 2 or 3 axes")
        _check_count("bandwidth", bandwidth, 0)
        d_k = c * kernel_multiplier
        self.ndim, self.n_heads, self.bandwidth, self.qk_norm, self.checkpoint, self.legacy = (
            ndim,
            n_heads,
            bandwidth,
            qk_norm,
            checkpoint,
            legacy,
        )
        self.query_scale = 1.0 if legacy and kernel_multiplier <= 4 else d_k**-0.5
        self.apply_kernels = apply_parallel if parallel else apply_chained
        norm = _PointNorm if legacy else _IntegralNorm
        self.in_norm = norm(channels)
        self.to_v = nn.Linear(channels, n_heads * c, bias=False)
        self.to_in = nn.Linear(channels, channels, bias=False)
        for a, name in enumerate("xyz"[:ndim]):
            # The published code rearranges before the projection of every axis but the first, hence the numbers in its names.
            before = [nn.Identity()] if a else []
            positions = _PublishedPositions(d_k) if legacy else _Harmonics(d_k, bandwidth)
            self.add_module(f"to_{name}", nn.Sequential(*before, _AxisProjection(channels, norm(channels))))
            self.add_module(f"low_rank_kernel_{name}", _AxisKernel(channels, n_heads * d_k, positions, published=legacy))
        last = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Identity(), nn.Linear(n_heads * c, channels, bias=False), nn.GELU(), last)
        if not legacy:
            self._start_as_convolution()

    def _start_as_convolution(self) -> None:
        """Let random constants outweigh what depends on the field in queries and keys.

        Kernels then start as convolutions with the harmonics of the rotary positions, which keep the spectrum of their input,
        modulated a little. Without the constants, a stack of four fresh blocks is resolved on no grid below 512.
        """
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, _AxisProjection):
                    last = module.out_ffn.get_submodule("fn.net.3")
                    assert isinstance(last, nn.Linear)
                    last.weight.div_(4)
                    last.bias.normal_()
                    # models that start from zero biases leave these
                    last.keeps_bias = True  # pyright: ignore[reportArgumentType] - torch declares tensors and modules alone

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Return the block's output without the residual, (B, C, *grid.shape), for x of that shape."""
        if grid.ndim != self.ndim:
            raise ValueError(
                f"FactorizedAttention was built for {self.ndim} axes, but the grid has {grid.ndim}; build it with ndim={grid.ndim}"
            )
        channels = self.to_in.in_features
        if x.ndim != grid.ndim + 2 or x.shape[1] != channels or tuple(x.shape[2:]) != grid.shape:
            raise ValueError(
                f"FactorizedAttention got x of shape {tuple(x.shape)}; expected (batch, {channels}, {', '.join(map(str, grid.shape))})"
            )
        if not self.legacy:
            check_bandwidth(grid, self.bandwidth)
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(self._attend, x, grid, use_reentrant=False)
        return self._attend(x, grid)

    def _attend(self, x: Tensor, grid: Grid) -> Tensor:
        u = x.movedim(1, -1)
        weights = _mean_weights(grid, u)
        unequal = None if self.legacy or grid.uniform else weights
        held, kernels = self._values_and_kernels(u, grid, weights, unequal)
        points = None if unequal is None else functools.reduce(lambda a, b: a[..., None] * b, unequal).flatten()
        # The published variance is over n - 1: a norm over n with another eps, times a factor.
        ratio = 1 - 1 / math.prod(held[0].shape[2:]) if self.legacy else 1.0
        # Nested, so that at most two tensors of the size of the values are alive at a time.
        y = normalized(self.apply_kernels(held.pop().contiguous(), kernels).flatten(3), points, 1e-8 * ratio)
        # As matrix times field, whose gradient then lies in memory as the field does.
        o = torch.bmm((self.to_out[1].weight * ratio**0.5).expand(len(y), -1, -1), y).transpose(1, 2)
        return self.to_out[2:](o).view(u.shape).movedim(-1, 1)

    def _values_and_kernels(
        self, u: Tensor, grid: Grid, weights: Sequence[Tensor], unequal: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], list[Kernel]]:
        """Return the values (B, H, *S, c), in a list of one so that the caller can let go of them, and a kernel per axis."""
        z, factor, shift = self.in_norm(u, unequal)
        kernels = [
            self._kernel(a, _affine(g, factor, shift), grid.domain.axes[a], weights[a], unequal and [unequal[a]])
            for a, g in enumerate(axis_means(z, unequal))
        ]
        return [self._values(z, factor, shift)], kernels

    def _values(self, z: Tensor, factor: Tensor | None, shift: Tensor | None) -> Tensor:
        """V applied to the normalized field, heads first: (B, H, *S, c)."""
        flat, matrix = z.flatten(1, -2), self.to_v.weight
        if factor is None or shift is None:
            v = self.to_v(flat)
        else:
            v = torch.baddbmm(self.to_v(shift).expand(len(z), 1, -1), flat, (matrix * factor[:, None]).transpose(1, 2))
        return v.view(*z.shape[:-1], self.n_heads, len(matrix) // self.n_heads).movedim(-2, 1)

    def _kernel(self, a: int, g: Tensor, axis: Axis, w: Tensor, unequal: Sequence[Tensor] | None) -> Kernel:
        """Return queries and weighted keys of one axis, both (B, H, S_m, d_k)."""
        kernel = getattr(self, f"low_rank_kernel_{'xyz'[a]}")
        h = getattr(self, f"to_{'xyz'[a]}")[-1](self.to_in(g), unequal)
        q, k = (project(h).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for project in (kernel.to_q, kernel.to_k))
        angles = kernel.pos_emb(axis, q)
        if not self.legacy:
            q, k = (_unit(t, None if self.qk_norm else w) for t in (q, k))
            k = k * w[:, None]
        return rotate(q * self.query_scale, angles), rotate(k, angles)


class _IntegralNorm(nn.Module):
    """gamma u/rms(u) + beta with one root mean square over space and channels, left unapplied: u, gamma/rms, beta."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, u: Tensor, weights: Sequence[Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return u (B, *S, C), the factor (B, C) and the shift (C,)."""
        with torch.autocast(u.device.type, enabled=False):
            square = _mean_square(u.float() if u.dtype in (torch.float16, torch.bfloat16) else u, weights)
            return u, (self.weight * torch.rsqrt(square + self.eps)[:, None]).to(self.weight.dtype), self.bias


class _PointNorm(nn.LayerNorm):
    """Layer norm at every point, applied; no factor or shift is left."""

    def forward(self, u: Tensor, weights: Sequence[Tensor] | None) -> tuple[Tensor, None, None]:
        """Return the normalized u (B, *S, C); `weights` is not needed."""
        return super().forward(u), None, None


class _AxisProjection(nn.Module):
    """h_m = MLP_m(norm(P_m .)) of a function of one coordinate; the names are the published ones."""

    def __init__(self, channels: int, norm: nn.Module):
        super().__init__()
        self.to_in = nn.Linear(channels, channels, bias=False)
        net = nn.Sequential(nn.Linear(channels, 2 * channels), _GatedUnit(), nn.Identity(), nn.Linear(channels, channels))
        self.out_ffn = nn.ModuleDict({"norm": norm, "fn": nn.ModuleDict({"net": net})})

    def forward(self, g: Tensor, weights: Sequence[Tensor] | None) -> Tensor:
        """Return h (B, S_m, C) for g of that shape."""
        norm, net = (self.out_ffn.get_submodule(name) for name in ("norm", "fn.net"))
        return net(_affine(*norm(self.to_in(g), weights)))


class _AxisKernel(nn.Module):
    """Q_m, K_m and the positions of one axis; the names are the published ones."""

    def __init__(self, channels: int, width: int, positions: nn.Module, *, published: bool):
        super().__init__()
        self.to_q, self.to_k = nn.Linear(channels, width, bias=False), nn.Linear(channels, width, bias=False)
        self.pos_emb = positions
        if published:
            for linear in (self.to_q, self.to_k):
                nn.init.xavier_uniform_(linear.weight, gain=0.02)


class _GatedUnit(nn.Module):
    """GELU(a) b of the two halves of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return F.gelu(a) * b


class _Harmonics(nn.Module):
    """Angles of `opkernels.layers.rotary`."""

    def __init__(self, d_k: int, bandwidth: int):
        super().__init__()
        self.pairs, self.bandwidth = d_k // 2, bandwidth

    def forward(self, axis: Axis, q: Tensor) -> Tensor:
        """Return the angles (S_m, d_k/2) for queries (B, H, S_m, d_k)."""
        return harmonic_angles(axis, q.shape[-2], self.pairs, self.bandwidth, device=q.device, dtype=q.dtype)


class _PublishedPositions(nn.Module):
    """64/10000^(2j/d_k) radians per unit of length, whatever the domain and its period."""

    inv_freq: Tensor

    def __init__(self, d_k: int):
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, d_k, 2) / d_k))

    def forward(self, axis: Axis, q: Tensor) -> Tensor:
        """Return the angles (S_m, d_k/2) for queries (B, H, S_m, d_k)."""
        x = axis.coordinates(q.shape[-2], q.device, self.inv_freq.dtype)
        return (64 * x[:, None] * self.inv_freq).to(q.dtype)


def _head_dim(channels: int, n_heads: int, head_dim: int | None, kernel_multiplier: int) -> int:
    """Return the channels of a head; refuse what does not split."""
    for name, value in (("channels", channels), ("n_heads", n_heads), ("kernel_multiplier", kernel_multiplier)):
        _check_count(name, value, 1)
    if head_dim is None and channels % n_heads:
        raise ValueError(f"got {channels} channels for n_heads={n_heads}, which do not split evenly; choose a multiple, or give head_dim")
    if head_dim is not None:
        _check_count("head_dim", head_dim, 1)
    c = channels // n_heads if head_dim is None else head_dim
    if c * kernel_multiplier % 2:
        raise ValueError(
            f"got heads of {c} channels with kernel_multiplier={kernel_multiplier}: rotary positions turn pairs, so that their product "
            "must be even; change either"
        )
    return c


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"FactorizedAttention got {name}={value!r}; give a whole number of at least {least}")


def _mean_weights(grid: Grid, like: Tensor) -> list[Tensor]:
    """Return per axis the quadrature weights over the length: they sum to 1."""
    return [a.weights(n, like.device, like.dtype) / a.length for a, n in zip(grid.domain.axes, grid.shape, strict=True)]


def _affine(g: Tensor, factor: Tensor | None, shift: Tensor | None) -> Tensor:
    """Return factor g + shift for functions of one coordinate, g (B, S_m, C)."""
    return g if factor is None or shift is None else torch.addcmul(shift, g, factor[:, None])


def _mean_square(u: Tensor, weights: Sequence[Tensor] | None) -> Tensor:
    """Return the mean square of u (B, *S, C) over all but the batch, (B,)."""
    if weights is None:
        return torch.linalg.vector_norm(u.flatten(1), dim=1).square() / math.prod(u.shape[1:])
    square = u.square().mean(-1)
    for w in reversed(weights):
        square = square @ w
    return square


def _unit(t: Tensor, w: Tensor | None) -> Tensor:
    """Return t (B, H, S_m, d) over its rms: over the axis and d, or with no weights over d alone."""
    square = t.square().mean(-1, keepdim=True)
    if w is not None:
        square = (square * w[:, None]).sum(-2, keepdim=True)
    return t * torch.rsqrt(square + 1e-6)
