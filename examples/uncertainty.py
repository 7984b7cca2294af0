"""How far to trust a surrogate: three seeds, their spread, and bands that hold the truth nine times of ten.

    ∂u/∂t + ∂(u²/2)/∂x = 0.05 ∂²u/∂x²   on [0, 2π), periodic, from random waves; the map from t = 0 to t = 0.5

Trained on 32 samples in space, calibrated there on flows held out, asked on 128. Prints the coverage there of the error bound and
of the band around the mean (0.9 is asked for), and how often the truth is off by less than one spread (three normal draws like it: 0.52).
"""

import math

import torch

import opkernels as ok
from opkernels.evaluation.uncertainty import measure_coverage
from opkernels.models import FNO
from opkernels.solvers import Burgers1D


def flows(domain, n_samples, seed):
    """Three waves each, solved on 128 samples."""
    draw = torch.randn(2, n_samples, 1, 3, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x, k = domain.grid(128).coordinates(dtype=torch.float64), torch.arange(1, 4, dtype=torch.float64)[:, None]
    u0 = (draw[0] / (2 * k) * torch.cos(k * x + 3 * draw[1])).sum(2)
    u = Burgers1D(domain, viscosity=0.05).solve(u0, times=[0.0, 0.5])
    return ok.Trajectories.from_arrays({"u": u[:, :, 0].float().numpy()}, domain, times=[0.0, 0.5])


def main() -> dict[str, float]:
    domain = ok.Domain.periodic(2 * math.pi)
    training, held_out, test = (flows(domain, n, seed) for seed, n in enumerate((48, 99, 200)))
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = FNO(domain, 1, 1, n_modes=(12,), hidden_channels=16, n_layers=2)
        members.append(ok.fit(model, training.at(32), epochs=25, lr=5e-3, batch_size=8, seed=seed, validation=0.0, quiet=True))
    ensemble = ok.Ensemble(members)

    calibration = ok.calibrate(ensemble, held_out.at(32))
    print(f"nine new flows of ten are predicted with an error below {calibration.error_bound(0.9).item():.1%}")
    found = measure_coverage(ensemble, calibration, test, [32, 128], coverage=0.9)
    norm, band = (found.coverage.sel(resolution="128", band=name).item() for name in ("norm", "pointwise"))

    x, truth = test.read()[:, 0], test.read()[:, 1]
    mean, spread = ensemble.predict(x)  # functions on 128 samples
    lower, upper = calibration.band(mean, spread, domain.grid(128), coverage=0.9)
    naive = ((mean - truth).abs() <= spread).double().mean().item()
    print(f"at 128, never seen: the bound holds for {norm:.1%}, the band for {band:.1%}, one spread alone at {naive:.1%} of the points")
    return {"norm": norm, "band": band, "naive": naive, "inside": ((lower <= truth) & (truth <= upper)).double().mean().item()}


if __name__ == "__main__":
    main()
