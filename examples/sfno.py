"""A neural operator on the rotating sphere: SFNO learns shallow water on one grid and is asked on another.

∂Φ'/∂t = -div(Φ' u) - Φ̄ δ, ∂ζ/∂t = -div((ζ + f) u), ∂δ/∂t = curl((ζ + f) u) - Δ(Φ' + |u|²/2): a layer of water on the Earth, in
steps of three hours, from random flows in balance, of which geopotential and vorticity tell all but a hundredth. Trained on 24 x 48
points; the convolutions act on spherical harmonics up to degree 16. The weights belong to degrees, not to samples, so on 32 x 64
points it is the same operator (arXiv:2306.03838). Prints the error of one step on new flows, mean over both fields, on both grids.
"""

import torch

import opkernels as ok
from opkernels.models import SFNO
from opkernels.solvers import RandomShallowWater, ShallowWaterSphere


def main() -> dict[str, float]:
    earth, times = ok.Sphere(6.37122e6), [10800.0 * step for step in range(7)]
    start = RandomShallowWater(earth, speed=20.0, peak=4.0).sample(24, (32, 64), seed=0, dtype=torch.float32)
    flows = ShallowWaterSphere(earth, mean_depth=1e4, viscosity=3.5e37).solve(start, times)  # (sample, time, field, latitude, longitude)
    flows = ok.Trajectories.from_arrays({"geopotential": flows[:, :, 0], "vorticity": flows[:, :, 1]}, earth, times=times)
    data, new = flows.select(slice(0, 20)).at(24, 48), flows.select(slice(20, 24))

    torch.manual_seed(0)
    model = SFNO(earth, 2, 2, n_modes=16, hidden_channels=16, n_layers=3)
    surrogate = ok.fit(model, data, epochs=8, batch_size=8, lr=1e-2, quiet=True)
    errors = {}
    for shape in ((24, 48), (32, 64)):
        u, grid = new.at(*shape).read(), earth.grid(*shape)
        before, after = u[:, :-1].flatten(0, 1), u[:, 1:].flatten(0, 1)
        for name, got in ((f"{shape[0]}x{shape[1]}", surrogate.predict(before)), ("standing still", before)):
            errors[name] = sum(ok.rel_l2(got[:, c], after[:, c], grid).item() for c in range(2)) / 2
    print("error of one step: " + ", ".join(f"{name} {error:.4f}" for name, error in errors.items()))
    return errors


if __name__ == "__main__":
    main()
