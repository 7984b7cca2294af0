"""Peak memory of MGTFNO, streamed over patches, against the same TFNO on the whole field: prediction and training step.

256 x 256, batch 1, width 32, four layers, 32 modes per axis, padding a sixteenth of the domain, rank .1. "in one batch" is the published
way of running patches: all windows of level 2 at once. Each contender runs in its own process on one thread, with an allocator that
returns freed memory to the system at once. Two measures, both above what stood before the step:

| measure | what                                                                                      |
| ------- | ----------------------------------------------------------------------------------------- |
| tensors | largest sum of live tensor bytes, from the profiler's record of every allocation           |
| process | growth of the high-water mark of resident memory (VmHWM, reset before the step; Linux)     |

"seconds" is CPU time of one step, the better of two.

Run: python benchmarks/mg_memory.py     (writes benchmarks/results/mg_memory.json and the table of docs/mg_tfno.md; a few minutes)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from measuring import RETURNING, cpu, peak_memory

SIZE, WIDTH, MODES, LAYERS, PADDING = 256, 32, 32, 4, 1 / 16
CONTENDERS = ("whole", "levels 1", "levels 2", "levels 2 in one batch")
RESULTS = Path(__file__).parent / "results" / "mg_memory.json"
PAGE = Path(__file__).parents[1] / "docs" / "mg_tfno.md"
BEGIN, END = "<!-- memory: python benchmarks/mg_memory.py -->", "<!-- end of memory -->"


def model(name: str):
    """Return the contender as a function of x, and its module."""
    import torch

    from opkernels import Domain
    from opkernels.models import MGTFNO, TFNO

    torch.manual_seed(0)
    domain, options = Domain.periodic(1.0, 1.0), {"n_modes": (MODES, MODES), "hidden_channels": WIDTH, "n_layers": LAYERS, "rank": 0.1}
    if name == "whole":
        module = TFNO(domain, 1, 1, **options)
        return module, module
    module = MGTFNO(domain, 1, 1, levels=int(name.split()[1]), padding=PADDING, **options)
    return (lambda x: in_one_batch(module, x)) if name.endswith("batch") else module, module


def in_one_batch(module, x):
    """Apply a model of patches to all of them at once."""
    import torch

    patches, grid = module.patches, module.domain.grid(*x.shape[2:])
    pyramid = patches.pyramid(x, grid)
    coarse = module.coarse(pyramid[-1])
    answers = torch.cat([patches.prolonged(coarse, grid, patch) for patch in patches.indices])
    z = torch.cat([torch.cat([patches.windows(pyramid, grid, patch) for patch in patches.indices]), answers], dim=1)
    y = patches.beginning(x, module.out_channels, grid)
    for part, patch in zip((answers + module.local(z)).split(len(x)), patches.indices, strict=True):
        y = patches.add(y, part, grid, patch)
    return patches.stitched(y, grid)


def high_water() -> int:
    """Bytes of the largest resident memory since the mark was last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def process_peak(step) -> int:
    before = 4096 * int(Path("/proc/self/statm").read_text().split()[1])
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return high_water() - before


def measure(name: str) -> dict:
    """Return megabytes and seconds of a prediction and of a training step."""
    import torch

    torch.set_num_threads(1)
    function, module = model(name)
    x = torch.randn(1, 1, SIZE, SIZE)

    def predict() -> None:
        with torch.no_grad():
            function(x)

    def train() -> None:
        module.zero_grad()
        function(x).square().mean().backward()

    row = {}
    for task, step in (("predict", predict), ("train", train)):
        module.train(task == "train")
        step()
        times = []
        for _ in range(2):
            start = cpu()
            step()
            times.append(cpu() - start)
        row[task] = {"tensors MB": peak_memory(step) / 1e6, "process MB": process_peak(step) / 1e6, "seconds": min(times)}
    return row


def write_table(rows: dict) -> None:
    """Put live tensors and times between their marks on the page."""
    names = ("TFNO, the whole field", "MGTFNO, `levels=1`: 4 patches", "MGTFNO, `levels=2`: 16 patches", "the same 16 patches in one batch")
    lines = ["| | prediction | training step | CPU time, prediction | CPU time, training step |", "| --- | --- | --- | --- | --- |"]
    for name, contender in zip(names, CONTENDERS, strict=True):
        tasks = [rows[contender][task] for task in ("predict", "train")]
        memory = [f"{row['tensors MB']:.0f} MB ({row['of whole']['tensors MB']:.2f})" for row in tasks]
        lines.append(f"| {' | '.join([name, *memory, *(format(row['of whole']['seconds'], '.1f') + 'x' for row in tasks)])} |")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text("\n".join([f"{before}{BEGIN}\n", *lines, f"\n{END}{rest.split(END, 1)[1]}"]))


def main() -> dict:
    rows = {}
    for name in CONTENDERS:
        answer = subprocess.run([sys.executable, __file__, name], env=os.environ | RETURNING, capture_output=True, text=True)
        if answer.returncode:
            raise SystemExit(answer.stderr)
        rows[name] = json.loads(answer.stdout.splitlines()[-1])
        for task, row in rows[name].items():
            row["of whole"] = {key: row[key] / rows["whole"][task][key] for key in ("tensors MB", "process MB", "seconds")}
            shares = ", ".join(f"{key} {row[key]:.3g} ({share:.2f})" for key, share in row["of whole"].items())
            print(f"{name:22} {task:8} {shares}", flush=True)
    return rows


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(measure(sys.argv[1])))
    else:
        result = main()
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        write_table(result)
