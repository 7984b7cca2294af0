"""Every example of the periodic family runs and prints the number it promises."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "key", "low", "high"),
    [
        ("navier_stokes", "difference", 1e-16, 1e-4),
        ("burgers", "ratio", 0.0, 1e-4),
        ("kdv", "error", 1e-12, 1e-5),
        ("kuramoto_sivashinsky", "rate", 0.03, 0.065),
        ("gray_scott", "late", 0.45, 0.6),
        ("allen_cahn", "ratio", 0.99, 1.01),
        ("kolmogorov", "after", 0.05, 10.0),
        ("turbulence", "ratio", 0.999, 1.001),
        ("smoke", "rise", 1.5, 3.0),
        ("smoke", "drift", 0.0, 1e-13),
        ("shallow_water", "high", 7.5e-5, 7.8e-5),
        ("fitzhugh_nagumo", "ratio", 0.999, 1.001),
        ("fitzhugh_nagumo", "share", 0.6, 0.9),
    ],
)
def test_example(name, key, low, high):
    numbers = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()
    assert low <= numbers[key] <= high
