"""The example of SFBC runs and prints the numbers it promises."""

import runpy
from pathlib import Path


def test_example():
    numbers = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "sfbc.py"))["main"]()
    assert 1e-3 < numbers["ratio"] < 0.1
    assert numbers["momentum"] < 1e-12
