"""Values that every kind of recipe reads alike: whole numbers, times, laws, and the list of its mistakes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from opkernels.datasets.arguments import Law
from opkernels.datasets.expressions import constant

__all__ = ["Mistakes", "hint", "read_dtype", "read_law", "read_times", "whole"]

_MOST_TIMES = 100_000


class Mistakes(list):
    """What is wrong with a recipe."""

    def of(self, read: Callable, *arguments) -> Any:
        """Return what `read` makes of the arguments, or note its complaint."""
        try:
            return read(*arguments)
        except ValueError as error:
            self.append(str(error))
            return None

    def refuse(self, recipe) -> None:
        """Raise all of them in one sentence, if there are any."""
        if self:
            name = "the recipe" if isinstance(recipe, Mapping) else f"recipe {recipe}"
            many = f" has {len(self)} mistakes" if len(self) > 1 else ""
            raise ValueError(f"{name}{many}: " + "; also, ".join(self))


def hint(name: str, known) -> str:
    """Return what was probably meant by a name, or what there is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def whole(value, what: str, lowest: int) -> int:
    """Return a whole number of at least `lowest`."""
    number = constant(value, what)
    if number != int(number) or number < lowest or number >= 1 << 32:
        raise ValueError(f"{what} is {value!r}; give a whole number of at least {lowest}")
    return int(number)


def read_dtype(value) -> str:
    """Return float32 or float64."""
    if value not in ("float32", "float64"):
        raise ValueError(f"dtype is {value!r}; choose float32 or float64")
    return value


def read_times(value) -> tuple[float, ...]:
    """Return output times from a list or ``start, stop, count``."""
    if isinstance(value, Mapping):
        if not {"stop", "count"} <= set(value) <= {"start", "stop", "count"}:
            raise ValueError(f"times is {value!r}; give start (0 if left out), stop and count, or a list")
        start, stop = constant(value.get("start", 0), "times.start"), constant(value["stop"], "times.stop")
        count = whole(value["count"], "times.count", 2)
        if count > _MOST_TIMES:
            raise ValueError(f"times.count is {count}; give at most {_MOST_TIMES} output times")
        times = [start + (stop - start) * i / (count - 1) for i in range(count)]
    elif isinstance(value, (list, tuple)) and value:
        times = [constant(time, "times") for time in value]
    else:
        raise ValueError(f"times is {value!r}; give {{stop: 10, count: 11}} or a list of times")
    if times[0] < 0 or any(b <= a for a, b in zip(times[:-1], times[1:], strict=True)):
        raise ValueError(f"times run from {times[0]:g} to {times[-1]:g}; they start at 0 or later and increase")
    return tuple(times)


def read_law(value, what: str) -> Law:
    """Return how a number is drawn for each sample."""
    if isinstance(value, Mapping) and len(value) == 1:
        kind, numbers = next(iter(value.items()))
        if kind in ("uniform", "loguniform", "choice") and isinstance(numbers, (list, tuple)) and numbers:
            values = tuple(constant(number, what) for number in numbers)
            bounded = len(values) == 2 and values[0] < values[1] and (kind == "uniform" or values[0] > 0)
            if kind == "choice" or bounded:
                return Law(kind, values)
    raise ValueError(
        f"{what} is {value!r}; give {{uniform: [low, high]}}, {{loguniform: [low, high]}} with 0 < low < high, or {{choice: [a, b]}}"
    )
