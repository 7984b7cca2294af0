"""The four messages between processes that fields need, with gradients, and a meter of what is sent.

| message    | every process                           | gradient                                                                |
| ---------- | --------------------------------------- | ----------------------------------------------------------------------- |
| `exchange` | sends each other process a part of its own | what came from a process goes back to it                             |
| `total`    | goes on with the sum for its own block  | the sum of all gradients                                                |
| `joined`   | makes the same result of all values     | its own part: the result is one, and so is its gradient                 |
| `gathered` | has the whole in place of its block     | its own block, for the same reason                                      |

The difference between the last two and the one before is that between a loss and a layer. A loss that every process computes alike is
one number, and every process begins its backward pass with the gradient one. The sum inside a layer is used P times, once for each
block; its gradient is what those uses say together. Taking the second rule for a loss makes gradients P times too large.

Complex tensors travel as pairs of real ones. Only public functions of ``torch.distributed`` are used. torch.compile compiles
what lies between two messages.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["eager", "exchange", "gathered", "joined", "total", "traffic"]

_meters: list[Counter[str]] = []
F = TypeVar("F", bound=Callable)


def eager(function: F) -> F:
    """Keep a function out of torch.compile, which compiles what comes before it and after it."""
    return torch.compiler.disable(function)  # pyright: ignore[reportReturnType]


@contextlib.contextmanager
def traffic() -> Iterator[Counter[str]]:
    """Count the bytes that this process hands to the others, by kind of message, in forward and backward passes.

    "exchange": what goes to other processes. "total": the size of the sum, which the usual ring algorithm sends 2 (P - 1)/P times.
    "joined" (and what is gathered): the size of its own part.

    Examples
    --------
    >>> with traffic() as sent:
    ...     pass
    >>> sent.total()
    0
    """
    meter: Counter[str] = Counter()
    _meters.append(meter)
    try:
        yield meter
    finally:
        _meters.remove(meter)


def _count(kind: str, n_bytes: int) -> None:
    for meter in _meters:
        meter[kind] += n_bytes


@eager
def exchange(values: Tensor, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """Send ``sent[r]`` entries of `values` (N,), in the order of the ranks r, and return those received, in the same order."""
    if values.is_complex():
        double = [[2 * n for n in counts] for counts in (sent, received)]
        return torch.view_as_complex(_Exchange.apply(torch.view_as_real(values).flatten(), *double, group).unflatten(0, (-1, 2)))
    return _Exchange.apply(values, list(sent), list(received), group)


@eager
def total(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the sum of `values` over the processes; the gradient is summed too."""
    return _Total.apply(values, group)


@eager
def joined(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the values of all processes, (P, ...), for a result that all compute alike."""
    return _Joined.apply(values, group)


def gathered(x: Tensor, dim: int, sizes: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """Return the blocks of all processes, of `sizes` along `dim`, one after the other."""
    held, most = x.shape[dim], max(sizes)
    rows = x.movedim(dim, 0)
    if held < most:  # the messages are of one size
        rows = torch.cat([rows, rows.new_zeros(most - held, *rows.shape[1:])])
    blocks = joined(rows, group)
    return torch.cat([block[:n] for block, n in zip(blocks, sizes, strict=True)]).movedim(0, dim)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, sent, received, group):
        ctx.sent, ctx.received, ctx.group = sent, received, group
        result = values.new_empty(sum(received))
        _count("exchange", (values.numel() - sent[dist.get_rank(group)]) * values.element_size())
        dist.all_to_all_single(result, values.contiguous(), received, sent, group=group)
        return result

    @staticmethod
    def backward(ctx, *grads):
        return _Exchange.apply(grads[0], ctx.received, ctx.sent, ctx.group), None, None, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, group):
        ctx.group = group
        result = values.clone(memory_format=torch.contiguous_format)
        _count("total", result.numel() * result.element_size())
        dist.all_reduce(torch.view_as_real(result) if result.is_complex() else result, group=group)
        return result

    @staticmethod
    def backward(ctx, *grads):
        return _Total.apply(grads[0], ctx.group), None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, group):
        ctx.rank = dist.get_rank(group)
        values = values.contiguous()
        result = values.new_empty(dist.get_world_size(group), *values.shape)
        _count("joined", values.numel() * values.element_size())
        dist.all_gather(list(result.unbind(0)), values, group=group)
        return result

    @staticmethod
    def backward(ctx, *grads):
        return grads[0][ctx.rank], None
