"""What is measured of a model; knows nothing of the loop."""

from vpt.evaluation.base import Evaluator
from vpt.evaluation.classification import ClassificationEvaluator

__all__ = ["ClassificationEvaluator", "Evaluator"]
