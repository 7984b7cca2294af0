"""Regimes on a surrogate whose steps are known in closed form; batches gathered as stored."""

import numpy as np
import pytest
import torch
from torch import nn

import opkernels as ok
from opkernels.losses import mse
from opkernels.normalization import Normalization
from opkernels.surrogate import Surrogate
from opkernels.training.batches import Examples, seed_of
from opkernels.training.regimes import Chain, Regime, training_loss

DOMAIN = ok.Domain.periodic(1.0)


class Times(nn.Module):
    """y = a x, repeated over frames with factors 1, 2, ..."""

    def __init__(self, a, bundle=1):
        super().__init__()
        self.a, self.bundle = nn.Parameter(torch.tensor(a, dtype=torch.float64)), bundle

    def forward(self, x):
        return torch.cat([self.a * x * (j + 1) for j in range(self.bundle)], dim=1)


def surrogate(a=3.0, bundle=1):
    one = Normalization.identity
    return Surrogate(Times(a, bundle), DOMAIN, ("u",), ("u",), one(("u",)), one(tuple("u" * bundle)), "state", dt=1.0, bundle=bundle)


X = torch.ones(2, 1, 4, dtype=torch.float64)


def run(regime, unroll, truth, s):
    scale, grid = torch.tensor([2.0], dtype=torch.float64), DOMAIN.grid(4)
    value, finite = training_loss(Chain(s, grid), regime, unroll, X, truth, None, loss=mse, scale=scale, grid=grid)
    value.backward()
    return value.item(), s.model.a.grad.item(), finite


def test_unrolled_loss_and_gradient_go_through_all_calls():
    # frames a, a^2, a^3 against 0: (a^2 + a^4 + a^6)/3/4 and its derivative
    value, grad, finite = run(Regime("unrolled", 3), 3, torch.zeros(2, 3, 1, 4, dtype=torch.float64), surrogate())
    assert value == pytest.approx((9 + 81 + 729) / 12) and grad == pytest.approx((2 * 3 + 4 * 27 + 6 * 243) / 12)
    assert finite.tolist() == [True, True]


def test_pushforward_compares_the_last_frame_and_differentiates_the_last_call():
    # the last frame a * (a^2, constant): (9 a)^2/4, derivative 2 * 81 a / 4
    value, grad, _ = run(Regime("pushforward", 3), 3, torch.zeros(2, 3, 1, 4, dtype=torch.float64), surrogate())
    assert value == pytest.approx(729 / 4) and grad == pytest.approx(2 * 81 * 3 / 4)


def test_bundled_frames_come_from_one_call():
    s = surrogate(bundle=2)
    chain = Chain(s, DOMAIN.grid(4))
    frames = chain(X, None, 2)
    assert frames[0, :, 0, 0].tolist() == [3.0, 6.0, 18.0, 36.0]
    last = chain(X, None, 2, last_only=True)
    assert last[0, :, 0, 0].tolist() == [18.0, 36.0] and last.requires_grad


def test_curriculum_grows_from_one_call_to_all():
    regime = Regime("unrolled", 5, curriculum=0.5)
    assert [regime.unroll_at(e, 16) for e in range(16)] == [1, 1, 2, 2, 3, 3, 4, 4] + [5] * 8
    assert {Regime("unrolled", 5).unroll_at(e, 3) for e in range(3)} == {5}


def test_offsets_are_the_stored_steps_of_an_example():
    assert Regime().offsets(1, 2) == [0, 1]
    assert Regime("unrolled", 3, stride=2).offsets(3, 7) == [0, 2, 4, 6]
    assert Regime("bundled", bundle=3).offsets(1, 4) == [0, 1, 2, 3]
    assert Regime("direct").offsets(1, 1) == [0] and Regime("direct").offsets(1, 9) == [0, 8]
    with pytest.raises(ValueError, match="needs 7 stored steps .* the data hold 6"):
        Regime("unrolled", 3, stride=2).offsets(3, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "onestep"}, "got the regime 'onestep'"),
        ({"unroll": 3}, "calls the model once"),
        ({"bundle": 3}, "predicts one frame"),
        ({"kind": "direct", "stride": 2}, "has no stride"),
        ({"stride": 0}, "got stride=0"),
        ({"noise": -1.0}, "noise is not negative"),
    ],
)
def test_meaningless_regimes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Regime(**arguments)


@pytest.mark.parametrize("limit", [None, 0])
def test_batches_hold_what_is_stored_in_the_order_asked_for(waves, limit):
    data = waves(samples=5, n_times=7, shape=(6, 4), names=("u", "v"))
    examples = Examples(data, ("v", "u"), torch.float64, torch.device("cpu")).cached(limit)
    assert (examples.memory is None) == (limit == 0)
    offsets = [0, 2, 4]
    assert examples.count(offsets) == 5 * 3 and examples.count(offsets, every=2) == 5 * 2
    parts = [np.array([14, 0, 7]), np.array([3])]
    stored = data.read(fields=("v", "u")).double()
    for (samples, window), part in zip(examples.batches(parts, offsets), parts, strict=True):
        assert samples.tolist() == (part // 3).tolist() and window.dtype == torch.float64
        for s, start, got in zip(part // 3, part % 3, window, strict=True):
            assert torch.equal(got, stored[s, start : start + 5 : 2])
    direct = next(examples.batches([np.array([4, 1])], [0, 6]))[1]
    assert torch.equal(direct, stored[[4, 1]][:, [0, 6]])


@pytest.mark.parametrize("limit", [None, 0])
def test_values_that_are_not_finite_are_named(waves, limit):
    data = waves(samples=5, n_times=4, shape=(6,))
    bad = data.fields["u"][:].copy()
    bad[3, 2, 1] = np.nan
    data = ok.Trajectories.from_arrays({"u": bad}, data.domain, times=data.times)
    examples = Examples(data, ("u",), torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match="not finite in field u of sample 3 at step 2"):
        examples.cached(limit)
        next(examples.batches([np.arange(5) * 3 + 1], [0, 1]))


def test_seeds_of_neighbors_differ():
    seeds = {seed_of(a, b, c) for a in range(5) for b in range(5) for c in range(40)}
    assert len(seeds) == 1000 and all(0 <= s < 2**63 for s in seeds)


def test_a_training_loss_runs_on_fake_cuda_without_mixing_devices():
    from helpers import fake_cuda

    from opkernels.surrogate import ParameterScaling

    scaling, one = ParameterScaling.fit({"nu": [1e-3, 1e-2]}), Normalization((0.1, -0.2), (2.0, 0.5), ("u", "v"))
    domain = ok.Domain.periodic(1.0, 2.0)
    with fake_cuda():
        model = ok.models.FNO(domain, 2, 2, n_modes=(3, 3), hidden_channels=4, n_layers=1, n_parameters=1)
        s = Surrogate(model, domain, ("u", "v"), ("u", "v"), one, one, "increment", dt=0.5, parameters=scaling)
        x, truth, p = torch.empty(2, 2, 8, 10), torch.empty(2, 3, 2, 8, 10), torch.empty(2, 1)
        grid, scale = domain.grid(8, 10), torch.ones(2)
        value, finite = training_loss(Chain(s, grid), Regime("unrolled", 3), 3, x, truth, p, loss=mse, scale=scale, grid=grid)
        assert value.device.type == finite.device.type == "cuda"
        assert s.forward(x, p, output_shape=(16, 20)).device.type == "cuda"
