"""Preconditioned conjugate gradients for a batch of symmetric positive definite systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Solution", "conjugate_gradients"]

_WINDOW = 4
_FASTEST = 0.03  # drops are not trusted to go on falling faster: a preconditioner in float32 ends that


@dataclass(frozen=True)
class Solution:
    """What `conjugate_gradients` returns.

    Attributes
    ----------
    x : Tensor, (B, *)
        The solutions.
    error : Tensor, (B,)
        Estimate of the relative error in the energy norm ‖x - A⁻¹b‖_A / ‖A⁻¹b‖_A; NaN for a system
        that is not finite.
    iterations : Tensor, (B,)
        Iterations each sample took.
    """

    x: Tensor
    error: Tensor
    iterations: Tensor


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    rhs: Tensor,
    precondition: Callable[[Tensor], Tensor],
    *,
    tolerance: float,
    max_iterations: int,
    check_every: int | None = None,
) -> Solution:
    """Solve A x = b for every sample at once; a sample that has converged is left as it is.

    Iteration k lowers the squared error in the energy norm by t_k = α_k r·P⁻¹r exactly, so that
    the sum of all t_k is ‖A⁻¹b‖²_A and the sum of those to come is the squared error. The latter
    is continued as a geometric series from the last few: an estimate that needs no bound on the
    spectrum, no further work, and does not change with the mesh.

    Parameters
    ----------
    apply, precondition : callables (B, *) -> (B, *)
        A x and P⁻¹ r, both symmetric positive definite.
    rhs : Tensor, (B, *)
        The right-hand sides b.
    tolerance : float
        Relative error in the energy norm.
    max_iterations : int
        Where to stop without convergence; `Solution.error` tells.
    check_every : int or None
        Iterations between two looks at the convergence, each of which makes the host wait for the
        device; None looks every time on a CPU and every fourth time elsewhere.

    References
    ----------
    M. R. Hestenes, E. Stiefel, J. Res. NBS 49 (1952) 409-436, doi:10.6028/jres.049.044 (the
    identity for the error). Z. Strakoš, P. Tichý, ETNA 13 (2002) 56-80 (why it survives round-off).
    """
    check_every = check_every or (1 if rhs.device.type == "cpu" else 4)
    column = (-1, *[1] * (rhs.ndim - 1))
    x, r = torch.zeros_like(rhs), rhs.clone()
    z = precondition(r)
    p = z.clone()
    rz = _dot(r, z)
    active = rz != 0
    error = active.to(rz.dtype)  # squared; 1 before the first step, 0 for b = 0
    iterations = torch.zeros_like(rz, dtype=torch.int64)
    drops: list[Tensor] = []  # t_k
    total = torch.zeros_like(rz)
    for count in range(max_iterations):
        if count and count % check_every == 0 and not bool((active & rz.isfinite()).any()):
            break
        q = apply(p)
        alpha = torch.where(active, rz / _dot(p, q), 0.0)
        x.addcmul_(p, alpha.reshape(column))
        r.addcmul_(q, -alpha.reshape(column))
        total += alpha * rz
        drops = [*drops[1 - 2 * _WINDOW :], alpha * rz]
        iterations += active
        error = torch.where(active, _remainder(drops) / total, error)
        z = precondition(r)
        new = _dot(r, z)
        active = active & ~((error <= tolerance**2) | (new == 0))
        torch.addcmul(z, p, torch.where(active, new / rz, 0.0).reshape(column), out=p)
        rz = torch.where(active, new, rz)
    return Solution(x, torch.where(rz.isfinite(), error.sqrt(), torch.nan), iterations)


def _remainder(drops: list[Tensor]) -> Tensor:
    """Sum of the drops to come: those of the last two windows continued as a geometric series."""
    width = min(_WINDOW, len(drops) // 2)
    if width == 0:
        return drops[-1]
    before, last = torch.stack(drops[-2 * width :]).unflatten(0, (2, width)).sum(dim=1)
    ratio = (last / before).clamp(_FASTEST**width, 0.999)
    return last * ratio / (1 - ratio)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, (B,)."""
    return (a.flatten(1)[:, None] @ b.flatten(1)[..., None])[:, 0, 0]
