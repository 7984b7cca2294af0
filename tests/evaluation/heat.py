"""The heat equation on a torus: exact data, an exact step, and a step with a known error."""

import math

import numpy as np
import torch
from torch import nn

from opkernels import Domain
from opkernels.datasets.trajectories import Trajectories
from opkernels.evaluation.probes import random_function
from opkernels.normalization import Normalization
from opkernels.surrogate import Surrogate

TORUS = Domain.periodic(2 * math.pi, 4 * math.pi)


def heat(u, grid, time, diffusivity):
    kx, ky = grid.wavenumbers(dtype=u.dtype)
    return torch.fft.irfft2(torch.fft.rfft2(u) * torch.exp(-diffusivity * time * (kx**2 + ky**2)), s=u.shape[-2:])


def heat_data(shape=(32, 24), samples=3, times=5, dt=0.5, diffusivity=0.05, k_max=3):
    grid = TORUS.grid(shape)
    u = torch.cat([random_function(TORUS, 2, k_max=k_max, seed=i)(grid) for i in range(samples)])
    frames = torch.stack([heat(u, grid, dt * j, diffusivity) for j in range(times)], dim=1)
    fields = {name: frames[:, :, c].numpy() for c, name in enumerate(("a", "b"))}
    return Trajectories.from_arrays(fields, TORUS, times=dt * np.arange(times), parameters={"nu": np.full(samples, diffusivity)})


def unlike_data(**options):
    """Return the same with fields of unlike units: a in 1e4, b in 1e-5."""
    data = heat_data(**options)
    fields = {name: scale * np.asarray(data.fields[name]) for name, scale in (("a", 1e4), ("b", 1e-5))}
    return Trajectories.from_arrays(fields, TORUS, times=data.times)


class HeatStep(nn.Module):
    """The exact step times 1 + error; the decay by -1 models a run that explodes."""

    def __init__(self, error=0.0, dt=0.5, diffusivity=0.05):
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error, dtype=torch.float64))
        self.dt, self.diffusivity = dt, diffusivity

    def forward(self, x, parameters=None, grid=None, output_shape=None):
        return (1 + self.error) * heat(x, grid, self.dt, self.diffusivity)


def heat_surrogate(model=None, training_shape=(16, 12), dt=0.5, **options):
    one = Normalization((0.0, 0.0), (1.0, 1.0), ("a", "b"))
    model = HeatStep(0.02, dt) if model is None else model
    return Surrogate(model, TORUS, ("a", "b"), ("a", "b"), one, one, dt=dt, training_shape=training_shape, **options)
