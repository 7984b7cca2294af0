"""The frame of every periodic solver: Fourier modes of real fields, checks at the boundary, and `solve`.

Coefficients are amplitudes (``norm="forward"``): u(x) = Σ_n û_n exp(2πi n·x / L), so they do not
depend on the resolution. Only one half of the last axis is stored, and of it, in two dimensions and
more, only the columns that survive dealiasing (in one dimension the cut costs more than it saves). A
product of `degree` fields is free of aliasing on the modes with (degree + 1) |n| < N on each axis,
strictly: at N divisible by 3 the mode N/3 would still be hit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from opkernels.domains import Domain, Grid, table
from opkernels.solvers.checks import check_evolution, require_domain
from opkernels.solvers.deferred_correction import CORRECTED, evolve_corrected
from opkernels.solvers.stepping import evolve
from opkernels.solvers.tables import METHODS, AdamsBashforth, RungeKutta
from opkernels.sphere import SphereGrid

__all__ = ["Modes", "Semilinear", "SpectralSolver", "number", "pair", "parameter", "per_sample", "sample_forcing"]


class Modes:
    """Kept Fourier modes of real periodic fields on a grid.

    Parameters
    ----------
    grid : Grid
        A periodic grid, shape (N_1, ..., N_d).
    device, dtype
        Of the fields (a real dtype).
    degree : int
        Keep the modes with (degree + 1) |n| < N: 2 for quadratic terms, 3 for cubic ones, 1 for
        all but the Nyquist mode.

    Attributes
    ----------
    k : tuple of Tensor
        Physical wave numbers κ = 2π n / L in float64, one per axis, shaped to broadcast.
    mask : Tensor, (*modes)
        One on the kept modes, zero elsewhere, float64.
    """

    def __init__(self, grid: Grid, *, device, dtype: torch.dtype, degree: int = 2):
        self.grid, self.device, self.dtype = grid, device, dtype
        self.columns = (grid.shape[-1] - 1) // (degree + 1) + 1 if grid.ndim > 1 else grid.shape[-1] // 2 + 1
        k = grid.wavenumbers(device=device, dtype=torch.float64)
        self.k = (*k[:-1], k[-1][..., : self.columns])
        self.k2 = functools.reduce(torch.add, [q * q for q in self.k])
        self.mask = _kept(grid.shape, self.columns, degree, device=device, dtype=torch.float64)
        self.axes = tuple(range(-grid.ndim, -1))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the coefficients."""
        return (*self.grid.shape[:-1], self.columns)

    @property
    def twins(self) -> Tensor:
        """Weight of each stored mode in a sum over all modes: 2, but 1 where the last wave number is 0."""
        return torch.where(self.k[-1] == 0, 1.0, 2.0).to(torch.float64)

    def transform(self, u: Tensor) -> Tensor:
        """Return the stored coefficients of fields (..., *spatial), those that are not kept included."""
        u_hat = torch.fft.rfft(u, dim=-1, norm="forward")
        return torch.fft.fftn(u_hat[..., : self.columns], dim=self.axes, norm="forward") if self.axes else u_hat

    def to_modes(self, u: Tensor) -> Tensor:
        """Return the kept coefficients of fields (..., *spatial); other modes are zero."""
        return self.transform(u) * self.mask.to(self.dtype)

    def to_grid(self, u_hat: Tensor) -> Tensor:
        """Return the fields (..., *spatial) of coefficients (..., *modes)."""
        if self.axes:
            u_hat = torch.fft.ifftn(u_hat, dim=self.axes, norm="forward")
        return torch.fft.irfft(u_hat, n=self.grid.shape[-1], dim=-1, norm="forward")  # which pads with zeros


class Semilinear:
    """A PDE û_t = L û + F(N(u)) bound to a grid: what most files of this family hand to the loop.

    Parameters
    ----------
    modes : Modes
        The kept modes; the state is (B, C, *modes).
    symbol : Tensor
        L, float64 or complex128, broadcastable to the state.
    reaction : callable
        From fields (B, C, *spatial) to the products (B, C, *spatial) that are transformed.
    speed : callable
        From fields to the rate (1/time) of the fastest explicit motion, (B,).
    factor : Tensor, optional
        Multiplier of the transformed products, for example -iκ/2.
    forcing : Tensor or callable, optional
        What `sample_forcing` returns.
    """

    def __init__(
        self,
        modes: Modes,
        symbol: Tensor,
        reaction: Callable,
        speed: Callable,
        *,
        factor: Tensor | None = None,
        forcing: Callable[[float], Tensor] | Tensor | None = None,
    ):
        self.modes, self.symbol, self.reaction, self.speed = modes, symbol, reaction, speed
        self.encode, self.decode = modes.to_modes, modes.to_grid
        factor = modes.mask if factor is None else modes.mask * factor
        self.factor = factor.to(modes.dtype.to_complex() if factor.is_complex() else modes.dtype)
        self.forcing: Callable[[float], Tensor] | None = None if isinstance(forcing, Tensor) else forcing
        self.driven = self.forcing is not None
        self.steady = modes.to_modes(forcing) if isinstance(forcing, Tensor) else None

    def nonlinear(self, state: Tensor, t: float) -> Tensor:
        """Return the transform of N(u), of the forcing added."""
        result = self.modes.transform(self.reaction(self.decode(state))) * self.factor
        if self.steady is not None:
            result = result + self.steady
        return result if self.forcing is None else result + self.encode(self.forcing(t))

    def rate(self, state: Tensor) -> Tensor:
        """Return the rate of the fastest explicit motion of each sample, (B,)."""
        return self.speed(self.decode(state))


def per_sample(value: float | Tensor, name: str, batch: int, grid: Grid | SphereGrid, device) -> float | Tensor:
    """Shape a parameter to multiply (B, C, *modes) tables, in float64; refuse a length that is not the batch's."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim and len(value) not in (1, batch):
        raise ValueError(f"{name} has {len(value)} values for a batch of {batch} samples; give one number or one per sample")
    return value.to(device=device, dtype=torch.float64).reshape(-1, *[1] * (grid.ndim + 1))


@table
def _kept(shape: tuple[int, ...], columns: int, degree: int, device) -> Tensor:
    mask = torch.ones(*shape[:-1], columns, dtype=torch.float64, device=device)
    for axis, (n, stored) in enumerate(zip(shape, mask.shape, strict=True)):
        i = torch.arange(stored, device=device)
        inside = (degree + 1) * torch.minimum(i, n - i) < n
        mask = mask * inside.to(torch.float64).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return mask


def parameter(value: float | Tensor, name: str, *, lowest: float | None = None, above: float | None = None):
    """Check a physical parameter, a number or one value per sample (B,), and return it.

    Raises
    ------
    ValueError
        If it is not finite, below `lowest`, not above `above`, or a tensor that is not (B,).
    """
    if isinstance(value, Tensor):
        if value.ndim > 1:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; give a number or one value per sample, shape (B,)")
        values = value.detach()
    else:
        try:
            values = torch.tensor(float(value), dtype=torch.float64)
        except (TypeError, ValueError):
            raise ValueError(f"got {name}={value!r}; give a number or one value per sample, shape (B,)") from None
        value = float(value)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"got {name}={_show(values)}; it must be finite")
    if lowest is not None and bool((values < lowest).any()):
        raise ValueError(f"got {name}={_show(values)}; it must be at least {lowest:g}")
    if above is not None and bool((values <= above).any()):
        raise ValueError(f"got {name}={_show(values)}; it must be greater than {above:g}")
    return value


def number(value: float | Tensor, name: str) -> float:
    """Check a parameter that all samples share, and return it.

    Raises
    ------
    ValueError
        If it is not one finite number.
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{name} has {value.numel()} values; give one number, for all samples")
    return float(parameter(value, name))


def pair(values, name: str, who: str) -> tuple:
    """Check that there are two of something, and return them.

    Raises
    ------
    ValueError
        If there are not.
    """
    if isinstance(values, (str, dict)) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) != 1 or len(values) != 2:
        raise ValueError(f"{who} got {name}={values!r}; give two numbers")
    return tuple(values)


def _show(values: Tensor) -> str:
    return f"{values.item():g}" if values.numel() == 1 else f"{values.min().item():g} .. {values.max().item():g}"


def sample_forcing(
    forcing, name: str, grid: Grid, *, device, dtype, batch: int, channels: int = 1
) -> Callable[[float], Tensor] | Tensor | None:
    """Return a forcing sampled on a grid: None, a tensor (b, C, *spatial), or a function of time that gives one.

    `forcing` is a number, an array or tensor that broadcasts to (B, C, *spatial), or a function of the coordinates
    (x, y, ...) or of the coordinates and the time (x, y, ..., t), each of shape (*spatial).

    Raises
    ------
    ValueError
        If the samples do not broadcast to (B, C, *spatial) or are not numbers, or a forcing that does not depend on the
        time has a NaN or infinity.
    """
    if forcing is None:
        return None

    def shaped(f) -> Tensor:
        try:
            f = torch.as_tensor(f, device=device).to(dtype)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{name} got forcing={f!r}; give a function of the coordinates, a number, or samples") from None
        f = f.reshape(*[1] * max(0, grid.ndim + 2 - f.ndim), *f.shape)
        target = (batch, channels, *grid.shape)
        if f.ndim != len(target) or any(n not in (1, m) for n, m in zip(f.shape, target, strict=True)):
            raise ValueError(f"{name}: the forcing has shape {tuple(f.shape)}, which does not broadcast to {target}")
        return f.expand(-1, channels, *grid.shape)

    def steady(f) -> Tensor:
        f = shaped(f)
        if not (f.is_meta or isinstance(f, torch._subclasses.FakeTensor)) and not bool(torch.isfinite(f.detach()).all()):
            raise ValueError(f"{name}: the forcing has a NaN or infinity; look at its formula or samples")
        return f

    if not callable(forcing):
        return steady(forcing)
    x = grid.coordinates(device=device, dtype=torch.float64)
    if not _takes_time(forcing, grid.ndim):
        return steady(forcing(*x))
    return lambda t: shaped(forcing(*x, t))


def _takes_time(function: Callable, ndim: int) -> bool:
    code = getattr(function, "__code__", None) or getattr(getattr(function, "__call__", None), "__code__", None)  # noqa: B004
    if code is None:  # a functools.partial or a builtin: ask its signature
        import inspect

        try:
            return len(inspect.signature(function).parameters) > ndim
        except ValueError:  # torch.sin and the like tell no signature; they take coordinates
            return False
    count = code.co_argcount - (1 if code.co_varnames[:1] == ("self",) else 0)
    return count > ndim


class SpectralSolver:
    """What all periodic solvers share: `solve`, its checks, and the choice of the scheme.

    A child sets `fields`, `dimensions` and `schemes`, and writes ``_bind(grid, u0) -> Problem`` whose
    product also has ``encode(u) -> state`` and ``decode(state) -> u``.
    """

    fields: tuple[str, ...] = ()
    dimensions: tuple[int, ...] = (1, 2, 3)
    schemes: tuple[str, ...] = tuple(METHODS)
    tables: Mapping[str, RungeKutta | AdamsBashforth] = METHODS
    walled: bool = False  # whether axes with walls are taken, too

    def __init__(self, domain: Domain, method: str):
        self._check_domain(domain)
        if method not in self.schemes:
            raise ValueError(f"{type(self).__name__} got method={method!r}; choose one of {', '.join(self.schemes)}")
        self.domain, self.method = domain, method
        if method in CORRECTED:
            self._march = functools.partial(evolve_corrected, order=CORRECTED[method])
        else:
            self._march = functools.partial(evolve, table=self.tables[method])

    def _check_domain(self, domain: Domain) -> None:
        name = type(self).__name__
        require_domain(name, domain)
        if not self.walled:
            domain.require_periodic(name)
        if domain.ndim not in self.dimensions:
            sizes = " or ".join(f"{d}-D" for d in self.dimensions)
            raise ValueError(f"{name} got a {domain.ndim}-D domain; it solves {sizes} problems")

    def _bind(self, grid: Grid, u0: Tensor):
        raise NotImplementedError

    def rhs(self, u: Tensor, t: float = 0.0) -> Tensor:
        """Return ∂u/∂t of fields (B, C, *spatial) at time t, on the dealiased modes."""
        problem = self._bind(self.domain.grid_of(u), u)
        state = problem.encode(u)
        symbol = problem.symbol.to(state.dtype if problem.symbol.is_complex() else u.dtype)
        return problem.decode(problem.nonlinear(state, t) + symbol * state)

    def solve(self, u0: Tensor, times: Sequence[float] | Tensor | np.ndarray, *, t0: float = 0.0, dt: float | None = None) -> Tensor:
        """Solve from the state `u0` at time `t0` and return the state at each of `times`.

        Parameters
        ----------
        u0 : Tensor, (B, C, *spatial)
            Initial fields in the order of `fields`, float32 or float64, on any device. The solution
            keeps the modes that survive dealiasing; at a requested time equal to t0, u0 itself comes back.
        times : sequence of float, (T,)
            Increasing, none before t0; answered exactly.
        t0 : float
            Time of u0; it matters where the forcing depends on time.
        dt : float, optional
            Longest time step, used as it is (each way to the next requested time is split evenly);
            a one-step scheme then goes on from any answer to the same bits as without a stop. By
            default the solver chooses a step that is stable and whose error is below about 1e-5 on
            smooth problems; all samples of a batch share it.

        Returns
        -------
        Tensor, (B, T, C, *spatial)
            Differentiable in u0, the parameters and the forcing.

        Raises
        ------
        ValueError
            For fields of the wrong shape or dtype, fields that are not finite, times out of order,
            a step that is not positive, or a parameter that does not fit the batch.
        SolverError
            When a sample blows up; the message names it, the time and the likely cause.
        """
        grid, times = check_evolution(type(self).__name__, self.domain, self.fields, u0, times, t0, dt)
        problem = self._bind(grid, u0)
        known = u0[:, None][:, : int(times[0] == t0)]
        answers = self._answers(problem, u0, times[known.shape[1] :], float(t0), dt)
        if torch.is_grad_enabled():
            return torch.cat([known, *(u[:, None] for u in answers)], dim=1)
        out = u0.new_empty(u0.shape[0], len(times), *u0.shape[1:])
        out[:, : known.shape[1]] = known
        for i, u in enumerate(answers, start=known.shape[1]):
            out[:, i] = u
        return out

    def _answers(self, problem, u0: Tensor, times: Sequence[float], t0: float, dt: float | None) -> Iterator[Tensor]:
        """Yield the fields at each of `times`."""
        march = functools.partial(self._march, problem, dt=dt, describe=lambda: type(self).__name__)
        if dt is None or not isinstance(self.tables.get(self.method), RungeKutta):  # their memory goes from time to time
            yield from map(problem.decode, march(problem.encode(u0), times, t0=t0))
            return
        for time in times:  # each from the fields at the one before, so that a run goes on from any of them to the same bits
            (state,) = march(problem.encode(u0), [time], t0=t0)
            u0, t0 = problem.decode(state), time
            yield u0
