"""Per-channel affine scaling, with statistics that do not depend on the grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Grid
from opkernels.sphere import SphereGrid

__all__ = ["Normalization"]


@dataclass(frozen=True)
class Normalization:
    """x -> (x - mean) / std per channel, and back.

    Parameters
    ----------
    mean, std : tuple of float
        One number per channel; every std is positive.
    names : tuple of str
        Names of the channels, in order; empty ones become c0, c1, ...

    Examples
    --------
    >>> import torch
    >>> x = 5 + 2 * torch.randn(100, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> scale = Normalization.fit(x, names=("density",))
    >>> y = scale.apply(x)
    >>> abs(float(y.mean())) < 1e-5, abs(float(y.std()) - 1) < 1e-4
    (True, True)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self):
        mean = tuple(float(m) for m in self.mean)
        std = tuple(float(s) for s in self.std)
        names = tuple(str(n) for n in self.names) or tuple(f"c{i}" for i in range(len(mean)))
        if not mean or not len(mean) == len(std) == len(names):
            raise ValueError(
                f"Normalization got {len(mean)} means, {len(std)} deviations and {len(names)} names; give one of each per channel"
            )
        for name, m, s in zip(names, mean, std, strict=True):
            if not math.isfinite(m) or not math.isfinite(s) or s <= 0:
                raise ValueError(f"Normalization got mean {m:g} and std {s:g} for {name}; give finite numbers, the std positive")
        for key, value in (("mean", mean), ("std", std), ("names", names)):
            object.__setattr__(self, key, value)

    @classmethod
    def identity(cls, names: Sequence[str]) -> Normalization:
        """Return the normalization that changes nothing, for these channels."""
        return cls((0.0,) * len(names), (1.0,) * len(names), tuple(names))

    @classmethod
    def fit(
        cls, data: Tensor | Iterable[Tensor], *, names: Sequence[str] = (), grid: Grid | SphereGrid | None = None, channel_axis: int = 1
    ) -> Normalization:
        """Return the normalization under which `data` has mean 0 and standard deviation 1 per channel.

        Parameters
        ----------
        data : Tensor or iterable of Tensor
            (B, C, *spatial), or batches of it (one pass, float64 sums); other places of the channels
            by `channel_axis`.
        names : sequence of str
            Names of the channels.
        grid : Grid or SphereGrid, optional
            Its quadrature weights make the statistics those of the functions; needed where samples
            do not count alike ("endpoint", "gauss", spheres).
        channel_axis : int
            Axis of the channels: 1 for (B, C, *spatial), 2 for (B, T, C, *spatial).

        Raises
        ------
        ValueError
            If the data are empty or not finite (with the channel and the count).

        Notes
        -----
        A channel that is constant to rounding is only centered: its std is 1.
        """
        moments: tuple[Tensor, Tensor, Tensor] | None = None
        for batch in [data] if isinstance(data, Tensor) else data:
            moments = _merged(moments, _moments(batch, grid, channel_axis, names))
        if moments is None:
            raise ValueError("Normalization.fit got no data; give at least one batch")
        _, mean, square = moments
        std = square.clamp_min(0).sqrt()
        std = torch.where(std <= 1e-7 * mean.abs(), torch.ones_like(std), std)
        std = torch.where(std == 0, torch.ones_like(std), std)
        return cls(tuple(mean.tolist()), tuple(std.tolist()), tuple(names))

    def apply(self, x: Tensor, *, channel_axis: int = 1) -> Tensor:
        """Return (x - mean) / std, in the dtype and on the device of `x`."""
        mean, std = self._tensors(x, channel_axis)
        return (x - mean) / std

    def invert(self, x: Tensor, *, channel_axis: int = 1) -> Tensor:
        """Return x std + mean, the inverse of `apply`."""
        mean, std = self._tensors(x, channel_axis)
        return x * std + mean

    def to_dict(self) -> dict:
        """Return plain data that `from_dict` reads back."""
        return {"mean": list(self.mean), "std": list(self.std), "names": list(self.names)}

    @classmethod
    def from_dict(cls, data: dict) -> Normalization:
        """Return the normalization written by `to_dict`; refuse anything else in one sentence."""
        if (
            not isinstance(data, dict)
            or set(data) != {"mean", "std", "names"}
            or not all(isinstance(v, (list, tuple)) for v in data.values())
        ):
            raise ValueError(f"got the normalization {data!r}; expected lists mean, std and names")
        try:
            return cls(tuple(data["mean"]), tuple(data["std"]), tuple(data["names"]))
        except TypeError:
            raise ValueError(f"got the normalization {data!r}; expected lists of numbers mean and std, and of texts names") from None

    def _tensors(self, x: Tensor, channel_axis: int) -> tuple[Tensor, Tensor]:
        if not -x.ndim <= channel_axis < x.ndim or x.shape[channel_axis] != len(self.mean):
            raise ValueError(
                f"Normalization of {len(self.mean)} channels ({', '.join(self.names)}) got a tensor of shape {tuple(x.shape)}; "
                f"expected {len(self.mean)} on axis {channel_axis}"
            )
        shape = [1] * x.ndim
        shape[channel_axis] = len(self.mean)
        # Built on the host and copied: no synchronization.
        mean = torch.tensor(self.mean, dtype=x.dtype).to(x.device, non_blocking=True)
        std = torch.tensor(self.std, dtype=x.dtype).to(x.device, non_blocking=True)
        return mean.reshape(shape), std.reshape(shape)


def _moments(batch: Tensor, grid: Grid | SphereGrid | None, channel_axis: int, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Weight (number of functions), mean and variance per channel of one batch."""
    x = batch.detach().to(torch.float64)
    if grid is not None and tuple(x.shape[-grid.ndim :]) != tuple(grid.shape):
        raise ValueError(f"Normalization.fit got a batch of shape {tuple(x.shape)} for the grid {grid.shape}; give batches on the grid")
    if grid is not None and not grid.uniform:
        weights = grid.weights(x.device, torch.float64)
        weights = weights / weights.mean()
    else:
        weights = torch.ones((), dtype=torch.float64, device=x.device)
    weights = weights.expand(x.shape).movedim(channel_axis, 0).flatten(1)
    x = x.movedim(channel_axis, 0).flatten(1)
    for c, bad in enumerate((~x.isfinite()).sum(1).tolist()):
        if bad:
            name = names[c] if c < len(names) else f"c{c}"
            raise ValueError(f"Normalization.fit got {bad} values of {name} that are not finite; mend or leave out those samples")
    total = weights.sum(1)
    mean = (weights * x).sum(1) / total
    return total, mean, (weights * (x - mean[:, None]) ** 2).sum(1) / total


def _merged(one: tuple[Tensor, Tensor, Tensor] | None, other: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of two sets together (Chan, Golub, LeVeque 1979)."""
    if one is None:
        return other
    total = one[0] + other[0]
    a, b = one[0] / total, other[0] / total
    return total, a * one[1] + b * other[1], a * one[2] + b * other[2] + a * b * (one[1] - other[1]) ** 2
