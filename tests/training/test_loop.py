"""`fit`: it learns, for every regime and precision; what does not fit is refused before anything happens."""

import json
import os
import signal
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import opkernels as ok
from opkernels.training import Options, Regime, fit
from opkernels.training.checkpoint import BEST, LAST
from opkernels.training.prepare import split_samples


def error_of(surrogate, data, steps=1):
    x, truth = data.read(steps=0, fields=surrogate.inputs)[:, 0], data.read(steps=slice(1, 1 + steps), fields=surrogate.outputs)
    p = torch.stack([torch.as_tensor(data.parameters[n]) for n in surrogate.parameter_names], 1) if surrogate.parameter_names else None
    return float(ok.rel_l2(surrogate.rollout(x, steps, parameters=p).flatten(1, 2), truth.flatten(1, 2)))


def persistence(data, steps=1):
    x = data.read(steps=0)
    return float(ok.rel_l2(x.expand(-1, steps, *x.shape[2:]).flatten(1, 2), data.read(steps=slice(1, 1 + steps)).flatten(1, 2)))


def linear(data, channels=1, **options):
    """A single spectral layer without nonlinearity can represent advection exactly."""
    torch.manual_seed(0)
    return _Spectral(data, channels, **options)


class _Spectral(nn.Module):
    def __init__(self, data, channels, out=None):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(9, 2))
        self.out = out or channels

    def forward(self, x):
        spectrum = torch.fft.rfft(x.double(), norm="forward")
        w = torch.view_as_complex(self.w.double())
        y = torch.fft.irfft(spectrum[..., :9] * w, n=x.shape[-1], norm="forward").to(x.dtype)
        return y.repeat(1, self.out // x.shape[1], 1)


@pytest.mark.parametrize(
    "regime",
    [Regime(), Regime(stride=2), Regime("unrolled", 3, curriculum=0.5), Regime("pushforward", 2), Regime(noise=1e-3)],
    ids=lambda r: f"{r.kind}-{r.unroll}-{r.stride}-{r.noise:g}",
)
def test_every_regime_learns_the_exact_operator(waves, regime):
    data = waves(samples=10, n_times=7, shape=(16,))
    options = Options(weight_decay=0.0)
    s = fit(linear(data), data, epochs=25, lr=0.3, batch_size=8, regime=regime, quiet=True, options=options)
    assert s.dt == pytest.approx(0.05 * regime.stride)
    test = waves(samples=5, n_times=7, shape=(32,), seed=1)
    x, truth = test.read(steps=0)[:, 0], test.read(steps=slice(regime.stride, None, regime.stride))
    assert ok.rel_l2(s.rollout(x, truth.shape[1]).flatten(1, 2), truth.flatten(1, 2)) < 0.02, "at twice the resolution as well"


def test_bundles_and_direct_maps_learn(waves):
    data = waves(samples=10, n_times=5, shape=(16, 6))
    torch.manual_seed(0)
    model = ok.models.FNO(data.domain, 1, 3, n_modes=(5, 5), hidden_channels=12, n_layers=1)
    s = fit(model, data, epochs=20, lr=1e-2, regime=Regime("bundled", bundle=3), quiet=True)
    assert s.bundle == 3 and len(s.output_normalization.std) == 3
    assert s.output_normalization.std[2] > 1.5 * s.output_normalization.std[0], "later frames differ more from the first"
    assert error_of(s, data, 4) < 0.5 * persistence(data, 4)
    x, y = data.read(steps=0)[:, 0, 0].numpy(), data.read(steps=4)[:, 0, 0].numpy()
    pair = ok.Trajectories.from_arrays({"a": x * 5, "b": y + 3}, data.domain)
    s = fit(
        ok.models.FNO(data.domain, 1, 1, n_modes=(5, 5), hidden_channels=12, n_layers=1),
        pair,
        inputs=["a"],
        outputs=["b"],
        epochs=80,
        lr=1e-2,
        quiet=True,
    )
    assert s.dt is None and s.target == "state" and s.outputs == ("b",)
    torch.testing.assert_close(torch.tensor(s.output_normalization.mean), torch.tensor([3.0]), rtol=0.05, atol=0)
    out = s.predict(torch.from_numpy(x * 5)[:, None])
    assert ok.rel_l2(out - 3, torch.from_numpy(y)[:, None]) < 0.15
    two_ends = fit(linear(waves(shape=(16,))), waves(shape=(16,)), regime="direct", epochs=30, lr=0.3, quiet=True)
    ends = waves(shape=(16,))
    assert ok.rel_l2(two_ends.predict(ends.read(steps=0)[:, 0]), ends.read(steps=-1)[:, 0]) < 0.02


def test_parameters_condition_the_model(waves, fno):
    data = waves(samples=30, n_times=4, shape=(12,), speeds=True)
    blind = fit(fno(data, n_parameters=0), data, epochs=15, lr=1e-2, quiet=True)
    told = fit(fno(data, n_parameters=1), data, epochs=15, lr=1e-2, quiet=True)
    assert blind.parameter_names == () and told.parameter_names == ("c",) and told.parameters.logarithmic == (True,)
    assert error_of(told, data) < 0.7 * error_of(blind, data)


def test_fields_in_and_out_may_differ(waves, fno):
    data = waves(samples=8, n_times=4, shape=(16,), names=("u", "v"))
    s = fit(fno(data, channels=2, out_channels=1), data, outputs=["v"], epochs=30, lr=1e-2, quiet=True)
    assert s.inputs == ("u", "v") and s.outputs == ("v",)
    x = data.read(steps=0)[:, 0]
    assert ok.rel_l2(s.predict(x), data.read(steps=1, fields=["v"])[:, 0]) < 0.65 * persistence(data)


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_precisions_train(waves, fno, precision):
    data = waves(samples=8, n_times=4, shape=(12, 9))
    s = fit(fno(data), data, epochs=15, lr=1e-2, precision=precision, quiet=True)
    assert s.dtype == (torch.float64 if precision == "float64" else torch.float32)
    assert error_of(s, data) < 0.7 * persistence(data)


@pytest.mark.parametrize("loss", ["rel_h1", "mse", "l1", lambda p, t, grid: (p - t).pow(4).mean()])
def test_losses_and_schedules_train(waves, loss):
    data = waves(samples=10, n_times=4, shape=(16,))
    schedule = {"rel_h1": "one_cycle", "mse": "step", "l1": "constant"}.get(loss, "cosine")
    s = fit(linear(data), data, epochs=25, lr=0.3, loss=loss, quiet=True, options=Options(schedule=schedule))
    assert error_of(s, data) < 0.4 * persistence(data)


def test_shifts_teach_translation_equivariance():
    """One sample and a convolution of full width: without shifts it learns only what it saw."""
    domain = ok.Domain.periodic(1.0)
    u = np.zeros((1, 2, 16), dtype="float32")
    u[0, 0, 3], u[0, 1, 4] = 1.0, 1.0
    data = ok.Trajectories.from_arrays({"u": u}, domain, times=[0.0, 1.0])

    class Matrix(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(16, 16))

        def forward(self, x):
            return x @ self.w

    def held_out_error(shifts):
        s = fit(
            Matrix(), data, validation=0.0, epochs=150, lr=0.1, loss="mse", quiet=True, options=Options(shifts=shifts, weight_decay=0.0)
        )
        x = torch.from_numpy(np.roll(u[:, :1], 7, axis=-1))
        return float(ok.rel_l2(s.predict(x), torch.roll(x, 1, -1)))

    assert held_out_error(True) < 0.3 and held_out_error(False) > 0.6


def test_a_model_of_neuralop_trains_and_is_saved(tmp_path, waves):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuralop.models import FNO
    data = waves(samples=8, n_times=4, shape=(12, 9))

    def build():
        torch.manual_seed(0)
        return FNO(n_modes=(5, 5), in_channels=1, out_channels=1, hidden_channels=8, n_layers=1)

    s = fit(build(), data, epochs=5, lr=1e-2, run_dir=tmp_path / "run", quiet=True)
    assert error_of(s, data) < persistence(data)
    back, x = ok.load(tmp_path / "run", model=build()), data.read(steps=0)[:, 0]
    assert torch.equal(back.predict(x), s.predict(x))
    with pytest.raises(ValueError, match="build it and call load"):
        ok.load(tmp_path / "run")


def test_the_normalization_sees_the_training_samples_only(waves, fno):
    data = waves(samples=10, n_times=3, shape=(8,))
    train, held = split_samples(10, (0.8, 0.2))
    u = data.fields["u"][:].copy()
    u[held] *= 1000
    loud = ok.Trajectories.from_arrays({"u": u}, data.domain, times=data.times)
    s = fit(fno(data), loud, validation=0.2, epochs=1, quiet=True)
    torch.testing.assert_close(torch.tensor(s.normalization.std[0]), torch.tensor(float(u[train].std())), rtol=1e-5, atol=0)
    steps = np.diff(u[train], axis=1)
    torch.testing.assert_close(torch.tensor(s.output_normalization.std[0]), torch.tensor(float(steps.std())), rtol=1e-5, atol=0)


def test_the_log_holds_a_row_per_epoch_and_random_numbers_are_left_alone(tmp_path, waves, fno):
    data, before = waves(samples=6, n_times=3, shape=(8,)), torch.random.get_rng_state()
    model = fno(data)
    torch.random.set_rng_state(before)
    fit(model, data, epochs=3, run_dir=tmp_path, quiet=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows] == [1, 2, 3] and all(r["loss"] > 0 and r["validation"] > 0 for r in rows)
    csv = (tmp_path / "log.csv").read_text().splitlines()
    assert csv[0] == "epoch,step,lr,unroll,loss,validation,seconds" and len(csv) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == [BEST, LAST, "log.csv", "log.jsonl"] or {BEST, LAST} <= {
        p.name for p in tmp_path.iterdir()
    }


def test_a_file_read_ahead_and_memory_give_the_same_weights(waves, fno, same_weights, tmp_path):
    data = waves(samples=6, n_times=5, shape=(8, 6))
    data.save(tmp_path / "d.nc")
    stored = ok.open_trajectories(tmp_path / "d.nc")
    runs = [fit(fno(data), d, epochs=2, batch_size=4, quiet=True, options=Options(memory=m)) for d, m in ((data, None), (stored, 0))]
    same_weights(*(r.model.state_dict() for r in runs))


def test_best_weights_are_kept_and_early_stop_ends_the_run(tmp_path, waves, fno):
    data = waves(samples=8, n_times=3, shape=(8,))
    wild = Options(schedule="constant", warmup=0.0, patience=2, gradient_clip=None)
    for folder in (None, tmp_path / "r"):
        s = fit(fno(data), data, epochs=50, lr=0.3, run_dir=folder, quiet=True, options=wild)
        assert s.notes["kept_epoch"] < 50
    rows = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    errors = [r["validation"] for r in rows]
    best = int(np.argmin(errors)) + 1
    assert len(rows) == best + 2 < 50 and s.notes == s.notes | {"kept_epoch": best, "validation": min(errors)}
    _, held = split_samples(8, (0.9, 0.1))
    x = data.select(held)
    windows = torch.stack([x.read(steps=[t, t + 1])[:, :, 0] for t in range(2)]).flatten(0, 1)
    assert float(ok.rel_l2(s.predict(windows[:, :1]), windows[:, 1:])) == pytest.approx(min(errors), rel=1e-4)


def test_the_last_weights_are_kept_on_disk_where_asked_for_and_without_validation(tmp_path, waves, fno, same_weights):
    from opkernels.storage import read_tensors

    data = waves(samples=8, n_times=4, shape=(8,))
    cases = [
        ("asked", {"options": Options(keep="last", schedule="constant", warmup=0.0), "lr": 0.3, "validation": 0.2}),
        ("curriculum", {"regime": Regime("unrolled", 3, curriculum=1.0), "lr": 1e-4, "validation": 0.0}),
    ]
    for name, options in cases:
        s = fit(fno(data), data, epochs=3, run_dir=tmp_path / name, quiet=True, **options)
        losses = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        judged = [row["loss"] if row["validation"] is None else row["validation"] for row in losses]
        assert judged[-1] > min(judged), "so that the best are not the last"
        last = {k.removeprefix("model."): v for k, v in read_tensors(tmp_path / name / LAST)[0].items() if k.startswith("model.")}
        same_weights(ok.load(tmp_path / name).model.state_dict(), last)
        same_weights(dict(s.model.state_dict()), last)
        assert s.notes["kept_epoch"] == ok.load(tmp_path / name).notes["kept_epoch"] == 3
        assert s.notes["training_loss" if name == "curriculum" else "validation"] == judged[-1]
        in_memory = fit(fno(data), data, epochs=3, quiet=True, **options)
        same_weights(dict(in_memory.model.state_dict()), last)


@pytest.mark.parametrize("limit", [None, 0])
def test_samples_are_named_by_their_number_in_the_dataset(waves, fno, limit):
    data = waves(samples=10, n_times=3, shape=(8,))
    train, _ = split_samples(10, (0.7, 0.3))
    sample = next(int(row) for i, row in enumerate(train) if row != i)
    u = data.fields["u"][:].copy()
    u[sample, 1, 3] = np.nan
    bad = ok.Trajectories.from_arrays({"u": u}, data.domain, times=data.times)
    with pytest.raises(ValueError, match=rf"not finite in field u of sample {sample} at step 1"):
        fit(fno(data), bad, validation=0.3, quiet=True, options=Options(memory=limit))

    class Poisoned(nn.Module):  # not a number where it meets one state
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x):
            y = self.w * x
            hit = (x - (float(loud[0, 0]) - self.mean) / self.std).abs()[:, :, :1] < 1e-6
            return torch.where(hit & torch.tensor(self.training), y / 0 * 0, y)

    loud = data.fields["u"][sample]
    model = Poisoned()
    rows = data.fields["u"][:][train]
    model.mean, model.std = float(rows.mean()), float(rows.std())
    with pytest.raises(ValueError, match=rf"the prediction for sample {sample} is not finite"):
        fit(model, data, validation=0.3, epochs=1, quiet=True)


def test_noise_is_a_share_of_each_fields_standard_deviation(waves):
    data = waves(samples=40, n_times=3, shape=(32,), names=("u", "v"))
    loud = ok.Trajectories.from_arrays({"u": data.fields["u"][:] * 300, "v": data.fields["v"][:] / 50 + 7}, data.domain, times=data.times)

    class Listening(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.heard = nn.Parameter(torch.ones(1)), []

        def forward(self, x):
            self.heard += [x.detach().clone()] if self.training else []
            return self.w * x

    heard = []
    for noise in (0.0, 0.1):
        model = Listening()
        fit(model, loud, epochs=1, batch_size=100, validation=0.0, regime=Regime(noise=noise), quiet=True)
        heard.append(model.heard[0])
    drawn = heard[1] - heard[0]
    assert drawn.std(dim=(0, 2)).tolist() == pytest.approx([0.1, 0.1], rel=0.05), "normalized fields have a standard deviation of 1"


def test_whatever_a_users_model_raises_is_one_sentence(waves):
    data = waves(samples=6, n_times=3, shape=(8,))

    class Raising(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.w, self.error = nn.Parameter(torch.ones(1)), error

        def forward(self, x):
            raise self.error

    for error, message in (
        (KeyError("mask"), "KeyError: 'mask'"),
        (AttributeError("no such"), "AttributeError: no such"),
        (AssertionError(), "AssertionError$"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ):
        with pytest.raises(ValueError, match=r"the model does not take the input \(1, 1, 8\) \(u\): " + message):
            fit(Raising(error), data, quiet=True)


def test_early_learning_rate_explosion_names_step_sample_and_cause(tmp_path, waves):
    data = waves(samples=6, n_times=3, shape=(8,))

    class Explosive(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))
            self.calls = 0

        def forward(self, x):
            self.calls += self.training
            y = self.w * x
            return y / 0 * 0 if self.calls == 5 else y

    with pytest.raises(
        ValueError,
        match=r"the loss is not finite at step 4 \(epoch 3\): the prediction for sample \d is not finite; likely the learning rate.* stays",
    ):
        fit(Explosive(), data, epochs=5, batch_size=5, validation=0.17, run_dir=tmp_path, quiet=True)
    from opkernels.storage import read_tensors

    tensors, header = read_tensors(tmp_path / LAST)
    assert header["progress"]["epoch"] == 2 and all(t.isfinite().all() for t in tensors.values())


def test_data_that_are_not_finite_stop_before_anything_is_written(tmp_path, waves, fno):
    data = waves(samples=6, n_times=3, shape=(8,))
    u = data.fields["u"][:].copy()
    u[4, 1, 3] = np.inf
    bad = ok.Trajectories.from_arrays({"u": u}, data.domain, times=data.times)
    with pytest.raises(ValueError, match=r"the data are not finite in field u of sample 4 at step 1; mend or leave out"):
        fit(fno(data), bad, validation=0.0, epochs=2, run_dir=tmp_path / "r", quiet=True)
    assert not (tmp_path / "r").exists()


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, waves, fno):
    data = waves(samples=6, n_times=3, shape=(8,))
    other = ok.Domain.periodic(2.0)
    stationary = ok.Trajectories.from_arrays({"a": np.ones((6, 8)), "b": np.ones((6, 8))}, data.domain)
    uneven = ok.Trajectories.from_arrays({"u": data.fields["u"][:]}, data.domain, times=[0.0, 1.0, 3.0])
    walls = ok.Trajectories.from_arrays({"u": data.fields["u"][:]}, ok.Domain.box(1.0), times=data.times)
    cases = [
        (
            lambda: fit(ok.models.FNO(other, 1, 1, n_modes=(4,)), data),
            r"built on the domain x in \[0, 2\] \(periodic, node points\), but the data live on x in \[0, 1\]",
        ),
        (lambda: fit(fno(data), data, validation=data.at(4)), "give both on the same grid"),
        (lambda: fit(fno(data), data, inputs=["w"]), "the data hold the fields u, each named once"),
        (lambda: fit(fno(data), data, parameters=["nu"]), "the data have no parameter nu; they have none"),
        (lambda: fit(fno(data, n_parameters=2), data), "the model takes n_parameters=2, but the data give none"),
        (lambda: fit(fno(data), stationary), "would be mapped to itself; name inputs and outputs"),
        (lambda: fit(fno(data), uneven), "not evenly spaced"),
        (lambda: fit(fno(data), data, regime="unrolled"), "needs 5 stored steps"),
        (lambda: fit(fno(data), data, regime="unroled"), "got the regime 'unroled'"),
        (lambda: fit(fno(data), data, loss="rel_l3"), 'did you mean "rel_l2"'),
        (lambda: fit(fno(data, out_channels=2), data), r"maps \(1, 1, 8\) to \(1, 2, 8\); expected \(1, 1, 8\)"),
        (lambda: fit(nn.Conv1d(3, 1, 1), data), r"does not take the input \(1, 1, 8\) \(u\): Given groups=1"),
        (lambda: fit(fno(walls), walls, options=Options(shifts=True)), "needs a periodic axis"),
        (lambda: fit(fno(data), data, epochs=0), "epochs=0; give a whole number"),
        (lambda: fit(fno(data), data, lr=-1.0), "lr=-1.0; give a positive number"),
        (lambda: fit(fno(data), data, precision="half"), "precision='half'; choose one of float32"),
        (lambda: fit(fno(data), data, precision="float16"), "needs a CUDA device"),
        (lambda: fit(fno(data), data, device="cuda:7"), "cannot use the device 'cuda:7'"),
        (lambda: fit(fno(data), data, device="gpu"), "cannot use the device 'gpu'"),
        (lambda: fit(fno(data), data, validation=1.5), "validation=1.5"),
        (lambda: fit(fno(data), np.ones(3)), "data of type ndarray"),
        (lambda: fit(fno(data), data.select([0])), "got 1 samples for 2 parts"),
        (lambda: fit(fno(data), data, resume=True), "resume=True without run_dir"),
        (lambda: fit(fno(data), data, run_dir=__file__), "is a file; name a folder"),
        (lambda: fit(fno(data), data, options=Options(schedule="cosin")), "schedule='cosin'"),
        (lambda: fit(fno(data), data, options=Options(log=("mlflow",)), epochs=1), "got the log 'mlflow'"),
    ]
    for attempt, message in cases:
        with pytest.raises(ValueError, match=message):
            attempt()


def test_an_existing_run_is_not_overwritten(tmp_path, waves, fno):
    data = waves(samples=6, n_times=3, shape=(8,))
    fit(fno(data), data, epochs=1, run_dir=tmp_path, quiet=True)
    whole = (tmp_path / LAST).read_bytes()
    with pytest.raises(ValueError, match="already holds a run; resume it"):
        fit(fno(data), data, epochs=1, run_dir=tmp_path, quiet=True)
    for change, message in (
        ({"lr": 5e-3}, "another lr"),
        ({"seed": 1}, "another seed"),
        ({"regime": Regime(noise=0.1)}, "another regime"),
        ({"options": Options(target="state")}, "another target"),
        ({"options": Options(keep="last")}, "another keep"),
        ({"inputs": ["u"], "model": fno(data, hidden_channels=9)}, "another model"),
    ):
        model = change.pop("model", None) or fno(data)
        with pytest.raises(ValueError, match=message):
            fit(model, data, **({"epochs": 1} | change), run_dir=tmp_path, resume=True, quiet=True)
    data.times[:] *= 2
    with pytest.raises(ValueError, match="another dt"):
        fit(fno(data), data, epochs=1, run_dir=tmp_path, resume=True, quiet=True)
    data.times[:] /= 2
    assert (tmp_path / LAST).read_bytes() == whole
    (tmp_path / LAST).write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="is damaged or not a safetensors file"):
        fit(fno(data), data, epochs=1, run_dir=tmp_path, resume=True, quiet=True)


def test_lost_best_weights_are_written_again_or_missed(tmp_path, waves, fno):
    data = waves(samples=8, n_times=4, shape=(8,))
    falling, rising = {"lr": 1e-3}, {"lr": 0.3, "options": Options(schedule="constant", warmup=0.0)}
    for name, options in (("falling", falling), ("rising", rising)):
        s = fit(fno(data), data, epochs=3, validation=0.2, run_dir=tmp_path / name, quiet=True, **options)
        assert (s.notes["kept_epoch"] == 3) == (name == "falling")
        best = (tmp_path / name / BEST).read_bytes()
        (tmp_path / name / BEST).unlink()

        def again(name=name, options=options):
            return fit(fno(data), data, epochs=3, validation=0.2, run_dir=tmp_path / name, resume=True, quiet=True, **options)

        if name == "falling":
            again()
            assert (tmp_path / name / BEST).read_bytes() == best
        else:
            with pytest.raises(ValueError, match=r"has lost best.safetensors, the weights of epoch \d; put it back"):
                again()


def test_a_folder_that_cannot_be_made_is_told(tmp_path, waves, fno):
    data = waves(samples=6, n_times=3, shape=(8,))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot make the run's folder .*file/run \(Not a directory\); choose another run_dir"):
        fit(fno(data), data, epochs=1, run_dir=tmp_path / "file" / "run", quiet=True)


def test_ctrl_c_leaves_a_checkpoint_and_the_resumed_run_the_same_weights(tmp_path, waves, fno, same_weights):
    data = waves(samples=12, n_times=6, shape=(16, 10))

    def train(folder, resume=False, **kwargs):
        return fit(
            fno(data), data, epochs=4, batch_size=4, seed=3, run_dir=folder, resume=resume, quiet=True, regime=Regime(noise=0.01), **kwargs
        )

    whole = train(tmp_path / "whole")
    timer = threading.Timer(0.0, lambda: None)

    def interrupt():
        nonlocal timer
        timer = threading.Timer(0.12, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()

    handler, interruptions = signal.getsignal(signal.SIGINT), 0
    while True:
        try:
            resumed = train(tmp_path / "cut", resume=True, on_start=interrupt)
            timer.cancel()
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > 0 and signal.getsignal(signal.SIGINT) is handler
    same_weights(resumed.model.state_dict(), whole.model.state_dict())
    rows = [[json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()] for run in ("whole", "cut")]
    drop = {"seconds"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in rows[0]] == [
        {k: v for k, v in r.items() if k not in drop} for r in rows[1]
    ]


def test_split_samples_deals_every_sample_once():
    parts = split_samples(20, (0.7, 0.2, 0.1))
    assert [len(p) for p in parts] == [14, 4, 2] and sorted(np.concatenate(parts)) == list(range(20))
    assert [len(p) for p in split_samples(3, (0.8, 0.1, 0.1))] == [1, 1, 1]
    assert [len(p) for p in split_samples(5, (1.0, 0.0, 0.0))] == [5, 0, 0]
    assert split_samples(20, (0.5, 0.5))[0].tolist() != list(range(10)), "shuffled: files are often sorted by a parameter"
    with pytest.raises(ValueError, match="got 2 samples for 3 parts"):
        split_samples(2, (0.8, 0.1, 0.1))


@pytest.mark.parametrize("step", [2, 3, 4, 6])
def test_an_interruption_after_any_step_leaves_the_same_log(tmp_path, waves, fno, monkeypatch, step):
    """Three steps an epoch: the third is the last of one, after which nothing is left to do in it."""
    from opkernels.training.run import Run

    data = waves(samples=12, n_times=2, shape=(8,))

    def train(folder):
        return fit(fno(data), data, epochs=3, batch_size=4, run_dir=tmp_path / folder, resume=True, quiet=True)

    train("whole")
    take, calls = Run._step, []

    def interrupted(self, *arguments):
        calls.append(1)
        self.interrupted = len(calls) == step
        return take(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "_step", interrupted)
        train("cut")
    train("cut")
    rows = [[json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()] for run in ("whole", "cut")]
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
    assert rows[0] == rows[1] and len(rows[0]) == 3
