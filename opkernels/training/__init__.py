"""Training: configurations, one loop, regimes, checkpoints that resume to the same bits."""

from opkernels.training.config import Config, read_config
from opkernels.training.loop import fit
from opkernels.training.options import Options
from opkernels.training.regimes import Regime

__all__ = ["Config", "Options", "Regime", "fit", "read_config"]
