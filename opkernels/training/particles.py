"""Learned particle simulations: one step, rollouts with neighbor updates, and training through several steps.

    a = A net(1, v/U; x),   v' = v + dt (g + a),   x' = x + dt v'        (a = A F / m for a conservative net)

dt is the time between two frames, many steps of the solver that made them, and v the displacement since the last frame
over dt, which differs from the solver's velocity: `frame_velocities` turns a solver's trajectory into such frames. U and A
are the scales of velocities and of their changes over dt, taken from the training frames. The loss of a window is

    sum_n mean_i [ |v_i - v_i*|^2 + |x_i - x_i*|^2/dt^2 ] / (2 d A^2 dt^2 n_steps),

so an error of one standard acceleration in one step counts one. Windows grow from one step to `unroll` while training (the
curriculum); the start of a window is disturbed by `noise`, and the whole window rotated or mirrored (in a periodic box
only by what maps the box to itself). Gradients flow through features and, unless `position_gradients` is off, through
the positions.

References: Winchenbach and Thuerey, ICLR 2024, arXiv 2403.16680; Sanchez-Gonzalez et al., ICML 2020, arXiv 2002.09405.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from opkernels.configuration import bounded
from opkernels.domains import Domain
from opkernels.models.sfbc import SFBC
from opkernels.neighbors import VerletList
from opkernels.particles import ParticleSet
from opkernels.solvers.sph import ParticleTrajectory
from opkernels.storage import read_tensors, write_tensors

__all__ = ["ParticleOptions", "ParticleStepper", "fit_particles", "frame_velocities", "random_isometry"]

_EVERY = 100  # updates between checkpoints


class ParticleStepper(nn.Module):
    """A network with the scales that make it advance particles by one frame.

    Parameters
    ----------
    model : SFBC
        With 1 + d features in and d out; ``boundary_channels=1 + d`` where there are walls.
    dt : float
        Time between frames.
    velocity_scale, acceleration_scale : float
        U and A; `from_frames` measures them.
    support : float, optional
        Radius of the kernels on any number of particles, whatever the support of those it is given: with another radius the network is
        another operator. By default that of the particles.
    gravity : sequence of float
        Known acceleration, applied as it is.
    boundary : ParticleSet, optional
        Wall particles, which stay where they are.
    boundary_velocities : Tensor, (M, d), optional
        Velocities at which walls slide along themselves; zero by default.
    position_gradients : bool
        Whether positions carry gradients; published layers do not.

    Raises
    ------
    ValueError
        If the model has other numbers of channels, or a scale or the support is not positive and finite.
    """

    def __init__(
        self,
        model: SFBC,
        *,
        dt: float,
        velocity_scale: float = 1.0,
        acceleration_scale: float = 1.0,
        support: float | None = None,
        gravity: Sequence[float] = (),
        boundary: ParticleSet | None = None,
        boundary_velocities: Tensor | None = None,
        position_gradients: bool = True,
    ):
        super().__init__()
        d = model.domain.ndim
        wanted = (1 + d, d, 0 if boundary is None else 1 + d)
        got = (model.in_channels, model.out_channels, model.boundary_channels)
        if got != wanted:
            raise ValueError(f"ParticleStepper got a model with {got} channels in, out and of walls; expected {wanted}")
        if not min(dt, velocity_scale, acceleration_scale) > 0 or len(gravity) not in (0, d):
            raise ValueError(
                f"ParticleStepper got dt={dt}, velocity_scale={velocity_scale}, acceleration_scale={acceleration_scale}, "
                f"gravity={tuple(gravity)}; give positive scales, and one acceleration for each of {d} axes"
            )
        if support is not None and (isinstance(support, bool) or not 0 < support < float("inf")):
            raise ValueError(f"ParticleStepper got support={support}; give a finite radius > 0, or none for that of the particles")
        if boundary is not None and boundary_velocities is not None and boundary_velocities.shape != boundary.positions.shape:
            raise ValueError(
                f"ParticleStepper got boundary_velocities of shape {tuple(boundary_velocities.shape)} for {len(boundary)} wall particles; "
                f"expected ({len(boundary)}, {d})"
            )
        self.model, self.dt, self.boundary, self.position_gradients = model, float(dt), boundary, position_gradients
        self.boundary_velocities, self.support = boundary_velocities, support
        self.velocity_scale, self.acceleration_scale = float(velocity_scale), float(acceleration_scale)
        self.gravity = tuple(float(g) for g in gravity) or (0.0,) * d

    @classmethod
    def from_frames(
        cls,
        model: SFBC,
        trajectories: Sequence[ParticleTrajectory],
        *,
        gravity: Sequence[float] = (),
        boundary: ParticleSet | None = None,
        boundary_velocities: Tensor | None = None,
        position_gradients: bool = True,
    ) -> ParticleStepper:
        """Build with the interval, the support, and the root mean squares of velocities and their changes of `frame_velocities`."""
        dt, support = _interval(trajectories), trajectories[0].particles.support
        if any(abs(t.particles.support - support) > 1e-6 * support for t in trajectories):
            raise ValueError("ParticleStepper got trajectories of particles with several supports; give those of one resolution")
        v = torch.stack([t.velocities.square().mean() for t in trajectories]).mean().sqrt()
        g = torch.tensor(tuple(gravity) or (0.0,) * model.domain.ndim, dtype=v.dtype)
        a = torch.stack([(t.velocities.diff(dim=0) / dt - g).square().mean() for t in trajectories]).mean().sqrt()
        return cls(
            model,
            dt=dt,
            velocity_scale=float(v),
            acceleration_scale=float(a),
            support=support,
            gravity=gravity,
            boundary=boundary,
            boundary_velocities=boundary_velocities,
            position_gradients=position_gradients,
        )

    def forward(
        self, particles: ParticleSet, velocities: Tensor, lists: VerletList | None = None, turn: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return positions and velocities (N, d) one frame later.

        Parameters
        ----------
        particles : ParticleSet
            Where the particles are, any number of them; their volumes are their masses over densities, as given.
        velocities : Tensor, (N, d)
        lists : VerletList, optional
            Reused over the steps of a rollout.
        turn : Tensor, (d, d), optional
            Rotation of the frame of reference, which turns gravity and walls.
        """
        x, v = particles.positions, velocities
        support = particles.support if self.support is None else self.support
        seen = particles.replace(positions=x if self.position_gradients else x.detach(), support=support)
        pairs = seen.neighbors() if lists is None else lists(x, support=seen.support, batch=seen.batch)
        f = torch.cat([torch.ones_like(v[:, :1]), v / self.velocity_scale], 1)
        a = self.acceleration_scale * self.model(f, seen, neighbors=pairs, **self._walls(seen, turn))
        if self.model.conservative:
            a = a / particles.masses[:, None]
        g = torch.tensor(self.gravity, dtype=v.dtype, device=v.device)
        after = v + self.dt * (a + (g if turn is None else turn @ g))
        return x + self.dt * after, after

    def _walls(self, particles: ParticleSet, turn: Tensor | None) -> dict:
        if self.boundary is None:
            return {}
        wall, x = self.boundary, self.boundary.positions.to(particles.positions)
        v = torch.zeros_like(x) if self.boundary_velocities is None else self.boundary_velocities.to(x) / self.velocity_scale
        if turn is not None:
            x, v = _turned(x, turn, particles.domain), v @ turn.to(v).T
        batch = None
        if particles.batch is not None:
            n = particles.n_batches
            batch = torch.arange(n, device=x.device).repeat_interleave(len(x))
            x, v = x.repeat(n, 1), v.repeat(n, 1)
        masses = wall.masses.to(x).repeat(len(x) // len(wall))
        wall = ParticleSet(x, masses, particles.support, particles.domain, batch)
        return {"boundary": wall, "boundary_features": torch.cat([torch.ones_like(x[:, :1]), v], 1)}

    def rollout(self, particles: ParticleSet, velocities: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        """Return positions and velocities (n_steps + 1, N, d) from a start, without gradients.

        Raises
        ------
        ValueError
            If a frame holds a number that is not finite.
        """
        lists, frames = VerletList(particles.domain, 0.1), [(particles.positions, velocities)]
        with torch.no_grad():
            for step in range(1, n_steps + 1):
                x, v = self(particles.replace(positions=frames[-1][0]), frames[-1][1], lists)
                if not bool(torch.isfinite(x).all() & torch.isfinite(v).all()):
                    raise ValueError(f"the rollout left the finite numbers at step {step}; train longer, or through more steps")
                frames.append((x, v))
        x, v = zip(*frames, strict=True)
        return torch.stack(x), torch.stack(v)


def frame_velocities(trajectory: ParticleTrajectory) -> ParticleTrajectory:
    """Return the frames but the first, with velocities (x_n - x_{n-1})/dt: what a `ParticleStepper` learns and starts from."""
    dt = _interval([trajectory])
    cut = {name: getattr(trajectory, name)[1:] for name in ("times", "positions", "densities", "pressures")}
    energies = None if trajectory.energies is None else trajectory.energies[1:]
    particles = trajectory.particles.replace(positions=trajectory.positions[1])
    return replace(trajectory, velocities=trajectory.positions.diff(dim=0) / dt, particles=particles, energies=energies, **cut)


def random_isometry(domain: Domain, generator: torch.Generator) -> Tensor:
    """Return a random rotation or reflection (d, d) under which the domain looks the same.

    Any in open space; in periodic boxes those that exchange and mirror axes of one length.
    """
    d = domain.ndim
    if not any(axis.periodic for axis in domain.axes):
        q, r = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
        return q * torch.sign(r.diagonal())
    turn = torch.diag(torch.randint(0, 2, (d,), generator=generator).double() * 2 - 1)
    kinds = [(axis.periodic, axis.length) for axis in domain.axes]
    for kind in set(kinds):
        alike = [a for a, k in enumerate(kinds) if k == kind]
        order = torch.randperm(len(alike), generator=generator).tolist()
        turn[alike] = turn[[alike[i] for i in order]]
    return turn


def _turned(x: Tensor, turn: Tensor, domain: Domain) -> Tensor:
    """Turn positions (..., d) about the middle of the domain."""
    middle = torch.tensor([(axis.lower + axis.upper) / 2 for axis in domain.axes], dtype=x.dtype, device=x.device)
    return (x - middle) @ turn.to(x).T + middle


@dataclass(frozen=True)
class ParticleOptions:
    """How to train.

    Parameters
    ----------
    steps : int
        Updates of the weights.
    batch_size : int
        Windows per update.
    unroll : int
        Steps of a window at the end of the curriculum; windows of 1, 2, ... steps take equal shares of the training.
    lr : float
        Falls to a hundredth along a cosine.
    noise : float
        Standard deviation of the disturbance at the start of a window: of velocities in U, of positions in U dt.
    isometries : bool
        Turn and mirror windows at random.
    gradient_clip : float
    seed : int
    """

    steps: int = bounded(1000, at_least=1)
    batch_size: int = bounded(2, at_least=1)
    unroll: int = bounded(3, at_least=1)
    lr: float = bounded(2e-3, above=0)
    noise: float = bounded(0.0, at_least=0)
    isometries: bool = True
    gradient_clip: float = bounded(1.0, above=0)
    seed: int = bounded(0, at_least=0)

    def __post_init__(self):
        if min(self.steps, self.batch_size, self.unroll) < 1 or not (self.lr > 0 and self.noise >= 0 and self.gradient_clip > 0):
            raise ValueError(f"got {self}; give counts of at least one, lr and gradient_clip > 0, and noise >= 0")


def fit_particles(
    stepper: ParticleStepper,
    trajectories: Sequence[ParticleTrajectory],
    options: ParticleOptions = ParticleOptions(),  # noqa: B008 frozen
    *,
    on_step: Callable[[int, float], bool | None] | None = None,
    checkpoint: Path | None = None,
) -> list[float]:
    """Train a stepper on windows of trajectories; return the loss of each update.

    Parameters
    ----------
    stepper : ParticleStepper
        Trained in place, in the dtype of its weights.
    trajectories : sequence of ParticleTrajectory
        Of `frame_velocities`: frames at one constant interval, all of one domain, and of one support where the stepper has none.
    options : ParticleOptions
    on_step : callable, optional
        ``on_step(update, loss)`` after each update; a true answer ends the training.
    checkpoint : path, optional
        A file written every 100 updates and after the last one. If it is there already, training goes on from it, bit by
        bit what it would have become.

    Raises
    ------
    ValueError
        If the checkpoint is of another training, the frames are not equally spaced in time, too few for a window, or a loss is not finite.
    """
    dt = _interval(trajectories)
    if abs(dt - stepper.dt) > 1e-6 * dt:
        raise ValueError(f"fit_particles got frames {dt:g} apart for a step of {stepper.dt:g}; give frames at the model's interval")
    if min(len(t) for t in trajectories) <= options.unroll:
        raise ValueError(f"fit_particles got {min(map(len, trajectories))} frames for unroll={options.unroll}; give longer trajectories")
    training = _Training(stepper, options)
    if checkpoint is not None and checkpoint.exists():
        training.restore(checkpoint)
    for update in range(len(training.losses), options.steps):
        n = 1 + update * options.unroll // options.steps
        loss = _window_loss(stepper, trajectories, n, options, training.generator)
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"fit_particles met a loss that is not finite at update {update}; lower lr or unroll")
        training.step(loss)
        if checkpoint is not None and ((update + 1) % _EVERY == 0 or update + 1 == options.steps):
            training.keep(checkpoint)
        if on_step is not None and on_step(update, training.losses[-1]):
            break
    return training.losses


class _Training:
    """The state of a training: weights, Adam's moments, the schedule, the random numbers, the losses so far."""

    def __init__(self, stepper: ParticleStepper, options: ParticleOptions):
        self.stepper, self.options = stepper, options
        self.generator = torch.Generator().manual_seed(options.seed)
        self.optimizer = torch.optim.Adam(stepper.parameters(), lr=options.lr)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, options.steps, eta_min=options.lr / 100)
        self.losses: list[float] = []

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.stepper.parameters(), self.options.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        self.losses.append(loss.item())

    def keep(self, path: Path) -> None:
        state = self.optimizer.state_dict()
        tensors = {f"model.{name}": value for name, value in self.stepper.state_dict().items()}
        tensors |= {f"adam.{i}.{name}": value for i, moments in state["state"].items() for name, value in moments.items()}
        tensors |= {"generator": self.generator.get_state(), "losses": torch.tensor(self.losses, dtype=torch.float64)}
        header = {"options": asdict(self.options), "groups": state["param_groups"], "schedule": self.schedule.state_dict()}
        write_tensors(path, tensors, header)

    def restore(self, path: Path) -> None:
        tensors, header = read_tensors(path)
        own = self.stepper.state_dict()
        saved = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
        same = {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in saved.items()}
        if header.get("options") != asdict(self.options) or not same:
            raise ValueError(f"{path} belongs to another training; take the same configuration, or choose another folder")
        self.stepper.load_state_dict(saved)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, i, moment = name.split(".", 2)
                moments.setdefault(int(i), {})[moment] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": header["groups"]})
        self.schedule.load_state_dict(header["schedule"])
        self.generator.set_state(tensors["generator"])
        self.losses = tensors["losses"].tolist()


def _interval(trajectories: Sequence[ParticleTrajectory]) -> float:
    """Return the interval that all trajectories share."""
    gaps = [b - a for t in trajectories for a, b in zip(t.times, t.times[1:], strict=False)]
    if not gaps or max(gaps) - min(gaps) > 1e-6 * max(gaps):
        raise ValueError("got trajectories without frames at one constant interval; solve for equally spaced times")
    return sum(gaps) / len(gaps)


def _window_loss(
    stepper: ParticleStepper, trajectories: Sequence[ParticleTrajectory], n: int, options: ParticleOptions, generator: torch.Generator
) -> Tensor:
    """Return the mean loss over `n` steps of a batch of random windows."""
    weight = next(stepper.parameters())
    domain = trajectories[0].particles.domain
    turn = random_isometry(domain, generator).to(weight) if options.isometries else None
    sets, xs, vs = [], [], []
    for _ in range(options.batch_size):
        run = trajectories[int(torch.randint(len(trajectories), (), generator=generator))]
        first = int(torch.randint(len(run) - n, (), generator=generator))
        x, v = run.positions[first : first + n + 1].to(weight), run.velocities[first : first + n + 1].to(weight)
        if turn is not None:
            x, v = _turned(x, turn, domain), v @ turn.T
        support = run.particles.support if stepper.support is None else stepper.support
        sets.append(run.particles.to(weight.dtype).to(weight.device).replace(positions=x[0], densities=None, support=support))
        xs.append(x)
        vs.append(v)
    particles = ParticleSet.stack(sets)
    x_true, v_true = torch.cat(xs, 1), torch.cat(vs, 1)
    noise = options.noise * stepper.velocity_scale * torch.randn(2, *v_true[0].shape, generator=generator).to(weight)
    x, v = x_true[0] + stepper.dt * noise[0], v_true[0] + noise[1]
    loss, unit = weight.new_zeros(()), stepper.dt * stepper.acceleration_scale
    for k in range(1, n + 1):
        x, v = stepper(particles.replace(positions=x), v, turn=turn)
        error_x, error_v = (x - x_true[k]) / stepper.dt, v - v_true[k]
        loss = loss + (error_v.square().mean() + error_x.square().mean()) / (2 * unit**2)
    return loss / n
