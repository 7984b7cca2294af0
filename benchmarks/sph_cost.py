"""Cost of the particle solvers: CPU time per step and per particle, one thread, each case in its own process.

The floor beside each row is the time of one evaluation's arithmetic, 80 operations per directed pair, at the rate at
which this machine multiplies and adds arrays that stay in cache; what is above it is memory traffic and overhead.

With ``--peer PYTHON``, an interpreter that has jax-sph 0.1.0 (Python 3.9 to 3.11), that solver runs the same Taylor-Green
flow: as many particles, quintic spline of support 3 spacings, 0.4 ms steps, nu = 0.01, c = 10, density from the continuity
equation; transport velocity there, density diffusion and shifting here. It is compiled before it is timed, may use one thread,
and takes its fastest list of neighbors on a CPU ("jaxmd_vmap"). Both take turns; best and median of the rounds.
"kinetic energy" is that of the end over the start, exactly e^(-16 pi^2 nu t): that both solve the flow.

Run: python benchmarks/sph_cost.py [--peer PYTHON]     (about two minutes; writes benchmarks/results/sph_cost.json)
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

from measuring import QUIET, cpu

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
ROUNDS, PEER_STEPS = 3, 15
CONTENDERS = ("jax-sph", "ours", "ours, plain", "ours, Wendland C2")  # plain: neither diffusion nor shifting
QUIET = QUIET | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "JAX_PLATFORMS": "cpu"}
RESULTS = Path(__file__).parent / "results" / "sph_cost.json"


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


def of_jax_sph(n: int, dtype: str) -> dict:
    """Run n x n particles by jax-sph; return CPU seconds per step of some rounds, pairs, and the decay of kinetic energy."""
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", dtype == "float64")
    import jax.numpy as jnp
    from jax_sph import partition
    from jax_sph.eos import TaitEoS
    from jax_sph.integrator import si_euler
    from jax_sph.jax_md import space
    from jax_sph.jax_md.partition import Sparse
    from jax_sph.solver import WCSPH
    from jax_sph.utils import Tag

    cells = (np.arange(n) + 0.5) / n
    x = np.stack(np.meshgrid(cells, cells, indexing="ij"), -1).reshape(-1, 2)
    x = x + 0.1 / n * (2 * np.random.default_rng(0).random(x.shape) - 1)
    a, b = 2 * np.pi * x.T
    box, x, v = np.array([1.0, 1.0]), jnp.asarray(x), jnp.asarray(np.stack([-np.cos(a) * np.sin(b), np.sin(a) * np.cos(b)], 1))
    one, still = jnp.ones(n * n), jnp.zeros((n * n, 2))
    eos = TaitEoS(100.0, 1.0, 0.0, 1.0)  # p = c^2 (rho - 1)
    displacement, shift = space.periodic(side=box)
    solver = WCSPH(displacement, eos, jnp.zeros_like, 1 / n, 2, 4e-4, 10.0, 3, "SPH", "QSK", False, True, 0.0, False, False, False)
    state = {"r": x, "tag": jnp.full(n * n, Tag.FLUID, dtype=int), "u": v, "v": v, "dudt": still, "dvdt": still, "nw": still}
    state |= {"rho": one, "p": eos.p_fn(one), "mass": one / n**2, "eta": 0.01 * one, "T": one, "Cp": 0 * one}
    state |= {name: 0 * one for name in ("drhodt", "dTdt", "kappa")}
    make_list = partition.neighbor_list(
        displacement,
        box,
        r_cutoff=solver._kernel_fn.cutoff,
        backend="jaxmd_vmap",
        capacity_multiplier=1.25,
        mask_self=False,
        format=Sparse,
        num_particles_max=n * n,
        num_partitions=1,
        pbc=np.array([True] * 3),
    )
    near = make_list.allocate(x, num_particles=n * n)
    advance = jax.jit(si_euler(1.0, solver.forward_wrapper(), shift, lambda state: state, None))
    state, near = jax.block_until_ready(advance(0.0, state, near))
    before, seconds = float((state["u"] ** 2).sum()), []
    for _ in range(ROUNDS):
        start = cpu()
        for _ in range(PEER_STEPS):
            state, near = advance(4e-4, state, near)
        jax.block_until_ready(state["u"])
        seconds.append((cpu() - start) / PEER_STEPS)
    assert not bool(near.did_buffer_overflow)
    pairs = int((near.idx[0] < n * n).sum())
    return {"seconds": seconds, "pairs": pairs, "decay": float((state["u"] ** 2).sum()) / before}


def of_ours(name: str, n: int, dtype: str) -> dict:
    """Run the same flow by `WeaklyCompressibleSPH2D`."""
    import torch

    from opkernels.solvers.sph import WeaklyCompressibleSPH2D
    from opkernels.solvers.sph.cases import taylor_green

    torch.set_num_threads(1)
    case = taylor_green(n)
    particles, v = case.particles.to(getattr(torch, dtype)), case.velocities.to(getattr(torch, dtype))
    plain = {"shifting": False, "diffusion": 0.0} if name.endswith("plain") else {"shifting": True}
    kernel = "wendland2" if name.endswith("C2") else "quintic"
    solver = WeaklyCompressibleSPH2D(particles.domain, sound_speed=10.0, viscosity=0.01, kernel=kernel, **plain)
    seconds, first = [], v
    solver.solve(particles, [8e-4], velocities=v, dt=4e-4)
    for k in range(ROUNDS):
        start = cpu()
        run = solver.solve(particles, [(k + 1) * PEER_STEPS * 4e-4], velocities=v, t0=k * PEER_STEPS * 4e-4, dt=4e-4)
        seconds.append((cpu() - start) / run.n_steps)
        particles, v = run.frame(-1), run.velocities[-1]
    decay = float(v.square().sum() / first.square().sum())
    return {"seconds": seconds, "pairs": particles.neighbors().n_edges, "decay": decay}


def compare(peer: str, n: int, dtype: str) -> dict:
    """Return the costs of jax-sph and ours, in turns, each in its own process."""
    runs = {name: [] for name in CONTENDERS}
    for _ in range(2):
        for name in CONTENDERS:
            command = [peer if name == "jax-sph" else sys.executable, __file__, "--case", name, str(n), dtype]
            runs[name].append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
    row = {"particles": n * n, "dtype": dtype, "exact decay": math.exp(-16 * math.pi**2 * 0.01 * ROUNDS * PEER_STEPS * 4e-4)}
    for name, parts in runs.items():
        us = [1e6 * seconds / n**2 for part in parts for seconds in part["seconds"]]
        row[name] = {"us/particle/step": min(us), "median": statistics.median(us), "pairs": parts[0]["pairs"]}
        row[name] |= {"kinetic energy": parts[0]["decay"], "jax-sph / this": row["jax-sph"]["us/particle/step"] / min(us)}
    return row


def main(peer: str | None) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    print(f"{'case':26} {'particles':>9} {'pairs':>8} {'ms/step':>8} {'us/particle/step':>17} {'/ floor':>8}")
    results["cases"] = {}
    for name in CASES:
        out = subprocess.run([sys.executable, __file__, "--case", name], stdout=subprocess.PIPE, text=True, check=True).stdout
        row = results["cases"][name] = json.loads(out)
        row |= {"us/particle/step": 1e6 * row["step"] / row["particles"], "over floor": row["step"] / row["floor"]}
        print(f"{name:26} {row['particles']:9d} {row['pairs']:8d} {1e3 * row['step']:8.2f} "
              f"{row['us/particle/step']:17.2f} {row['over floor']:8.1f}", flush=True)  # fmt: skip
    if peer is not None:
        results["jax-sph"] = [compare(peer, n, dtype) for n, dtype in ((50, "float64"), (50, "float32"), (100, "float64"))]
        for row in results["jax-sph"]:
            print(f"\n{row['particles']} particles, {row['dtype']}: us/particle/step, median, and times faster than jax-sph")
            for name in CONTENDERS:
                us, median, _, _, ratio = row[name].values()
                print(f"  {name:20} {us:6.2f} {median:6.2f} {ratio:6.2f}")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def run_case(name: str, n: str = "50", dtype: str = "float64") -> dict:
    if name in CASES:
        return measure(name)
    return of_jax_sph(int(n), dtype) if name == "jax-sph" else of_ours(name, int(n), dtype)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has jax-sph")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not QUIET.items() <= os.environ.items():
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=os.environ | QUIET).returncode)
    if arguments.case:
        print(json.dumps(run_case(*arguments.case)))
    else:
        main(arguments.peer)
