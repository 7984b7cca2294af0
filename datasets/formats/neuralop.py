"""neuraloperator's .pt files, read and written: a dict {x, y} of tensors, without running code from the file.

| tensors                              | here                                                                               |
| ------------------------------------ | ---------------------------------------------------------------------------------- |
| x (N, ...), y (N, ...), of one shape | stationary: x and y; coefficient and pressure where x is of true and false         |
| x (N, ...), y (N, T, ...)            | y is the evolution u, at T even times of [0, 1]; x its first frame, or the field a |
| tensors of one number, or N numbers  | parameters                                                                         |

Tensors are mapped into memory where the file allows it, and copied sample by sample: those of the Burgers files are views of a
storage that holds the other split too. Domains are taken to have length 1 with samples at i/n, which the files do not say; a
box where x is of true and false, else periodic; ``periodic=`` says it.

The Darcy files. The map is from a two-valued coefficient a to the pressure u with

    -div(a grad u) = f  on (0, 1)^2,   u = 0 on the walls,

x true where a is high (a_true / a_false = 18). Samples sit at i/n, i = 0 .. n-1, so that u = 0 on the
first row and column and one spacing past the last: nodes of a box, not a period. `darcy_test_16` is
every second sample of `darcy_test_32`, the same 50 functions. A handful of samples have wrong values
at isolated points of the first row, so that row is no exact boundary condition.

Source: https://github.com/neuraloperator/neuraloperator, folder neuralop/data/datasets/data (MIT licence).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opkernels.datasets import store
from opkernels.datasets.fields import Field
from opkernels.datasets.formats.carried import KEY, Origin, assemble, blocks, pack, pack_value, remembered, unpack, unpack_value
from opkernels.datasets.formats.lazy import SPACE
from opkernels.datasets.trajectories import Trajectories
from opkernels.domains import Axis, Domain
from opkernels.storage import write_atomically

__all__ = ["is_pt", "read_darcy", "read_neuralop", "write_neuralop"]

_KIND = "a file of neuraloperator, a dict of tensors x and y, such as darcy_train_16.pt"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before it wrote zip files


def read_darcy(path: str | PathLike) -> Trajectories:
    """Return the fields "coefficient" (0 or 1) and "pressure" of a Darcy file as stationary data.

    Parameters
    ----------
    path : str or path
        A file such as darcy_train_16.pt: a dict of x, bool or float (N, n, n), and y, float (N, n, n).

    Returns
    -------
    Trajectories
        N samples on ``Domain.box(1.0, 1.0, points="node")`` in the files' own order, float32, no times.

    Raises
    ------
    ValueError
        If there is no such file, or it holds anything but such a dict. The file is read with
        ``weights_only=True``: it cannot make us run code.

    Examples
    --------
    >>> data = read_darcy("darcy_test_32.pt")  # doctest: +SKIP
    >>> data.at(16, 16).read(fields=["pressure"]).shape  # doctest: +SKIP
    torch.Size([50, 1, 1, 16, 16])
    """
    x, y = _load(Path(path))
    return Trajectories.from_arrays(
        {"coefficient": x.float(), "pressure": y.float()},
        Domain.box(1.0, 1.0, points="node"),
        restriction="nodal",
        attributes={"title": "Darcy flow", "source": "https://github.com/neuraloperator/neuraloperator"},
    )


def is_pt(path: Path) -> bool:
    """Whether a file begins like one of ``torch.save``."""
    with path.open("rb") as file:
        head = file.read(16)
    return head.startswith((b"PK\x03\x04", _LEGACY))


def read_neuralop(path: str | PathLike, *, periodic: bool | None = None) -> Trajectories:
    """Read a dict of tensors x and y.

    Parameters
    ----------
    path : path
    periodic : bool, optional
        Whether the domain is periodic, which the file does not say; by default as the table of this module tells.

    Returns
    -------
    Trajectories
        In the stored types. What was assumed is told in ``attributes["assumed"]``.

    Raises
    ------
    ValueError
        If there is no such file, or it holds anything but such a dict. The file is read with
        ``weights_only=True``: it cannot make us run code.
    """
    path = Path(path)
    content = _content(path)
    x, y, carried = content["x"], content["y"], unpack(content.get(KEY, ""))
    evolving = x.ndim + 1 == y.ndim and x.shape[:1] + x.shape[1:] == y.shape[:1] + y.shape[2:]
    if not (evolving or x.shape == y.shape) or not 2 <= x.ndim <= 4 or 0 in y.shape:
        held = f"x {tuple(x.shape)} and y {tuple(y.shape)}"
        raise ValueError(f"{path} holds {held}; expected y of the shape of x, (samples, x[, y[, z]]), or with times after the samples")
    arrays = _fields(x, y, evolving, list(carried.fields))
    letters = SPACE[: x.ndim - 1]
    around = x.dtype != torch.bool if periodic is None else periodic
    domain = Domain(tuple(Axis(0.0, 1.0, periodic=around, points="node", name=letter) for letter in letters))
    times = np.linspace(0, 1, y.shape[1]) if evolving and y.shape[1] > 1 else np.zeros(1) if evolving else None
    if evolving and carried.times is not None and carried.times.shape == (y.shape[1],):
        times = carried.times
    parameters, kept, left = _others(content, len(x))
    assumed = [f"entries that are neither numbers nor one per sample are left out: {', '.join(left)}"] if left else []
    if carried.domain is None:
        kind = "periodic" if around else "a box"
        even = ", and times to be even in [0, 1]" if evolving else ""
        places = f"taken to have length 1 along each axis, samples at i/n, and to be {kind}{even}"
        assumed.insert(0, f"the file does not say its domain, it is {places}")
    origin = Origin(path, "neuralop", {"others": kept}, carried, assumed, periodic is None)
    return assemble(arrays, domain, times, parameters, origin)


def _fields(x: torch.Tensor, y: torch.Tensor, evolving: bool, names: list[str]) -> dict[str, np.ndarray]:
    if evolving:
        first = x.dtype == y.dtype and all(x[row].numpy().tobytes() == y[row, 0].numpy().tobytes() for row in range(len(x)))
        default = ["u"] if first else ["a", "u"]
        tensors = [y] if first else [x, y]
    else:
        default, tensors = ["coefficient", "pressure"] if x.dtype == torch.bool else ["x", "y"], [x, y]
    return {name: tensor.numpy() for name, tensor in zip(names if len(names) == len(tensors) else default, tensors, strict=True)}


def _others(content: Mapping[str, Any], samples: int) -> tuple[dict[str, np.ndarray], dict[str, list | None], list[str]]:
    """Return what is beside x and y: as parameters, as it was, and the names of what is neither."""
    parameters, kept, left = {}, {}, []
    for name, value in content.items():
        if name in ("x", "y", KEY):
            continue
        number = value if isinstance(value, torch.Tensor) else torch.tensor(value) if isinstance(value, (int, float)) else None
        if not isinstance(name, str) or number is None or number.numel() not in (1, samples) or number.is_complex():
            left.append(str(name))
            continue
        parameters[name] = np.broadcast_to(number.numpy().ravel(), (samples,)).copy()
        kept[name] = [list(number.shape), pack_value(number.numpy())]
    return parameters, kept, left


def _content(path: Path) -> dict:
    """Return the dict of a file: tensors on the CPU, x and y among them, no larger than the file."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give {_KIND}")
    try:
        content = _loaded(path)
    except Exception as error:  # what a foreign file can raise has no end
        raise ValueError(f"{path} is damaged or not a file of plain tensors, so it was not read; expected {_KIND}") from error
    x, y = (content.get(key) if isinstance(content, dict) else None for key in ("x", "y"))
    if not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)):
        raise ValueError(f"{path} holds no tensors x and y; expected {_KIND}")
    size = path.stat().st_size
    for value in content.values():
        if isinstance(value, torch.Tensor):
            if value.numel() * value.element_size() > size:
                raise ValueError(f"{path} holds a tensor of shape {tuple(value.shape)}, larger than the file; it was not read")
            plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not plain or value.dtype in (torch.bfloat16, torch.complex32) or value.is_complex():
                raise ValueError(f"{path} holds a tensor of {value.dtype} on {value.device}; expected real dense tensors of numpy's types")
    return content


def _loaded(path: Path):
    """Return the content of a file of torch.save; compressed and legacy files are read into memory, others mapped."""
    if not is_pt(path):
        raise ValueError("not a file of torch.save")
    mapped = zipfile.is_zipfile(path)
    if mapped:
        with zipfile.ZipFile(path) as archive:
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise ValueError("torch.save does not compress")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def write_neuralop(data: Trajectories, path: str | PathLike) -> list[str]:
    """Write a dict of tensors x and y with ``torch.save``.

    Parameters
    ----------
    data : Trajectories
        Two stationary fields, the input and the output of a map; or one that evolves: x is its first frame and y all of them; or a
        constant one and one that evolves: x and y.
    path : path

    Returns
    -------
    list of str
        Sentences on what the format has no word for.

    Raises
    ------
    ValueError
        If there are other fields, or the file cannot be written.

    Notes
    -----
    Numbers go through a file beside `path`, mapped into memory, so that memory does not grow with the data.
    """
    path, told = Path(path), remembered(data, "neuralop")
    evolving = [field for field in data.fields.values() if field.evolving]
    still = [field for field in data.fields.values() if not field.evolving]
    if (len(still), len(evolving)) not in ((2, 0), (1, 1), (0, 1)) or data.domain.ndim > 3:
        given = f"{len(still)} constant and {len(evolving)} evolving fields on {data.domain.ndim} axes"
        raise ValueError(f"neuraloperator's files hold one map, of two constant fields or of one that evolves; got {given}, choose them")
    ordered = dict(sorted(data.fields.items(), key=lambda item: item[1].evolving))  # x before y
    content: dict[str, Any] = {KEY: pack(Trajectories(data.domain, ordered, data.times, data.parameters, data.attributes))}
    for name, values in data.parameters.items():
        shape, packed = told.get("others", {}).get(name, (None, None))
        kept = unpack_value(packed)
        same = isinstance(kept, np.ndarray) and np.array_equal(np.broadcast_to(kept.ravel(), values.shape), values)
        content[name] = torch.from_numpy((kept if same else values).copy())  # pyright: ignore[reportOptionalMemberAccess]
    try:
        write_atomically(path, lambda temporary: _write(temporary, content, still, evolving))
    except OSError as error:
        raise store.cannot_write(path, error) from error
    except RuntimeError as error:  # torch has no kind of error for a full disk
        raise ValueError(f"cannot write {path}: {' '.join(str(error).split())[:200]}; the disk may be full") from error
    return (
        []
        if told
        else [f"neuraloperator's files do not say their domain nor times; they stand in the entry {KEY}, which only opkernels reads"]
    )


def _write(path: Path, content: dict, still: list[Field], evolving: list[Field]) -> None:
    first, second = [*still, *evolving][0], [*still, *evolving][-1]
    rooms = [path.with_name(f"{path.name}.{name}") for name in "xy"]
    try:
        if still:
            content["x"] = _mapped(rooms[0], first.shape, first.dtype, _parts(first))
        else:
            frames = (first.block(row, slice(0, 1)) for row in range(len(first)))
            content["x"] = _mapped(rooms[0], (len(first), *first.spatial), first.dtype, frames)
        content["y"] = _mapped(rooms[1], second.shape, second.dtype, _parts(second))
        torch.save(content, path)
    finally:
        content.clear()
        for room in rooms:
            room.unlink(missing_ok=True)


def _parts(field: Field) -> Iterator[np.ndarray]:
    """Yield the numbers of a field in their order, some megabytes at a time."""
    return (part for row in range(len(field)) for _, part in blocks(field, row))


def _mapped(room: Path, shape: tuple[int, ...], dtype: np.dtype, parts: Iterator[np.ndarray]) -> torch.Tensor:
    """Return a tensor of numbers written to a file and mapped into memory."""
    with room.open("wb") as file:
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=dtype).data)
    return torch.from_numpy(np.memmap(room, dtype=dtype, mode="c", shape=shape))


def _load(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give neuraloperator's darcy_train_16.pt or one of its kind")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a foreign file can raise has no end
        raise ValueError(f"{path} is not a file of plain tensors, so it was not read; expected a dict of tensors x and y") from error
    x, y = (content.get(key) if isinstance(content, dict) else None for key in ("x", "y"))
    if not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.ndim == 3 and x.shape == y.shape):
        raise ValueError(f"{path} does not hold tensors x and y of one shape (samples, n, n); expected a Darcy file of neuraloperator")
    return x.clone(), y.clone()
