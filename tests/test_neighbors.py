"""Radius search: equal to brute force in every case, sorted, differentiable, reusable."""

import random

import pytest
import torch

from opkernels import Axis, Domain
from opkernels.neighbors import VerletList, radius_search

BACKENDS = ("torch", "scipy")


def brute_force(x, y, support, periods, batch_x=None, batch_y=None):
    """All displacements (N, M, d) to the nearest image, and which of them are pairs."""
    d = x[:, None] - y[None]
    for a, period in enumerate(periods):
        if period:
            d[..., a] -= period * torch.round(d[..., a] / period)
    pair = d.square().sum(-1) < support**2
    if batch_x is not None:
        pair &= batch_x[:, None] == batch_y[None]
    return d, pair


def matrix(pairs):
    """How often each pair occurs, (N, M)."""
    count = torch.zeros(pairs.n_receivers, pairs.n_senders, dtype=torch.int64)
    return count.index_put_((pairs.row, pairs.col), torch.ones(pairs.n_edges, dtype=torch.int64), accumulate=True)


def assert_compressed(pairs):
    assert pairs.row_ptr[0] == 0
    assert pairs.row_ptr[-1] == pairs.n_edges == len(pairs.row)
    assert (pairs.row.diff() >= 0).all()
    assert torch.equal(torch.arange(pairs.n_receivers).repeat_interleave(pairs.degree), pairs.row)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_brute_force_in_random_cases(backend):
    rng = random.Random(7)
    generator = torch.Generator().manual_seed(7)
    for _ in range(400):
        d, n, m = rng.choice([1, 2, 3]), rng.randint(1, 80), rng.randint(1, 80)
        lengths = [rng.uniform(0.3, 2.3) for _ in range(d)]
        periodic = [rng.random() < 0.5 for _ in range(d)]
        domain = Domain([Axis(-0.3, length - 0.3, periodic=p) for length, p in zip(lengths, periodic, strict=True)])
        support = rng.uniform(0.05, 0.5) * min(lengths)
        same, batched = rng.random() < 0.5, rng.random() < 0.3
        scale = torch.tensor(lengths, dtype=torch.float64)
        x = (torch.rand(n, d, generator=generator, dtype=torch.float64) * 5 - 2) * scale - 0.3  # up to two boxes outside
        x[: n // 8] = x[0].clone()  # coincident points
        x[n // 4 : n // 3, 0] = -0.3  # on the lower face
        x[n // 3 : n // 2, 0] = lengths[0] - 0.3  # on the upper face
        y = x if same else (torch.rand(m, d, generator=generator, dtype=torch.float64) * 5 - 2) * scale
        bx = torch.randint(0, 3, (n,), generator=generator) if batched else None
        by = bx if same else torch.randint(0, 3, (m,), generator=generator) if batched else None
        chunk = rng.choice([200, None])
        pairs = radius_search(
            x,
            None if same else y,
            support=support,
            domain=domain,
            batch=bx,
            batch_y=None if same else by,
            backend=backend,
            chunk=chunk,
        )
        periods = [length if p else 0.0 for length, p in zip(lengths, periodic, strict=True)]
        displacement, expected = brute_force(x, y, support, periods, bx, by)
        assert_compressed(pairs)
        assert torch.equal(matrix(pairs), expected.long())
        found = pairs.displacement(x, None if same else y)
        torch.testing.assert_close(found, displacement[pairs.row, pairs.col], rtol=0, atol=1e-14)


@pytest.mark.parametrize("cells", [(1, 1), (1, 2), (2, 3), (3, 1), (4, 2)])
def test_boxes_of_few_cells(cells):
    """A box narrower than three cells neither repeats nor misses a pair."""
    support = 0.25
    lengths = [max(2 * support, support * n * 1.01) for n in cells]
    domain = Domain.periodic(*lengths)
    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor(lengths, dtype=torch.float64)
    pairs = radius_search(x, support=support, domain=domain, backend="torch")
    assert torch.equal(matrix(pairs), brute_force(x, x, support, lengths)[1].long())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["gather", "scatter", "symmetric"])
@pytest.mark.parametrize("d", [1, 2])
def test_one_support_per_particle(backend, mode, d):
    generator = torch.Generator().manual_seed(1)
    domain = Domain.periodic(*[1.0] * d)
    x = torch.rand(70, d, generator=generator, dtype=torch.float64)
    support = 0.05 + 0.3 * torch.rand(70, generator=generator, dtype=torch.float64)
    d_ij, _ = brute_force(x, x, 1.0, [1.0] * d)
    limit = {"gather": support[:, None], "scatter": support[None], "symmetric": torch.maximum(support[:, None], support[None])}[mode]
    pairs = radius_search(x, support=support, mode=mode, domain=domain, backend=backend)
    assert_compressed(pairs)
    assert torch.equal(matrix(pairs), (d_ij.norm(dim=-1) < limit).long())


@pytest.mark.parametrize("backend", BACKENDS)
def test_crowded_empty_and_single(backend):
    crowd = 0.5 + 1e-3 * torch.rand(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert radius_search(crowd, support=0.1, backend=backend).n_edges == 500**2
    lonely = torch.tensor([[0.0, 0.0], [5.0, 5.0], [9.0, 0.0]])
    far = radius_search(lonely, support=0.5, backend=backend, include_self=False)
    assert far.n_edges == 0
    assert far.row_ptr.tolist() == [0, 0, 0, 0]
    one = radius_search(lonely[:1], support=0.5, backend=backend)
    assert (one.row.tolist(), one.col.tolist()) == ([0], [0])
    nothing = torch.zeros(0, 2)
    assert radius_search(nothing, support=0.5, backend=backend).row_ptr.tolist() == [0]
    assert radius_search(lonely, nothing, support=0.5, backend=backend).degree.tolist() == [0, 0, 0]
    assert radius_search(nothing, lonely, support=0.5, backend=backend).n_senders == 3


def test_an_outlier_does_not_exhaust_the_memory():
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0] = 1e9
    pairs = radius_search(x, support=0.2, backend="torch")
    assert torch.equal(matrix(pairs), brute_force(x, x, 0.2, [0, 0, 0])[1].long())


def test_backends_agree_on_clusters_in_both_precisions():
    generator = torch.Generator().manual_seed(3)
    centers = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    x = centers.repeat_interleave(100, 0) + 0.02 * torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    domain = Domain.periodic(1.0, 1.0)
    tree, cells = (radius_search(x, support=0.03, domain=domain, backend=b) for b in ("scipy", "torch"))
    assert torch.equal(tree.row_ptr, cells.row_ptr)
    assert torch.equal(matrix(tree), matrix(cells))
    single = radius_search(x.float(), support=0.03, domain=domain, backend="torch")
    doubt = (brute_force(x, x, 1.0, [1.0, 1.0])[0].norm(dim=-1) - 0.03).abs() < 1e-6  # rounding decides there
    assert not ((matrix(single) != matrix(cells)) & ~doubt).any()


def test_half_list_and_transpose():
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    domain = Domain([Axis(0, 1, periodic=True), Axis(0, 1)])
    for backend in BACKENDS:
        full = radius_search(x, support=0.2, domain=domain, backend=backend)
        half = radius_search(x, support=0.2, domain=domain, half=True, backend=backend)
        assert torch.equal(matrix(half), matrix(full).triu(1))
        assert_compressed(half)
        assert_compressed(full.transpose())
        assert torch.equal(matrix(full.transpose()), matrix(full))
        assert radius_search(x, support=0.2, domain=domain, include_self=False, backend=backend).n_edges % 2 == 0
    y = x[:40] + 0.01
    assert torch.equal(matrix(radius_search(x, y, support=0.1).transpose()), matrix(radius_search(y, x, support=0.1)))


def test_displacement_is_differentiable_and_periodic():
    domain = Domain([Axis(0, 1, periodic=True), Axis(0, 2)])
    x = torch.rand(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = torch.rand(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    pairs = radius_search(x, y, support=0.5, domain=domain)
    assert pairs.n_edges > 5
    assert torch.autograd.gradcheck(pairs.displacement, (x, y))
    moved = x.detach() + torch.tensor([3.0, 0.0]) * torch.arange(6)[:, None]
    torch.testing.assert_close(pairs.displacement(moved, y.detach()), pairs.displacement(x, y).detach(), rtol=0, atol=1e-13)


def test_sum_over_rows():
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = radius_search(x, support=0.2, include_self=False)
    values = torch.randn(pairs.n_edges, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert (pairs.degree == 0).any()
    expected = torch.zeros(50, 2, dtype=torch.float64).index_add(0, pairs.row, values)
    torch.testing.assert_close(pairs.sum(values), expected, rtol=1e-14, atol=1e-14)
    assert torch.autograd.gradcheck(pairs.sum, (values,))


@pytest.mark.parametrize("two_sets", [False, True])
def test_verlet_list_holds_every_pair(two_sets):
    """Random walks across the seam: the filtered list is a fresh one at each of 200 steps."""
    domain = Domain([Axis(0, 1, periodic=True), Axis(-1, 1)])
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(80, 2, generator=generator, dtype=torch.float64)
    y = torch.rand(30, 2, generator=generator, dtype=torch.float64) if two_sets else None
    verlet = VerletList(domain, skin=0.3)
    for _ in range(200):
        x = x + 0.002 * torch.randn(80, 2, generator=generator, dtype=torch.float64)
        y = y if y is None else y - 0.002 * torch.randn(30, 2, generator=generator, dtype=torch.float64)
        listed = verlet(x, y, support=0.2).within(0.2, x, y)
        fresh = radius_search(x, y, support=0.2, domain=domain)
        assert_compressed(listed)
        assert torch.equal(matrix(listed), matrix(fresh))
    assert 4 < verlet.rebuilds < 60


def test_verlet_list_sees_two_particles_approach_across_the_seam():
    """Each moves less than the skin, both together more than it; wrapping a position is no motion."""
    domain = Domain.periodic(1.0)
    verlet = VerletList(domain, skin=0.5)
    x = torch.tensor([[0.09], [0.935], [0.5]], dtype=torch.float64)
    assert verlet(x, support=0.1).n_edges == 3  # closer than .15: none but themselves
    x = torch.tensor([[0.055 + 1], [0.97 - 2], [0.5]], dtype=torch.float64)
    assert verlet(x, support=0.1).n_edges == 5
    assert verlet.rebuilds == 2
    verlet(x.remainder(1), support=0.1)
    assert verlet.rebuilds == 2


def test_verlet_list_counts_growing_supports():
    x = torch.rand(60, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    verlet = VerletList(None, skin=0.2, mode="symmetric")
    support = torch.full((60,), 0.1, dtype=torch.float64)
    for growth in (1.0, 1.1, 1.19, 1.3):
        listed = verlet(x, support=growth * support)
        wanted = radius_search(x, support=growth * support, mode="symmetric")
        assert (matrix(listed) >= matrix(wanted)).all()
    assert verlet.rebuilds == 2


def test_work_is_linear_in_the_particles():
    """Candidates, which set time and memory, grow as N at a fixed number of neighbors."""
    from opkernels import neighbors

    def candidates(n):
        x = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
        cells = neighbors._sort_into_cells(x, 4 / n**0.5, None)
        pairs = radius_search(x, support=4 / n**0.5, backend="torch").n_edges
        return int(neighbors._ranges(x, 4 / n**0.5, None, cells)[1].sum()), pairs

    (small, few), (large, many) = candidates(1000), candidates(16000)
    assert large / small < 19  # 16, and fewer pairs at the edge of the box
    assert small / few < 1.6
    assert large / many < 1.6


@pytest.mark.parametrize(("d", "rows"), [(2, 7), (3, 49)])
def test_memory_is_bounded_by_the_chunk(d, rows):
    """Beside the result, gathered piece by piece, two int32 tables (N, rows) and a few columns; temporaries are a chunk's."""
    from torch.profiler import ProfilerActivity, profile

    n, chunk = 6000, 2**12
    x = torch.rand(n, d, generator=torch.Generator().manual_seed(0))
    support = {2: 0.05, 3: 0.12}[d]

    def peak(chunk):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            pairs = radius_search(x, support=support, domain=Domain.periodic(*[1.0] * d), backend="torch", chunk=chunk)
        live = most = 0
        for _, size in sorted((e.start_ns(), e.nbytes()) for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"):
            live += size
            most = max(most, live)
        return most, pairs.n_edges

    (little, n_edges), (much, _) = peak(chunk), peak(2**24)
    result = 16 * n_edges
    assert result > 2**21
    assert little < 1.5 * result + (8 * rows + 120) * n + 100 * chunk
    assert much > 1.8 * little


NAN = torch.tensor([[0.1, 0.2], [float("nan"), 0.3]])


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"support=0 and skin=0; give a finite support > 0", lambda x: radius_search(x, support=0.0)),
        (r"support=nan", lambda x: radius_search(x, support=float("nan"))),
        (r"nearest image would not be unique", lambda x: radius_search(x, support=0.6, domain=Domain.periodic(1.0, 2.0))),
        (r"support \+ skin = 0.55 on axis x", lambda x: radius_search(x, support=0.5, skin=0.05, domain=Domain.periodic(1.0, 2.0))),
        (r"not finite at receiver 1", lambda x: radius_search(NAN, support=0.1)),
        (r"not finite at sender 1", lambda x: radius_search(x, NAN, support=0.1)),
        (r"above max_edges=100", lambda x: radius_search(x, support=9.0, max_edges=100, backend="torch")),
        (r"above max_edges=100", lambda x: radius_search(x, support=9.0, max_edges=100, backend="scipy")),
        (r"expected floating point \(N, d\)", lambda x: radius_search(x.long(), support=0.1)),
        (r"receivers and senders alike", lambda x: radius_search(x, x.double(), support=0.1)),
        (r"2-D positions on a 1-D domain", lambda x: radius_search(x, support=0.1, domain=Domain.periodic(1.0))),
        (r"mode='max'; choose one of", lambda x: radius_search(x, support=0.1, mode="max")),
        (r"backend='gpu'; choose one of", lambda x: radius_search(x, support=0.1, backend="gpu")),
        (r"two sets with half", lambda x: radius_search(x, x + 1, support=0.1, half=True)),
        (r"expected one integer >= 0", lambda x: radius_search(x, support=0.1, batch=torch.zeros(3))),
        (r"one of two sets", lambda x: radius_search(x, x + 1, support=0.1, batch=torch.zeros(40, dtype=torch.int64))),
        (r"batch_y without y", lambda x: radius_search(x, support=0.1, batch_y=torch.zeros(40, dtype=torch.int64))),
        (r"supports of shape \(3,\)", lambda x: radius_search(x, support=torch.ones(3))),
        (r"skin=-1.0; give a number >= 0", lambda x: VerletList(None, skin=-1.0)),
        (r"VerletList has no list yet; call it with the positions", lambda x: VerletList(None).complete_within(x)),
    ],
)
def test_refusals(message, call):
    with pytest.raises(ValueError, match=message):
        call(torch.rand(40, 2, generator=torch.Generator().manual_seed(0)))
