"""The folders `solvers` and `datasets` are packaged as opkernels.solvers and opkernels.datasets, whole."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_code_folder_is_packaged():  # one forgotten works here, not from a wheel
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = set()
    for name, folder in setup["package-dir"].items():
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.parent.relative_to(ROOT / folder).parts
            if name == "opkernels" and parts[:1] in (("solvers",), ("datasets",)):
                continue  # the links, which rglob follows on some versions of Python
            found.add(".".join((name, *parts)))
    assert found == set(setup["packages"])


def test_datasets_folder_does_not_shadow_huggingface():
    assert not (ROOT / "datasets" / "__init__.py").exists()


def test_import_is_light(tmp_path):
    """No heavy library is loaded by ``import opkernels``; torch itself comes with the first public name."""
    code = (
        "import sys; import torch; before = set(sys.modules); import opkernels; opkernels.Domain; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(new & {'scipy', 'xarray', 'h5py', 'matplotlib', 'neuralop', 'tensorly', 'yaml', 'wandb', 'pandas', 'tqdm'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.strip() == "[]"


def test_data_and_solvers_do_without_the_compiler(tmp_path):
    """Reading data must not load torch's compiler, which takes seconds."""
    rooms = "opkernels.datasets.trajectories, opkernels.solvers.navier_stokes, opkernels.spherical"
    code = f"import sys, {rooms}; print('torch._dynamo' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.strip() == "False"


def test_every_public_name_resolves():
    import opkernels

    missing = []
    for name in opkernels.__all__:
        try:
            getattr(opkernels, name)
        except (AttributeError, ImportError) as error:
            missing.append(f"{name}: {error}")
    assert not missing


def test_editors_see_the_names_that_run():
    """The imports under TYPE_CHECKING name what is imported on first use, from where it is."""
    import opkernels

    tree = ast.parse((ROOT / "opkernels" / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"opkernels.{home}" for name, home in opkernels._HOME.items()} | dict.fromkeys(opkernels._MODULES, "opkernels")
