"""What a model was built with, so that a file can name a model by plain data instead of code."""

from __future__ import annotations

import functools
import inspect

from torch import nn

__all__ = ["remember_arguments"]


def remember_arguments(model: type[nn.Module]) -> None:
    """Make instances of a model keep the arguments they were built with in ``arguments`` (a dict, without the domain).

    Only what the caller gave is kept: defaults follow the version of the package that reads a file.
    A subclass's arguments win over those it hands on to its parent.
    """
    build = model.__init__
    signature = inspect.signature(build)

    @functools.wraps(build)
    def __init__(self, *args, **kwargs):
        if "arguments" not in self.__dict__:
            given = signature.bind(self, *args, **kwargs).arguments
            names = list(given)[1:]
            object.__setattr__(self, "arguments", {name: given[name] for name in names if name != "domain"})
        build(self, *args, **kwargs)

    model.__init__ = __init__
