"""Shallow water on the sphere: Williamson's cases 1 and 5, Galewsky's jet, and CPU time at equal error against torch-harmonics.

    python benchmarks/shallow_water.py [part ...]     (parts: bell mountain jet rollup cost; writes benchmarks/results/shallow_water.json)

| part     | what                                                                                   | CPU minutes |
| -------- | -------------------------------------------------------------------------------------- | ----------- |
| bell     | cosine bell once around in 12 days at T42, four axes                                    | 1           |
| mountain | 15 days at T42: drift of mass, energy and potential enstrophy                           | 1/2         |
| jet      | the jet without its bump for 5 days at T85: how steady, how zonal                       | 1           |
| rollup   | the jet with its bump for 2 days: T42 and T85 against T106                              | 2           |
| cost     | the jet with its bump for 6 hours at T42: error and CPU time of steppers, one process   | 1           |

The peer is the solver of torch-harmonics (examples.ShallowWaterSolver: third-order Adams-Bashforth), where it can be imported: same
grid and truncation, from the same state, its damping put out, float64. It is run in one call, and in calls of half an hour as data sets
are made, at each of which it starts anew. Times are CPU times of one thread, the smaller of two runs, all in one process.
"""

import json
import math
import sys
import time
from pathlib import Path

import torch

from opkernels.solvers.williamson import DAY, EARTH, cosine_bell, galewsky, mountain
from opkernels.spherical import Harmonics

RESULTS = Path(__file__).parent / "results" / "shallow_water.json"
GRIDS = {42: (64, 128), 85: (128, 256), 106: (160, 320)}
HOUR = 3600.0


def viscosity(degree: int) -> float:
    """Return ν of order 4 with which this degree decays in two hours."""
    return (EARTH.radius**2 / (degree * (degree + 1))) ** 4 / (2 * HOUR)


def norms(a, b) -> dict[str, float]:
    """Return the relative errors of fields (lat, lon), weighted by area."""
    weights = EARTH.grid(*a.shape).weights(dtype=torch.float64)
    e = (a - b).abs()
    return {
        "l1": ((weights * e).sum() / (weights * b.abs()).sum()).item(),
        "l2": ((weights * e**2).sum() / (weights * b**2).sum()).sqrt().item(),
        "linf": (e.max() / b.abs().max()).item(),
    }


def kept(u):
    """Return what the solver keeps of a state (1, 3, lat, lon)."""
    grid = EARTH.grid_of(u)
    harmonics = Harmonics(grid.dealiased_degree)
    return harmonics.synthesize(harmonics.analyze(u, grid), grid)


def spectral_errors(u, truth, degree: int) -> list[float]:
    """Return the relative distances of the coefficients of Φ', ζ and δ up to a degree, of states on any grids."""
    harmonics = Harmonics(degree)
    a, b = (harmonics.analyze(x, EARTH.grid(*x.shape[-2:])) for x in (u, truth))
    return [((x - y).norm() / y.norm()).item() for x, y in zip(a[0], b[0], strict=True)]


def bell() -> dict:
    out = {}
    for angle in (0.0, 0.05, math.pi / 2 - 0.05, math.pi / 2):
        problem, grid = cosine_bell(angle), EARTH.grid(*GRIDS[42])
        u0 = problem.fields(0.0, GRIDS[42])
        u = problem.solver().solve(u0, [problem.end], dt=1800.0)[0, 0]
        harmonics = Harmonics(42)
        cut = harmonics.synthesize(harmonics.analyze(u0[0, 0], grid), grid)
        scale = 1000 / u0[0, 0].max()
        out[f"{angle:.4f}"] = norms(u[0], u0[0, 0]) | {
            "truncation_l2": norms(cut, u0[0, 0])["l2"],
            "undershoot": (u[0].min() * scale).item(),
        }
    return out


def mountain_kept() -> dict:
    problem, grid = mountain(), EARTH.grid(*GRIDS[42])
    solver, u0 = problem.solver(), kept(problem.fields(0.0, GRIDS[42]))
    u = solver.solve(u0, [5 * DAY, 10 * DAY, 15 * DAY], dt=1200.0)
    weights = grid.weights(dtype=torch.float64) / EARTH.measure
    mass = [(weights * solver.depth(x)[0, 0]).sum().item() for x in (u0, *u.unbind(1))]
    points = grid.coordinates(dtype=torch.float64)
    assert callable(solver.orography)
    surface = solver.depth(u[:, -1])[0, 0] + solver.orography(*points)
    return {
        "days": [5, 10, 15],
        "mass": [m / mass[0] - 1 for m in mass[1:]],
        "energy": (solver.energy(u) / solver.energy(u0)[:, None] - 1)[0].tolist(),
        "potential_enstrophy": (solver.potential_enstrophy(u) / solver.potential_enstrophy(u0)[:, None] - 1)[0].tolist(),
        "surface": [surface.min().item(), surface.max().item()],
    }


def jet() -> dict:
    problem = galewsky(0.0)
    u0 = kept(problem.fields(0.0, GRIDS[85]))
    u = problem.solver().solve(u0, [5 * DAY], dt=900.0)[0, 0]
    waves = u[1] - u[1].mean(dim=-1, keepdim=True)
    return {"vorticity_change": norms(u[1], u0[0, 1])["l2"], "waves": (waves.norm() / u[1].norm()).item()}


def rollup() -> dict:
    problem, states = galewsky(), {}
    for degree, dt in ((42, 900.0), (85, 450.0), (106, 360.0)):
        states[degree] = problem.solver(viscosity=viscosity(degree)).solve(problem.fields(0.0, GRIDS[degree]), [2 * DAY], dt=dt)[:, 0]
    return {f"T{degree}": spectral_errors(states[degree], states[106], degree) for degree in (42, 85)}


def timed(run) -> tuple[float, torch.Tensor]:
    """Return the CPU seconds and what comes out, the better of two runs."""
    best, out = math.inf, None
    for _ in range(2):
        start = time.process_time()
        out = run()
        best = min(best, time.process_time() - start)
    assert out is not None
    return best, out


def cost() -> dict:
    problem, shape, end = galewsky(), GRIDS[42], 6 * HOUR
    u0 = problem.fields(0.0, shape)
    truth = problem.solver().solve(u0, [end], dt=60.0)[:, 0]
    rows = []

    def tell(name: str, dt: float, run) -> None:
        seconds, u = timed(run)
        rows.append({"name": name, "dt": dt, "errors": spectral_errors(u, truth, 42), "seconds": seconds})
        print(f"  {name}, dt={dt:g}: {', '.join(f'{e:.1e}' for e in rows[-1]['errors'])}, {seconds:.2f} s", flush=True)

    for method, steps in {"ETDRK4B": (1800, 1200, 900, 600), "RK4": (450, 300, 200)}.items():
        solver = problem.solver(method=method)
        for dt in steps:
            tell(f"ours, {method}", dt, lambda solver=solver, dt=dt: solver.solve(u0, [end], dt=float(dt))[:, 0])
    try:
        from torch_harmonics.examples import ShallowWaterSolver  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("  torch-harmonics is not here; the peer is left out")
        return {"rows": rows}
    whole = u0.clone()
    whole[:, 0] += 9.80616 * 1e4
    for dt, calls in ((75, 1), (50, 1), (50, 12), (25, 12)):
        peer = ShallowWaterSolver(*shape, dt, lmax=43, mmax=43, grid="legendre-gauss").double()
        peer.hyperdiff.fill_(1.0)

        def run(peer=peer, dt=dt, calls=calls):
            z = torch.tril(peer.grid2spec(whole[0]))
            for _ in range(calls):
                z = peer.timestep(z, round(end / dt / calls))
            u = peer.spec2grid(z)[None]
            u[:, 0] -= 9.80616 * 1e4
            return u

        tell(f"torch-harmonics, {calls} call{'s' * (calls > 1)}", dt, run)
    return {"rows": rows, "ratios": ratios(rows)}


def ratios(rows: list[dict]) -> dict[str, float]:
    """Return how many times the peer's CPU time is ours where the largest of three errors, relative to ours at 900 s, is the same.

    A power law through a contender's two runs next to that error tells its time there.
    """
    ours = next(row for row in rows if row["name"] == "ours, ETDRK4B" and row["dt"] == 900)
    found = {}
    for name in {row["name"]: None for row in rows}:
        points = sorted(
            (max(e / o for e, o in zip(r["errors"], ours["errors"], strict=True)), r["seconds"]) for r in rows if r["name"] == name
        )
        pairs = list(zip(points, points[1:], strict=False))
        (e1, s1), (e2, s2) = next((pair for pair in pairs if pair[1][0] >= 1), pairs[-1])
        found[name] = s1 * (s2 / s1) ** (math.log(1 / e1) / math.log(e2 / e1)) / ours["seconds"]
    return found


PARTS = {"bell": bell, "mountain": mountain_kept, "jet": jet, "rollup": rollup, "cost": cost}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or PARTS:
        start = time.process_time()
        found = PARTS[name]()
        print(name, json.dumps(found, indent=1), f"{time.process_time() - start:.0f} CPU s", flush=True)
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(known | {name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
