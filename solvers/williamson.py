"""Test cases for shallow water on the sphere: states of the Earth whose solution, or much about it, is known.

| case               | what happens                                                     | what is known                      |
| ------------------ | ---------------------------------------------------------------- | ---------------------------------- |
| `cosine_bell`      | a steady wind carries a cosine bell around the globe in 12 days  | all of it (W1)                     |
| `steady_zonal`     | a zonal flow in balance, about any axis                          | steady (W2)                        |
| `mountain`         | zonal flow over an isolated mountain                             | mass, energy, enstrophy (W5)       |
| `rossby_haurwitz`  | a wave of zonal number 4 drifts east                             | no change of δ at the start (W6)   |
| `galewsky`         | a jet in the middle latitudes, which a bump makes unstable       | steady without the bump            |
| `turning_rotation` | solid rotation about an axis fixed in space, seen from the Earth | all of it, and it is unsteady      |

Coordinates are latitude φ and longitude λ in radians; the rotated cases use s = sin φ cos α - cos λ cos φ sin α, the sine of the
latitude about an axis tilted by α.

References
----------
D. L. Williamson et al., J. Comput. Phys. 102 (1992), 211-224 (W1 to W6). J. Galewsky, R. K. Scott, L. M. Polvani, An initial-value
problem for testing numerical models of the global shallow-water equations, Tellus A 56 (2004), 429-440. M. Läuter, D. Handorf,
K. Dethloff, Unsteady analytical solutions of the spherical shallow water equations, J. Comput. Phys. 210 (2005), 535-553.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opkernels.solvers.shallow_water_sphere import GRAVITY, ROTATION, ShallowWaterSphere
from opkernels.sphere import Sphere

__all__ = ["DAY", "EARTH", "SphereProblem", "cosine_bell", "galewsky", "mountain", "rossby_haurwitz", "steady_zonal", "turning_rotation"]

RADIUS = 6.37122e6  # m
EARTH = Sphere(RADIUS)
DAY = 86400.0  # s
_SOLID = 2 * math.pi * RADIUS / (12 * DAY)  # m/s, once around in 12 days


@dataclass(frozen=True)
class SphereProblem:
    """A test case: its solver, its state as a function of the coordinates and the time, and how long to solve it.

    Parameters
    ----------
    solver : callable
        ``solver(**options)`` builds the `ShallowWaterSphere` with a method or a viscosity of choice.
    state : callable
        ``state(latitude, longitude, t)`` returns Φ', ζ and δ, (3, lat, lon) in float64; at t = 0 only where `exact` is False.
    end : float
        Time in seconds.
    exact : bool
        Whether `state` is the solution at all times.
    domain : Sphere
    """

    solver: Callable[..., ShallowWaterSphere]
    state: Callable[[Tensor, Tensor, float], Tensor]
    end: float
    exact: bool
    domain: Sphere = EARTH

    def fields(self, t: float, shape: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the state at time t on a grid, (1, 3, lat, lon)."""
        if t and not self.exact:
            raise ValueError(f"got t={t:g} for a case whose solution is known at t=0 only; solve it")
        latitude, longitude = self.domain.grid(*shape).coordinates(dtype=torch.float64)
        return self.state(latitude, longitude, t)[None].to(dtype)

    def errors(self, shape: tuple[int, int], *, dt: float | None = None, end: float | None = None, **options) -> tuple[float, float]:
        """Return the relative L2 errors of depth and vorticity at the end, or at another time."""
        end = end or self.end
        solver = self.solver(**options)
        u = solver.solve(self.fields(0.0, shape), [end], dt=dt)[:, 0]
        return self.distance(solver, u, self.fields(end, shape))

    @staticmethod
    def distance(solver: ShallowWaterSphere, u: Tensor, truth: Tensor) -> tuple[float, float]:
        """Return the relative L2 distances of depth and vorticity of two states (1, 3, lat, lon)."""
        weights = solver.domain.grid_of(u).weights(dtype=torch.float64)
        pairs = ((solver.depth(u), solver.depth(truth)), (u[:, 1], truth[:, 1]))
        depth, vorticity = (((weights * (a - b) ** 2).sum() / (weights * b**2).sum()).sqrt().item() for a, b in pairs)
        return depth, vorticity


def _sine(latitude: Tensor, longitude: Tensor, angle: float) -> Tensor:
    """Return s, the sine of the latitude about the tilted axis."""
    return latitude.sin() * math.cos(angle) - longitude.cos() * latitude.cos() * math.sin(angle)


def _zonal(depth: float, speed: float, s: Tensor) -> Tensor:
    """Return the geopotential g h of solid rotation in balance with the Coriolis force about the same axis."""
    return GRAVITY * depth - (RADIUS * ROTATION * speed + speed**2 / 2) * s**2


def steady_zonal(angle: float = 0.0) -> SphereProblem:
    """Return solid rotation about an axis tilted by `angle`, in balance with f = 2 Ω s (W2): u = 38.6 m/s, depths 1093 to 2998 m."""
    top = 2.94e4 / GRAVITY
    mean = _zonal(top, _SOLID, torch.tensor(1 / 3, dtype=torch.float64).sqrt()).item()  # s² is 1/3 on average

    def state(latitude, longitude, t):
        s = _sine(latitude, longitude, angle)
        return torch.stack([_zonal(top, _SOLID, s) - mean, 2 * _SOLID / RADIUS * s, torch.zeros_like(s)])

    def solver(**options):
        return ShallowWaterSphere(
            EARTH,
            mean_depth=mean / GRAVITY,
            coriolis=lambda latitude, longitude: 2 * ROTATION * _sine(latitude, longitude, angle),
            **options,
        )

    return SphereProblem(solver, state, 5 * DAY, True)


def cosine_bell(angle: float = 0.0) -> SphereProblem:
    """Return a cosine bell, 1000 m high and a third of the radius wide, that solid rotation carries around (W1), `angle` tilting the axis.

    The layer weighs next to nothing (g is 1e-12 of the Earth's), so that it does not push the wind; the ground, shaped
    as the surface of `steady_zonal`, keeps the wind as it is. A depth of 1000 m under the bell stays what it is.
    """
    gravity, base = 1e-12 * GRAVITY, 1000.0

    def state(latitude, longitude, t):
        turned = _SOLID / RADIUS * t
        x, y, z = latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()
        # the center starts at longitude 3π/2 on the equator and moves about the axis (-sin α, 0, cos α)
        away = math.sin(turned)
        center = (away * math.cos(angle), -math.cos(turned), away * math.sin(angle))
        distance = RADIUS * torch.arccos((center[0] * x + center[1] * y + center[2] * z).clamp(-1, 1))
        bell = torch.where(distance < RADIUS / 3, 500 * (1 + torch.cos(3 * math.pi / RADIUS * distance)), 0.0)
        s = _sine(latitude, longitude, angle)
        return torch.stack([gravity * bell, 2 * _SOLID / RADIUS * s, torch.zeros_like(s)])

    def solver(**options):
        return ShallowWaterSphere(
            EARTH,
            gravity=gravity,
            mean_depth=base,
            orography=lambda latitude, longitude: _zonal(0.0, _SOLID, _sine(latitude, longitude, angle)) / gravity,
            coriolis=lambda latitude, longitude: 2 * ROTATION * _sine(latitude, longitude, angle),
            **options,
        )

    return SphereProblem(solver, state, 12 * DAY, True)


def mountain() -> SphereProblem:
    """Return zonal flow of 20 m/s over a conical mountain of 2000 m at 30° north, 90° west (W5); the surface is at 5960 m at most."""
    speed, top = 20.0, 5960.0

    def ground(latitude, longitude):
        radius = math.pi / 9
        distance = torch.hypot(longitude - 3 * math.pi / 2, latitude - math.pi / 6)  # in coordinates, as defined
        return 2000 * (1 - distance.clamp_max(radius) / radius)

    def state(latitude, longitude, t):
        s = latitude.sin()
        phi = _zonal(top, speed, s) - GRAVITY * (ground(latitude, longitude) + top)
        return torch.stack([phi, 2 * speed / RADIUS * s, torch.zeros_like(s)])

    return SphereProblem(lambda **options: ShallowWaterSphere(EARTH, mean_depth=top, orography=ground, **options), state, 15 * DAY, False)


def rossby_haurwitz() -> SphereProblem:
    """Return the Rossby-Haurwitz wave of zonal number 4 (W6), depths 8003 to 10555 m. It breaks in the end; take a week at most."""
    k, R, base = 7.848e-6, 4, 8000.0  # w = K

    def state(latitude, longitude, t):
        c, s = latitude.cos(), latitude.sin()
        zeta = 2 * k * s - k * s * c**R * (R**2 + 3 * R + 2) * torch.cos(R * longitude)
        A = k / 2 * (2 * ROTATION + k) * c**2 + k**2 / 4 * c ** (2 * R) * ((R + 1) * c**2 + (2 * R**2 - R - 2))
        A = A - k**2 / 2 * R**2 * c ** (2 * R - 2)
        B = 2 * (ROTATION + k) * k / ((R + 1) * (R + 2)) * c**R * ((R**2 + 2 * R + 2) - (R + 1) ** 2 * c**2)
        C = k**2 / 4 * c ** (2 * R) * ((R + 1) * c**2 - (R + 2))
        phi = RADIUS**2 * (A + B * torch.cos(R * longitude) + C * torch.cos(2 * R * longitude))
        return torch.stack([phi + GRAVITY * (base - 9500), zeta, torch.zeros_like(s)])

    return SphereProblem(lambda **options: ShallowWaterSphere(EARTH, mean_depth=9500.0, **options), state, 7 * DAY, False)


def galewsky(bump: float = 120.0) -> SphereProblem:
    """Return a jet of 80 m/s at 45° north in balance, with a bump of the surface of `bump` meters; steady without it.

    The mean depth is 10 km (without the bump, which adds a mean of a third of a meter).
    """
    low, high, top = math.pi / 7, math.pi / 2 - math.pi / 7, 10158.186170454619  # top, the depth south of the jet, in m
    peak = 80 * math.exp(4 / (high - low) ** 2)

    def jet(latitude):
        """Return u and du/dφ."""
        inside = (latitude > low) & (latitude < high)
        x = torch.where(inside, latitude, (low + high) / 2)
        product = (x - low) * (x - high)
        u = torch.where(inside, peak * torch.exp(1 / product), 0.0)
        return u, -u * (2 * x - low - high) / product**2

    def fall(latitude):
        """Return ∫ a u (f + u tan φ/a) dφ from the south pole, by 200 Gauss nodes on the part inside the jet."""
        nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(200))
        width = (latitude.clamp(low, high) - low)[..., None] / 2
        x = low + width * (nodes + 1)
        u, _ = jet(x)
        return (weights * width * u * (2 * ROTATION * RADIUS * x.sin() + u * x.tan())).sum(dim=-1)

    def state(latitude, longitude, t):
        u, slope = jet(latitude)
        zeta = (u * latitude.tan() - slope) / RADIUS
        east = torch.remainder(longitude + math.pi, 2 * math.pi) - math.pi
        hill = bump * latitude.cos() * torch.exp(-((3 * east) ** 2) - (15 * (math.pi / 4 - latitude)) ** 2)
        phi = GRAVITY * (top - 1e4 + hill) - fall(latitude[:, :1])
        return torch.stack([phi, torch.where(u > 0, zeta, 0.0), torch.zeros_like(zeta)])

    return SphereProblem(lambda **options: ShallowWaterSphere(EARTH, mean_depth=1e4, **options), state, 6 * DAY, False)


def turning_rotation(angle: float = math.pi / 4) -> SphereProblem:
    """Return solid rotation about an axis fixed in space and tilted by `angle`, seen from the Earth: an exact solution of period a day.

    u = u₀ (cos φ cos α + sin φ cos(λ + Ωt) sin α), v = -u₀ sin(λ + Ωt) sin α, Φ = k - (u₀ s + a Ω sin φ)²/2 over the ground
    g h_s = (a Ω sin φ)²/2, which stands for the centrifugal force. All fields are of degree two or less: any grid resolves
    them, and the error is that of the steps.
    """
    speed, k = 38.61, 133681.0
    mean = k - (RADIUS * ROTATION) ** 2 / 6 - speed**2 / 6 - speed * RADIUS * ROTATION * math.cos(angle) / 3

    def state(latitude, longitude, t):
        s = _sine(latitude, longitude + ROTATION * t, angle)
        phi = k - (speed * s + RADIUS * ROTATION * latitude.sin()) ** 2 / 2
        return torch.stack([phi - mean, 2 * speed / RADIUS * s, torch.zeros_like(s)])

    def ground(latitude, longitude):
        return (RADIUS * ROTATION * latitude.sin()) ** 2 / (2 * GRAVITY)

    return SphereProblem(
        lambda **options: ShallowWaterSphere(EARTH, mean_depth=mean / GRAVITY, orography=ground, **options), state, 5 * DAY, True
    )
