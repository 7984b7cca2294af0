"""Smoothing kernels integrate to one, their derivatives agree, their widths are what is stated."""

import math

import pytest
import torch

from opkernels.solvers.sph.equations_of_state import IdealGas, Isothermal, Tait
from opkernels.solvers.sph.kernels import KERNELS, smoothing_kernel

SPHERE = {1: 2.0, 2: 2 * math.pi, 3: 4 * math.pi}  # area of the unit sphere


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_kernel(name, ndim):
    support = 0.7
    kernel = smoothing_kernel(name, ndim)
    r = (torch.arange(20000, dtype=torch.float64) + 0.5) * support / 20000
    shell = SPHERE[ndim] * r ** (ndim - 1) * support / 20000
    w = kernel.value(r, support)
    assert (w * shell).sum() == pytest.approx(1, abs=1e-7)
    # Dehnen and Aly: h is twice the standard deviation along one axis
    sigma = math.sqrt((w * r**2 * shell).sum() / ndim)
    assert support / kernel.ratio == pytest.approx(2 * sigma, rel=1e-5)
    assert kernel.smoothing_length(support) == support / kernel.ratio
    assert not kernel.value(torch.tensor([support, 2 * support]), support).any()
    assert not kernel.factor(torch.tensor([support, 2 * support]), support).any()
    # grad W = F x: F = W'(r) / r, from automatic differentiation, also through the support
    q = torch.cat([torch.tensor([1e-3, 0.2, 0.33, 0.34, 0.5, 0.6, 0.67, 0.99], dtype=torch.float64) * support]).requires_grad_()
    h = torch.full((8,), support, dtype=torch.float64, requires_grad=True)
    slope, by_support = torch.autograd.grad(kernel.value(q, h).sum(), (q, h))
    torch.testing.assert_close(kernel.factor(q, h) * q, slope, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kernel.support_derivative(q, h), by_support, rtol=1e-10, atol=1e-10)
    near = kernel.factor(torch.tensor([0.0, 1e-9], dtype=torch.float64), support)
    assert (near < 0).all()
    torch.testing.assert_close(near[0], near[1], rtol=1e-7, atol=0)


@pytest.mark.parametrize("eos", [Isothermal(3.0, 1.2), Tait(3.0, 1.2)])
def test_liquids(eos):
    rho = torch.tensor([1.0, 1.2, 1.3], dtype=torch.float64, requires_grad=True)
    p = eos.pressure(rho)
    torch.testing.assert_close(eos.density(p), rho)
    (slope,) = torch.autograd.grad(p.sum(), rho)
    torch.testing.assert_close(eos.speed_of_sound(rho) ** 2, slope)
    assert p[1] == 0


def test_ideal_gas():
    rho, u = torch.tensor([2.0], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    assert IdealGas(1.4).pressure(rho, u).item() == pytest.approx(2.4)
    assert IdealGas(1.4).speed_of_sound(rho, u).item() == pytest.approx(math.sqrt(1.4 * 2.4 / 2))


def test_energy_of_compression_is_the_work_of_pressure():
    eos = Isothermal(3.0, 1.2)
    rho = torch.tensor([0.8, 1.5], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(eos.specific_energy(rho).sum(), rho)
    torch.testing.assert_close(slope, eos.pressure(rho) / rho**2)


def test_unknown_kernel():
    with pytest.raises(ValueError, match="choose one of wendland2"):
        smoothing_kernel("gaussian", 2)
