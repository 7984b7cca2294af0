"""Solvers: one file per PDE; every solver maps functions on a domain to functions on it."""

from opkernels.solvers.navier_stokes import NavierStokes2D
from opkernels.solvers.random_fields import GaussianRandomField
from opkernels.solvers.stepping import SolverError

__all__ = ["GaussianRandomField", "NavierStokes2D", "SolverError"]
