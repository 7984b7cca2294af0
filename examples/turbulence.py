"""Forced isotropic turbulence on [0, 2π)³: ∂u/∂t = u × ω - ∇(p + u²/2) + ν Δu + stirring, ∇·u = 0.

The stirring gives the modes up to wave number 2 what viscosity takes, so the energy stays while the small scales fill.
Prints the energy at the start and the end, and the Taylor-scale Reynolds number √(20/3) E / √(ν ε).
"""

import math

from opkernels import Domain
from opkernels.solvers import NavierStokes3D, RandomVelocity


def main() -> dict[str, float]:
    domain = Domain.periodic(*[2 * math.pi] * 3)
    solver = NavierStokes3D(domain, viscosity=0.07, stirring_wavenumber=2.0)
    u0 = RandomVelocity(domain, peak=2.0, cutoff=4.0, energy=1.0).sample(1, (24, 24, 24), seed=0)
    u = solver.solve(u0, [2.0], dt=0.1)[:, 0]
    before, after = solver.energy(u0).item(), solver.energy(u).item()
    dissipation = 2 * solver.viscosity * solver.enstrophy(u).item()
    reynolds = math.sqrt(20 / 3) * after / math.sqrt(solver.viscosity * dissipation)
    k, spectrum = solver.spectrum(u)
    print(f"energy: {before:.4f} -> {after:.4f}, Taylor-scale Reynolds number {reynolds:.1f}")
    print("spectrum:", ", ".join(f"{n:.0f}: {e:.1e}" for n, e in zip(k[1:8].tolist(), spectrum[0, 1:8].tolist(), strict=True)))
    return {"ratio": after / before, "reynolds": reynolds}


if __name__ == "__main__":
    main()
