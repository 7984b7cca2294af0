"""FactFormer: window and frames, latent march, conditioning, checkpointing, save and load, compile, refusals."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from helpers import band_limited, fake_cuda

import opkernels as ok
from opkernels.domains import Axis, Domain
from opkernels.layers.factorized_attention import apply_parallel
from opkernels.models.factformer import FactFormer, LatentMarch
from opkernels.normalization import Normalization
from opkernels.training import Options, Regime
from opkernels.training.config import read_config

EXAMPLES = Path(__file__).parents[2] / "examples"

TORUS = Domain.periodic(1.0, 2.0)
CHANNEL = Domain((Axis(-1, 1, periodic=True, points="node"), Axis(0, 3)))


def factformer(domain=TORUS, in_channels=2, out_channels=3, **options):
    torch.manual_seed(0)
    return FactFormer(
        domain, in_channels, out_channels, **{"hidden_channels": 8, "n_layers": 2, "n_heads": 2, "bandwidth": 2, **options}
    ).double()


@pytest.mark.parametrize("lengths", [(1.0,), (1.0, 2.0), (1.0, 1.0, 3.0)])
@pytest.mark.parametrize("options", [{}, {"n_steps": 3, "n_parameters": 1, "parallel": True, "head_dim": 2}])
def test_every_size_and_number_of_axes_works_and_every_parameter_is_used(lengths, options):
    d = len(lengths)
    for domain in (Domain.periodic(*lengths), Domain.box(*lengths, points="endpoint")):
        model = factformer(domain, **options)
        parameters = torch.ones(2, 1, dtype=torch.float64) if options else None
        for sizes in ((8, 12, 6), (9, 5, 7)):
            model.zero_grad()
            x = torch.randn(2, 2, *sizes[:d], dtype=torch.float64)
            y = model(x, parameters=parameters)
            assert y.shape == (2, 3, *x.shape[2:])
            y.square().mean().backward()
            assert all(p.grad is not None and p.grad.norm() > 0 for p in model.parameters())


def test_latent_march_is_the_recursion_written_out():
    torch.manual_seed(0)
    march, v = LatentMarch(4, 6, 8, 4, activation="gelu").double(), torch.randn(2, 4, 5, 3, dtype=torch.float64)
    z, frames = torch.einsum("lc,bcxy->blxy", march.expand.weight, v), []
    for j in range(4):
        z = z + march.propagator(z + march.step_embedding[j][:, None, None])
        frames += [march.decoder(z)]
    assert frames[0].shape[1] == 2
    torch.testing.assert_close(march(v), torch.stack(frames, 1).flatten(1, 2))


def test_commutes_with_translations_on_periodic_axes_only():
    x = torch.randn(1, 2, 12, 10, dtype=torch.float64)
    model = factformer()
    torch.testing.assert_close(model(x.roll((5, -3), (2, 3))), model(x).roll((5, -3), (2, 3)), rtol=0, atol=1e-12)
    model = factformer(CHANNEL)
    torch.testing.assert_close(model(x.roll(5, 2)), model(x).roll(5, 2), rtol=0, atol=1e-12)
    assert (model(x.roll(5, 3)) - model(x).roll(5, 3)).abs().max() > 1e-2


def test_parameters_change_the_output_of_their_own_sample():
    model = factformer(n_parameters=2)
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64).expand(2, -1, -1, -1)
    one = model(x, parameters=torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64))
    two = model(x, parameters=torch.tensor([[0.0, 1.0], [3.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(one[0], two[0])
    assert (one[1] - two[1]).abs().max() > 1e-3


def test_options_reach_every_block():
    options = {"head_dim": 3, "kernel_multiplier": 4, "bandwidth": 1, "parallel": True, "qk_norm": True, "checkpoint": True}
    model = factformer(n_heads=4, latent_ratio=1.5, activation="tanh", **options)
    for block in model.blocks:
        conv = block.conv
        assert (conv.n_heads, conv.bandwidth, conv.qk_norm, conv.checkpoint) == (4, 1, True, True)
        assert conv.to_v.weight.shape == (12, 8) and conv.low_rank_kernel_y.to_q.weight.shape == (48, 8)
        assert conv.apply_kernels is apply_parallel
    assert model.projection.expand.weight.shape == (12, 8)
    assert model.projection.propagator.activation is torch.tanh


def test_samples_of_a_batch_do_not_mix():
    model, x = factformer(), torch.randn(3, 2, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_checkpointing_keeps_gradients_and_saves_memory():
    x = torch.randn(1, 2, 32, 32)
    gradients, kept = [], []
    for checkpoint in (False, True):
        model = factformer(checkpoint=checkpoint, hidden_channels=16, n_layers=4).float()
        sizes = {}

        def pack(t, sizes=sizes):
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = model(x)
        y.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
        kept.append(sum(sizes.values()))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.filterwarnings("ignore")
def test_compiles_without_breaks_and_gives_the_same():
    model, x = factformer(Domain.box(1.0), n_layers=1).float(), torch.randn(2, 2, 12)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    y = compiled(x)
    torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-5)
    y.square().sum().backward()
    gradient = model.lifting.weight.grad.clone()
    model.zero_grad()
    model(x).square().sum().backward()
    torch.testing.assert_close(gradient, model.lifting.weight.grad, rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()


def test_runs_on_fake_cuda_without_mixing_devices():
    with fake_cuda():
        model = FactFormer(CHANNEL, 2, 4, hidden_channels=8, n_layers=2, n_heads=2, bandwidth=3, n_steps=2)
        assert model(torch.randn(2, 2, 16, 15), output_shape=(9, 9)).device.type == "cuda"


def test_trains_under_bfloat16_autocast():
    model, x = factformer(hidden_channels=16, n_layers=1).float(), band_limited((16, 16), channels=2, batch=4, dtype=torch.float32)
    y = x.roll(3, 2)[:, :1] * x[:, 1:] + torch.zeros(1, 3, 1, 1)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_learns_one_batch():
    model, x = factformer(hidden_channels=16).float(), band_limited((16, 16), channels=2, batch=2, dtype=torch.float32)
    y = x.roll(3, 2)[:, :1] * x[:, 1:] + torch.zeros(1, 3, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * y.square().mean()


def test_save_and_load(tmp_path):
    model, one = factformer(in_channels=1, out_channels=2, n_steps=2, parallel=True).float(), Normalization((0.0,), (1.0,), ("w",))
    two = Normalization((0.0, 0.0), (1.0, 2.0), ("w_1", "w_2"))
    surrogate = ok.Surrogate(model, TORUS, ("w",), ("w",), one, two, dt=0.1, bundle=2)
    ok.save(surrogate, tmp_path / "one.safetensors")
    x = torch.randn(2, 1, 12, 9)
    torch.testing.assert_close(ok.load(tmp_path / "one.safetensors").rollout(x, 3), surrogate.rollout(x, 3), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["bundled", "pushforward"])
def test_several_frames_train_by_the_regimes(kind):
    x, t = TORUS.grid(8, 8).coordinates(dtype=torch.float64)[0], torch.linspace(0, 0.5, 9, dtype=torch.float64)
    waves = torch.stack([a * torch.sin(2 * math.pi * (x - t[:, None, None])) for a in (0.5, 1.0, 1.5, 2.0)])
    data = ok.Trajectories.from_arrays({"u": waves}, TORUS, times=t)
    model = factformer(in_channels=1, out_channels=4, n_steps=2).float()
    surrogate = ok.fit(
        model,
        data,
        epochs=4,
        batch_size=4,
        lr=5e-3,
        validation=0.0,
        regime=Regime(kind, bundle=4),
        quiet=True,
        options=Options(keep="last"),
    )
    assert surrogate.rollout(data.read()[:, 0].float(), 6).shape == (4, 6, 1, 8, 8)


def test_example_learns_frames_that_no_grid_changes():
    errors = runpy.run_path(str(EXAMPLES / "factformer.py"))["main"]()
    assert errors[32] < 0.25 and abs(errors[96] - errors[32]) < 2e-3


def test_configuration_is_read_and_fits_its_model():
    config = read_config(EXAMPLES / "configs" / "factformer.yaml")
    assert config.model.name == "FactFormer"
    assert config.training.window == 10 and config.training.bundle % config.model.arguments["n_steps"] == 0
    assert 2 * config.model.arguments["bandwidth"] < min(config.data.resolution or ())


X = torch.zeros(1, 10, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: factformer(hidden_channels=9), "got 9 channels for n_heads=2, which do not split evenly; choose a multiple"),
        (lambda: factformer(in_channels=3, window=2), "in_channels=3 for window=2 frames, which do not split evenly; give a multiple of 2"),
        (lambda: factformer(n_steps=2), "out_channels=3 for n_steps=2 steps, which do not split evenly; give a multiple of 2"),
        (lambda: factformer(n_layers=0), "FactFormer got n_layers=0; give 1 or more"),
        (lambda: factformer(hidden_channels=0), "FactFormer got hidden_channels=0; give 1 or more"),
        (
            lambda: factformer(latent_ratio=-1),
            "FactFormer got latent_ratio=-1 for hidden_channels=8; give a number that makes at least one",
        ),
        (lambda: factformer(latent_ratio=math.nan), "FactFormer got latent_ratio=nan"),
        (lambda: factformer(latent_ratio="wide"), "FactFormer got latent_ratio='wide'"),
        (lambda: factformer(window=0), "FactFormer got window=0; give 1 or more"),
        (
            lambda: factformer(in_channels=10, window=10)(X[:, :1]),
            "got 1 channels, which is one frame, but was built for window=10; stack the last 10 frames along the channels, the latest last",
        ),
        (lambda: factformer(in_channels=10, window=10)(X[:, :3]), "got 3 channels in x of shape .*; it was built for 10"),
        (lambda: factformer(bandwidth=4)(X[:, :2]), "got 8 samples on axis x, which do not resolve .* bandwidth=4; .* bandwidth=3 or less"),
        (lambda: FactFormer(Domain.periodic(1, 1, 1, 1), 1, 1), "ndim=4; give 1, 2 or 3 axes"),
        (lambda: FactFormer(None, 1, 1), "FactFormer got domain=None; give a Domain"),
        (lambda: factformer()(X[:, :2], grid=CHANNEL.grid(8, 8)), "give the grid of x, with the same periodic axes"),
        (lambda: factformer(n_parameters=2)(X[:, :2]), r"parameters of shape None; expected \(1, 2\)"),
    ],
)
def test_refuses_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
