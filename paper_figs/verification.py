"""The pictures of docs/verification.md: every convergence study of the bundled grid solvers, and what they conserve.

1. time: error against the number of steps, at a grid that resolves the solution; the slope is the order.
2. space: error against the number of points, with steps so short that time does not matter; spectral solvers, then
   finite volumes and finite elements.
3. conservation: drift of the invariants along a run.

Exact solutions where there are any (`opkernels.solvers.exact`), else a run with many more steps.

Run: python paper_figs/verification.py     (about half a CPU minute; writes docs/images/verification_*.png and verification.json)
"""

import json
import math
from pathlib import Path

import torch

from opkernels import Domain
from opkernels.solvers import (
    AllenCahn,
    FitzHughNagumo,
    GaussianRandomField,
    GrayScott,
    KuramotoSivashinsky,
    NavierStokes2D,
    Wave2D,
)
from opkernels.solvers import exact as problems

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLORS = ["#1b6ca8", "#d1495b", "#3c8d53", "#8a5aa8"]
INK, GRID = "#333333", "#dddddd"


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def slope(x, errors):
    """Return the order fitted to errors that fall as x**-order."""
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (x, errors))
    x, y = x - x.mean(), y - y.mean()
    return -(x @ y / (x @ x)).item()


def against_many_steps(build, u0, end, steps, many):
    """Return the errors of solvers after each number of steps, against the last of them with `many`, as {method: (steps, errors)}."""
    truth = build[-1].solve(u0, [end], dt=end / many)[:, 0]
    return {solver.method: (steps, [relative(solver.solve(u0, [end], dt=end / n)[:, 0], truth) for n in steps]) for solver in build}


def time_studies():
    """Return {title: {method: (steps, errors)}}."""
    found = {}
    for title, problem, shape, studies in (
        ("Navier-Stokes, moving Taylor-Green", problems.taylor_green, None, {"IFRK4": 10, "ETDRK4": 10, "IFAB4": 20}),
        ("Burgers, Cole-Hopf", problems.cole_hopf, None, {"IFRK4": 20, "ETDRK4": 10}),
        ("Korteweg-de Vries, soliton", problems.soliton, (384,), {"ETDRK4": 500, "ETDRK4B": 500, "IFRK4": 800}),
    ):
        found[title] = {}
        for method, first in studies.items():
            steps = [round(first * (2 if shape is None else math.sqrt(2)) ** i) for i in range(5)]
            found[title][method] = (steps, [problem().error(method, steps=n, shape=shape) for n in steps])
    found |= reaction_studies()
    return found


def reaction_studies():
    """Gray-Scott, Kuramoto-Sivashinsky and FitzHugh-Nagumo, which have no closed solution."""
    domain = Domain.periodic(0.5, 0.5)
    x = domain.grid(24, 24).coordinates(dtype=torch.float64) - 0.25
    spot = 0.3 * torch.exp(-160 * (x**2).sum(0))
    steps = [30, 60, 120, 240, 480]
    spot = torch.stack([1 - spot, spot])[None]
    gray = [GrayScott(domain, feed=0.03, kill=0.062, method=m) for m in ("IFRK4", "ETDRK4")]
    found = {"Gray-Scott, a spot": against_many_steps(gray, spot, 15.0, steps, 1920)}
    implicit = [GrayScott(domain, feed=0.03, kill=0.062, method=m) for m in ("DC3", "DC4", "ETDRK4")]
    corrected = against_many_steps(implicit, spot, 15.0, [30, 42, 60, 85, 120], 480)
    found["Gray-Scott, deferred correction"] = {method: corrected[method] for method in ("DC3", "DC4")}
    line = Domain.periodic(22.0)
    (x,) = line.grid(64).coordinates(dtype=torch.float64)
    u0 = torch.cos(2 * math.pi * x / 22) * (1 + torch.sin(2 * math.pi * x / 22))
    u0 = KuramotoSivashinsky(line).solve(u0[None, None], [20.0])[:, 0]
    chaos = [KuramotoSivashinsky(line, method=m) for m in ("ETDRK4", "ETDRK4B")]
    found["Kuramoto-Sivashinsky, stiff"] = against_many_steps(chaos, u0, 5.0, [50, 100, 200, 400, 800], 3200)
    box = Domain.box(2.0, 2.0)
    field = GaussianRandomField(box, alpha=4, tau=5, sigma=125)
    u0 = torch.cat([field.sample(1, (16, 16), seed=s, dtype=torch.float64) for s in (0, 1)], dim=1)
    walls = [FitzHughNagumo(box, diffusivity=(2e-2, 1e-1))]
    found["FitzHugh-Nagumo, walls"] = against_many_steps(walls, u0, 2.0, [20, 40, 80, 160, 320], 1600)
    return found


def space_studies():
    """Return {title: {label: (points, errors)}}; the first is spectral."""
    spectral = {}
    for label, problem, steps, points in (
        ("Burgers", lambda: problems.cole_hopf(viscosity=0.1), 160, (12, 16, 24, 32, 48, 64)),
        ("KdV", problems.soliton, 3200, (96, 128, 160, 192, 224, 256)),
        ("Allen-Cahn", problems.allen_cahn_front, 800, (32, 48, 64, 80, 96, 112)),
    ):
        spectral[label] = (points, [problem().error("ETDRK4", steps=steps, shape=(n,)) for n in points])
    sizes = (8, 16, 32, 64, 128, 256)
    smooth, layers, waves = {}, {}, {}
    for faces in ("harmonic", "arithmetic"):
        smooth[faces] = (sizes, [problems.smooth_darcy().error(faces, (n, 3 * n // 4)) for n in sizes])
        layers[faces] = ([n + 2 for n in sizes], [problems.layered_darcy().error(faces, (n + 2, 4)) for n in sizes])
    for method, label in (("p1", "P1, leapfrog"), ("q1", "Q1, leapfrog"), ("newmark", "P1, Newmark")):
        points = (12, 24, 48, 96) if method == "newmark" else (12, 24, 48, 96, 192)
        wave = problems.standing_wave()
        waves[label] = (points, [wave.error(method, steps=2 * n, shape=(n + 1, 2 * n // 3 + 1)) for n in points])
    return {
        "Fourier solvers": spectral,
        "Darcy, smooth coefficient": smooth,
        "Darcy, two layers and a source": layers,
        "Waves, standing mode": waves,
    }


def conservation():
    """Return {title: {label: (times, drift)}}."""
    soliton = problems.soliton()
    times = torch.linspace(0, 1, 21, dtype=torch.float64)
    u = soliton.solver("ETDRK4").solve(soliton.fields(0.0), times, dt=1 / 400)[0, :, 0]
    k = 2 * math.pi / 40 * torch.arange(129, dtype=torch.float64)
    slopes = torch.fft.irfft(1j * k * torch.fft.rfft(u), n=256)
    kdv = {"mass": u.sum(1), "momentum": (u**2).sum(1), "energy": (u**3 - slopes**2 / 2).sum(1)}

    torus = Domain.periodic(2 * math.pi, 2 * math.pi)
    flow = NavierStokes2D(torus, viscosity=0.0)
    w0 = GaussianRandomField(torus, alpha=4, tau=3, sigma=60.0).sample(1, (64, 64), seed=0, dtype=torch.float64)
    w0 = flow.solve(w0, [1e-9])[:, 0]
    flow_times = torch.linspace(0, 2, 21, dtype=torch.float64)
    w = flow.solve(w0, flow_times, dt=0.01)[0]
    euler = {"energy": flow.energy(w), "enstrophy": flow.enstrophy(w)}

    box = Domain.box(1.5, 1.0, points="endpoint")
    state = torch.randn(1, 2, 33, 23, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leap, newmark = (Wave2D(box, speed=lambda x, y: 1 + 0.5 * x * y, walls="neumann", scheme=s) for s in ("leapfrog", "newmark"))
    dt = 0.9 * leap.stable_step(state)
    wave_times = [i * 10 * dt for i in range(21)]
    waves = {
        "leapfrog": torch.cat([leap.energy(s, dt=dt) for s in leap.solve(state, wave_times, dt=dt).unbind(1)]),
        "Newmark": torch.cat([newmark.energy(s) for s in newmark.solve(state, wave_times, dt=dt).unbind(1)]),
    }

    def drift(values):
        return ((values / values[0] - 1).abs().clamp_min(1e-16)).tolist()

    walls = AllenCahn(Domain.periodic(1.0, 1.0), epsilon=0.02)
    x = walls.domain.grid(64, 64).coordinates(dtype=torch.float64) - 0.5
    disc = torch.tanh((0.35 - x.square().sum(0).sqrt()) / (math.sqrt(2) * 0.02))[None, None]
    late = torch.linspace(0, 50, 21, dtype=torch.float64)
    phases = walls.solve(disc, late)[0]
    area = ((phases[:, 0] + 1) / 2).mean(dim=(1, 2)) / math.pi
    return {
        "KdV soliton": {label: (times.tolist(), drift(v)) for label, v in kdv.items()},
        "Euler flow, no viscosity": {label: (flow_times.tolist(), drift(v)) for label, v in euler.items()},
        "Waves, energy": {label: (wave_times[: len(v)], drift(v)) for label, v in waves.items()},
        "Allen-Cahn, a shrinking disc": {"R² + 2ε²t": (late.tolist(), drift(area + 2 * 0.02**2 * late))},
    }


def frame(axes, title, xlabel, ylabel):
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.grid(True, which="major", color=GRID, linewidth=0.6)
    axes.tick_params(labelsize=8, colors=INK, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def guide(axes, x, y, order):
    """Draw a dotted line of the given order below the last curve."""
    style = (0, (5, 2)) if order in (1, 3) else (0, (1, 1.5))
    axes.plot(x, [y * (x[0] / v) ** order for v in x], linestyle=style, color="#888888", linewidth=1.3, label=f"order {order}")


def draw_orders(studies, file, *, xlabel, semilog=(), columns, orders=None):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, ScalarFormatter

    rows = math.ceil(len(studies) / columns)
    figure, panels = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.0 * rows), squeeze=False, constrained_layout=True)
    for axes, (title, study) in zip(panels.flat, studies.items(), strict=False):
        frame(axes, title, xlabel, "relative error")
        (axes.semilogy if title in semilog else axes.loglog)()
        lowest = math.inf
        for color, (label, (x, errors)) in zip(COLORS, study.items(), strict=False):
            text = label if title in semilog else f"{label}: {slope(x, errors):.2f}"
            axes.plot(x, errors, "o-", color=color, markersize=4, linewidth=1.5, label=text)
            lowest = min(lowest, errors[0])
        for order in (orders or {}).get(title, ()):
            guide(axes, next(iter(study.values()))[0], lowest / 4, order)
        if title not in semilog:
            axes.xaxis.set_major_locator(FixedLocator(next(iter(study.values()))[0]))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=8, frameon=False, loc="upper right" if title in semilog else "lower left")
    for axes in panels.flat[len(studies) :]:
        axes.set_visible(False)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def draw_conservation(studies, file):
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(studies), figsize=(3.4 * len(studies), 3.0), constrained_layout=True)
    for axes, (title, study) in zip(panels, studies.items(), strict=True):
        frame(axes, title, "time", "relative drift")
        axes.set_yscale("log")
        for color, (label, (times, drift)) in zip(COLORS, study.items(), strict=False):
            axes.plot(times[1:], drift[1:], color=color, linewidth=1.5, label=label)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 3e-17), high * 100)
        axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2 if len(study) > 2 else 1)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def main():
    torch.set_num_threads(1)
    time, space, kept = time_studies(), space_studies(), conservation()
    four = {title: (3, 4) if "correction" in title else (4,) for title in time}
    draw_orders(time, IMAGES / "verification_time.png", xlabel="steps", columns=4, orders=four)
    two = {"Darcy, smooth coefficient": (2,), "Darcy, two layers and a source": (1, 2), "Waves, standing mode": (2,)}
    draw_orders(space, IMAGES / "verification_space.png", xlabel="points per axis", semilog=("Fourier solvers",), columns=4, orders=two)
    draw_conservation(kept, IMAGES / "verification_conservation.png")
    numbers = {"time": time, "space": space, "conservation": kept}
    numbers["orders"] = {
        title: {label: round(slope(x, errors), 2) for label, (x, errors) in study.items()}
        for title, study in (time | space).items()
        if title != "Fourier solvers"
    }
    (IMAGES / "verification.json").write_text(json.dumps(numbers, indent=1) + "\n")
    for title, study in numbers["orders"].items():
        print(f"{title:34}", ", ".join(f"{label} {order:.2f}" for label, order in study.items()))


if __name__ == "__main__":
    main()
