"""SFBC: a network of symmetric-basis continuous convolutions on particles, for Lagrangian flows.

    z_0 = [ Linear(f), Conv(f), Conv_wall(f_wall) ]                       side by side, h_1 wide each
    z_l = Conv_l(s(z_{l-1})) + Linear_l(s(z_{l-1})) (+ z_{l-1} where widths agree),   s the activation

All layers share one graph and the values of one kernel, computed once per call. The state of a flow enters as features
of the particles, their volumes as weights; what comes out are fields at the particles, such as accelerations. Of positions
only differences are seen, so the network commutes with translations, and with permutations of the particles.

With ``conservative=True`` the last layer exchanges between pairs and nothing else: the outputs are forces whose sum over
the particles is zero to round-off. Walls then act through the first layer alone, and are not part of that balance.

References: Winchenbach and Thuerey, "Symmetric Basis Convolutions for Learning Lagrangian Fluid Mechanics", ICLR 2024,
arXiv 2403.16680; Ummenhofer et al., ICLR 2020 (the layout of the network).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from opkernels.domains import Domain
from opkernels.layers.channel_mlp import ChannelMLP, activation_named
from opkernels.layers.product_kernels import Bumps, Chebyshev, Family, Fourier, ProductKernel, Spline
from opkernels.layers.symmetric_basis import ParticleGraph, SymmetricBasisConv
from opkernels.models.checks import check_domain, check_input, check_size
from opkernels.neighbors import Neighbors, radius_search
from opkernels.particles import ParticleSet

__all__ = ["BASES", "SFBC"]

BASES = ("fourier", "linear", "spline", "chebyshev", "radial")


def _family(basis: str, harmonics: int) -> Family:
    """Return a family of 2 K + 1 members."""
    n = 2 * harmonics + 1
    families = {"fourier": Fourier(harmonics), "chebyshev": Chebyshev(n)}
    if basis in ("linear", "spline"):
        return Spline(n, 1 if basis == "linear" else min(3, n - 1))
    if basis == "radial":
        return Bumps(n)
    if basis not in families:
        raise ValueError(f"SFBC got basis={basis!r}; choose one of {', '.join(BASES)}")
    return families[basis]


class SFBC(nn.Module):
    """Network of symmetric-basis continuous convolutions.

    Parameters
    ----------
    domain : Domain
        Where the particles live, one to three axes.
    in_channels, out_channels : int
        Features of each particle in and out.
    n_harmonics : int
        K; the kernels have 2 K + 1 terms per axis, in each of the bases.
    hidden_channels : int or sequence of int
        Widths of the layers but the last; one number stands for three layers of it.
    basis : {"fourier", "linear", "spline", "chebyshev", "radial"}
        Family of the kernels: harmonics, hats (CConv), cubic B-splines, polynomials, Gaussians.
    coordinates, window, parity : str
        See `ProductKernel`; ``coordinates="preserving"`` with "linear" is CConv, "polar" goes with "fourier". The parity is
        that of all layers but a conservative one, which uses all terms.
    quadrature : {"volume", "sum"}
        See `SymmetricBasisConv`.
    conservative : bool
        See the module's docstring.
    boundary_channels : int
        Features of each wall particle; 0 for flows without walls.
    vertex_mlp, edge_mlp : bool
        A small network at each particle after each layer, which adds to it; and one that bends the offsets of pairs,
        odd, so that parities stay, and zero at the rim.
    activation : str
        "gelu", "silu", "tanh", "sin" or "relu".

    Raises
    ------
    ValueError
        If a size is out of range or a name unknown.

    Examples
    --------
    >>> domain = Domain.periodic(1.0, 1.0)
    >>> particles = ParticleSet.from_grid(domain.grid(12, 12), support=0.25)
    >>> SFBC(domain, 3, 2, hidden_channels=(8, 8))(torch.zeros(144, 3), particles).shape
    torch.Size([144, 2])
    """

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        n_harmonics: int = 2,
        hidden_channels: int | Sequence[int] = (32, 64, 64),
        basis: str = "fourier",
        coordinates: str = "cartesian",
        window: str | None = "poly6",
        parity: str = "both",
        quadrature: str = "volume",
        conservative: bool = False,
        boundary_channels: int = 0,
        vertex_mlp: bool = False,
        edge_mlp: bool = False,
        activation: str = "gelu",
    ):
        super().__init__()
        check_domain("SFBC", domain)
        widths = [hidden_channels] * 3 if isinstance(hidden_channels, int) else list(hidden_channels)
        sizes = {"in_channels": in_channels, "out_channels": out_channels, **{f"hidden_channels[{i}]": w for i, w in enumerate(widths)}}
        for name, size in sizes.items():
            check_size("SFBC", name, size)
        for name, size in (("n_harmonics", n_harmonics), ("boundary_channels", boundary_channels), ("len(hidden_channels)", len(widths))):
            check_size("SFBC", name, size, least=1 if name == "len(hidden_channels)" else 0)
        if coordinates == "polar" and basis != "fourier":
            raise ValueError(f'SFBC got coordinates="polar" with basis={basis!r}, which is no function of an angle; take basis="fourier"')
        families = (_family(basis, n_harmonics),) * domain.ndim
        kernel, full = (ProductKernel(families, coordinates, window, p) for p in (parity, "both"))
        self.domain, self.conservative = domain, conservative
        self.in_channels, self.out_channels, self.boundary_channels = in_channels, out_channels, boundary_channels
        self.activation = activation_named(activation)
        first, *inner = widths
        self.lift = nn.Linear(in_channels, first)
        self.first = SymmetricBasisConv(in_channels, first, kernel, quadrature=quadrature)
        self.wall = SymmetricBasisConv(boundary_channels, first, kernel, quadrature=quadrature) if boundary_channels else None
        ends = [first * (3 if boundary_channels else 2), *inner, out_channels]
        last = len(ends) - 2
        self.convs = nn.ModuleList(
            SymmetricBasisConv(i, o, full, quadrature=quadrature, conservative=True)
            if conservative and at == last
            else SymmetricBasisConv(i, o, kernel, quadrature=quadrature)
            for at, (i, o) in enumerate(zip(ends[:-1], ends[1:], strict=True))
        )
        n_linear = last if conservative else last + 1
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in zip(ends[:n_linear], ends[1 : n_linear + 1], strict=True))
        self.vertex = nn.ModuleList(ChannelMLP(w, w, w, activation=activation) for w in ends[:-1]) if vertex_mlp else None
        self.edge = _OddMap(domain.ndim) if edge_mlp else None

    def forward(
        self,
        features: Tensor,
        particles: ParticleSet,
        *,
        boundary: ParticleSet | None = None,
        boundary_features: Tensor | None = None,
        neighbors: Neighbors | None = None,
        boundary_neighbors: Neighbors | None = None,
    ) -> Tensor:
        """Return (N, out_channels) for features (N, in_channels) at particles.

        Parameters
        ----------
        boundary : ParticleSet, optional
            Wall particles, and
        boundary_features : Tensor, (M, boundary_channels), optional
            their features, for models with `boundary_channels`.
        neighbors, boundary_neighbors : Neighbors, optional
            Pairs among the particles (each with itself), and with wall particles, if they are known already.

        Raises
        ------
        ValueError
            If features, particles and walls do not belong together or to this model.
        """
        self._check(features, particles, boundary, boundary_features)
        vertex = self.vertex or [None] * len(self.convs)
        graph = self._graph(particles, neighbors)
        parts = [self.lift(features), self.first.convolve(features, graph)]
        if self.wall is not None and boundary is not None and boundary_features is not None:
            parts.append(self.wall.convolve(boundary_features, self._graph(particles, boundary_neighbors, boundary)))
        z = torch.cat(parts, 1)
        for at, (conv, mlp) in enumerate(zip(self.convs, vertex, strict=True)):
            z = z if mlp is None else z + mlp(z)
            y = self.activation(z)
            assert isinstance(conv, SymmetricBasisConv)
            out = conv.convolve(y, graph)
            if at < len(self.linears):
                out = out + self.linears[at](y)
            z = out + z if out.shape == z.shape and at < len(self.convs) - 1 else out
        return z

    @torch.compiler.disable(recursive=True)
    def _graph(self, particles: ParticleSet, neighbors: Neighbors | None, senders: ParticleSet | None = None) -> ParticleGraph:
        if neighbors is None:
            neighbors = particles.neighbors() if senders is None else _wall_pairs(particles, senders)
        graph = ParticleGraph.of(particles, neighbors, senders=senders, share=True)
        return graph if self.edge is None else graph.mapped(self.edge(graph.offsets))

    def _check(self, features: Tensor, particles: ParticleSet, boundary: ParticleSet | None, boundary_features: Tensor | None) -> None:
        check_input("SFBC", "features", features, self.lift.weight.dtype)
        if particles.domain != self.domain:
            raise ValueError("SFBC got particles on another domain than its own; build both with the same Domain")
        if features.shape != (len(particles), self.in_channels):
            raise ValueError(
                f"SFBC got features of shape {tuple(features.shape)} for {len(particles)} particles; "
                f"expected ({len(particles)}, {self.in_channels})"
            )
        if (self.wall is None) != (boundary is None) or (boundary is None) != (boundary_features is None):
            raise ValueError(
                f"SFBC with boundary_channels={self.boundary_channels} got boundary={type(boundary).__name__} and boundary_features="
                f"{type(boundary_features).__name__}; give both to a model built with boundary_channels, and none to another"
            )
        if boundary is not None and boundary_features is not None and boundary_features.shape != (len(boundary), self.boundary_channels):
            raise ValueError(
                f"SFBC got boundary_features of shape {tuple(boundary_features.shape)} for {len(boundary)} wall particles; "
                f"expected ({len(boundary)}, {self.boundary_channels})"
            )


def _wall_pairs(particles: ParticleSet, boundary: ParticleSet) -> Neighbors:
    return radius_search(
        particles.positions,
        boundary.positions,
        support=particles.support,
        domain=particles.domain,
        batch=particles.batch,
        batch_y=boundary.batch,
    )


class _OddMap(nn.Module):
    """Bend offsets: z + (1 - |z|^2) (n(z) - n(-z))/2 with a small network n; the identity at the start."""

    def __init__(self, n_dim: int, width: int = 32):
        super().__init__()
        last = nn.Linear(width, n_dim)
        nn.init.zeros_(last.weight)
        self.network = nn.Sequential(nn.Linear(n_dim, width), nn.Tanh(), last)

    def forward(self, z: Tensor) -> Tensor:
        """Return offsets (d, P) for offsets (d, P)."""
        z = z.T
        odd = (self.network(z) - self.network(-z)) / 2
        return (z + (1 - z.square().sum(1, keepdim=True)).clamp(min=0) * odd).T
