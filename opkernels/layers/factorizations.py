"""Factorized tensors for spectral weights: Tucker, canonical (CP) and tensor-train factorizations.

The weight of a spectral convolution is a complex tensor W[i, o, k_1 .. k_d] (input, output channel,
kept wave numbers), or, jointly over the layers l of a model, W[l, i, o, k_1 .. k_d]. Written out,

    Tucker  W = sum_{pqr..} G[p, q, r_1 ..] U_in[i, p] U_out[o, q] U_1[k_1, r_1] ..
    CP      W = sum_r  w[r] U_in[i, r] U_out[o, r] U_1[k_1, r] ..
    TT      W = sum    A_in[1, i, a] A_out[a, o, b] A_1[b, k_1, c] .. A_d[.., k_d, 1]

and a joint weight has one more factor, for l, in front. There are no conjugates.

All three are *mode-first* products: for every wave number k,

    W[:, :, k] = left @ core[k] @ right^T,      left (C_in, p),  core[k] (p, q),  right (C_out, q),

where the core depends on the parameters alone and is diagonal for CP. A layer multiplies its input
from left to right (B (C p + p q + q C) products per wave number, against B C^2 for a dense weight) or
multiplies the three matrices out once, whichever a count of operations says is less.

Complex numbers are real pairs throughout. Every entry of every factor starts as an independent
Gaussian of the standard deviation that gives the product variance std^2; the draw is then rescaled,
so that the root mean square of W is exactly `std` for each layer, at any rank.

References: Kossaifi et al., "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs",
TMLR 2024, arXiv 2310.00120; Kolda, Bader, SIAM Review 51 (2009); Oseledets, SIAM J. Sci. Comput. 33 (2011).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["CPWeight", "ModeFirst", "Rank", "TTWeight", "TuckerWeight", "dense_product", "factorized_weight", "full_rank", "resolve_rank"]

Rank = float | int | Sequence[int]
_TYPICAL_BATCH = 16  # batch size for which the order of products is chosen


class ModeFirst(NamedTuple):
    """A weight as left @ core[k] @ right^T for each wave number k, all real pairs.

    Attributes
    ----------
    left : Tensor, (2, C_in, p)
    core : Tensor, (2, P, p, q), or (2, P, p) if diagonal
        P counts the wave numbers, the last axis fastest.
    right : Tensor, (2, C_out, q), or None for the identity
    """

    left: Tensor
    core: Tensor
    right: Tensor | None

    def apply(self, z: Tensor) -> Tensor:
        """Return the product W z of coefficients z (P, 2, B, C_in), shape (P, 2, B, C_out)."""
        h = (z.transpose(1, 2).flatten(2) @ _block(self.left)).unflatten(-1, (2, -1))  # (P, B, 2, p)
        if self.core.ndim == 3:
            u, v, (re, im) = h[:, :, 0], h[:, :, 1], self.core[:, :, None]
            h = torch.stack([u * re - v * im, v * re + u * im], dim=2)
        else:
            h = _rows_product(h, self.core.transpose(0, 1))
        y = h if self.right is None else (h.flatten(2) @ _block(self.right.mT)).unflatten(-1, (2, -1))
        return y.transpose(1, 2)

    def dense(self) -> Tensor:
        """Return W as real pairs (P, C_in, 2, C_out), the layout of a `DenseWeight`."""
        left = self.left[:, None]  # (2, 1, C_in, p)
        h = _times(left, self.core[:, :, None]) if self.core.ndim == 3 else _matmul(left, self.core)
        h = h if self.right is None else _matmul(h, self.right.mT[:, None])
        return h.permute(1, 2, 0, 3).contiguous()

    def factored_is_cheaper(self, batch: int = _TYPICAL_BATCH) -> bool:
        """Compare the products that `apply` and `dense` with a dense multiplication need."""
        c_in, p = self.left.shape[1:]
        q = self.core.shape[-1]
        c_out = q if self.right is None else self.right.shape[1]
        inner, outer = (1 if self.core.ndim == 3 else q) * p, 0 if self.right is None else q * c_out
        return batch * (c_in * p + inner + outer) <= c_in * inner + c_in * outer + batch * c_in * c_out

    def mean_square(self) -> Tensor:
        """Return the mean of |W|^2 over channels and wave numbers, without forming W."""
        left, core = torch.complex(*self.left), torch.complex(*self.core)
        c_in, c_out = left.shape[0], core.shape[-1] if self.right is None else self.right.shape[1]
        gram_in = left.mH @ left
        gram_out = torch.eye(c_out).to(core) if self.right is None else torch.complex(*self.right).mH @ torch.complex(*self.right)
        if core.ndim == 2:
            total = (core.conj() * (core @ (gram_in * gram_out).mT)).sum()
        else:
            total = (core.conj() * (gram_in @ core @ gram_out.mT)).sum()
        return total.real / (core.shape[0] * c_in * c_out)


def dense_product(z: Tensor, w: Tensor) -> Tensor:
    """Multiply z (P, 2, B, C_in) by a dense weight (P, C_in, 2, C_out): (P, 2, B, C_out), one real product."""
    return _pair_product(z.transpose(1, 2), w).transpose(1, 2)


def _pair_product(z: Tensor, w: Tensor) -> Tensor:
    """Multiply z (P, B, 2, p) by w (P, p, 2, q): (P, B, 2, q), [re; im] as rows and [re | im] as columns of one real product."""
    y = (z.flatten(1, 2) @ w.flatten(2)).unflatten(1, z.shape[1:3]).unflatten(-1, w.shape[2:])
    a, b, c, d = y.flatten(2, 3).unbind(2)
    return torch.stack([a - d, b + c], dim=2)


def _rows_product(z: Tensor, w: Tensor) -> Tensor:
    """Multiply z (P, B, 2, p) by w (P, 2, p, q): (P, B, 2, q), [re -im; im re] as rows and [re; im] as columns; w is not moved."""
    u, v = z.unbind(2)
    rows = torch.cat([u, -v, v, u], dim=-1).view(z.shape[0], 2 * z.shape[1], 2 * z.shape[3])
    return (rows @ w.flatten(1, 2)).unflatten(1, z.shape[1:3])


def _block(w: Tensor) -> Tensor:
    """Return the real matrix (2 p, 2 q) that multiplies rows (re, im) as the complex w (2, p, q) does."""
    re, im = w
    return torch.cat([torch.cat([re, im], 1), torch.cat([-im, re], 1)])


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices of pairs (2, .., m, k) and (2, .., k, n)."""
    return torch.stack([a[0] @ b[0] - a[1] @ b[1], a[0] @ b[1] + a[1] @ b[0]])


def _times(a: Tensor, b: Tensor) -> Tensor:
    """Multiply pairs (2, ..) and (2, ..) entry by entry."""
    return torch.stack([a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]])


def _first(w: Tensor) -> Tensor:
    """Move the pair axis from the end, where parameters keep it, to the front."""
    return w.movedim(-1, 0)


def _pick(lead: Tensor, rest: Tensor) -> Tensor:
    """Contract lead (R, 2) with the first axis of rest (R, .., 2)."""
    return _matmul(_first(lead)[:, None], _first(rest).flatten(2)).reshape(2, *rest.shape[1:-1]).movedim(0, -1)


def _expand(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Replace the ranks of core (2, R_1 .. R_d, rest) by wave numbers: (P, 2, rest); factors U_a (m_a, R_a, 2).

    Every step reads (pair, rank) and writes (wave number, pair), so that none needs to move data.
    """
    done, rest = 1, core.shape[-1]
    for u in factors:
        re, im = u.unbind(-1)
        block = torch.stack([torch.stack([re, -im], 1), torch.stack([im, re], 1)], 1)  # (m, 2, 2, R)
        block = block.flatten(2).flatten(0, 1).expand(done, -1, -1)
        core = torch.bmm(block, core.reshape(done, 2 * u.shape[1], -1))
        done *= u.shape[0]
    return core.reshape(done, 2, rest)


def _pairs(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, 2))


class TuckerWeight(nn.Module):
    """W = core multiplied by one matrix per axis.

    Parameters
    ----------
    shape : tuple of int
        ([layers,] C_in, C_out, m_1, .., m_d); `joint` says whether it begins with layers.
    ranks : tuple of int
        One rank per entry of `shape`.
    """

    def __init__(self, shape: tuple[int, ...], ranks: tuple[int, ...], *, joint: bool):
        super().__init__()
        self.joint = joint
        # ([R_layers,] 2, R_1 .. R_d, p, q): as `mode_first` reads it, so that neither the core nor its gradient is moved about
        lead, (p, q, *modes) = ranks[: int(joint)], ranks[int(joint) :]
        self.core = nn.Parameter(torch.empty(*lead, 2, *modes, p, q))
        self.factors = nn.ParameterList(_pairs(n, r) for n, r in zip(shape, ranks, strict=True))

    def std_of_entries(self, std: float) -> float:
        """Return the standard deviation of all entries that gives W the standard deviation `std`."""
        return (std / math.sqrt(self.core.numel() / 2)) ** (1 / (len(self.factors) + 1))

    def core_in_order(self) -> Tensor:
        """Return the core as G of the module's docstring, a view ([R_layers,] p, q, R_1 .. R_d, 2)."""
        lead = int(self.joint)
        return self.core.movedim((lead, -2, -1), (-1, lead, lead + 1))

    def mode_first(self, layer: int, dtype: torch.dtype) -> ModeFirst:
        """Return the weight of one layer."""
        core, factors = self.core.to(dtype), [u.to(dtype) for u in self.factors]
        if self.joint:
            lead = _first(factors.pop(0)[layer])  # (2, R_layers)
            core = _matmul(lead[:, None], core.transpose(0, 1).flatten(2)).reshape(core.shape[1:])
        left, right, *modes = factors
        core = _expand(core.flatten(-2), modes).unflatten(-1, core.shape[-2:])
        return ModeFirst(_first(left), core.transpose(0, 1), _first(right))


class CPWeight(nn.Module):
    """W = a sum of R outer products, one vector per axis, weighted by w.

    Parameters
    ----------
    shape : tuple of int
        ([layers,] C_in, C_out, m_1, .., m_d).
    ranks : tuple of int
        (R,).
    """

    def __init__(self, shape: tuple[int, ...], ranks: tuple[int, ...], *, joint: bool):
        super().__init__()
        self.joint = joint
        self.weights = _pairs(*ranks)
        self.factors = nn.ParameterList(_pairs(n, *ranks) for n in shape)

    def std_of_entries(self, std: float) -> float:
        """Return the standard deviation of all entries that gives W the standard deviation `std`."""
        return (std / math.sqrt(self.weights.shape[0])) ** (1 / (len(self.factors) + 1))

    def mode_first(self, layer: int, dtype: torch.dtype) -> ModeFirst:
        """Return the weight of one layer."""
        factors = [_first(u.to(dtype)) for u in self.factors]
        core = _first(self.weights.to(dtype))[:, None]  # (2, 1, R)
        if self.joint:
            core = _times(core, factors.pop(0)[:, layer : layer + 1])
        left, right, *modes = factors
        for u in modes:
            core = _times(core[:, :, None], u[:, None]).flatten(1, 2)
        return ModeFirst(left, core, right)


class TTWeight(nn.Module):
    """W = a chain of matrices, one for each index of each axis.

    Parameters
    ----------
    shape : tuple of int
        ([layers,] C_in, C_out, m_1, .., m_d).
    ranks : tuple of int
        The ranks between neighboring axes, one fewer than `shape` has entries.
    """

    def __init__(self, shape: tuple[int, ...], ranks: tuple[int, ...], *, joint: bool):
        super().__init__()
        self.joint = joint
        ends = (1, *ranks, 1)
        self.factors = nn.ParameterList(_pairs(ends[t], n, ends[t + 1]) for t, n in enumerate(shape))

    def std_of_entries(self, std: float) -> float:
        """Return the standard deviation of all entries that gives W the standard deviation `std`."""
        links = math.prod(a.shape[2] for a in self.factors)
        return (std / math.sqrt(links)) ** (1 / len(self.factors))

    def mode_first(self, layer: int, dtype: torch.dtype) -> ModeFirst:
        """Return the weight of one layer."""
        first, *factors = (a.to(dtype) for a in self.factors)
        if self.joint:
            first, factors = _pick(first[0, layer], factors[0])[None], factors[1:]
        out, *modes = factors
        chain = _first(modes[0])  # (2, b, m_1, c), then (2, b, m_1 m_2, ..)
        for a in modes[1:]:
            link = _first(a)
            chain = _matmul(chain, link.flatten(2)[:, None]).reshape(2, chain.shape[1], -1, link.shape[-1])
        core = _matmul(chain[..., 0].mT, _first(out).flatten(1, 2).mT)  # (2, P, p q)
        return ModeFirst(_first(first[0]), core.unflatten(-1, out.shape[:2]), None)


_WEIGHTS: dict[str, Callable] = {"tucker": TuckerWeight, "cp": CPWeight, "tt": TTWeight}


def factorized_weight(
    shape: tuple[int, ...], *, rank: Rank, factorization: str, std: float, joint: bool = False
) -> TuckerWeight | CPWeight | TTWeight:
    """Return a factorized weight, drawn from torch's generator, with root mean square `std` for every layer.

    Parameters
    ----------
    shape : tuple of int
        (C_in, C_out, m_1, .., m_d), preceded by the number of layers if `joint`.
    rank : float, int or sequence of int
        See `resolve_rank`.
    factorization : {"tucker", "cp", "tt"}
    std : float
        The wanted root mean square of |W|.
    joint : bool
        Whether the first axis counts layers.

    Raises
    ------
    ValueError
        If the factorization is unknown or the rank does not fit the shape.
    """
    ranks = resolve_rank(shape, rank, factorization, joint=joint)
    weight = _WEIGHTS[factorization](shape, ranks, joint=joint)
    with torch.no_grad():
        spread = weight.std_of_entries(std) / math.sqrt(2)
        for parameter in weight.parameters():
            parameter.normal_(0, spread)
        lead = weight.factors[0]
        for layer in range(shape[0] if joint else 1):
            scale = std / weight.mode_first(layer, torch.float64).mean_square().sqrt()
            part = lead if not joint else lead[:, layer] if factorization == "tt" else lead[layer]
            part.mul_(scale)
    return weight


def resolve_rank(shape: tuple[int, ...], rank: Rank, factorization: str, *, joint: bool = False) -> tuple[int, ...]:
    """Return the ranks of a factorization of a tensor of the given shape.

    Parameters
    ----------
    shape : tuple of int
        Sizes of the axes.
    rank : float, int or sequence of int
        A float in (0, 1] is the wanted share of the dense tensor's entries (good values .01 to .5);
        ranks are then proportional to the sizes (Tucker) or equal as far as they can be (TT). An int
        is the rank itself (of every axis or link); a sequence gives one rank per axis (Tucker), per
        link between neighboring axes (TT), or one (CP).
    factorization : {"tucker", "cp", "tt"}
    joint : bool
        The first axis counts layers; a share leaves it whole in a Tucker weight, since it is short.

    Raises
    ------
    ValueError
        If the factorization is unknown, the share is not in (0, 1], or a rank is below one or above
        full.

    Examples
    --------
    >>> resolve_rank((32, 32, 16, 7), 0.1, "tucker")
    (17, 17, 9, 4)
    >>> resolve_rank((32, 32, 16, 7), 0.1, "cp")
    (130,)
    """
    if not isinstance(factorization, str) or factorization not in _WEIGHTS:
        raise ValueError(f'got factorization={factorization!r}; choose "tucker", "cp" or "tt"')
    if min(shape) < 1:
        raise ValueError(f"got a weight of shape {shape}; give at least one channel and one mode each")
    full = full_rank(shape, factorization)
    if isinstance(rank, float):
        if not 0 < rank <= 1:
            raise ValueError(f"got rank={rank}; give a share of the dense weight in (0, 1], or whole ranks")
        return _share(shape, full, rank, factorization, joint)
    ranks = (rank,) * len(full) if isinstance(rank, Integral) else rank
    ranks = tuple(ranks) if isinstance(ranks, Sequence) and not isinstance(ranks, str) else ()
    if len(ranks) != len(full) or not all(isinstance(r, Integral) and not isinstance(r, bool) for r in ranks):
        raise ValueError(
            f"got rank={rank!r} for a {factorization} weight of shape {shape}; give a share in (0, 1], or {len(full)} whole ranks"
        )
    ranks = tuple(int(r) for r in ranks)
    if not all(1 <= r <= most for r, most in zip(ranks, full, strict=True)):
        raise ValueError(f"got rank={rank!r} for a {factorization} weight of shape {shape}; every rank is at least 1 and at most {full}")
    return ranks


def full_rank(shape: tuple[int, ...], factorization: str) -> tuple[int, ...]:
    """Return the ranks with which every tensor of the given shape can be written."""
    if factorization == "tucker":
        return shape
    if factorization == "cp":
        return (math.prod(shape) // max(shape),)
    return tuple(min(math.prod(shape[:t]), math.prod(shape[t:])) for t in range(1, len(shape)))


def _entries(shape: tuple[int, ...], ranks: tuple[int, ...], factorization: str) -> int:
    """Count the complex numbers of a factorization."""
    if factorization == "tucker":
        return math.prod(ranks) + sum(n * r for n, r in zip(shape, ranks, strict=True))
    if factorization == "cp":
        return ranks[0] * (1 + sum(shape))
    ends = (1, *ranks, 1)
    return sum(n * a * b for n, a, b in zip(shape, ends, ends[1:], strict=False))


def _share(shape: tuple[int, ...], full: tuple[int, ...], share: float, factorization: str, joint: bool) -> tuple[int, ...]:
    """Return the ranks whose number of entries comes closest to `share` of the dense tensor's."""

    def at(c: float) -> tuple[int, ...]:
        if factorization == "tt":  # noqa: SIM108 equal links, raised one after the other
            wanted = [c * max(full) + t / len(full) - 0.5 for t in range(len(full))]
        else:
            wanted = [most if joint and t == 0 and factorization == "tucker" else c * most for t, most in enumerate(full)]
        return tuple(min(most, max(1, round(r))) for r, most in zip(wanted, full, strict=True))

    target, low, high = share * math.prod(shape), 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _entries(shape, at(middle), factorization) <= target else (low, middle)
    return min(at(low), at(high), key=lambda ranks: abs(_entries(shape, ranks, factorization) - target))
