"""Certify that a module is one operator: the same weights mean the same function on every grid.

One smooth random function is sampled on many grids and handed to the module. Its output on the
finest grid is interpolated (trigonometric on periodic axes) and evaluated at the points of the
others:

    error(n) = ||G(u|_n) - (I G(u|_N))|_n|| / ||I G(u|_N) - mean||.

On a sphere the norms are those of the coefficients of spherical harmonics, up to the degrees that the grid n carries.

A spectral operator is limited by the modes that its nonlinearities make and the coarse grid folds
back, so that the error falls to rounding with refinement; one with stencils falls with their order;
one that depends on the grid (a convolution in pixels, a ramp of positions on a torus, a transform
over a period that moves with n) does not fall, or only slowly.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opkernels.domains import Domain, Grid
from opkernels.evaluation.probes import random_function, values_at
from opkernels.evaluation.report import Report, Shape, by
from opkernels.sphere import Sphere, SphereGrid
from opkernels.spherical import Harmonics

__all__ = ["certify"]

_AnyGrid = Grid | SphereGrid


@dataclass(frozen=True)
class _Plan:
    """What is asked by default: the input's largest wave number, the reference, the grids, those of an order, and how fine a grid is."""

    k_max: int
    reference: Shape
    shapes: list[Shape]
    chain: list[Shape]
    around: tuple[int, ...]  # how often a row of samples along each axis fits into a period

    def size(self, shape: Shape) -> float:
        """Return the least number of samples around, for waves of wave number 3; longer ones need fewer."""
        return min(n * k for n, k in zip(shape, self.around, strict=True)) * 3 / self.k_max

    def even(self, shape: Shape) -> bool:
        """Whether a grid is equally fine in all directions."""
        return len({n * k for n, k in zip(shape, self.around, strict=True)}) == 1


_ORDER_SIZES = (32, 48, 64, 96, 128)
_PLANS = {
    1: _Plan(3, (256,), [(32,), (64,), (65,), (96,), (128,)], [(n,) for n in _ORDER_SIZES], (1,)),
    2: _Plan(
        3,
        (256, 256),
        [(32, 32), (64, 64), (64, 128), (128, 64), (96, 80), (65, 63), (128, 128)],
        [(n, n) for n in _ORDER_SIZES],
        (1, 1),
    ),
    3: _Plan(1, (64,) * 3, [(16,) * 3, (24,) * 3, (24, 48, 32), (48, 24, 24), (25, 27, 23), (48,) * 3], [], (1, 1, 1)),
}
# from pole to pole a row is half a great circle
_SPHERE = _Plan(
    3,
    (128, 256),
    [(16, 32), (32, 64), (48, 64), (32, 96), (65, 65), (64, 128)],
    [(n // 2, n) for n in _ORDER_SIZES],
    (2, 1),
)


@torch.inference_mode(False)
@torch.enable_grad()
def certify(
    module: nn.Module,
    domain: Domain | Sphere,
    in_channels: int,
    *,
    shapes: Sequence[Shape] | None = None,
    dtype: torch.dtype = torch.float64,
    tolerance: float | None = None,
    order: float | None = None,
    equivariant: bool = False,
    parameters: Tensor | None = None,
    function: Callable[[Any], Tensor] | None = None,
    seed: int = 0,
) -> Report:
    """Test whether a module acts on functions: one input function, many grids, the same weights.

    Parameters
    ----------
    module : nn.Module
        Any module from (B, in_channels, *spatial) to (B, C, *spatial). Where its `forward` names an
        argument `grid`, the grid is passed. A copy is examined; the module is left as it is.
    domain : Domain or Sphere
        Where the functions live; 1-D to 3-D.
    in_channels : int
        Channels of the input.
    shapes : sequence of shapes, optional
        Grids to compare with the reference, one of them of 64 samples per axis or more (3-D: 22; smaller
        ones are reported only); by default those of the contract (64 to 128 per axis,
        unequal and odd ones among them; in 3-D 16 to 48). On a sphere 32 latitudes count as 64.
    dtype : torch.float64 or torch.float32
        Precision of the test. Modules that fix a precision inside pass only in float32.
    tolerance : float, optional
        Largest error allowed from 64 samples per axis on, for modules of finite order; errors must
        then also fall with each refinement. By default those of a spectral module: float64 1e-7 from
        64 samples per axis on and 1e-10 from 128 on; float32 3e-5.
    order : float, optional
        Stated order of a layer with stencils, instead of a tolerance: the errors on equal-sided
        grids of 32 to 128 must fall with it (within 0.15), those on others must fit in (factor 2).
    equivariant : bool
        Whether shifts by whole steps along periodic axes must commute with the module (it is
        reported anyhow; positions as input channels break it).
    parameters : Tensor, (1, n_parameters), optional
        For modules conditioned on parameters.
    function : callable, optional
        Input in place of the default: a callable from a Grid to samples (1, in_channels, *shape).
        Default: waves with |k| <= 3 (3-D: 1) on periodic axes, polynomials of degree 6 (3-D: 2)
        between walls, harmonics of degree 3 on a sphere, rms 1, see `opkernels.evaluation.probes.random_function`.
    seed : int
        Of the random function.

    Returns
    -------
    Report
        With ``.passed``, ``.errors`` (shape -> relative L2 error), ``.table()`` and the rest.

    Raises
    ------
    ValueError
        If the module does not take or return tensors of these shapes, or arguments contradict.

    Notes
    -----
    Kinked activations (ReLU) and input rougher than the grids alias and lose accuracy with any
    module. Weights count: a network scaled up is more nonlinear and needs finer grids. The errors of
    "node, cell, endpoint" wall axes are those of a generic smooth function, not of one that suits
    the walls.

    Examples
    --------
    >>> from opkernels.models import FNO
    >>> domain = Domain.periodic(1.0)
    >>> report = certify(FNO(domain, 1, 1, n_modes=(12,), hidden_channels=8), domain, 1)
    >>> report.passed
    True
    """
    _check(module, domain, dtype, tolerance, order)
    if shapes is not None and not len(shapes):
        raise ValueError("certify got no shapes; give some, or None for the default ones")
    plan = _SPHERE if isinstance(domain, Sphere) else _PLANS[domain.ndim]
    shapes = plan.shapes if shapes is None else [domain.grid(shape).shape for shape in shapes]
    chain = plan.chain if order is not None else []
    probe = _Probe(module, dtype, parameters, function or random_function(domain, in_channels, k_max=plan.k_max, seed=seed))
    finest = max(plan.reference[-1], *(n * k for shape in shapes for n, k in zip(shape, plan.around, strict=True)))
    reference = domain.grid([-(-finest // k) for k in plan.around])
    output = probe(reference)
    errors = {shape: _error(probe(domain.grid(shape)), output, reference, domain.grid(shape)) for shape in dict.fromkeys([*shapes, *chain])}
    size = {shape: plan.size(shape) for shape in errors}

    fitted = None
    allowed: dict[Shape, float | None]
    if order is not None:
        fitted, constant = _fit_order([shape[0] for shape in chain], [errors[shape] for shape in chain], reference.shape[0])
        allowed = {shape: 2 * constant * (min(shape) ** -fitted - reference.shape[0] ** -fitted) for shape in errors}
    else:
        allowed = {shape: _threshold(size[shape], dtype, tolerance) for shape in errors}

    smallest = min((shape for shape in errors if size[shape] >= 64), key=math.prod, default=min(errors, key=math.prod))
    unused, dead = _idle(probe, domain.grid(smallest), in_channels, seed)
    equivariance = _equivariance(probe, domain.grid(smallest))
    findings = [
        f"on {by(s)} the error {e:.1e} exceeds {allowed[s]:.1e}"
        for s, e in errors.items()
        if (limit := allowed[s]) is not None and not e <= limit
    ]
    if all(limit is None for limit in allowed.values()):
        findings.append(f"no grid was judged; give shapes of at least {math.ceil(62 * plan.k_max / 3)} samples per axis")
    if not _responds(probe, domain.grid(smallest), in_channels, seed):
        findings.append("the output does not depend on the input")
    if tolerance is not None:
        findings += _rising(errors, {shape: size[shape] for shape in errors if plan.even(shape)})
    if order is not None and fitted is not None and not abs(fitted - order) <= 0.15:
        findings.append(f"the errors fall with order {fitted:.2f}, not {order:g}")
    if equivariant and equivariance is not None and not equivariance <= (1e-10 if dtype == torch.float64 else 3e-5):
        findings.append(f"shifting the input changes the output by {equivariance:.1e}")
    findings += [f"the parameters {name} do not act on the output" for name in unused]
    return Report(
        name=type(module).__name__,
        domain=domain,
        dtype=str(dtype).removeprefix("torch."),
        reference=tuple(reference.shape),
        errors=errors,
        allowed=allowed,
        order=fitted,
        equivariance=equivariance,
        blocks=len(list(probe.module.parameters())),
        unused=unused,
        dead=dead,
        findings=tuple(findings),
    )


class _Probe:
    """A copy of a module in evaluation mode and a given precision, with the function it is asked about."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, parameters: Tensor | None, function: Callable[[Any], Tensor]):
        self.module = copy.deepcopy(module).eval()
        wide = torch.complex128 if dtype == torch.float64 else torch.complex64
        for tensor in [*self.module.parameters(), *self.module.buffers()]:
            if tensor.is_floating_point() or tensor.is_complex():
                # Module.to would drop the imaginary part of complex parameters.
                tensor.data = tensor.data.to(wide if tensor.is_complex() else dtype)
                tensor.grad = None
        for parameter in self.module.parameters():
            parameter.requires_grad_(True)
        self.accepted = set(inspect.signature(module.forward).parameters)
        self.kind = {"dtype": dtype, "device": next((p.device for p in self.module.parameters()), torch.device("cpu"))}
        self.options = {} if parameters is None else {"parameters": parameters.to(**self.kind, copy=True)}
        self.function = function

    def call(self, x: Tensor, grid: _AnyGrid) -> Tensor:
        """Run the module on samples x (1, C, *grid.shape), differentiably."""
        options = {"grid": grid} if "grid" in self.accepted else {}
        y = self.module(x.to(**self.kind), **options, **self.options)
        if not isinstance(y, Tensor) or y.ndim != x.ndim or y.shape[2:] != x.shape[2:]:
            got = f"a tensor of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"{type(self.module).__name__} returned {got} for an input of shape {tuple(x.shape)}; expected (1, C, {by(x.shape[2:])})"
            )
        return y

    @torch.no_grad()
    def __call__(self, grid: _AnyGrid) -> Tensor:
        """Return the output for the function on a grid, in float64 on the host."""
        return self.call(self.function(grid), grid).to("cpu", torch.float64)


def _check(module: nn.Module, domain: Domain | Sphere, dtype: torch.dtype, tolerance: float | None, order: float | None) -> None:
    if not isinstance(module, nn.Module):
        raise ValueError(f"certify got a {type(module).__name__} to examine; give a torch.nn.Module")
    if not isinstance(domain, Sphere) and (not isinstance(domain, Domain) or domain.ndim not in _PLANS):
        raise ValueError(f"certify got the domain {domain!r}; give a Domain of one to three axes or a Sphere")
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(f"certify got dtype={dtype}; choose torch.float64 or torch.float32")
    if tolerance is not None and order is not None:
        raise ValueError("certify got both a tolerance and an order; give one of them")
    if order is not None and (domain.ndim == 3 or dtype != torch.float64):
        raise ValueError("certify fits orders in 1-D and 2-D and float64 only; give a tolerance instead")


def _error(y: Tensor, output: Tensor, reference: _AnyGrid, grid: _AnyGrid) -> float:
    if isinstance(grid, SphereGrid) and isinstance(reference, SphereGrid):
        return _error_on_sphere(y, output, reference, grid)
    assert isinstance(grid, Grid) and isinstance(reference, Grid)
    truth = values_at(output, reference, grid)
    weights = grid.weights(dtype=torch.float64)
    axes = tuple(range(2, truth.ndim))
    mean = (truth * weights).sum(axes, keepdim=True) / weights.sum()
    spread = (((truth - mean) ** 2) * weights).sum().sqrt()
    return float(((y - truth) ** 2 * weights).sum().sqrt() / spread)


def _error_on_sphere(y: Tensor, output: Tensor, reference: SphereGrid, grid: SphereGrid) -> float:
    harmonics = Harmonics(grid.highest_degree)
    truth = harmonics.resized(Harmonics(reference.highest_degree).analyze(output, reference))
    error = harmonics.spectrum(harmonics.analyze(y, grid) - truth).sum()
    return float((error / harmonics.spectrum(truth)[..., 1:].sum()).sqrt())


def _threshold(size: float, dtype: torch.dtype, tolerance: float | None) -> float | None:
    if size < 62:  # 63 counts as 64
        return None
    if tolerance is not None:
        return tolerance
    if dtype == torch.float32:
        return 3e-5
    return 1e-7 if size < 128 else 1e-10


def _rising(errors: dict[Shape, float], size: dict[Shape, float]) -> list[str]:
    """Refinements of the grids in `size`, of equal sides, on which the error does not fall."""
    equal = sorted((shape for shape in size if size[shape] >= 62), key=max)
    pairs = zip(equal, equal[1:], strict=False)
    return [f"the error does not fall from {by(a)} to {by(b)}" for a, b in pairs if not errors[b] < max(errors[a], 1e-10)]


def _fit_order(sizes: Sequence[int], errors: Sequence[float], finest: int) -> tuple[float, float]:
    """Least-squares fit of log e = log C + log(n^-p - N^-p), where the reference has the error of size N itself."""
    n = torch.tensor(sizes, dtype=torch.float64)
    e = torch.tensor(errors, dtype=torch.float64).log()
    p = torch.arange(0.05, 12, 0.005, dtype=torch.float64)[:, None]
    residual = e - (n**-p - float(finest) ** -p).log()
    best = int(residual.var(1, correction=0).argmin())
    return float(p[best]), float(residual[best].mean().exp())


def _equivariance(probe: _Probe, grid: _AnyGrid) -> float | None:
    """Relative change when shifted by a few steps along every periodic axis; on a sphere, when turned about its axis."""
    axes = [1] if isinstance(grid, SphereGrid) else [a for a, axis in enumerate(grid.domain.axes) if axis.periodic]
    if not axes:
        return None
    dims, steps = [a + 2 for a in axes], [5 + 2 * a for a in axes]
    x = probe.function(grid)
    with torch.no_grad():
        y = probe.call(x, grid)
        shifted = probe.call(x.roll(steps, dims), grid)
    deviation = y - y.mean(dims, keepdim=True)
    return float((shifted - y.roll(steps, dims)).norm() / deviation.norm())


def _idle(probe: _Probe, grid: _AnyGrid, in_channels: int, seed: int) -> tuple[tuple[str, ...], dict[str, float]]:
    """Parameter tensors whose zeroing changes nothing or that get no gradient, and shares of entries without one."""
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(1, in_channels, *grid.shape, generator=generator, dtype=torch.float64)
    y = probe.call(x, grid)
    named = dict(probe.module.named_parameters())
    weights = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
    gradients = torch.autograd.grad((y * weights).sum(), list(named.values()), allow_unused=True) if named else ()
    unused, dead = [], {}
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        share = 1.0 if gradient is None else float((gradient == 0).double().mean())
        if share == 1 or not _acts(probe, x, grid, y.detach(), parameter):
            unused.append(name)
        elif share > 0.1:
            dead[name] = share
    return tuple(unused), dead


@torch.no_grad()
def _responds(probe: _Probe, grid: _AnyGrid, in_channels: int, seed: int) -> bool:
    """Whether a second input changes the output beyond rounding."""
    generator = torch.Generator().manual_seed(seed + 2)
    x = torch.randn(1, in_channels, *grid.shape, generator=generator, dtype=torch.float64)
    y = probe.call(probe.function(grid), grid)
    change = (probe.call(x, grid) - y).norm() / y.norm()
    return bool(change > 100 * torch.finfo(y.dtype).eps)


@torch.no_grad()
def _acts(probe: _Probe, x: Tensor, grid: _AnyGrid, y: Tensor, parameter: nn.Parameter) -> bool:
    """Whether another value of one parameter tensor (zero; where it is zero, unequal numbers) changes the output beyond rounding."""
    # In place, so that what a module keeps of its weights sees a new version.
    kept = parameter.clone()
    if bool((kept != 0).any()):
        parameter.zero_()
    else:  # a common constant might be taken out again by a norm
        parameter.copy_(torch.linspace(0.5, 1.5, kept.numel()).view_as(kept))
    change = (probe.call(x, grid) - y).norm() / y.norm()
    parameter.copy_(kept)
    return bool(change > 100 * torch.finfo(y.dtype).eps)
