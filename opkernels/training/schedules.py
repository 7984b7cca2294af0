"""Learning rates as functions of the step: no state to save, so a resumed run continues exactly."""

from __future__ import annotations

import math

__all__ = ["learning_rate"]


def learning_rate(schedule: str, lr: float, step: int, total: int, warmup: float = 0.0) -> float:
    """Return the learning rate of step `step` (0, 1, ..., total - 1).

    Parameters
    ----------
    schedule : {"cosine", "one_cycle", "step", "constant"}
        With s = step / total after the warm-up:

        - "cosine": lr (1 + cos(pi s)) / 2, to zero (Loshchilov and Hutter, arXiv 1608.03983);
        - "one_cycle": up from lr/25 by a cosine over the first 30 %, down to lr/250000 by another
          (Smith and Topin, arXiv 1708.07120, as ``torch.optim.lr_scheduler.OneCycleLR``);
        - "step": halved four times, after each fifth of the steps;
        - "constant".
    lr : float
        The largest value.
    step, total : int
        This step and their number.
    warmup : float
        Share of the steps over which lr rises linearly first; "one_cycle" has its own.
    """
    if schedule == "one_cycle":
        return _one_cycle(lr, step, total)
    rise = round(warmup * total)
    if step < rise:
        return lr * (step + 1) / rise
    s = (step - rise) / max(1, total - rise)
    if schedule == "cosine":
        return lr * (1 + math.cos(math.pi * s)) / 2
    return lr * 0.5 ** int(5 * s) if schedule == "step" else lr


def _one_cycle(lr: float, step: int, total: int) -> float:
    def between(a: float, b: float, s: float) -> float:
        return b + (a - b) * (1 + math.cos(math.pi * s)) / 2

    top = 0.3 * total - 1
    if step <= top:
        return between(lr / 25, lr, step / top if top > 0 else 1.0)
    return between(lr, lr / 25e4, (step - top) / max(1.0, total - 1 - top))
