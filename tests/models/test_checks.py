"""Arguments and inputs that every model refuses in one sentence, or takes."""

import numpy as np
import pytest
import torch

from opkernels import Axis, Domain, Sphere
from opkernels.models import FFNO, FNO, MGTFNO, SFNO, T1, TFNO, FactFormer, LocalNO, UNet

TORUS = Domain.periodic(1.0, 2.0)
SPECTRAL = [FNO, FFNO, TFNO]
MODELS = [*SPECTRAL, UNet]


def built(model, domain=TORUS, **options):
    modes = {} if model is UNet else {"n_modes": (6,) * getattr(domain, "ndim", 2)}
    return model(domain, 1, 1, **{**modes, "hidden_channels": 4, "n_layers": 2, **options})


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "options, message",
    [
        ({"domain": None}, "got domain=None; give a Domain"),
        ({"domain": (1.0, 1.0)}, r"got domain=\(1.0, 1.0\); give a Domain"),
        ({"hidden_channels": 4.0}, "got hidden_channels=4.0; give a whole number of at least 1"),
        ({"hidden_channels": 4.5}, "got hidden_channels=4.5; give a whole number"),
        ({"hidden_channels": "4"}, "got hidden_channels='4'; give a whole number"),
        ({"hidden_channels": 0}, "got hidden_channels=0; give 1 or more"),
        ({"n_layers": 2.0}, "got n_layers=2.0; give a whole number"),
        ({"n_layers": True}, "got n_layers=True; give a whole number"),
        ({"n_parameters": 1.5}, "got n_parameters=1.5; give a whole number of at least 0"),
    ],
    ids=str,
)
def test_arguments_of_the_constructor(model, options, message):
    with pytest.raises(ValueError, match=message):
        built(model, **options)


@pytest.mark.parametrize("model", SPECTRAL)
@pytest.mark.parametrize("n_modes", [None, (6.0, 6.0), ("6", "6"), 6.5, (True, 6)], ids=str)
def test_numbers_of_modes(model, n_modes):
    with pytest.raises(ValueError, match="give one whole number of at least 1 per axis"):
        built(model, n_modes=n_modes)


@pytest.mark.parametrize("model", SPECTRAL)
def test_whole_numbers_of_numpy_are_taken(model):
    net = built(model, n_modes=np.array([6, 4]), hidden_channels=np.int64(4), n_layers=np.int32(1))
    assert net(torch.randn(1, 1, 8, 9)).shape == (1, 1, 8, 9)
    line = built(model, Domain.periodic(1.0), n_modes=np.int64(6))
    assert line(torch.randn(1, 1, 8)).shape == (1, 1, 8)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float64, torch.bfloat16])
def test_other_dtypes_of_the_input(model, dtype):
    name = str(dtype).replace(".", r"\.")
    with pytest.raises(ValueError, match=rf"got x of dtype {name}, but its weights are torch\.float32; convert"):
        built(model)(torch.ones(1, 1, 8, 8).to(dtype))
    with pytest.raises(ValueError, match=rf"got parameters of dtype {name}, but its weights are torch\.float32; convert"):
        built(model, n_parameters=1)(torch.ones(1, 1, 8, 8), parameters=torch.ones(1, 1).to(dtype))


ALL = {
    **{model.__name__: lambda model=model: built(model) for model in [*MODELS, LocalNO, MGTFNO]},
    "FNO of many modes": lambda: built(FNO, n_modes=(140, 6)),  # by FFTs
    "SFNO": lambda: built(SFNO, Sphere(), n_modes=4),
    "LocalNO on a sphere": lambda: built(LocalNO, Sphere(), n_modes=4),
    "T1": lambda: T1(TORUS, 1, 1, n_modes=(4, 4)),
    "FactFormer": lambda: FactFormer(TORUS, 1, 1),
}


@pytest.mark.parametrize("build", ALL.values(), ids=ALL)
def test_an_empty_batch_has_an_empty_result_and_a_gradient(build):
    y = build()(torch.randn(0, 1, 32, 48))
    assert y.shape == (0, 1, 32, 48)
    y.sum().backward()


@pytest.mark.parametrize("model", [FNO, SFNO])
def test_an_empty_batch_takes_an_output_shape(model):
    net = built(SFNO, Sphere(), n_modes=4) if model is SFNO else built(model)
    y = net(torch.randn(0, 1, 16, 24), output_shape=(24, 32))
    assert y.shape == (0, 1, 24, 32)
    y.sum().backward()


@pytest.mark.parametrize("name", [name for name in ALL if name != "UNet"])
def test_half_weights_need_autocast(name):
    net, x = ALL[name]().bfloat16(), torch.randn(1, 1, 32, 48)
    for given in (x, x.bfloat16()):
        with pytest.raises(ValueError, match="has weights of dtype torch.bfloat16, but its transforms and sums are float32; call it under"):
            net(given)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(net(x)).all()


def test_a_unet_takes_half_weights():
    assert built(UNet).bfloat16()(torch.randn(1, 1, 16, 16).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("model", MODELS)
def test_what_does_not_fit_a_call(model):
    net, x = built(model), torch.randn(1, 1, 16, 16)
    for call, message in [
        (lambda: net([1.0]), "got x as list; give a tensor"),
        (lambda: built(model, n_parameters=1)(x, parameters=[[1.0]]), "got parameters as list; give a tensor"),
        (lambda: net(x, grid=(16, 18)), r"got grid=\(16, 18\); give a Grid, such as domain.grid\(16, 16\)"),
        (lambda: net(x, output_shape=8), "got output_shape=8; give one size for each of the 2 axes"),
        (lambda: net(x, output_shape=8.0), "got output_shape=8.0; give one size"),
        (lambda: net(x, output_shape="88"), "got output_shape='88'; give one size"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("model", MODELS)
def test_a_single_output_size_is_taken_in_one_dimension(model):
    net, x = built(model, Domain.periodic(1.0)), torch.randn(1, 1, 16)
    torch.testing.assert_close(net(x, output_shape=8), net(x, output_shape=(8,)), rtol=0, atol=0)


@pytest.mark.parametrize("factor", [0, -1, 2.0, True])
def test_factors_of_coarsening(factor):
    with pytest.raises(ValueError, match="give a whole number of at least 1"):
        TORUS.grid(8, 8).coarsened(factor)


def test_periodic_is_yes_or_no():
    with pytest.raises(ValueError, match="Axis got periodic='no'; give True or False"):
        Axis(0, 1, periodic="no")
    assert Axis(0, 1, periodic=np.bool_(True), points="node") == Axis(0, 1, periodic=True, points="node")
