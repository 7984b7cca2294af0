"""Several frames in: which, in what order, in every regime, from the configuration to the commands."""

import numpy as np
import pytest
import torch
import yaml
from standing_wave import DT, Mix, two_step, wave, wave_data
from torch import nn

import opkernels as ok
from opkernels.cli import main
from opkernels.domains import Whole
from opkernels.models import FactFormer
from opkernels.training import Options, Regime
from opkernels.training.build import build_model, load_run
from opkernels.training.config import read_config
from opkernels.training.prepare import prepare


def exact_model(u, regime, target):
    """The exact step for data u (N, T, *spatial) of mean zero, as the normalization of `fit` makes a model see it."""
    weight = two_step(regime.bundle, regime.window, regime.stride)
    if target == "increment":
        weight[:, -1] -= 1
        for j in range(regime.bundle):
            # Increments of all frames are measured from the same first frames.
            lag, longest = (j + 1) * regime.stride, regime.bundle * regime.stride
            n = u.shape[1] - longest
            weight[j] *= u.std(correction=0) / (u[:, lag : lag + n] - u[:, :n]).std(correction=0)
    return Mix(weight)


REGIMES = [
    Regime(window=2),
    Regime(window=3, stride=2),
    Regime("bundled", bundle=3, window=2),
    Regime("bundled", bundle=2, window=4),
    Regime("unrolled", 3, window=2, curriculum=0.5),
    Regime("unrolled", 2, bundle=2, window=3),
    Regime("pushforward", 2, bundle=2, window=3),
    Regime("pushforward", 3, window=2),
]


@pytest.mark.parametrize("regime", REGIMES, ids=str)
@pytest.mark.parametrize("target", ["state", "increment"])
def test_the_exact_two_step_model_has_no_loss_in_any_regime(regime, target):
    u, data = wave((10,), n_times=10), wave_data((10,), n_times=10)
    options = Options(shifts=True, target=target, keep="last")
    kwargs = {"regime": regime, "precision": "float64", "epochs": 2, "lr": 1e-14, "batch_size": 5, "quiet": True, "options": options}
    surrogate = ok.fit(exact_model(u, regime, target), data, validation=data, **kwargs)
    assert surrogate.window == regime.window and surrogate.in_channels == regime.window
    assert surrogate.notes["validation"] < 1e-12
    told = ok.fit(exact_model(u, regime, target), data, validation=0.0, **kwargs).notes["training_loss"]
    assert told < 1e-12


def test_a_wave_is_learned_from_two_frames_and_not_from_one():
    train, test = wave_data(samples=8, seed=1), wave_data(seed=2)

    def error(window):
        model, regime = Mix(torch.zeros(1, window, dtype=torch.float64)), Regime(window=window)
        kwargs = {"epochs": 60, "batch_size": 16, "lr": 0.1, "precision": "float64", "validation": 0.0, "quiet": True}
        surrogate = ok.fit(model, train, regime=regime, options=Options(weight_decay=0.0), **kwargs)
        return float(ok.evaluate(surrogate, test, steps=4).rel_l2.sel(predictor="model").mean())

    assert error(1) > 0.5 and error(2) < 1e-3


def test_frames_are_stacked_oldest_first_with_the_fields_of_a_frame_together():
    steps = np.arange(8.0).reshape(1, 8, 1) * np.ones((1, 1, 4))
    data = ok.Trajectories.from_arrays({"f": 100 + steps, "u": steps}, ok.Domain.periodic(1.0), times=np.arange(8.0))
    chosen = {
        "validation": 0.0,
        "inputs": ["u", "f"],
        "outputs": ["u"],
        "parameters": None,
        "target": None,
        "shifts": False,
        "memory": None,
        "split": Whole(),
    }
    regime = Regime("bundled", bundle=2, window=3, stride=1)
    p = prepare(nn.Conv1d(6, 2, 1), data, regime=regime, dtype=torch.float32, device=torch.device("cpu"), **chosen)
    x, truth = p.split(p.train.gather(np.array([0]), np.array([2]), regime.offsets(1, 8)))
    assert x[0, :, 0].tolist() == [2, 102, 3, 103, 4, 104] and truth[0, :, 0, 0].tolist() == [5, 6]
    assert p.surrogate.frames(x)[0, -1, :, 0].tolist() == [4, 104]
    assert p.surrogate.feed(x, truth)[0, :, 0].tolist() == [4, 104, 5, 104, 6, 104], "f is not predicted and keeps its latest value"


def test_examples_and_validation_use_every_stored_step():
    assert Regime(window=3).offsets(1, 4) == [0, 1, 2, 3]
    assert Regime("unrolled", 2, bundle=2, stride=2, window=3).offsets(2, 13) == list(range(0, 13, 2))
    with pytest.raises(ValueError, match=r"needs 13 stored steps for an example \(window 3, then unroll 2 x bundle 2, at stride 2\)"):
        Regime("unrolled", 2, bundle=2, stride=2, window=3).offsets(2, 12)


def test_noise_is_that_of_each_field_in_every_frame():
    rng = np.random.default_rng(0)
    still = {name: np.repeat(size * rng.standard_normal((1, 1, 4000)), 3, axis=1) for name, size in (("u", 1.0), ("v", 100.0))}
    data, seen = ok.Trajectories.from_arrays(still, ok.Domain.periodic(1.0), times=np.arange(3.0)), []

    class Spy(Mix):
        def forward(self, x):
            seen.append(x.detach())
            return super().forward(x)

    regime = Regime(window=2, noise=0.5)
    ok.fit(Spy(torch.zeros(2, 4)), data, regime=regime, validation=0.0, epochs=1, quiet=True)
    noise = seen[-1] - seen[0]  # the first call tries the model, without noise
    torch.testing.assert_close(noise[0].std(dim=1), torch.full((4,), 0.5), rtol=0.05, atol=0)
    assert (torch.corrcoef(noise[0]) - torch.eye(4)).abs().max() < 0.1, "frames have noise of their own"


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: Regime(window=0), "got window=0; give a whole number of at least 1"),
        (lambda: Regime(window=2.0), "got window=2.0; give a whole number"),  # type: ignore[arg-type]
        (lambda: Regime("direct", window=2), "from the first stored step to the last and has no window"),
        (lambda: ok.fit(Mix(torch.zeros(1, 9)), wave_data(), regime=Regime(window=9), quiet=True), "needs 10 stored steps .* data hold 9"),
        (lambda: ok.fit(nn.Conv1d(1, 1, 1), wave_data(), regime=Regime(window=3), quiet=True), r"does not take the input \(1, 3, 12\)"),
        (
            lambda: ok.fit(FactFormer(wave_data((24,)).domain, 3, 1, window=3), wave_data((24,)), quiet=True),
            "which is one frame, but was built for window=3",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()


CONFIG = {
    "data": {"path": "waves.nc", "split": {"train": 0.6, "validation": 0.2, "test": 0.2}},
    "model": {"name": "FNO", "n_modes": [3], "hidden_channels": 4, "n_layers": 1},
    "training": {"epochs": 2, "batch_size": 8, "lr": "1e-2", "window": 3, "regime": "unrolled", "unroll": 2, "noise": 0.01, "shifts": True},
    "run_dir": "run",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wave_data((12,), samples=5).save(tmp_path / "waves.nc")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def test_a_model_gets_its_channels_and_its_window_from_the_configuration(place):
    data = ok.open_trajectories("waves.nc")
    assert build_model(read_config("c.yaml"), data, 0).in_channels == 3
    changes = ["model={name: FactFormer, hidden_channels: 8, n_layers: 1, n_heads: 2}", "training.bundle=2"]
    model = build_model(read_config("c.yaml", changes), data, 0)
    assert isinstance(model, FactFormer) and (model.window, model.in_channels, model.out_channels) == (3, 3, 2)
    with pytest.raises(ValueError, match=r"model.window: follows from training.window; leave it out"):
        read_config("c.yaml", ["model={name: FactFormer, window: 4}"])
    with pytest.raises(ValueError, match="training.window: got 0"):
        read_config("c.yaml", ["training.window=0"])


def test_a_killed_run_goes_on_to_the_same_bits_and_the_commands_take_it(place, monkeypatch, capsys, same_weights):
    from opkernels.storage import read_tensors
    from opkernels.training.run import Run

    assert main(["train", "c.yaml", "--quiet", "run_dir=whole"]) == 0
    step, calls = Run._step, []

    def interrupted(self, *arguments):
        calls.append(1)
        self.interrupted = len(calls) == 4
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_step", interrupted)
        assert main(["train", "c.yaml", "--quiet"]) == 130
    assert main(["train", "run", "--quiet", "training.window=2"]) == 2
    assert "run holds a run with another regime.window (3, now 2); resume it as it was" in capsys.readouterr().err
    assert main(["train", "run", "--quiet"]) == 0
    same_weights(read_tensors("run/last.safetensors")[0], read_tensors("whole/last.safetensors")[0])
    surrogate, _ = load_run("run")
    assert surrogate.window == 3 and surrogate.dt == pytest.approx(DT)
    assert main(["evaluate", "run", "--resolution", "12", "8"]) == 0 and main(["evaluate", "run", "--steps", "7"]) == 2
    assert "truth for 1 to 6" in capsys.readouterr().err
    assert main(["rollout", "run", "--steps", "8"]) == 0
    assert "of 8 frames at 12, with a truth for 6" in capsys.readouterr().out
    assert main(["certify", "run", "--tolerance", "1"]) == 0
