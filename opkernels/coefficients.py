"""What can be done to functions by their coefficients alone: move, diffuse, measure.

For u = sum_k z(k) phi_k in a product of orthonormal bases (`opkernels.bases.Basis`), k the numbers of waves, half waves
or degrees,

    translation by s     (z_cos, z_sin)(k) -> rotation by 2 pi k s/L of each pair        Fourier axes
    diffusion            z(k) -> exp(-|kappa|^2 nu t) z(k)                               kappa = 2 pi k/L, or pi k/L between walls
    mean square          1/|domain| int u^2 = 1/|domain| sum_k z(k)^2                    Parseval
    Sobolev norm         sum_k (1 + |kappa|^2)^s z(k)^2

None of them needs samples, and none depends on a grid. Coefficients have the shape (B, C, *sizes); a factor common to all
of them (T1's normalization) changes none of these operations but the mean square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from opkernels.bases import Basis, analyze, synthesize
from opkernels.domains import Domain, Grid, table

__all__ = ["diffusion_factor", "energy_share", "relative_error", "sobolev_weights", "squared_wave_numbers", "translate", "values_at"]


def squared_wave_numbers(bases: Sequence[Basis], domain: Domain, device=None, dtype=None) -> Tensor:
    """Return |kappa|^2 of every product of functions, (*sizes), in radians per length squared.

    Raises
    ------
    ValueError
        For polynomials, which are no waves.
    """
    return _squared_wave_numbers(tuple(bases), domain, device=device, dtype=dtype)


def diffusion_factor(bases: Sequence[Basis], domain: Domain, amount: float, device=None, dtype=None) -> Tensor:
    """Return exp(-amount |kappa|^2), (*sizes): what diffusion with the coefficient nu does in the time t, amount = nu t."""
    return _diffusion_factor(tuple(bases), domain, amount, device=device, dtype=dtype)


def sobolev_weights(bases: Sequence[Basis], domain: Domain, order: float, device=None, dtype=None) -> Tensor:
    """Return (1 + |kappa|^2)^order, (*sizes): weights of squared coefficients in the norm of H^order."""
    return (1 + squared_wave_numbers(bases, domain, device, torch.float64)).pow(order).to(dtype or torch.get_default_dtype())


@table
def _squared_wave_numbers(bases: tuple[Basis, ...], domain: Domain, device) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=device)
    for basis, axis in zip(bases, domain.axes, strict=True):
        if basis.kind not in ("fourier", "cosine", "sine"):
            raise ValueError(f'the basis "{basis.kind}" of axis {axis.name} has no wave numbers; choose fourier, cosine or sine')
        step = (2 if basis.kind == "fourier" else 1) * math.pi / axis.length
        total = total[..., None] + (step * torch.tensor(basis.orders, dtype=torch.float64, device=device)).square()
    return total


@table
def _diffusion_factor(bases: tuple[Basis, ...], domain: Domain, amount: float, device) -> Tensor:
    return (-amount * squared_wave_numbers(bases, domain, device, torch.float64)).exp()


def translate(z: Tensor, bases: Sequence[Basis], domain: Domain, shifts: Tensor) -> Tensor:
    """Return the coefficients of u(x - s) for those of u: every pair (cosine, sine) is rotated.

    Parameters
    ----------
    z : Tensor, (B, C, *sizes)
    bases : sequence of Basis
    domain : Domain
    shifts : Tensor, (B, d) or (d,)
        s per sample and axis, any real length.

    Raises
    ------
    ValueError
        If an axis without a Fourier basis, or one that keeps a cosine without its sine, is to be moved.
    """
    if tuple(shifts.shape) not in ((z.shape[0], len(bases)), (len(bases),)):
        raise ValueError(f"translate got shifts of shape {tuple(shifts.shape)}; expected ({len(bases)},) or ({z.shape[0]}, {len(bases)})")
    shifts = shifts.expand(z.shape[0], len(bases))
    for a, (basis, axis) in enumerate(zip(bases, domain.axes, strict=True)):
        if basis.kind == "fourier":
            z = _rotate(z, a, basis, 2 * math.pi / axis.length * shifts[:, a], axis.name)
        elif bool((shifts[:, a] != 0).any()):
            raise ValueError(f'translate got a shift along axis {axis.name}, whose basis is "{basis.kind}"; only Fourier axes can be moved')
    return z


def _rotate(z: Tensor, a: int, basis: Basis, angle: Tensor, name: str) -> Tensor:
    """Rotate the pairs of axis `a` by k angle (B,): z cos +- partner sin."""
    numbers = basis.numbers
    partner = [i + 1 if i % 2 else max(0, i - 1) for i in numbers]
    if set(partner) != set(numbers):
        raise ValueError(f"translate got a basis of axis {name} that keeps a cosine or a sine without its partner; keep both")
    theta = angle.to(z)[:, None] * torch.tensor(basis.orders, device=z.device, dtype=z.dtype)
    sign = torch.tensor([-1.0 if i % 2 else 1.0 for i in numbers], device=z.device, dtype=z.dtype)
    other = z.index_select(2 + a, torch.tensor([numbers.index(i) for i in partner], device=z.device))
    along = [theta.shape[0] if b == 0 else len(numbers) if b == 2 + a else 1 for b in range(z.ndim)]
    return z * theta.cos().view(along) + other * (sign * theta.sin()).view(along)


def relative_error(z: Tensor, target: Tensor, rest: Tensor | float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Return the relative L2 error by Parseval, mean over the batch: sqrt((|z - target|^2 + rest)/(|target|^2 + rest)).

    Parameters
    ----------
    z, target : Tensor, (B, C, *sizes)
        Coefficients in orthonormal bases.
    rest : Tensor, (B,), optional
        Sum of the squares of the target's other coefficients, which no choice of z reaches: the error is that of the
        samples then, its gradient the same. Default: the error in the span.
    weights : Tensor, (*sizes), optional
        Of the squares, such as `sobolev_weights` (then those of `rest` too).
    """
    axes = tuple(range(1, z.ndim))
    error, norm = (z - target).square(), target.square()
    if weights is not None:
        error, norm = error * weights, norm * weights
    error, norm = error.sum(axes) + rest, norm.sum(axes) + rest
    tiny = torch.finfo(z.dtype).tiny
    return (error.clamp_min(tiny) / norm.clamp_min(tiny)).sqrt().mean()


def values_at(z: Tensor, points: Tensor, bases: Sequence[Basis], domain: Domain) -> Tensor:
    """Return the function's values (B, C, P) at any points (P, d) or (B, P, d), in float32 at least; differentiable in both.

    Cost per channel P prod(m), and P prod(m)/m_d numbers of memory.
    """
    d = len(bases)
    if not isinstance(points, Tensor):
        raise ValueError(f"got points as {type(points).__name__}; give a tensor of shape (P, {d}) or (B, P, {d})")
    if points.ndim not in (2, 3) or points.shape[-1] != d or (points.ndim == 3 and points.shape[0] != z.shape[0]):
        raise ValueError(f"got points of shape {tuple(points.shape)}; expected (P, {d}) for all samples, or ({z.shape[0]}, P, {d})")
    z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    points = points.to(z) if points.ndim == 3 else points.to(z)[None]
    tables = [basis.at(axis, points[..., a]) for a, (basis, axis) in enumerate(zip(bases, domain.axes, strict=True))]
    with torch.autocast(z.device.type, enabled=False):
        y = torch.einsum("bc...m,bpm->bc...p", z, tables[-1].expand(z.shape[0], -1, -1))
        for values in reversed(tables[:-1]):
            y = torch.einsum("bc...mp,bpm->bc...p", y, values.expand(z.shape[0], -1, -1))
    return y


def energy_share(x: Tensor, grid: Grid, bases: Sequence[Basis], scheme: str = "vp_data") -> float:
    """Return the share rho of the energy of samples x (B, C, *grid.shape) that bases hold, as one of three schemes has it.

    A layer that mixes C channels of every kept mode preserves the variance of its input if its weights have the variance
    1/(C rho): what the dropped modes held is made up for.

    | scheme     | rho                                                                  | exact for                         |
    | ---------- | -------------------------------------------------------------------- | --------------------------------- |
    | "band"     | 1                                                                    | functions within the kept modes   |
    | "vp_white" | kept modes over samples                                              | white noise on this grid          |
    | "vp_data"  | measured: 1 - ||x - P x||^2/||x||^2, P the fit in the kept modes     | these data                        |

    The factor may enter once in a network of one transform: repeated in each of its blocks it would multiply.

    References: Poli et al., arXiv 2211.14453 ("vp_white"); Mishkin and Matas, arXiv 1511.06422 (variance from a batch).
    """
    if scheme == "band":
        return 1.0
    if scheme == "vp_white":
        return math.prod(min(b.size, n) for b, n in zip(bases, grid.shape, strict=True)) / math.prod(grid.shape)
    if scheme != "vp_data":
        raise ValueError(f"got scheme={scheme!r}; choose one of band, vp_white, vp_data")
    x, weights = x.detach().double(), grid.weights(x.device, torch.float64)
    missed = x - synthesize(analyze(x, grid, bases), grid, bases)
    energy = (x.square() * weights).sum()
    if not energy > 0:
        raise ValueError("got samples that are zero everywhere, which have no energy to measure; give a batch of data")
    return (1 - (missed.square() * weights).sum() / energy).item()
