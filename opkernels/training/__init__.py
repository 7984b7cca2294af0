"""Training: configurations, one loop, regimes, checkpoints that resume to the same bits."""

from opkernels.training.coefficient_space import CoefficientFit, fit_coefficients
from opkernels.training.config import Config, read_config
from opkernels.training.loop import fit
from opkernels.training.options import Distributed, Options
from opkernels.training.regimes import Regime

__all__ = ["CoefficientFit", "Config", "Distributed", "Options", "Regime", "fit", "fit_coefficients", "read_config"]
