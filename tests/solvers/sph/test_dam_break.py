"""The dam break of the examples: the front below Ritter's limit, no particle lost, no energy made."""

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_dam_break():
    path = Path(__file__).parents[3] / "examples" / "dam_break.py"
    spec = importlib.util.spec_from_file_location("dam_break", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    run = example.simulate(times=(0.0, 1.0, 1.5, 3.0))
    front = run.positions[..., 0].amax(1)
    assert 0.5 < float(front[2] - front[1]) / 0.5 / 2.0 < 1
    assert (example.total_energy(run).diff() < 0).all()
    x = run.positions[-1]
    assert x.min() > -0.1
    assert x[:, 0].max() < 5.4 + 0.1
    assert run.densities.max() < 1.05
