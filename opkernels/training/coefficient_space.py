"""Train a model on coefficients: transform the data once, then never touch a grid again.

For pairs of functions (u, v) and a `T1` with coefficients U, V in its kept modes, the relative L2 error of its prediction is by
Parseval

    sqrt( (sum_k |network(U)(k) - V(k)|^2 + rest) / (sum_k |V(k)|^2 + rest) ),     rest = ||v||^2 - sum_k |V(k)|^2

the very number, with the very gradient, that samples on any grid give; `rest` is what no training reaches. Weights
(1 + |kappa|^2)^s make it the error of a Sobolev norm. Translations are rotations of modes, by any length, sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from opkernels.coefficients import relative_error, sobolev_weights, translate
from opkernels.domains import Grid
from opkernels.models.t1 import T1
from opkernels.training.schedules import learning_rate

__all__ = ["CoefficientFit", "fit_coefficients"]

_CHUNK = 256  # samples transformed at once


@dataclass
class CoefficientFit:
    """What a training in coefficients found.

    Parameters
    ----------
    floor : float
        Relative L2 error of the training targets that the kept modes cannot reach, known before training.
    losses : list of float
        Mean training loss of each epoch, `rest` included: it cannot fall below `floor` (for order 0).
    """

    floor: float
    losses: list[float] = field(default_factory=list)


def fit_coefficients(
    model: T1,
    inputs: Tensor,
    targets: Tensor,
    *,
    grid: Grid | None = None,
    target_grid: Grid | None = None,
    epochs: int = 50,
    batch_size: int = 16,
    lr: float = 4e-3,
    weight_decay: float = 1e-4,
    order: float = 0.0,
    shifts: Sequence[Sequence[float]] = (),
    seed: int = 0,
    quiet: bool = False,
) -> CoefficientFit:
    """Train a T1 in place, by AdamW with a cosine schedule, on the coefficients of given functions.

    Parameters
    ----------
    model : T1
        Without `n_parameters`.
    inputs, targets : Tensor, (S, C, *spatial)
        Samples in the units that the model is to see (normalize them first), possibly on different grids.
    grid, target_grid : Grid, optional
        Where they were sampled; by default on the model's domain.
    epochs, batch_size, lr, weight_decay
        Of the optimizer; 5 % of the steps are warm-up.
    order : float
        s of the Sobolev norm H^s of the loss; 0 is L2, 1 weighs gradients as well. In the kept modes alone, unless 0.
    shifts : sequence of (d,) lengths
        Directions in which the problem may be moved: every sample is translated by a random real multiple, between 0 and 1,
        of each. On a torus without a fixed place, the periods: ((L1, 0), (0, L2)).
    seed : int
        Fixes order and shifts.
    quiet : bool
        Do not print the floor and the losses.

    Returns
    -------
    CoefficientFit
        The irreducible error, printed before the first epoch, and the losses.

    Raises
    ------
    ValueError
        If samples and model do not fit, a basis is not orthonormal, or the loss becomes infinite.
    """
    _check(model, inputs, targets, epochs, batch_size)
    u, _ = _encoded(model, inputs, model.domain.grid_of(inputs) if grid is None else grid)
    v, rest = _encoded(model, targets, model.domain.grid_of(targets) if target_grid is None else target_grid)
    energy = v.square().flatten(1).sum(1) + rest
    done = CoefficientFit(floor=(rest / energy).sqrt().mean().item())
    if not quiet:
        print(f"irreducible error of the {model.modes.count} kept modes: {done.floor:.4g}", flush=True)
    weights = sobolev_weights(model.bases, model.domain, order, v.device, v.dtype) if order else None
    rest = torch.zeros_like(rest) if order else rest
    directions = torch.tensor(shifts, dtype=u.dtype, device=u.device).reshape(len(shifts), model.domain.ndim)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    steps, step = epochs * -(-len(u) // batch_size), 0
    for epoch in range(epochs):
        total = torch.zeros((), device=u.device)
        for part in torch.randperm(len(u), generator=generator).split(batch_size):
            z, truth = u[part], v[part]
            if shifts:
                by = torch.rand(len(part), len(shifts), generator=generator).to(u) @ directions
                z, truth = (translate(c, model.bases, model.domain, by) for c in (z, truth))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate("cosine", lr, step, steps, warmup=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss = relative_error(model.network(z), truth, rest[part], weights)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total, step = total + loss.detach() * len(part), step + 1
        done.losses.append(total.item() / len(u))
        if not done.losses[-1] < float("inf"):
            raise ValueError(f"the loss is not finite in epoch {epoch + 1}; lower lr={lr:g}, or look for outliers in the data")
        if not quiet:
            print(f"epoch {epoch + 1}/{epochs}: loss {done.losses[-1]:.4g}", flush=True)
    return done


def _check(model: T1, inputs: Tensor, targets: Tensor, epochs: int, batch_size: int) -> None:
    if not isinstance(model, T1) or model.n_parameters:
        raise ValueError("fit_coefficients trains a T1 without n_parameters; use opkernels.fit for other models")
    if len(inputs) != len(targets) or not len(inputs):
        raise ValueError(f"fit_coefficients got {len(inputs)} inputs and {len(targets)} targets; give one target for each input")
    out_channels = model.project.out_features
    if inputs.shape[1] != model.in_channels or targets.shape[1] != out_channels:
        raise ValueError(
            f"fit_coefficients got {inputs.shape[1]} channels in and {targets.shape[1]} out; "
            f"the model maps {model.in_channels} to {out_channels}"
        )
    if not all(b.orthonormal for b in model.bases):
        raise ValueError("fit_coefficients needs orthonormal bases, for Parseval; use legendre in place of chebyshev")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"fit_coefficients got epochs={epochs}, batch_size={batch_size}; give at least 1")


def _encoded(model: T1, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return coefficients (S, C, *modes) and the energy (S,) beside them, in their units."""
    weights, unit = grid.weights(x.device, torch.float64), model.scale.double() ** 2 / grid.domain.measure
    coefficients, rest = [], []
    with torch.no_grad():
        for part in x.split(_CHUNK):
            z = model.coefficients(part, grid)
            whole = (part.double().square() * weights).flatten(1).sum(1) * unit
            coefficients.append(z)
            rest.append((whole - z.double().square().flatten(1).sum(1)).clamp_min(0).to(z.dtype))
    return torch.cat(coefficients), torch.cat(rest)
