"""What `certify` found, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from opkernels.domains import Domain
from opkernels.sphere import Sphere

__all__ = ["Report"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """The answer to: is a module the same operator on every grid.

    Attributes
    ----------
    name : str
        Class of the module.
    domain : Domain or Sphere
    dtype : str
    reference : tuple of int
        Grid whose output, interpolated, the others are compared with.
    errors : dict of shape to float
        Relative L2 error (over the deviation of the reference from its mean) on each grid.
    allowed : dict of shape to float or None
        What would still pass; None: only reported.
    order : float or None
        Order fitted to the errors of equal-sided grids, where one was stated.
    equivariance : float or None
        Relative change when input and output are shifted by whole steps along the periodic axes (a sphere: turned about its axis);
        None where all axes have walls.
    blocks : int
        Number of parameter tensors.
    unused : tuple of str
        Those that do not change the output, or get no gradient.
    dead : dict of str to float
        Share of the entries of a tensor that get no gradient from random input, where above 10 %.
    findings : tuple of str
        Why it failed, one sentence each; empty where it passed.
    """

    name: str
    domain: Domain | Sphere
    dtype: str
    reference: Shape
    errors: dict[Shape, float]
    allowed: dict[Shape, float | None]
    order: float | None = None
    equivariance: float | None = None
    blocks: int = 0
    unused: tuple[str, ...] = ()
    dead: dict[str, float] = field(default_factory=dict)
    findings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every requirement was met."""
        return not self.findings

    def table(self) -> str:
        """Return the report as text, ready to print."""
        width = max(len(by(shape)) for shape in self.errors)
        lines = [
            f"{self.name} on {_described(self.domain)}, {self.dtype}",
            f"compared with its own output on {by(self.reference)}, interpolated",
            "",
            f"  {'grid':<{width}}  {'error':>8}  {'allowed':>8}",
        ]
        for shape, error in self.errors.items():
            bound = self.allowed[shape]
            verdict = "" if bound is None else "ok" if error <= bound else "TOO LARGE"
            lines.append(f"  {by(shape):<{width}}  {error:8.1e}  {'-' if bound is None else f'{bound:.1e}':>8}  {verdict}".rstrip())
        lines.append("")
        if self.order is not None:
            lines.append(f"  order of convergence   {self.order:.2f}")
        if self.equivariance is not None:
            lines.append(f"  shifted by grid steps  {self.equivariance:.1e}")
        used = "all used" if not self.unused else f"not used: {', '.join(self.unused)}"
        lines.append(f"  parameter tensors      {self.blocks}, {used}")
        lines += [f"  idle entries           {share:.0%} of {name}" for name, share in self.dead.items()]
        lines += ["", "PASSED: the same operator on every grid" if self.passed else "FAILED"]
        return "\n".join(lines + [f"  - {finding}" for finding in self.findings])


def by(shape: Shape) -> str:
    """Write a shape as 96x80."""
    return "x".join(map(str, shape))


def _described(domain: Domain | Sphere) -> str:
    if isinstance(domain, Sphere):
        return f"a sphere of radius {domain.radius:.4g}, {domain.points} points"
    sides = [f"{a.name} in [{a.lower:.4g}, {a.upper:.4g}] {'periodic' if a.periodic else 'walls'}" for a in domain.axes]
    return ", ".join(sides)
