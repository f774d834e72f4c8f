"""Looking inside a trained model: numbers and pictures, on demand.

In come a model and an environment. Episodes are played, searched and imagined once more, and nothing of the model or of
its training changes. Out goes an :class:`InspectionReport`, which writes one page with all pictures.
"""

from sb3_ezv2.inspection.callback import InspectionCallback
from sb3_ezv2.inspection.report import InspectionReport, inspect_model

__all__ = ["InspectionCallback", "InspectionReport", "inspect_model"]
