"""Learning rates against torch's own schedulers."""

import math

import pytest
import torch

from opkernels.training.schedules import learning_rate


def torch_rates(make, total, lr):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("total", [7, 40, 101])
def test_one_cycle_and_cosine_are_those_of_torch(total):
    ours = [learning_rate("one_cycle", 0.3, s, total, warmup=0.5) for s in range(total)]
    theirs = []
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=total, cycle_momentum=False)
    for step in range(total):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < total - 1:
            scheduler.step()
    assert ours == pytest.approx(theirs, rel=1e-9)
    ours = [learning_rate("cosine", 0.3, s, total) for s in range(total)]
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, total), total, 0.3)
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_step_halves_after_each_fifth_and_warm_up_is_linear():
    total, ours = 100, []
    ours = [learning_rate("step", 0.3, s, total) for s in range(total)]
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 20, 0.5), total, 0.3)
    assert ours == pytest.approx(theirs, rel=1e-12)
    rise = [learning_rate("cosine", 1.0, s, total, warmup=0.1) for s in range(11)]
    assert rise == pytest.approx([*(k / 10 for k in range(1, 11)), 1.0])
    half = learning_rate("cosine", 1.0, 55, total, warmup=0.1)
    assert half == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert learning_rate("constant", 0.3, 99, total) == 0.3
