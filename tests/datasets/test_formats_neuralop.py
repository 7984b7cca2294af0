"""neuraloperator's Darcy files: what they hold, where the samples sit, what is refused."""

import importlib.util
import pickle
from pathlib import Path

import pytest
import torch

from opkernels.datasets.formats.neuralop import read_darcy
from opkernels.domains import Domain


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def write(path, n=32, samples=5, **changed):
    generator = torch.Generator().manual_seed(0)
    content = {"x": torch.rand(samples, n, n, generator=generator) > 0.5, "y": torch.rand(samples, n, n, generator=generator), **changed}
    torch.save(content, path)
    return content


def test_fields_and_positions(tmp_path):
    content = write(tmp_path / "darcy_test_32.pt")
    data = read_darcy(tmp_path / "darcy_test_32.pt")
    assert list(data.fields) == ["coefficient", "pressure"] and len(data) == 5 and data.times is None
    assert data.domain == Domain.box(1.0, 1.0, points="node")
    torch.testing.assert_close(data.grid.coordinates()[0, :, 0], torch.arange(32) / 32)
    both = data.read()
    assert both.shape == (5, 1, 2, 32, 32) and both.dtype == torch.float32
    torch.testing.assert_close(both[:, 0, 0], content["x"].float(), rtol=0, atol=0)
    torch.testing.assert_close(both[:, 0, 1], content["y"], rtol=0, atol=0)


def test_the_coarse_file_is_every_second_sample_of_the_fine_one(tmp_path):
    fine = write(tmp_path / "fine.pt")
    write(tmp_path / "coarse.pt", x=fine["x"][:, ::2, ::2], y=fine["y"][:, ::2, ::2])
    restricted, coarse = read_darcy(tmp_path / "fine.pt").at(16, 16), read_darcy(tmp_path / "coarse.pt")
    torch.testing.assert_close(restricted.read(), coarse.read(), rtol=0, atol=0)


def test_other_files_are_refused_and_none_runs_code(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_darcy(tmp_path / "missing.pt")
    for changed in ({"x": None}, {"x": torch.zeros(5, 32, 31)}, {"x": [1], "y": [1]}, {"y": torch.zeros(5, 32)}):
        write(tmp_path / "odd.pt", **changed)
        with pytest.raises(ValueError, match="does not hold tensors x and y of one shape"):
            read_darcy(tmp_path / "odd.pt")
    for name, content in (("text.pt", b"hello"), ("pickle.pt", pickle.dumps({"x": 1}, protocol=2)), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a file of plain tensors|does not hold tensors"):
            read_darcy(tmp_path / name)
    torch.save({"x": Bomb(tmp_path / "ran"), "y": torch.zeros(5, 4, 4)}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        read_darcy(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()


def test_the_example_learns_from_such_files(tmp_path):
    """On made-up files: pressure is the coefficient's lowest sines."""
    spec = importlib.util.spec_from_file_location("darcy", Path(__file__).parents[2] / "examples" / "darcy.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    generator = torch.Generator().manual_seed(0)
    for name, n, samples in (("train_16", 16, 128), ("test_16", 16, 20), ("test_32", 32, 20)):
        s = torch.sin(torch.pi * torch.outer(torch.arange(1, 4), torch.arange(n) / n))
        weights = torch.randn(samples, 3, 3, generator=generator)
        smooth = torch.einsum("bkl,ki,lj->bij", weights, s, s)
        write(tmp_path / f"darcy_{name}.pt", x=smooth > 0, y=smooth + 2)
    errors = example.main(tmp_path, epochs=10, samples=128, hidden_channels=8)
    assert errors[16] < 0.42 and errors[32] < 0.42  # 0.36 and 0.37; the mean alone: 0.58
