"""What the CLIP protocols measured; JSON values in, JSON values out.

All accuracies are shares in [0, 1]; gains and forgetting are differences of two of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

from vpt.evaluation.energy import Energy, energies

_SAME_SETTING = (
    "dataset",
    "images",
    "class_names",
    "names_in_sentences",
    "templates",
    "class_prompts",
    "image_tower_sha256",
    "text_tower_sha256",
    "preprocess",
    "precision",
)
"""Keys of a setting in which results that are shown together agree."""

FREE_BASELINES = ("zero_shot", "linear_from_text")
"""What anyone has without a prompt: the published model, and a linear classifier from it."""


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b), and 0 where both are 0."""
    return statistics.harmonic_mean([first, second])


@dataclass(frozen=True)
class Measured:
    """One model on one split.

    Attributes:
        metrics: of `ClassificationEvaluator.compute`.
        per_class: class names to their accuracy; None for a class without images.
        images: how many were measured.
    """

    metrics: dict[str, float]
    per_class: dict[str, float | None]
    images: int

    @property
    def top1(self) -> float:
        """The share of images whose best class is the true one."""
        return self.metrics["top1"]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measured:
        """The inverse of `asdict`."""
        return cls(dict(values["metrics"]), dict(values["per_class"]), values["images"])


@dataclass(frozen=True)
class MethodRuns:
    """One method at one number of shots.

    Attributes:
        method: its name in the config.
        shots: training images per class.
        seeds: of the runs.
        runs: the test split, for each seed.
        trained_parameters: numbers that are trained.
        file_bytes: size of the prompt file.
        seconds: of training and validation in one run, mean over the seeds.
        forward_flops: floating-point operations per image in evaluation; None: not counted.
        step_flops: the same in training.
        energy: of training and validation, of all its runs.
    """

    method: str
    shots: int
    seeds: tuple[int, ...]
    runs: tuple[Measured, ...]
    trained_parameters: int
    file_bytes: int
    seconds: float
    forward_flops: int | None = None
    step_flops: int | None = None
    energy: tuple[Energy, ...] = ()

    def mean(self, metric: str) -> float:
        """The mean of a metric over the seeds."""
        return statistics.fmean(run.metrics[metric] for run in self.runs)

    def std(self, metric: str) -> float:
        """The sample standard deviation of a metric over the seeds; 0 for a single one."""
        return _sample_std([run.metrics[metric] for run in self.runs])

    @property
    def top1_mean(self) -> float:
        """The mean top-1 over the seeds."""
        return self.mean("top1")

    @property
    def top1_std(self) -> float:
        """The sample standard deviation of top-1 over the seeds; 0 for a single one."""
        return self.std("top1")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, with mean and spread of every metric."""
        metrics = self.runs[0].metrics
        return {
            "top1_mean": self.top1_mean,
            "top1_std": self.top1_std,
            "means": {metric: self.mean(metric) for metric in metrics},
            "stds": {metric: self.std(metric) for metric in metrics},
            **_listed(asdict(self)),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MethodRuns:
        """The inverse of `to_dict`."""
        return cls(runs=_all_measured(values["runs"]), **_run_fields(values))


@dataclass(frozen=True)
class FewShot:
    """All methods at one number of shots, the free linear baseline among them.

    Attributes:
        shots: training images per class.
        methods: by name, in the order of the config.
    """

    shots: int
    methods: dict[str, MethodRuns]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FewShot:
        """The inverse of what `ClipEvaluation.to_dict` writes of it."""
        methods = {name: MethodRuns.from_dict(runs) for name, runs in values["methods"].items()}
        return cls(values["shots"], methods)


@dataclass(frozen=True)
class BaseToNew:
    """One method trained on the base classes, tested on them and on the new ones.

    Each half is classified among its own classes alone.

    Attributes:
        method: its name in the config.
        shots: training images per base class.
        seeds: of the runs.
        base: the test images of the base classes, for each seed.
        new: those of the new classes, for each seed.
        trained_parameters: numbers that are trained.
        file_bytes: size of the prompt file.
        seconds: of training and validation in one run, mean over the seeds.
        forward_flops: floating-point operations per image in evaluation; None: not counted.
        step_flops: the same in training.
        energy: of training and validation, of all its runs.
    """

    method: str
    shots: int
    seeds: tuple[int, ...]
    base: tuple[Measured, ...]
    new: tuple[Measured, ...]
    trained_parameters: int
    file_bytes: int
    seconds: float
    forward_flops: int | None = None
    step_flops: int | None = None
    energy: tuple[Energy, ...] = ()

    @property
    def base_mean(self) -> float:
        """Top-1 on the base classes, mean over the seeds."""
        return statistics.fmean(run.top1 for run in self.base)

    @property
    def base_std(self) -> float:
        """The sample standard deviation of it; 0 for a single seed."""
        return _sample_std([run.top1 for run in self.base])

    @property
    def new_mean(self) -> float:
        """Top-1 on the new classes, mean over the seeds."""
        return statistics.fmean(run.top1 for run in self.new)

    @property
    def new_std(self) -> float:
        """The sample standard deviation of it; 0 for a single seed."""
        return _sample_std([run.top1 for run in self.new])

    @property
    def harmonic_mean_of_means(self) -> float:
        """Of the two means over the seeds: what papers publish."""
        return harmonic_mean(self.base_mean, self.new_mean)

    @property
    def mean_of_harmonic_means(self) -> float:
        """Over the seeds, of each seed's harmonic mean; never above the published one."""
        pairs = zip(self.base, self.new, strict=True)
        return statistics.fmean(harmonic_mean(base.top1, new.top1) for base, new in pairs)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, with means, spreads and both harmonic means."""
        return {
            "base_mean": self.base_mean,
            "base_std": self.base_std,
            "new_mean": self.new_mean,
            "new_std": self.new_std,
            "harmonic_mean_of_means": self.harmonic_mean_of_means,
            "mean_of_harmonic_means": self.mean_of_harmonic_means,
            **_listed(asdict(self)),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BaseToNew:
        """The inverse of `to_dict`."""
        base, new = _all_measured(values["base"]), _all_measured(values["new"])
        return cls(base=base, new=new, **_run_fields(values))


@dataclass(frozen=True)
class BaseAndNew:
    """All methods under the base-to-new protocol.

    Attributes:
        zero_shot_base: the published model on the base classes.
        zero_shot_new: the published model on the new classes.
        methods: by name, in the order of the config.
    """

    zero_shot_base: Measured
    zero_shot_new: Measured
    methods: dict[str, BaseToNew]

    def forgetting(self, method: str) -> float:
        """What a method lost on the new classes: zero-shot top-1 minus its mean top-1."""
        return self.zero_shot_new.top1 - self.methods[method].new_mean

    def means(self, method: str) -> tuple[float, float]:
        """Top-1 on the base and the new classes of a method, or of 'zero_shot'."""
        if method == "zero_shot":
            return self.zero_shot_base.top1, self.zero_shot_new.top1
        return self.methods[method].base_mean, self.methods[method].new_mean

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, with what `BaseToNew.to_dict` adds, and the forgetting."""
        return {
            "zero_shot_harmonic_mean": harmonic_mean(*self.means("zero_shot")),
            "zero_shot_base": asdict(self.zero_shot_base),
            "zero_shot_new": asdict(self.zero_shot_new),
            "methods": {
                name: {"forgetting": self.forgetting(name), **method.to_dict()}
                for name, method in self.methods.items()
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BaseAndNew:
        """The inverse of `to_dict`."""
        return cls(
            Measured.from_dict(values["zero_shot_base"]),
            Measured.from_dict(values["zero_shot_new"]),
            {name: BaseToNew.from_dict(method) for name, method in values["methods"].items()},
        )


@dataclass(frozen=True)
class PromptFileResult:
    """One prompt file on the test split of all classes.

    Attributes:
        file: its path.
        sha256: of the image tower that it was trained for.
        measured: the test split.
        class_names_differ: the data set's class names took the place of those in the file.
    """

    file: str
    sha256: str
    measured: Measured
    class_names_differ: bool

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PromptFileResult:
        """The inverse of what `ClipEvaluation.to_dict` writes of it."""
        measured = Measured.from_dict(values["measured"])
        return cls(values["file"], values["sha256"], measured, values["class_names_differ"])


@dataclass(frozen=True)
class ClipEvaluation:
    """One CLIP on one data set under all protocols that were asked for.

    Attributes:
        setting: everything that a number depends on, as JSON values; at least 'dataset', 'model'
            (open_clip's architecture), 'pretrained' (its tag, or ''), 'classes', 'templates' and
            'backbone'; 'class_prompts' and 'selection' are shown if they are there.
        zero_shot: the published model on the test split of all classes.
        prompt_files: in the order in which they were asked for.
        few_shot: in the order of the shots in the config.
        base_to_new: None if it was not asked for.
        versions: packages, machine, threads.
        seconds: of the whole evaluation.
    """

    setting: dict[str, Any]
    zero_shot: Measured
    prompt_files: tuple[PromptFileResult, ...]
    few_shot: tuple[FewShot, ...]
    base_to_new: BaseAndNew | None
    versions: dict[str, Any]
    seconds: float

    def joined_with(self, before: ClipEvaluation) -> ClipEvaluation:
        """This result with what an earlier one of the same setting has beyond it.

        So a protocol that was not asked for again is not lost; an earlier result of another
        setting (data, towers, sentences, preprocessing) is.
        """
        if any(self.setting.get(key) != before.setting.get(key) for key in _SAME_SETTING):
            return self
        measured = {few.shots for few in self.few_shot}
        kept = [few for few in before.few_shot if few.shots not in measured]
        return replace(
            self,
            few_shot=tuple(sorted([*self.few_shot, *kept], key=lambda few: few.shots)),
            base_to_new=self.base_to_new or before.base_to_new,
        )

    def at_shots(self, shots: int | None) -> FewShot | None:
        """The few-shot result at a number of shots, if there is one."""
        return next((few for few in self.few_shot if few.shots == shots), None)

    def best_free_baseline(self, shots: int | None) -> tuple[str, float]:
        """Name and top-1 of the better free baseline; of equal ones zero-shot.

        Args:
            shots: what the linear one may be trained on; None, or a number that was not measured:
                zero-shot alone.
        """
        found = {"zero_shot": self.zero_shot.top1}
        few = self.at_shots(shots)
        if few is not None and "linear_from_text" in few.methods:
            found["linear_from_text"] = few.methods["linear_from_text"].top1_mean
        name = max(found, key=found.__getitem__)
        return name, found[name]

    def gain(self, method: str, shots: int) -> float:
        """Mean top-1 of a method minus that of the best free baseline at the same shots.

        Raises:
            KeyError: the method was not measured at this number of shots.
        """
        few = self.at_shots(shots)
        if few is None or method not in few.methods:
            raise KeyError(f"{method} was not measured at {shots} shots")
        return few.methods[method].top1_mean - self.best_free_baseline(shots)[1]

    def prompt_file_gain(self, result: PromptFileResult) -> float:
        """Top-1 of a prompt file minus zero-shot: nobody knows the shots that it has seen."""
        return result.measured.top1 - self.zero_shot.top1

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, with means, spreads, both harmonic means, gains, forgetting.

        A gain stands beside the name of the baseline that it is over, as 'gain_over'.
        """
        return {
            "setting": self.setting,
            "zero_shot": asdict(self.zero_shot),
            "prompt_files": [
                {**self._gain_to_dict(result.measured.top1, None), **asdict(result)}
                for result in self.prompt_files
            ],
            "few_shot": [self._few_shot_to_dict(few) for few in self.few_shot],
            "base_to_new": None if self.base_to_new is None else self.base_to_new.to_dict(),
            "versions": self.versions,
            "seconds": self.seconds,
        }

    def _gain_to_dict(self, top1: float, shots: int | None) -> dict[str, Any]:
        baseline, free = self.best_free_baseline(shots)
        return {"gain": top1 - free, "gain_over": baseline}

    def _few_shot_to_dict(self, few: FewShot) -> dict[str, Any]:
        methods = {}
        for name, runs in few.methods.items():
            free = name in FREE_BASELINES
            gain = {} if free else self._gain_to_dict(runs.top1_mean, few.shots)
            methods[name] = {**gain, **runs.to_dict()}
        baseline, top1 = self.best_free_baseline(few.shots)
        return {
            "shots": few.shots,
            "best_free_baseline": {"method": baseline, "top1": top1},
            "methods": methods,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipEvaluation:
        """The inverse of `to_dict`; what that has added is computed anew."""
        halves = values["base_to_new"]
        return cls(
            setting=dict(values["setting"]),
            zero_shot=Measured.from_dict(values["zero_shot"]),
            prompt_files=tuple(map(PromptFileResult.from_dict, values["prompt_files"])),
            few_shot=tuple(map(FewShot.from_dict, values["few_shot"])),
            base_to_new=None if halves is None else BaseAndNew.from_dict(halves),
            versions=dict(values["versions"]),
            seconds=values["seconds"],
        )


def average_base_to_new(results: Sequence[ClipEvaluation], method: str) -> dict[str, float]:
    """A method's, or 'zero_shot''s, base-to-new over several data sets, each of equal weight.

    Returns:
        'base_mean', 'new_mean'; 'harmonic_mean_of_means', of these two: what papers publish;
        'mean_of_harmonic_means', of each data set's: never above it.

    Raises:
        ValueError: there are no results, or one lacks the method.
    """
    pairs = []
    for result in results:
        halves = result.base_to_new
        if halves is None or method not in ("zero_shot", *halves.methods):
            raise ValueError(f"no base-to-new result of {method} on {result.setting['dataset']}")
        pairs.append(halves.means(method))
    if not pairs:
        raise ValueError("no results to average")
    base, new = (statistics.fmean(half) for half in zip(*pairs, strict=True))
    return {
        "base_mean": base,
        "new_mean": new,
        "harmonic_mean_of_means": harmonic_mean(base, new),
        "mean_of_harmonic_means": statistics.fmean(harmonic_mean(*pair) for pair in pairs),
    }


def to_clip_benchmark(result: ClipEvaluation) -> list[dict[str, Any]]:
    """Every single measurement as a record in the shape of CLIP_benchmark's result files.

    A suffix of 'model' says what was trained, one of 'dataset' base or new classes, and the string
    keys 'method', 'shots', 'seed', 'prompt_file' and 'classes' say all of it. 'acc5' is None where
    the split has fewer than five classes; there the original writes NaN, which is no JSON.
    """
    records = [_record(result, result.zero_shot)]
    names = short_names([file.file for file in result.prompt_files])
    for name, file in zip(names, result.prompt_files, strict=True):
        suffix = f"+{name}"
        records.append(
            _record(result, file.measured, suffix, method="prompt_file", prompt_file=file.file)
        )
    for few in result.few_shot:
        for runs in few.methods.values():
            records += _records_of_seeds(result, runs, runs.runs)
    if result.base_to_new is not None:
        records += _base_to_new_records(result, result.base_to_new)
    return records


def short_names(files: Sequence[str]) -> list[str]:
    """The files without their ending, by as few folders as tell them apart."""
    stems = [PurePath(file).with_suffix("").parts for file in files]
    different = len(set(stems))
    for length in range(1, max(map(len, stems), default=0) + 1):
        names = ["/".join(parts[-length:]) for parts in stems]
        if len(set(names)) == different:
            return names
    return list(files)


def _base_to_new_records(result: ClipEvaluation, halves: BaseAndNew) -> list[dict[str, Any]]:
    records = [
        _record(result, halves.zero_shot_base, classes="base"),
        _record(result, halves.zero_shot_new, classes="new"),
    ]
    for method in halves.methods.values():
        records += _records_of_seeds(result, method, method.base, classes="base")
        records += _records_of_seeds(result, method, method.new, classes="new")
    return records


def _records_of_seeds(
    result: ClipEvaluation,
    runs: MethodRuns | BaseToNew,
    measured: Sequence[Measured],
    classes: str = "all",
) -> list[dict[str, Any]]:
    records = []
    for seed, run in zip(runs.seeds, measured, strict=True):
        suffix = f"+{runs.method}-{runs.shots}shot-seed{seed}"
        keys = {"method": runs.method, "shots": str(runs.shots), "seed": str(seed)}
        records.append(_record(result, run, suffix, classes=classes, **keys))
    return records


def _record(
    result: ClipEvaluation,
    measured: Measured,
    suffix: str = "",
    *,
    method: str = "zero_shot",
    classes: str = "all",
    shots: str = "",
    seed: str = "",
    prompt_file: str = "",
) -> dict[str, Any]:
    setting, metrics = result.setting, measured.metrics
    half = "" if classes == "all" else f"/{classes}"
    return {
        "dataset": f"{setting['dataset']}{half}",
        "model": f"{setting['model']}{suffix}",
        "pretrained": setting["pretrained"],
        "task": "zeroshot_classification",
        "metrics": {
            "acc1": metrics["top1"],
            "acc5": _top5(measured),
            "mean_per_class_recall": metrics["mean_class_accuracy"],
        },
        "language": "en",
        "method": method,
        "classes": classes,
        "shots": shots,
        "seed": seed,
        "prompt_file": prompt_file,
    }


def _top5(measured: Measured) -> float | None:
    """Of exactly five classes the true one is always among the best five."""
    return 1.0 if len(measured.per_class) == 5 else measured.metrics.get("top5")


def _sample_std(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _all_measured(values: Sequence[Mapping[str, Any]]) -> tuple[Measured, ...]:
    return tuple(map(Measured.from_dict, values))


def _run_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that `MethodRuns` and `BaseToNew` share."""
    names = ("method", "shots", "trained_parameters", "file_bytes", "seconds")
    return {
        "seeds": tuple(values["seeds"]),
        **{name: values[name] for name in names},
        **{name: values.get(name) for name in ("forward_flops", "step_flops")},
        "energy": energies(values.get("energy", ())),
    }


def _listed(values: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as JSON reads them back."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
