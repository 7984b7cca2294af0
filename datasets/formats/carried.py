"""What another format has no word for, kept in its files as one JSON text, and what ours has none for, kept in ours.

A file written here in another format says, under the name "opkernels", which domain, times, field names and notes it came
with; other programs pass it over. In return the native file keeps, as an attribute named after the format, what a file
needs to be written again bit for bit: its attributes, coordinates and names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from opkernels.datasets import store
from opkernels.datasets.fields import Field
from opkernels.datasets.formats.places import close
from opkernels.datasets.restriction import with_rule
from opkernels.datasets.trajectories import Trajectories
from opkernels.domains import Axis, Domain
from opkernels.sphere import Sphere, domain_from_dict

__all__ = ["KEY", "Carried", "Origin", "assemble", "blocks", "coordinates_of", "pack", "pack_value", "remembered", "unpack", "unpack_value"]

KEY = "opkernels"
REMEMBERED = ("assumed", "fno_mat", "neuralop", "pdearena", "pdebench", "the_well")  # attributes of our files on foreign ones
_BLOCK = 1 << 25  # bytes that a conversion holds at once


@dataclass(frozen=True)
class Carried:
    """What a text under the name "opkernels" says; empty where there is none."""

    domain: Domain | Sphere | None = None
    times: np.ndarray | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def names(self, given: list[str]) -> list[str]:
        """Return the names that fields had, where there are as many as in `given`; else those."""
        return list(self.fields) if len(self.fields) == len(given) else given


def pack(data: Trajectories) -> str:
    """Return a dataset's domain, times, names and notes as a JSON text; refuse a sphere, which no other format here holds."""
    if not isinstance(data.domain, Domain):
        raise ValueError("got data on a sphere, but other formats hold boxes only; write a native file")
    told = {
        "domain": data.domain.to_dict(),
        "times": None if data.times is None else data.times.tolist(),
        "attributes": {key: store.plain(value) for key, value in data.attributes.items() if key not in REMEMBERED},
        "fields": {name: field.attributes for name, field in data.fields.items()},
    }
    return json.dumps(told)


def unpack(text) -> Carried:
    """Return what `pack` wrote; a text that is damaged or of another kind says nothing."""
    try:
        told = json.loads(store.plain(text))
        domain = domain_from_dict(told["domain"])
        times = None if told["times"] is None else store.check_times(told["times"])
        attributes = {str(k): v for k, v in told["attributes"].items() if isinstance(v, (str, int, float, list))}
        fields = {str(n): {str(k): v for k, v in a.items() if isinstance(v, str)} for n, a in told["fields"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UnicodeDecodeError):
        return Carried()
    return Carried(domain, times, attributes, fields)


@dataclass(frozen=True)
class Origin:
    """Where a dataset was read from.

    Parameters
    ----------
    path : Path
    kind : str
        Name of the format, and of the attribute that keeps `told`.
    told : dict
        Plain data from which the file can be written again bit for bit.
    carried : Carried
        What the file carries of ours.
    assumed : sequence of str
        What the file did not say.
    trusted : bool
        Whether the domain that the file carries goes before the one that was read from its numbers.
    """

    path: Path
    kind: str
    told: Mapping[str, Any]
    carried: Carried = Carried()
    assumed: Sequence[str] = ()
    trusted: bool = True

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the dataset."""
        own = {"title": self.path.stem, **self.carried.attributes, self.kind: json.dumps(self.told)}
        return own | ({"assumed": "; ".join(self.assumed)} if self.assumed else {})


def assemble(
    arrays: Mapping[str, Any], domain: Domain | Sphere, times: np.ndarray | None, parameters: Mapping[str, np.ndarray], origin: Origin
) -> Trajectories:
    """Return the dataset of lazy arrays (sample, [time,] *space) as a reader found them.

    What the file carries of ours goes before what was guessed of its numbers, where the two agree up to float32.
    """
    carried, times = origin.carried, None if times is None else store.check_times(times)
    if origin.trusted and carried.domain is not None and carried.domain.ndim == domain.ndim:
        domain = carried.domain
    if times is not None and carried.times is not None and carried.times.shape == times.shape:
        near = np.allclose(times, carried.times, rtol=0, atol=1e-6 * float(np.abs(times).max()))
        times = carried.times if near else times
    if set(carried.fields) == set(arrays):
        arrays = {name: arrays[name] for name in carried.fields}
    first = next(iter(arrays.values()))
    shape = tuple(first.shape[-domain.ndim :])
    grid, rows = domain.grid(*shape), np.arange(len(first))
    fields = {}
    for name, array in arrays.items():
        evolving = len(array.shape) == domain.ndim + 2
        fields[name] = Field(array, rows, grid, shape, evolving, with_rule(carried.fields.get(name, {}), domain))
    data = Trajectories(domain, fields, times, parameters, origin.attributes())
    data.header()  # refuses names given twice
    return data


def blocks(field: Field, row: int):
    """Yield (steps, numbers) of one sample of a field, about 32 MiB at a time; steps is empty where it has no time axis."""
    if not field.evolving:
        yield (), field[row]
        return
    frame = max(1, int(np.prod(field.spatial)) * field.dtype.itemsize)
    count = max(1, _BLOCK // frame)
    for start in range(0, field.shape[1], count):
        steps = slice(start, min(start + count, field.shape[1]))
        yield (steps,), field.block(row, steps)


def remembered(data: Trajectories, kind: str) -> dict:
    """Return what a native file remembers of the file of that format it was read from, or nothing."""
    try:
        told = json.loads(str(data.attributes.get(kind, "{}")))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def pack_value(value) -> list | None:
    """Return an attribute or a small array as [type, value] for JSON, exactly; None for what is neither text nor numbers."""
    if isinstance(value, (bytes, np.bytes_)):
        return ["bytes", value.decode(errors="surrogateescape")]
    if isinstance(value, str):
        return ["str", value]
    array = np.asarray(value)
    return [array.dtype.str, array.tolist()] if array.dtype.kind in "fiub" else None


def unpack_value(told) -> Any:
    """Return the text, or the array, of `pack_value`; None for anything else."""
    try:
        kind, value = told
        if kind in ("str", "bytes"):
            return value if kind == "str" else value.encode(errors="surrogateescape")
        array = np.asarray(value, dtype=np.dtype(kind))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return array if array.dtype.kind in "fiub" else None


def coordinates_of(data: Trajectories, told: Mapping, *, dtype="<f4") -> list[np.ndarray]:
    """Return where the samples sit along each axis: as remembered where that still fits, else from the domain."""
    import torch

    out = []
    for axis, n in zip(data.domain.axes, data.shape, strict=True):
        kept = unpack_value(told.get(axis.name))
        own = axis.coordinates(n, dtype=torch.float64).numpy().astype(dtype)
        same = isinstance(kept, np.ndarray) and isinstance(axis, Axis) and len(kept) == n and close(axis, kept)
        out.append(kept if same else own)
    return out
