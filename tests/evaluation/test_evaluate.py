"""`evaluate` against errors known in closed form."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from evaluation.heat import TORUS, HeatStep, heat_data, heat_surrogate, unlike_data
from standing_wave import DT, exact_surrogate, wave, wave_data
from torch import nn

import opkernels as ok
from opkernels.datasets.trajectories import Trajectories
from opkernels.evaluation.evaluate import last_frames, parse_resolution
from opkernels.evaluation.frames import correlation, correlation_times, diverged, frame_metrics, ranges, rms, size, undefined, vrmse
from opkernels.evaluation.tables import error_table
from opkernels.normalization import Normalization
from opkernels.surrogate import Surrogate

ONE = Normalization((0.0,), (1.0,), ("b",))
RESOLUTIONS = [(16, 12), "20x15", (32, 24)]


@pytest.fixture(scope="module")
def errors():
    return ok.evaluate(heat_surrogate(), heat_data(), RESOLUTIONS)


def test_errors_of_a_known_model(errors):
    growth = 1.02 ** np.arange(1, 5) - 1
    assert list(errors.resolution.values) == ["16x12", "20x15", "32x24"]
    np.testing.assert_allclose(errors.time, 0.5 * np.arange(1, 5))
    for name in ("rel_l2", "rel_h1"):
        for predictor in ("model", "upsampled"):
            np.testing.assert_allclose(errors[name].sel(predictor=predictor), np.tile(growth, (3, 1)), rtol=1e-9)
    np.testing.assert_allclose(errors.one_step_rel_l2.sel(predictor="model"), 0.02, rtol=1e-9)
    np.testing.assert_allclose(errors.spectrum_distance.sel(predictor="model")[0], 2 * np.log10(1 + growth), rtol=1e-9)
    np.testing.assert_allclose(errors.correlation.sel(predictor="model"), 1, rtol=1e-12)
    assert np.isinf(errors.correlation_time.sel(predictor="model")).all()
    assert (errors.samples == 3).all() and (errors.diverged.sel(predictor="model") == 0).all()


def test_persistence_by_hand(errors):
    u = heat_data().read()
    expected = [ok.rel_l2(u[:, 0], u[:, j]) for j in range(1, 5)]
    np.testing.assert_allclose(errors.rel_l2.sel(predictor="persistence", resolution="32x24"), expected, rtol=1e-10)
    one_step = [ok.rel_l2(u[:, j - 1], u[:, j]) for j in range(1, 5)]
    np.testing.assert_allclose(errors.one_step_rel_l2.sel(predictor="persistence", resolution="32x24"), one_step, rtol=1e-10)


def test_samples_fields_and_bands(errors):
    assert errors.rel_l2_sample.dims == ("predictor", "resolution", "time", "sample")
    np.testing.assert_allclose(errors.rel_l2_sample.mean("sample"), errors.rel_l2, rtol=1e-12)
    assert list(errors.field.values) == ["a", "b"]
    np.testing.assert_allclose(errors.rel_l2_field.sel(predictor="model", field="b").isel(time=0), 0.02, rtol=1e-9)
    # The bands are those of the coarsest grid, and hold all of the error.
    assert float(errors.band_upper[2]) == pytest.approx(min(16 / 2, 12 / 4))
    np.testing.assert_allclose(errors.band_error.isel(resolution=0), errors.band_error.isel(resolution=2), rtol=1e-6, atol=1e-12)


def test_a_field_of_small_numbers_has_errors_of_its_own():
    """Together the fields have the error of the one in large units, here 1 %; the other is wrong by a half."""
    step = HeatStep([[[0.01]], [[0.5]]])
    errors = ok.evaluate(heat_surrogate(step), unlike_data(), [(16, 12)], steps=1).isel(time=0, resolution=0)
    model, still = errors.sel(predictor="model"), errors.sel(predictor="persistence")
    np.testing.assert_allclose([model.rel_l2, model.one_step_rel_l2], 0.01, rtol=1e-6)
    np.testing.assert_allclose(model.rel_l2_field, [0.01, 0.5], rtol=1e-6)
    u = unlike_data().read()
    deviation = u[:, 1].std((-2, -1), correction=0)
    by_hand = ((u[:, 1] - u[:, 0]).square().mean((-2, -1)).sqrt() / deviation).mean(0)
    np.testing.assert_allclose(still.vrmse_field, by_hand, rtol=1e-6)
    for error in (model, still):
        np.testing.assert_allclose(error.one_step_rel_l2_field, error.rel_l2_field)
        np.testing.assert_allclose(error.one_step_vrmse_field, error.vrmse_field)
        np.testing.assert_allclose(error.vrmse, error.vrmse_field.mean())


def test_the_upsampled_baseline_lacks_what_the_training_grid_cannot_carry():
    data = heat_data(shape=(32, 24), k_max=5, diffusivity=1e-3)
    errors = ok.evaluate(heat_surrogate(HeatStep(0.0, diffusivity=1e-3), training_shape=(8, 8)), data, [(8, 8), (32, 24)])
    here = errors.rel_l2.sel(resolution="32x24").isel(time=0)
    assert float(here.sel(predictor="model")) < 1e-12 and float(here.sel(predictor="upsampled")) > 0.2
    np.testing.assert_allclose(
        errors.rel_l2.sel(resolution="8x8", predictor="upsampled"), errors.rel_l2.sel(resolution="8x8", predictor="model")
    )
    assert float(errors.band_error.sel(resolution="32x24", predictor="upsampled").isel(time=0, band=-1)) > 0.1


def test_batches_do_not_change_the_numbers(errors):
    again = ok.evaluate(heat_surrogate(), heat_data(), RESOLUTIONS, batch_size=2)
    for name in errors:
        np.testing.assert_allclose(again[name], errors[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"window": 3, "bundle": 2}, {"bundle": 3, "target": "increment"}], ids=str)
def test_errors_start_after_the_frames_that_are_given(options):
    surrogate, u = exact_surrogate(2, training_shape=(8, 6), **options).to(torch.float64), wave((12, 10))
    w = surrogate.window
    errors = ok.evaluate(surrogate, wave_data((12, 10)), [(8, 6), (12, 10)], batch_size=3)
    np.testing.assert_allclose(errors.time, DT * np.arange(1, 10 - w))
    for predictor in ("model", "upsampled"):
        assert float(errors.rel_l2.sel(predictor=predictor).max()) < 1e-12
    assert float(errors.one_step_rel_l2.sel(predictor="model").max()) < 1e-12
    still = errors.sel(predictor="persistence", resolution="12x10")
    np.testing.assert_allclose(still.rel_l2, [ok.rel_l2(u[:, w - 1, None], u[:, j, None]) for j in range(w, 9)])
    np.testing.assert_allclose(still.one_step_rel_l2, [ok.rel_l2(u[:, j - 1, None], u[:, j, None]) for j in range(w, 9)])
    prediction, truth, _, lead = last_frames(surrogate, wave_data((12, 10)), "12x10", samples=2)
    np.testing.assert_allclose(prediction, u[:2, -1, None], atol=1e-12)
    np.testing.assert_allclose(truth, u[:2, -1, None], atol=1e-12)
    assert lead == pytest.approx(DT * (9 - w))


def test_a_window_needs_data_that_reach_beyond_it():
    surrogate = exact_surrogate(window=9)
    with pytest.raises(ValueError, match="takes 9 frames 0.3 apart, but the data hold 9 of them, and no truth after; give longer"):
        ok.evaluate(surrogate, wave_data(), [12])
    with pytest.raises(ValueError, match="got steps=2; the data hold the truth for 1 to 1"):
        ok.evaluate(surrogate, wave_data(n_times=10), [12], steps=2)


def test_a_window_of_frames_further_apart_than_the_data():
    data = wave_data(n_times=12)
    slow = ok.Trajectories.from_arrays({"u": data.read()[:, :, 0].numpy()}, data.domain, times=DT / 2 * np.arange(12))
    surrogate = exact_surrogate()
    # Every second stored frame is one of a wave of twice the frequency.
    c = 2 * math.cos(2 * 2.0 * DT)
    surrogate.model.weight.data = torch.tensor([[-1.0, c]], dtype=torch.float64)
    errors = ok.evaluate(surrogate.to(torch.float64), slow, [12])
    np.testing.assert_allclose(errors.time, DT * np.arange(1, 5))
    assert float(errors.rel_l2.sel(predictor="model").max()) < 1e-12


def test_a_multiple_of_the_data_s_time_step():
    errors = ok.evaluate(heat_surrogate(HeatStep(0.02, 1.0), dt=1.0), heat_data(times=7), [16], steps=2)
    np.testing.assert_allclose(errors.time, [1.0, 2.0])
    np.testing.assert_allclose(errors.rel_l2.sel(predictor="model")[0], [0.02, 1.02**2 - 1], rtol=1e-9)


def test_several_seeds():
    both = ok.evaluate([heat_surrogate(HeatStep(e)) for e in (0.01, 0.03)], heat_data(), [16, (32, 24)])
    np.testing.assert_allclose(both.rel_l2.sel(predictor="model", resolution="16x16").isel(time=0), [0.01, 0.03], rtol=1e-9)
    spread = np.std([np.mean((1 + e) ** np.arange(1, 5) - 1) for e in (0.01, 0.03)], ddof=1)
    assert "2 seeds" in error_table(both) and f"+- {100 * spread:.2f}" in error_table(both)


def test_a_direct_map():
    class Square(nn.Module):
        def forward(self, x):
            return x**2

    c = 1 + torch.rand(4, 16, 12, dtype=torch.float64)
    data = Trajectories.from_arrays({"c": c.numpy(), "s": 1.1 * (c**2).numpy()}, TORUS, restriction="nodal")
    one, other = (Normalization((0.0,), (1.0,), (name,)) for name in ("c", "s"))
    errors = ok.evaluate(Surrogate(Square(), TORUS, ("c",), ("s",), one, other, training_shape=(8, 6)), data, [(8, 6), (16, 12)])
    np.testing.assert_allclose(errors.rel_l2.sel(predictor="model"), 0.1 / 1.1, rtol=1e-6)
    assert np.isnan(errors.rel_l2.sel(predictor="persistence")).all()  # a coefficient is no guess of a solution
    assert "one_step_rel_l2" not in errors and "persistence" in error_table(errors)
    assert ">" not in error_table(errors) and error_table(errors).splitlines()[-1].endswith(" -"), "no time to be correlated until"


def test_divergence_is_counted_and_not_hidden():
    class Broken(HeatStep):
        def forward(self, x, parameters=None, grid=None, output_shape=None):
            y = super().forward(x, parameters, grid)
            y[0] = torch.nan
            return y

    errors = ok.evaluate(heat_surrogate(Broken()), heat_data(), [16])
    assert np.isnan(errors.rel_l2.sel(predictor="model")).all()
    np.testing.assert_allclose(errors.diverged.sel(predictor="model"), 1 / 3)
    assert np.isinf(errors.correlation_time.sel(predictor="model")).sum() == 0
    text = error_table(errors)
    assert "33 % of the runs left the range" in text and "+-" not in text
    assert text.splitlines()[3].split()[1:3] == ["-", "-"], "a mean without one of three samples is none"


def test_seeds_that_broke_are_told():
    broken, two = HeatStep(float("nan")), [HeatStep(0.01), HeatStep(0.03)]
    errors = ok.evaluate([heat_surrogate(two[0]), heat_surrogate(broken)], heat_data(), [16])
    text = error_table(errors)
    row = text.splitlines()[3].split()
    assert row[:4] == ["16x16", "-", "-", "-"] and row[-2:] == [">", "1.25"], "correlated for over 2 and until 0.5"
    assert "2 seeds" in text and "50 % of the runs left the range of the truth" in text and "+-" not in text
    assert "+- " in error_table(ok.evaluate([heat_surrogate(step) for step in two], heat_data(), [16]))
    # One seed in a list has the deviation over samples, not one over seeds.
    one = heat_surrogate(two[1])
    assert error_table(ok.evaluate([one], heat_data(), [16])) == error_table(ok.evaluate(one, heat_data(), [16]))


@pytest.mark.parametrize("growth, share", [((0.0, 8.9), 0.0), ((0.0, 9.1), 1.0), ((9.1, 0.0), 1.0)])
def test_each_field_is_judged_by_its_own_range(growth, share):
    step = HeatStep([[[g]] for g in growth], diffusivity=0.0)
    errors = ok.evaluate(heat_surrogate(step), unlike_data(diffusivity=0.0), [16], steps=1)
    assert errors.diverged.sel(predictor="model").item() == share


def test_a_zero_truth_is_left_out_and_counted():
    data = heat_data()
    fields = {name: np.asarray(field).copy() for name, field in data.fields.items()}
    for values in fields.values():
        values[1] = 0
    zero = Trajectories.from_arrays(fields, TORUS, times=data.times)
    errors = ok.evaluate(heat_surrogate(), zero, [16])
    np.testing.assert_allclose(errors.rel_l2.sel(predictor="model").isel(time=0), 0.02, rtol=1e-9)
    assert (errors.samples.sel(predictor="model") == 2).all()
    assert not any(np.isnan(errors[name].sel(predictor="model")).any() for name in errors if name != "rel_l2_sample")


@pytest.mark.parametrize("error, finite", [(0.02, True), (float("nan"), False), (30.0, True)])
def test_a_field_that_is_zero_in_one_sample_is_left_out_there_whatever_is_predicted(error, finite):
    """Its error is not defined there, also of a run that is lost; a prediction that is no number stays in all means."""
    data = heat_data()
    a, b = (np.asarray(data.fields[name]).copy() for name in "ab")
    b[1] = 0
    errors = ok.evaluate(heat_surrogate(HeatStep(error)), Trajectories.from_arrays({"a": a, "b": b}, TORUS, times=data.times), [16])
    model = errors.sel(predictor="model").isel(resolution=0)
    assert (model.samples == 3).all() and (model.diverged == float(error != 0.02)).all()
    for name in ("rel_l2_field", "one_step_rel_l2_field", "vrmse_field", "one_step_vrmse_field"):
        assert (np.isfinite(model[name]) == finite).all(), name
    if finite:
        expected = (1 + error) ** np.arange(1, 5) - 1
        np.testing.assert_allclose(model.rel_l2_field, np.stack([expected] * 2, -1), rtol=1e-9)
        np.testing.assert_allclose(model.rel_l2, expected, rtol=1e-9)
        np.testing.assert_allclose(model.one_step_rel_l2_field, error, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_truth_that_decays_faster_than_its_prediction_is_not_left(steps):
    """The truth falls by e^-8 in a frame and the prediction by a half: far above the truth of its frame, but within its range."""
    decaying = heat_data(samples=1, diffusivity=0.0).read() * torch.exp(-8.0 * torch.arange(5.0, dtype=torch.float64)).view(5, 1, 1, 1)
    data = Trajectories.from_arrays({"a": decaying[:, :, 0].numpy(), "b": decaying[:, :, 1].numpy()}, TORUS, times=0.5 * np.arange(5))
    errors = ok.evaluate(heat_surrogate(HeatStep(-0.5, diffusivity=0.0)), data, [16], steps=steps)
    assert (errors.diverged == 0).all() and float(errors.rel_l2.sel(predictor="model").min()) > 10
    errors = ok.evaluate(heat_surrogate(HeatStep(1.3, diffusivity=0.0)), data, [16])
    assert errors.diverged.sel(predictor="model").values[0].tolist() == [0, 0, 1, 1], "2.3^3 is above ten"


def test_parameters_reach_the_model():
    from opkernels.surrogate import ParameterScaling

    class ByParameter(HeatStep):
        def forward(self, x, parameters=None, grid=None, output_shape=None):
            self.diffusivity = parameters[0, 0]
            return super().forward(x, parameters, grid)

    scaling = ParameterScaling(("nu",), (False,), (0.0,), (1.0,))
    errors = ok.evaluate(heat_surrogate(ByParameter(diffusivity=9.0), parameters=scaling), heat_data(diffusivity=0.08), [16])
    assert float(errors.rel_l2.sel(predictor="model").max()) < 1e-9


def test_frame_metrics_by_hand():
    grid = TORUS.grid(8, 8)
    r = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(vrmse(r.mean((2, 3), keepdim=True) + 0 * r, r, grid), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(correlation(3 - 2 * r, r, grid), -torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(correlation(0 * r, r, grid), torch.zeros(2, dtype=torch.float64))
    both = torch.cat([r, torch.ones_like(r)], dim=1)  # a constant field has no variance: it does not count
    torch.testing.assert_close(vrmse(both + 0.1 * both, both, grid), vrmse(1.1 * r, r, grid))
    assert [mask.any().item() for mask in undefined(both, grid).values()] == [name == "vrmse_field" for name in undefined(both, grid)]
    metrics = frame_metrics(r + r.roll(1, -1), r, grid, [0.0, 1.0, 2.0, math.inf])
    torch.testing.assert_close(metrics["band_error"].norm(dim=1), metrics["rel_l2"])  # Parseval
    times = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert correlation_times(torch.tensor([0.99, 0.85, 0.7], dtype=torch.float64), times).tolist() == [3.0, 2.0, 2.0]
    assert correlation_times(torch.tensor([0.99, math.nan, 0.99], dtype=torch.float64), times).tolist() == [2.0, 2.0, 2.0]


def test_the_range_of_one_field_is_its_truth():
    grid, one = TORUS.grid(8, 8), torch.ones(4, 1, dtype=torch.float64)
    r = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    p, truth = torch.cat([9.9 * r, 10.1 * r, r / 0, torch.nan * r]), r.expand(4, 1, 8, 8)
    scale = rms(truth, grid)
    assert diverged(size(p, grid, scale)).tolist() == [False, True, True, True]
    assert diverged(size(p, grid, 7.0 * scale)).tolist() == [False, False, True, True], "a larger one in another frame"
    assert diverged(size(p, grid, 0 * one)).tolist() == [False, False, True, True], "a truth of zero"


def test_a_field_that_passes_through_zero_is_not_lost():
    """Of a standing wave the displacement is cos t and the velocity -sin t: at t = 0 one is zero, and an error of 1 % large beside it."""
    grid, t = TORUS.grid(8, 8), torch.linspace(0, math.pi, 21, dtype=torch.float64)
    r = torch.stack([t.cos(), -3e3 * t.sin()], dim=1)[:, :, None, None] * torch.randn(8, 8, dtype=torch.float64)
    scale = ranges(torch.stack([rms(frame[None], grid) for frame in r], dim=1), ("displacement", "velocity"), TORUS.names).expand(21, 2)
    error = scale[:, :, None, None] * torch.randn(21, 2, 8, 8, dtype=torch.float64)
    assert not diverged(size(r + 0.01 * error, grid, scale)).any() and diverged(size(r + 20 * error, grid, scale)).all()


def test_components_of_a_vector_share_their_range():
    sizes = torch.tensor([[[1.0, 2.0, 5.0, 7.0], [3.0, 0.5, math.nan, math.inf]]], dtype=torch.float64)
    names = ("velocity_x", "velocity_y", "pressure_drop", "x")
    assert ranges(sizes, names, ("x", "y")).tolist() == [[3.0, 3.0, 5.0, 7.0]]
    assert ranges(sizes, names, ("latitude", "longitude")).tolist() == [[3.0, 2.0, 5.0, 7.0]]


def test_sizes_are_means_over_space_not_over_samples():
    """A cap around the pole holds many samples and little area, and so do the ends of a Gauss axis."""
    ball, box = ok.Sphere().grid(90, 180), ok.Domain.box(1.0, 1.0, points="gauss").grid(60, 60)
    for grid, inside, share in ((ball, lambda x: x > 1.0, (1 - math.sin(1.0)) / 2), (box, lambda x: x < 0.1, 0.1)):
        cap = inside(grid.coordinates(dtype=torch.float64)[0]).double()[None, None]
        assert rms(cap, grid).item() ** 2 == pytest.approx(share, rel=0.1)
        assert cap.mean().item() > 1.5 * share
        one = torch.ones(1, 1, dtype=torch.float64)
        assert size(cap, grid, one).item() == rms(cap, grid).item() and size(cap, grid, 4 * one).item() == rms(cap, grid).item() / 4


def test_the_table(errors):
    text = error_table(errors)
    assert "16x12 (training)" in text and "32x24" in text and "3 samples and 4 frames" in text
    row = next(line for line in text.splitlines() if "20x15" in line)
    expected = f"{100 * (1.02 ** np.arange(1, 5) - 1).mean():.2f}"
    assert row.split()[1] == expected


def test_the_table_has_a_line_for_each_of_several_fields(errors):
    lines = error_table(errors).splitlines()
    head = lines.index(next(line for line in lines if line.startswith("  20x15")))
    for field, line in zip("ab", lines[head + 1 :], strict=False):
        here = errors.sel(resolution="20x15", field=field).mean("time")
        still, vrmse = here.rel_l2_field.sel(predictor="persistence").item(), here.vrmse_field.sel(predictor="model").item()
        assert line.split() == [field, "5.10", "2.00", "5.10", f"{100 * still:.1f}", f"{vrmse:.3g}"]
    only = dataclasses.replace(heat_surrogate(), inputs=("b",), outputs=("b",), normalization=ONE, output_normalization=ONE)
    assert len(error_table(ok.evaluate(only, heat_data(), [16, (32, 24)])).splitlines()) == 5


def test_last_frames_for_pictures():
    prediction, truth, grid, lead = last_frames(heat_surrogate(), heat_data(), "20x15", samples=2)
    assert prediction.shape == truth.shape == (2, 2, 20, 15) and grid.shape == (20, 15) and lead == 2.0
    torch.testing.assert_close(prediction, 1.02**4 * truth)


@pytest.mark.parametrize("value, ndim, shape", [(64, 2, (64, 64)), ("64", 1, (64,)), ("96x80", 2, (96, 80)), ((8, 9, 10), 3, (8, 9, 10))])
def test_resolutions(value, ndim, shape):
    assert parse_resolution(value, ndim) == shape


def changed(**options):
    return dataclasses.replace(heat_surrogate(), **options)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: parse_resolution("64x", 2), "give one number, or 2 of them as 96x80"),
        (lambda: parse_resolution("64x64x64", 2), "got the resolution '64x64x64'"),
        (lambda: parse_resolution(1, 2), "each at least 2"),
        (lambda: parse_resolution(None, 2), "got the resolution None"),
        (lambda: ok.evaluate(heat_surrogate(), heat_data(), [64]), "asked for 64 samples along x, but a is stored with 32"),
        (lambda: ok.evaluate(heat_surrogate(), heat_data(), []), "no resolutions"),
        (lambda: ok.evaluate(heat_surrogate(), heat_data(), [16], steps=9), "truth for 1 to 4"),
        (lambda: ok.evaluate(changed(inputs=("a", "c"), outputs=("a", "c")), heat_data()), "needs c, but the dataset holds a, b"),
        (lambda: ok.evaluate(changed(dt=0.3), heat_data()), "steps by 0.3, but the data are stored every 0.5"),
        (lambda: ok.evaluate(changed(domain=ok.Domain.periodic(1.0, 1.0)), heat_data()), r"lives on \[0, 6.28319\]"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
