"""Random fields: nesting, independence of batch and dtype, the stated spectrum, published conventions."""

import math

import numpy as np
import pytest
import torch

from opkernels import Axis, Domain
from opkernels.solvers import GaussianRandomField
from opkernels.solvers.random_fields import _philox, mode_normals


def test_generator_gives_the_published_words():
    """Known answers of Philox-4x32-10 from the Random123 distribution."""
    cases = [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, words in cases:
        found = _philox([np.array([word], dtype=np.uint64) for word in counter], key)
        assert tuple(int(word[0]) for word in found) == words


def test_normals_are_standard_and_independent():
    modes = np.stack(np.meshgrid(np.arange(-20, 21), np.arange(20), [0], indexing="ij"), axis=-1).reshape(-1, 3)
    x = mode_normals(modes, np.arange(400), seed=11)
    n = x.size
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / n)
    for other in (np.roll(x, 1, axis=2), np.roll(x, 1, axis=1), x[::-1], mode_normals(modes, np.arange(400), seed=12)):
        assert abs((x * other).mean()) < 4 / math.sqrt(n)


def full_spectrum(c, shape):
    """Return a dictionary from mode numbers to coefficients (all of them, both halves)."""
    u = torch.fft.irfftn(c, s=shape, norm="forward")
    u_hat = torch.fft.fftn(u, norm="forward")
    axes = [torch.fft.fftfreq(n, 1 / n).round().long() for n in shape]
    return {tuple(int(a[i]) for a, i in zip(axes, index, strict=True)): u_hat[index] for index in np.ndindex(*shape)}


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        ((64, 64), (96, 96)),
        ((64, 64), (128, 128)),
        ((64, 64), (256, 256)),
        ((63, 48), (96, 64)),
        ((31,), (64,)),
        ((8, 9, 10), (12, 16, 11)),
    ],
)
def test_coarse_field_is_the_truncation_of_the_fine_one(coarse, fine):
    field = GaussianRandomField(Domain.periodic(*[1.0, 2.0, 0.5][: len(coarse)]), alpha=2.5, tau=7.0)
    few = full_spectrum(field.coefficients(1, coarse, seed=3)[0], coarse)
    many = full_spectrum(field.coefficients(1, fine, seed=3)[0], fine)
    shared = [k for k in few if all(2 * abs(a) < n for a, n in zip(k, coarse, strict=True))]
    assert len(shared) == math.prod(n - (n % 2 == 0) for n in coarse)
    size = max(abs(few[k]) for k in shared)
    assert max(abs(few[k] - many[k]) for k in shared) < 1e-12 * size
    assert max((abs(few[k]) for k in few if k not in set(shared)), default=0.0) < 1e-12 * size


@pytest.mark.parametrize("points", ["cell", "endpoint", "node"])
def test_nested_between_walls(points):
    field = GaussianRandomField(Domain.box(1.0, 2.0, points=points), alpha=2.0, tau=3.0)
    coarse, fine = field.coefficients(2, (12, 9), seed=5), field.coefficients(2, (20, 33), seed=5)
    top = [n - (points == "endpoint") for n in (12, 9)]
    assert torch.equal(coarse[:, : top[0], : top[1]], fine[:, : top[0], : top[1]])
    assert coarse[:, top[0] :].abs().sum() == 0
    assert coarse[:, :, top[1] :].abs().sum() == 0
    # the field is the cosine sum written out
    u = field.sample(2, (12, 9), seed=5, dtype=torch.float64)[:, 0]
    x, y = field.domain.grid(12, 9).coordinates(dtype=torch.float64)
    truth = torch.zeros_like(u)
    for i in range(12):
        for j in range(9):
            norm = math.sqrt(2) ** ((i > 0) + (j > 0))
            truth += coarse[:, i, j].real[:, None, None] * norm * torch.cos(math.pi * i * x) * torch.cos(math.pi * j * y / 2)
    assert (u - truth).abs().max() < 1e-13


def test_shared_points_where_the_field_is_band_limited():
    """On node grids n and 3n, and with walls cell grids n and 3n, one spectrum gives one function."""
    cut = lambda k: (k < 40).double()  # noqa: E731
    for domain in (
        Domain.periodic(1.0, 1.0),
        Domain(tuple(Axis(-1, 1, periodic=True, points="cell") for _ in range(2))),
        Domain.box(1.0, 1.0),
    ):
        field = GaussianRandomField(domain, spectrum=cut)
        offset = 0 if domain.axes[0].offset == 0 else 1
        coarse = field.sample(1, (32, 32), seed=1, dtype=torch.float64)
        fine = field.sample(1, (96, 96), seed=1, dtype=torch.float64)[..., offset::3, offset::3]
        assert coarse.abs().max() > 1
        assert (coarse - fine).abs().max() < 1e-12 * coarse.abs().max()


def test_mixed_walls_and_periods_is_real_and_nested():
    domain = Domain((Axis(0, 1, periodic=True, points="node"), Axis(0, 1, points="endpoint"), Axis(0, 2, periodic=True, points="node")))
    field = GaussianRandomField(domain, alpha=3.0, tau=5.0)
    coarse, fine = (field.coefficients(3, shape, seed=2) for shape in ((8, 7, 8), (12, 13, 16)))
    assert torch.equal(coarse[:, :4, :6, :4], fine[:, :4, :6, :4])
    u = field.sample(2000, (8, 7, 8), seed=2, dtype=torch.float64)
    predicted = field.coefficients(2000, (8, 7, 8), seed=2).abs().square().mean(0)
    twice = torch.tensor([1.0] + [2.0] * 4, dtype=torch.float64)
    u_hat_power = (predicted * twice).sum()
    x = domain.grid(8, 7, 8).weights(dtype=torch.float64)
    assert abs(((u[:, 0] ** 2).mean(0) * x).sum() / x.sum() / u_hat_power - 1) < 0.02


def test_batch_equals_single_draws_in_any_dtype():
    field = GaussianRandomField(Domain.periodic(1.0, 1.0))
    batch = field.sample(8, (32, 48), seed=9, dtype=torch.float64)
    c = field.coefficients(8, (32, 48), seed=9)
    for i in range(8):
        assert torch.equal(c[i : i + 1], field.coefficients(1, (32, 48), seed=9, start=i))
        assert (batch[i] - field.sample(1, (32, 48), seed=9, start=i, dtype=torch.float64)[0]).abs().max() < 1e-15
    assert torch.equal(batch.float(), field.sample(8, (32, 48), seed=9, dtype=torch.float32))
    assert (batch[0] - batch[1]).abs().max() > 0.1
    assert (batch - field.sample(8, (32, 48), seed=10, dtype=torch.float64)).abs().max() > 0.1
    assert field.sample(0, (32, 48), seed=9).shape == (0, 1, 32, 48)


@pytest.mark.parametrize(("convention", "std"), [("torch2022", 0.185), ("paper2020", 0.262)])
def test_published_conventions(convention, std):
    field = GaussianRandomField(Domain.periodic(1.0, 1.0), alpha=2.5, tau=7.0, convention=convention)
    u = field.sample(2000, (64, 64), seed=0)
    assert abs(u.square().mean().sqrt().item() / std - 1) < 0.01
    assert u.mean(dim=(-2, -1)).abs().max() < 1e-6


def test_statistics_equal_the_stated_spectrum():
    """Mean |c|² of 2000 draws within 5 standard errors of λ for every mode, isotropically; real and imaginary parts alike."""
    field = GaussianRandomField(Domain.periodic(2.0, 3.0), alpha=2.5, tau=4.0, sigma=1.7)
    c = torch.fft.rfft2(field.sample(2000, (16, 18), seed=4, dtype=torch.float64)[:, 0], norm="forward")
    kx, ky = field.domain.grid(16, 18).wavenumbers(dtype=torch.float64)
    lam = 1.7**2 * (kx**2 + ky**2 + 16.0) ** -2.5
    inside = torch.ones_like(lam, dtype=torch.bool)
    inside[0, 0] = inside[8] = inside[:, 9] = False
    ratio = (c.abs() ** 2).mean(0)[inside] / lam[inside]
    assert (ratio - 1).abs().max() < 5 / math.sqrt(2000)
    assert abs(ratio.mean() - 1) < 5 / math.sqrt(2000 * ratio.numel())
    assert abs((c.real**2).mean(0)[inside].sum() / (c.imag**2).mean(0)[inside].sum() - 1) < 0.05
    assert c[:, ~inside].abs().max() < 1e-15


def test_darcy_field_has_the_published_size():
    u = GaussianRandomField(Domain.box(1.0, 1.0), alpha=2.0, tau=3.0).sample(1000, (64, 64), seed=0)
    assert abs(u.square().mean().sqrt().item() / 0.292 - 1) < 0.03


def test_burgers_field_has_the_published_size():
    u = GaussianRandomField(Domain.periodic(1.0), alpha=2.0, tau=5.0, sigma=25.0, mean=0.5).sample(4000, (256,), seed=0)
    assert abs((u - 0.5).square().mean().sqrt().item() / 0.594 - 1) < 0.02


def test_bad_input():
    domain = Domain.periodic(1.0, 1.0)
    with pytest.raises(ValueError, match="give alpha > 1"):
        GaussianRandomField(domain, alpha=1.0)
    with pytest.raises(ValueError, match="torch2022, paper2020"):
        GaussianRandomField(domain, convention="fno")
    with pytest.raises(ValueError, match="periodic domains only"):
        GaussianRandomField(Domain.box(1.0), convention="paper2020")
    with pytest.raises(ValueError, match="give the amplitude sigma"):
        GaussianRandomField(domain, tau=0.0)
    with pytest.raises(ValueError, match="tau=-1; it must be at least 0"):
        GaussianRandomField(domain, tau=-1.0)
    field = GaussianRandomField(domain)
    with pytest.raises(ValueError, match="2-D domain"):
        field.sample(1, (64,), seed=0)
    with pytest.raises(ValueError, match="got seed=-1"):
        field.sample(1, (64, 64), seed=-1)
    with pytest.raises(ValueError, match="got n=1.5"):
        field.sample(1.5, (64, 64), seed=0)
