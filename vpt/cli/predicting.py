"""The command that names the classes of images, or finds boxes in them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from vpt.cli.named import prompt_path, refuse_missing
from vpt.cli.terminal import (
    Device,
    PromptPath,
    Weights,
    err,
    log,
    note,
    reassure,
    refuse_options,
)

commands = typer.Typer()


@commands.command()
def predict(
    context: typer.Context,
    prompt: PromptPath,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES", help="files, folders, globs, or - for paths on stdin"),
    ],
    output: Annotated[Path | None, typer.Option(help="file to write; default: stdout")] = None,
    output_format: Annotated[Literal["csv", "jsonl"], typer.Option("--format")] = "csv",
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1, help="most likely classes of an image to write; default: csv 1, jsonl 5"
        ),
    ] = None,
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
    draw: Annotated[
        Literal["best", "all"],
        typer.Option(help="of --pictures: the best box of each object over all classes, or all"),
    ] = "best",
    captions: Annotated[
        Literal["fit", "all", "none"],
        typer.Option(help="of --pictures: those that hide nothing, all, or none"),
    ] = "fit",
) -> None:
    """Name the class or classes of images, or find boxes in them."""
    from vpt.engine.progress import images_progress, loading_line, said_if_slow
    from vpt.errors import PromptFileError
    from vpt.runs import outputs

    prompt = prompt_path(prompt)
    paths = list(find_images(images))
    refuse_missing(weights)
    outputs.prepare_outputs({"the rows": output}, [prompt, weights, *paths])
    with said_if_slow("loading torch ...", reassure):
        from vpt import runs
        from vpt.api import load_prompt
        from vpt.data import depth_warning_of_files
        from vpt.engine.device import choose_device
        from vpt.engine.prompt_file import read_prompt_header
    header = read_prompt_header(prompt)
    if warning := depth_warning_of_files(paths, header.preprocess.value_range):
        note(f"warning: {warning}")
    line = loading_line(header.backbone.name, weights, pretrained=header.backbone.pretrained)
    if header.task == "detection":
        of_classes = ("top_k", "probabilities", "classes")
        refuse_options(context, of_classes, f"{prompt} holds a detector")
        if pictures is None:
            refuse_options(context, ("draw", "captions"), "no --pictures are drawn")
        unreadable = runs.write_predictions(
            prompt,
            paths,
            output=output,
            output_format=output_format,
            coco=coco,
            pictures=pictures,
            draw=draw,
            captions=captions,
            min_score=0.3 if min_score is None else min_score,
            batch_size=batch_size or 8,
            device=device,
            weights=weights,
            console=None if output is None else err,
        )
        for path in (output, coco, pictures):
            if path is not None and output is not None:  # else rows are on stdout
                log(f"written to {path}")
        _refuse_unreadable(unreadable, len(paths))
        return
    of_boxes = ("coco", "pictures", "draw", "captions")
    refuse_options(context, of_boxes, f"{prompt} holds no detector")
    if not header.multi_label:
        reason = f"{prompt} holds neither a detector nor several labels per image"
        refuse_options(context, ("min_score",), reason)
    elif output_format == "csv":
        reason = f"{prompt} holds several labels per image, each a row of csv (see --min-score)"
        refuse_options(context, ("top_k",), reason)
    where = choose_device(device)
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    if names is not None and not all(names):
        raise typer.BadParameter("--classes: a name is empty; write e.g. --classes 'a cat,a dog'")
    with said_if_slow(line, reassure):
        model = load_prompt(prompt, weights=weights, class_names=names).to(where)
    if model.head is None:
        raise PromptFileError(f"{prompt} holds no head: nothing to predict")
    model.check_probabilities(probabilities)
    unreadable = 0
    most = min(top_k or (1 if output_format == "csv" else 5), model.head.num_classes)
    bar = images_progress(len(paths), None if output is None else err)
    with runs.opened(output) as stream, bar as advance:
        rows = runs.predict_images(
            model,
            paths,
            device=where,
            batch_size=batch_size or 32,
            top_k=most,
            probabilities=probabilities,
            min_score=0.5 if min_score is None else min_score,
        )
        for row in runs.write_classes(rows, stream, output_format, top_k=most):
            advance(1)
            unreadable += row.error is not None
    _refuse_unreadable(unreadable, len(paths))


def _refuse_unreadable(unreadable: int, images: int) -> None:
    from vpt.errors import DataError

    if unreadable:
        raise DataError(f"{unreadable} of {images} images could not be read; their rows say why")


def find_images(arguments: Sequence[str]) -> Iterator[Path]:
    """The image files that arguments name, in order; a line says how many others are left out.

    Of folders and patterns the images, by the same rule as in training; files as they are.
    """
    from vpt.data.image_files import FoundFiles, images_named, left_out_line
    from vpt.errors import DataError

    left_out: Counter[str] = Counter()
    for argument in arguments:
        if argument == "-":
            lines = (line.rstrip("\r\n") for line in sys.stdin)
            found = FoundFiles(tuple(Path(line) for line in lines if line.strip()), {})
        else:
            found = images_named(argument)
        left_out.update(found.left_out)
        if not found.images:
            others = left_out_line(found.left_out)
            raise DataError(f"no image found by '{argument}'" + (f" ({others})" if others else ""))
        yield from found.images
    if line := left_out_line(left_out):
        note(line)
