"""Darcy flow on other people's data: train an FNO at 16 x 16 by a plain PyTorch loop, test it at 16 and at 32.

    -div(a grad u) = 1 on (0, 1)^2,   u = 0 on the walls,   a two-valued;   the operator learned is a -> u.

The data are neuraloperator's small files (darcy_train_16.pt, darcy_test_16.pt, darcy_test_32.pt), not bundled:
https://github.com/neuraloperator/neuraloperator/tree/main/neuralop/data/datasets/data

Run: python examples/darcy.py --data FOLDER [--epochs 20]
"""

import argparse
from pathlib import Path

import torch

import opkernels as ok
from opkernels.datasets.formats.neuralop import read_darcy
from opkernels.models import FNO


def main(data, epochs=20, samples=1000, seed=0, hidden_channels=32):
    """Return the relative L2 errors at 16 and at 32, on 50 functions never seen."""
    torch.manual_seed(seed)
    train = read_darcy(Path(data) / "darcy_train_16.pt").select(slice(samples))
    a, u = train.read(fields=["coefficient"])[:, 0], train.read(fields=["pressure"])[:, 0]
    mean, std = u.mean(), u.std()
    model = FNO(train.domain, 1, 1, n_modes=(9, 9), hidden_channels=hidden_channels)

    def predict(a):
        return mean + std * model(a)

    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        for batch in torch.randperm(len(a)).split(32):
            loss = ok.rel_h1(predict(a[batch]), u[batch], train.grid)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        print(f"epoch {epoch + 1:2d}  training loss {loss.item():.3f}", flush=True)

    errors = {}
    with torch.no_grad():
        for n in (16, 32):
            test = read_darcy(Path(data) / f"darcy_test_{n}.pt")
            truth = test.read(fields=["pressure"])[:, 0]
            errors[n] = ok.rel_l2(predict(test.read(fields=["coefficient"])[:, 0]), truth, test.grid).item()
    return errors


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the three files")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    for n, error in main(arguments.data, arguments.epochs).items():
        print(f"relative L2 error at {n} x {n}: {error:.3f}")
