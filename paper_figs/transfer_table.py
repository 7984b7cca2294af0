"""The resolution-transfer table: six families and four peers, trained at one resolution, asked at others never seen.

| dataset     | what is learned                                                           | trained at | asked at                         |
| ----------- | ------------------------------------------------------------------------- | ---------- | -------------------------------- |
| forced flow | one step of the recipe navier_stokes_demo: smooth, resolved by 32         | 32         | 16, 32, 64, 128, 48x40           |
| turbulence  | one step of 0.25, viscosity 0.002, cos 4x + cos 4y: 32 does not resolve it | 32         | 16, 32, 64, 128, 48x40           |
| waves       | one step of 0.1 on a torus whose speed of sound is drawn anew             | 32         | 16, 32, 64, 128, 48x40           |
| Darcy       | rocks to pressure, third-party files, which end at 32                     | 16         | 8, 16, 32, 16x32                 |

All are solved (or given) at the finest resolution; the others are that function restricted, so every column has its own truth. Equal
budgets of CPU time for training; sizes are a column. Widths, modes and learning rates were fixed beforehand: those of the demo, 1e-3 for
U-Net and FactFormer. The modes of T1 are all that its output has, so there they are those that the training grid resolves.
Three seeds on the two flows, one on the others.

Each finished cell is a file in runs/transfer/table/cells and is skipped on restart. Copies are in transfer_table/cells, tables and pictures
beside them, in docs/transfer.md, and in README.md the shortest.

    OMP_NUM_THREADS=1 python paper_figs/transfer_table.py --darcy FOLDER [--minutes 1] [--datasets waves] [--models FNO]
    python paper_figs/transfer_table.py          (only writes the stored numbers into the pages)

FOLDER holds neuraloperator's darcy_train_16.pt and darcy_test_32.pt.
"""

import argparse
import copy
import json
import shutil
from pathlib import Path

from studies import write_between

import opkernels as ok
from opkernels.datasets.formats.neuralop import read_darcy
from opkernels.evaluation.tables import percent
from opkernels.evaluation.transfer_table import collect, markdown, over_seeds, write_tables

OWN = Path(__file__).with_suffix("")
ROOT = Path(__file__).parents[1]
BEGIN = "<!-- table: python paper_figs/transfer_table.py -->"
TURBULENCE = {
    "title": "Forced turbulence",
    "solver": {"name": "NavierStokes2D", "viscosity": 2e-3, "forcing": "cos(4*x) + cos(4*y)", "drag": 0.1},
    "domain": {"periodic": ["2*pi", "2*pi"]},
    "initial": {"name": "GaussianRandomField", "alpha": 4, "tau": 5, "sigma": 100},
    "times": {"start": 10, "stop": 14, "count": 17},
    "resolution": [128, 128],
    "samples": 80,
    "seed": 0,
    "dtype": "float32",
    "batch": 4,
    "checked": 0,
}
WAVES = {
    "title": "Waves in a heterogeneous medium",
    "solver": {"name": "Wave2D", "speed": {"name": "GaussianRandomField", "alpha": 4, "tau": 8, "transform": "exp(0.6 * value)"}},
    "domain": {"periodic": [1, 1]},
    "initial": {"displacement": {"name": "RandomBumps", "count": [1, 4], "width": [0.06, 0.12], "amplitude": [0.5, 1]}, "velocity": 0},
    "times": {"start": 0, "stop": 0.8, "count": 9},
    "resolution": [128, 128],
    "samples": 100,
    "seed": 0,
    "dtype": "float32",
    "checked": 0,
}
SPLIT = {"train": 0.7, "validation": 0.15, "test": 0.15}
FINER = {"resolutions": [16, 32, 64, 128, [48, 40]]}
DATASETS = {
    "forced flow": {"data": {"path": "forced_flow.nc", "resolution": 32, "split": SPLIT}, **FINER},
    "turbulence": {"data": {"path": "turbulence.nc", "resolution": 32, "split": SPLIT}, "steps": 4, **FINER},
    "waves": {
        "data": {
            "path": "waves.nc",
            "inputs": ["displacement", "velocity", "speed"],
            "outputs": ["displacement", "velocity"],
            "resolution": 32,
            "split": SPLIT,
        },
        "training": {"seeds": [0]},
        **FINER,
    },
    "Darcy": {
        "data": {
            "path": "darcy_train.nc",
            "inputs": ["coefficient"],
            "outputs": ["pressure"],
            "split": {"train": 0.9, "validation": 0.1, "test": 0},
        },
        "test": ["darcy_test.nc"],
        "resolutions": [8, 16, 32, [16, 32]],
        "training": {"seeds": [0]},
    },
}
MODES, WIDTH, SLOW = [12, 12], 24, {"training": {"lr": 1e-3}}
MODELS = {
    "FNO": {"n_modes": MODES, "hidden_channels": WIDTH, "positional_embedding": "harmonics"},
    "T1": {"n_modes": [31, 31], "hidden_channels": WIDTH},
    "TFNO": {"n_modes": MODES, "hidden_channels": WIDTH, "rank": 0.1, "positional_embedding": "harmonics"},
    "MGTFNO": {"n_modes": MODES, "hidden_channels": WIDTH, "rank": 0.1, "levels": 1},
    "LocalNO": {"n_modes": MODES, "hidden_channels": WIDTH, "positional_embedding": "harmonics"},
    "FactFormer": {"hidden_channels": 48, "n_layers": 3, "n_heads": 4, "bandwidth": 7, "positional_embedding": "harmonics", **SLOW},
    "FFNO": {"n_modes": MODES, "hidden_channels": WIDTH, "positional_embedding": "harmonics"},
    "UNet": {"hidden_channels": 16, **SLOW},
    "neuraloperator's FNO": {"name": "neuralop.models.FNO", "n_modes": MODES, "hidden_channels": WIDTH},
    "neuraloperator's UNO": {
        "name": "neuralop.models.UNO",
        "hidden_channels": WIDTH,
        "n_layers": 3,
        "channel_mlp_skip": "linear",
        "uno_out_channels": [WIDTH, WIDTH, WIDTH],
        "uno_n_modes": [MODES, [8, 8], MODES],
        "uno_scalings": [[1.0, 1.0], [0.5, 0.5], [2.0, 2.0]],
    },
}
OWN_MODELS = {"Darcy": {"T1": MODELS["T1"] | {"n_modes": [16, 16]}}}  # what differs on a dataset


def make_data(folder: Path, darcy: Path) -> None:
    """Write the five files that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    recipes = {
        "forced_flow": ("navier_stokes_demo", {"samples": 100, "resolution": [128, 128]}),
        "turbulence": (TURBULENCE, {}),
        "waves": (WAVES, {}),
    }
    for name, (recipe, changes) in recipes.items():
        if not (folder / f"{name}.nc").exists():
            ok.generate(recipe, folder / f"{name}.nc", **changes)
    for name, file in {"darcy_train": "darcy_train_16.pt", "darcy_test": "darcy_test_32.pt"}.items():
        if not (folder / f"{name}.nc").exists():
            read_darcy(darcy / file).save(folder / f"{name}.nc")


def configuration(arguments: argparse.Namespace, dataset: str) -> dict:
    """Return the part of the table that a dataset is, as a mapping for `opkernels.transfer`."""
    row = copy.deepcopy(DATASETS[dataset])
    row["data"]["path"] = str(arguments.folder / row["data"]["path"])
    if "test" in row:
        row["test"] = [str(arguments.folder / name) for name in row["test"]]
    models = MODELS | OWN_MODELS.get(dataset, {})
    return {
        "run_dir": str(arguments.folder / "table"),
        "datasets": {dataset: row},
        "models": {name: models[name] for name in arguments.models},
        "training": {"batch_size": 8, "lr": 3e-3, "seeds": arguments.seeds},
        "minutes": arguments.minutes,
        "coverage": 0.9,
    }


def finished():
    """Return the finished cells as one dataset."""
    cells = [json.loads(path.read_text()) for path in sorted(OWN.glob("cells/*/*.json"))]
    return collect((list(DATASETS), list(MODELS), [0, 1, 2]), cells)


def short(table) -> str:
    """Return one line per model: its error where it was trained and at the finest resolution, on every dataset, the least in bold."""
    shown, columns = [], []
    for name in DATASETS:
        part = table.sel(dataset=name)
        trained = str(part.training_resolution.values)
        finest = [r for r in part.resolution.values if part.rollout.sel(resolution=r).notnull().any()][-1]
        errors = over_seeds(part, "rollout").sel(resolution=[trained, finest])
        shown.append(f"{name}, {trained} to {finest}")
        columns.append((errors, errors.min("model")))
    lines = ["| model | " + " | ".join(shown) + " |", "|" + " --- |" * (len(shown) + 1)]
    for model in MODELS:
        cells = [
            " to ".join(_bold(e, b) for e, b in zip(errors.sel(model=model).values, best.values, strict=True)) for errors, best in columns
        ]
        lines.append("| " + " | ".join([model, *("-" if cell == "- to -" else cell for cell in cells)]) + " |")
    return "\n".join(lines)


def _bold(error: float, best: float) -> str:
    text = percent(error)
    return f"**{text}**" if error == best else text


def pages() -> dict[Path, str]:
    """Return what the pages hold between their marks."""
    table = finished()
    return {ROOT / "docs" / "transfer.md": markdown(table), ROOT / "README.md": short(table)}


def write_pages() -> None:
    for page, text in pages().items():
        write_between(page, BEGIN, text)


def main() -> None:
    """Make the data, train and evaluate what is missing, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--darcy", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--minutes", type=float, default=1.0, help="of CPU, to train a cell")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    if arguments.darcy:
        make_data(arguments.folder, arguments.darcy)
        for dataset in arguments.datasets:
            ok.transfer(configuration(arguments, dataset))
        shutil.copytree(arguments.folder / "table" / "cells", OWN / "cells", dirs_exist_ok=True)
    write_tables(finished(), OWN)
    (OWN / "table.nc").unlink()  # the cells hold as much
    shutil.copy(OWN / "turbulence_curves.png", ROOT / "docs" / "images" / "transfer_turbulence.png")
    write_pages()


if __name__ == "__main__":
    main()
