"""Weights dealt out over processes: every model with them computes the same, and damaged or foreign checkpoints are told."""

import copy
import json

import pytest
import torch
import torch.distributed as dist
from torch import nn

import opkernels as ok
from opkernels.normalization import Normalization
from opkernels.surrogate import Surrogate
from opkernels.training import Distributed, Options, fit
from opkernels.training.checkpoint import Progress, holds_checkpoint, read_checkpoint, write_checkpoint
from opkernels.training.parallel import Group
from opkernels.training.sharding import load_shards, part_of, save_shards, shard, whole

CPU = torch.device("cpu")
SPECTRAL = {"n_modes": (4, 4), "hidden_channels": 6, "n_layers": 2}
MODELS = {
    "FNO": SPECTRAL,
    "FFNO": SPECTRAL,
    "TFNO": SPECTRAL | {"rank": 0.5, "joint": True},  # layers share weights
    "MGTFNO": SPECTRAL | {"levels": 1},
    "T1": SPECTRAL,
    "LocalNO": SPECTRAL,
    "FactFormer": {"hidden_channels": 8, "n_layers": 2},
    "UNet": {"hidden_channels": 4, "n_layers": 2},
}


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """A process group of this process alone: weights become sharded tensors, and nothing is sent."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Twice(nn.Module):
    """A model asked twice in one forward pass, as in a chain of steps."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return torch.cat([self.model(x + self.model(x))])


@pytest.mark.parametrize("name", MODELS)
def test_every_model_computes_the_same_with_weights_dealt_out(name):
    torch.manual_seed(0)
    model = getattr(ok.models, name)(ok.Domain.periodic(1.0, 2.0), 1, 1, **MODELS[name])
    plain, x = Twice(copy.deepcopy(model)), torch.randn(2, 1, 32, 48)
    dealt = shard(Twice(model), CPU)
    assert type(model) is getattr(ok.models, name), "files name the class"
    with torch.no_grad():
        torch.testing.assert_close(dealt(x), plain(x), rtol=0, atol=0)
    for step in (plain, dealt):
        step(x).square().mean().backward()
    for (key, p), q in zip(model.named_parameters(), plain.model.parameters(), strict=True):
        assert hasattr(p, "placements"), key
        torch.testing.assert_close(whole(p), q, rtol=0, atol=0)
        torch.testing.assert_close(whole(p.grad), q.grad, rtol=1e-6, atol=0)


def test_weights_that_cannot_be_dealt_out_are_refused():
    for weight, kind in ((torch.tensor(1.0), "a single number"), (torch.ones(2, dtype=torch.complex64), "complex")):
        module = nn.Module()
        module.register_parameter("w", nn.Parameter(weight))
        with pytest.raises(ValueError, match=f"the weight w is {kind}, and cannot be dealt out"):
            shard(module, CPU)


def test_shards_are_read_whole_and_damage_is_told(tmp_path):
    module = shard(nn.Linear(5, 3), CPU)
    tensors = {"a": module.weight.detach(), "n": torch.tensor(7.0)}
    save_shards(tmp_path / "s", tensors)
    found = {"a": torch.empty(3, 5), "n": torch.empty(())}  # not dealt out
    load_shards(tmp_path / "s", found)
    assert torch.equal(found["a"], whole(module.weight)) and found["n"] == 7
    assert torch.equal(whole(part_of(2 * found["a"], module.weight)), 2 * found["a"])
    with pytest.raises(ValueError, match="is damaged, or does not fit this model"):
        load_shards(tmp_path / "s", {"b": torch.empty(3)})
    file = next((tmp_path / "s").iterdir())
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match="is damaged, or does not fit this model .*; take another checkpoint"):
        load_shards(tmp_path / "s", found)


def surrogate_and_optimizer(width=4):
    torch.manual_seed(0)
    domain = ok.Domain.periodic(1.0)
    model = ok.models.FNO(domain, 1, 1, n_modes=(4,), hidden_channels=width, n_layers=1)
    one = Normalization.identity(("u",))
    shard(nn.Sequential(model), CPU)
    optimizer = torch.optim.AdamW(model.parameters())
    return Surrogate(model, domain, ("u",), ("u",), one, one), optimizer


def test_a_sharded_checkpoint_replaces_the_last_and_tells_what_is_wrong(tmp_path):
    group = Group(0, 1, CPU, sharded=True)
    surrogate, optimizer = surrogate_and_optimizer()
    for weight in optimizer.param_groups[0]["params"]:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    (tmp_path / "last.safetensors").touch()
    for step, epoch in ((3, 0), (5, 1), (5, 2)):  # the last one of the same step: only progress changes
        write_checkpoint(tmp_path, surrogate, optimizer, Progress(epoch=epoch, step=step), {"lr": 1.0}, group)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last-00000005", "last.json"] and holds_checkpoint(tmp_path)
    other, fresh = surrogate_and_optimizer()
    progress = read_checkpoint(tmp_path, other, fresh, {"lr": 1.0})
    assert (progress.epoch, progress.step) == (2, 5)
    for one, two in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        assert one.keys() == two.keys() and all(torch.equal(whole(one[key]), whole(two[key])) for key in one)
    with pytest.raises(ValueError, match="holds a run with another lr"):
        read_checkpoint(tmp_path, other, fresh, {"lr": 2.0})
    with pytest.raises(ValueError, match="holds a run with another model"):
        read_checkpoint(tmp_path, *surrogate_and_optimizer(width=6), {"lr": 1.0})
    index = json.loads((tmp_path / "last.json").read_text())
    (tmp_path / "last.json").write_text(json.dumps(index | {"folder": "../elsewhere"}))  # a name, wherever it points
    with pytest.raises(ValueError, match="elsewhere is damaged"):
        read_checkpoint(tmp_path, other, fresh, {"lr": 1.0})
    (tmp_path / "last.json").write_text("{")
    with pytest.raises(ValueError, match="last.json is damaged; put it back"):
        read_checkpoint(tmp_path, other, fresh, {"lr": 1.0})


def test_one_process_has_everything_whatever_is_asked_for(tmp_path):
    domain = ok.Domain.periodic(1.0)
    data = ok.Trajectories.from_arrays({"u": torch.randn(6, 3, 8).numpy()}, domain, times=[0.0, 1.0, 2.0])
    model = ok.models.FNO(domain, 1, 1, n_modes=(4,), hidden_channels=4, n_layers=1)
    fit(model, data, epochs=1, run_dir=tmp_path / "run", quiet=True, options=Options(distributed=Distributed(domain=2, sharded=True)))
    assert (tmp_path / "run" / "last.safetensors").exists() and not hasattr(next(model.parameters()), "placements")
