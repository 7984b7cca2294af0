"""Training losses: functions ``loss(prediction, truth, grid) -> scalar`` that do not depend on the grid.

Any function of that signature can be a loss. Those with a name are found by `loss_by_name`, for
configurations.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from math import prod

from torch import Tensor

from opkernels.domains import Grid
from opkernels.metrics import rel_h1, rel_l2
from opkernels.sphere import SphereGrid

__all__ = ["Loss", "l1", "loss_by_name", "mse", "rel_h1", "rel_l2"]

Loss = Callable[[Tensor, Tensor, Grid | SphereGrid], Tensor]


def mse(prediction: Tensor, truth: Tensor, grid: Grid | SphereGrid | None = None) -> Tensor:
    """Mean square error: the mean over batch, channels and space (by quadrature) of (p - r)^2."""
    return _mean(_difference(prediction, truth) ** 2, grid)


def l1(prediction: Tensor, truth: Tensor, grid: Grid | SphereGrid | None = None) -> Tensor:
    """Mean absolute error: the mean over batch, channels and space (by quadrature) of |p - r|."""
    return _mean(_difference(prediction, truth).abs(), grid)


def loss_by_name(name: str) -> Loss:
    """Return the loss called "rel_l2", "rel_h1", "mse" or "l1".

    Raises
    ------
    ValueError
        For any other name, with the nearest one.
    """
    losses: dict[str, Loss] = {"rel_l2": rel_l2, "rel_h1": rel_h1, "mse": mse, "l1": l1}
    if name not in losses:
        near = get_close_matches(str(name), losses, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"choose one of {', '.join(losses)}"
        raise ValueError(f"got the loss {name!r}; {hint}")
    return losses[name]


def _difference(prediction: Tensor, truth: Tensor) -> Tensor:
    if prediction.shape != truth.shape:
        raise ValueError(
            f"got a prediction of shape {tuple(prediction.shape)} for a truth of shape {tuple(truth.shape)}; give equal shapes"
        )
    return prediction - truth


def _mean(values: Tensor, grid: Grid | SphereGrid | None) -> Tensor:
    if grid is None:
        return values.mean()
    if grid.uniform:
        # blocks may differ in size
        share = 1 if grid.split.size == 1 else prod(grid.sizes) / prod(grid.shape)
        return grid.split.joined(values.mean() * share).sum()
    weights = grid.weights(values.device, values.dtype)
    return grid.split.joined((values * weights).sum(tuple(range(-grid.ndim, 0))).mean() / grid.domain.measure).sum()
