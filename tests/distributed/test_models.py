"""Models on split fields, on 1, 2 and 4 processes: outputs, losses and all gradients of one process, from the same weights."""

import itertools
import runpy
from pathlib import Path

import pytest
import torch
from processes import WORLDS, names, run, same, splits, whole

from opkernels import Domain, Grid, energy_spectrum, rel_h1, rel_l2, resample
from opkernels.distributed import Split, gather, process_mesh, scatter, sum_gradients, traffic
from opkernels.domains import _cache
from opkernels.layers import DifferentialConv, LocalIntegralConv
from opkernels.layers.kernels import PolarHats
from opkernels.layers.multigrid import Patches
from opkernels.models import FFNO, FNO, MGTFNO, T1, TFNO, FactFormer, LocalNO, UNet

TORI = {1: Domain.periodic(1.0), 2: Domain.periodic(1.0, 2.0), 3: Domain.periodic(1.0, 2.0, 1.5)}
BOXES = {1: Domain.box(1.0), 2: Domain.box(1.0, 2.0), 3: Domain.box(1.0, 2.0, 1.5)}
SHAPES = {1: (37,), 2: (21, 26), 3: (9, 11, 10)}  # odd and anisotropic; nothing divides
SMALL: dict = {"hidden_channels": 4, "n_layers": 2}


@pytest.mark.parametrize("name", names(__file__))
@pytest.mark.parametrize("world", WORLDS)  # the slow one: checks of one start stay together where tests are dealt out
def test_on_processes(world, name):
    outcome = run(__file__, world)
    assert name in outcome, f"not reached; {[text for text in outcome.values() if text]}"
    assert outcome[name] is None, outcome[name]


def fields(grid, model, dtype):
    generator = torch.Generator().manual_seed(1)
    sizes = [(2, channels, *grid.shape) for channels in (model.in_channels, model.out_channels)]
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


def agrees(build, domain, shape, split, dtype=torch.float64, loss=rel_l2, output_shape=None, **inputs):
    """The model on a split field is the model on the whole: output, loss, gradients of the input and of every parameter."""
    torch.manual_seed(0)
    model = build().to(dtype)
    grid = split.grid(domain.grid(shape))
    x, _ = fields(grid, model, dtype)
    target = (grid if output_shape is None else grid.with_shape(output_shape)) if split.size else grid
    truth = fields(target, model, dtype)[1]
    options = {} if output_shape is None else {"output_shape": output_shape}

    alone = x.clone().requires_grad_()
    y = model(alone, grid=whole(grid), **options, **inputs)
    expected = loss(y, truth, whole(target))
    gradient, *gradients = torch.autograd.grad(expected, [alone, *model.parameters()], allow_unused=True)

    block = scatter(x, grid).requires_grad_()
    mine = model(block, grid=grid, **options, **inputs)
    value = loss(mine, scatter(truth, target), target)
    value.backward()
    sum_gradients(model.parameters(), split)

    same(mine, scatter(y.detach(), target), dtype)
    same(gather(mine, target), y, dtype)
    same(value, expected, dtype)
    same(block.grad, scatter(gradient, grid), dtype)
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        if gradient is not None:
            same(p.grad, gradient, dtype)


def in_all_dimensions(world, build, domains, *, dims=(1, 2, 3), shapes=SHAPES, **options):
    for d in dims:
        for split in splits(world, d):
            agrees(lambda d=d: build(domains[d], (5, 7, 4)[:d]), domains[d], shapes[d], split, **options)


def check_fno(rank, world):
    def build(domain, n_modes):
        return FNO(domain, 2, 1, n_modes=n_modes, **SMALL)

    in_all_dimensions(world, build, TORI)
    in_all_dimensions(world, build, TORI, dtype=torch.float32)
    in_all_dimensions(world, build, BOXES, dims=(2,), loss=rel_h1)


def check_fno_options(rank, world):
    """Norms, positions, padding beyond walls, parameters, another output grid, neuraloperator's modes."""
    parameters = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def build(domain, n_modes):
        return FNO(domain, 2, 1, n_modes=n_modes, norm="group_norm", positional_embedding="harmonics", n_parameters=3, **SMALL)

    in_all_dimensions(world, build, TORI, dims=(2,), parameters=parameters)

    def padded(domain, n_modes):
        return FNO(domain, 2, 1, n_modes=n_modes, norm="instance_norm", domain_padding=[a.length / 4 for a in domain.axes], **SMALL)

    in_all_dimensions(world, padded, BOXES, dims=(1, 2))

    def other_rule(domain, n_modes):
        return FNO(domain, 2, 1, n_modes=n_modes, mode_rule="neuraloperator", **SMALL)

    in_all_dimensions(world, other_rule, TORI, dims=(2,), output_shape=(16, 31))


def check_tfno_and_ffno(rank, world):
    kinds: list[dict] = [{"rank": 0.3}, {"rank": 0.3, "factorization": "cp", "joint": True}]
    for options in kinds:
        in_all_dimensions(world, lambda dom, m, o=options: TFNO(dom, 2, 1, n_modes=m, **SMALL, **o), TORI, dims=(2,))
    in_all_dimensions(world, lambda dom, m: FFNO(dom, 2, 1, n_modes=m, **SMALL), TORI, dims=(2, 3))


def check_local_no(rank, world):
    """Exact branches in pencils on periodic axes; stencils and halos between walls and, in one dimension less, with nodal sums."""

    def build(domain, n_modes):
        return LocalNO(domain, 2, 1, n_modes=n_modes, **SMALL)

    in_all_dimensions(world, build, TORI)
    in_all_dimensions(world, build, TORI, dims=(2,), dtype=torch.float32)
    in_all_dimensions(world, build, BOXES, shapes={1: (37,), 2: (25, 26), 3: (21, 20, 22)}, dims=(1, 2))


def check_local_layers(rank, world):
    """Stencils of every kind of axis and order; sums whose radius is wider than a block."""
    for points, periodic in (("node", True), ("cell", True), ("cell", False), ("endpoint", False)):
        for d, shape in ((1, (29,)), (2, (26, 27))):
            axes = [type(a)(a.lower, a.upper, periodic=periodic, points=points, name=a.name) for a in TORI[d].axes]
            domain = Domain(tuple(axes))
            for split in splits(world, d):
                grid = split.grid(domain.grid(shape))
                x = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
                layers = [DifferentialConv(3, 2, d, length=0.1, order=2, accuracy=p) for p in (2, 4)]
                radii = (0.11, 0.4) if d == 1 else (0.15,)
                layers += [LocalIntegralConv(3, 2, PolarHats(2, 2, d), radius=r, quadrature="nodal") for r in radii]
                for layer in layers:
                    for p in layer.parameters():
                        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
                    layer = layer.double()
                    block, alone = scatter(x, grid).clone().requires_grad_(), x.clone().requires_grad_()
                    expected, mine = layer(alone, whole(grid)), layer(block, grid)
                    same(mine, scatter(expected.detach(), grid))
                    (gradient,) = torch.autograd.grad(expected.square().sum(), alone)
                    (own,) = torch.autograd.grad(mine.square().sum(), block)
                    same(own, scatter(gradient, grid))


def check_mg_tfno(rank, world):
    def build(domain, n_modes):
        padding = [axis.length / 8 for axis in domain.axes]
        return MGTFNO(domain, 2, 1, n_modes=n_modes, levels=2 if world == 4 else 1, padding=padding, hidden_channels=3, n_layers=1)

    shapes = {1: (40,), 2: (16, 24), 3: (8, 16, 8)}
    for domains, dims in ((TORI, (1, 2)), (BOXES, (2,) if world < 4 else (1,)), (TORI, (3,) if world == 2 else ())):
        in_all_dimensions(world, build, domains, dims=dims, shapes=shapes)


def check_compiled(rank, world):
    """What lies between two messages, where pencils and halos send real and complex numbers."""
    if world != 2:
        return
    grid = Split(process_mesh(domain=world)).grid(TORI[1].grid(20))
    model = LocalNO(TORI[1], 1, 1, n_modes=(5,), hidden_channels=3, n_layers=1).double()
    x = scatter(torch.randn(1, 1, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), grid).requires_grad_()
    y, z = model(x, grid=grid), torch.compile(model, backend="aot_eager")(x, grid=grid)
    same(z, y)
    same(torch.autograd.grad(z.square().sum(), x)[0], torch.autograd.grad(y.square().sum(), x)[0])


def check_tables_keep_no_process_group(rank, world):
    """Tables are of the whole and outlive a split: a process group that one keeps alive ends after those that need it."""
    held = [key for slot in _cache for key in slot[2] if isinstance(key, Grid)]
    assert held and all(grid.split.size == 1 for grid in held)


def check_refusals(rank, world):
    if world == 1:
        return
    split = Split(process_mesh(domain=world))
    grid = split.grid(TORI[2].grid(16, 16))
    x = torch.zeros(1, 1, *grid.sizes)
    others = [T1(TORI[2], 1, 1, n_modes=(4, 4), **SMALL), UNet(TORI[2], 1, 1, hidden_channels=4)]
    others.append(FactFormer(TORI[2], 1, 1, hidden_channels=8, n_layers=1, n_heads=2))
    for model in others:
        with pytest.raises(ValueError, match=f"field split over {world} processes, which it cannot take; gather the field first"):
            model(x, grid=grid)
    with pytest.raises(ValueError, match="a spectrum got a field split"):
        energy_spectrum(x, grid)
    with pytest.raises(ValueError, match="resample got a block of shape"):
        resample(x[0], grid, (8, 8))
    with pytest.raises(ValueError, match="FNO got x of shape .* with a grid of shape"):
        FNO(TORI[2], 1, 1, n_modes=(4, 4), **SMALL)(torch.zeros(1, 1, 16, 16), grid=grid)
    if world == 4:
        with pytest.raises(ValueError, match="2 patches of axis x for processes that hold 4 of its 16 samples; split"):
            Patches.of(TORI[2], 1).held(grid)
        box = split.grid(BOXES[1].grid(11))
        with pytest.raises(ValueError, match="needs 5 samples"):
            DifferentialConv(1, 1, 1, length=0.1)(torch.zeros(1, 1, *box.sizes), box)


def check_traffic_of_a_step(rank, world):
    """Bytes of a training step of an FNO: one sum of coefficients per block, forward and backward, the loss and the gradients."""
    grid = Split(process_mesh(domain=world)).grid(TORI[2].grid(32, 24))
    model = FNO(TORI[2], 2, 1, n_modes=(8, 8), hidden_channels=4, n_layers=3)
    x, truth = (scatter(u, grid) for u in fields(grid, model, torch.float32))
    with traffic() as sent:
        rel_l2(model(x, grid=grid), truth, grid).backward()
        sum_gradients(model.parameters(), grid.split)
    modes, batch, width, layers = 7 * 4, 2, 4, 3
    expected = 4 * (2 * layers * 2 * batch * width * modes + sum(p.numel() for p in model.parameters()))
    assert sent["total"] == (expected if world > 1 else 0)
    assert sent["joined"] == (4 * 2 * batch if world > 1 else 0) and sent["exchange"] == 0


def check_memory_of_the_field(rank, world):
    """Bytes kept for the backward pass, measured tensor by tensor, are those of one process over the number of processes."""
    model = FNO(TORI[2], 1, 1, n_modes=(6, 6), hidden_channels=8, n_layers=2)

    def kept(x, grid):
        storages = {}

        def pack(t):
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = model(x, grid=grid)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        del y
        return sum(n for at, n in storages.items() if at not in weights)

    grid = Split(process_mesh(domain=world)).grid(TORI[2].grid(128, 128))
    alone = kept(torch.zeros(1, 1, 128, 128), whole(grid))
    ratio = alone / kept(torch.zeros(1, 1, *grid.sizes), grid)
    assert abs(ratio - world) < 0.05 * world, ratio


def check_numbers_of_processes_that_share_a_batch(rank, world):
    """Two by two: each pair has its own samples; sum over the field, mean over the batch."""
    if world != 4:
        return
    mesh = process_mesh(domain=2)
    split = Split(mesh)
    grid = split.grid(TORI[2].grid(21, 26))
    torch.manual_seed(0)
    model = FNO(TORI[2], 2, 1, n_modes=(5, 5), **SMALL).double()
    x, truth = fields(grid, model, torch.float64)
    expected = torch.autograd.grad(rel_l2(model(x), truth), list(model.parameters()))
    own = slice(mesh.get_local_rank("data"), mesh.get_local_rank("data") + 1)
    rel_l2(model(scatter(x[own], grid), grid=grid), scatter(truth[own], grid), grid).backward()
    sum_gradients(model.parameters(), split)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        assert p.grad is not None
        torch.distributed.all_reduce(p.grad, group=mesh.get_group("data"))
        same(p.grad / 2, gradient)


def check_example(rank, world):
    """The same number from any number of processes: 60 steps of Adam in float32 drift by rounding only."""
    if world < 4:
        numbers = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "distributed.py"))
        assert abs(numbers["main"]() - 0.1101) < 1e-3


def check_all_splits_were_tried(rank, world):
    assert len(list(itertools.chain(*(splits(world, d) for d in (1, 2, 3))))) == (6 if world < 4 else 10)
