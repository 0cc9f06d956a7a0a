"""One run and its directory: plan, train, and what is done with the prompt file afterwards."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.runs.box_files import write_predictions
    from vpt.runs.breakdown import (
        Breakdown,
        Confused,
        breakdown_lines,
        breakdown_of,
        breakdown_of_boxes,
        details_of,
    )
    from vpt.runs.detection import (
        BoxPrediction,
        evaluate_detector,
        predict_boxes,
        rescore,
        truth_and_found,
    )
    from vpt.runs.getting import get_dataset
    from vpt.runs.inference import evaluate_split, measure_prompt, precision_of
    from vpt.runs.outputs import opened, prepare_outputs, write_classes
    from vpt.runs.plan import Plan, make_plan
    from vpt.runs.predicting import Prediction, predict_images
    from vpt.runs.probing import probe
    from vpt.runs.start import FREE_ON_RESUME
    from vpt.runs.training import RunResult, Tried, train, try_with_cost
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "FREE_ON_RESUME",
    "BoxPrediction",
    "Breakdown",
    "Confused",
    "Plan",
    "Prediction",
    "RunResult",
    "Tried",
    "breakdown_lines",
    "breakdown_of",
    "breakdown_of_boxes",
    "details_of",
    "evaluate_detector",
    "evaluate_split",
    "get_dataset",
    "make_plan",
    "measure_prompt",
    "opened",
    "precision_of",
    "predict_boxes",
    "predict_images",
    "prepare_outputs",
    "probe",
    "rescore",
    "train",
    "truth_and_found",
    "try_with_cost",
    "write_classes",
    "write_predictions",
]
