"""Checks that many tests share."""

import contextlib
import ctypes
from pathlib import Path

import torch


def assert_order(steps, errors, order, slack=0.15):
    """Errors fall as step**order, in the fit and (within twice the slack) locally."""
    assert len(errors) >= 5, "four refinements or more"
    x, y = torch.tensor([list(steps), list(errors)], dtype=torch.float64).log()
    local = (y.diff() / x.diff()).tolist()
    x = x - x.mean()
    slope = (x @ y / (x @ x)).item()
    assert abs(slope - order) <= slack, f"{slope:.2f} not {order}; local {local}"
    assert all(abs(p - order) <= 2 * slack for p in local), f"not asymptotic: {local}"


def band_limited(shape, channels=1, batch=1, k_max=3, seed=0, extent=None, dtype=torch.float64):
    """One random periodic function with |k| <= k_max per axis and rms 1, sampled at nodes of any shape.

    The same seed gives the same function on every shape.
    """
    generator = torch.Generator().manual_seed(seed)
    d = len(shape)
    size = 2 * k_max + 1
    c = torch.randn(batch, channels, *[size] * d, 2, generator=generator, dtype=torch.float64)
    c = torch.view_as_complex(c)
    k = torch.arange(-k_max, k_max + 1, dtype=torch.float64)
    x = c
    for n in shape:  # the leading wave-number axis is consumed, a spatial axis is appended
        phase = torch.exp(2j * torch.pi * k[:, None] * torch.arange(n, dtype=torch.float64)[None] / n)
        x = torch.tensordot(x, phase, dims=([2], [0]))
    scale = (c.abs() ** 2).sum(tuple(range(2, 2 + d)), keepdim=True)
    return (x.real / (scale / 2).sqrt()).to(dtype)


@contextlib.contextmanager
def fake_cuda():
    """Tensors made inside have shapes, dtypes and the device "cuda", but no data; mixing devices raises.

    Forward passes only. A build of torch without CUDA has no device guard for it and refuses even to index such a
    tensor; the guard of the meta device, which does nothing, takes its place.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    if not torch.backends.cuda.is_built():
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        guards = (ctypes.c_void_p * 15).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
        cuda, meta = 1, 14  # c10::DeviceType
        guards[cuda] = guards[meta]
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        yield


def label(value):
    """Return a test's name for a parameter, the same in every process: functions by their names, not their addresses."""
    if isinstance(value, dict):
        return "-".join(f"{key}={label(item)}" for key, item in value.items())
    return getattr(value, "__name__", None) or str(value)
