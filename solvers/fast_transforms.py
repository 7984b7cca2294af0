"""Orthonormal discrete sine and cosine transforms, types 1 to 4, as matrix products and by FFT.

y = Q x along one axis with Q Qᵀ = 1, in the notation of scipy.fft with ``norm="ortho"`` (and
``orthogonalize=True``). k, j = 0 .. n-1 count outputs and inputs:

| kind   | Q[k, j], times a constant that makes rows orthonormal | inverse |
| ------ | ----------------------------------------------------- | ------- |
| "dst1" | sin(π (k+1)(j+1) / (n+1))                             | "dst1"  |
| "dst2" | sin(π (k+1)(2j+1) / 2n)                               | "dst3"  |
| "dst3" | transpose of "dst2"                                   | "dst2"  |
| "dst4" | sin(π (2k+1)(2j+1) / 4n)                              | "dst4"  |
| "dct1" | cos(π k j / (n-1))                                    | "dct1"  |
| "dct2" | cos(π k (2j+1) / 2n)                                  | "dct3"  |
| "dct3" | transpose of "dct2"                                   | "dct2"  |
| "dct4" | cos(π (2k+1)(2j+1) / 4n)                              | "dct4"  |

A matrix product costs n² per line, an FFT n log n with a large constant; `transform` takes the
faster one by a measured rule (`_prefers_product`). The rows of types 1 and 2 are even (k = 0, 2, ...) or odd
(k = 1, 3, ...) under the reflection of j: `half_transform` and `half_inverse` take the even outputs from the even
part of x and the odd ones from its odd part, two products of half the size, and leave the outputs in these two groups.

References
----------
J. Makhoul, A fast cosine transform in one and two dimensions, IEEE Trans. ASSP 28 (1980) 27-34,
doi:10.1109/TASSP.1980.1163351.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opkernels.domains import table

__all__ = ["INVERSE", "half_inverse", "half_transform", "prefers_halves", "split", "transform"]

INVERSE = {
    "dst1": "dst1",
    "dst2": "dst3",
    "dst3": "dst2",
    "dst4": "dst4",
    "dct1": "dct1",
    "dct2": "dct3",
    "dct3": "dct2",
    "dct4": "dct4",
}


def transform(x: Tensor, kind: str, dim: int = -1, *, method: str | None = None) -> Tensor:
    """Transform x along one axis.

    Parameters
    ----------
    x : Tensor, (..., n, ...)
        Real values.
    kind : str
        One of the eight kinds of the module's table.
    dim : int
        The axis of length n.
    method : {"gemm", "fft"} or None
        None takes the faster one for this length and device.

    Returns
    -------
    Tensor, the shape and dtype of x.

    Raises
    ------
    ValueError
        If the kind or the method is unknown, or "dct1" is asked of a single value.
    """
    if kind not in INVERSE:
        raise ValueError(f"transform got kind={kind!r}; choose one of {', '.join(INVERSE)}")
    if method not in (None, "gemm", "fft"):
        raise ValueError(f'transform got method={method!r}; choose "gemm", "fft" or None')
    n = x.shape[dim]
    if kind == "dct1" and n < 2:
        raise ValueError('transform got one value for kind="dct1", which needs both ends of the interval')
    if method == "gemm" or (method is None and _prefers_product(kind, n, x.device.type)):
        return _product(x, _matrix(kind, n, device=x.device, dtype=x.dtype), dim)
    return _FFT[kind](x.movedim(dim, -1)).movedim(-1, dim)


def _prefers_product(kind: str, n: int, device_type: str) -> bool:
    """Whether the matrix product is faster, by the length of the FFT that would replace it.

    Measured on one CPU core, 16 fields of 64² to 1024², both precisions: the product wins up to
    256; above, the FFT wins where its length has no prime factor above 7, and from about 1024
    anywhere. On accelerators, whose products run near peak, the limit is 1024 throughout (an estimate).
    """
    length = {"dst1": 2 * (n + 1), "dct1": 2 * (n - 1), "dst4": 2 * n, "dct4": 2 * n}.get(kind, n)
    for prime in (2, 3, 5, 7):
        while length > 1 and length % prime == 0:
            length //= prime
    return n <= (256 if length <= 1 and device_type == "cpu" else 1024)


def _product(x: Tensor, q: Tensor, dim: int) -> Tensor:
    """Q x along dim, without moving memory: the axes behind it are the columns of one product."""
    dim = dim % x.ndim
    if dim == x.ndim - 1:
        return x @ q.mT
    return (q @ x.flatten(dim + 1)).reshape(x.shape)


def prefers_halves(kind: str, n: int, device_type: str) -> bool:
    """Whether `half_transform` is there and faster than `transform`: measured on one CPU core, from 128 on (1.3 times at 256)."""
    return kind in _REFLECTED and n >= 128 and device_type == "cpu" and _prefers_product(kind, n, device_type)


def half_transform(x: Tensor, kind: str, dim: int) -> Tensor:
    """Transform x (..., n, ...) along dim < 0 by halves: (2, ..., h, ...), h = ⌈n/2⌉, ordered as by `split`."""
    n = x.shape[dim]
    h = (n + 1) // 2
    parts = torch.addcmul(x.narrow(dim, 0, h), x.narrow(dim, n - h, h).flip(dim), _plus_minus(x))
    return _half_product(parts, _halves(kind, n, True, device=x.device, dtype=x.dtype), dim)


def half_inverse(y: Tensor, kind: str, n: int, dim: int) -> Tensor:
    """Undo `half_transform` for n values along dim < 0."""
    even, odd = _half_product(y, _halves(kind, n, False, device=y.device, dtype=y.dtype).mT, dim)
    return torch.cat([even + odd, (even - odd).narrow(dim, 0, n // 2).flip(dim)], dim)


def split(x: Tensor, dim: int) -> Tensor:
    """Even and odd entries along dim < 0, (2, ..., ⌈n/2⌉, ...); a missing last one is zero."""
    x = torch.cat([x, torch.zeros_like(x.narrow(dim, 0, 1))], dim) if x.shape[dim] % 2 else x
    return x.unflatten(dim, (-1, 2)).movedim(dim, 0)


def _plus_minus(x: Tensor) -> Tensor:
    return torch.tensor([1.0, -1.0], dtype=x.dtype, device=x.device).reshape(2, *[1] * x.ndim)


def _half_product(x: Tensor, w: Tensor, dim: int) -> Tensor:
    """Product of w (2, h, h) with x (2, ..., h, ...) along dim < 0."""
    if dim == -1:
        return (x.flatten(1, -2) @ w.mT).reshape(x.shape)
    columns = x.flatten(dim + 1)
    return (w.reshape(2, *[1] * (columns.ndim - 3), *w.shape[1:]) @ columns).reshape(x.shape)


@table
def _halves(kind: str, n: int, forward: bool, device) -> Tensor:
    """Left halves of the even and of the odd rows (2, h, h); forwards, a middle column counts half: its value was added to itself."""
    h = (n + 1) // 2
    left = split(_matrix(kind, n, device=device, dtype=torch.float64)[:, :h], -2)
    if n % 2 and forward:
        middle = torch.arange(h, device=device) == h - 1
        left = left * (1 - 0.5 * middle.to(torch.float64))
    return left.contiguous()


_REFLECTED = ("dst1", "dst2", "dct1", "dct2")


@table
def _matrix(kind: str, n: int, device) -> Tensor:
    if kind in ("dst3", "dct3"):
        return _matrix(INVERSE[kind], n, device=device, dtype=torch.float64).mT.contiguous()
    i = torch.arange(n, device=device)
    family, number = kind[:3], kind[3]
    k, j, period, scale = {
        ("dst", "1"): (i + 1, i + 1, n + 1, n + 1),
        ("dst", "2"): (i + 1, 2 * i + 1, 2 * n, n),
        ("dst", "4"): (2 * i + 1, 2 * i + 1, 4 * n, n),
        ("dct", "1"): (i, i, n - 1, n - 1),
        ("dct", "2"): (i, 2 * i + 1, 2 * n, n),
        ("dct", "4"): (2 * i + 1, 2 * i + 1, 4 * n, n),
    }[family, number]
    phase = (k[:, None] * j % (2 * period)).to(torch.float64) * (math.pi / period)  # reduced exactly
    q = math.sqrt(2 / scale) * (phase.sin() if family == "dst" else phase.cos())
    if kind == "dst2":
        q = q * _ends(n, last=True, device=device, dtype=torch.float64)[:, None]
    elif kind == "dct2":
        q = q * _ends(n, first=True, device=device, dtype=torch.float64)[:, None]
    elif kind == "dct1":
        ends = _ends(n, first=True, last=True, device=device, dtype=torch.float64)
        q = q * ends[:, None] * ends
    return q


def _ends(n: int, *, first: bool = False, last: bool = False, device, dtype) -> Tensor:
    """Ones, with 1/sqrt(2) at the first or last entry."""
    i = torch.arange(n, device=device)
    marked = ((i == 0) & first) | ((i == n - 1) & last)
    return (1 - (1 - math.sqrt(0.5)) * marked.to(torch.float64)).to(dtype)


@table
def _twiddle(n: int, count: int, quarter: bool, device) -> Tensor:
    """Return e^{-iπk/2n}, or e^{-iπ(2k+1)/4n} with `quarter`, k = 0 .. count-1, as pairs (count, 2)."""
    k = torch.arange(count, dtype=torch.float64, device=device)
    phase = -math.pi * (2 * k + 1) / (4 * n) if quarter else -math.pi * k / (2 * n)
    return torch.stack([phase.cos(), phase.sin()], dim=-1)


def _phase(n: int, count: int, x: Tensor, *, quarter: bool = False) -> Tensor:
    return torch.view_as_complex(_twiddle(n, count, quarter, device=x.device, dtype=x.dtype))


def _dct2(x: Tensor) -> Tensor:
    n = x.shape[-1]
    folded = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    half = n // 2 + 1
    z = torch.fft.rfft(folded) * _phase(n, half, x)
    y = torch.cat([z.real, -z.imag[..., 1 : (n + 1) // 2].flip(-1)], dim=-1)
    return y * (math.sqrt(2 / n) * _ends(n, first=True, device=x.device, dtype=x.dtype))


def _dct3(y: Tensor) -> Tensor:
    n = y.shape[-1]
    half = n // 2 + 1
    c = y * (math.sqrt(n / 2) / _ends(n, first=True, device=y.device, dtype=y.dtype))
    mirrored = torch.cat([torch.zeros_like(c[..., :1]), c[..., 1:].flip(-1)], dim=-1)[..., :half]
    folded = torch.fft.irfft(torch.complex(c[..., :half], -mirrored) * _phase(n, half, y).conj(), n=n)
    even, odd = folded[..., : (n + 1) // 2], folded[..., (n + 1) // 2 :].flip(-1)
    out = torch.stack([even[..., : n // 2], odd], dim=-1).flatten(-2)
    return out if n % 2 == 0 else torch.cat([out, even[..., -1:]], dim=-1)


def _signs(x: Tensor) -> Tensor:
    return 1 - 2 * (torch.arange(x.shape[-1], device=x.device) % 2).to(x.dtype)


def _dst2(x: Tensor) -> Tensor:
    return _dct2(x * _signs(x)).flip(-1)


def _dst3(y: Tensor) -> Tensor:
    return _dct3(y.flip(-1)) * _signs(y)


def _dst1(x: Tensor) -> Tensor:
    n = x.shape[-1]
    zero = torch.zeros_like(x[..., :1])
    odd = torch.cat([zero, x, zero, -x.flip(-1)], dim=-1)
    return torch.fft.rfft(odd).imag[..., 1 : n + 1] * -math.sqrt(0.5 / (n + 1))


def _dct1(x: Tensor) -> Tensor:
    n = x.shape[-1]
    ends = _ends(n, first=True, last=True, device=x.device, dtype=x.dtype)
    even = torch.cat([x / ends, x[..., 1:-1].flip(-1)], dim=-1)  # ends of weight 1/2, times 2 for the mirrored sum
    return torch.fft.rfft(even).real * (ends * math.sqrt(0.5 / (n - 1)))


def _type4(x: Tensor) -> Tensor:
    n = x.shape[-1]
    return torch.fft.fft(x * _phase(n, n, x), n=2 * n)[..., :n] * (math.sqrt(2 / n) * _phase(n, n, x, quarter=True))


_FFT = {
    "dst1": _dst1,
    "dst2": _dst2,
    "dst3": _dst3,
    "dst4": lambda x: -_type4(x).imag,
    "dct1": _dct1,
    "dct2": _dct2,
    "dct3": _dct3,
    "dct4": lambda x: _type4(x).real,
}
