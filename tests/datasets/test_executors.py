"""Generation on any executor: the same bytes as on processes of this machine, also where a worker is killed at work."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from opkernels import generate, open_trajectories
from opkernels.cli import main
from opkernels.datasets import generation

RECIPE = {
    "solver": {"name": "NavierStokes2D", "viscosity": {"loguniform": ["1e-2", "1e-1"]}},
    "domain": {"periodic": [1, "2*pi"]},
    "initial": {"name": "GaussianRandomField", "alpha": 2.5, "tau": 3},
    "times": {"stop": 0.2, "count": 3},
    "resolution": [16, 12],
    "samples": 7,
    "batch": 2,
    "checked": 1,
}
LONG = RECIPE | {"resolution": [64, 48], "times": {"stop": 4.0, "count": 3}, "samples": 16, "batch": 1, "dtype": "float64"}


class Bare:
    """The futures protocol and no more; a task runs when its future is asked, and `lose` loses those of these numbers."""

    def __init__(self, lose=(), skip=False):
        self.lose, self.skip, self.cancelled, self.calls = lose, skip, 0, []

    def submit(self, function, /, *arguments):
        owner = self

        class Task:
            def done(self):
                owner.calls.append(arguments)
                return True

            def result(self):
                if arguments[2] in owner.lose:
                    raise OSError("node 7 is gone")
                return None if owner.skip else function(*arguments)

            def cancel(self):
                owner.cancelled += 1
                raise OSError("so is its queue")

        return Task()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes that processes of this machine make."""
    path = tmp_path_factory.mktemp("whole") / "d.nc"
    generate(RECIPE, path, workers=1)
    return path.read_bytes()


def test_threads_and_the_bare_protocol_make_the_same_bytes(tmp_path, whole):
    with ThreadPoolExecutor(2) as executor:
        generate(RECIPE, tmp_path / "threads.nc", executor=executor)
        assert executor.submit(int).result() == 0, "the executor stays open"
    generate(RECIPE, tmp_path / "bare.nc", executor=(bare := Bare()))
    assert (tmp_path / "threads.nc").read_bytes() == (tmp_path / "bare.nc").read_bytes() == whole
    assert bare.cancelled == 0 and [a[2] for a in bare.calls] == [-1, 0, 1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.nc", "threads.nc"]


def test_a_lost_task_is_told_and_the_same_call_goes_on(tmp_path, whole):
    with pytest.raises(RuntimeError, match=r"the executor gave up task 1 \(OSError: node 7 is gone\); what is finished stays"):
        generate(RECIPE, tmp_path / "d.nc", executor=(bare := Bare(lose=(1,))))
    assert bare.cancelled == 2, "those after it"
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "d.nc.parts").glob("*.shard")}
    generate(RECIPE, tmp_path / "d.nc", executor=(again := Bare()))
    assert kept and [a[2] for a in again.calls] == [t for t in (-1, 0, 1, 2, 3) if f"{t:06d}.shard" not in kept and t >= 0]
    assert (tmp_path / "d.nc").read_bytes() == whole
    assert len({a[3] for a in bare.calls + again.calls}) == 2, "a call is not answered from memory of an earlier one"


def test_the_first_refusal_cancels_the_others(tmp_path):
    class Waiting(Bare):
        """Only the first task ever runs."""

        def submit(self, function, /, *arguments):
            future = super().submit(function, *arguments)
            if arguments[2] > 0:
                future.done = lambda: False
            return future

    bad = RECIPE | {"parameters": {"k": {"choice": [1, 0]}}, "initial": "sin(2*pi*x)/k", "checked": 0}
    with pytest.raises(ValueError, match="sample"):
        generate(bad, tmp_path / "d.nc", executor=(waiting := Waiting()))
    assert waiting.cancelled == 3


def test_a_failure_of_another_kind_carries_its_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "write_tensors", lambda *_: {}["no such key"])
    with ThreadPoolExecutor(1) as executor, pytest.raises(RuntimeError, match="task 0 failed: KeyError.*\n.*Traceback"):
        generate(RECIPE | {"checked": 0}, tmp_path / "d.nc", executor=executor)


def test_folders_and_versions_that_are_not_shared_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "_PATIENCE", 0.1)
    with pytest.raises(ValueError, match="d.nc.parts/error.json, and it is not there; give a path on a file system that .* share"):
        generate(RECIPE, tmp_path / "d.nc", executor=Bare(skip=True))
    job = {"recipe": RECIPE, "folder": str(tmp_path), "versions": generation._versions() | {"torch": "1.0"}}
    with pytest.raises(ValueError, match=r"a worker was asked for torch 1.0 \(here .*give all workers the same versions"):
        generation.make_shard(job, 0)


def test_a_shard_that_a_worker_made_for_another_job_is_made_again(tmp_path, whole):
    other = RECIPE | {"seed": 1}
    generate(other, tmp_path / "other.nc", workers=1)
    job = {"recipe": dict(generation._read_grids(other).plain), "versions": generation._versions(), "folder": str(tmp_path / "d.nc.parts")}
    generation.make_shard(job, 2)  # after the call that wanted it has ended and taken its folder away
    generate(RECIPE, tmp_path / "d.nc", workers=1)
    assert (tmp_path / "d.nc").read_bytes() == whole != (tmp_path / "other.nc").read_bytes()


def test_executors_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got workers=2 and an executor; leave out workers"):
        generate(RECIPE, tmp_path / "d.nc", workers=2, executor=Bare())
    with pytest.raises(ValueError, match=r"got an executor of type int without submit"):
        generate(RECIPE, tmp_path / "d.nc", executor=3)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["nonsense", "foo://here:1"])
def test_a_dask_address_that_is_none_is_refused(address, tmp_path, capsys):
    pytest.importorskip("dask.distributed", reason="needs the extra dask")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(str(RECIPE))
    assert main(["generate", str(recipe), "-o", str(tmp_path / "r.nc"), "--dask", address]) == 2
    assert f"cannot reach a dask scheduler at {address!r} (" in (told := capsys.readouterr().err)
    assert "give its address, such as tcp://node1:8786" in told and not (tmp_path / "r.nc").exists()


def test_dask_that_is_not_installed_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(str(RECIPE))
    assert main(["generate", str(recipe), "-o", str(tmp_path / "r.nc"), "--dask", "tcp://here:1"]) == 2
    assert '--dask needs an extra: pip install "opkernels[dask]"' in capsys.readouterr().err


def test_two_dask_workers_make_the_same_bytes_and_one_may_be_killed(tmp_path, capsys):
    """The recipe is solved here (`test_generation` has the processes), by two workers of which one is killed, and by the command."""
    distributed = pytest.importorskip("dask.distributed", reason="needs the extra dask")
    path = tmp_path / "cut.nc"
    generate(LONG, tmp_path / "whole.nc", workers=1)
    quiet = {"dashboard_address": None, "silence_logs": 50, "threads_per_worker": 1}
    with distributed.LocalCluster(n_workers=2, **quiet) as cluster, distributed.Client(cluster) as client:
        victim = next(iter(client.run(os.getpid).values()))
        killed = threading.Event()

        def kill() -> None:
            folder = path.with_name("cut.nc.parts")
            while not list(folder.glob("*.shard")):
                time.sleep(0.005)
            os.kill(victim, signal.SIGKILL)
            if not path.exists():
                killed.set()

        threading.Thread(target=kill, daemon=True).start()
        data = generate(LONG, path, executor=client)
        assert killed.is_set(), "the worker was killed while the others were at work"
        assert len(data) == 16 and path.read_bytes() == (tmp_path / "whole.nc").read_bytes()
        recipe = tmp_path / "r.yaml"
        recipe.write_text(str(RECIPE))
        assert main(["generate", str(recipe), "-o", str(tmp_path / "r.nc"), "--dask", cluster.scheduler_address]) == 0
    assert "7 samples" in capsys.readouterr().out and len(open_trajectories(tmp_path / "r.nc")) == 7
