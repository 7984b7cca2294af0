"""The wave equation on triangular meshes: ρ u_tt + γ u_t = ∇·(ρc² ∇u) + s, assembled by scikit-fem.

The counterpart of `Wave2D` for domains that are no box: P1 elements, lumped masses, leapfrog, with the
stiffness as a sparse matrix. scikit-fem is an extra (``pip install opkernels[fem]``); it is asked for the
matrices only, once per solver.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opkernels.solvers.checks import check_values, full_precision, requested_times, require_finite
from opkernels.solvers.wave import leapfrog

__all__ = ["MeshWave2D"]

_KINDS = ("dirichlet", "neumann", "absorbing")


@dataclass(frozen=True)
class _Matrices:
    """What `leapfrog` needs of a mesh: a sparse K and lumped M, C (N,)."""

    sparse: Tensor
    mass: Tensor
    drag: Tensor | None
    free: Tensor
    area: Tensor

    def stiffness(self, u: Tensor) -> Tensor:
        return (self.sparse @ u.mT).mT

    def to(self, like: Tensor) -> _Matrices:
        names = ("sparse", "mass", "drag", "free", "area")
        return replace(self, **{name: None if getattr(self, name) is None else getattr(self, name).to(like) for name in names})


class MeshWave2D:
    """Solve ρ u_tt + γ u_t = ∇·(ρc² ∇u) + s at the vertices of a triangular mesh.

    Parameters
    ----------
    mesh : skfem.MeshTri
        From scikit-fem, which also reads the usual mesh files.
    speed, density, damping : number or function of (x, y) NumPy arrays
        c > 0, ρ > 0, γ >= 0, read at the quadrature points.
    source : function of (x, y) or (x, y, t) tensors (N,), or None
        s at the vertices.
    walls : {"dirichlet", "neumann", "absorbing"}, or a mapping from names of the mesh's boundaries
        A kind for the whole boundary, or for each named part; parts not named are "neumann".

    Attributes
    ----------
    positions : Tensor, (N, 2)
        The vertices.
    stable_step : float
        Longest step of leapfrog, bounded element by element: twice the inverse of the largest
        frequency of a single triangle.

    Raises
    ------
    ValueError
        If scikit-fem is missing, the mesh is not triangular, a kind or a boundary is unknown, or a
        parameter is out of range; in `solve`, if shapes or times do not fit or dt is above `stable_step`.

    Notes
    -----
    One bad triangle sets the step for all: look at `stable_step` against the mean edge over c. Good
    values: ten vertices per wavelength, triangles without angles below 20 degrees.

    References
    ----------
    T. Gustafsson, G. D. McBain, scikit-fem: a Python package for finite element assembly, J. Open Source
    Software 5 (2020) 2369, doi:10.21105/joss.02369.

    Examples
    --------
    >>> import skfem, torch
    >>> solver = MeshWave2D(skfem.MeshTri.init_circle(4), speed=2.0)
    >>> x, y = solver.positions.T
    >>> u = torch.exp(-20 * (x**2 + y**2))
    >>> solver.solve(torch.stack([u, 0 * u])[None], times=[0.2, 0.4]).shape[:3]
    torch.Size([1, 2, 2])
    """

    fields = ("displacement", "velocity")

    def __init__(
        self,
        mesh,
        *,
        speed: float | Callable = 1.0,
        density: float | Callable = 1.0,
        damping: float | Callable = 0.0,
        source: Callable[..., Tensor] | None = None,
        walls: str | Mapping[str, str] = "dirichlet",
    ):
        try:
            import skfem
        except ImportError:
            raise ValueError("MeshWave2D needs scikit-fem to assemble its matrices; install it with pip install opkernels[fem]") from None
        if not isinstance(mesh, skfem.MeshTri):
            raise ValueError(f"MeshWave2D got a mesh of type {type(mesh).__name__}; give a skfem.MeshTri")
        self.source = source
        self.positions = torch.as_tensor(mesh.p.T.copy())
        self._matrices, self.stable_step = _assemble(skfem, mesh, (speed, density, damping), _kinds(mesh, walls))

    def solve(self, u0: Tensor, times: Sequence[float] | Tensor, *, t0: float = 0.0, dt: float | None = None) -> Tensor:
        """Return displacement and velocity at each of `times`, (B, T, 2, N), from u0 (B, 2, N) at t0.

        `dt` is the longest step, used as it is (each way to the next time is split evenly); None takes 0.9 of `stable_step`.
        """
        self._check(u0)
        times = requested_times("MeshWave2D", times, t0, dt)
        if dt is not None and dt > self.stable_step:
            raise ValueError(f"MeshWave2D got dt={dt:.4g}, above leapfrog's stable step {self.stable_step:.4g} on this mesh; lower it")
        dt = 0.9 * self.stable_step if dt is None else dt
        matrices, x, y = self._matrices.to(u0), *self.positions.to(u0).unbind(1)

        def load(t: float) -> Tensor | None:
            return None if self.source is None else (matrices.area * self.source(x, y, t))[None]

        state, clock, out = u0, t0, []
        with full_precision(u0):
            for time in times:
                if time > clock:
                    steps = math.ceil((time - clock) / dt - 1e-9)
                    u, v = state.unbind(1)
                    u, v = leapfrog(matrices, load, u, v * matrices.free, clock, (time - clock) / steps, steps)
                    state, clock = torch.stack([u, v], dim=1), time
                out.append(state)
        return require_finite("MeshWave2D", torch.stack(out, dim=1), times, "the initial state or the source is not finite there")

    def _check(self, u0: Tensor) -> None:
        expected = f"(batch, 2, {len(self.positions)}) with channels {', '.join(self.fields)}"
        if not isinstance(u0, Tensor) or u0.ndim != 3 or tuple(u0.shape[1:]) != (2, len(self.positions)) or not len(u0):
            got = tuple(u0.shape) if isinstance(u0, Tensor) else type(u0).__name__
            raise ValueError(f"MeshWave2D.solve got u0 {got}; expected a tensor {expected}")
        check_values("MeshWave2D", "u0", u0)

    def energy(self, state: Tensor, *, dt: float | None = None) -> Tensor:
        """Return ½ v·M v + ½ u·K u of states (B, 2, N), less (dt²/8) a·M a where `dt` is given: what leapfrog conserves."""
        matrices = self._matrices.to(state)
        u, v = state.unbind(1)
        force = matrices.stiffness(u)
        density = v.square() * matrices.mass + u * force
        if dt is not None:
            density = density - dt**2 / 4 * (force * matrices.free).square() / matrices.mass
        return density.sum(1) / 2


def _kinds(mesh, walls: str | Mapping[str, str]) -> dict[str, np.ndarray]:
    """Facets of each kind of wall."""
    parts: dict[str | None, tuple[str, np.ndarray]] = {None: (walls, mesh.boundary_facets())} if isinstance(walls, str) else {}
    if not isinstance(walls, str):
        for name, kind in walls.items():
            if name not in (mesh.boundaries or {}):
                known = ", ".join(mesh.boundaries or {}) or "none"
                raise ValueError(f"MeshWave2D got walls on {name!r}, but the mesh names {known}; use mesh.with_boundaries")
            parts[name] = (kind, np.asarray(mesh.boundaries[name]))
    for kind, _ in parts.values():
        if kind not in _KINDS:
            raise ValueError(f"MeshWave2D got walls {kind!r}; choose from {', '.join(_KINDS)}")
    return {k: np.concatenate([np.zeros(0, int), *(f for kind, f in parts.values() if kind == k)]) for k in _KINDS}


def _assemble(skfem, mesh, parameters: tuple, facets: dict[str, np.ndarray]) -> tuple[_Matrices, float]:
    basis = skfem.Basis(mesh, skfem.ElementTriP1())
    values: list[Any] = [p if callable(p) else lambda x, y, p=p: np.full_like(x, p) for p in parameters]
    c, rho, gamma = (np.asarray(value(*np.asarray(basis.global_coordinates()))) for value in values)
    for name, field, good in (("speed", c, c > 0), ("density", rho, rho > 0), ("damping", gamma, gamma >= 0)):
        if not (good & np.isfinite(field)).all():
            raise ValueError(
                f"MeshWave2D got a {name} that is not {'at least 0' if name == 'damping' else 'positive'} and finite everywhere"
            )

    @skfem.BilinearForm
    def stretch(u, v, w):
        return w.mu * (u.grad[0] * v.grad[0] + u.grad[1] * v.grad[1])

    @skfem.LinearForm
    def weigh(v, w):
        return w.weight * v

    stiffness = stretch.assemble(basis, mu=rho * c**2).tocsr()
    mass, drag, area = (weigh.assemble(basis, weight=weight) for weight in (rho, gamma, np.ones_like(rho)))
    if len(facets["absorbing"]):
        wall = skfem.FacetBasis(mesh, skfem.ElementTriP1(), facets=facets["absorbing"])
        x = np.asarray(wall.global_coordinates())
        drag = drag + weigh.assemble(wall, weight=values[0](*x) * values[1](*x))
    free = np.ones(mesh.p.shape[1])
    free[np.unique(mesh.facets[:, facets["dirichlet"]])] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse tensors are in beta, and that their indices are not checked
        sparse = torch.sparse_csr_tensor(stiffness.indptr, stiffness.indices, stiffness.data, size=stiffness.shape, dtype=torch.float64)
    mass, free, area = (torch.as_tensor(x) for x in (mass, free, area))
    return _Matrices(sparse, mass, torch.as_tensor(drag) if drag.any() else None, free, area), _stable_step(mesh, c, rho)


def _stable_step(mesh, c: np.ndarray, rho: np.ndarray) -> float:
    """Return 2/ω for the fastest single triangle with its lumped mass: its largest stiffness and smallest density."""
    a, b, d = (mesh.p[:, mesh.t[i]] for i in range(3))
    sides = np.stack([d - b, a - d, b - a])  # opposite to each corner
    area = np.abs(sides[0, 0] * sides[1, 1] - sides[0, 1] * sides[1, 0]) / 2
    local = np.einsum("ixt,jxt->tij", sides, sides) / (4 * area)[:, None, None]
    spread = (rho * c**2).max(1) / rho.min(1)
    return float(2 / np.sqrt((np.linalg.eigvalsh(local)[:, -1] * 3 * spread / area).max()))
