"""Compressed convolution: kernels that are products of one-way filters from the start of training.

A convolution of d axes multiplies by a kernel K[o, i, x, y, ..] (output, input channel, taps). Here K is never a parameter; with
filters of one axis each, whose numbers of taps are k_1 .. k_d, it is

| format       | K                                               | numbers                                 | steps                |
| ------------ | ----------------------------------------------- | --------------------------------------- | -------------------- |
| "dense"      | itself                                          | C_in C_out prod k                       | 1                    |
| "pairwise"   | f_1[o,i,x] f_2[o,i,y] ..                        | C_in C_out sum k                        | 1, as costly as dense |
| "cp"         | sum_r A[o,r] B[r,i] f_1[r,x] f_2[r,y] ..        | R (C_in + C_out + sum k)                | d + 2, d of them depthwise |
| "sequential" | sum_ab.. f_1[a,i,x] f_2[b,a,y] .. f_d[o,.,t]    | k_1 C_in m_1 + k_2 m_1 m_2 + ..         | d                    |
| "tt"         | sum_ab.. B[a,i] f_1[b,a,x] f_2[c,b,y] .. A[o,.] | C_in r_0 + k_1 r_0 r_1 + .. + r_d C_out | d + 2                |

with no bias, norm or activation between the steps, so that the layer *is* the convolution by K, at borders too; one bias follows. As the
steps are linear, neighbors may also be multiplied out into one kernel: a count of multiplications and of numbers moved decides which
(`implementation="auto"`), once, from the sizes alone. Strided axes come first.

Which rank? The leapfrog step of the wave equation, 2u - u' + q Laplace(u) as one kernel over time and space, has CP rank 3 in two
space dimensions (d + 1 in d) and tensor-train ranks 2; with CP rank 2 it can be approached only by terms that cancel and grow without
bound. So R >= 3 for each field that is carried on; two or three times more trains faster. One pairwise kernel cannot make the step.

What it costs. Fewer numbers are not less memory: the steps of a chain keep d + 2 activations for the backward pass where a dense
convolution keeps one. ``recompute=True`` keeps the input alone and makes them again, in blocks of the rank; without gradients the blocks
are streamed in any case.

Inspired by Boukraichi, Akkari, Casenave, Ryckelynck, "A priori compression of convolutional neural networks for wave simulators",
arXiv 2304.04964. The architecture of that paper, its kernel format and ranks are not public: formats, start and everything else here
are our own design after its abstract ("3-way kernels or 2-way kernels in convolutional layers are replaced by one-way filters").
`PAPER_CONFIG` is left empty for whoever knows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from opkernels.domains import Domain, Grid, table
from opkernels.layers.compressed_fitting import fitted
from opkernels.layers.factorizations import Rank, full_rank, resolve_rank

__all__ = ["PAPER_CONFIG", "CompressedConv"]

PAPER_CONFIG: dict = {}  # the published settings, which we do not know

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_FORMATS = ("dense", "pairwise", "cp", "sequential", "tt")
_BLOCK = 16  # ranks at a time
_MOVE = 2  # multiply-adds in the time of reading or writing one number (one core of a CPU, 16 to 64 channels)


class CompressedConv(nn.Module):
    """Convolution whose kernel is a product of one-way filters; with padding, in place of an `nn.ConvNd` of odd kernel.

    Parameters
    ----------
    domain : Domain
        One to three axes, time among them if it is one. Periodic axes wrap around.
    in_channels, out_channels : int
        Channels of the input and of the output.
    kernel_size : int or sequence of int
        Taps k, odd, of all axes or of each.
    rank : float, int or sequence of int, optional
        A float in (0, 1] is the share of the dense kernel's numbers, as for `FactorizedSpectralConv` (good values .05 to .3); an int is the
        rank (of every link of a chain), a sequence gives each link its own. By default the larger number of channels, at least 3, as
        far as that is not above full. Where a default or a share leads to no fewer numbers than a dense kernel has, the layer is dense.
    factorization : {"cp", "sequential", "tt", "pairwise", "dense"}
        See the table above.
    stride : int or sequence of int
        Keep every stride-th sample of an axis, the first one always: on "node" axes those of the coarser grid; on "cell" axes they are not
        at the centers of its cells.
    bias : bool
        Whether a constant is added to every output channel.
    padding_mode : {"zeros", "replicate", "reflect"}
        What stands beyond the ends of axes that are not periodic.
    implementation : {"auto", "factorized", "reconstructed"}
        Multiply neighboring filters out where that is cheaper, never, or all of them. Results are equal up to rounding.
    recompute : bool
        While gradients are recorded, keep the input only, and make the steps again in the backward pass: about one more forward pass.
    spacing : sequence of float, optional
        Spacing of the grid, axis by axis, on which the filters are what they say. On another grid of spacing h the moments
        sum_m f_m m^j take the factors (spacing/h)^j, so that the derivatives which a filter stands for keep their coefficients in units
        of length. Needs three taps. Without it taps are taps, and the layer is another operator on every grid.

    Attributes
    ----------
    factors : ParameterList
        The filters in the order of the steps, as kernels (out, in, taps); empty when dense.
    weight : Parameter or None
        The kernel when dense: the state_dict of a dense layer is that of `nn.ConvNd`.
    bias : Parameter or None
    ranks : tuple of int

    Raises
    ------
    ValueError
        If a size or a choice is out of range, the kernel even, or the rank below one or above full.

    Notes
    -----
    It starts as nn.ConvNd does: the mean square of K is exactly 1/(3 C_in prod k), the bias uniform. Filters of a CP term are random
    directions of equal length; entries drawn one by one would let the output's variance scatter by a third from layer to layer.

    Weight decay on the filters is not weight decay on K: it favors low rank. Use 1e-4 or less.

    Examples
    --------
    >>> from opkernels import Domain
    >>> layer = CompressedConv(Domain.box(1.0, 1.0, 2.0), 32, 64, rank=32)
    >>> layer(torch.zeros(2, 32, 8, 9, 10)).shape, sum(p.numel() for p in layer.factors)
    (torch.Size([2, 64, 8, 9, 10]), 3360)
    >>> print(layer.extra_repr())
    32, 64, kernel_size=(3, 3, 3), factorization=cp, ranks=(32,), 3360 of 55296 weights
    """

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int | Sequence[int] = 3,
        rank: Rank | None = None,
        factorization: str = "cp",
        stride: int | Sequence[int] = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        implementation: str = "auto",
        recompute: bool = False,
        spacing: Sequence[float] | None = None,
    ):
        super().__init__()
        if not isinstance(domain, Domain) or not 1 <= domain.ndim <= 3:
            raise ValueError(f"CompressedConv got {domain!r}; give a Domain of one to three axes, for which convolutions exist")
        self.domain, self.in_channels, self.out_channels = domain, in_channels, out_channels
        self.kernel_size, self.stride = _per_axis(kernel_size, domain.ndim), _per_axis(stride, domain.ndim)
        self.padding_mode, self.recompute = padding_mode, recompute
        self.spacing = tuple(spacing) if isinstance(spacing, Sequence) else spacing
        self._check(factorization, implementation)
        self.order = sorted(range(domain.ndim), key=lambda a: -self.stride[a])  # strided axes first: less is left for the others
        dense_size = math.prod(self._full_shape)
        self.ranks: tuple[int, ...] = self._ranks(factorization, rank)
        shapes = self._shapes(factorization, self.ranks)
        self.asked, self.factorization = factorization, factorization
        if not isinstance(rank, (Integral, Sequence)) and sum(map(math.prod, shapes)) >= dense_size:
            self.factorization, self.ranks, shapes = "dense", (), []
        self.weight = nn.Parameter(torch.empty(self._full_shape)) if self.factorization == "dense" else None
        self.factors = nn.ParameterList(torch.empty(shape) for shape in shapes)
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.runs = self._plan(implementation)
        self.reset_parameters()

    @property
    def _full_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels, *self.kernel_size)

    def _check(self, factorization: str, implementation: str) -> None:
        sizes = (self.in_channels, self.out_channels, *self.stride)
        if not all(isinstance(n, Integral) and not isinstance(n, bool) and n >= 1 for n in sizes):
            raise ValueError(
                f"CompressedConv got in_channels={self.in_channels}, out_channels={self.out_channels}, stride={self.stride}; "
                "give whole numbers of at least 1"
            )
        if any(k < 1 or k % 2 == 0 for k in self.kernel_size):
            raise ValueError(
                f"CompressedConv got kernel_size={self.kernel_size}; give odd sizes: an even kernel moves a field by half a sample"
            )
        for name, value, known in (
            ("factorization", factorization, _FORMATS),
            ("padding_mode", self.padding_mode, tuple(_BEYOND)),
            ("implementation", implementation, ("auto", "factorized", "reconstructed")),
        ):
            if value not in known:
                raise ValueError(f"CompressedConv got {name}={value!r}; choose one of {', '.join(known)}")
        if self.spacing is not None and not (_lengths(self.spacing, self.domain.ndim) and set(self.kernel_size) == {3}):
            raise ValueError(
                f"CompressedConv got spacing={self.spacing} with kernel_size={self.kernel_size}; give one positive length for each of the "
                f"{self.domain.ndim} axes, and three taps: more of them amplify noise on finer grids"
            )

    def _tensor(self, factorization: str) -> tuple[tuple[int, ...], str]:
        """Return the shape of which the kernel is a factorized tensor, and the kind of factorization."""
        taps = [self.kernel_size[a] for a in self.order]
        if factorization == "cp":
            return (self.in_channels, self.out_channels, *taps), "cp"
        if factorization == "tt":
            return (self.in_channels, *taps, self.out_channels), "tt"
        taps[0] *= self.in_channels
        taps[-1] *= self.out_channels
        return tuple(taps), "tt"

    def _ranks(self, factorization: str, rank: Rank | None) -> tuple[int, ...]:
        if factorization in ("dense", "pairwise") or (factorization == "sequential" and self.domain.ndim == 1):
            if rank is not None:
                raise ValueError(
                    f"CompressedConv got rank={rank!r} for a {self.domain.ndim}-D {factorization} kernel; it has none: leave it out"
                )
            return ()
        shape, kind = self._tensor(factorization)
        if rank is None:
            return tuple(min(max(self.in_channels, self.out_channels, 3), most) for most in full_rank(shape, kind))
        return resolve_rank(shape, rank, kind)

    def _shapes(self, factorization: str, ranks: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the shapes of the factors as kernels, in the order of the steps."""
        c_in, c_out = self.in_channels, self.out_channels
        point = (1,) * self.domain.ndim
        lines = [tuple(self.kernel_size[a] if b == a else 1 for b in range(self.domain.ndim)) for a in self.order]
        if factorization == "dense":
            return [self._full_shape]
        if factorization == "pairwise":
            return [(c_out, c_in, *line) for line in lines]
        if factorization == "cp":
            return [(ranks[0], c_in, *point), *((ranks[0], 1, *line) for line in lines), (c_out, ranks[0], *point)]
        if factorization == "sequential":
            ends = (c_in, *ranks, c_out)
            return [(ends[t + 1], ends[t], *line) for t, line in enumerate(lines)]
        inner = [(ranks[t + 1], ranks[t], *line) for t, line in enumerate(lines)]
        return [(ranks[0], c_in, *point), *inner, (c_out, ranks[-1], *point)]

    def _plan(self, implementation: str) -> list[_Run]:
        """Return the runs of neighboring factors that are multiplied out, by least cost."""
        if self.factorization in ("dense", "pairwise") or implementation == "reconstructed":
            return [_Run(0, max(1, len(self.factors)), self.stride, False)]
        count = len(self.factors)
        if implementation == "factorized":
            return [self._run(t, t + 1) for t in range(count)]
        best: list[tuple[float, list[_Run]]] = [(0.0, [])]
        for stop in range(1, count + 1):
            options = [(best[start][0] + self._cost(start, stop), best[start][1] + [self._run(start, stop)]) for start in range(stop)]
            best.append(min(options, key=lambda option: option[0]))
        return best[-1][1]

    def _run(self, start: int, stop: int) -> _Run:
        first = 1 if self.factorization in ("cp", "tt") else 0  # step of the first axis
        axes = [self.order[t - first] for t in range(start, stop) if 0 <= t - first < self.domain.ndim]
        depthwise = self._depthwise(start) and self._depthwise(stop - 1)
        return _Run(start, stop, tuple(s if a in axes else 1 for a, s in enumerate(self.stride)), depthwise)

    def _cost(self, start: int, stop: int) -> float:
        """Count multiply-adds, and numbers moved at their price, per sample of the input."""
        shapes = [factor.shape for factor in self.factors[start:stop]]
        before = 1 / math.prod(self._run(0, start).stride) if start else 1.0
        after = 1 / math.prod(self._run(0, stop).stride)
        taps, c_out = math.prod(math.prod(shape[2:]) for shape in shapes), shapes[-1][0]
        if self._run(start, stop).depthwise:  # one pass over the output for each tap
            return c_out * (taps * after * (1 + 3 * _MOVE) + 2 * _MOVE * before)
        c_in = self.ranks[0] if self.factorization == "cp" and start else shapes[0][1]
        return c_in * c_out * taps * after + _MOVE * (c_in * before + c_out * after)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the filters anew, from torch's generator, with the mean square of the kernel that nn.ConvNd starts with."""
        fan_in = math.prod(self._full_shape[1:])
        if next(self.parameters()).is_meta:
            return  # nothing to draw until the weights are on a device
        if self.weight is not None:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        else:
            self._draw(1 / (3 * fan_in))
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def _draw(self, variance: float) -> None:
        if self.factorization == "cp":
            spread = (variance / self.ranks[0]) ** (0.5 / len(self.factors))
            for factor in self.factors:
                nn.init.normal_(factor, std=spread)
            for factor in self.factors[1:-1]:
                taps = tuple(range(1, factor.ndim))
                factor.mul_(spread * math.sqrt(factor[0].numel()) / torch.linalg.vector_norm(factor, dim=taps, keepdim=True))
        elif self.factorization == "pairwise":
            for factor in self.factors:
                nn.init.normal_(factor, std=variance ** (0.5 / len(self.factors)))
        else:
            for factor in self.factors:
                nn.init.normal_(factor, std=factor[0].numel() ** -0.5)
        self.factors[-1].mul_(math.sqrt(variance) / self.to_dense().double().square().mean().sqrt())

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        names = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        if self.factorization == "dense":
            return names + (", dense" if self.asked == "dense" else f", dense ({self.asked} would have no fewer weights)")
        size, full = sum(factor.numel() for factor in self.factors), math.prod(self._full_shape)
        ranks = f", ranks={self.ranks}" if self.ranks else ""
        return f"{names}, factorization={self.factorization}{ranks}, {size} of {full} weights"

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Return (B, out_channels, *n) for x (B, in_channels, *spatial), with n the sizes over the stride, rounded up.

        Parameters
        ----------
        x : Tensor, (B, in_channels, *spatial)
        grid : Grid, optional
            Where x was sampled, if not on the layer's own domain: it decides what is periodic.

        Raises
        ------
        ValueError
            If channels, rank or grid do not fit, or an axis is too short for its padding.
        """
        domain = self._domain_of(x, grid)
        if self.spacing is not None and grid is None:
            grid = domain.grid_of(x)
        periodic = tuple(axis.periodic for axis in domain.axes)
        kernels = self._kernels(grid)
        recorded = torch.is_grad_enabled()
        first, *rest = self._blocks(kernels) if self.recompute or not recorded else [kernels]
        again = self.recompute and recorded and len(self.runs) > 1
        y = self._chain_again(x, periodic, *first) if again else self._chain(x, periodic, *first)
        for block in rest:
            y.add_(self._chain_again(x, periodic, *block) if again else self._chain(x, periodic, *block))
        return y if self.bias is None else y.add_(self.bias.to(y.dtype).view(-1, *(1,) * self.domain.ndim))

    def _domain_of(self, x: Tensor, grid: Grid | None) -> Domain:
        """Return the domain that x was sampled on, once it is known to fit."""
        if x.ndim != self.domain.ndim + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"CompressedConv got x of shape {tuple(x.shape)}; expected (batch, {self.in_channels}, {', '.join(self.domain.names)})"
            )
        if grid is not None and (not isinstance(grid, Grid) or grid.shape != tuple(x.shape[2:])):
            raise ValueError(f"CompressedConv got x of shape {tuple(x.shape)} with grid={grid!r}; give the grid of x, or leave it out")
        domain = self.domain if grid is None else grid.domain
        for n, k, axis in zip(x.shape[2:], self.kernel_size, domain.axes, strict=True):
            least = k // 2 + 1 if self.padding_mode == "reflect" and not axis.periodic else k // 2 if axis.periodic else 1
            if n < least:
                raise ValueError(
                    f"CompressedConv got {n} samples on axis {axis.name}, whose kernel of {k} taps needs {least}; refine the grid"
                )
        return domain

    def _kernels(self, grid: Grid | None) -> list[Tensor]:
        """Return the factors as kernels (the whole kernel where it is not a chain), of the spacing of the grid."""
        kernels: list[Tensor] = [*self.factors] if self.weight is None else [self.weight]
        if self.spacing is not None and grid is not None:
            ratios = [reference / h for reference, h in zip(self.spacing, grid.spacing, strict=True)]
            kernels = [_rescaled(kernel, ratios) for kernel in kernels]
        return kernels

    def _blocks(self, kernels: list[Tensor]) -> Iterator[list[Tensor]]:
        """Yield kernels whose outputs add up to the layer's: blocks of the rank where every CP factor is a step of its own."""
        if self.factorization != "cp" or len(self.runs) < len(self.factors):
            yield kernels
            return
        first, *filters, last = kernels
        for start in range(0, self.ranks[0], _BLOCK):
            part = slice(start, start + _BLOCK)
            yield [first[part], *(f[part] for f in filters), last[:, part]]

    def _chain(self, x: Tensor, periodic: tuple[bool, ...], *kernels: Tensor) -> Tensor:
        """Apply the runs one after the other."""
        for run in self.runs:
            kernel = self._product(kernels[run.start : run.stop], run.start)
            x = _apply(x, kernel, run, periodic, self.padding_mode)
        return x

    def _chain_again(self, x: Tensor, periodic: tuple[bool, ...], *kernels: Tensor) -> Tensor:
        """Apply the runs now, and once more in the backward pass."""
        return checkpoint(self._chain, x, periodic, *kernels, use_reentrant=False, preserve_rng_state=False)

    def _product(self, kernels: Sequence[Tensor], start: int = 0) -> Tensor:
        """Multiply kernels of the steps from `start` on out into one; in full precision: products of small numbers underflow."""
        product, product_depthwise = kernels[0], self._depthwise(start)
        with torch.autocast(product.device.type, enabled=False):
            for step, kernel in enumerate(kernels[1:], start + 1):
                depthwise = self._depthwise(step)
                if self.factorization == "pairwise" or depthwise:
                    product = product * kernel
                elif product_depthwise:
                    product = kernel * product.transpose(0, 1)
                else:
                    product = torch.einsum("om...,mi...->oi...", kernel, product)
                product_depthwise = product_depthwise and depthwise
        return product

    def _depthwise(self, step: int) -> bool:
        return self.factorization == "cp" and 0 < step < self.domain.ndim + 1

    def to_dense(self, grid: Grid | None = None) -> Tensor:
        """Return the kernel K (out_channels, in_channels, *kernel_size), on a grid other than the reference's if `spacing` was given."""
        return self._product(self._kernels(grid))

    @torch.no_grad()
    def balance(self) -> None:
        """Give the factors of every CP term equal norms; the kernel stays what it is.

        A term does not change when one factor grows and another shrinks, but training suffers: call it now and then, and
        renew the optimizer's moments afterwards. A term of which one factor vanishes is left alone: it can still learn.

        Raises
        ------
        ValueError
            If the layer is not a CP sum.
        """
        if self.factorization != "cp":
            raise ValueError(f"balance got a {self.factorization} layer; only the terms of a CP sum have factors to balance")
        terms = [*(factor.flatten(1) for factor in self.factors[:-1]), self.factors[-1].flatten(1).T]
        norms = torch.stack([torch.linalg.vector_norm(term, dim=1) for term in terms])  # (d + 2, R)
        scales = torch.where(norms.amin(0) > 0, norms.log().mean(0).exp() / norms, 1.0)
        for factor, scale in zip(self.factors[:-1], scales, strict=False):
            factor.mul_(scale.view(-1, *(1,) * (factor.ndim - 1)))
        self.factors[-1].mul_(scales[-1].view(1, -1, *(1,) * self.domain.ndim))

    @classmethod
    @torch.no_grad()
    def from_dense(
        cls,
        conv: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        domain: Domain,
        *,
        rank: Rank | None = None,
        factorization: str = "cp",
        implementation: str = "auto",
        recompute: bool = False,
    ) -> CompressedConv:
        """Return the layer whose kernel comes closest to that of a trained convolution.

        Tensor trains by successive singular value decompositions (tensorly's), the others by alternating least squares: CP is a local
        optimum only, found slowly for large kernels, pairwise kernels are fitted for each pair of channels.

        Parameters
        ----------
        conv : nn.Conv1d, nn.Conv2d or nn.Conv3d
            Odd kernel, padded by half of it, neither grouped nor dilated.
        domain : Domain
            Periodic where `conv` pads circularly.
        rank, factorization, implementation, recompute
            As in `CompressedConv`.

        Raises
        ------
        ValueError
            If `conv` is no such convolution, or for a bad rank or factorization.

        Examples
        --------
        >>> conv = nn.Conv2d(4, 6, 3, padding=1)
        >>> layer = CompressedConv.from_dense(conv, Domain.box(1.0, 1.0), rank=(4, 12, 6), factorization="tt")
        >>> bool((layer.to_dense() - conv.weight).abs().max() < 1e-5)
        True
        """
        _check_dense(conv, domain)
        layer = cls(
            domain,
            conv.in_channels,
            conv.out_channels,
            kernel_size=conv.kernel_size,
            rank=rank,
            factorization=factorization,
            stride=conv.stride,
            bias=conv.bias is not None,
            padding_mode="zeros" if conv.padding_mode == "circular" else conv.padding_mode,
            implementation=implementation,
            recompute=recompute,
        ).to(conv.weight)
        layer.train(conv.training)
        if layer.weight is not None:
            layer.weight.copy_(conv.weight)
        else:
            found = fitted(conv.weight.double().cpu(), layer.factorization, layer.order, layer.ranks)
            for factor, values in zip(layer.factors, found, strict=True):
                factor.copy_(values.reshape(factor.shape))
        if layer.factorization == "cp":
            layer.balance()
        if conv.bias is not None and layer.bias is not None:
            layer.bias.copy_(conv.bias)
        return layer


class _Run(NamedTuple):
    """Factors start .. stop - 1 as one step: its stride on each axis, and whether it acts on each channel alone."""

    start: int
    stop: int
    stride: tuple[int, ...]
    depthwise: bool


def _per_axis(value: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * ndim
    if len(values) != ndim or not all(isinstance(v, Integral) and not isinstance(v, bool) for v in values):
        raise ValueError(f"CompressedConv got {value!r} for {ndim} axes; give a whole number, or one for each axis")
    return tuple(int(v) for v in values)


def _lengths(spacing: object, ndim: int) -> bool:
    """Whether `spacing` is a positive length for each axis."""
    return isinstance(spacing, tuple) and len(spacing) == ndim and all(isinstance(h, Real) and 0 < float(h) < math.inf for h in spacing)


def _apply(x: Tensor, kernel: Tensor, run: _Run, periodic: tuple[bool, ...], mode: str) -> Tensor:
    """Convolve x with one kernel."""
    taps = kernel.shape[2:]
    if math.prod(taps) * math.prod(run.stride) == 1:
        if run.depthwise:
            return x * kernel[:, 0].to(x.dtype)
        return torch.matmul(kernel.flatten(1), x.flatten(2)).unflatten(2, x.shape[2:])
    wide = [a for a, k in enumerate(taps) if k > 1]
    if run.depthwise and len(wide) == 1 and math.prod(run.stride) == run.stride[wide[0]]:
        return _filtered(x, kernel, wide[0], run.stride[wide[0]], _beyond(periodic[wide[0]], mode))
    padding = [0] * len(taps)
    for a in wide:
        if not periodic[a] and mode == "zeros":
            padding[a] = taps[a] // 2
        else:
            x = _padded(x, a + 2, taps[a] // 2, _beyond(periodic[a], mode))
    return _CONV[len(taps)](x, kernel, None, run.stride, tuple(padding), groups=x.shape[1] if run.depthwise else 1)


def _filtered(x: Tensor, kernel: Tensor, axis: int, stride: int, beyond: Callable) -> Tensor:
    """Convolve each channel along one axis: shifted copies, weighted and added."""
    dim, size = axis + 2, x.shape[axis + 2]
    weights = kernel.to(x.dtype).unbind(dim)  # each (R, 1, .., 1)
    padded = _padded(x, dim, len(weights) // 2, beyond)
    kept = (*[slice(None)] * dim, slice(0, size, stride))
    y = padded.narrow(dim, 0, size)[kept] * weights[0]
    for tap, weight in enumerate(weights[1:], 1):
        y = torch.addcmul(y, padded.narrow(dim, tap, size)[kept], weight)
    return y


_BEYOND = {  # samples before the first and after the last, `width` of each
    "zeros": lambda x, dim, width: (torch.zeros_like(x.narrow(dim, 0, 1)).expand(_resized(x, dim, width)),) * 2,
    "replicate": lambda x, dim, width: tuple(x.narrow(dim, at, 1).expand(_resized(x, dim, width)) for at in (0, x.shape[dim] - 1)),
    "reflect": lambda x, dim, width: tuple(x.narrow(dim, at, width).flip(dim) for at in (1, x.shape[dim] - 1 - width)),
}


def _resized(x: Tensor, dim: int, size: int) -> list[int]:
    return [*x.shape[:dim], size, *x.shape[dim + 1 :]]


def _circular(x: Tensor, dim: int, width: int) -> tuple[Tensor, ...]:
    return x.narrow(dim, x.shape[dim] - width, width), x.narrow(dim, 0, width)


def _beyond(periodic: bool, mode: str) -> Callable[[Tensor, int, int], tuple[Tensor, ...]]:
    return _circular if periodic else _BEYOND[mode]


def _padded(x: Tensor, dim: int, width: int, beyond: Callable) -> Tensor:
    before, after = beyond(x, dim, width)
    return torch.cat([before, x, after], dim)


def _rescaled(kernel: Tensor, ratios: Sequence[float]) -> Tensor:
    """Give a kernel's filters the moments they need on a grid that is finer by the ratios."""
    for a, ratio in enumerate(ratios):
        if kernel.shape[a + 2] == 3:
            kernel = (kernel.movedim(a + 2, -1) @ _moments(ratio, device=kernel.device, dtype=kernel.dtype)).movedim(-1, a + 2)
    return kernel


@table
def _moments(s: float, device) -> Tensor:
    """Matrix (3, 3): row m holds the filter at ratio s of the filter that is one at tap m, with moments m_j s^j."""
    p, q = (s * s + s) / 2, (s * s - s) / 2
    return torch.tensor([[p, 1 - s * s, q], [0, 1, 0], [q, 1 - s * s, p]], dtype=torch.float64, device=device)


def _check_dense(conv: nn.Module, domain: Domain) -> None:
    if not isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise ValueError(f"from_dense got {type(conv).__name__}; give an nn.Conv1d, nn.Conv2d or nn.Conv3d")
    half = tuple(k // 2 for k in conv.kernel_size)
    padded = conv.padding == half or conv.padding == "same"
    if conv.groups != 1 or set(conv.dilation) != {1} or not padded or len(half) != domain.ndim:
        raise ValueError(
            f"from_dense got {conv} for a {domain.ndim}-D domain; give one that is padded by half its kernel, neither grouped nor dilated"
        )
    if any(axis.periodic != (conv.padding_mode == "circular") for axis in domain.axes):
        raise ValueError(f'from_dense got padding_mode={conv.padding_mode!r}; "circular" goes with periodic axes, and only with them')
