"""The Gray-Scott reaction-diffusion system on a torus of one to three dimensions.

    ∂A/∂t = D_A ΔA - A B² + F (1 - A)
    ∂B/∂t = D_B ΔB + A B² - (F + k) B

| symbol    | meaning                       | shape              | units        |
| --------- | ----------------------------- | ------------------ | ------------ |
| A, B      | concentrations                | (B, 2, *spatial)   | 1            |
| D_A, D_B  | `diffusivity`, a pair         | numbers or (B,)    | length²/time |
| F, k      | `feed`, `kill`                | numbers or (B,)    | 1/time       |

Diffusion, feed and kill are linear and integrated exactly in Fourier modes, A B² by an exponential Runge-Kutta scheme of
fourth order, on the lowest two thirds of the modes. The mean of A + B changes by what is fed and removed alone.

References
----------
J. E. Pearson, Complex patterns in a simple system, Science 261 (1993), 189-192. R. Ohana et al.,
The Well, arXiv:2412.00568 (six regimes on [-1, 1]² with D = 2e-5, 1e-5).
"""

from __future__ import annotations

import torch
from torch import Tensor

from opkernels.domains import Domain, Grid
from opkernels.solvers.deferred_correction import CORRECTED
from opkernels.solvers.spectral import Modes, Semilinear, SpectralSolver, pair, parameter, per_sample
from opkernels.solvers.tables import METHODS

__all__ = ["GrayScott"]


class GrayScott(SpectralSolver):
    """Gray-Scott system; module docstring for the equations.

    Parameters
    ----------
    domain : Domain
        One to three periodic axes.
    feed, kill : float or Tensor (B,)
        F and k, not negative.
    diffusivity : pair of float or Tensor (B,)
        D_A and D_B, not negative.
    method : str
        "ETDRK4" (default); "DC3" and "DC4" are implicit: a step costs at least three times as much, and may be as long as
        the pattern is at rest (`solvers/deferred_correction.py`).

    Notes
    -----
    Fails when spots (of width about √(D_B/F)) are not resolved; concentrations then ring below zero.
    Good values on [-1, 1]² at 128²: D = (2e-5, 1e-5) and (F, k) = (.014, .054) gliders, (.098, .057)
    bubbles, (.029, .057) maze, (.058, .065) worms, (.018, .051) spirals, (.03, .062) spots.

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> solver = GrayScott(Domain.periodic(0.5, 0.5), feed=0.035, kill=0.06)
    >>> x = solver.domain.grid(32, 32).coordinates() - 0.25
    >>> b = 0.25 * torch.exp(-160 * (x**2).sum(0))  # a spot, which will divide
    >>> solver.solve(torch.stack([1 - 2 * b, b])[None], times=[10.0, 20.0]).shape
    torch.Size([1, 2, 2, 32, 32])
    """

    fields = ("a", "b")
    schemes = (*METHODS, *CORRECTED)

    def __init__(
        self,
        domain: Domain,
        *,
        feed: float | Tensor,
        kill: float | Tensor,
        diffusivity: tuple[float | Tensor, float | Tensor] = (2e-5, 1e-5),
        method: str = "ETDRK4",
    ):
        super().__init__(domain, method)
        self.feed, self.kill = parameter(feed, "feed", lowest=0.0), parameter(kill, "kill", lowest=0.0)
        self.diffusivity = tuple(parameter(value, "diffusivity", lowest=0.0) for value in pair(diffusivity, "diffusivity", "GrayScott"))

    def steady_states(self) -> list[tuple[float, float]]:
        """Return the uniform states (A, B): (1, 0), and two more where F >= 4 (F + k)²; scalar parameters only."""
        feed, kill = float(self.feed), float(self.kill)
        states, square = [(1.0, 0.0)], 1 - 4 * (feed + kill) ** 2 / feed if feed > 0 else -1.0
        if square >= 0:
            states += [((1 - s) / 2, feed * (1 + s) / (2 * (feed + kill))) for s in (square**0.5, -(square**0.5))]
        return states

    def _bind(self, grid: Grid, u0: Tensor) -> Semilinear:
        modes = Modes(grid, device=u0.device, dtype=u0.dtype)
        values = {"feed": self.feed, "kill": self.kill, "diffusivity": self.diffusivity[0], "second diffusivity": self.diffusivity[1]}
        feed, kill, da, db = (per_sample(value, name, len(u0), grid, u0.device) for name, value in values.items())
        channels = [
            (-da * modes.k2[None, None] - feed).expand(-1, 1, *modes.shape),
            (-db * modes.k2[None, None] - feed - kill).expand(-1, 1, *modes.shape),
        ]
        batch = max(len(channel) for channel in channels)
        supply = torch.ones(1, 1, *grid.shape, device=u0.device, dtype=torch.float64) * feed
        return Semilinear(
            modes,
            torch.cat([channel.expand(batch, -1, *modes.shape) for channel in channels], dim=1),
            _reaction,
            lambda u: (u[:, 1].square() + 2 * (u[:, 0] * u[:, 1]).abs()).flatten(1).amax(dim=1),
            forcing=torch.cat([supply, torch.zeros_like(supply)], dim=1).to(u0.dtype),
        )


def _reaction(u: Tensor) -> Tensor:
    a, b = u[:, :1], u[:, 1:]
    rate = a * b * b
    return torch.cat([-rate, rate], dim=1)
