"""What the benchmarks share: environments for the processes that are timed or weighed, CPU time, and the peak of live tensor bytes."""

import resource
from collections.abc import Callable

QUIET = {  # an allocator that keeps freed memory: page faults of large temporaries otherwise hide the computation
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
}
RETURNING = {  # one that gives it back at once: the process is as large as what lives in it
    "MALLOC_MMAP_THRESHOLD_": "32768",
    "MALLOC_TRIM_THRESHOLD_": "32768",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}


def cpu() -> float:
    """Return the user and system seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def best(step: Callable[[], object], rounds: int, warm: int = 1) -> float:
    """Return the least CPU milliseconds of one call, after some to warm up."""
    for _ in range(warm):
        step()
    times = []
    for _ in range(rounds):
        start = cpu()
        step()
        times.append(1e3 * (cpu() - start))
    return min(times)


def peak_memory(step: Callable[[], object]) -> int:
    """Return the largest sum of live tensor bytes during `step()`, above what stood before, from the record of every allocation."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    results = trace.profiler.kineto_results  # pyright: ignore[reportOptionalMemberAccess]
    records = [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]  # pyright: ignore
    live = peak = 0
    for _, size in sorted(records):
        live += size
        peak = max(peak, live)
    return peak
