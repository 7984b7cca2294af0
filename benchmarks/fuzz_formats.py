"""Damaged and hostile files of every kind, given to the converter: no traceback, no hang, no code run.

Files of each kind are cut short, have bytes changed, blocks zeroed or turned round, arrays and attributes replaced by others of
wrong shapes and types, or are pickles that would run code. What comes of the conversion of each is one of

| outcome   | means                                                                         |
| --------- | ----------------------------------------------------------------------------- |
| refused   | a ValueError in one sentence that names the file                              |
| read      | converted: the damage lies in the numbers, or nowhere that matters            |
| crashed   | the library that reads the file took its process down                         |
| hung      | the library went round in circles: no answer in 2 seconds of CPU time         |
| traceback | any other error, or more than one line                                        |

Crashes and endless loops of HDF5 are beyond a caller in the same process; ``opkernels convert`` works in another one. Each such
file, the first three of a kind, is given to it too: "answered" counts those to which it said one sentence, with exit code 2.

    python benchmarks/fuzz_formats.py --files 1000
"""

import argparse
import contextlib
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

KINDS = ("native", "pdebench", "the_well", "pdearena", "mat", "mat73", "neuralop", "lagrangebench")
RESULTS = Path(__file__).parent / "results" / "fuzz_formats.json"
PATIENCE = 2  # seconds of CPU time for a file; a good one takes hundredths
MEMORY = 12 << 30  # address space of the process that converts


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def originals(folder: Path) -> dict[str, list[Path]]:
    """Write some good files of each kind, and return their paths."""
    from opkernels import Axis, Domain, Trajectories, generate
    from opkernels.datasets.formats import conversion, lagrangebench

    numbers = np.random.default_rng(0)
    mixed = Domain((Axis(0.0, 2.0, periodic=True, points="node"), Axis(-1.0, 1.0)))
    times, parameters = np.arange(4.0), {"nu": np.array([0.1, 0.2, 0.3])}
    draw = lambda *shape: numbers.standard_normal((3, *shape)).astype("f4")  # noqa: E731
    line = Trajectories.from_arrays({"u": draw(4, 16)}, Domain.periodic(1.0), times, parameters)
    flow = {"density": draw(4, 8, 6), "velocity_x": draw(4, 8, 6), "velocity_y": draw(4, 8, 6), "force": draw(8, 6)}
    flow = Trajectories.from_arrays(flow, mixed, times, parameters)
    pair = Trajectories.from_arrays({"u": draw(4, 8, 6), "v": draw(4, 8, 6)}, mixed, times, parameters)
    still = Trajectories.from_arrays({"a": draw(8, 6), "p": draw(8, 6)}, mixed)
    files: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for name, data in {"line": line, "flow": flow, "pair": pair, "still": still}.items():
        data.save(folder / f"{name}.nc")
        files["native"].append(folder / f"{name}.nc")
        for kind in KINDS[1:-1]:
            try:
                conversion.convert(folder / f"{name}.nc", folder / f"{name}.{kind}", kind)
            except ValueError:  # not every format takes all of them
                continue
            files[kind].append(folder / f"{name}.{kind}")
    recipe = {"flow": "taylor_green", "times": {"stop": 1, "count": 4}, "resolution": 0.125, "samples": 4}
    lagrangebench.write_lagrangebench(generate(recipe, folder / "tgv.nc", workers=1), folder / "tgv")
    files["lagrangebench"].append(folder / "tgv")
    return files


def damaged(path: Path, target: Path, numbers: np.random.Generator, sentinel: Path) -> str:
    """Write a damaged copy of a file and return what was done to it."""
    if path.is_dir():
        shutil.copytree(path, target)
        path = path / ("train.h5", "metadata.json")[int(numbers.integers(2))]
        target = target / path.name
    content = bytearray(path.read_bytes())
    ways = ["cut", "bytes", "bytes", "head", "zeros", "swap"]
    hdf5 = content[:8] == b"\x89HDF\r\n\x1a\n" or content[512:520] == b"\x89HDF\r\n\x1a\n"
    ways += ["arrays", "arrays", "attributes"] if hdf5 else []
    ways += ["arrays", "pickle", "pickle"] if path.suffix == ".neuralop" else ["arrays"] if path.suffix == ".mat" else []
    way = ways[int(numbers.integers(len(ways)))]
    size = len(content)
    if way == "cut":
        content = content[: int(numbers.integers(size))]
    elif way in ("bytes", "head"):  # the first kilobytes of these files are all structure
        for at in numbers.integers(0, min(size, 4096) if way == "head" else size, size=int(numbers.integers(1, 40))):
            content[at] = int(numbers.integers(256))
    elif way in ("zeros", "swap"):
        a, b = sorted(int(at) for at in numbers.integers(0, size, size=2))
        b = min(b, a + 2048)
        content[a:b] = bytes(b - a) if way == "zeros" else content[a:b][::-1]
    target.write_bytes(content)
    if way in ("arrays", "attributes") and hdf5:
        distort_hdf5(target, way, numbers)
    elif way == "arrays" and path.suffix == ".mat":
        distort_mat(target, numbers)
    elif way in ("arrays", "pickle"):
        distort_pt(target, way, numbers, sentinel)
    return way


def strange(numbers: np.random.Generator):
    """Return something that no reader expects where numbers should be."""
    choices = (
        np.array(["a", "b"], dtype="S4"), np.zeros(3, complex), np.zeros((2, 2, 2, 2, 2, 2)), np.zeros(0), np.float32(1),
        np.full((3, 4), np.nan), np.arange(7, dtype="i1"), np.zeros((3, 4, 8), dtype=[("r", "f4"), ("i", "f4")]),
        np.zeros((3, 4, 8, 6), dtype="f2"), np.zeros((3, 4, 16, 1)), np.full(16, -1.0), np.arange(16.0)[::-1],
        np.full((3, 4, 8, 6), 7, dtype="u8"), np.array(10**18), np.inf, np.ones((1, 1), dtype=bool),
    )  # fmt: skip
    return choices[int(numbers.integers(len(choices)))]


def distort_hdf5(path: Path, way: str, numbers: np.random.Generator) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        items = [file]
        file.visititems(lambda name, item: items.append(item))
        told = [item for item in items if len(item.attrs)]
        if way == "attributes" and told:
            item = told[int(numbers.integers(len(told)))]
            name = list(item.attrs)[int(numbers.integers(len(item.attrs)))]
            del item.attrs[name]
            if numbers.random() < 0.7:
                item.attrs[name] = (b"\xff\xfe{", "{", '{"domain": 1}', strange(numbers))[int(numbers.integers(4))]
            return
        item = items[1:][int(numbers.integers(len(items) - 1))]
        parent, name = item.parent, str(item.name).rpartition("/")[2]
        shape = getattr(item, "shape", ())
        del parent[name]
        what = int(numbers.integers(4))
        if what == 1:
            parent[name] = strange(numbers)
        elif what == 2:
            parent.create_group(name)
        elif what == 3 and shape:  # claims more than there is
            huge = tuple(int(n) * 10 ** int(numbers.integers(0, 7)) for n in shape)
            parent.create_dataset(name, huge, dtype="f4", chunks=tuple(min(n, 4) for n in huge))


def distort_mat(path: Path, numbers: np.random.Generator) -> None:
    from scipy.io import loadmat, savemat

    found = {name: value for name, value in loadmat(path).items() if name[0] != "_"}
    name = list(found)[int(numbers.integers(len(found)))]
    cell = np.array([[np.zeros(3), "text"], [1.0, np.zeros((2, 0))]], dtype=object)
    odd = (strange(numbers), cell, {"field": np.zeros(3)}, "text", np.zeros((0, 5)))[int(numbers.integers(5))]
    savemat(path, {**found, name: odd}, do_compression=bool(numbers.integers(2)))


def distort_pt(path: Path, way: str, numbers: np.random.Generator, sentinel: Path) -> None:
    import torch

    bomb, n = Bomb(sentinel), int(numbers.integers(4))
    if way == "pickle":
        hostile = {"x": torch.zeros(3, 4), "y": torch.zeros(3, 4), "z": bomb}
        if n < 2:
            torch.save((hostile, bomb)[int(numbers.integers(2))], path, _use_new_zipfile_serialization=n == 0)
        else:
            path.write_bytes(pickle.dumps(hostile if n == 2 else bomb, protocol=int(numbers.integers(2, 5))))
        return
    odd = (
        None, [1, 2], torch.zeros(3, 4).to_sparse(), torch.zeros(3, 4, dtype=torch.complex64), torch.zeros(1).expand(10**9, 4),
        torch.zeros(()), torch.zeros(3, 0), "text", torch.zeros(3, 4, dtype=torch.bfloat16), {"a": 1}, torch.zeros(2, 3, 4, 5, 6, 7),
        torch.empty(3, 4, device="meta"),
    )[int(numbers.integers(12))]  # fmt: skip
    content = {"x": torch.zeros(3, 4), "y": torch.zeros(3, 4)}
    torch.save(
        odd if n == 0 else {**content, ("x", "y", "opkernels")[n - 1]: odd}, path, _use_new_zipfile_serialization=numbers.random() < 0.7
    )


def serve() -> None:
    """Convert the files named on standard input, one a line, each in a fork of this process, and say what came of each."""
    from opkernels.datasets.formats.conversion import convert

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)
    for line in sys.stdin:
        path, out, to = line.rstrip("\n").split("\t")
        source, sink = os.pipe()
        child = os.fork()
        if not child:
            resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE + 1))
            os.write(sink, said(convert, path, out, to).encode()[:4000])
            os._exit(0)
        os.close(sink)
        word = os.read(source, 4096).decode(errors="replace")
        os.close(source)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print("hung" if status == -signal.SIGXCPU else word or f"crashed {status}", flush=True)


def said(convert, path: str, out: str, to: str) -> str:
    """Convert one file and return the outcome, in one line."""
    warnings.simplefilter("ignore")
    try:
        convert(path, out, to)
        return "read"
    except ValueError as error:
        one = str(error) and "\n" not in str(error) and (Path(path).name in str(error) or Path(out).name in str(error))
        return "refused" if one else f"traceback {error!r}"
    except BaseException as error:
        return " ".join(f"traceback {error!r}".split())


@contextlib.contextmanager
def converter():
    """Give a function (path, out, to) -> outcome, answered by a process of its own."""
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "ready\n", "the converter does not start"
        asked, answers = process.stdin, process.stdout

        def ask(path: Path, out: Path, to: str) -> str:
            asked.write(f"{path}\t{out}\t{to}\n")
            asked.flush()
            return answers.readline().strip()

        yield ask
        asked.close()


def answered(path: Path, out: Path) -> bool:
    """Whether the command answers a file in one line on standard error, with exit code 2."""
    command = [sys.executable, "-m", "opkernels", "convert", str(path), str(out), "--to", "native", "--patience", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return done.returncode == 2 and done.stderr.count("\n") == 1 and path.name in done.stderr


def fuzz(files: int, kinds=KINDS, seed: int = 0, report=print, check: int = 3) -> dict:
    """Return the counts of outcomes by kind, and the files with an outcome that should not be."""
    counts: dict = {}
    with tempfile.TemporaryDirectory() as place, converter() as ask:
        folder = Path(place)
        sentinel, good = folder / "ran", originals(folder)
        for kind in kinds:
            found: dict = {
                "files": files,
                "refused": 0,
                "read": 0,
                "crashed": 0,
                "hung": 0,
                "answered": 0,
                "traceback": 0,
                "ways": {},
                "worst": [],
            }
            started, slowest = time.monotonic(), 0.0
            for at in range(files):
                numbers = np.random.default_rng([seed, KINDS.index(kind), at])
                source = good[kind][at % len(good[kind])]
                target = folder / f"damaged-{kind}-{at}"
                way = damaged(source, target, numbers, sentinel)
                before = time.monotonic()
                outcome = ask(target, folder / "out", "pdebench" if kind == "native" and at % 2 else "native")
                slowest = max(slowest, time.monotonic() - before) if at else 0.0
                word = outcome.split()[0]
                found[word] += 1
                found["ways"].setdefault(way, {}).setdefault(word, 0)
                found["ways"][way][word] += 1
                if word not in ("refused", "read"):
                    told = answered(target, folder / "out") if word != "traceback" and len(found["worst"]) < check else None
                    found["answered"] += bool(told)
                    found["worst"].append({"file": at, "way": way, "outcome": outcome, "answered": told})
                shutil.rmtree(target) if target.is_dir() else target.unlink()
            found |= {"code_run": sentinel.exists(), "seconds": round(time.monotonic() - started, 1), "slowest": round(slowest, 2)}
            counts[kind] = found
            report(
                f"{kind:<14}"
                + "  ".join(f"{name} {found[name]}" for name in ("refused", "read", "crashed", "hung", "answered", "traceback", "code_run"))
            )
        counts["left_behind"] = sorted(path.name for path in folder.glob(".*"))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000, help="files of each kind")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    for kind in arguments.kinds:
        found = fuzz(arguments.files, [kind], arguments.seed)
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(known | found, indent=1))


if __name__ == "__main__":
    main()
