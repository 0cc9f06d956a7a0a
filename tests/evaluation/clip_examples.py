"""Results of CLIP evaluations with numbers chosen by hand."""

from __future__ import annotations

from typing import Any

from vpt.evaluation import (
    BaseAndNew,
    BaseToNew,
    ClipEvaluation,
    FewShot,
    Measured,
    MethodRuns,
    PromptFileResult,
)
from vpt.evaluation.energy import Energy, absent

CLASSES = tuple(f"class {number}" for number in range(8))
SEEDS = (1, 2, 3)

TOPS = {
    "linear_from_text": {1: (0.48, 0.50, 0.52), 16: (0.78, 0.79, 0.80)},
    "vpt_shallow": {1: (0.55, 0.57, 0.59), 16: (0.74, 0.76, 0.78)},
    "vpt_deep": {1: (0.60, 0.61, 0.62), 16: (0.82, 0.83, 0.84)},
    "my_own": {1: (0.50, 0.50, 0.50), 16: (0.825, 0.825, 0.825)},
}
"""Top-1 by method, shots and seed; zero-shot is 0.56."""

SIZES = {"linear_from_text": 4104, "vpt_shallow": 384, "vpt_deep": 11_146, "my_own": 2_700_000}


def make_measured(top1: float, classes: tuple[str, ...] = CLASSES) -> Measured:
    metrics = {
        "top1": top1,
        "mean_class_accuracy": top1 - 0.01,
        "loss": 2 - top1,
        "calibration_error": 0.034,
    }
    if len(classes) > 5:
        metrics["top5"] = 0.5 + top1 / 2
    per_class: dict[str, float | None] = dict.fromkeys(classes, top1)
    return Measured(metrics, {**per_class, classes[-1]: None}, 1234)


def make_runs(method: str, shots: int, tops: tuple[float, ...]) -> MethodRuns:
    runs = tuple(map(make_measured, tops))
    size = SIZES[method]
    energy = (Energy(4.0, "gpu", "measured"), absent("machine", "no codecarbon"))
    cost = (2.5, 1_000_000, 2_000_000, energy)
    return MethodRuns(method, shots, SEEDS[: len(tops)], runs, size, 4 * size, *cost)


def make_few_shot(shots: int, measured_at: int | None = None, seeds: int = 3) -> FewShot:
    at = shots if measured_at is None else measured_at
    return FewShot(shots, {m: make_runs(m, shots, tops[at][:seeds]) for m, tops in TOPS.items()})


def make_base_to_new(
    method: str, base: tuple[float, ...], new: tuple[float, ...], shots: int = 16
) -> BaseToNew:
    return BaseToNew(
        method,
        shots,
        tuple(range(1, len(base) + 1)),
        tuple(make_measured(top1, CLASSES[:4]) for top1 in base),
        tuple(make_measured(top1, CLASSES[4:]) for top1 in new),
        trained_parameters=11_146,
        file_bytes=44_584,
        seconds=2.5,
    )


def make_halves() -> BaseAndNew:
    methods = {
        "vpt_deep": make_base_to_new("vpt_deep", (0.8, 0.9, 0.85), (0.7, 0.5, 0.6)),
        "coop": make_base_to_new("coop", (0.9, 0.9, 0.9), (0.66, 0.66, 0.66)),
    }
    zero_shot = [make_measured(0.6, CLASSES[:4]), make_measured(0.65, CLASSES[4:])]
    return BaseAndNew(zero_shot[0], zero_shot[1], methods)


def make_setting(**changes: Any) -> dict[str, Any]:
    return {
        "dataset": "EuroSAT",
        "images": {"train": 13500, "test": 8100},
        "classes": 8,
        "base_classes": 4,
        "templates": ["a centered satellite photo of {}."],
        "class_prompts": None,
        "backbone": "open_clip/ViT-B-16:openai",
        "model": "ViT-B-16",
        "pretrained": "openai",
        "seeds": [1, 2, 3],
        "selection": "the last step's model; test read once per run",
        "logit_scale": 100.0,
        **changes,
    }


def make_evaluation(**changes: Any) -> ClipEvaluation:
    """Everything at once; changes are fields of `ClipEvaluation`."""
    values: dict[str, Any] = {
        "setting": make_setting(),
        "zero_shot": make_measured(0.56),
        "prompt_files": (
            PromptFileResult(
                "runs/a/seed_1/prompt.safetensors", "ab" * 32, make_measured(0.7), False
            ),
            PromptFileResult(
                "runs/a/seed_2/prompt.safetensors", "ab" * 32, make_measured(0.5), True
            ),
        ),
        "few_shot": (make_few_shot(1), make_few_shot(16)),
        "base_to_new": make_halves(),
        "versions": {"torch": "2", "timm": None},
        "seconds": 60.0,
        **changes,
    }
    return ClipEvaluation(**values)
