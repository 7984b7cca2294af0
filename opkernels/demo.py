"""The command ``opkernels demo``: the whole loop, small, on this machine, with pictures.

Solve forced Navier-Stokes at 64x64, train an FNO on it, solve flows it has not seen at 256x256, and measure its error
at 64x64, 96x80, 128x128 and 256x256. Each step is a command that one could have typed, and is shown as such.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from opkernels.storage import write_text

if TYPE_CHECKING:
    import xarray

__all__ = ["COMMANDS", "promise", "run"]

CONFIG = Path(__file__).with_name("demo.yaml")
COMMANDS = (
    "generate navier_stokes_demo -o train.nc",
    "generate navier_stokes_demo resolution=256 samples=6 seed=1 -o test.nc",
    "train demo.yaml",
    "evaluate run --data test.nc",
    "rollout run --data test.nc --resolution 128",
)
_MARK = ".opkernels-demo"


def run(arguments: argparse.Namespace) -> int:
    """Run ``opkernels demo``: 0 where the promise was kept, 1 where not. ``arguments``: output.

    Raises
    ------
    ValueError
        If the folder exists and was not made by a demo, or a step fails.
    """
    folder = Path(arguments.output)
    _prepare(folder)
    start = time.perf_counter()
    for command in COMMANDS:
        print(f"\n$ opkernels {command}", flush=True)
        # A worker of a data set needs no threads of its own; training takes every core.
        done = subprocess.run([sys.executable, "-m", "opkernels", *command.split()], cwd=folder, check=False)
        if done.returncode:
            raise ValueError(f"the step `opkernels {command}` failed in {folder}; its message is above")
    import xarray

    wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    kept, text = promise(xarray.load_dataset(folder / "run" / "evaluation" / "errors.nc"))
    print(f"\n{text}\n\n{wall:.0f} s on {os.cpu_count()} cores ({used.ru_utime + used.ru_stime:.0f} CPU seconds). ", end="")
    print(f"Pictures are in {folder / 'run'}/evaluation and /rollout; change {folder / 'demo.yaml'} and try your own.")
    return 0 if kept else 1


def promise(errors: xarray.Dataset) -> tuple[bool, str]:
    """Say whether a model trained at one resolution has the same error at the others, and beats standing still.

    Parameters
    ----------
    errors : xarray.Dataset
        Of `opkernels.evaluate`.

    Returns
    -------
    kept : bool
        Whether the one-step error is below 5 % and a quarter of persistence's at the training resolution, and within
        10 % of that value at every other.
    text : str
        The same in a sentence, with the numbers.
    """
    step = errors.one_step_rel_l2.mean("time")
    home = errors.attrs["training_resolution"]
    model, still = (float(step.sel(predictor=p, resolution=home)) for p in ("model", "persistence"))
    away = {str(r): float(step.sel(predictor="model", resolution=r)) for r in errors.resolution.values if str(r) != home}
    change = max(abs(error / model - 1) for error in away.values())
    kept = model < 0.05 and model * 4 < still and change < 0.1
    others = ", ".join(f"{100 * error:.2f} % at {name}" for name, error in away.items())
    text = (
        f"Trained at {home}: one-step error {100 * model:.2f} % there (standing still: {100 * still:.1f} %), {others}.\n"
        f"It changes by at most {100 * change:.1f} % of its value between resolutions: the promise was {'kept' if kept else 'NOT kept'}."
    )
    return kept, text


def _prepare(folder: Path) -> None:
    """Make an empty folder for the demo, clearing what an earlier demo left."""
    if folder.exists() and not (folder / _MARK).is_file():
        raise ValueError(f"{folder} exists and was not made by opkernels demo; choose another folder with -o FOLDER")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_text(folder / _MARK, "This folder was made by `opkernels demo`, which may clear it.\n")
    write_text(folder / "demo.yaml", CONFIG.read_text(encoding="utf-8"))
