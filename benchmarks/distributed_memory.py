"""Memory and traffic of a training step on a field split over 1, 2 and 4 processes, measured and by formula.

256 x 256, batch 1, width 16, four layers, 16 modes per axis, float32, gloo, one thread each; the first axis is split over P processes.

| measure | what                                                                                                                       |
| ------- | -------------------------------------------------------------------------------------------------------------------------- |
| peak    | largest sum of live tensor bytes of a process in one step (forward, loss, backward, sum of gradients), above the weights'   |
| field   | bytes that the forward pass keeps for the backward pass, weights excepted                                                    |
| sent    | bytes a process hands to collectives in one step (`opkernels.distributed.traffic`)                                         |

Formulas for what is sent, in numbers of w bytes, with m modes, N samples, n_2 along the whole axis, W weights, L layers of C channels:

| model        | forward and backward pass                                                                                              |
| ------------ | ----------------------------------------------------------------------------------------------------------------------- |
| FNO, TFNO    | 2 L x 2 B C prod(m), and W, and 2 B for the loss                                                                        |
| LocalNO      | the same, and 2 L x 2 x 2 B C N/P (n_2//2 + 1)/n_2 (P - 1)/P for the exact local branches                               |
| MGTFNO       | (padding + margin) 2 B C_in n_2 for windows, B C_in N/4^l for each coarse level l, 2 x margin 2 B C_out n_2 for seams, W |

Inputs take no gradient. MGTFNO works window by window: its peak is that of one window, whatever P. "seconds" is CPU time of one step and
process. Run: python benchmarks/distributed_memory.py   (writes benchmarks/results/distributed_memory.json;
about a minute)
"""

import json
import os
import tempfile
from pathlib import Path

from measuring import cpu, peak_memory

os.environ["OMP_NUM_THREADS"] = "1"
SIZE, WIDTH, LAYERS, MODES, LEVELS, PADDING = 256, 16, 4, 16, 2, 1 / 16
WORLDS, MODELS = (1, 2, 4), ("FNO", "TFNO", "LocalNO", "MGTFNO")
RESULTS = Path(__file__).parent / "results" / "distributed_memory.json"


def build(name):
    """Return a model, always of the same weights."""
    import torch

    from opkernels import Domain, models

    torch.manual_seed(0)
    options = {"n_modes": (MODES, MODES), "hidden_channels": WIDTH, "n_layers": LAYERS}
    if name == "MGTFNO":
        options |= {"levels": LEVELS, "padding": PADDING}
    return getattr(models, name)(Domain.periodic(1.0, 1.0), 1, 1, **options)


def formula(name, world, n_weights):
    """Return the bytes that one process hands over in a step."""
    if world == 1:
        return 0
    kept = (2 * ((MODES - 1) // 2) + 1) * ((MODES - 1) // 2 + 1)
    loss = 2
    if name == "MGTFNO":
        padding = round(SIZE * PADDING)
        margin = (padding + 1) // 2
        coarse = sum((SIZE >> level) ** 2 for level in range(1, LEVELS + 1))
        return 4 * ((padding + margin) * 2 * SIZE + coarse + 2 * margin * 2 * SIZE + n_weights + loss)
    numbers = 2 * LAYERS * 2 * WIDTH * kept + n_weights + loss
    if name == "LocalNO":
        columns = [(r + 1) * (SIZE // 2 + 1) // world - r * (SIZE // 2 + 1) // world for r in range(world)]
        elsewhere = SIZE // 2 + 1 - columns[0]  # of the first process, which does not send to itself
        returned = columns[0] * (SIZE - SIZE // world)
        numbers += LAYERS * 2 * 2 * WIDTH * (SIZE // world * elsewhere + returned)
    return 4 * numbers


def measure(rank, world, folder):
    """Measure every model in one process of `world`."""
    import torch
    import torch.distributed as dist

    from opkernels import rel_l2
    from opkernels.distributed import Split, process_mesh, sum_gradients, traffic

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    report = {}
    for name in MODELS:
        model = build(name)
        grid = Split(process_mesh(domain=world)).grid(model.domain.grid(SIZE, SIZE))
        x, truth = torch.randn(1, 1, *grid.sizes), torch.randn(1, 1, *grid.sizes)

        def step(model=model, grid=grid, x=x, truth=truth):
            model.zero_grad()
            rel_l2(model(x, grid=grid), truth, grid).backward()
            sum_gradients(model.parameters(), grid.split)

        def kept(model=model, grid=grid, x=x):
            sizes = {}
            weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

            def pack(t):
                sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
                return t

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                y = model(x, grid=grid)
            return sum(size for at, size in sizes.items() if at not in weights) * bool(len(y))

        step()  # tables
        with traffic() as sent:
            start = cpu()
            step()
            seconds = cpu() - start
        row = {"peak": peak_memory(step), "sent": sent.total(), "seconds": round(seconds, 3)}
        if name != "MGTFNO":  # keeps the field alone and makes activations again, window by window
            row["field"] = kept()
        report[name] = row | {"formula": formula(name, world, sum(p.numel() for p in model.parameters()))}
    if rank == 0:
        Path(folder, f"{world}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def main():
    """Measure, print and write."""
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as folder:
        reports = {}
        for world in WORLDS:
            mp.spawn(measure, (world, folder), nprocs=world)  # pyright: ignore[reportPrivateImportUsage]
            reports[world] = json.loads(Path(folder, f"{world}.json").read_text())
    rows = []
    for name in MODELS:
        for world in WORLDS:
            row, one = reports[world][name], reports[1][name]
            row |= {"model": name, "processes": world, "peak_ratio": round(one["peak"] / row["peak"], 3)}
            if "field" in row:
                row["field_ratio"] = round(one["field"] / row["field"], 3)
            rows.append(row)
            print(f"{name:8s} P={world}  peak {row['peak'] / 1e6:7.1f} MB (1/{row['peak_ratio']:.2f})", end="  ")
            print(f"field 1/{row['field_ratio']:.3f}" if "field" in row else " " * 12, end="  ")
            print(f"sent {row['sent']:9d} B, by formula {row['formula']:9d}  {row['seconds']:.2f} s")
    RESULTS.write_text(json.dumps({"size": SIZE, "width": WIDTH, "layers": LAYERS, "modes": MODES, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
