"""TFNO: the FNO of the same weights, joint and per layer; parameters counted; compiled, exported, saved."""

import copy
import math
import warnings

import pytest
import torch
from helpers import band_limited, fake_cuda

from opkernels.domains import Domain
from opkernels.models import FNO, TFNO
from opkernels.models.tfno import tensorize
from opkernels.resample import resample

KINDS = ["tucker", "cp", "tt"]
TORUS = Domain.periodic(1.0, 2.0)


def tfno(domain=TORUS, n_modes=(8, 7), **options):
    torch.manual_seed(0)
    return TFNO(domain, 2, 1, n_modes=n_modes, **{"hidden_channels": 6, "n_layers": 3, "rank": 0.3, **options})


def dense_twin(model, **options):
    """Return the FNO with the same weights."""
    twin = FNO(model.domain, 2, 1, n_modes=(8, 7), hidden_channels=6, n_layers=3, **options).to(next(model.parameters()).dtype)
    rest = {k: v for k, v in model.state_dict().items() if "conv.weight" not in k and "joint_weight" not in k}
    missing, unexpected = twin.load_state_dict(rest, strict=False)
    assert not unexpected and all("conv.weight" in name for name in missing)
    with torch.no_grad():
        for layer, (ours, theirs) in enumerate(zip(model.blocks, twin.blocks, strict=True)):
            joint = model.joint_weight
            weight = ours.conv.weight.tensor.mode_first(0, torch.float64) if joint is None else joint.mode_first(layer, torch.float64)
            dense = weight.dense()
            theirs.conv.weight.tensor.copy_(dense.reshape(theirs.conv.weight.tensor.shape))
    return twin


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_fno_with_the_same_weights(kind, joint):
    model = tfno(factorization=kind, joint=joint, n_parameters=1, norm="instance_norm").double()
    twin = dense_twin(model, n_parameters=1, norm="instance_norm")
    p = torch.tensor([[0.3], [2.0]], dtype=torch.float64)
    for shape in ((16, 16), (9, 20)):
        x = torch.randn(2, 2, *shape, dtype=torch.float64)
        expected = twin(x, parameters=p)
        torch.testing.assert_close(model.train()(x, parameters=p), expected, rtol=0, atol=1e-11)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(x, parameters=p), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_factor_is_used_once_and_gets_a_gradient(kind, joint):
    model = tfno(factorization=kind, joint=joint)
    x = torch.randn(2, 2, 16, 12)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    assert len(model.state_dict()) == len(list(model.parameters())) == len({p.data_ptr() for p in model.state_dict().values()})


def test_layers_start_different_and_the_joint_tensor_is_smaller_at_equal_ranks():
    joint, apart = tfno(joint=True, rank=(3, 4, 4, 3, 2)), tfno(rank=(4, 4, 3, 2))
    spectral = lambda m: sum(p.numel() for n, p in m.named_parameters() if "tensor" in n or "joint" in n)  # noqa: E731
    assert spectral(joint) == 2 * (3 * 4 * 4 * 3 * 2 + 3 * 3 + 6 * 4 + 6 * 4 + 7 * 3 + 4 * 2)
    assert spectral(apart) == 3 * 2 * (4 * 4 * 3 * 2 + 6 * 4 + 6 * 4 + 7 * 3 + 4 * 2)
    one, two = (joint.joint_weight.mode_first(layer, torch.float32).dense() for layer in (0, 1))
    assert (one - two).norm() > 0.5 * one.norm()


def test_the_papers_compression_is_reached():
    """150 times fewer spectral weights in one tensor for all layers (arXiv 2310.00120)."""
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    options = {"n_modes": (33, 33), "hidden_channels": 64, "n_layers": 4}
    with torch.device("meta"):
        dense = sum(b.conv.weight.tensor.numel() for b in FNO(TORUS, 1, 1, **options).blocks)
    for kind in KINDS:
        assert dense / count(TFNO(TORUS, 1, 1, rank=1 / 150, factorization=kind, joint=True, **options).joint_weight) == pytest.approx(
            150, rel=0.05
        )


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_is_the_same_operator_on_every_grid(kind, joint):
    model = tfno(factorization=kind, joint=joint, rank=0.2).double()
    with torch.no_grad():
        fine = model(band_limited((128, 128), channels=2))
        for shape in ((64, 64), (64, 96), (65, 80)):
            y = model(band_limited(shape, channels=2))
            wanted = resample(fine, TORUS.grid(128, 128), shape)
            assert (y - wanted).norm() / wanted.norm() < 1e-7
        x = band_limited((65, 64), channels=2)
        torch.testing.assert_close(model(x.roll((5, -9), (2, 3))), model(x).roll((5, -9), (2, 3)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("joint", [False, True])
def test_copies_are_independent_and_files_hold_everything(joint, tmp_path):
    from safetensors.torch import load_file, save_file

    model, x = tfno(joint=joint).eval(), torch.randn(1, 2, 12, 12)
    with torch.no_grad():
        before = model(x)
        save_file(model.state_dict(), tmp_path / "weights.safetensors")
        twin = copy.deepcopy(model)
        for p in model.parameters():
            p.add_(1.0)
        torch.testing.assert_close(twin(x), before)
        again = TFNO(TORUS, **model.arguments)
        again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        torch.testing.assert_close(again.eval()(x), before)
        twin.double()
        torch.testing.assert_close(twin(x.double()).float(), before)


@pytest.mark.parametrize(("kind", "joint"), [("tucker", True)])
def test_exports_with_dynamic_shapes(kind, joint):
    model = tfno(factorization=kind, joint=joint, n_layers=1)
    sizes = [torch.export.Dim(name, min=8, max=64) for name in ("h", "w")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (torch.randn(2, 2, 16, 12),), dynamic_shapes=({2: sizes[0], 3: sizes[1]},), strict=False)
    x = torch.randn(2, 2, 21, 32)
    torch.testing.assert_close(program.module()(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_on_fake_cuda_without_mixing_devices(kind):
    with fake_cuda():
        for joint in (False, True):
            model = tfno(factorization=kind, joint=joint)
            assert model.eval()(torch.randn(2, 2, 16, 15)).device.type == "cuda"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of the compiler itself, after other models' graphs
def test_compiles_into_one_graph():
    torch._dynamo.reset()
    model = tfno(joint=True, n_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for shape in ((16, 12), (9, 14)):
        x = torch.randn(2, 2, *shape)
        torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(x), model(x), rtol=0, atol=1e-5)


def test_trains_under_bf16_autocast():
    model, x = tfno(joint=True), torch.randn(2, 2, 16, 16)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (model(x).float() - x[:, :1]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tensorize_finds_a_weight_that_is_of_low_rank(kind, joint):
    few = tfno(factorization=kind, joint=joint, rank=2, n_parameters=1).double()
    dense = dense_twin(few, n_parameters=1)
    again, error = tensorize(dense, 2, factorization=kind, joint=joint)
    assert error < (1e-2 if kind == "cp" else 1e-10)  # alternating least squares converges slowly
    x, p = torch.randn(1, 2, 16, 12, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    torch.testing.assert_close(again(x, parameters=p), dense(x, parameters=p), rtol=0, atol=10 * error + 1e-9)


def test_tensorize_reports_the_error_it_makes():
    torch.manual_seed(0)
    dense = FNO(TORUS, 2, 1, n_modes=(8, 7), hidden_channels=6, n_layers=2).eval()
    errors = [tensorize(dense, rank)[1] for rank in (0.1, 0.3, 0.6, (6, 6, 7, 4))]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.5 and errors[-1] < 1e-6
    small, error = tensorize(dense, 0.3, joint=True)
    assert not small.training and 0.3 < error < 1
    with pytest.raises(ValueError, match="tensorize got a TFNO"):
        tensorize(small, 0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0.0}, "rank=0.0"),
        ({"rank": 2.0}, "rank=2.0"),
        ({"joint": True, "rank": (4, 4, 3, 2)}, "5 whole ranks"),
        ({"factorization": "svd"}, "choose"),
        ({"n_layers": 0}, "n_layers=0"),
        ({"hidden_channels": 0}, "hidden_channels=0"),
        ({"n_modes": (8, 8, 8)}, "one number of modes for each axis"),
        ({"n_modes": (8, 0)}, "n_modes"),
        ({"mode_rule": "theirs"}, "mode_rule='theirs'"),
        ({"domain": Domain.box(1.0, 1.0, points="endpoint")}, "endpoint"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        tfno(**options)


@pytest.mark.parametrize("joint", [False, True])
def test_an_ensemble_under_vmap_in_evaluation(joint):
    nets = [tfno(joint=joint).eval() for _ in range(2)]
    with torch.no_grad():
        for p in nets[1].parameters():
            p.add_(0.1)
        parameters, buffers = torch.func.stack_module_state(nets)
        base = tfno(joint=joint).eval()
        x = torch.randn(2, 2, 12, 10)
        together = torch.func.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (x,)))(parameters, buffers)
        torch.testing.assert_close(together, torch.stack([net(x) for net in nets]), rtol=1e-4, atol=1e-5)
