"""Reads neuraloperator's small Darcy files: a dict {x, y} of tensors, without running code from the file.

The map is from a two-valued coefficient a to the pressure u with

    -div(a grad u) = f  on (0, 1)^2,   u = 0 on the walls,

x true where a is high (a_true / a_false = 18). Samples sit at i/n, i = 0 .. n-1, so that u = 0 on the
first row and column and one spacing past the last: nodes of a box, not a period. `darcy_test_16` is
every second sample of `darcy_test_32`, the same 50 functions. A handful of samples have wrong values
at isolated points of the first row, so that row is no exact boundary condition.

Source: https://github.com/neuraloperator/neuraloperator, folder neuralop/data/datasets/data (MIT licence).
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch

from opkernels.datasets.trajectories import Trajectories
from opkernels.domains import Domain

__all__ = ["read_darcy"]


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
