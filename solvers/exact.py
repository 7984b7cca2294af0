"""Problems whose solution is known, to test solvers and surrogates against.

Each function returns an `ExactProblem`: a domain, a way to build the solver with any scheme, the
solution as a function of coordinates and time, and a grid and end time that resolve it; or a
`SteadyProblem`, with a coefficient in the place of time and scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from opkernels.domains import Axis, Domain
from opkernels.solvers.allen_cahn import AllenCahn
from opkernels.solvers.burgers import Burgers1D
from opkernels.solvers.darcy import Darcy2D
from opkernels.solvers.kdv import KortewegDeVries
from opkernels.solvers.navier_stokes import NavierStokes2D
from opkernels.solvers.navier_stokes_3d import NavierStokes3D
from opkernels.solvers.spectral import SpectralSolver
from opkernels.solvers.spectral_wave import SpectralWave
from opkernels.solvers.wave import Wave2D

__all__ = [
    "ExactProblem",
    "SteadyProblem",
    "abc_flow",
    "allen_cahn_front",
    "cole_hopf",
    "layered_darcy",
    "manufactured_vorticity",
    "smooth_darcy",
    "soliton",
    "standing_wave",
    "taylor_green",
    "two_solitons",
]


@dataclass(frozen=True)
class ExactProblem:
    """A problem and its solution.

    Parameters
    ----------
    domain : Domain
        Where it lives.
    solver : callable
        ``solver(method)`` builds the solver with one of its schemes.
    solution : callable
        ``solution(x, y, ..., t)`` returns the fields, (C, *spatial), float64.
    shape : tuple of int
        A grid that resolves the solution.
    end : float
        A time until which the solution is worth comparing.
    """

    domain: Domain
    solver: Callable[[str], SpectralSolver | SpectralWave | Wave2D]
    solution: Callable[..., Tensor]
    shape: tuple[int, ...]
    end: float

    def fields(self, t: float, shape: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the solution at time t on a grid, (1, C, *spatial)."""
        x = self.domain.grid(*(shape or self.shape)).coordinates(dtype=torch.float64)
        return self.solution(*x, t)[None].to(dtype)

    def error(self, method: str, *, steps: int | None = None, shape: tuple[int, ...] | None = None, dtype=torch.float64) -> float:
        """Return the relative L2 error at `end`, after `steps` equal steps or the solver's own."""
        dt = None if steps is None else self.end / steps
        u = self.solver(method).solve(self.fields(0.0, shape, dtype), [self.end], dt=dt)[:, 0]
        truth = self.fields(self.end, shape)
        return ((u - truth).norm() / truth.norm()).item()


@dataclass(frozen=True)
class SteadyProblem:
    """A stationary problem and its solution.

    Parameters
    ----------
    domain : Domain
        Where it lives.
    solver : callable
        ``solver(faces)`` builds the solver with one of its means of the coefficient on faces.
    coefficient, solution : callable
        Of (x, y), each (H, W) in float64.
    """

    domain: Domain
    solver: Callable[[str], Darcy2D]
    coefficient: Callable[[Tensor, Tensor], Tensor]
    solution: Callable[[Tensor, Tensor], Tensor]

    def error(self, faces: str, shape: tuple[int, int]) -> float:
        """Return the relative L2 error at the samples."""
        x, y = self.domain.grid(*shape).coordinates(dtype=torch.float64)
        truth = self.solution(x, y)
        u = self.solver(faces).solve(self.coefficient(x, y)[None, None])[0, 0]
        return ((u - truth).norm() / truth.norm()).item()


def taylor_green(viscosity: float = 0.02, mean_flow: tuple[float, float] = (1.0, 0.5)) -> ExactProblem:
    """Return decaying Taylor-Green vortices carried by a mean flow: ω = 2 cos(x - Ut) cos(y - Vt) e^{-2νt} on [0, 2π)²."""
    domain = Domain.periodic(2 * math.pi, 2 * math.pi)

    def solution(x, y, t):
        speed = mean_flow
        return (2 * torch.cos(x - speed[0] * t) * torch.cos(y - speed[1] * t) * math.exp(-2 * viscosity * t))[None]

    return ExactProblem(
        domain,
        lambda method: NavierStokes2D(domain, viscosity=viscosity, mean_flow=mean_flow, method=method),
        solution,
        (32, 32),
        2.0,
    )


def abc_flow(viscosity: float = 0.1, mean_flow: tuple[float, float, float] = (1.0, 0.5, -0.7)) -> ExactProblem:
    """Return a decaying Arnold-Beltrami-Childress flow, ∇ × v = v, carried along: u = U + v(x - Ut) e^{-νt} on [0, 2π)³."""
    domain = Domain.periodic(*[2 * math.pi] * 3)
    a, b, c = 1.0, 0.8, 0.6

    def solution(x, y, z, t):
        x, y, z = (q - speed * t for q, speed in zip((x, y, z), mean_flow, strict=True))
        v = torch.stack([a * z.sin() + c * y.cos(), b * x.sin() + a * z.cos(), c * y.sin() + b * x.cos()])
        return torch.tensor(mean_flow, dtype=v.dtype)[:, None, None, None] + math.exp(-viscosity * t) * v

    return ExactProblem(domain, lambda method: NavierStokes3D(domain, viscosity=viscosity, method=method), solution, (8, 9, 10), 2.0)


def manufactured_vorticity(viscosity: float = 0.01, drag: float = 0.1) -> ExactProblem:
    """Return ω = sin(3x + t) cos 2y + cos(x - 2y + t/2) on [0, 2π)², kept up by the force that fits it.

    The two parts are eigenfunctions of the Laplacian, -Δω₁ = 13 ω₁ and -Δω₂ = 5 ω₂, so the stream
    function is ψ = ω₁/13 + ω₂/5 and f = ∂ω/∂t + ψ_y ω_x - ψ_x ω_y - νΔω + αω is in closed form.
    """
    domain = Domain.periodic(2 * math.pi, 2 * math.pi)

    def parts(x, y, t):
        return torch.sin(3 * x + t) * torch.cos(2 * y), torch.cos(x - 2 * y + t / 2)

    def forcing(x, y, t):
        one, two = parts(x, y, t)
        slope = torch.sin(x - 2 * y + t / 2)
        one_x, one_y = 3 * torch.cos(3 * x + t) * torch.cos(2 * y), -2 * torch.sin(3 * x + t) * torch.sin(2 * y)
        two_x, two_y = -slope, 2 * slope
        change = torch.cos(3 * x + t) * torch.cos(2 * y) - slope / 2
        transport = (one_y / 13 + two_y / 5) * (one_x + two_x) - (one_x / 13 + two_x / 5) * (one_y + two_y)
        return change + transport + viscosity * (13 * one + 5 * two) + drag * (one + two)

    return ExactProblem(
        domain,
        lambda method: NavierStokes2D(domain, viscosity=viscosity, drag=drag, forcing=forcing, method=method),
        lambda x, y, t: torch.add(*parts(x, y, t))[None],
        (32, 32),
        2.0,
    )


def cole_hopf(viscosity: float = 0.05, amplitude: float = 0.9, wavenumber: int = 1) -> ExactProblem:
    """Return a decaying Burgers wave on [0, 2π): u = -2ν θ_x/θ with θ = 1 + a e^{-νk²t} cos kx a heat solution."""
    domain = Domain.periodic(2 * math.pi)

    def solution(x, t):
        wave = amplitude * math.exp(-viscosity * wavenumber**2 * t)
        return (2 * viscosity * wavenumber * wave * torch.sin(wavenumber * x) / (1 + wave * torch.cos(wavenumber * x)))[None]

    return ExactProblem(domain, lambda method: Burgers1D(domain, viscosity=viscosity, method=method), solution, (128,), 2.0)


def soliton(speed: float = 4.0, length: float = 40.0) -> ExactProblem:
    """Return a KdV soliton, u = (c/2) sech²(√c/2 (x - ct - L/4)), whose tail at the period is below e^{-√c L/2}."""
    domain = Domain.periodic(length)

    def solution(x, t):
        y = torch.remainder(x - speed * t - length / 4 + length / 2, length) - length / 2
        return (speed / 2 / torch.cosh(math.sqrt(speed) / 2 * y).square())[None]

    return ExactProblem(domain, lambda method: KortewegDeVries(domain, method=method), solution, (256,), 1.0)


def two_solitons(k: tuple[float, float] = (2.0, 1.0), places: tuple[float, float] = (-8.0, 0.0), length: float = 60.0) -> ExactProblem:
    """Return a fast KdV soliton overtaking a slow one on [-L/2, L/2): u = 2 ∂²/∂x² ln τ with speeds k².

    τ = 1 + e^{η₁} + e^{η₂} + ((k₁ - k₂)/(k₁ + k₂))² e^{η₁ + η₂},  η_i = k_i (x - p_i) - k_i³ t.
    """
    domain = Domain((Axis(-length / 2, length / 2, periodic=True, points="node"),))
    ratio = ((k[0] - k[1]) / (k[0] + k[1])) ** 2

    def solution(x, t):
        eta = [a * (x - p) - a**3 * t for a, p in zip(k, places, strict=True)]
        exponents = torch.stack([torch.zeros_like(x), eta[0], eta[1], eta[0] + eta[1] + math.log(ratio)])
        share = torch.softmax(exponents, dim=0)  # the terms of τ over τ, free of overflow
        slope = torch.tensor([0.0, k[0], k[1], k[0] + k[1]], dtype=x.dtype)[:, None]
        first = (share * slope).sum(0)
        return 2 * ((share * slope**2).sum(0) - first**2)[None]

    return ExactProblem(domain, lambda method: KortewegDeVries(domain, method=method), solution, (384,), 4.0)


def allen_cahn_front(epsilon: float = 0.05, length: float = 4.0) -> ExactProblem:
    """Return two Allen-Cahn fronts that invade the unstable state 0 from a band of state 1 in the middle.

    Each is u = ½ (1 - tanh((x - st)/(2√2 ε))) with s = 3ε/√2; their product is a solution up to
    e^{-gap/(√2 ε)}, gap being the width of the band or of what is left outside it.
    """
    domain = Domain.periodic(length)
    speed, width = 3 * epsilon / math.sqrt(2), 2 * math.sqrt(2) * epsilon

    def solution(x, t):
        distance = (x - length / 2).abs() - length / 8 - speed * t
        return (0.5 * (1 - torch.tanh(distance / width)))[None]

    return ExactProblem(domain, lambda method: AllenCahn(domain, epsilon=epsilon, method=method), solution, (256,), 5.0)


def standing_wave(speed: float = 0.8, lengths: tuple[float, float] = (1.5, 1.0), numbers: tuple[int, int] = (2, 1)) -> ExactProblem:
    """Return a standing wave between fixed walls: u = sin(κ_x x) sin(κ_y y) cos ωt with κ = π m/L and ω = c |κ|.

    ``solver(method)`` takes "p1", "q1" (leapfrog), "newmark" (which needs `steps`) or "exact" (`SpectralWave`).
    """
    domain = Domain.box(*lengths, points="endpoint")
    kx, ky = (math.pi * m / length for m, length in zip(numbers, lengths, strict=True))
    omega = speed * math.hypot(kx, ky)

    def solution(x, y, t):
        u = torch.sin(kx * x) * torch.sin(ky * y)
        return torch.stack([math.cos(omega * t) * u, -omega * math.sin(omega * t) * u])

    def solver(method):
        if method == "exact":
            return SpectralWave(domain, speed=speed)
        element = "p1" if method == "newmark" else method
        return Wave2D(domain, speed=speed, element=element, scheme="newmark" if method == "newmark" else "leapfrog")

    return ExactProblem(domain, solver, solution, (61, 41), 1.0)


def smooth_darcy(points: str = "cell") -> SteadyProblem:
    """Return a smooth Darcy problem on [0, 1.5] x [0, 0.8] with u = sin(2x + 0.3) e^y, not zero on the walls, and a = 2 + sin 2x cos 3y."""

    def coefficient(x, y):
        return 2 + torch.sin(2 * x) * torch.cos(3 * y)

    def solution(x, y):
        return torch.sin(2 * x + 0.3) * torch.exp(y)

    def source(x, y):
        u, u_x = solution(x, y), 2 * torch.cos(2 * x + 0.3) * torch.exp(y)
        a_x, a_y = 2 * torch.cos(2 * x) * torch.cos(3 * y), -3 * torch.sin(2 * x) * torch.sin(3 * y)
        return -(a_x * u_x + a_y * u - 3 * coefficient(x, y) * u)

    domain = Domain.box(1.5, 0.8, points=points)
    return SteadyProblem(domain, lambda faces: Darcy2D(domain, source=source, boundary=solution, faces=faces), coefficient, solution)


def layered_darcy(source: float = 1.0, points: str = "cell") -> SteadyProblem:
    """Return flow across two layers, a = 3 on x < 1/2 and 12 beyond, u fixed at x = 0 and 1, no flux through the other walls.

    Without a source u rises from 0 to 1 in two straight lines; with f = 1 it is zero on both walls and a parabola in each
    layer. The jump falls on a face for an even number of samples.
    """
    domain = Domain.box(1.0, 2.0, points=points)

    def solution(x, y):
        if source == 0:
            return torch.where(x < 0.5, 1.6 * x, 1 - 0.4 * (1 - x))
        return source * torch.where(x < 0.5, (0.35 * x - x**2 / 2) / 3, ((1 - x**2) / 2 - 0.35 * (1 - x)) / 12)

    return SteadyProblem(
        domain,
        lambda faces: Darcy2D(
            domain,
            source=source,
            walls=("dirichlet", "neumann"),
            boundary=(lambda x, y: x) if source == 0 else 0.0,
            faces=faces,
            tolerance=1e-14,
        ),
        lambda x, y: torch.where(x < 0.5, 3.0, 12.0).double(),
        solution,
    )
