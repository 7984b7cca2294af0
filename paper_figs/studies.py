"""What the studies share: results kept cell by cell, the rows of a contender, and tables between the marks of a page."""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

END = "<!-- end -->"


def stored(path: Path) -> dict[str, dict]:
    """Return the finished cells of a file: key, such as "FNO/0" of contender and seed, to a row of numbers."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def complete(path: Path, cells: Mapping[str, Callable[[], dict]], minutes: float = math.inf) -> dict[str, dict]:
    """Compute the cells that the file lacks, and return all it has then.

    Each finished cell is written at once, beside those that other processes have written meanwhile, so that a study may be killed at
    any moment, and its cells shared out. No cell begins after so many minutes of CPU time.
    """
    start = time.process_time()
    for key, compute in cells.items():
        if key in stored(path) or time.process_time() - start > 60 * minutes:
            continue
        row = compute()
        part = path.with_suffix(".tmp")
        part.write_text(json.dumps(stored(path) | {key: row}, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
        print(f"{key}: {_told(row)}", flush=True)
    return stored(path)


def _told(row: Mapping) -> str:
    return ", ".join(f"{name} {_told(value) if isinstance(value, dict) else _number(value)}" for name, value in row.items())


def _number(value) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def rows_of(rows: Mapping[str, dict], name: str) -> list[dict]:
    """Return the rows of one contender, whatever their seeds."""
    return [row for key, row in rows.items() if key.rsplit("/", 1)[0] == name]


def mean_of(rows: Sequence[Mapping]) -> dict:
    """Return the means of the numbers that the rows have in common."""
    found = {}
    for name, value in rows[0].items():
        if isinstance(value, dict):
            found[name] = mean_of([row[name] for row in rows])
        elif isinstance(value, int | float):
            found[name] = sum(row[name] for row in rows) / len(rows)
    return found


def means_over_seeds(rows: Mapping[str, dict], names: Iterable[str]) -> dict[str, dict]:
    """Print and return the means of each contender that has a row."""
    means = {name: mean_of(found) for name in names if (found := rows_of(rows, name))}
    for name, row in means.items():
        print(f"{name}, {len(rows_of(rows, name))} seeds: {_told(row)}")
    return means


def write_between(page: Path, begin: str, text: str) -> None:
    """Put a table between its marks on a page."""
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
