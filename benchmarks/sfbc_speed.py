"""`SymmetricBasisConv` against the published algorithm for the same sum, which builds a weight matrix for each pair.

The published layer (Winchenbach and Thuerey 2024) evaluates, for chunks of 2**14 pairs, the basis b (E, K), the matrices
b W (E, I, O) of all pairs, applies them to the gathered features and adds the results up; its backward pass evaluates
basis and matrices again, and gives no gradient to positions. It is written here from its description, as a custom
gradient, in the same operations and on the same pairs; both must give the same output and gradients (asserted).

"published, tuned" takes chunks of 2**9 pairs, whose matrices fit into the cache, a kindness the published code lacks.

Setting: jittered lattice, 33 pairs per particle, 32 to 32 channels, float32, one thread. CPU time of forward + backward
with gradients to features and weights, contenders taking turns, best of the rounds. Ours is timed as a call of the layer
(the plan of rows and the basis included), with the plan prepared once per graph, and with the basis kept between the
passes; "positions" adds the gradient with respect to positions, which the published layer lacks. Memory: bytes kept
for the backward pass, inputs included, and the peak of live bytes during both passes.

Floor: the products of the gathered sums and of the weights at the rate of a 1024 x 1024 GEMM, three times forward.

Run: python benchmarks/sfbc_speed.py [particles ...]     (about 2 minutes; writes benchmarks/results/sfbc_speed.json)
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import torch
from measuring import QUIET, cpu

from opkernels import Domain, ParticleSet
from opkernels.layers import SymmetricBasisConv
from opkernels.layers.product_kernels import Fourier, ProductKernel
from opkernels.layers.symmetric_basis import ParticleGraph

CHANNELS, ROUNDS, CHUNK, TUNED = 32, 5, 2**14, 2**9
RESULTS = Path(__file__).parent / "results" / "sfbc_speed.json"


class Published(torch.autograd.Function):
    """Weights per pair: out_i = sum_j (b(q_ij) W) f_j in chunks of pairs."""

    @staticmethod
    def forward(ctx, offsets, features, weight, row, col, basis, n, chunk):
        """Return (n, O) for features (M, I), weight (K, I, O), offsets (d, E)."""
        ctx.save_for_backward(offsets, features, weight, row, col)
        ctx.basis, ctx.chunk, (k, i, o) = basis, chunk, weight.shape
        out = features.new_zeros(n, o)
        for part in range(0, len(row), chunk):
            e = slice(part, part + chunk)
            matrices = (basis(offsets[:, e]).T @ weight.view(k, i * o)).view(-1, i, o)
            out.index_add_(0, row[e], torch.bmm(features[col[e]][:, None], matrices)[:, 0])
        return out

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of features and weight; basis and matrices are built again."""
        offsets, features, weight, row, col = ctx.saved_tensors
        k, i, o = weight.shape
        d_features, d_weight = torch.zeros_like(features), torch.zeros(k, i * o)
        for part in range(0, len(row), ctx.chunk):
            e = slice(part, part + ctx.chunk)
            b, g, f = ctx.basis(offsets[:, e]), grad[row[e]], features[col[e]]
            matrices = (b.T @ weight.view(k, i * o)).view(-1, i, o)
            d_features.index_add_(0, col[e], torch.bmm(matrices, g[:, :, None])[:, :, 0])
            d_weight += b @ (f[:, :, None] * g[:, None]).view(-1, i * o)
        return None, d_features, d_weight.view(k, i, o), None, None, None, None, None


def cloud(n: int) -> ParticleSet:
    """Jittered lattice of about n particles with 33 pairs each, itself included."""
    side = math.isqrt(n)
    domain = Domain.periodic(1.0, 1.0)
    lattice = ParticleSet.from_grid(domain.grid(side, side), 3.24 / side)
    torch.manual_seed(0)
    return lattice.replace(positions=lattice.positions + 0.3 / side * (2 * torch.rand(side**2, 2) - 1))


def memory(step) -> dict:
    """Return MiB kept between the passes, inputs included, and the peak of live MiB above what stood before."""
    from torch.profiler import ProfilerActivity, profile

    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.setdefault(x.untyped_storage().data_ptr(), x) is None or x, lambda x: x):
        out = step(False)
    saved = sum(x.untyped_storage().nbytes() for x in kept.values())
    del out
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step(True)
    live = peak = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"):
        live += size
        peak = max(peak, live)
    return {"saved": saved / 2**20, "peak": peak / 2**20}


def contenders(particles: ParticleSet, terms: int) -> tuple[dict, SymmetricBasisConv, torch.Tensor, torch.Tensor]:
    """Return functions of one argument, whether to run the backward pass, by name."""
    kernel = ProductKernel((Fourier(terms // 2, terms),) * 2, window=None)
    neighbors = particles.neighbors()
    layer = SymmetricBasisConv(CHANNELS, CHANNELS, kernel)
    features = torch.randn(len(particles), CHANNELS, requires_grad=True)
    prepared = ParticleGraph.of(particles, neighbors)
    kept = ParticleGraph.of(particles, neighbors, share=True)
    with torch.no_grad():
        weight = (
            layer.scaled_weight(features).view(CHANNELS, -1, CHANNELS).permute(1, 2, 0) * particles.volumes[0] / particles.support**2
        ).contiguous()
        offsets = (-neighbors.displacement(particles.positions).T / particles.support).contiguous()
    weight.requires_grad_()

    def run(make):
        def step(backward: bool = True):
            layer.weight.grad = weight.grad = features.grad = None
            out = make()
            if backward:
                out.sin().sum().backward()
            return out

        return step

    def moving():
        moved = particles.replace(positions=particles.positions.clone().requires_grad_())
        return layer(features, moved, neighbors)

    def kept_values():
        kept._values.clear()
        return layer.convolve(features, kept)

    def published(chunk):
        return lambda: Published.apply(offsets, features, weight, neighbors.row, neighbors.col, kernel.raw, len(particles), chunk)

    return (
        {
            "published": run(published(CHUNK)),
            "published, tuned": run(published(TUNED)),
            "layer": run(lambda: layer(features, particles, neighbors)),
            "prepared graph": run(lambda: layer.convolve(features, prepared)),
            "kept basis": run(kept_values),
            "positions": run(moving),
        },
        layer,
        features,
        weight,
    )


def check(steps: dict, layer: SymmetricBasisConv, features: torch.Tensor, weight: torch.Tensor) -> float:
    """Return the largest relative difference of outputs and gradients between the published algorithm and ours."""
    one = steps["published"]().detach(), features.grad, weight.grad.clone()
    two = steps["layer"]().detach(), features.grad
    scale = (weight / layer.weight.permute(2, 1, 0)).detach()  # norms of the terms and volumes are in the published weights
    return max(float((a - b).norm() / a.norm()) for a, b in zip(one, (*two, layer.weight.grad.permute(2, 1, 0) / scale), strict=True))


def compare(n: int, terms: int) -> dict:
    particles = cloud(n)
    steps, layer, features, weight = contenders(particles, terms)
    difference = check(steps, layer, features, weight)
    assert difference < 1e-6, difference
    best = dict.fromkeys(steps, math.inf)
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = 1e3 * cpu()
            step()
            best[name] = min(best[name], 1e3 * cpu() - start)
    a = torch.randn(1024, 1024)
    a @ a
    start = 1e3 * cpu()
    for _ in range(10):
        a @ a
    rate = 20 * 1024**3 / (1e3 * cpu() - start)
    k, edges = terms**2, particles.neighbors().n_edges
    floor = 3 * 2 * CHANNELS * k * (edges + len(particles) * CHANNELS) / rate
    return {
        "particles": len(particles),
        "terms": f"{terms}x{terms}",
        "pairs": edges,
        "difference": difference,
        "ms": best,
        "ratio": {name: best["published"] / best[name] for name in steps},
        "ratio to tuned": {name: best["published, tuned"] / best[name] for name in steps},
        "floor ms": floor,
        "MiB": {name: memory(steps[name]) for name in ("published", "layer", "kept basis")},
    }


def main(sizes: list[int]) -> None:
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for n, terms in ((n, terms) for n in sizes for terms in (4, 6)):
        row = compare(n, terms)
        rows = [old for old in rows if (old["particles"], old["terms"]) != (row["particles"], row["terms"])] + [row]
        print(f"{row['particles']} particles, {row['terms']} terms, {row['pairs']} pairs: equal to {row['difference']:.1e}, ", end="")
        print(f"floor {row['floor ms']:.1f} ms")
        for name, time in row["ms"].items():
            kept = row["MiB"].get(name)
            tail = f"   saved {kept['saved']:6.1f} MiB, peak {kept['peak']:6.1f} MiB" if kept else ""
            print(f"  {name:17} {time:8.1f} ms  {row['ratio'][name]:5.1f}x  {row['ratio to tuned'][name]:5.1f}x{tail}", flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"chunk": CHUNK, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if QUIET.items() <= os.environ.items():
        main([int(n) for n in sys.argv[1:]] or [2025, 10000])
    else:
        subprocess.run([sys.executable, __file__, *sys.argv[1:]], env=os.environ | QUIET, check=True)
