"""LocalNO: an FNO whose blocks also differentiate and integrate locally.

    K v = S v + D v + I v + b

| branch           | operator                                                                        | what it adds to an FNO       |
| ---------------- | ------------------------------------------------------------------------------- | ---------------------------- |
| S "spectral"     | ``sum_{|k| <= K} W(k) v_hat(k) exp(2 pi i k . x/L)`` (`SpectralConv`)           |                              |
| D "differential" | ``sum_alpha W(alpha) l^|alpha| d^alpha v`` (`DifferentialConv`)                 | gradients, fronts            |
| I "integral"     | ``int_{|y - x| <= r} kappa(y - x) v(y) dy`` (`LocalIntegralConv`)               | detail finer than 1/K        |

The lengths l and r belong to the domain, not to a grid, so that the layers mean the same at every resolution. By default r is
half the shortest wave that the spectral branch keeps, and l = r/(2 pi): the local branches begin where the spectral one ends.
On periodic domains all three are exact for what the grid resolves, and the derivatives are those of an average over the length l:
derivatives proper amplify the waves that a finer grid adds. Stencils, the choice between walls, carry their error O(h^p) from grid
to grid, which is not small for waves near the grid's own. What the average costs and saves is measured in `docs/local_no.md`.
On a sphere the three branches are those of `opkernels.models.spherical_branches`, with lengths in radians.

Reference: Liu-Schiaffini, Berner, Bonev, Kurth, Azizzadenesheli, Anandkumar, "Neural Operators with Localized Integral and
Differential Kernels", ICML 2024, arXiv 2402.16845.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from opkernels.domains import Domain, Grid
from opkernels.layers.differential import DifferentialConv
from opkernels.layers.integral import LocalIntegralConv
from opkernels.layers.kernels import PolarHats, kernel_from
from opkernels.layers.multipliers import filtered
from opkernels.layers.spectral import SpectralConv
from opkernels.models.backbone import Backbone, Block
from opkernels.models.branches import Branches, Differential, Integral, options_of
from opkernels.models.checks import check_size
from opkernels.models.fno import mode_set
from opkernels.models.spherical_branches import SphericalBranches, sphere_branches
from opkernels.sphere import Sphere

__all__ = ["Differential", "Integral", "LocalNO"]

_BRANCHES = ("spectral", "differential", "integral")


class LocalNO(Backbone):
    """Neural operator of spectral, differential and local integral branches.

    Parameters
    ----------
    domain, in_channels, out_channels, n_modes, hidden_channels, n_layers, n_parameters
        As in `FNO`; or a Sphere, where `n_modes` is the largest degree, as in `SFNO`.
    branches : sequence of str, or one such sequence per layer
        Which of "spectral", "differential" and "integral" a layer has.
    differential : Differential or mapping
        Orders and length of the derivatives.
    integral : Integral or mapping
        Radius and kernel functions of the local integrals.
    activation, norm, positional_embedding, domain_padding, block
        As in `FNO`.

    Raises
    ------
    ValueError
        As for `FNO`; also if a branch or an option of one is unknown, or a layer has no branch.

    Examples
    --------
    >>> import torch
    >>> model = LocalNO(Domain.periodic(1.0, 1.0), 1, 2, n_modes=(8, 8), hidden_channels=8, n_layers=2)
    >>> model(torch.zeros(3, 1, 33, 48)).shape
    torch.Size([3, 2, 33, 48])
    """

    def __init__(
        self,
        domain: Domain | Sphere,
        in_channels: int,
        out_channels: int,
        *,
        n_modes: Sequence[int] | int,
        hidden_channels: int = 32,
        n_layers: int = 4,
        n_parameters: int = 0,
        branches: Sequence[str] | Sequence[Sequence[str]] = _BRANCHES,
        differential: Differential | Mapping = Differential(),  # noqa: B008 frozen
        integral: Integral | Mapping = Integral(),  # noqa: B008 frozen
        activation: str = "gelu",
        norm: str | None = None,
        positional_embedding: str | None = "walls",
        domain_padding: float | Sequence[float] = 0,
        block: Block | Mapping = Block(),  # noqa: B008 frozen
    ):
        check_size("LocalNO", "hidden_channels", hidden_channels)
        check_size("LocalNO", "n_layers", n_layers)
        differential, integral = options_of(Differential, differential), options_of(Integral, integral)
        if isinstance(domain, Sphere):
            if domain_padding:
                raise ValueError(f"LocalNO got domain_padding={domain_padding!r} on a sphere, which has no walls; leave it at 0")
            join, build = SphericalBranches, sphere_branches(n_modes, hidden_channels, differential, integral)
        else:
            join, build = _BoxBranches, _box_branches(domain, n_modes, hidden_channels, differential, integral, bool(domain_padding))
        super().__init__(
            domain,
            in_channels,
            out_channels,
            hidden_channels=hidden_channels,
            convs=[join({name: build[name]() for name in layer}, hidden_channels) for layer in _per_layer(branches, n_layers)],
            n_parameters=n_parameters,
            activation=activation,
            norm=norm,
            positional_embedding=positional_embedding,
            domain_padding=domain_padding,
            block=block,
        )


def _box_branches(
    domain: Domain, n_modes: Sequence[int] | int, width: int, differential: Differential, integral: Integral, padded: bool
) -> dict[str, Callable[[], nn.Module]]:
    """Return what builds each branch of a layer of `width` channels."""
    modes = mode_set(domain, n_modes, "symmetric")
    half_wave = min(a.length / (2 * max(k, 1)) for a, k in zip(domain.axes, modes.tops, strict=True))
    return {
        "spectral": lambda: SpectralConv(width, width, modes.shape, modes=modes, bias=False),
        "differential": lambda: _derivatives(differential, width, domain, half_wave / (2 * math.pi), padded),
        "integral": lambda: _integrals(integral, width, domain, half_wave, padded),
    }


def _derivatives(options: Differential, width: int, domain: Domain, length: float, padded: bool) -> DifferentialConv:
    """Return the differential branch; `length` is the default of l."""
    accuracy, length = options.accuracy, length if options.length is None else options.length
    if accuracy is None:
        accuracy = "exact" if all(axis.periodic for axis in domain.axes) else 4
    if accuracy == "exact" and not padded:
        domain.require_periodic('LocalNO with differential accuracy "exact" and no domain_padding')
    smoothing = options.smoothing
    if smoothing is None:
        smoothing = length if accuracy == "exact" else 0.0
    sizes = {"length": length, "order": options.order, "accuracy": accuracy, "smoothing": smoothing}
    return DifferentialConv(width, width, domain.ndim, **sizes)


def _integrals(options: Integral, width: int, domain: Domain, radius: float, padded: bool) -> LocalIntegralConv:
    """Return the integral branch; `radius` is the default of r."""
    kernel = kernel_from(options.kernel) or PolarHats(3, 2 * domain.ndim, domain.ndim)
    radius = radius if options.radius is None else options.radius
    conv = LocalIntegralConv(width, width, kernel, radius=radius, quadrature=options.quadrature, bias=False)
    if not padded:
        conv.check_domain(domain)
    return conv


class _BoxBranches(Branches):
    """Branches on a box."""

    def terms(self, x: Tensor, grid: Grid) -> list[Tensor]:
        """Return what the branches give, derivatives and integrals of a periodic function as one."""
        branches = dict(self.branches.items())
        d, i = branches.get("differential"), branches.get("integral")
        if isinstance(d, DifferentialConv) and isinstance(i, LocalIntegralConv) and all(axis.periodic for axis in grid.domain.axes):
            del branches["differential"], branches["integral"]
            return [_by_one_transform(d, i, x, grid), *(branch(x, grid) for branch in branches.values())]
        return [branch(x, grid) for branch in branches.values()]


def _by_one_transform(differential: DifferentialConv, integral: LocalIntegralConv, x: Tensor, grid: Grid) -> Tensor:
    """Return the sum of both convolutions of a periodic function: each is a set of multipliers of its coefficients.

    Measured (4 x 20 channels on 128 x 128, 16 modes, forward and backward, one core): 68 ms for 90 ms one after the other. The spectral
    branch keeps its own pruned transforms, 10 ms there; to cut its coefficients out of these and put them back took 4 ms.
    """
    with torch.autocast(x.device.type, enabled=False):
        u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        multipliers = torch.cat([part.multipliers(grid, u.device, u.dtype) for part in (differential, integral)])
        weight = torch.cat([differential.weight, integral.weight], dim=-1).to(u.dtype)
        y = filtered(u, grid.shape, multipliers, weight, grid.split)
        return y.movedim(1, -1).contiguous().movedim(-1, 1) if x.movedim(1, -1).is_contiguous() else y


def _per_layer(branches, n_layers: int) -> list[tuple[str, ...]]:
    """Return the branches of each layer, in one order."""
    if not isinstance(branches, Iterable) or isinstance(branches, str):
        raise ValueError(f"LocalNO got branches={branches!r}; give a list of {', '.join(_BRANCHES)}, or one such list per layer")
    branches = list(branches)
    layers = [branches] * n_layers if all(isinstance(name, str) for name in branches) else branches
    if len(layers) != n_layers or not all(layers):
        raise ValueError(f"LocalNO got branches={branches!r}; give at least one for each of {n_layers} layers")
    unknown = {name for layer in layers for name in layer} - set(_BRANCHES)
    if unknown:
        raise ValueError(f"LocalNO got the branches {', '.join(map(str, sorted(unknown)))}; choose from {', '.join(_BRANCHES)}")
    return [tuple(name for name in _BRANCHES if name in layer) for layer in layers]
