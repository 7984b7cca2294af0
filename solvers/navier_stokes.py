"""Two-dimensional incompressible Navier-Stokes in vorticity form on a torus.

    ∂ω/∂t + (u + U)·∇ω = ν Δω - α ω + f,     ω = ∂v/∂x - ∂u/∂y,   -Δψ = ω,   (u, v) = (∂ψ/∂y, -∂ψ/∂x)

| symbol   | meaning                          | shape              | units        |
| -------- | -------------------------------- | ------------------ | ------------ |
| ω        | vorticity                        | (B, 1, N_x, N_y)   | 1/time       |
| u, v     | velocity                         | (B, 2, N_x, N_y)   | length/time  |
| ν        | `viscosity`, kinematic           | number or (B,)     | length²/time |
| α        | `drag`, linear                   | number or (B,)     | 1/time       |
| f        | `forcing`, curl of a body force  | (*, 1, N_x, N_y)   | 1/time²      |
| U        | `mean_flow`                      | two numbers        | length/time  |

The nonlinear term is taken in Basdevant's form, four real transforms instead of five or more,

    -u·∇ω = (∂_yy - ∂_xx)(u v) + ∂_xy(u² - v²)   ->   N̂ = (κ_x² - κ_y²) F(uv) + κ_x κ_y F(v² - u²),

dealiased, which conserves energy and enstrophy to round-off; viscosity and drag are integrated
exactly. The mean of ω carries no velocity on a torus and is kept apart.

References
----------
C. Basdevant, Technical improvements for direct numerical simulation of homogeneous
three-dimensional turbulence, J. Comput. Phys. 50 (1983), 209-214. Z. Li et al., Fourier neural
operator for parametric partial differential equations, arXiv:2010.08895 (the data set).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.solvers.spectral import Modes, SpectralSolver, number, pair, parameter, per_sample, sample_forcing
from opkernels.solvers.stochastic_forcing import RingForcing, evolve_kicked

__all__ = ["NavierStokes2D"]

_CACHE_BYTES = 1 << 21


class NavierStokes2D(SpectralSolver):
    """Vorticity equation on a periodic rectangle; module docstring for the equation and symbols.

    Parameters
    ----------
    domain : Domain
        Two periodic axes of any lengths.
    viscosity : float or Tensor (B,)
        ν >= 0.
    forcing : callable, number or array, optional
        f(x, y) or f(x, y, t) of the coordinates, a constant, or samples that broadcast to (B, 1, N_x, N_y).
    drag : float or Tensor (B,)
        α >= 0.
    mean_flow : pair of float
        U, a uniform velocity that carries the vorticity.
    viscosity_order : int
        p in -ν (-Δ)^p ω: 1 for viscosity, 2 and more for hyperviscosity (ν in length^2p/time).
    stirring : RingForcing, optional
        Stochastic forcing on a ring of wave numbers, besides `forcing`.
    method : str
        "IFRK4" (default) or "ETDRK4", both self-starting; "IFAB4" is cheaper by about 1.5 at equal
        error where accuracy, not stability, sets the step.

    Notes
    -----
    Fails when the grid does not resolve the flow: vorticity then piles up at the cut-off
    (look at `spectrum`) though the solution stays finite. Good values: ν about 1e-3 at 64² and 1e-5
    at 512² for unit box and unit velocity. A forcing that acts only for a moment may fall between two
    steps: ask for times around it, or give `dt`.

    Examples
    --------
    >>> import math, torch
    >>> from opkernels import Domain
    >>> solver = NavierStokes2D(Domain.periodic(2 * math.pi, 2 * math.pi), viscosity=1e-2)
    >>> x, y = solver.domain.grid(32, 32).coordinates(dtype=torch.float64)
    >>> w = solver.solve((2 * x.cos() * y.cos())[None, None], times=[1.0])  # Taylor-Green vortex
    >>> round(w.max().item(), 6) == round(2 * math.exp(-0.02), 6)
    True
    """

    fields = ("vorticity",)
    dimensions = (2,)

    def __init__(
        self,
        domain: Domain,
        *,
        viscosity: float | Tensor,
        forcing: Callable[..., Tensor] | Tensor | None = None,
        drag: float | Tensor = 0.0,
        mean_flow: tuple[float, float] = (0.0, 0.0),
        viscosity_order: int = 1,
        stirring: RingForcing | None = None,
        method: str = "IFRK4",
    ):
        super().__init__(domain, method)
        self.viscosity = parameter(viscosity, "viscosity", lowest=0.0)
        self.drag = parameter(drag, "drag", lowest=0.0)
        self.mean_flow = tuple(number(speed, "mean_flow") for speed in pair(mean_flow, "mean_flow", "NavierStokes2D"))
        if isinstance(viscosity_order, bool) or not isinstance(viscosity_order, int) or viscosity_order < 1:
            raise ValueError(f"NavierStokes2D got viscosity_order={viscosity_order!r}; give a whole number of at least 1")
        self.viscosity_order = viscosity_order
        self.forcing = forcing
        if not isinstance(stirring, (RingForcing, type(None))):
            raise ValueError(f"NavierStokes2D got stirring={stirring!r}; give a RingForcing or leave None")
        self.stirring = stirring
        if stirring is not None:
            self._march = functools.partial(evolve_kicked, march=self._march, forcing=stirring)

    def _bind(self, grid: Grid, u0: Tensor) -> _Vorticity:
        return _Vorticity(self, grid, u0)

    def velocity(self, w: Tensor) -> Tensor:
        """Return the velocity (..., 2, N_x, N_y) of vorticity (..., 1, N_x, N_y), mean flow included."""
        modes = self._modes(w)
        w_hat = modes.to_modes(w)
        kx, ky = modes.k
        psi = w_hat * _inverse(modes.k2).to(w.dtype)
        flow = modes.to_grid(torch.cat([1j * ky.to(w.dtype) * psi, -1j * kx.to(w.dtype) * psi], dim=-3))
        return flow + torch.tensor(self.mean_flow, device=w.device, dtype=w.dtype)[:, None, None]

    def pressure(self, w: Tensor) -> Tensor:
        """Return the pressure over density (..., 1, N_x, N_y), of mean zero; a solenoidal force adds nothing."""
        modes = self._modes(w)
        kx, ky = (k.to(w.dtype) for k in modes.k)
        u, v = (self.velocity(w) - torch.tensor(self.mean_flow, device=w.device, dtype=w.dtype)[:, None, None]).split(1, dim=-3)
        uu, uv, vv = (modes.to_modes(product) for product in (u * u, u * v, v * v))
        return modes.to_grid(-(kx * kx * uu + 2 * kx * ky * uv + ky * ky * vv) * _inverse(modes.k2).to(w.dtype))

    def energy(self, w: Tensor) -> Tensor:
        """Return the kinetic energy per area, ½⟨u² + v²⟩ without the mean flow, shape (...)."""
        return self._quadratic(w, lambda k2: _inverse(k2) / 2)

    def enstrophy(self, w: Tensor) -> Tensor:
        """Return ½⟨ω²⟩, shape (...)."""
        return self._quadratic(w, lambda k2: torch.full_like(k2, 0.5))

    def palinstrophy(self, w: Tensor) -> Tensor:
        """Return ½⟨|∇ω|²⟩, shape (...)."""
        return self._quadratic(w, lambda k2: k2 / 2)

    def spectrum(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return wave numbers (K,) and the energy per shell (..., K); the shells sum to `energy`.

        A shell holds the modes whose κ lies within half a width of its wave number, the width being
        2π over the longest side.
        """
        modes = self._modes(w)
        width = 2 * math.pi / max(self.domain.extent)
        shell = (modes.k2.sqrt() / width).round().long()
        density = modes.to_modes(w).abs().square().squeeze(-3) * (modes.twins * _inverse(modes.k2) / 2).to(w.dtype)
        energy = density.new_zeros(*density.shape[:-2], int(shell.max()) + 1)
        energy = energy.index_add(-1, shell.flatten(), density.flatten(-2))
        return width * torch.arange(energy.shape[-1], device=w.device, dtype=w.dtype), energy

    def _modes(self, w: Tensor) -> Modes:
        if w.ndim < 4 or w.shape[-3] != 1:
            raise ValueError(f"NavierStokes2D got vorticity of shape {tuple(w.shape)}; expected (..., 1, x, y)")
        return Modes(self.domain.grid(*w.shape[-2:]), device=w.device, dtype=w.dtype, degree=1)

    def _quadratic(self, w: Tensor, density: Callable[[Tensor], Tensor]) -> Tensor:
        modes = self._modes(w)
        weights = modes.twins * density(modes.k2)
        return (modes.to_modes(w).abs().square().squeeze(-3) * weights.to(w.dtype)).sum(dim=(-2, -1))


def _inverse(k2: Tensor) -> Tensor:
    """Return 1/κ², zero for the mean."""
    return torch.where(k2 > 0, 1 / torch.where(k2 > 0, k2, 1.0), 0.0)


class _Workspace:
    """Buffers of the nonlinear term for a group of samples."""

    def __init__(self, problem: _Vorticity, samples: int):
        rows, n = problem.modes.grid.shape
        self.velocity = torch.empty_like(problem.to_velocity).repeat(samples, 1, 1, 1)
        self.padded = problem.to_velocity.new_zeros(samples, 2, rows, n // 2 + 1)
        self.inner = self.padded[..., : problem.modes.columns].mT


class _Vorticity:
    """The vorticity equation bound to a grid and a batch: its symbol, nonlinear term and rate.

    The state is (B, 1, K, N_x), the halved wave number first: each of the four one-dimensional
    transforms then runs over contiguous memory, with one transposing copy in all.
    """

    def __init__(self, solver: NavierStokes2D, grid: Grid, w: Tensor):
        modes = Modes(grid, device=w.device, dtype=w.dtype, degree=2)
        self.modes = modes
        if solver.stirring is not None:
            solver.stirring.modes(grid)  # refuses a grid that does not carry them
        kx, ky, k2, mask = (table.mT for table in (*modes.k, modes.k2, modes.mask))
        batch = len(w)
        viscosity = per_sample(solver.viscosity, "viscosity", batch, grid, w.device)
        drag = per_sample(solver.drag, "drag", batch, grid, w.device)
        self.symbol = -viscosity * k2.contiguous() ** solver.viscosity_order - drag
        inverse = _inverse(k2)
        self.to_velocity = torch.stack([1j * ky * inverse, -1j * kx * inverse]).to(w.dtype.to_complex()).contiguous()
        self.from_products = [_pairs(mask * table, w.dtype) for table in (kx * kx - ky * ky, kx * ky)]
        self.flow = torch.tensor(solver.mean_flow, device=w.device, dtype=w.dtype)[:, None, None]
        self.moving = any(solver.mean_flow)
        self.kmax = tuple(2 * math.pi / length * ((n - 1) // 3) for length, n in zip(grid.domain.extent, grid.shape, strict=True))
        self.group = batch
        if w.device.type == "cpu":  # fields, products and spectra of a group of samples stay in the cache
            self.group = min(batch, max(1, _CACHE_BYTES // (8 * math.prod(grid.shape) * w.element_size())))
        self.workspaces: dict[int, _Workspace] = {}
        forcing = sample_forcing(solver.forcing, "NavierStokes2D", grid, device=w.device, dtype=w.dtype, batch=batch)
        self.steady = self.encode(forcing) if isinstance(forcing, Tensor) else None
        self.forcing = forcing if callable(forcing) and self.steady is None else None
        self.driven = self.forcing is not None

    def encode(self, w: Tensor) -> Tensor:
        """Return the state of vorticity (B, 1, N_x, N_y)."""
        return self.modes.to_modes(w).mT.contiguous()

    def decode(self, w_hat: Tensor) -> Tensor:
        """Return the vorticity (B, 1, N_x, N_y) of a state."""
        return self.modes.to_grid(w_hat.mT)

    def increment(self, forcing: RingForcing, m: int, w_hat: Tensor) -> Tensor:
        """Return the increment number m of a stochastic forcing, shaped like the state."""
        modes = self.modes
        return forcing.kick(m, modes.grid, len(w_hat), device=modes.device, dtype=modes.dtype, columns=modes.columns).mT

    def velocity(self, w_hat: Tensor) -> Tensor:
        """Return u and v on the grid, (B, 2, N_x, N_y)."""
        n, columns = self.modes.grid.shape[-1], self.modes.columns
        flow = torch.fft.ifft(w_hat * self.to_velocity, dim=-1, norm="forward").mT
        flow = torch.fft.irfft(torch.nn.functional.pad(flow, (0, n // 2 + 1 - columns)), n=n, dim=-1, norm="forward")
        return flow + self.flow if self.moving else flow

    def transport(self, w_hat: Tensor) -> Tensor:
        """Return -(u·∇ω) = (κ_x² - κ_y²) F(uv) + κ_x κ_y F(v² - u²), dealiased; differentiable."""
        u, v = self.velocity(w_hat).unbind(dim=1)
        products = torch.stack([u * v, v * v - u * u], dim=1)
        spectra = torch.fft.rfft(products, dim=-1, norm="forward")[..., : self.modes.columns]
        spectra = torch.view_as_real(torch.fft.fft(spectra, dim=-2, norm="forward").mT)
        p, q = self.from_products
        return torch.view_as_complex(spectra[:, :1] * p + spectra[:, 1:] * q)

    def transport_in_place(self, w_hat: Tensor) -> Tensor:
        """Return what `transport` returns, writing over whatever is no longer needed."""
        samples = len(w_hat)
        if samples > self.group:
            return torch.cat([self.transport_in_place(part) for part in w_hat.split(self.group)])
        space = self.workspaces.get(samples) or self.workspaces.setdefault(samples, _Workspace(self, samples))
        torch.mul(w_hat, self.to_velocity, out=space.velocity)
        space.inner.copy_(torch.fft.ifft(space.velocity, dim=-1, norm="forward"))
        flow = torch.fft.irfft(space.padded, n=self.modes.grid.shape[-1], dim=-1, norm="forward")
        u, v = (flow.add_(self.flow) if self.moving else flow).unbind(dim=1)
        product = u * v
        v.mul_(v).addcmul_(u, u, value=-1)
        u.copy_(product)
        spectra = torch.fft.rfft(flow, dim=-1, norm="forward").narrow(-1, 0, self.modes.columns)
        del product, flow, u, v  # memory still in the cache is handed to the next transform
        spectra = torch.view_as_real(torch.fft.fft(spectra, dim=-2, norm="forward").mT)
        p, q = self.from_products
        return torch.view_as_complex((spectra.narrow(1, 0, 1) * p).addcmul_(spectra.narrow(1, 1, 1), q))

    def nonlinear(self, w_hat: Tensor, t: float) -> Tensor:
        """Return the transport and the forcing."""
        result = self.transport(w_hat) if w_hat.requires_grad else self.transport_in_place(w_hat)
        if self.steady is not None:
            result = result + self.steady
        if self.forcing is not None:
            result = result + self.encode(self.forcing(t))
        return result

    def rate(self, w_hat: Tensor) -> Tensor:
        """Return the largest κ·u over grid and kept modes, (B,)."""
        u, v = self.velocity(w_hat).abs().unbind(dim=1)
        return (self.kmax[0] * u + self.kmax[1] * v).amax(dim=(-2, -1))


def _pairs(table: Tensor, dtype: torch.dtype) -> Tensor:
    """Repeat a real table for the real and the imaginary part."""
    return table.to(dtype)[..., None].expand(*table.shape, 2).contiguous()
