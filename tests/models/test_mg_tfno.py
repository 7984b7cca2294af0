"""MGTFNO: TFNO at zero levels, streamed as in one batch, memory, symmetry, files, precision, refusals."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from helpers import band_limited, fake_cuda
from torch.profiler import ProfilerActivity, profile

import opkernels as ok
from opkernels.domains import Axis, Domain
from opkernels.models import MGTFNO, TFNO
from opkernels.resample import resample

TORUS = Domain.periodic(1.0, 2.0)
MIXED = Domain((Axis(0, 1, periodic=True, points="node"), Axis(-1, 3)))
OPTIONS = {"n_modes": (6, 5), "hidden_channels": 6, "n_layers": 2, "rank": 0.3}


def mgtfno(domain=TORUS, **options):
    torch.manual_seed(0)
    return MGTFNO(domain, 2, 1, **{**OPTIONS, "padding": [length / 8 for length in domain.extent], **options})


def in_one_batch(model, x, parameters=None):
    """The coarse answer, all windows through the local operator at once, then stitched: nothing streamed."""
    patches, grid = model.patches, model.domain.grid(*x.shape[2:])
    pyramid = patches.pyramid(x, grid)
    coarse = model.coarse(pyramid[-1], parameters=parameters)
    windows, answers = [], [patches.prolonged(coarse, grid, patch) for patch in patches.indices]
    for patch, answer in zip(patches.indices, answers, strict=True):
        where = patches.positions(grid, patch, model.positional_embedding, x.device, x.dtype)
        windows.append(torch.cat([patches.windows(pyramid, grid, patch), where.expand(len(x), *where.shape), answer], dim=1))
    repeated = None if parameters is None else parameters.repeat(len(windows), 1)
    parts = model.local(torch.cat(windows), parameters=repeated).split(len(x))
    total = patches.beginning(x, model.out_channels, grid)
    for part, answer, patch in zip(parts, answers, patches.indices, strict=True):
        total = patches.add(total, part + answer, grid, patch)
    return patches.stitched(total, grid)


@pytest.mark.parametrize("positions", ["walls", "harmonics", None])
def test_zero_levels_on_a_torus_are_the_tfno(positions):
    model = mgtfno(levels=0, positional_embedding=positions).double()
    twin = TFNO(TORUS, 2, 1, **OPTIONS, positional_embedding=positions).double()
    twin.load_state_dict({name.removeprefix("local."): value for name, value in model.state_dict().items()})
    x = torch.randn(2, 2, 17, 24, dtype=torch.float64)
    torch.testing.assert_close(model(x), twin(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("domain", [TORUS, MIXED], ids=["torus", "mixed"])
def test_streamed_outputs_and_gradients_equal_those_in_one_batch(domain, levels):
    model = mgtfno(domain, levels=levels, n_parameters=1, positional_embedding="harmonics").double()
    x = torch.randn(2, 2, 16, 32, dtype=torch.float64, requires_grad=True)
    p = torch.tensor([[0.3], [2.0]], dtype=torch.float64)
    streamed, whole = model(x, parameters=p), in_one_batch(model, x, p)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x, parameters=p), whole, rtol=0, atol=1e-13)
    inputs = [x, *model.parameters()]
    one, other = (torch.autograd.grad(y.square().sum(), inputs) for y in (streamed, whole))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert b.abs().max() > 0


@pytest.mark.parametrize("levels", [1, 2])
def test_where_the_local_operator_adds_nothing_the_answer_is_the_coarse_one(levels):
    coarse, grid = TORUS.grid(15, 21), TORUS.grid(15 << levels, 21 << levels)  # odd: no Nyquist wave
    model, x = mgtfno(levels=levels, padding=(1 / 10, 1 / 7)).double(), torch.randn(2, 2, *grid.shape, dtype=torch.float64)
    with torch.no_grad():
        model.local.projection.second.weight.zero_()
        answer = resample(model.coarse(resample(x, grid, coarse)), coarse, grid)
        torch.testing.assert_close(model(x), answer, rtol=0, atol=1e-12)
        assert answer.std(dim=(2, 3)).min() > 1e-3


def peak(step):
    """Largest sum of live tensor bytes."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    live = most = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"):
        live += size
        most = max(most, live)
    return most


def test_memory_falls_with_the_number_of_patches_in_prediction_and_in_training():
    """Windows of 5/8 and 3/8 of each axis: 0.39 and 0.14 of the points."""
    options = {"n_modes": (8, 8), "hidden_channels": 16, "n_layers": 3, "rank": 0.1}
    domain, x = Domain.periodic(1.0, 1.0), torch.randn(1, 1, 128, 128)
    models = [TFNO(domain, 1, 1, **options), *(MGTFNO(domain, 1, 1, levels=levels, **options) for levels in (1, 2))]

    @torch.no_grad()
    def predict(model):
        model(x)

    def train(model):
        model.zero_grad()
        model(x).square().mean().backward()

    for task in (predict, train):
        whole, *streamed = [peak(lambda model=model, task=task: task(model)) for model in models]
        assert streamed[0] < 0.5 * whole and streamed[1] < 0.3 * whole, (task.__name__, whole, streamed)


def test_a_shift_by_one_patch_shifts_the_output_and_by_less_does_not():
    model, x = mgtfno(levels=2).double(), torch.randn(1, 2, 32, 16, dtype=torch.float64)
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(model(x.roll((8, -4), (2, 3))), y.roll((8, -4), (2, 3)), rtol=0, atol=1e-12)
        assert (model(x.roll(3, 2)) - y.roll(3, 2)).abs().max() > 1e-4


def test_the_output_has_no_seams_and_no_jump_of_resolution():
    """The same function comes out on a finer grid; errors fall by 16 with each refinement (three continuous derivatives)."""
    model = mgtfno(levels=1).double()
    with torch.no_grad():
        ys = {n: model(band_limited((n, n), channels=2)) for n in (32, 64, 128)}
    errors = [((ys[n] - ys[128][..., :: 128 // n, :: 128 // n]).norm() / ys[n].norm()).item() for n in (32, 64)]
    assert errors[1] < 1e-4 and errors[0] / errors[1] > 8, errors


def test_other_grids_shapes_and_domains():
    model, x = mgtfno(levels=1).double(), band_limited((32, 48), channels=2)
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(model(x, output_shape=(16, 20)), resample(y, TORUS.grid(32, 48), (16, 20)))
        wide = Domain.periodic(3.0, 1.0)
        torch.testing.assert_close(model(x, grid=wide.grid(32, 48)), y)  # patches are shares of the domain, as modes are


@pytest.mark.parametrize(
    ("domain", "shape"), [(Domain.periodic(1.0), (32,)), (Domain.box(1.0, 2.0, 1.0), (16, 32, 16))], ids=["1-D", "3-D"]
)
def test_in_one_and_three_dimensions(domain, shape):
    model = MGTFNO(domain, 2, 3, n_modes=(4,) * domain.ndim, levels=1, hidden_channels=4, n_layers=2, rank=0.5)
    x = torch.randn(2, 2, *shape, requires_grad=True)
    y = model(x)
    y.square().sum().backward()
    assert y.shape == (2, 3, *shape) and all(p.grad.abs().max() > 0 for p in [x, *model.parameters()])


def test_trains_with_fit_as_any_model_and_is_saved_and_loaded(tmp_path):
    domain = Domain.periodic(1.0)
    x = band_limited((32,), batch=40, k_max=2)[:, 0].float()
    data = ok.Trajectories.from_arrays({"u": x, "v": x**2 - 0.5}, domain)
    torch.manual_seed(0)
    model = MGTFNO(domain, 1, 1, n_modes=(8,), levels=1, padding=1 / 8, hidden_channels=12, n_layers=2, rank=0.5)
    surrogate = ok.fit(model, data, inputs=["u"], outputs=["v"], epochs=8, batch_size=4, lr=5e-3, validation=0.0, quiet=True)
    u = x[:, None]
    assert ok.rel_l2(surrogate.predict(u), u**2 - 0.5) < 0.2
    ok.save(surrogate, tmp_path / "model.safetensors")
    torch.testing.assert_close(ok.load(tmp_path / "model.safetensors").predict(u), surrogate.predict(u))


def test_runs_on_fake_cuda_without_mixing_devices():
    with fake_cuda():
        for domain in (TORUS, MIXED):
            model = mgtfno(domain, levels=1, positional_embedding="harmonics")
            assert model.eval()(torch.randn(2, 2, 16, 32)).device.type == "cuda"


def test_trains_under_bf16_autocast():
    model, x = mgtfno(levels=1), torch.randn(2, 2, 16, 16)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (model(x).float() - x[:, :1]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(math.isfinite(loss) for loss in losses)


@pytest.mark.slow
def test_compiles_into_one_graph():
    domain = Domain.periodic(1.0)
    model = MGTFNO(domain, 1, 1, n_modes=(4,), levels=1, hidden_channels=4, n_layers=1, rank=0.5)
    compiled, x = torch.compile(model, fullgraph=True, backend="aot_eager"), torch.randn(2, 1, 32)
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"levels": -1}, None, "levels=-1"),
        ({"levels": 1.5}, None, "levels=1.5"),
        ({"levels": 2, "padding": 0.5}, None, "wider than its patches"),
        ({"padding": "wide"}, None, "padding"),
        ({"rank": 0.0}, None, "rank=0.0"),
        ({"n_modes": (8,)}, None, "one number of modes for each axis"),
        ({"positional_embedding": "sines"}, None, "positional_embedding='sines'"),
        ({"domain": Domain.box(1.0, 1.0, points="node")}, None, "mirrors at walls"),
        ({"levels": 2}, (34, 32), "34 samples on axis x for 4 patches"),
        ({"levels": 1}, (20, 32), "2.5 of its 20 samples"),
        ({"levels": 1}, (16,), "expected"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_sentence(options, shape, message):
    with pytest.raises(ValueError, match=message):
        model = mgtfno(**options)
        model(torch.zeros(1, 2, *shape))


def test_the_example_reaches_its_error():
    numbers = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "mg_tfno.py"))
    assert 1e-3 < numbers["main"]() < 0.07  # a TFNO of the whole field: .057
