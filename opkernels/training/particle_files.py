"""Save and load a trained particle simulation: one safetensors file with a JSON header; no file can make us run code."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.models.sfbc import SFBC
from opkernels.particles import ParticleSet
from opkernels.storage import read_tensors, write_tensors
from opkernels.training.particles import ParticleStepper

__all__ = ["load_stepper", "save_stepper"]

_FORMAT = "opkernels particle stepper 1"
_NUMBERS = ("dt", "velocity_scale", "acceleration_scale", "support", "gravity", "position_gradients")


def save_stepper(stepper: ParticleStepper, path: Path | str) -> None:
    """Write a stepper to one file, whole or not at all.

    Parameters
    ----------
    stepper : ParticleStepper
    path : path
        Ends in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"got the file name {path}; let it end in .safetensors")
    tensors = {f"model.{name}": value for name, value in stepper.model.state_dict().items()}
    header = {
        "format": _FORMAT,
        "domain": stepper.model.domain.to_dict(),
        "model": vars(stepper.model)["arguments"],
        **{name: getattr(stepper, name) for name in _NUMBERS},
    }
    if stepper.boundary is not None:
        tensors |= {"boundary.positions": stepper.boundary.positions, "boundary.masses": stepper.boundary.masses}
        header["boundary_support"] = stepper.boundary.support
        if stepper.boundary_velocities is not None:
            tensors["boundary.velocities"] = stepper.boundary_velocities
    write_tensors(path, tensors, json.loads(json.dumps(header)))


def load_stepper(path: Path | str, *, device: torch.device | str | None = None) -> ParticleStepper:
    """Read a stepper written by `save_stepper`, or that of a run folder.

    Parameters
    ----------
    path : path
        The file, or a folder made by ``opkernels train``.
    device : device, optional
        Where the weights go; by default the CPU.

    Raises
    ------
    ValueError
        If nothing is there, or the file is damaged or of something else.
    """
    path = Path(path)
    tensors, header = read_tensors(path / "stepper.safetensors" if path.is_dir() else path)
    if header.get("format") != _FORMAT:
        raise ValueError(f"{path} does not hold a learned particle simulation; give a file of save_stepper, or a run folder")
    try:
        domain = Domain.from_dict(header["domain"])
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn and overwritten
            model = SFBC(domain, **header["model"])
        numbers = {name: header[name] for name in _NUMBERS if name != "support" or name in header}  # older files have none
        stepper = ParticleStepper(model, **numbers, **_boundary(tensors, header, domain))
        weights = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
        model.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError, AttributeError, StopIteration) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} lacks a part of a particle simulation ({told}); it was written by another version") from error
    return stepper if device is None else stepper.to(device)


def _boundary(tensors: dict[str, Tensor], header: dict, domain: Domain) -> dict:
    if "boundary.positions" not in tensors:
        return {}
    walls = ParticleSet(tensors["boundary.positions"], tensors["boundary.masses"], header["boundary_support"], domain)
    return {"boundary": walls, "boundary_velocities": tensors.get("boundary.velocities")}
