"""Descriptors: what a data set is, where it comes from and how it is laid out, as one YAML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from vpt.config import Schema
from vpt.data.boxes.box_units import BoxUnits
from vpt.data.near_paths import Variant
from vpt.data.published import PublishedFile

Format = Literal[
    "folder",
    "csv",
    "hf_images",
    "image_list",
    "parquet",
    "path_list",
    "cub",
    "nabirds",
    "flowers102",
    "stanford_dogs",
    "stanford_cars",
    "fgvc_aircraft",
    "oxford_pets",
    "cifar100",
    "svhn",
    "sklearn_digits",
    "split_zhou",
    "imagenet",
    "coco",
    "voc",
    "yolo",
    "hf_objects",
]

BOX_FORMATS: tuple[Format, ...] = ("coco", "voc", "yolo", "hf_objects")
"""Formats of images with boxes; all others have classes of whole images."""


class Cut(Schema):
    """A part cut out of another: stratified by class, the same images for the same seed.

    By name: test is cut out of train first, val out of the rest. By content, which keeps copies
    together and does not change when files are renamed or others are added: both are fractions of
    all, see `vpt.data.content_split`.
    """

    fraction: float = Field(gt=0, lt=1, description="share of each class that is cut out")
    seed: int = Field(default=0, ge=0, lt=2**63, description="which images are cut out")
    by: Literal["name", "content"] = Field(
        default="name", description="what decides, with the seed, which images are cut out"
    )


AUTOMATIC_CUT = Cut(fraction=0.2, by="content")
"""What is cut out of a folder without a validation split; of one without splits also for tests."""


class SplitSources(Schema):
    """Where each split is found.

    folder: a sub-folder of class folders, "." for the root itself. hf_images: a sub-folder with
    metadata.csv or metadata.jsonl. csv, image_list, path_list: a file, or with
    `columns.split` a value in that column. coco: a JSON file. voc, yolo: a folder of images, or a
    text file that lists them. hf_objects: a metadata.jsonl. parquet: a file, a folder of files, or
    a pattern such as data/train-*.parquet. val and test may be a `Cut`: test is cut out of train
    first, val out of the rest. What is not named is taken from its usual place (train/, val/,
    test/; train.csv, ...; train.txt, ...; data/train-*.parquet, ...; annotations/train.json, ...)
    if there is one. The other formats say it themselves and take only cuts.
    """

    train: str | None = None
    val: str | Cut | None = None
    test: str | Cut | None = None

    @property
    def by_content(self) -> dict[Literal["val", "test"], Cut]:
        """The cuts that are made by what images hold."""
        cuts: dict[Literal["val", "test"], str | Cut | None] = {"val": self.val, "test": self.test}
        return {
            name: cut for name, cut in cuts.items() if isinstance(cut, Cut) and cut.by == "content"
        }

    @model_validator(mode="after")
    def _check_cuts(self) -> SplitSources:
        val, test = self.val, self.test
        if isinstance(val, Cut) and isinstance(test, Cut) and "content" in (val.by, test.by):
            if (val.by, val.seed) != (test.by, test.seed):
                raise ValueError("val and test have to be cut by the same, and with the same seed")
            if val.fraction + test.fraction >= 1:
                raise ValueError("the fractions of val and test leave no image for training")
        return self


class ImageFolders(Schema):
    """The folder of each split's images or labels, relative to root; None: root itself."""

    train: str | None = None
    val: str | None = None
    test: str | None = None


class Columns(Schema):
    """The header names of a CSV file, or the columns of parquet files.

    With `labels` or `classes` the data are multi-label: an image may be of several classes, or of
    none.
    """

    path: str = "path"
    image: str = Field(default="image", description="parquet: column with the images themselves")
    label: str = "label"
    labels: str | None = Field(
        default=None,
        description="column with all classes of an image: csv, between separators; parquet, a list",
    )
    separator: str | None = Field(
        default=None, min_length=1, description="csv: what stands between two of the `labels`"
    )
    classes: list[str] | Literal["remaining"] | None = Field(
        default=None,
        min_length=1,
        description="a column of 0 and 1 for each class, in label order; remaining: all columns "
        "but those of path and split",
    )
    split: str | None = Field(default=None, description="column with each image's split")

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes."""
        return self.labels is not None or self.classes is not None

    @model_validator(mode="after")
    def _check_labels(self) -> Columns:
        given = [name for name in ("label", "labels", "classes") if name in self.model_fields_set]
        given = [name for name in given if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each say what the labels are; give one")
        if isinstance(self.classes, list) and len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"column '{twice}' is listed twice in classes")
        return self


class Counts(Schema):
    """How many images a split must hold; what is None is not checked."""

    train: int | None = Field(default=None, ge=1, le=10**9)
    val: int | None = Field(default=None, ge=1, le=10**9)
    test: int | None = Field(default=None, ge=1, le=10**9)
    train_and_val: int | None = Field(
        default=None, ge=1, le=10**9, description="before val is cut out"
    )


class TextNames(Schema):
    """How sentences speak of the classes, for models that compare images with texts."""

    class_names: list[str] | dict[str, str] | None = Field(
        default=None,
        description="names in label order, or {class: name} for some; the others are the classes "
        "with spaces for underscores",
    )
    templates: list[str] | None = Field(
        default=None, min_length=1, description="sentences with {} or {c} for the class name"
    )

    @field_validator("templates")
    @classmethod
    def _check_templates(cls, templates: list[str] | None) -> list[str] | None:
        for template in templates or ():
            fields = re.findall(r"\{([^{}]*)\}", template)
            if not fields or not {"", "c"}.issuperset(fields):
                raise ValueError(
                    f"template '{template}' needs {{}} or {{c}} for the class, and no other field"
                )
        return templates


class Descriptor(Schema):
    """A data set.

    Attributes:
        name: as papers write it.
        format: the reader of `vpt.data.readers` that understands its layout.
        root: its folder, relative to the working directory; a run may name another.
        splits: see `SplitSources`.
        file: the one file that lists all splits, relative to root (csv, split_zhou); YOLO's
            data.yaml (yolo), or a text file with a class name in each line (yolo, voc).
        images: folder of the images, relative to root; None: root itself (split_zhou, imagenet,
            path_list, coco); for coco also one for each split; for voc and yolo of the images
            whose names a list holds.
        labels: folder of the label files, relative to root, or one for each split (voc, yolo);
            None: 'labels' in the place of 'images', or beside the images.
        difficult: what becomes of objects that are marked as difficult (voc): a crowd is no
            target, and what is found there is no mistake.
        suffix: what the lists leave out of file names, e.g. '.jpg' (path_list).
        columns: header names of CSV or parquet files; they say whether the data are multi-label.
        classes: class names in label order; None takes them from the data, sorted.
        text: the classes and whole sentences in words.
        counts: images per split, checked when the data are read.
        missing_classes: whether a class may have no image to learn from.
        name_variants: in what listed names may differ from the files' (see `Variant`); each is
            given to the one file that it can mean. Empty: in nothing (coco, and lists of images).
        box_units: what the numbers of a bbox are; None: COCO's [x, y, width, height] in pixels, and
            files that look otherwise are refused (coco, hf_objects).
        dropped_boxes: whether more than 5 % of the boxes of a split may be unusable.
        match_categories: whether the categories of val and test are those of train by their ids, or
            by their names (coco).
        metric: what the data set is usually judged by; of coco always ap, of multi-label data mAP.
        licence: under which terms the images may be used.
        source: where it was published.
        checksum: 'algorithm:hex' of the arrays of sklearn_digits; files have theirs in `files`.
        files: what `vpt data get` fetches and unpacks into root.
        how_to_get: one line: what to download, from where, and where to put it.
    """

    name: str
    format: Format
    root: Path | None = None
    splits: SplitSources = SplitSources()
    file: str | None = None
    images: str | ImageFolders | None = None
    labels: str | ImageFolders | None = None
    difficult: Literal["crowd", "leave_out", "object"] = "crowd"
    suffix: str = ""
    columns: Columns = Columns()
    classes: list[str] | None = None
    text: TextNames = TextNames()
    counts: Counts = Counts()
    missing_classes: Literal["error", "allow"] = "error"
    name_variants: list[Variant] = Field(default_factory=list)
    box_units: BoxUnits | None = None
    dropped_boxes: Literal["error", "allow"] = "error"
    match_categories: Literal["id", "name"] = "id"
    metric: Literal["top1", "mean_class_accuracy", "mAP", "ap"] = "top1"
    licence: str | None = None
    source: str | None = None
    checksum: str | None = Field(default=None, pattern=r"^[a-z0-9]+:[0-9a-f]+$")
    files: list[PublishedFile] = Field(default_factory=list)
    how_to_get: str | None = None

    _seen: str | None = PrivateAttr(default=None)

    @property
    def seen(self) -> str | None:
        """What a folder without a descriptor was recognised by; None: this one was written."""
        return self._seen

    def recognised_by(self, seen: str) -> Self:
        """The same descriptor, of a folder that was recognised by what was seen in it."""
        same = self.model_copy()
        same._seen = seen
        return same

    @model_validator(mode="before")
    @classmethod
    def _judge_boxes_by_ap(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("format") in BOX_FORMATS:
            return {"metric": "ap", **values}
        return values

    @model_validator(mode="before")
    @classmethod
    def _judge_label_sets_by_map(cls, values: Any) -> Any:
        columns = values.get("columns") if isinstance(values, dict) else None
        several = isinstance(columns, Columns) and columns.multi_label
        if isinstance(columns, dict):
            several = any(columns.get(name) is not None for name in ("labels", "classes"))
        return {"metric": "mAP", **values} if several else values

    @model_validator(mode="after")
    def _check_classes(self) -> Descriptor:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"class '{twice}' is listed twice")
        return self

    @model_validator(mode="after")
    def _check_files(self) -> Descriptor:
        names = [file.file_name for file in self.files]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"files: '{twice}' is listed twice; give one another 'name'")
        return self

    @model_validator(mode="after")
    def _check_format_fields(self) -> Descriptor:
        for field, formats in _FIELDS_OF.items():
            given = getattr(self, field) != type(self).model_fields[field].get_default(
                call_default_factory=True
            )
            if given and self.format not in formats:
                belongs = " or ".join(filter(None, (", ".join(formats[:-1]), formats[-1])))
                raise ValueError(f"'{field}' is for format {belongs}, not for {self.format}")
        if isinstance(self.images, ImageFolders) and self.format != "coco":
            raise ValueError(f"'images' of {self.format} is one folder, not one for each split")
        if (self.metric == "ap") != self.holds_boxes:
            raise ValueError(
                f"metric '{self.metric}' is not what format {self.format} is judged by"
            )
        if (self.metric == "mAP") != self.multi_label:
            kind = "multi-label data are" if self.multi_label else "data of one class per image are"
            raise ValueError(f"metric '{self.metric}' is not what {kind} judged by")
        if self.columns.classes is not None and self.classes is not None:
            raise ValueError("columns.classes names the classes already; remove 'classes'")
        if self.format == "split_zhou" and self.file is None:
            raise ValueError("split_zhou needs 'file', the JSON file that lists all splits")
        if self.format == "csv" and self.columns.split is not None and self.file is None:
            raise ValueError("columns.split needs 'file', the CSV file that holds all splits")
        return self

    @model_validator(mode="after")
    def _check_columns(self) -> Descriptor:
        columns = self.columns
        foreign = {
            "csv": ("image",),
            "hf_images": ("image", "separator", "classes"),
            "parquet": ("path", "separator", "classes", "split"),
        }
        names = foreign.get(self.format, ())
        if given := [name for name in names if name in columns.model_fields_set]:
            raise ValueError(f"columns.{given[0]} has no meaning for format {self.format}")
        if self.format == "csv" and (columns.labels is None) != (columns.separator is None):
            raise ValueError(
                "columns.labels and columns.separator belong together: the column with all classes "
                "of an image, and what stands between two of them, e.g. '|'"
            )
        return self

    @property
    def holds_boxes(self) -> bool:
        """Whether its images have boxes, and no class of their own."""
        return self.format in BOX_FORMATS

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return self.columns.multi_label

    @model_validator(mode="after")
    def _check_sources(self) -> Descriptor:
        if self.format in _NAMED_SPLITS:
            return self
        for split in ("train", "val", "test"):
            if isinstance(getattr(self.splits, split), str):
                raise ValueError(
                    f"splits.{split}: {self.format} has its own places for its splits; only a cut "
                    "{fraction, seed} can be given"
                )
        return self


_FIELDS_OF: dict[str, tuple[Format, ...]] = {
    "file": ("csv", "hf_images", "split_zhou", "voc", "yolo"),
    "columns": ("csv", "hf_images", "parquet"),
    "images": ("split_zhou", "imagenet", "path_list", "coco", "voc", "yolo"),
    "labels": ("voc", "yolo"),
    "difficult": ("voc",),
    "suffix": ("path_list",),
    "name_variants": (*BOX_FORMATS, "csv", "hf_images", "image_list", "path_list"),
    "box_units": ("coco", "hf_objects", "yolo"),
    "dropped_boxes": BOX_FORMATS,
    "match_categories": ("coco",),
}
_NAMED_SPLITS: tuple[Format, ...] = (
    "folder",
    "csv",
    "hf_images",
    "image_list",
    "path_list",
    "parquet",
    *BOX_FORMATS,
)
