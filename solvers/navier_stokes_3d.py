"""Three-dimensional incompressible Navier-Stokes on a torus, in rotational form.

    ∂u/∂t = P[u × ω + f] + ν Δu,     ω = ∇ × u,     ∇·u = 0

| symbol | meaning                                       | shape                 | units          |
| ------ | --------------------------------------------- | --------------------- | -------------- |
| u      | velocity, its mean included                   | (B, 3, N_x, N_y, N_z) | length/time    |
| ω      | vorticity                                     | (B, 3, N_x, N_y, N_z) | 1/time         |
| ν      | `viscosity`, kinematic                        | number or (B,)        | length²/time   |
| f      | `forcing`, acceleration                       | (*, 3, N_x, N_y, N_z) | length/time²   |
| k_f, ε | `stirring_wavenumber`, `stirring_power`       | number; number or (B,)| 1/length; length²/time³ |
| P      | f̂ -> f̂ - κ (κ·f̂)/κ², onto solenoidal fields  |                       |                |

u × ω differs from -u·∇u by a gradient, which P removes; it takes six real transforms to the grid and three
back, dealiased, and conserves energy and helicity to round-off. Viscosity is integrated exactly.

Stirring feeds the modes with 0 < |κ| <= k_f in proportion to themselves, f̂ = ε û / (2 E_f) with E_f their energy: the
power is ε whatever the flow. Without a power the flow is given what viscosity takes, ε = ν ⟨ω²⟩, which holds
its energy; published codes rescale the large scales after every step to the same end, to first order in the step.

Budgets (means over the box): d⟨u²⟩/2 dt = -ν ⟨ω²⟩ + ⟨u·f⟩ + ε,  d⟨u·ω⟩/dt = -2ν ⟨ω·∇×ω⟩ + 2⟨ω·f⟩ without stirring.

References
----------
C. Canuto et al., Spectral Methods: Evolution to Complex Geometries (2007), section 3.3. S. Ghosal et al., A dynamic
localization model for large-eddy simulation of turbulent flows, J. Fluid Mech. 286 (1995), 229-255 (the stirring).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.solvers.spectral import Modes, SpectralSolver, parameter, per_sample, sample_forcing

__all__ = ["NavierStokes3D", "project", "shells"]


class NavierStokes3D(SpectralSolver):
    """Velocity on a periodic box; module docstring for the equation and symbols.

    Parameters
    ----------
    domain : Domain
        Three periodic axes of any lengths.
    viscosity : float or Tensor (B,)
        ν >= 0.
    forcing : callable, number or array, optional
        f(x, y, z) or f(x, y, z, t) of the coordinates, three components stacked first, or samples that broadcast to
        (B, 3, N_x, N_y, N_z). Its gradient part does nothing.
    stirring_wavenumber : float, optional
        k_f; None for no stirring. Decaying turbulence needs neither.
    stirring_power : float or Tensor (B,), optional
        ε >= 0; None holds the energy.
    method : str
        As in `NavierStokes2D`.

    Notes
    -----
    Of u0 the solenoidal part is taken, on the modes that survive dealiasing. Fails when the grid does not resolve the
    flow: energy then piles up at the cut-off though the solution stays finite. Keep κ_max η >= 1.5 with κ_max = (2/3) π/dx
    and η = (ν³/ε)^(1/4), ε the dissipation: at unit energy on [0, 2π)³ about ν = 0.02 at 64³ and 0.006 at 128³.

    Examples
    --------
    >>> import math, torch
    >>> from opkernels import Domain
    >>> solver = NavierStokes3D(Domain.periodic(*[2 * math.pi] * 3), viscosity=0.1)
    >>> x, y, z = solver.domain.grid(8, 8, 8).coordinates(dtype=torch.float64)
    >>> u0 = torch.stack([z.sin() + y.cos(), x.sin() + z.cos(), y.sin() + x.cos()])[None]  # an ABC flow, ω = u
    >>> u = solver.solve(u0, [1.0])[:, 0]
    >>> bool((u - math.exp(-0.1) * u0).abs().max() < 1e-12)
    True
    """

    fields = ("velocity_x", "velocity_y", "velocity_z")
    dimensions = (3,)

    def __init__(
        self,
        domain: Domain,
        *,
        viscosity: float | Tensor,
        forcing: Callable[..., Tensor] | Tensor | None = None,
        stirring_wavenumber: float | None = None,
        stirring_power: float | Tensor | None = None,
        method: str = "IFRK4",
    ):
        super().__init__(domain, method)
        self.viscosity = parameter(viscosity, "viscosity", lowest=0.0)
        self.forcing = forcing
        if stirring_wavenumber is None and stirring_power is not None:
            raise ValueError("NavierStokes3D got stirring_power without stirring_wavenumber; say up to which wave number it stirs")
        self.stirring_wavenumber = (
            None if stirring_wavenumber is None else float(parameter(stirring_wavenumber, "stirring_wavenumber", above=0.0))
        )
        self.stirring_power = None if stirring_power is None else parameter(stirring_power, "stirring_power", lowest=0.0)
        smallest = 2 * math.pi / max(domain.extent)
        if self.stirring_wavenumber is not None and self.stirring_wavenumber < smallest:
            raise ValueError(
                f"NavierStokes3D got stirring_wavenumber={self.stirring_wavenumber:g}, below the smallest one {smallest:g} of the domain; "
                "raise it"
            )

    def _bind(self, grid: Grid, u0: Tensor) -> _Velocity:
        return _Velocity(self, grid, u0)

    def vorticity(self, u: Tensor) -> Tensor:
        """Return ω = ∇ × u of velocity (..., 3, N_x, N_y, N_z)."""
        modes = self._modes(u)
        return modes.to_grid(_curl(modes.to_modes(u), _tables(modes)[0]))

    def pressure(self, u: Tensor) -> Tensor:
        """Return the pressure over density (..., 1, N_x, N_y, N_z), of mean zero, where no force but a solenoidal one acts."""
        modes = self._modes(u)
        k, inverse = _tables(modes)
        u_hat = modes.to_modes(u)
        lamb = modes.to_modes(torch.linalg.cross(modes.to_grid(u_hat), modes.to_grid(_curl(u_hat, k)), dim=-4))
        head = -1j * _dot(k, lamb) * inverse  # Δ(p + u²/2) = ∇·(u × ω)
        kinetic = modes.to_modes(u.square().sum(dim=-4, keepdim=True) / 2)
        return modes.to_grid((head - kinetic) * (modes.k2 > 0).to(u.dtype))

    def energy(self, u: Tensor) -> Tensor:
        """Return the kinetic energy per volume ½⟨u²⟩, shape (...)."""
        self._modes(u)  # refuses other shapes
        return u.square().sum(dim=-4).mean(dim=(-3, -2, -1)) / 2

    def helicity(self, u: Tensor) -> Tensor:
        """Return ⟨u·ω⟩, shape (...)."""
        return (u * self.vorticity(u)).sum(dim=-4).mean(dim=(-3, -2, -1))

    def enstrophy(self, u: Tensor) -> Tensor:
        """Return ½⟨ω²⟩, shape (...); viscosity takes 2ν times as much energy per time."""
        return self.energy(self.vorticity(u))

    def divergence(self, u: Tensor) -> Tensor:
        """Return ∇·u (..., 1, N_x, N_y, N_z)."""
        modes = self._modes(u)
        return modes.to_grid(1j * _dot(_tables(modes)[0], modes.to_modes(u)))

    def spectrum(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return wave numbers (K,) and the energy per shell (..., K); the shells sum to `energy` but for the Nyquist modes."""
        modes = self._modes(u)
        width, shell = shells(modes)
        density = modes.to_modes(u).abs().square().sum(dim=-4) * (modes.twins / 2).to(u.dtype)
        energy = density.new_zeros(*density.shape[:-3], int(shell.max()) + 1)
        energy = energy.index_add(-1, shell.flatten(), density.flatten(-3))
        return width * torch.arange(energy.shape[-1], device=u.device, dtype=u.dtype), energy

    def _modes(self, u: Tensor) -> Modes:
        if u.ndim < 4 or u.shape[-4] != 3:
            raise ValueError(f"NavierStokes3D got velocity of shape {tuple(u.shape)}; expected (..., 3, x, y, z)")
        return Modes(self.domain.grid(*u.shape[-3:]), device=u.device, dtype=u.dtype, degree=1)


def shells(modes: Modes) -> tuple[float, Tensor]:
    """Return the width of a shell, 2π over the longest side, and the number of the shell of each mode: κ to the nearest width."""
    width = 2 * math.pi / max(modes.grid.domain.extent)
    return width, (modes.k2.sqrt() / width).round().long()


def _dot(k: Sequence[Tensor], u_hat: Tensor) -> Tensor:
    """Return κ·û, (..., 1, *modes)."""
    return functools.reduce(torch.add, [q * part for q, part in zip(k, u_hat.split(1, dim=-1 - len(k)), strict=True)])


def _curl(u_hat: Tensor, k: Sequence[Tensor]) -> Tensor:
    """Return iκ × û."""
    (kx, ky, kz), (u, v, w) = k, (1j * u_hat).unbind(dim=-4)
    return torch.stack([ky * w - kz * v, kz * u - kx * w, kx * v - ky * u], dim=-4)


def project(u_hat: Tensor, modes: Modes) -> Tensor:
    """Return û - κ (κ·û)/κ², the solenoidal part of d components (..., d, *modes)."""
    return _project(u_hat, *_tables(modes))


def _tables(modes: Modes) -> tuple[list[Tensor], Tensor]:
    """Return κ and 1/κ² (0 for the mean) in the dtype of the fields."""
    inverse = torch.where(modes.k2 > 0, 1 / torch.where(modes.k2 > 0, modes.k2, 1.0), 0.0)
    return [q.to(modes.dtype) for q in modes.k], inverse.to(modes.dtype)


def _project(u_hat: Tensor, k: Sequence[Tensor], inverse: Tensor) -> Tensor:
    along = _dot(k, u_hat) * inverse
    return u_hat - torch.cat([q * along for q in k], dim=-1 - len(k))


class _Velocity:
    """The equation bound to a grid and a batch; the state is û, (B, 3, *modes)."""

    def __init__(self, solver: NavierStokes3D, grid: Grid, u: Tensor):
        self.modes = modes = Modes(grid, device=u.device, dtype=u.dtype, degree=2)
        self.k, self.inverse = _tables(modes)
        batch = len(u)
        viscosity = per_sample(solver.viscosity, "viscosity", batch, grid, u.device)
        self.symbol = -viscosity * modes.k2
        self.kmax = torch.tensor(
            [2 * math.pi / length * ((n - 1) // 3) for length, n in zip(grid.domain.extent, grid.shape, strict=True)],
            device=u.device,
            dtype=u.dtype,
        )
        k_f = solver.stirring_wavenumber
        self.stirring = None if k_f is None else _Stirring(k_f, solver.stirring_power, self, batch)
        self.decode = modes.to_grid
        forcing = sample_forcing(solver.forcing, "NavierStokes3D", grid, device=u.device, dtype=u.dtype, batch=batch, channels=3)
        self.steady = self.encode(forcing) if isinstance(forcing, Tensor) else None
        self.forcing = forcing if callable(forcing) and self.steady is None else None
        self.driven = self.forcing is not None

    def encode(self, u: Tensor) -> Tensor:
        """Return the kept coefficients of the solenoidal part of fields (B, 3, *spatial)."""
        return _project(self.modes.to_modes(u), self.k, self.inverse)

    def nonlinear(self, u_hat: Tensor, t: float) -> Tensor:
        """Return P[u × ω + f] and the stirring."""
        u, w = self.decode(torch.cat([u_hat, _curl(u_hat, self.k)], dim=1)).split(3, dim=1)
        result = self.encode(torch.linalg.cross(u, w, dim=1))
        if self.steady is not None:
            result = result + self.steady
        if self.forcing is not None:
            result = result + self.encode(self.forcing(t))
        return result if self.stirring is None else result + self.stirring(u_hat)

    def rate(self, u_hat: Tensor) -> Tensor:
        """Return the largest κ·u over grid and kept modes, (B,)."""
        return torch.einsum("bcxyz,c->bxyz", self.decode(u_hat).abs(), self.kmax).flatten(1).amax(dim=1)


class _Stirring:
    """The force ε û / (2 E_f) on the modes up to a wave number."""

    def __init__(self, k_f: float, power: float | Tensor | None, problem: _Velocity, batch: int):
        modes = problem.modes
        self.dtype = modes.dtype
        self.band = ((modes.k2 > 0) & (modes.k2 <= (k_f * (1 + 1e-12)) ** 2)).to(self.dtype)
        self.twins = modes.twins.to(self.dtype) * self.band
        self.loss = (-problem.symbol * modes.twins).to(self.dtype)
        self.power = None if power is None else per_sample(power, "stirring_power", batch, modes.grid, modes.device)

    def __call__(self, u_hat: Tensor) -> Tensor:
        squares = u_hat.abs().square()
        energy = _total(squares * self.twins)  # 2 E_f
        power = _total(squares * self.loss) if self.power is None else self.power
        strength = torch.where(energy > 0, power / torch.where(energy > 0, energy, 1.0), 0.0)
        return u_hat * (self.band * strength.to(self.dtype))


def _total(x: Tensor) -> Tensor:
    return x.sum(dim=(1, 2, 3, 4), keepdim=True)
