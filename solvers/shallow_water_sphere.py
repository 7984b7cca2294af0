"""The rotating shallow-water equations on the sphere, with exponential time stepping that is exact for linear gravity waves.

    ∂Φ'/∂t = -div(Φ' u) - Φ̄ δ
    ∂ζ/∂t  = -div((ζ + f) u)
    ∂δ/∂t  = curl((ζ + f) u) - Δ(Φ' + g h_s + |u|²/2)         each of them minus ν (-Δ)^p

| symbol | meaning                                                       | shape             | units   |
| ------ | ------------------------------------------------------------- | ----------------- | ------- |
| Φ'     | `geopotential` g h of the layer, less its reference Φ̄         | (B, lat, lon)     | m²/s²   |
| ζ, δ   | `vorticity`, `divergence` of the wind u = (u, v)               | (B, lat, lon)     | 1/s     |
| Φ̄      | g `mean_depth`, the reference; often the mean of g h          | number or (B,)    | m²/s²   |
| g      | `gravity`                                                     | number or (B,)    | m/s²    |
| h_s    | `orography`, the height of the ground                         | (*, lat, lon)     | m       |
| f      | `coriolis`; 2 Ω sin(lat) with the `rotation` rate Ω            | (*, lat, lon)     | 1/s     |
| ν, p   | `viscosity`, of order p = `viscosity_order`                   | number or (B,)    | m^2p/s  |
| l, λ_l | degree of a spherical harmonic, l(l + 1)/a² on radius a       |                   | 1, 1/m² |

Spectral in space: spherical harmonics of degree l <= T, with T such that products of two fields are free of aliasing,
T = min((2 n_lat - 1)//3, (n_lon - 1)//3) on Gauss latitudes and (n_lat - 1)//3 for the first on equiangular ones. The wind follows from
ψ = Δ⁻¹ζ and χ = Δ⁻¹δ; the fluxes are differentiated by moving the derivative onto the harmonics, so that nothing is
divided by cos(lat), and a step leaves the mean of Φ' as it is.

The linear waves of each degree, ω_l = √(λ_l Φ̄), turn in characteristic variables into phases,

    w± = Φ' ± i c_l δ,     ∂w±/∂t = (±i ω_l - ν_l) w± + N_Φ ± i c_l N_δ,     c_l = √(Φ̄/λ_l),

so the system is diagonal, and the loop of `stepping` serves as it does the periodic solvers. The third variable is c_l ζ: the
norm of the state is then the energy of the linear waves, and the step's error is measured in it.

References
----------
D. L. Williamson et al., A standard test set for numerical approximations to the shallow water equations in spherical
geometry, J. Comput. Phys. 102 (1992), 211-224. J. Galewsky, R. K. Scott, L. M. Polvani, Tellus A 56 (2004), 429-440.
S. M. Cox, P. C. Matthews, J. Comput. Phys. 176 (2002), 430-455 (the stepping). B. Bonev et al., Spherical Fourier neural
operators, arXiv:2306.03838 (the data that models are trained on).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from opkernels.solvers.checks import full_precision
from opkernels.solvers.coefficients import Parameter, evaluate
from opkernels.solvers.spectral import SpectralSolver, parameter, per_sample
from opkernels.solvers.stepping import SolverError
from opkernels.solvers.tables import IFRK4, METHODS
from opkernels.sphere import Sphere, SphereGrid
from opkernels.spherical import Harmonics

__all__ = ["ShallowWaterSphere"]

GRAVITY = 9.80616  # m/s²
ROTATION = 7.292e-5  # 1/s
RK4 = dataclasses.replace(IFRK4, name="RK4")  # for L = 0 an integrating factor is one, and the table the classical one


class ShallowWaterSphere(SpectralSolver):
    """Shallow water on a rotating sphere; module docstring for the equations and symbols.

    Parameters
    ----------
    domain : Sphere
        In meters: the Earth is ``Sphere(6.37122e6)``.
    mean_depth : float or Tensor (B,)
        Φ̄/g > 0, the depth from which the geopotential is counted and with which the linear waves travel. Any depth near the
        mean serves; the solution does not depend on the choice, the error of a step slightly.
    gravity : float or Tensor (B,)
        g > 0.
    rotation : float or Tensor (B,)
        Ω, by default the Earth's.
    orography : callable, number, Tensor or array, optional
        h_s(latitude, longitude), or samples that broadcast to (B, lat, lon), in meters; its degrees above T are cut off.
    coriolis : callable, number, Tensor or array, optional
        f(latitude, longitude) in place of 2 Ω sin(latitude), for instance about another axis.
    viscosity : float or Tensor (B,)
        ν >= 0, on all three fields but for the mean of Φ'. Given in physical units, it is the same equation on every grid.
    viscosity_order : int
        p: 1 for viscosity, 4 for ∇⁸. A wave of degree l is damped at the rate ν (l(l + 1)/a²)^p.
    method : {"ETDRK4B", "ETDRK4", "ETDRK3", "ETDRK2", "RK4"}
        The first, in Krogstad's form, has up to five times less error than the second for the same work. "RK4" treats the
        linear waves explicitly, as a reference.

    Notes
    -----
    Fails where the layer runs dry, which is refused, and where the grid does not resolve the flow: without viscosity vorticity then
    piles up at the last degree (look at `spectrum`). Good values for the Earth: ν a^(-2p) = 1/(2 h) (T (T + 1))^(-p) with p = 4,
    that is, the last degree decays in two hours, which for T = 42 makes ν = 3.5e37 m⁸/s.

    Examples
    --------
    >>> from opkernels import Sphere
    >>> from opkernels.solvers import RandomShallowWater
    >>> earth = Sphere(6.37122e6)
    >>> u0 = RandomShallowWater(earth, speed=20.0).sample(2, (32, 64), seed=0)
    >>> u = ShallowWaterSphere(earth, mean_depth=1e4).solve(u0, times=[3600.0, 7200.0])
    >>> u.shape
    torch.Size([2, 2, 3, 32, 64])
    """

    fields = ("geopotential", "vorticity", "divergence")
    schemes = ("ETDRK4B", "ETDRK4", "ETDRK3", "ETDRK2", "RK4")
    tables = METHODS | {"RK4": RK4}
    domain: Sphere

    def __init__(
        self,
        domain: Sphere,
        *,
        mean_depth: float | Tensor,
        gravity: float | Tensor = GRAVITY,
        rotation: float | Tensor = ROTATION,
        orography: Parameter | None = None,
        coriolis: Parameter | None = None,
        viscosity: float | Tensor = 0.0,
        viscosity_order: int = 4,
        method: str = "ETDRK4B",
    ):
        super().__init__(domain, method)  # pyright: ignore[reportArgumentType]: `_check_domain` wants a sphere
        self.mean_depth = parameter(mean_depth, "mean_depth", above=0.0)
        self.gravity = parameter(gravity, "gravity", above=0.0)
        self.rotation = parameter(rotation, "rotation")
        self.viscosity = parameter(viscosity, "viscosity", lowest=0.0)
        if isinstance(viscosity_order, bool) or not isinstance(viscosity_order, int) or viscosity_order < 1:
            raise ValueError(f"ShallowWaterSphere got viscosity_order={viscosity_order!r}; give a whole number of at least 1")
        self.viscosity_order = viscosity_order
        self.orography: Parameter = 0.0 if orography is None else orography
        self.coriolis: Parameter = self._rotating if coriolis is None else coriolis

    def _check_domain(self, domain: Sphere) -> None:
        if not isinstance(domain, Sphere):
            raise ValueError(f"ShallowWaterSphere got domain={domain!r}; give a Sphere, for example Sphere(6.37122e6)")

    def _rotating(self, latitude: Tensor, longitude: Tensor) -> Tensor:
        rate = self.rotation.to(latitude).reshape(-1, 1, 1) if isinstance(self.rotation, Tensor) else self.rotation
        return 2 * rate * latitude.sin()

    def _bind(self, grid: SphereGrid, u0: Tensor) -> _Layer:
        if grid.dealiased_degree < 1:
            nlat, nlon = grid.shape
            raise ValueError(
                f'ShallowWaterSphere got a grid of {nlat} x {nlon} points ("{grid.domain.points}"), on which products of two waves are '
                "not resolved; take 4 x 4 points or more"
            )
        return _Layer(self, grid, u0)

    def solve(self, u0: Tensor, times: Sequence[float] | Tensor, *, t0: float = 0.0, dt: float | None = None) -> Tensor:
        """Solve from the state `u0` at time `t0` and return the state at each of `times`, in seconds.

        Parameters
        ----------
        u0 : Tensor, (B, 3, lat, lon)
            Φ', ζ and δ. The means of ζ and δ, which no wind has, are taken away.
        times, t0, dt
            As in the other solvers: answered exactly; by default the solver chooses its step.

        Returns
        -------
        Tensor, (B, T, 3, lat, lon)
            Differentiable in u0 and the parameters.

        Raises
        ------
        ValueError
            For fields of the wrong shape or dtype or not finite, a layer of no depth, times out of order, or a parameter that does
            not fit the batch.
        SolverError
            When a sample blows up or runs dry; the message names it and the time.
        """
        with full_precision(u0) if isinstance(u0, Tensor) else contextlib.nullcontext():  # what is no tensor is refused inside
            return super().solve(u0, times, t0=t0, dt=dt)

    def _answers(self, problem: _Layer, u0: Tensor, times: Sequence[float], t0: float, dt: float | None) -> Iterator[Tensor]:
        if (dry := self._driest(u0)) is not None:
            raise ValueError(
                f"ShallowWaterSphere.solve got u0 with a depth of {dry[1]:.3g} m in sample {dry[0]}, and a layer is nowhere dry; "
                "raise mean_depth or lower the amplitude of the geopotential"
            )
        for time, u in zip(times, super()._answers(problem, u0, times, t0, dt), strict=True):
            if (dry := self._driest(u)) is not None:
                raise SolverError(
                    f"ShallowWaterSphere: sample {dry[0]} has run dry by t={time:.6g}, its least depth being {dry[1]:.3g} m; "
                    "raise mean_depth or start from a calmer flow",
                    sample=dry[0],
                )
            yield u

    def _driest(self, u: Tensor) -> tuple[int, float] | None:
        """Return the first sample without depth somewhere, and its least depth; looks at the data from the host."""
        if u.is_meta or isinstance(u, torch._subclasses.FakeTensor):
            return None
        least = self.depth(u.detach()).flatten(1).amin(dim=1)
        dry = (least <= 0).nonzero().flatten().tolist()
        return (dry[0], float(least[dry[0]])) if dry else None

    # -- states, and what is read from them

    def from_wind(self, depth: Tensor, wind: Tensor) -> Tensor:
        """Return the state (B, 3, lat, lon) of a layer of depth (B, 1, lat, lon) in m and wind (B, 2, lat, lon) in m/s, eastward first."""
        u = torch.cat([depth, wind], dim=-3)
        grid, harmonics = self._transform(u)
        zeta, delta = harmonics.vorticity_divergence(wind[..., 0, :, :], wind[..., 1, :, :], grid)
        phi = self._shaped("gravity", u) * (depth - self._shaped("mean_depth", u))
        return torch.cat([phi, harmonics.synthesize(torch.stack([zeta, delta], dim=-3), grid)], dim=-3)

    def depth(self, u: Tensor) -> Tensor:
        """Return the depth (B, ..., 1, lat, lon) in m of states (B, ..., 3, lat, lon)."""
        return u[..., :1, :, :] / self._shaped("gravity", u) + self._shaped("mean_depth", u)

    def wind(self, u: Tensor) -> Tensor:
        """Return the wind (..., 2, lat, lon) in m/s, eastward first, of states (..., 3, lat, lon)."""
        grid, harmonics = self._transform(u)
        zeta, delta = harmonics.analyze(u[..., 1:, :, :], grid).unbind(-3)
        return torch.stack(harmonics.velocity(zeta, delta, grid), dim=-3)

    def balanced(self, vorticity: Tensor) -> Tensor:
        """Return the state (B, 3, lat, lon) of vorticity (B, 1, lat, lon) that has no divergence and, at first, makes none.

        Φ' is the field of mean zero with Δ(Φ' + g h_s + |u|²/2) = curl((ζ + f) u), so that few gravity waves arise.
        """
        u = torch.nn.functional.pad(vorticity, (0, 0, 0, 0, 1, 1))
        grid, harmonics = self._transform(u)
        problem = self._bind(grid, u)
        phi, zeta, delta = problem.fields(problem.encode(u))
        phi = harmonics.inverse_laplacian(problem.tendencies(phi, zeta, delta)[2], self.domain)
        return harmonics.synthesize(torch.stack([phi, zeta, delta], dim=1), grid)

    def energy(self, u: Tensor) -> Tensor:
        """Return the energy over density and area, ⟨h |u|²/2 + g h (h/2 + h_s)⟩ in m³/s², of states (B, ..., 3, lat, lon): (B, ...).

        It is kept up to the error of the steps, the ground being the one that the solver sees, of degrees up to T.
        """
        grid, harmonics = self._transform(u)
        depth, kinetic = self.depth(u), self.wind(u).square().sum(dim=-3, keepdim=True) / 2
        ground = harmonics.synthesize(harmonics.analyze(self._on_grid("orography", u), grid), grid)
        return self._mean(depth * (kinetic + self._shaped("gravity", u) * (depth / 2 + ground)))

    def potential_enstrophy(self, u: Tensor) -> Tensor:
        """Return ⟨(ζ + f)²/(2 h)⟩ in 1/(m s²) of states (B, ..., 3, lat, lon): (B, ...)."""
        return self._mean((u[..., 1:2, :, :] + self._on_grid("coriolis", u)).square() / (2 * self.depth(u)))

    def spectrum(self, u: Tensor) -> Tensor:
        """Return the kinetic energy ⟨|u|²/2⟩ of each degree l <= T, (..., T + 1) in m²/s², of states (..., 3, lat, lon)."""
        grid, harmonics = self._transform(u)
        power = harmonics.spectrum(harmonics.analyze(u[..., 1:, :, :], grid)).sum(dim=-2)
        return power * _inverse(_eigenvalues(harmonics.degree, self.domain, u.device)).to(u.dtype) / (8 * math.pi)

    # -- inside

    def _transform(self, u: Tensor) -> tuple[SphereGrid, Harmonics]:
        """Return the grid of fields (..., 3, lat, lon), and the harmonics that are kept on it."""
        if u.ndim < 3 or u.shape[-3] != len(self.fields):
            raise ValueError(
                f"ShallowWaterSphere got fields of shape {tuple(u.shape)}; expected three, (..., 3, latitude, longitude), "
                "and one where the vorticity is asked for"
            )
        grid = self.domain.grid(*u.shape[-2:])
        return grid, Harmonics(grid.dealiased_degree)

    def _shaped(self, name: str, u: Tensor) -> Tensor | float:
        """Return a parameter to multiply fields (B, ..., 3, lat, lon)."""
        value = getattr(self, name)
        if not isinstance(value, Tensor):
            return value
        per_sample(value, name, len(u), self.domain.grid(*u.shape[-2:]), u.device)  # refuses another number of samples
        return value.to(u).reshape(-1, *[1] * (u.ndim - 1))

    def _on_grid(self, name: str, u: Tensor) -> Tensor:
        """Return the orography or the Coriolis parameter to add to fields (B, ..., 1, lat, lon)."""
        points = self.domain.grid(*u.shape[-2:]).coordinates(device=u.device, dtype=torch.float64)
        values = evaluate(getattr(self, name), points, len(u), "ShallowWaterSphere", name)
        if not (u.is_meta or isinstance(u, torch._subclasses.FakeTensor)) and not bool(torch.isfinite(values.detach()).all()):
            raise ValueError(f"ShallowWaterSphere: {name} has a NaN or infinity; look at its formula or samples")
        return values.to(u.dtype).expand(-1, *u.shape[-2:]).reshape(len(values), *[1] * (u.ndim - 3), *u.shape[-2:])

    def _mean(self, x: Tensor) -> Tensor:
        """Return the mean over the sphere of fields (..., 1, lat, lon)."""
        weights = self.domain.grid(*x.shape[-2:]).weights(device=x.device, dtype=x.dtype)
        return (x.squeeze(-3) * (weights / self.domain.measure)).sum(dim=(-2, -1))


def _eigenvalues(degree: int, sphere: Sphere, device) -> Tensor:
    """Return λ_l = l(l + 1)/a², (T + 1,) in float64."""
    ell = torch.arange(degree + 1, dtype=torch.float64, device=device)
    return ell * (ell + 1) / sphere.radius**2


def _inverse(eigenvalues: Tensor) -> Tensor:
    """Return 1/λ_l, zero for l = 0."""
    return torch.where(eigenvalues > 0, 1 / torch.where(eigenvalues > 0, eigenvalues, 1.0), 0.0)


class _Layer:
    """The equations bound to a grid and a batch: their symbol, nonlinear term and rate.

    The state is (B, 3, l, m): Φ' + i c δ, Φ' - i c δ and c ζ. Three fields or tendencies, of Φ', ζ and δ, are each (B, l, m).
    """

    driven = False

    def __init__(self, solver: ShallowWaterSphere, grid: SphereGrid, u: Tensor):
        self.grid, self.harmonics, self.explicit = grid, Harmonics(grid.dealiased_degree), solver.method == "RK4"
        gravity, depth, viscosity = (self._column(solver, name, u) for name in ("gravity", "mean_depth", "viscosity"))
        eigenvalues = _eigenvalues(self.harmonics.degree, grid.domain, u.device)[:, None]
        inverse = _inverse(eigenvalues)
        speed = (gravity * depth).sqrt()  # of the waves, √Φ̄
        damping, omega = torch.broadcast_tensors(viscosity * eigenvalues**solver.viscosity_order, speed * eigenvalues.sqrt())
        waves = torch.cat([torch.complex(-damping, sign * omega) for sign in (1, -1, 0)], dim=1)
        self.symbol = torch.zeros_like(waves) if self.explicit else waves
        self.waves = waves.to(u.dtype.to_complex())
        self.scale = (speed * torch.where(eigenvalues > 0, inverse, 1.0).sqrt())[:, 0].to(u.dtype)  # c_l; degree 0 has neither ζ nor δ
        self.speed, self.eigenvalues = speed[:, 0].to(u.dtype), eigenvalues.to(u.dtype)
        self.kept = (eigenvalues > 0).to(u.dtype)
        self.coriolis = solver._on_grid("coriolis", u)[:, 0]
        self.ground = self.harmonics.analyze(gravity[:, 0] * solver._on_grid("orography", u.double())[:, 0], grid).to(self.waves.dtype)

    @staticmethod
    def _column(solver: ShallowWaterSphere, name: str, u: Tensor) -> Tensor:
        """Return a parameter to multiply (B, 3, l, m), in float64."""
        value = per_sample(getattr(solver, name), name, len(u), solver.domain.grid(*u.shape[-2:]), u.device)
        return torch.as_tensor(value, dtype=torch.float64, device=u.device).reshape(-1, 1, 1, 1)

    def encode(self, u: Tensor) -> Tensor:
        """Return the state of fields (B, 3, lat, lon)."""
        phi, zeta, delta = self.harmonics.analyze(u, self.grid).unbind(1)
        return self.join(phi, self.kept * zeta, self.kept * delta)

    def decode(self, state: Tensor) -> Tensor:
        """Return the fields (B, 3, lat, lon) of a state."""
        return self.harmonics.synthesize(torch.stack(self.fields(state), dim=1), self.grid)

    def join(self, phi: Tensor, zeta: Tensor, delta: Tensor) -> Tensor:
        """Return the state, or the tendency of the state, of three fields or tendencies."""
        wave = 1j * self.scale * delta
        return torch.stack([phi + wave, phi - wave, self.scale * zeta], dim=1)

    def fields(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Φ', ζ and δ of a state."""
        forth, back, turning = state.unbind(1)
        return (forth + back) / 2, turning / self.scale, (forth - back) * (-0.5j / self.scale)

    def tendencies(self, phi: Tensor, zeta: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return -div(Φ' u), -div((ζ + f) u) and curl((ζ + f) u) - Δ(g h_s + |u|²/2)."""
        harmonics, grid = self.harmonics, self.grid
        u, v = harmonics.velocity(zeta, delta, grid)
        layer, spin = harmonics.synthesize(torch.stack([phi, zeta]), grid)
        carried = torch.stack([layer, spin + self.coriolis])
        (_, curl), (flow, divergence) = harmonics.vorticity_divergence(carried * u, carried * v, grid)
        head = harmonics.analyze((u * u + v * v) / 2, grid) + self.ground
        return -flow, -divergence, curl + self.eigenvalues * head

    def nonlinear(self, state: Tensor, t: float) -> Tensor:
        """Return all but the linear waves and the damping, or all of it for an explicit scheme."""
        slope = self.join(*self.tendencies(*self.fields(state)))
        return slope + self.waves * state if self.explicit else slope

    def rate(self, state: Tensor) -> Tensor:
        """Return the rate of the fastest explicit motion of each sample, (B,): wind, and waves where depth is not the mean."""
        phi, zeta, delta = self.fields(state)
        u, v = self.harmonics.velocity(zeta, delta, self.grid)
        speed = (self.harmonics.synthesize(phi, self.grid) + self.speed**2).clamp_min(0).sqrt()
        wave = speed if self.explicit else (speed - self.speed).abs()
        turning = self.coriolis.abs().amax(dim=(-2, -1))
        damping = -self.waves.real.amin(dim=(-3, -2, -1)) if self.explicit else 0.0
        return self.eigenvalues[-1, 0].sqrt() * (torch.hypot(u, v) + wave).amax(dim=(-2, -1)) + turning + damping
