"""Base-to-new: trained on the first half of the classes, tested on it and on the other half.

Zhou et al., "Conditional Prompt Learning for Vision-Language Models", 2022, section 4.1.
"""

from __future__ import annotations

from vpt.api import load_prompt
from vpt.data import Splits, restrict_classes
from vpt.engine.run_dir import PROMPT_NAME
from vpt.evaluation import BaseAndNew, BaseToNew, Measured
from vpt.protocols.clip_setup import Bench, cannot_name_new
from vpt.protocols.few_shot import costs_of, mean_seconds, measured_of, method_config, train_method
from vpt.protocols.zero_shot import measure_zero_shot

PLACE = "base_to_new"
"""Folder of the runs."""


def run_base_to_new(bench: Bench) -> BaseAndNew:
    """Every method that can be asked about classes it has not seen; the others are named."""
    base = restrict_classes(bench.splits, "base")
    new = restrict_classes(bench.splits, "new")
    methods = {}
    for name in bench.config.methods:
        if reason := cannot_name_new(bench.config, name):
            bench.log(f"{name} is left out of base_to_new: {reason}")
            continue
        methods[name] = _run_method(bench, name, base, new)
    return BaseAndNew(
        measure_zero_shot(bench, base, "base classes"),
        measure_zero_shot(bench, new, "new classes"),
        methods,
    )


def _run_method(bench: Bench, name: str, base: Splits, new: Splits) -> BaseToNew:
    shots = bench.config.base_to_new_shots
    results = train_method(bench, name, shots=shots, part="base", place=PLACE)
    config = bench.config
    measured = BaseToNew(
        method=name,
        shots=shots,
        seeds=tuple(config.seeds),
        base=tuple(measured_of(result, len(base.require("test"))) for result in results),
        new=tuple(_on_new(bench, name, seed, new) for seed in config.seeds),
        trained_parameters=results[0].parameters["trained"],
        file_bytes=results[0].prompt_bytes,
        seconds=mean_seconds(results),
        **costs_of(results),
    )
    bench.log(
        f"{name}, base to new: base {measured.base_mean:.1%}, new {measured.new_mean:.1%}, "
        f"harmonic mean {measured.harmonic_mean_of_means:.1%}"
    )
    return measured


def _on_new(bench: Bench, name: str, seed: int, new: Splits) -> Measured:
    """The run's prompt on the test images of the classes that it has not seen."""
    shots = bench.config.base_to_new_shots
    config = method_config(bench, name, seed=seed, shots=shots, part="base", place=PLACE)
    model = load_prompt(
        config.run_dir / PROMPT_NAME,
        bench.backbone,
        class_names=new.class_names,
        text_names=new.text_names,
        text=bench.text,
    ).to(bench.device)
    return bench.measure(model, new.require("test"), precision=config.train.precision)
