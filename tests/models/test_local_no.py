"""LocalNO: the sum of its branches in one transform, the contract of its stencils, branches by layer, saved, compiled, refusals."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from helpers import band_limited, fake_cuda

import opkernels as ok
from opkernels import Domain
from opkernels.layers import DifferentialConv, LocalIntegralConv, PolarHats, SpectralConv, Zernike
from opkernels.models import FNO
from opkernels.models.local_no import Differential, Integral, LocalNO
from opkernels.training.config import read_config

EXAMPLES = Path(__file__).parents[2] / "examples"
TORUS = Domain.periodic(1.0, 2.0)
SMALL = {"hidden_channels": 6, "n_layers": 2}


def local_no(domain=TORUS, n_modes=(8, 7), **options):
    torch.manual_seed(0)
    return LocalNO(domain, 2, 1, n_modes=n_modes, **SMALL | options)


@pytest.mark.parametrize("order, accuracy", [(1, 4), (2, 2), (2, "exact")])
@pytest.mark.parametrize("quadrature", ["exact", "nodal"])
def test_one_transform_serves_both_local_branches(quadrature, order, accuracy):
    conv = (
        local_no(differential={"order": order, "accuracy": accuracy}, integral={"quadrature": quadrature, "radius": 0.3})
        .double()
        .blocks[0]
        .conv
    )
    for shape in ((16, 21), (15, 18)):
        x, grid = torch.randn(2, 6, *shape, dtype=torch.float64), TORUS.grid(*shape)
        wanted = sum(branch(x, grid) for branch in conv.branches.values())
        assert [type(branch) for branch in conv.branches.values()] == [SpectralConv, DifferentialConv, LocalIntegralConv]
        torch.testing.assert_close(conv(x, grid), wanted, rtol=0, atol=1e-12)
        last = conv(x.movedim(1, -1).contiguous().movedim(-1, 1), grid)
        torch.testing.assert_close(last, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(24, 20), (11, 18)])
def test_on_walls_it_is_the_sum_too(shape):
    domain = Domain((ok.Axis(0.0, 1.0, points="cell"), ok.Axis(0.0, 2.0, periodic=True, points="node")))
    conv = local_no(domain, integral={"radius": 0.4}).double().blocks[0].conv
    x, grid = torch.randn(1, 6, *shape, dtype=torch.float64), domain.grid(*shape)
    torch.testing.assert_close(conv(x, grid), sum(branch(x, grid) for branch in conv.branches.values()), rtol=0, atol=1e-13)


def test_the_error_of_its_stencils_is_small_and_falls_with_each_refinement():
    """First derivatives with p = 4: 128 to 256 below 5e-4, and 8 times less or better each time."""
    torch.manual_seed(0)
    options = {"n_modes": (12, 8), "hidden_channels": 8, "n_layers": 2, "differential": {"accuracy": 4}}
    model = LocalNO(Domain.periodic(2 * math.pi, 3.0), 2, 3, **options)
    report = ok.certify(model, model.domain, 2, shapes=[(32, 32), (64, 64), (128, 128)], tolerance=5e-4, equivariant=True)
    errors = list(report.errors.values())
    assert report.passed, report.table()
    assert errors[2] < 5e-4 and errors[0] > 8 * errors[1] > 64 * errors[2] > 0


def test_lengths_begin_where_the_spectral_branch_ends():
    model = LocalNO(Domain.periodic(1.0, 4.0), 1, 1, n_modes=(9, 17), **SMALL)  # shortest waves 1/4 and 4/8
    _, differential, integral = model.blocks[0].conv.branches.values()
    assert integral.radius == pytest.approx(1 / 8) and differential.length == pytest.approx(1 / 16 / math.pi)
    assert integral.kernel == PolarHats(3, 4) and differential.accuracy == "exact"
    assert LocalNO(Domain.box(1.0, 4.0), 1, 1, n_modes=(9, 17), **SMALL).blocks[0].conv.branches["differential"].accuracy == 4
    line = LocalNO(Domain.periodic(1.0), 1, 1, n_modes=(1,), **SMALL)
    assert line.blocks[0].conv.branches["integral"].radius == 0.5
    assert line(torch.zeros(1, 1, 20)).shape == (1, 1, 20)


def test_spectral_alone_is_an_fno():
    model, fno = local_no(branches=["spectral"]), FNO(TORUS, 2, 1, n_modes=(8, 7), **SMALL)
    state = {name.replace("branches.spectral.", ""): value for name, value in model.state_dict().items()}
    fno.load_state_dict(state)
    x = torch.randn(2, 2, 16, 12)
    torch.testing.assert_close(model(x), fno(x), rtol=0, atol=1e-5)


def test_branches_differ_from_layer_to_layer():
    model = local_no(branches=[["integral", "spectral"], ["differential"]])
    assert [list(block.conv.branches) for block in model.blocks] == [["spectral", "integral"], ["differential"]]
    model(torch.randn(2, 2, 16, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("branches", [("spectral", "differential", "integral"), ("differential", "integral")])
def test_gradients_reach_everything_in_a_box(branches):
    model = local_no(Domain.box(1.0, 2.0), branches=branches, positional_embedding=None)
    model(torch.randn(2, 2, 18, 17)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_the_example_finds_the_same_error_on_both_grids():
    errors = runpy.run_path(str(EXAMPLES / "local_no.py"))["main"]()
    assert errors["LocalNO 64"] < 0.8 * errors["FNO 64"] and errors["LocalNO 128"] < 1.1 * errors["LocalNO 64"]


def test_three_axes():
    domain = Domain.periodic(1.0, 2.0, 1.5)
    model = local_no(domain, n_modes=(4, 5, 4), hidden_channels=3, branches=["spectral", "integral"]).double()
    coarse, fine = (model(band_limited(shape, channels=2, k_max=1)).detach() for shape in ((12, 14, 12), (24, 28, 24)))
    assert coarse.norm() > 1e-3 and (fine[..., ::2, ::2, ::2] - coarse).norm() < 1e-4 * (coarse - coarse.mean()).norm()


def test_files_name_the_kernel_by_plain_data(tmp_path):
    options = {"integral": Integral(0.3, Zernike(3)), "differential": Differential(2, 6)}
    model = local_no(TORUS, **options)
    assert model.arguments["integral"].kernel == ("Zernike", 3, 2)
    data = ok.Trajectories.from_arrays({"a": torch.randn(3, 2, 12, 12), "b": torch.randn(3, 2, 12, 12)}, TORUS, times=[0.0, 1.0])
    trained = LocalNO(TORUS, 2, 2, n_modes=(8, 7), **SMALL, **options)
    surrogate = ok.fit(trained, data, epochs=1, quiet=True)
    ok.save(surrogate, tmp_path / "local.safetensors")
    assert ok.load(tmp_path / "local.safetensors").model.blocks[1].conv.branches["integral"].kernel == Zernike(3)
    again = LocalNO(
        TORUS,
        2,
        1,
        n_modes=(8, 7),
        **SMALL,
        integral={"radius": 0.3, "kernel": ["Zernike", 3, 2]},
        differential={"order": 2, "accuracy": 6},
    )
    again.load_state_dict(model.state_dict())
    x = torch.randn(1, 2, 16, 16)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_runs_on_fake_cuda_and_trains_under_bf16():
    with fake_cuda():
        for domain in (TORUS, Domain.box(1.0, 2.0)):
            assert local_no(domain, integral={"radius": 0.4})(torch.randn(2, 2, 16, 15)).device.type == "cuda"
    model, x = local_no(), torch.randn(2, 2, 16, 16)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(10):
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(x) - x[:, :1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of the compiler itself, where graphs meet
def test_compiles():
    torch.manual_seed(0)
    model = LocalNO(Domain.periodic(2.0), 2, 1, n_modes=(4,), hidden_channels=2, n_layers=1)
    compiled = torch.compile(model, backend="aot_eager", dynamic=False)
    for n in (16, 9):
        x = torch.randn(2, 2, n)
        torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"branches": ["spectral", "local"]}, "branches local; choose from spectral, differential, integral"),
        ({"branches": [["spectral"]]}, "give at least one for each of 2 layers"),
        ({"branches": []}, "give at least one for each of 2 layers"),
        ({"integral": {"width": 1}}, "integral options width; choose from radius, kernel, quadrature"),
        ({"differential": 4}, "differential options 4; choose from order, accuracy, length, smoothing"),
        ({"integral": {"kernel": ["Haar", 2]}}, "give a name of PolarHats"),
        ({"integral": {"radius": -1}}, "radius=-1; give a positive length"),
        ({"differential": {"accuracy": 3}}, "accuracy=3; give an even order"),
        ({"differential": {"accuracy": 0}}, "accuracy=0; give an even order"),
        ({"branches": "spectral"}, "branches='spectral'; give a list of spectral, differential, integral"),
        ({"branches": None}, "branches=None; give a list"),
        ({"integral": {"kernel": ["Zernike", 3, 2, 1]}}, "after Zernike give 0 to 2 whole numbers"),
    ],
)
def test_refuses_what_it_does_not_know(options, message):
    with pytest.raises(ValueError, match=message):
        local_no(**options)


@pytest.mark.parametrize(
    "domain, options, message",
    [
        (TORUS, {"integral": {"radius": 0.6}}, "above half the length 1 of axis x"),
        (TORUS, {"integral": {"kernel": ["PolarHats", 3, 6, 3]}}, "2-D grid for a 3-D kernel"),
        (Domain.box(1.0, 2.0), {"integral": {"quadrature": "exact"}}, "axis x has walls"),
        (Domain.box(1.0, 2.0), {"differential": {"accuracy": "exact"}}, "axis x has walls"),
    ],
)
def test_refuses_what_does_not_suit_the_domain_when_built(domain, options, message):
    """Not after an hour of making data."""
    with pytest.raises(ValueError, match=message):
        local_no(domain, **options)


def test_exact_branches_in_a_padded_box():
    model = local_no(Domain.box(1.0, 2.0), domain_padding=(0.25, 0.5), differential={"accuracy": "exact"}, integral={"quadrature": "exact"})
    assert model(torch.randn(1, 2, 16, 20)).isfinite().all()


def test_the_configuration_builds_its_model():
    config = read_config(EXAMPLES / "configs" / "local_no.yaml")
    assert config.model.name == "LocalNO" and config.data.resolution == (64,)
    model = LocalNO(Domain.periodic(2 * math.pi, 2 * math.pi), 1, 1, **config.model.arguments)
    assert model.blocks[3].conv.branches["integral"].kernel == PolarHats(3, 4)
