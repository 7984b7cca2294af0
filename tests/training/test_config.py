"""Configurations: what is right is read as written, everything wrong is told at once, nothing else ever happens."""

import copy
import math
import random

import pytest
import yaml

from opkernels.training import read_config
from opkernels.training.config import Config

GOOD = {
    "run_dir": "runs/a",
    "data": {"path": "ns.nc", "inputs": ["w"], "resolution": [64, 64], "split": {"train": 0.7, "validation": 0.2, "test": 0.1}},
    "model": {"name": "FNO", "n_modes": [16, 16], "hidden_channels": 32},
    "training": {"epochs": 3, "lr": 1e-3, "regime": "unrolled", "unroll": 4, "seeds": [0, 1], "shifts": False, "gradient_clip": None},
    "evaluation": {"resolutions": [64, [96, 80], 128]},
}


def write(tmp_path, text, name="c.yaml"):
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return path


def test_values_arrive_with_their_types(tmp_path):
    c = read_config(write(tmp_path, GOOD))
    assert c.data.inputs == ("w",) and c.data.resolution == (64, 64) and c.data.outputs is None
    assert c.model.name == "FNO" and c.model.arguments == {"n_modes": [16, 16], "hidden_channels": 32}
    assert c.training.seeds == (0, 1) and c.training.shifts is False and c.training.gradient_clip is None
    assert c.evaluation.resolutions == (64, (96, 80), 128)
    assert isinstance(c.training.lr, float) and c.training.batch_size == 16


def test_a_resolved_configuration_reads_back_the_same(tmp_path):
    c = read_config(write(tmp_path, GOOD))
    again = read_config(write(tmp_path, c.to_yaml()))
    assert again == c and again.digest == c.digest
    assert read_config(GOOD, ["training.lr=2e-3"]).digest != c.digest


def test_numbers_without_a_dot_and_single_values_for_lists_are_read():
    c = read_config(yaml.safe_load("data: {path: a.nc, inputs: w, resolution: 64}\nmodel: {n_modes: 8}\ntraining: {lr: 1e-4, seeds: 3}"))
    assert c.training.lr == 1e-4 and c.data.inputs == ("w",) and c.data.resolution == (64,) and c.training.seeds == (3,)
    assert read_config(GOOD, ["training.weight_decay=0"]).training.weight_decay == 0.0
    assert read_config(GOOD | {"model": "UNet"}).model.name == "UNet"


@pytest.mark.parametrize("text", ["5e-3", "-2E4", ".5e+1", "3.e-2"])
def test_a_models_numbers_without_a_dot_are_numbers(tmp_path, text):
    """YAML 1.1 reads 5e-3 as a text; a model's own arguments have no declared types that could mend it."""
    path = tmp_path / "c.yaml"
    path.write_text(f"data: {{path: a.nc}}\nmodel: {{name: T1, n_modes: [8], diffusion: {text}}}\n")
    assert read_config(path).model.arguments["diffusion"] == float(text)
    assert read_config(path, ["model.diffusion=1e3"]).model.arguments["diffusion"] == 1000.0


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("True", True), ("no", False)])
def test_overridden_booleans_are_booleans(text, value):
    assert read_config(GOOD, [f"training.shifts={text}"]).training.shifts is value


def test_overrides_reach_every_depth():
    c = read_config(
        GOOD,
        [
            "training.lr=3e-4",
            "model.n_modes=[8, 8]",
            "data.split.test=0",
            "model.block.skip=linear",
            "data.generate.recipe=ns",
            "run_dir=x=y",
        ],
    )
    assert c.training.lr == 3e-4 and c.model.arguments["n_modes"] == [8, 8] and c.data.split.test == 0.0
    assert c.model.arguments["block"] == {"skip": "linear"} and c.data.generate.recipe == "ns" and c.run_dir == "x=y"
    assert GOOD["model"]["n_modes"] == [16, 16], "the caller's mapping is left alone"


def test_all_mistakes_are_told_at_once(tmp_path):
    bad = copy.deepcopy(GOOD)
    bad["training"] |= {"epcohs": 3, "lr": "fast", "batch_size": 0, "shifts": "yes please", "schedule": "cosin", "seeds": [0, "a"]}
    bad["data"]["split"]["train"] = 0.9
    bad["model"] |= {"widht": 3}
    bad["trainin"] = {}
    with pytest.raises(ValueError) as error:
        read_config(write(tmp_path, bad), ["evaluation.resolutions=[1]", "nonsense"])
    text = str(error.value)
    for part in (
        "c.yaml has 10 mistakes",
        "training.epcohs: is unknown; did you mean epochs?",
        "training.lr: got 'fast'; expected a number",
        "training.batch_size: got 0; give at least 1",
        "training.shifts: got 'yes please'; expected true or false",
        "training.schedule: got 'cosin'; did you mean cosine?",
        "training.seeds: got 'a'; expected a whole number",
        "model.widht: is unknown; choose one of",
        "trainin: is unknown; did you mean training?",
        "evaluation.resolutions: got 1; give at least 2",
        "'nonsense': is not key=value",
    ):
        assert part in text
    with pytest.raises(ValueError, match=r"data.split: the shares add up to 1.2; at most 1"):
        read_config(GOOD, ["data.split.train=0.9"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.learning_rate=1"], "training.learning_rate: is unknown"),
        (["lr=1"], "lr: is unknown; lr belongs under training"),
        (["training.epochs=true"], "training.epochs: got True; expected a whole number"),
        (["training.epochs=2.5"], "training.epochs: got 2.5; expected a whole number"),
        (["training.lr=.nan"], "training.lr: got nan; expected a number"),
        (["training.lr=-1"], "training.lr: got -1.0; give more than 0"),
        (["training.warmup=0.95"], "training.warmup: got 0.95; give at most 0.9"),
        (["training=3"], "training: got 3; expected the keys epochs"),
        (["training.lr.x=3"], r"training.lr: got \{'x': 3\}; expected a number"),
        (["data.resolution=[64, 1]"], "data.resolution: got 1; give at least 2"),
        (["data.inputs={a: 1}"], "expected a list"),
        (["data.path="], "data.path: got None; expected a text"),
        (["model.name=FNN"], "model.name: got 'FNN'; did you mean FNO?"),
        (["model.n_mode=3"], "model.n_mode: is unknown; did you mean n_modes?"),
        (["model.in_channels=3"], "model.in_channels: follows from the data; leave it out"),
        (["model.name=UNet", "model.hiden_channels=3"], "model.n_modes: is unknown"),
        (["training.seeds=[]"], "training.seeds: is empty"),
        (["training.log=[tensorbord]"], "did you mean tensorboard?"),
        (["training.lr=[1"], r"training.lr: the value '\[1' is not YAML"),
        (["=3"], "'=3': is not key=value"),
        (["model.n_modes=2020-01-01"], "give numbers, texts, lists and mappings"),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(overrides, message):
    with pytest.raises(ValueError, match=message):
        read_config(GOOD, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: [1, 2", "line 1 is not YAML|line 2 is not YAML"),
        ("a: b: c", "line 1 is not YAML"),
        ("training: {lr: 1, lr: 2}", "the key 'lr' stands twice"),
        ("- 1\n- 2", "holds a list; a configuration has the sections run_dir, data, model"),
        ("model: !!python/object/apply:os.system ['true']", "is not YAML: could not determine a constructor"),
        ("data: {path: a}\nmodel: {name: UNet, x: &a [*a]}", "found unconstructable recursive node"),
        ("", "names no dataset; give data.path"),
        ("data: {path: a.nc}", "model.n_modes: is missing; FNO needs it"),
        ("1: 2", "1: is unknown"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_config(write(tmp_path, text))


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read the configuration .*: No such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="it is not text"):
        read_config(tmp_path / "b.yaml")


JUNK = [None, True, -1, 0, 1, 2.5, math.nan, math.inf, "", "text", "1e-3", [], [1], [None, {"a": []}], {}, {"x": {"y": 1}}, {1: 2}, 10**30]


def _mutate(config, rng):
    """One random change somewhere: junk for a value, a misspelt or a foreign key, a key lost, a section swapped."""
    place, key = config, rng.choice(list(config))
    while isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
        place, key = place[key], rng.choice(list(place[key]))
    kind = rng.randrange(4)
    if kind == 0:
        place[key] = copy.deepcopy(rng.choice(JUNK))
    elif kind == 1:
        letters = list(str(key))
        rng.shuffle(letters)
        place["".join(letters)] = place.pop(key)
    elif kind == 2:
        del place[key]
    else:
        place[rng.choice(["lr", "epochs", "name", "ünï", 3, None, (1, 2)])] = copy.deepcopy(rng.choice(JUNK))


def test_five_hundred_fuzzed_configurations_give_a_config_or_a_sentence(tmp_path):
    rng, outcomes = random.Random(0), []
    for i in range(500):
        config = copy.deepcopy(GOOD)
        for _ in range(rng.randint(1, 2)):
            if config:
                _mutate(config, rng)
        text = yaml.dump(config) if i % 2 else yaml.safe_dump(GOOD)
        if i % 2 == 0:  # the text itself damaged
            letters = list(text)
            for _ in range(rng.randint(1, 3)):
                letters[rng.randrange(len(letters))] = rng.choice("{}[]:,-#&*!|>'\"%@`\n\t \x07é0aZ")
            text = "".join(letters)
        overrides = [rng.choice(["training.lr=", "a.b.c=1", "model=[", "training.epochs=1", "==", ".", "data..x=1"])] * rng.randrange(2)
        try:
            outcomes.append(isinstance(read_config(write(tmp_path, text), overrides), Config))
        except ValueError as error:
            assert str(error).strip() and "Traceback" not in str(error)
            outcomes.append(False)
    assert 20 < sum(outcomes) < 480, "the fuzz finds both kinds"
