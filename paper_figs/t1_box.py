"""T1 in the cosine basis against FNO with domain padding, between walls: Darcy flow, 64 x 64, at equal CPU time and equal epochs.

    -∇·(a ∇u) = 1 on the unit square,   u = 0 on the walls,   a is 12 or 3 by the sign of a Gaussian random field;   a -> u

1000 training, 100 validation and 200 test samples of the recipe fno_darcy. Every contender sees the eight symmetries of the
square as augmentation. The cosine series of a pressure that vanishes at the walls falls as k^-2 only: the irreducible error of
24 x 24 cosines is .9 %, of as many sines .3 %; `--cells "T1, cosine to sine"` reads the coefficient in cosines and makes the
pressure of sines. Numbers: t1_box.json; picture: t1_box.png.

Each finished (model, budget, seed) is written at once and skipped on a restart.

    OMP_NUM_THREADS=1 python paper_figs/t1_box.py [--seeds 0 1 2] [--cells "T1, cosine" FNO] [--columns seconds] [--folder runs/t1]
"""

from pathlib import Path

import torch
from equal_cost import arguments, draw, run, table

import opkernels as ok
from opkernels.mode_selection import TargetModes, box
from opkernels.models import FNO, T1

SECONDS, EPOCHS, MODES = 90, 6, (24, 24)
MIXED = {"basis": "sine", "input_basis": "cosine"}  # the pressure vanishes at the walls, the coefficient does not
PADDED = {"n_modes": (16, 16), "hidden_channels": 24, "n_layers": 4, "domain_padding": 0.25}

CELLS = {  # name: (model, learning rate, moved by the symmetries)
    "T1, cosine": (lambda d: T1(d, 1, 1, n_modes=MODES, hidden_channels=32, n_layers=4), 4e-3, True),
    "T1, sine": (lambda d: T1(d, 1, 1, n_modes=MODES, hidden_channels=32, n_layers=4, basis="sine"), 4e-3, True),
    "FNO, padded": (lambda d: FNO(d, 1, 1, **PADDED), 4e-3, True),
    "FNO": (lambda d: FNO(d, 1, 1, **PADDED | {"domain_padding": 0}), 4e-3, True),
}
MORE = {  # not in the figure
    "T1, cosine to sine": (lambda d: T1(d, 1, 1, n_modes=MODES, hidden_channels=32, n_layers=4, **MIXED), 4e-3, True),
}


def symmetry(x, y, generator):
    """Move a batch of pairs by a random symmetry of the square."""
    turns, mirror = (int(torch.randint(n, (), generator=generator)) for n in (4, 2))
    moved = (u.rot90(turns, (2, 3)) for u in (x, y))
    return tuple(u.flip(2) if mirror else u for u in moved)


def load(folder):
    """Return the domain, and the parts of the data: the coefficient standardized, the pressure in its standard deviation."""
    data = ok.generate("fno_darcy", folder / "darcy.nc", samples=1300, resolution=(64, 64), workers=1)
    a, u = data.read(fields=("coefficient",))[:, 0], data.read(fields=("pressure",))[:, 0]
    x, y = (a - a[:1000].mean()) / a[:1000].std(), u / u[:1000].std()
    rows = {"train": slice(0, 1000), "validation": slice(1000, 1100), "test": slice(1100, 1300)}
    return data.domain, {part: (x[r], y[r]) for part, r in rows.items()}


def main(options):
    torch.set_num_threads(1)
    domain, parts = load(options.folder)
    y = parts["train"][1]
    floors = {b: TargetModes.of(y, domain.grid_of(y), basis=b).floor(box(domain, MODES, b)) for b in ("cosine", "sine")}
    print("irreducible error with " + ", ".join(f"{MODES} {b}s: {100 * f:.2f} %" for b, f in floors.items()))
    names = options.cells or list(CELLS)
    budget = {column: {"seconds": SECONDS, "epochs": EPOCHS}[column] for column in options.columns}
    results = Path(__file__).with_suffix(".json")
    rows = run({n: (CELLS | MORE)[n] for n in names}, budget, options.seeds, parts, domain, results, symmetry)
    budgets = [f"{SECONDS} seconds", f"{EPOCHS} epochs"]
    table(rows, CELLS | MORE, budgets)
    draw(rows, CELLS, floors["cosine"], results.with_suffix(".png"), budgets)


if __name__ == "__main__":
    main(arguments(__doc__, [0, 1, 2], "runs/t1"))
