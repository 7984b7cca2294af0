"""Layers: one file per kind of layer; layer(x, grid)."""

from opkernels.layers.channel_mlp import ChannelMLP
from opkernels.layers.compressed import CompressedConv
from opkernels.layers.differential import DifferentialConv
from opkernels.layers.factorized_attention import FactorizedAttention
from opkernels.layers.factorized_spectral import AxisSpectralConv
from opkernels.layers.frequency import FrequencyBlock
from opkernels.layers.integral import LocalIntegralConv
from opkernels.layers.kernels import Morlet, PolarHats, Radial, WindowedFourier, Zernike
from opkernels.layers.product_kernels import ProductKernel, fourier_kernel
from opkernels.layers.spectral import SpectralConv
from opkernels.layers.spherical_differential import SphericalDifferentialConv
from opkernels.layers.spherical_integral import SphericalIntegralConv
from opkernels.layers.spherical_spectral import SphericalSpectralConv
from opkernels.layers.symmetric_basis import SymmetricBasisConv
from opkernels.layers.tensorized import FactorizedSpectralConv

__all__ = [
    "AxisSpectralConv",
    "ChannelMLP",
    "CompressedConv",
    "DifferentialConv",
    "FactorizedAttention",
    "FactorizedSpectralConv",
    "FrequencyBlock",
    "LocalIntegralConv",
    "Morlet",
    "PolarHats",
    "ProductKernel",
    "Radial",
    "SpectralConv",
    "SphericalDifferentialConv",
    "SphericalIntegralConv",
    "SphericalSpectralConv",
    "SymmetricBasisConv",
    "WindowedFourier",
    "Zernike",
    "fourier_kernel",
]
