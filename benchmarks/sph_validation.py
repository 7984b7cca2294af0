"""Validation ladder of the particle solvers: each case against its answer, at full resolution.

Run: python benchmarks/sph_validation.py [case ...]     (all cases take about 40 minutes on one core)

Ghia, Ghia and Shin 1982 (https://doi.org/10.1016/0021-9991(82)90058-4), Re = 100, for the cavity.
"""

import math
import resource
import sys

import torch

from opkernels import Axis, Domain, ParticleSet
from opkernels.solvers.sph import CompressibleSPH1D, IdealGas, IncompressibleSPH2D, Isothermal, Walls, WeaklyCompressibleSPH2D
from opkernels.solvers.sph.cases import (
    colliding_blobs,
    couette_velocity,
    poiseuille_velocity,
    riemann_solution,
    shock_tube,
    still_tank,
    taylor_green,
)

Y = (0.9766, 0.9688, 0.9609, 0.9531, 0.8516, 0.7344, 0.6172, 0.5, 0.4531, 0.2813, 0.1719, 0.1016, 0.0703, 0.0625, 0.0547)
U = (
    *(0.84123, 0.78871, 0.73722, 0.68717, 0.23151, 0.00332, -0.13641, -0.20581),
    *(-0.21090, -0.15662, -0.10150, -0.06434, -0.04775, -0.04192, -0.03717),
)
X = (0.9688, 0.9609, 0.9531, 0.9453, 0.9063, 0.8594, 0.8047, 0.5, 0.2344, 0.2266, 0.1563, 0.0938, 0.0781, 0.0703, 0.0625)
V = (
    *(-0.05906, -0.07391, -0.08864, -0.10313, -0.16914, -0.22445, -0.24533, 0.05454),
    *(0.17527, 0.17507, 0.16077, 0.12317, 0.10890, 0.10091, 0.09233),
)


def report(case: str, **figures) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(f"{case:34} {numbers}   [{usage.ru_utime + usage.ru_stime:.0f} s CPU so far]", flush=True)


def shock_tubes() -> None:
    for gamma, eos in ((1.4, IdealGas()), (None, Isothermal(1.0))):
        for n in (200, 400, 800):
            left, right = (1.0, 1.0), (0.125, 0.1 if gamma else 0.125)
            case = shock_tube(n, left=left, right=right, gamma=gamma)
            solver = CompressibleSPH1D(case.particles.domain, eos=eos)
            run = solver.solve(case.particles, [0.0, 0.2], energies=case.energies, frozen=case.frozen)
            live = ~case.frozen
            rho, u, _ = riemann_solution((run.positions[1, live, 0] - 0.5) / 0.2, left, right, gamma)
            volume = case.particles.masses[live] / run.densities[1, live]
            error = float((volume * (run.densities[1, live] - rho).abs()).sum() / (volume * rho).sum())
            report(f"{'Sod' if gamma else 'isothermal Riemann'} N={n * 9 // 8}", L1_density=error, L1_velocity=float(
                (volume * (run.velocities[1, live, 0] - u).abs()).sum()))  # fmt: skip


def taylor_green_decay(n: int = 100, end: float = 1.0, jitter: float = 0.1) -> None:
    case = taylor_green(n, jitter=jitter)
    solver = WeaklyCompressibleSPH2D(case.particles.domain, sound_speed=10.0, viscosity=0.01, shifting=True)
    run = solver.solve(case.particles, [0.0, end / 2, end], velocities=case.velocities)
    energy, rate = run.kinetic_energy(), -16 * math.pi**2 * 0.01
    errors = [math.log(energy[k] / energy[0]) / (rate * run.times[k]) - 1 for k in (1, 2)]
    report(f"Taylor-Green {n}x{n} jitter {jitter}", rate_error_half=errors[0], rate_error=errors[1],
           least_density=float(run.densities.min()), largest_density=float(run.densities.max()))  # fmt: skip


def push(x: torch.Tensor, time: float) -> torch.Tensor:
    return torch.tensor([8.0, 0.0], dtype=x.dtype).expand_as(x)


def channels() -> None:
    for n in (30, 60):
        spacing = 1 / n
        domain = Domain((Axis(0, 8 * spacing, periodic=True), Axis(0, 1)))
        particles = still_tank(domain, spacing, 1.0).particles
        times = [0.05, 0.1, 0.5]
        walls = Walls.of_box(domain, spacing, 3 * spacing, velocities={"+y": (1.0, 0.0)})
        run = WeaklyCompressibleSPH2D(domain, sound_speed=10.0, viscosity=1.0, walls=walls).solve(particles, times)
        errors = [
            (v[:, 0] - couette_velocity(x[:, 1], t, speed=1.0, width=1.0, viscosity=1.0)).abs().max()
            for t, x, v in zip(times, run.positions, run.velocities, strict=True)
        ]
        report(f"Couette {n} rows", **{f"max_error_{t}": float(e) for t, e in zip(times, errors, strict=True)})
        walls = Walls.of_box(domain, spacing, 3 * spacing)
        solver = WeaklyCompressibleSPH2D(domain, sound_speed=10.0, viscosity=1.0, walls=walls, forcing=push)
        run = solver.solve(particles, times)
        errors = [
            (v[:, 0] - poiseuille_velocity(x[:, 1], t, force=8.0, width=1.0, viscosity=1.0)).abs().max()
            for t, x, v in zip(times, run.positions, run.velocities, strict=True)
        ]
        report(f"Poiseuille {n} rows", **{f"max_error_{t}": float(e) for t, e in zip(times, errors, strict=True)})


def tanks() -> None:
    for rows in (12, 24):
        spacing = 0.5 / rows
        domain = Domain((Axis(0, 1), Axis(0, 1)))
        walls = Walls.of_box(domain, spacing, 3 * spacing, open_sides=("+y",))
        c = 10 * math.sqrt(0.5)
        case = still_tank(domain, spacing, 0.5, sound_speed=c)
        solver = WeaklyCompressibleSPH2D(domain, sound_speed=c, alpha=0.05, gravity=(0.0, -1.0), walls=walls)
        tank_report(f"tank WCSPH {rows} rows", solver.solve(case.particles, [3 + 0.05 * k for k in range(20)]))
        case = still_tank(domain, spacing, 0.5)
        solver = IncompressibleSPH2D(domain, gravity=(0.0, -1.0), xsph=0.05, walls=walls)
        tank_report(f"tank DFSPH {rows} rows", solver.solve(case.particles, [0.5 + 0.05 * k for k in range(21)]))


def tank_report(case: str, run) -> None:
    y, p = run.positions[..., 1], run.pressures
    errors = (p - (0.5 - y)).norm(dim=1) / (0.5 - y).norm(dim=1)
    dy, dp = y - y.mean(1, keepdim=True), p - p.mean(1, keepdim=True)
    slopes = -(dy * dp).sum(1) / dy.square().sum(1)
    energy = run.kinetic_energy()[-1] / (run.particles.masses * y[-1]).sum()
    report(case, pressure_L2=float(errors.mean()), slope=float(slopes.mean()), Ek_over_Ep=float(energy))


def standing_wave(rows: int = 20, amplitude: float = 0.02) -> None:
    """Frequency against omega^2 = g k tanh(k depth): free slip, inviscid but for alpha."""
    depth, length = 0.5, 1.0
    spacing, k = depth / rows, 2 * math.pi / length
    domain = Domain((Axis(0, length, periodic=True), Axis(0, 1)))
    c = 10 * math.sqrt(depth)
    case = still_tank(domain, spacing, depth, sound_speed=c)
    x = case.particles.positions
    omega = math.sqrt(k * math.tanh(k * depth))
    scale = amplitude * omega / math.sinh(k * depth)
    start = [scale * torch.sin(k * x[:, 0]) * torch.cosh(k * x[:, 1]), -scale * torch.cos(k * x[:, 0]) * torch.sinh(k * x[:, 1])]
    walls = Walls.of_box(domain, spacing, 3 * spacing, open_sides=("+y",), no_slip=False)
    solver = WeaklyCompressibleSPH2D(domain, sound_speed=c, alpha=0.01, gravity=(0.0, -1.0), walls=walls)
    times = [0.05 * j for j in range(200)]
    run = solver.solve(case.particles, times, velocities=torch.stack(start, 1))
    wave = (run.velocities[..., 1] * torch.cos(k * x[:, 0]) * torch.sinh(k * x[:, 1])).mean(1)
    crossing = (wave[1:] * wave[:-1] < 0).nonzero().squeeze()
    t = torch.tensor(times, dtype=torch.float64)
    t = t[crossing] - wave[crossing] * (t[crossing + 1] - t[crossing]) / (wave[crossing + 1] - wave[crossing])
    found = math.pi * (len(t) - 1) / float(t[-1] - t[0])
    report(f"standing wave {rows} rows", frequency=found, theory=omega, relative_error=found / omega - 1, periods=(len(t) - 1) / 2)


def cavity(n: int = 40, end: float = 10.0) -> None:
    """Lid-driven cavity at Re = 100 against Ghia et al.: time means of the last third, interpolated with the kernel."""
    spacing = 1 / n
    domain = Domain.box(1.0, 1.0)
    walls = Walls.of_box(domain, spacing, 3 * spacing, velocities={"+y": (1.0, 0.0)})
    case = still_tank(domain, spacing, 1.0, jitter=0.1)
    solver = WeaklyCompressibleSPH2D(domain, sound_speed=10.0, viscosity=0.01, walls=walls, shifting=True, background_pressure=2.0)
    run = solver.solve(case.particles, [end * (2 / 3 + j / 60) for j in range(21)])
    u_line = torch.tensor([[0.5, y] for y in Y], dtype=torch.float64)
    v_line = torch.tensor([[x, 0.5] for x in X], dtype=torch.float64)
    u = torch.stack([interpolate(u_line, x, v[:, 0], solver, spacing) for x, v in zip(run.positions, run.velocities, strict=True)]).mean(0)
    v = torch.stack([interpolate(v_line, x, v[:, 1], solver, spacing) for x, v in zip(run.positions, run.velocities, strict=True)]).mean(0)
    found, exact = torch.cat([u, v]), torch.tensor([*U, *V], dtype=torch.float64)
    report(f"cavity {n}x{n} Re=100", L2=float((found - exact).norm() / exact.norm()), max_error=float((found - exact).abs().max()))


def interpolate(points, positions, values, solver, spacing):
    """Fit a plane by moving least squares at each point, which is exact for linear fields up to the walls."""
    d = positions[None] - points[:, None]
    w = solver.kernel.value(d.norm(dim=-1), 3 * spacing)
    basis = torch.cat([torch.ones_like(d[..., :1]), d / spacing], -1)
    moments = torch.einsum("pn,pni,pnj->pij", w, basis, basis)
    return torch.linalg.solve(moments, torch.einsum("pn,pni,n->pi", w, basis, values))[:, 0]


def dam_break(seeds: int = 20, spacing: float = 0.1, end: float = 6.0) -> None:
    """Column 2 x 1 in a tank 5.4 x 2: how many of the seeds survive, and the front against Ritter's 2 sqrt(g H) t."""
    domain = Domain.box(5.4, 2.0)
    sets = [still_tank(domain, spacing, 1.0, width=2.0, jitter=0.1, seed=seed).particles for seed in range(seeds)]
    walls = Walls.of_box(domain, spacing, 3 * spacing, open_sides=("+y",), no_slip=False)
    solver = WeaklyCompressibleSPH2D(domain, sound_speed=10 * math.sqrt(2.0), alpha=0.05, gravity=(0.0, -1.0), walls=walls)
    times = [0.25 * j for j in range(1, int(end / 0.25) + 1)]
    run = solver.solve(ParticleSet.stack(sets), times)
    batch = run.particles.batch
    inside = (run.positions[..., 0] > -spacing) & (run.positions[..., 0] < 5.4 + spacing) & (run.positions[..., 1] > -spacing)
    lost = [int((~inside[-1][batch == b]).sum()) for b in range(seeds)]
    front = [float(run.positions[j, :, 0].max()) - 2 for j in range(3, 7)]
    energy = run.kinetic_energy() + (run.particles.masses * run.positions[..., 1]).sum(1)
    report("dam break", survived=sum(n == 0 for n in lost), of=seeds, front_at_1=front[0], ritter=2.0, front_at_1_75=front[3],
           largest_rise_of_energy=float((energy.diff() / energy[0]).max()), density=float(run.densities.max()))  # fmt: skip


def blobs() -> None:
    for scheme in ("dfsph", "iisph"):
        case = colliding_blobs(0.018)
        run = IncompressibleSPH2D(case.particles.domain, scheme=scheme).solve(case.particles, [0.0, 1.0], velocities=case.velocities)
        m, x, v = case.particles.masses, run.positions, run.velocities
        momentum = (m[:, None] * v).sum(1)
        angular = (m * (x[..., 0] * v[..., 1] - x[..., 1] * v[..., 0])).sum(1)
        s = run.statistics
        report(f"blobs {scheme} N={len(m)}", momentum_drift=float((momentum[1] - momentum[0]).norm()),
               angular_drift=float(angular[1] / angular[0] - 1), mean_compression=max(s["mean_compression"]),
               max_compression=max(s["max_compression"]), iterations=sum(s["density_iterations"]) / run.n_steps)  # fmt: skip


def square_patch(n: int = 40) -> None:
    """Rotating square of fluid in free space: angular momentum without shifting."""
    x = taylor_green(n, jitter=0.0).particles.positions - 0.5
    domain = Domain((Axis(-2, 2), Axis(-2, 2)))
    v = torch.stack([x[:, 1], -x[:, 0]], 1)
    particles = ParticleSet(x, 1 / n**2, 3 / n, domain)
    run = WeaklyCompressibleSPH2D(domain, sound_speed=7.0, alpha=0.02).solve(particles, [0.0, 0.5, 1.0], velocities=v)
    angular = (run.positions[..., 0] * run.velocities[..., 1] - run.positions[..., 1] * run.velocities[..., 0]).sum(1)
    energy = run.kinetic_energy()
    report(f"rotating patch {n}x{n}", angular_drift=float(angular[2] / angular[0] - 1), energy_kept=float(energy[2] / energy[0]))


CASES = {
    "shock_tubes": shock_tubes,
    "channels": channels,
    "tanks": tanks,
    "blobs": blobs,
    "square_patch": square_patch,
    "standing_wave": standing_wave,
    "dam_break": dam_break,
    "taylor_green_50": lambda: taylor_green_decay(50),
    "taylor_green_50_lattice": lambda: taylor_green_decay(50, jitter=0.0),
    "cavity": cavity,
    "taylor_green": taylor_green_decay,
    "cavity_100": lambda: cavity(100),
}


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        CASES[name]()
