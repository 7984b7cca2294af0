"""Every speed comparison against peers in one session: one benchmark after another, each in its own processes, on one thread.

    python benchmarks/run_all.py [--only fno_speed sfbc_speed] [--exponax PYTHON] [--jax-sph PYTHON] [--torch-harmonics FOLDER]

Nothing else should run meanwhile. Each benchmark writes its ratios, floors and memory to benchmarks/results; what the session was, how long
each took and which ones failed goes to benchmarks/results/session.json. A peer that is not named is left out, and so is a
benchmark that is nothing without it. In all about an hour.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results" / "session.json"


def benchmarks(given: argparse.Namespace) -> dict[str, list[str] | None]:
    """Return the arguments of each benchmark; None where its peer is missing."""

    def peer(option: str, value: str | None) -> list[str]:
        return [option, value] if value else []

    return {
        "fno_speed": [],
        "t1_speed": [],
        "tfno_contraction": [],
        "mg_memory": [],
        "compressed_memory": [],
        "local_integral_speed": peer("--path", given.torch_harmonics),
        "factformer_speed": [],
        "sfbc_speed": [],
        "neighbors": [],
        "navier_stokes_cost": [],
        "periodic_cost": peer("--peer", given.exponax),
        "darcy_cost": [],
        "wave_cost": [],
        "projection_cost": [],
        "sph_cost": peer("--peer", given.jax_sph),
        "spherical_speed": peer("--path", given.torch_harmonics) or None,
        "shallow_water": ["cost"] if given.torch_harmonics else None,
        "distributed_memory": [],
        "store_reads": [],
        "surrogate_vs_solver": [],
        "darcy_fno": peer("--data", given.darcy) or None,
    }


def run(name: str, arguments: list[str], path: str | None) -> dict:
    """Run one benchmark; return its exit status and CPU seconds."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if path and name == "shallow_water":
        environment["PYTHONPATH"] = path
    before, start = os.times(), time.time()
    status = subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), *arguments], env=environment, check=False).returncode
    after = os.times()
    seconds = after.children_user - before.children_user + after.children_system - before.children_system
    return {"status": status, "cpu_seconds": round(seconds, 1), "seconds": round(time.time() - start, 1), "load": os.getloadavg()[0]}


def main() -> None:
    """Run the benchmarks that were asked for and keep what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exponax", metavar="PYTHON", help="an interpreter that has exponax")
    parser.add_argument("--jax-sph", metavar="PYTHON", help="an interpreter that has jax-sph")
    parser.add_argument("--torch-harmonics", metavar="FOLDER", help="where torch-harmonics was installed")
    parser.add_argument("--darcy", metavar="FOLDER", help="where neuraloperator's Darcy files are")
    names = list(benchmarks(parser.parse_args([])))
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    given = parser.parse_args()
    session = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count()}
    session["benchmarks"] = {}
    for name in given.only:
        arguments = benchmarks(given)[name]
        if arguments is None:
            print(f"== {name}: left out, its peer is not named", flush=True)
            continue
        print(f"== {name} {' '.join(arguments)}", flush=True)
        session["benchmarks"][name] = run(name, arguments, given.torch_harmonics)
        RESULTS.write_text(json.dumps(session, indent=1) + "\n")
    failed = [name for name, row in session["benchmarks"].items() if row["status"]]
    print(f"{len(session['benchmarks'])} run, failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
