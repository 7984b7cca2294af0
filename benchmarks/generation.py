"""The cost of a dataset: 1000 forced Navier-Stokes trajectories at 64 x 64 to T = 20, float32, stored; and kill -9 on the way.

CPU time (user + system) of all processes and the peak memory of the largest, from the operating system. `--kills N` runs the
generation of a smaller dataset on two workers, kills the process N times at random moments, and compares the file
with the undisturbed one, byte for byte.

    python benchmarks/generation.py [--samples 1000] [--kills 20]
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = "fno_navier_stokes_1e-3"
CALL = (
    "import yaml; from opkernels import generate; from opkernels.datasets.recipe_files import bundled, override\n"
    "data = yaml.safe_load(bundled()['{recipe}'].read_text())\n"
    "generate(override(data, {words}), '{path}', workers={workers})"
)


def command(path: Path, words: list[str], workers: int) -> list[str]:
    return [sys.executable, "-c", CALL.format(recipe=RECIPE, words=words, path=path, workers=workers)]


def cost(samples: int, workers: int) -> None:
    words = [f"samples={samples}", "times={stop: 20, count: 21}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.nc"
        start = time.perf_counter()
        subprocess.run(command(path, words, workers), check=True)
        wall = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = used.ru_utime + used.ru_stime
        print(f"{samples} trajectories, {path.stat().st_size / 1e6:.0f} MB, {workers} workers")
        print(f"  CPU {spent:.1f} s in all, {spent / workers:.1f} s per worker; wall {wall:.1f} s (other jobs on the machine included)")
        print(f"  peak memory of the largest process {used.ru_maxrss / 1e3:.0f} MB")


def kills(count: int) -> None:
    words = ["samples=48", "batch=2", "resolution=32", "times={stop: 5, count: 6}", "checked=1"]
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole.nc", Path(folder) / "cut.nc"
        start = time.perf_counter()
        subprocess.run(command(whole, words, 2), check=True)
        duration = time.perf_counter() - start
        killed = finished = 0
        while killed < count:
            process = subprocess.Popen(command(cut, words, 2), stderr=subprocess.DEVNULL)
            time.sleep(random.uniform(0, duration))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            process.wait()
            if cut.exists():  # whenever it is there, it is whole
                assert cut.read_bytes() == whole.read_bytes()
                finished += 1
                cut.unlink()
        subprocess.run(command(cut, words, 2), check=True)
        same = cut.read_bytes() == whole.read_bytes()
        print(f"killed {killed} times, finished in between {finished} times; the resumed file is {'the same' if same else 'DIFFERENT'}")
        print(f"  left behind: {sorted(path.name for path in Path(folder).iterdir())}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.kills:
        kills(arguments.kills)
    else:
        cost(arguments.samples, arguments.workers)
