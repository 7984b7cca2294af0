"""Pictures are drawn from what `evaluate` returns, hold what they should, and leave no global state."""

import numpy as np
import pytest
from evaluation.heat import HeatStep, heat_data, heat_surrogate

import opkernels as ok
from opkernels import Domain
from opkernels.evaluation.animation import animate
from opkernels.evaluation.plots import compare_fields, plot_error_by_resolution, plot_error_by_time, plot_spectra, save_figure


@pytest.fixture(scope="module")
def errors():
    return ok.evaluate(heat_surrogate(), heat_data(), [(16, 12), (32, 24)])


@pytest.mark.parametrize("shape, lengths", [((30,), (2.0,)), ((16, 12), (4.0, 1.0)), ((12, 16), (1.0, 3.0)), ((8, 9, 10), (1.0, 1.0, 1.0))])
def test_fields_side_by_side(tmp_path, shape, lengths):
    grid = Domain.periodic(*lengths).grid(shape)
    truth = np.random.default_rng(0).standard_normal((2, *shape))
    figure = compare_fields(truth, 1.1 * truth, grid, rows=["u, t = 1", "v, t = 1"], title="title", unit="m/s")
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["10.0 %", "10.0 %"]
    if len(shape) > 1:
        drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images][:3]
        plane = truth[0] if len(shape) == 2 else truth[0, ..., shape[2] // 2]
        np.testing.assert_allclose(drawn[0], plane.T)
        np.testing.assert_allclose(drawn[2], 0.1 * plane.T)
    path = save_figure(figure, tmp_path / "deep" / "fields.png", dpi=50)
    assert path.stat().st_size > 2000 and [p.name for p in path.parent.iterdir()] == ["fields.png"]


@pytest.mark.parametrize("shape", [(30,), (16, 12)])
def test_a_zero_truth_and_a_large_error_are_told_plainly(shape):
    grid = Domain.periodic(*[1.0] * len(shape)).grid(shape)
    truth = np.random.default_rng(0).standard_normal((2, *shape))
    truth[0] = 0
    prediction = 2.1 * truth
    prediction[0] = 0.5
    figure = compare_fields(truth, prediction, grid)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["truth is zero, rms 0.5", "110 %"]
    for zero in (compare_fields(truth[:1], 0 * truth[:1], grid), figure):
        for image in zero.axes[0].images:
            assert image.get_clim()[0] <= 0 <= image.get_clim()[1] <= 1
    if len(shape) > 1:
        assert compare_fields(truth[:1], 0 * truth[:1], grid).axes[0].images[0].get_cmap().name == "RdBu_r"


def test_one_resolution_shows_all_predictors(errors):
    axes = plot_error_by_resolution(errors.isel(resolution=[1])).axes[0]
    assert len(axes.lines) == 3 and all(line.get_marker() not in ("", "None") for line in axes.lines)


@pytest.mark.parametrize("shape", [(20,), (10, 12)])
def test_frames_past_the_truth_say_so(shape):
    from opkernels.evaluation.animation import _animation

    grid = Domain.periodic(*[1.0] * len(shape)).grid(shape)
    truth = np.ones((2, *shape))
    truth[1] = np.nan
    for columns, names, told in (([truth, truth], ["truth", "prediction"], "no truth"), ([truth], ["prediction"], "")):
        figure, draw = _animation(columns, names, list(grid.domain.axes), grid, "")
        for i, expected in ((0, ""), (1, told), (0, "")):
            draw(i, "")
            assert [text.get_text() for axes in figure.axes for text in axes.texts] == [expected]


def test_error_by_resolution_and_time(errors, tmp_path):
    figure = plot_error_by_resolution(errors)
    axes = figure.axes[0]
    model = next(line for line in axes.lines if line.get_label() == "model at this resolution")
    np.testing.assert_allclose(model.get_ydata(), errors.rel_l2.sel(predictor="model").mean("time"))
    assert [t.get_text() for t in axes.get_xticklabels()] == ["16x12\n(training)", "32x24"]
    assert len(axes.lines) == 3 and axes.get_yscale() == "log"
    figure = plot_error_by_time(errors, "correlation")
    assert {line.get_label() for line in figure.axes[0].lines} >= {"model at 16x12", "model at 32x24", "persistence"}
    for kind in ("png", "pdf", "svg"):
        assert save_figure(figure, tmp_path / f"time.{kind}").stat().st_size > 1000


def test_seeds_make_a_band():
    errors = ok.evaluate([heat_surrogate(HeatStep(e)) for e in (0.01, 0.03)], heat_data(), [16, (32, 24)])
    axes = plot_error_by_resolution(errors).axes[0]
    assert axes.collections and plot_error_by_time(errors).axes


def test_spectra_mark_each_nyquist(tmp_path):
    k = np.arange(20.0)
    curves = {"truth": (k, 1 / (1 + k**3)), "model at 16x16": (k[:8], 1 / (1 + k[:8] ** 3))}
    figure = plot_spectra(curves, nyquist={"16x16": 8.0, "32x32": 16.0})
    axes = figure.axes[0]
    assert axes.get_xlabel() == "wave number (radians per length)"
    verticals = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert verticals == [8.0, 16.0] and [t.get_text() for t in axes.texts] == ["Nyquist 16x16", "Nyquist 32x32"]
    save_figure(figure, tmp_path / "spectra.png")


@pytest.mark.parametrize("shape", [(20,), (10, 12)])
def test_animation(tmp_path, shape):
    image = pytest.importorskip("PIL.Image")
    frames = np.cumsum(np.random.default_rng(0).standard_normal((7, *shape)), axis=0)
    truth = frames.copy()
    truth[5:] = np.nan
    path = animate(frames, Domain.periodic(*[1.0] * len(shape)).grid(shape), tmp_path / "run.gif", truth=truth, times=range(7), seconds=1)
    with image.open(path) as gif:
        assert gif.n_frames == 7 and gif.size[0] > 200
    assert [p.name for p in tmp_path.iterdir()] == ["run.gif"]


def test_pyplot_is_not_needed(errors):
    import subprocess
    import sys

    code = "import sys; import opkernels.evaluation.plots as p; import numpy as np; k = np.arange(9.0)\n"
    code += "p.plot_spectra({'truth': (k, k + 1)}); assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_refusals(errors, tmp_path):
    grid = Domain.periodic(1.0).grid(8)
    for call, message in [
        (lambda: compare_fields(np.zeros((1, 8)), np.zeros((1, 9)), grid), r"expected two of \(rows, 8\)"),
        (lambda: plot_error_by_time(errors, "speed"), "there is no 'speed'"),
        (lambda: save_figure(plot_error_by_time(errors), tmp_path / "a.bmp"), "let it end in .png"),
        (lambda: animate(np.zeros((2, 8)), grid, tmp_path / "a.mp4"), "let it end in .gif"),
        (lambda: animate(np.zeros((2, 9)), grid, tmp_path / "a.gif"), "expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
