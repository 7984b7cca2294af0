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

from opkernels.bases import Basis
from opkernels.coefficients import relative_error, sobolev_weights, translate
from opkernels.domains import Grid
from opkernels.models.checks import check_input, check_parameters, grid_for
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
    parameters: Tensor | None = None,
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

    Everything is held in memory and nothing is written: for runs that are to be stopped and resumed, `opkernels.fit`.

    Parameters
    ----------
    model : T1
    inputs, targets : Tensor, (S, C, *spatial)
        Samples in the units that the model is to see (normalize them first), possibly on different grids. Their coefficients
        are kept on the device of the model.
    parameters : Tensor, (S, n_parameters), optional
        Per-sample numbers; needed if and only if the model has ``n_parameters > 0``.
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
        If samples and model do not fit, a basis is not orthonormal, a target is zero, or the loss becomes infinite.
    """
    _check(model, inputs, targets, parameters, epochs, batch_size)
    grid = grid_for("fit_coefficients", model.domain, model.in_channels, inputs, grid)
    target_grid = grid_for("fit_coefficients", model.domain, model.project.out_features, targets, target_grid)
    domain = grid.domain
    directions = _directions(shifts, domain.ndim)
    bases = (model.input_bases, model.bases)
    u, _ = _encoded(model, inputs, grid, bases[0])
    v, rest = _encoded(model, targets, target_grid, bases[1])
    numbers = None if parameters is None else parameters.to(u.device)
    energy = v.square().flatten(1).sum(1) + rest
    wrong = ~energy.isfinite() | (energy <= 0)
    if bool(wrong.any()):
        number = int(wrong.nonzero()[0])
        raise ValueError(f"target {number} is zero everywhere or not finite, so errors relative to it have no meaning; leave it out")
    done = CoefficientFit(floor=(rest / energy).sqrt().mean().item())
    if not quiet:
        print(f"irreducible error of the {model.modes.count} kept modes: {done.floor:.4g}", flush=True)
    weights = sobolev_weights(model.bases, domain, order, v.device, v.dtype) if order else None
    rest = torch.zeros_like(rest) if order else rest
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    steps, step = epochs * -(-len(u) // batch_size), 0
    for epoch in range(epochs):
        total = torch.zeros((), device=u.device)
        for part in torch.randperm(len(u), generator=generator).split(batch_size):
            z, truth = u[part], v[part]
            if shifts:
                by = (torch.rand(len(part), len(shifts), generator=generator).double() @ directions).to(u)
                z, truth = (translate(c, b, domain, by) for c, b in zip((z, truth), bases, strict=True))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate("cosine", lr, step, steps, warmup=0.05)
            optimizer.zero_grad(set_to_none=True)
            predicted = model.network(z, None if numbers is None else numbers[part], domain)
            loss = relative_error(predicted, truth, rest[part], weights)
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


def _check(model: T1, inputs: Tensor, targets: Tensor, parameters: Tensor | None, epochs: int, batch_size: int) -> None:
    if not isinstance(model, T1):
        raise ValueError(f"fit_coefficients got a model of type {type(model).__name__}, but trains T1; use opkernels.fit for other models")
    for name, x in (("inputs", inputs), ("targets", targets)):
        check_input("fit_coefficients", name, x, model.lift.weight.dtype)
    check_parameters("fit_coefficients", inputs, parameters, model.n_parameters)
    if len(inputs) != len(targets) or not len(inputs):
        raise ValueError(f"fit_coefficients got {len(inputs)} inputs and {len(targets)} targets; give one target for each input")
    if not all(b.orthonormal for b in model.bases):  # of the targets
        raise ValueError("fit_coefficients needs orthonormal bases, for Parseval; use legendre in place of chebyshev")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"fit_coefficients got epochs={epochs}, batch_size={batch_size}; give at least 1")


def _directions(shifts: Sequence[Sequence[float]], d: int) -> Tensor:
    """Return the directions as rows, (len(shifts), d)."""
    if any(not isinstance(s, Sequence) or len(s) != d for s in shifts):
        raise ValueError(f"fit_coefficients got shifts={shifts}; give vectors of {d} lengths, such as the periods ((1, 0), (0, 1)) in 2-D")
    return torch.tensor(shifts, dtype=torch.float64).reshape(len(shifts), d)


def _encoded(model: T1, x: Tensor, grid: Grid, bases: Sequence[Basis]) -> tuple[Tensor, Tensor]:
    """Return coefficients (S, C, *modes) and the energy (S,) beside them, in their units."""
    device, unit = model.scale.device, model.scale.double() ** 2 / grid.domain.measure
    weights = grid.weights(device, torch.float64)
    coefficients, rest = [], []
    with torch.no_grad():
        for part in x.split(_CHUNK):
            part = part.to(device)
            z = model.coefficients(part, grid, bases)
            whole = (part.double().square() * weights).flatten(1).sum(1) * unit
            coefficients.append(z)
            rest.append((whole - z.double().square().flatten(1).sum(1)).clamp_min(0).to(z.dtype))
    return torch.cat(coefficients), torch.cat(rest)
