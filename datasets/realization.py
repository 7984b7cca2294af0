"""From a recipe to the fields of some of its samples: draw the inputs, solve, and measure the solver's own error.

Every number and field is a function of (seed, sample), never of the batch or the process that draws it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opkernels import solvers
from opkernels.datasets.arguments import Law, Part, RandomField, function_of, make_solver
from opkernels.datasets.expressions import Expression
from opkernels.datasets.recipe import Recipe
from opkernels.datasets.restriction import default_rule, reaches, restrict
from opkernels.resample import resample
from opkernels.sphere import SpaceGrid

__all__ = ["constant_fields", "draw_parameters", "restriction_rules", "solve_samples", "solver_error"]


def draw_parameters(recipe: Recipe, samples: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the per-sample numbers of a recipe by name, each (len(samples),) in float64."""
    return {name: draw(law, recipe.seed, name, samples) for name, law in recipe.parameters.items()}


def draw(law: Law, seed: int, name: str, samples: Sequence[int]) -> np.ndarray:
    """Return what a law draws for some samples; a function of the seed, the name and the sample's own number."""
    stream = zlib.crc32(name.encode())
    uniform = np.array([np.random.Generator(np.random.PCG64([seed, stream, sample])).random() for sample in samples])
    if law.kind == "choice":
        return np.array(law.values)[(uniform * len(law.values)).astype(int)]
    low, high = law.values
    return low + (high - low) * uniform if law.kind == "uniform" else low * (high / low) ** uniform


def constant_fields(recipe: Recipe) -> tuple[str, ...]:
    """Names of the fields without a time axis: the coefficient, and random fields among the solver's arguments."""
    return (
        *(recipe.inputs if recipe.times is None else ()),
        *(name for name, value in recipe.arguments.items() if isinstance(value, RandomField)),
    )


def restriction_rules(recipe: Recipe) -> dict[str, str]:
    """Return how each field is to be coarsened: coefficients by cell means (or nodal values), the rest by the domain's rule."""
    rule = default_rule(recipe.domain)
    coefficient = "mean" if all(axis.points == "cell" for axis in recipe.domain.axes) else "nodal"
    names = [*constant_fields(recipe), *getattr(solvers, recipe.solver).fields]
    return {name: coefficient if recipe.times is None and name in recipe.inputs else rule for name in names}


@dataclass
class _Inputs:
    """What a solver is given for some samples, in float64: its arguments and its first state."""

    arguments: dict[str, Any]
    state: Tensor  # (B, C, *spatial)


def _inputs(recipe: Recipe, samples: range, grid: SpaceGrid) -> _Inputs:
    """Return the inputs on a grid; whatever the grid, they are the functions that the recipe draws at its resolution."""
    parameters = {name: torch.from_numpy(values) for name, values in draw_parameters(recipe, samples).items()}
    arguments = {name: _argument(recipe, value, name, samples, parameters, grid) for name, value in recipe.arguments.items()}
    fields: dict[str, Tensor] = {}
    own = [i == 0 or getattr(form, "component", None) is not None for i, form in enumerate(recipe.inputs.values())]
    seeds = {name: recipe.seed if first else _stream(recipe.seed, name) for name, first in zip(recipe.inputs, own, strict=True)}
    for name, form in sorted(recipe.inputs.items(), key=lambda item: _uses(item[1], recipe.inputs)):  # those that use others last
        known = parameters | fields
        field = _field(recipe, form, samples, known, seeds[name], grid)
        bad = (~torch.isfinite(field)).flatten(1).any(dim=1).nonzero().flatten().tolist()
        if bad:
            told = f" (its expression is {form.text!r})" if isinstance(form, Expression) else ""
            raise ValueError(f"the initial {name} of sample {samples[bad[0]]} holds a NaN or infinity{told}; look at the recipe's formula")
        fields[name] = field
    return _Inputs(arguments, torch.stack([fields[name] for name in recipe.inputs], dim=1))


def _uses(form, names) -> bool:
    """Return whether a form is an expression of other fields."""
    return isinstance(form, Expression) and bool(form.used & set(names))


def _stream(seed: int, name: str) -> int:
    """Return the seed of a named random field."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)[0])


def _column(values: Tensor, ndim: int) -> Tensor:
    """Shape per-sample numbers (B,) to broadcast against (B, *spatial); fields are as they are."""
    return values.reshape(-1, *[1] * ndim) if values.ndim == 1 else values


def _field(recipe: Recipe, form, samples: range, parameters: dict[str, Tensor], seed: int, grid: SpaceGrid) -> Tensor:
    """Return a form as samples (B, *spatial) in float64.

    A random field is drawn at the recipe's resolution, then transformed on `grid`; one in closed form is drawn there at once.
    `parameters` holds numbers per sample (B,), and the initial fields (B, *spatial) that an expression may use.
    """
    shape = (len(samples), *grid.shape)
    if isinstance(form, (int, float)):
        return torch.full(shape, float(form), dtype=torch.float64)
    if isinstance(form, Law):
        raise ValueError("an initial field is given as a law; name the law under parameters and use it in an expression")
    points = dict(zip(recipe.domain.names, grid.coordinates(dtype=torch.float64), strict=True))
    points |= {name: _column(values, grid.ndim) for name, values in parameters.items()}
    if isinstance(form, Expression):
        return form(**points).expand(shape).clone()
    generator = getattr(solvers, form.name)(recipe.domain, **form.arguments)
    drawn = grid if getattr(generator, "pointwise", False) else recipe.domain.grid(*recipe.resolution)
    field = generator.sample(len(samples), drawn.shape, seed=seed, start=samples.start, dtype=torch.float64)[:, form.component or 0]
    field = resample(field, drawn, grid)
    return field if form.transform is None else form.transform(value=field, **points).expand(shape)


def _argument(recipe: Recipe, value, name: str, samples: range, parameters: dict[str, Tensor], grid: SpaceGrid):
    """Return a solver's keyword argument: numbers as they are, laws as (B,), random fields as (B, 1, *spatial), the rest made."""
    if isinstance(value, Law):
        return parameters[name]
    if isinstance(value, RandomField):
        return _field(recipe, value, samples, parameters, _stream(recipe.seed, name), grid)[:, None]
    if isinstance(value, Expression):
        return function_of(value, recipe.domain, parameters)
    if isinstance(value, Part):
        own = {key: _argument(recipe, item, f"{name}.{key}", samples, parameters, grid) for key, item in value.arguments.items()}
        return value.make(recipe.domain, own, seed=_stream(recipe.seed, name), start=samples.start)
    return value


def _solve(recipe: Recipe, inputs: _Inputs, dtype: torch.dtype, dt: float | None) -> Tensor:
    """Return the solution (B, T, C, *spatial), T = 1 for stationary solvers."""
    solver = make_solver(getattr(solvers, recipe.solver), recipe.domain, inputs.arguments)
    state = inputs.state.to(dtype)
    with torch.no_grad():
        if recipe.times is None:
            return solver.solve(state)[:, None]
        return solver.solve(state, recipe.times, **({} if dt is None else {"dt": dt}))


def solve_samples(recipe: Recipe, samples: range) -> dict[str, Tensor]:
    """Solve some samples of a recipe.

    Returns
    -------
    dict of str to Tensor
        (B, T, *spatial) for evolving fields, (B, *spatial) for the others, in the recipe's dtype.

    Raises
    ------
    ValueError
        If an initial field is not finite or a solution blows up; the message names the sample by its number in the dataset.
    """
    dtype = getattr(torch, recipe.dtype)
    inputs = _inputs(recipe, samples, recipe.domain.grid(*recipe.resolution))
    try:
        solution = _solve(recipe, inputs, dtype, recipe.dt)
    except solvers.SolverError as error:
        if error.sample is None:
            raise
        raise error.renumbered(samples[error.sample]) from error
    bad = (~torch.isfinite(solution)).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{recipe.solver}: the solution of sample {samples[bad[0]]} holds a NaN or infinity; look at its parameters")
    names = getattr(solvers, recipe.solver).fields
    fields = {name: value[:, 0] for name, value in inputs.arguments.items() if name in constant_fields(recipe)}
    if recipe.times is None:
        fields |= {name: inputs.state[:, c] for c, name in enumerate(recipe.inputs)}
    fields |= {name: solution[:, 0, c] if recipe.times is None else solution[:, :, c] for c, name in enumerate(names)}
    return {name: value.to(dtype).contiguous() for name, value in fields.items()}


def solver_error(recipe: Recipe) -> dict[str, list[float] | float]:
    """Measure the solver's own error on the first samples: the relative L2 distance to a better solution.

    Returns
    -------
    dict
        ``solver_error``: the recipe's resolution n and dtype against 2n in float64 (and, where the recipe gives dt, half of
        it), from the same functions; one number per output time, the root mean square over the samples.
        ``solver_error_fields``: the same of each field alone at the last time, where there are several. Together, fields of small
        numbers (a vorticity in 1/s beside a geopotential in m²/s²) do not count.
        ``solver_error_time``: where the recipe gives dt, dt against dt/2 at n.

    Notes
    -----
    With its own step the solver halves it at 2n where stability sets it, so that one comparison covers space and time. In
    chaotic flows the error grows with time whatever the solver; it tells how long a trajectory is this one.

    At 2n expressions are evaluated anew, and random fields are the ones of n, interpolated before they are transformed: a
    thresholded coefficient keeps its two values. The answer at 2n is brought to n by each field's rule of restriction where
    that reaches, else by resampling.
    """
    if recipe.checked == 0:
        return {}
    samples = range(min(recipe.checked, recipe.samples))
    coarse = recipe.domain.grid(*recipe.resolution)
    fine = coarse.refined(2)
    inputs = _inputs(recipe, samples, coarse)
    half = None if recipe.dt is None else recipe.dt / 2
    base = _solve(recipe, inputs, getattr(torch, recipe.dtype), recipe.dt).double()
    better = _solve(recipe, _inputs(recipe, samples, fine), torch.float64, half)
    better = _brought(recipe, better, fine, coarse)
    told: dict[str, list[float] | float] = {"solver_error": _relative(base, better, coarse)}
    if base.shape[2] > 1:
        fields = zip(base[:, -1:].split(1, dim=2), better[:, -1:].split(1, dim=2), strict=True)
        told["solver_error_fields"] = [_relative(x, y, coarse)[0] for x, y in fields]
    if half is not None:
        told["solver_error_time"] = _relative(base, _solve(recipe, inputs, torch.float64, half), coarse)
    return told


def _brought(recipe: Recipe, solution: Tensor, fine: SpaceGrid, coarse: SpaceGrid) -> Tensor:
    """Return a solution (B, T, C, *fine) on the coarse grid, (B, T, C, *coarse)."""
    rules = restriction_rules(recipe)
    parts = []
    for c, name in enumerate(getattr(solvers, recipe.solver).fields):
        values, rule = solution[:, :, c], rules[name]
        if reaches(rule, fine, coarse.shape):
            parts.append(torch.from_numpy(restrict(values.numpy(), rule, fine, coarse.shape)))
        else:
            parts.append(resample(values, fine, coarse))
    return torch.stack(parts, dim=2)


def _relative(x: Tensor, y: Tensor, grid: SpaceGrid) -> list[float]:
    """Relative L2 distance per time, (T,) numbers, the root mean square over the samples."""
    weights = grid.weights(dtype=torch.float64)
    axes = tuple(range(2, x.ndim))
    error, size = ((v.square() * weights).sum(axes) for v in (x - y, y))
    return (error / size.clamp_min(torch.finfo(torch.float64).tiny)).mean(dim=0).sqrt().tolist()
