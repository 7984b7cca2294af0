"""Several surrogates of one task, the seeds of a run say, asked as one: the mean of their answers and its spread, as functions.

With answers u_1 .. u_M of the members at one input,

    mean     m(x) = 1/M sum_i u_i(x)
    spread   sigma(x) = ( 1/(M-1) sum_i (u_i(x) - m(x))² )^(1/2)

Both are taken point by point, so that on functions which every member answers alike on every grid they are alike on every grid,
too. The spread tells where the members disagree, not how wrong they are: what they all get wrong it does not see. How much of it
makes a band that holds the truth is found on held-out samples (`opkernels.evaluation.uncertainty.calibrate`).

Reference: B. Lakshminarayanan, A. Pritzel, C. Blundell, arXiv:1612.01474 (members that differ by first weights and order).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor, nn

from opkernels.surrogate.files import load, save
from opkernels.surrogate.operator import Surrogate

if TYPE_CHECKING:
    import xarray

__all__ = ["Ensemble", "mean_and_spread", "seed_folders"]

_SHARED = ("domain", "inputs", "outputs", "dt", "window", "parameter_names", "training_shape")


@dataclass(frozen=True)
class Ensemble:
    """Surrogates with the same fields, domain, step and parameters.

    Parameters
    ----------
    members : sequence of Surrogate
        One or more; one has no spread.

    Raises
    ------
    ValueError
        If there is none, or they differ in what they take or answer.

    Examples
    --------
    The seeds of a run folder, and where they disagree::

        ensemble = Ensemble.load("runs/ns2d")
        mean, spread = ensemble.predict(x)
    """

    members: tuple[Surrogate, ...]

    def __init__(self, members: Sequence[Surrogate]):
        object.__setattr__(self, "members", tuple(members))
        if not self.members:
            raise ValueError("an ensemble got no surrogates; give at least one")
        for member in self.members[1:]:
            for name in _SHARED:
                one, other = getattr(self.members[0], name), getattr(member, name)
                if one != other:
                    raise ValueError(f"an ensemble got surrogates whose {name} differ, {one} and {other}; give trainings of one task")

    def __len__(self) -> int:
        return len(self.members)

    @classmethod
    def load(cls, path: Path | str, models: Sequence[nn.Module] | None = None, *, device: torch.device | str | None = None) -> Ensemble:
        """Read the seeds of a run folder, or what `save` wrote; a folder without seeds gives an ensemble of one.

        Parameters
        ----------
        path : path
            Of a run (``opkernels train`` with several `training.seeds`) or of `save`.
        models : sequence of nn.Module, optional
            The user's own modules, one for each member, where the members are no models of opkernels.
        device : device, optional
            Where the weights go; by default the CPU.

        Raises
        ------
        ValueError
            As `opkernels.load`, or if the number of `models` is not that of the members.
        """
        folders = seed_folders(path)
        given = [None] * len(folders) if models is None else list(models)
        if len(given) != len(folders):
            raise ValueError(f"got {len(given)} models for the {len(folders)} members in {path}; give one for each")
        return cls([load(folder, model, device=device) for folder, model in zip(folders, given, strict=True)])

    def save(self, path: Path | str) -> None:
        """Write every member to a folder of its own (``seed-0``, ``seed-1``, ...) in `path`; refuse one that holds others."""
        old = [folder for folder in seed_folders(path) if folder != Path(path)]
        if old:
            raise ValueError(f"{path} already holds {old[0].name}; choose another folder")
        for i, member in enumerate(self.members):
            save(member, Path(path) / f"seed-{i}")

    def answers(
        self,
        x: Tensor,
        *,
        parameters: Tensor | Mapping | None = None,
        output_shape: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return the answers of all members, (M, B, C_out, *spatial); parameters as for `Surrogate.predict`."""
        options = {"parameters": parameters, "output_shape": output_shape, "batch_size": batch_size}
        return torch.stack([member.predict(x, **options) for member in self.members])

    @overload
    def predict(
        self,
        x: Tensor,
        *,
        parameters: Tensor | Mapping | None = ...,
        output_shape: Sequence[int] | None = ...,
        batch_size: int | None = ...,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def predict(
        self,
        x: xarray.Dataset,
        *,
        parameters: Tensor | Mapping | None = ...,
        output_shape: Sequence[int] | None = ...,
        batch_size: int | None = ...,
    ) -> tuple[xarray.Dataset, xarray.Dataset]: ...

    def predict(
        self,
        x: Tensor | xarray.Dataset,
        *,
        parameters: Tensor | Mapping | None = None,
        output_shape: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor] | tuple[xarray.Dataset, xarray.Dataset]:
        """Return the mean and the spread of the answers one frame later, at any resolution.

        Parameters
        ----------
        x, parameters, output_shape, batch_size
            As for `Surrogate.predict`.

        Returns
        -------
        mean, spread : Tensor, (B, C_out, *spatial), or xarray.Dataset
            The spread of one member is zero.
        """
        if isinstance(x, Tensor):
            return mean_and_spread(self.answers(x, parameters=parameters, output_shape=output_shape, batch_size=batch_size))
        import xarray

        found = [m.predict(x, parameters=parameters, output_shape=output_shape, batch_size=batch_size) for m in self.members]
        together = xarray.concat(found, dim="member", join="exact")
        return together.mean("member"), together.std("member", ddof=min(1, len(found) - 1))

    def rollout(
        self, x: Tensor, steps: int, *, parameters: Tensor | Mapping | None = None, batch_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean and the spread of rollouts, (B, steps, C_out, *spatial) each; every member goes on from its own answers.

        Parameters as for `Surrogate.rollout`. Sums are kept, not frames of all members: memory does not grow with their number.
        """
        mean = torch.zeros(())
        squares = torch.zeros(())
        for i, member in enumerate(self.members, 1):
            u = member.rollout(x, steps, parameters=parameters, batch_size=batch_size)
            off = u - mean
            mean = mean + off / i  # Welford: no difference of large sums
            squares = squares + off * (u - mean)
        return mean, (squares.clamp_min(0) / max(1, len(self) - 1)).sqrt()


def mean_and_spread(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation (with M - 1; zero for M = 1) over the first axis of (M, ...)."""
    return answers.mean(0), answers.std(0, correction=min(1, len(answers) - 1))


def seed_folders(path: Path | str) -> list[Path]:
    """Return the folders ``seed-0``, ``seed-1``, ... in a run folder, or the folder itself where there are none."""
    folder = Path(path)
    named = (p for p in folder.glob("seed-*") if p.is_dir() and p.name.removeprefix("seed-").isdecimal())
    return sorted(named, key=lambda p: int(p.name.removeprefix("seed-"))) or [folder]
