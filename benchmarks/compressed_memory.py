"""Peak memory and time of compressed convolutions against dense ones: a UNet over space and time, prediction and training step.

32 x 32 x 16 points, batch 1, width 32, three levels; kernels dense, or with a tenth of the weights in each format. Each contender runs
in its own process on one thread, with an allocator that returns freed memory to the system at once.

| column     | what                                                                                                     |
| ---------- | -------------------------------------------------------------------------------------------------------- |
| weights MB | the parameters                                                                                           |
| tensors MB | largest sum of live tensor bytes in the step, weights included (the profiler's record of allocations)    |
| process MB | growth of the high-water mark of resident memory in the step (VmHWM, reset before it), weights included; |
|            | convolutions work in memory that is no tensor                                                            |
| seconds    | CPU time of one step, the better of two                                                                  |

Gradients are among the tensors of a training step; an optimizer's moments (twice the weights for Adam) come on top.

Run: python benchmarks/compressed_memory.py     (a minute or two; every contender is written to benchmarks/results/compressed_memory.json
at once and not measured again: remove the file for a new run; shares are of dense)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from measuring import RETURNING, cpu, peak_memory

SHAPE, WIDTH, LEVELS = (32, 32, 16), 32, 3
CONTENDERS = {
    "dense": {},
    "cp, recomputed": {"factorization": "cp", "rank": 0.1, "recompute": True},
    "tt, recomputed": {"factorization": "tt", "rank": 0.1, "recompute": True},
    "cp": {"factorization": "cp", "rank": 0.1},
    "tt": {"factorization": "tt", "rank": 0.1},
    "pairwise": {"factorization": "pairwise"},
}
RESULTS = Path(__file__).parent / "results" / "compressed_memory.json"


def process_peak(step) -> int:
    """Return by how many bytes the resident memory of the process rises at most during one call."""
    before = 4096 * int(Path("/proc/self/statm").read_text().split()[1])
    Path("/proc/self/clear_refs").write_text("5")
    step()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1]) - before


def seconds(step) -> float:
    """Return the CPU seconds of one call."""
    start = cpu()
    step()
    return cpu() - start


def measure(name: str) -> dict:
    """Return megabytes and seconds of a prediction and of a training step."""
    import torch

    from opkernels import Domain
    from opkernels.models import UNet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = UNet(Domain.box(1.0, 1.0, 1.0), 3, 1, hidden_channels=WIDTH, n_layers=LEVELS, **CONTENDERS[name])
    x, weights = torch.randn(1, 3, *SHAPE), 4 * sum(p.numel() for p in model.parameters())

    def predict() -> None:
        with torch.no_grad():
            model(x)

    def train() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    rows = {}
    for task, step in (("predict", predict), ("train", train)):
        step()
        least = min(seconds(step) for _ in range(2))
        model.zero_grad()
        tensors = peak_memory(step) + weights
        model.zero_grad()
        process = process_peak(step) + weights
        rows[task] = {"weights MB": weights / 1e6, "tensors MB": tensors / 1e6, "process MB": process / 1e6, "seconds": least}
    return rows


def main() -> dict:
    """Measure the contenders that are missing and print the shares of all."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in CONTENDERS:
        if name not in rows:
            answer = subprocess.run([sys.executable, __file__, name], env=os.environ | RETURNING, capture_output=True, text=True)
            if answer.returncode:
                raise SystemExit(answer.stderr)
            rows[name] = json.loads(answer.stdout.splitlines()[-1])
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        for task, row in rows[name].items():
            shares = ", ".join(f"{key} {row[key]:.3g} ({row[key] / value:.2f})" for key, value in rows["dense"][task].items())
            print(f"{name:16} {task:8} {shares}", flush=True)
    return rows


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
