"""FactorizedAttention against the published formulation of FactFormer's block: CPU time and peak memory, as ratios in one run.

The peer below is written from the published block's description, operation by operation: projections on the whole grid before
the means, kernels formed, one contraction per axis by einsum, heads merged, instance norm, two linear maps. Both get the same
weights and the same input and must give the same output (asserted). The third contender is our default, heads of C/H
channels instead of 64, with integrals in place of sums.

Time is user + system on one thread, best of several rounds, contenders in turn. Memory is the peak of live tensor bytes above
what stood before, traced by the profiler.

Run: python benchmarks/factformer_speed.py [2d|3d]     (writes benchmarks/results/factformer_speed.json)
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from measuring import QUIET, cpu, peak_memory

WIDTH, HEADS, HEAD_DIM = 128, 8, 64
CASES = {"2d": ((128, 128), 2), "3d": ((32, 32, 32), 3)}  # grid, kernel multiplier
RESULTS = Path(__file__).parent / "results" / "factformer_speed.json"


def published_block(layer, x, grid):
    """Evaluate the published formulation with the weights of a `FactorizedAttention(legacy=True)`, x (B, C, *S)."""
    import torch
    from torch.nn import functional as F

    u = x.movedim(1, -1)
    z = layer.in_norm(u, None)[0]
    ndim, heads = grid.ndim, layer.n_heads
    v = layer.to_v(z).unflatten(-1, (heads, -1)).movedim(-2, 1)
    projected = layer.to_in(z)
    letters = "ijk"[:ndim]
    for a, name in enumerate("xyz"[:ndim]):
        projection, kernel = getattr(layer, f"to_{name}")[-1], getattr(layer, f"low_rank_kernel_{name}")
        g = projection.to_in(projected).mean([b + 1 for b in range(ndim) if b != a])
        ffn = projection.out_ffn
        h = ffn["fn"]["net"](ffn["norm"](g, None)[0])
        q, k = (m(h).unflatten(-1, (heads, -1)).transpose(1, 2) for m in (kernel.to_q, kernel.to_k))
        t = 64 * grid.domain.axes[a].coordinates(grid.shape[a])[:, None] * kernel.pos_emb.inv_freq
        A = torch.einsum("bhid,bhjd->bhij", turn(q, t), turn(k, t))
        v = torch.einsum(f"bhl{letters[a]},bh{letters}c->bh{letters.replace(letters[a], 'l')}c", A, v)
    mean = v.mean(tuple(range(2, v.ndim)), keepdim=True)
    v = (v - mean) / (v.var(tuple(range(2, v.ndim)), keepdim=True) + 1e-8).sqrt()
    y = v.movedim(1, -2).flatten(-2)
    return layer.to_out[3](F.gelu(layer.to_out[1](y))).movedim(-1, 1)


def turn(x, t):
    import torch

    t = torch.cat([t, t], dim=-1)
    a, b = x.chunk(2, dim=-1)
    return x * t.cos() + torch.cat([-b, a], dim=-1) * t.sin()


def contender(name: str, case: str):
    """Return (module, callable on x, x)."""
    import torch

    from opkernels import Domain
    from opkernels.layers import FactorizedAttention

    shape, multiplier = CASES[case]
    grid = Domain.periodic(*[2 * math.pi] * len(shape)).grid(*shape)
    torch.manual_seed(0)
    options = {} if name == "opkernels, heads of C/H" else {"head_dim": HEAD_DIM, "legacy": True}
    layer = FactorizedAttention(WIDTH, len(shape), n_heads=HEADS, kernel_multiplier=multiplier, **options)
    with torch.no_grad():
        for a in "xyz"[: len(shape)]:
            for linear in (getattr(layer, f"low_rank_kernel_{a}").to_q, getattr(layer, f"low_rank_kernel_{a}").to_k):
                torch.nn.init.xavier_uniform_(linear.weight)  # of trained size
    x = torch.randn(1, WIDTH, *shape).to(memory_format=torch.channels_last if len(shape) == 2 else torch.channels_last_3d)
    function = (lambda x: published_block(layer, x, grid)) if name == "published" else (lambda x: layer(x, grid))
    return layer, function, x.requires_grad_()


NAMES = ("published", "opkernels, same weights", "opkernels, heads of C/H")


def forward(function, x):
    import torch

    with torch.no_grad():
        return function(x)


def both(module, function, x):
    module.zero_grad()
    x.grad = None
    function(x).sum().backward()


def measure(case: str, rounds: int) -> dict:
    """Return best and median CPU milliseconds of every contender, taking turns in one process."""
    import statistics

    import torch

    torch.set_num_threads(1)
    contenders = {name: contender(name, case) for name in NAMES}
    ours, theirs = (forward(*contenders[name][1:]) for name in NAMES[1::-1])
    difference = ((ours - theirs).norm() / theirs.norm()).item()
    times: dict = {name: {"forward": [], "both": []} for name in NAMES}
    for _ in range(rounds):
        for kind in ("forward", "both"):
            for name, (module, function, x) in contenders.items():
                start = cpu()
                forward(function, x) if kind == "forward" else both(module, function, x)
                times[name][kind].append(1e3 * (cpu() - start))
    reduced = {
        name: {kind: {"best": min(v[1:]), "median": statistics.median(v[1:])} for kind, v in kinds.items()} for name, kinds in times.items()
    }
    return {"difference": difference, "times": reduced}


def memory(case: str) -> dict:
    """Return the peaks of live bytes, forward and forward + backward, of every contender."""
    peaks: dict = {}
    for name in NAMES:
        module, function, x = contender(name, case)
        both(module, function, x)
        module.zero_grad()
        x.grad = None
        for kind, run in (("forward", lambda f=function, x=x: forward(f, x)), ("both", lambda m=module, f=function, x=x: both(m, f, x))):
            peaks.setdefault(name, {})[kind] = peak_memory(run) / 1e6
    return peaks


def ask(*arguments) -> dict:
    """Run one measurement in a process of its own, with an allocator that keeps freed memory."""
    command = [sys.executable, __file__, "child", *map(str, arguments)]
    answer = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    return json.loads(answer.stdout.splitlines()[-1])


def main(cases: list[str]) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for case in cases:
        row = ask("measure", case, 8)
        row["peak MB"] = ask("memory", case)
        assert row["difference"] < 1e-5, row["difference"]
        peer = row["times"]["published"]
        print(f"{' x '.join(map(str, CASES[case][0]))}, width {WIDTH}, {HEADS} heads; outputs equal to {row['difference']:.1e}")
        for name in NAMES:
            t, peak = row["times"][name], row["peak MB"][name]
            row.setdefault("ratio", {})[name] = {kind: peer[kind]["best"] / t[kind]["best"] for kind in t}
            row.setdefault("median ratio", {})[name] = {kind: peer[kind]["median"] / t[kind]["median"] for kind in t}
            row.setdefault("memory share", {})[name] = {kind: peak[kind] / row["peak MB"]["published"][kind] for kind in peak}
            print(f"  {name:26}", end="")
            for kind in ("forward", "both"):
                ratio, share = row["ratio"][name][kind], row["memory share"][name][kind]
                print(f" {kind} {t[kind]['best']:7.1f} ms ({ratio:.2f}x), {peak[kind]:6.1f} MB ({share:.2f})", end="")
            print(flush=True)
        results[case] = row
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        task, case, *rest = sys.argv[2:]
        print(json.dumps({"measure": measure, "memory": memory}[task](case, *map(int, rest))))
    else:
        main(sys.argv[1:] or list(CASES))
