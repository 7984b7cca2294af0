"""What takes a domain takes a sphere: norms, losses, spectra, statistics, resampling, files, pictures, surrogates, their evaluation."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import opkernels as ok
from opkernels.losses import l1, mse
from opkernels.metrics import band_energy
from opkernels.normalization import Normalization
from opkernels.sphere import Sphere
from opkernels.spherical import Harmonics
from opkernels.training.options import Options

SPHERE = Sphere(2.0)
GRIDS = [SPHERE.grid(16, 32), SPHERE.grid(23, 40), Sphere(2.0, "equiangular").grid(25, 36)]


def fields(grid, *batch, degree=7, seed=0):
    """Random functions of low degree, the same on every grid."""
    z = torch.randn(*batch, degree + 1, degree + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.complex128).tril()
    z[..., 0] = z[..., 0].real + 0j
    return Harmonics(degree).synthesize(z, grid), z


# -- norms, losses, spectra, statistics


def test_norms_and_losses_of_smooth_fields_do_not_depend_on_the_grid():
    for measure in (ok.rel_l2, ok.rel_h1, mse):
        found = [measure(fields(grid, 3, 2)[0], fields(grid, 3, 2, seed=1)[0], grid) for grid in GRIDS]
        assert found[0] > 0.1
        torch.testing.assert_close(found, [found[0]] * len(GRIDS), rtol=1e-11, atol=0)
    found = [l1(fields(grid, 3, 2)[0], fields(grid, 3, 2, seed=1)[0], grid).item() for grid in GRIDS]
    assert found == pytest.approx([found[0]] * len(GRIDS), rel=0.02)  # |.| is not smooth


def test_the_error_of_a_cap_counts_by_area_not_by_samples():
    grid = SPHERE.grid(180, 360)
    latitude = grid.coordinates(dtype=torch.float64)[0]
    cap = (latitude > math.radians(60)).double()[None, None]
    share = (1 - math.sin(math.radians(60))) / 2
    assert mse(cap, torch.zeros_like(cap), grid).item() == pytest.approx(share, rel=0.02)
    assert cap.mean().item() > 2 * share


def test_the_h1_norm_of_a_harmonic():
    """The gradient of Y_lm has the norm sqrt(l (l + 1))/r of Y_lm."""
    for grid in GRIDS:
        z = torch.zeros(1, 1, 8, 8, dtype=torch.complex128)
        z[..., 5, 2], one = 1.0, torch.zeros(1, 1, 8, 8, dtype=torch.complex128)
        one[..., 0, 0] = 1.0
        truth, error = Harmonics(7).synthesize(one, grid), Harmonics(7).synthesize(z, grid)
        assert ok.rel_l2(truth + error, truth, grid).item() == pytest.approx(math.sqrt(2), rel=1e-12)
        assert ok.rel_h1(truth + error, truth, grid).item() == pytest.approx(math.sqrt(2 * (1 + 30 / 4)), rel=1e-12)


def test_spectra_have_one_shell_per_degree_and_add_up_to_the_mean_square():
    for grid in GRIDS:
        u, z = fields(grid, 3)
        kappa, energy = ok.energy_spectrum(u, grid)
        assert kappa.tolist() == pytest.approx([degree / 2.0 for degree in range(grid.highest_degree + 1)])
        torch.testing.assert_close(energy[:, :8] / 2.0, Harmonics(7).spectrum(z) / (8 * math.pi), rtol=1e-11, atol=0)
        mean_square = (u**2 * grid.weights(dtype=u.dtype)).sum((-2, -1)) / grid.domain.measure
        torch.testing.assert_close(energy.sum(-1) / 2.0, mean_square / 2, rtol=1e-11, atol=0)
        torch.testing.assert_close(band_energy(u, grid, [0.0, 1.9, 100.0]).sum(-1), mean_square, rtol=1e-11, atol=0)


def test_statistics_are_those_of_the_functions():
    found = [Normalization.fit(fields(grid, 4, 2)[0], grid=grid) for grid in GRIDS]
    for scale in found:
        assert scale.mean == pytest.approx(found[0].mean, rel=1e-11)
        assert scale.std == pytest.approx(found[0].std, rel=1e-11)


# -- resampling


@pytest.mark.parametrize("source", GRIDS, ids=str)
@pytest.mark.parametrize("target", [*GRIDS, SPHERE.grid(64, 128)], ids=str)
def test_resampling_is_exact_for_functions_that_both_grids_carry(source, target):
    u, v = fields(source, 2, 3)[0], fields(target, 2, 3)[0]
    torch.testing.assert_close(ok.resample(u, source, target), v, rtol=0, atol=1e-12)
    assert ok.resample(u.float(), source, target).dtype == torch.float32
    assert ok.resample(u, source, source) is u
    torch.testing.assert_close(ok.resample(u, source, (40, 64)), fields(source.domain.grid(40, 64), 2, 3)[0], rtol=0, atol=1e-12)


def test_coarsening_is_the_truncation_of_the_series():
    fine, coarse = SPHERE.grid(32, 64), SPHERE.grid(8, 16)
    u, z = fields(fine, degree=20)
    back = Harmonics(7).analyze(ok.resample(u, fine, coarse), coarse)
    torch.testing.assert_close(back, z[:8, :8], rtol=0, atol=1e-12)


@pytest.mark.parametrize("target", [Sphere(1.0).grid(8, 16), ok.Domain.periodic(1.0, 1.0).grid(8, 16)], ids=str)
def test_resampling_to_another_sphere_or_a_box_is_refused(target):
    with pytest.raises(ValueError, match="both grids must sample one sphere"):
        ok.resample(torch.zeros(8, 16), SPHERE.grid(8, 16), target)


# -- data


def dataset(grid=GRIDS[0]):
    u = torch.stack([fields(grid, 3, 5)[0], fields(grid, 3, 5, seed=1)[0]], dim=-1).numpy()
    return ok.Trajectories.from_arrays(
        {"height": u[..., 0], "vorticity": u[..., 1]}, grid.domain, times=np.arange(5.0), parameters={"rotation": np.arange(3.0)}
    )


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_data_on_a_sphere_are_stored_read_and_coarsened(grid, tmp_path):
    data = dataset(grid)
    assert data.domain == grid.domain
    assert "a sphere of radius 2" in repr(data)
    data.save(tmp_path / "data.nc")
    back = ok.open_trajectories(tmp_path / "data.nc")
    assert (back.domain, back.shape, back.grid) == (grid.domain, grid.shape, grid)
    assert torch.equal(back.read(), data.read())
    coarse = grid.domain.grid(17 if grid.domain.points == "equiangular" else 10, 20)
    expected = torch.stack([fields(coarse, 3, 5)[0], fields(coarse, 3, 5, seed=1)[0]], dim=2)
    torch.testing.assert_close(back.at(*coarse.shape).read(), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="stored with"):
        back.at(60, 90)


def test_data_on_a_sphere_go_through_xarray(tmp_path):
    import xarray

    data = dataset(GRIDS[2])
    shown = data.to_xarray()
    assert shown.height.dims == ("sample", "time", "latitude", "longitude")
    assert shown.latitude.attrs["units"] == "radian"
    assert shown.latitude.attrs["axis"] == "Y"
    assert float(shown.latitude[0]) == pytest.approx(math.pi / 2)
    back = ok.Trajectories.from_xarray(shown)
    assert back.domain == data.domain
    assert torch.equal(back.read(), data.read())
    data.save(tmp_path / "data.nc")
    with xarray.open_dataset(tmp_path / "data.nc", engine="h5netcdf") as opened:
        assert ok.Trajectories.from_xarray(opened).domain == data.domain
    with pytest.raises(ValueError, match="the coordinate latitude runs from"):
        ok.Trajectories.from_xarray(shown, Sphere(2.0))


def test_nested_rows_and_cell_means():
    grid = Sphere(1.0, "equiangular").grid(9, 16)
    values = np.random.default_rng(0).normal(size=(1, 9, 16))
    data = ok.Trajectories.from_arrays({"mask": values}, grid.domain, restriction="nodal")
    assert np.array_equal(np.asarray(data.at(5, 8).fields["mask"]), values[:, ::2, ::2])
    with pytest.raises(ValueError, match="nest"):
        data.at(8, 16)
    with pytest.raises(ValueError, match='"gauss"'):
        ok.Trajectories.from_arrays({"mask": values}, Sphere(1.0), restriction="nodal").at(3, 8)
    with pytest.raises(ValueError, match='"mean" needs "cell" points'):
        ok.Trajectories.from_arrays({"mask": values}, grid.domain, restriction="mean").at(5, 8)


def test_pictures_have_the_north_above(tmp_path):
    from opkernels.datasets.inspection import describe, draw
    from opkernels.evaluation.plots import compare_fields, planes

    data = dataset()
    data.save(tmp_path / "data.nc")
    told = describe(tmp_path / "data.nc")
    assert "[-1.5708, 1.5708] from pole to pole, 16 gauss samples" in told and "walls" not in told
    mean_square = (data.read()[:, 0, 0] ** 2 * GRIDS[0].weights(dtype=torch.float64)).sum((-2, -1)).mean() / SPHERE.measure
    assert f"rms {mean_square.sqrt():.3g} at first" in told, "by area, not by samples"
    draw(data, tmp_path / "data.png", samples=1, times=2)
    assert (tmp_path / "data.png").stat().st_size > 1000
    north = GRIDS[0].coordinates()[0].numpy()[None]
    shown, _, axes = planes(north, north, GRIDS[0])
    assert [axis.name for axis in axes] == ["longitude", "latitude"]
    assert shown.shape == (1, 32, 16)
    assert shown[0, 0, -1] > 0 > shown[0, 0, 0]  # drawn as shown.T with the origin below
    error = np.where(np.arange(16)[:, None] == 0, 1.0, np.zeros((16, 32)))[None]  # in the northernmost row alone
    share = (GRIDS[0].weights(dtype=torch.float64)[0].sum() / SPHERE.measure).item()
    figure = compare_fields(np.ones((1, 16, 32)), 1 + error, GRIDS[0])
    assert f"{100 * math.sqrt(share):.3g} %" in [text.get_text() for axes in figure.axes for text in axes.texts]


# -- surrogates


class Smoothing(nn.Module):
    """exp(s lap) of every channel: the same operator on every grid, with one weight."""

    def __init__(self, domain: Sphere, in_channels: int, out_channels: int):
        super().__init__()
        self.domain, self.in_channels, self.out_channels = domain, in_channels, out_channels
        self.amount = nn.Parameter(torch.tensor(0.1))

    def forward(self, x, *, grid=None, output_shape=None):
        grid = grid or self.domain.grid_of(x)
        harmonics = Harmonics(min(grid.highest_degree, 10))
        z = harmonics.analyze(x, grid)
        degree = torch.arange(harmonics.degree + 1, dtype=x.dtype)[:, None]
        target = grid if output_shape is None else grid.domain.grid(*output_shape)
        return harmonics.synthesize(z * torch.exp(-self.amount * degree * (degree + 1)), target)


def test_a_surrogate_on_a_sphere_is_trained_saved_and_evaluated_at_other_resolutions(tmp_path):
    data = dataset(SPHERE.grid(24, 48))
    chosen = {"loss": "rel_h1", "options": Options(shifts=True), "validation": 0, "quiet": True}
    surrogate = ok.fit(Smoothing(SPHERE, 2, 2), data.at(12, 24), epochs=1, batch_size=4, **chosen)
    assert surrogate.domain == SPHERE
    x = data.at(12, 24).read([0], [0]).float()[:, 0]
    assert surrogate.predict(x, output_shape=(24, 48)).shape == (1, 2, 24, 48)
    errors = ok.evaluate(surrogate, data, ["12x24", "24x48"], steps=2)
    error = errors.rel_l2.sel(predictor="model").values
    assert np.isfinite(error).all()
    np.testing.assert_allclose(error[0], error[1], rtol=1e-4)  # functions of degree 7: both grids carry them
    bands = errors.band_error.sel(predictor="model").values
    np.testing.assert_allclose(bands[0], bands[1], rtol=1e-3, atol=1e-6)
    shown = surrogate.predict(data.at(12, 24).to_xarray().isel(time=0).drop_vars("rotation"))
    assert shown.height.dims == ("sample", "latitude", "longitude")
    ok.save(surrogate, tmp_path / "surrogate.safetensors")
    again = ok.load(tmp_path / "surrogate.safetensors", model=Smoothing(SPHERE, 2, 2))
    assert again.domain == SPHERE
    torch.testing.assert_close(again.predict(x), surrogate.predict(x))
    with pytest.raises(ValueError, match=r"a sphere of radius 3 \(gauss.*a sphere of radius 2"):
        ok.evaluate(surrogate, dataset(Sphere(3.0).grid(12, 24)))
    with pytest.raises(ValueError, match="built on the domain a sphere of radius 1"):
        ok.fit(Smoothing(Sphere(1.0), 2, 2), data, epochs=1, quiet=True)
