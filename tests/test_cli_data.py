"""The command line of datasets: generate, inspect, info; help is quick, mistakes are one sentence."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest

from opkernels import Domain, Trajectories, cli, open_trajectories

SMALL = ["samples=3", "resolution=16", "times=[0, 0.05]", "checked=1"]


def run(capsys, *words):
    code = cli.main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_help_is_quick_and_loads_no_library():
    words = "[cli.main(line.split()) for line in ('--help', 'generate --help')]"
    code = f"import sys; from opkernels import cli; {words}; print({{'torch', 'numpy'}} & {{*sys.modules}})"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        seconds.append(time.perf_counter() - start)
    assert out.endswith("set()\n") and min(seconds) < 0.5


def test_every_command_has_help_with_examples(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(f"  {command.name} " in out for command in cli.COMMANDS)
    for command in cli.COMMANDS:
        code, out, _ = run(capsys, command.name, "--help")
        assert code == 0 and "examples:" in out and f"opkernels {command.name}" in out.partition("examples:")[2]
        assert all(line.split()[0] for line in command.examples.splitlines())


def test_generate_and_inspect(capsys, tmp_path):
    file = str(tmp_path / "d.nc")
    code, out, err = run(capsys, "generate", "navier_stokes_viscosities", "-o", file, *SMALL, "--workers", "1")
    assert code == 0 and "3 samples of vorticity on 16 x 16 points" in out and err == ""
    assert re.search(r"the solver's own error is at most [\d.e-]+ %", out)
    assert open_trajectories(file).parameters["viscosity"].shape == (3,)
    picture = tmp_path / "d.png"
    code, out, err = run(capsys, "inspect", file, "--picture", str(picture))
    assert code == 0 and picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    for part in (
        "memory-mapped", "2 from 0 to 0.05", "axis x", "periodic, 16 node samples", "float32 3 x 2 x 16 x 16", "restricted by spectral",
        "parameter viscosity", "NavierStokes2D", "seed 0", "relative L2, n against 2n", "name: NavierStokes2D",
    ):  # fmt: skip
        assert part in out, part


def test_generate_says_what_to_do_about_a_large_error(capsys, tmp_path):
    rough = ["samples=1", "resolution=16", "times={start: 0, stop: 1, count: 2}", "initial.sigma=400"]
    code, out, _ = run(capsys, "generate", "fno_navier_stokes_1e-5", "-o", str(tmp_path / "d.nc"), *rough, "--workers", "1")
    assert code == 0 and "%; a finer resolution" in out


def test_generate_lists_its_recipes(capsys):
    code, out, _ = run(capsys, "generate", "--list")
    assert code == 0 and "fno_navier_stokes_1e-3" in out and "navier_stokes_demo" in out


@pytest.mark.parametrize("shape,domain", [
    ((2, 5, 32), Domain.periodic(1.0)), ((2, 12, 9), Domain.box(1.0, 3.0)), ((2, 5, 8, 6, 4), Domain.periodic(1.0, 1.0, 1.0)),
    ((2, 16), Domain.box(1.0)),
])  # fmt: skip
def test_pictures_of_every_dimension(shape, domain, tmp_path):
    from opkernels.datasets.inspection import describe, draw

    evolving = len(shape) == domain.ndim + 2
    data = Trajectories.from_arrays({"u": np.random.default_rng(0).random(shape)}, domain, np.arange(5) if evolving else None)
    draw(data, tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 3000
    data.save(tmp_path / "d.nc")
    assert ("5 from 0 to 4, every 1" if evolving else "stationary") in describe(tmp_path / "d.nc")


def test_inspect_tells_of_nan(capsys, tmp_path):
    values = np.zeros((2, 8))
    values[1, 3] = np.nan
    Trajectories.from_arrays({"u": values}, Domain.periodic(1.0)).save(tmp_path / "d.nc")
    assert "1 numbers that are NaN or infinite" in run(capsys, "inspect", str(tmp_path / "d.nc"))[1]


@pytest.mark.parametrize("words,told", [
    (["genrate"], "no command 'genrate'; did you mean generate?"),
    (["zzz"], "choose one of"),
    (["inspect"], "the following arguments are required: FILE"),
    (["inspect", "none.nc"], "there is no file none.nc"),
    (["inspect", "none.nc", "--colour"], "unrecognized arguments: --colour"),
    (["generate"], "name a recipe"),
    (["generate", "navier_stokes_dem"], "did you mean navier_stokes_demo"),
    (["generate", "navier_stokes_demo", "sample=3"], "no key sample; did you mean samples"),
    (["generate", "navier_stokes_demo", "samples"], "write key=value"),
    (["generate", "navier_stokes_demo", "--workers", "two"], "argument --workers: invalid int value"),
    (["generate", "navier_stokes_demo", "--workers", "0"], "number of processes"),
    (["generate", "navier_stokes_demo", "-o", "/proc/none/d.nc"], "cannot write"),
])  # fmt: skip
def test_mistakes_are_one_sentence_and_exit_code_2(capsys, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words)
    assert code == 2 and told in err and out == ""
    assert err.startswith("opkernels") and err.count("\n") == 1 and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        cli.main(["inspect", str(tmp_path / "none.nc"), "--debug"])


def test_info_and_version(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0 and "torch" in out and "cores" in out
    assert run(capsys, "--version")[1].startswith("opkernels ")
    assert run(capsys)[0] == 2


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "opkernels", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
