"""A network of symmetric-basis convolutions learns a gas of particles, and goes on by itself.

    dx_i/dt = v_i,   dv_i/dt = -sum_j m_j (p_i/rho_i^2 + p_j/rho_j^2) grad W(x_i - x_j) + viscosity,   p = 10 (rho - 1)

One step of the network spans 20 steps of the solver. It is conservative: whatever it learned, the total momentum stays.
Trained on four flows, tested on another one over 20 frames, against particles that go on at their first velocities.
Run: python examples/sfbc.py    (about 10 s; prints the error over that of free flight, and the change of momentum)
"""

import torch

from opkernels.datasets.particle_flows import particle_flow
from opkernels.evaluation.particles import position_mse
from opkernels.models import SFBC
from opkernels.training.particles import ParticleOptions, ParticleStepper, fit_particles, frame_velocities


def main() -> dict[str, float]:
    torch.manual_seed(0)
    *flows, test = [frame_velocities(particle_flow("compressible", seed, n_frames=22, n_particles=64)) for seed in range(5)]
    domain = test.particles.domain
    model = SFBC(domain, 2, 1, n_harmonics=2, hidden_channels=(16, 32), conservative=True)
    stepper = ParticleStepper.from_frames(model, flows)
    fit_particles(stepper, flows, ParticleOptions(steps=250, unroll=2, lr=5e-3, noise=0.003))

    stepper.double()
    x, v = stepper.rollout(test.frame(0).replace(densities=None), test.velocities[0], 20)
    dt = torch.tensor(test.times, dtype=torch.float64)[:, None, None] - test.times[0]
    free = test.positions[0] + dt * test.velocities[0]
    error, free_error = (position_mse(y, test.positions, domain)[-1].sqrt().item() for y in (x, free))
    momentum = torch.einsum("i,tid->td", test.particles.masses, v)
    numbers = {"ratio": error / free_error, "momentum": (momentum - momentum[0]).abs().max().item()}
    print(f"error after 20 frames over that of free flight: {numbers['ratio']:.3f}; momentum changed by {numbers['momentum']:.1e}")
    return numbers


if __name__ == "__main__":
    main()
