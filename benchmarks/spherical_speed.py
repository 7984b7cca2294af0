"""Spherical harmonic transforms against torch-harmonics: CPU time as ratios in one run, on equal results.

Each row is a grid of Gauss latitudes with the truncation that keeps products free of aliasing (T21 on 32 x 64, T42 on 64 x 128, T85 on
128 x 256), a number of fields transformed at once and a dtype. "scalar" is `Harmonics.analyze` and `.synthesize` against RealSHT and
InverseRealSHT, "vector" `.vorticity_divergence` and `.velocity` against RealVectorSHT and InverseRealVectorSHT, which leave out the
factor l (l + 1) between their coefficients and vorticity and divergence. Contenders take turns, on one thread, and the ratio is that of
the best times. Beside it stand the multiplications that no exact algorithm of this kind can avoid (the Legendre sums over l >= m and one
half of the sphere), as a time at the speed that a large matrix product reaches in the same run, and the bytes of the tables of both.

torch-harmonics pins a version of torch. Any release with these classes can be put into a folder of its own:

    pip install --no-deps --target FOLDER torch-harmonics==0.8.0
    python benchmarks/spherical_speed.py --path FOLDER

(writes benchmarks/results/spherical_speed.json; without the package the contender is a plain sum over dense tables)
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

from measuring import QUIET

RESULTS = Path(__file__).parent / "results" / "spherical_speed.json"
SIZES = {21: (32, 64), 42: (64, 128), 85: (128, 256), 170: (256, 512)}


def peer_transforms(degree: int, dtype):
    """Return (name, calls, bytes of tables) of torch-harmonics, or of a plain sum where it cannot be imported."""
    import torch

    nlat, nlon = SIZES[degree]
    try:
        import torch_harmonics as th
    except ImportError:
        return plain_transforms(degree, dtype)
    kinds = {
        "analyze": th.RealSHT,
        "synthesize": th.InverseRealSHT,
        "vorticity_divergence": th.RealVectorSHT,
        "velocity": th.InverseRealVectorSHT,
    }
    options = {"lmax": degree + 1, "mmax": degree + 1, "grid": "legendre-gauss", "csphase": False}
    modules = {name: kind(nlat, nlon, **options).to(dtype) for name, kind in kinds.items()}
    size = {name: sum(b.numel() * b.element_size() for b in module.buffers()) for name, module in modules.items()}
    with torch.no_grad():
        return f"torch-harmonics {th.__version__}", modules, size


def plain_transforms(degree: int, dtype):
    """Return dense sums for scalar fields alone: an FFT and one product over all l, m and latitudes."""
    import torch

    from opkernels import Sphere
    from opkernels.spherical import Harmonics

    nlat, nlon = SIZES[degree]
    grid = Sphere().grid(nlat, nlon)
    index = torch.arange(degree + 1)
    table = torch.zeros(degree + 1, degree + 1, nlat, dtype=torch.float64)  # m, l, latitude
    for order in range(degree + 1):
        z = torch.zeros(degree + 1, degree + 1, degree + 1, dtype=torch.complex128)
        z[index, index, order] = 1
        rows = torch.fft.rfft(Harmonics(degree).synthesize(z.tril(), grid), norm="forward")[..., order].real
        table[order] = rows
    weights = (grid.weights(dtype=torch.float64)[:, 0] * nlon).to(dtype)
    table = table.to(dtype)

    def analyze(x):
        rows = torch.fft.rfft(x, norm="forward")[..., : degree + 1]
        return torch.einsum("mlj,j,bjm->blm", table.to(rows.dtype), weights.to(rows.dtype), rows)

    def synthesize(z):
        return torch.fft.irfft(torch.einsum("mlj,blm->bjm", table.to(z.dtype), z), n=nlon, norm="forward")

    size = table.numel() * table.element_size()
    return "plain sums", {"analyze": analyze, "synthesize": synthesize}, {"analyze": size, "synthesize": size}


def our_transforms(degree: int):
    from opkernels import Sphere
    from opkernels.spherical import Harmonics

    grid, harmonics = Sphere().grid(*SIZES[degree]), Harmonics(degree)
    return {
        "analyze": lambda x: harmonics.analyze(x, grid),
        "synthesize": lambda z: harmonics.synthesize(z, grid),
        "vorticity_divergence": lambda x: harmonics.vorticity_divergence(x[:, 0], x[:, 1], grid),
        "velocity": lambda z: harmonics.velocity(z[:, 0], z[:, 1], grid),
    }


def table_bytes(degree: int, item: int) -> dict[str, int]:
    """Return the bytes of our tables, by kind of transform."""
    from opkernels.spherical import Harmonics

    nlat, _ = SIZES[degree]
    scalar, vector = Harmonics(degree).table_numbers(nlat)
    return {"analyze": item * scalar, "synthesize": item * scalar, "vorticity_divergence": item * vector, "velocity": item * vector}


def inputs(degree: int, fields: int, dtype) -> dict:
    """Return random samples and coefficients, scalar and vector."""
    import torch

    generator = torch.Generator().manual_seed(0)
    nlat, nlon = SIZES[degree]
    x = torch.randn(fields, 2, nlat, nlon, generator=generator, dtype=torch.float64).to(dtype)
    calls = our_transforms(degree)
    z = calls["analyze"](x)
    return {"analyze": x[:, 0].contiguous(), "synthesize": z[:, 0].contiguous(), "vorticity_divergence": x, "velocity": z.contiguous()}


def difference(name: str, ours, theirs, degree: int) -> float:
    """Return the largest difference of two results over the largest value; the vector conventions are brought together."""
    import torch

    if name in ("vorticity_divergence", "velocity"):
        ours = torch.stack(ours, dim=1)
    if name == "vorticity_divergence":
        ell = torch.arange(degree + 1, dtype=torch.float64)[:, None]
        theirs = -(ell * (ell + 1)) * theirs
    return ((ours - theirs).abs().max() / ours.abs().max()).item()


def brought(name: str, z, degree: int):
    """Return coefficients as the peer wants them."""
    import torch

    if name != "velocity":
        return z
    ell = torch.arange(degree + 1, dtype=z.real.dtype)[:, None]
    return z * torch.where(ell > 0, -1 / (ell * (ell + 1)).clamp_min(1), 0.0)


def best_times(calls: dict, rounds: int) -> dict[str, float]:
    """Return the least CPU seconds of each call; the calls take turns."""
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - start)
    return best


def product_speed(dtype) -> float:
    """Return the floating-point operations per second of a large matrix product."""
    import torch

    a = torch.randn(768, 768).to(dtype)
    return 2 * 768**3 / best_times({"product": lambda: a @ a}, 20)["product"]


def floor_flops(name: str, degree: int, fields: int) -> float:
    """Return the operations of the Legendre sums over l >= m on one half of the sphere: the real and the imaginary part of each field."""
    nlat, _ = SIZES[degree]
    one = 2 * 2 * (degree + 1) * (degree + 2) / 2 * nlat / 2
    return fields * one * (4 if name in ("vorticity_divergence", "velocity") else 1)  # two components, two tables


def compare(degree: int, fields: int, dtype, seconds: float) -> list[dict]:
    """Measure one grid, number of fields and dtype."""
    import torch

    data, ours = inputs(degree, fields, dtype), our_transforms(degree)
    peer, theirs, their_bytes = peer_transforms(degree, dtype)
    our_bytes = table_bytes(degree, torch.empty((), dtype=dtype).element_size())
    speed, rows = product_speed(dtype), []
    for name, call in theirs.items():
        other = brought(name, data[name], degree)
        calls = {"ours": lambda name=name: ours[name](data[name]), "theirs": lambda call=call, other=other: call(other)}
        once = max(best_times(calls, 3).values())
        best = best_times(calls, max(10, min(500, int(seconds / once / 2))))
        rows.append(
            {
                "transform": name,
                "degree": degree,
                "fields": fields,
                "dtype": str(dtype).removeprefix("torch."),
                "peer": peer,
                "ours_ms": 1e3 * best["ours"],
                "theirs_ms": 1e3 * best["theirs"],
                "ratio": best["theirs"] / best["ours"],
                "floor_ms": 1e3 * floor_flops(name, degree, fields) / speed,
                "difference": difference(name, calls["ours"](), calls["theirs"](), degree),
                "ours_mb": our_bytes[name] / 1e6,
                "theirs_mb": their_bytes[name] / 1e6,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("degrees", type=int, nargs="*", default=[21, 42, 85])
    parser.add_argument("--fields", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=0.6, help="CPU time for each row")
    parser.add_argument("--path", help="folder in which torch-harmonics was installed")
    chosen = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in QUIET.items()):  # the allocator reads them at the start
        os.execve(sys.executable, [sys.executable, __file__, *sys.argv[1:]], os.environ | QUIET)
    if chosen.path:
        sys.path.append(chosen.path)
    import torch

    torch.set_num_threads(1)
    rows = []
    for dtype in (torch.float32, torch.float64):
        for degree in chosen.degrees:
            for fields in chosen.fields:
                for row in compare(degree, fields, dtype, chosen.seconds):
                    rows.append(row)
                    print(
                        f"{row['dtype']} T{degree:<3} {fields:2} fields {row['transform']:20} {row['ours_ms']:8.3f} ms, {row['peer']} "
                        f"{row['theirs_ms']:8.3f} ms: {row['ratio']:5.2f}x   floor {row['floor_ms']:7.3f} ms   difference "
                        f"{row['difference']:.0e}   tables {row['ours_mb']:.1f} and {row['theirs_mb']:.1f} MB",
                        flush=True,
                    )
    for kind in (("analyze", "synthesize"), ("vorticity_divergence", "velocity")):
        found = sorted(row["ratio"] for row in rows if row["transform"] in kind)
        if found:
            print(f"{' and '.join(kind)}: median ratio {found[len(found) // 2]:.2f}, from {found[0]:.2f} to {found[-1]:.2f}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
