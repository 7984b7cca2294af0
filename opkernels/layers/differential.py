"""Differential convolution: learned combinations of partial derivatives, the same operator on every grid.

    y_o(x) = sum_c sum_{1 <= |alpha| <= m} W_oc(alpha) l^|alpha| (D_alpha v_c)(x),    D_alpha v = d^alpha v + O(h^p)

| symbol    | meaning                                                                    |
| --------- | -------------------------------------------------------------------------- |
| alpha     | orders of differentiation per axis; C(d + m, m) - 1 of them                |
| W_oc      | learned, without units                                                     |
| l         | a length in the units of the domain, so that W is of size one              |
| D_alpha   | product over the axes of one-dimensional difference stencils of accuracy p |
| h         | spacing, of each axis its own                                              |

The stencil of the a-th derivative has the moments sum_z F(z) z^b / b! = delta_ab for all b < a + p, so it is exact on
polynomials of degree a + p - 1: centered inside and on periodic axes, one-sided (a + p samples) in the rows next to a
wall. Stencils of a convolution layer are free; these are not, and so converge at a stated order on any aspect ratio.
With ``accuracy="exact"``, on periodic axes, D_alpha differentiates the Fourier series of the samples: no error for band-limited v,
where a stencil differentiates waves near the grid's own (k h > 1) wrongly, and so differently on each grid.

Reference: Liu-Schiaffini et al., "Neural Operators with Localized Integral and Differential Kernels", ICML 2024,
arXiv 2402.16845, whose kernels satisfy the zeroth moment alone (first order); weights of stencils by Fornberg,
Mathematics of Computation 51 (1988), 699-706.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from math import prod

import torch
from torch import Tensor, nn

from opkernels.domains import Axis, Grid, looked_up, table
from opkernels.layers.multipliers import filtered

__all__ = ["DifferentialConv", "differentiate", "stencil"]


class DifferentialConv(nn.Module):
    """Learned linear differential operator of order m without a zeroth-order term.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    n_dim : int
        Number of axes.
    length : float
        The length l, in the units of the domain. With the spacing of the training grid the output is of the size of a
        small convolution's; with 1 the weights are the coefficients of the derivatives.
    order : int
        Highest order of differentiation m. One (a gradient) or two (diffusion too) are usual.
    accuracy : {2, 4, 6, ..., "exact"}
        Order of accuracy p; or the derivatives of the Fourier series, for periodic axes.
    depthwise : bool
        Act on each channel alone: weights (C, A) in place of (C_out, C_in, A).
    smoothing : float
        With "exact", differentiate the average of v under a Gaussian of this standard deviation, in the units of the domain, whose
        multiplier is exp(-(smoothing |xi|)^2/2). A network that was trained on a grid with plain derivatives meets, on a finer one,
        waves that they amplify more than any it has seen; of the order of `length` this leaves them out on every grid.

    Attributes
    ----------
    multi_indices : tuple of tuple of int
        The A orders alpha in the order of the weight's last axis, such as (1, 0) for d/dx.
    weight : Parameter

    Raises
    ------
    ValueError
        If a size is out of range, or `depthwise` has different numbers of channels.

    Notes
    -----
    Noise (and rounding) of size e in the samples comes out as e (l/h)^m: on fine grids, high derivatives want float64.

    Examples
    --------
    >>> from opkernels import Domain
    >>> layer = DifferentialConv(3, 4, 2, length=1 / 64)
    >>> layer(torch.zeros(2, 3, 33, 48), Domain.periodic(1.0, 2.0).grid(33, 48)).shape
    torch.Size([2, 4, 33, 48])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_dim: int,
        *,
        length: float,
        order: int = 1,
        accuracy: int | str = 4,
        depthwise: bool = False,
        smoothing: float = 0.0,
    ):
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "n_dim": n_dim, "order": order}
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"DifferentialConv got {name}={size!r}; give a whole number of at least 1")
        if depthwise and in_channels != out_channels:
            raise ValueError(
                f"DifferentialConv got depthwise with {in_channels} input and {out_channels} output channels; give equal numbers"
            )
        if not isinstance(length, (int, float)) or not 0 < length < float("inf"):
            raise ValueError(f"DifferentialConv got length={length!r}; give a positive length, such as the training grid's spacing")
        if accuracy != "exact":
            _check_accuracy(accuracy)
        if not isinstance(smoothing, (int, float)) or not 0 <= smoothing < float("inf") or (smoothing and accuracy != "exact"):
            raise ValueError(
                f"DifferentialConv got smoothing={smoothing!r} with accuracy={accuracy!r}; "
                'give a length of at least 0, and accuracy="exact"'
            )
        self.in_channels, self.out_channels, self.n_dim = in_channels, out_channels, n_dim
        self.length, self.accuracy, self.depthwise, self.smoothing = float(length), accuracy, depthwise, float(smoothing)
        candidates = itertools.product(range(order, -1, -1), repeat=n_dim)
        self.multi_indices = tuple(sorted((alpha for alpha in candidates if 1 <= sum(alpha) <= order), key=sum))
        count = len(self.multi_indices)
        if depthwise:
            self.weight = nn.Parameter(torch.randn(in_channels, count) / count**0.5)
        else:
            self.weight = nn.Parameter(torch.randn(out_channels, in_channels, count) / (in_channels * count) ** 0.5)

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        order = max(map(sum, self.multi_indices))
        return f"{self.in_channels}, {self.out_channels}, {self.n_dim}, length={self.length:g}, order={order}, accuracy={self.accuracy}"

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Return (B, out_channels, *grid.sizes) for x (B, in_channels, *grid.sizes), in the memory layout of `x`.

        Raises
        ------
        ValueError
            If the grid is missing, has another rank or shape than `x`, gauss points, or fewer samples than a stencil.
        """
        _check_grid(x, grid, "DifferentialConv")
        if grid.ndim != self.n_dim or x.shape[1] != self.in_channels:
            raise ValueError(
                f"DifferentialConv got x of shape {tuple(x.shape)}; expected (batch, {self.in_channels}, *spatial) with {self.n_dim} axes"
            )
        with torch.autocast(x.device.type, enabled=False):
            u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            if isinstance(self.accuracy, str):
                y = filtered(u, grid.shape, self.multipliers(grid, u.device, u.dtype), self._dense(u.dtype), grid.split)
                return y.movedim(1, -1).contiguous().movedim(-1, 1) if x.movedim(1, -1).is_contiguous() else y
            terms = _differences(u, grid, self.multi_indices, self.accuracy)
            # the stencils are those of unit spacing: the weights carry the powers of l/h
            scales = [prod([(self.length / h) ** a for h, a in zip(grid.spacing, alpha, strict=True)]) for alpha in self.multi_indices]
            weights = [w * scale for w, scale in zip(self.weight.to(u.dtype).unbind(-1), scales, strict=True)]
            if self.depthwise:
                shape = (-1,) + (1,) * self.n_dim
                products = [w.view(shape) * term for w, term in zip(weights, terms, strict=True)]
                return sum(products[1:], start=products[0])
            return _mix(torch.cat(weights, dim=1), terms, x.movedim(1, -1).is_contiguous())

    def multipliers(self, grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return what l^|alpha| D_alpha multiplies Fourier coefficients by on a periodic grid, complex (A, *) in the layout of rfftn.

        The same derivatives as those of `forward`, for a convolution that has transformed its input anyhow.
        """
        grid.domain.require_periodic('DifferentialConv with accuracy="exact"')
        if not isinstance(self.accuracy, str):
            for a in range(self.n_dim):
                _check_room(grid.shape[a], grid.domain.axes[a], max(alpha[a] for alpha in self.multi_indices), self.accuracy)
        key = self.multi_indices, self.accuracy, self.length, self.smoothing, grid
        return torch.view_as_complex(looked_up(_multipliers, *key, device=device, dtype=dtype))

    def _dense(self, dtype: torch.dtype) -> Tensor:
        """Return the weights (C_out, C_in, A)."""
        return torch.diag_embed(self.weight.T).movedim(0, -1).to(dtype) if self.depthwise else self.weight.to(dtype)


def _mix(weight: Tensor, terms: Sequence[Tensor], channels_last: bool) -> Tensor:
    """Apply weight (O, A C) to A terms (B, C, *spatial) in one matrix product."""
    if channels_last:
        joined = torch.cat([term.movedim(1, -1) for term in terms], dim=-1)
        return nn.functional.linear(joined, weight).movedim(-1, 1)
    joined = torch.cat(list(terms), dim=1)
    return torch.matmul(weight, joined.flatten(2)).unflatten(2, joined.shape[2:])


def differentiate(x: Tensor, grid: Grid, alpha: Sequence[int], accuracy: int = 4) -> Tensor:
    """Return the partial derivative d^alpha of samples, with an error O(h^accuracy), walls included.

    Parameters
    ----------
    x : Tensor, (B, C, *grid.shape)
    grid : Grid
        Any points but "gauss".
    alpha : sequence of int
        Orders per axis: (1, 0) is d/dx, (1, 1) is d^2/dxdy.
    accuracy : {2, 4, 6, ...}

    Returns
    -------
    Tensor, (B, C, *grid.shape)

    Raises
    ------
    ValueError
        If alpha or the accuracy is out of range, the grid is missing or differs from `x`, or is too coarse.

    Examples
    --------
    >>> from opkernels import Domain
    >>> grid = Domain.box(2.0, points="endpoint").grid(9)
    >>> x = grid.coordinates(dtype=torch.float64)[None]
    >>> bool(torch.allclose(differentiate(x**3, grid, (2,)), 6 * x))
    True
    """
    _check_grid(x, grid, "differentiate")
    _check_accuracy(accuracy)
    alpha = tuple(alpha)
    if len(alpha) != grid.ndim or not all(isinstance(a, int) and a >= 0 for a in alpha):
        raise ValueError(f"differentiate got alpha={alpha} on a {grid.ndim}-D grid; give one order, a whole number from 0 on, per axis")
    h = prod(spacing**a for spacing, a in zip(grid.spacing, alpha, strict=True))
    return _differences(x, grid, (alpha,), accuracy)[0] / h


def _differences(x: Tensor, grid: Grid, indices: Sequence[tuple[int, ...]], accuracy: int) -> list[Tensor]:
    """Return h^alpha D_alpha x for each multi-index; those that share their trailing axes share the work."""
    known = {(0,) * grid.ndim: x}

    def of(alpha: tuple[int, ...]) -> Tensor:
        if alpha not in known:
            a = next(i for i, order in enumerate(alpha) if order)
            rest = of(alpha[:a] + (0,) + alpha[a + 1 :])
            known[alpha] = _difference(rest, a, grid, alpha[a], accuracy)
        return known[alpha]

    return [of(alpha) for alpha in indices]


def _difference(x: Tensor, a: int, grid: Grid, order: int, accuracy: int) -> Tensor:
    """Return h^order times the derivative of that order along one axis."""
    axis, n, dim = grid.domain.axes[a], x.shape[a + 2], a + 2
    half, width = _check_room(grid.shape[a] if axis.periodic else n, axis, order, accuracy)
    weights = stencil(order, tuple(range(-half, half + 1)))
    around = grid.split.surrounded(x, a, half, grid.shape[a], periodic=axis.periodic)
    if axis.periodic:
        return _centered(around, dim, weights, order % 2 == 1)
    low, high = grid.split.beyond(a, half, grid.shape[a])
    rows = _one_sided(order, accuracy, half, device=x.device, dtype=x.dtype)
    mirrored = (-1) ** order * rows.flip(0, 1)
    lower = torch.tensordot(rows, x.narrow(dim, 0, width).movedim(dim, 0), dims=1).movedim(0, dim)
    upper = torch.tensordot(mirrored, x.narrow(dim, n - width, width).movedim(dim, 0), dims=1).movedim(0, dim)
    if around.shape[dim] == 2 * half:
        return torch.cat([lower, upper], dim)
    inside = _centered(around, dim, weights, order % 2 == 1)
    return torch.cat([*[lower] * bool(low), inside, *[upper] * bool(high)], dim)


def _centered(x: Tensor, dim: int, weights: tuple[float, ...], odd: bool) -> Tensor:
    """Return the inner product with a centered stencil wherever it fits; opposite samples are paired."""
    half = len(weights) // 2
    n = x.shape[dim] - 2 * half

    def pair(z: int) -> Tensor:
        up, down = x.narrow(dim, half + z, n), x.narrow(dim, half - z, n)
        return up - down if odd else up + down

    y = weights[half + 1] * pair(1)
    for z in range(2, half + 1):
        y = torch.add(y, pair(z), alpha=weights[half + z])
    return y if odd else torch.add(y, x.narrow(dim, half, n), alpha=weights[half])


@functools.lru_cache(maxsize=512)
def stencil(order: int, offsets: tuple[int, ...]) -> tuple[float, ...]:
    """Return weights F with sum_z F(z) v(z) = v^(order)(0) for every polynomial v of degree below len(offsets).

    Solved in rational arithmetic (Fornberg's recurrence), rounded once.

    Examples
    --------
    >>> stencil(1, (-1, 0, 1))
    (-0.5, 0.0, 0.5)
    """
    # c[k][j]: weight of sample j in the k-th derivative, using the samples 0 .. i
    c = [[Fraction(0)] * len(offsets) for _ in range(order + 1)]
    c[0][0] = Fraction(1)
    last = Fraction(1)
    for i in range(1, len(offsets)):
        product = Fraction(1)
        for j in range(i):
            gap = offsets[i] - offsets[j]
            product *= gap
            if j == i - 1:
                for k in range(order, -1, -1):
                    below = k * c[k - 1][j] if k else 0
                    c[k][i] = last * (below - offsets[j] * c[k][j]) / product
            for k in range(order, -1, -1):
                below = k * c[k - 1][j] if k else 0
                c[k][j] = (offsets[i] * c[k][j] - below) / gap
        last = product
    return tuple(float(weight) for weight in c[order])


@table
def _one_sided(order: int, accuracy: int, rows: int, device) -> Tensor:
    """Weights of the first `rows` samples next to a lower wall, (rows, order + accuracy)."""
    width = range(order + accuracy)
    weights = [stencil(order, tuple(j - i for j in width)) for i in range(rows)]
    return torch.tensor(weights, dtype=torch.float64, device=device)


@table
def _multipliers(indices: Sequence[tuple[int, ...]], accuracy: int | str, length: float, smoothing: float, grid: Grid, device) -> Tensor:
    """Symbols of the scaled derivatives in the layout of rfftn, (A, *, 2); the exact ones are zero at Nyquist wave numbers."""
    numbers = grid.wavenumbers(device=device, dtype=torch.float64)
    steps = [k * h for k, h in zip(numbers, grid.spacing, strict=True)]
    window = functools.reduce(torch.mul, [torch.exp(-0.5 * (smoothing * k).square()) for k in numbers])

    def symbol(a: int, order: int) -> Tensor:
        theta, kept = steps[a], torch.ones_like(steps[a])
        if isinstance(accuracy, str):
            kept = (theta.abs() < math.pi * (1 - 1e-9)).double()
        if not order or isinstance(accuracy, str):
            values = 1j**order * theta.to(torch.complex128) ** order * kept
        else:
            half = (order + 1) // 2 + accuracy // 2 - 1
            values = torch.zeros_like(theta, dtype=torch.complex128)
            for z, weight in enumerate(stencil(order, tuple(range(-half, half + 1))), start=-half):
                values = values + weight * torch.polar(kept, z * theta)
        return values * (length / grid.spacing[a]) ** order

    return torch.view_as_real(torch.stack([window * prod(symbol(a, n) for a, n in enumerate(alpha)) for alpha in indices]))


def _check_room(n: int, axis: Axis, order: int, accuracy: int) -> tuple[int, int]:
    """Return half the width of the centered stencil and the width of the widest one, for which n samples must have room."""
    half = (order + 1) // 2 + accuracy // 2 - 1
    width = 2 * half + 1 if axis.periodic else order + accuracy
    if n < width:
        raise ValueError(
            f"derivative {order} at accuracy {accuracy} needs {width} samples on axis {axis.name}, which has {n}; "
            "refine the grid or lower the accuracy"
        )
    return half, width


def _check_accuracy(accuracy: int | str) -> None:
    if not isinstance(accuracy, int) or accuracy < 2 or accuracy % 2:
        raise ValueError(f'got accuracy={accuracy!r}; give an even order of accuracy, 2, 4 or 6, or, for a layer, "exact"')


def _check_grid(x: Tensor, grid: Grid, who: str) -> None:
    if not isinstance(grid, Grid):
        raise ValueError(f"{who} got grid={grid!r}, but derivatives have units; give domain.grid_of(x)")
    if x.ndim != grid.ndim + 2 or tuple(x.shape[2:]) != grid.sizes:
        raise ValueError(f"{who} got x of shape {tuple(x.shape)}; expected (batch, channels, {', '.join(map(str, grid.sizes))})")
    if not x.is_floating_point():
        raise ValueError(f"{who} got x of dtype {x.dtype}; give real floating-point samples, such as x.float()")
    for axis in grid.domain.axes:
        if axis.points == "gauss":
            raise ValueError(f'{who} needs equal spacing, but axis {axis.name} has points="gauss"; use "cell" or "endpoint"')
