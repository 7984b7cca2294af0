"""Particle solvers: compressible in 1-D, weakly compressible and incompressible in 2-D."""

from opkernels.solvers.sph.compressible import CompressibleSPH1D
from opkernels.solvers.sph.equations_of_state import IdealGas, Isothermal, Tait
from opkernels.solvers.sph.incompressible import IncompressibleSPH2D
from opkernels.solvers.sph.kernels import smoothing_kernel
from opkernels.solvers.sph.march import ParticleTrajectory
from opkernels.solvers.sph.walls import Walls
from opkernels.solvers.sph.weakly_compressible import WeaklyCompressibleSPH2D

__all__ = [
    "CompressibleSPH1D",
    "IdealGas",
    "IncompressibleSPH2D",
    "Isothermal",
    "ParticleTrajectory",
    "Tait",
    "Walls",
    "WeaklyCompressibleSPH2D",
    "smoothing_kernel",
]
