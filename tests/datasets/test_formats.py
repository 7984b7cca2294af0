"""Files of PDEBench, The Well, PDEArena, FNO and neuraloperator: read as documented, written again bit for bit."""

import json
import pickle

import h5py
import numpy as np
import pytest
import torch

from opkernels import Axis, Domain, Trajectories, open_trajectories
from opkernels.datasets.formats.conversion import TARGETS, convert, read, recognize
from opkernels.datasets.formats.places import axis_of

NUMBERS = np.random.default_rng(0)


def odd(*shape, dtype="f4"):
    """Numbers of every kind: signed zeros, denormal, infinite, NaN with a payload."""
    values = NUMBERS.standard_normal(shape).astype(dtype)
    special = np.array([-0.0, 0.0, 1e-42, -np.inf, np.nan], dtype=dtype)
    values.flat[:5] = special
    bits = values.view(f"u{values.itemsize}")
    bits.flat[5] = bits.flat[4] + 7  # another NaN
    return values


def places(n, lower=0.0, upper=1.0):
    return (lower + (np.arange(n, dtype="f4") + np.float32(0.5)) * np.float32((upper - lower) / n)).astype("f4")


def pdebench_scalar(file):
    file["tensor"], file["x-coordinate"], file["t-coordinate"] = odd(3, 5, 16), places(16), np.arange(6, dtype="f4") * np.float32(0.01)
    file.attrs["beta"] = 0.1


def pdebench_darcy(file):
    file["nu"], file["tensor"] = odd(3, 8, 6), odd(3, 1, 8, 6)
    file["x-coordinate"], file["y-coordinate"] = places(8), places(6)
    file.attrs["beta"] = np.float32(1.0)


def pdebench_cfd(file):
    for name in ("density", "pressure", "Vx", "Vy"):
        file[name] = odd(2, 4, 8, 6)
    file["x-coordinate"], file["y-coordinate"], file["t-coordinate"] = places(8), places(6), np.linspace(0, 1, 5, dtype="f4")
    file.attrs.update({"eta": 0.1, "zeta": 0.1, "M": np.float32(0.3)})


def pdebench_vorticity(file):
    for name in ("omega_x", "omega_y", "omega_z"):
        file[name] = odd(2, 3, 4, 5, 6)
    for letter, n in zip("xyz", (4, 5, 6), strict=True):
        file[f"{letter}-coordinate"] = places(n)
    file["t-coordinate"] = np.arange(3, dtype="f4")  # as many as frames


def pdebench_groups(file):
    for seed in (0, 1, 23):
        group = file.create_group(f"{seed:04d}")
        group.create_dataset("data", data=odd(4, 8, 6, 2), compression="lzf")
        group["grid/x"], group["grid/y"], group["grid/t"] = places(6, -1, 1), places(8, -1, 1), np.linspace(0, 5, 4, dtype="f4")
        group.attrs["config"] = f"seed: {seed}\nsim: {{D: 1e-3}}\n"


def pdebench_incompressible(file):
    file.create_dataset("velocity", data=odd(2, 4, 8, 6, 2), chunks=(1, 1, 8, 6, 2), compression="lzf", shuffle=True)
    file["particles"], file["force"] = odd(2, 4, 8, 6, 1), odd(2, 8, 6, 2)
    file["t"] = np.tile(np.linspace(0, 1, 4, dtype="f4"), (2, 1))
    file.attrs.update({"config": "NU: 0.01\n", "latestIndex": 1})


def pdearena_flow(file):
    group = file.create_group("valid")
    for name in ("u", "vx", "vy"):
        group[name] = odd(2, 4, 8, 6, dtype="f8")
    group["t"], group["dt"] = np.tile(18 + 1.5 * np.arange(4.0), (2, 1)), np.full(2, 1.5)
    for letter, n in (("x", 8), ("y", 6)):
        group[letter], group[f"d{letter}"] = np.tile(np.linspace(0, 32, n), (2, 1)), np.full(2, 32.0 / n)
    group["buo_y"] = np.array([0.3, 0.5])


def pdearena_line(file):
    group = file.create_group("train")
    group["pde_140-16"], group["dt"], group["dx"] = odd(3, 5, 16, dtype="f8"), np.array([0.19, 0.2, 0.21]), np.array([0.24, 0.25, 0.26])
    group["v"] = np.array([0.5, 0.6, 0.7])


def pdearena_maxwell(file):
    group = file.create_group("test")
    group["d_field"], group["h_field"] = odd(2, 3, 4, 5, 6, 3, dtype="f8"), odd(2, 3, 4, 5, 6, 3, dtype="f8")


def the_well(file):
    text = h5py.string_dtype()
    yes, no = np.bool_(True), np.bool_(False)
    file.attrs.update({"dataset_name": "mixing", "grid_type": "cartesian", "n_spatial_dims": 2, "n_trajectories": 2, "Re": 100.0})
    file.attrs["simulation_parameters"] = np.array(["Re"], dtype=text)
    dims, ends = file.create_group("dimensions"), file.create_group("boundary_conditions")
    dims.attrs["spatial_dims"] = np.array(["x", "y"], dtype=text)
    dims["time"], dims["x"], dims["y"] = np.linspace(0, 1, 4, dtype="f4"), np.linspace(0, 0.875, 8, dtype="f4"), places(6, -1, 1)
    for name in ("time", "x", "y"):
        dims[name].attrs.update({"sample_varying": no, "time_varying": np.bool_(name == "time")})
    for name, kind in (("x", "PERIODIC"), ("y", "OPEN")):
        made = ends.create_group(f"{name}_{kind.lower()}")
        made.attrs.update({"associated_dims": [name], "bc_type": kind, "sample_varying": no, "time_varying": no})
        made.attrs["associated_fields"] = np.array([], dtype=text)
        made["mask"] = np.isin(np.arange(len(dims[name])), (0, len(dims[name]) - 1))
    scalars = file.create_group("scalars")
    scalars.attrs["field_names"], scalars["Re"] = np.array(["Re"], dtype=text), 100.0
    scalars["Re"].attrs.update({"sample_varying": no, "time_varying": no})
    for order, (name, shape) in enumerate((("density", (2, 4, 8, 6)), ("velocity", (2, 4, 8, 6, 2)), ("stress", (2, 4, 8, 6, 2, 2)))):
        group = file.create_group(f"t{order}_fields")
        group.attrs["field_names"], group[name] = np.array([name], dtype=text), odd(*shape)
        group[name].attrs.update({"dim_varying": [True, True], "sample_varying": yes, "time_varying": yes})


HDF5 = {
    "pdebench": (pdebench_scalar, pdebench_darcy, pdebench_cfd, pdebench_vorticity, pdebench_groups, pdebench_incompressible),
    "pdearena": (pdearena_flow, pdearena_line, pdearena_maxwell),
    "the_well": (the_well,),
}
CASES = [(kind, make) for kind, makers in HDF5.items() for make in makers]


def everything(path):
    """All arrays and attributes of an HDF5 file, but what the package adds."""
    found = {}
    with h5py.File(path) as file:
        told = lambda name, item: [  # noqa: E731
            found.update({f"{name}@{key}": value for key, value in item.attrs.items()}),
            found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}),
        ]
        told("", file)
        file.visititems(lambda name, item: told(name, item) and None)
    return {name: value for name, value in found.items() if not name.endswith(("@opkernels", "simulation_parameters"))}


def same(a, b):
    if isinstance(a, (str, bytes)):
        return type(a) is type(b) and a == b
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind in "OSU":
        return a.shape == b.shape and [*map(str, a.ravel())] == [*map(str, b.ravel())]
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("kind,make", CASES, ids=lambda value: getattr(value, "__name__", value))
def test_hdf5_files_come_back_bit_for_bit(kind, make, tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        make(file)
    assert recognize(tmp_path / "a.hdf5") == kind
    convert(tmp_path / "a.hdf5", tmp_path / "b.nc", "native")
    convert(tmp_path / "b.nc", tmp_path / "c.hdf5", kind, part=part_of(make))
    before, after = everything(tmp_path / "a.hdf5"), everything(tmp_path / "c.hdf5")
    assert {name for name in before if name not in after} == set()
    assert [name for name in before if not same(before[name], after[name])] == []


def part_of(make):
    return {"pdearena_flow": "valid", "pdearena_maxwell": "test"}.get(make.__name__, "train")


def mat_navier_stokes():
    return {"a": odd(3, 8, 6, dtype="f8"), "u": odd(3, 8, 6, 5), "t": np.arange(1.0, 6.0)[None] / 3, "visc": np.array([[1e-5]])}


def mat_darcy():
    names = ("coeff", "sol", "Kcoeff", "Kcoeff_x")
    return {name: odd(4, 9, 9, dtype="f8") for name in names} | {"mask": NUMBERS.random((4, 9, 9)) > 0.5, "Re": NUMBERS.random((4, 1))}


def mat_burgers():
    return {"a": odd(4, 16, dtype="f8"), "u": odd(4, 16), "seed": np.arange(4, dtype="i8")[None], "note": np.arange(6.0).reshape(2, 3)}


def save_mat73(path, variables):
    """As MATLAB does: axes reversed, a class on each, 512 bytes before."""
    classes = {"f8": "double", "f4": "single", "i8": "int64", "b1": "logical"}
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in variables.items():
            file[name] = values.T.astype("u1") if values.dtype.kind == "b" else values.T
            file[name].attrs["MATLAB_class"] = np.bytes_(classes[values.dtype.str[1:]])
            if values.dtype.kind == "b":
                file[name].attrs["MATLAB_int_decode"] = np.int32(1)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Sat Nov 28".ljust(124) + b"\x00\x02IM")


@pytest.mark.parametrize("make", [mat_navier_stokes, mat_darcy, mat_burgers])
@pytest.mark.parametrize("version", ["mat", "mat73"])
def test_mat_files_come_back_bit_for_bit(version, make, tmp_path):
    from scipy.io import loadmat, savemat

    variables = make()
    save_mat73(tmp_path / "a.mat", variables) if version == "mat73" else savemat(tmp_path / "a.mat", variables)
    assert recognize(tmp_path / "a.mat") == version
    convert(tmp_path / "a.mat", tmp_path / "b.nc", "native")
    convert(tmp_path / "b.nc", tmp_path / "c.mat", version)
    if version == "mat":
        before, after = ({k: v for k, v in loadmat(tmp_path / f"{x}.mat").items() if k[0] != "_"} for x in "ac")
        head = (tmp_path / "c.mat").read_bytes()[:128]
        assert head.startswith(b"MATLAB 5.0 MAT-file") and head[124:] == b"\x00\x01IM"
    else:
        before, after = everything(tmp_path / "a.mat"), everything(tmp_path / "c.mat")
    assert [name for name in before if name not in after or not same(before[name], after[name])] == []
    assert set(after) - set(before) <= {"opkernels", "opkernels@MATLAB_class", "opkernels@MATLAB_int_decode"}


@pytest.mark.parametrize("version", ["mat", "mat73"])
def test_time_is_last_in_mat_files_and_axes_are_reversed_in_version_73(version, tmp_path):
    variables = mat_navier_stokes()
    from scipy.io import savemat

    save_mat73(tmp_path / "a.mat", variables) if version == "mat73" else savemat(tmp_path / "a.mat", variables)
    data = read(tmp_path / "a.mat")
    assert data.domain == Domain.periodic(1.0, 1.0) and data.shape == (8, 6) and same(data.times, variables["t"][0])
    assert same(np.asarray(data.fields["u"]), np.moveaxis(variables["u"], -1, 1).copy())
    assert same(data.fields["u"][1, 2], variables["u"][1, :, :, 2].copy()) and same(np.asarray(data.fields["a"]), variables["a"])
    assert not data.fields["a"].evolving and "periodic with nodes at i/n" in str(data.attributes["assumed"])
    assert read(tmp_path / "a.mat", periodic=False).domain.axes[0].points == "endpoint"


def pt_darcy():
    return {"x": torch.rand(4, 8, 8) > 0.5, "y": torch.rand(4, 8, 8)}


def pt_burgers():
    """Two views of one storage with the axes in Fortran's order, as in the released files."""
    whole = torch.rand(7, 5, 6, dtype=torch.float64)  # space, times, samples
    y = whole.permute(2, 1, 0)[1:5]
    return {"x": y[:, 0], "y": y, "visc": torch.tensor([[0.01]])}


def pt_map():
    return {"x": torch.rand(4, 6, 5), "y": torch.rand(4, 3, 6, 5)}


@pytest.mark.parametrize("make", [pt_darcy, pt_burgers, pt_map])
@pytest.mark.parametrize("zipped", [True, False])
def test_pt_files_come_back_bit_for_bit(make, zipped, tmp_path):
    before = make()
    torch.save(before, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert recognize(tmp_path / "a.pt") == "neuralop"
    convert(tmp_path / "a.pt", tmp_path / "b.nc", "native")
    convert(tmp_path / "b.nc", tmp_path / "c.pt", "neuralop")
    after = torch.load(tmp_path / "c.pt", weights_only=True)
    assert set(after) == {*before, "opkernels"}
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.nc", "c.pt"]  # nothing temporary is left


def samples(domain, shape, fields, *, times=None, still=(), dtype="f4"):
    steps = () if times is None else (len(times),)
    arrays = {name: odd(3, *steps, *shape, dtype=dtype) for name in fields} | {name: odd(3, *shape, dtype=dtype) for name in still}
    parameters = {"viscosity": np.array([1e-3, 2e-3, 1e-2]), "seed": np.full(3, 7)}
    return Trajectories.from_arrays(arrays, domain, times, parameters, attributes={"title": "A flow", "seeds": [1, 2]})


MIXED = Domain((Axis(0.0, 2 * np.pi, periodic=True, points="node", name="x"), Axis(-1.0, 1.0, points="endpoint", name="y")))
OURS = {
    "line": samples(Domain.periodic(2.0), (16,), ["w"], times=[0, 0.1, 0.3, 0.4]),
    "two fields": samples(Domain.box(3.0), (16,), ["a", "b"], times=[0, 0.1, 0.2], still=["bottom"], dtype="f8"),
    "flow": samples(MIXED, (8, 6), ["density", "velocity_x", "velocity_y"], times=[1, 2, 3.5], still=["forcing"]),
    "map": samples(MIXED, (8, 6), ["coefficient", "pressure"]),
    "map in time": samples(MIXED, (8, 6), ["u"], times=[0, 0.2, 0.4], still=["a"]),
    "tracer": samples(Domain.box(1.0, 2.0, 3.0), (4, 6, 5), ["c"], times=[0, 1]),
}
REFUSED = {("two fields", "neuralop"), ("flow", "neuralop"), ("map", "the_well"), ("map", "pdearena")}


@pytest.mark.parametrize("to", TARGETS[1:-1])
@pytest.mark.parametrize("name", OURS)
def test_ours_comes_back_from_every_format(name, to, tmp_path):
    data = OURS[name]
    data.save(tmp_path / "a.nc")
    if (name, to) in REFUSED:
        with pytest.raises(ValueError, match="files hold (evolutions|one map)"):
            convert(tmp_path / "a.nc", tmp_path / "b", to)
        assert not (tmp_path / "b").exists()
        return
    notes = convert(tmp_path / "a.nc", tmp_path / "b", to)
    assert notes and recognize(tmp_path / "b") == to
    assert convert(tmp_path / "b", tmp_path / "c.nc", "native") == []
    found = open_trajectories(tmp_path / "c.nc")
    assert found.domain == data.domain and set(found.fields) == set(data.fields)
    assert found.attributes["title"] == "A flow" and found.attributes["seeds"] == [1, 2]
    assert (found.times is None) == (data.times is None) and (data.times is None or same(found.times, data.times))
    for field, whole in data.fields.items():
        expected = np.asarray(whole)
        if to == "the_well":  # float32 all over
            expected = expected.astype("f4")
            assert (data.fields[field].dtype == "f4") or any("rounded" in note for note in notes)
        assert same(np.asarray(found.fields[field]), expected), field
        assert found.fields[field].rule == whole.rule
    assert all(same(found.parameters[key], values) for key, values in data.parameters.items())


def test_what_files_do_not_say_is_told(tmp_path):
    with h5py.File(tmp_path / "1D_CFD_trans_Train.hdf5", "w") as file:
        pdebench_cfd(file)
    data = read(tmp_path / "1D_CFD_trans_Train.hdf5")
    assert "does not say whether the domain is periodic, it is taken to be walled" in str(data.attributes["assumed"])
    assert data.domain.axes[0] == Axis(0.0, 1.0, points="cell", name="x") and set(data.fields) >= {"velocity_x", "pressure"}
    assert read(tmp_path / "1D_CFD_trans_Train.hdf5", periodic=True).domain.axes[1].periodic
    np.testing.assert_array_equal(data.times, np.linspace(0, 1, 5, dtype="f4")[:4])  # the surplus entry is not a frame
    assert data.parameters["eta"].tolist() == [0.1, 0.1]
    with h5py.File(tmp_path / "ks.h5", "w") as file:
        pdearena_line(file)
    data = read(tmp_path / "ks.h5")
    assert "times are counted in frames" in str(data.attributes["assumed"]) and data.domain == Domain(
        (Axis(0.0, 16.0, periodic=True, points="node"),)
    )
    with h5py.File(tmp_path / "rd.h5", "w") as file:
        pdebench_groups(file)
        stored = file["0001/data"][2, :, :, 1]
    data = read(tmp_path / "rd.h5")
    assert data.shape == (6, 8) and same(data.fields["v"][1, 2], stored.T.copy())  # stored (y, x), told by the grid
    assert data.domain.axes[0] == Axis(-1.0, 1.0, points="cell", name="x")


def test_numbers_of_a_group_are_parameters_only_where_all_groups_have_them(tmp_path):
    with h5py.File(tmp_path / "rd.h5", "w") as file:
        pdebench_groups(file)
        for name, group in file.items():
            group.attrs["nu"], group.attrs["mixed"] = 0.5 if name == "0000" else 0.25, 1.0
        file["0001"].attrs["mixed"] = "once a text"
        file["0000"].attrs["alone"] = 2.0
    convert(tmp_path / "rd.h5", tmp_path / "rd.nc", "native")
    found = open_trajectories(tmp_path / "rd.nc").parameters
    assert list(found) == ["nu"] and found["nu"].tolist() == [0.5, 0.25, 0.25]


@pytest.mark.parametrize("axis,n", [
    (Axis(0.0, 1.0, points="cell"), 64), (Axis(0.0, 1.0, periodic=True, points="node"), 100), (Axis(-1.0, 1.0, points="endpoint"), 65),
    (Axis(0.0, 2 * np.pi, periodic=True, points="node"), 48), (Axis(-2.5, 2.5, points="cell"), 128),
    (Axis(0.0, 4 * np.pi, points="endpoint"), 31),
    (Axis(0.0, 32.0, points="cell"), 128), (Axis(-np.pi, np.pi, periodic=True, points="cell"), 33), (Axis(0.0, 1e-3, points="cell"), 20),
])  # fmt: skip
def test_axes_are_found_from_coordinates_in_float32(axis, n):
    values = axis.coordinates(n, dtype=torch.float64).numpy().astype("f4")
    found = axis_of(values, periodic=axis.periodic, name=axis.name)
    assert (
        found.points == axis.points
        and found.lower == pytest.approx(axis.lower, abs=1e-9)
        and found.upper == pytest.approx(axis.upper, abs=1e-9)
    )


def test_uneven_coordinates_are_refused():
    for values in ([0.0, 1.0, 3.0], [1.0, 0.0], [0.0], [0.0, np.nan], [[0.0, 1.0]]):
        with pytest.raises(ValueError, match="not evenly spaced"):
            axis_of(values, periodic=False, name="x")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_no_code_is_run_and_no_memory_is_claimed(tmp_path):
    bomb = {"x": Bomb(tmp_path / "ran"), "y": torch.zeros(5, 4, 4)}
    torch.save(bomb, tmp_path / "a.pt")
    torch.save(bomb, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(bomb, protocol=2))
    torch.save({"x": torch.zeros(1).expand(10**6, 64, 64), "y": torch.zeros(1).expand(10**6, 64, 64)}, tmp_path / "huge.pt")
    for name in ("a.pt", "b.pt", "c.pt", "huge.pt"):
        with pytest.raises(ValueError, match=f"{name} .*(not a file of plain|larger than the file|not a netCDF-4)"):
            read(tmp_path / name)
    with h5py.File(tmp_path / "huge.hdf5", "w") as file:  # a claim of 4 TB in a few kB
        file.create_dataset("tensor", (10**9, 11, 100), dtype="f4", chunks=(1, 11, 100))
        file["x-coordinate"], file["t-coordinate"] = places(100), np.arange(12, dtype="f4")
    with pytest.raises(ValueError, match=r"huge.hdf5 is damaged or empty: .* needs 4400000000000 bytes"):
        read(tmp_path / "huge.hdf5")
    assert not (tmp_path / "ran").exists()


def test_metadata_of_strangers_are_passed_over(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        pdebench_scalar(file)
        for text in ("{", "[]", "{}", json.dumps({"domain": 3}), json.dumps({"domain": Domain.periodic(1.0).to_dict(), "times": "x"})):
            file.attrs["opkernels"] = text
            file.flush()
            assert read(tmp_path / "a.hdf5").shape == (16,)


def test_mistakes_are_one_sentence(tmp_path):
    OURS["line"].save(tmp_path / "a.nc")
    (tmp_path / "text").write_text("hello")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    for call, told in [
        (lambda: convert(tmp_path / "none", tmp_path / "b", "pdebench"), "there is no file .*none; give a file of opkernels, PDEBench"),
        (lambda: convert(tmp_path, tmp_path / "b", "pdebench"), "is a folder without metadata.json"),
        (lambda: convert(tmp_path / "text", tmp_path / "b", "pdebench"), "text is not a netCDF-4"),
        (lambda: convert(tmp_path / "other.h5", tmp_path / "b", "pdebench"), "is an HDF5 file of x; expected a file of opkernels"),
        (lambda: convert(tmp_path / "a.nc", tmp_path / "b", "zarr"), "got the format 'zarr'; choose one of native"),
        (lambda: convert(tmp_path / "a.nc", tmp_path / "a.nc", "pdebench"), "would be replaced by what is made of it"),
        (
            lambda: convert(tmp_path / "a.nc", tmp_path / "b", "lagrangebench"),
            "holds fields on grids, but lagrangebench is a format of particles",
        ),
        (lambda: convert(tmp_path / "a.nc", tmp_path / "text" / "b", "pdebench"), "cannot write .*one of its folders is a file"),
        (lambda: convert(tmp_path / "a.nc", tmp_path / "b", "native", periodic=True), "says itself whether its domain is periodic"),
    ]:
        with pytest.raises(ValueError, match=told) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "other.h5", "text"]


def test_what_the_wells_reader_asks_for_is_there(tmp_path):
    """Its documented layout, and the traps of its reader: masks true at the ends, tensors with two axes, every attribute."""
    OURS["flow"].save(tmp_path / "a.nc")
    convert(tmp_path / "a.nc", tmp_path / "flow.hdf5", "the_well")
    with h5py.File(tmp_path / "flow.hdf5") as file:
        assert {"dimensions", "boundary_conditions", "scalars", "t0_fields", "t1_fields", "t2_fields"} == set(file)
        told = {name: file.attrs[name] for name in ("dataset_name", "grid_type", "n_spatial_dims", "n_trajectories")}
        assert told == {"dataset_name": "flow", "grid_type": "cartesian", "n_spatial_dims": 2, "n_trajectories": 3}
        assert list(file["dimensions"].attrs["spatial_dims"]) == ["x", "y"] and file["dimensions/time"].dtype == "f4"
        assert list(file["t0_fields"].attrs["field_names"]) == ["density", "forcing"] and list(file["t2_fields"]) == []
        assert file["t1_fields/velocity"].shape == (3, 3, 8, 6, 2) and file["t0_fields/forcing"].shape == (3, 8, 6)
        kinds = {name: str(item.attrs["bc_type"]) for name, item in file["boundary_conditions"].items()}
        assert kinds == {"x_periodic": "PERIODIC", "y_wall": "WALL"}
        assert all(item["mask"][0] and item["mask"][-1] for item in file["boundary_conditions"].values())
        for name in ("dimensions/time", "dimensions/x", "dimensions/y", "scalars/viscosity", "scalars/seed", "t0_fields/density"):
            assert {"sample_varying", "time_varying"} <= set(file[name].attrs), name
        assert file["t0_fields/density"].attrs["dim_varying"].tolist() == [True, True]
        assert list(file.attrs["simulation_parameters"]) == ["seed"] and file.attrs["seed"] == 7
        assert list(file["scalars"].attrs["field_names"]) == ["viscosity", "seed"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_wells_own_reader_reads_ours(tmp_path):
    well = pytest.importorskip("the_well.data")
    from the_well.data.normalization import ZScoreNormalization

    from opkernels.datasets.formats.the_well import read_the_well, write_statistics, write_the_well

    numbers = np.random.default_rng(1)
    fields = {name: numbers.standard_normal((3, 5, 8, 6)).astype("f4") for name in ("density", "velocity_x", "velocity_y")}
    fields["forcing"] = numbers.standard_normal((3, 8, 6)).astype("f4")
    data = Trajectories.from_arrays(fields, MIXED, 0.5 * np.arange(5), {"viscosity": np.array([0.1, 0.2, 0.3])})
    (tmp_path / "data" / "train").mkdir(parents=True)
    file = tmp_path / "data" / "train" / "flow.hdf5"
    write_the_well(data, file)
    write_statistics(read_the_well(file), tmp_path / "stats.yaml")
    options = {"path": str(tmp_path), "well_split_name": "train", "n_steps_input": 2, "n_steps_output": 1}
    item = well.WellDataset(**options)[4]  # the second window of the second sample
    assert torch.equal(item["input_fields"][..., 0], torch.from_numpy(fields["density"][1, 1:3]))
    assert torch.equal(
        item["output_fields"][0, ..., 1:], torch.from_numpy(np.stack([fields["velocity_x"], fields["velocity_y"]], -1)[1, 3])
    )
    assert torch.equal(item["constant_fields"][..., 0], torch.from_numpy(fields["forcing"][1]))
    assert item["boundary_conditions"].tolist() == [[2, 2], [0, 0]] and item["constant_scalars"].tolist() == [0.2]
    np.testing.assert_allclose(item["space_grid"].numpy(), np.moveaxis(data.grid.coordinates().numpy(), 0, -1), atol=1e-6)
    seen = well.WellDataset(**options).to_xarray(backend="numpy")
    assert np.array_equal(seen["velocity"].sel(i="y").values, fields["velocity_y"]) and seen["density"].dims == ("sample", "time", "x", "y")
    scaled = well.WellDataset(**options, use_normalization=True, normalization_type=ZScoreNormalization)[0]["input_fields"][..., 0]
    expected = (fields["density"][0, :2] - fields["density"].mean()) / fields["density"].std()
    np.testing.assert_allclose(scaled.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_full_disk_is_told_before_the_work(tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple

    OURS["line"].save(tmp_path / "a.nc")
    (tmp_path / "b.hdf5").write_text("old")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("usage", "free")(100))
    with pytest.raises(ValueError, match="b.hdf5: it needs 0.0 MB, but the disk has 0.0 MB free"):
        convert(tmp_path / "a.nc", tmp_path / "b.hdf5", "pdebench")
    assert (tmp_path / "b.hdf5").read_text() == "old"


def test_an_old_file_stays_until_the_new_one_is_complete(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        pdebench_cfd(file)
    (tmp_path / "b").write_text("old")

    def stop(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    for to in ("native", "pdebench", "the_well", "pdearena", "mat", "mat73"):
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path / "a.hdf5", tmp_path / "b", to, progress=stop)
        assert (tmp_path / "b").read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5", "b"]


def test_particles_go_to_lagrangebench_and_back(tmp_path):
    from opkernels import generate, open_particles

    recipe = {"flow": "taylor_green", "times": {"stop": 0.1, "count": 3}, "resolution": 0.125, "samples": 4}
    data = generate(recipe, tmp_path / "a.nc", workers=1)
    assert any("velocities" in note for note in convert(tmp_path / "a.nc", tmp_path / "tgv", "lagrangebench"))
    assert recognize(tmp_path / "tgv") == "lagrangebench"
    convert(tmp_path / "tgv", tmp_path / "b.nc", "native", part="valid")
    torch.testing.assert_close(open_particles(tmp_path / "b.nc")[0].positions[0], data[2].positions[0])
    with pytest.raises(ValueError, match="holds particles, but pdebench is a format of fields on grids"):
        convert(tmp_path / "a.nc", tmp_path / "c", "pdebench")


def command(capfd, *words):
    from opkernels import cli

    code = cli.main(["convert", *map(str, words)])
    out, err = capfd.readouterr()
    return code, out, err


def test_the_command(capfd, tmp_path):
    OURS["flow"].save(tmp_path / "a.nc")
    code, out, err = command(capfd, tmp_path / "a.nc", tmp_path / "b.hdf5", "--to", "the_well")
    assert code == 0 and err == "" and "b.hdf5 written in the format the_well\nnote: " in out
    (tmp_path / "b.hdf5").write_bytes((tmp_path / "b.hdf5").read_bytes()[:3000])
    code, out, err = command(capfd, tmp_path / "b.hdf5", tmp_path / "c.nc", "--to", "native")
    assert (
        code == 2
        and out == ""
        and err.startswith("opkernels convert: ")
        and "b.hdf5 is cut short or damaged" in err
        and err.count("\n") == 1
    )
    assert not (tmp_path / "c.nc").exists()


@pytest.mark.parametrize("harm,told", [
    ("os.kill(os.getpid(), signal.SIGSEGV)", "made the library that reads it crash \\(SIGSEGV\\)"),
    ("time.sleep(1000)", "does not come to an end"), ("os.kill(os.getpid(), signal.SIGKILL)", "was killed"),
])  # fmt: skip
def test_the_command_survives_a_library_that_does_not(harm, told, tmp_path, monkeypatch):
    from argparse import Namespace

    from opkernels.datasets.formats import command

    work = f"import os, signal, time\n\n\ndef work(arguments, teller):\n    teller.send_bytes(b'ready')\n    {harm}\n"
    (tmp_path / "harmful.py").write_text(work)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "harmful", raising=False)
    monkeypatch.setattr(command, "_work", __import__("harmful").work)
    with pytest.raises(ValueError, match=f"a.nc {told}|a.nc.*{told}"):
        command.run(Namespace(file=str(tmp_path / "a.nc"), out=str(tmp_path / "b.nc"), patience=0.5))


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """Outcomes of 15 damaged files of each kind, read in a process of their own; see benchmarks/fuzz_formats.py."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("fuzz_formats", Path(__file__).parents[2] / "benchmarks" / "fuzz_formats.py")
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    return fuzz.fuzz(15, seed=3, report=lambda line: None, check=0)


@pytest.mark.parametrize("kind", TARGETS)
def test_damaged_files_are_one_sentence_and_run_no_code(kind, fuzzed):
    found = fuzzed[kind]
    assert found["traceback"] == 0, found["worst"]
    assert found["refused"] + found["read"] + found["crashed"] + found["hung"] == 15 and found["refused"] >= 4
    assert found["crashed"] + found["hung"] <= 3 and not found["code_run"] and not fuzzed["left_behind"]  # HDF5's own; the command survives
