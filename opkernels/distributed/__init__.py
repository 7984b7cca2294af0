"""Fields that are split over processes, over ``torch.distributed``: the mesh, the split, halos, pencil transforms, traffic."""

from opkernels.distributed.collectives import traffic
from opkernels.distributed.fields import gather, scatter
from opkernels.distributed.pencil import PencilFourier
from opkernels.distributed.split import Split, process_mesh, sum_gradients

__all__ = ["PencilFourier", "Split", "gather", "process_mesh", "scatter", "sum_gradients", "traffic"]
