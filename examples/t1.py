"""Transform once: choose modes from the targets, train on coefficients at 32 x 32, ask for 64, 128 and 256 points per axis.

∂ω/∂t + u·∇ω = νΔω on the unit torus, from a random field to its state two time units later, ν = 5e-3. The smallest box of
modes whose irreducible error is below half a percent is found before training; the data are transformed once; every epoch
moves every sample by a random vector, which in coefficients is a rotation. Prints the irreducible error, the error on new
flows at the training resolution, and how much it changes on finer grids (arXiv:2211.14453).
"""

import torch

import opkernels as ok
from opkernels.mode_selection import TargetModes
from opkernels.solvers import GaussianRandomField, NavierStokes2D
from opkernels.training import fit_coefficients


def main() -> dict[str, float]:
    domain = ok.Domain.periodic(1.0, 1.0)
    field = GaussianRandomField(domain, alpha=3.0, tau=5.0, sigma=60.0)
    start = field.sample(160, (32, 32), seed=0)
    states = NavierStokes2D(domain, viscosity=5e-3).solve(start, [0.0, 2.0])
    x, y = (states[:, t] / states[:128, t].std() for t in (0, 1))

    targets = TargetModes.of(y[:128], domain.grid(32, 32))
    modes = targets.threshold(5e-3)
    torch.manual_seed(0)
    model = ok.models.T1(domain, 1, 1, n_modes=modes, hidden_channels=32, n_layers=3)
    shifts = ((1.0, 0.0), (0.0, 1.0))
    fit = fit_coefficients(model, x[:128], y[:128], epochs=120, lr=8e-3, shifts=shifts, quiet=True)

    errors = {}
    for n in (32, 64, 128, 256):
        fine_x, fine_y = (ok.resample(u[128:], domain.grid(32, 32), domain.grid(n, n)) for u in (x, y))
        with torch.no_grad():
            errors[n] = ok.rel_l2(model(fine_x), fine_y).item()
    change = max(abs(errors[n] / errors[32] - 1) for n in errors)
    print(f"{modes.count} of {32 * 32} modes; irreducible error {fit.floor:.4f}; error on new flows {errors[32]:.4f}")
    print(f"on 64, 128 and 256 points per axis it changes by {100 * change:.4f} %")
    return {"floor": fit.floor, "error": errors[32], "change": change}


if __name__ == "__main__":
    main()
