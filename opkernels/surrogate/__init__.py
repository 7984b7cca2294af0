"""A trained operator with its domain, normalization, field names and time step: what is asked, saved and loaded."""

from opkernels.surrogate.ensemble import Ensemble
from opkernels.surrogate.files import load, save
from opkernels.surrogate.operator import ParameterScaling, Surrogate, call_model

__all__ = ["Ensemble", "ParameterScaling", "Surrogate", "call_model", "load", "save"]
