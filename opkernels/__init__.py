"""Neural operators, and the PDE solvers they learn from, on grids of any resolution.

An operator acts on functions; a tensor is only a sample of one. A `Domain` says what a shape cannot
(extent, periodicity, where the samples sit); the shape says the resolution. The public names below
are imported on first use, so that ``import opkernels`` stays fast.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors and type checkers see; `_HOME` below is what runs, and a test compares the two
    from opkernels import (
        datasets,
        distributed,
        domains,
        evaluation,
        interop,
        layers,
        losses,
        metrics,
        models,
        solvers,
        training,
        transforms,
    )
    from opkernels.datasets.generation import generate
    from opkernels.datasets.particle_trajectories import ParticleTrajectories, open_particles
    from opkernels.datasets.trajectories import Trajectories, open_trajectories
    from opkernels.domains import Axis, Domain, Grid
    from opkernels.evaluation.certify import certify
    from opkernels.evaluation.evaluate import evaluate
    from opkernels.evaluation.transfer import transfer
    from opkernels.evaluation.uncertainty import calibrate
    from opkernels.metrics import energy_spectrum, rel_h1, rel_l2
    from opkernels.neighbors import Neighbors, VerletList, radius_search
    from opkernels.particles import ParticleSet
    from opkernels.resample import resample
    from opkernels.sphere import Sphere
    from opkernels.surrogate import Ensemble, Surrogate, load, save
    from opkernels.training.loop import fit

__version__ = "0.1.0"

_HOME = {
    "Axis": "domains",
    "Domain": "domains",
    "Grid": "domains",
    "Sphere": "sphere",
    "ParticleSet": "particles",
    "Neighbors": "neighbors",
    "VerletList": "neighbors",
    "radius_search": "neighbors",
    "resample": "resample",
    "rel_l2": "metrics",
    "rel_h1": "metrics",
    "energy_spectrum": "metrics",
    "Trajectories": "datasets.trajectories",
    "open_trajectories": "datasets.trajectories",
    "ParticleTrajectories": "datasets.particle_trajectories",
    "open_particles": "datasets.particle_trajectories",
    "generate": "datasets.generation",
    "fit": "training.loop",
    "Surrogate": "surrogate",
    "Ensemble": "surrogate",
    "save": "surrogate",
    "load": "surrogate",
    "evaluate": "evaluation.evaluate",
    "certify": "evaluation.certify",
    "transfer": "evaluation.transfer",
    "calibrate": "evaluation.uncertainty",
}
_MODULES = (
    "datasets",
    "distributed",
    "domains",
    "evaluation",
    "interop",
    "layers",
    "losses",
    "metrics",
    "models",
    "solvers",
    "training",
    "transforms",
)

__all__ = [*_HOME, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll] - it follows lists written out, not keys


def __getattr__(name: str):
    if name in _HOME:
        value = getattr(import_module(f"opkernels.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"opkernels.{name}")
    else:
        raise AttributeError(f"module 'opkernels' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])


class _Package(ModuleType):
    """Keep a public function that shares its module's name: importing ``opkernels.resample`` would put the module here."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
