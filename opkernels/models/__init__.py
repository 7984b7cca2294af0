"""Models: one file per seed system; model(x, *, parameters=None, grid=None, output_shape=None)."""

from opkernels.models.arguments import remember_arguments
from opkernels.models.factformer import FactFormer
from opkernels.models.ffno import FFNO
from opkernels.models.fno import FNO
from opkernels.models.local_no import LocalNO
from opkernels.models.mg_tfno import MGTFNO
from opkernels.models.sfbc import SFBC
from opkernels.models.sfno import SFNO
from opkernels.models.t1 import T1
from opkernels.models.tfno import TFNO
from opkernels.models.unet import UNet

__all__ = ["FFNO", "FNO", "FactFormer", "MGTFNO", "LocalNO", "SFBC", "SFNO", "T1", "TFNO", "UNet"]

for _name in __all__:  # so that a file can name each by plain data
    remember_arguments(globals()[_name])
