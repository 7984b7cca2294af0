"""Random reads of two consecutive steps from the native file, against a memory-mapped .npy file and other readers.

Ratios of CPU time (user + system) in one process, page cache warm, rounds of all readers interleaved. The floor is
``array[sample, step : step + 2]`` of a memory-mapped .npy, copied one by one into a preallocated batch.

    python benchmarks/store_reads.py
"""

import random
import tempfile
from pathlib import Path

import numpy as np
import torch
import xarray
from measuring import cpu

from opkernels import Domain, Trajectories, open_trajectories

BATCH, ROUNDS = 32, 40


def readers(folder: Path, n: int, channels: int, samples: int, steps: int) -> dict:
    shape = (samples, steps, n, n)
    numbers = np.random.default_rng(0)
    fields = {f"u{c}": numbers.standard_normal(shape, dtype=np.float32) for c in range(channels)}
    np.save(folder / "packed.npy", np.stack(list(fields.values()), axis=2))
    Trajectories.from_arrays(fields, Domain.periodic(1.0, 1.0), np.arange(steps)).save(folder / "data.nc")
    with xarray.open_dataset(folder / "data.nc") as seen:
        chunks = {name: {"chunksizes": (1, 2, n, n)} for name in fields}
        seen.to_netcdf(folder / "chunked.nc", engine="h5netcdf", encoding=chunks)
    mapped = np.load(folder / "packed.npy", mmap_mode="r")
    native, chunked = open_trajectories(folder / "data.nc"), open_trajectories(folder / "chunked.nc")
    lazy = xarray.open_dataset(folder / "data.nc")

    def floor(rows, starts):
        out = torch.empty(len(rows), 2, channels, n, n)
        view = out.numpy()
        for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
            view[b] = mapped[row, start : start + 2]
        return out

    def by_xarray(rows, starts):
        parts = [np.stack([lazy[name][r, s : s + 2].values for name in fields], axis=1) for r, s in zip(rows[:2], starts[:2], strict=True)]
        return torch.from_numpy(np.stack(parts))

    return {
        "memory-mapped .npy": floor,
        "Trajectories, native file": lambda rows, starts: native.windows(rows, starts, 2),
        "Trajectories, chunked file": lambda rows, starts: chunked.windows(rows, starts, 2),
        "xarray (2 of the batch)": by_xarray,
    }


def measure(n: int, channels: int, samples: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = readers(Path(folder), n, channels, samples, steps)
        choose = random.Random(0)
        times = {name: [] for name in table}
        for turn in range(ROUNDS):
            rows = [choose.randrange(samples) for _ in range(BATCH)]
            starts = [choose.randrange(steps - 1) for _ in range(BATCH)]
            expected = table["memory-mapped .npy"](rows, starts)
            for name, read in table.items():
                before = cpu()
                for _ in range(10):
                    got = read(rows, starts)
                spent = (cpu() - before) * BATCH / len(got)
                assert torch.equal(got, expected[: len(got)])
                if turn:
                    times[name].append(spent)
        base = np.median(times["memory-mapped .npy"])
        print(f"{channels} x {n} x {n}, windows of {2 * channels * n * n * 4 // 1024} KiB, batches of {BATCH}")
        for name, spent in times.items():
            print(f"  {name:<28}{np.median(spent) / base:8.2f} x   {np.median(spent) / BATCH * 1e5:8.1f} us per window")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in ((64, 1, 200, 21), (64, 2, 100, 21), (128, 2, 40, 21)):
        measure(*case)
