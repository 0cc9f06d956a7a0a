"""A data set of any format, written anew in another one."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from vpt.config import dump
from vpt.data.boxes.detection import DetectionSplit, report_lines
from vpt.data.descriptor import Cut, Descriptor, SplitSources
from vpt.data.layouts import load_descriptor
from vpt.data.readers.parts import find_root
from vpt.data.reading import read_splits
from vpt.data.reading_boxes import read_detection
from vpt.data.recognising import layout_lines
from vpt.data.splits import SPLIT_NAMES, AnySplit, Sample, Split, SplitName, SplitsOf
from vpt.data.writers.classes import write_csv
from vpt.data.writers.coco import write_coco
from vpt.data.writers.images import (
    Images,
    class_folders,
    new_names,
    place_file,
    place_sample,
    suffix_of,
)
from vpt.data.writers.voc import write_voc
from vpt.data.writers.yolo import write_yolo
from vpt.errors import DataError

Target = Literal["coco", "yolo", "voc", "folder", "csv"]
"""What can be written: boxes as coco, yolo or voc, classes of whole images as folder or csv."""

Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Of a number of images: what is called with how many more are done."""

Log = Callable[[str], None]

DESCRIPTOR = "dataset.yaml"
"""The descriptor that is written where the folder alone does not say all."""

_OF_BOXES: tuple[Target, ...] = ("coco", "yolo", "voc")


@contextmanager
def _no_progress(total: int) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        folder: of the new data set.
        images: how many in each split.
        read_as: the path by which it is read: the folder, or the descriptor in it.
    """

    folder: Path
    images: dict[SplitName, int]
    read_as: Path


def convert(
    source: Path,
    folder: Path,
    to: Target,
    *,
    root: Path | None = None,
    images: Images = "copy",
    skip_bad: bool = False,
    log: Log = lambda line: None,
    progress: Progress = _no_progress,
) -> Conversion:
    """Write a data set anew; the splits, classes and boxes stay what they are.

    Either all is written or nothing: it takes place in a hidden folder beside `folder`, which gets
    the name when it is complete. Validation images that a recognised folder would hold out of its
    training images stay among them.

    Args:
        source: a descriptor, or a folder whose layout is recognised.
        folder: new, or empty.
        to: the format to write.
        root: where the images are; the descriptor's own if None.
        images: see `Images`.
        skip_bad: leave out images, boxes and entries with errors, instead of stopping at them.
        log: takes what a user should know, line by line.
        progress: is shown while images are written.

    Raises:
        DataError: the data cannot be read, the format cannot hold them, or `folder` is not empty.
    """
    given = load_descriptor(source)
    descriptor = _without_own_cuts(given)
    for line in layout_lines(descriptor):
        log(line)
    if descriptor.holds_boxes != (to in _OF_BOXES):
        fitting = "coco, yolo or voc" if descriptor.holds_boxes else "folder or csv"
        what = "boxes" if descriptor.holds_boxes else "classes of whole images"
        raise DataError(f"'{descriptor.name}' holds {what}, which {to} cannot say; use {fitting}")
    base = Path() if descriptor.format == "sklearn_digits" else find_root(descriptor, root)
    _check_place(folder, source, base if descriptor.format != "sklearn_digits" else None)
    for left in sorted(folder.parent.glob(f".{escape(folder.name)}.*.tmp")):
        log(f"'{left}' is what a killed conversion left; remove it if none is running")
    job = _Job(descriptor, base, folder, to, images, log, progress, _own_cuts(given))
    if descriptor.holds_boxes:
        problems: Literal["skip", "raise"] = "skip" if skip_bad else "raise"
        found = read_detection(descriptor, root, problems=problems)
        for line in report_lines(found.findings):
            log(line)
        return job.write_boxes(_present(found))
    return job.write_classes(_present(read_splits(descriptor, root)))


def _present(splits: SplitsOf[AnySplit]) -> dict[SplitName, AnySplit]:
    return {name: split for name in SPLIT_NAMES if (split := splits.get(name)) is not None}


def _own_cuts(descriptor: Descriptor) -> dict[SplitName, Cut]:
    """The splits that a recognised folder holds out of its training images."""
    if descriptor.seen is None:
        return {}
    return {s: v for s in SPLIT_NAMES if isinstance(v := getattr(descriptor.splits, s), Cut)}


def _without_own_cuts(descriptor: Descriptor) -> Descriptor:
    """A recognised folder without the validation images that would be held out of its own."""
    if descriptor.seen is None:
        return descriptor
    given = {s: v for s in SPLIT_NAMES if isinstance(v := getattr(descriptor.splits, s), str)}
    seen = descriptor.seen.split("; ")[0]
    rest = descriptor.model_copy(update={"splits": SplitSources(**given)})
    return rest.recognised_by(seen)


def _check_place(folder: Path, source: Path, root: Path | None) -> None:
    """Refuse to write into what is there, or into the data set itself."""
    if folder.is_symlink():
        raise DataError(f"'{folder}' is a link; name a new folder, or the one that it leads to")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"'{folder}' is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"'{folder}' is not empty; name a new or empty folder")
    place = folder.resolve()
    inside = [each for each in (root, source) if each is not None and each.is_dir()]
    if any(place.is_relative_to(each.resolve()) for each in inside):
        raise DataError(
            f"'{folder}' lies in the data set that is read, which would hold its images twice; "
            "name a folder elsewhere"
        )


@dataclass(frozen=True)
class _Job:
    """One conversion: what is read, and where and how it is written."""

    descriptor: Descriptor
    root: Path
    folder: Path
    to: Target
    images: Images
    log: Log
    progress: Progress
    own_cuts: Mapping[SplitName, Cut]

    # Boxes

    def write_boxes(self, splits: Mapping[SplitName, DetectionSplit]) -> Conversion:
        names = self._names_of_images(splits)
        with _complete_or_nothing(self.folder) as place:
            if self.images != "none":
                self._place_files(place, splits, names)
            if self.to == "coco":
                notes = write_coco(place, splits, names)
            elif self.to == "voc":
                notes = write_voc(place, splits, names)
            else:
                lists = self.root.resolve() if self.images == "none" else None
                notes = write_yolo(place, splits, names, lists=lists)
            read_as = self.folder
            if self.images == "none":
                read_as = self._write_descriptor(place, self._fields_of_boxes(splits))
        for note in [*notes, *self._lost_areas(splits)]:
            self.log(note)
        return Conversion(self.folder, {n: len(s) for n, s in splits.items()}, read_as)

    def _lost_areas(self, splits: Mapping[SplitName, DetectionSplit]) -> list[str]:
        """A line on areas of outlines, by which AP of small and of large objects is measured."""
        if self.to == "coco":
            return []
        count = 0
        for sample in (each for split in splits.values() for each in split.samples):
            sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
            count += int((np.abs(sample.areas - sides.prod(axis=1)) > 1).sum())
        return [f"areas of outlines that are lost, those of boxes remain: {count}"] if count else []

    def _names_of_images(
        self, splits: Mapping[SplitName, DetectionSplit]
    ) -> dict[SplitName, list[str]]:
        """New names; of images that stay where they are their paths from the root."""
        if self.images == "none":
            names = {
                name: [Path(os.path.relpath(s.source, self.root)).as_posix() for s in split.samples]
                for name, split in splits.items()
            }
            self._refuse_equal_stems(names)
            return names
        if self.to != "voc":  # there all images are in one folder
            return {n: new_names([s.key for s in split.samples]) for n, split in splits.items()}
        every = new_names([s.key for split in splits.values() for s in split.samples])
        rest = iter(every)
        return {name: [next(rest) for _ in split.samples] for name, split in splits.items()}

    def _refuse_equal_stems(self, names: Mapping[SplitName, Sequence[str]]) -> None:
        """Two images whose label file would be one."""
        seen: dict[str, str] = {}
        every = [] if self.to == "coco" else [each for part in names.values() for each in part]
        for name in every:
            stem = PurePosixPath(name).with_suffix("").as_posix()
            if seen.setdefault(stem, name) != name:
                raise DataError(
                    f"'{seen[stem]}' and '{name}' would share one label file; write the images "
                    "too, then they get names of their own (--copy or --link)"
                )
            if name.startswith("../"):
                raise DataError(f"'{name}' is outside of '{self.root}'; use --copy or --link")

    def _place_files(
        self,
        place: Path,
        splits: Mapping[SplitName, DetectionSplit],
        names: Mapping[SplitName, Sequence[str]],
    ) -> None:
        renamed = 0
        with self.progress(sum(map(len, splits.values()))) as advance:
            for name, split in splits.items():
                below = place / ("JPEGImages" if self.to == "voc" else f"images/{name}")
                below.mkdir(parents=True, exist_ok=True)
                for sample, file_name in zip(split.samples, names[name], strict=True):
                    place_file(sample.source, below / file_name, self.images)
                    renamed += file_name != sample.source.name
                    advance(1)
        self._tell_renamed(renamed)

    def _tell_renamed(self, count: int) -> None:
        if count:
            self.log(f"images that got a name of their own, as theirs is another's too: {count}")

    def _fields_of_boxes(self, splits: Mapping[SplitName, DetectionSplit]) -> dict[str, Any]:
        """A descriptor of annotations whose images stayed where they are."""
        where = str(self.root.resolve())
        if self.to == "coco":
            sources = {name: f"annotations/{name}.json" for name in splits}
            return {"format": "coco", "splits": sources, "images": where}
        if self.to == "voc":
            sources = {name: f"ImageSets/Main/{name}.txt" for name in splits}
            fields = {"format": "voc", "splits": sources, "images": where}
            return {**fields, "labels": "Annotations", "file": "classes.txt"}
        sources = {name: f"{name}.txt" for name in splits}
        fields = {"format": "yolo", "file": "data.yaml", "splits": sources, "images": where}
        return {**fields, "labels": "labels"}

    # Classes

    def write_classes(self, splits: Mapping[SplitName, Split]) -> Conversion:
        several = any(split.multi_label for split in splits.values())
        if several and self.to == "folder":
            raise DataError(
                f"images of '{self.descriptor.name}' may be of several classes, which folders "
                "cannot say; use csv"
            )
        files = all(
            isinstance(sample.source, Path) for split in splits.values() for sample in split.samples
        )
        if not files and self.images != "copy":
            raise DataError(f"the images of '{self.descriptor.name}' are no files; use --copy")
        if self.to == "folder" and self.images == "none":
            raise DataError("in folders the images are the annotations; use --copy or --link")
        with _complete_or_nothing(self.folder) as place:
            fields = (
                self._write_folders(place, splits)
                if self.to == "folder"
                else (self._write_tables(place, splits))
            )
            needed = self.to == "csv" or fields["classes"] != sorted(fields["classes"])
            needed |= "test" in self.own_cuts  # a folder with train/ alone has no test cut out
            read_as = self._write_descriptor(place, fields) if needed else self.folder
        return Conversion(self.folder, {n: len(s) for n, s in splits.items()}, read_as)

    def _write_folders(self, place: Path, splits: Mapping[SplitName, Split]) -> dict[str, Any]:
        classes = next(iter(splits.values())).class_names
        folders = class_folders(classes)
        for name, folder in zip(classes, folders, strict=True):
            if name != folder:
                self.log(f"class '{name}' is called '{folder}', which can be a folder's name")
        renamed = 0
        with self.progress(sum(map(len, splits.values()))) as advance:
            for name, split in splits.items():
                for label, folder in enumerate(folders):
                    samples = [sample for sample in split.samples if sample.label == label]
                    (place / name / folder).mkdir(parents=True)
                    names = self._names_of_samples(split, samples)
                    for sample, file_name in zip(samples, names, strict=True):
                        target = place / name / folder / file_name
                        place_sample(split, sample, target, self.images)
                        renamed += _is_renamed(sample, file_name)
                        advance(1)
        self._tell_renamed(renamed)
        return {"format": "folder", "classes": folders}

    def _write_tables(self, place: Path, splits: Mapping[SplitName, Split]) -> dict[str, Any]:
        paths: dict[SplitName, list[str]] = {}
        renamed = 0
        with self.progress(sum(map(len, splits.values()))) as advance:
            for name, split in splits.items():
                if self.images == "none":
                    paths[name] = [str(Path(s.source).resolve()) for s in split.samples]  # type: ignore[arg-type] # all are files
                    continue
                names = self._names_of_samples(split, split.samples)
                paths[name] = [f"images/{name}/{each}" for each in names]
                for sample, file_name in zip(split.samples, names, strict=True):
                    target = place / "images" / name / file_name
                    place_sample(split, sample, target, self.images)
                    renamed += _is_renamed(sample, file_name)
                    advance(1)
        self._tell_renamed(renamed)
        return write_csv(place, splits, paths)

    def _names_of_samples(self, split: Split, samples: Sequence[Sample]) -> list[str]:
        keys = [
            sample.key
            if isinstance(sample.source, Path)
            else f"{sample.key.replace('/', '_')}{suffix_of(split, sample)}"
            for sample in samples
        ]
        return new_names(keys)

    # Both

    def _write_descriptor(self, place: Path, fields: dict[str, Any]) -> Path:
        """A descriptor that holds out of the training images what the folder that was read does."""
        if self.own_cuts:
            fields = {**fields, "splits": {**fields.get("splits", {}), **self.own_cuts}}
        kept = {key: getattr(self.descriptor, key) for key in ("licence", "source")}
        values = {"name": self.descriptor.name, "root": self.folder, **fields, **kept}
        text = dump(Descriptor.model_validate(values), defaults=False)
        (place / DESCRIPTOR).write_text(text, encoding="utf-8")
        return self.folder / DESCRIPTOR


def _is_renamed(sample: Sample, file_name: str) -> bool:
    return isinstance(sample.source, Path) and sample.source.name != file_name


@contextmanager
def _complete_or_nothing(folder: Path) -> Iterator[Path]:
    """A hidden folder to write into, which becomes `folder` at the end, or is removed."""
    hidden = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        hidden.mkdir()
        yield hidden
        hidden.replace(folder)
    except OSError as error:
        raise DataError(f"'{folder}' cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
