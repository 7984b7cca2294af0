"""Generation: a recipe becomes a dataset, shard by shard, on several processes; a killed run goes on where it stopped.

Beside the file FILE that is being made lies the folder FILE.parts: a lock, the job, and one checksummed file per shard
of samples. Every file appears under its name complete or not at all. What the shards hold depends on the recipe alone,
so any number of workers, interrupted any number of times, makes the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from opkernels import __version__
from opkernels.datasets import store
from opkernels.datasets.executors import Executor, run_on
from opkernels.datasets.particle_recipe import (
    ParticleRecipe,
    bytes_of_a_simulation,
    draw_arguments,
    first_frame,
    read_particle_recipe,
    solve_shard,
)
from opkernels.datasets.particle_store import layout_of, padded
from opkernels.datasets.particle_trajectories import ParticleTrajectories, open_particles
from opkernels.datasets.realization import constant_fields, draw_parameters, restriction_rules, solve_samples, solver_error
from opkernels.datasets.recipe import Recipe, read_recipe
from opkernels.datasets.recipe_files import bundled, load_data, override
from opkernels.datasets.trajectories import Trajectories, open_trajectories
from opkernels.datasets.workers import run_tasks
from opkernels.storage import locked, read_header, read_tensors, write_tensors, write_text

__all__ = ["generate"]

_ERROR_TASK = -1  # the task that measures the solver's own error
_PATIENCE = 60.0  # seconds until a file that another machine has written must show up here

_ROUGH = 0.01  # error of a solver from which on its user should hear of it
Runner = Callable[[str, dict, Sequence[int]], Iterator[int]]  # (function, job, tasks) -> tasks as they finish


def generate(
    recipe: str | os.PathLike | Mapping,
    path: str | os.PathLike,
    *,
    samples: int | None = None,
    resolution: float | tuple[int, ...] | None = None,
    seed: int | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
) -> Trajectories | ParticleTrajectories:
    """Solve a recipe and store the dataset.

    Parameters
    ----------
    recipe : name of a bundled recipe, path of a YAML file, or dict
        See `opkernels.datasets.recipe` for its keys, and `opkernels.datasets.particle_recipe` for those of particles, which
        name a ``flow`` in place of a solver.
    path : path
        The file to make. If it is already there, made by the same recipe, it is opened.
    samples, resolution, seed : optional
        Take the place of those of the recipe; the resolution of particles is their spacing.
    workers : int, optional
        Processes of this machine; one per core by default. The result does not depend on it.
    executor : Executor, optional
        Takes the place of these processes: a ``dask.distributed.Client``, or anything else with ``submit`` and futures, whose
        workers share the folder of `path` with this process. See `opkernels.datasets.executors`.

    Returns
    -------
    Trajectories, or ParticleTrajectories

    Raises
    ------
    ValueError
        For mistakes in the recipe (all at once), a file made by another recipe, a folder that cannot be written, a full
        disk, another generation of the same file, or a solution that blows up (named by its sample). Finished shards stay,
        and the same call goes on from there.

    Notes
    -----
    Memory holds one shard per worker. The disk holds the data twice until the file is complete.

    Examples
    --------
    >>> from opkernels import generate
    >>> data = generate("fno_navier_stokes_1e-3", "ns.nc", samples=20)  # doctest: +SKIP
    """
    changes = {"samples": samples, "resolution": resolution, "seed": seed}
    data = load_data(recipe) | {k: _plain(v) for k, v in changes.items() if v is not None}
    kind = _kind_of(data)
    checked = kind.read(data)
    run = _runner(workers, executor)
    path = Path(path)
    folder = path.with_name(path.name + ".parts")
    try:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the name of a file in it, such as {path / 'data.nc'}")
        if not _is_done(path, kind, checked):
            with _locked(folder, path):
                if not _is_done(path, kind, checked):  # the process that had the lock may have made it
                    _solve_shards(folder, path, kind, checked, run)
                    _assemble(folder, path, kind, checked)
                shutil.rmtree(folder)
    except OSError as error:
        raise store.cannot_write(path, error) from error
    return kind.open(path)


@dataclass(frozen=True)
class _Kind:
    """What generation asks of a kind of recipe.

    Parameters
    ----------
    read : callable
        ``data -> recipe``, checked.
    open : callable
        ``path -> dataset``.
    solve : callable
        ``(recipe, samples) -> tensors`` of a shard.
    bytes_of : callable
        ``recipe -> bytes`` of one sample.
    write : callable
        ``(path, recipe, folder, errors)``: the file from its shards.
    """

    read: Callable[[Mapping], Any]
    open: Callable[[Path], Any]
    solve: Callable[[Any, range], dict]
    bytes_of: Callable[[Any], int]
    write: Callable[[Path, Any, Path, dict], None]


def _runner(workers: int | None, executor: Executor | None) -> Runner:
    """Return what runs tasks: processes of this machine, or the executor."""
    if executor is not None:
        if workers is not None:
            raise ValueError(f"generate got workers={workers!r} and an executor; leave out workers, the executor has its own")
        if not callable(getattr(executor, "submit", None)):
            raise ValueError(
                f"generate got an executor of type {type(executor).__name__} without submit(function, ...); "
                "give a dask.distributed.Client, or an executor of concurrent.futures"
            )
        return partial(run_on, executor)
    workers = _usable_cores() if workers is None else workers
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"generate got workers={workers!r}; give a number of processes, at least 1")
    return partial(run_tasks, workers=workers)


def _kind_of(data: Mapping) -> _Kind:
    return _PARTICLES if "flow" in data else _GRIDS


def _plain(value):
    """Return a number, or several, of NumPy or Python as Python's; the recipe's reader judges them."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_done(path: Path, kind: _Kind, recipe: Recipe | ParticleRecipe) -> bool:
    """Return whether the file is there; refuse one that was made otherwise."""
    if not path.exists():
        return False
    if kind.open(path).attributes.get("recipe") != json.dumps(recipe.plain):
        raise ValueError(f"{path} is already there and was not made by this recipe; choose another file, or remove it")
    return True


@contextlib.contextmanager
def _locked(folder: Path, path: Path) -> Iterator[None]:
    """Hold the lock of a generation."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(folder / "lock"))
        except BlockingIOError:
            raise ValueError(f"another process is generating {path}; wait for it, or choose another file") from None
        try:
            yield
        finally:
            if folder.exists() and not any(folder.glob("*.shard")):  # nothing worth keeping
                shutil.rmtree(folder)


def _versions() -> dict[str, str]:
    import torch

    return {"opkernels": __version__, "torch": torch.__version__, "numpy": np.__version__}


def _shard_file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.shard"


def _solve_shards(folder: Path, path: Path, kind: _Kind, recipe: Recipe | ParticleRecipe, run: Runner) -> None:
    """Make the shards that are not there yet, and measure the solver's own error."""
    from tqdm import tqdm

    job = {"recipe": dict(recipe.plain), "versions": _versions()}
    _same_job(folder, path, job)
    for left in folder.glob(".*.tmp"):  # of a process that was killed while writing
        left.unlink()
    done = [shard for shard in range(len(recipe.shards)) if _is_whole(_shard_file(folder, shard), _digest(job))]
    todo = [shard for shard in range(len(recipe.shards)) if shard not in done]
    _require_space(folder, path, kind.bytes_of(recipe), recipe, todo)
    if recipe.checked and not (folder / "error.json").exists():
        todo.insert(0, _ERROR_TASK)
    solved = sum(len(recipe.shards[shard]) for shard in done)
    with tqdm(total=recipe.samples, initial=solved, unit="sample", desc=path.name, disable=None, leave=False) as bar:
        for shard in run("datasets.generation:make_shard", job | {"folder": str(folder.resolve())}, todo):
            _wait_for(folder / "error.json" if shard == _ERROR_TASK else _shard_file(folder, shard))
            bar.update(0 if shard == _ERROR_TASK else len(recipe.shards[shard]))


def _same_job(folder: Path, path: Path, job: dict) -> None:
    """Note what is being made, or refuse shards of something else."""
    note = folder / "job.json"
    if note.exists():
        try:
            before = json.loads(note.read_text())
        except ValueError:
            before = {}
        if before != job and any(folder.glob("*.shard")):
            changed = [key for key in job["recipe"] if job["recipe"][key] != before.get("recipe", {}).get(key)] or [
                "the versions of libraries"
            ]
            raise ValueError(
                f"{folder} holds shards of an unfinished generation that differs in {', '.join(changed)}; "
                f"choose another file than {path.name}, or remove that folder"
            )
    write_text(note, json.dumps(job))


def _digest(job: dict) -> int:
    """Return a number by which a shard knows its job: an executor's worker may end one that was given up."""
    return zlib.crc32(json.dumps([job["recipe"], job["versions"]]).encode())


def _is_whole(file: Path, digest: int) -> bool:
    """Return whether a shard of this job is there and agrees with its checksum."""
    try:
        return read_tensors(file)[1].get("job") == digest
    except ValueError:
        return False


def _wait_for(file: Path) -> None:
    """Wait for what a worker has written; file systems of several machines take their time to show it."""
    deadline = time.monotonic() + _PATIENCE
    while not file.exists():
        if time.monotonic() > deadline:
            raise ValueError(
                f"a worker has written {file}, and it is not there; give a path on a file system that this process and "
                "all workers of the executor share under one name"
            )
        time.sleep(min(0.2, _PATIENCE))


def _bytes_of_a_sample(recipe: Recipe) -> int:
    constant = constant_fields(recipe)
    fields = sum(1 if name in constant or recipe.times is None else len(recipe.times) for name in restriction_rules(recipe))
    return fields * math.prod(recipe.resolution) * np.dtype(recipe.dtype).itemsize


def _require_space(folder: Path, path: Path, one: int, recipe: Recipe | ParticleRecipe, todo: list[int]) -> None:
    """Refuse to begin what cannot end: the disk holds the missing shards and the file, of samples of `one` bytes each."""
    needed = one * (recipe.samples + sum(len(recipe.shards[shard]) for shard in todo))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"making {path} takes {needed / 1e9:.3g} GB of disk and {free / 1e9:.3g} GB are free; "
            "ask for fewer samples or times, or choose another disk"
        )


def make_shard(job: dict, shard: int) -> None:
    """Make one shard of a job, or measure the solver's own error; what a worker runs."""
    if (mine := _versions()) != job["versions"]:
        told = ", ".join(f"{name} {version} (here {mine[name]})" for name, version in job["versions"].items() if version != mine[name])
        raise ValueError(f"a worker was asked for {told}; give all workers the same versions, so that they make the same bits")
    kind, folder = _kind_of(job["recipe"]), Path(job["folder"])
    recipe = kind.read(job["recipe"])
    if shard == _ERROR_TASK:
        write_text(folder / "error.json", json.dumps(solver_error(recipe)))
        return
    file = _shard_file(folder, shard)
    tensors = kind.solve(recipe, recipe.shards[shard])
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    try:
        write_tensors(file, tensors, {"first": recipe.shards[shard].start, "shapes": shapes, "job": _digest(job)})
    except Exception as error:  # safetensors has a kind of error of its own for a full disk
        if isinstance(error, OSError) or "os error" in str(error):
            told = store.cannot_write(file, error if isinstance(error, OSError) else OSError(str(error)))
            raise ValueError(f"{told}; finished shards stay, and the same call goes on from there") from error
        raise


def _read_grids(data: Mapping) -> Recipe:
    """Read a recipe of fields on grids; names given twice are told before the work."""
    recipe = read_recipe(data)
    _header(recipe, dict.fromkeys(recipe.parameters, np.empty(0)), {})
    return recipe


def _header(recipe: Recipe, parameters: Mapping[str, np.ndarray], errors: Mapping[str, list[float]]) -> store.Header:
    """Return all of the file but its fields' numbers; refuses names given twice."""
    rules, constant = restriction_rules(recipe), constant_fields(recipe)
    return store.Header(
        recipe.domain,
        recipe.resolution,
        recipe.samples,
        None if recipe.times is None else np.array(recipe.times),
        {name: store.Variable(np.dtype(recipe.dtype), name not in constant, {"restriction": rule}) for name, rule in rules.items()},
        parameters,
        {
            **_provenance(recipe, "solver", recipe.solver),
            # attributes hold 64 kB: of very long evolutions the last error is kept
            **{name: values if len(values) <= 4000 else values[-1:] for name, values in errors.items()},
        },
    )


def _provenance(recipe: Recipe | ParticleRecipe, what: str, name: str) -> dict[str, object]:
    return {
        "title": recipe.plain["title"] or f"{recipe.samples} samples of {name}",
        "source": f"opkernels {__version__}, {name}",
        "references": recipe.plain["references"],
        "recipe": json.dumps(recipe.plain),
        what: name,
        "seed": recipe.seed,
        "versions": ", ".join(f"{name} {version}" for name, version in _versions().items()),
    }


def _assemble(folder: Path, path: Path, kind: _Kind, recipe: Recipe | ParticleRecipe) -> None:
    """Write the file from its shards, under another name first."""
    errors = json.loads((folder / "error.json").read_text()) if recipe.checked else {}
    whole = folder / "whole.nc"
    kind.write(whole, recipe, folder, errors)
    whole.replace(path)


def _write_grids(path: Path, recipe: Recipe, folder: Path, errors: dict) -> None:
    store.write(path, _header(recipe, draw_parameters(recipe, range(recipe.samples)), errors), _blocks(folder, recipe))


def _write_particles(path: Path, recipe: ParticleRecipe, folder: Path, errors: dict) -> None:
    """Write all simulations, filled up to the largest number of particles among them."""
    shards = [read_header(_shard_file(folder, shard))["shapes"] for shard in range(len(recipe.shards))]
    n = max(shapes["position"][2] for shapes in shards)
    first, _ = read_tensors(_shard_file(folder, 0))
    arrays = {name: padded(name, tensor[:1].numpy(), n) for name, tensor in first.items() if name != "support"}
    kinds = {name: ((recipe.samples, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
    support = np.concatenate([block["support"] for _, block in _blocks(folder, recipe)])
    parameters = {"support": support, **draw_arguments(recipe, range(recipe.samples))}
    told = _provenance(recipe, "flow", recipe.flow)
    layout = layout_of(first_frame(recipe).particles.domain, np.array(recipe.times), kinds, parameters, told)
    blocks = ((at, {name: padded(name, block[name], n) for name in kinds}) for at, block in _blocks(folder, recipe))
    store.write_layout(path, layout, blocks)


def _blocks(folder: Path, recipe: Recipe | ParticleRecipe) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    for shard, samples in enumerate(recipe.shards):
        tensors, _ = read_tensors(_shard_file(folder, shard))
        yield samples.start, {name: tensor.numpy() for name, tensor in tensors.items()}


_GRIDS = _Kind(_read_grids, open_trajectories, solve_samples, _bytes_of_a_sample, _write_grids)
_PARTICLES = _Kind(read_particle_recipe, open_particles, solve_shard, bytes_of_a_simulation, _write_particles)


def run(arguments) -> None:
    """Run ``opkernels generate``."""
    if arguments.list:
        for name, file in bundled().items():
            print(f"{name:<28}{load_data(file).get('title', '')}")
        return
    if arguments.recipe is None:
        raise ValueError("name a recipe, or a YAML file; opkernels generate --list shows the recipes that come with the package")
    output = Path(
        arguments.output or f"{Path(arguments.recipe).stem if arguments.recipe.endswith(('.yaml', '.yml')) else arguments.recipe}.nc"
    )
    with _client(arguments.dask) as executor:
        data = generate(override(load_data(arguments.recipe), arguments.overrides), output, workers=arguments.workers, executor=executor)
    print(f"{output}: {data}")
    if told := _told(data.attributes.get("solver_error")):
        print(told)


def _told(error) -> str:
    """Say how large the solver's own error is, where it was measured, and what to do about a large one."""
    largest = float(np.max(error)) if error is not None and np.size(error) else 0.0
    advice = "; a finer resolution, smoother initial states or more viscosity lower it" if largest > _ROUGH else ""
    return f"the solver's own error is at most {100 * largest:.2g} %{advice}" if largest else ""


def _client(address: str | None) -> contextlib.AbstractContextManager[Any]:
    """Return a client of a dask scheduler, or nothing where no address is given."""
    if address is None:
        return contextlib.nullcontext()
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ValueError('--dask needs an extra: pip install "opkernels[dask]"') from error
    try:
        return Client(address, set_as_default=False)  # whatever else uses dask here is none of its business
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot reach a dask scheduler at {address!r} ({error}); give its address, such as tcp://node1:8786") from error
