"""Fit one-way filters to a given kernel: what `CompressedConv.from_dense` sets its factors to.

| format              | algorithm                                                                                           |
| ------------------- | --------------------------------------------------------------------------------------------------- |
| "cp"                | alternating least squares: a local optimum, found slowly for large kernels                           |
| "tt", "sequential"  | successive singular value decompositions (tensorly): within sqrt(links) of the best                  |
| "pairwise"          | rank one, for each pair of channels alone: alternating least squares from the leading singular vectors |

All in the precision of the kernel; give float64.

Reference: Kolda, Bader, "Tensor Decompositions and Applications", SIAM Review 51 (2009) 455; Oseledets, "Tensor-Train Decomposition",
SIAM J. Sci. Comput. 33 (2011) 2295.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["canonical", "fitted", "rank_one", "tensor_train"]


def fitted(kernel: Tensor, factorization: str, order: Sequence[int], ranks: Sequence[int]) -> list[Tensor]:
    """Return factors of the best approximation found of a kernel, step after step, each (out, in, taps).

    Parameters
    ----------
    kernel : Tensor, (C_out, C_in, *taps)
    factorization : {"cp", "tt", "sequential", "pairwise"}
    order : sequence of int
        The axes in the order of the steps.
    ranks : sequence of int
        One (CP), one per link between steps (trains), none (pairwise).
    """
    kernel = kernel.permute(1, *(a + 2 for a in order), 0)  # (C_in, taps in the order of the steps, C_out)
    if factorization == "pairwise":
        return [line.permute(2, 0, 1) for line in rank_one(kernel)]
    if factorization == "cp":
        first, *lines, last = canonical(kernel, ranks[0])
        return [first.T, *(line.T for line in lines), last]
    c_in, *taps, c_out = kernel.shape
    if factorization == "sequential":  # the first and the last step take the channels in
        taps[0] *= c_in
        taps[-1] *= c_out
        kernel = kernel.reshape(taps)
    cores = tensor_train(kernel, ranks)
    cores[0] = cores[0].reshape(c_in, -1, cores[0].shape[-1])
    cores[-1] = cores[-1].reshape(cores[-1].shape[0], -1, c_out)
    return [core.permute(2, 0, 1) for core in cores]


def canonical(tensor: Tensor, rank: int) -> list[Tensor]:
    """Return CP factors (n, R), one per axis of the tensor, by alternating least squares."""
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(n, rank, generator=generator, dtype=tensor.dtype) for n in tensor.shape]
    axes, size, last = "abcde"[: tensor.ndim], torch.linalg.vector_norm(tensor), math.inf
    for sweep in range(1000):
        for a in range(tensor.ndim):
            others = [b for b in range(tensor.ndim) if b != a]
            for b in others:
                factors[b] = F.normalize(factors[b], dim=0)
            gram = math.prod((factors[b].T @ factors[b] for b in others), start=torch.ones((), dtype=tensor.dtype))
            factors[a] = _contracted(tensor, factors, others) @ torch.linalg.pinv(gram, rtol=1e-14, hermitian=True)
        if sweep % 20 == 19:
            left = torch.linalg.vector_norm(tensor - torch.einsum(f"{','.join(f'{c}r' for c in axes)}->{axes}", *factors)) / size
            if left < 1e-14 or left > (1 - 1e-5) * last:
                break
            last = left
    return factors


def _contracted(tensor: Tensor, factors: Sequence[Tensor], others: Sequence[int]) -> Tensor:
    """Return the sum over the other axes of the tensor times their factors, (n, R): pair by pair, for the search for a path costs more."""
    left = "abcde"[: tensor.ndim]
    for b in sorted(others, key=lambda b: -tensor.shape[b]):
        axis, before = "abcde"[b], left
        left = left.replace(axis, "").removesuffix("r") + "r"
        tensor = torch.einsum(f"{before},{axis}r->{left}", tensor, factors[b])
    return tensor


def tensor_train(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Return cores (r, n, r'), one per axis of the tensor, by successive singular value decompositions."""
    import tensorly
    from tensorly.decomposition import tensor_train as decompose

    with tensorly.backend_context("numpy", local_threadsafe=True):  # pyright: ignore[reportAttributeAccessIssue]
        factors: Any = decompose(tensor.numpy(), rank=[1, *ranks, 1]).factors  # tensorly's returns are not typed
    return [torch.as_tensor(core.copy()) for core in factors]


def rank_one(kernel: Tensor) -> list[Tensor]:
    """Return lines (C_in, k, C_out), one per axis, with the product closest to a kernel (C_in, taps, C_out), pair by pair."""
    axes = range(1, kernel.ndim - 1)
    lines = []
    for a in axes:  # begin with the leading singular vectors
        unfolded = kernel.movedim((0, -1, a), (0, 1, 2)).flatten(3)
        lines.append(torch.linalg.svd(unfolded, full_matrices=False)[0][..., 0].movedim(1, -1))
    for _ in range(30):
        for a in axes:
            rest = kernel
            for b in axes:
                if b != a:
                    shape = [n if c in (0, b, kernel.ndim - 1) else 1 for c, n in enumerate(kernel.shape)]
                    line = lines[b - 1] / torch.linalg.vector_norm(lines[b - 1], dim=1, keepdim=True).clamp_min(1e-300)
                    lines[b - 1] = line
                    rest = (rest * line.reshape(shape)).sum(b, keepdim=True)
            lines[a - 1] = rest.reshape(kernel.shape[0], -1, kernel.shape[-1])
    return lines
