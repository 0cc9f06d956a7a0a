"""One run and its directory: plan, train, and what is done with the prompt file afterwards."""

from vpt.runs.inference import (
    Prediction,
    evaluate_prompt,
    evaluate_split,
    precision_of,
    predict_images,
)
from vpt.runs.plan import Plan, make_plan
from vpt.runs.training import RunResult, train, try_out

__all__ = [
    "Plan",
    "Prediction",
    "RunResult",
    "evaluate_prompt",
    "evaluate_split",
    "make_plan",
    "precision_of",
    "predict_images",
    "train",
    "try_out",
]
