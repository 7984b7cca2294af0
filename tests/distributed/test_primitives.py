"""Blocks, halos, pencil transforms and reductions of split fields, on 1, 2 and 4 processes: equal to the same on the whole field."""

import itertools

import pytest
import torch
import torch.distributed as dist
from processes import WORLDS, names, run, same, splits, whole

from opkernels import Domain
from opkernels.distributed import PencilFourier, Split, gather, process_mesh, scatter, traffic
from opkernels.distributed.collectives import exchange, gathered
from opkernels.distributed.halo import block_sizes, folded, moved
from opkernels.losses import l1, mse, rel_h1, rel_l2
from opkernels.transforms import Fourier, Modes


@pytest.mark.parametrize("name", names(__file__))
@pytest.mark.parametrize("world", WORLDS)  # the slow one: checks of one start stay together where tests are dealt out
def test_on_processes(world, name):
    outcome = run(__file__, world)
    assert name in outcome, f"not reached; {[text for text in outcome.values() if text]}"
    assert outcome[name] is None, outcome[name]


def grids(world):
    """Split grids of one to three axes, odd and anisotropic, periodic and with walls."""
    for shape in ((13,), (9, 14), (5, 8, 9), (6, 5, 4)):
        for domain in (Domain.periodic(*range(1, len(shape) + 1)), Domain.box(*range(1, len(shape) + 1))):
            for split in splits(world, len(shape)):
                yield split.grid(domain.grid(shape))


def field(grid, channels=2, batch=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *grid.shape, generator=generator, dtype=torch.float64).to(dtype)


def check_scatter_and_gather(rank, world):
    for grid in grids(world):
        x = field(grid).requires_grad_()
        block = scatter(x, grid)
        assert tuple(block.shape[2:]) == grid.sizes
        same(gather(block, grid), x)
        weight = field(grid, seed=1)
        (gather(block.square(), grid) * weight).sum().backward()
        same(x.grad, 2 * x.detach() * weight)  # once, not once per process
        same(grid.coordinates(dtype=torch.float64), scatter(whole(grid).coordinates(dtype=torch.float64), grid))
        same(grid.weights(dtype=torch.float64), scatter(whole(grid).weights(dtype=torch.float64), grid))


def padded(x, widths, domain):
    """The whole field with its halo: wrapped on periodic axes, nothing beyond walls."""
    for a, (axis, width) in enumerate(zip(domain.axes, widths, strict=False)):
        n = x.shape[a + 2]
        index = torch.arange(-width, n + width)
        index = index % n if axis.periodic else index[(index >= 0) & (index < n)]
        x = x.index_select(a + 2, index)
    return x


def check_halo_is_a_window_of_the_whole(rank, world):
    """Corners included, wider than a block, and around more than one period."""
    for grid in grids(world):
        d, domain = grid.ndim, grid.domain
        for width in (1, 3, 7):
            x = field(grid).requires_grad_()
            y = scatter(x, grid)
            expected = padded(x, [width] * d if grid.split.size > 1 else [0] * d, domain)
            if grid.split.size == 1:
                continue
            for a, (axis, n) in enumerate(zip(domain.axes, grid.shape, strict=True)):
                if axis.periodic and width > n and a not in [part.axis for part in grid.split.parts]:
                    y = padded(y, [0] * a + [width], domain)  # not a matter of processes
                else:
                    y = grid.split.surrounded(y, a, width, n, periodic=axis.periodic)
            for part in grid.split.parts:
                first, held = part.block(grid.shape[part.axis])
                low = 0 if domain.axes[part.axis].periodic else max(first - width, 0)
                start = first if domain.axes[part.axis].periodic else low
                stop = first + held + (2 * width if domain.axes[part.axis].periodic else 0)
                if not domain.axes[part.axis].periodic:
                    stop = min(first + held + width, grid.shape[part.axis])
                expected = expected.narrow(part.axis + 2, start, stop - start)
            same(y, expected)


def check_gradient_of_halo(rank, world):
    """The adjoint: <halo(x), y> = <x, halo'(y)>, and `folded` is it."""
    mesh = process_mesh(domain=world)
    for periodic, n, width in itertools.product((True, False), (9, 4), (1, 2, 5)):
        if world == 1:
            break
        (part,) = Split(mesh).parts
        low, held = part.block(n)
        x = torch.randn(2, 3, n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))[
            :, :, low : low + held
        ].requires_grad_()
        y = Split(mesh).surrounded(x, 0, width, n, periodic=periodic)
        g = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
        (adjoint,) = torch.autograd.grad(y, x, g)
        same(folded(g, 2, width, n, part, periodic=periodic), adjoint)
        products = torch.stack([(y.detach() * g).sum(), (x.detach() * adjoint).sum()])
        dist.all_reduce(products)
        assert abs(products[0] - products[1]) < 1e-12 * abs(products[0]) + 1e-12


def together(y, dim, split):
    """The blocks of all processes along one dimension, of any sizes; its gradient is one, as that of a loss."""
    for part in split.parts:
        sizes = split.joined(torch.tensor(float(y.shape[dim]))).int().tolist()
        y = gathered(y, dim, sizes, part.group)
    return y


def check_gradcheck(rank, world):
    """torch.autograd.gradcheck of halo, sums and pencils: whole in, blocks between, whole out, so that Jacobians are those of the whole."""
    split = Split(process_mesh(domain=world))
    for domain, n, width in ((Domain.periodic(1.0), 5, 3), (Domain.box(1.0), 9, 1)):
        grid, periodic = split.grid(domain.grid(n)), domain.axes[0].periodic

        def halo(u, grid=grid, width=width, n=n, periodic=periodic):
            y = split.surrounded(scatter(u, grid), 0, width, n, periodic=periodic)
            back = split.folded(y.square(), 0, width, n, periodic=periodic)
            return together(y, 2, split), gather(back, grid)

        assert torch.autograd.gradcheck(halo, field(grid, channels=1, batch=1).requires_grad_())
    grid, modes = split.grid(Domain.periodic(1.0, 1.0).grid(5, 7)), Modes.symmetric((3, 7))

    def pencils(u):
        z = PencilFourier(modes).analyze(scatter(u, grid), grid)
        return together(z, 3, split), gather(PencilFourier(modes).synthesize(z, grid), grid)

    def others(u):
        block = scatter(u, grid)
        y = Fourier(modes).synthesize(Fourier(modes).analyze(block, grid), grid)
        return gather(y + split.irfftn(split.rfftn(block, grid.shape).square(), grid.shape), grid)

    x = field(grid, channels=1, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(pencils, x)
    if world < 4:
        assert torch.autograd.gradcheck(others, x)


def check_coefficients_are_those_of_the_whole(rank, world):
    """By matrix products and by FFT, and in pencils."""
    for grid in grids(world):
        d = grid.ndim
        for dtype in (torch.float64, torch.float32):
            x, modes = field(grid, dtype=dtype), Modes.symmetric((7, 8, 7)[:d])
            fourier = Fourier(modes)
            expected = fourier.analyze(x, whole(grid))
            back = scatter(fourier.synthesize(expected, whole(grid)), grid)
            same(fourier.analyze(scatter(x, grid), grid), expected, dtype)
            same(grid.split.total(fourier._analyze_fft(scatter(x, grid), grid)), expected, dtype)
            same(fourier.synthesize(expected, grid), back, dtype)
            same(fourier._synthesize_fft(expected, grid, True), back, dtype)
            axes = [part.axis for part in grid.split.parts] if world > 1 else [0]
            if d > 1 and len(axes) == 1 and axes[0] < d - 1:
                share = grid.split.parts[0].narrow(expected, d + 1) if world > 1 else expected
                same(PencilFourier(modes).analyze(scatter(x, grid), grid), share, dtype)
                same(PencilFourier(modes).synthesize(share, grid), back, dtype)
            elif world > 1:
                with pytest.raises(ValueError, match="not the last"):
                    PencilFourier(modes).analyze(scatter(x, grid), grid)


def check_gradients_of_pencils(rank, world):
    for shape in ((9, 14), (5, 8, 9)):
        grid = Split(process_mesh(domain=world)).grid(Domain.periodic(*[1.0] * len(shape)).grid(shape))
        modes = Modes.symmetric((5, 7, 7)[: len(shape)])
        x = field(grid).requires_grad_()
        z = Fourier(modes).analyze(x, whole(grid))
        y = Fourier(modes).synthesize(z.tanh(), whole(grid))
        (expected,) = torch.autograd.grad((y * field(grid, seed=1)).sum(), x)
        block = scatter(x.detach(), grid).requires_grad_()
        y = PencilFourier(modes).synthesize(PencilFourier(modes).analyze(block, grid).tanh(), grid)
        (gradient,) = torch.autograd.grad((y * scatter(field(grid, seed=1), grid)).sum(), block)
        same(gradient, scatter(expected, grid))


def check_whole_spectrum(rank, world):
    for grid in grids(world):
        d, shape = grid.ndim, grid.shape
        x = field(grid)
        if any(part.axis == d - 1 and shape[-1] // 2 + 1 < part.size for part in grid.split.parts):
            with pytest.raises(ValueError, match="3 wave numbers of the last axis for 4 processes"):
                grid.split.rfftn(scatter(x, grid), shape)
            continue
        z = torch.fft.rfftn(x, dim=tuple(range(-d, 0)))
        mine = grid.split.rfftn(scatter(x, grid), shape)
        same(torch.view_as_real(mine), torch.view_as_real(grid.split.wave_cut(z, shape)))
        same(grid.split.irfftn(mine, shape), scatter(x, grid))


def check_moved_there_and_back(rank, world):
    if world == 1:
        return
    (part,) = Split(process_mesh(domain=world)).parts
    for n, m in ((9, 5), (4, 1), (13, 8)):  # blocks of no samples too
        x = torch.randn(2, m, n, 3, generator=torch.Generator().manual_seed(0))
        turned = moved(part.narrow(x, 2), 2, 1, n, part)
        same(turned, part.narrow(x, 1), torch.float32)
        same(moved(turned, 1, 2, m, part), part.narrow(x, 2), torch.float32)


def check_losses(rank, world):
    """One number on all processes, and the gradient of one process."""
    for grid in grids(world):
        for loss, dtype in itertools.product((rel_l2, rel_h1, mse, l1), (torch.float64, torch.float32)):
            p, r = field(grid, seed=0, dtype=dtype).requires_grad_(), field(grid, seed=1, dtype=dtype)
            expected = loss(p, r, whole(grid))
            (gradient,) = torch.autograd.grad(expected, p)
            block = scatter(p.detach(), grid).requires_grad_()
            value = loss(block, scatter(r, grid), grid)
            (mine,) = torch.autograd.grad(value, block)
            same(value, expected, dtype)
            same(mine, scatter(gradient, grid), dtype)
            if grid.split.size > 1:
                bits = grid.split.joined(value.detach())
                assert bool((bits == bits[0]).all())
    zero = scatter(torch.zeros(1, 1, *grid.shape), grid).requires_grad_()
    rel_l2(zero, zero.detach(), grid).backward()
    assert bool((zero.grad == 0).all())


def check_traffic_of_the_primitives(rank, world):
    """Bytes handed over by a process, from the formulas."""
    n, m, shape = 16, 9, (16, 12)
    grid = Split(process_mesh(domain=world)).grid(Domain.periodic(1.0, 1.0).grid(shape))
    x = field(grid, channels=3, dtype=torch.float32)
    modes = Modes.symmetric((5, m))
    with traffic() as sent:
        PencilFourier(modes).analyze(scatter(x, grid), grid)
    share = block_sizes(modes.shape[-1], world)[rank]
    assert sent["exchange"] == 8 * 2 * 3 * (n // world) * (modes.shape[-1] - share)
    with traffic() as sent:
        Fourier(modes).analyze(scatter(x, grid), grid)
    assert sent["total"] == (4 * 2 * 3 * 2 * 5 * modes.shape[-1] if world > 1 else 0)
    if world > 1:
        with traffic() as sent:
            grid.split.surrounded(scatter(x, grid), 0, 2, n, periodic=True)
        assert sent["exchange"] == 4 * 2 * 3 * 12 * 2 * 2


def check_refusals(rank, world):
    mesh = process_mesh(domain=world)
    for wrong in ({"domain": world + 1}, {"data": world + 1}, {"domain": 0}, {"domain": -world}, {"data": -1, "domain": -world}):
        with pytest.raises(ValueError, match=f"for {world} processes; their product must be the number of processes"):
            process_mesh(**wrong)
    with pytest.raises(ValueError, match="name each once"):
        Split(mesh, ("rows",))
    with pytest.raises(ValueError, match="name each once"):
        Split(mesh, ("domain", "domain"))
    with pytest.raises(ValueError, match="split of 3 axes for a 2-D grid"):
        Split(mesh, (None, None, "domain")).grid(Domain.periodic(1.0, 1.0).grid(8, 8))
    if world == 4:
        with pytest.raises(ValueError, match="3 samples for 4 processes; use fewer processes"):
            Split(mesh).grid(Domain.periodic(1.0, 1.0).grid(3, 8))
        with pytest.raises(ValueError, match="2 wave numbers of the last axis for 4 processes"):
            PencilFourier(Modes.symmetric((3, 3))).analyze(torch.zeros(1, 1, 2, 8), Split(mesh).grid(Domain.periodic(1.0, 1.0).grid(8, 8)))
    grid = Split(mesh).grid(Domain.periodic(1.0, 1.0).grid(9, 8))
    with pytest.raises(ValueError, match="scatter got a field of shape"):
        scatter(torch.zeros(1, 1, 8, 8), grid)
    with pytest.raises(ValueError, match="gather got a block of shape"):
        gather(torch.zeros(1, 1, 9, 9), grid)


def check_exchange_of_nothing(rank, world):
    sent = [0] * world
    sent[0] = 2
    came = exchange(torch.full((2,), float(rank)), sent, [2 if rank == 0 else 0] * world, process_mesh(domain=world).get_group("domain"))
    assert came.tolist() == ([float(r) for r in range(world) for _ in range(2)] if rank == 0 else [])


def test_blocks_cover_the_axis():
    for n, size in itertools.product(range(1, 40), range(1, 9)):
        sizes = block_sizes(n, size)
        assert sum(sizes) == n and max(sizes) - min(sizes) <= 1
