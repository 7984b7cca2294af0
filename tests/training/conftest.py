"""A problem with a known answer for the tests of training: u_t + c u_x = 0 on a periodic line or rectangle."""

import math

import numpy as np
import pytest
import torch

import opkernels as ok


def traveling_waves(samples=12, n_times=6, shape=(16, 10), speeds=False, seed=0, dt=0.05, names=("u",)):
    """Sums of two waves that travel along the first axis; with `speeds`, each sample its own c in [0.5, 2]."""
    rng = np.random.default_rng(seed)
    domain = ok.Domain.periodic(*(1.0 + a for a in range(len(shape))))
    x = domain.grid(*shape).coordinates(dtype=torch.float64)
    t = np.arange(n_times) * dt
    c = rng.uniform(0.5, 2.0, samples) if speeds else np.ones(samples)
    rest = sum((2 * math.pi * x[a] / domain.extent[a] for a in range(1, len(shape))), torch.zeros(()))
    fields = {}
    for name in names:
        u = 0
        for k in (1, 2):
            amplitude, phase = rng.normal(size=samples), rng.uniform(0, 2 * math.pi, samples)
            argument = 2 * math.pi * k * (x[0].numpy() - np.multiply.outer(np.multiply.outer(c, t), np.ones(shape))) + rest.numpy()
            u = u + _column(amplitude, shape) * np.cos(argument + _column(phase, shape))
        fields[name] = u.astype("float32")
    return ok.Trajectories.from_arrays(fields, domain, times=t, parameters={"c": c} if speeds else None)


def _column(values, shape):
    return values.reshape(-1, *[1] * (len(shape) + 1))


def small_fno(data, channels=None, seed=0, **options):
    torch.manual_seed(seed)
    channels = channels or len(data.fields)
    options = {"n_modes": (5,) * data.domain.ndim, "hidden_channels": 8, "n_layers": 1} | options
    return ok.models.FNO(data.domain, channels, options.pop("out_channels", channels), **options)


@pytest.fixture
def waves():
    return traveling_waves


@pytest.fixture
def fno():
    return small_fno


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.fixture
def same_weights():
    return assert_same_weights
