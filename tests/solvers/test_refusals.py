"""Bad input, one clear sentence for each, for every solver: what came, what was expected, what to do."""

import math

import pytest
import torch
from solver_cases import CASES, EVOLVING, SMOKES, WAVES

from opkernels import Axis, Domain
from opkernels.solvers import (
    AllenCahn,
    Burgers1D,
    Darcy2D,
    FitzHughNagumo,
    GrayScott,
    KolmogorovFlow,
    KortewegDeVries,
    KuramotoSivashinsky,
    NavierStokes2D,
    NavierStokes3D,
    RandomVelocity,
    SolverError,
    SpectralWave,
    Wave2D,
)

PERIODIC = {
    "AllenCahn": lambda domain: AllenCahn(domain, epsilon=0.1),
    "Burgers1D": lambda domain: Burgers1D(domain, viscosity=0.1),
    "GrayScott": lambda domain: GrayScott(domain, feed=0.1, kill=0.1),
    "KolmogorovFlow": KolmogorovFlow,
    "KortewegDeVries": KortewegDeVries,
    "KuramotoSivashinsky": KuramotoSivashinsky,
    "NavierStokes2D": lambda domain: NavierStokes2D(domain, viscosity=0.1),
    "NavierStokes3D": lambda domain: NavierStokes3D(domain, viscosity=0.1),
}
LINE, SQUARE, CUBE = (Domain.periodic(*[1.0] * d) for d in (1, 2, 3))
NODES = Domain.box(1.0, 1.0, points="endpoint")


def refuse(told, call, kind=ValueError):
    """The error is of this kind, says this, and is one sentence: no line break, no full stop before its end."""
    with pytest.raises(kind, match=told) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and ". " not in text.replace(" .. ", " to ") and len(text) < 300, text


@pytest.mark.parametrize("name", PERIODIC)
def test_a_periodic_solver_refuses_walls_other_dimensions_and_what_is_no_domain(name):
    build = PERIODIC[name]
    ndim = {"KolmogorovFlow": 2, "NavierStokes2D": 2, "NavierStokes3D": 3}.get(name, 1)
    other = 2 if ndim == 1 else 1
    refuse(f"{name} needs a periodic domain, but axis x has walls; use Domain.periodic", lambda: build(Domain.box(*[1.0] * ndim)))
    mixed = Domain((Axis(0, 1, periodic=True, points="node"), Axis(0, 1)))
    refuse("axis y has walls", lambda: build(mixed))
    refuse(f"{name} got domain=.*; give a Domain", lambda: build((1.0, 1.0)))
    if name not in ("AllenCahn", "GrayScott"):
        refuse(f"{name} got a {other}-D domain; it solves {ndim}-D problems", lambda: build(Domain.periodic(*[1.0] * other)))
    refuse("it solves|method", lambda: build(Domain.periodic(1.0, 1.0, 1.0, 1.0)))


SAMPLES = {  # what is done to good samples (2, C, *spatial) -> what is said
    "an axis too few": (lambda u: u[0], r"got .* \(.*\); expected a tensor \(batch, \d, (x|latitude)"),
    "channels too many": (lambda u: torch.cat([u, u], dim=1), r"expected a tensor \(batch, \d, (x|latitude).* with channels "),
    "no sample": (lambda u: u[:0], r"got .* \(0, .*; expected a tensor"),
    "an array": (lambda u: u.numpy(), "got .* ndarray; expected a tensor"),
    "whole numbers": (lambda u: u.long(), "in torch.int64; use float32 or float64"),
    "half precision": (lambda u: u.half(), "in torch.float16; use float32 or float64"),
    "complex numbers": (lambda u: u.to(torch.complex128), "in torch.complex128; use float32 or float64"),
    "one point": (lambda u: u[..., :1], "got 1 samples (on axis .|in longitude); a grid needs at least 2"),
    "a NaN": (lambda u: torch.stack([u[0], math.nan * u[1]]), "with a NaN or infinity in sample 1; look at"),
    "another batch": (lambda u: torch.cat([u, u[:1]]), "for a batch of 3"),
}


@pytest.mark.parametrize("wrong", SAMPLES)
@pytest.mark.parametrize("name", CASES)
def test_samples(name, wrong):
    case = CASES[name]
    if wrong == "another batch" and not case.parameters:
        pytest.skip("it has no parameter per sample")
    spoil, told = SAMPLES[wrong]
    refuse(told, lambda: case.run(case.solver(), spoil(case.u0(case.shape))))


TIMES = {
    "none": ({"times": []}, "give a sequence of finite times, at least one"),
    "words": ({"times": "ab"}, "got times='ab'; give a sequence of finite times"),
    "one number": ({"times": 1.0}, r"got times of shape \(\); give a sequence"),
    "out of order": ({"times": [0.2, 0.1]}, "do not increase: 0.2 is followed by 0.1"),
    "not finite": ({"times": [0.1, math.nan]}, "give a sequence of finite times"),
    "before the start": ({"times": [0.1], "t0": 5.0}, "times from 0.1 on, before t0=5; ask for times at or after t0"),
    "no start": ({"times": [0.1], "t0": "now"}, "got t0='now'; give the time of u0"),
    "negative step": ({"times": [0.1], "dt": -1}, "got dt=-1; give a positive time step or leave None"),
    "step that is no number": ({"times": [0.1], "dt": math.nan}, "got dt=nan; give a positive time step"),
    "step of words": ({"times": [0.1], "dt": "short"}, "got dt='short'; give a positive time step"),
    "step that is true": ({"times": [0.1], "dt": True}, "got dt=True; give a positive time step"),
}


@pytest.mark.parametrize("wrong", TIMES)
@pytest.mark.parametrize("name", EVOLVING)
def test_times(name, wrong):
    case = CASES[name]
    arguments, told = TIMES[wrong]
    refuse(told, lambda: case.solver().solve(case.u0(case.shape), **arguments))


@pytest.mark.parametrize("name", [name for name in EVOLVING if name not in (*WAVES, *SMOKES)])
def test_a_step_that_blows_up_names_the_sample_the_time_and_the_cause(name):
    case = CASES[name]
    told = r"sample \d is not finite at t=\d.*after steps of 20; .* is stable up to dt of about .*; lower dt or leave it None"
    refuse(told, lambda: case.solver().solve(30 * case.u0(case.shape), [400.0], dt=20.0), SolverError)


def test_a_step_beyond_the_stable_one_is_refused_before_the_work():
    u0 = torch.zeros(1, 2, 8, 8)
    refuse("Wave2D got dt=1, above leapfrog's stable step 0.1.*; lower it or use", lambda: Wave2D(NODES).solve(u0, [2.0], dt=1.0))
    refuse("cannot choose one; give dt", lambda: Wave2D(NODES, scheme="newmark").solve(u0, [2.0]))


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: AllenCahn(LINE, epsilon=0.0), "epsilon=0; it must be greater than 0"),
        (lambda: Burgers1D(LINE, viscosity=-1.0), "viscosity=-1; it must be greater than 0"),
        (lambda: Burgers1D(LINE, viscosity=math.inf), "viscosity=inf; it must be finite"),
        (lambda: FitzHughNagumo(LINE, diffusivity=(-1.0, 1.0)), "diffusivity=-1; it must be at least 0"),
        (lambda: GrayScott(LINE, feed=0.1, kill=-0.1), "kill=-0.1; it must be at least 0"),
        (lambda: KolmogorovFlow(SQUARE, wavenumber=1.5), "wavenumber=1.5; give the whole number of waves"),
        (lambda: KuramotoSivashinsky(LINE, method="IFRK4"), "got method='IFRK4'; choose one of ETD"),
        (lambda: NavierStokes2D(SQUARE, viscosity=torch.tensor([1.0, -1.0])), r"viscosity=-1 \.\. 1; it must be at least 0"),
        (lambda: NavierStokes2D(SQUARE, viscosity=0.1, drag=-1.0), "drag=-1; it must be at least 0"),
        (lambda: NavierStokes2D(SQUARE, viscosity="thick"), "viscosity='thick'; give a number or one value per sample"),
        (lambda: NavierStokes2D(SQUARE, viscosity=torch.ones(2, 2)), r"viscosity has shape \(2, 2\); give a number or one value"),
        (lambda: NavierStokes3D(CUBE, viscosity=0.1, stirring_power=1.0), "stirring_power without stirring_wavenumber; say up to which"),
        (
            lambda: NavierStokes3D(CUBE, viscosity=0.1, stirring_wavenumber=1.0),
            "stirring_wavenumber=1, below the smallest one 6.28.*; raise it",
        ),
        (lambda: NavierStokes3D(CUBE, viscosity=0.1, stirring_wavenumber=9, stirring_power=-1), "stirring_power=-1; it must be at least 0"),
        (
            lambda: NavierStokes3D(CUBE, viscosity=0.1).energy(torch.zeros(2, 8, 8, 8)),
            r"velocity of shape \(2, 8, 8, 8\); expected \(\.\.\., 3, x, y, z\)",
        ),
        (lambda: RandomVelocity(LINE), "give a Domain of two or three periodic axes"),
        (lambda: RandomVelocity(CUBE, spectrum="white"), "spectrum='white'; choose one of inertial, von_karman, gaussian"),
        (lambda: RandomVelocity(CUBE, cutoff=1.0), "cutoff=1, below the smallest wave number 6.28.* of the domain; raise it"),
        (lambda: SpectralWave(SQUARE, speed=0.0), "speed=0; it must be greater than 0"),
        (lambda: SpectralWave(SQUARE, damping=-1.0), "damping=-1; it must be at least 0"),
        (lambda: Wave2D(NODES, speed=-1.0).solve(torch.zeros(1, 2, 8, 8), [1.0]), "a speed that is not positive and finite"),
        (lambda: Wave2D(Domain.box(1.0, 1.0)), 'points="cell" on axis x, but its nodes lie on the walls; use points="endpoint"'),
        (lambda: Wave2D(LINE), "Wave2D got a 1-D domain; give one with two axes"),
        (lambda: Darcy2D(LINE), "Darcy2D got a 1-D domain; give one with two axes"),
        (lambda: Darcy2D(Domain.box(1.0, 1.0)).solve(torch.zeros(1, 1, 8, 8)), "not positive in sample 0; .* needs a > 0"),
        (lambda: Darcy2D(SQUARE), "no Dirichlet wall, so u is only known up to a constant; make at least one wall Dirichlet"),
    ],
)
def test_parameters(build, told):
    refuse(told, build)
