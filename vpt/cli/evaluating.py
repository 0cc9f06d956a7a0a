"""The command that measures a prompt file, or results, on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vpt.cli.named import data_path, prompt_path, refuse_missing
from vpt.cli.terminal import Device, Weights, err, log, reassure, refuse_options

commands = typer.Typer()


@commands.command()
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
    from vpt.engine.progress import LeftOut, said_if_slow
    from vpt.engine.run_dir import write_json_atomic
    from vpt.runs import outputs

    prompt = prompt if prompt.suffix.lower() == ".json" else prompt_path(prompt)
    data = data_path(data)
    if prompt.suffix.lower() != ".json":  # results, for which no option of models is taken
        refuse_missing(weights)
    outputs.prepare_outputs(
        {"the metrics": output, "the results": results}, [prompt, data, weights]
    )
    with said_if_slow("loading torch ...", reassure):
        from vpt import runs
        from vpt.engine.prompt_file import read_prompt_header
    left_out = LeftOut(log)
    if prompt.suffix.lower() == ".json":
        of_models = ("device", "batch_size", "num_workers", "weights", "names", "results")
        refuse_options(context, of_models, f"{prompt} holds results, no model")
        boxes = runs.rescore(
            prompt,
            data,
            root=root,
            split=split,
            coco_eval=coco_eval,
            on_bad_image=on_bad_image,
            log=left_out,
        )
        metrics, details, breakdown = _of_boxes(boxes)
    elif read_prompt_header(prompt).task == "detection":
        refuse_options(context, ("names",), f"{prompt} holds a detector")
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
            log=left_out,
            console=err,
        )
        metrics, details, breakdown = _of_boxes(boxes)
    else:
        refuse_options(context, ("results", "coco_eval"), f"{prompt} holds no detector")
        metrics, evaluator, measured = runs.measure_prompt(
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
            log=left_out,
            console=err,
        )
        breakdown = runs.breakdown_of(evaluator, measured)
        details = runs.details_of(evaluator, breakdown)
    for name, value in metrics.items():
        if not name.startswith("AP/"):
            log(f"{name} {value:.4f}")
    for line in runs.breakdown_lines(
        breakdown.values, breakdown.counts, breakdown.confused, measure=breakdown.measure
    ):
        log(line)
    if output is not None:
        what = {"prompt": str(prompt), "data": str(data), "split": split}
        values = {**what, "left_out": left_out.lines, "metrics": metrics, **details}
        write_json_atomic(output, values)
    for path in (output, results):
        if path is not None:
            log(f"written to {path}")


def _of_boxes(evaluator: Any) -> tuple[dict[str, float], dict[str, Any], Any]:
    """The metrics with 'AP/<class>' of each class that has boxes, a file's details, a breakdown."""
    from vpt.runs import breakdown_of_boxes

    details = evaluator.details()
    classes = details["AP_per_class"].items()
    metrics = {
        **evaluator.compute(),
        **{f"AP/{name}": value for name, value in classes if value is not None},
    }
    return metrics, details, breakdown_of_boxes(evaluator)
