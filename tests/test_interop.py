"""neuraloperator's models carried over: the same outputs, files read without running code, refusals."""

import subprocess
import sys
import warnings

import pytest
import torch
from helpers import label
from torch.nn import functional as F

from opkernels.domains import Domain
from opkernels.interop import from_neuralop, read_neuralop
from opkernels.models import FNO, TFNO


@pytest.fixture(scope="module")
def theirs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stdout = sys.stdout.write
        models = pytest.importorskip("neuralop.models")
        sys.stdout.write = stdout
    return models


def build(kind, n_modes=(8, 6), in_channels=2, out_channels=3, hidden_channels=8, n_layers=2, seed=0, **options):
    """Return a model of theirs with every parameter moved off its special start (gates 1, norms 1 and 0)."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind(n_modes, in_channels, out_channels, hidden_channels, n_layers=n_layers, **options)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def torus(model):
    return Domain.periodic(*[1.0] * len(model.n_modes))


def assert_same_outputs(model, ours, *shapes):
    for shape in shapes:
        x = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected, got = model(x), ours(x)
        assert (got - expected).norm() / expected.norm() < 1e-6, shape


GRIDS = {1: [(16,), (33,), (100,)], 2: [(16, 12), (20, 31), (64, 10)], 3: [(8, 10, 9), (12, 6, 16)]}
MODES = {1: (7,), 2: (8, 6), 3: (4, 5, 6)}


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize(("factorization", "rank"), [(None, 1.0), ("tucker", 0.3), ("cp", 0.3), ("tt", 0.3), ("tt", 1.0)])
def test_outputs_are_the_same_on_every_grid(theirs, d, factorization, rank):
    model = build(theirs.FNO, MODES[d], factorization=factorization, rank=rank)
    ours = from_neuralop(model, torus(model))
    assert isinstance(ours, TFNO if factorization else FNO)
    assert_same_outputs(model, ours, *GRIDS[d])


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "instance_norm"},
        {"norm": "group_norm"},
        {"preactivation": True},
        {"preactivation": True, "norm": "group_norm"},
        {"non_linearity": F.relu},
        {"non_linearity": F.silu},
        {"non_linearity": torch.tanh},
        {"positional_embedding": None},
        {"fno_skip": "soft-gating", "channel_mlp_skip": "linear"},
        {"fno_skip": "identity", "channel_mlp_skip": None},
        {"fno_skip": None, "channel_mlp_skip": "identity"},
        {"lifting_channel_ratio": 1.3, "projection_channel_ratio": 3.7, "channel_mlp_expansion": 1.1},
        {"lifting_channel_ratio": 0},
        {"n_layers": 1},
        {"hidden_channels": 5, "n_layers": 3},
        {"factorization": "Tucker", "rank": 0.4, "implementation": "reconstructed"},
        {"factorization": "tucker", "rank": 0.9, "fixed_rank_modes": True},
    ],
    ids=label,
)
def test_every_option_that_exists_here_is_carried_over(theirs, options):
    model = build(theirs.FNO, **options)
    assert_same_outputs(model, from_neuralop(model, torus(model)), (16, 12), (20, 31))


def test_the_unpaired_row_and_nyquist_are_theirs_unless_declined(theirs):
    model = build(theirs.FNO, (8, 8), positional_embedding=None)
    same, free = from_neuralop(model, torus(model)), from_neuralop(model, torus(model), nyquist=False)
    assert_same_outputs(model, same, (8, 8), (8, 16), (6, 6), (4, 20), (16, 16))
    assert_same_outputs(model, free, (10, 10), (16, 16))
    x = torch.randn(2, 2, 8, 8)
    with torch.no_grad():
        assert (free(x) - model(x)).norm() / model(x).norm() > 1e-3
    for ours in (same, free):
        weight = ours.blocks[0].conv.weight.tensor
        assert weight.shape == (8, 5, 8, 2, 8)  # k = -4 .. 3 and 0 .. 4: one row more than they keep on the other side
        torch.testing.assert_close(weight[..., 0, :][0], model.fno_blocks.convs[0].weight.tensor.detach()[:, :, 0].permute(2, 0, 1).real)


def test_odd_leading_sizes_are_right_where_theirs_are_not(theirs):
    """A smooth function sampled at 64, 65 and 66 points has one value at the origin; release 2.0.0 gives another at 65."""
    model = build(theirs.FNO, positional_embedding=None)
    ours = from_neuralop(model, torus(model))
    values = []
    for n in (64, 65, 66):
        s = torch.arange(n) / n * 2 * torch.pi
        x = torch.stack([torch.cos(s)[:, None] * torch.sin(s), torch.sin(2 * s)[:, None] + 0 * s])[None]
        with torch.no_grad():
            values.append(ours(x)[0, :, 0, 0])
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(values[2], values[0], rtol=0, atol=1e-5)


def test_mode_device_and_arguments_follow(theirs):
    model = build(theirs.TFNO).eval()
    ours = from_neuralop(model, torus(model))
    assert not ours.training and from_neuralop(model.train(), torus(model)).training
    again = TFNO(torus(model), **ours.arguments)
    again.load_state_dict(ours.state_dict())
    assert_same_outputs(model, again, (16, 12))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("FNO", {}),
        ("TFNO", {"rank": 0.3}),
        ("TFNO", {"factorization": "cp", "rank": 0.3}),
        ("FNO", {"non_linearity": F.silu, "norm": "group_norm"}),
    ],
)
def test_checkpoints_are_read(theirs, tmp_path, kind, options):
    model = build(getattr(theirs, kind), n_layers=3, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_checkpoint(tmp_path, "m")
    assert_same_outputs(model, read_neuralop(tmp_path / "m_state_dict.pt", torus(model)), (16, 12))


def test_a_fifth_positional_argument_wins_over_the_recorded_default(theirs, tmp_path):
    torch.manual_seed(0)
    model = theirs.FNO((8, 6), 2, 3, 8, 3)
    assert model._init_kwargs["n_layers"] == 4
    model.save_checkpoint(tmp_path, "m")
    assert_same_outputs(model, read_neuralop(tmp_path / "m_state_dict.pt", torus(model)), (16, 12))


def test_an_activation_that_a_file_does_not_name_is_asked_for(theirs, tmp_path):
    model = build(theirs.FNO, non_linearity=torch.relu)
    model.save_checkpoint(tmp_path, "m")
    with pytest.raises(ValueError, match="read with activation="):
        read_neuralop(tmp_path / "m_state_dict.pt", torus(model))
    assert_same_outputs(model, read_neuralop(tmp_path / "m_state_dict.pt", torus(model), activation="relu"), (16, 12))


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_files_run_no_code(theirs, tmp_path):
    model = build(theirs.FNO)
    state = model.state_dict()
    state["_metadata"] = {**state["_metadata"], "stabilizer": Bomb(tmp_path / "ran")}
    torch.save(state, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match="stabilizer"):
        read_neuralop(tmp_path / "bomb.pt", torus(model))
    assert not (tmp_path / "ran").exists()


def test_reading_does_not_import_neuraloperator(theirs, tmp_path):
    model = build(theirs.TFNO)
    model.save_checkpoint(tmp_path, "m")
    code = (
        "import sys; from opkernels import Domain; from opkernels.interop import read_neuralop; "
        f"read_neuralop({str(tmp_path / 'm_state_dict.pt')!r}, Domain.periodic(1, 1)); "
        "print([m for m in sys.modules if m.split('.')[0] in ('neuralop', 'tltorch', 'tensorly', 'wandb')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separable": True}, "separable=True, which cannot be carried over; only separable=False can"),
        ({"domain_padding": 0.1}, r"domain_padding=0\.1"),
        ({"use_channel_mlp": False}, "use_channel_mlp=False"),
        ({"stabilizer": "tanh"}, "stabilizer='tanh'"),
        ({"max_n_modes": (10, 10)}, "max_n_modes"),
        ({"resolution_scaling_factor": 2}, "resolution_scaling_factor=2"),
        ({"norm": "batch_norm"}, "norm='batch_norm'"),
        ({"non_linearity": F.elu}, "activation elu cannot be carried over"),
        ({"non_linearity": torch.nn.GELU()}, "activation GELU cannot be carried over"),
    ],
    ids=label,
)
def test_other_options_are_refused_in_one_sentence(theirs, options, message):
    with pytest.raises(ValueError, match=message):
        model = build(theirs.FNO, **options)
        from_neuralop(model, torus(model))


def test_other_models_domains_and_files_are_refused_in_one_sentence(theirs, tmp_path):
    model = build(theirs.FNO)
    with pytest.raises(ValueError, match=r"2 axes .* and the domain 1"):
        from_neuralop(model, Domain.periodic(1.0))
    with pytest.raises(ValueError, match='points="node"'):
        from_neuralop(model, Domain.box(1.0, 1.0))
    with pytest.raises(ValueError, match="got a Linear; from_neuralop takes"):
        from_neuralop(torch.nn.Linear(1, 1), Domain.periodic(1.0))
    changed = build(theirs.FNO)
    changed.n_modes = (4, 4)
    with pytest.raises(ValueError, match=r"set to \(4, 4\) later"):
        from_neuralop(changed, torus(model))
    changed = build(theirs.FNO)
    changed.fno_blocks.convs[1].n_modes = (4, 4)
    with pytest.raises(ValueError, match=r"convolution 1 of the model was built with n_modes=\(8, 4\) and set to \(4, 3\) later"):
        from_neuralop(changed, torus(model))
    with pytest.raises(ValueError, match="got domain=None; give a Domain"):
        from_neuralop(build(theirs.FNO), None)
    with pytest.raises(ValueError, match="got a NoneType; from_neuralop takes"):
        from_neuralop(None, torus(model))
    with pytest.raises(ValueError, match="there is no file"):
        read_neuralop(tmp_path / "none.pt", torus(model))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as a PyTorch file"):
        read_neuralop(tmp_path / "text.pt", torus(model))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "plain.pt")
    with pytest.raises(ValueError, match="does not hold a state dict of neuraloperator"):
        read_neuralop(tmp_path / "plain.pt", torus(model))
    state = model.state_dict()
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "extra.pt")
    with pytest.raises(ValueError, match="extra.weight, which has no counterpart"):
        read_neuralop(tmp_path / "extra.pt", torus(model))
    del state["extra.weight"]
    state["projection.fcs.1.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "shape.pt")
    with pytest.raises(ValueError, match="projection.second.bias differs"):
        read_neuralop(tmp_path / "shape.pt", torus(model))
