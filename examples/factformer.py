"""FactFormer: four frames of a decaying flow from one call, learned on one grid and asked on finer ones.

    ∂ω/∂t + u·∇ω = 0.02 Δω   on the torus [0, 2π)²,   frames 0.1 apart,   ω(t) -> ω(t + 0.1), ..., ω(t + 0.4)

Axial kernels made from the means of the field over the other axis; four steps in a latent space, each decoded to a frame. Prints
the relative L2 error of the four frames on new flows, at the training resolution and at three times it (0 is exact).
"""

import math

import torch

import opkernels as ok
from opkernels.models import FactFormer
from opkernels.solvers import GaussianRandomField, NavierStokes2D
from opkernels.training import Regime

DOMAIN = ok.Domain.periodic(2 * math.pi, 2 * math.pi)
TIMES = torch.linspace(0, 0.8, 9)


def flows(n_samples, n, seed):
    w0 = GaussianRandomField(DOMAIN, alpha=4, tau=3, sigma=60).sample(n_samples, (n, n), seed=seed)
    return NavierStokes2D(DOMAIN, viscosity=0.02).solve(w0, TIMES)


def main():
    w = flows(24, 32, seed=0)
    data = ok.Trajectories.from_arrays({"vorticity": w[:, :, 0]}, DOMAIN, times=TIMES)
    torch.manual_seed(0)
    model = FactFormer(DOMAIN, 1, 4, hidden_channels=24, n_layers=2, n_steps=4)
    regime = Regime("bundled", bundle=4)
    surrogate = ok.fit(model, data, epochs=8, batch_size=8, lr=8e-3, regime=regime, validation=0.0, quiet=True)
    errors = {}
    for n in (32, 96):
        w = flows(8, n, seed=1)
        errors[n] = float(ok.rel_l2(surrogate.rollout(w[:, 0], 4).flatten(0, 1), w[:, 1:5].flatten(0, 1)))
        still = float(ok.rel_l2(w[:, :1].expand(-1, 4, -1, -1, -1).flatten(0, 1), w[:, 1:5].flatten(0, 1)))
        print(f"{n} x {n}: relative L2 error {errors[n]:.4f} (standing still: {still:.4f})")
    return errors


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
