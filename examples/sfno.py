"""A neural operator on the rotating sphere: SFNO learns shallow water on one grid and is asked on another.

∂Φ'/∂t = -div(Φ' u) - Φ̄ δ, ∂ζ/∂t = -div((ζ + f) u), ∂δ/∂t = curl((ζ + f) u) - Δ(Φ' + |u|²/2): geopotential, vorticity and
divergence of a layer of water on the Earth, in steps of three hours, from random flows in balance. Trained on 24 x 48 points; the
convolutions act on spherical harmonics up to degree 16. The weights belong to degrees, not to samples, so on 32 x 64 points it is the
same operator (arXiv:2306.03838). Prints the error of one step on new flows, mean over the three fields, on both grids.
"""

import torch

import opkernels as ok
from opkernels.models import SFNO
from opkernels.solvers import RandomShallowWater, ShallowWaterSphere


def main() -> dict[str, float]:
    earth, times = ok.Sphere(6.37122e6), [10800.0 * step for step in range(7)]
    start = RandomShallowWater(earth, speed=20.0, peak=4.0).sample(24, (32, 64), seed=0, dtype=torch.float32)
    flows = ShallowWaterSphere(earth, mean_depth=1e4, viscosity=3.5e37).solve(start, times)  # (sample, time, field, latitude, longitude)
    names = ("geopotential", "vorticity", "divergence")
    data, new = (
        ok.Trajectories.from_arrays(dict(zip(names, part.unbind(2), strict=True)), earth, times=times) for part in flows.split([20, 4])
    )

    torch.manual_seed(0)
    model = SFNO(earth, 3, 3, n_modes=16, hidden_channels=16, n_layers=3)
    surrogate = ok.fit(model, data.at(24, 48), epochs=8, batch_size=8, lr=1e-2, quiet=True)
    u, grid = new.read(), earth.grid(32, 64)
    errors = {"standing still": sum(ok.rel_l2(u[:, :-1, c].flatten(0, 1), u[:, 1:, c].flatten(0, 1), grid).item() for c in range(3)) / 3}
    for shape in ((24, 48), (32, 64)):
        u, grid = new.at(*shape).read(), earth.grid(*shape)
        predicted, truth = surrogate.predict(u[:, :-1].flatten(0, 1)), u[:, 1:].flatten(0, 1)
        errors[f"{shape[0]}x{shape[1]}"] = sum(ok.rel_l2(predicted[:, c], truth[:, c], grid).item() for c in range(3)) / 3
    print("error of one step: " + ", ".join(f"{name} {error:.4f}" for name, error in errors.items()))
    return errors


if __name__ == "__main__":
    main()
