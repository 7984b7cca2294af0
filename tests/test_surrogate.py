"""Surrogates: physical units, steps in time, tiles, Datasets, files that hold no code."""

import copy
import inspect
import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
import xarray as xr
from standing_wave import DT, Mix, domain_of, exact_surrogate, wave
from torch import nn

import opkernels as ok
from opkernels import models
from opkernels.models import UNet
from opkernels.normalization import Normalization
from opkernels.surrogate import ParameterScaling, Surrogate, load, save

DOMAIN = ok.Domain.periodic(2 * math.pi, 1.0)


class Affine(nn.Module):
    """y = a x + b, channel by channel: a rollout with a closed form."""

    def __init__(self, a=0.5, b=0.25, channels=1, repeat=1):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.full((1, channels, 1, 1), a)), nn.Parameter(torch.full((1, channels, 1, 1), b))
        self.repeat = repeat

    def forward(self, x):
        return torch.cat([self.a * x + self.b] * self.repeat, dim=1)


class Viscous(nn.Module):
    """Adds the scaled parameter to x."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x, parameters):
        return self.w * x + parameters[:, 0][:, None, None, None]


def affine(target="state", **kwargs):
    kwargs = {"dt": 0.1, "model": Affine()} | kwargs
    model = kwargs.pop("model")
    return Surrogate(model, DOMAIN, ("w",), ("w",), Normalization((2.0,), (4.0,), ("w",)), Normalization((1.0,), (3.0,)), target, **kwargs)


def unet(n_parameters=0):
    torch.manual_seed(0)
    model = UNet(DOMAIN, 2, 2, hidden_channels=4, n_layers=2, n_parameters=n_parameters)
    one = Normalization((0.1, -0.2), (2.0, 0.5), ("u", "v"))
    scaling = ParameterScaling.fit({"nu": [1e-3, 1e-2]}) if n_parameters else ParameterScaling()
    return Surrogate(model, DOMAIN, ("u", "v"), ("u", "v"), one, one, "increment", dt=0.5, parameters=scaling, notes={"seed": 3})


def test_it_is_printed_in_a_few_lines():
    told = repr(unet(1))
    assert (
        "UNet of" in told and "one step of 0.5" in told and "u, v -> u, v" in told and "parameters: nu" in told and "on 6.28319 x 1" in told
    )
    assert len(told.splitlines()) <= 6
    assert "a direct map" in repr(affine(dt=None)) and "radius 2" in repr(affine_on_sphere())


def affine_on_sphere():
    one = Normalization((0.0,), (1.0,), ("w",))
    return Surrogate(Affine(), ok.Sphere(radius=2.0), ("w",), ("w",), one, one, dt=0.1)


def dataset(shape=(8, 12), names=("w",), **dims):
    x, y = (axis.coordinates(n, dtype=torch.float64).numpy() for axis, n in zip(DOMAIN.axes, shape, strict=True))
    rng = np.random.default_rng(0)
    sizes = (*dims.values(), *shape)
    fields = {name: ((*dims, "x", "y"), rng.standard_normal(sizes).astype("float32")) for name in names}
    return xr.Dataset(fields, coords={"x": x, "y": y})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prediction_and_rollout_are_in_physical_units(dtype):
    x = torch.randn(3, 1, 5, 6, dtype=dtype)
    state, increment = affine("state"), affine("increment")
    expected = (0.5 * (x - 2) / 4 + 0.25) * 3 + 1
    torch.testing.assert_close(state.predict(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(increment.predict(x), x + expected, rtol=1e-5, atol=1e-5)
    # u -> a u + b has the orbit a^n u + b (a^n - 1)/(a - 1)
    a, b = 1 + 0.375, expected.flatten()[0] - 0.375 * x.flatten()[0]
    orbit = torch.stack([a**n * x + b * (a**n - 1) / (a - 1) for n in (1, 2, 3, 4)], dim=1)
    rolled = increment.rollout(x, 4)
    assert rolled.shape == (3, 4, 1, 5, 6) and rolled.dtype == dtype
    torch.testing.assert_close(rolled, orbit, rtol=1e-5, atol=1e-5)  # the model works in float32
    torch.testing.assert_close(rolled[:, 0], increment.predict(x))


def test_tiles_callbacks_and_iteration_give_the_same_numbers():
    surrogate = unet(1)
    x, p = torch.randn(7, 2, 9, 10), torch.linspace(1e-3, 1e-2, 7)[:, None]
    whole = surrogate.rollout(x, 3, parameters=p)
    torch.testing.assert_close(surrogate.rollout(x, 3, parameters=p, batch_size=2), whole)
    seen = {}
    assert surrogate.rollout(x, 3, parameters={"nu": p[:, 0]}, callback=lambda n, u: seen.update({n: u})) is None
    torch.testing.assert_close(torch.stack([seen[n] for n in (1, 2, 3)], 1), whole)
    frames = surrogate.iterate(x, parameters=p)
    torch.testing.assert_close(next(frames), whole[:, 0])
    assert torch.is_grad_enabled() and surrogate.model.training, "a rollout under way leaves no mode behind"
    torch.testing.assert_close(next(frames), whole[:, 1])


def test_bundles_are_unrolled_frame_by_frame():
    surrogate = affine("state", bundle=2, model=Affine(repeat=2))
    surrogate.output_normalization = Normalization((1.0, 5.0), (3.0, 2.0))
    x = torch.randn(2, 1, 4, 4)
    rolled = surrogate.rollout(x, 3)
    z = 0.5 * (x - 2) / 4 + 0.25
    torch.testing.assert_close(rolled[:, 0], z * 3 + 1)
    torch.testing.assert_close(rolled[:, 1], z * 2 + 5)
    torch.testing.assert_close(rolled[:, 2], (0.5 * (z * 2 + 5 - 2) / 4 + 0.25) * 3 + 1)


def test_fields_that_are_not_predicted_keep_their_values():
    model = nn.Conv2d(2, 1, 1, bias=False)
    model.weight.data = torch.tensor([[[[10.0]], [[1.0]]]])  # w' = w + 10 f + w
    one = Normalization.identity
    surrogate = Surrogate(model, DOMAIN, ("f", "w"), ("w",), one(("f", "w")), one(("w",)), "increment", dt=1.0)
    x = torch.cat([torch.full((1, 1, 4, 4), 3.0), torch.ones(1, 1, 4, 4)], dim=1)
    assert surrogate.rollout(x, 2)[0, :, 0, 0, 0].tolist() == [32.0, 94.0]


@pytest.mark.parametrize(
    "options", [{}, {"bundle": 3}, {"window": 3}, {"window": 4, "bundle": 2}, {"bundle": 3, "target": "increment"}], ids=str
)
def test_a_window_of_frames_is_fed_back_with_the_latest_last(options):
    surrogate, u = exact_surrogate(2, **options), wave((6, 5), n_times=12)
    w = surrogate.window
    rolled = surrogate.to(torch.float64).rollout(u[:, :w], 12 - w)
    torch.testing.assert_close(rolled, u[:, w:, None], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(surrogate.predict(u[:, :w]), rolled[:, 0], rtol=0, atol=0)
    assert (surrogate.rollout(u[:, :w].flip(1), 1)[:, 0] - u[:, w, None]).abs().max() > 0.1, "time has a direction"
    frames = surrogate.iterate(u[:, :w], batch_size=3)
    torch.testing.assert_close(torch.stack([next(frames) for _ in range(12 - w)], 1), rolled, rtol=1e-12, atol=1e-12)
    fine = surrogate.predict(u[:, :w], output_shape=(12, 9))
    torch.testing.assert_close(fine, wave((12, 9), n_times=12)[:, w, None], rtol=1e-12, atol=1e-12)


def test_in_a_window_all_fields_of_a_frame_stand_together_and_those_not_predicted_keep_their_latest_values():
    weight = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])  # of f_-1, w_-1, f_0, w_0
    scale, one = Normalization((5.0, 0.0), (1.0, 2.0), ("f", "w")), Normalization.identity(("w",))
    surrogate = Surrogate(Mix(weight), DOMAIN, ("f", "w"), ("w",), scale, one, "increment", dt=1.0, window=2)
    x = torch.tensor([6.0, 2.0, 8.0, 4.0]).reshape(1, 4, 1, 1).expand(1, 4, 3, 5)
    first = 4 + 1 + 10 + 300 + 2000
    assert surrogate.rollout(x, 2)[0, :, 0, 0, 0].tolist() == [first, first + 3 + 20 + 300 + 1000 * first / 2]


def _wave_dataset(**sizes):
    u = wave((6, 5), n_times=4).reshape(*sizes.values(), 4, 6, 5)
    x, y = (axis.coordinates(n, dtype=torch.float64).numpy() for axis, n in zip(domain_of(2).axes, (6, 5), strict=True))
    return xr.Dataset({"u": ((*sizes, "time", "x", "y"), u.numpy())}, coords={"x": x, "y": y, "time": 7 + DT * np.arange(4)})


def test_datasets_hold_a_window_of_times():
    surrogate = exact_surrogate(2).to(torch.float64)
    data = _wave_dataset(member=2, level=2)
    given = data.isel(time=slice(0, 2))
    out = surrogate.predict(given.transpose("x", "time", "level", "y", "member"))
    assert out["u"].dims == ("level", "member", "x", "y") and float(out["time"]) == pytest.approx(7 + 2 * DT)
    np.testing.assert_allclose(out["u"].transpose("member", "level", "x", "y"), data["u"].isel(time=2), atol=1e-12)
    rolled = surrogate.rollout(given, 2)
    np.testing.assert_allclose(rolled["u"], data["u"].isel(time=slice(2, 4)), atol=1e-12)
    np.testing.assert_allclose(rolled["time"], data["time"][2:])
    assert "time" not in surrogate.predict(given.drop_vars("time")).coords


def test_a_field_without_time_stands_for_all_frames_of_a_dataset():
    one = Normalization.identity
    model = Mix(torch.tensor([[0.0, 1.0, 1.0, 1.0]], dtype=torch.float64))  # w = f_-1 + w_0 + f_0
    surrogate = Surrogate(model, domain_of(2), ("u", "f"), ("u",), one(("u", "f")), one(("u",)), dt=DT, window=2)
    data = _wave_dataset(sample=4).isel(time=slice(0, 2))
    data["f"] = data["u"].isel(time=0, drop=True) * 0 + 3.0
    np.testing.assert_allclose(surrogate.predict(data)["u"], data["u"].isel(time=1) + 6.0, atol=1e-12)


def test_windows_that_do_not_fit_are_refused():
    surrogate = exact_surrogate(2, window=3).to(torch.float64)
    x, data = torch.zeros(2, 3, 6, 5, dtype=torch.float64), _wave_dataset(sample=4)
    for ask in (surrogate.predict, surrogate.forward, lambda x: surrogate.rollout(x, 2)):
        with pytest.raises(ValueError, match="got 1 channels; expected 3: 3 frames of u, stacked, the latest last"):
            ask(x[:, :1])
    hole = x.clone()
    hole[1, 2, 0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite in field u of frame 3 of sample 1"):
        surrogate.predict(hole)
    for ask in (surrogate.predict, lambda d: surrogate.rollout(d, 2)):
        with pytest.raises(ValueError, match=r"takes 3 frames, but the dataset has 4 times; select so many with .isel\(time=slice\(3\)\)"):
            ask(data)
        with pytest.raises(ValueError, match="takes 3 frames, but the dataset has no times"):
            ask(data.isel(time=0))
        with pytest.raises(ValueError, match="are 0.3, 0.6 apart, but the surrogate takes frames 0.3 apart"):
            ask(data.isel(time=[0, 1, 3]))
    with pytest.raises(ValueError, match="got window=2 without dt"):
        affine(dt=None, window=2)


def test_a_window_is_saved_and_older_files_have_one_of_one_frame(tmp_path):
    surrogate = exact_surrogate(window=3, bundle=2)
    save(surrogate, tmp_path / "s.safetensors")
    back = load(tmp_path / "s.safetensors", model=Mix(torch.zeros(2, 3)))
    u = wave(n_times=3)
    assert back.window == 3 and torch.equal(back.rollout(u, 4), surrogate.rollout(u, 4))
    assert load(_rewrite(tmp_path, lambda d: d.pop("window"))).window == 1


def test_output_shape_resamples_other_modules_and_the_base_of_increments():
    surrogate = affine("increment")
    grid, fine = DOMAIN.grid(8, 9), DOMAIN.grid(16, 15)

    def u(g):
        x, y = g.coordinates(dtype=torch.float64)
        return (torch.sin(x) + torch.cos(4 * math.pi * y))[None, None]

    surrogate.to(torch.float64)
    torch.testing.assert_close(surrogate.predict(u(grid), output_shape=(16, 15)), surrogate.predict(u(fine)))


def test_forward_is_differentiable_through_parameters_and_fields():
    surrogate = unet(1).to(torch.float64)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    p = torch.tensor([[2e-3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, p: surrogate.forward(x, p), (x, p * 1.0), atol=1e-6)


def test_parameters_are_scaled_logarithmically_over_a_decade():
    scaling = ParameterScaling.fit({"nu": [1e-4, 1e-3, 1e-2], "g": [9.0, 10.0, 11.0], "same": [2.0, 2.0, 2.0]})
    assert scaling.logarithmic == (True, False, False)
    z = scaling.apply(torch.tensor([[1e-4, 9.0, 2.0], [1e-3, 10.0, 2.0], [1e-2, 11.0, 2.0]], dtype=torch.float64))
    root = math.sqrt(1.5)
    torch.testing.assert_close(z, torch.tensor([[-root, -root, 0], [0, 0, 0], [root, root, 0]], dtype=torch.float64))


def test_memory_of_a_streamed_rollout_does_not_grow():
    surrogate, x = affine("state"), torch.zeros(4, 1, 64, 64)

    def peak(steps):
        sizes = []
        surrogate.rollout(x, steps, callback=lambda n, u: sizes.append(u.untyped_storage().nbytes()))
        tracemalloc.start()
        surrogate.rollout(x, steps, callback=lambda n, u: None)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert max(sizes) == x.numel() * 4
        return top

    peak(2)
    assert peak(200) < peak(20) + 20_000


def test_datasets_in_and_out():
    surrogate = affine("increment")
    data = dataset(member=3, level=2)
    out = surrogate.predict(data)
    assert out["w"].dims == ("member", "level", "x", "y") and out["w"].dtype == np.float32
    x = torch.from_numpy(data["w"].values).reshape(6, 1, 8, 12)
    np.testing.assert_array_equal(out["w"].values.reshape(6, 1, 8, 12), surrogate.predict(x).numpy())
    fine = surrogate.predict(data, output_shape=(16, 12))
    np.testing.assert_allclose(fine["x"], np.arange(16) * 2 * np.pi / 16)
    rolled = surrogate.rollout(data.transpose("x", "level", "y", "member").assign_coords(time=2.0), 3)
    assert rolled["w"].dims == ("level", "member", "time", "x", "y")
    np.testing.assert_allclose(rolled["time"], [2.1, 2.2, 2.3])
    np.testing.assert_array_equal(rolled["w"].values[1, 2, :, None], surrogate.rollout(x[5:], 3)[0].numpy())
    single = surrogate.predict(dataset())
    assert single["w"].dims == ("x", "y")


def test_datasets_carry_their_parameters():
    surrogate = unet(1)
    data = dataset(names=("u", "v"), member=2).assign(nu=("member", [1e-3, 1e-2]))
    x = torch.from_numpy(np.stack([data["u"].values, data["v"].values], 1))
    out = surrogate.predict(data)
    np.testing.assert_array_equal(out["v"].values, surrogate.predict(x, parameters=torch.tensor([[1e-3], [1e-2]]))[:, 1].numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.assign_coords(x=d.x * 2), "coordinate x of the dataset runs from 0 to 10.99"),
        (lambda d: d.assign_coords(y=d.y + 0.5 / 12), "coordinate y of the dataset runs from"),
        (lambda d: d.drop_vars("x"), "no coordinate for x"),
        (lambda d: d.rename(y="z"), "domain's axis y is not among"),
        (lambda d: d.rename(w="vorticity"), "has no field w; it has vorticity"),
        (lambda d: d.isel(x=slice(0, 1)), "got 1 samples on axis x; a grid needs at least 2"),
        (lambda d: d["w"], "got a DataArray; give a tensor"),
    ],
)
def test_datasets_of_another_domain_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        affine().predict(change(dataset()))


def test_bad_questions_are_refused():
    surrogate, x = affine(), torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match="got 2 channels; expected 1: w"):
        surrogate.predict(torch.zeros(2, 2, 4, 4))
    with pytest.raises(ValueError, match="at least 2 in each direction"):
        surrogate.predict(torch.zeros(2, 1, 1, 4))
    with pytest.raises(ValueError, match="got no samples"):
        surrogate.predict(x[:0])
    with pytest.raises(ValueError, match="give floating-point numbers"):
        surrogate.predict(x.long())
    for bad in (float("nan"), float("inf")):
        hole = x.clone()
        hole[1, 0, 2, 3] = bad
        for ask in (surrogate.predict, lambda u: surrogate.rollout(u, 2)):
            with pytest.raises(ValueError, match="the input is not finite in field w of sample 1"):
                ask(hole)
    with pytest.raises(ValueError, match="trained without"):
        surrogate.predict(x, parameters=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="steps=0; give a whole number"):
        surrogate.rollout(x, 0)
    with pytest.raises(ValueError, match="is a direct map"):
        affine(dt=None).rollout(x, 2)
    with pytest.raises(ValueError, match="select one with .isel"):
        surrogate.rollout(dataset(time=3), 2)
    with pytest.raises(ValueError, match=r"expected \(2, 1\), the values of nu"):
        unet(1).predict(torch.zeros(2, 2, 4, 4))
    with pytest.raises(ValueError, match="got the parameters mu; expected nu"):
        unet(1).predict(torch.zeros(2, 2, 4, 4), parameters={"mu": 1.0})
    with pytest.raises(ValueError, match="forward takes no parameters"):
        affine(parameters=ParameterScaling.fit({"nu": [1.0, 2.0]})).predict(x, parameters={"nu": 1.0})
    with pytest.raises(ValueError, match="no parameter nu, and none was given"):
        unet(1).predict(dataset(names=("u", "v")))
    with pytest.raises(ValueError, match='choose "state" or "increment"'):
        affine("delta")
    with pytest.raises(ValueError, match="outputs p are not among the inputs a"):
        Surrogate(Affine(), DOMAIN, ("a",), ("p",), Normalization.identity("a"), Normalization.identity("p"), "increment")


@pytest.mark.parametrize("name", ["file.safetensors", "folder"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saved_surrogate_comes_back_bit_by_bit(tmp_path, name, dtype):
    surrogate = unet(1).to(dtype)
    save(surrogate, tmp_path / name)
    save(surrogate, tmp_path / name)  # over itself
    state = torch.random.get_rng_state()
    back = load(tmp_path / name)
    assert torch.equal(torch.random.get_rng_state(), state), "loading draws no random numbers from the caller's generator"
    x, p = torch.randn(2, 2, 8, 10, dtype=dtype), torch.tensor([[1e-3], [5e-3]])
    assert torch.equal(back.predict(x, parameters=p), surrogate.predict(x, parameters=p))
    for key in (
        "domain",
        "inputs",
        "outputs",
        "normalization",
        "output_normalization",
        "target",
        "dt",
        "bundle",
        "window",
        "parameters",
        "notes",
    ):
        assert getattr(back, key) == getattr(surrogate, key), key
    assert back.dtype == dtype
    if name == "folder":
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["surrogate.json", "weights-2.safetensors"]


def test_every_public_model_remembers_its_arguments():
    for name in models.__all__:
        assert hasattr(getattr(models, name).__init__, "__wrapped__"), f"{name} is not passed to remember_arguments in models/__init__.py"
    model = UNet(DOMAIN, 2, out_channels=3, hidden_channels=8)
    assert model.arguments == {"in_channels": 2, "out_channels": 3, "hidden_channels": 8}
    assert copy.deepcopy(model).arguments == model.arguments


GRID_MODELS = [name for name in models.__all__ if "x" in inspect.signature(getattr(models, name).forward).parameters]


@pytest.mark.parametrize("name", GRID_MODELS)
def test_every_public_model_is_rebuilt_from_its_file(tmp_path, name):
    model = getattr(models, name)
    domain, n_modes = (ok.Sphere(), 5) if name == "SFNO" else (DOMAIN, (5, 3))
    options = {
        key: value
        for key, value in (("n_modes", n_modes), ("n_parameters", 1), ("hidden_channels", 8))
        if key in inspect.signature(model).parameters
    }
    torch.manual_seed(0)
    one = Normalization.identity(("w",))
    scaling = ParameterScaling.fit({"nu": [1.0, 2.0]}) if "n_parameters" in options else ParameterScaling()
    surrogate = Surrogate(model(domain, 1, 1, **options), domain, ("w",), ("w",), one, one, dt=1.0, parameters=scaling)
    save(surrogate, tmp_path / "s.safetensors")
    x, p = torch.randn(2, 1, 32, 32), {"nu": [1.0, 1.5]} if "n_parameters" in options else None
    assert torch.equal(load(tmp_path / "s.safetensors").predict(x, parameters=p), surrogate.predict(x, parameters=p))


def test_a_users_own_module_is_passed_not_named(tmp_path):
    surrogate = affine(model=Affine(0.7, 0.1))
    save(surrogate, tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="Affine, which is not a model of opkernels; build it and call load"):
        load(tmp_path / "own.safetensors")
    back, x = load(tmp_path / "own.safetensors", model=Affine()), torch.randn(1, 1, 4, 4)
    assert torch.equal(back.predict(x), surrogate.predict(x))
    with pytest.raises(ValueError, match="do not fit Affine: a differs"):
        load(tmp_path / "own.safetensors", model=Affine(channels=2))
    with pytest.raises(ValueError, match="do not fit Conv2d"):
        load(tmp_path / "own.safetensors", model=nn.Conv2d(1, 1, 1))


def test_a_subclass_of_a_public_model_is_the_users_own(tmp_path):
    class Mine(UNet):
        pass

    surrogate = unet()
    surrogate.model.__class__ = Mine
    save(surrogate, tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="Mine, which is not a model of opkernels"):
        load(tmp_path / "s.safetensors")


def _rewrite(folder, change):
    """Change the description in a saved file, keeping it valid as a file."""
    from opkernels.storage import read_tensors, write_tensors

    path = folder / "s.safetensors"
    save(unet(), path)
    tensors, header = read_tensors(path)
    change(header)
    write_tensors(path, tensors, header)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["model"].update(name="os.system"), "asks for the model 'os.system'; opkernels has"),
        (lambda h: h["model"].update(name="remember_arguments"), "asks for the model"),
        (lambda h: h["model"]["arguments"].update(hidden_channels="rm"), "with arguments it does not take|hidden_channels"),
        (lambda h: h["model"]["arguments"].update(widht=3), "with arguments it does not take"),
        (lambda h: h["model"]["arguments"].update(hidden_channels=8), "do not fit UNet"),
        (lambda h: h.pop("domain"), "lacks a part of its description"),
        (lambda h: h.update(domain=3), "expected axes"),
        (lambda h: h.update(parameters={"name": []}), "lacks a part of its description"),
        (lambda h: h.update(format="something else"), "does not hold a surrogate"),
    ],
)
def test_files_that_lie_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load(_rewrite(tmp_path, change))


def test_missing_foreign_and_damaged_places_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file or folder"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds neither a surrogate nor a run"):
        load(tmp_path)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "m.pt")
    with pytest.raises(ValueError, match="is a pickle"):
        load(tmp_path / "m.pt")
    with pytest.raises(ValueError, match="name a folder, or a file that ends in .safetensors"):
        save(unet(), tmp_path / "m.pt")
    save(unet(), tmp_path / "s")
    (tmp_path / "s" / "surrogate.json").write_text(json.dumps({"weights": 3}))
    with pytest.raises(ValueError, match="surrogate.json is damaged"):
        load(tmp_path / "s")
    surrogate = unet()
    surrogate.notes["model"] = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="not plain data"):
        save(surrogate, tmp_path / "t")
