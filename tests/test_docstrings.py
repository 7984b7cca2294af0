"""The examples in the docstrings of every module run as they stand, and every solver has one.

Lines marked ``# doctest: +SKIP`` are left out, as are the examples of extras that are not installed.
"""

import doctest
import importlib
import importlib.util
import pkgutil
from pathlib import Path

import pytest
import torch

import opkernels
from opkernels import solvers

EXTRAS = {"opkernels.solvers.wave_mesh": "skfem"}


def shown():
    """Names of the modules with an example."""
    for found in pkgutil.walk_packages(opkernels.__path__, "opkernels."):
        if not found.ispkg and not found.name.endswith("__main__"):
            spec = importlib.util.find_spec(found.name)
            if spec and spec.origin and ">>> " in Path(spec.origin).read_text():
                yield found.name


@pytest.mark.parametrize("name", sorted(shown()))
def test_examples_run(name, tmp_path, monkeypatch):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted and not result.failed


def test_every_solver_shows_an_example():
    classes = [value for value in map(solvers.__dict__.get, solvers.__all__) if hasattr(value, "solve")]
    assert {value.__module__ for value in classes} <= set(shown())
