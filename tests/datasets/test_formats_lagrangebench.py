"""LagrangeBench's folders: a round trip bit for bit, what their loaders expect, damaged files, no code run."""

import json

import h5py
import numpy as np
import pytest
import torch

from opkernels import generate
from opkernels.datasets.formats.lagrangebench import read_lagrangebench, write_lagrangebench


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Hold five dam breaks of different widths, with walls."""
    recipe = {"flow": {"name": "dam_break", "width": {"uniform": [0.3, 0.6]}}, "times": {"stop": 0.2, "count": 5}}
    return generate(recipe | {"resolution": 0.1, "samples": 5}, tmp_path_factory.mktemp("lb") / "d.nc", workers=1)


def test_a_round_trip_keeps_every_bit(data, tmp_path):
    write_lagrangebench(data, tmp_path, metadata={"case": "DAM", "viscosity": 0.0})
    told = json.loads((tmp_path / "metadata.json").read_text())
    assert told["case"] == "DAM" and told["dim"] == 2 and told["sequence_length_train"] == 5
    assert told["periodic_boundary_conditions"] == [False, False] and told["bounds"] == [[0, 2], [0, 1]]
    assert told["dx"] == pytest.approx(0.1) and told["default_connectivity_radius"] == pytest.approx(0.145)
    at = 0
    for part, count in (("train", 2), ("valid", 2), ("test", 1)):
        found = read_lagrangebench(tmp_path, part)
        assert len(found) == count and found.attributes["title"] == "DAM"
        for run in found:
            true = data[at]
            assert torch.equal(run.positions, true.positions) and torch.equal(run.walls, true.walls)
            v = true.positions.diff(dim=0) / 0.05
            torch.testing.assert_close(run.velocities[1:], v, rtol=1e-9, atol=1e-12)
            at += 1
    with h5py.File(tmp_path / "train.h5") as file:
        assert list(file) == ["00000", "00001"] and file["00000/position"].dtype == np.float32
        assert set(np.unique(file["00000/particle_type"])) == {0, 1}
    step = np.concatenate([np.asarray(run.positions.diff(dim=0)).reshape(-1, 2) for run in data[:2]])
    np.testing.assert_allclose(told["vel_std"], step.std(0), rtol=1e-6)


def test_periodic_positions_are_wrapped_and_unwrapped(tmp_path):
    recipe = {"flow": "taylor_green", "times": {"stop": 1, "count": 11}, "resolution": 0.125, "samples": 4}
    data = generate(recipe, tmp_path / "t.nc", workers=1)
    assert data[0].positions.min() < 0 or data[0].positions.max() > 1
    write_lagrangebench(data, tmp_path / "out")
    with h5py.File(tmp_path / "out" / "train.h5") as file:
        x = file["00000/position"][:]
        assert x.min() >= 0 and x.max() <= 1
    found = read_lagrangebench(tmp_path / "out")[0]
    assert found.particles.domain.axes[0].periodic and (found.positions - data[0].positions).diff(dim=0).abs().max() < 1e-6


def test_refusals_and_no_code(data, tmp_path):
    write_lagrangebench(data, tmp_path)
    (tmp_path / "force.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    read_lagrangebench(tmp_path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="part='dev'; choose one of train, valid, test"):
        read_lagrangebench(tmp_path, "dev")
    with pytest.raises(ValueError, match="there is no file .*metadata.json"):
        read_lagrangebench(tmp_path / "none")
    with pytest.raises(ValueError, match="5 simulations to split as"):
        write_lagrangebench(data, tmp_path / "b", split=(0.9, 0.05))
    whole = json.loads((tmp_path / "metadata.json").read_text())
    for change in ({"dim": 3}, {"dt": "x"}, {"bounds": [[0, 0], [0, 1]]}, {"dx": -1}, {"default_connectivity_radius": None}):
        (tmp_path / "metadata.json").write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match=r"metadata\.json"):
            read_lagrangebench(tmp_path)


def test_damaged_files_are_told_in_one_sentence(data, tmp_path):
    write_lagrangebench(data, tmp_path)
    numbers, refused = np.random.default_rng(0), 0
    for name in ("train.h5", "metadata.json"):
        whole = (tmp_path / name).read_bytes()
        for trial in range(25):
            damaged = bytearray(whole)
            if trial % 3 == 0:
                damaged = damaged[: int(numbers.integers(0, len(whole)))]
            else:
                for at in numbers.integers(0, len(whole), size=6):
                    damaged[at] = int(numbers.integers(0, 256))
            (tmp_path / name).write_bytes(damaged)
            try:
                read_lagrangebench(tmp_path)
            except ValueError as error:
                refused += 1
                assert str(error) and "Traceback" not in str(error)
        (tmp_path / name).write_bytes(whole)
    assert refused > 20
