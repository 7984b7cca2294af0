"""Continuous kernels: normalized, of full rank, their transforms against closed forms and against plain sums."""

import json
import math

import pytest
import torch

from opkernels.layers import Morlet, PolarHats, Radial, WindowedFourier, Zernike
from opkernels.layers.kernels import kernel_from, kernel_to, kernel_values, transfer
from opkernels.layers.product_kernels import dmcf_kernel, fourier_kernel, spline_kernel

BASES = [
    PolarHats(1, 4),
    PolarHats(2, 1),
    PolarHats(2, 3),
    PolarHats(3, 4),
    PolarHats(4, 5),
    Zernike(4),
    Zernike(3, window=0),
    WindowedFourier(1, 4),
    WindowedFourier(2, 3, window=1),
    WindowedFourier(3, 2),
    PolarHats(4, 2, 1),
    PolarHats(2, 6, 3),
    Morlet(1, 4),
    Morlet(2, 3),
    Radial(1, 2),
    Radial(2, 4),
    Radial(3, 3),
]


def midpoints(n_dim, n):
    """Offsets (d, n^d) over the cube and the volume of each."""
    s = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1
    return torch.stack(torch.meshgrid(*[s] * n_dim, indexing="ij")).flatten(1), (2 / n) ** n_dim


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_normalized_and_of_full_rank(basis):
    """Against a plain midpoint sum, independent of the rule that sets the norms."""
    z, volume = midpoints(basis.n_dim, {1: 4000, 2: 400, 3: 60}[basis.n_dim])
    values = kernel_values(basis, z)
    gram = volume * values @ values.T
    assert gram.shape == (basis.size, basis.size)
    # the sum errs at the jump of window 0 by the area of the cells it cuts
    torch.testing.assert_close(gram.diagonal(), torch.ones(basis.size, dtype=torch.float64), rtol=0, atol=2e-3)
    assert torch.linalg.cond(gram) < 500  # of full rank in float32 by far
    if isinstance(basis, Radial):
        torch.testing.assert_close(gram, torch.eye(basis.size, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_vanishes_outside_the_ball(basis):
    z = torch.zeros(basis.n_dim, 3, dtype=torch.float64)
    z[-1] = torch.tensor([-1.001, 1.001, 3.0])
    assert torch.equal(kernel_values(basis, z), torch.zeros(basis.size, 3, dtype=torch.float64))


@pytest.mark.parametrize("n_radial, n_angular", [(1, 3), (2, 1), (2, 3), (3, 1), (3, 4), (4, 2), (5, 5)])
def test_polar_hats_sum_to_one(n_radial, n_angular):
    basis, step = PolarHats(n_radial, n_angular), 2 / (n_radial + 1)
    z, _ = midpoints(2, 61)
    rho = torch.hypot(z[0], z[1])
    wanted = ((1 - rho) / step).clamp(0, 1)  # linear from the last ring to the rim
    torch.testing.assert_close((basis.raw(z) * (rho <= 1)).sum(0), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("basis", [PolarHats(2, 2, 1), PolarHats(3, 1, 1), PolarHats(2, 6, 3), PolarHats(5, 6, 3)], ids=str)
def test_polar_hats_sum_to_one_on_other_axes(basis):
    z, _ = midpoints(basis.n_dim, 14)
    rho = z.square().sum(0).sqrt()
    wanted = ((1 - rho) * (basis.n_radial + 1) / 2).clamp(0, 1)
    torch.testing.assert_close((basis.raw(z) * (rho <= 1)).sum(0), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("basis", [PolarHats(2, 4), PolarHats(4, 3), PolarHats(2, 2, 1), PolarHats(2, 6, 3)], ids=str)
def test_polar_hats_have_one_value_at_the_center(basis):
    """And a bounded slope there, which the published functions of an even number of hats have not."""
    z = 1e-9 * torch.randn(basis.n_dim, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.full((basis.n_angular, 50), 1 / basis.n_angular, dtype=torch.float64)
    torch.testing.assert_close(basis.raw(z)[: basis.n_angular], wanted, rtol=0, atol=1e-7)


def test_six_directions_of_space():
    z = 0.5 * torch.cat([torch.eye(3), -torch.eye(3)], 1).double()[:, [0, 3, 1, 4, 2, 5]]
    torch.testing.assert_close(PolarHats(3, 6, 3).raw(z)[1:], torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-15)


def test_radial_functions_have_no_direction():
    z = torch.randn(2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 3
    turn = torch.linalg.qr(torch.tensor([[1.0, 2], [0.5, -1]], dtype=torch.float64)).Q
    torch.testing.assert_close(kernel_values(Radial(2, 4), turn @ z), kernel_values(Radial(2, 4), z), rtol=0, atol=1e-13)


def test_product_kernels_as_plain_data_and_back():
    for basis in (fourier_kernel(2), spline_kernel(1, 4), dmcf_kernel(3)):
        plain = json.loads(json.dumps(kernel_to(basis)))
        assert plain[0] == "ProductKernel" and kernel_from(plain) == basis
    with pytest.raises(ValueError, match="give families, coordinates, window and parity, such as"):
        kernel_from(["ProductKernel", [["Haar", 2]], "cartesian", "poly6", "both"])


@pytest.mark.parametrize("basis", [PolarHats(2, 6, 3), Zernike(4), WindowedFourier(1, 2), Morlet(2, 4), Radial(3, 2, 1)], ids=str)
def test_plain_data_and_back(basis):
    plain = kernel_to(basis)
    assert plain[0] == type(basis).__name__ and all(isinstance(number, int) for number in plain[1:])
    assert kernel_from(list(plain)) == kernel_from(basis) == basis
    with pytest.raises(ValueError, match="got the kernel \\('Gauss', 3\\); give a name of PolarHats"):
        kernel_from(("Gauss", 3))
    with pytest.raises(ValueError, match="give a KernelBasis"):
        kernel_from({"n": 3})
    with pytest.raises(ValueError, match="after Zernike give 0 to 2 whole numbers: n, window"):
        kernel_from(["Zernike", 3, 2, 1])
    with pytest.raises(ValueError, match="after WindowedFourier give 1 to 3 whole numbers: n_dim, n, window"):
        kernel_from(["WindowedFourier"])


def test_polar_hats_point_to_their_bearings():
    basis = PolarHats(3, 4)
    ring = torch.tensor([[0.5, 0, -0.5, 0], [0, 0.5, 0, -0.5]], dtype=torch.float64)
    torch.testing.assert_close(basis.raw(ring), torch.eye(5, dtype=torch.float64)[:, 1:], rtol=0, atol=1e-15)


@pytest.mark.parametrize("top", [3.0, 40.0, 150.0])
def test_transfer_of_zernike_polynomials(top):
    """2 pi i^m (-1)^((n-m)/2) J_{n+1}(k)/k cos or sin(m phi) over the norm sqrt(pi eps/(2 n + 2)), to 1e-10."""
    from scipy.special import jv

    basis = Zernike(5, window=0)
    x, y = torch.linspace(-top, top, 9, dtype=torch.float64), torch.linspace(0.1, top, 7, dtype=torch.float64)
    k, phi = torch.hypot(x[:, None], y), torch.atan2(y.expand(9, 7), x[:, None].expand(9, 7))
    got = transfer(basis, (x, y), 1.5 * top)
    for function, (n, m) in zip(got, basis.indices, strict=True):
        a = abs(m)
        norm = math.sqrt(math.pi * (2 if m == 0 else 1) / (2 * n + 2))
        wave = torch.cos(m * phi) if m >= 0 else torch.sin(a * phi)
        wanted = 2 * math.pi * 1j**a * (-1) ** ((n - a) // 2) * torch.as_tensor(jv(n + 1, k.numpy())) / k * wave / norm
        torch.testing.assert_close(function, wanted.to(torch.complex128), rtol=0, atol=1e-10)


@pytest.mark.parametrize("basis", BASES, ids=str)
def test_transfer_against_a_plain_sum(basis):
    """The sum's error is that of h^2 (hats), or h (the jump of window 0)."""
    d = basis.n_dim
    xi = [torch.tensor([-4.0, 0.0, 2.5], dtype=torch.float64), *[torch.tensor([0.0, 3.0], dtype=torch.float64)] * (d - 1)]
    z, volume = midpoints(d, {1: 4000, 2: 400, 3: 60}[d])
    phase = sum(k.view(*[-1 if b == a else 1 for b in range(d)], 1) * z[a] for a, k in enumerate(xi))
    wanted = volume * torch.tensordot(kernel_values(basis, z).to(torch.complex128), torch.exp(1j * phase), dims=([1], [d]))
    got = transfer(basis, xi, 8.0)
    assert wanted.abs().max() > 0.3
    torch.testing.assert_close(got, wanted, rtol=0, atol=3e-3)


def test_transfer_does_not_depend_on_the_number_of_nodes():
    """Rounding error at low wave numbers of a rule made for high ones, for the kinked functions too."""
    low = torch.linspace(-10, 10, 5, dtype=torch.float64)
    for basis in (PolarHats(3, 4), PolarHats(2, 3), WindowedFourier(2, 3)):
        torch.testing.assert_close(transfer(basis, (low, low), 90.0), transfer(basis, (low, low), 15.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PolarHats(0, 4), "n_radial=0, n_angular=4, n_dim=2; give at least one"),
        (lambda: Zernike(0), "Zernike got n=0"),
        (lambda: Zernike(3, window=-1), "window=-1"),
        (lambda: WindowedFourier(4), "n_dim=4; give 1, 2 or 3"),
        (lambda: PolarHats(3, 4, 3), "n_angular 1 or 2 on one axis and 1 or 6 on three"),
        (lambda: Morlet(2, 0), "Morlet got n=0"),
        (lambda: Radial(0), "n_dim=0; give 1, 2 or 3"),
    ],
)
def test_refuses_bad_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
