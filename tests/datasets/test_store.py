"""The native file: what xarray sees, what is mapped, what is refused."""

import errno
import json
import shutil
import subprocess
import time

import numpy as np
import pytest
import xarray

from opkernels import Domain, Trajectories, open_trajectories
from opkernels.datasets import store

DOMAIN = Domain((*Domain.periodic(2.0).axes, *Domain.box(3.0, names=["y"]).axes))


def dataset(dtype=np.float32, seed=0):
    numbers = np.random.default_rng(seed)
    fields = {
        "velocity_x": numbers.standard_normal((5, 3, 8, 6)).astype(dtype),
        "pressure": numbers.standard_normal((5, 3, 8, 6)),
        "permeability": numbers.standard_normal((5, 8, 6)).astype(dtype),
    }
    return Trajectories.from_arrays(fields, DOMAIN, [0.0, 0.5, 1.0], {"viscosity": np.linspace(0.1, 0.5, 5)}, attributes={"title": "t"})


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_xarray_shows_cf_coordinates_and_the_numbers(tmp_path, engine):
    data = dataset()
    data.save(tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc", engine=engine) as seen:
        assert seen.velocity_x.dims == ("sample", "time", "x", "y") and seen.permeability.dims == ("sample", "x", "y")
        assert seen.velocity_x.dtype == np.float32 and seen.pressure.dtype == np.float64
        np.testing.assert_array_equal(seen.x, np.arange(8) * 0.25)
        np.testing.assert_allclose(seen.y, (np.arange(6) + 0.5) / 2, rtol=1e-15)
        np.testing.assert_array_equal(seen.time, [0.0, 0.5, 1.0])
        assert seen.viscosity.dims == ("sample",) and "viscosity" in seen.coords
        assert seen.x.attrs["axis"] == "X" and seen.time.attrs["axis"] == "T" and seen.time.attrs["dt"] == 0.5
        assert (seen.x.attrs["boundary_condition"], seen.y.attrs["boundary_condition"]) == ("periodic", "wall")
        assert (seen.y.attrs["domain_min"], seen.y.attrs["domain_max"], seen.y.attrs["position"]) == (0.0, 3.0, "cell")
        assert seen.attrs["Conventions"].startswith("CF-") and all("units" in seen[name].attrs for name in seen.data_vars)
        assert Domain.from_dict(json.loads(seen.attrs["domain"])) == DOMAIN
        for name, field in data.fields.items():
            np.testing.assert_array_equal(seen[name], field)


def test_header_and_numbers_come_back_mapped_and_aligned(tmp_path):
    data = dataset()
    data.save(tmp_path / "a.nc")
    header, arrays = store.read_header(tmp_path / "a.nc")
    assert header.domain == DOMAIN and header.shape == (8, 6) and header.samples == 5 and header.attributes["title"] == "t"
    assert list(header.fields) == list(data.fields), "the order of the channels"
    np.testing.assert_array_equal(header.parameters["viscosity"], data.parameters["viscosity"])
    for name, array in arrays.items():
        assert array.mapped and array.offset % 4096 == 0
        np.testing.assert_array_equal(array[3], data.fields[name][3])


def test_the_same_data_are_the_same_bytes_at_another_time(tmp_path):
    dataset().save(tmp_path / "a.nc")
    time.sleep(1.1)
    dataset().save(tmp_path / "b.nc")
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_other_netcdf_tools_can_append_an_attribute(tmp_path):
    import netCDF4

    dataset().save(tmp_path / "a.nc")
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as file:
        file.history = "looked at"
    data = open_trajectories(tmp_path / "a.nc")
    assert data.attributes["history"] == "looked at"
    assert (data.read() == dataset().read()).all()


@pytest.mark.parametrize("encoding", [{"zlib": True, "chunksizes": (1, 2, 8, 6)}, {"chunksizes": (2, 3, 4, 6)}])
def test_chunked_and_compressed_copies_read_the_same(tmp_path, encoding):
    data = dataset()
    data.save(tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc") as seen:
        seen.to_netcdf(tmp_path / "b.nc", engine="h5netcdf", encoding={"velocity_x": encoding})
    copy = open_trajectories(tmp_path / "b.nc")
    assert not copy.fields["velocity_x"].source.mapped
    assert (copy.read([4, 1], [2, 0]) == data.read([4, 1], [2, 0])).all()
    assert (copy.windows([4, 1], [0, 1], 2) == data.windows([4, 1], [0, 1], 2)).all()


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    dataset().save(tmp_path / "a.nc")
    whole = (tmp_path / "a.nc").read_bytes()
    for left in (100, 3000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "b.nc").write_bytes(whole[:left])
        with pytest.raises(ValueError, match="cut short or damaged"):
            open_trajectories(tmp_path / "b.nc")


def test_foreign_and_missing_files_are_refused(tmp_path):
    import h5py

    with pytest.raises(ValueError, match="there is no file"):
        open_trajectories(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("not a dataset")
    with pytest.raises(ValueError, match="is not a netCDF-4"):
        open_trajectories(tmp_path / "text.nc")
    (tmp_path / "empty.nc").touch()
    with pytest.raises(ValueError, match="is not a netCDF-4"):
        open_trajectories(tmp_path / "empty.nc")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["tensor"] = np.zeros(3)
    with pytest.raises(ValueError, match="another program's HDF5 file.*from_xarray"):
        open_trajectories(tmp_path / "other.h5")


def test_packed_integers_and_strange_dimensions_are_refused(tmp_path):
    data = dataset()
    data.save(tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc") as seen:
        seen.to_netcdf(
            tmp_path / "b.nc", engine="h5netcdf", encoding={"pressure": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1}}
        )
        seen.transpose("time", ...).to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="packed integers"):
        open_trajectories(tmp_path / "b.nc")
    with pytest.raises(ValueError, match="on the dimensions"):
        open_trajectories(tmp_path / "c.nc")


def test_places_that_cannot_be_written_are_told_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for folder, told in (
        (tmp_path / "file", "cannot write.*one of its folders is a file"),
        ("/proc/nowhere", "cannot write.*cannot be made"),
    ):
        with pytest.raises(ValueError, match=told):
            dataset().save(f"{folder}/a.nc")
    assert "read-only" in str(store.cannot_write("a.nc", OSError(errno.EROFS, "Read-only file system")))
    assert "disk is full" in str(store.cannot_write("a.nc", OSError("Can't write data (errno = 28, message = 'No space')")))


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    data = dataset()
    data.save(tmp_path / "a.nc")
    before = (tmp_path / "a.nc").read_bytes()

    def breaking():
        yield 0, {name: field[0][None] for name, field in data.fields.items()}
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        store.write(tmp_path / "a.nc", data.header(), breaking())
    with pytest.raises(ValueError, match="got 0 of the 5 samples"):
        store.write(tmp_path / "a.nc", data.header(), [])
    with pytest.raises(ValueError, match="got velocity_x of shape"):
        store.write(tmp_path / "a.nc", data.header(), [(0, {name: np.zeros((1, 2)) for name in data.fields})])
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"] and (tmp_path / "a.nc").read_bytes() == before


@pytest.fixture
def small_disk(tmp_path):
    """A mounted file system of 1 MB, where mounting is permitted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_told_and_leaves_no_litter(small_disk):
    data = Trajectories.from_arrays({"u": np.ones((40, 64, 64, 4))}, Domain.periodic(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="cannot write.*the disk is full"):
        data.save(small_disk / "a.nc")
    assert list(small_disk.iterdir()) == []
