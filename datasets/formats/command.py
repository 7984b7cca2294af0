"""``opkernels convert``: the conversion in a process of its own, which a damaged file may crash or stall, told in one sentence.

HDF5 reads what a file says of itself; a damaged one may take its process down or send it round in circles. This process
loads no library, hears from the other that it moves on, and ends it when it does not.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

__all__ = ["run"]

_PATIENCE, _SPEED = 60.0, 20e6  # seconds without news for any file, and bytes a second that the slowest disk reads
_FULL = 1 << 20  # bytes free of a full disk
_READY, _MOVING, _WRITING = b"ready", b"moving", b"writing"


def run(arguments: Namespace) -> int:
    """Run ``opkernels convert`` and return its exit code.

    Raises
    ------
    ValueError
        If the process that converts crashes or stalls.
    """
    from multiprocessing import get_context

    out, spawn = Path(arguments.out), get_context("spawn")
    before = _unfinished(out)
    news, teller = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_work, args=(arguments, teller), daemon=True)
    process.start()
    teller.close()
    try:
        moved = _watch(news, arguments)
        if not moved:
            process.kill()
        process.join()
    except KeyboardInterrupt:
        process.join(10)
        raise
    code = process.exitcode or 0
    if code >= 0:
        return code
    full = out.parent.is_dir() and shutil.disk_usage(out.parent).free < _FULL
    for file in _unfinished(out) - before:
        file.unlink(missing_ok=True)
    if full:
        raise ValueError(f"cannot write {out}: the disk is full; free some space or choose another disk")
    if not moved:
        raise ValueError(f"reading {arguments.file} does not come to an end, so it is damaged; copy it again")
    if -code == signal.SIGKILL:
        raise ValueError(f"the conversion of {arguments.file} was killed; the machine may have run out of memory")
    name = signal.Signals(-code).name
    raise ValueError(f"{arguments.file} made the library that reads it crash ({name}), so it is damaged; copy it again")


def _watch(news: Any, arguments: Namespace) -> bool:
    """Wait for the end of the other process and return true, or for too long without news and return false."""
    path = Path(arguments.file)
    patience = arguments.patience or _PATIENCE + (path.stat().st_size if path.is_file() else 0) / _SPEED
    limit = None  # until it has loaded its libraries
    while news.poll(limit):
        try:
            limit = None if news.recv_bytes() == _WRITING else patience
        except EOFError:
            return True
    return False


def _unfinished(out: Path) -> set[Path]:
    """Return temporary files beside `out`."""
    return set(out.parent.glob(f".{out.name}.*.tmp*"))


def _work(arguments: Namespace, teller: Any) -> None:
    """Convert in this process; the exit code is that of the command."""
    sys.unraisablehook = sys.excepthook = lambda *fault: None  # HDF5 fails again when Python frees a file it could not close
    try:
        _convert(arguments, teller)
    except KeyboardInterrupt:  # the other process tells
        sys.exit(130)
    except (ValueError, OSError) as error:
        if arguments.debug:
            raise
        print(f"opkernels convert: {error}", file=sys.stderr, flush=True)
        os._exit(2)  # not through HDF5, which may crash on what it could not close


def _convert(arguments: Namespace, teller: Any) -> None:
    from tqdm import tqdm

    from opkernels.datasets.formats.conversion import convert

    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a process that is ended leaves behind
    teller.send_bytes(_READY)
    periodic, told = {"yes": True, "no": False, None: None}[arguments.periodic], time.monotonic()
    with tqdm(unit="B", unit_scale=True, desc=Path(arguments.out).name, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            nonlocal told
            bar.total = total
            bar.update(done - bar.n)
            if done >= total or time.monotonic() > told + 1:
                teller.send_bytes(_WRITING if done >= total else _MOVING)
                told = time.monotonic()

        notes = convert(arguments.file, arguments.out, arguments.to, periodic=periodic, part=arguments.part, progress=progress)
    print(f"{arguments.out} written in the format {arguments.to}")
    for note in notes:
        print(f"note: {note}")
