"""One script for a laptop and a cluster: an FNO trained on fields of which every process holds a block.

    u = (1 - Δ/16)^-1 (f + f²/2)   on the torus [0, 2π)²,   f a random field;   exact in Fourier

    python examples/distributed.py                          one process
    torchrun --nproc-per-node 4 examples/distributed.py     four, each with a quarter of every field

Prints the relative L2 error on new samples: the same number, to rounding, from any number of processes.
"""

import math

import torch

import opkernels as ok
from opkernels.distributed import Split, process_mesh, scatter, sum_gradients
from opkernels.models import FNO
from opkernels.solvers import GaussianRandomField

DOMAIN = ok.Domain.periodic(2 * math.pi, 2 * math.pi)


def pairs(n_samples, grid, seed):
    """Return the blocks of this process; fields too large for one process would be read from a file, block by block."""
    f = GaussianRandomField(DOMAIN, alpha=3, tau=2, sigma=6).sample(n_samples, grid.shape, seed=seed)
    kx, ky = grid.wavenumbers()
    u = torch.fft.irfft2(torch.fft.rfft2(f + f**2 / 2) / (1 + (kx**2 + ky**2) / 16), s=grid.shape)
    return scatter(f, grid), scatter(u, grid)


def main():
    """Train, and return the error."""
    grid = Split(process_mesh(device="cpu")).grid(DOMAIN.grid(45, 48))  # sizes need not divide
    torch.manual_seed(0)
    model = FNO(DOMAIN, 1, 1, n_modes=(12, 12), hidden_channels=12, n_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    f, u = pairs(32, grid, seed=0)
    for step in range(60):
        batch = slice(8 * (step % 4), 8 * (step % 4) + 8)
        optimizer.zero_grad()
        ok.rel_l2(model(f[batch], grid=grid), u[batch], grid).backward()
        sum_gradients(model.parameters(), grid.split)
        optimizer.step()
    f, u = pairs(8, grid, seed=1)
    with torch.no_grad():
        return float(ok.rel_l2(model(f, grid=grid), u, grid))


if __name__ == "__main__":
    torch.set_num_threads(1)
    error = main()
    if torch.distributed.get_rank() == 0:
        print(f"relative L2 error: {error:.4f}")
    torch.distributed.destroy_process_group()
