"""SFNO and LocalNO on a sphere: rotations, positions, branches in one transform, saved, compiled, trained, refusals."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import fake_cuda

import opkernels as ok
from opkernels import Domain, Sphere
from opkernels.layers import PolarHats, Radial, SphericalDifferentialConv, SphericalIntegralConv, SphericalSpectralConv, Zernike
from opkernels.layers.embedding import positions
from opkernels.models import FNO, SFNO, LocalNO
from opkernels.models.local_no import Differential, Integral
from opkernels.spherical import Harmonics
from opkernels.training.config import read_config

EXAMPLES = Path(__file__).parents[2] / "examples"
GLOBE = Sphere()
SMALL = {"hidden_channels": 6, "n_layers": 2}


def sfno(domain=GLOBE, **options):
    torch.manual_seed(0)
    return SFNO(domain, 2, 1, **{"n_modes": 7, **SMALL, **options})


def local_no(domain=GLOBE, **options):
    torch.manual_seed(0)
    return LocalNO(domain, 2, 1, **{"n_modes": 7, **SMALL, **options})


def turned_values(z, p):
    """Values (C, N) of the function with coefficients z (C, l, m) at unit vectors p (3, N), by SciPy's harmonics."""
    from scipy.special import sph_harm_y

    theta, phi = torch.acos(p[2].clamp(-1, 1)).numpy(), torch.atan2(p[1], p[0]).numpy()
    total = torch.zeros(len(z), p.shape[1], dtype=torch.float64)
    for ell in range(z.shape[-1]):
        for m in range(ell + 1):
            total += (1 if m == 0 else 2) * (z[:, ell, m, None] * torch.as_tensor((-1) ** m * sph_harm_y(ell, m, theta, phi))).real
    return total


def test_without_axis_and_positions_it_commutes_with_every_rotation():
    """Of x and of x after a rotation q: the second answer at p is the first at q p."""
    grid, some = GLOBE.grid(32, 64), slice(7, None, 23)
    latitude, longitude = grid.coordinates(dtype=torch.float64)
    p = torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()])
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    turned = torch.einsum("ab,bji->aji", q, p)
    x, moved = (torch.stack([r[0] * r[1] + r[2], r[2] ** 2 - r[0]])[None] for r in (p, turned))
    for options in ({"symmetry": "sphere", "positional_embedding": None}, {"symmetry": "sphere"}, {"positional_embedding": None}):
        model = sfno(**options).double()
        wanted = turned_values(Harmonics(24).analyze(model(x).detach()[0], grid), turned.flatten(1)[:, some])
        error = (model(moved).detach()[0].flatten(1)[:, some] - wanted).norm() / (wanted - wanted.mean()).norm()
        assert error < 1e-8 if len(options) == 2 else error > 1e-3


def test_positions_are_smooth_coordinates_of_space():
    grid = GLOBE.grid(12, 20)
    latitude, longitude = grid.coordinates(dtype=torch.float64)
    x, y, z = positions(grid, "harmonics", torch.device("cpu"), torch.float64)
    torch.testing.assert_close(torch.stack([x, y]), latitude.cos() * torch.stack([longitude.cos(), longitude.sin()]))
    torch.testing.assert_close(positions(grid, "walls", torch.device("cpu"), torch.float64), latitude.sin()[None])
    torch.testing.assert_close(z, latitude.sin())
    for kind, channels in (("walls", 1), ("harmonics", 3), (None, 0)):
        assert sfno(positional_embedding=kind).lifting.first.weight.shape[1] == 2 + channels
        assert sfno(positional_embedding=kind)(torch.randn(1, 2, 12, 20)).shape == (1, 1, 12, 20)


def test_one_transform_serves_all_branches():
    for options in (
        {},
        {"integral": Integral(0.9, PolarHats(3, 4))},
        {"differential": {"order": 2}, "branches": ("differential", "integral")},
    ):
        conv = local_no(**options).double().blocks[0].conv
        for grid in (GLOBE.grid(14, 20), Sphere(points="equiangular").grid(13, 21)):
            x = torch.randn(2, 6, *grid.shape, dtype=torch.float64)
            wanted = sum(branch(x, grid) for branch in conv.branches.values())
            torch.testing.assert_close(conv(x, grid), wanted, rtol=0, atol=1e-12)


def test_lengths_begin_where_the_spectral_branch_ends():
    spectral, differential, integral = local_no(n_modes=10).blocks[0].conv.branches.values()
    assert (type(spectral), type(differential), type(integral)) == (SphericalSpectralConv, SphericalDifferentialConv, SphericalIntegralConv)
    assert integral.radius == pytest.approx(torch.pi / 10) and differential.length == differential.smoothing == pytest.approx(0.05)
    assert spectral.degree == 10 and integral.kernel == Radial(2, 3) and integral.quadrature == "exact"
    for n_modes, radius in ((1, torch.pi / 2), (np.int64(4), torch.pi / 4)):  # degree one alone, a number from NumPy
        assert local_no(n_modes=n_modes).blocks[0].conv.branches["integral"].radius == pytest.approx(radius)
    assert local_no(integral={"kernel": ["Zernike", 3]}).blocks[0].conv.branches["integral"].quadrature == "nodal"


def test_spectral_alone_is_an_sfno():
    model, other = local_no(branches=["spectral"]), sfno()
    other.load_state_dict({name.replace("branches.spectral.", ""): value for name, value in model.state_dict().items()})
    x = torch.randn(2, 2, 16, 30)
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("build", [sfno, local_no], ids=["SFNO", "LocalNO"])
def test_asked_elsewhere(build):
    """On another grid, of other points, or with another output shape, for one batch and parameters."""
    model = build(n_parameters=1).double()
    harmonics, p = Harmonics(3), torch.tensor([[0.3], [1.0]], dtype=torch.float64)
    z = torch.view_as_complex(torch.randn(2, 2, 4, 4, 2, dtype=torch.float64))
    coarse, fine, other = GLOBE.grid(24, 48), GLOBE.grid(40, 90), Sphere(points="equiangular").grid(49, 60)
    y = model(harmonics.synthesize(z, coarse), parameters=p)
    wanted = Harmonics(12).analyze(y, coarse)
    for grid in (fine, other):
        got = Harmonics(12).analyze(model(harmonics.synthesize(z, grid), parameters=p, grid=grid), grid)
        assert ((got - wanted).norm() / wanted[:, :, 1:].norm()) < 1e-6
    torch.testing.assert_close(
        model(harmonics.synthesize(z, coarse), parameters=p, output_shape=(40, 90)),
        model(harmonics.synthesize(z, fine), parameters=p),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("build", [sfno, local_no], ids=["SFNO", "LocalNO"])
def test_runs_on_fake_cuda_and_trains_under_bf16(build):
    with fake_cuda():
        assert build()(torch.randn(2, 2, 12, 24)).device.type == "cuda"
    model, x = build(), torch.randn(2, 2, 12, 24)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(10):
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(x) - x[:, :1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def data(samples=6, shape=(12, 24)):
    fields = {name: torch.randn(samples, 3, *shape, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("ab")}
    return ok.Trajectories.from_arrays(fields, GLOBE, times=[0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    "model",
    [
        lambda: SFNO(GLOBE, 2, 2, n_modes=5, norm="group_norm", **SMALL),
        lambda: LocalNO(GLOBE, 2, 2, n_modes=5, integral=Integral(0.8, Zernike(3)), differential=Differential(2), **SMALL),
    ],
    ids=["SFNO", "LocalNO"],
)
def test_trained_saved_loaded_asked_and_rolled_out(model, tmp_path):
    torch.manual_seed(0)
    surrogate = ok.fit(model(), data(), epochs=2, batch_size=4, quiet=True)
    ok.save(surrogate, tmp_path / "sphere.safetensors")
    again = ok.load(tmp_path / "sphere.safetensors")
    assert again.domain == GLOBE and type(again.model) is type(surrogate.model)
    x = torch.randn(2, 2, 12, 24)
    torch.testing.assert_close(again.predict(x), surrogate.predict(x), rtol=0, atol=0)
    assert again.predict(x, output_shape=(16, 30)).shape == (2, 2, 16, 30)
    assert torch.isfinite(again.rollout(torch.randn(2, 2, 10, 20), 3)).all()


def test_the_configuration_builds_its_model():
    config = read_config(EXAMPLES / "configs" / "shallow_water_sphere.yaml")
    assert config.model.name == "SFNO" and config.data.resolution == (32, 64)
    model = SFNO(Sphere(6.37122e6), 2, 2, **config.model.arguments)
    assert model.blocks[3].conv.degree == 21 and model(torch.randn(1, 2, 32, 64)).shape == (1, 2, 32, 64)


def test_the_example_finds_the_same_error_on_both_grids():
    errors = runpy.run_path(str(EXAMPLES / "sfno.py"))["main"]()
    assert errors["24x48"] < 0.9 * errors["standing still"] and errors["32x64"] == pytest.approx(errors["24x48"], rel=0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize(
    "build", [sfno, lambda **o: local_no(integral={"kernel": ["PolarHats", 3, 4], "radius": 0.6}, **o)], ids=["SFNO", "LocalNO"]
)
def test_compiles_for_several_shapes(build):
    model = build()
    compiled = torch.compile(model, backend="aot_eager")
    for shape in ((12, 24), (14, 30)):
        x = torch.randn(2, 2, *shape)
        torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SFNO(Domain.periodic(1.0, 1.0), 1, 1, n_modes=4), "SFNO got domain=.*give a Sphere"),
        (lambda: FNO(GLOBE, 1, 1, n_modes=(4, 4)), "works on boxes; give a Domain, or take SFNO or LocalNO"),
        (lambda: sfno(n_modes=(4, 4)), r"n_modes=\(4, 4\)"),
        (lambda: local_no(n_modes=(4, 4)), r"n_modes=\(4, 4\) on a sphere; give one number"),
        (lambda: sfno(n_modes=0), "n_modes=0"),
        (lambda: sfno(positional_embedding="ramps"), "where longitude jumps"),
        (lambda: local_no(domain_padding=0.5), "a sphere, which has no walls"),
        (lambda: local_no(differential={"accuracy": 4}), "accuracy 4 on a sphere"),
        (lambda: local_no(integral={"kernel": ["Radial", 3, 2]}), "kernel of 3 axes"),
        (lambda: sfno()(torch.zeros(1, 3, 12, 24)), "got 3 channels"),
        (lambda: sfno()(torch.zeros(1, 2, 24)), "latitude, longitude"),
        (lambda: sfno()(torch.zeros(1, 2, 12, 24), grid=GLOBE.grid(12, 20)), "give the grid of x, of a sphere"),
        (lambda: sfno()(torch.zeros(1, 2, 12, 24), grid=Domain.periodic(1.0, 1.0).grid(12, 24)), "give the grid of x, of a sphere"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
