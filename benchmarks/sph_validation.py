"""Validation ladder of the particle solvers: each flow against its answer, with a picture; writes docs/sph.md.

Rows are written to the results file as they finish and skipped when they are there already; naming a row runs it again.

    OMP_NUM_THREADS=1 python benchmarks/sph_validation.py [row ...] [--minutes 10]     (--minutes: begin no row after that)
    OMP_NUM_THREADS=1 python benchmarks/sph_validation.py --page                       (the page alone, from the results)
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from measuring import cpu

from opkernels import Axis, Domain, ParticleSet
from opkernels.solvers.sph import CompressibleSPH1D, IdealGas, IncompressibleSPH2D, Isothermal, Walls, WeaklyCompressibleSPH2D
from opkernels.solvers.sph.cases import (
    acoustic_wave,
    cavity_profiles,
    colliding_blobs,
    couette_velocity,
    lattice_frequency,
    poiseuille_velocity,
    riemann_solution,
    rotating_patch,
    shock_tube,
    standing_wave,
    still_tank,
    taylor_green,
)

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "sph_validation.json"
DOCS = HERE.parent / "docs"
OURS, TRUTH = "#0b6e99", "#1a1a1a"


def at_most(value: float, limit: float) -> dict:
    """Return a measured figure whose magnitude should not exceed a limit."""
    return {"value": value, "limit": limit, "kind": "most", "met": abs(value) <= limit}


def at_least(value: float, limit: float) -> dict:
    return {"value": value, "limit": limit, "kind": "least", "met": value >= limit}


def reported(value: float) -> dict:
    return {"value": value, "limit": None, "kind": "reported", "met": True}


def picture(rows: int = 1, columns: int = 1, width: float = 4.2, height: float = 3.0):
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).flatten()


def scatter(figure: Figure, axis, run, frame: int, values: torch.Tensor, label: str, **options) -> None:
    """Draw one frame's particles in color."""
    points = axis.scatter(*run.particles.replace(positions=run.positions[frame]).wrapped().T, c=values, s=3, **options)
    axis.set(aspect="equal", title=f"t = {run.times[frame]:.3g}")
    figure.colorbar(points, ax=axis, label=label)


def crossings(times, signal: torch.Tensor) -> torch.Tensor:
    """Return the times at which a signal changes its sign, by linear interpolation."""
    t = torch.as_tensor(times, dtype=torch.float64)
    k = (signal[1:] * signal[:-1] < 0).nonzero().squeeze(1)
    return t[k] - signal[k] * (t[k + 1] - t[k]) / (signal[k + 1] - signal[k])


def sound():
    """Sound in one dimension, kept by full Runge-Kutta steps: lattice and continuum frequencies, energy."""
    n, eos = 256, Isothermal(10**0.5, 1.0)
    case = acoustic_wave(n)
    omega = lattice_frequency(2 / n, 4 / n, 16 / n, math.pi, eos)
    times = [4.5 * math.pi / omega * k / 180 for k in range(181)]
    solver = CompressibleSPH1D(case.particles.domain, eos=eos, adaptive=False, alpha=0.0, beta=0.0, scheme="rk4")
    run = solver.solve(case.particles, times)
    signal = (run.densities * torch.sin(math.pi * run.positions[..., 0])).mean(1)
    zero = crossings(times, signal)
    found = math.pi * (len(zero) - 1) / float(zero[-1] - zero[0])
    m = case.particles.masses
    energy = (m * (run.velocities[..., 0] ** 2 / 2 + eos.specific_energy(run.densities))).sum(1)
    figure, (axis,) = picture()
    axis.plot(times, 1e3 * signal, color=OURS, label="particles")
    axis.plot(times, 1e3 * signal[0] * torch.cos(omega * torch.tensor(times)), "--", color=TRUTH, label="lattice's own frequency")
    axis.set(xlabel="t", ylabel="amplitude x 1000")
    axis.legend()
    return figure, run, {
        "frequency over the lattice's - 1": at_most(found / omega - 1, 0.002),
        "frequency over the continuum's - 1": at_most(found / (math.pi * math.sqrt(10)) - 1, 0.03),
        "energy drift": at_most(float((energy / energy[0] - 1).abs().max()), 1e-12),
    }  # fmt: skip


def tube(n: int, gamma: float | None):
    left, right = (1.0, 1.0), (0.125, 0.1 if gamma else 0.125)
    case = shock_tube(n, left=left, right=right, gamma=gamma)
    solver = CompressibleSPH1D(case.particles.domain, eos=IdealGas() if gamma else Isothermal(1.0))
    run = solver.solve(case.particles, [0.0, 0.2], energies=case.energies, frozen=case.frozen)
    x, live = run.positions[1, :, 0], ~case.frozen
    exact = riemann_solution((x - 0.5) / 0.2, left, right, gamma)
    volume = case.particles.masses / run.densities[1]
    error = (volume * (run.densities[1] - exact[0]).abs())[live].sum() / (volume * exact[0])[live].sum()
    return float(error), run, x, live, exact


def draw_tube(run, x, live, exact) -> Figure:
    figure, axes = picture(columns=3, width=3.2)
    ours = run.densities[1], run.velocities[1, :, 0], run.pressures[1]
    order = x.argsort()
    for axis, name, found, true in zip(axes, ("density", "velocity", "pressure"), ours, exact, strict=True):
        axis.plot(x[live], found[live], ".", ms=2, color=OURS)
        axis.plot(x[order], true[order], lw=0.8, color=TRUTH)
        axis.set(xlabel="x", title=name, xlim=(0, 1))
    return figure


def sod():
    """Sod's shock tube with the energy equation, eight neighbors, t = 0.2."""
    error, run, x, live, exact = tube(400, 1.4)
    finer = tube(800, 1.4)[0]
    m = run.particles.masses
    energy = [(m * (run.velocities[k, :, 0] ** 2 / 2 + run.energies[k])).sum() for k in (0, 1)]
    inside = [live & (x > low) & (x < high) for low, high in ((0.52, 0.64), (0.72, 0.81))]
    off = [abs(float(f[i].mean() / e[i].mean()) - 1) for i in inside
           for f, e in zip((run.densities[1], run.velocities[1, :, 0], run.pressures[1]), exact, strict=True)]  # fmt: skip
    return draw_tube(run, x, live, exact), run, {
        "L1 of density, 450 particles": at_most(error, 0.015),
        "order from 450 to 900": at_least(math.log2(error / finer), 0.8),
        "worst plateau": at_most(max(off), 0.01),
        "energy drift": at_most(float(energy[1] / energy[0]) - 1, 1e-4),
    }  # fmt: skip


def isothermal():
    """Isothermal Riemann problem, densities 1 and 0.125, sound speed 1."""
    error, run, *rest = tube(400, None)
    return draw_tube(run, *rest), run, {"L1 of density, 450 particles": at_most(error, 0.016)}


def decay(n: int, jitter: float, limit: float, end: float = 1.0):
    case = taylor_green(n, jitter=jitter)
    solver = WeaklyCompressibleSPH2D(case.particles.domain, sound_speed=10.0, viscosity=0.01, shifting=True)
    times = [end * k / 10 for k in range(11)]
    run = solver.solve(case.particles, times, velocities=case.velocities)
    energy, rate = run.kinetic_energy(), -16 * math.pi**2 * 0.01
    momentum = (run.particles.masses[:, None] * run.velocities).sum(1)
    figure, axes = picture(columns=2)
    axes[0].semilogy(times, energy, "o", ms=4, color=OURS, label="particles")
    axes[0].semilogy(times, energy[0] * torch.exp(rate * torch.tensor(times)), color=TRUTH, label="exact")
    axes[0].set(xlabel="t", ylabel="kinetic energy")
    axes[0].legend()
    scatter(figure, axes[1], run, -1, run.velocities[-1].norm(dim=1), "speed")
    return figure, run, {
        "decay rate over the exact one - 1": at_most(math.log(energy[-1] / energy[0]) / (rate * end) - 1, limit),
        "density range": at_most(float((run.densities - 1).abs().max()), 0.03),
        "momentum drift": at_most(float((momentum[-1] - momentum[0]).norm()), 1e-12),
    }  # fmt: skip


def taylor_green_50():
    """Taylor-Green vortices, Re = 100, 50 x 50 from a jittered lattice."""
    return decay(50, 0.1, 0.03)


def taylor_green_lattice():
    """Taylor-Green vortices, Re = 100, 50 x 50 from a perfect lattice, the worst start."""
    return decay(50, 0.0, 0.1)


def taylor_green_100():
    """Taylor-Green vortices, Re = 100, 100 x 100."""
    return decay(100, 0.1, 0.02)


def push(x: torch.Tensor, time: float) -> torch.Tensor:
    return torch.tensor([8.0, 0.0], dtype=x.dtype).expand_as(x)


def channel(n: int, sliding: bool):
    spacing, times = 1 / n, [0.05, 0.1, 0.5]
    domain = Domain((Axis(0, 8 * spacing, periodic=True), Axis(0, 1)))
    particles = still_tank(domain, spacing, 1.0).particles
    walls = Walls.of_box(domain, spacing, 3 * spacing, velocities={"+y": (1.0, 0.0)} if sliding else None)
    solver = WeaklyCompressibleSPH2D(domain, sound_speed=10.0, viscosity=1.0, walls=walls, forcing=None if sliding else push)
    run = solver.solve(particles, times)

    def exact(y, t):
        if sliding:
            return couette_velocity(y, t, speed=1.0, width=1.0, viscosity=1.0)
        return poiseuille_velocity(y, t, force=8.0, width=1.0, viscosity=1.0)

    y, errors = run.positions[..., 1], []
    figure, (axis,) = picture()
    fine = torch.linspace(0, 1, 200, dtype=torch.float64)
    for k, t in enumerate(times):
        errors.append(float((run.velocities[k, :, 0] - exact(y[k], t)).abs().max()))
        axis.plot(run.velocities[k, :, 0], y[k], ".", ms=3, color=OURS, label="particles" if k == 0 else None)
        axis.plot(exact(fine, t), fine, lw=0.8, color=TRUTH, label="exact" if k == 0 else None)
    axis.set(xlabel="u", ylabel="y")
    axis.legend()
    return figure, run, max(errors)


def couette():
    """Flow between plates one of which starts to slide, 30 rows, t = .05, .1, .5."""
    figure, run, error = channel(30, True)
    return figure, run, {"largest error over U": at_most(error, 2e-3)}


def poiseuille():
    """Flow between plates pushed by a constant force, t = .05, .1, .5."""
    _, _, coarse = channel(30, False)
    figure, run, fine = channel(60, False)
    return figure, run, {"largest error over U, 30 rows": at_most(coarse, 5e-3), "60 rows": at_most(fine, 4e-3)}


def standing():
    """Standing gravity wave, 20 rows deep: frequency, and decay by viscosity 2 nu k^2."""
    c, depth, rows = 10 * math.sqrt(0.5), 0.5, 20
    case, omega = standing_wave(rows, sound_speed=c, depth=depth)
    domain = case.particles.domain
    walls = Walls.of_box(domain, depth / rows, case.particles.support, open_sides=("+y",), no_slip=False)
    alpha = 0.05
    solver = WeaklyCompressibleSPH2D(domain, sound_speed=c, alpha=alpha, gravity=(0.0, -1.0), walls=walls)
    nu = 0.885 * alpha * c * solver.kernel.smoothing_length(case.particles.support) / 8  # .885: what 28 neighbors feel of it
    times = [0.05 * j for j in range(201)]
    run = solver.solve(case.particles, times, velocities=case.velocities)
    k, x = 2 * math.pi, case.particles.positions
    mode = torch.cos(k * x[:, 0]) * torch.cosh(k * x[:, 1])
    height = ((run.positions[..., 1] - x[:, 1]) * mode).mean(1)
    speed = ((run.velocities[..., 1]) * mode).mean(1)
    t = torch.tensor(times, dtype=torch.float64)
    zero = crossings(times, speed)
    found = math.pi * (len(zero) - 1) / float(zero[-1] - zero[0])
    envelope = (speed.square() + (found * (height - height.mean())).square()).sqrt()
    slope = float(((t - t.mean()) * envelope.log()).sum() / (t - t.mean()).square().sum())
    figure, axes = picture(columns=2)
    axes[0].plot(t, speed, color=OURS)
    axes[0].plot(t, -speed.abs().max() * torch.exp(-2 * nu * k**2 * t), "--", color=TRUTH)
    axes[0].plot(t, speed.abs().max() * torch.exp(-2 * nu * k**2 * t), "--", color=TRUTH, label="exp(-2 nu k^2 t)")
    axes[0].set(xlabel="t", ylabel="vertical velocity of the mode")
    axes[0].legend()
    scatter(figure, axes[1], run, 25, run.pressures[25], "pressure")
    return figure, run, {
        "frequency over the linear one - 1": at_most(found / omega - 1, 0.01),
        "decay rate over 2 nu k^2 - 1": at_most(slope / (-2 * nu * k**2) - 1, 0.1),
    }  # fmt: skip


def cavity(n: int, end: float, dtype=torch.float64):
    spacing = 1 / n
    domain = Domain.box(1.0, 1.0)
    walls = Walls.of_box(domain, spacing, 3 * spacing, velocities={"+y": (1.0, 0.0)})
    particles = still_tank(domain, spacing, 1.0, jitter=0.1).particles.to(dtype)
    solver = WeaklyCompressibleSPH2D(domain, sound_speed=10.0, viscosity=0.01, walls=walls, shifting=True, background_pressure=2.0)
    run = solver.solve(particles, [end * (0.8 + 0.01 * j) for j in range(21)])
    y, u, x, v = cavity_profiles(100)
    middle = torch.full_like(x, 0.5)
    lines = torch.stack([middle, y], 1), torch.stack([x, middle], 1)
    found = []
    for a, line in enumerate(lines):
        frames = zip(run.positions.double(), run.velocities[..., a].double(), strict=True)
        found.append(torch.stack([interpolate(line, *frame, solver, spacing) for frame in frames]).mean(0))
    error = torch.cat([found[0] - u, found[1] - v])
    figure, axes = picture(columns=2)
    axes[0].plot(found[0], y, color=OURS, label="u(1/2, y)")
    axes[0].plot(x, found[1], "--", color=OURS, label="v(x, 1/2)")
    axes[0].plot(u, y, "o", ms=4, color=TRUTH, label="Ghia et al.")
    axes[0].plot(x, v, "o", ms=4, color=TRUTH)
    axes[0].legend(fontsize=7)
    scatter(figure, axes[1], run, -1, run.velocities[-1].norm(dim=1), "speed", vmax=0.6)
    return figure, run, {
        "L2 error": at_most(float(error.norm() / torch.cat([u, v]).norm()), 0.03),
        "largest error": reported(float(error.abs().max())),
        "mean density": reported(float(run.densities[-1].mean())),
    }  # fmt: skip


def interpolate(points, positions, values, solver, spacing):
    """Fit a plane by moving least squares at each point, which is exact for linear fields up to the walls."""
    d = positions[None] - points[:, None]
    w = solver.kernel.value(d.norm(dim=-1), 3 * spacing)
    basis = torch.cat([torch.ones_like(d[..., :1]), d / spacing], -1)
    moments = torch.einsum("pn,pni,pnj->pij", w, basis, basis)
    return torch.linalg.solve(moments, torch.einsum("pn,pni,n->pi", w, basis, values))[:, 0]


def cavity_50():
    """Lid-driven cavity, Re = 100, 50 x 50: velocities on both middle lines (the claim is for 100 x 100)."""
    return cavity(50, 9.0)


def cavity_100():
    """Lid-driven cavity, Re = 100, 100 x 100: velocities on both middle lines."""
    return cavity(100, 8.0, torch.float32)


def tank(name: str):
    spacing, domain = 0.5 / 12, Domain((Axis(0, 1), Axis(0, 1)))
    walls = Walls.of_box(domain, spacing, 3 * spacing, open_sides=("+y",))
    c = 10 * math.sqrt(0.5)
    if name == "WCSPH":
        case = still_tank(domain, spacing, 0.5, sound_speed=c)
        solver = WeaklyCompressibleSPH2D(domain, sound_speed=c, alpha=0.05, gravity=(0.0, -1.0), walls=walls)
        times = [3 + 0.05 * k for k in range(20)]
    else:
        case = still_tank(domain, spacing, 0.5, neighbors=2.52)
        solver = IncompressibleSPH2D(domain, gravity=(0.0, -1.0), xsph=0.05, walls=walls)
        times = [0.5 + 0.05 * k for k in range(21)]
    run = solver.solve(case.particles, times)
    y, p = (run.positions[..., 1], run.pressures)
    error = float(((p - (0.5 - y)).norm(dim=1) / (0.5 - y).norm(dim=1)).mean())
    dy, dp = y - y.mean(1, keepdim=True), p - p.mean(1, keepdim=True)
    slope = float((-(dy * dp).sum(1) / dy.square().sum(1)).mean())
    energy = float(run.kinetic_energy()[-1] / (run.particles.masses * y[-1]).sum())
    figure, axes = picture(columns=2)
    axes[0].plot(p.mean(0), y.mean(0), ".", ms=3, color=OURS, label="mean over time")
    axes[0].plot([0.5, 0], [0, 0.5], color=TRUTH, lw=0.8, label="rho g (depth - y)")
    axes[0].set(xlabel="pressure", ylabel="y")
    axes[0].legend()
    scatter(figure, axes[1], run, -1, p[-1], "pressure")
    return figure, run, error, slope, energy


def tank_wcsph():
    """Water at rest in a tank, 24 x 12 particles, weakly compressible, t = 3 to 4."""
    figure, run, error, slope, energy = tank("WCSPH")
    figures = {
        "pressure L2": at_most(error, 0.02),
        "slope - 1": reported(slope - 1),
        "kinetic over potential energy": at_most(energy, 1e-4),
    }
    return figure, run, figures


def tank_dfsph():
    """Water at rest in a tank, 24 x 12 particles, incompressible, t = 0.5 to 1.5."""
    figure, run, error, slope, energy = tank("DFSPH")
    figures = {"pressure L2": at_most(error, 0.12), "slope - 1": at_most(slope - 1, 0.05)}
    return figure, run, {**figures, "kinetic over potential energy": at_most(energy, 2e-4)}


FRONT = ((0.43, 0.62, 0.80, 0.97, 1.14, 1.29, 1.45, 1.62, 1.76, 1.93, 2.07, 2.24, 2.40, 2.54, 2.71, 2.87, 3.04, 3.21),
         (1.11, 1.22, 1.44, 1.67, 1.89, 2.11, 2.33, 2.56, 2.78, 3.00, 3.22, 3.44, 3.67, 3.89, 4.11, 4.33, 4.56, 4.78))  # fmt: skip


def dam_break(seeds: int = 20, spacing: float = 0.1, end: float = 6.0):
    """Dam break, column 2 x 1 in a tank 5.4 x 2, 20 seeds in one batch."""
    domain = Domain.box(5.4, 2.0)
    sets = [still_tank(domain, spacing, 1.0, width=2.0, jitter=0.1, seed=seed).particles for seed in range(seeds)]
    walls = Walls.of_box(domain, spacing, 3 * spacing, open_sides=("+y",), no_slip=False)
    solver = WeaklyCompressibleSPH2D(domain, sound_speed=10 * math.sqrt(2.0), alpha=0.05, gravity=(0.0, -1.0), walls=walls)
    times = [0.25 * j for j in range(int(end / 0.25) + 1)]
    run = solver.solve(ParticleSet.stack(sets), times)
    batch, x = run.particles.batch, run.positions
    inside = (x[..., 0] > -spacing) & (x[..., 0] < 5.4 + spacing) & (x[..., 1] > -spacing)
    survived = sum(bool(inside[-1][batch == b].all()) for b in range(seeds))
    front = torch.stack([x[:, batch == b, 0].amax(1) for b in range(seeds)]).mean(0)
    energy = run.kinetic_energy() + (run.particles.masses * x[..., 1]).sum(1)
    t = torch.tensor(times)
    dry = front < 5.3
    figure, axes = picture(columns=2, rows=2, width=4.8, height=2.4)
    axes[0].plot(t[dry], front[dry], "o-", ms=3, color=OURS, label="particles, mean of 20")
    axes[0].plot(t[dry], 2 + 2 * t[dry], color=TRUTH, lw=0.8, label="Ritter, no friction")
    axes[0].set(xlabel="t", ylabel="front")
    axes[0].legend(fontsize=7)
    one = run.particles.batch == 0
    for axis, frame in zip(axes[1:], (4, 8, 16), strict=True):
        points = axis.scatter(*x[frame, one].T, c=run.velocities[frame, one].norm(dim=1), s=5, vmin=0, vmax=2)
        axis.set(aspect="equal", xlim=(0, 5.4), ylim=(0, 2), title=f"t = {times[frame]:g}")
    figure.colorbar(points, ax=list(axes[1:]), label="speed")
    lead = (front - 2 - 2 * t)[1:7]
    return figure, run, {
        "seeds of 20 that survive": at_least(survived, 20),
        "front ahead of Ritter's, largest": at_most(max(float(lead.max()), 0.0), 0.1),
        "front speed over Ritter's, t = 1 to 1.5": reported(float(front[6] - front[4])),
        "largest rise of energy": at_most(max(float((energy.diff() / energy[0]).max()), 0.0), 1e-3),
        "largest density": reported(float(run.densities.max())),
    }  # fmt: skip


def patch():
    """Rotating square patch in free space, 40 x 40: angular momentum, without and with shifting."""
    case, drift, runs = rotating_patch(40), {}, {}
    for shifting in (False, True):
        solver = WeaklyCompressibleSPH2D(case.particles.domain, sound_speed=7.0, alpha=0.02, shifting=shifting)
        runs[shifting] = run = solver.solve(case.particles, [0.0, 0.5, 1.0], velocities=case.velocities)
        angular = (run.positions[..., 0] * run.velocities[..., 1] - run.positions[..., 1] * run.velocities[..., 0]).sum(1)
        drift[shifting] = float(angular[2] / angular[0] - 1)
    figure, axes = picture(columns=2)
    for axis, shifting in zip(axes, (False, True), strict=True):
        scatter(figure, axis, runs[shifting], -1, runs[shifting].pressures[-1], "pressure")
        axis.set_title(("shifting, " if shifting else "no shifting, ") + axis.get_title())
    energy = runs[False].kinetic_energy()
    return figure, runs[False], {
        "angular momentum, drift": at_most(drift[False], 1e-6),
        "with shifting": at_most(drift[True], 0.01),
        "kinetic energy kept": reported(float(energy[2] / energy[0])),
    }  # fmt: skip


def blobs():
    """Two discs collide in free space, DFSPH, about 1000 particles, t = 1."""
    case = colliding_blobs(0.018)
    run = IncompressibleSPH2D(case.particles.domain).solve(case.particles, [0.0, 0.5, 1.0], velocities=case.velocities)
    m, x, v = case.particles.masses, run.positions, run.velocities
    momentum = (m[:, None] * v).sum(1)
    angular = (m * (x[..., 0] * v[..., 1] - x[..., 1] * v[..., 0])).sum(1)
    figure, axes = picture(columns=3, width=3.4, height=2.6)
    for k, axis in enumerate(axes):
        scatter(figure, axis, run, k, v[k].norm(dim=1), "speed")
    s = run.statistics
    return figure, run, {
        "momentum drift": at_most(float((momentum[-1] - momentum[0]).norm()), 1e-14),
        "angular momentum drift": at_most(float(angular[-1] / angular[0] - 1), 1e-12),
        "mean compression, worst step": at_most(max(s["mean_compression"]), 1e-3),
        "largest compression": at_most(max(s["max_compression"]), 0.03),
        "density iterations a step": reported(sum(s["density_iterations"]) / run.n_steps),
    }  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A heading of the page, and the function that makes the figure, the run and what was measured."""

    title: str
    case: Callable


ROWS = {
    "sound": Row("Sound wave", sound),
    "sod": Row("Sod's shock tube", sod),
    "isothermal": Row("Isothermal shock tube", isothermal),
    "couette": Row("Couette flow", couette),
    "poiseuille": Row("Poiseuille flow", poiseuille),
    "tank_wcsph": Row("Still tank, weakly compressible", tank_wcsph),
    "tank_dfsph": Row("Still tank, incompressible", tank_dfsph),
    "patch": Row("Rotating patch", patch),
    "blobs": Row("Colliding discs", blobs),
    "standing": Row("Standing wave", standing),
    "taylor_green_50": Row("Taylor-Green", taylor_green_50),
    "taylor_green_lattice": Row("Taylor-Green from a lattice", taylor_green_lattice),
    "dam_break": Row("Dam break", dam_break),
    "cavity_50": Row("Lid-driven cavity, 50 x 50", cavity_50),
    "taylor_green_100": Row("Taylor-Green, 100 x 100", taylor_green_100),
    "cavity_100": Row("Lid-driven cavity, 100 x 100", cavity_100),
}


def write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def load() -> dict:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def run_row(name: str) -> None:
    row, start = ROWS[name], cpu()
    figure, run, figures = row.case()
    seconds = cpu() - start
    (DOCS / "images").mkdir(exist_ok=True)
    figure.savefig(DOCS / "images" / f"sph_{name}.png", dpi=110)
    result = {"case": row.case.__doc__, "figures": figures, "particles": len(run.particles), "steps": run.n_steps, "cpu_seconds": seconds}
    write(RESULTS, json.dumps(load() | {name: result}, indent=1))
    for what, f in figures.items():
        print(f"{name:22} {what:42} {f['value']:11.4g} {'' if f['limit'] is None else f['limit']!s:8} {'' if f['met'] else 'MISSED'}")
    print(f"{name:22} {seconds:.0f} s CPU, {run.n_steps} steps, {len(run.particles)} particles", flush=True)


def figure_of(f: dict) -> tuple[str, str]:
    """Return the claimed and the measured figure of a line of the page's table."""
    claim = {"most": "at most ", "least": "at least ", "reported": "reported"}[f["kind"]] + (f"{f['limit']:g}" if f["limit"] else "")
    return claim, f"{f['value']:.3g}" + ("" if f["met"] else " **missed**")


def page() -> None:
    """Write docs/sph.md from its introduction and the results."""
    introduction = (HERE / "sph_page.md").read_text()
    results, parts = load(), [introduction.rstrip(), ""]
    for name, row in ROWS.items():
        if name not in results:
            parts += [f"## {row.title}", "", f"{row.case.__doc__} Not run yet: `python benchmarks/sph_validation.py {name}`.", ""]
            continue
        result = results[name]
        parts += [f"## {row.title}", "", result["case"], "", "| figure | claimed | measured |", "| --- | --- | --- |"]
        parts += [f"| {what} | {' | '.join(figure_of(f))} |" for what, f in result["figures"].items()]
        cost = f"{result['particles']} particles, {result['steps']} steps, {result['cpu_seconds']:.0f} s of CPU in all."
        parts += ["", cost, "", f"![{row.title}](images/sph_{name}.png)", ""]
    write(DOCS / "sph.md", "\n".join(parts).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="rows to run, again if they are there (default: the missing ones)")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    for name in () if options.page else options.rows or [name for name in ROWS if name not in load()]:
        if time.monotonic() < end:
            run_row(name)
    page()


if __name__ == "__main__":
    main()
