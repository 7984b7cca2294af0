"""What training on 8 to 512 GPUs takes: memory of a process and bytes it sends per step, from formulas, as tables of docs/distributed.md.

P processes in rows of D that share a field; every row has b samples of the batch. With N grid points, C channels, L layers, W weights,
M modes (complex, those of a layer), and numbers of w = 4 bytes,

    memory    = a b N / D + s w W,      s = 4 (weights, gradients, two moments), or 4/P + 2/L where weights are dealt out
    fields    = 2 L x 2 (D - 1)/D x 2 b C M w          sums of coefficients, forward and backward
    weights   = 2 (P - 1)/P x w W                      mean of the gradients; 3/2 as much where weights are dealt out

a is measured: the bytes that PyTorch keeps for the backward pass per grid point, of this model on two small grids. The time of
messages is that of the slowest link on the way: LINK between the GPUs of a node, NET between nodes. The time of memory is what it takes
to write and to read what is kept once, at the speed HBM: no step is shorter.

Run it: python benchmarks/cluster_plan.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

import opkernels as ok

GPU, NODE = 80e9, 8  # bytes of a GPU, GPUs of a node
LINK, NET, HBM = 400e9, 50e9, 3e12  # bytes per second of a GPU: within a node, between nodes, its own memory
BYTES = 4


@dataclass(frozen=True)
class Case:
    """A model on a grid: points per axis, modes, channels, layers, and the largest batch that is wanted."""

    shape: tuple[int, ...]
    n_modes: int
    channels: int
    layers: int
    batch: int

    @property
    def small(self) -> tuple[int, int]:
        """Two sizes of axes at which the memory is measured."""
        return (64, 80) if len(self.shape) == 2 else (32, 36)


CASES = (Case((1024, 1024), 64, 64, 4, 64), Case((512, 512, 512), 32, 32, 4, 8))


def model_of(case: Case) -> torch.nn.Module:
    """Build the case's FNO on a periodic box."""
    domain = ok.Domain.periodic(*[1.0] * len(case.shape))
    d = len(case.shape)
    return ok.models.FNO(domain, 1, 1, n_modes=(case.n_modes,) * d, hidden_channels=case.channels, n_layers=case.layers)


def kept_bytes(model: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Count the bytes that are kept for the backward pass of one sample, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(1, 1, *shape))
    return sum(storage.nbytes() for storage in kept.values())


def bytes_per_point(model: torch.nn.Module, case: Case) -> float:
    """Measure a: what is kept grows with the points and with nothing else."""
    low, high = case.small
    d = len(case.shape)
    return (kept_bytes(model, (high,) * d) - kept_bytes(model, (low,) * d)) / (high**d - low**d)


def modes_of(case: Case) -> int:
    """Count the complex coefficients of a real field that a layer keeps."""
    half = (case.n_modes - 1) // 2
    return (2 * half + 1) ** (len(case.shape) - 1) * (half + 1)


def plan(case: Case, processes: int, per_point: float, weights: int) -> dict[str, float]:
    """Take as many samples as wanted and as fit, share fields where there are more processes than samples, and say what a step takes."""
    one = per_point * math.prod(case.shape)
    sharded = 4 * BYTES * weights > GPU / 8
    held = (4 / processes + 2 / case.layers if sharded else 4) * BYTES * weights
    batch = 2 ** math.floor(math.log2(min(case.batch, (0.8 * GPU - held) * processes / one)))
    d = max(1, processes // batch)
    b = batch * d / processes
    fields = 2 * case.layers * 2 * (d - 1) / d * 2 * b * case.channels * modes_of(case) * BYTES
    averaged = (3 if sharded else 2) * (processes - 1) / processes * BYTES * weights
    return {
        "domain": d,
        "batch": batch,
        "memory": one * b / d + held,
        "fields": fields,
        "weights": averaged,
        "messages": fields / (LINK if d <= NODE else NET) + averaged / (LINK if processes <= NODE else NET),
        "traffic": 2 * one * b / d / HBM,
    }


def table(case: Case) -> str:
    """Return the plan of a case as a table."""
    model = model_of(case)
    per_point, weights = bytes_per_point(model, case), sum(p.numel() for p in model.parameters())
    lines = [
        f"FNO on {' x '.join(map(str, case.shape))}: {case.channels} channels, {case.layers} layers, {case.n_modes} modes per axis, "
        f"{weights / 1e6:.1f} M weights, {per_point / BYTES / case.channels:.1f} fields of all channels kept for the backward pass.",
        "",
        "| GPUs | `domain` | batch | memory of a GPU | sent for fields | sent for weights | time of messages | time of memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for processes in (8, 16, 32, 64, 128, 256, 512):
        p = plan(case, processes, per_point, weights)
        lines.append(
            f"| {processes} | {p['domain']} | {p['batch']} | {p['memory'] / 1e9:.1f} GB | {p['fields'] / 1e6:.0f} MB | "
            f"{p['weights'] / 1e6:.0f} MB | {1e3 * p['messages']:.1f} ms | {1e3 * p['traffic']:.0f} ms |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    torch.manual_seed(0)
    print("\n\n".join(table(case) for case in CASES))
