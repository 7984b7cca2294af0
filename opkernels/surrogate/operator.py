"""A trained operator: the model with its domain, normalization, field names and time step; asked and rolled out.

With states u on the domain, `window` = w frames in, U_0 = (u_{1-w}, ..., u_{-1}, u_0), the input
normalization N, the output normalization M and the model G,

    target "increment":   u_{j} = u_0 + M^-1( G(N(U_0)) )_j       j = 1 .. bundle, times t_0 + j dt
    target "state":       u_{j} = M^-1( G(N(U_0)) )_j

and a rollout feeds the last w frames back, its own answers among them. The frames of an input are
stacked along the channels, the oldest first and the latest last, all fields of one frame together:
for fields a, b and w = 2 the channels are a_{-1}, b_{-1}, a_0, b_0. Every frame holds every input
field, also those that are not predicted (a coefficient, a forcing): in a rollout these keep their
latest values. N is one number per field, the same in all frames. For a map that is not a step in time
(coefficient to solution) `dt` is None. Everything outside `forward` is in physical units.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from torch import Tensor, nn

from opkernels.normalization import Normalization
from opkernels.resample import resample
from opkernels.sphere import Space, SpaceGrid, Sphere

if TYPE_CHECKING:
    import xarray

__all__ = ["ParameterScaling", "Surrogate", "call_model"]

_TILE_POINTS = 2**20  # samples x grid points handed to the model at once, unless the caller says


@dataclass(frozen=True)
class ParameterScaling:
    """Per-sample numbers (viscosity, ...) as the model sees them: (log p or p, minus mean) / std.

    Parameters
    ----------
    names : tuple of str
        The parameters, in the order of the columns.
    logarithmic : tuple of bool
        Whether the logarithm is taken first: good for positive parameters over a decade or more.
    mean, std : tuple of float
        Of the (logarithms of the) values.
    """

    names: tuple[str, ...] = ()
    logarithmic: tuple[bool, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def fit(cls, values: Mapping[str, Sequence[float] | np.ndarray]) -> ParameterScaling:
        """Return the scaling of the training set's values, name -> (N,); logarithmic where max > 3 min > 0."""
        logarithmic, mean, std = [], [], []
        for column in values.values():
            p = torch.as_tensor(column, dtype=torch.float64)
            logarithmic.append(bool(p.min() > 0 and p.max() > 3 * p.min()))
            p = p.log() if logarithmic[-1] else p
            mean.append(float(p.mean()))
            spread = float(p.std(correction=0))
            std.append(spread if spread > 1e-12 * max(1.0, abs(mean[-1])) else 1.0)
        return cls(tuple(values), tuple(logarithmic), tuple(mean), tuple(std))

    def apply(self, parameters: Tensor) -> Tensor:
        """Return the scaled values (B, P) of physical ones (B, P)."""
        columns = []
        for a, logarithmic in enumerate(self.logarithmic):
            p = parameters[:, a]
            columns.append(((p.log() if logarithmic else p) - self.mean[a]) / self.std[a])
        return torch.stack(columns, dim=1)


@functools.lru_cache(maxsize=256)
def _accepted(model: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(model.forward).parameters)


def call_model(model: nn.Module, x: Tensor, parameters: Tensor | None, grid: SpaceGrid, output_shape: Sequence[int] | None) -> Tensor:
    """Call any module: those of this package with all they take, others with what their `forward` names.

    A module that does not take `grid` is asked on the grid of x, and its output resampled.
    """
    accepted = _accepted(type(model))
    options = {}
    if parameters is not None:
        if "parameters" not in accepted:
            raise ValueError(f"{type(model).__name__}.forward takes no parameters, but the surrogate has some; choose data.parameters: []")
        options["parameters"] = parameters
    if "grid" in accepted:
        return model(x, grid=grid, output_shape=None if output_shape is None else tuple(output_shape), **options)
    y = model(x, **options)
    return y if output_shape is None else resample(y, grid, tuple(output_shape))


@dataclass(eq=False, repr=False)
class Surrogate:
    """A trained operator and all that is needed to ask it in physical units.

    Parameters
    ----------
    model : nn.Module
        Maps (B, window * C_in, *spatial) to (B, bundle * C_out, *spatial), both normalized.
    domain : Domain or Sphere
        Where the fields live.
    inputs, outputs : tuple of str
        Names of the fields of one frame: C_in and C_out of them.
    normalization : Normalization
        Of the C_in input fields.
    output_normalization : Normalization
        Of what the model predicts: bundle * C_out channels, frame by frame.
    target : {"state", "increment"}
        Whether the model predicts the fields or what is to be added to them.
    dt : float, optional
        Time between frames; None for a map that is no step in time.
    bundle : int
        Frames that one call of the model predicts.
    window : int
        Frames that one call of the model is given, `dt` apart.
    parameters : ParameterScaling
        Names and scaling of the per-sample parameters; by default there are none.
    training_shape : tuple of int, optional
        The resolution the model was trained at.
    notes : dict
        Plain data kept in the file: seed, epochs, versions, provenance.

    Examples
    --------
    >>> from opkernels import Domain
    >>> from opkernels.models import UNet
    >>> domain = Domain.periodic(1.0, 1.0)
    >>> one = Normalization(mean=(0.0,), std=(1.0,), names=("w",))
    >>> surrogate = Surrogate(UNet(domain, 1, 1, hidden_channels=4, n_layers=2), domain, ("w",), ("w",), one, one, dt=0.1)
    >>> surrogate.rollout(torch.zeros(2, 1, 16, 24), 3).shape
    torch.Size([2, 3, 1, 16, 24])
    """

    model: nn.Module
    domain: Space
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    normalization: Normalization
    output_normalization: Normalization
    target: str = "state"
    dt: float | None = None
    bundle: int = 1
    window: int = 1
    parameters: ParameterScaling = field(default_factory=ParameterScaling)
    training_shape: tuple[int, ...] | None = None
    notes: dict = field(default_factory=dict)

    def __post_init__(self):
        self.inputs, self.outputs = tuple(self.inputs), tuple(self.outputs)
        if self.target not in ("state", "increment"):
            raise ValueError(f'a surrogate got target={self.target!r}; choose "state" or "increment"')
        if self.window > 1 and self.dt is None:
            raise ValueError(f"a surrogate got window={self.window} without dt; a direct map takes one frame, a step in time has a dt")
        missing = [name for name in self.outputs if name not in self.inputs]
        if missing and (self.target == "increment" or self.dt is not None):
            raise ValueError(
                f"the outputs {', '.join(missing)} are not among the inputs {', '.join(self.inputs)}, so that there is nothing "
                'to step from; add them to the inputs, or train the direct map with target "state"'
            )
        self._slots = [] if missing else [self.inputs.index(name) for name in self.outputs]

    def __repr__(self) -> str:
        """Return the surrogate in a few lines: model, fields, step, domain, resolution of the training."""
        weights = sum(p.numel() for p in self.model.parameters())
        after = "a direct map" if self.dt is None else f"one step of {self.dt:g}"
        trained = "" if self.training_shape is None else f", trained at {'x'.join(map(str, self.training_shape))}"
        told = [
            f"{type(self.model).__name__} of {weights:,} weights{trained}, {after}",
            f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}" + (f" ({self.window} frames in)" if self.window > 1 else ""),
            *([f"parameters: {', '.join(self.parameter_names)}"] if self.parameter_names else []),
            f"on a sphere of radius {self.domain.radius:g}"
            if isinstance(self.domain, Sphere)
            else f"on {' x '.join(f'{length:g}' for length in self.domain.extent)}",
        ]
        return "Surrogate(\n  " + "\n  ".join(told) + "\n)"

    @property
    def in_channels(self) -> int:
        """Channels of an input: `window` frames of all input fields."""
        return self.window * len(self.inputs)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the per-sample parameters."""
        return self.parameters.names

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Real precision of the weights."""
        kind = next((p.dtype for p in self.model.parameters() if p.is_floating_point() or p.is_complex()), torch.float32)
        return torch.empty(0, dtype=kind).real.dtype if kind.is_complex else kind

    def to(self, *args, **kwargs) -> Surrogate:
        """Move the weights in place (as ``torch.nn.Module.to`` does) and return the surrogate."""
        self.model.to(*args, **kwargs)
        return self

    def forward(
        self, x: Tensor, parameters: Tensor | None = None, *, grid: SpaceGrid | None = None, output_shape: Sequence[int] | None = None
    ) -> Tensor:
        """Return all frames of one call of the model, differentiably: training and inverse problems use this.

        Parameters
        ----------
        x : Tensor, (B, window * C_in, *spatial)
            Input frames in physical units, the latest last, on the model's device and in its dtype.
        parameters : Tensor, (B, P), optional
            Physical values, in the order of `parameter_names`.
        grid : Grid or SphereGrid, optional
            Where x is sampled; by default ``domain.grid_of(x)``.
        output_shape : sequence of int, optional
            Where the answer is wanted; by default the shape of x.

        Returns
        -------
        Tensor, (B, bundle, C_out, *spatial)
            Physical units.
        """
        grid = grid or self.domain.grid_of(x)
        y = self.raw(x, parameters, grid=grid, output_shape=output_shape)
        y = self.output_normalization.invert(y.to(x.dtype)).unflatten(1, (self.bundle, len(self.outputs)))
        if self.target == "increment":
            base = self.frames(x)[:, -1][:, self._slots]
            y = y + (base if output_shape is None else resample(base, grid, tuple(output_shape)))[:, None]
        return y

    def raw(
        self, x: Tensor, parameters: Tensor | None = None, *, grid: SpaceGrid | None = None, output_shape: Sequence[int] | None = None
    ) -> Tensor:
        """Return what the model itself answers (B, bundle * C_out, *spatial), normalized, for physical x and parameters."""
        grid = grid or self.domain.grid_of(x)
        parameters = None if parameters is None else self.parameters.apply(parameters)
        normalized = self.normalization.apply(self.frames(x), channel_axis=2).flatten(1, 2)
        return call_model(self.model, normalized, parameters, grid, output_shape)

    def frames(self, x: Tensor) -> Tensor:
        """Return the frames (B, window, C_in, *spatial) of an input (B, window * C_in, *spatial), the latest last.

        Raises
        ------
        ValueError
            If x has another number of channels.
        """
        if x.shape[1] != self.in_channels:
            names = ", ".join(self.inputs)
            wanted = names if self.window == 1 else f"{self.window} frames of {names}, stacked, the latest last"
            raise ValueError(f"got {x.shape[1]} channels; expected {self.in_channels}: {wanted}")
        return x.unflatten(1, (self.window, len(self.inputs)))

    def feed(self, x: Tensor, predicted: Tensor) -> Tensor:
        """Return the next input (B, window * C_in, *spatial): the last frames of `x` and then of `predicted` (B, F, C_out, *spatial)."""
        latest = x[:, -len(self.inputs) :]
        new = [self._completed(latest, frame) for frame in predicted[:, -self.window :].unbind(1)]
        kept = x[:, len(new) * len(self.inputs) :]
        return torch.cat([kept, *new], dim=1) if kept.shape[1] or len(new) > 1 else new[0]

    def _completed(self, latest: Tensor, frame: Tensor) -> Tensor:
        """Return all input fields (B, C_in, *spatial): those of a predicted frame (B, C_out, *spatial), the others as they were."""
        if self._slots == list(range(len(self.inputs))):
            return frame
        channels = list(latest.unbind(1))
        for slot, channel in zip(self._slots, frame.unbind(1), strict=True):
            channels[slot] = channel
        return torch.stack(channels, dim=1)

    @overload
    def predict(
        self,
        x: Tensor,
        *,
        parameters: Tensor | Mapping | None = ...,
        output_shape: Sequence[int] | None = ...,
        batch_size: int | None = ...,
    ) -> Tensor: ...

    @overload
    def predict(
        self,
        x: xarray.Dataset,
        *,
        parameters: Tensor | Mapping | None = ...,
        output_shape: Sequence[int] | None = ...,
        batch_size: int | None = ...,
    ) -> xarray.Dataset: ...

    def predict(
        self,
        x: Tensor | xarray.Dataset,
        *,
        parameters: Tensor | Mapping | None = None,
        output_shape: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> Tensor | xarray.Dataset:
        """Return the fields one frame later (for a direct map: the output fields).

        Parameters
        ----------
        x : Tensor, (B, window * C_in, *spatial), or xarray.Dataset
            Physical units, any resolution, device and dtype. Several frames are stacked, the oldest
            first and the latest last, the fields of a frame together. A Dataset holds the input fields
            with a dimension and a coordinate per axis of the domain; other dimensions are carried
            along. Where `window` is above 1, its dimension `time` holds so many times, `dt` apart, and
            a field without `time` (a coefficient) stands for all of them.
        parameters : Tensor (B, P), or mapping of name to number or (B,), optional
            Per-sample parameters. A Dataset may hold them as variables instead.
        output_shape : sequence of int, optional
            The resolution of the answer; by default that of x.
        batch_size : int, optional
            Samples handed to the model at once; by default what keeps 2^20 grid points in flight.

        Returns
        -------
        Tensor, (B, C_out, *spatial), or xarray.Dataset
            Where x was (device, dtype, dimensions).

        Raises
        ------
        ValueError
            If fields, coordinates, channels or parameters do not fit, or the input is not finite.
        """
        if not isinstance(x, Tensor):
            from opkernels.surrogate.labelled import predict_dataset

            return predict_dataset(self, x, parameters, output_shape, batch_size)
        parameters = self.parameter_tensor(parameters, len(x))
        grid = self._check(x)
        tiles = self._tiles(x, parameters, grid, output_shape, batch_size)
        return torch.cat([frames[:, 0].to(device=x.device, dtype=x.dtype) for frames in tiles])

    def iterate(self, x: Tensor, *, parameters: Tensor | Mapping | None = None, batch_size: int | None = None) -> Iterator[Tensor]:
        """Yield the frames (B, C_out, *spatial) after x one by one, without end; memory does not grow.

        Parameters as in `rollout`. The model's mode (train, eval) is restored between frames.
        """
        self._require_step()
        parameters = self.parameter_tensor(parameters, len(x))
        grid = self._check(x)
        kind = {"device": x.device, "dtype": x.dtype}
        state = x.to(torch.promote_types(x.dtype, self.dtype))
        while True:
            frames = torch.cat([tile.to(x.device) for tile in self._tiles(state, parameters, grid, None, batch_size)])
            for frame in frames.unbind(1):
                yield frame.to(**kind)
            state = self.feed(state, frames)

    @overload
    def rollout(
        self, x: Tensor, steps: int, *, parameters: Tensor | Mapping | None = ..., batch_size: int | None = ..., callback: None = ...
    ) -> Tensor: ...

    @overload
    def rollout(
        self,
        x: xarray.Dataset,
        steps: int,
        *,
        parameters: Tensor | Mapping | None = ...,
        batch_size: int | None = ...,
        callback: None = ...,
    ) -> xarray.Dataset: ...

    @overload
    def rollout(
        self,
        x: Tensor | xarray.Dataset,
        steps: int,
        *,
        parameters: Tensor | Mapping | None = ...,
        batch_size: int | None = ...,
        callback: Callable[[int, Tensor], None],
    ) -> None: ...

    def rollout(
        self,
        x: Tensor | xarray.Dataset,
        steps: int,
        *,
        parameters: Tensor | Mapping | None = None,
        batch_size: int | None = None,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor | xarray.Dataset | None:
        """Return `steps` frames, each predicted from the `window` frames before it.

        Parameters
        ----------
        x : Tensor, (B, window * C_in, *spatial), or xarray.Dataset
            The first state, or the first `window` of them, as in `predict`; a Dataset holds so many times.
        steps : int
            Number of frames.
        parameters, batch_size
            As in `predict`.
        callback : callable, optional
            Called with the number of the frame (1 to steps) and the frame (B, C_out, *spatial); then
            nothing is kept and None returned, so that memory does not grow with `steps`.

        Returns
        -------
        Tensor, (B, steps, C_out, *spatial), or xarray.Dataset with a dimension `time`, or None
            Frames at t_0 + dt, t_0 + 2 dt, ..., where t_0 is the time of the latest frame given.

        Raises
        ------
        ValueError
            If `steps` is not positive, or the surrogate is a direct map.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"rollout got steps={steps!r}; give a whole number of at least 1")
        self._require_step()
        if not isinstance(x, Tensor):
            from opkernels.surrogate.labelled import rollout_dataset

            return rollout_dataset(self, x, steps, parameters, batch_size, callback)
        frames = self.iterate(x, parameters=parameters, batch_size=batch_size)
        if callback is not None:
            for step in range(1, steps + 1):
                callback(step, next(frames))
            return None
        first = next(frames)
        out = first.new_empty(len(x), steps, *first.shape[1:])
        out[:, 0] = first
        for step in range(1, steps):
            out[:, step] = next(frames)
        return out

    def parameter_tensor(self, parameters: Tensor | Mapping | None, batch: int) -> Tensor | None:
        """Return per-sample parameters as a tensor (B, P) in the order of `parameter_names`, or None if there are none."""
        names = self.parameter_names
        if not names:
            if parameters is not None and len(parameters):
                raise ValueError("got parameters, but this surrogate was trained without; leave them out")
            return None
        if isinstance(parameters, Mapping):
            if set(parameters) != set(names):
                raise ValueError(f"got the parameters {', '.join(map(str, parameters))}; expected {', '.join(names)}")
            columns = [torch.as_tensor(parameters[name], dtype=torch.float64).expand(batch) for name in names]
            parameters = torch.stack(columns, dim=1)
        if parameters is None or tuple(parameters.shape) != (batch, len(names)):
            got = "none" if parameters is None else f"shape {tuple(parameters.shape)}"
            raise ValueError(f"got parameters: {got}; expected ({batch}, {len(names)}), the values of {', '.join(names)}")
        return parameters

    def _require_step(self) -> None:
        if self.dt is None:
            raise ValueError("this surrogate is a direct map, not a step in time, and cannot be rolled out; use predict")

    def _check(self, x: Tensor) -> SpaceGrid:
        grid = self.domain.grid_of(x)
        frames = self.frames(x)
        if not len(x):
            raise ValueError("got no samples; give a batch of at least one")
        if not x.is_floating_point():
            raise ValueError(f"got fields of type {x.dtype}; give floating-point numbers")
        finite = torch.isfinite(frames).flatten(3).all(3)
        if not finite.all():
            sample, frame, channel = (~finite).nonzero()[0].tolist()
            where = f"sample {sample}" if self.window == 1 else f"frame {frame + 1} of sample {sample}"
            raise ValueError(f"the input is not finite in field {self.inputs[channel]} of {where}; mend or leave out that sample")
        return grid

    def _tiles(
        self, x: Tensor, parameters: Tensor | None, grid: SpaceGrid, output_shape: Sequence[int] | None, batch_size: int | None
    ) -> Iterator[Tensor]:
        points = max(x[0, 0].numel(), math.prod(output_shape or ()))
        size = batch_size or max(1, _TILE_POINTS // points)
        kind = {"device": self.device, "dtype": self.dtype}
        for start in range(0, len(x), size):
            p = None if parameters is None else parameters[start : start + size].to(**kind)
            training = self.model.training
            self.model.eval()
            try:
                with torch.no_grad():
                    frames = self.forward(x[start : start + size].to(**kind), p, grid=grid, output_shape=output_shape)
            finally:
                self.model.train(training)
            yield frames
