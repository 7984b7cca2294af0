"""LocalIntegralConv against neuraloperator's DISCO layer in nodal mode: CPU time of forward and backward, as ratios in one run.

Both integrate over the same ball of radius 0.125 on the square of side 2 with the same piecewise linear functions, in float32 on
one thread, each in its own process and in turns; the ratio is that of the best times. neuraloperator's layer for equidistant
grids pads with zeros, transposes and flips its kernel, and has weights that no function belongs to; on a square grid its five
living functions are ours in another order and of another size, which the comparison undoes before it asks for equal outputs
away from the edge. "exact" is the same layer with the quadrature that does not depend on the grid.

Growth, with 8 channels at both sizes: cost at 256 over cost at 64 must be at most that of n^2 log n, 16 * 8/6 = 21.3. (The rows of the
comparison have 16 channels at 64 and 8 at 256, so that their quotient says nothing about it.)

neuraloperator's layer needs torch-harmonics 0.7.4. Run:

    python benchmarks/local_integral_speed.py [sizes] [--path FOLDER_WITH_TORCH_HARMONICS]

(default 64 128 256; writes benchmarks/results/local_integral_speed.json)
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from measuring import QUIET, best

SIDE, RADIUS = 2.0, 0.125
CHANNELS = {64: 16, 128: 16, 256: 8}
ROUNDS = {64: 30, 128: 6, 256: 2}
NAMES = ("neuraloperator", "nodal", "exact")
RESULTS = Path(__file__).parent / "results" / "local_integral_speed.json"


def theirs(n: int, channels: int):
    from neuralop.layers.discrete_continuous_convolution import EquidistantDiscreteContinuousConv2d

    options = {"kernel_shape": [3, 4], "domain_length": [SIDE, SIDE], "radius_cutoff": RADIUS, "bias": False}
    return EquidistantDiscreteContinuousConv2d(channels, channels, in_shape=(n, n), out_shape=(n, n), **options)


def ours(n: int, channels: int, quadrature: str):
    """Return the layer as a function of samples."""
    from opkernels import Domain
    from opkernels.layers import LocalIntegralConv, PolarHats

    layer = LocalIntegralConv(channels, channels, PolarHats(3, 4), radius=RADIUS, quadrature=quadrature, bias=False)
    grid = Domain.periodic(SIDE, SIDE).grid(n, n)
    return layer, lambda x: layer(x, grid)


def measure(name: str, n: int, channels: int, rounds: int) -> dict:
    """Time one contender."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module, call = (theirs(n, channels),) * 2 if name == "neuraloperator" else ours(n, channels, name)
    x = torch.randn(1, channels, n, n, requires_grad=True)

    def both():
        module.zero_grad()
        x.grad = None
        call(x).sum().backward()

    time = best(both, rounds)
    return {"both": time, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def agreement(n: int) -> float:
    """Return the largest difference of outputs away from the edge, over their size, with the weights carried over."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    peer = theirs(n, CHANNELS[n]).double()
    layer, call = ours(n, CHANNELS[n], "nodal")
    layer.double()
    with torch.no_grad():
        layer.weight.copy_(_carried(peer, layer, n))
        x = torch.randn(1, layer.in_channels, n, n, dtype=torch.float64)
        rim = round(RADIUS * n / SIDE) + 1
        inner = (..., slice(rim, -rim), slice(rim, -rim))
        wanted, got = peer(x)[inner], call(x)[inner]
    return ((wanted - got).abs().max() / wanted.abs().max()).item()


def _carried(peer, layer, n: int):
    """Return our weights that make the peer's stencil, by least squares on its response to an impulse."""
    import torch

    channels, m = layer.in_channels, round(RADIUS * n / SIDE)
    impulse = torch.zeros(channels, channels, n, n, dtype=torch.float64)
    impulse[range(channels), range(channels), n // 2, n // 2] = 1
    window = (..., slice(n // 2 - m, n // 2 + m + 1), slice(n // 2 - m, n // 2 + m + 1))
    stencil = peer(impulse)[window]  # (in, out, *)
    one, call = ours(n, channels, "nodal")
    one.double().weight.zero_()
    for k in range(one.kernel.size):
        one.weight[k, 0, k] = 1  # function k alone, in output channel k
    taps = call(impulse[:1])[0, : one.kernel.size][window]
    solution = torch.linalg.lstsq(taps.flatten(1).T, stencil.flatten(2).flatten(0, 1).T).solution
    return solution.T.unflatten(0, (channels, channels)).transpose(0, 1)


def child(path: str | None, *arguments: str) -> dict:
    """Run this script in a process of its own."""
    paths = [p for p in (path, os.environ.get("PYTHONPATH")) if p]
    environment = os.environ | QUIET | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
    answer = subprocess.run([sys.executable, __file__, "child", *arguments], env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    return json.loads(answer.stdout.splitlines()[-1])


def compare(n: int, path: str | None) -> dict:
    """Let the contenders take turns; return best times, ratios and the difference of outputs."""
    times: dict = {}
    for _ in range(2):
        for name in NAMES:
            if name == "neuraloperator" and n >= 256 and name in times:
                continue  # tens of seconds a call
            got = child(path, name, str(n), str(CHANNELS.get(n, 8)), str(ROUNDS.get(n, 2)))
            times[name] = {key: min(value, times.get(name, got)[key]) for key, value in got.items()}
    ratio = {name: times["neuraloperator"]["both"] / times[name]["both"] for name in NAMES[1:]}
    difference = child(path, "agreement", str(min(n, 64)))["difference"]
    return {"n": n, "channels": CHANNELS.get(n, 8), "times": times, "ratio": ratio, "difference_at_64": difference}


def growth() -> dict[str, float]:
    """Return the cost at 256 over that at 64 with 8 channels, by quadrature."""
    return {name: child(None, name, "256", "8", "5")["both"] / child(None, name, "64", "8", "30")["both"] for name in NAMES[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--path", help="folder in which torch-harmonics 0.7.4 was installed")
    chosen = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for n in chosen.sizes:
        row = compare(n, chosen.path)
        if n == 256:
            row["growth_from_64_at_8_channels"] = grown = growth()
            print("cost at 256^2 over 64^2, 8 channels: " + ", ".join(f"{name} {ratio:.1f}" for name, ratio in grown.items()))
        for name, time in row["times"].items():
            ratio = f"  {row['ratio'][name]:6.1f}x" if name in row["ratio"] else ""
            print(f"{n}^2, {row['channels']} channels, {name:15} {time['both']:9.1f} ms, peak {time['peak_mb']:5.0f} MB{ratio}", flush=True)
        print(f"largest difference of outputs at 64^2, relative: {row['difference_at_64']:.1e}")
        rows = sorted([old for old in rows if old["n"] != n] + [row], key=lambda r: r["n"])
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        if sys.argv[2] == "agreement":
            print(json.dumps({"difference": agreement(int(sys.argv[3]))}))
        else:
            print(json.dumps(measure(sys.argv[2], *map(int, sys.argv[3:6]))))
    else:
        main()
