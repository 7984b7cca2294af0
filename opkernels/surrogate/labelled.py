"""Surrogates on `xarray.Dataset`s: coordinates checked against the domain, other dimensions carried along."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from opkernels.sphere import Space

if TYPE_CHECKING:
    import xarray

    from opkernels.surrogate.operator import Surrogate

__all__ = ["check_coordinates", "predict_dataset", "rollout_dataset"]

_TOLERANCE = 1e-4  # of the spacing: float32 coordinates pass, another resolution's do not


def predict_dataset(
    surrogate: Surrogate,
    data: xarray.Dataset,
    parameters: Mapping | Tensor | None,
    output_shape: Sequence[int] | None,
    batch_size: int | None,
) -> xarray.Dataset:
    """`Surrogate.predict` for a Dataset; extra dimensions (sample, level, ...) are carried along, and `time` where one frame is taken."""
    x, extra = _to_tensor(surrogate, data)
    p = _parameters(surrogate, data, extra, parameters, len(x))
    y = surrogate.predict(x, parameters=p, output_shape=output_shape, batch_size=batch_size)
    out = _to_dataset(surrogate, data, extra, y, None)
    if surrogate.window == 1 or "time" not in data.coords:
        return out
    assert surrogate.dt is not None
    return out.assign_coords(time=float(data["time"][-1]) + surrogate.dt)


def rollout_dataset(
    surrogate: Surrogate,
    data: xarray.Dataset,
    steps: int,
    parameters: Mapping | Tensor | None,
    batch_size: int | None,
    callback: Callable[[int, Tensor], None] | None,
) -> xarray.Dataset | None:
    """`Surrogate.rollout` for a Dataset of as many times as the surrogate takes; the answer has a dimension `time`."""
    if surrogate.window == 1 and "time" in data.dims:
        if data.sizes["time"] != 1:
            raise ValueError(f"a rollout starts from one time, but the dataset has {data.sizes['time']}; select one with .isel(time=0)")
        data = data.isel(time=0)
    x, extra = _to_tensor(surrogate, data)
    p = _parameters(surrogate, data, extra, parameters, len(x))
    if callback is not None:
        return surrogate.rollout(x, steps, parameters=p, batch_size=batch_size, callback=callback)
    y = surrogate.rollout(x, steps, parameters=p, batch_size=batch_size)
    assert surrogate.dt is not None
    start = float(data["time"].values.reshape(-1)[-1]) if "time" in data.coords else 0.0
    return _to_dataset(surrogate, data, extra, y, start + surrogate.dt * np.arange(1, steps + 1))


def check_coordinates(data: xarray.Dataset, domain: Space) -> None:
    """Refuse a dataset whose coordinates are not a grid of the domain.

    Raises
    ------
    ValueError
        Naming the first axis that is missing, has no coordinate, or has other values.
    """
    for axis in domain.axes:
        if axis.name not in data.dims:
            raise ValueError(
                f"the dataset has the dimensions {', '.join(map(str, data.dims))}, but the domain's axis {axis.name} is not among "
                "them; rename the dimension, or transpose nothing and name it"
            )
        if axis.name not in data.coords:
            raise ValueError(f"the dataset has no coordinate for {axis.name}; assign one, so that it can be checked against the domain")
        got = np.asarray(data[axis.name].values, dtype=np.float64)
        if len(got) < 2:
            raise ValueError(f"got {len(got)} samples on axis {axis.name}; a grid needs at least 2 in each direction")
        wanted = axis.coordinates(len(got), dtype=torch.float64).numpy()
        if not np.allclose(got, wanted, rtol=0, atol=_TOLERANCE * axis.spacing(len(got))):
            raise ValueError(
                f"coordinate {axis.name} of the dataset runs from {got[0]:g} to {got[-1]:g} in {len(got)} samples, but the surrogate's "
                f"domain has {wanted[0]:g} to {wanted[-1]:g} there; interpolate the data, or use a surrogate trained on their domain"
            )


def _to_tensor(surrogate: Surrogate, data: xarray.Dataset) -> tuple[Tensor, tuple]:
    """Return (B, window * C, *spatial) and the other dimensions, which B runs over."""
    import xarray as xr

    if not isinstance(data, xr.Dataset):
        raise ValueError(
            f"got a {type(data).__name__}; give a tensor (B, C, *spatial), as torch.from_numpy(x) makes of an array, or an xarray.Dataset"
        )
    missing = [name for name in surrogate.inputs if name not in data]
    if missing:
        raise ValueError(f"the dataset has no field {', '.join(missing)}; it has {', '.join(map(str, data.data_vars)) or 'none'}")
    fields = xr.broadcast(*(data[name] for name in surrogate.inputs))
    check_coordinates(fields[0].to_dataset(name="field"), surrogate.domain)
    spatial, stacked = surrogate.domain.names, ("time",) if surrogate.window > 1 else ()
    if stacked:
        _check_times(surrogate, fields[0])
    extra = tuple(name for name in fields[0].dims if name not in (*stacked, *spatial))
    arrays = [np.asarray(f.transpose(*extra, *stacked, *spatial).values) for f in fields]
    kind = np.result_type(*arrays, np.float32)
    x = torch.stack([torch.from_numpy(np.array(a, dtype=kind, order="C")) for a in arrays], dim=len(extra) + len(stacked))
    return x.reshape(-1, surrogate.in_channels, *x.shape[-len(spatial) :]), extra


def _check_times(surrogate: Surrogate, field: xarray.DataArray) -> None:
    """Refuse a field that has not as many times as the surrogate takes, or not its `dt` apart."""
    n, window, dt = field.sizes.get("time", 0), surrogate.window, surrogate.dt
    assert dt is not None, "a direct map takes one frame"
    if n != window:
        raise ValueError(
            f"the surrogate takes {window} frames, but the dataset has {n or 'no'} times; select so many with .isel(time=slice({window}))"
        )
    times = field["time"].values if "time" in field.coords else np.zeros(0)
    if np.issubdtype(times.dtype, np.number) and not np.allclose(np.diff(times), dt, rtol=1e-3):
        gaps = ", ".join(dict.fromkeys(f"{gap:.4g}" for gap in np.diff(times)))
        raise ValueError(f"the times of the dataset are {gaps} apart, but the surrogate takes frames {dt:g} apart; select those, in order")


def _parameters(surrogate: Surrogate, data: xarray.Dataset, extra: tuple, given: Mapping | Tensor | None, batch: int):
    import xarray as xr

    if given is not None or not surrogate.parameter_names:
        return given
    sizes = {name: data.sizes[name] for name in extra}
    columns = {}
    for name in surrogate.parameter_names:
        if name not in data:
            raise ValueError(f"the dataset has no parameter {name}, and none was given; add the variable, or pass parameters=")
        frame = xr.DataArray(np.zeros(tuple(sizes.values())), dims=extra)
        values = xr.broadcast(data[name].drop_vars(list(data[name].coords)), frame)[0].transpose(*extra)
        columns[name] = torch.as_tensor(np.array(values.values, dtype=np.float64).reshape(batch))
    return columns


def _to_dataset(surrogate: Surrogate, data: xarray.Dataset, extra: tuple, y: Tensor, times: np.ndarray | None) -> xarray.Dataset:
    """Undo `_to_tensor` for y (B, C, *spatial), or (B, T, C, *spatial) with `times`."""
    import xarray as xr

    domain = surrogate.domain
    sizes = [data.sizes[name] for name in extra]
    shape = y.shape[-domain.ndim :]
    assert math.prod(sizes) == len(y)
    array = y.reshape(*sizes, *y.shape[1:]).numpy()
    dims = (*extra, *(() if times is None else ("time",)), *domain.names)
    values = {name: (dims, np.take(array, c, axis=array.ndim - domain.ndim - 1)) for c, name in enumerate(surrogate.outputs)}
    coords = {a.name: a.coordinates(n, dtype=torch.float64).numpy() for a, n in zip(domain.axes, shape, strict=True)}
    coords |= {name: data[name] for name in extra if name in data.coords}
    if times is not None:
        coords["time"] = times
    out = xr.Dataset(values, coords=coords)
    for name in (*surrogate.outputs, *domain.names):
        if name in data:
            out[name].attrs.update(data[name].attrs)
    return out
