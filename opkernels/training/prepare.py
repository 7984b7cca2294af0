"""From a model and a dataset to all that a training loop needs: examples, normalization, the surrogate to be trained."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from opkernels.datasets.trajectories import Trajectories
from opkernels.domains import Domain, Whole
from opkernels.normalization import Normalization
from opkernels.sphere import Space, SpaceGrid, Sphere
from opkernels.surrogate import ParameterScaling, Surrogate
from opkernels.training.batches import Examples
from opkernels.training.regimes import Regime

__all__ = ["Prepared", "prepare", "split_samples"]


@dataclass
class Prepared:
    """What `prepare` returns.

    Parameters
    ----------
    surrogate : Surrogate
        The model with its normalization, on the device, not trained yet.
    regime : Regime
        How examples are made.
    train, validation : Examples
        The data.
    grid : Grid or SphereGrid
        Where they are sampled, and which block of them this process holds.
    scale : Tensor, (C_out,)
        Standard deviations of the output fields.
    """

    surrogate: Surrogate
    regime: Regime
    train: Examples
    validation: Examples | None
    grid: SpaceGrid
    scale: Tensor
    parameters: tuple[Tensor | None, Tensor | None]

    def split(self, example: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input (B, window * C_in, *spatial) and the frames to predict (B, F, C_out, *spatial) of stored steps."""
        fields, s = self.train.fields, self.surrogate
        inputs, outputs = ([fields.index(name) for name in names] for names in (s.inputs, s.outputs))
        given = self.regime.window
        first = -1 if self.regime.kind == "direct" else given
        return _pick(example[:, :given], inputs, 2).flatten(1, 2), _pick(example[:, first:], outputs, 2)

    def parameters_of(self, samples: np.ndarray, *, validation: bool = False) -> Tensor | None:
        """Return the physical parameters (B, P) of samples."""
        values = self.parameters[int(validation)]
        return None if values is None else values[torch.from_numpy(samples).to(values.device)]


def prepare(
    model: nn.Module,
    data: Trajectories,
    *,
    validation: Trajectories | float,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    parameters: Sequence[str] | None,
    regime: str | Regime | None,
    target: str | None,
    shifts: bool,
    dtype: torch.dtype,
    device: torch.device,
    memory: int | None,
    split: Whole,
) -> Prepared:
    """Check that everything fits together, fit the normalization on the training samples, and try the model once.

    Raises
    ------
    ValueError
        Whatever does not fit, before anything is trained or written.
    """
    train, held = _hold_out(data, validation)
    _check_domain(model, train, held)
    if split.size > 1:
        _check_split(model, train.domain, shifts)
    grid = train.grid if split.size == 1 else replace(train.grid, split=split)
    if regime is None:
        regime = "direct" if train.n_times == 1 else "one_step"
    regime = Regime(regime) if isinstance(regime, str) else regime
    offsets = regime.offsets(regime.unroll, train.n_times)
    inputs, outputs = _choose_fields(train, regime, inputs, outputs)
    fields = (*inputs, *(name for name in outputs if name not in inputs))
    if shifts and not any(axis.periodic for axis in grid.domain.axes):
        raise ValueError("shifts=True needs a periodic axis, and this domain has none; leave it out")
    names = _choose_parameters(model, train, parameters)
    scaling = ParameterScaling.fit({name: train.parameters[name] for name in names})
    examples = Examples(train, fields, dtype, device, split).cached(memory)
    states, increments = _statistics(examples.undivided(), regime, inputs, outputs, train.grid)
    target = target or ("state" if regime.kind == "direct" or not set(outputs) <= set(inputs) else "increment")
    repeated = Normalization(states[1].mean * regime.bundle, states[1].std * regime.bundle, _frames(outputs, regime.bundle))
    surrogate = Surrogate(
        model.to(device=device, dtype=dtype) if dtype is torch.float64 else model.to(device),
        train.domain,
        inputs,
        outputs,
        states[0],
        increments() if target == "increment" else repeated,
        target,
        dt=None if regime.kind == "direct" else _time_step(train, regime.stride),
        bundle=regime.bundle,
        window=regime.window,
        parameters=scaling,
        training_shape=tuple(int(n) for n in train.shape),
    )
    prepared = Prepared(
        surrogate=surrogate,
        regime=regime,
        train=examples,
        validation=None if held is None else Examples(held, fields, dtype, device, split).cached(memory),
        grid=grid,
        scale=torch.tensor(states[1].std, dtype=dtype, device=device),
        parameters=(_parameters(train, names, dtype, device), None if held is None else _parameters(held, names, dtype, device)),
    )
    _try(prepared, offsets)
    return prepared


def split_samples(n: int, shares: Sequence[float], seed: int = 0) -> list[np.ndarray]:
    """Deal samples 0 .. n-1 out by shares, shuffled with a fixed seed; a share above zero gets at least one.

    Raises
    ------
    ValueError
        If there are too few samples.
    """
    sizes = [max(1, round(share * n)) if share > 0 else 0 for share in shares]
    while sum(sizes) > n and max(sizes) > 1:
        sizes[sizes.index(max(sizes))] -= 1
    if sum(sizes) > n:
        raise ValueError(f"got {n} samples for {sum(size > 0 for size in sizes)} parts; give more samples, or set a share to 0")
    order = np.random.default_rng(seed).permutation(n)
    bounds = np.cumsum([0, *sizes])
    return [np.sort(order[a:b]) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _hold_out(data: Trajectories, validation: Trajectories | float) -> tuple[Trajectories, Trajectories | None]:
    if not isinstance(data, Trajectories):
        raise ValueError(f"fit got data of type {type(data).__name__}; make them with Trajectories.from_arrays or .from_xarray")
    if isinstance(validation, Trajectories):
        return data, validation
    if isinstance(validation, bool) or not isinstance(validation, (int, float)) or not 0 <= validation < 1:
        raise ValueError(f"fit got validation={validation!r}; give Trajectories, or a share of the samples from 0 to below 1")
    if not validation:
        return data, None
    train, held = split_samples(len(data), (1 - validation, validation))
    return data.select(train), data.select(held)


def _check_domain(model: nn.Module, train: Trajectories, held: Trajectories | None) -> None:
    domain = getattr(model, "domain", None)
    if isinstance(domain, (Domain, Sphere)) and domain != train.domain:
        raise ValueError(
            f"the model was built on the domain {_say(domain)}, but the data live on {_say(train.domain)}; build it with data.domain"
        )
    if held is not None and (held.domain != train.domain or held.shape != train.shape):
        raise ValueError(
            f"the validation data live on {_say(held.domain)} at {held.shape}, the training data on {_say(train.domain)} "
            f"at {train.shape}; give both on the same grid (Trajectories.at)"
        )


def _check_split(model: nn.Module, domain: Space, shifts: bool) -> None:
    """Refuse what needs whole fields, before any data are read."""
    if isinstance(domain, Sphere):
        raise ValueError("fields on a sphere are not split over processes; leave out distributed.domain")
    if not getattr(model, "takes_split_fields", True):
        raise ValueError(
            f"{type(model).__name__} needs whole fields; leave out distributed.domain, or take FNO, FFNO, TFNO, MGTFNO or LocalNO"
        )
    if "grid" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{type(model).__name__}.forward takes no grid, and cannot know that its field is split; leave out distributed.domain"
        )
    if shifts:
        raise ValueError("shifts=True moves samples from one process to another; leave it out, or distributed.domain")


def _say(domain: Space) -> str:
    if isinstance(domain, Sphere):
        return f"a sphere of radius {domain.radius:g} ({domain.points} points)"
    return " x ".join(
        f"{a.name} in [{a.lower:g}, {a.upper:g}] ({'periodic, ' if a.periodic else ''}{a.points} points)" for a in domain.axes
    )


def _choose_fields(
    data: Trajectories, regime: Regime, inputs: Sequence[str] | None, outputs: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    inputs = tuple(data.fields) if inputs is None else tuple(inputs)
    outputs = inputs if outputs is None else tuple(outputs)
    for role, names in (("inputs", inputs), ("outputs", outputs)):
        missing = [name for name in names if name not in data.fields]
        if missing or not names or len(set(names)) < len(names):
            raise ValueError(f"got {role} {', '.join(names) or 'none'}; the data hold the fields {', '.join(data.fields)}, each named once")
    if regime.kind == "direct" and data.n_times == 1 and set(outputs) <= set(inputs):
        raise ValueError(f"the data are stationary, and {', '.join(outputs)} would be mapped to itself; name inputs and outputs")
    return inputs, outputs


def _choose_parameters(model: nn.Module, data: Trajectories, names: Sequence[str] | None) -> tuple[str, ...]:
    wanted = getattr(model, "n_parameters", None)
    if names is None:
        names = [name for name, values in data.parameters.items() if np.ptp(values) > 0] if wanted else []
    missing = [name for name in names if name not in data.parameters]
    if missing:
        raise ValueError(f"the data have no parameter {', '.join(missing)}; they have {', '.join(data.parameters) or 'none'}")
    if wanted is not None and wanted != len(names):
        raise ValueError(f"the model takes n_parameters={wanted}, but the data give {', '.join(names) or 'none'}; make them equal")
    return tuple(names)


def _parameters(data: Trajectories, names: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    if not names:
        return None
    values = np.stack([np.asarray(data.parameters[name], dtype=np.float64) for name in names], axis=1)
    return torch.as_tensor(values).to(device=device, dtype=dtype)


def _statistics(examples: Examples, regime: Regime, inputs: Sequence[str], outputs: Sequence[str], grid: SpaceGrid):
    """Return the normalizations of the inputs and of the outputs' states, and a function that fits that of the increments."""
    direct, columns = regime.kind == "direct", {name: c for c, name in enumerate(examples.fields)}

    def steps(which: slice) -> Iterator[Tensor]:
        for _, chunk in examples.chunks():
            yield chunk[:, which]

    def part(fitted: Normalization, names: Sequence[str]) -> Normalization:
        return Normalization(tuple(fitted.mean[columns[n]] for n in names), tuple(fitted.std[columns[n]] for n in names), tuple(names))

    def fitted(which: slice) -> Normalization:
        return Normalization.fit(steps(which), names=examples.fields, grid=grid, channel_axis=2)

    first = fitted(slice(0, 1) if direct else slice(None))
    last = fitted(slice(-1, None)) if direct and examples.n_times > 1 else first

    def increments() -> Normalization:
        chosen = [columns[name] for name in outputs]

        def differences() -> Iterator[Tensor]:
            lags = [j * regime.stride for j in range(1, regime.bundle + 1)]
            for _, chunk in examples.chunks():
                u = chunk[:, :, chosen]
                n = u.shape[1] - lags[-1]
                yield torch.cat([u[:, lag : lag + n] - u[:, :n] for lag in lags], dim=2)

        return Normalization.fit(differences(), names=_frames(outputs, regime.bundle), grid=grid, channel_axis=2)

    return (part(first, inputs), part(last, outputs)), increments


def _frames(outputs: Sequence[str], bundle: int) -> tuple[str, ...]:
    return tuple(outputs) if bundle == 1 else tuple(f"{name}_{j}" for j in range(1, bundle + 1) for name in outputs)


def _time_step(data: Trajectories, stride: int) -> float:
    assert data.times is not None, "regime.offsets refuses data without times"
    gaps = np.diff(data.times)
    if not np.allclose(gaps, gaps[0], rtol=1e-4):
        raise ValueError(
            f"the times are not evenly spaced (steps from {gaps.min():g} to {gaps.max():g}), and one model step is one time step; "
            'interpolate the data in time, or train a "direct" map'
        )
    return float(stride * (data.times[-1] - data.times[0]) / len(gaps))


def _pick(x: Tensor, channels: Sequence[int], dim: int) -> Tensor:
    return x if list(channels) == list(range(x.shape[dim])) else x.index_select(dim, torch.tensor(channels).to(x.device))


def _try(prepared: Prepared, offsets: Sequence[int]) -> None:
    """Ask the model once, so that a misfit is told before anything is trained."""
    surrogate, one = prepared.surrogate, np.zeros(1, dtype=np.int64)
    x, truth = prepared.split(prepared.train.gather(one, one, offsets))
    model, training = surrogate.model, surrogate.model.training
    wanted = (1, prepared.regime.bundle * len(surrogate.outputs), *x.shape[2:])
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            y = surrogate.raw(x, prepared.parameters_of(one), grid=prepared.grid)
    except ValueError:
        raise
    except Exception as error:  # whatever the user's own code raises
        told = str(error).splitlines()[:1]
        reason = told[0] if told and isinstance(error, (RuntimeError, TypeError, IndexError)) else ": ".join([type(error).__name__, *told])
        raise ValueError(f"the model does not take the input {tuple(x.shape)} ({', '.join(surrogate.inputs)}): {reason}") from error
    finally:
        model.train(training)
    if tuple(y.shape) != wanted:
        raise ValueError(
            f"the model maps {tuple(x.shape)} to {tuple(y.shape)}; expected {wanted}: {prepared.regime.bundle} frames of "
            f"{', '.join(surrogate.outputs)}, so build it with out_channels={wanted[1]}"
        )
