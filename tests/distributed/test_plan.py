"""The plans of docs/distributed.md are what the script prints, and its memory is what models keep."""

import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "benchmarks" / "cluster_plan.py"))


def test_the_page_shows_what_the_script_prints(script):
    page = (ROOT / "docs" / "distributed.md").read_text()
    for case in script["CASES"]:
        assert script["table"](case) in page, "print the tables again: python benchmarks/cluster_plan.py"


def test_kept_memory_grows_with_the_points_alone(script):
    """Measured on two grids, it tells a third, not square, with several samples."""
    case = script["Case"]((1024, 1024), 12, 8, 3, 1)
    torch.manual_seed(0)
    model = script["model_of"](case)
    a, base = script["bytes_per_point"](model, case), script["kept_bytes"](model, (64, 64))
    assert script["kept_bytes"](model, (70, 160)) == pytest.approx(base + a * (70 * 160 - 64 * 64), rel=1e-2)
    assert 10 < a / 4 / 8 < 60, "some tens of fields of eight channels"


def test_a_plan_holds_the_formulas(script):
    case = script["Case"]((64, 64), 8, 4, 2, 16)
    p = script["plan"](case, 64, 1e3, 10**6)
    assert (p["domain"], p["batch"]) == (4, 16)
    assert p["memory"] == pytest.approx(1e3 * 64**2 / 4 + 16e6)
    assert p["fields"] == pytest.approx(2 * 2 * 2 * 0.75 * 2 * 4 * (7 * 4) * 4)
    assert p["weights"] == pytest.approx(2 * 63 / 64 * 4e6)
