"""Files of tensors: whole or not at all, never a pickle, every fault one sentence."""

import pickle

import pytest
import torch

from opkernels.storage import read_header, read_tensors, write_atomically, write_tensors, write_text


@pytest.fixture
def tensors():
    tied = torch.randn(3, 4)
    return {
        "a": torch.randn(2, 3, dtype=torch.float64),
        "b": torch.randn(5).to(torch.bfloat16),
        "c": torch.randn(2, 2, dtype=torch.complex64),
        "step": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "tied": tied,
        "view": tied.T,
    }


def test_round_trip_keeps_every_bit(tmp_path, tensors):
    header = {"x": [1, 2.5, None], "name": "ä"}
    write_tensors(tmp_path / "deep" / "f.safetensors", tensors, header)
    back, read = read_tensors(tmp_path / "deep" / "f.safetensors")
    assert read == header == read_header(tmp_path / "deep" / "f.safetensors")
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    write_text(tmp_path / "f.txt", "old")

    def fail(path):
        path.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "f.txt", fail)
    assert (tmp_path / "f.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def test_damage_anywhere_is_noticed(tmp_path, tensors):
    path = tmp_path / "f.safetensors"
    write_tensors(path, tensors, {"k": 1})
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:20], b"", whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged or not a safetensors file"):
            read_tensors(path)


def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path):
    seen = set()
    for n in range(1, 40):  # the first byte is the header's length modulo 256, in steps of 8
        write_tensors(tmp_path / "f.safetensors", {"w": torch.ones(1)}, {"pad": "x" * 8 * n})
        assert read_tensors(tmp_path / "f.safetensors")[1]["pad"] == "x" * 8 * n
        seen.add((tmp_path / "f.safetensors").read_bytes()[0])
    assert 0x80 in seen


def test_pickles_foreign_and_missing_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"w": 1}))
    for name in ("a.pt", "b.pkl"):
        with pytest.raises(ValueError, match="is a pickle .* can run code"):
            read_tensors(tmp_path / name)
    save_file({"w": torch.ones(2)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="was not written by opkernels"):
        read_tensors(tmp_path / "c.safetensors")
    save_file({"w": torch.ones(2)}, tmp_path / "d.safetensors", metadata={"opkernels": "[1, 2"})
    with pytest.raises(ValueError, match="was not written by opkernels"):
        read_header(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="there is no file"):
        read_tensors(tmp_path / "e.safetensors")
