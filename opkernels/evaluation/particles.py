"""How far a learned particle simulation is from the solver's: positions, energy, density, and the shape of the cloud.

| function          | figure                                                                                         |
| ----------------- | ---------------------------------------------------------------------------------------------- |
| `position_mse`    | mean over particles and axes of ``|x - x*|^2``, nearest image, per frame                       |
| `kinetic_energy`  | ``sum_i m_i |v_i|^2 / 2`` per frame                                                            |
| `density`         | rho_i = sum_j m_j W(x_i - x_j, H), Wendland C2                                                 |
| `sinkhorn`        | debiased Sinkhorn divergence of two clouds, which does not ask which particle is which         |

References: Toshev et al., LagrangeBench, NeurIPS 2023, arXiv 2309.16342; Feydy et al., AISTATS 2019, arXiv 1810.08278.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.particles import ParticleSet
from opkernels.solvers.sph import ParticleTrajectory, smoothing_kernel

__all__ = ["compare_particles", "density", "kinetic_energy", "position_mse", "sinkhorn"]


def _nearest(d: Tensor, domain: Domain) -> Tensor:
    """Differences (..., d) to the nearest periodic image."""
    columns = [
        c - axis.length * torch.round(c / axis.length) if axis.periodic else c for axis, c in zip(domain.axes, d.unbind(-1), strict=True)
    ]
    return torch.stack(columns, -1)


def position_mse(prediction: Tensor, truth: Tensor, domain: Domain) -> Tensor:
    """Return the mean squared displacement over particles and axes, (T,), of positions (T, N, d)."""
    if prediction.shape != truth.shape or prediction.ndim != 3 or prediction.shape[-1] != domain.ndim:
        raise ValueError(
            f"position_mse got positions of shapes {tuple(prediction.shape)} and {tuple(truth.shape)}; expected (T, N, {domain.ndim}) both"
        )
    return _nearest(prediction - truth, domain).square().mean((1, 2))


def kinetic_energy(velocities: Tensor, masses: Tensor) -> Tensor:
    """Return sum m v^2 / 2, (...), of velocities (..., N, d) and masses (N,)."""
    return (velocities.square().sum(-1) * masses).sum(-1) / 2


def density(positions: Tensor, particles: ParticleSet) -> Tensor:
    """Return the density that the masses of a set have at positions (N, d), (N,)."""
    moved = particles.replace(positions=positions, densities=None)
    pairs = moved.neighbors()
    kernel = smoothing_kernel("wendland2", moved.ndim)
    r = (pairs.displacement(positions).square().sum(1) + 1e-24 * moved.support**2).sqrt()
    return pairs.sum(moved.masses[pairs.col] * kernel.value(r, moved.support))


def sinkhorn(x: Tensor, y: Tensor, domain: Domain, *, epsilon: float, iterations: int = 100) -> Tensor:
    """Return the Sinkhorn divergence of two clouds (N, d) and (M, d), of equal weights and squared distances.

    Parameters
    ----------
    epsilon : float
        Blur, in units of squared length: the square of half a spacing is usual. The value depends on it; state it.
    iterations : int
        Of the updates, in logarithms, at the blur asked for; as many come before, while the blur falls from the largest
        squared distance to that. Without them about (distance)^2/epsilon updates are needed.

    Raises
    ------
    ValueError
        If a cloud is empty or the blur not positive.

    Notes
    -----
    OT(x, y) - OT(x, x)/2 - OT(y, y)/2: zero for equal clouds. Memory N M.
    """
    if not epsilon > 0 or not (len(x) and len(y)):
        raise ValueError(
            f"sinkhorn got epsilon={epsilon} for clouds of {len(x)} and {len(y)} particles; give a positive squared length, "
            "such as (spacing/2)**2, and particles in both"
        )
    cross, own_x, own_y = (_transport(a, b, domain, epsilon, iterations) for a, b in ((x, y), (x, x), (y, y)))
    return cross - (own_x + own_y) / 2


def _transport(x: Tensor, y: Tensor, domain: Domain, epsilon: float, iterations: int) -> Tensor:
    cost = _nearest(x[:, None] - y[None], domain).square().sum(-1)
    widest = max(cost.max().item(), epsilon)
    blurs = [epsilon * (widest / epsilon) ** (1 - i / iterations) for i in range(iterations)] + [epsilon] * iterations
    f, g = torch.zeros_like(x[:, 0]), torch.zeros_like(y[:, 0])
    for blur in blurs:  # averaged updates converge for symmetric problems too
        f, g = (
            (f - blur * (torch.logsumexp((g - cost) / blur, 1) - math.log(len(y)))) / 2,
            (g - blur * (torch.logsumexp((f[:, None] - cost) / blur, 0) - math.log(len(x)))) / 2,
        )
    return f.mean() + g.mean()


def compare_particles(
    positions: Tensor, velocities: Tensor, truth: ParticleTrajectory, *, horizons: Sequence[int] = (1, 5, 10, 20, 50), rest: float = 1.0
) -> dict[str, float | list[float]]:
    """Return the figures of a rollout (T, N, d) against a trajectory that begins at its first frame.

    Parameters
    ----------
    horizons : sequence of int
        "mse@n": the mean of `position_mse` over the first n steps; those beyond the rollout are left out.
    rest : float
        Density that deviations are measured in.

    Returns
    -------
    dict
        "mse@n"; "energy" and "true_energy", the kinetic energies of all frames; "density_error", the root mean square
        of the difference of densities at the last frame over `rest`, and "max_density" with "true_max_density";
        "sinkhorn" of the last frame at the epsilon in "sinkhorn_epsilon"; "momentum", the largest change of the total
        momentum over sum m |v| at the start.
    """
    n, domain, masses = len(positions), truth.particles.domain, truth.particles.masses
    error = position_mse(positions, truth.positions[:n], domain)
    rho, rho_true = (density(x[-1], truth.particles) for x in (positions, truth.positions[:n]))
    epsilon = truth.particles.volumes.mean().item() ** (2 / domain.ndim) / 4
    momentum = torch.einsum("i,tid->td", masses, velocities)
    size = (masses[:, None] * velocities[0].abs()).sum()
    return {
        **{f"mse@{h}": error[1 : h + 1].mean().item() for h in horizons if h < n},
        "energy": kinetic_energy(velocities, masses).tolist(),
        "true_energy": truth.kinetic_energy()[:n].tolist(),
        "density_error": ((rho - rho_true).square().mean().sqrt() / rest).item(),
        "max_density": rho.max().item() / rest,
        "true_max_density": rho_true.max().item() / rest,
        "sinkhorn": sinkhorn(positions[-1], truth.positions[n - 1], domain, epsilon=epsilon).item(),
        "sinkhorn_epsilon": epsilon,
        "momentum": ((momentum - momentum[0]).abs().max() / size).item(),
    }
