"""Mode selection: floors are those of a projection, sets are the smallest, refusals."""

import itertools

import pytest
import torch

from opkernels.bases import Basis, analyze, synthesize
from opkernels.domains import Domain
from opkernels.metrics import rel_l2
from opkernels.mode_selection import ModeSet, TargetModes, ball, box, strided_tail
from opkernels.models.t1 import T1
from opkernels.solvers import GaussianRandomField

TORUS = Domain.periodic(1.0, 2.0)
WALLS = Domain.box(1.0, 2.0)


def targets_on(domain, samples=4, shape=(24, 31)):
    """Fields with decaying spectra, and in two channels."""
    field = GaussianRandomField(Domain.periodic(*domain.extent), alpha=2.0, tau=5.0).sample(2 * samples, shape, seed=1, dtype=torch.float64)
    return field.view(samples, 2, *shape)


def projected(y, grid, modes):
    return synthesize(analyze(y, grid, modes.bases) * modes.mask(), grid, modes.bases)


@pytest.mark.parametrize("domain", [TORUS, WALLS], ids=["fourier", "cosine"])
@pytest.mark.parametrize(
    "make",
    [
        lambda t: box(t[0], (9, 6)),
        lambda t: ball(t[0], (9, 7)),
        lambda t: t[1].top(17),
        lambda t: strided_tail(t[0], (15, 9), 2, 3),
        lambda t: t[1].threshold(0.1, "ball"),
    ],
)
def test_the_floor_is_the_error_of_the_best_function_of_the_set(domain, make):
    y, grid = targets_on(domain), domain.grid(24, 31)
    measured = TargetModes.of(y, grid)
    modes = make((domain, measured))
    assert 0 < modes.count == int(modes.mask().sum()) < measured.shares[0].numel() * 4
    assert measured.floor(modes) == pytest.approx(rel_l2(projected(y, grid, modes), y).item(), abs=1e-10)


@pytest.mark.parametrize("domain", [TORUS, WALLS], ids=["fourier", "cosine"])
@pytest.mark.parametrize("shape", ["box", "ball", "top"])
def test_thresholds_take_the_smallest_set(domain, shape):
    measured, eps = TargetModes.of(targets_on(domain), domain.grid(24, 31)), 0.15
    modes = measured.threshold(eps, shape)
    assert measured.floor(modes) <= eps
    if shape == "box":  # no smaller box will do
        sizes = itertools.product(*[range(1, 2 * b.size, 2 if b.kind == "fourier" else 1) for b in modes.bases])
        sizes = [s for s in sizes if s[0] * s[1] < modes.count and s[0] <= 23 and s[1] <= 31]
        assert len(sizes) > 10 and min(measured.floor(box(domain, s)) for s in sizes) > eps
    if shape == "top":
        assert modes.orders is not None
        count = len(modes.orders)
        assert measured.floor(measured.top(count)) <= eps < measured.floor(measured.top(count - 1))
        assert modes.count <= measured.threshold(eps, "ball").count
    if shape == "ball":
        assert modes.orders is not None
        radius = [max(b.orders) for b in measured.bases]
        size = [sum((k / r) ** 2 for k, r in zip(ks, radius, strict=True)) for ks in modes.orders]
        fewer = tuple(k for k, s in zip(modes.orders, size, strict=True) if s < max(size) - 1e-9)
        assert measured.floor(ModeSet(modes.bases, fewer)) > eps


@pytest.mark.parametrize("points", ["cell", "node", "endpoint", "gauss"])
def test_floors_of_noise_are_no_better_than_its_best_fit(points):
    """Where the cosines are not orthonormal under the quadrature, shares once summed to more than one, and floors were zero."""
    domain = Domain.box(1.0, 2.0, points=points)
    grid, modes = domain.grid(16, 17), box(domain, (6, 7))
    torch.manual_seed(0)
    y = torch.randn(5, 1, 16, 17, dtype=torch.float64)
    measured = TargetModes.of(y, grid)
    assert measured.shares.flatten(1).sum(1).max() < 1 + 1e-12
    assert measured.floor(modes) == pytest.approx(rel_l2(projected(y, grid, modes), y, grid).item(), rel=0.05)


def test_top_holds_more_than_any_other_set_of_its_size():
    measured = TargetModes.of(targets_on(WALLS, samples=1), WALLS.grid(24, 31))
    best = measured.floor(measured.top(30))
    assert best <= measured.floor(box(WALLS, (6, 5))) and best <= measured.floor(box(WALLS, (5, 6)))


def test_cosine_and_sine_of_a_wave_number_stay_together():
    measured = TargetModes.of(targets_on(TORUS), TORUS.grid(24, 31))
    modes = measured.top(9)
    for basis in modes.bases:
        assert all(basis.orders.count(k) == 2 for k in basis.orders if k)


def test_one_and_three_axes_and_the_choice_of_basis():
    line = Domain.box(3.0)
    x = line.grid(64).coordinates(dtype=torch.float64)[0]
    parabola = (x * (3 - x))[None, None]
    sines, cosines = (TargetModes.of(parabola, line.grid(64), basis=kind) for kind in ("sine", "cosine"))
    assert sines.threshold(1e-3).count < cosines.threshold(1e-3).count
    space = Domain.periodic(1.0, 1.0, 1.0)
    y = GaussianRandomField(space, alpha=3.0, tau=3.0).sample(2, (12, 10, 9), seed=0, dtype=torch.float64)
    modes = TargetModes.of(y, space.grid(12, 10, 9)).threshold(0.1)
    assert rel_l2(projected(y, space.grid(12, 10, 9), modes), y) <= 0.1


def test_a_network_cannot_do_better_than_the_floor():
    y, grid = targets_on(WALLS), WALLS.grid(24, 31)
    measured = TargetModes.of(y, grid)
    modes = measured.threshold(0.2, "ball")
    model = T1(WALLS, 2, 2, n_modes=modes, hidden_channels=4, n_layers=1).double()
    perfect = model.samples(model.coefficients(y, grid), grid)
    assert measured.floor(modes) == pytest.approx(rel_l2(perfect, y).item(), abs=1e-9)
    assert rel_l2(model(y), y) > measured.floor(modes)


def test_plain_data_bring_a_set_back():
    modes = TargetModes.of(targets_on(TORUS), TORUS.grid(24, 31)).top(7)
    assert modes.orders is not None
    plain = {"bases": [vars(b) for b in modes.bases], "orders": [list(k) for k in modes.orders]}
    assert ModeSet.of(plain) == modes


Y = torch.ones(1, 1, 8, 9)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: TargetModes.of(torch.randn(1, 1, 8, 9), TORUS.grid(8, 9)).threshold(1e-9),
            r"no set of the 63 measured modes leaves an error of at most 1e-09: all of them leave 0\.\d+; give a larger eps",
        ),
        (lambda: TargetModes.of(Y, TORUS.grid(8, 9)).threshold(0.0), "at most 0: all of them leave"),
        (lambda: TargetModes.of(Y, TORUS.grid(8, 9)).threshold(0.1, "cube"), "shape='cube'; choose one of box, ball, top"),
        (
            lambda: TargetModes.of(Y, TORUS.grid(8, 9), n_modes=(9, 9)),
            "n_modes=9 on axis x with 8 samples; give at most 8, or finer targets",
        ),
        (lambda: TargetModes.of(Y, WALLS.grid(8, 9), basis="chebyshev"), '"chebyshev" of axis x is not orthonormal'),
        (lambda: TargetModes.of(0 * Y, WALLS.grid(8, 9)), "target 0 is zero everywhere"),
        (lambda: TargetModes.of(Y, WALLS.grid(8, 9)).top(0), "count=0 of 72 measured modes"),
        (lambda: TargetModes.of(Y, WALLS.grid(8, 9)).floor(box(WALLS, (9, 9))), "more functions, than were measured"),
        (lambda: TargetModes.of(Y[0], WALLS.grid(8, 9)), r"targets of shape \(1, 8, 9\); expected \(samples, channels, 8, 9\)"),
        (lambda: TargetModes.of(Y[:0], WALLS.grid(8, 9)), r"targets of shape \(0, 1, 8, 9\); expected"),
        (lambda: TargetModes.of(Y / 0, WALLS.grid(8, 9)), "target 0 is not finite"),
        (lambda: TargetModes.of(Y, WALLS.grid(8, 9)).top(2.5), "count=2.5 of 72 measured modes"),  # type: ignore
        (lambda: ModeSet.of({"orders": [[1, 1]]}), 'give "bases", each with kind and n_modes'),
        (lambda: ModeSet.of({"bases": [{"kind": "sine", "modes": 3}]}), 'give "bases", each with kind and n_modes'),
        (lambda: ModeSet((Basis("sine", 3),), ((0,),)), "orders=.*; give different k = "),
        (lambda: ModeSet((Basis("sine", 3),), ((1, 1),)), "each number among the orders of its basis"),
        (lambda: ModeSet((Basis("sine", 3),), ((1,), (1,))), "give different k"),
        (lambda: ModeSet((Basis("sine", 3),), ()), "give different k"),
        (lambda: box(WALLS, None), "n_modes=None; give one whole number"),  # type: ignore
        (lambda: box(WALLS, (4, 4), "wavelet"), "kind='wavelet'; choose one of fourier, cosine"),
        (lambda: strided_tail(WALLS, (4, 4), 2, 0), "stride=0; give low of at least 0 and a stride of at least 1"),
    ],
)
def test_refuses_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
