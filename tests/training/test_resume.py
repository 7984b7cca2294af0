"""A run killed at any moment resumes to the same bits."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from opkernels.storage import read_tensors

SCRIPT = textwrap.dedent(
    """
    import os, sys
    import numpy as np, torch, opkernels as ok
    from torch import nn
    from opkernels.training import Options, Regime, fit

    torch.set_num_threads(1)
    samples, precision, dropout = 14, sys.argv[2], sys.argv[3] == "dropout"
    domain = ok.Domain.periodic(1.0, 1.0)
    u = np.random.default_rng(0).standard_normal((samples, 4, 8, 6))
    data = ok.Trajectories.from_arrays({"u": u}, domain, times=np.arange(4.0), parameters={"nu": np.linspace(1, 2, samples)})


    class Dropping(nn.Module):  # draws random numbers while training
        n_parameters = 1

        def __init__(self):
            super().__init__()
            self.model = ok.models.FNO(domain, 1, 1, n_modes=(3, 3), hidden_channels=4, n_layers=1, n_parameters=1)

        def forward(self, x, parameters, grid=None, output_shape=None):
            if dropout:
                x = nn.functional.dropout(x, 0.1, self.training)
            return self.model(x, parameters=parameters, grid=grid)


    def train(folder, epochs):
        torch.manual_seed(1)
        regime = Regime("unrolled", 2, noise=0.01, curriculum=0.5)
        fit(Dropping(), data, epochs=epochs, batch_size=6, lr=1e-2, validation=0.2, run_dir=folder, resume=True, seed=5,
            regime=regime, precision=precision, quiet=True, options=Options(shifts=True), on_start=lambda: print("started", flush=True))


    if sys.argv[1] != "fork":
        train(sys.argv[1], 3)
    for folder in sys.stdin if sys.argv[1] == "fork" else ():  # every line a run in a child of its own, which may be killed
        child = os.fork()
        if not child:
            train(folder.strip(), 20)
            os._exit(0)
        print(child, flush=True)
        print("ended", os.waitpid(child, 0)[1], flush=True)
    """
)


def start(script, *arguments):
    command = [sys.executable, str(script), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def final(folder):
    tensors, header = read_tensors(folder / "last.safetensors")
    return tensors, header["progress"]


@pytest.fixture
def nursery(tmp_path):
    """A process that has imported everything and trains in children."""
    (tmp_path / "train.py").write_text(SCRIPT)
    process = start(tmp_path / "train.py", "fork", "float32", "dropout")
    yield process
    process.communicate(timeout=60)


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_no_trace(tmp_path, same_weights, nursery):
    epochs = 20

    def run(folder, patience=None):
        """Run, and kill after `patience` seconds of training; return whether the run was cut off."""
        nursery.stdin.write(f"{folder}\n")
        nursery.stdin.flush()
        lines = {nursery.stdout.readline().strip(), nursery.stdout.readline().strip()}
        child = int(next(line for line in lines if line.isdigit()))
        assert "started" in lines
        if patience is not None:
            time.sleep(patience)
            with contextlib.suppress(ProcessLookupError):  # it was done already
                os.kill(child, signal.SIGKILL)
        return nursery.stdout.readline() == f"ended {int(signal.SIGKILL)}\n"

    begin = time.perf_counter()
    assert not run(tmp_path / "whole")
    whole = time.perf_counter() - begin
    rng, kills, folders = random.Random(0), 0, [tmp_path / "cut-0"]
    while kills < 10:
        if run(folders[-1], rng.uniform(0.0, 0.2) * whole):
            kills += 1
        else:  # it came to its end; kill another
            folders.append(tmp_path / f"cut-{len(folders)}")
    run(folders[-1])
    for folder in folders:
        assert_same_run(tmp_path / "whole", folder, epochs, same_weights)


def assert_same_run(whole, cut, epochs, same_weights):
    (one, told), (other, said) = final(whole), final(cut)
    same_weights(one, other)  # weights and optimizer
    assert told == said and said["stopped"] == "finished"
    same_weights(read_tensors(whole / "best.safetensors")[0], read_tensors(cut / "best.safetensors")[0])
    rows = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, cut)]
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
    assert rows[0] == rows[1] and len(rows[0]) == epochs
    assert sorted(p.name for p in cut.iterdir()) == ["best.safetensors", "last.safetensors", "log.csv", "log.jsonl"]


def test_shares_of_a_batch_add_up():
    from opkernels.training.parallel import Group

    for size in (1, 2, 3, 5):
        for n in (1, 2, 3, 7, 16):
            groups = [Group(rank, size, torch.device("cpu")) for rank in range(size)]
            seen = [i for g in groups if g.weight(n) for i in range(n)[g.share(n)]]
            assert seen == list(range(n)) and sum(g.weight(n) for g in groups) == pytest.approx(1)
            assert all(len(range(n)[g.share(n)]) > 0 for g in groups)
            assert all(len(range(n)[g.share(n)]) == pytest.approx(n * g.weight(n)) for g in groups if g.weight(n))
