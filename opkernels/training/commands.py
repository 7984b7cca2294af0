"""The command ``opkernels train CONFIG [key=value ...]``: read, check, train every seed, say what came of it."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from pathlib import Path

from opkernels.configuration import describes_particles
from opkernels.storage import write_text
from opkernels.training.checkpoint import holds_checkpoint
from opkernels.training.config import Config, read_config

__all__ = ["run", "train"]


def run(arguments: argparse.Namespace) -> None:
    """Run ``opkernels train``: ``arguments`` has config, overrides, resume, quiet."""
    source, resume = Path(arguments.config), bool(arguments.resume)
    if source.is_dir():
        if not (source / "config.yaml").is_file():
            raise ValueError(f"{source} is not a run folder (it holds no config.yaml); give a configuration, or a run to go on with")
        if any(override.startswith("run_dir=") for override in arguments.overrides):
            raise ValueError(f"{source} is a run, and goes on in its own folder; leave out run_dir, or give a configuration")
        source, resume = source / "config.yaml", True
    elif not source.exists():
        raise ValueError(f"there is no configuration and no run folder {source}; check the name")
    if describes_particles(source):
        from opkernels.training import particle_runs

        particle_runs.run(source, arguments, resume)
        return
    config = read_config(source, arguments.overrides)
    if resume and source.name == "config.yaml" and Path(arguments.config).is_dir() and "." in config.model.name:
        raise ValueError(
            f"{arguments.config} holds your own model {config.model.name}, and a run folder never names code to run; "
            "resume with the configuration you wrote: opkernels train CONFIG --resume"
        )
    if Path(arguments.config).is_dir():  # wherever it was made, moved or copied to
        config = dataclasses.replace(config, run_dir=str(Path(arguments.config)))
    elif not config.run_dir:
        config = dataclasses.replace(config, run_dir=str(Path("runs") / source.stem))
    train(config, base=source.parent, resume=resume, quiet=arguments.quiet)


def train(config: Config, *, base: Path | str = ".", resume: bool = False, quiet: bool = False) -> list[Path]:
    """Train every seed of a configuration and return the run folders.

    One seed goes to ``run_dir`` itself, several to ``run_dir/seed-0`` and so on.

    Parameters
    ----------
    config : Config
        With a `run_dir`.
    base : path
        Folder of the configuration's file; the dataset and the user's own modules are looked for there too.
    resume : bool
        Go on with what is there; otherwise a folder that holds a run is refused.
    quiet : bool
        Print nothing.

    Raises
    ------
    ValueError
        As `fit` and `read_config`; nothing has been written then.
    """
    import torch

    from opkernels.training import parallel
    from opkernels.training.build import build_model, open_splits, regime_of
    from opkernels.training.loop import fit
    from opkernels.training.options import Options

    t, data = config.training, config.data
    root = Path(config.run_dir)
    folders = [root if len(t.seeds) == 1 else root / f"seed-{seed}" for seed in t.seeds]
    if len(folders) > 1 and holds_checkpoint(root):
        raise ValueError(f"{root} already holds a run of one seed; choose another folder for several with run_dir=NAME")
    if len(folders) == 1 and any(map(holds_checkpoint, root.glob("seed-*"))):
        raise ValueError(f"{root} already holds the runs of several seeds; choose another folder for one with run_dir=NAME")
    for folder in folders:
        if holds_checkpoint(folder) and not resume:
            raise ValueError(f"{folder} already holds a run; add --resume to go on with it, or choose another folder with run_dir=NAME")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and data.generate is not None and not Path(data.path).exists():
        raise ValueError("several processes cannot generate one dataset; make it first with opkernels generate, and name it in data.path")
    if t.threads is not None:
        torch.set_num_threads(t.threads)
    group = parallel.join(t.device)
    try:
        splits = open_splits(config, base)
        options = {f.name: getattr(t, f.name) for f in dataclasses.fields(Options) if hasattr(t, f.name)}
        found = []
        for seed, folder in zip(t.seeds, folders, strict=True):
            model = build_model(config, splits.train, seed, base)
            surrogate = fit(
                model,
                splits.train,
                validation=0.0 if splits.validation is None else splits.validation,
                inputs=data.inputs,
                outputs=data.outputs,
                parameters=data.parameters,
                epochs=t.epochs,
                batch_size=t.batch_size,
                lr=t.lr,
                loss=t.loss,
                regime=regime_of(config, splits.train),
                device=group.device,
                precision=t.precision,
                run_dir=folder,
                resume=resume,
                seed=seed,
                quiet=quiet,
                options=Options(**options, distributed=config.distributed),
                on_start=lambda folder=folder, seed=seed: _keep(config, folder, seed, base),
            )
            found.append((seed, folder, surrogate.notes))
        if group.rank == 0 and not quiet:
            _report(found)
    except KeyboardInterrupt:
        if group.rank == 0:
            print(f"stopped with a checkpoint; go on with: opkernels train {root} --resume", file=sys.stderr)
        raise
    finally:
        group.leave()
    return folders


def _keep(config: Config, folder: Path, seed: int, base: Path | str) -> None:
    """Write the resolved configuration into the run's folder (and, of several seeds, into the one above)."""
    path = Path(config.data.path)
    found = next((p.resolve() for p in (path, Path(base) / path) if config.data.path and p.exists()), path)
    data = dataclasses.replace(config.data, path=str(found) if config.data.path else "")
    whole = dataclasses.replace(config, data=data)
    root = Path(config.run_dir)
    single = dataclasses.replace(whole, run_dir=str(folder), training=dataclasses.replace(config.training, seeds=(seed,)))
    write_text(folder / "config.yaml", single.to_yaml())
    if folder != root:
        write_text(root / "config.yaml", whole.to_yaml())


def _report(found: list[tuple[int, Path, dict]]) -> None:
    for seed, folder, notes in found:
        what = f"validation error {notes['validation']:.4g}" if "validation" in notes else f"training loss {notes['training_loss']:.4g}"
        print(f"seed {seed}: {what} (epoch {notes['kept_epoch']} of {notes['epochs']}), in {folder}")
    errors = [notes["validation"] for _, _, notes in found if "validation" in notes]
    if len(errors) > 1:
        mean = sum(errors) / len(errors)
        spread = math.sqrt(sum((e - mean) ** 2 for e in errors) / (len(errors) - 1))
        print(f"{len(errors)} seeds: {mean:.4g} +- {spread:.2g}")
    print(f"next: opkernels evaluate {found[0][1] if len(found) == 1 else found[0][1].parent}")
