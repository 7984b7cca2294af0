"""The bridge to xarray: CF coordinates to a domain and back."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import torch

from opkernels.datasets.fields import Field
from opkernels.datasets.restriction import with_rule
from opkernels.datasets.store import Header, axis_attributes, axis_letters, axis_units, check_times, time_attributes
from opkernels.domains import Axis, Domain
from opkernels.sphere import Sphere, domain_from_dict

__all__ = ["make_dataset", "read_dataset"]


def make_dataset(header: Header, fields: Mapping[str, Field]):
    """Return the ``xarray.Dataset`` of a header and its fields; see `Trajectories.to_xarray`."""
    import xarray

    samples = np.arange(header.samples)
    coordinates: dict = {"sample": ("sample", samples, {"long_name": "number of the trajectory"})}
    if header.times is not None:
        coordinates["time"] = ("time", header.times, time_attributes(header.times))
    units = axis_units(header.domain)
    for axis, n, letter in zip(header.domain.axes, header.shape, axis_letters(header.domain), strict=True):
        places = axis.coordinates(n, dtype=torch.float64).numpy()
        coordinates[axis.name] = (axis.name, places, axis_attributes(axis, n, letter, units))
    for name, values in header.parameters.items():
        coordinates[name] = ("sample", values)
    variables = {name: (header.dims(name), np.asarray(field), field.attributes) for name, field in fields.items()}
    return xarray.Dataset(variables, coordinates, {**header.attributes, "domain": json.dumps(header.domain.to_dict())})


def read_dataset(dataset, domain: Domain | Sphere | None, sample: str, time: str) -> tuple:
    """Return domain, fields, times, parameters and attributes of a dataset; see `Trajectories.from_xarray`."""
    dataset = _dataset_of(dataset)
    domain = domain or _sphere_of(dataset)
    spatial = domain.names if domain else _spatial_dims(dataset, sample, time)
    absent = [name for name in spatial if name not in dataset.sizes]
    if absent:
        found = ", ".join(str(dim) for dim in dataset.sizes if dim not in (sample, time))
        raise ValueError(f"the domain has the axes {', '.join(spatial)}, but the dataset the dimensions {found}; give them the same names")
    wide = {name: var for name, var in dataset.data_vars.items() if set(spatial) <= set(var.dims)}
    domain = domain or Domain(tuple(_axis_of(dataset, name) for name in spatial))
    times = _times_of(dataset, time) if time in dataset.sizes else None
    shape = tuple(dataset.sizes[name] for name in spatial)
    _check_coordinates(dataset, domain, shape)
    fields, samples = {}, dataset.sizes.get(sample, 1)
    for name, var in wide.items():
        var = var if sample in var.dims else var.expand_dims(sample)
        dims = (sample, *([time] if time in var.dims else []), *spatial)
        if set(var.dims) != set(dims):
            raise ValueError(f"{name} has the dimensions {var.dims}; expected ({sample}, {time}, {', '.join(spatial)})")
        if var.dtype.kind not in "fiub":
            raise ValueError(f"got {name} of type {var.dtype}; give real numbers (complex fields as two real ones)")
        attributes = with_rule({k: v for k, v in var.attrs.items() if isinstance(v, str)}, domain)
        fields[str(name)] = Field(var.transpose(*dims).variable, np.arange(samples), domain.grid(*shape), shape, time in dims, attributes)
    flat = {**dataset.data_vars, **dataset.coords}
    parameters = {str(n): v.values for n, v in flat.items() if v.dims == (sample,) and n != sample and v.dtype.kind in "fiub"}
    lost = [str(name) for name, var in dataset.data_vars.items() if name not in fields and name not in parameters]
    if lost:
        raise ValueError(f"{', '.join(lost)} is on neither ({sample}, {time}, {', '.join(spatial)}) nor ({sample}); drop it with drop_vars")
    attributes = {k: v for k, v in dataset.attrs.items() if k not in ("domain", "opkernels_schema")}
    return domain, fields, times, parameters, attributes


def _dataset_of(dataset):
    """Return an ``xarray.Dataset`` as it is and a named ``xarray.DataArray`` as one; refuse anything else."""
    import xarray

    if isinstance(dataset, xarray.DataArray):
        if dataset.name is None:
            raise ValueError("got an xarray.DataArray without a name; name the field with rename('u')")
        return dataset.to_dataset(promote_attrs=False)
    if not isinstance(dataset, xarray.Dataset):
        raise ValueError(f"got {type(dataset).__name__}; give an xarray.Dataset, or arrays to Trajectories.from_arrays")
    return dataset


def _spatial_dims(dataset, sample: str, time: str) -> tuple[str, ...]:
    """Return the spatial dimensions of a dataset: those of its largest variable but sample and time."""
    widest = max(dataset.data_vars.values(), key=lambda var: var.ndim, default=None)
    if widest is None:
        raise ValueError("got an xarray.Dataset without variables; give at least one field")
    return tuple(str(dim) for dim in widest.dims if dim not in (sample, time))


def _sphere_of(dataset) -> Sphere | None:
    """Return the sphere that `make_dataset` has written among the attributes, if any."""
    try:
        domain = domain_from_dict(json.loads(dataset.attrs["domain"]))
    except (KeyError, TypeError, ValueError):
        return None
    return domain if isinstance(domain, Sphere) else None


def _axis_of(dataset, name: str) -> Axis:
    """Make the axis that the attributes of a coordinate describe, or demand a domain."""
    attributes = dataset[name].attrs if name in dataset.coords else {}
    if not {"domain_min", "domain_max", "boundary_condition"} <= set(attributes):
        raise ValueError(
            f"the coordinate {name} does not say how far the domain reaches and whether it is periodic; "
            "pass domain=, or set its attributes domain_min, domain_max and boundary_condition"
        )
    periodic = attributes["boundary_condition"] == "periodic"
    position = str(attributes.get("position", "node" if periodic else "cell"))
    position = "cell" if position == "cell_center" else position
    return Axis(float(attributes["domain_min"]), float(attributes["domain_max"]), periodic=periodic, points=position, name=name)


def _times_of(dataset, time: str) -> np.ndarray:
    if time not in dataset.coords:
        return np.arange(dataset.sizes[time], dtype=np.float64)
    values = dataset[time].values
    if values.dtype.kind == "M":
        values = (values - values[0]) / np.timedelta64(1, "s")
    elif values.dtype.kind == "m":
        values = values / np.timedelta64(1, "s")
    return check_times(values)


def _check_coordinates(dataset, domain: Domain | Sphere, shape: tuple[int, ...]) -> None:
    """Refuse coordinates that are not where the samples of the domain sit."""
    for axis, n in zip(domain.axes, shape, strict=True):
        if axis.name not in dataset.coords:
            continue
        if dataset[axis.name].dtype.kind not in "fiu":
            raise ValueError(f"the coordinate {axis.name} is of type {dataset[axis.name].dtype}; give the places of the samples as numbers")
        given, expected = dataset[axis.name].values, axis.coordinates(n, dtype=torch.float64).numpy()
        if not np.allclose(given, expected, rtol=0, atol=1e-4 * axis.spacing(n)):
            raise ValueError(
                f'the coordinate {axis.name} runs from {given[0]:g} to {given[-1]:g}, but "{axis.points}" samples of '
                f"[{axis.lower:g}, {axis.upper:g}] from {expected[0]:g} to {expected[-1]:g}; correct the domain or its points"
            )
