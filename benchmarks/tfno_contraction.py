"""Factorized spectral weights: our contraction against neuraloperator's, and inference against a dense layer.

One weight (32, 32, 32, 17), Tucker, batch 2, the sizes of a 128 x 128 layer with 32 modes; the same factors (carried over) and the same
coefficients, each contender in the layout it works in; outputs equal (asserted). "train": forward and backward of the contraction alone.
"infer": the contraction in evaluation without gradients, ours with the kept dense weight, beside our dense weight.

Each contender runs in its own process on one thread, with an allocator that keeps freed memory. Time is user + system, the best of several
rounds; contenders take turns.

Run: python benchmarks/tfno_contraction.py     (writes benchmarks/results/tfno_contraction.json)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from measuring import QUIET, cpu

WIDTH, MODES, BATCH = 32, (32, 32), 2
RANKS = (0.05, 0.42)
RESULTS = Path(__file__).parent / "results" / "tfno_contraction.json"


def best(step, rounds: int = 8, repeats: int = 20) -> float:
    """Return the least CPU milliseconds of one call."""
    for _ in range(repeats):
        step()
    times = []
    for _ in range(rounds):
        start = cpu()
        for _ in range(repeats):
            step()
        times.append((cpu() - start) / repeats * 1e3)
    return min(times)


def contender(name: str, rank: float) -> dict:
    """Time one contender; return milliseconds and a checksum of its output."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    from neuralop.layers.spectral_convolution import SpectralConv as Theirs

    from opkernels.layers.factorizations import TuckerWeight
    from opkernels.layers.spectral import DenseWeight
    from opkernels.layers.tensorized import FactorizedWeight
    from opkernels.transforms import Modes

    torch.manual_seed(0)
    theirs = Theirs(WIDTH, WIDTH, MODES, factorization="tucker", rank=rank, implementation="factorized")
    core, factors = theirs.weight.core, list(theirs.weight.factors)
    modes = Modes.neuraloperator(MODES)
    z = torch.randn(BATCH, WIDTH, *modes.shape, dtype=torch.complex64)
    rows = torch.view_as_real(z).permute(2, 3, 4, 0, 1).flatten(0, 1).contiguous()
    tensor = TuckerWeight((WIDTH, WIDTH, *modes.shape), tuple(core.shape), joint=False)
    with torch.no_grad():
        for ours, other in zip([tensor.core_in_order(), *tensor.factors], [core, *factors], strict=True):
            ours.copy_(torch.view_as_real(other))
    weight = FactorizedWeight(tensor)
    if name == "dense":
        weight = DenseWeight(modes, WIDTH, WIDTH)
        with torch.no_grad():
            weight.tensor.copy_(tensor.mode_first(0, torch.float32).dense().unflatten(0, modes.shape))
    x = (z if name == "neuraloperator" else rows).requires_grad_()
    forward = (lambda: theirs._contract(x, theirs.weight)) if name == "neuraloperator" else (lambda: weight(x))
    gradient = torch.ones_like(forward())

    def train() -> None:
        forward().backward(gradient)

    result: dict = {"train": best(train)}
    weight.eval()
    with torch.no_grad():
        result["infer"] = best(forward)
        y = forward()
        y = y if name == "neuraloperator" else torch.view_as_complex(y.permute(2, 3, 0, 1).contiguous()).unflatten(2, modes.shape)
    result["output"] = torch.view_as_real(y).flatten()[:: y.numel() // 50].tolist()
    return result


def main() -> dict:
    """Run all contenders; return their times and ratios."""
    results = {}
    for rank in RANKS:
        times: dict[str, dict] = {}
        for _ in range(3):
            for name in ("neuraloperator", "opkernels", "dense"):
                command = [sys.executable, __file__, name, str(rank)]
                out = subprocess.run(command, env={**os.environ, **QUIET}, capture_output=True, text=True, check=True)
                new = json.loads(out.stdout.splitlines()[-1])
                old = times.get(name, new)
                times[name] = {**new, **{key: min(new[key], old[key]) for key in ("train", "infer")}}
        outputs = [t.pop("output") for t in times.values()]
        scale = max(abs(v) for v in outputs[0])
        difference = max(abs(a - b) for other in outputs[1:] for a, b in zip(outputs[0], other, strict=True)) / scale
        assert difference < 2e-6, difference
        ours, theirs, dense = times["opkernels"], times["neuraloperator"], times["dense"]
        results[str(rank)] = {
            "milliseconds": times,
            "difference": difference,
            "neuraloperator/ours, train": theirs["train"] / ours["train"],
            "ours/dense, infer": ours["infer"] / dense["infer"],
        }
    return results


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(contender(sys.argv[1], float(sys.argv[2]))))
        sys.exit()
    result = main()
    for rank, figures in result.items():
        print(f"rank {rank}: " + "  ".join(f"{key} {value:.3g}" for key, value in figures.items() if key != "milliseconds"))
        print("   ", figures["milliseconds"])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
