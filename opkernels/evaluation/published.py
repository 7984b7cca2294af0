"""Metrics exactly as other benchmarks publish them, to compare with their tables; written from their definitions.

They disagree on what is averaged before the ratio, whether channels are summed, on absolute floors
and on bands that move with the resolution, so a number needs its definition beside it. The package's
own metrics (`opkernels.metrics`) depend on none of these. Everywhere

    p, r : Tensor, (B, T, C, *spatial)     prediction and truth,     e = p - r,

and <.>_a is a mean over a, S_a a sum over a.

References: PDEBench (Takamoto et al., arXiv 2210.07182), The Well (Ohana et al., arXiv 2412.00568),
APEBench (Koehler et al., arXiv 2411.00180), neuraloperator 2.0, PDEArena (Gupta, Brandstetter, arXiv
2209.15616), PDE-Refiner (Lippe et al., arXiv 2308.05732), Poseidon (Herde et al., arXiv 2405.19101),
LagrangeBench (Toshev et al., arXiv 2309.16342).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "apebench",
    "apebench_fourier",
    "lagrangebench_mse",
    "neuralop_h1",
    "neuralop_lp",
    "pdearena",
    "pdearena_time_till_correlation_lower",
    "pdebench",
    "poseidon",
    "the_well",
    "the_well_binned",
]


def pdebench(p: Tensor, r: Tensor, *, context: int = 10, lengths: Sequence[float] | None = None) -> dict[str, float]:
    """PDEBench's six figures, over frames from `context` on.

    RMSE = < <sqrt(<e^2>_x)>_b >_tc, nRMSE the same over sqrt(<r^2>_x), cRMSE = < sqrt(<(S_x e)^2>_b) / N >_tc,
    max = < max_bx |e| >_tc, bRMSE over the samples on the boundary (corners counted twice), fRMSE in
    three bands of the integer wave number (0-3, 4-11, 12 and above). 1-D and 2-D. cRMSE, max and
    fRMSE depend on the batch; fRMSE on the resolution, and it sees one quadrant of wave numbers only.

    Parameters
    ----------
    context : int
        Frames given to the model, left out here (theirs: 10; 1 for maps).
    lengths : sequence of float, optional
        Extent per axis; theirs: 1.
    """
    _check(p, r, (1, 2), "pdebench")
    e, r = (p - r)[:, context:], r[:, context:]
    if not e.shape[1]:
        raise ValueError(f"pdebench got {p.shape[1]} frames and a context of {context}; give more frames")
    x, n = tuple(range(3, e.ndim)), math.prod(e.shape[3:])
    rmse = (e**2).mean(x).sqrt()
    low, middle, high = _pdebench_bands(e, lengths or [1.0] * len(x))
    return {
        "RMSE": float(rmse.mean()),
        "nRMSE": float((rmse / (r**2).mean(x).sqrt()).mean()),
        "cRMSE": float(((e.sum(x) ** 2).mean(0).sqrt() / n).mean()),
        "max": float(e.abs().amax((0, *x)).mean()),
        "bRMSE": float(_boundary_rms(e).mean()),
        "fRMSE_low": low,
        "fRMSE_mid": middle,
        "fRMSE_high": high,
    }


def _boundary_rms(e: Tensor) -> Tensor:
    if e.ndim == 4:
        return ((e[..., 0] ** 2 + e[..., -1] ** 2) / 2).sqrt()
    edges = [e[..., 0, :], e[..., -1, :], e[..., :, 0], e[..., :, -1]]
    return (torch.stack([(edge**2).sum(-1) for edge in edges]).sum(0) / (2 * sum(e.shape[3:]))).sqrt()


def _pdebench_bands(e: Tensor, lengths: Sequence[float]) -> tuple[float, float, float]:
    shape = e.shape[3:]
    if len(shape) == 1:
        f = (torch.fft.rfft(e).abs() ** 2).mean(0).sqrt() * lengths[0] / shape[0]
    else:
        half = [n // 2 for n in shape]
        power = (torch.fft.fft2(e).abs() ** 2)[..., : half[0], : half[1]]
        i, j = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in half], indexing="ij")
        shell = (i**2 + j**2).sqrt().floor().long().flatten().to(e.device)
        sums = power.new_zeros(*power.shape[:3], int(shell.max()) + 1).index_add(-1, shell, power.flatten(3))
        f = sums.mean(0).sqrt()[..., : min(half)] * math.prod(lengths) / math.prod(shape)
    return float(f[..., :4].mean()), float(f[..., 4:12].mean()), float(f[..., 12:].mean())


def the_well(p: Tensor, r: Tensor) -> dict[str, Tensor]:
    """Return The Well's figures per sample, time and channel, each (B, T, C); its tables average them.

    The floor 1e-7 is added to squares and is not relative, variances divide by n - 1, and PearsonR
    mixes both, so that PearsonR(x, x) = (n - 1)/n.
    """
    _check(p, r, (1, 2, 3), "the_well")
    x, eps = tuple(range(3, p.ndim)), 1e-7
    e = p - r
    mse, mae, variance = (e**2).mean(x), e.abs().mean(x), r.var(x)
    nmse, vmse = mse / ((r**2).mean(x) + eps), mse / (variance + eps)
    covariance = ((p - p.mean(x, keepdim=True)) * (r - r.mean(x, keepdim=True))).mean(x)
    return {
        "MSE": mse,
        "RMSE": mse.sqrt(),
        "MAE": mae,
        "LInf": e.abs().amax(x),
        "NMSE": nmse,
        "NRMSE": nmse.sqrt(),
        "NMAE": mae / (r.abs().mean(x) + eps),
        "VMSE": vmse,
        "VRMSE": vmse.sqrt(),
        "PearsonR": covariance / (p.std(x) * r.std(x) + eps),
    }


def the_well_binned(p: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return The Well's mean square error in three bands of the wave number per cell, which move with the resolution.

    Returns
    -------
    mse, nmse : Tensor, (B, T, C, 3)
        The sum over bands of `mse` is the mean square error; `nmse` divides by the truth's energy in
        the same band, plus 1e-7.
    edges : Tensor, (4,)
        In radians per cell.
    """
    _check(p, r, (1, 2, 3), "the_well_binned")
    shape, x = p.shape[3:], tuple(range(3, p.ndim))
    k = [2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64) for n in shape]
    radius = torch.stack(torch.meshgrid(*k, indexing="ij")).norm(dim=0).flatten()
    ends = math.log10(2 * math.pi / max(shape)), math.log10(math.pi * math.sqrt(len(shape)) + 1e-6)
    edges = torch.logspace(*ends, 4, dtype=torch.float64)
    edges[0] = 0.0
    band = (torch.bucketize(radius, edges, right=True) - 1).clamp(0, 2).to(p.device)
    powers = [(torch.fft.fftn(u, dim=x, norm="forward").abs() ** 2).flatten(3) for u in (p - r, r)]
    mse, energy = (power.new_zeros(*power.shape[:3], 3).index_add(-1, band, power) for power in powers)
    return mse, mse / (energy + 1e-7), edges


def neuralop_lp(p: Tensor, r: Tensor, *, power: float = 2, reduction: str = "sum") -> float:
    """Relative error of neuraloperator's LpLoss: R_btc ||e||_p / (||r||_p + 1e-8), R a sum by default, over channels too."""
    e, r = (p - r).flatten(3), r.flatten(3)
    ratio = e.norm(p=power, dim=-1) / (r.norm(p=power, dim=-1) + 1e-8)
    return float(_reduce(ratio, reduction))


def neuralop_h1(p: Tensor, r: Tensor, *, lengths: Sequence[float] | None = None, periodic: bool = True, reduction: str = "sum") -> float:
    """Relative error of neuraloperator's H1Loss: sums of squares of values and of second-order differences.

    Periodic in every axis by default, whatever the data; otherwise third-order one-sided differences
    at the ends.
    """
    _check(p, r, (1, 2, 3), "neuralop_h1")
    lengths = lengths or [1.0] * (p.ndim - 3)

    def norm(u: Tensor) -> Tensor:
        squares = (u**2).flatten(3).sum(-1)
        for a, length in enumerate(lengths):
            squares = squares + (_neuralop_difference(u, a - len(lengths), length, periodic) ** 2).flatten(3).sum(-1)
        return squares.sqrt()

    return float(_reduce(norm(p - r) / (norm(r) + 1e-8), reduction))


def _neuralop_difference(u: Tensor, dim: int, length: float, periodic: bool) -> Tensor:
    h = length / u.shape[dim]
    d = (u.roll(-1, dim) - u.roll(1, dim)) / (2 * h)
    if periodic:
        return d
    first, last = u.movedim(dim, -1)[..., :4], u.movedim(dim, -1)[..., -4:].flip(-1)
    stencil = torch.tensor([-11.0, 18.0, -9.0, 2.0], dtype=u.dtype, device=u.device) / (6 * h)
    inner = d.movedim(dim, -1)[..., 1:-1]
    return torch.cat([(first @ stencil)[..., None], inner, -(last @ stencil)[..., None]], -1).movedim(-1, dim)


def pdearena(p: Tensor, r: Tensor) -> dict[str, Tensor]:
    """PDEArena's figures: scaled_L2 = <||e|| / ||r||>_b over (t, c, x); MSE = <S_tc <e^2>_x>_b; Pearson (B, T) over (c, x)."""
    e = p - r
    a, b = (u.flatten(2) - u.flatten(2).mean(-1, keepdim=True) for u in (p, r))
    tiny = torch.finfo(torch.float32).tiny
    scale = (a**2).mean(-1).sqrt() * (b**2).mean(-1).sqrt()
    return {
        "scaled_L2": (e.flatten(1).norm(dim=1) / r.flatten(1).norm(dim=1)).mean(),
        "MSE": (e**2).flatten(3).mean(-1).sum((1, 2)).mean(),
        "Pearson": (a * b).mean(-1) / scale.clamp_min(tiny),
    }


def pdearena_time_till_correlation_lower(p: Tensor, r: Tensor, threshold: float = 0.8) -> int:
    """PDE-Refiner's count: frames whose batch-mean Pearson correlation exceeds the threshold (not the first crossing)."""
    return int((pdearena(p, r)["Pearson"].mean(0) > threshold).sum())


def apebench(p: Tensor, r: Tensor, *, length: float = 1.0) -> dict[str, Tensor]:
    """APEBench's figures per frame, each (T,), on a cube of side `length`; channels are summed, samples averaged.

    MSE = (L/N)^D S_x e^2, RMSE its root, nRMSE = ||e||/||r||, nMAE = S|e|/S|r|, sRMSE = 2||e||/(||p||+||r||), and the
    correlation <p, r>/(||p|| ||r||), averaged over channels, whose mean is not removed.
    """
    _check(p, r, (1, 2, 3), "apebench")
    cell = length ** (p.ndim - 3) / math.prod(p.shape[3:])
    e, p, r = (p - r).flatten(3), p.flatten(3), r.flatten(3)
    mse = cell * (e**2).sum(-1)
    error, size, truth = (u.norm(dim=-1) for u in (e, p, r))
    per_channel = {
        "MSE": mse,
        "RMSE": mse.sqrt(),
        "nRMSE": error / truth,
        "nMAE": e.abs().sum(-1) / r.abs().sum(-1),
        "sRMSE": 2 * error / (size + truth),
    }
    figures = {name: value.sum(2).mean(0) for name, value in per_channel.items()}
    figures["correlation"] = ((p * r).sum(-1) / (size * truth)).mean(2).mean(0)
    return figures


def apebench_fourier(
    p: Tensor, r: Tensor, *, low: int = 0, high: int | None = None, derivative: int | None = None, length: float = 1.0
) -> dict[str, Tensor]:
    """APEBench's errors of a band of Fourier modes per frame: fourier_RMSE and fourier_nRMSE, each (T,).

    Modes with low <= max_a |k_a| <= high, unnormalized coefficients below 1e-5 set to zero; with a
    derivative of order s, the figures of the D components (2 pi i k_a / L)^s are combined as theirs
    are: norms are summed. nRMSE is infinite where the truth has nothing in the band. H1_nRMSE is
    ``apebench(...)["nRMSE"] + apebench_fourier(..., derivative=1)["fourier_nRMSE"]``, and so on.
    """
    _check(p, r, (1, 2, 3), "apebench_fourier")
    shape, x = p.shape[3:], tuple(range(3, p.ndim))
    k = torch.stack(torch.meshgrid(*[n * torch.fft.fftfreq(n, dtype=torch.float64) for n in shape], indexing="ij")).to(p.device)
    radius = k.abs().amax(0)
    band = (radius >= low) & (radius <= (math.inf if high is None else high))
    scale = length ** len(shape) / math.prod(shape) ** 2

    def norms(u: Tensor) -> Tensor:
        u_hat = torch.fft.fftn(u, dim=x)
        u_hat = torch.where(band & (u_hat.abs() >= 1e-5), u_hat, torch.zeros_like(u_hat))
        factors = [torch.ones_like(radius)] if derivative is None else [(2 * math.pi / length * k_a).abs() ** derivative for k_a in k]
        return sum(((u_hat * f).abs() ** 2 * scale).flatten(3).sum(-1).sqrt() for f in factors)  # type: ignore[return-value]

    error, truth = norms(p - r), norms(r)
    return {"fourier_RMSE": error.sum(2).mean(0), "fourier_nRMSE": (error / truth).sum(2).mean(0)}


def poseidon(p: Tensor, r: Tensor, *, power: float = 1) -> dict[str, float]:
    """Poseidon's relative error in percent, over channels and space of the last frame: median and mean over samples."""
    e, r = (p - r)[:, -1].flatten(1), r[:, -1].flatten(1)
    norm = r.norm(p=power, dim=1)
    ratio = 100 * e.norm(p=power, dim=1) / torch.where(norm == 0, 1e-10, norm)
    return {"median": float(ratio.median()), "mean": float(ratio.mean())}


def lagrangebench_mse(p: Tensor, r: Tensor, extent: Sequence[float | None]) -> Tensor:
    """LagrangeBench's mean square error of positions p, r (T, N, d) per frame, over particles and components.

    `extent` holds the period of each axis, None where it has walls; displacements are the shortest ones.
    """
    e = p - r
    for a, period in enumerate(extent):
        if period is not None:
            e[..., a] = e[..., a] - period * (e[..., a] / period).round()
    return (e**2).mean((-2, -1))


def _reduce(values: Tensor, reduction: str) -> Tensor:
    if reduction not in ("sum", "mean"):
        raise ValueError(f'got reduction={reduction!r}; choose "sum" or "mean"')
    return values.sum() if reduction == "sum" else values.mean()


def _check(p: Tensor, r: Tensor, dimensions: tuple[int, ...], who: str) -> None:
    if p.shape != r.shape or p.ndim - 3 not in dimensions:
        raise ValueError(
            f"{who} got tensors of shapes {tuple(p.shape)} and {tuple(r.shape)}; "
            f"expected two of (batch, time, channels, *spatial) with {' or '.join(map(str, dimensions))} spatial axes"
        )
