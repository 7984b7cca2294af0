"""Losses: values by hand, the same on every grid, found by name."""

import pytest
import torch
from helpers import band_limited

from opkernels import Domain
from opkernels.losses import l1, loss_by_name, mse, rel_h1, rel_l2


def test_values():
    truth = torch.zeros(2, 1, 4)
    prediction = torch.tensor([1.0, 2.0, 3.0, -2.0]).expand(2, 1, 4)
    assert float(mse(prediction, truth)) == 4.5
    assert float(l1(prediction, truth)) == 2.0


def test_quadrature_weights():
    # The mean of x^2 over [0, 2] is 4/3, of |x| it is 1.
    grid = Domain.box(2.0, points="gauss").grid(4)
    x = grid.coordinates(dtype=torch.float64)[None]
    torch.testing.assert_close(mse(x, 0 * x, grid), torch.tensor(4 / 3, dtype=torch.float64))
    torch.testing.assert_close(l1(x, 0 * x, grid), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("name", ["rel_l2", "rel_h1", "mse"])
def test_the_same_on_every_grid(name):
    loss, domain = loss_by_name(name), Domain.periodic(1.0, 2.0)
    values = [loss(band_limited(s, 2, 3), band_limited(s, 2, 3, seed=1), domain.grid(s)) for s in [(16, 16), (33, 20)]]
    torch.testing.assert_close(values[0], values[1])
    assert values[0] > 0.1


@pytest.mark.parametrize("name", ["rel_l2", "rel_h1", "mse", "l1"])
def test_gradients(name):
    grid = Domain.box(1.0, 2.0, points="endpoint").grid(5, 6)
    truth = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    prediction = torch.randn_like(truth).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: loss_by_name(name)(p, truth, grid), prediction)


def test_names():
    assert loss_by_name("rel_l2") is rel_l2 and loss_by_name("rel_h1") is rel_h1
    with pytest.raises(ValueError, match="loss 'rell2'; did you mean \"rel_l2\""):
        loss_by_name("rell2")
    with pytest.raises(ValueError, match="choose one of rel_l2, rel_h1, mse, l1"):
        loss_by_name("xyz")


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="give equal shapes"):
        mse(torch.zeros(2, 3, 8), torch.zeros(2, 1, 8))
    with pytest.raises(ValueError, match="give equal shapes"):
        l1(torch.zeros(1, 3, 8), torch.zeros(2, 3, 8))
