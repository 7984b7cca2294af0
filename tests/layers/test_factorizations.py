"""Factorized tensors: each against its definition written out, ranks, and how they start."""

import math
from string import ascii_uppercase

import numpy as np
import pytest
import torch

from opkernels.layers.factorizations import dense_product, factorized_weight, resolve_rank

KINDS = ["tucker", "cp", "tt"]
MODES = [(5,), (7, 4), (3, 5, 3)]


def weight(shape, kind, rank=0.6, std=0.3, joint=False, seed=0):
    torch.manual_seed(seed)
    return factorized_weight(shape, rank=rank, factorization=kind, std=std, joint=joint).double()


def written_out(w, kind, shape):
    """Multiply the factors by one complex einsum, in the order ([layer,] in, out, modes)."""
    pairs = lambda p: torch.view_as_complex(p.detach().contiguous())  # noqa: E731
    axes = "abcdef"[: len(shape)]
    factors = [pairs(f) for f in w.factors]
    if kind == "tucker":
        ranks = ascii_uppercase[: len(shape)]
        return torch.einsum(
            f"{ranks},{','.join(a + r for a, r in zip(axes, ranks, strict=True))}->{axes}", pairs(w.core_in_order()), *factors
        )
    if kind == "cp":
        return torch.einsum(f"R,{','.join(a + 'R' for a in axes)}->{axes}", pairs(w.weights), *factors)
    links = ascii_uppercase[: len(shape) + 1]
    return torch.einsum(f"{','.join(links[i] + a + links[i + 1] for i, a in enumerate(axes))}->{axes}", *factors)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_dense_apply_and_mean_square_equal_the_definition(kind, modes, joint):
    shape = (*([3] if joint else []), 6, 5, *modes)
    w = weight(shape, kind, joint=joint)
    every = written_out(w, kind, shape)
    z = torch.randn(math.prod(modes), 2, 4, 6, dtype=torch.float64)
    for layer, one in enumerate(every if joint else [every]):
        expected = one.flatten(2).permute(2, 0, 1)
        got = w.mode_first(layer, torch.float64)
        torch.testing.assert_close(torch.complex(*got.dense().unbind(2)), expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(dense_product(z, got.dense()), got.apply(z), rtol=0, atol=1e-13)
        y = got.apply(z)
        torch.testing.assert_close(torch.complex(y[:, 0], y[:, 1]), torch.complex(z[:, 0], z[:, 1]) @ expected, rtol=0, atol=1e-13)
        torch.testing.assert_close(got.mean_square(), expected.abs().square().mean(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("rank", [1, 0.003, 0.05, 0.42, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_starts_with_the_standard_deviation_asked_for_at_every_rank_and_in_every_layer(kind, rank, joint):
    shape = (*([4] if joint else []), 12, 16, 9, 5)
    every = written_out(weight(shape, kind, rank, joint=joint), kind, shape)
    for one in every if joint else [every]:
        for part in (one.real, one.imag):
            assert part.square().mean().sqrt().item() == pytest.approx(0.3 / math.sqrt(2), rel=0.2)  # one draw of few numbers
        assert torch.view_as_real(one).std().item() * math.sqrt(2) == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_all_factors_share_the_scale(kind):
    w = weight((32, 32, 15, 8), kind, 0.1)
    stds = [p.detach().square().mean().sqrt().item() for p in w.parameters()]
    assert max(stds) < 1.6 * min(stds)


@pytest.mark.parametrize("shape", [(32, 32, 16, 7), (4, 12, 12, 9, 5), (8, 12, 9)])
@pytest.mark.parametrize("rank", [0.02, 0.1, 0.5, 1.0])
def test_shares_become_tuckers_ranks_as_in_tensorly_and_every_kinds_share_of_the_entries(shape, rank):
    from tensorly.tucker_tensor import validate_tucker_rank

    expected = tuple(int(r) for r in validate_tucker_rank(shape, rank=rank))
    if 0 not in expected:
        got = resolve_rank(shape, rank, "tucker")
        assert all(abs(a - b) <= 1 for a, b in zip(got, expected, strict=True))
    if math.prod(shape) * rank > 500:
        for kind in KINDS:
            entries = sum(p.numel() for p in weight(shape, kind, rank).parameters()) / 2
            assert entries == pytest.approx(rank * math.prod(shape), rel=0.2)


def test_explicit_ranks_are_taken_as_they_are():
    assert resolve_rank((8, 8, 5, 3), (2, 3, 4, 1), "tucker") == (2, 3, 4, 1)
    assert resolve_rank((8, 8, 5, 3), 3, "tucker") == (3, 3, 3, 3)
    assert resolve_rank((8, 8, 5, 3), 7, "cp") == (7,)
    assert resolve_rank((8, 8, 5, 3), [8, 9, 3], "tt") == (8, 9, 3)
    assert resolve_rank((8, 8, 5, 3), np.int64(3), "tucker") == (3, 3, 3, 3)


@pytest.mark.parametrize(
    ("rank", "kind", "message"),
    [
        (0.1, ["tucker"], r"factorization=\['tucker'\]; choose"),
        (0.1, "svd", 'factorization=\'svd\'; choose "tucker", "cp" or "tt"'),
        (0.0, "tucker", r"rank=0.0; give a share of the dense weight in \(0, 1\]"),
        (1.5, "cp", r"rank=1.5; give a share"),
        (float("nan"), "cp", r"rank=nan; give a share"),
        (0, "cp", "every rank is at least 1"),
        ((3, 3, 3), "tucker", "4 whole ranks"),
        ((3, 3, 3, 6), "tucker", r"at most \(8, 8, 5, 3\)"),
        ((8, 16, 3), "tt", r"at most \(8, 15, 3\)"),
        (121, "cp", r"at most \(120,\)"),
        (True, "tt", "rank=True"),
        ("full", "tt", "rank='full'"),
        ((2.0, 2, 2), "tt", "3 whole ranks"),
    ],
)
def test_bad_ranks_are_refused_in_one_sentence(rank, kind, message):
    with pytest.raises(ValueError, match=message):
        resolve_rank((8, 8, 5, 3), rank, kind)
