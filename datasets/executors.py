"""Tasks on any executor of the futures protocol: threads, processes, MPI, dask, a queue of a cluster.

An executor has ``submit(function, *arguments)`` and gives futures with ``done()``, ``result()`` and ``cancel()``:
``concurrent.futures``, ``dask.distributed.Client``, ``mpi4py.futures.MPIPoolExecutor``, loky and submitit have them. Its
workers must have the same versions of opkernels, torch and NumPy, and see the dataset's folder under the same path; what a
task makes goes to files there, and nothing large travels. Workers that end are the executor's business: dask gives
their tasks to others.
"""

from __future__ import annotations

import contextlib
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from opkernels.datasets.workers import one_thread, resolve

__all__ = ["Executor", "run_on"]

_LONGEST_WAIT = 1.0  # seconds between looks at the futures: some executors look into files for an answer


class Executor(Protocol):
    """Whatever takes work and gives futures."""

    def submit(self, function: Callable, /, *arguments: Any) -> Any:
        """Take one call and return its future at once."""


def run_on(executor: Executor, function: str, job: dict, tasks: Sequence[int]) -> Iterator[int]:
    """Run ``function(job, task)`` for every task on an executor and yield the tasks as they finish.

    Parameters
    ----------
    executor : Executor
        Where; it stays open.
    function, job, tasks
        As for `opkernels.datasets.workers.run_tasks`.

    Raises
    ------
    ValueError
        What the function raised as such; the first one cancels the others.
    RuntimeError
        If the function failed in another way, or the executor gave a task up.
    """
    call = uuid.uuid4().hex  # executors that remember results by their arguments must not answer from an earlier call
    waiting = {executor.submit(_work, function, job, task, call): task for task in tasks}
    try:
        while waiting:
            yield from _finished(waiting)
    finally:
        for future in waiting:
            with contextlib.suppress(Exception):  # the executor may be gone
                future.cancel()


def _finished(waiting: dict[Any, int]) -> Iterator[int]:
    """Wait until some futures are done, take them out, and yield their tasks."""
    pause = 0.01
    while not (done := [future for future in waiting if future.done()]):
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_WAIT)
    for future in done:
        task = waiting.pop(future)
        try:
            future.result()
        except (ValueError, _TaskError):
            raise
        except Exception as error:  # every executor has kinds of its own
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            raise RuntimeError(f"the executor gave up task {task} ({told}); what is finished stays, and the same call goes on") from error
        yield task


class _TaskError(RuntimeError):
    """A task failed in another way than by refusing its input."""


def _work(function: str, job: dict, task: int, call: str) -> None:
    """Do one task in a worker; errors become kinds that every executor can send."""
    try:
        with one_thread():
            resolve(function)(job, task)
    except ValueError as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise _TaskError(f"task {task} failed: {error!r}\n{traceback.format_exc()}") from None
