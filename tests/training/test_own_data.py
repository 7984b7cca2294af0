"""The example of users' own data does what its page promises."""

import importlib.util
from pathlib import Path


def test_arrays_and_datasets_become_a_surrogate_in_a_few_lines():
    path = Path(__file__).parents[2] / "examples" / "own_data.py"
    spec = importlib.util.spec_from_file_location("own_data", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert 1e-4 < module.main() < 0.02
    body = path.read_text().split("def main():")[1].split("if __name__")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
