"""The commands: one typed function each. A user's mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import datetime
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from vpt.cli_benchmarks import commands as benchmark_commands
from vpt.terminal import ConfigPath, Device, Overrides, complain, err, log, out

app = typer.Typer(
    name="vpt",
    help="Visual prompt tuning: one frozen vision transformer, one small file per task.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Every command takes --traceback, to see where an error came from.",
)
EXIT_MISTAKE, EXIT_INTERRUPTED = 2, 75
# Typer carries a click of its own, and names its errors only through their subclass.
ClickException: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)

PromptPath = Annotated[Path, typer.Argument(metavar="PROMPT.safetensors", help="a prompt file")]
Weights = Annotated[Path | None, typer.Option(help="local file of the backbone's weights")]


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the run in run_dir, exactly")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="remove the run in run_dir first")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
) -> None:
    """Train as a config says, into its run directory.

    Started by torchrun, all of its processes train the one run.
    """
    from vpt import runs
    from vpt.config import load_config
    from vpt.engine.distributed import is_first, world_size
    from vpt.experiment import build

    mode = _open_mode(resume=resume, overwrite=overwrite)
    if dry_run and world_size() > 1:
        raise typer.BadParameter("--dry-run measures one process; use it without torchrun")
    settings = load_config(config, overrides or ())
    if dry_run:
        out.print(plan_table(runs.make_plan(build(settings), log=log), settings.run_dir))
        return
    result = runs.train(settings, mode=mode, log=log, console=out)
    if result.finished != "done" and is_first():
        log(f"stopped early: {result.finished}")


@app.command()
def probe(
    config: ConfigPath,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="remove the run in run_dir first")
    ] = False,
) -> None:
    """Fit a linear probe by L-BFGS to features that are computed once; seconds, not epochs."""
    from vpt import runs
    from vpt.config import RunConfig, load_config
    from vpt.errors import ConfigError

    settings = load_config(config, overrides or ())
    if not isinstance(settings, RunConfig):
        raise ConfigError(f"{config}: a probe is of classes, not of boxes")
    runs.probe(settings, mode="overwrite" if overwrite else "new", log=log, console=out)


def _open_mode(*, resume: bool, overwrite: bool) -> Literal["new", "resume", "overwrite"]:
    if resume and overwrite:
        raise typer.BadParameter("use --resume or --overwrite, not both")
    return "resume" if resume else "overwrite" if overwrite else "new"


def plan_table(plan: Any, run_dir: Path) -> Table:
    """What a run would do, as a table."""
    from vpt.engine.progress import format_seconds

    table = Table(title=f"plan of {run_dir}", show_header=False)
    rows = {
        "images": ", ".join(f"{name} {count:,}" for name, count in plan.images.items()),
        "classes": f"{plan.classes}",
        "optimiser steps": f"{plan.steps:,}",
        "parameters": ", ".join(f"{part} {count:,}" for part, count in plan.parameters.items()),
        "trained": f"{plan.trained:,}",
        "checkpoint": f"{plan.checkpoint_bytes / 2**20:.1f} MB",
        "GFLOPs per image": _plan_flops(plan),
        "peak memory": f"{plan.peak_memory_bytes / 2**20:,.0f} MB after a few steps",
        "time": f"about {format_seconds(plan.seconds)}, from a few steps",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _plan_flops(plan: Any) -> str:
    from vpt.reports.tables import gigaflops

    return f"{gigaflops(plan.step_flops)} to train, {gigaflops(plan.forward_flops)} to evaluate"


@app.command()
def evaluate(
    context: typer.Context,
    prompt: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="a prompt file, or COCO results (.json) to score"),
    ],
    data: Annotated[Path, typer.Option(help="a descriptor, or a folder with train/ val/ test/")],
    root: Annotated[Path | None, typer.Option(help="where the images are")] = None,
    split: Annotated[Literal["train", "val", "test"], typer.Option()] = "test",
    device: Device = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="default: 64; of a detector, its run's")
    ] = None,
    num_workers: Annotated[int, typer.Option(min=0)] = 2,
    weights: Weights = None,
    names: Annotated[
        Literal["file", "data"],
        typer.Option(help="classes: the prompt file's, or (if they are texts) the data set's own"),
    ] = "file",
    output: Annotated[
        Path | None,
        typer.Option(help="also write the metrics, of boxes curves too, to this JSON file"),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="of a detector: its detections, as COCO results")
    ] = None,
    coco_eval: Annotated[
        Literal["pycocotools", "faster"], typer.Option(help="of boxes: who computes the metrics")
    ] = "pycocotools",
    on_bad_image: Annotated[
        Literal["error", "skip"], typer.Option(help="skip: leave unreadable images out, and say so")
    ] = "error",
) -> None:
    """Measure a prompt file, or a detector's results, on a data set.

    Boxes are measured as COCO does, each class too.
    """
    from vpt import runs
    from vpt.engine.progress import LeftOut
    from vpt.engine.prompt_file import read_prompt_header
    from vpt.engine.run_dir import write_json_atomic

    runs.prepare_outputs({"the metrics": output, "the results": results}, [prompt, data, weights])
    tell = LeftOut(log)
    if prompt.suffix.lower() == ".json":
        of_models = ("device", "batch_size", "num_workers", "weights", "names", "results")
        _refuse_options(context, of_models, f"{prompt} holds results, no model")
        boxes = runs.rescore(
            prompt,
            data,
            root=root,
            split=split,
            coco_eval=coco_eval,
            on_bad_image=on_bad_image,
            log=tell,
        )
        metrics, details = _of_boxes(boxes)
    elif read_prompt_header(prompt).task == "detection":
        _refuse_options(context, ("names",), f"{prompt} holds a detector")
        boxes = runs.evaluate_detector(
            prompt,
            data,
            root=root,
            split=split,
            device=device,
            batch_size=batch_size,
            num_workers=num_workers,
            weights=weights,
            output=results,
            coco_eval=coco_eval,
            on_bad_image=on_bad_image,
            log=tell,
            console=err,
        )
        metrics, details = _of_boxes(boxes)
    else:
        _refuse_options(context, ("results", "coco_eval"), f"{prompt} holds no detector")
        details = {}
        metrics = runs.evaluate_prompt(
            prompt,
            data,
            root=root,
            split=split,
            device=device,
            batch_size=batch_size or 64,
            num_workers=num_workers,
            weights=weights,
            names=names,
            on_bad_image=on_bad_image,
            log=tell,
            console=err,
        )
    for name, value in metrics.items():
        log(f"{name} {value:.4f}")
    if output is not None:
        what = {"prompt": str(prompt), "data": str(data), "split": split}
        values = {**what, "left_out": tell.lines, "metrics": metrics, **details}
        write_json_atomic(output, values)
    for path in (output, results):
        if path is not None:
            log(f"written to {path}")


def _of_boxes(evaluator: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics with 'AP/<class>' of each class that has boxes, and what only a file takes."""
    details = evaluator.details()
    classes = details["AP_per_class"].items()
    return {
        **evaluator.compute(),
        **{f"AP/{name}": value for name, value in classes if value is not None},
    }, details


def _refuse_options(context: typer.Context, options: Iterable[str], reason: str) -> None:
    """Refuse options that were given but mean nothing here."""
    for name in options:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            shown = "format" if name == "output_format" else name.replace("_", "-")
            raise typer.BadParameter(f"{reason}: --{shown} has no meaning")


@app.command()
def predict(
    context: typer.Context,
    prompt: PromptPath,
    images: Annotated[
        list[str], typer.Argument(help="files, folders, globs, or - for paths on stdin")
    ],
    output: Annotated[Path | None, typer.Option(help="file to write; default: stdout")] = None,
    output_format: Annotated[Literal["csv", "jsonl"], typer.Option("--format")] = "csv",
    top_k: Annotated[int, typer.Option(min=1, help="classes per image in jsonl")] = 5,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="default: 32; of a detector, 8")
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    probabilities: Annotated[
        Literal["softmax", "sigmoid"] | None,
        typer.Option(
            help="of one of the classes; or of each on its own (multi-label, SigLIP); default: "
            "softmax, of a multi-label file sigmoid",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="other class names, comma-separated, if the file's are texts"),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="of a detector: boxes below are left out (default: 0.3); of a multi-label file: "
            "classes below (default: 0.5)",
        ),
    ] = None,
    coco: Annotated[
        Path | None, typer.Option(help="of a detector: also write COCO results by file name")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="of a detector: folder for copies with the boxes drawn")
    ] = None,
) -> None:
    """Name the class or classes of images, or find boxes in them."""
    from vpt import runs
    from vpt.api import load_prompt
    from vpt.engine.device import choose_device
    from vpt.engine.progress import images_progress
    from vpt.engine.prompt_file import read_prompt_header
    from vpt.errors import PromptFileError

    paths = list(find_images(images))
    header = read_prompt_header(prompt)
    if header.task == "detection":
        of_classes = ("top_k", "probabilities", "classes")
        _refuse_options(context, of_classes, f"{prompt} holds a detector")
        unreadable = runs.write_predictions(
            prompt,
            paths,
            output=output,
            output_format=output_format,
            coco=coco,
            pictures=pictures,
            min_score=0.3 if min_score is None else min_score,
            batch_size=batch_size or 8,
            device=device,
            weights=weights,
            console=None if output is None else err,
        )
        for path in (output, coco, pictures):
            if path is not None and output is not None:  # else rows are on stdout
                log(f"written to {path}")
        _tell_unreadable(unreadable, len(paths))
        return
    _refuse_options(context, ("coco", "pictures"), f"{prompt} holds no detector")
    if not header.multi_label:
        reason = f"{prompt} holds neither a detector nor several labels per image"
        _refuse_options(context, ("min_score",), reason)
    where = choose_device(device)
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    if names is not None and not all(names):
        raise typer.BadParameter("--classes: a name is empty; write e.g. --classes 'a cat,a dog'")
    model = load_prompt(prompt, weights=weights, class_names=names).to(where)
    if model.head is None:
        raise PromptFileError(f"{prompt} holds no head: nothing to predict")
    model.check_probabilities(probabilities)
    unreadable = 0
    runs.prepare_outputs({"the rows": output}, [prompt, weights, *paths])
    bar = images_progress(len(paths), None if output is None else err)
    with runs.opened(output) as stream, bar as advance:
        rows = runs.predict_images(
            model,
            paths,
            device=where,
            batch_size=batch_size or 32,
            top_k=top_k,
            probabilities=probabilities,
            min_score=0.5 if min_score is None else min_score,
        )
        for row in runs.write_classes(rows, stream, output_format):
            advance(1)
            unreadable += row.error is not None
    _tell_unreadable(unreadable, len(paths))


def _tell_unreadable(unreadable: int, images: int) -> None:
    from vpt.errors import DataError

    if unreadable:
        raise DataError(f"{unreadable} of {images} images could not be read; their rows say why")


def find_images(arguments: Sequence[str]) -> Iterator[Path]:
    """The image files that arguments name.

    Files as they are, folders and globs searched in order.
    """
    from vpt.data.images import SUFFIXES
    from vpt.errors import DataError

    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            found = [Path(line.strip()) for line in sys.stdin if line.strip()]
        elif path.is_dir():
            found = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
            )
        elif path.exists() or not any(sign in argument for sign in "*?["):
            found = [path]
        else:
            found = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        if not found:
            raise DataError(f"no image found by '{argument}'")
        yield from found


ComparisonOverrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="e.g. base.optim.head_lr=5e-4")
]
OverwriteComparison = Annotated[
    bool, typer.Option("--overwrite", help="remove an earlier comparison in run_dir first")
]


@app.command()
def quickstart(
    config: Annotated[Path, typer.Argument(help="a comparison config")] = Path(
        "configs/quickstart.yaml"
    ),
    overrides: ComparisonOverrides = None,
    overwrite: OverwriteComparison = False,
) -> None:
    """Compare linear probe, prompts and full fine-tuning on real images, offline."""
    from vpt.protocols.comparison import compare, load_comparison
    from vpt.reports.tables import comparison_table, write_comparison

    settings = load_comparison(config, overrides or ())
    result = compare(settings, overwrite=overwrite, log=log, console=out)
    write_comparison(result, settings.run_dir)
    out.print(comparison_table(result))
    log(f"written to {settings.run_dir}/")


@app.command()
def detection_quickstart(
    config: Annotated[Path, typer.Argument(help="a comparison of tunings of a detector")] = Path(
        "configs/detection_quickstart.yaml"
    ),
    overrides: ComparisonOverrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the comparison in run_dir")
    ] = False,
    overwrite: OverwriteComparison = False,
) -> None:
    """Compare head alone, prompts and last blocks of a detector on composed pictures, offline."""
    from vpt.protocols.detector_comparison import compare_detectors, load_detector_comparison
    from vpt.reports.detection_tables import detection_table, write_detection

    mode = _open_mode(resume=resume, overwrite=overwrite)
    settings = load_detector_comparison(config, overrides or ())
    result = compare_detectors(settings, mode=mode, log=log)
    write_detection(result, settings.run_dir)
    out.print(detection_table(result))
    log(f"written to {settings.run_dir}/, test pictures to {settings.run_dir / 'pictures'}/")


@app.command()
def clip_eval(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG... [key=value]...", help="e.g. configs/clip_vpt_eurosat.yaml"
        ),
    ],
    prompt: Annotated[
        list[Path] | None,
        typer.Option(help="a prompt file to measure, instead of the config's; may be repeated"),
    ] = None,
    protocols: Annotated[
        str | None, typer.Option(help="instead of the config's: zero_shot,few_shot,base_to_new")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="train every run anew; else finished ones are kept")
    ] = False,
) -> None:
    """Evaluate a CLIP: zero-shot, prompt files, few-shot, base-to-new, beside free baselines."""
    from vpt.protocols.clip_eval import evaluate_clip, load_clip_eval, refuse_clashes
    from vpt.reports.clip_tables import (
        average_table,
        clip_tables,
        read_clip_evaluation,
        write_clip_evaluation,
    )

    paths = [Path(word) for word in configs if "=" not in word]
    overrides = [word for word in configs if "=" in word]
    if not paths:
        raise typer.BadParameter("name a config, e.g. configs/clip_vpt_eurosat.yaml")
    if prompt:
        overrides.append(f"prompt_files={json.dumps([str(path) for path in prompt])}")
    if protocols is not None:
        overrides.append(f"protocols=[{protocols}]")
    settings = [load_clip_eval(path, overrides) for path in paths]
    refuse_clashes(settings)
    earlier = [None if overwrite else read_clip_evaluation(s.run_dir) for s in settings]
    results = []
    for setting, before in zip(settings, earlier, strict=True):
        result = evaluate_clip(setting, overwrite=overwrite, log=log, console=out)
        results.append(result if before is None else result.joined_with(before))
        write_clip_evaluation(results[-1], setting.run_dir)
        for table in clip_tables(results[-1]):
            out.print(table)
        log(f"written to {setting.run_dir}/")
    if len(results) > 1:
        out.print(average_table(results))


@app.command()
def sweep(
    config: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG [key=value]...", help="e.g. configs/sweeps/digits.yaml"),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="in place of CONFIG: configs/<suite>/adamw.yaml")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes to start here")] = 1,
) -> None:
    """Choose each method's settings on validation, test them over seeds, and report.

    The same command elsewhere is one more worker, and after an interruption it goes on.
    """
    from vpt.protocols import sweep as sweeps
    from vpt.protocols.sweep_config import load_sweep
    from vpt.protocols.sweep_results import read_sweep

    words = config or []
    paths = [Path(word) for word in words if "=" not in word]
    if suite is not None:
        paths.append(Path("configs") / suite / "adamw.yaml")
    if len(paths) != 1:
        raise typer.BadParameter("give one config, e.g. configs/sweeps/digits.yaml, or --suite")
    settings = load_sweep(paths[0], [word for word in words if "=" in word])
    sweeps.sweep(settings, workers=workers, log=log)
    _report(read_sweep(settings), settings.run_dir)


@app.command()
def report(
    sweeps: Annotated[
        list[Path], typer.Argument(metavar="SWEEP...", help="run_dirs of sweeps, or their configs")
    ],
    output: Annotated[
        Path | None, typer.Option(help="folder of the files; default: the first sweep's run_dir")
    ] = None,
) -> None:
    """Print and write what sweeps have measured so far: tables, CSV, plots."""
    from vpt.protocols.sweep_results import find_sweep, read_sweep

    settings = [find_sweep(place) for place in sweeps]
    units = [unit for each in settings for unit in read_sweep(each)]
    _report(units, output or settings[0].run_dir)


def _report(units: Sequence[Any], folder: Path) -> None:
    from vpt.reports.sweep_report import sweep_tables, write_report

    for table in sweep_tables(units):
        out.print(table.rich())
    files = write_report(units, folder)
    log(f"written to {folder}/: {', '.join(file.name for file in files)}")


@app.command()
def show(
    prompt: PromptPath,
    weights: Annotated[
        Path | None,
        typer.Option(help="a local file; say whether it holds the weights of the backbone"),
    ] = None,
) -> None:
    """Print what a prompt file says about itself, as JSON."""
    from vpt.engine.prompt_file import read_prompt_header

    out.print(read_prompt_header(prompt).model_dump_json(indent=2))
    if weights is not None:
        from vpt.api import check_weights

        check_weights(prompt, weights)
        err.print(f"{weights} holds the weights of the backbone")


@app.command("list")
def list_names(
    kind: Annotated[Literal["backbones", "prompts", "heads"], typer.Argument()],
    pattern: Annotated[str, typer.Argument(help="e.g. '*dinov3*'")] = "*",
) -> None:
    """List the names of backbones, prompt methods or heads."""
    from fnmatch import fnmatch

    from vpt.api import list_prompts
    from vpt.backbones import list_backbones
    from vpt.errors import ConfigError
    from vpt.registry import DETECTION_HEADS, HEADS, nearest

    if kind == "backbones":
        known, found = list_backbones(), list_backbones(pattern)
    else:
        heads = [*HEADS.names(), *DETECTION_HEADS.names()]
        known = list_prompts() if kind == "prompts" else heads
        found = [name for name in known if fnmatch(name, pattern)]
    if not found:
        raise ConfigError(f"no name matches '{pattern}'{nearest(pattern, known)}")
    for name in found:
        log(name)


@app.command()
def schema(
    kind: Annotated[
        Literal["run", "detection", "clip-eval", "sweep"],
        typer.Argument(help="a run's config, a detector's, clip-eval's or a sweep's"),
    ] = "run",
) -> None:
    """Print the JSON Schema of a config, for editors."""
    from vpt.config import DetectionRunConfig, RunConfig, json_schema
    from vpt.protocols.clip_setup import ClipEvalConfig
    from vpt.protocols.sweep_config import SweepConfig

    configs: dict[str, Any] = {
        "run": RunConfig,
        "detection": DetectionRunConfig,
        "clip-eval": ClipEvalConfig,
        "sweep": SweepConfig,
    }
    log(json.dumps(json_schema(configs[kind]), indent=2))


@app.command(hidden=True)
def pretrain_bundled(
    config: Annotated[Path, typer.Argument(help="e.g. configs/pretrain/glyph_vit.yaml")],
    checkpoint: Annotated[Path, typer.Argument(help="file to go on from, if there is one")],
    overrides: Overrides = None,
) -> None:
    """Render images and train a bundled backbone; its fp16 weights end beside the checkpoint."""
    import torch

    from vpt.backbones.bundled import recipes
    from vpt.config import load_yaml
    from vpt.errors import ConfigError, RunError

    values = load_yaml(config, overrides or ())
    try:
        recipe = recipes.read(values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config}: {error}") from error
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.settings.threads)
    try:
        recipe.pretrain(recipe.settings, checkpoint=checkpoint, log=log)
    except FloatingPointError as error:
        raise RunError(f"{error}; the last checkpoint is as it was") from error
    weights = checkpoint.with_name(f"{recipe.model}.safetensors")
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    recipe.export(checkpoint, weights, settings=recipe.settings, date=date)
    log(f"written to {weights}")


app.add_typer(benchmark_commands)
data_app = typer.Typer(help="Get data, and look at them before training.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.callback()
def data_commands() -> None:
    """Get data, and look at them before training."""


@data_app.command("get")
def get_data(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="a descriptor: its name in datasets/, e.g. dtd_split1, or its path"
        ),
    ],
    to: Annotated[
        Path | None, typer.Option(help="the data set's folder; default: the descriptor's root")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=1,
            max=86_400,
            help="seconds that a server has for each part of an answer: connection, headers, every "
            "piece of the file",
        ),
    ] = 60.0,
) -> None:
    """Fetch a data set, verify and unpack it, and say what is there.

    What was interrupted goes on; what is complete is left alone.
    """
    from vpt import runs

    runs.get_dataset(dataset, to=to, timeout=timeout, log=log, console=err)


@data_app.command("check")
def check_data(
    dataset: Annotated[
        Path, typer.Argument(metavar="DESCRIPTOR", help="a YAML file, or a folder of images")
    ],
    root: Annotated[Path | None, typer.Option(help="where the images are")] = None,
    output: Annotated[
        Path | None, typer.Option(help="also write check.json and index.html to this folder")
    ] = None,
    image_size: Annotated[
        int, typer.Option(min=16, help="side of the square that a detector will see, in pixels")
    ] = 640,
    num_workers: Annotated[int, typer.Option(min=0, help="processes that decode images")] = 2,
) -> None:
    """List what is wrong with a data set, and show what is in it.

    The exit code is 1 if there are errors.
    """
    from vpt.reports import data_check, data_page
    from vpt.runs.outputs import make_folder

    if output is not None:
        make_folder(output)
    check = data_check.check_data(dataset, root=root, size=image_size, num_workers=num_workers)
    for line in data_check.finding_lines(check):
        log(line)
    out.print(data_check.summary_table(check))
    log(data_check.verdict(check))
    if output is not None:
        data_page.write_check(check, output)
        log(f"written to {output / 'index.html'} and {output / 'check.json'}")
    if not check.healthy:
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Say what is installed and whether the bundled model runs."""
    from vpt.reports.doctor import examine

    report = examine()
    for name, value in report.lines:
        log(f"{name:<16} {value}")
    if not report.healthy:
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, and exit.

    The code is 0, 1 (`doctor` or `data check` found a problem), 2 (a user's mistake), 75 (stopped
    by a signal, the run can go on) or 130 (interrupted).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    sys.exit(_run(words, wants_traceback))


def _run(words: Sequence[str], wants_traceback: bool) -> int:
    from vpt.errors import VptError

    try:
        with _joined(words) as joined:
            code = _answer(words, wants_traceback)
            if joined:
                # torchrun ends the last ones with a signal, which would take the code's place
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return code
    except VptError as error:  # the other processes are not there
        return _fail(str(error), EXIT_MISTAKE, wants_traceback)


def _joined(words: Sequence[str]) -> AbstractContextManager[bool]:
    """The processes that torchrun started, for the one command that they share; whether any."""
    if words[:1] != ["train"] or "WORLD_SIZE" not in os.environ:
        return nullcontext(False)
    from vpt.engine.distributed import joined

    return joined()


def _answer(words: Sequence[str], wants_traceback: bool) -> int:
    from vpt.engine.interrupt import Interrupted
    from vpt.errors import VptError

    for library in ("huggingface_hub", "timm"):  # their errors come as ours, in one line
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        code = app(words, prog_name="vpt", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except VptError as error:
        return _fail(str(error), EXIT_MISTAKE, wants_traceback)
    except ClickException as error:
        return _fail(_one_line(error), EXIT_MISTAKE, wants_traceback)
    except Interrupted as stop:
        return _fail(str(stop), EXIT_INTERRUPTED, wants_traceback)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130, wants_traceback)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(str(error), EXIT_MISTAKE, wants_traceback)


def _one_line(error: Any) -> str:
    return " ".join(error.format_message().split())


def _fail(message: str, code: int, wants_traceback: bool) -> int:
    if wants_traceback:
        traceback.print_exc()
    if _is_new(message):
        complain(message)
    return code


def _is_new(message: str) -> bool:
    """Whether no other process of this run has told the user so."""
    if "WORLD_SIZE" not in os.environ:
        return True
    from vpt.engine.distributed import first_to_say

    return first_to_say(message)


if __name__ == "__main__":
    main()
