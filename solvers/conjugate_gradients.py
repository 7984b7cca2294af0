"""Preconditioned conjugate gradients for a batch of symmetric positive definite systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Solution", "conjugate_gradients"]


@dataclass(frozen=True)
class Solution:
    """What `conjugate_gradients` returns.

    Attributes
    ----------
    x : Tensor, (B, *)
        The solutions.
    error : Tensor, (B,)
        Bound on the relative error in the energy norm ‖x - A⁻¹b‖_A / ‖A⁻¹b‖_A.
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
    contrast: Tensor,
    max_iterations: int,
    check_every: int = 4,
) -> Solution:
    """Solve A x = b for every sample at once; a sample that has converged is left as it is.

    With P the preconditioner and the spectrum of P⁻¹A in [m, M], the residual r bounds the error,
    ‖e‖²_A <= r·P⁻¹r / m and ‖x‖²_A >= b·P⁻¹b / M, so that `contrast` = M/m turns the quantities of
    the iteration into the bound that is compared with `tolerance`: independent of the mesh, and
    without further work. The number of iterations is at most about √contrast/2 · ln(2/tolerance).

    Parameters
    ----------
    apply, precondition : callables (B, *) -> (B, *)
        A x and P⁻¹ r.
    rhs : Tensor, (B, *)
        The right-hand sides b.
    tolerance : float
        Relative error in the energy norm.
    contrast : Tensor, (B,)
        Bound on the condition number of P⁻¹A, per sample.
    max_iterations : int
        Where to stop without convergence; `Solution.error` tells.
    check_every : int
        Iterations between two looks at the convergence: each look makes the host wait for the device.

    Notes
    -----
    M. R. Hestenes and E. Stiefel, J. Res. NBS 49 (1952) 409-436.
    """
    column = (-1, *[1] * (rhs.ndim - 1))
    x, r = torch.zeros_like(rhs), rhs.clone()
    z = precondition(r)
    p = z.clone()
    rz = _dot(r, z)
    goal = rz * (tolerance**2 / contrast)
    start = rz
    iterations = torch.zeros_like(rz, dtype=torch.int64)
    for count in range(max_iterations):
        active = rz > goal
        if count % check_every == 0 and not bool(active.any()):
            break
        q = apply(p)
        alpha = torch.where(active, rz / _dot(p, q), 0.0)
        x.addcmul_(p, alpha.reshape(column))
        r.addcmul_(q, -alpha.reshape(column))
        z = precondition(r)
        new = _dot(r, z)
        p.mul_(torch.where(active, new / rz, 0.0).reshape(column)).add_(z)
        rz = torch.where(active, new, rz)
        iterations += active
    error = torch.where(start == 0, 0.0, (contrast * rz / start).sqrt())  # NaN stays NaN
    return Solution(x, error, iterations)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, (B,)."""
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))
