"""A trained operator with its domain, normalization, field names and time step: what is asked, saved and loaded."""

from opkernels.surrogate.files import load, save
from opkernels.surrogate.operator import ParameterScaling, Surrogate, call_model

__all__ = ["ParameterScaling", "Surrogate", "call_model", "load", "save"]
