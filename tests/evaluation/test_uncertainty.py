"""Ensembles and calibrated bands: the same functions on every grid, coverage at resolutions never seen, files, refusals."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.heat import TORUS, heat_data, heat_surrogate
from torch import nn

import opkernels as ok
from opkernels.datasets.trajectories import Trajectories
from opkernels.evaluation.conformal import coverage_spread
from opkernels.evaluation.probes import random_function
from opkernels.evaluation.tables import coverage_table
from opkernels.evaluation.uncertainty import Calibration, calibrate, crps, measure_coverage
from opkernels.models import FNO
from opkernels.normalization import Normalization
from opkernels.surrogate import Ensemble, Surrogate

F64: dict = {"dtype": torch.float64}
LINE = ok.Domain.periodic(2 * math.pi)


class Shifted(nn.Module):
    """Adds what the sample itself makes hard to predict, a times u³, so that errors differ from sample to sample."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, **F64))

    def forward(self, x, parameters=None, grid=None, output_shape=None):
        return x + self.a * x**3


def waves(samples, n=48, seed=0):
    """u and u + u³/10, band-limited to |k| <= 9: resolved from 24 samples on, exactly."""
    rng = np.random.default_rng(seed)
    x = LINE.grid(n).coordinates(**F64)[0].numpy()
    size, phase = rng.uniform(0.2, 1.0, (2, samples, 1, 3)), rng.uniform(0, 6, (samples, 1, 3))
    u = (size[0] * np.cos(x[:, None] * np.arange(1, 4) + phase)).sum(-1)
    frames = np.stack([u, u + 0.1 * u**3], axis=1)
    return Trajectories.from_arrays({"u": frames}, LINE, times=[0.0, 1.0])


def line_surrogate(a):
    one = Normalization((0.0,), (1.0,), ("u",))
    return Surrogate(Shifted(a), LINE, ("u",), ("u",), one, one, dt=1.0, training_shape=(24,))


def line_ensemble():
    return Ensemble([line_surrogate(a) for a in (0.05, 0.08, 0.11)])


def fno_ensemble(members=3):
    one = Normalization((0.0,), (1.0,), ("u",))
    made = []
    for seed in range(members):
        torch.manual_seed(seed)
        model = FNO(TORUS, 1, 1, n_modes=(6, 6), hidden_channels=4, n_layers=1).double()
        made.append(Surrogate(model, TORUS, ("u",), ("u",), one, one, training_shape=(64, 48)))
    return Ensemble(made)


def test_mean_and_spread_of_the_members_at_any_resolution():
    ensemble = fno_ensemble()
    x = random_function(TORUS, 1, k_max=3, seed=0)(TORUS.grid(24, 20))
    each = torch.stack([member.predict(x, output_shape=(30, 22)) for member in ensemble.members])
    mean, spread = ensemble.predict(x, output_shape=(30, 22))
    torch.testing.assert_close(mean, sum(each) / 3)
    torch.testing.assert_close(spread, torch.stack([(u - mean) ** 2 for u in each]).sum(0).div(2).sqrt())
    assert spread.min() > 0 and mean.shape == (1, 1, 30, 22)
    _, none = fno_ensemble(1).predict(x)
    assert not none.any()


def test_rollouts_keep_sums_not_frames():
    ensemble, x = line_ensemble(), torch.rand(2, 1, 24, generator=torch.Generator().manual_seed(0), **F64)
    each = torch.stack([member.rollout(x, 3) for member in ensemble.members])
    mean, spread = ensemble.rollout(x, 3)
    torch.testing.assert_close(mean, each.mean(0))
    torch.testing.assert_close(spread, each.std(0))


def test_a_dataset_gives_datasets():
    import xarray

    x = random_function(TORUS, 1, k_max=3, seed=0)(TORUS.grid(16, 20))
    points = {a.name: a.coordinates(n, dtype=torch.float64).numpy() for a, n in zip(TORUS.axes, (16, 20), strict=True)}
    ensemble = fno_ensemble()
    mean, spread = ensemble.predict(xarray.Dataset({"u": (tuple(points), x[0, 0].numpy())}, points))
    wanted = ensemble.predict(x)
    for found, u in zip((mean, spread), wanted, strict=True):
        np.testing.assert_allclose(found.u.values, u[0, 0], rtol=1e-12, atol=1e-14)


def test_members_are_kept_and_read(tmp_path):
    ensemble = fno_ensemble()
    ensemble.save(tmp_path / "three")
    again = Ensemble.load(tmp_path / "three")
    x = random_function(TORUS, 1, k_max=3, seed=0)(TORUS.grid(16, 20))
    torch.testing.assert_close(again.answers(x), ensemble.answers(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="already holds seed-0"):
        ensemble.save(tmp_path / "three")
    own = Ensemble([line_surrogate(0.1), line_surrogate(0.2)])
    own.save(tmp_path / "own")
    found = Ensemble.load(tmp_path / "own", [Shifted(0.0), Shifted(0.0)])
    assert [next(member.model.parameters()).item() for member in found.members] == [0.1, 0.2]
    with pytest.raises(ValueError, match="got 1 models for the 2 members"):
        Ensemble.load(tmp_path / "own", [Shifted(0.0)])
    ok.save(ensemble.members[0], tmp_path / "one")
    assert len(Ensemble.load(tmp_path / "one")) == 1


def test_an_ensemble_is_of_one_task():
    with pytest.raises(ValueError, match="got no surrogates"):
        Ensemble([])
    with pytest.raises(ValueError, match="whose domain differ"):
        Ensemble([line_surrogate(0.1), heat_surrogate()])


def test_the_band_is_the_same_function_on_every_grid():
    """Calibrated once; its lower and upper function at 128 x 96, at the nodes of 64 x 48, are those of 64 x 48."""
    ensemble = fno_ensemble()
    fine = TORUS.grid(128, 96)
    u = torch.cat([random_function(TORUS, 1, k_max=3, seed=i)(fine) for i in range(10)])
    frames = torch.stack([u, u], dim=1)  # a map to u itself, which random networks miss
    data = Trajectories.from_arrays({"u": frames[:, :, 0].numpy()}, TORUS, times=[0.0, 1.0])
    calibration = calibrate(ensemble, data)
    assert calibration.resolution == (64, 48) and len(calibration) == 10
    bands = [calibration.band(*ensemble.predict(v), TORUS.grid(v.shape[2:])) for v in (u[:2], u[:2, :, ::2, ::2])]
    for f, c in zip(*bands, strict=True):
        torch.testing.assert_close(f[:, :, ::2, ::2], c, rtol=0, atol=1e-7)  # DESIGN: spectral models below 1e-7 at 64
    lower, upper = bands[0]
    assert (upper - lower).min() > 1e-3
    at_fine = calibrate(ensemble, data, resolution=(128, 96))
    torch.testing.assert_close(at_fine.norm, calibration.norm, rtol=0, atol=1e-7)
    torch.testing.assert_close(at_fine.pointwise, calibration.pointwise, rtol=5e-3, atol=0)  # a quantile over 4096 samples


def test_coverage_is_kept_at_resolutions_never_seen():
    ensemble = line_ensemble()
    calibration = calibrate(ensemble, waves(99, 24, seed=1))
    found = measure_coverage(ensemble, calibration, waves(200, seed=2), [24, 36, 48], coverage=0.9)
    expected, deviation = coverage_spread(99, 200, 0.9)
    assert (found.attrs["expected"], found.attrs["deviation"]) == (expected, deviation)
    assert (abs(found.coverage - expected) < 3 * deviation).all()
    # Resolved, by one operator: the norm of an error is the same on all grids, and so is what is within the bound.
    assert np.ptp(found.coverage.sel(band="norm").values) == 0
    assert np.ptp(found.coverage.sel(band="pointwise").values) < 0.0051  # one of 200 samples
    np.testing.assert_allclose(found.rel_l2, found.rel_l2.values[0, 0], rtol=1e-12)
    # members miss by -0.05, -0.02 and 0.01 times u³: spread 0.03, error of the mean 0.02, and (M + 1)/M = 4/3
    np.testing.assert_allclose(found.spread_skill, math.sqrt(4 / 3) * 1.5, rtol=1e-12)


def test_coverage_is_lost_where_the_task_is_another():
    """Trained for one size of waves, asked about larger ones: the promise does not hold, and the table says so."""
    ensemble = line_ensemble()
    calibration = calibrate(ensemble, waves(99, 24, seed=1))
    other = waves(50, seed=2)
    doubled = 2 * other.read().numpy()[:, :, 0]
    doubled[:, 1] = doubled[:, 0] + 0.1 * doubled[:, 0] ** 3
    data = Trajectories.from_arrays({"u": doubled}, LINE, times=[0.0, 1.0])
    found = measure_coverage(ensemble, calibration, data, [24], coverage=0.9)
    assert found.coverage.sel(band="norm").item() < 0.3


def test_bands_hold_what_the_table_counts():
    ensemble, held, test = line_ensemble(), waves(30, 24, seed=1), waves(20, seed=2)
    calibration = calibrate(ensemble, held, share=1.0, shrinkage=0.3)
    found = measure_coverage(ensemble, calibration, test, [48], coverage=0.8)
    fine, (x, truth) = LINE.grid(48 * 86), test.read().unbind(1)  # the interpolants where they are judged
    mean, spread = ensemble.predict(ok.resample(x, LINE.grid(48), fine))
    lower, upper = calibration.band(mean, spread, fine, coverage=0.8)
    truth = ok.resample(truth, LINE.grid(48), fine)
    inside = ((lower <= truth) & (truth <= upper)).flatten(1).all(1)
    assert inside.double().mean().item() == pytest.approx(found.coverage.sel(band="pointwise").item())
    error = ok.rel_l2(mean, truth, reduction="none")
    assert (error <= calibration.error_bound(0.8)).double().mean().item() == found.coverage.sel(band="norm").item()
    np.testing.assert_allclose(found.rel_l2.item(), error.mean().item())
    np.testing.assert_allclose(found.crps.item(), crps(ensemble.answers(x), test.read()[:, 1]).mean().item())


def test_every_frame_of_a_rollout_has_its_band():
    members = [heat_surrogate(dt=1.0), heat_surrogate(dt=1.0)]
    with torch.no_grad():
        next(members[1].model.parameters()).fill_(-0.01)
    ensemble, data = Ensemble(members), heat_data(samples=10)
    calibration = calibrate(ensemble, data, steps=2)
    assert calibration.pointwise is not None and calibration.norm.shape == calibration.pointwise.shape == (10, 2)
    assert (calibration.error_bound(0.9).diff() > 0).all()
    found = measure_coverage(ensemble, calibration, data, [(16, 12), (32, 24)])
    assert found.coverage.shape == (2, 2, 2) and list(found.time.values) == [1.0, 2.0] and list(found.field.values) == ["a", "b"]
    text = coverage_table(found)
    assert "16x12 (calibration)" in text and "by 10 for calibration" in text and "2 seeds" in text
    short = calibrate(ensemble, data, steps=1)
    assert measure_coverage(ensemble, short, data, [(16, 12)]).sizes["time"] == 1
    with pytest.raises(ValueError, match="got steps=2, but the calibration holds 1"):
        measure_coverage(ensemble, short, data, [(16, 12)], steps=2)
    mean, spread = ensemble.predict(data.read()[:2, 0], parameters=None)
    with pytest.raises(ValueError, match="got frame=1, but the calibration holds 0 to 0"):
        short.band(mean, spread, TORUS.grid(32, 24), frame=1)


def test_a_single_surrogate_has_an_error_bound_and_no_band():
    one, data = line_surrogate(0.08), waves(12)
    calibration = calibrate(one, data)
    assert calibration.pointwise is None and calibration.error_bound(0.9) == calibration.norm.sort(0).values[11]
    found = measure_coverage(one, calibration, data, [48])
    assert np.isnan(found.coverage.sel(band="pointwise")).all() and np.isnan(found.spread_skill).all()
    assert "-" in coverage_table(found)
    with pytest.raises(ValueError, match="a single surrogate has no spread"):
        calibration.band(torch.zeros(1, 1, 8), torch.zeros(1, 1, 8), LINE.grid(8))
    with pytest.raises(ValueError, match="calibrate the ensemble"):
        measure_coverage(line_ensemble(), calibration, data, [48])
    with pytest.raises(ValueError, match="got 12 calibration samples for a coverage of 0.95, which needs at least 19; give more"):
        calibration.error_bound(0.95)
    with pytest.raises(ValueError, match="got no resolutions"):
        measure_coverage(one, calibration, data, [])


def test_a_run_that_breaks_makes_an_endless_band():
    data = waves(24)
    frames = data.read().numpy()[:, :, 0].copy()
    frames[5, 1] = np.nan
    broken = Trajectories.from_arrays({"u": frames}, LINE, times=[0.0, 1.0])
    calibration = calibrate(line_ensemble(), broken)
    assert calibration.error_bound(0.9) < 1 and calibration.error_bound(0.95) == math.inf
    assert calibration.factor(0.95) == math.inf


def test_a_calibration_is_kept_as_plain_numbers(tmp_path):
    calibration = calibrate(line_ensemble(), waves(12), share=0.9)
    calibration.norm[3] = math.inf
    calibration.save(tmp_path)
    again = Calibration.load(tmp_path)
    for name in ("norm", "pointwise"):
        assert torch.equal(getattr(again, name), getattr(calibration, name))
    assert (again.resolution, again.share, again.shrinkage) == ((24,), 0.9, 0.5)
    calibrate(line_surrogate(0.1), waves(12)).save(tmp_path)
    assert Calibration.load(tmp_path).pointwise is None
    path = tmp_path / "calibration.json"
    whole = path.read_text()
    wrong = (whole[:40], "[]", "{}", json.dumps(json.loads(whole) | {"norm": [1.0]}), json.dumps(json.loads(whole) | {"norm": None}))
    for text in (*wrong, json.dumps(json.loads(whole) | {"pointwise": [[1.0]]})):
        path.write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            Calibration.load(tmp_path)
    with pytest.raises(ValueError, match="there is no calibration"):
        Calibration.load(tmp_path / "nowhere")


@pytest.mark.parametrize("members", [1, 2, 5])
def test_crps_is_its_double_sum(members):
    u = torch.randn(members, 3, 4, generator=torch.Generator().manual_seed(0), **F64)
    r = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), **F64)
    pairs = (u[:, None] - u[None]).abs().sum((0, 1)) / (2 * members * max(1, members - 1))
    torch.testing.assert_close(crps(u, r), (u - r).abs().mean(0) - pairs)


def test_crps_of_members_like_the_truth_does_not_depend_on_their_number():
    """For truth and members from the unit normal distribution, its mean is 1/sqrt(pi)."""
    draws = torch.randn(6, 200_000, generator=torch.Generator().manual_seed(0), **F64)
    for members in (2, 5):
        assert abs(crps(draws[1 : 1 + members], draws[0]).mean().item() - 1 / math.sqrt(math.pi)) < 6e-3


def test_example():
    """Coverage at four times the training resolution, within three deviations of 0.9 for 99 and 200 samples."""
    found = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "uncertainty.py"))["main"]()
    expected, deviation = coverage_spread(99, 200, 0.9)
    assert abs(found["norm"] - expected) < 3 * deviation and abs(found["band"] - expected) < 3 * deviation
    assert found["naive"] < 0.6 and found["inside"] > 0.9
