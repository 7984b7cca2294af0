"""T1, FNO and FFNO on Navier-Stokes at viscosity 1e-3, 64 x 64: accuracy at equal CPU time and at equal epochs.

    ∂ω/∂t + u·∇ω = 0.001 Δω + f,   f = 0.1 (sin 2π(x + y) + cos 2π(x + y)),   unit torus,   ω(0) -> ω(5)

1000 training, 100 validation and 200 test samples of the recipe t1_navier_stokes. The training targets say before any training
how many modes matter: with |k| <= 6 the irreducible error is 0.05 %, so every contender keeps n_modes = (13, 13). All see the
exact symmetries of the problem as augmentation (moves along x = -y, two reflections), but "T1, not moved". T1 gains from the
few modes by construction; "FNO on 20 x 20" gains the same, asked on the coarsest grid that carries them and interpolated.
Widths and learning rates are usual ones, not tuned for the figure. Numbers: t1_navier_stokes.json; picture: t1_navier_stokes.png.

Each finished (model, budget, seed) is written at once and skipped on a restart. `--cells` also takes the remedies that were
compared on the validation set: they are not part of the figure.

    OMP_NUM_THREADS=1 python paper_figs/t1_navier_stokes.py [--seeds 0 1 2] [--cells T1 FNO] [--columns seconds] [--folder runs/t1]
"""

from pathlib import Path

import torch
from equal_cost import arguments, draw, run, table
from torch import nn

import opkernels as ok
from opkernels.mode_selection import TargetModes, box
from opkernels.models import FFNO, FNO, T1

SECONDS, EPOCHS, MODES = 90, 6, (13, 13)


class OnCoarseGrid(nn.Module):
    """A model asked on a coarse grid, its output interpolated: what any operator gains from the fact that few modes matter."""

    def __init__(self, model, grid):
        super().__init__()
        self.model, self.grid = model, grid

    def forward(self, x):
        """Return the output on the grid of x."""
        fine = self.grid.domain.grid_of(x)
        return ok.resample(self.model(ok.resample(x, fine, self.grid)), self.grid, fine)


KEPT = {"n_modes": MODES, "n_layers": 4}
PLACED = KEPT | {"positional_embedding": "harmonics"}  # the force has a place

FIGURE = {  # name: (model, learning rate, moved by the symmetries)
    "T1": (lambda d: T1(d, 1, 1, hidden_channels=48, **KEPT), 5e-3, True),
    "T1, not moved": (lambda d: T1(d, 1, 1, hidden_channels=48, **KEPT), 5e-3, False),
    "T1, local": (lambda d: T1(d, 1, 1, hidden_channels=24, mixing="local", **KEPT), 4e-3, True),
    "FNO": (lambda d: FNO(d, 1, 1, hidden_channels=24, **PLACED), 4e-3, True),
    "FNO on 20 x 20": (lambda d: OnCoarseGrid(FNO(d, 1, 1, hidden_channels=24, **PLACED), d.grid(20, 20)), 4e-3, True),
    "FFNO": (lambda d: FFNO(d, 1, 1, hidden_channels=24, **PLACED), 4e-3, True),
}
REMEDIES = {
    "T1, low rank": (lambda d: T1(d, 1, 1, hidden_channels=64, mixing={"kind": "low_rank", "rank": 24}, **KEPT), 4e-3, True),
    "T1, causal": (lambda d: T1(d, 1, 1, hidden_channels=48, mixing={"causal": True}, **KEPT), 5e-3, True),
    "T1, diffusion": (lambda d: T1(d, 1, 1, hidden_channels=48, diffusion=5e-3, **KEPT), 5e-3, True),
    "T1, wide": (lambda d: T1(d, 1, 1, hidden_channels=64, **KEPT), 4e-3, True),
    "T1, amortized": (lambda d: T1(d, 1, 1, hidden_channels=48, mixing="amortized", **KEPT), 4e-3, True),
    "T1, U-Net": (lambda d: T1(d, 1, 1, n_modes=MODES, n_layers=2, hidden_channels=32, mixing="unet"), 3e-3, True),
    "FNO, narrow": (lambda d: FNO(d, 1, 1, hidden_channels=16, **PLACED), 5e-3, True),
}


def symmetry(x, y, generator):
    """Move a batch of pairs by a random element of the group that leaves equation, force and laws as they are."""
    s, swap, turn = (int(torch.randint(n, (), generator=generator)) for n in (x.shape[-1], 2, 2))
    return tuple(_moved(u, s, swap, turn) for u in (x, y))


def _moved(u, s, swap, turn):
    n = u.shape[-1]
    u = u.roll((s, -s), (2, 3))
    if swap:
        u = -u.transpose(2, 3).roll(n // 2, 2)
    return u.flip(2, 3).roll((1 + n // 4, 1), (2, 3)) if turn else u


def load(folder):
    """Return the domain, and the parts of the data in units of the training set's standard deviations."""
    data = ok.generate("t1_navier_stokes", folder / "navier_stokes.nc", workers=1)
    u = data.read()
    x, y = u[:, 0] / u[:1000, 0].std(), u[:, 1] / u[:1000, 1].std()
    rows = {"train": slice(0, 1000), "validation": slice(1000, 1100), "test": slice(1100, 1300)}
    return data.domain, {part: (x[r], y[r]) for part, r in rows.items()}


def main(options):
    torch.set_num_threads(1)
    domain, parts = load(options.folder)
    y = parts["train"][1]
    targets = TargetModes.of(y, domain.grid_of(y))
    floor = targets.floor(box(domain, MODES))
    print(f"irreducible error with {MODES} modes: {100 * floor:.3f} %; 0.5 % needs {targets.threshold(5e-3).shape}")
    names = options.cells or list(FIGURE)
    budget = {column: {"seconds": SECONDS, "epochs": EPOCHS}[column] for column in options.columns}
    results = Path(__file__).with_suffix(".json")
    rows = run({n: (FIGURE | REMEDIES)[n] for n in names}, budget, options.seeds, parts, domain, results, symmetry)
    budgets = [f"{SECONDS} seconds", f"{EPOCHS} epochs"]
    table(rows, FIGURE | REMEDIES, budgets)
    draw(rows, FIGURE, floor, results.with_suffix(".png"), budgets)


if __name__ == "__main__":
    main(arguments(__doc__, [0, 1, 2], "runs/t1"))
