"""Solvers: one file per PDE; every solver maps functions on a domain to functions on it."""

from opkernels.solvers.allen_cahn import AllenCahn
from opkernels.solvers.burgers import Burgers1D
from opkernels.solvers.coefficients import log_normal, two_phase
from opkernels.solvers.darcy import Darcy2D
from opkernels.solvers.fast_poisson import poisson_solve
from opkernels.solvers.fitzhugh_nagumo import FitzHughNagumo
from opkernels.solvers.gray_scott import GrayScott
from opkernels.solvers.kdv import KortewegDeVries
from opkernels.solvers.kolmogorov import KolmogorovFlow
from opkernels.solvers.kuramoto_sivashinsky import KuramotoSivashinsky
from opkernels.solvers.navier_stokes import NavierStokes2D
from opkernels.solvers.navier_stokes_3d import NavierStokes3D
from opkernels.solvers.random_fields import GaussianRandomField
from opkernels.solvers.random_functions import RandomBumps, RandomWaves
from opkernels.solvers.random_sphere import RandomShallowWater, RandomSphere
from opkernels.solvers.random_velocity import RandomVelocity
from opkernels.solvers.random_vorticity import RandomVorticity
from opkernels.solvers.scalar_transport import ScalarTransport2D
from opkernels.solvers.shallow_water_sphere import ShallowWaterSphere
from opkernels.solvers.smoke import SmokeBuoyancy2D, SmokeBuoyancy3D
from opkernels.solvers.spectral_wave import SpectralWave
from opkernels.solvers.stepping import SolverError
from opkernels.solvers.stochastic_forcing import RingForcing
from opkernels.solvers.wave import Wave2D
from opkernels.solvers.wave_mesh import MeshWave2D

__all__ = [
    "AllenCahn",
    "Burgers1D",
    "Darcy2D",
    "FitzHughNagumo",
    "GaussianRandomField",
    "GrayScott",
    "KolmogorovFlow",
    "KortewegDeVries",
    "KuramotoSivashinsky",
    "MeshWave2D",
    "NavierStokes2D",
    "NavierStokes3D",
    "RandomBumps",
    "RandomShallowWater",
    "RandomSphere",
    "RandomVelocity",
    "RandomVorticity",
    "RandomWaves",
    "RingForcing",
    "ScalarTransport2D",
    "ShallowWaterSphere",
    "SmokeBuoyancy2D",
    "SmokeBuoyancy3D",
    "SolverError",
    "SpectralWave",
    "Wave2D",
    "log_normal",
    "poisson_solve",
    "two_phase",
]
