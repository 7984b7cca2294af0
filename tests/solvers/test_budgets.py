"""Budgets of every periodic equation hold to round-off in its right-hand side: mass, momentum, energy."""

import math

import pytest
import torch
from helpers import band_limited

from opkernels import Domain
from opkernels.solvers import AllenCahn, Burgers1D, GrayScott, KortewegDeVries, KuramotoSivashinsky

LINE = Domain.periodic(3.0)


def mean(x):
    return x.flatten(1).mean(dim=1)


def slope(u, order=1):
    """Return the derivative along the only axis of LINE."""
    n = u.shape[-1]
    k = 2 * math.pi / 3.0 * torch.arange(n // 2 + 1, dtype=torch.float64)
    return torch.fft.irfft((1j * k) ** order * torch.fft.rfft(u), n=n)


@pytest.mark.parametrize("n", [48, 45])
def test_burgers_keeps_momentum_and_loses_energy_to_viscosity(n):
    u, f = 1 + band_limited((n,), batch=2, k_max=6), band_limited((n,), seed=2)
    f = f - f.mean()
    u_dot = Burgers1D(LINE, viscosity=0.03, forcing=f).rhs(u)
    loss = 0.03 * mean(slope(u).square())
    assert mean(u_dot).abs().max() < 1e-13
    assert ((mean(u * u_dot) + loss - mean(u * f)) / loss).abs().max() < 1e-12


@pytest.mark.parametrize("n", [48, 45])
def test_kuramoto_sivashinsky_feeds_long_waves_and_damps_short_ones(n):
    u = 0.4 + band_limited((n,), batch=2, k_max=6)
    u_dot = KuramotoSivashinsky(LINE).rhs(u)
    truth = -u * slope(u) - slope(u, 2) - slope(u, 4)  # u has a third of the modes: products are carried whole
    assert (u_dot - truth).norm() < 1e-12 * truth.norm()
    assert (u * slope(u)).norm() > 1e-5 * truth.norm()
    gain, loss = mean(slope(u).square()), mean(slope(u, 2).square())
    assert mean(u_dot).abs().max() < 1e-13 * loss.max()
    assert ((mean(u * u_dot) - gain + loss) / loss).abs().max() < 1e-12


@pytest.mark.parametrize("n", [48, 45])
def test_kdv_keeps_mass_momentum_and_energy(n):
    u = 0.4 + band_limited((n,), batch=2, k_max=6)
    u_dot = KortewegDeVries(LINE).rhs(u)
    size = mean(u_dot.square()).sqrt()
    assert size.min() > 1
    for gradient in (torch.ones_like(u), u, 3 * u**2 + slope(u, 2)):  # of ∫u, ∫u²/2, ∫(u³ - u_x²/2)
        assert (mean(gradient * u_dot) / (size * mean(gradient.square()).sqrt())).abs().max() < 1e-13


@pytest.mark.parametrize("shape", [(48,), (32, 33), (20, 21, 22)])
def test_allen_cahn_loses_the_energy_that_its_motion_says(shape):
    """dE/dt = -∫ (∂u/∂t)², with E as `energy` returns it."""
    solver = AllenCahn(Domain.periodic(*(1.0, 2.0, 1.5)[: len(shape)]), epsilon=0.1)
    u = 0.3 * band_limited(shape, batch=2, k_max=2)
    u_dot = solver.rhs(u)
    energy = [solver.energy(u + s * 1e-4 * u_dot) for s in (-2, -1, 1, 2)]
    rate = (energy[0] - 8 * energy[1] + 8 * energy[2] - energy[3]) / 12e-4
    truth = -solver.domain.measure * mean(u_dot.square())
    assert ((rate - truth) / truth).abs().max() < 1e-8


@pytest.mark.parametrize("shape", [(48,), (32, 33), (20, 21, 22)])
def test_gray_scott_counts_what_is_fed_and_removed(shape):
    """d⟨A + B⟩/dt = F (1 - ⟨A⟩) - (F + k) ⟨B⟩: the reaction only changes one into the other."""
    feed, kill = 0.04, 0.06
    a, b = 0.6 + 0.2 * band_limited(shape, batch=2), 0.3 + 0.1 * band_limited(shape, batch=2, seed=4)
    u_dot = GrayScott(Domain.periodic(*(1.0, 2.0, 1.5)[: len(shape)]), feed=feed, kill=kill, diffusivity=(1e-2, 5e-3)).rhs(
        torch.cat([a, b], 1)
    )
    assert u_dot.abs().max() > 0.01
    assert (mean(u_dot.sum(dim=1)) - feed * (1 - mean(a)) + (feed + kill) * mean(b)).abs().max() < 1e-14
