"""Recipes: YAML that says which solver makes which samples; read into a checked `Recipe`, all mistakes told at once.

| key          | meaning                                                                  | example                             |
| ------------ | ------------------------------------------------------------------------ | ----------------------------------- |
| solver       | a name of `opkernels.solvers` and its keyword arguments                   | {name: NavierStokes2D, viscosity: 1e-3} |
| domain       | ``periodic`` or ``box`` lengths, ``axes``, or the radius of a ``sphere``  | {periodic: [2*pi, 2*pi]}            |
| initial      | the initial field, or one per field of the solver, which may use another by its name | {a: 1 - b, b: {name: RandomBumps}} |
| coefficient  | in its place for stationary solvers                                       | {name: ..., transform: "exp(value)"} |
| times        | output times, a list or ``start, stop, count``; stationary solvers have none | {stop: 20, count: 21}               |
| resolution   | samples per axis                                                          | [64, 64]                            |
| samples      | number of trajectories                                                    | 1000                                |
| parameters   | named per-sample laws, for use in expressions                             | {amplitude: {uniform: [0.1, 0.2]}}  |
| seed         | whole number; every sample is a function of it and of its own number      | 0                                   |
| dt           | time step of the solver; left out, the solver chooses its own             | 1e-3                                |
| dtype        | float32 or float64: the solver's arithmetic and the file's numbers        | float32                             |
| batch        | samples solved together and stored as one shard                           | 16                                  |
| checked      | samples whose error, n against 2n, is measured and stored                 | 2                                   |
| title, references | text, kept in the file                                               |                                     |

A value is a number (``1e-3``, ``2*pi``), a law per sample (``{uniform: [a, b]}``, ``{loguniform: [a, b]}``,
``{choice: [a, b, c]}``), an expression of the coordinates, the parameters and, in a solver's arguments, the time
(``"0.1 * sin(2*pi*(x + y))"``), or a random field (``{name: GaussianRandomField, ...}``, one draw per sample). An argument of a solver may
also be an object with arguments of its own, numbers and expressions: a forcing that is random in time,
``stirring: {name: RingForcing, ...}``, or another solver, ``flow: {name: NavierStokes2D, ...}``. Nothing in a recipe is run as code.
"""

from __future__ import annotations

import dataclasses
import inspect
import keyword
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opkernels import solvers
from opkernels.datasets.arguments import Law, Part, RandomField, try_solver
from opkernels.datasets.expressions import Expression, constant
from opkernels.datasets.recipe_files import load_data
from opkernels.datasets.recipe_values import Mistakes, hint, read_dtype, read_law, read_times, whole
from opkernels.domains import Domain
from opkernels.sphere import Sphere

__all__ = ["Recipe", "read_recipe"]

_REQUIRED = ("solver", "domain", "resolution", "samples")
_EXAMPLES = {
    "solver": "{name: NavierStokes2D, viscosity: 1e-3}",
    "domain": "{periodic: [1, 1]}",
    "resolution": "[64, 64]",
    "samples": "100",
    "times": "{stop: 10, count: 11}",
    "initial": "{name: GaussianRandomField, alpha: 2.5, tau: 7}",
    "coefficient": '{name: GaussianRandomField, transform: "exp(value)"}',
}
_SHARD_BYTES = 1 << 25
_COEFFICIENT = "coefficient"  # the name of a stationary solver's input
_LARGEST_BATCH = 16


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; `plain` is the data it came from, with every default filled in.

    Parameters
    ----------
    solver : str
        Name in `opkernels.solvers`.
    arguments : dict
        Its keyword arguments: numbers, `Law`, `Expression`, `RandomField`, `Part` or plain data.
    domain : Domain or Sphere
    inputs : dict of str to value
        Initial field by name of the solver's field, or the coefficient.
    times : tuple of float or None
        None for stationary solvers.
    resolution : tuple of int
    samples, seed, batch, checked : int
    dt : float or None
    dtype : str
    parameters : dict of str to Law
        All numbers that differ from sample to sample: the named ones and those of the solver's arguments.
    """

    solver: str
    arguments: Mapping[str, object]
    domain: Domain | Sphere
    inputs: Mapping[str, object]
    times: tuple[float, ...] | None
    resolution: tuple[int, ...]
    samples: int
    seed: int
    batch: int
    checked: int
    dt: float | None
    dtype: str
    parameters: Mapping[str, Law]
    plain: Mapping[str, object] = field(repr=False)

    @property
    def shards(self) -> list[range]:
        """The samples of each shard; they depend on the recipe alone, never on the number of workers."""
        return [range(first, min(first + self.batch, self.samples)) for first in range(0, self.samples, self.batch)]


def read_recipe(recipe: str | os.PathLike | Mapping) -> Recipe:
    """Read and check a recipe.

    Parameters
    ----------
    recipe : path, name of a bundled recipe, or dict

    Raises
    ------
    ValueError
        With every mistake found: unknown keys (and what was probably meant), missing keys, values of the wrong kind.
    """
    data, mistakes = load_data(recipe), Mistakes()
    _check_keys(data, mistakes)
    values = {key: mistakes.of(read, data.get(key, default)) for key, (read, default) in _OPTIONS.items()}
    for key, read in (("solver", _solver), ("domain", _domain), ("samples", _samples), ("times", read_times)):
        values[key] = mistakes.of(read, data[key]) if data.get(key) is not None else None
    if values["solver"]:
        _check_kind(data, values["solver"], mistakes)
    if values["domain"] and data.get("resolution") is not None:
        values["resolution"] = mistakes.of(_resolution, data["resolution"], values["domain"])
    if values["domain"] and values["solver"]:
        _read_formulas(data, values, mistakes)
    mistakes.refuse(recipe)
    solver, times, resolution = values.pop("solver"), values["times"], values["resolution"]
    numbers = len(solver.fields) * (1 if times is None else len(times)) * math.prod(resolution)
    fit = _SHARD_BYTES // (numbers * (4 if values["dtype"] == "float32" else 8))
    values["batch"] = values["batch"] or max(1, min(_LARGEST_BATCH, fit))
    plain = {key: data[key] for key in (*_REQUIRED, *_needs(solver))}
    plain |= {key: data.get(key, default) for key, (_, default) in _OPTIONS.items()}
    plain |= {key: values[key] for key in ("samples", "seed", "dt", "batch", "checked")} | {"resolution": list(resolution)}
    del values["title"], values["references"]
    return Recipe(solver=solver.__name__, plain=plain, **values)


def _is_stationary(solver) -> bool:
    return "times" not in inspect.signature(solver.solve).parameters


def _needs(solver) -> tuple[str, ...]:
    """Keys that this kind of solver needs beside those of all."""
    return ("coefficient",) if _is_stationary(solver) else ("initial", "times")


def _check_keys(data: Mapping, mistakes: Mistakes) -> None:
    known = [*_REQUIRED, "initial", "coefficient", "times", *_OPTIONS]
    for key in data:
        if key not in known:
            mistakes.append(f"there is no key {key}; {hint(str(key), known)}")
    _check_missing(data, _REQUIRED, mistakes)


def _check_missing(data: Mapping, keys: Sequence[str], mistakes: Mistakes) -> None:
    for key in keys:
        if data.get(key) is None:
            mistakes.append(f"the key {key} is missing; add for instance {key}: {_EXAMPLES[key]}")


def _check_kind(data: Mapping, solver, mistakes: Mistakes) -> None:
    """Refuse keys of the other kind of solver, and a lack of those of this one."""
    _check_missing(data, _needs(solver), mistakes)
    for key in {"initial", "coefficient", "times"} - set(_needs(solver)):
        if data.get(key) is not None:
            mistakes.append(
                f"{solver.__name__} is {'stationary' if _is_stationary(solver) else 'an evolution'} and has no {key}; remove it"
            )


def _read_formulas(data: Mapping, values: dict, mistakes: Mistakes) -> None:
    """Read laws, the solver's arguments and its inputs, which may use one another's names."""
    solver, axes = values["solver"], values["domain"].names
    named = values["parameters"] or {}
    laws = {name: mistakes.of(read_law, law, f"parameters.{name}") for name, law in named.items()}
    names = [*axes, *([] if _is_stationary(solver) else ["t"]), *laws]
    values["arguments"] = mistakes.of(_arguments, data["solver"], solver, names, mistakes) or {}
    parts = {name: value.arguments for name, value in values["arguments"].items() if isinstance(value, Part)}
    for what, owner in {"solver": values["arguments"], **{f"solver.{name}": part for name, part in parts.items()}}.items():
        mistakes.of(_check_forcing, owner.get("forcing"), f"{what}.forcing", [*laws])
    laws |= {name: value for name, value in values["arguments"].items() if isinstance(value, Law)}
    _check_names(named, values["arguments"], solver, axes, mistakes)
    form = data.get("coefficient" if _is_stationary(solver) else "initial")
    if form is not None:
        values["inputs"] = mistakes.of(_inputs, form, solver, [*axes, *laws], mistakes)
    values["parameters"] = laws
    if not mistakes:
        mistakes.of(try_solver, solver, values["domain"], values["arguments"], laws)


def _check_forcing(forcing, what: str, laws: list[str]) -> None:
    """Refuse a number per sample where a field is wanted: (B,) samples would be read along the last axis."""
    if isinstance(forcing, Law) or (isinstance(forcing, Expression) and forcing.used and forcing.used <= set(laws)):
        told = forcing.text if isinstance(forcing, Expression) else f"{{{forcing.kind}: {[*forcing.values]}}}"
        raise ValueError(
            f"{what} is {told}, one number per sample, which does not say where it acts; name the law under parameters and "
            'write an expression of the coordinates, for instance forcing: "amplitude * sin(2*pi*x)"'
        )


def _check_names(named: Mapping, arguments: Mapping, solver, axes: tuple[str, ...], mistakes: Mistakes) -> None:
    """Refuse parameters without a usable name, and names that would mean two things in expressions or in the file."""
    taken = {"sample": "a dimension of the file", "time": "a dimension of the file"}
    taken |= {"pi": "a number", "t": "the time", "value": "the random field in a transform"}
    for name, what in [
        *[(name, "an axis") for name in axes],
        *[(name, "a field") for name in (*([_COEFFICIENT] if _is_stationary(solver) else []), *solver.fields)],
        *[(name, "a random field among the solver's arguments") for name, value in arguments.items() if isinstance(value, RandomField)],
        *[(name, "a law among the solver's arguments") for name, value in arguments.items() if isinstance(value, Law)],
    ]:
        if name in taken:
            mistakes.append(f"{name} is {what} and {taken[name]}; give the axes other names, domain: {{..., names: [...]}}")
        taken[name] = what
    for name in named:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            mistakes.append(f"parameters has the name {name!r}; give a word of letters, digits and _, such as amplitude")
        elif name in taken:
            mistakes.append(f"the parameter {name} has the name of {taken[name]}; rename it")


def _samples(value) -> int:
    return whole(value, "samples", 1)


def _step(value) -> float | None:
    step = None if value is None else constant(value, "dt")
    if step is not None and step <= 0:
        raise ValueError(f"dt is {value!r}; give a positive time step, or leave it out")
    return step


def _keys(value) -> dict:
    if not isinstance(value, Mapping):
        raise ValueError(f"parameters is {value!r}; give names with laws, for instance {{amplitude: {{uniform: [0.1, 0.2]}}}}")
    return dict(value)


_OPTIONS = {  # key: (reader, default)
    "parameters": (_keys, {}),
    "seed": (lambda value: whole(value, "seed", 0), 0),
    "dt": (_step, None),
    "dtype": (read_dtype, "float32"),
    "batch": (lambda value: None if value is None else whole(value, "batch", 1), None),
    "checked": (lambda value: whole(value, "checked", 0), 2),
    "title": (str, ""),
    "references": (str, ""),
}


def _public(name, what: str, *methods: str):
    """Return the class of `opkernels.solvers` with this name and one of these methods; only public names are looked up."""
    found = {known: getattr(solvers, known) for known in solvers.__all__}
    found = {known: value for known, value in found.items() if any(hasattr(value, method) for method in methods)}
    if name not in found:
        raise ValueError(f"{what} is {name!r}; {hint(str(name), found)}")
    return found[name]


def _solver(value):
    if not isinstance(value, Mapping) or "name" not in value:
        raise ValueError(f"solver is {value!r}; give its name and arguments, for instance {_EXAMPLES['solver']}")
    return _public(value["name"], "solver.name", "solve")


def _domain(value) -> Domain | Sphere:
    if isinstance(value, Mapping) and "sphere" in value and set(value) <= {"sphere", "points"}:
        return Sphere(constant(value["sphere"], "domain.sphere"), **{key: value[key] for key in value if key == "points"})
    if isinstance(value, Mapping) and len(shape := {"periodic", "box", "axes"} & set(value)) == 1:
        kind = shape.pop()
        if kind == "axes" and isinstance(value["axes"], (list, tuple)) and all(isinstance(axis, Mapping) for axis in value["axes"]):
            axes = [
                dict(a) | {end: constant(a[end], f"domain.axes.{end}") for end in ("lower", "upper") if end in a} for a in value["axes"]
            ]
            return Domain.from_dict({"axes": axes})
        named = value.get("names") is None or _are_words(value["names"])
        if kind != "axes" and isinstance(value[kind], (list, tuple)) and value[kind] and named:
            lengths = [constant(length, f"domain.{kind}") for length in value[kind]]
            rest = {key: value[key] for key in value if key != kind}
            if set(rest) <= ({"names"} if kind == "periodic" else {"names", "points"}):
                return Domain.periodic(*lengths, **rest) if kind == "periodic" else Domain.box(*lengths, **rest)
    raise ValueError(
        f"domain is {value!r}; give {{periodic: [Lx, Ly]}}, {{box: [Lx, Ly], points: cell}}, {{sphere: radius}} or axes with "
        "lower and upper, and names, if any, as a list of words"
    )


def _are_words(value) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def _resolution(value, domain: Domain | Sphere) -> tuple[int, ...]:
    sizes = value if isinstance(value, (list, tuple)) else [value] * domain.ndim
    return domain.grid(*(whole(size, "resolution", 2) for size in sizes)).shape


def _value(value, what: str, names: list[str]):
    """Read a value: number, law, expression, random field, or plain data that a solver takes as it is."""
    if isinstance(value, Mapping):
        return _random_field(value, what, names) if "name" in value else read_law(value, what)
    if isinstance(value, (list, tuple)):
        return tuple(_value(item, what, names) for item in value)
    if value is None or isinstance(value, (bool, int)):  # whole numbers stay whole: some arguments count
        return value
    if isinstance(value, str) and value.isidentifier() and value not in (*names, "pi"):
        return value  # an option such as method: IFAB4
    try:
        return constant(value, what)
    except ValueError:
        return Expression(value, names) if isinstance(value, str) else constant(value, what)


def _random_field(value: Mapping, what: str, names: list[str]) -> RandomField:
    kind = _public(value["name"], f"{what}.name", "sample")
    arguments = {key: value[key] for key in value if key not in ("name", "transform")}
    _check_arguments(kind, arguments, what)
    transform = Expression(value["transform"], ["value", *names]) if "transform" in value else None
    return RandomField(kind.__name__, {key: _value(item, f"{what}.{key}", []) for key, item in arguments.items()}, transform)


def _check_arguments(kind, arguments: Mapping, what: str) -> None:
    """Refuse keyword arguments that a class does not take, and a lack of those it needs."""
    given = ("domain", "seed", "start") if hasattr(kind, "kick") else ("domain",)  # by the recipe
    known = {name: p for name, p in inspect.signature(kind).parameters.items() if name not in given}
    for name in arguments:
        if name not in known:
            raise ValueError(f"{kind.__name__} takes no {what}.{name}; {hint(name, known)}")
    missing = [name for name, p in known.items() if p.default is inspect.Parameter.empty and name not in arguments]
    if missing:
        raise ValueError(f"the key {what}.{missing[0]} is missing; {kind.__name__} needs it")


def _arguments(value: Mapping, solver, names: list[str], mistakes: Mistakes) -> dict:
    arguments = {key: value[key] for key in value if key != "name"}
    _check_arguments(solver, arguments, "solver")
    return {key: mistakes.of(_argument, item, f"solver.{key}", names) for key, item in arguments.items()}


def _argument(value, what: str, names: list[str]):
    """Read an argument of a solver: a value, or a part."""
    if isinstance(value, Mapping) and "name" in value:
        kind = _public(value["name"], f"{what}.name", "sample", "kick", "solve")
        if not hasattr(kind, "sample"):
            return _part(kind, value, what, names)
    return _value(value, what, names)


def _part(kind, value: Mapping, what: str, names: list[str]) -> Part:
    arguments = {key: value[key] for key in value if key != "name"}
    _check_arguments(kind, arguments, what)
    read = {key: _argument(item, f"{what}.{key}", names) for key, item in arguments.items()}
    for key, item in read.items():
        if isinstance(item, (Law, RandomField)):
            raise ValueError(
                f"{what}.{key} is {arguments[key]!r}, drawn for each sample; give a number, an expression or the name of a parameter"
            )
    return Part(kind.__name__, read)


def _is_vector(value) -> bool:
    """Return whether a form is a random field of several components, one for each of the solver's fields."""
    return isinstance(value, Mapping) and getattr(getattr(solvers, str(value.get("name")), None), "vector", False)


def _is_state_of(value: Mapping, solver) -> bool:
    """Return whether a random field of several components names the solver's fields as its own."""
    return getattr(getattr(solvers, str(value["name"])), "fields", None) == solver.fields


def _inputs(value, solver, names: list[str], mistakes: Mistakes) -> dict:
    """Return what each field starts from: one form for a solver of one field, else one by name."""
    wanted = (_COEFFICIENT,) if _is_stationary(solver) else solver.fields
    if _is_vector(value) and (_is_state_of(value, solver) or all(name.startswith("velocity_") for name in wanted)):
        form = mistakes.of(_value, value, "initial", names)
        return {name: dataclasses.replace(form, component=i) for i, name in enumerate(wanted)} if form else {}
    by_name = isinstance(value, Mapping) and "name" not in value and not set(value) & {"uniform", "loguniform", "choice"}
    if not by_name and len(wanted) > 1:
        raise ValueError(f"initial is {value!r}; give one for each of {', '.join(wanted)}")
    forms = value if by_name else {wanted[0]: value}
    if set(forms) != set(wanted):
        raise ValueError(f"initial names the fields {', '.join(forms)}; {solver.__name__} has {', '.join(wanted)}")
    others = {name: [other for other in wanted if other != name] if by_name else [] for name in wanted}
    read = {name: mistakes.of(_value, forms[name], f"initial.{name}" if by_name else "initial", [*names, *others[name]]) for name in wanted}
    for name, form in read.items():
        for other in form.used & set(others[name]) if isinstance(form, Expression) else ():
            if isinstance(read[other], Expression) and read[other].used & set(wanted):
                mistakes.append(f"the initial {name} uses {other}, which uses another field itself; write one of them out")
        if form is not None and (isinstance(form, bool) or not isinstance(form, (int, float, Law, Expression, RandomField))):
            mistakes.append(f"the initial {name} is {form!r}; give a number, an expression of {', '.join(names)}, or a random field")
    return read
