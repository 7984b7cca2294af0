"""Long rollouts: errors while there is a truth, spectra and divergence beyond it."""

import numpy as np
import pytest
import torch
from evaluation.heat import TORUS, HeatStep, heat_data, heat_surrogate, unlike_data
from standing_wave import DT, exact_surrogate, wave, wave_data

from opkernels.datasets.trajectories import Trajectories
from opkernels.evaluation.rollout import long_rollout
from opkernels.evaluation.tables import rollout_summary


def test_errors_end_with_the_truth_and_the_run_goes_on():
    run = long_rollout(heat_surrogate(), heat_data(), 9, resolution="20x15", samples=2, keep=1)
    np.testing.assert_allclose(run.time, 0.5 * np.arange(10))
    np.testing.assert_allclose(run.rel_l2[:, 1:5], np.tile(1.02 ** np.arange(1, 5) - 1, (2, 1)), rtol=1e-9)
    assert np.isnan(run.rel_l2[:, 5:]).all() and np.isnan(run.rel_l2[:, 0]).all()
    assert np.isfinite(run.rms).all() and np.isinf(run.lost_at).all()
    np.testing.assert_allclose(run.rms[:, 1:5], run.rms_truth[:, 1:5] * 1.02 ** np.arange(1, 5).reshape(-1, 1), rtol=1e-9)
    assert run.prediction.dims == ("kept", "time", "field", "x", "y") and run.prediction.shape == (1, 10, 2, 20, 15)
    np.testing.assert_allclose(run.prediction[:, 0], run.truth[:, 0])
    assert np.isnan(run.truth[:, 5:]).all()
    assert run.spectrum.attrs["time"] == "t = 4 to 4.5" and run.spectrum_truth.attrs["time"] == "t = 2"
    assert "no run left the range" in rollout_summary(run) and "with a truth for 4" in rollout_summary(run)


def test_a_run_starts_after_the_frames_that_are_given():
    surrogate = exact_surrogate(2, window=3, bundle=2, training_shape=(12, 10)).to(torch.float64)
    run = long_rollout(surrogate, wave_data((12, 10)), 9, samples=2, keep=1)
    u = wave((12, 10), n_times=12)
    np.testing.assert_allclose(run.time, DT * np.arange(10))
    np.testing.assert_allclose(run.prediction[0, :, 0], u[0, 2:], atol=1e-12)
    np.testing.assert_allclose(run.truth[0, :7, 0], u[0, 2:9], atol=1e-12)
    assert np.isnan(run.truth[0, 7:]).all() and float(run.rel_l2[:, 1:7].max()) < 1e-12 and np.isnan(run.rel_l2[:, 7:]).all()
    assert run.spectrum_truth.attrs["time"] == f"t = {6 * DT:.4g}"


def test_spectra_of_the_last_quarter():
    run = long_rollout(heat_surrogate(), heat_data())
    np.testing.assert_allclose(run.spectrum, 1.02**8 * run.spectrum_truth, rtol=1e-8, atol=1e-20)
    np.testing.assert_allclose(run.wavenumber[:3], [0, 1, 2])


@pytest.mark.parametrize("model, step", [(HeatStep(3.0), 2), (HeatStep(float("nan")), 1)])
def test_divergence_is_dated(model, step):
    run = long_rollout(heat_surrogate(model), heat_data(diffusivity=0.01), 6)
    assert run.lost_at.values.min() == 0.5 * step and np.isfinite(run.lost_at).all()
    assert f"3 of 3 runs left the range of the truth, the first at time {0.5 * step:g}" in rollout_summary(run)


def test_a_truth_that_grows_takes_its_range_along():
    run = long_rollout(heat_surrogate(HeatStep(diffusivity=-0.5)), heat_data(diffusivity=-0.5))
    assert (run.rms_truth.isel(time=-1) > 20 * run.rms_truth.isel(time=0)).all() and np.isinf(run.lost_at).all()


def test_a_truth_that_decays_faster_than_its_prediction_is_not_left():
    """As `evaluate` counts it."""
    decaying = heat_data(samples=1, diffusivity=0.0).read() * torch.exp(-8.0 * torch.arange(5.0, dtype=torch.float64)).view(5, 1, 1, 1)
    data = Trajectories.from_arrays({"a": decaying[:, :, 0].numpy(), "b": decaying[:, :, 1].numpy()}, TORUS, times=0.5 * np.arange(5))
    for error, lost_at in ((-0.5, np.inf), (1.3, 1.5)):
        run = long_rollout(heat_surrogate(HeatStep(error, diffusivity=0.0)), data)
        assert run.lost_at.item() == lost_at and float(run.rel_l2[:, 1:].min()) > 10


def test_a_field_that_is_zero_in_one_sample_is_left_out_of_its_mean():
    data = heat_data()
    a, b = (np.asarray(data.fields[name]).copy() for name in "ab")
    b[1] = 0
    one_zero = Trajectories.from_arrays({"a": a, "b": b}, TORUS, times=data.times)
    told = rollout_summary(long_rollout(heat_surrogate(), one_zero))
    assert [line.split()[:4] for line in told.splitlines()[3:5]] == [["0.5", "2.00", "2.00", "2.00"], ["1", "4.04", "4.04", "4.04"]]
    broken = rollout_summary(long_rollout(heat_surrogate(HeatStep(float("nan"))), one_zero))
    assert broken.splitlines()[3].split()[:4] == ["0.5", "-", "-", "-"]
    a[1] = 0  # the whole sample: its correlation is left out too
    run = long_rollout(heat_surrogate(), Trajectories.from_arrays({"a": a, "b": b}, TORUS, times=data.times))
    assert rollout_summary(run).splitlines()[3].split() == ["0.5", "2.00", "2.00", "2.00", "1.000", "0.02"]
    assert np.isinf(run.correlation_time).all() and "correlation above 0.8 until > 2" in rollout_summary(run)


def test_fields_of_unlike_units_are_told_apart():
    step = HeatStep([[[0.01]], [[2.0]]], diffusivity=0.0)
    run = long_rollout(heat_surrogate(step), unlike_data(diffusivity=0.0), 4)
    np.testing.assert_allclose(run.rel_l2[:, 1:], np.tile(1.01 ** np.arange(1, 5) - 1, (3, 1)), rtol=1e-5)
    for field, growth in (("a", 1.01), ("b", 3.0)):
        expected = np.tile(growth ** np.arange(1, 5) - 1, (3, 1))
        np.testing.assert_allclose(run.rel_l2_field.sel(field=field)[:, 1:], expected, rtol=1e-6)
    np.testing.assert_allclose(run.vrmse, run.vrmse_field.mean("field"))
    assert np.isnan(run.rel_l2_field[:, 0]).all()
    assert (run.lost_at == 1.5).all(), "the second field is 27 times its range after the third step"
    assert rollout_summary(run).splitlines()[3].split()[:4] == ["0.5", "1.00", "1.00", "200"]


def test_correlation_time():
    class Shift(HeatStep):
        def forward(self, x, parameters=None, grid=None, output_shape=None):
            return super().forward(x, parameters, grid).roll(1, -2)

    run = long_rollout(heat_surrogate(Shift(), training_shape=(32, 24)), heat_data())
    mean = run.correlation.mean("sample").values
    first = [next((t for t, c in zip(run.time.values, mean, strict=True) if c < level), np.inf) for level in (0.8, 0.9, 0.95)]
    np.testing.assert_array_equal(run.correlation_time, first)
    assert np.isfinite(first).any()


def test_refusals():
    with pytest.raises(ValueError, match="direct map"):
        surrogate = heat_surrogate()
        surrogate.dt = None
        long_rollout(surrogate, heat_data())
    with pytest.raises(ValueError, match="steps=0"):
        long_rollout(heat_surrogate(), heat_data(), 0)
    assert TORUS.ndim == 2 and torch.is_grad_enabled()
