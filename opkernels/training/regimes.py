"""Training regimes: which stored steps make an example, and how the model is run on it.

With states u(t), the model step S (one call of the surrogate), frames a time `dt` apart, and one frame in:

| regime      | example                         | loss compares                                           |
| ----------- | ------------------------------- | ------------------------------------------------------- |
| one_step    | u_0, u_1                        | S u_0 with u_1                                          |
| direct      | first and last stored step      | the output fields with the truth; no step in time       |
| bundled     | u_0 .. u_bundle                 | the `bundle` frames of one call with the truth          |
| unrolled    | u_0 .. u_unroll                 | S u_0, S S u_0, ... with the truth, gradients through all |
| pushforward | u_0 .. u_unroll                 | only the last, gradients through the last call alone    |

With a `window` of w > 1, w frames u_{1-w} .. u_0 take the place of u_0, each call is given the last w frames, predicted ones among
them, and an example holds w - 1 more stored steps. Increments are still added to the latest frame. How frames are stacked is said
in `opkernels.surrogate.operator`. One frame is enough where it determines what follows (flow by its vorticity); several are needed
where it does not (waves of which only the height is known, unresolved scales), and are what benchmarks of "ten frames in" expect.

Pushforward: Brandstetter, Worrall, Welling, arXiv 2202.03376, section 3.1; bundling: section 3.2.
Noise on the input: Sanchez-Gonzalez et al., arXiv 2002.09405, section 4.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opkernels.losses import Loss
from opkernels.sphere import SpaceGrid
from opkernels.surrogate import Surrogate

__all__ = ["Chain", "Regime", "training_loss"]

_DEFAULTS = {"one_step": (1, 1), "direct": (1, 1), "bundled": (1, 4), "unrolled": (4, 1), "pushforward": (2, 1)}


@dataclass(frozen=True)
class Regime:
    """How examples are made and the model is run on them.

    Parameters
    ----------
    kind : {"one_step", "direct", "bundled", "unrolled", "pushforward"}
        See the table above.
    unroll : int, optional
        Calls of the model in a chain; by default 4 when unrolled, 2 for pushforward. More cost memory
        and time in proportion, and steady long rollouts.
    bundle : int, optional
        Frames that one call predicts; by default 4 when bundled.
    stride : int
        Stored steps between frames: the model's dt is `stride` times the data's.
    noise : float
        Standard deviation of white noise on the input, relative to the field's; 0.001 to 0.03 are usual.
    curriculum : float
        Share of the epochs over which the chain grows from one call to `unroll`; 0 for all at once.
    window : int
        Frames that one call is given, the latest last; the model has so many times the input fields as `in_channels`.

    Raises
    ------
    ValueError
        For a combination that means nothing.
    """

    kind: str = "one_step"
    unroll: int = None  # type: ignore[assignment]  # filled in below
    bundle: int = None  # type: ignore[assignment]
    stride: int = 1
    noise: float = 0.0
    curriculum: float = 0.0
    window: int = 1

    def __post_init__(self):
        if self.kind not in _DEFAULTS:
            raise ValueError(f"got the regime {self.kind!r}; choose one of {', '.join(_DEFAULTS)}")
        for name, default in zip(("unroll", "bundle"), _DEFAULTS[self.kind], strict=True):
            value = getattr(self, name)
            object.__setattr__(self, name, default if value is None else value)
        for name in ("unroll", "bundle", "stride", "window"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"got {name}={value!r}; give a whole number of at least 1")
        if self.noise < 0 or not 0 <= self.curriculum <= 1:
            raise ValueError(f"got noise={self.noise:g}, curriculum={self.curriculum:g}; noise is not negative, curriculum in [0, 1]")
        if self.kind in ("one_step", "direct", "bundled") and self.unroll > 1:
            raise ValueError(f'the regime {self.kind} calls the model once, but got unroll={self.unroll}; choose "unrolled"')
        if self.kind in ("one_step", "direct") and self.bundle > 1:
            raise ValueError(f'the regime {self.kind} predicts one frame, but got bundle={self.bundle}; choose "bundled" or "unrolled"')
        if self.kind == "direct" and (self.stride > 1 or self.window > 1):
            extra = "stride" if self.stride > 1 else "window"
            raise ValueError(f"a direct map goes from the first stored step to the last and has no {extra}; leave it out")

    def unroll_at(self, epoch: int, epochs: int) -> int:
        """Return the length of the chain in epoch 0, 1, ...: it grows over the curriculum's share of the epochs."""
        growing = self.curriculum * epochs
        if epoch >= growing:
            return self.unroll
        return 1 + math.floor((self.unroll - 1) * epoch / growing)

    def offsets(self, unroll: int, n_times: int) -> list[int]:
        """Return the stored steps of an example, relative to its first: `window` frames, then those to be predicted.

        Raises
        ------
        ValueError
            If the data hold too few steps for one example.
        """
        if self.kind == "direct":
            return [0] if n_times == 1 else [0, n_times - 1]
        span = (self.window - 1 + unroll * self.bundle) * self.stride
        if span >= n_times:
            raise ValueError(
                f"the regime {self.kind} needs {span + 1} stored steps for an example (window {self.window}, then unroll {unroll} x "
                f"bundle {self.bundle}, at stride {self.stride}), but the data hold {n_times}; shorten it, or store more steps"
            )
        return list(range(0, span + 1, self.stride))


class Chain(nn.Module):
    """Several calls of a surrogate in a row, as one module: wrappers such as DDP see one forward pass for every backward pass.

    Parameters
    ----------
    surrogate : Surrogate
        What is called.
    grid : Grid or SphereGrid
        Where its fields are sampled.
    """

    def __init__(self, surrogate: Surrogate, grid: SpaceGrid):
        super().__init__()
        self.surrogate, self.grid, self.model = surrogate, grid, surrogate.model

    def forward(self, x: Tensor, parameters: Tensor | None, unroll: int, *, last_only: bool = False) -> Tensor:
        """Return the frames (B, unroll * bundle, C_out, *spatial) of a chain of calls from x (B, window * C_in, *spatial).

        With `last_only`, those of the last call (B, bundle, C_out, *spatial), with no gradient through
        the calls before it.
        """
        frames = []
        for call in range(unroll):
            more = call < unroll - 1
            with torch.set_grad_enabled(torch.is_grad_enabled() and not (last_only and more)):
                y = self.surrogate.forward(x, parameters, grid=self.grid)
            frames.append(y)
            x = self.surrogate.feed(x, y) if more else x
        return torch.cat(frames[-1:] if last_only else frames, dim=1)


def training_loss(
    chain: nn.Module,
    regime: Regime,
    unroll: int,
    x: Tensor,
    truth: Tensor,
    parameters: Tensor | None,
    *,
    loss: Loss,
    scale: Tensor,
    grid: SpaceGrid,
) -> tuple[Tensor, Tensor]:
    """Run the regime on a batch and compare with the truth.

    Parameters
    ----------
    chain : nn.Module
        A `Chain`, wrapped or not.
    x : Tensor, (B, window * C_in, *spatial)
        First frames, stacked, physical units.
    truth : Tensor, (B, F, C_out, *spatial)
        The frames that follow, F = unroll * bundle.
    parameters : Tensor, (B, P), or None
        Physical values.
    loss : function
        ``loss(prediction, truth, grid)`` on (B F, C_out, *spatial): the mean over frames and samples.
    scale : Tensor, (C_out,)
        Standard deviations of the fields, so that no field outweighs the others by its units.

    Returns
    -------
    value : Tensor, ()
    finite : Tensor of bool, (B,)
        Whether a sample's prediction is finite.
    """
    pushed = regime.kind == "pushforward"
    y = chain(x, parameters, unroll, last_only=pushed)
    truth = truth[:, -y.shape[1] :] if pushed else truth
    scale = scale.reshape(-1, *[1] * (y.ndim - 3))
    value = loss((y / scale).flatten(0, 1), (truth / scale).flatten(0, 1), grid)
    return value, y.detach().flatten(1).isfinite().all(dim=1)
