"""The wave equation at constant speed, solved exactly mode by mode: u_tt + γ u_t = c² Δu.

| symbol | meaning                             | shape           | unit          |
| ------ | ----------------------------------- | --------------- | ------------- |
| u      | displacement                        | (B, *spatial)   | of u          |
| v      | velocity u_t                        | (B, *spatial)   | of u / time   |
| c      | speed                               | number or (B,)  | length / time |
| γ      | damping rate                        | number or (B,)  | 1 / time      |
| κ      | wave number of a mode               | table           | 1 / length    |

With ω = c κ and W² = ω² - γ²/4 a mode obeys, for any step h and w = v + γ u / 2,

    u⁺ = e^{-γh/2} [ cos(Wh) u + sin(Wh)/W w ],
    v⁺ = e^{-γh/2} [ -W sin(Wh) u + cos(Wh) w ] - γ/2 u⁺,

and with hyperbolic functions where W² < 0. Fourier modes on periodic axes, sine and cosine modes
between walls; the modes are those the grid carries, so a band-limited solution is exact to round-off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from opkernels.domains import Domain
from opkernels.solvers.checks import check_evolution, full_precision, require_domain, require_finite
from opkernels.solvers.fast_poisson import Eigenbasis, Walls, wall_kinds
from opkernels.solvers.spectral import parameter

__all__ = ["SpectralWave"]


class SpectralWave:
    """Solve u_tt + γ u_t = c² Δu exactly on a box or torus in one to three dimensions.

    Parameters
    ----------
    domain : Domain
        Axes with walls are sampled at "cell" or "endpoint", periodic ones at "node" or "cell".
    speed : number or (B,) tensor
        c > 0. For a speed that varies in space there is `Wave2D`.
    damping : number or (B,) tensor
        γ >= 0; modes with c κ < γ/2 are overdamped.
    walls : {"dirichlet", "neumann"}, or one entry per axis
        u = 0 (fixed) or ∂u/∂n = 0 (free): a kind for all walls, or per axis a kind or a pair
        (low, high), "periodic" on periodic axes.

    Raises
    ------
    ValueError
        If a parameter is out of range, or the samples and walls of an axis have no fast transform;
        in `solve`, if the state or the times do not fit.

    Notes
    -----
    Modes are advanced from each requested time to the next, one pair of transforms each; the state
    answered is all there is, so a run can be continued from it bit for bit. Data that the grid does
    not resolve (a kink, a jump) stays exact at the samples' interpolant, which oscillates.

    References
    ----------
    Duhamel's formula per mode, e.g. L. C. Evans, Partial Differential Equations (2010), section 4.3.

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> solver = SpectralWave(Domain.periodic(1.0), speed=2.0)
    >>> x = solver.domain.grid(32).coordinates(dtype=torch.float64)[0]
    >>> u0 = torch.stack([torch.sin(2 * torch.pi * x), torch.zeros_like(x)])[None]
    >>> bool(torch.allclose(solver.solve(u0, [0.25])[:, 0, 0], -u0[:, 0]))
    True
    """

    fields = ("displacement", "velocity")

    def __init__(self, domain: Domain, *, speed: float | Tensor = 1.0, damping: float | Tensor = 0.0, walls: Walls = "dirichlet"):
        require_domain("SpectralWave", domain)
        self.domain = domain
        self.walls = wall_kinds(domain, walls, "SpectralWave")
        self.speed = parameter(speed, "speed", above=0.0)
        self.damping = parameter(damping, "damping", lowest=0.0)
        Eigenbasis(domain.grid(*[4] * domain.ndim), self.walls)  # refuses samples without a transform

    def solve(self, u0: Tensor, times: Sequence[float] | Tensor, *, t0: float = 0.0, dt: float | None = None) -> Tensor:
        """Return displacement and velocity at each of `times`.

        Parameters
        ----------
        u0 : Tensor, (B, 2, *spatial)
            Displacement and velocity at t0. On Dirichlet walls that carry samples they are taken as zero.
        times : sequence of float, (T,)
            Increasing, none before t0; a time equal to t0 gives u0.
        t0 : float
            Time of u0.
        dt : float or None
            Accepted for symmetry with the other solvers: the solution is exact for any step.

        Returns
        -------
        Tensor, (B, T, 2, *spatial)
            Differentiable in u0, speed and damping.
        """
        grid, times = check_evolution("SpectralWave", self.domain, self.fields, u0, times, t0, dt)
        basis = Eigenbasis(grid, self.walls)
        speed, damping = (self._column(value, name, u0) for value, name in ((self.speed, "speed"), (self.damping, "damping")))
        state, clock, out, step = u0, t0, [], None
        tables: Sequence[Tensor] = ()
        with full_precision(u0):
            kappa2 = basis.eigenvalues(u0.device, torch.float64, exact=True)
            for time in times:
                if time > clock:
                    if step != time - clock:
                        step = time - clock
                        tables = [table.to(u0.dtype) for table in _propagator(kappa2, speed, damping, step)]
                    state = self._advance(state, basis, tables)
                    clock = time
                out.append(state)
        return require_finite("SpectralWave", torch.stack(out, dim=1), times, "the initial state is not finite there")

    def energy(self, state: Tensor) -> Tensor:
        """Return ½ ∫ v² + c² |∇u|² of states (B, 2, *spatial), shape (B,); constant without damping."""
        basis = Eigenbasis(self.domain.grid_of(state), self.walls)
        u, v = basis.forward(state[(..., *basis.unknowns)].double()).abs().square().unbind(1)
        kappa2 = basis.eigenvalues(state.device, torch.float64, exact=True)
        density = (v + self._column(self.speed, "speed", state) ** 2 * kappa2 * u) * basis.multiplicity(state.device, torch.float64)
        return (math.prod(basis.grid.spacing) / 2 * density.flatten(1).sum(1)).to(state.dtype)

    def _column(self, value: float | Tensor, name: str, u0: Tensor) -> Tensor | float:
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        if len(value) not in (1, len(u0)):
            raise ValueError(f"SpectralWave got {len(value)} values of {name} for a batch of {len(u0)}; give a number or one per sample")
        return value.to(u0.device, torch.float64).reshape(-1, *[1] * self.domain.ndim)

    @staticmethod
    def _advance(state: Tensor, basis: Eigenbasis, tables: Sequence[Tensor]) -> Tensor:
        inside = (..., *basis.unknowns)
        u, v = basis.forward(state[inside]).unbind(1)
        uu, uv, vu, vv = tables
        new = basis.inverse(torch.stack([uu * u + uv * v, vu * u + vv * v], dim=1))
        if basis.shape == basis.grid.shape:
            return new
        out = torch.zeros_like(state)
        out[inside] = new
        return out


def _propagator(kappa2: Tensor, speed: Tensor | float, damping: Tensor | float, h: float) -> tuple[Tensor, ...]:
    """Return the 2x2 matrix of one mode over the step h, (u, v) -> (u⁺, v⁺), in float64."""
    half = damping / 2
    square = speed**2 * kappa2 - half**2  # W²
    decay = torch.exp(torch.as_tensor(-half * h, dtype=torch.float64, device=kappa2.device))
    near = square.abs() * h**2 < 1e-6  # both formulas lose digits or their derivative there
    root = torch.where(near, 1.0, square).abs().sqrt()
    over = square < 0
    grow, fall = torch.exp((torch.where(over, root, 0.0) - half) * h), torch.exp(-(root + half) * h)
    cos = torch.where(over, (grow + fall) / 2, decay * torch.cos(root * h))
    sin = torch.where(over, (grow - fall) / 2, decay * torch.sin(root * h)) / root
    z = square * h**2
    cos = torch.where(near, decay * (1 - z / 2 + z**2 / 24), cos)
    sin = torch.where(near, decay * h * (1 - z / 6 + z**2 / 120), sin)
    uu = cos + half * sin
    return uu, sin, -square * sin + half * cos - half * uu, cos - half * sin
