"""Models by their names in a configuration: looked up, and the names of their arguments checked."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from pathlib import Path

from torch import nn

from opkernels import models

__all__ = ["find_model", "mistakes_in_model"]

_FOLLOWS = dict.fromkeys(("domain", "in_channels", "out_channels", "n_parameters"), "the data") | {"window": "training.window"}


def find_model(name: str, base: Path) -> Callable[..., nn.Module]:
    """Return the class of `opkernels.models`, or whatever a dotted path names, modules beside the configuration (in `base`) included."""
    if "." not in name:
        return getattr(models, name)
    module, _, attribute = name.rpartition(".")
    try:
        with _beside(base):
            found = import_module(module)
    except ImportError as error:
        raise ValueError(f"model.name: cannot import {module} ({error}); install it, or put it beside the configuration") from error
    if not hasattr(found, attribute):
        near = difflib.get_close_matches(attribute, dir(found), n=1)
        raise ValueError(f"model.name: {module} has no {attribute}" + (f"; did you mean {near[0]}?" if near else ""))
    return getattr(found, attribute)


@contextlib.contextmanager
def _beside(base: Path) -> Iterator[None]:
    """Let modules beside the configuration be found."""
    sys.path.insert(0, str(base.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(base.resolve()))


def mistakes_in_model(name: str, arguments: Collection[str]) -> list[str]:
    """Return what is wrong with the name and the names of arguments of a model of `opkernels.models`; dotted names are not looked up."""
    if "." in name:
        return []
    if name not in models.__all__:
        near = difflib.get_close_matches(name, models.__all__, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(models.__all__)}"
        return [f"model.name: got {name!r}; {hint}"]
    accepted = inspect.signature(getattr(models, name)).parameters
    options = [key for key in accepted if key not in _FOLLOWS]
    found = []
    for key in arguments:
        if key in _FOLLOWS:
            found.append(f"model.{key}: follows from {_FOLLOWS[key]}; leave it out")
        elif key not in accepted:
            near = difflib.get_close_matches(key, options, n=1)
            found.append(f"model.{key}: is unknown; " + (f"did you mean {near[0]}?" if near else f"choose one of {', '.join(options)}"))
    for key in options:
        if accepted[key].default is inspect.Parameter.empty and key not in arguments:
            found.append(f"model.{key}: is missing; {name} needs it")
    return found
