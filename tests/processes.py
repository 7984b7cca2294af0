"""Run checks in several processes over gloo: the functions `check_*` of a test file, one after the other, in one start.

The processes are forked from a server that has imported torch once, meet through a file, and give up together: the first failure,
or a wait of `PATIENCE` seconds, ends them all. Whatever happens, `run` comes back.
"""

import functools
import json
import multiprocessing as mp
import runpy
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch

PATIENCE = 120  # where two cores are shared by many, starts alone take half a minute
WORLDS = (1, 2, 4)


@functools.cache
def _context():
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "torch.distributed.device_mesh", "opkernels.models", "opkernels.distributed", "opkernels.losses"]
    )
    return context


@functools.cache
def run(path, world, patience=PATIENCE):
    """Run the checks of the file at `path` in `world` processes; return {name: None, or what failed}."""
    with tempfile.TemporaryDirectory() as folder:
        processes = [_context().Process(target=_work, args=(path, rank, world, folder, patience)) for rank in range(world)]
        for process in processes:
            process.start()
        end = time.monotonic() + 2 * patience
        for process in processes:
            process.join(max(end - time.monotonic(), 0.1))
        late = [process for process in processes if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        reports = [json.loads(p.read_text()) for p in sorted(Path(folder).glob("*.json"))]
    failures = {}
    for report in reports:
        for name, text in report.items():
            if text is not None:
                failures[name] = f"{failures.get(name, '')}\n{text}"
    passed = [name for name in reports[0] if all(name in report for report in reports)] if len(reports) == world else []
    return {name: failures.get(name) for name in [*passed, *failures]}


def names(path):
    """Names of the checks of a file, for parametrization."""
    return [line.split("(")[0].removeprefix("def ") for line in Path(path).read_text().splitlines() if line.startswith("def check_")]


def _work(path, rank, world, folder, patience):
    import torch.distributed as dist

    torch.set_num_threads(1)
    module = runpy.run_path(path)
    store = dist.FileStore(f"{folder}/store", world)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=patience))
    report = {}
    try:
        for name in names(path):
            report[name] = "did not come back"
            module[name](rank, world)
            report[name] = None
    except Exception:
        report[name] = f"rank {rank} of {world}: {traceback.format_exc()}"
    finally:
        Path(folder, f"{rank}.json").write_text(json.dumps(report))
    if all(text is None for text in report.values()):
        dist.destroy_process_group()


def splits(world, d):
    """Ways to split a field of d axes over all processes: each axis alone, and two axes over a table of processes."""
    from torch.distributed.device_mesh import init_device_mesh

    from opkernels.distributed import Split, process_mesh

    mesh = process_mesh(domain=world)
    yield from (Split(mesh, (None,) * a + ("domain",)) for a in range(d))
    if d > 1 and world == 4:
        table = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
        yield Split(table, ("rows", "columns"))
        yield Split(table, ("columns",) + (None,) * (d - 2) + ("rows",))


def same(a, b, dtype=torch.float64):
    """Equal to 1e-12, in float32 to 1e-6, of the larger of one and the largest entry."""
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert a.shape == b.shape, (a.shape, b.shape)
    a, b = a.detach().flatten(), b.detach().flatten()
    error = float(torch.linalg.vector_norm(a - b, torch.inf)) if len(a) else 0.0
    scale = max(float(torch.linalg.vector_norm(b, torch.inf)), 1.0) if len(a) else 1.0
    assert error <= tolerance * scale, error / scale


def whole(grid):
    return grid.domain.grid(grid.shape)
