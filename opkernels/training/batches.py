"""Examples of a dataset in a reproducible order: from memory where they fit, else read ahead from the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from opkernels.datasets.trajectories import Trajectories
from opkernels.domains import Whole

__all__ = ["Examples", "seed_of"]

_CHUNK = 2**24  # numbers read at once when loading or measuring a dataset


def seed_of(*numbers: int) -> int:
    """Return a seed that mixes several counters (seed, epoch, step) so that neighbors share nothing."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@dataclass
class Examples:
    """Windows of a dataset's stored steps, gathered in batches (B, F, C, *spatial).

    Parameters
    ----------
    data : Trajectories
        The samples.
    fields : tuple of str
        The channels.
    split : Whole
        Which block of every field this process holds.
    memory : Tensor, optional
        All of it (N, T, C, *spatial), where it fits; made by `cached`.
    """

    data: Trajectories
    fields: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device
    split: Whole = Whole()  # noqa: RUF009 it has no state
    memory: Tensor | None = None

    @property
    def n_times(self) -> int:
        """Stored steps per sample."""
        return self.data.n_times

    def cached(self, limit: int | None = None) -> Examples:
        """Load everything if it takes at most `limit` bytes (by default a quarter of the machine's or the device's memory)."""
        sizes = self.split.sizes(self.data.shape)
        points = len(self.data) * self.n_times * len(self.fields) * int(np.prod(sizes))
        size = points * torch.empty(0, dtype=self.dtype).element_size()
        on_device = self.device.type == "cuda" and size <= (torch.cuda.mem_get_info(self.device)[0] // 4 if limit is None else limit)
        if not on_device and size > (_machine_memory() // 4 if limit is None else limit):
            return self
        shape = (len(self.data), self.n_times, len(self.fields), *sizes)
        memory = torch.empty(shape, dtype=self.dtype, device=self.device if on_device else None)
        for start, chunk in self.chunks():
            memory[start : start + len(chunk)] = chunk.to(memory)
        self.memory = memory
        return self

    def undivided(self) -> Examples:
        """Return the same examples with whole fields, read from the file where this process holds blocks of them."""
        return self if self.split.size == 1 else replace(self, split=Whole(), memory=None)

    def _block(self, fields: Tensor) -> Tensor:
        """Return the block (B, F, C, *sizes) of whole fields (B, F, C, *spatial)."""
        if self.split.size == 1:
            return fields
        for a in range(fields.ndim - 3):
            fields = self.split.cut(fields, 3 + a, a)
        return fields.contiguous()

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield all samples once: (number of the first, (b, T, C, *spatial)), refusing values that are not finite."""
        size = max(1, _CHUNK // (self.n_times * len(self.fields) * int(np.prod(self.data.shape))))
        for start in range(0, len(self.data), size):
            rows = np.arange(start, min(start + size, len(self.data)))
            if self.memory is not None:
                yield start, self.memory[rows]
                continue
            chunk = self.data.read(rows, fields=self.fields)
            self._check(chunk, rows, np.zeros(len(rows), dtype=int), range(self.n_times))
            yield start, self._block(chunk)

    def number(self, sample: int) -> int:
        """Return the number that a sample has in the whole dataset, before it was split."""
        return int(self.data.fields[self.fields[0]].rows[sample])

    def count(self, offsets: Sequence[int], every: int = 1) -> int:
        """Return the number of windows with these offsets that start at each `every`-th step."""
        return len(self.data) * self._starts(offsets, every)

    def batches(self, parts: Sequence[np.ndarray], offsets: Sequence[int], every: int = 1) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (samples (B,), windows (B, F, C, *spatial)) for each part: numbers of examples from 0 to `count`.

        A file is read one batch ahead, in a thread.
        """
        starts = self._starts(offsets, every)

        def get(numbers: np.ndarray) -> tuple[np.ndarray, Tensor]:
            samples = numbers // starts
            return samples, self.gather(samples, numbers % starts * every, offsets)

        if self.memory is not None:
            yield from map(get, parts)
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = [reader.submit(get, part) for part in parts[:1]]
            for i in range(len(parts)):
                ready = ahead.pop().result()
                if i + 1 < len(parts):
                    ahead.append(reader.submit(get, parts[i + 1]))
                yield ready

    def gather(self, samples: np.ndarray, starts: np.ndarray, offsets: Sequence[int]) -> Tensor:
        """Return the windows (B, F, C, *spatial) in the training precision."""
        if self.memory is not None:
            steps = torch.from_numpy(starts[:, None] + np.asarray(offsets)[None])
            device = self.memory.device
            window = self.memory[torch.from_numpy(samples)[:, None].to(device), steps.to(device)]
            return window.to(self.device, non_blocking=True)
        if (starts == starts[0]).all():
            window = self.data.read(samples, starts[0] + np.asarray(offsets), fields=self.fields)
        else:
            window = self.data.windows(samples, starts, offsets[-1] + 1, fields=self.fields)[:, list(offsets)]
        self._check(window, samples, starts, offsets)
        return self._block(window).to(self.dtype).to(self.device, non_blocking=True)

    def _starts(self, offsets: Sequence[int], every: int) -> int:
        return (self.n_times - 1 - offsets[-1]) // every + 1

    def _check(self, window: Tensor, samples: np.ndarray, starts: np.ndarray, offsets: Sequence[int]) -> None:
        finite = torch.isfinite(window).flatten(3).all(dim=3)
        if finite.all():
            return
        b, f, c = (int(i) for i in torch.nonzero(~finite)[0])
        raise ValueError(
            f"the data are not finite in field {self.fields[c]} of sample {self.number(samples[b])} at step {starts[b] + offsets[f]}; "
            "mend or leave out that sample"
        )


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 2**33
