"""A passive scalar: exact transport, budgets, the flow unmoved, batches, gradients, refusals."""

import math

import pytest
import torch
from helpers import band_limited

from opkernels import Domain
from opkernels.solvers import NavierStokes2D, RingForcing, ScalarTransport2D

DOMAIN = Domain.periodic(2 * math.pi, 4.0)


def fields(shape=(24, 31), batch=2):
    w, theta = band_limited(shape, batch=batch, k_max=4), 0.5 + band_limited(shape, batch=batch, seed=7, k_max=4)
    return torch.cat([w - w.mean(dim=(-2, -1), keepdim=True), theta], dim=1)


def test_a_uniform_wind_carries_it():
    flow = NavierStokes2D(DOMAIN, viscosity=0.1, mean_flow=(0.7, -0.3), method="ETDRK4")
    x, y = DOMAIN.grid(24, 31).coordinates(dtype=torch.float64)
    k = math.pi / 2
    scalar = (torch.cos(2 * x - k * y))[None, None]
    out = ScalarTransport2D(flow, diffusivity=0.05).solve(torch.cat([0 * scalar, scalar], dim=1), [1.5])[0, 0]
    truth = math.exp(-0.05 * (4 + k * k) * 1.5) * torch.cos(2 * (x - 0.7 * 1.5) - k * (y + 0.3 * 1.5))
    assert (out[1] - truth).abs().max() < 1e-5
    assert out[0].abs().max() < 1e-14  # round-off of the mean flow


def test_budgets_of_mean_and_variance():
    gradient, wind = (0.4, -1.1), (0.2, 0.5)
    flow = NavierStokes2D(DOMAIN, viscosity=0.1, mean_flow=wind)
    u = fields()
    rate = ScalarTransport2D(flow, diffusivity=0.05, mean_gradient=gradient).rhs(u)
    velocity, theta = flow.velocity(u[:, :1]), u[:, 1]
    source = velocity[:, 0] * gradient[0] + velocity[:, 1] * gradient[1]
    kx, ky = DOMAIN.grid(24, 31).wavenumbers(dtype=torch.float64)
    theta_x, theta_y = (torch.fft.irfft2(1j * k * torch.fft.rfft2(theta), s=(24, 31)) for k in (kx, ky))
    loss = 0.05 * (theta_x.square() + theta_y.square()).mean(dim=(1, 2))
    assert (rate[:, 1].mean(dim=(1, 2)) + source.mean(dim=(1, 2))).abs().max() < 1e-13
    assert (((theta * rate[:, 1] + theta * source).mean(dim=(1, 2)) + loss) / loss).abs().max() < 1e-11
    assert (rate[:, :1] - flow.rhs(u[:, :1])).abs().max() < 1e-13


def test_batch_stirring_and_gradient():
    stirring = RingForcing(rate=0.1, wavenumber=3.0, interval=0.05)
    viscosity = torch.tensor([0.1, 0.2], dtype=torch.float64)
    u0 = fields()
    both = ScalarTransport2D(NavierStokes2D(DOMAIN, viscosity=viscosity, stirring=stirring), diffusivity=0.05).solve(u0, [0.2], dt=0.02)
    flow = NavierStokes2D(DOMAIN, viscosity=0.1, stirring=stirring)
    one = ScalarTransport2D(flow, diffusivity=0.05).solve(u0[:1], [0.2], dt=0.02)
    assert (one - both[:1]).abs().max() < 1e-12
    assert (one[:, :, :1] - flow.solve(u0[:1, :1], [0.2], dt=0.02)).abs().max() < 1e-12
    small = fields((10, 9), 1).requires_grad_()
    plain = ScalarTransport2D(NavierStokes2D(DOMAIN, viscosity=0.1), diffusivity=0.05, mean_gradient=(1.0, 0.0))
    assert torch.autograd.gradcheck(lambda u: plain.solve(u, [0.1], dt=0.1), (small,), fast_mode=True)


def test_bad_input():
    with pytest.raises(ValueError, match="give a NavierStokes2D solver"):
        ScalarTransport2D(DOMAIN, diffusivity=0.1)
    with pytest.raises(ValueError, match="diffusivity=-1; it must be at least 0"):
        ScalarTransport2D(NavierStokes2D(DOMAIN, viscosity=0.1), diffusivity=-1)
    with pytest.raises(ValueError, match="mean_gradient has 2 values; give one number, for all samples"):
        ScalarTransport2D(NavierStokes2D(DOMAIN, viscosity=0.1), diffusivity=1.0, mean_gradient=(torch.ones(2), 0.0))
