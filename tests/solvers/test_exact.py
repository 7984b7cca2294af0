"""Problems with exact solutions, crossed with every solver and scheme that can take them."""

import pytest
import torch
from helpers import assert_order

from opkernels.solvers.exact import (
    abc_flow,
    allen_cahn_front,
    cole_hopf,
    layered_darcy,
    manufactured_vorticity,
    smooth_darcy,
    soliton,
    standing_wave,
    taylor_green,
    two_solitons,
)

EVOLVING = {
    abc_flow: ("IFRK4", "ETDRK4", "IFAB4"),
    taylor_green: ("IFRK4", "ETDRK4", "IFAB4"),
    manufactured_vorticity: ("IFRK4", "ETDRK4"),
    cole_hopf: ("IFRK4", "ETDRK4"),
    soliton: ("IFRK4", "ETDRK4", "ETDRK4B"),
    two_solitons: ("ETDRK4",),
    allen_cahn_front: ("ETDRK4",),
    standing_wave: ("exact", "p1", "q1"),
}


@pytest.mark.parametrize(("problem", "method"), [(p, m) for p, methods in EVOLVING.items() for m in methods])
def test_the_solution_is_the_solvers(problem, method):
    """With the solver's own step: 1e-5, second-order elements 5e-3, the exact propagator 1e-12; and the solution does move."""
    exact = problem()
    bound = {"exact": 1e-12, "p1": 5e-3, "q1": 1e-2}.get(method, 1e-5)
    assert exact.error(method) < bound
    start, end = exact.fields(0.0), exact.fields(exact.end)
    assert (end - start).norm() > 1e-2 * start.norm()


@pytest.mark.parametrize("method", ["p1", "q1", "newmark"])
def test_elements_are_second_order(method):
    exact, sizes = standing_wave(), (12, 24, 48, 72, 96)
    errors = [exact.error(method, steps=2 * n, shape=(n + 1, 2 * n // 3 + 1)) for n in sizes]
    assert_order([1 / n for n in sizes], errors, 2, slack=0.1)


@pytest.mark.parametrize("points", ["cell", "endpoint"])
@pytest.mark.parametrize("faces", ["harmonic", "arithmetic"])
def test_darcy_is_second_order_where_the_coefficient_is_smooth(points, faces):
    exact, sizes = smooth_darcy(points), (8, 16, 32, 64, 128)
    extra = points == "endpoint"
    errors = [exact.error(faces, (n + extra, 3 * n // 4 + extra)) for n in sizes]
    assert_order([1 / n for n in sizes], errors, 2, slack=0.1)


@pytest.mark.parametrize("points", ["cell", "endpoint"])
@pytest.mark.parametrize(("faces", "order"), [("harmonic", 2), ("arithmetic", 1)])
def test_layers(points, faces, order):
    """Harmonic faces are exact without a source and of second order with one; arithmetic ones are of first order."""
    sizes = (18, 34, 66, 130, 258)
    errors = [layered_darcy(1.0, points).error(faces, (n, 4)) for n in sizes]
    assert_order([1 / (n - (points == "endpoint")) for n in sizes], errors, order)
    without = layered_darcy(0.0, points).error(faces, (34, 4))
    assert without < 1e-11 if faces == "harmonic" else 1e-3 < without < 2e-2


def test_solutions_solve_their_equations():
    """The soliton and the two of them by u_t + 6 u u_x + u_xxx = 0 with derivatives of the Fourier series."""
    for problem in (soliton(), two_solitons()):
        n, h = 1024, 1e-4
        u, before, after = (problem.fields(1.0 + dt, (n,))[0, 0] for dt in (0.0, -h, h))
        k = 2j * torch.pi / problem.domain.extent[0] * torch.arange(n // 2 + 1)
        flux = torch.fft.irfft(3 * k * torch.fft.rfft(u * u) + k**3 * torch.fft.rfft(u), n=n)
        change = (after - before) / (2 * h)
        assert (change + flux).norm() < 1e-5 * change.norm()
