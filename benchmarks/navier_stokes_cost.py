"""Cost of two-dimensional Navier-Stokes at 128²: the right-hand side against its transforms, and CPU time at equal error.

    python benchmarks/navier_stokes_cost.py

Peers: exponax (ETDRK4 under XLA) and the published algorithm of the Fourier-neural-operator data
(Crank-Nicolson and forward Euler, advective form, five transforms), written out below. Every
contestant runs in its own process on one thread; the figure is CPU time (user and system), the
smallest of several runs. Flow: ten times the initial field of those data (so that it moves like
their later, forced state), ν = 1e-3, T = 2, float64.
"""

import json
import math
import os
import resource
import subprocess
import sys
import time

N, VISCOSITY, END = 128, 1e-3, 2.0
STEPS = {
    "IFRK4": (40, 60, 80, 120, 160),
    "IFAB4": (160, 200, 240, 320),
    "ETDRK4": (60, 80, 120),
    "exponax": (60, 80, 100, 120),
    "FNO": (640, 1280, 2560),
}


def cpu(function, repeats):
    """Return the smallest CPU time of a call, in seconds."""
    best = math.inf
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_SELF)
        function()
        after = resource.getrusage(resource.RUSAGE_SELF)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def flow():
    import torch

    from opkernels import Domain
    from opkernels.solvers import GaussianRandomField

    torch.set_num_threads(1)
    domain = Domain.periodic(1.0, 1.0)
    return domain, 10 * GaussianRandomField(domain, alpha=2.5, tau=7.0).sample(1, (42, 42), seed=0, dtype=torch.float64)


def start():
    """Return the domain and the initial field, band-limited to |n| <= 20."""
    from opkernels import resample

    domain, w = flow()
    return domain, resample(w, domain.grid(42, 42), (N, N))


def reference():
    import torch

    from opkernels.solvers import NavierStokes2D

    domain, w = start()
    with torch.no_grad():
        return NavierStokes2D(domain, viscosity=VISCOSITY, method="ETDRK4").solve(w, [END], dt=END / 1600)[0, 0]


def ours(method):
    import torch

    from opkernels.solvers import NavierStokes2D

    domain, w = start()
    truth, solver = reference(), NavierStokes2D(domain, viscosity=VISCOSITY, method=method)
    rows = []
    with torch.no_grad():
        for steps in STEPS[method]:
            out = solver.solve(w, [END], dt=END / steps)[0, 0]
            rows.append((steps, ((out - truth).norm() / truth.norm()).item(), cpu(lambda n=steps: solver.solve(w, [END], dt=END / n), 7)))
        out = solver.solve(w, [END])[0, 0]
        rows.append(("own", ((out - truth).norm() / truth.norm()).item(), cpu(lambda: solver.solve(w, [END]), 7)))
    return rows


def exponax():
    import jax

    jax.config.update("jax_enable_x64", True)
    import exponax as ex
    import numpy as np

    _, w = start()
    truth = reference().numpy()
    w = jax.numpy.asarray(-w[0].numpy())  # its velocity has the opposite sign
    rows = []
    for steps in STEPS["exponax"]:
        stepper = ex.stepper.NavierStokesVorticity(2, 1.0, N, END / steps, diffusivity=VISCOSITY, order=4)
        solve = jax.jit(ex.repeat(stepper, steps))
        out = -np.asarray(solve(w))[0]
        rows.append((steps, float(np.linalg.norm(out - truth) / np.linalg.norm(truth)), cpu(lambda f=solve: f(w).block_until_ready(), 7)))
    return rows


def fno_step(w_hat, tables, h, viscosity):
    """Take one step of the published generator: advective form, forward Euler, Crank-Nicolson."""
    import torch

    kx, ky, laplacian, mask, size = tables
    psi = w_hat / laplacian
    u, v = torch.fft.irfft2(2j * math.pi * ky * psi, s=size), torch.fft.irfft2(-2j * math.pi * kx * psi, s=size)
    w_x, w_y = torch.fft.irfft2(2j * math.pi * kx * w_hat, s=size), torch.fft.irfft2(2j * math.pi * ky * w_hat, s=size)
    transport = mask * torch.fft.rfft2(u * w_x + v * w_y)
    half = 0.5 * h * viscosity * laplacian
    return (-h * transport + (1 - half) * w_hat) / (1 + half)


def fno():
    import torch

    _, w = start()
    truth = reference()
    k = torch.cat([torch.arange(N // 2), torch.arange(-N // 2, 0)])
    kx, ky = k[:, None].expand(N, N)[:, : N // 2 + 1], k[None].expand(N, N)[:, : N // 2 + 1]
    laplacian = 4 * math.pi**2 * (kx**2 + ky**2).double()
    laplacian[0, 0] = 1.0
    mask = ((kx.abs() <= 2 / 3 * (N // 2)) & (ky.abs() <= 2 / 3 * (N // 2))).double()

    def solve(steps):
        w_hat = torch.fft.rfft2(w)
        for _ in range(steps):
            w_hat = fno_step(w_hat, (kx, ky, laplacian, mask, (N, N)), END / steps, VISCOSITY)
        return torch.fft.irfft2(w_hat, s=(N, N))[0, 0]

    rows = []
    with torch.no_grad():
        for steps in STEPS["FNO"]:
            rows.append((steps, ((solve(steps) - truth).norm() / truth.norm()).item(), cpu(lambda n=steps: solve(n), 2)))
    return rows


def right_hand_side():
    """Return microseconds of the right-hand side and of its four transforms: four calls, and two calls on pairs."""
    import torch

    from opkernels.solvers import NavierStokes2D

    domain, w64 = start()
    rows = []
    for dtype in (torch.float64, torch.float32):
        for batch in (1, 16):
            w = w64.to(dtype).expand(batch, -1, -1, -1).contiguous()
            problem = NavierStokes2D(domain, viscosity=VISCOSITY)._bind(domain.grid(N, N), w)
            state = problem.encode(w)
            spectra = torch.fft.rfft2(w.expand(-1, 2, -1, -1)).contiguous()
            single = [spectra[:, :1].contiguous(), spectra[:, 1:].contiguous()]

            def pairs(spectra=spectra):
                torch.fft.rfft2(torch.fft.irfft2(spectra, s=(N, N)))

            def four(single=single):
                for one in single:
                    torch.fft.rfft2(torch.fft.irfft2(one, s=(N, N)))

            contestants = {"rhs": lambda p=problem, s=state: p.nonlinear(s, 0.0), "four": four, "pairs": pairs}
            best = dict.fromkeys(contestants, math.inf)
            with torch.no_grad():
                for _ in range(200 if batch == 1 else 60):
                    for name, function in contestants.items():
                        before = time.process_time()
                        for _ in range(10):
                            function()
                        best[name] = min(best[name], (time.process_time() - before) / 10)
            rows.append((str(dtype), batch, *(1e6 * best[name] for name in contestants)))
    return rows


def at_error(rows, error):
    """Return the CPU time at an error, by log-log interpolation (or extrapolation from the nearest pair)."""
    points = sorted((math.log(e), math.log(t)) for steps, e, t in rows if steps != "own")
    pair = next((p for p in zip(points, points[1:], strict=False) if p[1][0] >= math.log(error)), tuple(points[-2:]))
    (e0, t0), (e1, t1) = pair
    return math.exp(t0 + (t1 - t0) * (math.log(error) - e0) / (e1 - e0))


PARTS = {
    "IFRK4": lambda: ours("IFRK4"),
    "IFAB4": lambda: ours("IFAB4"),
    "ETDRK4": lambda: ours("ETDRK4"),
    "exponax": exponax,
    "FNO": fno,
    "rhs": right_hand_side,
}


def isolated(part):
    environment = dict(
        os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    )
    environment |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33), "MALLOC_TOP_PAD_": str(1 << 28)}
    done = subprocess.run([sys.executable, __file__, part], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    print("right-hand side at 128², µs:   dtype, batch, rhs, four transforms, the same as two pairs, ratios")
    for dtype, batch, rhs, four, pairs in isolated("rhs"):
        print(f"  {dtype} B={batch:2d}  {rhs:8.0f} {four:8.0f} {pairs:8.0f}   {rhs / four:.2f} {rhs / pairs:.2f}")
    rows = {part: isolated(part) for part in ("IFRK4", "IFAB4", "ETDRK4", "exponax", "FNO")}
    print("steps -> error, CPU ms")
    for part, table in rows.items():
        print(f"  {part:8s}" + "   ".join(f"{steps} -> {error:.1e}, {1e3 * seconds:.1f}" for steps, error, seconds in table))
    for error in (1e-6, 1e-7):
        peer = at_error(rows["exponax"], error)
        print(
            f"at error {error:g}: exponax {1e3 * peer:.1f} ms; "
            + "; ".join(f"{p} {peer / at_error(rows[p], error):.2f}x cheaper" for p in ("IFRK4", "IFAB4", "ETDRK4"))
        )
    own = next(t for steps, _, t in rows["IFRK4"] if steps == "own")
    peer = at_error(rows["FNO"], 7e-4)
    print(f"at error 7e-4: FNO generator {1e3 * peer:.0f} ms, {peer / at_error(rows['IFRK4'], 7e-4):.0f}x the cost of IFRK4 (extrapolated)")
    steps, error, cost = rows["IFRK4"][0]
    print(f"  against IFRK4 in {steps} steps (error {error:.1e}): {peer / cost:.0f}x; against its own step: {peer / own:.0f}x")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(PARTS[sys.argv[1]]()))
    else:
        main()
