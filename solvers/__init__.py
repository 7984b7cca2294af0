"""Solvers: one file per PDE; every solver maps functions on a domain to functions on it."""

from opkernels.solvers.coefficients import log_normal, two_phase
from opkernels.solvers.darcy import Darcy2D
from opkernels.solvers.fast_poisson import poisson_solve
from opkernels.solvers.navier_stokes import NavierStokes2D
from opkernels.solvers.random_fields import GaussianRandomField
from opkernels.solvers.spectral_wave import SpectralWave
from opkernels.solvers.stepping import SolverError
from opkernels.solvers.wave import Wave2D
from opkernels.solvers.wave_mesh import MeshWave2D

__all__ = [
    "Darcy2D",
    "GaussianRandomField",
    "MeshWave2D",
    "NavierStokes2D",
    "SolverError",
    "SpectralWave",
    "Wave2D",
    "log_normal",
    "poisson_solve",
    "two_phase",
]
