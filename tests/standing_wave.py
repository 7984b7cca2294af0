"""Waves of one frequency, u = A cos(w t) + B sin(w t): two frames determine the next, one does not.

u_{n+1} = 2 cos(w dt) u_n - u_{n-1}        at every point, for any A and B
"""

import math

import numpy as np
import torch
from helpers import band_limited
from torch import nn

import opkernels as ok
from opkernels.normalization import Normalization
from opkernels.surrogate import Surrogate

DT, FREQUENCY = 0.3, 2.0


def domain_of(ndim):
    return ok.Domain.periodic(*(1.0 + a for a in range(ndim)))


def wave(shape=(12,), samples=2, n_times=9, seed=0):
    """Samples and their negatives (2 * samples, n_times, *shape), so that means are zero; the same functions on every shape."""
    a, b = band_limited(shape, channels=2, batch=samples, k_max=2, seed=seed).unbind(1)
    phase = (FREQUENCY * DT * torch.arange(n_times, dtype=torch.float64)).reshape(-1, *[1] * len(shape))
    u = a[:, None] * phase.cos() + b[:, None] * phase.sin()
    return torch.cat([u, -u])


def wave_data(shape=(12,), samples=2, n_times=9, seed=0):
    u = wave(shape, samples, n_times, seed)
    return ok.Trajectories.from_arrays({"u": u.numpy()}, domain_of(len(shape)), times=DT * np.arange(n_times))


def two_step(bundle=1, window=2, stride=1):
    """Weights (bundle, window) of the exact step for frames stacked with the oldest first."""
    c = 2 * math.cos(FREQUENCY * DT * stride)
    rows = [torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)]
    for _ in range(bundle):
        rows.append(c * rows[-1] - rows[-2])
    return torch.cat([torch.zeros(bundle, window - 2, dtype=torch.float64), torch.stack(rows[2:])], dim=1)


class Mix(nn.Module):
    """A matrix between channels, at every point."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x):
        return torch.einsum("oc,bc...->bo...", self.weight.to(x), x)


def exact_surrogate(ndim=1, *, bundle=1, window=2, target="state", **options):
    """The step that is exact, with a normalization that is not the identity."""
    scale, names = 3.0, tuple("u" * bundle)
    weight = two_step(bundle, window)
    if target == "increment":
        weight[:, -1] -= 1
    inputs, outputs = Normalization((0.0,), (scale,), ("u",)), Normalization((0.0,) * bundle, (scale,) * bundle, names)
    return Surrogate(Mix(weight), domain_of(ndim), ("u",), ("u",), inputs, outputs, target, dt=DT, bundle=bundle, window=window, **options)
