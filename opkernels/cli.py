"""The command line ``opkernels COMMAND ...``: a table of commands, each run by a function of the wing it belongs to.

To add a command, add a row to `COMMANDS`. Its `home` names a function ``run(arguments)`` that takes
the parsed arguments and returns nothing or an exit code; it is imported only when the command runs,
so that ``--help`` needs no heavy library.

Exit codes: 0 done, 1 the answer is no (a certificate that failed, say), 2 bad input or a fault of the machine, told in
one sentence, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from opkernels import __version__

__all__ = ["COMMANDS", "Command", "arg", "main"]


@dataclass(frozen=True)
class Command:
    """One row of the table.

    Parameters
    ----------
    name, summary : str
        What is typed, and what it does in one line.
    home : str
        ``module:function`` under `opkernels`, imported when the command runs.
    arguments : tuple
        Rows made by `arg`, handed to ``argparse.ArgumentParser.add_argument``.
    examples : str
        Lines shown at the end of ``--help``.
    """

    name: str
    summary: str
    home: str
    arguments: tuple = ()
    examples: str = ""


def arg(*flags: str, **options) -> tuple[tuple[str, ...], dict]:
    """Describe one argument in the words of ``argparse.ArgumentParser.add_argument``."""
    return flags, options


FORMATS = ("native", "pdebench", "the_well", "pdearena", "mat", "mat73", "neuralop", "lagrangebench")  # of `convert`
OVERRIDES = arg("overrides", nargs="*", metavar="key=value", help="change a value of the file: samples=8, solver.viscosity=1e-4")
RUN = (
    arg("run", metavar="RUN", help="the folder of a run"),
    arg("--config", metavar="FILE", help="the configuration it was trained with, where that names your own model"),
    arg("--device", metavar="D", help="cpu, cuda or cuda:1 (default: a GPU where there is one)"),
)
TRUTH = (
    arg("--data", metavar="FILE", help="a dataset to compare with (default: the one it was trained on)"),
    arg("--part", choices=("test", "validation", "train"), help="which of the run's samples (default: those put aside for the test)"),
    arg("--samples", type=int, metavar="N", help="only the first so many"),
    arg("-o", "--output", metavar="FOLDER", help="where results go (default: a folder in RUN)"),
)

COMMANDS = (
    Command(
        "demo",
        "the whole loop, small, on this machine, with pictures",
        "demo:run",
        (arg("-o", "--output", default="demo", metavar="FOLDER", help="where it happens (default: demo)"),),
        "opkernels demo",
    ),
    Command(
        "generate",
        "solve a recipe and store the dataset",
        "datasets.generation:run",
        (
            arg("recipe", nargs="?", metavar="RECIPE", help="a bundled recipe's name, or a YAML file"),
            OVERRIDES,
            arg("-o", "--output", metavar="FILE", help="where the dataset goes (default: RECIPE.nc in this folder)"),
            arg("--workers", type=int, metavar="N", help="processes (default: one per core)"),
            arg("--dask", metavar="ADDRESS", help="the workers of this dask scheduler instead, such as tcp://node1:8786"),
            arg("--list", action="store_true", help="list the bundled recipes and stop"),
        ),
        "opkernels generate fno_navier_stokes_1e-3 samples=20 -o ns.nc\n"
        "opkernels generate my_recipe.yaml resolution=128 solver.viscosity=1e-4 --workers 4\n"
        "opkernels generate --list",
    ),
    Command(
        "train",
        "train a model on a dataset, or go on with a run that was cut off",
        "training.commands:run",
        (
            arg("config", metavar="CONFIG", help="a YAML file, or the folder of a run to go on with"),
            arg("overrides", nargs="*", metavar="key=value", help="change a value of the file: training.lr=3e-4, model.n_modes=[16,16]"),
            arg("--resume", action="store_true", help="go on with the run in the folder, bit by bit what it would have become"),
            arg("--quiet", action="store_true", help="print nothing"),
        ),
        "opkernels train ns2d.yaml training.epochs=20 run_dir=runs/short\n"
        "opkernels train runs/short --resume\n"
        "opkernels train ns2d.yaml 'training.seeds=[0,1,2]'\n"
        "torchrun --nproc-per-node 2 -m opkernels train ns2d.yaml",
    ),
    Command(
        "evaluate",
        "errors of a run at any resolutions, seen and unseen, beside two baselines, with pictures",
        "evaluation.commands:run_evaluate",
        (
            *RUN,
            arg("--resolution", nargs="+", metavar="N", help="64, or 96x80 (default: that of the training and of the data)"),
            arg("--steps", type=int, metavar="N", help="length of the rollout in frames (default: as long as the data)"),
            arg(
                "--coverage", type=float, metavar="P", help="also bands that hold the truth so often, calibrated on the validation samples"
            ),
            *TRUTH,
        ),
        "opkernels evaluate runs/ns2d --resolution 64 96x80 128 256\n"
        "opkernels evaluate runs/ns2d --resolution 64 128 --coverage 0.9\n"
        "opkernels evaluate runs/ns2d --data other.nc --steps 5 -o elsewhere",
    ),
    Command(
        "rollout",
        "run a surrogate on its own answers, further than the data: errors, spectra, animation",
        "evaluation.commands:run_rollout",
        (
            *RUN,
            arg("--steps", type=int, metavar="N", help="frames (default: as many as the data hold)"),
            arg("--resolution", metavar="N", help="64, or 96x80 (default: that of the training)"),
            *TRUTH,
        ),
        "opkernels rollout runs/ns2d --steps 200\nopkernels rollout runs/ns2d --resolution 128 --samples 2",
    ),
    Command(
        "transfer",
        "the resolution-transfer table: models x datasets, trained at one resolution, asked at others",
        "evaluation.transfer:run",
        (
            arg("config", metavar="CONFIG", help="a YAML file with the sections datasets, models and training"),
            arg("overrides", nargs="*", metavar="key=value", help="change a value of the file: minutes=1, training.seeds=[0]"),
            arg("--workers", type=int, metavar="N", help="cells at once, each in a process of one thread (default: 1)"),
            arg("--quiet", action="store_true", help="print nothing"),
        ),
        "opkernels transfer examples/configs/transfer.yaml\nopkernels transfer table.yaml minutes=1 'training.seeds=[0]' --workers 2",
    ),
    Command(
        "certify",
        "is the model of a run the same operator on every grid?",
        "evaluation.commands:run_certify",
        (
            *RUN,
            arg("--tolerance", type=float, metavar="E", help="largest error from 64 samples per axis on (default: 1e-3)"),
            arg("--single", action="store_true", help="test in float32 (default: float64)"),
        ),
        "opkernels certify runs/ns2d\nopkernels certify runs/local_no --tolerance 0.02",
    ),
    Command(
        "inspect",
        "say what is in a dataset: fields, domain, times, parameters, provenance",
        "datasets.inspection:run",
        (
            arg("file", metavar="FILE", help="a dataset"),
            arg("--picture", metavar="PNG", help="draw samples of every field at several times into this file"),
        ),
        "opkernels inspect ns.nc\nopkernels inspect ns.nc --picture ns.png",
    ),
    Command(
        "convert",
        "turn a file of PDEBench, The Well, PDEArena, neuraloperator, FNO or LagrangeBench into ours, or ours into theirs",
        "datasets.formats.command:run",
        (
            arg("file", metavar="FILE", help="a file, or a folder of LagrangeBench; its format is told by its content"),
            arg("out", metavar="OUT", help="what to write; a file already there is replaced once the new one is complete"),
            arg("--to", required=True, choices=FORMATS, help="the format of OUT: " + ", ".join(FORMATS), metavar="FORMAT"),
            arg("--periodic", choices=("yes", "no"), help="whether the domain is periodic, where FILE does not say it"),
            arg(
                "--part",
                default="train",
                choices=("train", "valid", "test"),
                help="of LagrangeBench's and PDEArena's data (default: train)",
            ),
            arg("--patience", type=float, metavar="SECONDS", help="give a file up whose reading stands still (default: 60, more if large)"),
        ),
        "opkernels convert 2D_DarcyFlow_beta1.0_Train.hdf5 darcy.nc --to native\n"
        "opkernels convert flow.nc flow.hdf5 --to the_well\n"
        "opkernels convert NavierStokes_V1e-5_N1200_T20.mat ns.nc --to native --periodic yes",
    ),
    Command(
        "info",
        "versions of the libraries, devices and threads of this machine",
        "cli:info",
        (),
        "opkernels info",
    ),
)


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one sentence."""

    def error(self, message: str):
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def _overview() -> str:
    width = max(len(command.name) for command in COMMANDS)
    rows = "\n".join(f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS)
    examples = "\n".join(f"  {command.examples.splitlines()[0]}" for command in COMMANDS if command.examples)
    return (
        "usage: opkernels COMMAND ...\n\nNeural operators that mean the same on every grid, and the PDE solvers they learn from.\n\n"
        f"commands (opkernels COMMAND --help says more):\n{rows}\n\nexamples:\n{examples}\n"
    )


def _parser(command: Command) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"opkernels {command.name}",
        description=command.summary[0].upper() + command.summary[1:] + ("" if command.summary.endswith("?") else "."),
        epilog="examples:\n" + "\n".join(f"  {line}" for line in command.examples.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for flags, options in command.arguments:
        parser.add_argument(*flags, **options)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after ``opkernels``; by default those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(), end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"opkernels {__version__}")
        return 0
    table = {command.name: command for command in COMMANDS}
    if words[0] not in table:
        close = difflib.get_close_matches(words[0], table, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(table)}"
        print(f"opkernels: there is no command {words[0]!r}; {hint}", file=sys.stderr)
        return 2
    command = table[words[0]]
    try:
        arguments = _parser(command).parse_intermixed_args(words[1:])
    except SystemExit as stop:  # argparse has spoken: --help, or a sentence on what is wrong
        return int(stop.code or 0)
    return _run(command, arguments)


def _run(command: Command, arguments: argparse.Namespace) -> int:
    module, function = command.home.split(":")
    try:
        code = int(getattr(import_module(f"opkernels.{module}"), function)(arguments) or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output, head for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"opkernels {command.name}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if arguments.debug:
            raise
        print(f"opkernels {command.name}: {error}", file=sys.stderr)
        return 2


def info(arguments: argparse.Namespace) -> None:
    """Print the versions of the libraries and what the machine offers."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    rows = [("opkernels", __version__), ("python", platform.python_version()), ("system", platform.platform())]
    for name in ("torch", "numpy", "scipy", "h5py", "h5netcdf", "xarray", "neuraloperator", "tensorly", "safetensors"):
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "not installed"))
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows += [("cores", str(os.cpu_count())), ("threads", str(torch.get_num_threads())), ("GPUs", ", ".join(gpus) or "none")]
    for name, value in rows:
        print(f"{name:<16}{value}")
