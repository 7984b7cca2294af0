"""``opkernels convert``: the conversion in a process of its own, which a damaged file may crash, told in one sentence.

HDF5 reads what a file says of itself and may stop the process that does so; this one loads no library and survives.
"""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from pathlib import Path

__all__ = ["run"]


def run(arguments: Namespace) -> int:
    """Run ``opkernels convert`` and return its exit code.

    Raises
    ------
    ValueError
        If the process that converts is stopped by a signal.
    """
    from multiprocessing import get_context

    out = Path(arguments.out)
    before = _unfinished(out)
    process = get_context("spawn").Process(target=_work, args=(arguments,), daemon=True)
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.join(10)
        raise
    code = process.exitcode or 0
    if code >= 0:
        return code
    for file in _unfinished(out) - before:
        file.unlink(missing_ok=True)
    if -code == signal.SIGKILL:
        raise ValueError(f"the conversion of {arguments.file} was killed; the machine may have run out of memory")
    name = signal.Signals(-code).name
    raise ValueError(f"{arguments.file} made the library that reads it crash ({name}), so it is damaged; copy it again")


def _unfinished(out: Path) -> set[Path]:
    """Return temporary files beside `out`."""
    return set(out.parent.glob(f".{out.name}.*.tmp*"))


def _work(arguments: Namespace) -> None:
    """Convert in this process; the exit code is that of the command."""
    try:
        _convert(arguments)
    except KeyboardInterrupt:  # the parent tells
        sys.exit(130)
    except (ValueError, OSError) as error:
        if arguments.debug:
            raise
        print(f"opkernels convert: {error}", file=sys.stderr)
        sys.exit(2)


def _convert(arguments: Namespace) -> None:
    from tqdm import tqdm

    from opkernels.datasets.formats.conversion import convert

    periodic = {"yes": True, "no": False, None: None}[arguments.periodic]
    with tqdm(unit="B", unit_scale=True, desc=Path(arguments.out).name, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        notes = convert(arguments.file, arguments.out, arguments.to, periodic=periodic, part=arguments.part, progress=progress)
    print(f"{arguments.out} written in the format {arguments.to}")
    for note in notes:
        print(f"note: {note}")
