"""Trajectories: reading, restriction by each variable's rule, views, arrays and xarray in and out."""

import pickle

import numpy as np
import pytest
import torch
import xarray
from helpers import band_limited

from opkernels import Axis, Domain, Trajectories, open_trajectories


def waves(*shape, samples=3, times=4, dtype=np.float64):
    """Band-limited functions, the same on every shape."""
    parts = [band_limited(shape, batch=times, seed=seed)[:, 0].numpy() for seed in range(samples)]
    return np.stack(parts).astype(dtype)


def torus(*shape, **options):
    domain = Domain.periodic(*[1.0, 2.0, 0.5][: len(shape)])
    return Trajectories.from_arrays({"u": waves(*shape, **options)}, domain, times=np.arange(options.get("times", 4)))


@pytest.fixture(params=["memory", "file"])
def stored(request, tmp_path):
    """Return the data themselves, or through a file."""

    def place(data):
        if request.param == "memory":
            return data
        data.save(tmp_path / "data.nc")
        return open_trajectories(tmp_path / "data.nc")

    return place


@pytest.mark.parametrize("fine,coarse", [((64,), (9,)), ((32, 48), (15, 16)), ((33, 25), (32, 9)), ((16, 15, 14), (8, 9, 7))])
def test_restriction_of_band_limited_fields_is_exact(stored, fine, coarse):
    data = stored(torus(*fine))
    view = data.at(*coarse)
    assert view.shape == coarse and view.grid == data.domain.grid(*coarse)
    np.testing.assert_allclose(view.read()[:, :, 0], waves(*coarse), atol=1e-12)
    np.testing.assert_allclose(view.fields["u"][1, 2], waves(*coarse)[1, 2], atol=1e-12)
    assert np.abs(waves(*coarse)).max() > 1


def test_restriction_drops_what_the_coarse_grid_cannot_carry():
    x = np.arange(32) / 32
    fast, slow = np.cos(2 * np.pi * 9 * x), np.sin(2 * np.pi * 2 * x)
    data = Trajectories.from_arrays({"u": (fast + slow)[None]}, Domain.periodic(1.0))
    np.testing.assert_allclose(data.at(16).read()[0, 0, 0], slow[::2], atol=1e-13)  # sampling every second one would alias


@pytest.mark.parametrize("shape", [(4, 3), (12, 2), (6, 6), (12, 6)])
def test_means_keep_the_integral_and_are_those_of_the_cells(stored, shape):
    values = np.random.default_rng(0).random((2, 12, 6))
    data = stored(Trajectories.from_arrays({"a": values}, Domain.box(1.0, 2.0)))
    view = data.at(*shape)
    a, b = 12 // shape[0], 6 // shape[1]
    expected = [[[v[i * a : (i + 1) * a, j * b : (j + 1) * b].mean() for j in range(shape[1])] for i in range(shape[0])] for v in values]
    np.testing.assert_allclose(view.read()[:, 0, 0], expected, rtol=1e-14)
    np.testing.assert_allclose(view.read().mean(), values.mean(), rtol=1e-14)


@pytest.mark.parametrize("points,fine,coarse,places", [
    ("endpoint", 9, 5, [0, 2, 4, 6, 8]),
    ("node", 12, 4, [0, 3, 6, 9]),
    ("cell", 9, 3, [1, 4, 7]),
    ("gauss", 6, 6, range(6)),
])  # fmt: skip
def test_nodal_values_are_those_at_the_same_places(points, fine, coarse, places):
    domain = Domain.box(2.0, points=points)
    values = np.random.default_rng(0).random((2, fine))
    view = Trajectories.from_arrays({"a": values}, domain, restriction="nodal").at(coarse)
    np.testing.assert_array_equal(view.read()[:, 0, 0], values[:, list(places)])
    at = domain.grid(fine).coordinates(dtype=torch.float64)[0][list(places)]
    torch.testing.assert_close(at, view.grid.coordinates(dtype=torch.float64)[0])


def test_each_variable_keeps_its_own_rule(stored):
    domain = Domain((Axis(0.0, 1.0, periodic=True, points="cell"),))
    step = (np.arange(12) >= 6).astype(np.float64)
    rules = {"u": "spectral", "a": "mean"}
    data = stored(Trajectories.from_arrays({"u": step[None], "a": step[None]}, domain, restriction=rules)).at(4)
    assert {name: field.rule for name, field in data.fields.items()} == rules
    np.testing.assert_array_equal(data.fields["a"][0], [0, 0, 1, 1])
    assert np.abs(data.fields["u"][0] - [0, 0, 1, 1]).max() > 0.01  # a truncated series overshoots


def test_defaults_of_the_rule():
    cases = [(Domain.periodic(1.0), "spectral"), (Domain.box(1.0), "mean"), (Domain.box(1.0, points="endpoint"), "nodal")]
    for domain, rule in cases:
        assert Trajectories.from_arrays({"u": np.zeros((1, 8))}, domain).fields["u"].rule == rule


def test_refusals_of_shapes():
    data = torus(16, 12)
    with pytest.raises(ValueError, match="asked for 17 samples along x, but u is stored with 16"):
        data.at(17, 12)
    with pytest.raises(ValueError, match="2-D domain"):
        data.at(16)
    with pytest.raises(ValueError, match="stored with 16"):
        data.at(8, 6).at(32, 6)
    cells = Trajectories.from_arrays({"a": np.zeros((1, 12))}, Domain.box(1.0))
    with pytest.raises(ValueError, match="cell means need a size that divides it"):
        cells.at(5)
    with pytest.raises(ValueError, match="need grids that nest"):
        Trajectories.from_arrays({"a": np.zeros((1, 12))}, Domain.box(1.0), restriction="nodal").at(6)


def test_views_compose_and_return_to_the_stored_resolution():
    data = torus(32, 24)
    assert torch.equal(data.at(16, 12).at(32, 24).read(), data.read())
    torch.testing.assert_close(data.at(16, 12).at(9, 9).read(), data.at(9, 9).read())


def test_reading_is_indexing(stored):
    values = np.random.default_rng(0).random((5, 4, 6, 3))
    data = stored(Trajectories.from_arrays({"u": values, "v": -values, "a": values[:, 0]}, Domain.box(1.0, 1.0), times=np.arange(4)))
    everything = data.read()
    assert everything.shape == (5, 4, 3, 6, 3) and everything.dtype == torch.float64
    np.testing.assert_array_equal(everything[:, :, 0], values)
    np.testing.assert_array_equal(everything[:, 3, 2], values[:, 0])  # constant in time
    whole = everything.numpy()
    for samples in ([3, 0], slice(1, None, 2), np.array([-1]), torch.tensor([2, 2]), 4, np.arange(5) > 2):
        for steps in (slice(None), [3, 1], slice(0, 3, 2), -1, []):
            rows = np.atleast_1d(np.arange(5)[np.asarray(samples) if not isinstance(samples, slice) else samples])
            times = np.atleast_1d(np.arange(4)[np.asarray(steps, dtype=int) if not isinstance(steps, slice) else steps])
            np.testing.assert_array_equal(data.read(samples, steps), whole[rows][:, times])
    np.testing.assert_array_equal(data.windows([4, 0, 4], [1, 0, 2], 2)[2, :, 1], -values[4, 2:4])
    np.testing.assert_array_equal(data.read(0, fields=["v"])[0, :, 0], -values[0])
    field = data.fields["u"]
    np.testing.assert_array_equal(np.asarray(field), values)
    for key in (2, -1, (1, 2), (slice(1, 3), 0), (..., 1), ([0, 2],), (3, slice(1, 3), 2), (slice(0, 0),)):
        np.testing.assert_array_equal(field[key], values[key])


def test_read_returns_a_copy_and_iterating_gives_the_channels(stored):
    data = stored(torus(8, 8))
    data.read().zero_()
    assert data.read().abs().max() > 1
    assert list(data.fields) == ["u"]


@pytest.mark.parametrize(
    "dtype,expected", [(np.float32, torch.float32), (np.float64, torch.float64), (bool, torch.float32), (np.int16, torch.float32)]
)
def test_dtypes(stored, dtype, expected):
    values = np.array([[0, 1, 1, 0]]).astype(dtype)
    data = stored(Trajectories.from_arrays({"a": values}, Domain.box(1.0)))
    assert data.read().dtype == expected and data.read().flatten().tolist() == [0, 1, 1, 0]
    assert data.at(2).read().flatten().tolist() == [0.5, 0.5]


def test_refusals_of_reading():
    data = torus(8, 8)
    with pytest.raises(ValueError, match="asked for sample 3, but there are 3"):
        data.read([0, 3])
    with pytest.raises(ValueError, match="asked for step -5"):
        data.read(0, -5)
    with pytest.raises(ValueError, match="give a slice or whole numbers"):
        data.read(0.5)
    with pytest.raises(ValueError, match="there is no field 'w'; the dataset holds u"):
        data.read(fields=["w"])
    with pytest.raises(ValueError, match="leaves the 4 stored steps"):
        data.windows([0], [3], 2)
    with pytest.raises(ValueError, match="one start for each sample"):
        data.windows([0, 1], [0], 2)


def test_split_and_select():
    data = Trajectories.from_arrays({"u": np.arange(10.0)[:, None] * np.ones(4)}, Domain.periodic(1.0), parameters={"k": np.arange(10)})
    train, valid, test = data.split(train=0.7, valid=2)
    assert [part.parameters["k"].tolist() for part in (train, valid, test)] == [list(range(7)), [7, 8], [9]]
    first, again = (data.split(0.5, seed=3) for _ in range(2))
    assert all(torch.equal(a.read(), b.read()) for a, b in zip(first, again, strict=True))
    shuffled = np.concatenate([part.parameters["k"] for part in first])
    assert sorted(shuffled) == list(range(10)) and list(shuffled) != list(range(10))
    for part in first:
        np.testing.assert_array_equal(part.read()[:, 0, 0, 0], part.parameters["k"])
    assert data.select([7, 2]).select([1]).read()[0, 0, 0, 0] == 2
    for bad in (0.0, 1.0, 10, 0.01, True):
        with pytest.raises(ValueError, match="split"):
            data.split(train=bad)


def test_a_selection_of_trajectories_reads_its_own_samples(stored):
    data = stored(torus(8, 6, samples=5))
    everything, part = data.read(), data.select([4, 1, 3])
    assert torch.equal(part.read(), everything[[4, 1, 3]]) and torch.equal(part.read([2, 0]), everything[[3, 4]])
    assert torch.equal(part.windows([1, 2], [2, 0], 2), torch.stack([everything[1, 2:4], everything[3, 0:2]]))
    np.testing.assert_array_equal(np.asarray(part.fields["u"]), everything[[4, 1, 3], :, 0])
    np.testing.assert_array_equal(part.to_xarray().u, everything[[4, 1, 3], :, 0])


def test_pickles_hold_the_path_and_open_again(tmp_path):
    torus(64, 48, samples=6).save(tmp_path / "data.nc")
    data = open_trajectories(tmp_path / "data.nc")
    expected = data.at(32, 24).read()  # opened, mapped
    sent = pickle.dumps(data.at(32, 24).select([1, 0]))
    assert len(sent) < 4000
    assert torch.equal(pickle.loads(sent).read(), expected[[1, 0]])


class Windows(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data.windows([i], [0], 2)[0]


@pytest.mark.parametrize("compressed", [False, True])
def test_workers_of_a_data_loader_read_the_same(tmp_path, compressed):
    data = torus(8, 8, samples=6)
    data.save(tmp_path / "data.nc")
    if compressed:
        with xarray.open_dataset(tmp_path / "data.nc") as seen:
            seen.to_netcdf(tmp_path / "small.nc", engine="h5netcdf", encoding={"u": {"zlib": True}})
    data = open_trajectories(tmp_path / ("small.nc" if compressed else "data.nc"))
    here = data.read(slice(None), slice(0, 2))  # opened before the fork
    loader = torch.utils.data.DataLoader(Windows(data), batch_size=2, num_workers=2)
    assert torch.equal(torch.cat(list(loader)), here)


def test_load_reads_once_at_the_present_resolution(tmp_path):
    torus(32, 24).save(tmp_path / "data.nc")
    view = open_trajectories(tmp_path / "data.nc").at(16, 12).select([2, 0])
    loaded = view.load()
    assert torch.equal(loaded.read(), view.read()) and isinstance(loaded.fields["u"].source, np.ndarray)


def test_arrays_are_not_copied_and_tensors_are_taken():
    values = torch.randn(2, 3, 8, dtype=torch.float64)
    data = Trajectories.from_arrays({"u": values}, Domain.periodic(1.0), times=torch.arange(3), parameters={"nu": torch.ones(2)})
    values[1, 2, 5] = 7.0
    assert data.read()[1, 2, 0, 5] == 7.0 and data.times.dtype == np.float64


def test_refusals_of_arrays():
    domain, good = Domain.periodic(1.0, 1.0), np.zeros((4, 3, 8, 6))
    with pytest.raises(ValueError, match=r"got u of shape \(4, 3\); expected \(samples, 3, x, y\)"):
        Trajectories.from_arrays({"u": good[..., 0, 0]}, domain, times=[0, 1, 2])
    with pytest.raises(ValueError, match=r"expected \(samples, 2, x, y\)"):
        Trajectories.from_arrays({"u": good}, domain, times=[0, 1])
    with pytest.raises(ValueError, match=r"expected \(samples, x, y\)"):
        Trajectories.from_arrays({"u": good}, domain)
    with pytest.raises(ValueError, match="give all the same sizes"):
        Trajectories.from_arrays({"u": good, "v": good[:3]}, domain, times=[0, 1, 2])
    with pytest.raises(ValueError, match="one value for each of the 4 samples"):
        Trajectories.from_arrays({"u": good}, domain, times=[0, 1, 2], parameters={"nu": [1.0]})
    for times in ([0, 1, 1], [0, 2, 1], [0, 1, np.nan]):
        with pytest.raises(ValueError, match="increasing finite numbers"):
            Trajectories.from_arrays({"u": good}, domain, times=times)
    for name in ("time", "x", "nu"):
        with pytest.raises(ValueError, match=f"the name {name!r} is given twice"):
            Trajectories.from_arrays({name: good}, domain, times=[0, 1, 2], parameters={"nu": np.zeros(4)})
    with pytest.raises(ValueError, match="got no field"):
        Trajectories.from_arrays({}, domain)
    with pytest.raises(ValueError, match="complex fields as two real ones"):
        Trajectories.from_arrays({"u": good + 1j}, domain, times=[0, 1, 2])
    with pytest.raises(ValueError, match=r"got u of shape \(0, 3, 8, 6\)"):
        Trajectories.from_arrays({"u": good[:0]}, domain, times=[0, 1, 2])
    with pytest.raises(ValueError, match="restriction names w, but the fields are u"):
        Trajectories.from_arrays({"u": good}, domain, times=[0, 1, 2], restriction={"w": "mean"})
    with pytest.raises(ValueError, match="choose one of spectral, mean, nodal"):
        Trajectories.from_arrays({"u": good}, domain, times=[0, 1, 2], restriction="linear")


@pytest.mark.parametrize("domain", [
    Domain.periodic(1.0, 2.0), Domain.box(1.0, 2.0, points="endpoint"), Domain.box(1.0, 2.0, points="gauss"),
    Domain((Axis(-1.0, 1.0, periodic=True, points="cell"), Axis(2.0, 3.0, points="node"))),
])  # fmt: skip
def test_round_trip_through_xarray(domain):
    values = np.random.default_rng(0).random((4, 3, 8, 6))
    data = Trajectories.from_arrays(
        {"u": values, "a": values[:, 0]}, domain, [0.0, 1.0, 3.0], {"nu": np.arange(4.0)}, attributes={"title": "t"}
    )
    again = Trajectories.from_xarray(data.to_xarray())
    assert again.domain == domain and torch.equal(again.read(), data.read()) and again.attributes["title"] == "t"
    np.testing.assert_array_equal(again.times, data.times)
    np.testing.assert_array_equal(again.parameters["nu"], data.parameters["nu"])


def test_to_xarray_copies_nothing_at_the_stored_resolution(tmp_path):
    data = torus(16, 12)
    assert np.shares_memory(data.to_xarray().u.values, data.fields["u"].source)
    np.testing.assert_allclose(data.at(8, 8).to_xarray().u, waves(8, 8), atol=1e-12)


def test_a_users_dataset_enters():
    values = np.random.default_rng(0).random((8, 6, 3)).astype(np.float32)
    coordinates = {"x": np.arange(8) / 8, "t": np.array(["2000-01-01", "2000-01-02", "2000-01-04"], dtype="datetime64[ns]")}
    user = xarray.Dataset({"T": (("x", "depth", "t"), values)}, coordinates)
    domain = Domain((Axis(0.0, 1.0, periodic=True, points="node", name="x"), Axis(0.0, 3.0, name="depth")))
    user["T"].attrs["restriction"] = "for internal use"  # another meaning of the word
    data = Trajectories.from_xarray(user, domain, time="t")
    assert data.fields["T"].rule == "nodal"
    assert data.read().shape == (1, 3, 1, 8, 6)
    np.testing.assert_array_equal(data.read()[0, :, 0], values.transpose(2, 0, 1))
    np.testing.assert_array_equal(data.times, [0, 86400, 3 * 86400])


def test_a_lazy_dataset_stays_lazy(tmp_path):
    data = torus(16, 12)
    data.save(tmp_path / "data.nc")
    with xarray.open_dataset(tmp_path / "data.nc") as seen:
        lazy = Trajectories.from_xarray(seen)
        assert not seen.u.variable._in_memory
        assert torch.equal(lazy.at(8, 8).read([2, 0], [3, 1]), data.at(8, 8).read([2, 0], [3, 1]))
        assert not seen.u.variable._in_memory


def test_refusals_of_datasets():
    user = xarray.Dataset({"u": (("sample", "x"), np.zeros((2, 8)))}, {"x": np.arange(8) / 8})
    with pytest.raises(ValueError, match="does not say how far the domain reaches.*pass domain="):
        Trajectories.from_xarray(user)
    with pytest.raises(ValueError, match='"cell" samples of .* correct the domain'):
        Trajectories.from_xarray(user, Domain.box(1.0))
    with pytest.raises(ValueError, match="mask is on neither.*drop_vars"):
        Trajectories.from_xarray(user.assign(mask=("z", [1, 2])), Domain.periodic(1.0))
    with pytest.raises(ValueError, match="without variables"):
        Trajectories.from_xarray(xarray.Dataset())


KEYS = [
    (3,), (-1, 0), ([1, 2], [0, 1]), ([1, 2], 0), (slice(0, 0), 1), (slice(None), -1), (slice(None, None, -2), [0, 2]),
    (0, slice(None), [1, 2]), (0, 1, slice(None), [1, 2]), (np.array([[0, 1], [4, 0]]), 1), ([4, 0, 4],),
    ([True, False, True, False, False],), (True,), (), (..., 0),
    (np.int64(2), np.int64(1)), (slice(1, 3), slice(None), 0), ([], 0), (np.zeros((5, 3), bool),),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("shape", [(6, 4), (3, 4)])
def test_fields_are_indexed_as_arrays(key, shape):
    array = np.random.default_rng(0).normal(size=(5, 3, 6, 4))
    field = Trajectories.from_arrays({"u": array}, Domain.periodic(1.0, 1.0), times=[0, 1, 2]).at(*shape).fields["u"]
    got, expected = field[key], np.asarray(field)[key]
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("key", [5, ([0, 5],), 1.5, (0, 3), (0, 0, 0, 0, 0)], ids=str)
def test_places_that_are_not_there_are_index_errors(key):
    field = Trajectories.from_arrays({"u": np.zeros((5, 3, 6))}, Domain.periodic(1.0), times=[0, 1, 2]).fields["u"]
    with pytest.raises(IndexError):
        field[key]


@pytest.mark.parametrize("rule", ["spectral", "nodal", "mean"])
@pytest.mark.parametrize("kind", [bool, np.int32, np.uint8])
def test_whole_numbers_read_the_same_restricted_and_as_fields(rule, kind):
    domain = Domain.periodic(1.0) if rule != "mean" else Domain.box(1.0)
    array = np.random.default_rng(0).integers(0, 2, size=(3, 8)).astype(kind)
    data = Trajectories.from_arrays({"m": array, "n": array}, domain, restriction=rule)
    assert data.read().dtype == data.at(4).read().dtype == torch.float32
    field = data.at(4).fields["m"]
    assert field.dtype == np.asarray(field).dtype == field[0].dtype
    np.testing.assert_array_equal(data.at(4).read()[:, 0, 0], np.asarray(field))
    mixed = Trajectories.from_arrays({"m": array, "u": np.zeros((3, 8), np.float32)}, domain, restriction=rule)
    assert mixed.read().dtype == torch.float32


def test_means_of_nodes_are_refused_for_the_right_reason():
    data = Trajectories.from_arrays({"u": np.zeros((2, 8))}, Domain.periodic(1.0), restriction="mean")
    with pytest.raises(ValueError, match='u cannot be restricted from 8 to 4 .* the rule "mean" needs "cell" points'):
        data.at(4)


def test_a_constant_field_keeps_the_times_on_the_round_trip():
    data = Trajectories.from_arrays({"a": np.ones((2, 4))}, Domain.periodic(1.0), times=[0.0, 0.5])
    again = Trajectories.from_xarray(data.to_xarray())
    np.testing.assert_array_equal(again.times, data.times)
    assert torch.equal(again.read(), data.read()) and again.read().shape == (2, 2, 1, 4)


def test_a_named_array_is_a_dataset_of_one_field():
    array = xarray.DataArray(np.random.default_rng(0).normal(size=(3, 4)), dims=("sample", "x"), name="u", attrs={"units": "m"})
    data = Trajectories.from_xarray(array, Domain.periodic(1.0))
    assert list(data.fields) == ["u"] and data.fields["u"].attributes["units"] == "m"
    np.testing.assert_array_equal(data.read()[:, 0, 0], array)


@pytest.mark.parametrize("user,told", [
    (xarray.Dataset({"u": (("sample", "x"), np.ones((2, 4), complex))}), "got u of type complex128; give real numbers"),
    (xarray.Dataset({"u": (("sample", "z"), np.ones((2, 4)))}), "has the axes x, but the dataset the dimensions z; give them the same"),
    (xarray.DataArray(np.ones((2, 4)), dims=("sample", "x")), "without a name; name the field"),
    (np.ones((2, 4)), "got ndarray; give an xarray.Dataset"),
    (xarray.Dataset({"u": (("sample", "x"), np.ones((2, 2)))}, {"x": ["a", "b"]}), "coordinate x is of type <U1; give the places"),
    (xarray.Dataset({"u": (("time", "x"), np.ones((2, 4)))}, {"time": ["a", "b"]}), "not a list of increasing finite numbers"),
])  # fmt: skip
def test_more_refusals_of_datasets(user, told):
    with pytest.raises(ValueError, match=told):
        Trajectories.from_xarray(user, Domain.periodic(1.0))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", 3, None])
def test_names_that_a_file_cannot_hold_are_refused(name):
    for fields, parameters in (({name: np.ones((2, 4))}, {}), ({"u": np.ones((2, 4))}, {name: [1, 2]})):
        with pytest.raises(ValueError, match="got a field or parameter named .*; give it a name"):
            Trajectories.from_arrays(fields, Domain.periodic(1.0), parameters=parameters)


@pytest.mark.parametrize("attributes", [{"a": None}, {"a": {"b": 1}}, {"a": [1, None]}, {3: "x"}, {"": 1}, {"a": ["x", 1]}, {"a": 1j}])
def test_attributes_that_a_file_cannot_hold_are_refused(attributes, tmp_path):
    data = Trajectories.from_arrays({"u": np.ones((2, 4))}, Domain.periodic(1.0), attributes=attributes)
    with pytest.raises(ValueError, match="got the attribute .*; give text, a number or a list"):
        data.save(tmp_path / "d.nc")
    assert list(tmp_path.iterdir()) == []


def test_attributes_of_text_and_numbers_come_back(tmp_path):
    attributes = {"title": "t", "n": 3, "x": 0.5, "list": [1.0, 2.0], "words": ["a", "b"], "yes": True, "np": np.float32(2)}
    Trajectories.from_arrays({"u": np.ones((2, 4))}, Domain.periodic(1.0), attributes=attributes).save(tmp_path / "d.nc")
    again = open_trajectories(tmp_path / "d.nc").attributes
    assert {key: again[key] for key in attributes} == attributes
