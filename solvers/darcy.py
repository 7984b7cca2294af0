"""Steady flow through a porous medium: -∇·(a ∇u) = f on a box.

| symbol | meaning                          | shape          | unit            |
| ------ | -------------------------------- | -------------- | --------------- |
| a      | coefficient (permeability), > 0  | (B, 1, H, W)   | of a            |
| u      | pressure                         | (B, 1, H, W)   | of u            |
| f      | source                           | (B, H, W)      | a · u / length² |
| c      | coefficient of a face            | (B, H, W ∓ 1)  | of a            |

Finite volumes: each sample owns a cell, and the flux through the face between two neighbors is
c (u₁ - u₀) / h with the harmonic mean c = 2 a₀ a₁ / (a₀ + a₁) (or the arithmetic one). Second
order, also at walls. Where a jumps on a face the harmonic mean keeps second order, since it is
the exact resistance of two layers in series; the arithmetic mean falls to first order.

The systems of a batch are solved at once by conjugate gradients, preconditioned by the fast
Poisson solve L of the same walls: P = L where a jumps (condition number at most max a / min a),
P = √a L √a where ln a varies in small steps (for which max a / min a hardly matters); in both
cases the number of iterations does not grow with the grid. The preconditioner works in float32,
everything else in float64, so float32 input loses nothing but its own rounding. Gradients come
from one more solve (implicit differentiation), not from unrolled iterations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from opkernels.domains import Domain
from opkernels.solvers.checks import check_samples, full_precision, require_domain
from opkernels.solvers.coefficients import Parameter, evaluate
from opkernels.solvers.conjugate_gradients import conjugate_gradients
from opkernels.solvers.fast_poisson import Eigenbasis, Walls, wall_kinds
from opkernels.solvers.stepping import SolverError

__all__ = ["Darcy2D"]

_BLOCK = 65536  # unknowns; the dozen float64 arrays of an iteration then fit the usual cache

_MEANS = {"harmonic": lambda p, q: 2 * p * q / (p + q), "arithmetic": lambda p, q: (p + q) / 2}


class Darcy2D:
    """Solve -∇·(a ∇u) = f for a batch of coefficients on a grid of any shape.

    Parameters
    ----------
    domain : Domain
        Two axes, sampled at "cell" or "endpoint" (or periodic); any extents. With "cell" the walls
        lie half a cell beyond the outermost samples, with "endpoint" on them.
    source : number, (B,) tensor, samples (B, H, W) or function of (x, y)
        The source f.
    walls : {"dirichlet", "neumann"}, or one entry per axis
        A kind for all walls, or per axis a kind or a pair (low, high); "periodic" on periodic
        axes. At least one wall is Dirichlet.
    boundary : number, (B,) tensor or function of (x, y)
        u on the Dirichlet walls. No flux passes Neumann walls.
    faces : {"harmonic", "arithmetic"}
        Mean of the coefficient on faces. "arithmetic" is that of the Fourier neural operator's data.
    tolerance : float
        Relative error of the discrete solution in the energy norm √∫ a |∇u|².
        1e-6 is plenty for training data, whose discretization error is larger; at 1e-10 gradients
        pass ``gradcheck``.
    max_iterations : int
        Iterations before a solve is refused as not converged.

    Raises
    ------
    ValueError
        If the domain is not two-dimensional or an axis with walls is sampled otherwise, no wall is
        Dirichlet, an option is unknown; in `solve`, if the coefficient has another shape or is not
        positive and finite, or the iteration does not converge.

    Notes
    -----
    At the tolerance 1e-8 a two-phase coefficient of ratio 12/3 takes 17 iterations, one of ratio
    100 about 60 (√(max a / min a)/2 · ln(2/tolerance) at most), a smooth log-normal field of ratio
    5000 about 20. White noise in ln a of large variance is the hard case: hundreds.

    The coefficient is read at the samples. To compare grids, draw it as one function: restricted
    threshold fields differ between grids by where their jumps fall, a first-order effect.

    References
    ----------
    P. Concus, G. H. Golub, SIAM J. Numer. Anal. 10 (1973) 1103-1120, doi:10.1137/0710092
    (preconditioning by fast Poisson solves). Z. Li et al., arXiv:2010.08895 (the data sets).

    Examples
    --------
    >>> import torch
    >>> from opkernels import Domain
    >>> solver = Darcy2D(Domain.box(1.0, 1.0))
    >>> solver.solve(torch.ones(1, 1, 32, 48)).shape
    torch.Size([1, 1, 32, 48])
    """

    fields = ("pressure",)

    def __init__(
        self,
        domain: Domain,
        *,
        source: Parameter = 1.0,
        walls: Walls = "dirichlet",
        boundary: Parameter = 0.0,
        faces: str = "harmonic",
        tolerance: float = 1e-10,
        max_iterations: int = 2000,
    ):
        require_domain("Darcy2D", domain)
        if domain.ndim != 2:
            raise ValueError(f"Darcy2D got a {domain.ndim}-D domain; give one with two axes")
        for axis in domain.axes:
            if not axis.periodic and axis.points not in ("cell", "endpoint"):
                raise ValueError(f'Darcy2D got points="{axis.points}" on axis {axis.name}, which has walls; use "cell" or "endpoint"')
        self.walls = wall_kinds(domain, walls, "Darcy2D")
        if not any("dirichlet" in pair for pair in self.walls):
            raise ValueError("Darcy2D got no Dirichlet wall, so u is only known up to a constant; make at least one wall Dirichlet")
        if faces not in _MEANS:
            raise ValueError(f"Darcy2D got faces={faces!r}; choose one of {', '.join(_MEANS)}")
        if not (isinstance(tolerance, float) and 0 < tolerance < 1):
            raise ValueError(f"Darcy2D got tolerance={tolerance!r}; give a relative error between 0 and 1, such as 1e-8")
        self.domain, self.source, self.boundary = domain, source, boundary
        self.mean, self.tolerance, self.max_iterations = _MEANS[faces], tolerance, max_iterations

    def solve(self, coefficient: Tensor) -> Tensor:
        """Return the pressure.

        Parameters
        ----------
        coefficient : Tensor, (B, 1, H, W)
            Positive values of a at the samples.

        Returns
        -------
        Tensor, (B, 1, H, W)
            In the coefficient's dtype; differentiable in coefficient, source and boundary values.
        """
        a, basis = self._read(coefficient)
        with full_precision(coefficient):
            self._require_positive(a)
            faces = self._faces(a, basis)
            rhs = self._load(a, faces, basis)
            problem = _Problem(basis, _scaling(a.detach(), basis), self.tolerance, self.max_iterations)
            u = _Solve.apply(problem, rhs.contiguous(), *faces)
            return self._extend(u, basis)[:, None].to(coefficient.dtype)

    def residual(self, coefficient: Tensor, u: Tensor) -> Tensor:
        """Return f + ∇·(a ∇u) as discretized, (B, 1, H, W), float64; zero at samples on Dirichlet walls."""
        a, basis = self._read(coefficient)
        faces = self._faces(a, basis)
        inside = u.to(a)[(slice(None), 0, *basis.unknowns)]
        rest = (self._load(a, faces, basis) - _divergence(inside, faces, basis)) / basis.weights(a.device, a.dtype)
        out = torch.zeros_like(a)
        out[(slice(None), *basis.unknowns)] = rest
        return out[:, None]

    def _read(self, coefficient: Tensor) -> tuple[Tensor, Eigenbasis]:
        grid = check_samples("Darcy2D", "the coefficient", self.domain, ("coefficient",), coefficient)
        return coefficient[:, 0].double(), Eigenbasis(grid, self.walls)

    @staticmethod
    def _require_positive(a: Tensor) -> None:
        bad = ~(a > 0).flatten(1).all(1)
        if bad.any():
            raise ValueError(f"Darcy2D got a coefficient that is not positive in sample {int(bad.nonzero()[0])}; -∇·(a∇u) needs a > 0")

    def _faces(self, a: Tensor, basis: Eigenbasis) -> tuple[Tensor, ...]:
        """Face coefficients over h², times the length of the face, (B, unknowns, one more along the axis)."""
        out = []
        for d, (axis, pair, h) in enumerate(zip(self.domain.axes, self.walls, basis.grid.spacing, strict=True)):
            across = [slice(None) if b == d else s for b, s in enumerate(basis.unknowns)]
            line, dim, n = a[(slice(None), *across)], d + 1, basis.grid.shape[d]
            inner = self.mean(line.narrow(dim, 0, n - 1), line.narrow(dim, 1, n - 1))
            first, last = line.narrow(dim, 0, 1), line.narrow(dim, n - 1, 1)
            if axis.periodic:
                low = high = self.mean(last, first)
            else:  # a cell's wall is half a spacing away; an endpoint's outermost face is already among the inner ones
                cell = axis.points == "cell"
                ends = {"neumann": torch.zeros_like, "dirichlet": lambda end, i=dim, c=cell: 2 * end if c else end.narrow(i, 0, 0)}
                low, high = ends[pair[0]](first), ends[pair[1]](last)
            out.append(torch.cat([low, inner, high], dim) * (basis.axis_weights(1 - d, a.device, a.dtype) / h**2))
        return tuple(out)

    def _load(self, a: Tensor, faces: tuple[Tensor, ...], basis: Eigenbasis) -> Tensor:
        """Right-hand side: the source, and the boundary values seen through the wall faces, (B, *unknowns)."""
        points = basis.grid.coordinates(a.device, a.dtype)
        f = evaluate(self.source, points, len(a), "Darcy2D", "source").expand(a.shape)
        rhs = f[(slice(None), *basis.unknowns)] * basis.weights(a.device, a.dtype)
        inside = points[(slice(None), *basis.unknowns)]
        for d, (axis, pair) in enumerate(zip(self.domain.axes, self.walls, strict=True)):
            n = basis.shape[d]
            for kind, end, value, i in ((pair[0], 0, axis.lower, 0), (pair[1], n, axis.upper, n - 1)):
                if kind == "dirichlet":
                    wall = inside.narrow(d + 1, i, 1).clone()
                    wall[d] = value
                    g = evaluate(self.boundary, wall, len(a), "Darcy2D", "boundary")
                    pad = [0, 0] * (1 - d) + [i, n - 1 - i]
                    rhs = rhs + F.pad(faces[d].narrow(d + 1, end, 1) * g, pad)
        return rhs

    def _extend(self, u: Tensor, basis: Eigenbasis) -> Tensor:
        """Add the samples on Dirichlet walls, (B, H, W)."""
        if basis.shape == basis.grid.shape:
            return u
        points = basis.grid.coordinates(u.device, u.dtype)
        full = evaluate(self.boundary, points, len(u), "Darcy2D", "boundary").expand(len(u), *basis.grid.shape).clone()
        full[(slice(None), *basis.unknowns)] = u
        return full


def _scaling(a: Tensor, basis: Eigenbasis) -> Tensor | None:
    """1/√a for the samples whose ln a varies in small steps, 1 for those with jumps, (B, *unknowns); None if all have.

    Small means at most 0.4 of the range of ln a between neighbors: jumps of two-phase fields are
    as large as their range on every grid, while the steps of a continuous field shrink with h.
    """
    log = a.log()
    step = torch.maximum(log.diff(dim=1).abs().flatten(1).amax(1), log.diff(dim=2).abs().flatten(1).amax(1))
    smooth = step <= 0.4 * (log.flatten(1).amax(1) - log.flatten(1).amin(1))
    if not smooth.any():
        return None
    return torch.where(smooth[:, None, None], a.rsqrt(), 1.0)[(slice(None), *basis.unknowns)]


def _differences(u: Tensor, d: int, basis: Eigenbasis) -> Tensor:
    """u[i] - u[i-1] across every face of axis d, with u = 0 beyond Dirichlet walls."""
    if basis.walls[d][0] == "periodic":
        padded = torch.cat([u.narrow(d + 1, basis.shape[d] - 1, 1), u, u.narrow(d + 1, 0, 1)], dim=d + 1)
    else:
        padded = F.pad(u, [0, 0] * (1 - d) + [1, 1])
    return padded.diff(dim=d + 1)


def _divergence(u: Tensor, faces: tuple[Tensor, ...], basis: Eigenbasis) -> Tensor:
    """Return A u = -Σ δ(c δu) on the unknowns."""
    rows, columns = ((c * _differences(u, d, basis)).diff(dim=d + 1) for d, c in enumerate(faces))
    return -(rows + columns)


@dataclass(frozen=True)
class _Problem:
    """What a solve needs beside its differentiable inputs."""

    basis: Eigenbasis
    scaling: Tensor | None
    tolerance: float
    max_iterations: int

    def solve(self, rhs: Tensor, faces: tuple[Tensor, ...]) -> Tensor:
        """Solve the batch; on a CPU in blocks that stay in its cache."""
        block = max(1, _BLOCK // rhs[0].numel()) if rhs.device.type == "cpu" else len(rhs)
        parts = []
        for i in range(0, len(rhs), block):
            part = slice(i, i + block)
            scaling = None if self.scaling is None else self.scaling[part]
            system = _System.of(self.basis, tuple(c[part] for c in faces), scaling)
            limits = {"tolerance": self.tolerance, "max_iterations": self.max_iterations}
            found = conjugate_gradients(system.apply, rhs[part] * system.scaling, system.precondition, **limits)
            parts.append((found.error, found.x * system.scaling))
        self._require_converged(torch.cat([error for error, _ in parts]))
        return torch.cat([x for _, x in parts])

    def _require_converged(self, error: Tensor) -> None:
        late = ~(error <= self.tolerance)
        if late.any():
            i = int(late.nonzero()[0])
            if not math.isfinite(float(error[i])):
                raise SolverError(f"Darcy2D met a source or boundary value that is not finite in sample {i}; give finite ones", sample=i)
            raise SolverError(
                f"Darcy2D did not converge in sample {i}: relative error {float(error[i]):.1e} after {self.max_iterations} iterations, "
                f"tolerance {self.tolerance:g}; lower the contrast of its coefficient, or raise max_iterations or tolerance",
                sample=i,
            )


@dataclass(frozen=True)
class _System:
    """The operator S A S as a five-point stencil, in place and fast, and its preconditioner L⁻¹.

    In the unknowns S⁻¹ u the preconditioner of A, S L⁻¹ S, needs no scaling of its own; the energy norm stays what it is.
    """

    basis: Eigenbasis
    diagonal: Tensor
    links: tuple[tuple[int, int, int, Tensor], ...]  # (dim, i, j, c): samples from i on and from j on along dim are linked by c
    scaling: Tensor

    @classmethod
    def of(cls, basis: Eigenbasis, faces: tuple[Tensor, ...], scaling: Tensor | None) -> _System:
        if basis.weighted:
            roots = basis.weights(faces[0].device, faces[0].dtype).rsqrt()
            scaling = roots if scaling is None else scaling * roots
        scaling = faces[0].new_ones(()) if scaling is None else scaling
        s, links = scaling.expand(len(faces[0]), *basis.shape), []
        rows, columns = (c.narrow(d + 1, 0, basis.shape[d]) + c.narrow(d + 1, 1, basis.shape[d]) for d, c in enumerate(faces))
        for d, c in enumerate(faces):
            n, dim = basis.shape[d], d + 1
            pairs = [(0, 1, n - 1, 1)] + ([(0, n - 1, 1, 0)] if basis.walls[d][0] == "periodic" else [])
            links += [(dim, i, j, c.narrow(dim, k, m) * s.narrow(dim, i, m) * s.narrow(dim, j, m)) for i, j, m, k in pairs]
        return cls(basis, (rows + columns) * scaling**2, tuple(links), scaling)

    def apply(self, p: Tensor) -> Tensor:
        q = self.diagonal * p
        for dim, i, j, c in self.links:
            m = c.shape[dim]
            q.narrow(dim, j, m).addcmul_(c, p.narrow(dim, i, m), value=-1)
            q.narrow(dim, i, m).addcmul_(c, p.narrow(dim, j, m), value=-1)
        return q

    def precondition(self, r: Tensor) -> Tensor:
        return self.basis.inverse_laplacian(r.float()).double()


class _Solve(torch.autograd.Function):
    """u = A(faces)⁻¹ rhs; its gradients take one more solve, as A is symmetric, and can be differentiated again."""

    @staticmethod
    def forward(ctx, problem, rhs, *faces):
        u = problem.solve(rhs, faces)
        ctx.problem = problem
        ctx.save_for_backward(u, *faces)
        return u

    @staticmethod
    def backward(ctx, grad):
        basis = ctx.problem.basis
        u, *faces = ctx.saved_tensors
        adjoint = _Solve.apply(ctx.problem, grad.contiguous(), *faces)
        grads = []
        for d, need in enumerate(ctx.needs_input_grad[2:]):
            if not need:
                grads.append(None)
                continue
            product = -_differences(u, d, basis) * _differences(adjoint, d, basis)
            if basis.walls[d][0] == "periodic":  # the face that closes the circle is stored twice
                i = torch.arange(basis.shape[d] + 1, device=u.device)
                half = 1 - 0.5 * ((i == 0) | (i == basis.shape[d])).to(u.dtype)
                product = product * half.reshape([-1 if b == d else 1 for b in range(2)])
            grads.append(product)
        return None, adjoint, *grads
