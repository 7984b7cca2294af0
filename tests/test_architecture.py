"""Who may import whom: data flows one way through the house."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

GROUND = {"whole", "domains", "sphere"}
BASE = GROUND | {"transforms", "bases", "coefficients", "mode_selection", "spherical", "neighbors", "particles", "resample"}
LEARNED = BASE | {"layers", "models"}
KNOWN = BASE | {"solvers", "datasets"}
MIDDLE = {"losses", "metrics", "normalization", "storage", "surrogate"}
ROOF = LEARNED | KNOWN | MIDDLE | {"configuration", "distributed", "training", "evaluation"}

ALLOWED = {  # room -> rooms it may import from
    "whole": set(),
    "domains": {"whole"},
    "sphere": {"domains"},
    "transforms": GROUND,
    "bases": GROUND | {"transforms"},
    "coefficients": GROUND | {"bases"},
    "mode_selection": GROUND | {"transforms", "bases"},
    "spherical": BASE,
    "neighbors": BASE,
    "particles": BASE,
    "resample": BASE,
    "layers": BASE | {"layers"},
    "models": LEARNED,
    "solvers": BASE | {"solvers"},
    "datasets": KNOWN | {"storage"},
    "losses": BASE | {"metrics"},
    "metrics": BASE,
    "normalization": BASE,
    "configuration": set(),
    "storage": set(),
    "surrogate": LEARNED | {"normalization", "datasets", "storage"},
    "training": ROOF,
    "evaluation": ROOF,
    "interop": LEARNED,
    "distributed": {"domains", "transforms"},
    "demo": ROOF | {"storage"},
    "cli": ROOF | {"interop"},
    "__main__": {"cli"},
    "__init__": ROOF | {"interop"},
}
HEAVY = {
    "scipy",
    "xarray",
    "h5py",
    "h5netcdf",
    "matplotlib",
    "neuralop",
    "tensorly",
    "tltorch",
    "yaml",
    "tqdm",
    "pandas",
    "PIL",
    "safetensors",
    "skfem",
    "dask",
}


def modules():
    """Yield (room, path, tree) for every file of the package, following its two links."""
    for base, prefix in (("opkernels", ()), ("solvers", ("solvers",)), ("datasets", ("datasets",))):
        for path in sorted((ROOT / base).rglob("*.py")):
            parts = path.relative_to(ROOT / base).with_suffix("").parts
            if base == "opkernels" and parts[0] in ("solvers", "datasets"):
                continue
            yield (prefix + parts)[0], path, ast.parse(path.read_text())


def imported(tree, room):
    """Names of the package's rooms that a file imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "opkernels" and len(parts) > 1:
                yield parts[1]


def test_imports_go_one_way():
    wrong, seen = [], set()
    for room, path, tree in modules():
        seen.add(room)
        if room == "__init__":
            continue
        for name in imported(tree, room):
            if name != room and name not in ALLOWED[room] and name != "__version__":
                wrong.append(f"{path.relative_to(ROOT)} imports opkernels.{name}")
    assert not wrong
    assert seen <= set(ALLOWED), f"give the new room a rule: {seen - set(ALLOWED)}"


def test_heavy_libraries_are_imported_where_they_are_used():
    wrong = []
    for _, path, tree in modules():
        for node in tree.body:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            wrong += [f"{path.relative_to(ROOT)} imports {n} at the top" for n in names if n.split(".")[0] in HEAVY]
    assert not wrong


def test_every_file_says_what_it_is_for():
    silent = [str(path.relative_to(ROOT)) for _, path, tree in modules() if not ast.get_docstring(tree)]
    assert not silent


def test_files_use_public_names_of_one_another_only():
    wrong = []
    for folder in ("opkernels", "solvers", "datasets", "examples", "paper_figs", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opkernels"):
                    wrong += [f"{path.relative_to(ROOT)}: {a.name}" for a in node.names if re.match("_[^_]", a.name)]
    assert not wrong
