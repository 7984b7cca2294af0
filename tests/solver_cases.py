"""Every solver on a grid, built for two samples with parameters of their own: the table that the tests of all solvers share."""

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from helpers import band_limited

from opkernels import Axis, Domain, Sphere
from opkernels.solvers import (
    AllenCahn,
    Burgers1D,
    Darcy2D,
    FitzHughNagumo,
    GrayScott,
    KolmogorovFlow,
    KortewegDeVries,
    KuramotoSivashinsky,
    NavierStokes2D,
    NavierStokes3D,
    ScalarTransport2D,
    ShallowWaterSphere,
    SmokeBuoyancy2D,
    SmokeBuoyancy3D,
    SpectralWave,
    Wave2D,
)

BALL = Sphere(2.0)
LINE, SQUARE, CUBE = Domain.periodic(4.0), Domain.periodic(4.0, 4.0), Domain.periodic(4.0, 4.0, 4.0)
NODES = Domain((Axis(0.0, 1.5, points="endpoint"), Axis(0.0, 1.0, periodic=True, points="cell")))
CELLS = Domain.box(2.0, 1.5)
DUCT = Domain((Axis(0.0, 1.5), Axis(0.0, 1.0, periodic=True, points="cell"), Axis(0.0, 1.2)))
TIMES = [0.1, 0.2]


@dataclass(frozen=True)
class Case:
    """A solver of two samples: how it is built from its parameters, each (2,), what it is given, and its step."""

    build: Callable
    u0: Callable[..., torch.Tensor]  # (2, C, *shape) of a shape
    shape: tuple[int, ...]
    small: tuple[int, ...]  # for gradients
    parameters: tuple[tuple[float, float], ...] = ()
    dt: float | None = 0.02

    def solver(self, part=slice(None)):
        return self.build(*(torch.tensor(p, dtype=torch.float64)[part] for p in self.parameters))

    def run(self, solver, u0, times=TIMES, **more):
        return solver.solve(u0, times, dt=self.dt, **more) if self.evolves else solver.solve(u0)[:, None]

    @property
    def evolves(self):
        return self.dt is not None


def scalar(shape, size=1.0):
    return size * band_limited(shape, batch=2)


def pair(shape):
    w = band_limited(shape, batch=2)
    return torch.cat([0.8 + 0.1 * w, 0.3 + 0.1 * w.roll(1, -1)], dim=1)


def moving(shape):
    w = band_limited(shape, batch=2)
    return torch.cat([w, w.roll(1, -1)], dim=1)


def triple(shape):
    return band_limited(shape, channels=3, batch=2, k_max=2)


def plume(shape):
    d = len(shape)
    return torch.cat([1 + band_limited(shape, batch=2, k_max=1), 0.4 * band_limited(shape, channels=d, batch=2, k_max=1, seed=1)], dim=1)


def layer(shape):
    u = ShallowWaterSphere(BALL, mean_depth=1.0).balanced(scalar(shape))
    return torch.cat([0.3 * u[:, :1], u[:, 1:2], scalar(shape, 0.3)], dim=1)


def hill(latitude, longitude):
    return 0.1 * latitude.sin()


def swirl(x, y):
    return torch.cos(math.pi * x / 2 + math.pi * y / 2)


def source(x, y, t):
    return torch.exp(-4 * (x - 1) ** 2 - y**2) * math.cos(3 * t)


def push(x, y, t):
    return x * math.cos(5 * t)


CASES = {
    "allen-cahn 1-D": Case(lambda e: AllenCahn(LINE, epsilon=e), scalar, (33,), (9,), ((0.05, 0.1),)),
    "allen-cahn 2-D": Case(lambda e: AllenCahn(SQUARE, epsilon=e), scalar, (14, 12), (4, 6), ((0.05, 0.1),)),
    "burgers": Case(lambda nu: Burgers1D(LINE, viscosity=nu, forcing=torch.cos), scalar, (32,), (9,), ((0.05, 0.1),)),
    "fitzhugh-nagumo, torus": Case(
        lambda a, b, k: FitzHughNagumo(LINE, diffusivity=(a, b), threshold=k), pair, (24,), (7,), ((0.01, 0.02), (0.05, 0.1), (0.0, 0.1))
    ),
    "fitzhugh-nagumo, walls": Case(
        lambda a, k: FitzHughNagumo(CELLS, diffusivity=(a, 0.05), threshold=k), pair, (12, 9), (4, 5), ((0.01, 0.02), (0.0, 0.1))
    ),
    "gray-scott 1-D": Case(
        lambda f, k: GrayScott(LINE, feed=f, kill=k, diffusivity=(0.02, 0.01)), pair, (33,), (9,), ((0.05, 0.1), (0.03, 0.06))
    ),
    "gray-scott 3-D": Case(
        lambda d: GrayScott(CUBE, feed=0.05, kill=0.06, diffusivity=(d, 0.01)), pair, (8, 9, 10), (3, 4, 3), ((0.03, 0.06),)
    ),
    "kdv": Case(lambda: KortewegDeVries(LINE), functools.partial(scalar, size=0.3), (33,), (9,)),
    "kuramoto-sivashinsky": Case(lambda: KuramotoSivashinsky(LINE, method="ETDRK4B"), scalar, (32,), (9,)),
    "kolmogorov": Case(
        lambda nu, a: KolmogorovFlow(SQUARE, viscosity=nu, drag=a, wavenumber=1), scalar, (18, 20), (5, 6), ((0.05, 0.1),) * 2
    ),
    "navier-stokes": Case(
        lambda nu, a: NavierStokes2D(SQUARE, viscosity=nu, drag=a, forcing=swirl, mean_flow=(0.5, 0.1)),
        scalar, (18, 20), (5, 6), ((0.05, 0.1), (0.1, 0.2)),
    ),
    "passive scalar": Case(
        lambda nu, d: ScalarTransport2D(NavierStokes2D(SQUARE, viscosity=nu), diffusivity=d, mean_gradient=(0.5, 0.0)),
        pair, (18, 20), (5, 6), ((0.005, 0.01), (0.01, 0.02)),
    ),
    "navier-stokes 3-D": Case(
        lambda nu, e: NavierStokes3D(CUBE, viscosity=nu, stirring_wavenumber=2.0, stirring_power=e),
        triple, (8, 9, 10), (4, 5, 4), ((0.05, 0.1), (0.3, 0.6)),
    ),
    "shallow water": Case(
        lambda h, w, nu: ShallowWaterSphere(
            BALL, mean_depth=h, gravity=2.0, rotation=w, viscosity=nu, viscosity_order=2, orography=hill
        ),
        layer, (10, 18), (4, 6), ((2.0, 3.0), (0.5, 1.0), (0.001, 0.002)),
    ),
    "spectral wave": Case(
        lambda c, g: SpectralWave(NODES, speed=c, damping=g, walls=("neumann", "periodic")),
        moving, (9, 8), (4, 3), ((1.0, 0.3), (0.5, 9.0)),
    ),
    "smoke 2-D": Case(
        lambda nu, b: SmokeBuoyancy2D(
            CELLS, viscosity=nu, buoyancy=b, inflow=source, walls=("free_slip", ("no_slip", "free_slip"))
        ),
        plume, (12, 9), (4, 5), ((0.05, 0.1), (1.0, -0.5)), 0.1,
    ),
    "smoke 3-D": Case(
        lambda nu, b: SmokeBuoyancy3D(
            DUCT, viscosity=nu, buoyancy=b, advection="semi_lagrangian", splitting="projection", walls=("no_slip", "periodic", "free_slip")
        ),
        plume, (8, 6, 7), (3, 4, 3), ((0.05, 0.1), (1.0, -0.5)), 0.05,
    ),
    "wave, leapfrog": Case(
        lambda c, r, g: Wave2D(NODES, speed=c, density=r, damping=g, walls=("absorbing", "periodic"), source=push),
        moving, (13, 12), (4, 3), ((1.0, 0.4), (1.0, 2.0), (0.1, 0.3)),
    ),
    "wave, newmark": Case(
        lambda c: Wave2D(NODES, speed=c, walls=("neumann", "periodic"), element="q1", scheme="newmark", tolerance=1e-14),
        moving, (13, 12), (4, 3), ((1.0, 0.4),),
    ),
    "darcy": Case(
        lambda f, g: Darcy2D(CELLS, source=f, boundary=g, walls=(("dirichlet", "neumann"), "dirichlet"), tolerance=1e-14),
        lambda shape: torch.exp(0.5 * band_limited(shape, batch=2)), (16, 12), (4, 3), ((1.0, -2.0), (0.0, 0.5)), None,
    ),
}  # fmt: skip
EVOLVING = [name for name, case in CASES.items() if case.evolves]
SMOKES = ("smoke 2-D", "smoke 3-D")
WAVES = ("spectral wave", "wave, leapfrog", "wave, newmark")


def digests():
    """Return a digest of the bits of every solution, computed by one thread as a worker does."""
    torch.set_num_threads(1)
    found = {}
    for name, case in CASES.items():
        u = case.run(case.solver(), case.u0(case.shape))
        found[name] = hashlib.sha256(u.numpy().tobytes()).hexdigest()[:16]
    return found
