"""What the benchmarks share: CPU time, and the peak of live tensor bytes."""

import resource
from collections.abc import Callable


def cpu() -> float:
    """Return the user and system seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


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
