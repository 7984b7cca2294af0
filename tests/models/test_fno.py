"""FNO and FFNO: options, the resolution contract through output_shape, conditioning, compile, export, precision, two processes."""

import socket
import warnings

import pytest
import torch
import torch.multiprocessing as mp
from helpers import band_limited, fake_cuda

from opkernels import Axis, Domain, certify
from opkernels.models import FFNO, FNO
from opkernels.models.backbone import Block, OperatorBlock
from opkernels.resample import resample

TORUS = Domain.periodic(6.0, 3.0)
BOX = Domain.box(1.0, 2.0)
SMALL = {"hidden_channels": 8, "n_layers": 2}
MODELS = [FNO, FFNO]


def built(model=FNO, domain=TORUS, i=2, o=3, **options):
    torch.manual_seed(0)
    return model(domain, i, o, **{"n_modes": (8, 7, 6)[: domain.ndim], **SMALL, **options})


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("domain, shape", [(Domain.periodic(1.0), (17,)), (BOX, (12, 15)), (Domain.periodic(1.0, 2.0, 1.0), (8, 9, 10))])
def test_every_parameter_is_used(model, domain, shape):
    net, x = built(model, domain, n_parameters=2), torch.randn(3, 2, *shape)
    parameters = torch.rand(3, 2)
    y = net(x, parameters=parameters)
    assert y.shape == (3, 3, *shape) and y.is_contiguous()
    y.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.norm() > 0, name
        with torch.no_grad():
            kept = p.clone()
            p.fill_(0 if p.any() else 1)
            assert not torch.allclose(net(x, parameters=parameters), y, rtol=0, atol=1e-7), name
            p.copy_(kept)


OPTIONS = [
    {"activation": name} for name in ("silu", "tanh", "sin", "relu")
] + [
    {"norm": "instance_norm"},
    {"norm": "group_norm"},
    {"norm": "group_norm", "block": Block(preactivation=True)},
    {"positional_embedding": "harmonics"},
    {"positional_embedding": "ramps"},
    {"positional_embedding": None},
    {"lifting_channel_ratio": 0, "projection_channel_ratio": 0},
    {"block": {"channel_mlp_expansion": 0}},
    *({"block": Block(fno_skip=a, channel_mlp_skip=b)} for a, b in [("soft-gating", "linear"), ("identity", None), (None, "identity")]),
    {"block": Block(preactivation=True, fno_skip=None)},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_runs_and_changes_the_output(options):
    x = band_limited((24, 20), channels=2)
    y, plain = (net.double()(x) for net in (built(**options), built()))
    assert y.shape == (1, 3, 24, 20) and y.isfinite().all()
    if options != {"positional_embedding": None}:  # the default on periodic axes
        assert (y - plain).norm() > 1e-3 * plain.norm()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(48, 48), (64, 96), (65, 63), (128, 96)])
def test_output_shape_is_the_same_function_elsewhere(model, shape):
    """Running on another grid, or asking for it, gives the same samples (1e-7: the contract at 64 and odd sizes)."""
    net = built(model, n_modes=(12, 12)).double()
    x = band_limited((64, 64), channels=2)
    y = net(x, output_shape=shape)
    there = net(band_limited(shape, channels=2))
    tolerance = 1e-7 if min(shape) > 60 else 1e-5
    assert (y - there).norm() < tolerance * there.norm()
    assert there.std() > 1e-3


def test_another_domain_of_the_same_kind_is_taken():
    net = built()
    x = torch.randn(1, 2, 16, 20)
    other = Domain.periodic(1.0, 1.0).grid(16, 20)
    torch.testing.assert_close(net(x, grid=other), net(x))  # the lengths do not enter a periodic FNO
    with pytest.raises(ValueError, match="the same periodic axes"):
        net(x, grid=BOX.grid(16, 20))
    with pytest.raises(ValueError, match="give the grid of x"):
        net(x, grid=TORUS.grid(16, 16))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n", [24, 25])
def test_commutes_with_translations_unless_positions_are_given(model, n):
    x, shift = torch.randn(2, 2, n, n - 4, dtype=torch.float64), (5, -3)

    def defect(net):
        return (net.double()(x.roll(shift, (2, 3))) - net(x).roll(shift, (2, 3))).norm() / net(x).norm()

    assert defect(built(model)) < 1e-13
    assert defect(built(model, positional_embedding="harmonics")) > 1e-3


def test_parameters_scale_and_shift_per_sample():
    net = built(n_parameters=1).double()
    x = band_limited((16, 16), channels=2).expand(3, -1, -1, -1)
    p = torch.tensor([[0.1], [0.5], [0.1]], dtype=torch.float64)
    y = net(x, parameters=p)
    torch.testing.assert_close(y[0], y[2])
    assert (y[0] - y[1]).norm() > 1e-3 * y[0].norm()
    torch.testing.assert_close(net(x[1:2], parameters=p[1:2]), y[1:2])


def test_a_block_is_multiplied_by_one_plus_the_scale():
    options = Block(fno_skip=None, channel_mlp_expansion=0)
    block = OperatorBlock(torch.nn.Identity(), 2, options, norm=None, activation="gelu", n_embedding=1, last=True)
    block.conv.forward = lambda x, grid: x
    with torch.no_grad():
        block.film.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
        block.film.bias.zero_()
    x = torch.ones(2, 2, 4)
    y = block(x, Domain.periodic(1.0).grid(4), torch.tensor([[1.0], [10.0]]))
    assert y[:, :, 0].tolist() == [[2 + 3, 3 + 4], [11 + 30, 21 + 40]]


@pytest.mark.parametrize("points", ["node", "cell"])
def test_padding_makes_a_box_converge(points):
    """Without, the jump at the wall leaves an error of first or second order."""
    domain = Domain.box(1.0, 2.0, points=points)

    def field(grid):
        x, y = grid.coordinates(dtype=torch.float64)
        return torch.stack([torch.sin(2 * x + 1) * torch.exp(-y), x * y])[None]

    def errors(net):
        fine, out = domain.grid(192, 192), []
        reference = net(field(fine))
        for n in (32, 33, 64):
            wanted = resample(reference, fine, (n, n))
            out.append(((net(field(domain.grid(n, n))) - wanted).norm() / wanted.norm()).item())
        return out

    padded, plain = (errors(built(domain=domain, domain_padding=p).double()) for p in ((0.25, 0.5), 0))
    assert max(padded) < 1e-5 and padded[2] < padded[0] / 8
    assert all(p < q / 3 for p, q in zip(padded, plain, strict=True))


def test_refuses_what_does_not_fit():
    x = torch.zeros(1, 2, 16, 16)
    for call, message in [
        (lambda: built(n_modes=(8,)), "one number of modes for each axis"),
        (lambda: built(n_modes=(8, 0)), "at least 1 per axis"),
        (lambda: built(i=0), "in_channels=0; give 1 or more"),
        (lambda: built(n_layers=0), "n_layers=0; give 1 or more"),
        (lambda: built(n_parameters=-1), "n_parameters=-1; give 0 or more"),
        (lambda: built(activation="gelo"), "choose one of gelu"),
        (lambda: built(norm="batch_norm"), "choose instance_norm, group_norm or None"),
        (lambda: built(positional_embedding="grid"), "choose walls, harmonics, ramps or None"),
        (lambda: built(block={"skip": "linear"}), "block options skip; choose from fno_skip"),
        (lambda: built(block=Block(fno_skip="conv")), "choose linear, soft-gating, identity or None"),
        (lambda: built(domain=Domain.box(1.0, 1.0, points="endpoint")), 'points="endpoint"'),
        (lambda: built()(x[:, :1]), "got 1 channels in x of shape"),
        (lambda: built()(x[0]), "on a 2-D domain; expected \\(batch, channels, x, y\\)"),
        (lambda: built()(x, parameters=torch.zeros(1, 1)), "expected None \\(batch, n_parameters\\)"),
        (lambda: built(n_parameters=2)(x), "got parameters of shape None; expected \\(1, 2\\)"),
        (lambda: built(FFNO, n_modes=(8,)), "one number of modes for each axis"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_state_dict_is_real_and_round_trips():
    net, other = built(), built(activation="gelu")
    assert all(not v.is_complex() for v in net.state_dict().values())
    with torch.no_grad():
        for p in net.parameters():
            p.normal_()
    other.load_state_dict(net.state_dict())
    x = torch.randn(1, 2, 12, 12)
    torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize("model", MODELS)
def test_predict_then_fit(model):
    """Tables made under inference mode must serve training."""
    net = built(model, domain=Domain((Axis(0, 1.25), Axis(0, 1.75, periodic=True, points="node"))), domain_padding=(0.3125, 0))
    x = torch.randn(2, 2, 20, 22)
    with torch.inference_mode():
        first = net(x)
    second = net(x)
    second.sum().backward()
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("model", MODELS)
def test_trains_under_bf16_autocast(model):
    net, x = built(model, i=1, o=1), band_limited((16, 16), batch=4, k_max=2, dtype=torch.float32)
    optimizer, losses = torch.optim.AdamW(net.parameters(), 1e-2), []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (net(x).float() - x.roll(1, 2)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("model", MODELS)
def test_runs_on_fake_cuda(model):
    with fake_cuda():
        net = built(model, domain=BOX, n_parameters=2, domain_padding=0.25)
        assert net(torch.randn(2, 2, 16, 15), parameters=torch.randn(2, 2)).device.type == "cuda"


@pytest.mark.parametrize("model", MODELS)
def test_exports_with_dynamic_batch_and_shape(model):
    from torch.export import Dim, export

    net = built(model, n_layers=1)
    sizes = {0: Dim("batch", min=1, max=64), 2: Dim("height", min=4, max=512), 3: Dim("width", min=4, max=512)}
    program = export(net, (torch.randn(2, 2, 32, 24),), dynamic_shapes=(sizes,))
    for shape in ((1, 2, 32, 24), (3, 2, 33, 65), (2, 2, 6, 5)):  # the last below n_modes
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), net(x), rtol=0, atol=1e-5)


SHAPES = ((2, 2, 16, 24), (3, 2, 20, 20), (4, 2, 15, 33))  # a batch of one would be a program of its own


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script_method")  # inductor's own
        yield torch.compile
    torch._dynamo.reset()


def test_traces_in_one_graph_at_three_shapes_with_the_same_gradients(compiler):
    from torch._dynamo.testing import CompileCounterWithBackend

    net, counter = built(n_layers=1), CompileCounterWithBackend("aot_eager")
    compiled = compiler(net, fullgraph=True, backend=counter)
    for shape in SHAPES:
        x = torch.randn(shape)
        got, wanted = (torch.autograd.grad(f(x).square().sum(), list(net.parameters())) for f in (compiled, net))
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert counter.frame_count == 2, "the program of the second shape serves all"


def test_padded_models_trace_in_one_graph(compiler):
    net = built(domain=Domain.box(1.0), domain_padding=0.25, n_layers=1)
    compiled = compiler(net, fullgraph=True, backend="eager")
    for n in (16, 24, 33):
        x = torch.randn(1, 2, n)
        torch.testing.assert_close(compiled(x), net(x), rtol=0, atol=1e-5)


def test_padded_models_export_with_dynamic_shape():
    net = built(domain=BOX, domain_padding=(0.25, 0.5), n_layers=1)
    program = torch.export.export(net, (torch.randn(2, 2, 16, 24),), dynamic_shapes=({2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},))
    for shape in ((16, 24), (33, 17), (50, 64)):
        x = torch.randn(2, 2, *shape)
        torch.testing.assert_close(program.module()(x), net(x), rtol=0, atol=1e-5)


def test_many_modes_compile_and_export(compiler):
    """In a program the FFT's rows would fix the sizes; products serve all."""
    net = built(domain=Domain.periodic(1.0), n_modes=(160,), n_layers=1, hidden_channels=4)
    program = torch.export.export(net, (torch.randn(1, 2, 256),), dynamic_shapes=({2: torch.export.Dim("n", min=4, max=2048)},))
    compiled = compiler(net, fullgraph=True, backend="eager")
    for n in (256, 100, 301):
        x = torch.randn(1, 2, n)
        torch.testing.assert_close(program.module()(x), net(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(compiled(x), net(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "ndim, seeds, n_layers",
    [(1, 3, 4), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(1, 12, 4), (1, 12, 8), (2, 4, 4), (2, 4, 8)])],
)
def test_a_fresh_model_meets_the_contract_whatever_the_seed(ndim, seeds, n_layers):
    domain = Domain.periodic(*[1.0] * ndim)
    for seed in range(seeds):
        torch.manual_seed(seed)
        net = FNO(domain, 1, 1, n_modes=((16,), (12, 12))[ndim - 1], hidden_channels=(32, 16)[ndim - 1], n_layers=n_layers)
        with torch.no_grad():
            y = net(band_limited((64, 63)[:ndim], dtype=torch.float32))
        assert y.std() > 0.3 * y.mean().abs()  # random biases made it .001
        for dtype in (torch.float64, torch.float32):
            report = certify(net, domain, 1, dtype=dtype, shapes=[(64, 65)[:ndim]])
            assert report.passed, (seed, report.table())


@pytest.mark.slow
def test_compiles_at_three_shapes(compiler):
    net = built(n_layers=1)
    compiled = compiler(net, fullgraph=True)
    for shape in SHAPES:
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), net(x), rtol=0, atol=1e-5)


def _train(rank, world, port, queue):
    torch.set_num_threads(1)
    net, x = built(i=1, o=1), torch.arange(4 * 8 * 9, dtype=torch.float32).sin().view(4, 1, 8, 9)
    if world > 1:
        store = torch.distributed.TCPStore("127.0.0.1", port, world, rank == 0)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
        module = torch.nn.parallel.DistributedDataParallel(net)
    else:
        module = net
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    mine = x[rank::world]
    for _ in range(3):
        optimizer.zero_grad()
        (module(mine) - mine.roll(1, 2)).square().mean().backward()
        optimizer.step()
    if rank == 0:
        queue.put({name: p.detach().numpy() for name, p in net.named_parameters()})
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one():
    context = mp.get_context("spawn")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    results = []
    for world in (1, 2):
        queue = context.SimpleQueue()
        processes = [context.Process(target=_train, args=(rank, world, port, queue)) for rank in range(world)]
        for process in processes:
            process.start()
        results.append(queue.get())
        for process in processes:
            process.join()
            assert process.exitcode == 0
    for name, value in results[0].items():
        torch.testing.assert_close(torch.from_numpy(results[1][name]), torch.from_numpy(value), rtol=0, atol=1e-5, msg=name)
