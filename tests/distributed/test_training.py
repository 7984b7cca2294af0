"""Training on several processes takes the steps of one; a process that ends stops the others, and the run goes on.

One process imports everything once and forks the groups of processes, so that their start costs nothing.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

import opkernels as ok
from opkernels.cli import main
from opkernels.domains import Whole
from opkernels.training import Distributed, Options, read_config
from opkernels.training.checkpoint import holds_checkpoint

SCRIPT = textwrap.dedent(
    """
    import faulthandler, json, os, sys, time
    import numpy as np, torch, opkernels as ok
    import torch.distributed.checkpoint, torch.distributed.fsdp, torch.distributed.tensor  # once, before there are children
    from opkernels.training import Distributed, Options, Regime, fit

    torch.set_num_threads(1)
    calls, stop_at, number = 0, None, None


    def loss(prediction, truth, grid):
        global calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), number)
        return ok.rel_l2(prediction, truth, grid)


    def train(folder, distributed):
        '''Odd sizes, an odd last batch, noise, a chain that grows, gradients of which about half are clipped: 20 steps.'''
        torch.manual_seed(1)
        domain = ok.Domain.periodic(1.0, 2.0)
        u = np.random.default_rng(0).standard_normal((14, 4, 9, 6))
        data = ok.Trajectories.from_arrays({"u": u}, domain, times=np.arange(4.0), parameters={"nu": np.linspace(1, 2, 14)})
        model = ok.models.FNO(domain, 1, 1, n_modes=(3, 3), hidden_channels=5, n_layers=2, n_parameters=1)
        fit(model, data, epochs=4, batch_size=6, lr=1e-2, validation=0.2, run_dir=folder, resume=True, seed=5, loss=loss,
            regime=Regime("unrolled", 2, noise=0.01, curriculum=0.5), precision="float64", quiet=True,
            options=Options(keep="last", gradient_clip=0.35, distributed=Distributed(**distributed)))


    for line in sys.stdin:  # every line a group
        job = json.loads(line)
        children = []
        for rank in range(job["size"]):
            child = os.fork()
            if not child:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["size"]),
                               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(job["port"])}
                faulthandler.dump_traceback_later(200, exit=True)  # a group that hangs says where
                if rank == job["rank"]:
                    stop_at, number = job["stop_at"], job["number"]
                code = 0
                try:
                    train(job["folder"], job["distributed"])
                except BaseException as error:
                    code = 130 if isinstance(error, KeyboardInterrupt) else 2
                    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(code)
            children.append(child)
        codes, ends = {}, []
        while len(codes) < len(children):
            child, status = os.wait()
            codes[child] = os.waitstatus_to_exitcode(status)
            ends.append(time.monotonic())
        print(json.dumps([[codes[child] for child in children], ends[-1] - ends[0]]), flush=True)
    """
)
SIGTERM, SIGKILL = 15, 9


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    """Return a function that trains a group of processes in a folder; gives their exit codes, and what they said."""
    home = tmp_path_factory.mktemp("nursery")
    (home / "train.py").write_text(SCRIPT)
    with (home / "said").open("w") as said:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = ["timeout", "300", sys.executable, str(home / "train.py")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment)

    def group(folder, size, distributed=None, rank=0, stop_at=None, number=SIGKILL):
        before = (home / "said").stat().st_size
        job = {"folder": str(folder), "size": size, "distributed": distributed or {}, "port": free_port()}
        process.stdin.write(json.dumps(job | {"rank": rank, "stop_at": stop_at, "number": int(number)}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        told = (home / "said").read_text()[before:]
        assert line, told
        codes, group.seconds = json.loads(line)  # between the ends of the first and of the last
        return codes, told

    yield group
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def alone(nursery, tmp_path_factory):
    """The folder of the run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert nursery(folder, 1) == ([0], "")
    assert rows(folder)[-1]["step"] == 20
    return folder


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_run(folder, alone):
    """Weights to 1e-6 of their largest, errors to 1e-6; much is lost to no rounding in float64."""
    found, alone, log, expected = ok.load(folder), ok.load(alone), rows(folder), rows(alone)
    for key in ("loss", "validation"):
        assert [row[key] for row in log] == pytest.approx([row[key] for row in expected], rel=1e-6)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-6, atol=1e-6 * float(value.abs().max()))
    assert found.notes["validation"] == pytest.approx(alone.notes["validation"], rel=1e-6)
    assert found.notes["kept_epoch"] == 4


@pytest.mark.parametrize("distributed", [{}, {"domain": 2}, {"domain": 2, "sharded": True}], ids=str)
def test_four_processes_take_the_steps_of_one(nursery, alone, tmp_path, distributed):
    codes, told = nursery(tmp_path / "run", 4, distributed)
    assert codes == [0] * 4, told
    assert_same_run(tmp_path / "run", alone)


def test_a_checkpoint_of_four_is_read_by_one_and_by_two(nursery, alone, tmp_path):
    codes, told = nursery(tmp_path / "four", 4, {"sharded": True}, rank=2, stop_at=9, number=SIGTERM)
    assert codes == [130] * 4, told  # the signal came to one
    four = sorted(path.name for path in (tmp_path / "four").iterdir())
    assert four == ["best.safetensors", "last-00000009", "last.json", "log.csv", "log.jsonl"], "weights of epoch 1, a checkpoint of step 9"
    shards = list((tmp_path / "four" / "last-00000009").iterdir())
    assert len(shards) == 4 and all(path.suffix == ".safetensors" for path in shards), "no pickle"
    for size, distributed in ((1, {}), (2, {"sharded": True})):
        folder = shutil.copytree(tmp_path / "four", tmp_path / str(size))
        codes, told = nursery(folder, size, distributed)
        assert codes == [0] * size, told
        assert_same_run(folder, alone)
        kept = {path.name for path in folder.iterdir()} - {"best.safetensors", "log.csv", "log.jsonl"}
        assert kept == ({"last.json", "last-00000020"} if distributed.get("sharded") else {"last.safetensors"})


def test_a_checkpoint_of_one_is_read_by_processes_that_shard(nursery, alone, tmp_path):
    codes, told = nursery(tmp_path / "run", 1, stop_at=9, number=SIGTERM)
    assert codes == [130] and holds_checkpoint(tmp_path / "run"), told
    codes, told = nursery(tmp_path / "run", 2, {"sharded": True})
    assert codes == [0, 0], told
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.parametrize("distributed", [{"domain": 2}, {"sharded": True}], ids=str)
def test_a_killed_process_stops_the_others_and_the_run_goes_on(nursery, alone, tmp_path, distributed):
    codes, told = nursery(tmp_path / "run", 4, distributed, rank=1, stop_at=9)
    assert nursery.seconds < 60 and sorted(codes) == [-SIGKILL, 2, 2, 2], told
    sentence = r"ConnectionError: process \d of 4 lost another one, .*: the last checkpoint in .*run stays; start .* again with --resume"
    assert len(re.findall(sentence, told)) == 3, told
    codes, told = nursery(tmp_path / "run", 4, {"domain": 2})  # weights dealt out or not
    assert codes == [0] * 4, told
    assert_same_run(tmp_path / "run", alone)


CONFIG = """
data: {path: waves.nc, split: {train: 0.6, validation: 0.2, test: 0.2}}
model: {name: FNO, n_modes: [4, 4], hidden_channels: 4, n_layers: 1}
training: {epochs: 6, batch_size: 4}
distributed: {domain: 2}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    u = torch.randn(10, 4, 8, 6, generator=torch.Generator().manual_seed(0)).numpy()
    domain = ok.Domain.periodic(1.0, 1.0)
    ok.Trajectories.from_arrays({"u": u}, domain, times=[0.0, 1.0, 2.0, 3.0]).save("waves.nc")
    Path("waves.yaml").write_text(CONFIG)
    return tmp_path


COMMAND = """
import os, signal, sys
from pathlib import Path
from opkernels.cli import main
from opkernels.domains import Whole
from opkernels.training.run import Run

epoch = Run._epoch


def killed(run):
    if run.progress.epoch == 2:
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return epoch(run)


Run._epoch = killed if os.environ["RANK"] == "1" else epoch
sys.exit(main(["train", "waves.yaml"]))
"""


def test_torchrun_tells_of_a_killed_process_and_the_command_goes_on_alone(place, capsys):
    """The command line under torchrun, two processes that share fields, one killed in the third epoch; resumed and evaluated by one."""
    Path("command.py").write_text(COMMAND)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "command.py"]
    with Path("said").open("w") as said:
        agent = subprocess.Popen(torchrun, stderr=said, stdout=said, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    try:
        code = agent.wait(timeout=400)  # for three processes that import torch where two cores are shared by many
        stopped = time.time()
    finally:
        if agent.poll() is None:
            os.killpg(agent.pid, SIGKILL)
    told = Path("said").read_text()
    assert code != 0 and ("lost another one" in told or "SIGKILL" in told), told
    assert stopped - Path("killed").stat().st_mtime < 60, told
    before = [json.loads(line)["epoch"] for line in Path("runs/waves/log.jsonl").read_text().splitlines()]
    assert before == [1, 2], told
    assert main(["train", "runs/waves", "--resume", "--quiet"]) == 0
    assert main(["evaluate", "runs/waves"]) == 0 and "rel" in capsys.readouterr().out
    assert len(Path("runs/waves/log.jsonl").read_text().splitlines()) == 6


def test_what_does_not_fit_is_refused():
    from opkernels.training.parallel import Group, _split
    from opkernels.training.prepare import _check_split

    line = ok.Domain.periodic(1.0)
    assert (
        read_config({"data": {"path": "a.nc"}, "model": {"name": "FNO", "n_modes": [4]}, "distributed": {"domain": 2}}).distributed.domain
        == 2
    )
    with pytest.raises(ValueError, match="distributed.domain"):
        read_config({"data": {"path": "a.nc"}, "model": {"name": "FNO", "n_modes": [4]}, "distributed": {"domain": 0}})
    for domain in (0, -2, 2.0):
        with pytest.raises(ValueError, match="fit got options.distributed.domain=.*; give a whole number of at least 1"):
            ok.fit(None, None, options=Options(distributed=Distributed(domain)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got distributed.domain=3 for 4 processes; start a multiple of it"):
        _split(3, 4, torch.device("cpu"))
    assert Options(distributed=Distributed(2, True)).distributed.sharded
    with pytest.raises(ValueError, match="Linear.forward takes no grid, and cannot know that its field is split"):
        _check_split(torch.nn.Linear(1, 1), line, False)
    with pytest.raises(ValueError, match="shifts=True moves samples from one process to another"):
        _check_split(ok.models.FNO(line, 1, 1, n_modes=(2,), hidden_channels=2), line, True)
    assert Group(0, 1, torch.device("cpu")).wrap(module := torch.nn.Linear(1, 1)) is module


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda d: ok.models.T1(d, 1, 1, n_modes=(3, 3), hidden_channels=2, n_layers=1), "T1 needs whole fields; leave out"),
        (lambda d: ok.models.UNet(d, 1, 1, hidden_channels=2, n_layers=1), "UNet needs whole fields; .* or take FNO, FFNO"),
        (lambda d: ok.models.FactFormer(d, 1, 1, hidden_channels=4, n_layers=1, bandwidth=2), "FactFormer needs whole fields"),
        (lambda d: ok.models.SFNO(ok.Sphere(), 1, 1, n_modes=2, hidden_channels=2, n_layers=1), "fields on a sphere are not split over"),
    ],
    ids=["T1", "UNet", "FactFormer", "SFNO"],
)
def test_a_model_that_needs_whole_fields_is_refused_before_any_data_are_read(build, message, monkeypatch):
    from opkernels.training.prepare import prepare

    model = build(ok.Domain.periodic(1.0, 1.0))
    data = ok.Trajectories.from_arrays({"u": torch.zeros(3, 4, 8, 16)}, model.domain, times=range(4))
    monkeypatch.setattr(ok.Trajectories, "read", lambda *_, **__: pytest.fail("data were read"))
    rest = dict.fromkeys(("inputs", "outputs", "parameters", "regime", "target", "memory"))
    with pytest.raises(ValueError, match=message):
        prepare(model, data, validation=0.0, shifts=False, dtype=torch.float32, device=torch.device("cpu"), split=Halves(), **rest)


class Halves(Whole):
    """How a field is held of which this process has a half."""

    size = 2
