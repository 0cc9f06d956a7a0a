"""Measure what prompts as context save against inserting tokens; about a minute on two cores."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vpt.errors import VptError
from vpt.reports.benchmark import benchmark_context, context_table


def main(
    model: Annotated[
        str, typer.Option(help="backbone, with random weights")
    ] = "timm/vit_base_patch16_224",
    image_size: Annotated[
        int | None, typer.Option(help="pixels; the model's own by default")
    ] = None,
    num_tokens: Annotated[int, typer.Option(help="prompt tokens at each layer")] = 100,
    batch_size: Annotated[int, typer.Option(help="images per step")] = 8,
    pairs: Annotated[int, typer.Option(help="turns to measure")] = 3,
    threads: Annotated[int, typer.Option(help="of torch")] = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="also write the result here")
    ] = None,
) -> None:
    """Time a training step and inference with prompts as context, inserted, and without prompts."""
    try:
        result = benchmark_context(
            model,
            image_size=image_size,
            num_tokens=num_tokens,
            batch_size=batch_size,
            pairs=pairs,
            threads=threads,
        )
    except VptError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    Console().print(context_table(result))
    if json_file is not None:
        json_file.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
