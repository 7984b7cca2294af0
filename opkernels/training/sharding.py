"""Weights dealt out over processes (FSDP2): every process holds a part of each, and gathers a layer's when it is at work.

A sharded tensor is a ``DTensor``. Checkpoints are written by all processes at once, each its parts, and read by any number of them,
one alone included. They are safetensors: ``torch.distributed.checkpoint`` keeps its own index as a pickle by default, and
nothing here is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["load_shards", "part_of", "save_shards", "shard", "whole"]


def shard(module: nn.Module, device: torch.device) -> nn.Module:
    """Deal the weights of a module out over all processes, in place; those of each layer are gathered together.

    Layers are the members of the first ``ModuleList`` on every path, as in the models of this package, unless they share weights.

    Raises
    ------
    ValueError
        If a weight is complex or a single number, which cannot be dealt out.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for name, weight in module.named_parameters():
        if weight.is_complex() or not weight.ndim:
            kind = "complex" if weight.is_complex() else "a single number"
            raise ValueError(f"the weight {name} is {kind}, and cannot be dealt out over processes; leave out distributed.sharded")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in _layers(module):
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def _layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers whose weights belong to them alone."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) else _layers(child)
    owners: dict[int, int] = {}
    for layer in found:
        for weight in layer.parameters():
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    return [layer for layer in found if all(owners[id(weight)] == 1 for weight in layer.parameters())]


def whole(tensor: Any) -> Tensor:
    """Return all of a tensor; all processes ask together."""
    return tensor.full_tensor() if _is_dealt_out(tensor) else tensor


def part_of(value: Tensor, like: Any) -> Tensor:
    """Return a whole tensor dealt out as `like` is, where it is; nothing is sent."""
    if not _is_dealt_out(like) or _is_dealt_out(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _is_dealt_out(tensor: Tensor) -> bool:
    return hasattr(tensor, "placements")


def save_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors into a folder; all processes together, each its parts."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def load_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, dealt out or not, from a folder of `save_shards`; all processes together.

    Raises
    ------
    ValueError
        If a file is damaged or missing, or holds other shapes.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with torch.no_grad():
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not dist.is_initialized())
    except (CheckpointException, Exception) as error:  # the former is no child of the latter
        raise ValueError(
            f"{folder} is damaged, or does not fit this model ({str(error).splitlines()[0]}); take another checkpoint"
        ) from error
