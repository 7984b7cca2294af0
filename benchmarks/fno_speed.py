"""FNO and its spectral layer against neuraloperator 2.0: CPU time and peak memory, as ratios in one run.

Both get the same sizes, the same weights (carried over) and the same input, and must give the same output (asserted).
Each contender runs in its own process on one thread, with an allocator that keeps freed memory (page faults of big
temporaries otherwise hide the computation). Time is user + system, forward and backward, the best of several rounds;
contenders take turns, and the ratio is that of the best times.

Floor of the layer: the products of the pruned transforms and of the contraction at the rate of a 1024 x 1024 GEMM. Floor of
the model: that, the pointwise matrices at the rate of their own shape (points x 32 x 32), and the GELUs, each measured alone.

Run: python benchmarks/fno_speed.py [layer|model]     (writes benchmarks/results/fno_speed.json)
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from measuring import QUIET, best

BATCH, WIDTH, MODES, LAYERS = 8, 32, 16, 4
RESULTS = Path(__file__).parent / "results" / "fno_speed.json"


def peer_layer():
    import torch
    from neuralop.layers.spectral_convolution import SpectralConv

    torch.manual_seed(0)
    return SpectralConv(WIDTH, WIDTH, (MODES, MODES))


def our_layer(n: int):
    """Our layer with the peer's weights, stored as the peer stores them, so that outputs can be compared."""
    import torch

    from opkernels import Domain
    from opkernels.layers import SpectralConv
    from opkernels.transforms import Modes

    peer = peer_layer()
    layer = SpectralConv(WIDTH, WIDTH, (MODES, MODES), modes=Modes.neuraloperator((MODES, MODES)))
    with torch.no_grad():
        layer.weight.tensor.copy_(torch.view_as_real(peer.weight.tensor).permute(2, 3, 0, 4, 1))
        layer.bias.copy_(peer.bias.flatten())
    grid = Domain.periodic(1.0, 1.0).grid(n, n)
    return layer, lambda x: layer(x, grid)


def peer_model():
    import torch
    from neuralop.models import FNO

    torch.manual_seed(0)
    return FNO(n_modes=(MODES, MODES), in_channels=1, out_channels=1, hidden_channels=WIDTH, n_layers=LAYERS, positional_embedding=None)


def our_model():
    from opkernels import Domain
    from opkernels.interop import from_neuralop

    model = from_neuralop(peer_model(), Domain.periodic(1.0, 1.0))
    return model, model


def contender(name: str, kind: str, n: int):
    """Return (module, callable on x)."""
    if name == "neuraloperator":
        module = peer_layer() if kind == "layer" else peer_model()
        return module, module
    return our_layer(n) if kind == "layer" else our_model()


def measure(name: str, kind: str, n: int, rounds: int, save: str) -> dict:
    """Time one contender; leave its output in a file for comparison."""
    import torch

    torch.set_num_threads(1)
    compiled = name.endswith(" compiled")
    module, function = contender(name.removesuffix(" compiled"), kind, n)
    channels = WIDTH if kind == "layer" else 1
    torch.manual_seed(1)
    x = torch.randn(BATCH, channels, n, n)
    if name == "opkernels channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_(kind == "layer")
    if compiled:
        function = torch.compile(function)
    torch.save(function(x).detach(), save)

    def forward():
        with torch.no_grad():
            function(x)

    def both():
        module.zero_grad()
        x.grad = None
        function(x).sum().backward()

    times = {"forward": best(forward, rounds), "both": best(both, rounds)}
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    both()
    times["faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return times


def memory(name: str, kind: str, n: int) -> dict:
    """Return the peak of live tensor bytes in one forward and backward pass, above what stood before."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    module, function = contender(name, kind, n)
    x = torch.randn(BATCH, WIDTH if kind == "layer" else 1, n, n, requires_grad=kind == "layer")
    function(x).sum().backward()
    module.zero_grad()
    x.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        function(x).sum().backward()
    events = sorted((e.start_ns(), e.nbytes()) for e in trace.profiler.kineto_results.events() if e.name() == "[memory]")
    live = peak = 0
    for _, size in events:
        live += size
        peak = max(peak, live)
    return {"peak": peak}


def floor(kind: str, n: int) -> dict:
    """Milliseconds that the arithmetic alone would take, forward; backward costs twice the products."""
    import torch
    from torch.nn.functional import gelu

    torch.set_num_threads(1)
    a = torch.randn(1024, 1024)
    rate = 2 * 1024**3 / best(lambda: a @ a, 10)
    points, k = BATCH * n * n, MODES // 2
    transform = 4 * (2 * k + 1) * points * WIDTH + 4 * (2 * k + 1) * 2 * (k + 1) * n * BATCH * WIDTH
    contraction = 8 * MODES * (k + 1) * BATCH * WIDTH**2
    spectral = (transform + contraction) / rate
    if kind == "layer":
        return {"forward": spectral, "both": 3 * spectral, "gflops": rate / 1e6}
    u, w = torch.randn(points, WIDTH), torch.randn(WIDTH, WIDTH)
    pointwise = best(lambda: u @ w, 10) / WIDTH**2
    matrices = (2 * WIDTH + 2 * WIDTH**2) + LAYERS * 2 * WIDTH**2 + (2 * WIDTH**2 + 2 * WIDTH)
    v = u.clone().requires_grad_()
    activation = best(lambda: gelu(u), 10)
    g = torch.ones_like(u)
    activation_both = best(lambda: gelu(v).backward(g), 10)
    count = 2 + (LAYERS - 1) * 2 + LAYERS * 0.5 + 2
    forward = LAYERS * spectral + matrices * pointwise + count * activation
    both = 3 * LAYERS * spectral + 3 * matrices * pointwise + count * activation_both
    return {"forward": forward, "both": both, "gflops": rate / 1e6}


def ask(*arguments) -> dict:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "child", *map(str, arguments)]
    answer = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    return json.loads(answer.stdout.splitlines()[-1])


def compare(kind: str, n: int, repeats: int, rounds: int) -> dict:
    """Let the contenders take turns; return best times, ratios, memory and the difference of the outputs."""
    import tempfile

    import torch

    ours = ["opkernels", "opkernels channels last"] if kind == "layer" else ["opkernels", "opkernels compiled"]
    names = ["neuraloperator", *ours]
    row: dict = {"kind": kind, "n": n, "times": {}, "ratio": {}}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for i, name in enumerate(names):
                got = ask("measure", name, kind, n, rounds, f"{folder}/{i}.pt")
                old = row["times"].get(name, got)
                row["times"][name] = {key: min(old[key], got[key]) for key in got}
        outputs = [torch.load(f"{folder}/{i}.pt", weights_only=True) for i in range(len(names))]
    row["difference"] = max(((y - outputs[0]).norm() / outputs[0].norm()).item() for y in outputs[1:])
    assert row["difference"] < 2e-6, row["difference"]
    row["floor"] = ask("floor", kind, n)
    for name in ours:
        row["ratio"][name] = {key: row["times"]["neuraloperator"][key] / row["times"][name][key] for key in ("forward", "both")}
    row["share of floor"] = {key: row["floor"][key] / min(row["times"][name][key] for name in ours) for key in ("forward", "both")}
    peaks = {name: ask("memory", name, kind, n)["peak"] for name in ("neuraloperator", "opkernels")}
    row["peak MB"] = {name: peak / 1e6 for name, peak in peaks.items()}
    return row


def report(row: dict) -> None:
    print(f"{row['kind']} {row['n']}^2: outputs equal to {row['difference']:.1e}; ", end="")
    print("peak memory " + ", ".join(f"{name} {peak:.0f} MB" for name, peak in row["peak MB"].items()))
    for name, times in row["times"].items():
        ratio = row["ratio"].get(name, {"forward": 1.0, "both": 1.0})
        print(f"  {name:24} forward {times['forward']:7.1f} ms ({ratio['forward']:.2f}x)", end="")
        print(f"   forward+backward {times['both']:7.1f} ms ({ratio['both']:.2f}x)")
    print(f"  {'floor':24} forward {row['floor']['forward']:7.1f} ms, reached {row['share of floor']['forward']:.0%}", end="")
    print(f"     both {row['floor']['both']:7.1f} ms, reached {row['share of floor']['both']:.0%}", flush=True)


def main(kinds: list[str]) -> None:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for kind in kinds:
        for n in (64, 128, 256):
            row = compare(kind, n, repeats=2, rounds=8 if kind == "layer" or n < 256 else 4)
            report(row)
            rows = [old for old in rows if (old["kind"], old["n"]) != (kind, n)] + [row]
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        task, *rest = sys.argv[2:]
        values = [int(v) if v.isdigit() else v for v in rest]
        print(json.dumps({"measure": measure, "memory": memory, "floor": floor}[task](*values)))
    else:
        main(sys.argv[1:] or ["layer", "model"])
