"""T1 against neuraloperator's FNO and our own: CPU time of forward and backward, as ratios in one run.

All keep the same band, n_modes = (24, 24), at width 32 and depth 6, in float32 on one thread, each in its own process and in
turns, with an allocator that keeps freed memory; the ratio is that of the best times. Equal bands are not equal weights: T1 has
one real matrix per mode (23 x 23 of them) where FNO has one complex matrix for each of 24 x 13 wave numbers. This is a figure of
cost alone and says nothing about accuracy.

Run: python benchmarks/t1_speed.py [sizes]     (default 64 128 256; writes benchmarks/results/t1_speed.json)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from measuring import QUIET, best

BATCH, WIDTH, MODES, LAYERS = 4, 32, 24, 6
NAMES = ("neuraloperator", "FNO", "T1")
RESULTS = Path(__file__).parent / "results" / "t1_speed.json"


def model(name: str):
    sizes = {"n_modes": (MODES, MODES), "hidden_channels": WIDTH, "n_layers": LAYERS}
    if name == "neuraloperator":
        from neuralop.models import FNO

        return FNO(in_channels=1, out_channels=1, positional_embedding=None, **sizes)
    from opkernels import Domain, models

    return getattr(models, name)(Domain.periodic(1.0, 1.0), 1, 1, **sizes)


def measure(name: str, n: int, rounds: int) -> dict:
    """Time one contender."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = model(name)
    x = torch.randn(BATCH, 1, n, n)

    def forward():
        with torch.no_grad():
            module(x)

    def both():
        module.zero_grad()
        module(x).sum().backward()

    numbers = sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters())
    return {"forward": best(forward, rounds), "both": best(both, rounds), "parameters": numbers}


def compare(n: int, repeats: int, rounds: int) -> dict:
    """Let the contenders take turns, each in a process of its own; return best times and ratios."""
    times: dict = {}
    for _ in range(repeats):
        for name in NAMES:
            command = [sys.executable, __file__, "child", name, str(n), str(rounds)]
            answer = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True)
            if answer.returncode:
                raise SystemExit(answer.stderr)
            got = json.loads(answer.stdout.splitlines()[-1])
            times[name] = {key: min(value, times.get(name, got)[key]) for key, value in got.items()}
    ratios = {name: {key: times[name][key] / times["T1"][key] for key in ("forward", "both")} for name in NAMES[:2]}
    return {"n": n, "times": times, "ratio": ratios}


def main(sizes: list[int]) -> None:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for n in sizes:
        row = compare(n, repeats=2, rounds=10 if n < 256 else 3)
        for name, times in row["times"].items():
            ratio = row["ratio"].get(name, {"forward": 1.0, "both": 1.0})
            print(
                f"{n}^2 {name:15} {times['parameters'] / 1e6:5.2f} M  forward {times['forward']:7.1f} ms (T1 {ratio['forward']:.1f}x)",
                end="",
            )
            print(f"  forward+backward {times['both']:7.1f} ms (T1 {ratio['both']:.1f}x)", flush=True)
        rows = sorted([old for old in rows if old["n"] != n] + [row], key=lambda r: r["n"])
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main([int(n) for n in sys.argv[1:]] or [64, 128, 256])
