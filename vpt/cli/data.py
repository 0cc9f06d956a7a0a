"""The commands of `vpt data`: get data, and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vpt.cli.terminal import err, log, out

commands = typer.Typer(help="Get data, and look at them before training.", no_args_is_help=True)


@commands.callback()
def data_commands() -> None:
    """Get data, and look at them before training."""


@commands.command("get")
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


@commands.command("check")
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
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="what data.value_range of the training will be"),
    ] = None,
) -> None:
    """List what is wrong with a data set, and show what is in it.

    The exit code is 1 if there are errors.
    """
    from vpt.data import layout_lines
    from vpt.reports import data_check, data_page
    from vpt.runs.outputs import make_folder

    if output is not None:
        make_folder(output)
    check = data_check.check_data(
        dataset, root=root, size=image_size, num_workers=num_workers, value_range=value_range
    )
    for line in [*layout_lines(check.descriptor), *data_check.finding_lines(check)]:
        log(line)
    out.print(data_check.summary_table(check))
    log(data_check.verdict(check))
    if output is not None:
        data_page.write_check(check, output)
        log(f"written to {output / 'index.html'} and {output / 'check.json'}")
    if not check.healthy:
        raise typer.Exit(1)


@commands.command("convert")
def convert_data(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="a descriptor, or a folder of any format"),
    ],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="a new or empty folder")],
    to: Annotated[
        Literal["coco", "yolo", "voc", "folder", "csv"],
        typer.Option(help="boxes: coco, yolo or voc; classes of images: folder or csv"),
    ],
    link: Annotated[
        bool, typer.Option("--link/--copy", help="link to the image files, or copy them")
    ] = False,
    annotations_only: Annotated[
        bool, typer.Option("--annotations-only", help="leave the images where they are")
    ] = False,
    root: Annotated[Path | None, typer.Option(help="where the images are")] = None,
    on_bad_image: Annotated[
        Literal["error", "skip"], typer.Option(help="stop at errors in the data, or leave them out")
    ] = "error",
) -> None:
    """Write a data set in another format; its splits, classes and boxes stay what they are."""
    from vpt.data.converting import convert
    from vpt.engine.interrupt import sigterm_as_ctrl_c
    from vpt.engine.progress import images_progress

    with sigterm_as_ctrl_c():  # what is half written is removed
        done = convert(
            source,
            folder,
            to,
            root=root,
            images="none" if annotations_only else "link" if link else "copy",
            skip_bad=on_bad_image == "skip",
            log=log,
            progress=lambda total: images_progress(total, err),
        )
    counts = ", ".join(f"{name} {count:,}" for name, count in done.images.items())
    log(f"written to {done.folder} ({counts} images); look at it: vpt data check {done.read_as}")
