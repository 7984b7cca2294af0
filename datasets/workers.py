"""Worker processes: plain subprocesses that take task numbers on one pipe and answer on another.

They need no ``if __name__ == "__main__"`` in the user's script, share nothing with the parent, and end with it however
it ends: kill -9 of the parent leaves no orphan behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

__all__ = ["one_thread", "resolve", "run_tasks"]

_MAIN = "from opkernels.datasets.workers import serve; serve({parent})"


def run_tasks(function: str, job: dict, tasks: Sequence[int], workers: int) -> Iterator[int]:
    """Run ``function(job, task)`` for every task and yield the tasks as they finish.

    Parameters
    ----------
    function : str
        ``module:function`` under `opkernels`; its results go to files.
    job : dict
        Plain data (JSON), the same for all tasks.
    tasks : sequence of int
        Taken in this order.
    workers : int
        Processes of one thread each; 1 works in this process.

    Raises
    ------
    ValueError
        What the function raised as such; the first one stops the others.
    RuntimeError
        If a worker died, or the function failed in another way.
    """
    if workers == 1 or len(tasks) < 2:
        with one_thread():
            run = resolve(function)
            for task in tasks:
                run(job, task)
                yield task
        return
    answers: queue.Queue = queue.Queue()
    waiting = iter(tasks)
    lock = threading.Lock()

    def following() -> int | None:
        with lock:
            return next(waiting, None)

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _MAIN.format(parent=os.getpid())]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        for _ in range(min(workers, len(tasks)))
    ]
    try:
        for process in processes:
            threading.Thread(target=_feed, args=(process, {"function": function, "job": job}, following, answers), daemon=True).start()
        for _ in tasks:
            answer = answers.get()
            if "refused" in answer:
                raise ValueError(answer["refused"])
            if "failed" in answer:
                raise RuntimeError(answer["failed"])
            yield answer["task"]
    finally:
        for process in processes:
            process.kill()
            with contextlib.suppress(OSError), process:  # closes its pipes and waits for it
                pass


def _feed(process: subprocess.Popen, head: dict, following: Callable[[], int | None], answers: queue.Queue) -> None:
    """Keep one worker busy; runs in a thread of the parent."""
    task = None
    assert process.stdin and process.stdout, "both are pipes"
    try:
        process.stdin.write(json.dumps(head) + "\n")
        while (task := following()) is not None:
            process.stdin.write(f"{task}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise EOFError
            answers.put(json.loads(line))
    except (OSError, EOFError, ValueError):
        told = f"a worker ended (exit code {process.poll()}) in task {task}; memory may have run out: use fewer workers or a smaller batch"
        answers.put({"failed": told})


def serve(parent: int) -> None:
    """Work until the parent, a process number, closes the pipe or ends."""
    import signal

    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a solver prints is no answer
    torch.set_num_threads(1)
    head = json.loads(sys.stdin.readline())
    run = resolve(head["function"])
    for line in sys.stdin:
        task = int(line)
        try:
            run(head["job"], task)
            answer = {"task": task}
        except ValueError as error:
            answer = {"refused": str(error)}
        except Exception as error:
            import traceback

            answer = {"failed": f"task {task} failed: {error!r}\n{traceback.format_exc()}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _watch(parent: int) -> None:
    """End this process when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def resolve(function: str) -> Callable[[dict, int], None]:
    """Return the function named ``module:function`` under `opkernels`."""
    module, name = function.split(":")
    return getattr(import_module(f"opkernels.{module}"), name)


@contextlib.contextmanager
def one_thread():
    """Use one thread of torch, so that the numbers are the same in every process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
