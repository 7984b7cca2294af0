"""What a recipe gives a solver: laws, random fields, formulas and parts; and a trial of the solver with the ends of its laws."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels import solvers
from opkernels.datasets.expressions import Expression
from opkernels.sphere import Space

__all__ = ["Law", "Part", "RandomField", "function_of", "make_solver", "try_solver"]

_TRIAL_POINTS = 8  # per axis


@dataclass(frozen=True)
class Law:
    """How a number is drawn for each sample: kind is uniform, loguniform or choice."""

    kind: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class RandomField:
    """A random field of `opkernels.solvers`, one draw per sample, optionally transformed point by point; or a component of a vector."""

    name: str
    arguments: Mapping[str, object]
    transform: Expression | None = None
    component: int | None = None


@dataclass(frozen=True)
class Part:
    """An object among a solver's arguments: the flow that carries a scalar, or a forcing that is random in time."""

    name: str
    arguments: Mapping[str, object]

    def make(self, domain: Space, arguments: Mapping[str, object], seed: int, start: int):
        """Return the object; what is random in time is a function of the seed and of a sample's number, the first of which is `start`."""
        kind = getattr(solvers, self.name)
        return kind(**arguments, seed=seed, start=start) if hasattr(kind, "kick") else make_solver(kind, domain, arguments)


def make_solver(kind, domain: Space, arguments: Mapping[str, object]):
    """Return a solver on a domain, which one that is given another solver has from that."""
    return kind(domain, **arguments) if "domain" in inspect.signature(kind).parameters else kind(**arguments)


def function_of(expression: Expression, domain: Space, parameters: dict[str, Tensor]):
    """Return an expression as numbers per sample (B,), or as a function of the coordinates (and of the time, where it uses it)."""
    if not expression.used & {*domain.names, "t"}:
        return expression(**(parameters or {"_": torch.zeros((), dtype=torch.float64)}))
    varying = bool(expression.used & set(parameters))

    def at(points: Sequence[Tensor], t: float = 0.0) -> Tensor:
        values = dict(zip(domain.names, points, strict=True))
        lead = [1, 1] if varying else []  # samples and channels
        columns = {name: v.to(points[0])[:, None].reshape(-1, 1, *[1] * domain.ndim) for name, v in parameters.items()}
        result = expression(**{k: v.reshape(*lead, *v.shape) for k, v in values.items()}, **columns, t=torch.as_tensor(t).to(points[0]))
        return result.expand(*result.shape[: len(lead)], *points[0].shape)

    if "t" not in expression.used:
        return lambda *points: at(points)
    timed = {1: lambda x, t: at((x,), t), 2: lambda x, y, t: at((x, y), t), 3: lambda x, y, z, t: at((x, y, z), t)}
    return timed[domain.ndim]  # a solver sees from the number of arguments that the time is one of them


def try_solver(solver, domain: Space, arguments: Mapping[str, object], laws: Mapping[str, Law]) -> None:
    """Make the solver of a recipe with the extreme values of its laws, so that what it refuses is told before any work.

    Raises
    ------
    ValueError
        What the solver says, or that it takes a value of another type.
    """
    names = list(laws)
    for end in (min, max):
        ends = {name: torch.tensor([end(laws[name].values)], dtype=torch.float64) for name in names}
        given = {key: _trial(value, key, domain, ends) for key, value in arguments.items()}
        try:
            make_solver(solver, domain, given)
        except TypeError as error:
            told = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            raise ValueError(f"{solver.__name__} got {told}, which it cannot take: {error}") from error


def _trial(value, name: str, domain: Space, ends: Mapping[str, Tensor]):
    """Return one value of an argument, for one sample."""
    if isinstance(value, Law):
        return ends[name]
    if isinstance(value, Expression):
        return function_of(value, domain, dict(ends))
    if isinstance(value, Part):
        return value.make(domain, {key: _trial(item, key, domain, ends) for key, item in value.arguments.items()}, seed=0, start=0)
    if isinstance(value, RandomField):
        grid = domain.grid(*[_TRIAL_POINTS] * domain.ndim)
        field = getattr(solvers, value.name)(domain, **value.arguments).sample(1, grid.shape, seed=0, dtype=torch.float64)
        points = dict(zip(domain.names, grid.coordinates(dtype=torch.float64), strict=True))
        columns = {key: end.reshape(-1, *[1] * (domain.ndim + 1)) for key, end in ends.items()}
        return field if value.transform is None else value.transform(value=field, **points, **columns).expand(field.shape)
    return value
