"""Waves, bumps, turbulent vorticity and band-limited noise: one function on every grid, the stated laws, refusals."""

import math

import numpy as np
import pytest
import torch

from opkernels import Axis, Domain
from opkernels.solvers import GaussianRandomField, NavierStokes2D, RandomBumps, RandomVorticity, RandomWaves
from opkernels.solvers.random_fields import mode_normals, mode_uniforms

TORUS = Domain.periodic(2 * math.pi, 4 * math.pi)
LINE = Domain.periodic(5.0)
WALLS = Domain((Axis(-1.0, 1.0, points="endpoint"), Axis(0.0, 3.0, periodic=True, points="node")))


@pytest.mark.parametrize(
    "field",
    [
        RandomWaves(LINE, numbers=(1, 8)),
        RandomWaves(Domain.periodic(1.0, 2.0, 3.0), count=3, numbers=(0, 2)),
        RandomBumps(LINE, count=(1, 6), width=(0.2, 0.4), mean=1.0),
        RandomBumps(WALLS, count=3, width=0.1),
    ],
    ids=["waves 1-D", "waves 3-D", "bumps 1-D", "bumps between walls"],
)
def test_closed_forms_are_one_function_on_every_grid_and_in_every_batch(field):
    coarse = [11, 12, 9][: field.domain.ndim]
    fine = [axis.refined(n, 2) for axis, n in zip(field.domain.axes, coarse, strict=True)]
    u = field.sample(5, tuple(coarse), seed=3, dtype=torch.float64)
    v = field.sample(5, tuple(fine), seed=3, dtype=torch.float64)[(..., *[slice(None, None, 2)] * field.domain.ndim)]
    assert u.std() > 0.05
    torch.testing.assert_close(u, v, rtol=0, atol=1e-12)
    for i in range(5):
        torch.testing.assert_close(field.sample(1, tuple(coarse), seed=3, start=i, dtype=torch.float64)[0], u[i], rtol=0, atol=1e-14)
    assert (field.sample(5, tuple(coarse), seed=4, dtype=torch.float64) - u).abs().max() > 0.05
    assert field.sample(2, tuple(coarse), seed=3, dtype=torch.float32).dtype == torch.float32


def test_waves_have_their_law():
    """Amplitudes uniform in ±1/2 have the variance 1/12, a sine half of that: u has the variance count/24, shared by the numbers."""
    u = RandomWaves(LINE, count=10, numbers=(1, 3)).sample(4000, (16,), seed=0, dtype=torch.float64)
    power = torch.fft.rfft(u[:, 0], norm="forward").abs().square().mean(0)
    expected = torch.zeros(9, dtype=torch.float64)
    expected[1:4] = 10 / 24 / 2 / 3
    torch.testing.assert_close(power, expected, rtol=0.06, atol=1e-25)


def test_bumps_have_their_height_width_and_number():
    line = Domain((Axis(0.0, 1.0, points="endpoint"),))
    u = RandomBumps(line, count=1, width=0.03, amplitude=(0.5, 2.0)).sample(500, (2001,), seed=0, dtype=torch.float64)[:, 0]
    top, place = u.max(dim=1)
    inner = (place > 200) & (place < 1800)
    assert top.min() > 0.5 and top.max() <= 2.0 and abs(top.mean() - 1.25) < 0.06
    torch.testing.assert_close(u.sum(1)[inner] / 2000, top[inner] * 0.03 * math.sqrt(2 * math.pi), rtol=1e-3, atol=0)
    many = RandomBumps(LINE, count=(2, 4), width=0.01).sample(600, (4000,), seed=0, dtype=torch.float64)[:, 0]
    counts = (many.sum(1) * 5 / 4000 / (0.01 * math.sqrt(2 * math.pi))).round().long()
    assert counts.unique().tolist() == [2, 3, 4]
    assert ((counts.bincount() / 600)[2:] - 1 / 3).abs().max() < 0.08


@pytest.mark.parametrize("spectrum", ["mcwilliams", "von_karman", "log_normal"])
def test_turbulent_vorticity_has_its_energy_and_spectrum(spectrum):
    field = RandomVorticity(TORUS, spectrum=spectrum, peak=4.0, energy=3.0)
    solver = NavierStokes2D(TORUS, viscosity=1e-3)
    w = field.sample(60, (96, 192), seed=0, dtype=torch.float64)
    k, energy = solver.spectrum(w)
    energy = energy.mean(0)
    assert abs(energy.sum() / 3.0 - 1) < (0.03 if spectrum == "log_normal" else 0.12)  # rough ones have a share beyond this grid
    smooth = energy[1:-1] + (energy[2:] + energy[:-2]) / 2  # shells hold whole numbers of modes
    assert abs(k[1 + smooth.argmax()] - (3.53 if spectrum == "log_normal" else 4.0)) <= 0.5
    q = torch.tensor([2.0, 4.0], dtype=torch.float64)
    shape = {
        "mcwilliams": q**2 / (1 + q**4),
        "von_karman": q**4 / (1 + 2.4 * q**2) ** (17 / 6),
        "log_normal": torch.exp(-4 * (q.log() - 0.25) ** 2) / q**3,
    }[spectrum]
    near = [energy[(k - 4 * x).abs() < 1.3].mean() for x in q.tolist()]
    assert abs((near[0] / near[1] / (shape[0] / shape[1])).log()) < 0.15
    few, many = field.coefficients(2, (32, 32), seed=1), field.coefficients(2, (64, 96), seed=1)
    assert torch.equal(few[:, :16, :16], many[:, :16, :16])


def test_white_noise_up_to_a_cutoff():
    """PDEBench's start: every cosine mode of the 128 x 128 cells of [-1, 1]² has the variance 1/128²."""
    box = Domain((Axis(-1, 1), Axis(-1, 1)))
    field = GaussianRandomField(box, alpha=0.0, tau=0.0, sigma=1 / 128, cutoff=math.pi / 2 * 40)
    c = field.coefficients(200, (64, 64), seed=0).real
    radius = torch.hypot(*torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"))
    assert c[:, radius > 40.5].abs().max() == 0
    inside = (radius > 0) & (radius < 39.5)
    assert abs((c[:, inside].square().mean() * 128**2).item() - 1) < 0.01
    with pytest.raises(ValueError, match="give alpha > 1 or a cutoff"):
        GaussianRandomField(box, alpha=0.0, sigma=1.0)


def test_normals_are_made_of_the_uniforms():
    modes, samples = np.array([[1, 2, 3], [4, 5, 6]]), np.arange(3)
    u, v = mode_uniforms(modes, samples, seed=7)
    assert min(u.min(), v.min()) >= 0 and max(u.max(), v.max()) < 1
    np.testing.assert_allclose(mode_normals(modes, samples, seed=7)[0], np.sqrt(-2 * np.log(u + 2.0**-53)) * np.cos(2 * np.pi * v))
    many = mode_uniforms(np.array([[j, 0, 0] for j in range(400)]), np.arange(50), seed=1)
    assert abs(many.mean() - 0.5) < 4 / math.sqrt(12 * many.size) and abs(many.var() - 1 / 12) < 1e-3


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: RandomWaves(WALLS), "axis x has walls"),
        (lambda: RandomWaves((1.0,)), "give a Domain"),
        (lambda: RandomWaves(LINE, count=0), "got count=.*whole numbers of at least 1"),
        (lambda: RandomWaves(LINE, numbers=(3, 1)), "got numbers=.*the ends .low, high. of a range"),
        (lambda: RandomWaves(LINE, numbers=(0.5, 1)), "got numbers=.*whole numbers of at least 0"),
        (lambda: RandomWaves(LINE, amplitude=-1), "amplitude=-1; it must be at least 0"),
        (lambda: RandomWaves(LINE).sample(1, (8,), seed=-1), "RandomWaves.sample got seed=-1"),
        (lambda: RandomBumps(LINE, width=(0.0, 1.0)), "give positive widths"),
        (lambda: RandomBumps(LINE, amplitude=(1.0, math.nan)), "amplitude=nan; it must be finite"),
        (lambda: RandomBumps(LINE, count=(1, 2.5)), "whole numbers of at least 1"),
        (lambda: RandomVorticity(LINE), "give a Domain of two periodic axes"),
        (lambda: RandomVorticity(WALLS), "axis x has walls"),
        (lambda: RandomVorticity(TORUS, spectrum="kolmogorov"), "choose one of mcwilliams, von_karman, log_normal"),
        (lambda: RandomVorticity(TORUS, peak=0.0), "peak=0; it must be greater than 0"),
        (lambda: RandomVorticity(TORUS, peak=0.001), "below the smallest wave number 0.5"),
    ],
)
def test_refusals(build, told):
    with pytest.raises(ValueError, match=told):
        build()
