"""Arrays of .mat files of version 5, mapped into memory where they are stored plain; every length is checked before it is used.

A file is a header of 128 bytes and elements (type, bytes); an array is an element of type 14, or compressed in one of type 15,
with elements of its own: flags and class, sizes, name, numbers in Fortran's order. MATLAB stores doubles that are small whole
numbers as bytes: a variable has the type of its class, and the numbers another. Cells, structures, sparse and complex arrays
are passed over. Not scipy's reader, which damaged files crash.

Reference: MATLAB, MAT-File Format, 2023.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Variable", "is_mat5", "variables"]

_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1", 17: "u2"}
_CLASSES = {4: "u2", 6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_MATRIX, _COMPRESSED, _CHARACTERS = 14, 15, 4
_LOGICAL, _COMPLEX = 0x02, 0x08


@dataclass(frozen=True)
class Variable:
    """One array of a file.

    Parameters
    ----------
    numbers : ndarray
        As stored, on the file or in memory.
    shape : tuple of int
    dtype : numpy dtype
        That of its class.
    text : str or None
        What it says, if it is of characters.
    """

    numbers: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype
    text: str | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        return self.numbers[key].astype(self.dtype, copy=False)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.numbers.astype(dtype or self.dtype)


def is_mat5(path: Path) -> bool:
    """Whether a file begins like a .mat file of version 5."""
    with path.open("rb") as file:
        head = file.read(128)
    return len(head) == 128 and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI")


def variables(path: Path) -> dict[str, Variable]:
    """Return the arrays of real numbers and the texts of a file.

    Raises
    ------
    ValueError
        If the file is damaged, or holds an array twice.
    """
    found: dict[str, Variable] = {}
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    order = "<" if content[126:128] == b"IM" else ">"
    for kind, body in _elements(memoryview(content)[128:], order):
        if kind == _COMPRESSED:
            kind, body = _inflated(body, order)
        if kind == _MATRIX and (read := _matrix(body, order)) is not None:
            name, variable = read
            if name in found:
                raise ValueError(f"it holds the variable {name} twice")
            found[name] = variable
    return found


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and bytes of the elements in a run of bytes."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:  # at most four bytes, with their number beside the type
            kind, size, start, step = kind & 0xFFFF, kind >> 16, at + 4, 8
        else:
            start, step = at + 8, 8 + size + (-size % 8 if kind != _COMPRESSED else 0)
        if size > (4 if step == 8 and start == at + 4 else len(content) - start):
            raise ValueError("an element is longer than the file")
        yield kind, content[start : start + size]
        at += step
    if at < len(content):
        raise ValueError("it ends within an element")


def _inflated(body: memoryview, order: str) -> tuple[int, memoryview]:
    """Return the one element in a compressed one, no longer than it says itself."""
    stream = zlib.decompressobj()
    try:
        kind, size = struct.unpack(f"{order}II", stream.decompress(body, 8))
        if size > 1100 * len(body) + 64:  # deflate shrinks at most 1032-fold
            raise ValueError("a compressed array is longer than it can be")
        inner = stream.decompress(stream.unconsumed_tail, size) if size else b""
    except (zlib.error, struct.error) as error:
        raise ValueError(f"a compressed array cannot be read ({error})") from error
    if len(inner) != size:
        raise ValueError("a compressed array is cut short")
    return kind, memoryview(inner)


def _matrix(body: memoryview, order: str) -> tuple[str, Variable] | None:
    """Return name and variable of an array; None for what is neither real numbers nor text."""
    parts = _elements(body, order)
    try:
        (_, flags), (_, sizes), (_, name) = (next(parts) for _ in range(3))
        kind, told = flags[0 if order == "<" else 3], flags[1 if order == "<" else 2]
        if kind not in _CLASSES or told & _COMPLEX:
            return None
        stored, numbers = next(parts)
        shape = tuple(np.frombuffer(sizes, dtype=f"{order}i4").tolist())
        values = np.frombuffer(numbers, dtype=np.dtype(order + _STORED[stored]))
    except (StopIteration, RuntimeError, IndexError, KeyError) as error:  # a generator turns StopIteration into RuntimeError
        raise ValueError("an array lacks one of its parts") from error
    label = bytes(name).decode("latin-1")
    if kind == _CHARACTERS:
        wide = "utf-16-le" if order == "<" else "utf-16-be"
        return label, Variable(values, shape, np.dtype("U1"), bytes(numbers).decode(wide if values.itemsize == 2 else "utf-8"))
    if min(shape, default=-1) < 0 or int(np.prod(shape, dtype=object)) != len(values):
        raise ValueError(f"{label} of shape {shape} holds {len(values)} numbers")
    dtype = np.dtype(bool if told & _LOGICAL else _CLASSES[kind])
    return label, Variable(values.reshape(shape, order="F"), shape, dtype)
