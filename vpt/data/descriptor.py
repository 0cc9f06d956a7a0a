"""Descriptors: what a data set is, where it comes from and how it is laid out, as one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from vpt.config import Schema, load_yaml, validate
from vpt.errors import DataError

Format = Literal["folder", "csv", "image_list", "cub", "sklearn_digits"]


class Cut(Schema):
    """A part cut out of another: stratified by class, the same images for the same seed."""

    fraction: float = Field(gt=0, lt=1, description="share of each class that is cut out")
    seed: int = Field(default=0, ge=0, description="which images are cut out")


class SplitSources(Schema):
    """Where each split is found.

    folder: a sub-folder of class folders. csv, image_list: a file, or with `columns.split` a value
    in that column. val and test may be a `Cut`: test is cut out of train first, val out of the
    rest. What is not named is taken from its usual place (train/, val/, test/; train.csv, ...;
    train.txt, ...) if there is one. cub, sklearn_digits: only cuts.
    """

    train: str | None = None
    val: str | Cut | None = None
    test: str | Cut | None = None


class Columns(Schema):
    """The header names of a CSV file."""

    path: str = "path"
    label: str = "label"
    split: str | None = Field(default=None, description="column with each image's split")


class Counts(Schema):
    """How many images a split must hold; what is None is not checked."""

    train: int | None = Field(default=None, ge=1)
    val: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=1)
    train_and_val: int | None = Field(default=None, ge=1, description="before val is cut out")


class Descriptor(Schema):
    """A data set.

    Attributes:
        name: as papers write it.
        format: which reader of `vpt.data.formats` understands its layout.
        root: its folder, relative to the working directory; a run may name another.
        splits: see `SplitSources`.
        file: the one CSV file that holds all splits, relative to root (csv only).
        columns: header names of CSV files.
        classes: class names in label order; None takes them from the data, sorted.
        counts: images per split, checked when the data are read.
        metric: what the data set is usually judged by.
        licence: under which terms the images may be used.
        source: where it was published.
        checksum: 'algorithm:hex' of what is downloaded; of the arrays for sklearn_digits, where it
            is checked.
        how_to_get: one line: what to download, from where, and where to put it.
    """

    name: str
    format: Format
    root: Path | None = None
    splits: SplitSources = SplitSources()
    file: str | None = None
    columns: Columns = Columns()
    classes: list[str] | None = None
    counts: Counts = Counts()
    metric: Literal["top1", "mean_class_accuracy"] = "top1"
    licence: str | None = None
    source: str | None = None
    checksum: str | None = Field(default=None, pattern=r"^[a-z0-9]+:[0-9a-f]+$")
    how_to_get: str | None = None

    @model_validator(mode="after")
    def _check_classes(self) -> Descriptor:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"class '{twice}' is listed twice")
        return self

    @model_validator(mode="after")
    def _check_format_fields(self) -> Descriptor:
        if self.format != "csv" and (self.file is not None or self.columns != Columns()):
            raise ValueError(f"'file' and 'columns' belong to format csv, not {self.format}")
        if self.columns.split is not None and self.file is None:
            raise ValueError("columns.split needs 'file', the CSV file that holds all splits")
        return self


def load_descriptor(path: Path) -> Descriptor:
    """The descriptor in a YAML file; for a folder, one that reads its train/, val/ and test/.

    Raises:
        DataError: there is no such file or folder.
        ConfigError: the file is no descriptor.
    """
    if path.is_dir():
        return Descriptor(name=path.resolve().name, format="folder", root=path)
    if not path.exists():
        raise DataError(
            f"no data set at '{path}'; give a descriptor (YAML) or a folder with train/, val/ and "
            "test/ that hold one folder of images per class"
        )
    return validate(Descriptor, load_yaml(path), source=str(path))
