"""Multi-grid patches: the identity, where windows look and what they see, seams, positions, refusals."""

import math

import pytest
import torch
from helpers import band_limited

from opkernels.domains import Axis, Domain
from opkernels.layers.multigrid import Patches

MIXED = Domain((Axis(0, 1, periodic=True, points="node"), Axis(-1, 3)))
CELLS = Domain((Axis(-1, 1, periodic=True, points="cell"), Axis(0, 3, periodic=True, points="node")))
DOMAINS = [
    (Domain.periodic(3.0), (64,)),
    (Domain.box(2.0), (48,)),
    (Domain.periodic(1.0, 1.0), (32, 32)),
    (MIXED, (32, 48)),
    (CELLS, (64, 16)),
    (Domain.periodic(1.0, 2.0, 3.0), (16, 16, 16)),
    (Domain.box(1.0, 2.0, 1.5), (16, 32, 16)),
]


def fitting(domain, levels):
    """Paddings of nothing, of an eighth of a patch on one axis only, and of a whole patch."""
    patch = [length / 2**levels for length in domain.extent]
    return 0.0, [patch[0] / 2, *[0.0] * (domain.ndim - 1)], patch


def stitched(patches, grid, x, channels):
    """Put the first channels of every window back together: the identity, patch by patch."""
    pyramid = patches.pyramid(x, grid)
    total = patches.beginning(x, channels, grid)
    for patch in patches.indices:
        total = patches.add(total, patches.windows(pyramid, grid, patch)[:, :channels], grid, patch)
    return patches.stitched(total, grid)


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize(("domain", "shape"), DOMAINS, ids=str)
def test_the_identity_patch_by_patch_is_the_identity(domain, shape, levels):
    x = torch.randn(2, 2, *shape, dtype=torch.float64)
    for padding in fitting(domain, levels)[2 if len(shape) == levels == 3 else 0 :]:  # 512 patches
        patches = Patches.of(domain, levels, padding)
        torch.testing.assert_close(stitched(patches, domain.grid(shape), x, 2), x, rtol=0, atol=2e-15)


def places(axis, n, levels, padding, level, i):
    """Where the samples of a window are: the formula of the module's docstring."""
    patch = axis.length / 2**levels
    width = patch + 2 * padding
    samples = round(width / axis.length * n)
    t = (torch.arange(samples, dtype=torch.float64) + axis.offset) / samples
    return axis.lower + (i + 0.5) * patch + 2**level * width * (t - 0.5)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(
    "axis",
    [Axis(0, 3, periodic=True, points="node"), Axis(-1, 1, periodic=True, points="cell"), Axis(-1, 1)],
    ids=["node", "cell", "walls"],
)
def test_windows_are_the_function_around_the_patch(axis, level):
    """Centered, at any number of samples (20 leave no whole number of coarse samples per patch), away from the closed ends."""
    levels, padding, n = 2, axis.length / 10, 20
    domain = Domain((axis,))
    wave = 2 * math.pi / axis.length

    def u(x):
        return torch.cos(wave * (x - axis.lower)) if not axis.periodic else torch.cos(wave * x + 0.3)  # mirrored at walls

    patches, grid = Patches.of(domain, levels, padding), domain.grid(n)
    pyramid = patches.pyramid(u(axis.coordinates(n, dtype=torch.float64))[None, None], grid)
    for i in range(4):
        window = patches.windows(pyramid, grid, (i,))[0, level]
        expected = u(places(axis, n, levels, padding, level, i))
        torch.testing.assert_close(window[1:-1], expected[1:-1], rtol=0, atol=1e-13)  # the padding of 2 samples closes on 1


def test_the_ends_of_a_window_close_smoothly_and_constants_stay():
    domain = Domain.periodic(1.0)
    patches, tails = Patches.of(domain, 2, 1 / 8), []
    for n in (64, 128, 256):
        grid = domain.grid(n)
        one = patches.windows(patches.pyramid(torch.ones(1, 1, n, dtype=torch.float64), grid), grid, (1,))
        torch.testing.assert_close(one, torch.ones_like(one), rtol=0, atol=1e-13)
        window = patches.windows(patches.pyramid(band_limited((n,)), grid), grid, (1,))
        coefficients = torch.fft.rfft(window, norm="forward").abs()[0]
        tails.append((coefficients[:, -coefficients.shape[-1] // 3 :].amax(1) / coefficients.amax(1)).max().item())
    # The smooth step has jumps in its third derivative: coefficients fall as k^-4, by 16 (without it, by 2).
    assert all(10 < coarse / fine < 25 for coarse, fine in zip(tails, tails[1:], strict=False)), tails


@pytest.mark.parametrize("domain", [Domain.periodic(1.0, 2.0), Domain.box(1.0, 2.0)], ids=["torus", "box"])
def test_coarse_windows_do_not_alias(domain):
    """A wave that n/2^l samples cannot carry leaves nothing in the window of level l; one that they carry stays."""
    n, levels = 64, 3
    patches, grid = Patches.of(domain, levels), domain.grid(n, n)
    half = 1 if all(axis.periodic for axis in domain.axes) else 0.5  # between walls: half waves
    x, y = grid.coordinates(dtype=torch.float64)
    for k in (6, 9, 17, 31):
        for wave in (torch.cos(2 * math.pi * half * k * x), torch.cos(math.pi * half * k * y)):
            energy = patches.windows(patches.pyramid(wave[None, None], grid), grid, (2, 5)).square().mean((0, 2, 3)).sqrt()
            for level in range(1, levels + 1):
                carried = n / 2**level / 2 if half == 1 else n / 2**level
                assert energy[level] > 0.3 if k < carried else energy[level] < 1e-3 * energy[0]


def test_windows_of_a_finer_grid_are_the_same_functions():
    domain = Domain.periodic(1.0, 2.0)
    patches = Patches.of(domain, 2, (0.125, 0.25))
    coarse, fine = (
        patches.windows(patches.pyramid(band_limited(shape), domain.grid(shape)), domain.grid(shape), (1, 3))
        for shape in ((32, 64), (96, 128))
    )
    torch.testing.assert_close(fine[..., ::3, ::2], coarse, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("domain", "shape"), [(CELLS, (64, 16)), (MIXED, (32, 48)), (Domain.box(1.0, 2.0, 1.5), (8, 16, 8))], ids=str)
def test_a_coarse_function_is_prolonged_to_the_samples_of_the_field(domain, shape):
    """Patch by patch, and put together: waves that n/4 samples carry, cosines between walls."""
    patches, grid = Patches.of(domain, 2, [length / 8 for length in domain.extent]), domain.grid(shape)

    def u(grid):
        axes = zip(domain.axes, grid.coordinates(dtype=torch.float64), strict=True)
        return math.prod(torch.cos((2 if a.periodic else 1) * math.pi * (x - a.lower) / a.length + 0.4 * a.periodic) for a, x in axes)

    coarse, total = patches.coarsest(grid), patches.beginning(u(grid)[None, None], 1, grid)
    assert coarse.shape == tuple(n // 4 for n in shape)
    for patch in patches.indices:
        total = patches.add(total, patches.prolonged(u(coarse)[None, None], grid, patch), grid, patch)
    torch.testing.assert_close(patches.stitched(total, grid)[0, 0], u(grid), rtol=0, atol=1e-13)


def test_a_field_shifted_by_a_patch_gives_the_next_patchs_windows():
    domain, shape = Domain.periodic(1.0, 1.0), (32, 64)
    patches, grid, x = Patches.of(domain, 2), domain.grid(shape), torch.randn(1, 2, *shape, dtype=torch.float64)
    here = patches.windows(patches.pyramid(x, grid), grid, (3, 1))
    there = patches.windows(patches.pyramid(x.roll((8, 16), (2, 3)), grid), grid, (0, 2))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-13)


def test_positions_are_those_in_the_whole_domain():
    patches, grid = Patches.of(MIXED, 2, (1 / 8, 0.5)), MIXED.grid(32, 64)
    kind = {"device": torch.device("cpu"), "dtype": torch.float64}
    got = patches.positions(grid, (2, 1), "harmonics", **kind)
    assert got.shape == (9, 16, 32)  # sin, cos, and the distance from the wall, on three levels
    for level in range(3):
        x, y = (places(axis, n, 2, p, level, i) for axis, n, p, i in zip(MIXED.axes, grid.shape, (1 / 8, 0.5), (2, 1), strict=True))
        expected = torch.stack([torch.sin(2 * math.pi * x), torch.cos(2 * math.pi * x)])
        torch.testing.assert_close(got[3 * level : 3 * level + 2, 3:-3, 0], expected[:, 3:-3], rtol=0, atol=1e-12)
        torch.testing.assert_close(got[3 * level + 2, 0, 5:-5], ((y + 1) / 4)[5:-5], rtol=0, atol=1e-12)
    other = patches.positions(grid, (0, 1), "harmonics", **kind)
    assert (got - other).abs().max() > 0.5
    assert patches.positions(grid, (0, 1), "walls", **kind).shape[0] == 3 and patches.positions(grid, (0, 1), None, **kind).shape[0] == 0


def test_windows_and_stitching_are_differentiable():
    domain = Domain((Axis(0, 1, periodic=True), Axis(0, 1)))
    patches, grid = Patches.of(domain, 1, 0.25), domain.grid(8, 8)
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: stitched(patches, grid, x, 1), (x,))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Patches.of(Domain.box(1.0, points="node"), 1), 'mirrors at walls, but axis x has points="node"'),
        (lambda: Patches.of(Domain.box(1.0, points="endpoint"), 1), "endpoint"),
        (lambda: Patches.of(Domain.periodic(1.0), 1, -0.1), "padding of -0.1"),
        (lambda: Patches.of(Domain.periodic(1.0), 1, math.nan), "padding of nan"),
        (lambda: Patches.of(Domain.periodic(1.0), 1, math.pi / 30), "simple fraction"),
        (lambda: Patches.of(Domain.periodic(1.0), 2, 0.5), "wider than its patches of 0.25"),
        (lambda: Patches.of(Domain.periodic(1.0), 5), "wider than its patches"),
        (lambda: Patches.of(Domain.periodic(1.0, 1.0), 1, (0.1,)), "one length, or one for each axis"),
        (
            lambda: Patches.of(Domain.periodic(1.0), 3).window(Domain.periodic(1.0).grid(36)),
            "36 samples on axis x for 8 patches.*multiple of 8",
        ),
        (lambda: Patches.of(Domain.periodic(1.0), 3).window(Domain.periodic(1.0).grid(8)), "8 patches of at least 2"),
        (lambda: Patches.of(Domain.periodic(1.0), 1).window(Domain.periodic(1.0).grid(24)), "1.5 of its 24 samples.*multiple of 16"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(build, message):
    with pytest.raises(ValueError, match=message):
        build()
