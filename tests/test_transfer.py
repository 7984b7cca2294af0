"""The resolution contract: every layer and every model is one operator on all grids.

Each row of `SPECTRAL` must meet the bounds of `opkernels.certify` in float64 and float32 and commute
with shifts (T1 does not); each row of `FINITE_ORDER` meets the order or the figure it states. Add a row for every
layer and model. The last tests show that modules which depend on the grid do not pass.
"""

import math

import pytest
import torch
from torch import nn

import opkernels as ok
from opkernels import Axis, Domain, Sphere
from opkernels.evaluation.probes import random_function
from opkernels.layers import (
    ChannelMLP,
    CompressedConv,
    DifferentialConv,
    FactorizedAttention,
    FactorizedSpectralConv,
    LocalIntegralConv,
    PolarHats,
    Radial,
    SpectralConv,
    SphericalDifferentialConv,
    SphericalIntegralConv,
    SphericalSpectralConv,
    Zernike,
)
from opkernels.models import FFNO, FNO, MGTFNO, SFNO, T1, TFNO, FactFormer, LocalNO

LINE = Domain.periodic(3.0)
TORUS = Domain.periodic(2 * math.pi, 3.0)
CELLS = Domain((Axis(-1, 1, periodic=True, points="cell"), Axis(0, 3, periodic=True, points="node")))
SPACE = Domain.periodic(1.0, 2.0, 1.5)
BOX = Domain.box(1.0, 2.0)
GLOBE = Sphere()
LATLON = Sphere(2.0, points="equiangular")

SMALL = {"hidden_channels": 8, "n_layers": 2}
GLOBAL = {"equivariant": False}  # activations on coefficients do not commute with shifts
COSINES = random_function(BOX, 2, walls="cosines")
ANGLES = [(65, 128), (70, 129), (129, 256)]  # half as many degrees as rows
DIVIDING = [(64, 64), (64, 128), (96, 80), (128, 128)]  # into patches

# name, module from (domain, in_channels, out_channels), domain, more arguments of certify
SPECTRAL = [
    ("SpectralConv", lambda d, i, o: SpectralConv(i, o, (8, 12)), TORUS, {}),
    ("SpectralConv 1-D", lambda d, i, o: SpectralConv(i, o, (9,)), LINE, {}),
    ("FactorizedSpectralConv", lambda d, i, o: FactorizedSpectralConv(i, o, (8, 11), rank=0.5, factorization="cp"), TORUS, {}),
    ("ChannelMLP", lambda d, i, o: ChannelMLP(i, o, 8), TORUS, {}),
    ("FNO", lambda d, i, o: FNO(d, i, o, n_modes=(12, 8), **SMALL), TORUS, {}),
    ("FNO on cells", lambda d, i, o: FNO(d, i, o, n_modes=(8, 12), **SMALL), CELLS, {}),
    ("FNO 1-D", lambda d, i, o: FNO(d, i, o, n_modes=(16,), **SMALL), LINE, {}),
    ("FNO 3-D", lambda d, i, o: FNO(d, i, o, n_modes=(6, 5, 4), hidden_channels=4, n_layers=2), SPACE, {}),
    ("FFNO", lambda d, i, o: FFNO(d, i, o, n_modes=(16, 12), hidden_channels=8, n_layers=3), TORUS, {}),
    ("TFNO", lambda d, i, o: TFNO(d, i, o, n_modes=(12, 8), rank=0.3, **SMALL), TORUS, {}),
    ("TFNO, one tensor", lambda d, i, o: TFNO(d, i, o, n_modes=(8, 8), factorization="tt", joint=True, rank=0.3, **SMALL), CELLS, {}),
    ("FNO with norm", lambda d, i, o: FNO(d, i, o, n_modes=(8, 8), norm="group_norm", **SMALL), TORUS, {}),
    ("FactorizedSpectralConv", lambda d, i, o: FactorizedSpectralConv(i, o, (8, 12), rank=0.3), TORUS, {}),
    ("TFNO", lambda d, i, o: TFNO(d, i, o, n_modes=(12, 8), rank=0.2, factorization="tt", **SMALL), TORUS, {}),
    ("TFNO, joint", lambda d, i, o: TFNO(d, i, o, n_modes=(8, 9), rank=0.2, joint=True, **SMALL), TORUS, {}),
    ("FNO with parameters", lambda d, i, o: FNO(d, i, o, n_modes=(8, 8), n_parameters=2, **SMALL), TORUS, {"parameters": torch.ones(1, 2)}),
    ("T1", lambda d, i, o: T1(d, i, o, n_modes=(12, 8), **SMALL), TORUS, GLOBAL),
    ("T1 on cells", lambda d, i, o: T1(d, i, o, n_modes=(8, 12), mixing={"causal": True}, **SMALL), CELLS, GLOBAL),
    ("T1 1-D", lambda d, i, o: T1(d, i, o, n_modes=(16,), mixing="low_rank", **SMALL), LINE, GLOBAL),
    ("T1, amortized", lambda d, i, o: T1(d, i, o, n_modes=(12, 8), mixing="amortized", **SMALL), TORUS, GLOBAL),
    ("T1, local", lambda d, i, o: T1(d, i, o, n_modes=(12, 8), mixing="local", **SMALL), TORUS, GLOBAL),
    ("T1 with a U-Net", lambda d, i, o: T1(d, i, o, n_modes=(12, 16), mixing="unet", **SMALL), TORUS, GLOBAL),
    ("T1 3-D", lambda d, i, o: T1(d, i, o, n_modes=(6, 5, 4), hidden_channels=4, n_layers=2), SPACE, GLOBAL),
    ("T1 in a box", lambda d, i, o: T1(d, i, o, n_modes=(8, 8), **SMALL), BOX, GLOBAL | {"function": COSINES}),
    ("FactorizedAttention", lambda d, i, o: FactorizedAttention(i, 2, n_heads=2, head_dim=4), TORUS, {}),
    ("FactFormer", lambda d, i, o: FactFormer(d, i, o, n_steps=3, **SMALL), TORUS, {}),
    ("FactFormer on cells", lambda d, i, o: FactFormer(d, i, o, n_heads=2, head_dim=6, parallel=True, **SMALL), CELLS, {}),
    ("FactFormer 1-D", lambda d, i, o: FactFormer(d, i, o, hidden_channels=16, n_layers=4), LINE, {}),
    ("FactFormer 3-D", lambda d, i, o: FactFormer(d, i, o, bandwidth=4, **SMALL), SPACE, {}),
    ("FactFormer with parameters", lambda d, i, o: FactFormer(d, i, o, n_parameters=2, **SMALL), TORUS, {"parameters": torch.ones(1, 2)}),
    ("LocalIntegralConv", lambda d, i, o: LocalIntegralConv(i, o, Zernike(3), radius=0.4), TORUS, {}),
    ("LocalNO", lambda d, i, o: LocalNO(d, i, o, n_modes=(12, 8), **SMALL), TORUS, {}),
    (
        "LocalNO, integrals only",
        lambda d, i, o: LocalNO(d, i, o, n_modes=(8, 8), branches=("spectral", "integral"), **SMALL),
        CELLS,
        {},
    ),
    ("LocalNO 1-D", lambda d, i, o: LocalNO(d, i, o, n_modes=(16,), **SMALL), LINE, {}),
    ("SphericalSpectralConv", lambda d, i, o: SphericalSpectralConv(i, o, 9), GLOBE, {}),
    ("SphericalIntegralConv", lambda d, i, o: SphericalIntegralConv(i, o, Radial(2, 3), radius=0.4), GLOBE, {}),
    ("SphericalDifferentialConv", lambda d, i, o: SphericalDifferentialConv(i, o, length=0.1, order=2), LATLON, {}),
    ("SFNO", lambda d, i, o: SFNO(d, i, o, n_modes=12, **SMALL), GLOBE, {}),
    ("SFNO without an axis", lambda d, i, o: SFNO(d, i, o, n_modes=12, symmetry="sphere", positional_embedding=None, **SMALL), GLOBE, {}),
    ("SFNO, equiangular", lambda d, i, o: SFNO(d, i, o, n_modes=12, norm="group_norm", **SMALL), LATLON, {"shapes": ANGLES}),
    ("SFNO with parameters", lambda d, i, o: SFNO(d, i, o, n_modes=8, n_parameters=2, **SMALL), GLOBE, {"parameters": torch.ones(1, 2)}),
    ("LocalNO on a sphere", lambda d, i, o: LocalNO(d, i, o, n_modes=12, **SMALL), GLOBE, {}),
]
FINITE_ORDER = [
    ("CompressedConv", lambda d, i, o: CompressedConv(d, i, o, rank=2, spacing=(0.1, 0.05)), TORUS, {"order": 2}),
    ("DifferentialConv", lambda d, i, o: DifferentialConv(i, o, 2, length=0.1, accuracy=4), TORUS, {"order": 4}),
    (
        "LocalNO with stencils",
        lambda d, i, o: LocalNO(d, i, o, n_modes=(12, 8), differential={"accuracy": 4}, **SMALL),
        TORUS,
        {"tolerance": 5e-4},
    ),
    ("LocalNO in a box", lambda d, i, o: LocalNO(d, i, o, n_modes=(8, 8), **SMALL), BOX, {"tolerance": 0.05}),
    # A sum over samples; at the poles its direction turns.
    ("LocalNO on a sphere, sums", lambda d, i, o: local_no(d, i, o, PolarHats(3, 4)), GLOBE, {"tolerance": 2e-3}),
    # On walls FNO's period ends in a jump: it converges, at the rate of that jump.
    ("FNO in a box", lambda d, i, o: FNO(d, i, o, n_modes=(8, 8), **SMALL), BOX, {"tolerance": 0.05}),
    # Cosines of a function whose slope does not vanish at the walls alias, at the order of the midpoint rule.
    ("T1 in a box", lambda d, i, o: T1(d, i, o, n_modes=(8, 8), **SMALL), BOX, {"tolerance": 0.01}),
    # The coarse operator sees a fourth or half of the samples of an axis: its nonlinearities alias as an FNO's on 16 or 32. A mirrored
    # field has kinks at walls.
    ("MGTFNO", lambda d, i, o: mgtfno(d, i, o, levels=2), TORUS, {"tolerance": 2e-2, "shapes": DIVIDING}),
    ("MGTFNO on cells", lambda d, i, o: mgtfno(d, i, o, levels=1), CELLS, {"tolerance": 2e-4, "shapes": DIVIDING}),
    ("MGTFNO in a box", lambda d, i, o: mgtfno(d, i, o, levels=1), BOX, {"tolerance": 0.1, "shapes": DIVIDING}),
    # Means over midpoints, or by the trapezoid rule.
    ("FactFormer in a box", lambda d, i, o: FactFormer(d, i, o, **SMALL), BOX, {"order": 2.0}),
    ("FactFormer from wall to wall", lambda d, i, o: FactFormer(d, i, o, **SMALL), Domain.box(1.0, 2.0, points="endpoint"), {"order": 2.0}),
]


def local_no(domain, in_channels, out_channels, kernel):
    return LocalNO(domain, in_channels, out_channels, n_modes=12, integral={"kernel": kernel, "radius": 0.5}, **SMALL)


def mgtfno(domain, in_channels, out_channels, *, levels):
    padding = [length / 8 for length in domain.extent]
    return MGTFNO(domain, in_channels, out_channels, n_modes=(12, 8), levels=levels, padding=padding, rank=0.2, **SMALL)


def built(build, domain):
    torch.manual_seed(0)
    return build(domain, 2, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("build, domain, options", [row[1:] for row in SPECTRAL], ids=[row[0] for row in SPECTRAL])
def test_spectral_modules_are_one_operator(build, domain, options, dtype):
    report = ok.certify(built(build, domain), domain, 2, dtype=dtype, **{"equivariant": True, **options})
    assert report.passed, report.table()


@pytest.mark.parametrize("build, domain, options", [row[1:] for row in FINITE_ORDER], ids=[row[0] for row in FINITE_ORDER])
def test_modules_of_finite_order_meet_what_they_state(build, domain, options):
    report = ok.certify(built(build, domain), domain, 2, **options)
    assert report.passed, report.table()


def test_a_convolution_in_pixels_fails():
    report = ok.certify(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), TORUS, 2, equivariant=True)
    assert not report.passed and report.errors[64, 64] > 0.01
    assert report.equivariance < 1e-10  # it commutes with shifts; what it lacks is a meaning in units of length


@pytest.mark.parametrize("positions, culprit", [("grid", (64, 64)), (None, (65, 63))])
def test_neuraloperators_fno_fails(positions, culprit):
    """Its ramp of positions is a sawtooth on a torus; without one, odd sizes of a leading axis go wrong."""
    neuralop = pytest.importorskip("neuralop.models")
    torch.manual_seed(0)
    model = neuralop.FNO(n_modes=(12, 12), in_channels=2, out_channels=3, hidden_channels=8, n_layers=2, positional_embedding=positions)
    report = ok.certify(model, TORUS, 2, dtype=torch.float32, shapes=[(64, 64), (65, 63), (128, 128)])
    assert not report.passed and report.errors[culprit] > 5e-4
    if positions is None:
        assert report.errors[64, 64] < 3e-5
    else:
        assert report.equivariance > 1e-2
