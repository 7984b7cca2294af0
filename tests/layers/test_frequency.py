"""FrequencyBlock: its formula, variance at the start, triangular mixing, low rank, refusals."""

import numpy as np
import pytest
import torch

from opkernels.bases import Basis
from opkernels.layers.channel_mlp import activation_named
from opkernels.layers.frequency import SECOND_MOMENTS, ChannelMixing, FrequencyBlock, Mixing, ModeMixing
from opkernels.layers.frequency_unet import FrequencyUNet

BASES = [Basis("fourier", 7), Basis("cosine", 4), Basis("legendre", 3)]


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"mixing": Mixing("low_rank", 2)}, {"mixing": Mixing(causal=True)}, {"activation": "sin", "n_embedding": 3}]
)
def test_the_block_is_its_formula(d, options):
    torch.manual_seed(0)
    block = FrequencyBlock(3, BASES[:d], **options).double()
    z = torch.randn(2, 3, *[b.size for b in BASES[:d]], dtype=torch.float64)
    embedding = torch.randn(2, 3, dtype=torch.float64)
    mixing = block.channel_mixing
    weight = mixing.weight if mixing.modes is None else torch.einsum("mr,rio->mio", mixing.modes, mixing.weight)
    y = torch.einsum("bim,mio->bom", z.flatten(2), weight).view(z.shape)
    if block.film is not None:
        scale, shift = block.film(embedding)[(...,) + (None,) * d].chunk(2, 1)
        y = (1 + scale) * y + shift
    y = block.activation(y)
    for a, matrix in enumerate(block.mode_mixing.matrices):
        y = torch.einsum("cpk,bc...k->bc...p", matrix, y.movedim(2 + a, -1)).movedim(-1, 2 + a)
    torch.testing.assert_close(block(z, embedding), z + y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("sizes", [(31,), (16, 11), (8, 5, 7)])
@pytest.mark.parametrize("kind", ["dense", "low_rank", "amortized", "modes", "causal", "amortized modes"])
def test_the_start_multiplies_variance_by_the_gain(sizes, kind):
    """The variance of n white samples is preserved by gain = n/m: in the mean over weights and inputs, within 0.05."""
    torch.manual_seed(0)
    bases = [Basis(kind, m) for kind, m in zip(("cosine", "legendre", "sine"), sizes, strict=False)]
    count, samples = int(np.prod(sizes)), 4 * int(np.prod(sizes))
    gain, channels = samples / count, 12
    ratios = []
    for _ in range(40):
        if kind in ("modes", "causal", "amortized modes"):
            options = Mixing("amortized" if "amortized" in kind else "dense", 6, causal=kind == "causal")
            mixing, z = ModeMixing(150, bases, options, gain=gain), torch.randn(150, *sizes, 1)
        else:
            mixing = ChannelMixing(channels, bases, Mixing(kind, 6), gain=gain)
            z = torch.randn(count, 4, channels)
        with torch.no_grad():
            ratios.append(mixing(z).square().sum().item() / z.square().sum().item() * count / samples)
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


def test_every_mode_keeps_its_variance_under_triangular_mixing():
    torch.manual_seed(0)
    y = ModeMixing(4000, [Basis("cosine", 6)], Mixing(causal=True))(torch.randn(4000, 6, 4)).detach()
    torch.testing.assert_close(y.square().mean((0, 2)), torch.ones(6), rtol=0, atol=0.1)


def test_eight_blocks_keep_the_size_of_their_input():
    torch.manual_seed(0)
    z, stds = torch.randn(4, 24, 13, 12), []
    for _ in range(8):
        z = FrequencyBlock(24, [Basis("fourier", 13), Basis("cosine", 12)], gain=1 / 16)(z).detach()
        stds.append(z.std().item())
    assert 1 < stds[0] < 1.1 and 1.2 < stds[-1] < 1.5  # each adds 1/16 of the variance


@pytest.mark.parametrize("name", SECOND_MOMENTS)
def test_second_moments_of_the_activations(name):
    x = torch.linspace(-12, 12, 200001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    moment = (activation_named(name)(x) ** 2 * density).sum() * (x[1] - x[0])
    assert SECOND_MOMENTS[name] == pytest.approx(moment.item(), abs=1e-4)


def test_causal_blocks_ignore_higher_modes_on_every_axis():
    torch.manual_seed(0)
    z = torch.randn(2, 4, 7, 4, 3, dtype=torch.float64)
    changed = z.clone()
    changed[:, :, 5:], changed[:, :, :, 2:], changed[..., 1:] = 9, -7, 5  # |k| > 2, k > 1, k > 0
    blocks = [FrequencyBlock(4, BASES, mixing=Mixing(causal=causal)).double() for causal in (True, False)]
    causal, free = [(block(changed) - block(z))[:, :, :5, :2, :1].abs().max().item() for block in blocks]
    assert causal < 1e-13 and free > 1e-2
    assert blocks[0].mode_mixing.matrices[0][:, 1, 2].abs().min() > 0  # a cosine sees the sine of its own wave number


@pytest.mark.parametrize(
    "options", [{"mixing": Mixing(causal=True)}, {"mixing": Mixing("low_rank", 2)}, {"mixing": Mixing("amortized", 3)}, {"n_embedding": 2}]
)
def test_gradients_reach_every_parameter_twice_over(options):
    block = FrequencyBlock(3, BASES[:2], **options).double()
    z = torch.randn(2, 3, 7, 4, dtype=torch.float64, requires_grad=True)
    e = torch.randn(2, 2, dtype=torch.float64)
    block(z, e).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 1e-4 for p in block.parameters())
    assert torch.autograd.gradgradcheck(lambda v: block(v, e)[:, :, :2, :2].square().sum(), (z,))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_unet_knows_neighbors_by_their_signed_wave_numbers(d):
    """One convolution at the finest level reaches k - 1 and k + 1: the sine of one wave from the constant, not that of two."""
    torch.manual_seed(0)
    bases = [Basis("fourier", 9)] * d
    net = FrequencyUNet(2, bases, n_levels=1).double()
    with torch.no_grad():
        next(net.up.parameters())[:, 2:] = 0  # cut the coarse level off
        z = torch.zeros(1, 2, *[9] * d, dtype=torch.float64)
        z[(0, 0, *[0] * d)] = 1
        reached = (net(z) - net(0 * z)).abs().amax((0, 1)) > 1e-9
    assert reached.nonzero().unique().tolist() == [0, 1, 2] and int(reached.sum()) == 3**d  # 1, cos 2 pi x, sin 2 pi x


def test_a_unet_is_differentiable_twice():
    torch.manual_seed(0)
    net = FrequencyUNet(2, BASES[:2], n_levels=2, activation="tanh", n_embedding=1).double()
    z, e = torch.randn(2, 2, 7, 4, dtype=torch.float64, requires_grad=True), torch.randn(2, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: net(v, e)[:, :, :2, :2], (z,))
    assert torch.autograd.gradgradcheck(lambda v: net(v, e)[:, :, :2, :2].square().sum(), (z,))


def test_low_rank_has_few_parameters():
    full, low = ChannelMixing(8, BASES), ChannelMixing(8, BASES, Mixing("low_rank", 2))
    assert full.weight.numel() == 84 * 64 and sum(p.numel() for p in low.parameters()) == 2 * (84 + 64)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: FrequencyBlock(0, BASES), "channels=0; give 1 or more"),
        (lambda: Mixing("low_rank", 0), "rank=0; give a whole number of at least 1"),
        (lambda: Mixing("fast"), "kind='fast'; choose one of dense, low_rank, amortized, unet, local"),
        (lambda: Mixing("unet", causal=True), "its modes look both ways"),
        (lambda: Mixing(causal="no"), "causal='no'; give true or false"),  # type: ignore
        (lambda: Mixing.of(3), "mixing=3; give a name, such as dense, or a mapping"),  # type: ignore
        (lambda: FrequencyUNet(2, BASES, n_levels=4), "n_levels=4, but 7 x 4 x 3 modes can be halved 3 times; give at most 3"),
        (lambda: Mixing.of({"kind": "dense", "rnak": 3}), "the mixing options rnak; choose from kind, rank, causal"),
        (lambda: FrequencyUNet(2, BASES, n_levels=0), "n_levels=0; give 1 to 3, and at least 1 each"),
        (lambda: FrequencyBlock(2, []), "number of bases=0; give 1 or more"),
        (lambda: FrequencyBlock(2, BASES, gain=0.0), "gain=0.0; give a positive number"),
        (lambda: FrequencyBlock(2, BASES, activation="mish"), "choose one of gelu"),
        (lambda: FrequencyBlock(2, BASES)(torch.zeros(1, 2, 4, 7, 3)), r"shape \(1, 2, 4, 7, 3\); expected \(batch, 2, 7, 4, 3\)"),
    ],
)
def test_refuses_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
