"""One run and its directory: plan, train, and what is done with the prompt file afterwards."""

from vpt.runs.box_files import write_predictions
from vpt.runs.detection import (
    BoxPrediction,
    evaluate_detector,
    predict_boxes,
    rescore,
    truth_and_found,
)
from vpt.runs.getting import get_dataset
from vpt.runs.inference import (
    Prediction,
    evaluate_prompt,
    evaluate_split,
    precision_of,
    predict_images,
)
from vpt.runs.outputs import opened, prepare_outputs, write_classes
from vpt.runs.plan import Plan, make_plan
from vpt.runs.probe import probe
from vpt.runs.start import FREE_ON_RESUME
from vpt.runs.training import RunResult, Tried, train, try_out, try_with_cost

__all__ = [
    "FREE_ON_RESUME",
    "BoxPrediction",
    "Plan",
    "Prediction",
    "RunResult",
    "Tried",
    "evaluate_detector",
    "evaluate_prompt",
    "evaluate_split",
    "get_dataset",
    "make_plan",
    "opened",
    "precision_of",
    "predict_boxes",
    "predict_images",
    "prepare_outputs",
    "probe",
    "rescore",
    "train",
    "truth_and_found",
    "try_out",
    "try_with_cost",
    "write_classes",
    "write_predictions",
]
