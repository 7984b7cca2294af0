"""Learned particle simulations: frames, isometries, training that lowers the error, rollouts, exact momentum, refusals."""

import dataclasses

import pytest
import torch

from opkernels import Axis, Domain, ParticleSet
from opkernels.datasets.particle_flows import PARTICLE_FLOWS, particle_flow
from opkernels.evaluation.particles import compare_particles
from opkernels.models import SFBC
from opkernels.training.particle_files import load_stepper, save_stepper
from opkernels.training.particles import (
    ParticleOptions,
    ParticleStepper,
    _Training,
    _window_loss,
    fit_particles,
    frame_velocities,
    random_isometry,
)


@pytest.fixture(scope="module")
def flows():
    return [frame_velocities(particle_flow("compressible", seed, n_frames=12, n_particles=48)) for seed in range(3)]


def stepper_of(flows, seed=0, **options):
    torch.manual_seed(seed)
    domain = flows[0].particles.domain
    return ParticleStepper.from_frames(SFBC(domain, 1 + domain.ndim, domain.ndim, hidden_channels=(8, 16), **options), flows)


def test_frames_step_by_their_velocities(flows):
    run = flows[0]
    step = run.times[1] - run.times[0]
    torch.testing.assert_close(run.positions[:-1] + step * run.velocities[1:], run.positions[1:], rtol=0, atol=1e-14)
    assert len(run) == 11 and torch.equal(run.particles.positions, run.positions[0])
    original = particle_flow("compressible", 0, n_frames=12, n_particles=48)
    assert (run.velocities - original.velocities[1:]).norm() < 0.2 * run.velocities.norm()


@pytest.mark.parametrize("name", list(PARTICLE_FLOWS))
def test_flows_are_random_and_repeatable(name):
    one, same, other = (particle_flow(name, seed, n_frames=3, n_particles=36) for seed in (4, 4, 5))
    assert torch.equal(one.positions, same.positions)
    assert one.positions.shape != other.positions.shape or (one.positions - other.positions).norm() > 1e-2
    assert torch.isfinite(one.velocities).all() and len(one.times) == 3


def test_training_beats_free_flight_and_rollouts_go_on(flows):
    stepper = stepper_of(flows)
    losses = fit_particles(stepper, flows[:2], ParticleOptions(steps=120, unroll=2, lr=5e-3, noise=0.003))
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    test = flows[2]
    start, v = test.frame(0).replace(densities=None).to(torch.float32), test.velocities[0].float()
    x, v = stepper.rollout(start, v, 10)
    figures = compare_particles(x.double(), v.double(), test, horizons=(1, 5, 50))
    dt = (torch.tensor(test.times, dtype=torch.float64) - test.times[0])[:, None, None]
    free = compare_particles(test.positions[0] + dt * test.velocities[0], test.velocities[:1].expand_as(v), test, horizons=(1, 5, 50))
    assert figures["mse@5"] < 0.5 * free["mse@5"] and "mse@50" not in figures
    assert torch.isfinite(stepper.rollout(start, v[0], 64)[0]).all()


def test_training_is_repeatable_and_can_be_stopped(flows):
    runs = [fit_particles(stepper_of(flows), flows, ParticleOptions(steps=4, seed=3)) for _ in range(2)]
    assert runs[0] == runs[1] and len(runs[0]) == 4
    assert len(fit_particles(stepper_of(flows), flows, ParticleOptions(steps=4), on_step=lambda n, loss: n == 1)) == 2


def test_conservative_rollouts_keep_momentum_after_training(flows):
    """Over 1000 steps, with unequal masses; the neighbors change on the way."""
    stepper = stepper_of(flows, conservative=True, n_harmonics=1).double()
    fit_particles(stepper, flows, ParticleOptions(steps=10))
    stepper.acceleration_scale *= 0.1  # hardly trained, it would blow up
    masses = (0.5 + torch.rand(48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)) / 24
    start = flows[0].frame(0).replace(densities=None, masses=masses)
    x, v = stepper.rollout(start, flows[0].velocities[0], 1000)
    m = masses[:, None]
    assert ((m * v).sum(1) - (m * v[0]).sum(0)).abs().max() < 1e-12 and (v[-1] - v[0]).norm() > 0.1
    assert torch.isfinite(x).all() and (x[-1] - x[0]).abs().max() > start.support


def silent(flows, **options):
    """A stepper whose network says zero: particles fly on."""
    stepper = stepper_of(flows, **options)
    for weight in (stepper.model.convs[-1].weight, *stepper.model.linears[-1].parameters()):
        weight.data.zero_()
    return stepper.double()


@pytest.mark.parametrize("name", ["compressible", "incompressible"])
def test_the_loss_counts_standard_accelerations(name):
    """Of free flight over the windows of one trajectory, by hand; the same in turned frames; more with noise, by its variance."""
    run = frame_velocities(particle_flow(name, 1, n_frames=4, n_particles=36, interval=0.05))
    x, v, dt = run.positions, run.velocities, run.times[1] - run.times[0]
    stepper = silent([run])
    unit = dt * stepper.acceleration_scale
    assert unit == pytest.approx(v.diff(dim=0).square().mean().sqrt().item(), rel=1e-6)

    def loss_of(first, n, **options):
        cut = {key: getattr(run, key)[first : first + n + 1] for key in ("times", "positions", "velocities", "densities", "pressures")}
        window = dataclasses.replace(run, **cut, energies=None)
        options = ParticleOptions(batch_size=1, unroll=n, **options)
        return _window_loss(stepper, [window], n, options, torch.Generator().manual_seed(3)).item()

    one = [(v[k + 1] - v[k]).square().mean().item() / unit**2 for k in (0, 1)]  # x errs by dt times as much
    assert loss_of(0, 1) == pytest.approx(one[0], rel=1e-9) and sum(one) / 2 == pytest.approx(1, rel=1e-6)
    late = ((x[0] + 2 * dt * v[0] - x[2]) / dt).square().mean() + (v[0] - v[2]).square().mean()
    assert loss_of(0, 2) == pytest.approx((2 * one[0] + late.item() / unit**2) / 4, rel=1e-9)
    assert loss_of(0, 1, isometries=False) == pytest.approx(loss_of(0, 1), rel=1e-9)
    level = 0.5  # errors: of velocities once, of positions over dt twice
    more = level**2 * stepper.velocity_scale**2 * 3 / (2 * unit**2)
    assert loss_of(0, 1, noise=level) - one[0] == pytest.approx(more, rel=0.5)


def test_windows_grow_and_the_rate_falls(flows):
    stepper, calls = stepper_of(flows), []
    stepper.register_forward_hook(lambda *_: calls.append(0))
    seen = []
    fit_particles(stepper, flows, ParticleOptions(steps=6, unroll=3), on_step=lambda n, loss: seen.append(len(calls)))
    assert seen == [1, 2, 4, 6, 9, 12]  # windows of 1, 1, 2, 2, 3, 3 steps
    training = _Training(stepper_of(flows), ParticleOptions(steps=4, lr=1e-2, gradient_clip=1e-3))
    for _ in range(4):
        training.step(1e3 * training.stepper.model.lift.weight.square().sum())
        assert training.stepper.model.lift.weight.grad.norm() == pytest.approx(1e-3, rel=1e-2)
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_scales_are_those_of_the_frames_and_multiply(flows):
    stepper = stepper_of(flows).double()
    dt = flows[0].times[1] - flows[0].times[0]
    assert stepper.velocity_scale == pytest.approx(torch.cat([f.velocities for f in flows]).square().mean().sqrt().item())
    changes = torch.stack([f.velocities.diff(dim=0) / dt for f in flows])
    assert stepper.acceleration_scale == pytest.approx(changes.square().mean().sqrt().item())
    heavy = ParticleStepper.from_frames(stepper.model, flows, gravity=(3.0,))
    assert heavy.acceleration_scale == pytest.approx((changes - 3).square().mean().sqrt().item())
    start, v = flows[0].frame(0).replace(densities=None), flows[0].velocities[0]
    x, after = stepper(start, v)
    wanted = stepper.model(torch.cat([torch.ones_like(v), v / stepper.velocity_scale], 1), start)
    torch.testing.assert_close(after - v, dt * stepper.acceleration_scale * wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(x - start.positions, dt * after, rtol=0, atol=1e-13)


def test_position_gradients_can_be_stopped(flows):
    """The loss of two steps reaches the first step through positions only if they carry gradients."""
    start, v = flows[0].frame(0).replace(densities=None).to(torch.float32), torch.zeros_like(flows[0].velocities[0]).float()
    for wanted in (True, False):
        stepper = stepper_of(flows)
        stepper.position_gradients = wanted
        x = start.positions.clone().requires_grad_()
        stepper(start.replace(positions=x), v)[1].square().sum().backward()
        assert (x.grad is not None and bool(x.grad.any())) == wanted


@pytest.mark.parametrize("d", [1, 2, 3])
def test_isometries(d):
    g = torch.Generator().manual_seed(0)
    boxes = [Domain.periodic(*[1.0, 1.0, 2.0][:d]), Domain.box(*[1.0] * d)]
    for domain in boxes:
        turns = torch.stack([random_isometry(domain, g) for _ in range(200)])
        torch.testing.assert_close(turns @ turns.mT, torch.eye(d, dtype=torch.float64).expand(200, d, d), rtol=0, atol=1e-12)
        assert turns.mean(0).abs().max() < 0.3  # all directions alike
        if domain is boxes[0]:
            assert set(turns.unique().tolist()) <= {-1.0, 0.0, 1.0}
            if d == 3:  # the long axis stays
                assert (turns[:, 2, 2].abs() == 1).all() and (turns[:, 0, 1] != 0).any()


def test_walls_and_gravity():
    """A particle falls by g dt^2, whatever the turn; walls are seen, and turned along."""
    domain = Domain((Axis(0, 1), Axis(0, 1)))
    x = torch.rand(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wall = ParticleSet(
        torch.stack([torch.linspace(0, 1, 12, dtype=torch.float64), torch.full((12,), -0.05, dtype=torch.float64)], 1), 0.01, 0.3, domain
    )
    torch.manual_seed(0)
    model = SFBC(domain, 3, 2, hidden_channels=(6, 6), boundary_channels=3).double()
    stepper = ParticleStepper(model, dt=0.1, gravity=(0.0, -2.0), boundary=wall)
    particles, v = ParticleSet(x, 0.05, 0.3, domain), torch.zeros(20, 2, dtype=torch.float64)
    _, after = stepper(particles, v)
    _, weightless = ParticleStepper(model, dt=0.1, boundary=wall)(particles, v)
    torch.testing.assert_close(after - weightless, torch.tensor([[0.0, -0.2]], dtype=torch.float64).expand(20, 2), rtol=0, atol=1e-14)
    far = dataclasses.replace(wall, positions=wall.positions + 10)
    assert (ParticleStepper(model, dt=0.1, boundary=far)(particles, v)[1] - weightless).norm() > 1e-6
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)  # about the middle, (1/2, 1/2)
    slide = torch.tensor([[0.7, 0.0]], dtype=torch.float64).expand(12, 2)
    gliding = ParticleStepper(model, dt=0.1, gravity=(0.0, -2.0), boundary=wall, boundary_velocities=slide)
    turned = dataclasses.replace(wall, positions=(wall.positions - 0.5) @ turn.T + 0.5)
    same = ParticleStepper(model, dt=0.1, gravity=(2.0, 0.0), boundary=turned, boundary_velocities=slide @ turn.T)
    torch.testing.assert_close(gliding(particles, v, turn=turn)[1], same(particles, v)[1], rtol=1e-10, atol=1e-12)
    assert (gliding(particles, v)[1] - after).norm() > 1e-6
    pair = ParticleSet.stack([particles, particles])
    torch.testing.assert_close(stepper(pair, torch.cat([v, v]))[1], torch.cat([after, after]), rtol=1e-10, atol=1e-12)


def test_a_stepper_keeps_the_support_it_was_trained_with(flows, tmp_path):
    """Finer particles come with the support of their solver; the network must stay the same operator."""
    stepper, start, v = stepper_of(flows).double(), flows[0].particles, flows[0].velocities[0]
    assert stepper.support == start.support
    x, after = stepper(start, v)
    narrow = start.replace(support=0.6 * start.support)
    torch.testing.assert_close(stepper(narrow, v), (x, after), rtol=0, atol=0)
    torch.testing.assert_close(stepper.rollout(narrow, v, 2), stepper.rollout(start, v, 2), rtol=0, atol=0)
    save_stepper(stepper, tmp_path / "stepper.safetensors")
    assert load_stepper(tmp_path / "stepper.safetensors").support == start.support
    stepper.support = None
    assert (stepper(narrow, v)[1] - after).norm() > 1e-6
    mixed = [flows[0], dataclasses.replace(flows[1], particles=flows[1].particles.replace(support=0.6 * start.support))]
    with pytest.raises(ValueError, match="several supports"):
        ParticleStepper.from_frames(stepper.model, mixed)
    for support in (-1, float("inf"), float("nan"), True):
        with pytest.raises(ValueError, match=f"support={support}; give a finite radius"):
            ParticleStepper(stepper.model, dt=0.1, support=support)


@pytest.mark.parametrize("factor", [1 + 1e-9, 0.6])
def test_flows_of_other_supports_are_seen_with_that_of_the_stepper(flows, factor):
    """Supports that differ by rounding, or of two resolutions: the training is that of flows with one support."""
    support, options = flows[0].particles.support, ParticleOptions(steps=3, batch_size=6)
    others = [dataclasses.replace(run, particles=run.particles.replace(support=factor * support)) for run in flows[1:]]
    losses = fit_particles(stepper_of(flows), [flows[0], *others], options)
    assert losses == fit_particles(stepper_of(flows), flows, options)
    none = stepper_of(flows)
    none.support = None
    with pytest.raises(ValueError, match="differ in support"):
        fit_particles(none, [flows[0], *others], options)
    if factor > 1:
        assert ParticleStepper.from_frames(none.model, [flows[0], *others]).support == support, "apart by rounding"


def test_refusals(flows):
    domain = flows[0].particles.domain
    with pytest.raises(ValueError, match=r"channels in, out and of walls; expected \(2, 1, 0\)"):
        ParticleStepper(SFBC(domain, 3, 1, hidden_channels=(4,)), dt=0.1)
    with pytest.raises(ValueError, match="dt=0"):
        ParticleStepper(SFBC(domain, 2, 1, hidden_channels=(4,)), dt=0)
    with pytest.raises(ValueError, match="steps=0"):
        ParticleOptions(steps=0)
    with pytest.raises(ValueError, match="11 frames for unroll=20"):
        fit_particles(stepper_of(flows), flows, ParticleOptions(unroll=20))
    slow = stepper_of(flows)
    slow.dt *= 2
    with pytest.raises(ValueError, match="frames 0.02 apart for a step of 0.04"):
        fit_particles(slow, flows)
    with pytest.raises(ValueError, match="name='plasma'"):
        particle_flow("plasma", 0)
    broken = stepper_of(flows)
    broken.model.lift.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="left the finite numbers at step 1"):
        broken.rollout(flows[0].frame(0).replace(densities=None).to(torch.float32), flows[0].velocities[0].float(), 3)
    with pytest.raises(ValueError, match="not finite at update 0"):
        fit_particles(broken, flows, ParticleOptions(steps=2))


def test_configurations_of_the_three_cases(tmp_path):
    from pathlib import Path

    from opkernels.training.particle_config import read_particle_config, train_particles

    for name in ("compressible", "weakly_compressible", "incompressible"):
        path = Path(__file__).parents[2] / "examples" / "configs" / f"sfbc_{name}.yaml"
        assert read_particle_config(path).flow == name
        small = {"frames": 4, "train": 1, "particles": 36, "training": {"steps": 2, "unroll": 1}}
        stepper, losses = train_particles(read_particle_config(path, **small))
        assert len(losses) == 2 and stepper.model.conservative == (name == "incompressible")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("flow: plasma\nframe: 3\ntrain: many\nmodel: {n_harmonic: 2}\ntraining: {learning_rate: 1}\n")
    with pytest.raises(ValueError, match="5 mistakes"):
        read_particle_config(wrong)
    for told in (
        "frame: is unknown; did you mean frames",
        "n_harmonic: is unknown; did you mean n_harmonics",
        "'plasma'",
        "train: got 'many'",
    ):
        with pytest.raises(ValueError, match=told):
            read_particle_config(wrong)
    wrong.write_text("- a\n")
    with pytest.raises(ValueError, match="holds a list"):
        read_particle_config(wrong)
