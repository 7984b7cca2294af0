"""Local branches beside the spectral one: LocalNO and an FNO of as many weights on steepening Burgers waves.

∂u/∂t + ∂(u²/2)/∂x = ν∂²u/∂x², ν = 0.05, periodic, steps of 0.2 from random waves. Both keep 16 modes and are trained at 64 points;
fronts need more modes than that, which derivatives and local integrals make up for. Prints the errors of both on new waves at 64
and at 128 points, where LocalNO's lengths, being physical, are what they were (arXiv:2402.16845). The same waves were in view when the
defaults of LocalNO and this viscosity were chosen (docs/local_no.md): an illustration, not a test of which model is better.
"""

import math

import torch

import opkernels as ok
from opkernels.models import FNO, LocalNO
from opkernels.solvers import Burgers1D, GaussianRandomField


def main() -> dict[str, float]:
    domain = ok.Domain.periodic(2 * math.pi)
    start = GaussianRandomField(domain, alpha=4.0, tau=3.0, sigma=60.0).sample(60, (128,), seed=0)
    times = [0.2 * step for step in range(9)]
    waves = Burgers1D(domain, viscosity=0.05).solve(start, times)[:, :, 0]  # (sample, time, x)
    new = ok.Trajectories.from_arrays({"u": waves[48:]}, domain, times=times)
    data = ok.Trajectories.from_arrays({"u": waves[:48]}, domain, times=times).at(64)

    errors = {}
    for build, width in ((FNO, 22), (LocalNO, 19)):
        torch.manual_seed(0)
        model = build(domain, 1, 1, n_modes=(16,), hidden_channels=width)
        surrogate = ok.fit(model, data, epochs=6, batch_size=16, lr=3e-3, quiet=True)
        name, size = type(model).__name__, sum(p.numel() for p in model.parameters())
        for n in (64, 128):
            u = new.at(n).read()
            errors[f"{name} {n}"] = ok.rel_l2(surrogate.predict(u[:, :-1].flatten(0, 1)), u[:, 1:].flatten(0, 1)).mean().item()
        print(f"{name:8} {size} weights: error {errors[f'{name} 64']:.4f} at 64 points, {errors[f'{name} 128']:.4f} at 128")
    return errors


if __name__ == "__main__":
    main()
