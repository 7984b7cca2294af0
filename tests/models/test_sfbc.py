"""SFBC: shapes and options, symmetries, exact momentum, one function on finer particles, walls, refusals."""

import pytest
import torch
from helpers import band_limited

from opkernels import Domain, ParticleSet, radius_search
from opkernels.layers.product_kernels import Bumps, Chebyshev, Fourier, Spline
from opkernels.models import SFBC
from opkernels.models.sfbc import BASES

TORUS = Domain.periodic(1.0, 1.2)
SMALL = {"hidden_channels": (6, 8, 8), "n_harmonics": 1}


def cloud(n=60, seed=0, dtype=torch.float64, support=0.25, domain=TORUS):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, domain.ndim, generator=g, dtype=torch.float64) * torch.tensor(domain.extent, dtype=torch.float64)
    return ParticleSet(x, (0.5 + torch.rand(n, generator=g, dtype=torch.float64)) / n, support, domain).to(dtype)


def built(**options):
    torch.manual_seed(0)
    return SFBC(TORUS, 3, 2, **SMALL | options).double()


OPTIONS = [
    {},
    {"conservative": True},
    {"basis": "linear", "coordinates": "preserving"},
    {"basis": "spline", "n_harmonics": 2},
    {"basis": "chebyshev", "window": "cubic", "parity": "even"},
    {"basis": "radial", "quadrature": "sum"},
    {"vertex_mlp": True, "edge_mlp": True},
    {"boundary_channels": 2, "hidden_channels": 5, "activation": "relu"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_weight_gets_a_gradient_and_positions_too(options):
    model, particles = built(**options), cloud()
    walls = {}
    if "boundary_channels" in options:
        walls = {"boundary": cloud(30, seed=9), "boundary_features": torch.randn(30, 2, dtype=torch.float64)}
    x = particles.positions.clone().requires_grad_()
    f = torch.randn(60, 3, dtype=torch.float64)
    if model.edge is not None:  # its last layer starts at zero, and hides the first
        torch.nn.init.normal_(model.edge.network[-1].weight)
    y = model(f, particles.replace(positions=x), **walls)
    y.square().sum().backward()
    assert y.shape == (60, 2) and x.grad.abs().min() > 0
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in missing if name != "edge.network.2.bias"]  # it cancels in an odd map


@pytest.mark.parametrize("options", [{}, {"edge_mlp": True}, {"vertex_mlp": True}], ids=str)
def test_momentum_is_exact(options):
    """In any state of the weights, with unequal masses; the plain model is far from it."""
    model, plain, particles = built(conservative=True, **options), built(**options), cloud(200, support=0.15)
    if model.edge is not None:
        torch.nn.init.normal_(model.edge.network[-1].weight)
    f = torch.randn(200, 3, dtype=torch.float64)
    force = model(f, particles)
    assert force.norm() > 1e-5 and force.sum(0).abs().max() < 1e-14 * force.abs().sum()
    assert plain(f, particles).sum(0).abs().max() > 1e-6


def test_permutations_translations_and_batches():
    model, one, two = built(), cloud(), cloud(40, seed=1)
    f, g = torch.randn(60, 3, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64)
    y, p = model(f, one), torch.randperm(60)
    shuffled = ParticleSet(one.positions[p], one.masses[p], 0.25, TORUS)
    torch.testing.assert_close(model(f[p], shuffled), y[p], rtol=1e-10, atol=1e-12)
    moved = one.replace(positions=one.positions + torch.tensor([0.4, 2.9], dtype=torch.float64))
    torch.testing.assert_close(model(f, moved), y, rtol=1e-9, atol=1e-11)
    both = model(torch.cat([f, g]), ParticleSet.stack([one, two]))
    torch.testing.assert_close(both, torch.cat([y, model(g, two)]), rtol=1e-10, atol=1e-12)


def test_one_function_on_finer_particles():
    """Lattices of 256, 1024 and 4096 particles that share nodes: the output settles, faster than second order."""
    model, outputs = built(), []
    for n in (16, 32, 64):
        particles = ParticleSet.from_grid(TORUS.grid(n, n), 0.2, dtype=torch.float64)
        f = band_limited((n, n), channels=3, k_max=2)[0].flatten(1).T
        with torch.no_grad():
            outputs.append(model(f, particles).unflatten(0, (n, n))[:: n // 16, :: n // 16])
    coarse, fine = (((y - outputs[2]).norm() / outputs[2].norm()).item() for y in outputs[:2])
    assert fine < 1e-3 and fine < coarse / 8


@pytest.mark.parametrize("vertex_mlp", [False, True])
def test_is_the_network_of_its_docstring(vertex_mlp):
    """Its own layers, put together by hand, with walls and residuals."""
    model, particles, wall = built(boundary_channels=2, hidden_channels=(4, 8, 8), vertex_mlp=vertex_mlp), cloud(), cloud(30, seed=9)
    f, g = torch.randn(60, 3, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    near, pairs = particles.neighbors(), radius_search(particles.positions, wall.positions, support=0.25, domain=TORUS)
    z = torch.cat([model.lift(f), model.first(f, particles, near), model.wall(g, particles, pairs, senders=wall)], 1)
    assert z.shape == (60, 12) and len(model.convs) == len(model.linears) == 3
    for at, residual in ((0, False), (1, True), (2, False)):
        z = z + model.vertex[at](z) if vertex_mlp else z
        y = torch.nn.functional.gelu(z)
        out = model.convs[at](y, particles, near) + model.linears[at](y)
        z = out + z if residual else out
    torch.testing.assert_close(model(f, particles, boundary=wall, boundary_features=g), z, rtol=1e-10, atol=1e-13)


def test_bases_are_the_families_of_equal_size():
    wanted = {"fourier": Fourier(2), "linear": Spline(5, 1), "spline": Spline(5, 3), "chebyshev": Chebyshev(5), "radial": Bumps(5)}
    for name in BASES:
        kernel = built(basis=name, n_harmonics=2).convs[0].kernel
        assert kernel.families == (wanted[name],) * 2 and kernel.size == 25


def test_an_edge_map_keeps_parity_and_the_rim():
    model = built(edge_mlp=True)
    torch.nn.init.normal_(model.edge.network[-1].weight)
    z = torch.randn(2, 50, dtype=torch.float64)
    torch.testing.assert_close(model.edge(-z), -model.edge(z), rtol=0, atol=1e-14)
    rim = z / z.norm(dim=0)
    torch.testing.assert_close(model.edge(rim), rim, rtol=0, atol=1e-14)
    assert (model.edge(z / 4) - z / 4).norm() > 1e-2


def test_bfloat16_and_plain_weights():
    torch.manual_seed(0)
    model, particles = SFBC(TORUS, 3, 2, **SMALL), cloud(dtype=torch.float32)
    f, target = torch.randn(60, 3), torch.randn(60, 2)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(10):
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(f, particles) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    other = SFBC(TORUS, 3, 2, **SMALL)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(f, particles), model(f, particles), rtol=0, atol=0)
    model.bfloat16()
    with pytest.raises(ValueError, match="SFBC has weights of dtype torch.bfloat16, but .* call it under torch.autocast"):
        model(f.bfloat16(), particles)
    with torch.autocast("cpu", torch.bfloat16):
        model(f, particles).sum().backward()  # backward inside, too
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, after a break of the graph
def test_compiled_models_give_the_same():
    """Also for another number of particles; the graph and the convolutions run as they are."""
    model, f = built(), torch.randn(60, 3, dtype=torch.float64)
    compiled = torch.compile(model, backend="eager")
    for n in (60, 45):
        particles, g = cloud(n), f[:n].clone().requires_grad_()
        compiled(g, particles).square().sum().backward()
        compiled_grad, g.grad = g.grad, None
        y = model(g, particles)
        y.square().sum().backward()
        torch.testing.assert_close(compiled(g, particles), y, rtol=0, atol=0)
        torch.testing.assert_close(compiled_grad, g.grad, rtol=0, atol=0)


def test_refuses_bad_input():
    model, particles, f = built(), cloud(), torch.zeros(60, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"features of shape \(60, 2\) for 60 particles; expected \(60, 3\)"):
        model(f[:, :2], particles)
    with pytest.raises(ValueError, match="features of dtype torch.float32"):
        model(f.float(), particles)
    with pytest.raises(ValueError, match="another domain than its own"):
        model(f, cloud(domain=Domain.periodic(1.0, 1.3)))
    with pytest.raises(ValueError, match="boundary_channels=0 got boundary=ParticleSet"):
        model(f, particles, boundary=particles, boundary_features=f)
    with pytest.raises(ValueError, match="boundary_channels=2 got boundary=NoneType"):
        built(boundary_channels=2)(f, particles)
    with pytest.raises(ValueError, match=r"boundary_features of shape \(60, 3\) for 60 wall particles"):
        built(boundary_channels=2)(f, particles, boundary=particles, boundary_features=f)
    for options, message in (
        ({"basis": "wavelet"}, "basis='wavelet'"),
        ({"hidden_channels": (4, 0)}, r"hidden_channels\[1\]=0"),
        ({"hidden_channels": ()}, r"len\(hidden_channels\)=0"),
        ({"n_harmonics": -1}, "n_harmonics=-1"),
        ({"coordinates": "polar", "basis": "radial"}, "basis='radial', which is no function of an angle"),
        ({"activation": "step"}, "activation='step'"),
        ({"window": "box"}, "window='box'"),
    ):
        with pytest.raises(ValueError, match=message):
            built(**options)
