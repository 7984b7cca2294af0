"""A surrogate of waves in a box whose convolutions are compressed before training: an eighth of the weights.

u_tt = div(c² grad u), u = 0 on the walls, u(0) = bumps, u_t(0) = 0, with a speed c of its own for every sample. A `UNet` over space and
time (x, y, t) maps (u(0), c, t) to u: once with dense 3-way kernels, once with sums of products of one-way filters (inspired by
arXiv:2304.04964). Prints the weights of both and their errors on eight waves, by which each learning rate was chosen too.
"""

import torch

import opkernels as ok
from opkernels.models import UNet
from opkernels.solvers import GaussianRandomField, RandomBumps, Wave2D


def waves(samples: int) -> ok.Trajectories:
    """Solve, and return the waves as functions of x, y and t."""
    box = ok.Domain.box(1.0, 1.0, points="endpoint")
    x, y = box.grid(33, 33).coordinates()
    speed = torch.exp(0.6 * GaussianRandomField(box, alpha=4, tau=8).sample(samples, (33, 33), seed=0))
    start = 16 * x * (1 - x) * y * (1 - y) * RandomBumps(box, count=(1, 3), width=(0.1, 0.16)).sample(samples, (33, 33), seed=0)
    times = torch.linspace(0, 0.4, 9)
    u = Wave2D(box, speed=speed).solve(torch.cat([start, 0 * start], 1), times)[:, :, 0, ::2, ::2].movedim(1, -1)
    space_time = ok.Domain((*box.axes, ok.Axis(0.0, 0.4, points="endpoint", name="t")))
    fields = {"start": u[..., :1].expand_as(u), "speed": speed[:, 0, ::2, ::2, None].expand_as(u), "when": times.expand_as(u), "wave": u}
    return ok.Trajectories.from_arrays(fields, space_time)


def main() -> dict[str, tuple[int, float]]:
    data = waves(48)
    train, new = data.select(slice(0, 40)), data.select(slice(40, 48))
    inputs, found = ["start", "speed", "when"], {}
    for name, lr, options in (("dense", 3e-3, {}), ("compressed", 1e-2, {"factorization": "cp", "rank": 1 / 10})):
        torch.manual_seed(0)
        model = UNet(data.domain, 3, 1, hidden_channels=16, n_layers=3, **options)
        surrogate = ok.fit(
            model, train, inputs=inputs, outputs=["wave"], regime="direct", epochs=6, batch_size=4, lr=lr, validation=0.0, quiet=True
        )
        truth = new.read(fields=[*inputs, "wave"])[:, 0]
        error = ok.rel_l2(surrogate.predict(truth[:, :3]), truth[:, 3:], data.grid).mean().item()
        found[name] = sum(p.numel() for p in model.parameters()), error
        print(f"{name:10} {found[name][0]:6} weights: error {error:.3f}")
    return found


if __name__ == "__main__":
    main()
