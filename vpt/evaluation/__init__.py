"""What is measured of a model; knows nothing of the loop."""

from typing import TYPE_CHECKING

from vpt.lazy import lazy_names

if TYPE_CHECKING:
    from vpt.evaluation.base import Evaluator
    from vpt.evaluation.classification import ClassificationEvaluator, Mistake
    from vpt.evaluation.clip_results import (
        FREE_BASELINES,
        BaseAndNew,
        BaseToNew,
        ClipEvaluation,
        FewShot,
        Measured,
        MethodRuns,
        PromptFileResult,
        average_base_to_new,
        harmonic_mean,
        short_names,
        to_clip_benchmark,
    )
    from vpt.evaluation.detection import (
        NOTHING,
        CocoEval,
        DetectionEvaluator,
        check_coco_eval,
        score_results,
    )
    from vpt.evaluation.multi_label import MultiLabelEvaluator
    from vpt.evaluation.selection import is_better
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "FREE_BASELINES",
    "NOTHING",
    "BaseAndNew",
    "BaseToNew",
    "ClassificationEvaluator",
    "ClipEvaluation",
    "CocoEval",
    "DetectionEvaluator",
    "Evaluator",
    "FewShot",
    "Measured",
    "MethodRuns",
    "Mistake",
    "MultiLabelEvaluator",
    "PromptFileResult",
    "average_base_to_new",
    "check_coco_eval",
    "harmonic_mean",
    "is_better",
    "score_results",
    "short_names",
    "to_clip_benchmark",
]
