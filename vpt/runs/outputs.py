"""Files that commands write about images: opened, written row by row, never over what they read."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from vpt.console import SafeStream
from vpt.engine.interrupt import sigterm_as_ctrl_c
from vpt.errors import DataError, RunError
from vpt.storage.atomic_file import atomic_stream

if TYPE_CHECKING:
    from vpt.runs.predicting import Prediction

RowFormat = Literal["csv", "jsonl"]

CLASS_COLUMNS = ("image", "class", "probability", "error")


def prepare_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path | None]) -> None:
    """Make the folders of outputs, before any work is done for them.

    Refused are writing over what is read, and two outputs in one file.

    Args:
        outputs: by what they hold; None: not wanted.
        inputs: files that are read.

    Raises:
        DataError: naming the file; also where its folder cannot be made.
    """
    read = {path.resolve() for path in inputs if path is not None}
    written: dict[Path, str] = {}
    for what, path in outputs.items():
        if path is None:
            continue
        place = path.resolve()
        if place in read:
            raise DataError(f"{path} is read here and is not replaced; name another file")
        if place in written:
            raise DataError(f"{path} cannot hold both {written[place]} and {what}")
        written[place] = what
        if path.is_dir():
            raise DataError(f"{path} is a folder; name a file for {what}")
        make_folder(path.parent)


def make_folder(path: Path) -> None:
    """A folder to write into, and those above it.

    Raises:
        DataError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder {path} cannot be made: {error.strerror}") from error


@contextmanager
def opened(output: Path | None) -> Iterator[TextIO | SafeStream]:
    """The file, or stdout; names of images go through byte by byte, whatever they are.

    The file has its name only when all of it is written: an error, a signal or a full disk leaves
    what was there before. On a terminal, what it would obey is escaped.

    Raises:
        RunError: the disk is full, forbidden or broken.
    """
    if output is None:
        with _naming_stdout():
            yield SafeStream(sys.stdout) if sys.stdout.isatty() else sys.stdout
            sys.stdout.flush()
        return
    place = output.resolve() if output.is_symlink() else output
    with sigterm_as_ctrl_c(), atomic_stream(place) as raw:
        stream = io.TextIOWrapper(raw, "utf-8", "surrogateescape", newline="")
        yield stream
        stream.flush()
        stream.detach()


@contextmanager
def _naming_stdout() -> Iterator[None]:
    """Say that it is stdout that cannot be written, and let the process end without saying more."""
    try:
        yield
    except BrokenPipeError:  # the reader has had enough
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RunError(f"standard output cannot be written: {error.strerror}") from error


def write_classes(
    predictions: Iterable[Prediction],
    stream: TextIO | SafeStream,
    output_format: RowFormat,
    *,
    top_k: int = 1,
) -> Iterator[Prediction]:
    """Write each prediction as it comes, a row or an object per image, and hand it on.

    Of a multi-label model csv has a row per class found, and one without a class for an image in
    which none was; jsonl has them under 'classes'.

    Args:
        predictions: in the order of the rows.
        stream: that is written to.
        output_format: 'csv' or 'jsonl'.
        top_k: csv: the classes of each row, best first, in columns class, probability, class_2,
            probability_2, and so on.
    """
    table = csv.writer(stream, lineterminator="\n")
    if output_format == "csv":
        table.writerow(_columns(top_k))
    for each in predictions:
        if output_format == "csv":
            table.writerows(_rows(each, top_k))
        else:
            values = {key: value for key, value in asdict(each).items() if value is not None}
            first = {"image": values.pop("image"), "class": values.pop("label", None)}
            if each.labels is not None:
                first = {"image": each.image, "classes": values.pop("labels")}
            stream.write(json.dumps({**first, **values}, allow_nan=False) + "\n")
        yield each


def _columns(top_k: int) -> list[str]:
    image, *best, error = CLASS_COLUMNS
    others = [f"{column}_{place}" for place in range(2, top_k + 1) for column in best]
    return [image, *best, *others, error]


def _rows(prediction: Prediction, top_k: int) -> Iterator[list[str]]:
    """The rows of one image: one, or of a multi-label model one for each class that was found."""
    image, error = prediction.image, prediction.error or ""
    if prediction.labels:
        for label, probability in prediction.labels.items():
            yield [image, label, f"{probability:.6f}", error]
        return
    # Of a multi-label model that found none likely enough, none is written.
    ranked = [] if prediction.labels is not None else list(prediction.top.items())[:top_k]
    best = [cell for label, share in ranked for cell in (label, f"{share:.6f}")]
    yield [image, *best, *[""] * (2 * top_k - len(best)), error]
