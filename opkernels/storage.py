"""Files that cannot run code: tensors as safetensors with a JSON header, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["locked", "read_header", "read_tensors", "write_atomically", "write_tensors", "write_text"]

_KEY = "opkernels"


def write_atomically(path: Path | str, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a kill leaves the old file or the new one.

    The data reach the disk before the name does (fsync), so that this holds for a power cut too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock, an empty file that is taken away at the end; it goes with the process that holds it, however that ends.

    Raises
    ------
    BlockingIOError
        If another process holds it, unless `wait`.
    """
    import fcntl

    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
                continue  # the process that held it has finished meanwhile, and taken the file away
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], header: Mapping) -> None:
    """Write tensors and a JSON `header` as one safetensors file, with a checksum of the tensors.

    Parameters
    ----------
    path : path
        The file; an older one is replaced in one step.
    tensors : mapping of str to Tensor
        Any device; written from the CPU.
    header : mapping
        Plain data (what JSON can say).
    """
    from safetensors.torch import save_file

    # Tensors may share their storage (tied weights); the format wants each on its own.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"checksum": _checksum(plain), "header": header}, allow_nan=True)
    write_atomically(path, lambda temporary: save_file(plain, temporary, metadata={_KEY: text}))


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict]:
    """Read a file of `write_tensors` and return its tensors (on the CPU) and its header.

    Raises
    ------
    ValueError
        If the file is missing, a pickle, damaged, or was written by something else.
    """
    from safetensors.torch import load_file

    checksum, header = _read(path)
    try:
        tensors = load_file(path)
    except Exception as error:  # the library raises several kinds
        raise ValueError(_damaged(path)) from error
    if _checksum(tensors) != checksum:
        raise ValueError(_damaged(path))
    return tensors, header


def read_header(path: Path | str) -> dict:
    """Read only the JSON header of a file of `write_tensors`; errors as there."""
    return _read(path)[1]


def _read(path: Path | str) -> tuple[int, dict]:
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; check the name")
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file is the header's length in eight bytes, any bytes, and then "{".
    if start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise ValueError(
            f"{path} is a pickle (torch.save writes such files), and reading one can run code; "
            "pass its weights to the model yourself and store it with opkernels.save"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(_damaged(path)) from error
    try:
        text = json.loads(metadata[_KEY])
        checksum, header = text["checksum"], text["header"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{path} holds tensors, but was not written by opkernels; give a file made by opkernels.save or train") from None
    if not isinstance(header, dict):
        raise ValueError(_damaged(path))
    return checksum, header


def _damaged(path: Path | str) -> str:
    return f"{path} is damaged or not a safetensors file; take an older checkpoint of the run, or train again"


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), value)
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
