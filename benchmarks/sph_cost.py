"""Cost of the particle solvers: CPU time per step and per particle, one thread, each case in its own process.

The floor beside each row is the time of one evaluation's arithmetic, 80 operations per directed pair, at the rate at
which this machine multiplies and adds arrays that stay in cache; what is above it is memory traffic and overhead.

Run: python benchmarks/sph_cost.py
"""

import json
import os
import resource
import subprocess
import sys

CASES = (
    "case I rk4",
    "Sod",
    "Taylor-Green 50",
    "Taylor-Green 50 float32",
    "8 x Taylor-Green 50",
    "Taylor-Green 100",
    "blobs DFSPH",
    "tank WCSPH",
)
STEPS = {"case I rk4": 100, "Sod": 40, "8 x Taylor-Green 50": 10, "Taylor-Green 100": 15}


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def setting(name: str):
    """Return a function that takes a number of steps, and the number of particles."""
    import torch

    from opkernels import Domain, ParticleSet
    from opkernels.solvers.sph import CompressibleSPH1D, IncompressibleSPH2D, Isothermal, Walls, WeaklyCompressibleSPH2D
    from opkernels.solvers.sph.cases import acoustic_wave, colliding_blobs, shock_tube, still_tank, taylor_green

    if name == "case I rk4":
        case, dt = acoustic_wave(2048), 2e-4
        solver = CompressibleSPH1D(case.particles.domain, eos=Isothermal(10**0.5, 1.0), adaptive=False, scheme="rk4")
    elif name == "Sod":
        case, dt = shock_tube(400), 5e-4
        solver = CompressibleSPH1D(case.particles.domain)
    elif "Taylor-Green" in name:
        case, dt = taylor_green(100 if name.endswith("100") else 50), 4e-4
        solver = WeaklyCompressibleSPH2D(case.particles.domain, sound_speed=10.0, viscosity=0.01, shifting=True)
    elif name == "blobs DFSPH":
        case, dt = colliding_blobs(0.0165, centers=((-0.23, 0.05), (0.23, -0.05))), 5e-3
        solver = IncompressibleSPH2D(case.particles.domain)
    else:
        domain = Domain.box(2.0, 2.0)
        case, dt = still_tank(domain, 0.05, 1.0, sound_speed=10.0), 1e-3
        walls = Walls.of_box(domain, 0.05, 0.15, open_sides=("+y",))
        solver = WeaklyCompressibleSPH2D(domain, sound_speed=10.0, alpha=0.05, gravity=(0.0, -1.0), walls=walls)
    particles, velocities = case.particles, case.velocities
    if name.startswith("8 x"):
        particles, velocities = ParticleSet.stack([particles] * 8), torch.cat([velocities] * 8)
    if "float32" in name:
        particles, velocities = particles.to(torch.float32), velocities.float()
    options = {} if case.energies is None else {"energies": case.energies, "frozen": case.frozen}
    pairs = particles.neighbors().n_edges

    def steps(n: int) -> int:
        return solver.solve(particles, [n * dt], velocities=velocities, dt=dt, **options).n_steps

    return steps, len(particles), pairs


def measure(name: str) -> dict:
    import torch

    torch.set_num_threads(1)
    steps, particles, pairs = setting(name)
    a, b = torch.rand(2, 50_000, dtype=torch.float64)
    start = cpu()
    for _ in range(400):
        torch.add(torch.mul(a, b, out=b), a, out=b)
    per_operation = (cpu() - start) / (400 * 2 * 50_000)
    n = STEPS.get(name, 30)
    steps(2)
    best = float("inf")
    for _ in range(3):
        start = cpu()
        taken = steps(n)
        best = min(best, (cpu() - start) / taken)
    evaluations = 4 if "rk4" in name else 1
    return {"step": best, "particles": particles, "pairs": pairs, "floor": 80 * pairs * evaluations * per_operation}


def main() -> None:
    environment = dict(os.environ, OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_="4294967296", MALLOC_TRIM_THRESHOLD_="8589934592")
    environment["MALLOC_TOP_PAD_"] = "268435456"
    print(f"{'case':26} {'particles':>9} {'pairs':>8} {'ms/step':>8} {'us/particle/step':>17} {'/ floor':>8}")
    for name in CASES:
        out = subprocess.run([sys.executable, __file__, name], env=environment, capture_output=True, text=True, check=True).stdout
        row = json.loads(out)
        print(f"{name:26} {row['particles']:9d} {row['pairs']:8d} {1e3 * row['step']:8.2f} "
              f"{1e6 * row['step'] / row['particles']:17.2f} {row['step'] / row['floor']:8.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
