"""The configurations of paper_figs/full_scale are read, fit their recipes, build models that take the data, and have true headers."""

import functools
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import torch
from helpers import fake_cuda

import opkernels as ok
from opkernels import solvers
from opkernels.datasets.particle_recipe import first_frame, read_particle_recipe
from opkernels.datasets.realization import constant_fields
from opkernels.datasets.recipe import read_recipe
from opkernels.datasets.recipe_files import load_data, override
from opkernels.evaluation.transfer import read_transfer_config, transfer_cells
from opkernels.layers.symmetric_basis import ParticleGraph, _Plan
from opkernels.models import MGTFNO, SFBC
from opkernels.particles import ParticleSet
from opkernels.training.build import build_model, regime_of
from opkernels.training.particle_config import read_particle_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "paper_figs" / "full_scale"
TABLES = ("compressed_wave", "factformer", "local_no", "mg_tfno", "t1")


def header(path):
    """Return the comment at the top of a file, and its table: model -> (parameters, GB)."""
    text = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    rows = re.findall(r"^# \| (.+?) +\| +([\d,]+) \| +([\d.]+) GB \|$", text, re.MULTILINE)
    return text, {name: (int(parameters.replace(",", "")), float(memory)) for name, parameters, memory in rows}


def generated(text):
    """Return the recipe of the command in a header, with its changes, as plain data."""
    name, changes = re.search(r"^#     opkernels generate (\S+)(.*?) -o \S+\.nc", text, re.MULTILINE).groups()
    data = load_data(name)
    return override(data, shlex.split(changes))


@pytest.fixture(autouse=True)
def studies(monkeypatch):
    """Let the studies find what they share."""
    monkeypatch.syspath_prepend(ROOT / "paper_figs")


@functools.cache
def study():
    spec = importlib.util.spec_from_file_location("compressed_wave", ROOT / "paper_figs" / "compressed_wave.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(recipe, shape):
    """Return two samples of zeros with the domain, the fields and the times of a recipe."""
    names = [*constant_fields(recipe), *getattr(solvers, recipe.solver).fields]
    zeros = torch.zeros(2, len(recipe.times), *shape)
    return ok.Trajectories.from_arrays(dict.fromkeys(names, zeros), recipe.domain, times=recipe.times)


def data_of(name, cell):
    """Return samples like those of a configuration, the shape at which it trains, and the recipe."""
    chosen = cell.config.data
    if name == "compressed_wave":
        recipe = read_recipe(study().FULL)
        assert recipe.samples == chosen.samples
        waves = study().over_space_and_time(small(recipe, (3, 3)))
        return waves, (*study().FULL_SHAPE, len(recipe.times)), recipe
    plain = generated(header(FOLDER / f"{name}.yaml")[0])
    recipe = read_recipe(plain)
    changes = {key: getattr(chosen.generate, key) for key in ("samples", "resolution") if getattr(chosen.generate, key) is not None}
    assert read_recipe(load_data(chosen.generate.recipe) | changes).plain == recipe.plain, "the command and the configuration agree"
    shape = recipe.resolution if chosen.resolution is None else chosen.resolution * recipe.domain.ndim
    return small(recipe, (8,) * recipe.domain.ndim), shape, recipe


def measured(model, parts, calls=1):
    """Ask modules; return their answers, the model's parameters, and GB: 16 bytes for each, and what `calls` of the largest keep."""
    weights = {p.untyped_storage()._cdata: p.numel() for p in model.parameters()}
    answers, largest = [], 0
    for module, arguments in parts:
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            answers.append(module(*arguments))
        largest = max(largest, sum(storage.nbytes() for key, storage in kept.items() if key not in weights))
    parameters = sum(weights.values())
    return answers, (parameters, float(f"{(16 * parameters + calls * largest) / 1e9:.2g}"))


def parts_of(model, x):
    """Return what runs at a time: the model, or of patches, which are many and alike, the coarse operator and that of one window."""
    if not isinstance(model, MGTFNO):
        return [(model, (x,))]
    cut = 2**model.patches.levels
    window = [round(n * (1 / cut + 2 * float(share))) for n, share in zip(x.shape[2:], model.patches.padding, strict=True)]
    return [(model.coarse, (x[..., ::cut, ::cut],)), (model.local, (x.new_zeros(len(x), model.local.in_channels, *window),))]


def row_of(name, cell):
    """Build the model of a cell on the device, ask it once with a batch, and return its parameters and memory."""
    data, shape, recipe = data_of(name, cell)
    chosen, t = cell.config.data, cell.config.training
    regime = regime_of(cell.config, data)
    regime.offsets(regime.unroll, data.n_times)
    inputs = chosen.inputs or tuple(data.fields)
    with fake_cuda():
        model = build_model(cell.config, data, 0, FOLDER)
        parts = parts_of(model, torch.zeros(t.batch_size, regime.window * len(inputs), *shape))
        answers, row = measured(model, parts)
    for y, (_, (x,)) in zip(answers, parts, strict=True):
        assert y.device.type == "cuda" and y.shape == (t.batch_size, regime.bundle * len(chosen.outputs or inputs), *x.shape[2:])
    stored = shape if name == "compressed_wave" else recipe.resolution
    for resolution in cell.row.resolutions:
        sizes = resolution if isinstance(resolution, tuple) else (resolution,) * len(shape)
        assert all(n <= m for n, m in zip(sizes, stored, strict=True)), "the data hold every resolution"
    return row


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_and_its_header_is_true(name):
    path = FOLDER / f"{name}.yaml"
    config = read_transfer_config(path)
    assert config.training.device == "cuda" and config.minutes is None
    cells = {cell.model: cell for cell in transfer_cells(config) if cell.seed == 0}
    split = next(iter(cells.values())).config.data.split
    assert split.train + split.validation + split.test == pytest.approx(1)
    assert header(path)[1] == {model: row_of(name, cell) for model, cell in cells.items()}


def particle_row(config, recipe):
    """Ask the network of a particle configuration once, with two simulations of a recipe; return parameters and memory of a window."""
    particles = ParticleSet.stack([first_frame(recipe).particles] * config.training.batch_size)
    graph = ParticleGraph.of(particles, particles.neighbors(), chunk=2**18)

    def fake(tensor):
        return torch.empty(tensor.shape, dtype=torch.float32 if tensor.is_floating_point() else tensor.dtype)

    with fake_cuda():
        model = SFBC(particles.domain, 3, 2, **config.model)
        plan, parts = graph.plan, [graph.offsets, graph.volumes, graph.receiver_volumes]
        plan = _Plan(*map(fake, (plan.edges, plan.senders, plan.order, plan.inverse)), plan.chunks, plan.mutual)
        offsets, volumes, own = map(fake, parts)
        model._graph = lambda *_: ParticleGraph(offsets.requires_grad_(), plan, volumes, own, True, share=True)
        x = torch.zeros(len(particles), 3)
        (y,), row = measured(model, [(model, (x, particles))], config.training.unroll)
    assert y.device.type == "cuda" and y.shape == (len(particles), 2)
    return len(particles) // config.training.batch_size, row


def test_the_particles_are_read_and_their_header_is_true():
    path = FOLDER / "sfbc.yaml"
    config, (text, told) = read_particle_config(path), header(path)
    recipe = read_particle_recipe(generated(text))
    assert config.device == "cuda" and config.train + config.test == recipe.samples and config.frames == len(recipe.times) - 1
    assert particle_row(config, recipe) == (4096, told["SFBC"])
