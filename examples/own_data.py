"""Your own data, as NumPy arrays and as an `xarray.Dataset`, to a trained surrogate.

    ∂u/∂t + ∂u/∂x = 0.01 ∂²u/∂x²   on [0, 2π), periodic: every Fourier mode is known for all times

Prints the relative L2 error of ten steps on a new sample at twice the resolution (0 is exact).
"""

import numpy as np
import torch
import xarray as xr

import opkernels as ok
from opkernels.models import FNO


def measure(n_samples, n, seed):  # stands for your data: (sample, time, x), and the coordinates
    rng, x, t = np.random.default_rng(seed), np.arange(n) * 2 * np.pi / n, np.arange(11) * 0.1
    a, phase = rng.normal(size=(2, n_samples, 1, 1, 4))
    k = np.arange(1, 5)
    waves = a / k * np.exp(-0.01 * k**2 * t[:, None, None]) * np.cos(k * (x[:, None] - t[:, None, None]) + 3 * phase)
    return waves.sum(-1).astype("float32"), x, t


def main():
    u, x, t = measure(24, 32, seed=0)
    domain = ok.Domain.periodic(2 * np.pi)
    data = ok.Trajectories.from_arrays({"u": u}, domain, times=t)  # NumPy arrays
    torch.manual_seed(0)
    model = FNO(domain, 1, 1, n_modes=(10,), hidden_channels=16, n_layers=2)
    surrogate = ok.fit(model, data, epochs=30, lr=5e-3, batch_size=32, quiet=True)

    dataset = xr.Dataset({"u": (("sample", "time", "x"), u)}, coords={"time": t, "x": x})
    again = ok.Trajectories.from_xarray(dataset, domain)  # the same from xarray
    assert torch.equal(again.read(), data.read())

    v, x, t = measure(4, 64, seed=1)
    new = xr.Dataset({"u": (("sample", "time", "x"), v)}, coords={"time": t, "x": x})
    forecast = surrogate.rollout(new.isel(time=0), steps=10)  # a Dataset in, a Dataset out
    return float(np.sqrt(((forecast.u - new.u) ** 2).sum() / (new.u.isel(time=slice(1, None)) ** 2).sum()))


if __name__ == "__main__":
    print(f"relative L2 error of ten steps at twice the training resolution: {main():.4f}")
