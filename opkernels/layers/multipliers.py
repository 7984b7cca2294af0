"""Convolutions on a periodic box as multipliers of Fourier coefficients, mixed over channels in one matrix product.

    y_o = F^-1 sum_c sum_k W_ock m_k(xi) F u_c

Local integrals (m_k = psi~_k) and derivatives (m_k = (i xi)^alpha, or the symbol of a stencil) are of this kind. The weights are
real, so real and imaginary parts are mixed alike, before anything is transformed back: C + O transforms and one product, where
transforming back C K fields and mixing those would take K times as many.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opkernels.domains import Whole

__all__ = ["filtered", "with_one"]


def with_one(x: Tensor) -> Tensor:
    """Append a sample of zeros to a batch: to an empty one, which FFTs on CPUs refuse."""
    return torch.cat([x, x.new_zeros(1, *x.shape[1:])])


def filtered(u: Tensor, shape: Sequence[int], multipliers: Tensor, weight: Tensor, split: Whole) -> Tensor:
    """Return sum_ck W_ock F^-1(m_k F u_c), (B, O, *shape), for u (B, C, *), weights (O, C, K) and multipliers (K, *) of all wave numbers.

    Where `shape` is larger than that of `u`, zeros follow the samples; not so if the field is split over processes.
    """
    if not u.shape[0]:
        return filtered(with_one(u), shape, multipliers, weight, split)[:0]
    shape = tuple(shape)
    u_hat = split.rfftn(u, shape)
    mix = _mixed if torch.compiler.is_compiling() else _Mix.apply
    y_hat = mix(u_hat.flatten(2), split.wave_cut(multipliers, shape).flatten(1), weight.flatten(1))
    return split.irfftn(y_hat.unflatten(2, u_hat.shape[2:]), shape)


def _columns(u: Tensor, m: Tensor) -> Tensor:
    """Return m_k u_c as real columns (re, im), (B, C K, 2 F), for u (B, C, F) and m (K, F)."""
    return torch.view_as_real(u[:, :, None] * m).flatten(1, 2).flatten(2)


def _mixed(u: Tensor, m: Tensor, weight: Tensor) -> Tensor:
    """Return sum_ck W_ock m_k u_c, complex (B, O, F), for weight (O, C K)."""
    return torch.view_as_complex(torch.matmul(weight, _columns(u, m)).unflatten(2, (-1, 2)))


class _Mix(torch.autograd.Function):
    """`_mixed` in blocks that stay in cache; the columns, K times the input, are made again in the backward pass, not kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u, m, weight):
        return _assembled(u, weight.shape[0], [_mixed(u[b, :, f], m[:, f], weight) for b, f in _blocks(u, m)], m)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        u, m, weight = ctx.saved_tensors
        grad_u, grad_weight = [], torch.zeros_like(weight)
        with torch.autocast(u.device.type, enabled=False):  # for calls of backward inside an autocast region
            for b, f in _blocks(u, m):
                g_real = torch.view_as_real(g[b, :, f].contiguous()).flatten(2)
                grad_weight = grad_weight + torch.matmul(g_real, _columns(u[b, :, f], m[:, f]).mT).sum(0)
                columns = torch.matmul(weight.T, g_real).unflatten(1, (u.shape[1], -1)).unflatten(3, (-1, 2))
                grad_u.append((torch.view_as_complex(columns) * m[:, f].conj()).sum(2))
        return _assembled(u, u.shape[1], grad_u, m), None, grad_weight


def _blocks(u: Tensor, m: Tensor) -> list[tuple[slice, slice]]:
    """Cut (batch, coefficients) so that the columns of a block fit in a cache of about 2 MB; on a GPU, do not."""
    batch, channels, count = u.shape
    if u.device.type != "cpu":
        return [(slice(0, batch), slice(0, count))]
    room = max(2**18 // (channels * m.shape[0]), 256)
    rows, width = max(room // count, 1), min(room, count)
    return [(slice(i, i + rows), slice(j, j + width)) for i in range(0, batch, rows) for j in range(0, count, width)]


def _assembled(u: Tensor, channels: int, blocks: list[Tensor], m: Tensor) -> Tensor:
    """Return the blocks side by side, (B, channels, F)."""
    if len(blocks) == 1:
        return blocks[0]
    y = u.new_empty(u.shape[0], channels, u.shape[2])
    for (b, f), block in zip(_blocks(u, m), blocks, strict=True):
        y[b, :, f] = block
    return y
