"""Layers: one file per kind of layer; layer(x, grid)."""

from opkernels.layers.channel_mlp import ChannelMLP
from opkernels.layers.differential import DifferentialConv
from opkernels.layers.factorized_spectral import AxisSpectralConv
from opkernels.layers.frequency import FrequencyBlock
from opkernels.layers.integral import LocalIntegralConv
from opkernels.layers.kernels import PolarHats, WindowedFourier, Zernike
from opkernels.layers.spectral import SpectralConv
from opkernels.layers.tensorized import FactorizedSpectralConv

__all__ = [
    "AxisSpectralConv",
    "ChannelMLP",
    "DifferentialConv",
    "FactorizedSpectralConv",
    "FrequencyBlock",
    "LocalIntegralConv",
    "PolarHats",
    "SpectralConv",
    "WindowedFourier",
    "Zernike",
]
