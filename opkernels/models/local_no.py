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
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from opkernels.domains import Domain, Grid
from opkernels.layers.differential import DifferentialConv
from opkernels.layers.integral import LocalIntegralConv
from opkernels.layers.kernels import KernelBasis, PolarHats, kernel_from, kernel_to
from opkernels.layers.multipliers import filtered
from opkernels.layers.spectral import SpectralConv
from opkernels.models.backbone import Backbone, Block
from opkernels.models.checks import check_size
from opkernels.models.fno import mode_set
from opkernels.models.spherical_branches import SphericalBranches, sphere_branches
from opkernels.sphere import Sphere

__all__ = ["Differential", "Integral", "LocalNO"]

_BRANCHES = ("spectral", "differential", "integral")


@dataclass(frozen=True)
class Differential:
    """The differential branch (`opkernels.layers.DifferentialConv`).

    Parameters
    ----------
    order : int
        Highest order of differentiation; 1 or 2.
    accuracy : {2, 4, 6, "exact"}, optional
        Order of accuracy of the stencils; by default exact where all axes are periodic and 4 elsewhere.
    length : float, optional
        The length l; by default the default radius of the integrals over 2 pi.
    smoothing : float, optional
        Standard deviation of the average that exact derivatives are taken of; by default the length l. Without it (0) a trained
        model changes with the grid wherever the training grid does not resolve what goes on inside: on Burgers waves the error at
        twice the training grid was lower with it, on turbulence neither here nor there (`docs/local_no.md`, also on how it was chosen).
    """

    order: int = 1
    accuracy: int | str | None = None
    length: float | None = None
    smoothing: float | None = None


@dataclass(frozen=True)
class Integral:
    """The local integral branch (`opkernels.layers.LocalIntegralConv`).

    Parameters
    ----------
    radius : float, optional
        The radius r; by default half the shortest wave of the spectral branch, at most half an axis.
    kernel : KernelBasis or sequence, optional
        The functions that the kernel is made of, or their name and numbers, as ``("Zernike", 4)``; by default
        ``PolarHats`` of one ring that look both ways along each axis; on a sphere ``Radial(2, 3)``, which look nowhere.
    quadrature : {"exact", "nodal"}, optional
        By default exact where all axes are periodic, and for isotropic kernels on a sphere.
    """

    radius: float | None = None
    kernel: KernelBasis | list | tuple | None = None
    quadrature: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "kernel", kernel_to(self.kernel))


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
        differential, integral = _options(Differential, differential), _options(Integral, integral)
        if isinstance(domain, Sphere):
            if domain_padding:
                raise ValueError(f"LocalNO got domain_padding={domain_padding!r} on a sphere, which has no walls; leave it at 0")
            join, build = SphericalBranches, sphere_branches(n_modes, hidden_channels, differential, integral)
        else:
            join, build = _Branches, _box_branches(domain, n_modes, hidden_channels, differential, integral, bool(domain_padding))
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


class _Branches(nn.Module):
    """The sum of some convolutions and a constant per channel."""

    def __init__(self, branches: Mapping[str, nn.Module], channels: int):
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        self.bias = nn.Parameter(torch.zeros(channels))
        with torch.no_grad():
            for weight in self.parameters():  # the sum starts as large as one branch alone
                weight.div_(len(branches) ** 0.5)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Return (B, C, *grid.shape) for x of that shape."""
        branches = dict(self.branches.items())
        d, i = branches.get("differential"), branches.get("integral")
        if isinstance(d, DifferentialConv) and isinstance(i, LocalIntegralConv) and all(axis.periodic for axis in grid.domain.axes):
            del branches["differential"], branches["integral"]
            terms = [_by_one_transform(d, i, x, grid), *(branch(x, grid) for branch in branches.values())]
        else:
            terms = [branch(x, grid) for branch in branches.values()]
        return sum(terms[1:], start=terms[0]) + self.bias.to(terms[0].dtype).view(-1, *[1] * grid.ndim)


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


def _options(kind: type, given):
    """Return `given` itself, or the options that a mapping (from a configuration file) describes."""
    if isinstance(given, kind):
        return given
    names = [f.name for f in fields(kind)]
    unknown = set(given) - set(names) if isinstance(given, Mapping) else {repr(given)}
    if unknown:
        raise ValueError(f"LocalNO got the {kind.__name__.lower()} options {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    return kind(**given)


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
